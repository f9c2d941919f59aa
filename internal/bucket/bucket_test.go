package bucket

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/depot"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
)

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func open(t testing.TB, from string) *Bucket {
	t.Helper()
	b, err := Open(t.Context(), from)
	check(t, err)
	t.Cleanup(func() { b.Close() })
	return b
}

// TestOneWriterWins: writers who count together by Swap lose no count, and of those who create a file one wins.
func TestOneWriterWins(t *testing.T) {
	server := testenv.StartS3(t)
	const writers, each = 6, 20
	check(t, open(t, server.URL("a/b")).Prove())
	check(t, open(t, server.URL("a/b")).Create("count", []byte("0 by nobody")))
	var created atomic.Int32
	var all sync.WaitGroup
	for w := range writers {
		b := open(t, server.URL("a/b"))
		all.Go(func() {
			if err := b.Create("first", []byte(strconv.Itoa(w))); err == nil {
				created.Add(1)
			} else if !errors.Is(err, depot.ErrExists) {
				t.Error(err)
			}
			for range each {
				count(t, b, w)
			}
		})
	}
	all.Wait()
	data, _, err := open(t, server.URL("a/b")).Read("count", 100)
	check(t, err)
	if n, _, _ := strings.Cut(string(data), " "); n != strconv.Itoa(writers*each) || created.Load() != 1 {
		t.Errorf("%s counted, want %d; %d created, want 1", data, writers*each, created.Load())
	}
	if _, err := os.Stat(filepath.Join(server.Dir, "a/b/count")); err != nil {
		t.Error(err)
	}
}

// count adds one, however often another is first.
func count(t *testing.T, b *Bucket, writer int) {
	for {
		data, tag, err := b.Read("count", 100)
		n := 0
		fmt.Sscan(string(data), &n)
		if err == nil {
			_, err = b.Swap(t.Context(), "count", fmt.Appendf(nil, "%d by %d", n+1, writer), tag)
		}
		if err == nil {
			return
		}
		if !errors.Is(err, depot.ErrChanged) {
			t.Error(err)
			return
		}
	}
}

// proxy is a server before the real one. handle may answer itself, or pass on.
func proxy(t *testing.T, server *testenv.S3, handle func(pass http.Handler, w http.ResponseWriter, r *http.Request)) string {
	t.Helper()
	pass := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: server.Address})
	p := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { handle(pass, w, r) }))
	t.Cleanup(p.Close)
	return testenv.S3URL(server.Bucket, "p", p.Listener.Addr().String())
}

// TestAnswersThatAreLost: a write that was carried out and whose answer never came is repeated, and is no other writer's.
func TestAnswersThatAreLost(t *testing.T) {
	server := testenv.StartS3(t)
	var lose atomic.Bool
	b := open(t, proxy(t, server, func(pass http.Handler, w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPut || !lose.Swap(false) {
			pass.ServeHTTP(w, r)
			return
		}
		pass.ServeHTTP(httptest.NewRecorder(), r)
		panic(http.ErrAbortHandler)
	}))
	lose.Store(true)
	check(t, b.Create("x", []byte("one")))
	tag, err := b.Tag("x")
	check(t, err)
	lose.Store(true)
	fresh, err := b.Swap(t.Context(), "x", []byte("two"), tag)
	check(t, err)
	if now, err := b.Tag("x"); err != nil || now != fresh || lose.Load() {
		t.Fatalf("the tag is %q, %v; Swap said %q", now, err, fresh)
	}
	if _, err := b.Swap(t.Context(), "x", []byte("three"), tag); !errors.Is(err, depot.ErrChanged) {
		t.Fatalf("a condition that fails: %v", err)
	}
	if _, err := b.Swap(t.Context(), "absent", []byte("three"), tag); !errors.Is(err, depot.ErrChanged) {
		t.Fatalf("what is not there: %v", err)
	}
}

// TestManyFilesAreCreatedAtATime: the server answers when as many have come as may at once. What is there is no error, unless it is something else.
func TestManyFilesAreCreatedAtATime(t *testing.T) {
	server := testenv.StartS3(t)
	var mu sync.Mutex
	var gated atomic.Bool
	gated.Store(true)
	waiting, gate := 0, make(chan struct{})
	from := proxy(t, server, func(pass http.Handler, w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPut && gated.Load() {
			mu.Lock()
			waiting++
			mine := gate
			if waiting == createsAtOnce {
				close(gate)
				waiting, gate = 0, make(chan struct{})
			}
			mu.Unlock()
			select {
			case <-mine:
			case <-r.Context().Done():
			case <-time.After(10 * time.Second):
				t.Error("too few come at once")
			}
		}
		pass.ServeHTTP(w, r)
	})
	var files []release.File
	for i := range 2 * createsAtOnce {
		files = append(files, release.File{Name: fmt.Sprintf("targets/%d", i), Data: []byte(strconv.Itoa(i))})
	}
	b := open(t, from)
	check(t, b.CreateAll(files))
	gated.Store(false)
	check(t, b.CreateAll(files))
	for _, f := range files {
		if data, _, err := b.Read(f.Name, 10); err != nil || !bytes.Equal(data, f.Data) {
			t.Errorf("%s: %q, %v", f.Name, data, err)
		}
	}
	files[3].Data = []byte("other")
	if err := b.CreateAll(files); !errors.Is(err, depot.ErrExists) {
		t.Errorf("created again: %v", err)
	}
}

// TestADamagedNodeIsReplaced: what is there under the name of a node of a tree, and is not what that says, was not put there by another host.
func TestADamagedNodeIsReplaced(t *testing.T) {
	b := open(t, testenv.StartS3(t).URL("a"))
	data := []byte("[]\n")
	node := release.File{Name: release.NodeName(release.DigestOf(data)), Data: data}
	for _, damage := range []string{"[}\n", "", "longer than it may be"} {
		check(t, b.Remove(node.Name))
		check(t, b.Create(node.Name, []byte(damage)))
		check(t, b.CreateAll([]release.File{node}))
		if there, _, err := b.Read(node.Name, 100); err != nil || !bytes.Equal(there, data) {
			t.Errorf("%q in place of %q: %v", there, damage, err)
		}
	}
}

// TestSwapIsGivenUpInTime: a server that does not answer keeps nobody longer than he says.
func TestSwapIsGivenUpInTime(t *testing.T) {
	server := testenv.StartS3(t)
	var hang atomic.Bool
	b := open(t, proxy(t, server, func(pass http.Handler, w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPut && hang.Load() {
			io.Copy(io.Discard, r.Body) // so that the end of the connection is seen
			<-r.Context().Done()
			return
		}
		pass.ServeHTTP(w, r)
	}))
	check(t, b.Create("x", []byte("one")))
	tag, err := b.Tag("x")
	check(t, err)
	hang.Store(true)
	late := errors.New("too late")
	ctx, cancel := context.WithTimeoutCause(t.Context(), 100*time.Millisecond, late)
	defer cancel()
	if _, err := b.Swap(ctx, "x", []byte("two"), tag); !errors.Is(err, late) {
		t.Fatalf("got %v", err)
	}
}

// TestAServerThatIgnoresConditionsIsRefused: it would let two hosts publish over each other.
func TestAServerThatIgnoresConditionsIsRefused(t *testing.T) {
	for _, honours := range []string{"nothing", "If-None-Match"} {
		t.Run(honours, func(t *testing.T) {
			server := httptest.NewServer(careless(honours))
			defer server.Close()
			t.Setenv("AWS_ACCESS_KEY_ID", "k")
			t.Setenv("AWS_SECRET_ACCESS_KEY", "s")
			err := open(t, testenv.S3URL("mesh-bucket", "", server.Listener.Addr().String())).Prove()
			if err == nil || !strings.Contains(err.Error(), "does not honour If-") {
				t.Fatalf("got %v", err)
			}
		})
	}
}

// careless keeps objects, and honours one condition at the most.
func careless(honours string) http.Handler {
	var guard sync.Mutex
	objects := map[string][]byte{}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		guard.Lock()
		defer guard.Unlock()
		data, ok := objects[r.URL.Path]
		switch {
		case r.Method == http.MethodPut && ok && r.Header.Get(honours) != "":
			w.WriteHeader(http.StatusPreconditionFailed)
		case r.Method == http.MethodPut:
			body, _ := io.ReadAll(r.Body)
			objects[r.URL.Path] = body
			w.Header().Set("ETag", `"`+release.DigestOf(body).String()+`"`)
		case !ok:
			w.WriteHeader(http.StatusNotFound)
		default:
			w.Header().Set("ETag", `"`+release.DigestOf(data).String()+`"`)
			w.Header().Set("Last-Modified", time.Now().UTC().Format(http.TimeFormat))
			w.Write(data)
		}
	})
}

// host makes releases in a bucket.
type host struct {
	t    *testing.T
	b    *Bucket
	keys release.Keys
	mem  release.Memory
	m    release.Manifest
	next uint64
}

func newHost(t *testing.T, b *Bucket) *host {
	t.Helper()
	keys, err := release.GenerateKeys(rand.NewChaCha8([32]byte{}))
	check(t, err)
	h := &host{t: t, b: b, keys: keys, m: release.Manifest{Format: release.ManifestFormat, Mesh: "jp", EpsilonMS: 100}}
	files, mem, err := release.Init(h.m, keys.Signers(), ends())
	check(t, err)
	h.put(files)
	h.mem = mem
	return h
}

func ends() release.Expiries {
	year := time.Now().AddDate(1, 0, 0)
	return release.Expiries{Root: year, Targets: year, Snapshot: year, Timestamp: time.Now().AddDate(0, 0, 1)}
}

func (h *host) put(files []release.File) {
	h.t.Helper()
	for _, f := range files {
		if f.Replaces() {
			if tag, err := h.b.Tag(f.Name); err == nil {
				_, err := h.b.Swap(h.t.Context(), f.Name, f.Data, tag)
				check(h.t, err)
				continue
			}
		}
		check(h.t, h.b.Create(f.Name, f.Data))
	}
}

// release publishes zones as the next release, which is current at once.
func (h *host) release(zones ...release.Zone) release.View {
	h.t.Helper()
	h.next++
	h.m.Current = &release.Release{Number: h.next, Switchover: time.Now().UTC().Truncate(time.Microsecond), Zones: zones}
	files, mem, err := release.Publish(h.mem, h.m, h.keys.Signers(), ends())
	check(h.t, err)
	h.put(files)
	h.mem = mem
	view, _, err := release.Restore(mem, h.b)
	check(h.t, err)
	return view
}

// zone stores a zone of size bytes that do not pack well.
func (h *host) zone(serial uint32, size int) release.Zone {
	h.t.Helper()
	c, err := h.b.PutBlob(text(serial, size))
	check(h.t, err)
	return release.Zone{Origin: "example.org.", Serial: serial, SHA256: c.SHA256, Length: c.Length, Blob: c.Blob}
}

func text(serial uint32, size int) func(io.Writer) error {
	return func(w io.Writer) error {
		_, err := io.CopyN(w, rand.NewChaCha8([32]byte{byte(serial)}), int64(size))
		return err
	}
}

// TestNodesMirrorThroughAServer: what a bucket holds is served with ranges, so that a download goes on where it stopped, and
// a blob of several parts comes as it went.
func TestNodesMirrorThroughAServer(t *testing.T) {
	server := testenv.StartS3(t)
	b := open(t, server.URL("mesh"))
	h := newHost(t, b)
	z := h.zone(1, 40<<20)
	h.release(z)
	var ranges atomic.Int32
	handler := depot.Handler(b)
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Range") != "" {
			ranges.Add(1)
		}
		handler.ServeHTTP(w, r)
	}))
	defer web.Close()
	node, err := depot.Create(t.TempDir())
	check(t, err)
	defer node.Close()
	whole, err := os.ReadFile(filepath.Join(server.Dir, "mesh", release.BlobName(z.Blob.SHA256)))
	check(t, err)
	check(t, os.WriteFile(filepath.Join(node.Path(), "blobs/sha256/.part-"+z.Blob.SHA256.String()), whole[:len(whole)/3], 0o600))
	mem, err := release.NewMemory(h.mem.Root)
	check(t, err)
	view, _, _, err := depot.Look(t.Context(), web.Client(), web.URL, mem, nil).Take(t.Context(), depot.Source{Client: web.Client(), URL: web.URL}, node, mem)
	check(t, err)
	check(t, node.CheckBlob(z.Blob))
	if view.Manifest.Current.Number != 1 || ranges.Load() != 1 {
		t.Errorf("mirrored %v with %d ranges", view, ranges.Load())
	}
	response, err := web.Client().Get(web.URL + "/" + release.BlobName(release.Digest{1}))
	check(t, err)
	response.Body.Close()
	if response.StatusCode != http.StatusNotFound {
		t.Errorf("what is not there: %s", response.Status)
	}
	if _, _, err := release.Verify(b, mem); err != nil { // it is an fs.FS as well
		t.Error(err)
	}
}

// TestCollectSparesWhatAnotherHostMayBeAboutToName: by age, and what is found old by who is about to name it is made young.
func TestCollectSparesWhatAnotherHostMayBeAboutToName(t *testing.T) {
	server := testenv.StartS3(t)
	b := open(t, server.URL("mesh"))
	h := newHost(t, b)
	file := func(z release.Zone) string { return filepath.Join(server.Dir, "mesh", release.BlobName(z.Blob.SHA256)) }
	age := func(name string, d time.Duration) {
		t.Helper()
		check(t, os.Chtimes(name, time.Now().Add(-d), time.Now().Add(-d)))
	}
	gone := func(name string) bool { _, err := os.Stat(name); return errors.Is(err, fs.ErrNotExist) }

	current, pending, reused, garbage := h.zone(1, 1000), h.zone(2, 1000), h.zone(3, 1000), h.zone(4, 1000)
	view := h.release(current)
	for name, d := range map[string]time.Duration{file(current): 1000 * time.Hour, file(reused): 25 * time.Hour, file(garbage): 25 * time.Hour} {
		age(name, d)
	}
	if !reflect.DeepEqual(h.zone(3, 1000), reused) {
		t.Fatal("the same zone is another blob")
	}
	check(t, new(depot.Known).Collect(b, view))
	if gone(file(current)) || gone(file(pending)) || gone(file(reused)) || !gone(file(garbage)) {
		t.Errorf("current gone: %v, pending: %v, reused: %v, garbage: %v", gone(file(current)), gone(file(pending)), gone(file(reused)), gone(file(garbage)))
	}

	// A host that goes on with what it knew long ago removes nothing of what came after it.
	later := h.release(pending)
	numbered := filepath.Join(server.Dir, "mesh/metadata", fmt.Sprintf("%d.snapshot.json", later.Versions.Snapshot))
	manifest := filepath.Join(server.Dir, "mesh", release.ManifestName(release.DigestOf(h.mem.Manifest)))
	check(t, new(depot.Known).Collect(b, view))
	if gone(numbered) || gone(manifest) || gone(file(pending)) {
		t.Error("a later release lost files")
	}
	third := h.release(reused)
	check(t, new(depot.Known).Collect(b, third))
	if !gone(filepath.Join(server.Dir, "mesh/metadata", fmt.Sprintf("%d.snapshot.json", view.Versions.Snapshot))) {
		t.Error("old metadata stays")
	}
}

// TestWhatIsStoredBesideMayBeNamedWhileItIsYoung: later another host may collect it.
func TestWhatIsStoredBesideMayBeNamedWhileItIsYoung(t *testing.T) {
	server := testenv.StartS3(t)
	b := open(t, server.URL("mesh"))
	c, err := b.PutBeside(func(w io.Writer) error { _, err := io.WriteString(w, "beside"); return err })
	check(t, err)
	check(t, b.Adopt(c.Blob))
	old := time.Now().Add(-grace / 2)
	check(t, os.Chtimes(filepath.Join(server.Dir, "mesh", release.BlobName(c.Blob.SHA256)), old, old))
	if err := b.Adopt(c.Blob); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it may be collected at once: %v", err)
	}
	if err := b.Adopt(release.Blob{Length: 1}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it is not there: %v", err)
	}
}

// TestWhatIsMissingOrTooLongIsSaid in the terms of the interface.
func TestWhatIsMissingOrTooLongIsSaid(t *testing.T) {
	server := testenv.StartS3(t)
	b := open(t, server.URL(""))
	if _, _, err := b.Read("x", 10); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("read: %v", err)
	}
	if _, err := b.Tag("x"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("tag: %v", err)
	}
	for _, name := range []string{"metadata/1.root.json", "blobs/sha256/00"} {
		if _, err := b.Open(name); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("open: %v", err)
		}
	}
	check(t, b.Create("x", bytes.Repeat([]byte("x"), 11)))
	if _, _, err := b.Read("x", 10); !errors.Is(err, errTooLong) || !strings.Contains(err.Error(), "s3://mesh-bucket/x") {
		t.Errorf("too long: %v", err)
	}
	if err := b.Create("x", []byte("y")); !errors.Is(err, depot.ErrExists) {
		t.Errorf("create: %v", err)
	}
	if entries, err := b.List("nothing"); err != nil || len(entries) != 0 {
		t.Errorf("list: %v, %v", entries, err)
	}
	check(t, b.Remove("x"))
	check(t, b.Remove("x"))
	other := open(t, "s3://no-such-bucket?endpoint=http://"+server.Address)
	if _, _, err := other.Read("x", 10); err == nil || errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "NoSuchBucket") {
		t.Errorf("a bucket that is not there: %v", err)
	}
	t.Setenv("AWS_SECRET_ACCESS_KEY", "wrong")
	if _, _, err := open(t, server.URL("")).Read("x", 10); err == nil || !strings.Contains(err.Error(), "SignatureDoesNotMatch") {
		t.Errorf("wrong credentials: %v", err)
	}
}

func TestURLs(t *testing.T) {
	for from, want := range map[string]string{
		"s3://b":                              "s3://b/ at s3.amazonaws.com, us-west-2, tls true, lookup 0",
		"s3://b/x/y/?region=ap-northeast-1":   "s3://b/x/y/ at s3.amazonaws.com, ap-northeast-1, tls true, lookup 0",
		"s3://b/x?endpoint=https://h:9000":    "s3://b/x/ at h:9000, us-west-2, tls true, lookup 0",
		"s3://b?endpoint=http://[::1]:9000":   "s3://b/ at [::1]:9000, us-west-2, tls false, lookup 0",
		"s3://b?path-style=true":              "s3://b/ at s3.amazonaws.com, us-west-2, tls true, lookup 2",
		"s3://b?path-style=yes":               `path-style "yes": true or false`,
		"s3://b?endpoint=http://192.0.2.1":    "http:// only on this machine",
		"s3://b?endpoint=h:9000":              "want https://HOST:PORT",
		"s3://b?endpont=https://h":            `unknown option "endpont"`,
		"s3://b/x/../y":                       "dotted parts",
		"s3:///x":                             "want s3://BUCKET",
		"https://b/x":                         "want s3://BUCKET",
		"s3://key:secret@b":                   "want s3://BUCKET",
		"s3://%zz":                            "invalid URL escape",
		"s3://b?endpoint=https://h&region=%z": "invalid URL escape",
	} {
		t.Setenv("AWS_REGION", "us-west-2")
		b, host, o, err := parse(from)
		got := fmt.Sprint(err)
		if err == nil {
			got = fmt.Sprintf("%s at %s, %s, tls %v, lookup %d", b, host, o.Region, o.Secure, o.BucketLookup)
		}
		if !strings.Contains(got, want) {
			t.Errorf("%s: %s, want %s", from, got, want)
		}
	}
}

// TestCertificatesOfAnAuthorityOfOnesOwn are trusted when AWS_CA_BUNDLE names them.
func TestCertificatesOfAnAuthorityOfOnesOwn(t *testing.T) {
	server := testenv.StartS3(t)
	front := httptest.NewTLSServer(httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: server.Address}))
	defer front.Close()
	_, port, err := net.SplitHostPort(front.Listener.Addr().String())
	check(t, err)
	from := "s3://" + server.Bucket + "?endpoint=https://127.0.0.1:" + port
	bundle := filepath.Join(t.TempDir(), "ca.pem")
	check(t, os.WriteFile(bundle, pemOf(front), 0o600))
	t.Setenv("AWS_CA_BUNDLE", bundle)
	check(t, open(t, from).Prove())
	check(t, os.WriteFile(bundle, []byte("nothing"), 0o600))
	if _, err := Open(t.Context(), from); err == nil {
		t.Error("a bundle without a certificate is taken")
	}
}

func pemOf(s *httptest.Server) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
}

// TestRequestsEndWithTheContext: a store that takes connections and says nothing holds nobody up who has to go.
func TestRequestsEndWithTheContext(t *testing.T) {
	t.Setenv("AWS_ACCESS_KEY_ID", "a")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "b")
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	defer listener.Close()
	for name, request := range map[string]func(*Bucket) error{
		"read":   func(b *Bucket) error { _, _, err := b.Read("x", 10); return err },
		"tag":    func(b *Bucket) error { _, err := b.Tag("x"); return err },
		"create": func(b *Bucket) error { return b.Create("x", []byte("y")) },
		"swap":   func(b *Bucket) error { _, err := b.Swap(b.ctx, "x", []byte("y"), "z"); return err },
		"open":   func(b *Bucket) error { _, err := b.Open("blobs/x"); return err },
		"list":   func(b *Bucket) error { _, err := b.List("x"); return err },
		"remove": func(b *Bucket) error { return b.Remove("x") },
		"blob": func(b *Bucket) error {
			_, err := b.PutBlob(func(w io.Writer) error { _, err := w.Write([]byte("y")); return err })
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			b, err := Open(ctx, "s3://bucket?endpoint=http://"+listener.Addr().String())
			check(t, err)
			defer b.Close()
			ended := make(chan error, 1)
			go func() { ended <- request(b) }()
			conn, err := listener.Accept() // it has asked, and waits
			check(t, err)
			defer conn.Close()
			cancel()
			select {
			case err := <-ended:
				if !errors.Is(err, context.Canceled) {
					t.Errorf("got %v", err)
				}
			case <-time.After(requestTimeout / 2):
				t.Fatal("it waits on")
			}
		})
	}
}
