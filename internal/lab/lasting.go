package lab

import (
	"runtime"
	"sync"
)

// starters takes what is done in a thread that ends with this process only. A process that was started by another thread is killed when
// that ends (ownGroup), which any may: it goes with a goroutine that keeps it to itself, as package beside does.
var starters = sync.OnceValue(func() chan<- func() {
	work := make(chan func())
	go func() {
		runtime.LockOSThread()
		for f := range work {
			f()
		}
	}()
	return work
})

// lasting does f in that thread.
func lasting(f func() error) error {
	done := make(chan error, 1)
	starters() <- func() { done <- f() }
	return <-done
}
