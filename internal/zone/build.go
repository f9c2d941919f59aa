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

// Builder collects records in wire format, so that whoever reads a large zone need not hold it as dns.RR. It takes some
// 30 octets a record beside its RDATA, and its owner once; Build adds the image, twice at its end.
type Builder struct {
	records  []record
	soa      int // index of the first SOA, or -1
	findings findings
	hasNSEC  bool
	hasNSEC3 bool

	files []string
	names arena // keys, see appendKey
	datas arena
	buf   []byte

	lastOwner []byte // owner that was added last, and its key: zone text repeats owners
	lastName  pieceRef

	stop    func() bool // see StopIf
	steps   uint        // since it was asked last
	stopped bool
}

// A record as it was read.
type record struct {
	name pieceRef // key of the owner
	data pieceRef
	ttl  uint32
	line int32
	file int32
	typ  uint16
	set  uint16 // the type whose RRset this belongs to: the type covered for RRSIG, otherwise typ
}

func (b *Builder) key(r *record) []byte   { return b.names.at(r.name) }
func (b *Builder) rdata(r *record) []byte { return b.datas.at(r.data) }

// maxRecord is more than the longest record takes: its owner, fixed fields and RDATA.
const maxRecord = 1 << 17

// NewBuilder returns a Builder without records.
func NewBuilder() *Builder { return &Builder{soa: -1, buf: make([]byte, 1<<10)} }

// StopIf has Build ask now and then whether to give up. It then returns no zone, and an Error.
func (b *Builder) StopIf(stop func() bool) { b.stop = stop }

// halted reports whether to give up. It is called for each record and must cost nothing.
func (b *Builder) halted() bool {
	if b.steps++; b.steps&(1<<12-1) == 0 && !b.stopped && b.stop != nil {
		b.stopped = b.stop()
	}
	return b.stopped
}

// givenUp asks whether to give up, and says so in a finding.
func (b *Builder) givenUp() bool {
	if b.stopped = b.stopped || b.stop != nil && b.stop(); b.stopped {
		b.findings.add(Finding{File: b.file(), Rule: "ended", Severity: Error, Detail: "the zone was not made to its end"})
	}
	return b.stopped
}

// Grow makes room for n records in all. Without it there is at times twice the room that the records take.
func (b *Builder) Grow(n int) { b.records = grow(b.records, max(0, n-len(b.records))) }

// grow is slices.Grow for what gets large. That one takes and copies memory in one piece, in which the runtime cannot stop a
// goroutine: while the collector waits for that, nothing in the process runs.
func grow[T any](s []T, n int) []T {
	if n <= cap(s)-len(s) {
		return s
	}
	return appendLarge(make([]T, 0, max(len(s)+n, len(s)+len(s)/4)), s)
}

// appendLarge appends in pieces to a slice that has the room.
func appendLarge[T any](s, more []T) []T {
	for piece := range slices.Chunk(more, 1<<10) {
		s = appendPiece(s, piece)
	}
	return s
}

// appendPiece is called, so that the runtime can stop the goroutine where it begins.
//
//go:noinline
func appendPiece[T any](s, piece []T) []T { return append(s, piece...) }

// Append adds the records of another Builder, which has no findings, as if they had been read from the lines of a file
// that follow the first so many. The other Builder can be used for other records after Reset.
func (b *Builder) Append(other *Builder, file string, lines int) {
	if len(other.records) == 0 {
		return
	}
	at := b.place(file, lines)
	names, datas := b.names.extend(&other.names), b.datas.extend(&other.datas)
	if b.soa < 0 && other.soa >= 0 {
		b.soa = len(b.records) + other.soa
	}
	b.hasNSEC, b.hasNSEC3 = b.hasNSEC || other.hasNSEC, b.hasNSEC3 || other.hasNSEC3
	b.records = grow(b.records, len(other.records))
	for _, r := range other.records {
		r.name, r.data, r.line, r.file = r.name+names, r.data+datas, r.line+at.line, at.file
		b.records = append(b.records, r)
	}
	b.lastOwner, b.lastName = append(b.lastOwner[:0], other.lastOwner...), other.lastName+names
}

// Full reports whether another Builder's records may find no room.
func (b *Builder) Full(other *Builder) bool {
	return b.names.full(len(other.names.blocks)) || b.datas.full(len(other.datas.blocks))
}

// Reset forgets all records and findings and keeps their room.
func (b *Builder) Reset() {
	b.names.reset()
	b.datas.reset()
	*b = Builder{soa: -1, buf: b.buf, records: b.records[:0], files: b.files[:0], names: b.names, datas: b.datas}
}

// HasFindings reports whether something was wrong so far.
func (b *Builder) HasFindings() bool { return len(b.findings.list) > 0 }

// Add adds a record. What is wrong with it is among the findings of Build.
func (b *Builder) Add(rr dns.RR, file string, line int) {
	h := rr.Header()
	r := b.place(file, line)
	r.typ, r.ttl = h.Rrtype, h.Ttl
	if h.Class != dns.ClassINET {
		b.refuse(&r, h.Name, "class", fmt.Sprintf("class %s; only IN is served", dns.Class(h.Class)))
		return
	}
	owner, rdata, err := b.pack(rr)
	if err != nil {
		b.refuse(&r, h.Name, "record", err.Error())
		return
	}
	b.add(&r, owner, rdata)
}

// AddWire is Add of a record of class IN in wire format. The owner must be a valid name of at most 255 octets; owner and rdata are copied.
func (b *Builder) AddWire(owner []byte, typ uint16, ttl uint32, rdata []byte, file string, line int) {
	r := b.place(file, line)
	r.typ, r.ttl = typ, ttl
	b.add(&r, owner, rdata)
}

// place begins a record with where it was read.
func (b *Builder) place(file string, line int) record {
	if len(b.files) == 0 || b.files[len(b.files)-1] != file {
		b.files = append(b.files, file)
	}
	return record{line: int32(line), file: int32(len(b.files) - 1)}
}

func (b *Builder) add(r *record, owner, rdata []byte) {
	switch {
	case r.ttl > 1<<31-1:
		b.refuse(r, nameString(owner), "ttl", fmt.Sprintf("TTL %d is above 2147483647 (RFC 2181 8)", r.ttl))
		return
	case isMeta(r.typ):
		b.refuse(r, nameString(owner), "meta-type", dns.Type(r.typ).String()+" is no type of zone data")
		return
	}
	if err := checkRdata(r.typ, rdata); err != nil {
		b.refuse(r, nameString(owner), "record", err.Error())
		return
	}
	if b.names.full(1) || b.datas.full(1) {
		b.refuse(r, nameString(owner), "size", "more than 16 GiB of names or RDATA before this record")
		return
	}
	if b.lastOwner == nil || !bytes.Equal(owner, b.lastOwner) {
		var room [512]byte
		b.lastName = b.names.add(appendKey(room[:0], owner))
		b.lastOwner = append(b.lastOwner[:0], owner...)
	}
	r.name, r.data, r.set = b.lastName, b.datas.add(rdata), r.typ
	switch r.typ {
	case dns.TypeRRSIG:
		r.set = binary.BigEndian.Uint16(rdata)
	case dns.TypeSOA:
		if b.soa < 0 {
			b.soa = len(b.records)
		}
	case dns.TypeNSEC:
		b.hasNSEC = true
	}
	b.hasNSEC3 = b.hasNSEC3 || r.set == dns.TypeNSEC3
	b.records = append(grow(b.records, 1), *r)
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

// pack returns the owner and the RDATA of a record, good until the next call.
func (b *Builder) pack(rr dns.RR) (owner, rdata []byte, err error) {
	end, err := dns.PackRR(rr, b.buf, 0, nil, false)
	if err != nil && len(b.buf) < maxRecord {
		b.buf = make([]byte, maxRecord)
		end, err = dns.PackRR(rr, b.buf, 0, nil, false)
	}
	if err != nil {
		return nil, nil, err
	}
	n := nameLen(b.buf, 0)
	rdata = b.buf[n+10 : end]
	if n > 255 {
		return nil, nil, errors.New("an owner of more than 255 octets (RFC 1035 2.3.4)")
	}
	if len(rdata) > 65535 {
		return nil, nil, fmt.Errorf("RDATA of %d octets", len(rdata))
	}
	return b.buf[:n], rdata, nil
}

// checkRdata refuses RDATA that is not what its type says.
func checkRdata(typ uint16, rdata []byte) error {
	if plainlyGood(typ, rdata) {
		return nil
	}
	return checkAny(typ, rdata)
}

// plainlyGood tells of the types that a large zone is made of that checkAny will have nothing against it. False says nothing.
func plainlyGood(typ uint16, rdata []byte) bool {
	switch typ {
	case dns.TypeA:
		return len(rdata) == 4
	case dns.TypeAAAA:
		return len(rdata) == 16
	case dns.TypeNS, dns.TypeCNAME:
		n := nameLen(rdata, 0)
		return n > 0 && n == len(rdata) && n <= 255
	case dns.TypeRRSIG:
		return namesWhole(typ, rdata)
	case dns.TypeDS:
		return len(rdata) >= leastRdata[typ]
	case dns.TypeNSEC3:
		return wholeNSEC3(rdata)
	}
	return false
}

// checkAny asks the dns package, which packs some types without RDATA or a name, as dynamic updates have them (RFC 2136
// 2.5), and takes the generic form (RFC 3597 5) at its word.
func checkAny(typ uint16, rdata []byte) error {
	newRR, known := dns.TypeToRR[typ]
	if !known {
		return nil
	}
	if len(rdata) == 0 && !mayBeEmpty(newRR()) {
		return errors.New("no RDATA")
	}
	if !namesWhole(typ, rdata) {
		return errors.New("a name is missing or malformed in the RDATA")
	}
	h := dns.RR_Header{Name: ".", Rrtype: typ, Class: dns.ClassINET, Rdlength: uint16(len(rdata))}
	rr, _, err := dns.UnpackRRWithHeader(h, rdata, 0)
	if err != nil {
		return fmt.Errorf("malformed RDATA: %w", err)
	}
	return checkForm(typ, rdata, rr)
}

// wholeNSEC3 reports whether RDATA has all fields of NSEC3, and a type bitmap as it must be (RFC 5155 3.2, RFC 4034 4.1.2).
func wholeNSEC3(rdata []byte) bool {
	if len(rdata) < 6 || len(rdata) < 6+int(rdata[4]) {
		return false
	}
	next := rdata[5+int(rdata[4]):]
	if len(next) < 1+int(next[0]) {
		return false
	}
	bitmap := next[1+int(next[0]):]
	for last := -1; len(bitmap) > 0; {
		if len(bitmap) < 2 || int(bitmap[0]) <= last || bitmap[1] == 0 || bitmap[1] > 32 || len(bitmap) < 2+int(bitmap[1]) {
			return false
		}
		last, bitmap = int(bitmap[0]), bitmap[2+int(bitmap[1]):]
	}
	return true
}

// leastRdata are the octets that RDATA has at least of types whose last field the dns package takes for empty if it is not
// there.
var leastRdata = map[uint16]int{dns.TypeDS: 5, dns.TypeCDS: 5, dns.TypeDLV: 5, dns.TypeDNSKEY: 5, dns.TypeCDNSKEY: 5,
	dns.TypeTLSA: 4, dns.TypeSMIMEA: 4, dns.TypeSSHFP: 3}

// checkForm refuses what the dns package takes and others would not.
func checkForm(typ uint16, rdata []byte, rr dns.RR) error {
	if len(rdata) < leastRdata[typ] {
		return errors.New("the RDATA ends too soon")
	}
	switch typ {
	case dns.TypeNSEC:
		if nameLen(rdata, 0) == 0 {
			return errors.New("a compressed name in the RDATA")
		}
	case dns.TypeDS, dns.TypeRRSIG, dns.TypeNSEC3: // very many; there is nothing else to them
	case dns.TypeISDN: // the dns package gives it a second string
	default:
		again := make([]byte, len(rdata)+300)
		end, err := dns.PackRR(rr, again, 0, nil, false)
		if err != nil || !bytes.Equal(again[11:end], rdata) { // the first 11 are the owner and the fixed fields
			return errors.New("malformed RDATA: a compressed name, or fields that are missing or out of order")
		}
	}
	return checkMandatory(rr)
}

// checkMandatory refuses service parameters that make their own record invalid (RFC 9460 8).
func checkMandatory(rr dns.RR) error {
	var params []dns.SVCBKeyValue
	switch rr := rr.(type) {
	case *dns.SVCB:
		params = rr.Value
	case *dns.HTTPS:
		params = rr.Value
	}
	for _, p := range params {
		m, ok := p.(*dns.SVCBMandatory)
		if !ok {
			continue
		}
		for i, key := range m.Code {
			there := slices.ContainsFunc(params, func(p dns.SVCBKeyValue) bool { return p.Key() == key })
			if !there || key == dns.SVCB_MANDATORY || slices.Contains(m.Code[:i], key) {
				return fmt.Errorf("the mandatory key %s is not there, there twice or no such key", key)
			}
		}
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
	b.findings.add(Finding{File: b.files[r.file], Line: int(r.line), Owner: nameString(ownerOfKey(b.key(r))), Rule: rule,
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
		origin = nameString(ownerOfKey(b.key(&b.records[b.soa])))
	}
	apex, ok := packName(origin)
	if !ok {
		b.findings.add(Finding{File: b.file(), Rule: "soa", Severity: Error,
			Detail: "no SOA record, and so no origin: is this a whole zone file?"})
		return nil
	}
	if b.givenUp() {
		return nil
	}
	b.keepInZone(appendKey(nil, apex))
	b.sort()
	b.dropEqual()
	image := b.encode(apex)
	if b.givenUp() {
		return nil
	}
	z, err := open(image)
	if err != nil {
		b.findings.add(Finding{File: b.file(), Rule: "size", Severity: Error, Detail: err.Error()})
		return nil
	}
	z.fillTargets()
	if b.givenUp() {
		return nil
	}
	b.check(z)
	if b.givenUp() {
		return nil
	}
	if b.findings.errors {
		return z
	}
	if z, err = open(z.image); err != nil {
		b.findings.add(Finding{File: b.file(), Rule: "size", Severity: Error, Detail: err.Error()})
	}
	return z
}

// keepInZone refuses and drops what is not at or below the apex.
func (b *Builder) keepInZone(apex []byte) {
	b.records = slices.DeleteFunc(b.records, func(r record) bool {
		if bytes.HasPrefix(b.key(&r), apex) {
			return false
		}
		b.report(&r, Error, "out-of-zone", "not at or below the zone's origin")
		return true
	})
}

// sort brings the records into canonical order. Where the owners come in order, as in what zonefile.Write writes, it is
// enough to sort the records of each.
func (b *Builder) sort() {
	if !b.uniteOwners() {
		slices.SortFunc(b.records, b.compare)
		b.uniteOwners()
		return
	}
	for rest := b.records; len(rest) > 0; {
		n := ownerLen(rest)
		slices.SortFunc(rest[:n], b.compare)
		rest = rest[n:]
	}
}

// uniteOwners lets all records of an owner, which follow one another, have the same key, so that it is enough to compare
// where the keys are. It reports whether the owners are in canonical order; if not, it has not come to the end.
func (b *Builder) uniteOwners() bool {
	for i := 1; i < len(b.records); i++ {
		x, y := &b.records[i-1], &b.records[i]
		if x.name != y.name {
			switch c := bytes.Compare(b.key(x), b.key(y)); {
			case c > 0:
				return false
			case c == 0:
				y.name = x.name
			}
		}
	}
	return true
}

// compare orders records by owner, RRset, records before RRSIGs, and RDATA, all canonically. RDATA that differ in case
// only come in a fixed order too, the lowest TTL first, so that which one is kept does not hang on that of the input.
func (b *Builder) compare(x, y record) int {
	if b.halted() {
		return 0
	}
	if x.name != y.name {
		if c := bytes.Compare(b.key(&x), b.key(&y)); c != 0 {
			return c
		}
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
	if c := compareRdata(x.typ, b.rdata(&x), b.rdata(&y)); c != 0 {
		return c
	}
	if c := cmp.Compare(x.ttl, y.ttl); c != 0 {
		return c
	}
	return bytes.Compare(b.rdata(&x), b.rdata(&y))
}

// ownerLen counts the records of the first owner. Owners are united.
func ownerLen(records []record) int {
	n := 1
	for n < len(records) && records[n].name == records[0].name {
		n++
	}
	return n
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

// dropEqual drops records that are there twice.
func (b *Builder) dropEqual() {
	b.records = slices.CompactFunc(b.records, func(x, y record) bool {
		if x.typ != y.typ || x.name != y.name || compareRdata(x.typ, b.rdata(&x), b.rdata(&y)) != 0 {
			return false
		}
		b.checkTTL(&x, &y)
		return true
	})
}

// checkTTL warns of an RRset with several TTLs.
func (b *Builder) checkTTL(x, y *record) {
	if x.ttl != y.ttl {
		b.report(y, Warning, "ttls-differ", fmt.Sprintf("%s records of TTL %d and %d: the lowest is used (RFC 2181 5.2)",
			dns.Type(y.typ), x.ttl, y.ttl))
	}
}

// from is the index of the first record whose owner is a key's or comes after it. Records are in canonical order.
func (b *Builder) from(key []byte) int {
	return sort.Search(len(b.records), func(i int) bool { return bytes.Compare(b.key(&b.records[i]), key) >= 0 })
}

// where returns the first record of an owner's RRset, be it a RRSIG, nil if there is none.
func (b *Builder) where(key []byte, typ uint16) *record {
	for i := b.from(key); i < len(b.records) && bytes.Equal(b.key(&b.records[i]), key); i++ {
		if b.records[i].set == typ {
			return &b.records[i]
		}
	}
	return nil
}

// below returns the records at and below an owner.
func (b *Builder) below(key []byte) []record {
	at := b.from(key)
	n := 0
	for at+n < len(b.records) && bytes.HasPrefix(b.key(&b.records[at+n]), key) {
		n++
	}
	return b.records[at : at+n]
}

// ofType returns an owner's records of a type.
func (b *Builder) ofType(key []byte, typ uint16) []record {
	all := b.records[b.from(key):]
	is := func(r record) bool { return r.typ == typ }
	if len(all) == 0 {
		return nil
	}
	all = all[:ownerLen(all)]
	at := max(0, slices.IndexFunc(all, is))
	n := 0
	for at+n < len(all) && is(all[at+n]) && bytes.Equal(b.key(&all[at+n]), key) {
		n++
	}
	return all[at : at+n]
}

// reportAll adds a finding about each of several records.
func (b *Builder) reportAll(records []record, severity Severity, rule, detail string) {
	for i := range records {
		b.report(&records[i], severity, rule, detail)
	}
}

// An arena keeps pieces of at most 65535 octets in ever larger blocks, so that a million small pieces are no million
// objects, and a small zone takes little.
type arena struct {
	blocks [][]byte
}

// pieceRef is where a piece begins: the block, and the offset in it in units.
type pieceRef uint32

// An arena's first and largest block.
const (
	minBlock  = 1 << 10
	maxBlock  = 1 << 20
	unitsBits = 18 // of the offset in a pieceRef: maxBlock / unit
)

// add keeps a copy.
func (a *arena) add(piece []byte) pieceRef {
	last := len(a.blocks) - 1
	if size := align(2 + len(piece)); last < 0 || cap(a.blocks[last])-len(a.blocks[last]) < size {
		room := minBlock
		if last >= 0 {
			room = min(max(minBlock, 2*cap(a.blocks[last])), maxBlock)
		}
		a.blocks = append(a.blocks, make([]byte, 0, max(room, size)))
		last++
	}
	block := a.blocks[last]
	at := len(block)
	block = append(binary.LittleEndian.AppendUint16(block, uint16(len(piece))), piece...)
	a.blocks[last] = block[:align(len(block))]
	return pieceRef(last<<unitsBits | at/unit)
}

func (a *arena) at(r pieceRef) []byte {
	block := a.blocks[r>>unitsBits]
	at := int(r&(1<<unitsBits-1)) * unit
	end := at + 2 + int(binary.LittleEndian.Uint16(block[at:]))
	return block[at+2 : end : end]
}

// full reports whether an arena has no place for so many blocks more.
func (a *arena) full(more int) bool { return len(a.blocks)+more >= 1<<(32-unitsBits) }

// extend adds a copy of another arena's blocks; what is added to references into that makes them such into this one.
func (a *arena) extend(other *arena) pieceRef {
	shift := pieceRef(len(a.blocks) << unitsBits)
	for _, block := range other.blocks {
		a.blocks = append(a.blocks, bytes.Clone(block))
	}
	return shift
}

// reset forgets all pieces. It keeps the largest block, so that an arena used again for as much has one.
func (a *arena) reset() {
	if last := len(a.blocks) - 1; last >= 0 {
		a.blocks = append(a.blocks[:0], a.blocks[last][:0])
	}
}
