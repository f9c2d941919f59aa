// Package instant tells wall time from monotonic time and says how wrong a clock may be.
//
// It is pure: it reads no clock. internal/sysclock reads them; mesh and gate decide with them; the sidecar certifies
// samples that the meshsync plugin lets age (CLOCK-1).
package instant

import (
	"fmt"
	"time"
)

// Wall is a reading of a wall clock (CLOCK_REALTIME): nanoseconds since 1970-01-01T00:00:00Z without leap seconds. It
// may step in either direction and be wrong by the clock's error. Zero means "none".
type Wall int64

// Mono is a reading of the boot-time clock (CLOCK_BOOTTIME): nanoseconds since boot, time in suspend counted. It never
// steps, and means nothing on another machine or after a reboot.
type Mono int64

// Instant is one moment as both clocks told it.
type Instant struct {
	Wall Wall `json:"wall_ns"`
	Mono Mono `json:"mono_ns"`
	// Suspended is how much of Mono the machine slept through, in whole milliseconds.
	Suspended time.Duration `json:"suspended_ns,omitempty"`
}

// WallOf takes the wall part of t; a zero t gives "none".
func WallOf(t time.Time) Wall {
	if t.IsZero() {
		return 0
	}
	return Wall(t.UnixNano())
}

// Time is w as a time.Time in UTC without a monotonic part; "none" gives the zero time.
func (w Wall) Time() time.Time {
	if w == 0 {
		return time.Time{}
	}
	return time.Unix(0, int64(w)).UTC()
}

// Add moves w by d; a wall time too large for 64 bits is not one that a clock can show.
func (w Wall) Add(d time.Duration) Wall { return w + Wall(d) }

// Sub is the time from v to w as the wall clock counts it.
func (w Wall) Sub(v Wall) time.Duration { return time.Duration(w - v) }

// String is RFC 3339 in UTC, or "none".
func (w Wall) String() string {
	if w == 0 {
		return "none"
	}
	return w.Time().Format("2006-01-02T15:04:05.000000Z")
}

// Sub is the time from n to m as it really passed, suspend counted.
func (m Mono) Sub(n Mono) time.Duration { return time.Duration(m - n) }

// Add moves m by d.
func (m Mono) Add(d time.Duration) Mono { return m + Mono(d) }

// StepTolerance is how far the wall clock may move against the boot-time clock before it counts as stepped. Linux
// slews both clocks together, so only a step, a leap second or the gap between two readings shows at all; a gap of ten
// milliseconds between two readings of one instant is not one that sysclock accepts.
const StepTolerance = 10 * time.Millisecond

// Sample is a certified reading: at At the wall clock was wrong by at most Bound. It ages by itself (holdover), so the
// death of who certified it silences nobody (FAIL-4).
type Sample struct {
	At       Instant       `json:"at"`
	Bound    time.Duration `json:"bound_ns"`
	DriftPPM int64         `json:"drift_ppm"` // how fast the clock may run away when nobody steers it, parts per million
	Source   string        `json:"source"`    // who certified it: "chrony", "kernel", "ntp", "clockbound", "assumed"
}

// Error is the bound of the wall clock's error at now: the sample's own bound, plus drift over its age, plus what the
// wall clock has moved against the boot-time clock since. ok is false, with the reason, when it is unknown: no sample
// yet, a sample of the future, a clock that has stepped since, or a machine that slept: what then counts both clocks on
// may tell whole seconds only.
func (s Sample) Error(now Instant) (bound time.Duration, ok bool, why string) {
	if s.Source == "" {
		return 0, false, "no certified clock sample yet"
	}
	age := now.Mono.Sub(s.At.Mono)
	if age < 0 {
		return 0, false, "the clock sample is of the future: not of this boot"
	}
	if slept := now.Suspended - s.At.Suspended; slept.Abs() > StepTolerance {
		return 0, false, fmt.Sprintf("the machine was suspended for %v since the last certified sample", slept)
	}
	moved := (now.Wall.Sub(s.At.Wall) - age).Abs()
	if moved > StepTolerance {
		return 0, false, fmt.Sprintf("the wall clock stepped by %v since the last certified sample", moved.Round(time.Millisecond))
	}
	drift := age / 1_000_000 * time.Duration(s.DriftPPM)
	return s.Bound + drift + moved, true, ""
}
