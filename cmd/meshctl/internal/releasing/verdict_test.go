package releasing

import (
	"fmt"
	"runtime"
	"testing"

	"github.com/coredns-anycast/coredns-anycast/internal/release"
)

// TestAllZonesThatGoAtOnceAreKeptInOneGo: a source that has lost all of its zones takes as much memory, and time, as there are zones, and not as much as
// their square: nothing else is published meanwhile.
func TestAllZonesThatGoAtOnceAreKeptInOneGo(t *testing.T) {
	const n = 4000
	var v verdict
	latest := &release.Release{Number: 1}
	for i := range n {
		z := release.Zone{Origin: fmt.Sprintf("z%06d.", i), Serial: 1}
		latest.Zones, v.gone = append(latest.Zones, z), append(v.gone, z.Origin)
	}
	v.base = latest
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	found := v.keepLast(latest, true)
	runtime.ReadMemStats(&after)
	if len(found) != n || len(v.zones) != n || len(v.held) != n || len(v.gone) != 0 {
		t.Fatalf("%d found, %d kept, %d held, %d go", len(found), len(v.zones), len(v.held), len(v.gone))
	}
	if each := (after.TotalAlloc - before.TotalAlloc) / n; each > 8<<10 {
		t.Errorf("%d octets for each zone", each)
	}
	made, err := v.whole(2)
	if err != nil || made.Len() != n {
		t.Errorf("%d zones, %v", made.Len(), err)
	}
}
