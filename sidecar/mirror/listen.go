package mirror

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/depot"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
)

// A distribution host holds a request for its timestamp until there is another one (depot.Holder), so that news come in a round trip.
// Its answer brings what a look would ask for (depot.News), or only that it is time to look: a look verifies, as ever, and goes on at its interval
// beside this.
const (
	// holdFor is how long a request is held at the least, and holdMore by how much longer at the most, so that those of a mesh do not
	// end together. One on a connection that has died is found out by then.
	holdFor, holdMore = 20 * time.Second, 10 * time.Second
	// holdSlack is how much later than that an answer may come.
	holdSlack = 10 * time.Second
	// deafAfter is how long a held request may go unanswered when the timestamp that it waits for has come another way.
	deafAfter = 2 * time.Second
	// A server that does not hold requests is asked again after unheld; one that answers too early, or with what a look does not find,
	// after holdRetry, and twice that each time, up to the interval between looks.
	unheld    = time.Minute
	holdRetry = time.Second
	// spread is how long nodes wait on average for each member of the mesh before they look, since all hear at once.
	spread = 100 * time.Microsecond
	// notice is how long it takes a host to see what is new in its repository, and its word to come.
	notice = 100 * time.Millisecond
)

// listen holds requests open at a repository, one after the other, until ctx ends, and has all looked at when one brings news.
func (m *Mirror) listen(ctx context.Context, r *repository) {
	retry, holds := holdRetry, false // whether the server has shown that it holds requests
	_ = m.awaitNewer(ctx, "")        // before there is anything, the looks are enough
	for ctx.Err() == nil {
		known, wait := m.lastKnown(), time.Duration(0)
		if holds {
			wait = holdFor + rand.N(holdMore)
			m.holding(r, true)
		}
		began := time.Now()
		held, news, told, err := m.hold(ctx, r.url, known, wait)
		switch early := !news && time.Since(began) < wait/2; {
		case err == nil && !held:
			holds = false
			_ = m.unheld(ctx, r, unheld)
		case err != nil, early, news && !m.lookNow(ctx, r, known.tag, told): // it says that there is something, and a look does not find it
			holds = false
			_ = m.unheld(ctx, r, retry)
			retry = min(2*retry, max(m.every(), holdRetry))
		default:
			if holds {
				retry = holdRetry
			}
			holds = true
		}
	}
}

// unheld says that no request is held at a repository, and waits for half of d to one and a half of it: a host that is started again lets go of all
// members in one moment, and they must not all come back in one.
func (m *Mirror) unheld(ctx context.Context, r *repository, d time.Duration) error {
	m.holding(r, false)
	return sleep(ctx, d/2+rand.N(d))
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}

// hold sends one request that is held for wait. news: the timestamp there is another one than that which is known. told is what came with it; nil: nothing
// did.
func (m *Mirror) hold(ctx context.Context, url string, known known, wait time.Duration) (held, news bool, told *depot.News, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	late := time.AfterFunc(wait+holdSlack, func() { cancel(errNotAnswered) })
	defer late.Stop()
	defer m.whenKnown(known.tag, func() { cancel(errDeaf) })()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(url, "/")+"/"+release.TimestampName, nil)
	if err != nil {
		return false, false, nil, err
	}
	depot.PreferWait(request, known.tag, wait)
	if known.root > 0 {
		depot.PreferNews(request, known.root, known.manifest)
	}
	response, err := m.listener.Do(request)
	if err != nil {
		return false, false, nil, err
	}
	defer response.Body.Close()
	if told, err = depot.ReadNews(response); err != nil {
		return false, false, nil, err
	}
	switch response.StatusCode {
	case http.StatusOK:
		return depot.Waits(response), true, told, nil
	case http.StatusNotModified:
		return depot.Waits(response), false, nil, nil
	}
	return false, false, nil, fmt.Errorf("the server said %s", response.Status)
}

var (
	errNotAnswered = errors.New("a request that was to be held was not answered")
	errDeaf        = errors.New("what a request waits for came another way, and it was not answered")
)

// known is what was verified last.
type known struct {
	tag      string // entity tag of the timestamp; "": nothing was verified
	root     int64  // version of the root that it was verified under
	manifest release.Digest
}

func (m *Mirror) lastKnown() known {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.known
}

// knows keeps what was verified last.
func (m *Mirror) knows(memory release.Memory, view release.View) {
	m.mu.Lock()
	defer m.mu.Unlock()
	was := m.known.tag
	m.known = known{depot.TimestampTag(memory.Timestamp), view.Versions.Root, view.Digest}
	if m.known.tag != was {
		close(m.knownNew)
		m.knownNew = make(chan struct{})
	}
}

// whenKnown has f called a while after another timestamp than that with the tag was verified, unless the function that it returns was called.
func (m *Mirror) whenKnown(tag string, f func()) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		if m.awaitNewer(ctx, tag) == nil && sleep(ctx, deafAfter) == nil {
			f()
		}
	}()
	return cancel
}

// awaitNewer waits until another timestamp than that with the tag was verified, or ctx ends.
func (m *Mirror) awaitNewer(ctx context.Context, tag string) error {
	for {
		m.mu.Lock()
		known, changed := m.known.tag, m.knownNew
		m.mu.Unlock()
		if known != tag {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-changed:
		}
	}
}

// lookNow has all repositories looked at, and reports whether that brought another timestamp than that with the tag known. told is what r has told of
// itself, nil for nothing.
func (m *Mirror) lookNow(ctx context.Context, r *repository, known string, told *depot.News) bool {
	if most := 2 * spread * time.Duration(m.Members()); most > 0 {
		_ = sleep(ctx, rand.N(most))
	}
	m.tell(r, told)
	defer m.tell(r, nil) // it is as old as other news are then
	select {
	case m.news <- struct{}{}:
	default:
	}
	ctx, cancel := context.WithTimeout(ctx, holdSlack)
	defer cancel()
	return m.awaitNewer(ctx, known) == nil
}

// tell keeps for the next look at a repository what it has told of itself.
func (m *Mirror) tell(r *repository, told *depot.News) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r.brought = told
}

// holding keeps whether a request is held at a repository.
func (m *Mirror) holding(r *repository, is bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r.held = is
}

// isHeld reports whether a request is held anywhere.
func (m *Mirror) isHeld() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, r := range m.repositories {
		if r.held {
			return true
		}
	}
	return false
}
