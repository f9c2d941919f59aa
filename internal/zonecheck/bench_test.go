package zonecheck

import (
	"bytes"
	"crypto/sha1"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
	"github.com/coredns-anycast/coredns-anycast/internal/zone"
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

// BenchmarkCheckOfWhatChanged checks a version of a zone of a million delegations, of which one in ten is signed, of which a hundred
// got another DS record: whole, as at first, with all its signatures known, and with a Memo of the version before. The signatures are of
// an algorithm that is not verified here, so that what is measured is the rest.
func BenchmarkCheckOfWhatChanged(b *testing.B) {
	versions := []*zone.Zone{manyDelegations(b, 1, 0), manyDelegations(b, 2, 100), manyDelegations(b, 3, 200)}
	p, now := DefaultPolicy(), time.Now()
	p.SetRule("dnskey-unsupported", Warn)
	for _, how := range []string{"whole", "changed"} {
		b.Run(how, func(b *testing.B) {
			var memo Memo
			memo.Check(nil, versions[0], p, now, lease)
			var used time.Duration
			b.ReportAllocs()
			for i := 1; b.Loop(); i++ {
				if how == "whole" {
					memo.judged = nil
				}
				used -= processorTime(b)
				found := memo.Check(versions[(i+2)%3], versions[i%3], p, now, lease)
				used += processorTime(b)
				if i == 1 && zone.HasErrors(found) {
					b.Fatal(found)
				}
			}
			b.ReportMetric(used.Seconds()/float64(b.N), "cpu-s/op")
		})
	}
}

var benchBegan = time.Now()

// manyDelegations is a zone with opt-out and a number of other DS records than it has otherwise.
func manyDelegations(b *testing.B, serial byte, other int) *zone.Zone {
	names := 1_000_000
	if testing.Short() {
		names = 10_000
	}
	const algorithm = 16 // Ed448
	builder := zone.NewBuilder()
	apex := wire("example.")
	key := append([]byte{1, 1, 3, algorithm}, bytes.Repeat([]byte{7}, 57)...)
	put := func(owner []byte, typ uint16, rdata []byte, signed bool) {
		builder.AddWire(owner, typ, 3600, rdata, "", 0)
		if !signed {
			return
		}
		sig := binary.BigEndian.AppendUint16(nil, typ)
		sig = append(sig, algorithm, byte(countLabels(owner)), 0, 0, 14, 16)
		sig = binary.BigEndian.AppendUint32(sig, uint32(benchBegan.Add(1000*time.Hour).Unix()))
		sig = binary.BigEndian.AppendUint32(sig, uint32(benchBegan.Add(-time.Hour).Unix()))
		sig = append(binary.BigEndian.AppendUint16(sig, keyTag(key)), apex...)
		builder.AddWire(owner, dns.TypeRRSIG, 3600, append(sig, make([]byte, 114)...), "", 0)
	}
	soa := append(append(wire("ns.example."), wire("mail.example.")...), 0, 0, 0, serial, 0, 0, 28, 32, 0, 0, 14, 16, 0, 18, 117, 0, 0, 0, 14, 16)
	put(apex, dns.TypeSOA, soa, true)
	put(apex, dns.TypeNS, wire("ns.test."), true)
	put(apex, dns.TypeDNSKEY, key, true)
	put(apex, dns.TypeNSEC3PARAM, []byte{1, 0, 0, 0, 0}, true)
	type secure struct {
		hash  [sha1.Size]byte
		types []uint16
	}
	chain := []secure{{sha1.Sum(apex), []uint16{dns.TypeNS, dns.TypeSOA, dns.TypeRRSIG, dns.TypeDNSKEY, dns.TypeNSEC3PARAM}}}
	for i := range names {
		owner := wire(fmt.Sprintf("d%07d.example.", i))
		put(owner, dns.TypeNS, wire(fmt.Sprintf("a.pool%d.test.", i%5000)), false)
		put(owner, dns.TypeNS, wire(fmt.Sprintf("b.pool%d.test.", i%5000)), false)
		if i%10 > 0 {
			continue
		}
		ds := append([]byte{0, 1, 13, 2}, make([]byte, 32)...)
		if binary.BigEndian.PutUint32(ds[8:], uint32(i)); i/10 < other && i/10 >= other-100 {
			ds[20] = 1
		}
		put(owner, dns.TypeDS, ds, true)
		chain = append(chain, secure{sha1.Sum(owner), []uint16{dns.TypeNS, dns.TypeDS, dns.TypeRRSIG}})
	}
	slices.SortFunc(chain, func(x, y secure) int { return bytes.Compare(x.hash[:], y.hash[:]) })
	for i := range chain {
		owner := append(append([]byte{32}, base32hex.EncodeToString(chain[i].hash[:])...), apex...)
		rdata := append([]byte{1, 1, 0, 0, 0, 20}, chain[(i+1)%len(chain)].hash[:]...)
		put(owner, dns.TypeNSEC3, appendBitmap(rdata, chain[i].types), true)
	}
	z, found := builder.Build("example.")
	if z == nil {
		b.Fatal(found)
	}
	return z
}

func wire(name string) []byte {
	var b [255]byte
	n, err := dns.PackDomainName(name, b[:], 0, nil, false)
	if err != nil {
		panic(err)
	}
	return b[:n]
}
