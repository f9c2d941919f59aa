package mesh_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/gate"
	"github.com/coredns-anycast/coredns-anycast/internal/lab"
	"github.com/coredns-anycast/coredns-anycast/internal/socket"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
)

// wideEpsilon is wide enough that the clocks of a busy machine are within half of it. Without a time server, errors grow by wideDrift a second.
const wideEpsilon, wideDrift = 200 * time.Millisecond, 10 * time.Millisecond

// meshOfFive is a mesh of which clients ask every node all the time. Four nodes go by chronyd, lim asks NTP servers itself.
type meshOfFive struct {
	*mesh
	servers []*lab.Process // of time
	loads   map[string]*lab.Load
	lost    time.Time // when these were
}

// byChronyd are the nodes that go by chronyd.
func (m *meshOfFive) byChronyd() []string { return m.nodes[:4] }

// TestTimeIsLostEverywhere: five nodes lose all their time servers at once, then the daemons that asked these, then a
// sidecar. Their errors grow, all go on answering from the release they have, nobody withdraws, and leases are renewed; a
// switchover is refused, and who stands in its way is named. When time is back it is made (FAIL-4, CLOCK-1).
func TestTimeIsLostEverywhere(t *testing.T) {
	t.Parallel()
	m := newMeshOfFive(t)
	before := m.number
	m.waitingForSwitchover()
	m.timeServersEnd()
	m.switchoverIsRefused()
	m.daemonsEnd()
	m.side["osa"].Kill()
	m.goesOn(before)
	m.timeIsBack()
	m.schedule()
	for _, node := range m.nodes {
		m.awaitServing(node, m.number)
	}
	m.allAnswered(before)
}

// waitingForSwitchover makes a release that every node has ready, and has nothing against its clock.
func (m *meshOfFive) waitingForSwitchover() {
	m.t.Helper()
	m.release()
	for _, node := range m.nodes {
		m.awaitStaged(node, m.number)
		m.awaitSidecar(node, "synchronised, and its clock good enough", func(s status.Sidecar) bool {
			return s.Announced && goodClock(s)
		})
	}
}

// timeServersEnd waits until all have noticed: chronyd says on that all is well, with an error that grows at maxclockerror.
func (m *meshOfFive) timeServersEnd() {
	m.t.Helper()
	for _, p := range m.servers {
		p.Kill()
	}
	m.lost = time.Now()
	for _, node := range m.byChronyd() {
		m.await(node, node+"'s error is above ε", func(n status.Node) bool { return n.Clock.Known && n.Clock.Bound > wideEpsilon })
		m.awaitSidecar(node, "announced, with the note", func(s status.Sidecar) bool { return s.Announced && noted(s) })
	}
	m.awaitSidecar("lim", "in holdover", func(s status.Sidecar) bool {
		return s.Clock.State == "holdover" && strings.Contains(s.Clock.Reason, "gave no answer") && s.Announced
	})
}

// switchoverIsRefused orders one: the four whose clocks are not good enough are named, and lim, whose error is within ε, is not.
func (m *meshOfFive) switchoverIsRefused() {
	m.t.Helper()
	said, err := m.run("dist", m.bin+"/meshctl", "--home", m.path("home"), "schedule", "--wait", "1s")
	if err == nil {
		m.errorf("a switchover was set though four clocks are not good enough: %s", said)
	}
	for _, node := range m.byChronyd() {
		if !strings.Contains(said, node) || !strings.Contains(said, "its clock may be wrong by") {
			m.errorf("%s is not named with its clock: %s", node, said)
		}
	}
	if strings.Contains(said, "lim:") {
		m.errorf("lim, whose error is within ε, is named too: %s", said)
	}
}

func (m *meshOfFive) daemonsEnd() {
	m.t.Helper()
	for _, node := range m.byChronyd() {
		m.chrony[node].Kill()
		m.awaitSidecar(node, "in holdover", func(s status.Sidecar) bool {
			return s.Clock.State == "holdover" && strings.Contains(s.Clock.Reason, "does not answer") && s.Announced
		})
	}
}

// goesOn waits until every node has a greater error than now and a new lease, and answers from the release it had; osa, whose sidecar mirrors no more,
// has the lease it had.
func (m *meshOfFive) goesOn(number uint64) {
	m.t.Helper()
	befores := map[string]status.Node{}
	for _, node := range m.nodes {
		befores[node], _ = m.status(node)
	}
	m.meshctl("lease")
	for _, node := range m.nodes {
		before := befores[node]
		m.await(node, node+" answers on, its error grows, and its lease is renewed", func(n status.Node) bool {
			return n.Serving == number && n.Clock.Known && n.Clock.Bound > before.Clock.Bound && n.Clock.Source == before.Clock.Source &&
				(node == "osa" || n.LeaseExpires > before.LeaseExpires)
		})
		n, _ := m.status(node)
		m.t.Logf("%s, %v after the loss: wrong by %v at most, serves release %d", node, time.Since(m.lost).Round(time.Second), n.Clock.Bound.Round(time.Microsecond), n.Serving)
	}
}

// timeIsBack starts all that has ended, and waits until all clocks are good again.
func (m *meshOfFive) timeIsBack() {
	m.t.Helper()
	m.startSidecar("osa")
	m.serveTime()
	for _, node := range m.byChronyd() {
		m.startWideClock(node)
	}
	for _, node := range m.nodes {
		m.awaitSidecar(node, "synchronised again", goodClock)
		m.await(node, node+"'s error is within ε", func(n status.Node) bool { return n.Clock.Known && n.Clock.Bound < wideEpsilon/2 })
	}
}

// allAnswered ends the asking: every question has an answer, of the release before or of the one that is current now.
func (m *meshOfFive) allAnswered(before uint64) {
	m.t.Helper()
	for _, l := range m.loads {
		l.Stop()
	}
	for node, l := range m.loads {
		answers := l.End()
		unanswered, elsewhere := lab.Lost(answers), 0
		for _, a := range answers {
			if a.Answered() && a.Release != before && a.Release != m.number {
				elsewhere++
			}
		}
		if unanswered+elsewhere > 0 || len(answers) < 200 {
			m.errorf("%s: of %d questions %d have no answer, %d one of another release", node, len(answers), unanswered, elsewhere)
		}
	}
}

// newMeshOfFive starts it, with a first release.
func newMeshOfFive(t *testing.T) *meshOfFive {
	m := meshOf(newWorld(t), "tyo", "osa", "fra", "nyc", "lim")
	m.machines()
	m.address("time", "eth0", "198.51.100.102/24")
	m.address("time", "eth0", "198.51.100.103/24")
	five := &meshOfFive{mesh: m, servers: m.serveTime(), loads: map[string]*lab.Load{}}
	m.init("--lease", "1h", "--epsilon", wideEpsilon.String())
	m.start("dist", "serve", m.bin+"/meshctl", "--home", m.path("home"), "serve", "--listen", "198.51.100.1:8443", "--renew", "10m")
	for _, node := range m.nodes {
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
	for _, node := range m.nodes {
		m.awaitServing(node, m.number)
		five.loads[node] = m.load(node, shared4, 20*time.Millisecond)
	}
	return five
}

// serveTime starts the time server, and one that follows it, with nothing of "local" about it, for whoever looks at that.
func (m *mesh) serveTime() []*lab.Process {
	first := m.startTime()
	return []*lab.Process{first, m.chronyd("time", "relay", "server 198.51.100.2 iburst minpoll 0 maxpoll 0\nport 1123\nallow all\ncmdport 0\n")}
}

// startWideClock starts a node's chronyd that takes the machine's clock for a bad one, so that its error soon shows.
func (m *mesh) startWideClock(node string) {
	m.chrony[node] = m.chronyd(node, "chronyd", fmt.Sprintf("server 198.51.100.2 iburst minpoll 0 maxpoll 0\nmaxclockerror %d\nbindcmdaddress 127.0.0.1\nbindcmdaddress /\n", wideDrift.Microseconds()))
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
