package meshsync

import (
	"context"
	"net/netip"
	"path/filepath"
	"strings"
	"time"

	"github.com/coredns/caddy"
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/plugin"
	"github.com/coredns/coredns/plugin/pkg/parse"
	"github.com/coredns/coredns/plugin/pkg/transport"
	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/socket"
)

func init() {
	plugin.Register("meshsync", register)
	dnsserver.EnableChaos["meshsync"] = struct{}{} // the core drops class CHAOS where no plugin is known to answer it
}

// config is one meshsync block of the Corefile.
type config struct {
	dir         string // state, and by default the repository and the status socket
	repository  string
	root        string // the mesh's root.json
	clock       clockConfig
	status      string        // path of the status socket
	node        string        // name as a member
	hold        time.Duration // how long it may answer without reaching a distribution host or another member; 0: for ever
	zones       []string
	digest      string        // of the Corefile
	transfers   bool          // the block has plugin transfer
	secondaries []secondary   // to be told of new releases
	tend        time.Duration // how often the state directory is tried; 0 for the default
	cacheFrom   int           // octets of a zone's image from which it is kept on disk; 0 for the default
}

// register sets the plugin up for one server block. What can be wrong is found here, before there is any socket.
func register(c *caddy.Controller) error {
	conf, err := parseConfig(c)
	if err != nil {
		return plugin.Error("meshsync", err)
	}
	if _, err := readRoot(conf.root); err != nil {
		return plugin.Error("meshsync", c.Errf("root: %v", err))
	}
	if err := agree(c, conf); err != nil {
		return plugin.Error("meshsync", err)
	}
	m := &Meshsync{config: conf}
	c.OnStartup(func() error {
		m.config.transfers = dnsserver.GetConfig(c).Handler("transfer") != nil
		if len(conf.secondaries) > 0 && !m.config.transfers {
			return plugin.Error("meshsync", c.Err("notify: without plugin transfer in the block nobody can transfer what changed"))
		}
		if err := acquire(m); err != nil {
			return plugin.Error("meshsync", err)
		}
		return nil
	})
	c.OnRestart(restarting)
	c.OnRestartFailed(func() error { return restartFailed(m) })
	c.OnShutdown(func() error { return letGo(m) })
	block := dnsserver.GetConfig(c)
	for i, others := range block.Plugin {
		block.Plugin[i] = func(next plugin.Handler) plugin.Handler { return withoutName(others(next), next) }
	}
	block.AddPlugin(func(next plugin.Handler) plugin.Handler {
		m.Next = next
		return m
	})
	return nil
}

// nameless is plugin chaos without an answer to which node this is: it would be the machine's name, and meshsync behind it
// knows the node's (ADMIN-1).
type nameless struct {
	plugin.Handler // chaos
	next           plugin.Handler
}

func withoutName(h, next plugin.Handler) plugin.Handler {
	if h.Name() == "chaos" {
		return nameless{h, next}
	}
	return h
}

// ServeDNS implements plugin.Handler.
func (n nameless) ServeDNS(ctx context.Context, w dns.ResponseWriter, r *dns.Msg) (int, error) {
	if q := r.Question[0]; q.Qclass == dns.ClassCHAOS && isName(q) {
		return plugin.NextOrFailure(n.Name(), n.next, ctx, w, r)
	}
	return n.Handler.ServeDNS(ctx, w, r)
}

// firstBlock is the key under which the Corefile's first block of meshsync is kept while it is read.
type firstBlock struct{}

// agree refuses a block that differs from the Corefile's first one: a process is one node of one mesh.
func agree(c *caddy.Controller, conf config) error {
	conf.zones = nil // each block has its own
	first, ok := c.Get(firstBlock{}).(config)
	if !ok {
		c.Set(firstBlock{}, conf)
		return nil
	}
	for _, f := range []struct{ what, now, first string }{
		{"the directory", conf.dir, first.dir},
		{"root", conf.root, first.root},
		{"repository", conf.repository, first.repository},
		{"clock", conf.clock.String(), first.clock.String()},
		{"status", conf.status, first.status},
		{"node", conf.node, first.node},
		{"isolated", conf.hold.String(), first.hold.String()},
	} {
		if f.now != f.first {
			return c.Errf("%s is %q here and %q in an earlier block: a process is one node of one mesh", f.what, f.now, f.first)
		}
	}
	return nil
}

func parseConfig(c *caddy.Controller) (config, error) {
	var conf config
	c.Next() // meshsync
	args := c.RemainingArgs()
	if len(args) != 1 {
		return conf, c.Errf("wants one directory, has %d arguments", len(args))
	}
	conf.dir = absolute(c, args[0])
	seen := map[string]bool{}
	for c.NextBlock() {
		property := c.Val()
		if seen[property] && property != "notify" {
			return conf, c.Errf("property %q is given twice", property)
		}
		seen[property] = true
		if err := parseProperty(c, property, &conf); err != nil {
			return conf, err
		}
	}
	if c.Next() {
		return conf, c.Err("meshsync may stand once in a server block")
	}
	if !seen["root"] {
		return conf, c.Err("property root is missing: the mesh's root.json, from the distribution host")
	}
	if !seen["clock"] {
		return conf, c.Err("property clock is missing: clock sidecar unix:///run/mesh/sidecar.sock")
	}
	return conf, finish(c, &conf)
}

func parseProperty(c *caddy.Controller, property string, conf *config) error {
	args := c.RemainingArgs()
	switch property {
	case "clock":
		return parseClock(c, args, &conf.clock)
	case "isolated":
		return parseIsolated(c, args, conf)
	case "notify":
		return parseNotify(c, args, conf)
	case "repository", "root", "status", "node":
	default:
		return c.Errf("unknown property %q: there are clock, isolated, node, notify, repository, root and status", property)
	}
	if len(args) != 1 {
		return c.Errf("property %s wants one argument, has %d", property, len(args))
	}
	switch property {
	case "repository":
		conf.repository = absolute(c, args[0])
	case "root":
		conf.root = absolute(c, args[0])
	case "node":
		conf.node = args[0]
	case "status":
		path, err := socket.Path(args[0])
		if err != nil {
			return c.Errf("status: %v", err)
		}
		conf.status = path
	}
	return nil
}

func parseClock(c *caddy.Controller, args []string, clock *clockConfig) error {
	if len(args) != 2 {
		return c.Err("clock wants: sidecar unix:///PATH, or assume DURATION")
	}
	switch args[0] {
	case "sidecar":
		path, err := socket.Path(args[1])
		if err != nil {
			return c.Errf("clock sidecar: %v", err)
		}
		clock.socket = path
	case "assume":
		d, err := time.ParseDuration(args[1])
		if err != nil || d <= 0 || d > time.Minute {
			return c.Errf("clock assume: %q is not a duration above 0 and up to 1m", args[1])
		}
		clock.assume = d
	default:
		return c.Errf("clock %q: there are sidecar and assume", args[0])
	}
	return nil
}

// minHold is the shortest time without anybody that a node may take for isolation: a distribution host is restarted in less.
const minHold = 10 * time.Second

// parseIsolated reads "silent DURATION".
func parseIsolated(c *caddy.Controller, args []string, conf *config) error {
	if len(args) != 2 || args[0] != "silent" {
		return c.Err("isolated wants: silent DURATION")
	}
	d, err := time.ParseDuration(args[1])
	if err != nil || d < minHold {
		return c.Errf("isolated silent: %q is not a duration of %v or more", args[1], minHold)
	}
	conf.hold = d
	return nil
}

// parseNotify reads ADDRESS[:PORT]... [key NAME]. Messages come from the block's own address, with the key of plugin tsig.
func parseNotify(c *caddy.Controller, args []string, conf *config) error {
	block := dnsserver.GetConfig(c)
	var key, secret string
	if n := len(args); n >= 2 && args[n-2] == "key" {
		key = plugin.Name(args[n-1]).Normalize()
		if secret = block.TsigSecret[key]; secret == "" {
			return c.Errf("notify: plugin tsig has no key %s in this block", key)
		}
		args = args[:n-2]
	}
	if len(args) == 0 {
		return c.Err("notify wants: ADDRESS[:PORT]... [key NAME]")
	}
	for _, arg := range args {
		host, err := parse.HostPort(arg, transport.Port)
		if err != nil {
			return c.Errf("notify: %v", err)
		}
		addr, err := netip.ParseAddrPort(host)
		if err != nil || addr.Port() == 0 {
			return c.Errf("notify: %q is no address of a secondary", arg)
		}
		conf.secondaries = append(conf.secondaries, secondary{addr: addr, source: sourceFor(addr.Addr(), block.ListenHosts), key: key, secret: secret})
	}
	return nil
}

// sourceFor is the first address of a block that can reach another one.
func sourceFor(to netip.Addr, hosts []string) netip.Addr {
	for _, host := range hosts {
		if a, err := netip.ParseAddr(host); err == nil && !a.IsUnspecified() && a.Is4() == to.Is4() {
			return a
		}
	}
	return netip.Addr{}
}

// finish fills in what was not said and refuses a transport that cannot be silent.
func finish(c *caddy.Controller, conf *config) error {
	if conf.hold > 0 && conf.clock.assumed() {
		return c.Err("isolated wants clock sidecar: whom this node reaches is known by its sidecar alone")
	}
	if conf.repository == "" {
		conf.repository = filepath.Join(conf.dir, "repository")
	}
	if conf.status == "" {
		path, err := socket.Path("unix://" + filepath.Join(conf.dir, "meshsync.sock"))
		if err != nil {
			return c.Errf("status: %v", err)
		}
		conf.status = path
	}
	if conf.node == "" {
		conf.node = hostname()
	}
	for _, key := range c.ServerBlockKeys {
		name, rest := parse.Transport(key)
		if name == transport.GRPC {
			return c.Errf("%s: a node that is silent cannot be so over gRPC, which echoes the query", key)
		}
		if hosts, _, err := plugin.SplitHostPort(rest); err == nil {
			conf.zones = append(conf.zones, hosts...)
		}
	}
	for i, z := range conf.zones {
		conf.zones[i] = plugin.Name(z).Normalize()
	}
	for i := range conf.secondaries {
		conf.secondaries[i].zones = strings.Join(conf.zones, " ")
	}
	conf.digest = corefileDigest(conf.node)
	return nil
}

// absolute makes a path absolute, below the directory of plugin root if there is one.
func absolute(c *caddy.Controller, path string) string {
	if !filepath.IsAbs(path) {
		path = filepath.Join(dnsserver.GetConfig(c).Root, path)
	}
	if abs, err := filepath.Abs(path); err == nil {
		return abs
	}
	return path
}
