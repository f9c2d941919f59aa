package sim

import (
	"fmt"
	"slices"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/instant"
	"github.com/coredns-anycast/coredns-anycast/internal/mesh"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
)

// node is the machine of a member: its disk, its clock, the process of the plugin, which answers, and that of the sidecar,
// which talks to all others.
type node struct {
	w     *World
	name  string
	end   int
	clock clock
	disk  disk

	plugin    *plugin // nil: it does not run
	life      int     // which process of the plugin it is
	stops     int     // the plugin does not get on, and answers nothing
	late      []func()
	sidecar   bool
	heardHost time.Duration // when the sidecar last reached a distribution host
	side      int           // which process of the sidecar it is

	sure    time.Duration // how sure who certifies the clock is of it: 1 to this more than it is wrong
	blind   int           // nobody certifies the clock
	lies    int           // who certifies the clock is wrong about it
	refuses int           // nothing compiles
	heavy   int           // it compiles slowly
	drained bool
	down    int  // the machine does not run
	trap    bool // the plugin dies as it writes next

	// What the observer keeps of the node.
	answers uint64        // highest release that any client ever saw, over all processes
	heard   time.Duration // when a client was last answered
	touched bool          // a fault touched it
	beyond  bool          // nothing is promised of it: its clock or its disk lied
	dead    bool          // it stays dead
}

// disk is what a node finds when it starts.
type disk struct {
	durable mesh.Durable
	view    *mesh.State
	data    map[uint64]bool // releases whose zones are there
	slow    int             // a write takes seconds
	fails   int             // a write fails, and at times has been made all the same
	full    int             // every write fails
}

// plugin is the process that answers.
type plugin struct {
	node     *mesh.Node
	last     mesh.Decision
	active   *mesh.Answering
	compiled map[uint64]bool
	busy     uint64 // the release that is being compiled
	after    map[uint64]time.Duration
	writing  bool
	retry    time.Duration
	lease    int64
	next     status.Ref // the switchover that it has learnt of last
	members  []string
	due      time.Duration // when it decides next
	serial   int
	serving  uint64
	words    map[string]status.Promise
}

func newNode(w *World, i int) *node {
	n := &node{w: w, name: fmt.Sprintf("n%03d", i), end: i, sure: w.Epsilon / 4}
	n.clock = clock{wall: epoch.Add(w.upTo(w.Epsilon/8) - w.Epsilon/16), mono: instant.Mono(time.Hour + w.upTo(time.Hour)), ppm: int64(w.rng.IntN(41) - 20)}
	n.disk.data = map[uint64]bool{}
	return n
}

func (n *node) now() instant.Instant { return n.clock.at(n.w.now) }

// boot starts the machine's processes.
func (n *node) boot() {
	n.startSidecar()
	n.startPlugin()
}

// then is a next step of the plugin's process that runs now.
func (n *node) then(do func()) func() {
	life := n.life
	return func() {
		switch {
		case life != n.life || n.plugin == nil:
		case n.stops > 0:
			n.late = append(n.late, do)
		default:
			do()
		}
	}
}

func (n *node) resume() {
	late := n.late
	n.late = nil
	for _, do := range late {
		n.w.after(0, n.then(do))
	}
}

func (n *node) startPlugin() {
	if n.plugin != nil || n.dead || n.down > 0 {
		return
	}
	n.life++
	n.late = nil
	n.plugin = &plugin{node: mesh.NewNode(n.disk.durable), compiled: map[uint64]bool{}, after: map[uint64]time.Duration{}, words: map[string]status.Promise{}}
	n.plugin.node.Hold(n.w.Isolated)
	n.w.say("%s: starts with %s", n.name, durable(n.disk.durable))
	if n.sidecar {
		n.tellDrain()
	}
	if view := n.disk.view; view != nil {
		n.w.after(n.w.quick(200*time.Millisecond), n.then(func() { n.learn(view) }))
	}
	n.decide()
}

// killPlugin ends the process. What it was writing may be on disk, or not.
func (n *node) killPlugin() {
	if n.plugin == nil {
		return
	}
	n.life++
	n.plugin, n.late = nil, nil
}

func (n *node) startSidecar() {
	if n.sidecar || n.dead || n.down > 0 {
		return
	}
	n.side++
	n.sidecar = true
	n.certify()
	n.w.after(n.w.upTo(n.w.Poll), n.beside(n.poll))
	n.w.after(n.w.upTo(time.Second), n.beside(n.relay))
	n.tellDrain()
}

func (n *node) killSidecar() {
	n.sidecar = false
	n.side++
}

// beside is a next step of the sidecar's process that runs now.
func (n *node) beside(do func()) func() {
	side := n.side
	return func() {
		if n.sidecar && side == n.side {
			do()
		}
	}
}

func (n *node) tellDrain() {
	if n.plugin == nil {
		return
	}
	why := ""
	if n.drained {
		why = "maintenance"
	}
	n.plugin.node.Drain(why)
	n.decideSoon()
}

// certifyEvery is how often the clock is certified anew. What goes wrong with it in between, a sample shows by itself.
const certifyEvery = 4 * time.Second

func (n *node) certify() {
	n.w.after(n.w.between(certifyEvery/2, certifyEvery), n.beside(n.certify))
	if n.blind > 0 || n.plugin == nil {
		return
	}
	off := n.clock.off(n.w.now)
	n.clock.set(n.w.now, func(c *clock) { // it is steered, gently
		if c.ppm = int64(n.w.rng.IntN(21)); off > 0 {
			c.ppm = -c.ppm
		}
	})
	bound := off.Abs() + n.sure/8 + n.w.upTo(n.sure)
	if n.lies > 0 {
		bound = n.sure
	}
	sample := instant.Sample{At: n.now(), Bound: bound, DriftPPM: 50, Source: "chrony"}
	n.w.after(n.w.upTo(20*time.Millisecond), n.then(func() {
		n.plugin.node.Certify(sample)
		n.decide()
	}))
}

// poll looks for something newer at all distribution hosts, as a mirror does.
func (n *node) poll() {
	n.w.after(n.w.between(n.w.Poll*3/4, n.w.Poll*5/4), n.beside(n.poll))
	for _, h := range n.w.hosts {
		n.w.net.send(n.end, h.end, func() {
			if h.server > 0 {
				return
			}
			repo := h.repo
			n.w.net.send(h.end, n.end, n.beside(func() {
				n.reached(true)
				n.take(repo)
				n.mirror(repo)
			}))
		})
	}
}

// mirror fetches the zones of the releases that are named.
func (n *node) mirror(repo *mesh.State) {
	for _, number := range []uint64{repo.Current.Number, repo.Next.Number} {
		if number == 0 || n.disk.data[number] || n.disk.full > 0 {
			continue
		}
		n.w.after(n.w.quick(2*time.Second), n.beside(func() {
			if n.disk.full == 0 && !n.disk.data[number] {
				n.disk.data[number] = true
				n.decideSoon()
			}
		}))
	}
}

func (n *node) reached(host bool) {
	n.lastHost(host)
	mono := n.now().Mono
	n.w.after(0, n.then(func() { n.plugin.node.Reached(mono) }))
}

func (n *node) lastHost(host bool) {
	if host {
		n.heardHost = n.w.now
	}
}

// take verifies what came, writes it to disk, and only then has the plugin learn it.
func (n *node) take(s *mesh.State) {
	if n.disk.view != nil && s.Version <= n.disk.view.Version || n.disk.full > 0 || n.disk.fails > 0 && n.w.oneIn(2) {
		return
	}
	n.w.after(n.writes(), n.beside(func() {
		if n.disk.view == nil || s.Version > n.disk.view.Version {
			n.disk.view = s
			n.w.after(n.w.quick(100*time.Millisecond), n.then(func() { n.learn(s) }))
		}
	}))
}

// writes is how long a write takes.
func (n *node) writes() time.Duration {
	if n.disk.slow > 0 {
		return n.w.upTo(8 * time.Second)
	}
	return n.w.quick(60 * time.Millisecond)
}

func (n *node) learn(s *mesh.State) {
	if s.Version <= n.plugin.lease {
		return
	}
	n.plugin.lease, n.plugin.next, n.plugin.members = s.Version, s.Next.Ref, s.Members
	clear(n.plugin.after)
	if why := n.plugin.node.Learn(viewOf(s, n.name)); why != nil {
		n.w.say("%s: refuses version %d: %s", n.name, s.Version, why)
		n.w.watch.refusedView(n, s)
	} else {
		n.w.say("%s: learns version %d, current %d, next %s", n.name, s.Version, s.Current.Number, switchover(s.Next))
	}
	n.decide()
}

// viewOf is what a state that is published says to one node.
func viewOf(s *mesh.State, name string) mesh.View {
	v := mesh.View{Lease: s.Version, Expires: s.Expires, Epsilon: s.Epsilon, Current: s.Current.Ref,
		Next: mesh.Next{Ref: s.Next.Ref, Decide: s.Next.Decide, Committed: s.Next.Committed, Presumed: s.Next.Presumed, Without: slices.Contains(s.Next.Without, name)}}
	v.Stranger = len(s.Members) > 0 && !slices.Contains(s.Members, name)
	v.Others = make([]string, 0, len(s.Members))
	for _, m := range s.Members {
		if m != name && !slices.Contains(s.Next.Without, m) {
			v.Others = append(v.Others, m)
		}
	}
	return v
}

// relay asks the other members for the newest view and for what they hold, while the plugin wants it or no host is reached.
func (n *node) relay() {
	pause := n.w.between(300*time.Millisecond, 700*time.Millisecond)
	if n.plugin != nil && n.plugin.next.At != 0 { // as package mirror does while a switchover is known that is to come
		pause = n.w.between(200*time.Millisecond, 300*time.Millisecond)
	}
	n.w.after(pause, n.beside(n.relay))
	asks := n.plugin != nil && n.plugin.last.Ask
	if !asks && n.w.now-n.heardHost < 3*n.w.Poll+time.Second || n.disk.view == nil {
		return
	}
	for _, name := range n.disk.view.Members {
		m := n.w.byName(name)
		if m == n {
			continue
		}
		n.w.net.send(n.end, m.end, func() {
			if !m.sidecar {
				return
			}
			view, promise := m.disk.view, m.holds()
			if newer := n.disk.view; newer != nil && (view == nil || newer.Version > view.Version) { // it asks back
				w := n.w
				w.net.send(m.end, n.end, func() { w.net.send(n.end, m.end, m.beside(func() { m.take(newer) })) })
			}
			n.w.net.send(m.end, n.end, n.beside(func() {
				n.reached(false)
				if view != nil {
					n.take(view)
				}
				n.w.after(0, n.then(func() {
					n.plugin.node.Hear(name, promise)
					n.decideSoon()
				}))
			}))
		})
	}
}

// holds is what the sidecar says that its plugin holds durably.
func (n *node) holds() status.Promise {
	if n.plugin == nil {
		return status.Promise{}
	}
	return n.plugin.last.Holds
}

// word is what the sidecar says to a distribution host; nil if the plugin does not run.
func (n *node) word() *mesh.Word {
	p := n.plugin
	if !n.sidecar || p == nil {
		return nil
	}
	d := &p.last
	struck := slices.ContainsFunc(d.Silent, func(r status.Reason) bool { return r.Code == mesh.Struck })
	return &mesh.Word{Mesh: "m", At: n.now().Wall, Lease: p.lease, Serving: d.Serve, Floor: d.Floor, Confirms: d.Confirms, Promise: d.Holds,
		Clock: d.Clock, Refused: d.Refused, Struck: struck, Drained: n.drained, Hears: n.w.hears(), Format: mesh.Format}
}
