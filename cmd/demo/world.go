//go:build linux

package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/lab"
)

// The mesh of the demo, in addresses and numbers that are set aside for documentation (RFC 5737, 3849, 5398): the
// shared addresses, and the networks that contain them, which is what the mesh announces (ROUTE-1).
var (
	sharedAddresses = []netip.Addr{netip.MustParseAddr("192.0.2.53"), netip.MustParseAddr("2001:db8:53::53")}
	sharedNetworks  = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8:53::/48")}
)

// prefix begins the name of everything that the demo makes outside its own processes; the process id follows, so that
// two demos do not meet and a crashed one can be told from a running one.
const prefix = "anycast-demo-"

// namespacesOf begins the names of the namespaces of the demo with process id pid.
func namespacesOf(pid int) string { return fmt.Sprintf("%s%d-", prefix, pid) }

// settings of all namespaces: all forward, and an address is usable at once.
var settings = []string{
	"ipv4/ip_forward=1", "ipv6/conf/all/forwarding=1", "ipv4/conf/all/rp_filter=0", "ipv4/conf/default/rp_filter=0",
	"ipv6/conf/all/disable_ipv6=0", "ipv6/conf/default/disable_ipv6=0", "ipv6/conf/all/accept_dad=0", "ipv6/conf/default/accept_dad=0",
}

const meshASN = 64500 // the mesh's own (ROUTE-1); the routers' are below

// The three sites, nearest to the client first. Their routers stand in a line, so that a path from the client gets
// longer with each site.
//
//	client          dist
//	   │             │
//	 r-tyo ─────── r-osa ─────── r-fra
//	   │             │             │
//	  tyo           osa           fra      each announces the shared addresses
var siteNames = []string{"tyo", "osa", "fra"}

// routerASN is the AS of the router at site number n, counted from 0.
func routerASN(n int) uint32 { return uint32(64496 + n) }

// cables are the lines of the picture.
var cables = []struct {
	router, other string
	v4, v6        string // the network; the router has its first address, the other its second
}{
	{"r-tyo", "r-osa", "203.0.113.0/28", "2001:db8:ff01::/64"},
	{"r-osa", "r-fra", "203.0.113.16/28", "2001:db8:ff02::/64"},
	{"r-tyo", "client", "203.0.113.128/28", "2001:db8:c::/64"},
	{"r-osa", "dist", "198.51.100.0/28", "2001:db8:d::/64"},
	{"r-tyo", "tyo", "198.51.100.16/28", "2001:db8:1::/64"},
	{"r-osa", "osa", "198.51.100.32/28", "2001:db8:2::/64"},
	{"r-fra", "fra", "198.51.100.48/28", "2001:db8:3::/64"},
}

// world is where the story takes place: who is where, under which addresses, and what runs.
type world struct {
	bin       string         // directory of the binaries
	dir       string         // everything that is written goes here
	kernel    bool           // namespaces and kernel routes; false: loopback
	announced []netip.Prefix // what the nodes announce, one network of each family that there is
	hosts     map[string]*host
	links     []link
	nodes     []*node
	processes []*lab.Process // in the order of their start
	mu        sync.Mutex     // guards routes and sessions
	routes    map[string]map[netip.Prefix]netip.Addr
	sessions  map[string]map[netip.Addr]string
}

// host is something with a name that is connected: a router, a node, the distribution host, the client.
type host struct {
	name  string
	place *lab.Place
	admin netip.Addr // of its first link: for all but routers this is the administrative address (HOST-1)
}

// end is one end of a link.
type end struct {
	host   *host
	v4, v6 netip.Prefix // the address, with the length of the link's network
}

// link is a cable between a router and something.
type link struct{ router, other end }

// node is one member of the mesh.
type node struct {
	*host
	dns              []netip.AddrPort // where it answers: the shared addresses; on loopback an address of its own
	dir              string
	coredns, sidecar *lab.Process
}

func routerName(site string) string { return "r-" + site }

// newWorld makes the places and the addresses. Close it in any case.
func newWorld(kernel bool, bin, dir string) (*world, error) {
	w := &world{bin: bin, dir: dir, kernel: kernel, hosts: map[string]*host{},
		routes: map[string]map[netip.Prefix]netip.Addr{}, sessions: map[string]map[netip.Addr]string{}}
	if err := os.MkdirAll(filepath.Join(dir, "log"), 0o700); err != nil {
		return w, err
	}
	if err := w.makeHosts(); err != nil {
		return w, err
	}
	if kernel {
		return w, w.wire()
	}
	w.addressLoopback()
	return w, nil
}

func (w *world) makeHosts() error {
	names := []string{"client", "dist"}
	for _, site := range siteNames {
		names = append(names, site, routerName(site))
	}
	var shared *lab.Place
	if !w.kernel {
		var err error
		if shared, err = lab.NewPlace("loopback", ""); err != nil {
			return err
		}
	}
	for _, name := range names {
		p := shared
		if w.kernel {
			var err error
			if p, err = lab.NewPlace(name, namespacesOf(os.Getpid())+name, settings...); err != nil {
				return err
			}
		}
		w.hosts[name] = &host{name: name, place: p}
		w.routes[name], w.sessions[name] = map[netip.Prefix]netip.Addr{}, map[netip.Addr]string{}
	}
	for _, site := range siteNames {
		w.nodes = append(w.nodes, &node{host: w.hosts[site], dir: filepath.Join(w.dir, site)})
	}
	return nil
}

// wire lays the cables and gives everything its addresses.
func (w *world) wire() error {
	for _, c := range cables {
		net4, net6 := netip.MustParsePrefix(c.v4), netip.MustParsePrefix(c.v6)
		l := link{router: end{host: w.hosts[c.router], v4: nth(net4, 1), v6: nth(net6, 1)},
			other: end{host: w.hosts[c.other], v4: nth(net4, 2), v6: nth(net6, 2)}}
		if err := l.lay(); err != nil {
			return err
		}
		w.links = append(w.links, l)
	}
	w.announced = sharedNetworks
	for _, n := range w.nodes {
		for _, a := range sharedAddresses {
			if err := n.place.Address("lo", netip.PrefixFrom(a, a.BitLen())); err != nil {
				return err
			}
			n.dns = append(n.dns, netip.AddrPortFrom(a, 53))
		}
	}
	return nil
}

// nth is the address number n of a network, with the network's length.
func nth(network netip.Prefix, n int) netip.Prefix {
	a := network.Addr()
	for range n {
		a = a.Next()
	}
	return netip.PrefixFrom(a, network.Bits())
}

// lay connects the two ends, gives them their addresses, and makes the router the way out for whoever is no router.
func (l *link) lay() error {
	here, there := l.router.host, l.other.host // each end bears the name of the other
	if err := lab.Connect(lab.End{At: here.place, Link: there.name}, lab.End{At: there.place, Link: here.name}); err != nil {
		return err
	}
	for _, side := range [][2]end{{l.router, l.other}, {l.other, l.router}} {
		here, there := side[0], side[1]
		for _, a := range []netip.Prefix{here.v4, here.v6} {
			if err := here.host.place.Address(there.host.name, a); err != nil {
				return err
			}
		}
	}
	if isRouter(l.other.host.name) {
		return nil
	}
	l.other.host.admin = l.other.v4.Addr()
	for _, via := range []netip.Prefix{l.router.v4, l.router.v6} {
		if err := l.other.host.place.Gateway(via.Addr()); err != nil {
			return err
		}
	}
	return nil
}

func isRouter(name string) bool {
	return slices.ContainsFunc(siteNames, func(site string) bool { return routerName(site) == name })
}

// addressLoopback gives each host an address of 127.0.0.0/8 that follows from the process id, so that two demos do not
// meet. A node's stand-in for the shared address is its own, since one machine has each address once; the network that
// contains all three is what they announce.
func (w *world) addressLoopback() {
	pid := os.Getpid()
	address := func(n int) netip.Prefix {
		return netip.PrefixFrom(netip.AddrFrom4([4]byte{127, byte(64 + pid>>8&63), byte(pid), byte(n)}), 32)
	}
	own := map[string]netip.Prefix{}
	for i, name := range slices.Sorted(maps.Keys(w.hosts)) {
		own[name] = address(10 + i)
		w.hosts[name].admin = own[name].Addr()
	}
	for _, c := range cables {
		w.links = append(w.links, link{router: end{host: w.hosts[c.router], v4: own[c.router]},
			other: end{host: w.hosts[c.other], v4: own[c.other]}})
	}
	stand := netip.PrefixFrom(address(48).Addr(), 28)
	w.announced = []netip.Prefix{stand}
	for i, n := range w.nodes {
		n.dns = []netip.AddrPort{netip.AddrPortFrom(nth(stand, 1+i).Addr(), 5300)}
	}
}

// start starts a process at a host; it ends with the world. out takes its standard output; nil: the log does.
func (w *world) start(h *host, name string, stdin io.Reader, out io.Writer, argv ...string) (*lab.Process, error) {
	p, err := lab.Command{Name: name, Argv: argv, Log: filepath.Join(w.dir, "log", name+".log"), In: stdin, Out: out, At: h.place.Do}.Start()
	if err == nil {
		w.processes = append(w.processes, p)
	}
	return p, err
}

// commandTimeout bounds every command that is to end by itself.
const commandTimeout = 40 * time.Second

// run runs a command at a host to its end and returns what it printed.
func (h *host) run(ctx context.Context, argv ...string) (string, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, commandTimeout, fmt.Errorf("it did not end in %v", commandTimeout))
	defer cancel()
	said, err := lab.Command{Argv: argv, At: h.place.Do}.Run(ctx)
	return strings.TrimRight(said, "\n"), err
}

// close ends every process, the last started first, and takes the namespaces away.
func (w *world) close() error {
	for _, p := range slices.Backward(w.processes) {
		p.Stop()
	}
	return lab.RemoveNamespaces(namespacesOf(os.Getpid()))
}
