package zone

import (
	"github.com/miekg/dns"
)

// Msg makes the response to req of at most size octets, name compression included. Room is left for an OPT record like
// that of req, which whoever sends the response adds (in CoreDNS the server does). RRsets are put in or left out whole
// and with their signatures (RFC 2181 9, RFC 4035 3.1.1): optional addresses are left out first, without a word; only if
// that does not do is the response truncated. Lengths are what dns.Msg.Len estimates, some octets too many at times:
// CoreDNS goes by the same estimate, and would cut an RRset in two where it is above size.
func (a *Answer) Msg(req *dns.Msg, size int) *dns.Msg {
	m := a.header(req)
	if opt := req.IsEdns0(); opt != nil {
		size -= dns.Len(opt)
	}
	m.Answer = appendRRs(nil, a.Answer)
	m.Ns = appendRRs(nil, a.Authority)
	optional := len(a.Additional)
	m.Extra = appendRRs(nil, a.Additional)
	for m.Len() > size && optional > a.Required {
		optional--
		m.Extra = appendRRs(nil, a.Additional[:optional])
	}
	if m.Len() > size {
		a.truncate(m, size)
	}
	return m
}

// header makes the response without records. RD is the request's (RFC 1035 4.1.1), CD and AD are clear (RFC 4035 3.1.6).
func (a *Answer) header(req *dns.Msg) *dns.Msg {
	m := &dns.Msg{Compress: true, Question: req.Question}
	m.Id = req.Id
	m.Opcode = req.Opcode
	m.Response = true
	m.Rcode = a.Rcode
	m.Authoritative = a.Authoritative
	m.RecursionDesired = req.RecursionDesired
	return m
}

// truncate sets TC and puts in as many RRsets as fit, from the answer section on.
func (a *Answer) truncate(m *dns.Msg, size int) {
	m.Truncated = true
	m.Answer, m.Ns, m.Extra = nil, nil, nil
	for _, s := range []struct {
		from []RRset
		to   *[]dns.RR
	}{{a.Answer, &m.Answer}, {a.Authority, &m.Ns}, {a.Additional[:a.Required], &m.Extra}} {
		for i := range s.from {
			had := *s.to
			*s.to = appendRRs(had, s.from[i:i+1])
			if m.Len() > size {
				*s.to = had
				return
			}
		}
	}
}

// appendRRs appends the records of RRsets, each followed by its RRSIGs.
func appendRRs(rrs []dns.RR, sets []RRset) []dns.RR {
	for i := range sets {
		s := &sets[i]
		owner, _, err := dns.UnpackDomainName(s.Owner, 0)
		if err != nil {
			continue // names are valid by construction
		}
		for rdata := range s.Data.All() {
			rrs = append(rrs, unpackRR(owner, s.Type, s.TTL, rdata))
		}
		for rdata := range s.Sigs.All() {
			rrs = append(rrs, unpackRR(owner, dns.TypeRRSIG, s.SigTTL, rdata))
		}
	}
	return rrs
}
