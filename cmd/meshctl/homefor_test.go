package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/hometest"
	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
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

// TestRootIsToldWhoseHomeItWritesIn, by each way of writing, and not where it only looks, nor in a home of its own.
func TestRootIsToldWhoseHomeItWritesIn(t *testing.T) {
	testenv.Root(t)
	dir, zones := hometest.New(t, time.Now), t.TempDir()
	const warning = "belongs to nobody, and files that root makes in it are root's"
	said := func(args ...string) string {
		var out, log bytes.Buffer
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		runUntil(ctx, append(args, "--home", dir), &out, &log)
		return log.String()
	}
	if got := said("lease"); strings.Contains(got, "belongs to") {
		t.Errorf("in a home of its own: %s", got)
	}
	hometest.Check(t, os.Chown(dir, 65534, 65534))
	for _, command := range [][]string{{"lease"}, {"member", "add", "tyo", "--admin", "127.0.0.1:8443"}, {"receive", "--zones", zones}, {"serve", "--listen", "192.0.2.1:1"}} {
		if got := said(command...); strings.Count(got, warning) != 1 || !strings.Contains(got, "runuser -u nobody -- meshctl") {
			t.Errorf("%v: %s", command, got)
		}
	}
	if got := said("history"); strings.Contains(got, "belongs to") {
		t.Errorf("where it only looks: %s", got)
	}
}
