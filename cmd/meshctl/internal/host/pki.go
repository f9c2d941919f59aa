package host

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"path/filepath"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/depot"
)

// HostName is the common name of this host's certificate. No member may have it.
const HostName = "distribution-host"

const (
	authorityYears   = 10
	certificateYears = 2
	maxPEMBytes      = 64 << 10
)

// credential is a certificate and its key, as PEM.
type credential struct{ cert, key []byte }

// makeAuthority makes the mesh's certificate authority and this host's certificate.
func (h *Host) makeAuthority(o InitOptions) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	now := h.clock()
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: "mesh " + o.Mesh},
		NotBefore:             now.Add(-time.Hour),
		NotAfter:              now.AddDate(authorityYears, 0, 0),
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLenZero:        true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	ca, err := certify(template, template, key, key)
	if err != nil {
		return err
	}
	if err := h.writeCredential(pkiDir, "ca", ca); err != nil {
		return err
	}
	return h.issue(pkiDir, "host", HostName, o.SANs)
}

// issue makes a certificate for server and client use, and puts it and its key into a directory of the home.
func (h *Host) issue(dir, file, name string, sans []string) error {
	ca, err := tls.LoadX509KeyPair(h.path(pkiDir, "ca.crt"), h.path(pkiDir, "ca.key"))
	if err != nil {
		return fmt.Errorf("certificate authority: %w", err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	now := h.clock()
	template := &x509.Certificate{
		Subject:     pkix.Name{CommonName: name},
		NotBefore:   now.Add(-time.Hour),
		NotAfter:    now.AddDate(certificateYears, 0, 0),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	for _, san := range sans {
		if ip := net.ParseIP(san); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, san)
		}
	}
	made, err := certify(template, ca.Leaf, key, ca.PrivateKey)
	if err != nil {
		return err
	}
	return h.writeCredential(dir, file, made)
}

// certify signs template by parent's key for the key given.
func certify(template, parent *x509.Certificate, key *ecdsa.PrivateKey, by any) (credential, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return credential{}, err
	}
	template.SerialNumber = serial
	cert, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, by)
	if err != nil {
		return credential{}, err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return credential{}, err
	}
	return credential{
		pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}),
	}, nil
}

func (h *Host) writeCredential(dir, file string, c credential) error {
	return errors.Join(
		depot.WriteFile(h.path(dir), file+".key", c.key, 0o600),
		depot.WriteFile(h.path(dir), file+".crt", c.cert, 0o644),
	)
}

// TLS is how this host meets members, as client and as server: TLS 1.3, both sides with certificates of the mesh's
// authority. Whether a certificate's owner is still a member is asked of each request (Member).
func TLS(home string) (*tls.Config, error) {
	own, err := tls.LoadX509KeyPair(filepath.Join(home, pkiDir, "host.crt"), filepath.Join(home, pkiDir, "host.key"))
	if err != nil {
		return nil, fmt.Errorf("this host's certificate: %w", err)
	}
	data, err := depot.ReadFile(filepath.Join(home, pkiDir), "ca.crt", maxPEMBytes)
	if err != nil {
		return nil, err
	}
	authority := x509.NewCertPool()
	if !authority.AppendCertsFromPEM(data) {
		return nil, fmt.Errorf("%s: no certificate in it", filepath.Join(home, pkiDir, "ca.crt"))
	}
	return &tls.Config{
		MinVersion:   tls.VersionTLS13,
		Certificates: []tls.Certificate{own},
		RootCAs:      authority,
		ClientCAs:    authority,
		ClientAuth:   tls.RequireAndVerifyClientCert,
	}, nil
}
