package releasing_test

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/home"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/hometest"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/releasing"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
)

// BenchmarkReleaseTenOfTenThousand is what a release costs that changes ten zones of many, in a mesh without
// members: as a command, meshctl release --keep TEN FILES, and in meshctl serve, which has read the state before.
// "cpu-s/op" is the processor time of the process, with its collector; "first-cpu-s" is that of the first release after its start, which is none of the others.
func BenchmarkReleaseTenOfTenThousand(b *testing.B) { benchmarkReleaseTen(b, 10_000) }

// BenchmarkReleaseTenOfHundredThousand is the same at the largest number of zones that a mesh may have.
func BenchmarkReleaseTenOfHundredThousand(b *testing.B) { benchmarkReleaseTen(b, release.MaxZones) }

func benchmarkReleaseTen(b *testing.B, zones int) {
	dir := b.TempDir()
	meshDir := manyZones(b, filepath.Join(dir, "mesh"), zones)
	serial := uint32(1)
	for _, how := range []string{"command", "unattended"} {
		b.Run(how, func(b *testing.B) {
			h := home.At(meshDir, time.Now)
			once := func() (used time.Duration) {
				serial++
				var sources []releasing.Source
				for i := range 10 {
					sources = append(sources, writeZone(b, dir, i*zones/10, serial))
				}
				if how == "command" {
					h = home.At(meshDir, time.Now) // which has read nothing
				}
				runtime.GC()
				used -= processorTime(b)
				b.StartTimer()
				releaseTen(b, h, sources, zones)
				b.StopTimer()
				return used + processorTime(b)
			}
			b.StopTimer()
			first, used := once(), time.Duration(0)
			b.ResetTimer()
			for range b.N {
				used += once()
			}
			b.ReportMetric(first.Seconds(), "first-cpu-s")
			b.ReportMetric(used.Seconds()/float64(b.N), "cpu-s/op")
		})
	}
}

func releaseTen(b *testing.B, place *home.Home, sources []releasing.Source, zones int) {
	h, err := place.Begin(b.Context())
	hometest.Check(b, err)
	defer h.Close()
	made, found, err := releasing.Make(b.Context(), h, sources, releasing.Options{Keep: true})
	hometest.Check(b, err)
	if made.Release.Len() != zones || len(made.Changed) != len(sources) {
		b.Fatalf("%d zones, %d changed: %v", made.Release.Len(), len(made.Changed), found)
	}
}

// manyZones is a home without members whose current release has as many zones. Only those that are released anew have blobs
// that somebody reads; the others have files of their names.
func manyZones(b *testing.B, meshDir string, zones int) string {
	h, err := hometest.Init(meshDir, time.Now)
	hometest.Check(b, err)
	list := make([]release.Zone, zones)
	for i := range list {
		if i%(zones/10) == 0 {
			z, found := releasing.Load(b.Context(), writeZone(b, filepath.Dir(meshDir), i, 1))
			if z == nil {
				b.Fatal(found)
			}
			c, err := releasing.Store(b.Context(), h, releasing.Source{}, z)
			hometest.Check(b, err)
			list[i] = release.Zone{Origin: z.Origin(), Serial: z.Serial(), SHA256: c.SHA256, Length: c.Length, Blob: c.Blob}
			continue
		}
		name := []byte(zoneName(i))
		list[i] = release.Zone{Origin: string(name), Serial: 1, SHA256: release.DigestOf(name), Length: 200,
			Blob: release.Blob{SHA256: release.DigestOf(append(name, "packed"...)), Length: int64(len(name))}}
		hometest.Check(b, os.WriteFile(filepath.Join(meshDir, "repository", release.BlobName(list[i].Blob.SHA256)), name, 0o600))
	}
	next, err := h.Host().Stage(h.Instant(), 1, 0, true)
	hometest.Check(b, err)
	first := &release.Release{Number: 1, Switchover: next.Current.At.Time(), Zones: list}
	hometest.Check(b, h.Carry(b.Context(), next, time.Time{}, func(m *release.Manifest) { m.Next = first }, home.Event{Event: "released", Number: 1}))
	hometest.Check(b, h.Close())
	return meshDir
}

func zoneName(i int) string { return fmt.Sprintf("z%06d.example.org.", i) }

func writeZone(b *testing.B, dir string, i int, serial uint32) releasing.Source {
	s := releasing.Source{Origin: zoneName(i), File: filepath.Join(dir, fmt.Sprintf("%d.zone", i))}
	text := fmt.Appendf(nil, "$ORIGIN %s\n$TTL 300\n@ SOA ns1 host %d 7200 3600 1209600 300\n@ NS ns1\n@ NS ns.example.net.\nns1 A 192.0.2.53\nwww A 192.0.2.%d\n",
		s.Origin, serial, serial%256)
	hometest.Check(b, os.WriteFile(s.File, text, 0o600))
	return s
}

// processorTime is what this process has used.
func processorTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	hometest.Check(b, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
