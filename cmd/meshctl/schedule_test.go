package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/hint"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/hometest"
)

// TestASignalAfterTheCommitSaysThatItIsMade: who ends the command that sees a switchover through is told that this takes nothing back.
func TestASignalAfterTheCommitSaysThatItIsMade(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "mesh")
	zone := filepath.Join(t.TempDir(), "a.zone")
	hometest.Check(t, os.WriteFile(zone, []byte("$ORIGIN a.\n$TTL 300\n@ SOA ns1 host 1 7200 3600 1209600 300\n@ NS ns.example.net.\n@ NS ns2.example.net.\n"), 0o600))
	mustRun(t, "--home", dir, "init")
	mustRun(t, "--home", dir, "member", "add", "tyo", "--admin", "127.0.0.1:1")
	mustRun(t, "--home", dir, "release", zone)
	ended, end := context.WithCancel(t.Context())
	end()
	c := &cli{dir: dir, clock: time.Now}
	if err := c.interrupted(ended, context.Canceled); err != context.Canceled {
		t.Errorf("of a release that is staged only it says %v", err)
	}
	mustRun(t, "--home", dir, "schedule", "--wait", "0s", "--force", "--no-wait")
	said := new(hint.Error)
	if err := c.interrupted(ended, context.Canceled); !errors.As(err, &said) || !errors.Is(err, context.Canceled) || !strings.HasPrefix(said.Hint, "release 1 is committed, and is switched to at 20") {
		t.Errorf("of one that is committed it says %v, hint %+v", err, said)
	}
}
