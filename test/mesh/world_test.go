// Package mesh_test runs a whole mesh: the real coredns, anycast-sidecar and meshctl, a real chronyd, each host in a
// network namespace of its own. Everything that a test makes goes with it; its traffic stays in its namespaces.
package mesh_test

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
)

// built is the directory of the binaries under test, made once for the package.
var built = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "mesh-bin-")
	if err != nil {
		return "", err
	}
	if err := os.Chmod(dir, 0o755); err != nil { // the demo is run by an ordinary user too
		return dir, err
	}
	for name, pkg := range map[string]string{"coredns": "cmd/coredns", "anycast-sidecar": "sidecar", "meshctl": "cmd/meshctl",
		"anycast-demo": "cmd/demo", "intruder": "test/mesh/intruder"} {
		cmd := exec.Command("go", "build", "-o", filepath.Join(dir, name), "./"+pkg)
		cmd.Dir = "../.."
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return dir, fmt.Errorf("building %s: %v\n%s", name, err, out)
		}
	}
	return dir, nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if dir, _ := built(); dir != "" {
		os.RemoveAll(dir)
	}
	os.Exit(code)
}

// world is one test's hosts, processes and files.
type world struct {
	t      *testing.T // the test, or the subtest that runs now
	top    *testing.T // the test, with which all of it ends
	number int32      // of the world in this process
	dir    string
	bin    string
	names  map[string]string // host to namespace
	admins map[string]string // host to administrative address
}

// worlds counts them: tests that mostly wait run beside each other.
var worlds atomic.Int32

func newWorld(t *testing.T) *world {
	testenv.Root(t)
	bin, err := built()
	if err != nil {
		t.Fatal(err)
	}
	return &world{t: t, top: t, number: worlds.Add(1), dir: t.TempDir(), bin: bin, names: map[string]string{}, admins: map[string]string{}}
}

func (w *world) path(elements ...string) string {
	return filepath.Join(append([]string{w.dir}, elements...)...)
}

// write makes a file below the world's directory and returns its path.
func (w *world) write(name, content string) string {
	w.t.Helper()
	path := w.path(name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		w.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		w.t.Fatal(err)
	}
	return path
}

// lan makes a namespace for each host, all on one bridge, with the administrative addresses 198.51.100.1, .2 and so on
// in the order of the hosts, each at a port of its name; extra addresses go to the loopback interface of every host but the first.
func (w *world) lan(hosts []string, extra ...string) {
	w.t.Helper()
	w.host("switch")
	w.within("switch", func() {
		w.must(netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0"}}))
		w.up("br0")
	})
	for i, host := range hosts {
		w.host(host)
		w.admins[host] = fmt.Sprintf("198.51.100.%d", i+1)
		w.connect(host, host, w.admins[host]+"/24")
		w.within(host, func() {
			w.address("lo", "127.0.0.1/8")
			for _, a := range extra {
				if i > 0 {
					w.address("lo", a)
				}
			}
			w.up("lo")
		})
	}
}

// host makes a namespace that ends with the test.
func (w *world) host(host string) {
	name := fmt.Sprintf("mesh%d-%d-%s", os.Getpid(), w.number, host)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	home, err := netns.Get()
	w.must(err)
	defer home.Close()
	ns, err := netns.NewNamed(name)
	w.must(err)
	ns.Close()
	w.must(netns.Set(home))
	w.names[host] = name
	w.top.Cleanup(func() { netns.DeleteNamed(name) })
}

// connect joins a host to a port of the switch by a pair of interfaces.
func (w *world) connect(host, port, address string) {
	inside, err := netns.GetFromName(w.names[host])
	w.must(err)
	defer inside.Close()
	w.within("switch", func() {
		w.must(netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: port}, PeerName: "eth0", PeerNamespace: netlink.NsFd(int(inside))}))
		link, err := netlink.LinkByName(port)
		w.must(err)
		bridge, err := netlink.LinkByName("br0")
		w.must(err)
		w.must(netlink.LinkSetMaster(link, bridge))
		w.up(port)
	})
	w.within(host, func() {
		w.address("eth0", address)
		w.up("eth0")
	})
}

func (w *world) up(name string) {
	link, err := netlink.LinkByName(name)
	w.must(err)
	w.must(netlink.LinkSetUp(link))
}

func (w *world) address(name, address string) {
	link, err := netlink.LinkByName(name)
	w.must(err)
	a, err := netlink.ParseAddr(address)
	w.must(err)
	a.Flags = syscall.IFA_F_NODAD
	if err := netlink.AddrAdd(link, a); err != nil && !strings.Contains(err.Error(), "exists") {
		w.must(err)
	}
}

// within runs f in the host's namespace, on a thread of its own. Sockets that f opens stay there.
func (w *world) within(host string, f func()) {
	w.t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	home, err := netns.Get()
	w.must(err)
	defer home.Close()
	ns, err := netns.GetFromName(w.names[host])
	w.must(err)
	defer ns.Close()
	w.must(netns.Set(ns))
	defer func() {
		if err := netns.Set(home); err != nil {
			panic(err) // this thread must not go on elsewhere
		}
	}()
	f()
}

// dial opens a connection from within the host.
func (w *world) dial(host, network, address string) net.Conn {
	w.t.Helper()
	var conn net.Conn
	w.within(host, func() {
		var err error
		conn, err = net.Dial(network, address)
		w.must(err)
	})
	return conn
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// process is a program that the test started.
type process struct {
	*exec.Cmd
	name string
	log  string
	done chan struct{}
}

// start runs a program on a host; it is killed, by pid, at the end of the test. Its output is shown when the test fails.
func (w *world) start(host, name string, argv ...string) *process {
	w.t.Helper()
	p := &process{name: host + "/" + name, log: w.path(host + "-" + name + ".log"), done: make(chan struct{})}
	out, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	w.must(err)
	defer out.Close()
	p.Cmd = exec.Command(argv[0], argv[1:]...)
	p.Stdout, p.Stderr = out, out
	p.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	w.within(host, func() { w.must(p.Start()) })
	go func() {
		p.Wait()
		close(p.done)
	}()
	w.top.Cleanup(func() {
		p.kill(syscall.SIGKILL)
		if w.top.Failed() {
			w.top.Logf("── log of %s\n%s", p.name, tail(p.log, 40))
		}
	})
	return p
}

// kill sends a signal and waits for the end if the signal ends a process.
func (p *process) kill(sig syscall.Signal) {
	p.Process.Signal(sig)
	if sig == syscall.SIGKILL || sig == syscall.SIGTERM {
		<-p.done
	}
}

func (p *process) running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

func tail(path string, lines int) string {
	data, _ := os.ReadFile(path)
	all := strings.Split(strings.TrimRight(string(data), "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// run runs a program on a host to its end and returns its output.
func (w *world) run(host string, argv ...string) (string, error) {
	w.t.Helper()
	cmd := exec.Command(argv[0], argv[1:]...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	w.within(host, func() { w.must(cmd.Start()) })
	err := cmd.Wait()
	return out.String(), err
}

// mustRun is run for what must not fail.
func (w *world) mustRun(host string, argv ...string) string {
	w.t.Helper()
	out, err := w.run(host, argv...)
	if err != nil {
		w.t.Fatalf("%s on %s: %v\n%s", strings.Join(argv, " "), host, err, out)
	}
	return out
}

// eventually waits until what holds, or fails the test with what last said instead.
func (w *world) eventually(limit time.Duration, what string, holds func() (ok bool, saw string)) {
	w.t.Helper()
	deadline := time.Now().Add(limit)
	for {
		ok, saw := holds()
		if ok {
			return
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("not within %v: %s; saw: %s", limit, what, saw)
		}
		time.Sleep(20 * time.Millisecond)
	}
}
