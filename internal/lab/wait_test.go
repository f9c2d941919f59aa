package lab

import (
	"context"
	"regexp"
	"testing"
	"time"
)

// TestPatience: who waits for a state waits longer on a machine that has other work, and no longer than five times as long.
func TestPatience(t *testing.T) {
	for load, want := range map[string]time.Duration{"": time.Minute, "none": time.Minute, "0.00 0.00 0.00 1/200 1": time.Minute, "2.00 9.00 9.00 1/200 1": time.Minute,
		"3.00 0.00 0.00 9/200 1": 90 * time.Second, "15.20 1.00 1.00 9/200 1": 5 * time.Minute, "-1 0 0": time.Minute, "NaN 0 0": time.Minute} {
		if got := stretched(time.Minute, load, 2); got != want {
			t.Errorf("at a load of %q it is waited for %v, want %v", load, got, want)
		}
	}
	// The load may come while it is waited, and go. What it was when that began lengthens nothing.
	looks := 0
	limit := func() time.Duration {
		looks++
		return Patience
	}
	if err := until(context.Background(), time.Nanosecond, limit, "a second look", func() (bool, string) { return looks > 0, "" }); err != nil {
		t.Error(err)
	}
	looks = 0
	first := func() time.Duration {
		if looks++; looks == 1 {
			return 20 * time.Millisecond
		}
		return 0
	}
	if err := until(context.Background(), time.Millisecond, first, "nothing", func() (bool, string) { return false, "seen" }); err == nil || looks == 0 || !regexp.MustCompile(`^nothing: not within \d+ms; seen$`).MatchString(err.Error()) {
		t.Errorf("%d looks at the load, and %v", looks, err)
	}
}
