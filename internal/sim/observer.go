package sim

import (
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/instant"
	"github.com/coredns-anycast/coredns-anycast/internal/mesh"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
)

// observer knows true time, and asks every node for an answer at every event. It uses no rule of the deciders.
type observer struct {
	w        *World
	made     map[uint64]made // by release: since when it may be answered from
	newest   uint64          // highest release that anybody answered from
	lapsed   instant.Wall    // E* of the switchover in force
	next     int             // where a sample of the nodes goes on
	forced   bool            // an operator forced a commit
	released uint64          // newest release
}

// made is what is known of the switchover to a release.
type made struct {
	commits []status.Ref  // that were published
	first   time.Duration // when it was first answered from, if it was
	was     bool
	without map[string]bool // members that were not waited for
	lied    bool            // it is on record by the word of those alone of whom nothing is promised
}

func (o *observer) init(w *World) {
	o.w, o.made, o.newest, o.released = w, map[uint64]made{}, 1, 1
	first := w.store.state.Current
	o.made[1] = made{commits: []status.Ref{first.Ref}, was: true}
	o.lapsed = w.store.state.LapsedBy(w.store.state.Next.Ref)
}

// published looks at what a host puts in force.
func (o *observer) published(before, after mesh.State) {
	if after.Version < before.Version || after.Expires == 0 {
		o.w.wrong("state", "version %d follows version %d", after.Version, before.Version)
	}
	next := after.Next
	if next.Committed && !before.Next.Committed {
		m := o.made[next.Number]
		m.commits = append(m.commits, next.Ref)
		m.without = map[string]bool{}
		for _, name := range next.Without {
			m.without[name] = true
		}
		for _, l := range after.Leaving {
			m.without[l.Member] = true
		}
		for _, n := range o.w.nodes { // those who are members no more, or not yet, and were gone on without
			if !contains(after.Members, n.name) {
				m.without[n.name] = true
			}
		}
		o.made[next.Number] = m
	}
	if before.Next.Presumed && after.Current.Number == before.Next.Number {
		for _, a := range before.Away { // gone on without: it may have found void what counts as made
			o.made[before.Next.Number].without[a.Member] = true
		}
	}
	if before.Next.Committed && after.Current.Number == before.Next.Number && !before.Next.Presumed && !o.taken(before.Next.Ref) {
		m := o.made[after.Current.Number]
		m.lied = true
		o.made[after.Current.Number] = m
	}
	if before.Next.Committed && after.Next.At == 0 && after.Current.Number == before.Current.Number {
		o.w.Count.Voids++
	}
	if before.Next.At != 0 && !before.Next.Committed && after.Next.At == 0 {
		o.w.Count.Withdrawn++
	}
	if after.Current.Number != before.Current.Number {
		o.w.Count.Switchovers++
	}
	if o.w.healed > 0 && max(after.Current.Number, after.Next.Number) > o.released {
		o.w.healed = o.w.now // a release whose write was under way for long
	}
	o.released = max(o.released, after.Current.Number, after.Next.Number)
	o.lapsed = after.LapsedBy(after.Next.Ref)
}

// taken reports whether a node that is to be relied on has taken a commit, or whether there is none whose disk lied.
func (o *observer) taken(ref status.Ref) bool {
	lied := false
	for _, n := range o.w.nodes {
		d := n.disk.durable
		if !n.beyond && (d.Floor >= ref.Number || d.Promise.Ref() == ref && d.Promise.State == status.Committed) {
			return true
		}
		lied = lied || n.beyond
	}
	return !lied
}

// sampled is how many nodes are asked at an event when there are many.
const sampled = 16

func (o *observer) look() {
	all := o.w.nodes
	if o.w.Slow && !o.w.oneIn(8) {
		return
	}
	if len(all) <= sampled {
		for _, n := range all {
			o.ask(n)
		}
		return
	}
	for range 2 {
		o.next = (o.next + 1) % len(all)
		o.ask(all[o.next])
	}
}

// ask is a client: it asks a node, and checks the answer against all that is known.
func (o *observer) ask(n *node) {
	w := o.w
	number := n.answer()
	if number == 0 {
		o.silence(n)
		return
	}
	n.heard = w.now
	if !n.plugin.compiled[number] {
		w.wrong("I3", "%s answers from release %d, which it has not compiled", n.name, number)
	}
	if n.beyond {
		return
	}
	if number < n.answers {
		w.wrong("I1", "%s answers from release %d after release %d", n.name, number, n.answers)
	}
	if number > n.answers {
		d := n.disk.durable
		if d.Floor < number && !(d.Promise.Number == number && d.Promise.State == status.Committed) {
			w.wrong("floor", "%s answers from release %d, and its disk says %s", n.name, number, durable(d))
		}
		n.answers = number
	}
	wall := epoch.Add(w.now)
	if n.disk.view != nil && wall > n.disk.view.Expires {
		w.wrong("lease", "%s answers %v after its lease ended", n.name, wall.Sub(n.disk.view.Expires))
	}
	if next := w.store.state.Next; next.At != 0 && number < next.Number && n.plugin.last.Holds.Ref() != next.Ref && wall > o.lapsed.Add(w.Epsilon) && n.plugin.next != next.Ref {
		w.wrong("E*", "%s answers from release %d %v after all leases without the switchover to %d have ended", n.name, number, wall.Sub(o.lapsed), next.Number)
	}
	o.same(n, number, wall)
}

// same checks I2: what is answered is what all answer, but for ε on both sides of the instant.
func (o *observer) same(n *node, number uint64, wall instant.Wall) {
	w := o.w
	m := o.made[number]
	if !m.was {
		early := true
		for _, ref := range m.commits {
			early = early && wall < ref.At.Add(-w.Epsilon)
		}
		if early {
			w.wrong("I2", "%s answers from release %d, and no commit of it has come: %v", n.name, number, m.commits)
		}
		m.was, m.first = true, w.now
		o.made[number] = m
		o.newest = max(o.newest, number)
	}
	for r := number + 1; r <= o.newest; r++ {
		later := o.made[r]
		if later.was && w.now > later.first+2*w.Epsilon && !o.forced && !later.lied && !(later.without[n.name] && !w.Policy.Absent.Lapse) {
			w.wrong("I2", "%s answers from release %d, %v after release %d was answered from", n.name, number, w.now-later.first, r)
		}
	}
}

// silence checks that whoever fell silent was touched by a fault, or is not silent for long.
func (o *observer) silence(n *node) {
	w := o.w
	if n.answers == 0 || n.touched || n.beyond || n.drained || w.Class > Single || w.now == n.heard {
		return
	}
	if !contains(w.store.state.Members, n.name) {
		return
	}
	why := "it does not run"
	if n.plugin != nil {
		why = reasons(n.plugin.last.Silent)
	}
	w.wrong("I5", "%s is silent, and no fault touched it: %s", n.name, why)
}

func reasons(all []status.Reason) string {
	s := ""
	for _, r := range all {
		s += r.String() + "; "
	}
	return s
}

// refusedView says that a node would not take what was published. It must not if its depot was lost and this is older than its promise.
func (o *observer) refusedView(n *node, s *mesh.State) {
	if o.w.Class < Lies && s.Version >= n.disk.durable.Under {
		o.w.wrong("view", "%s refuses version %d", n.name, s.Version)
	}
}

// last checks I6: all answer from the newest release, and it is what was released last.
func (o *observer) last() {
	w := o.w
	newest := w.store.state.Current.Number
	if newest != o.released || newest != w.store.state.Highest {
		w.wrong("I6", "release %d is not answered from %v after all was healed; the newest that is, is %d; next: %s", o.released, w.now-w.healed, newest, switchover(w.store.state.Next))
	}
	for _, n := range w.nodes {
		if n.dead || !contains(w.store.state.Members, n.name) {
			continue
		}
		if r := n.answer(); r != newest {
			why := "it does not run"
			if n.plugin != nil {
				why = reasons(n.plugin.last.Silent)
			}
			w.wrong("I6", "%s answers from %d, not %d, %v after all was healed: %s", n.name, r, newest, w.now-w.healed, why)
		}
	}
}

func contains(all []string, s string) bool {
	for _, x := range all {
		if x == s {
			return true
		}
	}
	return false
}
