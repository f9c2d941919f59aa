// Package clock asks who steers the machine's clock how wrong it may be, and keeps the last certified answer
// (CLOCK-1). An answer is a bound or a reason why there is none; a guess does not exist.
//
// It reads clocks and sets none. main calls it and serves what it says to the plugin meshsync, where a sample ages by
// itself: so neither the loss of the time source nor the death of this process silences anybody (FAIL-4).
package clock

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/instant"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
	"github.com/coredns-anycast/coredns-anycast/internal/sysclock"
)

// driftPPM is how fast a clock that nobody steers may run away: what a bad crystal in a hot machine does.
const driftPPM = 50

// States, as in status.Clock.
const (
	Synchronised = "synchronised" // the source says so now
	Holdover     = "holdover"     // it did, and the bound grows since
	Unknown      = "unknown"      // there is no sample to trust
)

// Reading is one certified answer of a source.
type Reading struct {
	Sample    instant.Sample
	Reference instant.Wall       // when the source last compared itself with its own; zero where it does not say
	Leap      bool               // it expects a leap second at the end of this month
	Metrics   map[string]float64 // what the source says besides, by metric name
}

// Source is who certifies the clock. Poll returns within ctx; an error says why the clock is not certified now, in
// words for an operator.
type Source interface {
	Poll(ctx context.Context) (Reading, error)
}

// Keeper polls a Source and keeps the last certified sample.
type Keeper struct {
	source Source
	now    func() instant.Instant // sysclock.Now; tests step it

	mu      sync.Mutex
	last    Reading
	why     string          // why the last poll certified nothing; empty when it did
	watch   instant.Instant // the last look at the clocks, to see steps
	stepped string          // set while a step waits for a reference newer than it
}

// NewKeeper has certified nothing yet.
func NewKeeper(source Source) *Keeper {
	return &Keeper{source: source, now: sysclock.Now, why: "the clock's source was not asked yet"}
}

// Run polls every interval until ctx ends.
func (k *Keeper) Run(ctx context.Context, interval time.Duration) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		k.poll(ctx, interval)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (k *Keeper) poll(ctx context.Context, within time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	r, err := k.source.Poll(ctx)
	k.mu.Lock()
	defer k.mu.Unlock()
	k.noticeStep(k.now())
	switch {
	case err != nil:
		k.why = err.Error()
	case k.stepped != "" && r.Reference != 0 && r.Reference == k.last.Reference:
		// The source has not looked at the clock since it stepped, so what it says is about another clock.
		k.why = k.stepped
	default:
		k.last, k.why, k.stepped = r, "", ""
	}
}

// noticeStep compares both clocks with the last look at them.
func (k *Keeper) noticeStep(now instant.Instant) {
	if k.watch != (instant.Instant{}) {
		moved := now.Wall.Sub(k.watch.Wall) - now.Mono.Sub(k.watch.Mono)
		if moved.Abs() > instant.StepTolerance {
			k.stepped = fmt.Sprintf("the wall clock stepped by %v and the source has not checked it since", moved.Round(time.Millisecond))
		}
	}
	k.watch = now
}

// Status is the clock as it is now. Its sample is left out when nothing can be made of it.
func (k *Keeper) Status() status.Clock {
	k.mu.Lock()
	defer k.mu.Unlock()
	c := status.Clock{Version: status.Version, State: Synchronised, Sample: k.last.Sample}
	_, ok, why := k.last.Sample.Error(k.now())
	switch {
	case !ok:
		c.State, c.Sample, c.Reason = Unknown, instant.Sample{}, why
		if k.why != "" {
			c.Reason = k.why
		}
	case k.why != "":
		c.State, c.Reason = Holdover, k.why
	}
	return c
}

// Bound is the error bound now, or why there is none.
func (k *Keeper) Bound() (time.Duration, error) {
	c := k.Status()
	bound, ok, why := c.Sample.Error(k.now())
	if !ok {
		if c.Reason != "" {
			why = c.Reason
		}
		return 0, errors.New(why)
	}
	return bound, nil
}

// Leap reports whether the source expected a leap second when it last certified the clock.
func (k *Keeper) Leap() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.last.Leap
}

// Metrics is what the source said besides, at its last certified answer.
func (k *Keeper) Metrics() map[string]float64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.last.Metrics
}

// Assumed certifies the clock on the operator's word, for demonstrations and tests on one machine.
type Assumed time.Duration

func (a Assumed) Poll(context.Context) (Reading, error) {
	return Reading{Sample: instant.Sample{At: sysclock.Now(), Bound: time.Duration(a), DriftPPM: driftPPM, Source: "assumed"}}, nil
}
