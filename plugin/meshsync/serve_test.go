package meshsync

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coredns/coredns/plugin"
	"github.com/coredns/coredns/plugin/cache"
	"github.com/coredns/coredns/plugin/ready"
	"github.com/coredns/coredns/plugin/test"
	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"github.com/coredns-anycast/coredns-anycast/internal/lab"
	"github.com/coredns-anycast/coredns-anycast/internal/socket"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
)

var (
	_ plugin.Handler     = (*Meshsync)(nil)
	_ ready.Readiness    = (*Meshsync)(nil)
	_ cache.ZoneBypasser = (*Meshsync)(nil)
)

// Silence is no reply over UDP and the end of the stream elsewhere; never an error, which would make the server answer.
func TestSilence(t *testing.T) {
	silent := map[string]*Meshsync{"before startup": {}}
	dir, h := nodeDir(t)
	silent["without a release"] = startNode(t, newConfig(dir, h)).Meshsync
	for name, m := range silent {
		for _, tcp := range []bool{false, true} {
			w := &writer{ResponseWriter: test.ResponseWriter{TCP: tcp}}
			rcode, err := m.ServeDNS(context.Background(), w, new(dns.Msg).SetQuestion("example.org.", dns.TypeSOA))
			if rcode != dns.RcodeSuccess || err != nil || w.said != nil || w.closed != tcp {
				t.Errorf("%s, tcp %v: rcode %d, error %v, said %v, closed %v", name, tcp, rcode, err, w.said, w.closed)
			}
		}
		if m.Ready() {
			t.Errorf("%s: ready", name)
		}
	}
}

func TestAnswers(t *testing.T) {
	dir, h := nodeDir(t)
	h.current(1, h.zones(1, "example.org.", "sub.example.org."))
	n := startNode(t, newConfig(dir, h))
	n.waits("an answer", func(*status.Node) bool { return n.Ready() })
	for _, c := range []struct {
		name  string
		qtype uint16
		rcode int
		aa    bool
	}{
		{"example.org.", dns.TypeSOA, dns.RcodeSuccess, true},
		{"eXample.ORG.", dns.TypeNS, dns.RcodeSuccess, true},
		{"sub.example.org.", dns.TypeSOA, dns.RcodeSuccess, true},
		{"nothing.example.org.", dns.TypeA, dns.RcodeNameError, true},
		{"example.org.", dns.TypeMX, dns.RcodeSuccess, true},
		{"example.net.", dns.TypeA, dns.RcodeRefused, false},
		{".", dns.TypeNS, dns.RcodeRefused, false},
		{"example.org.", dns.TypeAXFR, dns.RcodeRefused, false},
		{"example.org.", dns.TypeIXFR, dns.RcodeRefused, false},
	} {
		m := n.ask(c.name, c.qtype)
		if m == nil || m.Rcode != c.rcode || m.Authoritative != c.aa || m.RecursionAvailable {
			t.Errorf("%s %s: %v", c.name, dns.TypeToString[c.qtype], m)
		}
	}
}

// What is not a question for this node's zones goes to the next plugin if there is one.
func TestOthers(t *testing.T) {
	_, n := answeringNode(t)
	notify := new(dns.Msg).SetNotify("example.org.")
	none := new(dns.Msg)
	two := new(dns.Msg).SetQuestion("example.org.", dns.TypeA)
	two.Question = append(two.Question, two.Question[0])
	for _, m := range []*dns.Msg{notify, none, two} {
		w := &writer{}
		n.ServeDNS(context.Background(), w, m)
		if w.said == nil || w.said.Rcode != dns.RcodeNotImplemented {
			t.Errorf("%v: %v", m, w.said)
		}
	}
	asked := 0
	n.Next = plugin.HandlerFunc(func(context.Context, dns.ResponseWriter, *dns.Msg) (int, error) { asked++; return 0, nil })
	n.ask("example.net.", dns.TypeA)
	n.ask("example.org.", dns.TypeAXFR)
	n.ask("example.org.", dns.TypeA)
	n.ServeDNS(context.Background(), &writer{}, notify)
	if asked != 3 {
		t.Errorf("%d went on, want 3", asked)
	}
}

// ADMIN-1: who asks in class CHAOS is told the node's name, and the release that it answers from.
func TestIdentity(t *testing.T) {
	dir, h := nodeDir(t)
	h.current(42, h.zones(42))
	n := startNode(t, newConfig(dir, h))
	n.becomes(42)
	for name, want := range map[string]string{"id.server.": "tyo", "Hostname.BIND.": "tyo", "release.server.": "42", "version.bind.": ""} {
		q := new(dns.Msg).SetQuestion(name, dns.TypeTXT)
		q.Question[0].Qclass = dns.ClassCHAOS
		w := &writer{}
		n.ServeDNS(context.Background(), w, q)
		got := ""
		if w.said != nil && len(w.said.Answer) == 1 {
			got = w.said.Answer[0].(*dns.TXT).Txt[0]
		}
		if got != want || want == "" && w.said.Rcode != dns.RcodeRefused {
			t.Errorf("%s: %v", name, w.said)
		}
	}
}

// RFC 6891 6.1.1: a message with more than one OPT record is a format error.
func TestSecondOPTIsRefused(t *testing.T) {
	_, n := answeringNode(t)
	w := &writer{}
	n.ServeDNS(context.Background(), w, new(dns.Msg).SetQuestion("example.org.", dns.TypeSOA).SetEdns0(4096, true).SetEdns0(512, false))
	if w.said == nil || w.said.Rcode != dns.RcodeFormatError {
		t.Errorf("%v", w.said)
	}
}

// UDP answers keep to what the client takes, and to what needs no fragments; streams have room.
func TestSizeOfAnswers(t *testing.T) {
	dir, h := nodeDir(t)
	text := zoneText("example.org.", 1)
	for range 40 {
		text += "big.example.org. 60 IN TXT \"" + strings.Repeat("x", 20+len(text)%200) + "\"\n"
	}
	h.current(1, append(h.zones(1)[:0], h.blob("example.org.", text)))
	n := startNode(t, newConfig(dir, h))
	n.becomes(1)
	for _, c := range []struct {
		offer, most int
		tcp         bool
	}{{0, 512, false}, {100, 512, false}, {800, 800, false}, {1232, 1232, false}, {4096, 1232, false}, {65535, 1232, false}, {0, 65535, true}} {
		q := new(dns.Msg).SetQuestion("big.example.org.", dns.TypeTXT)
		if c.offer > 0 {
			q.SetEdns0(uint16(c.offer), false)
		}
		w := &writer{ResponseWriter: test.ResponseWriter{TCP: c.tcp}}
		n.ServeDNS(context.Background(), w, q)
		if w.said == nil || w.said.Len() > c.most || w.said.Truncated == c.tcp {
			t.Errorf("%+v: %d octets, truncated %v", c, w.said.Len(), w.said.Truncated)
		}
	}
}

// What plugin nsid adds finds room, or else the core would cut an RRset in two.
func TestRoomForNSID(t *testing.T) {
	dir, h := nodeDir(t)
	text := zoneText("example.org.", 1)
	for i := range 5 {
		text += fmt.Sprintf("most.example.org. 60 IN TXT \"%d%s\"\n", i, strings.Repeat("x", 219))
	}
	h.current(1, append(h.zones(1)[:0], h.blob("example.org.", text)))
	n := startNode(t, newConfig(dir, h))
	n.becomes(1)
	q := new(dns.Msg).SetQuestion("most.example.org.", dns.TypeTXT).SetEdns0(1232, false)
	for _, asked := range []bool{false, true} {
		if asked {
			q.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_NSID{Code: dns.EDNS0NSID}}
		}
		w := &writer{}
		n.ServeDNS(context.Background(), w, q)
		if w.said == nil || w.said.Truncated != asked || asked == (len(w.said.Answer) > 0) {
			t.Errorf("NSID asked for %v: %d octets, truncated %v", asked, w.said.Len(), w.said.Truncated)
		}
	}
}

// A cache in front is passed by, so that no answer outlives a switchover.
func TestCacheIsBypassed(t *testing.T) {
	h, n := answeringNode(t)
	corefile := "example.org:0 {\n cache\n meshsync " + n.config.dir + " {\n repository " + h.repo.Path() + "\n root " + h.root + "\n clock assume 1ms\n}\n}"
	n.close()
	serve(t, corefile, func(addr string) {
		lab.Eventually(t, func() error { return expect(addr, "1") })
		running := &node{Meshsync: &Meshsync{config: n.config}, t: t, f: only(t, n.config.dir).follower}
		running.follower.Store(running.f)
		to := running.confirmed(h)
		time.Sleep(time.Until(to.At.Time()))
		if err := expect(addr, fmt.Sprint(to.Number)); err != nil {
			t.Error(err)
		}
	})
}

// With plugin chaos in the block, which comes before this one, the node's name is still the node's (ADMIN-1), not the machine's;
// the rest is what chaos was told.
func TestChaosLeavesTheNodesName(t *testing.T) {
	dir, h := nodeDir(t)
	h.current(1, h.zones(1))
	corefile := ".:0 {\n bind 127.0.0.1\n chaos CoreDNS admin@example.org\n meshsync " + dir + " {\n repository " + h.repo.Path() + "\n root " + h.root +
		"\n clock assume 1ms\n node tyo1\n}\n}"
	serve(t, corefile, func(addr string) {
		lab.Eventually(t, func() error { return expect(addr, "1") })
		for name, want := range map[string]string{"id.server.": "tyo1", "HOSTNAME.bind.": "tyo1", "version.bind.": "CoreDNS", "authors.bind.": "admin@example.org"} {
			q := new(dns.Msg).SetQuestion(name, dns.TypeTXT)
			q.Question[0].Qclass = dns.ClassCHAOS
			m, _, err := new(dns.Client).Exchange(q, addr)
			must(t, err)
			if len(m.Answer) != 1 || m.Answer[0].(*dns.TXT).Txt[0] != want {
				t.Errorf("%s: want %s: %v", name, want, m)
			}
		}
	})
}

func TestMetricNames(t *testing.T) {
	dir, h := nodeDir(t)
	h.current(1, h.zones(1))
	n := startNode(t, newConfig(dir, h))
	n.ask("example.org.", dns.TypeSOA)
	n.becomes(1)
	overwrite("")(t, h)
	n.faulty("torn")
	families, err := prometheus.DefaultGatherer.Gather()
	must(t, err)
	readme := string(readFile(t, "README.md"))
	seen := 0
	for _, f := range families {
		if !strings.HasPrefix(f.GetName(), "coredns_meshsync_") {
			continue
		}
		seen++
		if got := f.GetMetric()[0].GetGauge().GetValue(); f.GetName() == "coredns_meshsync_active_release" && got != 1 {
			t.Errorf("active release %v", got)
		}
		problems, err := promlint.NewWithMetricFamilies(append(families[:0:0], f)).Lint()
		must(t, err)
		for _, p := range problems {
			t.Errorf("%s: %s", p.Metric, p.Text)
		}
		if !strings.Contains(readme, "`"+f.GetName()) {
			t.Errorf("%s is not in README.md", f.GetName())
		}
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				if l.GetName() != "server" && !strings.Contains(readme, "`"+l.GetValue()+"`") {
					t.Errorf("%s: %s %q is not in README.md", f.GetName(), l.GetName(), l.GetValue())
				}
			}
		}
	}
	if seen != 12 {
		t.Errorf("%d metrics", seen)
	}
}

// The status is what others parse: its shape is written down here.
func TestStatusDocument(t *testing.T) {
	h, n := answeringNode(t)
	zones := h.zones(2)
	h.stage(2, zones)
	n.staged(2)
	h.schedule(time.Hour)
	n.waits("confirmation", func(s *status.Node) bool { return s.Confirms.Scheduled != nil })
	overwrite("")(t, h)
	n.faulty("torn")
	data, err := json.Marshal(n.f.shown.Load().whole())
	must(t, err)
	for _, hide := range []struct{ pattern, with string }{
		{`("[a-z_]+_ns"):\d+`, `$1:0`}, {`"detail":"[^"]*"`, `"detail":""`}, {`"torn":\d+`, `"torn":1`},
	} {
		data = regexp.MustCompile(hide.pattern).ReplaceAll(data, []byte(hide.with))
	}
	const want = `{"version":1,"node":"tyo","mesh":"jp","software":"unknown","config_digest":"","at_ns":0,` +
		`"serving":1,"zones":[{"origin":"example.org.","serial":1}],"zones_digest":"8ec529ba23b0849c5a579faba13abb42372414449ffaa1e6f50d657a296c0608",` +
		`"switched":{"number":1,"at_ns":0,"done_ns":0,"lateness_ns":0},"staged":2,` +
		`"compiled":{"number":2,"began_ns":0,"done_ns":0},"promise":{"number":2,"at_ns":0,"state":"committed"},"floor":1,"lease_expires_ns":0,"clock":{"known":true,"bound_ns":0,"source":"assumed","assumed":true},` +
		`"depot":{"lease":4,"last_fault":{"file":"metadata/timestamp.json","rule":"torn","detail":"","at_ns":0},` +
		`"faults":{"torn":1}},"format":3,"confirms":{"staged":2,"scheduled":{"number":2,"at_ns":0}}}`
	if string(data) != want {
		t.Errorf("got  %s\nwant %s", data, want)
	}
}

// Readers of the status that never read hold nobody: not other readers, not the follower, not the end.
func TestHangingReadersOfTheStatus(t *testing.T) {
	dir, h := nodeDir(t)
	h.current(1, h.zones(1))
	lab.Quick(t, "closing", time.Second, func() time.Duration {
		m := &Meshsync{config: newConfig(dir, h)}
		m.config.status = filepath.Join(t.TempDir(), "m.sock")
		m.config.clock.assume = time.Millisecond
		must(t, acquire(m))
		n := &node{Meshsync: m, t: t, f: m.follower.Load()}
		n.becomes(1)
		for range 50 {
			conn, err := net.Dial("unix", m.config.status)
			must(t, err)
			defer conn.Close()
		}
		var s status.Node
		lab.Eventually(t, func() error { return socket.Read(context.Background(), m.config.status, &s) })
		if s.Serving != 1 {
			t.Errorf("%+v", s)
		}
		began := time.Now()
		must(t, letGo(m))
		return time.Since(began)
	})
}

// TestStatusInBrief: beside the status is one without the list of zones. It says which list that is, and how it became of the one before if
// little changed, and is no longer when there are more zones.
func TestStatusInBrief(t *testing.T) {
	dir, h := nodeDir(t)
	var origins []string
	for i := range 300 {
		origins = append(origins, fmt.Sprintf("z%03d.example.", i))
	}
	zones := h.zones(1, append([]string{"example.org."}, origins...)...)
	h.current(1, zones)
	m := &Meshsync{config: newConfig(dir, h)}
	m.config.status = filepath.Join(t.TempDir(), "m.sock")
	m.config.clock.assume = time.Millisecond
	must(t, acquire(m))
	n := &node{Meshsync: m, t: t, f: m.follower.Load()}
	// both are read with a release, and the octets of the brief one are bounded.
	read := func(number uint64) (whole, brief status.Node) {
		t.Helper()
		n.becomes(number)
		must(t, socket.Read(t.Context(), m.config.status, &whole))
		conn, err := net.Dial("unix", socket.Brief(m.config.status))
		must(t, err)
		defer conn.Close()
		text, err := io.ReadAll(conn)
		must(t, err)
		must(t, status.Decode(text, &brief))
		if len(text) > 3000 {
			t.Errorf("%d octets in brief", len(text))
		}
		if brief.Zones != nil || brief.ZonesDigest == "" || brief.ZonesDigest != whole.ZonesDigest || brief.Serving != number {
			t.Errorf("in brief %s, as a whole %s", text, whole.ZonesDigest)
		}
		return whole, brief
	}
	first, brief := read(1)
	if len(first.Zones) != 301 || brief.ZonesChange != nil {
		t.Errorf("%d zones, change %v", len(first.Zones), brief.ZonesChange)
	}
	if again, _ := read(1); again.ZonesDigest != first.ZonesDigest {
		t.Error("the same list has another digest")
	}

	one := slices.Concat(h.zones(2, "example.org."), zones[2:], h.zones(2, "zz.example.")) // without z000.example.
	h.current(2, one)
	second, brief := read(2)
	if second.ZonesDigest == first.ZonesDigest || brief.ZonesChange == nil || brief.ZonesChange.From != first.ZonesDigest {
		t.Fatalf("%s after %s, by %+v", second.ZonesDigest, first.ZonesDigest, brief.ZonesChange)
	}
	if got := brief.ZonesChange.Of(first.Zones); !slices.Equal(got, second.Zones) {
		t.Errorf("what changed makes %v of the list, want %v", got, second.Zones)
	}
	if put, gone := brief.ZonesChange.Put, brief.ZonesChange.Gone; len(put) != 2 || !slices.Equal(gone, []string{"z000.example."}) {
		t.Errorf("put %v, gone %v", put, gone)
	}

	h.current(3, h.zones(3, append([]string{"example.org."}, origins...)...))
	third, brief := read(3)
	if third.ZonesDigest == second.ZonesDigest || brief.ZonesChange != nil {
		t.Errorf("%s after %s, by %+v", third.ZonesDigest, second.ZonesDigest, brief.ZonesChange)
	}
	must(t, letGo(m))
	for _, path := range []string{m.config.status, socket.Brief(m.config.status)} {
		if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is left: %v", path, err)
		}
	}
}

// FuzzServeDNS hands any message that the library can parse to a node that answers and to one that is silent.
func FuzzServeDNS(f *testing.F) {
	top := f.TempDir()
	h := newHost(f, top)
	h.current(1, h.zones(1, "example.org.", "sub.example.org."))
	answering := startNode(f, newConfig(filepath.Join(top, "a"), h))
	answering.waits("an answer", func(*status.Node) bool { return answering.Ready() })
	silent := &Meshsync{}
	for _, m := range []*dns.Msg{
		new(dns.Msg).SetQuestion("which.example.org.", dns.TypeTXT), new(dns.Msg).SetQuestion(".", dns.TypeANY),
		new(dns.Msg).SetEdns0(4096, true).SetQuestion("x.example.org.", dns.TypeDS), new(dns.Msg).SetNotify("example.org."),
		new(dns.Msg).SetAxfr("example.org."), new(dns.Msg).SetUpdate("example.org."), new(dns.Msg),
	} {
		packed, err := m.Pack()
		must(f, err)
		f.Add(packed, false)
		f.Add(packed, true)
	}
	f.Fuzz(func(t *testing.T, data []byte, tcp bool) {
		var m dns.Msg
		if m.Unpack(data) != nil {
			return
		}
		for _, handler := range []*Meshsync{answering.Meshsync, silent} {
			w := &writer{ResponseWriter: test.ResponseWriter{TCP: tcp}}
			if _, err := handler.ServeDNS(context.Background(), w, m.Copy()); err != nil {
				t.Fatal(err)
			}
			if w.said == nil {
				if handler == answering.Meshsync {
					t.Fatal("no answer")
				}
				continue
			}
			if packed, err := w.said.Pack(); err != nil || w.said.Id != m.Id || !w.said.Response || !tcp && len(packed) > maxUDP {
				t.Fatalf("%v: %d octets: %v\n%v", err, len(packed), w.said, &m)
			}
		}
	})
}
