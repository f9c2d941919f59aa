package meshsync

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coredns/coredns/plugin/test"
	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/depot"
	"github.com/coredns-anycast/coredns-anycast/internal/instant"
	"github.com/coredns-anycast/coredns-anycast/internal/lab"
	"github.com/coredns-anycast/coredns-anycast/internal/lab/publish"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
	"github.com/coredns-anycast/coredns-anycast/internal/sysclock"
	"github.com/coredns-anycast/coredns-anycast/internal/zonefile"
)

// host is a distribution host: it makes real releases in a real repository.
type host struct {
	t        testing.TB
	repo     *depot.Dir
	root     string // path of root.json for the nodes
	keys     release.Keys
	mem      release.Memory
	manifest release.Manifest
	lease    time.Duration
	last     []release.File // published last
}

// newHost makes a mesh whose repository is dir/repository and whose root is dir/root.json.
func newHost(t testing.TB, dir string) *host {
	t.Helper()
	keys, err := release.GenerateKeys(rand.Reader)
	must(t, err)
	repo, err := depot.Create(filepath.Join(dir, "repository"))
	must(t, err)
	h := &host{t: t, repo: repo, root: filepath.Join(dir, "root.json"), keys: keys, lease: time.Hour,
		manifest: release.Manifest{Format: release.ManifestFormat, Mesh: "jp", EpsilonMS: release.DefaultEpsilonMS}}
	files, mem, err := release.Init(h.manifest, keys.Signers(), h.ends())
	must(t, err)
	must(t, os.WriteFile(h.root, mem.Root, 0o644))
	must(t, publish.Files(repo, files))
	h.mem = mem
	return h
}

func (h *host) ends() release.Expiries {
	year := time.Now().Add(365 * 24 * time.Hour)
	return release.Expiries{Root: year, Targets: year, Snapshot: year, Timestamp: time.Now().Add(h.lease)}
}

// zoneText is a zone that tells its release: TXT at which.ORIGIN, and the serial.
func zoneText(origin string, number uint64) string {
	return fmt.Sprintf("%s 60 IN SOA ns.%s host.%s %d 3600 600 86400 60\n%s 60 IN NS ns.%s\nns.%s 60 IN A 192.0.2.1\nwhich.%s 60 IN TXT \"%d\"\n",
		origin, origin, origin, number, origin, origin, origin, origin, number)
}

// blob packs a zone's text and says what a manifest says of it.
func (h *host) blob(origin, text string) release.Zone {
	h.t.Helper()
	z, found := zonefile.Parse(strings.NewReader(text), zonefile.Options{Origin: origin})
	if z == nil {
		h.t.Fatalf("zone %s: %v", origin, found)
	}
	var canonical bytes.Buffer
	must(h.t, zonefile.Write(&canonical, z))
	return h.pack(origin, z.Serial(), canonical.Bytes())
}

// pack stores any text as a zone's.
func (h *host) pack(origin string, serial uint32, text []byte) release.Zone {
	h.t.Helper()
	c, err := h.repo.PutBlob(func(w io.Writer) error { _, err := w.Write(text); return err })
	must(h.t, err)
	return release.Zone{Origin: origin, Serial: serial, SHA256: c.SHA256, Length: c.Length, Blob: c.Blob}
}

// zones are release number's: example.org. alone unless origins are given.
func (h *host) zones(number uint64, origins ...string) []release.Zone {
	h.t.Helper()
	if len(origins) == 0 {
		origins = []string{"example.org."}
	}
	slices.Sort(origins)
	var zones []release.Zone
	for _, o := range origins {
		zones = append(zones, h.blob(o, zoneText(o, number)))
	}
	return zones
}

// current makes release number the one that is answered from since two hours ago, and nothing follow it.
func (h *host) current(number uint64, zones []release.Zone) {
	h.t.Helper()
	h.manifest.Current = &release.Release{Number: number, Zones: zones,
		Switchover: time.Now().Add(-2 * time.Hour).UTC().Truncate(time.Microsecond)}
	h.manifest.Next = nil
	h.publish()
}

// stage makes release number the next one.
func (h *host) stage(number uint64, zones []release.Zone) {
	h.t.Helper()
	h.manifest.Next = &release.Release{Number: number, Zones: zones}
	h.publish()
}

// schedule commits a switchover to the next release, as far ahead as said.
func (h *host) schedule(ahead time.Duration) time.Time {
	h.t.Helper()
	return h.setSwitchover(ahead, true)
}

// propose proposes one, or another than was proposed before.
func (h *host) propose(ahead time.Duration) time.Time {
	h.t.Helper()
	return h.setSwitchover(ahead, false)
}

func (h *host) setSwitchover(ahead time.Duration, committed bool) time.Time {
	h.t.Helper()
	at := time.Now().Add(ahead).UTC().Truncate(time.Microsecond)
	next := *h.manifest.Next
	next.Switchover, next.Decide, next.Committed = at, at.Add(-time.Microsecond), committed
	h.manifest.Next = &next
	h.publish()
	return at
}

func (h *host) cancel() {
	h.t.Helper()
	h.manifest.Next = nil
	h.publish()
}

func (h *host) publish() {
	h.t.Helper()
	h.sign()
	must(h.t, publish.Files(h.repo, h.last))
}

// sign makes what publish puts into the repository.
func (h *host) sign() {
	h.t.Helper()
	var err error
	h.last, h.mem, err = release.Publish(h.mem, h.manifest, h.keys.Signers(), h.ends())
	must(h.t, err)
}

// repair puts back what was moved aside, and publishes again what was last.
func (h *host) repair() {
	h.t.Helper()
	for _, name := range []string{".", "metadata", release.TimestampName} {
		aside := h.path(name) + ".aside"
		if _, err := os.Lstat(aside); err == nil {
			must(h.t, os.RemoveAll(h.path(name)))
			must(h.t, os.Rename(aside, h.path(name)))
		}
	}
	must(h.t, publish.Files(h.repo, h.last))
}

func (h *host) renew(lease time.Duration) {
	h.t.Helper()
	var err error
	h.last, h.mem, err = release.Renew(h.mem, h.keys.Lease, time.Now().Add(lease))
	must(h.t, err)
	must(h.t, publish.Files(h.repo, h.last))
}

// path is a file of the repository.
func (h *host) path(name string) string { return filepath.Join(h.repo.Path(), name) }

// blobPath is the file of a zone.
func (h *host) blobPath(z release.Zone) string { return h.path(release.BlobName(z.Blob.SHA256)) }

// testClock is the machine's clock, wrong by what a test says. Holding it holds whoever decides by it.
type testClock struct {
	wrong atomic.Int64
	held  sync.RWMutex
}

func (c *testClock) now() instant.Instant {
	c.held.RLock()
	defer c.held.RUnlock()
	now := sysclock.Now()
	now.Wall = now.Wall.Add(time.Duration(c.wrong.Load()))
	return now
}

func (c *testClock) step(d time.Duration) { c.wrong.Add(int64(d)) }

func (c *testClock) clocks() clocks {
	return clocks{now: c.now, query: func() instant.Instant {
		now := ofTime(time.Now())
		now.Wall = now.Wall.Add(time.Duration(c.wrong.Load()))
		return now
	}}
}

// node is a running plugin with a state directory of its own.
type node struct {
	*Meshsync
	t     testing.TB
	f     *follower
	clock *testClock
	stop  func() // of the clock's certification
}

// newConfig is the configuration of a node named after its directory.
func newConfig(dir string, h *host) config {
	return config{dir: dir, repository: h.repo.Path(), root: h.root, node: filepath.Base(dir), zones: []string{"."}}
}

// startNode starts a node whose clock is certified within 1ms, until t ends.
func startNode(t testing.TB, c config) *node {
	t.Helper()
	n := startUncertified(t, c)
	n.certify(time.Millisecond)
	return n
}

func startUncertified(t testing.TB, c config) *node {
	t.Helper()
	clock := &testClock{}
	f, err := newFollower(c, clock.clocks())
	must(t, err)
	n := &node{Meshsync: &Meshsync{config: c}, t: t, f: f, clock: clock, stop: func() {}}
	n.follower.Store(f)
	t.Cleanup(n.close)
	return n
}

// certify assumes from now on that the clock is right within bound.
func (n *node) certify(bound time.Duration) {
	n.stop()
	n.stop = n.f.followClock(clockConfig{assume: bound})
}

func (n *node) close() {
	if n.f == nil {
		return
	}
	n.stop()
	if err := n.f.close(); err != nil {
		n.t.Error(err)
	}
	n.f = nil
}

// restart ends the node and starts it again on the same directory.
func (n *node) restart() *node {
	n.t.Helper()
	n.close()
	return startNode(n.t, n.config)
}

// status is what the node would say on its socket.
func (n *node) status() *status.Node { return n.f.shown.Load().Node }

// writer keeps what a handler does with a query.
type writer struct {
	test.ResponseWriter
	said   *dns.Msg
	closed bool
}

func (w *writer) WriteMsg(m *dns.Msg) error { w.said = m; return nil }
func (w *writer) Close() error              { w.closed = true; return nil }

// ask asks over UDP; nil is silence.
func (n *node) ask(name string, qtype uint16) *dns.Msg {
	n.t.Helper()
	w := &writer{}
	if _, err := n.ServeDNS(context.Background(), w, new(dns.Msg).SetQuestion(name, qtype)); err != nil {
		n.t.Fatalf("%s: %v", name, err)
	}
	return w.said
}

// which is the release that example.org. is answered from now; 0 is silence.
func (n *node) which() uint64 {
	n.t.Helper()
	return whichOf(n.t, n.ask("which.example.org.", dns.TypeTXT))
}

func whichOf(t testing.TB, m *dns.Msg) uint64 {
	t.Helper()
	if m == nil {
		return 0
	}
	if len(m.Answer) != 1 || !m.Authoritative {
		t.Fatalf("not an answer that tells its release: %v", m)
	}
	var number uint64
	if _, err := fmt.Sscan(m.Answer[0].(*dns.TXT).Txt[0], &number); err != nil {
		t.Fatal(err)
	}
	return number
}

// becomes waits until example.org. is answered from release number, and the status, which comes right after it, says so.
func (n *node) becomes(number uint64) {
	n.t.Helper()
	n.waits(fmt.Sprintf("release %d is answered from", number), func(s *status.Node) bool { return n.which() == number && s.Serving == number })
}

// silentFor waits until the node is silent for the reason.
func (n *node) silentFor(code string) {
	n.t.Helper()
	n.waits("silence for "+code, func(s *status.Node) bool {
		return n.which() == 0 && slices.ContainsFunc(s.Silent, func(r status.Reason) bool { return r.Code == code })
	})
}

// faulty waits until the status shows a fault of the rule.
func (n *node) faulty(rule string) {
	n.t.Helper()
	n.waits("fault "+rule, func(s *status.Node) bool {
		return s.Depot.LastFault != nil && s.Depot.LastFault.Rule == rule && s.Depot.Faults[rule] > 0
	})
}

// sound waits until the status shows no fault.
func (n *node) sound() {
	n.t.Helper()
	n.waits("no fault", func(s *status.Node) bool { return s.Depot.LastFault == nil })
}

// triesAgain waits until the node has tried two more times what comes to a fault, each of several things, and has let pause pass before each try.
func (n *node) triesAgain(rule string, pause time.Duration, things int) {
	n.t.Helper()
	before, began := n.status().Depot.Faults[rule], time.Now()
	n.waits("two more tries", func(s *status.Node) bool { return s.Depot.Faults[rule] >= before+uint64(2*things) })
	tries, took := n.status().Depot.Faults[rule]-before, time.Since(began)
	if most := float64(things) * (took.Seconds()/pause.Seconds() + 1); float64(tries) > most {
		n.t.Errorf("%d tries in %v, want %.1f at the most", tries, took, most)
	}
}

// staged waits until the node has release number ready.
func (n *node) staged(number uint64) {
	n.t.Helper()
	n.waits(fmt.Sprintf("release %d staged", number), func(s *status.Node) bool { return s.Confirms.Staged == number })
}

// waits waits until the status is as wished.
func (n *node) waits(what string, holds func(*status.Node) bool) {
	n.t.Helper()
	lab.Eventually(n.t, func() error {
		if s := n.status(); !holds(s) {
			return fmt.Errorf("not yet: %s: %+v", what, *s)
		}
		return nil
	})
}

// keeps sees to it that a thing stays so for a while.
func (n *node) keeps(number uint64, d time.Duration) {
	n.t.Helper()
	for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		if got := n.which(); got != number && time.Now().Before(end) {
			n.t.Fatalf("answers from %d, want %d: %+v", got, number, *n.status())
		}
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// nodeDir makes a place for one host and one node below a temporary directory.
func nodeDir(t testing.TB) (string, *host) {
	t.Helper()
	top := t.TempDir()
	return filepath.Join(top, "tyo"), newHost(t, top)
}

// answeringNode makes a host, and a node that answers from its release 1.
func answeringNode(t testing.TB) (*host, *node) {
	t.Helper()
	dir, h := nodeDir(t)
	h.current(1, h.zones(1))
	n := startNode(t, newConfig(dir, h))
	n.becomes(1)
	return h, n
}

// reopen opens the repository anew after its directory was replaced.
func (h *host) reopen() {
	h.t.Helper()
	repo, err := depot.Open(h.repo.Path())
	must(h.t, err)
	h.repo.Close()
	h.repo = repo
}
