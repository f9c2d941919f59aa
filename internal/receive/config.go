package receive

import (
	"fmt"
	"maps"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/miekg/dns"
	"go.yaml.in/yaml/v3"

	"github.com/coredns-anycast/coredns-anycast/internal/fields"
	"github.com/coredns-anycast/coredns-anycast/internal/refresh"
	"github.com/coredns-anycast/coredns-anycast/internal/xfr"
)

// Config says where zones come from (SYNC-A). sources.example.yaml shows every key.
type Config struct {
	Zones       []Zones
	Catalogs    []Catalog
	Directories []Directory
	Notify      Notify
	Limits      xfr.Limits
	Transfers   int // that run at once
	Timers      refresh.Timers

	secrets []secretFile
}

// secretFile is where the secret of a key is that is not in the configuration.
type secretFile struct {
	key         *xfr.Key
	path, place string // of the file, and of its name in the configuration
}

// Group is a list of primaries under a name, tried in order.
type Group struct {
	Name       string
	Servers    []xfr.Primary
	NotifyFrom []netip.Prefix // others that may send NOTIFY without a signature
}

// Zones are zones that the same primaries have.
type Zones struct {
	Names     []string // fully qualified, lower case
	Primaries *Group
}

// Catalog is a catalog zone (RFC 9432).
type Catalog struct {
	Name      string
	Primaries *Group            // of the catalog itself
	Members   *Group            // of its members
	Groups    map[string]*Group // of those with this group property
	Limit     int               // percent of members that may go at once, see Directory
	Below     []string          // names that members must be at or below; none: they may be any
}

// Directory is a directory of zone files.
type Directory struct {
	Path     string
	Pattern  string // of the files' names; what it lets go is the origin if ByName
	ByName   bool   // the origin is in the file's name, not only in its SOA
	Withdraw bool   // a zone whose file is deleted is withdrawn; otherwise it is kept
	Limit    int    // percent of the zones that may go at once, but always one: more than that is a mistake
}

// Notify is where NOTIFY messages are taken (RFC 1996).
type Notify struct {
	Listen []netip.AddrPort // on administrative addresses
	Rate   int              // messages a second that are looked at
}

// deciding is what of the configuration internal/refresh decides by, and whom its groups stand for.
func (c *Config) deciding() (refresh.Config, map[*refresh.Group]*Group) {
	d := refresh.Config{Timers: c.Timers, Transfers: c.Transfers}
	of, stands := map[*Group]*refresh.Group{}, map[*refresh.Group]*Group{}
	group := func(g *Group) *refresh.Group {
		if of[g] == nil {
			of[g] = &refresh.Group{}
			for _, p := range g.Servers {
				of[g].Servers = append(of[g].Servers, p.String())
			}
			stands[of[g]] = g
		}
		return of[g]
	}
	for _, z := range c.Zones {
		d.Zones = append(d.Zones, refresh.Zones{Names: z.Names, Primaries: group(z.Primaries)})
	}
	for _, catalog := range c.Catalogs {
		groups := map[string]*refresh.Group{}
		for name, g := range catalog.Groups {
			groups[name] = group(g)
		}
		d.Catalogs = append(d.Catalogs, refresh.Catalog{Name: catalog.Name, Primaries: group(catalog.Primaries), Members: group(catalog.Members), Groups: groups,
			Limit: catalog.Limit, Below: catalog.Below})
	}
	for _, dir := range c.Directories {
		d.Directories = append(d.Directories, refresh.Directory{Path: dir.Path, Withdraw: dir.Withdraw, Limit: dir.Limit})
	}
	return d, stands
}

// weakKeys are the names of keys with an algorithm that must not be used for new ones.
func (c *Config) weakKeys() []string {
	var groups []*Group
	for _, z := range c.Zones {
		groups = append(groups, z.Primaries)
	}
	for _, catalog := range c.Catalogs {
		groups = append(groups, catalog.Primaries, catalog.Members)
		groups = slices.AppendSeq(groups, maps.Values(catalog.Groups))
	}
	names := map[string]bool{}
	for _, g := range groups {
		for _, p := range g.Servers {
			if p.Key != nil && p.Key.Algorithm == dns.HmacSHA1 {
				names[p.Key.Name] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(names))
}

// FromDirectory is the configuration of one directory of *.zone files, whose path is made absolute.
func FromDirectory(path string) (*Config, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	c := defaults()
	c.Directories = []Directory{{Path: path, Pattern: "*.zone", Limit: defaultMassGone}}
	return c, nil
}

func defaults() *Config {
	return &Config{
		Notify:    Notify{Rate: 1000},
		Limits:    xfr.Limits{Octets: 4 << 30, Records: 50_000_000, Time: time.Hour, Stall: 10 * time.Second},
		Transfers: 10,
		Timers:    refresh.Timers{MinRefresh: 30 * time.Second, MaxRefresh: 24 * time.Hour, MinRetry: 10 * time.Second, MaxRetry: 6 * time.Hour},
	}
}

const defaultMassGone = 10 // percent

// Section reads the section at n. What breaks a rule is in r; the result counts only if nothing does. Files that it names are
// opened by New.
func Section(r *fields.Reader, n *yaml.Node) *Config {
	s := &sections{Reader: r, keys: map[string]*xfr.Key{}, groups: map[string]*Group{}, places: map[string]*yaml.Node{}}
	c := defaults()
	s.before(n, "keys", func(n *yaml.Node) {
		if file := s.key(n); file.path != "" {
			c.secrets = append(c.secrets, file)
		}
	})
	s.before(n, "primaries", s.group)
	r.Mapping(n, "sources", s.topKeys(c))
	if len(c.Zones)+len(c.Catalogs)+len(c.Directories) == 0 && r.Count() == 0 {
		r.Fail(n, "sources: nothing to receive: give zones, catalogs or directories")
	}
	return c
}

// sections reads the parts of the section, and keeps what others refer to by name.
type sections struct {
	*fields.Reader
	keys   map[string]*xfr.Key
	groups map[string]*Group
	places map[string]*yaml.Node // of zone names
}

// before reads a list ahead of what refers to its elements, wherever it stands.
func (s *sections) before(n *yaml.Node, key string, element func(*yaml.Node)) {
	if n.Kind != yaml.MappingNode {
		return
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			s.List(n.Content[i+1], element)
			return
		}
	}
}

func (s *sections) topKeys(c *Config) fields.Keys {
	r, t, done := s.Reader, &c.Timers, func(*yaml.Node) {}
	return fields.Keys{
		"keys":      done,
		"primaries": done,
		"zones":     func(n *yaml.Node) { r.List(n, func(e *yaml.Node) { c.Zones = append(c.Zones, s.zones(e)) }) },
		"catalogs":  func(n *yaml.Node) { r.List(n, func(e *yaml.Node) { c.Catalogs = append(c.Catalogs, s.catalog(e)) }) },
		"directories": func(n *yaml.Node) {
			r.List(n, func(e *yaml.Node) { c.Directories = append(c.Directories, s.directory(e)) })
		},
		"notify": func(n *yaml.Node) {
			r.Mapping(n, "notify", fields.Keys{
				"listen": fields.Each(r, &c.Notify.Listen, fields.Endpoint),
				"rate":   fields.Parsed(r, &c.Notify.Rate, fields.IntegerIn[int](1, 100_000)),
			}, "listen")
		},
		"limits": func(n *yaml.Node) {
			r.Mapping(n, "limits", fields.Keys{
				"transfers": fields.Parsed(r, &c.Transfers, fields.IntegerIn[int](1, 1000)),
				"octets":    fields.Parsed(r, &c.Limits.Octets, integer64(1<<10, 16<<30)),
				"records":   fields.Parsed(r, &c.Limits.Records, fields.IntegerIn[int](10, 500_000_000)),
				"time":      fields.Parsed(r, &c.Limits.Time, fields.DurationIn(time.Second, 24*time.Hour)),
				"stall":     fields.Parsed(r, &c.Limits.Stall, fields.DurationIn(100*time.Millisecond, 10*time.Minute)),
			})
		},
		"timers": func(n *yaml.Node) {
			r.Mapping(n, "timers", fields.Keys{
				"min_refresh": fields.Parsed(r, &t.MinRefresh, fields.DurationIn(time.Second, 24*time.Hour)),
				"max_refresh": fields.Parsed(r, &t.MaxRefresh, fields.DurationIn(time.Second, 7*24*time.Hour)),
				"min_retry":   fields.Parsed(r, &t.MinRetry, fields.DurationIn(time.Second, 24*time.Hour)),
				"max_retry":   fields.Parsed(r, &t.MaxRetry, fields.DurationIn(time.Second, 7*24*time.Hour)),
			})
			if t.MinRefresh > t.MaxRefresh || t.MinRetry > t.MaxRetry {
				r.Fail(n, "timers: a least value above the greatest")
			}
		},
	}
}

func (s *sections) key(n *yaml.Node) secretFile {
	k := &xfr.Key{Algorithm: dns.HmacSHA256}
	file := secretFile{key: k}
	at := s.Mapping(n, "key", fields.Keys{
		"name":        fields.Parsed(s.Reader, &k.Name, fields.ZoneName),
		"algorithm":   fields.Parsed(s.Reader, &k.Algorithm, xfr.ParseAlgorithm),
		"secret":      fields.Parsed(s.Reader, &k.Secret, xfr.ParseSecret),
		"secret_file": fields.Parsed(s.Reader, &file.path, fields.Path),
	}, "name")
	if (at["secret"] == nil) == (at["secret_file"] == nil) {
		s.Fail(n, "key %s: want either secret or secret_file", k.Name)
	}
	if s.keys[k.Name] != nil {
		s.Fail(n, "key %s twice", k.Name)
	}
	s.keys[k.Name] = k
	if node := at["secret_file"]; node != nil {
		file.place = fmt.Sprintf("%s:%d:%d", s.File, node.Line, node.Column)
	}
	return file
}

// readSecrets reads the secrets that are in files. The error names all that cannot be had, each with its place in the
// configuration.
func (c *Config) readSecrets() error {
	var errs fields.Errors
	for _, f := range c.secrets {
		var err error
		if f.key.Secret, err = xfr.ReadSecret(f.path); err != nil {
			errs = append(errs, fmt.Sprintf("%s: key %s: %v", f.place, f.key.Name, err))
		}
	}
	if len(errs) > 0 {
		return errs
	}
	return nil
}

func integer64(least, most int64) func(string) (int64, error) {
	return func(s string) (int64, error) {
		v, err := strconv.ParseInt(s, 10, 64)
		if err != nil || v < least || v > most {
			return 0, fmt.Errorf("%q: want a number from %d to %d", s, least, most)
		}
		return v, nil
	}
}

func (s *sections) group(n *yaml.Node) {
	g := &Group{}
	s.Mapping(n, "primaries", fields.Keys{
		"name":        fields.Parsed(s.Reader, &g.Name, groupName),
		"servers":     func(n *yaml.Node) { s.List(n, func(e *yaml.Node) { g.Servers = append(g.Servers, s.server(e)) }) },
		"notify_from": fields.Each(s.Reader, &g.NotifyFrom, prefixOrAddress),
	}, "name", "servers")
	if s.groups[g.Name] != nil {
		s.Fail(n, "primaries %q twice", g.Name)
	}
	s.groups[g.Name] = g
}

func groupName(s string) (string, error) { return s, nil }

func prefixOrAddress(s string) (netip.Prefix, error) {
	if strings.Contains(s, "/") {
		return fields.Prefix(s)
	}
	a, err := fields.Address(s)
	if err != nil {
		return netip.Prefix{}, err
	}
	return netip.PrefixFrom(a, a.BitLen()), nil
}

func (s *sections) server(n *yaml.Node) xfr.Primary {
	var p xfr.Primary
	var noKey bool
	at := s.Mapping(n, "server", fields.Keys{
		"address": func(*yaml.Node) {},
		"no_key":  fields.Parsed(s.Reader, &noKey, fields.Boolean),
		"source":  fields.Parsed(s.Reader, &p.Source, fields.Address),
		"key":     fields.Parsed(s.Reader, &p.Key, s.keyNamed),
		"tls":     func(n *yaml.Node) { p.TLS = s.tls(n) },
	}, "address")
	port := uint16(53)
	if at["tls"] != nil {
		port = 853
	}
	if at["address"] != nil {
		fields.Parsed(s.Reader, &p.Address, server(port))(at["address"])
	}
	switch authenticated := at["key"] != nil || at["tls"] != nil; {
	case at["address"] == nil:
	case authenticated && noKey:
		s.Fail(at["no_key"], "server %s: no_key, and a key or tls as well", at["address"].Value)
	case !authenticated && !noKey:
		s.Fail(n, "server %s: want key or tls, or no_key: true: without, whoever is between may change what comes (SYNC-A)", at["address"].Value)
	}
	if p.Source.IsValid() && p.Address.IsValid() && p.Source.Is4() != p.Address.Addr().Is4() {
		s.Fail(at["source"], "server %s: source %s is of the other family", p.Address, p.Source)
	}
	return p
}

// server takes an address, with a port or without.
func server(port uint16) func(string) (netip.AddrPort, error) {
	return func(s string) (netip.AddrPort, error) {
		if a, err := netip.ParseAddr(s); err == nil {
			s = netip.AddrPortFrom(a, port).String()
		}
		return fields.Endpoint(s)
	}
}

func (s *sections) keyNamed(name string) (*xfr.Key, error) {
	if k := s.keys[dns.CanonicalName(name)]; k != nil {
		return k, nil
	}
	return nil, fmt.Errorf("no key %s among keys", name)
}

func (s *sections) groupNamed(name string) (*Group, error) {
	if g := s.groups[name]; g != nil {
		return g, nil
	}
	return nil, fmt.Errorf("no primaries named %q", name)
}

func (s *sections) tls(n *yaml.Node) *xfr.TLS {
	t := &xfr.TLS{}
	at := s.Mapping(n, "tls", fields.Keys{
		"server_name": fields.Parsed(s.Reader, &t.ServerName, hostName),
		"ca":          fields.Parsed(s.Reader, &t.CA, fields.Path),
		"pins":        fields.Each(s.Reader, &t.Pins, xfr.ParsePin),
		"certificate": fields.Parsed(s.Reader, &t.Certificate, fields.Path),
		"key":         fields.Parsed(s.Reader, &t.Key, fields.Path),
	})
	if at["ca"] == nil && at["pins"] == nil {
		s.Fail(n, "tls: want ca, pins or both: otherwise the primary may be anybody (RFC 9103 9.3.3)")
	}
	if (at["certificate"] == nil) != (at["key"] == nil) {
		s.Fail(n, "tls: certificate and key go together")
	}
	return t
}

func hostName(s string) (string, error) {
	name, err := fields.ZoneName(s)
	return strings.TrimSuffix(name, "."), err
}

func (s *sections) zones(n *yaml.Node) Zones {
	var z Zones
	at := s.Mapping(n, "zones", fields.Keys{
		"names":     fields.Each(s.Reader, &z.Names, fields.ZoneName),
		"primaries": fields.Parsed(s.Reader, &z.Primaries, s.groupNamed),
	}, "names", "primaries")
	if list := at["names"]; list != nil {
		for _, e := range list.Content {
			s.claim(e)
		}
	}
	return z
}

func (s *sections) catalog(n *yaml.Node) Catalog {
	c := Catalog{Groups: map[string]*Group{}, Limit: defaultMassGone}
	at := s.Mapping(n, "catalog", fields.Keys{
		"name":      fields.Parsed(s.Reader, &c.Name, fields.ZoneName),
		"primaries": fields.Parsed(s.Reader, &c.Primaries, s.groupNamed),
		"members":   fields.Parsed(s.Reader, &c.Members, s.groupNamed),
		"groups": func(n *yaml.Node) {
			s.List(n, func(e *yaml.Node) {
				var name string
				var g *Group
				s.Mapping(e, "group", fields.Keys{
					"name":      fields.Parsed(s.Reader, &name, groupName),
					"primaries": fields.Parsed(s.Reader, &g, s.groupNamed),
				}, "name", "primaries")
				if c.Groups[name] != nil {
					s.Fail(e, "group %q twice", name)
				}
				c.Groups[name] = g
			})
		},
		"withdraw_limit": fields.Parsed(s.Reader, &c.Limit, fields.IntegerIn[int](1, 100)),
		"below":          fields.Each(s.Reader, &c.Below, fields.ZoneName),
	}, "name", "primaries")
	if c.Members == nil {
		c.Members = c.Primaries
	}
	if at["name"] != nil {
		s.claim(at["name"])
	}
	return c
}

func (s *sections) directory(n *yaml.Node) Directory {
	d := Directory{Pattern: "*.zone", Limit: defaultMassGone}
	at := s.Mapping(n, "directory", fields.Keys{
		"path":           fields.Parsed(s.Reader, &d.Path, fields.Path),
		"pattern":        fields.Parsed(s.Reader, &d.Pattern, pattern),
		"origin":         fields.Parsed(s.Reader, &d.ByName, oneOf("soa", "name")),
		"deleted":        fields.Parsed(s.Reader, &d.Withdraw, oneOf("keep", "withdraw")),
		"withdraw_limit": fields.Parsed(s.Reader, &d.Limit, fields.IntegerIn[int](1, 100)),
	}, "path")
	if at["withdraw_limit"] != nil && !d.Withdraw {
		s.Fail(at["withdraw_limit"], "directory: withdraw_limit goes with deleted: withdraw")
	}
	d.Path = filepath.Clean(d.Path)
	return d
}

// oneOf is true for the second of two words.
func oneOf(no, yes string) func(string) (bool, error) {
	return func(s string) (bool, error) {
		if s != no && s != yes {
			return false, fmt.Errorf("%q: want %s or %s", s, no, yes)
		}
		return s == yes, nil
	}
}

// pattern takes a file name with one asterisk, such as *.zone or db.*.
func pattern(s string) (string, error) {
	if strings.Count(s, "*") != 1 || strings.ContainsAny(s, `/\?[`) {
		return "", fmt.Errorf("%q is not a pattern: a file's name with one *", s)
	}
	return s, nil
}

// claim refuses a zone that is named before.
func (s *sections) claim(n *yaml.Node) {
	name, err := fields.ZoneName(n.Value)
	if err != nil {
		return // said already
	}
	if before := s.places[name]; before != nil {
		s.Fail(n, "zone %s is named in line %d already", name, before.Line)
		return
	}
	s.places[name] = n
}
