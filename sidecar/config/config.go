// Package config reads the sidecar's configuration: one YAML document, parsed strictly, every error at once as
// file:line:column: rule. What it returns is right by type and by cross check, so that nothing after it has to check again.
//
// It opens the one file it is given and touches nothing else: no network, no certificate, no key. It may import no other
// package of the sidecar. main calls it; sidecar.example.yaml shows every key.
package config

import (
	"net/netip"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/eventlog"
	"github.com/coredns-anycast/coredns-anycast/internal/gate"
	"github.com/coredns-anycast/coredns-anycast/sidecar/clock"
)

// Config is the whole file. Sections that may be left out are pointers.
type Config struct {
	Node     string       // the node's name in the mesh
	Shared   []netip.Addr // shared-unicast addresses (HOST-1), at least one
	Socket   string       // path of the unix socket on which the clock and the sidecar's status are served; empty: none
	Control  string       // path of the unix socket on which orders are taken; empty: none
	State    string       // directory of what must survive a restart; empty: nothing does
	Meshsync string       // path of the plugin's unix socket; empty: the probe alone tells about the DNS service
	Identity *Identity
	Admin    *Admin
	Metrics  netip.AddrPort // plain HTTP on loopback; zero: none
	// DNSMetrics is where the DNS server tells its metrics, on loopback, to be shown over mutual TLS at /metrics/dns; zero: nowhere
	DNSMetrics netip.AddrPort
	Log        eventlog.Format // of the lines on standard error
	Failure    Failure
	Clock      Clock
	Probe      Probe
	BGP        *BGP
	IGP        *IGP
	Drain      Drain
	Mirror     *Mirror
}

// Identity is who the node is to the rest of the mesh, for both directions of mutual TLS (DELIV-2).
type Identity struct {
	Certificate, Key, CA string // PEM files
}

// Admin is the administrative plane (HOST-1).
type Admin struct {
	Listen netip.AddrPort
	Access []netip.Prefix // addresses that may connect at all; empty: any
}

// Failure is what becomes of the route when the DNS service fails.
type Failure struct {
	Policy           gate.Policy
	ReadvertiseDelay time.Duration
	Flaps            gate.Flaps
	Degraded         *Degraded
	MinAnnouncing    int // other nodes that must be announced and good for this one to leave (FAIL-4); 0: it does not ask
}

// Degraded is what makes the route the worse of ways while the service is not well; nil: nothing does.
type Degraded struct {
	MED         *uint32 // nil: as without
	Prepend     uint8   // how often the AS is prepended besides
	Communities []Community
	Slow        bool // overload counts as not well
}

// DefaultFlaps stays below what damping suppresses. Routers give a withdrawal 1000 points, and some as many for the way back;
// they suppress from 6000 on, where operators follow RFC 7196 and RIPE-580, and halve in 15 minutes. Three times away and
// back are 6000 at the most, and one more withdrawal finds the route down anyway. After an hour nothing is left of it that
// counts, and routers suppress no longer unless told to. Their defaults of old, 2000 and 3000, penalise a single fault that is
// seen over many paths, which is why RFC 7196 was written: no budget is small enough for them.
var DefaultFlaps = gate.Flaps{Most: 3, Window: time.Hour}

// Clock is the source of the clock's error bound (CLOCK-1).
type Clock struct {
	clock.Options
	Limit time.Duration // above this bound the status says that the clock is not good enough for a switchover
}

// Probe is how the shared addresses are asked.
type Probe struct {
	Interval time.Duration // from the start of one round to the next
	Slow     time.Duration // an answer later than this counts as slow
	Timeout  time.Duration // no answer by then counts as none
	Rise     int           // good rounds in a row to be up
	Fall     int           // bad rounds in a row to be down
	Port     uint16        // where the shared addresses are asked; 53 but on a machine for trying things out
	Zones    []string      // zones to ask for; empty: those that meshsync says it serves. Fully qualified, lower case
}

// BGP is what is announced, and to whom (ROUTE-1).
type BGP struct {
	AS        uint32
	OriginAS  uint32 // AS that the routes originate from (RFC 6382); 0: AS
	RouterID  netip.Addr
	Listen    []netip.Addr // addresses on which neighbours may connect; empty: this side connects
	Port      uint16       // for Listen
	Prefixes  []netip.Prefix
	Neighbors []Neighbor
	// GracefulRestart is how long routers keep the routes of a process that ends without a word (RFC 4724), whole seconds; 0: not at all
	GracefulRestart time.Duration

	Attributes map[netip.Prefix]PrefixAttributes // of those of Prefixes that have some

	prefixesWhole bool // every prefix of the file was read; for cross checks
}

// Neighbor is one router.
type Neighbor struct {
	Address      netip.Addr
	AS           uint32
	Port         uint16
	Source       netip.Addr // local end of the session; zero: as routed
	HoldTime     time.Duration
	Multihop     uint8         // TTL of the session; 0: directly connected
	TTLSecurity  uint8         // GTSM (RFC 5082): hops to the router at most; 0: off
	BFD          time.Duration // interval of BFD packets (RFC 5881); 0: off
	Passive      bool          // the router connects
	PasswordFile string
	MaxPrefixes  uint32     // that the router may send in one family
	HoldZero     bool       // the router may propose a hold time of 0 (RFC 4271 4.2)
	NextHop4     netip.Addr // next hop of IPv4 prefixes; zero: this side's address in an IPv4 session
	NextHop6     netip.Addr // next hop of IPv6 prefixes; zero: this side's address in an IPv6 session
	Communities  []Community
	MED          *uint32 // nil: none
	Prepend      uint8   // how often the AS is prepended
}

// PrefixAttributes are what the route of one prefix carries to every router.
type PrefixAttributes struct {
	Communities []Community // standard and large ones
	MED         *uint32     // nil: none; that of a neighbour counts instead
}

// CommunityKind is which attribute a community is of.
type CommunityKind int

const (
	Standard CommunityKind = iota // RFC 1997
	Extended                      // RFC 4360
	Large                         // RFC 8092
)

// Community is one community in its usual notation: 64501:100, rt:64501:100, 64501:1:2.
type Community struct {
	Kind CommunityKind
	Text string
}

// CommunitiesOf lists those of one kind.
func (n Neighbor) CommunitiesOf(kind CommunityKind) []string { return OfKind(n.Communities, kind) }

// OfKind lists the communities of one kind.
func OfKind(communities []Community, kind CommunityKind) []string {
	var all []string
	for _, c := range communities {
		if c.Kind == kind {
			all = append(all, c.Text)
		}
	}
	return all
}

// Carries reports whether prefixes of p's family are announced to n: the family of the session always, the other one
// only where a next hop is given for it.
func (n Neighbor) Carries(p netip.Prefix) bool {
	if p.Addr().Is4() {
		return n.Address.Is4() || n.NextHop4.IsValid()
	}
	return n.Address.Is6() || n.NextHop6.IsValid()
}

// NextHop says what next hop n is given for p; a zero one is this side's address in the session.
func (n Neighbor) NextHop(p netip.Prefix) netip.Addr {
	if p.Addr().Is4() {
		return n.NextHop4
	}
	return n.NextHop6
}

// IGP is the way of ROUTE-2: the shared addresses on an interface that a local OSPF or IS-IS daemon advertises.
type IGP struct {
	Interface string
	Lifetime  time.Duration // whole seconds; unless renewed the kernel takes the addresses down after it
}

// Drain is how a node is taken out of service (RFC 8326).
type Drain struct {
	Wait    time.Duration // how long the route stays, announced as the worst of ways
	Stop    time.Duration // the same when the process is told to end
	Prepend uint8         // how often the AS is prepended meanwhile
}

// SystemCA stands for the certificates that the machine trusts.
const SystemCA = "system"

// MaxMirrorInterval is the longest Mirror.Interval.
const MaxMirrorInterval = time.Hour

// Mirror is the repository that is followed (DELIV-1 to DELIV-3).
type Mirror struct {
	URLs  []string          // all are looked at, and the newest is taken
	CA    map[string]string // by URL: SystemCA or a PEM file, of a server that has no certificate of the mesh's
	Depot string            // directory that meshsync reads
	Root  string            // trusted root of the mesh
	// Interval is from one look to the next. The node tells distribution hosts how long it may take to hear of something new, and the lead of a
	// switchover is no shorter than twice that and some seconds. That is this and a little more where no host holds a request of the node.
	Interval time.Duration
	// Bandwidth is how many bytes a second the zones of releases may take, and Disk how many bytes their files may take in
	// the depot, where the current release, the next and the one before have their place; 0: unbounded.
	Bandwidth, Disk int64
}

// Hosts are the URLs of the mesh's own servers, which are distribution hosts.
func (m *Mirror) Hosts() (all []string) {
	for _, url := range m.URLs {
		if m.CA[url] == "" {
			all = append(all, url)
		}
	}
	return all
}
