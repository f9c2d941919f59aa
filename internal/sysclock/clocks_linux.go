package sysclock

import (
	"golang.org/x/sys/unix"

	"github.com/coredns-anycast/coredns-anycast/internal/instant"
)

func wall() instant.Wall { return instant.Wall(read(unix.CLOCK_REALTIME)) }
func mono() instant.Mono { return instant.Mono(read(unix.CLOCK_BOOTTIME)) }

// awake is the boot-time clock without the time in suspend.
func awake() instant.Mono { return instant.Mono(read(unix.CLOCK_MONOTONIC)) }

func read(clock int32) int64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(clock, &ts); err != nil {
		panic("clock_gettime: " + err.Error()) // these clocks exist in every Linux that Go runs on
	}
	return ts.Nano()
}
