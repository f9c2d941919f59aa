package zone

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/bits"

	"github.com/miekg/dns"
)

// An image is a whole zone in one block of octets without pointers, so that the garbage collector does not walk it and
// it can be written to a file as it is. Numbers are little-endian. It consists of
//
//	header   fixed fields, see the offsets below, and the origin in wire format, folded
//	nodes    the names that exist, the empty non-terminals among them (RFC 4592 2.2.2), in canonical order, the apex first
//	index    a hash table from parent and label to node
//	order    for NSEC: the node references in ascending, so canonical, order
//	hashed   for NSEC3: every hash that owns NSEC3 records, in order, and its RRset
//	sets     the RRsets; those that are equal and not signed are there once, whatever their owners
//	chain    the part of hashed that belongs to the parameters in use, if that is not all of it
//
// A node:
//
//	flags u16 · RRsets u16 · parent ref u32 · labels u8 · length u8 · label · { type u16 · set ref u32 }… · padding
//
// A set, of records and the RRSIG records that cover them, either of which may be none:
//
//	type u16 · 0 u16 · TTL u32 · RRSIG TTL u32 · split u32 · size u32 · targets u32 · { length u16, big-endian · RDATA }… ·
//	{ target u32 }… · padding
//
// The records take split octets of size, the RRSIGs the rest. If a type points at hosts (RFC 1035 3.3.9, 3.3.11) there
// is a target for each record: the reference of the host's node plus one if that has addresses, otherwise 0.
//
// Every read checks its bounds and every loop is bounded, so that whatever an image holds no reader panics or hangs;
// what it finds is then of no use. That an image is as it was made is for its checksum to prove (see FromImage).

// ref is a position in nodes or sets, in units of four octets.
type ref uint32

// unit is the alignment of nodes and sets in octets.
const unit = 4

// FormatVersion is that of the image. It changes with whatever changes the meaning of an octet.
const FormatVersion = 1

// Offsets of the header's fields.
const (
	atVersion   = 0   // u32
	atDenial    = 4   // u32
	atParams    = 8   // u32 which NSEC3PARAM record of the apex is in use
	atMaxProbe  = 12  // u32 index slots that a search looks at beyond its first
	atRecords   = 16  // u64
	atNodes     = 24  // offset u64, octets u64
	atIndex     = 40  // offset u64, slots u64
	atSeed      = 56  // u64
	atOrder     = 64  // offset u64, nodes u64
	atHashed    = 80  // offset u64, entries u64
	atChain     = 96  // offset u64, entries u64
	atSets      = 112 // offset u64, octets u64
	atOriginLen = 128 // u8
	headerSize  = 132
)

const (
	nodeHead   = 10 // octets of a node before its label
	setEntry   = 6  // octets of an RRset in a node
	setHead    = 24 // octets of a set before its data
	slotSize   = 5  // octets of a slot of the index: ref plus one u32, fingerprint u8
	hashedSize = 24 // octets of an entry of hashed: hash, set ref u32
)

// Flags of a node.
const (
	isCut       = 1 << iota // the topmost delegation point on the way to the name
	isBelowCut              // a name below one: not authoritative
	hasWildcard             // a wildcard is a child
	hasDNAME
	hasCNAME
	hasNSEC // an NSEC RRset, and authoritative for it
)

// node is a name that exists in the zone, as read from the image. The zero node has no RRsets.
type node struct {
	ref    ref
	parent ref // the apex is its own
	flags  uint16
	labels uint8
	label  []byte // folded, without its length; that of the apex is empty
	sets   []byte
}

func (n *node) is(flag uint16) bool     { return n.flags&flag != 0 }
func (n *node) count() int              { return len(n.sets) / setEntry }
func (n *node) typeAt(i int) uint16     { return binary.LittleEndian.Uint16(n.sets[i*setEntry:]) }
func (n *node) setRefAt(i int) ref      { return ref(binary.LittleEndian.Uint32(n.sets[i*setEntry+2:])) }
func (n *node) authoritative() bool     { return n.flags&(isCut|isBelowCut) == 0 }
func (n *node) size() int               { return align(nodeHead + len(n.label) + len(n.sets)) }
func (n *node) next() ref               { return n.ref + ref(n.size()/unit) }
func align(n int) int                   { return (n + unit - 1) &^ (unit - 1) }
func (z *Zone) apex() node              { return z.node(0) }
func (z *Zone) parent(n *node) node     { return z.node(n.parent) }
func (z *Zone) ended(r ref) bool        { return uint64(r)*unit >= uint64(len(z.nodes)) }
func (z *Zone) at(n *node, i int) rrset { return z.set(n.setRefAt(i)) }

// node reads the node at a reference; where there is none, the zero node.
func (z *Zone) node(r ref) node {
	at := uint64(r) * unit
	if at+nodeHead > uint64(len(z.nodes)) {
		return node{}
	}
	b := z.nodes[at:]
	labelEnd := nodeHead + int(b[9])
	end := labelEnd + setEntry*int(binary.LittleEndian.Uint16(b[2:]))
	if end > len(b) {
		return node{}
	}
	return node{ref: r, parent: ref(binary.LittleEndian.Uint32(b[4:])), flags: binary.LittleEndian.Uint16(b), labels: b[8],
		label: b[nodeHead:labelEnd:labelEnd], sets: b[labelEnd:end:end]}
}

// rrset holds the records of a type and the RRSIG records that cover them. Either may be empty.
type rrset struct {
	typ     uint16
	ttl     uint32
	sigTTL  uint32
	split   uint32 // length of the records in data; their RRSIGs follow
	data    []byte
	targets []byte
}

func (s *rrset) records() Rdata { return Rdata(s.data[:s.split:s.split]) }
func (s *rrset) sigs() Rdata    { return Rdata(s.data[s.split:]) }

// target is the node that the i-th record points at, if it is one that has addresses.
func (s *rrset) target(i int) (ref, bool) {
	if 4*i+4 > len(s.targets) {
		return 0, false
	}
	r := binary.LittleEndian.Uint32(s.targets[4*i:])
	return ref(r - 1), r > 0
}

// set reads the set at a reference; where there is none, an empty one.
func (z *Zone) set(r ref) rrset {
	at := uint64(r) * unit
	if at+setHead > uint64(len(z.sets)) {
		return rrset{}
	}
	b := z.sets[at:]
	split, size := binary.LittleEndian.Uint32(b[12:]), binary.LittleEndian.Uint32(b[16:])
	end := setHead + uint64(size)
	targetsEnd := end + 4*uint64(binary.LittleEndian.Uint32(b[20:]))
	if split > size || targetsEnd > uint64(len(b)) {
		return rrset{}
	}
	return rrset{typ: binary.LittleEndian.Uint16(b), ttl: binary.LittleEndian.Uint32(b[4:]), sigTTL: binary.LittleEndian.Uint32(b[8:]),
		split: split, data: b[setHead:end:end], targets: b[end:targetsEnd:targetsEnd]}
}

// get returns the RRset of a type that has records.
func (z *Zone) get(n *node, typ uint16) (rrset, bool) {
	for i := range n.count() {
		if n.typeAt(i) == typ {
			s := z.at(n, i)
			return s, s.split > 0
		}
	}
	return rrset{}, false
}

func (z *Zone) has(n *node, typ uint16) bool {
	_, ok := z.get(n, typ)
	return ok
}

// hashLabel is the hash of a child's name in the index.
func hashLabel(seed uint64, parent ref, label []byte) uint64 {
	h := mix(seed^uint64(parent), 0x9e3779b97f4a7c15^uint64(len(label))<<32)
	for len(label) >= 8 {
		h = mix(h^binary.LittleEndian.Uint64(label), 0xe7037ed1a0b428db)
		label = label[8:]
	}
	var tail uint64
	switch n := len(label); {
	case n >= 4:
		tail = uint64(binary.LittleEndian.Uint32(label)) | uint64(binary.LittleEndian.Uint32(label[n-4:]))<<32
	case n > 0:
		tail = uint64(label[0]) | uint64(label[n/2])<<8 | uint64(label[n-1])<<16
	}
	return mix(h^tail, 0x8ebc6af09c88c6e3)
}

func mix(a, b uint64) uint64 {
	hi, lo := bits.Mul64(a, b)
	return hi ^ lo
}

// home is the first slot of the index for a hash.
func (z *Zone) home(h uint64) uint64 {
	slot, _ := bits.Mul64(h, z.slots)
	return slot
}

// child finds the child of a node that has a folded label.
func (z *Zone) child(parent ref, label []byte) (node, bool) {
	if z.slots == 0 {
		return node{}, false
	}
	h := hashLabel(z.seed, parent, label)
	slot := z.home(h)
	for range z.maxProbe + 1 {
		entry := z.index[slot*slotSize : slot*slotSize+slotSize]
		r := binary.LittleEndian.Uint32(entry)
		if r == 0 {
			break
		}
		if entry[4] == byte(h) {
			if n := z.node(ref(r - 1)); n.parent == parent && bytes.Equal(n.label, label) {
				return n, true
			}
		}
		if slot++; slot == z.slots {
			slot = 0
		}
	}
	return node{}, false
}

// climb returns the ancestor of a node that has so many labels, which may be the node itself, or the first one that has
// no more.
func (z *Zone) climb(n node, labels uint8) node {
	for n.labels > labels {
		up := z.parent(&n)
		if up.labels >= n.labels {
			return node{}
		}
		n = up
	}
	return n
}

// within reports whether a node is at or below another.
func (z *Zone) within(n, above *node) bool {
	up := z.climb(*n, above.labels)
	return up.ref == above.ref
}

// cutOf is the topmost delegation point at or above a node that is not authoritative.
func (z *Zone) cutOf(n node) node {
	for n.is(isBelowCut) && n.labels > z.labels {
		n = z.climb(n, n.labels-1)
	}
	return n
}

// appendOwner appends a node's name in wire format.
func (z *Zone) appendOwner(dst []byte, n node) []byte {
	for n.labels > z.labels {
		dst = append(append(dst, byte(len(n.label))), n.label...)
		n = z.climb(n, n.labels-1)
	}
	return append(dst, z.owner...)
}

// keyOf is the key of a node's name.
func (z *Zone) keyOf(n *node) []byte { return appendKey(nil, z.appendOwner(nil, *n)) }

// hashed is an owner of NSEC3 records.
type hashed struct {
	hash []byte
	set  ref
}

// hashedAt reads an entry of hashed or chain.
func hashedAt(list []byte, i int) hashed {
	e := list[i*hashedSize : (i+1)*hashedSize]
	return hashed{hash: e[:20:20], set: ref(binary.LittleEndian.Uint32(e[20:]))}
}

// appendHashed appends the owner of a hash in wire format (RFC 5155 3.3).
func (z *Zone) appendHashed(dst, hash []byte) []byte {
	dst = append(dst, byte(hashing.EncodedLen(len(hash))))
	return append(hashing.AppendEncode(dst, hash), z.owner...)
}

var errImage = errors.New("no zone image of this format")

// section returns the octets that an offset and a count in the header stand for.
func section(b []byte, at int, size uint64) ([]byte, bool) {
	offset, count := binary.LittleEndian.Uint64(b[at:]), binary.LittleEndian.Uint64(b[at+8:])
	if offset > uint64(len(b)) || count > (uint64(len(b))-offset)/size {
		return nil, false
	}
	end := offset + count*size
	return b[offset:end:end], true
}

// open makes a zone of an image, which it keeps. It looks at the header and the apex only.
func open(b []byte) (*Zone, error) {
	if len(b) < headerSize || binary.LittleEndian.Uint32(b[atVersion:]) != FormatVersion ||
		len(b) < headerSize+int(b[atOriginLen]) {
		return nil, errImage
	}
	z := &Zone{image: b, owner: b[headerSize : headerSize+int(b[atOriginLen])],
		seed: binary.LittleEndian.Uint64(b[atSeed:]), maxProbe: binary.LittleEndian.Uint32(b[atMaxProbe:]),
		len: int(binary.LittleEndian.Uint64(b[atRecords:])), denial: denial(binary.LittleEndian.Uint32(b[atDenial:]))}
	for _, s := range []struct {
		to   *[]byte
		at   int
		size uint64
	}{{&z.nodes, atNodes, 1}, {&z.index, atIndex, slotSize}, {&z.order, atOrder, 4}, {&z.hashed, atHashed, hashedSize},
		{&z.chain, atChain, hashedSize}, {&z.sets, atSets, 1}} {
		var ok bool
		if *s.to, ok = section(b, s.at, s.size); !ok {
			return nil, errImage
		}
	}
	apex := z.apex()
	z.top = apex
	if !validName(z.owner) || apex.labels != uint8(labels(z.owner)) || z.len < 0 {
		return nil, errImage
	}
	z.origin, z.key, z.labels = nameString(z.owner), appendKey(nil, z.owner), apex.labels
	z.slots = uint64(len(z.index) / slotSize)
	z.maxProbe = uint32(min(uint64(z.maxProbe), z.slots))
	if soa, ok := z.get(&apex, dns.TypeSOA); ok {
		z.setSOA(soa)
	}
	if z.denial == byHashName && !z.readParams(&apex, int(binary.LittleEndian.Uint32(b[atParams:]))) {
		return nil, errImage
	}
	return z, nil
}

// setSOA keeps the SOA, and what it says.
func (z *Zone) setSOA(soa rrset) {
	var minimum uint32
	for rdata := range soa.records().All() {
		if len(rdata) >= 20 {
			z.serial, minimum = soaNumbers(rdata)
		}
	}
	z.soa, z.negativeSOA = soa, soa
	z.negativeSOA.ttl = min(soa.ttl, minimum)
	z.negativeSOA.sigTTL = min(soa.sigTTL, minimum)
}

// readParams reads the i-th NSEC3PARAM record of the apex.
func (z *Zone) readParams(apex *node, i int) bool {
	set, _ := z.get(apex, dns.TypeNSEC3PARAM)
	for rdata := range set.records().All() {
		if i == 0 {
			var ok bool
			z.params, _, _, ok = parseNSEC3(rdata)
			return ok && z.params.iterations <= maxIterations && len(z.chain) > 0
		}
		i--
	}
	return false
}
