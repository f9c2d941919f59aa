package lab

import (
	"context"
	"strings"
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
	// The load may come while it is waited, and go.
	looks := 0
	limit := func() time.Duration {
		if looks++; looks == 1 {
			return time.Nanosecond
		}
		return Patience
	}
	if err := until(context.Background(), limit, "a second look", func() (bool, string) { return looks > 1, "" }); err != nil {
		t.Error(err)
	}
	looks = 0
	first := func() time.Duration { looks++; return time.Millisecond / time.Duration(looks) }
	if err := until(context.Background(), first, "nothing", func() (bool, string) { return false, "seen" }); err == nil || !strings.Contains(err.Error(), "nothing: not within 500µs; seen") {
		t.Error(err)
	}
}
