package sharedunicast

import (
	"container/list"
	"net"
	"sync"
	"time"

	"github.com/coredns/caddy"
	"github.com/coredns/coredns/plugin/pkg/transport"
	"github.com/miekg/dns"
)

// coreServer is a *dnsserver.Server or *dnsserver.ServerTLS: a server that makes its own sockets and loops, if it is let.
type coreServer interface {
	caddy.GracefulServer
	caddy.AfterStartup
}

// server is a server of the core on sockets of ours, which it reads and writes itself (serve.go).
type server struct {
	coreServer
	instance *instance
	group    *group
	packet   *net.UDPConn   // nil for DNS over TLS
	listener *drainListener // nil only if open failed

	mu      sync.Mutex
	loops   []*dns.Server // that read queries
	stopped bool

	closers   []func()
	closeOnce sync.Once
}

// open takes the sockets of index i at the group's address.
func (s *server) open(g *group, i int, reusePort bool) error {
	tcp, err := takeTCP(g.addr, i, reusePort)
	if err != nil {
		return err
	}
	s.closers = append(s.closers, func() { give(tcp) })
	s.listener = newDrainListener(tcp)
	if g.transport == transport.TLS {
		return nil
	}
	if s.packet, err = takeUDP(g.addr, i, reusePort); err != nil {
		return err
	}
	s.closers = append(s.closers, func() { give(s.packet) })
	return nil
}

// close gives the sockets back.
func (s *server) close() {
	s.closeOnce.Do(func() {
		for _, c := range s.closers {
			c()
		}
	})
}

// Stop implements caddy.Stopper. Left to itself a loop cuts TCP connections that it has accepted, but not yet read a
// query from; those clients get no answer. So it gets to stop only when the connections are idle.
func (s *server) Stop() error {
	end := s.instance.drain()
	s.listener.wait(end)
	err := s.stopLoops()
	s.close()
	return err
}

// drainListener is a listener whose connections can be told to come to an end.
type drainListener struct {
	net.Listener

	mu    sync.Mutex
	end   time.Time // not zero once draining
	ended bool      // Accept has returned for the last time
	conns map[*drainConn]struct{}
	idle  chan struct{} // closed when ended and without connections
}

func newDrainListener(l net.Listener) *drainListener {
	return &drainListener{Listener: l, conns: make(map[*drainConn]struct{}), idle: make(chan struct{})}
}

// Accept implements net.Listener.
func (l *drainListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		l.ended = !l.end.IsZero()
		l.closeIdle()
		return nil, err
	}
	c := &drainConn{Conn: conn, listener: l, place: connected.enter(conn)}
	l.conns[c] = struct{}{}
	return c, nil
}

// drain stops accepting, and lets the connections read no longer than until end.
func (l *drainListener) drain(end time.Time) {
	l.Listener.Close()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.end = end
	for c := range l.conns {
		c.Conn.SetReadDeadline(end)
	}
}

// closeIdle is called with l.mu held, after each change of what it looks at. That the listener is closed is not enough:
// Accept may be about to return a connection that it had before.
func (l *drainListener) closeIdle() {
	if !l.ended || len(l.conns) > 0 {
		return
	}
	select {
	case <-l.idle:
	default:
		close(l.idle)
	}
}

// wait returns when all connections are closed, or at end.
func (l *drainListener) wait(end time.Time) {
	timer := time.NewTimer(time.Until(end))
	defer timer.Stop()
	select {
	case <-l.idle:
	case <-timer.C:
	}
}

// drainConn is a connection of a drainListener.
type drainConn struct {
	net.Conn
	listener *drainListener
	place    *list.Element // among all that are connected
}

// SetReadDeadline implements net.Conn. A server sets it before each read.
func (c *drainConn) SetReadDeadline(t time.Time) error {
	l := c.listener
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.end.IsZero() && (t.IsZero() || t.After(l.end)) {
		t = l.end
	}
	return c.Conn.SetReadDeadline(t)
}

// writeTimeout is how long a client may take to make room for a response, or for a message of a transfer.
const writeTimeout = 5 * time.Second

// Write implements net.Conn. The dns package sets no deadline: who asks and never reads would keep the connection, what it
// has in the kernel's memory, and the release that is being transferred. After a part of a message nothing else can follow.
func (c *drainConn) Write(b []byte) (int, error) {
	if err := c.Conn.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return 0, err
	}
	n, err := c.Conn.Write(b)
	if err != nil {
		c.Conn.Close()
	}
	return n, err
}

// Close implements net.Conn.
func (c *drainConn) Close() error {
	l := c.listener
	l.mu.Lock()
	delete(l.conns, c)
	l.closeIdle()
	l.mu.Unlock()
	connected.leave(c.place)
	return c.Conn.Close()
}
