//go:build linux

package sidecar

import (
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/status"
	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
)

// full asks for ten rounds of everything that is timed, one world after the other, so that medians mean something. Without
// it there is one, in all worlds at once, and the times are those of a machine that does eight things.
var full = os.Getenv("FULL") == "1"

func rounds() int {
	if full {
		return 10
	}
	return 1
}

// What is measured, in the order of the table. Every cell is also asserted: it is a time only if the router's table got
// there.
const (
	mAnnounce    = "announce"     // from the decision to the route
	mWithdraw    = "withdraw"     // from the decision to the route gone
	mSent        = "of it ours"   // from the decision to the UPDATE at the router's interface
	mTaken       = "the router's" // and from there to the route gone
	mKilled      = "DNS killed"   // from the death of the DNS server to the route gone
	mHangs       = "DNS hangs"    // and from its SIGSTOP
	mDrain       = "drain"        // from SIGUSR1 to the route to the other node
	mDrained     = "drain 0s"     // from the start of the command to the route gone, at which it has returned
	mOrdered     = "to decide"    // of which from the start of the command to the decision
	mSidecarKill = "kill -9"      // from the death of the sidecar to the route gone
	mSidecarBack = "back"         // from its next start to the route
	mLoop        = "loop hangs"   // from the death of the DNS server, over which the control loop hangs, to the route gone by the watchdog
	mHold        = "stop, hold"   // from SIGSTOP of the sidecar to the route gone, by the hold time of 3 s
	mBFD         = "stop, BFD"    // and by BFD, three times 100 ms
	mRestart     = "router back"  // from the start of the router's next process to the route
	mPassword    = "MD5"          // wrong and missing passwords get nothing, the right one gets the route
	mTTL         = "GTSM"         // on either side alone it gets nothing, on both the route
	mInternal    = "iBGP"         // inside one AS
	mLifetime    = "kill, expiry" // from the death of the sidecar to the route gone by the lifetime of the address
	mStopped     = "stop, expiry" // and from its SIGSTOP
)

// table collects what was measured, and prints medians.
type table struct {
	mu   sync.Mutex
	rows []string
	took map[[2]string][]time.Duration
	said map[[2]string]string
}

func (t *table) add(row, column string, d time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.took == nil {
		t.took, t.said = map[[2]string][]time.Duration{}, map[[2]string]string{}
	}
	if !slices.Contains(t.rows, row) {
		t.rows = append(t.rows, row)
	}
	t.took[[2]string{row, column}] = append(t.took[[2]string{row, column}], d)
}

func (t *table) say(row, column, what string) {
	t.add(row, column, 0)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.said[[2]string{row, column}] = what
}

func (t *table) print(columns ...string) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	slices.Sort(t.rows)
	out := fmt.Sprintf("%-16s", fmt.Sprintf("median of %d, ms", rounds()))
	for _, c := range columns {
		out += fmt.Sprintf("%13s", c)
	}
	for _, row := range t.rows {
		out += fmt.Sprintf("\n%-16s", row)
		for _, c := range columns {
			cell := "-"
			if all := t.took[[2]string{row, c}]; len(all) > 0 {
				slices.Sort(all)
				cell = fmt.Sprint(all[len(all)/2].Round(time.Millisecond).Milliseconds())
			}
			if s, ok := t.said[[2]string{row, c}]; ok {
				cell = s
			}
			out += fmt.Sprintf("%13s", cell)
		}
	}
	return out
}

// TestMatrix is the life of a route at every router, in both families: it is in the router's table exactly while it must be.
func TestMatrix(t *testing.T) {
	testenv.Root(t)
	var times table
	t.Run("routers", func(t *testing.T) {
		for _, r := range routers {
			for _, f := range families {
				t.Run(r.name+"/"+f.name, func(t *testing.T) {
					if !full {
						t.Parallel()
					}
					l := &life{world: newWorld(t), router: r, family: f, times: &times, row: r.name + " " + f.name}
					l.addOther()
					l.live()
				})
			}
		}
	})
	t.Logf("from cause to the router's table\n%s", times.print(mAnnounce, mWithdraw, mSent, mTaken, mKilled, mHangs, mDrain, mDrained,
		mOrdered, mSidecarKill, mSidecarBack, mLoop, mHold, mBFD, mRestart, mPassword, mTTL, mInternal))
}

// life is one world of the matrix.
type life struct {
	*world
	router router
	family family
	times  *table
	row    string
}

// node starts a sidecar in ns. neighbor is what is said of the router besides its address, bgp of the whole.
func (l *life) node(ns, neighbor string, bgp ...string) *process {
	l.t.Helper()
	router := l.family.router
	if ns == l.other {
		router = l.family.routerToOther
	}
	if !strings.Contains(neighbor, "as:") {
		neighbor = "as: 64501, " + neighbor
	}
	if len(bgp) == 0 {
		bgp = []string{"as: 64500"}
	}
	conf := l.file(ns+".yaml", fmt.Sprintf(`node: tyo1
shared: ['%s']
socket: unix://%[2]s/%[3]s.sock
control: unix://%[2]s/%[3]s-control.sock
state: %[2]s/%[3]s-state
failure: {policy: withdraw, readvertise_delay: 0s, flaps: {most: 100, window: 1m}}
drain: {wait: 1h, stop: %s}
clock: {source: assumed, bound: 1ms}
probe: {interval: %s, rise: 2, fall: 2, zones: [example.org]}
%sbgp:
  router_id: %s
  prefixes: ['%s']
  %s
  neighbors: [{address: '%s', hold_time: 3s, %s}]
`, l.family.shared, l.dir, ns, cmp.Or(l.stop, "100ms"), cmp.Or(l.interval, "100ms"), l.admin, map[bool]string{true: "198.51.101.7", false: node4}[ns == l.other], l.family.prefix,
		strings.Join(bgp, "\n  "), router, neighbor))
	return l.start(ns, "sidecar-"+ns, binary, "run", conf)
}

func (l *life) status(ns string) (s status.Sidecar) {
	out, err := exec.Command(binary, "status", "--json", filepath.Join(l.dir, ns+".yaml")).Output()
	if err == nil {
		err = json.Unmarshal(out, &s)
	}
	if err != nil {
		return status.Sidecar{}
	}
	return s
}

func (l *life) hop() string { return l.router.hop(l.world, l.family) }

// there waits for the route to lead to an address; "" is for no route. It returns when that was seen.
func (l *life) there(hop string) time.Time {
	l.t.Helper()
	l.until(60*time.Second, fmt.Sprintf("the route to %q, it is to %q", hop, l.hop()), func() bool { return l.hop() == hop })
	return time.Now()
}

// decided is when a sidecar logged a decision last.
func (w *world) decided(ns, what string) time.Time {
	w.t.Helper()
	log, err := os.ReadFile(filepath.Join(w.dir, "sidecar-"+ns+".log"))
	if err != nil {
		w.t.Fatal(err)
	}
	var last time.Time
	for _, line := range strings.Split(string(log), "\n") {
		if strings.Contains(line, "msg="+what+" ") {
			at, _, _ := strings.Cut(strings.TrimPrefix(line, "time="), " ")
			last, _ = time.Parse(time.RFC3339Nano, at)
		}
	}
	return last
}

func (l *life) add(column string, d time.Duration) { l.times.add(l.row, column, d) }

func (l *life) live() {
	run := func(p protection) *process { return l.router.run(l.world, l.family, p) }
	router := run(protection{})
	s := l.node(l.world.node, "")
	dns := l.nsd()
	l.there(l.family.node)
	for range rounds() {
		dns = l.service(dns)
	}
	l.drained(s)
	for range rounds() {
		s = l.sidecarDies(s)
	}
	for range rounds() {
		router = l.routerRestarts(router, run)
	}
	s.end(syscall.SIGTERM)
	l.there("")
	dns.end(syscall.SIGTERM)
	for range rounds() {
		l.add(mLoop, l.loopHangs())
	}
	l.nsd()
	router.end(syscall.SIGTERM)
	l.passwords(run(protection{password: secret, bfd: l.router.bfd}))
	l.ttl(run)
	l.internal(run(protection{internal: true}))
}

// service lets the DNS server die, come back, hang and go on.
func (l *life) service(dns *process) *process {
	ns, tap := l.world.node, l.tap(l.family)
	defer tap.close()
	began := time.Now()
	dns.end(syscall.SIGKILL)
	gone := l.there("")
	l.add(mKilled, gone.Sub(began))
	decided := l.decided(ns, "withdrawing")
	l.add(mWithdraw, gone.Sub(decided))
	if sent := tap.update(decided); sent.IsZero() {
		l.t.Error("the route is gone, and no UPDATE was seen on the link")
	} else {
		l.add(mSent, sent.Sub(decided))
		l.add(mTaken, gone.Sub(sent))
	}
	dns = l.nsd()
	back := l.there(l.family.node)
	l.add(mAnnounce, back.Sub(l.decided(ns, "announcing")))
	began = time.Now()
	dns.signal(syscall.SIGSTOP)
	l.add(mHangs, l.there("").Sub(began))
	dns.signal(syscall.SIGCONT)
	l.there(l.family.node)
	return dns
}

// drained is RFC 8326 at work: while the node is still announced the route moves to another one, and it was never gone.
func (l *life) drained(s *process) {
	dns := l.nsdIn(l.other, l.family.shared)
	other := l.node(l.other, "med: 100")
	l.until(60*time.Second, "the other node is announced", func() bool {
		sessions := l.status(l.other).Sessions
		return len(sessions) == 1 && len(sessions[0].Announced) == 1
	})
	for range rounds() {
		if hop := l.hop(); hop != l.family.node {
			l.t.Errorf("with a worse MED elsewhere the route is to %q", hop)
		}
		began := time.Now()
		s.signal(syscall.SIGUSR1)
		l.until(60*time.Second, "the route to the other node", func() bool {
			hop := l.hop()
			if hop == "" {
				l.t.Error("a drain has left no route for a while")
			}
			return hop == l.family.other
		})
		l.add(mDrain, time.Since(began))
		if now := l.status(l.world.node); !now.Announced || now.Why[0].Code != "draining" || len(now.Sessions[0].Announced) != 1 {
			l.t.Errorf("while draining the node says announced %v, %v, %v", now.Announced, now.Why, now.Sessions)
		}
		s.signal(syscall.SIGUSR2)
		l.there(l.family.node)
	}
	other.end(syscall.SIGTERM)
	dns.end(syscall.SIGTERM)
	l.there(l.family.node)
	for range rounds() {
		began := time.Now()
		l.order("drain", l.world.node+".yaml", "--wait", "0s")
		l.add(mDrained, l.there("").Sub(began))
		l.add(mOrdered, l.decided(l.world.node, "withdrawing").Sub(began))
		l.order("undrain", l.world.node+".yaml")
		l.there(l.family.node)
	}
}

// sidecarDies in both ways.
func (l *life) sidecarDies(s *process) *process {
	began := time.Now()
	s.signal(syscall.SIGSTOP)
	l.add(mHold, l.there("").Sub(began))
	s.end(syscall.SIGKILL)
	s = l.node(l.world.node, "")
	l.there(l.family.node)
	began = time.Now()
	s.signal(syscall.SIGKILL)
	l.add(mSidecarKill, l.there("").Sub(began))
	s.end(syscall.SIGKILL)
	began = time.Now()
	s = l.node(l.world.node, "")
	l.add(mSidecarBack, l.there(l.family.node).Sub(began))
	return s
}

// routerRestarts after a session that had lasted.
func (l *life) routerRestarts(router *process, run func(protection) *process) *process {
	up := time.Now()
	l.until(time.Minute, "the session has lasted", func() bool { return time.Since(up) > 11*time.Second })
	router.end(syscall.SIGTERM)
	l.until(time.Minute, "the session is over", func() bool {
		sessions := l.status(l.world.node).Sessions
		return len(sessions) == 1 && sessions[0].State != "established"
	})
	began := time.Now()
	router = run(protection{})
	l.add(mRestart, l.there(l.family.node).Sub(began))
	return router
}

// refused waits until the kernel of ns has dropped segments for one of the reasons, and then wants no route; where it was
// the node's, no session either. (A router takes a first message before it looks at the TTL, so that the node sees one.)
func (l *life) refused(what, ns string, before int, reasons ...string) {
	l.t.Helper()
	l.until(60*time.Second, what+": segments are dropped", func() bool { return l.drops(ns, reasons...) > before+2 })
	if hop := l.hop(); hop != "" {
		l.t.Errorf("%s: there is a route", what)
	}
	if ns != l.world.node {
		return
	}
	l.until(10*time.Second, what+": the sidecar shows the session", func() bool { return len(l.status(l.world.node).Sessions) == 1 })
	if session := l.status(l.world.node).Sessions[0]; session.State == "established" {
		l.t.Errorf("%s: session %v", what, session)
	}
}

func (l *life) passwords(router *process) {
	file := func(password string) string { return "password_file: " + l.file("password-"+password, password+"\n") }
	const missing, wrong = "TCPMD5NotFound", "TCPMD5Failure"
	before := l.drops(l.world.router, missing)
	s := l.node(l.world.node, "")
	l.refused("no password", l.world.router, before, missing)
	s.end(syscall.SIGTERM)
	before = l.drops(l.world.router, wrong)
	s = l.node(l.world.node, file("another"))
	l.refused("wrong password", l.world.router, before, wrong)
	s.end(syscall.SIGTERM)
	good := file(secret)
	if l.router.bfd {
		good += ", bfd: 100ms"
	}
	s = l.node(l.world.node, good)
	l.there(l.family.node)
	l.times.say(l.row, mPassword, "yes")
	if !l.router.bfd {
		l.times.say(l.row, mBFD, "no BFD there")
	}
	for i := range rounds() {
		if !l.router.bfd {
			break
		}
		if i > 0 {
			s = l.node(l.world.node, good)
			l.there(l.family.node)
		}
		l.until(30*time.Second, "BFD is up", func() bool {
			sessions := l.status(l.world.node).Sessions
			return len(sessions) == 1 && sessions[0].BFD == "up"
		})
		began := time.Now()
		s.signal(syscall.SIGSTOP)
		l.add(mBFD, l.there("").Sub(began))
		s.end(syscall.SIGKILL)
	}
	s.end(syscall.SIGKILL)
	router.end(syscall.SIGTERM)
}

func (l *life) ttl(run func(protection) *process) {
	const dropped = "TCPMinTTLDrop"
	router := run(protection{ttlSecurity: true})
	s := l.node(l.world.node, "ttl_security: 1")
	l.there(l.family.node)
	s.end(syscall.SIGTERM)
	l.there("")
	before := l.drops(l.world.router, dropped)
	s = l.node(l.world.node, "")
	l.refused("GTSM at the router alone", l.world.router, before, dropped)
	s.end(syscall.SIGTERM)
	router.end(syscall.SIGTERM)

	// The sidecar alone, as the one who connects, and as the one who is connected to.
	router = run(protection{})
	before = l.drops(l.world.node, dropped)
	s = l.node(l.world.node, "ttl_security: 1")
	l.refused("GTSM at the sidecar alone", l.world.node, before, dropped)
	s.end(syscall.SIGTERM)
	if l.router.name != "GoBGP" { // which only listens here
		before = l.drops(l.world.node, dropped)
		s = l.node(l.world.node, "ttl_security: 1, passive: true", "as: 64500", "listen: ['"+l.family.node+"']")
		l.refused("GTSM at the sidecar that listens", l.world.node, before, dropped)
		s.end(syscall.SIGTERM)
	}
	router.end(syscall.SIGTERM)
	l.times.say(l.row, mTTL, "yes")
}

func (l *life) internal(router *process) {
	s := l.node(l.world.node, "as: 64501", "as: 64501")
	l.there(l.family.node)
	s.end(syscall.SIGTERM)
	l.there("")
	router.end(syscall.SIGTERM)
	l.times.say(l.row, mInternal, "yes")
}

// TestMultihop is a session across a router that does not take part in it.
func TestMultihop(t *testing.T) {
	testenv.Root(t)
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.addOther()
			for ns, via := range map[string][2]string{w.node: {f.other, f.router}, w.other: {f.node, f.routerToOther}} {
				w.ip("-n", ns, "route", "add", via[0], "via", via[1])
			}
			for _, forward := range []string{"net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"} {
				w.ip("netns", "exec", w.router, "sysctl", "-qw", forward)
			}
			between := f.routerToOther
			w.router, f.router = w.other, f.other // the far end is the router now, and has no other node
			w.other, f.other = "", map[int]string{4: "198.51.101.99", 6: "2001:db8:101::99"}[f.version]
			l := &life{world: w, router: routers[0], family: f}
			router := l.router.run(w, f, protection{multihop: true})
			w.nsd()
			s := l.node(w.node, "multihop: 2")
			l.there(between)
			s.end(syscall.SIGTERM)
			l.there("")
			router.end(syscall.SIGTERM)
		})
	}
}
