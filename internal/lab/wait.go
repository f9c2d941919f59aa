package lab

import (
	"context"
	"fmt"
	"time"
)

// often is the time between two looks at what is waited for.
const often = 5 * time.Millisecond

// Patience is how long Eventually waits. No machine is so slow that a state which comes at all comes later.
const Patience = 60 * time.Second

// Until waits until ok, looking often, and fails with what it said last when the time is over, or with ctx's cause.
func Until(ctx context.Context, limit time.Duration, what string, ok func() (yes bool, saw string)) error {
	late := time.NewTimer(limit)
	defer late.Stop()
	again := time.NewTicker(often)
	defer again.Stop()
	for {
		yes, saw := ok()
		if yes {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-late.C:
			return fmt.Errorf("%s: not within %v; %s", what, limit, saw)
		case <-again.C:
		}
	}
}

// Within is Until for a test, which fails with what was seen last.
func Within(t T, limit time.Duration, what string, ok func() (yes bool, saw string)) {
	t.Helper()
	Must(t, Until(context.Background(), limit, what, ok))
}

// Eventually waits for Patience until there is no error, and fails the test with the last one.
func Eventually(t T, holds func() error) {
	t.Helper()
	Within(t, Patience, "it does not come to hold", func() (bool, string) {
		err := holds()
		return err == nil, fmt.Sprint(err)
	})
}

// WaitFor waits for Patience until so.
func WaitFor(t T, what string, so func() bool) {
	t.Helper()
	Within(t, Patience, what, func() (bool, string) { return so(), "" })
}

// Quick fails the test unless try takes limit at the most, one time in ten: a machine that has other work may hold up any of them.
func Quick(t T, what string, limit time.Duration, try func() (took time.Duration)) {
	t.Helper()
	least := try()
	for n := 1; n < 10 && least > limit; n++ {
		least = min(least, try())
	}
	if least > limit {
		t.Errorf("%s took %v at the least, want %v at the most", what, least, limit)
	}
}
