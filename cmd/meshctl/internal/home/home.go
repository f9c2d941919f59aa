package home

import (
	"context"
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/hint"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/keys"
	"github.com/coredns-anycast/coredns-anycast/internal/depot"
	"github.com/coredns-anycast/coredns-anycast/internal/mesh"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
)

// Clock tells the wall-clock time. Tests step it.
type Clock func() time.Time

// Home is the home directory of a mesh. Any number of goroutines may use it. It keeps nothing open between two calls, since
// the credentials of a bucket may change meanwhile, and a backup may be put in the place of the directory.
type Home struct {
	dir   string
	clock Clock

	guard  sync.Mutex
	swept  time.Time   // when what killed writers have left was removed; zero: it was not
	tag    depot.Tag   // of the state that was read or written last; "" if none was
	state  State       // that state: "meshctl serve" looks every few seconds, and 100,000 zones take seconds to read
	broken *brokenFile // what came of it while a file was damaged that names zones; nil: none was

	collecting sync.Mutex
	known      depot.Known // of the repository

	taking sync.Mutex
	took   mesh.Lately // by publications
	waits  int         // for so many publications more, a long wait for the lock counts
}

// At is the home in a directory. It need not be there yet.
func At(dir string, clock Clock) *Home { return &Home{dir: dir, clock: clock} }

const (
	stateDir = "state"
	repoDir  = "repository"

	stateName = "state.json"
)

// There reports whether a directory holds a mesh, or is closed to this process, so that nobody knows.
func There(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, repoDir))
	return err == nil || errors.Is(err, fs.ErrPermission)
}

// ConfigName is the configuration in a home. It may be absent.
const ConfigName = "meshctl.yaml"

// Path is that of something in the home.
func (h *Home) Path(elem ...string) string {
	return filepath.Join(append([]string{h.dir}, elem...)...)
}

// ReceivedDir is where it is kept how far the receipt of zones is.
func (h *Home) ReceivedDir() string { return h.Path(stateDir, "received") }

// Keys are the private keys in the home.
func (h *Home) Keys() keys.Ring { return keys.In(h.dir) }

// Now is the time by the home's clock.
func (h *Home) Now() time.Time { return h.clock() }

// View is what is published now, verified. Errors are those of Published.
func (h *Home) View(ctx context.Context) (release.View, error) {
	_, view, err := h.Published(ctx)
	return view, err
}

// Root is the root in force.
func (h *Home) Root(ctx context.Context) ([]byte, error) {
	state, err := h.State(ctx)
	return state.Published.Root, err
}

// Published is the state, and the view that it holds, verified. An error of release.OfZones says that a file of the repository is damaged which
// names zones: what comes with it has all else, and leases can be renewed.
func (h *Home) Published(ctx context.Context) (State, release.View, error) {
	s, err := openStorage(ctx, h.dir)
	if err != nil {
		return State{}, release.View{}, err
	}
	defer s.close()
	state, view, _, err := h.read(s)
	return state, view, err
}

// State is what the distribution hosts of a mesh do not forget. It is not verified.
func (h *Home) State(ctx context.Context) (State, error) {
	s, err := openStorage(ctx, h.dir)
	if err != nil {
		return State{}, err
	}
	defer s.close()
	state, _, err := readState(h.dir, s)
	return state, err
}

// turns is how often a change is tried before it is given up.
const turns = 8

// Write opens the home for writing, makes a change, and closes it. When another host has published meanwhile, do is called
// again on what is in force then. It waits for others that write until ctx ends.
func (h *Home) Write(ctx context.Context, do func(w *Writer) error) error {
	return h.write(ctx, h.Begin, do)
}

// WriteLease is Write, by BeginLease.
func (h *Home) WriteLease(ctx context.Context, do func(w *Writer) error) error {
	return h.write(ctx, h.BeginLease, do)
}

func (h *Home) write(ctx context.Context, begin func(context.Context) (*Writer, error), do func(w *Writer) error) error {
	for turn := range turns {
		err := writeOnce(ctx, begin, do)
		if !errors.Is(err, depot.ErrChanged) {
			return err
		}
		if err := Pause(ctx, rand.N(time.Duration(turn+1)*maxPause)); err != nil { // so that two hosts do not stay in step
			return err
		}
	}
	return hint.Errorf("run it again", "other distribution hosts were first, %d times in a row", turns)
}

// maxPause bounds the pause after the first turn that was lost; later ones are longer.
const maxPause = 100 * time.Millisecond

func writeOnce(ctx context.Context, begin func(context.Context) (*Writer, error), do func(w *Writer) error) error {
	w, err := begin(ctx)
	if err != nil {
		return err
	}
	err = do(w)
	w.home.makeRoom(err)
	return errors.Join(err, w.Close())
}

// Pause waits for d, or until ctx ends: then it returns why.
func Pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}

// Writer is a home that is open for writing, as it was when it was opened or as this has published it since. One goroutine
// uses it, and closes it.
type Writer struct {
	storage
	home  *Home
	state State
	tag   depot.Tag // of the state that was read or written last
	view  release.View

	damaged error // why zones of the view are not known, and nothing but a lease can be published; nil: they are

	beginning time.Duration // how long it took to open it
	storing   time.Duration // how long it took to store new nodes of trees, which a proposal or commit has none of
}

// Begin opens the home for writing, and carries through what a killed command has decided, here or on another host. It waits
// for another process that writes, but not for long.
func (h *Home) Begin(ctx context.Context) (*Writer, error) {
	w, err := h.BeginLease(ctx)
	if err == nil && w.damaged != nil {
		return nil, errors.Join(w.damaged, w.Close())
	}
	return w, err
}

// BeginLease is Begin for who publishes leases, and is content with that where a file of the repository is damaged which names zones: the view
// is then without them, and whatever else is to be published is an error of release.OfZones.
func (h *Home) BeginLease(ctx context.Context) (*Writer, error) {
	began := time.Now()
	s, err := h.openForWriting(ctx)
	if err != nil {
		return nil, err
	}
	w := &Writer{home: h, storage: s}
	if err := w.load(ctx); err != nil {
		h.makeRoom(err)
		w.Close()
		return nil, err
	}
	w.beginning = time.Since(began)
	return w, nil
}

// Publishing is how long publications of something new took lately, by this process, from Begin until they were in place. It is 0 if there was none.
func (h *Home) Publishing() time.Duration {
	h.taking.Lock()
	defer h.taking.Unlock()
	return time.Duration(h.took)
}

// tookMost is the longest that a publication counts as: leads are made of no more, and one that stood still for an hour is forgotten as soon.
const tookMost = 10 * time.Second

// A wait for the lock of longWait tells of a command that judges a large zone, say. It counts as part of a publication if there was another with one of
// the last longWaitOf: else one such wait would make the leads of the next ten releases longer, half a minute at first.
const (
	longWait   = 2 * time.Second
	longWaitOf = 16
)

// takes takes in how long a publication took, and how much of that was a wait for the lock.
func (h *Home) takes(took, waited time.Duration) {
	h.taking.Lock()
	defer h.taking.Unlock()
	often := h.waits > 0
	h.waits = max(0, h.waits-1)
	if waited >= longWait {
		h.waits = longWaitOf
		if !often {
			took -= waited
		}
	}
	h.took.Add(min(took, tookMost))
}

// Path is that of something in the home.
func (w *Writer) Path(elem ...string) string { return w.home.Path(elem...) }

// Keys are the private keys in the home.
func (w *Writer) Keys() keys.Ring { return w.home.Keys() }

// Now is the time by the home's clock.
func (w *Writer) Now() time.Time { return w.home.clock() }

// Tag is that of the state that was read or written last.
func (w *Writer) Tag() depot.Tag { return w.tag }

// Close gives up the right to write.
func (w *Writer) Close() error { return w.close() }

// View is what is published now.
func (w *Writer) View() release.View { return w.view }

// State is what distribution hosts do not forget.
func (w *Writer) State() State { return w.state }

// Root is the newest root, which a node is given as root.json.
func (w *Writer) Root() []byte { return w.state.Published.Root }

// Repository is what members mirror.
func (w *Writer) Repository() depot.Store { return w.repo }

// Records is where hosts keep what they share.
func (w *Writer) Records() depot.Store { return w.records }

func (w *Writer) load(ctx context.Context) (err error) {
	if w.state, w.view, w.tag, err = w.home.read(w.storage); err != nil && !release.OfZones(err) {
		return err
	}
	w.damaged = err
	// The timestamp goes in last: where it is in place, so is the rest.
	if done, _, err := w.timestamp(); done || err != nil {
		return err
	}
	return w.carryThrough(ctx, nil)
}

// read is what readState reads, and the view that it holds, verified. What has the tag of what was read last is not read
// again, but verified all the same. Errors are those of Published.
func (h *Home) read(from storage) (State, release.View, depot.Tag, error) {
	return h.readWith(from, from.repo)
}

// readWith is read, with the zones of trees from a repository.
func (h *Home) readWith(from storage, nodes fs.FS) (State, release.View, depot.Tag, error) {
	h.guard.Lock()
	state, was, broken := h.state, h.tag, h.broken
	h.guard.Unlock()
	tag, err := from.records.Tag(stateName)
	if err == nil && broken.stays(tag, nodes) {
		return broken.state, broken.view, tag, broken.err
	}
	if err != nil || was == "" || tag != was {
		before := state.Published
		if state, tag, err = readState(h.dir, from); err != nil {
			return State{}, release.View{}, "", err
		}
		state.Published = state.Published.Knowing(before)
	}
	view, published, err := state.restored(nodes)
	file := ""
	if e := new(release.Error); errors.As(err, &e) {
		file = e.File
	}
	switch {
	case release.OfZones(err):
		err = lacking(err)
	case err != nil:
		return State{}, release.View{}, "", err
	}
	state.Published = published
	h.keepRead(tag, state)
	if err != nil {
		h.guard.Lock()
		defer h.guard.Unlock()
		h.broken = &brokenFile{tag, file, state, view, err}
	}
	return state, view, tag, err
}

// lacking says what to do about an error of release.OfZones.
func lacking(err error) error {
	return hint.Errorf("take the file from a copy of the repository, such as a member's depot: stop meshctl serve, then meshctl recover COPY", "a file of the repository is lost or damaged: %w", err)
}

// brokenFile is a file of the repository that is damaged, and what came of the state with a tag for that.
type brokenFile struct {
	tag   depot.Tag
	file  string
	state State
	view  release.View
	err   error
}

// stays reports whether that is the state, and the file is damaged still. Until then there is nothing else to be known, and to read all that can be read of
// a hundred thousand zones takes seconds.
func (b *brokenFile) stays(tag depot.Tag, nodes fs.FS) bool {
	return b != nil && b.tag == tag && nodeOf(nodes, b.file) == nil
}

// keepRead keeps what was read or written.
func (h *Home) keepRead(tag depot.Tag, state State) {
	h.guard.Lock()
	defer h.guard.Unlock()
	h.tag, h.state, h.broken = tag, state, nil
}

// Reader is a home that is open for reading, for who looks at it often.
type Reader struct {
	storage
	home *Home
}

// Read opens the home for reading, until ctx ends.
func (h *Home) Read(ctx context.Context) (*Reader, error) {
	s, err := openStorage(ctx, h.dir)
	if err != nil {
		return nil, err
	}
	return &Reader{s, h}, nil
}

// Close closes it.
func (r *Reader) Close() error { return r.close() }

// Repository is what members mirror.
func (r *Reader) Repository() depot.Store { return r.repo }

// Records is where hosts keep what they share.
func (r *Reader) Records() depot.Store { return r.records }

// IsShared reports whether hosts elsewhere publish here too, in a bucket.
func (r *Reader) IsShared() bool { _, here := r.records.(*depot.Dir); return !here }

// SharedLook is how often a host that holds members' requests looks into a bucket for something new.
const SharedLook = 500 * time.Millisecond

// Notice is how much later what is published may be seen by the host that holds members' requests than they reckon with.
func (r *Reader) Notice() time.Duration {
	if r.IsShared() {
		return SharedLook
	}
	return 0
}

// Tag is that of the state that is in force.
func (r *Reader) Tag() (depot.Tag, error) { return r.records.Tag(stateName) }

// Published is the state with its tag, and the view that it holds, verified. Errors are those of Home.Published.
func (r *Reader) Published() (State, release.View, depot.Tag, error) { return r.home.read(r.storage) }
