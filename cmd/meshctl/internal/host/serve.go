package host

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/depot"
	"github.com/coredns-anycast/coredns-anycast/internal/identity"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
)

// Server serves the repository to members over mutual TLS (DELIV-2) and keeps the lease fresh.
type Server struct {
	Home  string
	Clock Clock
	Renew time.Duration // how old a lease may get; no older than half its length
	Log   *slog.Logger
}

// Limits of a connection. Blobs are large and lines are slow, so that a whole answer may take long, but not its start.
const (
	headerTimeout = 10 * time.Second
	idleTimeout   = 2 * time.Minute
	answerTimeout = time.Hour
	drainTimeout  = 5 * time.Second
	maxHeader     = 16 << 10
)

// Run serves on a listener until ctx ends, then lets transfers that are under way finish for a few seconds.
func (s *Server) Run(ctx context.Context, listener net.Listener) error {
	repo, err := depot.Open(filepath.Join(s.Home, repoDir))
	if err != nil {
		return err
	}
	defer repo.Close()
	own, err := Identity(s.Home, s.Log)
	if err != nil {
		return err
	}
	published := &published{home: s.Home}
	server := &http.Server{
		Handler:           &gate{published, s.handler(repo.Handler()), s.Log},
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       headerTimeout,
		WriteTimeout:      answerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          log.New(lines{s.Log}, "", 0),
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var open sync.WaitGroup
	defer open.Wait()
	defer cancel()
	open.Go(func() { s.keepLease(ctx, published) })
	open.Go(func() { s.keepCertificates(ctx) })
	open.Go(func() {
		<-ctx.Done()
		end, done := context.WithTimeout(context.Background(), drainTimeout)
		defer done()
		if server.Shutdown(end) != nil {
			server.Close()
		}
	})
	if err := server.Serve(tls.NewListener(listener, own.Server())); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// lines writes what the HTTP server reports, refused handshakes above all, to the log.
type lines struct{ log *slog.Logger }

func (l lines) Write(p []byte) (int, error) {
	l.log.Warn(string(p[:max(0, len(p)-1)]))
	return len(p), nil
}

// gate lets members and this host in. It is asked for each request, so that a connection does not outlive a membership.
type gate struct {
	published *published
	next      http.Handler
	log       *slog.Logger
}

func (g *gate) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	certificate := r.TLS.PeerCertificates[0]
	name := certificate.Subject.CommonName
	refusal, err := g.published.refuses(certificate)
	if err != nil {
		g.log.Error("the list of members cannot be read", "error", err)
		http.Error(w, "the list of members cannot be read", http.StatusInternalServerError)
		return
	}
	if refusal != "" {
		g.log.Warn("refused: "+refusal, "name", name, "remote", r.RemoteAddr, "path", r.URL.Path)
		http.Error(w, fmt.Sprintf("%q: %s", name, refusal), http.StatusForbidden)
		return
	}
	g.next.ServeHTTP(w, r)
}

// published is the view that is in force. It is verified again only when it was published again.
type published struct {
	home  string
	guard sync.Mutex
	read  time.Time // modification time of what view was read from
	view  release.View
}

func (p *published) get() (release.View, error) {
	p.guard.Lock()
	defer p.guard.Unlock()
	info, err := os.Stat(filepath.Join(p.home, stateDir, memoryName))
	if err != nil || info.ModTime().Equal(p.read) {
		return p.view, err
	}
	view, err := Read(p.home)
	if err != nil {
		return p.view, err
	}
	p.view, p.read = view, info.ModTime()
	return p.view, nil
}

// refuses says why the owner of a certificate may not read, "" if it may: this host, and members by a key of theirs.
func (p *published) refuses(c *x509.Certificate) (string, error) {
	view, err := p.get()
	if err != nil || c.Subject.CommonName == HostName {
		return "", err
	}
	members := view.Manifest.Members
	i, member := slices.BinarySearchFunc(members, c.Subject.CommonName, func(m release.Member, name string) int {
		return strings.Compare(m.Name, name)
	})
	switch {
	case !member:
		return "not a member of this mesh", nil
	case !members[i].Has(identity.PinOf(c)):
		return "its certificate was revoked", nil
	}
	return "", nil
}

// handler serves the repository, and to each member its newest certificate.
func (s *Server) handler(repository http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/", repository)
	mux.HandleFunc("GET "+CertificatePath, func(w http.ResponseWriter, r *http.Request) {
		name := r.TLS.PeerCertificates[0].Subject.CommonName
		if !release.ValidName(name) {
			http.NotFound(w, r)
			return
		}
		data, err := depot.ReadFile(filepath.Join(s.Home, nodesDir, name), "node.crt", maxPEMBytes)
		if err != nil {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", "application/x-pem-file")
		w.Write(data)
	})
	return mux
}

// CertificatePath is where a member finds its newest certificate.
const CertificatePath = "/v1/certificate"

// keepEvery is how often it is looked whether there is something to renew or to put on record.
const keepEvery = time.Second

// keepLease renews the lease when it is Renew old, and puts switchovers on record, until ctx ends. A failure is logged
// and tried again: the lease that is out lasts for a while yet.
func (s *Server) keepLease(ctx context.Context, p *published) {
	var failed error
	for {
		err := s.keepOnce(p)
		if err != nil && (failed == nil || err.Error() != failed.Error()) {
			s.Log.Error("the lease was not renewed", "error", err)
		}
		failed = err
		if pause(ctx, keepEvery) != nil {
			return
		}
	}
}

// keepCertificates renews certificates before they end.
func (s *Server) keepCertificates(ctx context.Context) {
	for pause(ctx, keepEvery) == nil {
		names, err := s.renewCertificates()
		if len(names) > 0 {
			s.Log.Info("certificates renewed", "of", strings.Join(names, " "))
		}
		if err != nil {
			s.Log.Error("certificates are about to end and were not renewed", "error", err)
		}
		if pause(ctx, certificatesEvery) != nil {
			return
		}
	}
}

// certificatesEvery is how often certificates are looked at.
const certificatesEvery = time.Hour

func (s *Server) renewCertificates() ([]string, error) {
	h, err := Open(s.Home, s.Clock)
	if err != nil {
		return nil, err
	}
	defer h.Close()
	return h.RenewDue()
}

func (s *Server) keepOnce(p *published) error {
	due, err := s.due(p)
	if err != nil || !due {
		return err
	}
	h, err := Open(s.Home, s.Clock)
	if err != nil {
		return err
	}
	defer h.Close()
	until, err := h.Lease(0)
	if err == nil {
		s.Log.Info("lease renewed", "until", until, "state", h.View().String())
	}
	return err
}

// due reports whether the lease is old, or a switchover has passed that this host has the key to put on record.
func (s *Server) due(p *published) (bool, error) {
	view, err := p.get()
	if err != nil {
		return false, err
	}
	state, err := readState(s.Home)
	if err != nil {
		return false, err
	}
	now := s.Clock()
	fresh := view.Expires
	fresh.Timestamp = now.Add(state.Lease() - min(s.Renew, state.Lease()/2))
	if Settled(view.Manifest, now) {
		if _, err := readKeys(s.Home, "release"); !errors.Is(err, errKeyAway) {
			return true, nil
		}
	}
	return view.LeaseExpires.Before(fresh.Earliest()), nil
}
