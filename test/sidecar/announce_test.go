//go:build linux

package sidecar

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
)

// secret is the TCP MD5 password of the IPv4 session.
const secret = "not-so-secret"

var binary string

func TestMain(m *testing.M) {
	flag.Parse()
	flag.Set("test.parallel", "16") // worlds wait most of the time
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "sidecar-test-")
		if err != nil {
			panic(err)
		}
		defer os.RemoveAll(dir)
		binary = filepath.Join(dir, "anycast-sidecar")
		build := exec.Command("go", "build", "-o", binary, "../../sidecar")
		if out, err := build.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "building anycast-sidecar: %v\n%s", err, out)
			return 1
		}
		return m.Run()
	}())
}

// How the two families get to the router.
const (
	twoSessions = "neighbors: [{address: " + router4 + ", as: 64501, password_file: %[1]s}, {address: '" + router6 + "', as: 64501}]"
	oneSession  = "neighbors: [{address: " + router4 + ", as: 64501, password_file: %[1]s, next_hop: ['" + node6 + "']}]"
	overIPv6    = "neighbors: [{address: '" + router6 + "', as: 64501, next_hop: [" + node4 + "]}]"
	listening   = "listen: [" + node4 + "]\n  neighbors: [{address: " + router4 + ", as: 64501, passive: true, password_file: %[1]s, next_hop: ['" + node6 + "']}]"
)

// sidecar starts the real binary with a policy and a way to carry both families.
func (w *world) sidecar(policy, neighbors string) *process {
	w.t.Helper()
	if strings.Contains(neighbors, "%") {
		neighbors = fmt.Sprintf(neighbors, w.file("password", secret+"\n"))
	}
	conf := w.file("sidecar.yaml", fmt.Sprintf(`node: tyo1
shared: [%s, '%s']
socket: unix://%[3]s/sidecar.sock
control: unix://%[3]s/control.sock
state: %[3]s/state
metrics: 127.0.0.1:9154
failure: {policy: %s, readvertise_delay: 1s, flaps: {most: 100, window: 1m}}
drain: {wait: 100ms, stop: 100ms}
clock: {source: assumed, bound: 1ms}
probe: {interval: 100ms, rise: 2, fall: 2, zones: [example.org]}
bgp:
  as: 64500
  router_id: %s
  prefixes: [%s, '%s']
  %s
`, shared4, shared6, w.dir, policy, node4, prefix4, prefix6, neighbors))
	return w.start(w.node, "sidecar", binary, "run", conf)
}

// times is how long each thing took, printed at the end for the reader.
type times []string

func (ts *times) add(what string, d time.Duration) {
	*ts = append(*ts, fmt.Sprintf("%-42s %6d ms", what, d.Milliseconds()))
}

// TestAnnounce is the life of a route at a real router: it comes when DNS answers and goes when it must.
func TestAnnounce(t *testing.T) {
	testenv.Root(t)
	for _, router := range []string{"FRR", "BIRD"} {
		for _, c := range [][2]string{{"a session per family", twoSessions}, {"IPv6 over the IPv4 session", oneSession},
			{"IPv4 over the IPv6 session", overIPv6}, {"the router connecting", listening}} {
			t.Run(router+" with "+c[0], func(t *testing.T) {
				t.Parallel()
				announce(t, router, c[1])
			})
		}
	}
}

func announce(t *testing.T, router, neighbors string) {
	w := newWorld(t)
	w.startRouter(router)
	var took times
	defer func() { t.Logf("%s\n%s", t.Name(), strings.Join(took, "\n")) }()

	// Nothing is announced before DNS has answered: the sessions are up, and the router knows no route.
	s := w.sidecar("withdraw", neighbors)
	w.until(30*time.Second, "the sessions are established", w.established)
	if !w.noRoute() {
		t.Fatal("announced before DNS ever answered")
	}
	dns := w.nsd()
	took.add("name server starts, route there", w.until(10*time.Second, "both routes", w.bothRoutes))

	// FAIL-2: it dies, it hangs; it comes back.
	dns.end(syscall.SIGKILL)
	took.add("name server killed, route gone", w.until(10*time.Second, "no route", w.noRoute))
	dns = w.nsd()
	took.add("name server back, route there (delay 1 s)", w.until(20*time.Second, "both routes", w.bothRoutes))
	dns.signal(syscall.SIGSTOP)
	took.add("name server hangs, route gone", w.until(10*time.Second, "no route", w.noRoute))
	dns.signal(syscall.SIGCONT)
	took.add("name server goes on, route there", w.until(20*time.Second, "both routes", w.bothRoutes))

	// Drained by the operator, also through a restart, and back.
	began := time.Now()
	w.order("drain", "sidecar.yaml", "--wait", "0s", "--why", "new fans")
	w.until(10*time.Second, "no route", w.noRoute)
	took.add("drain command, route gone", time.Since(began))
	if !w.established() {
		t.Error("a drain has closed a session")
	}
	s.end(syscall.SIGKILL)
	s = w.sidecar("withdraw", neighbors)
	w.until(60*time.Second, "the sessions are established", w.established)
	w.until(20*time.Second, "DNS is good", func() bool { return strings.Contains(w.statusText(), `"up": true`) })
	if out := w.statusText(); !strings.Contains(out, "new fans") || !w.noRoute() {
		t.Errorf("a drain is forgotten with its process; status\n%s", out)
	}
	w.order("undrain", "sidecar.yaml")
	w.until(20*time.Second, "both routes", w.bothRoutes)
	s.signal(syscall.SIGUSR1)
	w.until(10*time.Second, "no route", w.noRoute)
	s.signal(syscall.SIGUSR2)
	w.until(20*time.Second, "both routes", w.bothRoutes)

	// SIGTERM withdraws first and ends in order.
	began = time.Now()
	s.signal(syscall.SIGTERM)
	w.until(10*time.Second, "no route", w.noRoute)
	took.add("SIGTERM, route gone", time.Since(began))
	if err := s.end(syscall.SIGTERM); err != nil {
		t.Errorf("after SIGTERM the sidecar ended with %v", err)
	}

	// kill -9: the session goes with the process, and the route with the session.
	s = w.sidecar("withdraw", neighbors)
	w.until(60*time.Second, "both routes", w.bothRoutes)
	began = time.Now()
	s.signal(syscall.SIGKILL)
	w.until(10*time.Second, "no route", w.noRoute)
	took.add("kill -9, route gone", time.Since(began))
	s.end(syscall.SIGKILL)

	// What kill -9 left behind is in nobody's way.
	s = w.sidecar("withdraw", neighbors)
	w.until(60*time.Second, "both routes", w.bothRoutes)
	if err := s.end(syscall.SIGTERM); err != nil {
		t.Errorf("after SIGTERM the sidecar ended with %v", err)
	}
	w.until(10*time.Second, "no route", w.noRoute)
}

// order gives the sidecar that runs with a configuration an order, as an operator does, and wants it to be obeyed.
func (w *world) order(what, conf string, args ...string) {
	w.t.Helper()
	out, err := exec.Command(binary, append([]string{what, filepath.Join(w.dir, conf)}, args...)...).CombinedOutput()
	if err != nil {
		w.t.Fatalf("%s: %v\n%s", what, err, out)
	}
}

// statusText is what the status command says.
func (w *world) statusText() string {
	out, _ := exec.Command(binary, "status", "--json", filepath.Join(w.dir, "sidecar.yaml")).Output()
	return string(out)
}

// established asks the sidecar whether every session is up, by the command that an operator has.
func (w *world) established() bool {
	out, err := exec.Command("ip", "netns", "exec", w.node, binary, "status", "--json", filepath.Join(w.dir, "sidecar.yaml")).Output()
	return err == nil && strings.Contains(string(out), `"state": "established"`) &&
		strings.Count(string(out), `"state": "established"`) == strings.Count(string(out), `"neighbor"`)
}

// TestStopDNS is FAIL-1: the route of a node whose DNS service dies stays, until the sidecar is stopped.
func TestStopDNS(t *testing.T) {
	testenv.Root(t)
	w := newWorld(t)
	w.startRouter("BIRD")
	s := w.sidecar("stop-dns", oneSession)
	dns := w.nsd()
	w.until(30*time.Second, "both routes", w.bothRoutes)
	dns.end(syscall.SIGKILL)
	w.until(10*time.Second, "the sidecar sees it", func() bool {
		out, _ := exec.Command(binary, "status", "--json", filepath.Join(w.dir, "sidecar.yaml")).Output()
		return strings.Contains(string(out), "probe-down") && strings.Contains(string(out), "route-stays")
	})
	for end := time.Now().Add(time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if !w.bothRoutes() {
			t.Fatal("the route has gone with the DNS service")
		}
	}
	if err := s.end(syscall.SIGTERM); err != nil {
		t.Errorf("after SIGTERM the sidecar ended with %v", err)
	}
	w.until(10*time.Second, "no route", w.noRoute)
}

// TestAnotherNodesAnswerIsNoProof: where the shared address is on no interface of this node, a question to it leaves the node and
// another one of the mesh answers, rightly. That announces nothing here, since clients that come would get no answer (JP-1).
func TestAnotherNodesAnswerIsNoProof(t *testing.T) {
	testenv.Root(t)
	w := newWorld(t)
	w.startRouter("BIRD")
	w.ip("-n", w.router, "addr", "add", shared4+"/32", "dev", "lo")
	w.ip("-n", w.router, "addr", "add", shared6+"/128", "dev", "lo", "nodad")
	w.nsdIn(w.router, shared4, shared6)
	w.ip("-n", w.node, "route", "add", "default", "via", router4)
	w.ip("-n", w.node, "-6", "route", "add", "default", "via", router6)
	w.ip("-n", w.node, "addr", "del", shared4+"/32", "dev", "lo")
	w.ip("-n", w.node, "addr", "del", shared6+"/128", "dev", "lo")
	w.until(30*time.Second, "the other node answers", func() bool {
		out, err := exec.Command("ip", "netns", "exec", w.node, "dig", "+short", "+tries=1", "@"+shared4, "example.org", "SOA").Output()
		return err == nil && strings.Contains(string(out), "ns1.example.org.")
	})
	w.sidecar("withdraw", oneSession)
	w.until(30*time.Second, "the session is established", w.established)
	for _, address := range []string{shared4 + "/32", shared6 + "/128"} {
		w.until(10*time.Second, "the status says what is missing", func() bool {
			return strings.Contains(w.statusText(), "on no interface of this machine: ip addr add "+address+" dev lo")
		})
	}
	if !w.noRoute() || strings.Contains(w.statusText(), `"up": true`) {
		t.Fatalf("announced by another node's answers:\n%s", w.statusText())
	}
	w.ip("-n", w.node, "addr", "add", shared4+"/32", "dev", "lo")
	w.ip("-n", w.node, "addr", "add", shared6+"/128", "dev", "lo", "nodad")
	w.nsd()
	w.until(20*time.Second, "both routes", w.bothRoutes)
}

// TestRefusesToStart: a bad configuration, or an address of another process, starts nothing.
func TestRefusesToStart(t *testing.T) {
	dir := t.TempDir()
	for name, c := range map[string]struct{ file, want string }{
		"bad key":      {"node: a\nshard: [192.0.2.53]\n", `:2:1: unknown key "shard"`},
		"no such file": {"", "no such file"},
		"no certificate": {"node: a\nshared: [192.0.2.53]\nprobe: {zones: [.]}\nclock: {source: assumed, bound: 1ms}\n" +
			"identity: {certificate: /nowhere, key: /nowhere, ca: /nowhere}\nadmin: {listen: '127.0.0.1:1'}\n", "the certificate /nowhere"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(dir, strings.ReplaceAll(name, " ", "-"))
			if c.file != "" {
				if err := os.WriteFile(path, []byte(c.file), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			out, err := exec.Command(binary, "run", path).CombinedOutput()
			var exit *exec.ExitError
			if !errors.As(err, &exit) || !strings.Contains(string(out), c.want) {
				t.Errorf("%v:\n%s\nwant a failure with %q", err, out, c.want)
			}
		})
	}
}
