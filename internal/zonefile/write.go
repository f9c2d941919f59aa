package zonefile

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"slices"
	"sync"

	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/rdata"
	"github.com/coredns-anycast/coredns-anycast/internal/zone"
)

// Write writes a zone as canonical text: a record a line in the order of Zone.Records, every name absolute, TTL and class
// on every line, no directive. Zones with equal records give equal octets, and Parse makes an equal zone of them.
func Write(w io.Writer, z *zone.Zone) error {
	out := outputs.Get().(*bufio.Writer)
	out.Reset(w)
	defer func() {
		out.Reset(nil)
		outputs.Put(out)
	}()
	var p plainWriter
	for r := range z.WireRecords() {
		line, ok := p.line(&r)
		if !ok {
			line = append(append(p.buf[:0], Line(r.RR())...), '\n')
		}
		if _, err := out.Write(line); err != nil {
			return err
		}
	}
	return out.Flush()
}

// outputs are used again, as buffers are.
var outputs = sync.Pool{New: func() any { return bufio.NewWriterSize(nil, bufferSize) }}

// Line is a record as Write puts it, without the newline. The presentation form of a type counts only if it reads back as what it was; otherwise
// the generic form does (RFC 3597 5).
func Line(rr dns.RR) string {
	if _, unknown := rr.(*dns.RFC3597); !unknown {
		line := escapeDollar(rr.String())
		if trusted(rr) || readsBack(rr, line) {
			return line
		}
	}
	h := rr.Header()
	octets := wire(rr)
	head := fmt.Sprintf("%s\t%d\tIN\tTYPE%d\t\\# %d", escapeDollar(h.Name), h.Ttl, h.Rrtype, len(octets))
	if len(octets) == 0 {
		return head
	}
	return fmt.Sprintf("%s %X", head, octets)
}

// escapeDollar keeps an owner that begins with a dollar from being read as a directive.
func escapeDollar(line string) string {
	if line[0] == '$' {
		return `\` + line
	}
	return line
}

// trusted types make up most of a zone, and have a form without pitfalls; but the type 0 has no mnemonic that is read.
func trusted(rr dns.RR) bool {
	switch rr := rr.(type) {
	case *dns.A, *dns.AAAA, *dns.NS, *dns.CNAME, *dns.DS:
		return true
	case *dns.RRSIG:
		return rr.TypeCovered != dns.TypeNone
	case *dns.NSEC:
		return !slices.Contains(rr.TypeBitMap, dns.TypeNone)
	case *dns.NSEC3:
		return !slices.Contains(rr.TypeBitMap, dns.TypeNone)
	}
	return false
}

// readsBack reports whether Parse would take a line for the record.
func readsBack(rr dns.RR, line string) bool {
	s := scanner{}
	if err := s.split(line + "\n"); err != nil || len(s.entry.tokens) == 0 {
		return false
	}
	var h dns.RR_Header
	words, _, err := parseHead(&h, s.entry.tokens[1:])
	if err != nil || len(words) == 0 || h.Rrtype != rr.Header().Rrtype {
		return false
	}
	back, err := rdata.Parse(h.Rrtype, words, ".")
	return err == nil && bytes.Equal(wire(rr), back)
}

// wire is the RDATA in wire format, nil if it cannot be packed.
func wire(rr dns.RR) []byte {
	buf := make([]byte, dns.Len(rr)+64)
	end, err := dns.PackRR(rr, buf, 0, nil, false)
	if err != nil { // the estimate was too low
		buf = make([]byte, 1<<17)
		end, err = dns.PackRR(rr, buf, 0, nil, false)
	}
	if err != nil {
		return nil
	}
	_, owner, err := dns.UnpackDomainName(buf, 0)
	if err != nil {
		return nil
	}
	return buf[owner+10 : end]
}
