package mesh_test

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
)

// links are the wires of the picture above TestJP, each with a network of its own: 10.0.N.1 at the first host and 10.0.N.2
// at the second. Whoever is no router has its default route to the first.
var links = [][2]string{
	{"tyo", "osa"}, {"osa", "ngo"}, {"ngo", "fra"}, {"fra", "tyo"},
	{"tyo", "a-tyo"}, {"osa", "a-osa"}, {"fra", "a-fra"}, {"osa", "d-osa"}, {"ngo", "d-ngo"},
	{"tyo", "unbound"}, {"ngo", "bind"}, {"fra", "kresd"}, {"ngo", "root"}, {"fra", "b"},
}

// router is a host that runs routing daemons, and what they do there.
type router struct {
	bird  bool // BIRD; otherwise FRR
	as    int  // 0: no BGP
	peers []peer
	ospf  []string // neighbours, at the other end of links
	stub  string   // the interface whose addresses OSPF advertises: of a node that is announced by the IGP
}

type peer struct {
	host   string
	as     int
	longer bool // the way is made longer by one AS, in both directions
}

var routers = map[string]router{
	"tyo":   {as: 64501, peers: []peer{{"osa", 64502, false}, {"fra", 64503, true}, {"a-tyo", 64500, false}}},
	"osa":   {as: 64502, peers: []peer{{"tyo", 64501, false}, {"ngo", 64502, false}, {"a-osa", 64500, false}}, ospf: []string{"ngo", "d-osa"}},
	"ngo":   {as: 64502, peers: []peer{{"osa", 64502, false}, {"fra", 64503, false}}, ospf: []string{"osa", "d-ngo"}, bird: true},
	"fra":   {as: 64503, peers: []peer{{"ngo", 64502, false}, {"tyo", 64501, true}, {"a-fra", 64500, false}}, bird: true},
	"d-osa": {ospf: []string{"osa"}, stub: "lo"},
	"d-ngo": {ospf: []string{"ngo"}, stub: "anycast0", bird: true},
}

// routed is the hosts, their links and the routers between them.
type routed struct {
	*world
	ends    map[[2]string]string // the address of a host towards another
	owners  map[string]string    // address to host
	handles map[string]*netlink.Handle
	daemons map[string][]*process // the routing daemons of a host
}

// newRouted wires everything; the administrative network must be there.
func newRouted(w *world) *routed {
	n := &routed{w, map[[2]string]string{}, map[string]string{}, map[string]*netlink.Handle{}, map[string][]*process{}}
	w.must(os.Chmod(filepath.Dir(w.dir), 0o755)) // FRR gives up root
	for i, l := range links {
		for _, host := range l {
			if w.names[host] == "" {
				w.host(host)
				w.within(host, func() { w.address("lo", "127.0.0.1/8"); w.up("lo") })
			}
		}
		n.wire(i, l[0], l[1])
	}
	for host, r := range routers {
		if r.as != 0 {
			w.within(host, func() { w.must(os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0o644)) })
		}
	}
	return n
}

func (n *routed) wire(i int, first, second string) {
	ns, err := netns.GetFromName(n.names[second])
	n.must(err)
	defer ns.Close()
	n.within(first, func() {
		n.must(netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: second}, PeerName: first, PeerNamespace: netlink.NsFd(int(ns))}))
	})
	for k, end := range [][2]string{{first, second}, {second, first}} {
		a := fmt.Sprintf("10.0.%d.%d", i, k+1)
		n.ends[end], n.owners[a] = a, end[0]
		n.within(end[0], func() { n.address(end[1], a+"/30"); n.up(end[1]) })
	}
	if routers[second].as == 0 {
		n.within(second, func() { n.must(netlink.RouteAdd(&netlink.Route{Gw: net.ParseIP(n.ends[[2]string{first, second}])})) })
	}
}

// sever takes a link away at its first end; the other end keeps its routes and sees no carrier. restore brings it back.
func (n *routed) sever(first, second string)   { n.set(first, second, netlink.LinkSetDown) }
func (n *routed) restore(first, second string) { n.set(first, second, netlink.LinkSetUp) }

func (n *routed) set(host, name string, to func(netlink.Link) error) {
	n.within(host, func() {
		link, err := netlink.LinkByName(name)
		n.must(err)
		n.must(to(link))
	})
}

// trace follows the tables of the routers from a host to the one that an address leads to; "" if there is no route.
func (n *routed) trace(host, address string) string {
	for range len(routers) + 2 {
		routes, err := n.handle(host).RouteGet(net.ParseIP(address))
		switch {
		case err != nil, len(routes) == 0:
			return ""
		case routes[0].Type == unix.RTN_LOCAL:
			return host
		case routes[0].Gw == nil:
			return n.owners[address]
		}
		host = n.owners[routes[0].Gw.String()]
	}
	return "a loop"
}

// handle is a netlink socket in a host's namespace.
func (n *routed) handle(host string) *netlink.Handle {
	if n.handles[host] == nil {
		ns, err := netns.GetFromName(n.names[host])
		n.must(err)
		defer ns.Close()
		h, err := netlink.NewHandleAt(ns)
		n.must(err)
		n.top.Cleanup(h.Close)
		n.handles[host] = h
	}
	return n.handles[host]
}

// id is a router's identifier: one of its addresses.
func (n *routed) id(host string) string {
	var all []netip.Addr
	for end, a := range n.ends {
		if end[0] == host {
			all = append(all, netip.MustParseAddr(a))
		}
	}
	return slices.MinFunc(all, netip.Addr.Compare).String()
}

// startRouter starts the daemons of a router, or of a node with an IGP.
func (n *routed) startRouter(host string) {
	n.t.Helper()
	if routers[host].bird {
		conf := n.write(host+"/bird.conf", n.birdConf(host))
		n.daemons[host] = []*process{n.start(host, "bird", testenv.Need(n.t, "bird")[0], "-f", "-c", conf, "-s", n.path(host, "bird.ctl"))}
		return
	}
	run := n.path(host, "frr")
	n.must(os.RemoveAll(run))
	n.must(os.MkdirAll(run, 0o777))
	n.must(os.Chmod(run, 0o777))
	frr := func(name, conf string) {
		binary := testenv.Need(n.t, "/usr/lib/frr/"+name)[0]
		n.daemons[host] = append(n.daemons[host], n.start(host, name, binary, "-f", n.write(host+"/"+name+".conf", conf),
			"-i", run+"/"+name+".pid", "-z", run+"/zserv.api", "--vty_socket", run, "--log", "stdout"))
	}
	n.daemons[host] = nil
	frr("zebra", "hostname zebra\n")
	n.eventually(10*time.Second, "zebra's socket", func() (bool, string) { _, err := os.Stat(run + "/zserv.api"); return err == nil, "none" })
	if r := routers[host]; len(r.ospf) > 0 {
		frr("ospfd", n.ospfdConf(host))
	}
	if routers[host].as != 0 {
		frr("bgpd", n.bgpdConf(host))
	}
}

func (n *routed) stopRouter(host string) {
	for _, p := range n.daemons[host] {
		p.kill(syscall.SIGKILL)
	}
}

// aggregate is announced to other networks by the routers of 64502, while their IGP has a route to the address in it.
const aggregate = "203.0.113.0/24"

func (n *routed) ospfdConf(host string) string {
	var c strings.Builder
	for _, to := range routers[host].ospf {
		fmt.Fprintf(&c, "interface %s\n ip ospf area 0\n ip ospf network point-to-point\n ip ospf hello-interval 1\n ip ospf dead-interval 4\n", to)
	}
	if stub := routers[host].stub; stub != "" {
		fmt.Fprintf(&c, "interface %s\n ip ospf area 0\n ip ospf passive\n", stub)
	}
	fmt.Fprintf(&c, "router ospf\n ospf router-id %s\n timers throttle spf 0 50 1000\n timers throttle lsa all 0\n timers lsa min-arrival 0\n", n.id(host))
	return c.String()
}

func (n *routed) bgpdConf(host string) string {
	var c strings.Builder
	r := routers[host]
	fmt.Fprintf(&c, "router bgp %d\n bgp router-id %s\n no bgp ebgp-requires-policy\n", r.as, n.id(host))
	family := "  redistribute connected\n"
	for _, p := range r.peers {
		at := n.ends[[2]string{p.host, host}]
		fmt.Fprintf(&c, " neighbor %[1]s remote-as %d\n neighbor %[1]s timers 1 3\n neighbor %[1]s timers connect 1\n", at, p.as)
		if p.longer {
			family += "  neighbor " + at + " route-map longer out\n"
		}
		if p.as == r.as {
			family += "  neighbor " + at + " next-hop-self\n"
		}
	}
	if len(r.ospf) > 0 {
		family += "  redistribute ospf route-map anycast\n  aggregate-address " + aggregate + " summary-only\n"
	}
	fmt.Fprintf(&c, " address-family ipv4 unicast\n%s exit-address-family\n", family)
	fmt.Fprintf(&c, "route-map longer permit 10\n set as-path prepend %d\n", r.as)
	fmt.Fprintf(&c, "ip prefix-list anycast permit %s/32\nroute-map anycast permit 10\n match ip address prefix-list anycast\n", sharedD)
	return c.String()
}

func (n *routed) birdConf(host string) string {
	var c strings.Builder
	r := routers[host]
	fmt.Fprintf(&c, `router id %s;
protocol device {}
protocol direct { ipv4; }
protocol kernel { ipv4 { import none; export where source != RTS_DEVICE; }; }
filter shorter { if source = RTS_OSPF || dest = RTD_UNREACHABLE then reject; accept; }
filter longer { if source = RTS_OSPF || dest = RTD_UNREACHABLE then reject; bgp_path.prepend(%d); accept; }
`, n.id(host), r.as)
	if len(r.ospf) > 0 {
		c.WriteString("protocol ospf v2 { ipv4 { import all; export none; }; area 0 {\n")
		for _, to := range r.ospf {
			fmt.Fprintf(&c, "  interface %q { type ptp; hello 1; dead 4; };\n", to)
		}
		if r.stub != "" { // a route inside the area, as FRR has it: OSPF prefers the farthest of these to the nearest external one
			fmt.Fprintf(&c, "  interface %q { stub; check link no; };\n", r.stub)
		}
		c.WriteString("}; }\n")
	}
	if len(r.ospf) > 0 && r.as != 0 {
		fmt.Fprintf(&c, "protocol static { ipv4; route %s recursive %s; }\n", aggregate, sharedD)
	}
	for _, p := range r.peers {
		filter, self := "shorter", ""
		if p.longer {
			filter = "longer"
		}
		if p.as == r.as {
			self = "next hop self; "
		}
		fmt.Fprintf(&c, "protocol bgp { local %s as %d; neighbor %s as %d; direct; hold time 3; connect delay time 1; error wait time 1, 2;\n"+
			"  ipv4 { import all; export filter %s; %s}; }\n", n.ends[[2]string{host, p.host}], r.as, n.ends[[2]string{p.host, host}], p.as, filter, self)
	}
	return c.String()
}
