package sharedunicast

import (
	"net"

	"github.com/miekg/dns"
)

// A message whose header promises a question that is not there is answered SERVFAIL by the core, before any plugin sees
// it. What is wrong is the message, not the server, so it leaves as FORMERR (RFC 1035 4.1.1).

// udpConn is a UDP socket with that mended in what is sent.
type udpConn struct{ *net.UDPConn }

// WriteTo implements net.PacketConn.
func (c udpConn) WriteTo(message []byte, to net.Addr) (int, error) {
	mendRcode(message)
	return c.UDPConn.WriteTo(message, to)
}

// tcpListener is a listener for plain DNS with that mended in what its connections send. Below TLS it would change what
// is no message: a ServerHello may look like one.
type tcpListener struct{ net.Listener }

// Accept implements net.Listener.
func (l tcpListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return tcpConn{conn}, nil
}

type tcpConn struct{ net.Conn }

// Write implements net.Conn. The server writes a message at a time, its length before it.
func (c tcpConn) Write(b []byte) (int, error) {
	const length = 2
	if len(b) > length {
		mendRcode(b[length:])
	}
	return c.Conn.Write(b)
}

// mendRcode makes a SERVFAIL to no question a FORMERR. Within TLS nobody looks.
func mendRcode(message []byte) {
	const rcode, qdcount, header = 3, 4, 12
	if len(message) >= header && message[qdcount] == 0 && message[qdcount+1] == 0 && message[rcode]&0xf == dns.RcodeServerFailure {
		message[rcode] = message[rcode]&0xf0 | dns.RcodeFormatError
	}
}
