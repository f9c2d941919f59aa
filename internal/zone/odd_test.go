package zone_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/zone"
)

// An odd zone is one that changes, with what is rare: names as long and as deep as there are, of any octets, RRsets of tens of
// kilobytes, signatures that cover nothing, one server of very many delegations, and versions that come back.
type odd struct {
	*rand.Rand
	names  []string        // owners, without the origin
	lines  map[string]bool // records in text
	serial uint32
	signed string
}

func newOdd(seed uint64) *odd {
	o := &odd{Rand: rand.New(rand.NewPCG(77, seed)), lines: map[string]bool{}, serial: uint32(seed)}
	o.signed = []string{"", nsec, nsec3, optOut}[o.IntN(4)]
	o.names = []string{"", "*.", "ns.", "*.*.", "a.*.", "\\*.", "\\000.", "\\001.", "\\001\\000.", "\\.\\..", "\\\\.", "\\@."}
	label := func() string {
		var b strings.Builder
		for range 1 + o.IntN(3) {
			fmt.Fprintf(&b, "\\%03d", []int{0, 1, 2, 42, 46, 65, 97, 255}[o.IntN(8)])
		}
		return b.String() + "."
	}
	for range 20 + o.IntN(60) {
		above := o.names[o.IntN(len(o.names))]
		switch o.IntN(6) {
		case 0: // down to the last label that finds room
			for labels := 0; len(pack0(above+"example.")) < 254 && labels < 127; labels++ {
				above = "d." + above
			}
			o.names = append(o.names, above)
			for range o.IntN(9) {
				if i := strings.Index(above, "."); i > 0 {
					above = above[i+1:]
				}
			}
		case 1: // labels of 63 octets, and one that fills the name
			for len(pack0(above+"example."))+64 <= 255 {
				above = strings.Repeat("l", 62) + fmt.Sprint(o.IntN(3)) + "." + above
			}
			if left := 255 - len(pack0(above+"example.")) - 1; left > 0 {
				above = strings.Repeat("e", left) + "." + above
			}
		case 2:
			above = label() + above
		case 3:
			above = fmt.Sprintf("n%d.", o.IntN(100)) + above
		case 4:
			above = fmt.Sprintf("c%d.", o.IntN(1000))
		default:
			above = "*." + above
		}
		if w := pack0(above + "example."); w != nil && len(w) <= 255 {
			o.names = append(o.names, above)
		}
	}
	for i, name := range o.names { // each octet is written in one way
		o.names[i] = strings.TrimSuffix(unpacked(pack0(name+"example.")), "example.")
	}
	for range 2 * len(o.names) {
		o.change()
	}
	return o
}

func unpacked(wire []byte) string {
	name, _, err := dns.UnpackDomainName(wire, 0)
	if err != nil {
		panic(err)
	}
	return name
}

// mend takes out what would keep the zone from being served.
func (o *odd) mend() {
	has, dnames := map[string]bool{}, map[string]bool{} // owner and type, owner
	for line := range o.lines {
		f := strings.Fields(line)
		has[f[0]+" "+f[3]] = true
		dnames[f[0]] = dnames[f[0]] || f[3] == "DNAME"
	}
	for line := range o.lines {
		f := strings.Fields(line)
		owner, typ := f[0], f[3]
		bad := has[owner+" CNAME"] && typ != "CNAME" && typ != "RRSIG" || has[owner+" NS"] && typ == "DNAME" ||
			owner == "example." && (typ == "CNAME" || typ == "DNAME" || typ == "DS")
		for above := owner; !bad; {
			at := strings.IndexByte(above, '.')
			if above = above[at+1:]; above == "example." || above == "" {
				break
			}
			bad = dnames[above]
		}
		if bad {
			delete(o.lines, line)
		}
	}
}

// pack0 is a name in wire format, nil if it is none.
func pack0(name string) []byte {
	var b [300]byte
	n, err := dns.PackDomainName(name, b[:255], 0, nil, false)
	if err != nil {
		return nil
	}
	return b[:n]
}

func (o *odd) name() string { return o.names[o.IntN(len(o.names))] + "example." }

// change puts an RRset in, or takes one out, or all of an owner.
func (o *odd) change() {
	owner := o.name()
	out := func(typ string) {
		for line := range o.lines {
			if f := strings.Fields(line); f[0] == owner && (typ == "" || f[3] == typ) {
				delete(o.lines, line)
			}
		}
	}
	switch o.IntN(12) {
	case 0, 1, 2:
		out("")
		return
	case 3: // and all below
		for line := range o.lines {
			if strings.HasSuffix(strings.Fields(line)[0], "."+owner) {
				delete(o.lines, line)
			}
		}
		return
	}
	ttl := o.IntN(3)
	host := func() string { return []string{"ns.example.", "NS.Example.", o.name(), "ns.test."}[o.IntN(4)] }
	var typ string
	var data []string
	switch o.IntN(14) {
	case 0, 1:
		if owner != "example." && !strings.HasPrefix(owner, "*.") {
			typ, data = "NS", []string{host(), host()}
		}
	case 2:
		typ, data = "A", []string{"192.0.2.1"}
	case 3:
		typ, data = "AAAA", []string{"2001:db8::1", fmt.Sprintf("2001:db8::%d", o.IntN(9))}
	case 4:
		typ = "TXT"
		for i := range o.IntN(4) * o.IntN(300) {
			data = append(data, fmt.Sprintf("%q", fmt.Sprint(i, strings.Repeat("x", o.IntN(200)))))
		}
	case 5:
		if o.IntN(8) > 0 {
			return
		}
		typ, data = "TYPE65280", []string{""}
		data[0] = fmt.Sprintf("\\# 30000 %s%02x", strings.Repeat("ab", 29999), o.IntN(256))
	case 6:
		typ, data = "RRSIG", []string{fmt.Sprintf("%s 13 1 60 %d 1 %d example. AAAA", []string{"A", "MX", "TXT", "NSEC3", "CNAME", "DNAME", "NS", "SOA"}[o.IntN(8)], 1000+o.IntN(9), o.IntN(9))}
	case 7:
		typ, data = "DS", []string{fmt.Sprintf("%d 13 2 %064x", o.IntN(9), o.IntN(9))}
	case 8:
		typ, data = "MX", []string{"1 " + host(), "1 " + strings.ToUpper(host())}
	case 9:
		typ, data = "SRV", []string{"1 1 1 " + host()}
	case 10:
		typ, data = "CNAME", []string{host()}
		if o.IntN(9) > 0 {
			out("")
		}
	case 11:
		typ, data = "DNAME", []string{host()}
	case 12:
		typ, data = "SVCB", []string{"1 " + host()}
	default:
		typ, data = "NULL", []string{"\\# 0"}
	}
	if typ == "" {
		return
	}
	out(typ)
	for _, d := range data {
		o.lines[fmt.Sprintf("%s %d IN %s %s", owner, ttl, typ, d)] = true
	}
}

// records are those of the version as it is now.
func (o *odd) records(t testing.TB) []zone.Record {
	rrs := make([]dns.RR, 0, len(o.lines)+2)
	for _, line := range append(slices.Sorted(func(yield func(string) bool) {
		for line := range o.lines {
			if !yield(line) {
				return
			}
		}
	}), fmt.Sprintf("example. 60 IN SOA ns.example. mail.example. %d 1 1 1 60", o.serial), "example. 60 IN NS ns.example.") {
		rr, err := dns.NewRR(line)
		if err != nil {
			t.Fatalf("%.200s: %v", line, err)
		}
		rrs = append(rrs, rr)
	}
	if rrs = dedup(rrs); o.signed != "" {
		rrs = sign("example.", rrs, o.signed)
	}
	var records []zone.Record
	for _, rr := range rrs {
		records = append(records, zone.Record{RR: rr})
	}
	return records
}

// shuffled is a Delta with its records in another order, and their owners in upper case.
func (o *odd) shuffled(d *zone.Delta) *zone.Delta {
	mix := func(rrs zone.RRs) (mixed zone.RRs) {
		var list [][]byte
		for rr := range rrs.All() {
			var b [70000]byte
			n, err := dns.PackRR(rr, b[:], 0, nil, false)
			if err != nil {
				panic(err)
			}
			w := bytes.Clone(b[:n])
			for i := 0; w[i] != 0; i += 1 + int(w[i]) {
				copy(w[i+1:], bytes.ToUpper(asciiOnly(w[i+1:i+1+int(w[i])])))
			}
			list = append(list, w)
		}
		o.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
		return bytes.Join(list, nil)
	}
	return &zone.Delta{From: d.From, To: d.To, Removed: mix(d.Removed), Added: mix(d.Added)}
}

func asciiOnly(b []byte) []byte {
	if bytes.ContainsFunc(b, func(r rune) bool { return r > 126 }) {
		return nil
	}
	return b
}

// TestOddHistories goes through random histories of odd zones, on from the last version or from an earlier one: what Apply makes is
// what a Builder makes, and no earlier version changes.
func TestOddHistories(t *testing.T) {
	inPlace, refused, steps, swapped := 0, 0, 0, 0
	for seed := range histories() / 5 {
		o := newOdd(uint64(seed))
		beside := besides{Rand: o.Rand}
		type version struct {
			z    *zone.Zone
			text string
			root [32]byte
		}
		var versions []version
		for range 16 {
			o.serial++
			if o.IntN(15) == 0 {
				o.signed = []string{"", nsec, nsec3, optOut}[o.IntN(4)]
			}
			for range o.IntN(7) {
				o.change()
			}
			if o.IntN(20) > 0 {
				o.mend()
			}
			records := o.records(t)
			want, found := zone.New("example.", records)
			steps++
			what := fmt.Sprintf("seed %d, serial %d", seed, o.serial)
			if len(versions) == 0 {
				if want != nil {
					versions = append(versions, version{want, text(want), want.Root()})
				}
				continue
			}
			from := versions[len(versions)-1].z
			if o.IntN(4) == 0 {
				from = versions[o.IntN(len(versions))].z
			}
			d := o.shuffled(deltaTo(t, from, records, o.serial))
			apply := zone.ApplyInPlace
			if o.IntN(4) == 0 {
				apply = (*zone.Zone).Apply
			}
			made, foundHere := apply(from, d)
			if (made == nil) != (want == nil) {
				t.Fatalf("%s: %v, not %v", what, foundHere, found)
			}
			if made == nil {
				refused++
				for range 3 { // find out of it
					o.change()
				}
				continue
			}
			if zone.InPlace(from, d) {
				inPlace++
			}
			compareZones(t, what, o.Rand, o.names, made, want)
			if z := beside.step(t, what, made); z != made {
				made = z
				compareZones(t, what+", put in order", o.Rand, o.names, made, want)
			}
			versions = append(versions, version{made, text(want), want.Root()})
		}
		for _, v := range versions {
			if text(v.z) != v.text || v.z.Root() != v.root {
				t.Fatalf("seed %d: version %d changed", seed, v.z.Serial())
			}
		}
		swapped += beside.done
	}
	t.Logf("%d steps, %d in place, %d refused, %d put in order", steps, inPlace, refused, swapped)
	if inPlace < steps/3 || refused < 1 || swapped < steps/20 {
		t.Errorf("of %d steps %d were made in place, %d refused, and %d put in order", steps, inPlace, refused, swapped)
	}
}

// TestANameAtTheEndOfAPageGetsManyRRsets: what a name has may be elsewhere and longer than what is left of the page that it is on.
func TestANameAtTheEndOfAPageGetsManyRRsets(t *testing.T) {
	const names, types = 3000, 60
	b := zone.NewBuilder()
	b.AddWire(pack(t, "example."), dns.TypeSOA, 60, slices.Concat(pack(t, "ns.test."), pack(t, "m.test."), make([]byte, 20)), "", 0)
	b.AddWire(pack(t, "example."), dns.TypeNS, 60, pack(t, "ns.test."), "", 0)
	d := &zone.Delta{}
	for i := range names {
		owner := pack(t, fmt.Sprintf("name%d.example.", i))
		b.AddWire(owner, dns.TypeA, 60, []byte{192, 0, 2, byte(i)}, "", 0)
		for typ := range types {
			r := zone.WireRecord{Owner: owner, Type: 65280 + uint16(typ), TTL: 60}
			d.Added = r.AppendTo(d.Added)
		}
	}
	z, found := b.Build("example.")
	if z == nil {
		t.Fatal(found)
	}
	made, found := zone.ApplyInPlace(z, d)
	if made == nil || made.Len() != 2+names*(1+types) {
		t.Fatalf("%v, %v", made, found)
	}
	for i := range names {
		name := pack(t, fmt.Sprintf("name%d.example.", i))
		if a := made.Lookup(zone.Query{Name: name, Type: 65280 + types - 1, Class: dns.ClassINET}); len(a.Answer) != 1 {
			t.Fatalf("name%d: %v", i, a)
		}
	}
}

// TestACutComesAndGoesAboveVeryManyNames: what is below a cut has no NSEC records, and the chain is followed past it at once. If it
// were gone over for each name that changed, this would take minutes.
func TestACutComesAndGoesAboveVeryManyNames(t *testing.T) {
	const names = 50_000
	a, ns := pack(t, "a.example."), pack(t, "ns.test.")
	bitmap := []byte{0, 1, 0x60} // A, NS: what is in it is not judged here
	link := func(b *zone.Builder, owner, next []byte) {
		b.AddWire(owner, dns.TypeNSEC, 60, append(bytes.Clone(next), bitmap...), "", 0)
	}
	build := func(serial byte, cut bool) *zone.Zone {
		b := zone.NewBuilder()
		apex := pack(t, "example.")
		b.AddWire(apex, dns.TypeSOA, 60, slices.Concat(ns, ns, []byte{0, 0, 0, serial}, make([]byte, 16)), "", 0)
		b.AddWire(apex, dns.TypeNS, 60, ns, "", 0)
		link(b, apex, a)
		if b.AddWire(a, dns.TypeTXT, 60, []byte("\x01a"), "", 0); cut {
			b.AddWire(a, dns.TypeNS, 60, ns, "", 0)
			link(b, a, apex)
		}
		before := a
		for i := range names {
			owner := pack(t, fmt.Sprintf("n%07d.a.example.", i))
			b.AddWire(owner, dns.TypeA, 60, []byte{192, 0, 2, byte(i) * serial}, "", 0)
			if !cut {
				link(b, before, owner)
			}
			before = owner
		}
		if !cut {
			link(b, before, apex)
		}
		z, found := b.Build("example.")
		if z == nil {
			t.Fatal(found)
		}
		return z
	}
	from := build(1, false)
	for _, to := range []*zone.Zone{build(2, true), build(3, false)} {
		d := zone.Difference(from, to, 1<<30)
		made, found := zone.ApplyInPlace(from, d)
		if made == nil || made.Root() != to.Root() {
			t.Fatal(found)
		}
		from = made
	}
}

// TestThousandsOfSteps changes a zone again and again, with readers of every version: it stays what a Builder makes of its records,
// and takes little more room than that.
func TestThousandsOfSteps(t *testing.T) {
	const names, steps = 3000, 3000
	r := rand.New(rand.NewPCG(3, 5))
	has := map[int][]byte{} // RDATA by number of the name
	owner := func(i int) []byte { return pack(t, fmt.Sprintf("n%d.%d.example.", i, i%7)) }
	soa := func(serial uint32) []byte {
		return slices.Concat(pack(t, "ns.test."), pack(t, "m.test."), binary.BigEndian.AppendUint32(nil, serial), make([]byte, 16))
	}
	build := func(serial uint32) *zone.Zone {
		b := zone.NewBuilder()
		b.AddWire(pack(t, "example."), dns.TypeSOA, 60, soa(serial), "", 0)
		b.AddWire(pack(t, "example."), dns.TypeNS, 60, pack(t, "ns.test."), "", 0)
		for i, rdata := range has {
			b.AddWire(owner(i), dns.TypeTXT, 60, rdata, "", 0)
		}
		z, found := b.Build("example.")
		if z == nil {
			t.Fatal(found)
		}
		return z
	}
	for i := range names {
		has[i] = []byte("\x01a")
	}
	z := build(0)
	var readers sync.WaitGroup
	for serial := range uint32(steps) {
		d := &zone.Delta{From: serial, To: serial + 1}
		put := func(to *zone.RRs, owner []byte, typ uint16, rdata []byte) {
			w := zone.WireRecord{Owner: owner, Type: typ, TTL: 60, Data: rdata}
			*to = w.AppendTo(*to)
		}
		put(&d.Removed, pack(t, "example."), dns.TypeSOA, soa(serial))
		put(&d.Added, pack(t, "example."), dns.TypeSOA, soa(serial+1))
		changed := map[int]bool{}
		for range 1 + r.IntN(20) {
			i := r.IntN(2 * names)
			if changed[i] {
				continue
			}
			changed[i] = true
			if rdata := has[i]; rdata != nil {
				put(&d.Removed, owner(i), dns.TypeTXT, rdata)
			}
			if delete(has, i); r.IntN(2) == 0 {
				length := 1 + r.IntN(200)
				has[i] = append([]byte{byte(length)}, bytes.Repeat([]byte{byte(r.IntN(256))}, length)...)
				put(&d.Added, owner(i), dns.TypeTXT, has[i])
			}
		}
		before := z
		readers.Go(func() {
			var a zone.Answer
			for i := range 20 {
				before.LookupInto(&zone.Query{Name: owner(i), Type: dns.TypeTXT, Class: dns.ClassINET}, &a)
			}
			if before.Serial() != serial {
				t.Errorf("a version of serial %d has %d", serial, before.Serial())
			}
		})
		made, found := z.Apply(d)
		if made == nil {
			t.Fatal(found)
		}
		z = made
		if serial%500 == 0 || serial == steps-1 {
			want := build(serial + 1)
			if z.Root() != want.Root() || text(z) != text(want) {
				t.Fatalf("after %d steps it is not what a Builder makes", serial+1)
			}
			if z.ImageSize() > 2*want.ImageSize() {
				t.Errorf("after %d steps it takes %d octets, and %d if built", serial+1, z.ImageSize(), want.ImageSize())
			}
		}
	}
	readers.Wait()
}
