package host

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/depot"
	"github.com/coredns-anycast/coredns-anycast/internal/identity"
	"github.com/coredns-anycast/coredns-anycast/internal/instant"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
)

// logBuffer is a log that a test reads while it is written.
type logBuffer struct {
	guard sync.Mutex
	b     bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.guard.Lock()
	defer l.guard.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.guard.Lock()
	defer l.guard.Unlock()
	return l.b.String()
}

// served is a home that is being served.
type served struct {
	t    *testing.T
	home string
	url  string
	log  *logBuffer
	stop func() error
}

func serve(t *testing.T, home string, clock Clock, renew time.Duration) *served {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	s := &served{t: t, home: home, url: "https://" + listener.Addr().String(), log: &logBuffer{}}
	server := &Server{Home: home, Clock: clock, Renew: renew, Log: s.logger()}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- server.Run(ctx, listener) }()
	s.stop = sync.OnceValue(func() error { cancel(); return <-ended })
	t.Cleanup(func() { s.stop() })
	return s
}

func (s *served) logger() *slog.Logger { return slog.New(slog.NewTextHandler(s.log, nil)) }

// bundle is the TLS configuration that a member makes of the directory it was given.
func bundle(t *testing.T, dir string) *tls.Config {
	t.Helper()
	own, err := tls.LoadX509KeyPair(filepath.Join(dir, "node.crt"), filepath.Join(dir, "node.key"))
	check(t, err)
	ca, err := os.ReadFile(filepath.Join(dir, "ca.crt"))
	check(t, err)
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	return &tls.Config{Certificates: []tls.Certificate{own}, RootCAs: pool, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert}
}

func (s *served) get(config *tls.Config, path string) (int, error) {
	s.t.Helper()
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}, Timeout: 5 * time.Second}
	response, err := client.Get(s.url + path)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	_, err = io.Copy(io.Discard, response.Body)
	return response.StatusCode, err
}

func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("still waiting for: %s", what)
		}
	}
}

func TestMembersMirrorFromServe(t *testing.T) {
	home := newHome(t, time.Now, "tyo")
	mustRelease(t, home, time.Now, 1, ReleaseOptions{Now: true})
	s := serve(t, home, time.Now, 50*time.Minute)
	dir := filepath.Join(home, nodesDir, "tyo")
	root, err := os.ReadFile(filepath.Join(dir, "root.json"))
	check(t, err)
	mem, err := release.NewMemory(root)
	check(t, err)
	d, err := depot.Create(t.TempDir())
	check(t, err)
	defer d.Close()
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: bundle(t, dir)}}
	view, _, changed, err := depot.Mirror(t.Context(), depot.Source{Client: client, URL: s.url}, d, mem)
	check(t, err)
	if !changed || view.Manifest.Current.Number != 1 {
		t.Fatalf("mirrored %v", view)
	}
}

func TestStrangersAndRemovedMembersAreRefusedAndNamed(t *testing.T) {
	home := newHome(t, time.Now, "osa", "tyo")
	s := serve(t, home, time.Now, 50*time.Minute)
	const path = "/" + release.TimestampName
	tyo := bundle(t, filepath.Join(home, nodesDir, "tyo"))
	if code, err := s.get(tyo, path); code != 200 {
		t.Fatalf("a member got %d, %v", code, err)
	}
	own, err := Identity(home, s.logger())
	check(t, err)
	if code, err := s.get(own.Config(), path); code != 200 {
		t.Fatalf("this host got %d, %v", code, err)
	}

	nobody := tyo.Clone()
	nobody.Certificates = nil
	if code, err := s.get(nobody, path); err == nil {
		t.Errorf("without a certificate: %d", code)
	}
	other := bundle(t, filepath.Join(newHome(t, time.Now, "tyo"), nodesDir, "tyo"))
	other.RootCAs = tyo.RootCAs
	if code, err := s.get(other, path); err == nil {
		t.Errorf("with a certificate of another mesh: %d", code)
	}
	old := tyo.Clone()
	old.MaxVersion = tls.VersionTLS12
	if code, err := s.get(old, path); err == nil {
		t.Errorf("with TLS 1.2: %d", code)
	}
	waitFor(t, "refused handshakes in the log", func() bool { return strings.Count(s.log.String(), "TLS handshake error") == 3 })

	h, err := Open(home, time.Now)
	check(t, err)
	check(t, h.RemoveMember("tyo"))
	h.Close()
	if code, err := s.get(tyo, path); code != 403 {
		t.Errorf("a removed member got %d, %v", code, err)
	}
	if !strings.Contains(s.log.String(), `refused: not a member of this mesh" name=tyo`) {
		t.Errorf("not named: %s", s.log)
	}
	if code, _ := s.get(bundle(t, filepath.Join(home, nodesDir, "osa")), path); code != 200 {
		t.Errorf("the member that stayed got %d", code)
	}
}

// A member that comes back under its name gets a key of its own: the certificate that was taken from it stays revoked.
func TestACertificateOfAnEarlierMembershipStaysRevoked(t *testing.T) {
	home := newHome(t, time.Now, "tyo")
	s := serve(t, home, time.Now, 50*time.Minute)
	const path = "/" + release.TimestampName
	earlier := bundle(t, filepath.Join(home, nodesDir, "tyo"))
	h, err := Open(home, time.Now)
	check(t, err)
	check(t, h.RemoveMember("tyo"))
	dir, err := h.AddMember(NewMember{Name: "tyo", Admin: "127.0.0.1:40000"})
	check(t, err)
	h.Close()
	if code, err := s.get(bundle(t, dir), path); code != 200 {
		t.Errorf("with the new certificate: %d %v", code, err)
	}
	if code, err := s.get(earlier, path); code != 403 || !strings.Contains(s.log.String(), "its certificate was revoked") {
		t.Errorf("with the earlier one: %d %v\n%s", code, err, s.log)
	}
}

// Certificates are renewed in the last third of their life, for the same key, and each member finds its own.
func TestServeRenewsCertificates(t *testing.T) {
	home := newHome(t, time.Now, "osa", "tyo")
	dir := filepath.Join(home, nodesDir, "tyo")
	before, err := readCertificate(dir, "node.crt")
	check(t, err)
	servesItsCertificate(t, home, "tyo")
	for _, c := range []struct {
		days    int
		renewed bool
	}{{0, false}, {450, false}, {500, true}} {
		later := at(time.Now().AddDate(0, 0, c.days))
		h, err := Open(home, later)
		check(t, err)
		names, err := h.RenewDue()
		h.Close()
		check(t, err)
		want := ""
		if c.renewed {
			want = "distribution-host osa tyo"
		}
		if strings.Join(names, " ") != want {
			t.Fatalf("after %d days %q were renewed, want %q", c.days, names, want)
		}
	}
	after, err := readCertificate(dir, "node.crt")
	check(t, err)
	if !after.NotAfter.After(before.NotAfter) || identity.PinOf(after) != identity.PinOf(before) || len(after.IPAddresses) != 1 {
		t.Errorf("from %v to %v", before.NotAfter, after.NotAfter)
	}
}

// servesItsCertificate reports a member that does not find its newest certificate.
func servesItsCertificate(t *testing.T, home, name string) {
	t.Helper()
	dir := filepath.Join(home, nodesDir, name)
	s := serve(t, home, time.Now, 50*time.Minute)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: bundle(t, dir)}}
	response, err := client.Get(s.url + CertificatePath)
	check(t, err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	check(t, err)
	want, err := os.ReadFile(filepath.Join(dir, "node.crt"))
	check(t, err)
	if response.StatusCode != 200 || !bytes.Equal(body, want) {
		t.Errorf("%s: %s", response.Status, body)
	}
}

// With a new key the old one serves until the next renewal, since the bundle must be carried to the node.
func TestAMemberGetsANewKey(t *testing.T) {
	home := newHome(t, time.Now, "tyo")
	s := serve(t, home, time.Now, 50*time.Minute)
	const path = "/" + release.TimestampName
	var had []*tls.Config
	for i, want := range []string{"200", "200 200", "403 200 200"} {
		if i > 0 {
			h, err := Open(home, time.Now)
			check(t, err)
			check(t, h.RenewMember("tyo", true))
			h.Close()
		}
		had = append(had, bundle(t, filepath.Join(home, nodesDir, "tyo")))
		var codes []string
		for _, config := range had {
			code, err := s.get(config, path)
			check(t, err)
			codes = append(codes, fmt.Sprint(code))
		}
		if got := strings.Join(codes, " "); got != want {
			t.Errorf("after %d new keys the keys get %s, want %s", i, got, want)
		}
	}
}

func TestARemovedMemberIsRefusedOnTheConnectionItHas(t *testing.T) {
	home := newHome(t, time.Now, "tyo")
	s := serve(t, home, time.Now, 50*time.Minute)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: bundle(t, filepath.Join(home, nodesDir, "tyo"))}}
	for i, want := range []int{200, 403} {
		if i == 1 {
			h, err := Open(home, time.Now)
			check(t, err)
			check(t, h.RemoveMember("tyo"))
			h.Close()
		}
		response, err := client.Get(s.url + "/" + release.TimestampName)
		check(t, err)
		io.Copy(io.Discard, response.Body)
		response.Body.Close()
		if response.StatusCode != want {
			t.Fatalf("request %d: %d, want %d", i, response.StatusCode, want)
		}
	}
}

func TestServeRenewsTheLeaseAndSettles(t *testing.T) {
	var guard sync.Mutex
	now := testNow
	clock := func() time.Time { guard.Lock(); defer guard.Unlock(); return now }
	home := newHome(t, clock, "tyo")
	mustRelease(t, home, clock, 1, ReleaseOptions{})
	h, err := Open(home, clock)
	check(t, err)
	check(t, h.setSwitchover(time.Time{}, testNow.Add(time.Minute), Event{Event: "scheduled"}))
	h.Close()
	serve(t, home, clock, 10*time.Minute)
	view := func() release.View { v, err := Read(home); check(t, err); return v }
	for _, test := range []struct {
		after  time.Duration
		number uint64
		lease  time.Duration
	}{{0, 0, time.Hour}, {2 * time.Minute, 1, 62 * time.Minute}, {13 * time.Minute, 1, 73 * time.Minute}} {
		guard.Lock()
		now = testNow.Add(test.after)
		guard.Unlock()
		waitFor(t, fmt.Sprintf("%+v", test), func() bool {
			v := view()
			return v.LeaseExpires.Equal(testNow.Add(test.lease)) && (test.number == 0) == (v.Manifest.Current == nil)
		})
	}
}

func TestServeEndsWhenItIsTold(t *testing.T) {
	s := serve(t, newHome(t, time.Now), time.Now, 50*time.Minute)
	check(t, s.stop())
	if _, err := net.Dial("tcp", strings.TrimPrefix(s.url, "https://")); err == nil {
		t.Fatal("it still listens")
	}
}

// TestMembersAreAskedOverMutualTLS asks real servers, one of each kind.
func TestMembersAreAskedOverMutualTLS(t *testing.T) {
	home := filepath.Join(t.TempDir(), "mesh")
	h, err := Init(home, InitOptions{Mesh: "jp", Epsilon: time.Millisecond, Lease: time.Hour}, rand.Reader, time.Now)
	check(t, err)
	defer h.Close()
	answers := map[string]func(w http.ResponseWriter){
		"good": func(w http.ResponseWriter) {
			json.NewEncoder(w).Encode(status.Confirmation{Version: status.Version, Node: "good", At: instant.WallOf(time.Now().Add(-time.Minute)), Serving: 7})
		},
		"impostor": func(w http.ResponseWriter) { // with the certificate of another member of that address
			json.NewEncoder(w).Encode(status.Confirmation{Version: status.Version, Node: "impostor"})
		},
		"liar": func(w http.ResponseWriter) {
			json.NewEncoder(w).Encode(status.Confirmation{Version: status.Version, Node: "good"})
		},
		"garbage": func(w http.ResponseWriter) { w.Write([]byte("<html>")) },
		"broken":  func(w http.ResponseWriter) { w.WriteHeader(500) },
		"away":    func(w http.ResponseWriter) { w.Header().Set("Location", "https://127.0.0.1:1/"); w.WriteHeader(302) },
		"endless": func(w http.ResponseWriter) {
			for {
				if _, err := w.Write(bytes.Repeat([]byte(" "), 1<<20)); err != nil {
					return
				}
			}
		},
	}
	for name, answer := range answers {
		server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.TLS.PeerCertificates[0].Subject.CommonName != HostName || r.URL.Path != "/v1/confirmations" {
				t.Errorf("%s was asked for %s by %s", name, r.URL.Path, r.TLS.PeerCertificates[0].Subject)
			}
			answer(w)
		}))
		defer server.Close()
		dir, err := h.AddMember(NewMember{Name: name, Admin: server.Listener.Addr().String()})
		check(t, err)
		if name == "impostor" {
			dir, err = h.AddMember(NewMember{Name: "other", Admin: server.Listener.Addr().String()})
			check(t, err)
		}
		server.TLS = bundle(t, dir)
		server.StartTLS()
	}
	_, err = h.AddMember(NewMember{Name: "nobody", Admin: "127.0.0.1:1"})
	check(t, err)
	own, err := Identity(home, slog.New(slog.DiscardHandler))
	check(t, err)
	got := Asker(own, time.Now)(t.Context(), h.View().Manifest.Members)
	if len(got) != 9 {
		t.Fatalf("%d answers", len(got))
	}
	for name, a := range got {
		if (a.Err == nil) != (name == "good") {
			t.Errorf("%s: %+v", name, a)
		}
	}
	if a := got["good"].Apart; a < 59*time.Second || a > 70*time.Second {
		t.Errorf("a clock that is a minute behind is %v apart", a)
	}
	if got["good"].Confirmation.Serving != 7 {
		t.Errorf("good said %+v", got["good"])
	}
}

func TestServeRenewsALeaseThatIsShorterThanItsAgeMayBe(t *testing.T) {
	home := newHome(t, time.Now)
	before := promised(t, home)
	later := at(time.Now().Add(45 * time.Minute)) // of the hour that a lease lasts
	s := serve(t, home, later, 2*time.Hour)
	waitFor(t, "a lease before the old one ends", func() bool { return promised(t, home).After(before) })
	s.stop()
}
