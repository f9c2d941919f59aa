package receive

import (
	"context"
	"errors"
	"os"
	"sync"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/zone"
)

const (
	// filesAtOnce is how many small files are read, and their zones kept, at a time: a disk takes many together.
	filesAtOnce = 32
	// smallFile is how many octets a small file has at the most.
	smallFile = 64 << 10
)

// files are read together, in the order in which they are added: one that is not small by itself. done is told of each file, whether it need not be
// looked at again soon.
type files struct {
	w    *folder
	ctx  context.Context
	root *os.Root
	done func(name string, settled bool)
	list []*reading
}

// reading is a file that is read.
type reading struct {
	name   string
	began  time.Time
	zone   *zone.Zone
	prints prints // of all that was read
	octets int64
	err    error

	coming  *coming
	held    *record // what is held of the zone; nil: nothing
	rec     record  // of the zone that was read
	changed bool    // the text is another one
}

func (w *folder) reading(ctx context.Context, root *os.Root, done func(name string, settled bool)) *files {
	return &files{w: w, ctx: ctx, root: root, done: done}
}

// add reads a file if it has changed and changes no more, at the latest by end.
func (l *files) add(name string) {
	f := l.w.files[name]
	if f != nil && f.blocked { // those before it may be what is in its way
		l.end()
	}
	read, settled := l.w.look(l.root, name)
	if !read {
		l.done(name, settled)
		return
	}
	small := l.w.files[name].settling[name].Size() <= smallFile
	if !small {
		l.end()
	}
	if l.list = append(l.list, &reading{name: name}); !small || len(l.list) == filesAtOnce {
		l.end()
	}
}

// end reads those that were added. What is told, and whose the zones are, is as if one came after the other.
func (l *files) end() {
	list, w := l.list, l.w
	l.list = nil
	each(list, func(r *reading) { w.read(l.ctx, l.root, r) })
	keep := make([]*reading, 0, len(list))
	for _, r := range list {
		f := w.files[r.name]
		if errors.Is(r.err, errWriting) {
			continue
		}
		if f.read, f.open, w.plain = r.prints, false, w.plain && len(r.prints) <= 1; r.err != nil {
			continue
		}
		if r.err = w.claim(f, r); r.err == nil {
			keep = append(keep, r)
		}
	}
	each(keep, w.keep)
	for _, r := range list {
		l.done(r.name, w.ended(w.files[r.name], r))
	}
}

// each does some work for all of a list, at the same time.
func each(list []*reading, work func(r *reading)) {
	if len(list) == 1 {
		work(list[0])
		return
	}
	var all sync.WaitGroup
	for _, r := range list {
		all.Go(func() { work(r) })
	}
	all.Wait()
}
