package home_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/home"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/hometest"
	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
)

// TestWhatAKilledWriterLeftKeepsNoLeaseOut: a command that was killed has left the disk full, just after the home was looked through for such. A lease
// finds no room, and the next try has it. It runs again in a mount namespace of its own, on a small tmpfs.
func TestWhatAKilledWriterLeftKeepsNoLeaseOut(t *testing.T) {
	full := testenv.FullDisk(t, "2m")
	if full == "" {
		return
	}
	dir := filepath.Join(full, "mesh")
	w, err := hometest.Init(dir, hometest.At(hometest.Start))
	hometest.Check(t, err)
	hometest.Check(t, w.Close())
	h := home.At(dir, hometest.At(hometest.Start.Add(time.Minute)))
	renew := func() error {
		return h.WriteLease(t.Context(), func(w *home.Writer) error { _, err := w.Renew(t.Context(), 0); return err })
	}
	hometest.Check(t, renew())
	if err := os.WriteFile(filepath.Join(dir, home.RepoDir, ".tmp-0123456789abcdef"), bytes.Repeat([]byte{1}, 4<<20), 0o600); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("the disk is not full: %v", err)
	}
	if err := renew(); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("error %v, want one of a full disk", err)
	}
	hometest.Check(t, renew())
	left, err := filepath.Glob(filepath.Join(dir, "*", ".tmp-*"))
	if hometest.Check(t, err); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
}
