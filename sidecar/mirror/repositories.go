package mirror

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/depot"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
)

// Where there are several repositories, all are looked at, each by itself: one that hangs, or lets its heads trickle, keeps
// nobody waiting. The newest verified timestamp of all wins, so that one which stands still (a CDN that serves what it kept)
// holds no node until its lease ends (FAIL-4). A newer root goes before it: under one, timestamps may begin anew, since
// whoever stole a key had them high. Zones are the same in all of them, and come from the one that is quickest.

const (
	// patience is how long a round waits for others once one repository is good. What comes later is a round of its own.
	patience = 500 * time.Millisecond
	// slowLook is how long a look at a repository takes that is worth a warning: a switchover must come within seconds.
	slowLook = 5 * time.Second
	// behindAfter is how long a repository may lag behind another one, as caches do.
	behindAfter = time.Minute
)

// States of a repository.
const (
	Unseen   = "unseen"   // the first look at it is not over
	Good     = "good"     // it was verified, and is as new as any other, or lately was
	Behind   = "behind"   // it has been older than what others have for more than a minute
	Slow     = "slow"     // it is good, and takes long to say so
	Unusable = "unusable" // it cannot be reached, or is not what was signed
)

// RepositoryStates are all of them.
var RepositoryStates = []string{Unseen, Good, Behind, Slow, Unusable}

// repository is one that is followed. Its fields are guarded by Mirror.mu, but for url.
type repository struct {
	url     string
	client  *http.Client
	looking bool         // a look is under way
	brought *depot.News  // that came and no look has taken yet; nil: none
	fresh   bool         // what the last look gave was not in a round yet
	last    *depot.Found // of the last look; nil: none is over
	err     error        // of the last look
	newest  stamp        // that was last verified
	since   time.Time    // of the look that is under way
	good    time.Time    // when the last good look ended
	took    time.Duration
	behind  time.Time // since when it is older than others; zero: it is not
	hearing hearing   // how soon it tells of what is new
	told    string    // the state that was logged last

	tried uint64  // the release of which zones were fetched from it last
	speed float64 // bytes a second at that
}

// stamp says how new what a repository has is: the version of its root, and of its timestamp.
type stamp struct{ root, timestamp int64 }

func (s stamp) compare(o stamp) int {
	return cmp.Or(cmp.Compare(s.root, o.root), cmp.Compare(s.timestamp, o.timestamp))
}

// look begins a look at every repository of which none is under way, and waits for as many as a round is to wait for.
func (m *Mirror) look(ctx context.Context, memory release.Memory) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, r := range m.repositories {
		if r.looking || r.fresh && r.brought == nil {
			continue
		}
		if r.client, r.err = m.clientFor(r.url); r.err != nil {
			continue
		}
		r.looking, r.since = true, time.Now()
		told := r.brought
		r.brought = nil
		m.looks.Go(func() { m.lookAt(ctx, r, memory, told) })
	}
	var late <-chan time.Time
	for {
		pending, good := 0, false
		for _, r := range m.repositories {
			if r.looking {
				pending++
			}
			good = good || r.fresh && r.err == nil
		}
		if pending == 0 {
			return
		}
		if good && late == nil {
			late = time.After(patience)
		}
		ended := m.ended
		m.mu.Unlock()
		select {
		case <-ended:
			m.mu.Lock()
		case <-late:
			m.mu.Lock()
			return
		case <-m.members.wake: // a member has what is newer; what is looked at goes on
			m.mu.Lock()
			return
		case <-ctx.Done():
			m.mu.Lock()
			return
		}
	}
}

// lookAt keeps what a look gave, and wakes who waits for it.
func (m *Mirror) lookAt(ctx context.Context, r *repository, memory release.Memory, told *depot.News) {
	dir, err := depot.Open(m.cfg.Depot) // one of its own, since the round may end before
	if err == nil {
		defer dir.Close()
	}
	found := depot.LookWith(ctx, r.client, r.url, memory, dir, told)
	m.mu.Lock()
	defer m.mu.Unlock()
	r.looking, r.fresh, r.err = false, true, found.Err()
	r.took = time.Since(r.since)
	if r.last = found; r.err == nil {
		r.newest, r.good = stamp{found.Root(), found.Timestamp()}, time.Now()
	}
	close(m.ended)
	m.ended = make(chan struct{})
}

// order is the repositories as they are to be taken: the newest first, as configured between those that are equally new,
// and last those that are not good. One with a newer root goes first even so: its root is taken in, whatever else is wrong with
// it, and others are then judged by that.
func (m *Mirror) order() []*repository {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, r := range m.repositories {
		r.fresh = false
	}
	rank := func(r *repository) stamp {
		switch {
		case r.last == nil:
			return stamp{}
		case r.err != nil:
			return stamp{root: r.last.Root()}
		}
		return r.newest
	}
	all := slices.Clone(m.repositories)
	slices.SortStableFunc(all, func(a, b *repository) int { return rank(b).compare(rank(a)) })
	return all
}

// source is the repository that zones of a release come from, of those that are as new as r: each is tried once, r first,
// and then the quickest.
func (m *Mirror) source(r *repository, release uint64) *repository {
	m.mu.Lock()
	defer m.mu.Unlock()
	best := r
	for _, other := range m.repositories {
		if other.newest != r.newest || other.err != nil || best.tried != release {
			continue
		}
		if other.tried != release || other.speed > best.speed {
			best = other
		}
	}
	return best
}

// measure keeps how quickly zones came from a repository.
func (m *Mirror) measure(r *repository, release uint64, bytes int64, took time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if release != 0 && took > 0 {
		r.tried, r.speed = release, float64(bytes)/took.Seconds()
	}
}

// judge says how each repository is, and logs what has changed.
func (m *Mirror) judge() {
	m.mu.Lock()
	defer m.mu.Unlock()
	var newest stamp
	for _, r := range m.repositories {
		if r.newest.compare(newest) > 0 {
			newest = r.newest
		}
	}
	m.state.Repositories = nil
	for _, r := range m.repositories {
		rule, _ := release.RuleOf(r.err)
		switch old := r.newest.compare(newest) < 0 && r.last != nil || rule == release.Rollback; {
		case !old:
			r.behind = time.Time{}
		case r.behind.IsZero():
			r.behind = time.Now()
		}
		one := r.status(rule)
		m.state.Repositories = append(m.state.Repositories, one)
		if one.State == r.told || len(m.repositories) == 1 {
			continue // of a single one the mirror itself says how it is
		}
		if one.State == Good {
			m.log.Info("a repository is good", "url", r.url)
		} else if one.State != Unseen {
			m.log.Warn("a repository is not as it should be; others are followed", "url", r.url, "state", one.State, "why", one.Detail)
		}
		r.told = one.State
	}
}

// status says how a repository is. mu is held.
func (r *repository) status(rule release.Rule) status.Repository {
	one := status.Repository{URL: r.url, State: Good, Timestamp: r.newest.timestamp, LastGood: r.good.UTC()}
	took := r.took
	if r.looking {
		took = max(took, time.Since(r.since))
	}
	switch {
	case !r.behind.IsZero() && time.Since(r.behind) >= behindAfter:
		one.State, one.Detail = Behind, fmt.Sprintf("it stands still: it has been older than others since %s", r.behind.UTC().Format(time.RFC3339))
	case r.err != nil && rule != release.Rollback:
		one.State, one.Detail = Unusable, status.Cut(r.err.Error())
	case took >= slowLook:
		one.State, one.Detail = Slow, fmt.Sprintf("it takes %v to say what there is", took.Round(100*time.Millisecond))
	case r.good.IsZero() && r.err == nil:
		one.State, one.Detail = Unseen, "the first look at it is under way"
	}
	return one
}
