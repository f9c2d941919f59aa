//go:build linux

package sidecar

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/status"
	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
)

// lone is a sidecar without routers, which anybody can run.
type lone struct {
	t    *testing.T
	dir  string
	conf string
}

func newLone(t *testing.T) *lone {
	l := &lone{t: t, dir: t.TempDir()}
	l.conf = filepath.Join(l.dir, "sidecar.yaml")
	text := fmt.Sprintf("node: tyo1\nshared: [127.0.0.1]\nsocket: unix://%[1]s/s.sock\ncontrol: unix://%[1]s/c.sock\nstate: %[1]s/state\n"+
		"clock: {source: assumed, bound: 1ms}\nprobe: {interval: 100ms, port: 9, zones: [.]}\n", l.dir)
	if err := os.WriteFile(l.conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return l
}

// run starts the process and waits until it takes orders.
func (l *lone) run() *exec.Cmd {
	l.t.Helper()
	cmd := exec.Command(binary, "run", l.conf)
	if err := cmd.Start(); err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		conn, err := net.Dial("unix", filepath.Join(l.dir, "c.sock"))
		if err == nil {
			conn.Close()
			return cmd
		}
		if time.Now().After(end) {
			l.t.Fatal(err)
		}
	}
}

func (l *lone) order(what string) error {
	out, err := exec.Command(binary, what, l.conf).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", what, err, out)
	}
	return nil
}

// drained is what the process that runs now says.
func (l *lone) drained() bool {
	l.t.Helper()
	var s status.Sidecar
	out, err := exec.Command(binary, "status", "--json", l.conf).Output()
	if err := errors.Join(err, json.Unmarshal(out, &s)); err != nil {
		l.t.Fatal(err)
	}
	if s.Drain != nil && strings.Contains(s.Drain.Who, "unreadable") {
		l.t.Fatalf("a kill has damaged the file: %v", s.Drain)
	}
	return s.Drain != nil
}

// TestDrainSurvivesKilling kills the process at any moment of drains and undrains. What a command has reported is so in the
// next process, and nothing that a kill leaves is damaged.
func TestDrainSurvivesKilling(t *testing.T) {
	l := newLone(t)
	lives, reported, cut := 40, 0, 0
	if full {
		lives = 500
	}
	is := false // as reported; after a command that was cut short, as the next process says
	cmd := l.run()
	for range lives {
		what := map[bool]string{false: "drain", true: "undrain"}[is]
		done := make(chan error, 1)
		go func() { done <- l.order(what) }()
		time.Sleep(time.Duration(rand.IntN(20_000)) * time.Microsecond) // commands take some 15 ms
		cmd.Process.Kill()
		cmd.Wait()
		err := <-done
		cmd = l.run()
		now := l.drained()
		switch {
		case err == nil && now == is:
			t.Fatalf("%s was reported, and the next process says drained: %v", what, now)
		case err == nil:
			reported++
		default:
			cut++
		}
		is = now
	}
	if left, _ := filepath.Glob(filepath.Join(l.dir, "state", ".tmp-*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	t.Logf("%d orders reported, %d cut short", reported, cut)
}

// TestSignals: whichever signal ends a daemon ends this one in order.
func TestSignals(t *testing.T) {
	for _, s := range []os.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGQUIT} {
		cmd := newLone(t).run()
		if err := cmd.Process.Signal(s); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("%v: %v", s, err)
		}
	}
}

// besideAnother makes a router, and one of two nodes, to which the route leads as long as the other has not come.
func besideAnother(t *testing.T) *life {
	t.Helper()
	testenv.Root(t)
	l := &life{world: newWorld(t), router: routers[1], family: families[0]}
	l.addOther()
	l.router.run(l.world, l.family, protection{})
	l.nsd()
	l.nsdIn(l.other, l.family.shared)
	l.node(l.other, "med: 100")
	l.there(l.family.other)
	return l
}

// TestStop: SIGTERM is a short drain, in which the route moves to another node and is never gone; a second SIGTERM ends the
// process at once.
func TestStop(t *testing.T) {
	t.Parallel()
	l := besideAnother(t)
	w := l.world
	w.stop = "1m"
	s := l.node(w.node, "")
	l.there(l.family.node)
	s.signal(syscall.SIGTERM)
	l.until(30*time.Second, "the route to the other node", func() bool {
		hop := l.hop()
		if hop == "" {
			t.Error("SIGTERM has left no route for a while")
		}
		return hop == l.family.other
	})
	if now := l.status(w.node); !now.Announced || now.Why[0].Code != "stopping" || len(now.Sessions[0].Announced) != 1 {
		t.Errorf("between SIGTERM and the end the node says announced %v, %v, %v", now.Announced, now.Why, now.Sessions)
	}
	var exit *exec.ExitError
	if err := s.end(syscall.SIGTERM); !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGTERM {
		t.Errorf("a second SIGTERM: %v", err)
	}
}

// TestReload: SIGHUP takes another MED to the router, which moves the traffic to another node. The route is there all the
// while, and the session too. A file that has errors changes nothing.
func TestReload(t *testing.T) {
	t.Parallel()
	l := besideAnother(t)
	w := l.world
	s := l.node(w.node, "med: 10")
	l.there(l.family.node)
	file := filepath.Join(l.dir, w.node+".yaml")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	change := func(from, to string) {
		t.Helper()
		if n := strings.Count(string(text), from); n != 1 {
			t.Fatalf("%q is in the configuration %d times", from, n)
		}
		if err := os.WriteFile(file, []byte(strings.Replace(string(text), from, to, 1)), 0o644); err != nil {
			t.Fatal(err)
		}
		s.signal(syscall.SIGHUP)
	}
	moves := func(to string) {
		t.Helper()
		l.until(30*time.Second, "the route to "+to, func() bool {
			hop := l.hop()
			if hop == "" {
				t.Error("a reload has left no route for a while")
			}
			return hop == to
		})
	}
	change("med: 10", "med: 200")
	moves(l.family.other)
	change("med: 10", "med: many") // is refused
	change("med: 10", "med: 5")
	moves(l.family.node)
	if now := l.status(w.node).Sessions[0]; now.State != "established" || now.NotificationsSent+now.NotificationsReceived > 0 {
		t.Errorf("the session: %+v", now)
	}
}
