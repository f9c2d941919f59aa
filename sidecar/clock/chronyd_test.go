package clock

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
)

// chronyd starts a real one that steers nothing (-x), with its command port on a free port of 127.0.0.1, until t ends.
func chronyd(t *testing.T, config string) netip.AddrPort {
	t.Helper()
	binary := testenv.Need(t, "chronyd")[0]
	dir := t.TempDir()
	command := freePort(t)
	file := filepath.Join(dir, "chrony.conf")
	config += fmt.Sprintf("\ncmdport %d\nbindcmdaddress 127.0.0.1\nbindcmdaddress /\npidfile %s/pid\n", command.Port(), dir)
	if err := os.WriteFile(file, []byte(config), 0o644); err != nil {
		t.Fatal(err)
	}
	args := []string{"-x", "-U", "-d", "-f", file}
	if os.Geteuid() == 0 {
		args = append(args, "-u", "root") // else it would give up root, and with it the test's directory
	}
	cmd := exec.Command(binary, args...)
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if t.Failed() {
			data, _ := os.ReadFile(log.Name())
			t.Logf("chronyd said:\n%s", data)
		}
	})
	return command
}

func freePort(t *testing.T) netip.AddrPort {
	t.Helper()
	conn, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	return conn.LocalAddr().(*net.UDPAddr).AddrPort()
}

// wait polls until the keeper is in state with a reason that holds the words, or fails.
func wait(t *testing.T, k *Keeper, state, words string) {
	t.Helper()
	deadline := time.Now().Add(60 * time.Second)
	for {
		k.poll(t.Context(), time.Second)
		c := k.Status()
		if c.State == state && strings.Contains(c.Reason, words) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("state %q (%s), want %q with %q", c.State, c.Reason, state, words)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// A real chronyd in the three states that look alike to a careless reader, and gone.
func TestRealChronyd(t *testing.T) {
	t.Run("unsynchronised", func(t *testing.T) {
		k := NewKeeper(Chrony{chronyd(t, "port 0\nserver 127.0.0.9 port 9")})
		wait(t, k, Unknown, "chronyd is not synchronised")
	})
	t.Run("local", func(t *testing.T) {
		k := NewKeeper(Chrony{chronyd(t, "port 0\nlocal stratum 3")})
		wait(t, k, Unknown, "follows its own clock")
	})
	t.Run("synchronised, a known error, then gone", func(t *testing.T) {
		// The server says that it is local, its client sees a real server of stratum 1. "offset" makes the client believe
		// that the machine's clock is 20 ms off: with -x it cannot put that right, so it has to say so in its bound.
		server := freePort(t)
		chronyd(t, fmt.Sprintf("port %d\nbindaddress 127.0.0.1\nallow 127.0.0.1\nlocal stratum 1", server.Port()))
		client := fmt.Sprintf("port 0\nserver 127.0.0.1 port %d iburst minpoll 0 maxpoll 0 offset 0.02", server.Port())
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		var k *Keeper
		t.Run("alive", func(t *testing.T) {
			k = NewKeeper(Chrony{chronyd(t, client)})
			wait(t, k, Synchronised, "")
			deadline := time.Now().Add(60 * time.Second)
			for bound := time.Duration(0); bound < 20*time.Millisecond; {
				k.poll(ctx, time.Second)
				var err error
				if bound, err = k.Bound(); err != nil || time.Now().After(deadline) {
					t.Fatalf("bound %v, error %v, with a clock that is 20 ms off", bound, err)
				}
				time.Sleep(50 * time.Millisecond)
			}
			if got := k.Metrics()["chrony_tracking_stratum"]; got != 2 {
				t.Errorf("stratum %v, want 2", got)
			}
		})
		wait(t, k, Holdover, "does not answer")
		if _, err := k.Bound(); err != nil {
			t.Errorf("no bound in holdover: %v", err)
		}
	})
}
