package mesh

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/instant"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
)

// What was found wrong with the protocol before this one: a test for each, in the order in which it was told. It had one step
// less: a switchover was set, and could be moved until shortly before. The mesh here is the real deciders (small).

// A member passes the instant, and does not hear in time that the switchover is off. A later one for the same release can be
// confirmed all the same, and the mesh is not stuck.
func TestOneLostWordDoesNotFreezeAMember(t *testing.T) {
	at := func(s float64) instant.Wall { return epoch.Add(time.Duration(s * float64(time.Second))) }
	n := NewNode(Durable{Floor: 11})
	n.Ready(11)
	n.Ready(16)
	step := func(s float64) Decision {
		now := instant.Instant{Wall: at(s), Mono: instant.Mono(s * float64(time.Second))}
		n.Certify(instant.Sample{At: now, Bound: time.Millisecond, Source: "assumed"})
		d := n.Decide(now)
		for d.Persist != nil {
			n.Persisted(*d.Persist)
			d = n.Decide(now)
		}
		return d
	}
	for _, legacy := range []bool{false, true} { // a host of the format before set switchovers without a commit, and moved them
		v := View{Lease: 1, Expires: at(90000), Epsilon: smallEpsilon, Current: status.Ref{Number: 11, At: at(1)}, Others: []string{"b"}, Legacy: legacy}
		learn := func(instant float64) {
			v.Lease++
			v.Next = Next{Ref: status.Ref{Number: 16, At: at(instant)}, Decide: at(instant - 5), Committed: legacy}
			if why := n.Learn(v); why != nil {
				t.Fatal(why)
			}
		}
		learn(110)
		if d := step(100); d.Serve != 11 || d.Confirms.Scheduled == nil || *d.Confirms.Scheduled != v.Next.Ref {
			t.Fatalf("before the instant: %+v", d)
		}
		if d := step(110.5); d.Serve == 11 {
			t.Fatalf("after the instant it answers from 11: %+v", d)
		}
		for i, later := range []float64{86510, 125, 86525, 140} { // postponed, brought nearer, …
			learn(later)
			d := step(111 + 5*float64(i))
			if d.Confirms.Scheduled == nil || *d.Confirms.Scheduled != v.Next.Ref {
				t.Errorf("legacy %v: the switchover at %v is not confirmed: %+v", legacy, later, d)
			}
			if !legacy && d.Serve != 11 {
				t.Errorf("the switchover was withdrawn, and it answers from %d: %v", d.Serve, d.Silent)
			}
		}
		v.Next.Committed = true
		n.Learn(v)
		if d := step(140); d.Serve != 16 {
			t.Errorf("legacy %v: at the last instant: %+v", legacy, d)
		}
		n = NewNode(Durable{Floor: 11})
		n.Ready(11)
		n.Ready(16)
	}
}

// Both sidecars are stopped for 13 s while one member held T: all go on, and the newer release goes out without an operator.
func TestSidecarsStoppedWhileOneHoldsThePromise(t *testing.T) {
	w := newSmall(t, 2, Policy{})
	a, b := w.member("a"), w.member("b")
	w.release()
	b.deaf = true
	at := w.proposed()
	w.promised(a)
	a.deaf, a.mute, a.alone, b.mute, b.alone = true, true, true, true, true
	w.run(13 * time.Second)
	if w.state.Next.Ref == at {
		t.Fatal("the proposal was not withdrawn")
	}
	a.deaf, a.mute, a.alone, b.deaf, b.mute, b.alone = false, false, false, false, false, false
	w.allAnswer(2, time.Minute)
}

// A lead that is too short for members to hear and to confirm is refused, with the reason, and what is needed.
func TestALeadThatCannotWorkIsRefused(t *testing.T) {
	for _, lead := range []time.Duration{time.Second, 3 * time.Second, 5100 * time.Millisecond} {
		w := newSmall(t, 2, Policy{Lead: lead})
		w.release()
		w.run(20 * time.Second)
		now := w.hosts[0].clock(w)
		if d := w.hosts[0].host.Decide(now); w.state.Next.At != 0 || len(d.Against) != 1 || d.Against[0].Why.Code != TooEarly {
			t.Errorf("lead %v: %+v, against it: %v", lead, w.state.Next, d.Against)
		}
		w.allAnswer(1, 0)
	}
	w := newSmall(t, 2, Policy{Lead: 5120 * time.Millisecond}) // 2 × 1.5 + 3 × 0.2 + 2 × 0.1 + 1 s, and twice 2 × 0.08 s
	if got := w.hosts[0].host.Lead(); got != w.policy.Lead {
		t.Errorf("the shortest lead is %v", got)
	}
	w.release()
	w.allAnswer(2, 20*time.Second)
}

// The link of one member goes bad after it heard of the switchover, and before it hears that it is off. It does not answer from
// the new release alone (which it did for seconds to minutes), nor from the old one when the others have gone on.
func TestALinkThatGoesBadAfterTheProposalSplitsNobody(t *testing.T) {
	for _, links := range []struct {
		name  string
		spoil func(m *smallMember)
	}{
		{"to the repository", func(m *smallMember) { m.deaf = true }},
		{"all", func(m *smallMember) { m.deaf, m.mute, m.alone = true, true, true }},
	} {
		for _, others := range []bool{false, true} { // b confirms, or does not
			w := newSmall(t, 3, Policy{Absent: Absent{After: time.Minute}})
			a, b := w.member("a"), w.member("b")
			w.release()
			at := w.proposed()
			b.deaf = !others
			w.promised(a)
			links.spoil(a)
			w.past(at.At, 30*time.Second)
			b.deaf = false
			w.run(30 * time.Second)
			a.deaf, a.mute, a.alone = false, false, false
			w.allAnswer(2, time.Minute)
		}
	}
}

// A release is cancelled, and followed by a new one, while one member hears of nothing, is dead, or the host is slow: no two
// members differ, however long leases last.
func TestCancelAndANewReleaseWithOneThingWrong(t *testing.T) {
	for _, lapse := range []bool{false, true} {
		for name, wrong := range map[string]func(w *small){
			"a link":      func(w *small) { w.member("a").deaf = true },
			"a link late": func(w *small) { w.member("a").poll = 9 * time.Second },
			"a member":    func(w *small) { w.member("a").kill() },
			"the host":    func(w *small) { w.hosts[0].slow = 3 * time.Second },
		} {
			t.Run(name, func(t *testing.T) {
				w := newSmall(t, 3, Policy{Absent: Absent{After: time.Minute, Lapse: lapse}})
				w.release()
				w.proposed()
				w.promised(w.member("a"))
				wrong(w)
				if w.state.Next.Committed {
					t.Fatal("it is too late to cancel")
				}
				w.cancel()
				w.order("resume", func(h *Host, now instant.Instant) (State, error) { return h.Resume(now), nil })
				number := w.release()
				w.run(2 * time.Minute)
				a := w.member("a")
				a.deaf, a.poll, w.hosts[0].slow = false, time.Second, 0
				if a.node == nil {
					a.restart()
				}
				w.allAnswer(number, time.Minute)
			})
		}
	}
}

// A member is dead: the others go on within Absent.After and a minute, by themselves, and with Absent.Lapse as soon as its lease
// has surely ended.
func TestOneDeadMemberStopsNoPublication(t *testing.T) {
	w := newSmall(t, 3, Policy{Absent: Absent{After: 2 * time.Minute}})
	w.member("c").kill()
	w.release()
	w.run(110 * time.Second)
	w.allAnswer(1, 0)
	w.allAnswer(2, time.Minute)
	w.member("c").lied = true // it finds its old lease, and answers from 1 until it hears, which is what Absent.After risks
	w.member("c").restart()
	w.allAnswer(2, 10*time.Second)

	w = newSmall(t, 3, Policy{Absent: Absent{After: 2 * time.Minute, Lapse: true}})
	w.member("c").kill()
	w.release()
	w.run(55 * time.Minute)
	w.allAnswer(1, 0)
	w.allAnswer(2, 10*time.Minute)
}

// The same of a member that answers its hosts, and hears of nothing that they publish.
func TestOneDeafMemberStopsNoPublication(t *testing.T) {
	w := newSmall(t, 3, Policy{Absent: Absent{After: 2 * time.Minute}})
	c := w.member("c")
	c.deaf, c.alone = true, true
	w.release()
	w.run(55 * time.Minute)
	w.allAnswer(1, 0)
	w.await(10*time.Minute, "the others have gone on", func() bool { return w.member("a").answers == 2 && w.member("b").answers == 2 })
	if c.answers != 1 || c.answering(w) != 0 {
		t.Errorf("it answers from %d", c.answering(w))
	}
	c.deaf = false
	w.allAnswer(2, 10*time.Second)
}

// The same of a member whose disk refuses every write.
func TestOneFullDiskStopsNoPublication(t *testing.T) {
	w := newSmall(t, 3, Policy{Absent: Absent{After: 2 * time.Minute}})
	c := w.member("c")
	c.writes = false
	w.release()
	w.run(61 * time.Minute)
	w.allAnswer(1, 0)
	w.await(5*time.Minute, "the others have gone on", func() bool { return w.member("a").answers == 2 && w.member("b").answers == 2 })
	w.run(time.Second)
	if c.answers != 1 || c.answering(w) != 0 {
		t.Errorf("it answers from %d", c.answering(w))
	}
	c.writes = true
	w.allAnswer(2, 5*time.Second)
}

// A host that is slow to write, or stands still at any step, silences nobody.
func TestASlowHostSilencesNobody(t *testing.T) {
	for _, slow := range []time.Duration{time.Second, 3 * time.Second, 8 * time.Second} {
		w := newSmall(t, 3, Policy{})
		w.hosts[0].slow = slow
		w.release()
		w.run(90 * time.Second)
		w.hosts[0].slow = 0
		w.allAnswer(2, time.Minute)
		w.nobodyWasSilent()
	}
	for after := time.Duration(0); after < 20*time.Second; after += 500 * time.Millisecond {
		w := newSmall(t, 3, Policy{})
		w.release()
		w.run(after)
		w.hosts[0].stalled = w.now + 40*time.Second
		w.run(time.Minute)
		w.allAnswer(2, time.Minute)
		w.nobodyWasSilent()
	}
}

// Nothing is answered that the disk does not bear out: a member is killed at every step of a switchover, before what it writes is
// on disk and after. (The client of small looks at the disk at each answer.)
func TestAMemberIsKilledAtEveryStep(t *testing.T) {
	for after := time.Duration(0); after < 15*time.Second; after += 2 * smallStep {
		for _, refuses := range []bool{false, true} {
			w := newSmall(t, 2, Policy{})
			a := w.member("a")
			w.release()
			w.run(after)
			a.writes = !refuses
			w.run(3 * smallStep)
			a.restart()
			w.run(time.Second)
			a.writes = true
			w.allAnswer(2, time.Minute)
		}
	}
}

// The word that a switchover is off is lost on its way to one member: it is silent after the instant until it hears, by others at
// the latest, and never answers from the new release.
func TestTheWordOfAWithdrawalIsLost(t *testing.T) {
	w := newSmall(t, 3, Policy{})
	a := w.member("a")
	w.release()
	at := w.proposed()
	w.promised(a)
	w.cancel()
	a.deaf = true
	w.past(at.At, 5*time.Second)
	w.allAnswer(1, 0) // a has asked the others
	if a.view.Next.At != 0 {
		t.Errorf("a holds %+v", a.view.Next)
	}
}

// The same, and the sidecar that would ask is dead: the member is silent after the instant, which is what was promised, until its
// sidecar runs again.
func TestTheSidecarDiesWithThatWord(t *testing.T) {
	w := newSmall(t, 3, Policy{})
	a := w.member("a")
	w.release()
	at := w.proposed()
	w.promised(a)
	a.deaf, a.mute, a.alone = true, true, true
	w.cancel()
	w.past(at.At, 5*time.Second)
	if got := a.answering(w); got != 0 || a.last.Silent[0].Code != Undecided {
		t.Errorf("a answers from %d, and is silent for %v", got, a.last.Silent)
	}
	if w.member("b").answering(w) != 1 || w.member("c").answering(w) != 1 {
		t.Error("the others are not answering from 1")
	}
	a.deaf, a.mute, a.alone = false, false, false
	w.allAnswer(1, 5*time.Second)
}

// A host loses power as soon as what it published has been heard of by one member only: the others learn it from that one,
// and no two differ. It is tried with the proposal and with the commit.
func TestAHostLosesPowerBetweenItsWrites(t *testing.T) {
	for _, step := range []string{"proposed", "committed"} {
		w := newSmall(t, 3, Policy{})
		b, c := w.member("b"), w.member("c")
		w.release()
		at := w.proposed()
		if step == "committed" {
			w.promised(w.member("a"))
			w.promised(b)
			w.promised(c)
			b.deaf, c.deaf = true, true
			w.committed()
		} else {
			b.deaf, c.deaf = true, true
		}
		w.await(3*time.Second, "a has heard", func() bool { return w.member("a").lease() == w.state.Version })
		w.hosts[0].dead = true
		w.past(at.At, 5*time.Second)
		want := uint64(1)
		if step == "committed" {
			want = 2
		}
		w.allAnswer(want, 0)
		b.deaf, c.deaf = false, false
		w.host()
		w.allAnswer(2, time.Minute)
	}
}

// A switchover is cancelled, and nobody or one member hears of it before the host is lost for good, or has no power. The members
// find by themselves that it is off; a host that comes back finds so too.
func TestCancelAndThenThePowerIsCut(t *testing.T) {
	for _, heard := range []bool{false, true} {
		w := newSmall(t, 3, Policy{})
		w.release()
		at := w.proposed()
		for _, m := range w.members {
			w.promised(m)
		}
		if w.state.Next.Committed {
			t.Fatal("it is too late to cancel")
		}
		w.cancel()
		if heard {
			a := w.member("a")
			a.take(&w.state)
		}
		w.hosts[0].dead = true
		w.past(at.At, 5*time.Second)
		w.allAnswer(1, 0)
		w.run(time.Minute)
		w.hosts[0].dead = false
		w.order("resume", func(h *Host, now instant.Instant) (State, error) { return h.Resume(now), nil })
		w.allAnswer(2, time.Minute)
	}
}

// A host that is lost before it has said that a proposal is off or made leaves nobody silent where all members can be asked, and
// where one cannot, only as long as that is so.
func TestAHostIsLostAfterItsProposal(t *testing.T) {
	w := newSmall(t, 3, Policy{})
	w.release()
	at := w.proposed()
	w.member("c").mute = true // the host does not get its word
	for _, m := range w.members {
		w.promised(m)
	}
	w.hosts[0].dead = true
	w.past(at.At, time.Second)
	w.allAnswer(1, 0)
	w.hosts[0].dead, w.member("c").mute = false, false
	w.allAnswer(2, time.Minute)

	w.release()
	at = w.proposed()
	w.member("c").mute = true
	for _, m := range w.members {
		w.promised(m)
	}
	w.hosts[0].dead, w.member("c").alone = true, true
	w.past(at.At, 20*time.Second)
	for _, m := range w.members {
		if m.answering(w) != 0 {
			t.Errorf("%s answers from %d", m.name, m.answering(w))
		}
	}
	w.member("c").alone = false
	w.allAnswer(2, 4*time.Second)
}

// A second host finishes what the first began, at whatever step that one is lost, and nobody is silent meanwhile.
func TestASecondHostFinishes(t *testing.T) {
	for after := time.Duration(0); after < 18*time.Second; after += 500 * time.Millisecond {
		w := newSmall(t, 3, Policy{})
		w.host()
		w.release()
		w.run(after)
		w.hosts[0].dead = true
		w.allAnswer(2, time.Minute)
		w.nobodyWasSilent()
	}
}

// An instant that was cancelled is never set again, so that nobody takes the word about one for a word about the other.
func TestACancelledSwitchoverIsNotReinstated(t *testing.T) {
	w := newSmall(t, 3, Policy{Absent: Absent{Lapse: true}})
	w.release()
	var seen []status.Ref
	for range 5 {
		w.hosts[0].host.Ordered(Order{At: epoch.Add(10 * time.Minute)})
		ref := w.proposed()
		for _, earlier := range seen {
			if earlier == ref {
				t.Fatalf("%v was proposed and cancelled before", ref)
			}
		}
		seen = append(seen, ref)
		w.run(time.Second)
		w.cancel()
		w.run(time.Second)
	}
}

// A host whose clock is behind cancels, publishes and withdraws by the members' clocks or not at all: nobody differs, and what it
// cannot do it says.
func TestAHostWhoseClockIsBehindCancels(t *testing.T) {
	for _, off := range []time.Duration{-150 * time.Millisecond, 150 * time.Millisecond} { // it may be as wrong as that
		w := newSmall(t, 3, Policy{})
		w.hosts[0].off = off
		w.run(time.Second)
		w.release()
		w.proposed()
		w.run(500 * time.Millisecond)
		w.cancel()
		w.run(time.Minute)
		w.allAnswer(1, 0)
		w.order("resume", func(h *Host, now instant.Instant) (State, error) { return h.Resume(now), nil })
		w.allAnswer(2, time.Minute)
	}
	w := newSmall(t, 3, Policy{})
	w.release()
	at := w.proposed()
	w.hosts[0].off = -9 * time.Second
	w.past(at.At, time.Minute)
	h := w.hosts[0]
	if _, err := h.host.Cancel(h.clock(w), "bad data"); err == nil {
		t.Error("it cancels")
	}
	if d := h.host.Decide(h.clock(w)); d.Publish != nil || len(d.Alarms) == 0 || d.Alarms[0].Code != HostClock {
		t.Errorf("%+v", d)
	}
	w.allAnswer(1, 0)
	h.off = 0
	w.allAnswer(2, time.Minute)
}

// A host starts two years behind. It publishes nothing until its clock is right.
func TestAHostStartsTwoYearsBehind(t *testing.T) {
	w := newSmall(t, 3, Policy{})
	w.hosts[0].dead = true
	w.run(time.Minute)
	h := w.host()
	before := w.state
	h.off = -2 * 8760 * time.Hour
	w.run(20 * time.Minute)
	if w.state.Version != before.Version || w.state.At != before.At {
		t.Errorf("it published %s", told(w.state))
	}
	w.allAnswer(1, 0)
	h.off = 0
	w.release()
	w.allAnswer(2, time.Minute)
}

// Members look every 8 s for something newer. Leads are derived from that, and nobody is ever silent.
func TestAMirrorIntervalOfEightSeconds(t *testing.T) {
	w := newSmall(t, 3, Policy{})
	for _, m := range w.members {
		m.poll = 8 * time.Second
	}
	w.run(10 * time.Second)
	for range 3 {
		number := w.release()
		w.allAnswer(number, 2*time.Minute)
	}
	w.nobodyWasSilent()
}

// The hosts' state is restored from a backup, which knows nothing of a commit: nothing is published, which is said, and every
// member goes on with what was committed.
func TestABucketIsRestoredFromABackup(t *testing.T) {
	w := newSmall(t, 3, Policy{})
	backup := w.state
	w.release()
	w.proposed()
	during := w.state
	w.committed()
	w.run(3 * time.Second)
	for _, old := range []State{backup, during} {
		w.state = old
		w.past(epoch.Add(w.now), 20*time.Second)
		w.allAnswer(2, 0)
		if w.state.Version != old.Version {
			t.Errorf("it published %s", told(w.state))
		}
		h := w.hosts[0]
		if d := h.host.Decide(h.clock(w)); len(d.Alarms) != 1 || d.Alarms[0].Code != StateRestored {
			t.Errorf("%v", d.Alarms)
		}
	}
}

// The clock of a member steps at the instant, back and forth. It is not certified any more, so the member is silent until it is, and
// goes on with the release that it answered from.
func TestAClockStepsAtTheInstant(t *testing.T) {
	for _, step := range []time.Duration{-30 * time.Second, -time.Second, 15 * time.Millisecond, time.Second, time.Hour} {
		for _, before := range []time.Duration{-smallStep, 0, smallStep, 2 * smallEpsilon} {
			w := newSmall(t, 3, Policy{})
			a := w.member("a")
			w.release()
			at := w.proposed()
			w.committed()
			w.past(at.At, before)
			a.blind, a.off = true, step
			w.run(time.Second)
			if got := a.answering(w); got != 0 {
				t.Errorf("a step of %v: a answers from %d", step, got)
			}
			a.blind, a.off = false, 0
			w.allAnswer(2, 10*time.Second)
		}
	}
}

// A virtual machine is stopped before the instant, and goes on after it with the clocks of then. Nothing in it can tell: it answers
// from the release before until its clock is certified anew, which is the one thing that is promised. What it learns of the
// repository, or by being asked, does not wait for that.
func TestAMachineIsFrozenAcrossTheInstant(t *testing.T) {
	w := newSmall(t, 3, Policy{Lead: 10 * time.Second, Absent: Absent{After: time.Minute}})
	a := w.member("a")
	w.release()
	at := w.proposed()
	w.committed()
	w.await(2*time.Second, "a has taken it", func() bool { return a.last.Holds.State == status.Committed })
	a.frozen = w.now
	w.past(at.At, 20*time.Second)
	a.lied, a.blind = true, true
	a.lost, a.frozen = w.now-a.frozen, 0
	w.run(2 * time.Second) // it fetches, and finds that the release is current since an instant of its future
	if got := a.answering(w); got != 0 {
		t.Errorf("a answers from %d: %v", got, a.last)
	}
	a.off, a.blind = a.lost, false // its clock is set, and certified
	w.allAnswer(2, 2*time.Second)
}

// A member is removed, hears of it and says so, and then loses the views that it verified, but not what it wrote. An old view, of which the
// lease has not ended, does not have it answer again beside those who have gone on without it.
func TestOneThatWasRemovedStaysSo(t *testing.T) {
	w := newSmall(t, 3, Policy{})
	c := w.member("c")
	behind := w.host()
	behind.stuck = true
	w.order("strike", func(h *Host, now instant.Instant) (State, error) { return h.Strike(now, "c") })
	w.await(10*time.Second, "c is known to know", func() bool { return len(w.state.Leaving) == 0 })
	c.deaf, c.alone = true, true
	w.release()
	w.allAnswer(2, time.Minute)
	c.view, w.hosts[0].dead, c.deaf = nil, true, false
	c.restart()
	w.run(20 * time.Second)
	if c.view == nil || c.view.Version >= w.state.Version {
		t.Fatalf("c has no old view: %+v", c.view)
	}
	if got := c.answering(w); got != 0 {
		t.Errorf("c answers from %d", got)
	}
}

// A commit reaches nobody before all have declined. One member, which no host can ask, has found it void; the host presumes after a while that
// this one took it. If another hears from that one before it hears from the host, it finds it void as well, and no two of the others differ.
func TestWhatIsPresumedTakenIsFoundVoidByNobody(t *testing.T) {
	w := newSmall(t, 4, Policy{Absent: Absent{After: time.Minute}})
	c, d := w.member("c"), w.member("d")
	w.release()
	at := w.proposed()
	for _, m := range w.members {
		w.promised(m)
	}
	w.hosts[0].stuck = true
	w.committed()
	d.mute, d.deaf, d.lied = true, true, true // publication goes on without it: it may answer from the release before
	hear := func(m *smallMember) {
		for _, o := range w.members {
			m.node.Hear(o.name, o.last.Holds)
		}
	}
	for _, m := range w.members {
		m.alone = true // but for what follows
		hear(m)
	}
	w.await(30*time.Second, "all have declined", func() bool {
		return !slices.ContainsFunc(w.members, func(m *smallMember) bool { return m.last.Holds.State != status.Declined })
	})
	hear(d)
	w.await(time.Second, "d finds it void", func() bool { return d.last.Holds.State == status.Void })
	w.hosts[0].stuck = false
	w.past(at.At, 5*time.Second)
	for _, m := range w.members[:3] {
		if m.last.Holds.State != status.Declined || m.answering(w) != 0 {
			t.Fatalf("%s answers from %d, and holds %v", m.name, m.answering(w), m.last.Holds)
		}
	}
	c.deaf = true
	version := w.state.Version
	w.await(2*time.Minute, "a decision of the host", func() bool { return w.state.Version > version })
	w.run(2 * time.Second)
	c.alone, d.alone = false, false
	w.run(20 * time.Second)
	for _, m := range w.members {
		m.alone, m.deaf, m.mute = false, false, false
	}
	w.allAnswer(2, time.Minute)
}

// Three rules that could be broken before without a test that failed.

func TestNothingIsAnsweredFromBeforeItsInstant(t *testing.T) {
	n := NewNode(Durable{})
	n.Ready(1)
	n.Learn(View{Lease: 1, Expires: epoch.Add(time.Hour), Epsilon: smallEpsilon, Current: status.Ref{Number: 1, At: epoch.Add(time.Minute)}})
	for s := range 120 {
		now := instant.Instant{Wall: epoch.Add(time.Duration(s) * time.Second), Mono: instant.Mono(s) * instant.Mono(time.Second)}
		n.Certify(instant.Sample{At: now, Bound: time.Millisecond, Source: "chrony"})
		d := n.Decide(now)
		if d.Persist != nil {
			n.Persisted(*d.Persist)
			d = n.Decide(now)
		}
		if (d.Serve == 1) != (s >= 60) {
			t.Fatalf("after %d s it answers from %d: %v", s, d.Serve, d.Silent)
		}
	}
}

func TestAScheduleIsNotReplacedUnderAnUnknownClock(t *testing.T) {
	n := NewNode(Durable{Floor: 1, Promise: status.Promise{Number: 2, At: epoch.Add(time.Minute), State: status.Committed}})
	n.Learn(View{Lease: 1, Expires: epoch.Add(time.Hour), Epsilon: smallEpsilon, Current: status.Ref{Number: 1}, Legacy: true,
		Next: Next{Ref: status.Ref{Number: 2, At: epoch.Add(time.Hour)}, Committed: true}})
	if d := n.Decide(instant.Instant{Wall: epoch.Add(2 * time.Minute)}); d.Persist != nil {
		t.Errorf("by no clock it writes %+v", d.Persist)
	}
}

func TestWhatIsAboveTheFloorIsKept(t *testing.T) {
	n := NewNode(Durable{Floor: 2})
	n.Learn(View{Lease: 1, Expires: epoch.Add(time.Hour), Epsilon: smallEpsilon, Current: status.Ref{Number: 2}, Next: Next{Ref: status.Ref{Number: 3}}})
	if d := n.Decide(instant.Instant{Wall: epoch}); len(d.Keep) != 2 || len(d.Stage) != 2 {
		t.Errorf("it keeps %v and stages %v", d.Keep, d.Stage)
	}
}

// Signers take four seconds, and one member cannot write what is proposed. What another host publishes takes the turn from the withdrawal, which is
// published again in time: nobody else is silent at the instant.
func TestAWithdrawalMayLoseItsTurnOnce(t *testing.T) {
	w := newSmall(t, 3, Policy{})
	h := w.hosts[0]
	h.every, h.slow, h.took = 100*time.Millisecond, 4*time.Second, Lately(4*time.Second)
	for _, m := range w.members {
		m.poll, m.hears, m.longest = smallStep, 150*time.Millisecond, 0
	}
	w.release()
	at := w.proposed().At
	c := w.member("c")
	c.writes, c.alone, c.lied = false, true, true
	w.await(15*time.Second, "the host withdraws it", func() bool { return h.pending != nil })
	w.run(h.due - w.now - smallStep)
	w.order("renew", func(h *Host, now instant.Instant) (State, error) { return h.Renew(now, 0) })
	w.past(at, 5*time.Second)
	if c.longest = 0; w.told[EventWithdrawn] == 0 || w.told[EventCommitted] > 0 {
		w.fatalf("%v", w.told)
	}
	w.nobodyWasSilent()
}

// One host has heard a member say that it hears late, while a proposal was withdrawn. Another one, which began after that, has not: what it proposes is
// not withdrawn for that, again and again.
func TestWhatOneHostHasHeardWithdrawsNothingOfAnother(t *testing.T) {
	w := newSmall(t, 3, Policy{})
	for _, m := range w.members {
		m.poll, m.hears = smallStep, 150*time.Millisecond
	}
	w.host()
	c := w.member("c")
	c.writes, c.lied, c.hears = false, true, 9*time.Second
	w.release()
	w.await(time.Minute, "a proposal is withdrawn", func() bool { return w.told[EventWithdrawn] > 0 })
	w.hosts[0].dead = true
	w.host()
	c.writes, c.hears = true, 150*time.Millisecond
	withdrawn := w.told[EventWithdrawn]
	w.await(time.Minute, "a commit", func() bool { return w.state.Next.Committed })
	if again := w.told[EventWithdrawn] - withdrawn; again > 1 {
		w.fatalf("%d more were withdrawn", again)
	}
}

// Nearly every switchover is made at the first proposal, however slow the mesh: its lead is made of what members say, and of what was
// measured. A quick one has a short lead.
func TestSwitchoversAreCommittedOnTheFirstProposal(t *testing.T) {
	const releases = 10
	for _, c := range []struct {
		name string
		slow func(w *small, h *smallHost)
		lead time.Duration // at the most, in the end
		more int           // proposals that may be withdrawn or given up, until the mesh is known
	}{
		{"quick", func(*small, *smallHost) {}, 2500 * time.Millisecond, 0},
		{"a load of 20 on two cores", func(w *small, h *smallHost) {
			h.slow, h.round = 300*time.Millisecond, 250*time.Millisecond
			for _, m := range w.members {
				m.write = 300 * time.Millisecond
			}
		}, 6 * time.Second, 1},
		{"slow disks of members", func(w *small, _ *smallHost) {
			for _, m := range w.members {
				m.write = time.Second
			}
		}, 7 * time.Second, 3},
		{"a dead member", func(w *small, _ *smallHost) { w.member("c").kill() }, 2500 * time.Millisecond, 0},
		{"a member that hangs", func(w *small, h *smallHost) {
			w.member("c").mute, w.member("c").deaf, w.member("c").alone, w.member("c").lied = true, true, true, true
			h.round = time.Second
		}, 8700 * time.Millisecond, 0},
		{"a bucket as home", func(_ *small, h *smallHost) {
			h.slow, h.notice = 600*time.Millisecond, 500*time.Millisecond
		}, 6 * time.Second, 0},
		{"signers of a second each", func(_ *small, h *smallHost) { h.slow = 4 * time.Second }, 15500 * time.Millisecond, 0},
		{"a signer of which nothing is known yet", func(_ *small, h *smallHost) { h.slow, h.took = 4*time.Second, -1 }, 15500 * time.Millisecond, 1},
		{"static mirrors", func(w *small, _ *smallHost) {
			for _, m := range w.members {
				m.poll, m.hears = 2*time.Second, 2200*time.Millisecond
			}
		}, 9 * time.Second, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newSmall(t, 3, Policy{Absent: Absent{After: 10 * time.Second}})
			h := w.hosts[0]
			h.every = 100 * time.Millisecond
			for _, m := range w.members {
				m.poll, m.hears = smallStep, 150*time.Millisecond
			}
			c.slow(w, h)
			if h.took == 0 {
				h.took.Add(h.slow) // by the publication of the release
			}
			h.took = max(h.took, 0)
			w.run(30 * time.Second)
			for range releases {
				number := w.release()
				w.await(time.Minute, "it is on record", func() bool { return w.state.Current.Number == number })
				w.run(5 * time.Second)
			}
			if more := w.told[EventProposed] + w.late - releases; more > c.more || w.told[EventSettled] != releases {
				t.Errorf("%d proposals, %d withdrawn and %d given up for %d switchovers\n%s", w.told[EventProposed], w.told[EventWithdrawn], w.late, releases, strings.Join(w.log, "\n"))
			}
			if lead := h.host.Lead(); lead > c.lead {
				t.Errorf("the lead is %v in the end", lead)
			}
		})
	}
}
