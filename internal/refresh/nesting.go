package refresh

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/instant"
	"github.com/coredns-anycast/coredns-anycast/internal/rdata"
	"github.com/coredns-anycast/coredns-anycast/internal/zone"
)

// nesting is which zones lie below one of another source, and whether that delegates them. Whoever adds a zone to a catalog
// might otherwise take over a part of somebody else's, since a server answers from the zone that is closest to a name.
type nesting struct {
	changed  bool                // the zones that are followed are others than children was made of
	found    instant.Mono        // when that was made; 0: never
	children map[string][]string // by the zone that they lie below
	due      []string            // zones whose children are to be judged, each once
	busy     bool                // one is being judged
}

// nestingSpacing is the least time between two looks at all zones: they may come one by one, and be a hundred thousand.
const nestingSpacing = time.Second

// judgeNesting has the children of one zone judged, if any are due and no others are being judged. It says how long it is until all zones
// are to be looked at again, 0 if they are not.
func (s *Secondary) judgeNesting(now instant.Mono) (wait time.Duration) {
	if s.nesting.changed {
		if wait = nestingSpacing - now.Sub(s.nesting.found); s.nesting.found == 0 || wait <= 0 {
			s.findChildren()
			s.nesting.found, wait = now, 0
		}
	}
	s.judgeNext()
	return wait
}

// judgeNext has the children of the next zone judged.
func (s *Secondary) judgeNext() {
	if s.nesting.busy {
		return
	}
	for len(s.nesting.due) > 0 {
		origin := s.nesting.due[0]
		s.nesting.due = s.nesting.due[1:]
		z, children := s.zones[origin], s.nesting.children[origin]
		if z == nil || !z.loaded || len(children) == 0 {
			continue
		}
		s.nesting.busy = true
		s.act(Action{Do: Judge, Origin: origin, Record: z.rec, Owner: z.owner, Children: children})
		return
	}
}

// findChildren finds the zones that lie below one of another source.
func (s *Secondary) findChildren() {
	s.nesting.changed = false
	s.nesting.children, s.nesting.due = map[string][]string{}, nil
	for _, z := range s.sorted() {
		above := s.above(z.origin)
		if z.nested = above != nil && z.catalog == nil && above.owner != z.owner; !z.nested {
			z.undelegated = ""
			continue
		}
		if s.nesting.children[above.origin] == nil {
			s.nesting.due = append(s.nesting.due, above.origin)
		}
		s.nesting.children[above.origin] = append(s.nesting.children[above.origin], z.origin)
	}
}

// above is the closest zone that a name lies below, nil if there is none. Catalogs are not answered from.
func (s *Secondary) above(name string) *followed {
	for at, end := dns.NextLabel(name, 0); name != "."; at, end = dns.NextLabel(name, 0) {
		if name = name[at:]; end {
			name = "."
		}
		if z := s.zones[name]; z != nil && z.catalog == nil {
			return z
		}
	}
	return nil
}

// Undelegated says why nobody should come to a zone by way of the one above it, which comes from owner; "" if that delegates it or a name
// between.
func Undelegated(above *zone.Zone, name, owner string) string {
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

// Judged takes what was found of the children of a zone, "" of those that it delegates.
func (s *Secondary) Judged(verdicts map[string]string) {
	s.nesting.busy = false
	for _, name := range slices.Sorted(maps.Keys(verdicts)) {
		z, why := s.zones[name], verdicts[name]
		if z == nil || !z.nested || z.undelegated == why {
			continue
		}
		if z.undelegated = why; why != "" {
			s.say(Warn, "a zone takes names away from another source's", "zone", name, "source", z.owner, "why", why)
		}
	}
}
