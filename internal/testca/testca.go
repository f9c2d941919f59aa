// Package testca makes the certificates of a small mesh for tests. Only tests import it.
package testca

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/identity"
)

// CA signs for one mesh.
type CA struct {
	t    testing.TB
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// Identity is the files of one holder.
type Identity struct {
	Certificate, Key, CA string
}

// Load is the identity of the files.
func (i Identity) Load(t testing.TB) *identity.Identity {
	t.Helper()
	own, err := identity.Load(identity.Files{Certificate: i.Certificate, Key: i.Key, CA: i.CA}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return own
}

func New(t testing.TB) *CA {
	key := newKey(t)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "mesh"}, IsCA: true,
		BasicConstraintsValid: true, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &CA{t: t, cert: cert, key: key}
}

// Identity makes a key and a certificate for 127.0.0.1, as server and as client, that ends after its length.
func (ca *CA) Identity(name string, length time.Duration) Identity {
	return ca.WithRole(name, "", length)
}

// WithRole is Identity with a role in the certificate.
func (ca *CA) WithRole(name, role string, length time.Duration) Identity {
	key := newKey(ca.t)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		ca.t.Fatal(err)
	}
	dir := ca.t.TempDir()
	return Identity{
		Certificate: ca.write(dir, "node.crt", "CERTIFICATE", ca.certify(name, role, key, length)),
		Key:         ca.write(dir, "node.key", "PRIVATE KEY", private),
		CA:          ca.write(dir, "ca.crt", "CERTIFICATE", ca.cert.Raw),
	}
}

// Certify makes another certificate, in PEM, for the key in a file.
func (ca *CA) Certify(name, keyFile string, length time.Duration) []byte {
	data, err := os.ReadFile(keyFile)
	if err != nil {
		ca.t.Fatal(err)
	}
	block, _ := pem.Decode(data)
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		ca.t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.certify(name, "", key.(*ecdsa.PrivateKey), length)})
}

func (ca *CA) certify(name, role string, key *ecdsa.PrivateKey, length time.Duration) []byte {
	template := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: time.Now().Add(length),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	if role != "" {
		template.Subject.OrganizationalUnit = []string{role}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.cert, key.Public(), ca.key)
	if err != nil {
		ca.t.Fatal(err)
	}
	return der
}

func (ca *CA) write(dir, name, kind string, der []byte) string {
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		ca.t.Fatal(err)
	}
	return path
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}
