package receive

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/rdata"
	"github.com/coredns-anycast/coredns-anycast/internal/zone"
)

// nesting is which zones lie below one of another source, and whether that delegates them. Whoever adds a zone to a catalog
// might otherwise take over a part of somebody else's, since a server answers from the zone that is closest to a name.
type nesting struct {
	changed  bool                // the zones that are followed are others than children was made of
	children map[string][]string // by the zone that they lie below
	due      map[string]bool     // zones whose children are to be judged
	busy     bool                // one is being judged
}

// judgeNesting begins to judge the children of one zone, if any are due and no others are being judged.
func (r *Receiver) judgeNesting(ctx context.Context, tasks *sync.WaitGroup) {
	if r.nesting.changed {
		r.findChildren()
	}
	if r.nesting.busy {
		return
	}
	for origin := range r.nesting.due {
		delete(r.nesting.due, origin)
		sec := r.zones[origin]
		children := r.nesting.children[origin]
		if sec == nil || !sec.loaded || len(children) == 0 {
			continue
		}
		rec, z, owner := sec.rec, sec.zone, sec.owner
		r.nesting.busy = true
		tasks.Go(func() {
			verdicts := map[string]string{}
			if z == nil || z.Serial() != rec.Serial {
				z, _ = r.store.load(rec) // where it cannot be read, that is said elsewhere
			}
			for _, child := range children {
				if z != nil && ctx.Err() == nil {
					verdicts[child] = undelegated(z, child, owner)
				}
			}
			r.hand(ctx, func() { r.nesting.busy = false; r.takeNesting(verdicts) })
		})
		return
	}
}

// findChildren finds the zones that lie below one of another source.
func (r *Receiver) findChildren() {
	r.nesting.changed = false
	r.nesting.children, r.nesting.due = map[string][]string{}, map[string]bool{}
	for _, sec := range r.zones {
		above := r.above(sec.origin)
		if sec.nested = above != nil && sec.catalog == nil && above.owner != sec.owner; !sec.nested {
			sec.undelegated = ""
			continue
		}
		r.nesting.children[above.origin] = append(r.nesting.children[above.origin], sec.origin)
		r.nesting.due[above.origin] = true
	}
}

// above is the closest zone that a name lies below, nil if there is none. Catalogs are not answered from.
func (r *Receiver) above(name string) *secondary {
	for at, end := dns.NextLabel(name, 0); name != "."; at, end = dns.NextLabel(name, 0) {
		if name = name[at:]; end {
			name = "."
		}
		if sec := r.zones[name]; sec != nil && sec.catalog == nil {
			return sec
		}
	}
	return nil
}

// undelegated says why nobody should come to a zone by way of the one above it, "" if that delegates it or a name between.
func undelegated(above *zone.Zone, name, owner string) string {
	wire, err := rdata.AppendName(nil, name, ".")
	if err != nil {
		return ""
	}
	answer := above.Lookup(zone.Query{Name: wire, Type: dns.TypeNS, Class: dns.ClassINET})
	if !answer.Authoritative && slices.ContainsFunc(answer.Authority, func(s zone.RRset) bool { return s.Type == dns.TypeNS }) {
		return ""
	}
	return fmt.Sprintf("it lies below zone %s, which comes from %s and does not delegate it", above.Origin(), owner)
}

// takeNesting takes what was found of zones, and says what is new.
func (r *Receiver) takeNesting(verdicts map[string]string) {
	for name, why := range verdicts {
		sec := r.zones[name]
		if sec == nil || !sec.nested || sec.undelegated == why {
			continue
		}
		if sec.undelegated = why; why != "" {
			r.opt.Log.Warn("a zone takes names away from another source's", "zone", name, "source", sec.owner, "why", why)
		}
	}
}
