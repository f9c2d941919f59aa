package differential_test

import (
	"fmt"
	"iter"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/miekg/dns"
)

// generator makes a random zone. Labels come from a small pool, so that names meet: wildcards, cuts, aliases and empty
// non-terminals lie above, below and beside one another.
type generator struct {
	*rand.Rand
	origin  string
	lines   []string
	owners  map[string]string // owner to what is there: data, alias, cut, dname
	cuts    []string
	signed  bool
	targets []string // names worth pointing at
}

// oddLabels are such as parsers and comparisons get wrong.
var oddLabels = []string{`\000`, `\000a`, `a\000`, `a\.b`, `\255`, `a\\b`, `A\@b`, "_tcp", "xn--x", strings.Repeat("l", 63)}

func (g *generator) label() string {
	if g.IntN(12) == 0 {
		return oddLabels[g.IntN(len(oddLabels))]
	}
	return string("abcdeFG"[g.IntN(7)])
}

// name makes a random name of one to four labels below a name.
func (g *generator) name(below string) string {
	for range 1 + min(g.IntN(4), g.IntN(4)) {
		if longer := g.label() + "." + below; len(longer) < 200 {
			below = longer
		}
	}
	return below
}

// add adds a record. The TTL depends on the owner only, so that all of an RRset have the same (RFC 2181 5.2).
func (g *generator) add(owner string, format string, args ...any) {
	ttl := 100 + 100*(len(owner)%5)
	g.lines = append(g.lines, fmt.Sprintf("%s %d IN %s", owner, ttl, fmt.Sprintf(format, args...)))
}

// generate makes the text of a zone of some forty owners.
func generate(seed uint64, origin string, signed bool) *generator {
	g := &generator{Rand: rand.New(rand.NewPCG(seed, 53)), origin: origin, owners: map[string]string{}, signed: signed}
	g.lines = append(g.lines, fmt.Sprintf("%s %d IN SOA ns.%s Mail.%s %d 3600 600 86400 %d", origin, 60+g.IntN(2)*600, origin, origin, g.IntN(2), 300))
	g.add(origin, "NS ns.%s", origin)
	g.add(origin, "NS ns.outside.test.")
	if g.IntN(2) == 0 {
		g.add(origin, "MX 10 ns.%s", origin)
	}
	g.owners[origin] = "data"
	g.place("ns."+origin, func(o string) { g.addresses(o); g.owners[o] = "data" })
	if g.IntN(8) == 0 {
		return g // a zone of almost nothing
	}
	for range 10 + g.IntN(30) {
		g.randomOwner()
	}
	return g
}

// randomOwner adds an owner with records of one kind.
func (g *generator) randomOwner() {
	owner := g.name(g.origin)
	if len(g.targets) > 0 && g.IntN(3) == 0 {
		owner = g.name(g.targets[g.IntN(len(g.targets))])
	}
	wildcard := g.IntN(5) == 0
	if wildcard {
		owner = "*." + owner
	}
	switch n := g.IntN(20); {
	case n < 11:
		g.place(owner, g.data)
	case n < 15:
		g.place(owner, g.alias)
	case n < 18 && !wildcard:
		g.place(owner, g.cut)
	case n == 18 && !wildcard:
		g.place(owner, g.dname)
	}
}

// place adds at an owner that has nothing yet and no DNAME above, and says what is worth pointing at.
func (g *generator) place(owner string, add func(string)) {
	key := strings.ToLower(owner)
	if g.owners[key] != "" {
		return
	}
	for n := key; n != g.origin; n = above(n) {
		if g.owners[above(n)] == "dname" {
			return
		}
	}
	add(owner)
	g.targets = append(g.targets, owner)
}

func above(name string) string {
	i, _ := dns.NextLabel(name, 0)
	return name[i:]
}

func (g *generator) addresses(owner string) {
	g.add(owner, "A 192.0.2.%d", g.IntN(256))
	if g.IntN(2) == 0 {
		g.add(owner, "AAAA 2001:db8::%x", g.IntN(65536))
	}
}

func (g *generator) data(owner string) {
	g.owners[strings.ToLower(owner)] = "data"
	for range 1 + g.IntN(3) {
		switch g.IntN(6) {
		case 0, 1:
			g.add(owner, "A 192.0.2.%d", g.IntN(256))
		case 2:
			for range 1 + g.IntN(4) {
				g.add(owner, "TXT %q %q", strings.Repeat("t", g.IntN(250)), "Case")
			}
		case 3:
			g.add(owner, "MX 5 %s", g.target())
		case 4:
			g.add(owner, "SRV 1 2 3 %s", g.target())
		case 5:
			g.add(owner, "TYPE65280 \\# 2 %04x", g.IntN(65536))
		}
	}
}

// target is a name to point at: there, not there, below something, or elsewhere.
func (g *generator) target() string {
	switch g.IntN(6) {
	case 0:
		return g.name(g.origin)
	case 1:
		return "host.outside.test."
	}
	t := g.targets[g.IntN(len(g.targets))]
	if g.IntN(4) == 0 {
		t = g.label() + "." + t
	}
	if strings.HasPrefix(t, "*.") && g.IntN(2) == 0 {
		t = g.label() + t[1:]
	}
	return t
}

func (g *generator) alias(owner string) {
	g.owners[strings.ToLower(owner)] = "alias"
	if g.IntN(10) == 0 {
		g.add(owner, "CNAME %s", owner)
		return
	}
	g.add(owner, "CNAME %s", g.target())
}

func (g *generator) dname(owner string) {
	for o := range g.owners {
		if strings.HasSuffix(o, "."+strings.ToLower(owner)) {
			return
		}
	}
	g.owners[strings.ToLower(owner)] = "dname"
	to := g.target()
	if g.IntN(6) == 0 {
		to = strings.Repeat(strings.Repeat("y", 60)+".", 3) + g.origin
	}
	g.add(owner, "DNAME %s", to)
	if g.IntN(2) == 0 {
		g.add(owner, "TXT \"beside\"")
	}
}

// cut delegates: to servers below, beside, above and elsewhere, with addresses and with other data that does not count.
func (g *generator) cut(owner string) {
	g.owners[strings.ToLower(owner)] = "cut"
	for i := range 1 + g.IntN(3) {
		switch server := fmt.Sprintf("ns%d.%s", i, owner); g.IntN(5) {
		case 0, 1:
			g.add(owner, "NS %s", server)
			g.addresses(server)
		case 2:
			if len(g.cuts) > 0 {
				g.add(owner, "NS ns0.%s", g.cuts[g.IntN(len(g.cuts))])
			}
		case 3:
			g.add(owner, "NS ns.%s", g.origin)
		}
	}
	g.add(owner, "NS ns.outside.test.")
	if g.signed && g.IntN(2) == 0 {
		g.add(owner, "DS 1 13 2 %064x", g.Uint64())
	}
	if g.IntN(4) == 0 {
		g.add(owner, "TXT \"not authoritative\"")
	}
	g.cuts = append(g.cuts, owner)
}

var qtypes = []uint16{dns.TypeA, dns.TypeA, dns.TypeA, dns.TypeAAAA, dns.TypeTXT, dns.TypeTXT, dns.TypeMX, dns.TypeNS, dns.TypeNS, dns.TypeDS, dns.TypeDS,
	dns.TypeCNAME, dns.TypeDNAME, dns.TypeSOA, dns.TypeSRV, 65280, 65281, dns.TypeANY, dns.TypeRRSIG, dns.TypeNSEC,
	dns.TypeNSEC3, dns.TypeDNSKEY, dns.TypeNSEC3PARAM}

// query makes a random query at, above, below or near an owner of the zone.
func (g *generator) query(owners []string) *dns.Msg {
	name := owners[g.IntN(len(owners))]
	switch g.IntN(10) {
	case 0, 1:
		name = g.name(name)
	case 2:
		if name != g.origin {
			name = above(name)
		}
	case 3:
		if strings.HasPrefix(name, "*.") {
			name = g.name(name[2:])
		}
	case 4:
		name = g.name(g.origin)
	case 5:
		if labels := dns.SplitDomainName(name); name != g.origin && len(labels[0]) < 60 && !strings.Contains(labels[0], `\`) {
			name = labels[0] + []string{`\000`, "-", "z"}[g.IntN(3)] + "." + above(name)
		}
	case 6:
		if strings.HasPrefix(name, "*.") {
			name = g.label() + name[1:]
		}
	}
	if len(name) > 230 {
		name = g.origin
	}
	m := &dns.Msg{}
	m.Id = uint16(g.IntN(65536))
	m.RecursionDesired = g.IntN(2) == 0
	m.Question = []dns.Question{{Name: g.mixCase(name), Qtype: qtypes[g.IntN(len(qtypes))], Qclass: dns.ClassINET}}
	switch g.IntN(10) {
	case 0:
	case 1:
		m.SetEdns0(512, true)
	case 2:
		m.SetEdns0(1232, g.IntN(2) == 0)
	default:
		m.SetEdns0(4096, g.IntN(5) > 0)
	}
	return m
}

func (g *generator) mixCase(name string) string {
	if g.IntN(2) == 0 {
		return name
	}
	b := []byte(name)
	for i, c := range b {
		if 'a' <= c && c <= 'z' && g.IntN(2) == 0 {
			b[i] = c - 32
		}
	}
	return string(b)
}

// ownersOf lists every owner of a zone's records, and the names between them and the origin; of NSEC3 records a few, lest
// most queries be about them.
func ownersOf(origin string, records iter.Seq[dns.RR]) []string {
	var owners []string
	hashed := 0
	for rr := range records {
		if isHashed(rr) {
			if hashed++; hashed > 4 {
				continue
			}
		}
		for n := rr.Header().Name; ; n = above(n) {
			owners = append(owners, n)
			if n == origin {
				break
			}
		}
	}
	slices.Sort(owners)
	return slices.Compact(owners)
}

func isHashed(rr dns.RR) bool {
	sig, signs := rr.(*dns.RRSIG)
	return rr.Header().Rrtype == dns.TypeNSEC3 || signs && sig.TypeCovered == dns.TypeNSEC3
}
