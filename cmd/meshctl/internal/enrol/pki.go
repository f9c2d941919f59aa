package enrol

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/hint"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/home"
	"github.com/coredns-anycast/coredns-anycast/internal/depot"
	"github.com/coredns-anycast/coredns-anycast/internal/identity"
)

// HostName is the common name of this host's certificate. No member may have it.
const HostName = "distribution-host"

const (
	authorityYears   = 10
	certificateYears = 2
	operatorDays     = 90 // people come and go, and can do more than read
	maxPEMBytes      = 64 << 10
)

// place is a home, open for writing or not, as a place for certificates.
type place interface {
	Path(elem ...string) string
	Now() time.Time
}

const (
	pkiDir   = "pki"
	nodesDir = "members"
	// operatorsDir has a bundle for each operator and observer.
	operatorsDir = "operators"
)

// credential is a certificate and its key, as PEM.
type credential struct{ cert, key []byte }

// makeAuthority makes the mesh's certificate authority, or takes the one that it is given, and this host's certificate.
func makeAuthority(h place, o InitOptions) error {
	ca, err := o.authority(h.Now())
	if err != nil {
		return err
	}
	if err := writeCredential(h, pkiDir, "ca", ca); err != nil {
		return err
	}
	return issue(h, pkiDir, "host", subject{HostName, identity.Host, o.SANs})
}

// authority is a new one, or an operator's own.
func (o InitOptions) authority(now time.Time) (credential, error) {
	if o.CA != "" || o.CAKey != "" {
		return ownAuthority(o.CA, o.CAKey)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return credential{}, err
	}
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: "mesh " + o.Mesh},
		NotBefore:             now.Add(-time.Hour),
		NotAfter:              now.AddDate(authorityYears, 0, 0),
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLenZero:        true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	return certify(template, template, key, key)
}

// ownAuthority reads a certificate that may sign others, and its key.
func ownAuthority(cert, key string) (credential, error) {
	if cert == "" || key == "" {
		return credential{}, errors.New("an authority of your own is two files: --ca and --ca-key")
	}
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		return credential{}, fmt.Errorf("certificate authority: %w", err)
	}
	if !pair.Leaf.IsCA {
		return credential{}, fmt.Errorf("certificate authority: %s is not one (CA:TRUE is missing)", cert)
	}
	var c credential
	if c.cert, err = os.ReadFile(cert); err != nil {
		return c, err
	}
	c.key, err = os.ReadFile(key)
	return c, err
}

// subject is whom a certificate is for.
type subject struct {
	name string
	role string
	sans []string // names and addresses
}

// ends is when a certificate that begins now is over.
func (s subject) ends(now time.Time) time.Time {
	if s.role == identity.Operator {
		return now.AddDate(0, 0, operatorDays)
	}
	return now.AddDate(certificateYears, 0, 0)
}

// errAuthorityAway is wrapped when the authority's key is not where it is looked for.
var errAuthorityAway = errors.New("the certificate authority's key is not there")

// authority is the mesh's, with its key.
func authority(h place) (tls.Certificate, error) {
	ca, err := tls.LoadX509KeyPair(h.Path(pkiDir, "ca.crt"), h.Path(pkiDir, "ca.key"))
	if errors.Is(err, fs.ErrNotExist) {
		return ca, hint.Errorf("put it back for this command; it may be kept offline otherwise", "%w: %s", errAuthorityAway, h.Path(pkiDir, "ca.key"))
	}
	if err != nil {
		return ca, fmt.Errorf("certificate authority: %w", err)
	}
	return ca, nil
}

// issue makes a key and a certificate for it, and puts both into a directory of the home.
func issue(h place, dir, file string, s subject) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	return issueFor(h, key, dir, file, s)
}

// reissue makes a new certificate for the key that lies in a directory of the home.
func reissue(h place, dir, file string, s subject) error {
	old, err := tls.LoadX509KeyPair(h.Path(dir, file+".crt"), h.Path(dir, file+".key"))
	if err != nil {
		return err
	}
	key, ok := old.PrivateKey.(crypto.Signer)
	if !ok {
		return fmt.Errorf("%s: a key of type %T cannot be certified", h.Path(dir, file+".key"), old.PrivateKey)
	}
	return issueFor(h, key, dir, file, s)
}

func issueFor(h place, key crypto.Signer, dir, file string, s subject) error {
	ca, err := authority(h)
	if err != nil {
		return err
	}
	now := h.Now()
	template := &x509.Certificate{
		Subject:     pkix.Name{CommonName: s.name, OrganizationalUnit: []string{s.role}},
		NotBefore:   now.Add(-time.Hour),
		NotAfter:    earlier(s.ends(now), ca.Leaf.NotAfter),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	for _, san := range s.sans {
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
	return writeCredential(h, dir, file, made)
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// certify signs template by parent's key for the key given.
func certify(template, parent *x509.Certificate, key crypto.Signer, by any) (credential, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return credential{}, err
	}
	template.SerialNumber = serial
	cert, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), by)
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

func writeCredential(h place, dir, file string, c credential) error {
	return errors.Join(
		depot.WriteFile(h.Path(dir), file+".key", c.key, 0o600),
		depot.WriteFile(h.Path(dir), file+".crt", c.cert, 0o644),
	)
}

// readCertificate is the first certificate of a PEM file.
func readCertificate(dir, file string) (*x509.Certificate, error) {
	data, err := depot.ReadFile(dir, file, maxPEMBytes)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(data)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, fmt.Errorf("%s: no PEM certificate at its beginning", filepath.Join(dir, file))
	}
	return x509.ParseCertificate(block.Bytes)
}

// MemberCertificate is the newest certificate of a member, in PEM; fs.ErrNotExist is wrapped if it was not made here.
func MemberCertificate(h *home.Home, name string) ([]byte, error) {
	return depot.ReadFile(h.Path(nodesDir, name), "node.crt", maxPEMBytes)
}

// Identity is how this host meets members, as client and as server. Whether a certificate's owner is still a member is
// asked of each request.
func Identity(h *home.Home, log *slog.Logger) (*identity.Identity, error) {
	at := func(file string) string { return h.Path(pkiDir, file) }
	return identity.Load(identity.Files{Certificate: at("host.crt"), Key: at("host.key"), CA: at("ca.crt")}, log)
}
