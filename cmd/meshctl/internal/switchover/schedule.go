// Package switchover chooses the instant at which the mesh moves to the staged release, publishes it, collects the members'
// confirmations, postpones it or takes it back, and sees it through (RFC 3258 2.3 d and e; SYNC-D, SYNC-E). It imports
// packages home, history and hint of its neighbours; package unattended and cmd/meshctl call it.
//
// The rules, and where each is: when an instant is safe, by when it must be heard of, what speaks against it and to when it is
// postponed, in internal/mesh (Plan). Which of them applies to what is published now, here in schedule.go: choose and before
// (to set it), judgeOnce (to let it stand or postpone it), takeBackOnce and reinstate (to cancel it). What every publication
// keeps, in rules.go of package home: the ledger of leases E* (Promise), the lease's cap, Settled and MayRelease.
package switchover

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/hint"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/history"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/home"
	"github.com/coredns-anycast/coredns-anycast/internal/depot"
	"github.com/coredns-anycast/coredns-anycast/internal/instant"
	"github.com/coredns-anycast/coredns-anycast/internal/mesh"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
)

// Schedule sets the switchover to the staged release and sees it through (SYNC-E), in steps that each may be the last:
// a distribution host that dies in between silences nobody. Only Set and Review publish, and hold the lock for it.
type Schedule struct {
	Home *home.Home
	Ask  Ask

	Mode  mesh.Mode
	Lead  time.Duration // from setting to switchover in mode confirmed
	At    time.Time     // the instant asked for; zero: as soon as it is safe
	Force bool          // set it whatever speaks against it
	Wait  time.Duration // how long members may take to have the release ready
}

// Switchover is a switchover that was published.
type Switchover struct {
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
func (s Schedule) Set(ctx context.Context) (Switchover, error) {
	if err := s.settle(ctx); err != nil {
		return Switchover{}, err
	}
	for end := s.Home.Now().Add(s.Wait); ; {
		view, err := s.Home.View(ctx)
		if err != nil {
			return Switchover{}, err
		}
		answers := s.Ask(ctx, view.Manifest.Members)
		set, err := s.try(ctx, answers)
		var against *AgainstError
		if !errors.As(err, &against) {
			return set, err
		}
		against.explain(answers)
		if !s.Home.Now().Before(end) {
			return set, against
		}
		if err := home.Pause(ctx, askEvery); err != nil {
			return Switchover{}, fmt.Errorf("%w\n%w", err, against)
		}
	}
}

func (s Schedule) settle(ctx context.Context) error {
	return s.Home.Write(ctx, func(w *home.Writer) error {
		if _, err := w.Settle(ctx); err != nil {
			return err
		}
		if w.View().Manifest.Next == nil {
			return hint.Errorf("make one with: meshctl release ZONEFILE...", "no release is staged")
		}
		return nil
	})
}

// try chooses and publishes the instant, if nothing speaks against it or it is forced. One that is in force already, set
// by a command that was killed since or runs beside this one, may be kept: then there is nothing to publish.
func (s Schedule) try(ctx context.Context, answers map[string]Answer) (set Switchover, err error) {
	err = s.Home.Write(ctx, func(w *home.Writer) (err error) {
		set, err = s.choose(ctx, w, answers)
		return err
	})
	return set, err
}

func (s Schedule) choose(ctx context.Context, w *home.Writer, answers map[string]Answer) (Switchover, error) {
	next := w.View().Manifest.Next
	if next == nil {
		return Switchover{}, fmt.Errorf("the staged release was taken back meanwhile")
	}
	plan := s.plan(w, said(answers))
	plan.Apart = apartOf(answers)
	at, against := plan.Choose(instant.WallOf(s.Home.Now()))
	inForce := at == instant.WallOf(next.Switchover)
	if len(against) > 0 && (!s.Force || inForce) {
		return Switchover{}, &AgainstError{next.Number, against}
	}
	if inForce {
		return Switchover{Number: next.Number, At: next.Switchover}, nil
	}
	event := "scheduled"
	if len(against) > 0 {
		event = "scheduled by force"
	}
	set := Switchover{Number: next.Number, At: roundUp(at), Against: against}
	err := setSwitchover(ctx, w, s.before(plan, at), set.At, home.Event{Event: event, Detail: Detail(against)})
	set.Chosen = s.Home.Now().UTC()
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

func (s Schedule) plan(w *home.Writer, confirmations map[string]status.Confirmation) mesh.Plan {
	m := w.View().Manifest
	p := mesh.Plan{
		Mode:    s.Mode,
		Number:  m.Next.Number,
		Mesh:    m.Mesh,
		Said:    confirmations,
		Promise: instant.WallOf(w.State().LatestWithout(m.Next.Number, time.Time{})),
		Epsilon: m.Epsilon(),
		Lead:    s.Lead,
		Asked:   instant.WallOf(s.At),

		Set:        instant.WallOf(m.Next.Switchover),
		PromiseSet: instant.WallOf(w.State().LatestWithout(m.Next.Number, m.Next.Switchover)),
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
func setSwitchover(ctx context.Context, w *home.Writer, end, at time.Time, event home.Event) error {
	m := w.View().Manifest
	next := *m.Next
	next.Switchover = at
	m.Next = &next
	event.Number, event.Switchover = next.Number, at
	return w.PublishBefore(ctx, end, m, event)
}

// Cancelled is what became of a switchover that was to be taken back.
type Cancelled struct {
	Switchover Switchover     // the switchover
	Stands     bool           // it was put back into force
	Holding    []mesh.Missing // who may still switch at its instant
}

// Cancel takes back the switchover that is set, while that can be heard of: every member must say in time that it does
// not hold it any more. If one does not, the switchover is put back into force, so that all make it, unless it is forced.
func (s Schedule) Cancel(ctx context.Context) (Cancelled, error) {
	set, err := s.takeBack(ctx)
	if err != nil {
		return Cancelled{}, err
	}
	plan := mesh.Plan{Lead: s.Lead, Number: set.Number, Set: instant.WallOf(set.At)}
	patience := s.Home.Now().Add(s.Wait)
	for {
		view, err := s.Home.View(ctx)
		if err != nil {
			return Cancelled{}, err
		}
		plan.Epsilon, plan.Members = view.Manifest.Epsilon(), names(view.Manifest.Members)
		last := plan.TooLate(plan.Set).Add(-plan.Grace()).Time()
		if patience.Before(last) {
			last = patience
		}
		plan.Said = said(s.askWithin(ctx, max(last.Sub(s.Home.Now()), 0)+plan.Grace(), view.Manifest.Members))
		holding := plan.Holding()
		if len(holding) == 0 || s.Force && !s.Home.Now().Before(last) {
			return Cancelled{Switchover: set, Holding: holding}, nil
		}
		if !s.Home.Now().Before(last) {
			return Cancelled{set, true, holding}, s.reinstate(ctx, set, plan.TooLate(plan.Set).Time(), holding)
		}
		if err := home.Pause(ctx, min(askEvery, last.Sub(s.Home.Now()))); err != nil {
			return Cancelled{}, errors.Join(err, s.reinstate(ctx, set, plan.TooLate(plan.Set).Time(), holding))
		}
	}
}

func names(members []release.Member) (all []string) {
	for _, m := range members {
		all = append(all, m.Name)
	}
	return all
}

// takeBack publishes that no switchover is set. It goes on though ctx ends, since whoever takes a switchover back asks whether
// that was heard.
func (s Schedule) takeBack(ctx context.Context) (set Switchover, err error) {
	ctx = context.WithoutCancel(ctx)
	err = s.Home.Write(ctx, func(w *home.Writer) (err error) {
		set, err = s.takeBackOnce(ctx, w)
		return err
	})
	return set, err
}

func (s Schedule) takeBackOnce(ctx context.Context, w *home.Writer) (Switchover, error) {
	next := w.View().Manifest.Next
	if next == nil || next.Switchover.IsZero() {
		return Switchover{}, fmt.Errorf("no switchover is set")
	}
	set := Switchover{Number: next.Number, At: next.Switchover}
	plan := s.plan(w, nil)
	if !plan.Cancel(instant.WallOf(s.Home.Now())) {
		return set, hint.Errorf("undo it with another release: meshctl release, then meshctl schedule",
			"the switchover to release %d at %s cannot be taken back any more: members may not hear of it in time", set.Number, set.At.Format(time.RFC3339Nano))
	}
	return set, setSwitchover(ctx, w, plan.TooLate(plan.Set).Time(), time.Time{}, home.Event{Event: "cancelled"})
}

// reinstate puts a switchover back into force, before end, though ctx has ended: nodes may be about to make it.
func (s Schedule) reinstate(ctx context.Context, set Switchover, end time.Time, holding []mesh.Missing) error {
	ctx = context.WithoutCancel(ctx)
	err := s.Home.Write(ctx, func(w *home.Writer) error {
		if next := w.View().Manifest.Next; next == nil || next.Number != set.Number || !next.Switchover.IsZero() {
			return fmt.Errorf("the schedule was changed by another command meanwhile")
		}
		return setSwitchover(ctx, w, end, set.At, home.Event{Event: "not cancelled", Detail: Detail(holding)})
	})
	if errors.Is(err, home.ErrTooLate) {
		return fmt.Errorf("%w: the switchover stays taken back, and who holds it may make it all the same: %s", err, Detail(holding))
	}
	return err
}

// Reviewed is what became of a switchover that was set.
type Reviewed struct {
	Switchover Switchover     // the one in force now
	Stands     bool           // it is the one that was set
	Missing    []mesh.Missing // who has not confirmed it
}

// Review collects the members' word for the switchover and, if one lacks at half the lead, postpones it. A word that was
// given holds, whether or not it can be heard again. Mode lease needs nobody's word, so that Review asks once and is done.
func (s Schedule) Review(ctx context.Context, set Switchover) (Reviewed, error) {
	confirmations := map[string]status.Confirmation{}
	for {
		view, err := s.Home.View(ctx)
		if err != nil {
			return Reviewed{}, err
		}
		plan := mesh.Plan{Lead: s.Lead, Epsilon: view.Manifest.Epsilon()}
		deadline := plan.Deadline(instant.WallOf(set.At)).Time()
		left := max(deadline.Sub(s.Home.Now()), 0)
		set.hear(confirmations, said(s.askWithin(ctx, left+plan.Grace(), view.Manifest.Members)))
		last := s.Mode == mesh.Lease || !s.Home.Now().Before(deadline)
		r, err := s.judge(ctx, set, confirmations, last)
		if err != nil || last || len(r.Missing) == 0 {
			return r, err
		}
		if err := home.Pause(ctx, min(askEvery, deadline.Sub(s.Home.Now()))); err != nil {
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
func (set Switchover) hear(confirmations, said map[string]status.Confirmation) {
	want := status.Ref{Number: set.Number, At: instant.WallOf(set.At)}
	for name, c := range said {
		if held := confirmations[name].Confirms.Scheduled; held == nil || *held != want {
			confirmations[name] = c
		}
	}
}

// judge reviews the switchover, and publishes a postponed one if it is time to. One that was put on record has passed,
// and stands.
func (s Schedule) judge(ctx context.Context, set Switchover, confirmations map[string]status.Confirmation, last bool) (r Reviewed, err error) {
	err = s.Home.Write(ctx, func(w *home.Writer) (err error) {
		r, err = s.judgeOnce(ctx, w, set, confirmations, last)
		return err
	})
	return r, err
}

func (s Schedule) judgeOnce(ctx context.Context, w *home.Writer, set Switchover, confirmations map[string]status.Confirmation, last bool) (Reviewed, error) {
	if c := w.View().Manifest.Current; c != nil && c.Number == set.Number && c.Switchover.Equal(set.At) {
		return Reviewed{Switchover: set, Stands: true}, nil
	}
	if !isInForce(w, set) {
		return Reviewed{Switchover: set}, fmt.Errorf("the switchover was changed by another command meanwhile")
	}
	plan := s.plan(w, confirmations)
	stands, postponed, missing := plan.Review(instant.WallOf(set.At), instant.WallOf(s.Home.Now()))
	if stands || s.Force || !last {
		return Reviewed{Switchover: set, Stands: true, Missing: missing}, nil
	}
	later := Switchover{Number: set.Number, At: roundUp(postponed)}
	err := setSwitchover(ctx, w, plan.TooLate(instant.WallOf(set.At)).Time(), later.At, home.Event{Event: "postponed", Detail: Detail(missing)})
	if errors.Is(err, home.ErrTooLate) {
		return Reviewed{Switchover: set, Stands: true, Missing: missing}, nil
	}
	return Reviewed{Switchover: later, Missing: missing}, err
}

// isInForce reports whether what is published sets just this switchover.
func isInForce(w *home.Writer, set Switchover) bool {
	next := w.View().Manifest.Next
	return next != nil && next.Number == set.Number && next.Switchover.Equal(set.At)
}

// resultPatience is how long after the switchover members may take to say how it went.
const resultPatience = 5 * time.Second

// Await waits until the switchover has passed for all members, puts it on record, and collects how it went.
func (s Schedule) Await(ctx context.Context, set Switchover) ([]history.Result, error) {
	view, err := s.Home.View(ctx)
	if err != nil {
		return nil, err
	}
	passed := set.At.Add(2*view.Manifest.Epsilon() + time.Millisecond)
	for s.Home.Now().Before(passed) {
		if err := home.Pause(ctx, min(passed.Sub(s.Home.Now()), askEvery)); err != nil {
			return nil, err
		}
	}
	if err := s.record(ctx); err != nil {
		return nil, err
	}
	for end := passed.Add(resultPatience); ; {
		results, all := resultsOf(view.Manifest.Members, s.Ask(ctx, view.Manifest.Members), set.Number)
		if all || !s.Home.Now().Before(end) {
			return results, nil
		}
		if err := home.Pause(ctx, askEvery); err != nil {
			return results, err
		}
	}
}

// record settles what has passed, unless another command did.
func (s Schedule) record(ctx context.Context) error {
	return s.Home.Write(ctx, func(w *home.Writer) error {
		_, err := w.Settle(ctx)
		return err
	})
}

func resultsOf(members []release.Member, answers map[string]Answer, number uint64) (results []history.Result, all bool) {
	all = true
	for _, m := range members {
		r := resultOf(m.Name, answers[m.Name], number)
		results = append(results, r)
		all = all && r.Switched
	}
	return results, all
}

func resultOf(name string, a Answer, number uint64) history.Result {
	r := history.Result{Member: name, Mirrored: history.SpanOf(a.Confirmation.Mirrored, number), Compiled: history.SpanOf(a.Confirmation.Compiled, number)}
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

// Detail is who is missing, and why, in one line.
func Detail(missing []mesh.Missing) string {
	var parts []string
	for _, m := range missing {
		parts = append(parts, m.String())
	}
	return strings.Join(parts, "; ")
}

// Record puts on record how a switchover went.
func (s Schedule) Record(ctx context.Context, set Switchover, results []history.Result, more func(*history.Record)) error {
	w, err := s.Home.Begin(ctx)
	if err != nil {
		return err
	}
	defer w.Close()
	err = history.Remember(ctx, w, set.Number, func(r *history.Record) {
		r.Scheduled, r.Switchover, r.Results = set.Chosen, set.At, results
		if more != nil {
			more(r)
		}
	})
	if errors.Is(err, depot.ErrChanged) {
		return nil // another host records the same
	}
	return err
}
