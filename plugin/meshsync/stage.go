package meshsync

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"runtime/debug"
	"slices"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/depot"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
	"github.com/coredns-anycast/coredns-anycast/internal/zone"
	"github.com/coredns-anycast/coredns-anycast/internal/zonefile"
)

// compiled is a release, verified and ready to be answered from. Zones that did not change are shared with the release
// before it.
type compiled struct {
	zones    *zone.Zones
	list     []status.Zone
	byDigest map[release.Digest]*zone.Zone
	records  int
}

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
	busy    uint64 // the release being compiled; 0 if none is
	cancel  context.CancelFunc
	cache   *imageCache
	after   map[uint64]time.Time          // when a release that failed is tried again
	right   map[release.Digest]*zone.Zone // zones of the release that failed last, not to be compiled again
}

// start begins with the most urgent of the wanted releases that did not just fail. Work on a release that nobody wants
// any more is given up.
func (s *stager) start(ctx context.Context, wanted []uint64, f *follower) {
	if len(wanted) == 0 {
		s.after, s.right = nil, nil
	}
	if s.busy != 0 {
		if !slices.Contains(wanted, s.busy) {
			s.cancel()
		}
		return
	}
	for _, number := range wanted {
		r := f.release(number)
		if r == nil || time.Now().Before(s.after[number]) {
			continue
		}
		ctx, s.cancel = context.WithCancel(ctx)
		s.busy = number
		known := f.known()
		f.running.Go(func() {
			began := time.Now()
			c, err := compile(ctx, f.config.repository, *r, known, s.cache)
			s.results <- staged{number: number, compiled: c, took: time.Since(began), err: err}
			if err == nil {
				s.cache.update(c.byDigest, known)
			}
		})
		return
	}
}

// done ends the work that gave r.
func (s *stager) done(r staged) {
	s.cancel()
	s.busy = 0
	if r.err == nil {
		delete(s.after, r.number)
		return
	}
	if s.after == nil {
		s.after = map[uint64]time.Time{}
	}
	s.after[r.number] = time.Now().Add(retry)
	s.right = r.compiled.byDigest
}

// again lets the releases that failed be tried at once: the repository has changed.
func (s *stager) again() { clear(s.after) }

// release is the one of that number in the view.
func (f *follower) release(number uint64) *release.Release {
	if f.view == nil {
		return nil
	}
	for _, r := range []*release.Release{f.view.Manifest.Current, f.view.Manifest.Next} {
		if r != nil && r.Number == number {
			return r
		}
	}
	return nil
}

// known are the zones that are compiled already.
func (f *follower) known() map[release.Digest]*zone.Zone {
	known := maps.Clone(f.stager.right)
	if known == nil {
		known = map[release.Digest]*zone.Zone{}
	}
	for _, c := range f.compiled {
		for digest, z := range c.byDigest {
			known[digest] = z
		}
	}
	return known
}

// compile makes the zones of a release from the repository's blobs. Every error is a *release.Error, what was signed and
// what lies there do not agree or cannot be served, or ctx's. With it comes what was compiled before.
func compile(ctx context.Context, repository string, r release.Release, known map[release.Digest]*zone.Zone, cache *imageCache) (*compiled, error) {
	c := &compiled{byDigest: map[release.Digest]*zone.Zone{}}
	dir, err := openRepository(repository)
	if err != nil {
		return c, err
	}
	defer dir.Close()
	large := false
	zones := make([]*zone.Zone, 0, len(r.Zones))
	for _, signed := range r.Zones {
		z := known[signed.SHA256]
		if z == nil || z.Origin() != signed.Origin {
			if z = cache.load(signed.SHA256); z == nil || z.Origin() != signed.Origin {
				if z, err = compileZone(ctx, dir, signed); err != nil {
					return c, err
				}
			}
			large = large || z.ImageSize() >= cacheFrom
		}
		if z.Serial() != signed.Serial {
			return c, &release.Error{File: release.BlobName(signed.Blob.SHA256), Rule: release.Format,
				Detail: fmt.Sprintf("zone %s has serial %d, the release says %d", signed.Origin, z.Serial(), signed.Serial)}
		}
		zones = append(zones, z)
		c.byDigest[signed.SHA256] = z
		c.list = append(c.list, status.Zone{Origin: signed.Origin, Serial: signed.Serial})
		c.records += z.Len()
	}
	if c.zones, err = zone.NewZones(zones...); err != nil {
		return c, &release.Error{File: fmt.Sprintf("release %d", r.Number), Rule: release.Format, Detail: err.Error()}
	}
	if large {
		debug.FreeOSMemory() // compiling took several times what the zones take
	}
	return c, nil
}

// compileZone reads one zone. The text counts only once its end was reached and its digest found right.
func compileZone(ctx context.Context, dir *depot.Dir, signed release.Zone) (*zone.Zone, error) {
	name := release.BlobName(signed.Blob.SHA256)
	text, err := dir.OpenBlob(signed)
	if err != nil {
		return nil, blobError(name, err)
	}
	defer text.Close()
	checked := &toEnd{ctx: ctx, r: text}
	z, findings := zonefile.Parse(checked, zonefile.Options{Origin: signed.Origin, File: name})
	if err := checked.finish(); err != nil {
		return nil, blobError(name, err)
	}
	for _, f := range findings {
		if f.Severity == zone.Error {
			return nil, &release.Error{File: name, Rule: release.Format, Detail: f.String()}
		}
	}
	return z, nil
}

// toEnd remembers how reading ended, since a parser may stop before the digest was compared. It ends with ctx.
type toEnd struct {
	ctx context.Context
	r   io.Reader
	err error
}

func (t *toEnd) Read(p []byte) (int, error) {
	if t.err = t.ctx.Err(); t.err != nil {
		return 0, t.err
	}
	n, err := t.r.Read(p)
	if err != nil {
		t.err = err
	}
	return n, err
}

// finish reads the rest and returns what is wrong with the whole, nil if nothing is.
func (t *toEnd) finish() error {
	if t.err == nil {
		io.Copy(io.Discard, t)
	}
	if t.err == io.EOF {
		return nil
	}
	return t.err
}

func blobError(name string, err error) error {
	if _, ok := release.RuleOf(err); ok || errors.Is(err, context.Canceled) {
		return err
	}
	return &release.Error{File: name, Rule: release.Missing, Detail: err.Error()}
}
