package zone

import (
	"sort"

	"github.com/miekg/dns"
)

// Msg makes the response to req of at most size octets, name compression included. Room is left for an OPT record without
// options if req has one, which whoever sends the response adds (in CoreDNS the server does). RRsets are put in or left out
// whole and with their signatures (RFC 2181 9, RFC 4035 3.1.1): optional addresses are left out first, without a word; only
// if that does not do is the response truncated. Lengths are what dns.Msg.Len says, since CoreDNS goes by the same, and would
// cut an RRset in two where it is above size. Of data in base 64 it counts some octets too many, so where that might matter,
// such records are in the generic form (RFC 3597 5), whose length it knows.
func (a *Answer) Msg(req *dns.Msg, size int) *dns.Msg {
	m := a.header(req)
	if req.IsEdns0() != nil {
		size -= emptyOPT
	}
	for _, exact := range []bool{false, true} {
		m.Answer = appendRRs(nil, a.Answer, exact)
		m.Ns = appendRRs(nil, a.Authority, exact)
		m.Extra = appendRRs(nil, a.Additional[:min(len(a.Additional), mayFit(size)+1)], exact)
		if m.Compress = false; m.Len() <= size { // which takes less to find out
			m.Compress = true
			return m
		}
		if m.Compress = true; m.Len() <= size {
			return m
		}
	}
	if n := fill(m, &m.Extra, a.Additional, size); n < a.Required || m.Len() > size {
		a.truncate(m, size)
	}
	return m
}

// emptyOPT is the octets of an OPT record without options (RFC 6891 6.1.2).
const emptyOPT = 11

// mayFit is as many RRsets as a message of a size can have: a record takes an owner, even if that is a pointer, and ten
// octets (RFC 1035 4.1.3).
func mayFit(size int) int { return max(0, size) / 11 }

// fill makes a section of as many RRsets as find room, from the first on, and returns how many that are. It does not try
// them one by one: there may be thousands.
func fill(m *dns.Msg, section *[]dns.RR, sets []RRset, size int) int {
	n := sort.Search(min(len(sets), mayFit(size)), func(i int) bool {
		*section = appendRRs(nil, sets[:i+1], true)
		return m.Len() > size
	})
	if *section = appendRRs(nil, sets[:n], false); m.Len() > size {
		*section = appendRRs(nil, sets[:n], true)
	}
	return n
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
		if fill(m, s.to, s.from, size) < len(s.from) {
			return
		}
	}
}

// appendRRs appends the records of RRsets, each followed by its RRSIGs; those of which dns.Msg.Len is not exact, if it is to be,
// in the generic form.
func appendRRs(rrs []dns.RR, sets []RRset, exact bool) []dns.RR {
	for i := range sets {
		s := &sets[i]
		owner, _, err := dns.UnpackDomainName(s.Owner, 0)
		if err != nil {
			continue // names are valid by construction
		}
		for rdata := range s.Data.All() {
			rrs = append(rrs, recordOf(owner, s.Type, s.TTL, rdata, exact))
		}
		for rdata := range s.Sigs.All() {
			rrs = append(rrs, recordOf(owner, dns.TypeRRSIG, s.SigTTL, rdata, exact))
		}
	}
	return rrs
}

func recordOf(owner string, typ uint16, ttl uint32, rdata []byte, exact bool) dns.RR {
	switch typ {
	case dns.TypeRRSIG, dns.TypeDNSKEY, dns.TypeCDNSKEY, dns.TypeKEY, dns.TypeRKEY, dns.TypeCERT, dns.TypeDHCID, dns.TypeOPENPGPKEY,
		dns.TypeIPSECKEY, dns.TypeHIP:
		if exact {
			return genericRR(dns.RR_Header{Name: owner, Rrtype: typ, Class: dns.ClassINET, Ttl: ttl, Rdlength: uint16(len(rdata))}, rdata)
		}
	}
	return unpackRR(owner, typ, ttl, rdata)
}
