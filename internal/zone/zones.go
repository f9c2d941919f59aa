package zone

import (
	"bytes"
	"fmt"
	"math/bits"
	"slices"

	"github.com/miekg/dns"
)

// Zones is an immutable set of zones, such as those of a release.
type Zones struct {
	sorted []*Zone
	table  []Zone              // by hashOrigin, with linear probing; a power of two, at least half of them empty
	depths [maxLabels + 1]bool // how many labels origins have
}

// NewZones makes a set of zones, no two of which may have the same origin.
func NewZones(zones ...*Zone) (*Zones, error) {
	s := &Zones{sorted: slices.Clone(zones), table: make([]Zone, 2<<bits.Len(uint(len(zones))))}
	for _, z := range zones {
		hash := hashOrigin(z.owner)
		at := s.slot(hash, z.owner)
		if at.first != nil {
			return nil, fmt.Errorf("zone %s is there twice", z.origin)
		}
		*at = *z
		at.tag = uint32(hash >> 32)
		s.depths[z.labels] = true
	}
	slices.SortFunc(s.sorted, func(a, b *Zone) int { return bytes.Compare(a.key, b.key) })
	return s, nil
}

// With is the set in which zones take the places of those of their origins; nil if there is none of one of these. What both sets have costs
// no more than to copy it.
func (s *Zones) With(zones ...*Zone) *Zones {
	next := &Zones{sorted: slices.Clone(s.sorted), table: slices.Clone(s.table), depths: s.depths}
	for _, z := range zones {
		hash := hashOrigin(z.owner)
		at := next.slot(hash, z.owner)
		if at.first == nil {
			return nil
		}
		*at = *z
		at.tag = uint32(hash >> 32)
		i, _ := slices.BinarySearchFunc(next.sorted, z.key, func(o *Zone, key []byte) int { return bytes.Compare(o.key, key) })
		next.sorted[i] = z
	}
	return next
}

// hashOrigin is the hash of a folded name in the table.
func hashOrigin(name []byte) uint64 { return hashLabel(uint64(len(name)), name) }

// slot is where the zone of a folded origin is, or would be.
func (s *Zones) slot(hash uint64, origin []byte) *Zone {
	for i := hash; ; i++ {
		at := &s.table[i&uint64(len(s.table)-1)]
		if at.first == nil || at.tag == uint32(hash>>32) && at.isAt(origin) {
			return at
		}
	}
}

// isAt reports whether a folded name is the zone's origin.
func (z *Zone) isAt(name []byte) bool {
	return len(name) == int(z.originLen) && bytes.Equal(z.first[:len(name)], name)
}

// All returns the zones in canonical order of their origins. The slice must not be changed.
func (s *Zones) All() []*Zone { return s.sorted }

// Get returns the zone of an origin in presentation form, any case, with or without its last dot; nil if there is none.
func (s *Zones) Get(origin string) *Zone {
	name, ok := packName(origin)
	if !ok {
		return nil
	}
	name = appendLower(nil, name)
	return s.at(name)
}

// at is the zone of a folded origin, nil if there is none.
func (s *Zones) at(origin []byte) *Zone {
	if z := s.slot(hashOrigin(origin), origin); z.first != nil {
		return z
	}
	return nil
}

// Find returns the zone that answers for a name in wire format and a type: the closest one at or above the name. DS
// records are the parent's (RFC 4035 3.1.4.1): asked for DS at a zone's apex, that is the zone above it, unless that one
// has a cut in between and so is not the parent. It is nil if there is none or the name is invalid.
func (s *Zones) Find(name []byte, qtype uint16) *Zone {
	var at search
	if !at.set(name) {
		return nil
	}
	return s.find(&at, qtype)
}

// find is Find of a name taken apart.
func (s *Zones) find(at *search, qtype uint16) *Zone {
	z := s.closest(at, at.labels)
	if z == nil || qtype != dns.TypeDS || at.labels == 0 || at.labels != int(z.labels) {
		return z
	}
	above := s.closest(at, at.labels-1)
	if above == nil {
		return z
	}
	if n, exact := above.find(at); n.is(isCut) && !exact {
		return z
	}
	return above
}

// closest returns the zone with the longest origin at or above a name, of at most so many labels.
func (s *Zones) closest(at *search, labels int) *Zone {
	for ; labels >= 0; labels-- {
		if !s.depths[labels] {
			continue
		}
		origin := at.folded[at.starts[at.labels-labels]:len(at.name)]
		if z := s.at(origin); z != nil {
			return z
		}
	}
	return nil
}

// Lookup answers a query from the zone that Find finds for it, and follows aliases into the others. It refuses, without
// AA, what no zone answers for.
func (s *Zones) Lookup(q Query) Answer {
	var a Answer
	s.LookupInto(&q, &a)
	return a
}

// LookupInto is Lookup into an Answer that may have served before, whose memory it uses.
func (s *Zones) LookupInto(q *Query, a *Answer) {
	l := lookup{q: q, zones: s, a: a}
	if !l.begin() {
		return
	}
	z := s.find(l.search, q.Type)
	if z == nil {
		a.Rcode = dns.RcodeRefused
		return
	}
	a.Zone = z
	l.answer(z)
}
