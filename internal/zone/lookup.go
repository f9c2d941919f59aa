package zone

import (
	"encoding/binary"

	"github.com/miekg/dns"
)

// Query is a question, with the one thing beside it that changes the answer.
type Query struct {
	Name  []byte // uncompressed wire format, any case; it is referred to by the Answer and must not be changed
	Type  uint16
	Class uint16
	DO    bool // DNSSEC records are wanted (RFC 3225)
}

// Answer is the answer to a Query. Its sections refer to the zone's data and to the query's name. One that is used again
// for another query keeps its memory: what the sections referred to may then have changed.
type Answer struct {
	Rcode         int
	Authoritative bool

	Answer     []RRset
	Authority  []RRset
	Additional []RRset

	// Required is how many RRsets at the beginning of Additional are glue without which a referral cannot be followed
	// (RFC 9471 2.1): if one of them finds no room, the response is truncated. The others may be left out.
	Required int

	// Synthesised says that a wildcard or a DNAME made the answer, so that there is one for any number of names.
	Synthesised bool

	// Zone is the one that was asked first, whose SOA serial the answer is of. It is nil if none answers for the name, or if
	// what was asked for is in no zone.
	Zone *Zone

	room *room
}

// room is what a lookup and a packet need of memory beside the sections.
type room struct {
	search search
	names  []byte // owners and RDATA that the zone does not have in one piece
	packet packet
}

// clear makes an Answer ready for another query.
func (a *Answer) clear() {
	if a.room == nil {
		a.room = &room{}
	}
	a.room.names = a.room.names[:0]
	a.Rcode, a.Authoritative, a.Required, a.Synthesised, a.Zone = 0, false, 0, false, nil
	a.Answer, a.Authority, a.Additional = a.Answer[:0], a.Authority[:0], a.Additional[:0]
}

// maxFollow bounds the CNAME and DNAME records that one answer follows.
const maxFollow = 16

// lookup is the state of answering one query. Its steps follow RFC 1034 4.3.2 as updated by RFC 4592 and RFC 6672: locate
// the name, and refer, follow, hit or miss.
type lookup struct {
	q      *Query
	zones  *Zones  // zones in which an alias may be followed, or nil
	z      *Zone   // zone being searched
	search *search // name being searched: the query's, or an alias's target
	a      *Answer
}

// Lookup answers a query from this zone alone. A name that is not in the zone is refused.
func (z *Zone) Lookup(q Query) Answer {
	var a Answer
	z.LookupInto(&q, &a)
	return a
}

// LookupInto is Lookup into an Answer that may have served before, whose memory it uses.
func (z *Zone) LookupInto(q *Query, a *Answer) {
	l := lookup{q: q, a: a}
	if !l.begin() {
		return
	}
	if !z.holds(l.search) {
		a.Rcode = dns.RcodeRefused
		return
	}
	a.Zone = z
	l.answer(z)
}

// begin checks the query and makes its name the one to search.
func (l *lookup) begin() bool {
	l.a.clear()
	l.search = &l.a.room.search
	switch {
	case !l.search.set(l.q.Name):
		l.a.Rcode = dns.RcodeFormatError
	case l.q.Class != dns.ClassINET:
		l.a.Rcode = dns.RcodeRefused
	default:
		l.a.Rcode = rcodeOf(l.q.Type)
	}
	return l.a.Rcode == dns.RcodeSuccess
}

// rcodeOf is the response to types that ask for no data (RFC 6895 3.1), NOERROR for those that do: transfers are made
// elsewhere or not at all, MAILA and MAILB are obsolete, the others are not for questions.
func rcodeOf(qtype uint16) int {
	switch qtype {
	case dns.TypeAXFR, dns.TypeIXFR:
		return dns.RcodeRefused
	case dns.TypeMAILA, dns.TypeMAILB:
		return dns.RcodeNotImplemented
	case dns.TypeANY:
		return dns.RcodeSuccess
	}
	if isMeta(qtype) {
		return dns.RcodeFormatError
	}
	return dns.RcodeSuccess
}

// isMeta reports whether a type is a meta type or QTYPE, of which no zone has records (RFC 6895 3.1).
func isMeta(typ uint16) bool {
	return typ == dns.TypeNone || typ == dns.TypeOPT || dns.TypeNXNAME == typ || 248 < typ && typ < 256
}

// answer searches from zone to zone until a step ends it. The response is authoritative if the first zone's answer is
// (RFC 1035 4.1.1); each step that has something of the zone's own to say makes it so.
func (l *lookup) answer(z *Zone) {
	l.z = z
	for followed := 0; l.step() && followed < maxFollow && l.enter(); followed++ {
	}
}

// enter makes the zone of the name to search next the one being searched, if there is one.
func (l *lookup) enter() bool {
	if l.zones != nil {
		z := l.zones.find(l.search, l.q.Type)
		if z != nil {
			l.z = z
		}
		return z != nil
	}
	return l.z.holds(l.search)
}

// step takes one name, and reports whether it led to another one.
func (l *lookup) step() (follow bool) {
	n, exact := l.z.find(l.search)
	switch {
	case n.is(isCut) && !(exact && l.q.Type == dns.TypeDS):
		l.refer(&n)
		return false
	case exact:
		return l.hit(&n)
	case n.is(hasDNAME):
		return l.substitute(&n)
	case n.is(hasWildcard):
		if wildcard, ok := l.z.wildcard(&n, l.search); ok {
			return l.synthesise(&n, &wildcard)
		}
	}
	l.a.Authoritative = true
	l.a.Rcode = dns.RcodeNameError
	l.addSOA()
	if l.q.DO {
		l.proveNoName(&n)
	}
	return false
}

var asterisk = []byte("*")

// hit answers from the name's own node.
func (l *lookup) hit(n *node) (follow bool) {
	l.a.Authoritative = true
	if cname, ok := l.alias(n); ok {
		return l.follow(&cname)
	}
	if !l.addData(n) {
		l.addSOA()
		if l.q.DO {
			l.proveNoType(n)
		}
	}
	return false
}

// synthesise answers from the wildcard below the closest encloser (RFC 4592 3.3).
func (l *lookup) synthesise(encloser, wildcard *node) (follow bool) {
	l.a.Authoritative, l.a.Synthesised = true, true
	cname, alias := l.alias(wildcard)
	if !alias && !l.addData(wildcard) {
		l.addSOA()
		if l.q.DO {
			l.proveNoTypeAtWildcard(encloser, wildcard)
		}
		return false
	}
	if l.q.DO {
		l.proveSynthesis(encloser)
	}
	return alias && l.follow(&cname)
}

// alias returns the CNAME RRset of a node if the query is to follow it (RFC 1034 3.6.2). What may stand beside a CNAME
// can be asked for.
func (l *lookup) alias(n *node) (rrset, bool) {
	if !n.is(hasCNAME) {
		return rrset{}, false
	}
	switch l.q.Type {
	case dns.TypeCNAME, dns.TypeANY, dns.TypeRRSIG, dns.TypeNSEC:
		return rrset{}, false
	}
	return l.z.get(n, dns.TypeCNAME)
}

// addData adds the data of the type asked for, and reports whether there are any.
func (l *lookup) addData(n *node) bool {
	var s rrset
	var ok bool
	switch l.q.Type {
	case dns.TypeRRSIG:
		return l.addSignatures(n)
	case dns.TypeANY:
		s, ok = l.z.any(n)
	default:
		s, ok = l.z.get(n, l.q.Type)
	}
	if ok {
		l.a.Answer = l.add(l.a.Answer, l.search.name, &s)
		l.addAddresses(&s, nil)
	}
	return ok
}

// any chooses the RRset that answers for ANY (RFC 8482 4.1): the first in order of type, NSEC only if there is no other.
func (z *Zone) any(n *node) (rrset, bool) {
	for i := range n.count() {
		if n.typeAt(i) == dns.TypeNSEC {
			continue
		}
		if s := z.at(n, i); s.split > 0 {
			return s, true
		}
	}
	return z.get(n, dns.TypeNSEC)
}

// addSignatures adds the RRSIG records of one RRset of a node, the first in order of type that has any: all of them would be as much as
// all for ANY, for whose address they are sent to (RFC 8482 7).
func (l *lookup) addSignatures(n *node) bool {
	for i := range n.count() {
		if s := l.z.at(n, i); len(s.sigs()) > 0 {
			l.a.Answer = append(l.a.Answer, RRset{Owner: l.search.name, Type: dns.TypeRRSIG, TTL: s.sigTTL, Data: s.sigs()})
			return true
		}
	}
	return false
}

// follow adds a CNAME and makes its target the name to search, unless that would be going in a circle.
func (l *lookup) follow(cname *rrset) bool {
	l.a.Answer = l.add(l.a.Answer, l.search.name, cname)
	if !l.search.set(only(cname)) {
		return false
	}
	for i := range l.a.Answer {
		if a := &l.a.Answer[i]; a.Type == dns.TypeCNAME && equalNames(a.Owner, l.search.name) {
			return false
		}
	}
	return true
}

// only is the RDATA of an RRset of one record.
func only(s *rrset) []byte {
	for rdata := range s.records().All() {
		return rdata
	}
	return nil
}

// substitute adds the DNAME of a node above the name and the CNAME that it makes of the name (RFC 6672 3.1), which ends
// the search if it is what was asked for. A name that gets too long ends it with YXDOMAIN (RFC 6672 2.2).
func (l *lookup) substitute(n *node) (follow bool) {
	l.a.Authoritative, l.a.Synthesised = true, true
	dname, _ := l.z.get(n, dns.TypeDNAME)
	owner, to := l.ownerOf(n), only(&dname)
	l.addDNAME(owner, &dname)
	kept := len(l.search.name) - len(owner)
	length := kept + len(to)
	if length > 255 {
		l.a.Rcode = dns.RcodeYXDomain
		return false
	}
	names := &l.a.room.names
	start := len(*names)
	*names = binary.BigEndian.AppendUint16(*names, uint16(length))
	*names = append(append(*names, l.search.name[:kept]...), to...)
	rdata := (*names)[start:len(*names):len(*names)]
	more := l.follow(&rrset{typ: dns.TypeCNAME, ttl: dname.ttl, split: uint32(len(rdata)), data: rdata})
	return more && l.q.Type != dns.TypeCNAME
}

// addDNAME adds a DNAME unless the answer has it already, as it may where DNAMEs lead to one another.
func (l *lookup) addDNAME(owner []byte, dname *rrset) {
	for i := range l.a.Answer {
		if a := &l.a.Answer[i]; a.Type == dns.TypeDNAME && equalNames(a.Owner, owner) {
			return
		}
	}
	l.a.Answer = l.add(l.a.Answer, owner, dname)
}

// refer adds a referral to the zone below a cut: its NS records, the DS records or the proof that there are none (RFC
// 4035 3.1.4), and addresses of the servers.
func (l *lookup) refer(cut *node) {
	owner := l.ownerOf(cut)
	ns, _ := l.z.get(cut, dns.TypeNS)
	l.a.Authority = l.add(l.a.Authority, owner, &ns)
	if l.q.DO {
		if ds, ok := l.z.get(cut, dns.TypeDS); ok {
			l.a.Authority = l.add(l.a.Authority, owner, &ds)
		} else {
			l.proveNoType(cut)
		}
	}
	l.addAddresses(&ns, cut)
}

// ownerOf is the owner of a node at or above the name, as the end of the name: so it has the question's case, and a
// packet's writer finds it there to compress against.
func (l *lookup) ownerOf(n *node) []byte { return l.search.suffix(int(n.labels)) }

// addSOA adds the SOA of a negative answer (RFC 2308 3).
func (l *lookup) addSOA() {
	l.a.Authority = l.add(l.a.Authority, l.search.suffix(int(l.z.labels)), &l.z.negativeSOA)
}

// add appends an RRset to a section.
func (l *lookup) add(section []RRset, owner []byte, s *rrset) []RRset {
	section = append(section, RRset{Owner: owner, Type: s.typ, TTL: s.ttl, Data: s.records()})
	if l.q.DO {
		r := &section[len(section)-1]
		r.SigTTL, r.Sigs = s.sigTTL, s.sigs()
	}
	return section
}

// addAddresses adds the addresses of the hosts that records point at, as far as the zone has them. For a referral to the
// zone below a cut those at or below the cut are required glue and come first (RFC 9471 2.1, 2.2).
func (l *lookup) addAddresses(s *rrset, cut *node) {
	if len(s.targets) == 0 {
		return
	}
	if cut != nil {
		l.addTargets(s, cut, true)
		l.a.Required = len(l.a.Additional)
	}
	l.addTargets(s, cut, false)
}

// addTargets adds the addresses of those hosts that are at or below the cut, or of those that are not. What is below a
// cut serves in no other case than NS records.
func (l *lookup) addTargets(s *rrset, cut *node, inside bool) {
	i := -1
	for rdata := range s.records().All() {
		i++
		r := s.target(i)
		if r == 0 {
			continue
		}
		host := nameIn(rdata, hostAt(s.typ))
		if host == nil {
			continue
		}
		if r == unresolved {
			if r = l.z.hostNode(&l.a.room.packet.name, host); r <= unresolved {
				continue
			}
		}
		n := l.z.node(r)
		if !n.authoritative() && s.typ != dns.TypeNS || inside != (cut != nil && l.z.within(&n, cut)) {
			continue
		}
		for i := range n.count() {
			if typ := n.typeAt(i); typ != dns.TypeA && typ != dns.TypeAAAA {
				continue
			}
			if a := l.z.at(&n, i); a.split > 0 {
				l.a.Additional = l.add(l.a.Additional, host, &a)
			}
		}
	}
}

// hostNode is the node of a host's name, 0 if that is not in the zone, unresolved if there is none.
func (z *Zone) hostNode(s *search, host []byte) ref {
	r := ref(0)
	if s.set(host) && z.holds(s) {
		r = unresolved
		if n, exact := z.locate(s); exact {
			r = n.ref
		}
	}
	s.name = nil // which is the zone's
	return r
}
