package zone_test

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
	"github.com/coredns-anycast/coredns-anycast/internal/zone"
	"github.com/coredns-anycast/coredns-anycast/internal/zonefile"
)

func parse(t testing.TB, text string) *zone.Zone {
	t.Helper()
	z, found := zonefile.Parse(strings.NewReader(text), zonefile.Options{})
	if z == nil {
		t.Fatal(found)
	}
	return z
}

const small = `$TTL 300
example. SOA ns mail 0 1 1 1 60
example. NS ns
Z.a A 192.0.2.3
a A 192.0.2.2
*.z A 192.0.2.5
\001.z A 192.0.2.4
\200.z A 192.0.2.6
yljkjljk.a A 192.0.2.1
ns AAAA 2001:db8::1
ns A 192.0.2.7
ns TXT "Case"
`

func TestRecordsAreInCanonicalOrderTheSOAFirst(t *testing.T) {
	var got []string
	for rr := range parse(t, small).Records() {
		got = append(got, rr.Header().Name+" "+dns.Type(rr.Header().Rrtype).String())
	}
	want := []string{"example. SOA", "example. NS", "a.example. A", "yljkjljk.a.example. A", "z.a.example. A", "ns.example. A",
		"ns.example. TXT", "ns.example. AAAA", `\001.z.example. A`, "*.z.example. A", `\200.z.example. A`} // RFC 4034 6.1
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

// TestOctetsThatKeysEscape: names with the octets 0 and 1 are other names, and in order.
func TestOctetsThatKeysEscape(t *testing.T) {
	order := []string{`\000`, `\000\000`, `\000\001`, `\001`, `\001\000`, `\002`, `a`, `x.a`, `a\000`, `x.a\000`, `a\000x`, `a\001`, `aa`}
	text := "example. 60 SOA ns.test. mail.test. 1 1 1 1 1\nexample. 60 NS ns.test.\n"
	for i := range order {
		text += order[len(order)-1-i] + ".example. 60 A 192.0.2.1\n"
	}
	z := parse(t, text)
	var got []string
	for rr := range z.Records() {
		if name := strings.TrimSuffix(rr.Header().Name, ".example."); rr.Header().Rrtype == dns.TypeA {
			got = append(got, name)
		}
	}
	if !slices.Equal(got, order) {
		t.Errorf("got  %q\nwant %q", got, order)
	}
	for _, name := range []string{`a.\000`, `\000.a`, `a\000\000`, `\001\001`} {
		if a := z.Lookup(zone.Query{Name: pack(t, name+".example."), Type: dns.TypeA, Class: dns.ClassINET}); a.Rcode != dns.RcodeNameError {
			t.Errorf("%s: rcode %d", name, a.Rcode)
		}
	}
}

func TestRecordsIncludeSignaturesAndNSEC3InTheirPlaces(t *testing.T) {
	var records []zone.Record
	for _, rr := range sign("example.", slices.Collect(parse(t, small).Records()), nsec3) {
		records = append(records, zone.Record{RR: rr})
	}
	z, found := zone.New("EXAMPLE", records)
	if z == nil {
		t.Fatal(found)
	}
	if z.Len() != len(records) {
		t.Errorf("Len is %d of %d records", z.Len(), len(records))
	}
	var got []zone.Record
	for rr := range z.Records() {
		got = append(got, zone.Record{RR: rr})
	}
	if len(got) != len(records) {
		t.Errorf("Records yields %d of %d", len(got), len(records))
	}
	for i := range got[1:] {
		if compareNames(got[i].RR.Header().Name, got[i+1].RR.Header().Name) > 0 {
			t.Errorf("%s after %s", got[i+1].RR, got[i].RR)
		}
	}
}

func compareNames(a, b string) int {
	x, y := dns.SplitDomainName(a), dns.SplitDomainName(b)
	slices.Reverse(x)
	slices.Reverse(y)
	for i := range x {
		if strings.HasPrefix(x[i], `\`) || i < len(y) && strings.HasPrefix(y[i], `\`) {
			return 0 // escapes are for TestRecordsAreInCanonicalOrderTheSOAFirst
		}
	}
	return slices.Compare(x, y)
}

func TestFactsAboutAZone(t *testing.T) {
	z := parse(t, small)
	if z.Origin() != "example." || z.Serial() != 0 || z.Len() != 11 {
		t.Errorf("%s %d %d", z.Origin(), z.Serial(), z.Len())
	}
	q := zone.Query{Name: pack(t, "a.test."), Type: dns.TypeA, Class: dns.ClassINET}
	if a := z.Lookup(q); a.Rcode != dns.RcodeRefused || a.Authoritative {
		t.Errorf("a name outside the zone: %+v", a)
	}
}

func TestZonesFindsTheClosest(t *testing.T) {
	var zones []*zone.Zone
	for _, origin := range []string{"b.example.", "example.", "a.b.example.", "b."} {
		zones = append(zones, parse(t, fmt.Sprintf("%s 1 SOA ns.test. mail.test. 1 1 1 1 1\n%s 1 NS ns.test.\n", origin, origin)))
	}
	s, err := zone.NewZones(zones...)
	if err != nil {
		t.Fatal(err)
	}
	var order []string
	for _, z := range s.All() {
		order = append(order, z.Origin())
	}
	if want := []string{"b.", "example.", "b.example.", "a.b.example."}; !slices.Equal(order, want) {
		t.Errorf("All is %v, want %v", order, want)
	}
	for name, want := range map[string]string{"x.A.B.example.": "a.b.example.", "ab.example.": "example.", "example.": "example.",
		"x.y.b.": "b.", "c.b.example.": "b.example.", "test.": "", ".": ""} {
		got := ""
		if z := s.Find(pack(t, name), dns.TypeA); z != nil {
			got = z.Origin()
		}
		if got != want {
			t.Errorf("%s is answered by %q, want %q", name, got, want)
		}
	}
	if z := s.Get("B.Example"); z == nil || z.Origin() != "b.example." || s.Get("nx.") != nil || s.Get("a..b") != nil {
		t.Error("Get")
	}
	if _, err := zone.NewZones(zones[0], zones[0]); err == nil {
		t.Error("two zones of one origin are taken")
	}
}

// TestZonesOfZones: over a random history a set that is made of the one before is that which is made of nothing, and the ones before stay as they were.
func TestZonesOfZones(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	var names []string
	for i := range 700 {
		names = append(names, []string{"", "a.", "b.a."}[i%3]+fmt.Sprintf("z%d.example.", i/3))
	}
	made := func(i int, serial int) *zone.Zone {
		return parse(t, fmt.Sprintf("%s 1 SOA ns.test. mail.test. %d 1 1 1 1\n%[1]s 1 NS ns.test.\n", names[i], serial))
	}
	type version struct {
		set *zone.Zones
		has map[string]*zone.Zone
	}
	same := func(step int, v version) {
		t.Helper()
		if v.set.Len() != len(v.has) || len(v.set.All()) != len(v.has) {
			t.Fatalf("step %d: %d zones, want %d", step, v.set.Len(), len(v.has))
		}
		for _, name := range names {
			z, want := v.set.Get(name), v.has[name]
			if (z == nil) != (want == nil) || z != nil && (z.Origin() != name || z.Serial() != want.Serial()) {
				t.Fatalf("step %d: %s is %v, want %v", step, name, z, want)
			}
			closest := ""
			for above := "x." + name; above != ""; _, above, _ = strings.Cut(above, ".") {
				if closest == "" && v.has[above] != nil {
					closest = above
				}
			}
			if z := v.set.Find(pack(t, "x."+name), dns.TypeA); (z == nil) != (closest == "") || z != nil && z.Origin() != closest {
				t.Fatalf("step %d: x.%s is answered by %v, want %q", step, name, z, closest)
			}
		}
	}
	empty, err := zone.NewZones()
	if err != nil {
		t.Fatal(err)
	}
	versions := []version{{empty, map[string]*zone.Zone{}}}
	for step := range 60 {
		next := version{has: maps.Clone(versions[step].has)}
		var put []*zone.Zone
		var gone []string
		for _, i := range r.Perm(len(names))[:r.IntN(1+[]int{3, 40, 700}[step%3])] {
			if step/10%2 == 1 && r.IntN(3) > 0 { // it shrinks
				gone = append(gone, names[i])
				delete(next.has, names[i])
			} else {
				z := made(i, step+1)
				put, next.has[names[i]] = append(put, z), z
			}
		}
		next.set = versions[step].set.With(put, gone)
		same(step, next)
		versions = append(versions, next)
	}
	for step, v := range versions {
		same(step, v)
	}
}

// TestAZoneOfASetIsInOneLine of the processor's cache: among very many zones a lookup waits for that, and for the image.
func TestAZoneOfASetIsInOneLine(t *testing.T) {
	var zones []*zone.Zone
	for i := range 1000 {
		zones = append(zones, smallZone(t, i, 1))
	}
	set, err := zone.NewZones(zones...)
	if err != nil {
		t.Fatal(err)
	}
	for _, z := range set.With(zones[:10], nil).All() {
		if at := uintptr(unsafe.Pointer(z)) % 64; at+unsafe.Sizeof(*z) > 64 {
			t.Fatalf("%s has %d octets from %d on of a line", z.Origin(), unsafe.Sizeof(*z), at)
		}
	}
}

// TestZonesOfZonesCostWhatDiffers: what ten of many zones take is a small part of what all take.
func TestZonesOfZonesCostWhatDiffers(t *testing.T) {
	var zones []*zone.Zone
	for i := range 20_000 {
		zones = append(zones, smallZone(t, i, 1))
	}
	octets := func(make func()) uint64 {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		make()
		runtime.ReadMemStats(&after)
		return after.TotalAlloc - before.TotalAlloc
	}
	var set, next *zone.Zones
	all := octets(func() { set, _ = zone.NewZones(zones...) })
	ten := octets(func() { next = set.With(zones[100:110], nil) })
	if next.Len() != len(zones) || ten > all/20 {
		t.Errorf("ten zones take %d octets, all take %d", ten, all)
	}
}

func TestOnlyTheFirstFindingsAreReported(t *testing.T) {
	var text strings.Builder
	text.WriteString(small)
	for i := range 1000 {
		fmt.Fprintf(&text, "x%d.test. A 192.0.2.1\n", i)
	}
	z, found := zonefile.Parse(strings.NewReader(text.String()), zonefile.Options{})
	if z != nil || len(found) != zone.MaxFindings+1 || found[zone.MaxFindings].Rule != "more-findings" {
		t.Errorf("%d findings, the last %v", len(found), found[len(found)-1])
	}
}

// TestRootZone puts questions to the signed root zone of 21 August 2017.
func TestRootZone(t *testing.T) {
	z := rootZone(t)
	if z.Len() != 22772 || z.Serial() != 2017082100 || z.Origin() != "." {
		t.Errorf("%d records, serial %d, origin %s", z.Len(), z.Serial(), z.Origin())
	}
	for _, c := range []struct {
		name  string
		qtype uint16
		rcode int
		aa    bool
		want  string // types by section
	}{
		{".", dns.TypeDNSKEY, 0, true, "DNSKEY+ / /"},
		{".", dns.TypeNS, 0, true, "NS+ / / A A A A A A A A A A A A A AAAA AAAA AAAA AAAA AAAA AAAA AAAA AAAA AAAA AAAA AAAA AAAA AAAA"},
		{"www.example.org.", dns.TypeA, 0, false, "/ NS DS+ / A A A A A A AAAA AAAA AAAA AAAA AAAA AAAA"},
		{"org.", dns.TypeDS, 0, true, "DS+ / /"},
		{"er.", dns.TypeDS, 0, true, "/ SOA+ NSEC+ /"},
		{"nic.er.", dns.TypeA, 0, false, "/ NS NSEC+ / A A A AAAA"},
		{"notthere.", dns.TypeA, 3, true, "/ SOA+ NSEC+ NSEC+ /"},
		{"a.notthere.", dns.TypeNS, 3, true, "/ SOA+ NSEC+ NSEC+ /"},
		{".", dns.TypeA, 0, true, "/ SOA+ NSEC+ /"},
	} {
		a := z.Lookup(zone.Query{Name: pack(t, c.name), Type: c.qtype, Class: dns.ClassINET, DO: true})
		got := strings.Join([]string{shape(a.Answer, false), shape(a.Authority, false), shape(a.Additional, true)}, " / ")
		if got := strings.Join(strings.Fields(got), " "); got != c.want || a.Rcode != c.rcode || a.Authoritative != c.aa {
			t.Errorf("%s %s: rcode %d, aa %v, %s; want %s", c.name, dns.Type(c.qtype), a.Rcode, a.Authoritative, got, c.want)
		}
	}
}

// shape names the types of RRsets, with a plus where they are signed.
func shape(sets []zone.RRset, sorted bool) string {
	var types []string
	for _, s := range sets {
		typ := dns.Type(s.Type).String()
		if len(s.Sigs) > 0 {
			typ += "+"
		}
		types = append(types, typ)
	}
	if sorted {
		slices.Sort(types)
	}
	return strings.Join(types, " ")
}

// rootZone loads the zone that lies beside the project; it is no part of it, so its absence is no failure.
func rootZone(t testing.TB) *zone.Zone {
	path := filepath.Join(testenv.Top(t), "..", "shared", "data", "root-2017-08-21.zone.xz")
	if _, err := os.Stat(path); err != nil {
		t.Skipf("no root zone at hand: %v", err)
	}
	text, err := exec.Command(testenv.Need(t, "xz")[0], "-dc", path).Output()
	if err != nil {
		t.Fatal(err)
	}
	z, found := zonefile.Parse(bytes.NewReader(text), zonefile.Options{Origin: "."})
	if z == nil {
		t.Fatal(found)
	}
	return z
}

// FuzzLookup asks a zone for arbitrary names and types.
func FuzzLookup(f *testing.F) {
	var zones []*zone.Zone
	for i, flavour := range []string{"", nsec, nsec3, optOut} {
		origin := fmt.Sprintf("z%d.", i)
		text := strings.ReplaceAll(fuzzZone, "ORIG.", origin)
		z := parse(f, text)
		if flavour != "" {
			var records []zone.Record
			for _, rr := range sign(origin, slices.Collect(z.Records()), flavour) {
				records = append(records, zone.Record{RR: rr})
			}
			var found []zone.Finding
			if z, found = zone.New(origin, records); z == nil {
				f.Fatal(found)
			}
		}
		zones = append(zones, z)
		for rr := range z.Records() {
			f.Add(pack(f, rr.Header().Name), rr.Header().Rrtype, true, uint16(512))
			f.Add(append([]byte("\x01x"), pack(f, rr.Header().Name)...), dns.TypeA, true, uint16(1232))
		}
	}
	set, err := zone.NewZones(zones...)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, name []byte, qtype uint16, do bool, size uint16) {
		a := set.Lookup(zone.Query{Name: name, Type: qtype, Class: dns.ClassINET, DO: do})
		checkAnswer(t, a, do)
		text, _, err := dns.UnpackDomainName(name, 0)
		if err != nil || !bytes.Equal(pack(t, text), name) {
			return
		}
		req := &dns.Msg{Question: []dns.Question{{Name: text, Qtype: qtype, Qclass: dns.ClassINET}}}
		req.SetEdns0(size, do)
		limit := max(int(size), dns.MinMsgSize)
		m := a.Msg(req, limit)
		m.Extra = append(m.Extra, req.IsEdns0())
		if wire, err := m.Pack(); err != nil || len(wire) > limit {
			t.Errorf("%d octets, of at most %d: %v", len(wire), limit, err)
		}
		samePacket(t, zone.Query{Name: name, Type: qtype, Class: dns.ClassINET, DO: do}, &a, limit)
	})
}

const fuzzZone = `$ORIGIN ORIG.
$TTL 60
@ SOA ns mail 1 1 1 1 1
@ NS ns
ns A 192.0.2.1
*.w CNAME w2.x
*.w2 A 192.0.2.1
a.*.w2 TXT "x"
d DNAME e.d2
d2 DNAME d
sub NS ns.sub
sub DS 1 13 2 00
ns.sub A 192.0.2.1
insec.ent NS ns.insec.ent
ns.insec.ent AAAA 2001:db8::1
c1 CNAME c2
c2 CNAME c1
big TXT "0123456789012345678901234567890123456789" "0123456789012345678901234567890123456789"
out CNAME x.z1.
`

// checkAnswer checks what has to hold of every answer.
func checkAnswer(t *testing.T, a zone.Answer, do bool) {
	if a.Required > len(a.Additional) {
		t.Errorf("%d of %d additional RRsets are required", a.Required, len(a.Additional))
	}
	for _, section := range [][]zone.RRset{a.Answer, a.Authority, a.Additional} {
		for i, s := range section {
			if _, n, err := dns.UnpackDomainName(s.Owner, 0); err != nil || n != len(s.Owner) {
				t.Errorf("owner %x: %v", s.Owner, err)
			}
			if s.Data.Len() == 0 {
				t.Errorf("an empty RRset of type %d", s.Type)
			}
			if len(s.Sigs) > 0 && !do {
				t.Error("signatures that nobody asked for")
			}
			for _, other := range section[:i] {
				if other.Type == s.Type && s.Type != dns.TypeRRSIG && bytes.EqualFold(other.Owner, s.Owner) {
					t.Errorf("type %d of %q is there twice", s.Type, s.Owner)
				}
			}
		}
	}
	if negative := len(a.Answer) == 0 && a.Authoritative; negative && a.Rcode != dns.RcodeYXDomain && a.Authority[0].Type != dns.TypeSOA {
		t.Errorf("a negative answer without SOA: %+v", a)
	}
}

// BenchmarkLookup asks a zone of 100,000 delegations and hosts, signed in each way, for names of each kind.
func BenchmarkLookup(b *testing.B) {
	for _, flavour := range []string{"unsigned", nsec, nsec3, optOut} {
		z := largeZone(b, flavour, 50000)
		for _, kind := range []string{"h%d.example.", "x.d%d.example.", "nx%d.example."} {
			var names [][]byte
			for range 1000 {
				names = append(names, pack(b, fmt.Sprintf(kind, rand.IntN(50000))))
			}
			b.Run(flavour+"/"+kind[:1], func(b *testing.B) {
				b.ReportAllocs()
				for i := 0; b.Loop(); i++ {
					z.Lookup(zone.Query{Name: names[i%len(names)], Type: dns.TypeA, Class: dns.ClassINET, DO: true})
				}
			})
		}
	}
}

func largeZone(b testing.TB, flavour string, names int) *zone.Zone {
	var text strings.Builder
	text.WriteString("$TTL 300\nexample. SOA ns mail 1 1 1 1 60\nexample. NS ns\nns A 192.0.2.1\n")
	for i := range names {
		fmt.Fprintf(&text, "h%d A 192.0.2.1\nd%d NS ns.d%d\nns.d%d A 192.0.2.2\n", i, i, i, i)
	}
	z := parse(b, text.String())
	if flavour == "unsigned" {
		return z
	}
	var records []zone.Record
	for _, rr := range sign("example.", slices.Collect(z.Records()), flavour) {
		records = append(records, zone.Record{RR: rr})
	}
	z, found := zone.New("example.", records)
	if z == nil {
		b.Fatal(found)
	}
	return z
}
