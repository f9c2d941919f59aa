package paths

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/coredns-anycast/coredns-anycast/internal/lab"
)

// What plugin prometheus counts is the same on both paths: names, labels, rcodes, types, buckets. Only how long the response
// is may differ by some octets, since the plugin estimates that.
func TestMetricsOfBothPaths(t *testing.T) {
	m := newMesh(t)
	m.current(1, m.zone("example.org.", zoneText("example.org.")))
	p, scrape := port(t), port(t)
	plugins := fmt.Sprintf("prometheus 127.0.0.1:%d\n errors\n nsid tyo1\n", scrape)
	start(t, fmt.Sprintf("example.org:%d {\n sharedunicast 127.0.0.1 ::1\n %s %s }\nexample.org:%d {\n sharedunicast 127.0.0.2 {\n fastpath off\n }\n %s %s }\n",
		p, plugins, m.block(), p, plugins, m.block()))
	fast, chain := fmt.Sprintf("127.0.0.1:%d", p), fmt.Sprintf("127.0.0.2:%d", p)
	lab.Eventually(t, func() error { return hasSOA(fast) })
	before := [2]map[string]*dto.Metric{metricsOf(t, fast), metricsOf(t, chain)}
	for _, network := range []string{"udp", "tcp"} {
		for i, name := range []string{"www.example.org.", "nothing.example.org.", "x.sub.example.org.", "WWW.example.org.", "example.org."} {
			for j, qtype := range []uint16{dns.TypeA, dns.TypeSOA, dns.TypeANY, dns.TypeMAILB, dns.TypeHINFO, dns.TypeHTTPS} {
				for _, server := range []string{fast, chain} {
					q := new(dns.Msg).SetQuestion(name, qtype)
					if (i+j)%2 == 0 {
						q.SetEdns0(1232, j%3 == 0)
					}
					if _, _, err := (&dns.Client{Net: network}).Exchange(q, server); err != nil {
						t.Fatal(err)
					}
				}
			}
		}
	}
	lab.Eventually(t, func() error { // the chain counts after it has answered
		after := [2]map[string]*dto.Metric{metricsOf(t, fast), metricsOf(t, chain)}
		if !slices.Equal(sorted(after[0]), sorted(after[1])) {
			return fmt.Errorf("by the fast path:\n%s\nby the chain:\n%s", strings.Join(sorted(after[0]), "\n"), strings.Join(sorted(after[1]), "\n"))
		}
		for name := range after[0] {
			a, b := grown(before[0][name], after[0][name]), grown(before[1][name], after[1][name])
			if strings.Contains(name, "duration") || strings.Contains(name, "response_size") {
				a, b = strings.Fields(a)[0], strings.Fields(b)[0]
			}
			if a != b {
				return fmt.Errorf("%s: %s by the fast path, %s by the chain", name, a, b)
			}
		}
		return nil
	})
	if len(before[0]) == 0 {
		t.Error("no metrics")
	}

	// The other family is told apart, and a reload forgets nothing.
	if err := hasSOA(fmt.Sprintf("[::1]:%d", p)); err != nil {
		t.Fatal(err)
	}
	six := metricsOf(t, fmt.Sprintf("[::1]:%d", p))
	if !slices.ContainsFunc(sorted(six), func(s string) bool { return strings.Contains(s, `family="2"`) }) {
		t.Errorf("%v", sorted(six))
	}
}

// Responses are counted by the zone that they were made from, on both paths and by UDP and TCP, though one block serves all zones.
func TestZoneResponses(t *testing.T) {
	m := newMesh(t)
	m.current(1, m.zone("one.example.", zoneText("one.example.")), m.zone("two.example.", zoneText("two.example.")))
	p, scrape := port(t), port(t)
	plugins := fmt.Sprintf("prometheus 127.0.0.1:%d\n errors\n", scrape)
	start(t, fmt.Sprintf(".:%d {\n sharedunicast 127.0.0.1\n %s %s }\n.:%d {\n sharedunicast 127.0.0.2 {\n fastpath off\n }\n %s %s }\n",
		p, plugins, m.block(), p, plugins, m.block()))
	ask := func(server, network, name string) error {
		_, _, err := (&dns.Client{Net: network}).Exchange(new(dns.Msg).SetQuestion(name, dns.TypeSOA), server)
		return err
	}
	fast, chain := fmt.Sprintf("127.0.0.1:%d", p), fmt.Sprintf("127.0.0.2:%d", p)
	lab.Eventually(t, func() error { return ask(fast, "udp", "nobodys.example.") })
	before := zoneResponses(t)
	for _, server := range []string{fast, chain} {
		for _, network := range []string{"udp", "tcp"} {
			for _, name := range []string{"one.example.", "two.example.", "ONE.example.", "nothing.two.example.", "nobodys.example."} {
				lab.Must(t, ask(server, network, name))
			}
		}
	}
	lab.Eventually(t, func() error {
		after := zoneResponses(t)
		for key, want := range map[string]float64{"one.example. NOERROR": 8, "two.example. NOERROR": 4, "two.example. NXDOMAIN": 4} {
			if got := after[key] - before[key]; got != want {
				return fmt.Errorf("%s grew by %v, want %v", key, got, want)
			}
		}
		for key := range after {
			if strings.Contains(key, "nobodys") {
				t.Fatalf("a zone that is not served is counted: %s", key)
			}
		}
		return nil
	})
}

// zoneResponses are the counts by zone and RCODE.
func zoneResponses(t *testing.T) map[string]float64 {
	t.Helper()
	families, err := prometheus.DefaultGatherer.Gather()
	lab.Must(t, err)
	found := map[string]float64{}
	for _, f := range families {
		if f.GetName() != "coredns_sharedunicast_zone_responses_total" {
			continue
		}
		for _, m := range f.GetMetric() {
			labels := map[string]string{}
			for _, l := range m.GetLabel() {
				labels[l.GetName()] = l.GetValue()
			}
			found[labels["zone"]+" "+labels["rcode"]] = m.GetCounter().GetValue()
		}
	}
	return found
}

func hasSOA(server string) error {
	r, err := dns.Exchange(new(dns.Msg).SetQuestion("example.org.", dns.TypeSOA), server)
	if err != nil || r.Rcode != dns.RcodeSuccess {
		return fmt.Errorf("not ready: %v, %v", r, err)
	}
	return nil
}

func sorted(m map[string]*dto.Metric) []string { return slices.Sorted(maps.Keys(m)) }

// metricsOf are the core's metrics of a server, by name and labels but for the server.
func metricsOf(t *testing.T, server string) map[string]*dto.Metric {
	t.Helper()
	families, err := prometheus.DefaultGatherer.Gather()
	lab.Must(t, err)
	found := map[string]*dto.Metric{}
	for _, f := range families {
		if !strings.HasPrefix(f.GetName(), "coredns_dns_re") && f.GetName() != "coredns_dns_do_requests_total" {
			continue
		}
		for _, m := range f.GetMetric() {
			key, here := f.GetName(), false
			for _, l := range m.GetLabel() {
				if l.GetName() == "server" {
					here = l.GetValue() == "dns://"+server
				} else {
					key += fmt.Sprintf(" %s=%q", l.GetName(), l.GetValue())
				}
			}
			if here {
				found[key] = m
			}
		}
	}
	return found
}

// grown is by how much a metric has grown: its count, and for a histogram its sum and buckets, classic and native.
func grown(before, after *dto.Metric) string {
	if after.Counter != nil {
		return fmt.Sprint(after.Counter.GetValue() - before.GetCounter().GetValue())
	}
	h, was := after.Histogram, before.GetHistogram()
	s := fmt.Sprint(h.GetSampleCount()-was.GetSampleCount(), " sum ", h.GetSampleSum()-was.GetSampleSum())
	for i, b := range h.Bucket {
		n := b.GetCumulativeCount()
		if i < len(was.GetBucket()) {
			n -= was.Bucket[i].GetCumulativeCount()
		}
		s += fmt.Sprintf(" %v:%d", b.GetUpperBound(), n)
	}
	native := nativeOf(h)
	for k, n := range nativeOf(was) {
		native[k] -= n
	}
	for _, k := range slices.Sorted(maps.Keys(native)) {
		if native[k] != 0 {
			s += fmt.Sprintf(" [%d]:%d", k, native[k])
		}
	}
	return s
}

func nativeOf(h *dto.Histogram) map[int]int64 {
	all := map[int]int64{}
	at, n, count := 0, 0, int64(0)
	for _, span := range h.GetPositiveSpan() {
		at += int(span.GetOffset())
		for range span.GetLength() {
			count += h.PositiveDelta[n]
			all[at] = count
			at++
			n++
		}
	}
	return all
}
