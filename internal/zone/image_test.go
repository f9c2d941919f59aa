package zone_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/zone"
)

// mixedNames are names of a zone, in text form below its origin: of all lengths, deep ones, and their empty non-terminals.
func mixedNames(r *rand.Rand, count int) []string {
	names := make([]string, count)
	for i := range names {
		names[i] = fmt.Sprintf("%s%d", strings.Repeat("x", r.IntN(50)), i)
		for range r.IntN(4) {
			names[i] += fmt.Sprintf(".e%d", r.IntN(count))
		}
	}
	return names
}

// TestEveryNameIsFound has zones of one bucket and of many, with names and RRsets of such sizes that buckets overflow and
// sets are kept apart.
func TestEveryNameIsFound(t *testing.T) {
	r := rand.New(rand.NewPCG(11, 12))
	for _, count := range []int{0, 1, 3, 30, 5000} {
		var text strings.Builder
		text.WriteString("$TTL 300\nexample. SOA ns mail 1 1 1 1 60\nexample. NS ns.test.\n")
		names := mixedNames(r, count)
		sizes := make([]int, count)
		for i, name := range names {
			if sizes[i] = r.IntN(4); r.IntN(20) == 0 {
				sizes[i] = r.IntN(12)
			}
			for j := range sizes[i] {
				fmt.Fprintf(&text, "%s TXT \"%d %d %s\"\n", name, i, j, strings.Repeat("y", 200))
			}
			fmt.Fprintf(&text, "%s A 192.0.2.%d\n", name, i%8)
		}
		z := parse(t, text.String())
		for i, name := range names {
			q := zone.Query{Name: pack(t, name+".example."), Type: dns.TypeA, Class: dns.ClassINET}
			a := z.Lookup(q)
			if len(a.Answer) != 1 || a.Answer[0].Data.Len() != 1 || a.Answer[0].Data[5] != byte(i%8) {
				t.Fatalf("%s: %+v", name, a)
			}
			q.Type = dns.TypeTXT
			if a = z.Lookup(q); sizes[i] > 0 && a.Answer[0].Data.Len() != sizes[i] || a.Rcode != dns.RcodeSuccess {
				t.Fatalf("%s: %+v", name, a)
			}
			for at := strings.IndexByte(name, '.'); at > 0; at = strings.IndexByte(name, '.') {
				name = name[at+1:]
				if a = z.Lookup(zone.Query{Name: pack(t, name+".example."), Type: dns.TypeMX, Class: dns.ClassINET}); a.Rcode != dns.RcodeSuccess {
					t.Fatalf("%s: %+v", name, a)
				}
			}
			if a = z.Lookup(zone.Query{Name: pack(t, "nx"+names[i]+".example."), Type: dns.TypeA, Class: dns.ClassINET}); a.Rcode != dns.RcodeNameError {
				t.Fatalf("nx%s: %+v", names[i], a)
			}
		}
	}
}

// TestAnImageDependsOnTheRecordsOnly gives the same records in other orders.
func TestAnImageDependsOnTheRecordsOnly(t *testing.T) {
	r := rand.New(rand.NewPCG(13, 14))
	for flavour, z := range compiledZones(t) {
		var records []zone.Record
		for rr := range z.Records() {
			records = append(records, zone.Record{RR: rr})
		}
		for range 5 {
			r.Shuffle(len(records), func(i, j int) { records[i], records[j] = records[j], records[i] })
			again, found := zone.New("example.", records)
			if again == nil {
				t.Fatal(found)
			}
			if !bytes.Equal(zone.Image(again), zone.Image(z)) {
				t.Errorf("%s: another image", flavour)
			}
		}
	}
}

// TestEqualRRsetsAreKeptOnce has names that share their servers, as most of a large zone do.
func TestEqualRRsetsAreKeptOnce(t *testing.T) {
	var text strings.Builder
	text.WriteString("$TTL 300\nexample. SOA ns mail 1 1 1 1 60\nexample. NS ns.test.\n")
	for i := range 1000 {
		fmt.Fprintf(&text, "d%d NS server-of-many.test.\n", i)
	}
	z := parse(t, text.String())
	if n := bytes.Count(zone.Image(z), []byte("\x0eserver-of-many\x04test\x00")); n != 1 {
		t.Errorf("the RRset is there %d times", n)
	}
}

// TestBucketsAreFilled: in a large zone most names are found without a read more, and little room is left over for that.
func TestBucketsAreFilled(t *testing.T) {
	w := benchWorld{names: 20_000}
	w.make(t)
	nodes, empty := zone.Spread(w.zone)
	if all := w.zone.Names(); nodes < all*7/10 {
		t.Errorf("%d of %d names are in their buckets", nodes, all)
	}
	if size := w.zone.ImageSize(); empty > size*3/20 {
		t.Errorf("nothing is in %d octets of %d", empty, size)
	}
}
