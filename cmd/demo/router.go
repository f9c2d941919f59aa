//go:build linux

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"os/signal"
	"sync"
	"time"

	"github.com/osrg/gobgp/v4/api"
	"github.com/osrg/gobgp/v4/pkg/apiutil"
	"github.com/osrg/gobgp/v4/pkg/packet/bgp"
	"github.com/osrg/gobgp/v4/pkg/server"
	"golang.org/x/sys/unix"
)

// routerConfig is what a router process reads from its standard input.
type routerConfig struct {
	ASN       uint32         `json:"asn"`
	ID        netip.Addr     `json:"id"`
	Listen    []netip.Addr   `json:"listen"`
	Port      uint16         `json:"port"`
	Neighbors []neighbor     `json:"neighbors"`
	Networks  []netip.Prefix `json:"networks"` // what it announces as its own: its links
	Kernel    bool           `json:"kernel"`   // install routes into the kernel's table
}

// neighbor is one BGP session, for its address's family only: the next hop of a route is then always on the link.
type neighbor struct {
	Address netip.Addr `json:"address"`
	Local   netip.Addr `json:"local"`
	ASN     uint32     `json:"asn"`
	Passive bool       `json:"passive"` // the neighbour calls
}

// routerEvent is what a router process writes to its standard output, one JSON document a line: a route that is now in
// its table (Via is zero when it is gone), or the state of a session.
type routerEvent struct {
	At       time.Time    `json:"at"`
	Prefix   netip.Prefix `json:"prefix,omitzero"`
	Via      netip.Addr   `json:"via,omitzero"`
	Neighbor netip.Addr   `json:"neighbor,omitzero"`
	State    string       `json:"state,omitempty"`
}

// A table is where a router's best routes go.
type table interface {
	// replace sends prefix to via; it is done when it returns.
	replace(prefix netip.Prefix, via netip.Addr) error
	remove(prefix netip.Prefix) error
}

// noTable is the table of a router on loopback: only what it tells counts.
type noTable struct{}

func (noTable) replace(netip.Prefix, netip.Addr) error { return nil }
func (noTable) remove(netip.Prefix) error              { return nil }

// runRouter is the whole life of a router process: it speaks BGP as the configuration says until SIGTERM. A process of
// its own, since GoBGP opens its sockets from goroutines of its own: only a process as a whole is in one namespace.
func runRouter(in io.Reader, out, log io.Writer) error {
	var config routerConfig
	if err := json.NewDecoder(in).Decode(&config); err != nil {
		return fmt.Errorf("router: configuration: %w", err)
	}
	routes, err := openTable(config.Kernel)
	if err != nil {
		return err
	}
	r := &router{config: config, routes: routes, out: json.NewEncoder(out),
		log: slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelWarn}))}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	if err := r.start(ctx); err != nil {
		return err
	}
	<-ctx.Done()
	r.bgp.Stop()
	return nil
}

func openTable(kernel bool) (table, error) {
	if !kernel {
		return noTable{}, nil
	}
	return openKernelTable()
}

// router is a BGP speaker that puts its best routes into a table and tells its parent.
type router struct {
	config routerConfig
	routes table
	bgp    *server.BgpServer
	log    *slog.Logger
	mu     sync.Mutex // guards out: routes and sessions are told from two goroutines
	out    *json.Encoder
}

func (r *router) start(ctx context.Context) error {
	level := new(slog.LevelVar)
	r.bgp = server.NewBgpServer(server.LoggerOption(r.log, level))
	go r.bgp.Serve()
	listen := make([]string, len(r.config.Listen))
	for i, a := range r.config.Listen {
		listen[i] = a.String()
	}
	if err := r.bgp.StartBgp(ctx, &api.StartBgpRequest{Global: &api.Global{Asn: r.config.ASN, RouterId: r.config.ID.String(),
		ListenPort: int32(r.config.Port), ListenAddresses: listen}}); err != nil {
		return err
	}
	if err := r.bgp.WatchEvent(ctx, server.WatchEventMessageCallbacks{OnBestPath: r.best, OnPeerUpdate: r.session},
		server.WatchBestPath(true), server.WatchPeer()); err != nil {
		return err
	}
	for _, network := range r.config.Networks {
		if err := r.originate(network); err != nil {
			return err
		}
	}
	for _, n := range r.config.Neighbors {
		if err := r.bgp.AddPeer(ctx, &api.AddPeerRequest{Peer: r.peer(n)}); err != nil {
			return fmt.Errorf("neighbour %s: %w", n.Address, err)
		}
	}
	return nil
}

// holdSeconds is how long a router waits for a neighbour that says nothing. A neighbour that dies closes its
// connection and is gone at once; this is for one that hangs.
const holdSeconds = 9

func (r *router) peer(n neighbor) *api.Peer {
	afi := api.Family_AFI_IP
	if n.Address.Is6() {
		afi = api.Family_AFI_IP6
	}
	return &api.Peer{
		Conf:      &api.PeerConf{NeighborAddress: n.Address.String(), PeerAsn: n.ASN},
		Transport: &api.Transport{LocalAddress: n.Local.String(), RemotePort: uint32(r.config.Port), PassiveMode: n.Passive},
		Timers:    &api.Timers{Config: &api.TimersConfig{ConnectRetry: 2, HoldTime: holdSeconds, KeepaliveInterval: holdSeconds / 3}},
		AfiSafis: []*api.AfiSafi{{Config: &api.AfiSafiConfig{Enabled: true,
			Family: &api.Family{Afi: afi, Safi: api.Family_SAFI_UNICAST}}}},
	}
}

// originate announces a network of the router's own, so that the others can answer to it.
func (r *router) originate(network netip.Prefix) error {
	nlri, err := bgp.NewIPAddrPrefix(network)
	if err != nil {
		return err
	}
	attributes := []bgp.PathAttributeInterface{bgp.NewPathAttributeOrigin(0)}
	if network.Addr().Is4() {
		hop, err := bgp.NewPathAttributeNextHop(netip.IPv4Unspecified())
		if err != nil {
			return err
		}
		attributes = append(attributes, hop)
	} else {
		reach, err := bgp.NewPathAttributeMpReachNLRI(bgp.RF_IPv6_UC, []bgp.PathNLRI{{NLRI: nlri}}, netip.IPv6Unspecified())
		if err != nil {
			return err
		}
		attributes = append(attributes, reach)
	}
	_, err = r.bgp.AddPath(apiutil.AddPathRequest{Paths: []*apiutil.Path{{Family: family(network), Nlri: nlri, Attrs: attributes}}})
	return err
}

func family(p netip.Prefix) bgp.Family {
	if p.Addr().Is4() {
		return bgp.RF_IPv4_UC
	}
	return bgp.RF_IPv6_UC
}

// best takes changes of the best paths into the table.
func (r *router) best(paths []*apiutil.Path, _ time.Time) {
	for _, p := range paths {
		network, err := netip.ParsePrefix(p.Nlri.String())
		if err != nil {
			r.log.Error("route of another kind", "nlri", p.Nlri)
			continue
		}
		via := nextHop(p)
		switch {
		case p.Withdrawal:
			via, err = netip.Addr{}, r.routes.remove(network)
		case !via.IsValid() || via.IsUnspecified(): // its own: the kernel has it since the link is up
			continue
		default:
			err = r.routes.replace(network, via)
		}
		if err != nil {
			r.log.Error("route not installed", "prefix", network, "via", via, "error", err)
			continue
		}
		r.tell(routerEvent{Prefix: network, Via: via})
	}
}

func nextHop(p *apiutil.Path) netip.Addr {
	for _, a := range p.Attrs {
		switch a := a.(type) {
		case *bgp.PathAttributeNextHop:
			return a.Value
		case *bgp.PathAttributeMpReachNLRI:
			return a.Nexthop
		}
	}
	return netip.Addr{}
}

func (r *router) session(e *apiutil.WatchEventMessage_PeerEvent, _ time.Time) {
	if e.Type == apiutil.PEER_EVENT_STATE {
		r.tell(routerEvent{Neighbor: e.Peer.State.NeighborAddress, State: e.Peer.State.SessionState.String()})
	}
}

func (r *router) tell(e routerEvent) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e.At = time.Now()
	r.out.Encode(e) // fails when the parent is gone, and then so is this process
}
