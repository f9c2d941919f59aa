package sharedunicast

import (
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// waker ends the loops of a server, which wait in poll(2).
type waker struct {
	called atomic.Bool
	fd     int
}

func newWaker() (*waker, error) {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	return &waker{fd: fd}, err
}

// wake ends the loops, now and for ever.
func (w *waker) wake() {
	w.called.Store(true)
	unix.Write(w.fd, []byte{1, 0, 0, 0, 0, 0, 0, 0})
}

// close gives the descriptor back. No loop may run.
func (w *waker) close() { unix.Close(w.fd) }
