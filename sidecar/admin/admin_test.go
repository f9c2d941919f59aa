package admin

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/identity"
	"github.com/coredns-anycast/coredns-anycast/internal/lab"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
	"github.com/coredns-anycast/coredns-anycast/internal/testca"
	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
)

var (
	quiet    = slog.New(slog.DiscardHandler)
	sharedIP = netip.MustParseAddr("192.0.2.53")
)

func config(t *testing.T, ca *testca.CA, length time.Duration) *tls.Config {
	t.Helper()
	return ca.WithRole("prometheus", identity.Observer, length).Load(t).Config()
}

// open lets every address.
func open() identity.AccessList { return nil }

func serve(t *testing.T, ca *testca.CA, s Sidecar) string {
	t.Helper()
	return serveAs(t, ca.WithRole("tyo1", identity.Node, time.Hour).Load(t), s, quiet)
}

func serveAs(t *testing.T, node *identity.Identity, behind Sidecar, log *slog.Logger) string {
	t.Helper()
	if behind.Metrics == nil {
		behind.Metrics = http.NotFoundHandler()
	}
	at := testenv.Local(t)
	s, err := Serve(at, []netip.Addr{sharedIP}, open, node, behind, log)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return "https://" + at.String()
}

func get(config *tls.Config, url string) (int, string, error) {
	client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}}
	r, err := client.Get(url)
	if err != nil {
		return 0, "", err
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	return r.StatusCode, string(body), err
}

func documents() Sidecar {
	return Sidecar{
		Status:        func(context.Context) (any, error) { return map[string]int{"version": 1}, nil },
		Confirmations: func(context.Context) (any, error) { return nil, errors.New("meshsync does not answer") },
		Metrics:       http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "metrics") }),
		Drained:       func(context.Context) (status.Drained, error) { return status.Drained{Announced: true}, nil },
		Drain: func(_ context.Context, o status.DrainOrder) (status.Drained, error) {
			if o.Wait == "soon" {
				return status.Drained{}, fmt.Errorf("%w: no duration", ErrOrder)
			}
			return status.Drained{Drain: &status.Drain{Who: o.Who, Why: o.Why, Silence: o.Silence}}, nil
		},
		Undrain: func(_ context.Context, who string) (status.Drained, error) {
			return status.Drained{Announced: true, Node: who}, nil
		},
	}
}

// What there is to read, and that a node without a word says why it has none.
func TestDocuments(t *testing.T) {
	ca := testca.New(t)
	url, client := serve(t, ca, documents()), config(t, ca, time.Hour)
	for _, c := range []struct {
		path string
		code int
		body string
	}{
		{"/v1/status", 200, `{"version":1}`}, {"/v1/confirmations", 503, "meshsync does not answer"},
		{"/metrics", 200, "metrics"}, {"/", 404, ""}, {"/v1/drain", 200, `"announced":true`},
	} {
		code, body, err := get(client, url+c.path)
		if err != nil || code != c.code || !strings.Contains(body, c.body) {
			t.Errorf("%s: %d %q %v, want %d %q", c.path, code, body, err, c.code, c.body)
		}
	}
	r, err := (&http.Client{Transport: &http.Transport{TLSClientConfig: client}}).Post(url+"/v1/status", "text/plain", strings.NewReader("x"))
	if err != nil || r.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("POST: %v %v, want 405", r, err)
	}
}

// Both ends are strongly authenticated (DELIV-2): who lacks a good certificate of this mesh reads nothing.
func TestOnlyTheMesh(t *testing.T) {
	ca := testca.New(t)
	url := serve(t, ca, documents())
	good := config(t, ca, time.Hour)
	stranger := config(t, testca.New(t), time.Hour)
	stranger.RootCAs = good.RootCAs
	expired := config(t, ca, -time.Hour)
	old := good.Clone()
	old.MinVersion, old.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	for name, config := range map[string]*tls.Config{
		"no certificate": {RootCAs: good.RootCAs}, "another mesh": stranger, "expired": expired, "TLS 1.2": old,
	} {
		if code, body, err := get(config, url+"/v1/status"); err == nil {
			t.Errorf("%s: %d %q, want no answer at all", name, code, body)
		}
	}
	if _, _, err := get(nil, "http"+strings.TrimPrefix(url, "https")+"/v1/status"); err == nil {
		code, body, _ := get(nil, "http"+strings.TrimPrefix(url, "https")+"/v1/status")
		if code == 200 || strings.Contains(body, "version") {
			t.Errorf("plain HTTP: %d %q", code, body)
		}
	}
	if code, _, err := get(good, url+"/v1/status"); err != nil || code != 200 {
		t.Errorf("the mesh's own certificate: %d %v", code, err)
	}
}

// ask sends a request with the certificate of config.
func ask(t *testing.T, client *http.Client, method, url, body string) (int, string) {
	t.Helper()
	request, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	data, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return r.StatusCode, string(data)
}

func as(t *testing.T, i testca.Identity) *http.Client {
	return &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{TLSClientConfig: i.Load(t).Config(), DisableKeepAlives: true}}
}

// Who may do what is in the certificate; whoever may not is named in the log.
func TestRoles(t *testing.T) {
	ca := testca.New(t)
	node := ca.WithRole("tyo1", identity.Node, time.Hour)
	var log bytes.Buffer
	url := serveAs(t, node.Load(t), documents(), slog.New(slog.NewTextHandler(&log, nil)))
	for _, c := range []struct {
		name, role    string
		reads, orders bool
		who           *testca.Identity
	}{
		{name: "prometheus", role: identity.Observer, reads: true},
		{name: "jane", role: identity.Operator, reads: true, orders: true},
		{name: "distribution-host", role: identity.Host, reads: true, orders: true}, // in somebody's name
		{name: "osa1", role: identity.Node},
		{name: "tyo1", role: identity.Node, reads: true, who: &node}, // itself
		{name: "tyo1", role: identity.Node},                          // its name alone is not it
		{name: "nobody", role: ""},
		{name: "mallory", role: "admin"},
	} {
		who := c.who
		if who == nil {
			i := ca.WithRole(c.name, c.role, time.Hour)
			who = &i
		}
		client := as(t, *who)
		for _, r := range []struct {
			method, path, body string
			may                bool
		}{
			{"GET", "/v1/status", "", c.reads}, {"GET", "/metrics", "", c.reads}, {"GET", "/v1/drain", "", c.reads}, {"HEAD", "/v1/status", "", c.reads},
			{"PUT", "/v1/drain", `{"who":"anna"}`, c.orders}, {"DELETE", "/v1/drain?who=anna", "", c.orders},
		} {
			log.Reset()
			code, body := ask(t, client, r.method, url+r.path, r.body)
			if want := map[bool]int{true: 200, false: 403}[r.may]; code != want {
				t.Errorf("%s with role %q: %s %s: %d %q, want %d", c.name, c.role, r.method, r.path, code, body, want)
			}
			if named := strings.Contains(log.String(), "name="+c.name); named == r.may {
				t.Errorf("%s with role %q: %s %s: log %q", c.name, c.role, r.method, r.path, &log)
			}
		}
	}
}

// Whom the mesh's manifest does not have any more is let in no more, on the connection that is open too; it says nothing of
// others.
func TestRevokedOperators(t *testing.T) {
	ca := testca.New(t)
	var revoked atomic.Bool
	behind := documents()
	var asked atomic.Value
	behind.Refuses = func(role, name string, key release.Digest) string {
		asked.Store(role + " " + name)
		if revoked.Load() && name == "jane" {
			return "its certificate was revoked"
		}
		return ""
	}
	var log bytes.Buffer
	url := serveAs(t, ca.WithRole("tyo1", identity.Node, time.Hour).Load(t), behind, slog.New(slog.NewTextHandler(&log, nil)))
	jane := &http.Client{Transport: &http.Transport{TLSClientConfig: ca.WithRole("jane", identity.Operator, time.Hour).Load(t).Config()}}
	if code, _ := ask(t, jane, "PUT", url+"/v1/drain", ""); code != 200 {
		t.Errorf("before: %d", code)
	}
	revoked.Store(true)
	if code, says := ask(t, jane, "DELETE", url+"/v1/drain", ""); code != 403 || !strings.Contains(says, "revoked") || !strings.Contains(log.String(), "revoked\" name=jane") {
		t.Errorf("after: %d %q, log %s", code, says, &log)
	}
	if asked.Load() != "operator jane" {
		t.Errorf("asked for %v", asked.Load())
	}
	for name, role := range map[string]string{"grafana": identity.Observer, "distribution-host": identity.Host} {
		if code, _ := ask(t, as(t, ca.WithRole(name, role, time.Hour)), "GET", url+"/v1/status", ""); code != 200 {
			t.Errorf("%s: %d", name, code)
		}
		if asked.Load() != role+" "+name {
			t.Errorf("%s: asked for %v", name, asked.Load())
		}
	}
}

// A connection that began in time does not outlive the certificate.
func TestExpiredMeanwhile(t *testing.T) {
	ca := testca.New(t)
	url := serve(t, ca, documents())
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: config(t, ca, 5*time.Second)}} // keeps the connection
	if code, _ := ask(t, client, "GET", url+"/v1/status", ""); code != 200 {
		t.Fatalf("before: %d", code)
	}
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		code, says := ask(t, client, "GET", url+"/v1/status", "")
		if code == 403 && strings.Contains(says, "expired") {
			return
		}
		if code != 200 || time.Now().After(deadline) {
			t.Fatalf("after it has expired: %d %q", code, says)
		}
	}
}

// An order is understood whole or refused, and over mutual TLS it is the certificate's owner who gives it.
func TestOrders(t *testing.T) {
	ca := testca.New(t)
	url, jane := serve(t, ca, documents())+"/v1/drain", as(t, ca.WithRole("jane", identity.Operator, time.Hour))
	for body, want := range map[string]struct {
		code int
		says string
	}{
		"":                                     {200, `"who":"jane"`},
		`{"who":"anna","why":"x"}`:             {200, `"who":"jane","why":"x"`},
		`{"silence":true}`:                     {200, `"silence":true`},
		`{"silense":true}`:                     {400, "silense"},
		`{"wait":"soon"}`:                      {400, "no duration"},
		`{"wait":30}`:                          {400, "wait"},
		`{} {}`:                                {400, "follows"},
		`[]`:                                   {400, "order"},
		`{"why":"` + strings.Repeat("x", 1100): {400, "too large"},
	} {
		if code, says := ask(t, jane, "PUT", url, body); code != want.code || !strings.Contains(says, want.says) {
			t.Errorf("%.40s: %d %q, want %d %q", body, code, says, want.code, want.says)
		}
	}
	if code, says := ask(t, jane, "DELETE", url+"?who=anna", ""); code != 200 || !strings.Contains(says, `"node":"jane"`) {
		t.Errorf("DELETE: %d %q", code, says)
	}
	host := as(t, ca.WithRole("distribution-host", identity.Host, time.Hour))
	if code, says := ask(t, host, "PUT", url, `{"who":"anna"}`); code != 200 || !strings.Contains(says, `"who":"anna at the distribution host"`) {
		t.Errorf("PUT of a distribution host: %d %q", code, says)
	}
	if code, says := ask(t, host, "DELETE", url+"?who=anna", ""); code != 200 || !strings.Contains(says, `"node":"anna at the distribution host"`) {
		t.Errorf("DELETE of a distribution host: %d %q", code, says)
	}
	for _, method := range []string{"PUT", "DELETE"} {
		if code, says := ask(t, host, method, url, ""); code != 400 || !strings.Contains(says, "names nobody") {
			t.Errorf("%s of a distribution host in nobody's name: %d %q", method, code, says)
		}
	}
}

// The owner of the process needs no certificate, and nobody else gets in.
func TestControlSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "control.sock")
	s, err := ServeControl(path, documents(), quiet)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}}}
	if code, says := ask(t, client, "PUT", "http://x/v1/drain", `{"who":"anna"}`); code != 200 || !strings.Contains(says, `"who":"anna"`) {
		t.Errorf("%d %q", code, says)
	}
	if code, says := ask(t, client, "DELETE", "http://x/v1/drain?who=anna", ""); code != 200 || !strings.Contains(says, `"node":"anna"`) {
		t.Errorf("%d %q", code, says)
	}
	if code, _ := ask(t, client, "GET", "http://x/v1/status", ""); code != 404 {
		t.Errorf("status on the control socket: %d", code)
	}
}

// A renewed certificate is shown, and a client of the authority that replaces the old one let in, without a restart.
func TestCertificatesReload(t *testing.T) {
	old, next := testca.New(t), testca.New(t)
	files := old.WithRole("tyo1", identity.Node, time.Hour)
	url := serveAs(t, files.Load(t), documents(), quiet) + "/v1/status"
	before, after := as(t, old.WithRole("jane", identity.Operator, time.Hour)), as(t, next.WithRole("jane", identity.Operator, time.Hour))
	if code, _ := ask(t, before, "GET", url, ""); code != 200 {
		t.Fatalf("%d", code)
	}
	if r, err := after.Get(url); err == nil {
		t.Fatalf("a stranger got %s", r.Status)
	}
	fresh := next.WithRole("tyo1", identity.Node, time.Hour)
	for to, from := range map[string]string{files.Key: fresh.Key, files.CA: fresh.CA, files.Certificate: fresh.Certificate} {
		if err := os.Rename(from, to); err != nil {
			t.Fatal(err)
		}
	}
	lab.Within(t, lab.Patience, "the new authority's client is let in", func() (bool, string) {
		r, err := after.Get(url)
		if err != nil {
			return false, err.Error()
		}
		r.Body.Close()
		return r.StatusCode == 200, r.Status
	})
	if r, err := before.Get(url); err == nil {
		t.Errorf("the old authority's client still gets %s", r.Status)
	}
}

// Nothing of the administrative plane on a shared address, on a wildcard, or without mutual TLS (HOST-2, DELIV-1).
func TestRefusesToListen(t *testing.T) {
	own := testca.New(t).Identity("tyo1", time.Hour).Load(t)
	for name, address := range map[string]string{
		"shared":        "192.0.2.53:8443",
		"shared mapped": "[::ffff:192.0.2.53]:8443",
		"wildcard":      "0.0.0.0:8443",
		"wildcard IPv6": "[::]:8443",
	} {
		if s, err := Serve(netip.MustParseAddrPort(address), []netip.Addr{sharedIP}, open, own, documents(), quiet); err == nil {
			s.Close()
			t.Errorf("%s: listens", name)
		}
	}
	if s, err := ServeMetrics(netip.MustParseAddrPort("0.0.0.0:0"), http.NotFoundHandler(), quiet); err == nil {
		s.Close()
		t.Error("plain metrics for everybody")
	}
}

// A good certificate does not let in what comes from an address that the access list does not have (DELIV-2).
func TestAccessListIsBeforeCertificates(t *testing.T) {
	ca := testca.New(t)
	client := config(t, ca, time.Hour)
	for prefix, welcome := range map[string]bool{"127.0.0.1/32": true, "127.0.0.2/32": false} {
		at := testenv.Local(t)
		s, err := Serve(at, []netip.Addr{sharedIP}, func() identity.AccessList { return identity.AccessList{netip.MustParsePrefix(prefix)} },
			ca.WithRole("tyo1", identity.Node, time.Hour).Load(t), documents(), quiet)
		if err != nil {
			t.Fatal(err)
		}
		if code, _, err := get(client, "https://"+at.String()+"/v1/status"); (err == nil && code == 200) != welcome {
			t.Errorf("with %s in the list: %d, %v", prefix, code, err)
		}
		s.Close()
	}
}

// A flood of connections that say nothing takes no more than its share, and keeps nobody out, not for a moment: neither
// whoever comes while it lasts, nor those who are there already.
func TestStrangersAreShownOut(t *testing.T) {
	ca := testca.New(t)
	url, client := serve(t, ca, documents()), config(t, ca, time.Hour)
	there := &http.Client{Transport: &http.Transport{TLSClientConfig: client}}
	first, _ := ask(t, there, "GET", url+"/v1/status", "")
	flood(t, url, 4*places.Strangers, places.Strangers)
	if code, _, err := get(client, url+"/v1/status"); err != nil || code != 200 {
		t.Errorf("who comes during the flood: %d, %v", code, err)
	}
	reused := false
	request, _ := http.NewRequestWithContext(httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
		GotConn: func(c httptrace.GotConnInfo) { reused = c.Reused }}), "GET", url+"/v1/status", nil)
	if r, err := there.Do(request); err != nil || !reused || first != 200 {
		t.Errorf("who was there: %v, %v, on the same connection: %v", r, err, reused)
	}
}

// flood opens connections that say nothing, waits until the server has shown out all that are too many, and leaves the
// others, for whom there are so many places, open.
func flood(t *testing.T, url string, n, places int) {
	t.Helper()
	var out sync.WaitGroup
	for i := range n {
		conn, err := net.Dial("tcp", strings.TrimPrefix(url, "https://"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		if i < n-places {
			out.Go(func() {
				conn.SetReadDeadline(time.Now().Add(4 * time.Second)) // before the server is tired of it anyway
				if _, err := conn.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) {
					t.Error("a stranger too many is still there")
				}
			})
		}
	}
	out.Wait()
}

// One certificate has its share of the connections too, and the latest get in.
func TestOneCertificateHasItsShare(t *testing.T) {
	ca := testca.New(t)
	url, greedy, other := serve(t, ca, documents()), config(t, ca, time.Hour), config(t, ca, time.Hour)
	idle := &http.Client{Transport: &http.Transport{TLSClientConfig: other}}
	ask(t, idle, "GET", url+"/v1/status", "")
	answers := func(conn *tls.Conn) bool {
		conn.SetDeadline(time.Now().Add(4 * time.Second)) // before the server is tired of it anyway
		fmt.Fprint(conn, "HEAD /v1/status HTTP/1.1\r\nHost: x\r\n\r\n")
		r, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: "HEAD"})
		return err == nil && r.StatusCode == 200
	}
	var conns []*tls.Conn
	for i := range 2 * places.OfOne {
		conn, err := tls.Dial("tcp", strings.TrimPrefix(url, "https://"), greedy)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if !answers(conn) {
			t.Errorf("connection %d gets no answer", i)
		}
		conns = append(conns, conn)
	}
	for i, conn := range conns {
		if got, want := answers(conn), i >= places.OfOne; got != want {
			t.Errorf("after all of them connection %d is open: %v, want %v", i, got, want)
		}
	}
	reused := false
	request, _ := http.NewRequestWithContext(httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
		GotConn: func(c httptrace.GotConnInfo) { reused = c.Reused }}), "GET", url+"/v1/status", nil)
	if _, err := idle.Do(request); err != nil || !reused {
		t.Errorf("another's connection: %v, the same: %v", err, reused)
	}
}

// The DNS server's metrics, plain on loopback, leave the machine over mutual TLS, for who may read; when they do not come,
// that is said.
func TestDNSMetrics(t *testing.T) {
	dns := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "asked_for{path=%q,host=%q} 1\n", r.URL.Path, r.Host)
	}))
	defer dns.Close()
	address := netip.MustParseAddrPort(dns.Listener.Addr().String())
	ca := testca.New(t)
	behind := documents()
	behind.DNSMetrics = MetricsOf(address)
	url := serve(t, ca, behind)
	code, body, err := get(config(t, ca, time.Hour), url+"/metrics/dns")
	if err != nil || code != 200 || body != fmt.Sprintf("asked_for{path=\"/metrics\",host=%q} 1\n", address) {
		t.Errorf("%d, %v: %s", code, err, body)
	}
	if code, _ := ask(t, as(t, ca.WithRole("osa1", identity.Node, time.Hour)), "GET", url+"/metrics/dns", ""); code != 403 {
		t.Errorf("another node reads them: %d", code)
	}
	dns.Close()
	if code, body, _ := get(config(t, ca, time.Hour), url+"/metrics/dns"); code != 502 || !strings.Contains(body, "does not tell its metrics") {
		t.Errorf("of a server that is gone: %d: %s", code, body)
	}
}

// asks asks a node what it holds of a switchover, by a connection that is kept.
func asks(conn *tls.Conn) error {
	conn.SetDeadline(time.Now().Add(lab.Patience))
	fmt.Fprint(conn, "GET /v1/promise?lease=7 HTTP/1.1\r\nHost: x\r\n\r\n")
	r, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return err
	}
	_, err = io.ReadAll(r.Body)
	if r.StatusCode != http.StatusOK {
		return fmt.Errorf("it said %s", r.Status)
	}
	return err
}

// A hundred members that ask at once, since they lost the distribution host, all get their answer, and none is shown out by
// strangers, by other members, or by one of them that is greedy. Who was a member is a stranger.
func TestAHundredMembers(t *testing.T) {
	const members = 100
	ca := testca.New(t)
	keys := map[string]release.Digest{}
	var guard sync.Mutex
	behind := documents()
	behind.Promise = func(context.Context) (status.Held, error) {
		return status.Held{Version: status.Version, Node: "tyo1"}, nil
	}
	behind.Asked, behind.Repository = func(string, int64) {}, http.NotFoundHandler()
	behind.Member = func(name string, key release.Digest) bool {
		guard.Lock()
		defer guard.Unlock()
		return keys[name] == key
	}
	behind.Members = func() int { return members }
	url := serve(t, ca, behind)
	configs := map[string]*tls.Config{}
	for i := range members {
		name := fmt.Sprintf("m%d", i)
		own := ca.WithRole(name, identity.Node, time.Hour).Load(t)
		configs[name], keys[name] = own.Config(), identity.PinOf(own.Certificate())
	}
	conns := map[string]*tls.Conn{}
	var all sync.WaitGroup
	for name, config := range configs {
		all.Go(func() {
			conn, err := tls.Dial("tcp", strings.TrimPrefix(url, "https://"), config)
			if err == nil {
				err = asks(conn)
			}
			if err != nil {
				t.Errorf("%s gets no answer beside the others: %v", name, err)
				return
			}
			guard.Lock()
			defer guard.Unlock()
			conns[name] = conn
		})
	}
	all.Wait()
	flood(t, url, 4*places.Strangers+placesOfMember*members, places.Strangers+placesOfMember*members)
	for range 10 * places.OfOne { // all of m0's, whose first is shown out for them
		conn, err := tls.Dial("tcp", strings.TrimPrefix(url, "https://"), configs["m0"])
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if err := asks(conn); err != nil {
			t.Error(err)
		}
	}
	for name, conn := range conns {
		if err := asks(conn); (err != nil) != (name == "m0") {
			t.Errorf("%s was shown out: %v", name, err)
		}
		conn.Close()
	}
	guard.Lock()
	delete(keys, "m1")
	guard.Unlock()
	conn, err := tls.Dial("tcp", strings.TrimPrefix(url, "https://"), configs["m1"])
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := asks(conn); err == nil || !strings.Contains(err.Error(), "403") {
		t.Errorf("who was a member gets %v", err)
	}
}
