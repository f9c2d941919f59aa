package mesh

import (
	"fmt"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/instant"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
)

// View is what a verified repository says to one node: which release is to be answered from until when. It is a lease
// (its expiry) and a schedule in one.
type View struct {
	Root    int64        // version of the root; versions of leases may begin anew under a newer one
	Lease   int64        // version of the lease; grows with each one signed
	Expires instant.Wall // the end of the lease
	Epsilon time.Duration
	Current status.Ref // Number 0: nothing was released yet
	Next    Next       // Number 0: nothing is staged; At 0: no switchover is proposed

	Others   []string // the other members whose word decides with this node's what becomes of Next
	Stranger bool     // the repository names members, and this node is none of them
	Legacy   bool     // of the format before: a switchover counts as committed, and may be moved all the same
}

// Next is the release that is staged, and the switchover to it, as one node is told of it.
type Next struct {
	status.Ref
	Decide    instant.Wall // from then on members that know of no commit ask each other
	Committed bool         // it is made; otherwise it is proposed only
	Presumed  bool         // the commit is to count as taken: nobody finds it void any more
	Without   bool         // this node is not waited for: it goes along only when the release has become current
}

// commits reports whether the node is to make the switchover at its instant, as the view has it.
func (n Next) commits() bool { return n.At != 0 && n.Committed && !n.Without }

// Durable is what a node must not forget, whatever happens to it: the floor, and what it promised of a switchover. Once
// the instant of a committed one has passed, the floor is its release without anything having been written (SYNC-G).
type Durable struct {
	Floor   uint64         `json:"floor"`
	Promise status.Promise `json:"promise,omitzero"`
	Root    int64          `json:"root,omitempty"`  // versions of the root and of the lease
	Under   int64          `json:"under,omitempty"` // that brought the promise, or says that the node is no member: an older view is refused
}

// Node holds the facts that one node knows. Methods take facts in; Decide gives the decision. It is not safe for
// concurrent use: its caller has one goroutine for it.
type Node struct {
	durable Durable
	view    *View
	ready   map[uint64]bool
	refused map[uint64]status.Reason
	clock   instant.Sample
	drained string                    // why an operator wants no answers from here; empty: they are wanted
	served  uint64                    // highest release that this process answered from, or the one before may have
	judged  bool                      // the promise found on disk was judged by a known clock
	words   map[string]status.Promise // what other members hold of the switchover that is promised here
	hold    time.Duration             // how long the node may answer without reaching a host or a member; 0: for ever
	reached instant.Mono              // when it last did; 0: never in this process
}

// NewNode starts a node from what its disk says. durable is the zero value on a node that never ran.
func NewNode(durable Durable) *Node {
	return &Node{durable: durable, ready: map[uint64]bool{}, refused: map[uint64]status.Reason{}, words: map[string]status.Promise{}}
}

// Codes of views that are refused.
const (
	OldView   = "old-view"          // it is older than the one under which a promise was made
	TakenBack = "commit-taken-back" // it takes back a switchover that is committed
)

// Learn takes in a verified view, or refuses it and gives the reason: one that no right distribution host can have made,
// since it breaks the word of an earlier one. The caller sees to it that views never go backwards (release.Verify). Why
// a release could not be taken that is named no more, is forgotten.
func (n *Node) Learn(v View) *status.Reason {
	if why := n.breaks(v); why != nil {
		return why
	}
	if n.view == nil || n.view.Next.Ref != v.Next.Ref {
		clear(n.words)
	}
	n.view = &v
	for number := range n.refused {
		if number != v.Current.Number && number != v.Next.Number {
			delete(n.refused, number)
		}
	}
	return nil
}

// breaks is the word that a view breaks; nil if none.
func (n *Node) breaks(v View) *status.Reason {
	if v.Root < n.durable.Root || v.Root == n.durable.Root && v.Lease < n.durable.Under {
		return &status.Reason{Code: OldView, Detail: fmt.Sprintf(
			"lease %d of root %d is older than lease %d of root %d, under which this node made a promise or was no member", v.Lease, v.Root, n.durable.Under, n.durable.Root)}
	}
	if v.Legacy {
		return nil
	}
	p := n.durable.Promise
	declined := p.State == status.Declined || p.State == status.Presumed || p.State == status.Void
	if n.view != nil && !n.view.Legacy && !n.view.Stranger && n.view.Next.commits() && !(declined && p.Ref() == n.view.Next.Ref) {
		p = status.Promise{Number: n.view.Next.Number, At: n.view.Next.At, State: status.Committed}
	}
	if p.State != status.Committed || v.Current.Number >= p.Number || v.Next.Ref == p.Ref() && v.Next.Committed {
		return nil
	}
	return &status.Reason{Code: TakenBack, Detail: fmt.Sprintf(
		"lease %d takes back the switchover to release %d at %v, which is committed: the distribution host's state is older than what it has published", v.Lease, p.Number, p.At)}
}

// Ready says that the release is verified, compiled and can be swapped to at once.
func (n *Node) Ready(number uint64) {
	n.ready[number] = true
	delete(n.refused, number)
}

// Refuse says that the release could not be taken, and why; Stage will ask for it again.
func (n *Node) Refuse(number uint64, why status.Reason) { n.refused[number] = why }

// Drop says that the release is no longer held ready.
func (n *Node) Drop(number uint64) { delete(n.ready, number) }

// Certify takes in a certified clock sample. A zero sample says that there is none to trust any more.
func (n *Node) Certify(s instant.Sample) { n.clock = s }

// Drain says that an operator wants no answers from here, and why; an empty reason ends that. The node goes on to take
// releases and to confirm them: once it is wanted again it is as right as the others.
func (n *Node) Drain(why string) { n.drained = why }

// Hear takes in what another member holds durably of a switchover, as it said when it was asked.
func (n *Node) Hear(member string, p status.Promise) {
	if n.view != nil && p.Ref() == n.view.Next.Ref {
		n.words[member] = p
	}
}

// Hold makes the node cease when it has reached neither a distribution host nor another member for so long, and until it first has;
// 0 never.
func (n *Node) Hold(d time.Duration) { n.hold = d }

// Reached says that a distribution host or another member was reached then.
func (n *Node) Reached(at instant.Mono) { n.reached = max(n.reached, at) }

// Answered says that an answer from the release was given, by what Then allowed, before the next decision. No decision
// goes below it, though the clock may step back before the switchover at once (SYNC-G).
func (n *Node) Answered(number uint64) { n.served = max(n.served, number) }

// Persisted says that d is on disk, fsynced. It is to be called with what a Decision asked to persist.
func (n *Node) Persisted(d Durable) { n.durable = d }

// Decision is what a node has to do. All of it may be repeated without harm.
type Decision struct {
	Serve    uint64          // the release to answer from; 0: be silent
	Silent   []status.Reason // why, when Serve is 0
	At       instant.Wall    // the switchover's instant that made Serve due; 0 if none was set
	Persist  *Durable        // to write durably, then Persisted and Decide again; nil: nothing to write
	Stage    []uint64        // releases to verify and compile, the most urgent first
	Keep     []uint64        // releases to hold ready; all others may be dropped
	Ask      bool            // ask the other members for the newest view, and what they hold of the switchover: then Learn and Hear
	Wake     instant.Wall    // when time alone may next change the decision; 0: never
	Until    instant.Wall    // how long Serve holds if nothing but time changes; 0 when silent
	Then     status.Ref      // what follows Serve at Until, if that is sure already; Number 0: silence, or not sure
	Lapse    instant.Wall    // the lease's end as this clock must judge it
	Confirms status.Confirms // what the node gives its word for
	Holds    status.Promise  // what is durable of a switchover, confirmed or not
	Floor    uint64
	Clock    status.ClockState
	Refused  []status.Refused
}

// Decide says what to do at now. It changes nothing that is decided later, but for what was answered from: the floor of
// this process.
func (n *Node) Decide(now instant.Instant) Decision {
	bound, known, why := n.clock.Error(now)
	d := Decision{Clock: status.ClockState{Known: known, Bound: bound, Source: n.clock.Source, Reason: why}}
	t := moment{c: now.Wall, mono: now.Mono, e: bound, known: known, why: why}
	n.judge(t)
	want := n.promise(t)
	d.Floor = want.Floor
	due, decided := n.due(t)
	d.Silent = n.silence(t, due, decided, d.Floor)
	if len(d.Silent) == 0 {
		want.Floor = max(want.Floor, due.Number)
		if n.durableFor(due) {
			d.Serve, d.At, n.served = due.Number, due.At, max(n.served, due.Number)
			d.Lapse = n.lapse(t)
			d.Until, d.Then = n.until(t, d.Lapse)
		} else {
			d.Silent = []status.Reason{{Code: NotDurable, Detail: fmt.Sprintf("the floor of release %d is not on disk yet", due.Number)}}
		}
	}
	if want != n.durable {
		d.Persist = &want
	}
	d.Holds = n.durable.Promise
	d.Ask = n.asking(t)
	n.stage(&d)
	d.Confirms = n.confirms(t)
	d.Wake = n.wake(t)
	return d
}

// moment is now as the wall clock tells it: c, wrong by at most e when known, or why it is not.
type moment struct {
	c     instant.Wall
	mono  instant.Mono
	e     time.Duration
	known bool
	why   string
}

// past reports whether the wall clock has reached w.
func (t moment) past(w instant.Wall) bool { return t.c >= w }

// near reports whether w may be now, for all the clock knows.
func (t moment) near(w instant.Wall) bool {
	gap := w.Sub(t.c)
	return -t.e <= gap && gap <= t.e
}

// judge judges the committed switchover that was found on disk, once, as soon as it can be, and pessimistically at
// c + e + ε: the process before may have answered at its own clock's T, which was wrong by up to ε. The judgement holds
// though it may take a while to be durable.
func (n *Node) judge(t moment) {
	if n.judged || !t.known || n.view == nil {
		return
	}
	n.judged = true
	if p := n.durable.Promise; p.State == status.Committed && t.c.Add(t.e+n.view.Epsilon) >= p.At {
		n.served = max(n.served, p.Number)
	}
}

// promise is what ought to be durable: the floor as the time makes it, and what is known of the switchover. What was
// answered from is the floor, whatever the clock says since.
func (n *Node) promise(t moment) Durable {
	want := n.durable
	want.Floor = max(want.Floor, n.served)
	p := want.Promise
	if p.State == status.Committed && t.known && t.past(p.At) {
		want.Floor = max(want.Floor, p.Number)
	}
	if n.view == nil {
		return want
	}
	next := n.view.Next
	switch {
	case p.State == "":
	case n.view.Current.Number >= p.Number: // it was made, or passed over
		if p.State == status.Committed {
			want.Floor = max(want.Floor, p.Number)
		}
		p = status.Promise{}
	case p.Ref() != next.Ref && (p.State != status.Committed || n.view.Legacy && t.known):
		p = status.Promise{} // it was withdrawn, or moved by a host of the format before
	}
	if p.State == "" && next.At != 0 && next.Number > n.view.Current.Number && !n.view.Stranger { // nobody tells a stranger that it is void
		p = status.Promise{Number: next.Number, At: next.At, State: n.first(t)}
	}
	if p.Ref() == next.Ref {
		p.State = n.advance(t, p.State)
	}
	if p != want.Promise || n.view.Stranger { // who was removed must not go by an older view again, which nobody waits for any more
		want.Promise, want.Root, want.Under = p, n.view.Root, n.view.Lease
	}
	return want
}

// first is the state of the promise of a switchover that the node first hears of. Nobody commits one without the word of a
// member that is waited for; so if its time to be committed is over, it is void, since this node gives no word any more.
func (n *Node) first(t moment) status.PromiseState {
	if next := n.view.Next; t.known && t.past(next.Decide) && !next.Committed && !next.Without && !n.view.Legacy {
		return status.Void
	}
	return status.Proposed
}

// state is how far the switchover that the view names is decided, as far as that is durable here.
func (n *Node) state(t moment) status.PromiseState {
	if p := n.durable.Promise; p.Ref() == n.view.Next.Ref {
		return p.State
	}
	return n.first(t)
}

// advance is the state of the promise of the switchover that the view names, as far as the node may go in one step. A node
// declines only what it holds durably, and only when no other member is known to have a commit; it takes a commit that
// it has declined only if another member has taken it durably, and so never declines. So all decline, or none ever does for good.
// A node that is not waited for goes along at the instant when one that is has taken the commit. Once a host presumes that a commit was
// taken, who has not taken it, nor found it void, writes that it will not find it void: no word of another, old or new, may do that then.
func (n *Node) advance(t moment, s status.PromiseState) status.PromiseState {
	next, commits := n.view.Next, n.view.Next.commits()
	taken := next.Committed && n.anySays(status.Committed)
	switch {
	case s == status.Proposed && (commits || taken), (s == status.Declined || s == status.Presumed) && taken:
		return status.Committed
	case next.Presumed && (s == status.Proposed || s == status.Declined):
		return status.Presumed
	case s == status.Proposed && n.anySays(status.Void):
		return status.Void
	case s == status.Proposed && !next.Without && n.late(t) && n.allSay(status.Proposed, status.Declined, status.Void):
		return status.Declined
	case s == status.Declined && (n.anySays(status.Void) || n.allSay(status.Declined)):
		return status.Void
	}
	return s
}

// late reports whether it is time to decline what is proposed: its time to be committed is over, by this clock, or, if that
// is not known, by the word of a member that has declined.
func (n *Node) late(t moment) bool {
	if t.known {
		return t.past(n.view.Next.Decide)
	}
	return n.anySays(status.Declined)
}

// asking reports whether the node needs to know what the others hold.
func (n *Node) asking(t moment) bool {
	p := n.durable.Promise
	if n.view == nil || n.view.Legacy || p.Ref() != n.view.Next.Ref {
		return false
	}
	late := !t.known || t.past(n.view.Next.Decide)
	return p.State == status.Declined || p.State == status.Presumed || p.State == status.Proposed && !n.view.Next.commits() && late
}

// anySays reports whether another member is known to be in a state.
func (n *Node) anySays(s status.PromiseState) bool {
	for _, p := range n.words {
		if p.State == s {
			return true
		}
	}
	return false
}

// allSay reports whether each of the others is known to be in one of the states.
func (n *Node) allSay(states ...status.PromiseState) bool {
	for _, other := range n.view.Others {
		p, heard := n.words[other]
		said := false
		for _, s := range states {
			said = said || heard && p.State == s
		}
		if !said {
			return false
		}
	}
	return true
}

// due is the release that the schedule names at c, Number 0 if none. decided is false from the instant on of a switchover that
// may or may not be made, for all this node knows.
func (n *Node) due(t moment) (due status.Ref, decided bool) {
	if n.view == nil {
		return status.Ref{}, true
	}
	if next := n.view.Next; next.At != 0 && t.past(next.At) {
		switch state := n.state(t); {
		case state == status.Committed, state == status.Proposed && next.commits():
			return next.Ref, true
		case state != status.Void:
			return status.Ref{}, false
		}
	}
	if current := n.view.Current; t.past(current.At) {
		return current, true
	}
	return status.Ref{}, true
}

// durableFor reports whether a crash right after the first answer from due would leave the right floor.
func (n *Node) durableFor(due status.Ref) bool {
	p := n.durable.Promise
	return n.durable.Floor == due.Number || p.Ref() == due && p.State == status.Committed
}

// lapse is the end of the lease as this clock must judge it, or of the time that the node may be cut off, whichever comes first.
func (n *Node) lapse(t moment) instant.Wall {
	end := n.view.Expires.Add(-t.e)
	if n.hold > 0 {
		end = min(end, t.c.Add(n.hold-t.mono.Sub(n.reached)))
	}
	return end
}

// until is how long the due release holds while nothing but time changes, and what follows it. It lets the answer path
// switch at the very instant, however late the next decision is made.
func (n *Node) until(t moment, lapse instant.Wall) (instant.Wall, status.Ref) {
	next, state := n.view.Next, n.state(t)
	if next.At == 0 || t.past(next.At) || state == status.Void {
		return lapse, status.Ref{}
	}
	if t.e > n.view.Epsilon {
		return min(next.At.Add(-t.e), lapse), status.Ref{}
	}
	if next.At >= lapse {
		return lapse, status.Ref{}
	}
	if state == status.Committed && n.ready[next.Number] {
		return next.At, next.Ref
	}
	return next.At, status.Ref{}
}

// Codes of the reasons for silence (SYNC-F).
const (
	Drained          = "drained"           // an operator wants no answers from here
	NoView           = "no-release"        // the repository gave nothing that could be verified
	Struck           = "not-a-member"      // the mesh names members, and this node is none of them
	ClockUnknown     = "clock-unknown"     // no lease can be judged
	LeaseEnded       = "lease-ended"       // a newer one did not come
	Isolated         = "isolated"          // neither a distribution host nor a member was reached for as long as is allowed
	NearSwitchover   = "clock-too-wide"    // the clock's error is above ε around a switchover
	BeforeSwitchover = "before-switchover" // the only release named is of the future
	Undecided        = "undecided"         // a switchover was proposed, its instant has passed, and whether it is made is not known
	BelowFloor       = "below-floor"       // what is named is older than what was answered from before
	NotReady         = "not-ready"         // the named release is not verified and compiled
	NotDurable       = "not-durable"       // the floor is not on disk
)

// SilentCodes are all of them.
var SilentCodes = []string{Drained, NoView, Struck, ClockUnknown, LeaseEnded, Isolated, NearSwitchover, BeforeSwitchover, Undecided, BelowFloor,
	NotReady, NotDurable}

// silence lists every reason for which the node must not answer from due now.
func (n *Node) silence(t moment, due status.Ref, decided bool, floor uint64) []status.Reason {
	var why []status.Reason
	say := func(code, format string, args ...any) {
		why = append(why, status.Reason{Code: code, Detail: fmt.Sprintf(format, args...)})
	}
	if n.drained != "" {
		say(Drained, "%s", n.drained)
	}
	if n.view == nil {
		say(NoView, "no repository was verified yet")
		return why
	}
	v := n.view
	if v.Stranger {
		code, unwritten := Struck, ""
		if n.durable.Root != v.Root || n.durable.Under < v.Lease { // its word would have nobody wait for it
			code, unwritten = NotDurable, "; that is not on disk yet"
		}
		say(code, "lease %d does not name this node as a member: it was removed, or has another name there%s", v.Lease, unwritten)
	}
	switch gone := t.mono.Sub(n.reached); {
	case n.hold > 0 && n.reached == 0:
		say(Isolated, "neither a distribution host nor a member was reached since the start")
	case n.hold > 0 && gone >= n.hold:
		say(Isolated, "neither a distribution host nor a member was reached for %v", gone.Round(time.Second))
	}
	if !t.known {
		say(ClockUnknown, "%s: no lease can be judged", t.why)
		return why
	}
	if end := t.c.Add(t.e); end >= v.Expires {
		say(LeaseEnded, "lease %d ended at %v; get a newer one from the distribution host", v.Lease, v.Expires)
	}
	for _, s := range []status.Ref{v.Current, v.Next.Ref} {
		if s.At != 0 && t.e > v.Epsilon && t.near(s.At) {
			say(NearSwitchover, "the clock may be wrong by %v, above the mesh's %v, around the switchover to release %d at %v",
				t.e, v.Epsilon, s.Number, s.At)
		}
	}
	switch {
	case !decided:
		say(Undecided, "the switchover to release %d at %v was proposed, and whether it is made could not be learnt", v.Next.Number, v.Next.At)
	case v.Current.Number == 0 && due.Number == 0:
		say(NoView, "nothing was released yet")
	case due.Number == 0:
		say(BeforeSwitchover, "release %d begins at %v", v.Current.Number, v.Current.At)
	case due.Number < floor:
		say(BelowFloor, "release %d is older than release %d, which this node answered from or promised", due.Number, floor)
	case !n.ready[due.Number]:
		if r, ok := n.refused[due.Number]; ok {
			say(NotReady, "release %d was refused: %s", due.Number, r)
		} else {
			say(NotReady, "release %d is not verified and compiled yet", due.Number)
		}
	}
	return why
}

// stage says which releases to compile, which to hold, and which could not be taken. What is due, or becomes so next,
// is wanted; what is answered from is held until the next one has taken over.
func (n *Node) stage(d *Decision) {
	if n.view == nil {
		return
	}
	for _, number := range []uint64{n.view.Current.Number, n.view.Next.Number} {
		if number == 0 || number < d.Floor {
			continue
		}
		d.Keep = append(d.Keep, number)
		if !n.ready[number] {
			d.Stage = append(d.Stage, number)
		}
		if why, ok := n.refused[number]; ok {
			d.Refused = append(d.Refused, status.Refused{Number: number, Reason: why})
		}
	}
}

// confirms is what the node gives its word for now. A switchover is confirmed only while it is durable and not declined, its
// release ready, the clock within ε (CLOCK-1), and its instant surely ahead.
func (n *Node) confirms(t moment) status.Confirms {
	var c status.Confirms
	if n.view == nil {
		return c
	}
	for _, number := range []uint64{n.view.Current.Number, n.view.Next.Number} {
		if number != 0 && n.ready[number] {
			c.Staged = number
		}
	}
	p := n.durable.Promise
	kept := p.State == status.Proposed || p.State == status.Committed
	if kept && p.Ref() == n.view.Next.Ref && n.ready[p.Number] && t.known && t.e <= n.view.Epsilon && t.c.Add(t.e) < p.At {
		ref := p.Ref()
		c.Scheduled = &ref
	}
	return c
}

// wake is the next instant at which time alone changes something: a switchover, its edges, the end of the lease.
func (n *Node) wake(t moment) instant.Wall {
	if n.view == nil || !t.known {
		return 0
	}
	var wake instant.Wall
	consider := func(w instant.Wall) {
		if w > t.c && (wake == 0 || w < wake) {
			wake = w
		}
	}
	for _, s := range []status.Ref{n.view.Current, n.view.Next.Ref} {
		if s.At != 0 {
			consider(s.At)
			consider(s.At.Add(-t.e))
			consider(s.At.Add(t.e + 1))
		}
	}
	consider(n.view.Next.Decide)
	consider(n.lapse(t))
	return wake
}
