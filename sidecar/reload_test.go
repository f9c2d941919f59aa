package main

import (
	"bytes"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/gate"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
	"github.com/coredns-anycast/coredns-anycast/sidecar/config"
)

// syncedLog is a log that a test reads while it is written.
type syncedLog struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *syncedLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *syncedLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

func (l *syncedLog) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

// What can change while the route stays is taken, all of it or nothing; the route does not go for it.
func TestReload(t *testing.T) {
	n := newNode(t, "stop-dns")
	n.runs()
	n.until("the route", announced)
	since := n.s.status().Since

	next := *n.s.cfg()
	next.Probe.Interval, next.Probe.Fall, next.Failure.Policy, next.Clock.Limit = 50*time.Millisecond, 1, gate.Withdraw, time.Nanosecond
	if err := n.s.reload(&next); err != nil {
		t.Fatal(err)
	}
	n.until("the new limit of the clock", func(d status.Sidecar) bool {
		return len(d.Why) > 1 && d.Why[1].Code == gate.ClockUncertain
	})
	if d := n.s.status(); !d.Announced || !d.Since.Equal(since) {
		t.Errorf("the route has gone for it: %+v", d)
	}
	n.mute.Store(true) // and now the policy is another one
	n.until("the withdrawal", func(d status.Sidecar) bool { return !d.Announced })

	bad := next
	bad.Node, bad.Shared, bad.Probe.Rise = "osa1", nil, 7
	if err := n.s.reload(&bad); err == nil || !strings.Contains(err.Error(), "node, shared") {
		t.Errorf("error %v, want one that names what takes a restart", err)
	}
	if got := n.s.cfg(); got.Node != "tyo1" || got.Probe.Rise == 7 {
		t.Errorf("half of it was taken: %+v", got)
	}
}

// The signal reads the file; one with errors changes nothing, and the log has each.
func TestReloadByASignal(t *testing.T) {
	n := newNode(t, "stop-dns")
	log := new(syncedLog)
	n.s.log = log.logger()
	n.runs()
	n.until("the route", announced)
	file := filepath.Join(t.TempDir(), "sidecar.yaml")
	signals := make(chan os.Signal, 1)
	go n.s.reloadOn(t.Context(), signals, file)
	for text, want := range map[string]string{
		"node: A_\nshared: [x]\n": "sidecar.yaml:1:7: ",
		"node: tyo1\n":            `lacks`,
		"node: tyo1\nshared: [127.0.0.1]\nprobe: {zones: [example.org]}\n": "these take a restart",
	} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		signals <- syscall.SIGHUP
		for end := time.Now().Add(20 * time.Second); !strings.Contains(log.String(), want); time.Sleep(5 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("no %q in\n%s", want, log)
			}
		}
	}
	if !n.s.status().Announced {
		t.Error("the route has gone")
	}
}

// What takes a restart is every key but those that are listed here, so that a new one is thought of.
func TestNeedRestart(t *testing.T) {
	full := func() *config.Config {
		return &config.Config{BGP: &config.BGP{}, Mirror: &config.Mirror{}, Admin: &config.Admin{Listen: netip.MustParseAddrPort("127.0.0.1:1")}, Identity: &config.Identity{}, IGP: &config.IGP{}}
	}
	next := full()
	next.Failure.MinAnnouncing, next.Probe.Rise, next.Drain.Wait, next.Clock.Limit, next.Mirror.Interval = 3, 3, 3, 3, 3
	next.Admin.Access = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
	next.BGP.Prefixes, next.BGP.Neighbors = nil, []config.Neighbor{{AS: 3}}
	if keys := needRestart(full(), next); keys != nil {
		t.Errorf("%q, want none", keys)
	}
	next = full()
	next.Node, next.Admin, next.Identity, next.BGP.AS, next.Mirror.Depot, next.Clock.Source, next.IGP = "x", nil, nil, 1, "/", "ntp", nil
	if got, want := strings.Join(needRestart(full(), next), ", "), "node, identity, admin.listen, clock, but for limit, igp, bgp.as, mirror, but for interval"; got != want {
		t.Errorf("%s\nwant\n%s", got, want)
	}
}

// The command says what is in the way, and ends well only if the configuration was taken.
func TestReloadCommand(t *testing.T) {
	n := newNode(t, "stop-dns")
	n.s.path = filepath.Join(t.TempDir(), "in-force.yaml")
	n.runs()
	n.until("the route", announced)
	file := filepath.Join(t.TempDir(), "sidecar.yaml")
	for path, text := range map[string]string{file: "node: x\nshared: [127.0.0.1]\nprobe: {zones: [.]}\nclock: {source: kernel}\ncontrol: unix://" + n.s.cfg().Control + "\n",
		n.s.path: "node: tyo1\nshared: [127.0.0.1, x]\nprobe: {rise: 0}\n"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	code, _, said := commandLine("reload", file)
	if code != exitRefused || !strings.Contains(said, "in-force.yaml:2:21: ") || !strings.Contains(said, "in-force.yaml:3:15: ") {
		t.Errorf("status %d: %s", code, said)
	}
	if err := os.WriteFile(n.s.path, []byte(n.text), 0o600); err != nil {
		t.Fatal(err)
	}
	var out string
	if code, out, said = commandLine("reload", file); code != exitDone || out != "tyo1: "+file+" taken; in service, announced\n" || said != "" {
		t.Errorf("one that is taken: status %d: %q %q", code, out, said)
	}
}
