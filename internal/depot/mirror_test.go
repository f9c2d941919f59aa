package depot

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/release"
)

// node mirrors a host's repository through a server whose answers a test may change.
type node struct {
	t      testing.TB
	dir    *Dir
	mem    release.Memory
	server *httptest.Server
	meddle func(w http.ResponseWriter, r *http.Request, h http.Handler) // nil: serve as it is
	asked  []string
}

func newNode(t testing.TB, h *host) *node {
	n := &node{t: t, dir: newDir(t), mem: h.root()}
	n.server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n.asked = append(n.asked, r.URL.Path)
		if n.meddle != nil {
			n.meddle(w, r, h.dir.Handler())
			return
		}
		h.dir.Handler().ServeHTTP(w, r)
	}))
	t.Cleanup(n.server.Close)
	return n
}

func (n *node) mirror() (bool, error) {
	n.t.Helper()
	n.asked = nil
	_, mem, changed, err := mirror(context.Background(), Source{Client: n.server.Client(), URL: n.server.URL, Deep: true}, n.dir, n.mem)
	n.mem = mem
	return changed, err
}

func (n *node) mustMirror(want bool) {
	n.t.Helper()
	changed, err := n.mirror()
	check(n.t, err)
	if changed != want {
		n.t.Fatalf("changed %v, want %v", changed, want)
	}
}

func TestMirrorFollowsAndSaysWhenNothingChanged(t *testing.T) {
	h := newHost(t)
	n := newNode(t, h)
	start := h.root()
	n.mustMirror(true)
	for number := uint64(1); number <= 4; number++ {
		h.release(number, 1000)
		n.mustMirror(true)
		if got := serves(t, n.dir, start); got != number {
			t.Fatalf("release %d, want %d", got, number)
		}
		n.mustMirror(false)
		h.renew()
		n.mustMirror(true)
	}
}

// A look ends a walk of roots by a 404. The connection is kept all the same: else each look of each node would take a handshake.
func TestLooksTakeOneConnection(t *testing.T) {
	h := newHost(t)
	h.release(1, 1000)
	var connections atomic.Int64
	server := httptest.NewUnstartedServer(h.dir.Handler())
	server.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			connections.Add(1)
		}
	}
	server.StartTLS()
	defer server.Close()
	for range 5 {
		check(t, Look(t.Context(), server.Client(), server.URL, h.root(), nil).Err())
	}
	if got := connections.Load(); got != 1 {
		t.Errorf("five looks took %d connections", got)
	}
}

func TestMirrorTakesAnUnchangedManifestFromMemory(t *testing.T) {
	h := newHost(t)
	h.release(1, 1000)
	n := newNode(t, h)
	n.mustMirror(true)
	h.renew()
	n.mustMirror(true)
	for _, path := range n.asked {
		if strings.HasPrefix(path, "/targets/") || strings.HasPrefix(path, "/blobs/") {
			t.Errorf("asked for %s again", path)
		}
	}
}

// TestMirrorInstallsNothingThatIsWrong meddles with each kind of file in each way; the node keeps what it has, names
// the reason, and catches up when the meddling ends.
func TestMirrorInstallsNothingThatIsWrong(t *testing.T) {
	ways := map[string]func(w http.ResponseWriter, data []byte){
		"truncated": func(w http.ResponseWriter, data []byte) { w.Write(data[:len(data)/2]) },
		"empty":     func(w http.ResponseWriter, data []byte) {},
		"corrupted": func(w http.ResponseWriter, data []byte) { data[len(data)/2] ^= 1; w.Write(data) },
		"endless": func(w http.ResponseWriter, data []byte) {
			for w.Write(bytes.Repeat([]byte(" "), 1<<20)); ; {
				if _, err := w.Write(bytes.Repeat([]byte(" "), 1<<20)); err != nil {
					return
				}
			}
		},
		"error":    func(w http.ResponseWriter, data []byte) { w.WriteHeader(500) },
		"cut off":  func(w http.ResponseWriter, data []byte) { w.Write(data[:len(data)/2]); panic(http.ErrAbortHandler) },
		"html":     func(w http.ResponseWriter, data []byte) { w.Write([]byte("<html>log in first</html>")) },
		"not here": func(w http.ResponseWriter, data []byte) { w.WriteHeader(404) },
	}
	for _, kind := range []string{"timestamp.json", "snapshot.json", "targets.json", "mesh.json"} {
		for name, way := range ways {
			if kind == "mesh.json" && name == "endless" {
				continue // its bound is 64 MiB; release tests the bound
			}
			t.Run(kind+" "+name, func(t *testing.T) {
				h := newHost(t)
				h.release(1, 1000)
				n := newNode(t, h)
				start := n.mem
				n.mustMirror(true)
				h.release(2, 1000)
				n.meddle = func(w http.ResponseWriter, r *http.Request, good http.Handler) {
					if !strings.Contains(r.URL.Path, kind) {
						good.ServeHTTP(w, r)
						return
					}
					recorded := httptest.NewRecorder()
					r.Header.Del("Range")
					good.ServeHTTP(recorded, r)
					way(w, recorded.Body.Bytes())
				}
				if changed, err := n.mirror(); err == nil || changed {
					t.Fatalf("changed %v, error %v", changed, err)
				}
				if got := serves(t, n.dir, start); got != 1 {
					t.Fatalf("release %d", got)
				}
				n.meddle = nil
				n.mustMirror(true)
				if got := serves(t, n.dir, start); got != 2 {
					t.Fatalf("release %d after it was right again", got)
				}
			})
		}
	}
}

// TestMirrorInstallsWhatItHasOfARelease: a zone that cannot be had, or not rightly, keeps neither the schedule nor the
// lease from the node, is reported each time, and is fetched when it is right.
func TestMirrorInstallsWhatItHasOfARelease(t *testing.T) {
	ways := map[string]func(w http.ResponseWriter, data []byte){
		"corrupted": func(w http.ResponseWriter, data []byte) { data[len(data)/2] ^= 1; w.Write(data) },
		"cut off":   func(w http.ResponseWriter, data []byte) { w.Write(data[:len(data)/2]); panic(http.ErrAbortHandler) },
		"not here":  func(w http.ResponseWriter, data []byte) { w.WriteHeader(404) },
	}
	for name, way := range ways {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			h.release(1, 1000)
			n := newNode(t, h)
			start := n.mem
			n.mustMirror(true)
			h.release(2, 1000)
			n.meddle = func(w http.ResponseWriter, r *http.Request, good http.Handler) {
				if !strings.Contains(r.URL.Path, "blobs/") {
					good.ServeHTTP(w, r)
					return
				}
				data, _ := fs.ReadFile(h.dir, r.URL.Path[1:])
				way(w, data)
			}
			for range 2 {
				if _, err := n.mirror(); err == nil {
					t.Fatal("no word of the zone that could not be had")
				}
			}
			view, _, err := release.Verify(n.dir, start)
			check(t, err)
			if view.Manifest.Current.Number != 2 || n.dir.HasBlob(view.Manifest.Current.Zones[0].Blob) {
				t.Fatalf("the depot names release %d, want 2 without its zone", view.Manifest.Current.Number)
			}
			h.renew()
			n.meddle = nil
			n.mustMirror(true)
			if got := serves(t, n.dir, start); got != 2 {
				t.Fatalf("release %d after it was right again", got)
			}
		})
	}
}

func TestMirrorRefusesAReplayedRepository(t *testing.T) {
	h := newHost(t)
	h.release(1, 100)
	n := newNode(t, h)
	old, err := fs.ReadFile(h.dir, release.TimestampName)
	check(t, err)
	h.release(2, 100)
	n.mustMirror(true)
	n.meddle = func(w http.ResponseWriter, r *http.Request, good http.Handler) {
		if strings.HasSuffix(r.URL.Path, "timestamp.json") {
			w.Write(old)
			return
		}
		good.ServeHTTP(w, r)
	}
	_, err = n.mirror()
	if rule, _ := release.RuleOf(err); rule != release.Rollback {
		t.Fatalf("got %v", err)
	}
}

func TestMirrorRepairsADamagedDepot(t *testing.T) {
	h := newHost(t)
	h.release(1, 1000)
	n := newNode(t, h)
	start := n.mem
	n.mustMirror(true)
	blob := release.BlobName(h.m.Current.Zones[0].Blob.SHA256)
	for _, name := range []string{release.TimestampName, blob} {
		check(t, os.Truncate(filepath.Join(n.dir.Path(), name), 10))
		n.mustMirror(true)
		if got := serves(t, n.dir, start); got != 1 {
			t.Fatalf("release %d", got)
		}
	}
	data, err := fs.ReadFile(n.dir, blob)
	check(t, err)
	data[len(data)/2] ^= 1
	check(t, os.WriteFile(filepath.Join(n.dir.Path(), blob), data, 0o600))
	h.renew() // the content of what is there is compared with each new lease
	n.mustMirror(true)
	check(t, n.dir.CheckBlob(h.m.Current.Zones[0].Blob))
}

func TestFetchGoesOnWhereItStopped(t *testing.T) {
	h := newHost(t)
	h.release(1, 1<<20)
	n := newNode(t, h)
	blob := h.m.Current.Zones[0].Blob
	cut := blob.Length / 3
	n.meddle = func(w http.ResponseWriter, r *http.Request, good http.Handler) {
		if !strings.Contains(r.URL.Path, "blobs/") {
			good.ServeHTTP(w, r)
			return
		}
		data, _ := fs.ReadFile(h.dir, r.URL.Path[1:])
		w.Write(data[:cut])
		panic(http.ErrAbortHandler)
	}
	if _, err := n.mirror(); err == nil {
		t.Fatal("a download that was cut off succeeded")
	}
	var ranges []string
	n.meddle = func(w http.ResponseWriter, r *http.Request, good http.Handler) {
		if got := r.Header.Get("Range"); got != "" {
			ranges = append(ranges, got)
		}
		good.ServeHTTP(w, r)
	}
	n.mustMirror(true)
	if len(ranges) != 1 || !strings.HasPrefix(ranges[0], "bytes=") || ranges[0] == "bytes=0-" {
		t.Fatalf("ranges asked for: %q", ranges)
	}
}

// TestADamagedPartIsFetchedAnew: what lies there of a blob is blank, of another blob, too long, or no file that could be one.
func TestADamagedPartIsFetchedAnew(t *testing.T) {
	h := newHost(t)
	h.release(1, 10_000)
	blob := h.zonesOf(t)[0].Blob
	for what, put := range map[string]func(path string) error{
		"empty":       func(path string) error { return os.WriteFile(path, nil, 0o644) },
		"blank":       func(path string) error { return os.WriteFile(path, make([]byte, blob.Length/2), 0o644) },
		"whole":       func(path string) error { return os.WriteFile(path, make([]byte, blob.Length), 0o644) },
		"too long":    func(path string) error { return os.WriteFile(path, make([]byte, 2*blob.Length), 0o644) },
		"a pipe":      func(path string) error { return syscall.Mkfifo(path, 0o644) },
		"a link":      func(path string) error { return os.Symlink("/dev/zero", path) },
		"a directory": func(path string) error { return os.Mkdir(path, 0o755) },
	} {
		t.Run(what, func(t *testing.T) {
			n := newNode(t, h)
			check(t, put(filepath.Join(n.dir.Path(), partName(blob))))
			n.mustMirror(true)
			if got := serves(t, n.dir, h.root()); got != 1 {
				t.Errorf("release %d", got)
			}
		})
	}
}

func TestFetchGivesUpWithItsContext(t *testing.T) {
	h := newHost(t)
	h.release(1, 1000)
	n := newNode(t, h)
	hang := make(chan struct{})
	defer close(hang)
	ctx, cancel := context.WithCancelCause(context.Background())
	n.meddle = func(w http.ResponseWriter, r *http.Request, good http.Handler) {
		if strings.Contains(r.URL.Path, "blobs/") {
			cancel(context.DeadlineExceeded)
			<-hang
		}
		good.ServeHTTP(w, r)
	}
	_, _, _, err := mirror(ctx, Source{Client: n.server.Client(), URL: n.server.URL, Deep: true}, n.dir, n.mem)
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got %v", err)
	}
}

func TestCollectKeepsCurrentNextAndPrevious(t *testing.T) {
	h := newHost(t)
	n := newNode(t, h)
	var blobs []release.Blob
	for number := uint64(1); number <= 4; number++ {
		h.release(number, 1000)
		blobs = append(blobs, h.m.Current.Zones[0].Blob)
		n.mustMirror(true)
		h.renew() // a lease renewed must not make the previous release forgotten
		n.mustMirror(true)
	}
	for i, want := range []bool{false, false, true, true} {
		if got := n.dir.HasBlob(blobs[i]); got != want {
			t.Errorf("release %d kept %v, want %v", i+1, got, want)
		}
	}
	entries, err := os.ReadDir(filepath.Join(n.dir.Path(), "metadata"))
	check(t, err)
	if len(entries) > 5 { // timestamp, two snapshots, two targets; the root is the node's own
		t.Errorf("metadata grows: %v", entries)
	}
}

// mirrorJob mirrors from a directory served on loopback.
func mirrorJob(dir, from string) error {
	source, err := Open(from)
	if err != nil {
		return err
	}
	ctx, end := context.WithCancel(context.Background())
	defer end()
	server := httptest.NewServer(NewHolder(ctx, source, time.Second))
	defer server.Close()
	d, err := Create(dir)
	if err != nil {
		return err
	}
	root, err := fs.ReadFile(source, release.RootName(1))
	if err != nil {
		return err
	}
	mem, err := release.NewMemory(root)
	if err != nil {
		return err
	}
	known := &Known{offers: map[string]offer{server.URL: {made: true}}}
	_, _, _, err = mirror(ctx, Source{Client: server.Client(), URL: server.URL, Known: known}, d, mem)
	return err
}

func TestMirrorKilledAtAnyStepLeavesOldOrNewAndCanBeRepeated(t *testing.T) {
	for n := 1; n < maxSteps; n++ {
		h := newHost(t)
		h.release(1, 1000)
		dir := newDir(t)
		check(t, mirrorJob(dir.Path(), h.dir.Path()))
		h.release(2, 1000)
		done := crashed(t, "mirror", dir.Path(), h.dir.Path(), n)
		if got := serves(t, dir, h.root()); got != 1 && got != 2 || done && got != 2 {
			t.Fatalf("step %d: release %d", n, got)
		}
		check(t, mirrorJob(dir.Path(), h.dir.Path()))
		if got := serves(t, dir, h.root()); got != 2 {
			t.Fatalf("step %d, repeated: release %d", n, got)
		}
		if done {
			return
		}
	}
	t.Fatal("never done")
}

// TestABucketThatMayNotBeListedIsMirrored: it says 403 of what it does not have. That ends the walk of the roots, and is no
// excuse for any other file.
func TestABucketThatMayNotBeListedIsMirrored(t *testing.T) {
	h := newHost(t)
	h.release(1, 1000)
	var refused atomic.Value
	refused.Store("")
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		recorded := httptest.NewRecorder()
		h.dir.Handler().ServeHTTP(recorded, r)
		if recorded.Code == http.StatusNotFound || strings.HasSuffix(r.URL.Path, refused.Load().(string)) && refused.Load() != "" {
			http.Error(w, "AccessDenied", http.StatusForbidden)
			return
		}
		w.Write(recorded.Body.Bytes())
	}))
	defer server.Close()
	node := newDir(t)
	view, mem, _, err := mirror(t.Context(), Source{Client: server.Client(), URL: server.URL}, node, h.root())
	check(t, err)
	if view.Manifest.Current.Number != 1 {
		t.Fatalf("mirrored %v", view)
	}
	for _, name := range []string{"timestamp.json", "snapshot.json", "targets.json", "mesh.json"} {
		h.release(h.m.Current.Number+1, 1000)
		refused.Store(name)
		if _, _, _, err := mirror(t.Context(), Source{Client: server.Client(), URL: server.URL}, node, mem); err == nil || !strings.Contains(err.Error(), "403 Forbidden") {
			t.Errorf("%s is kept back: %v", name, err)
		}
	}
}

func TestHandlerServesTheRepositoryAndNothingElse(t *testing.T) {
	h := newHost(t)
	h.release(1, 1000)
	check(t, os.WriteFile(filepath.Join(h.dir.Path(), "secret"), []byte("x"), 0o600))
	get := func(method, path string) *http.Response {
		recorded := httptest.NewRecorder()
		h.dir.Handler().ServeHTTP(recorded, httptest.NewRequest(method, path, nil))
		return recorded.Result()
	}
	blob := "/" + release.BlobName(h.m.Current.Zones[0].Blob.SHA256)
	for _, test := range []struct {
		method, path string
		want         int
	}{
		{"GET", "/metadata/timestamp.json", 200},
		{"HEAD", "/metadata/1.root.json", 200},
		{"GET", blob, 200},
		{"POST", "/metadata/timestamp.json", 405},
		{"DELETE", blob, 405},
		{"GET", "/", 404},
		{"GET", "/secret", 404},
		{"GET", "/metadata/", 404},
		{"GET", "/metadata/9.root.json", 404},
		{"GET", "/metadata/../secret", 404},
		{"GET", "/.lock", 404},
	} {
		response := get(test.method, test.path)
		io.Copy(io.Discard, response.Body)
		if response.StatusCode != test.want {
			t.Errorf("%s %s: %d, want %d", test.method, test.path, response.StatusCode, test.want)
		}
	}
}

// TestMirrorInstallsARootThatComesAlone: a network that fails between a new root and the rest costs nothing but time. The
// root is not asked for again, and without it whoever reads the depot could never follow.
func TestMirrorInstallsARootThatComesAlone(t *testing.T) {
	h := newHost(t)
	h.release(1, 1000)
	n := newNode(t, h)
	start := h.root()
	n.mustMirror(true)
	h.rotate()
	n.meddle = func(w http.ResponseWriter, r *http.Request, whole http.Handler) {
		if strings.HasSuffix(r.URL.Path, "/timestamp.json") {
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		whole.ServeHTTP(w, r)
	}
	if changed, err := n.mirror(); err == nil || !changed {
		t.Fatalf("without a timestamp: changed %v, %v", changed, err)
	}
	n.meddle = nil
	n.mustMirror(true)
	if got := serves(t, n.dir, start); got != 1 {
		t.Errorf("release %d", got)
	}
}

// rotate replaces the lease key.
func (h *host) rotate() {
	h.t.Helper()
	fresh, err := release.GenerateKeys(rand.NewChaCha8([32]byte{1}))
	check(h.t, err)
	trust, err := release.TrustOf(h.mem.Root)
	check(h.t, err)
	h.keys.Lease = fresh.Lease
	trust.Lease = h.keys.Lease.Public().(ed25519.PublicKey)
	draft, err := release.DraftRoot(h.mem.Root, trust)
	check(h.t, err)
	root, err := release.SignRoot(draft, h.keys.Root)
	check(h.t, err)
	files, mem, err := release.Rotate(h.mem, root, h.keys.Signers(), ends())
	check(h.t, err)
	check(h.t, publish(h.dir, files))
	h.mem = mem
}

// mirror looks at a repository and takes what is there.
func mirror(ctx context.Context, from Source, d *Dir, mem release.Memory) (release.View, release.Memory, bool, error) {
	return Look(ctx, from.Client, from.URL, mem, d).Take(ctx, from, d, mem)
}

// TestAMirrorSaysWhatIsInTheWay: a repository that refuses the connection, or this node, is no matter of a disk and its permissions.
func TestAMirrorSaysWhatIsInTheWay(t *testing.T) {
	h := newHost(t)
	h.release(1, 1000)
	n := newNode(t, h)
	n.meddle = func(w http.ResponseWriter, r *http.Request, serve http.Handler) {
		if strings.HasSuffix(r.URL.Path, ".root.json") {
			serve.ServeHTTP(w, r)
			return
		}
		http.Error(w, `"tyo1": not a member of this mesh`, http.StatusForbidden)
	}
	expect := func(what string, wants ...string) {
		t.Helper()
		_, err := n.mirror()
		if rule, _ := release.RuleOf(err); rule != release.Unreadable || strings.Contains(err.Error(), "disk") {
			t.Errorf("%s: %v", what, err)
		}
		for _, want := range wants {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v, want %q", what, err, want)
			}
		}
	}
	expect("one that refuses the node", `the server said 403 Forbidden: "tyo1": not a member of this mesh (this node may not read there`)
	n.meddle = func(w http.ResponseWriter, r *http.Request, _ http.Handler) { w.WriteHeader(http.StatusBadGateway) }
	expect("one that is broken", "502 Bad Gateway (see the log of that server)")
	n.server.Close()
	expect("one that has ended", "connection refused (nothing listens there: start meshctl serve")
}
