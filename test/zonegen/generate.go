// Package zonegen makes up zones, unsigned and signed in three ways, and questions about them, for test/differential, which asks
// other servers as well, and for the test that compares the paths of sharedunicast. A seed tells the zones.
package zonegen

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"

	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/rdatatest"
)

// A Source is a zone before it is signed: what a reproduction shrinks.
type Source struct {
	Origin string
	Lines  []string // a record each, the SOA first
	Recipe Recipe
}

// Text is the zone as a file.
func (s *Source) Text() string { return strings.Join(s.Lines, "\n") + "\n" }

// Generate makes the zones that the servers have at one time, all of one flavour: some have zones below them that are
// served too, delegated to or not, and one time in four there is the root.
func Generate(seed uint64, flavour string, count int) []Source {
	r := rand.New(rand.NewPCG(seed, 53))
	root := r.IntN(4) == 0
	var zones []Source
	add := func(g *generator) {
		recipe := newRecipe(r, flavour)
		if g.owners[canonical(g.origin)] == "dname" {
			recipe.second = false // which Knot takes for names below the DNAME
		}
		zones = append(zones, Source{g.origin, g.lines, recipe})
	}
	for i := 0; len(zones) < count; i++ {
		g := newGenerator(r, fmt.Sprintf("z%d.%s", i, []string{"test.", "test.", "a.test.", "z0.test."}[r.IntN(4)]), flavour)
		var below []*generator
		for parent := g; r.IntN(4) == 0 && len(zones)+len(below) < count-1; {
			child := newGenerator(r, parent.plainName(parent.origin), flavour)
			for _, g := range append(below, g) {
				g.below = append(g.below, child.origin)
			}
			if r.IntN(5) > 0 {
				parent.delegate(child.origin)
			} else {
				parent.owners[canonical(child.origin)] = "zone"
			}
			below = append(below, child)
			parent = child
		}
		for _, g := range append([]*generator{g}, below...) {
			g.fill(!root && len(below) == 0 && g.origin != "z0.test.")
			add(g)
		}
	}
	if root {
		g := newGenerator(r, ".", flavour)
		for _, z := range zones {
			g.below = append(g.below, z.Origin)
		}
		for _, z := range zones {
			served := func(s Source) bool { return s.Origin != z.Origin && dns.IsSubDomain(s.Origin, z.Origin) }
			if r.IntN(4) == 0 && !slices.ContainsFunc(zones, served) {
				g.delegate(z.Origin)
			}
		}
		g.fill(false)
		zones[count-1] = Source{g.origin, g.lines, newRecipe(r, flavour)}
	}
	slices.SortFunc(zones, func(a, b Source) int { return strings.Compare(a.Origin, b.Origin) })
	return slices.CompactFunc(zones, func(a, b Source) bool { return strings.EqualFold(a.Origin, b.Origin) })
}

// generator makes a random zone. Labels come from a small pool, so that names meet: wildcards, cuts, aliases and empty
// non-terminals lie above, below and beside one another.
type generator struct {
	*rand.Rand
	origin  string
	lines   []string
	owners  map[string]string // owner to what is there: data, alias, cut, dname
	cuts    []string
	signed  bool
	below   []string // origins of zones below this one, below which this one adds nothing but glue
	longest int      // octets of a name
	targets []string // names worth pointing at
}

// oddLabels are such as parsers and comparisons get wrong.
var oddLabels = []string{`\000`, `\000a`, `a\000`, `a\.b`, `\255`, `a\\b`, `A\@b`, `\*`, "*", "*a", `\009`, `\"`, "_tcp", "xn--x", "-",
	strings.Repeat("l", 63), strings.Repeat(`\200`, 63)}

func (g *generator) label() string {
	if g.IntN(12) == 0 {
		return oddLabels[g.IntN(len(oddLabels))]
	}
	return string("abcdeFG"[g.IntN(7)])
}

// name makes a random name of one to four labels below a name; rarely the longest one that there is.
func (g *generator) name(below string) string {
	if g.IntN(60) == 0 {
		return longest(below, []int{63, 1, 20}[g.IntN(3)], g.longest)
	}
	for range 1 + min(g.IntN(4), g.IntN(4)) {
		if longer := join(g.label(), below); octets(longer) < 200 {
			below = longer
		}
	}
	return below
}

// plainName makes a name that needs no quoting in configuration files, and that no command takes for an option.
func (g *generator) plainName(below string) string {
	for {
		if name := g.name(below); octets(name) < 200 && !strings.ContainsAny(name, `\*"@`) && name[0] != '-' {
			return name
		}
	}
}

// longest makes a name of so many octets below a name, of labels of at most label octets.
func longest(below string, label, length int) string {
	for {
		room := length - octets(below) - 1
		if room < 1 {
			return below
		}
		n := min(label, room)
		if room-n == 1 { // which no label could fill
			n--
		}
		if n == 0 {
			return below
		}
		below = join(strings.Repeat("y", n), below)
	}
}

func join(label, below string) string {
	if below == "." {
		return label + "."
	}
	return label + "." + below
}

// octets is the length of a name in wire format, 256 if it is not valid.
func octets(name string) int {
	var room [256]byte
	n, err := dns.PackDomainName(name, room[:], 0, nil, false)
	if err != nil || n > 255 {
		return 256
	}
	return n
}

// Above is the name without its first label, and the root at the root.
func Above(name string) string {
	if i, end := dns.NextLabel(name, 0); !end {
		return name[i:]
	}
	return "."
}

// add adds a record. The TTL depends on owner and type only, so that all of an RRset have the same (RFC 2181 5.2).
func (g *generator) add(owner string, format string, args ...any) {
	line := fmt.Sprintf(format, args...)
	typ, _, _ := strings.Cut(line, " ")
	number, known := dns.StringToType[typ]
	if generic, err := strconv.ParseUint(strings.TrimPrefix(typ, "TYPE"), 10, 16); !known && err == nil {
		number = uint16(generic)
	}
	// One TTL for an RRset, however its records are written (RFC 2181 5.2). BIND's signer gives RRSIGs no more.
	ttl := []int{0, 60, 100, 300, 4000, 2592000}[(len(canonical(owner))+int(number))%6]
	g.lines = append(g.lines, fmt.Sprintf("%s %d IN %s", owner, ttl, line))
}

// newGenerator makes a zone of an apex alone.
func newGenerator(r *rand.Rand, origin, flavour string) *generator {
	g := &generator{Rand: r, origin: origin, owners: map[string]string{}, signed: flavour != "unsigned", longest: 255}
	if flavour == "nsec3" || flavour == "optout" {
		g.longest -= 2 // BIND's signer puts an asterisk before each name
	}
	g.lines = append(g.lines, fmt.Sprintf("%s %d IN SOA %s %s %d 3600 600 86400 %d", origin, 60+g.IntN(2)*600, join("ns", origin), join("Mail", origin), g.IntN(2), 300))
	g.add(origin, "NS ns.outside.test.")
	if origin == "." { // where BIND wants an address
		g.place("ns.outside.test.", g.addresses)
	}
	if g.IntN(2) == 0 {
		g.add(origin, "MX 10 %s", join("ns", origin))
	}
	g.owners[strings.ToLower(origin)] = "data"
	return g
}

// fill adds some forty owners, or a DNAME at the apex now and then, if no zone is below or above this one.
func (g *generator) fill(leaf bool) {
	if leaf && g.IntN(15) == 0 {
		g.owners[strings.ToLower(g.origin)] = "dname"
		g.targets = []string{"a.z1.test.", "z2.test."}
		g.add(g.origin, "DNAME %s", g.target())
		return
	}
	g.add(g.origin, "NS %s", join("ns", g.origin))
	g.place(join("ns", g.origin), func(o string) { g.addresses(o); g.owners[strings.ToLower(o)] = "data" })
	if g.IntN(8) == 0 {
		return // a zone of almost nothing
	}
	for range 10 + g.IntN(30) {
		g.randomOwner()
	}
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
	if octets(owner) > g.longest {
		return
	}
	wildcard = wildcard || strings.HasPrefix(owner, "*.") || strings.HasPrefix(owner, `\*.`)
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
	key := canonical(owner)
	isBelow := func(child string) bool { return dns.IsSubDomain(child, owner) && !strings.EqualFold(child, owner) }
	if g.owners[key] != "" || !dns.IsSubDomain(g.origin, owner) || slices.ContainsFunc(g.below, isBelow) {
		return
	}
	for n := key; n != canonical(g.origin); n = Above(n) {
		if g.owners[Above(n)] == "dname" {
			return
		}
	}
	add(owner)
	g.targets = append(g.targets, owner)
}

// canonical is the name in one spelling, lower case.
func canonical(name string) string {
	var room [256]byte
	n, err := dns.PackDomainName(name, room[:], 0, nil, false)
	if err != nil {
		return name
	}
	plain, _, err := dns.UnpackDomainName(room[:n], 0)
	if err != nil {
		return name
	}
	return strings.ToLower(plain)
}

func (g *generator) addresses(owner string) {
	g.add(owner, "A 192.0.2.%d", g.IntN(256))
	if g.IntN(2) == 0 {
		g.add(owner, "AAAA 2001:db8::%x", g.IntN(65536))
	}
}

func (g *generator) data(owner string) {
	g.owners[canonical(owner)] = "data"
	for range 1 + g.IntN(3) {
		switch g.IntN(8) {
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
		case 6:
			g.add(owner, "AAAA 2001:db8::%x", g.IntN(65536))
		case 7:
			g.rare(owner)
		}
	}
}

// rare adds a record of a type that is rarely seen: with random RDATA of any type, or with names that are worth following.
func (g *generator) rare(owner string) {
	switch g.IntN(24) {
	case 0:
		g.add(owner, "PTR %s", g.target())
	case 1:
		g.exact(owner, `NAPTR 1 1 "s" "x" "" %s`, g.target())
	case 2:
		g.add(owner, "SVCB 1 %s", g.target())
	case 3:
		g.add(owner, "HTTPS 0 %s", g.target())
	case 4:
		g.exact(owner, "RP %s %s", g.target(), g.target())
	case 5:
		g.add(owner, "AFSDB 1 %s", g.target())
	case 6:
		g.exact(owner, "KX 1 %s", g.target())
	case 7:
		g.add(owner, "HTTPS 1 . alpn=h2")
	case 8:
		g.add(owner, "CDS 0 0 0 00")
	default:
		typ := rareTypes[g.IntN(len(rareTypes))]
		octets := rdatatest.Random(g.Rand, typ)
		g.add(owner, "TYPE%d \\# %d %X", typ, len(octets), octets)
	}
}

// exact adds a record of a rare type in the generic form.
func (g *generator) exact(owner string, format string, args ...any) {
	rr, err := dns.NewRR(". 0 IN " + fmt.Sprintf(format, args...))
	if err != nil {
		panic(err)
	}
	var room [4096]byte
	end, err := dns.PackRR(rr, room[:], 0, nil, false)
	if err != nil {
		panic(err)
	}
	g.add(owner, "TYPE%d \\# %d %X", rr.Header().Rrtype, end-11, room[11:end])
}

// target is a name to point at: there, not there, below something, in another zone, or elsewhere.
func (g *generator) target() string {
	switch g.IntN(8) {
	case 0:
		return g.name(g.origin)
	case 1:
		return "host.outside.test."
	case 2:
		return g.name(fmt.Sprintf("z%d.test.", g.IntN(20)))
	}
	if len(g.targets) == 0 {
		return g.origin
	}
	t := g.targets[g.IntN(len(g.targets))]
	if g.IntN(4) == 0 && octets(t) < 240 {
		t = join(g.label(), t)
	}
	if strings.HasPrefix(t, "*.") && g.IntN(2) == 0 {
		t = g.label() + t[1:]
	}
	if octets(t) > 255 {
		return g.origin
	}
	return t
}

func (g *generator) alias(owner string) {
	g.owners[canonical(owner)] = "alias"
	if g.IntN(10) == 0 {
		g.add(owner, "CNAME %s", owner)
		return
	}
	g.add(owner, "CNAME %s", g.target())
}

func (g *generator) dname(owner string) {
	key := canonical(owner)
	for o, what := range g.owners {
		if strings.HasSuffix(o, "."+key) || (what == "zone" || what == "cut") && strings.HasSuffix(key, "."+o) {
			return
		}
	}
	g.owners[key] = "dname"
	to := g.target()
	if g.IntN(6) == 0 && octets(g.origin) < 60 {
		to = g.origin
		for range 3 {
			to = join(strings.Repeat("y", 60), to)
		}
	}
	g.add(owner, "DNAME %s", to)
	if g.IntN(2) == 0 {
		g.add(owner, "TXT \"beside\"")
	}
}

// cut delegates: to servers below, beside, above and elsewhere, with addresses and with other data that does not count.
func (g *generator) cut(owner string) {
	g.owners[canonical(owner)] = "cut"
	for i := range 1 + g.IntN(3) {
		switch server := fmt.Sprintf("ns%d.%s", i, owner); g.IntN(6) {
		case 0, 1:
			if octets(server) <= g.longest {
				g.add(owner, "NS %s", server)
				g.addresses(server)
			}
		case 2:
			if len(g.cuts) > 0 {
				g.add(owner, "NS %s", "ns0."+g.cuts[g.IntN(len(g.cuts))])
			}
		case 3:
			g.add(owner, "NS %s", join("ns", g.origin))
		case 4:
			g.add(owner, "NS %s", owner) // glue at the cut itself
			g.addresses(owner)
		}
	}
	g.add(owner, "NS ns.outside.test.")
	if g.signed && g.IntN(2) == 0 {
		g.add(owner, "DS 1 13 2 %064x", g.Uint64())
	}
	if g.IntN(4) == 0 {
		g.add(owner, "TXT \"not authoritative\"")
	}
	if octets(owner) <= 250 {
		g.cuts = append(g.cuts, owner)
	}
}

// delegate makes a cut at a zone that is served too.
func (g *generator) delegate(child string) { g.place(child, g.cut) }
