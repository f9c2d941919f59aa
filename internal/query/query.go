// Package query reads a DNS request as it came, octet by octet and without allocating, and says what is to become of it. It
// makes the few responses that need no zone, and the OPT record of any response.
//
// It is pure: no network, clock or goroutine. plugin/sharedunicast calls it for every message that comes to a shared
// address, whatever answers it then.
package query

import (
	"encoding/binary"

	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/zone"
)

// Verdict is what is to become of a message.
type Verdict uint8

const (
	Ignore         Verdict = iota // it must not be answered: a response, or less than a header
	NotImplemented                // NOTIMP: an opcode that is neither QUERY nor NOTIFY (RFC 1035 4.1.1)
	Malformed                     // FORMERR: its header promises what no such request has
	Bare                          // no question, but a COOKIE option: it wants a server cookie (RFC 7873 5.4)
	Unusual                       // it is for whoever knows more of DNS than this package
	Plain                         // a query for data of class IN, with at most an OPT record of version 0: Query has all of it
)

const (
	HeadSize = 12 // octets of a message's header (RFC 1035 4.1.1)
	minSize  = 512
)

// Bits of a header's flags.
const (
	flagQR       = 1 << 15
	flagTC       = 1 << 9
	flagRD       = 1 << 8
	opcodeMask   = 15 << 11
	opcodeOffset = 11
)

// Query is a request, as far as its Verdict says that it could be read.
type Query struct {
	zone.Query        // of a Plain request; Name lies in the message
	ID         uint16 // of any but an ignored one
	Flags      uint16 // of any but an ignored one: the second 16 bits of the header

	EDNS    bool   // there is an OPT record
	Payload uint16 // octets that the client takes by UDP: 512 at least (RFC 6891 6.2.3)
	NSID    bool   // it asks for the server's name (RFC 5001)
	Version bool   // it asks for the zone's version (RFC 9660)
	Padding bool   // it is padded (RFC 7830)
	Cookie  []byte // the client's, and perhaps a server's (RFC 7873 4); in the message

	optAt int // where the OPT record begins, 0 if there is none or more is there
}

// RecursionDesired says whether RD is set, which the response copies (RFC 1035 4.1.1).
func (q *Query) RecursionDesired() bool { return q.Flags&flagRD != 0 }

// Parse reads a message. The Query refers to it, and must not be used once it has changed.
func (q *Query) Parse(b []byte) Verdict {
	if len(b) < HeadSize {
		return Ignore
	}
	*q = Query{ID: binary.BigEndian.Uint16(b), Flags: binary.BigEndian.Uint16(b[2:]), Payload: minSize}
	if q.Flags&flagQR != 0 {
		return Ignore
	}
	opcode := int(q.Flags & opcodeMask >> opcodeOffset)
	if opcode != dns.OpcodeQuery && opcode != dns.OpcodeNotify {
		return NotImplemented
	}
	questions, answers := binary.BigEndian.Uint16(b[4:]), binary.BigEndian.Uint16(b[6:])
	authority, additional := binary.BigEndian.Uint16(b[8:]), binary.BigEndian.Uint16(b[10:])
	// NOTIFY may have a SOA record as its answer (RFC 1996 3.7), IXFR one as its authority (RFC 1995 3); OPT and TSIG are
	// all that may be in addition.
	if questions > 1 || answers > 1 || authority > 1 || additional > 2 {
		return Malformed
	}
	if questions == 0 {
		if opcode == dns.OpcodeQuery && answers+authority == 0 && additional == 1 && q.opt(b[HeadSize:]) == whole && q.Cookie != nil {
			return Bare
		}
		return Malformed
	}
	if opcode != dns.OpcodeQuery || q.Flags&flagTC != 0 || answers+authority > 0 || additional > 1 {
		return Unusual
	}
	rest, ok := q.question(b[HeadSize:])
	if !ok || additional == 0 && len(rest) > 0 {
		return Unusual
	}
	if additional == 1 {
		switch q.opt(rest) {
		case wrong:
			return Malformed
		case other:
			return Unusual
		}
		q.optAt = len(b) - len(rest)
	}
	if q.Class != dns.ClassINET || !asksForData(q.Type) {
		return Unusual
	}
	return Plain
}

// question reads the question section.
func (q *Query) question(b []byte) (rest []byte, ok bool) {
	end := 0
	for {
		if end >= len(b) || b[end] > 63 || end > 254 {
			return nil, false // a compressed name or none
		}
		if b[end] == 0 {
			break
		}
		end += 1 + int(b[end])
	}
	end++
	if end > 255 || len(b) < end+4 {
		return nil, false
	}
	q.Name, q.Type, q.Class = b[:end], binary.BigEndian.Uint16(b[end:]), binary.BigEndian.Uint16(b[end+2:])
	return b[end+4:], true
}

// SetQuestion gives the question to a Query that Parse did not read as far as that: of an Unusual message that the dns package has
// unpacked.
func (q *Query) SetQuestion(question dns.Question) {
	name := make([]byte, 255)
	if n, err := dns.PackDomainName(question.Name, name, 0, nil, false); err == nil {
		q.Name, q.Type, q.Class = name[:n], question.Qtype, question.Qclass
	}
}

// asksForData reports whether a type is one of data, or ANY (RFC 6895 3.1).
func asksForData(qtype uint16) bool {
	return qtype == dns.TypeANY || qtype != dns.TypeNone && qtype != dns.TypeOPT && qtype != dns.TypeNXNAME && (qtype < 249 || qtype > 255)
}

const optHead = 11 // octets of an OPT record before its options (RFC 6891 6.1.2)

// reading is what came of reading an OPT record.
type reading uint8

const (
	other reading = iota // there is something else, or something beside it
	wrong                // an option of it is wrong
	whole
)

// opt reads what is an OPT record of version 0, and nothing behind it.
func (q *Query) opt(b []byte) reading {
	if len(b) < optHead || b[0] != 0 || binary.BigEndian.Uint16(b[1:]) != dns.TypeOPT || b[6] != 0 ||
		int(binary.BigEndian.Uint16(b[9:])) != len(b)-optHead {
		return other
	}
	q.EDNS, q.Payload, q.DO = true, max(minSize, binary.BigEndian.Uint16(b[3:])), b[7]&0x80 != 0
	for options := b[optHead:]; len(options) > 0; {
		if len(options) < 4 {
			return other
		}
		end := 4 + int(binary.BigEndian.Uint16(options[2:]))
		if end > len(options) {
			return other
		}
		if !q.option(binary.BigEndian.Uint16(options), options[4:end]) {
			return wrong
		}
		options = options[end:]
	}
	return whole
}

// option takes note of an option, and reports whether it is right. Those that are not known are no matter (RFC 6891 6.1.2).
func (q *Query) option(code uint16, data []byte) bool {
	switch code {
	case dns.EDNS0NSID:
		q.NSID = true
	case dns.EDNS0ZONEVERSION:
		q.Version = len(data) == 0
	case dns.EDNS0PADDING:
		q.Padding = true
	case dns.EDNS0COOKIE:
		if n := len(data); n != clientCookie && (n < clientCookie+minServer || n > clientCookie+maxServer) {
			return false
		}
		if q.Cookie == nil { // the first one counts (RFC 7873 5.2)
			q.Cookie = data
		}
	}
	return true
}

// WithoutOptions is the message that was read, without options that the dns package might not be able to unpack: in a
// request an option that is empty, or of another length than it should be, is no reason not to answer (RFC 6891 6.1.2). It
// is nil if the message is not a question and an OPT record.
func (q *Query) WithoutOptions(b []byte) []byte {
	if q.optAt == 0 {
		return nil
	}
	var nsid []byte
	if q.NSID {
		nsid = AppendOption(nil, dns.EDNS0NSID, "")
	}
	without := append([]byte(nil), b[:q.optAt+optHead-2]...)
	return append(binary.BigEndian.AppendUint16(without, uint16(len(nsid))), nsid...)
}

// AppendError appends a response of a header alone, with RD and the opcode of the request and no other flag.
func (q *Query) AppendError(dst []byte, rcode int) []byte {
	flags := flagQR | q.Flags&(opcodeMask|flagRD) | uint16(rcode)&15
	return append(dst, byte(q.ID>>8), byte(q.ID), byte(flags>>8), byte(flags), 0, 0, 0, 0, 0, 0, 0, 0)
}

// AsksForData reports whether the request is a query for data, or ANY, as far as it could be read.
func (q *Query) AsksForData() bool {
	return q.Flags&opcodeMask == 0 && (q.Name == nil || asksForData(q.Type))
}

// AppendEmpty appends a response to a query that has the question and an OPT record, if there is to be one, and TC if it is
// to say that there is more.
func (q *Query) AppendEmpty(dst []byte, rcode int, truncated bool, opt []byte) []byte {
	at := len(dst)
	dst = q.AppendError(dst, rcode)
	if truncated {
		dst[at+2] |= flagTC >> 8
	}
	if len(q.Name) > 0 {
		dst[at+5] = 1
		dst = append(dst, q.Name...)
		dst = append(dst, byte(q.Type>>8), byte(q.Type), byte(q.Class>>8), byte(q.Class))
	}
	if len(opt) > 0 {
		dst[at+11] = 1
		dst = append(dst, opt...)
	}
	return dst
}

// PayloadSize is the octets of a message by UDP that the server says it takes (RFC 6891 6.2.3), and the most that it sends
// whatever the client takes: beyond it a response may be fragmented on its way, and the shared address does no path MTU
// discovery (ROUTE-3).
const PayloadSize = 1232

// AppendOPT appends the OPT record of a response, with options that AppendOption has made.
func AppendOPT(dst []byte, rcode int, do bool, options []byte) []byte {
	flags := byte(0)
	if do {
		flags = 0x80
	}
	dst = append(dst, 0, 0, byte(dns.TypeOPT), byte(PayloadSize>>8), byte(PayloadSize&255), byte(rcode>>4), 0, flags, 0)
	return append(binary.BigEndian.AppendUint16(dst, uint16(len(options))), options...)
}

// AppendOption appends an option of an OPT record.
func AppendOption[T ~[]byte | ~string](dst []byte, code uint16, data T) []byte {
	dst = binary.BigEndian.AppendUint16(dst, code)
	return append(binary.BigEndian.AppendUint16(dst, uint16(len(data))), data...)
}
