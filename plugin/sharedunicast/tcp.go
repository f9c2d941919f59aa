package sharedunicast

import (
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
	var listener net.Listener = s.listener
	if s.group.transport == transport.TLS {
		listener = tls.NewListener(s.listener, s.group.configs[0].TLSConfig.Clone())
	}
	defer s.loops.Done()
	var open sync.WaitGroup
	defer open.Wait()
	for {
		conn, err := listener.Accept()
		if temporary, ok := err.(net.Error); ok && temporary.Temporary() { //nolint:staticcheck // no descriptor is left, say
			time.Sleep(5 * time.Millisecond)
			continue
		}
		if err != nil {
			if s.listener.draining() {
				return nil
			}
			return err
		}
		open.Go(func() {
			defer conn.Close()
			s.converse(conn)
		})
	}
}

const (
	firstRead   = 2048    // octets of a connection's queries that there is room for, until one is longer
	mostWritten = 1 << 16 // octets of responses that are collected
)

// conversation is a connection and what was read from it.
type conversation struct {
	net.Conn
	unread  []byte // what came and was not yet taken
	buffer  []byte // where it lies
	pending []byte // responses that were not yet sent
	err     error  // of sending
}

// converse answers what comes by one connection, in the order in which it came, until either side has had enough.
// Queries that came together are answered together.
func (s *server) converse(conn net.Conn) {
	core := s.core()
	c := &conversation{Conn: conn, buffer: make([]byte, firstRead)}
	timeout := core.ReadTimeout
	for n := 0; n < core.MaxTCPQueries || core.MaxTCPQueries < 0; n++ {
		message, ok := c.next(timeout)
		if !ok {
			break
		}
		x := &responder{out: c, local: conn.LocalAddr(), remote: conn.RemoteAddr()}
		if secure, ok := conn.(*tls.Conn); ok {
			x.tls = secure.ConnectionState
		}
		var q query.Query
		answered := s.front.pass(message, &q, q.Parse(message), x)
		if !answered || x.closed || x.hijacked || c.err != nil {
			break
		}
		timeout = core.IdleTimeout
	}
	c.flush()
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
		}
		if !c.read() {
			return nil, false
		}
	}
}

// read reads what there is. The buffer grows with what has come, not with what was promised.
func (c *conversation) read() bool {
	have := copy(c.buffer, c.unread)
	if have == len(c.buffer) {
		c.buffer = append(c.buffer, make([]byte, len(c.buffer))...)
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
		_, c.err = c.Conn.Write(c.pending)
		c.pending = c.pending[:0]
	}
	return c.err == nil
}
