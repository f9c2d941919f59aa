package zonecheck

import (
	"crypto/ed25519"
	"encoding/base64"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/zone"
	"github.com/coredns-anycast/coredns-anycast/internal/zonefile"
)

// A story is a zone that changes, is signed anew each time, and of which some is wrong.
type story struct {
	*rand.Rand
	t       testing.TB
	names   []string            // owners, without the origin
	sets    map[string][]string // "owner type" to TTL and RDATA
	wrong   map[string]int      // by owner, and by owner and type: what is wrong there
	flavour string
	serial  uint32
	key     testKey
	signed  map[string]string // lines of an RRset and of its signature
	began   time.Time
}

const (
	twoChains = "two chains"
	bothWays  = "NSEC and NSEC3" // while the one replaces the other
)

var denials = []string{"", nsec, nsec3, nsec3OptOut, twoChains, bothWays}

func newStory(t testing.TB, seed uint64) *story {
	s := &story{Rand: rand.New(rand.NewPCG(99, seed)), t: t, sets: map[string][]string{}, wrong: map[string]int{}, signed: map[string]string{},
		serial: 1, began: time.Date(2026, 11, 30, 0, 0, 0, 0, time.UTC)}
	s.key = fixedKey()
	s.flavour = denials[s.IntN(len(denials))]
	s.names = []string{"", "ns.", "ns2.", "a.", "b.", "*.b.", "x.y.b.", "y.b.", "*.", "*.c.", "q.b.", "z.a.", "ns.a.", "ns.z.a.", "c.", "w.c.", "u.v.w.c.", "v.w.c.", "\\000.", "\\255.", "t.example."}
	for i := range []int{0, 20, 200}[s.IntN(3)] {
		s.names = append(s.names, fmt.Sprintf("h%d.%s", i, []string{"", "", "a.", "d.d."}[s.IntN(4)]))
	}
	for range 2 * len(s.names) {
		s.change()
	}
	return s
}

// fixedKey is one key for all, so that a seed tells all.
func fixedKey() testKey {
	private := ed25519.NewKeyFromSeed(make([]byte, 32))
	rr, err := dns.NewRR("example. 3600 IN DNSKEY 257 3 15 " + base64.StdEncoding.EncodeToString(private.Public().(ed25519.PublicKey)))
	if err != nil {
		panic(err)
	}
	return testKey{rr.(*dns.DNSKEY), private}
}

func (s *story) owner() string { return s.names[s.IntN(len(s.names))] + "example." }

// change changes one RRset, or what is wrong with it.
func (s *story) change() {
	owner := s.owner()
	host := func() string {
		return []string{"ns.example.", s.owner(), "t.example.example.", "ns.test.", "q.b.example.", "q.y.b.example.", "r.q.b.example.", "q.c.example.", "q.a.example."}[s.IntN(9)]
	}
	clear := func(types ...string) {
		for key := range s.sets {
			if f := strings.Fields(key); f[0] == owner && (len(types) == 0 || slices.Contains(types, f[1])) {
				delete(s.sets, key)
			}
		}
	}
	put := func(typ string, rdata ...string) {
		ttl := []int{60, 60, 60, 60, 3600, 0, 700000}[s.IntN(7)]
		clear(typ, "CNAME")
		for i := range rdata {
			rdata[i] = fmt.Sprintf("%d IN %s %s", ttl, typ, rdata[i])
		}
		slices.Sort(rdata)
		s.sets[owner+" "+typ] = slices.Compact(rdata)
	}
	switch s.IntN(18) {
	case 16:
		put("RRSIG", "TXT 15 2 60 20270101000000 20260101000000 1 example. AAAA")
	case 17:
		if owner != "example." {
			for key := range s.sets {
				if strings.HasSuffix(strings.Fields(key)[0], "."+owner) {
					delete(s.sets, key)
				}
			}
			clear("NS")
			put("DNAME", host())
		}
	case 0, 1, 2:
		clear()
	case 3, 4:
		if !strings.HasPrefix(owner, "*.") && owner != "example." {
			put("NS", host(), host())
		}
	case 5:
		put("DS", fmt.Sprintf("%d 13 2 %0*x", s.IntN(9), 64-2*(s.IntN(9)/8), s.IntN(9)))
	case 6:
		clear("DS")
	case 7:
		if owner != "example." {
			clear()
			put("CNAME", host())
		}
	case 8:
		put("MX", "1 "+host())
	case 9:
		put("AAAA", fmt.Sprintf("2001:db8::%d", s.IntN(9)))
	case 10:
		clear("NS")
	case 11, 12:
		if s.wrong[owner] = 0; s.IntN(2) == 0 {
			s.wrong[owner] = s.IntN(8)
		}
		for _, typ := range []string{"A", "NS", "DS", "NSEC", "NSEC3", "SOA"} {
			if s.wrong[owner+" "+typ] = 0; s.IntN(4) == 0 {
				s.wrong[owner+" "+typ] = s.IntN(9)
			}
		}
	default:
		put("A", fmt.Sprintf("192.0.2.%d", s.IntN(9)))
	}
}

// step is one version later.
func (s *story) step() {
	s.serial++
	if s.IntN(40) == 0 {
		s.flavour = denials[s.IntN(len(denials))]
	}
	if s.IntN(30) == 0 {
		s.wrong = map[string]int{}
	}
	if s.IntN(40) == 0 {
		s.serial -= 5
	}
	if s.IntN(40) == 0 {
		clear(s.sets)
	}
	for range s.IntN(5) {
		s.change()
	}
}

// zone is the version as it is now, nil if it cannot be served.
func (s *story) zone() *zone.Zone {
	sets := maps.Clone(s.sets)
	sets["example. SOA"] = []string{fmt.Sprintf("60 IN SOA ns.example. mail.example. %d 7200 3600 1209600 3600", s.serial)}
	sets["example. NS"] = []string{"60 IN NS ns.example.", "60 IN NS ns2.example."}
	delete(sets, "example. DS")
	if s.flavour != "" {
		sets["example. DNSKEY"] = []string{"3600 IN DNSKEY " + strings.SplitN(s.key.DNSKEY.String(), "DNSKEY\t", 2)[1]}
		s.chains(sets)
	}
	var b strings.Builder
	for _, key := range slices.Sorted(maps.Keys(sets)) {
		owner := strings.Fields(key)[0]
		lines := owner + " " + strings.Join(sets[key], "\n"+owner+" ") + "\n"
		b.WriteString(lines + s.signature(key, lines, sets))
	}
	z, _ := zonefile.Parse(strings.NewReader(b.String()), zonefile.Options{Origin: "example."})
	return z
}

// cut is the topmost delegation at or above an owner, "" if there is none.
func cut(owner string, sets map[string][]string) (top string) {
	for n := owner; n != "example." && n != "."; n = parentOf(n) {
		if sets[n+" NS"] != nil {
			top = n
		}
	}
	return top
}

func parentOf(name string) string {
	if i, end := dns.NextLabel(name, 0); !end {
		return name[i:]
	}
	return "."
}

// chains adds NSEC or NSEC3 records, with some faults.
func (s *story) chains(sets map[string][]string) {
	salts := map[string][]string{nsec: {""}, nsec3: {"AB"}, nsec3OptOut: {"AB"}, twoChains: {"AB", "CD"}, bothWays: {"AB", ""}}[s.flavour]
	for _, salt := range salts {
		if salt != "" {
			sets["example. NSEC3PARAM"] = append(sets["example. NSEC3PARAM"], "0 IN NSEC3PARAM 1 0 0 "+salt)
		}
	}
	types := map[string][]string{}
	for key := range sets {
		f := strings.Fields(key)
		if at := cut(f[0], sets); at == "" || at == f[0] && (f[1] == "NS" || f[1] == "DS") {
			types[f[0]] = append(types[f[0]], f[1])
		}
	}
	for owner, list := range types {
		insecure := cut(owner, sets) != "" && !slices.Contains(list, "DS")
		if !insecure || s.flavour == nsec {
			types[owner] = append(list, "RRSIG")
		}
		if s.flavour == bothWays && insecure {
			types[owner] = append(list, "RRSIG")
		}
		if s.flavour == nsec || s.flavour == bothWays {
			types[owner] = append(types[owner], "NSEC")
		} else if insecure && s.flavour == nsec3OptOut && s.wrong[owner] != 1 {
			delete(types, owner)
			continue
		}
		for n := parentOf(owner); s.flavour != nsec && n != "example." && n != "."; n = parentOf(n) {
			if s.wrong[n] != 2 || s.flavour != nsec3OptOut {
				types[n] = append(types[n], "")
			}
		}
	}
	for i, salt := range salts {
		s.chain(sets, types, salt, i)
	}
}

func (s *story) chain(sets map[string][]string, types map[string][]string, salt string, nth int) {
	type link struct{ by, owner string }
	var links []link
	for owner, list := range types {
		if salt == "" && !slices.Contains(list, "NSEC") {
			continue
		}
		if nth == 1 && s.wrong[owner] == 3 && owner != "example." { // the other chain counts
			continue
		}
		by := dns.HashName(owner, dns.SHA1, 0, salt)
		if salt == "" {
			at, _ := zoneKey(owner)
			by = string(at)
		}
		links = append(links, link{by, owner})
	}
	if nth == 1 && salt != "" && slices.Max([]int{s.wrong["a.example."], s.wrong["b.example."], s.wrong["c.example."]}) > 2 {
		links = append(links, link{dns.HashName("no.such.example.", dns.SHA1, 0, salt), "c.example."})
	}
	slices.SortFunc(links, func(a, b link) int { return strings.Compare(a.by, b.by) })
	for i, l := range links {
		next := links[(i+1)%len(links)]
		bits := slices.Clone(types[l.owner])
		if s.wrong[l.owner] == 5 {
			bits = append(bits, "TYPE65500")
		}
		slices.SortFunc(bits, func(a, b string) int { return int(typeOf(a)) - int(typeOf(b)) })
		list := strings.Join(slices.Compact(bits), " ")
		if nth == 1 && s.wrong[l.owner] == 7 {
			next = l
		}
		if salt == "" {
			sets[l.owner+" NSEC"] = []string{"60 IN NSEC " + next.owner + " " + list}
			continue
		}
		flags := 0
		if s.flavour == nsec3OptOut && s.wrong[l.owner] != 6 {
			flags = 1
		}
		key := strings.ToLower(l.by) + ".example. NSEC3"
		sets[key] = append(sets[key], fmt.Sprintf("60 IN NSEC3 1 %d 0 %s %s %s", flags, salt, next.by, list))
	}
}

func typeOf(name string) uint16 {
	if name == "TYPE65500" {
		return 65500
	}
	return dns.StringToType[name]
}

func zoneKey(owner string) ([]byte, error) {
	var b [255]byte
	n, err := dns.PackDomainName(owner, b[:], 0, nil, false)
	return zone.AppendKey(nil, b[:n]), err
}

// signature is the line of an RRset's signature, which may be wrong.
func (s *story) signature(key, lines string, sets map[string][]string) string {
	f := strings.Fields(key)
	owner, typ := f[0], f[1]
	at := cut(owner, sets)
	wrong := s.wrong[key]
	own := at == "" || at == owner && (typ == "DS" || typ == "NSEC")
	if typ == "RRSIG" || s.flavour == "" && wrong != 1 || !own && wrong != 2 || own && wrong == 3 {
		return ""
	}
	id := fmt.Sprint(wrong, lines)
	if line, known := s.signed[id]; known {
		return line
	}
	var rrs []dns.RR
	for line := range strings.Lines(lines) {
		rr, err := dns.NewRR(line)
		if err != nil {
			s.t.Fatalf("%s: %v", line, err)
		}
		rrs = append(rrs, rr)
	}
	from, to := s.began.Add(-time.Hour), s.began.Add(60*24*time.Hour)
	switch wrong {
	case 4:
		from = s.began.Add(time.Duration(len(lines)%7) * time.Hour)
	case 5:
		to = s.began.Add(lease + time.Hour + time.Duration(len(lines)%11)*time.Hour)
	case 8:
		to = s.began.Add(time.Duration(len(lines)%11) * time.Hour)
	}
	sig := &dns.RRSIG{Hdr: dns.RR_Header{Ttl: rrs[0].Header().Ttl}, Algorithm: dns.ED25519, KeyTag: s.key.KeyTag(), SignerName: "example.",
		Inception: uint32(from.Unix()), Expiration: uint32(to.Unix())}
	if err := sig.Sign(s.key.private, rrs); err != nil {
		s.t.Fatal(err)
	}
	switch wrong {
	case 6:
		sig.OrigTtl++
	case 7:
		sig.KeyTag++
	}
	s.signed[id] = sig.String() + "\n"
	return s.signed[id]
}

// histories is how many there are in a test run.
func histories() int {
	switch {
	case os.Getenv("FULL") != "":
		return 10_000
	case testing.Short():
		return 10
	}
	return 60
}

// TestACheckOfWhatChangedIsTheWholeCheck goes through random histories of zones, policies and time: what a Memo finds, which judges what
// changed, is what is found in all of the zone.
func TestACheckOfWhatChangedIsTheWholeCheck(t *testing.T) {
	checks, partly := 0, 0
	rules := map[string]int{}
	for seed := range histories() {
		s := newStory(t, uint64(seed))
		var memo Memo
		memo.Warn(s.IntN(4) > 0)
		var versions []*zone.Zone
		p, now := DefaultPolicy(), s.began
		for range 20 {
			s.step()
			if s.IntN(10) == 0 {
				p = s.policy()
			}
			now = now.Add(time.Duration(s.IntN(3600)) * time.Second)
			if s.IntN(30) == 0 {
				now = now.Add(time.Duration(s.IntN(40)-5) * 12 * time.Hour)
			}
			z := s.zone()
			if z == nil {
				maps.DeleteFunc(s.sets, func(key string, _ []string) bool {
					return strings.HasSuffix(key, " DNAME") || strings.HasSuffix(key, " CNAME")
				})
				continue
			}
			versions = append(versions, z)
			var old *zone.Zone
			if s.IntN(3) > 0 {
				old = versions[s.IntN(len(versions))]
			}
			if s.IntN(20) == 0 {
				memo.Warn(!memo.warns)
			}
			whole := new(Memo)
			whole.Warn(memo.warns)
			want := whole.Check(old, z, p, now, lease)
			got := memo.Check(old, z, p, now, lease)
			if checks++; !memo.judged.whole.Equal(now) {
				partly++
			}
			for _, f := range want {
				rules[f.Rule]++
			}
			if !reflect.DeepEqual(got, want) {
				t.Fatalf("seed %d, serial %d (%s): partly %v\n%s\nnot\n%s", seed, s.serial, s.flavour, !memo.judged.whole.Equal(now), listed(got), listed(want))
			}
		}
	}
	t.Logf("%d checks, %d of what changed: %v", checks, partly, rules)
	if partly < checks/2 {
		t.Errorf("%d of %d checks were of what changed only", partly, checks)
	}
	for _, r := range []string{"nsec-next", "nsec-types", "nsec3-types", "nsec3-missing", "nsec3-excess", "nsec3-next", "rrsig-missing", "rrsig-excess", "rrsig-ends",
		"rrsig-expired", "rrsig-inception", "rrsig-original-ttl", "rrsig-without-key", "dnskey-missing", "trailing-dot", "trailing-dots", "ds-digest", "ttl-low",
		"ttl-high", "servers-outside", "ns-at-cname", "mx-at-cname", "ns-without-address", "missing-glue", "rrsig-covers-nothing", "serial", "change-removed"} {
		if rules[r] == 0 && !testing.Short() {
			t.Errorf("%s was never found", r)
		}
	}
}

func (s *story) policy() Policy {
	p := DefaultPolicy()
	p.DNSSEC = []Mode{Verify, Verify, Require, Ignore}[s.IntN(4)]
	if s.IntN(2) == 0 {
		p.MinTTL, p.MaxTTL = time.Minute, time.Hour
	}
	if s.IntN(2) == 0 {
		p.Meshes = []Mesh{{Name: "m", Names: []string{"ns.example."}}}
		for i := range 6 {
			p.Meshes[0].Addresses = append(p.Meshes[0].Addresses, netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}))
		}
	}
	if s.IntN(3) == 0 {
		p.Rules = map[string]Level{"ttl-low": Off, "rrsig-ends": Warn}
	}
	return p
}

func listed(found []zone.Finding) string {
	var b strings.Builder
	for _, f := range found {
		b.WriteString(f.String() + "\n")
	}
	return b.String()
}

// FuzzCheckOfWhatChanged gives a Memo any zone after any other: it finds what is found in all of the zone.
func FuzzCheckOfWhatChanged(f *testing.F) {
	for seed := range 12 {
		s := newStory(f, uint64(seed))
		var texts []string
		for range 2 {
			s.step()
			if z := s.zone(); z != nil {
				var b strings.Builder
				if err := zonefile.Write(&b, z); err != nil {
					f.Fatal(err)
				}
				texts = append(texts, b.String())
			}
		}
		if len(texts) == 2 {
			f.Add(texts[0], texts[1], uint16(seed*1000))
		}
	}
	began := newStory(f, 0).began
	f.Fuzz(func(t *testing.T, before, after string, minutes uint16) {
		was, _ := zonefile.Parse(strings.NewReader(before), zonefile.Options{Origin: "example."})
		is, _ := zonefile.Parse(strings.NewReader(after), zonefile.Options{Origin: "example."})
		if was == nil || is == nil {
			return
		}
		var memo Memo
		now := began.Add(time.Duration(minutes) * time.Minute)
		memo.Check(nil, was, DefaultPolicy(), began, lease)
		got, want := memo.Check(was, is, DefaultPolicy(), now, lease), new(Memo).Check(was, is, DefaultPolicy(), now, lease)
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("partly %v\n%s\nnot\n%s", memo.judged.whole.Equal(began), listed(got), listed(want))
		}
	})
}

// TestAnErrorBehindManyWarningsOfItsRule is an error: a rule may be broken so that it is one, and so that it is none.
func TestAnErrorBehindManyWarningsOfItsRule(t *testing.T) {
	text := "$ORIGIN example.\n$TTL 3600\n@ SOA ns1 hostmaster 1 7200 3600 1209600 3600\n@ NS ns1\nns1 A 192.0.2.53\n"
	for i := range 2 * maxKept {
		text += fmt.Sprintf("h%04d 700000 A 192.0.2.1\n", i)
	}
	p := DefaultPolicy()
	p.MaxTTL = 800_000 * time.Second
	found := new(Memo).Check(nil, parse(t, text+"z 900000 A 192.0.2.1\n"), p, time.Now(), lease)
	if got := rulesOf(found, zone.Error); !slices.Equal(got, []string{"ttl-high"}) {
		t.Errorf("errors: %s", got)
	}
	if said := listed(found); !strings.Contains(said, "z.example.: A has TTL 900000") || !strings.Contains(said, fmt.Sprintf("and %d more", 2*maxKept-maxPerRule)) {
		t.Error(said)
	}
}

// TestAllIsJudgedOnceADay: what is remembered is a day old at most.
func TestAllIsJudgedOnceADay(t *testing.T) {
	z := parse(t, hosts(30))
	var memo Memo
	now, whole := time.Now(), 0
	for range 100 {
		memo.Check(nil, z, DefaultPolicy(), now, lease)
		if memo.judged.whole.Equal(now) {
			whole++
		}
		now = now.Add(time.Hour)
	}
	if whole != 4 {
		t.Errorf("%d times in 100 hours", whole)
	}
}

// TestWhatHangsOnAnotherName: a name is judged anew that did not change, since another one did.
func TestWhatHangsOnAnotherName(t *testing.T) {
	const common = "$ORIGIN example.\n$TTL 3600\n@ SOA ns1 hostmaster 1 7200 3600 1209600 3600\n@ NS ns1\n@ NS ns.test.\nns1 A 192.0.2.53\n"
	for _, c := range []struct{ what, both, before, after, rule string }{
		{"a cut goes above a DS record", "z.a DS 1 13 2 00\n", "a NS ns.test.\n", "", "ds-digest"},
		{"a host goes", "x NS h\n", "h A 192.0.2.1\n", "", "ns-without-address"},
		{"a host keeps an address of the other family", "x NS h\n", "h A 192.0.2.1\n", "h AAAA 2001:db8::1\n", ""},
		{"glue goes", "x NS ns.x\n", "ns.x A 192.0.2.1\n", "", "missing-glue"},
		{"a host becomes an alias", "x NS h\n", "h A 192.0.2.1\n", "h CNAME t.test.\n", "ns-at-cname"},
		{"an exchange becomes an alias", "x MX 1 h\n", "h A 192.0.2.1\n", "h CNAME t.test.\n", "mx-at-cname"},
		{"an exchange comes, as an alias", "x MX 1 h\n", "", "h CNAME t.test.\n", "mx-at-cname"},
		{"a wildcard goes", "x NS h.w\nw TXT w\n", "*.w A 192.0.2.1\n", "", "ns-without-address"},
		{"a wildcard becomes an alias", "x MX 1 h.w\nw TXT w\n", "*.w A 192.0.2.1\n", "*.w CNAME t.test.\n", "mx-at-cname"},
		{"a name comes where a wildcard stood", "x NS h.q.w\n*.w A 192.0.2.1\n", "", "q.w TXT q\n", "ns-without-address"},
		{"a name comes below one where a wildcard stood", "x NS h.q.w\n*.w A 192.0.2.1\n", "", "b.a.q.w TXT b\n", "ns-without-address"},
		{"a name goes, and a wildcard stands there", "x MX 1 h.q.w\n*.w CNAME t.test.\n", "q.w TXT q\n", "", "mx-at-cname"},
		{"a DNAME goes", "x NS h.d\n", "d DNAME d.test.\n", "d TXT d\n", "ns-without-address"},
		{"a cut comes above a wildcard", "x NS h.a\n*.a A 192.0.2.1\n", "", "a NS ns.test.\n", "ns-without-address"},
		{"a cut goes above an alias", "x MX 1 h.a\nh.a CNAME t.test.\n", "a NS ns.test.\n", "", "mx-at-cname"},
		{"a cut goes above a wildcard alias", "x MX 1 h.a\n*.a CNAME t.test.\n", "a NS ns.test.\n", "", "mx-at-cname"},
		{"a cut comes above a DNAME", "x NS h.d.a\nd.a DNAME d.test.\n", "", "a NS ns.test.\n", "ns-without-address"},
		{"a name that ends in the origin twice goes", "x MX 1 h.example.example.\n", "h.example A 192.0.2.1\n", "", "trailing-dot"},
	} {
		was, is := parse(t, common+c.both+c.before), parse(t, strings.Replace(common, "master 1", "master 2", 1)+c.both+c.after)
		var memo, all Memo
		memo.Warn(true)
		all.Warn(true)
		began := time.Now()
		if found := rulesOf(memo.Check(nil, was, DefaultPolicy(), began, lease), zone.Warning); c.rule != "" && slices.Contains(found, c.rule) {
			t.Errorf("%s: %s was found before", c.what, c.rule)
		}
		got, want := memo.Check(was, is, DefaultPolicy(), began.Add(time.Minute), lease), all.Check(was, is, DefaultPolicy(), began.Add(time.Minute), lease)
		if !memo.judged.whole.Equal(began) {
			t.Errorf("%s: all was judged", c.what)
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s:\n%s\nnot\n%s", c.what, listed(got), listed(want))
		}
		if rules := append(rulesOf(want, zone.Warning), rulesOf(want, zone.Error)...); c.rule != "" && !slices.Contains(rules, c.rule) {
			t.Errorf("%s: %s", c.what, rules)
		}
	}
}

// TestWhyARecordIsMissingMayChange: which span lies around a name changes when others come and go.
func TestWhyARecordIsMissingMayChange(t *testing.T) {
	s := newStory(t, 0)
	s.flavour = twoChains
	s.sets, s.wrong = map[string][]string{"a.example. NS": {"60 IN NS ns.test."}}, map[string]int{"a.example.": 3}
	var memo Memo
	whys := map[string]bool{}
	for i := range 40 {
		s.serial++
		s.sets[fmt.Sprintf("h%d.example. A", i)] = []string{"60 IN A 192.0.2.1"}
		z := s.zone()
		if z == nil {
			t.Fatal("no zone")
		}
		got, want := memo.Check(nil, z, DefaultPolicy(), s.began, lease), new(Memo).Check(nil, z, DefaultPolicy(), s.began, lease)
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("%d:\n%s\nnot\n%s", i, listed(got), listed(want))
		}
		for _, f := range want {
			if f.Rule == "nsec3-missing" {
				whys[f.Detail] = true
			}
		}
	}
	if len(whys) < 3 {
		t.Errorf("%v", whys)
	}
}

// TestWarningsAreThoseOfABuilder: of zones that were not read from text, the same is found as of those that were.
func TestWarningsAreThoseOfABuilder(t *testing.T) {
	all := 0
	for seed := range histories() {
		s := newStory(t, uint64(seed))
		s.step()
		z := s.zone()
		if z == nil {
			continue
		}
		var b strings.Builder
		if err := zonefile.Write(&b, z); err != nil {
			t.Fatal(err)
		}
		want := map[string]int{}
		_, found := zonefile.Parse(strings.NewReader(b.String()), zonefile.Options{Origin: "example."})
		for _, f := range found {
			if f.Rule != "nsec3-without-param" && !strings.HasSuffix(f.Detail, "more") {
				want[f.Owner+" "+f.Rule+" "+f.Detail]++
				all++
			}
		}
		memo := &Memo{}
		memo.Warn(true)
		memo.Check(nil, z, DefaultPolicy(), s.began, lease)
		got := map[string]int{}
		for _, e := range memo.judged.found.list {
			if e.section == inHosts {
				got[e.Owner+" "+e.Rule+" "+e.Detail]++
			}
		}
		if len(found) < zone.MaxFindings && !reflect.DeepEqual(got, want) {
			t.Errorf("seed %d:\n%v\nnot\n%v", seed, got, want)
		}
	}
	if all < 100 {
		t.Errorf("%d warnings", all)
	}
}

// TestTheDailyCheckFindsWhatWasMissed: what was remembered wrongly is found when all is judged, which says so once.
func TestTheDailyCheckFindsWhatWasMissed(t *testing.T) {
	z := parse(t, hosts(30)+"\nlow 0 A 192.0.2.1\n")
	var memo Memo
	now := time.Now()
	check := func() string { return listed(memo.Check(nil, z, DefaultPolicy(), now, lease)) }
	good := check()
	memo.judged.found.list = nil
	if now = now.Add(time.Hour); check() == good {
		t.Error("nothing is remembered")
	}
	if now = now.Add(wholeAfter); !strings.Contains(check(), "checks-differ") {
		t.Error("it is not said")
	}
	if now = now.Add(time.Hour); check() != good {
		t.Error(check())
	}
}
