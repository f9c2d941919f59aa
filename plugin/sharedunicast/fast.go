package sharedunicast

import (
	"fmt"

	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/plugin/bufsize"
	"github.com/coredns/coredns/plugin/nsid"

	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/backend"
	"github.com/coredns-anycast/coredns-anycast/internal/query"
	"github.com/coredns-anycast/coredns-anycast/internal/zone"
)

// The fast path answers a query where it was read, from the backend's zones in wire format, and without the plugins of its
// block. So it is taken only where these would have done nothing, or what is done here as well, and only for queries that
// have nothing unusual about them. Everything else goes through the chain; a test compares what comes of both.

// harmless are the plugins with which a block's plain queries can be answered without the chain: they do nothing to them,
// or the fast path does it.
var harmless = map[string]bool{
	pluginName:    true,
	"prometheus":  true, // counted in tally.go
	"nsid":        true, // put into the OPT record here
	"bufsize":     true, // heeded here
	"loadbalance": true, // what it would put in another order goes through the chain
	"errors":      true, // there are none
	"cancel":      true, // nothing here waits
	"chaos":       true, // class CH goes through the chain
	"metadata":    true, // whoever uses it is not harmless
	"shed":        true, // nothing here piles up
}

// served is a zone of a server block, as served at one address.
type served struct {
	config  *dnsserver.Config
	backend backend.Backend // nil if the block's queries go through the chain
	last    bool            // no plugin behind the backend could know what it does not

	payload  int    // octets of a response by UDP, whatever the client takes
	nsid     []byte // option, nil without plugin nsid
	shuffles bool   // plugin loadbalance is there
	label    string // what plugin prometheus says has answered: the plugin behind it
	counted  bool   // plugin prometheus is there
}

// newServed finds out whether the fast path can answer for a Config, and why not.
func newServed(c *dnsserver.Config) (s *served, why string) {
	s = &served{config: c, payload: query.PayloadSize}
	var found backend.Backend
	if len(c.FilterFuncs) > 0 {
		why = "plugin view chooses among blocks by more than the name"
	}
	for _, h := range c.Handlers() {
		if s.counted && s.label == "" {
			s.label = h.Name()
		}
		if b, ok := h.(backend.Backend); ok && found == nil {
			found, s.last = b, true
			continue
		}
		if s.last {
			s.last = false
			continue // it is asked what the backend does not know
		}
		if !harmless[h.Name()] && why == "" {
			why = fmt.Sprintf("plugin %s is in front of the zones", h.Name())
		}
		switch h := h.(type) {
		case nsid.Nsid:
			s.nsid = query.AppendOption(nil, dns.EDNS0NSID, h.Data)
		case bufsize.Bufsize:
			s.payload = min(s.payload, h.Size)
		}
		s.shuffles = s.shuffles || h.Name() == "loadbalance"
		s.counted = s.counted || h.Name() == "prometheus"
	}
	if found == nil {
		why = "no plugin of it answers in wire format"
	}
	if why == "" {
		s.backend = found
	}
	return s, why
}

// zoneTable finds the zone of a name, as the core does: the closest one at or above it.
type zoneTable struct {
	byName map[string]*served // by name in wire format, in lower case; nil where the core goes by more than the name
	only   *served            // if it is the root's, and there is no other
	nsid   int                // octets of the longest option that plugin nsid puts into a response
}

func newZoneTable(configs []*dnsserver.Config, of func(*dnsserver.Config) *served) zoneTable {
	t := zoneTable{byName: map[string]*served{}}
	for _, c := range configs {
		name := make([]byte, 255)
		n, err := dns.PackDomainName(c.Zone, name, 0, nil, false)
		if err != nil {
			continue // no name is below it
		}
		s := of(c)
		t.nsid = max(t.nsid, len(s.nsid))
		if _, twice := t.byName[string(name[:n])]; twice {
			s = nil
		}
		t.byName[string(name[:n])] = s
		t.only = s
	}
	if len(configs) > 1 || t.byName["\x00"] == nil {
		t.only = nil
	}
	return t
}

// anyFast says whether there is a zone for which the fast path can answer.
func (t *zoneTable) anyFast() bool {
	for _, s := range t.byName {
		if s != nil && s.backend != nil {
			return true
		}
	}
	return false
}

// find returns what serves a query; nil sends it through the chain.
func (t *zoneTable) find(q *query.Query) *served {
	if t.only != nil {
		return t.only
	}
	var folded [255]byte
	n := copy(folded[:], q.Name)
	for i, c := range folded[:n] {
		if 'A' <= c && c <= 'Z' { // a label's length is no letter
			folded[i] = c + 'a' - 'A'
		}
	}
	var found *served
	for at := 0; at < n; at += 1 + int(folded[at]) {
		s, ok := t.byName[string(folded[at:n])]
		if !ok {
			continue
		}
		if q.Type != dns.TypeDS {
			return s
		}
		if found != nil {
			return nil // the core goes by more than one of them
		}
		found = s
	}
	return found
}

// outcome is what came of a query on the fast path.
type outcome uint8

const (
	unanswered outcome = iota // it goes through the chain
	answered
	limited  // too many ask for the like: nothing is said
	silenced // nothing may be said
)

// fast answers queries, one at a time, and allocates nothing for it.
type fast struct {
	asked   asked // the query beside its question; the caller fills it in, but for the cookie
	answer  zone.Answer
	request zone.Request
	opt     []byte
	options []byte
	rcode   int // of the last response
}

// respond appends the response to a plain query. What it writes beyond the limit on its way is not part of it.
func (f *fast) respond(dst []byte, q *query.Query, s *served, g *guard, limit int) ([]byte, outcome) {
	_, zones := s.backend.Release()
	if zones == nil {
		return dst, silenced
	}
	zones.LookupInto(&q.Query, &f.answer)
	if f.answer.Zone == nil && !s.last || s.shuffles && shuffled(&f.answer) {
		return dst, unanswered
	}
	f.rcode = f.answer.Rcode
	g.look(q, &f.asked)
	fate := sent
	if g.limiter != nil || g.require {
		k, n := kindOf(&f.answer, q.Type, q.Name)
		fate = g.judge(&f.asked, k, q.Name[len(q.Name)-n:])
	}
	switch fate {
	case withheld:
		return dst, limited
	case badCookie:
		f.rcode = dns.RcodeBadCookie
	}
	f.opt = f.opt[:0]
	if q.EDNS {
		f.options = f.options[:0]
		if q.NSID {
			f.options = append(f.options, s.nsid...)
		}
		f.options = g.appendOptions(f.options, q, &f.asked, told{f.rcode, f.answer.Zone})
		f.opt = query.AppendOPT(f.opt, f.rcode, q.DO, f.options)
	}
	if fate != sent {
		return q.AppendEmpty(dst, f.rcode, fate == shortened, f.opt), answered
	}
	f.request = zone.Request{Query: q.Query, ID: q.ID, RecursionDesired: q.RecursionDesired(), OPT: f.opt}
	start := len(dst)
	dst, _ = f.answer.AppendTo(dst, &f.request, limit)
	return g.padded(dst, start, len(f.opt), q, &f.asked), answered
}

// udpLimit is how many octets the response to a query by UDP may have.
func (s *served) udpLimit(q *query.Query) int { return min(int(q.Payload), s.payload) }

// shuffled says whether plugin loadbalance would put an answer's records in another order: it moves aliases to the front
// and addresses and MX records, which it shuffles, to the end.
func shuffled(a *zone.Answer) bool {
	return a.Rcode == dns.RcodeSuccess && (moved(a.Answer) || moved(a.Authority) || moved(a.Additional))
}

func moved(sets []zone.RRset) bool {
	const alias, other, address, mx = 0, 1, 2, 3
	last, addresses := alias, 0
	for i := range sets {
		rank := other
		switch sets[i].Type {
		case dns.TypeCNAME:
			rank = alias
		case dns.TypeA, dns.TypeAAAA:
			rank = address
			addresses += sets[i].Data.Len()
		case dns.TypeMX:
			rank = mx
		}
		if rank < last || addresses > 1 || rank == mx && (last == mx || sets[i].Data.Len() > 1) {
			return true
		}
		last = rank
		if len(sets[i].Sigs) > 0 {
			if rank > other {
				return true
			}
			last = other
		}
	}
	return false
}
