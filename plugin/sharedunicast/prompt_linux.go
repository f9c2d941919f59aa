package sharedunicast

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// ownThread gives the goroutine, which reads a socket, a thread for itself that need not wait long for a processor. The thread ends with the
// goroutine.
//
// The scheduler (EEVDF, sched(7)) prefers the thread whose turn, of a length that it may ask for, ends first, and 3 ms are usual. Who asks for
// turns of 0.1 ms, the shortest there are, seldom has to wait until the turn of another thread is over, of this process (the garbage
// collector's, say) or of any other. It gets no larger share of the processor, and needs no privilege. Linux before 6.12 knows only turns of one
// length; where the call is forbidden, things are as they are there.
func ownThread() {
	runtime.LockOSThread()
	if attr, err := unix.SchedGetAttr(0, 0); err == nil && attr.Policy == unix.SCHED_NORMAL {
		attr.Runtime = shortestTurn
		_ = unix.SchedSetAttr(0, attr, 0)
	}
}

// shortestTurn is in nanoseconds.
const shortestTurn = 100_000
