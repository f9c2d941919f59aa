package depot

import (
	"errors"
	"strings"
	"syscall"
	"testing"

	"github.com/coredns-anycast/coredns-anycast/internal/release"
	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
)

// TestAFullDiskKeepsNoLeaseOut: a zone that finds no room is an error that says so and leaves nothing; the lease goes in all
// the same, and so does a release that fits. It runs again in a mount namespace of its own, on a small tmpfs.
func TestAFullDiskKeepsNoLeaseOut(t *testing.T) {
	full := testenv.FullDisk(t, "400k")
	if full == "" {
		return
	}
	h := newHost(t)
	h.release(1, 1000)
	n := newNode(t, h)
	start := n.mem
	var err error
	n.dir, err = Create(full)
	check(t, err)
	defer n.dir.Close()
	n.mustMirror(true)
	h.release(2, 8<<20)
	said := ""
	for range 3 {
		h.renew()
		_, err := n.mirror()
		if !errors.Is(err, syscall.ENOSPC) || strings.Contains(err.Error(), tempPrefix) || said != "" && err.Error() != said {
			t.Fatalf("error %v, want one of a full disk, which says the same each time and names no temporary file; before %q", err, said)
		}
		said = err.Error()
		view, _, err := release.Verify(n.dir, start)
		check(t, err)
		at, _, err := release.Verify(h.dir, start)
		check(t, err)
		if view.Versions != at.Versions {
			t.Fatalf("the depot is at %+v, the repository at %+v", view.Versions, at.Versions)
		}
	}
	h.release(3, 1000)
	n.mustMirror(true)
	if got := serves(t, n.dir, start); got != 3 {
		t.Fatalf("release %d", got)
	}
}
