// Package zone decides the answer: an immutable zone, and what RFC 1034 4.3.2 and its successors (2308, 4035, 4592,
// 5155, 6672, 8482) make of a question put to it.
//
// It is pure: no network, disk, clock, lock or goroutine. Of miekg/dns it uses the data types only. A Zone is read by any
// number of goroutines at once. internal/zonefile makes zones from text, plugin/meshsync asks them, and cmd/meshctl
// checks and publishes them.
//
// RDATA is kept in wire format, uncompressed, and an Answer refers to it without copying, so that a packet can be
// assembled straight from an Answer; Answer.Msg is the way for those that need a dns.Msg.
package zone

import (
	"bytes"
	"encoding/binary"
	"iter"
	"slices"
	"sort"

	"github.com/miekg/dns"
)

// Zone is an immutable zone, made by a Builder or by New.
type Zone struct {
	origin string
	serial uint32
	len    int

	// nodes are the names that exist, the empty non-terminals among them (RFC 4592 2.2.2), in canonical order: the apex
	// is the first. Names that only own NSEC3 records do not exist in this sense (RFC 5155 7.2.8) and are in nsec3.
	nodes []node

	soa         rrset // as in a positive answer
	negativeSOA rrset // with the TTL of a negative answer (RFC 2308 5)

	denial denial
	params nsec3Params
	chain  []nsec3 // the NSEC3 chain of params by hash
	nsec3  []nsec3 // every NSEC3 RRset of every chain by owner, for Records
}

// A node is a name that exists in the zone.
type node struct {
	key   []byte // see appendKey
	owner []byte // wire format, folded
	sets  []rrset

	parent   int32 // index of the parent, -1 at the apex
	cut      int32 // index of the topmost delegation point at or above, or -1: the node is not authoritative if it has one
	wildcard int32 // index of the wildcard child, or -1
	nsec     int32 // index of the closest authoritative node at or before that has an NSEC RRset, or -1
	labels   uint8
}

// An rrset holds the records of a type and the RRSIG records that cover them. Either may be empty.
type rrset struct {
	typ    uint16
	ttl    uint32
	sigTTL uint32
	split  uint32 // length of the records in data; their RRSIGs follow
	data   []byte
}

func (s *rrset) records() Rdata { return Rdata(s.data[:s.split:s.split]) }
func (s *rrset) sigs() Rdata    { return Rdata(s.data[s.split:]) }

// get returns the RRset of a type that has records, or nil.
func (n *node) get(typ uint16) *rrset {
	for i := range n.sets {
		if n.sets[i].typ == typ && n.sets[i].split > 0 {
			return &n.sets[i]
		}
	}
	return nil
}

// Rdata is a sequence of RDATA: each two octets of length, big-endian, and so many octets without name compression.
type Rdata []byte

// All yields each RDATA in canonical order.
func (d Rdata) All() iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		for rest := []byte(d); len(rest) > 0; {
			n := 2 + int(binary.BigEndian.Uint16(rest))
			if !yield(rest[2:n:n]) {
				return
			}
			rest = rest[n:]
		}
	}
}

// Len counts the records.
func (d Rdata) Len() int {
	n := 0
	for range d.All() {
		n++
	}
	return n
}

// RRset is a set of records in an answer. Owner and RDATA are the zone's own or the query's: they must not be changed.
type RRset struct {
	Owner  []byte // wire format; in the question's case where it is the question's name
	Type   uint16
	TTL    uint32 // seconds
	Data   Rdata
	SigTTL uint32 // of the RRSIG records
	Sigs   Rdata  // the RRSIG records that cover Data; none unless asked for
}

// Origin is the name of the zone, lower-case and fully qualified.
func (z *Zone) Origin() string { return z.origin }

// Serial is the serial number in the zone's SOA (RFC 1982 arithmetic applies; 0 is a serial like any other).
func (z *Zone) Serial() uint32 { return z.serial }

// Len is the number of records.
func (z *Zone) Len() int { return z.len }

// Records yields all records: the SOA, then the rest in canonical order (RFC 4034 6), RRSIG and NSEC3 records and glue
// at their places. Owners are lower-case; RDATA has the case in which it was loaded.
func (z *Zone) Records() iter.Seq[dns.RR] {
	return func(yield func(dns.RR) bool) {
		apex := &z.nodes[0]
		name := z.origin
		if !yieldRecords(yield, name, dns.TypeSOA, z.soa.ttl, z.soa.records()) {
			return
		}
		hashed := z.nsec3
		for i := range z.nodes {
			n := &z.nodes[i]
			for len(hashed) > 0 && bytes.Compare(hashed[0].key, n.key) < 0 {
				if !yieldOwner(yield, hashed[0].owner, []rrset{hashed[0].set}) {
					return
				}
				hashed = hashed[1:]
			}
			sets := n.sets
			if n == apex {
				sets = withoutSOA(sets)
			}
			if len(hashed) > 0 && bytes.Equal(hashed[0].key, n.key) {
				sets = append(slices.Clone(sets), hashed[0].set)
				sort.Slice(sets, func(i, j int) bool { return sets[i].typ < sets[j].typ })
				hashed = hashed[1:]
			}
			if !yieldOwner(yield, n.owner, sets) {
				return
			}
		}
		for _, h := range hashed {
			if !yieldOwner(yield, h.owner, []rrset{h.set}) {
				return
			}
		}
	}
}

// withoutSOA is the apex's sets with the SOA's records, which come first of all, taken out, and its RRSIGs left in.
func withoutSOA(sets []rrset) []rrset {
	sets = slices.Clone(sets)
	for i := range sets {
		if s := &sets[i]; s.typ == dns.TypeSOA {
			s.data, s.split = s.sigs(), 0
		}
	}
	return sets
}

// yieldOwner yields the records of an owner, whose sets are in order of type: the RRSIGs of all of them come where
// their own type has its place.
func yieldOwner(yield func(dns.RR) bool, owner []byte, sets []rrset) bool {
	name := nameString(owner)
	signed := false
	sigs := func() bool {
		signed = true
		for i := range sets {
			if !yieldRecords(yield, name, dns.TypeRRSIG, sets[i].sigTTL, sets[i].sigs()) {
				return false
			}
		}
		return true
	}
	for i := range sets {
		s := &sets[i]
		if !signed && s.typ > dns.TypeRRSIG && !sigs() {
			return false
		}
		if !yieldRecords(yield, name, s.typ, s.ttl, s.records()) {
			return false
		}
	}
	return signed || sigs()
}

func yieldRecords(yield func(dns.RR) bool, owner string, typ uint16, ttl uint32, data Rdata) bool {
	for rdata := range data.All() {
		if !yield(unpackRR(owner, typ, ttl, rdata)) {
			return false
		}
	}
	return true
}

// unpackRR makes a record of RDATA that was packed from one. Should that not be the inverse of packing for some type,
// the record comes in the generic form (RFC 3597), which is right for every type.
func unpackRR(owner string, typ uint16, ttl uint32, rdata []byte) dns.RR {
	h := dns.RR_Header{Name: owner, Rrtype: typ, Class: dns.ClassINET, Ttl: ttl, Rdlength: uint16(len(rdata))}
	rr, _, err := dns.UnpackRRWithHeader(h, rdata, 0)
	if err != nil {
		return genericRR(h, rdata)
	}
	return rr
}

// position is where a name is, or would be, in the zone.
type position struct {
	node  int32 // the name's node, or that of its closest encloser (RFC 4592 3.3.1)
	prev  int32 // the last node at or before the name in canonical order
	exact bool  // node is the name's own
}

// find locates a name of the zone by its key. Since every name that exists has a node, empty non-terminals too, the last
// node before a name that does not exist is at or below the name's closest encloser.
func (z *Zone) find(key []byte) position {
	i := sort.Search(len(z.nodes), func(i int) bool { return bytes.Compare(z.nodes[i].key, key) > 0 }) - 1
	p := position{node: int32(i), prev: int32(i)}
	if bytes.Equal(z.nodes[i].key, key) {
		p.exact = true
		return p
	}
	for common := commonLabels(z.nodes[i].key, key); int(z.nodes[p.node].labels) > common; {
		p.node = z.nodes[p.node].parent
	}
	return p
}

// holds reports whether the name of key is at or below the zone's apex.
func (z *Zone) holds(key []byte) bool { return bytes.HasPrefix(key, z.nodes[0].key) }

// within reports whether a node is at or below another.
func (n *node) within(above *node) bool { return bytes.HasPrefix(n.key, above.key) }
