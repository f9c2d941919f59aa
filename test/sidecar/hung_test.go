//go:build linux

package sidecar

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/coredns-anycast/coredns-anycast/internal/lab"
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
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(w.dir, "notify.sock"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	w.env = []string{"NOTIFY_SOCKET=" + socket.LocalAddr().String(), "WATCHDOG_USEC=400000"}
	told := listen(socket)
	dns := l.nsd()
	s := l.node(w.node, "")
	l.there(l.family.node)
	lab.WaitFor(t, "a first word to the service manager", func() bool { return told.first() != "" })
	if said := told.first(); said != "READY=1" {
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
	// It goes on to tell of rounds while it stops, as the service manager's watchdog does not rest then.
	lab.WaitFor(t, "STOPPING=1 to the service manager", func() bool { return told.has("STOPPING=1") })
	t.Logf("DNS died, control loop hung: the route was gone after %v", l.loopHangs())
	if last := told.last(); !strings.HasPrefix(last, "WATCHDOG") {
		t.Errorf("%q was the last word to the service manager", last)
	}
}

// manager hears what is told a service manager. It reads all the time: its socket holds ten words, and who finds it full says no more.
type manager struct {
	mu    sync.Mutex
	words []string
}

// listen hears until the socket is closed.
func listen(conn *net.UnixConn) *manager {
	m := &manager{}
	go func() {
		data := make([]byte, 100)
		for {
			n, err := conn.Read(data)
			if err != nil {
				return
			}
			m.mu.Lock()
			m.words = append(m.words, string(data[:n]))
			m.mu.Unlock()
		}
	}()
	return m
}

func (m *manager) first() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.words) == 0 {
		return ""
	}
	return m.words[0]
}

func (m *manager) has(word string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Contains(m.words, word)
}

func (m *manager) last() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.words[len(m.words)-1]
}
