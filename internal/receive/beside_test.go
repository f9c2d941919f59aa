package receive

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"github.com/coredns-anycast/coredns-anycast/internal/lab"
	"github.com/coredns-anycast/coredns-anycast/internal/primarytest"
	"github.com/coredns-anycast/coredns-anycast/internal/zone"
)

// withTexts is a zone with a name for each text, of such a length beyond 40 octets.
func withTexts(t *testing.T, origin string, serial int, lengths []int) *zone.Zone {
	t.Helper()
	var b strings.Builder
	fmt.Fprintf(&b, "$ORIGIN %s\n$TTL 300\n@ SOA ns1 host %d 3600 900 1209600 300\n@ NS ns1.example.net.\n", origin, serial)
	for i, n := range lengths {
		fmt.Fprintf(&b, "host-%d TXT \"%d%s\"\n", i, i, strings.Repeat("x", 40+n))
	}
	return primarytest.Parsed(t, origin, b.String())
}

// TestAZoneIsPutInOrderBeside while rounds change it: the one that is held is in order in the end, and is always what the last round made.
func TestAZoneIsPutInOrderBeside(t *testing.T) {
	t.Parallel()
	const origin, names = "example.org.", 12_000
	lengths := make([]int, names)
	r, err := New(following(netip.AddrPort{}, nil, origin), Options{Zones: t.TempDir(), State: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	var tasks sync.WaitGroup
	defer tasks.Wait()
	r.spawn = func(task func(context.Context)) context.CancelFunc {
		ctx, cancel := context.WithCancel(t.Context())
		tasks.Go(func() { task(ctx) })
		return cancel
	}
	held := func() *zone.Zone {
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.images[origin]
	}
	z, rnd := withTexts(t, origin, 1, lengths), rand.New(rand.NewPCG(1, 2))
	r.images[origin] = z
	wasFragmented, inOrder := 0, 0
	for serial := 2; serial < 30; serial++ {
		image := held() // as at the start of a round
		for range 1500 {
			lengths[rnd.IntN(names)] = rnd.IntN(150)
		}
		want := withTexts(t, origin, serial, lengths)
		made, found := image.Apply(zone.Difference(image, want, 1<<30))
		if made == nil {
			t.Fatal(found)
		}
		if made.Fragmented() {
			wasFragmented++
		}
		made = r.tidied(made)
		r.mu.Lock()
		r.images[origin] = made
		r.tidy(origin)
		r.mu.Unlock()
		if now := held(); now.Root() != want.Root() {
			t.Fatalf("serial %d: another zone is held", serial)
		}
		if serial%3 > 0 { // else the next round goes on at once
			lab.WaitFor(t, "it is in order", func() bool { return !held().Fragmented() })
			inOrder++
		}
		if now := held(); now.Root() != want.Root() {
			t.Fatalf("serial %d: another zone is held", serial)
		}
	}
	if wasFragmented == 0 {
		t.Error("it was never fragmented")
	}
	t.Logf("%d times fragmented, %d times in order", wasFragmented, inOrder)
	r.mu.Lock()
	r.tidy(origin)
	if r.tidying[origin] != nil {
		t.Error("what was made is kept")
	}
	r.mu.Unlock()
}

// TestAZoneThatCannotBePutInOrder is not tried again at each round, until it was made anew.
func TestAZoneThatCannotBePutInOrder(t *testing.T) {
	t.Parallel()
	const origin, names = "example.org.", 12_000
	r, err := New(following(netip.AddrPort{}, nil, origin), Options{Zones: t.TempDir(), State: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	tries := 0
	r.spawn = func(func(context.Context)) context.CancelFunc {
		tries++
		return func() {}
	}
	lengths := make([]int, names)
	anew := withTexts(t, origin, 1, lengths)
	for i := range names / 4 {
		lengths[i] = 150
	}
	changed, found := anew.Apply(zone.Difference(anew, withTexts(t, origin, 2, lengths), 1<<30))
	if changed == nil || !changed.Fragmented() {
		t.Fatal("it is in order", found)
	}
	given, giveUp := context.WithCancel(t.Context())
	giveUp()
	tidy := func(z *zone.Zone, want int) {
		t.Helper()
		r.mu.Lock()
		r.images[origin] = z
		r.tidy(origin)
		r.mu.Unlock()
		if tries != want {
			t.Errorf("it was tried %d times, and not %d times", tries, want)
		}
	}
	tidy(changed, 1)
	r.putInOrder(given, origin, changed, r.tidying[origin])
	tidy(changed, 1)
	tidy(anew, 1)
	tidy(changed, 2)
}
