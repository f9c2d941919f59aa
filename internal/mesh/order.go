package mesh

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/instant"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
)

// RefusedError is why an order of an operator cannot be carried out, and what can be done instead.
type RefusedError struct{ Why, Hint string }

func (e *RefusedError) Error() string { return e.Why }

func refuse(hint, format string, args ...any) error {
	return &RefusedError{fmt.Sprintf(format, args...), hint}
}

// Orders give the state to publish, under a new lease but for Pause, or refuse. They are carried out like what Decide
// wants published: on condition that the state is the one that was read.

// Stage stages a release, and takes the place of one that is staged already: a proposal for that one is withdrawn. signed is
// the first end of a signature in its zones, 0 for none. It is current at once where there are no members, or atOnce is set and
// nothing was released yet.
func (h *Host) Stage(now instant.Instant, number uint64, signed instant.Wall, atOnce bool) (State, error) {
	s := h.state
	if err := h.mayChange("release again after that"); err != nil {
		return s, err
	}
	if number <= s.Highest {
		return s, refuse("", "release %d: numbers up to %d were used", number, s.Highest)
	}
	answered := len(s.Members)+len(s.Leaving) > 0
	if atOnce && s.Current.Number != 0 && answered {
		return s, refuse("leave --now out; the switchover is set with: meshctl schedule",
			"members answer from release %d, and would not move to another together", s.Current.Number)
	}
	s = s.withdrawn()
	s.Next = Switchover{Ref: status.Ref{Number: number}, Signed: signed}
	if atOnce || !answered {
		at := now.Wall / instant.Wall(time.Microsecond) * instant.Wall(time.Microsecond)
		s.Current, s.Next = Release{status.Ref{Number: number, At: at}, signed}, Switchover{}
	}
	return s.Granted(now.Wall, h.policy.Lease), h.trusted(now)
}

// mayChange refuses what must not change while a switchover is committed and not yet on record.
func (h *Host) mayChange(hint string) error {
	if next := h.state.Next; next.Committed {
		return refuse(hint, "the switchover to release %d at %v is committed", next.Number, next.At)
	}
	return nil
}

// trusted is an error if this host must publish nothing.
func (h *Host) trusted(now instant.Instant) error {
	if why := h.forbids(now); why != nil {
		return refuse("", "%s", why)
	}
	return nil
}

// Cancel withdraws the switchover that is proposed. One that is committed is not taken back.
func (h *Host) Cancel(now instant.Instant, why string) (State, error) {
	s := h.state
	if s.Next.At == 0 {
		return s, refuse("", "no switchover is set")
	}
	if err := h.mayChange("undo it with another release: meshctl release"); err != nil {
		return s, err
	}
	s = s.withdrawn()
	s.Paused = cmp.Or(why, "the switchover was cancelled")
	return s.Granted(now.Wall, h.policy.Lease), h.trusted(now)
}

// Pause has no switchover proposed by itself until Resume; why is for people.
func (h *Host) Pause(now instant.Instant, why string) State {
	s := h.state
	s.Paused = cmp.Or(why, "an operator paused switchovers")
	return s.stamped(now.Wall)
}

// Resume ends a pause.
func (h *Host) Resume(now instant.Instant) State {
	s := h.state
	s.Paused = ""
	return s.stamped(now.Wall)
}

// Add adds a member. A proposal is withdrawn, since those who would decide about it are others then.
func (h *Host) Add(now instant.Instant, member string) (State, error) {
	s := h.state
	if slices.Contains(s.Members, member) {
		return s, refuse("", "%s is a member already", member)
	}
	if err := h.mayChange("add it after that"); err != nil {
		return s, err
	}
	s = s.withdrawn()
	s.Members = slices.Sorted(slices.Values(append(slices.Clone(s.Members), member)))
	s.Leaving = slices.DeleteFunc(slices.Clone(s.Leaving), func(l Leaving) bool { return l.Member == member })
	return s.Granted(now.Wall, h.policy.Lease), h.trusted(now)
}

// Strike removes a member. Switchovers wait until it says that it knows, or is away for as long as a member may be, or its
// lease has ended.
func (h *Host) Strike(now instant.Instant, member string) (State, error) {
	s := h.state
	if !slices.Contains(s.Members, member) {
		return s, refuse("", "no member is called %s; there are: %s", member, strings.Join(s.Members, " "))
	}
	if err := h.mayChange("remove it after that"); err != nil {
		return s, err
	}
	since := now.Wall
	if i := slices.IndexFunc(s.Away, func(a Away) bool { return a.Member == member }); i >= 0 {
		since = s.Away[i].Since
	}
	gone := Leaving{Member: member, Lease: s.Version + 1, Since: since, Lapses: s.LapsedBy(status.Ref{})}
	s = s.withdrawn()
	s.Members = slices.DeleteFunc(slices.Clone(s.Members), func(m string) bool { return m == member })
	s.Away = slices.DeleteFunc(slices.Clone(s.Away), func(a Away) bool { return a.Member == member })
	s.Leaving = append(slices.Clone(s.Leaving), gone)
	slices.SortFunc(s.Leaving, func(a, b Leaving) int { return strings.Compare(a.Member, b.Member) })
	return s.Granted(now.Wall, h.policy.Lease), h.trusted(now)
}

// Renew gives a lease of length d, 0 for the usual one. Only an operator who says how long may shorten one.
func (h *Host) Renew(now instant.Instant, d time.Duration) (State, error) {
	if d == 0 {
		d = h.policy.Lease
	}
	return h.state.Granted(now.Wall, d), h.trusted(now)
}
