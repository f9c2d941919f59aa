//go:build linux

package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

func TestLeftoversOfADeadStoryAreRemovedAndOthersStay(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	dead := exec.Command("true")
	if err := dead.Run(); err != nil {
		t.Fatal(err)
	}
	other := exec.Command("cat")
	living := exec.Command(os.Args[0], playStory) // waits for its input's end, see TestMain
	for _, c := range []*exec.Cmd{other, living} {
		if _, err := c.StdinPipe(); err != nil {
			t.Fatal(err)
		}
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		defer func() { c.Process.Kill(); c.Wait() }()
	}
	for _, c := range []struct {
		name  string
		stays bool
	}{
		{fmt.Sprintf("%s%d-1", prefix, dead.Process.Pid), false},
		{fmt.Sprintf("%s%d-1", prefix, other.Process.Pid), false},
		{fmt.Sprintf("%s%d-1", prefix, living.Process.Pid), true},
		{prefix + "x-1", true},
		{"other", true},
	} {
		dir := filepath.Join(os.TempDir(), c.name)
		if err := os.MkdirAll(filepath.Join(dir, "below"), 0o700); err != nil {
			t.Fatal(err)
		}
		removeLeftovers()
		if _, err := os.Stat(dir); (err == nil) != c.stays {
			t.Errorf("%s: %v, want it to stay: %v", c.name, err, c.stays)
		}
	}
}
