package page

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/history"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/unattended"
	"github.com/coredns-anycast/coredns-anycast/internal/identity"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
)

// Source is what the page is made of.
type Source struct {
	Status  func(context.Context) (unattended.Status, error)
	History func(context.Context) ([]history.Record, error) // the latest first
	Refuses func(*x509.Certificate) string                  // why the owner of a certificate may not look, "" if it may
	Do      func(context.Context, Order) (string, error)    // carries out an operator's order, and says what came of it
	Log     *slog.Logger
}

// Handler serves the page at / and what belongs to it below /page/, over mutual TLS.
type Handler struct {
	Source
	ctx   context.Context // of streams, and of what members are asked
	mux   *http.ServeMux
	quiet *identity.Quiet
	looks looks
	open  streams
	guard guard
}

// New makes a Handler whose streams end with ctx.
func New(ctx context.Context, s Source) *Handler {
	h := &Handler{Source: s, ctx: ctx, mux: http.NewServeMux(), quiet: &identity.Quiet{Log: s.Log}, open: streams{of: map[release.Digest]int{}}, guard: newGuard()}
	h.mux.HandleFunc("GET /{$}", h.page)
	h.mux.HandleFunc("GET /page/events", h.events)
	h.mux.HandleFunc("GET /page/order", h.confirm)
	h.mux.HandleFunc("POST /page/order", h.order)
	for _, a := range []struct{ name, kind string }{{"page.css", "text/css"}, {"page.js", "text/javascript"}, {"icon.svg", "image/svg+xml"}} {
		h.mux.HandleFunc("GET /page/"+a.name, asset(a.name, a.kind))
	}
	return h
}

// policy has a browser load and send nothing but what is of this address, and run no script that is in the page itself.
const policy = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

// ServeHTTP implements http.Handler: it lets in who may look, and nobody else.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c := r.TLS.PeerCertificates[0]
	if why := h.Refuses(c); why != "" {
		pin := identity.PinOf(c)
		h.quiet.Warn(string(pin[:]), "refused the page: "+why, "name", c.Subject.CommonName, "role", identity.RoleOf(c), "remote", r.RemoteAddr)
		http.Error(w, fmt.Sprintf("%q with the role %q: %s", c.Subject.CommonName, identity.RoleOf(c), why), http.StatusForbidden)
		return
	}
	for name, value := range map[string]string{"Content-Security-Policy": policy, "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer",
		"Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Resource-Policy": "same-origin", "Cache-Control": "no-store"} {
		w.Header().Set(name, value)
	}
	h.mux.ServeHTTP(w, r)
}

func asset(name, kind string) http.HandlerFunc {
	data, err := files.ReadFile(name)
	return func(w http.ResponseWriter, r *http.Request) {
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", kind+"; charset=utf-8")
		w.Write(data)
	}
}

func readerOf(r *http.Request) Reader {
	c := r.TLS.PeerCertificates[0]
	return Reader{Name: c.Subject.CommonName, Role: identity.RoleOf(c)}
}

func (h *Handler) page(w http.ResponseWriter, r *http.Request) {
	d, _, err := h.look(readerOf(r))
	var html []byte
	if err == nil {
		html, err = Render(d)
	}
	if err != nil {
		http.Error(w, "the mesh cannot be shown: "+err.Error(), http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Write(html)
}

// Ages: members are asked at most once in lookEvery, however many look, and the records are read again when another release is
// staged or current, or after recordsEvery.
const (
	lookEvery    = time.Second
	recordsEvery = 10 * time.Second
)

// looks is what was seen last. Whoever comes while members are being asked waits for that, and sees the same.
type looks struct {
	mu       sync.Mutex
	at       time.Time
	status   unattended.Status
	err      error
	records  []history.Record
	read     time.Time
	readFor  [2]uint64          // current and next
	rendered map[bool][]section // by whether the reader may operate
}

// look is what there is to see now, and the same as sections for this reader.
func (h *Handler) look(reader Reader) (Document, []section, error) {
	l := &h.looks
	l.mu.Lock()
	defer l.mu.Unlock()
	if time.Since(l.at) >= lookEvery {
		l.status, l.err = h.Status(h.ctx)
		if l.err == nil {
			l.err = h.readRecords()
		}
		l.at, l.rendered = time.Now(), map[bool][]section{}
	}
	if l.err != nil {
		return Document{}, nil, l.err
	}
	d := Document{Status: l.status, History: l.records, Reader: reader}
	sections, ok := l.rendered[reader.operates()]
	if !ok {
		var err error
		if sections, err = sectionsOf(viewOf(d)); err != nil {
			return Document{}, nil, err
		}
		l.rendered[reader.operates()] = sections
	}
	return d, sections, nil
}

// readRecords reads the records if they may have changed.
func (h *Handler) readRecords() error {
	l := &h.looks
	var now [2]uint64
	for i, r := range []*unattended.ReleaseStatus{l.status.Current, l.status.Next} {
		if r != nil {
			now[i] = r.Number
		}
	}
	if now == l.readFor && time.Since(l.read) < recordsEvery {
		return nil
	}
	records, err := h.History(h.ctx)
	if err == nil {
		l.records, l.read, l.readFor = records, time.Now(), now
	}
	return err
}

// streams counts the event streams that are open.
type streams struct {
	mu  sync.Mutex
	all int
	of  map[release.Digest]int // by key
}

// Bounds of event streams, and how long a write may take.
const (
	maxStreams   = 64
	maxOfOne     = 8
	streamWrite  = 10 * time.Second
	streamLife   = 30 * time.Minute // then the browser comes again
	streamRetry  = 2000             // milliseconds after which it does
	streamsRetry = "30"             // seconds after which one that found no place may
)

func (s *streams) enter(key release.Digest) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all >= maxStreams || s.of[key] >= maxOfOne {
		return false
	}
	s.all++
	s.of[key]++
	return true
}

func (s *streams) leave(key release.Digest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all--
	if s.of[key]--; s.of[key] == 0 {
		delete(s.of, key)
	}
}

// events sends what has changed, as it does: first all sections, then those that are not as they were.
func (h *Handler) events(w http.ResponseWriter, r *http.Request) {
	c := r.TLS.PeerCertificates[0]
	key := identity.PinOf(c)
	if !h.open.enter(key) {
		w.Header().Set("Retry-After", streamsRetry)
		http.Error(w, "too many pages are open", http.StatusServiceUnavailable)
		return
	}
	defer h.open.leave(key)
	w.Header().Set("Content-Type", "text/event-stream")
	s := &stream{w: w, control: http.NewResponseController(w)}
	if s.write("retry: %d\n\n", streamRetry) != nil {
		return
	}
	for end := time.Now().Add(streamLife); time.Now().Before(end) && h.Refuses(c) == ""; {
		if h.step(s, readerOf(r)) != nil {
			return
		}
		select {
		case <-h.ctx.Done():
			return
		case <-r.Context().Done():
			return
		case <-time.After(lookEvery):
		}
	}
}

// step sends what is new.
func (h *Handler) step(s *stream, reader Reader) error {
	_, sections, err := h.look(reader)
	if err != nil {
		return s.event("fault", "the mesh cannot be seen: "+err.Error())
	}
	for _, one := range changes(s.sent, sections) {
		if err := s.event("change", map[string]any{"id": one.ID, "html": one.HTML}); err != nil {
			return err
		}
	}
	s.sent = sections
	return s.event("seen", nil)
}

// changes are the sections that are not as they were, or rows of them where nothing else is.
func changes(before, now []section) (changed []section) {
	for i, s := range now {
		switch {
		case i >= len(before) || len(s.Rows) > 0 && s.Shape != before[i].Shape:
			changed = append(changed, s)
		case len(s.Rows) > 0:
			changed = append(changed, changes(before[i].Rows, s.Rows)...)
		case s.HTML != before[i].HTML:
			changed = append(changed, s)
		}
	}
	return changed
}

// stream is one event stream.
type stream struct {
	w       http.ResponseWriter
	control *http.ResponseController
	sent    []section
}

func (s *stream) event(name string, data any) error {
	text, err := json.Marshal(data)
	if err != nil {
		return err
	}
	return s.write("event: %s\ndata: %s\n\n", name, text)
}

func (s *stream) write(format string, args ...any) error {
	if err := s.control.SetWriteDeadline(time.Now().Add(streamWrite)); err != nil {
		return err
	}
	if _, err := fmt.Fprintf(s.w, format, args...); err != nil {
		return err
	}
	return s.control.Flush()
}
