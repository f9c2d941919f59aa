package sim

import "time"

// network carries messages between endpoints, which are nodes first and then hosts. Nothing that is sent is sure to come, but
// for in a network that nothing is wrong with.
type network struct {
	w     *World
	ends  []endpoint
	pairs map[[2]int]int // pairs that are cut, one way, how often
}

type endpoint struct {
	island int // endpoints reach those of their own island only
	mute   int // nothing that it sends arrives
	deaf   int // nothing arrives
	lossy  int // one message in three is lost, one comes twice, all are late
}

func (n *network) init(w *World) {
	n.w, n.ends, n.pairs = w, make([]endpoint, w.Nodes+w.Spare+w.Hosts), map[[2]int]int{}
}

func (n *network) open(from, to int) bool {
	a, b := &n.ends[from], &n.ends[to]
	return a.island == b.island && a.mute == 0 && b.deaf == 0 && (len(n.pairs) == 0 || n.pairs[[2]int{from, to}] == 0)
}

// ordinary is how long a message takes at most when nothing is wrong.
const ordinary = 60 * time.Millisecond

// send has a message delivered, late, never, or twice, as the links are when it is sent and when it comes.
func (n *network) send(from, to int, deliver func()) {
	if !n.open(from, to) {
		return
	}
	delay, again := n.w.quick(ordinary), false
	if n.ends[from].lossy+n.ends[to].lossy > 0 {
		switch n.w.rng.IntN(6) {
		case 0, 1:
			return
		case 2:
			again = true
		}
		delay = n.w.upTo(3 * time.Second)
	}
	arrive := func() {
		if n.open(from, to) {
			deliver()
		}
	}
	n.w.after(delay, arrive)
	if again {
		n.w.after(n.w.upTo(6*time.Second), arrive)
	}
}
