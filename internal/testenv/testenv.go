// Package testenv says what a test needs of the machine. A test that lacks it is skipped with the reason; where the
// environment has CI=true a lacking daemon or privilege is a failure, so that nothing is left out silently.
// Only tests import it.
package testenv

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
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
	for _, c := range commands {
		if err := build(Top(t), filepath.Join(dir, filepath.Base(c)), c); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// Binaries are commands of this project, by name, that the tests of a package share. They are built when the first one asks.
type Binaries struct {
	Commands map[string]string // name to directory

	once sync.Once
	dir  string
	err  error
}

// Dir is the directory they are in, which everybody may read.
func (b *Binaries) Dir(t testing.TB) string {
	t.Helper()
	b.once.Do(func() {
		if b.dir, b.err = os.MkdirTemp("", "binaries-"); b.err != nil {
			return
		}
		b.err = os.Chmod(b.dir, 0o755)
		for name, directory := range b.Commands {
			b.err = errors.Join(b.err, build(Top(t), filepath.Join(b.dir, name), directory))
		}
	})
	if b.err != nil {
		t.Fatal(b.err)
	}
	return b.dir
}

// Main runs the tests of a package, removes what they have built, and exits: it is all of a TestMain.
func (b *Binaries) Main(m *testing.M) {
	code := m.Run()
	if b.dir != "" {
		os.RemoveAll(b.dir)
	}
	os.Exit(code)
}

func build(top, to, directory string) error {
	cmd := exec.Command("go", "build", "-o", to, "./"+directory)
	cmd.Dir = top
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("building %s: %w\n%s", directory, err, out)
	}
	return nil
}
