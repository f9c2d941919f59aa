package bgp

import (
	"context"
	"os"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

const (
	bfdPort     = 3784 // RFC 5881 4
	lookForBFD  = 10 * time.Millisecond
	lookAgain   = time.Second
	netOffset   = 0xfff00000 // SKF_NET_OFF: the network header, of a packet that a socket's filter is shown
	ttlOffset   = 8          // of the TTL in an IPv4 header
	limitOffset = 7          // of the hop limit in an IPv6 header
)

// fromNextDoor drops what came through a router: packets whose TTL or hop limit is not 255 (RFC 5881 5).
var fromNextDoor = []unix.SockFilter{
	{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: netOffset},
	{Code: unix.BPF_ALU | unix.BPF_RSH | unix.BPF_K, K: 4},
	{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: 6, Jt: 2}, // the version
	{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: netOffset + ttlOffset},
	{Code: unix.BPF_JMP | unix.BPF_JA, K: 1},
	{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: netOffset + limitOffset},
	{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: 255, Jt: 1},
	{Code: unix.BPF_RET | unix.BPF_K, K: 0},
	{Code: unix.BPF_RET | unix.BPF_K, K: 0xffff},
}

// guardBFD has the kernel look at the TTL of BFD packets, which GoBGP does not do. GoBGP opens its socket within a second
// of the start and shows it to nobody, so it is looked for among those of the process, and again in case it is another one.
func (s *Speaker) guardBFD() {
	if !slices.ContainsFunc(s.cfg.Neighbors, func(n Neighbor) bool { return n.BFD > 0 }) {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	s.unguard = cancel
	go func() {
		for wait := lookForBFD; ctx.Err() == nil; {
			if found, err := attachToBFD(); err != nil {
				s.troubles.log.Error("the TTL of BFD packets is not looked at (RFC 5881 5)", "error", err)
				return
			} else if found {
				wait = lookAgain
			}
			select {
			case <-ctx.Done():
			case <-time.After(wait):
			}
		}
	}()
}

// attachToBFD puts the filter on the process's BFD socket, and reports whether there is one.
func attachToBFD() (found bool, err error) {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return false, err
	}
	for _, e := range entries {
		fd, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		mine, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0) // what is closed meanwhile is nobody else's then
		if err != nil {
			continue
		}
		if isBFD(mine) {
			found = true
			err = unix.SetsockoptSockFprog(mine, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(fromNextDoor)), Filter: &fromNextDoor[0]})
		}
		unix.Close(mine)
		if err != nil {
			return found, err
		}
	}
	return found, nil
}

// isBFD reports whether a descriptor is a UDP socket that listens on BFD's port.
func isBFD(fd int) bool {
	kind, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	if err != nil || kind != unix.SOCK_DGRAM {
		return false
	}
	address, err := unix.Getsockname(fd)
	if err != nil {
		return false
	}
	switch a := address.(type) {
	case *unix.SockaddrInet4:
		return a.Port == bfdPort
	case *unix.SockaddrInet6:
		return a.Port == bfdPort
	}
	return false
}
