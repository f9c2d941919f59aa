package socket

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
)

// ListenTCP listens at an address. Its error says what to do, as Explain has it.
func ListenTCP(at netip.AddrPort) (net.Listener, error) {
	l, err := net.Listen("tcp", at.String())
	if err != nil {
		return nil, Explain(err, at)
	}
	return l, nil
}

// Explain adds to the error of a socket that could not be bound to an address what an operator can do about it. Others stay as they are.
func Explain(err error, at netip.AddrPort) error {
	const privileged = 1024 // ports below want a privilege, unless net.ipv4.ip_unprivileged_port_start is another number
	switch {
	case errors.Is(err, syscall.EACCES) && at.Port() < privileged:
		return fmt.Errorf("%w: port %d takes root, or CAP_NET_BIND_SERVICE (AmbientCapabilities= in a unit of systemd, or setcap)", err, at.Port())
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		host := at.Addr().WithZone("")
		return fmt.Errorf("%w: no interface of this machine has %s: correct the address, or, if it is to be here: ip addr add %s dev lo", err, host, netip.PrefixFrom(host, host.BitLen()))
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("%w: another process holds it, see ss -lnp 'sport = :%d'", err, at.Port())
	}
	return err
}
