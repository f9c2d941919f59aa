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
