package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// A verdict is what came of one question.
type verdict struct {
	question  question
	ours      *dns.Msg
	theirs    []*dns.Msg
	mine      string
	forms     []string
	split     bool     // the peers differ among themselves
	majority  []int    // the first peer of each group that has the most votes
	explained []string // the deviations that make us equal to one of the majority
	differs   bool     // and nothing does
	err       error    // something that must not happen, whatever others answer
}

// judge asks all servers one question.
func (u *universe) judge(clients []*client, q question) verdict {
	v := verdict{question: q}
	asked := clients[:len(peers)]
	if q.wire {
		asked = clients
	}
	for _, c := range asked {
		c.send(q)
	}
	for i, c := range asked {
		m, err := c.receive(q, 2*time.Second)
		if err != nil {
			c.close()
			if m, err = c.ask(q, 2*time.Second); err != nil {
				m = nil
			}
		}
		if i < len(peers) {
			v.theirs = append(v.theirs, m)
		} else {
			v.ours = m
		}
	}
	if !q.wire {
		v.ours, v.err = u.answer(q)
	}
	if v.err == nil {
		u.weigh(&v)
	}
	return v
}

// weigh compares what was answered.
func (u *universe) weigh(v *verdict) {
	small := !v.question.tcp
	for _, m := range v.theirs {
		v.forms = append(v.forms, u.normal(m, small))
	}
	v.mine = u.normal(v.ours, small)
	v.majority = majority(v.forms)
	v.split = len(slices.Compact(slices.Sorted(slices.Values(v.forms)))) > 1
	for _, i := range v.majority {
		if v.forms[i] == v.mine {
			return
		}
	}
	for _, i := range v.majority {
		if v.explained = u.explain(v, v.theirs[i]); v.explained != nil {
			return
		}
	}
	v.differs = true
}

// majority returns the first of each of the largest groups of equal forms.
func majority(forms []string) (first []int) {
	most := 0
	for i, form := range forms {
		if slices.Index(forms, form) < i {
			continue
		}
		votes := 0
		for _, f := range forms {
			if f == form {
				votes++
			}
		}
		if votes > most {
			most, first = votes, nil
		}
		if votes == most {
			first = append(first, i)
		}
	}
	return first
}

// normal writes down what has to be equal in two responses: header, question, EDNS, the order of aliases, and the sections
// as sets. Names of records are compared without regard to case (RFC 4343), which compression may change. What servers
// are free to do is left out:
//   - the zone's own NS records in the authority section of an answer, and the addresses that these bring along (RFC
//     1034 4.3.2 does not ask for them)
//   - of a truncated response the sections (RFC 2181 9: the client disregards them)
//   - of one that is short of room, the additional section (RFC 2181 9, RFC 9471 2.2)
//   - the RRSIGs of additional addresses (RFC 4035 3.1.1: they may be left out)
//   - extended errors (RFC 8914), and whether CD is copied (RFC 4035 3.1.6)
func (u *universe) normal(m *dns.Msg, small bool) string {
	if m == nil {
		return "no response\n"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s", dns.RcodeToString[m.Rcode])
	for _, flag := range []struct {
		set  bool
		name string
	}{{m.Authoritative, "aa"}, {m.Truncated, "tc"}, {m.RecursionDesired, "rd"}, {m.RecursionAvailable, "ra"}, {m.Zero, "z"},
		{m.AuthenticatedData, "ad"}, {!m.Response, "query"}, {m.Opcode != 0, "opcode"}} {
		if flag.set {
			b.WriteString(" " + flag.name)
		}
	}
	for _, q := range m.Question {
		fmt.Fprintf(&b, "; %s %s %s", q.Name, dns.Class(q.Qclass), dns.Type(q.Qtype))
	}
	if opt := m.IsEdns0(); opt != nil {
		fmt.Fprintf(&b, "; EDNS %d size %d do=%v", opt.Version(), opt.UDPSize(), opt.Do())
		for _, option := range opt.Option {
			if option.Option() != dns.EDNS0EDE {
				fmt.Fprintf(&b, " option %d", option.Option())
			}
		}
	}
	b.WriteString("\n")
	if m.Truncated {
		return b.String()
	}
	b.WriteString(aliases(m.Answer))
	authority, additional := m.Ns, m.Extra
	if m.Authoritative && slices.ContainsFunc(authority, u.isApexNS) {
		authority = slices.DeleteFunc(slices.Clone(authority), u.isApexNS)
		additional = slices.DeleteFunc(slices.Clone(additional), func(rr dns.RR) bool {
			return !namedIn(m.Answer, rr.Header().Name) && !namedIn(authority, rr.Header().Name)
		})
	}
	writeSection(&b, "answer", m.Answer)
	writeSection(&b, "authority", authority)
	if !small {
		writeSection(&b, "additional", slices.DeleteFunc(slices.Clone(additional), func(rr dns.RR) bool { return rr.Header().Rrtype == dns.TypeRRSIG }))
	}
	return b.String()
}

// aliases says in which order CNAME and DNAME records come, if there is more than one.
func aliases(answer []dns.RR) string {
	var chain []string
	for _, rr := range answer {
		h := rr.Header()
		if name := strings.ToLower(h.Name); (h.Rrtype == dns.TypeCNAME || h.Rrtype == dns.TypeDNAME) && !slices.Contains(chain, name) {
			chain = append(chain, name)
		}
	}
	if len(chain) < 2 {
		return ""
	}
	return "  aliases " + strings.Join(chain, " ") + "\n"
}

func writeSection(b *strings.Builder, name string, section []dns.RR) {
	var lines []string
	for _, rr := range section {
		if rr.Header().Rrtype != dns.TypeOPT {
			lines = append(lines, "  "+name+" "+strings.ToLower(rr.String())+"\n")
		}
	}
	slices.Sort(lines)
	for _, line := range slices.Compact(lines) {
		b.WriteString(line)
	}
}

// namedIn reports whether records point at a host.
func namedIn(section []dns.RR, host string) bool {
	return slices.ContainsFunc(section, func(rr dns.RR) bool {
		switch rr := rr.(type) {
		case *dns.NS:
			return strings.EqualFold(rr.Ns, host)
		case *dns.MX:
			return strings.EqualFold(rr.Mx, host)
		case *dns.SRV:
			return strings.EqualFold(rr.Target, host)
		case *dns.SVCB:
			return strings.EqualFold(rr.Target, host)
		case *dns.HTTPS:
			return strings.EqualFold(rr.Target, host)
		}
		return false
	})
}

// isApexNS reports whether a record is, or signs, the NS records of one of the zones.
func (u *universe) isApexNS(rr dns.RR) bool {
	sig, signs := rr.(*dns.RRSIG)
	return u.origins[strings.ToLower(rr.Header().Name)] && (rr.Header().Rrtype == dns.TypeNS || signs && sig.TypeCovered == dns.TypeNS)
}

// dig shows the question as it can be put to dig.
func (v *verdict) dig() string {
	q := v.question.msg.Question[0]
	words := []string{"dig +norec", q.Name, "-c", dns.Class(q.Qclass).String(), "-t", dns.Type(q.Qtype).String()}
	if v.question.tcp {
		words = append(words, "+tcp")
	}
	switch opt := v.question.msg.IsEdns0(); {
	case opt == nil:
		words = append(words, "+noedns")
	case opt.Do():
		words = append(words, "+dnssec")
		fallthrough
	default:
		words = append(words, fmt.Sprintf("+bufsize=%d", opt.UDPSize()))
	}
	return strings.Join(words, " ")
}

// us says who answers for us.
func (v *verdict) us() string {
	if v.question.wire {
		return "coredns"
	}
	return "the zone engine"
}

// difference shows the question, and what is only in our response (+) or in that of the majority (-).
func (v *verdict) difference() string {
	if v.err != nil {
		return v.dig() + "\n" + v.err.Error() + "\n"
	}
	var b strings.Builder
	theirs := v.forms[v.majority[0]]
	fmt.Fprintf(&b, "%s\n+++ %s\n---", v.dig(), v.us())
	for i, form := range v.forms {
		if form == theirs {
			b.WriteString(" " + peers[i].name)
		}
	}
	b.WriteString("\n")
	lines := func(sign, of, without string) {
		for line := range strings.Lines(of) {
			if !strings.Contains("\n"+without, "\n"+line) {
				b.WriteString(sign + line)
			}
		}
	}
	lines("-", theirs, v.mine)
	lines("+", v.mine, theirs)
	return b.String()
}

// String shows the question and all answers.
func (v *verdict) String() string {
	var b strings.Builder
	b.WriteString(v.dig() + "\n")
	if v.err != nil {
		fmt.Fprintf(&b, "%v\n", v.err)
		return b.String()
	}
	fmt.Fprintf(&b, "%s: %s", v.us(), v.mine)
	for i, form := range v.forms {
		first := slices.Index(v.forms, form)
		mark := ""
		if slices.Contains(v.majority, first) {
			mark = " (majority)"
		}
		if first == i {
			fmt.Fprintf(&b, "%s%s: %s", peers[i].name, mark, form)
		} else {
			fmt.Fprintf(&b, "%s%s: as %s\n", peers[i].name, mark, peers[first].name)
		}
	}
	return b.String()
}
