//go:build linux

package sidecar

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
)

// TestIGP is the life of a route that the IGP carries (ROUTE-2): the sidecar, with CAP_NET_ADMIN and no other privilege,
// brings addresses up on an interface, the node's own daemon advertises them, and a router puts them into its table.
func TestIGP(t *testing.T) {
	testenv.Root(t)
	var times table
	t.Run("protocols", func(t *testing.T) {
		for _, c := range []struct {
			name        string
			run         func(w *world, link string)
			read, other string // the interface that the IGP reads, and the one where the DNS server has its addresses
			rows        [2]string
		}{
			{"FRR-OSPF", runOSPF, "lo", "anycast0", [2]string{"FRR OSPFv2", "FRR OSPFv3"}},
			{"FRR-ISIS", runISIS, "lo", "anycast0", [2]string{"FRR IS-IS IPv4", "FRR IS-IS IPv6"}},
			{"BIRD-OSPF", runBIRDOSPF, "anycast0", "lo", [2]string{"BIRD OSPFv2", "BIRD OSPFv3"}},
		} {
			t.Run(c.name, func(t *testing.T) {
				if !full {
					t.Parallel()
				}
				w := newWorld(t)
				w.addInterfaces(c.read, c.other)
				c.run(w, c.read)
				(&igpLife{world: w, times: &times, rows: c.rows, link: c.read}).live()
			})
		}
	})
	t.Logf("from cause to the router's table, with a lifetime of 1 s\n%s",
		times.print(mAnnounce, mWithdraw, mKilled, mDrain, mStopped, mLifetime, mSidecarBack))
}

// foreign4 and foreign6 are addresses of somebody else on the interface, which nobody may touch.
const foreign4, foreign6 = "203.0.113.1/32", "2001:db8:113::1/128"

// addInterfaces makes a second interface beside lo, a bridge without ports, since not every kernel has dummy. The shared
// addresses are on the one that the IGP does not read, somebody else's on the one that it does.
func (w *world) addInterfaces(read, other string) {
	w.ip("-n", w.node, "link", "add", "anycast0", "type", "bridge")
	w.ip("-n", w.node, "link", "set", "anycast0", "up")
	for _, a := range []string{shared4 + "/32", shared6 + "/128"} {
		if other != "lo" {
			w.ip("-n", w.node, "addr", "del", a, "dev", "lo")
			w.ip(append([]string{"-n", w.node, "addr", "add", a, "dev", other}, map[bool][]string{true: {"nodad"}}[strings.Contains(a, ":")]...)...)
		}
	}
	w.ip("-n", w.node, "addr", "add", foreign4, "dev", read)
	w.ip("-n", w.node, "addr", "add", foreign6, "dev", read, "nodad")
}

// runOSPF runs OSPFv2 and OSPFv3 of FRR at both ends. The timers are those of a network that wants to converge fast.
func runOSPF(w *world, link string) {
	for _, end := range [][3]string{{w.node, "up0", node4}, {w.router, "down0", router4}} {
		v2 := "interface " + end[1] + "\n ip ospf area 0\n ip ospf network point-to-point\n ip ospf hello-interval 1\n ip ospf dead-interval 4\n"
		v3 := "interface " + end[1] + "\n ipv6 ospf6 area 0.0.0.0\n ipv6 ospf6 network point-to-point\n ipv6 ospf6 hello-interval 1\n ipv6 ospf6 dead-interval 4\n"
		if end[0] == w.node {
			v2 += "interface " + link + "\n ip ospf area 0\n ip ospf passive\n"
			v3 += "interface " + link + "\n ipv6 ospf6 area 0.0.0.0\n ipv6 ospf6 passive\n"
		}
		w.frrDaemons(end[0], map[string]string{
			"ospfd":  v2 + "router ospf\n ospf router-id " + end[2] + "\n timers throttle spf 0 50 1000\n timers throttle lsa all 0\n timers lsa min-arrival 0\n",
			"ospf6d": v3 + "router ospf6\n ospf6 router-id " + end[2] + "\n timers throttle spf 0 50 1000\n timers lsa min-arrival 0\n",
		})
	}
}

// runISIS runs IS-IS of FRR at both ends, for both families.
func runISIS(w *world, link string) {
	for i, end := range [][2]string{{w.node, "up0"}, {w.router, "down0"}} {
		conf := fmt.Sprintf("interface %s\n ip router isis 1\n ipv6 router isis 1\n isis network point-to-point\n isis hello-interval 1\n"+
			"router isis 1\n net 49.0001.0000.0000.000%d.00\n is-type level-2-only\n lsp-gen-interval 1\n spf-interval 1\n", end[1], i+1)
		if end[0] == w.node {
			conf += "interface " + link + "\n ip router isis 1\n ipv6 router isis 1\n isis passive\n"
		}
		w.frrDaemons(end[0], map[string]string{"isisd": conf})
	}
}

// runBIRDOSPF runs OSPFv2 and OSPFv3 of BIRD at both ends.
func runBIRDOSPF(w *world, link string) {
	binary := testenv.Need(w.t, "bird")[0]
	for _, end := range [][3]string{{w.node, "up0", node4}, {w.router, "down0", router4}} {
		conf := fmt.Sprintf("router id %s;\nprotocol device {}\n", end[2])
		if end[0] == w.node {
			conf += fmt.Sprintf("protocol direct { ipv4; ipv6; interface %q; }\n", link)
		}
		for version, family := range map[string]string{"v2": "ipv4", "v3": "ipv6"} {
			conf += fmt.Sprintf(`protocol kernel { %[2]s { import none; export where source != RTS_DEVICE; }; }
protocol ospf %[1]s {
  %[2]s { import all; export where source = RTS_DEVICE; };
  area 0 { interface %[3]q { type ptp; hello 1; dead 4; }; };
}
`, version, family, end[1])
		}
		w.start(end[0], "bird-"+end[0], binary, "-f", "-c", w.file(end[0]+"-bird.conf", conf), "-s", filepath.Join(w.dir, end[0]+".ctl"))
	}
}

// igpLife is one world of TestIGP; its rows are one of each family.
type igpLife struct {
	*world
	times *table
	rows  [2]string
	link  string // that the IGP reads
}

// sidecar starts it as nobody, who may change the addresses of interfaces and nothing else.
func (l *igpLife) sidecar() *process {
	l.t.Helper()
	binaries := testenv.Need(l.t, "setpriv")
	run := filepath.Join(l.dir, "run")
	if err := os.MkdirAll(run, 0o755); err != nil {
		l.t.Fatal(err)
	}
	if err := os.Chown(run, 65534, 65534); err != nil {
		l.t.Fatal(err)
	}
	conf := l.file("sidecar.yaml", fmt.Sprintf(`node: tyo1
shared: [%s, '%s']
socket: unix://%s/sidecar.sock
failure: {policy: withdraw, readvertise_delay: 0s, flaps: {most: 100, window: 1m}}
clock: {source: assumed, bound: 1ms}
probe: {interval: 100ms, rise: 2, fall: 2, zones: [example.org]}
igp: {interface: %s, lifetime: 1s}
`, shared4, shared6, run, l.link))
	const only = "-all,+net_admin"
	return l.start(l.node, "sidecar-"+l.node, binaries[0], "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps="+only,
		"--ambient-caps="+only, "--bounding-set="+only, "--no-new-privs", binary, "run", conf)
}

// there waits for both routes to be there or gone, and returns when that was seen. With a column it adds how long each
// took since a cause.
func (l *igpLife) there(want bool, column string, since time.Time) (seen [2]time.Time) {
	l.t.Helper()
	l.until(90*time.Second, fmt.Sprintf("the routes there: %v", want), func() bool {
		for i, f := range families {
			hop := l.kernelHop(f, fmt.Sprintf("%s/%d", f.shared, map[int]int{4: 32, 6: 128}[f.version]))
			switch {
			case (hop != "") != want:
				seen[i] = time.Time{}
			case seen[i].IsZero():
				seen[i] = time.Now()
			}
		}
		return !seen[0].IsZero() && !seen[1].IsZero()
	})
	if column != "" {
		l.add(column, seen, since)
	}
	return seen
}

func (l *igpLife) add(column string, seen [2]time.Time, since time.Time) {
	for i, row := range l.rows {
		l.times.add(row, column, seen[i].Sub(since))
	}
}

func (l *igpLife) live() {
	dns := l.nsd()
	s := l.sidecar()
	l.there(true, "", time.Now())
	for i, f := range families {
		l.until(60*time.Second, "the routes of somebody else's addresses", func() bool { return l.kernelHop(f, [2]string{foreign4, foreign6}[i]) != "" })
	}
	for range rounds() {
		began := time.Now()
		dns.end(syscall.SIGKILL)
		gone := l.there(false, mKilled, began)
		l.add(mWithdraw, gone, l.decided(l.node, "withdrawing"))
		dns = l.nsd()
		l.add(mAnnounce, l.there(true, "", began), l.decided(l.node, "announcing"))

		began = time.Now()
		s.signal(syscall.SIGUSR1)
		l.there(false, mDrain, began)
		s.signal(syscall.SIGUSR2)
		l.there(true, "", began)

		began = time.Now()
		s.signal(syscall.SIGSTOP)
		l.there(false, mStopped, began)
		s.signal(syscall.SIGCONT)
		l.there(true, "", began)

		began = time.Now()
		s.end(syscall.SIGKILL)
		l.there(false, mLifetime, began)
		began = time.Now()
		s = l.sidecar()
		l.there(true, mSidecarBack, began)
	}
	if l.link != "lo" {
		l.away()
	}
	if err := s.end(syscall.SIGTERM); err != nil {
		l.t.Errorf("after SIGTERM the sidecar ended with %v", err)
	}
	if left := l.ip("-n", l.node, "-br", "addr", "show", "dev", l.link); strings.Contains(left, shared4) || strings.Contains(left, shared6) {
		l.t.Errorf("SIGTERM has left %s", left)
	}
	l.there(false, "", time.Now())
	for i, f := range families {
		if l.kernelHop(f, [2]string{foreign4, foreign6}[i]) == "" {
			l.t.Errorf("%s: the route of somebody else's address has gone", f.name)
		}
	}
}

// away takes the interface down, and makes it anew: the sidecar says that the route is not as decided, and why, until it is.
func (l *igpLife) away() {
	l.t.Helper()
	says := func(fault string) {
		l.t.Helper()
		l.until(10*time.Second, "the status says "+fault, func() bool { return strings.Contains(l.statusText(), `"fault": "`+fault) })
	}
	l.ip("-n", l.node, "link", "set", l.link, "down")
	says("interface " + l.link + " is down")
	l.there(false, "", time.Now())
	l.ip("-n", l.node, "link", "del", l.link)
	says("interface " + l.link + " is not there")
	l.ip("-n", l.node, "link", "add", l.link, "type", "bridge")
	l.ip("-n", l.node, "link", "set", l.link, "up")
	l.ip("-n", l.node, "addr", "add", foreign4, "dev", l.link)
	l.ip("-n", l.node, "addr", "add", foreign6, "dev", l.link, "nodad")
	l.there(true, "", time.Now())
	l.until(10*time.Second, "the status says nothing of the kind", func() bool {
		text := l.statusText()
		return strings.Contains(text, `"announced": true`) && !strings.Contains(text, `"fault"`)
	})
}
