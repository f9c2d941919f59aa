package bgp

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/osrg/gobgp/v4/api"
)

// pause is how long a session stays down that this side has ended, since the router breaks a rule: it would break it again.
const pause = time.Minute

// established judges a session that has come up. One whose router wants a hold time of 0 would last for ever, whoever dies
// (RFC 4271 4.2 lets it be refused). GoBGP takes it, so it is ended here; later tries get no route before they are judged.
func (s *Speaker) established(ctx context.Context, address netip.Addr) {
	all := s.sessions()
	j := slices.IndexFunc(all, func(one session) bool { return one.address == address && one.up })
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.neighbor(address)
	if n == nil || j < 0 || s.stopped { // or lost again meanwhile
		return
	}
	zero := all[j].hold == 0 && !n.HoldZero
	if s.mute(ctx, address, zero); !zero {
		return
	}
	s.troubles.pause(address, HoldTimeZero, "the router proposes a hold time of 0, with which a dead node would keep its route: give it one, or allow it (hold_time_zero)")
	must(address, s.server.DisablePeer(ctx, &api.DisablePeerRequest{Address: address.String(), Communication: "a hold time of 0 is not accepted (RFC 4271 4.2)"}))
	s.resumeLater(address)
}

// neighbor is the one with that address; nil: there is none, or no more. mu is held.
func (s *Speaker) neighbor(address netip.Addr) *Neighbor {
	i := slices.IndexFunc(s.cfg.Neighbors, func(n Neighbor) bool { return n.Address == address })
	if i < 0 {
		return nil
	}
	return &s.cfg.Neighbors[i]
}

// mute keeps routes from a neighbour, or lets them go to it again. mu is held.
func (s *Speaker) mute(ctx context.Context, address netip.Addr, on bool) {
	if s.muted[address] == on {
		return
	}
	s.muted[address] = on
	if on {
		must(address, s.server.DeleteDefinedSet(ctx, &api.DeleteDefinedSetRequest{DefinedSet: neighborSet(address, address)}))
		return
	}
	must(address, s.server.AddDefinedSet(ctx, &api.AddDefinedSetRequest{DefinedSet: neighborSet(address, address)}))
	s.sendAgain(ctx, address)
}

// resumeLater lets a neighbour try again after a while.
func (s *Speaker) resumeLater(address netip.Addr) {
	time.AfterFunc(s.pause, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.stopped || s.neighbor(address) == nil {
			return
		}
		s.troubles.resume(address)
		must(address, s.server.EnablePeer(context.Background(), &api.EnablePeerRequest{Address: address.String()}))
	})
}

// must ends the process over what can be nothing but a fault of the program: a neighbour would be half announced for ever.
func must(address netip.Addr, err error) {
	if err != nil {
		panic(fmt.Sprintf("neighbor %s: %v", address, err))
	}
}
