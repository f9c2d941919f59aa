//go:build linux

package main

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/lab"
)

// cache is what stands between the distribution host and one node: a cache of the repository that holds the
// certificates of both, so that the transport has nothing to complain about, and that can be made to damage the zones
// which it hands on. What protects the node is then the release's signature alone (DELIV-3).
type cache struct {
	damages atomic.Bool
	damaged atomic.Int64 // how many blobs it has damaged
	server  http.Server
}

// identity is who somebody is to the mesh: PEM files.
type identity struct{ Certificate, Key, CA string }

// startCache listens at address in p as the distribution host would, and fetches from origin as the node would.
func startCache(p *lab.Place, address, origin string, host, node identity) (*cache, error) {
	server, err := host.tls()
	if err != nil {
		return nil, err
	}
	client, err := node.tls()
	if err != nil {
		return nil, err
	}
	target, err := url.Parse(origin)
	if err != nil {
		return nil, err
	}
	c := &cache{}
	proxy := httputil.NewSingleHostReverseProxy(target)
	proxy.Transport = &http.Transport{TLSClientConfig: client, DialContext: p.Dial}
	proxy.ModifyResponse = c.damage
	c.server = http.Server{Handler: proxy, TLSConfig: server, ReadHeaderTimeout: 10 * time.Second}
	var l net.Listener
	if err := p.Do(func() (err error) { l, err = net.Listen("tcp", address); return err }); err != nil {
		return nil, err
	}
	go c.server.ServeTLS(l, "", "")
	return c, nil
}

// tls demands a certificate of the mesh from the other side and shows its own, in both directions.
func (id identity) tls() (*tls.Config, error) {
	certificate, err := tls.LoadX509KeyPair(id.Certificate, id.Key)
	if err != nil {
		return nil, err
	}
	pem, err := os.ReadFile(id.CA)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, errors.New(id.CA + ": no certificate in it")
	}
	return &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{certificate}, RootCAs: pool, ClientCAs: pool,
		ClientAuth: tls.RequireAndVerifyClientCert}, nil
}

// damage turns one bit in the middle of every blob that passes, while it is told to.
func (c *cache) damage(r *http.Response) error {
	if !c.damages.Load() || !strings.Contains(r.Request.URL.Path, "/blobs/") || r.StatusCode/100 != 2 {
		return nil
	}
	body, err := io.ReadAll(r.Body)
	r.Body.Close()
	if err != nil {
		return fmt.Errorf("reading from the distribution host: %w", err)
	}
	if len(body) > 0 {
		body[len(body)/2] ^= 1
		c.damaged.Add(1)
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	return nil
}
