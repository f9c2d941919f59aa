package meshsync

import (
	"bytes"
	"context"
	"errors"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/coredns-anycast/coredns-anycast/internal/depot"
	"github.com/coredns-anycast/coredns-anycast/internal/instant"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
)

const (
	// poll is how often the repository is looked at without an event: events get lost, and directories replaced.
	poll = 2 * time.Second
	// settle is how long an event waits for those that follow it.
	settle = 20 * time.Millisecond
	// maxTimestamp bounds the look at the one file that changes with everything else.
	maxTimestamp = 1 << 20
)

// verified is what a look at the repository gave: a view, or the rule that it breaks.
type verified struct {
	view  release.View
	fault *status.Fault
}

// watch looks at the repository whenever it may have changed and hands on what it finds, remembering durably what must
// not be rolled back before anything is done with it.
func watch(ctx context.Context, repository string, s *state, mem release.Memory, views chan<- verified) {
	send := func(v verified) {
		select {
		case views <- v:
		case <-ctx.Done():
		}
	}
	if view, err := release.Restore(mem); err == nil {
		send(verified{view: view})
	}
	events := newEvents(repository)
	defer events.close()
	ticker := time.NewTicker(poll)
	defer ticker.Stop()
	for ctx.Err() == nil {
		var v *verified
		if mem, v = look(repository, s, mem); v != nil {
			send(*v)
		}
		select {
		case <-ctx.Done():
		case <-ticker.C:
			events.follow()
		case <-events.changed():
			events.settle()
		}
	}
}

// look verifies the repository if its timestamp is another than the one remembered; nil means that nothing is new.
func look(repository string, s *state, mem release.Memory) (release.Memory, *verified) {
	dir, err := depot.Open(repository)
	if err != nil {
		return mem, &verified{fault: &status.Fault{File: repository, Rule: string(release.Unreadable), Detail: err.Error()}}
	}
	defer dir.Close()
	stamp, err := depot.ReadFile(filepath.Join(repository, filepath.Dir(release.TimestampName)), filepath.Base(release.TimestampName), maxTimestamp)
	if err == nil && mem.Verified() && bytes.Equal(stamp, mem.Timestamp) {
		return mem, nil
	}
	view, next, err := release.Verify(dir, mem)
	if !sameMemory(mem, next) {
		if err := s.remember(next); err != nil {
			return mem, &verified{fault: &status.Fault{File: memoryFile, Rule: "not-durable", Detail: err.Error()}}
		}
	}
	if err != nil {
		fault := faultOf(err)
		return next, &verified{fault: &fault}
	}
	return next, &verified{view: view}
}

// sameMemory reports whether there is nothing to write. A memory changes only with one of these.
func sameMemory(a, b release.Memory) bool {
	return bytes.Equal(a.Root, b.Root) && bytes.Equal(a.Timestamp, b.Timestamp)
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

// faults counts what was refused, and says each once.
type faults struct {
	last   *status.Fault
	counts map[string]uint64
}

// add counts a fault and logs it, unless it is the one logged last.
func (f *faults) add(fault status.Fault) {
	if f.counts == nil {
		f.counts = map[string]uint64{}
	}
	f.counts[fault.Rule]++
	depotFaults.WithLabelValues(fault.Rule).Inc()
	if f.last == nil || f.last.File != fault.File || f.last.Rule != fault.Rule {
		log.Errorf("refused: %s: %s: %s", fault.File, fault.Rule, fault.Detail)
	}
	fault.At = instant.WallOf(time.Now())
	f.last = &fault
}

// clear ends a fault: what came after it was right.
func (f *faults) clear() { f.last = nil }

func (f *faults) depot() status.Depot {
	d := status.Depot{LastFault: f.last}
	if len(f.counts) > 0 {
		d.Faults = make(map[string]uint64, len(f.counts))
		for rule, n := range f.counts {
			d.Faults[rule] = n
		}
	}
	return d
}
