package testenv

import (
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

// FullDisk runs the test t again, in a process with mounts of its own, and gives it there the directory of a tmpfs of a size, as mount(8) has it.
// Where it returns "" that was done, and t is to return.
func FullDisk(t *testing.T, size string) string {
	t.Helper()
	const inside = "TESTENV_FULL_DISK"
	if os.Getenv(inside) == "" {
		Root(t)
		cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
		cmd.Env = append(os.Environ(), inside+"=1")
		cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
		if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
			t.Fatalf("%v\n%s", err, out)
		}
		return ""
	}
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Unmount(dir, syscall.MNT_DETACH) })
	return dir
}
