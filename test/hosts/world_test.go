package hosts

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/depot"
	"github.com/coredns-anycast/coredns-anycast/internal/lab"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
)

// patience bounds every wait.
const patience = 30 * time.Second

// line is what a host has to S3. It can hold the host's n-th request, before S3 has seen it.
type line struct {
	pass    http.Handler
	address string

	guard   sync.Mutex
	seen    int
	hold    int // the request to hold, from 1; 0: none
	held    chan struct{}
	release chan bool // whether to pass it on
}

func newLine(t *testing.T, to *testenv.S3) *line {
	l := &line{pass: httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: to.Address})}
	server := httptest.NewServer(l)
	t.Cleanup(server.Close)
	l.address = server.Listener.Addr().String()
	return l
}

// arm holds the n-th request from now on; the channel is closed when it has come.
func (l *line) arm(n int) (held chan struct{}) {
	l.guard.Lock()
	defer l.guard.Unlock()
	l.seen, l.hold, l.held, l.release = 0, n, make(chan struct{}), make(chan bool, 1)
	return l.held
}

func (l *line) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	l.guard.Lock()
	l.seen++
	hold, held, release := l.seen == l.hold, l.held, l.release
	l.guard.Unlock()
	if hold {
		close(held)
		if !<-release {
			panic(http.ErrAbortHandler)
		}
	}
	l.pass.ServeHTTP(w, r)
}

// host is a distribution host: a home, and its line to the bucket.
type host struct {
	t    *testing.T
	home string
	*line
}

// process is a meshctl that runs.
type process struct {
	*exec.Cmd
	out   bytes.Buffer
	log   lab.Buffer
	ended chan error
}

func (h *host) start(args ...string) *process {
	h.t.Helper()
	p := &process{Cmd: exec.Command(filepath.Join(binaries.Dir(h.t), "meshctl"), append(args, "--home", h.home)...), ended: make(chan error, 1)}
	p.Stdout, p.Stderr = &p.out, &p.log
	p.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	lab.Must(h.t, p.Start())
	go func() { p.ended <- p.Wait() }()
	h.t.Cleanup(func() { p.Process.Kill() })
	return p
}

// wait waits for the end, and is the error of a command that has failed.
func (p *process) wait(t *testing.T) error {
	t.Helper()
	select {
	case err := <-p.ended:
		if err != nil {
			return fmt.Errorf("%w: %s", err, &p.log)
		}
		return nil
	case <-time.After(patience):
		t.Fatalf("%v does not end: %s", p.Args, &p.log)
		return nil
	}
}

// killed runs a command that is killed at its n-th request to S3, and reports whether it has ended before.
func (h *host) killed(n int, args ...string) (p *process, done bool) {
	h.t.Helper()
	held := h.arm(n)
	p = h.start(args...)
	select {
	case <-held:
		lab.Must(h.t, p.Process.Kill())
		h.release <- false
		p.wait(h.t)
		return p, false
	case err := <-p.ended:
		h.arm(0)
		if err != nil {
			h.t.Fatalf("%v: %v: %s", args, err, &p.log)
		}
		return p, true
	case <-time.After(patience):
		h.t.Fatalf("%v hangs at request %d", args, n)
		return nil, false
	}
}

var binaries = testenv.Binaries{Commands: map[string]string{"meshctl": "cmd/meshctl"}}

func TestMain(m *testing.M) { binaries.Main(m) }

// world is a mesh with some hosts, and what must hold of it whatever happens to them.
type world struct {
	t      *testing.T
	server *testenv.S3
	hosts  []*host
	repo   *depot.Dir // the objects of the bucket
	zones  string     // zone files, by serial
	serial uint32

	guard    sync.Mutex
	mem      release.Memory // of a node that never forgets
	view     release.View
	acked    map[uint64]uint32 // serial by number of the releases whose command has ended well
	promises map[string]time.Time
	highest  uint64
}

// newWorld makes a mesh and n hosts of it, each with a copy of the home.
func newWorld(t *testing.T, n int) *world {
	t.Helper()
	w := &world{t: t, server: testenv.StartS3(t), acked: map[uint64]uint32{}, promises: map[string]time.Time{}}
	w.zones = t.TempDir()
	for i := range n {
		h := &host{t: t, home: filepath.Join(t.TempDir(), "mesh"), line: newLine(t, w.server)}
		repository := testenv.S3URL(w.server.Bucket, "mesh", h.address)
		if i == 0 {
			lab.Must(t, h.start("init", "--lease", "1h", "--repository", repository).wait(t))
			lab.Must(t, h.start("member", "add", "tyo", "--admin", "127.0.0.1:1").wait(t))
		} else {
			lab.Must(t, os.CopyFS(h.home, os.DirFS(w.hosts[0].home)))
			lab.Must(t, os.WriteFile(filepath.Join(h.home, "repository"), []byte(repository+"\n"), 0o644))
		}
		w.hosts = append(w.hosts, h)
	}
	var err error
	w.repo, err = depot.Open(filepath.Join(w.server.Dir, "mesh"))
	lab.Must(t, err)
	t.Cleanup(func() { w.repo.Close() })
	root, _, err := w.repo.Read(release.RootName(1), 1<<20)
	lab.Must(t, err)
	w.mem, err = release.NewMemory(root)
	lab.Must(t, err)
	return w
}

// nextZone writes a zone file with a new serial, and gives the arguments to release it.
func (w *world) nextZone() []string {
	w.t.Helper()
	w.serial++
	text := fmt.Sprintf("$ORIGIN example.org.\n$TTL 300\n@ SOA ns1 host %d 7200 3600 1209600 300\n@ NS ns1\n@ NS ns.example.net.\nns1 A 192.0.2.53\n", w.serial)
	file := filepath.Join(w.zones, fmt.Sprint(w.serial))
	lab.Must(w.t, os.WriteFile(file, []byte(text), 0o600))
	return []string{"release", "--json", file}
}

// ack takes down what a release command that has ended well said.
func (w *world) ack(p *process, serial uint32) uint64 {
	w.t.Helper()
	var made struct{ Number uint64 }
	if err := json.Unmarshal(p.out.Bytes(), &made); err != nil {
		w.t.Fatalf("%v said %q", p.Args, &p.out)
	}
	if before, twice := w.acked[made.Number]; twice {
		w.t.Fatalf("release %d was acknowledged twice, with serials %d and %d", made.Number, before, serial)
	}
	w.acked[made.Number] = serial
	w.highest = max(w.highest, made.Number)
	return made.Number
}

// releases publishes from a host, which must go through, as soon as a switchover that is set allows it.
func (w *world) releases(h *host) {
	w.t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(100 * time.Millisecond) {
		p := h.start(w.nextZone()...)
		err := p.wait(w.t)
		if err == nil {
			number := w.ack(p, w.serial)
			w.check()
			if next := w.view.Manifest.Next; next == nil || next.Number != number || next.Zones[0].Serial != w.serial {
				w.t.Fatalf("release %d with serial %d was acknowledged; next is %+v", number, w.serial, next)
			}
			return
		}
		next := w.check().Next
		if next == nil || next.Switchover.IsZero() || time.Now().After(end) {
			w.t.Fatalf("a release does not get through: %v", err)
		}
		if next.Committed { // its members are not there to say that they have made it
			_ = h.start("schedule", "--force", "--wait", "0s").wait(w.t) // another host may be first
		}
	}
}

// check looks at the repository as a node does that never forgets, and at what the hosts have promised.
func (w *world) check() release.Manifest {
	w.t.Helper()
	lab.Must(w.t, w.look())
	w.guard.Lock()
	defer w.guard.Unlock()
	m := w.view.Manifest
	var latest uint64
	for r := range m.Releases() {
		latest = r.Number
		if serial, ok := w.acked[r.Number]; ok && r.Zones[0].Serial != serial {
			w.t.Fatalf("release %d was acknowledged with serial %d, and has %d", r.Number, serial, r.Zones[0].Serial)
		}
		for _, z := range r.Zones {
			lab.Must(w.t, w.repo.CheckBlob(z.Blob))
		}
	}
	if latest < w.highest {
		w.t.Fatalf("release %d was acknowledged, and is lost: the latest is %d", w.highest, latest)
	}
	w.checkPromises()
	return m
}

// checkPromises: none is ever shortened or forgotten, and each lease that is out has one.
func (w *world) checkPromises() {
	w.t.Helper()
	data, _, err := w.repo.Read("state/state.json", 1<<24)
	lab.Must(w.t, err)
	var state struct {
		Highest uint64
		Leases  []struct {
			Number  uint64
			At      int64 `json:"at_ns"`
			Expires int64 `json:"expires_ns"`
		}
	}
	lab.Must(w.t, json.Unmarshal(data, &state))
	now := map[string]time.Time{}
	for _, p := range state.Leases {
		now[fmt.Sprint(p.Number, p.At)] = time.Unix(0, p.Expires)
	}
	for schedule, until := range w.promises {
		if now[schedule].Before(until) {
			w.t.Fatalf("the promise for %s was until %v, and is until %v", schedule, until, now[schedule])
		}
	}
	w.promises = now
	var number uint64
	var at int64
	if next := w.view.Manifest.Next; next != nil {
		number = next.Number
		if !next.Switchover.IsZero() {
			at = next.Switchover.UnixNano()
		}
	}
	if promised := now[fmt.Sprint(number, at)]; promised.Before(w.view.LeaseExpires) {
		w.t.Fatalf("a lease until %v is out, %v is promised", w.view.LeaseExpires, promised)
	}
	if state.Highest < w.highest {
		w.t.Fatalf("release %d was acknowledged; the state knows of %d", w.highest, state.Highest)
	}
}

// look verifies the repository. A file may be collected while it is read, which another look shows; anything else that is
// wrong is.
func (w *world) look() error {
	w.guard.Lock()
	defer w.guard.Unlock()
	var err error
	for range 3 {
		var view release.View
		var mem release.Memory
		if view, mem, err = release.Verify(w.repo, w.mem); err == nil {
			w.view, w.mem = view, mem
			return nil
		}
		if rule, _ := release.RuleOf(err); rule != release.Missing {
			break
		}
	}
	return err
}

// watch looks all the time until the test ends: what is never to be seen must not be seen for a moment.
func (w *world) watch() {
	stop, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-stop:
				return
			case <-time.After(20 * time.Millisecond):
			}
			if err := w.look(); err != nil {
				w.t.Errorf("seen by a node: %v", err)
				return
			}
		}
	}()
	w.t.Cleanup(func() { close(stop); <-ended })
}
