package zonefile

import (
	"fmt"
	"strings"
	"testing"

	"github.com/coredns-anycast/coredns-anycast/internal/zone"
)

// FuzzPlainLine compares what plainLine takes with what the scanner and record make of the same line.
func FuzzPlainLine(f *testing.F) {
	for _, line := range []string{"a.example.\t300\tIN\tA\t192.0.2.1", "*.Example. 0 IN AAAA 2001:db8::1", "b.example. 2147483647 IN NS ns.test.",
		"b.example. 2147483648 IN NS .", "c.example. 1 IN DS 60485 5 1 2BB183AF5F22588179A53B0A98631FAD1A292118", "c.example. 1 IN DS 1 1 1 abc",
		"d.test. 1 IN CNAME x..y.", "d.example. 1 IN A 192.0.2.01 ;", "e.example. 1 IN A 1.2.3.4;c", "a\\.example. 1 IN A 1.2.3.4", "$e. 1 IN A 1.2.3.4",
		strings.Repeat("x", 64) + ".example. 1 IN A 1.2.3.4", strings.Repeat("x.", 124) + "example. 1 IN A 1.2.3.4", "f.example. 1 IN AAAA ::ffff:192.0.2.1",
		"g.example. 1 in A 192.0.2.1", "h.example. 1 IN A 192.0.2.1 x", " h.example. 1 IN A 192.0.2.1", "i.example. 1 IN DS 65536 1 1 00",
		"a.example. 1 IN RRSIG A 13 2 60 20330518033320 20231114221320 1 example. AAAA", "a.example. 1 IN RRSIG TYPE65280 13 2 60 20330518033320 1700000000 1 example. AA==",
		"a.example. 1 IN RRSIG NS 13 2 4294967295 20330518033320 20231314221320 1 example. AA=", "a.example. 1 IN RRSIG NS 13 2 4294967296 20330518033320 20231114221320 1 . A A A A",
		"a.example. 1 IN NSEC b.example. A NS RRSIG NSEC", "a.example. 1 IN NSEC b.example.", "a.example. 1 IN NSEC b.example. NSEC A", "a.example. 1 IN NSEC b.example. A CAA URI TA DLV",
		"0P9MHAVEQVM6T7VBL5LOP2U3T2RP3TOM.example. 1 IN NSEC3 1 1 12 AABBCCDD 2T7B4G4VSA5SMI47K61MV5BV1A22BOJR A RRSIG",
		"0p9mhaveqvm6t7vbl5lop2u3t2rp3tom.example. 1 IN NSEC3 1 0 0 - 2t7b4g4vsa5smi47k61mv5bv1a22bojr", "x.example. 1 IN NSEC3 1 0 0 - 2t7b4g4vsa5smi47k61mv5bv1a22bojR A A",
		"x.example. 1 IN NSEC3 1 0 65536 -- 2T7B4G4VSA5SMI47K61MV5BV1A22BOJR MX", "x.example. 1 IN NSEC3 1 0 1 ABC 2T7B4G4VSA5SMI47K61MV5BV1A22BOJR MX"} {
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

// TestPlainLinesArePlain: what a signed zone's canonical text consists of does not take the long way.
func TestPlainLinesArePlain(t *testing.T) {
	text := absoluteHead + "a.example. 1 IN NS ns.test.\na.example. 1 IN DS 1 13 2 " + strings.Repeat("0A", 32) + `
b.example. 1 IN A 192.0.2.1
b.example. 1 IN AAAA 2001:db8::1
b.example. 1 IN RRSIG A 13 2 60 20330518033320 20231114221320 1 example. ` + strings.Repeat("Ab/+", 22) + `
c.example. 1 IN CNAME b.example.
c.example. 1 IN NSEC example. CNAME RRSIG NSEC CAA
0p9mhaveqvm6t7vbl5lop2u3t2rp3tom.example. 1 IN NSEC3 1 1 12 aabbccdd 2t7b4g4vsa5smi47k61mv5bv1a22bojr NS SOA RRSIG DNSKEY NSEC3PARAM
`
	z, found := Parse(strings.NewReader(text), Options{})
	if z == nil {
		t.Fatal(found)
	}
	for line := range strings.Lines(written(t, z)) {
		p := &parser{opts: Options{MaxRecords: 1}, b: zone.NewBuilder()}
		if !strings.Contains(line, "\tSOA\t") && !p.plainLine(&file{}, []byte(line), 1) {
			t.Errorf("not read as plain: %s", line)
		}
	}
}
