package differential_test

import (
	"slices"
	"strings"

	"github.com/miekg/dns"
)

// A deviation is a difference from the other servers that we mean, with the RFC that is on our side.
type deviation struct {
	rfc     string
	applies func(c *comparison, q, ours *dns.Msg, theirs []*dns.Msg) bool
}

var deviations = []deviation{
	{"RFC 8482 4.1: ANY is answered with one RRset", oneOfAny},
	{"RFC 9471 2.1: TC is set when glue is left out", glueLeftOut},
	{"RFC 1035 4.1.4: compression is optional; we leave some of it out, and estimate the length", lessCompressed},
	{"RFC 1034 4.3.2 step 6: additional addresses are optional, and none are made from wildcards", wildcardAddress},
}

// oneOfAny: each choose another RRset. Ours must be one that another server has in its answer, and the rest be equal.
func oneOfAny(_ *comparison, q, ours *dns.Msg, theirs []*dns.Msg) bool {
	if q.Question[0].Qtype != dns.TypeANY || len(ours.Answer) == 0 {
		return false
	}
	have := map[string]bool{}
	for _, m := range theirs {
		if m.Truncated {
			return true
		}
		if m.Rcode != ours.Rcode || m.Authoritative != ours.Authoritative {
			return false
		}
		for _, rr := range m.Answer {
			have[strings.ToLower(rr.String())] = true
		}
	}
	return !slices.ContainsFunc(ours.Answer, func(rr dns.RR) bool { return !have[strings.ToLower(rr.String())] })
}

// glueLeftOut: we truncate, and those that do not have left out addresses that the delegation needs.
func glueLeftOut(c *comparison, q, ours *dns.Msg, theirs []*dns.Msg) bool {
	a := c.lookup(q)
	if !ours.Truncated || a.Required == 0 {
		return false
	}
	required := 0
	for _, s := range a.Additional[:a.Required] {
		required += s.Data.Len()
	}
	for _, m := range theirs {
		addresses := len(m.Extra)
		if m.IsEdns0() != nil {
			addresses--
		}
		if !m.Truncated && addresses >= required {
			return false
		}
	}
	return true
}

// lessCompressed: we truncate, but would not if all names were of one case, so that all of them were compressed against
// one another, and if Answer.Msg went by the length of the packet instead of the dns package's estimate, as CoreDNS does.
func lessCompressed(c *comparison, q, ours *dns.Msg, _ []*dns.Msg) bool {
	if !ours.Truncated {
		return false
	}
	folded := q.Copy()
	folded.Question[0].Name = strings.ToLower(q.Question[0].Name)
	a := c.lookup(folded)
	a.Additional = a.Additional[:a.Required]
	m := a.Msg(folded, dns.MaxMsgSize)
	for _, rr := range slices.Concat(m.Answer, m.Ns, m.Extra) {
		foldTargets(rr)
	}
	size := dns.MinMsgSize
	if opt := q.IsEdns0(); opt != nil {
		size = max(size, int(opt.UDPSize())) - dns.Len(opt)
	}
	wire, err := m.Pack()
	return err == nil && len(wire) <= size
}

// foldTargets folds the names that may be compressed.
func foldTargets(rr dns.RR) {
	fold := func(names ...*string) {
		for _, n := range names {
			*n = strings.ToLower(*n)
		}
	}
	fold(&rr.Header().Name)
	switch rr := rr.(type) {
	case *dns.NS:
		fold(&rr.Ns)
	case *dns.CNAME:
		fold(&rr.Target)
	case *dns.MX:
		fold(&rr.Mx)
	case *dns.SOA:
		fold(&rr.Ns, &rr.Mbox)
	}
}

// wildcardAddress: they add addresses of hosts that have none but by a wildcard, even one that a cut hides.
func wildcardAddress(c *comparison, _, ours *dns.Msg, theirs []*dns.Msg) bool {
	for _, m := range theirs {
		without := m.Copy()
		without.Extra = slices.DeleteFunc(without.Extra, func(rr dns.RR) bool {
			return rr.Header().Rrtype != dns.TypeOPT && !c.owners[strings.ToLower(rr.Header().Name)]
		})
		if len(without.Extra) < len(m.Extra) && normal(without, false) == normal(ours, false) {
			return true
		}
	}
	return false
}
