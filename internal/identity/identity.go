// Package identity is who a process of the mesh is: a certificate, its key, and the authority whose certificates it
// takes from others (RFC 3258 2.1, DELIV-2), the addresses that it takes connections from, and how many. Both ends of every
// connection are authenticated, TLS 1.3 only.
//
// The files are looked at again when they change, so that a certificate is replaced without a restart. The sidecar and
// meshctl use it; it may import depot and release.
package identity

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/depot"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
)

// Roles, of which a certificate of the mesh's own authority has one as its organizational unit.
const (
	Node     = "node"              // a member
	Host     = "distribution-host" // asks for confirmations
	Operator = "operator"          // reads, and drains
	Observer = "observer"          // reads
)

// RoleOf is the role in a certificate, "" if it has none.
func RoleOf(c *x509.Certificate) string {
	if len(c.Subject.OrganizationalUnit) == 0 {
		return ""
	}
	return c.Subject.OrganizationalUnit[0]
}

// PinOf is the SHA-256 of a certificate's public key (SubjectPublicKeyInfo), which outlasts a renewal.
func PinOf(c *x509.Certificate) release.Digest { return release.DigestOf(c.RawSubjectPublicKeyInfo) }

// Files are where an identity lies, all PEM.
type Files struct{ Certificate, Key, CA string }

// lookEvery is how old the knowledge of the files may get.
const lookEvery = time.Second

// Identity is made by Load and used by any number of goroutines.
type Identity struct {
	files Files
	log   *slog.Logger

	mu     sync.Mutex
	looked time.Time
	stamps [3]stamp
	config *tls.Config
	fault  string // why the files of now are not used
}

// stamp tells two states of a file apart.
type stamp struct {
	info fs.FileInfo
	time time.Time
	size int64
}

// Load reads the files. What later becomes of them is taken when it is right, and reported to log when it is not; then
// what was read before stays in use.
func Load(files Files, log *slog.Logger) (*Identity, error) {
	i := &Identity{files: files, log: log, looked: time.Now()}
	var err error
	i.stamps = i.look()
	i.config, err = read(files)
	return i, err
}

func read(files Files) (*tls.Config, error) {
	pair, err := tls.LoadX509KeyPair(files.Certificate, files.Key)
	if err != nil {
		return nil, fmt.Errorf("the certificate %s: %w", files.Certificate, err)
	}
	ca, err := os.ReadFile(files.CA)
	if err != nil {
		return nil, fmt.Errorf("the mesh's CA: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(ca) {
		return nil, fmt.Errorf("%s holds no PEM certificate", files.CA)
	}
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		Certificates:           []tls.Certificate{pair},
		ClientAuth:             tls.RequireAndVerifyClientCert,
		ClientCAs:              pool,
		RootCAs:                pool,
		SessionTicketsDisabled: true, // a resumed session would outlive a certificate
	}, nil
}

func (i *Identity) look() (stamps [3]stamp) {
	for n, file := range []string{i.files.Certificate, i.files.Key, i.files.CA} {
		if info, err := os.Stat(file); err == nil {
			stamps[n] = stamp{info, info.ModTime(), info.Size()}
		}
	}
	return stamps
}

func same(a, b [3]stamp) bool {
	for n := range a {
		if (a[n].info == nil) != (b[n].info == nil) {
			return false
		}
		if a[n].info != nil && (!os.SameFile(a[n].info, b[n].info) || a[n].size != b[n].size || !a[n].time.Equal(b[n].time)) {
			return false
		}
	}
	return true
}

// Config is for both ends of a connection that begins now: made of the files as they are, or as they were when they were
// last right.
func (i *Identity) Config() *tls.Config {
	i.mu.Lock()
	defer i.mu.Unlock()
	if time.Since(i.looked) < lookEvery {
		return i.config
	}
	i.looked = time.Now()
	stamps := i.look()
	if same(stamps, i.stamps) {
		return i.config
	}
	i.reload(stamps)
	return i.config
}

// reload takes the files. A certificate is replaced in more than one step, so what does not fit together is tried again.
func (i *Identity) reload(stamps [3]stamp) {
	config, err := read(i.files)
	if err == nil {
		err = inForce(config.Certificates[0].Leaf, i.looked)
	}
	if err != nil {
		if i.fault != err.Error() {
			i.log.Error("the new certificate is not used, the old one stays", "error", err)
		}
		i.fault = err.Error()
		return
	}
	i.config, i.stamps, i.fault = config, stamps, ""
	i.log.Info("certificate replaced", "until", config.Certificates[0].Leaf.NotAfter)
}

func inForce(c *x509.Certificate, now time.Time) error {
	if now.Before(c.NotBefore) || now.After(c.NotAfter) {
		return fmt.Errorf("it is in force from %s to %s, not now", c.NotBefore.Format(time.RFC3339), c.NotAfter.Format(time.RFC3339))
	}
	return nil
}

// Certificate is the one in use.
func (i *Identity) Certificate() *x509.Certificate { return i.Config().Certificates[0].Leaf }

// server is the configuration of a listener: it asks for a certificate of the authority, and takes each connection with
// the files as they are then. Whoever shows another certificate is refused, and named in the log.
func (i *Identity) server(log *Quiet) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		ClientAuth: tls.RequireAndVerifyClientCert,
		GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			config := i.Config().Clone()
			config.ClientAuth = tls.RequireAnyClientCert // and verified here, since crypto/tls does not say whose it refuses
			config.VerifyConnection = func(s tls.ConnectionState) error {
				err := verify(s.PeerCertificates, config.ClientCAs)
				if err != nil {
					log.Warn("", "certificate refused", "name", s.PeerCertificates[0].Subject.CommonName, "remote", hello.Conn.RemoteAddr().String(), "error", err.Error())
				}
				return err
			}
			return config, nil
		},
	}
}

// Transport makes requests to servers of the mesh, on connections made with the files as they are: like t, which is not used
// itself, but a request that begins after the files were replaced goes on a new connection. A kept one would show the old
// certificate for as long as there are requests, and be refused if that was revoked. Requests under way are not disturbed.
func (i *Identity) Transport(t *http.Transport) http.RoundTripper {
	like := t.Clone()
	like.DialTLSContext = i.dialTLS
	return &transport{own: i, like: like}
}

// transport makes an http.Transport for each state of the files.
type transport struct {
	own  *Identity
	like *http.Transport

	mu     sync.Mutex
	config *tls.Config // the one that now's connections are made with
	now    *http.Transport
}

func (t *transport) RoundTrip(r *http.Request) (*http.Response, error) {
	return t.current().RoundTrip(r)
}

func (t *transport) current() *http.Transport {
	config := t.own.Config()
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.config != config {
		if t.now != nil {
			t.now.CloseIdleConnections() // and those in use when they become idle
		}
		t.config, t.now = config, t.like.Clone()
	}
	return t.now
}

// CloseIdleConnections is for http.Client.CloseIdleConnections.
func (t *transport) CloseIdleConnections() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.now != nil {
		t.now.CloseIdleConnections()
	}
}

// dialTLS connects to a server of the mesh.
func (i *Identity) dialTLS(ctx context.Context, network, address string) (net.Conn, error) {
	d := tls.Dialer{NetDialer: &net.Dialer{Timeout: dialTimeout}, Config: i.Config()}
	return d.DialContext(ctx, network, address)
}

const dialTimeout = 10 * time.Second

// Renew puts a later certificate for the same key into the place of the one in use, and reports whether it did. One that
// is not later is none of its concern; one that would not serve is an error.
func (i *Identity) Renew(certificate []byte) (bool, error) {
	config := i.Config()
	key, err := os.ReadFile(i.files.Key)
	if err != nil {
		return false, err
	}
	offered, err := tls.X509KeyPair(certificate, key)
	if err != nil {
		return false, fmt.Errorf("the certificate offered: %w", err)
	}
	leaf, mine := offered.Leaf, config.Certificates[0].Leaf
	if !leaf.NotAfter.After(mine.NotAfter) {
		return false, nil
	}
	if leaf.Subject.CommonName != mine.Subject.CommonName {
		return false, fmt.Errorf("the certificate offered is of %q, this is %q", leaf.Subject.CommonName, mine.Subject.CommonName)
	}
	if err := errors.Join(verify(chainOf(offered), config.RootCAs), inForce(leaf, time.Now())); err != nil {
		return false, fmt.Errorf("the certificate offered: %w", err)
	}
	return true, depot.WriteFile(filepath.Dir(i.files.Certificate), filepath.Base(i.files.Certificate), certificate, 0o644)
}

// Vouched says why the certificate is none that the mesh's authority vouches for now; nil if it does.
func (i *Identity) Vouched() error {
	c := i.Config()
	return verify(chainOf(c.Certificates[0]), c.ClientCAs)
}

// verify says why a certificate, which comes first in its chain, is none of a client that the authorities vouch for.
func verify(chain []*x509.Certificate, roots *x509.CertPool) error {
	between := x509.NewCertPool()
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	_, err := chain[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	return err
}

// chainOf is a certificate and those that come with it; what is none is left out.
func chainOf(c tls.Certificate) []*x509.Certificate {
	chain := []*x509.Certificate{c.Leaf}
	for _, der := range c.Certificate[1:] {
		if between, err := x509.ParseCertificate(der); err == nil {
			chain = append(chain, between)
		}
	}
	return chain
}
