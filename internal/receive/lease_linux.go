package receive

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// openForWriting reports whether anybody has the file open for writing: then the kernel grants no read lease. Where leases
// may not be had (another's file, some network file systems) nothing is known, and it says no.
func openForWriting(f *os.File) bool {
	conn, err := f.SyscallConn()
	if err != nil {
		return false
	}
	conn.Control(func(fd uintptr) {
		if _, err = unix.FcntlInt(fd, unix.F_SETLEASE, unix.F_RDLCK); err == nil {
			unix.FcntlInt(fd, unix.F_SETLEASE, unix.F_UNLCK)
		}
	})
	return errors.Is(err, unix.EAGAIN)
}
