package zonefile

import (
	"bufio"
	"bytes"
	"fmt"
	"io"

	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/zone"
)

// Write writes a zone as canonical text: a record a line in the order of Zone.Records, every name absolute, TTL and class
// on every line, no directive. Zones with equal records give equal octets, and Parse makes an equal zone of them.
func Write(w io.Writer, z *zone.Zone) error {
	out := bufio.NewWriterSize(w, 1<<16)
	for rr := range z.Records() {
		if _, err := out.WriteString(text(rr)); err != nil {
			return err
		}
		if err := out.WriteByte('\n'); err != nil {
			return err
		}
	}
	return out.Flush()
}

// text is the line of a record. The presentation form of a type counts only if it reads back as what it was; otherwise
// the generic form does (RFC 3597 5).
func text(rr dns.RR) string {
	if _, unknown := rr.(*dns.RFC3597); !unknown {
		line := escapeDollar(rr.String())
		if trusted(rr) || readsBack(rr, line) {
			return line
		}
	}
	h := rr.Header()
	rdata := wire(rr)
	head := fmt.Sprintf("%s\t%d\tIN\tTYPE%d\t\\# %d", escapeDollar(h.Name), h.Ttl, h.Rrtype, len(rdata))
	if len(rdata) == 0 {
		return head
	}
	return fmt.Sprintf("%s %X", head, rdata)
}

// escapeDollar keeps an owner that begins with a dollar from being read as a directive.
func escapeDollar(line string) string {
	if line[0] == '$' {
		return `\` + line
	}
	return line
}

// trusted types make up most of a zone, and have a form without pitfalls.
func trusted(rr dns.RR) bool {
	switch rr.(type) {
	case *dns.A, *dns.AAAA, *dns.NS, *dns.CNAME, *dns.DS, *dns.RRSIG, *dns.NSEC, *dns.NSEC3:
		return true
	}
	return false
}

func readsBack(rr dns.RR, line string) bool {
	zp := dns.NewZoneParser(bytes.NewReader(append([]byte(line), '\n')), ".", "")
	back, ok := zp.Next()
	return ok && zp.Err() == nil && len(wire(rr)) > 0 && back.Header().Rrtype == rr.Header().Rrtype &&
		bytes.Equal(wire(rr), wire(back))
}

// wire is the RDATA in wire format, nil if it cannot be packed.
func wire(rr dns.RR) []byte {
	buf := make([]byte, 1<<16+300)
	end, err := dns.PackRR(rr, buf, 0, nil, false)
	if err != nil {
		return nil
	}
	_, rdata, err := dns.UnpackDomainName(buf, 0)
	if err != nil {
		return nil
	}
	return buf[rdata+10 : end]
}
