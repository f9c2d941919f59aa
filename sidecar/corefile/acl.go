package corefile

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/coredns/caddy/caddyfile"
	"github.com/miekg/dns"
)

// rule is one directive acl of a block.
type rule struct {
	zones    []string // that it is for; none: all of the block
	policies []policy
}

// policy is a line of an acl, as far as it concerns the probe's questions for a SOA record.
type policy struct {
	said     // the action
	nets     []netip.Prefix
	everyone bool // the line is for every source
	other    bool // it is for other types alone
}

// rules are the acl directives of a server block, in the order in which CoreDNS goes through them.
func (n *node) rules(path string, sb caddyfile.ServerBlock) (all []rule) {
	n.each(path, sb, "acl", func(_ said, args []said) {
		var r rule
		for _, zone := range args {
			r.zones = append(r.zones, zone.value)
		}
		r.zones = zonesOf(r.zones)
		all = append(all, r)
	}, func(at said, args []said) {
		r := &all[len(all)-1]
		r.policies = append(r.policies, policyOf(at, args))
	})
	return all
}

// policyOf reads a line of an acl. What CoreDNS does not take, it says itself; here it is for no source.
func policyOf(at said, args []said) policy {
	p := policy{said: said{strings.ToLower(at.value), at.pos}, everyone: true}
	section := ""
	for _, a := range args {
		word := strings.ToLower(a.value)
		switch {
		case word == "net":
			section, p.everyone = word, false
		case word == "type":
			section, p.other = word, true
		case section == "type":
			p.other = p.other && word != "*" && word != "soa"
		case word == "*":
			p.everyone = true
		default:
			if !strings.Contains(word, "/") {
				if own, err := netip.ParseAddr(word); err == nil {
					p.nets = append(p.nets, netip.PrefixFrom(own, own.BitLen()))
				}
			} else if net, err := netip.ParsePrefix(word); err == nil {
				p.nets = append(p.nets, net)
			}
		}
	}
	return p
}

// zonesOf are the zones of a server block's keys: without scheme and port, fully qualified, in lower case.
func zonesOf(keys []string) (zones []string) {
	for _, key := range keys {
		if _, rest, ok := strings.Cut(key, "://"); ok {
			key = rest
		}
		zones = append(zones, dns.CanonicalName(portAtEnd.ReplaceAllString(key, "")))
	}
	return zones
}

// first is the line of a block's acl that decides on a question for a zone's SOA from an address.
func (b block) first(zone string, from netip.Addr) (policy, bool) {
	for _, r := range b.acl {
		within := func(of string) bool { return dns.IsSubDomain(of, zone) }
		if len(r.zones) > 0 && !slices.ContainsFunc(r.zones, within) {
			continue
		}
		holds := func(net netip.Prefix) bool { return net.Contains(from) }
		for _, p := range r.policies {
			if !p.other && (p.everyone || slices.ContainsFunc(p.nets, holds)) {
				return p, true
			}
		}
	}
	return policy{}, false
}

// access finds an acl that refuses the probe, which asks from the shared address itself. Of a block's zones those are judged that are
// surely asked for: probe.zones, or else the block's keys, but not the root where other blocks have the zones. A view decides who
// comes to its block, and such a block is not judged.
func (d *differences) access() {
	guarded, port := d.guarded(), strconv.Itoa(int(d.config.Probe.Port))
	for _, a := range d.config.Shared {
		var asked []block
		for _, b := range d.blocks {
			if b.answers(a, guarded) && slices.Contains(b.ports, port) {
				asked = append(asked, b)
			}
		}
		for _, b := range asked {
			for _, zone := range d.asksFor(b, asked) {
				if p, ok := b.first(zone, a); ok && !b.viewed && slices.Contains([]string{"block", "filter", "drop"}, p.value) {
					d.add(p.pos, "acl %ss questions from %s, from where the sidecar's probe asks, and the route would never be announced: put \"allow net %s\" before this line", p.value, a, a)
				}
			}
		}
	}
}

// asksFor are the zones of one of these blocks that the probe surely asks for.
func (d *differences) asksFor(b block, all []block) (zones []string) {
	if len(d.config.Probe.Zones) == 0 {
		return slices.DeleteFunc(slices.Clone(b.keys), func(key string) bool { return key == "." && len(all) > 1 })
	}
	longest := func(b block, zone string) (n int) {
		for _, key := range b.keys {
			if dns.IsSubDomain(key, zone) {
				n = max(n, len(key))
			}
		}
		return n
	}
	for _, zone := range d.config.Probe.Zones {
		n := longest(b, zone)
		if n > 0 && !slices.ContainsFunc(all, func(o block) bool { return longest(o, zone) > n }) {
			zones = append(zones, zone)
		}
	}
	return zones
}
