package config

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"syscall"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/coredns-anycast/coredns-anycast/internal/eventlog"
	"github.com/coredns-anycast/coredns-anycast/internal/fields"
	"github.com/coredns-anycast/coredns-anycast/internal/gate"
	"github.com/coredns-anycast/coredns-anycast/internal/socket"
	"github.com/coredns-anycast/coredns-anycast/sidecar/clock"
)

// maxBytes bounds the file; a real one has two kilobytes.
const maxBytes = 1 << 20

// maxList bounds every list of the file.
const maxList = 64

// maxGracefulRestart bounds how long routers may keep the routes of a node whose sidecar is gone, and restartMargin is what of it a new
// process has for all but the rounds of its probe.
const (
	maxGracefulRestart = 2 * time.Minute
	restartMargin      = 5 * time.Second
)

// MaxDrainWait bounds how long a drained node may stay announced.
const MaxDrainWait = time.Hour

// Errors is every rule that a file breaks, one file:line:column: rule each.
type Errors = fields.Errors

// reader reads the sections, and collects what breaks a rule in any of them.
type reader struct{ fields.Reader }

// Load reads and checks the file at path. The error is of type Errors when the file could be read.
func Load(path string) (*Config, error) {
	data, err := fields.ReadFile(path, maxBytes)
	if errors.Is(err, syscall.EISDIR) {
		return nil, fmt.Errorf("%w: give the file in it, which a bundle calls sidecar.yaml", err)
	}
	if err != nil {
		return nil, err
	}
	return Parse(path, data)
}

// Parse checks data; file is the name that errors carry.
func Parse(file string, data []byte) (*Config, error) {
	r := &reader{fields.Reader{File: file, MaxList: maxList}}
	root, err := r.Document(data)
	if err != nil {
		return nil, err
	}
	c := r.config(root)
	if err := r.Err(); err != nil {
		return nil, err
	}
	return c, nil
}

// Places returns where the file at path says what, as file:line:column by key; a key of a section as section.key. The file is
// one that Load takes.
func Places(path string) (map[string]string, error) {
	data, err := fields.ReadFile(path, maxBytes)
	if err != nil {
		return nil, err
	}
	root, err := (&fields.Reader{File: path, MaxList: maxList}).Document(data)
	if err != nil {
		return nil, err
	}
	all := map[string]string{}
	var note func(n *yaml.Node, before string)
	note = func(n *yaml.Node, before string) {
		for i := 0; n.Kind == yaml.MappingNode && i+1 < len(n.Content); i += 2 {
			key, value := n.Content[i], n.Content[i+1]
			all[before+key.Value] = fmt.Sprintf("%s:%d:%d", path, value.Line, value.Column)
			note(value, before+key.Value+".")
		}
	}
	note(root, "")
	return all, nil
}

func (r *reader) config(root *yaml.Node) *Config {
	c := &Config{
		Log:     eventlog.Logfmt,
		Failure: Failure{Policy: gate.StopDNS, ReadvertiseDelay: 30 * time.Second, Flaps: DefaultFlaps},
		Clock:   Clock{Options: clock.Defaults, Limit: 100 * time.Millisecond},
		Probe:   Probe{Interval: time.Second, Slow: 200 * time.Millisecond, Timeout: 900 * time.Millisecond, Rise: 3, Fall: 3, Port: 53},
		Drain:   Drain{Wait: 30 * time.Second, Stop: time.Second},
	}
	var leaving *yaml.Node
	at := r.Mapping(root, "the configuration", fields.Keys{
		"node":        fields.Parsed(&r.Reader, &c.Node, nodeName),
		"shared":      fields.Each(&r.Reader, &c.Shared, fields.Address),
		"socket":      fields.Parsed(&r.Reader, &c.Socket, socket.Path),
		"control":     fields.Parsed(&r.Reader, &c.Control, socket.Path),
		"state":       fields.Parsed(&r.Reader, &c.State, fields.Path),
		"meshsync":    fields.Parsed(&r.Reader, &c.Meshsync, socket.Path),
		"identity":    func(n *yaml.Node) { c.Identity = r.identity(n) },
		"admin":       func(n *yaml.Node) { c.Admin = r.admin(n) },
		"metrics":     fields.Parsed(&r.Reader, &c.Metrics, loopback),
		"dns_metrics": fields.Parsed(&r.Reader, &c.DNSMetrics, loopback),
		"log":         fields.Parsed(&r.Reader, &c.Log, eventlog.ParseFormat),
		"failure":     func(n *yaml.Node) { leaving = r.failure(n, &c.Failure) },
		"clock":       func(n *yaml.Node) { r.clock(n, &c.Clock) },
		"probe":       func(n *yaml.Node) { r.probe(n, &c.Probe) },
		"bgp":         func(n *yaml.Node) { c.BGP = r.bgp(n) },
		"igp":         func(n *yaml.Node) { c.IGP = r.igp(n) },
		"drain":       func(n *yaml.Node) { r.drain(n, &c.Drain) },
		"mirror":      func(n *yaml.Node) { c.Mirror = r.mirror(n) },
	}, "node", "shared")
	if root.Kind == yaml.MappingNode {
		r.crossCheck(c, root, at)
		r.mayAsk(c, leaving)
	}
	return c
}

func (r *reader) identity(n *yaml.Node) *Identity {
	var i Identity
	r.Mapping(n, "identity", fields.Keys{
		"certificate": fields.Parsed(&r.Reader, &i.Certificate, fields.Path),
		"key":         fields.Parsed(&r.Reader, &i.Key, fields.Path),
		"ca":          fields.Parsed(&r.Reader, &i.CA, fields.Path),
	}, "certificate", "key", "ca")
	return &i
}

func (r *reader) admin(n *yaml.Node) *Admin {
	var a Admin
	r.Mapping(n, "admin", fields.Keys{"listen": fields.Parsed(&r.Reader, &a.Listen, fields.Endpoint),
		"access": fields.Each(&r.Reader, &a.Access, fields.Prefix)}, "listen")
	return &a
}

// failure returns where min_announcing is, nil if it is left out.
func (r *reader) failure(n *yaml.Node, f *Failure) *yaml.Node {
	at := r.Mapping(n, "failure", fields.Keys{
		"policy":            fields.Parsed(&r.Reader, &f.Policy, policy),
		"readvertise_delay": fields.Parsed(&r.Reader, &f.ReadvertiseDelay, fields.DurationIn(0, time.Hour)),
		"flaps":             func(n *yaml.Node) { r.flaps(n, &f.Flaps) },
		"degraded":          func(n *yaml.Node) { f.Degraded = r.degraded(n) },
		"min_announcing":    fields.Parsed(&r.Reader, &f.MinAnnouncing, fields.IntegerIn[int](0, 1000)),
	})
	if at["flaps"] != nil && f.Flaps.Window < f.ReadvertiseDelay {
		r.Fail(at["flaps"], "failure: flaps: window %v is below readvertise_delay %v, so that it would do nothing", f.Flaps.Window, f.ReadvertiseDelay)
	}
	return at["min_announcing"]
}

func (r *reader) degraded(n *yaml.Node) *Degraded {
	var d Degraded
	var med uint32
	at := r.Mapping(n, "degraded", fields.Keys{
		"med":         fields.Parsed(&r.Reader, &med, fields.IntegerIn[uint32](0, 1<<32-1)),
		"prepend":     fields.Parsed(&r.Reader, &d.Prepend, fields.IntegerIn[uint8](1, maxPrepend)),
		"communities": fields.Each(&r.Reader, &d.Communities, community),
		"slow":        fields.Parsed(&r.Reader, &d.Slow, fields.Boolean),
	})
	if at["med"] != nil {
		d.MED = &med
	}
	if n.Kind == yaml.MappingNode && at["med"] == nil && at["prepend"] == nil && at["communities"] == nil {
		r.Fail(n, "degraded: nothing makes the route worse: give med, prepend or communities")
	}
	return &d
}

// prefixes reads a list of prefixes, of which some are mappings with attributes.
func (r *reader) prefixes(n *yaml.Node, b *BGP) {
	b.Attributes = map[netip.Prefix]PrefixAttributes{}
	r.List(n, func(e *yaml.Node) {
		before := r.Count()
		var p netip.Prefix
		var own *PrefixAttributes
		if e.Kind == yaml.MappingNode {
			own = r.prefix(e, &p)
		} else {
			fields.Parsed(&r.Reader, &p, fields.Prefix)(e)
		}
		switch {
		case r.Count() > before:
		case slices.Contains(b.Prefixes, p):
			r.Fail(e, "%v twice in the list", p)
		default:
			if b.Prefixes = append(b.Prefixes, p); own != nil {
				b.Attributes[p] = *own
			}
		}
	})
}

func (r *reader) prefix(n *yaml.Node, p *netip.Prefix) *PrefixAttributes {
	var own PrefixAttributes
	var med uint32
	at := r.Mapping(n, "prefix", fields.Keys{
		"prefix":      fields.Parsed(&r.Reader, p, fields.Prefix),
		"communities": fields.Each(&r.Reader, &own.Communities, community),
		"med":         fields.Parsed(&r.Reader, &med, fields.IntegerIn[uint32](0, 1<<32-1)),
	}, "prefix")
	if at["med"] != nil {
		own.MED = &med
	}
	if len(OfKind(own.Communities, Extended)) > 0 {
		r.Fail(at["communities"], "prefix %s: extended communities are given to neighbors", p)
	}
	return &own
}

func (r *reader) flaps(n *yaml.Node, f *gate.Flaps) {
	r.Mapping(n, "flaps", fields.Keys{
		"most":   fields.Parsed(&r.Reader, &f.Most, fields.IntegerIn[int](0, 100)),
		"window": fields.Parsed(&r.Reader, &f.Window, fields.DurationIn(time.Minute, 24*time.Hour)),
	})
}

// mayAsk checks that a node which must ask how many others remain has whom to ask, and is one of those who are counted. One
// that can ask does so unless told otherwise: the last node of a mesh does not leave (FAIL-4).
func (r *reader) mayAsk(c *Config, given *yaml.Node) {
	can := c.Meshsync != "" && c.Admin != nil && c.Mirror != nil && len(c.Mirror.Hosts()) > 0
	switch {
	case given == nil && can:
		c.Failure.MinAnnouncing = 1
	case c.Failure.MinAnnouncing > 0 && !can:
		r.Fail(given, "failure: min_announcing %d: a distribution host counts the nodes of its mesh: that takes meshsync, admin, and a mirror of a "+
			"server of the mesh's, which is a URL without ca", c.Failure.MinAnnouncing)
	}
}

// clock takes every key of every source, and then holds them against the one that is chosen.
func (r *reader) clock(n *yaml.Node, c *Clock) {
	keys := fields.Keys{
		"source": fields.Parsed(&r.Reader, &c.Source, clockSource),
		"limit":  fields.Parsed(&r.Reader, &c.Limit, fields.DurationIn(time.Millisecond, 10*time.Second)),
	}
	of := map[string]string{} // a key's source
	for _, kind := range clock.Kinds {
		if kind.Keys == nil {
			continue
		}
		for key, read := range kind.Keys(&r.Reader, &c.Options) {
			keys[key], of[key] = read, kind.Name
		}
	}
	at := r.Mapping(n, "clock", keys, "source")
	for key, source := range of {
		if at[key] != nil && c.Source != source {
			r.Fail(at[key], "clock: %q goes with source %s, and the source is %s", key, source, c.Source)
		}
	}
	if kind, err := clock.Named(c.Source); err == nil {
		for key, says := range kind.Required {
			if at[key] == nil {
				r.Fail(n, "clock: source %s lacks %q: %s", c.Source, key, says)
			}
		}
	}
	if least := 3; whole(at["servers"], len(c.Servers)) && len(c.Servers) < least {
		r.Fail(at["servers"], "clock: %d NTP servers: a majority that outvotes a liar takes %d", len(c.Servers), least)
	}
}

func (r *reader) probe(n *yaml.Node, p *Probe) {
	at := r.Mapping(n, "probe", fields.Keys{
		"interval": fields.Parsed(&r.Reader, &p.Interval, fields.DurationIn(100*time.Millisecond, time.Minute)),
		"slow":     fields.Parsed(&r.Reader, &p.Slow, fields.DurationIn(time.Millisecond, 10*time.Second)),
		"timeout":  fields.Parsed(&r.Reader, &p.Timeout, fields.DurationIn(10*time.Millisecond, 10*time.Second)),
		"rise":     fields.Parsed(&r.Reader, &p.Rise, fields.IntegerIn[int](1, 100)),
		"fall":     fields.Parsed(&r.Reader, &p.Fall, fields.IntegerIn[int](1, 100)),
		"port":     fields.Parsed(&r.Reader, &p.Port, fields.IntegerIn[uint16](1, 65535)),
		"zones":    fields.Each(&r.Reader, &p.Zones, fields.ZoneName),
	})
	if at["slow"] == nil { // a short timeout alone must not ask for a second key
		p.Slow = min(p.Slow, p.Timeout)
	}
	if p.Slow > p.Timeout {
		r.Fail(n, "probe: slow %v is above timeout %v", p.Slow, p.Timeout)
	}
	if p.Timeout > p.Interval && at["timeout"] == nil {
		p.Timeout, p.Slow = p.Interval, min(p.Slow, p.Interval)
	}
	if p.Timeout > p.Interval {
		r.Fail(n, "probe: timeout %v is above interval %v", p.Timeout, p.Interval)
	}
}

func (r *reader) bgp(n *yaml.Node) *BGP {
	b := &BGP{Port: 179}
	var neighbors []*yaml.Node
	at := r.Mapping(n, "bgp", fields.Keys{
		"as":        fields.Parsed(&r.Reader, &b.AS, asNumber),
		"origin_as": fields.Parsed(&r.Reader, &b.OriginAS, asNumber),
		"router_id": fields.Parsed(&r.Reader, &b.RouterID, fields.Address),
		"listen":    fields.Each(&r.Reader, &b.Listen, fields.Address),
		"port":      fields.Parsed(&r.Reader, &b.Port, fields.IntegerIn[uint16](1, 65535)),
		"prefixes":  func(n *yaml.Node) { r.prefixes(n, b) },
		"neighbors": func(n *yaml.Node) {
			r.List(n, func(e *yaml.Node) {
				neighbors = append(neighbors, e)
				b.Neighbors = append(b.Neighbors, r.neighbor(e))
			})
		},
		"graceful_restart": fields.Parsed(&r.Reader, &b.GracefulRestart, fields.DurationIn(restartMargin, maxGracefulRestart)),
	}, "as", "router_id", "prefixes", "neighbors")
	if at["router_id"] != nil && b.RouterID.IsValid() && !b.RouterID.Is4() {
		r.Fail(at["router_id"], "bgp: router_id %s: want the form of an IPv4 address, also on an IPv6-only node", b.RouterID)
	}
	if at["port"] != nil && len(b.Listen) == 0 {
		r.Fail(at["port"], "bgp: %q goes with %q; a neighbour has a port of its own", "port", "listen")
	}
	if b.GracefulRestart%time.Second != 0 {
		r.Fail(at["graceful_restart"], "bgp: graceful_restart %v: BGP counts whole seconds", b.GracefulRestart)
	}
	b.prefixesWhole = whole(at["prefixes"], len(b.Prefixes))
	r.neighborsFit(b, neighbors)
	r.carried(b, at["prefixes"], neighbors)
	return b
}

func (r *reader) neighbor(n *yaml.Node) Neighbor {
	h := Neighbor{Port: 179, HoldTime: 9 * time.Second, MaxPrefixes: 100}
	var med uint32
	at := r.Mapping(n, "neighbor", fields.Keys{
		"address":        fields.Parsed(&r.Reader, &h.Address, fields.Address),
		"as":             fields.Parsed(&r.Reader, &h.AS, asNumber),
		"port":           fields.Parsed(&r.Reader, &h.Port, fields.IntegerIn[uint16](1, 65535)),
		"source":         fields.Parsed(&r.Reader, &h.Source, fields.Address),
		"hold_time":      fields.Parsed(&r.Reader, &h.HoldTime, fields.DurationIn(3*time.Second, 10*time.Minute)),
		"multihop":       fields.Parsed(&r.Reader, &h.Multihop, fields.IntegerIn[uint8](2, 255)),
		"ttl_security":   fields.Parsed(&r.Reader, &h.TTLSecurity, fields.IntegerIn[uint8](1, 254)),
		"bfd":            fields.Parsed(&r.Reader, &h.BFD, fields.DurationIn(50*time.Millisecond, 10*time.Second)),
		"passive":        fields.Parsed(&r.Reader, &h.Passive, fields.Boolean),
		"password_file":  fields.Parsed(&r.Reader, &h.PasswordFile, fields.Path),
		"max_prefixes":   fields.Parsed(&r.Reader, &h.MaxPrefixes, fields.IntegerIn[uint32](1, 10_000_000)),
		"hold_time_zero": fields.Parsed(&r.Reader, &h.HoldZero, fields.Boolean),
		"next_hop":       func(n *yaml.Node) { r.nextHop(n, &h) },
		"communities":    fields.Each(&r.Reader, &h.Communities, community),
		"med":            fields.Parsed(&r.Reader, &med, fields.IntegerIn[uint32](0, 1<<32-1)),
		"prepend":        fields.Parsed(&r.Reader, &h.Prepend, fields.IntegerIn[uint8](1, maxPrepend)),
	}, "address", "as")
	if h.Source.IsValid() && h.Address.IsValid() && h.Source.Is4() != h.Address.Is4() {
		r.Fail(at["source"], "neighbor %s: source %s is of the other family", h.Address, h.Source)
	}
	for key, a := range map[string]netip.Addr{"address": h.Address, "source": h.Source} {
		if a.Is6() && a.IsLinkLocalUnicast() {
			r.Fail(at[key], "neighbor: %s %s is link-local, and nothing says on which link", key, a)
		}
	}
	if h.Address.IsValid() && (h.NextHop4 == h.Address || h.NextHop6 == h.Address) {
		r.Fail(at["next_hop"], "neighbor %s: the next hop is the router itself: give an address of this node's", h.Address)
	}
	if at["med"] != nil {
		h.MED = &med
	}
	if h.TTLSecurity > 0 && h.Multihop > 0 {
		r.Fail(at["ttl_security"], "neighbor %s: ttl_security and multihop are two ways to bound the distance: give one", h.Address)
	}
	if h.BFD > 0 && (h.Multihop > 0 || h.TTLSecurity > 1) {
		r.Fail(at["bfd"], "neighbor %s: bfd is for a router that is directly connected (RFC 5881)", h.Address)
	}
	if h.HoldTime%time.Second != 0 {
		r.Fail(at["hold_time"], "neighbor %s: hold_time %v: BGP counts whole seconds", h.Address, h.HoldTime)
	}
	return h
}

// neighborsFit checks neighbours against the rest of the section, which may stand before or after them. nodes are theirs.
func (r *reader) neighborsFit(b *BGP, nodes []*yaml.Node) {
	seen := map[netip.Addr]bool{}
	for i, n := range b.Neighbors {
		if n.Prepend > 0 && n.AS == b.AS {
			r.Fail(nodes[i], "neighbor %s: a session inside one AS prepends nothing: the router would take the route for a loop", n.Address)
		}
		if n.Multihop > 0 && n.AS == b.AS {
			r.Fail(nodes[i], "neighbor %s: a session inside one AS needs no multihop", n.Address)
		}
		if n.BFD > 0 && b.GracefulRestart > 0 {
			r.Fail(nodes[i], "neighbor %s: bfd takes the route away as soon as the sidecar ends, and graceful_restart is to keep it: give one", n.Address)
		}
		if n.Passive && len(b.Listen) == 0 {
			r.Fail(nodes[i], "neighbor %s: passive needs bgp.listen, an address for it to connect to", n.Address)
		}
		if n.Address.IsValid() && seen[n.Address] {
			r.Fail(nodes[i], "neighbor %s twice", n.Address)
		}
		seen[n.Address] = true
	}
}

func (r *reader) nextHop(n *yaml.Node, h *Neighbor) {
	r.List(n, func(e *yaml.Node) {
		before := r.Count()
		var a netip.Addr
		fields.Parsed(&r.Reader, &a, fields.Address)(e)
		into := &h.NextHop4
		if a.Is6() {
			into = &h.NextHop6
		}
		switch {
		case r.Count() > before:
		case into.IsValid():
			r.Fail(e, "a second next hop of one family")
		case a.IsLinkLocalUnicast():
			r.Fail(e, "next hop %s is link-local: a router cannot tell on which link", a)
		default:
			*into = a
		}
	})
}

// carried checks that each prefix reaches somebody, and each neighbour gets one. nodes are the neighbours'.
func (r *reader) carried(b *BGP, prefixes *yaml.Node, nodes []*yaml.Node) {
	if len(b.Neighbors) == 0 || !b.prefixesWhole {
		return
	}
	for i, p := range b.Prefixes {
		reached := false
		for _, n := range b.Neighbors {
			reached = reached || n.Carries(p)
		}
		if !reached {
			r.Fail(prefixes.Content[i], "bgp: prefix %s reaches no neighbor: give one an address of its family, or a next_hop for it", p)
		}
	}
	for i, n := range b.Neighbors {
		if n.Address.IsValid() && !slices.ContainsFunc(b.Prefixes, n.Carries) {
			r.Fail(nodes[i], "neighbor %s gets none of bgp.prefixes: they are of the other family, and it has no next_hop for that", n.Address)
		}
	}
}

func (r *reader) igp(n *yaml.Node) *IGP {
	i := &IGP{Lifetime: 5 * time.Second}
	at := r.Mapping(n, "igp", fields.Keys{
		"interface": fields.Parsed(&r.Reader, &i.Interface, interfaceName),
		"lifetime":  fields.Parsed(&r.Reader, &i.Lifetime, fields.DurationIn(time.Second, time.Hour)),
	}, "interface")
	if i.Lifetime%time.Second != 0 {
		r.Fail(at["lifetime"], "igp: lifetime %v: the kernel counts whole seconds", i.Lifetime)
	}
	return i
}

func (r *reader) drain(n *yaml.Node, d *Drain) {
	r.Mapping(n, "drain", fields.Keys{
		"wait":    fields.Parsed(&r.Reader, &d.Wait, fields.DurationIn(0, MaxDrainWait)),
		"stop":    fields.Parsed(&r.Reader, &d.Stop, fields.DurationIn(0, time.Minute)),
		"prepend": fields.Parsed(&r.Reader, &d.Prepend, fields.IntegerIn[uint8](1, maxPrepend)),
	})
}

func (r *reader) mirror(n *yaml.Node) *Mirror {
	m := &Mirror{Interval: 2 * time.Second, CA: map[string]string{}}
	r.Mapping(n, "mirror", fields.Keys{
		"urls":      func(n *yaml.Node) { r.repositories(n, m) },
		"depot":     fields.Parsed(&r.Reader, &m.Depot, fields.Path),
		"root":      fields.Parsed(&r.Reader, &m.Root, fields.Path),
		"interval":  fields.Parsed(&r.Reader, &m.Interval, fields.DurationIn(time.Second, MaxMirrorInterval)),
		"bandwidth": fields.Parsed(&r.Reader, &m.Bandwidth, bytesIn("/s", 10_000, 100e9)),
		"disk":      fields.Parsed(&r.Reader, &m.Disk, bytesIn("", 1e6, 100e12)),
	}, "urls", "depot", "root")
	return m
}

// repositories reads a list of URLs, some of which may say whose certificate the server has.
func (r *reader) repositories(n *yaml.Node, m *Mirror) {
	r.List(n, func(e *yaml.Node) {
		before := r.Count()
		var url, ca string
		read := fields.Parsed(&r.Reader, &url, repositoryURL)
		if e.Kind == yaml.MappingNode {
			r.Mapping(e, "the repository", fields.Keys{"url": read, "ca": fields.Parsed(&r.Reader, &ca, authority)}, "url", "ca")
		} else {
			read(e)
		}
		switch {
		case r.Count() > before:
			return
		case slices.Contains(m.URLs, url):
			r.Fail(e, "%s twice in the list", url)
			return
		case ca != "":
			m.CA[url] = ca
		}
		m.URLs = append(m.URLs, url)
	})
}

func authority(s string) (string, error) {
	if s == SystemCA {
		return s, nil
	}
	return fields.Path(s)
}

// crossCheck holds the sections against each other. at is the value of each top key.
func (r *reader) crossCheck(c *Config, root *yaml.Node, at map[string]*yaml.Node) {
	if c.Admin != nil {
		r.notShared(c, at["admin"], "admin.listen", c.Admin.Listen.Addr())
	}
	for section, there := range map[string]bool{"admin": c.Admin != nil, "mirror": c.Mirror != nil} {
		if there && c.Identity == nil {
			r.Fail(at[section], "%s needs %q: mutual TLS with the node's own certificate", section, "identity")
		}
	}
	if at["dns_metrics"] != nil && c.Admin == nil {
		r.Fail(at["dns_metrics"], "dns_metrics needs %q: there they are shown", "admin")
	}
	if len(c.Probe.Zones) == 0 && at["meshsync"] == nil {
		r.Fail(root, "nothing tells which zones to ask for: give probe.zones, or meshsync")
	}
	if c.Socket != "" && c.Socket == c.Meshsync {
		r.Fail(at["meshsync"], "meshsync and socket are one path: one is the plugin's, the other the sidecar's")
	}
	if c.Control != "" && (c.Control == c.Socket || c.Control == c.Meshsync) {
		r.Fail(at["control"], "control is the path of another socket: orders are taken on one of their own")
	}
	if least := 3 * c.Probe.Interval; c.IGP != nil && c.IGP.Lifetime < least {
		r.Fail(at["igp"], "igp: lifetime %v is below %v, three intervals of the probe: one slow round would take the address down", c.IGP.Lifetime, least)
	}
	if least := time.Duration(c.Probe.Rise)*c.Probe.Interval + restartMargin; c.BGP != nil && c.BGP.GracefulRestart > 0 && c.BGP.GracefulRestart < least {
		r.Fail(at["bgp"], "bgp: graceful_restart %v is below %v: routers would not keep the route until a new process has seen %d good rounds of the probe",
			c.BGP.GracefulRestart, least, c.Probe.Rise)
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
			r.Fail(n, "%s is the shared address %s: use one of the node's own", what, a)
		}
	}
}

// covers checks that prefixes and shared addresses belong together (ROUTE-1).
func (r *reader) covers(c *Config, at map[string]*yaml.Node) {
	for _, p := range c.BGP.Prefixes {
		if !containsAny(p, c.Shared) {
			r.Fail(at["bgp"], "prefix %s contains no shared address: announcing it draws traffic that nothing answers", p)
		}
	}
	for _, s := range c.Shared {
		covered := false
		for _, p := range c.BGP.Prefixes {
			covered = covered || p.Contains(s)
		}
		if !covered {
			r.Fail(at["shared"], "shared address %s is in no prefix of bgp.prefixes: nobody would reach it", s)
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

func clockSource(s string) (string, error) {
	_, err := clock.Named(s)
	return s, err
}

func loopback(s string) (netip.AddrPort, error) {
	ap, err := fields.Endpoint(s)
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
