package zonegen

import (
	"iter"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/miekg/dns"
)

var qtypes = []uint16{dns.TypeA, dns.TypeA, dns.TypeA, dns.TypeAAAA, dns.TypeTXT, dns.TypeTXT, dns.TypeMX, dns.TypeNS, dns.TypeNS, dns.TypeDS, dns.TypeDS,
	dns.TypeCNAME, dns.TypeDNAME, dns.TypeSOA, dns.TypeSRV, 65280, 65281, dns.TypeANY, dns.TypeRRSIG, dns.TypeNSEC,
	dns.TypeNSEC3, dns.TypeDNSKEY, dns.TypeNSEC3PARAM, dns.TypeHTTPS, dns.TypeSVCB, dns.TypeNAPTR, dns.TypePTR, dns.TypeCDS, dns.TypeCSYNC, 66, 10}

var metaTypes = []uint16{0, dns.TypeOPT, dns.TypeTKEY, dns.TypeTSIG, dns.TypeMAILA, dns.TypeMAILB}

// Question makes a random query at, above, below or near an owner of the zone, to be asked by UDP or TCP.
func (z *Zone) Question(r *rand.Rand) (m *dns.Msg, tcp bool) {
	g := &generator{Rand: r, origin: z.Origin, longest: 255}
	m = &dns.Msg{}
	m.Id = uint16(g.IntN(65536))
	m.RecursionDesired = g.IntN(2) == 0
	m.CheckingDisabled = g.IntN(20) == 0
	m.AuthenticatedData = g.IntN(20) == 0
	m.Question = []dns.Question{{Name: g.mixCase(g.questionName(z.owners)), Qtype: qtypes[g.IntN(len(qtypes))], Qclass: dns.ClassINET}}
	if len(z.rare) > 0 && g.IntN(6) == 0 {
		m.Question[0] = z.rare[g.IntN(len(z.rare))]
		m.Question[0].Name = g.mixCase(m.Question[0].Name)
	}
	tcp = g.IntN(4) == 0
	switch g.IntN(200) {
	case 0, 1, 2:
		m.Question[0].Qtype = metaTypes[g.IntN(len(metaTypes))]
	case 3, 4, 5:
		m.Question[0].Qclass = []uint16{dns.ClassCHAOS, dns.ClassHESIOD, dns.ClassANY, dns.ClassNONE, 7}[g.IntN(5)]
	}
	switch g.IntN(12) {
	case 0:
	case 1:
		m.SetEdns0(uint16(g.IntN(600)), true)
	case 2:
		m.SetEdns0(512, true)
	case 3, 4:
		m.SetEdns0(1232, g.IntN(2) == 0)
	default:
		m.SetEdns0(4096, g.IntN(5) > 0)
	}
	if opt := m.IsEdns0(); opt != nil && g.IntN(30) == 0 {
		opt.Option = append(opt.Option, &dns.EDNS0_LOCAL{Code: 65001, Data: []byte("unknown")})
	}
	return m, tcp
}

// questionName is a name to ask for.
func (g *generator) questionName(owners []string) string {
	name := owners[g.IntN(len(owners))]
	switch g.IntN(12) {
	case 0, 1:
		name = g.name(name)
	case 2:
		if name != g.origin {
			name = Above(name)
		}
	case 3:
		if strings.HasPrefix(name, "*.") {
			name = g.name(name[2:])
		}
	case 4:
		name = g.name(g.origin)
	case 5:
		if labels := dns.SplitDomainName(name); name != g.origin && len(labels) > 0 && len(labels[0]) < 60 && !strings.Contains(labels[0], `\`) {
			name = join(labels[0]+[]string{`\000`, "-", "z"}[g.IntN(3)], Above(name))
		}
	case 6:
		if strings.HasPrefix(name, "*.") {
			name = g.label() + name[1:]
		}
	case 7:
		if g.IntN(8) == 0 {
			name = longest(name, 1+g.IntN(63), 255)
		}
	case 8:
		if g.IntN(8) == 0 {
			name = Above(g.origin)
		}
	}
	if octets(name) > 255 {
		return g.origin
	}
	return name
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
		if IsHashed(rr) {
			if hashed++; hashed > 4 {
				continue
			}
		}
		for n := rr.Header().Name; ; n = Above(n) {
			owners = append(owners, n)
			if n == origin {
				break
			}
		}
	}
	slices.Sort(owners)
	return slices.Compact(owners)
}

// IsHashed says whether a record has a hashed owner: NSEC3, and what signs it.
func IsHashed(rr dns.RR) bool {
	sig, signs := rr.(*dns.RRSIG)
	return rr.Header().Rrtype == dns.TypeNSEC3 || signs && sig.TypeCovered == dns.TypeNSEC3
}
