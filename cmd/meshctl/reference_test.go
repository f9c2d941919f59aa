package main

import (
	"io"
	"testing"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/docs"
	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
)

// TestReference: docs/reference/meshctl.md has every command, and every flag.
func TestReference(t *testing.T) {
	t.Setenv("MESHCTL_HOME", "")
	root := (&cli{out: io.Discard, log: io.Discard, clock: time.Now}).command()
	docs.Page(t, testenv.Top(t), "meshctl.md", "meshctl: every command", docs.Commands(root))
}
