package zone

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sort"

	"github.com/miekg/dns"
)

// Record is a resource record and where it was read.
type Record struct {
	RR   dns.RR
	Line int
	File string
}

// New makes a zone of records. It returns every finding, up to MaxFindings, and no zone if one of them is an Error.
// The origin is the SOA's owner if it is empty.
func New(origin string, records []Record) (*Zone, []Finding) {
	b := NewBuilder()
	for _, r := range records {
		b.Add(r.RR, r.File, r.Line)
	}
	return b.Build(origin)
}

// Builder collects records in wire format, so that whoever reads a large zone need not hold it as dns.RR.
type Builder struct {
	records  []record
	soa      int // index of the first SOA, or -1
	findings findings

	files  []string
	names  arena
	rdatas arena
	buf    []byte

	lastOwner string // owner that was packed last, and its result: zone text repeats owners
	lastName  []byte
	lastLen   uint8
}

// A record as it was read.
type record struct {
	name  []byte // owner, folded wire format, followed by its key: one block for the two
	rdata []byte
	ttl   uint32
	line  int32
	file  int32
	typ   uint16
	set   uint16 // the type whose RRset this belongs to: the type covered for RRSIG, otherwise typ
	split uint8  // length of the owner in name
}

func (r *record) owner() []byte { return r.name[:r.split:r.split] }
func (r *record) key() []byte   { return r.name[r.split:] }

// maxRecord is more than the longest record takes: its owner, fixed fields and RDATA.
const maxRecord = 1 << 17

// NewBuilder returns a Builder without records.
func NewBuilder() *Builder { return &Builder{soa: -1, buf: make([]byte, 1<<10)} }

// Add adds a record. What is wrong with it is among the findings of Build.
func (b *Builder) Add(rr dns.RR, file string, line int) {
	h := rr.Header()
	if len(b.files) == 0 || b.files[len(b.files)-1] != file {
		b.files = append(b.files, file)
	}
	r := record{typ: h.Rrtype, set: h.Rrtype, ttl: h.Ttl, line: int32(line), file: int32(len(b.files) - 1)}
	if h.Class != dns.ClassINET {
		b.refuse(&r, h.Name, "class", fmt.Sprintf("class %s; only IN is served", dns.Class(h.Class)))
		return
	}
	if h.Ttl > 1<<31-1 {
		b.refuse(&r, h.Name, "ttl", fmt.Sprintf("TTL %d is above 2147483647 (RFC 2181 8)", h.Ttl))
		return
	}
	if isMeta(h.Rrtype) {
		b.refuse(&r, h.Name, "meta-type", dns.Type(h.Rrtype).String()+" is no type of zone data")
		return
	}
	if err := b.pack(&r, rr); err != nil {
		b.refuse(&r, h.Name, "record", err.Error())
		return
	}
	if r.typ == dns.TypeRRSIG {
		r.set = binary.BigEndian.Uint16(r.rdata)
	}
	if r.typ == dns.TypeSOA && b.soa < 0 {
		b.soa = len(b.records)
	}
	b.records = append(b.records, r)
}

// Report adds a finding of whoever reads the records, so that they all come together and bounded from Build.
func (b *Builder) Report(f Finding) { b.findings.add(f) }

// file is the first file that had a record, for findings about none of them.
func (b *Builder) file() string {
	if len(b.files) == 0 {
		return ""
	}
	return b.files[0]
}

// Len is the number of records added so far.
func (b *Builder) Len() int { return len(b.records) }

func (b *Builder) pack(r *record, rr dns.RR) error {
	h := rr.Header()
	end, err := dns.PackRR(rr, b.buf, 0, nil, false)
	if err != nil && len(b.buf) < maxRecord {
		b.buf = make([]byte, maxRecord)
		end, err = dns.PackRR(rr, b.buf, 0, nil, false)
	}
	if err != nil {
		return err
	}
	n := nameLen(b.buf, 0)
	rdata := b.buf[n+10 : end]
	if len(rdata) > 65535 {
		return fmt.Errorf("RDATA of %d octets", len(rdata))
	}
	if err := checkRdata(r.typ, rdata); err != nil {
		return err
	}
	r.rdata = b.rdatas.copy(rdata)
	if b.lastName == nil || h.Name != b.lastOwner {
		name := appendLower(make([]byte, 0, 3*n), b.buf[:n])
		b.lastName = b.names.copy(appendKey(name, name))
		b.lastOwner, b.lastLen = h.Name, uint8(n)
	}
	r.name, r.split = b.lastName, b.lastLen
	return nil
}

// checkRdata refuses RDATA that is not what its type says. The dns package packs some types without RDATA or a name, as
// dynamic updates have them (RFC 2136 2.5), and takes the generic form (RFC 3597 5) at its word.
func checkRdata(typ uint16, rdata []byte) error {
	newRR, known := dns.TypeToRR[typ]
	if known && len(rdata) == 0 && !mayBeEmpty(newRR()) {
		return errors.New("no RDATA")
	}
	if !known || typ == dns.TypeA || typ == dns.TypeAAAA || typ == dns.TypeTXT {
		return nil
	}
	if !namesWhole(typ, rdata) {
		return errors.New("a name is missing or malformed in the RDATA")
	}
	if typ == dns.TypeNS || typ == dns.TypeCNAME {
		return nil
	}
	h := dns.RR_Header{Name: ".", Rrtype: typ, Class: dns.ClassINET, Rdlength: uint16(len(rdata))}
	if _, _, err := dns.UnpackRRWithHeader(h, rdata, 0); err != nil {
		return fmt.Errorf("malformed RDATA: %w", err)
	}
	return nil
}

// mayBeEmpty reports whether a type allows RDATA of no octets.
func mayBeEmpty(rr dns.RR) bool {
	switch rr.(type) {
	case *dns.NULL, *dns.APL:
		return true
	}
	return false
}

func (b *Builder) refuse(r *record, owner, rule, detail string) {
	b.findings.add(Finding{File: b.files[r.file], Line: int(r.line), Owner: owner, Rule: rule, Detail: detail, Severity: Error})
}

// report adds a finding about a record.
func (b *Builder) report(r *record, severity Severity, rule, detail string) {
	b.findings.add(Finding{File: b.files[r.file], Line: int(r.line), Owner: nameString(r.owner()), Rule: rule,
		Detail: detail, Severity: severity})
}

// Build makes the zone of the records added. It returns every finding, up to MaxFindings, and no zone if one of them is
// an Error. The origin is the SOA's owner if it is empty. The Builder must not be used again.
func (b *Builder) Build(origin string) (*Zone, []Finding) {
	z := b.build(origin)
	found := b.findings.all()
	for i := range found {
		found[i].Zone = origin
		if z != nil {
			found[i].Zone = z.origin
		}
	}
	if b.findings.errors {
		return nil, found
	}
	return z, found
}

// build returns a zone, whole or not, or nil if it has not even an origin.
func (b *Builder) build(origin string) *Zone {
	if origin == "" && b.soa >= 0 {
		origin = nameString(b.records[b.soa].owner())
	}
	apex, ok := packName(origin)
	if !ok {
		b.findings.add(Finding{File: b.file(), Rule: "soa", Severity: Error,
			Detail: "no SOA record, and so no origin: is this a whole zone file?"})
		return nil
	}
	z := &Zone{origin: nameString(apex)}
	b.keepInZone(appendKey(nil, apex))
	slices.SortFunc(b.records, compareRecords)
	b.records = slices.CompactFunc(b.records, func(x, y record) bool {
		if x.typ != y.typ || !bytes.Equal(x.key(), y.key()) || compareRdata(x.typ, x.rdata, y.rdata) != 0 {
			return false
		}
		b.checkTTL(&x, &y)
		return true
	})
	z.len = len(b.records)
	z.addNodes(b, apex)
	z.link()
	b.check(z)
	return z
}

// keepInZone refuses and drops what is not at or below the apex.
func (b *Builder) keepInZone(apex []byte) {
	b.records = slices.DeleteFunc(b.records, func(r record) bool {
		if bytes.HasPrefix(r.key(), apex) {
			return false
		}
		b.report(&r, Error, "out-of-zone", "not at or below the zone's origin")
		return true
	})
}

// compareRecords orders records by owner, RRset, records before RRSIGs, and RDATA, all canonically. RDATA that differ in
// case only come in a fixed order too, the lowest TTL first, so that which one is kept does not hang on that of the input.
func compareRecords(x, y record) int {
	if c := bytes.Compare(x.key(), y.key()); c != 0 {
		return c
	}
	if c := cmp.Compare(x.set, y.set); c != 0 {
		return c
	}
	if x.typ != y.typ {
		if x.typ == dns.TypeRRSIG {
			return 1
		}
		return -1
	}
	if c := compareRdata(x.typ, x.rdata, y.rdata); c != 0 {
		return c
	}
	if c := cmp.Compare(x.ttl, y.ttl); c != 0 {
		return c
	}
	return bytes.Compare(x.rdata, y.rdata)
}

// addNodes makes the nodes, from records in canonical order.
func (z *Zone) addNodes(b *Builder, apex []byte) {
	z.nodes = make([]node, 0, len(b.records)/2+1)
	z.nodes = append(z.nodes, node{key: appendKey(nil, apex), owner: appendLower(nil, apex), labels: uint8(labels(apex)),
		parent: -1})
	data := arena{}
	data.reserve(b.records)
	for rest := b.records; len(rest) > 0; {
		n := ownerLen(rest)
		sets, hashed := b.makeSets(rest[:n], &data)
		first := &rest[0]
		if hashed != nil {
			z.nsec3 = append(z.nsec3, nsec3{key: first.key(), owner: first.owner(), set: *hashed})
		}
		if len(sets) > 0 {
			at := z.addName(first.key(), first.owner())
			z.nodes[at].sets = sets
		}
		rest = rest[n:]
	}
}

// ownerLen counts the records of the first owner.
func ownerLen(records []record) int {
	n := 1
	for n < len(records) && bytes.Equal(records[n].key(), records[0].key()) {
		n++
	}
	return n
}

// addName adds the node of a name, and those of the empty non-terminals above it that are not there yet. Names come in
// canonical order, so the last node is at, above or beside the name.
func (z *Zone) addName(key, owner []byte) int32 {
	above := int32(len(z.nodes) - 1)
	for !bytes.HasPrefix(key, z.nodes[above].key) {
		above = z.nodes[above].parent
	}
	if len(z.nodes[above].key) == len(key) {
		return above // the apex
	}
	depth := labels(owner)
	for have := int(z.nodes[above].labels) + 1; have <= depth; have++ {
		name := suffix(owner, have)
		z.nodes = append(z.nodes, node{key: keyPrefix(key, have), owner: name, labels: uint8(have), parent: above})
		above = int32(len(z.nodes) - 1)
	}
	return above
}

// keyPrefix is the key of the ancestor that has count labels.
func keyPrefix(key []byte, count int) []byte {
	for i, c := range key {
		if count == 0 {
			return key[:i:i]
		}
		if c == 0 {
			count--
		}
	}
	return key
}

// makeSets makes the RRsets of one owner. That of NSEC3 records comes apart from the others, since they do not make
// their owner exist (RFC 5155 7.2.8).
func (b *Builder) makeSets(records []record, data *arena) (sets []rrset, hashed *rrset) {
	count := 0
	for i := range records {
		if i == 0 || records[i].set != records[i-1].set {
			count++
		}
	}
	sets = make([]rrset, 0, count)
	for rest := records; len(rest) > 0; {
		n := 1
		for n < len(rest) && rest[n].set == rest[0].set {
			n++
		}
		set := b.makeSet(rest[:n], data)
		if set.typ == dns.TypeNSEC3 {
			hashed = &set
		} else {
			sets = append(sets, set)
		}
		rest = rest[n:]
	}
	return sets, hashed
}

// makeSet makes an RRset of its records and their RRSIGs, in this order. The lowest TTL goes for each of the two.
func (b *Builder) makeSet(records []record, data *arena) rrset {
	s := rrset{typ: records[0].set}
	size := 0
	for i := range records {
		size += 2 + len(records[i].rdata)
	}
	s.data = data.take(size)[:0]
	for i := range records {
		r := &records[i]
		s.data = append(binary.BigEndian.AppendUint16(s.data, uint16(len(r.rdata))), r.rdata...)
		ttl := &s.ttl
		if r.typ == dns.TypeRRSIG {
			ttl = &s.sigTTL
		} else {
			s.split = uint32(len(s.data))
		}
		if i == 0 || r.typ != records[i-1].typ {
			*ttl = r.ttl
		} else {
			b.checkTTL(&records[i-1], r)
			*ttl = min(*ttl, r.ttl)
		}
	}
	return s
}

// checkTTL warns of an RRset with several TTLs.
func (b *Builder) checkTTL(x, y *record) {
	if x.ttl != y.ttl {
		b.report(y, Warning, "ttls-differ", fmt.Sprintf("%s records of TTL %d and %d: the lowest is used (RFC 2181 5.2)",
			dns.Type(y.typ), x.ttl, y.ttl))
	}
}

// link computes once what lookups then only read.
func (z *Zone) link() {
	for i := range z.nodes {
		n := &z.nodes[i]
		n.cut, n.wildcard = -1, -1
		if i > 0 {
			parent := &z.nodes[n.parent]
			n.cut = parent.cut
			if n.cut < 0 && n.get(dns.TypeNS) != nil {
				n.cut = int32(i)
			}
			if isWildcard(n.owner) {
				parent.wildcard = int32(i)
			}
		}
		n.nsec = -1
		switch {
		case n.get(dns.TypeNSEC) != nil && (n.cut < 0 || n.cut == int32(i)):
			n.nsec = int32(i)
		case i > 0:
			n.nsec = z.nodes[i-1].nsec
		}
	}
}

// where returns the first record of an owner's RRset, nil if there is none. Records are in canonical order.
func (b *Builder) where(key []byte, typ uint16) *record {
	i := sort.Search(len(b.records), func(i int) bool {
		c := bytes.Compare(b.records[i].key(), key)
		return c > 0 || c == 0 && b.records[i].set >= typ
	})
	if i < len(b.records) && b.records[i].set == typ && bytes.Equal(b.records[i].key(), key) {
		return &b.records[i]
	}
	return nil
}

// An arena hands out pieces of ever larger blocks, so that a million small pieces are no million objects, and a small
// zone takes little.
type arena struct {
	free  []byte
	block int
}

// An arena's first and largest block.
const (
	minBlock = 1 << 10
	maxBlock = 1 << 18
)

// take returns n octets to be written by the caller.
func (a *arena) take(n int) []byte {
	if n > len(a.free) {
		a.block = min(max(2*a.block, minBlock), maxBlock)
		a.free = make([]byte, max(n, a.block))
	}
	piece := a.free[:n:n]
	a.free = a.free[n:]
	return piece
}

func (a *arena) copy(b []byte) []byte {
	piece := a.take(len(b))
	copy(piece, b)
	return piece
}

// reserve makes one block for the RDATA of all records.
func (a *arena) reserve(records []record) {
	size := 0
	for i := range records {
		size += 2 + len(records[i].rdata)
	}
	a.free = make([]byte, size)
}
