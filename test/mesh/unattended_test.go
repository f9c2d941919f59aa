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
	q := newQuickstart(t)
	q.put(zoneText(1))
	q.fiveCommands()
	q.answers(`"1"`)
	q.put(zoneText(2))
	q.answers(`"2"`)
	q.refused(strings.Replace(zoneText(3), "ns1     A ", "ns1     CNAME www\nns1     A ", 1), "cname-and-other-data")
	q.answers(`"2"`)
	q.put(zoneText(4))
	q.answers(`"4"`)
	q.onRecord()
	q.namesItsNode()
	q.eventually(30*time.Second, "no alarm is left", func() (bool, string) {
		out := q.meshctl("status")
		return strings.Contains(out, "serving 3") && !strings.Contains(out, "ALARM") && strings.Contains(readFile(q.serve.Log), "alarm is over"), out
	})
}

// quickstart is one machine, with all three programs.
type quickstart struct {
	*mesh
	zones string // the directory of zone files
	serve *lab.Process
}

func newQuickstart(t *testing.T) *quickstart {
	w := newWorld(t)
	testenv.Need(t, "chronyd")
	m := &mesh{world: w, nodes: []string{"one"}, chrony: map[string]*lab.Process{}}
	w.lan([]string{"one", "time"})
	m.startTime()
	m.startClock("one")
	return &quickstart{mesh: m, zones: w.path("zones")}
}

// put makes that text the zone, in one piece.
func (q *quickstart) put(text string) {
	q.must(os.Rename(q.write("zones/new", text), filepath.Join(q.zones, "example.org.zone")))
}

func (q *quickstart) meshctl(args ...string) string {
	q.t.Helper()
	return q.mustRun("one", append([]string{q.bin + "/meshctl", "--home", q.path("home")}, args...)...)
}

func (q *quickstart) fiveCommands() {
	node := q.path("home", "members", "tyo1")
	q.meshctl("init", "--mesh", "example", "--shared", "127.0.0.53", "--url", "https://127.0.0.1:8444/")
	q.meshctl("member", "add", "tyo1", "--admin", "127.0.0.1:8443", "--at", node)
	q.write("home/meshctl.yaml", "releases: {every: 1s}\n")
	q.serve = q.start("one", "serve", q.bin+"/meshctl", "--home", q.path("home"), "serve", "--zones", q.zones)
	q.start("one", "sidecar", q.bin+"/anycast-sidecar", "run", filepath.Join(node, "sidecar.yaml"))
	q.start("one", "coredns", q.bin+"/coredns", "-conf", filepath.Join(node, "Corefile"))
}

// answers waits until the node answers from that version.
func (q *quickstart) answers(want string) {
	q.t.Helper()
	q.eventually(60*time.Second, "the node answers with "+want, func() (bool, string) {
		r := q.ask("one", "udp", "127.0.0.53", "release.example.org.", dns.TypeTXT)
		if r == nil || len(r.Answer) != 1 {
			return false, "no answer"
		}
		return strings.Contains(r.Answer[0].String(), want), r.Answer[0].String()
	})
}

// refused puts a zone with an error, which changes nothing, is named, and does not stand in the way of the next good one.
func (q *quickstart) refused(text, rule string) {
	q.t.Helper()
	q.put(text)
	q.eventually(30*time.Second, "the error is reported", func() (bool, string) {
		log := readFile(q.serve.Log)
		return strings.Contains(log, "ALARM") && strings.Contains(log, rule), lab.Tail(q.serve.Log, 3)
	})
}

// record is what "meshctl history --json" says of a release.
type record struct {
	By       string
	Received []struct {
		Zone string
		Kept time.Time
	}
	Began, Published, Scheduled, Switchover time.Time
	Results                                 []struct {
		Switched           bool
		Mirrored, Compiled struct{ Done time.Time }
	}
	Zones []struct {
		From, To, Added, Removed int
	}
}

// onRecord waits for the record of the third release, and looks at what it says.
func (q *quickstart) onRecord() {
	q.t.Helper()
	var history []record
	q.eventually(30*time.Second, "the last switchover is on record", func() (bool, string) {
		out := q.meshctl("history", "--json")
		q.must(json.Unmarshal([]byte(out), &history))
		return len(history) == 3 && len(history[0].Results) == 1 && history[0].Results[0].Switched, out
	})
	r := history[0]
	way := []time.Time{r.Began, r.Published, r.Results[0].Mirrored.Done, r.Results[0].Compiled.Done, r.Scheduled, r.Switchover}
	if len(r.Received) != 1 || r.Received[0].Zone != "example.org." || r.Received[0].Kept.After(r.Began) {
		q.errorf("received: %+v, and taken up at %v", r.Received, r.Began)
	}
	if !slices.IsSortedFunc(way, time.Time.Compare) || way[0].IsZero() {
		q.errorf("its way: %v", way)
	}
	if z := r.Zones; len(z) != 1 || z[0].From != 2 || z[0].To != 4 || z[0].Added != 2 || z[0].Removed != 2 {
		q.errorf("what changed: %+v, want the SOA and the TXT record", z)
	}
	if !strings.HasPrefix(r.By, "meshctl serve on ") {
		q.errorf("by %q", r.By)
	}
	if out := q.meshctl("history", "--timing", "--last", "1"); !strings.Contains(out, " s  tyo1 is ready\n") || !strings.Contains(out, "example.org. has come") {
		q.errorf("the timing: %s", out)
	}
}

// namesItsNode asks which node it is that answers (ADMIN-1).
func (q *quickstart) namesItsNode() {
	q.t.Helper()
	if out := q.meshctl("which-node", "127.0.0.53", "--zone", "example.org"); strings.Count(out, "tyo1, serial 4") != 2 {
		q.errorf("which-node: %s", out)
	}
	for name, want := range map[string]string{"id.server.": "tyo1", "hostname.bind.": "tyo1", "version.bind.": "", "version.server.": ""} {
		if got := q.chaos("one", "127.0.0.53", name); got != want {
			q.errorf("%s is %q in the bundle's Corefile as it was made, want %q (ADMIN-1)", name, got, want)
		}
	}
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
