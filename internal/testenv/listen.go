package testenv

import (
	"net"
	"testing"
)

// ListenBoth finds a port that is free over both transports.
func ListenBoth(t *testing.T) (net.Listener, net.PacketConn) {
	t.Helper()
	for {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		pc, err := net.ListenPacket("udp", l.Addr().String())
		if err == nil {
			return l, pc
		}
		defer l.Close() // kept until one fits, so that the same port is not offered again
	}
}
