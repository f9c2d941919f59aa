//go:build linux

package sidecar

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

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
	other        string   // a second node, where there is one
	env          []string // of what is started, beside the test's
	admin        string   // the administrative plane of sidecars, where there is one
	interval     string   // of sidecars' probes; empty: 100 ms
	stop         string   // drain.stop of sidecars; empty: 100 ms
	handles      map[string]*netlink.Handle
	rib          rib // of gobgpd, where that is the router
}

func newWorld(t *testing.T) *world {
	t.Helper()
	testenv.Root(t)
	testenv.Need(t, "ip")
	id := fmt.Sprintf("acs%d-%d", os.Getpid(), worlds.Add(1))
	w := &world{t: t, dir: publicDir(t), node: id + "-node", router: id + "-router"}
	for _, ns := range []string{w.node, w.router} {
		w.ip("netns", "add", ns)
		t.Cleanup(func() { exec.Command("ip", "netns", "del", ns).Run() })
		w.ip("-n", ns, "link", "set", "lo", "up")
	}
	w.ip("-n", w.node, "link", "add", "up0", "type", "veth", "peer", "name", "down0", "netns", w.router)
	for _, end := range [][4]string{{w.node, "up0", node4, node6}, {w.router, "down0", router4, router6}} {
		w.ip("-n", end[0], "addr", "add", end[2]+"/24", "dev", end[1])
		w.ip("-n", end[0], "addr", "add", end[3]+"/64", "dev", end[1], "nodad")
		w.ip("-n", end[0], "link", "set", end[1], "up")
	}
	w.ip("-n", w.node, "addr", "add", shared4+"/32", "dev", "lo")
	w.ip("-n", w.node, "addr", "add", shared6+"/128", "dev", "lo", "nodad")
	return w
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
	out, err := exec.Command("ip", args...).CombinedOutput()
	if err != nil {
		w.t.Fatalf("ip %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// file writes a configuration.
func (w *world) file(name, content string) string {
	w.t.Helper()
	path := filepath.Join(w.dir, name)
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		w.t.Fatal(err)
	}
	return path
}

// process is a daemon in a namespace, with what it forked.
type process struct {
	t    *testing.T
	name string
	cmd  *exec.Cmd
	done chan error

	others []*process // what it consists of, if it is several
}

// start runs a command in ns until it is ended or the test is over.
func (w *world) start(ns, name string, command ...string) *process {
	w.t.Helper()
	log, err := os.OpenFile(filepath.Join(w.dir, name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		w.t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command("ip", append([]string{"netns", "exec", ns}, command...)...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = append(os.Environ(), w.env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // a signal reaches its children, and nothing else
	if err := cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	p := &process{t: w.t, name: name, cmd: cmd, done: make(chan error, 1)}
	go func() { p.done <- cmd.Wait(); close(p.done) }()
	w.t.Cleanup(func() {
		p.signal(syscall.SIGKILL)
		<-p.done
		if w.t.Failed() {
			text, _ := os.ReadFile(log.Name())
			w.t.Logf("%s said:\n%s", name, text)
		}
	})
	return p
}

func (p *process) signal(s syscall.Signal) {
	for _, one := range p.others {
		one.signal(s)
	}
	if p.others == nil {
		syscall.Kill(-p.cmd.Process.Pid, s)
	}
}

// end waits for the process to be gone after a signal, and returns how it went.
func (p *process) end(s syscall.Signal) error {
	p.t.Helper()
	if p.others != nil {
		var errs []error
		for _, one := range slices.Backward(p.others) {
			errs = append(errs, one.end(s))
		}
		return errors.Join(errs...)
	}
	p.signal(s)
	select {
	case err := <-p.done:
		return err
	case <-time.After(10 * time.Second):
		p.t.Fatalf("%s does not end on %v", p.name, s)
		return nil
	}
}

// until waits for something to be so, looking often, and says how long it took.
func (w *world) until(within time.Duration, what string, so func() bool) time.Duration {
	w.t.Helper()
	began := time.Now()
	for !so() {
		if time.Since(began) > within {
			w.t.Fatalf("not within %v: %s\n%s%s", within, what, w.ip("-n", w.router, "route"), w.ip("-n", w.router, "-6", "route"))
		}
		time.Sleep(5 * time.Millisecond)
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
	w.file("example.org.zone", zone)
	conf := w.file(ns+"-nsd.conf", fmt.Sprintf(`server:
  ip-address: %[1]s
  server-count: 1
  username: ""
  chroot: ""
  zonesdir: %[2]s
  database: ""
  pidfile: ""
  xfrdfile: %[2]s/%[3]s-xfrd.state
  xfrdir: %[2]s
  zonelistfile: %[2]s/%[3]s-zone.list
remote-control:
  control-enable: no
zone:
  name: example.org
  zonefile: example.org.zone
`, strings.Join(addresses, "\n  ip-address: "), w.dir, ns))
	return w.start(ns, ns+"-nsd", binary, "-d", "-c", conf)
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

// frr runs zebra and bgpd with a run directory of their own.
func (w *world) frr() {
	binaries := testenv.Need(w.t, "/usr/lib/frr/zebra", "/usr/lib/frr/bgpd") // OpenBGPD has a bgpd too
	run := filepath.Join(w.dir, "frr")
	if err := errors.Join(os.Mkdir(run, 0o755), os.Chmod(run, 0o777)); err != nil { // theirs, once they have given up root
		w.t.Fatal(err)
	}
	zebra := w.file("zebra.conf", "hostname zebra\n")
	bgpd := w.file("bgpd.conf", fmt.Sprintf(`hostname bgpd
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
`, router4, node4, node6, secret))
	common := []string{"-z", run + "/zserv.api", "--vty_socket", run, "--log", "stdout"}
	w.start(w.router, "zebra", append([]string{binaries[0], "-f", zebra, "-i", run + "/zebra.pid"}, common...)...)
	w.until(10*time.Second, "zebra's socket", func() bool { _, err := os.Stat(run + "/zserv.api"); return err == nil })
	w.start(w.router, "bgpd", append([]string{binaries[1], "-f", bgpd, "-i", run + "/bgpd.pid"}, common...)...)
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
