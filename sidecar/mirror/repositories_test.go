package mirror

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/lab"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
	"github.com/coredns-anycast/coredns-anycast/internal/testca"
)

// stateOf is what the mirror says of a repository.
func stateOf(t *testing.T, m *Mirror, url string) status.Repository {
	t.Helper()
	for _, r := range m.Status().Repositories {
		if r.URL == url {
			return r
		}
	}
	t.Fatalf("nothing is said of %s", url)
	return status.Repository{}
}

// A repository that stands still, as a CDN does that serves what it kept, holds no node until its lease ends (FAIL-4): the
// newest timestamp wins, wherever it is configured. After a minute the one that stands still is named.
func TestARepositoryThatStandsStillHoldsNobody(t *testing.T) {
	ca := testca.New(t)
	h := newHost(t, ca)
	h.release(1)
	stale := h.copy(ca)
	m := h.mirror(ca, stale, h.url)
	var log bytes.Buffer
	m.log = slog.New(slog.NewTextHandler(&log, nil))
	lab.Must(t, m.round(t.Context()))
	if got := m.Status().URL; got != stale {
		t.Fatalf("of two that are the same %s is taken, want the first", got)
	}
	for range 3 {
		h.renew()
		lab.Must(t, m.round(t.Context()))
		if got := lease(t, m, h.mem.Root); got != h.timestamp() {
			t.Fatalf("lease %d, want %d", got, h.timestamp())
		}
	}
	if s := stateOf(t, m, stale); s.State != Good {
		t.Errorf("behind for a moment: %+v", s)
	}
	m.mu.Lock()
	m.repositories[0].behind = time.Now().Add(-behindAfter)
	m.mu.Unlock()
	m.judge()
	if s := stateOf(t, m, stale); s.State != Behind || !strings.Contains(s.Detail, "stands still") || s.Timestamp != 2 {
		t.Errorf("behind for a minute: %+v", s)
	}
	if s := stateOf(t, m, h.url); s.State != Good || s.Timestamp != h.timestamp() {
		t.Errorf("the one that goes on: %+v", s)
	}
	if !strings.Contains(log.String(), "level=WARN") || !strings.Contains(log.String(), stale) {
		t.Errorf("the log does not name it: %s", &log)
	}
}

func (h *host) timestamp() int64 { return h.mem.TimestampVersion(h.mem.Timestamp) }

// One whose answers do not come keeps nobody waiting, neither for metadata nor for zones; what it says at last counts if it
// is newer.
func TestARepositoryThatHangsHoldsNobody(t *testing.T) {
	ca := testca.New(t)
	h := newHost(t, ca)
	var hold sync.RWMutex // answers wait for it
	hangs := serve(t, ca, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		hold.RLock()
		defer hold.RUnlock()
		h.dir.Handler().ServeHTTP(w, r)
	}), new(atomic.Bool))
	m := h.mirror(ca, hangs, h.url)
	hold.Lock()
	for range 3 {
		h.renew()
		lab.Must(t, m.round(t.Context()))
		if got := lease(t, m, h.mem.Root); got != h.timestamp() || m.Status().URL != h.url {
			t.Fatalf("lease %d of %s, want %d", got, m.Status().URL, h.timestamp())
		}
	}
	m.mu.Lock()
	m.repositories[0].since = time.Now().Add(-slowLook)
	m.mu.Unlock()
	m.judge()
	if s := stateOf(t, m, hangs); s.State != Slow {
		t.Errorf("%+v", s)
	}
	hold.Unlock()

	// Now the other one stands still, and the loop does not wait for its interval, which is an hour.
	stale := h.copy(ca)
	m.cfg.URLs = []string{hangs, stale}
	m = New(m.cfg, m.log)
	hold.Lock()
	h.renew()
	ctx, cancel := context.WithCancel(t.Context())
	var loop sync.WaitGroup
	loop.Go(func() { m.Run(ctx) })
	defer loop.Wait()
	defer cancel()
	for end := time.Now().Add(20 * time.Second); m.Status().URL != stale; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%+v", m.Status())
		}
	}
	hold.Unlock()
	for end := time.Now().Add(20 * time.Second); m.Status().URL != hangs; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%+v", m.Status())
		}
	}
	if got := lease(t, m, h.mem.Root); got != h.timestamp() {
		t.Errorf("lease %d, want %d", got, h.timestamp())
	}
}

// big publishes a release of a zone that cannot be packed.
func (h *host) big(n uint64, octets int) {
	h.t.Helper()
	text := fmt.Sprintf("example.org.\t300\tIN\tSOA\tns1.example.org. hostmaster.example.org. %d 7200 3600 1209600 300\nexample.org.\t300\tIN\tNS\tns1.test.\n", n)
	random := make([]byte, 150)
	for i := 0; len(text) < octets; i++ {
		rand.Read(random)
		text += fmt.Sprintf("n%06d.example.org.\t300\tIN\tTXT\t\"%s\"\n", i, base64.RawURLEncoding.EncodeToString(random))
	}
	c, err := h.dir.PutBlob(func(w io.Writer) error { _, err := io.WriteString(w, text); return err })
	lab.Must(h.t, err)
	files, mem, err := release.Publish(h.mem, release.Manifest{Format: release.ManifestFormat, Mesh: "jp", EpsilonMS: 100,
		Current: &release.Release{Number: n, Switchover: time.Now().UTC().Truncate(time.Microsecond),
			Zones: []release.Zone{{Origin: "example.org.", Serial: uint32(n), SHA256: c.SHA256, Length: c.Length, Blob: c.Blob}}}}, h.by, ends())
	lab.Must(h.t, err)
	h.publish(files, mem)
}

// A repository that is as new as others and sends 1500 octets a second of a zone, too much to be given up, is left for a quicker one after
// the budget of a round; what it sent is not fetched again.
func TestARepositoryThatTricklesHoldsNobody(t *testing.T) {
	ca := testca.New(t)
	h := newHost(t, ca)
	h.big(1, 1<<20)
	trickled := atomic.Int64{}
	trickles := serve(t, ca, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		recorded := httptest.NewRecorder()
		h.dir.Handler().ServeHTTP(recorded, r)
		for name, value := range recorded.Header() {
			w.Header()[name] = value
		}
		w.WriteHeader(recorded.Code)
		if !strings.Contains(r.URL.Path, "/blobs/") {
			w.Write(recorded.Body.Bytes())
			return
		}
		for b := recorded.Body.Bytes(); len(b) > 0; time.Sleep(100 * time.Millisecond) {
			n := min(150, len(b))
			if _, err := w.Write(b[:n]); err != nil {
				return
			}
			w.(http.Flusher).Flush()
			trickled.Add(int64(n))
			b = b[n:]
		}
	}), new(atomic.Bool))
	m := h.mirror(ca, trickles, h.url)
	m.SetInterval(100 * time.Millisecond)
	ctx, cancel := context.WithCancel(t.Context())
	var loop sync.WaitGroup
	loop.Go(func() { m.Run(ctx) })
	defer loop.Wait()
	defer cancel()
	for end := time.Now().Add(60 * time.Second); m.Status().Mirrored == nil; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("of a zone that takes ten minutes from one and a moment from the other: %+v", m.Status())
		}
	}
	if trickled.Load() == 0 {
		t.Error("nothing came from the one that trickles, so nothing was shown")
	}
	cancel()
	loop.Wait()
	h.big(2, 1<<20)
	trickled.Store(0)
	m.cfg.URLs = []string{h.url, trickles}
	m = New(m.cfg, m.log)
	lab.Must(t, m.round(t.Context()))
	if n := trickled.Load(); n > 0 {
		t.Errorf("%d octets from the slow one though the quick one comes first", n)
	}
}

// What a repository claims is verified before it counts: one with a timestamp of its own making keeps nobody from the others.
func TestARepositoryThatLiesHoldsNobody(t *testing.T) {
	ca := testca.New(t)
	h, other := newHost(t, ca), newHost(t, ca)
	for range 5 {
		other.renew() // newer, by other keys
	}
	m := h.mirror(ca, other.url, h.url)
	for range 2 {
		lab.Must(t, m.round(t.Context()))
		if got := lease(t, m, h.mem.Root); got != h.timestamp() || m.Status().URL != h.url {
			t.Fatalf("lease %d of %s", got, m.Status().URL)
		}
		h.renew()
	}
	if s := stateOf(t, m, other.url); s.State != Unusable || s.Detail == "" || s.Timestamp != 0 {
		t.Errorf("%+v", s)
	}
}

// Whoever has stolen keys, and has one of the repositories serve what he signs, gives his timestamps as high versions as there are.
// Where another repository has a root that takes the keys away, that wins, also while something else of it is not there yet.
func TestANewerRootGoesBeforeAHigherTimestamp(t *testing.T) {
	for _, whole := range []bool{true, false} {
		ca := testca.New(t)
		h := newHost(t, ca)
		h.release(1)
		before := h.mem
		m := h.mirror(ca, h.copy(ca), h.url)
		for range 3 {
			h.renew()
		}
		m.cfg.URLs[0] = h.copy(ca) // the thief's
		m = New(m.cfg, m.log)
		lab.Must(t, m.round(t.Context()))
		high := h.timestamp()

		// The mesh's own host, which knows of nothing, replaces the keys.
		fresh, err := release.GenerateKeys(rand.Reader)
		lab.Must(t, err)
		trust, err := release.TrustOf(before.Root)
		lab.Must(t, err)
		trust.Release, trust.Lease = fresh.Release.Public().(ed25519.PublicKey), fresh.Lease.Public().(ed25519.PublicKey)
		root, err := release.DraftRoot(before.Root, trust)
		lab.Must(t, err)
		root, err = release.SignRoot(root, h.by.Root)
		lab.Must(t, err)
		files, mem, err := release.Rotate(before, root, fresh.Signers(), ends())
		lab.Must(t, err)
		if !whole {
			files = files[:1]
		}
		h.publish(files, mem)
		err = m.round(t.Context())
		if memory, _ := m.remembered(); !bytes.Equal(memory.Root, root) {
			t.Errorf("whole %v: the newer root was not taken", whole)
		}
		switch {
		case whole:
			lab.Must(t, err)
			if got := lease(t, m, root); got != h.timestamp() || got >= high || m.Status().URL != h.url {
				t.Errorf("lease %d of %s, want %d, below the thief's %d", got, m.Status().URL, h.timestamp(), high)
			}
		case err == nil:
			t.Error("nothing is signed by the new keys, and a repository was good")
		}
		m.judge()
		if s := stateOf(t, m, h.url); whole && s.State != Good {
			t.Errorf("%+v", s)
		}
		if s := stateOf(t, m, m.cfg.URLs[0]); s.State == Good && whole {
			lab.Must(t, m.round(t.Context()))
			if s := stateOf(t, m, m.cfg.URLs[0]); s.State != Unusable {
				t.Errorf("the thief's: %+v", s)
			}
		}
	}
}

// TestAServerThatSaysMuch has no node say much: a host takes no word of a member that is longer than a megabyte, and so one server, which need not be
// trusted for what it serves, could keep all that follow it from switching.
func TestAServerThatSaysMuch(t *testing.T) {
	ca := testca.New(t)
	for name, says := range map[string]string{"more than a header may be": strings.Repeat("x", 2<<20), "less": strings.Repeat("x", 50_000), "no UTF-8": strings.Repeat("\x80", 50_000)} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t, ca)
			much := serve(t, ca, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				conn, _, err := http.NewResponseController(w).Hijack()
				if err == nil {
					fmt.Fprintf(conn, "HTTP/1.1 500 %s\r\nContent-Length: 0\r\n\r\n", says)
					conn.Close()
				}
			}), new(atomic.Bool))
			for _, urls := range [][]string{{much}, {much, h.url}} {
				m := h.mirror(ca, urls...)
				err := m.round(t.Context())
				s := m.Status()
				if said := len(s.LastError) + len(s.Repositories[0].Detail); (err == nil) != (len(urls) == 2) || said < 20 || said > 2*status.MaxText {
					t.Errorf("%d repositories: %d octets are said, and the error has %d", len(urls), said, len(fmt.Sprint(err)))
				}
				if err != nil && len(err.Error()) > 1<<20 {
					t.Errorf("an error of %d octets", len(err.Error()))
				}
			}
		})
	}
}
