package host

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/instant"
	"github.com/coredns-anycast/coredns-anycast/internal/mesh"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
)

// Schedule sets the switchover to the staged release and sees it through (SYNC-E), in steps that each may be the last:
// a distribution host that dies in between silences nobody. Only Set and Review publish, and hold the lock for it.
type Schedule struct {
	Home  string
	Clock Clock
	Ask   Ask

	Mode  mesh.Mode
	Lead  time.Duration // from setting to switchover in mode confirmed
	At    time.Time     // the instant asked for; zero: as soon as it is safe
	Force bool          // set it whatever speaks against it
	Wait  time.Duration // how long members may take to have the release ready
}

// Set is a switchover that was published.
type Set struct {
	Number  uint64
	At      time.Time
	Against []mesh.Missing // what spoke against it, when it was forced
	Chosen  time.Time      // when it was published; zero if it was in force already
}

// askEvery is the pause between two rounds of questions.
const askEvery = 250 * time.Millisecond

// AgainstError says that a switchover was not set, and what speaks against it.
type AgainstError struct {
	Number  uint64
	Against []mesh.Missing
}

func (e *AgainstError) Error() string {
	lines := []string{fmt.Sprintf("the switchover to release %d was not set:", e.Number)}
	for _, m := range e.Against {
		lines = append(lines, "  "+m.String())
	}
	return strings.Join(lines, "\n")
}

// explain says of members that gave no answer why not.
func (e *AgainstError) explain(answers map[string]Answer) {
	for i, m := range e.Against {
		if err := answers[m.Member].Err; err != nil {
			e.Against[i].Why.Detail = err.Error()
		}
	}
}

// Set waits until nothing speaks against a switchover, chooses its instant and publishes it.
func (s Schedule) Set(ctx context.Context) (Set, error) {
	if err := s.settle(); err != nil {
		return Set{}, err
	}
	for end := s.Clock().Add(s.Wait); ; {
		view, err := Read(s.Home)
		if err != nil {
			return Set{}, err
		}
		answers := s.Ask(ctx, view.Manifest.Members)
		set, err := s.try(answers)
		var against *AgainstError
		if !errors.As(err, &against) {
			return set, err
		}
		against.explain(answers)
		if !s.Clock().Before(end) {
			return set, against
		}
		if err := pause(ctx, askEvery); err != nil {
			return Set{}, fmt.Errorf("%w\n%w", err, against)
		}
	}
}

func (s Schedule) settle() error {
	return Write(s.Home, s.Clock, func(h *Host) error {
		if _, err := h.Settle(); err != nil {
			return err
		}
		if h.view.Manifest.Next == nil {
			return hint("make one with: meshctl release ZONEFILE...", "no release is staged")
		}
		return nil
	})
}

// try chooses and publishes the instant, if nothing speaks against it or it is forced. One that is in force already, set
// by a command that was killed since or runs beside this one, may be kept: then there is nothing to publish.
func (s Schedule) try(answers map[string]Answer) (set Set, err error) {
	err = Write(s.Home, s.Clock, func(h *Host) (err error) {
		set, err = s.choose(h, answers)
		return err
	})
	return set, err
}

func (s Schedule) choose(h *Host, answers map[string]Answer) (Set, error) {
	next := h.view.Manifest.Next
	if next == nil {
		return Set{}, fmt.Errorf("the staged release was taken back meanwhile")
	}
	plan := s.plan(h, said(answers))
	plan.Apart = apartOf(answers)
	at, against := plan.Choose(instant.WallOf(s.Clock()))
	inForce := at == instant.WallOf(next.Switchover)
	if len(against) > 0 && (!s.Force || inForce) {
		return Set{}, &AgainstError{next.Number, against}
	}
	if inForce {
		return Set{Number: next.Number, At: next.Switchover}, nil
	}
	event := "scheduled"
	if len(against) > 0 {
		event = "scheduled by force"
	}
	set := Set{Number: next.Number, At: roundUp(at), Against: against}
	err := h.setSwitchover(s.before(plan, at), set.At, Event{Event: event, Detail: detail(against)})
	set.Chosen = s.Clock().UTC()
	return set, err
}

// before is by when an instant must be published: while the one that is set can still be moved, and unless it is forced, while
// members have time to hear of it. Zero: at any time.
func (s Schedule) before(plan mesh.Plan, at instant.Wall) time.Time {
	switch {
	case s.Force && plan.Set == 0:
		return time.Time{}
	case plan.Set == 0 || !s.Force && at < plan.Set:
		return plan.TooLate(at).Time()
	}
	return plan.TooLate(plan.Set).Time()
}

func (s Schedule) plan(h *Host, confirmations map[string]status.Confirmation) mesh.Plan {
	m := h.view.Manifest
	p := mesh.Plan{
		Mode:    s.Mode,
		Number:  m.Next.Number,
		Mesh:    m.Mesh,
		Said:    confirmations,
		Promise: instant.WallOf(h.state.LatestWithout(m.Next.Number, time.Time{})),
		Epsilon: m.Epsilon(),
		Lead:    s.Lead,
		Asked:   instant.WallOf(s.At),

		Set:        instant.WallOf(m.Next.Switchover),
		PromiseSet: instant.WallOf(h.state.LatestWithout(m.Next.Number, m.Next.Switchover)),
	}
	p.Members = names(m.Members)
	return p
}

func apartOf(answers map[string]Answer) map[string]time.Duration {
	apart := map[string]time.Duration{}
	for name, a := range answers {
		apart[name] = a.Apart
	}
	return apart
}

// roundUp is w in whole microseconds, as a manifest says it, and never earlier.
func roundUp(w instant.Wall) time.Time {
	t := w.Time()
	if whole := t.Truncate(time.Microsecond); !whole.Equal(t) {
		return whole.Add(time.Microsecond)
	}
	return t
}

// setSwitchover publishes the instant of the next release, before end if that is not zero.
func (h *Host) setSwitchover(end, at time.Time, event Event) error {
	m := h.view.Manifest
	next := *m.Next
	next.Switchover = at
	m.Next = &next
	event.Number, event.Switchover = next.Number, at
	return h.publishBefore(end, m, event)
}

// Cancelled is what became of a switchover that was to be taken back.
type Cancelled struct {
	Set     Set            // the switchover
	Stands  bool           // it was put back into force
	Holding []mesh.Missing // who may still switch at its instant
}

// Cancel takes back the switchover that is set, while that can be heard of: every member must say in time that it does
// not hold it any more. If one does not, the switchover is put back into force, so that all make it, unless it is forced.
func (s Schedule) Cancel(ctx context.Context) (Cancelled, error) {
	set, err := s.takeBack()
	if err != nil {
		return Cancelled{}, err
	}
	plan := mesh.Plan{Lead: s.Lead, Number: set.Number, Set: instant.WallOf(set.At)}
	patience := s.Clock().Add(s.Wait)
	for {
		view, err := Read(s.Home)
		if err != nil {
			return Cancelled{}, err
		}
		plan.Epsilon, plan.Members = view.Manifest.Epsilon(), names(view.Manifest.Members)
		last := plan.TooLate(plan.Set).Add(-plan.Grace()).Time()
		if patience.Before(last) {
			last = patience
		}
		plan.Said = said(s.askWithin(ctx, max(last.Sub(s.Clock()), 0)+plan.Grace(), view.Manifest.Members))
		holding := plan.Holding()
		if len(holding) == 0 || s.Force && !s.Clock().Before(last) {
			return Cancelled{Set: set, Holding: holding}, nil
		}
		if !s.Clock().Before(last) {
			return Cancelled{set, true, holding}, s.reinstate(set, plan.TooLate(plan.Set).Time(), holding)
		}
		if err := pause(ctx, min(askEvery, last.Sub(s.Clock()))); err != nil {
			return Cancelled{}, errors.Join(err, s.reinstate(set, plan.TooLate(plan.Set).Time(), holding))
		}
	}
}

func names(members []release.Member) (all []string) {
	for _, m := range members {
		all = append(all, m.Name)
	}
	return all
}

// takeBack publishes that no switchover is set.
func (s Schedule) takeBack() (set Set, err error) {
	err = Write(s.Home, s.Clock, func(h *Host) (err error) {
		set, err = s.takeBackOnce(h)
		return err
	})
	return set, err
}

func (s Schedule) takeBackOnce(h *Host) (Set, error) {
	next := h.view.Manifest.Next
	if next == nil || next.Switchover.IsZero() {
		return Set{}, fmt.Errorf("no switchover is set")
	}
	set := Set{Number: next.Number, At: next.Switchover}
	plan := s.plan(h, nil)
	if !plan.Cancel(instant.WallOf(s.Clock())) {
		return set, hint("undo it with another release: meshctl release, then meshctl schedule",
			"the switchover to release %d at %s cannot be taken back any more: members may not hear of it in time", set.Number, set.At.Format(time.RFC3339Nano))
	}
	return set, h.setSwitchover(plan.TooLate(plan.Set).Time(), time.Time{}, Event{Event: "cancelled"})
}

// reinstate puts a switchover back into force, before end.
func (s Schedule) reinstate(set Set, end time.Time, holding []mesh.Missing) error {
	err := Write(s.Home, s.Clock, func(h *Host) error {
		if next := h.view.Manifest.Next; next == nil || next.Number != set.Number || !next.Switchover.IsZero() {
			return fmt.Errorf("the schedule was changed by another command meanwhile")
		}
		return h.setSwitchover(end, set.At, Event{Event: "not cancelled", Detail: detail(holding)})
	})
	if errors.Is(err, errTooLate) {
		return fmt.Errorf("%w: the switchover stays taken back, and who holds it may make it all the same: %s", err, detail(holding))
	}
	return err
}

// Reviewed is what became of a switchover that was set.
type Reviewed struct {
	Set     Set            // the one in force now
	Stands  bool           // it is the one that was set
	Missing []mesh.Missing // who has not confirmed it
}

// Review collects the members' word for the switchover and, if one lacks at half the lead, postpones it. A word that was
// given holds, whether or not it can be heard again. Mode lease needs nobody's word, so that Review asks once and is done.
func (s Schedule) Review(ctx context.Context, set Set) (Reviewed, error) {
	confirmations := map[string]status.Confirmation{}
	for {
		view, err := Read(s.Home)
		if err != nil {
			return Reviewed{}, err
		}
		plan := mesh.Plan{Lead: s.Lead, Epsilon: view.Manifest.Epsilon()}
		deadline := plan.Deadline(instant.WallOf(set.At)).Time()
		left := max(deadline.Sub(s.Clock()), 0)
		set.hear(confirmations, said(s.askWithin(ctx, left+plan.Grace(), view.Manifest.Members)))
		last := s.Mode == mesh.Lease || !s.Clock().Before(deadline)
		r, err := s.judge(set, confirmations, last)
		if err != nil || last || len(r.Missing) == 0 {
			return r, err
		}
		if err := pause(ctx, min(askEvery, deadline.Sub(s.Clock()))); err != nil {
			return r, err
		}
	}
}

// askWithin asks for no longer than d: members that hang must not hold up a postponement until it is too late for it.
func (s Schedule) askWithin(ctx context.Context, d time.Duration, members []release.Member) map[string]Answer {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	return s.Ask(ctx, members)
}

// hear takes in what members said, unless they have confirmed the switchover before.
func (set Set) hear(confirmations, said map[string]status.Confirmation) {
	want := status.Ref{Number: set.Number, At: instant.WallOf(set.At)}
	for name, c := range said {
		if held := confirmations[name].Confirms.Scheduled; held == nil || *held != want {
			confirmations[name] = c
		}
	}
}

// judge reviews the switchover, and publishes a postponed one if it is time to. One that was put on record has passed,
// and stands.
func (s Schedule) judge(set Set, confirmations map[string]status.Confirmation, last bool) (r Reviewed, err error) {
	err = Write(s.Home, s.Clock, func(h *Host) (err error) {
		r, err = s.judgeOnce(h, set, confirmations, last)
		return err
	})
	return r, err
}

func (s Schedule) judgeOnce(h *Host, set Set, confirmations map[string]status.Confirmation, last bool) (Reviewed, error) {
	if c := h.view.Manifest.Current; c != nil && c.Number == set.Number && c.Switchover.Equal(set.At) {
		return Reviewed{Set: set, Stands: true}, nil
	}
	if !h.names(set) {
		return Reviewed{Set: set}, fmt.Errorf("the switchover was changed by another command meanwhile")
	}
	plan := s.plan(h, confirmations)
	stands, postponed, missing := plan.Review(instant.WallOf(set.At), instant.WallOf(s.Clock()))
	if stands || s.Force || !last {
		return Reviewed{Set: set, Stands: true, Missing: missing}, nil
	}
	later := Set{Number: set.Number, At: roundUp(postponed)}
	err := h.setSwitchover(plan.TooLate(instant.WallOf(set.At)).Time(), later.At, Event{Event: "postponed", Detail: detail(missing)})
	if errors.Is(err, errTooLate) {
		return Reviewed{Set: set, Stands: true, Missing: missing}, nil
	}
	return Reviewed{Set: later, Missing: missing}, err
}

// names reports whether what is published sets just this switchover.
func (h *Host) names(set Set) bool {
	next := h.view.Manifest.Next
	return next != nil && next.Number == set.Number && next.Switchover.Equal(set.At)
}

// Result is how a member fared at a switchover.
type Result struct {
	Member   string
	Switched bool          // it answers from the release
	Lateness time.Duration // of its swap after the instant, by its own clock
	Why      string        // why it did not switch
	Mirrored *Span         // when its sidecar got the release, and
	Compiled *Span         // when its server made it ready; nil: it does not say
}

// resultPatience is how long after the switchover members may take to say how it went.
const resultPatience = 5 * time.Second

// Await waits until the switchover has passed for all members, puts it on record, and collects how it went.
func (s Schedule) Await(ctx context.Context, set Set) ([]Result, error) {
	view, err := Read(s.Home)
	if err != nil {
		return nil, err
	}
	passed := set.At.Add(2*view.Manifest.Epsilon() + time.Millisecond)
	for s.Clock().Before(passed) {
		if err := pause(ctx, min(passed.Sub(s.Clock()), askEvery)); err != nil {
			return nil, err
		}
	}
	if err := s.record(); err != nil {
		return nil, err
	}
	for end := passed.Add(resultPatience); ; {
		results, all := resultsOf(view.Manifest.Members, s.Ask(ctx, view.Manifest.Members), set.Number)
		if all || !s.Clock().Before(end) {
			return results, nil
		}
		if err := pause(ctx, askEvery); err != nil {
			return results, err
		}
	}
}

// record settles what has passed, unless another command did.
func (s Schedule) record() error {
	return Write(s.Home, s.Clock, func(h *Host) error {
		_, err := h.Settle()
		return err
	})
}

func resultsOf(members []release.Member, answers map[string]Answer, number uint64) (results []Result, all bool) {
	all = true
	for _, m := range members {
		r := resultOf(m.Name, answers[m.Name], number)
		results = append(results, r)
		all = all && r.Switched
	}
	return results, all
}

func resultOf(name string, a Answer, number uint64) Result {
	r := Result{Member: name, Mirrored: spanOf(a.Confirmation.Mirrored, number), Compiled: spanOf(a.Confirmation.Compiled, number)}
	switch c := a.Confirmation; {
	case a.Err != nil:
		r.Why = "it gave no answer: " + a.Err.Error()
	case c.Serving == number:
		r.Switched = true
		if c.Switched != nil && c.Switched.Number == number {
			r.Lateness = c.Switched.Lateness
		}
	case c.Serving == 0:
		r.Why = "it is silent" + join(c.Silent)
	default:
		r.Why = fmt.Sprintf("it answers from release %d", c.Serving)
	}
	return r
}

func join(reasons []status.Reason) string {
	text := ""
	for _, r := range reasons {
		text += ": " + r.String()
	}
	return text
}

func detail(missing []mesh.Missing) string {
	var parts []string
	for _, m := range missing {
		parts = append(parts, m.String())
	}
	return strings.Join(parts, "; ")
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}
