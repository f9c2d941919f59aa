package meshsync

import (
	"context"
	"fmt"
	"io"
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
	compiled *compiled
	took     time.Duration
	err      error
}

// retry is how long a release that could not be staged is left alone while the repository does not change.
const retry = 2 * time.Second

// stager compiles one release at a time beside the serving of another. The follower's goroutine owns it.
type stager struct {
	results chan staged
	busy    bool
	number  uint64 // what was last begun
	began   time.Time
	cancel  context.CancelFunc
}

// start begins with the most urgent of the wanted releases, unless it is at work on it or has just failed. Work on a
// release that nobody wants any more is given up.
func (s *stager) start(ctx context.Context, wanted []uint64, f *follower) {
	if s.busy {
		if !contains(wanted, s.number) {
			s.cancel()
		}
		return
	}
	for _, number := range wanted {
		r := f.release(number)
		if r == nil || number == s.number && time.Since(s.began) < retry {
			continue
		}
		s.stop()
		ctx, cancel := context.WithCancel(ctx)
		s.busy, s.number, s.began, s.cancel = true, number, time.Now(), cancel
		known := f.known()
		f.running.Go(func() {
			began := time.Now()
			c, err := compile(ctx, f.config.repository, *r, known)
			s.results <- staged{number: number, compiled: c, took: time.Since(began), err: err}
		})
		return
	}
}

// again lets a release that failed be tried at once: the repository has changed.
func (s *stager) again() { s.began = time.Time{} }

func (s *stager) stop() {
	if s.cancel != nil {
		s.cancel()
	}
}

func contains(numbers []uint64, n uint64) bool {
	for _, number := range numbers {
		if number == n {
			return true
		}
	}
	return false
}

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
	known := map[release.Digest]*zone.Zone{}
	for _, c := range f.compiled {
		for digest, z := range c.byDigest {
			known[digest] = z
		}
	}
	return known
}

// compile makes the zones of a release from the repository's blobs. Every error is a *release.Error: what was signed
// and what lies there do not agree, or cannot be served.
func compile(ctx context.Context, repository string, r release.Release, known map[release.Digest]*zone.Zone) (*compiled, error) {
	dir, err := depot.Open(repository)
	if err != nil {
		return nil, &release.Error{File: repository, Rule: release.Unreadable, Detail: err.Error()}
	}
	defer dir.Close()
	c := &compiled{byDigest: map[release.Digest]*zone.Zone{}}
	zones := make([]*zone.Zone, 0, len(r.Zones))
	for _, signed := range r.Zones {
		if err := ctx.Err(); err != nil {
			return nil, &release.Error{File: signed.Origin, Rule: "given-up", Detail: "the release is not wanted any more"}
		}
		z := known[signed.SHA256]
		if z == nil || z.Origin() != signed.Origin {
			if z, err = compileZone(dir, signed); err != nil {
				return nil, err
			}
		}
		zones = append(zones, z)
		c.byDigest[signed.SHA256] = z
		c.list = append(c.list, status.Zone{Origin: signed.Origin, Serial: signed.Serial})
		c.records += z.Len()
	}
	if c.zones, err = zone.NewZones(zones...); err != nil {
		return nil, &release.Error{File: fmt.Sprintf("release %d", r.Number), Rule: release.Format, Detail: err.Error()}
	}
	return c, nil
}

// compileZone reads one zone. The text counts only once its end was reached and its digest found right.
func compileZone(dir *depot.Dir, signed release.Zone) (*zone.Zone, error) {
	name := release.BlobName(signed.Blob.SHA256)
	text, err := dir.OpenBlob(signed)
	if err != nil {
		return nil, blobError(name, err)
	}
	defer text.Close()
	checked := &toEnd{r: text}
	z, findings := zonefile.Parse(checked, zonefile.Options{Origin: signed.Origin, File: name})
	if err := checked.finish(); err != nil {
		return nil, blobError(name, err)
	}
	for _, f := range findings {
		if f.Severity == zone.Error {
			return nil, &release.Error{File: name, Rule: release.Format, Detail: f.String()}
		}
	}
	if z.Serial() != signed.Serial {
		return nil, &release.Error{File: name, Rule: release.Format,
			Detail: fmt.Sprintf("zone %s has serial %d, the release says %d", signed.Origin, z.Serial(), signed.Serial)}
	}
	return z, nil
}

// toEnd remembers how reading ended, since a parser may stop before the digest was compared.
type toEnd struct {
	r   io.Reader
	err error
}

func (t *toEnd) Read(p []byte) (int, error) {
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
	if _, ok := release.RuleOf(err); ok {
		return err
	}
	return &release.Error{File: name, Rule: release.Missing, Detail: err.Error()}
}
