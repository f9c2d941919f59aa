package home_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/home"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/hometest"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/keys"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/releasing"
	"github.com/coredns-anycast/coredns-anycast/internal/bucket"
	"github.com/coredns-anycast/coredns-anycast/internal/depot"
	"github.com/coredns-anycast/coredns-anycast/internal/instant"
	"github.com/coredns-anycast/coredns-anycast/internal/mesh"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
)

// follower is a node's depot.
type follower struct {
	t   *testing.T
	dir *depot.Dir
	mem release.Memory
}

func newFollower(t *testing.T, dir string) *follower {
	t.Helper()
	s, err := home.At(dir, time.Now).Read(t.Context())
	hometest.Check(t, err)
	defer s.Close()
	root, _, err := s.Repository().Read(release.RootName(1), release.MaxBytes(release.RootName(1)))
	hometest.Check(t, err)
	f := &follower{t: t}
	f.mem, err = release.NewMemory(root)
	hometest.Check(t, err)
	f.dir, err = depot.Create(t.TempDir())
	hometest.Check(t, err)
	t.Cleanup(func() { f.dir.Close() })
	return f
}

// follows mirrors what a dir has published.
func (f *follower) follows(dir string) error {
	f.t.Helper()
	s, err := home.At(dir, time.Now).Read(f.t.Context())
	hometest.Check(f.t, err)
	defer s.Close()
	server := httptest.NewServer(depot.Handler(s.Repository()))
	defer server.Close()
	var faults error
	_, f.mem, _, faults = hometest.Mirror(context.Background(), depot.Source{Client: server.Client(), URL: server.URL}, f.dir, f.mem)
	return faults
}

// TestAHomeFromABackupIsBroughtUp to what nodes have verified, from a copy of the newest depot, whose zones came by deltas:
// before, nodes refuse what it publishes; after, they take it, release numbers are not used again, and what may wait for
// leases does.
func TestAHomeFromABackupIsBroughtUp(t *testing.T) {
	for what, names := range map[string]int{"with its text": 2000, "without": 30_000} {
		t.Run(what, func(t *testing.T) { broughtUp(t, names) })
	}
}

func broughtUp(t *testing.T, names int) {
	now := hometest.Start
	clock := func() time.Time { return now }
	dir := hometest.New(t, clock, "tyo")
	backup := filepath.Join(t.TempDir(), "backup")
	release := func(dir string, serial uint32, now bool) *releasing.Made {
		t.Helper()
		h := hometest.Begin(t, dir, clock)
		defer h.Close()
		made, found, err := releasing.Make(t.Context(), h, []releasing.Source{hometest.ManyNames(t, serial, names)}, releasing.Options{Now: now})
		if err != nil {
			t.Fatal(err, found)
		}
		return made
	}
	release(dir, 1, true)
	ahead, behind := newFollower(t, dir), newFollower(t, dir)
	hometest.Check(t, ahead.follows(dir))
	hometest.Check(t, behind.follows(dir))
	hometest.Check(t, os.CopyFS(backup, os.DirFS(dir)))
	rotated := hometest.Begin(t, dir, clock)
	_, err := rotated.Renew(t.Context(), 0)
	hometest.Check(t, err)
	hometest.Check(t, rotated.Close())
	hometest.Check(t, behind.follows(dir))
	release(dir, 2, false)
	last := release(dir, 3, false)
	hometest.Check(t, ahead.follows(dir))

	// The disk is lost with all that is on it.
	h := hometest.Begin(t, backup, clock)
	_, err = h.Renew(t.Context(), 0)
	hometest.Check(t, err)
	hometest.Check(t, h.Close())
	if err := ahead.follows(backup); err == nil {
		t.Fatal("a node takes what is older than it has verified")
	}
	z := last.Release.Zones[0]
	if z.Whole() != (names == 2000) {
		t.Fatalf("%+v", z)
	}
	blobs := filepath.Join(backup, "repository", "blobs", "sha256") // not even these are left
	hometest.Check(t, os.RemoveAll(blobs))
	hometest.Check(t, os.Mkdir(blobs, 0o755))
	now = now.Add(time.Minute)
	r, err := home.At(backup, clock).Recover(t.Context(), []string{behind.dir.Path(), ahead.dir.Path()}, 0)
	hometest.Check(t, err)
	if text := r.Newer[0].Text; strings.HasPrefix(text, "recovered/") == z.Whole() {
		t.Errorf("the text is %s", text)
	} else if info, err := os.Stat(filepath.Join(backup, text)); !z.Whole() && (err != nil || info.Size() < z.Blob.Length/2) {
		t.Errorf("the text: %v", err)
	}
	if r.From != ahead.dir.Path() || r.Highest != last.Release.Number || !r.Promised.Equal(now.Add(time.Hour)) {
		t.Fatalf("%+v", r)
	}
	hometest.Check(t, ahead.follows(backup))
	hometest.Check(t, behind.follows(backup))
	if text := hometest.TextOf(t, backup, z); len(text) == 0 {
		t.Error("no text")
	}
	if made := release(backup, 4, false); made.Release.Number != last.Release.Number+1 {
		t.Fatalf("release %d", made.Release.Number)
	}
	hometest.Check(t, ahead.follows(backup))
	hometest.Check(t, behind.follows(backup))
	state, err := home.At(backup, clock).State(t.Context())
	hometest.Check(t, err)
	if end := lapsedBy(state); end.Before(r.Promised) {
		t.Errorf("E* is %v, before %v", end, r.Promised)
	}
	if again, err := home.At(backup, clock).Recover(t.Context(), []string{ahead.dir.Path()}, 48*time.Hour); err != nil || again.From != "" || !again.Promised.Equal(now.Add(48*time.Hour)) {
		t.Errorf("once more: %+v, %v", again, err)
	}
}

// TestAHomeThatHasPublishedSinceIsBroughtUp: "meshctl serve" has run on the restored home, so it has made releases of the same
// numbers, and signed as many leases. Nodes that know of the others, and one that knows of these, accept what comes after recovery.
func TestAHomeThatHasPublishedSinceIsBroughtUp(t *testing.T) {
	for _, more := range []int{0, 1, 5} { // leases that were signed there beyond those of before
		dir := hometest.New(t, hometest.At(hometest.Start), "tyo")
		backup := filepath.Join(t.TempDir(), "backup")
		hometest.MustRelease(t, dir, hometest.At(hometest.Start), 1, releasing.Options{Now: true})
		ahead, other := newFollower(t, dir), newFollower(t, dir)
		hometest.Check(t, os.CopyFS(backup, os.DirFS(dir)))
		hometest.MustRelease(t, dir, hometest.At(hometest.Start), 2, releasing.Options{})
		last := hometest.MustRelease(t, dir, hometest.At(hometest.Start), 3, releasing.Options{})
		hometest.Check(t, ahead.follows(dir))

		hometest.MustRelease(t, backup, hometest.At(hometest.Start), 7, releasing.Options{})
		for range more {
			h := hometest.Begin(t, backup, hometest.At(hometest.Start))
			_, err := h.Renew(t.Context(), 0)
			hometest.Check(t, errors.Join(err, h.Close()))
		}
		hometest.Check(t, other.follows(backup))
		if err := ahead.follows(backup); err == nil {
			t.Fatal("a node takes what contradicts what it has verified")
		}
		r, err := home.At(backup, hometest.At(hometest.Start)).Recover(t.Context(), []string{ahead.dir.Path()}, 0)
		if err != nil || r.From != ahead.dir.Path() || r.Highest != last.Release.Number {
			t.Fatalf("%d more: %+v, %v", more, r, err)
		}
		hometest.Check(t, ahead.follows(backup))
		if made := hometest.MustRelease(t, backup, hometest.At(hometest.Start), 8, releasing.Options{}); made.Release.Number != last.Release.Number+1 {
			t.Fatalf("release %d", made.Release.Number)
		}
		hometest.Check(t, ahead.follows(backup))
		hometest.Check(t, other.follows(backup))
	}
}

// TestAStateFromABackupIsBroughtUp by the repository itself, which is ahead of it and was not lost.
func TestAStateFromABackupIsBroughtUp(t *testing.T) {
	dir := hometest.New(t, hometest.At(hometest.Start), "tyo")
	hometest.MustRelease(t, dir, hometest.At(hometest.Start), 1, releasing.Options{Now: true})
	state := filepath.Join(dir, home.StateDir, home.StateName)
	old, err := os.ReadFile(state)
	hometest.Check(t, err)
	hometest.MustRelease(t, dir, hometest.At(hometest.Start), 2, releasing.Options{})
	hometest.Check(t, os.WriteFile(state, old, 0o600))
	if _, err := home.At(dir, hometest.At(hometest.Start)).Begin(t.Context()); err == nil || !strings.Contains(err.Error(), "restored from an older copy") {
		t.Fatalf("error %v", err)
	}
	r, err := home.At(dir, hometest.At(hometest.Start)).Recover(t.Context(), nil, 0)
	if err != nil || r.Highest != 2 || r.From != "" {
		t.Fatalf("%+v, %v", r, err)
	}
	if made := hometest.MustRelease(t, dir, hometest.At(hometest.Start), 3, releasing.Options{}); made.Release.Number != 3 {
		t.Errorf("release %d", made.Release.Number)
	}
}

// objects are all objects of a mesh in a bucket, by key.
func objects(t *testing.T, server *testenv.S3) map[string][]byte {
	t.Helper()
	dir, all := filepath.Join(server.Dir, "mesh"), map[string][]byte{}
	hometest.Check(t, filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		key, err := filepath.Rel(dir, path)
		if err == nil {
			all[key], err = os.ReadFile(path)
		}
		return err
	}))
	return all
}

// restores makes the bucket what it was, by the ordinary way of writing to it.
func restores(t *testing.T, server *testenv.S3, was map[string][]byte) {
	t.Helper()
	b, err := bucket.Open(t.Context(), server.URL("mesh"))
	hometest.Check(t, err)
	defer b.Close()
	hometest.Check(t, os.RemoveAll(filepath.Join(server.Dir, "mesh")))
	for key, data := range was {
		hometest.Check(t, b.Create(key, data))
	}
}

// TestABucketFromABackupIsBroughtUp, as a directory is: all of it was restored, and what is newer comes from the depot of a
// node; or the state alone, and it comes from the bucket. Both hosts go on.
func TestABucketFromABackupIsBroughtUp(t *testing.T) {
	for _, c := range []struct {
		name   string
		keep   func(key string) bool // of what the bucket has at last
		copied bool                  // the node's depot is needed
	}{
		{"the bucket", func(string) bool { return false }, true},
		{"the state alone", func(key string) bool { return !strings.HasPrefix(key, home.StateDir+"/") }, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			now := hometest.Start
			clock := func() time.Time { return now }
			server, homes := hometest.TwoHomes(t, clock)
			hometest.MustRelease(t, homes[0], clock, 1, releasing.Options{Now: true})
			node := newFollower(t, homes[0])
			hometest.Check(t, node.follows(homes[0]))
			backup := objects(t, server)
			last := hometest.MustRelease(t, homes[1], clock, 2, releasing.Options{})
			hometest.Check(t, node.follows(homes[1]))
			for key, data := range objects(t, server) {
				if c.keep(key) {
					backup[key] = data
				}
			}
			restores(t, server, backup)

			now = now.Add(time.Minute)
			var copies []string
			if c.copied {
				copies = []string{node.dir.Path()}
			}
			r, err := home.At(homes[0], clock).Recover(t.Context(), copies, 0)
			hometest.Check(t, err)
			if r.Highest != last.Release.Number || !r.Promised.Equal(now.Add(time.Hour)) {
				t.Fatalf("%+v", r)
			}
			hometest.Check(t, newFollower(t, homes[1]).follows(homes[1])) // all that is named is there
			for serial, dir := range homes {
				hometest.Check(t, node.follows(dir))
				if made := hometest.MustRelease(t, dir, clock, uint32(serial+3), releasing.Options{}); made.Release.Number != last.Release.Number+1+uint64(serial) {
					t.Errorf("release %d after %d", made.Release.Number, last.Release.Number)
				}
				hometest.Check(t, node.follows(dir))
			}
			state, err := home.At(homes[1], clock).State(t.Context())
			hometest.Check(t, err)
			if end := lapsedBy(state); end.Before(r.Promised) {
				t.Errorf("E* is %v, before %v", end, r.Promised)
			}
		})
	}
}

// TestNothingIsRecoveredFromAnotherMesh, from a copy that is damaged, or from what is not there; nothing changes then.
func TestNothingIsRecoveredFromAnotherMesh(t *testing.T) {
	dir, other := hometest.New(t, hometest.At(hometest.Start)), hometest.New(t, hometest.At(hometest.Start))
	for serial := range uint32(3) {
		hometest.MustRelease(t, other, hometest.At(hometest.Start), serial+1, releasing.Options{})
	}
	before, err := os.ReadFile(filepath.Join(dir, home.StateDir, home.StateName))
	hometest.Check(t, err)
	for _, copied := range []string{filepath.Join(other, home.RepoDir), t.TempDir(), "/nonexistent"} {
		if r, err := home.At(dir, hometest.At(hometest.Start)).Recover(t.Context(), []string{copied}, 0); err == nil {
			t.Errorf("%s: %+v", copied, r)
		}
	}
	after, err := os.ReadFile(filepath.Join(dir, home.StateDir, home.StateName))
	if hometest.Check(t, err); string(after) != string(before) {
		t.Error("the state has changed")
	}
}

// lapsedBy is when the last lease ends that may be alive.
func lapsedBy(s home.State) time.Time {
	return mesh.State{Ledger: s.Ledger}.LapsedBy(status.Ref{}).Time()
}

// TestACopyOfTheFormatBeforeHasNotGoneApart: a member's copy is of the minutes before the mesh went on to trees. It has the same releases, and what
// was published since stays.
func TestACopyOfTheFormatBeforeHasNotGoneApart(t *testing.T) {
	clock := hometest.At(hometest.Start)
	dir := hometest.New(t, clock, "tyo")
	hometest.InFormat(t, dir, clock, release.ProposalFormat)
	hometest.ManyZones(t, dir, clock)
	hometest.MustRelease(t, dir, clock, 2, releasing.Options{Keep: true})
	member := newFollower(t, dir)
	hometest.Check(t, member.follows(dir))
	w := hometest.Begin(t, dir, clock)
	m := w.View().Manifest
	if m.Format != release.ProposalFormat || m.Next == nil {
		t.Fatalf("format %d, next %v", m.Format, m.Next)
	}
	m.Format = release.ManifestFormat
	hometest.Check(t, errors.Join(w.Publish(t.Context(), m, home.Event{Event: "changed"}), w.Close()))
	before, err := home.At(dir, clock).View(t.Context())
	hometest.Check(t, err)
	r, err := home.At(dir, clock).Recover(t.Context(), []string{member.dir.Path()}, 0)
	hometest.Check(t, err)
	after, err := home.At(dir, clock).View(t.Context())
	hometest.Check(t, err)
	if r.From != "" || after.Digest != before.Digest || after.Versions != before.Versions {
		t.Errorf("%+v: %+v, it was %+v", r, after.Versions, before.Versions)
	}
	hometest.Check(t, member.follows(dir))
}

// TestALeaseNeedsNoZones: files that name zones are damaged one after the other, and a process that has just started renews the lease, and refuses all
// else by the file's name. With the file of a member's copy all goes on.
func TestALeaseNeedsNoZones(t *testing.T) {
	clock := hometest.At(hometest.Start)
	dir := hometest.New(t, clock, "tyo")
	hometest.ManyZones(t, dir, clock)
	member := newFollower(t, dir)
	hometest.Check(t, member.follows(dir))
	view, err := home.At(dir, clock).View(t.Context())
	hometest.Check(t, err)
	for _, name := range slices.Sorted(view.Manifest.Nodes()) {
		file := filepath.Join(dir, home.RepoDir, name)
		data, err := os.ReadFile(file)
		hometest.Check(t, err)
		for _, damage := range []func() error{
			func() error { return os.Remove(file) },
			func() error { return os.WriteFile(file, data[1:], 0o600) },
		} {
			hometest.Check(t, damage())
			later := hometest.At(hometest.Start.Add(time.Minute))
			h := home.At(dir, later)
			if _, err := h.Begin(t.Context()); !release.OfZones(err) || !strings.Contains(err.Error(), name) {
				t.Fatalf("%s: %v", name, err)
			}
			var until time.Time
			hometest.Check(t, h.WriteLease(t.Context(), func(w *home.Writer) (err error) {
				if until, err = w.Renew(t.Context(), 0); err != nil {
					return err
				}
				m := w.View().Manifest
				m.EpsilonMS++
				if err := w.Publish(t.Context(), m, home.Event{Event: "changed"}); !release.OfZones(err) || !strings.Contains(err.Error(), name) {
					t.Errorf("%s: published: %v", name, err)
				}
				if _, err := w.RotateKey(t.Context(), keys.Lease, 0, false, rand.Reader); !release.OfZones(err) {
					t.Errorf("%s: the key was replaced: %v", name, err)
				}
				return nil
			}))
			if want := hometest.Start.Add(time.Minute + time.Hour); !until.Equal(want) {
				t.Errorf("%s: a lease until %v, want %v", name, until, want)
			}
		}
		hometest.Check(t, os.Remove(file))
		if _, err := home.At(dir, clock).Recover(t.Context(), []string{member.dir.Path()}, 0); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		hometest.Check(t, hometest.Begin(t, dir, clock).Close())
	}
	hometest.Check(t, member.follows(dir))
}

// signOne stages a release in which the zone in the middle has signatures that end then.
func signOne(t *testing.T, dir string, clock home.Clock, ends time.Time) {
	t.Helper()
	w := hometest.Begin(t, dir, clock)
	defer w.Close()
	zones := w.View().Manifest.Current.List()
	zones[len(zones)/2].SignedUntil = ends
	next, err := w.Host().Stage(w.Instant(), 2, instant.WallOf(ends), false)
	hometest.Check(t, err)
	hometest.Check(t, w.Carry(t.Context(), next, time.Time{}, func(m *release.Manifest) { m.Next = &release.Release{Number: 2, Zones: zones} },
		home.Event{Event: "released", Number: 2}))
}

// TestALeaseEndsWithSignaturesThatADamagedFileNames, though a process that has just started cannot know of them: the state says when.
func TestALeaseEndsWithSignaturesThatADamagedFileNames(t *testing.T) {
	clock := hometest.At(hometest.Start)
	dir := hometest.New(t, clock, "tyo")
	hometest.ManyZones(t, dir, clock)
	ends := hometest.Start.Add(20 * time.Minute)
	signOne(t, dir, clock, ends)
	view, err := home.At(dir, clock).View(t.Context())
	hometest.Check(t, err)
	now := hometest.Start
	for name := range view.Manifest.Nodes() {
		file := filepath.Join(dir, home.RepoDir, name)
		data, err := os.ReadFile(file)
		hometest.Check(t, err)
		hometest.Check(t, os.WriteFile(file, data[1:], 0o600))
		for range 2 { // what is published while it is damaged says it too
			now = now.Add(time.Second)
			h := home.At(dir, hometest.At(now))
			hometest.Check(t, h.WriteLease(t.Context(), func(w *home.Writer) error {
				_, err := w.Renew(t.Context(), 0)
				return err
			}))
			v, err := h.View(t.Context())
			if !v.LeaseExpires.Equal(ends) || !release.OfZones(err) {
				t.Errorf("%s: a lease until %v, signatures end at %v: %v", name, v.LeaseExpires, ends, err)
			}
			if _, first := home.SignedUntil(v.Manifest); !first.Equal(ends) {
				t.Errorf("%s: signatures end at %v", name, first)
			}
		}
		hometest.Check(t, os.WriteFile(file, data, 0o600))
	}
}

// counts counts how many files are opened.
type counts struct {
	fs.FS
	opened int
}

func (c *counts) Open(name string) (fs.File, error) {
	c.opened++
	return c.FS.Open(name)
}

// TestADamagedTreeIsReadOnce, and then its damaged file alone, until that is there again or something else is published.
func TestADamagedTreeIsReadOnce(t *testing.T) {
	clock := hometest.At(hometest.Start)
	dir := hometest.New(t, clock, "tyo")
	hometest.ManyZones(t, dir, clock)
	view, err := home.At(dir, clock).View(t.Context())
	hometest.Check(t, err)
	nodes := slices.Collect(view.Manifest.Nodes())
	damaged := nodes[len(nodes)/2]
	file := filepath.Join(dir, home.RepoDir, damaged)
	data, err := os.ReadFile(file)
	hometest.Check(t, err)
	hometest.Check(t, os.WriteFile(file, data[1:], 0o600))
	h, c := home.At(dir, clock), &counts{}
	read := func() (opened int, err error) {
		err = h.PublishedBy(t.Context(), func(repo fs.FS) fs.FS { c.FS, c.opened = repo, 0; return c })
		return c.opened, err
	}
	if n, err := read(); n < len(nodes) || !release.OfZones(err) {
		t.Fatalf("%d files of %d were read: %v", n, len(nodes), err)
	}
	for range 3 {
		if n, err := read(); n != 1 || !release.OfZones(err) || !strings.Contains(err.Error(), damaged) {
			t.Errorf("%d files were read again: %v", n, err)
		}
	}
	hometest.Check(t, home.At(dir, hometest.At(hometest.Start.Add(time.Minute))).WriteLease(t.Context(), func(w *home.Writer) error {
		_, err := w.Renew(t.Context(), 0)
		return err
	}))
	before := view.LeaseExpires
	if _, now, err := h.Published(t.Context()); !release.OfZones(err) || !now.LeaseExpires.After(before) {
		t.Errorf("a lease that another process gave is not seen: %v, %v", now.LeaseExpires, err)
	}
	hometest.Check(t, os.WriteFile(file, data, 0o600))
	if _, err := read(); err != nil {
		t.Error(err)
	}
}

// TestFilesOfZonesAreTakenFromACopy: a text, a pack and a base that are lost or damaged in the repository come back from a member's depot, which is no newer. What
// no copy has is said.
func TestFilesOfZonesAreTakenFromACopy(t *testing.T) {
	clock := hometest.At(hometest.Start)
	dir := hometest.New(t, clock, "tyo")
	member := newFollower(t, dir)
	publish := func(serial uint32) {
		t.Helper()
		w := hometest.Begin(t, dir, clock)
		defer w.Close()
		sources := []releasing.Source{hometest.ManyNames(t, serial, 9_000), hometest.NamesZone(t, "example.com.", int(serial), 10)}
		_, found, err := releasing.Make(t.Context(), w, sources, releasing.Options{Now: serial == 1})
		if err != nil {
			t.Fatal(err, found)
		}
	}
	for serial := range uint32(2) {
		publish(serial + 1)
		hometest.Check(t, member.follows(dir))
	}
	node := hometest.NewNode(t, dir)
	view := node.Verify()
	based, whole := *view.Manifest.Next.Zone("example.org."), *view.Manifest.Next.Zone("example.com.")
	if based.Whole() || !whole.Whole() {
		t.Fatalf("%+v, %+v", based, whole)
	}
	for _, b := range []release.Blob{based.Blob, based.Packs[0].Blob, whole.Blob} {
		file := filepath.Join(dir, home.RepoDir, release.BlobName(b.SHA256))
		for _, damage := range []func() error{
			func() error { return os.Remove(file) },
			func() error { return os.Truncate(file, b.Length/2) },
			func() error { return os.WriteFile(file, make([]byte, b.Length), 0o600) },
		} {
			hometest.Check(t, damage())
			r, err := home.At(dir, clock).Recover(t.Context(), []string{member.dir.Path()}, 0)
			if err != nil || len(r.Lost) > 0 {
				t.Fatalf("%+v, %v", r, err)
			}
			node.Verify()
		}
	}
	for _, repository := range []string{filepath.Join(dir, home.RepoDir), member.dir.Path()} {
		hometest.Check(t, os.Remove(filepath.Join(repository, release.BlobName(whole.Blob.SHA256))))
	}
	r, err := home.At(dir, clock).Recover(t.Context(), []string{member.dir.Path()}, 0)
	if err != nil || !slices.Equal(r.Lost, []string{"example.com."}) {
		t.Errorf("%+v, %v", r, err)
	}
}

// TestWhatOneCopyLacksIsTakenFromAnother: the newest copy may be of a node to which a zone is still coming; and of two that are as new, either may lack it.
func TestWhatOneCopyLacksIsTakenFromAnother(t *testing.T) {
	clock := hometest.At(hometest.Start)
	dir := hometest.New(t, clock, "tyo")
	hometest.MustRelease(t, dir, clock, 1, releasing.Options{Now: true})
	backup := filepath.Join(t.TempDir(), "backup")
	hometest.Check(t, os.CopyFS(backup, os.DirFS(dir)))
	made := hometest.MustRelease(t, dir, clock, 2, releasing.Options{})
	lacks, has := newFollower(t, dir), newFollower(t, dir)
	hometest.Check(t, errors.Join(lacks.follows(dir), has.follows(dir)))
	hometest.Check(t, lacks.dir.Remove(release.BlobName(made.Release.Zones[0].Blob.SHA256)))
	r, err := home.At(backup, clock).Recover(t.Context(), []string{lacks.dir.Path(), has.dir.Path()}, 0)
	if err != nil || r.From != lacks.dir.Path() || len(r.Lost) > 0 {
		t.Fatalf("%+v, %v", r, err)
	}
	hometest.Check(t, newFollower(t, backup).follows(backup))
}

// TestAnOldStateBesideADamagedRepositoryIsBroughtUp: the state alone was restored, and files of the repository, which is ahead of it, are damaged. Copies have them,
// or what is lost is said.
func TestAnOldStateBesideADamagedRepositoryIsBroughtUp(t *testing.T) {
	clock := hometest.At(hometest.Start)
	dir := hometest.New(t, clock, "tyo")
	publish := func(serial uint32, o releasing.Options) {
		t.Helper()
		w := hometest.Begin(t, dir, clock)
		defer w.Close()
		sources := []releasing.Source{hometest.ManyNames(t, serial, 9_000)}
		for i := range 100 {
			sources = append(sources, hometest.NamesZone(t, fmt.Sprintf("z%d.example.", i), int(serial), 1))
		}
		if _, found, err := releasing.Make(t.Context(), w, sources, o); err != nil {
			t.Fatal(err, found)
		}
	}
	publish(1, releasing.Options{Now: true})
	state := filepath.Join(dir, home.StateDir, home.StateName)
	old, err := os.ReadFile(state)
	hometest.Check(t, err)
	publish(2, releasing.Options{})
	member := newFollower(t, dir)
	hometest.Check(t, member.follows(dir))
	view, err := home.At(dir, clock).View(t.Context())
	hometest.Check(t, err)
	based := view.Manifest.Next.Zone("example.org.")
	if based.Whole() || view.Manifest.Next.Len() != 101 {
		t.Fatalf("%+v", based)
	}
	pack := release.BlobName(based.Packs[0].Blob.SHA256)
	nodes := slices.Collect(view.Manifest.Nodes())
	for _, c := range []struct {
		name, damaged string
		lost          []string
		copied        bool
	}{
		{"a pack", pack, nil, true},
		{"a node of the tree", nodes[len(nodes)-1], nil, true},
		{"a pack that no copy has", pack, []string{"example.org."}, false},
	} {
		hometest.Check(t, os.WriteFile(state, old, 0o600))
		hometest.Check(t, os.WriteFile(filepath.Join(dir, home.RepoDir, c.damaged), []byte("damaged"), 0o600))
		if !c.copied {
			hometest.Check(t, member.dir.Remove(c.damaged))
		}
		r, err := home.At(dir, clock).Recover(t.Context(), []string{member.dir.Path()}, 0)
		if err != nil || r.Highest != 2 || !slices.Equal(r.Lost, c.lost) {
			t.Errorf("%s: %+v, %v", c.name, r, err)
		}
		if err := newFollower(t, dir).follows(dir); (err == nil) != c.copied {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// TestAnOldStateWhoseZonesAreGoneIsBroughtUp: the state alone was restored, of a release whose files that name zones were removed since, from the repository and from
// every member's depot. What is newer is known; without that, or if it is damaged everywhere, nothing is published.
func TestAnOldStateWhoseZonesAreGoneIsBroughtUp(t *testing.T) {
	clock := hometest.At(hometest.Start)
	dir := hometest.New(t, clock, "tyo")
	publish := func(serial int) {
		t.Helper()
		w := hometest.Begin(t, dir, clock)
		defer w.Close()
		var sources []releasing.Source
		for i := range 100 {
			sources = append(sources, hometest.NamesZone(t, fmt.Sprintf("z%d.example.", i), serial, 1))
		}
		if _, found, err := releasing.Make(t.Context(), w, sources, releasing.Options{}); err != nil {
			t.Fatal(err, found)
		}
	}
	publish(1)
	was, err := home.At(dir, clock).View(t.Context())
	hometest.Check(t, err)
	state := filepath.Join(dir, home.StateDir, home.StateName)
	old, err := os.ReadFile(state)
	hometest.Check(t, err)
	publish(2)
	is, err := home.At(dir, clock).View(t.Context())
	hometest.Check(t, err)
	needed := slices.Collect(is.Manifest.Nodes())
	for name := range was.Manifest.Nodes() {
		if !slices.Contains(needed, name) {
			hometest.Check(t, os.Remove(filepath.Join(dir, home.RepoDir, name)))
		}
	}
	one := filepath.Join(dir, home.RepoDir, needed[len(needed)-1])
	data, err := os.ReadFile(one)
	hometest.Check(t, err)
	hometest.Check(t, os.WriteFile(state, old, 0o600))
	for _, damage := range []func() error{func() error { return os.Remove(one) }, func() error { return os.WriteFile(one, data[1:], 0o600) }} {
		hometest.Check(t, damage())
		if r, err := home.At(dir, clock).Recover(t.Context(), nil, 0); !release.OfZones(err) {
			t.Errorf("%+v, %v", r, err)
		}
		if now, err := os.ReadFile(state); err != nil || string(now) != string(old) {
			t.Errorf("the state has changed: %v", err)
		}
	}
	hometest.Check(t, os.WriteFile(one, data, 0o600))
	if r, err := home.At(dir, clock).Recover(t.Context(), nil, 0); err != nil || r.Highest != 2 || r.Lease != is.Versions.Timestamp {
		t.Fatalf("%+v, %v", r, err)
	}
	hometest.Check(t, newFollower(t, dir).follows(dir))
	publish(3)
	hometest.Check(t, newFollower(t, dir).follows(dir))
}

// TestDamagedMetadataIsMended of what the state knows, if the repository has the same timestamp: no copy is needed for that.
func TestDamagedMetadataIsMended(t *testing.T) {
	clock := hometest.At(hometest.Start)
	dir := hometest.New(t, clock, "tyo")
	hometest.MustRelease(t, dir, clock, 1, releasing.Options{Now: true})
	view, err := home.At(dir, clock).View(t.Context())
	hometest.Check(t, err)
	v := view.Versions
	for _, name := range []string{release.ManifestName(view.Digest), fmt.Sprintf("metadata/%d.targets.json", v.Targets), fmt.Sprintf("metadata/%d.snapshot.json", v.Snapshot)} {
		file := filepath.Join(dir, home.RepoDir, name)
		for _, damage := range []func() error{
			func() error { return os.Remove(file) },
			func() error { return os.WriteFile(file, []byte("damaged"), 0o600) },
		} {
			hometest.Check(t, damage())
			if _, err := home.At(dir, clock).Recover(t.Context(), nil, 0); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			if err := newFollower(t, dir).follows(dir); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}
