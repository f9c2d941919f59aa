package zone

import (
	"bytes"
	"fmt"
	"iter"
	"math/bits"
	"slices"

	"github.com/miekg/dns"
)

// Zones is an immutable set of zones, such as those of a release.
type Zones struct {
	pages  []*zonePage           // a table by hashOrigin, with linear probing: at least half of it is empty. Sets share what is the same in them
	last   uint64                // of its places; one less than a power of two
	count  int                   // zones
	depths [maxLabels + 1]uint32 // how many origins have so many labels
}

// zonesOfPage is how many places of the table a page has: what a set has to copy for a zone that differs.
const zonesOfPage = 63

// zonePage takes 4 KiB with the 8 octets that the runtime puts before what has pointers, and has each Zone in one line of the processor's cache.
type zonePage struct {
	_     [cacheLine - 8]byte
	zones [zonesOfPage]Zone
}

// NewZones makes a set of zones, no two of which may have the same origin.
func NewZones(zones ...*Zone) (*Zones, error) {
	s := newZones(len(zones))
	for _, z := range zones {
		if s.at(z.owner) != nil {
			return nil, fmt.Errorf("zone %s is there twice", z.origin)
		}
		s.put(z, nil)
	}
	return s, nil
}

// newZones is an empty set with room for so many zones.
func newZones(count int) *Zones {
	places := 2 << bits.Len(uint(count))
	s := &Zones{last: uint64(places - 1), pages: make([]*zonePage, (places+zonesOfPage-1)/zonesOfPage)}
	for i := range s.pages {
		s.pages[i] = new(zonePage)
	}
	return s
}

// With is the set in which zones are put, each in place of that of its origin if there is one, and from which those of some origins, in
// presentation form as zones have them, are gone. It costs what differs, unless the table becomes too small for that, or is far too large.
func (s *Zones) With(put []*Zone, gone []string) *Zones {
	if most := s.count + len(put); 2*most > int(s.last) || len(s.pages) > 1 && 32*most < int(s.last) {
		next := newZones(most)
		for z := range s.each() {
			next.put(z, nil)
		}
		s = next
	}
	next := &Zones{pages: slices.Clone(s.pages), last: s.last, count: s.count, depths: s.depths}
	own := map[uint64]bool{} // pages that only this set has
	for _, z := range put {
		next.put(z, own)
	}
	for _, origin := range gone {
		if z := next.Get(origin); z != nil {
			next.remove(z.owner, own)
		}
	}
	return next
}

// place is one of the table's, to be written to. own are the pages that only this set has; nil: all.
func (s *Zones) place(i uint64, own map[uint64]bool) *Zone {
	page := i / zonesOfPage
	if own != nil && !own[page] {
		copied := *s.pages[page]
		s.pages[page], own[page] = &copied, true
	}
	return &s.pages[page].zones[i%zonesOfPage]
}

// put puts a zone into a set that is being made, in place of that of its origin if there is one.
func (s *Zones) put(z *Zone, own map[uint64]bool) {
	hash := hashOrigin(z.owner)
	i, at := s.slot(hash, z.owner)
	if at.first == nil {
		s.count++
		s.depths[z.labels]++
	}
	at = s.place(i, own)
	*at = *z
	at.tag = uint32(hash >> 32)
}

// remove takes the zone of a folded origin out of a set that is being made, and moves those after it that would not be found any more.
func (s *Zones) remove(origin []byte, own map[uint64]bool) {
	free, z := s.slot(hashOrigin(origin), origin)
	s.count--
	s.depths[z.labels]--
	for i := (free + 1) & s.last; s.zone(i).first != nil; i = (i + 1) & s.last {
		if home := hashOrigin(s.zone(i).owner); (i-home)&s.last >= (i-free)&s.last { // free lies on the way to it
			*s.place(free, own) = *s.zone(i)
			free = i
		}
	}
	*s.place(free, own) = Zone{}
}

// hashOrigin is the hash of a folded name in the table.
func hashOrigin(name []byte) uint64 { return hashLabel(uint64(len(name)), name) }

// zone is what a place of the table has.
func (s *Zones) zone(i uint64) *Zone { return &s.pages[i/zonesOfPage].zones[i%zonesOfPage] }

// slot is where the zone of a folded origin is, or would be, and what is there.
func (s *Zones) slot(hash uint64, origin []byte) (uint64, *Zone) {
	for i := hash & s.last; ; i = (i + 1) & s.last {
		at := s.zone(i)
		if at.first == nil || at.tag == uint32(hash>>32) && at.isAt(origin) {
			return i, at
		}
	}
}

// isAt reports whether a folded name is the zone's origin.
func (z *Zone) isAt(name []byte) bool {
	return len(name) == int(z.originLen) && bytes.Equal(z.first[:len(name)], name)
}

// Len is how many zones there are.
func (s *Zones) Len() int { return s.count }

// All returns the zones in canonical order of their origins, into which it puts them.
func (s *Zones) All() []*Zone {
	return slices.SortedFunc(s.each(), func(a, b *Zone) int { return bytes.Compare(a.key, b.key) })
}

// each yields the zones in no order.
func (s *Zones) each() iter.Seq[*Zone] {
	return func(yield func(*Zone) bool) {
		for _, page := range s.pages {
			for i := range page.zones {
				if z := &page.zones[i]; z.first != nil && !yield(z) {
					return
				}
			}
		}
	}
}

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
	if _, z := s.slot(hashOrigin(origin), origin); z.first != nil {
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
		if s.depths[labels] == 0 {
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
