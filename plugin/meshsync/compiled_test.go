package meshsync

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/coredns-anycast/coredns-anycast/internal/release"
)

// TestAReleaseIsMadeOfTheLeavesOfThoseBefore: over a random history it is the one that is made of nothing, and what did not change is shared.
func TestAReleaseIsMadeOfTheLeavesOfThoseBefore(t *testing.T) {
	_, h := nodeDir(t)
	root, err := release.NewMemory(readFile(t, h.root))
	must(t, err)
	text := func(serial int) release.Zone { // without an origin of its own
		return h.pack("", uint32(serial), fmt.Appendf(nil, "@ 300 IN SOA ns hostmaster %d 3600 900 1814400 300\n@ 300 IN NS ns\nns 300 IN A 192.0.2.1\n", serial))
	}
	one := text(1)
	named := func(name string, z release.Zone) release.Zone {
		z.Origin = name + ".example."
		return z
	}
	var zones []release.Zone
	for i := range 400 {
		zones = append(zones, named(fmt.Sprintf("z%03d", i), one))
	}
	r := rand.New(rand.NewPCG(1, 1))
	var before []*compiled
	for number := uint64(1); number < 12; number++ {
		h.current(number, zones)
		view, _, err := release.Verify(h.repo, root)
		must(t, err)
		make := func(k known) *compiled {
			c, err := compile(t.Context(), h.repo.Path(), *view.Manifest.Current, k, &imageCache{dir: t.TempDir(), from: cacheFrom}, &compiling{})
			must(t, err)
			return c
		}
		is, anew := make(known{releases: before}), make(known{})
		if !slices.Equal(is.list(), anew.list()) || is.digest != anew.digest || is.records != anew.records || is.zones.Len() != len(zones) {
			t.Fatalf("release %d: %d zones and %d records, want %d and %d", number, len(is.list()), is.records, len(anew.list()), anew.records)
		}
		if len(before) > 0 && !slices.Equal(is.change.Of(before[0].list()), is.list()) {
			t.Fatalf("release %d: %+v is no change from the one before", number, is.change)
		}
		all := anew.zones.All()
		for i, z := range is.zones.All() {
			if o := all[i]; z.Origin() != o.Origin() || z.Root() != o.Root() || is.zones.Get(z.Origin()).Root() != z.Root() || is.of(z.Origin()).Root() != z.Root() {
				t.Fatalf("release %d: another zone %s", number, z.Origin())
			}
		}
		for _, z := range is.list() {
			if len(before) > 0 && before[0].of(z.Origin) != nil && before[0].of(z.Origin).Serial() == z.Serial && before[0].of(z.Origin) != is.of(z.Origin) {
				t.Fatalf("release %d: zone %s was made again", number, z.Origin)
			}
		}
		if len(before) > 0 && len(is.beside(before[0])) > 20 {
			t.Fatalf("release %d: %d of %d parts are not shared", number, len(is.beside(before[0])), len(is.parts))
		}
		before = append([]*compiled{is}, before[:min(len(before), 1)]...)
		zones, one = slices.Clone(zones), text(int(number)+1)
		for range r.IntN(4) {
			i := r.IntN(len(zones))
			zones[i] = named(strings.TrimSuffix(zones[i].Origin, ".example."), one)
		}
		if r.IntN(2) == 0 {
			zones = slices.Delete(zones, 100, 101)
			zones = append(zones, named(fmt.Sprintf("zz%03d", number), one))
		}
		if r.IntN(3) == 0 {
			zones = slices.Insert(zones, 0, named(fmt.Sprintf("a%03d", 999-number), one))
		}
	}
}
