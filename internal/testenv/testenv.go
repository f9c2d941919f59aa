// Package testenv says what a test needs of the machine. A test that lacks it is skipped with the reason; where the
// environment has CI=true a lacking daemon or privilege is a failure, so that nothing is left out silently.
// Only tests import it.
package testenv

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// CI reports whether the run is one in which nothing may be skipped.
func CI() bool { return os.Getenv("CI") == "true" }

// Missing skips t, or fails it under CI, for the reason given.
func Missing(t testing.TB, format string, args ...any) {
	t.Helper()
	if CI() {
		t.Fatalf("needed under CI: "+format, args...)
	}
	t.Skipf(format, args...)
}

// Need demands that every command be installed. Daemons live in sbin, which an ordinary user's PATH may lack; look
// there too and return the paths in the order asked for.
func Need(t testing.TB, commands ...string) []string {
	t.Helper()
	var paths, missing []string
	for _, c := range commands {
		p, err := Look(c)
		if err != nil {
			missing = append(missing, c)
		}
		paths = append(paths, p)
	}
	if len(missing) > 0 {
		Missing(t, "commands not installed: %s (./build.sh test installs them as root on Debian)", strings.Join(missing, ", "))
	}
	return paths
}

// Look finds a command in PATH or in the places where Debian keeps daemons.
func Look(command string) (string, error) {
	if p, err := exec.LookPath(command); err == nil {
		return p, nil
	}
	for _, dir := range []string{"/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/lib/frr"} {
		if p, err := exec.LookPath(filepath.Join(dir, command)); err == nil {
			return p, nil
		}
	}
	return "", exec.ErrNotFound
}

// Root demands root, which network namespaces take.
func Root(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		Missing(t, "needs root (network namespaces)")
	}
}

// Top is the directory of go.mod, the top of the project.
func Top(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			t.Fatal("no go.mod above the working directory")
		}
		dir = parent
	}
}

// Build builds commands of this project, by their directories, and returns the directory they are in while the test lasts.
func Build(t testing.TB, commands ...string) string {
	t.Helper()
	dir := t.TempDir()
	args := []string{"build", "-o", dir + string(filepath.Separator)}
	for _, c := range commands {
		args = append(args, "./"+c)
	}
	cmd := exec.Command("go", args...)
	cmd.Dir = Top(t)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building %s: %v\n%s", strings.Join(commands, ", "), err, out)
	}
	return dir
}
