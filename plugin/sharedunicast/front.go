package sharedunicast

import (
	"context"
	"net"
	"net/netip"
	"runtime/debug"
	"sync/atomic"

	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/plugin/metrics/vars"
	"github.com/coredns/coredns/plugin/pkg/log"

	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/coredns-anycast/coredns-anycast/internal/backend"
	"github.com/coredns-anycast/coredns-anycast/internal/query"
)

var logger = log.NewWithPlugin(pluginName)

// front is what every message passes that comes to a shared address, by UDP, TCP or TLS. CoreDNS's core gets what is to go
// through the chain; its own loops would answer some messages before any plugin is asked.
type front struct {
	core     *dnsserver.Server
	backends []backend.Backend // of all blocks
	zones    zoneTable         // what the fast path answers for
	guard    *guard
	silenced prometheus.Counter
}

func newFront(core *dnsserver.Server, g *group, guard *guard) *front {
	f := &front{core: core, guard: guard, silenced: silentDrops.WithLabelValues(g.address())}
	shedTotal.WithLabelValues(core.Addr) // there from the start, or its first increase would not be seen
	for _, c := range g.configs {
		for _, h := range c.Handlers() {
			if b, ok := h.(backend.Backend); ok {
				f.backends = append(f.backends, b)
			}
		}
	}
	return f
}

// recovered, deferred, ends a panic with the message that it was over, as the core does for what is in the chain.
func recovered(address string) {
	if r := recover(); r != nil {
		vars.Panic.Inc()
		logger.Errorf("recovered from a panic while a message to %s was answered: %v\n%s", address, r, debug.Stack())
	}
}

// silent says whether nothing at all may leave the address now (SYNC-F): one backend that is silent silences all that is
// served there, since the process is one node of one mesh.
func (f *front) silent() bool {
	for _, b := range f.backends {
		if _, zones := b.Release(); zones == nil {
			return true
		}
	}
	return false
}

// pass has a message answered, and writes the response to x. It returns false if the message is of no kind that is ever
// answered, or must not be answered now.
func (f *front) pass(b []byte, q *query.Query, v query.Verdict, x *responder) bool {
	if v == query.Ignore {
		return false
	}
	if f.silent() {
		f.silenced.Inc()
		return false
	}
	x.front, x.message = f, b
	if v == query.Unusual || v == query.Plain {
		f.chain(b, q, v, x)
	} else if response := f.bare(nil, q, v, &x.asked); len(response) > 0 {
		x.Write(response)
	}
	return true
}

// bare appends the response to what no plugin needs to see: an error, or a server cookie for who asks for nothing else.
func (f *front) bare(dst []byte, q *query.Query, v query.Verdict, a *asked) []byte {
	rcode := dns.RcodeFormatError
	switch v {
	case query.NotImplemented:
		rcode = dns.RcodeNotImplemented
	case query.Bare:
		f.guard.look(q, a)
		if a.secrets != nil {
			return f.cookie(dst, q, a)
		}
	}
	if f.guard.limiter != nil && !a.stream && f.guard.limiter.judge(a.now, a.client, kindError, nil) == drop {
		return dst
	}
	return q.AppendError(dst, rcode)
}

// cookie appends the response to a request for a server cookie (RFC 7873 5.4).
func (f *front) cookie(dst []byte, q *query.Query, a *asked) []byte {
	rcode := dns.RcodeSuccess
	if a.cookie == query.CookieBad {
		if f.guard.limiter != nil && !a.stream && f.guard.limiter.judge(a.now, a.client, kindError, nil) == drop {
			return dst
		}
		if q.HasServerCookie() {
			rcode = dns.RcodeBadCookie
		}
	}
	options := f.guard.appendOptions(nil, q, a, told{rcode: rcode})
	return q.AppendEmpty(dst, rcode, false, query.AppendOPT(nil, rcode, q.DO, options))
}

// chain has a message answered by the plugins.
func (f *front) chain(b []byte, q *query.Query, v query.Verdict, x *responder) {
	r := &x.request.Msg
	err := x.request.Unpack(b, q, v)
	if err != nil {
		err = r.Unpack(q.WithoutOptions(b))
	}
	if err != nil || len(r.Question) != 1 {
		if response := f.bare(nil, q, query.Malformed, &x.asked); len(response) > 0 {
			x.Write(response)
		}
		return
	}
	if q.Name == nil {
		q.SetQuestion(r.Question[0])
	}
	x.begin(f, b, q, r)
	if m := badSignature(x, r); m != nil {
		x.WriteMsg(m)
		return
	}
	x.room = rooms.Get().(*room)
	defer rooms.Put(x.room)
	defer x.end()
	x.known.Memory, x.known.Writer = &x.room.Memory, x
	x.context.Context, x.context.core = context.Background(), f.core
	x.context.known.Store(&x.known)
	f.core.ServeDNS(&x.context, x, r)
}

// messageContext is the context of a message in the chain, as the core would make it, and with what is known of the message.
type messageContext struct {
	context.Context
	core  *dnsserver.Server
	known atomic.Pointer[backend.Request] // until the handlers have returned
}

// Value implements context.Context.
func (c *messageContext) Value(key any) any {
	switch key.(type) {
	case backend.Key:
		return c.known.Load()
	case dnsserver.Key:
		return c.core
	case dnsserver.LoopKey:
		return 0
	}
	return c.Context.Value(key)
}

// nsidOption is how many octets plugin nsid takes in the response to a query that asks for it.
func (f *front) nsidOption(q *query.Query) int {
	if q.Name != nil {
		if s := f.zones.find(q); s != nil {
			return len(s.nsid)
		}
	}
	return f.zones.nsid
}

// addrPortOf is the address of a socket.
func addrPortOf(a net.Addr) netip.AddrPort {
	var ap netip.AddrPort
	switch a := a.(type) {
	case *net.TCPAddr:
		ap = a.AddrPort()
	case *net.UDPAddr:
		ap = a.AddrPort()
	}
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

// hostOf is that without port and zone.
func hostOf(a net.Addr) netip.Addr { return addrPortOf(a).Addr().WithZone("") }
