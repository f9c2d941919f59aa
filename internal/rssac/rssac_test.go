package rssac

import (
	"encoding/json"
	"math"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

func addr4(n uint32) netip.Addr {
	return netip.AddrFrom4([4]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)})
}

// The estimate is exact for a few, and within four standard errors for many, whether addresses are neighbours or spread.
func TestEstimate(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, spread := range []bool{false, true} {
		var c Counts
		seen := map[netip.Addr]bool{}
		for _, upTo := range []int{0, 1, 10, 100, 1000, 16384, 50_000, 200_000, 1_000_000} {
			for len(seen) < upTo {
				a := addr4(uint32(len(seen)))
				if spread {
					a = addr4(r.Uint32())
				}
				seen[a] = true
				c.Query(40, a)
				c.Query(40, a)
			}
			got := float64(c.sources.Estimate())
			if limit := math.Max(0.5, 4*0.0081*float64(upTo)); upTo < 100 && int(got) != upTo || math.Abs(got-float64(upTo)) > limit {
				t.Errorf("spread %v: %v of %d", spread, got, upTo)
			}
		}
	}
}

// All registers full is the most that can be told, and is a number.
func TestEstimateOfEverything(t *testing.T) {
	var s Sources
	for i := range s {
		s[i] = mostRank - 1
	}
	if n := s.Estimate(); n < 1<<60 {
		t.Errorf("%d", n)
	}
}

// What was counted is what the report says, in the form that RSSAC002 has.
func TestReport(t *testing.T) {
	var d Day
	var four, six, stream Counts
	for i := range uint32(1000) {
		four.Query(12+int(i%64), addr4(i%7))
		four.Response(60, 0)
	}
	four.Response(100, 3)
	for i := range 600 {
		b := [16]byte{0x20, 0x01, 0x0d, 0xb8, 7: byte(i % 3), 15: byte(i % 30)}
		six.Query(40, netip.AddrFrom16(b))
	}
	stream.Query(70000, addr4(99))
	stream.Response(65535, 23)
	stream.Response(4096, 99)
	d.Take(UDP4, &four)
	d.Take(UDP6, &six)
	d.Take(TCP4, &stream)
	if !four.Empty() || four != (Counts{}) {
		t.Error("what was taken is still there")
	}
	want := map[string]map[string]any{
		"traffic-volume": {"dns-udp-queries-received-ipv4": 1000, "dns-udp-queries-received-ipv6": 600, "dns-tcp-queries-received-ipv4": 1, "dns-tcp-queries-received-ipv6": 0,
			"dns-udp-responses-sent-ipv4": 1001, "dns-udp-responses-sent-ipv6": 0, "dns-tcp-responses-sent-ipv4": 2, "dns-tcp-responses-sent-ipv6": 0},
		"rcode-volume":   {"0": 1000, "3": 1, "23": 1, "31": 1},
		"unique-sources": {"num-sources-ipv4": 8, "num-sources-ipv6": 30, "num-sources-ipv6-aggregate": 3},
		"traffic-sizes": {"udp-request-sizes": map[string]int{"0-15": 64, "16-31": 256, "32-47": 256 + 600, "48-63": 244, "64-79": 180},
			"udp-response-sizes": map[string]int{"48-63": 1000, "96-111": 1},
			"tcp-request-sizes":  map[string]int{"65520-65535": 1}, "tcp-response-sizes": map[string]int{"65520-65535": 1, "4096-4111": 1}},
	}
	check := func(d *Day) {
		t.Helper()
		for _, metric := range Metrics {
			got := map[string]any{}
			text := d.Report(metric, "a.dns.example", "2026-11-30")
			if err := yaml.Unmarshal([]byte(text), &got); err != nil {
				t.Fatalf("%v\n%s", err, text)
			}
			want[metric]["version"], want[metric]["service"], want[metric]["metric"] = "rssac002v5", "a.dns.example", metric
			for key, value := range want[metric] {
				one, _ := json.Marshal(value)
				other, _ := json.Marshal(got[key])
				if string(one) != string(other) {
					t.Errorf("%s: %s is %s, want %s", metric, key, other, one)
				}
			}
			if len(got) != len(want[metric])+1 || !strings.Contains(text, "\nstart-period: 2026-11-30T00:00:00Z\n") {
				t.Errorf("%s", text)
			}
		}
	}
	check(&d)

	b, err := json.Marshal(&d)
	if err != nil {
		t.Fatal(err)
	}
	again := new(Day)
	if err := json.Unmarshal(b, again); err != nil || *again != d {
		t.Errorf("%v: what was kept is not what was counted", err)
	}
	check(again)
}

// A file that is damaged is refused as a whole.
func TestDamagedCountsAreRefused(t *testing.T) {
	var d, kept Day
	var c Counts
	c.Query(40, addr4(1))
	d.Take(UDP4, &c)
	kept = d
	whole, _ := json.Marshal(&d)
	for _, replace := range [][2]string{{"udp-ipv4", "udp-ipv5"}, {`"2":1`, `"5000":1`}, {`"2":1`, `"-1":1`}, {`"sources":"AAAA`, `"sources":"`}, {`"queries":1`, `"queries":-1`},
		{`"sources":"AAAA`, `"sources":"////`}} {
		damaged := strings.Replace(string(whole), replace[0], replace[1], 1)
		if damaged == string(whole) {
			t.Fatalf("%s is not there", replace[0])
		}
		if err := json.Unmarshal([]byte(damaged), &d); err == nil || d != kept {
			t.Errorf("%s for %s: %v", replace[1], replace[0], err)
		}
	}
}

func TestCountingAllocatesNothing(t *testing.T) {
	c, client := new(Counts), netip.MustParseAddr("2001:db8::1")
	if n := testing.AllocsPerRun(100, func() { c.Query(40, client); c.Response(100, 0) }); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkCount(b *testing.B) {
	c := new(Counts)
	for i := uint32(0); b.Loop(); i++ {
		c.Query(40, addr4(i*2654435761))
		c.Response(100, 0)
	}
}
