// Package sim is a world in which whole meshes run by the real deciders, mesh.Node and mesh.Host, through whatever can go
// wrong: networks, disks, clocks, processes, operators. A history is told by its seed alone: the same seed gives the same
// history, faults and all, and an observer that knows everything asks every node for an answer at every event.
//
// What is real is what decides; what is played is what carries decisions out, and it keeps to the caller's duties of package
// mesh as the plugin meshsync, the sidecar and meshctl do. The checks are the invariants I1 to I6 of that package. docs/proof.md
// says what the histories cover and what they do not.
//
// Histories come in classes (Class). In a quiet class nobody may be silent whom no fault touched; in all of them, no two
// nodes ever differ outside a switchover. Each ends with a quiet time in which everything must come true.
package sim

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/instant"
	"github.com/coredns-anycast/coredns-anycast/internal/mesh"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
)

// epoch is true time at the beginning of every history: far from the end of a month, when leap seconds come.
const epoch = instant.Wall(1_781_500_000 * int64(time.Second))

// Settings are the world's, drawn from the seed.
type Settings struct {
	Seed     uint64
	Class    Class
	Nodes    int // that are members at the beginning
	Spare    int // that an operator may add
	Hosts    int
	Policy   mesh.Policy
	Epsilon  time.Duration
	Storm    time.Duration // how long things go wrong
	Poll     time.Duration // how often a node looks for something newer
	Isolated time.Duration // how long a node answers that reaches nobody; 0: for ever
	Signing  time.Duration // how long it takes at most to sign something new; 0: no time
	Notice   time.Duration // how much later than nodes reckon with it is in place where they look
	Slow     bool          // queries are rare, so that what the answer path may do by itself mostly is not done
	Dead     bool          // one member stays dead when all else is healed
}

// World is one history.
type World struct {
	Settings
	rng     *rand.Rand
	now     time.Duration // true time since epoch
	seq     uint64
	queue   queue
	net     network
	store   store
	hosts   []*host
	nodes   []*node
	watch   observer
	plan    []*Act
	healed  time.Duration // when the last fault ended and the operators have gone home; 0: not yet
	waits   bool          // when all was healed, a switchover without some members was proposed, which may wait for their leases
	before  bool          // a node's disk went back to what it was before
	slowest time.Duration // publication that a host reckons with since all was healed
	lapses  instant.Wall  // when all leases of before surely have ended
	tell    func(at time.Duration, line string)
	failed  *Violation
	Count   Counts
}

// Counts say how much happened in a history.
type Counts struct{ Events, Decisions, Rounds, Switchovers, Withdrawn, Late, Voids int }

type event struct {
	at  time.Duration
	seq uint64
	do  func()
}

// queue is a heap, the earliest event first, without the interfaces of container/heap: it is a fifth of what a history costs.
type queue []event

func (e *event) before(f *event) bool { return e.at < f.at || e.at == f.at && e.seq < f.seq }

func (q *queue) push(e event) {
	*q = append(*q, e)
	all := *q
	i := len(all) - 1
	for i > 0 {
		parent := (i - 1) / 2
		if !e.before(&all[parent]) {
			break
		}
		all[i] = all[parent]
		i = parent
	}
	all[i] = e
}

func (q *queue) pop() event {
	all := *q
	first, e := all[0], all[len(all)-1]
	all[len(all)-1].do = nil
	all = all[:len(all)-1]
	*q = all
	i := 0
	for {
		child := 2*i + 1
		if child >= len(all) {
			break
		}
		if child+1 < len(all) && all[child+1].before(&all[child]) {
			child++
		}
		if !all[child].before(&e) {
			break
		}
		all[i] = all[child]
		i = child
	}
	if len(all) > 0 {
		all[i] = e
	}
	return first
}

// at has something done at a time; what is over is done now.
func (w *World) at(at time.Duration, do func()) {
	w.seq++
	w.queue.push(event{max(at, w.now), w.seq, do})
}

func (w *World) after(d time.Duration, do func()) { w.at(w.now+d, do) }

// upTo is any time below d; 0 if there is none.
func (w *World) upTo(d time.Duration) time.Duration {
	if d <= 0 {
		return 0
	}
	return time.Duration(w.rng.Int64N(int64(d)))
}

func (w *World) between(a, b time.Duration) time.Duration { return a + w.upTo(b-a) }

// quick is mostly little and at times nearly d.
func (w *World) quick(d time.Duration) time.Duration {
	if w.rng.IntN(4) > 0 {
		return w.upTo(d / 20)
	}
	return w.upTo(d)
}

func (w *World) oneIn(n int) bool { return w.rng.IntN(n) == 0 }

func (w *World) say(format string, args ...any) {
	if w.tell != nil {
		w.tell(w.now, fmt.Sprintf(format, args...))
	}
}

// New makes a world from its settings, and the plan of what goes wrong in it.
func New(s Settings, plan []*Act) *World {
	w := &World{Settings: s, rng: rand.New(rand.NewPCG(s.Seed, 2)), plan: plan}
	w.net.init(w)
	names := make([]string, 0, s.Nodes)
	for i := range s.Nodes + s.Spare {
		n := newNode(w, i)
		w.nodes = append(w.nodes, n)
		if i < s.Nodes {
			names = append(names, n.name)
		}
	}
	slices.Sort(names)
	w.store.init(w, names)
	for i := range s.Hosts {
		w.hosts = append(w.hosts, newHost(w, i))
	}
	w.watch.init(w)
	for _, n := range w.nodes {
		n.boot()
	}
	for _, h := range w.hosts {
		h.start()
	}
	for _, a := range plan {
		if a.On == anyTime {
			w.at(a.At, func() { a.begin(w) })
		}
	}
	w.at(s.Storm, w.heal)
	return w
}

// Run runs the history to its end, and gives the first thing that was wrong.
func (w *World) Run() *Violation {
	for len(w.queue) > 0 && w.failed == nil {
		e := w.queue.pop()
		w.now = e.at
		if w.now > w.end() {
			break
		}
		e.do()
		w.Count.Events++
		w.watch.look()
	}
	if w.failed == nil {
		w.watch.last()
	}
	return w.failed
}

// patience is how long after all is healed everything must have come true: a minute; longer where nodes look for news so rarely, or
// publications take so long, that switchovers take most of a minute.
func (w *World) patience() time.Duration {
	return max(time.Minute, 2*w.lead())
}

// lead is how long before its instant a switchover is proposed at most.
func (w *World) lead() time.Duration {
	const slow = 2250 * time.Millisecond // neither two rounds, nor what is not measured, is taken to last longer
	return 2*(w.hears()+w.Notice) + 3*slow + 8*w.Epsilon + max(2*slow, 3*min(w.slowest, 10*time.Second)) + 1200*time.Millisecond
}

// hears is how long a node says that it takes to hear of what is published, where nothing is wrong.
func (s *Settings) hears() time.Duration { return s.Poll*5/4 + 300*time.Millisecond }

func (w *World) end() time.Duration {
	for _, h := range w.hosts {
		w.slowest = max(w.slowest, time.Duration(h.takes))
	}
	end := max(w.Storm, w.healed) + w.patience() + w.Policy.Lead
	if w.Policy.Absent.Lapse || w.waits { // a proposal that waits for a lease is kept, unless another would be sooner by a whole lead
		end += w.lead()
	}
	if w.before { // that node may have taken what all others found void: it is gone on without when it has promised nothing for that long
		end += w.Policy.Absent.After + w.patience()
	}
	if w.Dead {
		end += w.Policy.Absent.After
		if w.Policy.Absent.Lapse && w.healed > 0 {
			end = max(end, w.lapses.Sub(epoch)+w.patience()+w.Policy.Lead)
		}
	}
	return end
}

// heal ends all that is wrong. What ends by itself has ended before.
func (w *World) heal() {
	for _, a := range w.plan {
		a.cease(w)
	}
	for _, n := range w.nodes {
		n.steered()
	}
	w.healed, w.lapses = w.now, w.store.state.LapsedBy(status.Ref{}).Add(w.Policy.Lease)
	w.slowest = 0
	w.waits = w.store.state.Next.At != 0 && len(w.store.state.Next.Without) > 0
	w.say("── all is healed ──")
	w.goodbye()
}

// Violation is what was wrong, where and when.
type Violation struct {
	Rule string // I1 … I6, floor, lease
	What string
	At   time.Duration
}

func (v *Violation) Error() string { return fmt.Sprintf("%s at %v: %s", v.Rule, v.At, v.What) }

func (w *World) wrong(rule, format string, args ...any) {
	if w.failed == nil {
		w.failed = &Violation{rule, fmt.Sprintf(format, args...), w.now}
		w.say("WRONG  %s: %s", rule, w.failed.What)
	}
}

// Add adds what happened in another history.
func (c *Counts) Add(d Counts) {
	c.Events += d.Events
	c.Decisions += d.Decisions
	c.Rounds += d.Rounds
	c.Switchovers += d.Switchovers
	c.Withdrawn += d.Withdrawn
	c.Late += d.Late
	c.Voids += d.Voids
}
