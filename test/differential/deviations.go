package main

import (
	"bytes"
	"slices"
	"strings"

	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/zone"
	"github.com/coredns-anycast/coredns-anycast/test/zonegen"
)

// A deviation is a difference from the other servers that we mean, with the RFC that is on our side. It changes the response
// of another server into what it would be if that server did as we do, in this one respect, and leaves it alone where it
// does not apply. What is left different is not explained.
type deviation struct {
	rfc   string
	apply func(u *universe, v *verdict, theirs *dns.Msg)
}

var deviations = []deviation{
	{"RFC 6895 3.1: nobody can ask for data of a meta type", metaType},
	{"RFC 1035 6.2: an answer for all classes cannot be authoritative, and so none leaves (RFC 3258 2.1)", allClasses},
	{"RFC 1035 4.1.1: a class that is not served, NONE among them (RFC 2136 2.4), is refused with the question and EDNS as any other", otherClass},
	{"RFC 1034 4.3.2 step 3a: an alias is followed into any zone that is served", otherZone},
	{"RFC 4035 2.5: NSEC may stand beside a CNAME, so the alias is not followed for it", besideAlias},
	{"RFC 4035 3.1.4.1: who has the child, but not its parent, has no data for DS at the child's apex", childOfUnserved},
	{"RFC 1034 3.6.2: a chain of aliases without end is followed 16 times, or once round; SERVFAIL would ask for more queries", endless},
	{"RFC 4035 3.1.3.4: that a wildcard lacks the type is proved also where it is an empty non-terminal", emptyWildcard},
	{"RFC 4034 6.1: the octet 0 in a label sorts before others, so another NSEC record covers the name", zeroOctet},
	{"RFC 5155 7.2.1: the closest encloser that is provable is proved where that of the name has opted out", provableEncloser},
	{"RFC 5155 7.2.8: the owner of an NSEC3 record is no name of the zone, so a wildcard above it covers what is below it", belowHash},
	{"RFC 6672 3.2: a DNAME is followed whatever is asked for, ANY too, until a name is too long", dnameOfAny},
	{"RFC 8482 4.1 and 7: ANY is answered with one RRset, RRSIG with the signatures of one", oneOfAny},
	{"RFC 9471 2.1: TC is set when glue is left out", glueLeftOut},
	{"RFC 2181 9: TC is not set where everything finds room, as it does for us since all names are compressed", moreCompressed},
	{"RFC 1035 4.1.4: compression is optional; we leave some of it out, and estimate the length", lessCompressed},
	{"RFC 1034 4.3.2 step 6: additional addresses are optional, and none are made from wildcards", wildcardAddress},
	{"RFC 9460 4.1: the addresses of a target of SVCB and HTTPS records are added, and its own such records, which is optional, are not", serviceTarget},
}

// explain returns the deviations by which a response of another server becomes ours, nil if they do not do. Where we truncate
// for what we have more than the other, that is judged by what we would have said with more room.
func (u *universe) explain(v *verdict, theirs *dns.Msg) []string {
	if theirs == nil || v.ours == nil {
		return nil
	}
	names := u.adjust(v, theirs.Copy())
	if names == nil && v.ours.Truncated && !theirs.Truncated {
		whole := *v
		whole.ours = v.ours.Copy()
		a := u.lookup(v.question.msg)
		m := a.Msg(v.question.msg, dns.MaxMsgSize)
		whole.ours.Truncated = false
		whole.ours.Answer, whole.ours.Ns = m.Answer, m.Ns
		whole.mine = u.normal(whole.ours, !v.question.tcp)
		names = u.adjust(&whole, theirs.Copy())
	}
	return names
}

// adjust changes their response by one deviation after the other until it is ours.
func (u *universe) adjust(v *verdict, theirs *dns.Msg) (names []string) {
	small := !v.question.tcp
	for _, d := range deviations {
		before := u.normal(theirs, small)
		d.apply(u, v, theirs)
		after := u.normal(theirs, small)
		if before != after {
			names = append(names, d.rfc)
		}
		if after == v.mine {
			return names
		}
	}
	return nil
}

// metaType: they answer as if there could be data of such a type.
func metaType(_ *universe, v *verdict, theirs *dns.Msg) {
	want := dns.RcodeFormatError
	switch v.question.msg.Question[0].Qtype {
	case dns.TypeMAILA, dns.TypeMAILB:
		want = dns.RcodeNotImplemented
	case dns.TypeNone, dns.TypeOPT, dns.TypeTKEY, dns.TypeTSIG:
	default:
		return
	}
	if v.ours.Rcode == want {
		*theirs = *v.ours.Copy()
	}
}

// otherClass: they refuse a class that is not served, each in a way of its own. NSD leaves out the question.
func otherClass(_ *universe, v *verdict, theirs *dns.Msg) {
	refused := theirs.Rcode == dns.RcodeRefused || theirs.Rcode == dns.RcodeFormatError
	switch v.question.msg.Question[0].Qclass {
	case dns.ClassINET, dns.ClassANY:
	default:
		if refused && len(theirs.Answer) == 0 && v.ours.Rcode == dns.RcodeRefused {
			*theirs = *v.ours.Copy()
		}
	}
}

// allClasses: they answer for class IN, with AA or without.
func allClasses(_ *universe, v *verdict, theirs *dns.Msg) {
	if v.question.msg.Question[0].Qclass == dns.ClassANY && v.ours.Rcode == dns.RcodeRefused {
		*theirs = *v.ours.Copy()
	}
}

// otherZone: they stop at an alias that leads out of the zone, and we go on. Of truncated responses the rcode differs. Theirs can
// be truncated where ours is not, since it says other things; then another server has to say just what we do.
func otherZone(u *universe, v *verdict, theirs *dns.Msg) {
	if v.ours.Truncated && theirs.Truncated && theirs.Rcode == dns.RcodeSuccess && u.leavesZone(v.question.msg) {
		theirs.Rcode = v.ours.Rcode
		return
	}
	if !v.ours.Truncated && theirs.Truncated && theirs.Rcode == dns.RcodeSuccess && slices.Contains(v.forms, v.mine) && u.leavesZone(v.question.msg) {
		*theirs = *v.ours.Copy()
		return
	}
	if len(theirs.Answer) == 0 || len(theirs.Answer) > len(v.ours.Answer) || theirs.Rcode != dns.RcodeSuccess || !subset(theirs.Answer, v.ours.Answer) {
		return
	}
	for _, rr := range theirs.Answer {
		cname, ok := rr.(*dns.CNAME)
		if ok && !slices.ContainsFunc(theirs.Answer, func(rr dns.RR) bool { return strings.EqualFold(rr.Header().Name, cname.Target) }) &&
			u.zoneOf(cname.Target) != nil && u.zoneOf(cname.Target) != u.zoneOf(cname.Hdr.Name) {
			*theirs = *v.ours.Copy()
			return
		}
	}
}

// besideAlias: they follow an alias for NSEC, even where the zone has NSEC3.
func besideAlias(_ *universe, v *verdict, theirs *dns.Msg) {
	q := v.question.msg.Question[0]
	isAlias := func(rr dns.RR) bool {
		return rr.Header().Rrtype == dns.TypeCNAME && strings.EqualFold(rr.Header().Name, q.Name)
	}
	if q.Qtype == dns.TypeNSEC && v.ours.Authoritative && slices.ContainsFunc(theirs.Answer, isAlias) && !slices.ContainsFunc(v.ours.Answer, isAlias) {
		*theirs = *v.ours.Copy()
	}
}

// leavesZone reports whether the aliases that a query meets lead to another zone.
func (u *universe) leavesZone(q *dns.Msg) bool {
	a := u.lookup(q)
	return slices.ContainsFunc(a.Msg(q, dns.MaxMsgSize).Answer, func(rr dns.RR) bool {
		cname, ok := rr.(*dns.CNAME)
		return ok && u.zoneOf(cname.Target) != u.zoneOf(cname.Hdr.Name)
	})
}

// zoneOf is the zone that has a name, nil if none has.
func (u *universe) zoneOf(name string) *zone.Zone {
	wire := make([]byte, 256)
	n, err := dns.PackDomainName(name, wire, 0, nil, false)
	if err != nil {
		return nil
	}
	return u.ours.Find(wire[:n], dns.TypeA)
}

// childOfUnserved: they refer to the parent, by a cut that a zone above it has.
func childOfUnserved(u *universe, v *verdict, theirs *dns.Msg) {
	q := v.question.msg.Question[0]
	name := strings.ToLower(q.Name)
	referral := !theirs.Authoritative && len(theirs.Answer) == 0 && slices.ContainsFunc(theirs.Ns, func(rr dns.RR) bool {
		return rr.Header().Rrtype == dns.TypeNS && dns.IsSubDomain(rr.Header().Name, name) && !strings.EqualFold(rr.Header().Name, name)
	})
	if q.Qtype == dns.TypeDS && u.origins[name] && v.ours.Authoritative && len(v.ours.Answer) == 0 && referral {
		*theirs = *v.ours.Copy()
	}
}

// endless: they follow fewer aliases, or more, or give up.
func endless(u *universe, v *verdict, theirs *dns.Msg) {
	followed, circle := 0, false
	owners := map[string]bool{}
	for _, set := range u.lookup(v.question.msg).Answer {
		for target := range set.Data.All() {
			if set.Type == dns.TypeCNAME {
				followed++
				owners[string(bytes.ToLower(set.Owner))] = true
				circle = owners[string(bytes.ToLower(target))] // of the last alias
			}
		}
	}
	if (followed > 16 || circle) && (v.ours.Truncated || subset(theirs.Answer, v.ours.Answer) || subset(v.ours.Answer, theirs.Answer)) {
		*theirs = *v.ours.Copy()
	}
}

// emptyWildcard: they leave out the NSEC record which says that a wildcard has nothing but names below it.
func emptyWildcard(u *universe, v *verdict, theirs *dns.Msg) {
	if v.ours.Rcode != dns.RcodeSuccess || !subset(theirs.Ns, v.ours.Ns) {
		return
	}
	for _, rr := range v.ours.Ns {
		if nsec, ok := rr.(*dns.NSEC); ok && !subset([]dns.RR{rr}, theirs.Ns) && !u.reachesEmptyWildcard(nsec, v.names()) {
			return
		}
	}
	theirs.Ns = v.ours.Ns
}

// names are the name asked for and those that aliases lead to.
func (v *verdict) names() []string {
	names := []string{v.question.msg.Question[0].Name}
	for _, rr := range v.ours.Answer {
		if cname, ok := rr.(*dns.CNAME); ok {
			names = append(names, cname.Target)
		}
	}
	return names
}

// zeroOctet: a name has a label with the octet 0, which they sort as if a label ended there. What only we have covers it.
func zeroOctet(_ *universe, v *verdict, theirs *dns.Msg) {
	coversOne := func(rr dns.RR) bool {
		nsec, ok := rr.(*dns.NSEC)
		return ok && slices.ContainsFunc(v.names(), func(name string) bool { return strings.Contains(name, `\000`) && covers(nsec, name) })
	}
	isMissing := func(rr dns.RR) bool { return rr.Header().Rrtype == dns.TypeNSEC && !subset([]dns.RR{rr}, theirs.Ns) }
	isOther := func(rr dns.RR) bool { return isMissing(rr) && !coversOne(rr) }
	if !slices.ContainsFunc(v.ours.Ns, isMissing) || slices.ContainsFunc(v.ours.Ns, isOther) {
		return
	}
	theirs.Ns = slices.DeleteFunc(slices.Clone(theirs.Ns), isNSEC)
	for _, rr := range v.ours.Ns {
		if isNSEC(rr) {
			theirs.Ns = append(theirs.Ns, rr)
		}
	}
}

// isNSEC reports whether a record is, or signs, an NSEC record.
func isNSEC(rr dns.RR) bool {
	sig, signs := rr.(*dns.RRSIG)
	return rr.Header().Rrtype == dns.TypeNSEC || signs && sig.TypeCovered == dns.TypeNSEC
}

// covers reports whether a name is between the owner and the next name of an NSEC record.
func covers(nsec *dns.NSEC, name string) bool {
	owner, next := order(nsec.Hdr.Name), order(nsec.NextDomain)
	after := slices.Compare(order(name), owner) > 0
	return after && (slices.Compare(order(name), next) < 0 || slices.Compare(next, owner) <= 0)
}

// order is a name such that comparing its elements is the canonical order (RFC 4034 6.1): labels from the root on.
func order(name string) []string {
	var wire [256]byte
	n, err := dns.PackDomainName(name, wire[:], 0, nil, false)
	if err != nil {
		return nil
	}
	var labels []string
	for at := 0; at < n && wire[at] > 0; at += 1 + int(wire[at]) {
		labels = append(labels, string(bytes.ToLower(wire[at+1:at+1+int(wire[at])])))
	}
	slices.Reverse(labels)
	return labels
}

// provableEncloser: they prove what they deny from an encloser that has no NSEC3 record, since all below it has opted out. We
// have the record that matches the closest one that is provable, and one that covers the next closer name.
func provableEncloser(_ *universe, v *verdict, theirs *dns.Msg) {
	for _, name := range v.names() {
		if encloserProved(theirs.Ns, name) {
			return
		}
	}
	if slices.ContainsFunc(v.names(), func(name string) bool { return encloserProved(v.ours.Ns, name) }) {
		theirs.Ns = v.ours.Ns
	}
}

// encloserProved reports whether NSEC3 records prove a closest encloser of a name (RFC 5155 8.3).
func encloserProved(section []dns.RR, name string) bool {
	any := func(holds func(*dns.NSEC3) bool) bool {
		return slices.ContainsFunc(section, func(rr dns.RR) bool {
			nsec3, ok := rr.(*dns.NSEC3)
			return ok && holds(nsec3)
		})
	}
	for next := strings.ToLower(name); next != "."; next = zonegen.Above(next) {
		if any(func(n *dns.NSEC3) bool { return n.Match(zonegen.Above(next)) }) {
			return any(func(n *dns.NSEC3) bool { return n.Cover(next) })
		}
	}
	return false
}

// reachesEmptyWildcard reports whether the next name of an NSEC record is below a wildcard that has no records and that one
// of the names could match.
func (u *universe) reachesEmptyWildcard(nsec *dns.NSEC, names []string) bool {
	for next := strings.ToLower(nsec.NextDomain); next != "."; next = zonegen.Above(next) {
		if strings.HasPrefix(next, "*.") && !u.owners[next] &&
			slices.ContainsFunc(names, func(name string) bool { return dns.IsSubDomain(next[2:], strings.ToLower(name)) }) {
			return true
		}
	}
	return false
}

// belowHash: they have no name below one that owns NSEC3 records alone, where we have the records of the wildcard beside it.
func belowHash(u *universe, v *verdict, theirs *dns.Msg) {
	if theirs.Rcode != dns.RcodeNameError || len(theirs.Answer) > 0 || v.ours.Rcode != dns.RcodeSuccess {
		return
	}
	for n := zonegen.Above(strings.ToLower(v.question.msg.Question[0].Name)); n != "."; n = zonegen.Above(n) {
		if u.hashes[n] && u.owners["*."+zonegen.Above(n)] {
			*theirs = *v.ours.Copy()
			return
		}
	}
}

// dnameOfAny: they stop at the first name that a DNAME gives, since ANY asks for its CNAME. Another server has to say just what we do.
func dnameOfAny(_ *universe, v *verdict, theirs *dns.Msg) {
	if v.question.msg.Question[0].Qtype == dns.TypeANY && v.ours.Rcode == dns.RcodeYXDomain && theirs.Rcode == dns.RcodeSuccess &&
		len(theirs.Answer) > 0 && subset(theirs.Answer, v.ours.Answer) && slices.Contains(v.forms, v.mine) {
		*theirs = *v.ours.Copy()
	}
}

// oneOfAny: each choose another RRset. Ours must be one that the other has too.
func oneOfAny(_ *universe, v *verdict, theirs *dns.Msg) {
	if qtype := v.question.msg.Question[0].Qtype; qtype != dns.TypeANY && qtype != dns.TypeRRSIG || len(v.ours.Answer) == 0 || theirs.Rcode != dns.RcodeSuccess {
		return
	}
	if theirs.Truncated && !v.ours.Truncated {
		theirs.Truncated = false
		theirs.Answer, theirs.Ns, theirs.Extra = v.ours.Answer, v.ours.Ns, v.ours.Extra
		return
	}
	if subset(v.ours.Answer, theirs.Answer) {
		theirs.Answer = v.ours.Answer
	}
}

// lookup is what the zone engine finds, before it is made to fit.
func (u *universe) lookup(q *dns.Msg) zone.Answer {
	query, err := engineQuery(q)
	if err != nil {
		return zone.Answer{}
	}
	return u.ours.Lookup(query)
}

// subset reports whether all of some records are among others.
func subset(some, all []dns.RR) bool {
	have := map[string]bool{}
	for _, rr := range all {
		have[strings.ToLower(rr.String())] = true
	}
	return !slices.ContainsFunc(some, func(rr dns.RR) bool { return !have[strings.ToLower(rr.String())] })
}

// glueLeftOut: we truncate, and those that do not have left out addresses that the delegation needs.
func glueLeftOut(u *universe, v *verdict, theirs *dns.Msg) {
	if !v.ours.Truncated || theirs.Truncated {
		return
	}
	a := u.lookup(v.question.msg)
	required := 0
	for _, s := range a.Additional[:a.Required] {
		required += s.Data.Len()
	}
	addresses := 0
	for _, rr := range theirs.Extra {
		if t := rr.Header().Rrtype; t == dns.TypeA || t == dns.TypeAAAA {
			addresses++
		}
	}
	if addresses < required {
		theirs.Truncated = true
	}
}

// moreCompressed: they truncate. We do not, but would without compression, which is optional (RFC 1035 4.1.4).
func moreCompressed(_ *universe, v *verdict, theirs *dns.Msg) {
	if v.ours.Truncated || !theirs.Truncated {
		return
	}
	m := v.ours.Copy()
	m.Compress = false
	if wire, err := m.Pack(); err == nil && len(wire) > sizeUDP(v.question.msg) {
		theirs.Truncated = false
		theirs.Answer, theirs.Ns, theirs.Extra = v.ours.Answer, v.ours.Ns, v.ours.Extra
	}
}

// lessCompressed: we truncate, but would not if all names were of one case, so that all of them were compressed against
// one another, and if Answer.Msg went by the length of the packet instead of the dns package's estimate, as CoreDNS does.
func lessCompressed(u *universe, v *verdict, theirs *dns.Msg) {
	if !v.ours.Truncated || theirs.Truncated {
		return
	}
	folded := v.question.msg.Copy()
	folded.Question[0].Name = strings.ToLower(folded.Question[0].Name)
	a := u.lookup(folded)
	a.Additional = a.Additional[:a.Required]
	m := a.Msg(folded, dns.MaxMsgSize)
	for _, rr := range slices.Concat(m.Answer, m.Ns, m.Extra) {
		foldTargets(rr)
	}
	size := sizeUDP(folded)
	if opt := folded.IsEdns0(); opt != nil {
		size -= 11
	}
	if wire, err := m.Pack(); err == nil && len(wire) <= size {
		theirs.Truncated = true
	}
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
func wildcardAddress(u *universe, _ *verdict, theirs *dns.Msg) {
	theirs.Extra = slices.DeleteFunc(slices.Clone(theirs.Extra), func(rr dns.RR) bool {
		return rr.Header().Rrtype != dns.TypeOPT && !u.owners[strings.ToLower(rr.Header().Name)]
	})
}

// serviceTarget: of the targets of SVCB and HTTPS records they leave out the addresses, or add records of these types.
func serviceTarget(_ *universe, v *verdict, theirs *dns.Msg) {
	targets := map[string]bool{}
	for _, rr := range theirs.Answer {
		switch rr := rr.(type) {
		case *dns.SVCB:
			targets[strings.ToLower(rr.Target)] = true
		case *dns.HTTPS:
			targets[strings.ToLower(rr.Target)] = true
		}
	}
	of := func(rr dns.RR, types ...uint16) bool {
		return targets[strings.ToLower(rr.Header().Name)] && slices.Contains(types, rr.Header().Rrtype)
	}
	theirs.Extra = slices.DeleteFunc(slices.Clone(theirs.Extra), func(rr dns.RR) bool { return of(rr, dns.TypeSVCB, dns.TypeHTTPS) })
	for name := range targets {
		isOf := func(rr dns.RR) bool {
			return strings.EqualFold(rr.Header().Name, name) && of(rr, dns.TypeA, dns.TypeAAAA)
		}
		if slices.ContainsFunc(theirs.Extra, isOf) {
			continue
		}
		for _, rr := range v.ours.Extra {
			if isOf(rr) {
				theirs.Extra = append(theirs.Extra, rr)
			}
		}
	}
}
