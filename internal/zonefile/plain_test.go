package zonefile

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/zone"
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

// FuzzPlainLine compares what plainLine takes with what the scanner and record make of the same line.
func FuzzPlainLine(f *testing.F) {
	for _, line := range []string{"a.example.\t300\tIN\tA\t192.0.2.1", "*.Example. 0 IN AAAA 2001:db8::1", "b.example. 2147483647 IN NS ns.test.",
		"b.example. 2147483648 IN NS .", "c.example. 1 IN DS 60485 5 1 2BB183AF5F22588179A53B0A98631FAD1A292118", "c.example. 1 IN DS 1 1 1 abc",
		"d.test. 1 IN CNAME x..y.", "d.example. 1 IN A 192.0.2.01 ;", "e.example. 1 IN A 1.2.3.4;c", "a\\.example. 1 IN A 1.2.3.4", "$e. 1 IN A 1.2.3.4",
		strings.Repeat("x", 64) + ".example. 1 IN A 1.2.3.4", strings.Repeat("x.", 124) + "example. 1 IN A 1.2.3.4", "f.example. 1 IN AAAA ::ffff:192.0.2.1",
		"g.example. 1 in A 192.0.2.1", "h.example. 1 IN A 192.0.2.1 x", " h.example. 1 IN A 192.0.2.1", "i.example. 1 IN DS 65536 1 1 00"} {
		f.Add(line)
	}
	f.Fuzz(func(t *testing.T, line string) {
		if strings.Contains(line, "\n") {
			return
		}
		line += "\n"
		read := func(take func(p *parser, f *file) bool) (string, bool) {
			p := &parser{opts: Options{MaxRecords: 100, MaxEntry: 1 << 20}, b: zone.NewBuilder()}
			top := &file{}
			s := newScanner(strings.NewReader(head), 1<<20)
			defer s.close()
			p.read(s, nil, top)
			if !take(p, top) {
				return "", false
			}
			state := fmt.Sprint(top.owner, *p.lastTTL)
			z, found := p.b.Build("example.")
			if z == nil {
				return state + fmt.Sprint(found), true
			}
			return state + fmt.Sprint(found) + written(t, z), true
		}
		ours, ok := read(func(p *parser, f *file) bool { return p.plainLine(f, []byte(line), 5) })
		if !ok {
			return
		}
		theirs, ok := read(func(p *parser, f *file) bool {
			s := scanner{entry: entry{line: 5, inherited: line[0] == ' ' || line[0] == '\t'}}
			return s.split(line) == nil && len(s.entry.tokens) > 0 && p.entry(f, &s.entry) == nil
		})
		if !ok || ours != theirs {
			t.Errorf("%q:\n%s\nnot, %v,\n%s", line, ours, ok, theirs)
		}
	})
}
