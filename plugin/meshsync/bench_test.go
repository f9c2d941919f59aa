package meshsync

import (
	"bytes"
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/release"
	"github.com/coredns-anycast/coredns-anycast/internal/zone"
	"github.com/coredns-anycast/coredns-anycast/internal/zonefile"
)

// spent is the time of processors that this process has taken.
func spent(b *testing.B) time.Duration {
	var u syscall.Rusage
	must(b, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// benchReleases are a zone of a million delegations with DS and one in which 100 of them change, over and over.
func benchReleases(b *testing.B, h *host, count int) *packed {
	b.Helper()
	p := &packed{h: h}
	for i := range count {
		var z *zone.Zone
		if i == 0 {
			names := 1_000_000
			if testing.Short() {
				names = 40_000 // an image that is kept
			}
			text := manyRecords(names)
			for n := range names / 2 {
				text = fmt.Appendf(text, "d%d.example.org.\t300\tIN\tDS\t%d 13 2 %s\n", n, n%65536, release.DigestOf(fmt.Append(nil, n)))
			}
			var found []zone.Finding
			if z, found = zonefile.Parse(bytes.NewReader(text), zonefile.Options{Origin: "example.org."}); z == nil {
				b.Fatal(found)
			}
		} else {
			old := p.zones[i-1]
			d := &zone.Delta{From: old.Serial(), To: old.Serial() + 1}
			n := 0
			for r := range old.WireRecords() {
				if n++; n == 1 {
					d.Removed = r.AppendTo(d.Removed)
					soa := bytes.Clone(r.Data)
					soa[len(soa)-17]++
					r.Data = soa
					d.Added = r.AppendTo(d.Added)
				} else if n%15000 == i && n > 10 {
					d.Removed = r.AppendTo(d.Removed)
				}
			}
			var found []zone.Finding
			if z, found = old.Apply(d); z == nil {
				b.Fatal(found)
			}
		}
		var text bytes.Buffer
		must(b, zonefile.Write(&text, z))
		signed := h.pack("example.org.", z.Serial(), text.Bytes())
		signed.Root = z.Root()
		if i > 0 {
			signed.Packs = append(p.signed[i-1].Packs[:i-1:i-1], p.lead(p.zones[i-1], z))
		}
		p.zones, p.signed = append(p.zones, z), append(p.signed, signed)
	}
	return p
}

// BenchmarkALargeRelease makes a release ready of which 100 of a million names changed: by its packs, and by its text as with the
// formats before; and starts from an image and packs.
func BenchmarkALargeRelease(b *testing.B) {
	_, h := nodeDir(b)
	p := benchReleases(b, h, 12)
	cache := &imageCache{dir: b.TempDir(), from: cacheFrom}
	make := func(signed release.Zone, before ...*compiled) *compiled {
		c, err := compile(b.Context(), h.repo.Path(), release.Release{Number: 1, Zones: []release.Zone{signed}}, known{releases: before}, cache, &compiling{beside: before != nil})
		must(b, err)
		cache.update(h.repo, c, known{releases: before})
		return c
	}
	for _, way := range []string{"packs", "text"} {
		b.Run(way, func(b *testing.B) {
			known := make(p.signed[0])
			began := spent(b)
			i := 0
			for b.Loop() {
				if i++; i == len(p.signed) {
					b.StopTimer()
					at := spent(b)
					known = make(p.signed[0])
					began += spent(b) - at
					i = 1
					b.StartTimer()
				}
				signed := p.signed[i]
				if way == "text" {
					signed.Root, signed.Packs = release.Digest{}, nil
				}
				known = make(signed, known)
			}
			b.ReportMetric(float64((spent(b)-began).Milliseconds())/float64(b.N), "cpu-ms/op")
		})
	}
	b.Run("start", func(b *testing.B) {
		make(p.signed[len(p.signed)-1], make(p.signed[0]))
		for b.Loop() {
			make(p.signed[len(p.signed)-1])
		}
	})
}

// BenchmarkTenOfManyZones is what a node does to be ready for a release in which ten of many small zones change, beside its mirror: it verifies what is in
// the depot, and makes the zones.
func BenchmarkTenOfManyZones(b *testing.B) {
	for _, n := range []int{10_000, release.MaxZones} {
		b.Run(fmt.Sprint(n), func(b *testing.B) { benchmarkTenOf(b, n) })
	}
}

func benchmarkTenOf(b *testing.B, n int) {
	dir, h := nodeDir(b)
	text := func(serial int) release.Zone { // one for all: without an origin of its own
		return h.pack("", uint32(serial), fmt.Appendf(nil, "@ 300 IN SOA ns hostmaster %d 3600 900 1814400 300\n@ 300 IN NS ns\nns 300 IN A 192.0.2.1\n", serial))
	}
	zones, one := make([]release.Zone, n), text(1)
	for i := range zones {
		zones[i] = one
		zones[i].Origin = fmt.Sprintf("z%06d.example.org.", i)
	}
	h.current(1, zones)
	s, known, err := openState(dir, h.root, h.repo.Path())
	must(b, err)
	defer s.close()
	w := &watcher{repository: h.repo.Path(), state: s, durable: known.mem, mem: known.mem, view: known.view}
	f := &follower{compiled: map[uint64]*compiled{}}
	cache := &imageCache{dir: b.TempDir(), from: cacheFrom}
	ready := func(r *release.Release) {
		is, before := f.known(), f.before(r.Number)
		c, err := compile(b.Context(), h.repo.Path(), *r, is, cache, &compiling{beside: true})
		must(b, err)
		if before != nil {
			c.since(before)
		}
		cache.update(h.repo, c, is)
		f.compiled[r.Number] = c
		delete(f.compiled, r.Number-2)
	}
	w.look()
	ready(w.view.Manifest.Current)
	f.transfers.Store(true)
	number, used := uint64(1), time.Duration(0)
	for b.Loop() {
		number++
		zones, fresh := w.view.Manifest.Latest().List(), text(int(number))
		for i := n / 20; i < n; i += n / 10 {
			fresh.Origin = zones[i].Origin
			zones[i] = fresh
		}
		h.stage(number, zones)
		used -= spent(b)
		w.look()
		ready(w.view.Manifest.Next)
		used += spent(b)
		h.schedule(time.Hour)
		used -= spent(b)
		w.look()
		used += spent(b)
		h.manifest.Current.Switchover = h.manifest.Current.Switchover.Add(time.Second)
		h.manifest.Next = nil
		current := w.view.Manifest.Next.Withdrawn()
		current.Switchover = h.manifest.Current.Switchover
		h.manifest.Current = &current
		h.publish()
		used -= spent(b)
		w.look()
		used += spent(b)
	}
	b.ReportMetric(used.Seconds()/float64(b.N), "cpu-s/op")
}
