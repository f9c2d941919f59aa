// Package zone decides the answer: an immutable zone, and what RFC 1034 4.3.2 and its successors (2308, 4035, 4592,
// 5155, 6672, 8482) make of a question put to it.
//
// It is pure: no network, disk, clock, lock or goroutine. Of miekg/dns it uses the data types only. A Zone is read by any
// number of goroutines at once. internal/zonefile makes zones from text, plugin/meshsync and plugin/sharedunicast ask them, and cmd/meshctl
// checks and publishes them.
//
// A zone is an image without pointers, see image.go, that can be kept in a file and taken up again by FromImage. Apply makes
// another one of it and of a change, which shares with it what did not change. RDATA
// is in wire format there, uncompressed, and an Answer refers to it without copying. LookupInto and Answer.AppendTo make
// a packet of a question without allocating; Lookup and Answer.Msg are for those that need a dns.Msg.
package zone

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"iter"

	"github.com/miekg/dns"
)

// Zone is an immutable zone, made by a Builder, by Apply or by FromImage. It is what every lookup needs, in one line of the
// processor's cache, so that among very many zones a lookup waits for two places of memory: this one, in the table of
// Zones, and the image.
type Zone struct {
	first []byte // page of the image
	*details
	tag        uint32 // of the origin's hash in Zones
	seed       uint32
	apexRef    ref
	marksAt    ref
	bucketsAt  ref
	buckets    uint32
	bucketSize uint32
	originLen  uint8
	labels     uint8 // of the origin
	denial     denial
}

// details are the rest of a Zone.
type details struct {
	pages [][]byte // of the image
	loose uint64   // octets of it that are not where a Builder would have put them, or of no use any more

	owner  []byte // of the apex, wire format, folded; a part of the image
	order  list   // of nodes
	hashed list   // of every NSEC3 RRset of every chain, for Records
	chain  list   // the NSEC3 chain of params
	links  []uint32

	origin string
	key    []byte // of owner, see appendKey
	serial uint32

	soa         rrset // as in a positive answer
	negativeSOA rrset // with the TTL of a negative answer (RFC 2308 5)

	params             nsec3Params
	paramsAt           uint32 // which NSEC3PARAM record they are from
	severalChains      bool   // hashed has others than chain
	apexLink, starLink hashed // links of the chain: the apex's, and that which proves that no wildcard is below it
}

// Rdata is a sequence of RDATA: each two octets of length, big-endian, and so many octets without name compression.
type Rdata []byte

// All yields each RDATA in canonical order.
func (d Rdata) All() iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		for rest := []byte(d); len(rest) >= 2; {
			n := 2 + int(binary.BigEndian.Uint16(rest))
			if n > len(rest) || !yield(rest[2:n:n]) {
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

// NameLen is how many octets the origin has in wire format.
func (z *Zone) NameLen() int { return int(z.originLen) }

// Labels is how many labels the origin has, the root's empty one not counted.
func (z *Zone) Labels() int { return int(z.labels) }

// Serial is the serial number in the zone's SOA (RFC 1982 arithmetic applies; 0 is a serial like any other).
func (z *Zone) Serial() uint32 { return z.serial }

// Len is the number of records.
func (z *Zone) Len() int { return int(z.order.records) + int(z.hashed.records) }

// Names counts the names that own records, but for those that own NSEC3 records alone.
func (z *Zone) Names() int { return int(z.order.names) }

// Expires is when the first signature expires (RFC 4034 3.1.5), false if there is none.
func (z *Zone) Expires() (uint32, bool) {
	all := z.order.totals
	all.add(&z.hashed.totals)
	return all.expires, all.signatures > 0
}

// Root is what two zones have in common if and only if they have the same records, TTLs and the case of names in RDATA
// included: a hash of the hashes of their parts, which list.go defines.
func (z *Zone) Root() (root [sha256.Size]byte) {
	b := append([]byte{2}, z.owner...)
	for _, l := range []*list{&z.order, &z.hashed} {
		b = binary.BigEndian.AppendUint32(b, uint32(len(l.branches)))
		for i := range l.branches {
			b = l.branches[i].appendTo(b)
		}
	}
	return sha256.Sum256(b)
}

// WireRecord is a record of class IN in wire format (RFC 1035 3.2.1).
type WireRecord struct {
	Owner []byte // lower-case
	Type  uint16
	TTL   uint32
	Data  []byte // RDATA
}

// Records yields all records: the SOA, then the rest in canonical order (RFC 4034 6), RRSIG and NSEC3 records and glue
// at their places. Owners are lower-case; RDATA has the case in which it was loaded.
func (z *Zone) Records() iter.Seq[dns.RR] {
	return func(yield func(dns.RR) bool) {
		var owner []byte
		var name string
		for r := range z.WireRecords() {
			if name == "" || !bytes.Equal(owner, r.Owner) {
				owner, name = r.Owner, nameString(r.Owner)
			}
			if !yield(unpackRR(name, r.Type, r.TTL, r.Data)) {
				return
			}
		}
	}
}

// RR is the record as the DNS library has it.
func (r *WireRecord) RR() dns.RR { return unpackRR(nameString(r.Owner), r.Type, r.TTL, r.Data) }

// AppendTo appends the record as it is in RRs.
func (r *WireRecord) AppendTo(dst []byte) []byte {
	return appendRest(append(dst, r.Owner...), r.Type, r.TTL, r.Data)
}

// WireRecords yields all records as Records does. The zone owns what they refer to.
func (z *Zone) WireRecords() iter.Seq[WireRecord] {
	return func(yield func(WireRecord) bool) {
		if !yieldRecords(yield, z.owner, dns.TypeSOA, z.soa.ttl, z.soa.records()) {
			return
		}
		var sets []RRset // of one owner
		for s := range z.RRsets() {
			if len(sets) > 0 && !bytes.Equal(sets[0].Owner, s.Owner) {
				if !yieldOwner(yield, sets) {
					return
				}
				sets = sets[:0]
			}
			if s.Type == dns.TypeSOA && bytes.Equal(s.Owner, z.owner) {
				s.Data = nil // it came first of all
			}
			sets = append(sets, s)
		}
		yieldOwner(yield, sets)
	}
}

// yieldOwner yields the records of an owner, whose sets are in order of type: the RRSIGs of all of them come where
// their own type has its place.
func yieldOwner(yield func(WireRecord) bool, sets []RRset) bool {
	if len(sets) == 0 {
		return true
	}
	name := sets[0].Owner
	signed := false
	sigs := func() bool {
		signed = true
		for i := range sets {
			if !yieldRecords(yield, name, dns.TypeRRSIG, sets[i].SigTTL, sets[i].Sigs) {
				return false
			}
		}
		return true
	}
	for i := range sets {
		s := &sets[i]
		if !signed && s.Type > dns.TypeRRSIG && !sigs() {
			return false
		}
		if !yieldRecords(yield, name, s.Type, s.TTL, s.Data) {
			return false
		}
	}
	return signed || sigs()
}

func yieldRecords(yield func(WireRecord) bool, owner []byte, typ uint16, ttl uint32, data Rdata) bool {
	for rdata := range data.All() {
		if !yield(WireRecord{owner, typ, ttl, rdata}) {
			return false
		}
	}
	return true
}

// search is a name being looked for, or written, taken apart.
type search struct {
	name   []byte
	folded [255 + foldPad]byte  // zero after the name
	starts [maxLabels + 1]uint8 // offsets of the labels, the leftmost one's first
	labels int                  // the root's not counted
}

// foldPad are octets after a name that can be read without asking where it ends.
const foldPad = 17

// set takes a name apart, and reports whether it is a valid one in wire format.
func (s *search) set(name []byte) bool { return s.setFirst(name) && len(s.name) == len(name) }

// setRoot is set of the name of the root.
func (s *search) setRoot() { s.set(rootName) }

var rootName = []byte{0}

// setFirst takes the name apart that octets begin with. If that is not valid, there is no name.
func (s *search) setFirst(b []byte) bool {
	s.name, s.labels = nil, 0
	labels := 0
	for i := 0; i < len(b) && i < 255; {
		length := int(b[i])
		s.starts[labels] = uint8(i)
		if length == 0 {
			s.name, s.labels = b[:i+1:i+1], labels
			s.fold()
			return true
		}
		if length > 63 {
			return false
		}
		labels++
		i += 1 + length
	}
	return false
}

// fold folds the name, eight octets at once; lengths are below the letters.
func (s *search) fold() {
	n := len(s.name)
	if n < 8 {
		for i, c := range s.name {
			s.folded[i] = fold[c]
		}
	} else {
		for i := 0; i < n-8; i += 8 {
			binary.LittleEndian.PutUint64(s.folded[i:], fold8(binary.LittleEndian.Uint64(s.name[i:])))
		}
		binary.LittleEndian.PutUint64(s.folded[n-8:], fold8(binary.LittleEndian.Uint64(s.name[n-8:])))
	}
	end := s.folded[n : n+16]
	binary.LittleEndian.PutUint64(end, 0)
	binary.LittleEndian.PutUint64(end[8:], 0)
}

// fold8 folds eight octets.
func fold8(w uint64) uint64 {
	const ones = 0x0101010101010101
	low := w &^ (0x80 * ones)
	upper := (low + (0x80-'A')*ones) &^ (low + (0x80-'Z'-1)*ones) &^ w & (0x80 * ones)
	return w | upper>>2
}

// label is the folded label of the ancestor that has depth labels, nothing if it has fewer.
func (s *search) label(depth int) []byte {
	if depth < 1 || depth > s.labels {
		return nil
	}
	at := int(s.starts[s.labels-depth])
	end := at + 1 + int(s.folded[at])
	return s.folded[at+1 : end : end]
}

// suffix is the end of the name of so many labels, in the name's own case; the whole name if it has no more.
func (s *search) suffix(labels int) []byte {
	if labels >= s.labels {
		return s.name
	}
	return s.name[s.starts[s.labels-labels]:]
}

// holds reports whether a name is at or below the zone's apex.
func (z *Zone) holds(s *search) bool {
	at := s.labels - int(z.labels)
	return at >= 0 && bytes.Equal(s.folded[s.starts[at]:len(s.name)], z.owner)
}

// find locates a name of the zone: its node, or else that of its closest encloser (RFC 4592 3.3.1). It goes no further
// than to a delegation point.
func (z *Zone) find(s *search) (n node, exact bool) { return z.descend(s, isCut) }

// locate is find for all names that the zone has, those below a delegation point too.
func (z *Zone) locate(s *search) (n node, exact bool) { return z.descend(s, 0) }

// descend goes from the apex down towards a name of the zone, but not below a node with a flag.
func (z *Zone) descend(s *search, end uint8) (n node, exact bool) {
	at, hash := z.apexRef, uint64(z.seed)
	for depth := int(z.labels) + 1; depth <= s.labels; depth++ {
		label := s.label(depth)
		hash = hashLabel(hash, label)
		child := z.child(at, hash, label)
		if child == 0 {
			return z.node(at), false
		}
		at = child
		if n = z.node(at); n.is(end) {
			return n, depth == s.labels
		}
	}
	return z.node(at), true
}
