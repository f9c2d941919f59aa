//go:build linux

package sidecar

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/lab"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
)

// keeping is how long routers are to keep routes in TestGracefulRestart: longer than any step waits for a route to go, so that
// one that goes has not just run out.
const keeping = 2 * time.Minute

// TestGracefulRestart is the life of a route that routers keep through a restart (RFC 4724), at those that know it. A restart that
// is announced as one loses no query. In every other way the route goes as without graceful restart: with DNS, a drain, an end, a
// hang; and it does not outlast a restart after which the node may not serve.
func TestGracefulRestart(t *testing.T) {
	testenv.Root(t)
	for _, r := range routers[:2] {
		for _, f := range families {
			t.Run(r.name+"/"+f.name, func(t *testing.T) {
				t.Parallel()
				l := &life{world: newWorld(t), router: r, family: f}
				l.router.run(l.world, l.family, protection{})
				l.restarts()
			})
		}
	}
}

func (l *life) restarts() {
	dns := l.nsd()
	l.interval = "3s" // so that a session could be up before it is known how DNS is
	s := l.keptNode(keeping)
	load := l.asked()
	for _, how := range []syscall.Signal{syscall.SIGQUIT, syscall.SIGQUIT, syscall.SIGKILL} {
		s = l.again(s, how)
	}
	if all := load.End(); lab.Lost(all) > 0 || len(all) == 0 {
		l.t.Errorf("of %d questions, restarts have lost %d", len(all), lab.Lost(all))
	}

	l.interval = ""
	s = l.again(s, syscall.SIGQUIT)

	// DNS dies: the session stays, and the route goes.
	dns.end(syscall.SIGKILL)
	l.there("")
	if now := l.status(l.world.node); len(now.Sessions) != 1 || now.Sessions[0].State != "established" {
		l.t.Errorf("the route has gone with its session: %+v", now.Sessions)
	}
	dns = l.nsd()
	l.there(l.family.node)
	l.order("drain", l.world.node+".yaml", "--wait", "0s")
	l.there("")
	if err := s.end(syscall.SIGQUIT); err != nil { // a drained node has nothing that could be kept
		l.t.Error(err)
	}
	s = l.keptSidecar(keeping)
	l.until(30*time.Second, "the next process is drained", func() bool { return l.status(l.world.node).Drain != nil })
	l.order("undrain", l.world.node+".yaml")
	l.there(l.family.node)

	// A node whose DNS hangs at the very moment leaves no route behind.
	dns.signal(syscall.SIGSTOP)
	if err := s.end(syscall.SIGQUIT); err != nil {
		l.t.Error(err)
	}
	l.there("")
	dns.signal(syscall.SIGCONT)

	// DNS dies while the sidecar is away: the next process has the route removed.
	s = l.keptNode(keeping)
	if err := s.end(syscall.SIGQUIT); err != nil {
		l.t.Error(err)
	}
	dns.end(syscall.SIGKILL)
	if l.hop() != l.family.node {
		l.t.Error("the route is gone with the process")
	}
	s = l.keptSidecar(keeping)
	l.there("")
	dns = l.nsd()
	l.there(l.family.node)

	// It hangs as a whole: the router does not wait for longer than the hold time.
	s.signal(syscall.SIGSTOP)
	l.there("")
	s.signal(syscall.SIGCONT)
	l.there(l.family.node)
	s.end(syscall.SIGTERM)
	l.there("")

	// It dies, and nobody starts it again: the restart time is the end of it.
	const short = 6 * time.Second
	s = l.keptNode(short)
	began := time.Now()
	s.end(syscall.SIGKILL)
	if kept := l.there("").Sub(began); kept < short-time.Second { // the router's timer may have begun within a second
		l.t.Errorf("kill -9 took the route away after %v, and the router was to keep it for %v", kept, short)
	}
	dns.end(syscall.SIGTERM)

	// Its control loop hangs: the process takes the route along when it ends itself.
	l.conf(keeping)
	l.loopHangs()
}

// keptNode starts a sidecar whose routes routers keep, and waits until they have them and are known to keep them.
func (l *life) keptNode(keep time.Duration) *process {
	l.t.Helper()
	s := l.keptSidecar(keep)
	l.told(keep)
	return s
}

func (l *life) keptSidecar(keep time.Duration) *process {
	return l.node(l.world.node, "", "as: 64500", fmt.Sprintf("graceful_restart: %v", keep))
}

// conf writes the configuration of keptSidecar, and starts nothing that lasts.
func (l *life) conf(keep time.Duration) { l.keptSidecar(keep).end(syscall.SIGKILL) }

// told waits until the router has been told the route by the sidecar that runs now.
func (l *life) told(keep time.Duration) {
	l.t.Helper()
	var now status.Sidecar
	l.until(60*time.Second, "the sidecar has told the router", func() bool {
		now = l.status(l.world.node)
		return now.Announced && len(now.Sessions) == 1 && len(now.Sessions[0].Announced) == 1
	})
	if got := now.Sessions[0].KeptSeconds; got != int(keep.Seconds()) {
		l.t.Errorf("the status says that the route is kept for %d s, want %v", got, keep)
	}
	l.there(l.family.node)
	out, _ := exec.Command(binary, "status", filepath.Join(l.dir, l.world.node+".yaml")).Output()
	if want := fmt.Sprintf("kept for %d s through a restart", int(keep.Seconds())); !strings.Contains(strings.Join(strings.Fields(string(out)), " "), want) {
		l.t.Errorf("no %q in the status:\n%s", want, out)
	}
}

// again ends a sidecar and starts the next one. The route is there all the while.
func (l *life) again(s *process, how syscall.Signal) *process {
	l.t.Helper()
	if err := s.end(how); err != nil && how != syscall.SIGKILL {
		l.t.Error(err)
	}
	if l.hop() != l.family.node {
		l.t.Errorf("%v has taken the route away", how)
	}
	return l.keptNode(keeping)
}

// asked puts a question to the shared address every ten milliseconds, from the router.
func (l *life) asked() *lab.Load {
	l.t.Helper()
	conn, err := l.places[l.world.router].Dial(l.t.Context(), "udp", "["+l.family.shared+"]:53")
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { conn.Close() })
	load := &lab.Load{Conn: conn, Send: func(query []byte) { conn.Write(query) }, Every: 10 * time.Millisecond, Patience: 5 * time.Second,
		Question: func(int) *dns.Msg { return new(dns.Msg).SetQuestion("example.org.", dns.TypeSOA) },
		Read:     func(r *dns.Msg) lab.Reply { return lab.Reply{Answer: len(r.Answer) == 1, Rcode: r.Rcode} }}
	return load.Start()
}
