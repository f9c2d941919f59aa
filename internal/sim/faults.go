package sim

import (
	"fmt"
	"slices"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/instant"
	"github.com/coredns-anycast/coredns-anycast/internal/mesh"
)

// Class says what goes wrong in a history.
type Class int

// The classes. In None and Single, no node may be silent that no fault touched.
const (
	None   Class = iota // nothing
	Single              // one thing, once
	Many                // anything, at once
	Lies                // and what breaks the assumptions: clocks that are certified and wrong, disks and stores that forget
)

func (c Class) String() string { return [...]string{"none", "single", "many", "lies"}[c] }

// Act is one thing that goes wrong, or that an operator does.
type Act struct {
	Kind   kind
	At     time.Duration
	On     moment        // it waits for one, from At on
	Delay  time.Duration // and then for so long
	Lasts  time.Duration // 0: it is over at once
	Node   int           // whom it strikes, modulo how many there are
	Host   int
	Much   time.Duration // how much of it
	Sides  uint64        // for a partition: on which side each is
	began  bool
	waits  bool
	ended  bool
	after  func(w *World)
	target string
}

// moment is one in a switchover at which things go wrong with more effect than at any other time.
type moment int

const (
	anyTime   moment = iota
	proposed         // a proposal is in force
	committed        // a commit is
	deciding         // members begin to ask each other
	switching        // a little before the instant
)

var moments = [...]string{"", "when proposed", "when committed", "when it is decided", "at the switchover"}

// now begins the acts that wait for a moment, each once.
func (w *World) comes(m moment) {
	for _, a := range w.plan {
		if a.On == m && !a.began && !a.waits && w.now >= a.At {
			a.waits = true
			w.after(a.Delay, func() { a.begin(w) })
		}
	}
}

// follow has the moments of a switchover come.
func (w *World) follow(before, after mesh.Switchover) {
	switch {
	case after.At != 0 && after.Ref != before.Ref:
		w.comes(proposed)
		w.at(after.Decide.Sub(epoch)-500*time.Millisecond, func() { w.comes(deciding) })
		w.at(after.At.Sub(epoch)-time.Second, func() { w.comes(switching) })
	case after.Committed && !before.Committed:
		w.comes(committed)
	}
}

type kind struct {
	name  string
	class Class // lowest class in which it happens; None: it is an operator's doing
	begin func(w *World, a *Act)
	end   func(w *World, a *Act)
}

func (a *Act) String() string {
	return fmt.Sprintf("%s %s, from %v for %v  node %d host %d much %v sides %b", a.Kind.name, moments[a.On], a.At.Round(time.Millisecond), a.Lasts.Round(time.Millisecond), a.Node, a.Host, a.Much.Round(time.Microsecond), a.Sides)
}

func (a *Act) begin(w *World) {
	if w.healed > 0 {
		return
	}
	a.began = true
	w.say("▶ %s", a)
	a.Kind.begin(w, a)
	if a.Kind.end != nil {
		w.after(a.Lasts, func() { a.cease(w) })
	} else {
		a.ended = true
	}
}

func (a *Act) cease(w *World) {
	if !a.began || a.ended {
		return
	}
	a.ended = true
	w.say("■ %s is over", a.Kind.name)
	a.Kind.end(w, a)
}

func (w *World) node(a *Act) *node { return w.nodes[a.Node%len(w.nodes)] }
func (w *World) host(a *Act) *host { return w.hosts[a.Host%len(w.hosts)] }

// byName finds a node; names are as newNode makes them.
func (w *World) byName(name string) *node {
	i := 0
	for _, digit := range name[1:] {
		i = 10*i + int(digit-'0')
	}
	return w.nodes[i]
}

func onNode(begin, end func(w *World, n *node, a *Act)) (func(*World, *Act), func(*World, *Act)) {
	b := func(w *World, a *Act) {
		n := w.node(a)
		n.touched = true
		begin(w, n, a)
	}
	return b, func(w *World, a *Act) {
		if end != nil {
			end(w, w.node(a), a)
		}
	}
}

func nodeKind(name string, class Class, begin, end func(w *World, n *node, a *Act)) kind {
	b, e := onNode(begin, end)
	return kind{name, class, b, e}
}

func hostKind(name string, class Class, begin, end func(w *World, h *host, a *Act)) kind {
	return kind{name, class, func(w *World, a *Act) { begin(w, w.host(a), a) }, func(w *World, a *Act) { end(w, w.host(a), a) }}
}

// count makes a kind of a counter that is above zero while it lasts.
func count(name string, of func(n *node) *int) kind {
	return nodeKind(name, Single,
		func(_ *World, n *node, _ *Act) { *of(n)++ },
		func(_ *World, n *node, _ *Act) { *of(n)-- })
}

func hostCount(name string, of func(h *host) *int) kind {
	return hostKind(name, Single,
		func(_ *World, h *host, _ *Act) { *of(h)++ },
		func(_ *World, h *host, _ *Act) { *of(h)-- })
}

var faults = []kind{
	nodeKind("plugin dies", Single,
		func(_ *World, n *node, _ *Act) { n.killPlugin() }, func(_ *World, n *node, _ *Act) { n.startPlugin() }),
	nodeKind("sidecar dies", Single,
		func(_ *World, n *node, _ *Act) { n.killSidecar() }, func(_ *World, n *node, _ *Act) { n.startSidecar() }),
	nodeKind("machine dies", Single,
		func(_ *World, n *node, _ *Act) { n.down++; n.killPlugin(); n.killSidecar() },
		func(w *World, n *node, a *Act) {
			if n.down--; n.down > 0 {
				return
			}
			n.clock.set(w.now, func(c *clock) { c.mono = instant.Mono(time.Minute) })
			n.clock.steer(w.now, a.Much)
			w.after(w.upTo(30*time.Second), n.steered)
			n.boot()
		}),
	nodeKind("plugin is stopped", Single,
		func(_ *World, n *node, _ *Act) { n.stops++ },
		func(_ *World, n *node, _ *Act) {
			if n.stops--; n.stops == 0 {
				n.resume()
			}
		}),
	nodeKind("machine hangs", Single,
		func(w *World, n *node, _ *Act) { n.stops++; w.net.ends[n.end].mute++; w.net.ends[n.end].deaf++ },
		func(w *World, n *node, _ *Act) {
			w.net.ends[n.end].mute--
			w.net.ends[n.end].deaf--
			if n.stops--; n.stops == 0 {
				n.resume()
			}
		}),
	nodeKind("node is cut off", Single,
		func(w *World, n *node, _ *Act) { w.net.ends[n.end].mute++; w.net.ends[n.end].deaf++ },
		func(w *World, n *node, _ *Act) { w.net.ends[n.end].mute--; w.net.ends[n.end].deaf-- }),
	count("node is mute", func(n *node) *int { return &n.w.net.ends[n.end].mute }),
	count("node is deaf", func(n *node) *int { return &n.w.net.ends[n.end].deaf }),
	count("node's link is bad", func(n *node) *int { return &n.w.net.ends[n.end].lossy }),
	count("disk is slow", func(n *node) *int { return &n.disk.slow }),
	count("disk fails", func(n *node) *int { return &n.disk.fails }),
	count("disk is full", func(n *node) *int { return &n.disk.full }),
	count("releases are refused", func(n *node) *int { return &n.refuses }),
	nodeKind("compiling is slow", Single,
		func(_ *World, n *node, _ *Act) { n.heavy++ },
		func(_ *World, n *node, _ *Act) {
			if n.heavy--; n.heavy == 0 && n.plugin != nil {
				n.plugin.busy = 0
				n.decideSoon()
			}
		}),
	nodeKind("plugin dies as it writes", Single,
		func(_ *World, n *node, _ *Act) { n.trap = true },
		func(_ *World, n *node, _ *Act) {
			n.trap = false
		}),
	count("clock is not certified", func(n *node) *int { return &n.blind }),
	nodeKind("clock steps", Single,
		func(w *World, n *node, a *Act) { n.steps(func(c *clock) { c.wall = c.wall.Add(a.Much) }) },
		func(w *World, n *node, _ *Act) { n.steered() }),
	nodeKind("clock is unsure", Single,
		func(w *World, n *node, a *Act) { n.sure = 4 * w.Epsilon },
		func(w *World, n *node, _ *Act) { n.sure = w.Epsilon / 4 }),
	nodeKind("depot is lost", Many, // but not what the node wrote of its promises: it begins with whatever view it finds
		func(_ *World, n *node, _ *Act) {
			n.killPlugin()
			n.killSidecar()
			n.disk.view = nil
			clear(n.disk.data)
			n.boot()
		}, nil),
	{"way from node to host is cut", Single,
		func(w *World, a *Act) { w.cutPair(w.node(a).end, w.host(a).end, 1); w.touch(w.node(a)) },
		func(w *World, a *Act) { w.cutPair(w.node(a).end, w.host(a).end, -1) }},
	{"way from host to node is cut", Single,
		func(w *World, a *Act) { w.cutPair(w.host(a).end, w.node(a).end, 1); w.touch(w.node(a)) },
		func(w *World, a *Act) { w.cutPair(w.host(a).end, w.node(a).end, -1) }},
	{"the network is split", Single, split, func(w *World, _ *Act) {
		for i := range w.net.ends {
			w.net.ends[i].island = 0
		}
	}},
	hostKind("host dies", Single,
		func(_ *World, h *host, _ *Act) { h.kill(); h.server++ }, func(_ *World, h *host, _ *Act) {
			if h.server--; h.mesh == nil && h.server == 0 {
				h.start()
			}
		}),
	hostKind("host's process dies", Single,
		func(_ *World, h *host, _ *Act) { h.kill() }, func(_ *World, h *host, _ *Act) {
			if h.mesh == nil {
				h.start()
			}
		}),
	hostKind("host dies as it publishes", Single,
		func(_ *World, h *host, _ *Act) { h.trap = true }, func(_ *World, h *host, _ *Act) { h.trap = false }),
	hostKind("host is stopped", Single,
		func(_ *World, h *host, _ *Act) { h.stops++ },
		func(_ *World, h *host, _ *Act) {
			if h.stops--; h.stops == 0 {
				h.resume()
			}
		}),
	hostCount("host is mute", func(h *host) *int { return &h.w.net.ends[h.end].mute }),
	hostCount("host is deaf", func(h *host) *int { return &h.w.net.ends[h.end].deaf }),
	hostCount("host's link is bad", func(h *host) *int { return &h.w.net.ends[h.end].lossy }),
	hostCount("repository is stuck", func(h *host) *int { return &h.stuck }),
	hostKind("repository of before", Many, // it is restored from a copy, and stays as it is for a while
		func(w *World, h *host, a *Act) {
			if n := len(w.store.kept); n > 0 {
				h.repo = w.store.kept[a.Sides%uint64(n)]
			}
			h.stuck++
		},
		func(_ *World, h *host, _ *Act) { h.stuck-- }),
	hostKind("host's clock is wrong", Single,
		func(w *World, h *host, a *Act) { h.clock.set(w.now, func(c *clock) { c.wall = c.wall.Add(a.Much) }) },
		func(w *World, h *host, _ *Act) { h.clock.steer(w.now, w.upTo(w.Epsilon/4)) }),
	{"store is slow", Single, func(w *World, a *Act) { w.store.slow += a.Lasts + 15*time.Second }, func(w *World, a *Act) { w.store.slow -= a.Lasts + 15*time.Second }},
	{"store is down", Single, func(w *World, a *Act) { w.store.down++ }, func(w *World, a *Act) { w.store.down-- }},

	nodeKind("clock lies", Lies,
		func(w *World, n *node, a *Act) {
			n.beyond = true
			n.lies++
			n.steps(func(c *clock) { c.wall = c.wall.Add(a.Much) })
		},
		func(w *World, n *node, _ *Act) {
			n.lies--
			n.steered()
		}),
	nodeKind("machine is frozen", Lies, // and thaws with both clocks where they were, until its clock is set right
		func(w *World, n *node, a *Act) {
			n.beyond = true
			if n.clock.froze {
				a.ended = true // it is already
				return
			}
			n.lies++
			n.stops++
			w.net.ends[n.end].mute++
			w.net.ends[n.end].deaf++
			n.clock.set(w.now, func(c *clock) { c.froze = true })
			w.after(a.Lasts/2, func() { n.thaw() })
		},
		func(w *World, n *node, _ *Act) {
			n.thaw()
			n.lies--
			n.steered()
		}),
	nodeKind("disk of before", Lies, // the machine dies, and starts from a snapshot that was taken Lasts before that
		func(w *World, n *node, a *Act) {
			n.beyond, w.before = true, true
			d, view := n.disk.durable, n.disk.view
			a.after = func(*World) { n.disk.durable, n.disk.view = d, view }
		},
		func(w *World, n *node, a *Act) {
			n.killPlugin()
			n.killSidecar()
			a.after(w)
			n.boot()
		}),
}

// steered puts the clock right, if it is not.
func (n *node) steered() {
	if n.clock.off(n.w.now).Abs() > n.w.Epsilon/2 && n.lies == 0 {
		n.steps(func(c *clock) { c.wall = epoch.Add(n.w.now + n.w.upTo(n.w.Epsilon/8)) })
	}
}

// steps has the wall clock step. The plugin decides anew within a tick, and sees it.
func (n *node) steps(change func(*clock)) {
	n.clock.set(n.w.now, change)
	if n.plugin != nil {
		n.decideAt(n.w.now + n.w.upTo(tick))
	}
}

func (n *node) thaw() {
	if !n.clock.froze {
		return
	}
	n.clock.set(n.w.now, func(c *clock) { c.froze = false })
	n.w.net.ends[n.end].mute--
	n.w.net.ends[n.end].deaf--
	if n.stops--; n.stops == 0 {
		n.resume()
	}
}

// touch says that a fault struck the node's way to a host: it has no other if there is one host only.
func (w *World) touch(n *node) {
	if len(w.hosts) == 1 {
		n.touched = true
	}
}

func (w *World) cutPair(from, to, by int) {
	p := [2]int{from, to}
	if w.net.pairs[p] += by; w.net.pairs[p] == 0 {
		delete(w.net.pairs, p)
	}
}

// split parts the network in two. A node is touched by that unless it is with a distribution host, or all members are on one
// side and can decide by themselves.
func split(w *World, a *Act) {
	host, apart := [2]bool{}, [2]bool{}
	side := func(i int) int { return int(a.Sides >> (i % 60) & 1) }
	for _, h := range w.hosts {
		s := side(h.end - len(w.nodes) + 40)
		w.net.ends[h.end].island, host[s] = s, true
	}
	for _, n := range w.nodes {
		s := side(n.end)
		w.net.ends[n.end].island, apart[s] = s, true
	}
	for _, n := range w.nodes {
		if s := side(n.end); !host[s] && apart[1-s] {
			n.touched = true
		}
	}
}

func (w *World) order(a *Act, what string, give func(h *mesh.Host, s mesh.State, now instant.Instant) (mesh.State, error)) {
	h := w.host(a)
	if h.mesh != nil && len(h.orders) < 4 {
		h.orders = append(h.orders, &order{what: what, give: give})
	}
}

func release(w *World, a *Act) {
	w.order(a, "release", func(h *mesh.Host, s mesh.State, now instant.Instant) (mesh.State, error) {
		return h.Stage(now, s.Highest+1, 0, false)
	})
}

var operators = []kind{
	{"release", None, release, nil},
	{"cancel", None, func(w *World, a *Act) {
		w.order(a, "cancel", func(h *mesh.Host, s mesh.State, now instant.Instant) (mesh.State, error) {
			return h.Cancel(now, "a second thought")
		})
	}, func(w *World, a *Act) { resume(w, a) }},
	{"pause", None, func(w *World, a *Act) {
		w.order(a, "pause", func(h *mesh.Host, s mesh.State, now instant.Instant) (mesh.State, error) {
			return h.Pause(now, "lunch"), nil
		})
	}, func(w *World, a *Act) { resume(w, a) }},
	{"switch then", None, func(w *World, a *Act) {
		h := w.host(a)
		h.order, h.number = mesh.Order{At: epoch.Add(w.now + a.Much.Abs()%(40*time.Second))}, w.store.state.Next.Number
	}, nil},
	{"strike", None, func(w *World, a *Act) {
		n := w.node(a)
		n.touched = true // it is silent once it knows, and until it knows better
		w.order(a, "strike "+n.name, func(h *mesh.Host, s mesh.State, now instant.Instant) (mesh.State, error) {
			if len(s.Members) < 2 {
				return s, &mesh.RefusedError{Why: "it is the last one"}
			}
			return h.Strike(now, n.name)
		})
	}, nil},
	{"add", None, func(w *World, a *Act) {
		n := w.node(a)
		w.order(a, "add "+n.name, func(h *mesh.Host, s mesh.State, now instant.Instant) (mesh.State, error) { return h.Add(now, n.name) })
	}, nil},
	{"drain", None, func(w *World, a *Act) {
		n := w.node(a)
		n.drained = true
		n.tellDrain()
	}, func(w *World, a *Act) {
		n := w.node(a)
		n.drained = false
		n.heard = w.now
		n.tellDrain()
		n.decide0()
	}},
	{"renew", None, func(w *World, a *Act) {
		w.order(a, "renew", func(h *mesh.Host, s mesh.State, now instant.Instant) (mesh.State, error) { return h.Renew(now, 0) })
	}, nil},
}

func (n *node) decide0() {
	if n.plugin != nil && n.stops == 0 {
		n.decide()
	}
}

func resume(w *World, a *Act) {
	w.order(a, "resume", func(h *mesh.Host, s mesh.State, now instant.Instant) (mesh.State, error) { return h.Resume(now), nil })
}

// force is drawn rarely: nothing is promised after it but that all comes right again.
var force = kind{"force", None, func(w *World, a *Act) {
	h := w.host(a)
	h.order, h.number = mesh.Order{Force: true}, w.store.state.Next.Number
	if h.mesh != nil && h.number != 0 {
		w.watch.forced = true
	}
}, nil}

// goodbye is what operators leave behind when they go home: nothing paused, nobody drained.
func (w *World) goodbye() {
	for _, n := range w.nodes {
		if n.drained {
			n.drained = false
			n.tellDrain()
		}
	}
	for _, h := range w.hosts {
		h.orders, h.order = nil, mesh.Order{}
	}
	w.unpause()
	if w.Dead = w.Dead && len(w.store.state.Members) > 2; w.Dead {
		n := w.dies()
		w.say("%s dies for good", n.name)
		n.dead, n.touched = true, true
		n.killPlugin()
		n.killSidecar()
		release(w, &Act{})
	}
}

// dies is the member that stays dead: not the only one that decides what becomes of a switchover, after which only an operator could tell.
func (w *World) dies() *node {
	without := w.store.state.Next.Without
	alone := len(without) == len(w.store.state.Members)-1
	return w.nodes[slices.IndexFunc(w.nodes, func(n *node) bool {
		return contains(w.store.state.Members, n.name) && (!alone || contains(without, n.name))
	})]
}

// unpause has publication go on, also if an order to pause it lands late.
func (w *World) unpause() {
	if w.store.state.Paused != "" {
		w.healed = w.now
		w.order(&Act{}, "resume", func(h *mesh.Host, s mesh.State, now instant.Instant) (mesh.State, error) { return h.Resume(now), nil })
	}
	if w.now < w.Storm+time.Minute {
		w.after(4*time.Second, w.unpause)
	}
}
