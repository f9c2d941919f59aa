package mesh_test

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/coredns-anycast/coredns-anycast/internal/lab"
	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
)

// links are the wires of the picture above TestJP, each with networks of its own: 10.0.N.1 and fd00:0:0:N::1 at the first
// host, 10.0.N.2 and fd00:0:0:N::2 at the second. Whoever is no router has its default routes to the first.
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
	ends    map[[2]string]pair        // the addresses of a host towards another
	owners  map[string]string         // address to host
	daemons map[string][]*lab.Process // the routing daemons of a host
}

// pair is an IPv4 and an IPv6 address, or network.
type pair [2]string

// settings make IPv6 as ready as IPv4: an address is good at once, and is still there when its link comes back.
var settings = map[string]string{"default/accept_dad": "0", "all/keep_addr_on_down": "1"}

// newRouted wires everything; the administrative network must be there.
func newRouted(w *world) *routed {
	n := &routed{w, map[[2]string]pair{}, map[string]string{}, map[string][]*lab.Process{}}
	w.must(os.Chmod(filepath.Dir(w.dir), 0o755)) // FRR gives up root
	for i, l := range links {
		for _, host := range l {
			if w.places[host] == nil {
				w.host(host)
			}
			for name, value := range settings {
				w.within(host, func() { w.must(os.WriteFile("/proc/sys/net/ipv6/conf/"+name, []byte(value), 0o644)) })
			}
		}
		n.wire(i, l[0], l[1])
	}
	for host, r := range routers {
		if r.as != 0 {
			for _, forward := range []string{"ipv4/ip_forward", "ipv6/conf/all/forwarding"} {
				w.within(host, func() { w.must(os.WriteFile("/proc/sys/net/"+forward, []byte("1"), 0o644)) })
			}
		}
	}
	return n
}

func (n *routed) wire(i int, first, second string) {
	n.must(lab.Connect(lab.End{At: n.places[first], Link: second, Hardware: hardware(i, 0)},
		lab.End{At: n.places[second], Link: first, Hardware: hardware(i, 1)}))
	for k, end := range [][2]string{{first, second}, {second, first}} {
		a := pair{fmt.Sprintf("10.0.%d.%d", i, k+1), netip.MustParseAddr(fmt.Sprintf("fd00:0:0:%x::%d", i, k+1)).String()}
		n.ends[end] = a
		for _, owned := range []string{a[0], a[1], fmt.Sprintf("fe80::ff:fe00:%x", i<<8|k)} { // the last one is what the kernel makes of hardware
			n.owners[owned] = end[0]
		}
		n.address(end[0], end[1], a[0]+"/30")
		n.address(end[0], end[1], a[1]+"/64")
	}
	if routers[second].as == 0 {
		for _, gateway := range n.ends[[2]string{first, second}] {
			n.must(n.places[second].Gateway(netip.MustParseAddr(gateway)))
		}
	}
}

// hardware is the address of an end of a link, of which the kernel makes the link-local address that routers name as next hop.
func hardware(link, end int) net.HardwareAddr {
	return net.HardwareAddr{2, 0, 0, 0, byte(link), byte(end)}
}

// sever takes a link away at its first end; the other end keeps its routes and sees no carrier. restore brings it back.
func (n *routed) sever(first, second string)   { n.must(n.places[first].Down(second)) }
func (n *routed) restore(first, second string) { n.must(n.places[first].Up(second)) }

// trace follows the tables of the routers from a host to the one that an address leads to; "" if there is no route.
func (n *routed) trace(host, address string) string {
	for range len(routers) + 2 {
		routes, err := n.places[host].Links.RouteGet(net.ParseIP(address))
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

// id is a router's identifier: one of its IPv4 addresses.
func (n *routed) id(host string) string {
	var all []netip.Addr
	for end, a := range n.ends {
		if end[0] == host {
			all = append(all, netip.MustParseAddr(a[0]))
		}
	}
	return slices.MinFunc(all, netip.Addr.Compare).String()
}

// startRouter starts the daemons of a router, or of a node with an IGP.
func (n *routed) startRouter(host string) {
	n.t.Helper()
	if routers[host].bird {
		conf := n.write(host+"/bird.conf", n.birdConf(host))
		n.daemons[host] = []*lab.Process{n.start(host, "bird", testenv.Need(n.t, "bird")[0], "-f", "-c", conf, "-s", n.path(host, "bird.ctl"))}
		return
	}
	conf := map[string]string{}
	if r := routers[host]; len(r.ospf) > 0 {
		conf["ospfd"], conf["ospf6d"] = n.ospfdConf(host), n.ospf6dConf(host)
	}
	if routers[host].as != 0 {
		conf["bgpd"] = n.bgpdConf(host)
	}
	n.daemons[host] = lab.StartFRR(n.t, n.path(host, "frr"), conf, func(name string, argv ...string) *lab.Process {
		return n.start(host, name, argv...)
	})
}

func (n *routed) stopRouter(host string) {
	for _, p := range n.daemons[host] {
		p.Kill()
	}
}

// Routers see by the carrier that a link or its other end is gone, so they may take silence for what it mostly is here: a busy
// machine. One that stood still for five seconds had them all lose each other, which no resolver survives, when these were
// three and four. The session with a node is as short as its sidecar wants it, which is three.
const (
	holdSeconds = 30 // of BGP between routers
	deadSeconds = 20 // of OSPF
)

// aggregate is announced to other networks by the routers of 64502, while their IGP has a route to the address in it.
var aggregate = pair{"203.0.113.0/24", "2001:db8:113::/48"}

func (n *routed) ospfdConf(host string) string {
	var c strings.Builder
	for _, to := range routers[host].ospf {
		fmt.Fprintf(&c, "interface %s\n ip ospf area 0\n ip ospf network point-to-point\n ip ospf hello-interval 1\n ip ospf dead-interval %d\n", to, deadSeconds)
	}
	if stub := routers[host].stub; stub != "" {
		fmt.Fprintf(&c, "interface %s\n ip ospf area 0\n ip ospf passive\n", stub)
	}
	fmt.Fprintf(&c, "router ospf\n ospf router-id %s\n timers throttle spf 0 50 1000\n timers throttle lsa all 0\n timers lsa min-arrival 0\n", n.id(host))
	return c.String()
}

func (n *routed) ospf6dConf(host string) string {
	var c strings.Builder
	for _, to := range routers[host].ospf {
		fmt.Fprintf(&c, "interface %s\n ipv6 ospf6 area 0.0.0.0\n ipv6 ospf6 network point-to-point\n ipv6 ospf6 hello-interval 1\n ipv6 ospf6 dead-interval %d\n", to, deadSeconds)
	}
	if stub := routers[host].stub; stub != "" {
		// Its cost would be 10, where BIRD's host route costs nothing beyond the way there.
		fmt.Fprintf(&c, "interface %s\n ipv6 ospf6 area 0.0.0.0\n ipv6 ospf6 passive\n ipv6 ospf6 cost 1\n", stub)
	}
	fmt.Fprintf(&c, "router ospf6\n ospf6 router-id %s\n timers throttle spf 0 50 1000\n timers lsa min-arrival 0\n", n.id(host))
	return c.String()
}

// bgpdConf has a session for each family with each neighbour.
func (n *routed) bgpdConf(host string) string {
	var c strings.Builder
	r := routers[host]
	fmt.Fprintf(&c, "router bgp %d\n bgp router-id %s\n no bgp ebgp-requires-policy\n no bgp default ipv4-unicast\n", r.as, n.id(host))
	families := pair{"  redistribute connected\n", "  redistribute connected\n"}
	for _, p := range r.peers {
		for i, at := range n.ends[[2]string{p.host, host}] {
			fmt.Fprintf(&c, " neighbor %[1]s remote-as %d\n neighbor %[1]s timers %d %d\n neighbor %[1]s timers connect 1\n", at, p.as, holdSeconds/3, holdSeconds)
			families[i] += "  neighbor " + at + " activate\n"
			if p.longer {
				families[i] += "  neighbor " + at + " route-map longer out\n"
			}
			if p.as == r.as {
				families[i] += "  neighbor " + at + " next-hop-self\n"
			}
		}
	}
	for i, ospf := range (pair{"ospf", "ospf6"}) {
		if len(r.ospf) > 0 {
			families[i] += "  redistribute " + ospf + " route-map " + ospf + "\n  aggregate-address " + aggregate[i] + " summary-only\n"
		}
		fmt.Fprintf(&c, " address-family ipv%d unicast\n%s exit-address-family\n", versions[i], families[i])
	}
	fmt.Fprintf(&c, "route-map longer permit 10\n set as-path prepend %d\n", r.as)
	fmt.Fprintf(&c, "ip prefix-list anycast permit %s/32\nroute-map ospf permit 10\n match ip address prefix-list anycast\n", sharedD[0])
	fmt.Fprintf(&c, "ipv6 prefix-list anycast permit %s/128\nroute-map ospf6 permit 10\n match ipv6 address prefix-list anycast\n", sharedD[1])
	return c.String()
}

// versions are those of IP, in the order of a pair.
var versions = [2]int{4, 6}

func (n *routed) birdConf(host string) string {
	var c strings.Builder
	r := routers[host]
	fmt.Fprintf(&c, `router id %s;
protocol device {}
protocol direct { ipv4; ipv6; }
protocol kernel { ipv4 { import none; export where source != RTS_DEVICE; }; }
protocol kernel { ipv6 { import none; export where source != RTS_DEVICE; }; }
filter shorter { if source = RTS_OSPF || dest = RTD_UNREACHABLE then reject; accept; }
filter longer { if source = RTS_OSPF || dest = RTD_UNREACHABLE then reject; bgp_path.prepend(%d); accept; }
`, n.id(host), r.as)
	for i, ospf := range (pair{"v2", "v3"}) {
		if len(r.ospf) == 0 {
			break
		}
		fmt.Fprintf(&c, "protocol ospf %s { ipv%d { import all; export none; }; area 0 {\n", ospf, versions[i])
		for _, to := range r.ospf {
			fmt.Fprintf(&c, "  interface %q { type ptp; hello 1; dead %d; };\n", to, deadSeconds)
		}
		if r.stub != "" { // a route inside the area, as FRR has it: OSPF prefers the farthest of these to the nearest external one
			fmt.Fprintf(&c, "  interface %q { stub; check link no; };\n", r.stub)
		}
		c.WriteString("}; }\n")
	}
	for i, v := range versions {
		if len(r.ospf) > 0 && r.as != 0 {
			fmt.Fprintf(&c, "protocol static { ipv%d; route %s recursive %s; }\n", v, aggregate[i], sharedD[i])
		}
	}
	for _, p := range r.peers {
		filter, self := "shorter", ""
		if p.longer {
			filter = "longer"
		}
		if p.as == r.as {
			self = "next hop self; "
		}
		for i, v := range versions {
			fmt.Fprintf(&c, "protocol bgp { local %s as %d; neighbor %s as %d; direct; hold time %d; connect delay time 1; error wait time 1, 2;\n"+
				"  ipv%d { import all; export filter %s; %s}; }\n", n.ends[[2]string{host, p.host}][i], r.as, n.ends[[2]string{p.host, host}][i], p.as, holdSeconds, v, filter, self)
		}
	}
	return c.String()
}
