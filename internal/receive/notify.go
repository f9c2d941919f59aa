package receive

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/instant"
	"github.com/coredns-anycast/coredns-anycast/internal/xfr"
)

const (
	notifyStreams = 32              // TCP connections at once
	notifyStall   = 5 * time.Second // for a message over TCP
	notifyPerConn = 100             // messages over one connection
)

// listen takes NOTIFY messages by UDP and TCP (RFC 1996) until ctx ends.
func (r *Receiver) listen(ctx context.Context, tasks *sync.WaitGroup) (stop func(), err error) {
	n := &notified{taker: xfr.NotifyTaker{Keys: map[string]*xfr.Key{}, Now: r.opt.Now, Notify: r.notify}, budget: budget{rate: r.config.Notify.Rate}}
	for _, g := range r.config.groups() {
		for _, p := range g.Servers {
			if p.Key != nil {
				n.taker.Keys[p.Key.Name] = p.Key
			}
		}
	}
	var sockets []io.Closer
	stop = func() {
		for _, s := range sockets {
			s.Close()
		}
	}
	for _, at := range r.config.Notify.Listen {
		udp, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
		if err != nil {
			stop()
			return nil, err
		}
		sockets = append(sockets, udp)
		tcp, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(at))
		if err != nil {
			stop()
			return nil, err
		}
		sockets = append(sockets, tcp)
		tasks.Go(func() { n.datagrams(ctx, udp) })
		tasks.Go(func() { n.streams(ctx, tcp, tasks) })
	}
	context.AfterFunc(ctx, stop)
	return stop, nil
}

// groups are all lists of primaries that something comes from.
func (c *Config) groups() []*Group {
	var list []*Group
	for _, z := range c.Zones {
		list = append(list, z.Primaries)
	}
	for _, c := range c.Catalogs {
		list = append(list, c.Primaries, c.Members)
		for _, g := range c.Groups {
			list = append(list, g)
		}
	}
	return list
}

// notified takes NOTIFY messages from sockets.
type notified struct {
	taker  xfr.NotifyTaker
	budget budget
}

func (n *notified) datagrams(ctx context.Context, conn *net.UDPConn) {
	buf := make([]byte, 4096)
	for {
		size, from, err := conn.ReadFromUDPAddrPort(buf)
		if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil || !n.budget.take(time.Now()) {
			continue
		}
		if reply := n.taker.Answer(buf[:size], from.Addr().Unmap()); reply != nil {
			conn.WriteToUDPAddrPort(reply, from)
		}
	}
}

func (n *notified) streams(ctx context.Context, listener *net.TCPListener, tasks *sync.WaitGroup) {
	free := make(chan struct{}, notifyStreams)
	for {
		conn, err := listener.AcceptTCP()
		if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			pause(ctx, 100*time.Millisecond) // out of descriptors, perhaps
			continue
		}
		select {
		case free <- struct{}{}:
			tasks.Go(func() {
				defer func() { <-free }()
				defer context.AfterFunc(ctx, func() { conn.Close() })()
				n.stream(conn)
			})
		default:
			conn.Close()
		}
	}
}

func (n *notified) stream(conn *net.TCPConn) {
	defer conn.Close()
	from := conn.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap()
	buf := make([]byte, 4096) // a NOTIFY has a SOA and a signature at most
	for range notifyPerConn {
		conn.SetDeadline(time.Now().Add(notifyStall))
		if _, err := io.ReadFull(conn, buf[:2]); err != nil {
			return
		}
		size := int(binary.BigEndian.Uint16(buf))
		if size > len(buf) {
			return
		}
		if _, err := io.ReadFull(conn, buf[:size]); err != nil || !n.budget.take(time.Now()) {
			return
		}
		reply := n.taker.Answer(buf[:size], from)
		if reply == nil {
			return
		}
		if _, err := conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(reply))), reply...)); err != nil {
			return
		}
	}
}

// notify has a zone refreshed at once, if whoever says so may: with a key of its primaries, or without any from the
// address of one of them or one that is named for it.
func (r *Receiver) notify(origin string, from netip.Addr, key *xfr.Key) (rcode int) {
	rcode = dns.RcodeRefused
	r.do(func(now instant.Instant) {
		group := r.groups[r.set.Group(origin)]
		switch {
		case group == nil:
		case !group.trusts(from, key):
			r.opt.Log.Warn("NOTIFY refused: neither signed with a key of the zone's primaries nor from one of them", "zone", origin, "from", from)
		default:
			r.set.Notified(now, origin)
			rcode = dns.RcodeSuccess
		}
	})
	return rcode
}

// trusts reports whether a NOTIFY counts.
func (g *Group) trusts(from netip.Addr, key *xfr.Key) bool {
	if key != nil {
		return slices.ContainsFunc(g.Servers, func(p xfr.Primary) bool { return p.Key == key })
	}
	return slices.ContainsFunc(g.Servers, func(p xfr.Primary) bool { return p.Address.Addr() == from }) ||
		slices.ContainsFunc(g.NotifyFrom, func(p netip.Prefix) bool { return p.Contains(from) })
}

// budget bounds the messages that are looked at in a second; what comes beyond is dropped.
type budget struct {
	rate int
	mu   sync.Mutex
	left float64
	last time.Time
}

func (b *budget) take(now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.left = min(float64(b.rate), b.left+now.Sub(b.last).Seconds()*float64(b.rate))
	b.last = now
	if b.left < 1 {
		return false
	}
	b.left--
	return true
}
