package sharedunicast

import (
	"runtime"
	"sync"
)

// A thread that reads a socket waits in the kernel most of the time. The Go runtime then gives its processor, one of
// GOMAXPROCS, to other goroutines, and the thread would wait for one of these to make room before it can answer: up to 10
// ms beside a release that is compiled. So the runtime may run as many goroutines more as there are such threads, and up to
// twice as many as before, since no more of the threads can have a core at a time; the kernel decides whose turn it is.

var procs struct {
	sync.Mutex
	base, threads int
}

// baseProcs is how many goroutines may run at a time beside those that read sockets.
func baseProcs() int {
	procs.Lock()
	defer procs.Unlock()
	if procs.threads == 0 {
		procs.base = runtime.GOMAXPROCS(0)
	}
	return procs.base
}

// addThreads says that n threads more, or fewer, read sockets.
func addThreads(n int) {
	base := baseProcs()
	procs.Lock()
	defer procs.Unlock()
	procs.threads += n
	runtime.GOMAXPROCS(base + min(base, procs.threads))
}
