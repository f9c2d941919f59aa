package mesh_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/gate"
	"github.com/coredns-anycast/coredns-anycast/internal/lab"
	"github.com/coredns-anycast/coredns-anycast/internal/socket"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
)

// What nodes do when their DNS service fails.
const (
	leaves = "{policy: withdraw, readvertise_delay: 1s, flaps: {most: 5, window: 1m}, min_announcing: 0}" // whatever becomes of the others
	asks   = "{policy: withdraw, readvertise_delay: 1s, flaps: {most: 5, window: 1m}, min_announcing: 1}"
	stays  = "{policy: stop-dns}"
)

// TestBackboneAway: in October 2021 Facebook's name servers withdrew their routes, all of them, since none could reach the
// data centres. Here the backbone to the distribution host and the time source goes away for one node, which may leave, and
// then for all: they answer until their leases end, and no route goes at all (FAIL-4). What a real router has in its table is
// what counts.
func TestBackboneAway(t *testing.T) {
	t.Parallel()
	binary := testenv.Need(t, "bird", "birdc")[0]
	m, serve := newServedMesh(t, "10s", "1s", "tyo", "osa", "fra", "sin")
	r := m.startRouter(binary)
	for node, failure := range map[string]string{"tyo": asks, "osa": asks, "fra": leaves, "sin": stays} {
		m.restartSidecar(node, failure)
	}
	r.await(m.nodes...)
	if t.Run("one is alone", m.sub(func(*testing.T) { m.testAlone(r) })) {
		t.Run("all at once", m.sub(func(*testing.T) { m.testAllAtOnce(r, serve) }))
	}
}

// testAlone: the faults of single nodes. Who asks nobody leaves; who asks hears that others remain, and leaves; with policy
// stop-dns the route stays, whatever it is that ails.
func (m *mesh) testAlone(r *bird) {
	m.awaitAllReady()
	back := m.cutOff("fra")
	repository := m.path("osa", "mesh", "repository")
	m.mustRun("osa", "mv", repository, repository+".away")
	m.write("osa/mesh/repository", "not a directory")
	m.everyFault("sin")
	r.await("tyo", "sin")
	for _, node := range []string{"osa", "fra"} {
		m.awaitReasons(node, gate.MeshsyncSilent)
	}
	m.mustRun("osa", "rm", repository)
	m.mustRun("osa", "mv", repository+".away", repository)
	back()
	r.await(m.nodes...)
	if n := r.withdrawals("tyo") + r.withdrawals("sin"); n != 0 {
		m.errorf("tyo and sin were withdrawn %d times by the faults of others", n)
	}
	m.restartSidecar("fra", asks)
	r.await(m.nodes...)
}

// everyFault lets the real CoreDNS fail in every way; status, log and metrics name each by the same word.
func (m *mesh) everyFault(node string) {
	m.coredn[node].Signal(syscall.SIGSTOP)
	m.awaitReasons(node, gate.ProbeDown, gate.RouteStays, gate.ProbeHanging, gate.MeshsyncUnknown)
	m.coredn[node].Signal(syscall.SIGCONT)
	m.awaitReasons(node, gate.Ready)

	stop := make(chan struct{})
	slow := make(chan struct{})
	go func(p *lab.Process) { // it gets to its work only now and then, for a while that differs, as if it were overloaded
		defer close(slow)
		for turn := 0; ; turn++ {
			select {
			case <-stop:
				return
			default:
			}
			p.Signal(syscall.SIGSTOP)
			time.Sleep(200 * time.Millisecond)
			p.Signal(syscall.SIGCONT)
			time.Sleep(time.Duration(turn%10+1) * 2 * time.Millisecond)
		}
	}(m.coredn[node])
	m.awaitReasons(node, gate.Ready, gate.ProbeSlow)
	close(stop)
	<-slow
	m.awaitReasons(node, gate.Ready)

	m.coredn[node].Kill()
	m.awaitReasons(node, gate.ProbeDown, gate.RouteStays, gate.ProbeDead, gate.MeshsyncUnknown)
	other := m.start(node, "other-coredns", m.bin+"/coredns", "-conf", m.write(node+"/Otherfile",
		fmt.Sprintf("example.org {\n bind %s %s\n whoami\n}\n", shared4, shared6)))
	m.awaitReasons(node, gate.ProbeDown, gate.RouteStays, gate.ProbeWrong, gate.MeshsyncUnknown)
	other.Kill()
	m.startCoreDNS(node)
	m.awaitReasons(node, gate.Ready)
}

// testAllAtOnce: the backbone is away for everybody. Later the server of one node dies of itself: that one leaves.
func (m *mesh) testAllAtOnce(r *bird, serve *lab.Process) {
	m.awaitAllReady()
	before := map[string]int{}
	loads := map[string]*lab.Load{}
	for _, node := range m.nodes {
		m.awaitServing(node, m.number)
		before[node] = r.withdrawals(node)
		loads[node] = m.load(node, shared4, 5*time.Millisecond)
	}
	m.backbone(false)
	ends, bounds := map[string]time.Time{}, map[string]time.Duration{}
	for _, node := range m.nodes {
		m.awaitReasonsOf(node, func(codes []string) bool { return slices.Contains(codes, gate.Ready) })
		m.await(node, node+" has lost contact", func(n status.Node) bool {
			ends[node], bounds[node] = n.LeaseExpires.Time(), n.Clock.Bound
			return len(n.Warnings) > 0
		})
	}
	for _, node := range m.nodes {
		m.awaitSilent(node, "lease-ended")
	}
	for _, node := range []string{"tyo", "osa", "fra"} {
		m.eventually(30*time.Second, node+" has asked, and stays", func() (bool, string) {
			s := m.sidecarStatus(node)
			return s.Announced && len(s.Why) == 2 && s.Why[0].Code == gate.MeshsyncSilent && s.Why[1].Code == gate.OthersUnknown &&
				strings.Contains(s.Why[1].Detail, "no distribution host answers"), fmt.Sprint(s.Why)
		})
	}
	m.awaitReasons("sin", gate.MeshsyncSilent, gate.RouteStays)
	for _, l := range loads {
		l.Stop()
	}
	for node, l := range loads {
		m.silentFromThere(node, l.End(), ends[node], bounds[node])
	}
	r.await(m.nodes...)

	m.coredn["osa"].Kill()
	m.awaitReasons("osa", gate.ProbeDown, gate.ProbeDead, gate.MeshsyncUnknown)
	r.await("tyo", "fra", "sin")

	m.backbone(true)
	m.startCoreDNS("osa")
	for _, node := range m.nodes {
		m.awaitServing(node, m.number)
	}
	r.await(m.nodes...)
	for _, node := range []string{"tyo", "fra", "sin"} {
		if n := r.withdrawals(node) - before[node]; n != 0 {
			m.errorf("%s was withdrawn %d times while the backbone was away or came back", node, n)
		}
	}
	if !serve.Alive() {
		m.errorf("the distribution host has ended")
	}
}

// awaitAllReady waits until no node has anything against itself. What is against a clock that is not yet steady would be so for as long as
// the time source is away.
func (m *mesh) awaitAllReady() {
	m.t.Helper()
	for _, node := range m.nodes {
		m.awaitReasons(node, gate.Ready)
	}
}

// backbone takes the links to the distribution host and the time source down, or up.
func (m *mesh) backbone(up bool) {
	set := m.places["switch"].Down
	if up {
		set = m.places["switch"].Up
	}
	for _, port := range []string{"dist", "time"} {
		m.must(set(port))
	}
}

// cutOff takes the ways to the distribution host and the time source away from one node, until back is called.
func (m *mesh) cutOff(node string) (back func()) {
	all := []string{"198.51.100.1/32", "198.51.100.2/32"}
	for _, other := range m.nodes { // which would pass on what they hear of the distribution host
		if other != node {
			all = append(all, m.admin(other)+"/32")
		}
	}
	for _, to := range all {
		m.mustRun(node, "ip", "route", "add", "blackhole", to)
	}
	return func() {
		for _, to := range all {
			m.mustRun(node, "ip", "route", "del", "blackhole", to)
		}
	}
}

// restartSidecar gives a node's sidecar a neighbour, and what to do when DNS fails.
func (m *mesh) restartSidecar(node, failure string) {
	m.side[node].Stop()
	m.configure(node)
	last := m.admin(node)[len("198.51.100."):]
	m.write(node+"/sidecar.yaml", readFile(m.path(node, "sidecar.yaml"))+fmt.Sprintf(`metrics: 127.0.0.1:9154
failure: %s
probe: {interval: 500ms, timeout: 450ms, slow: 100ms, rise: 2, fall: 2}
bgp:
  as: 64500
  router_id: %s
  prefixes: [192.0.2.0/24, "2001:db8:53::/48"]
  neighbors: [{address: 198.51.100.254, as: 64501, next_hop: ["2001:db8:100::%s"]}]
`, failure, m.admin(node), last))
	m.startSidecar(node)
}

// bird is a router, to which all nodes announce, each in a protocol of its name.
type bird struct {
	m       *mesh
	process *lab.Process
}

// startRouter puts a router on the nodes' side of the backbone, and gives them addresses of IPv6 to be reached at.
func (m *mesh) startRouter(binary string) *bird {
	m.t.Helper()
	m.host("router")
	m.connect("router", "router", "198.51.100.254/24")
	m.address("router", "eth0", "2001:db8:100::254/64")
	conf := "log stderr all;\nrouter id 198.51.100.254;\ndebug protocols { routes };\nprotocol device {}\n"
	for _, node := range m.nodes {
		last := m.admin(node)[len("198.51.100."):]
		m.address(node, "eth0", "2001:db8:100::"+last+"/64")
		conf += fmt.Sprintf(`protocol bgp %s {
  local 198.51.100.254 as 64501;
  neighbor %s as 64500;
  direct;
  connect delay time 1;
  error wait time 1, 2;
  ipv4 { import all; export none; };
  ipv6 { import all; export none; };
}
`, node, m.admin(node))
	}
	return &bird{m, m.start("router", "bird", binary, "-f", "-c", m.write("router/bird.conf", conf), "-s", m.path("router", "bird.ctl"))}
}

// await waits until exactly these nodes' routes are in the table, of both families.
func (r *bird) await(nodes ...string) {
	r.m.t.Helper()
	r.m.eventually(60*time.Second, fmt.Sprintf("the router has the routes of %v and no others", nodes), func() (bool, string) {
		var there []string
		var said string
		for _, node := range r.m.nodes {
			out, err := exec.Command("birdc", "-r", "-s", r.m.path("router", "bird.ctl"), "show", "route", "all", "protocol", node).CombinedOutput()
			if err != nil {
				return false, fmt.Sprintf("birdc: %v: %s", err, out)
			}
			if said += string(out); strings.Contains(string(out), "192.0.2.0/24") && strings.Contains(string(out), "2001:db8:53::/48") {
				there = append(there, node)
			} else if strings.Contains(string(out), "BGP.origin") {
				return false, said // one family is on its way
			}
		}
		for _, node := range there {
			if !slices.Contains(nodes, node) {
				return false, said
			}
		}
		return len(there) == len(nodes), said
	})
}

// withdrawals counts how often a node's routes went from the table, since the router started.
func (r *bird) withdrawals(node string) (n int) {
	for _, line := range strings.Split(readFile(r.process.Log), "\n") {
		if strings.Contains(line, node+".ipv") && strings.Contains(line, "> removed") {
			n++
		}
	}
	return n
}

func (m *mesh) sidecarStatus(node string) status.Sidecar {
	var doc struct {
		status.Clock
		Sidecar status.Sidecar `json:"sidecar"`
	}
	socket.Read(context.Background(), m.path(node, "sidecar.sock"), &doc)
	return doc.Sidecar
}

// awaitReasons waits until the node's reasons have exactly these codes, in status, log and metrics.
func (m *mesh) awaitReasons(node string, want ...string) {
	m.t.Helper()
	m.awaitReasonsOf(node, func(codes []string) bool { return slices.Equal(codes, want) })
	m.eventually(20*time.Second, fmt.Sprintf("the log of %s has %v", node, want), func() (bool, string) {
		lines := strings.Split(readFile(m.side[node].Log), "\n")
		return slices.ContainsFunc(lines, func(line string) bool {
			return !slices.ContainsFunc(want, func(code string) bool { return !strings.Contains(line, code+": ") })
		}), lab.Tail(m.side[node].Log, 5)
	})
}

func (m *mesh) awaitReasonsOf(node string, holds func(codes []string) bool) {
	m.t.Helper()
	m.eventually(60*time.Second, node+" has its reasons, and its metrics have them too", func() (bool, string) {
		s := m.sidecarStatus(node)
		said, _ := json.Marshal(s.Why)
		metrics := m.get(node, "http://127.0.0.1:9154/metrics")
		var codes []string
		for _, r := range s.Why {
			codes = append(codes, r.Code)
			if !strings.Contains(metrics, fmt.Sprintf("anycast_reason{code=%q} 1\n", r.Code)) {
				return false, string(said) + " and metrics without " + r.Code
			}
		}
		return holds(codes), string(said)
	})
}
