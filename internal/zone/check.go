package zone

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/miekg/dns"
)

// check looks for what makes a zone unfit to be served, now that all of it is there. What a single record shows has been
// checked before.
func (b *Builder) check(z *Zone) {
	b.checkApex(z)
	b.checkNodes(z)
	for at := z.hashed.first(); z.hashed.has(at); at = z.hashed.next(at) {
		h := hashedOf(z.hashed.item(at))
		if s := z.set(h.set); s.split == 0 {
			b.reportUncovered(appendKey(nil, z.appendHashed(nil, h.hash)), &s)
		}
	}
	if !b.findings.errors { // denial is judged by what the apex says
		b.checkDenial(z)
	}
}

// checkNodes goes over the nodes as they lie in memory, and only if there is something to be found in canonical order, so that
// the findings come in that.
func (b *Builder) checkNodes(z *Zone) {
	before := b.findings
	for n := range z.nodes() {
		b.checkNode(z, &n)
		if b.halted() || len(b.findings.list)+b.findings.left > len(before.list)+before.left {
			break
		}
	}
	if len(b.findings.list)+b.findings.left == len(before.list)+before.left {
		return
	}
	b.findings = before
	for s := z.order.first(); z.order.has(s) && !b.halted(); s = z.order.next(s) {
		n := z.nodeAt(s)
		b.checkNode(z, &n)
	}
}

// checkApex demands one SOA (RFC 1035 5.2) and NS records at the apex (RFC 1034 4.2.1).
func (b *Builder) checkApex(z *Zone) {
	apex := z.apex()
	if !z.has(&apex, dns.TypeSOA) {
		if b.badSOA && b.findings.errors {
			return
		}
		b.findings.add(Finding{File: b.file(), Owner: z.origin, Rule: "soa", Severity: Error, Detail: "no SOA record at the zone's origin"})
		return
	}
	if !z.has(&apex, dns.TypeNS) {
		b.report(b.where(z.key, dns.TypeSOA), Error, "apex-ns", "no NS records at the zone's origin (RFC 1034 4.2.1)")
	}
}

func (b *Builder) checkNode(z *Zone, n *node) {
	for i := range n.count() {
		s := z.at(n, i)
		b.checkSet(z, n, &s)
		if s.split == 0 {
			b.reportUncovered(z.keyOf(n), &s)
		}
	}
	if n.is(isBelowCut) {
		return // not the zone's own data
	}
	b.checkCNAME(z, n)
	if n.ref != z.apexRef {
		if parent := z.parent(n); parent.is(hasDNAME) && parent.authoritative() {
			b.reportAll(b.below(z.keyOf(n)), Error, "below-dname", "there must be nothing below a DNAME (RFC 6672 2.4)")
		}
		if n.is(hasDNAME) && z.has(n, dns.TypeNS) {
			b.report(b.where(z.keyOf(n), dns.TypeDNAME), Error, "dname-and-ns", "a DNAME beside NS records (RFC 6672 2.3)")
		}
	}
	if ns, ok := z.get(n, dns.TypeNS); ok {
		b.checkServers(z, n, &ns)
	}
	if mx, ok := z.get(n, dns.TypeMX); ok {
		b.checkExchanges(z, n, &mx)
	}
}

// reportNode reports something about a node, and the line of the first record at or below it.
func (b *Builder) reportNode(z *Zone, n node, severity Severity, rule, detail string) {
	key := z.keyOf(&n)
	b.report(&b.records[b.from(key)], severity, rule, detail)
}

// checkSet checks what holds of an RRset wherever it is.
func (b *Builder) checkSet(z *Zone, n *node, s *rrset) {
	wrong := func(severity Severity, rule, detail string) {
		b.reportAll(b.ofType(z.keyOf(n), s.typ), severity, rule, detail)
	}
	atWildcard := len(n.label) == 1 && n.label[0] == '*'
	switch s.typ {
	case dns.TypeSOA:
		if count := s.records().Len(); n.ref != z.apexRef && count > 0 {
			wrong(Error, "soa", "a SOA record below the zone's origin")
		} else if count > 1 {
			wrong(Error, "soa", fmt.Sprintf("%d SOA records; a zone has one (RFC 1035 5.2)", count))
		}
	case dns.TypeCNAME, dns.TypeDNAME:
		if count := s.records().Len(); count > 1 {
			wrong(Error, "several-"+lowerType(s.typ), fmt.Sprintf("%d %s records at one owner (RFC 2181 10.1, RFC 6672 2.4)",
				count, dns.Type(s.typ)))
		}
		if s.typ == dns.TypeDNAME && atWildcard {
			wrong(Warning, "wildcard-dname", "a DNAME at a wildcard stands for no other name (RFC 6672 3.3, RFC 4592 4.4)")
		}
	case dns.TypeNS:
		if atWildcard {
			wrong(Error, "wildcard-ns", "NS records at a wildcard: what they mean is undefined (RFC 4592 4.2)")
		}
	case dns.TypeNSEC:
		if s.records().Len() > 1 {
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

// reportUncovered warns of RRSIG records that cover nothing.
func (b *Builder) reportUncovered(key []byte, s *rrset) {
	b.report(b.where(key, s.typ), Warning, "rrsig-covers-nothing",
		fmt.Sprintf("an RRSIG covers %s, which the owner does not have", dns.Type(s.typ)))
}

// checkCNAME refuses other data beside a CNAME (RFC 1034 3.6.2); RFC 4034 and RFC 2535 say what may be there.
func (b *Builder) checkCNAME(z *Zone, n *node) {
	if !n.is(hasCNAME) {
		return
	}
	for i := range n.count() {
		if typ := n.typeAt(i); !besideCNAME(typ) {
			if s := z.at(n, i); s.split > 0 {
				b.reportAll(b.ofType(z.keyOf(n), typ), Error, "cname-and-other-data",
					fmt.Sprintf("%s beside a CNAME (RFC 1034 3.6.2)", dns.Type(typ)))
			}
		}
	}
}

// besideCNAME reports whether records of a type may be beside a CNAME, or are it.
func besideCNAME(typ uint16) bool {
	switch typ {
	case dns.TypeCNAME, dns.TypeNSEC, dns.TypeRRSIG, dns.TypeKEY, dns.TypeSIG, dns.TypeNXT:
		return true
	}
	return false
}

// checkServers looks at the names that NS records point at, as far as they are in the zone.
func (b *Builder) checkServers(z *Zone, n *node, ns *rrset) {
	var at search
	var records []record
	i := -1
	for rdata := range ns.records().All() {
		i++
		if host := ns.target(i); host > unresolved && z.addressed(host) { // were it an alias beside them, that would be refused as such
			continue
		}
		if !at.set(nameIn(rdata, 0)) || !z.holds(&at) {
			continue
		}
		if records == nil { // found once: there may be very many
			records = b.ofType(z.keyOf(n), dns.TypeNS)
		}
		switch has, alias := z.addresses(&at); {
		case alias:
			b.report(&records[i], Warning, "ns-at-cname", // which internal/zonecheck makes an error, unless it is told otherwise
				fmt.Sprintf("the server %s is an alias (RFC 2181 10.3)", nameString(at.name)))
		case has:
		case n.ref != z.apexRef && at.labels >= int(n.labels) && bytes.Equal(appendLower(nil, at.suffix(int(n.labels))), z.appendOwner(nil, *n)):
			b.report(&records[i], Warning, "missing-glue",
				fmt.Sprintf("no address of %s, without which the delegation cannot be followed", nameString(at.name)))
		default:
			b.report(&records[i], Warning, "ns-without-address",
				fmt.Sprintf("the server %s has no address here%s", nameString(at.name), z.dotLacks(nameString(at.name))))
		}
	}
}

// dotLacks asks about a name that ends in the origin twice; it is "" for others.
func (z *Zone) dotLacks(name string) string {
	if z.Origin() == "." || !strings.HasSuffix(strings.ToLower("."+name), "."+strings.ToLower(z.Origin()+z.Origin())) {
		return ""
	}
	return ": does a dot lack at its end in the zone file?"
}

// checkExchanges warns of mail exchangers that are aliases (RFC 2181 10.3); the mail gets there all the same.
func (b *Builder) checkExchanges(z *Zone, n *node, mx *rrset) {
	var at search
	var records []record
	i := -1
	for rdata := range mx.records().All() {
		if i++; !at.set(nameIn(rdata, 2)) || !z.holds(&at) {
			continue
		}
		if _, alias := z.addresses(&at); alias {
			if records == nil {
				records = b.ofType(z.keyOf(n), dns.TypeMX)
			}
			b.report(&records[i], Warning, "mx-at-cname",
				fmt.Sprintf("the exchange %s is an alias (RFC 2181 10.3)", nameString(at.name)))
		}
	}
}

// addresses reports whether a name has addresses, directly or by a wildcard, and whether it is an alias. Of a name that
// another zone has, beyond a cut or a DNAME, only the addresses can be judged that are here.
func (z *Zone) addresses(at *search) (has, alias bool) {
	n, exact := z.locate(at)
	if !exact {
		if !n.authoritative() {
			return false, false
		}
		if n.is(hasDNAME) {
			return true, false
		}
		if n, exact = z.wildcard(&n, at); !exact {
			return false, false
		}
	}
	return z.addressed(n.ref), n.authoritative() && n.is(hasCNAME)
}

// addressed reports whether a node has addresses.
func (z *Zone) addressed(r ref) bool {
	n := z.node(r)
	return z.has(&n, dns.TypeA) || z.has(&n, dns.TypeAAAA)
}
