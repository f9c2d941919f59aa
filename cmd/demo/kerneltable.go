//go:build linux

package main

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/coredns-anycast/coredns-anycast/internal/lab"
)

// kernelTable is the main routing table of the namespace in which it was opened. Its routes bear the protocol number
// of BGP, so that they can be told from those of the links, and it leaves all others alone.
type kernelTable struct{ links *netlink.Handle }

func openKernelTable() (table, error) {
	links, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	return kernelTable{links}, err
}

// replace needs a next hop on one of the links; the kernel refuses any other.
func (t kernelTable) replace(prefix netip.Prefix, via netip.Addr) error {
	route := routeTo(prefix)
	route.Gw = via.AsSlice()
	if err := t.links.RouteReplace(&route); err != nil {
		return fmt.Errorf("route to %s via %s: %w", prefix, via, err)
	}
	return nil
}

func (t kernelTable) remove(prefix netip.Prefix) error {
	route := routeTo(prefix)
	if err := t.links.RouteDel(&route); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("removing the route to %s: %w", prefix, err)
	}
	return nil
}

func routeTo(prefix netip.Prefix) netlink.Route {
	return netlink.Route{
		Dst:      lab.IPNet(prefix.Masked()),
		Protocol: unix.RTPROT_BGP,
		Priority: 20, // a link's own route is 0, and wins
	}
}
