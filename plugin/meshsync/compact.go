package meshsync

import (
	"cmp"
	"context"
	"maps"
	"runtime"
	"slices"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/beside"
	"github.com/coredns-anycast/coredns-anycast/internal/zone"
)

// compactor puts zones in order that have changed often (zone.Fragmented), one at a time, beside the answers and the making of releases.
// What it makes takes the place of the zone in every release that has it: the records are the same, and so is each answer. A release
// that is made meanwhile, of the zone as it was, gets its turn when it is ready, in no time, since there is what to make it of.
// The follower's goroutine owns it.
type compactor struct {
	results chan reordered
	busy    bool
	base    *zone.Zone      // what was made last; nil if no release can come any more that needs it
	gaveUp  map[string]bool // origins of zones that cannot be put in order: they are not tried again until they are made anew
}

// reordered are releases with a zone put in order.
type reordered struct {
	origin  string
	base    *zone.Zone // nil: it was given up
	changed []exchange
	took    time.Duration
}

// exchange is a release that takes the place of another one, which has the same zones.
type exchange struct {
	number  uint64
	was, is *compiled
}

// start begins with a zone that needs it, if there is one.
func (c *compactor) start(ctx context.Context, f *follower) {
	origin := c.fragmented(f.compiled)
	if origin == "" && f.stager.busy == nil {
		c.base = nil
	}
	if origin == "" || c.busy {
		return
	}
	c.busy = true
	base, releases := c.base, maps.Clone(f.compiled)
	f.running.Go(func() {
		r := reordered{origin: origin}
		beside.Run(ctx, func() { r = reorder(ctx, origin, base, releases) })
		c.results <- r
	})
}

// fragmented is the origin of a zone that needs to be put in order and may be, "" if there is none.
func (c *compactor) fragmented(releases map[uint64]*compiled) (next string) {
	need := map[string]bool{}
	for _, r := range releases {
		for _, origin := range r.fragmented {
			need[origin] = true
			if !c.gaveUp[origin] {
				next = origin
			}
		}
	}
	maps.DeleteFunc(c.gaveUp, func(origin string, _ bool) bool { return !need[origin] })
	return next
}

// reorder puts the zone of an origin in order: the newest one, and the others on what is made of that, or all on what was made before.
func reorder(ctx context.Context, origin string, base *zone.Zone, releases map[uint64]*compiled) (r reordered) {
	began := time.Now()
	r.origin = origin
	made := map[*zone.Zone]*zone.Zone{} // releases share what did not change
	numbers := slices.SortedFunc(maps.Keys(releases), func(x, y uint64) int { return cmp.Compare(y, x) })
	for _, number := range numbers {
		was := releases[number]
		if !slices.Contains(was.fragmented, origin) {
			continue
		}
		z := was.of(origin)
		if base == nil || base.Origin() != origin {
			if base = z.Compact(func() bool { return ctx.Err() == nil }); base == nil {
				return reordered{origin: origin}
			}
		}
		if made[z] == nil {
			made[z] = base.CatchUp(z)
		}
		r.changed = append(r.changed, exchange{number, was, was.with(made[z])})
	}
	r.base, r.took = base, time.Since(began)
	return r
}

// reordered takes in releases with a zone put in order. What is not kept any more is passed over.
func (f *follower) reordered(r reordered) {
	f.compactor.busy = false
	if r.base == nil {
		log.Warningf("zone %s cannot be put in order: it takes more memory than its records need, until it is made anew", r.origin)
		f.compactor.gaveUp[r.origin] = true
		return
	}
	f.compactor.base = r.base
	for _, e := range r.changed {
		if f.compiled[e.number] == e.was {
			f.compiled[e.number] = e.is
		}
	}
	log.Infof("zone %s is put in order again: %d octets, in %v", r.origin, r.base.ImageSize(), r.took.Round(time.Millisecond))
	f.running.Go(func() { // what it took the place of is of no use any more
		beside.StepBack()
		runtime.GC()
	})
}
