// Package sharedunicast is a CoreDNS plugin that serves the shared-unicast (anycast) addresses of a node, as RFC 3258
// asks: it opens the sockets of those addresses itself, lets nothing but authoritative answers leave them, and refuses a
// Corefile with which the process would answer DNS on the node's administrative address.
//
// setup.go reads the directive, corefile.go judges the whole Corefile, instance.go builds the servers of one loaded
// Corefile, server.go hands them their sockets and stops them, udp.go and tcp.go read queries from these, front.go decides
// what becomes of each, responder.go finishes what the chain has written, sockets.go keeps the sockets of the process,
// crowd.go bounds their connections, reap.go closes those of a Corefile that failed to load. stats.go has statistics of each day.
package sharedunicast

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"slices"
	"time"

	"github.com/coredns/coredns/plugin"
	"github.com/coredns/coredns/plugin/metrics"
	"github.com/coredns/coredns/request"

	"github.com/miekg/dns"
)

// SharedUnicast is the handler in front of a block's backend.
type SharedUnicast struct {
	Next  plugin.Handler
	zones plugin.Zones // of the server block, normalized
}

// Name implements plugin.Handler.
func (s *SharedUnicast) Name() string { return pluginName }

// ServeDNS implements plugin.Handler. Zone transfer (XFER-1) and whatever is not a query are refused here; the answer to
// a query is judged when it is written (HOST-3).
func (s *SharedUnicast) ServeDNS(ctx context.Context, w dns.ResponseWriter, r *dns.Msg) (int, error) {
	if r.Opcode != dns.OpcodeQuery {
		return refuse(ctx, w, r, reasonOpcode)
	}
	if qtype := r.Question[0].Qtype; qtype == dns.TypeAXFR || qtype == dns.TypeIXFR {
		return refuse(ctx, w, r, reasonTransfer)
	}
	return plugin.NextOrFailure(s.Name(), s.Next, ctx, &answerWriter{ResponseWriter: w, ctx: ctx, req: r, zones: s.zones}, r)
}

// transferOnly is the handler of a block on an administrative address. It comes before everything that answers, and lets
// pass what a secondary asks for: SOA, AXFR and IXFR, if authenticated (XFER-1).
type transferOnly struct {
	Next plugin.Handler
}

// Name implements plugin.Handler.
func (t *transferOnly) Name() string { return pluginName }

// ServeDNS implements plugin.Handler.
func (t *transferOnly) ServeDNS(ctx context.Context, w dns.ResponseWriter, r *dns.Msg) (int, error) {
	if m := badSignature(w, r); m != nil {
		refusedTotal.WithLabelValues(metrics.WithServer(ctx), reasonAdministrative).Inc()
		return dns.RcodeSuccess, w.WriteMsg(m)
	}
	if r.Opcode != dns.OpcodeQuery || !authenticated(w, r) {
		return refuse(ctx, w, r, reasonAdministrative)
	}
	switch qtype := r.Question[0].Qtype; qtype {
	case dns.TypeIXFR:
		if _, datagram := w.RemoteAddr().(*net.UDPAddr); datagram {
			w, r = soaOnly(w, r)
		}
		fallthrough
	case dns.TypeSOA, dns.TypeAXFR:
		return plugin.NextOrFailure(t.Name(), t.Next, ctx, &authoritativeWriter{w}, r)
	}
	return refuse(ctx, w, r, reasonAdministrative)
}

// authoritativeWriter sets AA in answers to transfers: plugin transfer leaves it out of the single SOA that tells a secondary
// that it has all.
type authoritativeWriter struct{ dns.ResponseWriter }

// WriteMsg implements dns.ResponseWriter.
func (w *authoritativeWriter) WriteMsg(m *dns.Msg) error {
	if m.Rcode == dns.RcodeSuccess && len(m.Answer) > 0 && !m.Authoritative {
		c := *m
		c.Authoritative = true
		m = &c
	}
	return w.ResponseWriter.WriteMsg(m)
}

// ConnectionState implements dns.ConnectionStater, which embedding the writer would hide from the plugins behind.
func (w *authoritativeWriter) ConnectionState() *tls.ConnectionState {
	if conn, ok := w.ResponseWriter.(dns.ConnectionStater); ok {
		return conn.ConnectionState()
	}
	return nil
}

// badSignature is the response to a request whose TSIG signature is not good (RFC 8945 5.2), nil if it is, or if there is none. It
// is signed if only the time was wrong.
func badSignature(w dns.ResponseWriter, r *dns.Msg) *dns.Msg {
	signature := r.IsTsig()
	if signature == nil || w.TsigStatus() == nil {
		return nil
	}
	m := new(dns.Msg).SetRcode(r, dns.RcodeNotAuth)
	state := request.Request{W: w, Req: r}
	state.SizeAndDo(m)
	t := &dns.TSIG{Hdr: dns.RR_Header{Name: signature.Hdr.Name, Rrtype: dns.TypeTSIG, Class: dns.ClassANY}, Algorithm: signature.Algorithm,
		OrigId: r.Id, Fudge: signature.Fudge, TimeSigned: signature.TimeSigned, Error: dns.RcodeBadSig}
	switch w.TsigStatus() {
	case dns.ErrSecret:
		t.Error = dns.RcodeBadKey
	case dns.ErrTime:
		// Six octets of the time here (RFC 8945 5.2.3).
		t.Error, t.OtherLen, t.OtherData = dns.RcodeBadTime, 6, fmt.Sprintf("%012x", time.Now().Unix())
	}
	m.Extra = append(m.Extra, t)
	return m
}

// soaOnly turns an IXFR query that came in a datagram into one for the SOA, which is what it is answered with: whoever is
// behind then asks again over TCP (RFC 1995 2).
func soaOnly(w dns.ResponseWriter, r *dns.Msg) (dns.ResponseWriter, *dns.Msg) {
	query := *r
	query.Question = []dns.Question{{Name: r.Question[0].Name, Qtype: dns.TypeSOA, Qclass: r.Question[0].Qclass}}
	query.Ns = nil
	return &soaWriter{ResponseWriter: w, question: r.Question}, &query
}

// soaWriter makes the answer to a query for the SOA one to the question that was asked.
type soaWriter struct {
	dns.ResponseWriter
	question []dns.Question
}

// WriteMsg implements dns.ResponseWriter.
func (w *soaWriter) WriteMsg(m *dns.Msg) error {
	c := *m
	c.Question, c.Ns = w.question, nil
	c.Answer = slices.DeleteFunc(slices.Clone(m.Answer), func(rr dns.RR) bool { return rr.Header().Rrtype != dns.TypeSOA })
	c.Extra = slices.DeleteFunc(slices.Clone(m.Extra), func(rr dns.RR) bool {
		return rr.Header().Rrtype != dns.TypeOPT && rr.Header().Rrtype != dns.TypeTSIG
	})
	return w.ResponseWriter.WriteMsg(&c)
}

// authenticated says whether the sender proved who it is, by TSIG or by a TLS client certificate.
func authenticated(w dns.ResponseWriter, r *dns.Msg) bool {
	if r.IsTsig() != nil {
		return w.TsigStatus() == nil
	}
	conn, ok := w.(dns.ConnectionStater)
	if !ok {
		return false
	}
	state := conn.ConnectionState()
	return state != nil && len(state.VerifiedChains) > 0
}

// refuse answers REFUSED and counts it. It writes the answer itself, rather than leave that to the server, so that the
// plugins before this one see it: a refusal carries NSID as an answer does (ADMIN-1).
func refuse(ctx context.Context, w dns.ResponseWriter, r *dns.Msg, reason string) (int, error) {
	refusedTotal.WithLabelValues(metrics.WithServer(ctx), reason).Inc()
	return dns.RcodeSuccess, w.WriteMsg(refusal(w, r))
}

func refusal(w dns.ResponseWriter, r *dns.Msg) *dns.Msg {
	m := new(dns.Msg)
	m.SetRcode(r, dns.RcodeRefused)
	state := request.Request{W: w, Req: r}
	state.SizeAndDo(m)
	return m
}

// answerWriter withholds what is not an authoritative answer. One is made per query.
type answerWriter struct {
	dns.ResponseWriter
	ctx   context.Context
	req   *dns.Msg
	zones plugin.Zones
}

// WriteMsg implements dns.ResponseWriter.
func (w *answerWriter) WriteMsg(m *dns.Msg) error {
	if !m.Authoritative && !mayPass(m, w.req, w.zones) {
		_, err := refuse(w.ctx, w.ResponseWriter, w.req, reasonNotAuthoritative)
		return err
	}
	if m.RecursionAvailable {
		// The message may be shared with other queries: change a copy.
		c := *m
		c.RecursionAvailable = false
		m = &c
	}
	return w.ResponseWriter.WriteMsg(m)
}

// Offset and bits of the header's flags (RFC 1035 section 4.1.1).
const (
	flagsOffset = 2
	headerSize  = 12
	bitAA       = 0x04 // in the first octet of the flags
	bitRA       = 0x80 // in the second
)

// Write implements dns.ResponseWriter, for backends that hand over an answer in wire format. An authoritative one costs
// a look at its header; any other is unpacked and judged as WriteMsg does.
func (w *answerWriter) Write(b []byte) (int, error) {
	pass := len(b) >= headerSize && b[flagsOffset]&bitAA != 0
	if !pass {
		m := new(dns.Msg)
		pass = m.Unpack(b) == nil && mayPass(m, w.req, w.zones)
	}
	if !pass {
		if _, err := refuse(w.ctx, w.ResponseWriter, w.req, reasonNotAuthoritative); err != nil {
			return 0, err
		}
		return len(b), nil
	}
	if b[flagsOffset+1]&bitRA != 0 {
		b = append([]byte(nil), b...)
		b[flagsOffset+1] &^= bitRA
	}
	return w.ResponseWriter.Write(b)
}

// ConnectionState implements dns.ConnectionStater, which embedding the writer would hide from the plugins behind.
func (w *answerWriter) ConnectionState() *tls.ConnectionState {
	if conn, ok := w.ResponseWriter.(dns.ConnectionStater); ok {
		return conn.ConnectionState()
	}
	return nil
}

// mayPass says whether m, an answer without AA to req, may leave the shared address.
func mayPass(m, req *dns.Msg, zones plugin.Zones) bool {
	if req.Question[0].Qclass == dns.ClassCHAOS {
		return true // about the server, not about a zone (RFC 4892)
	}
	if len(m.Answer) > 0 {
		return false
	}
	switch m.Rcode {
	case dns.RcodeSuccess:
		return isReferral(m, req.Question[0].Name, zones) || isEmptyTruncated(m)
	case dns.RcodeNameError, dns.RcodeYXDomain, dns.RcodeYXRrset, dns.RcodeNXRrset:
		return false // says something about a zone
	}
	return true // an error; it says nothing about any zone
}

// isReferral says whether m refers to the servers of a zone that is delegated out of one of ours: NS records in the
// authority section, owned by a name strictly below the block's zone and at or above the name asked for. An "upward
// referral" (to the root, or to the zone itself) is none.
func isReferral(m *dns.Msg, qname string, zones plugin.Zones) bool {
	found := false
	for _, rr := range m.Ns {
		switch rr.Header().Rrtype {
		case dns.TypeSOA:
			return false
		case dns.TypeNS:
			if !isDelegated(rr.Header().Name, qname, zones) {
				return false
			}
			found = true
		}
	}
	return found
}

// isDelegated says whether a name is strictly below the block's zone, and at or above the name asked for.
func isDelegated(owner, qname string, zones plugin.Zones) bool {
	zone := zones.Matches(owner)
	return zone != "" && dns.CountLabel(owner) > dns.CountLabel(zone) && dns.IsSubDomain(owner, qname)
}

// isEmptyTruncated says whether m tells no more than to ask again over TCP.
func isEmptyTruncated(m *dns.Msg) bool { return m.Truncated && len(m.Ns) == 0 }
