package page

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/history"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/unattended"
	"github.com/coredns-anycast/coredns-anycast/internal/identity"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
)

// stage serves a story in plain HTTP on loopback, to whoever reader is: as over mutual TLS, with the certificate put in.
type stage struct {
	*httptest.Server
	mu     sync.Mutex
	story  *story
	err    error
	asked  int
	reader *x509.Certificate
	revoke bool
	orders []Order
	fails  error              // what becomes of orders
	close  context.CancelFunc // ends the streams
}

func newStage(t *testing.T, s *story) *stage {
	ctx, cancel := context.WithCancel(context.Background())
	g := &stage{story: s, reader: certificate(s.Reader.Name, s.Reader.Role), close: cancel}
	h := New(ctx, Source{Log: slog.New(slog.DiscardHandler),
		Status: func(context.Context) (unattended.Status, error) {
			g.mu.Lock()
			defer g.mu.Unlock()
			g.asked++
			return g.story.Status, g.err
		},
		History: func(context.Context) ([]history.Record, error) {
			g.mu.Lock()
			defer g.mu.Unlock()
			return g.story.History, nil
		},
		Do: func(_ context.Context, o Order) (string, error) {
			g.mu.Lock()
			defer g.mu.Unlock()
			g.orders = append(g.orders, o)
			return o.Kind + " is done.", g.fails
		},
		Refuses: func(*x509.Certificate) string {
			g.mu.Lock()
			defer g.mu.Unlock()
			return map[bool]string{true: "its certificate was revoked"}[g.revoke]
		}})
	g.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		g.mu.Lock()
		r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{g.reader}}
		g.mu.Unlock()
		h.ServeHTTP(w, r)
	}))
	t.Cleanup(func() { cancel(); g.Server.Close() })
	return g
}

func certificate(name, role string) *x509.Certificate {
	return &x509.Certificate{Subject: pkix.Name{CommonName: name, OrganizationalUnit: []string{role}}, RawSubjectPublicKeyInfo: []byte(name)}
}

// tell has the story go on.
func (g *stage) tell(s *story, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.story, g.err = s, err
}

func (g *stage) get(t *testing.T, path string) (*http.Response, string) {
	t.Helper()
	response, err := http.Get(g.URL + path)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response, string(body)
}

// The page and all that belongs to it come from this address, with a policy that lets nothing else in, and to readers only.
func TestThePageIsServed(t *testing.T) {
	g := newStage(t, newStory(3))
	for path, kind := range map[string]string{"/": "text/html", "/page/page.css": "text/css", "/page/page.js": "text/javascript", "/page/icon.svg": "image/svg+xml"} {
		response, body := g.get(t, path)
		if response.StatusCode != 200 || !strings.HasPrefix(response.Header.Get("Content-Type"), kind) || body == "" {
			t.Errorf("%s: %s, %s, %d octets", path, response.Status, response.Header.Get("Content-Type"), len(body))
		}
		if p := response.Header.Get("Content-Security-Policy"); !strings.HasPrefix(p, "default-src 'none'") || strings.Contains(p, "unsafe") {
			t.Errorf("%s has the policy %q", path, p)
		}
	}
	if _, body := g.get(t, "/"); strings.Contains(body, "http://") || strings.Contains(body, "//fonts") || !strings.Contains(body, "All 3 members answer") {
		t.Error("the page has something from elsewhere, or does not say how the mesh is")
	}
	if response, _ := g.get(t, "/page/page.html"); response.StatusCode != 404 {
		t.Errorf("a template is served: %s", response.Status)
	}
	g.tell(g.story, errors.New("the state cannot be read"))
	g.revoke = true
	if response, body := g.get(t, "/"); response.StatusCode != 403 || !strings.Contains(body, "its certificate was revoked") {
		t.Errorf("who is refused got %s: %s", response.Status, body)
	}
}

// events reads an event stream until one of the name has come, and returns its data.
func events(t *testing.T, lines *bufio.Scanner, name string) (data string) {
	t.Helper()
	for found := false; lines.Scan(); {
		switch text := lines.Text(); {
		case text == "event: "+name:
			found = true
		case found:
			return strings.TrimPrefix(text, "data: ")
		}
	}
	t.Fatalf("the stream ended before %q: %v", name, lines.Err())
	return ""
}

func (g *stage) stream(t *testing.T) (*http.Response, *bufio.Scanner) {
	t.Helper()
	response, err := http.Get(g.URL + "/page/events")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { response.Body.Close() })
	lines := bufio.NewScanner(response.Body)
	lines.Buffer(nil, 1<<20)
	return response, lines
}

// A stream tells what has changed, that it cannot be told, and that it can again; and it ends with a right, and with the host.
func TestTheStreamTellsWhatHasChanged(t *testing.T) {
	g := newStage(t, newStory(3))
	_, lines := g.stream(t)
	events(t, lines, "seen")
	g.tell(newStory(3).silent(1), nil)
	for {
		var change struct{ ID, HTML string }
		if err := json.Unmarshal([]byte(events(t, lines, "change")), &change); err != nil {
			t.Fatal(err)
		}
		if change.ID == "members" && strings.Contains(change.HTML, "chronyd has had no source") {
			break
		}
	}
	g.tell(g.story, errors.New("the bucket is away"))
	if fault := events(t, lines, "fault"); !strings.Contains(fault, "the bucket is away") {
		t.Errorf("it says %q", fault)
	}
	g.tell(g.story, nil)
	events(t, lines, "seen")
	g.mu.Lock()
	g.revoke = true
	g.mu.Unlock()
	for lines.Scan() { // it ends
	}
	g.mu.Lock()
	g.revoke = false
	g.mu.Unlock()
	_, lines = g.stream(t)
	events(t, lines, "seen")
	g.close()
	for lines.Scan() {
	}
}

// However many look, members are asked once; and one reader has some streams, and all together have a bounded number.
func TestStreamsAreBounded(t *testing.T) {
	g := newStage(t, newStory(3))
	for range maxOfOne {
		response, lines := g.stream(t)
		if response.StatusCode != 200 {
			t.Fatal(response.Status)
		}
		events(t, lines, "seen")
	}
	if response, body := g.get(t, "/page/events"); response.StatusCode != 503 || response.Header.Get("Retry-After") == "" {
		t.Errorf("one more of the same reader: %s, %s", response.Status, body)
	}
	g.mu.Lock()
	g.reader = certificate("another", identity.Observer)
	g.mu.Unlock()
	if response, _ := g.stream(t); response.StatusCode != 200 {
		t.Errorf("of another reader: %s", response.Status)
	}
	s := streams{of: map[release.Digest]int{}}
	for i := range maxStreams {
		if !s.enter([32]byte{byte(i)}) {
			t.Fatalf("stream %d finds no place", i)
		}
	}
	if s.enter([32]byte{255}) {
		t.Error("there are more streams than there may be")
	}
	s.leave([32]byte{3})
	if !s.enter([32]byte{255}) || len(s.of) != maxStreams {
		t.Errorf("a place that was left is not given again, %d readers", len(s.of))
	}
}

// Whoever comes within a second of another sees the same, and no member is asked for it.
func TestMembersAreAskedOnceForAll(t *testing.T) {
	g := newStage(t, newStory(200))
	var open sync.WaitGroup
	for range 20 {
		open.Go(func() { g.get(t, "/page/page.css"); g.get(t, "/") })
	}
	open.Wait()
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.asked >= 20 {
		t.Errorf("members were asked %d times for 20 pages", g.asked)
	}
}
