package zone_test

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/zone"
)

var source = [32]byte{1, 2, 3}

// compiledZones are small zones with everything in them, signed in each way.
func compiledZones(t testing.TB) map[string]*zone.Zone {
	zones := map[string]*zone.Zone{}
	for _, flavour := range []string{"unsigned", nsec, nsec3, optOut} {
		z := parse(t, strings.ReplaceAll(fuzzZone, "ORIG.", "example."))
		if flavour != "unsigned" {
			var records []zone.Record
			for _, rr := range sign("example.", slices.Collect(z.Records()), flavour) {
				records = append(records, zone.Record{RR: rr})
			}
			var found []zone.Finding
			if z, found = zone.New("example.", records); z == nil {
				t.Fatal(found)
			}
		}
		zones[flavour] = z
	}
	return zones
}

func compiled(t testing.TB, z *zone.Zone) []byte {
	var b bytes.Buffer
	if err := z.WriteImage(&b, source); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func fromImage(b []byte, source [32]byte) (*zone.Zone, error) {
	return zone.FromImage(bytes.NewReader(b), int64(len(b)), source)
}

func TestACompiledZoneIsTheZone(t *testing.T) {
	for flavour, z := range compiledZones(t) {
		back, err := fromImage(compiled(t, z), source)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := text(back), text(z); got != want || back.Serial() != z.Serial() || back.Len() != z.Len() || back.Origin() != z.Origin() {
			t.Errorf("%s: %d %d %s\n%s\nnot\n%s", flavour, back.Serial(), back.Len(), back.Origin(), got, want)
		}
		for _, q := range everyQuery(t, z) {
			want, got := z.Lookup(q), back.Lookup(q)
			wire, _ := want.AppendTo(nil, &zone.Request{Query: q}, 4096)
			if again, _ := got.AppendTo(nil, &zone.Request{Query: q}, 4096); !bytes.Equal(wire, again) {
				t.Errorf("%s: %q %d: %x, not %x", flavour, q.Name, q.Type, again, wire)
			}
		}
	}
}

func text(z *zone.Zone) string {
	var b strings.Builder
	for rr := range z.Records() {
		b.WriteString(rr.String() + "\n")
	}
	return b.String()
}

// everyQuery asks for every owner, above it, below it and beside it.
func everyQuery(t testing.TB, z *zone.Zone) []zone.Query {
	var qs []zone.Query
	for rr := range z.Records() {
		name := pack(t, rr.Header().Name)
		for _, name := range [][]byte{name, append([]byte("\x03new"), name...), append([]byte("\x01*"), name...), name[1+int(name[0]):]} {
			for _, typ := range []uint16{rr.Header().Rrtype, dns.TypeA, dns.TypeDS, dns.TypeANY} {
				qs = append(qs, zone.Query{Name: name, Type: typ, Class: dns.ClassINET, DO: true})
			}
		}
	}
	return qs
}

// TestADamagedCompiledZoneIsRefused flips every octet and cuts at every length.
func TestADamagedCompiledZoneIsRefused(t *testing.T) {
	for flavour, z := range compiledZones(t) {
		b := compiled(t, z)
		for i := range b {
			damaged := bytes.Clone(b)
			damaged[i] ^= byte(1 << (i % 8))
			if _, err := fromImage(damaged, source); err != zone.ErrCompiled {
				t.Fatalf("%s: octet %d is changed: %v", flavour, i, err)
			}
			if _, err := fromImage(b[:i:i], source); err != zone.ErrCompiled {
				t.Fatalf("%s: cut at %d: %v", flavour, i, err)
			}
		}
		if _, err := fromImage(append(bytes.Clone(b), 0), source); err != zone.ErrCompiled {
			t.Errorf("%s: longer: %v", flavour, err)
		}
		if _, err := fromImage(b, [32]byte{9}); err != zone.ErrCompiled {
			t.Errorf("%s: another source: %v", flavour, err)
		}
	}
}

// TestADamagedImageIsReadInBounds goes past the checksum: whatever octet of an image changes, whatever its value becomes,
// and wherever it ends, questions, packets and the list of records neither panic nor hang.
func TestADamagedImageIsReadInBounds(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 8))
	for _, z := range compiledZones(t) {
		image, qs := zone.Image(z), everyQuery(t, z)
		var a zone.Answer
		var wire []byte
		use := func(b []byte) {
			damaged, err := zone.Open(b)
			if err != nil {
				return
			}
			for range 8 {
				q := qs[r.IntN(len(qs))]
				damaged.LookupInto(&q, &a)
				wire, _ = a.AppendTo(wire[:0], &zone.Request{Query: q}, 1+r.IntN(4096))
				a.Msg(&dns.Msg{Question: []dns.Question{{Name: ".", Qtype: q.Type, Qclass: q.Class}}}, 4096)
			}
			n := 0
			for range damaged.Records() {
				if n++; n > 10*len(image) {
					t.Fatal("records without end")
				}
			}
		}
		for i := range image {
			for _, value := range []byte{0, 0xff, byte(r.IntN(256))} {
				damaged := bytes.Clone(image)
				damaged[i] = value
				use(damaged)
			}
			use(image[:i:i])
		}
		for range 3000 {
			damaged := bytes.Clone(image)
			for range 1 + r.IntN(8) {
				if at := r.IntN(len(damaged)); r.IntN(2) == 0 {
					damaged[at] = byte(r.IntN(256))
				} else if at+4 <= len(damaged) {
					binary.LittleEndian.PutUint32(damaged[at:], uint32(r.IntN(len(damaged))))
				}
			}
			use(damaged)
		}
	}
}

func FuzzImage(f *testing.F) {
	zones := compiledZones(f)
	for _, z := range zones {
		f.Add(zone.Image(z))
	}
	qs := everyQuery(f, zones[nsec3])
	f.Fuzz(func(t *testing.T, b []byte) {
		z, err := zone.Open(b)
		if err != nil {
			return
		}
		var a zone.Answer
		for i := range qs {
			z.LookupInto(&qs[i], &a)
			a.AppendTo(nil, &zone.Request{Query: qs[i]}, 4096)
		}
		n := 0
		for range z.Records() {
			if n++; n > 10000 {
				break // many owners may have the same large RRset
			}
		}
	})
}
