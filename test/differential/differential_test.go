// Package differential_test compares the answers of internal/zone with those of NSD, Knot and BIND over random zones,
// unsigned and signed in three ways, and random questions. Where the three agree and we differ, a deviation with its RFC
// section must say why; where they differ among themselves, the majority counts.
package differential_test

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
	"github.com/coredns-anycast/coredns-anycast/internal/zone"
	"github.com/coredns-anycast/coredns-anycast/internal/zonefile"
)

var (
	seed            = flag.Uint64("seed", 2026, "of the random zones and queries")
	zonesPerFlavour = flag.Int("zones", 25, "zones of each flavour")
	queriesPerZone  = flag.Int("queries", 100, "queries of each zone")
)

var flavours = []string{"unsigned", "nsec", "nsec3", "optout"}

// testZone is a zone, as the peers load it and as we do.
type testZone struct {
	zoneFile
	flavour string
	gen     *generator
	zone    *zone.Zone
	owners  []string
}

func TestAnswersAsOthersDo(t *testing.T) {
	zones := makeZones(t)
	var files []zoneFile
	var ours []*zone.Zone
	owners := map[string]bool{}
	for _, z := range zones {
		files, ours = append(files, z.zoneFile), append(ours, z.zone)
		for rr := range z.zone.Records() {
			owners[rr.Header().Name] = true
		}
	}
	set, err := zone.NewZones(ours...)
	if err != nil {
		t.Fatal(err)
	}
	peers := startPeers(t, files)
	for _, flavour := range flavours {
		t.Run(flavour, func(t *testing.T) {
			c := comparison{t: t, peers: peers, zones: set, owners: owners, explained: map[string]int{}}
			for _, z := range zones {
				for range *queriesPerZone {
					if z.flavour == flavour {
						c.compare(z.gen.query(z.owners))
					}
				}
			}
			c.report()
		})
	}
}

// makeZones makes and signs the zones of all flavours.
func makeZones(t *testing.T) []testZone {
	dir := t.TempDir()
	var zones []testZone
	for f, flavour := range flavours {
		for i := range *zonesPerFlavour {
			origin := fmt.Sprintf("z%d.%s.test.", i, flavour)
			path := filepath.Join(dir, origin+"zone")
			g := generate(*seed+uint64(f*1000+i), origin, flavour != "unsigned")
			if err := os.WriteFile(path, []byte(strings.Join(g.lines, "\n")+"\n"), 0o644); err != nil {
				t.Fatal(err)
			}
			if flavour != "unsigned" {
				path = sign(t, dir, origin, path, flavour)
			}
			zones = append(zones, load(t, testZone{zoneFile: zoneFile{origin, path}, flavour: flavour, gen: g}))
		}
	}
	return zones
}

// sign signs a zone with BIND's tools and returns the signed file.
func sign(t *testing.T, dir, origin, path, flavour string) string {
	tools := testenv.Need(t, "dnssec-keygen", "dnssec-signzone")
	key := command(t, dir, tools[0], "-q", "-a", "ECDSAP256SHA256", "-f", "KSK", origin)
	args := []string{"-q", "-P", "-z", "-S", "-O", "full", "-o", origin, "-f", path + ".signed"}
	switch flavour {
	case "nsec3":
		args = append(args, "-3", "ABCD", "-H", "0")
	case "optout":
		args = append(args, "-3", "-", "-H", "1", "-A")
	}
	command(t, dir, tools[1], append(args, path, strings.TrimSpace(key))...)
	return path + ".signed"
}

func command(t *testing.T, dir, name string, args ...string) string {
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	out, err := cmd.Output()
	if err != nil {
		detail := ""
		if exit, ok := err.(*exec.ExitError); ok {
			detail = string(exit.Stderr)
		}
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, detail)
	}
	return string(out)
}

func load(t *testing.T, z testZone) testZone {
	f, err := os.Open(z.path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var found []zone.Finding
	z.zone, found = zonefile.Parse(f, zonefile.Options{File: z.path})
	if z.zone == nil {
		t.Fatalf("the generated zone %s is refused: %v\n%s", z.origin, found, strings.Join(z.gen.lines, "\n"))
	}
	z.owners = ownersOf(z.origin, z.zone.Records())
	return z
}

// comparison compares answers and counts.
type comparison struct {
	t      *testing.T
	peers  []*peer
	zones  *zone.Zones
	owners map[string]bool // of all records

	queries, disagree, minority int
	explained                   map[string]int
	failed                      int
}

func (c *comparison) compare(q *dns.Msg) {
	c.queries++
	ours := c.answer(q)
	var theirs []*dns.Msg
	for _, p := range c.peers {
		m, err := p.ask(q, 5*time.Second)
		if err != nil {
			c.t.Fatalf("%s: %v: %v", p.name, q.Question, err)
		}
		theirs = append(theirs, m)
	}
	small := q.IsEdns0() == nil || q.IsEdns0().UDPSize() < 4096
	var forms []string
	for _, m := range theirs {
		forms = append(forms, normal(m, small))
	}
	best, votes := majority(forms)
	if votes < len(theirs) {
		c.disagree++
	}
	mine := normal(ours, small)
	if mine == forms[best] {
		return
	}
	for _, d := range deviations {
		if d.applies(c, q, ours, theirs) {
			c.explained[d.rfc]++
			return
		}
	}
	if votes < 2 || slices.Contains(forms, mine) {
		c.minority++
		c.t.Logf("not as the majority, if there is one: %s", describe(q, mine, forms, c.peers))
		return
	}
	if c.failed++; c.failed <= 10 {
		c.t.Errorf("%s", describe(q, mine, forms, c.peers))
	}
}

// answer is our answer to a query as it would come by UDP.
func (c *comparison) answer(q *dns.Msg) *dns.Msg {
	size := dns.MinMsgSize
	if opt := q.IsEdns0(); opt != nil {
		size = max(size, int(opt.UDPSize()))
	}
	a := c.lookup(q)
	m := a.Msg(q, size)
	if opt := q.IsEdns0(); opt != nil {
		m.Extra = append(m.Extra, opt)
	}
	wire, err := m.Pack()
	if err != nil || len(wire) > size {
		c.t.Fatalf("%v: response of %d octets, of at most %d: %v", q.Question, len(wire), size, err)
	}
	back := new(dns.Msg)
	if err := back.Unpack(wire); err != nil {
		c.t.Fatal(err)
	}
	c.samePacket(q, &a, back, size)
	return back
}

// samePacket checks that the packet that Answer.AppendTo makes says what Msg says; it may have room for more.
func (c *comparison) samePacket(q *dns.Msg, a *zone.Answer, msg *dns.Msg, size int) {
	r := zone.Request{Query: c.query(q), ID: q.Id, RecursionDesired: q.RecursionDesired}
	if opt := q.IsEdns0(); opt != nil {
		r.OPT = make([]byte, dns.Len(opt))
		if _, err := dns.PackRR(opt, r.OPT, 0, nil, false); err != nil {
			c.t.Fatal(err)
		}
	}
	wire, _ := a.AppendTo(nil, &r, size)
	packet := new(dns.Msg)
	if err := packet.Unpack(wire); err != nil || len(wire) > size {
		c.t.Fatalf("%v: packet of %d octets, of at most %d: %v", q.Question, len(wire), size, err)
	}
	if got, want := normal(packet, false), normal(msg, false); got != want && !msg.Truncated && len(packet.Extra) <= len(msg.Extra) {
		c.t.Errorf("%v: AppendTo makes\n%s\nMsg\n%s", q.Question, got, want)
	}
}

func (c *comparison) lookup(q *dns.Msg) zone.Answer { return c.zones.Lookup(c.query(q)) }

func (c *comparison) query(q *dns.Msg) zone.Query {
	name := make([]byte, 256)
	n, err := dns.PackDomainName(q.Question[0].Name, name, 0, nil, false)
	if err != nil {
		c.t.Fatal(err)
	}
	opt := q.IsEdns0()
	return zone.Query{Name: name[:n], Type: q.Question[0].Qtype, Class: q.Question[0].Qclass, DO: opt != nil && opt.Do()}
}

func majority(forms []string) (best, votes int) {
	for i := range forms {
		n := 0
		for j := range forms {
			if forms[i] == forms[j] {
				n++
			}
		}
		if n > votes {
			best, votes = i, n
		}
	}
	return best, votes
}

// normal writes down what has to be equal in two responses: rcode, AA, TC, and the sections as sets. Names are compared
// without regard to case (RFC 4343), which compression may change. What servers are free to do is left out:
//   - the zone's own NS records in the authority section of an answer, and the addresses that these bring along (RFC
//     1034 4.3.2 does not ask for them)
//   - of a truncated response the sections (RFC 2181 9: the client disregards them)
//   - of one that is short of room, the additional section (RFC 2181 9, RFC 9471 2.2)
//   - the RRSIGs of additional addresses (RFC 4035 3.1.1: they may be left out)
func normal(m *dns.Msg, small bool) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s aa=%v tc=%v ra=%v ad=%v\n", dns.RcodeToString[m.Rcode], m.Authoritative, m.Truncated, m.RecursionAvailable, m.AuthenticatedData)
	if m.Truncated {
		return b.String()
	}
	authority, additional := m.Ns, m.Extra
	if m.Authoritative && slices.ContainsFunc(authority, isApexNS) {
		authority = slices.DeleteFunc(slices.Clone(authority), isApexNS)
		additional = slices.DeleteFunc(slices.Clone(additional), func(rr dns.RR) bool {
			return !namedIn(m.Answer, rr.Header().Name) && !namedIn(authority, rr.Header().Name)
		})
	}
	sections := [][]dns.RR{m.Answer, authority, additional}
	if small {
		sections = sections[:2]
	}
	for i, section := range sections {
		var lines []string
		for _, rr := range section {
			if rr.Header().Rrtype == dns.TypeOPT || i == 2 && rr.Header().Rrtype == dns.TypeRRSIG {
				continue
			}
			lines = append(lines, fmt.Sprintf("  %s %s\n", [3]string{"answer", "authority", "additional"}[i], strings.ToLower(rr.String())))
		}
		slices.Sort(lines)
		b.WriteString(strings.Join(slices.Compact(lines), ""))
	}
	return b.String()
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
		}
		return false
	})
}

// isApexNS reports whether a record is, or signs, the NS records of one of the test's zones.
func isApexNS(rr dns.RR) bool {
	sig, signs := rr.(*dns.RRSIG)
	return dns.CountLabel(rr.Header().Name) == 3 && (rr.Header().Rrtype == dns.TypeNS || signs && sig.TypeCovered == dns.TypeNS)
}

func describe(q *dns.Msg, mine string, forms []string, peers []*peer) string {
	var b strings.Builder
	question := q.Question[0]
	fmt.Fprintf(&b, "%s %s", question.Name, dns.Type(question.Qtype))
	if opt := q.IsEdns0(); opt != nil {
		fmt.Fprintf(&b, " size %d do=%v", opt.UDPSize(), opt.Do())
	}
	fmt.Fprintf(&b, "\nours: %s", mine)
	for i, p := range peers {
		if slices.Index(forms, forms[i]) == i {
			fmt.Fprintf(&b, "%s: %s", p.name, forms[i])
		} else {
			fmt.Fprintf(&b, "%s: as %s\n", p.name, peers[slices.Index(forms, forms[i])].name)
		}
	}
	return b.String()
}

func (c *comparison) report() {
	c.t.Logf("%d queries; the peers differ among themselves in %d; there is no majority, or it differs from us and one peer, in %d; deviations that we mean: %v; unexplained: %d",
		c.queries, c.disagree, c.minority, c.explained, c.failed)
	if c.queries < 2000 {
		c.t.Errorf("only %d queries", c.queries)
	}
}
