package meshsync

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/lab/publish"
	"github.com/coredns-anycast/coredns-anycast/internal/mesh"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
)

// TestBadRepositories damages the repository under a node that answers. The node says which rule is broken, goes on
// answering as its lease allows, also after a restart if the zones are still there, and takes the repository again when
// it is right.
func TestBadRepositories(t *testing.T) {
	for _, c := range []struct {
		name, rule string
		damage     func(*testing.T, *host) // nil: an older timestamp comes back
	}{
		{"empty", "torn", overwrite("")},
		{"zeros", "torn", overwrite(strings.Repeat("\x00", 500))},
		{"torn", "torn", func(t *testing.T, h *host) { must(t, os.Truncate(h.path(release.TimestampName), 100)) }},
		{"oversize", "oversize", overwrite(strings.Repeat(" ", 1<<20))},
		{"replayed", "rollback", nil},
		{"signed by another", "signature", func(t *testing.T, h *host) {
			other := newHost(t, t.TempDir())
			must(t, os.WriteFile(h.path(release.TimestampName), readFile(t, other.path(release.TimestampName)), 0o644))
		}},
		{"a pipe for the timestamp", "unreadable", inPlaceOf(release.TimestampName, fifo)},
		{"a link for the timestamp", "unreadable", inPlaceOf(release.TimestampName, link)},
		{"a directory for the timestamp", "unreadable", inPlaceOf(release.TimestampName, mkdir)},
		{"no timestamp", "missing", inPlaceOf(release.TimestampName, nothing)},
		{"a pipe for the metadata", "unreadable", inPlaceOf("metadata", fifo)},
		{"no metadata", "missing", inPlaceOf("metadata", nothing)},
		{"a pipe for the repository", "unreadable", inPlaceOf(".", fifo)},
		{"an empty repository", "missing", inPlaceOf(".", mkdir)},
		{"no repository", "missing", inPlaceOf(".", nothing)},
		{"the snapshot not yet copied", "missing", incomplete(".snapshot.json")},
		{"the targets not yet copied", "missing", incomplete(".targets.json")},
		{"the manifest not yet copied", "missing", incomplete(".mesh.json")},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			h, n := answeringNode(t)
			older := readFile(t, h.path(release.TimestampName))
			h.renew(2 * time.Hour)
			n.waits("the newer lease", func(s *status.Node) bool { return s.LeaseExpires.Time().Equal(h.leaseEnd()) })
			if c.damage == nil {
				c.damage = overwrite(string(older))
			}
			c.damage(t, h)
			n.faulty(c.rule)
			n.keeps(1, 50*time.Millisecond)
			n = n.restart()
			n.faulty(c.rule)
			if strings.HasSuffix(c.name, " repository") {
				n.silentFor(mesh.NotReady)
			} else {
				n.becomes(1)
			}
			h.repair()
			n.becomes(1)
			n.sound()
			h.stage(2, h.zones(2))
			n.staged(2)
		})
	}
}

func overwrite(data string) func(*testing.T, *host) {
	return func(t *testing.T, h *host) { must(t, os.WriteFile(h.path(release.TimestampName), []byte(data), 0o644)) }
}

// inPlaceOf moves a file or directory aside and puts another thing there.
func inPlaceOf(name string, put func(path string) error) func(*testing.T, *host) {
	return func(t *testing.T, h *host) {
		must(t, os.Rename(h.path(name), h.path(name)+".aside"))
		must(t, put(h.path(name)))
	}
}

func fifo(path string) error  { return syscall.Mkfifo(path, 0o644) }
func link(path string) error  { return os.Symlink(path+".aside", path) }
func mkdir(path string) error { return os.Mkdir(path, 0o755) }
func nothing(string) error    { return nil }

// incomplete publishes a staged release without one of its files.
func incomplete(without string) func(*testing.T, *host) {
	return func(t *testing.T, h *host) {
		h.manifest.Next = &release.Release{Number: 2, Zones: h.zones(2)}
		h.sign()
		var files []release.File
		for _, f := range h.last {
			if !strings.HasSuffix(f.Name, without) {
				files = append(files, f)
			}
		}
		must(t, publish.Files(h.repo, files))
	}
}

func readFile(t testing.TB, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	must(t, err)
	return data
}

// TestBadZones damages the zone of the next release: it is refused by name of the rule, confirmed to nobody, and what is
// answered from goes on. Then the zone is put right, without a newer timestamp, and staged.
func TestBadZones(t *testing.T) {
	good := zoneText("example.org.", 2)
	for _, c := range []struct {
		name, rule string
		damage     func(path string, packed []byte) error
	}{
		{"missing", "missing", func(path string, _ []byte) error { return os.Remove(path) }},
		{"empty", "length", func(path string, _ []byte) error { return os.Truncate(path, 0) }},
		{"torn", "length", func(path string, p []byte) error { return os.Truncate(path, int64(len(p)/2)) }},
		{"longer", "length", func(path string, p []byte) error { return os.WriteFile(path, append(p, 0), 0o644) }},
		{"one bit", "digest", func(path string, p []byte) error { p[len(p)/2] ^= 1; return os.WriteFile(path, p, 0o644) }},
		{"a pipe", "unreadable", func(path string, _ []byte) error { os.Remove(path); return fifo(path) }},
		{"a link", "unreadable", func(path string, p []byte) error {
			return firstError(os.WriteFile(path+".aside", p, 0o644), os.Remove(path), link(path))
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			h, n := answeringNode(t)
			zones := []release.Zone{h.blob("example.org.", good)}
			path := h.blobPath(zones[0])
			packed := readFile(t, path)
			must(t, c.damage(path, append([]byte{}, packed...)))
			h.stage(2, zones)
			n.refused(2, c.rule)
			n.keeps(1, 50*time.Millisecond)
			must(t, os.RemoveAll(path))
			must(t, os.WriteFile(path, packed, 0o644))
			n.staged(2)
			n.sound()
		})
	}
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// refused waits until the node says that it could not take a release, by which rule, and that it confirms the one
// before.
func (n *node) refused(number uint64, rule string) {
	n.t.Helper()
	n.faulty(rule)
	n.waits("the release refused", func(s *status.Node) bool {
		return len(s.Refused) == 1 && s.Refused[0].Number == number && s.Refused[0].Reason.Code == rule && s.Confirms.Staged == 1
	})
}

// What is signed can still be wrong: another zone, another serial, no zone at all. A higher number heals it.
func TestReleasesThatNoNodeCanServe(t *testing.T) {
	zones := map[string]func(h *host) release.Zone{
		"another zone": func(h *host) release.Zone { return h.pack("example.org.", 2, []byte(zoneText("example.net.", 2))) },
		"another serial": func(h *host) release.Zone {
			return h.pack("example.org.", 99, []byte(zoneText("example.org.", 2)))
		},
		"another serial for a zone that is served": func(h *host) release.Zone {
			z := h.manifest.Current.Zones[0]
			z.Serial++
			return z
		},
		"no zone": func(h *host) release.Zone {
			return h.pack("example.org.", 2, []byte("example.org. 60 IN A 192.0.2.1\n"))
		},
		"not text": func(h *host) release.Zone { return h.pack("example.org.", 2, []byte("\x00\x01\x02")) },
		"an open quote": func(h *host) release.Zone {
			return h.pack("example.org.", 2, []byte(zoneText("example.org.", 2)+"x TXT \""))
		},
		"an include": func(h *host) release.Zone {
			return h.pack("example.org.", 2, []byte("$INCLUDE /etc/passwd\n"+zoneText("example.org.", 2)))
		},
	}
	for name, make := range zones {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h, n := answeringNode(t)
			h.stage(2, []release.Zone{make(h)})
			n.refused(2, "format")
			h.stage(3, h.zones(3))
			n.staged(3)
			n.sound()
			n.waits("nothing refused", func(s *status.Node) bool { return len(s.Refused) == 0 })
			n.keeps(1, 20*time.Millisecond)
		})
	}
}

func TestExpiredRepository(t *testing.T) {
	dir, h := nodeDir(t)
	h.lease = -time.Minute
	h.current(1, h.zones(1))
	n := startNode(t, newConfig(dir, h))
	n.staged(1) // it is ready for a newer lease
	n.silentFor(mesh.LeaseEnded)
	n.sound()
	h.renew(time.Hour)
	n.becomes(1)
}

func TestRepositoryThatIsNotThereAtStart(t *testing.T) {
	dir, h := nodeDir(t)
	h.current(1, h.zones(1))
	aside := h.repo.Path() + ".aside"
	must(t, os.Rename(h.repo.Path(), aside))
	n := startNode(t, newConfig(dir, h))
	n.faulty("missing")
	n.silentFor(mesh.NoView)
	must(t, os.Rename(aside, h.repo.Path()))
	n.becomes(1)
	n.sound()
}

// A mirror may replace the whole directory by renaming another into its place, or remove it and copy it anew.
func TestRepositoryReplaced(t *testing.T) {
	h, n := answeringNode(t)
	for number := uint64(2); number < 5; number++ {
		place := h.repo.Path()
		next := filepath.Join(filepath.Dir(place), "next")
		must(t, os.CopyFS(next, os.DirFS(place)))
		must(t, os.Rename(place, place+".old"))
		must(t, os.Rename(next, place))
		must(t, os.RemoveAll(place+".old"))
		h.reopen()
		h.current(number, h.zones(number))
		n.becomes(number)
	}
	n.sound()
}

// Many files in the repository change all the time: what is right is found, and what goes wrong is told with an end.
func TestFaultsAreShownUntilTheirPlaceIsRight(t *testing.T) {
	h, n := answeringNode(t)
	zones := h.zones(2)
	blob := h.blobPath(zones[0])
	must(t, os.Rename(blob, blob+".aside"))
	h.stage(2, zones)
	n.refused(2, "missing")
	good := readFile(t, h.path(release.TimestampName))
	overwrite("")(t, h)
	n.faulty("torn")
	must(t, os.Rename(blob+".aside", blob))
	n.staged(2)
	if f := n.status().Depot.LastFault; f == nil || f.Rule != "torn" {
		t.Errorf("a release staged hides that the repository is torn: %v", f)
	}
	must(t, os.WriteFile(h.path(release.TimestampName), good, 0o644))
	n.sound()
	h.renew(2 * time.Hour)
	n.waits("the newer lease", func(s *status.Node) bool { return s.LeaseExpires.Time().Equal(h.leaseEnd()) })
}

// Two releases that cannot be staged, current and next, are each tried again now and then, and not in a storm.
func TestNoStormOfTries(t *testing.T) {
	dir, h := nodeDir(t)
	one, two := h.zones(1), h.zones(2)
	must(t, os.Remove(h.blobPath(one[0])))
	must(t, os.Remove(h.blobPath(two[0])))
	h.current(1, one)
	h.stage(2, two)
	n := startNode(t, newConfig(dir, h))
	n.faulty("missing")
	n.triesAgain("missing", retry, 2)
	h.zones(1)
	h.zones(2)
	n.becomes(1)
	n.staged(2)
}

// TestADamagedTreeIsReadOnce, and then its damaged file alone, until that is right, or there is another timestamp.
func TestADamagedTreeIsReadOnce(t *testing.T) {
	dir, h := nodeDir(t)
	var origins []string
	for i := range 100 {
		origins = append(origins, fmt.Sprintf("z%d.example.", i))
	}
	h.current(1, h.zones(1, origins...))
	must(t, os.MkdirAll(dir, 0o755))
	s, known, err := openState(dir, h.root, h.repo.Path())
	must(t, err)
	defer s.close()
	w := &watcher{repository: h.repo.Path(), state: s, durable: known.mem, mem: known.mem, view: known.view}
	view, _, err := release.Verify(h.repo, known.mem)
	must(t, err)
	nodes := slices.Collect(view.Manifest.Nodes())
	early, late := nodes[1], nodes[len(nodes)-1]
	found := func(want string) {
		t.Helper()
		file := ""
		for _, f := range w.look() {
			if f.fault != nil {
				file = f.fault.File
			}
		}
		if file != want {
			t.Fatalf("what is wrong is %q, want %q", file, want)
		}
	}
	data := readFile(t, h.path(late))
	aside := h.path("aside")
	for range 2 {
		must(t, os.Truncate(h.path(late), 10))
		found(late)
		must(t, os.Rename(h.path(early), aside)) // which a look at all would find first
		found(late)
		must(t, os.WriteFile(h.path(late), data, 0o644))
		found(early)
		must(t, os.Truncate(h.path(late), 10))
		must(t, os.Rename(aside, h.path(early)))
		found(late)
		must(t, os.Rename(h.path(early), aside))
		h.renew(time.Hour)
		found(early)
		must(t, os.Rename(aside, h.path(early)))
		must(t, os.WriteFile(h.path(late), data, 0o644))
	}
	found("")
	if w.view == nil || w.view.Manifest.Current.Len() != len(origins) {
		t.Errorf("the view is %v", w.view)
	}
}
