package xfr

import (
	"encoding/binary"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/primarytest"
	"github.com/coredns-anycast/coredns-anycast/internal/zone"
	"github.com/coredns-anycast/coredns-anycast/internal/zonefile"
)

// Whatever a primary sends, the transfer says no or gives a zone that can be served, and takes no more than its limits.
func FuzzTransfer(f *testing.F) {
	pack := func(messages ...[]dns.RR) (stream []byte) {
		for _, records := range messages {
			m := new(dns.Msg).SetQuestion("example.org.", dns.TypeAXFR)
			m.Id, m.Response, m.Authoritative, m.Compress, m.Answer = 1, true, true, true, records
			wire, err := m.Pack()
			if err != nil {
				f.Fatal(err)
			}
			stream = append(binary.BigEndian.AppendUint16(stream, uint16(len(wire))), wire...)
		}
		return stream
	}
	gone := primarytest.RR("old.example.org. 300 IN A 192.0.2.2")
	f.Add(pack([]dns.RR{primarytest.First, primarytest.Second, primarytest.Third, primarytest.First}), false, false)
	f.Add(pack([]dns.RR{primarytest.First}, []dns.RR{primarytest.Second, primarytest.Third}, []dns.RR{primarytest.First}), false, false)
	for _, typed := range [][]dns.RR{{primarytest.SOA("6"), primarytest.SOA("5"), gone, primarytest.SOA("6"), primarytest.Second, primarytest.SOA("6")}, {primarytest.SOA("5")}, {primarytest.SOA("6"), primarytest.Second, primarytest.SOA("6")}} {
		stream := pack(typed)
		binary.BigEndian.PutUint16(stream[2+headerSize+13:], dns.TypeIXFR)
		f.Add(stream, true, false)
	}
	signed := new(dns.Msg).SetQuestion("example.org.", dns.TypeAXFR)
	signed.Id, signed.Response, signed.Answer = 1, true, []dns.RR{primarytest.First, primarytest.Second, primarytest.Third, primarytest.First}
	wire, _, err := key256.sign(signed, []byte("mac"), time.Unix(1e9, 0))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(append(binary.BigEndian.AppendUint16(nil, uint16(len(wire))), wire...), false, true)

	z, _ := zonefile.Parse(strings.NewReader(differencesBase), zonefile.Options{})
	f.Fuzz(func(t *testing.T, stream []byte, incremental, sign bool) {
		q := question{1, "example.org.", dns.TypeAXFR}
		var have Version
		if incremental {
			q.typ, have = dns.TypeIXFR, Version{5, z.Len()}
		}
		var key *Key
		if sign {
			key = key256
		}
		limits := Limits{Octets: 1 << 16, Records: 100}
		tr := newTransfer(q, have, "fuzz", limits, newVerifier(key, []byte("mac"), func() time.Time { return time.Unix(1e9, 0) }))
		for len(stream) >= 2 {
			n := min(int(binary.BigEndian.Uint16(stream)), len(stream)-2)
			done, err := tr.message(stream[2 : 2+n])
			if tr.records > limits.Records+1 {
				t.Fatalf("%d records", tr.records)
			}
			if err != nil {
				return
			}
			if done {
				got, err := tr.finish(func() (*zone.Zone, error) { return z, nil })
				if err == nil && got.Zone != nil && got.Zone.Origin() != "example.org." {
					t.Fatalf("zone %s", got.Zone.Origin())
				}
				return
			}
			stream = stream[2+n:]
		}
	})
}
