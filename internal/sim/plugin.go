package sim

import (
	"fmt"
	"slices"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/mesh"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
)

// As in the plugin meshsync: when what failed is tried again. Nothing is decided ten times a second, since a clock that steps here says so; but
// often enough that a node never stalls.
const (
	refresh    = 2 * time.Second
	tick       = 100 * time.Millisecond
	writeRetry = time.Second
	stageRetry = 2 * time.Second
)

// decideSoon has the plugin decide within a tick.
func (n *node) decideSoon() {
	if n.plugin != nil {
		n.decideAt(n.w.now + n.w.quick(tick))
	}
}

// decideAt has the plugin decide then, unless it decides before.
func (n *node) decideAt(at time.Duration) {
	p := n.plugin
	if p.due > n.w.now && p.due <= at {
		return
	}
	p.due = at
	p.serial++
	serial := p.serial
	n.w.at(at, n.then(func() {
		if serial == p.serial {
			n.decide()
		}
	}))
}

// decide does what the plugin's follower does.
func (n *node) decide() {
	p := n.plugin
	if n.stops > 0 {
		n.late = append(n.late, n.decide)
		return
	}
	n.w.Count.Decisions++
	if p.active != nil {
		p.node.Answered(p.active.Number)
	}
	now := n.now()
	d := p.node.Decide(now)
	p.active = d.Answering(now)
	n.story(d)
	p.last, p.serving = d, d.Serve
	n.write(d)
	for number := range p.compiled {
		if number != p.serving && !slices.Contains(d.Keep, number) {
			delete(p.compiled, number)
			p.node.Drop(number)
		}
	}
	n.stage(d)
	p.due = 0
	next := n.w.now + n.w.between(refresh/2, refresh)
	if d.Wake != 0 {
		next = min(next, n.clock.reaches(d.Wake, n.w.now)+n.w.quick(20*time.Millisecond))
	}
	n.decideAt(next)
	for a := p.active; a != nil; a = a.Then { // the observer asks at every edge
		if at := n.clock.counts(a.Until, n.w.now); at < next {
			n.w.at(at, func() {})
		}
	}
}

// write writes what must be durable: it is on disk, or is not, or is and nobody hears of it.
func (n *node) write(d mesh.Decision) {
	p := n.plugin
	if d.Persist == nil || p.writing || n.w.now < p.retry {
		return
	}
	p.writing = true
	want := *d.Persist
	made, heard := true, true
	if n.disk.full > 0 {
		made, heard = false, false
	} else if n.disk.fails > 0 && n.w.oneIn(2) {
		made, heard = n.w.oneIn(2), false
	}
	whole := n.writes()
	if made {
		// It reaches the platter before anybody is told; a crash in between leaves it there.
		life := n.life
		n.w.after(n.w.upTo(whole), func() {
			if life == n.life || n.w.oneIn(2) && n.life == life+1 && n.plugin == nil {
				n.disk.durable = want
			}
		})
	}
	if n.trap {
		n.trap = false
		n.w.after(n.w.upTo(whole+10*time.Millisecond), n.then(func() {
			n.w.say("%s: the plugin dies as it writes", n.name)
			n.killPlugin()
			n.w.after(n.w.upTo(5*time.Second), n.startPlugin)
		}))
	}
	n.w.after(whole, n.then(func() {
		p.writing = false
		if !heard {
			p.retry = n.w.now + writeRetry
			n.w.say("%s: could not write %s (on disk all the same: %v)", n.name, durable(want), made)
			n.w.after(writeRetry, n.then(n.decideSoon))
			return
		}
		n.w.say("%s: wrote %s", n.name, durable(want))
		p.node.Persisted(want)
		n.decide()
	}))
}

// stage compiles one release at a time.
func (n *node) stage(d mesh.Decision) {
	p := n.plugin
	if p.busy != 0 {
		if !slices.Contains(d.Stage, p.busy) {
			p.busy = 0 // given up
		}
		return
	}
	for _, number := range d.Stage {
		if !n.disk.data[number] || n.w.now < p.after[number] {
			continue
		}
		p.busy = number
		takes := n.w.quick(1500 * time.Millisecond)
		if n.heavy > 0 {
			takes = n.w.upTo(30 * time.Second)
		}
		n.w.after(takes, n.then(func() {
			if p.busy != number {
				return
			}
			p.busy = 0
			if n.refuses > 0 {
				p.after[number] = n.w.now + stageRetry
				n.w.after(stageRetry, n.then(n.decideSoon))
				p.node.Refuse(number, status.Reason{Code: "digest", Detail: "a file is corrupt"})
			} else {
				p.compiled[number] = true
				p.node.Ready(number)
			}
			n.decide()
		}))
		return
	}
}

// answer is the release that a query gets now; 0 is silence.
func (n *node) answer() uint64 {
	if n.plugin == nil || n.stops > 0 || n.plugin.active == nil {
		return 0
	}
	on := n.plugin.active.On(n.now())
	if on == nil {
		return 0
	}
	n.plugin.active = on
	return on.Number
}

func (n *node) story(d mesh.Decision) {
	if n.w.tell == nil {
		return
	}
	last := n.plugin.last
	if d.Serve != last.Serve || d.Then != last.Then || len(d.Silent) != len(last.Silent) || len(d.Silent) > 0 && d.Silent[0].Code != last.Silent[0].Code {
		if d.Serve != 0 {
			n.w.say("%s: answers from %d, then %d; holds %s", n.name, d.Serve, d.Then.Number, promise(d.Holds))
		} else {
			n.w.say("%s: silent: %v; holds %s", n.name, d.Silent, promise(d.Holds))
		}
	}
	if d.Ask != last.Ask {
		n.w.say("%s: asks the others: %v", n.name, d.Ask)
	}
}

func durable(d mesh.Durable) string { return fmt.Sprintf("floor %d, %s", d.Floor, promise(d.Promise)) }

func promise(p status.Promise) string {
	if p.Number == 0 {
		return "nothing"
	}
	return fmt.Sprintf("%d@%v %s", p.Number, p.At.Sub(epoch), p.State)
}
