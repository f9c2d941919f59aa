package host

import (
	"context"
	"crypto/tls"
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
	config, err := TLS(s.Home)
	if err != nil {
		return err
	}
	published := &published{home: s.Home}
	server := &http.Server{
		Handler:           &gate{published, repo.Handler(), s.Log},
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
	open.Go(func() {
		<-ctx.Done()
		end, done := context.WithTimeout(context.Background(), drainTimeout)
		defer done()
		if server.Shutdown(end) != nil {
			server.Close()
		}
	})
	if err := server.Serve(tls.NewListener(listener, config)); !errors.Is(err, http.ErrServerClosed) {
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
	name := r.TLS.PeerCertificates[0].Subject.CommonName
	ok, err := g.published.admits(name)
	if err != nil {
		g.log.Error("the list of members cannot be read", "error", err)
		http.Error(w, "the list of members cannot be read", http.StatusInternalServerError)
		return
	}
	if !ok {
		g.log.Warn("refused: not a member", "name", name, "remote", r.RemoteAddr, "path", r.URL.Path)
		http.Error(w, fmt.Sprintf("%q is not a member of this mesh", name), http.StatusForbidden)
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

// admits reports whether the owner of a certificate may read: this host, and members.
func (p *published) admits(name string) (bool, error) {
	view, err := p.get()
	if err != nil {
		return false, err
	}
	_, member := slices.BinarySearchFunc(view.Manifest.Members, name, func(m release.Member, name string) int {
		return strings.Compare(m.Name, name)
	})
	return member || name == HostName, nil
}

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
