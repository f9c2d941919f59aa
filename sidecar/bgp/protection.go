package bgp

import (
	"fmt"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"
)

// protectionWorks tries, on sockets of its own, whether the kernel gives each neighbour the protection that it is to have.
// GoBGP only logs when it does not, and would go on without.
func protectionWorks(cfg Config) error {
	bfd := false
	for _, n := range cfg.Neighbors {
		if err := onSocket(n, password); err != nil {
			return fmt.Errorf("neighbor %s: TCP MD5: %w", n.Address, err)
		}
		if err := onSocket(n, ttlSecurity); err != nil {
			return fmt.Errorf("neighbor %s: TTL security: %w", n.Address, err)
		}
		bfd = bfd || n.BFD > 0
	}
	if !bfd {
		return nil
	}
	port, err := net.ListenPacket("udp", ":3784") // RFC 5881 4
	if err != nil {
		return fmt.Errorf("BFD: %w (does another BFD daemon run here?)", err)
	}
	return port.Close()
}

// onSocket tries an option on a socket like those of n's sessions.
func onSocket(n Neighbor, set func(fd, family int, n Neighbor) error) error {
	family := familyOfSocket(n.Address)
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return set(fd, family, n)
}

func familyOfSocket(a netip.Addr) int {
	if a.Is6() {
		return unix.AF_INET6
	}
	return unix.AF_INET
}

func password(fd, family int, n Neighbor) error {
	if n.Password == "" {
		return nil
	}
	key := unix.TCPMD5Sig{Keylen: uint16(len(n.Password)), Addr: unix.SockaddrStorage{Family: uint16(family)}}
	if n.Address.Is4() { // of a sockaddr_in, and a sockaddr_in6, without the family
		copy(key.Addr.Data[2:], n.Address.AsSlice())
	} else {
		copy(key.Addr.Data[6:], n.Address.AsSlice())
	}
	if copy(key.Key[:], n.Password) < len(n.Password) {
		return fmt.Errorf("a password has at most %d bytes", len(key.Key))
	}
	return unix.SetsockoptTCPMD5Sig(fd, unix.IPPROTO_TCP, unix.TCP_MD5SIG, &key)
}

func ttlSecurity(fd, family int, n Neighbor) error {
	least := 256 - int(n.TTLSecurity)
	switch {
	case n.TTLSecurity == 0:
		return nil
	case family == unix.AF_INET6:
		return unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MINHOPCOUNT, least)
	}
	return unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MINTTL, least)
}
