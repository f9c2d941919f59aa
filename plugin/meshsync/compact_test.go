package meshsync

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"

	"github.com/coredns-anycast/coredns-anycast/internal/lab"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
	"github.com/coredns-anycast/coredns-anycast/internal/zone"
)

// growing are releases of a zone whose names get longer texts, a tenth of them at a time, each behind the zone as it was built; and another one.
func growing(h *host, releases int) (*packed, release.Zone) {
	p := packedOf(h, "example.org.", releases, 20_000, func(n, i int) string {
		return fmt.Sprint(n, strings.Repeat("x", 30+100*min(1, max(0, i-n%10)))) // no two share theirs
	})
	return p, h.blob("other.example.", zoneText("other.example.", 1))
}

// TestAFragmentedZoneIsPutInOrder in each release that a node keeps, while it answers.
func TestAFragmentedZoneIsPutInOrder(t *testing.T) {
	const releases = 7
	dir, h := nodeDir(t)
	p, other := growing(h, releases)
	h.current(1, []release.Zone{p.signed[0], other})
	n := startNode(t, newConfig(dir, h))
	n.becomes(1)
	p.without(p.signed[1:]...)
	fragmented := 0
	made := p.zones[0]
	for i := 1; i < releases; i++ {
		if made, _ = made.Apply(zone.Difference(p.zones[i-1], p.zones[i], 1<<30)); made.Fragmented() {
			fragmented++
			made = made.Compact(func() bool { return true })
		}
		h.current(uint64(i+1), []release.Zone{p.signed[i], other})
		n.becomes(uint64(i + 1))
		lab.Eventually(t, func() error {
			a := n.answering()
			z := a.zones.Get("example.org.")
			known := a.signed(p.signed[i])
			if z.Root() != p.signed[i].Root || known.Root() != z.Root() || a.zones.Get("other.example.") == nil || a.zones.Len() != 2 {
				t.Fatalf("release %d has other zones", i+1)
			}
			if z.Fragmented() || known.Fragmented() || len(a.fragmented) > 0 {
				return errors.New("it is not in order")
			}
			return nil
		})
	}
	if fragmented < 2 {
		t.Errorf("of %d releases %d had a zone that was fragmented", releases, fragmented)
	}
	f := n.f
	n.close()
	if f.compactor.base != nil {
		t.Error("what was made is kept")
	}
}

// TestAReleaseThatIsMadeMeanwhileIsPutInOrder on what was made of the one before.
func TestAReleaseThatIsMadeMeanwhileIsPutInOrder(t *testing.T) {
	_, h := nodeDir(t)
	p, other := growing(h, 7)
	compiledOf := func(i int, before *compiled) *compiled {
		t.Helper()
		c, err := compile(t.Context(), h.repo.Path(), release.Release{Number: uint64(i + 1), Zones: []release.Zone{p.signed[i], other}}, known{failed: before},
			&imageCache{dir: t.TempDir()}, &compiling{})
		must(t, err)
		return c
	}
	p.without(p.signed[1:]...)
	last := compiledOf(0, nil)
	i := 0
	for len(last.fragmented) == 0 {
		i++
		last = compiledOf(i, last)
	}
	next := compiledOf(i+1, last)
	releases := map[uint64]*compiled{uint64(i + 1): last}
	r := reorder(t.Context(), "example.org.", nil, releases)
	if len(r.changed) != 1 || r.changed[0].was != last || r.base == nil {
		t.Fatalf("%+v", r)
	}
	is := r.changed[0].is
	for _, part := range is.parts {
		for _, z := range part.made {
			if at := is.zones.Get(z.Origin()); z.Root() != last.of(z.Origin()).Root() || at.Root() != z.Root() || z.Fragmented() || at.Fragmented() {
				t.Errorf("zone %s is another one", z.Origin())
			}
		}
	}
	releases = maps.Clone(releases)
	releases[uint64(i+1)], releases[uint64(i+2)] = is, next
	again := reorder(t.Context(), "example.org.", r.base, releases)
	if len(again.changed) != 1 || again.changed[0].was != next || again.base != r.base {
		t.Fatalf("%+v", again)
	}
	z := again.changed[0].is.zones.Get("example.org.")
	if z.Root() != p.signed[i+1].Root || z.Fragmented() {
		t.Errorf("root %x, fragmented %v", z.Root(), z.Fragmented())
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	releases = map[uint64]*compiled{1: next}
	r = reorder(ctx, "example.org.", nil, releases)
	if r.base != nil || len(r.changed) > 0 {
		t.Errorf("it was not given up: %+v", r)
	}
	givenUp(t, r, releases)
}

// givenUp demands that what was given up be not tried again, and keep no other zone from its turn, until no release has it as it was.
func givenUp(t *testing.T, r reordered, releases map[uint64]*compiled) {
	t.Helper()
	f := &follower{compactor: compactor{busy: true, gaveUp: map[string]bool{}}}
	f.reordered(r)
	if next := f.compactor.fragmented(releases); next != "" || f.compactor.busy {
		t.Errorf("%q is to be put in order", next)
	}
	releases = maps.Clone(releases)
	releases[2] = &compiled{fragmented: []string{r.origin, "other.example."}}
	if next := f.compactor.fragmented(releases); next != "other.example." {
		t.Errorf("%q is to be put in order, and not the other zone", next)
	}
	if next := f.compactor.fragmented(map[uint64]*compiled{3: {}}); next != "" {
		t.Errorf("%q is to be put in order", next)
	}
	if next := f.compactor.fragmented(releases); next == "" || len(f.compactor.gaveUp) > 0 {
		t.Error("a zone that was made anew is remembered as it was")
	}
}
