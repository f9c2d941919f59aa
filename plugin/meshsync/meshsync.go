// Package meshsync is the CoreDNS plugin that answers from signed, numbered releases of zone data and switches from one
// to the next at the instant set for the whole mesh (RFC 3258 2.3). It never goes back to an earlier release, and
// ceases to answer when it cannot be right.
//
// The handler here only reads one pointer. A follower, shared by all instances of the process and outliving Corefile
// reloads, watches the repository, verifies (internal/release), compiles (internal/zonefile, internal/zone), asks
// internal/mesh what to do, and does it. The package must not import sidecar.
package meshsync

import (
	"context"
	"net"
	"strconv"
	"sync/atomic"

	"github.com/coredns/coredns/plugin"
	"github.com/coredns/coredns/plugin/metrics"
	"github.com/coredns/coredns/request"
	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/backend"
	"github.com/coredns-anycast/coredns-anycast/internal/zone"
)

var _ backend.Backend = (*Meshsync)(nil)

// maxUDP is the largest UDP response in octets, whatever the client offers: beyond it a response may be fragmented on
// its way, and the shared address does no path MTU discovery (ROUTE-3).
const maxUDP = 1232

// Meshsync is the plugin's handler: one for each server block that holds it.
type Meshsync struct {
	Next plugin.Handler

	config   config
	follower atomic.Pointer[follower] // nil before startup; shared with all blocks and instances that follow the directory
}

// Name implements plugin.Handler.
func (m *Meshsync) Name() string { return "meshsync" }

// ServeDNS implements plugin.Handler.
func (m *Meshsync) ServeDNS(ctx context.Context, w dns.ResponseWriter, r *dns.Msg) (int, error) {
	number, zones := m.Release()
	if zones == nil {
		silentDrops.WithLabelValues(metrics.WithServer(ctx)).Inc()
		return dns.RcodeSuccess, drop(w)
	}
	if r.Opcode != dns.OpcodeQuery || len(r.Question) != 1 {
		return m.others(ctx, w, r, dns.RcodeNotImplemented)
	}
	if secondOPT(r) {
		return reply(w, r, dns.RcodeFormatError)
	}
	question := r.Question[0]
	if question.Qclass == dns.ClassCHAOS {
		return m.identify(ctx, w, r, number)
	}
	known := backend.From(ctx)
	if known == nil {
		known = &backend.Request{Memory: new(backend.Memory), Room: emptyOPT + nsidRoom(r)}
	}
	name, answer := known.Memory.Name[:], &known.Memory.Answer
	n, err := dns.PackDomainName(question.Name, name, 0, nil, false)
	if err != nil {
		return reply(w, r, dns.RcodeFormatError)
	}
	if isTransfer(question.Qtype) {
		return m.others(ctx, w, r, dns.RcodeRefused)
	}
	state := request.Request{W: w, Req: r}
	q := zone.Query{Name: name[:n], Type: question.Qtype, Class: question.Qclass, DO: state.Do()}
	zones.LookupInto(&q, answer)
	if answer.Zone == nil {
		return m.others(ctx, w, r, answer.Rcode)
	}
	known.Answer = answer
	size := limit(&state)
	if known.Writer != nil && known.Writer.WriteAnswer(w, r, &q, size) {
		return dns.RcodeSuccess, nil
	}
	return dns.RcodeSuccess, w.WriteMsg(answer.Msg(r, size-max(0, known.Room-emptyOPT)))
}

// secondOPT reports whether a request has more OPT records than the one that RFC 6891 6.1.1 allows.
func secondOPT(r *dns.Msg) bool {
	found := 0
	for _, rr := range r.Extra {
		if rr.Header().Rrtype == dns.TypeOPT {
			found++
		}
	}
	return found > 1
}

// identify tells those who ask in class CHAOS which node this is, for id.server (RFC 4892) or hostname.bind (ADMIN-1), and
// which release it answers from, for release.server.
func (m *Meshsync) identify(ctx context.Context, w dns.ResponseWriter, r *dns.Msg, number uint64) (int, error) {
	question := r.Question[0]
	text := ""
	switch plugin.Name(question.Name).Normalize() {
	case "id.server.", "hostname.bind.":
		text = m.config.node
	case "release.server.":
		text = strconv.FormatUint(number, 10)
	}
	if question.Qtype != dns.TypeTXT || text == "" {
		return m.others(ctx, w, r, dns.RcodeRefused)
	}
	reply := new(dns.Msg).SetReply(r)
	reply.Authoritative = true
	reply.Answer = []dns.RR{&dns.TXT{Hdr: dns.RR_Header{Name: question.Name, Rrtype: dns.TypeTXT, Class: dns.ClassCHAOS}, Txt: []string{text}}}
	return dns.RcodeSuccess, w.WriteMsg(reply)
}

// isName reports whether a question of class CHAOS is which node this is.
func isName(q dns.Question) bool {
	name := plugin.Name(q.Name).Normalize()
	return q.Qtype == dns.TypeTXT && (name == "id.server." || name == "hostname.bind.")
}

// Release implements backend.Backend.
func (m *Meshsync) Release() (number uint64, zones *zone.Zones) {
	if a := m.answering(); a != nil {
		return a.Number, a.zones
	}
	return 0, nil
}

// answering is what to answer from now; nil is silence.
func (m *Meshsync) answering() *answering {
	f := m.follower.Load()
	if f == nil {
		return nil
	}
	return f.answering()
}

// others hands what is not ours to the next plugin of the block, if there is one that could know better.
func (m *Meshsync) others(ctx context.Context, w dns.ResponseWriter, r *dns.Msg, rcode int) (int, error) {
	if m.Next != nil {
		return plugin.NextOrFailure(m.Name(), m.Next, ctx, w, r)
	}
	return reply(w, r, rcode)
}

// isTransfer reports whether the question is for a zone transfer, which plugin transfer answers where it is allowed.
func isTransfer(qtype uint16) bool { return qtype == dns.TypeAXFR || qtype == dns.TypeIXFR }

func reply(w dns.ResponseWriter, r *dns.Msg, rcode int) (int, error) {
	return dns.RcodeSuccess, w.WriteMsg(new(dns.Msg).SetRcode(r, rcode))
}

// limit is the largest response for the client, in octets. Left to itself the core would cut an RRset in two.
func limit(state *request.Request) int {
	if state.Proto() == "udp" {
		return min(state.Size(), maxUDP)
	}
	return dns.MaxMsgSize
}

// emptyOPT is the octets of an OPT record without options (RFC 6891 6.1.2), for which zone.Answer.Msg leaves room.
const emptyOPT = 11

// nsidRoom is room for what plugin nsid puts into the OPT record if the request asks for it: an option with the name of a
// host, mostly (RFC 5001 2.3).
func nsidRoom(r *dns.Msg) int {
	if opt := r.IsEdns0(); opt != nil {
		for _, o := range opt.Option {
			if o.Option() == dns.EDNS0NSID {
				return 4 + 64
			}
		}
	}
	return 0
}

// drop gives no answer: silence on UDP, the end of the stream elsewhere (SYNC-F). An error or a SERVFAIL would make the
// server answer.
func drop(w dns.ResponseWriter) error {
	if _, datagram := w.RemoteAddr().(*net.UDPAddr); !datagram {
		w.Close()
	}
	return nil
}

// Ready implements ready.Readiness: true while the node answers. It may be asked before startup.
func (m *Meshsync) Ready() bool { return m.answering() != nil }

// CacheBypassZones implements cache.ZoneBypasser: a cached answer would outlive a switchover.
func (m *Meshsync) CacheBypassZones() []string { return m.config.zones }
