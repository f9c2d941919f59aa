package sharedunicast

import (
	"fmt"
	"strings"
	"testing"

	"github.com/miekg/dns"

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
