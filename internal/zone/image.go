package zone

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"math/bits"

	"github.com/miekg/dns"
)

// An image is what a zone has in octets without pointers, so that the garbage collector does not walk it and it can be
// written to a file as it is. Numbers are little-endian. It lies in pages, see pages.go, and consists of
//
//	origin     in wire format, folded
//	shared     the RRsets that several names have, or that are large
//	apex       a node
//	marks      for every bucket, markOf of every node in it: u32…
//	buckets    the other names that exist, the empty non-terminals among them (RFC 4592 2.2.2), by the hash of their labels
//	runs       of nodes that find no room in their buckets
//	proofs     the RRsets of NSEC3 records
//	rest       what was changed since, see Apply: runs, RRsets, and contents of nodes that find no room in these
//
// Beside it there are two lists, see list.go. A bucket, the place of which follows from a hash alone, so that there is no
// index to be read before it. Marks tell of most names that do not exist that they do not, and are few enough to remain in
// the processor's cache.
//
//	run ref, 0 for none · node… · 0 u32 unless it is full; run: run ref before this one, 0 for none · node… · 0 u32
//
// A node, and behind it those of its RRsets that are nowhere else, so that a name is found in one place of memory:
//
//	flags u8, size u24 · parent ref · RRsets u16 · labels u8 · length u8 · label · content
//	content: { type u16 · set ref }… · padding · set…, or, with the flag isAway, the ref of: units u32 · content
//
// A node that came to be stays where it is, since others point at it: what is there no more has the flag isGone.
//
// A set, of records and the RRSIG records that cover them, either of which may be none:
//
//	type u16 · targets u16 · TTL u32 · octets of records u31, signed u1 · { RRSIG TTL u32 · octets of RRSIGs u32 if signed } ·
//	{ target ref }… · { length u16, big-endian · RDATA }… · padding
//
// If a type points at hosts (RFC 1035 3.3.9, 3.3.11) there is a target for each record: the host's node, 0 if the host is not in
// the zone, or unresolved if it had no node when the set was written.
//
// Every read checks its bounds and every loop is bounded, so that whatever an image holds no reader panics or hangs;
// what it finds is then of no use. That an image is as it was made is for its checksum to prove (see FromImage).

// ref is a position in an image, in units of four octets.
type ref uint32

// unit is the alignment of nodes and sets, and the measure of their sizes, in octets.
const unit = 4

// unresolved is a target that has to be looked for by its name. There is no node at the origin's name.
const unresolved ref = 1

// maxImage is the size that refs can reach.
const maxImage = unit << 32

// FormatVersion is that of the image. It changes with whatever changes the meaning of an octet.
const FormatVersion = 3

const (
	originRoom = 8       // octets that the origin takes at least, so that the first node is not at unresolved
	bucketHead = 4       // octets of a bucket or run before its nodes
	nodeHead   = 12      // octets of a node before its label
	setEntry   = 6       // octets of an RRset in a node
	setHead    = 12      // octets of a set that is not signed before its targets and data
	signedHead = 20      // octets of one that is
	signed     = 1 << 31 // in the octets of records
	hashedSize = 24      // octets of an item of hashed: hash, ref
)

// Flags of a node.
const (
	isCut       = 1 << iota // the topmost delegation point on the way to the name
	isBelowCut              // a name below one: not authoritative
	hasWildcard             // a wildcard is a child
	hasDNAME
	hasCNAME
	hasNSEC // an NSEC RRset, and authoritative for it
	isAway  // its content is elsewhere
	isGone  // it does not exist
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
	b := z.from(r)
	if len(b) < nodeHead {
		return node{}
	}
	labelEnd := nodeHead + int(b[11])
	octets := setEntry * int(binary.LittleEndian.Uint16(b[8:]))
	if labelEnd > len(b) || b[10] > maxLabels {
		return node{}
	}
	n := node{ref: r, parent: ref(binary.LittleEndian.Uint32(b[4:])), flags: b[0], labels: b[10], label: b[nodeHead:labelEnd:labelEnd]}
	switch rest := b[labelEnd:]; {
	case n.flags&isAway != 0:
		n.sets = z.away(rest, octets)
	case octets > len(rest):
		return node{}
	default:
		n.sets = rest[:octets:octets]
	}
	return n
}

// away is so many octets of the sets of a node that are elsewhere.
func (z *Zone) away(b []byte, octets int) []byte {
	if len(b) < unit {
		return nil
	}
	if b = z.from(refAt(b, 0)); len(b) < unit+octets {
		return nil
	}
	return b[unit : unit+octets : unit+octets]
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

// target is the node that the i-th record points at, or unresolved, or 0.
func (s *rrset) target(i int) ref {
	if unit*i+unit > len(s.targets) {
		return 0
	}
	return refAt(s.targets, unit*i)
}

// set reads the set at a reference; where there is none, an empty one.
func (z *Zone) set(r ref) rrset { return readSet(z.from(r)) }

// readSet reads the set that octets begin with; if it is none, an empty one.
func readSet(b []byte) rrset {
	if len(b) < setHead {
		return rrset{}
	}
	split, head, size, sigTTL := binary.LittleEndian.Uint32(b[8:]), uint64(setHead), uint64(0), uint32(0)
	if split >= signed {
		if len(b) < signedHead {
			return rrset{}
		}
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
	r, gone := z.everChild(parent, hash, label)
	if gone {
		return 0
	}
	return r
}

// everChild is child that tells of one that is gone too.
func (z *Zone) everChild(parent ref, hash uint64, label []byte) (_ ref, gone bool) {
	number := ref(bucketOf(hash, z.buckets))
	if marks := z.from(z.marksAt + number); len(marks) < unit || binary.LittleEndian.Uint32(marks)&markOf(hash) == 0 {
		return 0, false
	}
	at := z.bucketsAt + ref(z.bucketSize/unit)*number
	bucket := z.from(at)
	if uint32(len(bucket)) < z.bucketSize || z.bucketSize < bucketHead {
		return 0, false
	}
	nodes := bucket[bucketHead:z.bucketSize]
	for last := ref(math.MaxUint32); ; { // each run comes before the one that led to it
		if i, ok := among(nodes, parent, label); ok {
			return at + bucketHead/unit + ref(i/unit), nodes[i]&isGone != 0
		}
		run := refAt(bucket, 0)
		if run == 0 || run >= last {
			return 0, false
		}
		at, last = run, run
		if bucket = z.from(at); len(bucket) < bucketHead {
			return 0, false
		}
		nodes = bucket[bucketHead:]
	}
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

// hashedOf reads an item of the list.
func hashedOf(item []byte) hashed {
	return hashed{hash: item[:20:20], set: refAt(item, 20)}
}

// appendHashed appends the owner of a hash in wire format (RFC 5155 3.3).
func (z *Zone) appendHashed(dst, hash []byte) []byte {
	dst = append(dst, byte(hashing.EncodedLen(len(hash))))
	return append(hashing.AppendEncode(dst, hash), z.owner...)
}

var errImage = errors.New("no zone image of this format, or one that would be larger than 16 GiB")

func refAt(b []byte, at int) ref { return ref(binary.LittleEndian.Uint32(b[at:])) }

// begin reads what the apex says, and makes ready what is known beforehand.
func (z *Zone) begin() error {
	apex := z.apex()
	if !validName(z.owner) || apex.labels != uint8(labels(z.owner)) {
		return errImage
	}
	z.origin, z.key, z.labels = nameString(z.owner), appendKey(nil, z.owner), apex.labels
	if soa, ok := z.get(&apex, dns.TypeSOA); ok {
		z.setSOA(soa)
	}
	if z.denial != byHashName {
		return nil
	}
	if !z.readParams(&apex, int(z.paramsAt)) {
		return errImage
	}
	chain := z.hashed
	if z.severalChains {
		chain = z.chainOf(z.params)
	}
	if chain.count == 0 {
		return errImage
	}
	z.setChain(chain)
	return nil
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
			return ok && z.params.iterations <= maxIterations
		}
		i--
	}
	return false
}
