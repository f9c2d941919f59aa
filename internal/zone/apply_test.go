package zone_test

import (
	"bytes"
	"encoding/base32"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/zone"
)

// A past is a zone that changes: what it holds now, as records in text, by owner and type, without what a signer adds.
type past struct {
	*rand.Rand
	serial  uint32
	sets    map[string][]string // "owner type" to TTL and RDATA, owners without the origin
	flavour string              // of signing, "" for none
	keys    []int               // of which signatures are, more than one while they are rolled over
	names   []string
}

func newPast(seed uint64) *past {
	p := &past{Rand: rand.New(rand.NewPCG(13, seed)), sets: map[string][]string{}, keys: []int{1}}
	p.serial = math.MaxUint32 - uint32(p.IntN(10))
	p.flavour = []string{"", nsec, nsec3, optOut}[p.IntN(4)]
	p.names = []string{"", "a.", "b.", "*.b.", "x.y.b.", "A\\000.", "a\\001.", "*.", "z.a.", "ns.", "ns.a.", "ns.z.a.", "*.z.a.", "\\255.", "c.",
		"w.c.", "u.v.w.c.", "v.w.c.", "0p9mhaveqvm6t7vbl5lop2u3t2rp3tom."}
	for i := range []int{0, 0, 30, 300}[p.IntN(4)] {
		p.names = append(p.names, fmt.Sprintf("h%d.%s", i, []string{"", "", "a.", "d.d."}[p.IntN(4)]))
	}
	for range len(p.names) {
		p.change()
	}
	return p
}

func (p *past) name() string { return p.names[p.IntN(len(p.names))] }

// change changes what is at one owner.
func (p *past) change() {
	owner, ttl := p.name(), 60*(1+p.IntN(2))
	if p.IntN(3) == 0 {
		for key := range p.sets {
			if strings.HasPrefix(key, owner+" ") {
				delete(p.sets, key)
			}
		}
		return
	}
	host := func() string { return []string{"ns.", p.name(), p.name(), "Mail.a."}[p.IntN(4)] + "example." }
	typ, rdata := "A", []string{fmt.Sprintf("192.0.2.%d", p.IntN(4)), fmt.Sprintf("192.0.2.%d", p.IntN(4))}
	switch p.IntN(14) {
	case 0, 1, 2:
		typ, rdata = "NS", []string{host(), "ns.Test."}
	case 3:
		typ, rdata = "CNAME", []string{host()}
	case 4:
		typ, rdata = "DNAME", []string{host()}
	case 5:
		typ, rdata = "MX", []string{"1 " + host(), "2 " + host()}
	case 6:
		typ, rdata = "TXT", []string{fmt.Sprintf("%q %q", strings.Repeat("t", p.IntN(250)), strings.Repeat("u", p.IntN(250))), fmt.Sprintf("%q", strings.Repeat("v", p.IntN(250)))}
	case 7:
		typ, rdata = "DS", []string{fmt.Sprintf("%d 13 2 %064x", p.IntN(3), p.IntN(3))}
	case 8:
		typ, rdata = "AAAA", []string{fmt.Sprintf("2001:db8::%d", p.IntN(3))}
	case 9:
		typ, rdata = "TYPE65280", []string{fmt.Sprintf("\\# 3 00ff%02x", p.IntN(3)), "\\# 0"}
	}
	if typ == "CNAME" && p.IntN(20) > 0 || typ == "DNAME" && p.IntN(4) > 0 { // mostly alone, and above nothing
		for key := range p.sets {
			if typ == "CNAME" && strings.HasPrefix(key, owner+" ") || typ == "DNAME" && strings.HasSuffix(strings.Fields(" " + key)[0], "."+owner) {
				delete(p.sets, key)
			}
		}
	} else if _, alias := p.sets[owner+" CNAME"]; alias && p.IntN(20) > 0 {
		return
	}
	if strings.HasPrefix(owner, "*.") && typ == "NS" && p.IntN(10) > 0 {
		return
	}
	p.sets[owner+" "+typ] = nil
	for _, data := range rdata[:1+p.IntN(len(rdata))] {
		p.sets[owner+" "+typ] = append(p.sets[owner+" "+typ], fmt.Sprintf("%d IN %s %s", ttl, typ, data))
	}
}

// step is one version later.
func (p *past) step() {
	p.serial++
	switch p.IntN(40) {
	case 0:
		p.flavour = []string{"", nsec, nsec3, optOut}[p.IntN(4)]
	case 1:
		p.keys = []int{p.IntN(100), p.IntN(100)} // both algorithms, as between
	case 2:
		p.keys = p.keys[:1]
	case 3:
		clear(p.sets)
		for range len(p.names) {
			p.change()
		}
	}
	for range p.IntN(6) {
		p.change()
	}
}

// records are those of the version as it is now, with what a signer adds.
func (p *past) records(t testing.TB) []zone.Record {
	lines := []string{fmt.Sprintf("example. 60 IN SOA ns.example. mail.example. %d 1 1 1 60", p.serial), "example. 60 IN NS ns.Example."}
	for _, key := range slices.Sorted(func(yield func(string) bool) {
		for key := range p.sets {
			if !yield(key) {
				return
			}
		}
	}) {
		for _, data := range p.sets[key] {
			lines = append(lines, strings.Fields(key + " x")[0]+"example. "+data)
			if strings.HasPrefix(key, " ") {
				lines[len(lines)-1] = "example. " + data
			}
		}
	}
	var rrs []dns.RR
	for _, line := range lines {
		rr, err := dns.NewRR(line)
		if err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		if rr.Header().Rrtype == dns.TypeCNAME && rr.Header().Name == "example." || rr.Header().Rrtype == dns.TypeDS && rr.Header().Name == "example." {
			continue
		}
		rrs = append(rrs, rr)
	}
	rrs = dedup(rrs)
	if p.flavour != "" {
		rrs = sign("example.", rrs, p.flavour)
	}
	var records []zone.Record
	for _, rr := range rrs {
		sig, ok := rr.(*dns.RRSIG)
		if !ok {
			records = append(records, zone.Record{RR: rr})
			continue
		}
		for _, key := range p.keys {
			s := *sig
			s.KeyTag, s.Expiration = uint16(key), uint32(key*1000+p.IntN(2))
			records = append(records, zone.Record{RR: &s})
		}
	}
	return records
}

func dedup(rrs []dns.RR) []dns.RR {
	seen := map[string]bool{}
	return slices.DeleteFunc(rrs, func(rr dns.RR) bool {
		key := strings.ToLower(rr.String())
		was := seen[key]
		seen[key] = true
		return was
	})
}

// deltaTo is what turns a zone into records that may make none.
func deltaTo(t testing.TB, z *zone.Zone, records []zone.Record, to uint32) *zone.Delta {
	d := &zone.Delta{From: z.Serial(), To: to}
	is := map[string]bool{}
	for rr := range z.Records() {
		is[packedRR(t, rr)] = true
	}
	for _, r := range records {
		w := packedRR(t, r.RR)
		if !is[w] {
			d.Added = append(d.Added, w...)
		}
		delete(is, w)
	}
	for w := range is {
		d.Removed = append(d.Removed, w...)
	}
	return d
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

// TestAppliedStepByStepIsBuiltFromScratch goes through random histories of zones: whatever changes, what Apply makes of the
// version before has the root, the records and the answers of the zone that is built of all records, and is refused when
// that is. Meanwhile earlier versions are put in order, and take the place of those that have become of them.
func TestAppliedStepByStepIsBuiltFromScratch(t *testing.T) {
	inPlace, refused, steps, swapped := 0, 0, 0, 0
	for seed := range histories() {
		p := newPast(uint64(seed))
		beside := besides{Rand: p.Rand}
		var z *zone.Zone
		for range 12 {
			p.step()
			records := p.records(t)
			want, found := zone.New("example.", records)
			steps++
			if z == nil {
				z = want
				continue
			}
			before := text(z)
			if want == nil {
				refused++
				if made, foundHere := zone.ApplyInPlace(z, deltaTo(t, z, records, p.serial)); made != nil || len(foundHere) == 0 {
					t.Fatalf("seed %d, serial %d: it is not refused: %v", seed, p.serial, found)
				}
				if text(z) != before {
					t.Fatalf("seed %d, serial %d: the zone before changed", seed, p.serial)
				}
				p = newPast(uint64(seed) + 1<<32 + uint64(steps)) // go on elsewhere
				continue
			}
			d := zone.Difference(z, want, math.MaxInt)
			checkDelta(t, d, z, want)
			if zone.InPlace(z, d) {
				inPlace++
			}
			apply := zone.ApplyInPlace
			if p.IntN(4) == 0 {
				apply = (*zone.Zone).Apply
			}
			made, foundHere := apply(z, d)
			if made == nil {
				t.Fatalf("seed %d, serial %d: %v", seed, p.serial, foundHere)
			}
			compareZones(t, fmt.Sprintf("seed %d, serial %d", seed, p.serial), p.Rand, p.names, made, want)
			if text(z) != before {
				t.Fatalf("seed %d, serial %d: the zone before changed", seed, p.serial)
			}
			if same := before == text(want); same != (z.Root() == want.Root()) {
				t.Fatalf("seed %d, serial %d: equal %v, equal roots %v", seed, p.serial, same, !same)
			}
			if z = beside.step(t, fmt.Sprintf("seed %d, serial %d", seed, p.serial), made); z != made {
				compareZones(t, fmt.Sprintf("seed %d, serial %d, put in order", seed, p.serial), p.Rand, p.names, z, want)
			}
			if p.IntN(5) == 0 {
				back, err := zone.FromImage(bytes.NewReader(compiled(t, made)), int64(len(compiled(t, made))), source)
				if err != nil {
					t.Fatal(err)
				}
				z = back
			}
		}
		swapped += beside.done
	}
	t.Logf("%d steps, %d in place, %d refused, %d put in order", steps, inPlace, refused, swapped)
	if inPlace < steps/3 || refused < 1 || swapped < steps/20 {
		t.Errorf("of %d steps %d were made in place, %d refused, and %d put in order", steps, inPlace, refused, swapped)
	}
}

// TestEachRecordOutAndIn takes each record of signed zones out, gives it another TTL, and puts it in below and beside its
// owner, one at a time: Apply makes what a Builder makes, or refuses what it refuses.
func TestEachRecordOutAndIn(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 13))
	outcomes := map[string]int{}
	for flavour, z := range compiledZones(t) {
		var names []string
		for rr := range z.Records() {
			names = append(names, strings.TrimSuffix(rr.Header().Name, "example."))
		}
		try := func(what string, out, in dns.RR) {
			var records []zone.Record
			for rr := range z.Records() {
				if rr == out || out != nil && rr.String() == out.String() {
					continue
				}
				records = append(records, zone.Record{RR: rr})
			}
			if in != nil {
				records = append(records, zone.Record{RR: in})
			}
			want, found := zone.New("example.", records)
			d := deltaTo(t, z, records, z.Serial())
			what = fmt.Sprintf("%s: %s: %v, %v", flavour, what, out, in)
			made, foundHere := zone.ApplyInPlace(z, d)
			outcomes[fmt.Sprint(want != nil)]++
			if (made == nil) != (want == nil) {
				t.Fatalf("%s: %v, not %v", what, foundHere, found)
			}
			if made != nil {
				compareZones(t, what, r, names, made, want)
			}
		}
		for rr := range z.Records() {
			try("out", rr, nil)
			for name, in := range map[string]dns.RR{"new.": nil, "*.": nil, "0.": nil, "zz.": nil} {
				if in = dns.Copy(rr); len(name)+len(in.Header().Name) < 200 && in.Header().Rrtype != dns.TypeSOA {
					in.Header().Name = name + in.Header().Name
					try("in", nil, in)
				}
			}
		}
	}
	if outcomes["true"] < 100 || outcomes["false"] < 100 {
		t.Errorf("outcomes: %v", outcomes)
	}
}

// TestEachLinkLeftOut takes each link of a chain out, and lets the one before name the one after it or not: Apply refuses
// what a Builder refuses.
func TestEachLinkLeftOut(t *testing.T) {
	refused := 0
	for flavour, z := range compiledZones(t) {
		var links []dns.RR
		for rr := range z.Records() {
			if typ := rr.Header().Rrtype; typ == dns.TypeNSEC || typ == dns.TypeNSEC3 {
				links = append(links, rr)
			}
		}
		for i, link := range links {
			for _, how := range []string{"left out", "passed over", "wrong"} {
				before := links[(i+len(links)-1)%len(links)]
				other := dns.Copy(before)
				switch rr := other.(type) {
				case *dns.NSEC:
					rr.NextDomain = link.(*dns.NSEC).NextDomain
				case *dns.NSEC3:
					rr.NextDomain = link.(*dns.NSEC3).NextDomain
				}
				var records []zone.Record
				for rr := range z.Records() {
					sig, ok := rr.(*dns.RRSIG)
					switch {
					case how != "wrong" && (rr.String() == link.String() || ok && sig.TypeCovered == link.Header().Rrtype && sig.Hdr.Name == link.Header().Name):
					case how != "left out" && rr.String() == before.String():
						records = append(records, zone.Record{RR: other})
					default:
						records = append(records, zone.Record{RR: rr})
					}
				}
				want, found := zone.New("example.", records)
				made, foundHere := zone.ApplyInPlace(z, deltaTo(t, z, records, z.Serial()))
				if (want == nil) != (made == nil) {
					t.Errorf("%s: %s is %s: %v, not %v", flavour, link.Header().Name, how, foundHere, found)
				}
				if want == nil {
					refused++
				}
			}
		}
	}
	if refused < 50 {
		t.Errorf("%d refused", refused)
	}
}

// TestALargeZoneIsApplied changes names anywhere in zones whose lists have many leaves and branches: TTLs, and whether they
// are there.
func TestALargeZoneIsApplied(t *testing.T) {
	r := rand.New(rand.NewPCG(20, 26))
	check := func(z *zone.Zone, flavour string) {
		b := zone.NewBuilder()
		for w := range z.WireRecords() {
			b.AddWire(w.Owner, w.Type, w.TTL, w.Data, "", 0)
		}
		want, found := b.Build("example.")
		if want == nil {
			t.Fatal(found)
		}
		compareZones(t, flavour, r, []string{"", "ns1.", "ns77.", "h1.", "h2000.", "d9.", "ns.d9."}, z, want)
	}
	for _, flavour := range []string{"unsigned", nsec, nsec3} {
		z := largeZone(t, flavour, 4000)
		for _, d := range benchDeltas(t, z, 30)[:10] {
			made, found := zone.ApplyInPlace(z, d)
			if made == nil {
				t.Fatal(found)
			}
			z = made
		}
		check(z, flavour)
		if flavour != "unsigned" {
			continue
		}
		var out []zone.RRs
		for range 10 {
			d := &zone.Delta{From: z.Serial(), To: z.Serial()}
			if n := len(out); n > 3 {
				d.Added, out = out[0], out[1:]
			}
			for rr := range z.Records() {
				if rr.Header().Rrtype == dns.TypeA && r.IntN(20) == 0 {
					d.Removed = append(d.Removed, packedRR(t, rr)...)
				}
			}
			out = append(out, d.Removed)
			made, found := zone.ApplyInPlace(z, d)
			if made == nil {
				t.Fatal(found)
			}
			z = made
			check(z, "names out and in")
		}
	}
}

// TestApartIsWhatIsNotShared by a zone and what was made of it.
func TestApartIsWhatIsNotShared(t *testing.T) {
	z := largeZone(t, "unsigned", 4000)
	made, found := z.Apply(benchDeltas(t, z, 1)[0])
	if made == nil {
		t.Fatal(found)
	}
	all := z.Apart(nil)
	if all < z.ImageSize()/2 || all > z.ImageSize() {
		t.Errorf("%d octets of %d are in pages", all, z.ImageSize())
	}
	if n := z.Apart(z); n != 0 {
		t.Errorf("%d octets are apart of the zone itself", n)
	}
	if n := z.Apart(made); n == 0 || n >= all {
		t.Errorf("%d octets of %d are not shared with what was made of it", n, all)
	}
}

// TestHashesThatBeginAlike has NSEC3 records of which the hashes differ in their ends only, and takes them out and in.
func TestHashesThatBeginAlike(t *testing.T) {
	text := "$TTL 60\nexample. SOA ns mail 1 1 1 1 60\nexample. NS ns.test.\n"
	for i := range 400 {
		hash := make([]byte, 20)
		hash[8], hash[9], hash[19] = byte(i), byte(i*7), byte(i>>8)
		text += fmt.Sprintf("%s NSEC3 1 0 0 - %s A\n", strings.ToLower(base32.HexEncoding.EncodeToString(hash)), base32.HexEncoding.EncodeToString(hash))
	}
	z := parse(t, text)
	var hashes []dns.RR
	for rr := range z.Records() {
		if rr.Header().Rrtype == dns.TypeNSEC3 {
			hashes = append(hashes, rr)
		}
	}
	for _, rr := range hashes {
		d := &zone.Delta{From: 1, To: 1, Removed: zone.RRs(packedRR(t, rr))}
		without, found := zone.ApplyInPlace(z, d)
		if without == nil || without.Len() != z.Len()-1 {
			t.Fatal(rr, found)
		}
		again, found := zone.ApplyInPlace(without, &zone.Delta{From: 1, To: 1, Added: d.Removed})
		if again == nil || again.Root() != z.Root() || without.Root() == z.Root() {
			t.Fatal(rr, found)
		}
	}
}

// TestExpires: the earliest signature expires first, also where numbers begin anew.
func TestExpires(t *testing.T) {
	text := "$TTL 60\nexample. SOA ns mail 1 1 1 1 60\nexample. NS ns.test.\n"
	if _, ok := parse(t, text).Expires(); ok {
		t.Error("a zone without signatures expires")
	}
	for i, at := range []uint32{50, math.MaxUint32 - 7, 20, math.MaxUint32 - 3} {
		text += fmt.Sprintf("a%d A 192.0.2.1\na%d RRSIG A 13 2 60 %d 1 1 example. AAAA\n", i, i, at)
	}
	if at, ok := parse(t, text).Expires(); !ok || at != math.MaxUint32-7 {
		t.Error(at, ok)
	}
}

// compareZones demands that two zones are one.
func compareZones(t testing.TB, what string, r *rand.Rand, names []string, got, want *zone.Zone) {
	t.Helper()
	if got.Root() != want.Root() || got.Len() != want.Len() || got.Names() != want.Names() || got.Serial() != want.Serial() {
		t.Errorf("%s: root %x, %d records, %d names; not %x, %d, %d", what, got.Root(), got.Len(), got.Names(), want.Root(), want.Len(), want.Names())
	}
	if x, y := text(got), text(want); x != y {
		t.Fatalf("%s:\n%s\nnot\n%s", what, x, y)
	}
	types := []uint16{dns.TypeA, dns.TypeNS, dns.TypeDS, dns.TypeMX, dns.TypeANY, dns.TypeTXT, dns.TypeCNAME, dns.TypeNSEC, dns.TypeRRSIG, dns.TypeSOA}
	var a, b zone.Answer
	for range 1000 {
		name := names[r.IntN(len(names))]
		for range r.IntN(3) {
			if longer := []string{"q.", "*.", "w.", "ns."}[r.IntN(4)] + name; len(pack0(longer+"example.")) > 0 {
				name = longer
			}
		}
		q := zone.Query{Name: pack(t, name+"example."), Type: types[r.IntN(len(types))], Class: dns.ClassINET, DO: r.IntN(3) > 0}
		got.LookupInto(&q, &a)
		want.LookupInto(&q, &b)
		x, _ := a.AppendTo(nil, &zone.Request{Query: q}, 65535)
		if y, _ := b.AppendTo(nil, &zone.Request{Query: q}, 65535); !bytes.Equal(x, y) {
			var m, n dns.Msg
			m.Unpack(x)
			n.Unpack(y)
			t.Fatalf("%s: %s %s %v:\n%s\nnot\n%s", what, name, dns.Type(q.Type), q.DO, &m, &n)
		}
	}
}

// A Delta that is of another zone, takes out what is not there, puts in what is, or is no Delta, is refused and says so.
func TestApplyRefuses(t *testing.T) {
	p := newPast(1)
	p.flavour = ""
	p.sets = map[string][]string{"cut. NS": {"60 IN NS ns.test."}, "a.cut. CNAME": {"60 IN CNAME b.cut.example."}, "a.cut. A": {"60 IN A 192.0.2.1"},
		"y.x. TXT": {"60 IN TXT y"}}
	z, _ := zone.New("example.", p.records(t))
	rr := func(line string) zone.RRs {
		rr, err := dns.NewRR(line)
		if err != nil {
			t.Fatal(err)
		}
		return zone.RRs(packedRR(t, rr))
	}
	soa := func(serial uint32) zone.RRs {
		return rr(fmt.Sprintf("example. 60 IN SOA ns.example. mail.example. %d 1 1 1 60", serial))
	}
	next := p.serial + 1
	for _, c := range []struct {
		d    zone.Delta
		want string
	}{
		{zone.Delta{From: p.serial + 5, To: next}, "the zone has"},
		{zone.Delta{From: p.serial, To: next, Removed: rr("a.example. 60 A 192.0.2.1")}, "not there"},
		{zone.Delta{From: p.serial, To: next, Removed: rr("example. 61 NS ns.Example.")}, "not there"},
		{zone.Delta{From: p.serial, To: next, Removed: slices.Concat(soa(p.serial), soa(p.serial))}, "twice"},
		{zone.Delta{From: p.serial, To: p.serial, Added: rr("example. 60 NS ns.eXample.")}, "there already"},
		{zone.Delta{From: p.serial, To: next, Added: rr("other. 60 A 192.0.2.1")}, "not at or below"},
		{zone.Delta{From: p.serial, To: next, Added: rr("a.example. 60 CH A 192.0.2.1")}, "class CH"},
		{zone.Delta{From: p.serial, To: next, Added: zone.RRs("\x01")}, "no record"},
		{zone.Delta{From: p.serial, To: next, Removed: zone.RRs("\x01a\x00\x00\x01\x00\x01\x00\x00\x00\x00\x00\x05")}, "no record"},
		{zone.Delta{From: p.serial, To: next, Added: zone.RRs("\x07example\x00\x00\x01\x00\x01\x00\x00\x00\x00\x00\x01x")}, "A"},
		{zone.Delta{From: p.serial, To: next, Added: rr("a.example. 60 A 192.0.2.1")}, "makes serial"},
		{zone.Delta{From: p.serial, To: next, Removed: soa(p.serial)}, "no SOA"},
		{zone.Delta{From: p.serial, To: next, Removed: soa(p.serial), Added: slices.Concat(soa(next), rr("a.example. 60 CNAME b.test."), rr("a.example. 60 A 192.0.2.1"))}, "beside a CNAME"},
		{zone.Delta{From: p.serial, To: next, Removed: slices.Concat(soa(p.serial), rr("cut.example. 60 NS ns.test.")), Added: soa(next)}, "beside a CNAME"},
		{zone.Delta{From: p.serial, To: next, Removed: soa(p.serial), Added: slices.Concat(soa(next), rr("x.example. 60 DNAME x.test."))}, "below a DNAME"},
		{zone.Delta{From: p.serial, To: next, Removed: soa(p.serial), Added: slices.Concat(soa(next), rr("y.x.example. 60 DNAME x.test."), rr("y.x.example. 60 NS x.test."))}, "beside NS"},
	} {
		made, found := z.Apply(&c.d)
		if said := fmt.Sprint(found); made != nil || !strings.Contains(said, c.want) {
			t.Errorf("%q is not in %v, %v", c.want, found, made)
		}
	}
	if made, found := z.Apply(&zone.Delta{From: p.serial, To: next, Removed: soa(p.serial), Added: soa(next)}); made == nil {
		t.Error(found)
	}
}

// FuzzApply gives a signed zone any Delta: what it makes has the records that a Builder makes the same zone of.
func FuzzApply(f *testing.F) {
	zones := compiledZones(f)
	z := zones[nsec3]
	soa := func(t testing.TB, serial uint32) zone.RRs {
		for rr := range z.Records() {
			s := dns.Copy(rr).(*dns.SOA)
			s.Serial = serial
			return zone.RRs(packedRR(t, s))
		}
		return nil
	}
	for rr := range z.Records() {
		f.Add([]byte(packedRR(f, rr)), []byte(nil))
		f.Add([]byte(nil), append([]byte("\x03new"), packedRR(f, rr)...))
	}
	f.Fuzz(func(t *testing.T, removed, added []byte) {
		d := &zone.Delta{From: z.Serial(), To: z.Serial() + 1, Removed: append(soa(t, z.Serial()), removed...), Added: append(soa(t, z.Serial()+1), added...)}
		root := z.Root()
		made, found := zone.ApplyInPlace(z, d)
		if (made == nil) != zone.HasErrors(found) || z.Root() != root {
			t.Fatalf("%v with %v", made, found)
		}
		if made == nil {
			return
		}
		b := zone.NewBuilder()
		for r := range made.WireRecords() {
			b.AddWire(r.Owner, r.Type, r.TTL, r.Data, "", 0)
		}
		again, found := b.Build("example.")
		if again == nil || again.Root() != made.Root() || again.Len() != made.Len() {
			t.Fatalf("built again: %v", found)
		}
		var x, y zone.Answer
		for _, q := range everyQuery(t, made) {
			made.LookupInto(&q, &x)
			again.LookupInto(&q, &y)
			a, _ := x.AppendTo(nil, &zone.Request{Query: q}, 65535)
			if b, _ := y.AppendTo(nil, &zone.Request{Query: q}, 65535); !bytes.Equal(a, b) {
				t.Fatalf("%q %d: %x, not %x", q.Name, q.Type, a, b)
			}
		}
	})
}
