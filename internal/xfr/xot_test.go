package xfr

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/primarytest"
	"github.com/coredns-anycast/coredns-anycast/internal/testca"
	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
	"github.com/coredns-anycast/coredns-anycast/internal/zone"
)

// withTLS lets a server speak DNS over TLS, and trust clients of the CA where it can.
func withTLS(t *testing.T, ca *testca.CA) func(*primarytest.Server) {
	return func(d *primarytest.Server) {
		d.TLS = testenv.Local(t)
		own := ca.Identity("primary", time.Hour)
		for name, from := range map[string]string{"server.crt": own.Certificate, "server.key": own.Key, "ca.crt": own.CA} {
			data, err := os.ReadFile(from)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(d.Dir, name), data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func pinOf(t *testing.T, file string) Pin {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(data)
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return sha256.Sum256(cert.RawSubjectPublicKeyInfo)
}

// Transfers over TLS (RFC 9103), from BIND with mutual authentication, and from NSD: both know who the other is, or
// nothing is transferred.
func TestTransfersOverTLS(t *testing.T) {
	t.Parallel()
	const origin = "example.org."
	ca, stranger := testca.New(t), testca.New(t)
	ours, other := ca.Identity("us", time.Hour), stranger.Identity("us", time.Hour)
	for _, kind := range []string{"named", "nsd"} { // Knot 3.2 does not listen on TLS
		t.Run(kind, func(t *testing.T) {
			text := func(serial uint32) string { return primarytest.ZoneText(origin, serial, 5000, int(serial)) }
			d := primarytest.NewServer(t, kind, map[string]string{origin: text(1)}, withTLS(t, ca))
			pin := pinOf(t, filepath.Join(d.Dir, "server.crt"))
			with := func(tls TLS) Primary { return Primary{Address: d.TLS, Key: key256, TLS: &tls} }
			good := TLS{CA: ours.CA, Certificate: ours.Certificate, Key: ours.Key}

			before := primarytest.Parsed(t, origin, text(1))
			got := inOneSession(t, with(good), nil, nil)
			if got.Delta != nil || !strings.Contains(with(good).String(), "TLS") {
				t.Fatalf("%+v", got)
			}
			primarytest.SameZone(t, got.Zone, before)
			d.Reload(origin, text(2), 2)
			if got = inOneSession(t, with(good), &Version{1, before.Len()}, before); got.Delta == nil {
				t.Fatalf("%+v", got)
			}
			primarytest.SameZone(t, got.Zone, primarytest.Parsed(t, origin, text(2)))

			for name, want := range map[string]struct {
				tls TLS
				err string
			}{
				"pinned":                     {TLS{Pins: []Pin{{1}, pin}, Certificate: ours.Certificate, Key: ours.Key}, ""},
				"pinned, with CA":            {TLS{CA: ours.CA, Pins: []Pin{pin}, Certificate: ours.Certificate, Key: ours.Key}, ""},
				"another pin":                {TLS{CA: ours.CA, Pins: []Pin{{1}}, Certificate: ours.Certificate, Key: ours.Key}, "which is not pinned"},
				"another CA":                 {TLS{CA: other.CA, Certificate: ours.Certificate, Key: ours.Key}, "unknown authority"},
				"another name":               {TLS{CA: ours.CA, ServerName: "other.example", Certificate: ours.Certificate, Key: ours.Key}, "other.example"},
				"a key that others may read": {TLS{CA: ours.CA, Certificate: ours.Certificate, Key: readable(t, ours.Key)}, "chmod 600"},
			} {
				checkTLS(t, name, with(want.tls), want.err)
			}
			if kind == "named" { // NSD 4.6 asks clients for no certificate
				checkTLS(t, "no certificate", with(TLS{CA: ours.CA}), "does it take our certificate")
				checkTLS(t, "a stranger's certificate", with(TLS{CA: ours.CA, Certificate: other.Certificate, Key: other.Key}), "does it take our certificate")
			}
		})
	}
}

// inOneSession asks for the SOA of example.org., and transfers it over the same connection (RFC 9103 6.3.2).
func inOneSession(t *testing.T, p Primary, have *Version, before *zone.Zone) Transferred {
	t.Helper()
	c := Client{Limits: testLimits, Now: time.Now}
	soa, s, err := c.SOA(t.Context(), p, "example.org.")
	if err != nil || s == nil {
		t.Fatalf("session %v, error %v", s, err)
	}
	got, doubt, err := c.Transfer(t.Context(), p, s, "example.org.", have, func() (*zone.Zone, error) { return before, nil })
	if doubt != nil || err != nil || got.Zone.Serial() != soa.Serial {
		t.Fatalf("%+v of serial %d, doubt %v, error %v", got, soa.Serial, doubt, err)
	}
	return got
}

func readable(t *testing.T, key string) string {
	t.Helper()
	data, err := os.ReadFile(key)
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(name, data, 0o644); err != nil {
		t.Fatal(err)
	}
	return name
}

func checkTLS(t *testing.T, name string, p Primary, want string) {
	t.Helper()
	c := Client{Limits: testLimits, Now: time.Now}
	got, err := c.once(t.Context(), p, nil, "example.org.", nil, nil)
	switch {
	case want == "" && err != nil:
		t.Errorf("%s: %v", name, err)
	case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
		t.Errorf("%s: %+v, error %v; want %q", name, got, err, want)
	}
}

// What is not TLS 1.3, or not DNS over TLS, gets no request, and nothing is tried without TLS.
func TestStrictTLS(t *testing.T) {
	own := testca.New(t).Identity("primary", time.Hour)
	pair, err := tls.LoadX509KeyPair(own.Certificate, own.Key)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		config *tls.Config
		want   string
	}{
		"TLS 1.2": {&tls.Config{MaxVersion: tls.VersionTLS12, NextProtos: []string{"dot"}}, "protocol version"},
		"HTTP":    {&tls.Config{NextProtos: []string{"h2"}}, "no application protocol"},
	} {
		c.config.Certificates = []tls.Certificate{pair}
		l, err := tls.Listen("tcp", "127.0.0.1:0", c.config)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		asked := make(chan int, 1)
		go func() {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			defer conn.Close()
			n, _ := conn.Read(make([]byte, 100))
			asked <- n
		}()
		p := Primary{Address: l.Addr().(*net.TCPAddr).AddrPort(), TLS: &TLS{CA: own.CA}}
		checkTLS(t, name, p, c.want)
		if n := <-asked; n > 0 {
			t.Errorf("%s: %d octets were sent", name, n)
		}
	}
}
