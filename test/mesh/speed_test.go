package mesh_test

import (
	"bufio"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/lab"
	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
)

// TestTheWayOfALargeZone takes a signed zone of which 0.5 % changes from Knot, by IXFR, to three nodes on this machine, and
// prints how long each step took, and how much processor time each process: from the transfer's last octet to the moment
// when the last node is ready. FULL=1: a million names.
func TestTheWayOfALargeZone(t *testing.T) {
	names := 20_000
	if os.Getenv("FULL") != "" {
		names = 1_000_000
	}
	m := meshOf(newWorld(t), "tyo", "osa", "fra")
	testenv.Need(t, "chronyd", "knotd")
	m.machines("hidden")
	m.startTime()
	file := m.path("hidden", "large.zone")
	m.must(os.MkdirAll(m.path("hidden"), 0o755))
	m.largeZone(file, names, 1)
	knot := m.startHidden(signingKnot(m.path("hidden"), "large.", file, true))
	m.init()
	m.world.write("home/meshctl.yaml", fmt.Sprintf(`releases: {every: 1s, absent: 10m}
serve: {listen: '198.51.100.1:8443'}
sources:
  keys: [{name: xfr, secret: %s}]
  primaries: [{name: knot, servers: [{address: '%s:5301', key: xfr}]}]
  zones: [{names: [large], primaries: knot}]
  notify: {listen: ['198.51.100.1:5300']}
checks:
  zones: {large: {dnssec: require, zonemd: require}}
`, xfrSecret, hiddenAddress))
	serve := m.start("dist", "serve", m.bin+"/meshctl", "--home", m.path("home"), "serve")
	for _, node := range m.nodes {
		m.startNode(node)
	}
	m.awaitLarge(1)
	spent := map[string]float64{}
	processes := map[string]*lab.Process{"meshctl serve": serve}
	for _, node := range m.nodes {
		processes["sidecar "+node], processes["coredns "+node] = m.side[node], m.coredn[node]
	}
	for name, p := range processes {
		spent[name] = -processorSeconds(t, p)
	}
	m.largeZone(file, names, 2)
	knot.Signal(syscall.SIGHUP)
	m.awaitLarge(2)
	for name, p := range processes {
		spent[name] += processorSeconds(t, p)
	}
	m.sayWay(spent)
}

// largeZone writes a zone like a TLD's: all names have servers, a tenth servers of their own with glue, a tenth a DS record.
// Of 200 names one has another DS record, or other servers, in version 2.
func (m *mesh) largeZone(path string, names, version int) {
	m.t.Helper()
	f, err := os.Create(path + ".new")
	m.must(err)
	w := bufio.NewWriterSize(f, 1<<20)
	fmt.Fprintf(w, "$ORIGIN large.\n$TTL 86400\n@ SOA ns1 hostmaster %d 3600 900 1209600 900\n@ NS ns1\n@ NS ns.elsewhere.net.\nns1 A %s\nrelease TXT \"%d\"\n", version, shared4, version)
	for i := range names {
		v := 1
		if i%400 == 3 || i%400 == 7 {
			v = version
		}
		if i%10 == 1 {
			fmt.Fprintf(w, "name-%x NS ns1.name-%x\nname-%x NS ns2.name-%x\nns1.name-%x A 198.18.%d.%d\nns2.name-%x AAAA 2001:db8:beef:%x::2\n", i, i, i, i, i, i>>8&255, i&255, i, i&0xffff)
		} else {
			pool := (i*7919 + v) % 5000
			fmt.Fprintf(w, "name-%x NS a.pool%d.example.\nname-%x NS b.pool%d.example.\n", i, pool, i, pool)
		}
		if i%10 == 3 {
			fmt.Fprintf(w, "name-%x DS %d 13 2 %X\n", i, i&0xffff, sha256.Sum256([]byte{byte(i), byte(i >> 8), byte(i >> 16), byte(v)}))
		}
	}
	m.must(w.Flush())
	m.must(f.Close())
	m.must(os.Rename(path+".new", path))
}

// awaitLarge waits until every node answers with that version of the large zone, and that is on record.
func (m *mesh) awaitLarge(version int) {
	m.t.Helper()
	limit := time.Minute
	if os.Getenv("FULL") != "" {
		limit = 15 * time.Minute
	}
	m.eventually(limit, fmt.Sprintf("all nodes answer with version %d", version), func() (bool, string) {
		for _, node := range m.nodes {
			r := m.ask(node, "udp", shared4, "release.large.", dns.TypeTXT)
			if r == nil || len(r.Answer) == 0 || !strings.Contains(r.Answer[0].String(), fmt.Sprintf("%q", fmt.Sprint(version))) {
				return false, lab.Tail(m.path("dist-serve.Log"), 3)
			}
		}
		return true, ""
	})
	m.eventually(time.Minute, "it is on record", func() (bool, string) {
		out := m.meshctl("history", "--last", "1", "--json")
		return version == 1 || strings.Contains(out, `"compiled"`), out
	})
}

// processorSeconds is what a process has used so far.
func processorSeconds(t *testing.T, p *lab.Process) float64 {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.Pid()))
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(data), ") ")
	fields := strings.Fields(after) // from the third on; utime and stime are the 14th and 15th, in hundredths (proc(5))
	user, _ := strconv.ParseFloat(fields[11], 64)
	system, _ := strconv.ParseFloat(fields[12], 64)
	return (user + system) / 100
}

// sayWay prints the record of the last release, and its sum.
func (m *mesh) sayWay(spent map[string]float64) {
	m.t.Helper()
	m.t.Log("\n" + m.meshctl("history", "--last", "1", "--timing"))
	total := 0.0
	for name, seconds := range spent {
		m.t.Logf("%6.2f s of processor time: %s", seconds, name)
		total += seconds
	}
	var record []struct {
		Received []struct {
			How   string
			Whole time.Time
		}
		Results []struct{ Compiled struct{ Done time.Time } }
	}
	m.must(json.Unmarshal([]byte(m.meshctl("history", "--last", "1", "--json")), &record))
	if len(record[0].Received) != 1 || record[0].Received[0].How != "ixfr" {
		m.fatalf("it was not received by IXFR: %+v", record[0])
	}
	last := time.Time{}
	for _, r := range record[0].Results {
		if r.Compiled.Done.After(last) {
			last = r.Compiled.Done
		}
	}
	m.t.Logf("from the last octet to ready on %d nodes: %.2f s, and %.2f s of processor time of all to the switchover", len(m.nodes), last.Sub(record[0].Received[0].Whole).Seconds(), total)
	for _, name := range append([]string{"dist-serve"}, "tyo-coredns") {
		if f, err := os.Open(m.path(name + ".log")); err == nil {
			log, _ := io.ReadAll(f)
			f.Close()
			for _, line := range strings.Split(string(log), "\n") {
				if strings.Contains(line, "received") || strings.Contains(line, "staged") {
					m.t.Log(line)
				}
			}
		}
	}
}
