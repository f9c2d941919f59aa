// Package mesh decides which release a node answers from, or that it is silent and why (Node), and at which instant the
// distribution host may let the mesh switch over (Plan).
//
// It is pure: it may import instant and status and nothing that touches network, disk, clock or goroutine. The plugin
// meshsync feeds a Node and carries out what it decides; meshctl and the sidecar's tests use Plan; a simulation can run
// a thousand of both.
//
// A node serves release R at its clock's time c, with error bound e, only if all of these hold:
//
//	R is what the schedule it holds names at c                     SYNC-E
//	R is verified and compiled by itself                           SYNC-D, SYNC-F
//	R is not below its floor, and the floor is durable             SYNC-G
//	it holds a lease that permits R and has not ended at c + e     SYNC-H
//	e is at most ε, or no switchover lies in [c - e, c + e]        CLOCK-1
package mesh

import (
	"fmt"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/instant"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
)

// View is what a verified repository says: which release is to be answered from until when. It is a lease (its expiry)
// and a schedule in one.
type View struct {
	Lease   int64        // version of the lease; grows with each one signed
	Expires instant.Wall // the end of the lease
	Epsilon time.Duration
	Current status.Ref // Number 0: nothing was released yet
	Next    status.Ref // Number 0: nothing is staged; At 0: no switchover is set
}

// Durable is what a node must not forget, whatever happens to it: the floor, and the switchover it may have confirmed.
// Once the switchover's instant has passed, the floor is its release without anything having been written (SYNC-G).
type Durable struct {
	Floor     uint64      `json:"floor"`
	Scheduled *status.Ref `json:"scheduled,omitempty"`
}

// Equal reports whether a and b are the same promise.
func (a Durable) Equal(b Durable) bool {
	return a.Floor == b.Floor && sameRef(a.Scheduled, b.Scheduled)
}

func sameRef(a, b *status.Ref) bool {
	if a == nil || b == nil {
		return a == b
	}
	return *a == *b
}

// Node holds the facts that one node knows. Methods take facts in; Decide gives the decision. It is not safe for
// concurrent use: its caller has one goroutine for it.
type Node struct {
	durable Durable
	view    *View
	ready   map[uint64]bool
	refused map[uint64]status.Reason
	clock   instant.Sample
	drained string // why an operator wants no answers from here; empty: they are wanted
	served  uint64 // highest release that this process answered from, or the one before may have
	judged  bool   // the schedule found on disk was judged by a known clock
}

// NewNode starts a node from what its disk says. durable is the zero value on a node that never ran.
func NewNode(durable Durable) *Node {
	return &Node{durable: durable, ready: map[uint64]bool{}, refused: map[uint64]status.Reason{}}
}

// Learn takes in a verified view. The caller sees to it that views never go backwards (release.Verify). Why a release
// could not be taken that is named no more, is forgotten.
func (n *Node) Learn(v View) {
	n.view = &v
	for number := range n.refused {
		if number != v.Current.Number && number != v.Next.Number {
			delete(n.refused, number)
		}
	}
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
	Wake     instant.Wall    // when time alone may next change the decision; 0: never
	Until    instant.Wall    // how long Serve holds if nothing but time changes; 0 when silent
	Then     status.Ref      // what follows Serve at Until, if that is sure already; Number 0: silence, or not sure
	Lapse    instant.Wall    // the lease's end as this clock must judge it
	Confirms status.Confirms // what the node gives its word for
	Holds    *status.Ref     // the switchover that is durable, confirmed or not; nil if none
	Floor    uint64
	Clock    status.ClockState
	Refused  []status.Refused
}

// Decide says what to do at now. It changes nothing that is decided later, but for what was answered from: the floor of
// this process.
func (n *Node) Decide(now instant.Instant) Decision {
	bound, known, why := n.clock.Error(now)
	d := Decision{Clock: status.ClockState{Known: known, Bound: bound, Source: n.clock.Source, Reason: why}}
	t := moment{c: now.Wall, e: bound, known: known, why: why}
	n.judge(t)
	want := n.promise(t)
	d.Floor = want.Floor
	due := n.due(t)
	d.Silent = n.silence(t, due, d.Floor)
	if len(d.Silent) == 0 {
		want.Floor = max(want.Floor, due.Number)
		if n.durableFor(t, due) {
			d.Serve, d.At, n.served = due.Number, due.At, max(n.served, due.Number)
			d.Lapse = n.view.Expires.Add(-t.e)
			d.Until, d.Then = n.until(t, d.Lapse)
		} else {
			d.Silent = []status.Reason{{Code: NotDurable, Detail: fmt.Sprintf("the floor of release %d is not on disk yet", due.Number)}}
		}
	}
	if !want.Equal(n.durable) {
		d.Persist = &want
	}
	if s := n.durable.Scheduled; s != nil {
		held := *s
		d.Holds = &held
	}
	n.stage(&d)
	d.Confirms = n.confirms(t)
	d.Wake = n.wake(t)
	return d
}

// moment is now as the wall clock tells it: c, wrong by at most e when known, or why it is not.
type moment struct {
	c     instant.Wall
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

// judge judges the schedule that was found on disk, once, as soon as it can be, and pessimistically at c + e + ε: the
// process before may have answered at its own clock's T, which was wrong by up to ε. The judgement holds though it may
// take a while to be durable.
func (n *Node) judge(t moment) {
	if n.judged || !t.known || n.view == nil {
		return
	}
	n.judged = true
	if s := n.durable.Scheduled; s != nil && t.c.Add(t.e+n.view.Epsilon) >= s.At {
		n.served = max(n.served, s.Number)
	}
}

// promise is what ought to be durable: the floor as the time makes it, and the switchover that the view sets.
//
// A schedule held is replaced (postponed, cancelled) only under a known clock, since it must be judged first whether
// its instant has passed: if so, the node may have answered from its release, and that release is the floor. What was
// answered from is the floor, whatever the clock says since.
func (n *Node) promise(t moment) Durable {
	want := n.durable
	want.Floor = max(want.Floor, n.served)
	if !t.known || n.view == nil {
		return want.made()
	}
	if s := want.Scheduled; s != nil && t.past(s.At) {
		want.Floor = max(want.Floor, s.Number)
	}
	want = want.made()
	next := n.view.Next
	if next.Number > want.Floor && next.At != 0 && !t.past(next.At) {
		want.Scheduled = &next
	} else if want.Scheduled != nil && *want.Scheduled != next {
		want.Scheduled = nil
	}
	return want
}

// made is d without a switchover to a release that is not above the floor.
func (d Durable) made() Durable {
	if d.Scheduled != nil && d.Scheduled.Number <= d.Floor {
		d.Scheduled = nil
	}
	return d
}

// due is the release that the schedule names at c; Number 0 if none.
func (n *Node) due(t moment) status.Ref {
	if n.view == nil {
		return status.Ref{}
	}
	if next := n.view.Next; next.Number != 0 && next.At != 0 && t.past(next.At) {
		return next
	}
	if current := n.view.Current; t.past(current.At) {
		return current
	}
	return status.Ref{}
}

// durableFor reports whether a crash right after the first answer from due would leave the right floor.
func (n *Node) durableFor(t moment, due status.Ref) bool {
	s := n.durable.Scheduled
	return n.durable.Floor == due.Number || s != nil && *s == due && t.past(s.At)
}

// until is how long the due release holds while nothing but time changes, and what follows it. It lets the answer path
// switch at the very instant, however late the next decision is made.
func (n *Node) until(t moment, lapse instant.Wall) (instant.Wall, status.Ref) {
	next := n.view.Next
	if next.Number == 0 || next.At == 0 || t.past(next.At) || next.At >= lapse {
		return lapse, status.Ref{}
	}
	if t.e > n.view.Epsilon {
		return next.At.Add(-t.e), status.Ref{}
	}
	if s := n.durable.Scheduled; s != nil && *s == next && n.ready[next.Number] {
		return next.At, next
	}
	return next.At, status.Ref{}
}

// Codes of the reasons for silence (SYNC-F).
const (
	Drained          = "drained"           // an operator wants no answers from here
	NoView           = "no-release"        // the repository gave nothing that could be verified
	ClockUnknown     = "clock-unknown"     // no lease can be judged
	LeaseEnded       = "lease-ended"       //
	NearSwitchover   = "clock-too-wide"    // the clock's error is above ε around a switchover
	BeforeSwitchover = "before-switchover" // the only release named is of the future
	BelowFloor       = "below-floor"       // what is named is older than what was answered from before
	NotReady         = "not-ready"         // the named release is not verified and compiled
	NotDurable       = "not-durable"       // the floor is not on disk
)

// silence lists every reason for which the node must not answer from due now.
func (n *Node) silence(t moment, due status.Ref, floor uint64) []status.Reason {
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
	if !t.known {
		say(ClockUnknown, "%s: no lease can be judged", t.why)
		return why
	}
	if end := t.c.Add(t.e); end >= v.Expires {
		say(LeaseEnded, "lease %d ended at %v; get a newer one from the distribution host", v.Lease, v.Expires)
	}
	for _, s := range []status.Ref{v.Current, v.Next} {
		if s.At != 0 && t.e > v.Epsilon && t.near(s.At) {
			say(NearSwitchover, "the clock may be wrong by %v, above the mesh's %v, around the switchover to release %d at %v",
				t.e, v.Epsilon, s.Number, s.At)
		}
	}
	switch {
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
	wanted := []uint64{n.view.Current.Number, n.view.Next.Number}
	if next := n.view.Next; next.Number != 0 && d.Floor >= next.Number {
		wanted = []uint64{next.Number}
	}
	for _, number := range wanted {
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

// confirms is what the node gives its word for now. A switchover is confirmed only while it is durable, its release
// ready, the clock within ε (CLOCK-1), and its instant surely ahead.
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
	s := n.durable.Scheduled
	if s != nil && *s == n.view.Next && n.ready[s.Number] && t.known && t.e <= n.view.Epsilon && t.c.Add(t.e) < s.At {
		ref := *s
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
	for _, s := range []status.Ref{n.view.Current, n.view.Next} {
		if s.At != 0 {
			consider(s.At)
			consider(s.At.Add(-t.e))
			consider(s.At.Add(t.e + 1))
		}
	}
	consider(n.view.Expires.Add(-t.e))
	return wake
}
