package zone_test

import (
	"bytes"
	"encoding/base32"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"runtime"
	"runtime/metrics"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/zone"
)

// benchNames is the number of names of the large zone, and few with -short, to try the benchmarks themselves.
func benchNames() int {
	if testing.Short() {
		return 1000
	}
	return 1_000_000
}

// A benchWorld is a zone like a TLD's, after the serving bench: of 50 names one is a host; of ten delegations one has
// glue and one a DS record, the others share the servers of 5000 operators.
type benchWorld struct {
	names              int
	zone               *zone.Zone
	delegations, hosts []string
}

var benchCached *benchWorld

func largeBench(b *testing.B) *benchWorld {
	if benchCached == nil {
		benchCached = &benchWorld{names: benchNames()}
		benchCached.make(b)
	}
	b.ResetTimer()
	return benchCached
}

func (w *benchWorld) make(b testing.TB) {
	r := rand.New(rand.NewPCG(32, 58))
	builder := zone.NewBuilder()
	add := func(owner string, typ uint16, rdata []byte) {
		builder.AddWire(wireName(owner), typ, 86400, rdata, "", 0)
	}
	soa := append(append(wireName("ns1.dns.bench"), wireName("hostmaster.bench")...), make([]byte, 20)...)
	add("bench", dns.TypeSOA, soa)
	for i := range 6 {
		server := fmt.Sprintf("ns%d.dns.bench", i)
		add("bench", dns.TypeNS, wireName(server))
		add(server, dns.TypeA, []byte{203, 0, 113, byte(i)})
		add(server, dns.TypeAAAA, append(make([]byte, 15), byte(i)))
	}
	add("*.wild.bench", dns.TypeA, []byte{192, 0, 2, 99})
	syllables := strings.Fields("ka shi to mi na ro ku ha yo se re do pa tu wi gem lor zan bel fin")
	for i := range w.names {
		name := ""
		for range 2 + r.IntN(3) {
			name += syllables[r.IntN(len(syllables))]
		}
		name = fmt.Sprintf("%s%x.bench", name, i)
		if i%50 == 0 {
			w.hosts = append(w.hosts, name)
			add(name, dns.TypeA, binary.BigEndian.AppendUint32(nil, uint32(i)))
			add(name, dns.TypeAAAA, binary.BigEndian.AppendUint64(make([]byte, 8), uint64(i)))
			add(name, dns.TypeTXT, []byte("\x0bv=spf1 -all"))
			continue
		}
		w.delegations = append(w.delegations, name)
		if i%10 == 1 {
			add(name, dns.TypeNS, wireName("ns1."+name))
			add(name, dns.TypeNS, wireName("ns2."+name))
			add("ns1."+name, dns.TypeA, binary.BigEndian.AppendUint32(nil, uint32(i)))
			add("ns2."+name, dns.TypeAAAA, binary.BigEndian.AppendUint64(make([]byte, 8), uint64(i)))
		} else {
			pool := r.IntN(max(1, w.names/200))
			add(name, dns.TypeNS, wireName(fmt.Sprintf("a.pool%d.example", pool)))
			add(name, dns.TypeNS, wireName(fmt.Sprintf("b.pool%d.example", pool)))
		}
		if i%10 == 3 {
			ds := make([]byte, 36)
			binary.BigEndian.PutUint64(ds[20:], r.Uint64())
			add(name, dns.TypeDS, ds)
		}
	}
	z, found := builder.Build("bench.")
	if z == nil {
		b.Fatal(found)
	}
	w.zone = z
}

// wireName makes wire format of a name without escapes.
func wireName(name string) []byte {
	var n []byte
	for label := range strings.SplitSeq(name, ".") {
		n = append(append(n, byte(len(label))), label...)
	}
	return append(n, 0)
}

// queries makes queries like those of the serving bench: 70 % referrals, 15 % hosts, 15 % names that do not exist; kind
// may choose one of them.
func (w *benchWorld) queries(kind string) []zone.Query {
	r := rand.New(rand.NewPCG(1, 2))
	pick := func(from ...string) string { return from[r.IntN(len(from))] }
	qs := make([]zone.Query, 1<<17)
	names := make([]byte, 0, len(qs)*64) // one after the other, so that what is measured is not how the queries lie in memory
	for i := range qs {
		k := kind
		if k == "mix" {
			k = pick("referral", "referral", "referral", "referral", "referral", "referral", "referral", "referral", "referral",
				"referral", "referral", "referral", "referral", "referral", "host", "host", "host", "nx", "nx", "nx")
		}
		q := zone.Query{Class: dns.ClassINET, Type: dns.TypeA}
		switch k {
		case "referral":
			q.Name = wireName(pick("", "www.", "mail.") + pick(w.delegations...))
			q.Type = []uint16{dns.TypeA, dns.TypeAAAA, dns.TypeMX}[r.IntN(3)]
		case "host":
			q.Name = wireName(pick(w.hosts...))
			q.Type = []uint16{dns.TypeA, dns.TypeAAAA, dns.TypeTXT}[r.IntN(3)]
		default:
			q.Name = wireName(fmt.Sprintf("no%x.bench", r.IntN(1e9)))
		}
		names = append(names, q.Name...)
		q.Name = names[len(names)-len(q.Name) : len(names) : len(names)]
		qs[i] = q
	}
	return qs
}

// BenchmarkAnswer is a lookup and the packet of its response, in a zone of a million names.
func BenchmarkAnswer(b *testing.B) {
	for _, kind := range []string{"mix", "referral", "host", "nx"} {
		b.Run(kind, func(b *testing.B) {
			w := largeBench(b)
			qs := w.queries(kind)
			var a zone.Answer
			wire := make([]byte, 0, 4096)
			b.ReportAllocs()
			b.ResetTimer()
			for i := 0; b.Loop(); i++ {
				q := &qs[i&(len(qs)-1)]
				w.zone.LookupInto(q, &a)
				wire, _ = a.AppendTo(wire[:0], &zone.Request{Query: *q}, 1232)
			}
			b.ReportMetric(float64(w.zone.ImageSize())/(1<<20), "zone-MiB")
		})
	}
}

// BenchmarkManyZones is the same in one of few, and one of very many, zones: small ones of which all are asked in random
// order, ten of very many, and as many names in all in few large zones as there are in very many small ones.
func BenchmarkManyZones(b *testing.B) {
	for _, c := range []struct {
		name                string
		zones, asked, hosts int
	}{{"10", 10, 10, 1}, {"1000", 1000, 1000, 1}, {"10-of-100000", 100_000, 10, 1}, {"100000", 100_000, 100_000, 1}, {"10-large", 10, 10, 10_000}} {
		b.Run(c.name, func(b *testing.B) {
			if testing.Short() {
				c.zones, c.asked, c.hosts = min(c.zones, 1000), min(c.asked, 1000), min(c.hosts, 100)
			}
			zones, names := make([]*zone.Zone, c.zones), make([][]byte, 1<<16)
			for i := range zones {
				zones[i] = smallZone(b, i, c.hosts)
			}
			for i := range names {
				names[i] = wireName(fmt.Sprintf("www%d.zone%d.example", rand.IntN(c.hosts), rand.IntN(c.asked)))
			}
			set, err := zone.NewZones(zones...)
			if err != nil {
				b.Fatal(err)
			}
			var a zone.Answer
			wire := make([]byte, 0, 4096)
			b.ReportAllocs()
			b.ResetTimer()
			for i := 0; b.Loop(); i++ {
				q := zone.Query{Name: names[i&(len(names)-1)], Type: dns.TypeA, Class: dns.ClassINET}
				set.LookupInto(&q, &a)
				wire, _ = a.AppendTo(wire[:0], &zone.Request{Query: q}, 1232)
			}
		})
	}
}

func smallZone(b testing.TB, i, hosts int) *zone.Zone {
	builder := zone.NewBuilder()
	origin := wireName(fmt.Sprintf("zone%d.example", i))
	server := append([]byte("\x02ns"), origin...)
	builder.AddWire(origin, dns.TypeSOA, 300, append(append(append([]byte(nil), server...), server...), make([]byte, 20)...), "", 0)
	builder.AddWire(origin, dns.TypeNS, 300, server, "", 0)
	builder.AddWire(server, dns.TypeA, 300, []byte{192, 0, 2, 1}, "", 0)
	for host := range hosts {
		builder.AddWire(wireName(fmt.Sprintf("www%d.zone%d.example", host, i)), dns.TypeA, 300, []byte{192, 0, 2, 2}, "", 0)
	}
	z, found := builder.Build("")
	if z == nil {
		b.Fatal(found)
	}
	return z
}

// BenchmarkDenial is the proof that a name does not exist, beside the cost of one NSEC3 hash.
func BenchmarkDenial(b *testing.B) {
	for _, flavour := range []string{nsec, nsec3, optOut, "million"} {
		b.Run(flavour, func(b *testing.B) {
			var z *zone.Zone
			if flavour == "million" {
				z = hashedBench(b)
			} else {
				z = largeZone(b, flavour, 50000)
			}
			names := make([][]byte, 1<<16)
			for i := range names {
				names[i] = wireName(fmt.Sprintf("nx%d.example", rand.IntN(1e9)))
			}
			var a zone.Answer
			wire := make([]byte, 0, 4096)
			b.ReportAllocs()
			b.ResetTimer()
			for i := 0; b.Loop(); i++ {
				q := zone.Query{Name: names[i&(len(names)-1)], Type: dns.TypeA, Class: dns.ClassINET, DO: true}
				z.LookupInto(&q, &a)
				wire, _ = a.AppendTo(wire[:0], &zone.Request{Query: q}, 1232)
			}
		})
	}
	b.Run("hash", func(b *testing.B) {
		for b.Loop() {
			zone.Hash([]byte("\x05nx123\x07example\x00"), "\xab")
		}
	})
}

var hashedCached *zone.Zone

// hashedBench is a zone of a million names and as many NSEC3 records, signed with octets that verify nothing.
func hashedBench(b testing.TB) *zone.Zone {
	if hashedCached != nil {
		return hashedCached
	}
	builder := zone.NewBuilder()
	apex := wireName("example")
	signature := append(append(make([]byte, 18), apex...), make([]byte, 64)...) // ECDSA P-256 (RFC 6605)
	add := func(owner []byte, typ uint16, rdata []byte) {
		builder.AddWire(owner, typ, 300, rdata, "", 0)
		binary.BigEndian.PutUint16(signature, typ)
		builder.AddWire(owner, dns.TypeRRSIG, 300, signature, "", 0)
	}
	add(apex, dns.TypeSOA, append(append(wireName("ns.example"), wireName("mail.example")...), make([]byte, 20)...))
	add(apex, dns.TypeNS, wireName("ns0.example"))
	add(apex, dns.TypeNSEC3PARAM, []byte{1, 0, 0, 0, 0})
	hashes := make([][20]byte, 0, benchNames()+1)
	hashes = append(hashes, zone.Hash(apex, ""))
	for i := range benchNames() {
		name := wireName(fmt.Sprintf("ns%d.example", i))
		builder.AddWire(name, dns.TypeA, 300, []byte{192, 0, 2, 1}, "", 0)
		hashes = append(hashes, zone.Hash(name, ""))
	}
	slices.SortFunc(hashes, func(x, y [20]byte) int { return bytes.Compare(x[:], y[:]) })
	for i, h := range hashes {
		next := hashes[(i+1)%len(hashes)]
		add(wireName(base32.HexEncoding.EncodeToString(h[:])+".example"), dns.TypeNSEC3,
			append(append([]byte{1, 0, 0, 0, 0, 20}, next[:]...), 0, 1, 0x40))
	}
	z, found := builder.Build("example.")
	if z == nil {
		b.Fatal(found)
	}
	hashedCached = z
	return z
}

// benchZones are the zones of which changes are measured: of delegations, and with NSEC3.
var benchZones = []struct {
	name string
	make func(*testing.B) *zone.Zone
}{
	{"delegations", func(b *testing.B) *zone.Zone { return largeBench(b).zone }},
	{"signed", func(b *testing.B) *zone.Zone { return hashedBench(b) }},
}

// BenchmarkBuild makes a zone of a million names of records in wire format.
func BenchmarkBuild(b *testing.B) {
	for b.Loop() {
		w := benchWorld{names: benchNames()}
		w.make(b)
	}
}

// heap is the octets of all that is on the heap, with what is of no use and was not collected yet.
func heap() uint64 {
	sample := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}

// BenchmarkCompact puts a zone of a million names in order. It tells how much more memory is taken at most meanwhile, beside that of the zone.
func BenchmarkCompact(b *testing.B) {
	for _, c := range benchZones {
		b.Run(c.name, func(b *testing.B) {
			z := c.make(b)
			runtime.GC()
			least, most := heap(), uint64(0)
			b.ReportAllocs()
			b.ResetTimer()
			for b.Loop() {
				if z.Compact(func() bool { most = max(most, heap()); return true }) == nil {
					b.Fatal("nothing is made")
				}
				runtime.GC()
			}
			b.ReportMetric(float64(most-least)/(1<<20), "more-MiB")
			b.ReportMetric(float64(z.ImageSize())/(1<<20), "zone-MiB")
		})
	}
}

// BenchmarkApply changes 100 names of a million, the SOA among them, again and again, in a zone of delegations and in one with NSEC3. The zone
// is put in order beside when it is fragmented. The longest of all steps is told, and how often it was put in order: -benchtime 5000x is some times.
func BenchmarkApply(b *testing.B) {
	for _, c := range benchZones {
		b.Run(c.name, func(b *testing.B) {
			z := c.make(b)
			deltas := benchDeltas(b, z, 100)
			b.ReportAllocs()
			b.ResetTimer()
			var making chan *zone.Zone
			var longest time.Duration
			compacted := 0
			for i := 0; b.Loop(); i++ {
				began := time.Now()
				next, found := z.Apply(deltas[i%len(deltas)])
				if next == nil {
					b.Fatal(found)
				}
				longest = max(longest, time.Since(began))
				if z = next; making == nil && z.Fragmented() {
					making = make(chan *zone.Zone, 1)
					go func() { making <- next.Compact(always) }()
				}
				select {
				case c := <-making:
					z, making = c.CatchUp(z), nil
					compacted++
				default:
				}
			}
			b.ReportMetric(longest.Seconds()*1e3, "longest-ms")
			b.ReportMetric(float64(compacted), "compacted")
			b.ReportMetric(float64(z.ImageSize())/(1<<20), "zone-MiB")
		})
	}
}

// benchDeltas are changes that follow one another in a circle: in each, some owners anywhere get another TTL, or their old one again.
func benchDeltas(b testing.TB, z *zone.Zone, names int) []*zone.Delta {
	r := rand.New(rand.NewPCG(3, 4))
	var owners [][]zone.WireRecord
	var soa zone.WireRecord
	every := z.Len() / (names * 40)
	var before []byte // owner
	for w := range z.WireRecords() {
		if w.Type == dns.TypeSOA {
			soa = w
		} else if last := len(owners) - 1; last >= 0 && bytes.Equal(owners[last][0].Owner, w.Owner) {
			owners[last] = append(owners[last], w)
		} else if !bytes.Equal(before, w.Owner) && len(w.Owner) > len(soa.Owner) && r.IntN(max(1, every)) == 0 {
			owners = append(owners, []zone.WireRecord{w}) // from its first record on, so that sets change as a whole
		}
		before = w.Owner
	}
	r.Shuffle(len(owners), func(i, j int) { owners[i], owners[j] = owners[j], owners[i] })
	var deltas []*zone.Delta
	serial := z.Serial()
	step := func(owners [][]zone.WireRecord, from, to uint32) {
		d := &zone.Delta{From: serial, To: serial + 1}
		was, is := bytes.Clone(soa.Data), bytes.Clone(soa.Data)
		binary.BigEndian.PutUint32(was[len(was)-20:], serial)
		serial++
		binary.BigEndian.PutUint32(is[len(is)-20:], serial)
		d.Removed, d.Added = appendWire(d.Removed, soa, was, 0), appendWire(d.Added, soa, is, 0)
		for _, records := range owners {
			for _, w := range records {
				d.Removed, d.Added = appendWire(d.Removed, w, w.Data, from), appendWire(d.Added, w, w.Data, to)
			}
		}
		deltas = append(deltas, d)
	}
	for chunk := range slices.Chunk(owners, names) {
		step(chunk, 0, 1)
	}
	for chunk := range slices.Chunk(owners, names) {
		step(chunk, 1, 0)
	}
	last := deltas[len(deltas)-1] // back to the beginning
	last.To = z.Serial()
	n := len(soa.Owner) + 10 + len(soa.Data)
	last.Added = append(appendWire(nil, soa, soa.Data, 0), last.Added[n:]...)
	return deltas
}

func appendWire(rrs zone.RRs, w zone.WireRecord, data []byte, more uint32) zone.RRs {
	rrs = append(rrs, w.Owner...)
	rrs = binary.BigEndian.AppendUint16(rrs, w.Type)
	rrs = binary.BigEndian.AppendUint16(rrs, dns.ClassINET)
	rrs = binary.BigEndian.AppendUint32(rrs, w.TTL+more)
	return append(binary.BigEndian.AppendUint16(rrs, uint16(len(data))), data...)
}
