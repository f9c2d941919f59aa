package meshsync

import (
	"testing"

	"golang.org/x/sys/unix"

	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
)

// smallDisk mounts one that fills up soon.
func smallDisk(t *testing.T) string {
	t.Helper()
	testenv.Root(t)
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"); err != nil {
		testenv.Missing(t, "cannot mount a tmpfs: %v", err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}

func remount(t *testing.T, dir, how string) {
	t.Helper()
	flags := uintptr(unix.MS_REMOUNT)
	if how == "ro" {
		flags |= unix.MS_RDONLY
	}
	must(t, unix.Mount("tmpfs", dir, "tmpfs", flags, ""))
}

// readOnly makes a directory read-only, though files in it are open for writing, until the function returned is called.
func readOnly(t *testing.T, dir string) (again func()) {
	t.Helper()
	must(t, unix.Mount(dir, dir, "", unix.MS_BIND, ""))
	again = func() { unix.Unmount(dir, unix.MNT_DETACH) }
	t.Cleanup(again)
	must(t, unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""))
	return again
}
