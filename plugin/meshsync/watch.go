package meshsync

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/coredns-anycast/coredns-anycast/internal/depot"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
)

const (
	// poll is how often the repository is looked at without an event: events get lost, and directories replaced.
	poll = 2 * time.Second
	// settle is how long an event waits for those that follow it.
	settle = 20 * time.Millisecond
)

// found is what a look at the repository gave for one place: what is wrong there, or nil if it is right (again), and
// for the place repository then the view.
type found struct {
	place string
	fault *status.Fault
	view  *release.View
}

// Places where something can be wrong, each until it is right again. A release is one too, see placeOf.
const (
	placeRepository = "repository"
	placeMemory     = "memory"  // memoryFile cannot be written
	placePromise    = "promise" // promiseFile cannot be written
)

// notDurable is the rule that a state directory breaks which cannot be written to.
const notDurable = "not-durable"

// watcher looks at the repository whenever it may have changed.
type watcher struct {
	repository string
	state      *state
	durable    release.Memory // what is on disk
	mem        release.Memory // what is in force: durable, or newer while the disk refuses it
	view       *release.View  // what mem says; nil before there is any
	owed       bool           // the view is to be handed on, for the first time or since the repository is right again
	damaged    damaged        // what the last look has found
}

// damaged is a file of a repository that names zones, and is not what its name says, under a timestamp.
type damaged struct {
	file  string // "": there is none
	stamp []byte
	err   error
}

// stays reports whether all that is so still. Until then there is nothing else to be known, and to read the files of a hundred thousand zones up to that
// takes seconds.
func (d *damaged) stays(dir *depot.Dir, stamp []byte) bool {
	if d.file == "" || !bytes.Equal(stamp, d.stamp) {
		return false
	}
	data, _, err := dir.Read(d.file, release.MaxNodeBytes)
	return err != nil || release.NodeName(release.DigestOf(data)) != d.file
}

// watch looks until ctx ends.
func (w *watcher) watch(ctx context.Context, out chan<- found) {
	verified := w.view // before the start. It is answered from only where the repository has nothing newer.
	news := w.look()
	if verified != nil && !slices.ContainsFunc(news, func(f found) bool { return f.view != nil }) {
		news = append([]found{{place: placeMemory, view: verified}}, news...)
	}
	events := newEvents(w.repository)
	defer events.close()
	ticker := time.NewTicker(poll)
	defer ticker.Stop()
	for ; ctx.Err() == nil; news = w.look() {
		for _, f := range news {
			send(ctx, out, f)
		}
		select {
		case <-ctx.Done():
		case <-ticker.C:
			events.follow()
		case <-events.changed():
			events.settle()
		case <-events.failed(): // the system dropped events: look
		}
	}
}

func send(ctx context.Context, out chan<- found, f found) {
	select {
	case out <- f:
	case <-ctx.Done():
	}
}

// look verifies the repository if its timestamp is another than the one in force, and returns what is new.
func (w *watcher) look() []found {
	dir, err := openRepository(w.repository)
	if err != nil {
		return w.refuse(err)
	}
	defer dir.Close()
	stamp, _, _ := dir.Read(release.TimestampName, release.MaxBytes(release.TimestampName)) // what is wrong with it is found below
	if w.view != nil && bytes.Equal(stamp, w.mem.Timestamp) {
		return append(w.remember(w.mem), w.handOn()...)
	}
	if w.damaged.stays(dir, stamp) {
		return append(w.remember(w.mem), w.refuse(w.damaged.err)...)
	}
	view, next, err := release.Verify(dir, w.mem)
	news := w.remember(next)
	w.damaged = damaged{}
	if err != nil {
		if e := new(release.Error); release.OfZones(err) && errors.As(err, &e) {
			w.damaged = damaged{e.File, stamp, err}
		}
		return append(news, w.refuse(err)...)
	}
	w.view, w.owed = &view, true
	return append(news, w.handOn()...)
}

// handOn hands the view on if that is owed.
func (w *watcher) handOn() []found {
	if !w.owed {
		return nil
	}
	w.owed = false
	return []found{{place: placeRepository, view: w.view}}
}

func (w *watcher) refuse(err error) []found {
	w.owed = true
	fault := faultOf(err)
	return []found{{place: placeRepository, fault: &fault}}
}

// remember makes next durable and takes it into force, the latter also if the disk refuses: a node that knows of a
// switchover must not go on with the old release past it (SYNC-F). It cannot go on with the new one either before its
// floor is on disk, so the worst that a replay can do after a crash is to shorten a lease.
func (w *watcher) remember(next release.Memory) []found {
	w.mem = next
	if sameMemory(w.durable, next) {
		return nil
	}
	if err := w.state.remember(next); err != nil {
		return []found{{place: placeMemory, fault: &status.Fault{File: memoryFile, Rule: notDurable, Detail: err.Error()}}}
	}
	w.durable = next
	return []found{{place: placeMemory}}
}

// sameMemory reports whether there is nothing to write. A memory changes only with one of these.
func sameMemory(a, b release.Memory) bool {
	return bytes.Equal(a.Root, b.Root) && bytes.Equal(a.Timestamp, b.Timestamp)
}

// openRepository opens a directory. That it is one is seen first, since opening a pipe would wait for ever.
func openRepository(path string) (*depot.Dir, error) {
	info, err := os.Stat(path)
	if err == nil && !info.IsDir() {
		err = &fs.PathError{Op: "open", Path: path, Err: errors.New("not a directory")}
	}
	var dir *depot.Dir
	if err == nil {
		dir, err = depot.Open(path)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, &release.Error{File: path, Rule: release.Missing, Detail: "there is no repository yet"}
	case err != nil:
		return nil, &release.Error{File: path, Rule: release.Unreadable, Detail: err.Error()}
	}
	return dir, nil
}

// faultOf names the file and the rule of an error.
func faultOf(err error) status.Fault {
	var e *release.Error
	if errors.As(err, &e) {
		return status.Fault{File: e.File, Rule: string(e.Rule), Detail: e.Detail}
	}
	return status.Fault{Rule: "error", Detail: err.Error()}
}

// events tells of changes in the repository's metadata directory, which may come and go.
type events struct {
	watcher *fsnotify.Watcher // nil where the system has none to give: then there is the poll
	dir     string
}

func newEvents(repository string) *events {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		log.Warningf("no file events, polling every %v: %s", poll, err)
		w = nil
	}
	e := &events{watcher: w, dir: filepath.Join(repository, filepath.Dir(release.TimestampName))}
	e.follow()
	return e
}

// follow (re)sets the watch: a directory that was replaced is another one under the same name.
func (e *events) follow() {
	if e.watcher != nil {
		e.watcher.Remove(e.dir)
		e.watcher.Add(e.dir) // an error means that it is not there yet: the poll will find it
	}
}

func (e *events) changed() <-chan fsnotify.Event {
	if e.watcher == nil {
		return nil
	}
	return e.watcher.Events
}

// failed must be read from: the library hands out nothing more while an error waits.
func (e *events) failed() <-chan error {
	if e.watcher == nil {
		return nil
	}
	return e.watcher.Errors
}

// settle waits until a burst of events is over.
func (e *events) settle() {
	deadline := time.After(settle)
	for {
		select {
		case <-e.watcher.Events:
		case <-e.watcher.Errors:
		case <-deadline:
			return
		}
	}
}

func (e *events) close() {
	if e.watcher != nil {
		e.watcher.Close()
	}
}
