package xfr

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/rdata"
	"github.com/coredns-anycast/coredns-anycast/internal/zone"
)

// Limits bound what a primary can make us do.
type Limits struct {
	Octets  int64         // of the messages of one transfer
	Records int           // of a zone
	Time    time.Duration // of one transfer
	Stall   time.Duration // for a connection, and for each message
}

// Version is that of a zone that we have.
type Version struct {
	Serial  uint32
	Records int
}

// transfer takes the messages that answer an AXFR or IXFR request (RFC 5936, RFC 1995), whatever they are, and makes
// records or differences of them. It checks what can be seen of the stream by itself; whether the zone makes sense is the
// builder's business, and whether differences fit is that of changes.
type transfer struct {
	question question
	have     Version // what differences are asked from, for IXFR
	source   string  // whom findings name
	limits   Limits
	verify   *verifier

	state   state
	octets  int64
	records int
	soa     *dns.SOA // first record, of the zone as it will be
	first   resource // the same
	origin  []byte   // of the zone, in wire format and lower case
	odd     oddities
	at      uint32 // serial that the difference being read leads to; before any, have
	builder *zone.Builder
	changes *changes
}

type state int

const (
	expectSOA state = iota // the first record
	expectSecond
	inZone    // AXFR, or IXFR answered like one
	deletions // of a difference
	additions
	complete
	current // IXFR: there is nothing newer
)

func newTransfer(q question, have Version, source string, limits Limits, verify *verifier) *transfer {
	origin, _ := rdata.AppendName(nil, q.name, ".")
	return &transfer{question: q, have: have, at: have.Serial, source: source, limits: limits, verify: verify, origin: origin}
}

// oddities are the records of a transfer that were not taken as they came, as BIND, Knot and NSD do it too: one such
// must not keep a whole zone back.
type oddities struct {
	outOfZone counted // dropped: they are no part of the zone (RFC 5936 3.1)
	largeTTL  counted // taken with TTL 0 (RFC 2181 8)
}

// counted is how many records there were of a kind, and the first one.
type counted struct {
	count int
	first string
}

func (c *counted) note(r *resource) {
	if c.count++; c.count == 1 {
		c.first = r.name() + " " + rdata.TypeString(r.typ)
	}
}

// warnings says what was odd.
func (o *oddities) warnings() (list []string) {
	if c := o.outOfZone; c.count > 0 {
		list = append(list, fmt.Sprintf("%d records that are not in the zone were dropped, the first one %s", c.count, c.first))
	}
	if c := o.largeTTL; c.count > 0 {
		list = append(list, fmt.Sprintf("%d records with a TTL above 2147483647 were taken with TTL 0 (RFC 2181 8), the first one %s", c.count, c.first))
	}
	return list
}

// message takes the next message. The transfer is over when done; if it is not current, what came is in builder or changes.
func (t *transfer) message(raw []byte) (done bool, err error) {
	if t.octets += int64(len(raw)); t.octets > t.limits.Octets {
		return false, fmt.Errorf("more than %d octets", t.limits.Octets)
	}
	first := t.state == expectSOA
	bare, err := t.verify.message(raw)
	if err != nil {
		return false, err
	}
	at, err := t.question.checkAnswer(bare, first)
	if err != nil {
		return false, err
	}
	if err := answers(bare, at, t.record); err != nil {
		return false, err
	}
	if t.records == 0 { // later ones may be empty: some servers send such to keep a connection alive
		return false, errors.New("a first message without a record")
	}
	if first && t.state == expectSecond && t.question.typ == dns.TypeIXFR && !zone.Newer(t.soa.Serial, t.have.Serial) {
		t.state = current
	}
	if t.state != complete && t.state != current {
		return false, nil
	}
	return true, t.verify.end()
}

// record takes one record.
func (t *transfer) record(r *resource) error {
	if t.records++; t.records > t.limits.Records {
		return fmt.Errorf("more than %d records", t.limits.Records)
	}
	if r.class != dns.ClassINET {
		return fmt.Errorf("%s: a record of class %s", r.name(), dns.Class(r.class))
	}
	if !t.inZone(r.owner) {
		if t.state == expectSOA {
			return fmt.Errorf("%s is not in the zone", r.name())
		}
		t.odd.outOfZone.note(r)
		return nil
	}
	if r.ttl > math.MaxInt32 {
		t.odd.largeTTL.note(r)
		r.ttl = 0
	}
	var soa *dns.SOA
	if r.typ == dns.TypeSOA {
		var err error
		if soa, err = r.soa(); err != nil {
			return err
		}
		if r.name() != t.question.name {
			return fmt.Errorf("%s: a SOA record below the zone's origin", r.name())
		}
	}
	switch t.state {
	case expectSOA:
		if soa == nil {
			return fmt.Errorf("it begins with a %s record: want the zone's SOA (RFC 5936 2.2)", rdata.TypeString(r.typ))
		}
		t.soa, t.first, t.state = soa, *r, expectSecond
		t.first.owner, t.first.data = bytes.Clone(r.owner), bytes.Clone(r.data)
		return nil
	case expectSecond:
		return t.second(r, soa)
	case inZone:
		return t.zoneRecord(r, soa)
	case deletions, additions:
		return t.difference(r, soa)
	}
	return errors.New("a record after the last one (RFC 5936 2.2)")
}

// inZone reports whether an owner is at or below the zone's origin.
func (t *transfer) inZone(owner []byte) bool {
	at := 0
	for len(owner)-at > len(t.origin) {
		at += 1 + int(owner[at])
	}
	return bytes.Equal(lower(owner[at:]), t.origin)
}

// second takes the record that tells differences from a whole zone (RFC 1995 4).
func (t *transfer) second(r *resource, soa *dns.SOA) error {
	if t.question.typ == dns.TypeIXFR && soa != nil {
		if soa.Serial != t.have.Serial {
			return fmt.Errorf("differences from serial %d, and they were asked from %d (RFC 1995 4)", soa.Serial, t.have.Serial)
		}
		t.changes = newChanges(max(10_000, 2*t.have.Records))
		t.state = deletions
		return t.changes.delete(r)
	}
	t.builder = zone.NewBuilder()
	t.add(&t.first, 1)
	t.state = inZone
	return t.zoneRecord(r, soa)
}

func (t *transfer) add(r *resource, number int) {
	t.builder.AddWire(r.owner, r.typ, r.ttl, r.data, t.source, number)
}

func (t *transfer) zoneRecord(r *resource, soa *dns.SOA) error {
	if soa == nil {
		t.add(r, t.records)
		return nil
	}
	if !sameSOA(soa, t.soa) {
		return fmt.Errorf("it begins with the SOA of serial %d and ends with another one, of serial %d (RFC 5936 2.2)", t.soa.Serial, soa.Serial)
	}
	t.state = complete
	return nil
}

// difference takes a record of an incremental transfer: SOA from, deletions, SOA to, additions, and so on (RFC 1995 4).
func (t *transfer) difference(r *resource, soa *dns.SOA) error {
	switch {
	case soa == nil && t.state == deletions:
		return t.changes.delete(r)
	case soa == nil:
		return t.changes.add(r)
	case t.state == deletions:
		if !zone.Newer(soa.Serial, t.at) {
			return fmt.Errorf("a difference from serial %d to %d, which is not above it (RFC 1982)", t.at, soa.Serial)
		}
		t.at, t.state = soa.Serial, additions
		return t.changes.add(r)
	case soa.Serial != t.at:
		return fmt.Errorf("a difference from serial %d after one to %d (RFC 1995 4)", soa.Serial, t.at)
	case t.at == t.soa.Serial:
		if !sameSOA(soa, t.soa) {
			return fmt.Errorf("two SOA records of serial %d that differ", soa.Serial)
		}
		t.state = complete
		return nil
	}
	t.state = deletions
	return t.changes.delete(r)
}

// sameSOA reports whether two SOA records say the same. Their TTL may differ: some servers lower that of the last one.
func sameSOA(a, b *dns.SOA) bool {
	return a.Serial == b.Serial && a.Refresh == b.Refresh && a.Retry == b.Retry && a.Expire == b.Expire && a.Minttl == b.Minttl &&
		dns.CanonicalName(a.Ns) == dns.CanonicalName(b.Ns) && dns.CanonicalName(a.Mbox) == dns.CanonicalName(b.Mbox)
}
