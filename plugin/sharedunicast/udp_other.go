//go:build !linux

package sharedunicast

import (
	"errors"
	"net"
	"os"
	"sync/atomic"
	"time"
)

// udpLoop reads a UDP socket and hands all that comes to its crew.
type udpLoop struct {
	front *front
	conn  *net.UDPConn
	stop  *waker
	crew  crew
}

// run reads until the server stops.
func (l *udpLoop) run() error {
	b := make([]byte, readUDP)
	for !l.stop.called.Load() {
		l.conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		n, from, err := l.conn.ReadFromUDPAddrPort(b)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			continue
		}
		if err != nil {
			return err
		}
		l.crew.take(b[:n], from)
	}
	return nil
}

// waker ends the loops of a server.
type waker struct{ called atomic.Bool }

func newWaker() (*waker, error) { return new(waker), nil }

func (w *waker) wake() { w.called.Store(true) }

func (w *waker) close() {}
