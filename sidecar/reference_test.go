package main

import (
	"testing"

	"github.com/coredns-anycast/coredns-anycast/internal/docs"
	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
)

// TestReference: docs/reference/anycast-sidecar.md has every command, and every flag.
func TestReference(t *testing.T) {
	docs.Page(t, testenv.Top(t), "anycast-sidecar.md", "anycast-sidecar: every command", docs.Commands(command()))
}
