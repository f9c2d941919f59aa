package releasing

import (
	"context"
	"fmt"
	"io"
	"maps"
	"sync/atomic"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/depot"
	"github.com/coredns-anycast/coredns-anycast/internal/instant"
	"github.com/coredns-anycast/coredns-anycast/internal/receive"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
	"github.com/coredns-anycast/coredns-anycast/internal/zone"
	"github.com/coredns-anycast/coredns-anycast/internal/zonecheck"
	"github.com/coredns-anycast/coredns-anycast/internal/zonefile"
)

// Lately is what a process that makes release after release knows of large zones from before, so that it need not read and
// verify them whole again. It is of one process, is never written down, and can only be lacking: what is not in it is read
// and verified.
type Lately struct {
	zones map[release.Digest]*zone.Zone // by their content: those of the current and the next release
	memos map[string]*zonecheck.Memo    // by origin

	checking atomic.Pointer[checking] // what is being checked; may be asked for at any time

	daily bool                  // all of a zone is being judged beside
	done  atomic.Pointer[daily] // what came of it

	due     map[string]*zone.Zone   // by origin, what is answered of zones of which a text is to be written; nil until that is known
	bases   map[string]release.Zone // by origin, texts that were written, until a release names them or others
	writing bool                    // one is being written beside
	written atomic.Pointer[written] // what came of it
}

// written is what came of a text that was written beside.
type written struct {
	base release.Zone
	err  error
}

// daily is a zone of which all was judged beside.
type daily struct {
	origin string
	memo   *zonecheck.Memo
}

// checking is a zone that is being checked: the nth of so many.
type checking struct {
	origin  string
	records int
	nth, of int
	memo    *zonecheck.Memo
	began   time.Time
}

// checks keeps what is being checked, nil for nothing.
func (l *Lately) checks(c *checking) {
	if l != nil {
		l.checking.Store(c)
	}
}

// NewLately knows nothing yet.
func NewLately() *Lately {
	return &Lately{zones: map[release.Digest]*zone.Zone{}, memos: map[string]*zonecheck.Memo{}, due: map[string]*zone.Zone{}, bases: map[string]release.Zone{}}
}

// Zone is the zone with a content (release.Zone.Content), if the current or the next release has it too; nil otherwise.
func (l *Lately) Zone(content release.Digest) *zone.Zone {
	if l == nil {
		return nil
	}
	return l.zones[content]
}

// want asks for a text to be written beside.
func (l *Lately) want(origin string) {
	if l != nil && l.due[origin] == nil {
		l.due[origin] = nil
	}
}

// base is a text of a zone that was written beside, if there is one, and which a release is to name now or never.
func (l *Lately) base(origin string) (release.Zone, bool) {
	if l == nil {
		return release.Zone{}, false
	}
	base, there := l.bases[origin]
	delete(l.bases, origin)
	return base, there
}

// Base has the text of a zone written, of which the packs have become many, one at a time: by a goroutine that run is to start, so that no
// release takes the time for it, with put, which is to be depot.Store.PutBeside. The next release names it. What goes wrong is told, and is
// tried again after the next release. It is called by the goroutine that makes releases.
func (l *Lately) Base(ctx context.Context, run func(func()), put func(write func(io.Writer) error) (depot.Content, error), tell func(error)) {
	if done := l.written.Swap(nil); done != nil {
		l.writing = false
		if done.err == nil {
			l.bases[done.base.Origin] = done.base
		} else {
			tell(fmt.Errorf("a new base of zone %s: %w", done.base.Origin, done.err))
		}
	}
	if l.writing {
		return
	}
	for origin, z := range l.due {
		if z == nil {
			continue
		}
		delete(l.due, origin)
		l.writing = true
		run(func() {
			c, err := put(func(to io.Writer) error { return zonefile.Write(&writer{ctx, to}, z) })
			l.written.Store(&written{release.Zone{Origin: origin, SHA256: c.SHA256, Length: c.Length, Blob: c.Blob, Root: z.Root()}, err})
		})
		return
	}
}

// memo is what is known of the signatures of a zone; nil if it is small.
func (l *Lately) memo(z *zone.Zone) *zonecheck.Memo {
	if l == nil || z.ImageSize() < receive.LargeImage {
		return &zonecheck.Memo{}
	}
	l.take()
	if l.memos[z.Origin()] == nil {
		l.memos[z.Origin()] = &zonecheck.Memo{}
	}
	return l.memos[z.Origin()]
}

// Daily has all of a large zone judged again if that was done last most of a day ago, one zone at a time: by a goroutine that run is to
// start, so that no release takes the time for it. What is found is told there, if ctx does not end before. It is called by the goroutine
// that makes releases.
func (l *Lately) Daily(ctx context.Context, now time.Time, run func(func()), tell func([]zone.Finding)) {
	if l.take(); l.daily {
		return
	}
	for origin, m := range l.memos {
		judge := m.Daily(now)
		if judge == nil {
			continue
		}
		l.daily = true
		run(func() {
			memo, found := judge(func() bool { return ctx.Err() != nil })
			if ctx.Err() == nil {
				tell(found)
			}
			l.done.Store(&daily{origin, memo})
		})
		return
	}
}

// take takes in what was judged beside, unless all was judged by a release meanwhile.
func (l *Lately) take() {
	d := l.done.Swap(nil)
	if d == nil {
		return
	}
	l.daily = false
	if m := l.memos[d.origin]; m != nil && m.Whole().Before(d.memo.Whole()) {
		l.memos[d.origin] = d.memo
	}
}

// Keep takes in the large zones of what was just made, and lets go of those that no release has any more.
func (l *Lately) Keep(sources []Source, m release.Manifest) {
	has := func(origin string, is func(*release.Zone) bool) bool {
		for r := range m.Releases() {
			if z := r.Zone(origin); z != nil && is(z) {
				return true
			}
		}
		return false
	}
	for _, s := range sources {
		if s.Zone != nil {
			l.zones[s.Content] = s.Zone
		}
	}
	maps.DeleteFunc(l.zones, func(content release.Digest, made *zone.Zone) bool {
		return !has(made.Origin(), func(z *release.Zone) bool { return z.Content() == content })
	})
	maps.DeleteFunc(l.memos, func(origin string, _ *zonecheck.Memo) bool {
		return !has(origin, func(*release.Zone) bool { return true })
	})
	for origin := range l.due { // what is answered is on the way to all that is released after it
		if z := m.Current.Zone(origin); z != nil && l.zones[z.Content()] != nil {
			l.due[origin] = l.zones[z.Content()]
		} else {
			delete(l.due, origin)
		}
	}
}

// Checking is the zone that is being checked, nil if none is. Any goroutine may ask.
func (l *Lately) Checking() *status.Progress {
	z := l.checking.Load()
	if z == nil {
		return nil
	}
	return &status.Progress{What: "checking", Subject: z.origin, Done: int64(z.memo.Records()), Of: int64(z.records), Unit: "records",
		Began: instant.WallOf(z.began), Seconds: time.Since(z.began).Seconds(), Zone: z.nth, OfZones: z.of}
}
