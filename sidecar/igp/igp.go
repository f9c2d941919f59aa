// Package igp announces the shared addresses through the IGP (ROUTE-2), the way of d.dns.jp: they are brought up on an
// interface that a local OSPF or IS-IS daemon advertises, and taken down again. It decides nothing: the caller says over
// and over whether they are to be there, and each time that it says yes they are renewed.
//
// The addresses have a lifetime. When nobody renews them, since the process has died or hangs, the kernel takes them down:
// a dead man's switch that needs nobody alive. On another interface, which the IGP does not read, they stay for good, so
// that the DNS server keeps its sockets, and whoever still comes is answered.
//
// It touches nothing of others: on its one interface, its own addresses alone, which it knows by a mark (IFA_PROTO, Linux
// 5.18) or, on an older kernel, by being one of its configuration that does not last. main calls it; it needs
// CAP_NET_ADMIN and nothing else.
package igp

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Config is fixed for the life of an Announcer.
type Config struct {
	Interface string
	Addresses []netip.Addr
	Lifetime  time.Duration // whole seconds; how long an address stays that is not renewed
}

// Announcer keeps the addresses as it was last told. Its methods may be called from several goroutines.
type Announcer struct {
	cfg Config

	mu sync.Mutex
	up []netip.Addr // as last set
}

// Start makes sure that the interface is there and that nothing of an earlier process is left on it, and announces nothing.
// It refuses to go on without CAP_NET_ADMIN; with an address that somebody has put there for good, which no decision could
// take down; and with one that is nowhere else, which would leave the DNS server with it.
func Start(cfg Config) (*Announcer, error) {
	a := &Announcer{cfg: cfg}
	link, err := net.InterfaceByName(cfg.Interface)
	if err != nil {
		return nil, fmt.Errorf("interface %s: %w", cfg.Interface, err)
	}
	if link.Flags&net.FlagUp == 0 {
		return nil, a.down()
	}
	// Whether this process may is asked by taking down what nobody has: it would else be seen when the route is needed.
	if err := change(unix.RTM_DELADDR, 0, link.Index, host(netip.IPv4Unspecified()), 0); errors.Is(err, unix.EPERM) {
		return nil, fmt.Errorf("addresses of %s may not be changed: this process lacks CAP_NET_ADMIN", cfg.Interface)
	} else if err != nil {
		return nil, err
	}
	all, err := addresses()
	if err != nil {
		return nil, err
	}
	for _, shared := range cfg.Addresses {
		elsewhere := func(held address) bool { return held.link != link.Index && held.prefix.Addr() == shared }
		if !slices.ContainsFunc(all, elsewhere) {
			return nil, fmt.Errorf("%s is on no interface but %s, and the DNS server needs it while it is not announced: add %s to one that the IGP does not read",
				shared, cfg.Interface, host(shared))
		}
	}
	return a, a.Set(false)
}

// Set brings the addresses up for another lifetime, or takes them down. It is level-triggered: it looks at what is there,
// whoever changed it, and may be called with the same value for ever.
func (a *Announcer) Set(announce bool) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	link, all, err := a.look()
	if err != nil {
		return err
	}
	a.up = nil
	var errs []error
	switch {
	case link == nil && announce:
		return fmt.Errorf("interface %s is not there", a.cfg.Interface)
	case link == nil: // and so is nothing that it had
		return nil
	case announce && link.Flags&net.FlagUp == 0:
		announce, errs = false, []error{a.down()}
	}
	for _, held := range all {
		if held.link == link.Index && a.ours(held) && !(announce && a.wanted(held.prefix)) {
			errs = append(errs, change(unix.RTM_DELADDR, 0, link.Index, held.prefix, 0))
		}
	}
	for _, shared := range a.cfg.Addresses {
		err := a.foreign(all, link.Index, shared)
		if err == nil && announce {
			if err = change(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, link.Index, host(shared), a.cfg.Lifetime); err == nil {
				a.up = append(a.up, shared)
			}
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// look finds the interface anew, since it may have been made again, or be gone: then it is nil.
func (a *Announcer) look() (*net.Interface, []address, error) {
	links, err := net.Interfaces()
	if err != nil {
		return nil, nil, err
	}
	i := slices.IndexFunc(links, func(l net.Interface) bool { return l.Name == a.cfg.Interface })
	if i < 0 {
		return nil, nil, nil
	}
	all, err := addresses()
	return &links[i], all, err
}

func (a *Announcer) down() error {
	return fmt.Errorf("interface %s is down: an IGP advertises nothing of it", a.cfg.Interface)
}

// foreign refuses an address that somebody else has put on the interface: no decision could take it down.
func (a *Announcer) foreign(all []address, link int, shared netip.Addr) error {
	for _, held := range all {
		if held.link == link && held.prefix.Addr() == shared && !a.ours(held) {
			return fmt.Errorf("%s is on %s by somebody else's hand, so that it is always advertised: remove it (ip addr del %s dev %s)",
				shared, a.cfg.Interface, held.prefix, a.cfg.Interface)
		}
	}
	return nil
}

// Announced lists the addresses that were brought up last.
func (a *Announcer) Announced() []netip.Addr {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.up)
}

func (a *Announcer) wanted(p netip.Prefix) bool {
	return p.IsSingleIP() && slices.Contains(a.cfg.Addresses, p.Addr())
}

// ours reports whether an earlier call, of this process or of one before, has put an address there.
func (a *Announcer) ours(held address) bool {
	return held.expires && (held.proto == mark || held.proto == 0 && a.wanted(held.prefix))
}

func host(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }
