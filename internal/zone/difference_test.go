package zone_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/zone"
)

// packedRR is a record as octets, its owner folded or not as it comes.
func packedRR(t testing.TB, rr dns.RR) string {
	t.Helper()
	b := make([]byte, 2*dns.Len(rr)+16)
	n, err := dns.PackRR(rr, b, 0, nil, false)
	if err != nil {
		t.Fatalf("%s: %v", rr, err)
	}
	return string(b[:n])
}

func packedRRs(t testing.TB, z *zone.Zone) []string {
	var all []string
	for rr := range z.Records() {
		all = append(all, packedRR(t, rr))
	}
	return all
}

// checkDelta demands that a delta makes the new zone of the old one, to the octet; that it takes out nothing but what is
// there and puts in nothing that is; and that both of its parts are in the order of Records.
func checkDelta(t testing.TB, d *zone.Delta, old, new *zone.Zone) {
	t.Helper()
	was, is := packedRRs(t, old), packedRRs(t, new)
	for _, part := range []struct {
		name string
		rrs  zone.RRs
		from []string
	}{{"removed", d.Removed, was}, {"added", d.Added, is}} {
		rest := part.from
		var again []byte
		for rr := range part.rrs.All() {
			w := packedRR(t, rr)
			again = append(again, w...)
			i := slices.Index(rest, w)
			if i < 0 {
				t.Fatalf("%s, and not in the zone, or out of order: %s", part.name, rr)
			}
			rest = rest[i+1:]
		}
		if !bytes.Equal(again, part.rrs) {
			t.Fatalf("%s: %d octets, read again %d", part.name, len(part.rrs), len(again))
		}
	}
	now := map[string]bool{}
	for _, w := range was {
		now[w] = true
	}
	for rr := range d.Removed.All() {
		delete(now, packedRR(t, rr))
	}
	for rr := range d.Added.All() {
		w := packedRR(t, rr)
		if now[w] {
			t.Fatalf("added, and there already: %s", rr)
		}
		now[w] = true
	}
	for _, w := range is {
		if !now[w] {
			t.Fatalf("not there after the change: %q", w)
		}
		delete(now, w)
	}
	for w := range now {
		t.Fatalf("still there after the change: %q", w)
	}
	if d.From != old.Serial() || d.To != new.Serial() {
		t.Errorf("from %d to %d, of zones %d and %d", d.From, d.To, old.Serial(), new.Serial())
	}
}

// A changing zone: its records by owner and type, of which some change from one version to the next.
type changing struct {
	*rand.Rand
	serial uint32
	sets   map[string]string // "owner type" to the record's presentation without owner and with TTL, several in lines
	sigs   int               // makes signatures differ from version to version
}

var changingOwners = []string{"", "a.", "b.", "*.b.", "x.y.b.", "A\\000.", "a\\001.", "*.", "z.a.", "ns.", "0p9mhaveqvm6t7vbl5lop2u3t2rp3tom.", "\\255."}

// step changes some RRsets: new ones, other ones, other TTLs, another case, or none any more.
func (c *changing) step() {
	c.serial++
	c.sigs++
	for range c.IntN(5) {
		owner, ttl := changingOwners[c.IntN(len(changingOwners))], 60*(1+c.IntN(2))
		line := func(format string, args ...any) string {
			return fmt.Sprintf("%d IN ", ttl) + fmt.Sprintf(format, args...)
		}
		typ, lines := "A", []string(nil)
		for range 1 + c.IntN(3) {
			lines = append(lines, line("A 192.0.2.%d", c.IntN(8)))
		}
		switch c.IntN(7) {
		case 0:
			typ, lines = "MX", []string{line("MX %d %s.example.", c.IntN(2), []string{"mail", "MAIL", "Mail"}[c.IntN(3)])}
		case 1:
			typ, lines = "TXT", []string{line("TXT %q", []string{"text", "Text"}[c.IntN(2)]), line("TXT \"\" \"x\"")}
		case 2:
			typ, lines = "TYPE65280", []string{line("TYPE65280 \\# 3 00ff%02x", c.IntN(3)), line("TYPE65280 \\# 0")}
		case 3:
			typ, lines = "NAPTR", []string{line("NAPTR 1 1 \"s\" \"\" \"\" _%s._tcp.example.", []string{"sip", "SIP"}[c.IntN(2)])}
		case 4:
			typ, lines = "CAA", []string{line("CAA 0 issue \"ca%d.test\"", c.IntN(3))}
		}
		if key := owner + " " + typ; c.IntN(3) == 0 {
			delete(c.sets, key)
		} else {
			c.sets[key] = ""
			for _, l := range lines {
				c.sets[key] += owner + "example. " + l + "\n"
			}
		}
	}
}

// zone is the version as it is now, signed or not.
func (c *changing) zone(t testing.TB, flavour string) *zone.Zone {
	text := fmt.Sprintf("example. %d IN SOA ns.example. mail.example. %d 1 1 1 60\nexample. 60 IN NS ns.Example.\n", 60+c.IntN(2), c.serial)
	for _, lines := range c.sets {
		text += lines
	}
	z := parse(t, text)
	if flavour == "" {
		return z
	}
	var records []zone.Record
	for _, rr := range sign("example.", slices.Collect(z.Records()), flavour) {
		if sig, ok := rr.(*dns.RRSIG); ok {
			switch c.IntN(6) {
			case 0, 1:
				sig.Signature = []string{"AAAA", "AAAB", "AAAC"}[c.sigs%3]
			case 2:
				sig.Hdr.Ttl = uint32(c.sigs % 3)
			}
		}
		records = append(records, zone.Record{RR: rr})
	}
	z, found := zone.New("example.", records)
	if z == nil {
		t.Fatal(found)
	}
	return z
}

// A difference between two versions of a zone, near or far, is what turns one into the other.
func TestDifferenceTurnsOneZoneIntoTheOther(t *testing.T) {
	steps := 150
	if testing.Short() {
		steps = 30
	}
	for _, flavour := range []string{"", nsec3, optOut} {
		c := &changing{Rand: rand.New(rand.NewPCG(1995, uint64(len(flavour)))), serial: math.MaxUint32 - 20, sets: map[string]string{}}
		versions := []*zone.Zone{c.zone(t, flavour)}
		for range steps {
			c.step()
			z := c.zone(t, []string{flavour, flavour, flavour, nsec3, ""}[c.IntN(5)]) // at times signed anew in another way
			for _, old := range []*zone.Zone{versions[len(versions)-1], versions[c.IntN(len(versions))], z} {
				for _, pair := range [][2]*zone.Zone{{old, z}, {z, old}} {
					checkDelta(t, zone.Difference(pair[0], pair[1], math.MaxInt), pair[0], pair[1])
					checkChanges(t, pair[0], pair[1])
				}
			}
			versions = append(versions, z)
		}
	}
}

// checkChanges demands that Changes tell each owner that differs, its NSEC3 records apart, once and with all of its RRsets.
func checkChanges(t testing.TB, old, new *zone.Zone) {
	t.Helper()
	differ := map[string][2]string{}
	for i, z := range []*zone.Zone{old, new} {
		for s := range z.RRsets() {
			key := fmt.Sprint(zone.NameString(s.Owner), s.Type == dns.TypeNSEC3)
			sides := differ[key]
			sides[i] += fmt.Sprint(s.Type, s.TTL, s.Data, s.SigTTL, s.Sigs, ";")
			differ[key] = sides
		}
	}
	for change := range zone.Changes(old, new) {
		var got [2]string
		nsec3 := false
		for i, sets := range [][]zone.RRset{change.Was, change.Is} {
			for _, s := range sets {
				nsec3 = nsec3 || s.Type == dns.TypeNSEC3
				got[i] += fmt.Sprint(s.Type, s.TTL, s.Data, s.SigTTL, s.Sigs, ";")
				if !bytes.Equal(s.Owner, change.Owner) {
					t.Fatalf("a set of %q among those of %q", s.Owner, change.Owner)
				}
			}
		}
		key := fmt.Sprint(zone.NameString(change.Owner), nsec3)
		if want := differ[key]; got != want || got[0] == got[1] {
			t.Fatalf("%s: %q, want %q", key, got, want)
		}
		delete(differ, key)
	}
	for key, sides := range differ {
		if sides[0] != sides[1] {
			t.Fatalf("%s is left out: %q", key, sides)
		}
	}
}

func TestDifferenceKeepsToItsLimit(t *testing.T) {
	c := &changing{Rand: rand.New(rand.NewPCG(1, 1)), sets: map[string]string{}}
	old := c.zone(t, nsec)
	for range 20 {
		c.step()
	}
	new := c.zone(t, nsec3)
	d := zone.Difference(old, new, math.MaxInt)
	if zone.Difference(old, new, d.Size()) == nil || zone.Difference(old, new, d.Size()-1) != nil {
		t.Errorf("a limit of %d octets is not kept to", d.Size())
	}
}

// Octets that are no records end the sequence, and do no harm.
func FuzzRRs(f *testing.F) {
	c := &changing{Rand: rand.New(rand.NewPCG(1, 1)), sets: map[string]string{}}
	old := c.zone(f, "")
	c.step()
	f.Add([]byte(zone.Difference(old, c.zone(f, nsec3), math.MaxInt).Added))
	f.Fuzz(func(t *testing.T, b []byte) {
		octets := 0
		for rr := range zone.RRs(b).All() {
			octets += 11
			if rr.Header().Class != dns.ClassINET || octets > len(b) {
				t.Fatalf("%s of %q", rr, b)
			}
		}
	})
}

// BenchmarkDifference is of two zones of a million names, of which one in 200 changed.
func BenchmarkDifference(b *testing.B) {
	w := largeBench(b)
	builder := zone.NewBuilder()
	owner, changed := []byte(nil), 0
	for s := range w.zone.RRsets() {
		other := false
		if !bytes.Equal(owner, s.Owner) {
			owner, other = s.Owner, changed%200 == 0
			changed++
		}
		for rdata := range s.Data.All() {
			ttl := s.TTL
			if s.Type == dns.TypeSOA {
				rdata = slices.Clone(rdata)
				binary.BigEndian.PutUint32(rdata[len(rdata)-20:], 1)
			} else if other {
				ttl++
			}
			builder.AddWire(s.Owner, s.Type, ttl, rdata, "", 0)
		}
	}
	other, found := builder.Build("bench.")
	if other == nil {
		b.Fatal(found)
	}
	b.ReportAllocs()
	for b.Loop() {
		d := zone.Difference(w.zone, other, math.MaxInt)
		b.ReportMetric(float64(d.Size()), "octets")
	}
}

// TestADifferenceOfEmptyNonTerminals: leaves of a list that have such names only are all alike, wherever they are. A name that had records and is
// one of those now, or was, is told of all the same.
func TestADifferenceOfEmptyNonTerminals(t *testing.T) {
	const deep, tops = 100, 12
	text := "$TTL 60\nexample. SOA ns mail 1 1 1 1 60\nexample. NS ns.test.\n"
	for top := range tops {
		text += fmt.Sprintf("%st%d.example. A 192.0.2.1\n", strings.Repeat("d.", deep), top)
	}
	without := parse(t, text)
	for top := range tops {
		for labels := 1; labels < deep; labels += 4 {
			owner := fmt.Sprintf("%st%d.example.", strings.Repeat("d.", labels), top)
			with := parse(t, text+owner+" A 192.0.2.2\n")
			out, in := zone.Difference(with, without, 1<<20), zone.Difference(without, with, 1<<20)
			if out.Removed.Len() != 1 || len(out.Added) != 0 || in.Added.Len() != 1 || len(in.Removed) != 0 {
				t.Errorf("%s: %d records out, and %d in", owner, out.Removed.Len(), in.Added.Len())
			}
		}
	}
}
