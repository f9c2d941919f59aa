package release

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"
)

// manyZones are so many zones, sorted.
func manyZones(n int, serial uint32) []Zone {
	zones := make([]Zone, n)
	for i := range zones {
		zones[i] = testZone(fmt.Sprintf("z%06d.example.", i), serial)
	}
	return zones
}

func manyRelease(number uint64, at time.Time, zones []Zone) *Release {
	return &Release{Number: number, Switchover: at, Zones: zones}
}

// changed is a copy of zones in which one of so many is another.
func changed(zones []Zone, every int, serial uint32) []Zone {
	zones = slices.Clone(zones)
	for i := every / 2; i < len(zones); i += every {
		zones[i] = testZone(zones[i].Origin, serial)
	}
	return zones
}

// counting is a repository that counts what is read of it.
type counting struct {
	fstest.MapFS
	nodes, bytes int
	expected     int
}

func (c *counting) Open(name string) (fs.File, error) {
	if f := c.MapFS[name]; f != nil && IsNode(name) {
		c.nodes++
		c.bytes += len(f.Data)
	}
	return c.MapFS.Open(name)
}

func (c *counting) Expect(names []string) { c.expected += len(names) }

// TestATreeHangsOnItsZonesAlone: over random histories the tree that is made of the one before is the one that is made of nothing,
// what is read back are the zones, and only nodes that differ are made and read.
func TestATreeHangsOnItsZonesAlone(t *testing.T) {
	for seed := range uint64(10) {
		r := rand.New(rand.NewPCG(seed, 13))
		zones, repo := manyZones(65+r.IntN(3000), 1), fstest.MapFS{}
		var before, held *tree
		for step := range 12 {
			grown, files := growFiles(t, zones, listOf(before))
			for _, f := range files {
				repo[f.Name] = &fstest.MapFile{Data: f.Data}
			}
			anew, all := growFiles(t, slices.Clone(zones), nil)
			if anew.ref != grown.ref {
				t.Fatalf("seed %d, step %d: %v made of the tree before, %v of nothing", seed, step, grown.ref, anew.ref)
			}
			if step > 0 && len(files) > len(all)/2+4*(maxLevels+1) && len(all) > 200 {
				t.Errorf("seed %d, step %d: %d of %d files for a small change", seed, step, len(files), len(all))
			}
			from := &counting{MapFS: repo}
			read, err := (&tree{ref: grown.ref}).load(sourceOf(from), listOf(held))
			if err != nil || !reflect.DeepEqual((&Release{tree: read}).List(), zones) || from.nodes > len(all) || from.expected != from.nodes {
				t.Fatalf("seed %d, step %d: %d nodes read, %d expected: %v", seed, step, from.nodes, from.expected, err)
			}
			if held != nil && from.nodes > len(files) {
				t.Errorf("seed %d, step %d: %d nodes read, and %d are new", seed, step, from.nodes, len(files))
			}
			before, held = grown, read
			zones = mutate(r, zones, uint32(step)+2)
		}
	}
}

// growFiles is the tree of zones, and the files of it that older trees do not have.
func growFiles(t testing.TB, zones []Zone, older []*tree) (*tree, []File) {
	t.Helper()
	grown, err := grow(zones, older)
	if err != nil {
		t.Fatal(err)
	}
	files, err := Manifest{Current: &Release{tree: grown}}.fresh(older)
	if err != nil {
		t.Fatal(err)
	}
	return grown, files
}

// listOf is a list of a tree; empty for nil.
func listOf(t *tree) []*tree {
	if t == nil {
		return nil
	}
	return []*tree{t}
}

// mutate changes a few zones, adds a few, and withdraws a few.
func mutate(r *rand.Rand, zones []Zone, serial uint32) []Zone {
	zones = slices.Clone(zones)
	for range r.IntN(5) {
		i := r.IntN(len(zones))
		zones[i] = testZone(zones[i].Origin, serial)
	}
	for range r.IntN(5) {
		zones = append(zones, testZone(fmt.Sprintf("z%06d.x%d.example.", r.IntN(4000), r.IntN(1000)), serial))
	}
	slices.SortFunc(zones, func(a, b Zone) int { return strings.Compare(a.Origin, b.Origin) })
	zones = slices.CompactFunc(zones, func(a, b Zone) bool { return a.Origin == b.Origin })
	for range r.IntN(5) {
		if i := r.IntN(len(zones)); len(zones) > inlineZones+1 {
			zones = slices.Delete(zones, i, i+1)
		}
	}
	return zones
}

// TestWhereNodesBeginNeverChanges: a version that cuts otherwise would not read what this one wrote.
func TestWhereNodesBeginNeverChanges(t *testing.T) {
	ranks := ""
	for i := range 64 {
		ranks += fmt.Sprint(rank(fmt.Sprintf("z%d.example.", i)), " ")
	}
	grown, err := grow(manyZones(1000, 1), nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := DigestOf([]byte(ranks)).String()[:16] + " " + grown.ref.SHA256.String()[:16]; got != "61bdf6c12139aa3f fa0e38e7594357dc" {
		t.Errorf("now %s", got)
	}
}

// TestZonesAreComparedByAllOfTheirFields: a field that is left out would make a changed zone the one before.
func TestZonesAreComparedByAllOfTheirFields(t *testing.T) {
	whole := Zone{Origin: "a.", Serial: 1, SHA256: Digest{1}, Length: 1, Blob: Blob{Digest{1}, 1}, SignedUntil: testNow, Deltas: []Delta{{Digest{1}, Blob{Digest{1}, 1}}},
		Root: Digest{1}, BaseRoot: Digest{1}, Earlier: Blob{Digest{1}, 1}, Packs: []Pack{{Digest{1}, 1, Blob{Digest{1}, 1}}}}
	if !whole.equal(&whole) {
		t.Fatal("not equal to itself")
	}
	for i := range reflect.TypeFor[Zone]().NumField() {
		name := reflect.TypeFor[Zone]().Field(i).Name
		if reflect.ValueOf(whole).Field(i).IsZero() {
			t.Fatalf("%s: give it a value here", name)
		}
		other := whole
		reflect.ValueOf(&other).Elem().Field(i).SetZero()
		if whole.equal(&other) || other.equal(&whole) {
			t.Errorf("%s: two zones that differ in it are equal", name)
		}
	}
}

// TestManifestsOfAnySizeAreReadBack, in every format, from the list up to the tree; and equal ones have equal encodings, however they came.
func TestManifestsOfAnySizeAreReadBack(t *testing.T) {
	for format := OldFormat; format <= ManifestFormat; format++ {
		for _, n := range []int{0, 1, inlineZones, inlineZones + 1, 700, 5000} {
			zones := manyZones(n, 1)
			m := testManifest(manyRelease(7, testNow, zones), manyRelease(8, time.Time{}, changed(zones, 500, 2)))
			m.Format = format
			data, planted, err := m.encode(nil)
			if err != nil {
				t.Fatal(err)
			}
			files, err := planted.fresh(nil)
			if err != nil {
				t.Fatal(err)
			}
			repo := fstest.MapFS{}
			for _, f := range files {
				repo[f.Name] = &fstest.MapFile{Data: f.Data}
			}
			got, err := ParseManifest(data, repo)
			if err != nil {
				t.Fatalf("format %d, %d zones: %v", format, n, err)
			}
			again, err := got.Encode()
			if err != nil || !bytes.Equal(again, data) || !slices.EqualFunc(got.Current.List(), zones, func(a, b Zone) bool { return a.equal(&b) }) ||
				!slices.EqualFunc(got.Next.List(), m.Next.Zones, func(a, b Zone) bool { return a.equal(&b) }) {
				t.Errorf("format %d, %d zones: read as another manifest: %v", format, n, err)
			}
			if tall := format == ManifestFormat && n > inlineZones; tall != (len(files) > 0) || tall && len(data) > 2000 {
				t.Errorf("format %d, %d zones: %d files, and a manifest of %d octets", format, n, len(files), len(data))
			}
			if n := len(slices.Collect(got.Nodes())); len(files) > 0 && n < len(files) {
				t.Errorf("%d files are named, of %d", n, len(files))
			}
			together := []Zone{}
			for _, part := range got.Current.Leaves() {
				together = append(together, part...)
			}
			if !reflect.DeepEqual(together, got.Current.List()) && n > 0 {
				t.Errorf("format %d, %d zones: the leaves have others", format, n)
			}
		}
	}
}

// TestAReleaseCostsWhatItChanges, and a lease and a switchover nothing: ten of 20,000 zones change, and a node reads the nodes above them.
func TestAReleaseCostsWhatItChanges(t *testing.T) {
	w := newWorld(t)
	zones := manyZones(20_000, 1)
	w.publish(testManifest(manyRelease(2, testNow, zones), nil))
	_, mem, err := Verify(w.repo, w.node)
	if err != nil {
		t.Fatal(err)
	}
	look := func(most int) (View, int) {
		t.Helper()
		from := &counting{MapFS: w.repo}
		view, next, err := Verify(from, mem)
		if err != nil || from.nodes > most || most == 0 && from.nodes > 0 {
			t.Fatalf("%d nodes were read, at most %d have changed: %v", from.nodes, most, err)
		}
		mem = next
		return view, from.bytes
	}
	ten := changed(zones, 2000, 2)
	w.publish(testManifest(manyRelease(2, testNow, zones), manyRelease(3, time.Time{}, ten)))
	view, octets := look(10*3 + 1)
	if octets > 100_000 || !slices.EqualFunc(view.Manifest.Next.List(), ten, func(a, b Zone) bool { return a.equal(&b) }) {
		t.Errorf("%d octets", octets)
	}
	files, _, err := Renew(w.host, w.keys.Lease, testNow.Add(48*time.Hour))
	if err != nil || len(files) != 1 {
		t.Fatalf("a lease of %d files: %v", len(files), err)
	}
	for _, next := range []*Release{
		{Number: 3, Switchover: testNow.Add(time.Hour), Decide: testNow.Add(time.Minute), tree: view.Manifest.Next.tree},
		{Number: 3, Switchover: testNow.Add(time.Hour), Decide: testNow.Add(time.Minute), Committed: true, Zones: ten},
	} {
		files, host, err := Publish(w.host, testManifest(manyRelease(2, testNow, zones), next), w.keys.Signers(), testEnds(24*time.Hour))
		w.put(files, host, err)
		look(0)
	}
	w.publish(testManifest(manyRelease(3, testNow.Add(time.Hour), ten), nil))
	look(0)
}

// TestANumberIsKeptWhenTheFormatGoesOn: a release that was seen as a list is the same as a tree, and another one is refused.
func TestANumberIsKeptWhenTheFormatGoesOn(t *testing.T) {
	w := newWorld(t)
	zones := manyZones(200, 1)
	m := testManifest(manyRelease(2, testNow, zones), nil)
	m.Format = ProposalFormat
	w.publish(m)
	w.mustVerify()
	listed := w.node.Known
	m.Format = ManifestFormat
	w.publish(m)
	if view := w.mustVerify(); view.Manifest.Current.grown() == nil || slices.Equal(w.node.Known, listed) {
		t.Fatalf("no tree, or it is not remembered: %v", w.node.Known)
	}
	m.Format = ProposalFormat // hosts do not go back, and if they did it would be the same release
	w.publish(m)
	w.mustVerify()
	w.node.Known = listed
	forged := newWorld(t)
	forged.publish(testManifest(manyRelease(2, testNow, changed(zones, 100, 9)), nil))
	w.repo = forged.repo
	w.node.Timestamp, w.node.Snapshot, w.node.Targets, w.node.Manifest = nil, nil, nil, nil
	w.wantRule(NumberReused, "mesh.json")
}

// TestWithoutItsNodesAMemoryKnowsTheRest: what a node remembers keeps a replayed repository out, and tells it who is a member, with no node of a tree at
// hand.
func TestWithoutItsNodesAMemoryKnowsTheRest(t *testing.T) {
	w := newWorld(t)
	old := w.clone()
	zones := manyZones(300, 1)
	m := testManifest(manyRelease(2, testNow, zones), nil)
	w.publish(m)
	w.mustVerify()
	view, mem, err := Restore(w.node, nil)
	if !OfZones(err) || view.Versions.Timestamp != 2 || len(view.Manifest.Members) != 2 || view.Manifest.Current.Number != 2 || len(view.Manifest.Current.List()) != 0 {
		t.Fatalf("%v, %v", view, err)
	}
	if rule, _ := RuleOf(third(Verify(old, w.node))); rule != Rollback {
		t.Errorf("an old repository is refused by %q", rule)
	}
	for _, known := range []Memory{w.node, mem} {
		if view, _, err = Restore(known, w.repo); err != nil || len(view.Manifest.Current.List()) != len(zones) {
			t.Errorf("%d zones: %v", len(view.Manifest.Current.List()), err)
		}
		if _, _, err := Renew(known, w.keys.Lease, testNow.Add(48*time.Hour)); err != nil {
			t.Errorf("a lease needs no zones: %v", err)
		}
		if view, _, err = Verify(w.repo, known); err != nil || len(view.Manifest.Current.List()) != len(zones) {
			t.Errorf("%d zones: %v", len(view.Manifest.Current.List()), err)
		}
	}
}

// TestWhatCanBeReadOfADamagedTreeCounts: with some of its files lost, what is known of the zones in the others ends a lease with their signatures.
func TestWhatCanBeReadOfADamagedTreeCounts(t *testing.T) {
	w := newWorld(t)
	zones := manyZones(300, 1)
	for i := range zones {
		zones[i].SignedUntil = testNow.Add(time.Duration(1000-i) * time.Hour)
	}
	w.publish(testManifest(manyRelease(2, testNow, zones), nil))
	view := w.mustVerify()
	data, err := w.node.Encode()
	if err != nil {
		t.Fatal(err)
	}
	known, err := ParseMemory(data) // of a process that has just started
	if err != nil {
		t.Fatal(err)
	}
	leaves := view.Manifest.Current.grown().leaves()
	last := leaves[len(leaves)-1]
	for _, lost := range []Digest{last.digest, view.Manifest.Current.grown().ref.SHA256} {
		name, want := NodeName(lost), leaves[len(leaves)-2].last
		if lost != last.digest {
			want = ""
		}
		w.repo[name].Data = w.repo[name].Data[1:]
		view, mem, err := Restore(known, w.repo)
		var e *Error
		if !OfZones(err) || !errors.As(err, &e) || e.File != name {
			t.Fatalf("error %v", err)
		}
		origin, ends := view.Manifest.Current.SignedUntil()
		if origin != want || ends.IsZero() != (want == "") || len(view.Manifest.Current.List()) != 0 {
			t.Errorf("signatures of %q end at %v, want those of %q", origin, ends, want)
		}
		first, late := testNow.Add(700*time.Hour), testNow.Add(5000*time.Hour)
		told := view.Manifest.SignedAt(1, "other.", testNow).SignedAt(2, "lost.", first).SignedAt(2, "late.", late)
		if origin, ends := told.Current.SignedUntil(); origin != "lost." || !ends.Equal(first) {
			t.Errorf("told that signatures of lost. end at %v, those of %q end at %v", first, origin, ends)
		}
		if again, _ := view.Manifest.Current.SignedUntil(); again != want {
			t.Errorf("what was read is another: %q", again)
		}
		if _, _, err := Renew(mem, w.keys.Lease, testNow.Add(48*time.Hour)); err != nil {
			t.Error(err)
		}
	}
}

// TestWhatAnotherWriterPublishedCostsWhatItChanged: a host that reads the state that another one has written reads new nodes only.
func TestWhatAnotherWriterPublishedCostsWhatItChanged(t *testing.T) {
	w := newWorld(t)
	zones := manyZones(3000, 1)
	w.publish(testManifest(manyRelease(2, testNow, zones), nil))
	w.mustVerify()
	_, before, err := Restore(w.node, w.repo)
	if err != nil {
		t.Fatal(err)
	}
	zones = changed(zones, len(zones), 2)
	w.publish(testManifest(manyRelease(3, testNow, zones), nil))
	w.mustVerify()
	for what, mem := range map[string]Memory{"all": w.node, "few": w.node.Knowing(before)} {
		from := &counting{MapFS: w.repo}
		view, _, err := Restore(mem, from)
		if err != nil || !slices.EqualFunc(view.Manifest.Current.List(), zones, func(a, b Zone) bool { return a.equal(&b) }) {
			t.Errorf("%s: other zones: %v", what, err)
		}
		if few := from.nodes < 10; few != (what == "few") {
			t.Errorf("%s: %d nodes were read", what, from.nodes)
		}
	}
}

// endless is a repository in which a file does not end.
type endless struct {
	fstest.MapFS
	name string
}

func (e endless) Open(name string) (fs.File, error) {
	if name != e.name {
		return e.MapFS.Open(name)
	}
	return e.MapFS.Open("long")
}

// TestNodesThatAHostileMirrorHandsOut are refused by rule, whichever node it is, and what was verified stays.
func TestNodesThatAHostileMirrorHandsOut(t *testing.T) {
	w := newWorld(t)
	zones := manyZones(3000, 1)
	w.publish(testManifest(manyRelease(2, testNow, zones), nil))
	_, mem, err := Verify(w.repo, w.node)
	if err != nil {
		t.Fatal(err)
	}
	was := maps.Clone(w.repo)
	w.publish(testManifest(manyRelease(2, testNow, zones), manyRelease(3, time.Time{}, changed(zones, 1000, 2))))
	long := bytes.Repeat([]byte("["), MaxNodeBytes+2)
	fresh := 0
	for name, file := range w.repo {
		if was[name] != nil || !IsNode(name) {
			continue
		}
		fresh++
		for _, c := range []struct {
			rule Rule
			does func(fstest.MapFS) fs.FS
		}{
			{Missing, func(m fstest.MapFS) fs.FS { delete(m, name); return m }},
			{Mismatch, func(m fstest.MapFS) fs.FS { m[name] = &fstest.MapFile{}; return m }},
			{Mismatch, func(m fstest.MapFS) fs.FS {
				m[name] = &fstest.MapFile{Data: file.Data[:len(file.Data)-1]}
				return m
			}},
			{Mismatch, func(m fstest.MapFS) fs.FS {
				m[name] = &fstest.MapFile{Data: append(bytes.Clone(file.Data), '\n')}
				return m
			}},
			{Mismatch, func(m fstest.MapFS) fs.FS { // another node, as good as this one
				for other, f := range was {
					if IsNode(other) && len(f.Data) > 0 {
						m[name] = f
					}
				}
				return m
			}},
			{Oversize, func(m fstest.MapFS) fs.FS {
				m["long"] = &fstest.MapFile{Data: long}
				return endless{m, name}
			}},
		} {
			_, after, err := Verify(c.does(maps.Clone(w.repo)), mem)
			var e *Error
			if !errors.As(err, &e) || e.Rule != c.rule || e.File != name {
				t.Fatalf("want %s: %s, got %v", name, c.rule, err)
			}
			if !bytes.Equal(after.Timestamp, mem.Timestamp) {
				t.Fatal("what was refused is remembered")
			}
		}
	}
	if fresh < 6 {
		t.Fatalf("%d nodes", fresh)
	}
}

// treeMaker makes trees by hand, right or wrong, of what a right one has.
type treeMaker struct {
	t    *testing.T
	repo fstest.MapFS
}

func (m *treeMaker) put(data []byte) Digest {
	m.repo[NodeName(DigestOf(data))] = &fstest.MapFile{Data: data}
	return DigestOf(data)
}

// leaf is a node of zones.
func (m *treeMaker) leaf(zones ...Zone) Digest {
	data, err := encodeLine(zones)
	if err != nil {
		m.t.Fatal(err)
	}
	return m.put(data)
}

// inner is a node of nodes.
func (m *treeMaker) inner(below ...Digest) Digest {
	var all []byte
	for _, d := range below {
		all = append(all, d[:]...)
	}
	data, err := encodeLine(innerNode{all})
	if err != nil {
		m.t.Fatal(err)
	}
	return m.put(data)
}

// digestsOf are the digests of nodes, and how many zones they have.
func digestsOf(nodes []*node) (digests []Digest, count int) {
	for _, n := range nodes {
		digests, count = append(digests, n.digest), count+n.count
	}
	return digests, count
}

// lowLeaves is the longest run of leaves of which no node begins within.
func lowLeaves(leaves []*node) (low []*node) {
	at := 0
	for i := range leaves {
		if i > 0 && begins(1, leaves[i].first, i-at) {
			at = i
		}
		if i+1-at > len(low) {
			low = leaves[at : i+1]
		}
	}
	return low[:min(len(low), rootNodes)]
}

// TestTreesThatAreSignedAndWrong are refused by the rule of the format: a mistake, or another program's.
func TestTreesThatAreSignedAndWrong(t *testing.T) {
	zones := manyZones(2000, 1)
	grown, files := growFiles(t, zones, nil)
	m := &treeMaker{t, fstest.MapFS{}}
	for _, f := range files {
		m.put(f.Data)
	}
	leaf, inner, leaves := m.leaf, m.inner, grown.leaves()
	few, count := digestsOf(leaves[:12])
	if count <= inlineZones {
		t.Fatal(count)
	}
	hundred, _ := digestsOf(leaves[:100])
	tooMany, _ := digestsOf(leaves[:rootNodes+1])
	low, lowCount := digestsOf(lowLeaves(leaves))
	swapped := slices.Clone(few)
	swapped[3], swapped[4] = swapped[4], swapped[3]
	first := leaves[0].zones
	joined := slices.Concat(leaves[0].zones, leaves[1].zones)
	bad := slices.Clone(first)
	bad[0].Length = 0
	for name, c := range map[string]struct {
		ref  treeRef
		rule Rule
		want string
	}{
		"right":                     {treeRef{inner(few...), 1, count}, "", ""},
		"another number of zones":   {treeRef{inner(few...), 1, count + 1}, Format, "the manifest says"},
		"leaves swapped":            {treeRef{inner(swapped...), 1, count}, Format, "sorted"},
		"a leaf twice":              {treeRef{inner(append(few[:4:4], few[3:]...)...), 1, count}, Format, "sorted"},
		"two leaves in one":         {treeRef{inner(append([]Digest{leaf(joined...)}, few[2:]...)...), 1, count}, Format, "a leaf begins with it"},
		"a leaf in two":             {treeRef{inner(append([]Digest{leaf(first[:1]...), leaf(first[1:]...)}, few[1:]...)...), 1, count}, Format, "no node of level 0 begins"},
		"an empty leaf":             {treeRef{inner(append([]Digest{leaf([]Zone{}...)}, few...)...), 1, count}, Format, "a leaf of 0 zones"},
		"a zone that is none":       {treeRef{inner(append([]Digest{leaf(bad...)}, few[1:]...)...), 1, count}, Format, "length"},
		"no nodes":                  {treeRef{inner(), 1, count}, Format, "digests"},
		"half a digest":             {treeRef{m.put([]byte("{\"nodes\":\"AAAA\"}\n")), 1, count}, Format, "digests"},
		"not canonical":             {treeRef{m.put([]byte("{\"nodes\": \"AAAA\"}\n")), 1, count}, Format, "canonical"},
		"a leaf for a root":         {treeRef{leaf(zones[:count]...), 1, count}, Format, ""},
		"a root for a leaf":         {treeRef{inner(inner(few...)), 1, count}, Format, ""},
		"a root too high":           {treeRef{inner(inner(low...)), 2, lowCount}, Format, "too high"},
		"too many nodes for a root": {treeRef{inner(tooMany...), 1, count}, Format, "more than 64"},
		"nodes of a node that another one should have": {treeRef{inner(inner(hundred...)), 2, count}, Format, "a node of level 1 begins"},
		"a node that names itself is found in no file": {treeRef{inner(Digest{1}), 1, count}, Missing, ""},
	} {
		_, err := (&tree{ref: c.ref}).load(sourceOf(m.repo), nil)
		if rule, _ := RuleOf(err); rule != c.rule || c.want != "" && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
		if c.rule == "" {
			continue
		}
		if _, err := (&tree{ref: c.ref}).load(sourceOf(m.repo), []*tree{grown}); err == nil {
			t.Errorf("%s: taken by who knows most of it", name)
		}
	}
}

// TestFormsOfManifests: zones are in a tree where there are many in ManifestFormat, and nowhere else.
func TestFormsOfManifests(t *testing.T) {
	m := testManifest(manyRelease(2, testNow, manyZones(100, 1)), nil)
	data, _, err := m.encode(nil)
	if err != nil {
		t.Fatal(err)
	}
	few := testManifest(testRelease(2, testNow), nil)
	listed, err := few.Encode()
	if err != nil {
		t.Fatal(err)
	}
	m.Format = ProposalFormat
	long, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ text, want string }{
		"a tree before its format": {strings.Replace(string(data), `"format":3`, `"format":2`, 1), "a tree is of format 3"},
		"a list of many":           {strings.Replace(string(long), `"format":2`, `"format":3`, 1), "in the manifest itself"},
		"both":                     {strings.Replace(string(listed), `]}`, `],"tree":{"sha256":"`+Digest{}.String()+`","levels":1,"zones":65}}`, 1), "a tree of them"},
		"neither":                  {strings.Replace(string(data), `,"tree":`, `,"trees":`, 1), "trees"},
		"no levels":                {strings.Replace(string(data), `"levels":1`, `"levels":0`, 1), "levels"},
		"many levels":              {strings.Replace(string(data), `"levels":1`, `"levels":9`, 1), "levels"},
		"few zones":                {strings.Replace(string(data), `"zones":100`, `"zones":64`, 1), "64 zones"},
		"too many":                 {strings.Replace(string(data), `"zones":100`, `"zones":100001`, 1), "100001 zones"},
	} {
		if _, err := parseManifest([]byte(c.text)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q in it: %s", name, err, c.want, c.text)
		}
	}
}

// FuzzNode: a file of a tree that is accepted encodes to the very bytes that were read, and nothing panics.
func FuzzNode(f *testing.F) {
	_, files := growFiles(f, manyZones(200, 1), nil)
	for _, file := range append(files[:1:1], files[len(files)-2:]...) {
		f.Add(file.Data)
	}
	f.Add([]byte("[]\n"))
	f.Add([]byte("{\"nodes\":null}\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if n, err := parseLeaf(DigestOf(data), data); err == nil {
			if again, err := encodeLine(n.zones); err != nil || !bytes.Equal(again, data) || n.count != len(n.zones) || n.first > n.last {
				t.Fatalf("accepted %q: %v", data, err)
			}
		}
		if below, err := parseInner(data); err == nil && len(below) == 0 {
			t.Fatalf("accepted %q", data)
		}
	})
}
