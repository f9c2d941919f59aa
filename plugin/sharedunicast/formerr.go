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

// mendRcode makes a SERVFAIL to no question a FORMERR. Within TLS nobody looks.
func mendRcode(message []byte) {
	const rcode, qdcount, header = 3, 4, 12
	if len(message) >= header && message[qdcount] == 0 && message[qdcount+1] == 0 && message[rcode]&0xf == dns.RcodeServerFailure {
		message[rcode] = message[rcode]&0xf0 | dns.RcodeFormatError
	}
}
