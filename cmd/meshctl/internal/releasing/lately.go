package releasing

import (
	"maps"
	"sync/atomic"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/instant"
	"github.com/coredns-anycast/coredns-anycast/internal/receive"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
	"github.com/coredns-anycast/coredns-anycast/internal/zone"
	"github.com/coredns-anycast/coredns-anycast/internal/zonecheck"
)

// Lately is what a process that makes release after release knows of large zones from before, so that it need not read and
// verify them whole again. It is of one process, is never written down, and can only be lacking: what is not in it is read
// and verified.
type Lately struct {
	zones map[release.Digest]*zone.Zone // by their text: those of the current and the next release
	memos map[string]*zonecheck.Memo    // by origin

	checking atomic.Pointer[checking] // what is being checked; may be asked for at any time
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
	return &Lately{zones: map[release.Digest]*zone.Zone{}, memos: map[string]*zonecheck.Memo{}}
}

// Zone is the zone that has a text, if the current or the next release has it too; nil otherwise.
func (l *Lately) Zone(text release.Digest) *zone.Zone {
	if l == nil {
		return nil
	}
	return l.zones[text]
}

// memo is what is known of the signatures of a zone; nil if it is small.
func (l *Lately) memo(z *zone.Zone) *zonecheck.Memo {
	if l == nil || z.ImageSize() < receive.LargeImage {
		return &zonecheck.Memo{}
	}
	if l.memos[z.Origin()] == nil {
		l.memos[z.Origin()] = &zonecheck.Memo{}
	}
	return l.memos[z.Origin()]
}

// Keep takes in the large zones of what was just made, and lets go of those that no release has any more.
func (l *Lately) Keep(sources []Source, m release.Manifest) {
	texts, origins := map[release.Digest]bool{}, map[string]bool{}
	for r := range m.Releases() {
		for _, z := range r.Zones {
			texts[z.SHA256], origins[z.Origin] = true, true
		}
	}
	for _, s := range sources {
		if s.Zone != nil {
			l.zones[s.Text] = s.Zone
		}
	}
	maps.DeleteFunc(l.zones, func(text release.Digest, _ *zone.Zone) bool { return !texts[text] })
	maps.DeleteFunc(l.memos, func(origin string, _ *zonecheck.Memo) bool { return !origins[origin] })
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
