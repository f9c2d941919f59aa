package sharedunicast

import "time"

// leader has the goroutine that reads a socket answer what it has read, as long as the chain is quick: to wake another for that
// takes as long as a part of the chain. If a message holds it up, another goroutine reads in its place.
type leader struct {
	crew  *crew
	read  func()      // reads on
	timer *time.Timer // looks whether the reader is held up

	// With crew.mu:
	inside  *outbox   // of the goroutine that reads, while it is in the chain
	handsOn time.Time // until when it leaves everything to the crew
}

const (
	patience  = 2 * quick             // that the others have with the one that reads
	handsOver = 10 * time.Millisecond // how long it leaves everything to the crew after that
)

func newLeader(c *crew, read func()) *leader {
	l := &leader{crew: c, read: read}
	l.timer = time.AfterFunc(patience, l.look)
	return l
}

// answer answers what waits, or some of it. It reports whether this goroutine is to go on reading.
func (l *leader) answer(box *outbox) bool {
	began := time.Now()
	if !l.enter(box, began) {
		return true
	}
	for now := began; now.Sub(began) < quick; now = time.Now() {
		p := l.crew.next(false)
		if p == nil {
			break
		}
		l.crew.serve(p, box, now)
		packets.Put(p)
	}
	box.flush()
	return l.leave(box)
}

// enter says that the goroutine that reads goes into the chain, if it is to.
func (l *leader) enter(box *outbox, now time.Time) bool {
	l.crew.mu.Lock()
	defer l.crew.mu.Unlock()
	if now.Before(l.handsOn) || l.crew.workers-l.crew.idle >= mostWorkers {
		return false
	}
	l.inside = box
	l.timer.Reset(patience)
	return true
}

// leave says that a goroutine is back, and reports whether it is still the one that reads.
func (l *leader) leave(box *outbox) bool {
	l.crew.mu.Lock()
	defer l.crew.mu.Unlock()
	if l.inside != box {
		return false
	}
	l.inside = nil
	return true
}

// look has another goroutine read if the one that does is held up.
func (l *leader) look() {
	c := l.crew
	c.mu.Lock()
	defer c.mu.Unlock()
	if l.inside == nil {
		return
	}
	now := time.Now()
	l.inside, l.handsOn = nil, now.Add(handsOver)
	c.workers++ // the one that read
	c.working.Add(1)
	c.summon(now)
	go l.read()
}

// join makes the goroutine that was replaced one of the crew, as long as something waits.
func (l *leader) join(box *outbox) {
	c := l.crew
	defer c.working.Done()
	c.work(box, false)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.workers--
}
