package refresh

import (
	"container/heap"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/instant"
)

// line are the zones that wait for one group of primaries, by when they are due. A group has a line of its own so that one
// whose primaries hang, with a catalog of a hundred thousand zones perhaps, does not keep the zones of others waiting.
type line struct {
	queue   []*followed
	running int // rounds
}

func (s *Secondary) line(g *Group) *line {
	l := s.lineOf[g]
	if l == nil {
		l = &line{}
		s.lineOf[g] = l
		s.lines = append(s.lines, l)
	}
	return l
}

// next is the zone that is to be asked for now; if there is none, how long it is until one may be due. Of the rounds that may
// run at once, as many as groups have none are left for these, up to half of all.
func (s *Secondary) next(now instant.Mono) (z *followed, wait time.Duration) {
	idle := 0
	for _, l := range s.lines {
		if l.running == 0 {
			idle++
		}
	}
	free := s.config.Transfers - s.running
	spare := free - min(idle, s.config.Transfers/2)
	wait = time.Hour // the end of a round comes back here
	for _, l := range s.lines {
		if len(l.queue) == 0 || free <= 0 || l.running > 0 && spare <= 0 {
			continue
		}
		first := l.queue[0]
		if left := first.due.Sub(now); left > 0 {
			wait = min(wait, left)
		} else if z == nil || first.due < z.due {
			z = first
		}
	}
	return z, wait
}

// waiting is how many zones are in lines.
func (s *Secondary) waiting() (n int) {
	for _, l := range s.lines {
		n += len(l.queue)
	}
	return n
}

// leave takes a zone out of the line that it waits in, and returns that.
func (z *followed) leave() *line {
	l := z.waits
	if l != nil {
		heap.Remove(l, z.index)
	}
	return l
}

// line is a heap.

func (l *line) Len() int { return len(l.queue) }
func (l *line) Less(i, j int) bool {
	a, b := l.queue[i], l.queue[j]
	return a.due < b.due || a.due == b.due && a.origin < b.origin
}
func (l *line) Swap(i, j int) {
	q := l.queue
	q[i], q[j] = q[j], q[i]
	q[i].index, q[j].index = i, j
}
func (l *line) Push(x any) {
	z := x.(*followed)
	z.waits, z.index = l, len(l.queue)
	l.queue = append(l.queue, z)
}
func (l *line) Pop() any {
	last := len(l.queue) - 1
	z := l.queue[last]
	l.queue[last] = nil
	l.queue = l.queue[:last]
	z.waits = nil
	return z
}
