package sharedunicast

import (
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// tcpSocket is a listening TCP socket of which the Go runtime does not know: it would be woken by every connection that comes.
type tcpSocket struct {
	fd    int
	local *net.TCPAddr
}

// newTCPSocket takes the socket from a listener, and closes that.
func newTCPSocket(l *net.TCPListener) (*tcpSocket, error) {
	defer l.Close()
	c, err := l.SyscallConn()
	if err != nil {
		return nil, err
	}
	t := &tcpSocket{local: l.Addr().(*net.TCPAddr)}
	err = control(c, func(fd int) (err error) {
		t.fd, err = duplicateDescriptor(fd)
		return err
	})
	return t, err
}

// Close gives the descriptor back. Nobody may use it any more.
func (t *tcpSocket) Close() error {
	if t.fd < 0 {
		return nil
	}
	err := unix.Close(t.fd)
	t.fd = -1
	return err
}

func (t *tcpSocket) duplicate() (descriptor, error) {
	fd, err := duplicateDescriptor(t.fd)
	if err != nil {
		return nil, err
	}
	return &tcpSocket{fd, t.local}, nil
}

func (t *tcpSocket) control(f func(fd int) error) error { return f(t.fd) }

// Addr is the address that the socket has.
func (t *tcpSocket) Addr() net.Addr { return t.local }

// listen returns a listener of the socket, of which the runtime knows.
func (t *tcpSocket) listen() (net.Listener, error) {
	fd, err := duplicateDescriptor(t.fd)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "")
	defer f.Close()
	return net.FileListener(f)
}
