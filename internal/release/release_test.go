package release

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

var testNow = time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)

// seeded is a source of "random" bytes that is the same in each run.
func seeded(seed uint64) io.Reader { return rand.NewChaCha8([32]byte{byte(seed)}) }

func testKeys(t testing.TB, seed uint64) Keys {
	t.Helper()
	keys, err := GenerateKeys(seeded(seed))
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

func testEnds(lease time.Duration) Expiries {
	year := testNow.AddDate(1, 0, 0)
	return Expiries{Root: testNow.AddDate(5, 0, 0), Targets: year, Snapshot: year, Timestamp: testNow.Add(lease)}
}

func testZone(origin string, serial uint32) Zone {
	text := fmt.Sprint(origin, serial)
	return Zone{Origin: origin, Serial: serial, SHA256: DigestOf([]byte(text)), Length: int64(len(text)),
		Blob: Blob{SHA256: DigestOf([]byte("z" + text)), Length: 7}}
}

// testProposed is a release to which a switchover is proposed.
func testProposed(number uint64, at time.Time) *Release {
	r := testRelease(number, at)
	r.Decide = at.Add(-time.Millisecond)
	return r
}

func testRelease(number uint64, at time.Time) *Release {
	return &Release{Number: number, Switchover: at,
		Zones: []Zone{testZone("example.net.", uint32(number)), testZone("example.org.", uint32(number))}}
}

func testManifest(current, next *Release) Manifest {
	return Manifest{Format: ManifestFormat, Mesh: "jp", EpsilonMS: DefaultEpsilonMS, Current: current, Next: next,
		Members: []Member{{Name: "fra", Admin: "https://198.51.100.7:8443", Keys: []Digest{{1}}}, {Name: "tyo", Admin: "https://[2001:db8::7]:8443"}}}
}

// world is a repository that is written by its keys and read by a node.
type world struct {
	t    testing.TB
	keys Keys
	repo fstest.MapFS
	host Memory // of the distribution host
	node Memory
}

// newWorld is a mesh whose release 1 is current and whose node has only its root.
func newWorld(t testing.TB) *world {
	w := &world{t: t, keys: testKeys(t, 1), repo: fstest.MapFS{}}
	files, mem, err := Init(testManifest(testRelease(1, testNow), nil), w.keys.Signers(), testEnds(24*time.Hour))
	w.put(files, mem, err)
	node, err := NewMemory(w.repo[RootName(1)].Data)
	if err != nil {
		t.Fatal(err)
	}
	w.node = node
	return w
}

func (w *world) put(files []File, mem Memory, err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
	for _, f := range files {
		w.repo[f.Name] = &fstest.MapFile{Data: f.Data}
	}
	w.host = mem
}

func (w *world) publish(m Manifest) {
	w.t.Helper()
	files, mem, err := Publish(w.host, m, w.keys.Signers(), testEnds(24*time.Hour))
	w.put(files, mem, err)
}

// verify is the node's look at the repository; what it remembers is kept as a node must, encoded and decoded. A node that
// knows what it has verified comes to the same.
func (w *world) verify() (View, error) {
	w.t.Helper()
	view, mem, err := Verify(w.repo, w.node)
	if _, warm, fault := Restore(w.node, nil); fault == nil {
		again, next, other := Verify(w.repo, warm)
		next.chain, mem.chain = nil, nil
		if fmt.Sprint(err) != fmt.Sprint(other) || !reflect.DeepEqual(view, again) || !reflect.DeepEqual(mem, next) {
			w.t.Fatalf("%v, %v, but with a memory that knows what it has verified %v, %v", view, err, again, other)
		}
	}
	data, encodeErr := mem.Encode()
	if encodeErr != nil {
		w.t.Fatal(encodeErr)
	}
	if w.node, encodeErr = ParseMemory(data); encodeErr != nil {
		w.t.Fatal(encodeErr)
	}
	return view, err
}

func (w *world) mustVerify() View {
	w.t.Helper()
	view, err := w.verify()
	if err != nil {
		w.t.Fatal(err)
	}
	return view
}

func (w *world) wantRule(rule Rule, file string) {
	w.t.Helper()
	before := w.node
	_, err := w.verify()
	var e *Error
	if !errors.As(err, &e) {
		w.t.Fatalf("want an *Error with rule %s, got %v", rule, err)
	}
	if e.Rule != rule || !strings.Contains(e.File, file) {
		w.t.Fatalf("want %s: %s, got %v", file, rule, err)
	}
	if before.Verified() && !bytes.Equal(before.Timestamp, w.node.Timestamp) {
		w.t.Fatal("a refused repository changed what the node remembers as verified")
	}
}

func (w *world) clone() fstest.MapFS {
	copied := fstest.MapFS{}
	for name, f := range w.repo {
		copied[name] = &fstest.MapFile{Data: bytes.Clone(f.Data)}
	}
	return copied
}

func (w *world) find(suffix string) string {
	w.t.Helper()
	found := ""
	for name := range w.repo {
		if strings.HasSuffix(name, suffix) && name > found {
			found = name
		}
	}
	if found == "" {
		w.t.Fatalf("no file %s", suffix)
	}
	return found
}

// resign replaces one file by what change makes of it, signed by the keys given, and makes all above it agree.
func resign[T metadata.Roles](w *world, name string, md *metadata.Metadata[T], by Signers) {
	w.t.Helper()
	key := by.Release
	if strings.HasSuffix(name, "timestamp.json") {
		key = by.Lease
	}
	md.ClearSignatures()
	data, err := sign(md, key)
	if err != nil {
		w.t.Fatal(err)
	}
	w.repo[name] = &fstest.MapFile{Data: data}
}

func (w *world) changeTimestamp(change func(*metadata.TimestampType)) {
	md, err := metadata.Timestamp().FromBytes(w.repo[TimestampName].Data)
	if err != nil {
		w.t.Fatal(err)
	}
	change(&md.Signed)
	resign(w, TimestampName, md, w.keys.Signers())
}

func (w *world) changeSnapshot(change func(*metadata.SnapshotType)) {
	name := w.find(".snapshot.json")
	md, err := metadata.Snapshot().FromBytes(w.repo[name].Data)
	if err != nil {
		w.t.Fatal(err)
	}
	change(&md.Signed)
	resign(w, name, md, w.keys.Signers())
	w.changeTimestamp(func(ts *metadata.TimestampType) {
		ts.Meta["snapshot.json"] = pin(md.Signed.Version, w.repo[name].Data)
	})
}

func (w *world) changeTargets(change func(*metadata.TargetsType)) {
	name := w.find(".targets.json")
	md, err := metadata.Targets().FromBytes(w.repo[name].Data)
	if err != nil {
		w.t.Fatal(err)
	}
	change(&md.Signed)
	resign(w, name, md, w.keys.Signers())
	w.changeSnapshot(func(s *metadata.SnapshotType) { s.Meta["targets.json"] = pin(md.Signed.Version, w.repo[name].Data) })
}

// putManifest signs manifest bytes whatever they are.
func (w *world) putManifest(data []byte) {
	w.repo[ManifestName(DigestOf(data))] = &fstest.MapFile{Data: data}
	w.changeTargets(func(s *metadata.TargetsType) {
		s.Targets[manifestTarget] = &metadata.TargetFiles{Length: int64(len(data)), Hashes: hashes(data)}
	})
}

func TestVerifyReadsWhatWasPublished(t *testing.T) {
	w := newWorld(t)
	view := w.mustVerify()
	if view.Manifest.Current.Number != 1 || view.Manifest.Next != nil {
		t.Fatalf("got %v", view)
	}
	w.publish(testManifest(testRelease(1, testNow), testRelease(2, time.Time{})))
	view = w.mustVerify()
	if view.Manifest.Next.Number != 2 || view.Versions != (Versions{Root: 1, Targets: 2, Snapshot: 2, Timestamp: 2}) {
		t.Fatalf("got %v %+v", view, view.Versions)
	}
	if want := testNow.Add(24 * time.Hour); !view.LeaseExpires.Equal(want) || !view.Expires.Timestamp.Equal(want) {
		t.Fatalf("lease until %v, want %v", view.LeaseExpires, want)
	}
}

func TestTheLeaseEndsWithTheFirstRoleThatEnds(t *testing.T) {
	ends := testEnds(24 * time.Hour)
	for _, role := range []*time.Time{&ends.Root, &ends.Targets, &ends.Snapshot, &ends.Timestamp} {
		kept := *role
		*role = testNow.Add(time.Hour)
		if got := ends.Earliest(); !got.Equal(*role) {
			t.Errorf("earliest %v, want %v", got, *role)
		}
		*role = kept
	}
}

func TestExpiryIsHandedOutAndNotJudged(t *testing.T) {
	w := newWorld(t)
	files, mem, err := Renew(w.host, w.keys.Lease, testNow.AddDate(-20, 0, 0))
	w.put(files, mem, err)
	if view := w.mustVerify(); view.LeaseExpires.Year() != 2006 {
		t.Fatalf("lease until %v", view.LeaseExpires)
	}
}

func TestRenewNeedsTheLeaseKeyOnly(t *testing.T) {
	w := newWorld(t)
	files, mem, err := Renew(w.host, w.keys.Lease, testNow.Add(48*time.Hour))
	if len(files) != 1 || files[0].Name != TimestampName || !files[0].Replaces() {
		t.Fatalf("renewing writes %v", files)
	}
	w.put(files, mem, err)
	if view := w.mustVerify(); !view.LeaseExpires.Equal(testNow.Add(48 * time.Hour)) {
		t.Fatalf("lease until %v", view.LeaseExpires)
	}
}

func TestTheLeaseKeyCannotAuthoriseContent(t *testing.T) {
	w := newWorld(t)
	stolen := Signers{Release: w.keys.Lease, Lease: w.keys.Lease}
	_, _, err := Publish(w.host, testManifest(testRelease(9, testNow), nil), stolen, testEnds(time.Hour))
	if rule, _ := RuleOf(err); rule != Signature {
		t.Fatalf("want %s, got %v", Signature, err)
	}
}

func TestPublishOrderIsManifestFirstTimestampLast(t *testing.T) {
	files, _, err := Init(testManifest(nil, nil), testKeys(t, 1).Signers(), testEnds(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	var kinds []string
	for _, f := range files {
		kinds = append(kinds, kindOf(f.Name))
	}
	if got := strings.Join(kinds, " "); got != "root.json mesh.json targets.json snapshot.json timestamp.json" {
		t.Fatalf("order %s", got)
	}
}

// TestEveryRuleIsEnforced damages a good repository in one way at a time. damage runs after the node has verified
// release 1 with 2 staged, versions 2.
func TestEveryRuleIsEnforced(t *testing.T) {
	other := testKeys(t, 2)
	cut := func(suffix string, n int) func(*world) {
		return func(w *world) { f := w.repo[w.find(suffix)]; f.Data = f.Data[:len(f.Data)-n] }
	}
	tests := []struct {
		name   string
		rule   Rule
		file   string
		damage func(*world)
	}{
		{"timestamp gone", Missing, "timestamp.json", func(w *world) { delete(w.repo, TimestampName) }},
		{"snapshot gone", Missing, ".snapshot.json", func(w *world) { delete(w.repo, w.find(".snapshot.json")) }},
		{"targets gone", Missing, ".targets.json", func(w *world) { delete(w.repo, w.find(".targets.json")) }},
		{"manifest gone", Missing, "mesh.json", func(w *world) {
			maps.DeleteFunc(w.repo, func(name string, _ *fstest.MapFile) bool { return kindOf(name) == manifestTarget })
		}},
		{"timestamp empty", Torn, "timestamp.json", func(w *world) { w.repo[TimestampName].Data = nil }},
		{"timestamp truncated", Torn, "timestamp.json", cut("timestamp.json", 40)},
		{"timestamp not JSON", Torn, "timestamp.json", func(w *world) { w.repo[TimestampName].Data = []byte("<html>") }},
		{"timestamp null", Format, "timestamp.json", func(w *world) { w.repo[TimestampName].Data = []byte("null") }},
		{"timestamp followed by more", Torn, "timestamp.json", func(w *world) { w.repo[TimestampName].Data = append(w.repo[TimestampName].Data, "{}"...) }},
		{"timestamp oversize", Oversize, "timestamp.json", func(w *world) { w.repo[TimestampName].Data = bytes.Repeat([]byte(" "), maxTimestampBytes+1) }},
		{"snapshot truncated", Length, ".snapshot.json", cut(".snapshot.json", 1)},
		{"snapshot changed", Mismatch, ".snapshot.json", func(w *world) { w.repo[w.find(".snapshot.json")].Data[20] ^= 1 }},
		{"targets truncated", Length, ".targets.json", cut(".targets.json", 1)},
		{"targets changed", Mismatch, ".targets.json", func(w *world) { w.repo[w.find(".targets.json")].Data[20] ^= 1 }},
		{"manifest truncated", Length, "mesh.json", func(w *world) { f := w.manifest(); f.Data = f.Data[:len(f.Data)-1] }},
		{"manifest empty", Length, "mesh.json", func(w *world) { w.manifest().Data = nil }},
		{"manifest changed", Mismatch, "mesh.json", func(w *world) { w.manifest().Data[20] ^= 1 }},
		{"timestamp by a stranger", Signature, "timestamp.json", func(w *world) { w.keys.Lease = other.Lease; w.renew(testNow.Add(48 * time.Hour)) }},
		{"timestamp by the release key", Signature, "timestamp.json", func(w *world) { w.keys.Lease = w.keys.Release; w.renew(testNow.Add(48 * time.Hour)) }},
		{"content by the lease key", Signature, ".snapshot.json", func(w *world) {
			w.keys.Release = w.keys.Lease
			w.changeTargets(func(s *metadata.TargetsType) { s.Version++ })
		}},
		{"unsigned", Signature, "timestamp.json", func(w *world) {
			w.repo[TimestampName].Data = bytes.Replace(w.repo[TimestampName].Data, []byte(`"keyid":"`), []byte(`"keyid":"0`), 1)
		}},
		{"older timestamp put back", Rollback, "timestamp.json", func(w *world) { w.changeTimestamp(func(s *metadata.TimestampType) { s.Version = 1 }) }},
		{"older snapshot under a new timestamp", Rollback, ".snapshot.json", func(w *world) {
			w.changeTimestamp(func(s *metadata.TimestampType) {
				s.Version = 9
				s.Meta["snapshot.json"] = pin(1, w.repo[snapshotName(1)].Data)
			})
		}},
		{"same timestamp version, later expiry", Replay, "timestamp.json", func(w *world) {
			w.changeTimestamp(func(s *metadata.TimestampType) { s.Expires = s.Expires.Add(time.Hour) })
		}},
		{"same snapshot version, other content", Replay, ".snapshot.json", func(w *world) {
			w.changeSnapshot(func(s *metadata.SnapshotType) { s.Expires = s.Expires.Add(time.Hour) })
			w.changeTimestamp(func(s *metadata.TimestampType) { s.Version = 9 })
		}},
		{"lease without pins", Format, "timestamp.json", func(w *world) {
			w.changeTimestamp(func(s *metadata.TimestampType) { s.Version = 9; s.Meta["snapshot.json"].Hashes = nil })
		}},
		{"lease names null", Format, "timestamp.json", func(w *world) {
			w.changeTimestamp(func(s *metadata.TimestampType) { s.Version = 9; s.Meta["snapshot.json"] = nil })
		}},
		{"two targets", Format, ".targets.json", func(w *world) {
			w.changeTargets(func(s *metadata.TargetsType) { s.Targets["other"] = &metadata.TargetFiles{Hashes: hashes(nil)} })
		}},
		{"manifest announced too long", Oversize, "mesh.json", func(w *world) {
			w.changeTargets(func(s *metadata.TargetsType) { s.Targets[manifestTarget].Length = MaxManifestBytes + 1 })
		}},
		{"manifest not canonical", Format, "mesh.json", func(w *world) { w.putManifest(append(bytes.Clone(w.manifest().Data), '\n')) }},
		{"release number reused", NumberReused, "mesh.json", func(w *world) {
			m := testManifest(testRelease(1, testNow), testRelease(2, time.Time{}))
			m.Next.Zones[0].Serial++
			w.signManifest(m)
		}},
		{"current release goes back", Rollback, "mesh.json", func(w *world) {
			w.signManifest(testManifest(testRelease(2, testNow.Add(time.Hour)), nil))
			w.bump()
			w.mustVerify()
			w.signManifest(testManifest(testRelease(1, testNow), nil))
			w.bump()
		}},
		{"current release vanishes", Rollback, "mesh.json", func(w *world) { w.signManifest(testManifest(nil, testRelease(2, time.Time{}))) }},
		{"a number below one that was seen", Rollback, "mesh.json", func(w *world) {
			w.signManifest(testManifest(testRelease(1, testNow), testRelease(5, time.Time{})))
			w.bump()
			w.mustVerify()
			w.signManifest(testManifest(testRelease(1, testNow), testRelease(4, time.Time{})))
			w.bump()
		}},
		{"a number that none can follow", NumberTooFar, "mesh.json", func(w *world) {
			w.signManifest(testManifest(testRelease(1, testNow), testRelease(math.MaxUint64, time.Time{})))
		}},
		{"a current number too far away", NumberTooFar, "mesh.json", func(w *world) {
			w.signManifest(testManifest(testRelease(3+MaxStep, testNow), nil))
		}},
		{"manifest of another mesh", WrongMesh, "mesh.json", func(w *world) {
			m := testManifest(testRelease(1, testNow), nil)
			m.Mesh = "uk"
			w.signManifest(m)
		}},
		{"root by a stranger", Signature, "2.root.json", func(w *world) { w.rotate(other, other.Root) }},
		{"root of a wrong version", Rollback, "2.root.json", func(w *world) { w.repo[RootName(2)] = w.repo[RootName(1)] }},
		{"root torn", Torn, "2.root.json", func(w *world) { w.repo[RootName(2)] = &fstest.MapFile{Data: []byte("{")} }},
		{"root oversize", Oversize, "2.root.json", func(w *world) {
			w.repo[RootName(2)] = &fstest.MapFile{Data: bytes.Repeat([]byte(" "), maxRootBytes+1)}
		}},
		{"root without roles", Format, "2.root.json", func(w *world) {
			w.repo[RootName(2)] = &fstest.MapFile{Data: []byte(`{"signed":{"_type":"root","version":2,"consistent_snapshot":true},"signatures":[]}`)}
		}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t)
			w.publish(testManifest(testRelease(1, testNow), testRelease(2, time.Time{})))
			w.mustVerify()
			test.damage(w)
			w.wantRule(test.rule, test.file)
			if view, _, err := Restore(w.node, nil); err != nil || view.Manifest.Current == nil {
				t.Fatalf("the node lost what it had verified: %v", err)
			}
		})
	}
}

func TestGoingBackIsToldFromPassingOver(t *testing.T) {
	w := newWorld(t)
	w.publish(testManifest(testRelease(3, testNow), nil))
	w.mustVerify()
	w.signManifest(testManifest(testRelease(2, testNow), nil))
	if _, err := w.verify(); err == nil || !strings.Contains(err.Error(), "current release 2, after number 3 was current") {
		t.Fatalf("got %v", err)
	}
}

func (w *world) manifest() *fstest.MapFile {
	w.t.Helper()
	return w.repo[ManifestName(DigestOf(w.host.Manifest))]
}

func (w *world) renew(until time.Time) {
	w.t.Helper()
	f, err := makeTimestamp(9, 2, w.host.Snapshot, w.keys.Lease, until)
	if err != nil {
		w.t.Fatal(err)
	}
	w.repo[f.Name] = &fstest.MapFile{Data: f.Data}
}

// signManifest publishes what Publish would refuse: the next version of each role over m.
func (w *world) signManifest(m Manifest) {
	w.t.Helper()
	data, err := m.Encode()
	if err != nil {
		w.t.Fatal(err)
	}
	w.putManifest(data)
	w.bump()
}

// bump gives each role a version above what the node has seen.
func (w *world) bump() {
	w.t.Helper()
	v, _, err := Restore(w.node, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	next := v.Versions.Targets + 1
	md, _ := metadata.Targets().FromBytes(w.repo[w.find(".targets.json")].Data)
	md.Signed.Version = next
	resign(w, targetsName(next), md, w.keys.Signers())
	snapshot, _ := makeSnapshot(next, next, w.repo[targetsName(next)].Data, w.keys.Release, testNow.AddDate(1, 0, 0))
	timestamp, _ := makeTimestamp(next, next, snapshot.Data, w.keys.Lease, testNow.Add(time.Hour))
	w.repo[snapshot.Name] = &fstest.MapFile{Data: snapshot.Data}
	w.repo[timestamp.Name] = &fstest.MapFile{Data: timestamp.Data}
}

// rotate publishes version 2 of the root with the keys given, signed by the new root key and by also.
func (w *world) rotate(keys Keys, also ed25519.PrivateKey) {
	w.t.Helper()
	data, err := makeRoot(keys.Signers(), testNow.AddDate(5, 0, 0))
	if err != nil {
		w.t.Fatal(err)
	}
	md, err := metadata.Root().FromBytes(data)
	if err != nil {
		w.t.Fatal(err)
	}
	md.Signed.Version = 2
	md.ClearSignatures()
	signers := []ed25519.PrivateKey{keys.Root}
	if !also.Equal(keys.Root) {
		signers = append(signers, also)
	}
	for _, key := range signers {
		if _, err := md.Sign(&signer{Signer: key}); err != nil {
			w.t.Fatal(err)
		}
	}
	if data, err = md.ToBytes(false); err != nil {
		w.t.Fatal(err)
	}
	w.repo[RootName(2)] = &fstest.MapFile{Data: data}
}

func TestNewKeysAreFollowedAndOldOnesForgotten(t *testing.T) {
	w := newWorld(t)
	w.mustVerify()
	old := w.clone()
	w.rotate(testKeys(t, 3), w.keys.Root)
	w.wantRule(Signature, "timestamp.json") // nothing is signed by the new keys yet
	if root, _ := parseRoot("", w.node.Root); root.version() != 2 {
		t.Fatal("the newer root was not kept")
	}
	w.repo = old
	w.wantRule(Signature, "timestamp.json") // taking the new root away does not bring the old keys back
}

func TestReleaseNumbersOutliveAChangeOfKeys(t *testing.T) {
	w := newWorld(t)
	w.publish(testManifest(testRelease(5, testNow), nil))
	w.mustVerify()
	fresh := testKeys(t, 3)
	w.rotate(fresh, w.keys.Root)
	w.keys = fresh
	files, _, err := publish(Memory{Format: 1, Root: w.repo[RootName(2)].Data}, Versions{}, testManifest(testRelease(4, testNow), nil), fresh.Signers(), testEnds(time.Hour))
	w.put(files, Memory{}, err)
	w.wantRule(Rollback, "mesh.json")
}

// TestAStolenReleaseKeyIsUndone: a thief raises the numbers as far as nodes let him, again and again. A root with new keys, by which
// numbers begin above his, ends what he did: for who saw all of that, some of it, none of it, and for who is new.
func TestAStolenReleaseKeyIsUndone(t *testing.T) {
	w := newWorld(t)
	w.publish(testManifest(testRelease(5, testNow), nil))
	w.mustVerify()
	none, thief, honest := w.node, w.keys, w.clone()
	if none.near("", 5+MaxStep, 0) != nil || none.near("", 6+MaxStep, 0) == nil || none.near("", math.MaxUint64, 0) == nil {
		t.Error("the bound of a step is not where it should be")
	}
	if fresh := (Memory{}); fresh.near("", 9+MaxStep, 9) != nil || fresh.near("", 10+MaxStep, 9) == nil || none.near("", 9+MaxStep, 9) != nil {
		t.Error("the bound from where numbers begin is not where it should be")
	}
	// He has the highest versions that The Update Framework has, too.
	number, before := uint64(5), w.host
	steal := func() (seen Memory) {
		number += MaxStep
		stolen := testManifest(testRelease(number, testNow), nil)
		stolen.Current.Zones[0].Serial++
		version := int64(math.MaxInt64 - 9 + number/MaxStep)
		files, mem, err := publish(before, Versions{Root: 1, Targets: version, Snapshot: version, Timestamp: version}, stolen, thief.Signers(), testEnds(time.Hour))
		w.put(files, w.host, err)
		before = mem
		if v := w.mustVerify(); v.Manifest.Current.Number != number {
			t.Fatalf("%+v", v.Manifest.Current)
		}
		return w.node
	}
	some := steal()
	steal()
	all := steal()
	joiner := must(NewMemory(w.repo[RootName(1)].Data))(t)
	if _, _, err := Verify(w.repo, joiner); !isRule(err, NumberTooFar) {
		t.Fatalf("a node that is new takes release %d: %v", number, err)
	}

	// The root key's holder names new keys and where numbers begin, on a host that never saw the thief's.
	fresh := testKeys(t, 3)
	from := number + 1000*MaxStep
	root := w.change(func(n *Trust) { n.Release, n.Lease, n.NumbersFrom = public(fresh.Release), public(fresh.Lease), from }, thief.Root)
	w.keys.Release, w.keys.Lease = fresh.Release, fresh.Lease
	w.repo = honest
	files, mem, err := Rotate(w.host, root, w.keys.Signers(), testEnds(24*time.Hour))
	w.put(files, mem, err)
	take := func(step uint64) {
		t.Helper()
		for who, seen := range map[string]*Memory{"all": &all, "some": &some, "none": &none, "nothing": &joiner} {
			w.node = *seen
			if v := w.mustVerify(); v.Manifest.Current.Number != step || v.Manifest.Current.Zones[0].Serial != 5 {
				t.Errorf("who saw %s of it: %+v", who, v.Manifest.Current)
			}
			*seen = w.node
		}
	}
	take(from)
	next := testRelease(5, testNow)
	next.Number = from + 1
	w.publish(testManifest(next, nil))
	take(from + 1)

	// The thief's keys are worth nothing any more, under any number and version.
	next.Number = from + 2
	if _, _, err := publish(all, Versions{}, testManifest(next, nil), thief.Signers(), testEnds(time.Hour)); !isRule(err, Signature) {
		t.Errorf("the thief's keys still sign: %v", err)
	}
	w.repo[TimestampName] = &fstest.MapFile{Data: before.Timestamp}
	w.wantRule(Signature, "timestamp.json")
}

func isRule(err error, rule Rule) bool { got, _ := RuleOf(err); return got == rule }

// must is for two values of which one is an error.
func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func TestBlanksAroundWhatIsSignedAreNoReplay(t *testing.T) {
	w := newWorld(t)
	w.mustVerify()
	var pretty bytes.Buffer
	if err := json.Indent(&pretty, w.repo[TimestampName].Data, "", " "); err != nil {
		t.Fatal(err)
	}
	w.repo[TimestampName].Data = pretty.Bytes()
	w.mustVerify()
}

func TestRestoreNeedsNoRepository(t *testing.T) {
	w := newWorld(t)
	if _, _, err := Restore(w.node, nil); err == nil {
		t.Fatal("restored from a root alone")
	}
	want := w.mustVerify()
	got, _, err := Restore(w.node, nil)
	if err != nil || got.Manifest.Current.Number != want.Manifest.Current.Number || !got.LeaseExpires.Equal(want.LeaseExpires) {
		t.Fatalf("got %v, %v", got, err)
	}
	w.node.Manifest[30] ^= 1
	if rule, _ := RuleOf(third(Restore(w.node, nil))); rule != Mismatch {
		t.Fatalf("a changed memory was restored: %s", rule)
	}
}

func third(_ View, _ Memory, err error) error { return err }

func TestPublishRefusesWhatANodeWouldRefuse(t *testing.T) {
	w := newWorld(t)
	w.publish(testManifest(testRelease(3, testNow), nil))
	for rule, m := range map[Rule]Manifest{
		Rollback:     testManifest(testRelease(2, testNow), nil),
		NumberReused: testManifest(&Release{Number: 3, Switchover: testNow, Zones: []Zone{testZone("a.", 1)}}, nil),
	} {
		_, _, err := Publish(w.host, m, w.keys.Signers(), testEnds(time.Hour))
		if got, _ := RuleOf(err); got != rule {
			t.Errorf("want %s, got %v", rule, err)
		}
	}
}

func TestManyCancelledReleasesDoNotCrowdOutTheCurrentOne(t *testing.T) {
	w := newWorld(t)
	for number := uint64(2); number < 2+2*maxKnown; number++ {
		w.publish(testManifest(testRelease(1, testNow), testRelease(number, time.Time{})))
		w.mustVerify()
	}
	if len(w.node.Known) > maxKnown || w.node.Known[0].Number != 1 {
		t.Fatalf("%d known, the first is %d", len(w.node.Known), w.node.Known[0].Number)
	}
}

func TestAFileThatCannotBeReadIsNotMissing(t *testing.T) {
	w := newWorld(t)
	_, _, err := Verify(brokenFS{w.repo}, w.node)
	if rule, _ := RuleOf(err); rule != Unreadable {
		t.Fatalf("got %v", err)
	}
}

// brokenFS answers with an I/O error.
type brokenFS struct{ fs.FS }

func (brokenFS) Open(name string) (fs.File, error) {
	return nil, &fs.PathError{Op: "open", Path: name, Err: errors.New("input/output error")}
}

func TestParseMemoryRefuses(t *testing.T) {
	w := newWorld(t)
	w.mustVerify()
	good, _ := w.node.Encode()
	for name, data := range map[string][]byte{
		"nothing":       nil,
		"half":          good[:len(good)/2],
		"unknown field": bytes.Replace(good, []byte(`{`), []byte(`{"x":1,`), 1),
		"other format":  bytes.Replace(good, []byte(`"format":1`), []byte(`"format":2`), 1),
		"more after":    append(bytes.Clone(good), good...),
		"no root":       []byte(`{"format":1}`),
	} {
		if _, err := ParseMemory(data); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := ParseMemory(good); err != nil {
		t.Errorf("refused: %v", err)
	}
}

func TestErrorsSayWhatToDo(t *testing.T) {
	for _, rule := range []Rule{Missing, Unreadable, Torn, Oversize, Length, Mismatch, Signature, Rollback, Replay, Format, NumberReused, NumberTooFar, WrongMesh} {
		if text := refuse("f", rule, "d").Error(); advice[rule] == "" || !strings.Contains(text, advice[rule]) {
			t.Errorf("%s: %s", rule, text)
		}
	}
}

// TestAdviceNamesTheCommand that ends what an operator meets after a restored backup, and after the theft of a key.
func TestAdviceNamesTheCommand(t *testing.T) {
	for rule, command := range map[Rule]string{Rollback: "meshctl recover", NumberTooFar: "meshctl keys rotate release --numbers-from"} {
		if !strings.Contains(rule.Advice(), command) {
			t.Errorf("%s: %s", rule, rule.Advice())
		}
	}
}

func TestKeysSurviveEncoding(t *testing.T) {
	keys := testKeys(t, 1)
	data, err := EncodeKey(keys.Root)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := ParseKey(data); err != nil || !got.Equal(keys.Root) {
		t.Fatalf("got %v", err)
	}
	if _, err := ParseKey(append(data, data...)); err == nil {
		t.Error("two keys in one file accepted")
	}
	if again := testKeys(t, 1); !again.Root.Equal(keys.Root) || again.Root.Equal(again.Lease) {
		t.Error("keys are not what the random source makes them")
	}
}
