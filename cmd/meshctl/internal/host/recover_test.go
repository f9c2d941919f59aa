package host

import (
	"context"
	"io/fs"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/bucket"
	"github.com/coredns-anycast/coredns-anycast/internal/depot"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
)

// follower is a node's depot.
type follower struct {
	t   *testing.T
	dir *depot.Dir
	mem release.Memory
}

func newFollower(t *testing.T, home string) *follower {
	t.Helper()
	s, err := openStorage(home)
	check(t, err)
	defer s.close()
	root, _, err := s.repo.Read(release.RootName(1), release.MaxBytes(release.RootName(1)))
	check(t, err)
	f := &follower{t: t}
	f.mem, err = release.NewMemory(root)
	check(t, err)
	f.dir, err = depot.Create(t.TempDir())
	check(t, err)
	t.Cleanup(func() { f.dir.Close() })
	return f
}

// follows mirrors what a home has published.
func (f *follower) follows(home string) error {
	f.t.Helper()
	s, err := openStorage(home)
	check(f.t, err)
	defer s.close()
	server := httptest.NewServer(depot.Handler(s.repo))
	defer server.Close()
	var faults error
	_, f.mem, _, faults = depot.Mirror(context.Background(), depot.Source{Client: server.Client(), URL: server.URL}, f.dir, f.mem)
	return faults
}

// TestAHomeFromABackupIsBroughtUp to what nodes have verified, from a copy of the newest depot, whose zones came by deltas:
// before, nodes refuse what it publishes; after, they take it, release numbers are not used again, and what may wait for
// leases does.
func TestAHomeFromABackupIsBroughtUp(t *testing.T) {
	now := testNow
	clock := func() time.Time { return now }
	home := newHome(t, clock, "tyo")
	backup := filepath.Join(t.TempDir(), "backup")
	release := func(home string, serial uint32, now bool) *Made {
		t.Helper()
		h, err := Open(home, clock)
		check(t, err)
		defer h.Close()
		made, found, err := h.Release([]Source{manyNames(t, serial, 2000)}, ReleaseOptions{Now: now})
		if err != nil {
			t.Fatal(err, found)
		}
		return made
	}
	release(home, 1, true)
	ahead, behind := newFollower(t, home), newFollower(t, home)
	check(t, ahead.follows(home))
	check(t, behind.follows(home))
	check(t, os.CopyFS(backup, os.DirFS(home)))
	rotated, err := Open(home, clock)
	check(t, err)
	_, err = rotated.Lease(0)
	check(t, err)
	check(t, rotated.Close())
	check(t, behind.follows(home))
	release(home, 2, false)
	last := release(home, 3, false)
	check(t, ahead.follows(home))

	// The disk is lost with all that is on it.
	h, err := Open(backup, clock)
	check(t, err)
	_, err = h.Lease(0)
	check(t, err)
	check(t, h.Close())
	if err := ahead.follows(backup); err == nil {
		t.Fatal("a node takes what is older than it has verified")
	}
	now = now.Add(time.Minute)
	r, err := Recover(backup, clock, []string{behind.dir.Path(), ahead.dir.Path()}, 0)
	check(t, err)
	if r.From != ahead.dir.Path() || r.Highest != last.Release.Number || !r.Promised.Equal(now.Add(time.Hour)) {
		t.Fatalf("%+v", r)
	}
	check(t, ahead.follows(backup))
	check(t, behind.follows(backup))
	if text := textOf(t, backup, last.Release.Zones[0]); len(text) == 0 {
		t.Error("no text")
	}
	if made := release(backup, 4, false); made.Release.Number != last.Release.Number+1 {
		t.Fatalf("release %d", made.Release.Number)
	}
	check(t, ahead.follows(backup))
	check(t, behind.follows(backup))
	state, err := ReadState(backup)
	check(t, err)
	if end := state.LatestWithout(last.Release.Number+1, time.Time{}); end.Before(r.Promised) {
		t.Errorf("E* is %v, before %v", end, r.Promised)
	}
	if again, err := Recover(backup, clock, []string{ahead.dir.Path()}, 48*time.Hour); err != nil || again.From != "" || !again.Promised.Equal(now.Add(48*time.Hour)) {
		t.Errorf("once more: %+v, %v", again, err)
	}
}

// TestAStateFromABackupIsBroughtUp by the repository itself, which is ahead of it and was not lost.
func TestAStateFromABackupIsBroughtUp(t *testing.T) {
	home := newHome(t, at(testNow), "tyo")
	mustRelease(t, home, at(testNow), 1, ReleaseOptions{Now: true})
	state := filepath.Join(home, stateDir, stateName)
	old, err := os.ReadFile(state)
	check(t, err)
	mustRelease(t, home, at(testNow), 2, ReleaseOptions{})
	check(t, os.WriteFile(state, old, 0o600))
	if _, err := Open(home, at(testNow)); err == nil || !strings.Contains(err.Error(), "restored from an older copy") {
		t.Fatalf("error %v", err)
	}
	r, err := Recover(home, at(testNow), nil, 0)
	if err != nil || r.Highest != 2 || r.From != "" {
		t.Fatalf("%+v, %v", r, err)
	}
	if made := mustRelease(t, home, at(testNow), 3, ReleaseOptions{}); made.Release.Number != 3 {
		t.Errorf("release %d", made.Release.Number)
	}
}

// objects are all objects of a mesh in a bucket, by key.
func objects(t *testing.T, server *testenv.S3) map[string][]byte {
	t.Helper()
	dir, all := filepath.Join(server.Dir, "mesh"), map[string][]byte{}
	check(t, filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
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
	b, err := bucket.Open(server.URL("mesh"))
	check(t, err)
	defer b.Close()
	check(t, os.RemoveAll(filepath.Join(server.Dir, "mesh")))
	for key, data := range was {
		check(t, b.Create(key, data))
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
		{"the state alone", func(key string) bool { return !strings.HasPrefix(key, stateDir+"/") }, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			now := testNow
			clock := func() time.Time { return now }
			server, homes := twoHomes(t, clock)
			mustRelease(t, homes[0], clock, 1, ReleaseOptions{Now: true})
			node := newFollower(t, homes[0])
			check(t, node.follows(homes[0]))
			backup := objects(t, server)
			last := mustRelease(t, homes[1], clock, 2, ReleaseOptions{})
			check(t, node.follows(homes[1]))
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
			r, err := Recover(homes[0], clock, copies, 0)
			check(t, err)
			if r.Highest != last.Release.Number || !r.Promised.Equal(now.Add(time.Hour)) {
				t.Fatalf("%+v", r)
			}
			check(t, newFollower(t, homes[1]).follows(homes[1])) // all that is named is there
			for serial, home := range homes {
				check(t, node.follows(home))
				if made := mustRelease(t, home, clock, uint32(serial+3), ReleaseOptions{}); made.Release.Number != last.Release.Number+1+uint64(serial) {
					t.Errorf("release %d after %d", made.Release.Number, last.Release.Number)
				}
				check(t, node.follows(home))
			}
			state, err := ReadState(homes[1])
			check(t, err)
			if end := state.LatestWithout(100, time.Time{}); end.Before(r.Promised) {
				t.Errorf("E* is %v, before %v", end, r.Promised)
			}
		})
	}
}

// TestNothingIsRecoveredFromAnotherMesh, from a copy that is damaged, or from what is not there; nothing changes then.
func TestNothingIsRecoveredFromAnotherMesh(t *testing.T) {
	home, other := newHome(t, at(testNow)), newHome(t, at(testNow))
	for serial := range uint32(3) {
		mustRelease(t, other, at(testNow), serial+1, ReleaseOptions{})
	}
	before, err := os.ReadFile(filepath.Join(home, stateDir, stateName))
	check(t, err)
	for _, copied := range []string{filepath.Join(other, repoDir), t.TempDir(), "/nonexistent"} {
		if r, err := Recover(home, at(testNow), []string{copied}, 0); err == nil {
			t.Errorf("%s: %+v", copied, r)
		}
	}
	after, err := os.ReadFile(filepath.Join(home, stateDir, stateName))
	if check(t, err); string(after) != string(before) {
		t.Error("the state has changed")
	}
}
