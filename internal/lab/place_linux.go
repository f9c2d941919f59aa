package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// NetnsDir is where `ip netns` finds namespaces.
const NetnsDir = "/run/netns"

// A Place is where sockets are opened and processes started: a network namespace, or this machine's own network. It owns
// one thread for all its life: what that thread opens or starts belongs to the namespace, and a process that it started
// dies with it (PR_SET_PDEATHSIG is about the thread, not the process).
type Place struct {
	Name  string
	Netns string          // the namespace's name for `ip netns exec`; "": this machine's own network
	Links *netlink.Handle // of the namespace; nil in this machine's own network
	ns    netns.NsHandle
	back  func() error // from its own mounts to those of this process
	calls chan func()
	gone  chan struct{} // closed when the thread is no more here
}

// NewPlace makes a place, with a namespace of its own if netnsName is not empty, whose loopback interface is up. settings
// are those below /proc/sys/net, as KEY=VALUE.
func NewPlace(name, netnsName string, settings ...string) (*Place, error) {
	p := &Place{Name: name, Netns: netnsName, ns: netns.None(), calls: make(chan func()), gone: make(chan struct{})}
	ready := make(chan error)
	go p.live(ready, settings)
	if err := <-ready; err != nil {
		return nil, fmt.Errorf("network namespace %s: %w", netnsName, err)
	}
	return p, nil
}

// PlaceFor makes a place that ends with the test.
func PlaceFor(t T, name, netnsName string, settings ...string) *Place {
	t.Helper()
	p, err := NewPlace(name, netnsName, settings...)
	Must(t, err)
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	})
	return p
}

func (p *Place) live(ready chan<- error, settings []string) {
	defer close(p.gone)
	runtime.LockOSThread()
	home, err := netns.Get()
	if err == nil {
		err = p.enter(settings)
	}
	if ready <- err; err != nil {
		return // locked: the thread ends, wherever it is
	}
	for call := range p.calls {
		call()
	}
	if netns.Set(home) == nil && (p.back == nil || p.back() == nil) {
		runtime.UnlockOSThread() // or it would take processes along that it had started before it was ours
	}
	home.Close()
}

func (p *Place) enter(settings []string) error {
	if p.Netns == "" {
		return nil
	}
	var err error
	if p.ns, err = netns.NewNamed(p.Netns); err != nil {
		return err
	}
	if p.Links, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
		return err
	}
	for _, setting := range settings {
		key, value, _ := strings.Cut(setting, "=")
		if err := os.WriteFile(filepath.Join("/proc/sys/net", key), []byte(value), 0); err != nil {
			return err
		}
	}
	return p.Up("lo")
}

// Do runs f on the place's thread; nothing else is done there meanwhile, so f must not call Do. If f ends its goroutine,
// as a test's Fatal does, the place is gone.
func (p *Place) Do(f func() error) error {
	done := make(chan error, 1)
	select {
	case p.calls <- func() { done <- f() }:
	case <-p.gone:
		return errors.New(p.Name + " is gone")
	}
	select {
	case err := <-done:
		return err
	case <-p.gone:
		return errors.New("what was to be done at " + p.Name + " did not come to its end")
	}
}

// OwnMounts gives the place mounts of its own: what is mounted there from now on is seen by what is done and started there
// only, and goes with the last of these. What this process mounts or unmounts elsewhere is still seen there.
func (p *Place) OwnMounts() error {
	return p.Do(func() error {
		mounts, err := os.Open("/proc/thread-self/ns/mnt")
		if err != nil {
			return err
		}
		dir, err := os.Open(".")
		if err == nil {
			err = unix.Unshare(unix.CLONE_NEWNS)
		}
		if err != nil {
			return errors.Join(err, mounts.Close(), dir.Close())
		}
		p.back = func() error {
			defer mounts.Close()
			defer dir.Close()
			return errors.Join(unix.Setns(int(mounts.Fd()), unix.CLONE_NEWNS), dir.Chdir()) // the first goes to /
		}
		return unix.Mount("", "/", "", unix.MS_SLAVE|unix.MS_REC, "")
	})
}

// Close gives the thread back and removes the namespace, which the kernel lets go of when its last process has ended.
// Nothing is done at the place any more.
func (p *Place) Close() error {
	close(p.calls)
	<-p.gone
	if p.Netns == "" {
		return nil
	}
	p.Links.Close()
	return errors.Join(p.ns.Close(), removeNamespace(filepath.Join(NetnsDir, p.Netns)))
}

// RemoveNamespaces removes the namespaces whose names begin with a prefix.
func RemoveNamespaces(prefix string) error {
	paths, err := filepath.Glob(filepath.Join(NetnsDir, prefix+"*"))
	for _, path := range paths {
		err = errors.Join(err, removeNamespace(path))
	}
	return err
}

func removeNamespace(path string) error {
	unix.Unmount(path, unix.MNT_DETACH) // fails if a crash came before the mount: the file goes anyway
	return os.Remove(path)
}

// Up brings a link up.
func (p *Place) Up(link string) error { return p.set(link, (*netlink.Handle).LinkSetUp) }

// Down takes a link down.
func (p *Place) Down(link string) error { return p.set(link, (*netlink.Handle).LinkSetDown) }

func (p *Place) set(link string, to func(*netlink.Handle, netlink.Link) error) error {
	l, err := p.Links.LinkByName(link)
	if err != nil {
		return fmt.Errorf("%s: %s: %w", p.Name, link, err)
	}
	return to(p.Links, l)
}

// Address gives a link an address that is usable at once.
func (p *Place) Address(link string, address netip.Prefix) error {
	l, err := p.Links.LinkByName(link)
	if err != nil {
		return fmt.Errorf("%s: %s: %w", p.Name, link, err)
	}
	a := &netlink.Addr{IPNet: IPNet(address)}
	if address.Addr().Is6() {
		a.Flags = unix.IFA_F_NODAD
	}
	if err := p.Links.AddrAdd(l, a); err != nil {
		return fmt.Errorf("%s: address %s on %s: %w", p.Name, address, link, err)
	}
	return nil
}

// Gateway sends everything that the place does not know to the router at via.
func (p *Place) Gateway(via netip.Addr) error {
	if err := p.Links.RouteAdd(&netlink.Route{Gw: via.AsSlice()}); err != nil {
		return fmt.Errorf("%s: default route via %s: %w", p.Name, via, err)
	}
	return nil
}

// IPNet is p for netlink, the address's own bits kept.
func IPNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// End is one end of a cable.
type End struct {
	At       *Place
	Link     string           // its name
	Hardware net.HardwareAddr // nil: the kernel draws one
}

// Connect lays a cable, and brings both ends up.
func Connect(a, b End) error {
	cable := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: a.Link, HardwareAddr: a.Hardware},
		PeerName: b.Link, PeerHardwareAddr: b.Hardware, PeerNamespace: netlink.NsFd(int(b.At.ns))}
	if err := a.At.Links.LinkAdd(cable); err != nil {
		return fmt.Errorf("cable from %s to %s: %w", a.At.Name, b.At.Name, err)
	}
	return errors.Join(a.At.Up(a.Link), b.At.Up(b.Link))
}

// Dial opens a connection from the place.
func (p *Place) Dial(ctx context.Context, network, address string) (conn net.Conn, err error) {
	err = p.Do(func() error { conn, err = new(net.Dialer).DialContext(ctx, network, address); return err })
	return conn, err
}

// ListenUDP opens a UDP socket of either family at the place.
func (p *Place) ListenUDP() (conn *net.UDPConn, err error) {
	err = p.Do(func() error { conn, err = net.ListenUDP("udp", nil); return err })
	return conn, err
}

// bridge is the link that makes a place a switch.
const bridge = "br0"

// Bridge makes the place a switch, into which hosts are plugged.
func (p *Place) Bridge() error {
	if err := p.Links.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: bridge}}); err != nil {
		return fmt.Errorf("%s: %w", p.Name, err)
	}
	return p.Up(bridge)
}

// Plug lays a cable from a port of the switch to eth0 of a host.
func (p *Place) Plug(port string, host *Place) error {
	if err := Connect(End{At: p, Link: port}, End{At: host, Link: "eth0"}); err != nil {
		return err
	}
	link, err := p.Links.LinkByName(port)
	if err != nil {
		return fmt.Errorf("%s: %s: %w", p.Name, port, err)
	}
	to, err := p.Links.LinkByName(bridge)
	if err != nil {
		return fmt.Errorf("%s: %s: %w", p.Name, bridge, err)
	}
	return p.Links.LinkSetMaster(link, to)
}
