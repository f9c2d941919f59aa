package mesh

import (
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/instant"
)

// Stall is how long answers go on when nothing is decided anew: a node whose decider hangs falls silent.
const Stall = 5 * time.Second

// Answering is what queries are answered from while nothing is decided anew. It goes by the clock that does not step, so that neither a late
// decision nor a step of the wall clock has a node switch early or go on with what is over (SYNC-E, SYNC-H).
type Answering struct {
	Number uint64
	Began  instant.Instant // just before it was decided, by the clocks that each query is asked with
	Until  instant.Mono    // it is answered from until then
	Then   *Answering      // what follows, if that is sure already; nil: silence
}

// Answering is what the decision lets queries be answered from; nil is silence. began is what the clocks said, by which it is asked On, just
// before the decision was made.
func (d Decision) Answering(began instant.Instant) *Answering {
	if d.Serve == 0 {
		return nil
	}
	stalled := began.Wall.Add(Stall)
	until := func(w instant.Wall) instant.Mono { return began.Mono.Add(min(w, stalled).Sub(began.Wall)) }
	a := &Answering{Number: d.Serve, Began: began, Until: until(d.Until)}
	if d.Then.Number != 0 {
		a.Then = &Answering{Number: d.Then.Number, Began: began, Until: until(d.Lapse)}
	}
	return a
}

// On is what a query is answered from: a, what follows it, or nil for silence. When the two clocks have not run alike since it was decided,
// the wall clock has stepped or the machine slept, and there is no answer until it is decided anew.
func (a *Answering) On(now instant.Instant) *Answering {
	for ; a != nil; a = a.Then {
		if now.Wall.Sub(a.Began.Wall)-now.Mono.Sub(a.Began.Mono) > instant.StepTolerance ||
			now.Mono.Sub(a.Began.Mono)-now.Wall.Sub(a.Began.Wall) > instant.StepTolerance {
			return nil
		}
		if now.Mono < a.Until {
			return a
		}
	}
	return nil
}
