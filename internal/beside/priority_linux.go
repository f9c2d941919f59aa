package beside

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// StepBack lets the system prefer every other thread to the one of this goroutine, which has it for itself from now on
// and takes it along when it ends. (The first thread of a process cannot end; it rests instead.)
func StepBack() {
	runtime.LockOSThread()
	if p, err := unix.Getpriority(unix.PRIO_PROCESS, 0); err == nil { // 0 is this thread, and p is 20 less its nice value
		_ = unix.Setpriority(unix.PRIO_PROCESS, 0, 20-p+behind) // to step back is always allowed
	}
}

// behind is by how much the nice value of who stepped back is higher. A processor that queries keep busy still gives such
// a thread a tenth (sched(7)), so that a flood does not keep a release from being ready; and while the garbage collector waits for the
// thread to stop, nothing in the process runs, so that it must not wait long for its turn.
const behind = 10
