// Package bgp announces prefixes to routers, with GoBGP in this process (ROUTE-1). It decides nothing: the caller sets
// the whole set of prefixes that must be announced, as often as it likes, and this package makes the routers know it.
//
// It is the only package that imports GoBGP, and its API does not show it. main calls it.
//
// What is fixed here, because a wrong choice takes a network down: nothing that a router sends is imported, nothing but
// our own prefixes is exported (RFC 8212), and graceful restart is off, so that the route of a dead node goes with its
// session.
package bgp

import (
	"context"
	"errors"
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
	"golang.org/x/sys/unix"

	"github.com/coredns-anycast/coredns-anycast/internal/status"
)

// connectRetry is how long to wait before the next try to connect; GoBGP's own 120 s would add two minutes to every
// restart of a router.
const connectRetry = 5 * time.Second

// Config is this speaker and its neighbours.
type Config struct {
	AS        uint32
	RouterID  netip.Addr   // in the form of an IPv4 address
	Listen    []netip.Addr // addresses on which neighbours may connect; empty: none may
	Port      uint16       // for Listen
	Neighbors []Neighbor
}

// Neighbor is one router. A session carries the family of its own address, and the other one where NextHop4 or NextHop6
// gives a next hop for it.
type Neighbor struct {
	Address  netip.Addr
	AS       uint32
	Port     uint16
	Source   netip.Addr    // local end; zero: as routed
	HoldTime time.Duration // whole seconds, at least 3
	Multihop uint8         // TTL of an external session; 0: directly connected
	Passive  bool          // the router connects
	Password string        // TCP MD5 (RFC 2385); empty: none
	NextHop4 netip.Addr    // zero: this side's address in an IPv4 session
	NextHop6 netip.Addr    // zero: this side's address in an IPv6 session
}

// carries reports whether the session is for prefixes of this family.
func (n Neighbor) carries(f packet.Family) bool {
	if f == packet.RF_IPv4_UC {
		return n.Address.Is4() || n.NextHop4.IsValid()
	}
	return n.Address.Is6() || n.NextHop6.IsValid()
}

var families = []packet.Family{packet.RF_IPv4_UC, packet.RF_IPv6_UC}

func familyOf(p netip.Prefix) packet.Family {
	if p.Addr().Is4() {
		return packet.RF_IPv4_UC
	}
	return packet.RF_IPv6_UC
}

// Speaker runs until Stop. Its methods may be called from several goroutines.
type Speaker struct {
	server *server.BgpServer
	cfg    Config

	mu  sync.Mutex
	set []netip.Prefix // what is announced
}

// Start brings the sessions up and announces nothing. A Speaker that failed to start is of no further use, nor is the
// process: GoBGP keeps state that a second try would meet, so let the supervisor start afresh.
func Start(cfg Config, log *slog.Logger) (*Speaker, error) {
	for _, n := range cfg.Neighbors {
		if err := passwordWorks(n); err != nil {
			return nil, fmt.Errorf("neighbor %s: TCP MD5: %w", n.Address, err)
		}
	}
	s := &Speaker{server: server.NewBgpServer(server.LoggerOption(log, &slog.LevelVar{})), cfg: cfg}
	go s.server.Serve()
	ctx := context.Background()
	if err := s.server.StartBgp(ctx, &api.StartBgpRequest{Global: global(cfg)}); err != nil {
		return nil, fmt.Errorf("starting BGP: %w", err)
	}
	if err := s.policies(ctx); err != nil {
		return nil, fmt.Errorf("setting BGP policies: %w", err)
	}
	for _, n := range cfg.Neighbors {
		if err := s.server.AddPeer(ctx, &api.AddPeerRequest{Peer: peer(n)}); err != nil {
			return nil, fmt.Errorf("neighbor %s: %w", n.Address, err)
		}
	}
	return s, nil
}

// passwordWorks tries on a socket of its own whether the kernel takes n's password. GoBGP only logs when its listener does
// not, and would then take sessions without one.
func passwordWorks(n Neighbor) error {
	if n.Password == "" {
		return nil
	}
	family := unix.AF_INET
	if n.Address.Is6() {
		family = unix.AF_INET6
	}
	key := unix.TCPMD5Sig{Keylen: uint16(len(n.Password)), Addr: unix.SockaddrStorage{Family: uint16(family)}}
	if copy(key.Key[:], n.Password) < len(n.Password) {
		return fmt.Errorf("a password has at most %d bytes", len(key.Key))
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.SetsockoptTCPMD5Sig(fd, unix.IPPROTO_TCP, unix.TCP_MD5SIG, &key)
}

func global(cfg Config) *api.Global {
	g := &api.Global{Asn: cfg.AS, RouterId: cfg.RouterID.String(), ListenPort: -1} // GoBGP takes 0 for 179
	if len(cfg.Listen) > 0 {
		g.ListenPort = int32(cfg.Port)
	}
	for _, a := range cfg.Listen {
		g.ListenAddresses = append(g.ListenAddresses, a.String())
	}
	return g
}

func peer(n Neighbor) *api.Peer {
	p := &api.Peer{
		Conf: &api.PeerConf{NeighborAddress: n.Address.String(), PeerAsn: n.AS, AuthPassword: n.Password},
		Timers: &api.Timers{Config: &api.TimersConfig{
			ConnectRetry:           uint64(connectRetry / time.Second),
			HoldTime:               uint64(n.HoldTime / time.Second),
			KeepaliveInterval:      uint64(max(n.HoldTime/3, time.Second) / time.Second),
			IdleHoldTimeAfterReset: uint64(connectRetry / time.Second),
		}},
		Transport:       &api.Transport{RemotePort: uint32(n.Port), PassiveMode: n.Passive},
		GracefulRestart: &api.GracefulRestart{Enabled: false},
	}
	if n.Source.IsValid() {
		p.Transport.LocalAddress = n.Source.String()
	}
	if n.Multihop > 0 {
		p.EbgpMultihop = &api.EbgpMultihop{Enabled: true, MultihopTtl: uint32(n.Multihop)}
	}
	for _, f := range families {
		if n.carries(f) {
			p.AfiSafis = append(p.AfiSafis, &api.AfiSafi{Config: &api.AfiSafiConfig{Family: apiFamily(f), Enabled: true}})
		}
	}
	return p
}

func apiFamily(f packet.Family) *api.Family {
	return &api.Family{Afi: api.Family_Afi(f.Afi()), Safi: api.Family_Safi(f.Safi())}
}

// policies closes both directions (RFC 8212) and opens the one way there is: local routes, to each neighbour, with the
// next hop that is right there.
func (s *Speaker) policies(ctx context.Context) error {
	local := &api.Policy{Name: "local", Statements: []*api.Statement{{
		Name:       "local",
		Conditions: &api.Conditions{RouteType: api.Conditions_ROUTE_TYPE_LOCAL},
		Actions:    &api.Actions{RouteAction: api.RouteAction_ROUTE_ACTION_ACCEPT},
	}}}
	ours := &api.Policy{Name: "ours"}
	for _, n := range s.cfg.Neighbors {
		set := &api.DefinedSet{DefinedType: api.DefinedType_DEFINED_TYPE_NEIGHBOR, Name: n.Address.String(),
			List: []string{netip.PrefixFrom(n.Address, n.Address.BitLen()).String()}}
		if err := s.server.AddDefinedSet(ctx, &api.AddDefinedSetRequest{DefinedSet: set}); err != nil {
			return err
		}
		for _, f := range families {
			if n.carries(f) {
				ours.Statements = append(ours.Statements, export(n, f))
			}
		}
	}
	for _, a := range []struct {
		direction api.PolicyDirection
		policy    *api.Policy
	}{{api.PolicyDirection_POLICY_DIRECTION_IMPORT, local}, {api.PolicyDirection_POLICY_DIRECTION_EXPORT, ours}} {
		if err := s.server.AddPolicy(ctx, &api.AddPolicyRequest{Policy: a.policy}); err != nil {
			return err
		}
		if err := s.server.SetPolicyAssignment(ctx, &api.SetPolicyAssignmentRequest{Assignment: &api.PolicyAssignment{
			Name: "global", Direction: a.direction, Policies: []*api.Policy{a.policy},
			DefaultAction: api.RouteAction_ROUTE_ACTION_REJECT,
		}}); err != nil {
			return err
		}
	}
	return nil
}

// export lets local routes of family f go to n.
func export(n Neighbor, f packet.Family) *api.Statement {
	hop, next := n.NextHop4, &api.NexthopAction{Self: true}
	if f == packet.RF_IPv6_UC {
		hop = n.NextHop6
	}
	if hop.IsValid() {
		next = &api.NexthopAction{Address: hop.String()}
	}
	return &api.Statement{
		Name: fmt.Sprintf("%s %s", n.Address, f),
		Conditions: &api.Conditions{
			RouteType:   api.Conditions_ROUTE_TYPE_LOCAL,
			NeighborSet: &api.MatchSet{Type: api.MatchSet_TYPE_ANY, Name: n.Address.String()},
			AfiSafiIn:   []*api.Family{apiFamily(f)},
		},
		Actions: &api.Actions{RouteAction: api.RouteAction_ROUTE_ACTION_ACCEPT, Nexthop: next},
	}
}

// Set announces exactly prefixes, from now on and to every neighbour that comes later. It is level-triggered: what is
// announced already is left alone, so it may be called with the same set for ever. When it returns without an error the
// sessions have been handed the changes; with one, call it again.
func (s *Speaker) Set(prefixes []netip.Prefix) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.setLocked(prefixes)
}

func (s *Speaker) setLocked(prefixes []netip.Prefix) error {
	var add, remove []*apiutil.Path
	for _, p := range prefixes {
		if !slices.Contains(s.set, p) {
			add = append(add, path(p))
		}
	}
	for _, p := range s.set {
		if !slices.Contains(prefixes, p) {
			remove = append(remove, path(p))
		}
	}
	if len(remove) > 0 { // an empty list would be an error; DeletePath without paths once meant all of them
		if err := s.server.DeletePath(apiutil.DeletePathRequest{Paths: remove}); err != nil {
			return fmt.Errorf("withdrawing: %w", err)
		}
		s.set = slices.DeleteFunc(slices.Clone(s.set), func(p netip.Prefix) bool { return !slices.Contains(prefixes, p) })
	}
	if len(add) > 0 {
		if _, err := s.server.AddPath(apiutil.AddPathRequest{Paths: add}); err != nil {
			return fmt.Errorf("announcing: %w", err)
		}
		s.set = slices.Clone(prefixes)
	}
	return nil
}

// path is the local route for p. Its next hop is left open: export fills it in for each neighbour.
func path(p netip.Prefix) *apiutil.Path {
	nlri, err := packet.NewIPAddrPrefix(p)
	if err != nil {
		panic(fmt.Sprintf("prefix %s: %v", p, err)) // the configuration holds valid prefixes only
	}
	attrs := []packet.PathAttributeInterface{packet.NewPathAttributeOrigin(packet.BGP_ORIGIN_ATTR_TYPE_IGP)}
	if p.Addr().Is4() {
		hop, _ := packet.NewPathAttributeNextHop(netip.IPv4Unspecified())
		attrs = append(attrs, hop)
	} else {
		hop, _ := packet.NewPathAttributeMpReachNLRI(packet.RF_IPv6_UC, []packet.PathNLRI{{NLRI: nlri}}, netip.IPv6Unspecified())
		attrs = append(attrs, hop)
	}
	return &apiutil.Path{Family: familyOf(p), Nlri: nlri, Attrs: attrs}
}

// session is one neighbour as GoBGP sees it now.
type session struct {
	address    netip.Addr
	state      string
	up         bool
	sent       uint64                 // UPDATE messages written to the router
	advertised map[packet.Family]bool // families in which the router has routes of ours
}

func (s *Speaker) sessions() []session {
	var all []session
	s.server.ListPeer(context.Background(), &api.ListPeerRequest{EnableAdvertised: true}, func(p *api.Peer) {
		state := p.GetState().GetSessionState()
		one := session{state: stateNames[state], up: state == api.PeerState_SESSION_STATE_ESTABLISHED,
			sent: p.GetState().GetMessages().GetSent().GetUpdate(), advertised: map[packet.Family]bool{}}
		one.address, _ = netip.ParseAddr(p.GetConf().GetNeighborAddress())
		for _, a := range p.GetAfiSafis() {
			f := a.GetState().GetFamily()
			if a.GetState().GetAdvertised() > 0 {
				one.advertised[packet.NewFamily(uint16(f.GetAfi()), uint8(f.GetSafi()))] = true
			}
		}
		all = append(all, one)
	})
	slices.SortFunc(all, func(a, b session) int { return a.address.Compare(b.address) })
	return all
}

var stateNames = map[api.PeerState_SessionState]string{
	api.PeerState_SESSION_STATE_UNSPECIFIED: "idle",
	api.PeerState_SESSION_STATE_IDLE:        "idle",
	api.PeerState_SESSION_STATE_CONNECT:     "connect",
	api.PeerState_SESSION_STATE_ACTIVE:      "active",
	api.PeerState_SESSION_STATE_OPENSENT:    "opensent",
	api.PeerState_SESSION_STATE_OPENCONFIRM: "openconfirm",
	api.PeerState_SESSION_STATE_ESTABLISHED: "established",
}

// Established is the state of a session that works (RFC 4271 8.2.2).
const Established = "established"

// Sessions says how each session is, and what the router behind it has been told.
func (s *Speaker) Sessions() []status.Session {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []status.Session
	for _, one := range s.sessions() {
		out := status.Session{Neighbor: one.address.String(), State: one.state}
		for _, p := range s.set {
			if one.up && one.advertised[familyOf(p)] {
				out.Announced = append(out.Announced, p.String())
			}
		}
		all = append(all, out)
	}
	return all
}

// Stop withdraws everything, waits until each router has been sent that or ctx ends, and closes the sessions. A router
// that is gone is not waited for. Nothing can be done with s afterwards.
func (s *Speaker) Stop(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	need := map[netip.Addr]uint64{} // the count of UPDATEs at which a router knows
	for _, one := range s.sessions() {
		if one.up && len(one.advertised) > 0 {
			need[one.address] = one.sent + uint64(len(one.advertised)) // a withdrawal takes one UPDATE a family, at least
		}
	}
	err := s.setLocked(nil)
	if err == nil {
		err = s.waitSent(ctx, need)
	}
	s.server.Stop() // says goodbye with a CEASE, which withdraws as well
	return err
}

// waitSent returns when every session of need is at its count and has been quiet for one look, or is gone.
func (s *Speaker) waitSent(ctx context.Context, need map[netip.Addr]uint64) error {
	const look = 5 * time.Millisecond
	last := map[netip.Addr]uint64{}
	for {
		pending := false
		for _, one := range s.sessions() {
			want, counts := need[one.address]
			if counts && one.up && (one.sent < want || one.sent != last[one.address]) {
				pending = true
			}
			last[one.address] = one.sent
		}
		if !pending {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.New("not every router was sent the withdrawal in time; closing the sessions withdraws as well")
		case <-time.After(look):
		}
	}
}
