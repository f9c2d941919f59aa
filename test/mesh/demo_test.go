package mesh_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
)

// TestDemo tells the whole story three times: as root, at once again, and as an ordinary user. Each time it must end
// well and leave nothing behind (JP-1, and most of the others in passing).
func TestDemo(t *testing.T) {
	testenv.Root(t)
	bin := binaries.Dir(t)
	nobody := &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	for _, who := range []struct {
		name string
		attr *syscall.SysProcAttr
	}{{"root", &syscall.SysProcAttr{}}, {"root again", &syscall.SysProcAttr{}}, {"ordinary user", nobody}} {
		t.Run(who.name, func(t *testing.T) { tell(t, bin, who.attr) })
	}
}

func tell(t *testing.T, bin string, attr *syscall.SysProcAttr) {
	tmp, err := os.MkdirTemp("", "mesh-demo-test-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(tmp)
	if err := os.Chmod(tmp, 0o777); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(bin, "anycast-demo"), "--bin", bin, "--once")
	cmd.SysProcAttr = attr
	cmd.Dir = tmp
	cmd.Env = append(os.Environ(), "TMPDIR="+tmp, "HOME="+tmp)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		t.Fatalf("the demo: %v\n%s", err, out.String())
	}
	for _, id := range []string{"SYNC-E", "SYNC-F", "SYNC-H", "DELIV-3"} {
		if !strings.Contains(out.String(), id) {
			t.Errorf("the story does not show %s:\n%s", id, out.String())
		}
	}
	if left, _ := filepath.Glob(filepath.Join(tmp, "*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	if left, _ := filepath.Glob(fmt.Sprintf("/run/netns/*-%d-*", cmd.Process.Pid)); len(left) > 0 {
		t.Errorf("namespaces left behind: %v", left)
	}
}
