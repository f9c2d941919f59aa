package beside

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// StepBack lets the system prefer other threads to the one of this goroutine, by a nice value that is so much higher. The goroutine has that
// thread for itself from now on and takes it along when it ends. (The first thread of a process cannot end; it rests instead.)
func StepBack(by int) {
	runtime.LockOSThread()
	if p, err := unix.Getpriority(unix.PRIO_PROCESS, 0); err == nil { // 0 is this thread, and p is 20 less its nice value
		_ = unix.Setpriority(unix.PRIO_PROCESS, 0, 20-p+by) // to step back is always allowed
	}
}
