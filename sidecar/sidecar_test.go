package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"github.com/coredns-anycast/coredns-anycast/internal/gate"
	"github.com/coredns-anycast/coredns-anycast/internal/instant"
	"github.com/coredns-anycast/coredns-anycast/internal/lab"
	"github.com/coredns-anycast/coredns-anycast/internal/socket"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
	"github.com/coredns-anycast/coredns-anycast/internal/sysclock"
	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
	"github.com/coredns-anycast/coredns-anycast/sidecar/admin"
	"github.com/coredns-anycast/coredns-anycast/sidecar/clock"
	"github.com/coredns-anycast/coredns-anycast/sidecar/config"
	"github.com/coredns-anycast/coredns-anycast/sidecar/mirror"
)

// node is a sidecar before a stand-in for CoreDNS: a meshsync socket and a name server on 127.0.0.1.
type node struct {
	t      *testing.T
	s      *sidecar
	said   atomic.Pointer[status.Node] // by meshsync
	serial atomic.Uint32               // in answers
	mute   atomic.Bool                 // the name server hangs
	refuse atomic.Bool                 // it serves no such zone
	leave  func()                      // meshsync ends
	wholes atomic.Int64                // times that its whole status was read
	text   string                      // of the configuration
	log    bytes.Buffer
}

func newNode(t *testing.T, policy string) *node {
	t.Helper()
	dir := t.TempDir()
	n := &node{t: t}
	port := n.nameServer()
	n.text = `node: tyo1
shared: [127.0.0.1]
socket: unix://` + dir + `/sidecar.sock
control: unix://` + dir + `/control.sock
state: ` + dir + `/state
meshsync: unix://` + dir + `/meshsync.sock
failure: {policy: ` + policy + `, readvertise_delay: 0s}
clock: {source: assumed, bound: 1ms}
probe: {interval: 100ms, timeout: 100ms, rise: 1, fall: 2, port: ` + strconv.Itoa(int(port)) + `}
`
	c, err := config.Parse("test", []byte(n.text))
	if err != nil {
		t.Fatal(err)
	}
	n.say(7, 7)
	n.serial.Store(7)
	server, err := socket.Serve(c.Meshsync, func() any {
		n.wholes.Add(1)
		return n.said.Load()
	})
	if err != nil {
		t.Fatal(err)
	}
	n.leave = sync.OnceFunc(func() { server.Close() })
	t.Cleanup(n.leave)
	n.s, err = newSidecar(c, slog.New(slog.NewTextHandler(&n.log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// say makes meshsync serve a release, or be silent for 0.
func (n *node) say(serving uint64, serial uint32) {
	said := &status.Node{Version: status.Version, Node: "tyo1", Mesh: "jp", Serving: serving, Staged: 8, Floor: 7,
		Confirms: status.Confirms{Staged: 8}, Zones: []status.Zone{{Origin: "example.org.", Serial: serial}}}
	if serving == 0 {
		said.Silent = []status.Reason{{Code: "lease-expired", Detail: "the lease ran out"}}
	}
	n.said.Store(said)
}

func (n *node) nameServer() uint16 {
	l, pc := testenv.ListenBoth(n.t)
	answer := dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		if n.mute.Load() {
			return
		}
		if n.refuse.Load() {
			w.WriteMsg(new(dns.Msg).SetRcode(q, dns.RcodeRefused))
			return
		}
		m := new(dns.Msg).SetReply(q)
		m.Authoritative = true
		m.Answer = []dns.RR{&dns.SOA{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeSOA, Class: dns.ClassINET},
			Ns: ".", Mbox: ".", Serial: n.serial.Load()}}
		w.WriteMsg(m)
	})
	for _, s := range []*dns.Server{{Listener: l, Handler: answer}, {PacketConn: pc, Handler: answer}} {
		ready := make(chan struct{})
		s.NotifyStartedFunc = func() { close(ready) }
		go s.ActivateAndServe()
		<-ready
		n.t.Cleanup(func() { s.Shutdown() })
	}
	return uint16(l.Addr().(*net.TCPAddr).Port)
}

// step is one turn of the control loop; it wants the route to be so, for this reason before others.
func (n *node) step(announced bool, code string) {
	n.t.Helper()
	n.s.look(n.t.Context())
	n.s.decide()
	d := n.s.status()
	if d.Announced != announced || d.Why[0].Code != code {
		n.t.Errorf("announced %v, why %v; want %v, %s", d.Announced, d.Why, announced, code)
	}
}

// The whole way from meshsync's word and the answers to the decision (FAIL-1, FAIL-2, FAIL-4, SYNC-F).
func TestControl(t *testing.T) {
	t.Run("withdraw", func(t *testing.T) {
		n := newNode(t, "withdraw")
		n.step(true, gate.Ready)
		n.say(0, 0)
		n.step(false, gate.MeshsyncSilent)
		if len(n.s.failures) != 0 {
			t.Errorf("%v are counted as faults of answers, and nothing was asked", n.s.failures)
		}
		n.say(7, 7)
		n.step(true, gate.Ready)
		n.serial.Store(6) // an old release is a wrong answer, twice, and then no route
		n.step(true, gate.Ready)
		n.step(false, gate.ProbeDown)
		n.serial.Store(7)
		n.step(true, gate.Ready)
		n.leave() // the word of meshsync alone is not missed
		n.step(true, gate.Ready)
		n.serial.Store(8) // nor known to be wrong
		n.step(true, gate.Ready)
		n.mute.Store(true)
		n.step(true, gate.Ready)
		n.step(false, gate.ProbeDown)
	})
	t.Run("stop-dns", func(t *testing.T) {
		n := newNode(t, "stop-dns")
		n.mute.Store(true)
		n.step(false, gate.NotReady)
		n.mute.Store(false)
		n.step(true, gate.Ready)
		n.say(0, 0)
		n.step(true, gate.MeshsyncSilent)
		n.mute.Store(true)
		n.say(7, 7)
		n.step(true, gate.ProbeDown)
	})
}

// The last words of a sidecar that is stopped in the middle of a look name no fault of the service.
func TestLookCutShort(t *testing.T) {
	n := newNode(t, "withdraw")
	n.step(true, gate.Ready)
	before := n.s.status().Why
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	n.s.look(ctx)
	n.s.decide()
	if why := n.s.status().Why; !slices.Equal(why, before) || len(n.s.failures) != 0 {
		t.Errorf("why %v, failures %v", why, n.s.failures)
	}
}

// A switchover between meshsync's word and the answer is no fault.
func TestSwitchoverDuringTheProbe(t *testing.T) {
	n := newNode(t, "withdraw")
	n.step(true, gate.Ready)
	old := n.said.Load()
	n.say(8, 8)
	n.serial.Store(8)
	if r := n.s.probe(t.Context(), old, gate.Serving); r.Verdict == gate.Bad {
		t.Errorf("a round with meshsync's word of before the switchover: %v", r.Why)
	}
	n.refuse.Store(true) // the zone has left the mesh with the next release
	n.say(9, 9)
	left := *n.said.Load() // which is being read
	left.Zones = []status.Zone{{Origin: "example.net.", Serial: 1}}
	n.said.Store(&left)
	if r := n.s.probe(t.Context(), old, gate.Serving); r.Verdict == gate.Bad {
		t.Errorf("a round with meshsync's word of before a zone left: %v", r.Why)
	}
	n.s.cfg().Probe.Zones = []string{"example.org."}
	if r := n.s.probe(t.Context(), old, gate.Serving); r.Verdict != gate.Bad {
		t.Error("a zone that the configuration wants is refused, and nothing is wrong")
	}
	n.s.cfg().Probe.Zones = nil
	n.say(0, 0)
	if r := n.s.probe(t.Context(), old, gate.Serving); r.Verdict != gate.Bad {
		t.Error("what a node that has fallen silent refuses is taken for good")
	}
}

// The confirmation is meshsync's word of now; without it there is none.
func TestConfirmation(t *testing.T) {
	n := newNode(t, "stop-dns")
	n.step(true, gate.Ready)
	c, err := n.s.confirmation(t.Context())
	if err != nil || c.Confirms.Staged != 8 || c.Serving != 7 || !c.Announced || !c.Remains || c.Node != "tyo1" {
		t.Errorf("confirmation %+v, %v", c, err)
	}
	n.mute.Store(true)
	n.step(true, gate.Ready)
	n.step(true, gate.ProbeDown)
	if c, err := n.s.confirmation(t.Context()); err != nil || !c.Announced || c.Remains {
		t.Errorf("confirmation %+v, %v: nobody may count on a node that is announced and does not answer (FAIL-4)", c, err)
	}
	n.mute.Store(false)
	n.step(true, gate.Ready)
	n.s.cfg().BGP = &config.BGP{} // of which no session is there
	if c, err := n.s.confirmation(t.Context()); err != nil || c.Announced || !c.Wanted || c.Remains || !has(c.Why, NotTold) {
		t.Errorf("confirmation %+v, %v: nobody may count on a route that no router has been told (FAIL-4), and it is not announced", c, err)
	}
	if doc := n.s.status(); doc.Announced || !doc.Wanted || !has(doc.Why, NotTold) {
		t.Errorf("status %+v of a route that no router has been told", doc)
	}
	now := sysclock.Now().Mono
	n.s.timeUntold(now.Add(-time.Hour))
	n.s.timeUntold(now)
	if c, err := n.s.confirmation(t.Context()); err != nil || c.Untold < time.Hour {
		t.Errorf("confirmation %+v, %v: no router was told for an hour", c, err)
	}
	n.s.cfg().BGP = nil
	n.s.timeUntold(now)
	if c, err := n.s.confirmation(t.Context()); err != nil || c.Untold != 0 || n.s.untold != 0 {
		t.Errorf("confirmation %+v, %v: it is announced", c, err)
	}
	n.say(0, 0)
	if c, err := n.s.confirmation(t.Context()); err != nil || c.Serving != 0 || c.Remains || c.Silent[0].Code != "lease-expired" {
		t.Errorf("confirmation of a silent node %+v, %v: want its silence, at once", c, err)
	}
	n.leave()
	n.step(true, gate.Ready)
	c, err = n.s.confirmation(t.Context())
	unwell := new(admin.UnwellError)
	if !errors.As(err, &unwell) || !strings.Contains(err.Error(), "meshsync does not answer") {
		t.Errorf("confirmation %+v, %v without meshsync", c, err)
	} else if said := unwell.Document.(status.Confirmation); said.Confirms != (status.Confirms{}) || said.Node != "tyo1" || !has(said.Why, gate.MeshsyncUnknown) {
		t.Errorf("without meshsync it says %+v: want why, and that it confirms nothing", said)
	}
	n.s.cfg().Meshsync = ""
	if _, err := n.s.confirmation(t.Context()); err != errNoMeshsync {
		t.Errorf("error %v", err)
	}
}

// What keeps the routes from being as decided is in the status and the metrics, and in the log once.
func TestRouteFault(t *testing.T) {
	n := newNode(t, "stop-dns")
	n.step(true, gate.Ready)
	for _, c := range []struct {
		err    error
		fault  string
		metric string
		lines  int
	}{
		{nil, "", "anycast_route_fault 0\n", 0}, {errors.New("eth7 is gone"), "eth7 is gone", "anycast_route_fault 1\n", 1},
		{errors.New("eth7 is gone"), "eth7 is gone", "anycast_route_fault 1\n", 1}, {nil, "", "anycast_route_fault 0\n", 2},
	} {
		n.s.set(c.err)
		w := httptest.NewRecorder()
		metricsHandler(n.s).ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
		if got := n.s.status().Fault; got != c.fault || !strings.Contains(w.Body.String(), c.metric) {
			t.Errorf("%v: fault %q, want %q and %s", c.err, got, c.fault, c.metric)
		}
		if got := strings.Count(n.log.String(), "the routes are"); got != c.lines {
			t.Errorf("%v: %d lines in the log, want %d:\n%s", c.err, got, c.lines, &n.log)
		}
	}
}

// The socket gives meshsync the clock, and the status command the rest; the text is small whatever meshsync says.
func TestSocketDocument(t *testing.T) {
	n := newNode(t, "stop-dns")
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	go n.s.clock.Run(ctx, time.Hour)
	n.step(true, gate.Ready)
	var started closers
	if err := n.s.serve(&started); err != nil {
		t.Fatal(err)
	}
	defer started.close()
	var said status.Clock
	lab.WaitFor(t, "the clock is synchronised", func() bool {
		lab.Must(t, socket.Read(t.Context(), n.s.cfg().Socket, &said))
		return said.State == "synchronised"
	})
	if said.Sample.Source != "assumed" || said.Sample.Bound != time.Millisecond || said.Sample.At == (instant.Instant{}) {
		t.Errorf("clock %+v", said)
	}
	var raw json.RawMessage
	if err := socket.Read(t.Context(), n.s.cfg().Socket, &raw); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"announced":true`, `"node":"tyo1"`, gate.Ready} {
		if !strings.Contains(string(raw), want) {
			t.Errorf("no %s in\n%s", want, raw)
		}
	}
	if strings.Contains(string(raw), `"meshsync"`) {
		t.Error("meshsync reads its own words back with every sample of the clock")
	}
	n.leave()
	n.step(true, gate.Ready)
	if err := socket.Read(t.Context(), n.s.cfg().Socket, &raw); err != nil || !strings.Contains(string(raw), gate.MeshsyncUnknown) { // though the status before is young
		t.Errorf("%v, and after another decision the socket says\n%s", err, raw)
	}
}

// What fails by itself is a warning, a route that goes for it an error, and nothing that an operator asked for is either. A
// healthy start says neither.
func TestHowLoudTheLogIs(t *testing.T) {
	n := newNode(t, "withdraw")
	said := func(want string, lines ...string) {
		t.Helper()
		got := ""
		for line := range strings.Lines(n.log.String()) {
			if strings.Contains(line, "level=WARN") || strings.Contains(line, "level=ERROR") {
				got += line[strings.Index(line, "level="):]
			}
		}
		n.log.Reset()
		for _, line := range lines {
			if !strings.Contains(got, line) {
				t.Errorf("%s: no line %q", want, line)
			}
		}
		if (got == "") != (len(lines) == 0) {
			t.Errorf("%s: got\n%s", want, got)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	var clocks sync.WaitGroup
	clocks.Go(func() { n.s.clock.Run(ctx, time.Minute) })
	lab.WaitFor(t, "the clock has no fault", func() bool { return n.s.clock.Fault() == "" })
	cancel()
	clocks.Wait()
	n.mute.Store(true)
	n.step(false, gate.NotReady)
	n.mute.Store(false)
	n.step(true, gate.Ready)
	said("a start")
	n.mute.Store(true)
	n.step(true, gate.Ready)
	said("a bad round", `level=WARN msg="reasons have changed"`, "probe-hanging")
	n.step(false, gate.ProbeDown)
	said("a withdrawal", "level=ERROR msg=withdrawing", "probe-hanging")
	n.mute.Store(false)
	n.step(true, gate.Ready)
	n.s.setDrain(&status.Drain{Who: "jane"}, 0)
	n.step(false, gate.Drained)
	n.mute.Store(true)
	n.step(false, gate.Drained)
	said("a drain")

	late := newNode(t, "withdraw")
	late.mute.Store(true)
	late.s.since = time.Now().Add(-startGrace)
	late.step(false, gate.NotReady)
	late.step(false, gate.NotReady)
	if got := strings.Count(late.log.String(), `level=WARN msg="not announced yet"`); got != 1 {
		t.Errorf("%d lines of a node that never becomes good in\n%s", got, late.log.String())
	}
}

// Metrics pass the linter, carry the same words as the status, and keep foreign names for the same meaning.
func TestMetrics(t *testing.T) {
	n := newNode(t, "withdraw")
	n.step(true, gate.Ready)
	n.mute.Store(true)
	n.step(true, gate.Ready)
	n.step(false, gate.ProbeDown)
	server := httptest.NewServer(metricsHandler(n.s))
	defer server.Close()
	r, err := http.Get(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	text, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`anycast_announced 0`, `anycast_reason{code="probe-down"} 1`, `anycast_reason{code="ready"} 0`,
		`anycast_probe_up{address="127.0.0.1",network="udp"} 0`, `anycast_probe_faults_total{code="probe-hanging"} 4`,
		`anycast_reason{code="probe-hanging"} 1`, `anycast_reason{code="probe-dead"} 0`,
		`anycast_route_changes_total{to="announced"} 1`, `anycast_route_changes_total{to="withdrawn"} 1`, `anycast_meshsync_up 1`,
	} {
		if !strings.Contains(string(text), want+"\n") {
			t.Errorf("no %s in\n%s", want, text)
		}
	}
	problems, err := promlint.New(bytes.NewReader(text)).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		if !strings.HasPrefix(p.Metric, "go_") && !strings.HasPrefix(p.Metric, "process_") {
			t.Errorf("%s: %s", p.Metric, p.Text)
		}
	}
}

// families gives a family of each metric.
type families []metric

func (families) Describe(chan<- *prometheus.Desc) {}
func (f families) Collect(out chan<- prometheus.Metric) {
	for _, m := range f {
		out <- prometheus.MustNewConstMetric(m.Desc, m.kind, 0)
	}
}

// The clock's metrics have names as they should be, what a source gives is among them, and README.md of the package tells each.
func TestClockMetrics(t *testing.T) {
	readme, err := os.ReadFile("clock/README.md")
	if err != nil {
		t.Fatal(err)
	}
	r := prometheus.NewPedanticRegistry()
	var all families
	rows := map[clock.Metric]bool{}
	for _, kind := range clock.Kinds {
		for _, m := range kind.Metrics {
			rows[m] = true
			if all = append(all, gauge(m.Name, m.Help)); !strings.Contains(string(readme), "`"+m.Name+"`") {
				t.Errorf("clock/README.md lacks %s", m.Name)
			}
		}
	}
	r.MustRegister(all)
	gathered, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	problems, err := promlint.NewWithMetricFamilies(gathered).Lint()
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
	if err != nil || len(gathered) != len(all) {
		t.Errorf("%d families of %d, %v", len(gathered), len(all), err)
	}
	kernel, _ := (&clock.Kernel{}).Poll(t.Context())
	chrony, why := clock.Chrony{Address: neverSynchronised(t)}.Poll(t.Context())
	for _, said := range []clock.Reading{kernel, chrony} {
		for _, v := range said.Metrics {
			if !rows[v.Metric] {
				t.Errorf("a source gives %s, which is in no row", v.Name)
			}
		}
	}
	if len(kernel.Metrics)+len(chrony.Metrics) != len(all) {
		t.Errorf("of %d metrics the kernel gives %d, chronyd %d (%v)", len(all), len(kernel.Metrics), len(chrony.Metrics), why)
	}
}

// novel is a source with a metric that nobody has heard of.
type novel struct{}

func (novel) Poll(context.Context) (clock.Reading, error) {
	return clock.Reading{Metrics: []clock.Value{{Metric: clock.Metric{Name: "novel_temperature_celsius", Help: "Of the crystal."}, Value: 40}}}, nil
}

// A source brings its metrics along, so that none can be unknown when they are asked for.
func TestAnyClockSourceCanBeScraped(t *testing.T) {
	n := newNode(t, "withdraw")
	n.s.clock = clock.NewKeeper(novel{}, time.Second, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go n.s.clock.Run(ctx, time.Minute)
	server := httptest.NewServer(metricsHandler(n.s))
	defer server.Close()
	lab.Within(t, lab.Patience, "the source's metric is told", func() (bool, string) {
		r, err := http.Get(server.URL)
		lab.Must(t, err)
		defer r.Body.Close()
		text, _ := io.ReadAll(r.Body)
		return strings.Contains(string(text), "novel_temperature_celsius 40"), fmt.Sprintf("%s\n%s", r.Status, text)
	})
}

// fading certifies the clock once.
type fading struct{ polled atomic.Bool }

func (f *fading) Poll(context.Context) (clock.Reading, error) {
	if f.polled.Swap(true) {
		return clock.Reading{}, errors.New("chronyd does not answer")
	}
	return clock.Reading{Sample: instant.Sample{At: sysclock.Now(), Bound: time.Millisecond, DriftPPM: 50, Source: "chrony"}}, nil
}

// TestAClockWithoutItsSourceIsAWarning of the node's word, with how long it is good enough, while the node answers as before.
func TestAClockWithoutItsSourceIsAWarning(t *testing.T) {
	n := newNode(t, "withdraw")
	word := func() status.Confirmation {
		c, err := n.s.confirmation(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	if c := word(); len(c.Warnings) != 0 {
		t.Errorf("a clock that was not asked yet: %v", c.Warnings)
	}
	n.s.clock = clock.NewKeeper(new(fading), 100*time.Millisecond, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go n.s.clock.Run(ctx, time.Millisecond)
	lab.Within(t, lab.Patience, "there is a warning", func() (bool, string) {
		c := word()
		said := fmt.Sprint(c.Warnings)
		return strings.Contains(said, "clock-holdover: chronyd does not answer; it may be wrong by 1.") && strings.Contains(said, "and in 32m") && c.Serving != 0, fmt.Sprintf("%+v", c)
	})
}

// neverSynchronised answers as a chronyd does that has heard of nobody yet.
func neverSynchronised(t *testing.T) netip.AddrPort {
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	go func() {
		b := make([]byte, 512)
		_, from, err := conn.ReadFrom(b)
		if err != nil {
			return
		}
		reply := make([]byte, 104)
		copy(reply, []byte{6, 2, 0, 0, b[4], b[5], 0, 5}) // version, a reply, to the command, with tracking
		copy(reply[16:20], b[8:12])                       // its sequence
		conn.WriteTo(reply, from)
	}()
	return conn.LocalAddr().(*net.UDPAddr).AddrPort()
}

// check says what is announced to whom, in words that stay.
func TestDescribe(t *testing.T) {
	c, err := config.Load(filepath.Join(testenv.Top(t), "sidecar.example.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	describe(&out, c)
	want := `node tyo1 answers on 192.0.2.53 and 2001:db8:53::53
announces as AS 64500, router id 198.51.100.7:
  192.0.2.0/24 to 198.51.100.1 (AS 64501), next hop this side of the session
  2001:db8:53::/48 to 198.51.100.1 (AS 64501), next hop 2001:db8:100::7
announced once the DNS service has answered 3 rounds of the probe; policy stop-dns: from then on the route stays until the sidecar is stopped
warning: identity.ca: open /etc/mesh/ca.crt: no such file or directory
`
	if !strings.HasPrefix(out.String(), want) {
		t.Errorf("check says\n%s\nwant\n%s", &out, want)
	}
	c.Clock = config.Clock{Options: clock.Options{Source: "assumed", Bound: time.Millisecond}}
	c.BGP.Prefixes[0] = netip.MustParsePrefix("192.0.2.53/32")
	c.BGP.Neighbors[0].Communities, c.BGP.Neighbors[0].Prepend = []config.Community{{Text: "65535:65281"}}, 2
	c.IGP = &config.IGP{Interface: "anycast0", Lifetime: 5 * time.Second}
	c.Failure.Policy = gate.Withdraw
	c.BGP.Prefixes = append(c.BGP.Prefixes, netip.MustParsePrefix("192.0.0.0/2"))
	out.Reset()
	describe(&out, c)
	for _, want := range []string{"warning: prefix 192.0.0.0/2 is shorter than /8", "warning: prefix 192.0.0.0/2 holds admin.listen 198.51.100.7: ",
		"warning: prefix 192.0.0.0/2 holds the neighbor 198.51.100.1: ",
		"warning: clock.source assumed", "warning: prefix 192.0.2.53/32 is longer than /24", "back after 30s",
		"192.0.2.53/32 to 198.51.100.1 (AS 64501), next hop this side of the session, community 65535:65281, prepended 2 times\n",
		"announces by the IGP: brings 192.0.2.53 and 2001:db8:53::53 up on anycast0 for 5s at a time\n"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, &out)
		}
	}
}

// A password is the first line of its file, and nothing that only looks like one.
func TestPassword(t *testing.T) {
	file := filepath.Join(t.TempDir(), "secret")
	for text, want := range map[string]string{"x y\n": "x y", "x": "x", "x\nfor as64501\n": "x", "": "is empty", "\nx": "is empty",
		"x\r\n": "control character", "x\x00": "control character"} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := readPassword(file)
		if err != nil {
			got = err.Error()
		}
		if got != want && (err == nil || !strings.HasSuffix(strings.Split(got, ": was")[0], want)) {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
	if got, err := readPassword(""); got != "" || err != nil {
		t.Errorf("no file: %q, %v", got, err)
	}
}

// A repository that is not as it should be is a warning of the member, by its name, while another one is followed.
func TestRepositoriesAreWarnedOf(t *testing.T) {
	m := status.Mirroring{Repositories: []status.Repository{{URL: "https://a/", State: mirror.Good},
		{URL: "https://b/", State: mirror.Behind, Detail: "it stands still"}, {URL: "https://c/", State: mirror.Unseen}}}
	if got := fmt.Sprint(repositoryWarnings(m)); got != "[repository-behind: https://b/: it stands still]" {
		t.Errorf("warnings %s", got)
	}
	m.LastError = "none can be followed"
	if got := repositoryWarnings(m); got != nil {
		t.Errorf("none can be followed, and beside that %v", got)
	}
}
