package xfr

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/rdata"
	"github.com/coredns-anycast/coredns-anycast/internal/zone"
)

const headerSize = 12

var errShort = errors.New("the message ends too early")

// skipName returns the offset past the name at an offset.
func skipName(raw []byte, at int) (int, error) {
	for at < len(raw) {
		switch c := raw[at]; {
		case c == 0:
			return at + 1, nil
		case c >= 0xc0: // a pointer ends the name (RFC 1035 4.1.4)
			if at+2 > len(raw) {
				return 0, errShort
			}
			return at + 2, nil
		case c > 63:
			return 0, errors.New("a label of an unknown kind")
		default:
			at += 1 + int(c)
		}
	}
	return 0, errShort
}

// skipQuestions returns the offset of the first record.
func skipQuestions(raw []byte) (int, error) {
	if len(raw) < headerSize {
		return 0, errShort
	}
	at := headerSize
	for range binary.BigEndian.Uint16(raw[4:]) {
		end, err := skipName(raw, at)
		if err != nil || end+4 > len(raw) {
			return 0, errShort
		}
		at = end + 4
	}
	return at, nil
}

// lastRecord returns where the last record begins, 0 if there is none, and where the message ends.
func lastRecord(raw []byte) (last, end int, err error) {
	at, err := skipQuestions(raw)
	if err != nil {
		return 0, 0, err
	}
	count := 0
	for section := 6; section < headerSize; section += 2 {
		count += int(binary.BigEndian.Uint16(raw[section:]))
	}
	for range count {
		last = at
		if at, err = skipName(raw, at); err != nil {
			return 0, 0, err
		}
		if at+10 > len(raw) {
			return 0, 0, errShort
		}
		at += 10 + int(binary.BigEndian.Uint16(raw[at+8:]))
		if at > len(raw) {
			return 0, 0, errShort
		}
	}
	return last, at, nil
}

func recordType(raw []byte, at int) (uint16, error) {
	at, err := skipName(raw, at)
	if err != nil || at+2 > len(raw) {
		return 0, errShort
	}
	return binary.BigEndian.Uint16(raw[at:]), nil
}

func rcodeOf(raw []byte) int { return int(raw[3] & 0xf) }

// rcodeNote is what an error adds when the other end gave a reason.
func rcodeNote(raw []byte) string {
	if len(raw) < headerSize || rcodeOf(raw) == dns.RcodeSuccess {
		return ""
	}
	return ": the answer is " + rcodeName(rcodeOf(raw))
}

func rcodeName(rcode int) string {
	if name, ok := dns.RcodeToString[rcode]; ok {
		return name
	}
	return fmt.Sprintf("RCODE%d", rcode)
}

// question is what was asked, with the id that the answer must have.
type question struct {
	id   uint16
	name string // fully qualified, lower case
	typ  uint16
}

// checkAnswer demands that a message answer the question, and returns the offset of its records. The question section
// may be left out from the second message of a transfer on (RFC 5936 2.2.2).
func (q question) checkAnswer(raw []byte, first bool) (int, error) {
	if len(raw) < headerSize {
		return 0, errShort
	}
	bits := binary.BigEndian.Uint16(raw[2:])
	switch {
	case binary.BigEndian.Uint16(raw) != q.id:
		return 0, fmt.Errorf("the answer has id %d, and %d was asked", binary.BigEndian.Uint16(raw), q.id)
	case bits>>15 == 0 || bits>>11&0xf != dns.OpcodeQuery:
		return 0, errors.New("not an answer to a query")
	case rcodeOf(raw) != dns.RcodeSuccess:
		return 0, &rcodeError{rcodeOf(raw)}
	case bits>>9&1 != 0:
		return 0, errTruncated
	}
	count := binary.BigEndian.Uint16(raw[4:])
	if count > 1 || count == 0 && first {
		return 0, fmt.Errorf("%d questions in the answer", count)
	}
	at := headerSize
	if count == 1 {
		name, end, err := dns.UnpackDomainName(raw, at)
		if err != nil || end+4 > len(raw) {
			return 0, errShort
		}
		if typ := binary.BigEndian.Uint16(raw[end:]); dns.CanonicalName(name) != q.name || typ != q.typ || binary.BigEndian.Uint16(raw[end+2:]) != dns.ClassINET {
			return 0, fmt.Errorf("it answers another question: %s %s", name, dns.Type(typ))
		}
		at = end + 4
	}
	return at, nil
}

var errTruncated = errors.New("a truncated answer")

// rcodeError is a refusal by the other end.
type rcodeError struct{ rcode int }

func (e *rcodeError) Error() string { return "the answer is " + rcodeName(e.rcode) }

// resource is a resource record of a message.
type resource struct {
	owner      []byte // wire format, as it was written
	typ, class uint16
	ttl        uint32 // seconds
	data       []byte // RDATA, names expanded, all other octets as they came
}

// name is the owner for a person.
func (r *resource) name() string { return zone.NameString(r.owner) }

// soa is the record as a SOA.
func (r *resource) soa() (*dns.SOA, error) {
	h := dns.RR_Header{Name: r.name(), Rrtype: r.typ, Class: r.class, Ttl: r.ttl, Rdlength: uint16(len(r.data))}
	rr, _, err := dns.UnpackRRWithHeader(h, r.data, 0)
	soa, ok := rr.(*dns.SOA)
	if err != nil || !ok || len(r.data) < 22 {
		return nil, fmt.Errorf("%s: malformed SOA record", r.name())
	}
	return soa, nil
}

// answers calls each with every record of the answer section, whose parts are good until it returns.
func answers(raw []byte, at int, each func(*resource) error) error {
	var r resource
	for range binary.BigEndian.Uint16(raw[6:]) {
		var err error
		if r.owner, at, err = rdata.ExpandName(r.owner[:0], raw, at); err != nil {
			return fmt.Errorf("malformed record: %w", err)
		}
		if at+10 > len(raw) {
			return errShort
		}
		r.typ, r.class, r.ttl = binary.BigEndian.Uint16(raw[at:]), binary.BigEndian.Uint16(raw[at+2:]), binary.BigEndian.Uint32(raw[at+4:])
		end := at + 10 + int(binary.BigEndian.Uint16(raw[at+8:]))
		if end > len(raw) {
			return errShort
		}
		if r.data, err = rdata.Unpack(r.typ, raw, at+10, end); err != nil {
			return fmt.Errorf("%s %s: malformed record: %w", r.name(), rdata.TypeString(r.typ), err)
		}
		if err := each(&r); err != nil {
			return err
		}
		at = end
	}
	return nil
}
