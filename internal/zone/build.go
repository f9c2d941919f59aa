package zone

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/rdata"
)

// Builder collects records in wire format, so that whoever reads a large zone need not hold it as dns.RR. It takes some
// 30 octets a record beside its RDATA, and its owner once; Build adds the image, twice at its end.
type Builder struct {
	records  []record
	soa      int // index of the first SOA, or -1
	findings findings
	hasNSEC  bool
	hasNSEC3 bool
	badSOA   bool // see BadSOA

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
	owner, data, err := b.pack(rr)
	if err != nil {
		b.refuse(&r, h.Name, "record", err.Error())
		return
	}
	b.add(&r, owner, data)
}

// AddWire is Add of a record of class IN in wire format. The owner must be a valid name of at most 255 octets; owner and data, which
// is RDATA without compressed names, are copied.
func (b *Builder) AddWire(owner []byte, typ uint16, ttl uint32, data []byte, file string, line int) {
	r := b.place(file, line)
	r.typ, r.ttl = typ, ttl
	b.add(&r, owner, data)
}

// place begins a record with where it was read.
func (b *Builder) place(file string, line int) record {
	if len(b.files) == 0 || b.files[len(b.files)-1] != file {
		b.files = append(b.files, file)
	}
	return record{line: int32(line), file: int32(len(b.files) - 1)}
}

func (b *Builder) add(r *record, owner, data []byte) {
	switch {
	case r.ttl > 1<<31-1:
		b.refuse(r, nameString(owner), "ttl", fmt.Sprintf("TTL %d is above 2147483647 (RFC 2181 8)", r.ttl))
		return
	case isMeta(r.typ):
		b.refuse(r, nameString(owner), "meta-type", dns.Type(r.typ).String()+" is no type of zone data")
		return
	}
	if err := rdata.Check(r.typ, data); err != nil {
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
	r.name, r.data, r.set = b.lastName, b.datas.add(data), r.typ
	switch r.typ {
	case dns.TypeRRSIG:
		r.set = binary.BigEndian.Uint16(data)
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

// BadSOA says that an SOA record could not be read, of which there is a finding: that there is none is not told besides.
func (b *Builder) BadSOA() { b.badSOA = true }

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
func (b *Builder) pack(rr dns.RR) (owner, data []byte, err error) {
	end, err := dns.PackRR(rr, b.buf, 0, nil, false)
	if err != nil && len(b.buf) < maxRecord {
		b.buf = make([]byte, maxRecord)
		end, err = dns.PackRR(rr, b.buf, 0, nil, false)
	}
	if err != nil {
		return nil, nil, err
	}
	n := nameLen(b.buf, 0)
	data = b.buf[n+10 : end]
	if n > 255 {
		return nil, nil, errors.New("an owner of more than 255 octets (RFC 1035 2.3.4)")
	}
	if len(data) > 65535 {
		return nil, nil, fmt.Errorf("RDATA of %d octets", len(data))
	}
	return b.buf[:n], data, nil
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
		if !b.findings.errors { // else that may be why
			b.findings.add(Finding{File: b.file(), Rule: "soa", Severity: Error,
				Detail: "no SOA record, and so no origin: is this a whole zone file?"})
		}
		return nil
	}
	if b.givenUp() {
		return nil
	}
	b.keepInZone(appendKey(nil, apex))
	b.sort()
	b.dropEqual()
	z := b.encode(apex)
	if b.givenUp() {
		return nil
	}
	if z == nil || z.begin() != nil {
		b.findings.add(Finding{File: b.file(), Rule: "size", Severity: Error, Detail: errImage.Error()})
		return nil
	}
	b.check(z)
	if b.givenUp() {
		return nil
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
