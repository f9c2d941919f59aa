package bgp

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	packet "github.com/osrg/gobgp/v4/pkg/packet/bgp"

	"github.com/coredns-anycast/coredns-anycast/internal/status"
)

const (
	inquireEvery  = 30 * time.Second // for one neighbour
	inquireWithin = 4 * time.Second
	headerLength  = 19 // octets (RFC 4271 4.1)
)

// refused finds out why a router turns this side's OPEN down, since GoBGP reads the NOTIFICATION and does not tell. It
// returns at once.
func (s *Speaker) refused(address netip.Addr) {
	go func() {
		s.mu.Lock()
		n := s.neighbor(address)
		s.mu.Unlock()
		if n != nil && !n.Passive {
			s.inquire(*n)
		}
	}()
}

// inquire opens a connection of its own, like those of the session, says OPEN, and reads what comes. GoBGP has just
// failed and waits before its next try, so the two do not meet.
func (s *Speaker) inquire(n Neighbor) {
	s.mu.Lock()
	soon := time.Since(s.inquired[n.Address]) < inquireEvery || s.stopped
	if !soon {
		s.inquired[n.Address] = time.Now()
	}
	s.mu.Unlock()
	if soon {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), inquireWithin)
	defer cancel()
	conn, err := s.dial(ctx, n)
	if err != nil {
		return // what there is to say of that GoBGP says
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(inquireWithin))
	if _, err := conn.Write(s.open(n)); err != nil {
		return
	}
	for range 3 { // OPEN, KEEPALIVE, NOTIFICATION: more is not to come
		m, err := readMessage(conn)
		if err != nil {
			return
		}
		switch body := m.Body.(type) {
		case *packet.BGPOpen:
			if as := asOf(body); as != n.AS {
				s.troubles.set(n.Address, status.Reason{Code: WrongAS, Detail: fmt.Sprintf("the router is of AS %d, and configured is %d: %s",
					as, n.AS, notificationName(2, 2))}, true)
				return
			}
		case *packet.BGPNotification:
			if body.ErrorCode != packet.BGP_ERROR_CEASE || body.ErrorSubcode != packet.BGP_ERROR_SUB_CONNECTION_COLLISION_RESOLUTION {
				s.troubles.set(n.Address, status.Reason{Code: NotificationReceived, Detail: "the router turned this side's OPEN down: " +
					notificationName(body.ErrorCode, body.ErrorSubcode) + hint(body, s.cfg.AS)}, true)
			}
			return
		}
	}
}

// hint says what a refusal is about, where that is a matter of configuration.
func hint(n *packet.BGPNotification, as uint32) string {
	if n.ErrorCode == packet.BGP_ERROR_OPEN_MESSAGE_ERROR && n.ErrorSubcode == packet.BGP_ERROR_SUB_BAD_PEER_AS {
		return fmt.Sprintf(": it has this node as another AS than %d", as)
	}
	return ""
}

// dial connects as GoBGP does: from the same address, with the same protection.
func (s *Speaker) dial(ctx context.Context, n Neighbor) (net.Conn, error) {
	d := net.Dialer{Control: func(_, _ string, c syscall.RawConn) (err error) {
		family := familyOfSocket(n.Address)
		fault := c.Control(func(fd uintptr) {
			if err = password(int(fd), family, n); err == nil {
				err = ttlSecurity(int(fd), family, n)
			}
			if ttl := ttlOf(n, s.cfg.AS); err == nil && ttl > 0 {
				err = setTTL(int(fd), family, ttl)
			}
		})
		if fault != nil {
			return fault
		}
		return err
	}}
	if n.Source.IsValid() {
		d.LocalAddr = &net.TCPAddr{IP: n.Source.AsSlice()}
	}
	return d.DialContext(ctx, "tcp", net.JoinHostPort(n.Address.String(), strconv.Itoa(int(n.Port))))
}

// ttlOf is the TTL of a session's packets; 0 is the kernel's.
func ttlOf(n Neighbor, as uint32) int {
	switch {
	case n.TTLSecurity > 0:
		return 255
	case n.AS == as:
		return 0
	case n.Multihop > 0:
		return int(n.Multihop)
	}
	return 1
}

func setTTL(fd, family, ttl int) error {
	if family == unix.AF_INET6 {
		return unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS, ttl)
	}
	return unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_TTL, ttl)
}

// open is an OPEN message as this side's sessions begin with.
func (s *Speaker) open(n Neighbor) []byte {
	capabilities := []packet.ParameterCapabilityInterface{packet.NewCapRouteRefresh(), packet.NewCapFourOctetASNumber(s.cfg.AS)}
	for _, f := range families {
		if n.carries(f) {
			capabilities = append(capabilities, packet.NewCapMultiProtocol(f))
		}
	}
	as := uint16(packet.AS_TRANS)
	if s.cfg.AS < 1<<16 {
		as = uint16(s.cfg.AS)
	}
	m, err := packet.NewBGPOpenMessage(as, uint16(n.HoldTime/time.Second), s.cfg.RouterID,
		[]packet.OptionParameterInterface{packet.NewOptionParameterCapability(capabilities)})
	if err != nil {
		panic(err) // the configuration's router id is right
	}
	data, _ := m.Serialize()
	return data
}

func readMessage(r io.Reader) (*packet.BGPMessage, error) {
	header := make([]byte, headerLength)
	if _, err := io.ReadFull(r, header); err != nil {
		return nil, err
	}
	length := int(binary.BigEndian.Uint16(header[16:]))
	if length < headerLength || length > packet.BGP_MAX_MESSAGE_LENGTH {
		return nil, fmt.Errorf("a message of %d octets", length)
	}
	all := append(header, make([]byte, length-headerLength)...)
	if _, err := io.ReadFull(r, all[headerLength:]); err != nil {
		return nil, err
	}
	return packet.ParseBGPMessage(all)
}

// asOf is the AS that an OPEN says, in four octets where it can (RFC 6793).
func asOf(open *packet.BGPOpen) uint32 {
	for _, p := range open.OptParams {
		if caps, ok := p.(*packet.OptionParameterCapability); ok {
			for _, c := range caps.Capability {
				if as, ok := c.(*packet.CapFourOctetASNumber); ok {
					return as.CapValue
				}
			}
		}
	}
	return uint32(open.MyAS)
}
