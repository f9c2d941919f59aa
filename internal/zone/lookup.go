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

// Answer is the answer to a Query. Its sections refer to the zone's data and to the query's name.
type Answer struct {
	Rcode         int
	Authoritative bool

	Answer     []RRset
	Authority  []RRset
	Additional []RRset

	// Required is how many RRsets at the beginning of Additional are glue without which a referral cannot be followed
	// (RFC 9471 2.1): if one of them finds no room, the response is truncated. The others may be left out.
	Required int
}

// maxFollow bounds the CNAME and DNAME records that one answer follows.
const maxFollow = 16

// lookup is the state of answering one query. Its steps follow RFC 1034 4.3.2 as updated by RFC 4592 and RFC 6672: locate the
// name, and refer, follow, hit or miss.
type lookup struct {
	q     Query
	zones *Zones // zones in which an alias may be followed, or nil
	z     *Zone  // zone being searched
	name  []byte // name being searched: the query's, or an alias's target
	key   []byte // of name
	room  [512]byte
	a     Answer
}

// Lookup answers a query from this zone alone. A name that is not in the zone is refused.
func (z *Zone) Lookup(q Query) Answer {
	l := lookup{q: q}
	if !l.begin() {
		return l.a
	}
	if !z.holds(l.key) {
		l.a.Rcode = dns.RcodeRefused
		return l.a
	}
	l.answer(z)
	return l.a
}

// begin checks the query and makes its name the one to search.
func (l *lookup) begin() bool {
	switch {
	case !validName(l.q.Name):
		l.a.Rcode = dns.RcodeFormatError
	case l.q.Class != dns.ClassINET:
		l.a.Rcode = dns.RcodeRefused
	default:
		l.a.Rcode = rcodeOf(l.q.Type)
	}
	if l.a.Rcode != dns.RcodeSuccess {
		return false
	}
	l.name = l.q.Name
	l.key = appendKey(l.room[:0], l.name)
	return true
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
		z := l.zones.find(l.name, l.key, l.q.Type)
		if z != nil {
			l.z = z
		}
		return z != nil
	}
	return l.z.holds(l.key)
}

// step takes one name, and reports whether it led to another one.
func (l *lookup) step() (follow bool) {
	p := l.z.find(l.key)
	n := &l.z.nodes[p.node]
	switch {
	case n.cut >= 0 && !(p.exact && n.cut == p.node && l.q.Type == dns.TypeDS):
		l.refer(n.cut)
		return false
	case p.exact:
		return l.hit(p)
	case n.get(dns.TypeDNAME) != nil:
		return l.substitute(n)
	case n.wildcard >= 0:
		return l.synthesise(p)
	}
	l.a.Authoritative = true
	l.a.Rcode = dns.RcodeNameError
	l.addSOA()
	if l.q.DO {
		l.proveNoName(p)
	}
	return false
}

// hit answers from the name's own node.
func (l *lookup) hit(p position) (follow bool) {
	l.a.Authoritative = true
	n := &l.z.nodes[p.node]
	if cname := l.alias(n); cname != nil {
		return l.follow(cname)
	}
	if !l.addData(n) {
		l.addSOA()
		if l.q.DO {
			l.proveNoType(p)
		}
	}
	return false
}

// synthesise answers from the wildcard below the closest encloser (RFC 4592 3.3).
func (l *lookup) synthesise(p position) (follow bool) {
	l.a.Authoritative = true
	n := &l.z.nodes[l.z.nodes[p.node].wildcard]
	cname := l.alias(n)
	if cname == nil && !l.addData(n) {
		l.addSOA()
		if l.q.DO {
			l.proveNoTypeAtWildcard(p)
		}
		return false
	}
	if l.q.DO {
		l.proveSynthesis(p)
	}
	return cname != nil && l.follow(cname)
}

// alias returns the CNAME RRset of a node if the query is to follow it (RFC 1034 3.6.2). What may stand beside a CNAME
// can be asked for.
func (l *lookup) alias(n *node) *rrset {
	switch l.q.Type {
	case dns.TypeCNAME, dns.TypeANY, dns.TypeRRSIG, dns.TypeNSEC:
		return nil
	}
	return n.get(dns.TypeCNAME)
}

// addData adds the data of the type asked for, and reports whether there are any.
func (l *lookup) addData(n *node) bool {
	var s *rrset
	switch l.q.Type {
	case dns.TypeRRSIG:
		return l.addSignatures(n)
	case dns.TypeANY:
		s = n.any()
	default:
		s = n.get(l.q.Type)
	}
	if s == nil {
		return false
	}
	l.a.Answer = append(l.a.Answer, l.rrset(l.name, s))
	l.addAddresses(s, nil)
	return true
}

// any chooses the RRset that answers for ANY (RFC 8482 4.1): the first in order of type, NSEC only if there is no other.
func (n *node) any() *rrset {
	for i := range n.sets {
		if s := &n.sets[i]; s.split > 0 && s.typ != dns.TypeNSEC {
			return s
		}
	}
	return n.get(dns.TypeNSEC)
}

// addSignatures adds the RRSIG records of a node, for each RRset on its own.
func (l *lookup) addSignatures(n *node) bool {
	before := len(l.a.Answer)
	for i := range n.sets {
		if s := &n.sets[i]; len(s.sigs()) > 0 {
			l.a.Answer = append(l.a.Answer, RRset{Owner: l.name, Type: dns.TypeRRSIG, TTL: s.sigTTL, Data: s.sigs()})
		}
	}
	return len(l.a.Answer) > before
}

// follow adds a CNAME and makes its target the name to search, unless that would be going in a circle.
func (l *lookup) follow(cname *rrset) bool {
	l.a.Answer = append(l.a.Answer, l.rrset(l.name, cname))
	for rdata := range cname.records().All() {
		l.name = rdata
	}
	l.key = appendKey(l.room[:0], l.name)
	for i := range l.a.Answer {
		if a := &l.a.Answer[i]; a.Type == dns.TypeCNAME && equalNames(a.Owner, l.name) {
			return false
		}
	}
	return true
}

// substitute adds the DNAME of a node above the name and the CNAME that it makes of the name (RFC 6672 3.1), which ends
// the search if it is what was asked for. A name that gets too long ends it with YXDOMAIN (RFC 6672 2.2).
func (l *lookup) substitute(n *node) (follow bool) {
	l.a.Authoritative = true
	dname := n.get(dns.TypeDNAME)
	l.addDNAME(n, dname)
	var to []byte
	for rdata := range dname.records().All() {
		to = rdata
	}
	kept := len(l.name) - len(n.owner)
	if kept+len(to) > 255 {
		l.a.Rcode = dns.RcodeYXDomain
		return false
	}
	rdata := binary.BigEndian.AppendUint16(make([]byte, 0, 2+kept+len(to)), uint16(kept+len(to)))
	rdata = append(append(rdata, l.name[:kept]...), to...)
	more := l.follow(&rrset{typ: dns.TypeCNAME, ttl: dname.ttl, split: uint32(len(rdata)), data: rdata})
	return more && l.q.Type != dns.TypeCNAME
}

// addDNAME adds a DNAME unless the answer has it already, as it may where DNAMEs lead to one another.
func (l *lookup) addDNAME(n *node, dname *rrset) {
	for i := range l.a.Answer {
		if a := &l.a.Answer[i]; a.Type == dns.TypeDNAME && equalNames(a.Owner, n.owner) {
			return
		}
	}
	l.a.Answer = append(l.a.Answer, l.rrset(l.ownerOf(n), dname))
}

// refer adds a referral to the zone below a cut: its NS records, the DS records or the proof that there are none (RFC
// 4035 3.1.4), and addresses of the servers.
func (l *lookup) refer(cut int32) {
	n := &l.z.nodes[cut]
	ns := n.get(dns.TypeNS)
	l.a.Authority = append(l.a.Authority, l.rrset(l.ownerOf(n), ns))
	if l.q.DO {
		if ds := n.get(dns.TypeDS); ds != nil {
			l.a.Authority = append(l.a.Authority, l.rrset(l.ownerOf(n), ds))
		} else {
			l.proveNoType(position{node: cut, prev: cut, exact: true})
		}
	}
	l.addAddresses(ns, n)
}

// ownerOf is the owner of a node at or above the name, as the end of the name: so it has the question's case, and a
// packet's writer finds it there to compress against.
func (l *lookup) ownerOf(n *node) []byte { return l.name[len(l.name)-len(n.owner):] }

// addSOA adds the SOA of a negative answer (RFC 2308 3).
func (l *lookup) addSOA() {
	l.a.Authority = append(l.a.Authority, l.rrset(l.ownerOf(&l.z.nodes[0]), &l.z.negativeSOA))
}

// rrset makes an RRset of the answer.
func (l *lookup) rrset(owner []byte, s *rrset) RRset {
	r := RRset{Owner: owner, Type: s.typ, TTL: s.ttl, Data: s.records()}
	if l.q.DO {
		r.SigTTL, r.Sigs = s.sigTTL, s.sigs()
	}
	return r
}

// addAddresses adds the addresses of the hosts that records point at, as far as the zone has them. For a referral to the
// zone below a cut those at or below the cut are required glue and come first (RFC 9471 2.1, 2.2). What is below a cut
// serves in no other case than NS records.
func (l *lookup) addAddresses(s *rrset, cut *node) {
	var optional []RRset
	for rdata := range s.records().All() {
		host := target(s.typ, rdata)
		if host == nil {
			return
		}
		var room [512]byte
		key := appendKey(room[:0], host)
		if !l.z.holds(key) {
			continue
		}
		p := l.z.find(key)
		n := &l.z.nodes[p.node]
		if !p.exact || n.cut >= 0 && s.typ != dns.TypeNS {
			continue
		}
		for i := range n.sets {
			a := &n.sets[i]
			if a.split == 0 || a.typ != dns.TypeA && a.typ != dns.TypeAAAA {
				continue
			}
			if cut != nil && n.within(cut) {
				l.a.Additional = append(l.a.Additional, l.rrset(n.owner, a))
			} else {
				optional = append(optional, l.rrset(n.owner, a))
			}
		}
	}
	if cut != nil {
		l.a.Required = len(l.a.Additional)
	}
	l.a.Additional = append(l.a.Additional, optional...)
}
