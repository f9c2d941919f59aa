package mesh

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/instant"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
)

// small is a mesh in which a test says what goes wrong, and when: hosts on one store, and members, in steps of a twentieth of a
// second. It draws nothing; internal/sim does. What carries decisions out keeps to the caller's duties in the package comment.
// At every step a client asks every member: it fails the test when I1, I2, I3 or the floor's rule is broken.
type small struct {
	t       *testing.T
	now     time.Duration // true time since the beginning
	policy  Policy
	state   State
	hosts   []*smallHost
	members []*smallMember
	first   map[uint64]time.Duration // when a release was first answered from
	log     []string
	late    int // proposals and commits that were given up
	told    map[string]int
}

const (
	smallStep    = 50 * time.Millisecond
	smallEpsilon = 100 * time.Millisecond
)

// smallHost is a distribution host: its process, its clock and the repository that it serves.
type smallHost struct {
	host    *Host
	off     time.Duration // of its clock
	dead    bool
	stalled time.Duration // it does nothing until then
	slow    time.Duration // from a decision to its publication
	took    Lately        // what publications took
	notice  time.Duration // until who holds requests sees what is published
	every   time.Duration // between two rounds
	round   time.Duration // how long one takes; with a member that hangs, this long
	asked   func()        // the round that is under way, until
	until   time.Duration
	placed  []State // what was published, and is not seen yet
	pending func()  // what it publishes, at
	due     time.Duration
	repo    State // what members find here
	stuck   bool  // what is published does not get there
}

// smallMember is a member: its disk, its clock and its links, and the process that answers.
type smallMember struct {
	name string
	node *Node // nil: it does not run
	last Decision
	from *Answering

	disk  Durable
	view  *State // on disk
	ready map[uint64]time.Duration

	deaf    bool          // it finds no repository
	mute    bool          // no host can ask it
	alone   bool          // no member can ask it, nor it any
	poll    time.Duration // how often it looks for something newer
	reached time.Duration // when it last found a repository
	hears   time.Duration // how long it says that it takes to hear; 0: a poll and half a second
	writes  bool          // false: its disk refuses
	write   time.Duration // how long a write takes
	wrote   time.Duration // when the one under way is done
	off     time.Duration // of its clock
	blind   bool          // nobody certifies it
	lied    bool          // nothing is promised of the member
	frozen  time.Duration // since when both its clocks stand still, as they do in a virtual machine that is stopped; 0: they go
	lost    time.Duration // what they have missed
	answers uint64        // the highest release that a client got
	silent  time.Duration // since when no client was answered
	longest time.Duration // the longest that none was, since the mesh is up
}

func newSmall(t *testing.T, members int, p Policy) *small {
	w := &small{t: t, policy: p, first: map[uint64]time.Duration{}, told: map[string]int{}, now: time.Second}
	w.policy.Lease, w.policy.Renew, w.policy.Absent.After = time.Hour, 10*time.Minute, cmp.Or(p.Absent.After, DefaultAbsent)
	w.state = State{Mesh: "m", Epsilon: smallEpsilon, Current: Release{Ref: status.Ref{Number: 1, At: epoch}}}
	for i := range members {
		m := &smallMember{name: string(rune('a' + i)), ready: map[uint64]time.Duration{}, poll: time.Second, writes: true,
			off: []time.Duration{0, 40 * time.Millisecond, -40 * time.Millisecond}[i%3]}
		w.members = append(w.members, m)
		w.state.Members = append(w.state.Members, m.name)
	}
	w.state = w.state.Granted(w.true(), w.policy.Lease)
	w.host()
	for _, m := range w.members {
		m.start()
	}
	w.run(5 * time.Second)
	w.allAnswer(1, 0)
	return w
}

// host starts another host, or the first.
func (w *small) host() *smallHost {
	h := &smallHost{host: NewHost(w.policy), repo: w.state}
	w.hosts = append(w.hosts, h)
	return h
}

func (w *small) say(format string, args ...any) {
	w.log = append(w.log, fmt.Sprintf("%8.2f  %s", w.now.Seconds(), fmt.Sprintf(format, args...)))
}

func (w *small) fatalf(format string, args ...any) {
	w.t.Helper()
	w.t.Fatalf("at %v: %s\n%s", w.now, fmt.Sprintf(format, args...), strings.Join(w.log, "\n"))
}

func (w *small) true() instant.Wall { return epoch.Add(w.now) }

func (h *smallHost) clock(w *small) instant.Instant {
	return instant.Instant{Wall: w.true().Add(h.off), Mono: instant.Mono(time.Hour + w.now)}
}

func (m *smallMember) clock(w *small) instant.Instant {
	now := w.now - m.lost
	if m.frozen != 0 {
		now = m.frozen - m.lost
	}
	return instant.Instant{Wall: epoch.Add(now + m.off), Mono: instant.Mono(time.Hour + now)}
}

func (m *smallMember) start()   { m.node, m.ready = NewNode(m.disk), map[uint64]time.Duration{} }
func (m *smallMember) kill()    { m.node, m.last, m.from = nil, Decision{}, nil }
func (m *smallMember) restart() { m.kill(); m.start(); m.learn() }

func (w *small) member(name string) *smallMember {
	return w.members[slices.IndexFunc(w.members, func(m *smallMember) bool { return m.name == name })]
}

// run lets time pass.
func (w *small) run(d time.Duration) {
	w.t.Helper()
	w.until(w.now+d, func() bool { return false })
}

// await lets time pass until something is so, which is to be so within d.
func (w *small) await(d time.Duration, what string, is func() bool) {
	w.t.Helper()
	if !w.until(w.now+d, is) {
		w.fatalf("in %v there was not: %s", d, what)
	}
}

func (w *small) until(end time.Duration, is func() bool) bool {
	w.t.Helper()
	for !is() {
		if w.now >= end {
			return false
		}
		w.now += smallStep
		for _, h := range w.hosts {
			w.turn(h)
		}
		for _, m := range w.members {
			w.step(m)
			w.ask(m)
		}
	}
	return true
}

// turn has a host do what it does every half second.
func (w *small) turn(h *smallHost) {
	if h.dead || w.now < h.stalled {
		return
	}
	if !h.stuck {
		h.place(w)
	}
	if h.pending != nil {
		if w.now >= h.due {
			h.pending()
			h.pending = nil
		}
		return
	}
	if h.asked != nil {
		if w.now >= h.until {
			h.asked()
			h.asked = nil
		}
		return
	}
	if every := cmp.Or(h.every, 500*time.Millisecond); w.now%every != 0 {
		return
	}
	read := w.state
	h.host.Read(read)
	answers := map[string]Answer{}
	for _, name := range h.host.Ask() {
		m := w.member(name)
		if m.node == nil || m.mute || m.frozen != 0 {
			answers[name] = Answer{Why: "it gave no answer"}
			continue
		}
		word := m.word(w)
		answers[name] = Answer{Word: &word}
	}
	began := h.clock(w)
	h.asked, h.until = func() {
		h.host.Asked(answers, began, h.clock(w))
		h.decide(w, read)
	}, w.now+h.round
	if h.round == 0 {
		h.asked()
		h.asked = nil
	}
}

// place puts what is in force where members find it.
func (h *smallHost) place(w *small) {
	if h.notice == 0 {
		h.repo = w.state
		return
	}
	if n := len(h.placed); n == 0 || h.placed[n-1].Version != w.state.Version {
		h.placed = append(h.placed, w.state)
	}
	if w.now%h.notice == 0 { // it looks
		h.repo, h.placed = h.placed[len(h.placed)-1], nil
	}
}

func (h *smallHost) decide(w *small, read State) {
	h.host.Publishing(time.Duration(h.took), h.notice)
	began := w.now
	d := h.host.Decide(h.clock(w))
	if d.Publish == nil {
		return
	}
	h.due = w.now + h.slow
	h.pending = func() {
		h.took.Add(w.now - began)
		if d.By != 0 && h.clock(w).Wall >= d.By {
			w.say("host: gave up what it had %s", d.Event)
			w.late++
			h.host.TooLate()
			return
		}
		w.put(read, *d.Publish, d.Event)
	}
}

// put replaces the state, on condition that it is still the one that was read.
func (w *small) put(read, next State, what string) {
	if w.state.Version != read.Version || w.state.At != read.At {
		w.say("host: somebody was faster")
		return
	}
	w.state = next
	w.told[what]++
	w.say("host: %s: %s", what, told(next))
}

// order has the first host carry out an operator's order.
func (w *small) order(what string, give func(h *Host, now instant.Instant) (State, error)) {
	w.t.Helper()
	h := w.hosts[0]
	h.host.Read(w.state)
	s, err := give(h.host, h.clock(w))
	if err != nil {
		w.fatalf("%s: %v", what, err)
	}
	w.put(w.state, s, what)
}

func (w *small) release() uint64 {
	w.t.Helper()
	w.await(30*time.Second, "nothing is committed", func() bool { return !w.state.Next.Committed })
	number := w.state.Highest + 1
	w.order("release", func(h *Host, now instant.Instant) (State, error) { return h.Stage(now, number, 0, false) })
	return number
}

func (w *small) cancel() {
	w.t.Helper()
	w.order("cancel", func(h *Host, now instant.Instant) (State, error) { return h.Cancel(now, "bad data") })
}

func (m *smallMember) word(w *small) Word {
	d := m.last
	return Word{Mesh: "m", At: m.clock(w).Wall, Lease: m.lease(), Serving: d.Serve, Floor: d.Floor, Confirms: d.Confirms, Promise: d.Holds, Clock: d.Clock,
		Struck: slices.ContainsFunc(d.Silent, func(r status.Reason) bool { return r.Code == Struck }), Hears: cmp.Or(m.hears, m.poll+500*time.Millisecond), Format: Format}
}

func (m *smallMember) lease() int64 {
	if m.view == nil {
		return 0
	}
	return m.view.Version
}

// step has a member do what its plugin and its sidecar do.
func (w *small) step(m *smallMember) {
	if m.node == nil || m.frozen != 0 {
		return
	}
	if !m.blind {
		m.node.Certify(instant.Sample{At: m.clock(w), Bound: max(time.Millisecond, (m.off - m.lost).Abs()), Source: "chrony"})
	}
	if w.now%m.poll == 0 && !m.deaf {
		for _, h := range w.hosts {
			if !h.dead {
				m.take(&h.repo)
				m.reached = w.now
				m.node.Reached(m.clock(w).Mono)
			}
		}
	}
	asks := m.last.Ask || w.now-m.reached > 3*m.poll
	if asks && w.now%(500*time.Millisecond) == 0 && !m.alone {
		for _, o := range w.members {
			if o != m && o.node != nil && !o.alone && o.frozen == 0 {
				if o.view != nil {
					m.take(o.view)
				}
				m.node.Hear(o.name, o.last.Holds)
			}
		}
	}
	w.decide(m)
}

func (w *small) decide(m *smallMember) {
	for range 10 {
		if m.answering(w) != 0 {
			m.node.Answered(m.answering(w))
		}
		before := m.last
		m.last = m.node.Decide(m.clock(w))
		m.from = m.last.Answering(m.clock(w))
		if m.last.Serve != before.Serve || m.last.Holds != before.Holds {
			w.say("%s: answers from %d, holds %s %d@%v; silent: %v", m.name, m.last.Serve, m.last.Holds.State, m.last.Holds.Number, m.last.Holds.At.Sub(epoch), m.last.Silent)
		}
		for _, number := range m.last.Stage {
			if m.ready[number] == 0 {
				m.ready[number] = w.now + 200*time.Millisecond
			}
		}
		for number, at := range m.ready {
			if w.now >= at {
				m.node.Ready(number)
			}
		}
		if m.last.Persist == nil || !m.writes {
			m.wrote = 0
			return
		}
		if m.write > 0 && m.wrote == 0 {
			m.wrote = w.now + m.write
		}
		if w.now < m.wrote {
			return
		}
		m.wrote = 0
		m.disk = *m.last.Persist
		m.node.Persisted(m.disk)
	}
	w.fatalf("%s wants something else written again and again", m.name)
}

func (m *smallMember) take(s *State) {
	if m.view != nil && s.Version <= m.view.Version {
		return
	}
	copied := *s
	m.view = &copied
	m.learn()
}

func (m *smallMember) learn() {
	if m.view == nil {
		return
	}
	s := m.view
	v := View{Lease: s.Version, Expires: s.Expires, Epsilon: s.Epsilon, Current: s.Current.Ref, Stranger: !slices.Contains(s.Members, m.name),
		Next: Next{Ref: s.Next.Ref, Decide: s.Next.Decide, Committed: s.Next.Committed, Presumed: s.Next.Presumed, Without: slices.Contains(s.Next.Without, m.name)}}
	for _, o := range s.Members {
		if o != m.name && !slices.Contains(s.Next.Without, o) {
			v.Others = append(v.Others, o)
		}
	}
	m.node.Learn(v)
}

// answering is what a client gets; 0 is silence.
func (m *smallMember) answering(w *small) uint64 {
	if m.node == nil || m.frozen != 0 {
		return 0
	}
	if on := m.from.On(m.clock(w)); on != nil {
		return on.Number
	}
	return 0
}

// ask is a client.
func (w *small) ask(m *smallMember) {
	number := m.answering(w)
	if number == 0 {
		if m.silent == 0 {
			m.silent = w.now
		}
		if m.answers != 0 {
			m.longest = max(m.longest, w.now-m.silent)
		}
		return
	}
	m.silent = 0
	if m.lied {
		return
	}
	if number < m.answers {
		w.fatalf("I1: %s answers from %d after %d", m.name, number, m.answers)
	}
	m.answers = number
	if at, ok := m.ready[number]; !ok || at > w.now {
		w.fatalf("I3: %s answers from %d, which it has not compiled", m.name, number)
	}
	if m.disk.Floor < number && !(m.disk.Promise.Number == number && m.disk.Promise.State == status.Committed) {
		w.fatalf("SYNC-G: %s answers from %d, and its disk has %+v", m.name, number, m.disk)
	}
	if _, ok := w.first[number]; !ok {
		w.first[number] = w.now
	}
	for later, at := range w.first {
		if later > number && w.now > at+2*smallEpsilon {
			w.fatalf("I2: %s answers from %d, %v after %d was answered from", m.name, number, w.now-at, later)
		}
	}
}

// allAnswer fails unless all that run answer from a release within d.
func (w *small) allAnswer(number uint64, d time.Duration) {
	w.t.Helper()
	w.await(d, fmt.Sprintf("all answer from %d", number), func() bool {
		return !slices.ContainsFunc(w.members, func(m *smallMember) bool {
			return m.node != nil && slices.Contains(w.state.Members, m.name) && m.answering(w) != number
		})
	})
}

// proposed lets time pass until a switchover is proposed, and gives it.
func (w *small) proposed() status.Ref {
	w.t.Helper()
	w.await(20*time.Second, "a proposal", func() bool { return w.state.Next.At != 0 })
	return w.state.Next.Ref
}

// promised lets time pass until a member holds the promise of what is proposed.
func (w *small) promised(m *smallMember) {
	w.t.Helper()
	w.await(5*time.Second, m.name+" promises", func() bool { return m.last.Holds.Ref() == w.state.Next.Ref })
}

func (w *small) committed() {
	w.t.Helper()
	w.await(20*time.Second, "a commit", func() bool { return w.state.Next.Committed })
}

// past lets time pass until an instant, and some more.
func (w *small) past(at instant.Wall, more time.Duration) {
	w.t.Helper()
	if at.Add(more) > w.true() {
		w.run(at.Add(more).Sub(w.true()))
	}
}

// nobodyWasSilent fails if a member gave no answers for longer than a switchover may take it.
func (w *small) nobodyWasSilent() {
	w.t.Helper()
	for _, m := range w.members {
		if m.longest > 2*smallEpsilon {
			w.fatalf("%s was silent for %v", m.name, m.longest)
		}
	}
}
