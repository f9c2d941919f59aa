package sharedunicast

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coredns/caddy"
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/plugin"
	"github.com/coredns/coredns/plugin/pkg/transport"
)

// instance is what this plugin adds to one loaded Corefile (one caddy.Instance).
//
// CoreDNS's core offers no hook between making a socket and binding it, so it cannot be made to set IP_FREEBIND. So the
// core is told that the blocks with sharedunicast listen nowhere (addBlock), and makes no servers for them; instance
// makes these as the core would (start), gives them sockets, and saves them with the caddy.Instance, which starts, waits
// for and stops them like its own.
type instance struct {
	caddy    *caddy.Instance
	corefile *corefile

	servers   []*server
	guards    []*guard
	over      atomic.Int32 // servers that have ended
	drainOnce sync.Once
	drainEnd  time.Time // set once by drain
}

// instanceKey is where a caddy.Instance stores its instance.
type instanceKey struct{}

// instanceOf returns the instance that c belongs to. The first call for a Corefile makes it, and judges the Corefile.
func instanceOf(c *caddy.Controller) (*instance, error) {
	if in, ok := c.Get(instanceKey{}).(*instance); ok {
		return in, nil
	}
	in := new(instance)
	c.Set(instanceKey{}, in)
	if in.caddy = caddyInstance(in); in.caddy == nil {
		return nil, fmt.Errorf("the Corefile is not being loaded by caddy.Start or Restart")
	}
	var err error
	if in.corefile, err = readCorefile(c, in.caddy.Caddyfile()); err != nil {
		return nil, err
	}
	if err := in.corefile.check(); err != nil {
		return nil, err
	}
	for _, b := range in.corefile.transferBlocks() {
		b.config.AddPlugin(func(next plugin.Handler) plugin.Handler { return &transferOnly{Next: next} })
	}
	// Before the other plugins' OnStartup: those look for one another in the handlers, which start brings about.
	in.caddy.OnStartup = slices.Insert(in.caddy.OnStartup, 0, in.start)
	return in, nil
}

// caddyInstance finds the caddy.Instance that stores in. A controller knows its own but does not show it.
func caddyInstance(in *instance) *caddy.Instance {
	for _, ci := range caddy.Instances() {
		ci.StorageMu.RLock()
		found := ci.Storage[instanceKey{}] == any(in)
		ci.StorageMu.RUnlock()
		if found {
			return ci
		}
	}
	return nil
}

// addBlock takes the listening of c's server block from the core. The core copies this to the block's other keys.
func (in *instance) addBlock(c *caddy.Controller) {
	dnsserver.GetConfig(c).ListenHosts = []string{}
}

// group is the Configs that share a listener.
type group struct {
	transport string
	addr      netip.AddrPort
	configs   []*dnsserver.Config
	settings  settings
	pos       string // the directive that named the address first
}

// address is how the core names a listener; metrics have it as label "server".
func (g *group) address() string { return g.transport + "://" + g.addr.String() }

// start makes the servers and opens their sockets. It runs when all directives are set up and the core has made its own
// servers, before any of those listens. After an error nothing is left open.
func (in *instance) start() error {
	reapAbandoned()
	reapOnRestartFailed(in.caddy)

	groups, err := in.groups()
	if err != nil {
		return plugin.Error(pluginName, err)
	}
	for _, g := range groups {
		if err := in.serve(g); err != nil {
			in.release()
			return plugin.Error(pluginName, fmt.Errorf("%s: %w", g.pos, err))
		}
	}
	if err := in.applyViews(); err != nil {
		in.release()
		return plugin.Error(pluginName, err)
	}
	in.chooseFastPath()
	for _, s := range in.servers {
		in.caddy.SaveServer(s, s.listener)
	}
	opened(in)
	return nil
}

// groups brings the Configs of all blocks together by transport, address and port, in the order of the Corefile.
func (in *instance) groups() ([]*group, error) {
	var groups []*group
	for _, b := range in.corefile.sharedBlocks() {
		for _, config := range b.keys {
			config.ListenHosts = nil // told anew: other plugins' metrics are labelled by it
			for _, addr := range b.shared.shared {
				config.ListenHosts = append(config.ListenHosts, addr.String())
				g := groupAt(&groups, config, addr, b.shared)
				if g.transport != config.Transport {
					return nil, fmt.Errorf("%s: both dns:// and tls:// on %s", b.shared.pos, g.addr)
				}
				if !g.settings.same(b.shared.settings) {
					return nil, fmt.Errorf("%s: cookies, dnstap, ede, padding, report_channel, rrl, stats or zoneversion differ from those at %s: all blocks at %s have the same", b.shared.pos, g.pos, g.addr)
				}
				g.configs = append(g.configs, config)
			}
		}
	}
	return groups, nil
}

// groupAt returns the group at an address and the port of config, and makes it if it is not there.
func groupAt(groups *[]*group, config *dnsserver.Config, addr netip.Addr, d *directive) *group {
	port, _ := strconv.ParseUint(config.Port, 10, 16) // checked in checkShared
	at := netip.AddrPortFrom(addr, uint16(port))
	for _, g := range *groups {
		if g.addr == at {
			return g
		}
	}
	g := &group{transport: config.Transport, addr: at, settings: d.settings, pos: d.pos}
	*groups = append(*groups, g)
	return g
}

// chooseFastPath finds out for which blocks the fast path can answer, and says which plugin costs the others that.
func (in *instance) chooseFastPath() {
	zones := make(map[*dnsserver.Config]*served)
	for _, b := range in.corefile.sharedBlocks() {
		for i, config := range b.keys {
			s, why := newServed(config)
			switch {
			case b.shared.chain:
				s.backend = nil
			case why != "" && i == 0:
				logger.Infof("%s: queries for %s go through the chain of plugins: %s", b.shared.pos, b.name(), why)
			}
			zones[config] = s
		}
	}
	for _, s := range in.servers {
		s.front.zones = newZoneTable(s.group.configs, func(c *dnsserver.Config) *served { return zones[c] })
	}
	if !hasFastPath {
		noFastPath.Do(func() { logger.Infof("this system has no fast path: all queries go through the chain of plugins") })
	}
}

var noFastPath sync.Once

// serve makes the servers of a group, one per socket asked for with `multisocket`, and opens their sockets. Without
// multisocket there is one, which has a UDP socket for each thread that can run.
func (in *instance) serve(g *group) error {
	n, udp := g.configs[0].NumSockets, 1
	if n == 0 {
		n, udp = 1, udpSockets()
	}
	if err := probe(g.addr, n, udp); err != nil {
		return err
	}
	guard, err := newGuard(g.settings, g.address())
	if err != nil {
		return err
	}
	in.guards = append(in.guards, guard)
	for index := range n {
		core, err := newCoreServer(g)
		if err != nil {
			return err
		}
		s := &server{coreServer: core, instance: in, group: g}
		s.front = newFront(s.core(), g, guard)
		in.servers = append(in.servers, s)
		if err := s.take(g, index, n > 1, udp); err != nil {
			return err
		}
	}
	return nil
}

func newCoreServer(g *group) (coreServer, error) {
	if g.transport == transport.TLS {
		if !slices.ContainsFunc(g.configs, func(c *dnsserver.Config) bool { return c.TLSConfig != nil }) {
			return nil, fmt.Errorf("tls:// on %s without a certificate: add the directive tls", g.addr)
		}
		return dnsserver.NewServerTLS(g.address(), g.configs)
	}
	return dnsserver.NewServer(g.address(), g.configs)
}

// applyViews does for the Configs of shared addresses what the core's MakeServers does for others: it installs the
// filters of `view`, and refuses a zone that is served twice on a listener without any.
func (in *instance) applyViews() error {
	type served struct{ transport, zone, host, port string }
	seen := make(map[served]bool)
	for _, b := range in.corefile.sharedBlocks() {
		for _, c := range b.keys {
			if err := applyView(c); err != nil {
				return fmt.Errorf("%s: %w", b.shared.pos, err)
			}
			if len(c.FilterFuncs) > 0 {
				continue
			}
			for _, host := range c.ListenHosts {
				k := served{c.Transport, c.Zone, host, c.Port}
				if seen[k] {
					return fmt.Errorf("%s: %s is already served on %s", b.shared.pos, c.Zone, host)
				}
				seen[k] = true
			}
		}
	}
	return nil
}

func applyView(c *dnsserver.Config) error {
	for _, h := range c.Handlers() {
		v, ok := h.(dnsserver.Viewer)
		if !ok {
			continue
		}
		if c.ViewName != "" {
			return fmt.Errorf("multiple views in one server block")
		}
		c.ViewName = v.ViewName()
		c.FilterFuncs = append(c.FilterFuncs, v.Filter)
	}
	return nil
}

// drainTime is how long a connection that is open when its server stops may take to send its next query.
const drainTime = 500 * time.Millisecond

// drain makes all listeners stop accepting, and returns the time by which their connections are done. Caddy stops the
// servers of an instance one after the other; this lets them spend drainTime at once.
func (in *instance) drain() time.Time {
	in.drainOnce.Do(func() {
		in.drainEnd = time.Now().Add(drainTime)
		for _, s := range in.servers {
			s.listener.drain(in.drainEnd)
		}
	})
	return in.drainEnd
}

// ended is called when a server's loops have ended. Nothing is answered after the last one.
func (in *instance) ended() {
	if int(in.over.Add(1)) == len(in.servers) {
		for _, g := range in.guards {
			g.close()
		}
	}
}

// release closes the instance's sockets. Servers that caddy has stopped have closed theirs already.
func (in *instance) release() {
	for _, g := range in.guards {
		g.close()
	}
	for _, s := range in.servers {
		s.close()
	}
}
