package sharedunicast

import (
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/coredns/caddy"
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/plugin/pkg/transport"
)

// coreServer is a *dnsserver.Server or *dnsserver.ServerTLS: a server that makes its own sockets and loops, if it is let.
type coreServer interface {
	caddy.GracefulServer
	caddy.AfterStartup
}

// server is a server of the core on sockets of ours, which it reads and writes itself (udp.go, tcp.go): the core's own loops
// read no more than 512 octets of a query by UDP, tell the client its own payload size as if it were the server's, answer
// what must not be answered, and have no bound. The core gets what is to go through the chain.
type server struct {
	coreServer
	instance    *instance
	group       *group
	front       *front
	packets     []*udpSocket   // none for DNS over TLS
	firstSocket int            // index of the first of them
	listener    *drainListener // nil only if open failed
	streams     *ledger        // what is counted of connections for plugin prometheus,
	traffic     *traffic       // and for statistics; nil without these
	stop        *waker
	loops       sync.WaitGroup // that read queries

	closers   []func()
	closeOnce sync.Once
}

// core is the core's server that answers.
func (s *server) core() *dnsserver.Server {
	if s, ok := s.coreServer.(*dnsserver.ServerTLS); ok {
		return s.Server
	}
	return s.coreServer.(*dnsserver.Server)
}

// open takes the sockets of index i at the group's address, or of index 0 and as many of UDP as said.
func (s *server) open(g *group, i int, reusePort bool, udp int) error {
	var err error
	if s.stop, err = newWaker(); err != nil {
		return err
	}
	s.closers = append(s.closers, s.stop.close)
	tcp, err := takeTCP(g.addr, i, reusePort)
	if err != nil {
		return err
	}
	s.closers = append(s.closers, func() { give(tcp) })
	s.listener = newDrainListener(tcp)
	s.streams = ledgerOf(g.address(), "tcp", tcp.Addr(), 0)
	s.traffic = s.front.guard.recorder.socket(kindOfSocket(g.addr, true), g.address())
	s.loops.Add(2) // Serve and ServePacket, which caddy calls once all servers are there
	if g.transport == transport.TLS {
		return nil
	}
	for j := range udp {
		conn, err := takeUDP(g.addr, i+j, reusePort || udp > 1)
		if err != nil {
			return err
		}
		s.closers = append(s.closers, func() { give(conn) })
		s.packets = append(s.packets, conn)
	}
	s.firstSocket = i
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

// graceTimeout is what queries that are being answered may take when the server stops, as in the core.
const graceTimeout = 5 * time.Second

// Stop implements caddy.Stopper. Connections may ask what they were about to ask; then the loops end.
func (s *server) Stop() error {
	end := s.instance.drain()
	s.listener.wait(end)
	s.stop.wake()
	s.listener.closeAll()
	ended := make(chan struct{})
	go func() {
		s.loops.Wait()
		s.close()
		s.instance.ended()
		close(ended)
	}()
	timer := time.NewTimer(graceTimeout)
	defer timer.Stop()
	select {
	case <-ended:
		return nil
	case <-timer.C:
		return fmt.Errorf("%s: queries are still being answered after %v", s.Address(), graceTimeout)
	}
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

// draining says whether the listener takes no more connections because it was told so.
func (l *drainListener) draining() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return !l.end.IsZero()
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

// closeAll closes what is still open.
func (l *drainListener) closeAll() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for c := range l.conns {
		c.Conn.Close() // whoever reads it finds that out, and closes it again
	}
}

// drainConn is a connection of a drainListener.
type drainConn struct {
	net.Conn
	listener *drainListener
	place    *guest // among all that are connected
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
