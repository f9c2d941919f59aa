package meshsync

import (
	"context"
	"maps"
	"slices"
	"sync/atomic"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/beside"
	"github.com/coredns-anycast/coredns-anycast/internal/depot"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
)

// staged is the outcome of compiling one release.
type staged struct {
	number   uint64
	compiled *compiled // with err: what was right of it
	took     time.Duration
	err      error
}

// retry is how long a release that could not be staged is left alone while the repository does not change.
const retry = 2 * time.Second

// stager compiles one release at a time beside the serving of another. The follower's goroutine owns it.
type stager struct {
	results chan staged
	busy    *compiling // nil if no release is being compiled
	told    time.Time  // when the log was told last how that goes
	cancel  context.CancelFunc
	cache   *imageCache
	keeping atomic.Int32         // releases whose large zones are being kept, by who knows those before too
	after   map[uint64]time.Time // when a release that failed is tried again
	failed  *compiled            // the release that failed last, of which what is right is not to be compiled again
}

// start begins with the most urgent of the wanted releases that did not just fail. Work on a release that nobody wants
// any more is given up.
func (s *stager) start(ctx context.Context, wanted []uint64, f *follower) {
	if len(wanted) == 0 {
		s.after, s.failed = nil, nil
	}
	if s.busy != nil {
		if !slices.Contains(wanted, s.busy.number) {
			s.cancel()
		}
		s.tell()
		return
	}
	for _, number := range wanted {
		r := f.release(number)
		if r == nil || time.Now().Before(s.after[number]) {
			continue
		}
		ctx, s.cancel = context.WithCancel(ctx)
		now := time.Now()
		busy := &compiling{number: number, began: now, beside: f.serving != 0, of: r.Len(), ofAll: r.Octets()}
		s.busy, s.told = busy, now
		known, before := f.known(), f.before(number)
		f.running.Go(func() {
			if busy.beside {
				beside.StepBack()
			}
			c, err := compile(ctx, f.config.repository, *r, known, s.cache, busy)
			if err == nil && before != nil {
				c.since(before)
			}
			s.keeping.Add(1)
			s.results <- staged{number: number, compiled: c, took: time.Since(now), err: err}
			if err == nil {
				s.keep(f.config.repository, c, known)
			}
			s.keeping.Add(-1)
		})
		return
	}
}

// keep keeps the large zones of a release for the next start.
func (s *stager) keep(repository string, c *compiled, known known) {
	dir, err := depot.Open(repository)
	if err != nil {
		return // it is kept with the next release
	}
	defer dir.Close()
	s.cache.update(dir, c, known)
}

// done ends the work that gave r.
func (s *stager) done(r staged) {
	s.cancel()
	s.busy = nil
	if r.err == nil {
		delete(s.after, r.number)
		return
	}
	if s.after == nil {
		s.after = map[uint64]time.Time{}
	}
	s.after[r.number] = time.Now().Add(retry)
	s.failed = r.compiled
}

// tellEvery is how often the log is told how compiling goes. What takes no longer is not mentioned.
const tellEvery = 5 * time.Second

func (s *stager) tell() {
	if now := time.Now(); now.Sub(s.told) >= tellEvery {
		s.told = now
		log.Info(s.busy.status())
	}
}

// again lets the releases that failed be tried at once: the repository has changed.
func (s *stager) again() { clear(s.after) }

// release is the one of that number in the views.
func (f *follower) release(number uint64) *release.Release {
	for r := range f.releases() {
		if r.Number == number {
			return r
		}
	}
	return nil
}

// known are the zones that are compiled already.
func (f *follower) known() known {
	k := known{failed: f.stager.failed}
	for _, number := range slices.Backward(slices.Sorted(maps.Keys(f.compiled))) {
		k.releases = append(k.releases, f.compiled[number])
	}
	return k
}
