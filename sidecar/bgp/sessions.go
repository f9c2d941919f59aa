package bgp

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/osrg/gobgp/v4/api"
	"github.com/osrg/gobgp/v4/pkg/apiutil"
	packet "github.com/osrg/gobgp/v4/pkg/packet/bgp"
	"github.com/osrg/gobgp/v4/pkg/server"

	"github.com/coredns-anycast/coredns-anycast/internal/status"
)

// session is one neighbour as GoBGP sees it now.
type session struct {
	address    netip.Addr
	state      string
	up         bool
	since      int64                  // when it came up last, seconds since the epoch
	sent       uint64                 // UPDATE messages written to the router
	advertised map[packet.Family]bool // families in which the router has routes of ours
	bfd        string                 // empty without BFD
	hold       time.Duration          // that was negotiated, of a session that is up
	restarts   bool                   // the router has said that it knows graceful restart
}

// sessions are all of them now.
func (s *Speaker) sessions() []session { return s.list(true) }

// knownFor is how long it is taken for known what routers have, though nothing has changed that is known to change it.
const knownFor = 30 * time.Second

// lately are all sessions now. GoBGP goes through all of its table to say what a router has; that is as it was where nothing was decided anew, and
// no session has come up or sent an UPDATE since. mu is held.
func (s *Speaker) lately() []session {
	all := s.list(false)
	same := slices.EqualFunc(all, s.known, func(a, b session) bool {
		return a.address == b.address && a.up == b.up && a.since == b.since && a.sent == b.sent
	})
	if !same || time.Since(s.knownAt) >= knownFor {
		s.known, s.knownAt = s.list(true), time.Now()
		return s.known
	}
	for i := range all {
		all[i].advertised = s.known[i].advertised
	}
	return all
}

// list has GoBGP list the sessions, with what routers have if that is wanted.
func (s *Speaker) list(advertised bool) []session {
	var all []session
	s.server.ListPeer(context.Background(), &api.ListPeerRequest{EnableAdvertised: advertised}, func(p *api.Peer) {
		state := p.GetState().GetSessionState()
		one := session{state: stateNames[state], up: state == api.PeerState_SESSION_STATE_ESTABLISHED,
			since: p.GetTimers().GetState().GetUptime().GetSeconds(), sent: p.GetState().GetMessages().GetSent().GetUpdate(), advertised: map[packet.Family]bool{}}
		if p.GetBfd().GetEnabled() {
			one.bfd = bfdNames[p.GetState().GetBfdState().GetSessionState()]
		}
		one.hold = time.Duration(p.GetTimers().GetState().GetNegotiatedHoldTime()) * time.Second
		one.restarts = slices.ContainsFunc(p.GetState().GetRemoteCap(), func(c *api.Capability) bool { return c.GetGracefulRestart() != nil })
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

var bfdNames = map[api.BfdSessionState]string{
	api.BfdSessionState_BFD_SESSION_STATE_UNSPECIFIED: "down",
	api.BfdSessionState_BFD_SESSION_STATE_DOWN:        "down",
	api.BfdSessionState_BFD_SESSION_STATE_INIT:        "init",
	api.BfdSessionState_BFD_SESSION_STATE_UP:          BFDUp,
	api.BfdSessionState_BFD_SESSION_STATE_ADMIN_DOWN:  "admin-down",
}

const (
	Established = "established" // state of a BGP session that works (RFC 4271 8.2.2)
	BFDUp       = "up"          // and of a BFD session (RFC 5880 6.2)
)

// Sessions says how each session is, and what the router behind it has been told.
func (s *Speaker) Sessions() []status.Session {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []status.Session
	for _, one := range s.lately() {
		out := status.Session{Neighbor: one.address.String(), State: one.state, BFD: one.bfd}
		why, count := s.troubles.why(one.address)
		if out.NotificationsSent, out.NotificationsReceived = count.Sent, count.Received; !one.up {
			out.Down = why
		}
		if one.up && one.restarts {
			out.KeptSeconds = int(s.cfg.GracefulRestart / time.Second)
		}
		for _, p := range s.set.Prefixes {
			if one.up && one.advertised[familyOf(p)] {
				out.Announced = append(out.Announced, p.String())
			}
		}
		all = append(all, out)
	}
	if !s.connected {
		for _, n := range s.cfg.Neighbors {
			all = append(all, status.Session{Neighbor: n.Address.String(), State: stateNames[api.PeerState_SESSION_STATE_IDLE],
				Down: status.Reason{Code: Connecting, Detail: "it begins when it is known whether the node is to be announced"}})
		}
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
	err := s.setLocked(State{})
	if err == nil {
		err = s.waitSent(ctx, need)
	}
	return errors.Join(err, s.close(ctx, false)) // says goodbye with a CEASE, which withdraws as well
}

// close ends all sessions, with a CEASE, or without a word where the router then keeps the routes. mu is held.
func (s *Speaker) close(ctx context.Context, keep bool) error {
	s.stopped = true
	s.troubles.end()
	if s.unguard != nil {
		s.unguard()
	}
	closed := make(chan error, 1)
	go func() {
		if keep {
			closed <- s.server.StopBgp(context.Background(), &api.StopBgpRequest{AllowGracefulRestart: true})
			return
		}
		s.server.Stop()
		closed <- nil
	}()
	select {
	case err := <-closed:
		return err
	case <-ctx.Done():
		return errors.New("the sessions were not closed in time; the end of the process closes them")
	}
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

// lasting is how long a session must have been up for its loss to be an event, and not a fault that repeats.
const lasting = 10 * time.Second

// watchSessions looks at each session that comes up or is lost.
//
// When one that had lasted is lost, it makes the neighbour anew. GoBGP would keep still for five seconds, and close the
// connections that the router makes meanwhile; one that it has just been given is tried, and accepted, at once. A session
// that does not last gets the five seconds: whatever breaks it would break it again. So does one with BFD, whose part of
// GoBGP can wait for itself when neighbours are deleted while it brings sessions down.
func (s *Speaker) watchSessions(ctx context.Context) error {
	up := map[netip.Addr]time.Time{}
	return s.server.WatchEvent(ctx, server.WatchEventMessageCallbacks{OnPeerUpdate: func(e *apiutil.WatchEventMessage_PeerEvent, at time.Time) {
		address := e.Peer.Conf.NeighborAddress
		switch since, was := up[address]; {
		case e.Peer.State.SessionState == packet.BGP_FSM_ESTABLISHED:
			up[address] = at
			s.established(ctx, address)
		case was:
			delete(up, address)
			if at.Sub(since) >= lasting && !s.troubles.paused(address) {
				s.renew(ctx, address)
			}
		}
	}}, server.WatchPeer())
}

func (s *Speaker) renew(ctx context.Context, address netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.neighbor(address)
	if s.stopped || n == nil || n.BFD > 0 {
		return
	}
	err := s.server.DeletePeer(ctx, &api.DeletePeerRequest{Address: address.String()})
	if err == nil {
		err = s.server.AddPeer(ctx, &api.AddPeerRequest{Peer: s.peer(*n)})
	}
	if err != nil { // nothing but a fault of the program; without this neighbour the node would be half announced for ever
		panic(fmt.Sprintf("neighbor %s: a lost session could not be made anew: %v", address, err))
	}
}
