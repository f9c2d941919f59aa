package xfr

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"
)

// TLS is how a primary is spoken to over TLS (RFC 9103). It is strict: the server is who it should be, or nothing is sent.
type TLS struct {
	ServerName       string // in the server's certificate; empty: the address must be
	CA               string // PEM file of those who may have signed it
	Pins             []Pin  // or the server's public key is one of these; with both, both hold
	Certificate, Key string // PEM files of our own end (mutual authentication); empty: none
}

// Pin is the SHA-256 digest of a certificate's SubjectPublicKeyInfo (RFC 7858 4.2).
type Pin [sha256.Size]byte

// ParsePin reads a Pin in base64.
func ParsePin(s string) (Pin, error) {
	b, err := base64.StdEncoding.DecodeString(s)
	if err != nil || len(b) != sha256.Size {
		return Pin{}, fmt.Errorf("%q is not a pin: base64 of the SHA-256 digest of a public key", s)
	}
	return Pin(b), nil
}

// String is it in base64.
func (p Pin) String() string { return base64.StdEncoding.EncodeToString(p[:]) }

// handshake puts TLS over a connection, and closes it if that fails. Files are read each time, so that they can be
// renewed without a restart.
func (t *TLS) handshake(ctx context.Context, conn net.Conn, address netip.Addr, now func() time.Time) (net.Conn, error) {
	config, err := t.config(address, now)
	if err != nil {
		conn.Close()
		return nil, err
	}
	secure := tls.Client(conn, config)
	if err := secure.HandshakeContext(ctx); err != nil {
		conn.Close()
		return nil, fmt.Errorf("TLS: %w", err)
	}
	return secure, nil
}

func (t *TLS) config(address netip.Addr, now func() time.Time) (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS13, NextProtos: []string{"dot"}, ServerName: t.ServerName, Time: now}
	if c.ServerName == "" {
		c.ServerName = address.String()
	}
	if t.CA != "" {
		pem, err := os.ReadFile(t.CA)
		if err != nil {
			return nil, err
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s: no PEM certificate", t.CA)
		}
	} else {
		c.InsecureSkipVerify = true // the pin is what is verified
	}
	if t.Certificate != "" {
		if err := private(t.Key); err != nil {
			return nil, err
		}
		own, err := tls.LoadX509KeyPair(t.Certificate, t.Key)
		if err != nil {
			return nil, err
		}
		c.Certificates = []tls.Certificate{own}
	}
	c.VerifyConnection = t.verify
	return c, nil
}

// verify checks the pins. ALPN needs no check: a server that chooses another protocol than "dot" ends the handshake, and
// one that knows none, as NSD 4.6 does not, is still who it should be (RFC 9103 7.1 wants it to choose).
func (t *TLS) verify(s tls.ConnectionState) error {
	if len(t.Pins) == 0 {
		return nil
	}
	if len(s.PeerCertificates) == 0 {
		return errors.New("the server has no certificate")
	}
	if pin := Pin(sha256.Sum256(s.PeerCertificates[0].RawSubjectPublicKeyInfo)); !slices.Contains(t.Pins, pin) {
		return fmt.Errorf("the server's public key is %s, which is not pinned", pin)
	}
	return nil
}
