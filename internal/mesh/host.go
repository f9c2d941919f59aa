package mesh

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/instant"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
)

// State is what the distribution hosts of a mesh share, as far as the protocol needs it: what is published, and what must
// not be forgotten. It is replaced as a whole, on condition that it is the one that was read.
type State struct {
	Mesh    string
	Version int64        // of the lease in force; grows by one with each that is signed
	Expires instant.Wall // the end of that lease
	Limit   instant.Wall // no lease may go beyond: the end of the roles' keys' word; 0: none
	Epsilon time.Duration
	Members []string
	Current Release
	Next    Switchover
	Ledger
}

// Release is a release that is answered from. Number 0: none.
type Release struct {
	status.Ref
	Signed instant.Wall // the first end of a signature in its zones; 0: none
}

// Switchover is the release that is staged, Number 0 for none, and the switchover to it, At 0 for none.
type Switchover struct {
	status.Ref
	Signed    instant.Wall // as in Release
	Decide    instant.Wall // when members that know of no commit begin to ask each other
	Committed bool
	Presumed  bool     // the commit is to count as taken: members find it void no more (Host.presumed)
	Without   []string // members that are not waited for, sorted
}

// Ledger is what the hosts must not forget beside what is published.
type Ledger struct {
	Highest uint64       `json:"highest"`           // highest release number ever published: never used again
	At      instant.Wall `json:"at_ns,omitempty"`   // when the state was last replaced, by the clock of who did
	Leases  []Lease      `json:"leases,omitempty"`  // that may be alive somewhere
	Away    []Away       `json:"away,omitempty"`    // members that gave no answer, by name
	Leaving []Leaving    `json:"leaving,omitempty"` // members that were removed and may not know it, by name
	Paused  string       `json:"paused,omitempty"`  // why no switchover is proposed until an operator says so; empty: they are
}

// Lease is the latest end of all leases that were signed under one schedule. It is on record before such a lease leaves.
type Lease struct {
	Number  uint64       `json:"number"`          // the next release that they name; 0 for none
	At      instant.Wall `json:"at_ns,omitempty"` // its switchover; 0 for none
	Expires instant.Wall `json:"expires_ns"`
}

// Leaving is a member that was removed. It is waited for like one that is away, until it says that it knows.
type Leaving struct {
	Member string       `json:"member"`
	Lease  int64        `json:"lease"` // the first that leaves it out: an older one may be from before it was a member
	Since  instant.Wall `json:"since_ns"`
	Lapses instant.Wall `json:"lapses_ns"` // by then it answers no more, whatever it has heard
}

// Away is a member that no host has heard from, and since when.
type Away struct {
	Member  string       `json:"member"`
	Since   instant.Wall `json:"since_ns"`
	Drained bool         `json:"drained,omitempty"` // out of service when it was last heard from: nobody waits for it
}

// keepLeases is how long after its end a lease is still on record, in case a host's clock was ahead.
const keepLeases = 24 * time.Hour

// LapsedBy is E*: from then on no member answers from a release before the switchover, whatever it has heard or not, but for
// members that know of the switchover. A lease under an earlier one lasts to its end: a member that has it, and found that
// switchover void, answers from the release before until then.
func (s State) LapsedBy(ref status.Ref) instant.Wall {
	var end instant.Wall
	for _, l := range s.Leases {
		if l.Number == ref.Number && l.At == ref.At && ref.At != 0 {
			continue
		}
		end = max(end, l.Expires)
	}
	return end
}

// Granted is s with a new lease of length d, which is on record.
func (s State) Granted(now instant.Wall, d time.Duration) State {
	s.Version++
	s.Expires = s.capped(now, now.Add(d))
	return s.Recorded(now)
}

// Recorded is s with the lease in force on record.
func (s State) Recorded(now instant.Wall) State {
	s.Ledger = s.Owed(Lease{Number: s.Next.Number, At: s.Next.At, Expires: s.Expires}, now)
	return s.stamped(now)
}

// Owed is l with a lease that may be alive.
func (l Ledger) Owed(made Lease, now instant.Wall) Ledger {
	var kept []Lease
	for _, old := range l.Leases {
		switch {
		case old.Number == made.Number && old.At == made.At:
			made.Expires = max(made.Expires, old.Expires)
		case old.Expires.Add(keepLeases) >= now:
			kept = append(kept, old)
		}
	}
	l.Leases = append(kept, made)
	return l
}

func (s State) stamped(now instant.Wall) State {
	s.At = max(s.At, now)
	s.Highest = max(s.Highest, s.Current.Number, s.Next.Number)
	return s
}

// capped ends a lease with whatever it leans on. Signatures that have ended already do not keep a release from members
// that brings new ones.
func (s State) capped(now, end instant.Wall) instant.Wall {
	if s.Limit != 0 {
		end = min(end, s.Limit)
	}
	if s.Current.Signed != 0 && !(s.Next.Number != 0 && s.Current.Signed <= now) {
		end = min(end, s.Current.Signed)
	}
	if s.Next.Signed != 0 {
		end = min(end, s.Next.Signed)
	}
	return end
}

// away reports whether it is on record that a member is away.
func (s State) away(member string) bool {
	return slices.ContainsFunc(s.Away, func(a Away) bool { return a.Member == member })
}

// withdrawn is s without a switchover. The release stays staged.
func (s State) withdrawn() State {
	s.Next.At, s.Next.Decide, s.Next.Committed, s.Next.Presumed, s.Next.Without = 0, 0, false, false, nil
	return s
}

// unused is the first instant from at on, in whole microseconds, that no switchover to a release was ever proposed for: what
// members say of an earlier proposal must not be taken for a word about this one.
func (s State) unused(number uint64, at instant.Wall) instant.Wall {
	const step = instant.Wall(time.Microsecond)
	at = wholeMicros(at + step - 1)
	for slices.ContainsFunc(s.Leases, func(l Lease) bool { return l.Number == number && l.At == at }) {
		at += step
	}
	return at
}

// wholeMicros is w in whole microseconds, as a manifest tells instants, and never later.
func wholeMicros(w instant.Wall) instant.Wall {
	return w / instant.Wall(time.Microsecond) * instant.Wall(time.Microsecond)
}

// Policy is how an operator wants switchovers made.
type Policy struct {
	Lease  time.Duration // how long a lease lasts
	Renew  time.Duration // how old one may get; no older than a third of its length, so that an alarm at half of it has a reason
	Lead   time.Duration // from the proposal to the switchover; 0: as short as is safe
	Absent Absent
	Manual bool // switchovers are proposed by an operator's order only
}

// Absent is when publication goes on without a member that no host has heard from, or that cannot switch. What that risks: one
// that was not heard from may answer from the release before until its lease ends, if it lives and clients reach it.
type Absent struct {
	After time.Duration // so long after it was last heard from, or could
	Lapse bool          // of one that was not heard from, when its lease has surely ended, instead: no risk, and late
}

// DefaultAbsent is how long a member may be away before publication goes on without it.
const DefaultAbsent = 10 * time.Minute

// DefaultHears is how long a member is taken to need to hear of what is published when it has not said.
const DefaultHears = 3 * time.Second

// Word is what one member said of itself, as far as the protocol needs it.
type Word struct {
	Mesh     string
	At       instant.Wall // its clock, when it said so
	Lease    int64        // version of the lease it holds
	Serving  uint64
	Floor    uint64
	Confirms status.Confirms
	Promise  status.Promise
	Clock    status.ClockState
	Leap     bool // its clock expects a leap second at the end of the month
	Refused  []status.Refused
	Struck   bool          // it knows that it is no member any more, and is silent
	Drained  bool          // out of service, its route withdrawn
	Hears    time.Duration // the longest that it took lately to hear of what is published; 0: it does not say
	Format   int           // the newest format of manifests that it reads; 0 is 1
	Fault    string        // why it cannot fetch the repository; empty: it can
}

// WordOf is what the protocol needs of a confirmation.
func WordOf(c status.Confirmation) Word {
	struck := slices.ContainsFunc(c.Silent, func(r status.Reason) bool { return r.Code == Struck })
	return Word{Mesh: c.Mesh, At: c.At, Lease: c.Lease, Serving: c.Serving, Floor: c.Floor, Confirms: c.Confirms, Promise: c.Promise,
		Clock: c.Clock, Leap: c.Leap, Refused: c.Refused, Struck: struck, Drained: c.Drained, Hears: c.Hears, Format: c.Format, Fault: c.MirrorError}
}

// Host holds the facts that one distribution host knows. Methods take facts in; Decide gives the decision. Hosts agree by
// their shared State alone. It is not safe for concurrent use.
type Host struct {
	policy    Policy
	leaseOnly bool // the key that releases are signed with is not here
	state     State
	members   map[string]*heard
	began     instant.Instant // when the last round of questions did
	sure      instant.Instant // when a member last said that this host's clock is right
	order     Order
	failed    status.Ref   // the proposal that this host withdrew last
	again     instant.Mono // no proposal is made before
	tries     int          // proposals that this host withdrew in a row
}

// heard is what a host knows of one member in this process.
type heard struct {
	word   Word
	here   bool          // it answered in the last round
	lost   instant.Mono  // the first round in a row that it did not answer; 0: it does
	doubt  bool          // another host heard from it meanwhile: this one may be deaf
	unfit  instant.Mono  // the first round in a row that it answered, and could not switch; 0: it could
	missed int           // switchovers in a row that it did not promise while it answered: it did not hear, or could not write
	since  instant.Mono  // when the first of them was withdrawn
	given  status.Ref    // the switchover that it gave its word for last
	apart  time.Duration // how far its clock and this host's are apart at the least, in the last round
	why    string        // why it gave no answer
}

// Order is what an operator asks for beside the policy.
type Order struct {
	At    instant.Wall // the instant of the switchover; 0: as soon as is safe
	Force bool         // whatever speaks against it
}

// NewHost starts a host that knows nothing yet.
func NewHost(p Policy) *Host { return &Host{policy: p, members: map[string]*heard{}} }

// Read takes in the state that is in force. It is to be called before each round of questions.
func (h *Host) Read(s State) {
	known := h.members
	for _, a := range h.state.Away {
		if m := known[a.Member]; m != nil && m.lost != 0 && !s.away(a.Member) {
			m.lost, m.doubt = 0, true
		}
	}
	h.state, h.members = s, make(map[string]*heard, len(known))
	for _, name := range h.Ask() {
		if h.members[name] = known[name]; known[name] == nil {
			h.members[name] = &heard{}
		}
	}
}

// LeaseOnly keeps the host to leases, or not: the key that releases are signed with is not here.
func (h *Host) LeaseOnly(only bool) { h.leaseOnly = only }

// Ordered takes in an operator's order.
func (h *Host) Ordered(o Order) { h.order = o }

// Ask are those whose word the next round should bring: all members, and those that have left and may not know.
func (h *Host) Ask() []string {
	all := slices.Clone(h.state.Members)
	for _, l := range h.state.Leaving {
		all = append(all, l.Member)
	}
	return all
}

// Answer is what came of one question.
type Answer struct {
	Word *Word  // nil: there was no answer
	Why  string // why there was none
}

// Asked takes in a round of questions that began and ended then. A member without an entry was not asked.
func (h *Host) Asked(answers map[string]Answer, began, ended instant.Instant) {
	h.began = began
	for name, a := range answers {
		m := h.members[name]
		if m == nil {
			continue
		}
		m.here = a.Word != nil
		if !m.here {
			m.why = a.Why
			m.lost = cmp.Or(m.lost, ended.Mono)
			continue
		}
		m.word, m.lost, m.doubt = *a.Word, 0, false
		m.apart = apart(a.Word.At, began.Wall, ended.Wall)
		if m.word.Promise.Ref() == h.state.Next.Ref && h.state.Next.At != 0 {
			m.missed, m.since = 0, 0
		}
		if ref := a.Word.Confirms.Scheduled; ref != nil {
			m.given = *ref
		}
		if why := h.lacks(name); why == nil || h.state.Next.Number == 0 {
			m.unfit = 0
		} else {
			m.unfit = cmp.Or(m.unfit, ended.Mono)
		}
	}
	if h.vouched() && steps(began, ended) <= h.state.Epsilon {
		h.sure = ended
	}
}

// hears reports whether a member has heard of the lease that is in force.
func (h *Host) hears(w Word) bool { return w.Mesh == h.state.Mesh && w.Lease >= h.state.Version }

// apart is how far a clock that said at is from one that said began before and ended after, at the least.
func apart(at, began, ended instant.Wall) time.Duration {
	switch {
	case at < began:
		return began.Sub(at)
	case at > ended:
		return at.Sub(ended)
	}
	return 0
}

// HostDecision is what a distribution host has to do. All of it may be repeated without harm.
type HostDecision struct {
	Publish *State       // to replace the state that was read with; nil: nothing
	Event   string       // what that is
	Detail  []Missing    // and what spoke against it
	By      instant.Wall // give it up unless it is done by then; 0: at any time
	Against []Missing    // what keeps the staged release from being switched to; nil: nothing
	Wake    instant.Wall // when time alone may next change the decision; 0: at the next round
	Alarms  []status.Reason
}

// Events that a host publishes.
const (
	EventProposed  = "proposed"
	EventCommitted = "committed"
	EventPresumed  = "presumed" // that the commit was taken
	EventWithdrawn = "withdrawn"
	EventSettled   = "settled"
	EventRenewed   = "renewed"
	EventMarked    = "marked" // who is away
)

// Missing is a member that does not have what the step needs, and why.
type Missing struct {
	Member string        `json:"member"`
	Why    status.Reason `json:"why"`
}

func (m Missing) String() string { return m.Member + ": " + m.Why.String() }

// Codes of what speaks against a switchover or a publication, beside those of a node that is silent.
const (
	Unreachable   = "unreachable"    // a member gave no answer
	WrongMesh     = "wrong-mesh"     // it follows another mesh
	OldFormat     = "old-format"     // it does not read what would be published
	LeapSecond    = "leap-second"    // its clock expects one near the instant
	ClockDiffers  = "clock-differs"  // its clock and this host's cannot both be right
	Unconfirmed   = "unconfirmed"    // it has not confirmed the switchover
	NotHearing    = "not-hearing"    // it answers, and hears of nothing that is published
	Removed       = "removed"        // it was removed, and may not know yet
	TooEarly      = "too-early"      // the instant, or the lead, asked for leaves members too little time
	Paused        = "paused"         // an operator wants no switchovers
	TooFew        = "too-few"        // fewer than half of the members can switch
	HostClock     = "host-clock"     // this host's clock is wrong, or most members' are
	StateRestored = "state-restored" // members have a newer lease than the state: it was restored from an older copy
	MembersAway   = "members-away"   // members were not heard from
	NotDecided    = "undecided"      // a committed switchover has been declined by some, and others cannot be asked
)

// freshFor is how old a round of questions may be that anything is decided by: this host may have been stopped since.
const freshFor = 10 * time.Second

// Decide says what to do at now. It does nothing by a round of questions that is old.
func (h *Host) Decide(now instant.Instant) HostDecision {
	var d HostDecision
	h.alarms(now, &d)
	if h.began.Mono != 0 && now.Mono.Sub(h.began.Mono) > freshFor {
		return d
	}
	if why := h.forbids(now); why != nil {
		d.Alarms = append(d.Alarms, *why)
		d.Against = []Missing{{"distribution host", *why}}
		return d
	}
	if !h.leaseOnly {
		switch next := h.state.Next; {
		case next.Number == 0:
		case next.Committed:
			h.settle(now, &d)
		case next.At != 0:
			h.carry(now, &d)
		default:
			h.propose(now, &d)
		}
	}
	if d.Publish == nil {
		h.mark(now, &d)
	}
	if d.Publish == nil {
		h.renew(now, &d)
	}
	return d
}

// publish has s published under a new lease.
func (h *Host) publish(d *HostDecision, now instant.Instant, s State, event string, detail []Missing) {
	s = s.Granted(now.Wall, h.policy.Lease)
	if h.vouched() { // a clock that was ahead once holds up nobody for as long
		s.At = now.Wall
	}
	d.Publish, d.Event, d.Detail = &s, event, detail
}

// vouched reports whether a member's clock says that this host's is right.
func (h *Host) vouched() bool {
	for _, m := range h.members {
		if m.here && h.vouches(m) {
			return true
		}
	}
	return false
}

// forbids is why this host must publish nothing now: its state or its clock is not to be trusted.
func (h *Host) forbids(now instant.Instant) *status.Reason {
	right, wrong := 0, 0
	for name, m := range h.members {
		if !m.here {
			continue
		}
		if m.word.Lease > h.state.Version && m.word.Mesh == h.state.Mesh {
			return &status.Reason{Code: StateRestored, Detail: fmt.Sprintf(
				"%s has lease %d, and the state of the distribution hosts knows of %d only: another host has published just now, or the state was restored from an older copy (meshctl recover)",
				name, m.word.Lease, h.state.Version)}
		}
		switch {
		case h.vouches(m):
			right++
		case m.word.Clock.Known && h.differs(m):
			wrong++
		}
	}
	stepped, since := steps(h.began, now), steps(h.sure, now)
	switch {
	case h.began.Mono != 0 && stepped > h.state.Epsilon:
		return &status.Reason{Code: HostClock, Detail: fmt.Sprintf("this host's clock stepped by %v since it asked the members", stepped.Round(time.Millisecond))}
	case wrong > right:
		return &status.Reason{Code: HostClock, Detail: fmt.Sprintf("the clocks of %d of %d members that know the time differ from this host's by more than 2 × %v", wrong, wrong+right, h.state.Epsilon)}
	case h.sure.Mono != 0 && since > h.state.Epsilon+now.Mono.Sub(h.sure.Mono)/1000:
		return &status.Reason{Code: HostClock, Detail: fmt.Sprintf("this host's clock stepped by %v since a member last said that it is right", since.Round(time.Millisecond))}
	case right == 0 && now.Wall.Add(2*h.state.Epsilon) < h.state.At:
		return &status.Reason{Code: HostClock, Detail: fmt.Sprintf("the last publication was at %v, which this host's clock has not reached, and no member says that it is right", h.state.At)}
	}
	return nil
}

// steps is by how much the wall clock was set between two instants.
func steps(from, to instant.Instant) time.Duration {
	return (to.Wall.Sub(from.Wall) - to.Mono.Sub(from.Mono)).Abs()
}

// vouches reports whether a member's clock says that this host's is right. One that may be wrong by more than ε says nothing.
func (h *Host) vouches(m *heard) bool {
	return m.word.Clock.Known && m.word.Clock.Bound <= h.state.Epsilon && !h.differs(m)
}

// differs reports whether a member's clock and this host's cannot both be as right as they should be.
func (h *Host) differs(m *heard) bool { return m.apart > 2*h.state.Epsilon+m.word.Clock.Bound }

// timing are the times of a switchover that is proposed at now. Each half is enough for all members to hear of what is
// published, to make it durable and to say so: one to confirm the proposal, one to hear of the commit, and two to ask each
// other and decline, if they do not.
type timing struct{ half time.Duration }

// settleTime is what a member needs beside hearing: to write, and to be asked.
const settleTime = time.Second

func (h *Host) timing() timing {
	hears := time.Duration(0) // if nobody answers, nobody is waited for
	for _, name := range h.state.Members {
		if m := h.members[name]; m.here {
			hears = max(hears, cmp.Or(m.word.Hears, DefaultHears))
		}
	}
	return timing{hears + settleTime + 4*h.state.Epsilon}
}

// lead is the shortest time from a proposal to its switchover.
func (t timing) lead() time.Duration { return 4 * t.half }

// decide is when members begin to ask each other, for a switchover at an instant.
func (t timing) decide(at instant.Wall) instant.Wall { return at.Add(-2 * t.half) }

// Lead is the shortest time from a proposal to its switchover, by what members say of how long they take to hear of it.
func (h *Host) Lead() time.Duration { return h.timing().lead() }

// propose proposes a switchover to what is staged, as soon as all can make it who are waited for.
func (h *Host) propose(now instant.Instant, d *HostDecision) {
	if h.policy.Manual {
		return
	}
	if h.state.Paused != "" && h.order.At == 0 && !h.order.Force {
		d.Against = []Missing{{"switchover", status.Reason{Code: Paused, Detail: h.state.Paused}}}
		return
	}
	lacking := h.lacking(now)
	without, against := h.excused(now, lacking)
	at, more := h.instant(now, without)
	against = append(against, more...)
	if len(against) > 0 && !h.order.Force {
		d.Against = against
		return
	}
	if now.Mono < h.again && !h.order.Force {
		d.Against = []Missing{{"switchover", status.Reason{Code: Unconfirmed, Detail: "the last one that was proposed was not confirmed in time; the next is proposed in a moment"}}}
		return
	}
	detail := append(against, lackingOf(lacking, without)...)
	if h.order.Force {
		without = h.forced(lacking)
	}
	s := h.state
	s.Next.At = s.unused(s.Next.Number, at)
	s.Next.Decide = wholeMicros(h.timing().decide(s.Next.At))
	s.Next.Without = slices.Sorted(slices.Values(without))
	h.publish(d, now, s, EventProposed, detail)
	d.By = now.Wall.Add(h.timing().half / 2)
}

// instant is when the switchover is to be, and what speaks against that.
func (h *Host) instant(now instant.Instant, without []string) (at instant.Wall, against []Missing) {
	earliest := now.Wall.Add(h.timing().lead())
	unknowing := slices.ContainsFunc(without, func(name string) bool {
		m := h.members[name]
		return m.here && m.missed > 0 || h.policy.Absent.Lapse && !m.running()
	})
	if unknowing {
		earliest = max(earliest, h.state.LapsedBy(status.Ref{}).Add(2*h.state.Epsilon))
	}
	at = max(earliest, now.Wall.Add(h.policy.Lead))
	if h.policy.Lead != 0 && h.policy.Lead < h.timing().lead() {
		against = append(against, Missing{"switchover", status.Reason{Code: TooEarly, Detail: fmt.Sprintf(
			"a lead of %v is configured, and members need %v to hear of a switchover, confirm it, and hear that it is made", h.policy.Lead, h.timing().lead())}})
	}
	if h.order.At != 0 {
		at = h.order.At
		if at < earliest {
			against = append(against, Missing{"switchover", status.Reason{Code: TooEarly, Detail: fmt.Sprintf("%v was asked for, %v is the earliest that is safe", at, earliest)}})
			at = earliest
		}
	}
	return at, append(against, h.leaping(at)...)
}

// lacking are the members that cannot switch now, and why. Those who did not promise what was proposed to them are of these only
// if the others are enough: if not, they are asked for their promise again, since nothing else shows that they give it by now.
func (h *Host) lacking(now instant.Instant) (all []Missing) {
	var unwilling []Missing
	for _, name := range h.state.Members {
		if why := h.lacks(name); why != nil {
			all = append(all, Missing{name, *why})
		} else if m := h.members[name]; h.unwilling(now, m) {
			unwilling = append(unwilling, Missing{name, status.Reason{Code: Unconfirmed, Detail: fmt.Sprintf("it has promised none of the last %d switchovers that were proposed: see to its disk", m.missed)}})
		}
	}
	if 2*(len(all)+len(unwilling)) <= len(h.state.Members) {
		all = append(all, unwilling...)
	}
	return all
}

// unwilling reports whether a member has not promised what was proposed to it for as long as a member may be away.
func (h *Host) unwilling(now instant.Instant, m *heard) bool {
	return m.missed >= 3 && now.Mono.Sub(m.since) >= h.policy.Absent.After
}

// excused are the lacking members that need not be waited for, and what speaks against a switchover without them. At least
// half of the members must be fit, so that a fault that they share does not pass for theirs.
func (h *Host) excused(now instant.Instant, lacking []Missing) (without []string, against []Missing) {
	for _, l := range lacking {
		if h.excusable(now, l.Member) {
			without = append(without, l.Member)
		} else {
			against = append(against, l)
		}
	}
	if fit := len(h.state.Members) - len(lacking); len(against) == 0 && len(without) > 0 && fit < len(without) {
		for _, l := range lacking {
			l.Why.Detail += fmt.Sprintf("; it is not gone on without, since fewer than half of the members (%d of %d) can switch", fit, len(h.state.Members))
			against = append(against, Missing{l.Member, status.Reason{Code: TooFew, Detail: l.Why.Detail}})
		}
	}
	for _, l := range h.state.Leaving {
		against = append(against, Missing{l.Member, status.Reason{Code: Removed, Detail: "it was removed, and has not said that it knows"}})
	}
	return without, against
}

// running reports whether a member answers, and not only the sidecar of one that is drained and stopped.
func (m *heard) running() bool {
	return m.here && !(m.word.Drained && m.word.Lease == 0 && m.word.Serving == 0)
}

// excusable reports whether a member that cannot switch is not waited for: it is drained and stopped, or has been away, or unfit,
// for long. One that refuses the release is always waited for: it may be the release that is wrong.
func (h *Host) excusable(now instant.Instant, name string) bool {
	m := h.members[name]
	if m.here {
		refuses := m.word.Format < Format || slices.ContainsFunc(m.word.Refused, func(r status.Refused) bool {
			return r.Number == h.state.Next.Number && r.Reason.Code != lacksFile
		})
		unfit := m.unfit != 0 && now.Mono.Sub(m.unfit) >= h.policy.Absent.After
		return !m.running() || !refuses && unfit || h.unwilling(now, m)
	}
	i := slices.IndexFunc(h.state.Away, func(a Away) bool { return a.Member == name })
	if i < 0 {
		return false
	}
	a := h.state.Away[i]
	return a.Drained || h.policy.Absent.Lapse || now.Wall.Sub(a.Since) >= h.policy.Absent.After
}

// lacksFile is the code of a release that a member refuses because a file of it did not come: nothing is wrong with the release.
const lacksFile = "missing"

// carry sees a proposal through: it is committed when all have given their word, and withdrawn when that is too late.
func (h *Host) carry(now instant.Instant, d *HostDecision) {
	t, next := h.timing(), h.state.Next
	last := next.Decide.Add(-t.half / 2)
	d.Against = h.unconfirmed(next)
	declined := slices.ContainsFunc(d.Against, func(m Missing) bool { return h.members[m.Member] != nil && h.declines(m.Member) })
	switch {
	case h.sooner(now):
		h.publish(d, now, h.state.withdrawn(), EventWithdrawn, d.Against)
	case now.Wall >= last || declined:
		h.publish(d, now, h.state.withdrawn(), EventWithdrawn, d.Against)
		if len(d.Against) > 0 {
			h.back(now, next.Ref)
		}
	case len(d.Against) == 0 || h.order.Force && h.promised() && now.Wall >= last.Add(-t.half/2):
		if from := next.Decide.Add(-2 * t.half); now.Wall < from {
			d.Wake = from // until then it can be taken back
			return
		}
		s := h.state
		s.Next.Committed = true
		h.publish(d, now, s, EventCommitted, d.Against)
		d.By = next.Decide
	default:
		d.Wake = last
	}
}

// promised reports whether all who decide have promised the switchover that is published. Nobody forces a commit on one that has not:
// it may find the switchover void meanwhile, since it heard of it too late. It is proposed again, and not waited for (forced).
func (h *Host) promised() bool {
	return !slices.ContainsFunc(h.deciding(), func(name string) bool { return h.members[name].given != h.state.Next.Ref })
}

// forced are the members without whom an operator forces a switchover: those that lack something, or did not promise the last one.
func (h *Host) forced(lacking []Missing) []string {
	without := membersOf(lacking)
	for _, name := range h.state.Members {
		if h.members[name].missed > 0 && !slices.Contains(without, name) {
			without = append(without, name)
		}
	}
	return without
}

// sooner reports whether the switchover could be long before the instant that is proposed, since members that were not waited for
// can switch by now: they have promised this one. What another host may know of them counts, so nothing less will do.
func (h *Host) sooner(now instant.Instant) bool {
	next := h.state.Next
	without, against := h.excused(now, h.lacking(now))
	back := slices.DeleteFunc(slices.Clone(next.Without), func(name string) bool { return slices.Contains(without, name) })
	promised := func(name string) bool { return h.members[name].word.Promise.Ref() == next.Ref }
	if h.order != (Order{}) || len(against) > 0 || len(back) == 0 || slices.ContainsFunc(back, func(name string) bool { return !promised(name) }) {
		return false
	}
	at, _ := h.instant(now, without)
	return at.Add(h.timing().lead()) < next.At
}

// backMost is how long a proposal is put off at most, so that what is healed is as it should be within a minute (I6).
const backMost = 15 * time.Second

// back puts the next proposal off, the longer the more were withdrawn in a row, and notes who did not promise this one.
func (h *Host) back(now instant.Instant, ref status.Ref) {
	if h.failed == ref {
		return // what withdraws it was not published
	}
	h.failed = ref
	h.tries = min(h.tries+1, 5)
	h.again = now.Mono.Add(min(h.timing().half<<h.tries, backMost))
	for _, m := range h.members {
		if m.here && m.word.Promise.Ref() != ref {
			m.missed++
			m.since = cmp.Or(m.since, now.Mono)
		}
	}
}

// declines reports whether a member will take no commit of the switchover that is published.
func (h *Host) declines(name string) bool {
	p := h.members[name].word.Promise
	return p.Ref() == h.state.Next.Ref && (p.State == status.Declined || p.State == status.Void)
}

// takes reports whether a member has durably taken the commit of the switchover that is published, or has made it.
func (h *Host) takes(name string) bool {
	w := h.members[name].word
	return w.Promise.Ref() == h.state.Next.Ref && w.Promise.State == status.Committed || max(w.Serving, w.Floor) >= h.state.Next.Number
}

// unconfirmed are the members whose word a commit still needs. One that is not waited for must know of it, if it runs, or have
// lapsed by then; if it does not run, it must have lapsed where leases are waited for.
func (h *Host) unconfirmed(next Switchover) (all []Missing) {
	lapsed := h.state.LapsedBy(next.Ref).Add(2*h.state.Epsilon) <= next.At
	for _, name := range h.state.Members {
		m := h.members[name]
		switch {
		case slices.Contains(next.Without, name):
			if m.running() && m.word.Promise.Ref() != next.Ref && !lapsed && !h.order.Force {
				all = append(all, Missing{name, status.Reason{Code: Unconfirmed, Detail: "it is not waited for, and has not said that it knows of the switchover"}})
			}
			if !m.running() && h.policy.Absent.Lapse && !lapsed {
				all = append(all, Missing{name, status.Reason{Code: Unconfirmed, Detail: "its lease has not ended by then"}})
			}
		case m.given != next.Ref || h.declines(name):
			why := h.lacks(name)
			if why == nil {
				why = &status.Reason{Code: Unconfirmed, Detail: fmt.Sprintf("it has not confirmed the switchover to release %d at %v", next.Number, next.At)}
			}
			all = append(all, Missing{name, *why})
		}
	}
	for _, l := range h.state.Leaving {
		if l.Lapses.Add(2*h.state.Epsilon) > next.At {
			all = append(all, Missing{l.Member, status.Reason{Code: Removed, Detail: "it was removed, and has not said that it knows"}})
		}
	}
	return all
}

// passed is when a switchover has passed for every member.
func (h *Host) passed(next Switchover) instant.Wall {
	return next.At.Add(2*h.state.Epsilon + time.Millisecond)
}

// settle puts a committed switchover on record as made once it has passed for every member and one has surely taken it, or takes
// it back when it is void. Where none is known to have taken it, and it counts as taken, that is published first, and on record
// once all who can be asked find it void no more: otherwise two of them might differ.
func (h *Host) settle(now instant.Instant, d *HostDecision) {
	s, next := h.state, h.state.Next
	over := h.passed(next)
	switch taken := slices.ContainsFunc(s.Members, h.takes); {
	case !taken && h.void():
		h.publish(d, now, s.withdrawn(), EventWithdrawn, []Missing{{"switchover", status.Reason{Code: NotDecided, Detail: "all members have declined it, since none heard in time that it was committed"}}})
		h.back(now, next.Ref)
	case now.Wall < over:
		d.Wake = over
	case h.behind(next.At): // this host's clock is ahead
	case !taken && !next.Presumed && len(h.deciding()) > 0 && !h.ended(now) && h.presumed(now):
		s.Next.Presumed = true
		away := slices.DeleteFunc(h.unconfirmed(next), func(m Missing) bool { return h.members[m.Member].here })
		h.publish(d, now, s, EventPresumed, away)
	case !taken && !h.ended(now) && !h.presumed(now):
		waits := "not all have said that they never will"
		if next.Presumed {
			waits = "not all who answer have said that they hold to it that it counts as made"
		}
		d.Alarms = append(d.Alarms, status.Reason{Code: NotDecided, Detail: fmt.Sprintf(
			"no member is known to have made the switchover to release %d at %v, and %s", next.Number, next.At, waits)})
	default:
		s.Current, s.Next = Release{next.Ref, next.Signed}, Switchover{}
		h.tries = 0
		h.publish(d, now, s, EventSettled, nil)
	}
}

// deciding are the members whose word decides what becomes of the switchover that is published.
func (h *Host) deciding() []string {
	return slices.DeleteFunc(slices.Clone(h.state.Members), func(name string) bool { return slices.Contains(h.state.Next.Without, name) })
}

// void reports whether nobody ever takes the commit that is published: all who decide have declined, or one says that they have.
func (h *Host) void() bool {
	if slices.ContainsFunc(h.state.Members, func(name string) bool {
		return h.declines(name) && h.members[name].word.Promise.State == status.Void
	}) {
		return true
	}
	deciding := h.deciding()
	return len(deciding) > 0 && !slices.ContainsFunc(deciding, func(name string) bool { return !h.declines(name) })
}

// behind reports whether w has not come by the clock of a member, and that is as right as any.
func (h *Host) behind(w instant.Wall) bool {
	return slices.ContainsFunc(h.state.Members, func(name string) bool {
		m := h.members[name]
		return m.here && h.vouches(m) && m.word.At < w
	})
}

// presumed reports whether a commit is to count as made though no member is known to have taken it: those who answer have
// declined, and wait for a word of those who are away for as long as a member may be. It must be known, not by this host alone,
// that they are away, since they would answer from the release before if they had found the commit void: at least half of those
// who decide must answer. Where their lease is waited for, only an operator who forces it can say, before all leases have ended (ended).
// Once members know that it counts as made, all who answer must have said that they hold to that.
func (h *Host) presumed(now instant.Instant) bool {
	here, away, deciding, holds := 0, 0, h.deciding(), h.declines
	if h.state.Next.Presumed {
		holds = h.presumes
	}
	for _, name := range h.state.Members {
		switch m, decides := h.members[name], slices.Contains(deciding, name); {
		case !decides && !h.state.Next.Presumed: // it has no say in that
		case m.here && !holds(name) && (decides || !h.excusable(now, name)):
			return false
		case !m.here && !h.order.Force && (decides && h.policy.Absent.Lapse || !h.excusable(now, name)):
			return false
		case decides && m.here:
			here++
		case decides:
			away++
		}
	}
	return here >= away || h.order.Force
}

// presumes reports whether a member holds to it that the commit that is published counts as taken.
func (h *Host) presumes(name string) bool {
	p := h.members[name].word.Promise
	return p.Ref() == h.state.Next.Ref && p.State == status.Presumed
}

// ended reports whether all leases have ended, so that nobody answers.
func (h *Host) ended(now instant.Instant) bool {
	return h.state.LapsedBy(status.Ref{}).Add(2*h.state.Epsilon) < now.Wall
}

// lapsing reports whether leases are left to end: members that answer have all declined the commit that is published, and are
// silent, and the lease of those who are away is waited for. Nobody who is heard from loses by it.
func (h *Host) lapsing(now instant.Instant) bool {
	next := h.state.Next
	if !next.Committed || !h.policy.Absent.Lapse || now.Wall < h.passed(next) || slices.ContainsFunc(h.state.Members, h.takes) {
		return false
	}
	here := slices.DeleteFunc(h.deciding(), func(name string) bool { return !h.members[name].here })
	return len(here) > 0 && !slices.ContainsFunc(here, func(name string) bool { return !h.declines(name) && !h.presumes(name) })
}

// renew renews the lease when it is old.
func (h *Host) renew(now instant.Instant, d *HostDecision) {
	if h.lapsing(now) {
		return
	}
	l := h.policy.Lease
	due := h.state.capped(now.Wall, now.Wall.Add(l-min(h.policy.Renew, l/3)))
	if h.state.Expires < due {
		h.publish(d, now, h.state, EventRenewed, nil)
	}
}

// markAfter is how long a member may give no answer before that is put on record.
const markAfter = 5 * time.Second

// mark puts on record which members are away, and since when, for as long as they are. It needs no new lease. A host that another one
// has proved wrong about a member is as likely deaf: it says the same again only when it has heard nothing for as long as a member may be
// away, so that the record does not go to and fro.
func (h *Host) mark(now instant.Instant, d *HostDecision) {
	s := h.state
	var away []Away
	var leaving []Leaving
	for _, name := range s.Members {
		m := h.members[name]
		i := slices.IndexFunc(s.Away, func(a Away) bool { return a.Member == name })
		switch {
		case m.here: // it is back
		case i >= 0:
			a := s.Away[i]
			a.Since = h.past(now, a.Since)
			away = append(away, a)
		case m.lost != 0 && now.Mono.Sub(m.lost) >= markAfter && (!m.doubt || now.Mono.Sub(m.lost) >= h.policy.Absent.After):
			away = append(away, Away{Member: name, Since: now.Wall, Drained: m.word.Drained})
		}
	}
	for _, l := range s.Leaving {
		m := h.members[l.Member]
		gone := m.here && m.word.Struck && m.word.Lease >= min(l.Lease, s.Version) // versions may have begun anew
		lapsed := l.Lapses.Add(2*s.Epsilon) < now.Wall
		waited := !h.policy.Absent.Lapse && now.Wall.Sub(l.Since) >= h.policy.Absent.After
		if !gone && !lapsed && !waited {
			l.Since = h.past(now, l.Since)
			leaving = append(leaving, l)
		}
	}
	if !slices.Equal(away, s.Away) || !slices.Equal(leaving, s.Leaving) {
		s.Away, s.Leaving = away, leaving
		s = s.stamped(now.Wall)
		d.Publish, d.Event = &s, EventMarked
	}
}

// past is since, or now where since is yet to come: a host whose clock was ahead put it on record.
func (h *Host) past(now instant.Instant, since instant.Wall) instant.Wall {
	if since > now.Wall.Add(2*h.state.Epsilon) {
		return now.Wall
	}
	return since
}

// alarms are what an operator should know.
func (h *Host) alarms(now instant.Instant, d *HostDecision) {
	goes := fmt.Sprintf("publication goes on without it after %v, and it may answer from the release before until its lease ends, if it lives and clients reach it",
		h.policy.Absent.After)
	if h.policy.Absent.Lapse {
		goes = "publication goes on without it when its lease has surely ended"
	}
	for _, a := range h.state.Away {
		d.Alarms = append(d.Alarms, status.Reason{Code: MembersAway, Detail: fmt.Sprintf("%s was not heard from since %v: %s", a.Member, a.Since, goes)})
	}
}

// Leap seconds come at the end of a UTC month. While one is smeared or waits to be told apart, two clocks that are both
// right may differ by a second.
const leapMargin = time.Hour

// leaping are the members that expect a leap second near an instant.
func (h *Host) leaping(at instant.Wall) []Missing {
	t := at.Time().UTC()
	before := time.Date(t.Year(), t.Month(), 1, 0, 0, 0, 0, time.UTC)
	after := before.AddDate(0, 1, 0)
	if t.Sub(before) > leapMargin && after.Sub(t) > leapMargin {
		return nil
	}
	var all []Missing
	for _, name := range h.state.Members {
		if m := h.members[name]; m.here && m.word.Leap {
			all = append(all, Missing{name, status.Reason{Code: LeapSecond, Detail: fmt.Sprintf("its clock expects a leap second within %v of %v", leapMargin, at)}})
		}
	}
	return all
}

// lacks is why a member cannot be relied on to switch to what is staged: nil if it can.
func (h *Host) lacks(name string) *status.Reason {
	m := h.members[name]
	if !m.here {
		return &status.Reason{Code: Unreachable, Detail: cmp.Or(m.why, "it gave no answer")}
	}
	w, epsilon := m.word, h.state.Epsilon
	switch {
	case w.Mesh != h.state.Mesh:
		return &status.Reason{Code: WrongMesh, Detail: fmt.Sprintf("it follows mesh %q", w.Mesh)}
	case w.Format < Format:
		return &status.Reason{Code: OldFormat, Detail: "it is of a version that does not know this way of switching: upgrade it"}
	case m.missed > 0 && !h.hears(w):
		return faulty(w, status.Reason{Code: NotHearing, Detail: fmt.Sprintf("it holds lease %d, and hears of nothing that is published", w.Lease)})
	case w.Confirms.Staged != h.state.Next.Number:
		return h.unstaged(w)
	case !w.Clock.Known:
		return &status.Reason{Code: ClockUnknown, Detail: w.Clock.Reason}
	case m.apart > 2*epsilon:
		return &status.Reason{Code: ClockDiffers, Detail: fmt.Sprintf("its clock and this host's are %v apart, more than 2 × %v: see to the one that is wrong", m.apart, epsilon)}
	case w.Clock.Bound > epsilon:
		return &status.Reason{Code: NearSwitchover, Detail: fmt.Sprintf("its clock may be wrong by %v, more than %v", w.Clock.Bound, epsilon)}
	}
	return nil
}

// Format is the format of manifests that tells proposals from commits.
const Format = 2

// unstaged is why a member has not staged the release, as far as it knows.
func (h *Host) unstaged(w Word) *status.Reason {
	why := status.Reason{Code: NotReady, Detail: fmt.Sprintf("it has release %d staged, not %d", w.Confirms.Staged, h.state.Next.Number)}
	for _, r := range w.Refused {
		if r.Number == h.state.Next.Number {
			why = r.Reason
		}
	}
	return faulty(w, why)
}

// faulty adds to a reason what keeps the sidecar from fetching.
func faulty(w Word, why status.Reason) *status.Reason {
	if w.Fault != "" {
		why.Detail += "; its mirror: " + w.Fault
	}
	return &why
}

func membersOf(missing []Missing) (all []string) {
	for _, m := range missing {
		all = append(all, m.Member)
	}
	return all
}

func lackingOf(missing []Missing, among []string) (all []Missing) {
	for _, m := range missing {
		if slices.Contains(among, m.Member) {
			all = append(all, m)
		}
	}
	return all
}
