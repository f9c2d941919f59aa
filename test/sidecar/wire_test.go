//go:build linux

package sidecar

import (
	order "encoding/binary"
	"errors"
	"net"
	"runtime"
	"time"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// tap is a socket that gets what comes in at the router from a node, with the kernel's time of each packet.
type tap struct {
	fd   int
	from net.IP
}

// tap listens from now on.
func (w *world) tap(f family) tap {
	w.t.Helper()
	t := tap{from: net.ParseIP(f.node)}
	if err := w.atRouter(func() (err error) { t.fd, err = packetSocket("down0"); return err }); err != nil {
		w.t.Fatalf("a packet socket at the router: %v", err)
	}
	return t
}

func (t tap) close() { unix.Close(t.fd) }

// packetSocket gets every packet of an interface.
func packetSocket(name string) (int, error) {
	link, err := net.InterfaceByName(name)
	if err != nil {
		return 0, err
	}
	all := order.NativeEndian.Uint16(order.BigEndian.AppendUint16(nil, unix.ETH_P_ALL))
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, int(all))
	if err != nil {
		return 0, err
	}
	return fd, errors.Join(unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: link.Index}),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1))
}

// atRouter does something in the router's namespace, where sockets that are opened there stay.
func (w *world) atRouter(do func() error) error {
	runtime.LockOSThread() // a thread that does not get home is thrown away
	home, err := netns.Get()
	if err != nil {
		return err
	}
	defer home.Close()
	there, err := netns.GetFromName(w.router)
	if err != nil {
		return err
	}
	defer there.Close()
	if err := netns.Set(there); err != nil {
		return err
	}
	err = do()
	if netns.Set(home) == nil {
		runtime.UnlockOSThread()
	}
	return err
}

// update is when the first BGP UPDATE (RFC 4271 4.1) since then came in; zero if none has.
func (t tap) update(since time.Time) time.Time {
	buf, oob := make([]byte, 1<<16), make([]byte, 128)
	for {
		n, oobn, _, _, err := unix.Recvmsg(t.fd, buf, oob, 0)
		if err != nil {
			return time.Time{}
		}
		messages, err := unix.ParseSocketControlMessage(oob[:oobn])
		if err != nil || len(messages) == 0 || len(messages[0].Data) < 16 {
			continue
		}
		stamp := messages[0].Data
		at := time.Unix(int64(order.NativeEndian.Uint64(stamp)), int64(order.NativeEndian.Uint64(stamp[8:])))
		if !at.Before(since) && hasUpdate(buf[:n], t.from) {
			return at
		}
	}
}

// hasUpdate reads a packet's headers and the BGP messages behind them.
func hasUpdate(b []byte, from net.IP) bool {
	var segment []byte
	switch {
	case len(b) > 40 && b[0]>>4 == 4 && b[9] == unix.IPPROTO_TCP && net.IP(b[12:16]).Equal(from):
		segment = b[int(b[0]&0xf)*4:]
	case len(b) > 60 && b[0]>>4 == 6 && b[6] == unix.IPPROTO_TCP && net.IP(b[8:24]).Equal(from):
		segment = b[40:]
	default:
		return false
	}
	const header, update = 19, 2
	for bgp := segment[int(segment[12]>>4)*4:]; len(bgp) >= header; {
		length := int(order.BigEndian.Uint16(bgp[16:]))
		if bgp[18] == update {
			return true
		}
		if length < header || length > len(bgp) {
			return false
		}
		bgp = bgp[length:]
	}
	return false
}
