package mesh

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/instant"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
)

// TestSimulation runs small meshes, each from its seed: three nodes with a distribution host, whose operator releases
// and schedules at any moment and repeats himself. What goes wrong depends on the weather:
//
//	calm   the host stalls and is killed between any two steps; nodes, links and clocks are well
//	storm  nodes crash, with a disk that is slow or refuses; links are cut; clocks step, and come back wrong by another amount
//
// True time is what the test counts; no node and no host knows it. In all of it no node goes back (I1) and none answers
// from what it does not have (I3). In mode lease in any weather, and in mode confirmed when it is calm, no node answers
// from a release further than ε outside its time (I2). When it is calm, no node is silent for long (I4), and the mesh
// gets on.
func TestSimulation(t *testing.T) {
	seeds := uint64(200)
	if testing.Short() {
		seeds = 50
	}
	for _, kind := range []struct {
		mode  Mode
		storm bool
	}{{Confirmed, false}, {Confirmed, true}, {Lease, false}, {Lease, true}} {
		t.Run(fmt.Sprintf("%s/storm=%v", kind.mode, kind.storm), func(t *testing.T) {
			t.Parallel()
			switches := 0
			for seed := range seeds {
				s := newSim(seed, kind.mode, kind.storm)
				if err := s.run(); err != nil {
					t.Fatalf("seed %d at %v: %v\n%s", seed, s.now, err, strings.Join(s.story, "\n"))
				}
				switches += s.switches
			}
			if switches < int(seeds)/4 {
				t.Errorf("only %d switchovers in %d runs", switches, seeds)
			}
		})
	}
}

// Everything is quicker than in life, so that much happens in a run.
const (
	simTick    = 20 * time.Millisecond
	simLength  = 60 * time.Second
	simEpsilon = 100 * time.Millisecond
	simLead    = 2 * time.Second
	simLease   = 6 * time.Second
	simRenew   = time.Second
	simPatient = time.Second // how long a node may be silent when it is calm
)

type sim struct {
	*rand.Rand
	now      time.Duration // true time
	storm    bool
	host     *simHost
	nodes    []*simNode
	began    map[uint64]instant.Wall // when each release begins, as last published
	switches int
	story    []string
}

func newSim(seed uint64, mode Mode, storm bool) *sim {
	s := &sim{Rand: rand.New(rand.NewPCG(seed, 1)), storm: storm, began: map[uint64]instant.Wall{1: epoch}}
	s.host = &simHost{sim: s, mode: mode, highest: 1, promises: map[status.Ref]instant.Wall{}, offset: s.within(simEpsilon)}
	s.host.publish(status.Ref{Number: 1, At: epoch}, status.Ref{})
	for i := range 3 {
		n := &simNode{sim: s, name: fmt.Sprint("n", i)}
		n.start()
		s.nodes = append(s.nodes, n)
	}
	return s
}

func (s *sim) run() error {
	for ; s.now < simLength; s.now += simTick {
		s.host.tick()
		for _, n := range s.nodes {
			n.tick()
			if err := n.check(); err != nil {
				return fmt.Errorf("%s: %w", n.name, err)
			}
		}
	}
	return nil
}

func (s *sim) say(format string, args ...any) {
	s.story = append(s.story, fmt.Sprintf("%8v  %s", s.now, fmt.Sprintf(format, args...)))
}

func (s *sim) within(d time.Duration) time.Duration { return time.Duration(s.Int64N(2*int64(d)+1)) - d }
func (s *sim) upTo(d time.Duration) time.Duration   { return time.Duration(s.Int64N(int64(d))) }

// quick is no time at all, half of the time.
func (s *sim) quick(d time.Duration) time.Duration { return time.Duration(s.IntN(2)) * s.upTo(d) }

// about reports true once in d on average.
func (s *sim) about(d time.Duration) bool { return s.Int64N(int64(d/simTick)) == 0 }

// simHost does what meshctl does: publish, promise, plan, review, settle, renew.
type simHost struct {
	*sim
	mode     Mode
	offset   time.Duration
	view     View
	promises map[status.Ref]instant.Wall // by the next release that leases name
	highest  uint64
	review   status.Ref    // the switchover that a command waits to review; none once it was killed
	stalled  time.Duration // until when it does nothing
}

func (h *simHost) clock() instant.Wall { return epoch.Add(h.now + h.offset) }

func (h *simHost) publish(current, next status.Ref) {
	h.view = View{Lease: h.view.Lease + 1, Expires: h.clock().Add(simLease), Epsilon: simEpsilon, Current: current, Next: next}
	h.promises[next] = max(h.promises[next], h.view.Expires)
	if next.At != 0 {
		h.began[next.Number] = next.At
	}
}

func (h *simHost) promisedWithout(ref status.Ref) (end instant.Wall) {
	for named, until := range h.promises {
		if ref.At == 0 || named != ref {
			end = max(end, until)
		}
	}
	return end
}

func (h *simHost) plan() Plan {
	p := Plan{Mode: h.mode, Number: h.view.Next.Number, Epsilon: simEpsilon, Lead: simLead, Said: map[string]status.Confirmation{},
		Promise: h.promisedWithout(status.Ref{}), Set: h.view.Next.At, PromiseSet: h.promisedWithout(h.view.Next)}
	for _, n := range h.nodes {
		p.Members = append(p.Members, n.name)
		if n.node != nil && !n.cut {
			p.Said[n.name] = status.Confirmation{Confirms: n.last.Confirms, Clock: n.last.Clock}
		}
	}
	return p
}

func (h *simHost) tick() {
	if h.now < h.stalled {
		return
	}
	next := h.view.Next
	switch {
	case h.about(8*time.Second) && h.view.Expires > h.clock().Add(2*simLead):
		h.stalled = h.now + h.upTo(2*simLead) // not so long that leases end
	case h.about(8 * time.Second):
		h.review = status.Ref{} // the command was killed
	case next.At != 0 && h.clock() > next.At.Add(2*simEpsilon):
		h.switches++
		h.publish(next, status.Ref{})
	case next.At == 0 && h.about(3*time.Second):
		h.highest++
		h.publish(h.view.Current, status.Ref{Number: h.highest})
		h.say("release %d", h.highest)
	case next.Number != 0 && h.about(time.Second):
		h.schedule()
	case h.review.Number != 0 && h.clock() >= h.plan().Deadline(h.review.At):
		h.judge()
	case h.view.Expires < h.clock().Add(simLease-simRenew):
		h.publish(h.view.Current, next)
	}
}

func (h *simHost) schedule() {
	at, against := h.plan().Choose(h.clock())
	if len(against) > 0 {
		return
	}
	h.review = status.Ref{Number: h.view.Next.Number, At: at}
	if h.view.Next != h.review {
		h.say("switchover to %d at %s", h.review.Number, seconds(at))
		h.publish(h.view.Current, h.review)
	}
}

func (h *simHost) judge() {
	at := h.review
	h.review = status.Ref{}
	if h.view.Next != at {
		return
	}
	if stands, later, missing := h.plan().Review(at.At, h.clock()); !stands {
		h.say("postponed to %s: %v", seconds(later), missing)
		h.publish(h.view.Current, status.Ref{Number: at.Number, At: later})
	}
}

// simNode is a node's disk, clock and link, and the process that does what meshsync does, if it lives.
type simNode struct {
	*sim
	name     string
	node     *Node
	last     Decision
	active   *simAnswering
	compiled map[uint64]bool
	staging  map[uint64]time.Duration // when it is done
	writing  *Durable
	written  time.Duration

	disk     Durable
	diskView *View
	offset   time.Duration // of its clock from true time
	bound    time.Duration
	stepped  bool
	certify  time.Duration // when its clock is certified anew, once it stepped
	restart  time.Duration
	cut      bool
	learnt   int64 // the lease that the process holds
	coming   *View // on its way, from the network or the disk
	arrives  time.Duration

	answered uint64 // highest release that any client ever saw
	heard    time.Duration
}

type simAnswering struct {
	number uint64
	until  instant.Wall
	then   *simAnswering
}

func (n *simNode) clock() instant.Instant {
	return instant.Instant{Wall: epoch.Add(n.now + n.offset), Mono: instant.Mono(time.Hour + n.now)}
}

// start starts the process. Its clock is another one than before: of this machine, perhaps, but disciplined anew.
func (n *simNode) start() {
	n.node, n.active, n.writing = NewNode(n.disk), nil, nil
	n.compiled, n.staging = map[uint64]bool{}, map[uint64]time.Duration{}
	n.setClock()
	n.learnt, n.coming, n.arrives = 0, n.diskView, n.now+n.quick(100*time.Millisecond)
}

func (n *simNode) setClock() {
	n.bound = min(max(time.Millisecond, n.upTo(2*simEpsilon)), simEpsilon)
	if n.storm && n.IntN(8) == 0 {
		n.bound = n.upTo(4 * simEpsilon)
	}
	n.offset = min(max(-n.bound, n.within(2*n.bound)), n.bound) // as wrong as it may be, half of the time
	n.stepped, n.certify = true, n.now+n.quick(time.Second)
}

func (n *simNode) crash() {
	if n.writing != nil && n.IntN(2) == 0 {
		n.disk = *n.writing // it was on disk, and nobody heard
	}
	n.node, n.active, n.last = nil, nil, Decision{}
	n.restart = n.now + n.quick(time.Second)
}

func (n *simNode) tick() {
	if n.storm {
		n.weather()
	}
	if n.node == nil {
		if n.now < n.restart {
			return
		}
		n.start()
	}
	n.fetch()
	n.facts()
	if n.IntN(4) > 0 || n.stepped { // otherwise late; but what is over is over, by what was decided before
		n.decide()
	}
}

// weather strikes above all where it hurts: around a switchover.
func (n *simNode) weather() {
	at := n.host.view.Next.At
	if at == 0 {
		at = n.host.view.Current.At
	}
	near := epoch.Add(n.now).Sub(at).Abs() < 2*simEpsilon
	switch {
	case n.node != nil && n.about(soon(near, 6*time.Second)):
		n.crash()
	case n.about(4 * time.Second):
		n.cut = !n.cut
	case n.about(soon(near, 10*time.Second)):
		n.setClock()
	}
}

func soon(yes bool, d time.Duration) time.Duration {
	if yes {
		return d / 50
	}
	return d
}

// fetch mirrors what is published, some time later. What was verified is on disk before it is used.
func (n *simNode) fetch() {
	if n.coming == nil && !n.cut {
		view := n.host.view
		n.coming, n.arrives = &view, n.now+n.upTo(200*time.Millisecond)
	}
	if n.coming == nil || n.now < n.arrives {
		return
	}
	if n.coming.Lease > n.learnt {
		n.diskView, n.learnt = n.coming, n.coming.Lease
		n.node.Learn(*n.coming)
	}
	n.coming = nil
}

func (n *simNode) facts() {
	if n.stepped && n.now >= n.certify {
		n.stepped = false
		n.node.Certify(instant.Sample{At: n.clock(), Bound: n.bound, Source: "chrony"})
	}
	for number, done := range n.staging {
		if n.now >= done {
			delete(n.staging, number)
			n.compiled[number] = true
			n.node.Ready(number)
		}
	}
	if n.writing != nil && n.now >= n.written {
		if !n.storm || n.IntN(4) > 0 {
			n.disk = *n.writing
			n.node.Persisted(n.disk)
		}
		n.writing = nil
	}
}

// decide does what the plugin's follower does with a decision.
func (n *simNode) decide() {
	if n.active != nil {
		n.node.Answered(n.active.number)
	}
	d := n.node.Decide(n.clock())
	n.last, n.active = d, nil
	if d.Serve != 0 {
		n.active = &simAnswering{number: d.Serve, until: d.Until}
		if d.Then.Number != 0 {
			n.active.then = &simAnswering{number: d.Then.Number, until: d.Lapse}
		}
	}
	if d.Persist != nil && n.writing == nil {
		n.writing, n.written = d.Persist, n.now+n.quick(100*time.Millisecond)
	}
	for _, number := range d.Stage {
		if _, busy := n.staging[number]; !busy {
			n.staging[number] = n.now + n.quick(600*time.Millisecond)
		}
	}
}

// answer is the release that a query gets now; 0 is silence.
func (n *simNode) answer() uint64 {
	for n.active != nil {
		if n.clock().Wall < n.active.until {
			return n.active.number
		}
		n.active = n.active.then
	}
	return 0
}

func (n *simNode) check() error {
	number := n.answer()
	if number == 0 {
		if silent := n.now - n.heard; !n.storm && n.answered != 0 && silent > simPatient {
			return fmt.Errorf("I4: silent for %v: %v", silent, n.last.Silent)
		}
		return nil
	}
	n.heard = n.now
	if number < n.answered {
		return fmt.Errorf("I1: release %d after %d", number, n.answered)
	}
	n.answered = number
	if !n.compiled[number] {
		return fmt.Errorf("I3: release %d is not compiled", number)
	}
	if n.host.mode == Confirmed && n.storm {
		return nil // safe against any single fault, and there are many
	}
	for other, begins := range n.began {
		switch off := epoch.Add(n.now).Sub(begins); {
		case other == number && off < -simEpsilon:
			return fmt.Errorf("I2: release %d, %v before it begins", number, -off)
		case other > number && off > simEpsilon:
			return fmt.Errorf("I2: release %d, %v after %d began", number, off, other)
		}
	}
	return nil
}
