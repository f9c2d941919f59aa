// Package mesh_test runs a whole mesh: the real coredns, anycast-sidecar and meshctl, a real chronyd, each host in a
// network namespace of its own. Everything that a test makes goes with it; its traffic stays in its namespaces.
package mesh_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/lab"
	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
)

var binaries = testenv.Binaries{Commands: map[string]string{"coredns": "cmd/coredns", "anycast-sidecar": "sidecar", "meshctl": "cmd/meshctl",
	"anycast-demo": "cmd/demo", "intruder": "test/mesh/intruder"}}

func TestMain(m *testing.M) { binaries.Main(m) }

// world is one test's hosts, processes and files.
type world struct {
	t      *testing.T // the test, or the subtest that runs now
	top    *testing.T // the test, with which all of it ends
	number int32      // of the world in this process
	dir    string
	bin    string
	places map[string]*lab.Place // by host
	admins map[string]string     // host to administrative address
	fails  *verdict
}

// verdict is why a test fails.
type verdict struct {
	mu  sync.Mutex
	all []string
}

// worlds counts them: tests that mostly wait run beside each other.
var worlds atomic.Int32

func newWorld(t *testing.T) *world {
	testenv.Root(t)
	w := &world{t: t, top: t, number: worlds.Add(1), places: map[string]*lab.Place{}, admins: map[string]string{}, fails: new(verdict)}
	t.Cleanup(func() { w.fails.sayAgain(t) }) // the first, so that it is done last
	w.dir, w.bin = t.TempDir(), binaries.Dir(t)
	return w
}

// sayAgain says why the test has failed after all logs, of which some who show them keep the end only.
func (f *verdict) sayAgain(t *testing.T) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, words := range f.all {
		t.Logf("── it failed since: %s", words)
	}
}

// errorf is t.Errorf, and is said again at the end.
func (w *world) errorf(format string, args ...any) {
	w.t.Helper()
	w.t.Error(w.fails.add(format, args...))
}

// fatalf is t.Fatalf, and is said again at the end.
func (w *world) fatalf(format string, args ...any) {
	w.t.Helper()
	w.t.Fatal(w.fails.add(format, args...))
}

func (f *verdict) add(format string, args ...any) string {
	words := fmt.Sprintf(format, args...)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.all = append(f.all, words)
	return words
}

func (w *world) path(elements ...string) string {
	return filepath.Join(append([]string{w.dir}, elements...)...)
}

// write makes a file below the world's directory and returns its path.
func (w *world) write(name, content string) string {
	w.t.Helper()
	return lab.Write(w.t, w.path(name), content)
}

// lan makes a namespace for each host, all on one bridge, with the administrative addresses 198.51.100.1, .2 and so on
// in the order of the hosts, each at a port of its name; extra addresses go to the loopback interface of every host but the first.
func (w *world) lan(hosts []string, extra ...string) {
	w.t.Helper()
	w.host("switch")
	w.must(w.places["switch"].Bridge())
	for i, host := range hosts {
		w.host(host)
		w.admins[host] = fmt.Sprintf("198.51.100.%d", i+1)
		w.connect(host, host, w.admins[host]+"/24")
		for _, a := range extra {
			if i > 0 {
				w.address(host, "lo", a)
			}
		}
	}
}

// host makes a namespace that ends with the test.
func (w *world) host(host string) {
	w.places[host] = lab.PlaceFor(w.top, host, fmt.Sprintf("mesh%d-%d-%s", os.Getpid(), w.number, host))
}

// connect joins a host to a port of the switch by a pair of interfaces.
func (w *world) connect(host, port, address string) {
	w.must(w.places["switch"].Plug(port, w.places[host]))
	w.address(host, "eth0", address)
}

// address gives an interface of a host an address, if it has not got it.
func (w *world) address(host, name, address string) {
	w.t.Helper()
	if err := w.places[host].Address(name, netip.MustParsePrefix(address)); !errors.Is(err, syscall.EEXIST) {
		w.must(err)
	}
}

// within runs f in the host's namespace. Sockets that f opens stay there.
func (w *world) within(host string, f func()) {
	w.t.Helper()
	w.must(w.places[host].Do(func() error { f(); return nil }))
}

// dial opens a connection from within the host.
func (w *world) dial(host, network, address string) net.Conn {
	w.t.Helper()
	conn, err := w.places[host].Dial(context.Background(), network, address)
	w.must(err)
	return conn
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.fatalf("%v", err)
	}
}

// start runs a program on a host; it is killed, by pid, at the end of the test. Its output is shown when the test fails.
func (w *world) start(host, name string, argv ...string) *lab.Process {
	w.t.Helper()
	return lab.Start(w.top, lab.Command{Name: host + "/" + name, Argv: argv, Log: w.path(host + "-" + name + ".log"), At: w.places[host].Do})
}

// run runs a program on a host to its end and returns its output.
func (w *world) run(host string, argv ...string) (string, error) {
	w.t.Helper()
	return lab.Command{Argv: argv, At: w.places[host].Do}.Run(context.Background())
}

// mustRun is run for what must not fail.
func (w *world) mustRun(host string, argv ...string) string {
	w.t.Helper()
	out, err := w.run(host, argv...)
	if err != nil {
		w.fatalf("%s on %s: %v", strings.Join(argv, " "), host, err)
	}
	return out
}

// eventually waits until what holds, or fails the test with what last said instead. A machine that has other work is given longer than limit.
func (w *world) eventually(limit time.Duration, what string, holds func() (ok bool, saw string)) {
	w.t.Helper()
	w.must(lab.Patiently(context.Background(), limit, what, holds))
}

// by is eventually with a limit that is the mesh's.
func (w *world) by(limit time.Duration, what string, holds func() (ok bool, saw string)) {
	w.t.Helper()
	w.must(lab.Until(context.Background(), limit, what, holds))
}
