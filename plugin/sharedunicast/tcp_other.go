//go:build !linux

package sharedunicast

import "net"

// tcpSocket is a listening TCP socket.
type tcpSocket struct{ *net.TCPListener }

func newTCPSocket(l *net.TCPListener) (*tcpSocket, error) { return &tcpSocket{l}, nil }

func (t *tcpSocket) duplicate() (descriptor, error) {
	l, err := t.listen()
	if err != nil {
		return nil, err
	}
	return &tcpSocket{l.(*net.TCPListener)}, nil
}

func (t *tcpSocket) control(f func(fd int) error) error {
	c, err := t.SyscallConn()
	if err != nil {
		return err
	}
	return control(c, f)
}

// listen returns a listener of the socket.
func (t *tcpSocket) listen() (net.Listener, error) {
	f, err := t.File()
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return net.FileListener(f)
}

// serveLoops would serve connections in threads of our own.
func (s *server) serveLoops() bool { return false }
