package sharedunicast

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// maxSegment is the TCP segment size that fits IPv6's minimum MTU of 1280 octets.
const maxSegment = 1220

// minMTU is IPv6's minimum MTU: what every path carries without asking.
const minMTU = 1280

// receiveBuffer is how many octets of queries a UDP socket holds while the process does not get a processor: some 2000, where
// the usual buffer of Linux holds 250. The kernel gives no more than net.core.rmem_max.
const receiveBuffer = 1 << 20

// deferAccept is for how many seconds the kernel keeps a connection by which nothing has come. So it is there with its first query.
const deferAccept = 1

type option struct {
	name                 string
	level, number, value int
}

// setOptions prepares a socket of a shared address before it is bound. Path MTU discovery is off on all of them
// (ROUTE-3): packets leave without DF, and what a router says about the path, perhaps of another node, is not heeded.
func setOptions(fd int, network string, ipv6 bool) error {
	options := []option{
		{"IP_FREEBIND", unix.IPPROTO_IP, unix.IP_FREEBIND, 1},
		{"IP_MTU_DISCOVER", unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_OMIT},
	}
	if ipv6 {
		options = []option{
			{"IPV6_FREEBIND", unix.IPPROTO_IPV6, unix.IPV6_FREEBIND, 1},
			{"IPV6_MTU_DISCOVER", unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_OMIT},
		}
	}
	switch network {
	case "tcp":
		options = append(options, option{"TCP_MAXSEG", unix.IPPROTO_TCP, unix.TCP_MAXSEG, maxSegment},
			option{"TCP_NODELAY", unix.IPPROTO_TCP, unix.TCP_NODELAY, 1}, // which the connections inherit
			option{"TCP_DEFER_ACCEPT", unix.IPPROTO_TCP, unix.TCP_DEFER_ACCEPT, deferAccept})
	default:
		options = append(options, option{"SO_RCVBUF", unix.SOL_SOCKET, unix.SO_RCVBUF, receiveBuffer})
	}
	if ipv6 && network != "tcp" {
		// No router fragments IPv6, so the host must, and without discovery to the size that passes everywhere.
		options = append(options, option{"IPV6_MTU", unix.IPPROTO_IPV6, unix.IPV6_MTU, minMTU})
	}
	for _, o := range options {
		if err := unix.SetsockoptInt(fd, o.level, o.number, o.value); err != nil {
			return fmt.Errorf("setting %s: %w", o.name, err)
		}
	}
	return nil
}

func reusePortOption(fd int) error {
	return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
}

// descriptors is how many the process may have open. The Go runtime has raised it as far as it may.
func descriptors() int {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return 1024
	}
	return int(min(limit.Cur, 1<<30))
}
