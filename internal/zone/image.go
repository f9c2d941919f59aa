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
//	header     fixed fields, see the offsets below, and the origin in wire format, folded
//	apex       a node
//	marks      for every bucket, markOf of every node in it: u32…
//	buckets    the other names that exist, the empty non-terminals among them (RFC 4592 2.2.2), by the hash of their labels
//	overflow   what finds no room in its bucket
//	shared     the RRsets that several names have, or that are large
//	order      every node in canonical order: ref…
//	hashed     for NSEC3: every hash that owns NSEC3 records, in order, with the ref of its RRset
//	proofs     the RRsets of hashed
//	chain      the part of hashed that belongs to the parameters in use, if that is not all of it
//	links      for every so many hashes that there can be, how many of chain come before them: u32…
//
// A bucket, the place of which follows from a hash alone, so that there is no index to be read before it. Marks tell of most
// names that do not exist that they do not, and are few enough to remain in the processor's cache.
//
//	overflow ref, 0 for none · node… · 0 u32 unless it is full; overflow: node… · 0 u32
//
// A node, and behind it those of its RRsets that are nowhere else, so that a name is found in one place of memory:
//
//	flags u8, size u24 · parent ref · RRsets u16 · labels u8 · length u8 · label · { type u16 · set ref }… · padding · set…
//
// A set, of records and the RRSIG records that cover them, either of which may be none:
//
//	type u16 · targets u16 · TTL u32 · octets of records u31, signed u1 · { RRSIG TTL u32 · octets of RRSIGs u32 if signed } ·
//	{ target ref }… · { length u16, big-endian · RDATA }… · padding
//
// If a type points at hosts (RFC 1035 3.3.9, 3.3.11) there is a target for each record: the host's node if that has
// addresses, otherwise 0.
//
// Every read checks its bounds and every loop is bounded, so that whatever an image holds no reader panics or hangs;
// what it finds is then of no use. That an image is as it was made is for its checksum to prove (see FromImage).

// ref is a position in an image, in units of four octets.
type ref uint32

// unit is the alignment of nodes and sets, and the measure of their sizes, in octets.
const unit = 4

// maxImage is the size that refs can reach.
const maxImage = unit << 32

// FormatVersion is that of the image. It changes with whatever changes the meaning of an octet.
const FormatVersion = 2

// Offsets of the header's fields.
const (
	atVersion   = 0  // u32
	atDenial    = 4  // u32
	atParams    = 8  // u32 which NSEC3PARAM record of the apex is in use
	atApexLink  = 12 // u32 link of the chain that matches the apex
	atStarLink  = 16 // u32 link of the chain that covers the wildcard below the apex, or matches it
	atShared    = 20 // ref
	atOrder     = 24 // ref, nodes u32
	atHashed    = 32 // ref, entries u32
	atChain     = 40 // ref, entries u32
	atLinks     = 48 // ref, intervals u32, of which there is a number more
	atRecords   = 56 // u64
	atApex      = 64 // ref
	atBuckets   = 68 // ref, buckets u32
	atSize      = 76 // u32 octets of a bucket
	atMarks     = 80 // ref
	atSeed      = 84 // u32
	atOriginLen = 88 // u8
	headerSize  = 89
)

const (
	bucketHead = 4       // octets of a bucket before its nodes
	nodeHead   = 12      // octets of a node before its label
	setEntry   = 6       // octets of an RRset in a node
	setHead    = 12      // octets of a set that is not signed before its targets and data
	signedHead = 20      // octets of one that is
	signed     = 1 << 31 // in the octets of records
	hashedSize = 24      // octets of an entry of hashed: hash, ref
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
	flags  uint8
	labels uint8
	label  []byte // folded, without its length; that of the apex is empty
	sets   []byte
}

func (n *node) is(flag uint8) bool      { return n.flags&flag != 0 }
func (n *node) count() int              { return len(n.sets) / setEntry }
func (n *node) typeAt(i int) uint16     { return binary.LittleEndian.Uint16(n.sets[i*setEntry:]) }
func (n *node) setRefAt(i int) ref      { return ref(binary.LittleEndian.Uint32(n.sets[i*setEntry+2:])) }
func (n *node) authoritative() bool     { return n.flags&(isCut|isBelowCut) == 0 }
func align(n int) int                   { return (n + unit - 1) &^ (unit - 1) }
func (z *Zone) parent(n *node) node     { return z.node(n.parent) }
func (z *Zone) at(n *node, i int) rrset { return z.set(n.setRefAt(i)) }

// node reads the node at a reference; where there is none, the zero node.
func (z *Zone) node(r ref) node {
	at := uint64(r) * unit
	if at+nodeHead > uint64(len(z.image)) {
		return node{}
	}
	b := z.image[at:]
	labelEnd := nodeHead + int(b[11])
	end := labelEnd + setEntry*int(binary.LittleEndian.Uint16(b[8:]))
	if end > len(b) || b[10] > maxLabels {
		return node{}
	}
	return node{ref: r, parent: ref(binary.LittleEndian.Uint32(b[4:])), flags: b[0], labels: b[10],
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
	if unit*i+unit > len(s.targets) {
		return 0, false
	}
	r := ref(binary.LittleEndian.Uint32(s.targets[unit*i:]))
	return r, r > 0
}

// extent is the octets that a set takes.
func (s *rrset) extent() int {
	head := setHead
	if len(s.data) > int(s.split) {
		head = signedHead
	}
	return align(head + len(s.targets) + len(s.data))
}

// set reads the set at a reference; where there is none, an empty one.
func (z *Zone) set(r ref) rrset {
	at := uint64(r) * unit
	if at+signedHead > uint64(len(z.image)) {
		return rrset{}
	}
	b := z.image[at:]
	split, head, size, sigTTL := binary.LittleEndian.Uint32(b[8:]), uint64(setHead), uint64(0), uint32(0)
	if split >= signed {
		split -= signed
		head, size, sigTTL = signedHead, uint64(binary.LittleEndian.Uint32(b[16:])), binary.LittleEndian.Uint32(b[12:])
	}
	data := head + unit*uint64(binary.LittleEndian.Uint16(b[2:]))
	end := data + uint64(split) + size
	if end > uint64(len(b)) {
		return rrset{}
	}
	return rrset{typ: binary.LittleEndian.Uint16(b), ttl: binary.LittleEndian.Uint32(b[4:]), sigTTL: sigTTL,
		split: split, data: b[data:end:end], targets: b[head:data:data]}
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

// hashLabel is the hash of a child's name by that of its parent. The seed is that of the apex.
func hashLabel(parent uint64, label []byte) uint64 {
	h := mix(parent, 0x9e3779b97f4a7c15^uint64(len(label))<<32)
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

// bucketSize is the octets of a bucket, unless there is only one, which is as large as need be. It is four lines of the
// processor's cache.
const bucketSize = 256

const cacheLine = 64

// bucketOf is the bucket for a hash, of so many.
func bucketOf(hash uint64, buckets uint32) uint32 { return uint32(hash >> 32 * uint64(buckets) >> 32) }

// markOf is the bit that a node sets in the marks of its bucket.
func markOf(hash uint64) uint32 { return 1 << (hash & 31) }

// child finds the child of a node that has a folded label and, for it, a hash. It is 0 if there is none.
func (z *Zone) child(parent ref, hash uint64, label []byte) ref {
	number := uint64(bucketOf(hash, z.buckets))
	at := unit * (uint64(z.marksAt) + number)
	if at+unit > uint64(len(z.image)) || binary.LittleEndian.Uint32(z.image[at:])&markOf(hash) == 0 {
		return 0
	}
	at = unit*uint64(z.bucketsAt) + uint64(z.bucketSize)*number
	end := at + uint64(z.bucketSize)
	if end > uint64(len(z.image)) || at+bucketHead > end {
		return 0
	}
	bucket := z.image[at:end]
	if i, ok := among(bucket[bucketHead:], parent, label); ok {
		return ref((at + bucketHead + i) / unit)
	}
	at = unit * uint64(binary.LittleEndian.Uint32(bucket))
	if at == 0 || at > uint64(len(z.image)) {
		return 0
	}
	i, ok := among(z.image[at:], parent, label)
	if !ok {
		return 0
	}
	return ref((at + i) / unit)
}

// among finds where the node with a parent and a label is in a sequence of nodes.
func among(nodes []byte, parent ref, label []byte) (at uint64, ok bool) {
	for at+nodeHead <= uint64(len(nodes)) {
		b := nodes[at:]
		size := unit * uint64(binary.LittleEndian.Uint32(b)>>8)
		if size == 0 {
			break
		}
		if int(b[11]) == len(label) && ref(binary.LittleEndian.Uint32(b[4:])) == parent &&
			nodeHead+len(label) <= len(b) && bytes.Equal(b[nodeHead:nodeHead+len(label)], label) {
			return at, true
		}
		at += size
	}
	return 0, false
}

// wildcard finds the wildcard below the closest encloser of a name (RFC 4592 3.3.1).
func (z *Zone) wildcard(encloser *node, s *search) (node, bool) {
	hash := uint64(z.seed)
	for depth := int(z.labels) + 1; depth <= int(encloser.labels); depth++ {
		hash = hashLabel(hash, s.label(depth))
	}
	child := z.child(encloser.ref, hashLabel(hash, asterisk), asterisk)
	return z.node(child), child > 0
}

func (z *Zone) apex() node { return z.node(z.apexRef) }

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

var errImage = errors.New("no zone image of this format, or one that would be larger than 16 GiB")

func refAt(b []byte, at int) ref { return ref(binary.LittleEndian.Uint32(b[at:])) }

// section returns the octets that a ref and a count in the header stand for, and so many more.
func section(b []byte, at int, size, more uint64) ([]byte, bool) {
	from := unit * uint64(refAt(b, at))
	end := from + size*uint64(binary.LittleEndian.Uint32(b[at+unit:])) + more
	if end > uint64(len(b)) {
		return nil, false
	}
	return b[from:end:end], true
}

// open makes a zone of an image, which it keeps. It looks at the header and the apex only.
func open(b []byte) (*Zone, error) {
	if len(b) < headerSize || binary.LittleEndian.Uint32(b[atVersion:]) != FormatVersion ||
		len(b) < headerSize+int(b[atOriginLen]) {
		return nil, errImage
	}
	z := &Zone{image: b, originLen: b[atOriginLen], seed: binary.LittleEndian.Uint32(b[atSeed:]), apexRef: refAt(b, atApex),
		bucketsAt: refAt(b, atBuckets), marksAt: refAt(b, atMarks), buckets: binary.LittleEndian.Uint32(b[atBuckets+unit:]),
		bucketSize: binary.LittleEndian.Uint32(b[atSize:]), denial: denial(binary.LittleEndian.Uint32(b[atDenial:])),
		details: &details{owner: b[headerSize : headerSize+int(b[atOriginLen])], len: int(binary.LittleEndian.Uint64(b[atRecords:])),
			apexLink: int(binary.LittleEndian.Uint32(b[atApexLink:])), starLink: int(binary.LittleEndian.Uint32(b[atStarLink:]))}}
	for _, s := range []struct {
		to         *[]byte
		at         int
		size, more uint64
	}{{&z.order, atOrder, unit, 0}, {&z.hashed, atHashed, hashedSize, 0}, {&z.chain, atChain, hashedSize, 0}, {&z.links, atLinks, unit, unit}} {
		var ok bool
		if *s.to, ok = section(b, s.at, s.size, s.more); !ok {
			return nil, errImage
		}
	}
	apex := z.apex()
	if !validName(z.owner) || apex.labels != uint8(labels(z.owner)) || z.len < 0 {
		return nil, errImage
	}
	z.origin, z.key, z.labels = nameString(z.owner), appendKey(nil, z.owner), apex.labels
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
			return ok && z.params.iterations <= maxIterations && len(z.links) > unit &&
				max(z.apexLink, z.starLink) < len(z.chain)/hashedSize
		}
		i--
	}
	return false
}
