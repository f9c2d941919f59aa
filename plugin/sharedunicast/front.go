package sharedunicast

import (
	"context"
	"net"

	"github.com/coredns/coredns/core/dnsserver"
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
	silenced prometheus.Counter
}

func newFront(core *dnsserver.Server, g *group) *front {
	f := &front{core: core, silenced: silentDrops.WithLabelValues(g.address())}
	for _, c := range g.configs {
		for _, h := range c.Handlers() {
			if b, ok := h.(backend.Backend); ok {
				f.backends = append(f.backends, b)
			}
		}
	}
	return f
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
	switch v {
	case query.NotImplemented:
		x.Write(q.AppendError(nil, dns.RcodeNotImplemented))
	case query.Malformed:
		x.Write(q.AppendError(nil, dns.RcodeFormatError))
	default:
		f.chain(b, q, x)
	}
	return true
}

// chain has a message answered by the plugins.
func (f *front) chain(b []byte, q *query.Query, x *responder) {
	r := new(dns.Msg)
	err := r.Unpack(b)
	if err != nil {
		err = r.Unpack(q.WithoutOptions(b))
	}
	if err != nil || len(r.Question) != 1 {
		x.Write(q.AppendError(nil, dns.RcodeFormatError))
		return
	}
	x.begin(b, r, f.core.TsigSecret)
	ctx := context.WithValue(context.Background(), dnsserver.Key{}, f.core)
	ctx = context.WithValue(ctx, dnsserver.LoopKey{}, 0)
	ctx = backend.WithRoom(ctx, x.room(f.nsidOption(q)))
	f.core.ServeDNS(ctx, x, r)
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

// isDatagram says whether an address is one of UDP.
func isDatagram(a net.Addr) bool { _, ok := a.(*net.UDPAddr); return ok }
