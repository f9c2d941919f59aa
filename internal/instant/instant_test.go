package instant

import (
	"math"
	"strings"
	"testing"
	"time"
)

func TestWall(t *testing.T) {
	at := time.Date(2026, 11, 22, 10, 0, 0, 123456789, time.FixedZone("JST", 9*3600))
	w := WallOf(at)
	if !w.Time().Equal(at) || w.Time().Location() != time.UTC {
		t.Errorf("%v came back as %v", at, w.Time())
	}
	if got := w.String(); got != "2026-11-22T01:00:00.123456Z" {
		t.Errorf("String gives %s", got)
	}
	if got := w.Add(time.Second).Sub(w); got != time.Second {
		t.Errorf("a second later is %v later", got)
	}
	if WallOf(time.Time{}) != 0 || !Wall(0).Time().IsZero() || Wall(0).String() != "none" {
		t.Error("none is not none")
	}
}

// A sample ages by itself: its bound grows with drift, and with what the clocks moved against each other (CLOCK-1).
func TestSampleAges(t *testing.T) {
	s := Sample{At: Instant{Wall: 1e18, Mono: 1e12}, Bound: time.Millisecond, DriftPPM: 50, Source: "chrony"}
	after := func(wall, mono time.Duration) Instant {
		return Instant{Wall: s.At.Wall.Add(wall), Mono: s.At.Mono.Add(mono)}
	}
	for name, c := range map[string]struct {
		now  Instant
		want time.Duration
		why  string
	}{
		"at once":             {s.At, time.Millisecond, ""},
		"a second":            {after(time.Second, time.Second), time.Millisecond + 50*time.Microsecond, ""},
		"a day":               {after(24*time.Hour, 24*time.Hour), time.Millisecond + 4320*time.Millisecond, ""},
		"a year":              {after(8760*time.Hour, 8760*time.Hour), time.Millisecond + 1576800*time.Millisecond, ""},
		"slewed forward":      {after(time.Second+3*time.Millisecond, time.Second), 4*time.Millisecond + 50*time.Microsecond, ""},
		"slewed back":         {after(time.Second-3*time.Millisecond, time.Second), 4*time.Millisecond + 50*time.Microsecond, ""},
		"just not a step":     {after(StepTolerance, 0), time.Millisecond + StepTolerance, ""},
		"stepped forward":     {after(StepTolerance+1, 0), 0, "stepped"},
		"stepped back":        {after(-StepTolerance-1, 0), 0, "stepped"},
		"stepped by a year":   {after(-8760*time.Hour, time.Second), 0, "stepped"},
		"before it was taken": {after(0, -1), 0, "future"},
		"after a reboot":      {Instant{Wall: s.At.Wall.Add(time.Hour), Mono: 5e9}, 0, "future"},
		"suspended":           {Instant{s.At.Wall.Add(time.Minute), s.At.Mono.Add(time.Minute), 40 * time.Second}, 0, "suspended for 40s"},
	} {
		t.Run(name, func(t *testing.T) {
			bound, ok, why := s.Error(c.now)
			if bound != c.want || ok != (c.why == "") || !strings.Contains(why, c.why) {
				t.Errorf("bound %v, known %v, %q; want %v, %q", bound, ok, why, c.want, c.why)
			}
		})
	}
	if _, ok, why := (Sample{}).Error(s.At); ok || why == "" {
		t.Error("the error is known without a sample")
	}
}

// The largest numbers that a node accepts of a sidecar (plugin/meshsync) over the longest time that a machine runs stay
// positive: an error that overflows to below zero would make any lease look alive.
func TestBoundDoesNotOverflow(t *testing.T) {
	s := Sample{Bound: time.Hour, DriftPPM: 1_000_000, Source: "x"}
	for _, age := range []time.Duration{time.Hour, 100 * 8760 * time.Hour} {
		bound, ok, _ := s.Error(Instant{Wall: Wall(age), Mono: Mono(age)})
		if !ok || bound < age || bound > math.MaxInt64/2 {
			t.Errorf("after %v: %v, %v", age, bound, ok)
		}
	}
}
