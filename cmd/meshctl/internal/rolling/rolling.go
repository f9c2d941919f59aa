// Package rolling takes members of a mesh out of service one after the other, has each changed, and goes on when that one is back
// as it was: an upgrade that clients do not notice. It stops at the first member that does not come back, and drains none when too few
// others would remain in service (FAIL-4). What it needs of the world is in Mesh; cmd/meshctl calls it.
package rolling

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/release"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
)

// Mesh is what a roll sees and does.
type Mesh struct {
	// Remaining names the members that remain in service by their own word, and the release that all answer from.
	Remaining func(context.Context) (names []string, current uint64, err error)
	// Look returns what the sidecar of a member says of itself, and of the DNS server beside it.
	Look func(context.Context, release.Member) (status.Sidecar, error)
	// Drain gives the order, and returns how long routes stay after it.
	Drain   func(context.Context, release.Member) (time.Duration, error)
	Undrain func(context.Context, release.Member) error
	Change  func(context.Context, release.Member) error // nil: somebody else changes the member
	Say     func(format string, args ...any)
}

// Order is what is to be done to each member.
type Order struct {
	Leave    bool          // it is left drained: the order is no more than a drain
	Another  bool          // it is to come back with both programs of another version
	Remain   int           // how many other members must remain in service
	Withdraw time.Duration // how long its routes may take to go once they are to
	Return   time.Duration // how long it may take to come back, by hand or after Change has ended
	Every    time.Duration // how often it is looked at meanwhile
}

// StoppedError is why a roll has stopped, and what is left.
type StoppedError struct {
	Err     error
	Member  string   // at which it has stopped
	Drained bool     // that one is still drained
	Left    []string // that one, and those of which the turn has not come
}

func (e *StoppedError) Error() string {
	if e.Drained {
		return fmt.Sprintf("%s: %v; it stays drained", e.Member, e.Err)
	}
	return fmt.Sprintf("%s: %v", e.Member, e.Err)
}

// Unwrap returns why.
func (e *StoppedError) Unwrap() error { return e.Err }

// undrainWithin is how long a drain may take to be taken back after the roll was interrupted.
const undrainWithin = 20 * time.Second

// Roll does what is ordered to members, one after the other. An error is a StoppedError. When ctx ends, a member that nothing has
// been done to yet is brought back.
func Roll(ctx context.Context, m Mesh, o Order, members []release.Member) error {
	for i, member := range members {
		r := &one{Mesh: m, order: o, member: member}
		if err := r.roll(ctx); err != nil {
			stopped := &StoppedError{Err: err, Member: member.Name, Drained: r.drained}
			for _, left := range members[i:] {
				stopped.Left = append(stopped.Left, left.Name)
			}
			return stopped
		}
	}
	return nil
}

// one is one member's turn.
type one struct {
	Mesh
	order   Order
	member  release.Member
	before  status.Sidecar // it, as it was
	counted bool           // it remained in service
	drained bool
	warned  bool // that it is the last one
}

func (r *one) roll(ctx context.Context) error {
	if err := r.goes(ctx); err != nil || r.order.Leave {
		return err
	}
	if r.Change == nil {
		r.Say("%s: out of service; change it now, this waits until it is back", r.member.Name)
	} else if err := r.Change(ctx, r.member); err != nil {
		return fmt.Errorf("the command failed: %w", err)
	}
	if err := r.await(ctx, r.order.Return, "it did not come back", r.notBack); err != nil {
		return err
	}
	if err := r.Undrain(ctx, r.member); err != nil {
		return fmt.Errorf("it is back, and could not be brought into service: %w", err)
	}
	r.drained = false
	if err := r.await(ctx, r.order.Return, "it is in service and not as it was", r.notAsBefore); err != nil {
		return err
	}
	r.Say("%s: in service again", r.member.Name)
	return nil
}

// goes takes the member out of service; whatever goes wrong before that is done takes the drain back.
func (r *one) goes(ctx context.Context) error {
	var err error
	if r.before, err = r.Look(ctx, r.member); err != nil {
		return fmt.Errorf("it cannot be asked how it is: %w", err)
	}
	if r.before.Drain != nil && r.order.Leave {
		r.Say("%s: drained already, %s", r.member.Name, r.before.Drain)
		return nil
	}
	if r.before.Drain != nil {
		return fmt.Errorf("it is drained already, %s", r.before.Drain)
	}
	if r.counted, err = r.enough(ctx); err != nil {
		return err
	}
	r.drained = true // an order of which the answer is lost was perhaps taken
	left, err := r.Drain(ctx, r.member)
	if err == nil {
		err = r.await(ctx, left+r.order.Withdraw, "its routes did not go", r.notGone)
	}
	if err == nil {
		r.Say("%s: drained, routes withdrawn", r.member.Name)
		_, err = r.enough(ctx) // others may have failed since
	}
	if err == nil {
		return nil
	}
	back, cancel := context.WithTimeout(context.WithoutCancel(ctx), undrainWithin)
	defer cancel()
	if fault := r.Undrain(back, r.member); fault != nil {
		return fmt.Errorf("%w; and the drain could not be taken back: %w", err, fault)
	}
	r.drained = false
	return fmt.Errorf("%w; it is brought back into service", err)
}

// enough reports whether the member itself counts as in service; that too few others do is an error.
func (r *one) enough(ctx context.Context) (itself bool, err error) {
	names, _, err := r.Remaining(ctx)
	if err != nil {
		return false, err
	}
	others := []string{}
	for _, name := range names {
		if name == r.member.Name {
			itself = true
		} else {
			others = append(others, name)
		}
	}
	const alone = "no other member remains in service"
	if len(others) >= r.order.Remain {
		if len(others) == 0 && !r.warned {
			r.Say("%s: warning: %s: nobody answers on the shared address once its routes are gone", r.member.Name, alone)
			r.warned = true
		}
		return itself, nil
	}
	said := alone
	if len(others) > 0 {
		said = "only " + strings.Join(others, ", ") + " would remain in service"
	}
	return itself, fmt.Errorf("%s, and there must be %d (--remain)", said, r.order.Remain)
}

// await waits until unmet says nothing more.
func (r *one) await(ctx context.Context, within time.Duration, failed string, unmet func(context.Context) string) error {
	late := time.Now().Add(within)
	said := ""
	for {
		why := unmet(ctx)
		switch {
		case ctx.Err() != nil:
			return errors.New("interrupted")
		case why == "":
			return nil
		case time.Now().After(late):
			return fmt.Errorf("%s within %v: %s", failed, within, why)
		}
		if why != said {
			r.Say("%s: %s", r.member.Name, why)
			said = why
		}
		select {
		case <-ctx.Done():
		case <-time.After(r.order.Every):
		}
	}
}

// notGone says what is missing until the member is out of service.
func (r *one) notGone(ctx context.Context) string {
	switch now, err := r.Look(ctx, r.member); {
	case err != nil:
		return "it does not answer: " + err.Error()
	case now.Drain == nil:
		return "it does not say that it is drained"
	case now.Wanted || now.Announced || now.Fault != "":
		return "waiting until its routes are gone"
	}
	return ""
}

// notBack says what is missing until the member may be brought back into service.
func (r *one) notBack(ctx context.Context) string {
	now, err := r.Look(ctx, r.member)
	if err != nil {
		return "its sidecar does not answer: " + err.Error()
	}
	if now.Meshsync == nil {
		return "its DNS server does not say how it is"
	}
	_, current, err := r.Remaining(ctx)
	still := func(program, version string) string { return fmt.Sprintf("its %s is still %q", program, version) }
	switch was := r.before; {
	case err != nil:
		return err.Error()
	case r.order.Another && now.Software == was.Software:
		return still("sidecar", was.Software)
	case r.order.Another && was.Meshsync != nil && now.Meshsync.Software == was.Meshsync.Software:
		return still("DNS server", was.Meshsync.Software)
	case now.Meshsync.Serving == 0 && len(now.Meshsync.Silent) > 0:
		return "it is silent: " + now.Meshsync.Silent[0].String()
	case now.Meshsync.Serving < current:
		return fmt.Sprintf("it answers from release %d, others from %d", now.Meshsync.Serving, current)
	}
	return ""
}

// notAsBefore says what is missing until the member does for the mesh what it did before.
func (r *one) notAsBefore(ctx context.Context) string {
	now, err := r.Look(ctx, r.member)
	switch {
	case err != nil:
		return "its sidecar does not answer: " + err.Error()
	case now.Drain != nil:
		return "it is drained, " + now.Drain.String()
	case r.before.Announced && !now.Announced && len(now.Why) > 0:
		return "it is not announced: " + now.Why[0].String()
	case r.before.Announced && !now.Announced:
		return "it is not announced"
	}
	if !r.counted {
		return ""
	}
	names, _, err := r.Remaining(ctx)
	if err != nil {
		return err.Error()
	}
	for _, name := range names {
		if name == r.member.Name {
			return ""
		}
	}
	return "it does not count as in service yet"
}
