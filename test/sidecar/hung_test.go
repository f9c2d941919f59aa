//go:build linux

package sidecar

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
)

// stuck is a sidecar whose log goes into a pipe. As soon as nobody reads that any more, and it is full, the next line of the
// log makes the control loop hang, while GoBGP goes on: what happens to processes whose log collector hangs.
type stuck struct {
	*process
	pipe int // non-blocking, for both ends
}

func (l *life) stuckNode(conf string) *stuck {
	l.t.Helper()
	path := filepath.Join(l.dir, "log.pipe")
	os.Remove(path) // one that was filled before
	if err := unix.Mkfifo(path, 0o600); err != nil {
		l.t.Fatal(err)
	}
	pipe, err := unix.Open(path, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { unix.Close(pipe) })
	return &stuck{l.start(l.world.node, "sidecar-stuck", "sh", "-c", "exec "+binary+" run "+conf+" 2>"+path), pipe}
}

// fill leaves no room for a line.
func (s *stuck) fill() {
	for _, chunk := range []int{4096, 1} {
		for err := error(nil); err == nil; _, err = unix.Write(s.pipe, make([]byte, chunk)) {
		}
	}
}

// loopHangs makes the control loop hang on what it has to say of DNS that died, and returns how long the route stayed. By
// then the route is gone only because the process ended itself.
func (l *life) loopHangs() time.Duration {
	l.t.Helper()
	s := l.stuckNode(filepath.Join(l.dir, l.world.node+".yaml"))
	dns := l.nsd()
	l.there(l.family.node)
	s.fill()
	began := time.Now()
	dns.end(syscall.SIGKILL)
	took := l.there("").Sub(began)
	var exit *exec.ExitError
	select {
	case <-s.all[0].Ended():
		if err := s.all[0].Wait(); !errors.As(err, &exit) || exit.ExitCode() != 3 {
			l.t.Errorf("the process ended with %v, want exit code 3", err)
		}
	case <-time.After(10 * time.Second):
		l.t.Error("the process has not ended itself")
	}
	return took
}

// TestStoppedAndHung: a process that was stopped as a whole for longer than the watchdog waits goes on when it may; one
// whose control loop hangs ends itself, and has ceased to tell the service manager of rounds by then.
func TestStoppedAndHung(t *testing.T) {
	testenv.Root(t)
	t.Parallel()
	w := newWorld(t)
	l := &life{world: w, router: routers[1], family: families[0]}
	l.router.run(w, l.family, protection{})
	manager, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(w.dir, "notify.sock"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer manager.Close()
	w.env = []string{"NOTIFY_SOCKET=" + manager.LocalAddr().String(), "WATCHDOG_USEC=400000"}
	dns := l.nsd()
	s := l.node(w.node, "")
	l.there(l.family.node)
	if said := read(manager); said != "READY=1" {
		t.Errorf("the service manager was told %q first", said)
	}
	s.signal(syscall.SIGSTOP)
	l.there("") // by the hold time, which is longer than the watchdog's
	s.signal(syscall.SIGCONT)
	l.there(l.family.node)
	if !s.all[0].Alive() {
		t.Fatalf("the watchdog has taken a process that was stopped for one that hangs: %v", s.all[0].Wait())
	}
	s.end(syscall.SIGTERM)
	dns.end(syscall.SIGTERM)
	last := ""
	for said := read(manager); said != ""; said = read(manager) {
		last = said
	}
	if last != "STOPPING=1" {
		t.Errorf("the service manager was told %q last", last)
	}
	t.Logf("DNS died, control loop hung: the route was gone after %v", l.loopHangs())
	last = ""
	for said := read(manager); said != ""; said = read(manager) {
		last = said
	}
	if !strings.HasPrefix(last, "WATCHDOG") {
		t.Errorf("%q was the last word to the service manager", last)
	}
}

// read is the next datagram that is there; "" if there is none.
func read(conn *net.UnixConn) string {
	data := make([]byte, 100)
	conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	n, err := conn.Read(data)
	if err != nil {
		return ""
	}
	return string(data[:n])
}
