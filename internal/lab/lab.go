// Package lab has what tests and the demo run real programs with: network namespaces and the links between them (Place),
// processes that end with whoever started them (Process), a steady load of queries of which each is accounted for (Load),
// the configurations of other people's daemons (NameServer, Chronyd, FRR), and waiting for a state (Until, Eventually).
//
// Only tests and cmd/demo import it. It does not import testing, so that the demo has none of that: what wants a test
// takes a T, which *testing.T and *testing.B are.
package lab

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// T is what is needed of a test.
type T interface {
	Helper()
	Logf(format string, args ...any)
	Errorf(format string, args ...any)
	Fatal(args ...any)
	Fatalf(format string, args ...any)
	Failed() bool
	Cleanup(func())
}

// Must ends the test if there is an error.
func Must(t T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Write writes a file, with the directories above it, and returns its path.
func Write(t T, path, text string) string {
	t.Helper()
	Must(t, os.MkdirAll(filepath.Dir(path), 0o755))
	Must(t, os.WriteFile(path, []byte(text), 0o644))
	return path
}

// Read reads a file that must be there.
func Read(t T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	Must(t, err)
	return string(data)
}

// Run runs a command in a directory ("" is this one) to its end, which must be a good one, and returns what it said.
func Run(t T, dir string, argv ...string) string {
	t.Helper()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(argv, " "), err, out)
	}
	return string(out)
}

// Tail is the last lines of a file, or why it cannot be read.
func Tail(path string, lines int) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimRight(string(data), "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
