package enrol

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/release"
)

// removedDir, in a home, has a file for each member that was removed here, for as long as it is asked whether its route is gone: with policy
// stop-dns that stays, and whoever it draws gets no answer. It is this host's alone, and nothing is lost with it.
const removedDir = "removed"

// removedFor is how long a removed member is asked.
const removedFor = 7 * 24 * time.Hour

// removed is a member that was removed.
type removed struct {
	release.Member
	At time.Time `json:"removed"`
}

// keepRemoved notes a member that is removed, and forgets those of long ago.
func keepRemoved(h place, m release.Member, now time.Time) error {
	dir := h.Path(removedDir)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, old := range allRemoved(h) {
		if now.Sub(old.At) >= removedFor {
			if err := removeFile(filepath.Join(dir, old.Name+".json")); err != nil {
				return err
			}
		}
	}
	return writeFacts(dir, m.Name+".json", removed{m, now.UTC()})
}

func allRemoved(h place) (all []removed) {
	files, _ := filepath.Glob(filepath.Join(h.Path(removedDir), "*.json")) // the pattern is right
	for _, file := range files {
		if one, err := readFacts[removed](h.Path(removedDir), filepath.Base(file)); err == nil && one.Name == strings.TrimSuffix(filepath.Base(file), ".json") {
			all = append(all, one)
		}
	}
	return all
}

// Removed are the members that were removed here lately, as they were members last, and are none again: they may have a route still.
func Removed(h place, m release.Manifest, now time.Time) (all []release.Member) {
	for _, one := range allRemoved(h) {
		again := slices.ContainsFunc(m.Members, func(o release.Member) bool { return o.Name == one.Name })
		if !again && now.Sub(one.At) < removedFor {
			all = append(all, one.Member)
		}
	}
	return all
}
