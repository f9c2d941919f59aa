package depot

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/release"
)

// How a request asks to be held, and how its answer says that it was, or would have been (RFC 7240 2, 3 and 4.3).
const (
	preferHeader  = "Prefer"
	appliedHeader = "Preference-Applied"
	waitToken     = "wait"
)

const (
	// MaxWait bounds how long a request is held.
	MaxWait   = time.Minute
	heldMost  = 8192 // requests at a time, of all
	heldOfOne = 4    // and of one name
)

// PreferWait makes a request one that is held for d, in whole seconds, until the timestamp is another one than that with the entity
// tag known. With 0 it is answered at once, and the answer says whether it would have been held.
func PreferWait(r *http.Request, known string, d time.Duration) {
	r.Header.Set(preferHeader, fmt.Sprintf("%s=%d", waitToken, d/time.Second))
	if known != "" {
		r.Header.Set("If-None-Match", known)
	}
}

// Waits reports whether the server of an answer holds requests.
func Waits(r *http.Response) bool {
	_, applied := waitOf(r.Header.Values(appliedHeader))
	return applied
}

// waitOf reads the preference "wait" of a header's lines.
func waitOf(lines []string) (time.Duration, bool) {
	n, asked := preference(lines, waitToken)
	return time.Duration(n) * time.Second, asked
}

// preference reads a preference of a header's lines that has a number, among others that it may hold.
func preference(lines []string, token string) (int64, bool) {
	for _, line := range lines {
		for part := range strings.SplitSeq(line, ",") {
			part, _, _ = strings.Cut(part, ";")
			name, value, _ := strings.Cut(part, "=")
			if !strings.EqualFold(strings.TrimSpace(name), token) {
				continue
			}
			if n, err := strconv.ParseUint(strings.Trim(strings.TrimSpace(value), `"`), 10, 31); err == nil {
				return int64(n), true
			}
			return 0, false
		}
	}
	return 0, false
}

// parameter is that of a preference of a header's lines; "" if it has none.
func parameter(lines []string, token, name string) string {
	for _, line := range lines {
		for part := range strings.SplitSeq(line, ",") {
			preference, rest, _ := strings.Cut(part, ";")
			if is, _, _ := strings.Cut(preference, "="); !strings.EqualFold(strings.TrimSpace(is), token) {
				continue
			}
			for one := range strings.SplitSeq(rest, ";") {
				if is, value, _ := strings.Cut(one, "="); strings.EqualFold(strings.TrimSpace(is), name) {
					return strings.Trim(strings.TrimSpace(value), `"`)
				}
			}
			return ""
		}
	}
	return ""
}

// TimestampTag is the entity tag of a timestamp (RFC 9110 8.8.3): its SHA-256.
func TimestampTag(data []byte) string { return `"` + release.DigestOf(data).String() + `"` }

// Holder serves a repository as Handler does, and holds a GET of the timestamp that asks for it by "Prefer: wait=N" (PreferWait)
// until there is another one than its "If-None-Match" names, for N seconds and no longer than MaxWait. The answer is that of Handler, and
// says by "Preference-Applied" that the request was held. Who asks for news as well (PreferNews) gets what the timestamp names with it. Of too many, of all or of one certificate's name, the rest is answered at once,
// without that word. So a publication reaches who asks in a round trip, and who asks a server without this polls. It gives small blobs many at a time (togetherPath).
type Holder struct {
	ctx   context.Context
	repo  Store
	next  http.Handler
	every time.Duration

	telling chan struct{} // has one place, of who reads what is new
	told    told          // theirs who have that place

	looking sync.Mutex
	looked  time.Time // when the last look began; guarded by looking
	seen    Tag       // of the repository's file at that; guarded by looking

	mu      sync.Mutex
	tag     string        // entity tag of the timestamp that was seen last
	changed chan struct{} // closed, and made anew, when there is another one
	held    map[string]int
	all     int
	watched bool // watch runs
	refused uint64
}

// NewHolder makes a Holder. While a request is held, the repository is looked at every so often. All that are held are answered when
// ctx ends, and none is held from then on.
func NewHolder(ctx context.Context, repo Store, every time.Duration) *Holder {
	return &Holder{ctx: ctx, repo: repo, next: Handler(repo), every: every, telling: make(chan struct{}, 1), changed: make(chan struct{}), held: map[string]int{}}
}

// Counts are how many requests are held now, and how many were answered at once since there were too many.
func (h *Holder) Counts() (held int, refused uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.all, h.refused
}

// ServeHTTP implements http.Handler.
func (h *Holder) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path := strings.TrimPrefix(r.URL.Path, "/")
	if path == togetherPath {
		h.together(w, r)
		return
	}
	if strings.HasPrefix(path, blobDir) {
		w.Header().Set(togetherHeader, togetherPath)
	}
	wait, asked := waitOf(r.Header.Values(preferHeader))
	if asked && r.Method == http.MethodGet && path == release.TimestampName {
		wait = min(wait, MaxWait)
		if name := ownerOf(r); h.enter(name) {
			w.Header().Set(appliedHeader, fmt.Sprintf("%s=%d", waitToken, wait/time.Second))
			h.wait(r, wait)
			h.leave(name)
			if root, asked := preference(r.Header.Values(preferHeader), newsToken); asked && h.tell(w, r, root) {
				return
			}
		}
	}
	h.next.ServeHTTP(w, r)
}

// ownerOf is who sent a request: the name in its certificate.
func ownerOf(r *http.Request) string {
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return ""
	}
	return r.TLS.PeerCertificates[0].Subject.CommonName
}

// enter takes a place for a request, and has the repository looked at from the first one on.
func (h *Holder) enter(name string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ctx.Err() != nil {
		return false
	}
	if h.all >= heldMost || h.held[name] >= heldOfOne {
		h.refused++
		return false
	}
	h.held[name]++
	h.all++
	if !h.watched {
		h.watched = true
		go h.watch()
	}
	return true
}

func (h *Holder) leave(name string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.all--
	if h.held[name]--; h.held[name] == 0 {
		delete(h.held, name)
	}
}

// watch looks at the repository for as long as requests are held.
func (h *Holder) watch() {
	tick := time.NewTicker(h.every)
	defer tick.Stop()
	for {
		select {
		case <-h.ctx.Done():
			return
		case <-tick.C:
		}
		h.mu.Lock()
		h.watched = h.all > 0
		on := h.watched
		h.mu.Unlock()
		if !on {
			return
		}
		h.look(time.Now())
	}
}

// look looks at the repository, unless that was done since. What cannot be read is as it was.
func (h *Holder) look(since time.Time) {
	h.looking.Lock()
	defer h.looking.Unlock()
	if !h.looked.Before(since) {
		return
	}
	began := time.Now()
	tag, err := h.repo.Tag(release.TimestampName)
	if err == nil && tag == h.seen {
		h.looked = began
		return
	}
	data, tag, err := h.repo.Read(release.TimestampName, release.MaxBytes(release.TimestampName))
	if err != nil {
		return
	}
	h.looked, h.seen = began, tag
	h.mu.Lock()
	defer h.mu.Unlock()
	if now := TimestampTag(data); now != h.tag {
		h.tag = now
		close(h.changed)
		h.changed = make(chan struct{})
	}
}

// wait returns when the timestamp is another than the request names, or when it is time to answer.
func (h *Holder) wait(r *http.Request, wait time.Duration) {
	known := r.Header.Get("If-None-Match")
	if known == "" || wait == 0 {
		return
	}
	end := time.NewTimer(wait)
	defer end.Stop()
	arrived := time.Now()
	for {
		tag, changed := h.current()
		if tag != known {
			h.look(arrived) // what was seen may be older than what this request's sender has from here
			if tag, changed = h.current(); tag != known {
				return
			}
		}
		select {
		case <-changed:
		case <-end.C:
			return
		case <-r.Context().Done():
			return
		case <-h.ctx.Done():
			return
		}
	}
}

func (h *Holder) current() (string, <-chan struct{}) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.tag, h.changed
}
