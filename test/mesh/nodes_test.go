package mesh_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/lab"
	"github.com/coredns-anycast/coredns-anycast/internal/socket"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
)

const (
	shared4 = "192.0.2.53"
	shared6 = "2001:db8:53::53"
)

// mesh is a distribution host, nodes that share an address, and a time server, on one LAN:
//
//	dist .1   time .2   tyo .3   osa .4   fra .5      (198.51.100.0/24, the administrative addresses)
//	                    └── 192.0.2.53 and 2001:db8:53::53 on each ──┘
type mesh struct {
	*world
	nodes  []string
	number uint64 // of the newest release
	coredn map[string]*lab.Process
	side   map[string]*lab.Process
	chrony map[string]*lab.Process
	dist   *lab.Process      // meshctl serve
	bins   map[string]string // where the programs of a host are, if they are not this version's
	drains int               // how many "member drain" have been given
}

// meshOf is a mesh of which nothing is there yet.
func meshOf(w *world, nodes ...string) *mesh {
	return &mesh{world: w, nodes: nodes, coredn: map[string]*lab.Process{}, side: map[string]*lab.Process{}, chrony: map[string]*lab.Process{}}
}

// machines makes those of the mesh, and more.
func (m *mesh) machines(more ...string) {
	m.t.Helper()
	testenv.Need(m.t, "chronyd")
	m.lan(slices.Concat([]string{"dist", "time"}, m.nodes, more), shared4+"/32", shared6+"/128")
}

// init makes the home, with all nodes as members.
func (m *mesh) init(options ...string) {
	m.t.Helper()
	m.meshctl(append([]string{"init", "--mesh", "test", "--san", "198.51.100.1"}, options...)...)
	for _, node := range m.nodes {
		m.meshctl("member", "add", node, "--admin", m.admin(node)+":8443")
	}
}

// firstRelease makes a release that is current at once, and waits until every node answers from it.
func (m *mesh) firstRelease() {
	m.t.Helper()
	m.number++
	m.meshctl("release", "--now", m.write("example.org.zone", zoneText(m.number)))
	for _, node := range m.nodes {
		m.awaitServing(node, m.number)
	}
}

// newMesh starts the mesh, releases zone data 1 and waits until every node answers from it.
func newMesh(w *world, nodes ...string) *mesh {
	w.t.Helper()
	m := meshOf(w, nodes...)
	m.machines()
	m.startTime()
	m.init()
	m.startHost()
	for _, node := range nodes {
		m.startNode(node)
	}
	m.release()
	m.schedule()
	for _, node := range nodes {
		m.awaitServing(node, 1)
	}
	return m
}

// startHost starts the distribution host.
func (m *mesh) startHost() {
	m.dist = m.start("dist", "serve", m.bin+"/meshctl", "--home", m.path("home"), "serve", "--listen", "198.51.100.1:8443", "--renew", "1m")
}

// startNode starts a node that is a member already.
func (m *mesh) startNode(node string) {
	m.configure(node)
	m.startClock(node)
	m.startSidecar(node)
	m.startCoreDNS(node)
}

// admin is a host's administrative address.
func (m *mesh) admin(host string) string { return m.admins[host] }

func (m *mesh) meshctl(args ...string) string {
	m.t.Helper()
	return m.mustRun("dist", append([]string{m.program("dist", "meshctl"), "--home", m.path("home")}, args...)...)
}

// program is the file of one of a host's programs.
func (m *mesh) program(host, name string) string {
	if dir := m.bins[host]; dir != "" {
		return filepath.Join(dir, name)
	}
	return filepath.Join(m.bin, name)
}

// release publishes the next release as staged. Its zone says which it is: in a TXT record and in the serial.
func (m *mesh) release() uint64 {
	m.t.Helper()
	m.number++
	m.meshctl("release", m.write("example.org.zone", zoneText(m.number)))
	return m.number
}

func zoneText(number uint64) string {
	return fmt.Sprintf(`$ORIGIN example.org.
$TTL 60
@       SOA  ns1 hostmaster %d 3600 900 1209600 300
@       NS   ns1
@       NS   ns.elsewhere.example.
ns1     A    %s
ns1     AAAA %s
release TXT  "%d"
large   TXT  %s
`, number, shared4, shared6, number, strings.Repeat(`"`+strings.Repeat("x", 240)+`" `, 4)+`"x"`)
}

// schedule waits until every node has confirmed the newest release, sets its switchover and returns when it is over.
func (m *mesh) schedule() {
	m.t.Helper()
	for _, node := range m.nodes {
		m.awaitStaged(node, m.number)
	}
	m.meshctl("schedule")
}

// configure writes a node's Corefile, which is the one that we ship as an example, and its sidecar's configuration.
func (m *mesh) configure(node string) {
	bundle := m.path("home", "members", node)
	m.write(node+"/Corefile", strings.NewReplacer(
		"/var/lib/mesh", m.path(node, "mesh"), "/etc/mesh", bundle, "/run/mesh", m.path(node),
		"198.51.100.7", m.admin(node), "tyo1", node,
	).Replace(readFile("../../Corefile.example")))
	m.write(node+"/sidecar.yaml", fmt.Sprintf(`node: %s
shared: [%s, "%s"]
state: %s
socket: unix://%s
meshsync: unix://%s
identity: {certificate: %s/node.crt, key: %s/node.key, ca: %s/ca.crt}
admin: {listen: "%s:8443"}
clock: {source: chrony}
mirror: {urls: ["https://198.51.100.1:8443/"], depot: %s, root: %s/root.json, interval: 1s}
`, node, shared4, shared6, m.path(node, "sidecar"), m.path(node, "sidecar.sock"), m.path(node, "meshsync.sock"), bundle, bundle, bundle,
		m.admin(node), m.path(node, "mesh", "repository"), bundle))
	m.must(os.MkdirAll(m.path(node, "mesh"), 0o755))
}

// startTime starts the time server: this machine's clock, served as if it were a good one. Never sets any clock (-x).
func (m *mesh) startTime() *lab.Process {
	return m.chronyd("time", "chronyd", "local stratum 1\nallow all\ncmdport 0\n")
}

// startClock starts the node's chronyd, which only measures (-x).
func (m *mesh) startClock(node string) {
	m.chrony[node] = m.chronyd(node, "chronyd", "server 198.51.100.2 iburst minpoll 0 maxpoll 0\nbindcmdaddress 127.0.0.1\n")
}

// chronyd starts one on a host.
func (m *mesh) chronyd(host, name, config string) *lab.Process {
	m.t.Helper()
	return m.start(host, name, lab.Chronyd(m.t, testenv.Need(m.t, "chronyd")[0], m.path(host), name, config)...)
}

func (m *mesh) startSidecar(node string) {
	m.side[node] = m.start(node, "sidecar", m.program(node, "anycast-sidecar"), "run", m.path(node, "sidecar.yaml"))
}

func (m *mesh) startCoreDNS(node string) {
	m.coredn[node] = m.start(node, "coredns", m.program(node, "coredns"), "-conf", m.path(node, "Corefile"))
}

// status is what meshsync says of itself; ok is false while nobody answers.
func (m *mesh) status(node string) (n status.Node, ok bool) {
	err := socket.Read(context.Background(), m.path(node, "meshsync.sock"), &n)
	return n, err == nil
}

func (m *mesh) awaitServing(node string, number uint64) {
	m.t.Helper()
	m.await(node, fmt.Sprintf("%s answers from release %d", node, number), func(n status.Node) bool { return n.Serving == number })
}

func (m *mesh) awaitStaged(node string, number uint64) {
	m.t.Helper()
	m.await(node, fmt.Sprintf("%s has staged release %d", node, number), func(n status.Node) bool { return n.Confirms.Staged == number })
}

// awaitSilent waits until the node is silent for the reason with that code.
func (m *mesh) awaitSilent(node, code string) {
	m.t.Helper()
	m.await(node, node+" is silent: "+code, func(n status.Node) bool {
		for _, why := range n.Silent {
			if n.Serving == 0 && why.Code == code {
				return true
			}
		}
		return false
	})
}

func (m *mesh) await(node, what string, holds func(status.Node) bool) {
	m.t.Helper()
	m.eventually(lab.Patience, what, func() (bool, string) {
		n, ok := m.status(node)
		said, _ := json.Marshal(n)
		return ok && holds(n), string(said)
	})
}

// ask puts one question to the shared address from within the node and returns the answer, nil when there is none.
func (m *mesh) ask(node, network, address, name string, qtype uint16) *dns.Msg {
	m.t.Helper()
	conn := &dns.Conn{Conn: m.dial(node, network, "["+address+"]:53")}
	defer conn.Close()
	q := new(dns.Msg).SetQuestion(name, qtype)
	conn.SetDeadline(time.Now().Add(time.Second))
	if conn.WriteMsg(q) != nil {
		return nil
	}
	reply, err := conn.ReadMsg()
	if err != nil {
		return nil
	}
	return reply
}

// lostAfter is how long an answer may take before it counts as lost.
const lostAfter = 3 * time.Second

// load asks the shared address from within the node.
func (m *mesh) load(node, address string, every time.Duration) *lab.Load {
	return m.asks(node, address, every, lostAfter, 0, func(int) string { return "release.example.org." })
}

// asks puts question after question to an address from within a host, for TXT at names that i gives, and waits for answers
// for as long as patience. Meanwhile it repeats a question again and again, unless that is 0.
func (w *world) asks(host, address string, every, patience, again time.Duration, name func(i int) string) *lab.Load {
	conn := w.dial(host, "udp", "["+address+"]:53")
	w.t.Cleanup(func() { conn.Close() })
	l := &lab.Load{Conn: conn, Send: func(query []byte) { conn.Write(query) }, Every: every, Patience: patience, Again: again,
		Question: func(i int) *dns.Msg { return new(dns.Msg).SetQuestion(name(i), dns.TypeTXT) }, Read: releaseOf}
	return l.Start()
}

// releaseOf reads which release a TXT record says that it is from.
func releaseOf(r *dns.Msg) lab.Reply {
	reply := lab.Reply{Rcode: r.Rcode}
	if len(r.Answer) != 1 || r.Rcode != dns.RcodeSuccess {
		return reply
	}
	if txt, ok := r.Answer[0].(*dns.TXT); ok {
		reply.Answer = true
		reply.Release, _ = strconv.ParseUint(strings.Join(txt.Txt, ""), 10, 64)
	}
	return reply
}
