package sharedunicast

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"

	"github.com/coredns/caddy/caddyfile"
	"github.com/miekg/dns"
)

// settings are what the properties of a directive say of responses. They are those of the address: all blocks there have the
// same.
type settings struct {
	rate     int            // responses of one kind a second to one prefix; 0: they are not limited
	slip     int            // every so many limited responses one is sent truncated; 0: none
	allow    []netip.Prefix // clients that are not limited
	cookies  string         // file of the secrets; nothing: no cookies
	require  bool           // who has a client cookie only gets a server cookie by UDP, and no answer
	ede      bool           // errors are explained (RFC 8914)
	version  bool           // the zone's serial is told to who asks for it (RFC 9660)
	padding  bool           // responses to padded queries are padded over TLS (RFC 8467)
	reportTo string         // agent domain for error reports (RFC 9567); nothing: none

	tap         string // dnstap collector as a URL; nothing: none
	tapSample   int    // it is told of every so many queries
	tapIdentity string // of this node there; nothing: the host's name

	stats   string // directory of statistics; nothing: none
	service string // whose they are
}

var defaults = settings{slip: 2, ede: true, version: true, padding: true}

// Ranges of the numbers.
const (
	leastRate = 1
	mostRate  = 100_000
	mostSlip  = 10
)

// same says whether two blocks ask for the same.
func (s settings) same(o settings) bool {
	return slices.Equal(s.allow, o.allow) && fmt.Sprintf("%+v", s) == fmt.Sprintf("%+v", o)
}

// property reads a line of the directive's block.
func (dir *directive) property(d *caddyfile.Dispenser) error {
	name, args := d.Val(), d.RemainingArgs()
	switch name {
	case "fastpath":
		return onOff(d, name, args, func(on bool) { dir.chain = !on })
	case "ede":
		return onOff(d, name, args, func(on bool) { dir.ede = on })
	case "zoneversion":
		return onOff(d, name, args, func(on bool) { dir.version = on })
	case "padding":
		return onOff(d, name, args, func(on bool) { dir.padding = on })
	case "rrl":
		return dir.parseRRL(d, args)
	case "rrl_allow":
		return dir.parseAllow(d, args)
	case "cookies":
		if len(args) == 0 || len(args) > 2 || len(args) == 2 && args[1] != "require" {
			return d.Errf("cookies wants a file of secrets, and perhaps 'require'")
		}
		dir.cookies, dir.require = args[0], len(args) == 2
		return nil
	case "dnstap":
		if err := dir.parseTap(args); err != nil {
			return d.Errf("dnstap: %v", err)
		}
		return nil
	case "stats":
		if err := dir.parseStats(args); err != nil {
			return d.Errf("stats: %v", err)
		}
		return nil
	case "report_channel":
		if len(args) != 1 {
			return d.Errf("report_channel wants one agent domain")
		}
		agent := dns.CanonicalName(args[0])
		if _, ok := dns.IsDomainName(agent); !ok || agent == "." {
			return d.Errf("report_channel: '%s' is no domain that reports can be sent to", args[0])
		}
		dir.reportTo = agent
		return nil
	}
	return d.Errf("unknown property '%s': there are admin, cookies, dnstap, ede, fastpath, padding, report_channel, rrl, rrl_allow, stats and zoneversion", name)
}

func onOff(d *caddyfile.Dispenser, name string, args []string, set func(bool)) error {
	if len(args) != 1 || args[0] != "on" && args[0] != "off" {
		return d.Errf("%s wants on or off", name)
	}
	set(args[0] == "on")
	return nil
}

// parseRRL reads RATE [slip N].
func (dir *directive) parseRRL(d *caddyfile.Dispenser, args []string) error {
	if len(args) != 1 && (len(args) != 3 || args[1] != "slip") {
		return d.Errf("rrl wants: RATE, or RATE slip N")
	}
	var err error
	if dir.rate, err = number(args[0], leastRate, mostRate); err != nil {
		return d.Errf("rrl: responses a second: %v", err)
	}
	if len(args) == 3 {
		if dir.slip, err = number(args[2], 0, mostSlip); err != nil {
			return d.Errf("rrl: slip: %v", err)
		}
	}
	return nil
}

func number(s string, least, most int) (int, error) {
	n, err := strconv.Atoi(s)
	if err != nil || n < least || n > most {
		return 0, fmt.Errorf("'%s' is no number from %d to %d", s, least, most)
	}
	return n, nil
}

// parseAllow reads addresses and prefixes.
func (dir *directive) parseAllow(d *caddyfile.Dispenser, args []string) error {
	if len(args) == 0 {
		return d.Errf("rrl_allow needs at least one prefix")
	}
	for _, arg := range args {
		p, err := netip.ParsePrefix(arg)
		if addr, aerr := netip.ParseAddr(arg); aerr == nil {
			p, err = addr.Prefix(addr.BitLen())
		}
		if err != nil || p != p.Masked() {
			return d.Errf("rrl_allow: '%s' is neither an address nor a prefix", arg)
		}
		dir.allow = append(dir.allow, p)
	}
	return nil
}
