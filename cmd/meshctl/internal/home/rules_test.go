package home

import (
	"testing"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/release"
)

var testNow = time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)

// The lease ends with the signatures in the zones that are answered, or are about to be. Signatures that have ended do not
// keep from members what brings new ones.
func TestTheLeaseEndsWithSignatures(t *testing.T) {
	now := testNow
	at := func(d time.Duration) *release.Release {
		return &release.Release{Number: 1, Zones: []release.Zone{{Origin: "a.", SignedUntil: now.Add(d)}, {Origin: "b."}}}
	}
	for name, c := range map[string]struct {
		current, next *release.Release
		want          time.Duration
	}{
		"nothing is answered":       {nil, nil, 24 * time.Hour},
		"unsigned":                  {&release.Release{Zones: []release.Zone{{Origin: "b."}}}, nil, 24 * time.Hour},
		"far":                       {at(99 * time.Hour), nil, 24 * time.Hour},
		"near":                      {at(3 * time.Hour), nil, 3 * time.Hour},
		"the next one's are nearer": {at(5 * time.Hour), at(2 * time.Hour), 2 * time.Hour},
		"ended":                     {at(-time.Hour), nil, -time.Hour},
		"ended, and renewed":        {at(-time.Hour), at(50 * time.Hour), 24 * time.Hour},
	} {
		e := ends(now, 24*time.Hour, now.AddDate(9, 0, 0), release.Manifest{Current: c.current, Next: c.next})
		if got := e.Timestamp.Sub(now); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

func TestPromisesAreKeptBySchedule(t *testing.T) {
	next := func(number uint64, at time.Time) release.Manifest {
		return release.Manifest{Next: &release.Release{Number: number, Switchover: at}}
	}
	at1, hour := testNow.Add(time.Minute), time.Hour
	var s State
	s = s.promise(release.Manifest{}, testNow.Add(3*hour), testNow)
	s = s.promise(next(2, time.Time{}), testNow.Add(2*hour), testNow)
	s = s.promise(next(2, at1), testNow.Add(9*hour), testNow)
	s = s.promise(next(2, at1), testNow.Add(8*hour), testNow) // shorter: the longer one is out all the same
	for _, test := range []struct {
		number uint64
		at     time.Time
		want   time.Duration
	}{
		{2, at1, 3 * hour},         // all but those that name it
		{2, at1.Add(1), 9 * hour},  // another instant is another switchover
		{3, at1, 9 * hour},         // so is another release
		{2, time.Time{}, 9 * hour}, // an instant to be chosen is named by none
	} {
		if got := s.LatestWithout(test.number, test.at); !got.Equal(testNow.Add(test.want)) {
			t.Errorf("%d at %v: %v, want %v", test.number, test.at, got.Sub(testNow), test.want)
		}
	}
	s = s.promise(release.Manifest{}, testNow.Add(100*hour), testNow.Add(99*hour))
	if len(s.Promises) != 1 {
		t.Errorf("promises that have ended are kept: %v", s.Promises)
	}
}
