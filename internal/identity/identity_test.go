package identity_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/identity"
	"github.com/coredns-anycast/coredns-anycast/internal/lab"
	"github.com/coredns-anycast/coredns-anycast/internal/testca"
)

func files(i testca.Identity) identity.Files {
	return identity.Files{Certificate: i.Certificate, Key: i.Key, CA: i.CA}
}

// Files that are not there or not what they should be are errors.
func TestBadFiles(t *testing.T) {
	i := testca.New(t).Identity("a", time.Hour)
	other := testca.New(t).Identity("b", time.Hour)
	for name, f := range map[string]identity.Files{
		"no certificate": {Certificate: "/nowhere", Key: i.Key, CA: i.CA},
		"no CA":          {Certificate: i.Certificate, Key: i.Key, CA: "/nowhere"},
		"CA is a key":    {Certificate: i.Certificate, Key: i.Key, CA: i.Key},
		"another's key":  {Certificate: i.Certificate, Key: other.Key, CA: i.CA},
	} {
		if _, err := identity.Load(f, slog.New(slog.DiscardHandler)); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func put(t *testing.T, from, to string) {
	t.Helper()
	data, err := os.ReadFile(from)
	lab.Must(t, err)
	lab.Must(t, os.WriteFile(to+".new", data, 0o600))
	lab.Must(t, os.Rename(to+".new", to))
}

// A listener and a client take new files, key and certificate one after the other, without an end of service; wrong ones
// are reported once and change nothing.
func TestFilesAreReplaced(t *testing.T) {
	ca := testca.New(t)
	at := files(ca.Identity("tyo1", time.Hour))
	var log bytes.Buffer
	own, err := identity.Load(at, slog.New(slog.NewTextHandler(&log, nil)))
	lab.Must(t, err)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Write([]byte(r.TLS.PeerCertificates[0].Subject.CommonName))
	}))
	server.Listener = identity.Places{Strangers: 8, Known: 8, OfOne: 8, Handshake: 10 * time.Second}.TLS(server.Listener, own, slog.New(slog.DiscardHandler))
	server.Start()
	defer server.Close()
	server.URL = "https" + strings.TrimPrefix(server.URL, "http")
	client := ca.Identity("client", time.Hour).Load(t)
	presented := func() string {
		conn, err := tls.Dial("tcp", server.Listener.Addr().String(), client.Config())
		lab.Must(t, err)
		defer conn.Close()
		return conn.ConnectionState().PeerCertificates[0].SerialNumber.String()
	}
	first := presented()

	bad := testca.New(t).Identity("tyo1", time.Hour)
	put(t, bad.Certificate, at.Certificate)
	lab.WaitFor(t, "a report", func() bool { presented(); return strings.Contains(log.String(), "the old one stays") })
	if presented() != first {
		t.Error("a certificate without its key is presented")
	}
	expired := ca.Identity("tyo1", -time.Hour)
	put(t, expired.Key, at.Key)
	put(t, expired.Certificate, at.Certificate)
	lab.WaitFor(t, "a report", func() bool { presented(); return strings.Contains(log.String(), "not now") })
	if presented() != first {
		t.Error("an expired certificate is presented")
	}

	next := ca.Identity("tyo1", 2*time.Hour)
	put(t, next.Key, at.Key)
	put(t, next.Certificate, at.Certificate)
	lab.WaitFor(t, "the new certificate", func() bool { return presented() != first })
	if n := strings.Count(log.String(), "level=ERROR"); n > 4 {
		t.Errorf("%d reports:\n%s", n, log.String())
	}
	response, err := (&http.Client{Transport: own.Transport(&http.Transport{})}).Get(server.URL)
	lab.Must(t, err)
	response.Body.Close()
	if got := response.TLS.PeerCertificates[0].NotAfter; !got.Equal(own.Certificate().NotAfter) {
		t.Errorf("ends %v, want %v", got, own.Certificate().NotAfter)
	}
}

// A certificate that is offered goes in only if it is a later one of this node, for its key and of its authority.
func TestRenew(t *testing.T) {
	ca := testca.New(t)
	at := files(ca.Identity("tyo1", time.Hour))
	own, err := identity.Load(at, slog.New(slog.DiscardHandler))
	lab.Must(t, err)
	before, err := os.ReadFile(at.Certificate)
	lab.Must(t, err)
	for name, c := range map[string]struct {
		offered []byte
		fails   bool
	}{
		"the same":          {before, false},
		"an earlier one":    {ca.Certify("tyo1", at.Key, time.Minute), false},
		"of another name":   {ca.Certify("osa1", at.Key, 2*time.Hour), true},
		"another authority": {testca.New(t).Certify("tyo1", at.Key, 2*time.Hour), true},
		"for another key":   {ca.Certify("tyo1", ca.Identity("x", time.Hour).Key, 2*time.Hour), true},
		"no certificate":    {[]byte("<html>"), true},
	} {
		took, err := own.Renew(c.offered)
		if took || (err != nil) != c.fails {
			t.Errorf("%s: taken %v, error %v", name, took, err)
		}
	}
	if now, _ := os.ReadFile(at.Certificate); !bytes.Equal(now, before) {
		t.Fatal("the file has changed")
	}
	good := ca.Certify("tyo1", at.Key, 2*time.Hour)
	took, err := own.Renew(good)
	if !took || err != nil {
		t.Fatalf("taken %v, error %v", took, err)
	}
	if now, _ := os.ReadFile(at.Certificate); !bytes.Equal(now, good) {
		t.Error("the file has not changed")
	}
	lab.WaitFor(t, "its use", func() bool { return time.Until(own.Certificate().NotAfter) > 90*time.Minute })
}

// TestANewCertificateEndsKeptConnections: a client whose certificate was revoked is refused on the connection that it keeps. When its
// files are replaced, the next request shows the new certificate, and until the next replacement one connection serves all.
func TestANewCertificateEndsKeptConnections(t *testing.T) {
	ca := testca.New(t)
	var revoked atomic.Value
	revoked.Store("")
	pin := func(c *x509.Certificate) string { return identity.PinOf(c).String() }
	var connections atomic.Int32
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if pin(r.TLS.PeerCertificates[0]) == revoked.Load() {
			http.Error(w, "its certificate was revoked", http.StatusForbidden)
		}
	}))
	server.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			connections.Add(1)
		}
	}
	server.TLS = ca.Identity("dist", time.Hour).Load(t).Config()
	server.StartTLS()
	defer server.Close()
	at := files(ca.Identity("tyo1", time.Hour))
	own, err := identity.Load(at, slog.New(slog.DiscardHandler))
	lab.Must(t, err)
	client := &http.Client{Transport: own.Transport(&http.Transport{})}
	defer client.CloseIdleConnections()
	status := func() int {
		t.Helper()
		response, err := client.Get(server.URL)
		lab.Must(t, err)
		defer response.Body.Close()
		_, err = io.Copy(io.Discard, response.Body)
		lab.Must(t, err)
		return response.StatusCode
	}
	if s := status(); s != http.StatusOK {
		t.Fatalf("status %d", s)
	}
	revoked.Store(pin(own.Certificate()))
	if s := status(); s != http.StatusForbidden {
		t.Fatalf("status %d with the revoked certificate", s)
	}
	next := ca.Identity("tyo1", 2*time.Hour)
	put(t, next.Key, at.Key)
	put(t, next.Certificate, at.Certificate)
	lab.WaitFor(t, "the new certificate", func() bool { return status() == http.StatusOK })
	if n := connections.Load(); n != 2 {
		t.Errorf("%d connections, want 2", n)
	}
}
