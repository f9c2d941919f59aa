// Package bgp announces prefixes to routers, with GoBGP in this process (ROUTE-1). It decides nothing: the caller sets
// the whole set of prefixes that must be announced, as often as it likes, and this package makes the routers know it.
//
// It is the only package that imports GoBGP, and its API does not show it. main calls it.
//
// What is fixed here, because a wrong choice takes a network down: nothing that a router sends is imported, nothing but
// our own prefixes is exported (RFC 8212), the route of a dead node goes with its session unless graceful restart (RFC 4724) was
// asked for, and then after its time, a session without a hold time is refused, and what protects a session (a password, GTSM, BFD) works or nothing
// starts.
package bgp

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/osrg/gobgp/v4/api"
	"github.com/osrg/gobgp/v4/pkg/apiutil"
	packet "github.com/osrg/gobgp/v4/pkg/packet/bgp"
	"github.com/osrg/gobgp/v4/pkg/server"
)

// Config is this speaker and its neighbours.
type Config struct {
	AS           uint32
	Origin       uint32       // AS that the routes originate from (RFC 6382); 0: AS
	RouterID     netip.Addr   // in the form of an IPv4 address
	Listen       []netip.Addr // addresses on which neighbours may connect; empty: none may
	Port         uint16       // for Listen
	DrainPrepend uint8        // how often AS is prepended while draining, in external sessions
	// GracefulRestart is how long routers keep the routes of a process that ends without a word (RFC 4724), whole seconds. 0: not at all
	GracefulRestart time.Duration
	Neighbors       []Neighbor

	Prefixes map[netip.Prefix]Attributes // of those that have attributes of their own
	Degraded Attributes                  // of every route while it is the worse of ways, beside its others
}

// Attributes are what a route carries to a router.
type Attributes struct {
	Communities         []string // RFC 1997, as 64501:100
	ExtendedCommunities []string // RFC 4360, as rt:64501:100
	LargeCommunities    []string // RFC 8092, as 64501:1:2
	MED                 *uint32  // nil: none
	Prepend             uint8    // how often AS is prepended, beyond the once that an external session does
}

// Neighbor is one router; one of our own AS makes an internal session. A session carries the family of its own address,
// and the other one where NextHop4 or NextHop6 gives a next hop for it.
type Neighbor struct {
	Address     netip.Addr
	AS          uint32
	Port        uint16
	Source      netip.Addr    // local end; zero: as routed
	HoldTime    time.Duration // whole seconds, at least 3
	Multihop    uint8         // TTL of an external session; 0: directly connected
	TTLSecurity uint8         // GTSM (RFC 5082): the router is at most so many hops away; 0: off
	BFD         time.Duration // interval of BFD packets (RFC 5881), three of which missing end the session; 0: off
	Passive     bool          // the router connects
	Password    string        // TCP MD5 (RFC 2385); empty: none
	MaxPrefixes uint32        // that the router may send in one family; more end the session for a while. 0: any number
	HoldZero    bool          // the router may propose a hold time of 0
	NextHop4    netip.Addr    // zero: this side's address in an IPv4 session
	NextHop6    netip.Addr    // zero: this side's address in an IPv6 session

	Attributes
}

// State is what the routers are to know.
type State struct {
	Prefixes []netip.Prefix
	Draining bool // with GRACEFUL_SHUTDOWN (RFC 8326), so that routers take any other way there is
	Degraded bool // with Config.Degraded, so that routers prefer other nodes
}

// gracefulShutdown is the community GRACEFUL_SHUTDOWN (RFC 8326 5).
const gracefulShutdown = 65535<<16 | 0

// Speaker runs until Stop. Its methods may be called from several goroutines.
type Speaker struct {
	server   *server.BgpServer
	cfg      Config
	troubles *troubles
	unguard  func()        // ends guardBFD; nil without BFD
	pause    time.Duration // how long a session stays down that this side has ended

	mu         sync.Mutex
	ours       *api.Policy         // for export, and
	sets       map[netip.Addr]bool // the neighbours that have a set of their own
	generation int                 // of the policy
	set        State               // what is announced
	known      []session           // as lately has found them last; nil: not, since something was decided anew
	knownAt    time.Time           // and when
	stopped    bool
	connected  bool                     // GoBGP has the neighbours
	muted      map[netip.Addr]bool      // who gets no route, until its hold time is seen to be right
	inquired   map[netip.Addr]time.Time // when a router was asked why it turns this side down
}

// Start brings the sessions up and announces nothing. With graceful restart that waits for Connect. A Speaker that failed to start is of no further use, nor is the
// process: GoBGP keeps state that a second try would meet, so let the supervisor start afresh.
func Start(cfg Config, log *slog.Logger) (*Speaker, error) {
	if err := protectionWorks(cfg); err != nil {
		return nil, err
	}
	s := &Speaker{cfg: cfg, troubles: newTroubles(cfg.Neighbors, log), pause: pause, sets: map[netip.Addr]bool{}, muted: map[netip.Addr]bool{}, inquired: map[netip.Addr]time.Time{}}
	s.troubles.refused, s.troubles.limited = s.refused, s.resumeLater
	s.server = server.NewBgpServer(server.LoggerOption(slog.New(&listener{Handler: log.Handler(), t: s.troubles}), &slog.LevelVar{}))
	go s.server.Serve()
	ctx := context.Background()
	if err := s.server.StartBgp(ctx, &api.StartBgpRequest{Global: global(cfg)}); err != nil {
		return nil, fmt.Errorf("starting BGP: %w", err)
	}
	if err := s.policies(ctx); err != nil {
		return nil, fmt.Errorf("setting BGP policies: %w", err)
	}
	if err := s.watchSessions(ctx); err != nil {
		return nil, fmt.Errorf("watching BGP sessions: %w", err)
	}
	if cfg.GracefulRestart == 0 {
		if err := s.connect(ctx); err != nil {
			return nil, err
		}
	}
	s.guardBFD()
	return s, nil
}

// Set announces exactly want, from now on and to every neighbour that comes later. It is level-triggered: what is
// announced already is left alone, so it may be called with the same state for ever. When it returns without an error the
// sessions have been handed the changes; with one, call it again.
func (s *Speaker) Set(want State) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.setLocked(want)
}

func (s *Speaker) setLocked(want State) error {
	if want.Degraded != s.set.Degraded {
		s.set.Degraded = want.Degraded
		if err := s.exportPolicy(context.Background()); err != nil {
			return fmt.Errorf("setting BGP policies: %w", err)
		}
		for _, n := range s.cfg.Neighbors {
			s.sendAgain(context.Background(), n.Address)
		}
	}
	var add, remove []*apiutil.Path
	for _, p := range want.Prefixes {
		if want.Draining != s.set.Draining || !slices.Contains(s.set.Prefixes, p) {
			add = append(add, s.path(p, want.Draining))
		}
	}
	for _, p := range s.set.Prefixes {
		if !slices.Contains(want.Prefixes, p) {
			remove = append(remove, s.path(p, s.set.Draining))
		}
	}
	if len(remove)+len(add) > 0 {
		s.known = nil
	}
	if len(remove) > 0 { // an empty list would be an error; DeletePath without paths once meant all of them
		if err := s.server.DeletePath(apiutil.DeletePathRequest{Paths: remove}); err != nil {
			return fmt.Errorf("withdrawing: %w", err)
		}
		s.set.Prefixes = slices.DeleteFunc(slices.Clone(s.set.Prefixes), func(p netip.Prefix) bool { return !slices.Contains(want.Prefixes, p) })
	}
	if len(add) > 0 {
		if _, err := s.server.AddPath(apiutil.AddPathRequest{Paths: add}); err != nil {
			return fmt.Errorf("announcing: %w", err)
		}
	}
	s.set = State{Prefixes: slices.Clone(want.Prefixes), Draining: want.Draining, Degraded: want.Degraded}
	return nil
}

// path is the local route for p. Its next hop is left open: export fills it in for each neighbour.
func (s *Speaker) path(p netip.Prefix, draining bool) *apiutil.Path {
	nlri, err := packet.NewIPAddrPrefix(p)
	if err != nil {
		panic(fmt.Sprintf("prefix %s: %v", p, err)) // the configuration holds valid prefixes only
	}
	attrs := []packet.PathAttributeInterface{packet.NewPathAttributeOrigin(packet.BGP_ORIGIN_ATTR_TYPE_IGP)}
	if o := s.cfg.Origin; o != 0 && o != s.cfg.AS {
		attrs = append(attrs, packet.NewPathAttributeAsPath([]packet.AsPathParamInterface{
			packet.NewAs4PathParam(packet.BGP_ASPATH_ATTR_TYPE_SEQ, []uint32{o})}))
	}
	if p.Addr().Is4() {
		hop, _ := packet.NewPathAttributeNextHop(netip.IPv4Unspecified())
		attrs = append(attrs, hop)
	} else {
		hop, _ := packet.NewPathAttributeMpReachNLRI(packet.RF_IPv6_UC, []packet.PathNLRI{{NLRI: nlri}}, netip.IPv6Unspecified())
		attrs = append(attrs, hop)
	}
	own := s.cfg.Prefixes[p]
	standard := numbersOf(own.Communities)
	if draining { // the preference is for internal sessions, and does not leave through others
		standard = append(standard, gracefulShutdown)
		attrs = append(attrs, packet.NewPathAttributeLocalPref(0))
	}
	if len(standard) > 0 {
		attrs = append(attrs, packet.NewPathAttributeCommunities(standard))
	}
	if own.MED != nil {
		attrs = append(attrs, packet.NewPathAttributeMultiExitDisc(*own.MED))
	}
	if large := largeOf(own.LargeCommunities); len(large) > 0 {
		attrs = append(attrs, packet.NewPathAttributeLargeCommunities(large))
	}
	return &apiutil.Path{Family: familyOf(p), Nlri: nlri, Attrs: attrs}
}

// numbersOf and largeOf read communities, which the configuration has checked.
func numbersOf(texts []string) (all []uint32) {
	for _, text := range texts {
		var a, b uint32
		if _, err := fmt.Sscanf(text, "%d:%d", &a, &b); err != nil {
			panic(fmt.Sprintf("community %s: %v", text, err))
		}
		all = append(all, a<<16|b)
	}
	return all
}

func largeOf(texts []string) (all []*packet.LargeCommunity) {
	for _, text := range texts {
		c, err := packet.ParseLargeCommunity(text)
		if err != nil {
			panic(fmt.Sprintf("community %s: %v", text, err))
		}
		all = append(all, c)
	}
	return all
}
