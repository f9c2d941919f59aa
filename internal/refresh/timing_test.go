package refresh

import (
	"fmt"
	"testing"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/instant"
)

// TestRoundsAreSpread: over a thousand zones and many rounds of one, within an eighth, and neither all at one time.
func TestRoundsAreSpread(t *testing.T) {
	c := Config{Spread: 7, Timers: Timers{MinRefresh: 30 * time.Second, MaxRefresh: 24 * time.Hour, MinRetry: 10 * time.Second, MaxRetry: 6 * time.Hour}}
	rec := Record{Refresh: 3600, Retry: 900, Expire: 1209600}
	now := instant.Instant{Wall: epoch, Mono: 1}
	tenths := map[int]int{} // of the eighth
	for i := range 1000 {
		z := &followed{origin: fmt.Sprintf("z%d.test.", i), rec: rec, loaded: true, rounds: uint64(i % 3)}
		wait := z.wait(c, now)
		if wait > time.Hour || wait < time.Hour*7/8 {
			t.Fatalf("%s waits %v", z.origin, wait)
		}
		tenths[int((time.Hour-wait)*10/(time.Hour/8+1))]++
	}
	for i := range 10 {
		if tenths[i] < 50 {
			t.Errorf("%d of a thousand in tenth %d", tenths[i], i)
		}
	}
	z := &followed{origin: "z.test.", rec: rec, loaded: true}
	first := z.wait(c, now)
	if z.rounds++; z.wait(c, now) == first {
		t.Error("a zone waits equally long each time")
	}
}
