package mirror

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"os"
	"time"
)

func newTransport() *http.Transport {
	return &http.Transport{TLSHandshakeTimeout: 10 * time.Second, ResponseHeaderTimeout: 10 * time.Second, IdleConnTimeout: 2 * time.Minute,
		MaxConnsPerHost: 4, MaxIdleConnsPerHost: 4, MaxResponseHeaderBytes: 64 << 10}
}

func newClient(t http.RoundTripper) *http.Client {
	return &http.Client{Transport: t, CheckRedirect: func(*http.Request, []*http.Request) error {
		return errors.New("a repository does not redirect")
	}}
}

// clientFor is the client of a repository. A bucket or a CDN has a certificate that others vouch for, and is not told who
// this node is; what it serves is verified as everywhere (DELIV-3).
func (m *Mirror) clientFor(url string) (*http.Client, error) {
	ca := m.cfg.CA[url]
	if ca == "" {
		return m.client, nil
	}
	if client := m.public[ca]; client != nil {
		return client, nil
	}
	trust := &tls.Config{MinVersion: tls.VersionTLS12}
	if ca != "system" {
		data, err := os.ReadFile(ca)
		if err != nil {
			return nil, err
		}
		trust.RootCAs = x509.NewCertPool()
		if !trust.RootCAs.AppendCertsFromPEM(data) {
			return nil, fmt.Errorf("%s holds no PEM certificate", ca)
		}
	}
	transport := newTransport()
	transport.TLSClientConfig = trust
	m.public[ca] = newClient(transport)
	return m.public[ca], nil
}

// renewer is who may have a newer certificate for this node: the repository that is good, or else the first of the mesh's
// own; "" if there is none.
func (m *Mirror) renewer(good string) string {
	if m.cfg.CA[good] == "" {
		return good
	}
	for _, url := range m.cfg.URLs {
		if m.cfg.CA[url] == "" {
			return url
		}
	}
	return ""
}
