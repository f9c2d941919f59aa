package zone

import (
	"bytes"
	"fmt"
	"slices"

	"github.com/miekg/dns"
)

// Zones is an immutable set of zones, such as those of a release.
type Zones struct {
	sorted  []*Zone
	byName  map[string]*Zone // by folded wire-format origin
	deepest int              // labels of the longest origin
}

// NewZones makes a set of zones, no two of which may have the same origin.
func NewZones(zones ...*Zone) (*Zones, error) {
	s := &Zones{sorted: slices.Clone(zones), byName: make(map[string]*Zone, len(zones))}
	for _, z := range zones {
		owner := string(z.nodes[0].owner)
		if s.byName[owner] != nil {
			return nil, fmt.Errorf("zone %s is there twice", z.origin)
		}
		s.byName[owner] = z
		s.deepest = max(s.deepest, int(z.nodes[0].labels))
	}
	slices.SortFunc(s.sorted, func(a, b *Zone) int { return bytes.Compare(a.nodes[0].key, b.nodes[0].key) })
	return s, nil
}

// All returns the zones in canonical order of their origins. The slice must not be changed.
func (s *Zones) All() []*Zone { return s.sorted }

// Get returns the zone of an origin in presentation form, any case, with or without its last dot; nil if there is none.
func (s *Zones) Get(origin string) *Zone {
	name, ok := packName(origin)
	if !ok {
		return nil
	}
	return s.byName[string(appendLower(nil, name))]
}

// Find returns the zone that answers for a name in wire format and a type: the closest one at or above the name. DS
// records are the parent's (RFC 4035 3.1.4.1): asked for DS at a zone's apex, that is the zone above it, unless that one
// has a cut in between and so is not the parent. It is nil if there is none or the name is invalid.
func (s *Zones) Find(name []byte, qtype uint16) *Zone {
	if !validName(name) {
		return nil
	}
	var room [512]byte
	return s.find(name, appendKey(room[:0], name), qtype)
}

// find is Find of a valid name whose key is known.
func (s *Zones) find(name, key []byte, qtype uint16) *Zone {
	z := s.closest(name)
	if z == nil || qtype != dns.TypeDS || len(name) == 1 || len(key) != len(z.nodes[0].key) {
		return z
	}
	above := s.closest(name[1+int(name[0]):])
	if above == nil || above.cutAbove(key) {
		return z
	}
	return above
}

// closest returns the zone with the longest origin at or above a name.
func (s *Zones) closest(name []byte) *Zone {
	var room [255]byte
	folded := appendLower(room[:0], name)
	if skip := labels(folded) - s.deepest; skip > 0 {
		folded = suffix(folded, s.deepest)
	}
	for {
		if z := s.byName[string(folded)]; z != nil {
			return z
		}
		if folded[0] == 0 {
			return nil
		}
		folded = folded[1+int(folded[0]):]
	}
}

// cutAbove reports whether a delegation point lies above the name of a key.
func (z *Zone) cutAbove(key []byte) bool {
	p := z.find(key)
	cut := z.nodes[p.node].cut
	return cut >= 0 && !(p.exact && cut == p.node)
}

// Lookup answers a query from the zone that Find finds for it, and follows aliases into the others. It refuses, without
// AA, what no zone answers for.
func (s *Zones) Lookup(q Query) Answer {
	l := lookup{q: q, zones: s}
	if !l.begin() {
		return l.a
	}
	z := s.find(l.name, l.key, q.Type)
	if z == nil {
		l.a.Rcode = dns.RcodeRefused
		return l.a
	}
	l.answer(z)
	return l.a
}
