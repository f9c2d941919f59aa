package release

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// dullZones are so many zones, sorted, of which few begin a leaf by their rank, so that leaves are full.
func dullZones(n int) (zones []Zone) {
	for i := 0; len(zones) < n; i++ {
		if origin := fmt.Sprintf("z%06d.dull.example.", i); rank(origin) < leafBits || i%5000 == 0 {
			zones = append(zones, testZone(origin, 1))
		}
	}
	return zones
}

// differences are what makes one list of zones of another.
func differences(was, is []Zone) (put []Zone, gone []string) {
	before := map[string]*Zone{}
	for i := range was {
		before[was[i].Origin] = &was[i]
	}
	for _, z := range is {
		if old := before[z.Origin]; old == nil || !old.equal(&z) {
			put = append(put, z)
		}
		delete(before, z.Origin)
	}
	return put, slices.Collect(maps.Keys(before))
}

// nodesOf are the nodes of some trees, by their digests.
func nodesOf(trees ...*tree) map[Digest]*node {
	all := map[Digest]*node{}
	for _, t := range trees {
		t.walk(func(n *node) bool { all[n.digest] = n; return true })
	}
	return all
}

// TestAReleaseIsMadeOfTheOneBefore: over random histories, with leaves that are full or not, trees that grow and shrink down to lists and empty ones,
// what is made by changes is what is made of all zones, and shares with the one before all that it can.
func TestAReleaseIsMadeOfTheOneBefore(t *testing.T) {
	for seed := range uint64(9) {
		r := rand.New(rand.NewPCG(seed, 31))
		zones := manyZones(1+r.IntN(3000), 1)
		if seed%3 == 0 {
			zones = dullZones(65 + r.IntN(3000))
		}
		before, err := (*Release)(nil).With(1, zones, nil)
		if err != nil {
			t.Fatal(err)
		}
		if before = planted(t, before); before.Len() != len(zones) {
			t.Fatalf("%d zones", before.Len())
		}
		for step := range 20 {
			is := varied(r, zones, uint32(step)+2)
			put, gone := differences(zones, is)
			made, err := before.With(uint64(step)+2, put, append(gone, "nobody.has.this."))
			if err != nil {
				t.Fatal(err)
			}
			if got := made.List(); made.Number != uint64(step)+2 || made.Len() != len(is) || !slices.EqualFunc(got, is, func(a, b Zone) bool { return a.equal(&b) }) {
				t.Fatalf("seed %d, step %d: %d zones, want %d", seed, step, len(got), len(is))
			}
			made = planted(t, made)
			anew := planted(t, Release{Number: made.Number, Zones: slices.Clone(is)})
			if (made.grown() == nil) != (len(is) <= inlineZones) || made.grown() != nil && made.tree.ref != anew.tree.ref {
				t.Fatalf("seed %d, step %d: another tree than of all %d zones", seed, step, len(is))
			}
			for _, z := range is {
				if got := made.Zone(z.Origin); got == nil || !got.equal(&z) {
					t.Fatalf("seed %d, step %d: %s is not found", seed, step, z.Origin)
				}
			}
			for _, origin := range append(gone, "", "zzz.") {
				if made.Zone(origin) != nil {
					t.Fatalf("seed %d, step %d: %s is found", seed, step, origin)
				}
			}
			compareTrees(t, &before, &made, put)
			zones, before = is, made
		}
	}
}

// planted is a release as it is in a manifest.
func planted(t *testing.T, r Release) Release {
	t.Helper()
	m, err := Manifest{Format: ManifestFormat, Current: &r}.plant(nil)
	if err != nil {
		t.Fatal(err)
	}
	return *m.Current
}

// varied is mutate, and now and then much of it goes, or comes.
func varied(r *rand.Rand, zones []Zone, serial uint32) []Zone {
	switch zones = slices.Clone(zones); r.IntN(6) {
	case 0:
		at := r.IntN(len(zones) + 1)
		return slices.Delete(zones, at, at+r.IntN(len(zones)-at+1))
	case 1:
		for range r.IntN(1000) {
			zones = append(zones, testZone(fmt.Sprintf("z%06d.y%d.example.", r.IntN(4000), r.IntN(3)), serial))
		}
	case 2: // where leaves begin
		zones = slices.DeleteFunc(zones, func(z Zone) bool { return rank(z.Origin) >= leafBits && r.IntN(20) == 0 })
	case 3:
		for i := range zones {
			if rank(zones[i].Origin) >= leafBits && r.IntN(20) == 0 {
				zones[i] = testZone(zones[i].Origin, serial)
			}
		}
	default:
		if len(zones) > 0 {
			return mutate(r, zones, serial)
		}
	}
	slices.SortFunc(zones, func(a, b Zone) int { return strings.Compare(a.Origin, b.Origin) })
	return slices.CompactFunc(zones, func(a, b Zone) bool { return a.Origin == b.Origin })
}

// compareTrees checks what is said of two releases beside each other against all of their nodes.
func compareTrees(t *testing.T, was, is *Release, put []Zone) {
	t.Helper()
	beside := map[string]bool{}
	for z := range is.Beside(was, nil) {
		beside[z.Origin] = true
	}
	for _, z := range put {
		if !beside[z.Origin] {
			t.Fatalf("%s has changed, and is not beside", z.Origin)
		}
	}
	if was.grown() == nil || is.grown() == nil {
		return
	}
	wanted := nodesOf(is.tree)
	for d := range nodesOf(was.tree) {
		delete(wanted, d)
	}
	got := map[Digest]*node{}
	for _, n := range is.tree.beside([]*tree{was.tree}) {
		got[n.digest] = n
	}
	if len(got) != len(wanted) {
		t.Fatalf("%d nodes are beside, want %d", len(got), len(wanted))
	}
	for d := range wanted {
		if got[d] == nil {
			t.Fatalf("node %s is not beside", d)
		}
	}
	if rest := is.tree.beside([]*tree{was.tree, is.tree}); len(rest) > 0 {
		t.Fatalf("%d nodes beside itself", len(rest))
	}
}

// TestWhatCannotBeAChange is refused: zones that are not in order, that are not valid, and changes of zones that are not known.
func TestWhatCannotBeAChange(t *testing.T) {
	zones := manyZones(200, 1)
	large := planted(t, Release{Zones: zones})
	bad := testZone(zones[7].Origin, 2)
	bad.Length = 0
	for name, c := range map[string]struct {
		of   *Release
		put  []Zone
		want string
	}{
		"not sorted":    {&large, []Zone{testZone("b.", 1), testZone("a.", 1)}, "sorted by origin"},
		"twice":         {&large, []Zone{testZone("a.", 1), testZone("a.", 2)}, "sorted by origin"},
		"not valid":     {&large, []Zone{bad}, "length 0"},
		"of names only": {&Release{tree: &tree{ref: large.tree.ref}}, nil, "not known"},
	} {
		if _, err := c.of.With(2, c.put, nil); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
