package zonefile

import (
	"bytes"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/zone"
)

// FuzzPlainWrite compares what plainWriter writes with what Line says of the same record.
func FuzzPlainWrite(f *testing.F) {
	for _, line := range []string{"a.example. 300 IN A 192.0.2.1", "a.example. 4294967295 IN AAAA 2001:db8::1", "a.example. 0 IN AAAA ::ffff:192.0.2.1", "a.example. 0 IN AAAA ::192.0.2.1",
		"*.a.example. 1 IN NS Ns.Example.", "$a. 1 IN NS .", ". 1 IN NS a\\.b.example.", "a.example. 1 IN DS 60485 5 1 2BB183AF5F22588179A53B0A98631FAD1A292118",
		"a.example. 1 IN RRSIG A 13 2 60 20330518033320 20231114221320 1 example. AAAA", "a.example. 1 IN RRSIG TYPE65280 13 2 60 20330518033320 1700000000 1 . AA==",
		"a.example. 1 IN RRSIG NS 13 2 60 0 4294967295 1 example. AA==",
		"0p9mhaveqvm6t7vbl5lop2u3t2rp3tom.example. 1 IN NSEC3 1 1 12 aabbccdd 2t7b4g4vsa5smi47k61mv5bv1a22bojr A RRSIG",
		"x.example. 1 IN NSEC3 1 0 0 - 2t7b4g4vsa5smi47k61mv5bv1a22bojr", "x.example. 1 IN NSEC3 1 0 0 - 2t7b4g4vsa5smi47k61mv5bv1a22bojr A CAA TYPE65280"} {
		rr, err := dns.NewRR(line)
		if err != nil {
			f.Fatal(err)
		}
		owner := make([]byte, 255)
		n, err := dns.PackDomainName(rr.Header().Name, owner, 0, nil, false)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(owner[:n], rr.Header().Rrtype, rr.Header().Ttl, wire(rr))
	}
	f.Fuzz(func(t *testing.T, owner []byte, typ uint16, ttl uint32, rdata []byte) {
		if name, n, err := dns.UnpackDomainName(owner, 0); err != nil || n != len(owner) || strings.ToLower(name) != name || len(rdata) > 65535 {
			return // no owner that a zone has
		}
		var p plainWriter
		r := zone.WireRecord{Owner: owner, Type: typ, TTL: ttl, Data: rdata}
		rr := r.RR()
		if !bytes.Equal(wire(rr), rdata) {
			return // no RDATA that a zone has
		}
		for range 2 { // what is remembered from the last line changes nothing
			if line, ok := p.line(&r); ok && string(line) != Line(rr)+"\n" {
				t.Fatalf("%q, not %q", line, Line(rr))
			}
		}
	})
}

// TestMostOfAZoneIsPlain: the records that a large zone is made of are written without Line.
func TestMostOfAZoneIsPlain(t *testing.T) {
	for _, line := range []string{"a.example. 300 IN A 192.0.2.1", "a.example. 300 IN AAAA 2001:db8::1", "a.example. 1 IN NS Ns.Example.",
		"a.example. 1 IN DS 60485 5 1 2BB183AF5F22588179A53B0A98631FAD1A292118", "a.example. 1 IN RRSIG A 13 2 60 20330518033320 20231114221320 1 example. AAAA",
		"0p9mhaveqvm6t7vbl5lop2u3t2rp3tom.example. 1 IN NSEC3 1 1 0 - 2t7b4g4vsa5smi47k61mv5bv1a22bojr A RRSIG"} {
		rr, err := dns.NewRR(line)
		if err != nil {
			t.Fatal(err)
		}
		owner := make([]byte, 255)
		n, _ := dns.PackDomainName(rr.Header().Name, owner, 0, nil, false)
		var p plainWriter
		r := zone.WireRecord{Owner: owner[:n], Type: rr.Header().Rrtype, TTL: rr.Header().Ttl, Data: wire(rr)}
		if got, ok := p.line(&r); !ok || string(got) != Line(r.RR())+"\n" {
			t.Errorf("%s: %q, %v", line, got, ok)
		}
	}
}
