//go:build linux

package main

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// prefix begins the name of everything that the demo makes outside its own processes; the process id follows, so that
// two demos do not meet and a crashed one can be told from a running one.
const prefix = "anycast-demo-"

// netnsDir is where `ip netns` finds namespaces.
const netnsDir = "/run/netns"

// A place is where sockets are opened and processes started: a network namespace, or this machine's own network when
// the story runs on loopback. It owns one thread for all its life: what that thread opens or starts belongs to the
// namespace, and processes that it started die with it (PR_SET_PDEATHSIG is about the thread, not the process).
type place struct {
	name  string
	netns string // the namespace's name for `ip netns exec`; "" on loopback
	calls chan func()
	ns    netns.NsHandle
	links *netlink.Handle
}

// newPlace makes a place; with a namespace of its own when netnsName is not empty.
func newPlace(name, netnsName string) (*place, error) {
	p := &place{name: name, netns: netnsName, calls: make(chan func()), ns: netns.None()}
	ready := make(chan error)
	go p.live(ready)
	if err := <-ready; err != nil {
		return nil, fmt.Errorf("network namespace %s: %w", netnsName, err)
	}
	return p, nil
}

func (p *place) live(ready chan<- error) {
	runtime.LockOSThread() // never unlocked: the thread is in another namespace and ends with this goroutine
	ready <- p.enter()
	for call := range p.calls {
		call()
	}
}

func (p *place) enter() error {
	if p.netns == "" {
		return nil
	}
	var err error
	if p.ns, err = netns.NewNamed(p.netns); err != nil {
		return err
	}
	if p.links, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
		return err
	}
	for _, setting := range []string{
		"ipv4/ip_forward=1", "ipv6/conf/all/forwarding=1", "ipv4/conf/all/rp_filter=0", "ipv4/conf/default/rp_filter=0",
		"ipv6/conf/all/disable_ipv6=0", "ipv6/conf/default/disable_ipv6=0",
		"ipv6/conf/all/accept_dad=0", "ipv6/conf/default/accept_dad=0", // an address is usable at once
	} {
		key, value, _ := strings.Cut(setting, "=")
		if err := os.WriteFile(filepath.Join("/proc/sys/net", key), []byte(value), 0); err != nil {
			return err
		}
	}
	return p.up("lo")
}

// do runs f on the place's thread.
func (p *place) do(f func() error) error {
	done := make(chan error)
	p.calls <- func() { done <- f() }
	return <-done
}

// up brings a link up.
func (p *place) up(link string) error {
	l, err := p.links.LinkByName(link)
	if err != nil {
		return err
	}
	return p.links.LinkSetUp(l)
}

// address gives a link an address that is usable at once.
func (p *place) address(link string, address netip.Prefix) error {
	l, err := p.links.LinkByName(link)
	if err != nil {
		return err
	}
	a := &netlink.Addr{IPNet: ipNet(address)}
	if address.Addr().Is6() {
		a.Flags = unix.IFA_F_NODAD
	}
	if err := p.links.AddrAdd(l, a); err != nil {
		return fmt.Errorf("%s: address %s on %s: %w", p.name, address, link, err)
	}
	return nil
}

// gateway sends everything that the place does not know to the router at via.
func (p *place) gateway(via netip.Addr) error {
	if err := p.links.RouteAdd(&netlink.Route{Gw: via.AsSlice()}); err != nil {
		return fmt.Errorf("%s: default route via %s: %w", p.name, via, err)
	}
	return nil
}

// ipNet is p for netlink, the address's own bits kept.
func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// connect lays a cable from a to b; each end bears the name of the other.
func connect(a, b *place) error {
	cable := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: b.name}, PeerName: a.name, PeerNamespace: netlink.NsFd(int(b.ns))}
	if err := a.links.LinkAdd(cable); err != nil {
		return fmt.Errorf("cable from %s to %s: %w", a.name, b.name, err)
	}
	if err := a.up(b.name); err != nil {
		return err
	}
	return b.up(a.name)
}

// removeNamespaces removes the namespaces that the demo with process id pid made. The kernel lets go of one when its
// last process has ended.
func removeNamespaces(pid int) error {
	names, err := filepath.Glob(filepath.Join(netnsDir, prefix+strconv.Itoa(pid)+"-*"))
	if err != nil {
		return err
	}
	for _, path := range names {
		unix.Unmount(path, unix.MNT_DETACH) // fails if the crash came before the mount: the file goes anyway
		if err := os.Remove(path); err != nil {
			return err
		}
	}
	return nil
}
