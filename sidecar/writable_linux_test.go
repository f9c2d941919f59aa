package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/coredns-anycast/coredns-anycast/internal/status"
	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
)

// TestAStateDirectoryThatCannotBeWrittenIsAWarning, read-only or full, before a drain finds it out: in the status with what to do, in the
// confirmation, and in the log once.
func TestAStateDirectoryThatCannotBeWrittenIsAWarning(t *testing.T) {
	testenv.Root(t)
	n := newNode(t, "withdraw")
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"); err != nil {
		testenv.Missing(t, "cannot mount a tmpfs: %v", err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	conf := *n.s.cfg()
	conf.State = dir
	n.s.conf.Store(&conf)
	says := func(words string) {
		t.Helper()
		if ok := n.s.tryState(); ok != (words == "") {
			t.Errorf("it can be written: %v, want words %q", ok, words)
		}
		var out strings.Builder
		sayStatus(&out, n.s.status(), time.Now())
		var c status.Confirmation
		n.s.confirms(&c)
		if got := strings.Join(reasons(c.Warnings), "\n"); strings.Contains(got, status.StateUnwritable) != (words != "") || !strings.Contains(got, words) {
			t.Errorf("the confirmation warns of %q, want %q", got, words)
		}
		if strings.Contains(out.String(), "warning   "+status.StateUnwritable) != (words != "") || words != "" && !strings.Contains(out.String(), status.StateUnwritable+": The node answers on") {
			t.Errorf("want a warning of %q:\n%s", words, out.String())
		}
	}
	remount := func(flags uintptr) {
		t.Helper()
		if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_REMOUNT|flags, ""); err != nil {
			t.Fatal(err)
		}
	}
	says("")
	remount(unix.MS_RDONLY)
	says(dir + ": read-only file system")
	says(dir + ": read-only file system")
	remount(0)
	says("")
	full := filepath.Join(dir, "full")
	if err := os.WriteFile(full, make([]byte, 1<<20), 0o600); err == nil {
		t.Fatal("the disk is not full")
	}
	says("no space left on device")
	if err := os.Remove(full); err != nil {
		t.Fatal(err)
	}
	says("")
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	if got := strings.Count(n.log.String(), "the state directory cannot be written"); got != 2 {
		t.Errorf("%d lines of two faults in\n%s", got, n.log.String())
	}
}
