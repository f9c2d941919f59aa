//go:build linux

package sidecar

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/lab"
	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
)

// Addresses, from the documentation ranges:
//
//	node ns:   lo 192.0.2.53, 2001:db8:53::53 (shared)
//	           198.51.100.7, 2001:db8:100::7 ──── 198.51.100.1, 2001:db8:100::1 :router ns
const (
	shared4, shared6 = "192.0.2.53", "2001:db8:53::53"
	prefix4, prefix6 = "192.0.2.0/24", "2001:db8:53::/48"
	node4, node6     = "198.51.100.7", "2001:db8:100::7"
	router4, router6 = "198.51.100.1", "2001:db8:100::1"
)

var worlds atomic.Int32

// world is two namespaces with a link between them.
type world struct {
	t            *testing.T
	dir          string
	node, router string
	other        string                // a second node, where there is one
	env          []string              // of what is started, beside the test's
	admin        string                // the administrative plane of sidecars, where there is one
	interval     string                // of sidecars' probes; empty: 100 ms
	stop         string                // drain.stop of sidecars; empty: 100 ms
	places       map[string]*lab.Place // by namespace
	rib          rib                   // of gobgpd, where that is the router
}

func newWorld(t *testing.T) *world {
	t.Helper()
	testenv.Root(t)
	testenv.Need(t, "ip")
	id := fmt.Sprintf("acs%d-%d", os.Getpid(), worlds.Add(1))
	w := &world{t: t, dir: publicDir(t), node: id + "-node", router: id + "-router", places: map[string]*lab.Place{}}
	w.link(w.node, "up0", w.router, "down0")
	for _, end := range [][4]string{{w.node, "up0", node4, node6}, {w.router, "down0", router4, router6}} {
		w.ip("-n", end[0], "addr", "add", end[2]+"/24", "dev", end[1])
		w.ip("-n", end[0], "addr", "add", end[3]+"/64", "dev", end[1], "nodad")
	}
	w.ip("-n", w.node, "addr", "add", shared4+"/32", "dev", "lo")
	w.ip("-n", w.node, "addr", "add", shared6+"/128", "dev", "lo", "nodad")
	return w
}

// link joins two namespaces, which it makes if they are not there.
func (w *world) link(a, ofA, b, ofB string) {
	w.t.Helper()
	for _, ns := range []string{a, b} {
		if w.places[ns] == nil {
			w.places[ns] = lab.PlaceFor(w.t, ns, ns)
		}
	}
	lab.Must(w.t, lab.Connect(lab.End{At: w.places[a], Link: ofA}, lab.End{At: w.places[b], Link: ofB}))
}

// publicDir is a temporary directory that daemons which give up root can reach; t.TempDir's parent is closed to them.
func publicDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "sidecar-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func (w *world) ip(args ...string) string {
	w.t.Helper()
	return lab.Run(w.t, "", append([]string{"ip"}, args...)...)
}

// file writes a configuration.
func (w *world) file(name, content string) string {
	w.t.Helper()
	return lab.Write(w.t, filepath.Join(w.dir, name), content)
}

// process is a program in a namespace, or several that are one router.
type process struct {
	t   *testing.T
	all []*lab.Process
}

// start runs a command in ns until it is ended or the test is over.
func (w *world) start(ns, name string, command ...string) *process {
	w.t.Helper()
	return &process{w.t, []*lab.Process{w.startOne(ns, name, command...)}}
}

func (w *world) startOne(ns, name string, command ...string) *lab.Process {
	w.t.Helper()
	return lab.Start(w.t, lab.Command{Name: name, Argv: command, Env: w.env, Log: filepath.Join(w.dir, name+".log"), At: w.places[ns].Do})
}

// signal sends a signal to all of it, with what it forked.
func (p *process) signal(s syscall.Signal) {
	for _, one := range p.all {
		one.SignalAll(s)
	}
}

// end waits for the process to be gone after a signal, and returns how it went.
func (p *process) end(s syscall.Signal) error {
	p.t.Helper()
	var errs []error
	for _, one := range slices.Backward(p.all) {
		errs = append(errs, one.End(p.t, s))
	}
	return errors.Join(errs...)
}

// until waits for something to be so, looking often, and says how long it took.
func (w *world) until(within time.Duration, what string, so func() bool) time.Duration {
	w.t.Helper()
	began := time.Now()
	if err := lab.Until(w.t.Context(), within, what, func() (bool, string) { return so(), "" }); err != nil {
		w.t.Fatalf("%v\n%s%s", err, w.ip("-n", w.router, "route"), w.ip("-n", w.router, "-6", "route"))
	}
	return time.Since(began)
}

// gateway is the router's next hop for a prefix; empty without a route.
func (w *world) gateway(family, prefix string) string {
	var routes []struct {
		Gateway string `json:"gateway"`
		Dev     string `json:"dev"`
		Flags   []string
	}
	out := w.ip("-n", w.router, "-j", family, "route", "show", prefix)
	if strings.TrimSpace(out) == "" || json.Unmarshal([]byte(out), &routes) != nil || len(routes) == 0 {
		return ""
	}
	return routes[0].Gateway
}

func (w *world) bothRoutes() bool {
	return w.gateway("-4", prefix4) == node4 && w.gateway("-6", prefix6) == node6
}

func (w *world) noRoute() bool {
	return w.gateway("-4", prefix4) == "" && w.gateway("-6", prefix6) == ""
}

const zone = `$ORIGIN example.org.
$TTL 60
@ SOA ns1 host 1 3600 600 86400 60
@ NS ns1
ns1 A 192.0.2.53
`

// nsd starts a name server on the shared addresses, without any plugin of ours beside it.
func (w *world) nsd() *process {
	w.t.Helper()
	return w.nsdIn(w.node, shared4, shared6)
}

func (w *world) nsdIn(ns string, addresses ...string) *process {
	w.t.Helper()
	binary := testenv.Need(w.t, "nsd")[0]
	server := lab.NameServer{Kind: "nsd", Dir: filepath.Join(w.dir, ns+"-nsd"),
		Zones: []lab.ServedZone{{Origin: "example.org", File: w.file("example.org.zone", zone)}}}
	for _, a := range addresses {
		server.Listen = append(server.Listen, netip.AddrPortFrom(netip.MustParseAddr(a), 53))
	}
	env := w.env
	defer func() { w.env = env }()
	w.env = nil // a service manager's socket is the sidecar's: NSD would wait for it, and fill it
	return w.start(ns, ns+"-nsd", server.Argv(w.t, binary)...)
}

// router starts a routing daemon of the kind given.
func (w *world) startRouter(kind string) {
	w.t.Helper()
	switch kind {
	case "FRR":
		w.frr()
	case "BIRD":
		w.bird()
	}
}

// frr runs zebra and bgpd.
func (w *world) frr() {
	w.frrDaemons(w.router, map[string]string{"bgpd": fmt.Sprintf(`hostname bgpd
router bgp 64501
 bgp router-id %[1]s
 no bgp ebgp-requires-policy
 no bgp default ipv4-unicast
 neighbor %[2]s remote-as 64500
 neighbor %[2]s password %[4]s
 neighbor %[2]s timers connect 1
 neighbor %[3]s remote-as 64500
 neighbor %[3]s timers connect 1
 address-family ipv4 unicast
  neighbor %[2]s activate
  neighbor %[3]s activate
 exit-address-family
 address-family ipv6 unicast
  neighbor %[2]s activate
  neighbor %[3]s activate
 exit-address-family
`, router4, node4, node6, secret)})
}

func (w *world) bird() {
	binary := testenv.Need(w.t, "bird")[0]
	conf := w.file("bird.conf", fmt.Sprintf(`router id %[1]s;
protocol device {}
protocol kernel { ipv4 { import none; export all; }; }
protocol kernel { ipv6 { import none; export all; }; }
protocol bgp four {
  local as 64501;
  neighbor %[2]s as 64500;
  password "%[4]s";
  connect delay time 1;
  error wait time 1, 2;
  ipv4 { import all; export none; };
  ipv6 { import all; export none; };
}
protocol bgp six {
  local as 64501;
  neighbor %[3]s as 64500;
  connect delay time 1;
  error wait time 1, 2;
  ipv4 { import all; export none; };
  ipv6 { import all; export none; };
}
`, router4, node4, node6, secret))
	w.start(w.router, "bird", binary, "-f", "-c", conf, "-s", filepath.Join(w.dir, "bird.ctl"))
}
