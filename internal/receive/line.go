package receive

import (
	"container/heap"
	"time"
)

// line are the zones that wait for one group of primaries, by when they are due. A group has a line of its own so that one
// whose primaries hang, with a catalog of a hundred thousand zones perhaps, does not keep the zones of others waiting.
type line struct {
	queue   []*secondary
	running int // refreshes
}

func (r *Receiver) line(g *Group) *line {
	if r.lines[g] == nil {
		r.lines[g] = &line{}
	}
	return r.lines[g]
}

// next is the zone that is to be refreshed now; if there is none, how long it is until one may be due. Of the refreshes that may
// run at once, as many as groups have none are left for these, up to half of all.
func (r *Receiver) next(now time.Time) (sec *secondary, wait time.Duration) {
	idle := 0
	for _, l := range r.lines {
		if l.running == 0 {
			idle++
		}
	}
	free := r.config.Transfers - r.running
	spare := free - min(idle, r.config.Transfers/2)
	wait = time.Hour // the end of a refresh comes back here
	for _, l := range r.lines {
		if len(l.queue) == 0 || free <= 0 || l.running > 0 && spare <= 0 {
			continue
		}
		first := l.queue[0]
		if left := first.due.Sub(now); left > 0 {
			wait = min(wait, left)
		} else if sec == nil || first.due.Before(sec.due) {
			sec = first
		}
	}
	return sec, wait
}

// waiting is how many zones are in lines.
func (r *Receiver) waiting() (n int) {
	for _, l := range r.lines {
		n += len(l.queue)
	}
	return n
}

// leave takes a zone out of the line that it waits in, and returns that.
func (sec *secondary) leave() *line {
	l := sec.waits
	if l != nil {
		heap.Remove(l, sec.index)
	}
	return l
}

// line is a heap.

func (l *line) Len() int           { return len(l.queue) }
func (l *line) Less(i, j int) bool { return l.queue[i].due.Before(l.queue[j].due) }
func (l *line) Swap(i, j int) {
	q := l.queue
	q[i], q[j] = q[j], q[i]
	q[i].index, q[j].index = i, j
}
func (l *line) Push(x any) {
	sec := x.(*secondary)
	sec.waits, sec.index = l, len(l.queue)
	l.queue = append(l.queue, sec)
}
func (l *line) Pop() any {
	last := len(l.queue) - 1
	sec := l.queue[last]
	l.queue[last] = nil
	l.queue = l.queue[:last]
	sec.waits = nil
	return sec
}
