package receive

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/coredns-anycast/coredns-anycast/internal/fields"
	"github.com/coredns-anycast/coredns-anycast/internal/instant"
	"github.com/coredns-anycast/coredns-anycast/internal/refresh"
	"github.com/coredns-anycast/coredns-anycast/internal/xfr"
	"github.com/coredns-anycast/coredns-anycast/internal/zone"
	"github.com/coredns-anycast/coredns-anycast/internal/zonefile"
)

const (
	// settle is how long a file must not have changed before it is read.
	settle = 200 * time.Millisecond
	// folderPoll is how often a directory is scanned without an event: events get lost, and links swapped far away. One of many files is
	// scanned less often, so that the scans take the same for each second however many there are, 1 % of a processor.
	folderPoll = 5 * time.Second
	filePoll   = 500 * time.Microsecond // for each file
	// patience is how long a Refresh waits for files to be written.
	patience = 30 * time.Second
)

// folder follows a directory of zone files. A file counts when it has not changed for a while, nobody has it open for
// writing, and it was the same before and after it was read. One that cannot be read or served leaves its zone as it was.
type folder struct {
	r       *Receiver
	d       Directory
	owner   string
	files   map[string]*zoneFile
	from    map[string]string // files that zones come from, by origin
	there   map[string]bool   // origins and paths that there are: see missing; nil: not known
	plain   bool              // no file includes another, as far as was read, or was a link at the last scan: each changes by itself
	others  []string          // files whose names do not fit the pattern, at the last scan
	named   []string          // and those of them that were told of
	ordered chan struct{}     // an order wants a scan
	settle  time.Duration     // settle, or what a test has in its place; and so is poll folderPoll
	poll    time.Duration
	watcher *fsnotify.Watcher // nil where the system has none to give: then there is the poll
}

// zoneFile is a file that was there at the last scan.
type zoneFile struct {
	settling prints    // as it was when it was looked at last
	since    time.Time // when it was seen so first
	read     prints    // as it was read
	origin   string    // of the zone in it, once it was read
	blocked  bool      // that zone comes from elsewhere
	waits    bool      // it is to be read when it has not changed for a while
	open     bool      // somebody was writing it when that was over
}

// prints tell a file, and those that it includes, from themselves at another time.
type prints map[string]fs.FileInfo

func (p prints) same(q prints) bool {
	return len(p) == len(q) && p.are(func(name string) fs.FileInfo { return q[name] })
}

// unchanged reports whether the files are still so.
func (p prints) unchanged(root *os.Root) bool {
	return p.are(func(name string) fs.FileInfo {
		info, _ := root.Stat(name)
		return info
	})
}

// are reports whether the files are as now says.
func (p prints) are(now func(name string) fs.FileInfo) bool {
	for name, a := range p {
		b := now(name)
		if a == nil || b == nil || !os.SameFile(a, b) || a.Size() != b.Size() || !a.ModTime().Equal(b.ModTime()) {
			return false
		}
	}
	return true
}

func printsOf(root *os.Root, names ...string) prints {
	p := prints{}
	for _, name := range names {
		p[name], _ = root.Stat(name) // one that is not there is like no other
	}
	return p
}

func newFolder(r *Receiver, d Directory) *folder {
	return &folder{r: r, d: d, owner: refresh.DirectoryOwner(d.Path), files: map[string]*zoneFile{}, from: map[string]string{}, ordered: make(chan struct{}, 1), settle: settle, poll: folderPoll}
}

// watch scans until ctx ends, or, in a Refresh, until there is nothing to wait for. It calls done when it has read what is
// there for the first time.
func (w *folder) watch(ctx context.Context, done func()) {
	if !w.r.decide.Once {
		w.watcher, _ = fsnotify.NewWatcher()
	}
	if w.watcher != nil {
		defer w.watcher.Close()
	}
	began := time.Now()
	gone := sync.OnceFunc(func() { w.r.unread.Add(-1) })
	defer gone()
	var ready time.Time // when what was there at the first scan has settled
	for ctx.Err() == nil {
		w.attend()
		at := time.Now()
		settled, busy := w.scan(ctx)
		if settled || !ready.IsZero() && !at.Before(ready) { // what has not changed since was read; a file may change for ever
			gone()
		}
		if ready.IsZero() {
			ready = time.Now().Add(w.settle)
		}
		switch {
		case w.r.decide.Once && settled:
			done()
			return
		case w.r.decide.Once && time.Since(began) > patience:
			w.giveUp()
			done()
			return
		case settled:
			done()
			w.rest(ctx, nil)
		case w.plain && len(busy) > 0 && !w.r.decide.Once:
			w.rest(ctx, busy)
		default:
			pause(ctx, w.settle)
		}
	}
}

// giveUp says which files did not settle.
func (w *folder) giveUp() {
	for name, f := range w.files {
		if f.read == nil {
			w.fault(w.path(name), errWriting.Error())
		}
	}
}

// attend (re)sets the watch: a directory that was replaced is another one under the same name.
func (w *folder) attend() {
	if w.watcher == nil {
		return
	}
	w.watcher.Remove(w.d.Path)
	w.watcher.Add(w.d.Path) // an error means that it is not there yet: the poll will find it
	w.watcher.Add(filepath.Dir(w.d.Path))
}

// burst is the least time between two looks at files that events are about, so that many events cost few looks.
const burst = 20 * time.Millisecond

// manyFiles is how many files a directory has that is not scanned for an event about a file whose name does not fit.
const manyFiles = 1000

// rest waits until the directory is to be scanned: there was an event about it, or its link in the one above, or an order, or it is time. If each file
// changes by itself, only those that events are about are looked at meanwhile, each at once, and again until it has settled. So files that are saved
// together are received together. It begins with those that are busy; when they have settled, the scan that found them is due again.
func (w *folder) rest(ctx context.Context, busy []string) {
	poll := w.poll
	var events <-chan fsnotify.Event
	var lost <-chan error
	if w.watcher != nil {
		poll = max(poll, time.Duration(len(w.files))*filePoll)
		events, lost = w.watcher.Events, w.watcher.Errors
	}
	end := time.NewTimer(poll)
	defer end.Stop()
	due := map[string]time.Time{} // when files are to be looked at
	for _, name := range busy {
		due[name] = time.Now().Add(w.settle)
	}
	looked, look := time.Time{}, w.next(due, time.Time{})
	var others <-chan time.Time // of files whose names do not fit
	for {
		select {
		case <-ctx.Done():
			return
		case <-end.C:
			return
		case <-lost:
			return
		case <-w.ordered:
			return
		case <-others:
			return
		case e := <-events:
			within := filepath.Dir(e.Name) == w.d.Path
			switch name := filepath.Base(e.Name); {
			case e.Name == w.d.Path, within && !w.plain:
				return
			case within && w.fits(name):
				if _, known := due[name]; !known { // else it is looked at as soon as it may have settled
					due[name] = time.Time{}
					look = time.After(time.Until(looked.Add(burst)))
				}
			case within && name[0] != '.' && others == nil && len(w.files) < manyFiles:
				others = time.After(w.settle)
			}
		case now := <-look:
			if looked = now; !w.lookAt(ctx, due, now) || len(busy) > 0 && len(due) == 0 {
				return
			}
			look = w.next(due, looked)
		}
	}
}

// next is when a file is due, after the last look; never, if none is.
func (w *folder) next(due map[string]time.Time, looked time.Time) <-chan time.Time {
	if len(due) == 0 {
		return nil
	}
	first := slices.MinFunc(slices.Collect(maps.Values(due)), time.Time.Compare)
	return time.After(time.Until(later(first, looked.Add(burst))))
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// lookAt looks at the files that are due, of which those that have not settled are due again after a while. It reports what some does.
func (w *folder) lookAt(ctx context.Context, due map[string]time.Time, now time.Time) bool {
	names := map[string]bool{}
	for name, at := range due {
		if !at.After(now) {
			names[name] = true
			delete(due, name)
		}
	}
	if !w.some(ctx, names) {
		return false
	}
	for name := range names {
		due[name] = time.Now().Add(w.settle)
	}
	return true
}

// some reads what has changed of some files, and leaves those that are about to change. It reports false if that tells of others, so that all
// are to be scanned.
func (w *folder) some(ctx context.Context, names map[string]bool) bool {
	root, err := os.OpenRoot(w.d.Path)
	if err != nil {
		return false
	}
	defer root.Close()
	all := true
	had := map[string]string{} // origins, by file
	reads := w.reading(ctx, root, func(name string, settled bool) {
		if !settled {
			return
		}
		delete(names, name)
		if has := w.files[name].origin; !w.plain || had[name] != "" && has != had[name] {
			all = false
		}
	})
	for _, name := range slices.Sorted(maps.Keys(names)) {
		f := w.files[name]
		info, err := root.Lstat(name)
		switch {
		case ctx.Err() != nil:
			return true
		case err != nil && f == nil: // it was there for a moment only
			delete(names, name)
			continue
		case err != nil || !info.Mode().IsRegular():
			reads.end()
			return false
		}
		if f != nil {
			had[name] = f.origin
		}
		if reads.add(name); !all {
			break
		}
	}
	reads.end()
	return all
}

// fits reports whether a file of that name is taken in.
func (w *folder) fits(name string) bool {
	match, _ := filepath.Match(w.d.Pattern, name)
	return match && name[0] != '.'
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// scan reads what has changed, and reports whether nothing is about to, or else which files are.
func (w *folder) scan(ctx context.Context) (settled bool, busy []string) {
	root, names, err := w.list()
	if err != nil {
		w.fault(w.d.Path, "cannot be read, its zones stay as they are: "+err.Error())
		return true, nil
	}
	defer root.Close()
	for name, f := range w.files {
		if _, there := slices.BinarySearch(names, name); !there { // as the directory is read
			w.leave(f, name)
			w.awaits(f, false)
			delete(w.files, name)
			w.there = nil
			w.fault(w.path(name), "")
			w.hostFault(name, "")
		}
	}
	reads := w.reading(ctx, root, func(name string, settled bool) {
		if !settled {
			busy = append(busy, name)
		}
	})
	for _, name := range names {
		if ctx.Err() != nil {
			return true, nil
		}
		reads.add(name)
	}
	reads.end()
	return len(busy) == 0 && w.missing(), busy
}

func (w *folder) list() (*os.Root, []string, error) {
	root, err := os.OpenRoot(w.d.Path)
	if err != nil {
		return nil, nil, err
	}
	entries, err := fs.ReadDir(root.FS(), ".")
	if err != nil {
		root.Close()
		return nil, nil, err
	}
	var names, others []string
	w.plain = true
	for _, e := range entries {
		w.plain = w.plain && e.Type()&fs.ModeSymlink == 0
		switch {
		case e.Name()[0] == '.':
		case w.fits(e.Name()):
			names = append(names, e.Name())
		case e.Type().IsRegular():
			others = append(others, e.Name())
		}
	}
	for _, f := range w.files {
		w.plain = w.plain && len(f.read) <= 1
	}
	w.name(others)
	return root, names, nil
}

// name tells of files whose names do not fit, once they were there at two scans: editors leave others for a moment.
func (w *folder) name(others []string) {
	w.r.setUnfit(Unfit{w.d.Path, w.d.Pattern, others})
	in := func(sorted []string, name string) bool { _, ok := slices.BinarySearch(sorted, name); return ok } // as the directory is read
	lasting := slices.DeleteFunc(slices.Clone(others), func(name string) bool { return !in(w.others, name) })
	news := slices.DeleteFunc(slices.Clone(lasting), func(name string) bool { return in(w.named, name) })
	if len(news) > 0 {
		w.r.opt.Log.Info("files are not taken, since their names do not fit", "directory", w.d.Path, "pattern", w.d.Pattern, "files", refresh.Some(news))
	}
	w.others, w.named = others, lasting
}

// Unfit are files of a directory that are not taken in, since their names do not fit its pattern.
type Unfit struct {
	Directory string   `json:"directory"`
	Pattern   string   `json:"pattern"`
	Files     []string `json:"files"`
}

func (u Unfit) String() string {
	return fmt.Sprintf("not taken, since their names do not fit %s: %s", filepath.Join(u.Directory, u.Pattern), refresh.Some(u.Files))
}

func (r *Receiver) setUnfit(u Unfit) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.unfit[u.Directory] = u
}

// Unfit returns, for each directory that has such files, those that were there at its last scan.
func (r *Receiver) Unfit() (all []Unfit) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, d := range r.config.Directories {
		if u := r.unfit[d.Path]; len(u.Files) > 0 {
			all = append(all, u)
		}
	}
	return all
}

func (w *folder) path(name string) string { return filepath.Join(w.d.Path, name) }

// look looks whether a file has changed and changes no more: then it is to be read. Otherwise it reports whether it need not be looked at again soon.
func (w *folder) look(root *os.Root, name string) (read, settled bool) {
	f := w.files[name]
	if f == nil {
		f = &zoneFile{}
		w.files[name], w.there = f, nil
	}
	unblocked := f.blocked && w.free(f.origin, name) == nil
	if f.read != nil && !unblocked && f.read.unchanged(root) {
		w.awaits(f, false)
		return false, true
	}
	now := printsOf(root, name)
	again := f.settling == nil || !f.settling.same(now)
	early := again || time.Since(f.since) < w.settle // an event about another file may have all looked at
	w.awaits(f, early && now[name] != nil && !f.open)
	if again {
		f.settling, f.since = now, time.Now()
	}
	if again && now[name] == nil {
		w.fault(w.path(name), "a link to nowhere, or out of the directory")
		return false, true
	}
	return !early, false
}

// awaits notes whether a file is to be read when it has not changed for a while.
func (w *folder) awaits(f *zoneFile, waits bool) {
	switch {
	case waits && !f.waits:
		w.r.settling.Add(1)
	case !waits && f.waits:
		w.r.settling.Add(-1)
	}
	f.waits = waits
}

// Settling reports whether a file has come, or changed, that will be read as soon as it has not changed for a while.
func (r *Receiver) Settling() bool { return r.settling.Load() > 0 }

// Beginning reports whether there is a directory that was not gone through yet: zones are in it that were not received.
func (r *Receiver) Beginning() bool { return r.unread.Load() > 0 }

func namesOf(p prints) []string {
	names := make([]string, 0, len(p))
	for name := range p {
		names = append(names, name)
	}
	return names
}

// errWriting says that a file is not complete yet.
var errWriting = errors.New("it is being written")

// saidFindings bounds what is logged of one file.
const saidFindings = 5

// read reads a file.
func (w *folder) read(ctx context.Context, root *os.Root, r *reading) {
	r.began = time.Now()
	expected := 0
	if held := w.r.held(w.files[r.name].origin); held != nil {
		expected = held.Records
	}
	r.coming = w.r.comes(w.path(r.name), expected)
	r.zone, r.prints, r.octets, r.err = w.parse(ctx, root, r.name, r.coming)
}

// parse reads a zone file, and the prints of all that was read.
func (w *folder) parse(ctx context.Context, root *os.Root, name string, coming *coming) (*zone.Zone, prints, int64, error) {
	before := printsOf(root, name)
	info := before[name]
	if info == nil || !info.Mode().IsRegular() {
		return nil, nil, 0, errors.New("not a regular file")
	}
	f, err := root.Open(name)
	if err != nil {
		return nil, nil, 0, err
	}
	defer f.Close()
	if openForWriting(f) {
		return nil, before, 0, errWriting
	}
	origin, err := w.origin(name)
	if err != nil {
		return nil, before, 0, err
	}
	included := &recorder{FS: root.FS()}
	dir, err := filepath.Abs(w.d.Path)
	if err != nil {
		return nil, before, 0, err
	}
	z, found := zonefile.Parse(&cancellable{ctx, f}, zonefile.Options{Origin: origin, File: w.path(name), Name: name, Include: included,
		IncludeDir: dir, Progress: func(records int) bool { coming.tell(records, false); return true }})
	for _, other := range included.names {
		before[other] = included.infos[other]
	}
	if ctx.Err() != nil || !before.same(printsOf(root, namesOf(before)...)) {
		return nil, before, 0, errWriting
	}
	if z == nil {
		return nil, before, 0, &xfr.RefusedError{Found: found, File: w.path(name)}
	}
	for _, f := range found[:min(len(found), saidFindings)] { // all of them come again where the zone is checked
		w.r.opt.Log.Info("a zone file is taken, and this was found in it", "zone", z.Origin(), "finding", f.String())
	}
	return z, before, info.Size(), nil
}

// origin is what the file's name says, if it is to say anything.
func (w *folder) origin(name string) (string, error) {
	if !w.d.ByName {
		return "", nil
	}
	prefix, suffix, _ := strings.Cut(w.d.Pattern, "*")
	return fields.ZoneName(strings.TrimSuffix(strings.TrimPrefix(name, prefix), suffix))
}

// cancellable is a reader that ends with ctx.
type cancellable struct {
	ctx context.Context
	io.Reader
}

func (c *cancellable) Read(b []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.Reader.Read(b)
}

// recorder notes which files are opened, and what they were like.
type recorder struct {
	fs.FS
	names []string
	infos prints
}

func (r *recorder) Open(name string) (fs.File, error) {
	f, err := r.FS.Open(name)
	if err != nil {
		return nil, err
	}
	if _, known := r.infos[name]; !known {
		if r.infos == nil {
			r.infos = prints{}
		}
		r.names = append(r.names, name)
		r.infos[name], _ = f.Stat()
	}
	return f, nil
}

// claim begins to follow the zone that was read, and fills in what is to be kept of it.
func (w *folder) claim(f *zoneFile, r *reading) error {
	origin := r.zone.Origin()
	w.leave(f, r.name)
	err := w.free(origin, r.name)
	if f.origin, f.blocked, w.there = origin, err != nil, nil; f.blocked {
		return err
	}
	w.from[origin] = r.name
	r.rec = record{Origin: origin, Owner: w.owner, From: w.path(r.name), How: File, Contact: w.r.opt.Now().UTC().Truncate(time.Second)}
	r.held = w.r.held(origin)
	return refresh.Forward(r.held, r.zone.Serial())
}

// keep keeps a zone that was read.
func (w *folder) keep(r *reading) {
	was := ""
	if r.held != nil {
		was = r.held.SHA256
	}
	if r.held != nil && r.held.Serial == r.zone.Serial() {
		same, err := sameText(r.zone, was)
		if err != nil || !same {
			r.err = cmp.Or(err, fmt.Errorf("it has changed, and serial %d has not: not taken", r.zone.Serial()))
			return
		}
	}
	var err error
	if r.changed, err = w.r.store.put(&r.rec, r.zone, was); err != nil {
		r.err = &unkeptError{err}
	}
}

// ended tells of a file that was read, and of its zone. It reports whether it need not be looked at again soon.
func (w *folder) ended(f *zoneFile, r *reading) bool {
	w.r.came(r.coming)
	path, disk := w.path(r.name), new(unkeptError)
	switch {
	case errors.Is(r.err, errWriting):
		w.fault(path, r.err.Error())
		f.settling, f.open = nil, true
		return false
	case errors.As(r.err, &disk):
		w.hostFault(r.name, r.err.Error())
		w.fault(path, "")
		f.read = nil // at the next scan it is tried again
		return true
	case r.err != nil:
		w.hostFault(r.name, "")
		w.fault(path, r.err.Error())
		return true
	}
	found := refresh.Found{Good: true, New: r.changed, Record: r.rec, Noted: r.rec.Contact}
	w.r.do(func(now instant.Instant) {
		if received, reset := w.r.set.Filed(now, found); received {
			w.r.took(found, arrival{zone: r.zone, octets: r.octets, began: r.began, whole: r.began, duration: time.Since(r.began), reset: reset})
		}
	})
	w.hostFault(r.name, "")
	w.fault(path, "")
	return true
}

// free begins to follow the zone of a file, unless it comes from elsewhere.
func (w *folder) free(origin, name string) error {
	if other, taken := w.from[origin]; taken && other != name {
		return fmt.Errorf("zone %s is in %s too", origin, other)
	}
	w.r.mu.Lock()
	defer w.r.mu.Unlock()
	return w.r.set.Claim(origin, w.owner)
}

// leave ends that the zone of a file comes from there.
func (w *folder) leave(f *zoneFile, name string) {
	if w.from[f.origin] == name {
		delete(w.from, f.origin)
	}
}

// missing says what is there, so that zones whose files are gone are withdrawn. It reports whether there is nothing to wait for.
func (w *folder) missing() (settled bool) {
	if w.there == nil {
		w.there = map[string]bool{} // origins, and paths: a file that has an error now still is its zone's
		for name, f := range w.files {
			w.there[w.path(name)] = true
			if !f.blocked {
				w.there[f.origin] = true
			}
		}
	}
	w.r.do(func(now instant.Instant) { settled = w.r.set.Scanned(now, w.owner, w.there) })
	return settled
}

// fault says what is wrong with the directory or a file; empty: nothing any more.
func (w *folder) fault(what, why string) {
	w.r.do(func(instant.Instant) { w.r.set.Fault(Fault{Source: w.owner, What: what}, why) })
}

// hostFault says why a file that is right cannot be kept; empty: it can.
func (w *folder) hostFault(name, why string) {
	w.r.do(func(instant.Instant) { w.r.set.Fault(Fault{Source: refresh.HostDisk, What: w.path(name)}, why) })
}

// unkeptError says that what is right cannot be written.
type unkeptError struct{ error }

func (e *unkeptError) Unwrap() error { return e.error }

// held is what there is of a zone, nil if there is nothing.
func (r *Receiver) held(origin string) *record {
	r.mu.Lock()
	defer r.mu.Unlock()
	rec, ok := r.set.Held(origin)
	if !ok {
		return nil
	}
	return &rec
}
