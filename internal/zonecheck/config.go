package zonecheck

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"
	"go.yaml.in/yaml/v3"

	"github.com/coredns-anycast/coredns-anycast/internal/fields"
)

// Config is the section "checks" of meshctl's configuration: a policy, and exceptions from it by zone. checks.example.yaml
// shows every key.
type Config struct {
	Policy Policy
	Zones  map[string]Policy // by origin, lower-case and fully qualified; whole policies
}

// DefaultConfig holds where there is no configuration.
func DefaultConfig() *Config { return &Config{Policy: DefaultPolicy()} }

// For is the policy of a zone.
func (c *Config) For(origin string) Policy {
	if p, ok := c.Zones[origin]; ok {
		return p
	}
	return c.Policy
}

// Ignore has what rules find be warnings at most, of every zone. The error names those that cannot be ignored.
func (c *Config) Ignore(rules ...string) error {
	var errs []error
	for _, rule := range rules {
		if !IsRule(rule) {
			errs = append(errs, fmt.Errorf("%q is no rule that can be ignored: a zone that breaks any other cannot be served", rule))
			continue
		}
		c.Policy = c.Policy.ignoring(rule)
		for origin, p := range c.Zones {
			c.Zones[origin] = p.ignoring(rule)
		}
	}
	return errors.Join(errs...)
}

func (p Policy) ignoring(rule string) Policy {
	p.Rules = maps.Clone(p.Rules)
	if p.Rules[rule] != Off {
		p.SetRule(rule, Warn)
	}
	return p
}

// Unjudged says what is not judged for want of configuration; "" if all is that is not ignored on purpose.
func (c *Config) Unjudged() string {
	if p := c.Policy; len(p.Meshes) > 0 || p.Outside == Off && p.OneMesh == Off {
		return ""
	}
	return "that a server of each zone is outside the mesh (ROUTE-4), and not all are in one (ROUTE-5), since no meshes are named: " +
		"name them in \"checks: meshes\", or have server_outside and several_meshes ignored"
}

// Section reads the section at n. What breaks a rule is in r; the result counts only if nothing does.
func Section(r *fields.Reader, n *yaml.Node) *Config {
	c := DefaultConfig()
	c.Policy.File = r.File
	var zones *yaml.Node
	keys := policyKeys(r, &c.Policy)
	keys["meshes"] = func(n *yaml.Node) {
		r.List(n, func(n *yaml.Node) { c.Policy.Meshes = append(c.Policy.Meshes, mesh(r, n)) })
	}
	keys["withdrawn"] = func(n *yaml.Node) { limit(r, n, "withdrawn", "zones", &c.Policy.Withdrawn) }
	keys["zones"] = func(n *yaml.Node) { zones = n }
	r.Mapping(n, "checks", keys)
	if zones != nil { // last, since what is said for all holds for them too
		c.Zones = zonePolicies(r, zones, c.Policy)
	}
	return c
}

// policyKeys are the keys that may be said for all zones and for one.
func policyKeys(r *fields.Reader, p *Policy) fields.Keys {
	const long = 10 * 365 * 24 * time.Hour
	modes := map[string]Mode{"require": Require, "verify": Verify, "ignore": Ignore}
	levels := map[string]Level{"error": Fault, "warning": Warn, "ignore": Off}
	return fields.Keys{
		"zonemd":           fields.Parsed(r, &p.ZONEMD, oneOf(modes)),
		"dnssec":           fields.Parsed(r, &p.DNSSEC, oneOf(modes)),
		"signature_margin": fields.Parsed(r, &p.Margin, fields.DurationIn(0, long)),
		"removed":          func(n *yaml.Node) { limit(r, n, "removed", "names", &p.Removed) },
		"added":            func(n *yaml.Node) { limit(r, n, "added", "names", &p.Added) },
		"changed":          func(n *yaml.Node) { limit(r, n, "changed", "names", &p.Changed) },
		"ttl":              func(n *yaml.Node) { ttls(r, n, p) },
		"rules":            func(n *yaml.Node) { rules(r, n, levels, p) },
		"server_outside":   fields.Parsed(r, &p.Outside, oneOf(levels)),
		"several_meshes":   fields.Parsed(r, &p.OneMesh, oneOf(levels)),
		"command":          func(n *yaml.Node) { command(r, n, p) },
		"command_timeout":  fields.Parsed(r, &p.Timeout, fields.DurationIn(time.Second, 24*time.Hour)),
		"on_error":         fields.Parsed(r, &p.Hold, oneOf(map[string]Hold{"hold-release": HoldRelease, "hold-zone": HoldZone})),
	}
}

// oneOf reads one of the words that it is given.
func oneOf[T any](words map[string]T) func(string) (T, error) {
	return func(s string) (T, error) {
		v, ok := words[s]
		if !ok {
			return v, fmt.Errorf("%q: want one of %s", s, strings.Join(slices.Sorted(maps.Keys(words)), ", "))
		}
		return v, nil
	}
}

// limit reads a limit of names or zones. few stays as it is where it is not said; what else is not said is no bound.
func limit(r *fields.Reader, n *yaml.Node, what, of string, l *Limit) {
	*l = Limit{Few: l.Few}
	r.Mapping(n, what, fields.Keys{
		of:        fields.Parsed(r, &l.Most, fields.IntegerIn[int](1, 1<<31-1)),
		"percent": fields.Parsed(r, &l.Percent, fields.IntegerIn[int](1, 1_000_000)),
		"few":     fields.Parsed(r, &l.Few, fields.IntegerIn[int](0, 1<<31-1)),
	})
}

func ttls(r *fields.Reader, n *yaml.Node, p *Policy) {
	const most = (1<<31 - 1) * time.Second
	r.Mapping(n, "ttl", fields.Keys{
		"min": fields.Parsed(r, &p.MinTTL, fields.DurationIn(0, most)),
		"max": fields.Parsed(r, &p.MaxTTL, fields.DurationIn(time.Second, most)),
	})
	if p.MinTTL > p.MaxTTL {
		r.Fail(n, "ttl: min %v is above max %v", p.MinTTL, p.MaxTTL)
	}
}

// command is a program, by its absolute path, and arguments, which may repeat.
func command(r *fields.Reader, n *yaml.Node, p *Policy) {
	p.Command = nil
	r.List(n, func(e *yaml.Node) {
		read := func(s string) (string, error) { return s, nil }
		if len(p.Command) == 0 {
			read = fields.Path
		}
		var word string
		fields.Parsed(r, &word, read)(e)
		p.Command = append(p.Command, word)
	})
}

// rules reads how rules are reported; what is said for all zones holds for one as well.
func rules(r *fields.Reader, n *yaml.Node, levels map[string]Level, p *Policy) {
	if n.Kind != yaml.MappingNode {
		r.Fail(n, "rules: want a mapping of rules: RULE: error, warning or ignore")
		return
	}
	p.Rules = maps.Clone(p.Rules)
	for i := 0; i+1 < len(n.Content); i += 2 {
		name := n.Content[i].Value
		if !IsRule(name) {
			r.Fail(n.Content[i], "%q is no rule that can be set: see meshctl check --rules", name)
			continue
		}
		var level Level
		fields.Parsed(r, &level, oneOf(levels))(n.Content[i+1])
		p.SetRule(name, level)
	}
}

func mesh(r *fields.Reader, n *yaml.Node) Mesh {
	var m Mesh
	var servers []string
	r.Mapping(n, "mesh", fields.Keys{
		"name":    fields.Parsed(r, &m.Name, func(s string) (string, error) { return s, nil }),
		"servers": fields.Each(r, &servers, addressOrName),
	}, "name", "servers")
	for _, s := range servers {
		if a, err := netip.ParseAddr(s); err == nil {
			m.Addresses = append(m.Addresses, a)
		} else {
			m.Names = append(m.Names, s)
		}
	}
	return m
}

// addressOrName takes an address, or the name of a server.
func addressOrName(s string) (string, error) {
	if a, err := fields.Address(s); err == nil {
		return a.String(), nil
	}
	if strings.Trim(s, "0123456789.") == "" || strings.Contains(s, ":") {
		return "", fmt.Errorf("%q is no unicast address, and no name of a server", s)
	}
	return fields.ZoneName(s)
}

// zonePolicies reads what is said for single zones, each beginning with what is said for all.
func zonePolicies(r *fields.Reader, n *yaml.Node, all Policy) map[string]Policy {
	zones := map[string]Policy{}
	if n.Kind != yaml.MappingNode {
		r.Fail(n, "zones: want a mapping of zones: NAME: {…}")
		return nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		origin, err := fields.ZoneName(n.Content[i].Value)
		if err != nil {
			r.Fail(n.Content[i], "%v", err)
			continue
		}
		if _, twice := zones[origin]; twice {
			r.Fail(n.Content[i], "zone %s twice", origin)
		}
		p := all
		p.within = "checks: zones: " + origin
		keys := policyKeys(r, &p)
		keys["trust_anchors"] = fields.Each(r, &p.Anchors, anchor)
		r.Mapping(n.Content[i+1], "zone "+origin, keys)
		zones[origin] = p
	}
	return zones
}

// anchor reads a trust anchor: the type and RDATA of a DS or DNSKEY record.
func anchor(s string) (dns.RR, error) {
	rr, err := dns.NewRR(". IN " + s)
	switch rr := rr.(type) {
	case *dns.DS:
		if err == nil && rr.Digest != "" {
			return rr, nil
		}
	case *dns.DNSKEY:
		if err == nil && rr.PublicKey != "" {
			return rr, nil
		}
	}
	return nil, errors.New("a trust anchor is a record without its owner: DS 12345 13 2 49FD… or DNSKEY 257 3 13 mdsswUyr…")
}
