package mesh_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/lab"
	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
)

// What a flood may cost that the link cannot carry the answers to.
const (
	narrowQueries    = 200_000
	narrowMemory     = 64 << 20 // bytes that the process may grow by
	narrowGoroutines = 2000
)

// TestFloodThroughANarrowLink: a client asks 200,000 times for a kilobyte, and the link back to it carries a megabit a second
// (tc tbf, with a queue so long that the sockets' buffers are full and writing would wait). Memory and goroutines stay bounded, on
// the fast path and through the chain of plugins, and when the link is good again questions are answered. NSD has the same flood, for
// comparison.
func TestFloodThroughANarrowLink(t *testing.T) {
	t.Parallel()
	testenv.Need(t, "tc", "nsd")
	m := newMesh(newWorld(t), "tyo")
	m.host("client")
	m.must(lab.Connect(lab.End{At: m.places["tyo"], Link: "narrow"}, lab.End{At: m.places["client"], Link: "eth0"}))
	m.address("tyo", "narrow", "203.0.113.1/24")
	m.address("client", "eth0", "203.0.113.2/24")
	m.must(m.places["client"].Gateway(netip.MustParseAddr("203.0.113.1")))

	nsd := &lab.NameServer{Kind: "nsd", Dir: m.path("nsd"), Listen: []netip.AddrPort{netip.MustParseAddrPort("203.0.113.1:5300")},
		Zones: []lab.ServedZone{{Origin: "example.org", File: m.path("example.org.zone")}}}
	peer := m.start("tyo", "nsd", nsd.Argv(t, testenv.Need(t, "nsd")[0])...)
	m.narrow("NSD", peer.Pid(), "203.0.113.1:5300")
	m.narrow("the fast path", m.coredn["tyo"].Pid(), shared4+":53")

	m.coredn["tyo"].Stop()
	corefile := readFile(m.path("tyo", "Corefile"))
	slow := strings.Replace(corefile, "sharedunicast 192.0.2.53 2001:db8:53::53 {", "sharedunicast 192.0.2.53 2001:db8:53::53 {\n        fastpath off", 1)
	if slow == corefile {
		t.Fatal(corefile)
	}
	m.write("tyo/Corefile", slow)
	m.startCoreDNS("tyo")
	m.awaitServing("tyo", m.number)
	m.narrow("the chain", m.coredn["tyo"].Pid(), shared4+":53")
}

// narrow floods a server of tyo from the client.
func (m *mesh) narrow(name string, pid int, server string) {
	m.t.Helper()
	question := new(dns.Msg).SetQuestion("large.example.org.", dns.TypeTXT)
	question.SetEdns0(1232, false)
	query, err := question.Pack()
	m.must(err)
	m.wellAnswered(name, server, query)
	m.must(os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0)) // the peak is counted from here
	before, most := m.memory(pid, "VmRSS"), 0
	m.mustRun("tyo", "tc", "qdisc", "add", "dev", "narrow", "root", "tbf", "rate", "1mbit", "burst", "32kb", "limit", "10m")
	var clients [16]net.Conn
	for i := range clients {
		clients[i] = m.dial("client", "udp", server)
		defer clients[i].Close()
	}
	for sent := range narrowQueries {
		clients[sent%len(clients)].Write(query)
		if sent%(narrowQueries/20) == 0 && name != "NSD" {
			most = max(most, m.goroutines("tyo"))
		}
	}
	queue := m.mustRun("tyo", "tc", "-s", "qdisc", "show", "dev", "narrow")
	if held := regexp.MustCompile(`overlimits (\d+)`).FindStringSubmatch(queue); held == nil || held[1] == "0" {
		m.errorf("%s: the link carried all of it, so nothing is shown:\n%s", name, queue)
	}
	m.mustRun("tyo", "tc", "qdisc", "del", "dev", "narrow", "root")
	m.wellAnswered(name, server, query)
	grown := m.memory(pid, "VmHWM") - before
	m.t.Logf("%s: %d MiB before, at most %d more, at most %d goroutines", name, before>>20, grown>>20, most)
	if grown > narrowMemory || most > narrowGoroutines {
		m.errorf("%s: %d bytes more than before the flood, %d goroutines", name, grown, most)
	}
}

// wellAnswered waits until the client has the whole answer from a new port.
func (m *mesh) wellAnswered(name, server string, query []byte) {
	m.t.Helper()
	conn := m.dial("client", "udp", server)
	defer conn.Close()
	buffer := make([]byte, 4096)
	m.eventually(60*time.Second, name+" answers", func() (bool, string) {
		conn.Write(query)
		conn.SetReadDeadline(time.Now().Add(time.Second))
		n, err := conn.Read(buffer)
		return err == nil && n > 960, fmt.Sprint(n, err)
	})
}

// memory is a number of bytes from the status of a process.
func (m *mesh) memory(pid int, key string) int {
	m.t.Helper()
	found := regexp.MustCompile(key + `:\s+(\d+) kB`).FindStringSubmatch(readFile(fmt.Sprintf("/proc/%d/status", pid)))
	if found == nil {
		m.fatalf("process %d says nothing of %s", pid, key)
	}
	kib, err := strconv.Atoi(found[1])
	m.must(err)
	return kib << 10
}

// goroutines is how many a node's CoreDNS has, as its metrics say.
func (m *mesh) goroutines(node string) int {
	m.t.Helper()
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
		return m.places[node].Dial(ctx, network, address)
	}}
	client := http.Client{Transport: transport, Timeout: time.Minute}
	response, err := client.Get("http://127.0.0.1:9153/metrics")
	m.must(err)
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	m.must(err)
	found := regexp.MustCompile(`(?m)^go_goroutines (\d+)$`).FindSubmatch(text)
	if found == nil {
		m.fatalf("no metric go_goroutines:\n%s", text)
	}
	n, _ := strconv.Atoi(string(found[1]))
	return n
}
