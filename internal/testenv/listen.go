package testenv

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"testing"
)

// given are the ports that this program was given.
var given sync.Map

// FreePort is a port that is free on all addresses, for UDP and TCP. It is below those that the kernel gives to clients, of
// which there are many in these tests: a client that connects holds its port on every address for a while. It is drawn, so
// that programs that run at the same time do not get the same one, and is given once by a program: what it is for may not listen yet
// when the next one is drawn.
func FreePort() (int, error) {
	for range 100 {
		port := 10000 + rand.IntN(20000)
		if _, given := given.LoadOrStore(port, true); given {
			continue
		}
		l, pc, err := listenBoth(fmt.Sprintf(":%d", port))
		if err == nil {
			l.Close()
			pc.Close()
			return port, nil
		}
	}
	return 0, errors.New("no free port")
}

// Port is FreePort for a test.
func Port(t testing.TB) int {
	t.Helper()
	port, err := FreePort()
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// Local is a Port of 127.0.0.1.
func Local(t testing.TB) netip.AddrPort {
	t.Helper()
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(Port(t)))
}

// ListenBoth listens on a port of loopback over both transports.
func ListenBoth(t testing.TB) (net.Listener, net.PacketConn) {
	t.Helper()
	l, pc, err := listenBoth(fmt.Sprintf("127.0.0.1:%d", Port(t)))
	if err != nil {
		t.Fatal(err)
	}
	return l, pc
}

func listenBoth(address string) (net.Listener, net.PacketConn, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, nil, err
	}
	pc, err := net.ListenPacket("udp", address)
	if err != nil {
		l.Close()
		return nil, nil, err
	}
	return l, pc, nil
}
