package lab

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"
)

// often is the time between two looks at what is waited for.
const often = 5 * time.Millisecond

// Patience is how long Eventually waits on a machine that has no other work. No state that comes at all comes later there.
const Patience = 60 * time.Second

// patienceMost is how many times as long Patiently waits at the most.
const patienceMost = 5

// Until waits until ok, looking often, and fails with what it said last when the time is over, or with ctx's cause.
func Until(ctx context.Context, limit time.Duration, what string, ok func() (yes bool, saw string)) error {
	return until(ctx, limit, func() time.Duration { return limit }, what, ok)
}

// Patiently is Until with a limit that holds where each program has a processor. Where more of them are ready to run when it is over, and not before, it is as many
// times as long as there are of them for each processor, five times at the most: the test is one of them. So what does not come at all is found out
// within the limit on a machine that has no other work.
func Patiently(ctx context.Context, limit time.Duration, what string, ok func() (yes bool, saw string)) error {
	return until(ctx, limit, func() time.Duration {
		load, _ := os.ReadFile("/proc/loadavg") // Linux alone has it
		return stretched(limit, string(load), runtime.NumCPU())
	}, what, ok)
}

// stretched is a limit by how many programs were ready to run in the last minute, as /proc/loadavg has it.
func stretched(limit time.Duration, load string, processors int) time.Duration {
	minute, _, _ := strings.Cut(load, " ")
	ready, err := strconv.ParseFloat(minute, 64)
	if err != nil || !(ready > float64(processors)) {
		return limit
	}
	return time.Duration(float64(limit) * min(ready/float64(processors), patienceMost))
}

// until is Until with a limit that is asked for once least is over, and again when it is: it may be another one then.
func until(ctx context.Context, least time.Duration, limit func() time.Duration, what string, ok func() (yes bool, saw string)) error {
	began := time.Now()
	late := time.NewTimer(least)
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
			waited := time.Since(began)
			left := limit() - waited
			if left <= 0 {
				return fmt.Errorf("%s: not within %v; %s", what, waited.Round(time.Millisecond), saw)
			}
			late.Reset(left)
		case <-again.C:
		}
	}
}

// Within is Until for a test, which fails with what was seen last.
func Within(t T, limit time.Duration, what string, ok func() (yes bool, saw string)) {
	t.Helper()
	Must(t, Until(context.Background(), limit, what, ok))
}

// Eventually waits patiently until there is no error, and fails the test with the last one.
func Eventually(t T, holds func() error) {
	t.Helper()
	Must(t, Patiently(context.Background(), Patience, "it does not come to hold", func() (bool, string) {
		err := holds()
		return err == nil, fmt.Sprint(err)
	}))
}

// WaitFor waits patiently until so.
func WaitFor(t T, what string, so func() bool) {
	t.Helper()
	Must(t, Patiently(context.Background(), Patience, what, func() (bool, string) { return so(), "" }))
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
