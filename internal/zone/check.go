package zone

import (
	"bytes"
	"fmt"

	"github.com/miekg/dns"
)

// check looks for what makes a zone unfit to be served, now that all of it is there. What a single record shows has been
// checked before.
func (b *Builder) check(z *Zone) {
	b.checkApex(z)
	for i := range z.nodes {
		b.checkNode(z, int32(i))
	}
	for i := range z.nsec3 {
		b.checkCovered(&z.nsec3[i].set, z.nsec3[i].key)
	}
	if !b.findings.errors { // denial is judged by what the apex says
		b.checkDenial(z)
	}
}

// checkApex demands one SOA (RFC 1035 5.2) and NS records at the apex (RFC 1034 4.2.1).
func (b *Builder) checkApex(z *Zone) {
	apex := &z.nodes[0]
	soa := apex.get(dns.TypeSOA)
	if soa == nil {
		b.findings.add(Finding{File: b.file(), Owner: z.origin, Rule: "soa", Severity: Error, Detail: "no SOA record at the zone's origin"})
		return
	}
	if apex.get(dns.TypeNS) == nil {
		b.report(b.where(apex.key, dns.TypeSOA), Error, "apex-ns", "no NS records at the zone's origin (RFC 1034 4.2.1)")
	}
	var minimum uint32
	for rdata := range soa.records().All() {
		z.serial, minimum = soaNumbers(rdata)
	}
	z.soa, z.negativeSOA = *soa, *soa
	z.negativeSOA.ttl = min(soa.ttl, minimum)
	z.negativeSOA.sigTTL = min(soa.sigTTL, minimum)
}

func (b *Builder) checkNode(z *Zone, i int32) {
	n := &z.nodes[i]
	for j := range n.sets {
		b.checkSet(z, i, &n.sets[j])
		b.checkCovered(&n.sets[j], n.key)
	}
	if n.cut >= 0 && n.cut != i {
		return // not the zone's own data
	}
	b.checkCNAME(n)
	if i > 0 && n.parent >= 0 && z.nodes[n.parent].get(dns.TypeDNAME) != nil && z.nodes[n.parent].cut < 0 {
		b.reportNode(z, i, Error, "below-dname", "there must be nothing below a DNAME (RFC 6672 2.4)")
	}
	if i > 0 && n.get(dns.TypeDNAME) != nil && n.get(dns.TypeNS) != nil {
		b.report(b.where(n.key, dns.TypeDNAME), Error, "dname-and-ns", "a DNAME beside NS records (RFC 6672 2.3)")
	}
	if ns := n.get(dns.TypeNS); ns != nil {
		b.checkServers(z, i, ns)
	}
	if mx := n.get(dns.TypeMX); mx != nil {
		b.checkExchanges(z, n, mx)
	}
}

// reportNode reports something about a node, and the line of the first record at or below it.
func (b *Builder) reportNode(z *Zone, i int32, severity Severity, rule, detail string) {
	for ; int(i) < len(z.nodes); i++ {
		if n := &z.nodes[i]; len(n.sets) > 0 {
			b.report(b.where(n.key, n.sets[0].typ), severity, rule, detail)
			return
		}
	}
}

// checkSet checks what holds of an RRset wherever it is.
func (b *Builder) checkSet(z *Zone, i int32, s *rrset) {
	n := &z.nodes[i]
	count := s.records().Len()
	wrong := func(severity Severity, rule, detail string) {
		b.report(b.where(n.key, s.typ), severity, rule, detail)
	}
	switch s.typ {
	case dns.TypeSOA:
		if i != 0 && count > 0 {
			wrong(Error, "soa", "a SOA record below the zone's origin")
		} else if count > 1 {
			wrong(Error, "soa", fmt.Sprintf("%d SOA records; a zone has one (RFC 1035 5.2)", count))
		}
	case dns.TypeCNAME, dns.TypeDNAME:
		if count > 1 {
			wrong(Error, "several-"+lowerType(s.typ), fmt.Sprintf("%d %s records at one owner (RFC 2181 10.1, RFC 6672 2.4)",
				count, dns.Type(s.typ)))
		}
		if s.typ == dns.TypeDNAME && isWildcard(n.owner) {
			wrong(Warning, "wildcard-dname", "a DNAME at a wildcard stands for no other name (RFC 6672 3.3, RFC 4592 4.4)")
		}
	case dns.TypeNS:
		if isWildcard(n.owner) {
			wrong(Error, "wildcard-ns", "NS records at a wildcard: what they mean is undefined (RFC 4592 4.2)")
		}
	case dns.TypeNSEC:
		if count > 1 {
			wrong(Error, "several-nsec", "several NSEC records at one owner (RFC 4034 4)")
		}
	}
}

func lowerType(typ uint16) string {
	if typ == dns.TypeCNAME {
		return "cname"
	}
	return "dname"
}

// checkCovered warns of RRSIG records that cover nothing.
func (b *Builder) checkCovered(s *rrset, key []byte) {
	if s.split == 0 {
		b.report(b.where(key, s.typ), Warning, "rrsig-covers-nothing",
			fmt.Sprintf("an RRSIG covers %s, which the owner does not have", dns.Type(s.typ)))
	}
}

// checkCNAME refuses other data beside a CNAME (RFC 1034 3.6.2); RFC 4034 and RFC 2535 say what may be there.
func (b *Builder) checkCNAME(n *node) {
	if n.get(dns.TypeCNAME) == nil {
		return
	}
	for i := range n.sets {
		switch typ := n.sets[i].typ; typ {
		case dns.TypeCNAME, dns.TypeNSEC, dns.TypeRRSIG, dns.TypeKEY, dns.TypeSIG, dns.TypeNXT:
		default:
			if n.sets[i].split > 0 {
				b.report(b.where(n.key, typ), Error, "cname-and-other-data",
					fmt.Sprintf("%s beside a CNAME (RFC 1034 3.6.2)", dns.Type(typ)))
			}
		}
	}
}

// checkServers looks at the names that NS records point at, as far as they are in the zone.
func (b *Builder) checkServers(z *Zone, i int32, ns *rrset) {
	n := &z.nodes[i]
	for rdata := range ns.records().All() {
		server := nameIn(rdata, 0)
		key := appendKey(nil, server)
		if !z.holds(key) {
			continue
		}
		at := z.find(key)
		switch has, alias := z.addresses(at); {
		case alias:
			b.report(b.where(n.key, dns.TypeNS), Error, "ns-at-cname",
				fmt.Sprintf("the server %s is an alias (RFC 2181 10.3)", nameString(server)))
		case has:
		case i > 0 && bytes.HasPrefix(key, n.key):
			b.report(b.where(n.key, dns.TypeNS), Warning, "missing-glue",
				fmt.Sprintf("no address of %s, without which the delegation cannot be followed", nameString(server)))
		default:
			b.report(b.where(n.key, dns.TypeNS), Warning, "ns-without-address",
				fmt.Sprintf("the server %s has no address here", nameString(server)))
		}
	}
}

// checkExchanges warns of mail exchangers that are aliases (RFC 2181 10.3); the mail gets there all the same.
func (b *Builder) checkExchanges(z *Zone, n *node, mx *rrset) {
	for rdata := range mx.records().All() {
		exchange := nameIn(rdata, 2)
		key := appendKey(nil, exchange)
		if !z.holds(key) {
			continue
		}
		if _, alias := z.addresses(z.find(key)); alias {
			b.report(b.where(n.key, dns.TypeMX), Warning, "mx-at-cname",
				fmt.Sprintf("the exchange %s is an alias (RFC 2181 10.3)", nameString(exchange)))
		}
	}
}

// addresses reports whether the name at a position has addresses, directly or by a wildcard, and whether it is an
// alias. Of a name that another zone has, beyond a cut or a DNAME, only the addresses can be judged that are here.
func (z *Zone) addresses(at position) (has, alias bool) {
	n := &z.nodes[at.node]
	if !at.exact && n.cut < 0 {
		if n.get(dns.TypeDNAME) != nil {
			return true, false
		}
		if n.wildcard < 0 {
			return false, false
		}
		n = &z.nodes[n.wildcard]
	} else if !at.exact {
		return false, false
	}
	has = n.get(dns.TypeA) != nil || n.get(dns.TypeAAAA) != nil
	return has, n.cut < 0 && n.get(dns.TypeCNAME) != nil
}
