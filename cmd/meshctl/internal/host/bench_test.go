package host

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/release"
)

// BenchmarkReleaseTenOfTenThousand is what a release costs that changes ten zones of many, on a home that has a current and a
// staged release: as a command, meshctl release --keep TEN FILES, and in meshctl serve, which has read the state before.
// "cpu-s/op" is the processor time of the process, with its collector.
func BenchmarkReleaseTenOfTenThousand(b *testing.B) { benchmarkReleaseTen(b, 10_000) }

// BenchmarkReleaseTenOfHundredThousand is the same at the largest number of zones that a mesh may have.
func BenchmarkReleaseTenOfHundredThousand(b *testing.B) { benchmarkReleaseTen(b, release.MaxZones) }

func benchmarkReleaseTen(b *testing.B, zones int) {
	dir := b.TempDir()
	home := manyZones(b, filepath.Join(dir, "mesh"), zones)
	serial := uint32(1)
	for _, how := range []string{"command", "unattended"} {
		b.Run(how, func(b *testing.B) {
			var used time.Duration
			for b.Loop() {
				b.StopTimer()
				serial++
				var sources []Source
				for i := range 10 {
					sources = append(sources, writeZone(b, dir, i*zones/10, serial))
				}
				if how == "command" {
					keepRead("", "", State{})
				}
				runtime.GC()
				used -= processorTime(b)
				b.StartTimer()
				releaseTen(b, home, sources, zones)
				used += processorTime(b)
			}
			b.ReportMetric(used.Seconds()/float64(b.N), "cpu-s/op")
		})
	}
}

func releaseTen(b *testing.B, home string, sources []Source, zones int) {
	h, err := Open(home, time.Now)
	check(b, err)
	defer h.Close()
	made, found, err := h.Release(sources, ReleaseOptions{Keep: true})
	check(b, err)
	if len(made.Release.Zones) != zones || len(made.Changed) != len(sources) {
		b.Fatalf("%d zones, %d changed: %v", len(made.Release.Zones), len(made.Changed), found)
	}
}

// manyZones is a home whose current and staged release have as many zones. Only those that are released anew have blobs
// that somebody reads; the others have files of their names.
func manyZones(b *testing.B, home string, zones int) string {
	h, err := testInit(home, time.Now)
	check(b, err)
	_, err = h.AddMember(NewMember{Name: "tyo", Admin: "127.0.0.1:1"})
	check(b, err)
	list := make([]release.Zone, zones)
	for i := range list {
		if i%(zones/10) == 0 {
			z, found := Load(writeZone(b, filepath.Dir(home), i, 1))
			if z == nil {
				b.Fatal(found)
			}
			c, err := h.store(Source{}, z)
			check(b, err)
			list[i] = release.Zone{Origin: z.Origin(), Serial: z.Serial(), SHA256: c.SHA256, Length: c.Length, Blob: c.Blob}
			continue
		}
		name := []byte(zoneName(i))
		list[i] = release.Zone{Origin: string(name), Serial: 1, SHA256: release.DigestOf(name), Length: 200,
			Blob: release.Blob{SHA256: release.DigestOf(append(name, "packed"...)), Length: int64(len(name))}}
		check(b, os.WriteFile(filepath.Join(home, repoDir, release.BlobName(list[i].Blob.SHA256)), name, 0o600))
	}
	m := h.view.Manifest
	m.Current = &release.Release{Number: 1, Switchover: h.clock().UTC().Truncate(time.Microsecond), Zones: list}
	m.Next = &release.Release{Number: 2, Zones: list}
	check(b, h.publish(m, Event{Event: "released", Number: 2}))
	check(b, h.Close())
	return home
}

func zoneName(i int) string { return fmt.Sprintf("z%06d.example.org.", i) }

func writeZone(b *testing.B, dir string, i int, serial uint32) Source {
	s := Source{Origin: zoneName(i), File: filepath.Join(dir, fmt.Sprintf("%d.zone", i))}
	text := fmt.Appendf(nil, "$ORIGIN %s\n$TTL 300\n@ SOA ns1 host %d 7200 3600 1209600 300\n@ NS ns1\n@ NS ns.example.net.\nns1 A 192.0.2.53\nwww A 192.0.2.%d\n",
		s.Origin, serial, serial%256)
	check(b, os.WriteFile(s.File, text, 0o600))
	return s
}

// processorTime is what this process has used.
func processorTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	check(b, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
