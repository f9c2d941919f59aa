package meshsync

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/instant"
	"github.com/coredns-anycast/coredns-anycast/internal/socket"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
	"github.com/coredns-anycast/coredns-anycast/internal/sysclock"
)

// clockConfig says who certifies the clock: the sidecar at socket, or the operator's word that it is never wrong by
// more than assume.
type clockConfig struct {
	socket string
	assume time.Duration
}

func (c clockConfig) assumed() bool { return c.socket == "" }

func (c clockConfig) String() string {
	if c.assumed() {
		return fmt.Sprintf("assumed to be right within %v: for tests and demonstrations only", c.assume)
	}
	return "certified by the sidecar at " + c.socket
}

// certifyEvery is how often a newer sample is fetched. Between two the last one ages by itself, and goes on doing so
// when the sidecar is gone (FAIL-4). While there is nothing to hear of other members and no silence, certifyCalm will do, also while a switchover
// is to come: each look wakes both processes, which is most of what an idle node does.
const certifyEvery, certifyCalm = 250 * time.Millisecond, time.Second

// word is what is known of the sidecar's word: the last certified sample, whether an operator wants silence, and what it
// heard of others.
type word struct {
	sample  instant.Sample
	drained string        // why; empty: answers are wanted
	told    bool          // the sidecar has said the one or the other
	members []status.Held // what other members hold of a switchover
	reached instant.Mono  // when a distribution host or a member was last reached
}

func (w word) equal(v word) bool {
	return w.sample == v.sample && w.drained == v.drained && w.told == v.told && w.reached == v.reached && slices.Equal(w.members, v.members)
}

// certify sends what is new until ctx ends. now reads the machine's clocks; pace says whether more is to be heard soon.
func (c clockConfig) certify(ctx context.Context, now func() instant.Instant, words chan<- word, pace *pace) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	<-timer.C
	var last word
	for {
		if w := c.ask(ctx, now, last); !w.equal(last) {
			select {
			case words <- w:
				last = w
			case <-ctx.Done():
			}
		}
		wait := certifyEvery
		if last.calm() && !pace.quick.Load() && !c.assumed() {
			wait = sysclock.UntilNext(certifyCalm)
		}
		timer.Reset(wait)
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-pace.quickened:
		}
	}
}

// calm reports whether the sidecar has said all that it has to say, and nothing that is to be taken back soon.
func (w word) calm() bool { return w.sample.Source != "" && w.told && w.drained == "" }

// pace is whether the follower waits for what the sidecar hears.
type pace struct {
	quick     atomic.Bool
	quickened chan struct{} // of room for one
}

func (p *pace) set(quick bool) {
	if p.quick.Swap(quick) || !quick {
		return
	}
	select {
	case p.quickened <- struct{}{}:
	default:
	}
}

// ask is the newest word. A sidecar that is not there, or does not know, takes nothing back of what was said before: no
// sample, and no silence.
func (c clockConfig) ask(ctx context.Context, now func() instant.Instant, w word) word {
	if c.assumed() {
		return word{sample: instant.Sample{At: now(), Bound: c.assume, Source: "assumed"}, told: true}
	}
	var said status.Clock
	if err := socket.Read(ctx, c.socket, &said); err != nil {
		return w
	}
	if sane(said.Sample) {
		w.sample = said.Sample
	}
	w.members, w.reached = said.Members, said.Reached
	if s := said.Silence; s != nil {
		w.drained, w.told = "", true
		if s.On {
			w.drained = cmp.Or(s.Why, "the sidecar says so")
		}
	}
	return w
}

// sane reports whether a sample can be one. An error that is negative, now or with time, would make anything look right.
func sane(s instant.Sample) bool {
	return s.Source != "" && s.Bound >= 0 && s.Bound <= time.Hour && s.DriftPPM >= 0 && s.DriftPPM <= 1_000_000
}
