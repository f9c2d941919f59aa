package sharedunicast

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"net"
	"sync"
	"time"

	"github.com/coredns/coredns/plugin/pkg/transport"
	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/query"
)

// Serve implements caddy.TCPServer: it takes connections until the server stops.
func (s *server) Serve(net.Listener) error {
	defer s.loops.Done()
	if s.serveLoops() {
		return nil
	}
	return s.accept()
}

// accept takes connections, each of which has a goroutine.
func (s *server) accept() error {
	accepting, err := s.listener.socket.listen()
	if err != nil {
		return err
	}
	if !s.listener.begin(1, 0, accepting) {
		accepting.Close()
		return nil
	}
	defer s.open.Wait()
	defer s.listener.takesNoMore()
	var listener net.Listener = s.listener
	if s.group.transport == transport.TLS {
		listener = tls.NewListener(s.listener, s.group.configs[0].TLSConfig.Clone())
	}
	for {
		conn, err := listener.Accept()
		if temporary, ok := err.(net.Error); ok && temporary.Temporary() { //nolint:staticcheck // no descriptor is left, say
			time.Sleep(acceptPause)
			continue
		}
		if err != nil {
			if s.listener.draining() {
				return nil
			}
			return err
		}
		s.open.Go(func() {
			defer conn.Close()
			s.converse(conn, conversationBegun{timeout: s.core().ReadTimeout})
		})
	}
}

// acceptPause is how long no connection is taken where there is no descriptor for it.
const acceptPause = 5 * time.Millisecond

const (
	firstRead   = 2048                           // octets of a connection's queries that there is room for, until one is longer
	mostRead    = 2 + dns.MaxMsgSize + firstRead // octets of a message, and of the next ones
	mostWritten = 1 << 16                        // octets of responses that are collected
)

// conversation is a connection and what was read from it.
type conversation struct {
	net.Conn
	server  *server
	query   query.Query
	fast    *fast // from its first query on
	room    *[firstRead]byte
	unread  []byte // what came and was not yet taken
	buffer  []byte // where it lies
	pending []byte // responses that were not yet sent
	load    *guest // among those that are laden, nil if it is not
	err     error  // of sending
}

// conversationBegun is what has come of a connection already.
type conversationBegun struct {
	queries int           // that were answered
	unread  []byte        // what came and was not yet taken
	pending []byte        // responses that were not yet sent
	timeout time.Duration // of the next message
	load    *guest        // where there is much of these
}

// converse answers what comes by one connection, in the order in which it came, until either side has had enough.
// Queries that came together are answered together.
func (s *server) converse(conn net.Conn, begun conversationBegun) {
	core := s.core()
	room := spareRoom.Get().(*[firstRead]byte)
	defer spareRoom.Put(room)
	c := &conversation{Conn: conn, server: s, room: room, buffer: room[:], unread: begun.unread, pending: begun.pending}
	c.load = begun.load
	timeout := begun.timeout
	for n := begun.queries; n < core.MaxTCPQueries || core.MaxTCPQueries < 0; n++ {
		message, ok := c.next(timeout)
		if !ok || !c.answer(message) {
			break
		}
		timeout = core.IdleTimeout
	}
	c.flush()
	c.leaveLaden()
	if c.fast != nil {
		spareFast.Put(c.fast)
	}
}

// burden takes a place among those that are laden, which whoever was there first may lose by it. It reports whether it could.
func (c *conversation) burden() bool {
	if c.load == nil && !laden.lags() {
		c.load = laden.enter(hostOf(c.RemoteAddr()), plainConn(c.Conn))
	}
	return c.load != nil
}

// unburden gives memory and place back, if nothing is pending, and of what was read there is little.
func (c *conversation) unburden() {
	if len(c.unread) > firstRead {
		return
	}
	c.unread = c.room[:copy(c.room[:], c.unread)]
	c.buffer = c.room[:]
	if c.load == nil {
		return
	}
	c.pending, c.query = nil, query.Query{} // which refers to the buffer
	if c.fast != nil {
		*c.fast = fast{asked: c.fast.asked} // as this does
	}
	c.leaveLaden()
}

func (c *conversation) leaveLaden() {
	if c.load != nil {
		laden.leave(c.load)
		c.load = nil
	}
}

// plainConn is a connection without TLS, which to end nobody waits for.
func plainConn(conn net.Conn) ender {
	if secure, ok := conn.(*tls.Conn); ok {
		conn = secure.NetConn()
	}
	return conn.(*drainConn)
}

var spareRoom = sync.Pool{New: func() any { return new([firstRead]byte) }}

var spareFast = sync.Pool{New: func() any { return new(fast) }}

// answer answers a message, and reports whether the connection is good for more.
func (c *conversation) answer(message []byte) bool {
	defer recovered(c.server.Address())
	began := time.Now()
	front := c.server.front
	v := c.query.Parse(message)
	if v != query.Ignore {
		c.server.traffic.query(len(message), hostOf(c.RemoteAddr()))
	}
	if v == query.Plain {
		if s := front.zones.find(&c.query); s != nil && s.backend != nil {
			switch c.quick(s, message, began) {
			case answered:
				return c.err == nil
			case silenced:
				front.silenced.Inc()
				return false
			}
		}
	}
	x := &responder{out: c, local: c.LocalAddr(), remote: c.RemoteAddr(), asked: c.asked(), traffic: c.server.traffic}
	x.asked.now = began
	if secure, ok := c.Conn.(*tls.Conn); ok {
		x.tls = secure.ConnectionState
	}
	return front.pass(message, &c.query, v, x) && !x.closed && !x.hijacked && c.err == nil
}

// asked is what is known of whoever asks by the connection.
func (c *conversation) asked() asked {
	_, secure := c.Conn.(*tls.Conn)
	return asked{client: hostOf(c.RemoteAddr()), stream: true, secure: secure}
}

// quick answers the query that was read on the fast path, if that can.
func (c *conversation) quick(s *served, message []byte, began time.Time) outcome {
	if c.fast == nil {
		c.fast = spareFast.Get().(*fast)
		c.fast.asked = c.asked()
	}
	c.fast.asked.now = began
	at := len(c.pending)
	response, what := c.fast.respond(append(c.pending, 0, 0), &c.query, s, c.server.front.guard, dns.MaxMsgSize)
	if what != answered {
		return what
	}
	length := len(response) - at - 2
	binary.BigEndian.PutUint16(response[at:], uint16(length))
	c.tell(message, response[at+2:])
	c.server.traffic.response(response[at+2:])
	if c.pending = response; len(response) > mostWritten {
		c.flush()
	}
	if s.counted {
		c.server.streams.mu.Lock()
		t := c.server.streams.tally(s)
		t.count(&c.query, c.fast.rcode, len(message), length)
		t.durations.add(time.Since(began), 1)
		if z := c.fast.answer.Zone; z != nil {
			c.server.streams.zones.count(z, c.fast.rcode)
		}
		c.server.streams.mu.Unlock()
	}
	return answered
}

// tell tells a dnstap collector of an exchange, if there is one.
func (c *conversation) tell(message, response []byte) {
	if t := c.server.front.guard.tapper; t != nil {
		t.tell(addrPortOf(c.RemoteAddr()), addrPortOf(c.LocalAddr()), true, c.fast.asked.now, message, response)
	}
}

// next is the next message. It refers to the buffer until the next call.
func (c *conversation) next(timeout time.Duration) (message []byte, ok bool) {
	deadline := false
	for {
		if len(c.unread) >= 2 {
			if end := 2 + int(binary.BigEndian.Uint16(c.unread)); len(c.unread) >= end {
				message, c.unread = c.unread[2:end], c.unread[end:]
				return message, true
			}
		}
		if !deadline {
			// What there is to say is said before waiting for more. A message may take no longer than that, however it comes.
			deadline = true
			if !c.flush() || c.SetReadDeadline(time.Now().Add(timeout)) != nil {
				return nil, false
			}
			c.unburden()
		}
		if !c.read() {
			return nil, false
		}
	}
}

// read reads what there is. The buffer grows with what has come, not with what was promised.
func (c *conversation) read() bool {
	if len(c.unread) > len(c.buffer) {
		c.buffer = bytes.Clone(c.unread)
	}
	have := copy(c.buffer, c.unread)
	if have == len(c.buffer) {
		if !c.burden() {
			return false
		}
		grown := make([]byte, min(2*have, mostRead))
		copy(grown, c.buffer)
		c.buffer = grown
	}
	n, err := c.Read(c.buffer[have:])
	c.unread = c.buffer[:have+n]
	return n > 0 || err == nil
}

// Write implements dns.Writer.
func (c *conversation) Write(b []byte) (int, error) {
	if len(b) > dns.MaxMsgSize {
		return 0, errors.New("a message of more than 65535 octets")
	}
	if len(c.pending) > 0 && len(c.pending)+2+len(b) > mostWritten && !c.flush() {
		return 0, c.err
	}
	c.pending = append(binary.BigEndian.AppendUint16(c.pending, uint16(len(b))), b...)
	return len(b), nil
}

// flush sends what is pending, and reports whether the connection is good for more.
func (c *conversation) flush() bool {
	if len(c.pending) > 0 && c.err == nil {
		if len(c.pending) > firstRead && !c.burden() {
			c.err = errors.New("too many clients do not read")
			return false
		}
		_, c.err = c.Conn.Write(c.pending)
		c.pending = c.pending[:0]
	}
	return c.err == nil
}
