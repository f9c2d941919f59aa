package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/hometest"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
)

// hanging takes connections and says nothing. reached gets one value when the first comes.
func hanging(t *testing.T, network string) (address string, reached chan struct{}) {
	t.Helper()
	reached = make(chan struct{})
	var once sync.Once
	if network == "udp" {
		c, err := net.ListenPacket("udp", "127.0.0.1:0")
		hometest.Check(t, err)
		t.Cleanup(func() { c.Close() })
		go func() {
			for b := make([]byte, 4096); ; {
				if _, _, err := c.ReadFrom(b); err != nil {
					return
				}
				once.Do(func() { close(reached) })
			}
		}()
		return c.LocalAddr().String(), reached
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	hometest.Check(t, err)
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { c.Close() })
			once.Do(func() { close(reached) })
		}
	}()
	return l.Addr().String(), reached
}

// fifo is a file that nobody writes. reached is closed when somebody reads it.
func fifo(t *testing.T) (file string, reached chan struct{}) {
	t.Helper()
	file, reached = filepath.Join(t.TempDir(), "fifo"), make(chan struct{})
	hometest.Check(t, syscall.Mkfifo(file, 0o600))
	go func() {
		f, err := os.OpenFile(file, os.O_WRONLY, 0)
		if err == nil {
			t.Cleanup(func() { f.Close() })
			close(reached)
		}
	}()
	t.Cleanup(func() { // a reader that never came must not leave this one waiting
		if f, err := os.OpenFile(file, os.O_RDONLY|syscall.O_NONBLOCK, 0); err == nil {
			f.Close()
		}
	})
	return file, reached
}

// world is a command that will wait: where its home is, and when it does.
type world struct {
	dir     string
	zone    string // a file
	args    []string
	reached <-chan struct{}
}

func slowCheck(t *testing.T, w *world) {
	file, reached := fifo(t)
	hometest.Check(t, os.WriteFile(filepath.Join(w.dir, "meshctl.yaml"), []byte(fmt.Sprintf(
		"checks:\n  command: [/bin/sh, -c, 'trap \"\" TERM INT; cat %s; sleep 1000']\n  command_timeout: 5m\n", file)), 0o600))
	w.reached = reached
}

func slowKey(t *testing.T, w *world) { // a token that nobody touches
	file, reached := fifo(t)
	key := filepath.Join(w.dir, "keys", "lease.pem")
	data, err := os.ReadFile(key)
	hometest.Check(t, err)
	private, err := release.ParseKey(data)
	hometest.Check(t, err)
	script := filepath.Join(t.TempDir(), "sign")
	hometest.Check(t, os.WriteFile(script, []byte("cat "+file+"; sleep 1000\n"), 0o600))
	hometest.Check(t, os.WriteFile(filepath.Join(w.dir, "keys", "lease.command"), fmt.Appendf(nil, "ed25519 %x\n/bin/sh %s\n", private.Public(), script), 0o600))
	hometest.Check(t, os.Remove(key))
	w.reached = reached
}

func slowPassphrase(t *testing.T, w *world) {
	word := filepath.Join(t.TempDir(), "word")
	hometest.Check(t, os.WriteFile(word, []byte("word\n"), 0o600))
	t.Setenv("MESHCTL_PASSPHRASE_FILE", word)
	hometest.Check(t, os.RemoveAll(w.dir))
	mustRun(t, "--home", w.dir, "init", "--encrypt")
	var file string
	file, w.reached = fifo(t)
	t.Setenv("MESHCTL_PASSPHRASE_FILE", file)
}

func slowBucket(t *testing.T, w *world) {
	t.Setenv("AWS_ACCESS_KEY_ID", "x")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "y")
	var at string
	at, w.reached = hanging(t, "tcp")
	hometest.Check(t, os.RemoveAll(filepath.Join(w.dir, "repository")))
	hometest.Check(t, os.WriteFile(filepath.Join(w.dir, "repository"), []byte("s3://mesh?endpoint=http://"+at+"&path-style=true\n"), 0o600))
}

func slowMember(t *testing.T, w *world) {
	at, reached := hanging(t, "tcp")
	mustRun(t, "--home", w.dir, "member", "add", "tyo", "--admin", at)
	mustRun(t, "--home", w.dir, "release", w.zone)
	w.reached = reached
}

func slowPrimary(t *testing.T, w *world) {
	at, reached := hanging(t, "tcp")
	hometest.Check(t, os.WriteFile(filepath.Join(w.dir, "meshctl.yaml"), []byte(fmt.Sprintf(
		"sources:\n  primaries:\n    - {name: hidden, servers: [{address: \"%s\", no_key: true}]}\n  zones:\n    - {names: [a], primaries: hidden}\n", at)), 0o600))
	w.reached = reached
}

func locked(t *testing.T, w *world) {
	h := hometest.Begin(t, w.dir, time.Now)
	t.Cleanup(func() { h.Close() })
	ready := make(chan struct{})
	time.AfterFunc(100*time.Millisecond, func() { close(ready) })
	w.reached = ready
}

func slowFile(t *testing.T, w *world) {
	var file string
	file, w.reached = fifo(t)
	w.args = append(w.args, file)
}

func slowServer(t *testing.T, w *world) {
	var at string
	at, w.reached = hanging(t, "udp")
	w.args = append(w.args, at)
}

// TestASignalEndsEveryCommand, whatever it waits for: a check, a key's command, a primary, a bucket, a member, another command, a
// file that does not come. It ends soon, with status 1, and nothing was published.
func TestASignalEndsEveryCommand(t *testing.T) {
	zone := filepath.Join(t.TempDir(), "a.zone")
	hometest.Check(t, os.WriteFile(zone, []byte("$ORIGIN a.\n$TTL 300\n@ SOA ns1 host 1 7200 3600 1209600 300\n@ NS ns.example.net.\n@ NS ns2.example.net.\n"), 0o600))
	for name, c := range map[string]struct {
		args  []string
		setup func(t *testing.T, w *world)
	}{
		"release, check":       {[]string{"release", zone}, slowCheck},
		"release --now, check": {[]string{"release", "--now", zone}, slowCheck},
		"check, check":         {[]string{"check", zone}, slowCheck},
		"release, bucket":      {[]string{"release", zone}, slowBucket},
		"lease, bucket":        {[]string{"lease"}, slowBucket},
		"status, bucket":       {[]string{"status"}, slowBucket},
		"history, bucket":      {[]string{"history"}, slowBucket},
		"schedule, bucket":     {[]string{"schedule"}, slowBucket},
		"pause, bucket":        {[]string{"pause"}, slowBucket},
		"resume, bucket":       {[]string{"resume"}, slowBucket},
		"recover, bucket":      {[]string{"recover"}, slowBucket},
		"receive, bucket":      {[]string{"receive"}, slowBucket},
		"serve, check":         {[]string{"serve", "--listen", "127.0.0.1:0", "--zones", filepath.Dir(zone)}, slowCheck},
		"serve, bucket":        {[]string{"serve", "--listen", "127.0.0.1:0"}, slowBucket},
		"member add, bucket":   {[]string{"member", "add", "osa", "--admin", "127.0.0.1:1"}, slowBucket},
		"member list, bucket":  {[]string{"member", "list"}, slowBucket},
		"keys list, bucket":    {[]string{"keys", "list"}, slowBucket},
		"keys rotate, bucket":  {[]string{"keys", "rotate", "lease"}, slowBucket},
		"lease, key":           {[]string{"lease"}, slowKey},
		"release, key":         {[]string{"release", zone}, slowKey},
		"lease, passphrase":    {[]string{"lease"}, slowPassphrase},
		"release, lock":        {[]string{"release", zone}, locked},
		"lease, lock":          {[]string{"lease"}, locked},
		"pause, lock":          {[]string{"pause"}, locked},
		"recover, lock":        {[]string{"recover"}, locked},
		"backup, lock":         {[]string{"backup", filepath.Join(t.TempDir(), "mesh.tar.gz")}, locked},
		"backup, bucket":       {[]string{"backup", filepath.Join(t.TempDir(), "mesh.tar.gz")}, slowBucket},
		"member add, lock":     {[]string{"member", "add", "osa", "--admin", "127.0.0.1:1"}, locked},
		"status, member":       {[]string{"status"}, slowMember},
		"schedule, member":     {[]string{"schedule", "--wait", "10m"}, slowMember},
		"receive, primary":     {[]string{"receive"}, slowPrimary},
		"release, file":        {[]string{"release"}, slowFile},
		"check, file":          {[]string{"check"}, slowFile},
		"try, file":            {[]string{"try"}, slowFile},
		"which-node, server":   {[]string{"which-node"}, slowServer},
	} {
		t.Run(name, func(t *testing.T) {
			w := &world{dir: filepath.Join(t.TempDir(), "mesh"), zone: zone, args: c.args}
			mustRun(t, "--home", w.dir, "init")
			c.setup(t, w)
			endsByASignal(t, w)
		})
	}
}

// endsByASignal gives a command a signal once it waits.
func endsByASignal(t *testing.T, w *world) {
	t.Helper()
	before, _ := os.ReadFile(filepath.Join(w.dir, "state", "state.json"))
	ctx, signal := context.WithCancel(t.Context())
	defer signal()
	var said bytes.Buffer
	ended := make(chan int, 1)
	go func() { ended <- runUntil(ctx, append([]string{"--home", w.dir}, w.args...), &said, &said) }()
	select {
	case <-w.reached:
	case status := <-ended:
		t.Fatalf("status %d before it had to wait: %s", status, &said)
	case <-time.After(time.Minute):
		t.Fatal("it waits for nothing, and does not end")
	}
	signal()
	select {
	case status := <-ended:
		if serves := w.args[0] == "serve" || w.args[0] == "status"; status != exitRefused && !serves {
			t.Errorf("status %d: %s", status, &said)
		}
	case <-time.After(30 * time.Second): // of what waits for ever, or for minutes
		t.Fatal("it does not end")
	}
	if after, _ := os.ReadFile(filepath.Join(w.dir, "state", "state.json")); !bytes.Equal(before, after) {
		t.Error("it has published something")
	}
}

func mustRun(t *testing.T, args ...string) {
	t.Helper()
	var said bytes.Buffer
	if status := run(args, &said, &said); status != exitDone {
		t.Fatalf("%v: status %d: %s", args, status, &said)
	}
}
