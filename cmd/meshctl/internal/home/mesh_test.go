package home

import (
	"reflect"
	"testing"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/instant"
	"github.com/coredns-anycast/coredns-anycast/internal/mesh"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
)

var testNow = time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)

// What the protocol decides of a switchover is published, and read again as it was decided.
func TestASwitchoverIsReadAsItWasDecided(t *testing.T) {
	next := mesh.State{Mesh: "m", Next: mesh.Switchover{Ref: status.Ref{Number: 8, At: instant.WallOf(testNow)}, Decide: instant.WallOf(testNow.Add(-time.Second)),
		Committed: true, Presumed: true, Without: []string{"fra"}}}
	m, err := manifestOf(release.Manifest{Mesh: "m", Next: &release.Release{Number: 8}}, next, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := MeshOf(State{}, release.View{Manifest: m}).Next; !reflect.DeepEqual(got, next.Next) {
		t.Errorf("%+v, not %+v", got, next.Next)
	}
	all := reflect.ValueOf(next.Next)
	for i := range all.NumField() {
		if name := all.Type().Field(i).Name; all.Field(i).IsZero() && name != "Signed" { // that is of its zones
			t.Errorf("%s is not tested", name)
		}
	}
}

// The lease ends with the signatures in the zones that are answered, or are about to be. Signatures that have ended do not
// keep from members what brings new ones.
func TestTheLeaseEndsWithSignatures(t *testing.T) {
	now := testNow
	at := func(number uint64, d time.Duration) *release.Release {
		return &release.Release{Number: number, Zones: []release.Zone{{Origin: "a.", SignedUntil: now.Add(d)}, {Origin: "b."}}}
	}
	for name, c := range map[string]struct {
		current, next *release.Release
		want          time.Duration
	}{
		"nothing is answered":       {nil, nil, 24 * time.Hour},
		"unsigned":                  {&release.Release{Number: 1, Zones: []release.Zone{{Origin: "b."}}}, nil, 24 * time.Hour},
		"far":                       {at(1, 99*time.Hour), nil, 24 * time.Hour},
		"near":                      {at(1, 3*time.Hour), nil, 3 * time.Hour},
		"the next one's are nearer": {at(1, 5*time.Hour), at(2, 2*time.Hour), 2 * time.Hour},
		"ended":                     {at(1, -time.Hour), nil, -time.Hour},
		"ended, and renewed":        {at(1, -time.Hour), at(2, 50*time.Hour), 24 * time.Hour},
	} {
		far := now.AddDate(9, 0, 0)
		view := release.View{Manifest: release.Manifest{Current: c.current, Next: c.next}, Expires: release.Expiries{Root: far, Targets: far, Snapshot: far}}
		granted := MeshOf(State{}, view).Granted(instant.WallOf(now), 24*time.Hour)
		if got := granted.Expires.Time().Sub(now); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

// TestAPublicationThatStoodStillIsForgotten after as many as one that took as long as leads are made of at the most.
func TestAPublicationThatStoodStillIsForgotten(t *testing.T) {
	slow, still := At("", nil), At("", nil)
	slow.takes(tookMost, 0)
	still.takes(time.Hour, 0)
	for range 30 {
		slow.takes(0, 0)
		still.takes(0, 0)
	}
	if got := still.Publishing(); got != slow.Publishing() || got >= time.Second {
		t.Errorf("publications are taken to last %v, and %v", got, slow.Publishing())
	}
}

// TestALongWaitForTheLockCounts only if there was another lately: leads are not made longer by a command that held it once.
func TestALongWaitForTheLockCounts(t *testing.T) {
	const quick, wait = 50 * time.Millisecond, 9 * time.Second
	h := At("", nil)
	take := func(waited, want time.Duration) {
		t.Helper()
		h.took = 0
		if h.takes(quick+waited, waited); h.Publishing() != want {
			t.Errorf("after a wait of %v publications are taken to last %v, not %v", waited, h.Publishing(), want)
		}
	}
	take(longWait-1, quick+longWait-1)
	take(wait, quick)
	for range longWaitOf {
		take(0, quick)
	}
	take(wait, quick)
	for range longWaitOf - 1 {
		take(0, quick)
	}
	take(wait, quick+wait)
	take(wait, quick+wait)
}
