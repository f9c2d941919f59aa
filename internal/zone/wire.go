package zone

import (
	"bytes"
	"cmp"
	"iter"
	"slices"
)

// RRsets yields every RRset with the RRSIG records that cover it, in wire format: owners in canonical order (RFC 4034
// 6.1), the RRsets of each by type, glue, what is below a delegation, and NSEC3 records at their places. RRSIG records
// that cover what the owner lacks come with no Data. Owners are lower-case, RDATA has the case in which it was loaded
// (see Canonical). Nothing that is yielded may be changed; all of it may be kept.
func (z *Zone) RRsets() iter.Seq[RRset] {
	return func(yield func(RRset) bool) {
		var sets []rrset
		var names ownerNames
		links := z.hashedOwners(z.hashed.leaves)
		for at := z.order.first(); z.order.has(at); at = z.order.next(at) {
			if at.at%ahead == 0 {
				items := z.order.leaves[at.leaf].items
				z.fetch(items[unit*at.at : min(unit*(at.at+ahead), len(items))])
			}
			n := z.nodeAt(at)
			sets = sets[:0]
			for i := range n.count() {
				sets = append(sets, z.at(&n, i))
			}
			for n.labels == z.labels+1 && links.more {
				c := bytes.Compare(links.owner[1:33], n.label)
				if c > 0 {
					break
				}
				if c == 0 {
					sets = append(sets, links.set)
					slices.SortFunc(sets, func(x, y rrset) int { return cmp.Compare(x.typ, y.typ) })
				} else if !yieldSets(yield, links.owner, []rrset{links.set}) {
					return
				}
				links.next()
			}
			if len(sets) > 0 && !yieldSets(yield, names.add(z, n), sets) {
				return
			}
		}
		for ; links.more; links.next() {
			if !yieldSets(yield, links.owner, []rrset{links.set}) {
				return
			}
		}
	}
}

// ahead is how many nodes are fetched before the first of them is read.
const ahead = 32

// fetch reads a little of every node of a list, so that the processor brings them from memory side by side. In canonical
// order each lies elsewhere, and to wait for one after the other takes most of the time of going through a large zone. It
// returns what nobody needs, lest the compiler leave out the reading.
//
//go:noinline
func (z *Zone) fetch(refs []byte) (sum byte) {
	for ; len(refs) >= unit; refs = refs[unit:] {
		b := z.from(refAt(refs, 0))
		for at := 0; at < 2*cacheLine && at < len(b); at += cacheLine {
			sum += b[at]
		}
	}
	return sum
}

// ownerNames makes names that may be kept, many in one piece of memory.
type ownerNames struct{ room []byte }

func (o *ownerNames) add(z *Zone, n node) []byte {
	if cap(o.room)-len(o.room) < 255 {
		o.room = make([]byte, 0, min(2<<10, 255+2*cap(o.room)))
	}
	at := len(o.room)
	o.room = z.appendOwner(o.room, n)
	return o.room[at:len(o.room):len(o.room)]
}

// hashedOwners goes through the owners of NSEC3 records in some leaves.
type hashedOwners struct {
	z      *Zone
	leaves []leaf
	items  []byte // of the first of them, from the next one on
	more   bool   // there is one:
	owner  []byte
	set    rrset
}

func (z *Zone) hashedOwners(leaves []leaf) *hashedOwners {
	h := &hashedOwners{z: z, leaves: leaves}
	h.next()
	return h
}

func (h *hashedOwners) next() {
	for len(h.items) == 0 && len(h.leaves) > 0 {
		h.items, h.leaves = h.leaves[0].items, h.leaves[1:]
	}
	if h.more = len(h.items) > 0; h.more {
		item := hashedOf(h.items)
		h.items = h.items[hashedSize:]
		h.owner = h.z.appendHashed(make([]byte, 0, 33+len(h.z.owner)), item.hash)
		h.set = h.z.set(item.set)
	}
}

func yieldSets(yield func(RRset) bool, owner []byte, sets []rrset) bool {
	for i := range sets {
		if !yield(sets[i].of(owner)) {
			return false
		}
	}
	return true
}

// of is the RRset as others see it.
func (s *rrset) of(owner []byte) RRset {
	return RRset{Owner: owner, Type: s.typ, TTL: s.ttl, Data: s.records(), SigTTL: s.sigTTL, Sigs: s.sigs()}
}

// Canonical is RDATA in canonical form (RFC 4034 6.2): the argument itself when that is what it has already.
func Canonical(typ uint16, rdata []byte) []byte { return canonical(typ, rdata) }

// AppendKey appends the key of a valid name in wire format: an octet string such that bytes.Compare of two keys is the
// canonical order of their names (RFC 4034 6.1), and such that a name is at or below another when its key has the
// other's as a prefix. A label ends with the octet 0, which is nowhere else.
func AppendKey(dst, name []byte) []byte { return appendKey(dst, name) }

// NameString is the presentation form of a valid name in wire format, lower-case, with its last dot.
func NameString(name []byte) string { return nameString(name) }

// RdataNames appends the names in RDATA that point somewhere: those of the types of RFC 4034 6.2, and of SVCB and HTTPS.
func RdataNames(dst [][]byte, typ uint16, rdata []byte) [][]byte {
	from, to := namesAt(typ, rdata)
	if from == to {
		if name := nameIn(rdata, hostAt(typ)); name != nil {
			dst = append(dst, name)
		}
	}
	for at := from; at < to; at += nameLen(rdata, at) {
		dst = append(dst, rdata[at:at+nameLen(rdata, at)])
	}
	return dst
}
