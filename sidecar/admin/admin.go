// Package admin serves what the sidecar knows, and takes an operator's orders, on the node's administrative address: over
// mutual TLS 1.3, to whoever holds a certificate of the mesh's CA with a role that may. Metrics are also served in plain
// HTTP on loopback, and orders taken on a unix socket of the owner's, where that is asked for.
//
//	                   /v1/status, /v1/confirmations,
//	role               /metrics, /metrics/dns                    GET /v1/drain   PUT, DELETE /v1/drain   /v1/promise, /v1/repository
//	observer           yes                                       yes                                     yes
//	operator           yes                                       yes             yes                     yes
//	distribution-host  yes                                       yes             in an operator's name   yes
//	node               its own                                   its own                                 a member's
//
// It refuses a wildcard, which would answer on the shared address too (HOST-2, DELIV-1). main calls it.
package admin

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/identity"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
	"github.com/coredns-anycast/coredns-anycast/internal/socket"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
)

// places are those of each listener. A scrape and a distribution host need a handful; members, who all come at once when they
// lose the distribution host, have some more each.
var places = identity.Places{Strangers: 64, Known: 64, OfOne: 8, Handshake: 5 * time.Second}

// placesOfMember are how many more places there are for each member: it asks, and it mirrors.
const placesOfMember = 2

// placesFor are those of a listener to which members come as well. A member is known by the manifest of now.
func (s Sidecar) placesFor() identity.Places {
	p := places
	p.May = func(c *x509.Certificate) bool {
		role := identity.RoleOf(c)
		return slices.Contains(readers, role) || role == identity.Node && s.Member != nil && s.Member(c.Subject.CommonName, identity.PinOf(c))
	}
	if s.Members != nil {
		p.More = func() int { return placesOfMember * s.Members() }
	}
	return p
}

// maxOrder bounds the body of a request, in octets.
const maxOrder = 1024

// Sidecar is what stands behind the listeners. A function that fails makes its answer 503 with the reason, or 400 if the
// error is an ErrOrder.
type Sidecar struct {
	Status        func(context.Context) (any, error)
	Confirmations func(context.Context) (any, error)
	Metrics       http.Handler
	DNSMetrics    http.Handler // of the DNS server; nil: not shown

	// Promise and Repository are for other members that cannot learn from a distribution host whether a switchover is made: what
	// this node holds of it, and the signed metadata that it has. nil: there are none. Member says whether a certificate is one's.
	Promise    func(context.Context) (status.Held, error)
	Asked      func(member string, lease int64) // a member that has that lease has asked for Promise
	Repository http.Handler
	Member     func(name string, key release.Digest) bool
	Members    func() int // how many there are
	// Refuses says why an operator's, observer's or distribution host's certificate is good for nothing here; "" if it is. nil
	// refuses nobody.
	Refuses func(role, name string, key release.Digest) string

	// Drain takes the node out of service, Undrain brings it back, and Drained says how that goes, as do the two.
	Drain   func(context.Context, status.DrainOrder) (status.Drained, error)
	Undrain func(ctx context.Context, who string) (status.Drained, error)
	Drained func(context.Context) (status.Drained, error)

	// Reload reads the configuration again. It is taken on the control socket alone: who may write the file may say so.
	Reload func(context.Context) (status.Drained, error)
}

// UnwellError makes an answer 503 with a document that says what is known all the same.
type UnwellError struct {
	Err      error
	Document any
}

func (e *UnwellError) Error() string { return e.Err.Error() }

// Unwrap returns the error without its document.
func (e *UnwellError) Unwrap() error { return e.Err }

// ErrOrder is wrapped by what is wrong with an order itself.
var ErrOrder = errors.New("the order cannot be taken")

// Server is one listener.
type Server struct{ http *http.Server }

// Serve answers on address, with s whole over mutual TLS, whoever comes from an address in the access list of that moment.
func Serve(address netip.AddrPort, shared []netip.Addr, access func() identity.AccessList, node *identity.Identity, s Sidecar, log *slog.Logger) (*Server, error) {
	if err := own(address.Addr(), shared); err != nil {
		return nil, err
	}
	l, err := socket.ListenTCP(address)
	if err != nil {
		return nil, fmt.Errorf("admin.listen: %w", err)
	}
	g := &guard{node: node, refuses: s.Refuses, member: s.Member, log: &identity.Quiet{Log: log}}
	mux := http.NewServeMux()
	mux.Handle("GET /v1/status", g.readers(document(s.Status)))
	mux.Handle("GET /v1/confirmations", g.readers(document(s.Confirmations)))
	mux.Handle("GET /metrics", g.readers(s.Metrics))
	if s.DNSMetrics != nil {
		mux.Handle("GET /metrics/dns", g.readers(s.DNSMetrics))
	}
	if s.Promise != nil {
		mux.Handle("GET /v1/promise", g.members(promise(s)))
		mux.Handle("GET /v1/repository/", g.members(http.StripPrefix("/v1/repository", s.Repository)))
	}
	mux.Handle("GET /v1/drain", g.readers(document(s.Drained)))
	mux.Handle("PUT /v1/drain", g.operators(drain(s)))
	mux.Handle("DELETE /v1/drain", g.operators(undrain(s)))
	return start(s.placesFor().TLS(identity.Allowing(l, access, log), node, log), mux, log), nil
}

// ServeControl takes orders on a unix socket of which the owner of the process alone has the use.
func ServeControl(path string, s Sidecar, log *slog.Logger) (*Server, error) {
	l, err := socket.Listen(path, 0o600)
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/drain", document(s.Drained))
	mux.HandleFunc("PUT /v1/drain", drain(s))
	mux.HandleFunc("DELETE /v1/drain", undrain(s))
	mux.HandleFunc("POST /v1/reload", document(s.Reload))
	return start(places.Plain(l), mux, log), nil
}

// ServeMetrics answers /metrics in plain HTTP, on loopback only.
func ServeMetrics(address netip.AddrPort, metrics http.Handler, log *slog.Logger) (*Server, error) {
	if !address.Addr().IsLoopback() {
		return nil, fmt.Errorf("%s is not a loopback address: metrics leave the machine over mutual TLS only", address)
	}
	l, err := socket.ListenTCP(address)
	if err != nil {
		return nil, fmt.Errorf("metrics: %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", metrics)
	return start(places.Plain(l), mux, log), nil
}

// MetricsOf shows what a server on loopback tells at /metrics, which is how plain metrics leave the machine: over mutual TLS only.
func MetricsOf(address netip.AddrPort) http.Handler {
	return &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL = &url.URL{Scheme: "http", Host: address.String(), Path: "/metrics"}
			r.Out.Host = address.String()
		},
		Transport: &http.Transport{ResponseHeaderTimeout: 5 * time.Second, MaxConnsPerHost: 4},
		ErrorLog:  log.New(io.Discard, "", 0),
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			http.Error(w, "the DNS server does not tell its metrics: "+err.Error(), http.StatusBadGateway)
		},
	}
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

func start(l net.Listener, handler http.Handler, log *slog.Logger) *Server {
	s := &http.Server{
		Handler:           http.MaxBytesHandler(handler, maxOrder),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       5 * time.Second,
		WriteTimeout:      30 * time.Second, // 32 MB of status over a slow line
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    8 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug), // port scans are no events
	}
	go s.Serve(l)
	return &Server{s}
}

// Close ends the listener and what is open.
func (s *Server) Close() error { return s.http.Close() }

// guard lets in whose role may. It is asked for each request, so that a connection does not outlive a right.
type guard struct {
	node    *identity.Identity
	refuses func(role, name string, key release.Digest) string
	member  func(string, release.Digest) bool
	log     *identity.Quiet
}

// readers are the roles that may look at everything. Nodes may ask each other what a switchover hangs on, and nothing else.
var readers = []string{identity.Observer, identity.Operator, identity.Host}

func (g *guard) readers(next http.Handler) http.Handler {
	return g.only(next, "reads nothing here", func(c *x509.Certificate) bool {
		return slices.Contains(readers, identity.RoleOf(c)) || g.self(c)
	})
}

// members are the readers, and the mesh's other nodes.
func (g *guard) members(next http.Handler) http.Handler {
	return g.only(next, "is none of a member", func(c *x509.Certificate) bool {
		role := identity.RoleOf(c)
		return slices.Contains(readers, role) || role == identity.Node && g.member(c.Subject.CommonName, identity.PinOf(c))
	})
}

// operators may change something, and the distribution host for one that it names.
func (g *guard) operators(next http.Handler) http.Handler {
	return g.only(next, "gives no orders here", func(c *x509.Certificate) bool {
		role := identity.RoleOf(c)
		return role == identity.Operator || role == identity.Host
	})
}

// orderer is who gives an order: nobody does in the name of another, but for a distribution host, on which somebody has asked for it.
func orderer(c *x509.Certificate, says string) (who string, err error) {
	switch {
	case identity.RoleOf(c) != identity.Host:
		return c.Subject.CommonName, nil
	case says == "":
		return "", fmt.Errorf("%w: a distribution host gives it in somebody's name, and names nobody", ErrOrder)
	}
	return says + " at the distribution host", nil
}

func (g *guard) only(next http.Handler, refusal string, may func(*x509.Certificate) bool) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := r.TLS.PeerCertificates[0]
		role, why := identity.RoleOf(c), g.revoked(c)
		if !may(c) {
			why = "this certificate " + refusal
		}
		if why == "" {
			next.ServeHTTP(w, r)
			return
		}
		pin := identity.PinOf(c)
		g.log.Warn(string(pin[:]), "refused: "+why, "name", c.Subject.CommonName, "role", role, "remote", r.RemoteAddr, "method", r.Method, "path", r.URL.Path)
		w.Header().Set("Connection", "close")
		http.Error(w, fmt.Sprintf("%q with the role %q: %s", c.Subject.CommonName, role, why), http.StatusForbidden)
	})
}

// revoked says why a certificate counts no more, "" if it does.
func (g *guard) revoked(c *x509.Certificate) string {
	if time.Now().After(c.NotAfter) { // since the connection began
		return "this certificate has expired"
	}
	role := identity.RoleOf(c)
	if g.refuses == nil || !slices.Contains(readers, role) {
		return ""
	}
	return g.refuses(role, c.Subject.CommonName, identity.PinOf(c))
}

// self reports whether a certificate is this node's, now or before a renewal.
func (g *guard) self(c *x509.Certificate) bool {
	mine := g.node.Certificate()
	return c.Subject.CommonName == mine.Subject.CommonName && identity.PinOf(c) == identity.PinOf(mine)
}

func document[T any](current func(context.Context) (T, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		doc, err := current(r.Context())
		answer(w, doc, err)
	}
}

// promise says what this node holds, and hears which lease the member has that asks.
func promise(s Sidecar) http.HandlerFunc {
	says := document(s.Promise)
	return func(w http.ResponseWriter, r *http.Request) {
		who := r.TLS.PeerCertificates[0]
		if lease, err := strconv.ParseInt(r.FormValue("lease"), 10, 64); err == nil && identity.RoleOf(who) == identity.Node {
			s.Asked(who.Subject.CommonName, lease)
		}
		says(w, r)
	}
}

func drain(s Sidecar) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		order, err := readOrder(r.Body)
		if err != nil {
			answer(w, nil, fmt.Errorf("%w: %w", ErrOrder, err))
			return
		}
		if r.TLS != nil {
			if order.Who, err = orderer(r.TLS.PeerCertificates[0], order.Who); err != nil {
				answer(w, nil, err)
				return
			}
		}
		doc, err := s.Drain(r.Context(), order)
		answer(w, doc, err)
	}
}

func undrain(s Sidecar) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		who := r.FormValue("who")
		if r.TLS != nil {
			var err error
			if who, err = orderer(r.TLS.PeerCertificates[0], who); err != nil {
				answer(w, nil, err)
				return
			}
		}
		doc, err := s.Undrain(r.Context(), who)
		answer(w, doc, err)
	}
}

// readOrder reads a body, of which a word that is not understood would be a surprise later. An empty one orders nothing
// in particular.
func readOrder(body io.Reader) (o status.DrainOrder, err error) {
	d := json.NewDecoder(body)
	d.DisallowUnknownFields()
	if err := d.Decode(&o); err != nil && err != io.EOF {
		return o, err
	}
	if _, err := d.Token(); err != io.EOF {
		return o, errors.New("something follows the JSON value")
	}
	return o, nil
}

func answer(w http.ResponseWriter, doc any, err error) {
	unwell := new(UnwellError)
	code := http.StatusOK
	if errors.As(err, &unwell) {
		doc, err, code = unwell.Document, nil, http.StatusServiceUnavailable
	}
	if err != nil {
		code := http.StatusServiceUnavailable
		if errors.Is(err, ErrOrder) {
			code = http.StatusBadRequest
		}
		http.Error(w, err.Error(), code)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	json.NewEncoder(w).Encode(doc)
}
