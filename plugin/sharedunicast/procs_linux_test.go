package sharedunicast

import (
	"runtime"
	"testing"
)

// The runtime may run more goroutines while threads read sockets, up to twice as many, and as many as before afterwards.
func TestProcsFollowTheThreads(t *testing.T) {
	before := runtime.GOMAXPROCS(0)
	base := baseProcs()
	addThreads(1)
	if got := runtime.GOMAXPROCS(0); got != min(before+1, 2*base) {
		t.Errorf("with one more %d, before %d", got, before)
	}
	addThreads(1000)
	if got := runtime.GOMAXPROCS(0); got != 2*base {
		t.Errorf("with very many %d, want twice %d", got, base)
	}
	addThreads(-1001)
	if got := runtime.GOMAXPROCS(0); got != before {
		t.Errorf("afterwards %d, before %d", got, before)
	}
}
