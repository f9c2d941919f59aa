package mirror

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
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
	// A server that does not hold requests is asked again after unheld; one whose request was lost, that answers too early, or with what a look
	// does not find, after holdRetry, and twice that each time, up to the interval between looks and no longer than unheld.
	unheld    = time.Minute
	holdRetry = time.Second
	// doubtsMost is how many requests in a row that were worth nothing show that a server is not to be relied on.
	doubtsMost = 2
	// spread is how long nodes wait on average for each member of the mesh before they look, since all hear at once.
	spread = 100 * time.Microsecond
	// notice is how long it takes a host to see what is new in its repository, and its word to come.
	notice = 100 * time.Millisecond
)

// listening is what the answers of a server have shown of whether it holds requests.
type listening struct {
	ready  bool          // the next request is to be held: the last was answered as one of a server that holds them
	asked  bool          // the server has answered one
	holds  bool          // it said in its last answer that it holds them
	doubts int           // requests in a row that were worth nothing: answered at once, with what a look does not find, or not though they were held
	lost   time.Time     // since when requests come to nothing; zero: the last did not
	retry  time.Duration // from one that comes to nothing to the next, on average
}

// kept takes in that a request was answered as it should be.
func (l *listening) kept(held bool) {
	if held {
		l.retry, l.doubts = holdRetry, 0
	}
	l.ready, l.asked, l.holds, l.lost = true, true, true, time.Time{}
}

// worthless reports of a request that came to nothing whether it speaks against the server. One that is held and gets no answer at all does: what is
// between it and this node, as a translator of addresses, may drop a connection that is still, and say so to neither, while all others are answered at once.
func worthless(held, news bool, wait, lasted time.Duration, err error) bool {
	if err != nil {
		return errors.Is(err, errDeaf) || wait > 0 && errors.Is(err, errNotAnswered)
	}
	return !held || news || lasted < holdRetry
}

// missed takes in that a request came to nothing: it was lost, or let go of, as by a host that ends, or the answer was worth nothing.
func (l *listening) missed(answered, doubt bool) {
	if answered {
		l.asked, l.holds = true, true
	}
	if doubt {
		l.doubts++
	}
	if l.lost.IsZero() {
		l.lost = time.Now()
	}
	l.ready = false
}

// refused takes in that a request would not have been held, and reports whether that is to be believed of the server. It is not of one that held them
// until now: a host that ends, or that has as many of this node as it takes, since it does not know yet that they are lost, says so for a moment.
func (l *listening) refused() bool {
	if l.holds && l.doubts+1 < doubtsMost {
		return false
	}
	*l = listening{asked: true, retry: l.retry}
	return true
}

// listen holds requests open at a repository, one after the other, until ctx ends, and has all looked at when one brings news.
func (m *Mirror) listen(ctx context.Context, r *repository) {
	l := listening{retry: holdRetry}
	_ = m.awaitNewer(ctx, "") // before there is anything, the looks are enough
	for ctx.Err() == nil {
		known, wait := m.lastKnown(), time.Duration(0)
		if l.ready {
			wait = holdFor + rand.N(holdMore)
			m.hearing(r, hearing{held: true, relied: l.doubts < doubtsMost})
		}
		began := time.Now()
		held, news, told, err := m.hold(ctx, r.url, known, wait)
		lasted := time.Since(began)
		found := err == nil && held && news && m.lookNow(ctx, r, known.tag, told)
		switch {
		case err == nil && !held && l.refused():
			_ = m.unheld(ctx, r, &l, unheld)
		case found, err == nil && held && !news && lasted >= wait/2:
			l.kept(wait > 0)
		default:
			l.missed(err == nil && held, worthless(held, news, wait, lasted, err))
			_ = m.unheld(ctx, r, &l, l.retry)
			l.retry = min(2*l.retry, max(min(m.every(), unheld), holdRetry))
		}
	}
}

// unheld says that no request is held at a repository, and waits for half of d to one and a half of it: a host that is started again lets go of all
// members in one moment, and they must not all come back in one.
func (m *Mirror) unheld(ctx context.Context, r *repository, l *listening, d time.Duration) error {
	wait := d/2 + rand.N(d)
	m.hearing(r, hearing{relied: m.relied(r, l), within: wait, long: !l.lost.IsZero() && time.Since(l.lost) >= unheld})
	return sleep(ctx, wait)
}

// hearing is how soon a repository tells of what is new, beside the looks at it.
type hearing struct {
	held   bool          // a request is held there
	relied bool          // the answer to that request, or to the next one, is to be relied on
	within time.Duration // when the next one is made at the latest
	long   bool          // requests have come to nothing for long
}

// relied reports whether the next request at a repository, of which the last came to nothing, is to be relied on: it is answered at once if there is
// something new, and held then. The server has shown that it holds requests, and a request was lost, as when a host is started again. If a look was
// good since and requests are still lost, or if it never answered one and the last look at it was good, it is a server that is there and holds none.
func (m *Mirror) relied(r *repository, l *listening) bool {
	if l.asked && !l.holds || l.doubts >= doubtsMost {
		return false
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	there := r.last != nil && r.err == nil
	return !there || l.asked && !r.good.Add(-r.took).After(l.lost)
}

// hearing keeps how soon a repository tells of what is new.
func (m *Mirror) hearing(r *repository, now hearing) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r.hearing = now
}

// soonest is the longest until a host's answer or a look begins to bring what is published. The answer of a host that has been lost for
// long does not count where there is another repository to look at: what is published may come by that one alone.
func (m *Mirror) soonest() time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	looks := slices.ContainsFunc(m.repositories, func(r *repository) bool { return !r.hearing.relied && r.last != nil && r.err == nil })
	wait := m.interval + m.interval/10
	for _, r := range m.repositories {
		if h := r.hearing; h.relied && !(h.long && looks) {
			wait = min(wait, h.within+notice)
		}
	}
	return wait
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
		return false, false, nil, cmp.Or(context.Cause(ctx), err)
	}
	defer response.Body.Close()
	if told, err = depot.ReadNews(response); err != nil {
		return false, false, nil, cmp.Or(context.Cause(ctx), err)
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
	return m.comes(ctx, known, holdSlack)
}

// comes waits until another timestamp than that with the tag was verified, and reports whether that was within slack, or within the round that is under way
// then or the one after it: a round in which all zones are read through takes longer, and a server is not to be doubted for that.
func (m *Mirror) comes(ctx context.Context, tag string, slack time.Duration) bool {
	for before, _ := m.roundsSoFar(); ; {
		within, cancel := context.WithTimeout(ctx, slack)
		err := m.awaitNewer(within, tag)
		cancel()
		if err == nil {
			return true
		}
		if now, under := m.roundsSoFar(); !under || now-before >= 2 || ctx.Err() != nil {
			return false
		}
	}
}

// roundsSoFar is how many rounds have ended, and whether one is under way.
func (m *Mirror) roundsSoFar() (ended int, under bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.ends, m.rounding
}

// rounds notes that a round begins or ends.
func (m *Mirror) rounds(begins bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.rounding = begins; !begins {
		m.ends++
	}
}

// tell keeps for the next look at a repository what it has told of itself.
func (m *Mirror) tell(r *repository, told *depot.News) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r.brought = told
}
