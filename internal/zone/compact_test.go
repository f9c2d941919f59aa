package zone_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/zone"
)

func always() bool { return true }

// rebuilt is what a Builder makes of a zone's records.
func rebuilt(t testing.TB, z *zone.Zone) *zone.Zone {
	t.Helper()
	b := zone.NewBuilder()
	for w := range z.WireRecords() {
		b.AddWire(w.Owner, w.Type, w.TTL, w.Data, "", 0)
	}
	made, found := b.Build(z.Origin())
	if made == nil {
		t.Fatal(found)
	}
	return made
}

// compacted is a zone that Compact makes, which must be that of a Builder by each octet.
func compacted(t testing.TB, what string, z *zone.Zone) *zone.Zone {
	t.Helper()
	c := z.Compact(always)
	if c == nil {
		t.Fatalf("%s: nothing is made", what)
	}
	x, y := zone.Image(c), zone.Image(rebuilt(t, z))
	if !bytes.Equal(x, y) {
		at := 0
		for at < min(len(x), len(y)) && x[at] == y[at] {
			at++
		}
		t.Fatalf("%s: of %d octets those from %d on are not those of a Builder's image, which has %d", what, len(x), at, len(y))
	}
	if c.Root() != z.Root() || c.Fragmented() {
		t.Fatalf("%s: root %x, not %x; fragmented %v", what, c.Root(), z.Root(), c.Fragmented())
	}
	return c
}

// A besides puts a zone in order while that goes on to change, beginning and ending at random moments.
type besides struct {
	*rand.Rand
	from *zone.Zone // nil: none is in the making
	done int        // zones that took the place of others
}

// step may begin, and may end: the zone that it returns takes the place of z.
func (b *besides) step(t testing.TB, what string, z *zone.Zone) *zone.Zone {
	switch {
	case b.from == nil && b.IntN(3) == 0:
		b.from = z
	case b.from != nil && b.IntN(3) == 0:
		made := compacted(t, what, b.from).CatchUp(z)
		if made == z || made.Root() != z.Root() || made.Serial() != z.Serial() {
			t.Fatalf("%s: it is not caught up with, root %x, not %x", what, made.Root(), z.Root())
		}
		b.done++
		z, b.from = made, nil
	}
	return z
}

// TestCompactIsABuildersImage puts zones in order that have changed in many ways: the image is that of a Builder by each octet.
func TestCompactIsABuildersImage(t *testing.T) {
	r := rand.New(rand.NewPCG(11, 13))
	for flavour, z := range compiledZones(t) {
		compacted(t, flavour, z)
		for _, large := range []int{300, 2000} {
			z := largeZone(t, flavour, large)
			for i, d := range benchDeltas(t, z, 2+large/40)[:30] {
				made, found := zone.ApplyInPlace(z, d)
				if made == nil {
					t.Fatal(found)
				}
				if z = made; i%10 == 9 {
					what := fmt.Sprintf("%s, %d names, %d steps", flavour, large, i)
					compareZones(t, what, r, []string{"", "ns1.", "h1.", "d9.", "ns.d9."}, compacted(t, what, z), z)
				}
			}
		}
	}
}

// TestCompactIsGivenUp: it makes nothing when it is told to end, whenever that is, and the zone stays as it was.
func TestCompactIsGivenUp(t *testing.T) {
	z := largeZone(t, nsec3, 4000)
	root, asked := z.Root(), 0
	if z.Compact(func() bool { asked++; return true }) == nil || asked < 10 {
		t.Fatalf("asked %d times", asked)
	}
	for at := range asked {
		n := 0
		if made := z.Compact(func() bool { n++; return n <= at }); made != nil || n != at+1 {
			t.Errorf("told to end when asked %d times of %d: made %v, and asked %d times", at, asked, made != nil, n)
		}
	}
	if z.Root() != root {
		t.Error("the zone changed")
	}
}

// TestNoApplyBuildsAnewBesideCompact changes a large zone again and again, while another goroutine puts it in order whenever it is fragmented: no
// step does that itself, and the zone takes little more room than a built one. Without Compact, Apply keeps to twice the room.
func TestNoApplyBuildsAnewBesideCompact(t *testing.T) {
	const steps = 250
	for _, beside := range []bool{true, false} {
		r := rand.New(rand.NewPCG(7, 11))
		z := largeZone(t, "unsigned", 12_000)
		var making chan *zone.Zone
		swaps, anew, since := 0, 0, 0
		for range steps {
			d := &zone.Delta{From: z.Serial(), To: z.Serial()}
			changed := map[string]bool{}
			for range 200 {
				owner := pack(t, fmt.Sprintf("h%d.example.", r.IntN(12_000)))
				if changed[string(owner)] {
					continue
				}
				changed[string(owner)] = true
				for _, set := range z.OwnedBy(owner) {
					for rdata := range set.Data.All() {
						d.Removed = appendWire(d.Removed, zone.WireRecord{Owner: owner, Type: set.Type, TTL: set.TTL}, rdata, 0)
					}
				}
				length := 1 + r.IntN(200)
				d.Added = appendWire(d.Added, zone.WireRecord{Owner: owner, Type: dns.TypeTXT, TTL: 60}, append([]byte{byte(length)}, make([]byte, length)...), 0)
			}
			made, found := z.Apply(d)
			if made == nil {
				t.Fatal(found)
			}
			if zone.Loose(made) < zone.Loose(z)/2 {
				anew++
			}
			z = made
			if beside && making == nil && z.Fragmented() {
				making, since = make(chan *zone.Zone, 1), 0
				from, done := z, making
				go func() { done <- from.Compact(always) }()
			}
			if since++; making != nil && (since > 20 || len(making) > 0) { // on a machine with much to do it may take longer than these steps
				z, making = (<-making).CatchUp(z), nil
				swaps++
			}
		}
		if making != nil {
			z = (<-making).CatchUp(z)
			swaps++
		}
		want := rebuilt(t, z)
		t.Logf("beside %v: %d swaps, %d anew, %d octets, %d when built", beside, swaps, anew, z.ImageSize(), want.ImageSize())
		if beside != (swaps > 0) || beside != (anew == 0) {
			t.Errorf("beside %v: %d times put in order, %d steps anew", beside, swaps, anew)
		}
		compareZones(t, "in the end", r, []string{"", "h1.", "h77.", "d7.", "ns.d7."}, z, want)
		if z.ImageSize() > 2*want.ImageSize() {
			t.Errorf("%d octets", z.ImageSize())
		}
	}
}

// TestAZoneThatShrinksIsFragmented: what names that are no more leave behind counts.
func TestAZoneThatShrinksIsFragmented(t *testing.T) {
	z := largeZone(t, "unsigned", 12_000)
	d := &zone.Delta{From: z.Serial(), To: z.Serial()}
	for rr := range z.Records() {
		if owner := strings.TrimSuffix(rr.Header().Name, "example."); strings.HasPrefix(owner, "h") || strings.ContainsAny(owner[max(0, len(owner)-2):], "13579") {
			d.Removed = append(d.Removed, packedRR(t, rr)...)
		}
	}
	made, found := zone.ApplyInPlace(z, d)
	if made == nil {
		t.Fatal(found)
	}
	if z.Fragmented() || !made.Fragmented() {
		t.Errorf("fragmented before %v, after %v", z.Fragmented(), made.Fragmented())
	}
	if c := compacted(t, "without some names", made); c.ImageSize() > made.ImageSize()*3/4 {
		t.Errorf("%d octets, of %d", c.ImageSize(), made.ImageSize())
	}
}
