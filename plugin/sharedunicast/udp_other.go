//go:build !linux

package sharedunicast

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// udpLoop reads a UDP socket and hands all that comes to its crew.
type udpLoop struct {
	front *front
	conn  *udpSocket
	stop  *waker
	crew  *crew
	over  func(error) // is called at the end

	traffic *traffic
	address string
	socket  int
}

const hasFastPath = false

// udpSockets is how many UDP sockets an address has.
func udpSockets() int { return 1 }

// run reads until the server stops.
func (l *udpLoop) run() { l.over(l.read()) }

func (l *udpLoop) read() error {
	b := make([]byte, readUDP)
	for !l.stop.called.Load() {
		l.conn.conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		n, from, err := l.conn.conn.ReadFromUDPAddrPort(b)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			continue
		}
		if err != nil {
			return err
		}
		if n >= headerSize && b[flagsOffset]&0x80 == 0 {
			l.traffic.query(n, from.Addr())
		}
		l.crew.take(b[:n], from)
		l.crew.call(time.Now())
	}
	return nil
}

// udpSocket is a UDP socket.
type udpSocket struct {
	conn  *net.UDPConn
	local *net.UDPAddr
}

func newUDPSocket(conn *net.UDPConn) (*udpSocket, error) {
	return &udpSocket{conn, conn.LocalAddr().(*net.UDPAddr)}, nil
}

func (u *udpSocket) Close() error { return u.conn.Close() }

func (u *udpSocket) duplicate() (descriptor, error) {
	f, err := u.conn.File()
	if err != nil {
		return nil, err
	}
	defer f.Close()
	conn, err := net.FilePacketConn(f)
	if err != nil {
		return nil, err
	}
	return newUDPSocket(conn.(*net.UDPConn))
}

func (u *udpSocket) control(f func(fd int) error) error {
	c, err := u.conn.SyscallConn()
	if err != nil {
		return err
	}
	return control(c, f)
}

func (u *udpSocket) writeTo(b []byte, to netip.AddrPort) (int, error) {
	return u.conn.WriteToUDPAddrPort(b, to)
}

// outbox would collect responses.
type outbox struct {
	mu   sync.Mutex
	conn *udpSocket
}

func (o *outbox) add([]byte, netip.AddrPort) bool { return false }

func (o *outbox) flush() {}

// addThreads says that n threads more, or fewer, read sockets: here none has one of its own.
func addThreads(int) {}

// waker ends the loops of a server.
type waker struct{ called atomic.Bool }

func newWaker() (*waker, error) { return new(waker), nil }

func (w *waker) wake() { w.called.Store(true) }

func (w *waker) close() {}
