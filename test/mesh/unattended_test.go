package mesh_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/lab"
	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
)

// TestFiveCommands goes from nothing to a node that answers by the five commands of the quickstart, on one machine; from then on
// the mesh runs by itself: what is put into the directory of zones is checked, released, switched to and put on record.
func TestFiveCommands(t *testing.T) {
	w := newWorld(t)
	testenv.Need(t, "chronyd")
	m := &mesh{world: w, nodes: []string{"one"}, chrony: map[string]*lab.Process{}}
	w.lan([]string{"one", "time"})
	m.startTime()
	m.startClock("one")
	zones, home := w.path("zones"), w.path("home")
	node := filepath.Join(home, "members", "tyo1")
	put := func(text string) {
		w.must(os.Rename(w.write("zones/new", text), filepath.Join(zones, "example.org.zone")))
	}
	put(zoneText(1))

	meshctl := func(args ...string) string {
		t.Helper()
		return w.mustRun("one", append([]string{w.bin + "/meshctl", "--home", home}, args...)...)
	}
	meshctl("init", "--mesh", "example", "--shared", "127.0.0.53", "--url", "https://127.0.0.1:8444/")
	meshctl("member", "add", "tyo1", "--admin", "127.0.0.1:8443", "--at", node)
	w.write("home/meshctl.yaml", "releases: {every: 1s}\n")
	serve := w.start("one", "serve", w.bin+"/meshctl", "--home", home, "serve", "--zones", zones)
	w.start("one", "sidecar", w.bin+"/anycast-sidecar", "run", filepath.Join(node, "sidecar.yaml"))
	w.start("one", "coredns", w.bin+"/coredns", "-conf", filepath.Join(node, "Corefile"))

	answers := func(want string) {
		t.Helper()
		w.eventually(60*time.Second, "the node answers with "+want, func() (bool, string) {
			r := m.ask("one", "udp", "127.0.0.53", "release.example.org.", dns.TypeTXT)
			if r == nil || len(r.Answer) != 1 {
				return false, "no answer"
			}
			return strings.Contains(r.Answer[0].String(), want), r.Answer[0].String()
		})
	}
	answers(`"1"`)
	put(zoneText(2))
	answers(`"2"`)

	// A zone with errors changes nothing, is named, and does not stand in the way of the next good one.
	put(strings.Replace(zoneText(3), "ns1     A ", "ns1     CNAME www\nns1     A ", 1))
	w.eventually(30*time.Second, "the error is reported", func() (bool, string) {
		log := readFile(serve.Log)
		return strings.Contains(log, "ALARM") && strings.Contains(log, "cname-and-other-data"), lab.Tail(serve.Log, 3)
	})
	answers(`"2"`)
	put(zoneText(4))
	answers(`"4"`)

	var history []struct {
		Number   uint64 `json:"number"`
		By       string `json:"by"`
		Received []struct {
			Zone string    `json:"zone"`
			Kept time.Time `json:"kept"`
		} `json:"received"`
		Began, Published, Scheduled, Switchover time.Time
		Results                                 []struct {
			Member             string `json:"member"`
			Switched           bool   `json:"switched"`
			Mirrored, Compiled struct{ Done time.Time }
		} `json:"results"`
		Zones []struct {
			From, To, Added, Removed int
		} `json:"zones"`
	}
	w.eventually(30*time.Second, "the last switchover is on record", func() (bool, string) {
		out := meshctl("history", "--json")
		w.must(json.Unmarshal([]byte(out), &history))
		return len(history) == 3 && len(history[0].Results) == 1 && history[0].Results[0].Switched, out
	})
	r := history[0]
	way := []time.Time{r.Began, r.Published, r.Results[0].Mirrored.Done, r.Results[0].Compiled.Done, r.Scheduled, r.Switchover}
	if len(r.Received) != 1 || r.Received[0].Zone != "example.org." || r.Received[0].Kept.After(r.Began) {
		t.Errorf("received: %+v, and taken up at %v", r.Received, r.Began)
	}
	if !slices.IsSortedFunc(way, time.Time.Compare) || way[0].IsZero() {
		t.Errorf("its way: %v", way)
	}
	if out := meshctl("history", "--timing", "--last", "1"); !strings.Contains(out, " s  tyo1 is ready\n") || !strings.Contains(out, "example.org. has come") {
		t.Errorf("the timing: %s", out)
	}
	if z := history[0].Zones; len(z) != 1 || z[0].From != 2 || z[0].To != 4 || z[0].Added != 2 || z[0].Removed != 2 {
		t.Errorf("what changed: %+v, want the SOA and the TXT record", z)
	}
	if !strings.HasPrefix(history[0].By, "meshctl serve on ") {
		t.Errorf("by %q", history[0].By)
	}
	if out := meshctl("which-node", "127.0.0.53", "--zone", "example.org"); strings.Count(out, "tyo1, serial 4") != 2 {
		t.Errorf("which-node: %s", out)
	}
	for name, want := range map[string]string{"id.server.": "tyo1", "hostname.bind.": "tyo1", "version.bind.": "", "version.server.": ""} {
		if got := m.chaos("one", "127.0.0.53", name); got != want {
			t.Errorf("%s is %q in the bundle's Corefile as it was made, want %q (ADMIN-1)", name, got, want)
		}
	}
	w.eventually(30*time.Second, "no alarm is left", func() (bool, string) {
		out := meshctl("status")
		return strings.Contains(out, "serving 3") && !strings.Contains(out, "ALARM") && strings.Contains(readFile(serve.Log), "alarm is over"), out
	})
}

// chaos is the text at a name of class CHAOS, "" if there is none.
func (m *mesh) chaos(host, server, name string) string {
	conn := &dns.Conn{Conn: m.dial(host, "udp", server+":53")}
	defer conn.Close()
	q := new(dns.Msg).SetQuestion(name, dns.TypeTXT)
	q.Question[0].Qclass = dns.ClassCHAOS
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	conn.WriteMsg(q)
	r, err := conn.ReadMsg()
	if err != nil {
		m.errorf("%s: %v", name, err)
		return ""
	}
	if len(r.Answer) == 0 {
		return ""
	}
	return strings.Join(r.Answer[0].(*dns.TXT).Txt, "")
}
