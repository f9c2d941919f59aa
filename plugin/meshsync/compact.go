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
	base    *zone.Zone // what was made last; nil if no release can come any more that needs it
}

// reordered are releases with a zone put in order.
type reordered struct {
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
	origin := f.fragmented()
	if origin == "" && f.stager.busy == nil {
		c.base = nil
	}
	if origin == "" || c.busy {
		return
	}
	c.busy = true
	base, releases := c.base, maps.Clone(f.compiled)
	f.running.Go(func() {
		var r reordered
		beside.Run(ctx, func() { r = reorder(ctx, origin, base, releases) })
		c.results <- r
	})
}

// fragmented is the origin of a zone that needs to be put in order, "" if there is none.
func (f *follower) fragmented() string {
	for _, c := range f.compiled {
		if len(c.fragmented) > 0 {
			return c.fragmented[0]
		}
	}
	return ""
}

// reorder puts the zone of an origin in order: the newest one, and the others on what is made of that, or all on what was made before.
func reorder(ctx context.Context, origin string, base *zone.Zone, releases map[uint64]*compiled) (r reordered) {
	began := time.Now()
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
				return reordered{}
			}
		}
		if made[z] == nil {
			made[z] = base.CatchUp(z)
		}
		r.changed = append(r.changed, exchange{number, was, was.with(z, made[z])})
	}
	r.base, r.took = base, time.Since(began)
	return r
}

// with is a release with a zone in place of one that has the same records.
func (c *compiled) with(was, is *zone.Zone) *compiled {
	made := *c
	made.made = slices.Clone(c.made)
	made.made[slices.Index(made.made, was)] = is
	made.zones = c.zones.With(is)
	made.fragmented = slices.DeleteFunc(slices.Clone(c.fragmented), func(origin string) bool { return origin == is.Origin() })
	return &made
}

// reordered takes in releases with a zone put in order. What is not kept any more is passed over.
func (f *follower) reordered(r reordered) {
	f.compactor.busy = false
	if r.base == nil {
		return
	}
	f.compactor.base = r.base
	for _, e := range r.changed {
		if f.compiled[e.number] == e.was {
			f.compiled[e.number] = e.is
		}
	}
	log.Infof("zone %s is put in order again: %d octets, in %v", r.base.Origin(), r.base.ImageSize(), r.took.Round(time.Millisecond))
	f.running.Go(func() { // what it took the place of is of no use any more
		beside.StepBack()
		runtime.GC()
	})
}
