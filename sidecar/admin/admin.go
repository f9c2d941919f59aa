// Package admin serves what the sidecar knows on the node's administrative address: over mutual TLS 1.3 to whoever
// holds a certificate of the mesh's CA that is not another node's, and metrics in plain HTTP on loopback where that is
// asked for.
//
// It only hands out: nothing that a client sends changes anything here. It refuses a wildcard, which would answer on
// the shared address too (HOST-2, DELIV-1). main calls it.
package admin

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"time"

	"golang.org/x/net/netutil"

	"github.com/coredns-anycast/coredns-anycast/internal/identity"
)

// connections bounds each listener; a scrape and a distribution host need a handful.
const connections = 64

// Documents is what there is to hand out. A function that fails makes its answer 503 with the reason.
type Documents struct {
	Status        func(context.Context) (any, error)
	Confirmations func(context.Context) (any, error)
	Metrics       http.Handler
}

// Server is one listener.
type Server struct {
	http *http.Server
	addr net.Addr
}

// Serve answers on address, with d whole over mutual TLS.
func Serve(address netip.AddrPort, shared []netip.Addr, node *identity.Identity, d Documents, log *slog.Logger) (*Server, error) {
	if err := own(address.Addr(), shared); err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", document(d.Status))
	mux.HandleFunc("GET /v1/confirmations", document(d.Confirmations))
	mux.Handle("GET /metrics", d.Metrics)
	return listen(address, node.Server(), readers(mux, log), log)
}

// readers lets in who reads: the distribution host, operators and observers. Nodes have nothing to ask of each other, and
// one that was removed keeps its certificate.
func readers(next http.Handler, log *slog.Logger) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if c := r.TLS.PeerCertificates[0]; identity.RoleOf(c) == identity.Node {
			log.Warn("refused: a node's certificate reads nothing here", "name", c.Subject.CommonName, "remote", r.RemoteAddr, "path", r.URL.Path)
			http.Error(w, fmt.Sprintf("%q is a node, and reads nothing here", c.Subject.CommonName), http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// ServeMetrics answers /metrics in plain HTTP, on loopback only.
func ServeMetrics(address netip.AddrPort, metrics http.Handler, log *slog.Logger) (*Server, error) {
	if !address.Addr().IsLoopback() {
		return nil, fmt.Errorf("%s is not a loopback address: metrics leave the machine over mutual TLS only", address)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", metrics)
	return listen(address, nil, mux, log)
}

// own refuses an address on which clients of the DNS service could come.
func own(address netip.Addr, shared []netip.Addr) error {
	if !address.IsValid() || address.IsUnspecified() {
		return fmt.Errorf("the administrative plane on %s would answer on the shared address as well: name the administrative address", address)
	}
	for _, s := range shared {
		if address.Unmap() == s.Unmap() {
			return fmt.Errorf("%s is the shared address: the administrative plane takes the node's own", address)
		}
	}
	return nil
}

func listen(address netip.AddrPort, config *tls.Config, handler http.Handler, log *slog.Logger) (*Server, error) {
	l, err := net.Listen("tcp", address.String())
	if err != nil {
		return nil, err
	}
	addr := l.Addr()
	l = netutil.LimitListener(l, connections)
	if config != nil {
		l = tls.NewListener(l, config)
	}
	s := &http.Server{
		Handler:           http.MaxBytesHandler(handler, 1024),
		ReadHeaderTimeout: 5 * time.Second, // the handshake counts towards it
		ReadTimeout:       5 * time.Second,
		WriteTimeout:      30 * time.Second, // 32 MB of status over a slow line
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    8 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug), // port scans are no events
	}
	go s.Serve(l)
	return &Server{http: s, addr: addr}, nil
}

// Addr is where it listens.
func (s *Server) Addr() net.Addr { return s.addr }

// Close ends the listener and what is open.
func (s *Server) Close() error { return s.http.Close() }

func document(current func(context.Context) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		doc, err := current(r.Context())
		if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "no-store")
		json.NewEncoder(w).Encode(doc)
	}
}
