// Package sysclock reads the machine's clocks as instant.Instant. It is the only place that does so for a decision of
// mesh or gate; the plugin meshsync, the sidecar and meshctl call it.
package sysclock

import (
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/instant"
)

// UntilNext is how long it takes until the boot-time clock shows a multiple of every. What the processes of a node do again and again begins at
// such instants, so that it wakes them, and the machine, once for all.
func UntilNext(every time.Duration) time.Duration { return every - time.Duration(mono())%every }

// Now reads the clocks as one instant: of a few tries the one in which the readings lay closest together, so that
// a process put off the processor between them does not look like a clock that stepped.
func Now() instant.Instant {
	var best instant.Instant
	var gap instant.Mono = 1 << 62
	for range 5 {
		before := mono()
		wall, awake := wall(), awake()
		after := mono()
		if after-before < gap {
			at := before + (after-before)/2
			gap, best = after-before, instant.Instant{Wall: wall, Mono: at, Suspended: at.Sub(awake).Round(time.Millisecond)}
		}
		if gap < 5_000 { // 5 µs apart is as good as it gets
			break
		}
	}
	return best
}
