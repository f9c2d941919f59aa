package bgp

import (
	"context"
	"encoding/binary"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/osrg/gobgp/v4/api"
	"github.com/osrg/gobgp/v4/pkg/apiutil"
	packet "github.com/osrg/gobgp/v4/pkg/packet/bgp"

	"github.com/coredns-anycast/coredns-anycast/internal/lab"
)

var quiet = slog.New(slog.DiscardHandler)

var (
	v4 = netip.MustParsePrefix("192.0.2.0/24")
	v6 = netip.MustParsePrefix("2001:db8:53::/48")
)

// router is a BGP speaker made of plain bytes, so that it can send what no library would.
type router struct {
	t        *testing.T
	as       uint32
	hold     byte   // that it proposes, in seconds
	caps     []byte // capabilities that it has besides
	opened   []byte // the OPEN that it was sent
	listener net.Listener
	conn     net.Conn
	routes   map[netip.Prefix]netip.Addr // what it was told, with the next hop
	attrs    string                      // of the last route, in words
}

func newRouter(t *testing.T, address string) *router {
	l, err := net.Listen("tcp", address+":0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return &router{t: t, as: 64501, hold: 9, listener: l}
}

func (r *router) neighbor() Neighbor {
	addr := r.listener.Addr().(*net.TCPAddr)
	return Neighbor{Address: addr.AddrPort().Addr().Unmap(), Port: uint16(addr.Port), AS: 64501, HoldTime: 9 * time.Second,
		NextHop6: netip.MustParseAddr("2001:db8:100::7")}
}

func message(kind byte, body []byte) []byte {
	m := make([]byte, 19, 19+len(body))
	for i := range 16 {
		m[i] = 0xff
	}
	binary.BigEndian.PutUint16(m[16:], uint16(19+len(body)))
	m[18] = kind
	return append(m, body...)
}

// accept takes the next connection through OPEN and KEEPALIVE to established.
func (r *router) accept() {
	r.t.Helper()
	r.listener.(*net.TCPListener).SetDeadline(time.Now().Add(20 * time.Second))
	conn, err := r.listener.Accept()
	if err != nil {
		r.t.Fatal(err)
	}
	r.conn, r.routes = conn, map[netip.Prefix]netip.Addr{}
	r.t.Cleanup(func() { conn.Close() })
	r.send(r.open())
	kind, body := r.read(10 * time.Second)
	if r.opened = body; kind != 1 {
		r.t.Fatalf("message %d, want OPEN", kind)
	}
	r.send(message(4, nil))
	if kind, _ := r.read(10 * time.Second); kind != 4 {
		r.t.Fatalf("message %d, want KEEPALIVE", kind)
	}
}

// open is its OPEN message.
func (r *router) open() []byte {
	caps := []byte{1, 4, 0, 1, 0, 1, 1, 4, 0, 2, 0, 1, 65, 4} // IPv4, IPv6, and the AS in 4 octets
	caps = append(binary.BigEndian.AppendUint32(caps, r.as), r.caps...)
	short := binary.BigEndian.AppendUint16(nil, uint16(min(r.as, 23456))) // AS_TRANS (RFC 6793)
	if r.as < 1<<16 {
		short = binary.BigEndian.AppendUint16(nil, uint16(r.as))
	}
	return message(1, append([]byte{4, short[0], short[1], 0, r.hold, 10, 0, 0, 1, byte(len(caps) + 2), 2, byte(len(caps))}, caps...))
}

func (r *router) send(m []byte) {
	if _, err := r.conn.Write(m); err != nil {
		r.t.Fatal(err)
	}
}

// read takes one message, 0 when none came or the session is over, and learns routes from it.
func (r *router) read(within time.Duration) (kind byte, body []byte) {
	r.conn.SetReadDeadline(time.Now().Add(within))
	head := make([]byte, 19)
	if _, err := io.ReadFull(r.conn, head); err != nil {
		return 0, nil
	}
	body = make([]byte, binary.BigEndian.Uint16(head[16:])-19)
	if _, err := io.ReadFull(r.conn, body); err != nil {
		return 0, nil
	}
	if head[18] == packet.BGP_MSG_UPDATE {
		r.learn(append(head, body...))
	}
	return head[18], body
}

func (r *router) learn(raw []byte) {
	m, err := packet.ParseBGPMessage(raw)
	if err != nil {
		r.t.Fatalf("the sidecar sent what cannot be read: %v", err)
	}
	u := m.Body.(*packet.BGPUpdate)
	for _, w := range u.WithdrawnRoutes {
		delete(r.routes, netip.MustParsePrefix(w.NLRI.String()))
	}
	var attrs []string
	for _, a := range u.PathAttributes {
		attrs = append(attrs, a.String())
		switch a := a.(type) {
		case *packet.PathAttributeNextHop:
			for _, n := range u.NLRI {
				r.routes[netip.MustParsePrefix(n.NLRI.String())] = a.Value
			}
		case *packet.PathAttributeMpReachNLRI:
			for _, n := range a.Value {
				r.routes[netip.MustParsePrefix(n.NLRI.String())] = a.Nexthop
			}
		case *packet.PathAttributeMpUnreachNLRI:
			for _, n := range a.Value {
				delete(r.routes, netip.MustParsePrefix(n.NLRI.String()))
			}
		}
	}
	if attrs != nil {
		slices.Sort(attrs)
		r.attrs = strings.Join(attrs, " ")
	}
}

// wantRoutes reads until the router knows exactly these.
func (r *router) wantRoutes(want map[netip.Prefix]netip.Addr) {
	r.t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for time.Now().Before(deadline) {
		if len(r.routes) == len(want) && func() bool {
			for p, hop := range want {
				if r.routes[p] != hop {
					return false
				}
			}
			return true
		}() {
			return
		}
		if kind, _ := r.read(time.Until(deadline)); kind == 0 {
			break
		}
	}
	r.t.Fatalf("the router knows %v, want %v", r.routes, want)
}

func start(t *testing.T, n ...Neighbor) *Speaker {
	s, err := Start(Config{AS: 64500, RouterID: netip.MustParseAddr("198.51.100.7"), Neighbors: n}, quiet)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func stop(t *testing.T, s *Speaker) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := s.Stop(ctx); err != nil {
		t.Error(err)
	}
}

// both is what a router knows when everything is announced to it over an IPv4 session from 127.0.0.1.
var both = map[netip.Prefix]netip.Addr{v4: netip.MustParseAddr("127.0.0.1"), v6: netip.MustParseAddr("2001:db8:100::7")}

// One IPv4 session carries both families with the right next hops; the set is level-triggered; Stop withdraws first.
func TestSetAndStop(t *testing.T) {
	r := newRouter(t, "127.0.0.1")
	s := start(t, r.neighbor())
	r.accept()
	r.wantRoutes(nil)
	if err := s.Set(State{Prefixes: []netip.Prefix{v4, v6}}); err != nil {
		t.Fatal(err)
	}
	r.wantRoutes(both)
	for range 3 { // again and again the same: no UPDATE may follow
		if err := s.Set(State{Prefixes: []netip.Prefix{v4, v6}}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Set(State{Prefixes: []netip.Prefix{v6}}); err != nil {
		t.Fatal(err)
	}
	r.wantRoutes(map[netip.Prefix]netip.Addr{v6: both[v6]})
	if got := s.Sessions(); len(got) != 1 || got[0].State != Established || !slices.Equal(got[0].Announced, []string{v6.String()}) {
		t.Errorf("sessions %+v", got)
	}
	if err := s.Set(State{Prefixes: []netip.Prefix{v4, v6}}); err != nil {
		t.Fatal(err)
	}
	r.wantRoutes(both)

	done := make(chan struct{})
	go func() { stop(t, s); close(done) }()
	r.wantRoutes(nil)
	for {
		kind, _ := r.read(5 * time.Second)
		if kind == packet.BGP_MSG_NOTIFICATION {
			break // only after the withdrawal, which wantRoutes has seen
		}
		if kind != packet.BGP_MSG_KEEPALIVE && kind != packet.BGP_MSG_UPDATE {
			t.Fatalf("message %d, want a NOTIFICATION", kind)
		}
	}
	<-done
}

// wantAttrs reads until the last route that the router was told has these attributes, and none of the others.
func (r *router) wantAttrs(want string) {
	r.t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for r.attrs != want {
		if kind, _ := r.read(time.Until(deadline)); kind == 0 {
			r.t.Fatalf("the route has\n%s\nwant\n%s", r.attrs, want)
		}
	}
}

// Every attribute that a neighbour is to have goes out to it; draining adds the community, and is taken back (RFC 8326).
func TestAttributes(t *testing.T) {
	external, internal, plain := newRouter(t, "127.0.2.1"), newRouter(t, "127.0.2.2"), newRouter(t, "127.0.2.3")
	med := uint32(7)
	e, i, p := external.neighbor(), internal.neighbor(), plain.neighbor()
	e.Communities, e.ExtendedCommunities, e.LargeCommunities = []string{"65535:65281", "64501:100"}, []string{"rt:64501:100"}, []string{"4200000000:1:2"}
	e.MED, e.Prepend = &med, 2
	i.AS, internal.as, i.Communities = 4200000000, 4200000000, []string{"64501:7"}
	s, err := Start(Config{AS: 4200000000, Origin: 64511, RouterID: netip.MustParseAddr("198.51.100.7"), DrainPrepend: 3, Neighbors: []Neighbor{e, i, p}}, quiet)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range []*router{external, internal, plain} {
		r.accept()
	}
	const plainly = "{AsPath: 4200000000 64511} {Nexthop: 127.0.0.1} {Origin: i}"
	const inside = "{AsPath: 64511} {Communities: 64501:7} {LocalPref: 100} {Nexthop: 127.0.0.1} {Origin: i}"
	const all = "{AsPath: 4200000000 4200000000 4200000000 64511} {Communities: no-export, 64501:100} {Extcomms: [64501:100]} {LargeCommunity: [ 4200000000:1:2]} {Med: 7} {Nexthop: 127.0.0.1} {Origin: i}"
	for _, step := range []struct {
		draining                  bool
		external, internal, plain string
	}{
		{false, all, inside, plainly},
		{true,
			"{AsPath: 4200000000 4200000000 4200000000 4200000000 4200000000 4200000000 64511} {Communities: planned-shut, no-export, 64501:100} {Extcomms: [64501:100]} {LargeCommunity: [ 4200000000:1:2]} {Med: 7} {Nexthop: 127.0.0.1} {Origin: i}",
			"{AsPath: 64511} {Communities: planned-shut, 64501:7} {LocalPref: 0} {Nexthop: 127.0.0.1} {Origin: i}",
			"{AsPath: 4200000000 4200000000 4200000000 4200000000 64511} {Communities: planned-shut} {Nexthop: 127.0.0.1} {Origin: i}"},
		{false, all, inside, plainly},
	} {
		if err := s.Set(State{Prefixes: []netip.Prefix{v4}, Draining: step.draining}); err != nil {
			t.Fatal(err)
		}
		external.wantAttrs(step.external)
		internal.wantAttrs(step.internal)
		plain.wantAttrs(step.plain)
	}
	stop(t, s)
}

// What is to protect a session and cannot starts nothing.
func TestProtection(t *testing.T) {
	n := Neighbor{Address: netip.MustParseAddr("127.0.0.1"), AS: 64501, Port: 1, HoldTime: 9 * time.Second}
	refused := func(n Neighbor, want string) {
		t.Helper()
		s, err := Start(Config{AS: 64500, RouterID: netip.MustParseAddr("198.51.100.7"), Neighbors: []Neighbor{n}}, quiet)
		if err == nil {
			s.server.Stop()
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
	long := n
	long.Password = strings.Repeat("x", 81)
	refused(long, "neighbor 127.0.0.1: TCP MD5: a password has at most 80 bytes")
	taken, err := net.ListenPacket("udp", ":3784")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	bfd := n
	bfd.BFD = 300 * time.Millisecond
	refused(bfd, "does another BFD daemon run here?")
}

// A router that comes up later is told what is set already, and nothing that it sends is taken.
func TestLateRouterAndNoImport(t *testing.T) {
	r := newRouter(t, "127.0.0.1")
	s := start(t, r.neighbor())
	if err := s.Set(State{Prefixes: []netip.Prefix{v4, v6}}); err != nil {
		t.Fatal(err)
	}
	r.accept()
	r.wantRoutes(both)
	r.send(update(origin, asPath, nextHop))
	r.send(message(2, []byte{0, 4, 24, 192, 0, 2, 0, 0})) // it even withdraws ours
	received := uint64(0)
	lab.WaitFor(t, "the router's route has arrived", func() bool {
		s.server.ListPeer(t.Context(), &api.ListPeerRequest{}, func(p *api.Peer) {
			for _, a := range p.GetAfiSafis() {
				received += a.GetState().GetReceived()
			}
		})
		return received > 0
	})
	known := 0
	s.server.ListPath(apiutil.ListPathRequest{TableType: api.TableType_TABLE_TYPE_GLOBAL, Family: packet.RF_IPv4_UC},
		func(packet.NLRI, []*apiutil.Path) { known++ })
	if known != 1 {
		t.Errorf("%d IPv4 routes in the table, want ours alone", known)
	}
	r.conn.Close()
	r.accept()
	r.wantRoutes(both)
	stop(t, s)
}

// Path attributes as bytes: flags, type, length, value.
var (
	origin  = []byte{0x40, 1, 1, 0}
	asPath  = []byte{0x40, 2, 6, 2, 1, 0, 0, 0xfb, 0xf5}
	nextHop = []byte{0x40, 3, 4, 127, 0, 0, 1}
	as4Path = []byte{0xc0, 17, 6, 2, 1, 0, 0, 0xfb, 0xf5}
)

func update(attrs ...[]byte) []byte {
	all := slices.Concat(attrs...)
	body := binary.BigEndian.AppendUint16([]byte{0, 0}, uint16(len(all)))
	return message(2, append(append(body, all...), 24, 203, 0, 113)) // 203.0.113.0/24
}

// UPDATEs that have ended other programs do not end this one: whatever becomes of the session, it comes back and
// carries the routes. The first two are CVE-2026-41643 and CVE-2026-7734.
func TestMalformedUpdates(t *testing.T) {
	sid := func(tlv ...byte) []byte { return append([]byte{0xc0, 40, byte(len(tlv))}, tlv...) }
	cases := []struct {
		name    string
		message []byte
	}{
		{"AS4_PATH before AS_PATH", update(origin, as4Path, asPath, nextHop)},
		{"prefix SID of a short SRv6 service", update(origin, asPath, nextHop, sid(5, 0, 1))},
		{"AS4_PATH alone", update(origin, as4Path, nextHop)},
		{"prefix SID empty", update(origin, asPath, nextHop, sid())},
		{"prefix SID with a sub-TLV past its end", update(origin, asPath, nextHop, sid(5, 0, 5, 0, 1, 0, 30, 0))},
		{"prefix SID with an information sub-TLV cut", update(origin, asPath, nextHop, sid(5, 0, 25, 0, 1, 0, 21, 0, 0, 0))},
		{"prefix SID longer than a message", update(origin, asPath, nextHop, sid(5, 0xff, 0xff, 0))},
		{"AS_PATH segment past its end", update(origin, []byte{0x40, 2, 6, 2, 200, 0, 0, 0xfb, 0xf5}, nextHop)},
		{"no mandatory attribute", update(origin)},
		{"attributes past the end", message(2, []byte{0, 0, 0xff, 0xff, 1})},
		{"withdrawn routes past the end", message(2, []byte{0xff, 0xff})},
		{"prefix of 255 bits", message(2, []byte{0, 2, 255, 1, 0, 0})},
		{"MP_REACH empty", update(origin, asPath, []byte{0x80, 14, 0})},
		{"MP_REACH next hop past the end", update(origin, asPath, []byte{0x80, 14, 5, 0, 2, 1, 255, 0})},
		{"message of type 9", message(9, nil)},
	}
	var routers []*router
	var neighbors []Neighbor
	for i := range cases {
		routers = append(routers, newRouter(t, netip.AddrFrom4([4]byte{127, 0, 1, byte(i + 1)}).String()))
		neighbors = append(neighbors, routers[i].neighbor())
	}
	s := start(t, neighbors...)
	if err := s.Set(State{Prefixes: []netip.Prefix{v4, v6}}); err != nil {
		t.Fatal(err)
	}
	for i, c := range cases { // all sessions at once: each takes seconds to come back
		r := routers[i]
		r.accept()
		r.wantRoutes(both)
		r.send(c.message)
		for range 3 { // what follows must be handled too: a NOTIFICATION and the end, or nothing at all
			r.read(20 * time.Millisecond)
		}
		r.conn.Close()
	}
	for i, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			routers[i].t = t
			routers[i].accept()
			routers[i].wantRoutes(both)
		})
	}
	stop(t, s)
}
