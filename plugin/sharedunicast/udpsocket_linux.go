package sharedunicast

import (
	"net"
	"net/netip"
	"sync"

	"golang.org/x/sys/unix"
)

// udpSocket is a UDP socket of which the Go runtime does not know: it would be woken by every message that comes.
type udpSocket struct {
	fd    int
	local *net.UDPAddr
	open  sync.RWMutex // held to write by whoever is not waited for
}

// newUDPSocket takes the socket from a connection, and closes that.
func newUDPSocket(conn *net.UDPConn) (*udpSocket, error) {
	defer conn.Close()
	c, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	u := &udpSocket{local: conn.LocalAddr().(*net.UDPAddr)}
	err = control(c, func(fd int) (err error) {
		u.fd, err = duplicateDescriptor(fd)
		return err
	})
	return u, err
}

func duplicateDescriptor(fd int) (int, error) {
	return unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
}

// Close gives the descriptor back. Nobody may use it any more but by writeTo.
func (u *udpSocket) Close() error {
	u.open.Lock()
	defer u.open.Unlock()
	if u.fd < 0 {
		return nil
	}
	err := unix.Close(u.fd)
	u.fd = -1
	return err
}

func (u *udpSocket) duplicate() (descriptor, error) {
	fd, err := duplicateDescriptor(u.fd)
	if err != nil {
		return nil, err
	}
	return &udpSocket{fd: fd, local: u.local}, nil
}

func (u *udpSocket) control(f func(fd int) error) error { return f(u.fd) }

// sendWait is how many milliseconds the socket may take to have room again. What then finds none is lost.
const sendWait = 5

// writeTo sends a message, if the socket is still there: its descriptor may by now be that of another.
func (u *udpSocket) writeTo(b []byte, to netip.AddrPort) (int, error) {
	var addr unix.Sockaddr
	if to.Addr().Is4() {
		addr = &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}
	} else {
		six := &unix.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()}
		if zone := to.Addr().Zone(); zone != "" {
			if i, err := net.InterfaceByName(zone); err == nil {
				six.ZoneId = uint32(i.Index)
			}
		}
		addr = six
	}
	u.open.RLock()
	defer u.open.RUnlock()
	if u.fd < 0 {
		return 0, net.ErrClosed
	}
	err := unix.Sendto(u.fd, b, unix.MSG_DONTWAIT, addr)
	if err == unix.EAGAIN {
		unix.Poll([]unix.PollFd{{Fd: int32(u.fd), Events: unix.POLLOUT}}, sendWait)
		err = unix.Sendto(u.fd, b, unix.MSG_DONTWAIT, addr)
	}
	if err != nil {
		return 0, err
	}
	return len(b), nil
}
