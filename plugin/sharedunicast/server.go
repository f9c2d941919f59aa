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
	listener    *drainListener // nil only if take failed
	streams     *ledger        // what is counted of connections for plugin prometheus,
	traffic     *traffic       // and for statistics; nil without these
	stop        *waker
	loops       sync.WaitGroup // that read queries
	open        sync.WaitGroup // conversations

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

// take takes the sockets of index i at the group's address, or of index 0 and as many of UDP as said.
func (s *server) take(g *group, i int, reusePort bool, udp int) error {
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
	told, err := newWaker()
	if err != nil {
		return err
	}
	s.closers = append(s.closers, told.close)
	s.listener = newDrainListener(tcp, told)
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

// drainListener is a listening socket whose connections can be told to come to an end. They are taken by Accept, or by loops.
type drainListener struct {
	socket *tcpSocket
	told   *waker // of it, for loops

	mu       sync.Mutex
	listener net.Listener // of the socket, that Accept takes from; nil for loops
	end      time.Time    // not zero once draining
	takers   int          // of connections: each ends for itself, since it may have one that it had not said before
	loops    int          // that may have connections beside conns
	conns    map[*drainConn]struct{}
	idle     chan struct{} // closed when draining and without all of these
}

func newDrainListener(socket *tcpSocket, told *waker) *drainListener {
	return &drainListener{socket: socket, told: told, conns: make(map[*drainConn]struct{}), idle: make(chan struct{})}
}

// begin says that so many take connections from here on, and reports whether they may.
func (l *drainListener) begin(takers, loops int, listener net.Listener) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.end.IsZero() {
		return false
	}
	l.takers, l.loops, l.listener = takers, loops, listener
	return true
}

// takesNoMore says that a taker has ended, and returns the time by which its connections have to. The last one closes the socket,
// if no other instance has it.
func (l *drainListener) takesNoMore() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.takers--; l.takers == 0 {
		give(l.socket)
	}
	l.closeIdle()
	return l.end
}

// loopEnded says that a loop has no connections, and will have none.
func (l *drainListener) loopEnded() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.loops--
	l.closeIdle()
}

// adopt makes a connection, which has a place already, one of the listener's own.
func (l *drainListener) adopt(conn net.Conn, place *guest) *drainConn {
	c := &drainConn{Conn: conn, listener: l, place: place}
	l.mu.Lock()
	l.conns[c] = struct{}{}
	l.mu.Unlock()
	connected.move(place, c)
	return c
}

// Accept implements net.Listener. It takes none while too many that were told to end are not yet closed.
func (l *drainListener) Accept() (net.Conn, error) {
	for ending.Load() >= mostEnding && !l.draining() {
		time.Sleep(acceptPause)
	}
	conn, err := l.listener.Accept()
	if err != nil {
		return nil, err
	}
	c := &drainConn{Conn: conn, listener: l}
	c.place = connected.enter(hostOf(conn.RemoteAddr()), c)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.conns[c] = struct{}{}
	return c, nil
}

// Addr implements net.Listener.
func (l *drainListener) Addr() net.Addr { return l.socket.Addr() }

// Close implements net.Listener. Who stops the server has it drained.
func (l *drainListener) Close() error { return nil }

// drain stops accepting, and lets the connections read no longer than until end.
func (l *drainListener) drain(end time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.end = end
	if l.listener != nil {
		l.listener.Close()
	}
	l.told.wake()
	for c := range l.conns {
		c.Conn.SetReadDeadline(end)
	}
	l.closeIdle()
}

// draining says whether the listener takes no more connections because it was told so.
func (l *drainListener) draining() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return !l.end.IsZero()
}

// closeIdle is called with l.mu held, after each change of what it looks at.
func (l *drainListener) closeIdle() {
	if l.end.IsZero() || l.takers > 0 || l.loops > 0 || len(l.conns) > 0 {
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

// end implements ender. Whoever reads or writes the connection finds that out, and closes it again. Close waits until it has, for which
// the crowd must not be held up.
func (c *drainConn) end() {
	ending.Add(1)
	go func() {
		defer ending.Add(-1)
		c.Conn.Close()
	}()
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

// Close implements net.Conn. The connection has its place until its descriptor is closed.
func (c *drainConn) Close() error {
	err := c.Conn.Close()
	connected.leave(c.place)
	l := c.listener
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.conns, c)
	l.closeIdle()
	return err
}
