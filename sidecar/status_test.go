package main

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/gate"
	"github.com/coredns-anycast/coredns-anycast/internal/identity"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
	"github.com/coredns-anycast/coredns-anycast/internal/terminal"
	"github.com/coredns-anycast/coredns-anycast/internal/testca"
	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
	"github.com/coredns-anycast/coredns-anycast/sidecar/bgp"
	"github.com/coredns-anycast/coredns-anycast/sidecar/clock"
	"github.com/coredns-anycast/coredns-anycast/sidecar/mirror"
)

// commandLine is what a command line says and how it ends.
func commandLine(args ...string) (code int, stdout, stderr string) {
	var out, err bytes.Buffer
	code = execute(args, &out, &err)
	return code, out.String(), err.String()
}

// Scripts tell a command that was refused from one that was not understood.
func TestExitStatus(t *testing.T) {
	bad := filepath.Join(t.TempDir(), "sidecar.yaml")
	if err := os.WriteFile(bad, []byte("node: A_\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args []string
		code int
		says string
	}{
		{nil, exitUsage, "which command?"},
		{[]string{"rn", bad}, exitUsage, "unknown command"},
		{[]string{"statsu"}, exitUsage, `unknown command "statsu" for "anycast-sidecar": is it status?`},
		{[]string{"check"}, exitUsage, "check wants FILE; nothing was given\nhint: anycast-sidecar check --help"},
		{[]string{"check", bad, bad}, exitUsage, "check wants FILE; given were: " + bad + " " + bad},
		{[]string{"status", "--yaml", bad}, exitUsage, "unknown flag"},
		{[]string{"status"}, exitUsage, "which node?"},
		{[]string{"status", bad, "--node", "127.0.0.1:1"}, exitUsage, "which node?"},
		{[]string{"drain", "--node", "tokyo"}, exitUsage, "--node"},
		{[]string{"drain", "--wait", "soon", bad}, exitUsage, "wait"},
		{[]string{"check", bad}, exitRefused, "sidecar.yaml:1:7: "},
		{[]string{"status", bad}, exitRefused, "sidecar.yaml:1:7: "},
		{[]string{"run", filepath.Join(t.TempDir(), "none")}, exitRefused, "no such file"},
		{[]string{"run", t.TempDir()}, exitRefused, "is a directory: give the file in it"},
		{[]string{"--version"}, exitDone, ""},
		{[]string{"--help"}, exitDone, ""},
	} {
		code, out, err := commandLine(c.args...)
		if code != c.code || !strings.Contains(err, c.says) || (err == "") != (code == exitDone) {
			t.Errorf("%q: status %d, want %d; says %q, want %q\n%s", c.args, code, c.code, err, c.says, out)
		}
	}
	for _, shell := range []string{"bash", "zsh", "fish"} {
		if code, out, _ := commandLine("completion", shell); code != exitDone || !strings.Contains(out, "anycast-sidecar") {
			t.Errorf("completion %s: status %d", shell, code)
		}
	}
}

// The status is read by people at a terminal of 80 columns, and by programs.
func TestStatusOfTheNodeHere(t *testing.T) {
	n := newNode(t, "stop-dns")
	n.runs()
	n.until("the route", announced)
	file := filepath.Join(t.TempDir(), "sidecar.yaml")
	if err := os.WriteFile(file, []byte("node: x\nshared: [127.0.0.1]\nclock: {source: kernel}\nsocket: unix://"+n.s.cfg().Socket+
		"\nmeshsync: unix://"+n.s.cfg().Meshsync+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	code, out, err := commandLine("status", file)
	if code != exitDone || err != "" {
		t.Fatalf("status %d: %s", code, err)
	}
	for _, want := range []string{"tyo1: announced for ", "why       ready: the service is good\n", "probe     127.0.0.1 over udp: 1 good answers, ",
		"meshsync  answers from release 7, has 8 ready\n"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	code, out, _ = commandLine("status", "--json", file)
	var doc status.Sidecar
	if err := status.Decode([]byte(out), &doc); code != exitDone || err != nil || doc.Node != "tyo1" || !doc.Announced || doc.Meshsync == nil {
		t.Errorf("status %d, %v:\n%s", code, err, out)
	}
	if code, out, err := commandLine("status", "--ready", file); code != exitDone || err != "" || !strings.Contains(out, "announced") {
		t.Errorf("a node in service: status %d: %s", code, err)
	}
	if _, err := n.plane().say(t.Context(), http.MethodPut, status.DrainOrder{Wait: "1h"}, nil); err != nil {
		t.Fatal(err)
	}
	n.until("the drain", func(d status.Sidecar) bool { return d.Drain != nil && !has(d.Why, gate.Ready) })
	if code, out, err := commandLine("status", "--ready", file); code != exitRefused || !strings.Contains(err, "not in service") || !strings.Contains(out, "tyo1: announced") {
		t.Errorf("a node that is about to go, though its route is still there: status %d: %s\n%s", code, err, out)
	}
}

// Everything that can be wrong has a line, none wider than a terminal.
func TestStatusInWords(t *testing.T) {
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	long := strings.Repeat("word ", 40)
	doc := status.Sidecar{Version: status.Version, Node: "tyo1", Since: now.Add(-25*time.Hour - 3*time.Minute), Fault: long,
		Why:   []status.Reason{{Code: gate.ProbeDown, Detail: long}, {Code: gate.ClockUncertain, Detail: "stepped"}},
		Drain: &status.Drain{Who: "jane", Why: "new fans", Since: now},
		Clock: status.Clock{State: "unknown", Reason: "chronyd is not synchronised"},
		Probes: []status.Probe{{Address: "192.0.2.53", Network: "udp", Zone: "example.org.", Up: true, Latency: 412 * time.Microsecond},
			{Address: "192.0.2.53", Network: "tcp", Zone: "example.org.", Reason: gate.ProbeDead}},
		Sessions: []status.Session{{Neighbor: "198.51.100.1", State: bgp.Established, BFD: "up", Announced: []string{"192.0.2.0/24"}},
			{Neighbor: "198.51.100.2", State: "active", Down: status.Reason{Code: bgp.WrongAS, Detail: "the router is of AS 64999"}}},
		IGP:      &status.IGP{Interface: "anycast0"},
		Meshsync: &status.Node{Silent: []status.Reason{{Code: "lease-ended", Detail: "at noon"}}},
		Mirror: &status.Mirroring{URL: "https://a/", LastGood: now.Add(-2 * time.Second), Repositories: []status.Repository{
			{URL: "https://a/", State: mirror.Good, Held: true}, {URL: "https://b/", State: mirror.Behind, Detail: "it stands still"}}},
	}
	var out bytes.Buffer
	sayStatus(&out, doc, now)
	for line := range strings.Lines(out.String()) {
		if len(line) > terminal.Width+1 || strings.HasSuffix(line, " \n") {
			t.Errorf("%d columns: %q", len(line)-1, line)
		}
	}
	for _, want := range []string{"tyo1: not announced for 25h3m\n", "why       probe-down: word word", "\n          clock-uncertain: stepped\n", "fault     ", "drain     by jane",
		"192.0.2.53 over tcp, example.org.: probe-dead\n", "192.0.2.53 over udp: 1 good answers, the slowest after 410µs\n",
		"bgp       198.51.100.1: established, BFD up, told 192.0.2.0/24\n", "bgp       198.51.100.2: active: wrong-as: the router is of AS 64999\n",
		"igp       anycast0: nothing\n", "clock     unknown: chronyd is not synchronised\n", "meshsync  silent\n          lease-ended: at noon\n",
		"mirror    good 2s ago, https://a/\n          hears at once what is new\n          https://b/ is behind: it stands still\n"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, &out)
		}
	}
}

// TestARemovedNodeSaysWhatToDo: the cause comes first, once, and that its route stays is something to see to.
func TestARemovedNodeSaysWhatToDo(t *testing.T) {
	removed := status.Reason{Code: "not-a-member", Detail: "the mesh has no such member"}
	var out bytes.Buffer
	sayStatus(&out, status.Sidecar{Node: "tyo1", Announced: true, Wanted: true, Meshsync: &status.Node{Silent: []status.Reason{removed}},
		Why: []status.Reason{{Code: gate.RouteStays, Detail: "policy stop-dns"}, removed}}, time.Now())
	text := strings.Join(strings.Fields(out.String()), " ")
	first := strings.Index(text, "to do not-a-member: It was removed")
	if first < 0 || strings.Count(text, "not-a-member: It was removed") != 1 || !strings.Contains(text, "stop its sidecar, which takes the route away") ||
		!strings.Contains(text, "route-stays: Policy stop-dns keeps the route") || strings.Contains(text, "Nothing") {
		t.Errorf("%s", &out)
	}
}

// TestHoldoverSaysWhatToDo, beside the clock.
func TestHoldoverSaysWhatToDo(t *testing.T) {
	var out bytes.Buffer
	sayStatus(&out, status.Sidecar{Node: "tyo1", Clock: status.Clock{State: clock.Holdover, Reason: "chronyd does not answer"}}, time.Now())
	if !strings.Contains(out.String(), "holdover, wrong by 0s at most: chronyd does not answer\n          to do: ") || !strings.Contains(out.String(), "chronyc tracking") {
		t.Errorf("%s", &out)
	}
}

// A node that was taken over steers no terminal, neither by its status nor by what it says to an order.
func TestWordsOfAnotherNodeSteerNoTerminal(t *testing.T) {
	ca := testca.New(t)
	const evil = "ends\x1b[2J\x1b]0;owned\x07\u009b31m"
	said, _ := json.Marshal(evil)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, _ *http.Request) {
		w.Write([]byte(`{"version":1,"node":` + string(said) + `,"why":[{"code":"ready","detail":` + string(said) + `}]}`))
	})
	mux.HandleFunc("PUT /v1/drain", func(w http.ResponseWriter, _ *http.Request) { http.Error(w, evil, http.StatusServiceUnavailable) })
	mux.HandleFunc("DELETE /v1/drain", func(w http.ResponseWriter, _ *http.Request) {
		w.Write([]byte(`{"version":1,"node":` + string(said) + `,"announced":true}`))
	})
	at := testenv.Local(t)
	own := ca.WithRole("tyo1", identity.Node, time.Hour).Load(t)
	l, err := net.Listen("tcp", at.String())
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: mux}
	go server.Serve(identity.Places{Strangers: 8, Known: 8, OfOne: 8, Handshake: 10 * time.Second}.TLS(l, own, slog.New(slog.DiscardHandler)))
	defer server.Close()

	bundle, dir := ca.WithRole("jane", identity.Operator, time.Hour), t.TempDir()
	for from, to := range map[string]string{bundle.Certificate: "operator.crt", bundle.Key: "operator.key", bundle.CA: "ca.crt"} {
		data, err := os.ReadFile(from)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, to), data, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, command := range [][]string{{"status"}, {"status", "--json"}, {"drain"}, {"undrain"}} {
		_, out, err := commandLine(append(command, "--node", at.String(), "--identity", dir)...)
		if all := out + err; !strings.Contains(all, "ends") || strings.ContainsAny(all, "\x1b\x07\u009b") {
			t.Errorf("%v: %q", command, all)
		}
	}
}
