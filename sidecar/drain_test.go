package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/gate"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
)

// runs starts the control loop and the sockets, as run does, until the test ends or the function returned is called.
func (n *node) runs() (end func()) {
	n.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var started closers
	if err := n.s.serve(&started); err != nil {
		n.t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { n.s.control(ctx); close(done) }()
	end = sync.OnceFunc(func() { cancel(); <-done; started.close() })
	n.t.Cleanup(end)
	return end
}

// restart is the next process with the same configuration.
func (n *node) restart(end func()) (next func()) {
	n.t.Helper()
	end()
	var err error
	if n.s, err = newSidecar(n.s.cfg(), slog.New(slog.NewTextHandler(&n.log, nil))); err != nil {
		n.t.Fatal(err)
	}
	return n.runs()
}

func (n *node) until(what string, so func(status.Sidecar) bool) {
	n.t.Helper()
	for end := time.Now().Add(20 * time.Second); !so(n.s.status()); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			n.t.Fatalf("still waiting for: %s; status %+v", what, n.s.status())
		}
	}
}

func announced(d status.Sidecar) bool { return d.Announced }

// plane is the sidecar as the commands reach it.
func (n *node) plane() *plane {
	n.t.Helper()
	file := filepath.Join(n.t.TempDir(), "sidecar.yaml")
	if err := os.WriteFile(file, []byte("node: x\nshared: [127.0.0.1]\nprobe: {zones: [.]}\nclock: {source: kernel}\ncontrol: unix://"+n.s.cfg().Control+"\n"), 0o600); err != nil {
		n.t.Fatal(err)
	}
	p, err := new(orders).plane([]string{file})
	if err != nil {
		n.t.Fatal(err)
	}
	return p
}

// The life of a drain: the command returns when the route is withdrawn, a restart changes nothing, and undrain ends it.
func TestDrainSurvivesARestart(t *testing.T) {
	n := newNode(t, "stop-dns")
	end := n.runs()
	n.until("the route", announced)
	p := n.plane()
	var out bytes.Buffer
	if err := p.drain(t.Context(), &out, status.DrainOrder{Wait: "2s", Who: "jane", Why: "new fans"}); err != nil {
		t.Fatal(err)
	}
	if said := out.String(); !strings.Contains(said, "draining, by jane since") || !strings.HasSuffix(said, "tyo1: route withdrawn\n") {
		t.Errorf("the command said %q", said)
	}
	if d := n.s.status(); d.Announced || d.Why[0].Code != gate.Drained || !strings.Contains(d.Why[0].Detail, "jane") || d.Drain == nil {
		t.Errorf("when the command returns: %+v", d)
	}
	since := n.s.status().Drain.Since
	if err := p.drain(t.Context(), &out, status.DrainOrder{Who: "anna"}); err != nil { // said again
		t.Fatal(err)
	}

	end = n.restart(end)
	n.until("a round", func(d status.Sidecar) bool { return len(d.Probes) > 0 && d.Probes[0].Up })
	d := n.s.status()
	if d.Announced || d.Drain == nil || d.Drain.Who != "anna" || !d.Drain.Since.Equal(since) {
		t.Errorf("after a restart: %+v", d)
	}
	out.Reset()
	if err := p.undrain(t.Context(), &out); err != nil {
		t.Fatal(err)
	}
	n.until("the route", announced)
	if _, err := os.Stat(filepath.Join(n.s.cfg().State, drainFile)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the file: %v", err)
	}
	n.restart(end)
	n.until("the route", announced)
}

// TestADrainSaysWhetherOthersAreInService, as far as the node can know: of no other, and of who is not to be asked, there is a warning.
func TestADrainSaysWhetherOthersAreInService(t *testing.T) {
	for _, c := range []struct {
		members []string
		err     error
		want    string
	}{
		{[]string{"fra1", "tyo1"}, nil, ""},
		{[]string{"fra1"}, nil, ""},
		{[]string{"tyo1"}, nil, "no other member is in service: nobody answers on the shared address"},
		{nil, nil, "no other member is in service"},
		{nil, errors.New("no distribution host answers"), `is not known here (no distribution host answers): see "meshctl status"`},
	} {
		if said := aloneWords("tyo1", c.members, c.err); !strings.Contains(said, c.want) || (said == "") != (c.want == "") {
			t.Errorf("%q, %v: %q", c.members, c.err, said)
		}
	}
	n := newNode(t, "stop-dns")
	n.runs()
	n.until("the route", announced)
	var out bytes.Buffer
	if err := n.plane().drain(t.Context(), &out, status.DrainOrder{Wait: "0s"}); err != nil || !strings.Contains(out.String(), "tyo1: warning: whether another node is in service is not known here (the configuration has no mirror)") {
		t.Errorf("%v, said %q", err, &out)
	}
	if !strings.Contains(n.log.String(), "perhaps the last one") {
		t.Error("the log does not say so")
	}
}

// A file that says nothing sure leaves the node out of service, says so, and is got rid of by undrain.
func TestDamagedDrainFile(t *testing.T) {
	good, _ := encodeDrain(status.Drain{Who: "jane", Since: time.Unix(1e9, 0).UTC(), Silence: true})
	for name, damage := range map[string]func(path string) error{
		"empty":   func(p string) error { return os.WriteFile(p, nil, 0o640) },
		"torn":    func(p string) error { return os.WriteFile(p, good[:len(good)/2], 0o640) },
		"zeros":   func(p string) error { return os.WriteFile(p, make([]byte, 100), 0o640) },
		"null":    func(p string) error { return os.WriteFile(p, []byte("null\n"), 0o640) },
		"another": func(p string) error { return os.WriteFile(p, []byte(`{"who":"jane","silense":true}`+"\n"), 0o640) },
		"no time": func(p string) error {
			return os.WriteFile(p, []byte(`{"who":"jane","since":"0001-01-01T00:00:00Z"}`+"\n"), 0o640)
		},
		"twice":     func(p string) error { return os.WriteFile(p, append(good, good...), 0o640) },
		"oversize":  func(p string) error { return os.WriteFile(p, bytes.Repeat([]byte(" "), maxDrainFile+1), 0o640) },
		"directory": func(p string) error { return os.Mkdir(p, 0o750) },
		"pipe":      func(p string) error { return syscall.Mkfifo(p, 0o640) },
		"dangling":  func(p string) error { return os.Symlink("/nowhere", p) },
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t, "stop-dns")
			path := filepath.Join(n.s.cfg().State, drainFile)
			if err := errors.Join(os.MkdirAll(n.s.cfg().State, 0o750), damage(path)); err != nil {
				t.Fatal(err)
			}
			n.restart(func() {})
			n.until("a good round", func(d status.Sidecar) bool { return len(d.Probes) > 0 && d.Probes[0].Up })
			d := n.s.status()
			if d.Announced || d.Why[0].Code != gate.Drained || !strings.Contains(d.Why[0].Detail, path) || d.Clock.Silence != nil {
				t.Errorf("announced %v, why %v, silence %v; want it drained by %s, and no word of silence", d.Announced, d.Why, d.Clock.Silence, path)
			}
			if !strings.Contains(n.log.String(), path) {
				t.Errorf("log:\n%s", &n.log)
			}
			if err := n.plane().undrain(t.Context(), &bytes.Buffer{}); err != nil {
				t.Fatal(err)
			}
			n.until("the route", announced)
			if s := n.s.status().Clock.Silence; s == nil || s.On {
				t.Errorf("silence %+v", s)
			}
		})
	}
}

// Silence is told once the route is gone and not before, by a process that starts as well.
func TestDrainWithSilence(t *testing.T) {
	n := newNode(t, "stop-dns")
	end := n.runs()
	n.until("the route", announced)
	told := func(d status.Sidecar) bool { return d.Clock.Silence != nil && d.Clock.Silence.On }
	if told(n.s.status()) || n.s.status().Clock.Silence == nil {
		t.Error("silence of a node in service")
	}
	done := make(chan error)
	go func() {
		done <- n.plane().drain(context.Background(), &bytes.Buffer{}, status.DrainOrder{Wait: "300ms", Silence: true, Who: "jane"})
	}()
	n.until("silence", func(d status.Sidecar) bool {
		if told(d) && d.Announced {
			t.Fatal("silence while announced")
		}
		return told(d)
	})
	select {
	case err := <-done:
		t.Fatalf("the command has ended before meshsync was silent: %v", err)
	case <-time.After(300 * time.Millisecond):
	}
	n.say(0, 0) // meshsync obeys
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	end()
	next, err := newSidecar(n.s.cfg(), slog.New(slog.NewTextHandler(&n.log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	if !told(next.status()) {
		t.Error("the next process lets meshsync answer before its first round")
	}
	n.restart(func() {})
	if err := n.plane().undrain(t.Context(), &bytes.Buffer{}); err != nil {
		t.Fatal(err)
	}
	if d := n.s.status(); d.Announced || told(d) { // the policy is stop-dns, and yet: not before it answers again
		t.Errorf("right after undrain: announced %v, silence %v", d.Announced, d.Clock.Silence)
	}
	n.say(7, 7)
	n.until("the route", announced)
}

// What cannot be written down is said, and is in force all the same; what cannot be removed keeps the node out.
func TestDrainWithoutADisk(t *testing.T) {
	n := newNode(t, "stop-dns")
	if err := os.WriteFile(n.s.cfg().State, nil, 0o600); err != nil { // no directory can be there
		t.Fatal(err)
	}
	n.runs()
	n.until("the route", announced)
	err := n.plane().drain(t.Context(), &bytes.Buffer{}, status.DrainOrder{Wait: "0s", Who: "jane"})
	if err == nil || !strings.Contains(err.Error(), "a restart of the sidecar would end this drain") {
		t.Errorf("error %v", err)
	}
	if n.s.status().Announced {
		t.Error("not withdrawn")
	}
	if err := n.plane().undrain(t.Context(), &bytes.Buffer{}); err == nil || !strings.Contains(err.Error(), "stays drained") {
		t.Errorf("error %v", err)
	}
	if d := n.s.status(); d.Announced || d.Drain == nil {
		t.Error("announced, though the disk may say otherwise")
	}
}

// Ctrl-C ends the command, and the drain goes on; a wait that makes no sense is refused.
func TestDrainCommandInterrupted(t *testing.T) {
	n := newNode(t, "stop-dns")
	n.runs()
	n.until("the route", announced)
	ctx, interrupt := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		done <- n.plane().drain(ctx, &bytes.Buffer{}, status.DrainOrder{Wait: "1h", Who: "jane"})
	}()
	n.until("the drain", func(d status.Sidecar) bool { return d.Drain != nil })
	interrupt()
	if err := <-done; err == nil {
		t.Error("an interrupted command has succeeded")
	}
	if d := n.s.status(); d.Drain == nil || !d.Announced || d.Why[0].Code != gate.Draining {
		t.Errorf("after it: %+v", d)
	}
	for _, wait := range []string{"-1s", "2h", "soon"} {
		if err := n.plane().drain(t.Context(), &bytes.Buffer{}, status.DrainOrder{Wait: wait}); err == nil || !strings.Contains(err.Error(), "wait") {
			t.Errorf("wait %s: %v", wait, err)
		}
	}
	if err := n.plane().drain(t.Context(), &bytes.Buffer{}, status.DrainOrder{Wait: "0s", Who: "jane"}); err != nil { // sooner, after all
		t.Error(err)
	}
}

// The command waits for as long as the node says, and says so; what went by while it was made is no wait.
func TestADrainSaysWhenTheRouteGoes(t *testing.T) {
	drain := &status.Drain{Who: "jane"}
	for want, d := range map[string]status.Drained{
		"; the route goes in 30 s": {Drain: drain, Announced: true, LeftSeconds: 29.97},
		"":                         {Drain: drain, LeftSeconds: 29.97},
	} {
		if got := leaves(d); got != want {
			t.Errorf("%+v: %q, want %q", d, got, want)
		}
	}
	if got := leaves(status.Drained{Drain: drain, Announced: true, LeftSeconds: 0.2}) + leaves(status.Drained{Announced: true}); got != "" {
		t.Errorf("no wait: %q", got)
	}
}

// Why there is no answer is said in words that help: whose the socket is, whether anything runs there, or that a node elsewhere does
// not let this address in. The URL of a request that nobody wrote is not among them.
func TestWhyASidecarGivesNoAnswer(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "sidecar.yaml")
	if err := os.WriteFile(file, []byte("node: x\nshared: [127.0.0.1]\nprobe: {zones: [.]}\nclock: {source: kernel}\nsocket: unix://"+dir+"/s\ncontrol: unix://"+dir+"/c\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, command := range []string{"status", "drain", "undrain"} {
		_, _, said := commandLine(command, file)
		if !strings.HasPrefix(said, "anycast-sidecar: dial unix "+dir) || !strings.Contains(said, "(does the sidecar run?)") {
			t.Errorf("%s where no sidecar runs: %q", command, said)
		}
	}
	if said := unheard(fmt.Errorf("dial: %w", fs.ErrPermission)).Error(); strings.Contains(said, "run?") || !strings.Contains(said, "as the sidecar's user") {
		t.Errorf("a socket that may not be opened: %q", said)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			io.ReadAtLeast(c, make([]byte, 1), 1) // what is read is not answered by a reset
			c.(*net.TCPConn).CloseWrite()
			defer c.Close()
		}
	}()
	p := &plane{"https://" + l.Addr().String(), &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}}
	if _, err := p.say(t.Context(), http.MethodGet, nil, nil); err == nil || !strings.HasPrefix(err.Error(), "the node closed the connection: admin.access there") {
		t.Errorf("a node that lets nobody in: %v", err)
	}
}
