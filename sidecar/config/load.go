package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"net/url"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/miekg/dns"
	"go.yaml.in/yaml/v3"

	"github.com/coredns-anycast/coredns-anycast/internal/gate"
	"github.com/coredns-anycast/coredns-anycast/internal/socket"
)

// maxBytes bounds the file; a real one has two kilobytes.
const maxBytes = 1 << 20

// Load reads and checks the file at path. The error is of type Errors when the file could be read.
func Load(path string) (*Config, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxBytes+1))
	if err != nil {
		return nil, err
	}
	return Parse(path, data)
}

// Parse checks data; file is the name that errors carry.
func Parse(file string, data []byte) (*Config, error) {
	r := &reader{file: file}
	root, err := document(data)
	if err != nil {
		return nil, Errors{file + ":" + err.Error()}
	}
	if r.plain(root); len(r.errs) > 0 {
		return nil, r.err()
	}
	c := r.config(root)
	if err := r.err(); err != nil {
		return nil, err
	}
	return c, nil
}

// document is the one document in data; its error begins with line:column.
func document(data []byte) (*yaml.Node, error) {
	if len(data) > maxBytes {
		return nil, fmt.Errorf("1:1: longer than %d bytes", maxBytes)
	}
	d := yaml.NewDecoder(bytes.NewReader(data))
	var doc, more yaml.Node
	if err := d.Decode(&doc); errors.Is(err, io.EOF) {
		return nil, errors.New("1:1: the file is empty")
	} else if err != nil {
		return nil, positioned(err)
	}
	if err := d.Decode(&more); !errors.Is(err, io.EOF) {
		if err != nil {
			return nil, positioned(err)
		}
		return nil, fmt.Errorf("%d:%d: a second document: one file is one configuration", more.Line, more.Column)
	}
	return doc.Content[0], nil
}

var (
	yamlLine = regexp.MustCompile(`^yaml: line (\d+): `)
	// byParser are errors whose lines the library counts from 0.
	byParser = regexp.MustCompile(`did not find expected (node content|'-' indicator|key|',' or '[\]}]'|<document start>)$`)
)

// positioned puts a syntax error of the YAML library, which knows no columns, into our form.
func positioned(err error) error {
	line, rule := 1, strings.TrimPrefix(err.Error(), "yaml: ")
	if m := yamlLine.FindStringSubmatch(err.Error()); m != nil {
		line, _ = strconv.Atoi(m[1])
		rule = strings.TrimPrefix(err.Error(), m[0])
		if byParser.MatchString(rule) {
			line++
		}
	}
	return fmt.Errorf("%d:1: %s", line, rule)
}

// plain refuses what makes YAML mean more than it shows: anchors, aliases, tags of one's own.
func (r *reader) plain(n *yaml.Node) {
	switch {
	case n.Kind == yaml.AliasNode:
		r.fail(n, "an alias: write the value itself")
		return
	case n.Anchor != "":
		r.fail(n, "an anchor: write the value where it is used")
	case n.Style&yaml.TaggedStyle != 0:
		r.fail(n, "a tag: values need none here")
	}
	for _, child := range n.Content {
		r.plain(child)
	}
}

func (r *reader) config(root *yaml.Node) *Config {
	c := &Config{
		Failure: Failure{Policy: gate.StopDNS, ReadvertiseDelay: 30 * time.Second},
		Clock:   Clock{Source: Chrony, Chrony: netip.MustParseAddrPort("127.0.0.1:323"), Limit: 100 * time.Millisecond},
		Probe:   Probe{Interval: time.Second, Slow: 200 * time.Millisecond, Timeout: 900 * time.Millisecond, Rise: 3, Fall: 3, Port: 53},
	}
	at := r.mapping(root, "the configuration", keys{
		"node":     parsed(r, &c.Node, nodeName),
		"shared":   each(r, &c.Shared, address),
		"socket":   parsed(r, &c.Socket, socket.Path),
		"meshsync": parsed(r, &c.Meshsync, socket.Path),
		"identity": func(n *yaml.Node) { c.Identity = r.identity(n) },
		"admin":    func(n *yaml.Node) { c.Admin = r.admin(n) },
		"metrics":  parsed(r, &c.Metrics, loopback),
		"failure":  func(n *yaml.Node) { r.failure(n, &c.Failure) },
		"clock":    func(n *yaml.Node) { r.clock(n, &c.Clock) },
		"probe":    func(n *yaml.Node) { r.probe(n, &c.Probe) },
		"bgp":      func(n *yaml.Node) { c.BGP = r.bgp(n) },
		"mirror":   func(n *yaml.Node) { c.Mirror = r.mirror(n) },
	}, "node", "shared")
	if root.Kind == yaml.MappingNode {
		r.crossCheck(c, root, at)
	}
	return c
}

func (r *reader) identity(n *yaml.Node) *Identity {
	var i Identity
	r.mapping(n, "identity", keys{
		"certificate": parsed(r, &i.Certificate, path),
		"key":         parsed(r, &i.Key, path),
		"ca":          parsed(r, &i.CA, path),
	}, "certificate", "key", "ca")
	return &i
}

func (r *reader) admin(n *yaml.Node) *Admin {
	var a Admin
	r.mapping(n, "admin", keys{"listen": parsed(r, &a.Listen, endpoint)}, "listen")
	return &a
}

func (r *reader) failure(n *yaml.Node, f *Failure) {
	r.mapping(n, "failure", keys{
		"policy":            parsed(r, &f.Policy, policy),
		"readvertise_delay": parsed(r, &f.ReadvertiseDelay, durationIn(0, time.Hour)),
	})
}

func (r *reader) clock(n *yaml.Node, c *Clock) {
	at := r.mapping(n, "clock", keys{
		"source": parsed(r, &c.Source, clockSource),
		"chrony": parsed(r, &c.Chrony, endpoint),
		"bound":  parsed(r, &c.Bound, durationIn(time.Microsecond, time.Second)),
		"limit":  parsed(r, &c.Limit, durationIn(time.Millisecond, 10*time.Second)),
	}, "source")
	if at["chrony"] != nil && c.Source != Chrony {
		r.fail(at["chrony"], "clock: %q goes with source chrony, and the source is %s", "chrony", c.Source)
	}
	if at["bound"] != nil && c.Source != Assumed {
		r.fail(at["bound"], "clock: %q goes with source assumed, and the source is %s, which measures it", "bound", c.Source)
	}
	if at["bound"] == nil && c.Source == Assumed {
		r.fail(n, "clock: source assumed lacks %q: the error that is assumed", "bound")
	}
}

func (r *reader) probe(n *yaml.Node, p *Probe) {
	at := r.mapping(n, "probe", keys{
		"interval": parsed(r, &p.Interval, durationIn(100*time.Millisecond, time.Minute)),
		"slow":     parsed(r, &p.Slow, durationIn(time.Millisecond, 10*time.Second)),
		"timeout":  parsed(r, &p.Timeout, durationIn(10*time.Millisecond, 10*time.Second)),
		"rise":     parsed(r, &p.Rise, integerIn[int](1, 100)),
		"fall":     parsed(r, &p.Fall, integerIn[int](1, 100)),
		"port":     parsed(r, &p.Port, integerIn[uint16](1, 65535)),
		"zones":    each(r, &p.Zones, zoneName),
	})
	if at["slow"] == nil { // a short timeout alone must not ask for a second key
		p.Slow = min(p.Slow, p.Timeout)
	}
	if p.Slow > p.Timeout {
		r.fail(n, "probe: slow %v is above timeout %v", p.Slow, p.Timeout)
	}
	if p.Timeout > p.Interval && at["timeout"] == nil {
		p.Timeout, p.Slow = p.Interval, min(p.Slow, p.Interval)
	}
	if p.Timeout > p.Interval {
		r.fail(n, "probe: timeout %v is above interval %v", p.Timeout, p.Interval)
	}
}

func (r *reader) bgp(n *yaml.Node) *BGP {
	b := &BGP{Port: 179}
	var neighbors []*yaml.Node
	at := r.mapping(n, "bgp", keys{
		"as":        parsed(r, &b.AS, integerIn[uint32](1, 1<<32-2)),
		"router_id": parsed(r, &b.RouterID, address),
		"listen":    each(r, &b.Listen, address),
		"port":      parsed(r, &b.Port, integerIn[uint16](1, 65535)),
		"prefixes":  each(r, &b.Prefixes, prefix),
		"neighbors": func(n *yaml.Node) {
			r.list(n, func(e *yaml.Node) {
				neighbors = append(neighbors, e)
				b.Neighbors = append(b.Neighbors, r.neighbor(e))
			})
		},
	}, "as", "router_id", "prefixes", "neighbors")
	if at["router_id"] != nil && b.RouterID.IsValid() && !b.RouterID.Is4() {
		r.fail(at["router_id"], "bgp: router_id %s: want the form of an IPv4 address, also on an IPv6-only node", b.RouterID)
	}
	if at["port"] != nil && len(b.Listen) == 0 {
		r.fail(at["port"], "bgp: %q goes with %q; a neighbour has a port of its own", "port", "listen")
	}
	b.prefixesWhole = whole(at["prefixes"], len(b.Prefixes))
	r.neighborsFit(b, neighbors)
	r.carried(b, at["prefixes"])
	return b
}

func (r *reader) neighbor(n *yaml.Node) Neighbor {
	h := Neighbor{Port: 179, HoldTime: 9 * time.Second}
	at := r.mapping(n, "neighbor", keys{
		"address":       parsed(r, &h.Address, address),
		"as":            parsed(r, &h.AS, integerIn[uint32](1, 1<<32-2)),
		"port":          parsed(r, &h.Port, integerIn[uint16](1, 65535)),
		"source":        parsed(r, &h.Source, address),
		"hold_time":     parsed(r, &h.HoldTime, durationIn(3*time.Second, 10*time.Minute)),
		"multihop":      parsed(r, &h.Multihop, integerIn[uint8](2, 255)),
		"passive":       parsed(r, &h.Passive, boolean),
		"password_file": parsed(r, &h.PasswordFile, path),
		"next_hop":      func(n *yaml.Node) { r.nextHop(n, &h) },
	}, "address", "as")
	if h.Source.IsValid() && h.Address.IsValid() && h.Source.Is4() != h.Address.Is4() {
		r.fail(at["source"], "neighbor %s: source %s is of the other family", h.Address, h.Source)
	}
	if h.HoldTime%time.Second != 0 {
		r.fail(at["hold_time"], "neighbor %s: hold_time %v: BGP counts whole seconds", h.Address, h.HoldTime)
	}
	return h
}

// neighborsFit checks neighbours against the rest of the section, which may stand before or after them. nodes are theirs.
func (r *reader) neighborsFit(b *BGP, nodes []*yaml.Node) {
	seen := map[netip.Addr]bool{}
	for i, n := range b.Neighbors {
		if n.Multihop > 0 && n.AS == b.AS {
			r.fail(nodes[i], "neighbor %s: a session inside one AS needs no multihop", n.Address)
		}
		if n.Passive && len(b.Listen) == 0 {
			r.fail(nodes[i], "neighbor %s: passive needs bgp.listen, an address for it to connect to", n.Address)
		}
		if n.Address.IsValid() && seen[n.Address] {
			r.fail(nodes[i], "neighbor %s twice", n.Address)
		}
		seen[n.Address] = true
	}
}

func (r *reader) nextHop(n *yaml.Node, h *Neighbor) {
	r.list(n, func(e *yaml.Node) {
		before := len(r.errs)
		var a netip.Addr
		parsed(r, &a, address)(e)
		into := &h.NextHop4
		if a.Is6() {
			into = &h.NextHop6
		}
		switch {
		case len(r.errs) > before:
		case into.IsValid():
			r.fail(e, "a second next hop of one family")
		case a.IsLinkLocalUnicast():
			r.fail(e, "next hop %s is link-local: a router cannot tell on which link", a)
		default:
			*into = a
		}
	})
}

// carried checks that each prefix reaches somebody.
func (r *reader) carried(b *BGP, prefixes *yaml.Node) {
	if len(b.Neighbors) == 0 || !b.prefixesWhole {
		return
	}
	for i, p := range b.Prefixes {
		reached := false
		for _, n := range b.Neighbors {
			reached = reached || n.Carries(p)
		}
		if !reached {
			r.fail(prefixes.Content[i], "bgp: prefix %s reaches no neighbor: give one an address of its family, or a next_hop for it", p)
		}
	}
}

func (r *reader) mirror(n *yaml.Node) *Mirror {
	m := &Mirror{Interval: 2 * time.Second}
	r.mapping(n, "mirror", keys{
		"urls":     each(r, &m.URLs, repositoryURL),
		"depot":    parsed(r, &m.Depot, path),
		"root":     parsed(r, &m.Root, path),
		"interval": parsed(r, &m.Interval, durationIn(time.Second, time.Hour)),
	}, "urls", "depot", "root")
	return m
}

// crossCheck holds the sections against each other. at is the value of each top key.
func (r *reader) crossCheck(c *Config, root *yaml.Node, at map[string]*yaml.Node) {
	if c.Admin != nil {
		r.notShared(c, at["admin"], "admin.listen", c.Admin.Listen.Addr())
	}
	for section, there := range map[string]bool{"admin": c.Admin != nil, "mirror": c.Mirror != nil} {
		if there && c.Identity == nil {
			r.fail(at[section], "%s needs %q: mutual TLS with the node's own certificate", section, "identity")
		}
	}
	if len(c.Probe.Zones) == 0 && at["meshsync"] == nil {
		r.fail(root, "nothing tells which zones to ask for: give probe.zones, or meshsync")
	}
	if c.Socket != "" && c.Socket == c.Meshsync {
		r.fail(at["meshsync"], "meshsync and socket are one path: one is the plugin's, the other the sidecar's")
	}
	if c.BGP != nil {
		if whole(at["shared"], len(c.Shared)) && c.BGP.prefixesWhole {
			r.covers(c, at)
		}
		for _, a := range c.BGP.Listen {
			r.notShared(c, at["bgp"], "bgp.listen", a)
		}
		for _, n := range c.BGP.Neighbors {
			r.notShared(c, at["bgp"], "neighbor", n.Address)
			r.notShared(c, at["bgp"], "source", n.Source)
			r.notShared(c, at["bgp"], "next_hop", n.NextHop4)
			r.notShared(c, at["bgp"], "next_hop", n.NextHop6)
		}
	}
}

// notShared refuses a shared address where it takes one of the node's own (HOST-2, DELIV-1).
func (r *reader) notShared(c *Config, n *yaml.Node, what string, a netip.Addr) {
	for _, s := range c.Shared {
		if a == s {
			r.fail(n, "%s is the shared address %s: use one of the node's own", what, a)
		}
	}
}

// covers checks that prefixes and shared addresses belong together (ROUTE-1).
func (r *reader) covers(c *Config, at map[string]*yaml.Node) {
	for _, p := range c.BGP.Prefixes {
		if !containsAny(p, c.Shared) {
			r.fail(at["bgp"], "prefix %s contains no shared address: announcing it draws traffic that nothing answers", p)
		}
	}
	for _, s := range c.Shared {
		covered := false
		for _, p := range c.BGP.Prefixes {
			covered = covered || p.Contains(s)
		}
		if !covered {
			r.fail(at["shared"], "shared address %s is in no prefix of bgp.prefixes: nobody would reach it", s)
		}
	}
}

// whole reports whether all elements of the list at n were read, so that holding it against others is no guesswork.
func whole(n *yaml.Node, read int) bool { return n != nil && len(n.Content) == read }

func containsAny(p netip.Prefix, addrs []netip.Addr) bool {
	for _, a := range addrs {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

var nodeNameForm = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

func nodeName(s string) (string, error) {
	if !nodeNameForm.MatchString(s) {
		return "", fmt.Errorf("%q is not a node's name: 1 to 63 of a-z, 0-9 and -, as in a host name", s)
	}
	return s, nil
}

func policy(s string) (gate.Policy, error) {
	for _, p := range []gate.Policy{gate.StopDNS, gate.Withdraw} {
		if s == p.String() {
			return p, nil
		}
	}
	return 0, fmt.Errorf("%q is no failure policy: stop-dns or withdraw", s)
}

func clockSource(s string) (ClockSource, error) {
	switch v := ClockSource(s); v {
	case Chrony, Kernel, Assumed:
		return v, nil
	}
	return "", fmt.Errorf("%q is no clock source: chrony, kernel or assumed", s)
}

func zoneName(s string) (string, error) {
	if _, ok := dns.IsDomainName(s); !ok {
		return "", fmt.Errorf("%q is not a domain name", s)
	}
	return dns.CanonicalName(s), nil
}

func loopback(s string) (netip.AddrPort, error) {
	ap, err := endpoint(s)
	if err == nil && !ap.Addr().IsLoopback() {
		err = fmt.Errorf("%s is not a loopback address: plain metrics stay on the machine, /metrics of admin is for others", ap)
	}
	return ap, err
}

func repositoryURL(s string) (string, error) {
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		return "", fmt.Errorf("%q is not a repository: write https://host:port/path/", s)
	}
	return s, nil
}
