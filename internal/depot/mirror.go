package depot

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"path"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/coredns-anycast/coredns-anycast/internal/release"
)

// Source is a repository that a depot is brought up to.
type Source struct {
	Client *http.Client
	URL    string
	Note   func(Note, error) // is told of each zone that came; the error is why a delta was of no use. nil: nobody
	Moved  func(Moved)       // is told of what comes, as it comes; nil: nobody
	Deep   bool              // zones that are there are read through, and fetched again if they are damaged
	Urgent bool              // so they are though others do not come, which may be for hours: who reads them has found one damaged

	Pace   *Pace         // of downloads of zones; nil: unbounded
	Budget time.Duration // for downloads of zones, before the rest goes in without them; 0: unbounded
	Room   int64         // bytes that the zones' files may take in all; 0: unbounded

	Known    *Known // what the process knows of the depot; nil: nothing
	Metadata bool   // zones are left out: who serves it has no files for others
	Texts    bool   // zones are had as the manifest has them, by no packs from what lies here: who reads them could not make them of that
}

// ErrUnfinished says that the budget of time ended before all zones had come, and that something came. The next one
// goes on where it stopped. A server that sends nothing is waited for, and an error, whatever the budget;
// one that sends next to nothing is an error.
var ErrUnfinished = errors.New("zones are still being fetched")

// Note says how a zone came.
type Note struct {
	Zone  string // origin
	Delta bool   // it was, or was to be, made of what lay here and of a delta or packs
	Bytes int64  // of the files that were used
}

// Moved says how far the transfer of a release's zones is.
type Moved struct {
	Number uint64 // of the release that was made last
	Came   int64  // bytes of the files that are coming
	Left   int64  // that are yet to come, of them and of the zones after them
}

// Found is what a look at a repository gave.
type Found struct {
	remote *remoteFS
	seen   release.Memory // before the look
	view   release.View
	next   release.Memory // after it
	err    error
}

// Look reads the metadata of the repository at url and verifies it against what mem has seen. Any number of repositories may be looked at at
// once. Files of the names of zones, which never change, may lie here already; nil: they do not. A look leaves those that
// came here, of many while it goes on and of few if it fails, so that the next one goes on from there; it writes nothing else, and needs no lock for that.
func Look(ctx context.Context, client *http.Client, url string, mem release.Memory, here *Dir) *Found {
	return look(&remoteFS{ctx: ctx, client: client, base: url, mem: mem, here: here})
}

// LookWith is Look of who has been told by the repository what is new in it: that is not asked for. Where it does not do, for whatever reason, all is
// asked for as ever. nil: nothing was told.
func LookWith(ctx context.Context, client *http.Client, url string, mem release.Memory, here *Dir, told *News) *Found {
	if told != nil {
		if f := look(&remoteFS{ctx: ctx, client: client, base: url, mem: mem, here: here, told: told}); f.err == nil {
			return f
		}
	}
	return Look(ctx, client, url, mem, here)
}

func look(r *remoteFS) *Found {
	f := &Found{remote: r, seen: r.mem}
	if f.view, f.next, f.err = release.Verify(r, r.mem); f.err != nil {
		r.keep(r.nodes())
	}
	return f
}

// keep leaves nodes of trees that came, or they would come again. Who verifies what lies there finds out what they are.
func (r *remoteFS) keep(nodes []release.File) {
	if r.here == nil {
		return
	}
	r.counted.Do(func() { r.full = r.here.nodeBytes() >= maxNodes })
	if !r.full {
		_, _ = r.here.install(nodes)
	}
}

// maxNodes is how many bytes the nodes of trees in a depot may take for looks that fail to leave more of them. What is needed, and what is kept beside that, is
// less: four trees.
const maxNodes = 8 * release.MaxManifestBytes

// nodeBytes is how many bytes the nodes of trees in d take.
func (d *Dir) nodeBytes() (n int64) {
	entries, _ := d.List("targets") // without it, nothing is written there either
	for _, e := range entries {
		if release.IsNode(path.Join("targets", e.Name)) {
			n += e.Size
		}
	}
	return n
}

// Timestamp is the version of the timestamp that was verified, 0 if none was.
func (f *Found) Timestamp() int64 { return f.view.Versions.Timestamp }

// Root is the version of the newest root that was verified, by which it was judged, whatever came of that.
func (f *Found) Root() int64 {
	if f.err == nil {
		return f.view.Versions.Root
	}
	t, err := f.next.Trust()
	if err != nil {
		return 0
	}
	return t.Version
}

// Number is that of the newest release in it, 0 if there is none.
func (f *Found) Number() uint64 { return f.view.Manifest.Newest() }

// Err is why nothing was verified.
func (f *Found) Err() error { return f.err }

// Take brings d up to what was found, and reports whether anything was written. Zones come from the repository in from, which
// need not be the one that was looked at. mem may have seen more since the look. Nothing goes in that release.Verify did not
// accept, and what goes in does so in the order of publishing, the zones first, so that a reader sees the old state or the
// new one. Keep the returned Memory durably, also with an error (see release.Verify). The caller holds the lock of d.
//
// A zone that cannot be had is an error, and the rest goes in all the same: a node must learn of a switchover that it
// cannot take part in, to be silent after it (SYNC-F), and a release to come must not keep it from the lease of the one
// that it answers from (FAIL-4).
//
// No more time than the budget, or than it took to find out what is missing, is spent on downloads before that, so that neither a lease nor a switchover
// waits for a large zone; and none on reading zones through, which comes last.
//
// What was interrupted is repeated by looking and taking again; blobs go on where they stopped.
func (f *Found) Take(ctx context.Context, from Source, d *Dir, mem release.Memory) (release.View, release.Memory, bool, error) {
	view, next, err := f.view, f.next, f.err
	if !bytes.Equal(mem.Timestamp, f.seen.Timestamp) || !bytes.Equal(mem.Root, f.seen.Root) {
		view, next, err = release.Verify(f.remote.again(d), mem)
	}
	if from.Known == nil {
		from.Known = new(Known)
	}
	if err != nil {
		from.Known.lookFailed(d, mem)
		// Roots that were verified go in all the same: they are not asked for again, and readers need every one of them.
		wrote, lost := d.install(f.remote.rootsUpTo(next.Root))
		if lost != nil {
			return view, mem, wrote, errors.Join(err, lost)
		}
		return view, next, wrote, err
	}
	get := &getter{Source: from, dir: d, manifest: view.Manifest, began: time.Now()}
	fetched, missing := false, error(nil)
	if !from.Metadata {
		fetched, missing = get.missing(ctx)
	}
	if from.Metadata || missing != nil {
		from.Known.saw(view.Manifest, false)
	}
	installed, err := d.install(f.remote.files())
	if err != nil {
		return view, mem, fetched, errors.Join(missing, err)
	}
	if installed {
		err = from.Known.Collect(d, view)
	}
	if from.Deep && err == nil {
		var mended bool
		mended, err = f.remote.mend(d, view.Manifest)
		installed = installed || mended
	}
	if from.Deep && (missing == nil || from.Urgent && ctx.Err() == nil) {
		repaired, damaged := get.repair(ctx)
		if fetched, missing = fetched || repaired, errors.Join(missing, damaged); err == nil && damaged == nil {
			from.Known.read = time.Now()
		}
	}
	return view, next, fetched || installed, errors.Join(missing, err)
}

// readFS is files that were read from a repository, and nodes of trees that lie in a depot.
type readFS struct {
	files map[string][]byte
	here  *Dir
}

// Open implements fs.FS.
func (r readFS) Open(name string) (fs.File, error) {
	if data, ok := r.files[name]; ok {
		return &memFile{name: name, Reader: bytes.NewReader(data)}, nil
	}
	if release.IsNode(name) {
		return r.here.Open(name)
	}
	return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
}

// getter gets the zones of a manifest.
type getter struct {
	Source
	dir      *Dir
	manifest release.Manifest
	began    time.Time // when it began to look for what is to be got
	until    time.Time // downloads end then, see spend; zero: when they are done
	left     int64     // bytes to come for the zones after the one that is being got
	used     int64     // bytes of the zones' files, if counted
	counted  bool
	some     bool // something has come

	early int64 // bytes that came before, together with others', of the zone that is being got
}

// missing gets the zones that the depot lacks, up to the first that cannot be had; the current release's come first.
func (g *getter) missing(ctx context.Context) (fetched bool, err error) {
	if near, away, err := g.dir.near(); err == nil {
		defer func(dir *Dir) {
			g.dir = dir
			away()
		}(g.dir)
		g.dir = near
	}
	rest := g.missed()
	for len(rest.zones) > 0 && err == nil {
		var some bool
		some, err = g.first(ctx, rest)
		fetched = fetched || some
	}
	if lost := g.name(); err == nil {
		err = lost
	}
	if err == nil && !g.Texts {
		g.Known.saw(g.manifest, true)
	}
	return fetched, err
}

// missed is what the depot lacks: what the look before has left of that, or else what is found out now.
func (g *getter) missed() *rest {
	if r := g.Known.rest; r != nil && !g.Texts && sameNumbers(r.of, g.manifest) {
		return r
	}
	began, r := time.Now(), &rest{of: g.manifest}
	for _, z := range g.Known.toSee(g.manifest, g.Texts) {
		if there, err := g.has(*z, false); !there || err != nil { // the error comes again when it is got
			octets := g.ahead(*z)
			r.zones, r.left = append(r.zones, lack{z, octets}), r.left+octets
		}
	}
	if !g.Texts {
		g.Known.rest, g.Known.began, g.Known.took = r, time.Now(), time.Since(began)
	}
	return r
}

// first gets the first zones of the rest: small ones together, as far as they come, and each of the others by itself.
func (g *getter) first(ctx context.Context, rest *rest) (fetched bool, err error) {
	looked, came, err := g.together(ctx, rest)
	var left []lack
	for _, z := range rest.zones[:looked] {
		p, there := came[z.Content()]
		switch g.early = p.octets(); {
		case there && p.whole:
			g.note(Note{z.Origin, false, 0}, nil)
		case err != nil:
			left = append(left, z)
			continue
		default:
			g.left = max(0, rest.left-z.octets)
			if err = g.get(ctx, *z.Zone); err != nil {
				left = append(left, z)
				continue
			}
		}
		fetched, rest.left = true, rest.left-z.octets
	}
	if rest.zones = rest.zones[looked:]; len(left) > 0 {
		rest.zones = append(left, rest.zones...)
	}
	return fetched, err
}

// repair reads through the zones that are there, and gets those that are damaged, up to the first that cannot be had. It has a budget of its own. Those
// that are known to be lacking stay so.
func (g *getter) repair(ctx context.Context) (fetched bool, err error) {
	g.left, g.until, g.some = 0, time.Time{}, false
	lacking := map[release.Digest]bool{}
	if rest := g.Known.rest; rest != nil {
		for _, z := range rest.zones {
			lacking[z.Content()] = true
		}
	}
	for _, z := range g.Known.toSee(g.manifest, true) {
		if lacking[z.Content()] {
			continue
		}
		there, err := g.has(*z, true)
		if err != nil {
			return fetched, err
		}
		if there {
			if z.Earlier != (release.Blob{}) && !g.dir.intact(z.Earlier) {
				g.getEarlier(ctx, *z) // nothing here needs it
			}
			continue
		}
		g.Known.forget()                       // the next pass must not go by what it knows, should this one be cut short
		g.began, g.counted = time.Now(), false // it took room
		if err := g.get(ctx, *z); err != nil {
			return fetched, err
		}
		fetched = true
	}
	if !g.Texts && len(lacking) == 0 {
		g.Known.saw(g.manifest, true)
	}
	return fetched, nil
}

// has reports whether a zone is there, and need not be got.
func (g *getter) has(z release.Zone, deep bool) (bool, error) {
	switch {
	case !g.Texts:
		return g.dir.hasZone(z, deep)
	case z.Whole():
		return g.dir.hasText(z, deep)
	}
	w, err := readWay(g.dir, wayName(z.Root))
	signed, unknown := Released(g.dir, z)
	if err != nil || unknown != nil || w.Base.Blob != z.Blob || !slices.Equal(w.Packs, signed.Packs) {
		return false, nil
	}
	there, err := g.dir.hasText(w.Base, deep)
	return there && g.dir.hasPacks(w.Packs, true), err
}

// ahead is how much is fetched first for a zone: packs or a delta if there are any from what lies here, or all of it.
func (g *getter) ahead(z release.Zone) int64 {
	if p := g.plans(z)[0]; !p.whole {
		return p.octets()
	}
	for _, delta := range z.Deltas {
		if _, there := g.olderText(z.Origin, delta.From); there {
			return delta.Blob.Length
		}
	}
	return z.Blob.Length
}

// Small zones are fetched together: of so many zones those that take no more than smallBytes, until there is togetherBytes.
const (
	togetherZones = maxTogether
	togetherBytes = 1 << 20
	smallBytes    = 64 << 10
)

// together fetches what the small ones among the first zones of the rest are made of, several files at a time: one after the other, each would take a round
// trip. It reports how many zones it has looked at, and by which plan of a zone all has come. What does not come is asked for again with its zone,
// which is where it is said why.
func (g *getter) together(ctx context.Context, rest *rest) (looked int, came map[release.Digest]plan, err error) {
	var blobs []release.Blob
	var bytes int64
	came = map[release.Digest]plan{}
	for _, z := range rest.zones[:min(len(rest.zones), togetherZones)] {
		if bytes >= togetherBytes {
			break
		}
		looked++
		p := g.plans(*z.Zone)[0]
		if n := p.octets(); n <= smallBytes && n == z.octets && p.err == nil { // by a delta it takes less
			blobs, bytes, came[z.Content()] = append(blobs, p.blobs()...), bytes+n, p
		}
	}
	if len(came) < 2 {
		return looked, nil, nil
	}
	g.left = max(0, rest.left-bytes)
	if err = g.fetch(ctx, rest.zones[0].Origin, blobs...); err == nil {
		return looked, came, nil
	}
	for content, p := range came {
		if slices.ContainsFunc(p.blobs(), func(b release.Blob) bool { return !g.dir.HasBlob(b) }) {
			delete(came, content)
		}
	}
	switch {
	case ctx.Err() != nil:
		return looked, came, context.Cause(ctx)
	case errors.Is(err, ErrUnfinished), errors.Is(err, errSlow):
		return looked, came, err
	}
	return looked, came, nil
}

// get has a zone by packs, or made of a delta, if that can be, and takes it whole otherwise: its text, or the text that it is made of
// with the packs since.
func (g *getter) get(ctx context.Context, z release.Zone) error {
	if done, err := g.getEarlier(ctx, z); done {
		return err
	}
	plans := g.plans(z)
	for _, p := range plans[:len(plans)-1] {
		err := g.take(ctx, z, p)
		if done, err := g.noted(ctx, Note{z.Origin, true, p.octets()}, err); done {
			return err
		}
	}
	for _, delta := range z.Deltas {
		from, there := g.olderText(z.Origin, delta.From)
		if !there {
			continue
		}
		if g.fits(z.Origin, delta.Blob.Length+z.Blob.Length+z.Blob.Length/2) != nil { // what it makes is packed less well
			continue
		}
		err := g.fetch(ctx, z.Origin, delta.Blob)
		if err == nil {
			err = g.dir.patch(ctx, z, from, delta.Blob)
		}
		if done, err := g.noted(ctx, Note{z.Origin, true, delta.Blob.Length}, err); done {
			return err
		}
	}
	whole := plans[len(plans)-1]
	if err := g.take(ctx, z, whole); err != nil {
		return err
	}
	g.note(Note{z.Origin, false, whole.octets()}, nil)
	return nil
}

// noted tells how a shorter way than the whole zone came out, and whether that is the end of it.
func (g *getter) noted(ctx context.Context, n Note, err error) (done bool, _ error) {
	if ctx.Err() != nil {
		return true, context.Cause(ctx)
	}
	if errors.Is(err, ErrUnfinished) || errors.Is(err, errSlow) { // the whole zone would come no sooner
		return true, err
	}
	g.note(n, err)
	return err == nil, nil
}

func (g *getter) note(n Note, err error) {
	if err == nil {
		n.Bytes, g.early = n.Bytes+g.early, 0
	}
	if g.Note != nil {
		g.Note(n, err)
	}
}

// olderText is a zone of an origin in the depot that has this text. What manifests say of that need not be trusted: patch compares what
// comes of it with what was signed.
func (g *getter) olderText(origin string, text release.Digest) (release.Zone, bool) {
	z, known := g.older(origin, func(z *release.Zone) bool { return z.SHA256 == text })
	if !known {
		return z, false
	}
	there, err := g.dir.hasText(z, false)
	return z.Base(), there && err == nil
}

// olderZone is the zone of an origin that has this root, or the base of one.
func (g *getter) olderZone(origin string, root release.Digest) (release.Zone, bool) {
	if z, known := g.older(origin, func(z *release.Zone) bool { return z.Root == root }); known {
		return z, true
	}
	z, known := g.older(origin, func(z *release.Zone) bool { return z.BaseRoot == root })
	return z.Base(), known
}

// older is the zone of an origin that is wanted, if a manifest that was in the depot lately has it, or this one.
func (g *getter) older(origin string, wanted func(*release.Zone) bool) (release.Zone, bool) {
	for _, m := range g.Known.lately(g.dir, g.manifest) {
		for r := range m.Releases() {
			if z := r.Zone(origin); z != nil && wanted(z) {
				return *z, true
			}
		}
	}
	return release.Zone{}, false
}

// fetch fetches those of some blobs of a zone that are not there yet, several at a time, and in their order. It ends with the first that does
// not come. They share the bounds of the getter.
func (g *getter) fetch(ctx context.Context, origin string, blobs ...release.Blob) error {
	wanted, more, seen := []release.Blob(nil), int64(0), map[release.Blob]bool{}
	for _, b := range blobs {
		if !seen[b] && !g.dir.HasBlob(b) {
			wanted, more = append(wanted, b), more+b.Length
			if g.Room > 0 {
				more -= g.dir.partSize(b)
			}
		}
		seen[b] = true
	}
	if len(wanted) == 0 {
		return nil
	}
	if err := g.fits(origin, more); err != nil {
		return err
	}
	g.spend()
	bounds, moves := Bounds{pace: g.Pace, until: g.until, crowd: new(crowd)}, g.moves(wanted)
	g.Known.named = false
	there, err := g.inOne(ctx, wanted, bounds, moves)
	if err == nil {
		err = g.oneByOne(ctx, wanted, there, bounds, moves)
	}
	if slices.Contains(there, true) {
		if lost := g.name(); err == nil {
			err = lost
		}
	}
	g.some = g.some || bounds.crowd.any()
	if g.used += more; err != nil {
		g.counted = false
	}
	return err
}

// name has the names of the blobs that are here on disk.
func (g *getter) name() error {
	if g.Known.named {
		return nil
	}
	err := syncDir(g.dir.root, blobDir)
	g.Known.named = err == nil
	return err
}

// oneByOne asks for those of the wanted blobs that are not there by themselves, and notes which are then.
func (g *getter) oneByOne(ctx context.Context, wanted []release.Blob, there []bool, bounds Bounds, moves func(i int, came int64)) error {
	all, ctx := errgroup.WithContext(ctx)
	all.SetLimit(syncsAtOnce)
	under := make(chan struct{}, atOnce) // a place for each that comes; after that a file takes none, while it goes to the disk
	var unfinished, offered atomic.Bool
	bounds.offered = func() { offered.Store(true) }
	for i, b := range wanted {
		if there[i] {
			continue
		}
		under <- struct{}{}
		came := sync.OnceFunc(func() { <-under })
		all.Go(func() error {
			defer came()
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if bounds.over() && (g.some || bounds.crowd.any()) { // many small ones take long though none of them does
				unfinished.Store(true)
				return nil // the others that are under way may end
			}
			bounds := bounds
			if moves != nil {
				bounds.moved = func(came int64) { moves(i, came) }
			}
			err := g.dir.fetch(ctx, g.Client, g.URL, b, bounds, came)
			there[i] = err == nil
			return err
		})
	}
	err := all.Wait()
	if offered.Load() {
		g.Known.offered(g.URL)
	}
	if err == nil && unfinished.Load() {
		err = ErrUnfinished
	}
	return err
}

// spend begins the budget with the first download. To find out what is missing of 100,000 zones takes longer than the budget, so as long as that took may
// be spent as well: or nearly all the time would go by in looking.
func (g *getter) spend() {
	if g.Budget > 0 && g.until.IsZero() {
		now := time.Now()
		g.until = now.Add(max(g.Budget, now.Sub(g.began)))
	}
}

// moves tells how far the transfer of some blobs is, when so many bytes of one of them are here; nil if nobody wants to know.
func (g *getter) moves(blobs []release.Blob) func(i int, came int64) {
	if g.Moved == nil {
		return nil
	}
	var mu sync.Mutex
	number, left, came, of := g.manifest.Newest(), g.left, int64(0), make([]int64, len(blobs))
	for _, b := range blobs {
		left += b.Length
	}
	return func(i int, bytes int64) {
		mu.Lock()
		defer mu.Unlock()
		came, of[i] = came+bytes-of[i], bytes
		g.Moved(Moved{number, came, left - came})
	}
}

// fits refuses what there is no room for. What nobody needs any more makes room when the metadata that needs it no more
// has gone in.
func (g *getter) fits(origin string, more int64) error {
	if g.Room == 0 {
		return nil
	}
	if !g.counted {
		entries, err := g.dir.List(blobDir)
		if err != nil {
			return err
		}
		g.used, g.counted = 0, true
		for _, e := range entries {
			g.used += e.Size
		}
	}
	if g.used+more <= g.Room {
		return nil
	}
	return fmt.Errorf("zone %s takes %d bytes more, and the zones here take %d of the %d that they may: it is not fetched", origin, more, g.used, g.Room)
}

// install writes verified files that d does not hold yet: first nodes of trees, in any order, and then the others in theirs. Verified bytes win
// over what is there.
func (d *Dir) install(files []release.File) (bool, error) {
	var nodes, others []release.File
	for _, f := range files {
		if there, err := readAll(d.root, f.Name, int64(len(f.Data))); err == nil && bytes.Equal(there, f.Data) {
			continue
		}
		if err := mkdirAll(d.root, path.Dir(f.Name)); err != nil {
			return false, err
		}
		if release.IsNode(f.Name) {
			nodes = append(nodes, f)
		} else {
			others = append(others, f)
		}
	}
	if err := putTogether(d.root, nodes, d.root.Rename); err != nil {
		return len(nodes) > 0, err
	}
	wrote := len(nodes) > 0
	for _, f := range others {
		if err := replace(d.root, f.Name, f.Data, 0o644); err != nil {
			return wrote, err
		}
		wrote = true
	}
	return wrote, nil
}

// metadataTimeout bounds the download of one file of metadata or of the manifest.
const metadataTimeout = 60 * time.Second

// remoteFS reads a repository over HTTP and remembers, in the order of reading, what it read. The manifest that was
// verified last is taken from memory if it is still the one that is named.
type remoteFS struct {
	ctx    context.Context
	client *http.Client
	base   string
	mem    release.Memory
	here   *Dir  // where nodes of trees may lie; nil: nowhere
	told   *News // that need not be fetched; nil: nothing
	read   []release.File
	ahead  map[string]fetched // by name: fetched, and not yet asked for

	counted sync.Once // sets full
	full    bool      // there are too many nodes in here
}

// fetched is what came of a file, or why it did not.
type fetched struct {
	data []byte
	err  error
}

// files is what was read, in the order in which it goes in: what names comes after what is named, and roots first.
func (r *remoteFS) files() []release.File {
	var roots, rest []release.File
	for _, f := range r.read {
		if strings.HasSuffix(f.Name, ".root.json") {
			roots = append(roots, f)
			continue
		}
		rest = append(rest, f)
	}
	slices.Reverse(rest)
	return append(roots, rest...)
}

// again is what was read, to be verified again.
func (r *remoteFS) again(here *Dir) readFS {
	files := map[string][]byte{}
	for _, f := range r.read {
		files[f.Name] = f.Data
	}
	return readFS{files, here}
}

// nodes are the nodes of trees that were fetched and are what their names say. Only what is signed names them.
func (r *remoteFS) nodes() (nodes []release.File) {
	add := func(name string, data []byte) {
		if release.IsNode(name) && release.NodeName(release.DigestOf(data)) == name {
			nodes = append(nodes, release.File{Name: name, Data: data})
		}
	}
	for _, f := range r.read {
		add(f.Name, f.Data)
	}
	for name, f := range r.ahead {
		add(name, f.data)
	}
	return nodes
}

// rootsUpTo is the roots that were read, up to the one that was verified last; none if none of them was.
func (r *remoteFS) rootsUpTo(last []byte) (roots []release.File) {
	for _, f := range r.read {
		if strings.HasSuffix(f.Name, ".root.json") {
			roots = append(roots, f)
			if bytes.Equal(f.Data, last) {
				return roots
			}
		}
	}
	return nil
}

// Open implements fs.FS.
func (r *remoteFS) Open(name string) (fs.File, error) {
	data, err := r.get(name)
	if err != nil {
		return nil, &fs.PathError{Op: "get", Path: name, Err: err}
	}
	r.read = append(r.read, release.File{Name: name, Data: data})
	return &memFile{name: name, Reader: bytes.NewReader(data)}, nil
}

func (r *remoteFS) get(name string) ([]byte, error) {
	if len(r.mem.Manifest) > 0 && !release.IsNode(name) && name == release.ManifestName(release.DigestOf(r.mem.Manifest)) {
		return r.mem.Manifest, nil
	}
	if f, ok := r.ahead[name]; ok {
		delete(r.ahead, name)
		return f.data, f.err
	}
	if data, err, told := r.told.file(name); told {
		return data, err
	}
	if data := r.here.node(name); data != nil {
		return data, nil
	}
	return r.fetch(r.ctx, name)
}

// atOnce is how many nodes of trees, or packs of a zone, are fetched at a time: as many connections as a node has to one server.
const atOnce = 4

// Expect fetches nodes of trees that will be asked for, and are not here, several at a time. It ends with one that is not what its name says.
func (r *remoteFS) Expect(names []string) {
	ctx, stop := context.WithCancel(r.ctx)
	defer stop()
	r.ahead = map[string]fetched{}
	var mu sync.Mutex
	var all errgroup.Group
	all.SetLimit(atOnce)
	left, came := release.MaxManifestBytes, []release.File(nil) // that were not kept yet
	for _, name := range names {
		if r.here.node(name) != nil { // it is read when it is asked for
			continue
		}
		all.Go(func() error {
			if ctx.Err() != nil {
				return nil
			}
			data, err := r.fetch(ctx, name)
			if ctx.Err() != nil {
				return nil
			}
			mu.Lock()
			r.ahead[name] = fetched{data, err}
			var keep []release.File
			if left -= len(data); err != nil || left < 0 || release.NodeName(release.DigestOf(data)) != name {
				stop()
			} else if came = append(came, release.File{Name: name, Data: data}); len(came) == keepNodes {
				keep, came = came, nil
			}
			mu.Unlock()
			if keep != nil {
				r.keep(keep)
			}
			return nil
		})
	}
	all.Wait()
}

// keepNodes is how many nodes come before they are kept: a process that is killed in the middle of a large tree, or a machine that loses its power, goes on
// from there.
const keepNodes = 128

// node is a node of a tree that lies in d as its name says; nil if it does not.
func (d *Dir) node(name string) []byte {
	if d == nil || !release.IsNode(name) {
		return nil
	}
	data, err := readAll(d.root, name, release.MaxNodeBytes)
	if err != nil || release.NodeName(release.DigestOf(data)) != name {
		return nil
	}
	return data
}

// mend reads all nodes of a manifest's trees through, and fetches those that d lacks, or has damaged.
func (r *remoteFS) mend(d *Dir, m release.Manifest) (mended bool, _ error) {
	whole := map[string]bool{}
	for name := range m.Nodes() {
		if whole[name] || d.node(name) != nil {
			whole[name] = true
			continue
		}
		data, err := r.fetch(r.ctx, name)
		if err != nil {
			return mended, fmt.Errorf("%s: %w", name, err)
		}
		if release.NodeName(release.DigestOf(data)) != name {
			return mended, &release.Error{File: name, Rule: release.Mismatch, Detail: "the content is " + release.DigestOf(data).String()}
		}
		if _, err := d.install([]release.File{{Name: name, Data: data}}); err != nil {
			return mended, err
		}
		mended = true
	}
	return mended, nil
}

// fetch asks for a file.
func (r *remoteFS) fetch(ctx context.Context, name string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, metadataTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url(r.base, name), nil)
	if err != nil {
		return nil, err
	}
	askPacked(request, release.IsNode(name))
	response, err := r.client.Do(request)
	if err != nil {
		return nil, unreached(err)
	}
	defer Finish(response)
	if absent(name, response.StatusCode) {
		return nil, fs.ErrNotExist
	}
	if response.StatusCode != http.StatusOK {
		return nil, refusalOf(response)
	}
	// One byte more than any file may have is enough for release to see that this one is too long.
	data, err := readContent(response, release.MaxBytes(name))
	if err != nil {
		return nil, unreached(err)
	}
	return data, nil
}

// fetchError is why a file did not come, with what to do about that.
type fetchError struct {
	error
	do string
}

func (e *fetchError) Unwrap() error { return e.error }

// Advice says what to do about it, in place of what is advised about files on a disk.
func (e *fetchError) Advice() string { return e.do }

// unreached is an error of the way to a repository.
func unreached(err error) error {
	if errors.Is(err, syscall.ECONNREFUSED) {
		return &fetchError{err, "nothing listens there: start meshctl serve, or the server of this repository, and compare the URL"}
	}
	return &fetchError{err, "mend the way to this repository, or what is in the way of TLS"}
}

// refusalOf is the error of an answer that brings no file, with the words of a distribution host, which are one line of plain text.
func refusalOf(response *http.Response) error {
	said := "the server said " + response.Status
	if words, _, _ := strings.Cut(response.Header.Get("Content-Type"), ";"); words == "text/plain" {
		body, _ := io.ReadAll(io.LimitReader(response.Body, 200)) // whatever came of it
		line, _, _ := strings.Cut(strings.TrimSpace(string(body)), "\n")
		said += ": " + line
	}
	switch response.StatusCode {
	case http.StatusForbidden, http.StatusUnauthorized:
		return &fetchError{errors.New(said), "this node may not read there: see meshctl member list; if it was removed, stop it, and if its certificate was revoked, give it its new bundle; a bucket may forbid it by its policy"}
	}
	return &fetchError{errors.New(said), "see the log of that server"}
}

// Finish closes a response, of which it reads what is left if that is little: otherwise its connection is closed, and the next request takes
// another handshake. That there is no newer root is such a response, to each look of each node.
func Finish(response *http.Response) {
	io.Copy(io.Discard, io.LimitReader(response.Body, 4<<10)) // after an error it is closed
	response.Body.Close()
}

// absent reports whether a server's status says that it has no such file. A bucket that may not be listed says 403 of
// what it does not have; that is taken for the root only, which ends its walk: what 403 keeps back there could as well be
// kept back by 404, and any other file is refused.
func absent(name string, status int) bool {
	return status == http.StatusNotFound || status == http.StatusForbidden && strings.HasSuffix(name, ".root.json")
}

// memFile is a file that was read already.
type memFile struct {
	name string
	*bytes.Reader
}

func (f *memFile) Close() error               { return nil }
func (f *memFile) Stat() (fs.FileInfo, error) { return nil, errors.ErrUnsupported }
