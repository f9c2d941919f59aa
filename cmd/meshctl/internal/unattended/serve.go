// Package unattended is "meshctl serve" (RFC 3258 2.3 a to e): it receives zones, has them released and switched to, serves the
// repository to members, renews leases and certificates, and says how all that goes, as alarms, metrics and status. Each of
// its steps is a function of the packages beside it, all of which it may import; cmd/meshctl calls it.
package unattended

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/enrol"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/home"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/switchover"
	"github.com/coredns-anycast/coredns-anycast/internal/depot"
	"github.com/coredns-anycast/coredns-anycast/internal/identity"
	"github.com/coredns-anycast/coredns-anycast/internal/mesh"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
)

// Server serves the repository to members over mutual TLS (DELIV-2).
type Server struct {
	Home  *home.Home
	Log   *slog.Logger
	Cycle func() CycleState             // how the cycle beside it goes; nil if there is none
	Mesh  func() switchover.DriverState // how the protocol goes
	Ask   switchover.Ask                // for members that ask who remains, and for Status

	// Page makes what people see at / and below /page/; refuses says why the owner of a certificate may not look, "" if it may.
	// nil: there is no page.
	Page func(refuses func(*x509.Certificate) string) http.Handler

	alarmed map[string]bool // alarms that were logged
	known   atomic.Pointer[published]
	holder  atomic.Pointer[depot.Holder]
}

// Limits of a connection. Blobs are large and lines are slow, so that a whole answer may take long, but not its start.
const (
	headerTimeout = 10 * time.Second
	idleTimeout   = 2 * time.Minute
	answerTimeout = time.Hour
	drainTimeout  = 5 * time.Second
	maxHeader     = 16 << 10
)

// holdLook is how often it is looked whether there is a newer timestamp in a directory while requests are held until there is one
// (home.SharedLook: in a bucket).
const holdLook = 50 * time.Millisecond

// places are those of the listener: some thousand members, each with a few connections for blobs and one for questions.
var places = identity.Places{Strangers: 256, Known: 8192, OfOne: 64, Handshake: headerTimeout, Tell: true}

// Run serves on a listener until ctx ends, then lets transfers that are under way finish for a few seconds.
func (s *Server) Run(ctx context.Context, listener net.Listener) error {
	reading, end := context.WithCancel(context.WithoutCancel(ctx)) // transfers go on for a while
	defer end()
	reader, err := s.Home.Read(reading)
	if err != nil {
		return err
	}
	defer reader.Close()
	own, err := enrol.Identity(s.Home, s.Log)
	if err != nil {
		return err
	}
	published := &published{Reader: reader}
	if err := published.look(); err != nil {
		return err
	}
	s.known.Store(published)
	look := holdLook
	if reader.IsShared() {
		look = home.SharedLook
	}
	holder := depot.NewHolder(ctx, reader.Repository(), look)
	s.holder.Store(holder)
	gate := &gate{published: published, next: s.handler(reading, holder, published), log: &identity.Quiet{Log: s.Log}}
	if s.Page != nil {
		gate.page = s.Page(published.refusesReader)
	}
	server := &http.Server{
		Handler:           gate,
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       headerTimeout,
		WriteTimeout:      answerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          log.New(lines{&identity.Quiet{Log: s.Log}}, "", 0),
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var open sync.WaitGroup
	defer open.Wait()
	defer cancel()
	open.Go(func() { s.keepPublished(ctx, published) })
	open.Go(func() { s.keepCertificates(ctx) })
	open.Go(func() { s.keepAlarms(ctx, published) })
	open.Go(func() {
		<-ctx.Done()
		drain, done := context.WithTimeout(reading, drainTimeout)
		defer done()
		if server.Shutdown(drain) != nil {
			server.Close()
		}
		end()
	})
	if err := server.Serve(places.TLS(listener, own, s.Log)); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// lines writes what the HTTP server reports to the log.
type lines struct{ log *identity.Quiet }

func (l lines) Write(p []byte) (int, error) {
	l.log.Warn("", string(p[:max(0, len(p)-1)]))
	return len(p), nil
}

// gate lets members and this host in. It is asked for each request, so that a connection does not outlive a membership.
type gate struct {
	published *published
	next      http.Handler
	page      http.Handler // which lets people in itself; nil: there is none
	log       *identity.Quiet
}

// isPage reports whether a path is of the page, not of the repository.
func isPage(path string) bool { return path == "/" || strings.HasPrefix(path, "/page/") }

func (g *gate) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if g.page != nil && isPage(r.URL.Path) {
		g.page.ServeHTTP(w, r)
		return
	}
	certificate := r.TLS.PeerCertificates[0]
	name := certificate.Subject.CommonName
	refusal := g.published.refuses(certificate)
	if refusal != "" && g.published.departed(certificate) && !strings.HasPrefix(r.URL.Path, "/blobs/") && !strings.HasPrefix(r.URL.Path, "/v1/") {
		refusal = "" // it is to learn that it is no member any more
	}
	if refusal != "" {
		pin := identity.PinOf(certificate)
		g.log.Warn(string(pin[:]), "refused: "+refusal, "name", name, "remote", r.RemoteAddr, "path", r.URL.Path)
		http.Error(w, fmt.Sprintf("%q: %s", name, refusal), http.StatusForbidden)
		return
	}
	g.next.ServeHTTP(w, r)
}

// published is what is in force. It is read only when it has changed. A bucket is looked at every second, so that requests
// do not wait for it, and a directory for each request.
type published struct {
	*home.Reader
	looking sync.Mutex
	tag     depot.Tag // guarded by looking

	guard sync.Mutex
	state home.State
	view  release.View

	damaged error // of home.Published, and release.OfZones; nil: nothing is
}

// look reads what is in force, if it has changed.
func (p *published) look() error {
	p.looking.Lock()
	defer p.looking.Unlock()
	tag, err := p.Tag()
	if err == nil && tag == p.tag {
		return nil
	}
	return p.read()
}

// read reads what is in force. looking is held.
func (p *published) read() error {
	state, view, tag, err := p.Published()
	if err != nil && !release.OfZones(err) {
		return err
	}
	p.guard.Lock()
	defer p.guard.Unlock()
	p.tag, p.state, p.view, p.damaged = tag, state, view, err
	return nil
}

// mended looks whether a file that was damaged still is. Requests do not, since that takes a while.
func (p *published) mended() error {
	p.looking.Lock()
	defer p.looking.Unlock()
	if p.broken() == nil {
		return nil
	}
	return p.read()
}

// broken is why zones are not known; nil: they are.
func (p *published) broken() error {
	p.guard.Lock()
	defer p.guard.Unlock()
	return p.damaged
}

func (p *published) get() (home.State, release.View) {
	p.guard.Lock()
	defer p.guard.Unlock()
	return p.state, p.view
}

// complete reports whether the repository has what is published, rather than a part that a killed command has left.
func (p *published) complete(state home.State) (bool, error) {
	data, _, err := p.Repository().Read(release.TimestampName, release.MaxBytes(release.TimestampName))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return bytes.Equal(data, state.Published.Timestamp), err
}

// refuses says why the owner of a certificate may not read, "" if it may: this host, and members by a key of theirs.
func (p *published) refuses(c *x509.Certificate) string {
	if !p.IsShared() {
		_ = p.look() // keepLease says why it fails, and what was in force stays so
	}
	_, view := p.get()
	if c.Subject.CommonName == enrol.HostName {
		return refusesHost(view.Manifest, c)
	}
	members := view.Manifest.Members
	i, member := slices.BinarySearchFunc(members, c.Subject.CommonName, func(m release.Member, name string) int {
		return strings.Compare(m.Name, name)
	})
	switch {
	case !member:
		return "not a member of this mesh"
	case !members[i].Has(identity.PinOf(c)):
		return "its certificate was revoked"
	}
	return ""
}

// refusesHost says why a certificate with a distribution host's name is not taken for one's, "" if it is. A mesh whose manifest has
// no key of the host leaves it to the certificate.
func refusesHost(m release.Manifest, c *x509.Certificate) string {
	i := slices.IndexFunc(m.Operators, func(o release.Operator) bool { return o.Name == enrol.HostName })
	if i >= 0 && !slices.Contains(m.Operators[i].Keys, identity.PinOf(c)) {
		return "its certificate was revoked"
	}
	return ""
}

// refusesReader says why the owner of a certificate may not look at the page, "" if it may: this host, and the operators and
// observers that the manifest lists, by a key of theirs.
func (p *published) refusesReader(c *x509.Certificate) string {
	if time.Now().After(c.NotAfter) { // since the connection began
		return "its certificate has expired"
	}
	if !p.IsShared() {
		_ = p.look() // keepPublished says why it fails, and what was in force stays so
	}
	_, view := p.get()
	switch role := identity.RoleOf(c); {
	case role == identity.Host && c.Subject.CommonName == enrol.HostName:
		return refusesHost(view.Manifest, c)
	case role != identity.Operator && role != identity.Observer:
		return "the page is for operators and observers"
	}
	operators := view.Manifest.Operators
	i := slices.IndexFunc(operators, func(o release.Operator) bool { return o.Name == c.Subject.CommonName })
	switch {
	case i < 0:
		return "no operator of this mesh"
	case !slices.Contains(operators[i].Keys, identity.PinOf(c)):
		return "its certificate was revoked"
	}
	return ""
}

// departed reports whether a certificate is of a member that was removed and may not know it yet.
func (p *published) departed(c *x509.Certificate) bool {
	state, _ := p.get()
	return slices.ContainsFunc(state.Departed, func(m release.Member) bool {
		return m.Name == c.Subject.CommonName && m.Has(identity.PinOf(c))
	})
}

// handler serves, until ctx ends, the repository, to each member its newest certificate, and who remains.
func (s *Server) handler(ctx context.Context, repository http.Handler, p *published) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/", repository)
	if s.Ask != nil {
		r := &roll{ctx: ctx, ask: s.Ask, members: func() []release.Member { _, view := p.get(); return view.Manifest.Members }}
		mux.HandleFunc("GET "+RemainingPath, r.serve)
	}
	mux.HandleFunc("GET "+CertificatePath, func(w http.ResponseWriter, r *http.Request) {
		name := r.TLS.PeerCertificates[0].Subject.CommonName
		if !release.ValidName(name) {
			http.NotFound(w, r)
			return
		}
		data, err := enrol.MemberCertificate(s.Home, name)
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

// keepEvery is how often it is looked whether all is in place.
const keepEvery = time.Second

// keepPublished puts in place what is published, if a command or another host has left that undone, until ctx ends.
func (s *Server) keepPublished(ctx context.Context, p *published) {
	var failed error
	for home.Pause(ctx, keepEvery) == nil {
		err := s.keepOnce(ctx, p)
		if locked := new(depot.LockedError); errors.As(err, &locked) {
			err = nil // another command publishes: this is tried again in a moment
		}
		if err != nil && (failed == nil || err.Error() != failed.Error()) {
			_, view := p.get()
			s.Log.Error("the repository cannot be kept", "error", err, "lease until", view.LeaseExpires)
		}
		if err == nil && failed != nil {
			s.Log.Info("the repository can be kept again")
		}
		failed = err
	}
}

// Status is what "meshctl status" prints, with the alarms of this process.
func (s *Server) Status(ctx context.Context) (Status, error) {
	p := s.known.Load()
	if p == nil {
		return Status{}, errors.New("it does not serve yet")
	}
	state, view := p.get()
	return StatusOf(ctx, state, view, enrol.Removed(s.Home, view.Manifest, s.Home.Now()), mesh.Policy{}, &status.Work{Alarms: s.alarms(p)}, s.Ask, s.Home.Now), nil
}

// Alarms are those of now; none before it serves.
func (s *Server) Alarms() []status.Reason {
	p := s.known.Load()
	if p == nil {
		return nil
	}
	return s.alarms(p)
}

// alarms are those of now.
func (s *Server) alarms(p *published) []status.Reason {
	var cycle CycleState
	if s.Cycle != nil {
		cycle = s.Cycle()
	}
	state, view := p.get()
	all := Alarms(view, state.Lease(), cycle, s.Home.Now())
	if err := p.broken(); err != nil {
		all = append(all, Damaged(err))
	}
	if s.Mesh != nil {
		all = append(all, MeshAlarms(s.Mesh(), s.Home.Now())...)
	}
	return all
}

// keepAlarms logs alarms when they begin and when they end.
func (s *Server) keepAlarms(ctx context.Context, p *published) {
	s.alarmed = map[string]bool{}
	for home.Pause(ctx, keepEvery) == nil {
		now := map[string]bool{}
		for _, a := range s.alarms(p) {
			now[a.String()] = true
			if !s.alarmed[a.String()] {
				level, alarm := slog.LevelWarn, AlarmOf(a)
				if alarm.Level == LevelError {
					level = slog.LevelError
				}
				s.Log.Log(ctx, level, "ALARM", "code", a.Code, "detail", a.Detail, "do", alarm.Do)
			}
		}
		for text := range s.alarmed {
			if !now[text] {
				s.Log.Info("alarm is over", "alarm", text)
			}
		}
		s.alarmed = now
	}
}

// keepCertificates renews certificates before they end.
func (s *Server) keepCertificates(ctx context.Context) {
	for home.Pause(ctx, keepEvery) == nil {
		names, err := s.renewCertificates(ctx)
		if len(names) > 0 {
			s.Log.Info("certificates renewed", "of", strings.Join(names, " "))
		}
		if err != nil {
			s.Log.Error("certificates are about to end and were not renewed", "error", err)
		}
		if home.Pause(ctx, certificatesEvery) != nil {
			return
		}
	}
}

// certificatesEvery is how often certificates are looked at.
const certificatesEvery = time.Hour

func (s *Server) renewCertificates(ctx context.Context) (names []string, err error) {
	err = s.Home.WriteLease(ctx, func(w *home.Writer) (err error) {
		names, err = enrol.RenewDue(ctx, w)
		return err
	})
	return names, err
}

// keepOnce puts in place what is published, unless it is there.
func (s *Server) keepOnce(ctx context.Context, p *published) error {
	if err := errors.Join(p.look(), p.mended()); err != nil {
		return err
	}
	state, _ := p.get()
	complete, err := p.complete(state)
	if err != nil || complete {
		return err
	}
	return s.Home.WriteLease(ctx, func(*home.Writer) error { return nil })
}
