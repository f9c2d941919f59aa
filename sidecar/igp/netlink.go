package igp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// mark is the IFA_PROTO of our addresses. The numbers up to 3 are the kernel's; no registry has the others.
const mark = 53

// ifaProto is IFA_PROTO of linux/if_addr.h, which package unix lacks.
const ifaProto = 11

// forever is the lifetime of an address that has none (INFINITY_LIFE_TIME).
const forever = 1<<32 - 1

// address is one address of any interface.
type address struct {
	link    int
	prefix  netip.Prefix
	proto   uint8 // 0 where the kernel does not know it
	expires bool
}

// addresses lists all addresses of the machine.
func addresses() ([]address, error) {
	request := nl.NewNetlinkRequest(unix.RTM_GETADDR, unix.NLM_F_DUMP)
	request.AddData(nl.NewIfAddrmsg(unix.AF_UNSPEC))
	messages, err := request.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWADDR)
	if err != nil {
		return nil, fmt.Errorf("listing addresses: %w", err)
	}
	var all []address
	for _, m := range messages {
		if a, ok, err := parse(m); err != nil {
			return nil, fmt.Errorf("listing addresses: %w", err)
		} else if ok {
			all = append(all, a)
		}
	}
	return all, nil
}

// parse reads one message; ok is false for what is no IP address.
func parse(m []byte) (a address, ok bool, err error) {
	head := nl.DeserializeIfAddrmsg(m)
	attrs, err := nl.ParseRouteAttr(m[head.Len():])
	if err != nil {
		return a, false, err
	}
	a.link = int(head.Index)
	var ip netip.Addr
	for _, attr := range attrs {
		switch attr.Attr.Type {
		case unix.IFA_LOCAL: // in IPv4, where IFA_ADDRESS may be the other end
			ip, _ = netip.AddrFromSlice(attr.Value)
		case unix.IFA_ADDRESS:
			if !ip.IsValid() {
				ip, _ = netip.AddrFromSlice(attr.Value)
			}
		case ifaProto:
			a.proto = attr.Value[0]
		case unix.IFA_CACHEINFO: // preferred, valid, made, changed
			a.expires = binary.NativeEndian.Uint32(attr.Value[4:]) != forever
		}
	}
	a.prefix = netip.PrefixFrom(ip, int(head.Prefixlen))
	return a, a.prefix.IsValid(), nil
}

// change makes or deletes an address. A made one is not used as a source (its preferred lifetime is 0), is not checked for
// duplicates, of which there are many by design, and makes no route but the local one.
func change(kind, flags, link int, p netip.Prefix, lifetime time.Duration) error {
	family := unix.AF_INET
	if p.Addr().Is6() {
		family = unix.AF_INET6
	}
	request := nl.NewNetlinkRequest(kind, flags|unix.NLM_F_ACK)
	head := nl.NewIfAddrmsg(family)
	head.Index, head.Prefixlen = uint32(link), uint8(p.Bits())
	request.AddData(head)
	request.AddData(nl.NewRtAttr(unix.IFA_LOCAL, p.Addr().AsSlice()))
	request.AddData(nl.NewRtAttr(unix.IFA_ADDRESS, p.Addr().AsSlice()))
	if kind == unix.RTM_NEWADDR {
		request.AddData(nl.NewRtAttr(unix.IFA_FLAGS, binary.NativeEndian.AppendUint32(nil, unix.IFA_F_NODAD|unix.IFA_F_NOPREFIXROUTE)))
		request.AddData(nl.NewRtAttr(ifaProto, []byte{mark}))
		cache := binary.NativeEndian.AppendUint32(nil, 0) // preferred
		cache = binary.NativeEndian.AppendUint32(cache, uint32(lifetime/time.Second))
		request.AddData(nl.NewRtAttr(unix.IFA_CACHEINFO, append(cache, make([]byte, 8)...)))
	}
	_, err := request.Execute(unix.NETLINK_ROUTE, 0)
	if kind == unix.RTM_DELADDR && errors.Is(err, unix.EADDRNOTAVAIL) { // it has run out meanwhile
		return nil
	}
	if err != nil {
		return fmt.Errorf("address %s: %w", p, err)
	}
	return nil
}
