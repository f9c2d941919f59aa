package zonefile

import (
	"bytes"
	"testing"

	"github.com/miekg/dns"
)

// FuzzPlainRdata compares our own reading of the commonest types with that of the dns package: what we take it takes too,
// and makes the same octets of it.
func FuzzPlainRdata(f *testing.F) {
	types := []uint16{dns.TypeA, dns.TypeAAAA, dns.TypeNS, dns.TypeCNAME}
	for i, texts := range [][]string{{"192.0.2.1", "192.0.2.01", "1.2.3", "::1", "256.0.0.1", "1.2.3.4.5", "+1.2.3.4"},
		{"::1", "2001:DB8::", "::ffff:192.0.2.1", "fe80::1%eth0", "192.0.2.1", "1:2:3:4:5:6:7:8", "12345::"},
		{"ns", "Ns.Example.", "@", ".", "a..b", `\097\.b`, `\300`, `a\`, "*.x", "$x", "a@b"}, {"x.y", `\@`}} {
		for _, text := range texts {
			f.Add(uint8(i), text)
		}
	}
	f.Fuzz(func(t *testing.T, which uint8, text string) {
		s := scanner{}
		if err := s.split(text + "\n"); err != nil || len(s.entry.tokens) != 1 {
			return
		}
		h := dns.RR_Header{Name: "example.", Rrtype: types[int(which)%len(types)], Class: dns.ClassINET}
		var p parser
		ours, ok := p.plainRdata(&h, s.entry.tokens, "example.")
		if !ok {
			return
		}
		rr, err := parseRdata(h, s.entry.tokens, "example.")
		if err != nil {
			t.Fatalf("%s %q: %v, where we read %x", dns.Type(h.Rrtype), text, err, ours)
		}
		if theirs := wire(rr); !bytes.Equal(ours, theirs) {
			t.Errorf("%s %q: %x, not %x", dns.Type(h.Rrtype), text, ours, theirs)
		}
	})
}
