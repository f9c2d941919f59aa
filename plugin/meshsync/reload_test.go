package meshsync

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coredns/caddy"
	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/lab"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
)

// start starts a Corefile as CoreDNS does, and stops it when t ends.
func startCorefile(t *testing.T, corefile string) *caddy.Instance {
	t.Helper()
	caddy.Quiet = true
	instance, err := caddy.Start(input(corefile))
	must(t, err)
	return instance
}

func input(corefile string) caddy.Input {
	return caddy.CaddyfileInput{Contents: []byte(corefile), Filepath: "Corefile", ServerTypeName: "dns"}
}

func stopInstance(t *testing.T, i *caddy.Instance) {
	t.Helper()
	for _, err := range i.ShutdownCallbacks() {
		t.Error(err)
	}
	i.Stop()
}

// serve runs f with the address of a server of the Corefile's only block, whose port is 0.
func serve(t *testing.T, corefile string, f func(addr string)) {
	t.Helper()
	port := testenv.Port(t)
	instance := startCorefile(t, strings.Replace(corefile, ":0 ", fmt.Sprintf(":%d ", port), 1))
	defer stopInstance(t, instance)
	f(fmt.Sprintf("127.0.0.1:%d", port))
}

// expect asks which release example.org. is answered from.
func expect(addr, release string) error {
	c := dns.Client{Timeout: time.Second}
	m, _, err := c.Exchange(new(dns.Msg).SetQuestion("which.example.org.", dns.TypeTXT), addr)
	if err != nil {
		return err
	}
	if len(m.Answer) != 1 || m.Answer[0].(*dns.TXT).Txt[0] != release {
		return fmt.Errorf("want release %s: %v", release, m)
	}
	return nil
}

// TestReload reloads a Corefile many times under load. No query is lost; instances share one follower; reloads that fail
// change nothing and leave nothing behind.
func TestReload(t *testing.T) {
	dir, h := nodeDir(t)
	h.current(1, h.zones(1))
	port := testenv.Port(t)
	corefile := func(clock, status, rest string) string {
		return fmt.Sprintf("example.org:%d {\n bind 127.0.0.1\n meshsync %s {\n repository %s\n root %s\n clock assume %s\n status unix://%s\n}\n}\n%s",
			port, dir, h.repo.Path(), h.root, clock, filepath.Join(dir, status), rest)
	}
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer taken.Close()
	fails := []string{
		corefile("1ms", "m.sock", "x {\n nonsense\n}\n"),
		corefile("9ms", "other.sock", fmt.Sprintf("x:%d {\n bind 127.0.0.1\n whoami\n}\n", taken.Addr().(*net.TCPAddr).Port)),
		strings.Replace(corefile("1ms", "m.sock", ""), dir, t.TempDir(), 1),
		strings.Replace(corefile("1ms", "m.sock", ""), "clock", "node other\n clock", 1),
		strings.Replace(corefile("1ms", "m.sock", ""), "clock assume 1ms", "isolated silent 1m\n clock sidecar unix:///run/none.sock", 1),
		corefile("9ms", "not/there/m.sock", ""),
	}
	instance := startCorefile(t, corefile("1ms", "m.sock", ""))
	defer func() { stopInstance(t, instance) }()
	addr := fmt.Sprintf("127.0.0.1:%d", port)
	lab.Eventually(t, func() error { return expect(addr, "1") })
	held := only(t, dir)
	follower := held.follower

	lost, asked, stop := load(addr, "1")
	reloads := 50
	if testing.Short() {
		reloads = 10
	}
	var steady resources
	for i := range reloads {
		if i%2 == 0 {
			next, err := instance.Restart(input(corefile(fmt.Sprintf("%dms", 1+i%3), fmt.Sprintf("m%d.sock", i%3), "")))
			must(t, err)
			instance = next
		} else if next, err := instance.Restart(input(fails[i/2%len(fails)])); err == nil || next != instance {
			t.Fatalf("reload %d should have failed: %v", i, err)
		}
		checkHeld(t, dir, follower, i)
		if i == 9 {
			steady = count()
		}
	}
	close(stop)
	if n := lost.Wait(); n != 0 {
		t.Errorf("%d of %d queries lost", n, asked.Load())
	}
	t.Logf("%d queries over %d reloads", asked.Load(), reloads)
	lab.Eventually(t, func() error {
		if now := count(); now.goroutines > steady.goroutines+5 || now.files > steady.files+2 {
			return fmt.Errorf("had %+v, has %+v", steady, now)
		}
		return nil
	})
}

// only is the one follower there is, held by one.
func only(t *testing.T, dir string) *held {
	t.Helper()
	followers.Lock()
	defer followers.Unlock()
	if len(followers.byDir) != 1 || followers.byDir[dir] == nil {
		t.Fatalf("followers: %v", followers.byDir)
	}
	return followers.byDir[dir]
}

// checkHeld demands, after reload i, one follower, one holder, and the setup of the last reload that succeeded.
func checkHeld(t *testing.T, dir string, f *follower, i int) {
	t.Helper()
	good := i - i%2
	h := only(t, dir)
	followers.Lock()
	defer followers.Unlock()
	want := setup{clock: clockConfig{assume: time.Duration(1+good%3) * time.Millisecond}, status: filepath.Join(dir, fmt.Sprintf("m%d.sock", good%3))}
	if h.follower != f || len(h.holders) != 1 || h.setup.clock != want.clock || h.setup.status != want.status || h.setup.digest == "" {
		t.Fatalf("after reload %d: same follower %v, %d holders, %+v, want %+v", i, h.follower == f, len(h.holders), h.setup, want)
	}
	if _, err := os.Stat(want.status); err != nil {
		t.Fatal(err)
	}
	if d := *f.digest.Load(); d != h.setup.digest {
		t.Fatalf("digest %s, want %s", d, h.setup.digest)
	}
}

// resources is what a leak would take.
type resources struct{ goroutines, files int }

func count() resources {
	entries, _ := os.ReadDir("/proc/self/fd")
	return resources{runtime.NumGoroutine(), len(entries)}
}

// counted is a number that is final once Wait returns.
type counted struct {
	sync.WaitGroup
	n atomic.Int64
}

func (c *counted) Wait() int64 {
	c.WaitGroup.Wait()
	return c.n.Load()
}

// load asks over UDP until stop is closed, and counts what is not answered.
func load(addr, release string) (lost *counted, asked *atomic.Int64, stop chan struct{}) {
	lost, asked, stop = &counted{}, &atomic.Int64{}, make(chan struct{})
	for range 2 {
		lost.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				asked.Add(1)
				if expect(addr, release) != nil {
					lost.n.Add(1)
				}
			}
		})
	}
	return lost, asked, stop
}

// A reload that takes meshsync away ends the follower; one that brings it back starts another.
func TestReloadWithoutMeshsync(t *testing.T) {
	dir, h := nodeDir(t)
	h.current(1, h.zones(1))
	port := testenv.Port(t)
	with := fmt.Sprintf("example.org:%d {\n bind 127.0.0.1\n meshsync %s {\n repository %s\n root %s\n clock assume 1ms\n}\n}", port, dir, h.repo.Path(), h.root)
	without := fmt.Sprintf("example.org:%d {\n bind 127.0.0.1\n whoami\n}", port)
	instance := startCorefile(t, with)
	defer func() { stopInstance(t, instance) }()
	addr := fmt.Sprintf("127.0.0.1:%d", port)
	lab.Eventually(t, func() error { return expect(addr, "1") })
	for _, c := range []struct {
		corefile  string
		followers int
	}{{without, 0}, {with, 1}, {without, 0}} {
		next, err := instance.Restart(input(c.corefile))
		must(t, err)
		instance = next
		followers.Lock()
		n := len(followers.byDir)
		followers.Unlock()
		if n != c.followers {
			t.Errorf("%d followers, want %d", n, c.followers)
		}
	}
}

// The shutdown of another plugin fails after the old instance has let go: the new one, which is running, keeps what it
// holds.
func TestReloadFailureAfterTheOldInstanceHasLetGo(t *testing.T) {
	dir, h := nodeDir(t)
	h.current(1, h.zones(1))
	instance := func() *Meshsync {
		m := &Meshsync{config: newConfig(dir, h)}
		m.config.clock.assume = time.Millisecond
		m.config.status = filepath.Join(filepath.Dir(dir), "m.sock")
		must(t, acquire(m))
		return m
	}
	old := instance()
	must(t, restarting())
	next := instance()
	must(t, letGo(old))
	must(t, restartFailed(old))
	if len(only(t, dir).holders) != 1 {
		t.Error("the new instance lost its hold")
	}
	n := &node{Meshsync: next, t: t, f: next.follower.Load()}
	n.waits("an answer", func(s *status.Node) bool { return n.Ready() })
	must(t, letGo(next))
	must(t, letGo(next))
	must(t, restartFailed(next))
}
