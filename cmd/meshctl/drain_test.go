package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/coredns-anycast/coredns-anycast/internal/lab"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
)

// A command that ended well did so, whatever it has left running with its output, as ssh does with ControlPersist; it has no terminal of
// ours, at which it could wait for ever; and Ctrl-C ends it.
func TestCommandOfARoll(t *testing.T) {
	t.Parallel()
	var said bytes.Buffer
	c, m, dir := &cli{log: &said}, release.Member{Name: "tyo", Admin: "https://192.0.2.1:8443"}, t.TempDir()
	err := c.change(t.Context(), "sleep 600 & echo $! $(cut -d' ' -f6 /proc/$$/stat) >"+dir+"/left; echo $MEMBER at $ADMIN", m)
	var left, session int
	fmt.Sscan(lab.Read(t, filepath.Join(dir, "left")), &left, &session)
	t.Cleanup(func() { syscall.Kill(left, syscall.SIGKILL) })
	if err != nil || said.String() != "tyo at 192.0.2.1:8443\n" {
		t.Errorf("%v: %q", err, said.String())
	}
	if own, err := unix.Getsid(0); err != nil || session == own || session == 0 {
		t.Errorf("it runs in session %d, and this process in %d: %v", session, own, err)
	}
	if err := c.change(t.Context(), "exit 3", m); err == nil || err.Error() != "exit status 3" {
		t.Errorf("a command that failed: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- c.change(ctx, "echo $$ >"+dir+"/runs; sleep 600", m) }()
	lab.WaitFor(t, "the command runs", func() bool {
		data, err := os.ReadFile(filepath.Join(dir, "runs"))
		_, bad := strconv.Atoi(strings.TrimSpace(string(data)))
		return err == nil && bad == nil
	})
	cancel()
	if err := <-ended; err == nil {
		t.Error("an interrupted command counts as done")
	}
}

// Two rolls at once could change one member together, so there is one on a host. A drain alone is always possible.
func TestOneRollAtATime(t *testing.T) {
	home := filepath.Join(t.TempDir(), "mesh")
	meshctl := func(args ...string) string {
		var out bytes.Buffer
		run(append([]string{"--home", home}, args...), &out, &out)
		return out.String()
	}
	meshctl("init")
	if said := meshctl("member", "add", "tyo", "--admin", "127.0.0.1:1"); strings.Contains(said, "meshctl:") {
		t.Fatal(said)
	}
	roll := []string{"member", "drain", "tyo", "--for", "restart", "--run", "true"}
	dir, err := os.Open(home)
	lab.Must(t, err)
	lab.Must(t, syscall.Flock(int(dir.Fd()), syscall.LOCK_EX))
	if said := meshctl(roll...); !strings.Contains(said, `another "meshctl member drain --for" runs on this host`) {
		t.Error(said)
	}
	for _, args := range [][]string{roll[:3], roll} {
		if said := meshctl(args...); !strings.Contains(said, "cannot be asked how it is") {
			t.Error(said)
		}
		dir.Close()
	}
}
