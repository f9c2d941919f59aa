package sysclock

import (
	"testing"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/instant"
)

// Both clocks are those of the machine, and advance together.
func TestNow(t *testing.T) {
	first := Now()
	if off := first.Wall.Sub(instant.WallOf(time.Now())); off < -time.Second || off > time.Second {
		t.Errorf("the wall clock is %v off", off)
	}
	if first.Mono <= 0 {
		t.Errorf("boot time %d", first.Mono)
	}
	time.Sleep(20 * time.Millisecond)
	second := Now()
	if passed := second.Mono.Sub(first.Mono); passed < 20*time.Millisecond || passed > 10*time.Second {
		t.Errorf("20 ms took %v", passed)
	}
}

// What waits until the next multiple finds the clock there, and nowhere else.
func TestUntilNext(t *testing.T) {
	const every = 100 * time.Millisecond
	for range 20 {
		before := time.Duration(Now().Mono)
		wait := UntilNext(every)
		after := time.Duration(Now().Mono)
		if wait <= 0 || wait > every || (after+wait)/every == (before+wait-1)/every {
			t.Errorf("between %d and %d it is %v until the next multiple of %v", before, after, wait, every)
		}
		time.Sleep(7 * time.Millisecond)
	}
}

// The two readings of one instant are so close that no reading looks like a step, however busy the machine is.
func TestReadingsAreNoSteps(t *testing.T) {
	s := instant.Sample{At: Now(), Source: "test"}
	stop := make(chan struct{})
	defer close(stop)
	for range 8 {
		go func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
			}
		}()
	}
	for end := time.Now().Add(300 * time.Millisecond); time.Now().Before(end); {
		if _, ok, why := s.Error(Now()); !ok {
			t.Fatal(why)
		}
	}
}
