package receive

import (
	"errors"
	"fmt"
	"time"

	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/zone"
)

// Limits bound what a primary can make us do.
type Limits struct {
	Octets  int64         // of the messages of one transfer
	Records int           // of a zone
	Time    time.Duration // of one transfer
	Stall   time.Duration // for a connection, and for each message
}

// newer reports whether serial a is above b (RFC 1982 3.2). Of two that are 2^31 apart neither is.
func newer(a, b uint32) bool { return a != b && a-b < 1<<31 }

// held is the zone that we have.
type held struct {
	serial  uint32
	records int
}

// transfer takes the messages that answer an AXFR or IXFR request (RFC 5936, RFC 1995), whatever they are, and makes
// records or differences of them. It checks what can be seen of the stream by itself; whether the zone makes sense is the
// builder's business, and whether differences fit is that of changes.
type transfer struct {
	question question
	have     held   // what differences are asked from, for IXFR
	source   string // whom findings name
	limits   Limits
	verify   *verifier

	state   state
	octets  int64
	records int
	soa     *dns.SOA // first record, of the zone as it will be
	at      uint32   // serial that the difference being read leads to; before any, have
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

func newTransfer(q question, have held, source string, limits Limits, verify *verifier) *transfer {
	return &transfer{question: q, have: have, at: have.serial, source: source, limits: limits, verify: verify}
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
	before := t.records
	if err := answers(bare, at, t.record); err != nil {
		return false, err
	}
	if t.records == before {
		return false, errors.New("a message without a record")
	}
	if first && t.state == expectSecond && t.question.typ == dns.TypeIXFR && !newer(t.soa.Serial, t.have.serial) {
		t.state = current
	}
	if t.state != complete && t.state != current {
		return false, nil
	}
	return true, t.verify.end()
}

// record takes one record.
func (t *transfer) record(rr dns.RR) error {
	if t.records++; t.records > t.limits.Records {
		return fmt.Errorf("more than %d records", t.limits.Records)
	}
	h := rr.Header()
	if h.Class != dns.ClassINET {
		return fmt.Errorf("%s: a record of class %s", h.Name, dns.Class(h.Class))
	}
	if !dns.IsSubDomain(t.question.name, h.Name) {
		return fmt.Errorf("%s is not in the zone", h.Name)
	}
	soa, isSOA := rr.(*dns.SOA)
	if isSOA && dns.CanonicalName(h.Name) != t.question.name {
		return fmt.Errorf("%s: a SOA record below the zone's origin", h.Name)
	}
	switch t.state {
	case expectSOA:
		if !isSOA {
			return fmt.Errorf("it begins with a %s record: want the zone's SOA (RFC 5936 2.2)", dns.Type(h.Rrtype))
		}
		t.soa, t.state = soa, expectSecond
		return nil
	case expectSecond:
		return t.second(rr, soa)
	case inZone:
		return t.zoneRecord(rr, soa)
	case deletions, additions:
		return t.difference(rr, soa)
	}
	return errors.New("a record after the last one (RFC 5936 2.2)")
}

// second takes the record that tells differences from a whole zone (RFC 1995 4).
func (t *transfer) second(rr dns.RR, soa *dns.SOA) error {
	if t.question.typ == dns.TypeIXFR && soa != nil {
		if soa.Serial != t.have.serial {
			return fmt.Errorf("differences from serial %d, and they were asked from %d (RFC 1995 4)", soa.Serial, t.have.serial)
		}
		t.changes = newChanges(max(10_000, 2*t.have.records))
		t.state = deletions
		return t.changes.delete(rr)
	}
	t.builder = zone.NewBuilder()
	t.builder.Add(t.soa, t.source, 1)
	t.state = inZone
	return t.zoneRecord(rr, soa)
}

func (t *transfer) zoneRecord(rr dns.RR, soa *dns.SOA) error {
	if soa == nil {
		t.builder.Add(rr, t.source, t.records)
		return nil
	}
	if !sameSOA(soa, t.soa) {
		return fmt.Errorf("it begins with the SOA of serial %d and ends with another one, of serial %d (RFC 5936 2.2)", t.soa.Serial, soa.Serial)
	}
	t.state = complete
	return nil
}

// difference takes a record of an incremental transfer: SOA from, deletions, SOA to, additions, and so on (RFC 1995 4).
func (t *transfer) difference(rr dns.RR, soa *dns.SOA) error {
	switch {
	case soa == nil && t.state == deletions:
		return t.changes.delete(rr)
	case soa == nil:
		return t.changes.add(rr)
	case t.state == deletions:
		if !newer(soa.Serial, t.at) {
			return fmt.Errorf("a difference from serial %d to %d, which is not above it (RFC 1982)", t.at, soa.Serial)
		}
		t.at, t.state = soa.Serial, additions
		return t.changes.add(rr)
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
	return t.changes.delete(rr)
}

// sameSOA reports whether two SOA records say the same. Their TTL may differ: some servers lower that of the last one.
func sameSOA(a, b *dns.SOA) bool {
	return a.Serial == b.Serial && a.Refresh == b.Refresh && a.Retry == b.Retry && a.Expire == b.Expire && a.Minttl == b.Minttl &&
		dns.CanonicalName(a.Ns) == dns.CanonicalName(b.Ns) && dns.CanonicalName(a.Mbox) == dns.CanonicalName(b.Mbox)
}
