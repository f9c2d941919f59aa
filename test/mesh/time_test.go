package mesh_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/gate"
	"github.com/coredns-anycast/coredns-anycast/internal/lab"
	"github.com/coredns-anycast/coredns-anycast/internal/socket"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
)

// wideEpsilon is wide enough that the clocks of a busy machine are within it.
const wideEpsilon = 50 * time.Millisecond

// TestTimeIsLostEverywhere: five nodes lose all their time servers at once, then the daemons that asked these, then a
// sidecar. Their errors grow, all go on answering from the release they have, nobody withdraws, and leases are renewed; a
// switchover is refused, and who stands in its way is named. When time is back it is made (FAIL-4, CLOCK-1).
func TestTimeIsLostEverywhere(t *testing.T) {
	t.Parallel()
	m, servers := newMeshOfFive(t)
	loads := map[string]*lab.Load{}
	for _, node := range m.nodes {
		loads[node] = m.load(node, shared4, 20*time.Millisecond)
	}
	number := m.number
	m.release()
	for _, node := range m.nodes {
		m.awaitStaged(node, m.number)
		m.awaitSidecar(node, "synchronised, and its clock good enough", func(s status.Sidecar) bool {
			return s.Announced && goodClock(s)
		})
	}

	for _, p := range servers {
		p.Kill()
	}
	lost := time.Now()
	for _, node := range m.nodes[:4] { // chronyd says on that all is well, with an error that grows at maxclockerror
		m.await(node, node+"'s error is above ε", func(n status.Node) bool { return n.Clock.Known && n.Clock.Bound > wideEpsilon })
		m.awaitSidecar(node, "announced, with the note", func(s status.Sidecar) bool { return s.Announced && noted(s) })
	}
	m.awaitSidecar("lim", "in holdover", func(s status.Sidecar) bool {
		return s.Clock.State == "holdover" && strings.Contains(s.Clock.Reason, "gave no answer") && s.Announced
	})
	said, err := m.run("dist", m.bin+"/meshctl", "--home", m.path("home"), "schedule", "--wait", "1s")
	if err == nil {
		t.Errorf("a switchover was set though four clocks are not good enough: %s", said)
	}
	for _, node := range m.nodes[:4] {
		if !strings.Contains(said, node) || !strings.Contains(said, "its clock may be wrong by") {
			t.Errorf("%s is not named with its clock: %s", node, said)
		}
	}
	if strings.Contains(said, "lim:") {
		t.Errorf("lim, whose error is within ε, is named too: %s", said)
	}

	for _, node := range m.nodes[:4] {
		m.chrony[node].Kill()
		m.awaitSidecar(node, "in holdover", func(s status.Sidecar) bool {
			return s.Clock.State == "holdover" && strings.Contains(s.Clock.Reason, "does not answer") && s.Announced
		})
	}
	m.side["osa"].Kill()
	befores := map[string]status.Node{}
	for _, node := range m.nodes {
		befores[node], _ = m.status(node)
	}
	m.meshctl("lease")
	for _, node := range m.nodes {
		before := befores[node]
		m.await(node, node+" answers on, its error grows, and its lease is renewed", func(n status.Node) bool {
			return n.Serving == number && n.Clock.Known && n.Clock.Bound > before.Clock.Bound && n.Clock.Source == before.Clock.Source &&
				(node == "osa" || n.LeaseExpires > before.LeaseExpires) // its sidecar mirrors
		})
		n, _ := m.status(node)
		t.Logf("%s, %v after the loss: wrong by %v at most, serves release %d", node, time.Since(lost).Round(time.Second), n.Clock.Bound.Round(time.Microsecond), n.Serving)
	}

	m.startSidecar("osa")
	m.serveTime()
	for _, node := range m.nodes[:4] {
		m.startWideClock(node)
	}
	for _, node := range m.nodes {
		m.awaitSidecar(node, "synchronised again", goodClock)
		m.await(node, node+"'s error is within ε", func(n status.Node) bool { return n.Clock.Known && n.Clock.Bound < wideEpsilon/2 })
	}
	m.schedule()
	for _, node := range m.nodes {
		m.awaitServing(node, m.number)
	}
	for _, l := range loads {
		l.Stop()
	}
	for node, l := range loads {
		answers := l.End()
		unanswered, elsewhere := lab.Lost(answers), 0
		for _, a := range answers {
			if a.Answered() && a.Release != number && a.Release != m.number {
				elsewhere++
			}
		}
		if unanswered+elsewhere > 0 || len(answers) < 200 {
			t.Errorf("%s: of %d questions %d have no answer, %d one of another release", node, len(answers), unanswered, elsewhere)
		}
	}
}

// newMeshOfFive is a mesh of five nodes that answer from a first release. Four go by chronyd; lim asks NTP servers itself.
func newMeshOfFive(t *testing.T) (m *mesh, servers []*lab.Process) {
	testenv.Need(t, "chronyd")
	nodes := []string{"tyo", "osa", "fra", "nyc", "lim"}
	m = &mesh{world: newWorld(t), nodes: nodes, coredn: map[string]*lab.Process{}, side: map[string]*lab.Process{}, chrony: map[string]*lab.Process{}}
	m.lan(append([]string{"dist", "time"}, nodes...), shared4+"/32", shared6+"/128")
	m.address("time", "eth0", "198.51.100.102/24")
	m.address("time", "eth0", "198.51.100.103/24")
	servers = m.serveTime()
	m.meshctl("init", "--mesh", "test", "--san", "198.51.100.1", "--lease", "1h", "--epsilon", wideEpsilon.String())
	for _, node := range nodes {
		m.meshctl("member", "add", node, "--admin", m.admin(node)+":8443")
	}
	m.start("dist", "serve", m.bin+"/meshctl", "--home", m.path("home"), "serve", "--listen", "198.51.100.1:8443", "--renew", "10m")
	for _, node := range nodes {
		m.configure(node)
		config, source := readFile(m.path(node, "sidecar.yaml")), "source: chrony"
		if node == "lim" {
			source = `source: ntp, interval: 1s, servers: ["198.51.100.2:1123", "198.51.100.102:1123", "198.51.100.103:1123"]`
		} else {
			m.startWideClock(node)
		}
		m.write(node+"/sidecar.yaml", strings.Replace(config, "source: chrony", source+", limit: "+wideEpsilon.String(), 1))
		m.startSidecar(node)
		m.startCoreDNS(node)
	}
	m.number++
	m.meshctl("release", "--now", m.write("example.org.zone", zoneText(m.number)))
	for _, node := range nodes {
		m.awaitServing(node, m.number)
	}
	return m, servers
}

// serveTime starts the time server, and one that follows it, with nothing of "local" about it, for whoever looks at that.
func (m *mesh) serveTime() []*lab.Process {
	first := m.startTime()
	return []*lab.Process{first, m.chronyd("time", "relay", "server 198.51.100.2 iburst minpoll 0 maxpoll 0\nport 1123\nallow all\ncmdport 0\n")}
}

// startWideClock starts a node's chronyd that takes the machine's clock for a bad one, so that its error soon shows.
func (m *mesh) startWideClock(node string) {
	m.chrony[node] = m.chronyd(node, "chronyd", "server 198.51.100.2 iburst minpoll 0 maxpoll 0\nmaxclockerror 5000\nbindcmdaddress 127.0.0.1\nbindcmdaddress /\n")
}

// awaitSidecar waits until what a node's sidecar says of itself holds.
func (m *mesh) awaitSidecar(node, what string, holds func(status.Sidecar) bool) {
	m.t.Helper()
	m.eventually(60*time.Second, node+" is "+what, func() (bool, string) {
		var doc struct {
			Sidecar status.Sidecar `json:"sidecar"`
		}
		err := socket.Read(context.Background(), m.path(node, "sidecar.sock"), &doc)
		s := doc.Sidecar
		return err == nil && holds(s), s.Clock.State + " (" + s.Clock.Reason + "), bound " + s.Clock.Bound.String()
	})
}

// goodClock reports whether the sidecar has nothing against its clock.
func goodClock(s status.Sidecar) bool { return s.Clock.State == "synchronised" && !noted(s) }

// noted reports whether the sidecar has something against its clock.
func noted(s status.Sidecar) bool {
	for _, why := range s.Why {
		if why.Code == gate.ClockUncertain {
			return true
		}
	}
	return false
}
