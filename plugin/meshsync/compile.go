package meshsync

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/assemble"
	"github.com/coredns-anycast/coredns-anycast/internal/beside"
	"github.com/coredns-anycast/coredns-anycast/internal/depot"
	"github.com/coredns-anycast/coredns-anycast/internal/instant"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
	"github.com/coredns-anycast/coredns-anycast/internal/zone"
	"github.com/coredns-anycast/coredns-anycast/internal/zonefile"
)

// compiling is how far a release is in the making. Others look while it goes on.
type compiling struct {
	number  uint64
	began   time.Time
	beside  bool         // another release is answered from meanwhile
	of      int          // zones
	zones   atomic.Int64 // ready
	records atomic.Int64 // read
	octets  atomic.Int64 // of text, done with
	ofAll   int64
}

func (c *compiling) status() *status.Compiling {
	if c == nil {
		return nil
	}
	return &status.Compiling{Number: c.number, Zones: int(c.zones.Load()), Of: c.of, Records: c.records.Load(),
		Octets: c.octets.Load(), OfAll: c.ofAll,
		Began: instant.WallOf(c.began), Seconds: time.Since(c.began).Seconds()}
}

// compiler makes the zones of one release.
type compiler struct {
	ctx   context.Context
	dir   *depot.Dir
	known known
	cache *imageCache
	busy  *compiling
	large sync.Mutex      // one large zone at a time: it keeps all processors busy, and takes memory
	freed atomic.Bool     // there is memory to give back
	kept  map[string]bool // files of the cache
}

// processors is how many the work may take: all of them, or half while there are queries to be answered, since a goroutine
// keeps its processor for up to 10 ms.
func (w *compiler) processors() int {
	n := runtime.GOMAXPROCS(0)
	if w.busy.beside {
		n = max(1, n/2)
	}
	return n
}

// loadGC is the garbage collector's percentage while a large zone is compiled. It costs little, since most of what is in
// memory then has no pointers.
const loadGC = 20

// largeText is the size in octets from which a zone's text is large.
const largeText = 4 << 20

// compile makes the zones of a release from the repository's blobs, several at a time. Every error is a *release.Error,
// what was signed and what lies there do not agree or cannot be served, or ctx's; of several it is that of the first zone.
// With it comes what was compiled before.
func compile(ctx context.Context, repository string, r release.Release, known known, cache *imageCache, busy *compiling) (*compiled, error) {
	c := newCompiled(&r, known.releases, known.failed)
	dir, err := openRepository(repository)
	if err != nil {
		return c, err
	}
	defer dir.Close()
	w := &compiler{ctx: ctx, dir: dir, known: known, cache: cache, kept: cache.files(), busy: busy}
	var base *compiled
	if len(known.releases) > 0 {
		base = known.releases[0]
	}
	var todo []slot
	shared := r.Octets()
	for _, p := range c.fresh {
		for i := range p.signed {
			if p.made[i] == nil {
				todo = append(todo, slot{p, i})
				shared -= p.signed[i].Length
			}
		}
	}
	busy.octets.Add(shared)
	busy.zones.Add(int64(r.Len() - len(todo)))
	if err := w.all(todo); err != nil {
		return c, err
	}
	if err := c.finish(base, min(cache.from, cacheFrom)); err != nil {
		return c, &release.Error{File: fmt.Sprintf("release %d", r.Number), Rule: release.Format, Detail: err.Error()}
	}
	if w.freed.Load() {
		w.free()
	}
	return c, nil
}

// free gives memory back, of which compiling took several times what the zones take. While there are queries to be answered
// the runtime is left to do that by and by: in one piece it holds them up.
func (w *compiler) free() {
	if w.busy.beside {
		runtime.GC()
	} else {
		debug.FreeOSMemory()
	}
}

// slot is where a zone is in a part.
type slot struct {
	*part
	at int
}

// all makes zones until one cannot be made. Those before it are tried in any case, so that it does not hang on chance
// which error is told.
func (w *compiler) all(todo []slot) error {
	errs := make([]error, len(todo))
	var next atomic.Int64
	var failed atomic.Bool
	var running sync.WaitGroup
	for range min(w.processors(), len(todo)) {
		running.Go(func() {
			if w.busy.beside {
				beside.StepBack()
			}
			for n := next.Add(1) - 1; n < int64(len(todo)) && !failed.Load(); n = next.Add(1) - 1 {
				p := todo[n]
				if p.made[p.at], errs[n] = w.zone(p.signed[p.at]); errs[n] != nil {
					failed.Store(true)
				}
				w.busy.zones.Add(1)
				w.busy.octets.Add(p.signed[p.at].Length)
			}
		})
	}
	running.Wait()
	return cmp.Or(errs...)
}

// rootsOf are the zones of an origin that are known, by root.
func (w *compiler) rootsOf(origin string) map[release.Digest]*zone.Zone {
	roots := map[release.Digest]*zone.Zone{}
	for _, z := range w.known.of(origin) {
		roots[z.Root()] = z
	}
	return roots
}

// zone is a zone as it was signed: known already, kept compiled, or made of its text, and of one known if that differs in a
// little.
func (w *compiler) zone(signed release.Zone) (z *zone.Zone, err error) {
	if z = w.known.zone(signed); z == nil {
		if z = w.load(kept(signed)...); z == nil || z.Origin() != signed.Origin {
			if z, err = w.make(signed); err != nil {
				return nil, err
			}
		}
		// Others may make it of packs, and must come to the same (SYNC-H).
		if root := z.Root(); signed.Root != (release.Digest{}) && root != signed.Root {
			return nil, &release.Error{File: release.BlobName(signed.Blob.SHA256), Rule: release.Format,
				Detail: fmt.Sprintf("zone %s has root %x, the release says %s", signed.Origin, root, signed.Root)}
		}
	}
	if z.Serial() != signed.Serial {
		return nil, &release.Error{File: release.BlobName(signed.Blob.SHA256), Rule: release.Format,
			Detail: fmt.Sprintf("zone %s has serial %d, the release says %d", signed.Origin, z.Serial(), signed.Serial)}
	}
	return z, nil
}

// kept are what files of a compiled zone may be named after.
func kept(signed release.Zone) []release.Digest {
	if !signed.Whole() {
		return []release.Digest{signed.Root}
	}
	return []release.Digest{signed.Root, signed.SHA256}
}

// load is a zone that was kept compiled, by the first of its root and its text that there is a file of; nil if there is none.
func (w *compiler) load(of ...release.Digest) *zone.Zone {
	for _, d := range of {
		if !w.kept[cacheName(d)] {
			continue
		}
		if z := w.cache.load(d); z != nil {
			if z.ImageSize() >= cacheFrom {
				w.freed.Store(true)
			}
			return z
		}
	}
	return nil
}

// make makes a zone: by the packs that lead to it, or of its text, if it is whole.
func (w *compiler) make(signed release.Zone) (*zone.Zone, error) {
	z, err := w.assemble(signed)
	if err == nil || !signed.Whole() {
		return z, cmp.Or(w.ctx.Err(), err)
	}
	if z = w.follow(signed); z != nil {
		return z, nil
	}
	z, noText := w.compileZone(signed)
	if why, _ := release.RuleOf(err); why != release.Missing {
		if rule, _ := release.RuleOf(noText); rule == release.Missing {
			return nil, err
		}
		log.Warningf("the text of zone %s is read: %v", signed.Origin, err)
	}
	return z, noText
}

// assemble makes a zone of one that is known, or else of the older text that is here in place of its own, and of packs.
func (w *compiler) assemble(signed release.Zone) (*zone.Zone, error) {
	if signed.Root == (release.Digest{}) {
		return assemble.Zone(w.dir, depot.Way{}, signed, assemble.Start{})
	}
	roots, counted := w.rootsOf(signed.Origin), 0
	z, err := assemble.Zone(w.dir, w.dir.Way(signed), signed, assemble.Start{
		Zone: func(root release.Digest) *zone.Zone {
			if z := roots[root]; z != nil {
				return z
			}
			return w.load(root)
		},
		Base: func(text release.Zone) (*zone.Zone, error) {
			z, err := w.compileZone(text)
			if err == nil {
				counted = z.Len()
			}
			return z, err
		},
		Step: func(int, int) bool { return w.ctx.Err() == nil },
	})
	if err == nil {
		w.busy.records.Add(int64(z.Len() - counted))
	} else {
		w.busy.records.Add(int64(-counted)) // it is begun anew
	}
	return z, err
}

// changedShare is which part of a zone's image may have changed for it to be made of the zone before.
const changedShare = 8

// follow makes a zone of the newest one known, if there is one, and of the lines of its text that are not of that. Like one that is
// compiled it counts only once the end of the text was reached and its digest found right, and it is what the text says, since
// every line was there or was put in. It returns nil if that is for compileZone, which also says what is wrong.
func (w *compiler) follow(signed release.Zone) *zone.Zone {
	old := w.known.newest(signed.Origin)
	if old == nil {
		return nil
	}
	text, err := w.dir.OpenBlob(signed)
	if err != nil {
		return nil
	}
	defer text.Close()
	checked := &toEnd{ctx: w.ctx, r: text, all: &w.busy.octets}
	seen := 0
	defer func() { w.busy.octets.Add(-checked.n.Load()) }()
	delta := zonefile.Since(old, checked, old.ImageSize()/changedShare, func(records int) bool {
		w.busy.records.Add(int64(records - seen))
		seen = records
		return w.ctx.Err() == nil
	})
	var z *zone.Zone
	if delta != nil && checked.finish() == nil {
		z, _ = old.Apply(delta)
	}
	if z == nil {
		w.busy.records.Add(int64(-seen)) // it is begun anew
		return nil
	}
	w.busy.records.Add(int64(z.Len() - seen))
	w.freed.Store(true)
	return z
}

// compileZone reads one zone. The text counts only once its end was reached and its digest found right.
func (w *compiler) compileZone(signed release.Zone) (*zone.Zone, error) {
	if signed.Length >= largeText {
		w.large.Lock()
		defer w.large.Unlock()
		defer debug.SetGCPercent(debug.SetGCPercent(loadGC))
	}
	name := release.BlobName(signed.Blob.SHA256)
	text, err := w.dir.OpenBlob(signed)
	if err != nil {
		return nil, blobError(name, err)
	}
	defer text.Close()
	checked := &toEnd{ctx: w.ctx, r: text, all: &w.busy.octets}
	seen := 0
	defer func() { w.busy.octets.Add(-checked.n.Load()) }() // all of it is counted when the zone is ready
	z, findings := zonefile.Parse(checked, zonefile.Options{Origin: signed.Origin, File: name, Size: signed.Length, Parallel: w.processors(),
		Progress: func(records int) bool {
			w.busy.records.Add(int64(records - seen))
			seen = records
			return w.ctx.Err() == nil
		}})
	if err := cmp.Or(w.ctx.Err(), checked.finish()); err != nil {
		return nil, blobError(name, err)
	}
	for _, f := range findings {
		if f.Severity == zone.Error {
			return nil, &release.Error{File: name, Rule: release.Format, Detail: f.String()}
		}
	}
	w.busy.records.Add(int64(z.Len() - seen))
	if z.ImageSize() >= cacheFrom {
		w.freed.Store(true)
	}
	return z, nil
}

// toEnd remembers how reading ended, since a parser may stop before the digest was compared. It ends with ctx.
type toEnd struct {
	ctx context.Context
	r   io.Reader
	err error
	n   atomic.Int64  // octets read
	all *atomic.Int64 // and of others
}

func (t *toEnd) Read(p []byte) (int, error) {
	if t.err = t.ctx.Err(); t.err != nil {
		return 0, t.err
	}
	n, err := t.r.Read(p)
	t.n.Add(int64(n))
	t.all.Add(int64(n))
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
