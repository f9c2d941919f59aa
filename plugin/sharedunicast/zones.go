package sharedunicast

import (
	"sync"

	"github.com/coredns/coredns/plugin"
	"github.com/coredns/coredns/plugin/pkg/rcode"

	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/cpu"

	"github.com/coredns-anycast/coredns-anycast/internal/zone"
)

// Plugin prometheus counts by server block, and one block for "." serves all zones of a mesh. So responses are counted by
// the zone that they were made from as well.

// zoneLimit bounds the zones that the metric tells apart: those that were asked for first since the process began. All others
// are one, otherZones.
const (
	zoneLimit  = 1000
	otherZones = "other" // no zone has this name: theirs end with a dot
)

// rcodesTold are the RCODEs that the metric tells apart; the last entry is all others.
var rcodesTold = [...]string{rcode.ToString(dns.RcodeSuccess), rcode.ToString(dns.RcodeNameError), "other"}

// zoneCounts are a zone's responses, by rcodesTold.
type zoneCounts [len(rcodesTold)]uint64

// zoneTally counts responses by zone. Its owner guards it.
type zoneTally struct {
	counts   map[string]*zoneCounts // by origin
	last     string                 // the zone of the last response, since most often the next one is of the same
	lastsOwn *zoneCounts
}

// count counts a response made from a zone.
func (t *zoneTally) count(z *zone.Zone, code int) {
	if name := z.Origin(); name != t.last {
		t.last, t.lastsOwn = name, t.of(name)
	}
	switch code {
	case dns.RcodeSuccess:
		t.lastsOwn[0]++
	case dns.RcodeNameError:
		t.lastsOwn[1]++
	default:
		t.lastsOwn[2]++
	}
}

// of returns what a zone's responses are counted in.
func (t *zoneTally) of(name string) *zoneCounts {
	c := t.counts[name]
	if c == nil && !zonesTold.has(name) {
		name = otherZones
		c = t.counts[name]
	}
	if c == nil {
		if t.counts == nil {
			t.counts = map[string]*zoneCounts{}
		}
		c = &new(struct {
			zoneCounts
			_ cpu.CacheLinePad // another thread counts beside it
		}).zoneCounts
		t.counts[name] = c
	}
	return c
}

// toldZones are the zones that the metric tells apart.
type toldZones struct {
	sync.Mutex
	names map[string]bool
	limit int
}

var zonesTold = toldZones{names: map[string]bool{}, limit: zoneLimit}

// has reports whether a zone is one of them; it becomes one while there is room.
func (z *toldZones) has(name string) bool {
	z.Lock()
	defer z.Unlock()
	if !z.names[name] && len(z.names) < z.limit {
		z.names[name] = true
	}
	return z.names[name]
}

// chained counts the responses that went through the chain; the ledgers count the others.
var chained struct {
	sync.Mutex
	zoneTally
}

// zoneResponses is the metric of all tallies.
type zoneResponses struct{ desc *prometheus.Desc }

func init() {
	prometheus.MustRegister(zoneResponses{prometheus.NewDesc(
		prometheus.BuildFQName(plugin.Namespace, "sharedunicast", "zone_responses_total"),
		"Counter of responses made from a zone of the mesh, by zone and RCODE. The zone is \"other\" beyond the first 1000.",
		[]string{"zone", "rcode"}, nil)})
}

// Describe implements prometheus.Collector.
func (z zoneResponses) Describe(ch chan<- *prometheus.Desc) { ch <- z.desc }

// Collect implements prometheus.Collector.
func (z zoneResponses) Collect(ch chan<- prometheus.Metric) {
	all := map[string]zoneCounts{}
	add := func(t *zoneTally) {
		for name, c := range t.counts {
			sum := all[name]
			for i, n := range c {
				sum[i] += n
			}
			all[name] = sum
		}
	}
	ledgers.Lock()
	each := ledgers.all
	ledgers.Unlock()
	for _, l := range each {
		l.mu.Lock()
		add(&l.zones)
		l.mu.Unlock()
	}
	chained.Lock()
	add(&chained.zoneTally)
	chained.Unlock()
	for name, sum := range all {
		for i, n := range sum {
			if n > 0 {
				ch <- prometheus.MustNewConstMetric(z.desc, prometheus.CounterValue, float64(n), name, rcodesTold[i])
			}
		}
	}
}
