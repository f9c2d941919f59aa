package mesh

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/instant"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
)

// timing are the times that a switchover is made of. From a proposal on there is time to publish it, for all members to hear of it, to make it
// durable and to be asked, time to publish the commit, and for all to hear of that. Then, from Decide on, there is time for members that
// have not heard of it to ask each other and to decline.
type timing struct {
	hears   time.Duration // the longest that a member takes to hear of something
	settle  time.Duration // what members need beside that, to write and to be asked
	publish time.Duration // what a publication takes
	clocks  time.Duration // how much clocks may add to that
	twice   time.Duration // what two publications take of which the first loses its turn, as they were measured
}

const (
	// settleTime and publishTime are as short as that may be. After each proposal in a row that came too late they are twice that, up to
	// slowMost, so that a mesh that is slower than it says, and than was measured, finds the lead that it needs.
	settleTime  = 200 * time.Millisecond
	publishTime = 100 * time.Millisecond
	slowMost    = 2 * time.Second
	triesMost   = 5
	// pauseMost is how long a host pauses between two rounds at most, while a switchover is under way, and no longer than a round takes.
	pauseMost = 250 * time.Millisecond
	// publishMost is the longest that a publication is reckoned to take: more than that an operator gives by a lead.
	publishMost = 10 * time.Second
	// slowestMost is the longest that is remembered of what members said. One whose held request is lost for a moment may say an hour: its next look.
	slowestMost = 10 * time.Second
	// asksTime is how long it takes until members have asked each other twice, and meshsync their sidecars, each four times a second, but for what
	// they write.
	asksTime = time.Second
)

// said are the times that members say: how long they take to hear of something, and how much their clocks and this host's may add to that.
func (h *Host) said() (hears, clocks time.Duration) {
	apart := time.Duration(0)
	for _, name := range h.state.Members {
		m := h.members[name]
		if !m.here {
			continue
		}
		hears = max(hears, cmp.Or(m.word.Hears, DefaultHears))
		if !m.word.Clock.Known {
			apart = 2 * h.state.Epsilon
		}
		apart = max(apart, m.apart+m.word.Clock.Bound)
	}
	if hears > 0 {
		hears += h.notices
	}
	return hears, 2 * min(apart, 2*h.state.Epsilon)
}

// timing goes by what members say, and by what was measured: how long it takes to ask them; a quarter more than they took to confirm, which tells
// how slow they are; and half as much again as a publication takes. While proposals are withdrawn, what members said meanwhile counts too: a held
// request that is lost and made again all the time has them hear late only now and then.
func (h *Host) timing() timing {
	hears, clocks := h.said()
	slower := func(least time.Duration) time.Duration { return min(least<<h.tries, slowMost) }
	settle := slower(settleTime)
	if hears == 0 { // nobody is there to wait for
		settle = slowMost
	}
	settle = max(settle, h.asking(), time.Duration(h.settles))
	if h.tries > 0 {
		hears = max(hears, h.slowest)
	}
	publishes := min(h.publishes, publishMost)
	return timing{hears, settle, max(slower(publishTime), publishes*3/2), clocks, 2*publishes + h.asking()}
}

// least is the shortest lead that is safe by what members say, whatever was measured.
func (h *Host) least() time.Duration {
	hears, clocks := h.said()
	return timing{hears: hears, settle: settleTime, publish: publishTime, clocks: clocks}.lead()
}

// confirming is the time from a proposal that is in force until all have confirmed it.
func (t timing) confirming() time.Duration { return t.hears + t.settle + t.clocks }

// deciding is the time from when members begin to ask each other to the switchover.
func (t timing) deciding() time.Duration { return asksTime + 2*t.settle + t.clocks }

// committing is the time from a proposal that is in force until all have heard of the commit.
func (t timing) committing() time.Duration { return t.confirming() + t.publish + t.hears }

// withdrawing is the time from when the host that made a proposal withdraws it until all have heard of that. It may lose its turn once, to what is
// published on another host meanwhile, and publish that again.
func (t timing) withdrawing() time.Duration { return max(t.publish, t.twice) + t.confirming() }

// lead is the shortest time from a proposal to its switchover: what a commit needs, or else what a withdrawal does, of one that not all have confirmed.
// Of what a longer one leaves, members first have up to twice as much more to ask each other.
func (t timing) lead() time.Duration {
	return t.publish + max(t.committing()+t.deciding(), t.confirming()+t.withdrawing())
}

// Lead is the shortest time from a proposal to its switchover, by what members say and by what was measured.
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
	s, t := h.state, h.timing()
	s.Next.At = s.unused(s.Next.Number, at)
	spare := max(0, s.Next.At.Sub(now.Wall)-t.lead())
	s.Next.Decide = wholeMicros(s.Next.At.Add(-t.deciding() - min(spare, 2*t.deciding())))
	s.Next.Without = slices.Sorted(slices.Values(without))
	h.publish(d, now, s, EventProposed, detail)
	h.mine = s.Next.Ref
	h.until = s.Next.At.Add(-t.withdrawing())
	d.By = min(s.Next.Decide.Add(-t.committing()), h.until.Add(-t.confirming())).Add(t.settle / 2) // what is left then is enough for all else, but for the slowest
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
	if least := h.least(); h.policy.Lead != 0 && h.policy.Lead < least {
		against = append(against, Missing{"switchover", status.Reason{Code: TooEarly, Detail: fmt.Sprintf(
			"a lead of %v is configured, and members need %v to hear of a switchover, confirm it, and hear that it is made", h.policy.Lead, least)}})
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
	if h.mine != next.Ref { // the host that proposed it may not know what members said before
		t.hears, _ = h.said()
	}
	end := next.Decide.Add(-t.hears) // a commit that comes later might be heard of by nobody before all have declined
	last := end.Add(-publishTime)
	d.Against = h.unconfirmed(next)
	if h.mine == next.Ref { // that it is withdrawn must be heard of by the instant; another host may be quicker than this one
		last = min(last, next.At.Add(-t.publish-t.confirming()))
		if len(d.Against) > 0 && !h.order.Force {
			last = min(last, h.until)
		}
	}
	declined := slices.ContainsFunc(d.Against, func(m Missing) bool { return h.members[m.Member] != nil && h.declines(m.Member) })
	switch {
	case h.sooner(now):
		h.publish(d, now, h.state.withdrawn(), EventWithdrawn, []Missing{{"switchover", status.Reason{Code: Sooner, Detail: "members that it does not wait for are back, and it can be long before"}}})
	case now.Wall >= last || declined:
		why := d.Against
		if len(why) == 0 {
			why = []Missing{{"distribution host", status.Reason{Code: HostSlow, Detail: "all members have confirmed the switchover, and it is too late to commit it"}}}
		}
		h.publish(d, now, h.state.withdrawn(), EventWithdrawn, why)
		h.back(now, next.Ref)
	case len(d.Against) == 0 || h.order.Force && h.promised() && now.Wall >= end.Add(-t.publish-t.settle/2):
		if from := next.Decide.Add(-t.publish - t.committing()); now.Wall < from {
			d.Wake = from // until then it can be taken back
			return
		}
		s := h.state
		s.Next.Committed = true
		h.publish(d, now, s, EventCommitted, d.Against)
		d.By = end
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
	h.tries = min(h.tries+1, triesMost)
	h.again = now.Mono.Add(min(h.timing().confirming()<<h.tries, backMost))
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
		case h.beyond(name):
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

// beyond reports whether a member answers from the release before no more, whatever becomes of the switchover: its disk went back
// to what it was before it declined an earlier one, and it took what all others found void.
func (h *Host) beyond(name string) bool { return h.members[name].word.Floor >= h.state.Next.Number }

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

// ended reports whether all leases have ended, so that nobody answers. A clock that no member has vouched for does not tell.
func (h *Host) ended(now instant.Instant) bool {
	return h.sure.Mono != 0 && h.state.LapsedBy(status.Ref{}).Add(2*h.state.Epsilon) < now.Wall
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
	case h.beyond(name) && h.state.Next.Number != 0:
		return nil
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
