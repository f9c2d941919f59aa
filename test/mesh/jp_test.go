package mesh_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/vishvananda/netlink"

	"github.com/coredns-anycast/coredns-anycast/internal/lab"
	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
)

// sharedA is the addresses of the mesh that BGP announces, sharedD those of the one that the IGP does.
var (
	sharedA = pair{shared4, shared6}
	sharedD = pair{"203.0.113.53", "2001:db8:113::53"}
)

// A stub resolver gives up after patience; meanwhile it asks again, since Unbound for one keeps an answer that took it 1.9 s
// to itself (discard-timeout) and gives it to whoever asks for it then.
const (
	patience = 5 * time.Second
	again    = 2 * time.Second
)

// every is the time between two questions to a resolver.
const every = 50 * time.Millisecond

// TestJP is .JP as of 2004 (JP-1). The zone has three servers: a.dns is a mesh of three nodes that BGP announces, d.dns one
// of two nodes inside the network 64502, whose OSPF announces them, and b.dns is a single server outside both.
//
//	     unbound  a-tyo                      a-osa  d-osa
//	            \ /                             \  /
//	64501       tyo ─────────────────────────── osa      64502
//	             ╎ longer by one AS              │       OSPF and iBGP
//	64503       fra ─────────────────────────── ngo      64502
//	          /  │  \                          / │  \
//	     kresd a-fra b                      bind │  d-ngo
//	                                            root
//
// tyo and osa are FRR, ngo and fra BIRD, and so are the OSPF daemons on d-osa and d-ngo. All of it is there in both families,
// each with BGP sessions and an OSPF of its own; Unbound asks over IPv4 only, Knot Resolver over IPv6 only, BIND over both.
// Nodes, links and whole sites are taken away, and every name that a resolver is asked for, always a new one, is resolved in time.
func TestJP(t *testing.T) {
	t.Parallel()
	j := newJP(t)
	j.begin("all is there")
	j.catchments(nil, nil)
	j.ask()
	j.stopDNS()
	for _, s := range j.losses() {
		j.lose(s)
	}
	j.withdraw()
	j.onlyMeshA()
	j.releaseWhileAway()
	j.judge()
	t.Log("\n" + j.figures.table())
}

// jp is the world of TestJP.
type jp struct {
	*routed
	a, d    *group
	b       *lab.Process // NSD, the server outside any mesh
	stubs   map[string]*lab.Load
	marks   []mark
	figures figures
}

// group is a mesh, how its nodes are told to fail, and where they find its repository.
type group struct {
	*mesh
	shared       pair
	policy, port string
}

// mark is when the test began to do something.
type mark struct {
	at   time.Time
	what string
}

// begin says what comes next, and returns the time.
func (j *jp) begin(what string) time.Time {
	now := time.Now()
	j.marks = append(j.marks, mark{now, what})
	j.t.Logf("%5.1f s  %s", j.since(now), what)
	return now
}

// since is the seconds from the beginning to a time.
func (j *jp) since(at time.Time) float64 { return at.Sub(j.marks[0].at).Seconds() }

// newJP starts everything and waits until both meshes answer from release 1.
func newJP(t *testing.T) *jp {
	w := newWorld(t)
	testenv.Need(t, "chronyd", "nsd", "bird", "/usr/lib/frr/zebra", "/usr/lib/frr/bgpd", "/usr/lib/frr/ospfd", "/usr/lib/frr/ospf6d")
	for _, r := range resolvers {
		r.commands(t)
	}
	nodes := []string{"a-tyo", "a-osa", "a-fra", "d-osa", "d-ngo"}
	w.lan(append([]string{"dist", "time"}, nodes...))
	j := &jp{routed: newRouted(w), stubs: map[string]*lab.Load{}, figures: figures{}}
	for host, r := range routers {
		if r.as != 0 {
			j.startRouter(host)
		}
	}
	j.a = j.newGroup("a", sharedA, "8443", "12s", nodes[:3]...) // a lease short enough to see its end
	j.d = j.newGroup("d", sharedD, "8444", "24h", nodes[3:]...)
	j.a.startTime()
	j.startNSD("root", j.addressRoot(), ".", rootText(j.addressRoot(), j.addressB()))
	j.b = j.startNSD("b", j.addressB(), "jp.", jpText(1, j.addressB()))
	for _, r := range resolvers {
		r.start(j, r.commands(t))
	}
	for _, g := range []*group{j.a, j.d} {
		for _, node := range g.nodes {
			j.startNode(g, node)
		}
		g.number = 1
		g.meshctl("release", "--now", g.write("jp.zone", jpText(1, j.addressB())))
	}
	for _, g := range []*group{j.a, j.d} {
		for _, node := range g.nodes {
			g.awaitServing(node, 1)
		}
	}
	return j
}

func (j *jp) addressB() pair    { return j.ends[[2]string{"b", "fra"}] }
func (j *jp) addressRoot() pair { return j.ends[[2]string{"root", "ngo"}] }

// newGroup makes a mesh with a home of its own, and starts its distribution host.
func (j *jp) newGroup(name string, shared pair, port, lease string, nodes ...string) *group {
	w := *j.world
	w.dir = j.path(name)
	j.must(os.MkdirAll(w.dir, 0o755))
	g := &group{meshOf(&w, nodes...),
		shared, "stop-dns", port}
	g.meshctl("init", "--mesh", name, "--san", "198.51.100.1", "--lease", lease)
	for _, node := range nodes {
		g.meshctl("member", "add", node, "--admin", g.admin(node)+":8443")
	}
	g.write("home/meshctl.yaml", fmt.Sprintf(`serve: {listen: "198.51.100.1:%s", renew: 2s}
checks:
  meshes:
    - {name: a, servers: [a.dns.jp, %s, "%s"]}
    - {name: d, servers: [d.dns.jp, %s, "%s"]}
`, port, sharedA[0], sharedA[1], sharedD[0], sharedD[1]))
	g.start("dist", "serve", g.bin+"/meshctl", "--home", g.path("home"), "serve")
	return g
}

// startNode starts all that is on a node, at first or after its power was cut.
func (j *jp) startNode(g *group, node string) {
	stub := routers[node].stub // the IGP reads one of two interfaces: the other one has the address for good
	if stub != "" {
		err := j.places[node].Links.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "anycast0"}})
		if !errors.Is(err, syscall.EEXIST) {
			j.must(err)
		}
		j.must(j.places[node].Up("anycast0"))
		j.address(node, "anycast0", "fe80::1/64") // without one no OSPFv3 will have the interface
	}
	for i, bits := range (pair{"/32", "/128"}) {
		j.address(node, map[string]string{"": "lo", "anycast0": "lo", "lo": "anycast0"}[stub], g.shared[i]+bits)
	}
	if stub != "" {
		j.startRouter(node)
	}
	j.configure(g, node)
	g.startClock(node)
	g.startSidecar(node)
	g.startCoreDNS(node)
}

// configure writes the node's files: the Corefile that we ship, and a sidecar.yaml with the fast settings of docs/routes/failover.md.
func (j *jp) configure(g *group, node string) {
	bundle, router := g.path("home", "members", node), j.gateway(node)
	g.write(node+"/Corefile", strings.NewReplacer("192.0.2.53 2001:db8:53::53", g.shared[0]+" "+g.shared[1],
		"/var/lib/mesh", g.path(node, "mesh"), "/etc/mesh", bundle, "/run/mesh", g.path(node), "198.51.100.7", g.admin(node), "tyo1", node,
	).Replace(readFile("../../Corefile.example")))
	at, as := j.ends[[2]string{router, node}], routers[router].as
	route := fmt.Sprintf(`bgp: {as: 64500, router_id: %s, prefixes: [192.0.2.0/24, "2001:db8:53::/48"],
  neighbors: [{address: %s, as: %d, hold_time: 3s}, {address: "%s", as: %d, hold_time: 3s}]}`,
		j.ends[[2]string{node, router}][0], at[0], as, at[1], as)
	if stub := routers[node].stub; stub != "" {
		route = "igp: {interface: " + stub + ", lifetime: 1s}"
	}
	g.write(node+"/sidecar.yaml", fmt.Sprintf(`node: %s
shared: [%s, "%s"]
socket: unix://%s
meshsync: unix://%s
identity: {certificate: %s/node.crt, key: %s/node.key, ca: %s/ca.crt}
admin: {listen: "%s:8443"}
clock: {source: chrony}
failure: {policy: %s, readvertise_delay: 0s, flaps: {most: 100, window: 1m}, min_announcing: 0}
probe: {interval: 100ms, rise: 2, fall: 2}
mirror: {urls: ["https://198.51.100.1:%s/"], depot: %s, root: %s/root.json, interval: 1s}
%s
`, node, g.shared[0], g.shared[1], g.path(node, "sidecar.sock"), g.path(node, "meshsync.sock"), bundle, bundle, bundle, g.admin(node),
		g.policy, g.port, g.path(node, "mesh", "repository"), bundle, route))
	j.must(os.MkdirAll(g.path(node, "mesh"), 0o755))
}

// gateway is the router of a host.
func (j *jp) gateway(host string) string {
	i := slices.IndexFunc(links, func(l [2]string) bool { return l[1] == host })
	return links[i][0]
}

// ── what is asserted all the time

// catchment is which node of a mesh each resolver's host reaches.
type catchment map[string]string

// homeA and homeD are so while all is well.
var (
	homeA = catchment{"unbound": "a-tyo", "bind": "a-osa", "kresd": "a-fra"}
	homeD = catchment{"unbound": "d-osa", "bind": "d-ngo", "kresd": "d-ngo"}
)

// nowhere is what a host reaches that has no route.
const nowhere = ""

// catchments waits until the routers lead each host to the nodes given, or home if none is, and the nodes say so themselves.
func (j *jp) catchments(a, d catchment) {
	j.t.Helper()
	j.leads(j.a, over(homeA, a))
	j.leads(j.d, over(homeD, d))
	for _, r := range resolvers {
		want := map[*group]string{j.a: over(homeA, a)[r.host], j.d: over(homeD, d)[r.host]}
		maps.DeleteFunc(want, func(_ *group, node string) bool { return node == nowhere })
		if len(want) > 0 {
			j.names(r.host, want)
		}
	}
}

// leads waits until the tables of the routers lead there, in both families.
func (j *jp) leads(g *group, want catchment) {
	j.t.Helper()
	j.eventually(60*time.Second, fmt.Sprintf("%v lead to %v", g.shared, want), func() (bool, string) {
		saw := [2]catchment{{}, {}}
		for host := range want {
			for i := range saw {
				saw[i][host] = j.trace(host, g.shared[i])
			}
		}
		return maps.Equal(want, saw[0]) && maps.Equal(want, saw[1]), fmt.Sprint(saw)
	})
}

// names waits until "meshctl which-node" says on a host that these nodes answer, over UDP and TCP, with their mesh's serial.
func (j *jp) names(host string, want map[*group]string) {
	j.t.Helper()
	args := []string{j.bin + "/meshctl", "which-node", "--zone", "jp", "--json"}
	type answer struct {
		Address, NSID string
		ID            string `json:"id_server"`
		Serial        uint64
	}
	var all []answer
	for g, node := range want {
		for _, address := range g.shared {
			args = append(args, address)
			one := answer{net.JoinHostPort(address, "53"), node, node, g.number}
			all = append(all, one, one)
		}
	}
	j.eventually(30*time.Second, fmt.Sprintf("the nodes that answer on %s say that they are %v", host, all), func() (bool, string) {
		out, _ := j.run(host, args...)
		var said []answer
		return json.Unmarshal([]byte(out), &said) == nil && slices.Equal(all, said), out
	})
}

// over is one map laid over another.
func over(base, top catchment) catchment {
	all := maps.Clone(base)
	maps.Copy(all, top)
	return all
}

// ask begins to ask each resolver, each time for a name that nobody has asked for.
func (j *jp) ask() {
	for _, r := range resolvers {
		j.stubs[r.host] = j.asks(r.host, "127.0.0.1", every, patience, again, func(i int) string { return fmt.Sprintf("q%d.w.jp.", i) })
	}
	j.resolves(time.Now(), 10)
}

// resolves waits until each resolver was asked n times since then, and these have an answer or their time is over.
func (j *jp) resolves(since time.Time, n int) map[string][]lab.Sample {
	j.t.Helper()
	fates := map[string][]lab.Sample{}
	for _, r := range resolvers {
		j.eventually(60*time.Second, fmt.Sprintf("%s has had %d questions", r.name, n), func() (bool, string) {
			all := j.stubs[r.host].Since(since)
			if len(all) < n {
				return false, fmt.Sprint(len(all))
			}
			fates[r.host] = all[:n]
			waiting := slices.ContainsFunc(all[:n], func(a lab.Sample) bool { return a.Got.IsZero() && time.Since(a.Sent) < patience })
			return !waiting, "waiting"
		})
	}
	return fates
}

// judge ends the questions, and names what the test did when one failed, how, and for how long the test itself stood still
// at most: a machine that stands still for seconds has hold times and patience run out.
func (j *jp) judge() {
	j.begin("the end")
	for _, r := range resolvers {
		j.stubs[r.host].Stop()
	}
	for _, r := range resolvers {
		answers := j.stubs[r.host].End()
		failed, still := map[string]int{}, time.Duration(0)
		for i, a := range answers {
			if i > 0 {
				still = max(still, a.Sent.Sub(answers[i-1].Sent))
			}
			if how := fate(a); how != "" {
				i, _ := slices.BinarySearchFunc(j.marks, a.Sent, func(m mark, at time.Time) int { return m.at.Compare(at) })
				failed[fmt.Sprintf("%.0f s, %s: %s", j.since(j.marks[max(0, i-1)].at), j.marks[max(0, i-1)].what, how)]++
			}
		}
		j.t.Logf("%s: %d resolutions; the longest time between two questions was %v", r.name, len(answers), still.Round(time.Millisecond))
		if len(failed) > 0 {
			j.errorf("%s: these failed: %v", r.name, failed)
		}
	}
}

// fate is how a resolution failed, and empty if it did not.
func fate(a lab.Sample) string {
	switch {
	case a.Rcode != 0:
		return dns.RcodeToString[a.Rcode]
	case !a.Answered():
		return "no answer"
	case a.Got.Sub(a.Sent) > patience:
		return "late"
	}
	return ""
}

// ── what is taken away

// loss is something that is taken away and brought back, and where the routers lead meanwhile.
type loss struct {
	what       string
	take, back func()
	a, d       catchment
}

// losses are tried in turn. Before two of the zone's three servers go, resolvers forget what they know: Unbound avoids a
// server that was lately away for longer than the others, so that losing these two takes it longer than a client waits.
func (j *jp) losses() []loss {
	return []loss{
		{"the sidecar of a-tyo is killed, those of a-fra and d-ngo hang",
			func() {
				j.a.side["a-tyo"].Kill()
				j.a.side["a-fra"].Signal(syscall.SIGSTOP)
				j.d.side["d-ngo"].Signal(syscall.SIGSTOP)
			},
			func() {
				j.a.startSidecar("a-tyo")
				j.a.side["a-fra"].Signal(syscall.SIGCONT)
				j.d.side["d-ngo"].Signal(syscall.SIGCONT)
			},
			catchment{"unbound": "a-osa", "kresd": "a-osa"}, catchment{"bind": "d-osa", "kresd": "d-osa"}},
		{"the links of a-osa and b are cut, both processes of d-osa are killed",
			func() { j.sever("osa", "a-osa"); j.sever("fra", "b"); j.kill(j.d, "d-osa") },
			func() { j.restore("osa", "a-osa"); j.restore("fra", "b"); j.revive(j.d, "d-osa") },
			catchment{"bind": "a-fra"}, catchment{"unbound": "d-ngo"}},
		{"the link between osa and ngo is cut, and that of d-osa",
			func() { j.sever("osa", "ngo"); j.sever("osa", "d-osa") },
			func() { j.restore("osa", "ngo"); j.restore("osa", "d-osa") },
			catchment{"bind": "a-fra"}, catchment{"unbound": "d-ngo"}},
		{"the site osa has no power, with its router",
			func() { j.power("osa", false) },
			func() { j.power("osa", true) },
			catchment{"bind": "a-fra"}, catchment{"unbound": "d-ngo"}},
		{"both processes of every node of mesh d are killed, and the link of b is cut",
			func() { j.fresh(); j.kill(j.d, j.d.nodes...); j.sever("fra", "b") },
			func() { j.revive(j.d, j.d.nodes...); j.restore("fra", "b") },
			nil, everywhere(nowhere)},
		{"both processes of every node of mesh a are killed, and the link of b is cut",
			func() { j.fresh(); j.kill(j.a, j.a.nodes...); j.sever("fra", "b") },
			func() { j.a.policy = "withdraw"; j.revive(j.a, j.a.nodes...); j.restore("fra", "b") },
			everywhere(nowhere), nil},
	}
}

// lose takes something away, sees the catchments move and names resolved, and brings it back.
func (j *jp) lose(l loss) {
	j.begin(l.what)
	l.take()
	j.catchments(l.a, l.d)
	j.resolves(time.Now(), 10)
	j.begin("all comes back")
	l.back()
	j.catchments(nil, nil)
}

// kill ends both processes of nodes.
func (j *jp) kill(g *group, nodes ...string) {
	for _, node := range nodes {
		g.coredn[node].Kill()
		g.side[node].Kill()
	}
}

// revive starts both processes again.
func (j *jp) revive(g *group, nodes ...string) {
	for _, node := range nodes {
		j.configure(g, node)
		g.startSidecar(node)
		g.startCoreDNS(node)
	}
}

// power takes a whole site away, or brings it back: its router with all its links, and all that runs on its nodes.
func (j *jp) power(site string, on bool) {
	set := map[bool]func(first, second string){true: j.restore, false: j.sever}[on]
	for _, l := range links {
		if slices.Contains(l[:], site) {
			set(l[0], l[1])
		}
	}
	if on {
		j.startRouter(site)
		j.startNode(j.a, "a-"+site)
		j.startNode(j.d, "d-"+site)
		return
	}
	j.stopRouter(site)
	for node, g := range map[string]*group{"a-" + site: j.a, "d-" + site: j.d} {
		j.kill(g, node)
		g.chrony[node].Kill()
		j.stopRouter(node)
	}
}
