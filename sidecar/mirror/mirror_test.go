package mirror

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/depot"
	"github.com/coredns-anycast/coredns-anycast/internal/identity"
	"github.com/coredns-anycast/coredns-anycast/internal/instant"
	"github.com/coredns-anycast/coredns-anycast/internal/lab"
	"github.com/coredns-anycast/coredns-anycast/internal/lab/publish"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
	"github.com/coredns-anycast/coredns-anycast/internal/testca"
)

// host is a distribution host with its repository and an HTTPS server that takes certificates of the mesh only.
type host struct {
	t       *testing.T
	by      release.Signers
	mem     release.Memory
	dir     *depot.Dir
	url     string
	down    atomic.Bool
	keyFile string // of the node that mirrors
}

func newHost(t *testing.T, ca *testca.CA) *host {
	t.Helper()
	keys, err := release.GenerateKeys(rand.Reader)
	lab.Must(t, err)
	h := &host{t: t, by: keys.Signers()}
	h.dir, err = depot.Create(t.TempDir())
	lab.Must(t, err)
	files, mem, err := release.Init(release.Manifest{Format: release.ManifestFormat, Mesh: "jp", EpsilonMS: 100}, h.by, ends())
	lab.Must(t, err)
	h.publish(files, mem)
	h.url = serve(t, ca, h.dir.Handler(), &h.down)
	return h
}

func ends() release.Expiries {
	at := time.Now().Add(24 * time.Hour).UTC().Truncate(time.Second)
	return release.Expiries{Root: at, Targets: at, Snapshot: at, Timestamp: at}
}

func (h *host) publish(files []release.File, mem release.Memory) {
	h.t.Helper()
	lab.Must(h.t, publish.Files(h.dir, files))
	h.mem = mem
}

// release publishes release n, of one zone.
func (h *host) release(n uint64) (packed int64) {
	h.t.Helper()
	text := fmt.Sprintf("example.org.\t300\tIN\tSOA\tns1.example.org. hostmaster.example.org. %d 7200 3600 1209600 300\nexample.org.\t300\tIN\tNS\tns1.test.\n", n)
	c, err := h.dir.PutBlob(func(w io.Writer) error { _, err := io.WriteString(w, text); return err })
	lab.Must(h.t, err)
	zones := []release.Zone{{Origin: "example.org.", Serial: uint32(n), SHA256: c.SHA256, Length: c.Length, Blob: c.Blob}}
	m := release.Manifest{Format: release.ManifestFormat, Mesh: "jp", EpsilonMS: 100,
		Current: &release.Release{Number: n, Switchover: time.Now().UTC().Truncate(time.Microsecond), Zones: zones}}
	files, mem, err := release.Publish(h.mem, m, h.by, ends())
	lab.Must(h.t, err)
	h.publish(files, mem)
	return c.Blob.Length
}

// renew lengthens the lease, and so makes a new state of the repository.
func (h *host) renew() {
	h.t.Helper()
	files, mem, err := release.Renew(h.mem, h.by.Lease, ends().Timestamp)
	lab.Must(h.t, err)
	h.publish(files, mem)
}

// copy is another server with the repository as it is now, for ever.
func (h *host) copy(ca *testca.CA) string {
	h.t.Helper()
	dir := h.t.TempDir()
	lab.Must(h.t, os.CopyFS(filepath.Join(dir, "r"), os.DirFS(h.dir.Path())))
	d, err := depot.Open(filepath.Join(dir, "r"))
	lab.Must(h.t, err)
	return serve(h.t, ca, d.Handler(), new(atomic.Bool))
}

func serve(t *testing.T, ca *testca.CA, handler http.Handler, down *atomic.Bool) (url string) {
	return serving(t, ca, handler, down).URL
}

func serving(t *testing.T, ca *testca.CA, handler http.Handler, down *atomic.Bool) *httptest.Server {
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if down.Load() {
			http.Error(w, "down", http.StatusBadGateway)
			return
		}
		handler.ServeHTTP(w, r)
	}))
	s.TLS = ca.Identity("dist", time.Hour).Load(t).Config()
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

func (h *host) mirror(ca *testca.CA, urls ...string) *Mirror {
	h.t.Helper()
	node := ca.Identity("tyo1", time.Hour)
	h.keyFile = node.Key
	root := filepath.Join(h.t.TempDir(), "root.json")
	lab.Must(h.t, os.WriteFile(root, h.mem.Root, 0o644))
	return New(Config{URLs: urls, Depot: filepath.Join(h.t.TempDir(), "depot"), Root: root, Interval: time.Hour, Identity: node.Load(h.t)},
		slog.New(slog.DiscardHandler))
}

// lease is the version of the lease in the depot. A mirror that runs may write there meanwhile, and remove what is read: then it is read again.
func lease(t *testing.T, m *Mirror, root []byte) int64 {
	t.Helper()
	d, err := depot.Open(m.cfg.Depot)
	lab.Must(t, err)
	defer d.Close()
	memory, err := release.NewMemory(root)
	lab.Must(t, err)
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		view, _, err := release.Verify(d, memory)
		if rule, _ := release.RuleOf(err); rule == release.Missing && time.Now().Before(end) {
			continue
		}
		lab.Must(t, err)
		return view.Versions.Timestamp
	}
}

// Who is an operator is in the manifest: known from before at the start, though the repository is out of reach, and gone
// with the last of them; nobody is one while it cannot be known.
func TestOperators(t *testing.T) {
	ca := testca.New(t)
	h := newHost(t, ca)
	m := h.mirror(ca, h.url)
	key := release.DigestOf([]byte("jane's key"))
	refuses := func(name string, key release.Digest, want string) {
		t.Helper()
		if why := m.Refuses(identity.Operator, name, key); why == "" && want != "" || !strings.Contains(why, want) {
			t.Errorf("%s: %q, want %q", name, why, want)
		}
	}
	refuses("jane", key, "not known yet")
	m.recall() // a node that never had a release
	refuses("jane", key, "")
	lab.Must(t, m.round(t.Context()))
	refuses("jane", key, "") // a mesh that says nothing of operators
	publish := func(operators []release.Operator) {
		t.Helper()
		files, mem, err := release.Publish(h.mem, release.Manifest{Format: release.ManifestFormat, Mesh: "jp", EpsilonMS: 100, Operators: operators}, h.by, ends())
		lab.Must(t, err)
		h.publish(files, mem)
		lab.Must(t, m.round(t.Context()))
	}
	host := release.DigestOf([]byte("the host's key"))
	refusesHost := func(key release.Digest, want string) {
		t.Helper()
		if why := m.Refuses(identity.Host, "distribution-host", key); why != want {
			t.Errorf("the distribution host: %q, want %q", why, want)
		}
	}
	publish([]release.Operator{{Name: "jane", Keys: []release.Digest{key}}})
	refuses("jane", key, "")
	refusesHost(host, "") // its key is not in the list before it was replaced
	publish([]release.Operator{{Name: "distribution-host", Keys: []release.Digest{host}}, {Name: "jane", Keys: []release.Digest{key}}})
	refusesHost(host, "")
	refusesHost(release.DigestOf([]byte("the host's key before")), "its certificate was revoked")
	refuses("jane", release.DigestOf([]byte("another")), "revoked")
	refuses("anna", key, "no operator")
	publish([]release.Operator{})
	refuses("jane", key, "no operator")

	h.down.Store(true)
	m = New(m.cfg, slog.New(slog.DiscardHandler))
	refuses("jane", key, "not known yet")
	m.recall()
	refuses("jane", key, "no operator")
	for _, f := range []string{memoryFile, copyFile, release.TimestampName} {
		lab.Must(t, os.WriteFile(filepath.Join(m.cfg.Depot, f), []byte("{"), 0o600))
	}
	m = New(m.cfg, slog.New(slog.DiscardHandler))
	m.recall()
	refuses("jane", key, "not known yet")
}

// Members may connect to each other, wherever the manifest says that they are, as soon as it is known, also after a restart.
func TestAddressesOfMembers(t *testing.T) {
	ca := testca.New(t)
	h := newHost(t, ca)
	m := h.mirror(ca, h.url)
	lab.Must(t, m.round(t.Context()))
	if got := m.Addresses(); len(got) != 0 {
		t.Fatalf("%v of a mesh without members", got)
	}
	files, mem, err := release.Publish(h.mem, release.Manifest{Format: release.ManifestFormat, Mesh: "jp", EpsilonMS: 100, Members: []release.Member{
		{Name: "fra1", Admin: "https://[2001:db8::7]:8443", Keys: []release.Digest{release.DigestOf([]byte("fra1"))}},
		{Name: "tyo1", Admin: "https://198.51.100.7:8443", Keys: []release.Digest{release.DigestOf([]byte("tyo1"))}}}}, h.by, ends())
	lab.Must(t, err)
	h.publish(files, mem)
	lab.Must(t, m.round(t.Context()))
	for range 2 {
		if got := fmt.Sprint(m.Addresses()); got != "[2001:db8::7/128 198.51.100.7/32]" {
			t.Errorf("addresses %s", got)
		}
		m = New(m.cfg, m.log)
		m.recall()
	}
}

// The depot follows the repository, over mutual TLS.
func TestFollows(t *testing.T) {
	ca := testca.New(t)
	h := newHost(t, ca)
	m := h.mirror(ca, h.url)
	lab.Must(t, m.round(t.Context()))
	if got := lease(t, m, h.mem.Root); got != 1 {
		t.Fatalf("lease %d", got)
	}
	h.renew()
	lab.Must(t, m.round(t.Context()))
	if got := lease(t, m, h.mem.Root); got != 2 {
		t.Fatalf("lease %d after it was renewed", got)
	}
	if s := m.Status(); s.URL != h.url || s.LastGood.IsZero() || s.LastError != "" {
		t.Errorf("status %+v", s)
	}
}

// When a release came is known of those that came while this runs, from the first try on.
func TestSaysWhenAReleaseCame(t *testing.T) {
	ca := testca.New(t)
	h := newHost(t, ca)
	h.release(1)
	m := h.mirror(ca, h.url)
	began := time.Now()
	lab.Must(t, m.round(t.Context()))
	if s := m.Status().Mirrored; s == nil || s.Number != 1 || s.Began < instant.WallOf(began) || s.Done < s.Began || s.Bytes == 0 {
		t.Fatalf("the first: %+v", s)
	}
	cfg := m.cfg
	m = New(cfg, slog.New(slog.DiscardHandler))
	lab.Must(t, m.round(t.Context()))
	if s := m.Status().Mirrored; s != nil {
		t.Fatalf("after a restart, of what was there: %+v", s)
	}
	bytes := h.release(2)
	blobs, hidden := filepath.Join(h.dir.Path(), "blobs"), filepath.Join(h.dir.Path(), "hidden")
	lab.Must(t, os.Rename(blobs, hidden))
	if err := m.round(t.Context()); err == nil {
		t.Fatal("followed without the blob")
	}
	if s := m.Status().Mirrored; s != nil {
		t.Fatalf("before it came: %+v", s)
	}
	failed := instant.WallOf(time.Now())
	lab.Must(t, os.Rename(hidden, blobs))
	lab.Must(t, m.round(t.Context()))
	s := m.Status().Mirrored
	if s == nil || s.Number != 2 || s.Began > failed || s.Done < failed || s.Bytes != bytes {
		t.Fatalf("the second: %+v, failed at %v, %d bytes", s, failed, bytes)
	}
	lab.Must(t, m.round(t.Context()))
	if again := m.Status().Mirrored; *again != *s {
		t.Errorf("looked at again: %+v, it was %+v", again, s)
	}
}

// The first URL that is good is taken; one that is behind is no good, also after a restart (SYNC-G).
// TestSaysHowFarATransferIs, as long as there is one: here half a blob comes, and the rest when the test wants.
func TestSaysHowFarATransferIs(t *testing.T) {
	ca := testca.New(t)
	h := newHost(t, ca)
	bytes := h.release(1)
	half, rest := make(chan bool), make(chan bool)
	good := h.dir.Handler()
	url := serve(t, ca, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasPrefix(r.URL.Path, "/blobs/") {
			good.ServeHTTP(w, r)
			return
		}
		whole := httptest.NewRecorder()
		good.ServeHTTP(whole, r)
		w.Header().Set("Content-Length", fmt.Sprint(bytes))
		w.Write(whole.Body.Bytes()[:bytes/2])
		w.(http.Flusher).Flush()
		close(half)
		<-rest
		w.Write(whole.Body.Bytes()[bytes/2:])
	}), new(atomic.Bool))
	m := h.mirror(ca, url)
	done := make(chan error)
	go func() { done <- m.round(t.Context()) }()
	<-half
	lab.Within(t, lab.Patience, fmt.Sprintf("half of %d bytes have come", bytes), func() (bool, string) {
		p := m.Status().Transferring
		return p != nil && p.Done == bytes/2 && p.Of == bytes && p.Subject == "release 1" && p.Unit == "bytes", fmt.Sprintf("%+v", p)
	})
	close(rest)
	lab.Must(t, <-done)
	if p := m.Status().Transferring; p != nil {
		t.Errorf("all has come: %+v", p)
	}
}

func TestTakesTheFirstThatIsGood(t *testing.T) {
	ca := testca.New(t)
	h := newHost(t, ca)
	behind := h.copy(ca)
	h.renew()
	m := h.mirror(ca, h.url, behind)
	lab.Must(t, m.round(t.Context()))
	h.down.Store(true)
	for range 2 {
		err := m.round(t.Context())
		if err == nil || !strings.Contains(err.Error(), h.url) || !strings.Contains(err.Error(), behind) {
			t.Fatalf("error %v, want one that names both", err)
		}
		if got := lease(t, m, h.mem.Root); got != 2 {
			t.Fatalf("lease %d: rolled back", got)
		}
		m = New(m.cfg, m.log) // a new process knows what the old one learnt
	}
	h.down.Store(false)
	m.cfg.URLs = []string{behind, h.url}
	m = New(m.cfg, m.log)
	lab.Must(t, m.round(t.Context()))
	if s := m.Status(); s.URL != h.url || s.LastError != "" {
		t.Errorf("status %+v, want %s", s, h.url)
	}
}

// A server that is good and lets zones trickle in, octet by octet, is not waited for as long as there is another.
func TestAServerThatTricklesIsPassedOver(t *testing.T) {
	ca := testca.New(t)
	h := newHost(t, ca)
	h.release(1)
	trickles := serve(t, ca, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		recorded := httptest.NewRecorder()
		h.dir.Handler().ServeHTTP(recorded, r)
		if !strings.Contains(r.URL.Path, "/blobs/") {
			w.WriteHeader(recorded.Code)
			w.Write(recorded.Body.Bytes())
			return
		}
		for _, c := range recorded.Body.Bytes() {
			if _, err := w.Write([]byte{c}); err != nil {
				return
			}
			w.(http.Flusher).Flush()
			time.Sleep(200 * time.Millisecond)
		}
	}), new(atomic.Bool))
	m := h.mirror(ca, trickles, h.url)
	lab.Must(t, m.round(t.Context()))
	if s := m.Status(); s.URL != h.url {
		t.Errorf("status %+v, want %s", s, h.url)
	}
	m.cfg.URLs = m.cfg.URLs[:1]
	m = New(m.cfg, m.log)
	h.release(2)
	if err := m.round(t.Context()); err == nil || !strings.Contains(err.Error(), "bytes a second") {
		t.Errorf("where there is no other: %v", err)
	}
	if got := lease(t, m, h.mem.Root); got < 3 {
		t.Errorf("lease %d: it waits for the zone", got)
	}
}

// Who is not of the mesh is not followed, and does not learn anything (DELIV-2).
func TestMutualTLS(t *testing.T) {
	ca, other := testca.New(t), testca.New(t)
	h := newHost(t, ca)
	if err := h.mirror(other, h.url).round(t.Context()); err == nil {
		t.Error("a node of another mesh was served")
	}
	foreign := newHost(t, other)
	if err := h.mirror(ca, foreign.url).round(t.Context()); err == nil {
		t.Error("a server of another mesh was followed")
	}
}

// A server that others vouch for is followed where it is said who, and is not shown who the node is; a stranger is not.
func TestPublicServer(t *testing.T) {
	ca, other := testca.New(t), testca.New(t)
	h := newHost(t, ca)
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if len(r.TLS.PeerCertificates) > 0 {
			t.Error("the node showed its certificate")
		}
		if strings.HasSuffix(r.URL.Path, certificatePath) {
			t.Error("a public server was asked for a certificate")
		}
		h.dir.Handler().ServeHTTP(w, r)
	}))
	public := other.Identity("cdn", time.Hour)
	s.TLS = public.Load(t).Config().Clone()
	s.TLS.ClientAuth = tls.RequestClientCert
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	s.StartTLS()
	t.Cleanup(s.Close)
	m := h.mirror(ca, s.URL)
	for _, wrong := range []string{"", "system", filepath.Join(t.TempDir(), "none"), h.keyFile} {
		m.cfg.CA = map[string]string{s.URL: wrong}
		if err := m.round(t.Context()); err == nil {
			t.Errorf("followed with ca %q", wrong)
		}
	}
	m.cfg.CA = map[string]string{s.URL: public.CA}
	lab.Must(t, m.round(t.Context()))
	if got := lease(t, m, h.mem.Root); got != 1 {
		t.Fatalf("lease %d", got)
	}
}

// A node takes a newer certificate for its key from where it takes the repository, and a plain web server is fine too.
func TestRenewsItsCertificate(t *testing.T) {
	ca := testca.New(t)
	h := newHost(t, ca)
	m := h.mirror(ca, h.url)
	before := m.cfg.Identity.Certificate().NotAfter
	lab.Must(t, m.round(t.Context())) // 404
	if !m.cfg.Identity.Certificate().NotAfter.Equal(before) {
		t.Fatal("another certificate came from nowhere")
	}
	later := ca.Certify("tyo1", h.keyFile, 3*time.Hour)
	var asked atomic.Int32
	renewing := serve(t, ca, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/"+certificatePath {
			asked.Add(1)
			w.Write(later)
			return
		}
		h.dir.Handler().ServeHTTP(w, r)
	}), new(atomic.Bool))
	m.cfg.URLs = []string{renewing}
	m = New(m.cfg, m.log)
	lab.Must(t, m.round(t.Context()))
	lab.Must(t, m.round(t.Context()))
	if n := asked.Load(); n != 1 {
		t.Errorf("asked %d times in a moment, want once", n)
	}
	lab.WaitFor(t, "the new certificate is used", func() bool { return m.cfg.Identity.Certificate().NotAfter.After(before) })
}

// Another writer of the depot is not disturbed.
func TestSecondWriter(t *testing.T) {
	ca := testca.New(t)
	h := newHost(t, ca)
	m := h.mirror(ca, h.url)
	lab.Must(t, os.MkdirAll(m.cfg.Depot, 0o755))
	lock, err := depot.LockDir(m.cfg.Depot)
	lab.Must(t, err)
	if err := m.round(t.Context()); err == nil {
		t.Error("wrote into a depot that another holds")
	}
	lab.Must(t, lock.Unlock())
	lab.Must(t, m.round(t.Context()))
}

// Run begins at once, tries again soon after a failure, and ends with its context.
func TestRun(t *testing.T) {
	ca := testca.New(t)
	h := newHost(t, ca)
	h.down.Store(true)
	m := h.mirror(ca, h.url)
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { m.Run(ctx); close(done) }()
	lab.WaitFor(t, "it fails", func() bool { return m.Status().LastError != "" })
	h.down.Store(false)
	lab.WaitFor(t, "it recovers, though the interval is an hour", func() bool { return m.Status().LastError == "" })
	stop()
	<-done
}

// Each distribution host says whom it has seen; one that is cut off, and a server that is none, take nothing away (FAIL-4).
func TestRemaining(t *testing.T) {
	ca := testca.New(t)
	h := newHost(t, ca)
	says := func(down *atomic.Bool, members string) string {
		return serve(t, ca, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/mesh/v1/remaining" {
				http.NotFound(w, r)
				return
			}
			fmt.Fprintf(w, `{"version":1,"members":[%s]}`, members)
		}), down) + "/mesh/"
	}
	down := new(atomic.Bool)
	one, other := says(down, `"osa","fra"`), says(new(atomic.Bool), `"fra","ams"`)
	m := h.mirror(ca, h.url, one, other)
	got, err := m.Remaining(t.Context())
	if err != nil || !slices.Equal(got, []string{"ams", "fra", "osa"}) {
		t.Errorf("%v %v, want what both have seen", got, err)
	}
	down.Store(true)
	if got, err = m.Remaining(t.Context()); err != nil || !slices.Equal(got, []string{"ams", "fra"}) {
		t.Errorf("%v %v, want what the other has seen", got, err)
	}
	m = h.mirror(ca, h.url, one)
	if _, err := m.Remaining(t.Context()); err == nil || !strings.Contains(err.Error(), one) || !strings.Contains(err.Error(), h.url) {
		t.Errorf("error %v, want one that names both servers", err)
	}
	m = h.mirror(ca, other)
	m.cfg.CA = map[string]string{other: "system"}
	if got, err := m.Remaining(t.Context()); err == nil {
		t.Errorf("a public server was asked, and said %v", got)
	}
}

// TestANewCertificateIsUsedWithoutARestart: a node whose certificate was revoked is refused by its host. With the files of another one it
// is served again, its held request too, though its connections to the host are kept from one request to the next.
func TestANewCertificateIsUsedWithoutARestart(t *testing.T) {
	ca := testca.New(t)
	h := newHost(t, ca)
	var revoked atomic.Value
	revoked.Store(release.Digest{})
	ctx, end := context.WithCancel(context.Background())
	t.Cleanup(end)
	holder := depot.NewHolder(ctx, h.dir, 10*time.Millisecond)
	url := serve(t, ca, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if identity.PinOf(r.TLS.PeerCertificates[0]) == revoked.Load() {
			http.Error(w, "its certificate was revoked", http.StatusForbidden)
			return
		}
		holder.ServeHTTP(w, r)
	}), new(atomic.Bool))
	m := h.mirror(ca, url)
	m.interval = 10 * time.Millisecond
	root := h.mem.Root
	run(t, m)
	lab.WaitFor(t, "a request is held", held(m, url))
	revoked.Store(identity.PinOf(m.cfg.Identity.Certificate()))
	h.renew() // which answers the request that is held
	lab.WaitFor(t, "a refusal", func() bool { return strings.Contains(m.Status().LastError, "revoked") && !held(m, url)() })
	next, dir := ca.Identity("tyo1", 2*time.Hour), filepath.Dir(h.keyFile)
	for from, to := range map[string]string{next.Key: h.keyFile, next.Certificate: filepath.Join(dir, "node.crt")} {
		lab.Must(t, os.Rename(from, to))
	}
	lab.WaitFor(t, "the newest, and a request that is held", func() bool { return lease(t, m, root) == h.timestamp() && held(m, url)() })
}
