// Package switchover drives the protocol on a distribution host (SYNC-E): it reads what is in force, asks the members, has
// mesh.Host decide, and publishes what was decided, in rounds, any of which may be the last. It decides nothing itself.
// It imports packages history, home, hint and keys of its neighbours; package unattended and cmd/meshctl call it.
package switchover

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/hint"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/history"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/home"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/keys"
	"github.com/coredns-anycast/coredns-anycast/internal/depot"
	"github.com/coredns-anycast/coredns-anycast/internal/instant"
	"github.com/coredns-anycast/coredns-anycast/internal/mesh"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
	"github.com/coredns-anycast/coredns-anycast/internal/sysclock"
)

// Driver is one distribution host's part in the protocol. Round, See and Run are for one goroutine; State and Made for all.
type Driver struct {
	Home   *home.Home
	Ask    Ask
	Policy mesh.Policy // but for the length of a lease, which is the mesh's
	Order  mesh.Order
	Log    *slog.Logger

	host      *mesh.Host
	leaseOnly bool // the last publication failed for want of the release key
	proposed  bool // a switchover was proposed here, by the order if there is one
	newest    newest
	wake      chan struct{}
	over      chan struct{}

	mu    sync.Mutex
	state DriverState
	made  map[uint64]making // by release
}

// DriverState is how the protocol goes, for alarms and metrics.
type DriverState struct {
	Decision  mesh.HostDecision // of the last round
	Since     time.Time         // since when something speaks against a switchover; zero: nothing does
	Switched  uint64            // switchovers seen through
	Withdrawn uint64            // proposals that were withdrawn
	Members   []MemberState

	lead time.Duration // the shortest that is safe, as of the last round
}

// making is what is known of a release's way before its switchover.
type making struct {
	began, published time.Time
	proposed         time.Time // when all members were ready
}

// NewDriver makes a driver.
func NewDriver(h *home.Home, ask Ask, p mesh.Policy, log *slog.Logger) *Driver {
	return &Driver{Home: h, Ask: ask, Policy: p, Log: log, wake: make(chan struct{}, 1), over: make(chan struct{}, 1), made: map[uint64]making{}}
}

// State is how it goes.
func (d *Driver) State() DriverState {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.state
}

// Lead is how long before its switchover a release is proposed.
func (d *Driver) Lead() time.Duration { return max(d.Policy.Lead, d.State().lead) }

// Made says that a release was published then, whose making began then, and that it is time for a round.
func (d *Driver) Made(number uint64, began, published time.Time) {
	d.mu.Lock()
	d.made[number] = making{began: began, published: published}
	d.mu.Unlock()
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// Over tells, after each round in which that happened, that a switchover is on record or was withdrawn, so that another release may be made.
func (d *Driver) Over() <-chan struct{} { return d.over }

// Published is when a release was published by this process; zero if it was not.
func (d *Driver) Published(number uint64) time.Time {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.made[number].published
}

// Round is what came of one round.
type Round struct {
	Decision mesh.HostDecision
	Before   release.View // what was in force when it was decided
	View     release.View // what is in force now
	Answers  map[string]Answer
	Done     bool // what was decided is published
	Late     bool // it took too long to publish what was decided, so that was given up; the next has more time
}

// Round reads, asks, decides and publishes, once. A turn that another host or command has won is no error: the next round
// decides anew. With an error of release.OfZones (home.Published) only a lease is renewed.
func (d *Driver) Round(ctx context.Context) (Round, error) {
	reader, err := d.Home.Read(ctx)
	if err != nil {
		return Round{}, err
	}
	defer reader.Close()
	state, view, tag, damaged := reader.Published()
	if damaged != nil && !release.OfZones(damaged) {
		return Round{}, damaged
	}
	d.begin(state)
	before := home.MeshOf(state, view)
	d.host.Read(before)
	d.host.Ordered(d.ordered(before))
	trust, err := state.Published.Trust()
	d.host.LeaseOnly(d.leaseOnly || damaged != nil || err != nil || !d.Home.Keys().Has(trust, keys.Release))
	began := d.now()
	answers := d.ask(ctx, append(view.Manifest.Members[:len(view.Manifest.Members):len(view.Manifest.Members)], state.Departed...), view.Manifest.Next)
	if ctx.Err() != nil {
		return Round{}, context.Cause(ctx)
	}
	d.host.Asked(words(answers), began, d.now())
	d.host.Publishing(d.Home.Publishing(), reader.Notice())
	r := Round{Decision: d.host.Decide(d.now()), Before: view, View: view, Answers: answers}
	d.keep(r.Decision, view.Manifest.Next != nil)
	d.follow(ctx, view.Manifest, answers)
	if r.Decision.Publish == nil {
		return r, damaged
	}
	err = d.publish(ctx, &r, before, tag)
	d.proposed = d.proposed || r.Done && r.Decision.Event == mesh.EventProposed
	// A key that cannot be had must not keep the lease from being renewed: the next round does without it, and then it is tried again.
	d.leaseOnly = errors.Is(err, keys.ErrAway) && !d.leaseOnly
	return r, cmp.Or(err, damaged)
}

// ordered is the order that counts: none once an operator has withdrawn what it proposed, else it would be proposed again.
func (d *Driver) ordered(state mesh.State) mesh.Order {
	if d.proposed && state.Paused != "" {
		return mesh.Order{}
	}
	return d.Order
}

// roundMost is the longest that a round of questions may take: the protocol does nothing by one that began ten seconds ago, not even renew the
// lease. Where many members hang, not all of them have their turn in it.
const roundMost = 6 * time.Second

// ask asks members. While a switchover is under way one that hangs must not hold up the commit for long.
func (d *Driver) ask(ctx context.Context, members []release.Member, next *release.Release) map[string]Answer {
	patience := roundMost
	if next != nil && !next.Switchover.IsZero() {
		patience = min(patience, d.host.Patience())
	}
	limited, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return d.Ask(limited, members)
}

// keep keeps what was decided, and since when something speaks against a switchover.
func (d *Driver) keep(decision mesh.HostDecision, staged bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.state.Decision, d.state.lead = decision, d.host.Lead()
	switch {
	case !staged || decision.Event == mesh.EventCommitted || decision.Event == mesh.EventSettled:
		d.state.Since = time.Time{}
	case len(decision.Against) > 0 && d.state.Since.IsZero():
		d.state.Since = d.Home.Now()
	}
}

// begin makes the decider at the first round.
func (d *Driver) begin(state home.State) {
	if d.host != nil {
		return
	}
	d.Policy.Lease = state.Lease()
	if d.Policy.Renew == 0 { // a command renews what serve should have
		d.Policy.Renew = state.Lease()
	}
	d.host = mesh.NewHost(d.Policy)
}

func (d *Driver) now() instant.Instant {
	return instant.Instant{Wall: instant.WallOf(d.Home.Now()), Mono: sysclock.Now().Mono}
}

// publish puts in force what was decided, on condition that the state is the one that it was decided on. If another has renewed the
// lease meanwhile, it is decided anew by what the members said: where leases are short and a member hangs, leases are renewed as
// often as members are asked, and a command beside "meshctl serve" would never have its turn.
func (d *Driver) publish(ctx context.Context, r *Round, before mesh.State, tag depot.Tag) error {
	w, err := d.Home.BeginLease(ctx)
	if err != nil {
		return unlessTurn(err)
	}
	defer w.Close()
	if w.Tag() != tag {
		if !w.Mesh().OnlyRenewed(before) {
			return nil
		}
		d.host.Read(w.Mesh())
		r.Before, r.View, r.Decision = w.View(), w.View(), d.host.Decide(d.now())
		if d.keep(r.Decision, r.View.Manifest.Next != nil); r.Decision.Publish == nil {
			return nil
		}
	}
	next := *r.Decision.Publish
	event := home.Event{Event: r.Decision.Event, Number: next.Next.Number, Switchover: next.Next.At.Time(), Detail: Detail(r.Decision.Detail)}
	switch r.Decision.Event {
	case mesh.EventRenewed:
		event = home.Event{}
	case mesh.EventSettled:
		event.Number, event.Switchover = next.Current.Number, next.Current.At.Time()
	case mesh.EventMarked:
		event = home.Event{Event: r.Decision.Event, Detail: awayNames(next)}
	}
	newer := formatFor(w.View().Manifest.Format, w.View().Manifest.Members, r.Answers)
	if r.Decision.Event == mesh.EventProposed && newer > w.View().Manifest.Format { // all zones are written anew: no instant may wait for that
		renewed, err := w.Host().Renew(w.Instant(), 0)
		if err != nil {
			return err
		}
		return unlessTurn(w.Carry(ctx, renewed, time.Time{}, func(m *release.Manifest) { m.Format = newer }, home.Event{}))
	}
	if err := w.Carry(ctx, next, r.Decision.By.Time(), nil, event); err != nil {
		if errors.Is(err, home.ErrTooLate) {
			r.Late = true
			d.tooLate(r.Decision)
		}
		return unlessTurn(err)
	}
	r.Done, r.View = true, w.View()
	return nil
}

// tooLate says that what was decided was given up, and has more time taken for what is decided next.
func (d *Driver) tooLate(decision mesh.HostDecision) {
	d.host.TooLate()
	if d.Log != nil {
		d.Log.Warn("it took too long to publish what was decided, so it was given up, and more time is taken: see to the signing commands, the disk or the bucket",
			"event", decision.Event, "number", decision.Publish.Next.Number, "by", decision.By.Time(), "publications take", d.Home.Publishing())
	}
}

// formatFor is the format of the next manifest: the newest if all members have just said that they read it, both of each, CoreDNS and its
// sidecar, which may not be of one version; or else the one that there is.
func formatFor(format int, members []release.Member, answers map[string]Answer) int {
	for _, m := range members {
		if a, asked := answers[m.Name]; !asked || a.Err != nil || min(a.Confirmation.Format, a.Confirmation.MirrorFormat) < release.ManifestFormat {
			return format
		}
	}
	if len(members) == 0 {
		return format
	}
	return release.ManifestFormat
}

// unlessTurn is err, unless it says only that another was first, or that it is too late: then the next round decides anew.
func unlessTurn(err error) error {
	locked := new(depot.LockedError)
	if errors.Is(err, depot.ErrChanged) || errors.Is(err, home.ErrTooLate) || errors.As(err, &locked) {
		return nil
	}
	return err
}

func awayNames(s mesh.State) string {
	var names []string
	for _, a := range s.Away {
		names = append(names, a.Member)
	}
	return strings.Join(names, " ")
}

// words are what the protocol needs of answers.
func words(answers map[string]Answer) map[string]mesh.Answer {
	all := make(map[string]mesh.Answer, len(answers))
	for name, a := range answers {
		if a.Err != nil {
			all[name] = mesh.Answer{Why: a.Err.Error()}
			continue
		}
		w := mesh.WordOf(a.Confirmation)
		all[name] = mesh.Answer{Word: &w}
	}
	return all
}

const (
	// The pause between two rounds while a release waits for its switchover is as long as the round took, but between roundLeast and
	// roundEvery: a few members are asked at once again, and a thousand not all the time. It is sureEvery while the next step waits for an
	// instant alone, and idleEvery while no release waits.
	roundLeast = 50 * time.Millisecond
	roundEvery = 250 * time.Millisecond
	sureEvery  = time.Second
	idleEvery  = 2 * time.Second
)

// pause is how long the next round may wait, at now, after one that took so long. What all members have confirmed, or is committed, goes on at an
// instant that is known: to ask more often than now and then whether a member has thought better of it would cost all of them more than the
// release does.
func (r Round) pause(took time.Duration, now instant.Wall) time.Duration {
	d := r.Decision
	switch {
	case r.View.Manifest.Next == nil:
		return idleEvery
	case d.Publish == nil && d.Wake != 0 && len(d.Against) == 0:
		return min(max(d.Wake.Sub(now), roundLeast), sureEvery)
	}
	return min(max(took, roundLeast), roundEvery)
}

// Run makes rounds until ctx ends, and says in the log and on record what came of them.
func (d *Driver) Run(ctx context.Context) {
	said := ""
	for ctx.Err() == nil {
		began := time.Now()
		r, err := d.Round(ctx)
		took := time.Since(began)
		damaged := release.OfZones(err)
		if err == nil || damaged {
			err = cmp.Or(d.tell(ctx, r), err)
		}
		if now := errorText(err); now != said && ctx.Err() == nil {
			said = now
			switch {
			case err == nil:
				d.Log.Info("the lease can be kept again")
			case damaged:
				d.Log.Error("leases are renewed, and no release or switchover goes on", "error", err)
			default:
				d.Log.Error("the lease cannot be kept, and no switchover goes on; it is tried again", "error", err)
			}
		}
		wait := r.pause(took, d.now().Wall)
		if err != nil {
			wait = max(wait, roundEvery)
		}
		select {
		case <-ctx.Done():
		case <-d.wake:
		case <-time.After(wait):
		}
	}
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// tell logs what was published, and sees a switchover through that is on record.
func (d *Driver) tell(ctx context.Context, r Round) error {
	d.note(r)
	if !r.Done {
		return nil
	}
	next := r.Decision.Publish.Next
	switch r.Decision.Event {
	case mesh.EventRenewed:
		d.Log.Info("lease renewed", "until", r.View.LeaseExpires, "state", r.View.String())
	case mesh.EventProposed:
		d.Log.Info("switchover proposed", "number", next.Number, "at", next.At.Time(), "without", strings.Join(next.Without, " "))
	case mesh.EventCommitted:
		d.Log.Info("switchover committed", "number", next.Number, "at", next.At.Time())
	case mesh.EventPresumed:
		d.Log.Warn("switchover presumed made: no member is known to have made it, and those that are away may have", "number", next.Number, "away", Detail(r.Decision.Detail))
	case mesh.EventWithdrawn:
		d.Log.Error("switchover withdrawn", "number", next.Number, "why", Detail(r.Decision.Detail))
	case mesh.EventMarked:
		d.Log.Warn("members are away", "members", awayNames(*r.Decision.Publish))
	case mesh.EventSettled:
		_, err := d.seen(ctx, r)
		return err
	}
	return nil
}

// note keeps when the steps of a release's way were.
func (d *Driver) note(r Round) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case !r.Done:
	case r.Decision.Event == mesh.EventProposed:
		m := d.made[r.Decision.Publish.Next.Number]
		m.proposed = d.Home.Now()
		d.made[r.Decision.Publish.Next.Number] = m
	case r.Decision.Event == mesh.EventWithdrawn:
		d.state.Withdrawn++
		d.tellOver()
	case r.Decision.Event == mesh.EventSettled:
		d.state.Switched++
		d.tellOver()
	}
}

func (d *Driver) tellOver() {
	select {
	case d.over <- struct{}{}:
	default:
	}
}

// seen collects how a switchover that is on record went, and records that.
func (d *Driver) seen(ctx context.Context, r Round) ([]history.Result, error) {
	current := *r.View.Manifest.Current
	var without []string
	if next := r.Before.Manifest.Next; next != nil {
		without = next.Without
	}
	results := d.results(ctx, r.View.Manifest.Members, without, current.Number)
	var missed []string
	for _, one := range results {
		if !one.Switched {
			missed = append(missed, one.Member+": "+one.Why)
		}
	}
	if d.Log != nil {
		d.Log.Info("switched", "number", current.Number, "members", len(results)-len(missed), "missed", strings.Join(missed, "; "))
	}
	return results, d.record(ctx, current, results)
}

// results are how members fared. Those that the switchover was made without may be away, and keep nobody waiting, the next release for one; but
// one of them that lives and has the release is given a moment, or it would stand as missed in the record.
func (d *Driver) results(ctx context.Context, members []release.Member, without []string, number uint64) []history.Result {
	for began := d.Home.Now(); ; {
		results, patience := resultsOf(members, without, d.ask(ctx, members, nil), number)
		if d.Home.Now().Sub(began) >= patience || home.Pause(ctx, roundEvery) != nil {
			return results
		}
	}
}

// record puts on record how a switchover went.
func (d *Driver) record(ctx context.Context, current release.Release, results []history.Result) error {
	w, err := d.Home.Begin(ctx)
	if err != nil {
		return err
	}
	defer w.Close()
	d.mu.Lock()
	m := d.made[current.Number]
	for number := range d.made {
		if number <= current.Number {
			delete(d.made, number)
		}
	}
	d.mu.Unlock()
	err = history.Remember(ctx, w, current.Number, func(r *history.Record) {
		r.Scheduled, r.Switchover, r.Results = m.proposed.UTC(), current.Switchover, results
		if !m.published.IsZero() && !m.proposed.IsZero() {
			r.Timing = append(r.Timing,
				history.Step{Name: "all members ready", Seconds: m.proposed.Sub(m.published).Seconds()},
				history.Step{Name: "lead", Seconds: current.Switchover.Sub(m.proposed).Seconds()},
				history.Step{Name: "from the beginning to the switchover", Seconds: current.Switchover.Sub(m.began).Seconds()})
		}
	})
	if errors.Is(err, depot.ErrChanged) {
		return nil // another host records the same
	}
	return err
}

// AgainstError says that no switchover was proposed, and what speaks against it.
type AgainstError struct {
	Number  uint64
	Against []mesh.Missing
}

func (e *AgainstError) Error() string {
	lines := []string{fmt.Sprintf("no switchover to release %d was proposed:", e.Number)}
	for _, m := range e.Against {
		lines = append(lines, "  "+m.String())
	}
	if len(e.Against) == 0 {
		lines = append(lines, "  nothing speaks against it, but it could not be published in time: see to the signing commands, the disk or the bucket")
	}
	return strings.Join(lines, "\n")
}

// paused reports whether an operator wants no switchover.
func (e *AgainstError) paused() bool {
	return slices.ContainsFunc(e.Against, func(m mesh.Missing) bool { return m.Why.Code == mesh.Paused })
}

// Seen is what became of the staged release.
type Seen struct {
	Number    uint64
	At        time.Time        // its switchover
	Committed bool             // it is committed, or was made
	Settled   bool             // it was made
	Forced    []mesh.Missing   // what spoke against it, when it was forced
	Without   []string         // members that it does not wait for
	Results   []history.Result // how the members fared
}

// lateMost is how often a proposal that took too long to publish is made again for who waits no longer.
const lateMost = 3

// See sees the staged release through to its switchover, or to its commit if committed is set. Members may take as long as wait
// until nothing speaks against a proposal; what then does is an *AgainstError, as is an operator's order that withdraws what was
// proposed. tell is told of each step.
func (d *Driver) See(ctx context.Context, wait time.Duration, committed bool, tell func(Round)) (Seen, error) {
	var seen Seen
	var last *AgainstError
	proposed, late := false, 0
	for end := d.Home.Now().Add(wait); ; {
		began := time.Now()
		r, err := d.Round(ctx)
		if err != nil {
			return seen, errors.Join(err, orNil(last))
		}
		d.note(r)
		tell(r)
		if done, err := d.look(ctx, r, &seen, committed); done || err != nil {
			return seen, err
		}
		if next := r.View.Manifest.Next; next != nil && next.Switchover.IsZero() {
			if against := r.Decision.Against; len(against) > 0 || last == nil {
				last = &AgainstError{next.Number, against}
			}
			if r.Late {
				late++
			}
			if !d.Home.Now().Before(end) && (!r.Late || late > lateMost) || proposed && last.paused() {
				return seen, last
			}
		} else if next != nil {
			proposed = true
		}
		if err := home.Pause(ctx, r.pause(time.Since(began), d.now().Wall)); err != nil {
			return seen, errors.Join(err, orNil(last))
		}
	}
}

func orNil(e *AgainstError) error {
	if e == nil {
		return nil
	}
	return e
}

// look takes in what a round brought, and reports whether all is seen.
func (d *Driver) look(ctx context.Context, r Round, seen *Seen, committed bool) (done bool, err error) {
	m := r.View.Manifest
	if before := r.Before.Manifest.Next; seen.Number == 0 && before != nil {
		seen.Number = before.Number
	}
	switch {
	case m.Next != nil:
		if seen.Number != 0 && seen.Number != m.Next.Number {
			return true, fmt.Errorf("release %d was taken back, and release %d is staged in its place", seen.Number, m.Next.Number)
		}
		seen.Number, seen.At, seen.Committed, seen.Without = m.Next.Number, m.Next.Switchover, m.Next.Committed, m.Next.Without
		if r.Done && r.Decision.Event == mesh.EventProposed && d.Order.Force {
			seen.Forced = r.Decision.Detail
		}
		return committed && seen.Committed, nil
	case seen.Number == 0:
		return true, hint.Errorf("make one with: meshctl release ZONEFILE...", "no release is staged")
	case m.Current == nil || m.Current.Number < seen.Number:
		return true, fmt.Errorf("release %d was taken back meanwhile", seen.Number)
	case r.Done && r.Decision.Event == mesh.EventSettled:
		seen.Results, err = d.seen(ctx, r)
	default: // another host or command has put it on record
		seen.Results = d.results(ctx, m.Members, seen.Without, seen.Number)
	}
	seen.Committed, seen.Settled, seen.At = true, true, m.Current.Switchover
	return true, err
}

// Settle waits until a committed switchover that has passed is on record, for no longer than patience: before it is, nothing
// that changes the mesh can be published.
func (d *Driver) Settle(ctx context.Context, patience time.Duration) error {
	for end := d.Home.Now().Add(patience); ; {
		view, err := d.Home.View(ctx)
		if err != nil {
			return err
		}
		next := view.Manifest.Next
		if next == nil || next.Switchover.IsZero() || d.Home.Now().Before(next.Switchover) || !d.Home.Now().Before(end) {
			return nil
		}
		r, err := d.Round(ctx)
		if err != nil {
			return err
		}
		if r.Done && r.Decision.Event == mesh.EventSettled {
			_, err := d.seen(ctx, r)
			return err
		}
		if err := home.Pause(ctx, roundEvery); err != nil {
			return err
		}
	}
}

// Detail is what speaks against something, in one line.
func Detail(missing []mesh.Missing) string {
	var parts []string
	for _, m := range missing {
		parts = append(parts, m.String())
	}
	return strings.Join(parts, "; ")
}
