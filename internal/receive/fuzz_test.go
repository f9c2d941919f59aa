package receive

import (
	"encoding/binary"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

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
	gone := rr("old.example.org. 300 IN A 192.0.2.2")
	f.Add(pack([]dns.RR{first, second, third, first}), false, false)
	f.Add(pack([]dns.RR{first}, []dns.RR{second, third}, []dns.RR{first}), false, false)
	for _, typed := range [][]dns.RR{{soa("6"), soa("5"), gone, soa("6"), second, soa("6")}, {soa("5")}, {soa("6"), second, soa("6")}} {
		stream := pack(typed)
		binary.BigEndian.PutUint16(stream[2+headerSize+13:], dns.TypeIXFR)
		f.Add(stream, true, false)
	}
	signed := new(dns.Msg).SetQuestion("example.org.", dns.TypeAXFR)
	signed.Id, signed.Response, signed.Answer = 1, true, []dns.RR{first, second, third, first}
	wire, _, err := key256.sign(signed, []byte("mac"), time.Unix(1e9, 0))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(append(binary.BigEndian.AppendUint16(nil, uint16(len(wire))), wire...), false, true)

	z, _ := zonefile.Parse(strings.NewReader(differencesBase), zonefile.Options{})
	f.Fuzz(func(t *testing.T, stream []byte, incremental, sign bool) {
		q := question{1, "example.org.", dns.TypeAXFR}
		var have version
		if incremental {
			q.typ, have = dns.TypeIXFR, version{5, z.Len()}
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
				if err == nil && got.zone != nil && got.zone.Origin() != "example.org." {
					t.Fatalf("zone %s", got.zone.Origin())
				}
				return
			}
			stream = stream[2+n:]
		}
	})
}

// Whatever a catalog zone has, its members are no more than are allowed, each a zone of its own, or it is broken.
func FuzzCatalog(f *testing.F) {
	head := "$ORIGIN catalog.test.\n@ 0 SOA . . 1 1 1 1 1\n@ 0 NS invalid.\n"
	for _, s := range catalogs {
		f.Add(s.text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		z, _ := zonefile.Parse(strings.NewReader(head+text), zonefile.Options{Origin: "catalog.test.", MaxRecords: 1000})
		if z == nil {
			return
		}
		list, err := members(z)
		if (list == nil) == (err == nil) {
			t.Fatalf("%v with error %v", list, err)
		}
		for name, m := range list {
			if name == "catalog.test." || !dns.IsFqdn(name) || m.unique == "" {
				t.Fatalf("member %q: %+v", name, m)
			}
		}
	})
}
