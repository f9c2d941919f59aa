package main

import (
	"os"
	"path/filepath"
	"testing"
)

// TestTheHomeOfACommandThatNamesNone: what the environment says, then the mesh in this directory, then that of the machine; where
// there is none at all, one is made here.
func TestTheHomeOfACommandThatNamesNone(t *testing.T) {
	none, here, served := filepath.Join(t.TempDir(), "none"), t.TempDir(), t.TempDir()
	for _, dir := range []string{here, served} {
		if err := os.Mkdir(filepath.Join(dir, "repository"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range [][4]string{
		{"said", here, served, "said"},
		{"", here, served, here},
		{"", none, served, served},
		{"", none, none + "2", none},
		{"", here, none, here},
	} {
		if got := homeFor(c[0], c[1], c[2]); got != c[3] {
			t.Errorf("%q, here %s, served %s: %s, want %s", c[0], c[1], c[2], got, c[3])
		}
	}
}
