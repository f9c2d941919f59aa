package refresh

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/instant"
)

// goneFor is how long the files that are gone must be the same ones: removing many takes a while.
const goneFor = 5 * time.Second

// folder is a directory that is followed.
type folder struct {
	Directory
	unread int          // readers that have not read yet all that was there at the start
	scans  int          // that have ended
	gone   []string     // zones without a file
	at     instant.Mono // since when
}

// reading is how many directories were not read once yet.
func (s *Secondary) reading() (n int) {
	for _, f := range s.folders {
		n += f.unread
	}
	return n
}

// DirectoryRead says that all that was in a directory at the start was read.
func (s *Secondary) DirectoryRead(owner string) { s.folders[owner].unread-- }

// Claim begins to follow a zone for a section, unless it comes from another.
func (s *Secondary) Claim(origin, owner string) error {
	z := s.zones[origin]
	if z == nil {
		z = s.follow(origin, owner, nil)
	}
	if z.owner == orphan {
		z.owner, s.nesting.changed = owner, true
		delete(s.orphans, origin)
	}
	if z.owner != owner {
		return fmt.Errorf("zone %s comes from %s already", origin, z.owner)
	}
	return nil
}

// Held is what there is of a zone.
func (s *Secondary) Held(origin string) (Record, bool) {
	z := s.zones[origin]
	if z == nil {
		return Record{}, false
	}
	return z.rec, z.loaded
}

// Filed takes what a file had of a zone that was claimed. It reports whether the zone is still received, and whether it begins anew.
func (s *Secondary) Filed(now instant.Instant, f Found) (received, reset bool) {
	z := s.zones[f.Record.Origin]
	if z == nil {
		return false, false
	}
	reset = z.reset
	s.judge(now, z, f)
	return true, reset
}

// Scanned says which zones, or files of them, are in a directory now. What is gone is withdrawn, if that is wanted, once the same zones
// have been gone for a while, unless they are too many; or is ordered. It reports whether there is nothing to wait for.
func (s *Secondary) Scanned(now instant.Instant, owner string, there map[string]bool) (settled bool) {
	f := s.folders[owner]
	f.scans++
	missing, had := s.without(owner, there)
	gone, ordered := s.obey(now, owner, missing)
	had -= len(missing) - len(gone)
	if !slices.Equal(gone, f.gone) {
		f.gone, f.at = gone, now.Mono
	}
	why := ""
	switch {
	case len(gone) == 0 || s.config.Force:
	case !f.Withdraw:
		why = fmt.Sprintf("files are gone, and their zones are kept (deleted: keep): %s", Some(gone))
	default:
		why = tooMany(len(gone), had, f.Limit)
	}
	s.Fault(Fault{owner, f.Path}, why)
	if len(gone) == 0 || why != "" {
		return !ordered
	}
	if !s.config.Once && now.Mono.Sub(f.at) < goneFor {
		return false
	}
	for _, origin := range gone {
		z := s.zones[origin]
		s.say(Warn, "withdrawn: its file is gone", "zone", origin, "file", z.rec.From)
		s.withdraw(z)
	}
	return !ordered
}

// without lists the zones of a section, in order, that are not there, nor are their files, and counts all of them.
func (s *Secondary) without(owner string, there map[string]bool) (gone []string, had int) {
	for _, z := range s.sorted() {
		if z.owner != owner || !z.loaded {
			continue
		}
		if had++; !there[z.origin] && !there[z.rec.From] {
			gone = append(gone, z.origin)
		}
	}
	return gone, had
}

// Some are the first of several names, and how many more there are.
func Some(names []string) string {
	if len(names) > 5 {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:5], " "), len(names)-5)
	}
	return strings.Join(names, " ")
}

// Fault takes what is wrong with a directory or a file in it; "" says that nothing is any more.
func (s *Secondary) Fault(place Fault, why string) {
	if why == "" {
		delete(s.faults, place)
		return
	}
	if s.faults[place] != why {
		text := "a directory of zones"
		if place.Source == HostDisk {
			text = "what was received cannot be written"
		}
		s.say(Error, text, "file", place.What, "error", why)
	}
	s.faults[place] = why
}
