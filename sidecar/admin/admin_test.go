package admin

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/testca"
)

var (
	quiet    = slog.New(slog.DiscardHandler)
	anyPort  = netip.MustParseAddrPort("127.0.0.1:0")
	sharedIP = netip.MustParseAddr("192.0.2.53")
)

func config(t *testing.T, ca *testca.CA, length time.Duration) *tls.Config {
	t.Helper()
	return ca.Identity("tyo1", length).Load(t).Config()
}

func serve(t *testing.T, ca *testca.CA, d Documents) string {
	t.Helper()
	if d.Metrics == nil {
		d.Metrics = http.NotFoundHandler()
	}
	s, err := Serve(anyPort, []netip.Addr{sharedIP}, ca.Identity("tyo1", time.Hour).Load(t), d, quiet)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return "https://" + s.Addr().String()
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

func documents() Documents {
	return Documents{
		Status:        func(context.Context) (any, error) { return map[string]int{"version": 1}, nil },
		Confirmations: func(context.Context) (any, error) { return nil, errors.New("meshsync does not answer") },
		Metrics:       http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "metrics") }),
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
		{"/metrics", 200, "metrics"}, {"/", 404, ""}, {"/v1/drain", 404, ""},
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

// Nothing of the administrative plane on a shared address, on a wildcard, or without mutual TLS (HOST-2, DELIV-1).
func TestRefusesToListen(t *testing.T) {
	own := testca.New(t).Identity("tyo1", time.Hour).Load(t)
	for name, address := range map[string]string{
		"shared":        "192.0.2.53:8443",
		"shared mapped": "[::ffff:192.0.2.53]:8443",
		"wildcard":      "0.0.0.0:8443",
		"wildcard IPv6": "[::]:8443",
	} {
		if s, err := Serve(netip.MustParseAddrPort(address), []netip.Addr{sharedIP}, own, documents(), quiet); err == nil {
			s.Close()
			t.Errorf("%s: listens", name)
		}
	}
	if s, err := ServeMetrics(netip.MustParseAddrPort("0.0.0.0:0"), http.NotFoundHandler(), quiet); err == nil {
		s.Close()
		t.Error("plain metrics for everybody")
	}
}

// A flood of connections that say nothing takes no more than its share, and does not keep others out for long.
func TestConnectionsAreBounded(t *testing.T) {
	ca := testca.New(t)
	url, client := serve(t, ca, documents()), config(t, ca, time.Hour)
	for range connections + 8 {
		conn, err := net.Dial("tcp", strings.TrimPrefix(url, "https://"))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
	}
	deadline := time.Now().Add(60 * time.Second)
	for {
		if code, _, err := get(client, url+"/v1/status"); err == nil && code == 200 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("silent connections keep everybody else out")
		}
	}
}
