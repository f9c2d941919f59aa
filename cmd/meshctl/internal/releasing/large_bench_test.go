package releasing_test

import (
	"bytes"
	"crypto/sha1"
	"encoding/base32"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/home"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/hometest"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/releasing"
	"github.com/coredns-anycast/coredns-anycast/internal/depot"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
	"github.com/coredns-anycast/coredns-anycast/internal/zone"
)

// BenchmarkAHundredOfAMillionNames is what a release costs a process that makes one after the other, of a zone of a million delegations with
// opt-out, of which one in ten is signed and a hundred got another DS record: by a pack, and with the whole text, as where a new base cannot
// be written beside; and that base, which is due once in hundreds of releases. The signatures are of an algorithm that is not verified here.
// "cpu-ms/op" is the processor time of the process, with its collector.
func BenchmarkAHundredOfAMillionNames(b *testing.B) {
	first := signedDelegations(b)
	for _, how := range []string{"packs", "text"} {
		b.Run(how, func(b *testing.B) {
			if how == "text" {
				releasing.SetDuePacks(b, 0)
			}
			h, lately := benchHome(b), releasing.NewLately()
			releaseLarge(b, h, first, lately)
			z, used := first, time.Duration(0)
			for b.Loop() {
				b.StopTimer()
				z = otherDigests(b, z)
				runtime.GC()
				used -= processorTime(b)
				b.StartTimer()
				made := releaseLarge(b, h, z, lately)
				used += processorTime(b)
				if made.Whole() != (how == "text") {
					b.Fatalf("%+v", made)
				}
			}
			b.ReportMetric(float64(used.Milliseconds())/float64(b.N), "cpu-ms/op")
		})
	}
	b.Run("base", func(b *testing.B) {
		releasing.SetDuePacks(b, 0)
		h, lately := benchHome(b), releasing.NewLately()
		z := first
		releaseLarge(b, h, z, lately)
		put := func(write func(io.Writer) error) (depot.Content, error) {
			r, err := h.Read(b.Context())
			hometest.Check(b, err)
			defer r.Close()
			return r.Repository().PutBeside(write)
		}
		var used time.Duration
		for b.Loop() {
			b.StopTimer()
			z = otherDigests(b, z)
			releaseLarge(b, h, z, lately)
			runtime.GC()
			b.StartTimer()
			used -= processorTime(b)
			lately.Base(b.Context(), func(f func()) { f() }, put, func(err error) { b.Error(err) })
			used += processorTime(b)
		}
		b.ReportMetric(float64(used.Milliseconds())/float64(b.N), "cpu-ms/op")
	})
}

func benchHome(b *testing.B) *home.Home {
	dir := filepath.Join(b.TempDir(), "mesh")
	w, err := hometest.Init(dir, time.Now)
	hometest.Check(b, err)
	hometest.Check(b, w.Close())
	hometest.Check(b, os.WriteFile(filepath.Join(dir, home.ConfigName), []byte("checks: {rules: {dnskey-unsupported: warning}}\n"), 0o600))
	return home.At(dir, time.Now)
}

func releaseLarge(b *testing.B, h *home.Home, z *zone.Zone, lately *releasing.Lately) (made release.Zone) {
	sources := []releasing.Source{{Origin: z.Origin(), Zone: z}}
	hometest.Check(b, h.Write(b.Context(), func(w *home.Writer) error {
		m, found, err := releasing.Make(b.Context(), w, sources, releasing.Options{Keep: true, Unattended: true, Now: true, Lately: lately})
		if err != nil {
			b.Fatal(err, found)
		}
		lately.Keep(sources, w.View().Manifest)
		made = m.Release.Zones[0]
		return nil
	}))
	if made.Root != z.Root() {
		b.Fatalf("%+v", made)
	}
	return made
}

var benchBegan = time.Now()

// Of the zone of the benchmark: its names, its apex in wire format, and the algorithm of its keys, Ed448.
const (
	benchNames     = 1_000_000
	benchApex      = "\x07example\x00"
	benchAlgorithm = 16
)

var benchKey = append([]byte{1, 1, 3, benchAlgorithm}, bytes.Repeat([]byte{7}, 57)...)

func benchOwner(i int) []byte { return fmt.Appendf(nil, "\x08d%07d"+benchApex, i) }

// benchDS is a DS record of a name, another one in each version.
func benchDS(i int, version uint32) []byte {
	ds := append([]byte{0, 1, 13, 2}, make([]byte, 32)...)
	binary.BigEndian.PutUint32(ds[8:], uint32(i))
	binary.BigEndian.PutUint32(ds[16:], version)
	return ds
}

// benchSignature is an RRSIG of a type of an owner.
func benchSignature(owner []byte, typ uint16) []byte {
	labels := byte(1)
	if len(owner) > len(benchApex) {
		labels = 2
	}
	tag := uint32(0) // RFC 4034 B
	for i, c := range benchKey {
		tag += uint32(c) << (8 * (1 - i%2))
	}
	sig := append(binary.BigEndian.AppendUint16(nil, typ), benchAlgorithm, labels, 0, 0, 14, 16)
	sig = binary.BigEndian.AppendUint32(sig, uint32(benchBegan.Add(1000*time.Hour).Unix()))
	sig = binary.BigEndian.AppendUint32(sig, uint32(benchBegan.Add(-time.Hour).Unix()))
	sig = append(binary.BigEndian.AppendUint16(sig, uint16(tag+tag>>16)), benchApex...)
	return append(sig, make([]byte, 114)...)
}

func signedDelegations(b *testing.B) *zone.Zone {
	names := benchNames
	if testing.Short() {
		names = 20_000
	}
	builder := zone.NewBuilder()
	put := func(owner []byte, typ uint16, rdata []byte, signed bool) {
		builder.AddWire(owner, typ, 3600, rdata, "", 0)
		if signed {
			builder.AddWire(owner, dns.TypeRRSIG, 3600, benchSignature(owner, typ), "", 0)
		}
	}
	apex := []byte(benchApex)
	put(apex, dns.TypeSOA, append([]byte("\x02ns"+benchApex+"\x04mail"+benchApex), 0, 0, 0, 1, 0, 0, 28, 32, 0, 0, 14, 16, 0, 18, 117, 0, 0, 0, 14, 16), true)
	put(apex, dns.TypeNS, []byte("\x02ns\x04test\x00"), true)
	put(apex, dns.TypeNS, []byte("\x02ns\x05other\x00"), false)
	put(apex, dns.TypeDNSKEY, benchKey, true)
	put(apex, dns.TypeNSEC3PARAM, []byte{1, 0, 0, 0, 0}, true)
	type secure struct {
		hash  [sha1.Size]byte
		types string
	}
	chain := []secure{{sha1.Sum(apex), "\x00\x07\x22\x00\x00\x00\x00\x02\x90"}} // NS SOA RRSIG DNSKEY NSEC3PARAM
	for i := range names {
		owner := benchOwner(i)
		put(owner, dns.TypeNS, fmt.Appendf(nil, "\x01a\x08pool%04d\x04test\x00", i%5000), false)
		put(owner, dns.TypeNS, fmt.Appendf(nil, "\x01b\x08pool%04d\x04test\x00", i%5000), false)
		if i%10 == 0 {
			put(owner, dns.TypeDS, benchDS(i, 1), true)
			chain = append(chain, secure{sha1.Sum(owner), "\x00\x06\x20\x00\x00\x00\x00\x12"}) // NS DS RRSIG
		}
	}
	slices.SortFunc(chain, func(x, y secure) int { return bytes.Compare(x.hash[:], y.hash[:]) })
	for i := range chain {
		owner := append([]byte{32}, base32.HexEncoding.EncodeToString(chain[i].hash[:])...)
		rdata := append([]byte{1, 1, 0, 0, 0, 20}, chain[(i+1)%len(chain)].hash[:]...)
		put(append(owner, benchApex...), dns.TypeNSEC3, append(rdata, chain[i].types...), true)
	}
	z, found := builder.Build("example.")
	if z == nil {
		b.Fatal(found)
	}
	return z
}

// otherDigests is the next version of a zone, in which a hundred names have another DS record.
func otherDigests(b *testing.B, z *zone.Zone) *zone.Zone {
	d := &zone.Delta{From: z.Serial(), To: z.Serial() + 1}
	for r := range z.WireRecords() { // the SOA
		d.Removed = r.AppendTo(d.Removed)
		r.Data = bytes.Clone(r.Data)
		binary.BigEndian.PutUint32(r.Data[len(r.Data)-20:], d.To)
		d.Added = r.AppendTo(d.Added)
		break
	}
	for n := range 100 {
		i := 10 * n * max(1, z.Names()/1000/10)
		r := zone.WireRecord{Owner: benchOwner(i), Type: dns.TypeDS, TTL: 3600, Data: benchDS(i, d.From)}
		d.Removed = r.AppendTo(d.Removed)
		r.Data = benchDS(i, d.To)
		d.Added = r.AppendTo(d.Added)
	}
	next, found := z.Apply(d)
	if next == nil {
		b.Fatal(found)
	}
	return next
}
