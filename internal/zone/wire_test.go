package zone_test

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/zone"
)

// TestRRsetsAreTheRecords: what RRsets yields in wire format is what Records yields, in strictly canonical order.
func TestRRsetsAreTheRecords(t *testing.T) {
	for _, flavour := range []string{nsec, nsec3, optOut} {
		var records []zone.Record
		want := map[string]int{}
		plain := slices.DeleteFunc(slices.Collect(parse(t, small).Records()), func(rr dns.RR) bool {
			return strings.Contains(rr.Header().Name, `\`) // which sign does not know
		})
		for _, rr := range sign("example.", plain, flavour) {
			records = append(records, zone.Record{RR: rr})
		}
		z, found := zone.New("example.", records)
		if z == nil {
			t.Fatal(found)
		}
		for rr := range z.Records() {
			want[string(packRR(t, rr))]++
		}
		var lastKey []byte
		var lastType uint16
		for s := range z.RRsets() {
			key := zone.AppendKey(nil, s.Owner)
			if c := bytes.Compare(lastKey, key); c > 0 || c == 0 && lastType >= s.Type {
				t.Errorf("%s: %s %s out of order", flavour, zone.NameString(s.Owner), dns.Type(s.Type))
			}
			lastKey, lastType = key, s.Type
			for rdata := range s.Data.All() {
				want[string(wireOf(s.Owner, s.Type, s.TTL, rdata))]--
			}
			for rdata := range s.Sigs.All() {
				want[string(wireOf(s.Owner, dns.TypeRRSIG, s.SigTTL, rdata))]--
			}
		}
		for record, count := range want {
			if count != 0 {
				t.Errorf("%s: %q is there %d times less than among the records", flavour, record, count)
			}
		}
		for range z.RRsets() {
			break // stopping early is fine
		}
	}
}

func wireOf(owner []byte, typ uint16, ttl uint32, rdata []byte) []byte {
	b := slices.Clone(owner)
	b = append(b, byte(typ>>8), byte(typ), 0, 1, byte(ttl>>24), byte(ttl>>16), byte(ttl>>8), byte(ttl))
	return append(append(b, byte(len(rdata)>>8), byte(len(rdata))), rdata...)
}

func packRR(t *testing.T, rr dns.RR) []byte {
	t.Helper()
	buf := make([]byte, 4096)
	n, err := dns.PackRR(rr, buf, 0, nil, false)
	if err != nil {
		t.Fatal(err)
	}
	return buf[:n]
}

func TestRdataNames(t *testing.T) {
	for text, want := range map[string][]string{
		"a. 1 SOA ns.B. host.c. 1 1 1 1 1": {"ns.b.", "host.c."},
		"a. 1 NS b.c.":                     {"b.c."},
		"a. 1 MX 10 b.c.":                  {"b.c."},
		"a. 1 SRV 1 2 3 b.c.":              {"b.c."},
		"a. 1 HTTPS 1 b.c. alpn=h2":        {"b.c."},
		`a. 1 NAPTR 1 2 "s" "x" "" b.c.`:   {"b.c."},
		"a. 1 RP b.c. d.":                  {"b.c.", "d."},
		"a. 1 A 192.0.2.1":                 nil,
		`a. 1 TXT "b.c."`:                  nil,
		"a. 1 NSEC b.c. A":                 nil, // the chain is no pointer to data
	} {
		rr, err := dns.NewRR(text)
		if err != nil {
			t.Fatal(err)
		}
		wire := packRR(t, rr)
		var got []string
		for _, name := range zone.RdataNames(nil, rr.Header().Rrtype, wire[3+10:]) {
			got = append(got, zone.NameString(name))
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", text, got, want)
		}
	}
}

// TestCanonicalForm folds the names of the types of RFC 4034 6.2, wherever they are in the RDATA, and nothing else.
func TestCanonicalForm(t *testing.T) {
	for _, c := range []struct {
		typ        uint16
		data, want string
	}{
		{dns.TypeMX, "AB\x02Xy\x00", "AB\x02xy\x00"},
		{dns.TypeNAPTR, "AAAA\x01S\x01X\x00\x02Xy\x00", "AAAA\x01S\x01X\x00\x02xy\x00"},
		{38, "\x40ABCDEFGH\x02Xy\x00", "\x40ABCDEFGH\x02xy\x00"}, // A6
		{38, "\x80\x02Xy\x00", "\x80\x02xy\x00"},
		{38, "\x00ABCDEFGHIJKLMNOP", "\x00ABCDEFGHIJKLMNOP"},
		{dns.TypeNSEC, "\x02Xy\x00\x00\x01\x40", "\x02Xy\x00\x00\x01\x40"},
		{dns.TypeTXT, "\x02Xy", "\x02Xy"},
		{dns.TypeLP, "AB\x02Xy\x00", "AB\x02Xy\x00"},
		{65280, "\x02Xy\x00", "\x02Xy\x00"},
	} {
		if got := string(zone.Canonical(c.typ, []byte(c.data))); got != c.want {
			t.Errorf("%s %q: %q, want %q", dns.Type(c.typ), c.data, got, c.want)
		}
	}
}
