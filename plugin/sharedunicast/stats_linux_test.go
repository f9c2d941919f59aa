package sharedunicast

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	"go.yaml.in/yaml/v3"

	"github.com/coredns-anycast/coredns-anycast/internal/lab"
	"github.com/coredns-anycast/coredns-anycast/internal/query"
	"github.com/coredns-anycast/coredns-anycast/internal/rssac"
)

// reports reads YAML documents, by their metric.
func reports(t *testing.T, path string) map[string]map[string]any {
	t.Helper()
	b, err := os.ReadFile(path)
	lab.Must(t, err)
	all := map[string]map[string]any{}
	for d := yaml.NewDecoder(strings.NewReader(string(b))); ; {
		one := map[string]any{}
		if d.Decode(&one) != nil {
			return all
		}
		if one["version"] != "rssac002v5" {
			t.Errorf("%s: %v", path, one)
		}
		all[one["metric"].(string)] = one
	}
}

// What is asked is in the statistics, whichever path answers, over UDP and TCP of both families: how many queries and responses, of
// what sizes and RCODEs, from how many clients. They go on after a restart and after a reload.
func TestStatistics(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "stats")
	if left := time.Until(time.Now().Truncate(24 * time.Hour).Add(24 * time.Hour)); left < 2*time.Minute {
		time.Sleep(left) // all of it is of one day
	}
	small := new(dns.Msg).SetQuestion("www.example.org.", dns.TypeA)     // 33 octets
	missing := new(dns.Msg).SetQuestion("none.example.org.", dns.TypeA)  // NXDOMAIN
	strange := new(dns.Msg).SetQuestion("www.example.org.", dns.TypeTXT) // BADVERS
	strange.SetEdns0(1232, false).IsEdns0().SetVersion(1)
	update := new(dns.Msg).SetUpdate("example.org.") // NOTIMP, and 29 octets
	rounds := 0
	ask := func(t *testing.T, port string) {
		rounds++
		for _, address := range []string{"127.0.53.1", "127.0.53.2", "[::1]"} {
			for _, network := range []string{"udp", "tcp"} {
				for _, m := range []*dns.Msg{small, missing, missing, strange, update} {
					_, err := exchange(network, address+":"+port, m)
					lab.Must(t, err)
				}
			}
		}
		// A response is no query, and what is less than a header is nothing.
		conn, err := net.Dial("udp", "127.0.53.1:"+port)
		lab.Must(t, err)
		defer conn.Close()
		response, _ := new(dns.Msg).SetReply(small).Pack()
		conn.Write(response)
		conn.Write(response[:11])
		_, err = exchange("udp", "127.0.53.1:"+port, small)
		lab.Must(t, err)
	}
	run := func(t *testing.T) {
		port := freePort(t)
		corefile := ""
		for address, path := range map[string]string{"127.0.53.1": "on", "127.0.53.2": "off", "::1": "on"} {
			corefile += fmt.Sprintf("example.org:%s {\n sharedunicast %s {\n fastpath %s\n stats %s a.dns.example\n }\n testwire\n}\n", port, address, path, dir)
		}
		reload := start(t, corefile)
		ask(t, port)
		lab.Must(t, reload(corefile+"\n"))
		ask(t, port)
	}
	for range 2 { // each ends before the next begins
		t.Run("", run)
	}
	all := reports(t, filepath.Join(dir, todayName))
	for metric, want := range map[string]map[string]int{
		"traffic-volume": {"dns-udp-queries-received-ipv4": 11 * rounds, "dns-udp-responses-sent-ipv4": 11 * rounds, "dns-tcp-queries-received-ipv4": 10 * rounds,
			"dns-tcp-responses-sent-ipv4": 10 * rounds, "dns-udp-queries-received-ipv6": 5 * rounds, "dns-udp-responses-sent-ipv6": 5 * rounds,
			"dns-tcp-queries-received-ipv6": 5 * rounds, "dns-tcp-responses-sent-ipv6": 5 * rounds},
		"rcode-volume":   {"0": 7 * rounds, "3": 12 * rounds, "16": 6 * rounds, "4": 6 * rounds},
		"unique-sources": {"num-sources-ipv4": 1, "num-sources-ipv6": 1, "num-sources-ipv6-aggregate": 1},
	} {
		for key, n := range want {
			got := all[metric][key]
			if metric == "rcode-volume" {
				for k, v := range all[metric] {
					if fmt.Sprint(k) == key {
						got = v
					}
				}
			}
			if got != n {
				t.Errorf("%s: %s is %v, want %d", metric, key, got, n)
			}
		}
	}
	sizes := all["traffic-sizes"]["udp-request-sizes"].(map[string]any)
	if len(sizes) != 2 || sizes["16-31"] != 3*rounds || sizes["32-47"] != 13*rounds {
		t.Errorf("sizes of requests by UDP: %v, want %d of 16 to 31 octets, and %d of 32 to 47", sizes, 3*rounds, 13*rounds)
	}
}

// At the end of a day its reports are where RSSAC002 has them, and the next day begins with nothing. What was saved survives the end
// of the process; what could not be written is written later.
func TestStatisticsOfADay(t *testing.T) {
	dir, service := t.TempDir(), "a.dns.example"
	r, err := openRecorder(dir, service)
	lab.Must(t, err)
	if _, err := openRecorder(dir, "b.dns.example"); err == nil || !strings.Contains(err.Error(), "directory of its own") {
		t.Errorf("two services in a directory: %v", err)
	}
	evening := time.Now().UTC().Truncate(24 * time.Hour).Add(23 * time.Hour)
	day := func(after int) string {
		return evening.Add(time.Duration(after) * 24 * time.Hour).Format(time.DateOnly)
	}
	queries := func(path string) any {
		return reports(t, path)["traffic-volume"]["dns-udp-queries-received-ipv4"]
	}
	report := func(after int) string {
		date := day(after)
		return filepath.Join(dir, date[:4], date[5:7], "traffic-volume", fmt.Sprintf("%s-%s-traffic-volume.yaml", service, strings.ReplaceAll(date, "-", "")))
	}
	udp := r.socket(rssac.UDP4, "test")
	count := func(n int) {
		for range n {
			udp.query(40, netip.MustParseAddr("192.0.2.1"))
		}
	}
	count(3)
	lab.Must(t, r.turn(evening))

	// The process ends without saying so, and another one begins.
	close(r.stop)
	<-r.stopped
	recorders.Lock()
	delete(recorders.all, dir)
	recorders.Unlock()
	r, err = openRecorder(dir, service)
	lab.Must(t, err)
	defer func() { r.close() }()
	udp = r.socket(rssac.UDP4, "test")
	count(4)
	if got := queries(filepath.Join(dir, todayName)); got != 3 {
		t.Errorf("%v queries before the day is over, want 3", got)
	}
	lab.Must(t, r.turn(evening.Add(time.Hour)))
	if got := queries(report(0)); got != 7 {
		t.Errorf("%v queries in the day's report, want 7", got)
	}
	if got := queries(filepath.Join(dir, todayName)); got != 0 {
		t.Errorf("the next day begins with %v", got)
	}
	lab.Must(t, r.turn(evening)) // the clock goes back
	if r.date != day(1) {
		t.Errorf("the day is %s, and was %s before the clock went back", r.date, day(1))
	}

	// Where the reports go is a file, for two days.
	count(5)
	in := filepath.Dir(filepath.Dir(filepath.Dir(report(1))))
	kept := filepath.Join(dir, "kept")
	lab.Must(t, os.Rename(in, kept))
	lab.Must(t, os.WriteFile(in, nil, 0o644))
	if err := r.turn(evening.Add(25 * time.Hour)); err == nil {
		t.Error("a report that cannot be written is no error")
	}
	count(6)
	if err := r.turn(evening.Add(49 * time.Hour)); err == nil {
		t.Error("a report that cannot be written is no error")
	}
	lab.Must(t, os.Remove(in))
	lab.Must(t, os.Rename(kept, in))
	lab.Must(t, r.turn(evening.Add(50*time.Hour)))
	if one, two := queries(report(1)), queries(report(2)); one != 5 || two != 6 {
		t.Errorf("%v and %v queries in the reports written later, want 5 and 6", one, two)
	}
	for _, metric := range rssac.Metrics {
		if n := len(reports(t, strings.ReplaceAll(report(0), "traffic-volume", metric))); n != 1 {
			t.Errorf("%s: %d documents", metric, n)
		}
	}
}

// A state that is damaged stops nothing, and is not lost.
func TestDamagedStatisticsArePutAside(t *testing.T) {
	for _, text := range []string{"", "{", `{"service":"a","date":"yesterday","traffic":{}}`, `{"service":"a","date":"2026-11-30","traffic":{"udp-ipv4":{"sources":"AA=="}}}`} {
		dir := t.TempDir()
		lab.Must(t, os.WriteFile(filepath.Join(dir, stateName), []byte(text), 0o644))
		r, err := openRecorder(dir, "a")
		if err != nil {
			t.Errorf("%q: %v", text, err)
			continue
		}
		r.close()
		if b, err := os.ReadFile(filepath.Join(dir, stateName+".damaged")); err != nil || string(b) != text {
			t.Errorf("%q: %q, %v", text, b, err)
		}
	}
}

// The RCODE of a response, with the bits that are in the OPT record.
func TestRcodeOf(t *testing.T) {
	q := new(dns.Msg).SetQuestion("www.example.org.", dns.TypeA)
	for code := range 24 {
		for _, records := range []int{0, 3} {
			m := new(dns.Msg).SetReply(q)
			m.Compress = true
			for range records {
				rr, _ := dns.NewRR("www.example.org. 60 IN MX 10 mail.example.org.")
				m.Answer, m.Extra = append(m.Answer, rr), append(m.Extra, rr)
			}
			m.SetEdns0(1232, true)
			m.Rcode = code
			b, err := m.Pack()
			lab.Must(t, err)
			if got := rcodeOf(b); got != code {
				t.Errorf("%d with %d records: %d", code, records, got)
			}
			for n := headerSize; n < len(b); n++ {
				rcodeOf(b[:n]) // reads nothing beyond
			}
		}
	}
	var header query.Query
	if got := rcodeOf(header.AppendError(nil, dns.RcodeNotImplemented)); got != dns.RcodeNotImplemented {
		t.Errorf("of a header alone: %d", got)
	}
}
