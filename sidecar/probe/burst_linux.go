package probe

import (
	"net"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// mmsghdr is struct mmsghdr of sendmmsg(2).
type mmsghdr struct {
	unix.Msghdr
	size uint32
}

// burst sends messages by one system call. One by one each would wake the server, and its answer this process, which costs an idle node
// more than the answers.
func burst(conn *net.UDPConn, messages [][]byte) error {
	out, parts := make([]mmsghdr, len(messages)), make([]unix.Iovec, len(messages))
	for i, m := range messages {
		parts[i].Base = &m[0]
		parts[i].SetLen(len(m))
		out[i].Iov = &parts[i]
		out[i].SetIovlen(1)
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var errno syscall.Errno
	err = raw.Write(func(fd uintptr) (done bool) {
		for len(out) > 0 {
			var n uintptr
			n, _, errno = unix.Syscall6(unix.SYS_SENDMMSG, fd, uintptr(unsafe.Pointer(&out[0])), uintptr(len(out)), unix.MSG_DONTWAIT, 0, 0)
			switch errno {
			case 0:
				out = out[n:]
			case unix.EINTR:
			default:
				return errno != unix.EAGAIN // the runtime waits for room, until the deadline
			}
		}
		return true
	})
	if err == nil && errno != 0 {
		err = &net.OpError{Op: "write", Net: "udp", Source: conn.LocalAddr(), Addr: conn.RemoteAddr(), Err: errno}
	}
	return err
}
