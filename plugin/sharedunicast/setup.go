package sharedunicast

import (
	"fmt"
	"net/netip"

	"github.com/coredns/caddy"
	"github.com/coredns/caddy/caddyfile"
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/plugin"
)

const pluginName = "sharedunicast"

func init() { plugin.Register(pluginName, setup) }

// setup is called once per server block that has the directive. The first call of a Corefile judges all of it.
func setup(c *caddy.Controller) error {
	in, err := instanceOf(c)
	if err != nil {
		return plugin.Error(pluginName, err)
	}
	in.addBlock(c)
	dnsserver.GetConfig(c).AddPlugin(func(next plugin.Handler) plugin.Handler {
		return &SharedUnicast{Next: next, zones: plugin.OriginsFromArgsOrServerBlock(nil, c.ServerBlockKeys)}
	})
	return nil
}

// directive is one `sharedunicast` of the Corefile.
type directive struct {
	shared []netip.Addr
	admin  []netip.Addr // may be empty
	chain  bool         // `fastpath off`
	settings
	pos string // file:line, for messages
}

// parse reads the directive of one server block. Its errors name file and line.
func parse(d *caddyfile.Dispenser) (*directive, error) {
	dir := &directive{settings: defaults}
	given := make(map[string]bool)
	seen := make(map[netip.Addr]string) // what the address was given as
	for d.Next() {
		if dir.pos != "" {
			return nil, d.Errf("%s twice in one server block: give all shared addresses in one line", pluginName)
		}
		dir.pos = fmt.Sprintf("%s:%d", d.File(), d.Line())

		var err error
		if dir.shared, err = parseAddresses(d, "shared", seen); err != nil {
			return nil, err
		}
		for d.NextBlock() {
			name := d.Val()
			if given[name] {
				return nil, d.Errf("%s twice: give all of it in one line", name)
			}
			given[name] = true
			if name == "admin" {
				dir.admin, err = parseAddresses(d, "administrative", seen)
			} else {
				err = dir.property(d)
			}
			if err != nil {
				return nil, err
			}
		}
	}
	return dir, nil
}

// parseAddresses reads the rest of the line as addresses. seen holds those that the directive has given already.
func parseAddresses(d *caddyfile.Dispenser, kind string, seen map[netip.Addr]string) ([]netip.Addr, error) {
	args := d.RemainingArgs()
	if len(args) == 0 {
		return nil, d.Errf("%s needs at least one %s address", d.Val(), kind)
	}
	var addrs []netip.Addr
	for _, arg := range args {
		addr, err := parseAddress(arg)
		if err != nil {
			return nil, d.Errf("%s address '%s': %v", kind, arg, err)
		}
		if before, ok := seen[addr]; ok {
			return nil, d.Errf("%s address '%s' was given before, as %s address", kind, arg, before)
		}
		seen[addr] = kind
		addrs = append(addrs, addr)
	}
	return addrs, nil
}

// parseAddress accepts what can be the address of a host that others reach: a literal of a unicast address. Loopback is
// one, for trying out.
func parseAddress(s string) (netip.Addr, error) {
	addr, err := netip.ParseAddr(s)
	switch {
	case err != nil:
		return addr, fmt.Errorf("not an IP address")
	case addr.Zone() != "" || addr.IsLinkLocalUnicast():
		return addr, fmt.Errorf("link-local")
	case addr.Is4In6():
		return addr, fmt.Errorf("IPv4-mapped: write it as the IPv4 address %s", addr.Unmap())
	case addr.IsUnspecified():
		return addr, fmt.Errorf("stands for every address")
	case addr.IsMulticast() || addr == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return addr, fmt.Errorf("not a unicast address")
	}
	return addr, nil
}
