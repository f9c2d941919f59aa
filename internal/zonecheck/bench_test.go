package zonecheck

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
	"github.com/coredns-anycast/coredns-anycast/internal/zonefile"
)

// BenchmarkCheck verifies 100,000 signed RRsets, and ZONEMD where ldns-signzone made it, from the file to the findings, and
// in the same run has ldns-verify-zone and dnssec-verify do the same. It reports how fast this is against the faster of
// them, by the clock (x-fastest) and by processor time (x-fastest-cpu), which other work on the machine disturbs less, and
// of which this one spends as much on each processor at once.
func BenchmarkCheck(b *testing.B) {
	for _, algorithm := range []string{"ECDSAP256SHA256", "RSASHA256"} {
		for _, flavour := range []string{nsec, nsec3} {
			b.Run(algorithm+" "+flavour, func(b *testing.B) { benchmarkCheck(b, algorithm, flavour) })
		}
	}
}

func benchmarkCheck(b *testing.B, algorithm, flavour string) {
	const sets = 100_000
	text := signLDNS(b, hosts(sets), flavour, algorithm)
	dir := b.TempDir()
	file := write(b, dir, "signed", text)
	var peer, ours spent
	for b.Loop() {
		b.StopTimer()
		var fastest spent
		for _, c := range [][]string{{"ldns-verify-zone", "-ZZ", "-V0", "signed"}, {"dnssec-verify", "-q", "-o", "example.", "signed"}} {
			took := measured(b, dir, c)
			b.ReportMetric(took.wall.Seconds(), c[0]+"-s")
			if fastest.wall == 0 || took.wall < fastest.wall {
				fastest = took
			}
		}
		peer = peer.plus(fastest)
		b.StartTimer()
		began, before := time.Now(), processorTime(b)
		checkFile(b, file)
		ours = ours.plus(spent{time.Since(began), processorTime(b) - before})
	}
	b.ReportMetric(peer.wall.Seconds()/ours.wall.Seconds(), "x-fastest")
	b.ReportMetric(peer.processor.Seconds()/ours.processor.Seconds(), "x-fastest-cpu")
	b.ReportMetric(float64(sets*b.N)/ours.wall.Seconds(), "RRsets/s")
}

// spent is time by the clock and of processors.
type spent struct{ wall, processor time.Duration }

func (s spent) plus(o spent) spent { return spent{s.wall + o.wall, s.processor + o.processor} }

func measured(b *testing.B, dir string, command []string) spent {
	cmd := exec.Command(testenv.Need(b, command[0])[0], command[1:]...)
	cmd.Dir = dir
	began := time.Now()
	if out, err := cmd.CombinedOutput(); err != nil {
		b.Fatalf("%s: %v: %s", command[0], err, out)
	}
	return spent{time.Since(began), cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()}
}

// processorTime is what this process has used so far.
func processorTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// hosts is a zone that has so many signed RRsets: a third each addresses of both families and denial of existence.
func hosts(sets int) string {
	var t strings.Builder
	t.WriteString("$ORIGIN example.\n$TTL 3600\n@ SOA ns1 hostmaster 2026112201 7200 3600 1209600 3600\n@ NS ns1\n@ NS ns.outside.test.\nns1 A 192.0.2.53\n")
	for i := range sets / 3 {
		fmt.Fprintf(&t, "h%d A 10.%d.%d.%d\nh%d AAAA 2001:db8::%x\n", i, i>>16, i>>8&255, i&255, i, i)
	}
	return t.String()
}

// checkFile is what "meshctl check" does.
func checkFile(b *testing.B, file string) {
	f, err := os.Open(filepath.Clean(file))
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	z, found := zonefile.Parse(f, zonefile.Options{})
	if z == nil {
		b.Fatal(found)
	}
	p := strict()
	p.ZONEMD = Require
	if found = new(Memo).Check(nil, z, p, time.Now(), lease); len(found) > 0 {
		b.Fatal(found)
	}
}
