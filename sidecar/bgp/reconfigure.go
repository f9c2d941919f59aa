package bgp

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"

	"github.com/osrg/gobgp/v4/api"
	"github.com/osrg/gobgp/v4/pkg/apiutil"
)

// Reconfigure takes other neighbours, and other attributes for those that stay, whose sessions go on: they are sent what has
// changed. A session is made anew only where something about itself has changed. AS, router id and listeners are fixed; so
// are neighbours with BFD, but for their attributes. It does all or nothing, unless the error says otherwise.
func (s *Speaker) Reconfigure(next Config) error {
	if err := protectionWorks(next); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.cfg
	if old.AS != next.AS || old.RouterID != next.RouterID || old.Origin != next.Origin || old.Port != next.Port || !slices.Equal(old.Listen, next.Listen) {
		return errors.New("the AS, the origin, the router id and listeners take a restart")
	}
	if old.GracefulRestart != next.GracefulRestart {
		return errors.New("graceful restart takes a restart")
	}
	if reflect.DeepEqual(old, next) {
		return nil
	}
	gone, anew, kept := s.changes(next)
	for _, n := range append(slices.Clone(gone), anew...) {
		if was := s.neighbor(n.Address); n.BFD > 0 || was != nil && was.BFD > 0 {
			return fmt.Errorf("neighbor %s has bfd: its session takes a restart", n.Address)
		}
	}
	ctx := context.Background()
	for _, n := range append(slices.Clone(gone), anew...) {
		if s.connected && s.neighbor(n.Address) != nil {
			must(n.Address, s.server.DeletePeer(ctx, &api.DeletePeerRequest{Address: n.Address.String()}))
		}
	}
	s.cfg = next
	if err := s.exportPolicy(ctx); err != nil {
		return fmt.Errorf("setting BGP policies: %w; restart the sidecar", err)
	}
	for _, n := range anew {
		s.troubles.begin(n)
		if s.connected {
			must(n.Address, s.server.AddPeer(ctx, &api.AddPeerRequest{Peer: s.peer(n)}))
		}
	}
	if !reflect.DeepEqual(old.Prefixes, next.Prefixes) { // a route that is there already is replaced
		var again []*apiutil.Path
		for _, p := range s.set.Prefixes {
			again = append(again, s.path(p, s.set.Draining))
		}
		if len(again) > 0 {
			if _, err := s.server.AddPath(apiutil.AddPathRequest{Paths: again}); err != nil {
				return fmt.Errorf("announcing: %w", err)
			}
		}
	}
	for _, n := range kept {
		s.sendAgain(ctx, n.Address)
	}
	return nil
}

// sendAgain has a neighbour sent its routes as the policies are now, within its session. mu is held.
func (s *Speaker) sendAgain(ctx context.Context, address netip.Addr) {
	if !s.connected {
		return
	}
	s.known = nil
	must(address, s.server.ResetPeer(ctx, &api.ResetPeerRequest{Address: address.String(), Soft: true, Direction: api.ResetPeerRequest_DIRECTION_OUT}))
}

// changes says who is no more, whose session is to be made, and who stays. mu is held.
func (s *Speaker) changes(next Config) (gone, anew, kept []Neighbor) {
	has := func(all []Neighbor, address netip.Addr) bool {
		return slices.ContainsFunc(all, func(n Neighbor) bool { return n.Address == address })
	}
	for _, n := range s.cfg.Neighbors {
		if !has(next.Neighbors, n.Address) {
			gone = append(gone, n)
		}
	}
	for _, n := range next.Neighbors {
		if was := s.neighbor(n.Address); was != nil && reflect.DeepEqual(session4271(*was), session4271(n)) {
			kept = append(kept, n)
		} else {
			anew = append(anew, n)
		}
	}
	return gone, anew, kept
}

// session4271 is a neighbour without what policies do to its routes: what is left makes the session (RFC 4271 4.2).
func session4271(n Neighbor) Neighbor {
	n.Attributes, n.HoldZero = Attributes{}, false
	carries4, carries6 := n.carries(families[0]), n.carries(families[1])
	n.NextHop4, n.NextHop6 = netip.Addr{}, netip.Addr{}
	if carries4 { // which families it carries stays
		n.NextHop4 = netip.IPv4Unspecified()
	}
	if carries6 {
		n.NextHop6 = netip.IPv6Unspecified()
	}
	return n
}
