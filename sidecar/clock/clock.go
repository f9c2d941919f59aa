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
	"log/slog"
	"sync"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/instant"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
	"github.com/coredns-anycast/coredns-anycast/internal/sysclock"
)

// How fast a clock may run away, in parts per million.
const (
	driftPPM = 50  // when nobody steers it: what a bad crystal in a hot machine does
	slewPPM  = 500 // when somebody may: the most that the kernel does for ntpd and adjtime(3) (MAXFREQ)
)

// States, as in status.Clock.
const (
	Synchronised = "synchronised" // the source says so now
	Holdover     = "holdover"     // it did, and the bound grows since; or it has begun again, and is not steady yet
	Unknown      = "unknown"      // there is no sample to trust
)

// Reading is what a source says.
type Reading struct {
	Sample    instant.Sample
	Reference instant.Wall // when the clock was last compared with the source's own; the same one again is no new evidence. Zero: the source does not say
	Leap      bool         // it expects a leap second at the end of this month
	Note      string       // what an operator should know though the clock is certified: a server that lies
	Metrics   []Value      // what the source says besides, also when it certifies nothing
	Servers   []Server     // those that were asked, of source ntp
}

// Source is who certifies the clock. Poll returns within ctx; an error says why the clock is not certified now, in
// words for an operator. Of a reading that comes with one only what is for people is used.
type Source interface {
	Poll(ctx context.Context) (Reading, error)
}

// Keeper polls a Source and keeps the last certified sample.
type Keeper struct {
	source Source
	limit  time.Duration
	log    *slog.Logger
	now    func() instant.Instant // sysclock.Now; tests step it

	mu     sync.Mutex
	last   Reading         // that certified the clock
	said   Reading         // of the last poll, whether it did or not
	why    string          // why the last poll certified nothing; empty when it did
	watch  instant.Instant // the last look at the clocks, to see steps
	broken string          // set while a step or a suspend waits for a reference newer than it
	seen   instant.Wall    // the reference time that a newer one is told from; 0 while that cannot be
	lost   doubt           // the source certified nothing for a while
	wide   doubt           // the bound was above the limit
}

// steady is how many distinct reference times in a row end a doubt. Whoever comes and goes is not believed each time.
const steady = 3

// doubt is a fault that outlives itself, until as many distinct reference times as steady speak against it.
type doubt struct {
	why  string
	owed int // reference times that are still to come
}

func (d doubt) String() string {
	return fmt.Sprintf("until lately %s; %d of %d reference times since have been good", d.why, steady-d.owed, steady)
}

// NewKeeper has certified nothing yet. limit is the error bound above which Fault speaks.
func NewKeeper(source Source, limit time.Duration, log *slog.Logger) *Keeper {
	return &Keeper{source: source, limit: limit, log: log, now: sysclock.Now, why: "the clock's source was not asked yet"}
}

// SetLimit changes the error bound above which Fault speaks.
func (k *Keeper) SetLimit(limit time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.limit = limit
}

// Run polls every interval until ctx ends, and logs when the state changes.
func (k *Keeper) Run(ctx context.Context, interval time.Duration) {
	tick := time.NewTicker(sysclock.UntilNext(interval))
	defer tick.Stop()
	state := ""
	for polls := 0; ; polls++ {
		if polls == 1 {
			tick.Reset(interval)
		}
		k.poll(ctx, interval)
		if ctx.Err() != nil { // what was cut short is no news
			return
		}
		if c := k.Status(); c.State != state {
			level := slog.LevelWarn
			if c.State == Synchronised {
				level = slog.LevelInfo
			}
			k.log.Log(ctx, level, "clock", "state", c.State, "bound", c.Bound, "reason", c.Reason)
			state = c.State
		}
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
	broke := k.watchClocks(k.now())
	k.said = r
	fresh := r.Reference == 0 || k.seen != 0 && r.Reference != k.seen
	switch {
	case err != nil:
		k.why = err.Error()
	case broke || k.broken != "" && !fresh:
		// The source has not surely looked at the clock since, so what it says may be about another clock.
		k.why = k.broken
	default:
		k.believe(r, fresh)
	}
	if broke || err == nil {
		k.seen = r.Reference
	}
}

// believe takes a certified reading. Its bound holds from now on; whether the source is steady again takes longer.
func (k *Keeper) believe(r Reading, fresh bool) {
	if fresh && k.lost.owed > 0 {
		k.lost.owed--
	}
	if fresh && k.why != "" && k.last.Sample.Source != "" {
		k.lost = doubt{k.why, steady - 1}
	}
	if fresh && k.wide.owed > 0 {
		k.wide.owed--
	}
	if r.Sample.Bound > k.limit {
		k.wide = doubt{k.over(r.Sample.Bound), steady}
	}
	k.last, k.why, k.broken = r, "", ""
}

// watchClocks compares the clocks with the last look at them, and reports whether what was known of them is over.
func (k *Keeper) watchClocks(now instant.Instant) (broke bool) {
	last := k.watch
	k.watch = now
	if last == (instant.Instant{}) {
		return false
	}
	moved := now.Wall.Sub(last.Wall) - now.Mono.Sub(last.Mono)
	slept := now.Suspended - last.Suspended
	switch {
	case slept.Abs() > instant.StepTolerance:
		k.broken = fmt.Sprintf("the machine was suspended for %v and the source has not checked the clock since", slept)
	case moved.Abs() <= instant.StepTolerance:
		return false
	case k.last.Leap && leapt(moved, now.Wall):
		k.log.Info("a leap second, as announced", "moved", moved.Round(time.Millisecond))
		return false
	default:
		k.broken = fmt.Sprintf("the wall clock stepped by %v and the source has not checked it since", moved.Round(time.Millisecond))
	}
	return true
}

// leapt reports whether a step is a leap second's: by one second, at the end of a UTC month. One that the source had
// announced leaves the clock as right as it was, so the next reading counts whenever it was compared.
func leapt(moved time.Duration, now instant.Wall) bool {
	const late = time.Minute // until a step is noticed
	t := now.Time().Add(time.Second)
	return (moved.Abs()-time.Second).Abs() <= instant.StepTolerance &&
		t.Sub(time.Date(t.Year(), t.Month(), 1, 0, 0, 0, 0, time.UTC)) < late
}

// Status is the clock as it is now. Its sample is left out when nothing can be made of it.
func (k *Keeper) Status() status.Clock {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.status()
}

func (k *Keeper) status() status.Clock {
	c := status.Clock{Version: status.Version, State: Synchronised, Reason: k.last.Note, Sample: k.last.Sample}
	bound, ok, why := k.last.Sample.Error(k.now())
	c.Bound = bound
	switch {
	case !ok:
		c.State, c.Sample, c.Reason = Unknown, instant.Sample{}, why
		if k.why != "" {
			c.Reason = k.why
		}
	case k.why != "":
		c.State, c.Reason = Holdover, k.why
	case k.lost.owed > 0:
		c.State, c.Reason = Holdover, k.lost.String()
	}
	return c
}

// Bound is the error bound now, or why there is none.
func (k *Keeper) Bound() (time.Duration, error) {
	c := k.Status()
	if c.State == Unknown {
		return 0, errors.New(c.Reason)
	}
	return c.Bound, nil
}

// Fault is why the clock is not good enough for a switchover; empty when it is. Holdover is no fault while its bound is
// within the limit (FAIL-4).
func (k *Keeper) Fault() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	c := k.status()
	switch {
	case c.State == Unknown:
		return c.Reason
	case c.Bound > k.limit:
		return k.over(c.Bound)
	case k.wide.owed > 0:
		return k.wide.String()
	}
	return ""
}

func (k *Keeper) over(bound time.Duration) string {
	return fmt.Sprintf("its error may be %v, more than the limit of %v", bound.Round(time.Microsecond), k.limit)
}

// Leap reports whether the source expected a leap second when it last certified the clock.
func (k *Keeper) Leap() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.last.Leap
}

// Said is what the source said last besides, whether it certified the clock or not: Metrics and Servers.
func (k *Keeper) Said() Reading {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.said
}

// Assumed certifies the clock on the operator's word, for demonstrations and tests on one machine.
type Assumed time.Duration

func (a Assumed) Poll(context.Context) (Reading, error) {
	return Reading{Sample: instant.Sample{At: sysclock.Now(), Bound: time.Duration(a), DriftPPM: driftPPM, Source: "assumed"}}, nil
}
