// Package rssac counts a name server's traffic of a day as RSSAC002 (version 5, "RSSAC Advisory on Measurements of the Root Server
// System") wants it, and writes it in that advisory's form: traffic-volume, traffic-sizes, rcode-volume and unique-sources.
//
// It is pure: whoever calls it (plugin/sharedunicast) does the locking, knows the day and writes the files. To count allocates nothing.
package rssac

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
)

// Kind is how messages come: by which transport, TLS being TCP here, and which family of addresses.
type Kind int

const (
	UDP4 Kind = iota
	UDP6
	TCP4
	TCP6
	kinds
)

var kindNames = [kinds]string{"udp-ipv4", "udp-ipv6", "tcp-ipv4", "tcp-ipv6"}

const (
	binWidth = 16 // octets
	bins     = 1 << 16 / binWidth
	rcodes   = 32 // those that have a name, and some: what is above is counted as the last
)

// Counts is what came in one way.
type Counts struct {
	queries, responses        uint64
	querySizes, responseSizes [bins]uint64
	rcodes                    [rcodes]uint64
	sources, networks         Sources // networks are of IPv6, /64
}

// Query counts a query of so many octets, without the length that precedes it on a connection.
func (c *Counts) Query(size int, client netip.Addr) {
	c.queries++
	c.querySizes[min(size/binWidth, bins-1)]++
	if client = client.Unmap(); client.Is4() {
		four := client.As4()
		c.sources.add(hash(0, uint64(four[0])<<24|uint64(four[1])<<16|uint64(four[2])<<8|uint64(four[3])))
		return
	}
	b := client.As16()
	high, low := uint64(0), uint64(0)
	for i := range 8 {
		high, low = high<<8|uint64(b[i]), low<<8|uint64(b[8+i])
	}
	c.networks.add(hash(1, high))
	c.sources.add(hash(hash(1, high), low))
}

// Response counts a response, with its extended RCODE (RFC 6891 6.1.3).
func (c *Counts) Response(size, rcode int) {
	c.responses++
	c.responseSizes[min(size/binWidth, bins-1)]++
	c.rcodes[min(rcode, rcodes-1)]++
}

// Empty says whether nothing was counted.
func (c *Counts) Empty() bool { return c.queries+c.responses == 0 }

// add adds what was counted elsewhere.
func (c *Counts) add(o *Counts) {
	c.queries += o.queries
	c.responses += o.responses
	for i := range c.querySizes {
		c.querySizes[i] += o.querySizes[i]
		c.responseSizes[i] += o.responseSizes[i]
	}
	for i := range c.rcodes {
		c.rcodes[i] += o.rcodes[i]
	}
	c.sources.merge(&o.sources)
	c.networks.merge(&o.networks)
}

// Day is the traffic of a day.
type Day struct{ counts [kinds]Counts }

// Take adds counts to the day, and begins them anew.
func (d *Day) Take(k Kind, c *Counts) {
	if !c.Empty() {
		d.counts[k].add(c)
		*c = Counts{}
	}
}

// Metrics are those that Report writes, by the names that RSSAC002 has for them.
var Metrics = []string{"traffic-volume", "traffic-sizes", "rcode-volume", "unique-sources"}

// Report is a metric as a YAML document. The service is a name of letters, digits, dots and hyphens; date is YYYY-MM-DD, of UTC.
func (d *Day) Report(metric, service, date string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "---\nversion: rssac002v5\nservice: %s\nstart-period: %sT00:00:00Z\nmetric: %s\n", service, date, metric)
	switch metric {
	case "traffic-volume":
		d.volume(&b)
	case "traffic-sizes":
		d.sizes(&b)
	case "rcode-volume":
		for code := range rcodes {
			n := uint64(0)
			for k := range d.counts {
				n += d.counts[k].rcodes[code]
			}
			if n > 0 {
				fmt.Fprintf(&b, "%d: %d\n", code, n)
			}
		}
	case "unique-sources":
		d.uniqueSources(&b)
	}
	return b.String()
}

func (d *Day) volume(b *strings.Builder) {
	for _, transport := range []struct {
		name string
		kind Kind
	}{{"udp", UDP4}, {"tcp", TCP4}} {
		for i, family := range []string{"ipv4", "ipv6"} {
			fmt.Fprintf(b, "dns-%s-queries-received-%s: %d\n", transport.name, family, d.counts[int(transport.kind)+i].queries)
		}
		for i, family := range []string{"ipv4", "ipv6"} {
			fmt.Fprintf(b, "dns-%s-responses-sent-%s: %d\n", transport.name, family, d.counts[int(transport.kind)+i].responses)
		}
	}
}

func (d *Day) sizes(b *strings.Builder) {
	for _, transport := range []struct {
		name string
		kind Kind
	}{{"udp", UDP4}, {"tcp", TCP4}} {
		four, six := &d.counts[transport.kind], &d.counts[transport.kind+1]
		writeSizes(b, transport.name+"-request-sizes", &four.querySizes, &six.querySizes)
		writeSizes(b, transport.name+"-response-sizes", &four.responseSizes, &six.responseSizes)
	}
}

func writeSizes(b *strings.Builder, name string, four, six *[bins]uint64) {
	b.WriteString(name + ":")
	none := true
	for i := range four {
		if n := four[i] + six[i]; n > 0 {
			fmt.Fprintf(b, "\n  %d-%d: %d", i*binWidth, i*binWidth+binWidth-1, n)
			none = false
		}
	}
	if none {
		b.WriteString(" {}")
	}
	b.WriteString("\n")
}

func (d *Day) uniqueSources(b *strings.Builder) {
	four, six, networks := d.counts[UDP4].sources, d.counts[UDP6].sources, d.counts[UDP6].networks
	four.merge(&d.counts[TCP4].sources)
	six.merge(&d.counts[TCP6].sources)
	networks.merge(&d.counts[TCP6].networks)
	fmt.Fprintf(b, "num-sources-ipv4: %d\nnum-sources-ipv6: %d\nnum-sources-ipv6-aggregate: %d\n", four.Estimate(), six.Estimate(), networks.Estimate())
}

// saved is Counts as they are kept over a restart.
type saved struct {
	Queries       uint64         `json:"queries"`
	Responses     uint64         `json:"responses"`
	QuerySizes    map[int]uint64 `json:"query_sizes"`    // by bin
	ResponseSizes map[int]uint64 `json:"response_sizes"` // by bin
	Rcodes        map[int]uint64 `json:"rcodes"`
	Sources       []byte         `json:"sources"`
	Networks      []byte         `json:"networks"`
}

// MarshalJSON implements json.Marshaler.
func (d *Day) MarshalJSON() ([]byte, error) {
	all := map[string]saved{}
	for k := range d.counts {
		if c := &d.counts[k]; !c.Empty() {
			all[kindNames[k]] = saved{c.queries, c.responses, sparse(c.querySizes[:]), sparse(c.responseSizes[:]), sparse(c.rcodes[:]), c.sources[:], c.networks[:]}
		}
	}
	return json.Marshal(all)
}

func sparse(all []uint64) map[int]uint64 {
	some := map[int]uint64{}
	for i, n := range all {
		if n > 0 {
			some[i] = n
		}
	}
	return some
}

// UnmarshalJSON implements json.Unmarshaler. An error leaves the day as it was.
func (d *Day) UnmarshalJSON(b []byte) error {
	var all map[string]saved
	if err := json.Unmarshal(b, &all); err != nil {
		return err
	}
	read := new(Day)
	for name, s := range all {
		k := 0
		for k < int(kinds) && kindNames[k] != name {
			k++
		}
		if k == int(kinds) {
			return fmt.Errorf("counts of %q: there are those of %s", name, strings.Join(kindNames[:], ", "))
		}
		c := &read.counts[k]
		c.queries, c.responses = s.Queries, s.Responses
		if !dense(c.querySizes[:], s.QuerySizes) || !dense(c.responseSizes[:], s.ResponseSizes) || !dense(c.rcodes[:], s.Rcodes) ||
			!c.sources.read(s.Sources) || !c.networks.read(s.Networks) {
			return fmt.Errorf("counts of %s: a number or a length is out of range", name)
		}
	}
	*d = *read
	return nil
}

func dense(all []uint64, some map[int]uint64) bool {
	for i, n := range some {
		if i < 0 || i >= len(all) {
			return false
		}
		all[i] = n
	}
	return true
}
