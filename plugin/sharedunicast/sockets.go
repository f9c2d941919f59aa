package sharedunicast

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"

	"github.com/coredns-anycast/coredns-anycast/internal/socket"
)

// The sockets of the shared addresses belong to the process. A server holds a descriptor of its own; that of the next
// instance is duplicated from one that is held, so that both read from one kernel socket, and what is queued there is
// lost to neither. The last to give its descriptor back closes the socket.

// socketID names a socket of the process.
type socketID struct {
	network string // "udp" or "tcp"
	addr    netip.AddrPort
	index   int // with multisocket, 0 to n-1
}

// descriptor is a *udpSocket or a *tcpSocket.
type descriptor interface {
	Close() error
	duplicate() (descriptor, error) // another descriptor of the same kernel socket
	control(f func(fd int) error) error
}

var sockets = struct {
	sync.Mutex
	held map[socketID][]descriptor
}{held: make(map[socketID][]descriptor)}

// takeUDP returns a descriptor of the UDP socket that is so named, and makes the socket if the process has none.
func takeUDP(addr netip.AddrPort, index int, reusePort bool) (*udpSocket, error) {
	d, err := take(socketID{"udp", addr, index}, reusePort)
	if err != nil {
		return nil, err
	}
	return d.(*udpSocket), nil
}

// takeTCP does the same for a listening TCP socket.
func takeTCP(addr netip.AddrPort, index int, reusePort bool) (*tcpSocket, error) {
	d, err := take(socketID{"tcp", addr, index}, reusePort)
	if err != nil {
		return nil, err
	}
	return d.(*tcpSocket), nil
}

func take(id socketID, reusePort bool) (descriptor, error) {
	sockets.Lock()
	defer sockets.Unlock()
	d, err := openLocked(id, reusePort)
	if err != nil {
		return nil, err
	}
	sockets.held[id] = append(sockets.held[id], d)
	return d, nil
}

func openLocked(id socketID, reusePort bool) (descriptor, error) {
	held := sockets.held[id]
	if len(held) == 0 {
		return listen(id.network, id.addr, reusePort)
	}
	if reusePort {
		// The socket may be from a time when it was the only one. The kernel lets others join once all agree.
		if err := held[0].control(reusePortOption); err != nil {
			return nil, fmt.Errorf("sharing %s %s: %w", id.network, id.addr, err)
		}
	}
	return held[0].duplicate()
}

// give returns a descriptor that was taken.
func give(d descriptor) {
	sockets.Lock()
	defer sockets.Unlock()
	d.Close() // again, if the server has closed it: no harm
	for id, held := range sockets.held {
		held = slices.DeleteFunc(held, func(other descriptor) bool { return other == d })
		if sockets.held[id] = held; len(held) == 0 {
			delete(sockets.held, id)
		}
	}
}

// probe finds out whether several sockets may be made at addr. With SO_REUSEPORT, which they need, the kernel would let
// them join those of another process; so try without, unless the address is ours already.
func probe(addr netip.AddrPort, tcp, udp int) error {
	sockets.Lock()
	defer sockets.Unlock()
	if len(sockets.held[socketID{"tcp", addr, 0}]) > 0 {
		return nil
	}
	for _, network := range []string{"tcp", "udp"} {
		if network == "tcp" && tcp == 1 || max(tcp, udp) == 1 {
			continue
		}
		d, err := listen(network, addr, false)
		if err != nil {
			return err
		}
		d.Close()
	}
	return nil
}

// listen makes a socket, sets its options, and binds it.
func listen(network string, addr netip.AddrPort, reusePort bool) (descriptor, error) {
	family := "4"
	if addr.Addr().Is6() {
		family = "6" // which also makes the net package set IPV6_V6ONLY
	}
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		return control(c, func(fd int) error {
			if reusePort {
				if err := reusePortOption(fd); err != nil {
					return err
				}
			}
			return setOptions(fd, network, addr.Addr().Is6())
		})
	}}
	lc.KeepAlive = -1         // connections that are idle end soon: to set it up takes four system calls for each
	lc.SetMultipathTCP(false) // an MPTCP socket refuses IP_MTU_DISCOVER

	d, err := bound(&lc, network, network+family, addr)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("%w: stop what holds it, or, if that was this process with other directives before a reload, restart", err)
	}
	if err != nil {
		return nil, socket.Explain(err, addr)
	}
	return d, nil
}

// bound binds a socket, and listens for connections.
func bound(lc *net.ListenConfig, kind, network string, addr netip.AddrPort) (descriptor, error) {
	if kind == "udp" {
		conn, err := lc.ListenPacket(context.Background(), network, addr.String())
		if err != nil {
			return nil, err
		}
		return newUDPSocket(conn.(*net.UDPConn))
	}
	l, err := lc.Listen(context.Background(), network, addr.String())
	if err != nil {
		return nil, err
	}
	return newTCPSocket(l.(*net.TCPListener))
}

// control runs f on the descriptor of c.
func control(c syscall.RawConn, f func(fd int) error) error {
	var err error
	if cerr := c.Control(func(fd uintptr) { err = f(int(fd)) }); cerr != nil {
		return cerr
	}
	return err
}
