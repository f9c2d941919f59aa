package mesh

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/instant"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
)

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
	mine      status.Ref   // the proposal that this host made last
	until     instant.Wall // when it is withdrawn if not all have confirmed it: that may lose its turn once
	failed    status.Ref   // the proposal that this host withdrew last
	again     instant.Mono // no proposal is made before
	tries     int          // proposals in a row that were withdrawn, or that this host could not publish in time

	// What was measured, of which leads are made.
	publishes time.Duration // how long a publication takes
	notices   time.Duration // how much later than members reckon with it is seen by those who hold their requests
	rounds    Lately        // how long rounds of questions took
	settles   Lately        // how long members took to confirm a proposal, but for what they need to hear of it
	slowest   time.Duration // the longest that they said they need to hear of something, while proposals of this release were under way
	seen      status.Ref    // the proposal that is in force
	seenAt    instant.Mono  // when this host first asked about it; 0: all have confirmed it
	writes    time.Duration // the longest that one has been known to have heard of it, and had not confirmed it
}

// Lately is the longest of some times that were measured one after the other: each that is shorter takes an eighth off.
type Lately time.Duration

// Add takes in another time.
func (l *Lately) Add(took time.Duration) { *l = max(Lately(took), *l-*l/8) }

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
	told   instant.Mono  // when it was first known to have heard of the proposal that is in force, and had not confirmed it; 0: it was not
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
	h.count(s)
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

// count counts the proposals in a row that were withdrawn since members were late, also those that other hosts withdrew. A switchover that is on
// record ends that, whichever host put it there.
func (h *Host) count(s State) {
	was := h.state.Next
	gone := was.At != 0 && was.Ref != h.failed && s.Next.Number == was.Number && s.Next.At != was.At && s.Paused == ""
	switch {
	case s.Current.Number > h.state.Current.Number:
		h.tries, h.slowest = 0, 0
	case gone && slices.Equal(s.Members, h.state.Members) && len(h.unconfirmed(was)) > 0:
		h.failed, h.tries = was.Ref, min(h.tries+1, triesMost)
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

// Patience is how long a round of questions may take at most while a switchover is under way, so that a member that hangs holds up no
// commit for longer. In a large mesh not all can be asked at once.
func (h *Host) Patience() time.Duration {
	return time.Second + time.Duration(len(h.members))*2*time.Millisecond
}

// Publishing takes in how long a publication takes from its decision until it is in place, by those of lately, and how much later than
// members reckon with it is seen by those who hold their requests.
func (h *Host) Publishing(takes, seen time.Duration) { h.publishes, h.notices = takes, seen }

// TooLate takes in that what was decided last could not be published by HostDecision.By. If that was a proposal, the next is given more
// time; a commit that came too late is a proposal that will be withdrawn.
func (h *Host) TooLate() {
	if h.state.Next.At == 0 {
		h.tries = min(h.tries+1, triesMost)
	}
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
	h.rounds.Add(min(ended.Mono.Sub(began.Mono), h.Patience()))
	h.measure(began.Mono, ended.Mono)
}

// measure measures how long members take to confirm what is proposed: in all, but for what they say that they need to hear of it, and from when one
// was known to have heard of it, which tells of a slow disk where that is long. No more counts than leads are made of, so that one which was very
// late is forgotten as soon as one that was late.
func (h *Host) measure(began, ended instant.Mono) {
	next := h.state.Next
	if next.At == 0 || next.Committed {
		return
	}
	hears, _ := h.said()
	h.slowest = max(h.slowest, min(hears, slowestMost))
	if h.seen != next.Ref {
		h.seen, h.seenAt, h.writes = next.Ref, began, 0
		for _, m := range h.members {
			m.told = 0
		}
	}
	late := h.unconfirmed(next)
	for _, l := range late {
		if m := h.members[l.Member]; m.here && h.hears(m.word) {
			m.told = cmp.Or(m.told, ended)
			h.writes = max(h.writes, began.Sub(m.told))
		}
	}
	if h.seenAt == 0 || len(late) > 0 {
		return
	}
	took := ended.Sub(h.seenAt)*5/4 - hears
	if h.writes > settleTime {
		took = max(took, h.writes*5/4+h.asking())
	}
	h.settles.Add(min(took, slowMost))
	h.seenAt = 0
}

// asking is how long it may take until a host has asked a member: two rounds of questions, and the pause between them, since the word of a member
// may come just after it was asked.
func (h *Host) asking() time.Duration {
	round := time.Duration(h.rounds)
	return 2*round + min(round, pauseMost)
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
	HostSlow      = "host-slow"      // all members have confirmed the switchover, and the host that was to commit it was too slow
	Sooner        = "sooner"         // it can be made long before: who was not waited for is back
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
	if d.Publish == nil && !h.pressed(now) {
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

// pressed reports whether a proposal is about to be committed or withdrawn. What is only put on record waits, since another host whose publication
// takes long would lose its turn to it, and the next might come too late.
func (h *Host) pressed(now instant.Instant) bool {
	next, t := h.state.Next, h.timing()
	return next.At != 0 && !next.Committed && now.Wall >= next.Decide.Add(-t.publish-t.committing()) && now.Wall < next.At
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
	if all, away := len(h.state.Members), len(h.state.Away); all-away < away { // see excused
		goes = fmt.Sprintf("publication does not go on without it, since fewer than half of the members (%d of %d at most) can switch: bring one back, or remove those that are lost", all-away, all)
	}
	for _, a := range h.state.Away {
		d.Alarms = append(d.Alarms, status.Reason{Code: MembersAway, Detail: fmt.Sprintf("%s was not heard from since %v: %s", a.Member, a.Since, goes)})
	}
}
