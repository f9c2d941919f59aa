package bgp

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/osrg/gobgp/v4/api"
)

// Graceful restart (RFC 4724), as a node wants it: it forwards no packets for others, and what is to go on is the DNS service.
//
//   - A router keeps the routes for the restart time when the connection ends without a NOTIFICATION. Whatever is withdrawn
//     before is gone: only Keep ends sessions in that way, and so does a crash.
//   - A NOTIFICATION ends it at once. The N bit of RFC 8538, with which a router would keep routes also when its hold timer
//     expires, is not offered: a process that hangs loses them as without graceful restart.
//   - A new process begins its sessions when it is known what it will announce (Connect), so that nothing it says first has to
//     be taken back. The first OPEN says that it has restarted and that the service went on (R and F bits). The routes
//     follow, then End-of-RIB, at which a router drops what was not sent again. Until then the restart time goes on.

// deferral is how long GoBGP waits for the End-of-RIB of other routers before it sends routes to one, the least that it can: a
// router that is down must not keep another one waiting, and this side takes no routes.
const deferral = time.Second

// gracefulRestart is what the sessions of a neighbour that is added now offer.
func (s *Speaker) gracefulRestart() *api.GracefulRestart {
	return &api.GracefulRestart{
		Enabled:         s.cfg.GracefulRestart > 0,
		RestartTime:     uint32(s.cfg.GracefulRestart / time.Second),
		DeferralTime:    uint32(deferral / time.Second),
		LocalRestarting: s.cfg.GracefulRestart > 0,
	}
}

// Connect begins the sessions, with what is set by then. It is for once it is known what is to be announced, and may be called
// again.
func (s *Speaker) Connect() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.connected || s.stopped {
		return
	}
	if err := s.connect(context.Background()); err != nil {
		panic(err) // what can fail was tried at the start: a fault of the program
	}
}

func (s *Speaker) connect(ctx context.Context) error {
	s.connected = true
	for _, n := range s.cfg.Neighbors {
		if err := s.server.AddPeer(ctx, &api.AddPeerRequest{Peer: s.peer(n)}); err != nil {
			return fmt.Errorf("neighbor %s: %w", n.Address, err)
		}
	}
	return nil
}

// Keep ends the sessions in a way that routers keep the routes for the restart time. It does nothing, and says why, unless
// every router that has routes of ours does so. Nothing can be done with s after it returned nil.
func (s *Speaker) Keep(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cfg.GracefulRestart == 0 {
		return errors.New("graceful_restart is off")
	}
	var told []netip.Addr
	for _, one := range s.sessions() {
		if !one.up || len(one.advertised) == 0 {
			continue
		}
		if told = append(told, one.address); !one.restarts {
			return fmt.Errorf("the router %s does not know graceful restart", one.address)
		}
	}
	if len(told) == 0 {
		return errors.New("no router has a route of this node")
	}
	return s.close(ctx, true)
}

// Abandon ends the sessions with a CEASE, for a process that ends itself since it hangs. It takes no lock and writes no log, which
// may be what hangs. It returns when all was said, or never.
func (s *Speaker) Abandon() {
	s.troubles.abandoned.Store(true)
	s.server.Stop()
}
