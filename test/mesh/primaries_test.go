package mesh_test

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/lab"
	"github.com/coredns-anycast/coredns-anycast/internal/testca"
	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
)

// The hidden primaries run on one host, each with its own way of handing zones out:
//
//	knot.example    Knot, which signs it (NSEC3, ZONEMD)     TSIG
//	bind.example    BIND                                     TSIG
//	xot.example     BIND                                     TSIG over TLS, both sides authenticated (RFC 9103)
//	nsd.example     NSD                                      TSIG
const (
	hiddenAddress = "198.51.100.6"
	xfrSecret     = "c2VjcmV0IHRoYXQgeW91IHdpbGwgcmVwbGFjZSE="
)

var hiddenZones = []string{"knot.example.", "bind.example.", "xot.example.", "nsd.example."}

// primaries are the daemons on the host "hidden".
type primaries struct {
	*mesh
	of  map[string]*lab.Process // by origin
	pin string                  // of BIND's certificate
	us  testca.Identity         // who we are to BIND
}

func (m *mesh) startPrimaries() *primaries {
	m.t.Helper()
	testenv.Need(m.t, "knotd", "named", "nsd")
	p := &primaries{mesh: m, of: map[string]*lab.Process{}}
	m.must(os.MkdirAll(m.path("hidden"), 0o755))
	for _, origin := range hiddenZones {
		p.write(origin, 1)
	}
	ca := testca.New(m.t)
	server := ca.Identity("primary", time.Hour)
	p.us, p.pin = ca.Identity("us", time.Hour), pinOf(m, server.Certificate)
	knot := m.startHidden(signingKnot(m.path("hidden"), "knot.example.", p.file("knot.example."), false))
	bind, nsd := m.startHidden(p.bind(server)), m.startHidden(p.nsd())
	p.of["knot.example."], p.of["bind.example."], p.of["xot.example."], p.of["nsd.example."] = knot, bind, bind, nsd
	return p
}

// startHidden starts a name server on that host.
func (m *mesh) startHidden(server *lab.NameServer) *lab.Process {
	m.t.Helper()
	p := m.start("hidden", server.Kind, server.Argv(m.t, testenv.Need(m.t, server.Kind)[0])...)
	m.top.Cleanup(p.Stop)
	return p
}

// hiddenServer is what the name servers there have in common.
func hiddenServer(kind, dir string, port uint16) *lab.NameServer {
	return &lab.NameServer{Kind: kind, Dir: dir, Listen: []netip.AddrPort{netip.AddrPortFrom(netip.MustParseAddr(hiddenAddress), port)},
		Keys: []lab.TSIG{{Name: "xfr", Algorithm: "hmac-sha256", Secret: xfrSecret}}}
}

func (p *primaries) file(origin string) string { return p.path("hidden", origin+"zone") }

// write writes a version of a zone. Knot counts serials by itself.
func (p *primaries) write(origin string, version int) {
	text := fmt.Sprintf(`$ORIGIN %s
$TTL 60
@       SOA  ns1 hostmaster %d 3600 900 1209600 300
@       NS   ns1
@       NS   ns.elsewhere.net.
ns1     A    %s
release TXT  "%d"
`, origin, version, shared4, version)
	for i := range 40 {
		text += fmt.Sprintf("host%d A 192.0.2.%d\n", i, i)
	}
	p.mesh.must(os.Rename(p.mesh.write("hidden/new", text), p.file(origin)))
}

// change has a primary serve a new version of a zone.
func (p *primaries) change(origin string, version int) {
	p.write(origin, version)
	p.of[origin].Signal(syscall.SIGHUP)
}

// signingKnot is a Knot that signs a zone from a file, and counts its serial by itself.
func signingKnot(dir, origin, file string, optOut bool) *lab.NameServer {
	s := hiddenServer("knotd", dir, 5301)
	s.Signs(lab.SignedZone{Origin: origin, File: file, OptOut: optOut, ByFile: true, ZONEMD: "zonemd-sha384",
		Tells: map[string]netip.AddrPort{"us": netip.MustParseAddrPort("198.51.100.1:5300")}})
	return s
}

func (p *primaries) bind(own testca.Identity) *lab.NameServer {
	s := hiddenServer("named", p.path("hidden"), 5302)
	s.Rest = fmt.Sprintf("tls xot { cert-file %q; key-file %q; ca-file %q; protocols { TLSv1.3; }; };\n", own.Certificate, own.Key, own.CA)
	s.Options = fmt.Sprintf(`  listen-on port 8530 tls xot { %s; };
  notify explicit; notify-delay 0; also-notify { 198.51.100.1 port 5300 key xfr; };
  allow-transfer { key xfr; }; ixfr-from-differences yes; check-integrity no;
`, hiddenAddress)
	s.Zones = []lab.ServedZone{{Origin: "bind.example", File: p.file("bind.example.")},
		{Origin: "xot.example", File: p.file("xot.example."), More: "allow-transfer port 8530 transport tls { key xfr; }; "}}
	return s
}

func (p *primaries) nsd() *lab.NameServer {
	s := hiddenServer("nsd", p.path("hidden"), 5303)
	s.Zones = []lab.ServedZone{{Origin: "nsd.example", File: p.file("nsd.example."),
		More: "  store-ixfr: yes\n  create-ixfr: yes\n  provide-xfr: 198.51.100.1 xfr\n  notify: 198.51.100.1@5300 xfr\n"}}
	return s
}

// sources is the configuration of "meshctl serve" that follows them.
func (p *primaries) sources() string {
	return fmt.Sprintf(`sources:
  keys: [{name: xfr, secret: %s}]
  primaries:
    - {name: knot, servers: [{address: '%[2]s:5301', key: xfr}]}
    - {name: bind, servers: [{address: '%[2]s:5302', key: xfr}]}
    - {name: xot, servers: [{address: '%[2]s:8530', key: xfr, tls: {pins: [%[3]s], certificate: %[4]s, key: %[5]s}}]}
    - {name: nsd, servers: [{address: '%[2]s:5303', key: xfr}]}
  zones:
    - {names: [knot.example], primaries: knot}
    - {names: [bind.example], primaries: bind}
    - {names: [xot.example], primaries: xot}
    - {names: [nsd.example], primaries: nsd}
  notify: {listen: ['198.51.100.1:5300']}
checks:
  zones: {knot.example: {dnssec: require, zonemd: require}}
`, xfrSecret, hiddenAddress, p.pin, p.us.Certificate, p.us.Key)
}

func pinOf(m *mesh, file string) string {
	m.t.Helper()
	block, _ := pem.Decode([]byte(readFile(file)))
	certificate, err := x509.ParseCertificate(block.Bytes)
	m.must(err)
	pin := sha256.Sum256(certificate.RawSubjectPublicKeyInfo)
	return base64.StdEncoding.EncodeToString(pin[:])
}

// TestUnattended: what four primaries of three kinds change flows through "meshctl serve" to three nodes, release after
// release, with nobody at hand, while clients ask. Every release is confirmed, scheduled and switched to by all; what
// clients saw, and what which-node and the history say, is the same (SYNC-A … SYNC-G). FULL=1: thirty releases.
func TestUnattended(t *testing.T) {
	m := meshOf(newWorld(t), "tyo", "osa", "fra")
	m.machines("hidden")
	m.startTime()
	p := m.startPrimaries()
	m.init()
	m.world.write("home/meshctl.yaml", "releases: {every: 1s}\nserve: {listen: '198.51.100.1:8443'}\n"+p.sources())
	serve := m.start("dist", "serve", m.bin+"/meshctl", "--home", m.path("home"), "serve")
	for _, node := range m.nodes {
		m.startNode(node)
	}
	for _, origin := range hiddenZones {
		m.awaitVersion(origin, 1)
	}
	changes := 8
	if os.Getenv("FULL") != "" {
		changes = 30
	}
	first := len(m.history())
	var clients []*client
	for _, node := range m.nodes {
		clients = append(clients, m.client(node))
	}
	for i := range changes {
		origin, version := hiddenZones[i%len(hiddenZones)], i/len(hiddenZones)+2
		p.change(origin, version)
		m.awaitVersion(origin, version)
	}
	var history []pastRelease
	m.eventually(30*time.Second, "all switchovers are on record", func() (bool, string) {
		history = m.history()
		return len(history) == first+changes && len(history[0].Results) == len(m.nodes), lab.Tail(serve.Log, 3)
	})
	for _, r := range history {
		for _, result := range r.Results {
			if !result.Switched {
				t.Errorf("release %d: %s missed it: %s", r.Number, result.Member, result.Why)
			}
		}
		if len(r.Results) != len(m.nodes) && r.Number != 1 || r.Switchover.IsZero() || !strings.HasPrefix(r.By, "meshctl serve on ") {
			t.Errorf("release %d: %+v", r.Number, r)
		}
	}
	m.agrees(history, clients)
	m.whichNodeAgrees(history)
	log := readFile(serve.Log)
	for _, how := range []string{"how=axfr", "how=ixfr"} {
		if !strings.Contains(log, how) {
			t.Errorf("nothing was received with %s", how)
		}
	}
	t.Logf("%d releases, %d of them while clients asked; %d withdrawn; IXFR %d, AXFR %d", len(history), changes,
		strings.Count(log, "switchover withdrawn"), strings.Count(log, "how=ixfr"), strings.Count(log, "how=axfr"))
}

// awaitVersion waits until every node answers with that version of a zone.
func (m *mesh) awaitVersion(origin string, version int) {
	m.t.Helper()
	want := fmt.Sprintf("%q", fmt.Sprint(version))
	for _, node := range m.nodes {
		m.eventually(90*time.Second, fmt.Sprintf("%s answers with version %d of %s", node, version, origin), func() (bool, string) {
			r := m.ask(node, "udp", shared4, "release."+origin, dns.TypeTXT)
			if r == nil || len(r.Answer) == 0 {
				return false, fmt.Sprint("no answer; ", lab.Tail(m.path("dist-serve.Log"), 2))
			}
			return strings.Contains(r.Answer[0].String(), want), r.Answer[0].String() + "; " + lab.Tail(m.path("dist-serve.Log"), 2)
		})
	}
}

// pastRelease is what "meshctl history --json" says of a release.
type pastRelease struct {
	Number     uint64    `json:"number"`
	By         string    `json:"by"`
	Switchover time.Time `json:"switchover"`
	Zones      []struct {
		Origin string `json:"origin"`
		To     uint32 `json:"to"`
	} `json:"zones"`
	Results []struct {
		Member   string `json:"member"`
		Switched bool   `json:"switched"`
		Why      string `json:"why"`
	} `json:"results"`
}

func (m *mesh) history() (all []pastRelease) {
	m.t.Helper()
	m.must(json.Unmarshal([]byte(m.meshctl("history", "--last", "1000", "--json")), &all))
	return all
}

// since is from when a serial was the one to answer with.
type since struct {
	at     time.Time
	serial uint32
}

// timeline says which serial of a zone was in force when, the oldest first.
func timeline(history []pastRelease, origin string) (line []since) {
	for i := len(history) - 1; i >= 0; i-- {
		for _, z := range history[i].Zones {
			if z.Origin == origin && !history[i].Switchover.IsZero() {
				line = append(line, since{history[i].Switchover, z.To})
			}
		}
	}
	return line
}

// inForce reports whether a serial may be seen in an answer to what was asked at sent and came at got, clocks being wrong
// by e at the most.
func inForce(line []since, serial uint32, sent, got time.Time, e time.Duration) bool {
	for i, s := range line {
		if s.serial == serial && !got.Before(s.at.Add(-e)) && (i+1 == len(line) || !sent.After(line[i+1].at.Add(e))) {
			return true
		}
	}
	return false
}

// agrees compares every answer that clients saw with the history.
func (m *mesh) agrees(history []pastRelease, clients []*client) {
	var bound time.Duration
	for _, node := range m.nodes {
		n, _ := m.status(node)
		bound = max(bound, n.Clock.Bound)
	}
	lines := map[string][]since{}
	for _, origin := range hiddenZones {
		lines[origin] = timeline(history, origin)
	}
	for _, c := range clients {
		seen := c.end()
		lost, wrong := 0, 0
		for _, s := range seen {
			switch {
			case s.got.IsZero():
				lost++
			case !inForce(lines[s.origin], s.serial, s.sent, s.got, bound):
				wrong++
			}
		}
		m.t.Logf("%s: %d answers, %d lost, %d that the history does not explain; clock within %v", c.node, len(seen), lost, wrong, bound)
		if wrong+lost > 0 || len(seen) < 500 {
			m.errorf("%s: %d lost and %d wrong of %d", c.node, lost, wrong, len(seen))
		}
	}
}

// whichNodeAgrees asks each node by name who answers, and with which serial.
func (m *mesh) whichNodeAgrees(history []pastRelease) {
	for _, node := range m.nodes {
		for _, origin := range hiddenZones {
			var said []struct {
				ID     string `json:"id_server"`
				NSID   string `json:"nsid"`
				Serial uint32 `json:"serial"`
			}
			m.must(json.Unmarshal([]byte(m.mustRun(node, filepath.Join(m.bin, "meshctl"), "which-node", "--json", "--zone", origin, shared4, shared6)), &said))
			line := timeline(history, origin)
			for _, s := range said {
				if s.ID != node || s.NSID != node || s.Serial != line[len(line)-1].serial {
					m.errorf("which-node at %s for %s: %+v, history %+v", node, origin, s, line[len(line)-1])
				}
			}
			if len(said) != 4 {
				m.errorf("which-node at %s: %+v", node, said)
			}
		}
	}
}

// client asks one node for the SOA of each zone in turn, until it is told to end.
type client struct {
	node string
	seen []sighting
	stop chan struct{}
	done sync.WaitGroup
}

// sighting is one question's fate; got is zero when it was lost.
type sighting struct {
	origin    string
	serial    uint32
	sent, got time.Time
}

func (m *mesh) client(node string) *client {
	c := &client{node: node, stop: make(chan struct{})}
	conn := &dns.Conn{Conn: m.dial(node, "udp", shared4+":53")}
	m.top.Cleanup(func() { conn.Close() })
	c.done.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-c.stop:
				return
			case <-time.After(5 * time.Millisecond):
			}
			c.seen = append(c.seen, ask(conn, hiddenZones[i%len(hiddenZones)]))
		}
	})
	return c
}

// ask puts one question and waits for its answer.
func ask(conn *dns.Conn, origin string) sighting {
	s := sighting{origin: origin, sent: time.Now()}
	q := new(dns.Msg).SetQuestion(origin, dns.TypeSOA)
	conn.SetDeadline(s.sent.Add(lostAfter))
	if conn.WriteMsg(q) != nil {
		return s
	}
	for {
		r, err := conn.ReadMsg()
		if err != nil {
			return s
		}
		if r.Id != q.Id { // of a question that was given up
			continue
		}
		if len(r.Answer) == 1 {
			if soa, ok := r.Answer[0].(*dns.SOA); ok {
				s.serial, s.got = soa.Serial, time.Now()
			}
		}
		return s
	}
}

func (c *client) end() []sighting {
	close(c.stop)
	c.done.Wait()
	return c.seen
}
