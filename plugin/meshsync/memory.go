package meshsync

import (
	"math"
	"runtime"
	"sync/atomic"

	"github.com/coredns-anycast/coredns-anycast/internal/beside"
)

// leastGarbage is how many octets of zones have to be let go of until they are collected at once. The runtime alone would wait until the
// heap has grown by a share of all zones, or two minutes: a node at rest allocates nearly nothing, and would keep two releases. To collect
// costs little, since zones have no pointers.
const leastGarbage = 8 << 20

// collector gives back what releases took that were let go of. The follower's goroutine owns it.
type collector struct {
	garbage int // octets of zones let go of since the last collection
	busy    atomic.Bool
}

// start collects beside the answers if there is much of it, and nobody has it who keeps zones for the next start, which takes seconds.
func (c *collector) start(f *follower) {
	if c.garbage < leastGarbage || f.stager.keeping.Load() > 0 || !c.busy.CompareAndSwap(false, true) {
		return
	}
	c.garbage = 0
	f.running.Go(func() {
		beside.StepBack()
		runtime.GC()
		c.busy.Store(false)
	})
}

// alone are the octets of zones of a release that no release has that is kept.
func (f *follower) alone(c *compiled) int {
	if len(f.compiled) == 0 {
		return c.apart(new(compiled))
	}
	least := math.MaxInt
	for _, o := range f.compiled {
		least = min(least, c.apart(o))
	}
	return least
}

// apart are the octets of zones that a release has and another one has not.
func (c *compiled) apart(o *compiled) (octets int) {
	for _, p := range c.beside(o) {
		for i, z := range p.made {
			if was := o.of(p.signed[i].Origin); was != z {
				octets += z.Apart(was)
			}
		}
	}
	return octets
}
