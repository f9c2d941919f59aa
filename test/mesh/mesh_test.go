package mesh_test

import (
	"fmt"
	"math/rand"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/lab"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
)

// TestSwitchover: under a steady load to three nodes, in both families, no query is lost and no answer is of the wrong
// release outside T ± the clock error (SYNC-E, SYNC-H, HOST-4).
func TestSwitchover(t *testing.T) {
	m := newMesh(newWorld(t), "tyo", "osa", "fra")
	for range 3 {
		before := m.number
		m.release()
		loads := map[string]*lab.Load{}
		for _, node := range m.nodes {
			loads[node+" v4"] = m.load(node, shared4, 2*time.Millisecond)
			loads[node+" v6"] = m.load(node, shared6, 5*time.Millisecond)
		}
		m.schedule()
		for _, node := range m.nodes {
			m.awaitServing(node, m.number)
		}
		n, _ := m.status("tyo")
		at, e := n.Switched.At.Time(), n.Clock.Bound
		for _, l := range loads {
			l.Stop()
		}
		for who, l := range loads {
			answers := l.End()
			if lost, wrong := lab.Lost(answers), len(lab.Wrong(answers, before, m.number, at, e)); lost+wrong > 0 || !lab.Around(answers, at) {
				t.Errorf("%s: of %d queries, some of them around the switchover, %d lost, %d from the wrong release", who, len(answers), lost, wrong)
			}
		}
		for _, node := range m.nodes {
			n, _ := m.status(node)
			if !n.Switched.At.Time().Equal(at) || n.Switched.Lateness < 0 || n.Clock.Bound > 100*time.Millisecond {
				t.Errorf("%s switched for %v, %v late, clock within %v; tyo for %v", node, n.Switched.At, n.Switched.Lateness, n.Clock.Bound, at)
			}
			t.Logf("release %d: %s switched %v after the instant, clock within %v", m.number, node, n.Switched.Lateness, n.Clock.Bound)
		}
	}
}

// TestOneNode tries on one node what can happen to any.
func TestOneNode(t *testing.T) {
	m := newMesh(newWorld(t), "tyo")
	t.Run("answers only on the shared address and with authority", m.sub(m.testAuthority))
	t.Run("garbage on port 53", m.sub(m.testGarbage))
	t.Run("reload under load loses nothing", m.sub(m.testReload))
	t.Run("damaged and replayed depots", m.sub(m.testDepots))
	t.Run("killed anywhere, the floor holds", m.sub(m.testKills))
	t.Run("clock unsynchronised, local, and back", m.sub(m.testClock))
}

// sub makes what fails in a subtest fail that.
func (m *mesh) sub(test func(*testing.T)) func(*testing.T) {
	return func(t *testing.T) {
		outer := m.t
		m.t = t
		defer func() { m.t = outer }()
		test(t)
	}
}

// testAuthority: HOST-2, HOST-3, XFER-1, ADMIN-1.
func (m *mesh) testAuthority(t *testing.T) {
	for _, network := range []string{"udp", "tcp"} {
		for _, address := range []string{shared4, shared6} {
			r := m.ask("tyo", network, address, "release.example.org.", dns.TypeTXT)
			if r == nil || r.Rcode != dns.RcodeSuccess || !r.Authoritative || r.RecursionAvailable || len(r.Answer) != 1 {
				t.Errorf("%s %s: %v", network, address, r)
			}
			for name, qtype := range map[string]uint16{"example.com.": dns.TypeA, "example.org.": dns.TypeAXFR, ".": dns.TypeNS} {
				if r := m.ask("tyo", network, address, name, qtype); r == nil || r.Rcode != dns.RcodeRefused {
					t.Errorf("%s %s %s %s: %v", network, address, name, dns.TypeToString[qtype], r)
				}
			}
		}
	}
	m.testNames(t)
	conn := m.dial("tyo", "udp", m.admin("tyo")+":53")
	defer conn.Close()
	q, _ := new(dns.Msg).SetQuestion("example.org.", dns.TypeSOA).Pack()
	conn.Write(q)
	conn.SetReadDeadline(time.Now().Add(500 * time.Millisecond))
	if n, err := conn.Read(make([]byte, 512)); err == nil {
		t.Errorf("the administrative address answered with %d bytes", n)
	}
}

// testNames asks in the two ways in which a node says who it is: NSID (RFC 5001) and CHAOS id.server (ADMIN-1).
func (m *mesh) testNames(t *testing.T) {
	conn := &dns.Conn{Conn: m.dial("tyo", "udp", shared4+":53")}
	defer conn.Close()
	q := new(dns.Msg).SetQuestion("example.org.", dns.TypeSOA)
	q.SetEdns0(1232, false)
	q.IsEdns0().Option = append(q.IsEdns0().Option, &dns.EDNS0_NSID{Code: dns.EDNS0NSID})
	conn.SetDeadline(time.Now().Add(time.Second))
	conn.WriteMsg(q)
	r, err := conn.ReadMsg()
	if err != nil || r.IsEdns0() == nil || r.IsEdns0().Do() || !strings.Contains(r.IsEdns0().String(), "(t)(y)(o)") {
		t.Errorf("NSID: %v %v", err, r)
	}
	id := new(dns.Msg).SetQuestion("id.server.", dns.TypeTXT)
	id.Question[0].Qclass = dns.ClassCHAOS
	conn.WriteMsg(id)
	if r, err := conn.ReadMsg(); err != nil || len(r.Answer) != 1 || !strings.Contains(r.Answer[0].String(), `"tyo"`) {
		t.Errorf("id.server: %v %v", err, r)
	}
	out := m.mustRun("tyo", filepath.Join(m.bin, "meshctl"), "which-node", "--zone", "example.org", shared4, shared6)
	if strings.Count(out, "  tyo, serial ") != 4 {
		t.Errorf("which-node:\n%s", out)
	}
}

func (m *mesh) testGarbage(t *testing.T) {
	random := rand.New(rand.NewSource(3258))
	for _, network := range []string{"udp", "tcp"} {
		for range 2000 {
			junk := make([]byte, random.Intn(600))
			random.Read(junk)
			if network == "udp" {
				conn := m.dial("tyo", network, shared4+":53")
				conn.Write(junk)
				conn.Close()
			} else if random.Intn(20) == 0 {
				conn := m.dial("tyo", network, shared4+":53")
				conn.Write(junk)
				conn.Close()
			}
		}
	}
	if r := m.ask("tyo", "udp", shared4, "release.example.org.", dns.TypeTXT); r == nil || !m.coredn["tyo"].Alive() {
		t.Error("no answer after garbage")
	}
}

// testReload reloads the Corefile by signal, well-formed and not, under load.
func (m *mesh) testReload(t *testing.T) {
	corefile := m.path("tyo", "Corefile")
	good, err := os.ReadFile(corefile)
	m.must(err)
	defer os.WriteFile(corefile, good, 0o644)
	udp := m.load("tyo", shared4, time.Millisecond)
	for i := range 6 {
		text := strings.Replace(string(good), "nsid tyo", fmt.Sprintf("nsid tyo%d", i), 1)
		if i%3 == 2 {
			text += "\nbroken {\n    meshsync\n}\n"
		}
		m.must(os.WriteFile(corefile, []byte(text), 0o644))
		lines := strings.Count(readFile(m.coredn["tyo"].Log), "Reloading complete") + strings.Count(readFile(m.coredn["tyo"].Log), "Restart failed")
		m.coredn["tyo"].Signal(syscall.SIGUSR1)
		m.eventually(20*time.Second, "the reload ends", func() (bool, string) {
			log := readFile(m.coredn["tyo"].Log)
			return strings.Count(log, "Reloading complete")+strings.Count(log, "Restart failed") > lines, lab.Tail(m.coredn["tyo"].Log, 3)
		})
		r := m.ask("tyo", "tcp", shared4, "release.example.org.", dns.TypeTXT)
		if r == nil || len(r.Answer) != 1 {
			t.Errorf("reload %d: no answer over TCP", i)
		}
	}
	answers := udp.End()
	if n := lab.Lost(answers); n > 0 {
		t.Errorf("%d of %d queries lost over six reloads", n, len(answers))
	}
}

func readFile(path string) string {
	data, _ := os.ReadFile(path)
	return string(data)
}

// testDepots stops the sidecar, so that the depot stays as the test makes it, and damages it. The node goes on answering
// from what its lease allows, names the rule, counts, and takes the right data when it is back.
func (m *mesh) testDepots(t *testing.T) {
	m.side["tyo"].Kill()
	repository := m.path("tyo", "mesh", "repository")
	timestamp := filepath.Join(repository, "metadata", "timestamp.json")
	old, err := os.ReadFile(timestamp)
	m.must(err)
	m.meshctl("lease")
	newer, err := os.ReadFile(m.path("home", "repository", "metadata", "timestamp.json"))
	m.must(err)
	put := func(data []byte) { m.must(os.WriteFile(timestamp, data, 0o644)) }
	for _, damage := range []struct {
		rule string
		data []byte
	}{
		{"torn", newer[:len(newer)/2]},
		{"torn", nil},
		{"oversize", append(append([]byte{}, newer...), make([]byte, 8<<20)...)},
		{"signature", []byte(strings.Replace(string(newer), `"version":`, `"version":1`, 1))},
	} {
		counted := m.faults("tyo", damage.rule)
		put(damage.data)
		m.await("tyo", "the node names the rule "+damage.rule, func(n status.Node) bool {
			return n.Serving == m.number && n.Depot.LastFault != nil && n.Depot.LastFault.Rule == damage.rule && n.Depot.Faults[damage.rule] > counted
		})
		put(newer)
		m.await("tyo", "the node is content again", func(n status.Node) bool { return n.Depot.LastFault == nil })
	}
	put(old)
	m.await("tyo", "the node refuses the replay", func(n status.Node) bool {
		return n.Serving == m.number && n.Depot.LastFault != nil && n.Depot.LastFault.Rule == "rollback"
	})
	put(newer)
	m.startSidecar("tyo")
	m.testBlob(t, repository)
}

// testBlob damages a zone of the next release on its way to the node: the node refuses it, is silent after T, and
// recovers by itself (SYNC-D, SYNC-F).
func (m *mesh) testBlob(t *testing.T, repository string) {
	m.awaitFresh("tyo")
	before := m.number
	m.side["tyo"].Kill()
	m.release()
	copyTree(m, m.path("home", "repository"), repository, func(path string, data []byte) []byte {
		if strings.Contains(path, "blobs") {
			if _, err := os.Stat(filepath.Join(repository, path)); err != nil {
				data[len(data)/2] ^= 1
			}
		}
		return data
	})
	m.await("tyo", "the node refuses the damaged release", func(n status.Node) bool {
		return n.Serving == before && len(n.Refused) == 1 && n.Refused[0].Number == m.number && n.Refused[0].Reason.Code == "digest"
	})
	said, err := m.run("dist", m.bin+"/meshctl", "--home", m.path("home"), "schedule", "--force", "--no-wait")
	if err != nil || !strings.Contains(said, "against it: tyo") {
		t.Errorf("schedule --force: %v: %s", err, said)
	}
	copyTree(m, m.path("home", "repository", "metadata"), filepath.Join(repository, "metadata"), nil)
	copyTree(m, m.path("home", "repository", "targets"), filepath.Join(repository, "targets"), nil)
	m.awaitSilent("tyo", "undecided") // it is not waited for, so it follows when it hears that the release is current
	if r := m.ask("tyo", "udp", shared4, "release.example.org.", dns.TypeTXT); r != nil {
		t.Errorf("a silent node answered: %v", r)
	}
	m.startSidecar("tyo")
	m.awaitServing("tyo", m.number)
}

// faults counts what the node has refused by that rule.
func (m *mesh) faults(node, rule string) uint64 {
	n, _ := m.status(node)
	return n.Depot.Faults[rule]
}

// awaitFresh waits until the node has verified what the distribution host published last.
func (m *mesh) awaitFresh(node string) {
	m.t.Helper()
	want := readFile(m.path("home", "repository", "metadata", "timestamp.json"))
	m.eventually(30*time.Second, node+" mirrors the newest lease", func() (bool, string) {
		return readFile(m.path(node, "mesh", "repository", "metadata", "timestamp.json")) == want, ""
	})
}

// copyTree copies files, numbered ones first and the timestamp last, as a publisher would.
func copyTree(m *mesh, from, to string, change func(path string, data []byte) []byte) {
	m.t.Helper()
	var last func()
	err := filepath.WalkDir(from, func(path string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() || strings.HasPrefix(e.Name(), ".") {
			return err
		}
		rel, _ := filepath.Rel(from, path)
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if change != nil {
			data = change(rel, data)
		}
		write := func() {
			target := filepath.Join(to, rel)
			m.must(os.MkdirAll(filepath.Dir(target), 0o755))
			m.must(os.WriteFile(target+".new", data, 0o644))
			m.must(os.Rename(target+".new", target))
		}
		if e.Name() == "timestamp.json" {
			last = write
			return nil
		}
		write()
		return nil
	})
	m.must(err)
	if last != nil {
		last()
	}
}

// testKills kills coredns and the sidecar at ten random points each while releases flow. The floor never goes down, and
// the node recovers (SYNC-G).
func (m *mesh) testKills(t *testing.T) {
	random := rand.New(rand.NewSource(time.Now().UnixNano()))
	for round := range 10 {
		floor := m.floor("tyo")
		m.release()
		m.awaitStaged("tyo", m.number)
		done := make(chan struct{})
		go func() {
			defer close(done)
			m.run("dist", m.bin+"/meshctl", "--home", m.path("home"), "schedule", "--force")
		}()
		time.Sleep(time.Duration(random.Intn(3000)) * time.Millisecond) // the random point
		m.coredn["tyo"].Kill()
		m.startCoreDNS("tyo")
		time.Sleep(time.Duration(random.Intn(500)) * time.Millisecond)
		m.side["tyo"].Kill()
		m.startSidecar("tyo")
		<-done
		m.awaitServing("tyo", m.number)
		if now := m.floor("tyo"); now < floor || now != m.number {
			t.Fatalf("round %d: floor %d after %d, serving %d", round, now, floor, m.number)
		}
	}
}

func (m *mesh) floor(node string) uint64 {
	n, _ := m.status(node)
	return n.Floor
}

// testClock: a node whose clock cannot be certified does not start to answer; chronyd's own `local` clock certifies
// nothing; with a synchronised one it answers; and one that loses its time source goes on (CLOCK-1, FAIL-4).
func (m *mesh) testClock(t *testing.T) {
	restart := func(conf string) {
		for _, p := range []*lab.Process{m.chrony["tyo"], m.side["tyo"], m.coredn["tyo"]} {
			p.Kill()
		}
		m.chrony["tyo"] = m.chronyd("tyo", "chronyd", conf+"\nbindcmdaddress 127.0.0.1\n")
		m.startSidecar("tyo")
		m.startCoreDNS("tyo")
	}
	restart("server 198.51.100.250 iburst minpoll 0 maxpoll 0") // nobody is there
	m.awaitSilent("tyo", "clock-unknown")
	restart("local stratum 1")
	m.awaitSilent("tyo", "clock-unknown")
	if r := m.ask("tyo", "udp", shared4, "release.example.org.", dns.TypeTXT); r != nil {
		t.Errorf("a silent node answered: %v", r)
	}
	restart("server 198.51.100.2 iburst minpoll 0 maxpoll 0")
	m.awaitServing("tyo", m.number)
	m.chrony["tyo"].Kill()
	m.side["tyo"].Kill()
	time.Sleep(3 * time.Second) // long enough for whoever would fall silent to do so
	if n, ok := m.status("tyo"); !ok || n.Serving != m.number || !n.Clock.Known {
		t.Errorf("without time source and sidecar the node is in holdover and answers; it says %+v", n)
	}
}
