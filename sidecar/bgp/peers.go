package bgp

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/osrg/gobgp/v4/api"
	packet "github.com/osrg/gobgp/v4/pkg/packet/bgp"
)

// retry is how long to wait before the next try to connect, the least that GoBGP can. Its own 120 s would add two minutes
// to every restart of a router.
const retry = 2 * time.Second

// bfdMissing is how many BFD packets must be missing in a row until a session is over.
const bfdMissing = 3

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

// tables are the families that GoBGP keeps tables of, by its own numbers: unicast of IPv4 and of IPv6. By default it keeps two of each of
// the 27 that it knows, 10 MiB of them empty.
var tables = []uint32{0, 1}

func global(cfg Config) *api.Global {
	g := &api.Global{Asn: cfg.AS, RouterId: cfg.RouterID.String(), ListenPort: -1, Families: tables} // GoBGP takes 0 for port 179
	if len(cfg.Listen) > 0 {
		g.ListenPort = int32(cfg.Port)
	}
	for _, a := range cfg.Listen {
		g.ListenAddresses = append(g.ListenAddresses, a.String())
	}
	return g
}

func (s *Speaker) peer(n Neighbor) *api.Peer {
	p := &api.Peer{
		Conf: &api.PeerConf{NeighborAddress: n.Address.String(), PeerAsn: n.AS, AuthPassword: n.Password},
		Timers: &api.Timers{Config: &api.TimersConfig{
			ConnectRetry:           uint64(retry / time.Second),
			HoldTime:               uint64(n.HoldTime / time.Second),
			KeepaliveInterval:      uint64(max(n.HoldTime/3, time.Second) / time.Second),
			IdleHoldTimeAfterReset: uint64(retry / time.Second),
		}},
		Transport:       &api.Transport{RemotePort: uint32(n.Port), PassiveMode: n.Passive},
		GracefulRestart: s.gracefulRestart(),
	}
	if n.Source.IsValid() {
		p.Transport.LocalAddress = n.Source.String()
	}
	if n.TTLSecurity > 0 {
		p.TtlSecurity = &api.TtlSecurity{Enabled: true, TtlMin: uint32(256 - int(n.TTLSecurity))}
	}
	if n.BFD > 0 {
		interval := uint32(n.BFD.Microseconds())
		p.Bfd = &api.BfdPeerConfig{Enabled: true, DetectionMultiplier: bfdMissing,
			DesiredMinimumTxInterval: interval, RequiredMinimumReceive: interval}
	}
	if n.Multihop > 0 {
		p.EbgpMultihop = &api.EbgpMultihop{Enabled: true, MultihopTtl: uint32(n.Multihop)}
	}
	for _, f := range families {
		if n.carries(f) {
			p.AfiSafis = append(p.AfiSafis, &api.AfiSafi{Config: &api.AfiSafiConfig{Family: apiFamily(f), Enabled: true},
				PrefixLimits:      &api.PrefixLimit{Family: apiFamily(f), MaxPrefixes: n.MaxPrefixes},
				MpGracefulRestart: &api.MpGracefulRestart{Config: &api.MpGracefulRestartConfig{Enabled: s.cfg.GracefulRestart > 0}}})
		}
	}
	return p
}

func apiFamily(f packet.Family) *api.Family {
	return &api.Family{Afi: api.Family_Afi(f.Afi()), Safi: api.Family_Safi(f.Safi())}
}

// drainingSet is the name of the community that routes carry while draining.
const drainingSet = "draining"

// policies closes both directions (RFC 8212) and opens the one way there is: local routes, to each neighbour, with the
// next hop and the attributes that are right there.
func (s *Speaker) policies(ctx context.Context) error {
	local := &api.Policy{Name: "local", Statements: []*api.Statement{{
		Name:       "local",
		Conditions: &api.Conditions{RouteType: api.Conditions_ROUTE_TYPE_LOCAL},
		Actions:    &api.Actions{RouteAction: api.RouteAction_ROUTE_ACTION_ACCEPT},
	}}}
	draining := &api.DefinedSet{DefinedType: api.DefinedType_DEFINED_TYPE_COMMUNITY, Name: drainingSet, List: []string{"^65535:0$"}}
	if err := s.server.AddDefinedSet(ctx, &api.AddDefinedSetRequest{DefinedSet: draining}); err != nil {
		return err
	}
	if err := s.assign(ctx, api.PolicyDirection_POLICY_DIRECTION_IMPORT, local); err != nil {
		return err
	}
	return s.exportPolicy(ctx)
}

// exportPolicy puts what cfg says of neighbours' routes into the place of what there was.
func (s *Speaker) exportPolicy(ctx context.Context) error {
	s.known = nil
	before := s.ours
	s.generation++
	ours := &api.Policy{Name: fmt.Sprintf("ours %d", s.generation)}
	for _, n := range s.cfg.Neighbors {
		if !s.sets[n.Address] { // nobody is in it too, as an empty set is everybody
			set := neighborSet(n.Address, n.Address, netip.IPv4Unspecified())
			if err := s.server.AddDefinedSet(ctx, &api.AddDefinedSetRequest{DefinedSet: set}); err != nil {
				return err
			}
			s.sets[n.Address] = true
		}
		for _, f := range families {
			if n.carries(f) {
				ours.Statements = append(ours.Statements, s.exports(n, f)...)
			}
		}
	}
	if err := s.assign(ctx, api.PolicyDirection_POLICY_DIRECTION_EXPORT, ours); err != nil {
		return err
	}
	s.ours = ours
	if before == nil {
		return nil
	}
	return s.server.DeletePolicy(ctx, &api.DeletePolicyRequest{Policy: before, All: true})
}

// assign makes a policy the only one of its direction.
func (s *Speaker) assign(ctx context.Context, direction api.PolicyDirection, policy *api.Policy) error {
	if err := s.server.AddPolicy(ctx, &api.AddPolicyRequest{Policy: policy}); err != nil {
		return err
	}
	return s.server.SetPolicyAssignment(ctx, &api.SetPolicyAssignmentRequest{Assignment: &api.PolicyAssignment{
		Name: "global", Direction: direction, Policies: []*api.Policy{policy},
		DefaultAction: api.RouteAction_ROUTE_ACTION_REJECT,
	}})
}

// neighborSet is the set that is named after a neighbour, with these members.
func neighborSet(name netip.Addr, members ...netip.Addr) *api.DefinedSet {
	set := &api.DefinedSet{DefinedType: api.DefinedType_DEFINED_TYPE_NEIGHBOR, Name: name.String()}
	for _, m := range members {
		set.List = append(set.List, netip.PrefixFrom(m, m.BitLen()).String())
	}
	return set
}

// exports lets local routes of family f go to n. A route that is being drained meets the longer path first.
func (s *Speaker) exports(n Neighbor, f packet.Family) []*api.Statement {
	n.Attributes = s.worse(n)
	all := []*api.Statement{s.export(n, f, "", n.Prepend)}
	if s.cfg.DrainPrepend > 0 && n.AS != s.cfg.AS {
		draining := s.export(n, f, " "+drainingSet, n.Prepend+s.cfg.DrainPrepend)
		draining.Conditions.CommunitySet = &api.MatchSet{Type: api.MatchSet_TYPE_ANY, Name: drainingSet}
		all = []*api.Statement{draining, all[0]}
	}
	return all
}

// worse is what routes carry to n now: with what makes them the worse of ways, if they are to be.
func (s *Speaker) worse(n Neighbor) Attributes {
	a, d := n.Attributes, s.cfg.Degraded
	if !s.set.Degraded {
		return a
	}
	a.Communities = slices.Concat(a.Communities, d.Communities)
	a.ExtendedCommunities = slices.Concat(a.ExtendedCommunities, d.ExtendedCommunities)
	a.LargeCommunities = slices.Concat(a.LargeCommunities, d.LargeCommunities)
	if d.MED != nil {
		a.MED = d.MED
	}
	if n.AS != s.cfg.AS {
		a.Prepend += d.Prepend
	}
	return a
}

// degradedPreference is the local preference of a route that is the worse of ways, in internal sessions. 100 is usual, and
// 0 is that of a route that is being drained.
const degradedPreference = 50

func (s *Speaker) export(n Neighbor, f packet.Family, suffix string, prepend uint8) *api.Statement {
	hop, next := n.NextHop4, &api.NexthopAction{Self: true}
	if f == packet.RF_IPv6_UC {
		hop = n.NextHop6
	}
	if hop.IsValid() {
		next = &api.NexthopAction{Address: hop.String()}
	}
	actions := &api.Actions{RouteAction: api.RouteAction_ROUTE_ACTION_ACCEPT, Nexthop: next,
		Community: add(n.Communities), ExtCommunity: add(n.ExtendedCommunities), LargeCommunity: add(n.LargeCommunities)}
	if n.MED != nil {
		actions.Med = &api.MedAction{Type: api.MedAction_TYPE_REPLACE, Value: int64(*n.MED)}
	}
	if prepend > 0 {
		actions.AsPrepend = &api.AsPrependAction{Asn: s.cfg.AS, Repeat: uint32(prepend)}
	}
	if s.set.Degraded && !s.set.Draining && n.AS == s.cfg.AS {
		actions.LocalPref = &api.LocalPrefAction{Value: degradedPreference}
	}
	return &api.Statement{
		Name: fmt.Sprintf("%d %s %s%s", s.generation, n.Address, f, suffix),
		Conditions: &api.Conditions{
			RouteType:   api.Conditions_ROUTE_TYPE_LOCAL,
			NeighborSet: &api.MatchSet{Type: api.MatchSet_TYPE_ANY, Name: n.Address.String()},
			AfiSafiIn:   []*api.Family{apiFamily(f)},
		},
		Actions: actions,
	}
}

func add(communities []string) *api.CommunityAction {
	if len(communities) == 0 {
		return nil
	}
	return &api.CommunityAction{Type: api.CommunityAction_TYPE_ADD, Communities: communities}
}
