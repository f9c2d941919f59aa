package sharedunicast

import (
	"fmt"
	"strings"
	"testing"
	"unsafe"

	"github.com/miekg/dns"
	"golang.org/x/sys/cpu"

	"github.com/coredns-anycast/coredns-anycast/internal/zone"
	"github.com/coredns-anycast/coredns-anycast/internal/zonefile"
)

// The zones that the metric tells apart are bounded: those beyond are counted together, however often they take turns.
func TestZoneTallyIsBounded(t *testing.T) {
	before := zonesTold.limit
	zonesTold.limit = len(zonesTold.names) + 3
	t.Cleanup(func() { zonesTold.limit = before })
	var zones []*zone.Zone
	for i := range 10 {
		z, found := zonefile.Parse(strings.NewReader("@ 60 SOA a b 1 2 3 4 5\n@ 60 NS a.example.\n"), zonefile.Options{Origin: fmt.Sprintf("bound%d.example.", i)})
		if z == nil {
			t.Fatal(found)
		}
		zones = append(zones, z)
	}
	var tally zoneTally
	for range 5 {
		for _, z := range zones {
			tally.count(z, dns.RcodeSuccess)
			tally.count(z, dns.RcodeNameError)
			tally.count(z, dns.RcodeBadCookie)
		}
	}
	if len(tally.counts) != 4 {
		t.Errorf("%d labels, want three zones and %q", len(tally.counts), otherZones)
	}
	for name, want := range map[string]uint64{"bound0.example.": 5, "bound2.example.": 5, otherZones: 35} {
		if got := tally.counts[name]; got == nil || *got != (zoneCounts{want, want, want}) {
			t.Errorf("%s: %v, want %d of each", name, got, want)
		}
	}
	if allocated := testing.AllocsPerRun(100, func() { tally.count(zones[0], 0); tally.count(zones[9], 0) }); allocated > 0 {
		t.Errorf("%v allocations", allocated)
	}
}

// What a loop writes for each query lies in lines of the processor's cache that no other loop writes, and what all loops read of a limiter
// in none that they write.
func TestLoopsWriteApart(t *testing.T) {
	const line = unsafe.Sizeof(cpu.CacheLinePad{})
	z, found := zonefile.Parse(strings.NewReader("@ 60 SOA a b 1 2 3 4 5\n@ 60 NS a.example.\n"), zonefile.Options{Origin: "apart.example."})
	if z == nil {
		t.Fatal(found)
	}
	near := func(a, b unsafe.Pointer, size uintptr) bool {
		return uintptr(a)/line <= (uintptr(b)+size-1)/line && uintptr(b)/line <= (uintptr(a)+size-1)/line
	}
	var all []*ledger
	for i := range 32 {
		l := &ledger{tallies: map[tallyKey]*tally{}}
		l.zones.count(z, dns.RcodeSuccess)
		for j, other := range all {
			if near(unsafe.Pointer(l), unsafe.Pointer(other), unsafe.Sizeof(*l)-line) || near(unsafe.Pointer(l.zones.lastsOwn), unsafe.Pointer(other.zones.lastsOwn), unsafe.Sizeof(zoneCounts{})) {
				t.Fatalf("sockets %d and %d are counted in one line", i, j)
			}
		}
		all = append(all, l)
	}
	var l limiter
	if read := unsafe.Offsetof(l.truncated) + unsafe.Sizeof(l.truncated); unsafe.Offsetof(l.prefixes) < read+line || unsafe.Offsetof(l.limited) < unsafe.Offsetof(l.sets) {
		t.Error("what is read of a limiter ends where it is written")
	}
}
