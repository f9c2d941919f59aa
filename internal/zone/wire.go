package zone

import (
	"bytes"
	"cmp"
	"encoding/binary"
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
		links := z.hashedOwners()
		for i := range len(z.order) / unit {
			if i%ahead == 0 {
				z.fetch(z.order[unit*i : min(unit*(i+ahead), len(z.order))])
			}
			n := z.node(z.orderAt(i))
			sets = sets[:0]
			for i := range n.count() {
				sets = append(sets, z.at(&n, i))
			}
			for n.labels == z.labels+1 && links.left > 0 {
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
		for ; links.left > 0; links.next() {
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
		at := unit * uint64(binary.LittleEndian.Uint32(refs))
		for end := at + 2*cacheLine; at < end && at < uint64(len(z.image)); at += cacheLine {
			sum += z.image[at]
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

// hashedOwners goes through the owners of NSEC3 records.
type hashedOwners struct {
	z     *Zone
	left  int // this one and those after it
	owner []byte
	set   rrset
}

func (z *Zone) hashedOwners() *hashedOwners {
	h := &hashedOwners{z: z, left: len(z.hashed)/hashedSize + 1}
	h.next()
	return h
}

func (h *hashedOwners) next() {
	if h.left--; h.left > 0 {
		entry := hashedAt(h.z.hashed, len(h.z.hashed)/hashedSize-h.left)
		h.owner = h.z.appendHashed(make([]byte, 0, 33+len(h.z.owner)), entry.hash)
		h.set = h.z.set(entry.set)
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
