package zone_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/zone"
)

// siblings makes a zone with a delegation to so many servers, whose addresses are elsewhere in the zone, and the request
// and the answer for a name below it.
func siblings(t testing.TB, servers int) (*dns.Msg, zone.Answer) {
	t.Helper()
	b := zone.NewBuilder()
	add := func(format string, args ...any) {
		rr, err := dns.NewRR(fmt.Sprintf(format, args...))
		if err != nil {
			t.Fatal(err)
		}
		b.Add(rr, "zone", 1)
	}
	add("example. 300 IN SOA ns.test. hostmaster.test. 1 2 3 4 5")
	add("example. 300 IN NS ns.test.")
	for i := range servers {
		add("cut.example. 300 IN NS n%d.example.", i)
		add("n%d.example. 300 IN A 192.0.2.1", i)
		add("n%d.example. 300 IN AAAA 2001:db8::1", i)
	}
	z, found := b.Build("")
	if z == nil {
		t.Fatal(found)
	}
	req := new(dns.Msg).SetQuestion("www.cut.example.", dns.TypeA)
	req.SetEdns0(1232, false)
	return req, z.Lookup(zone.Query{Name: pack(t, "www.cut.example."), Type: dns.TypeA, Class: dns.ClassINET})
}

// Who may name servers in a zone must not decide how much work a query makes.
func TestManyOptionalAddressesAreNotTriedOneByOne(t *testing.T) {
	for _, servers := range []int{40, 1000} {
		req, a := siblings(t, servers)
		all := len(a.Additional) + a.Authority[0].Data.Len()
		allocations := testing.AllocsPerRun(1, func() { a.Msg(req, 1232) })
		if allocations > float64(50*all) {
			t.Errorf("%d servers: %.0f allocations for %d records", servers, allocations, all)
		}
	}
}

func TestAsManyOptionalAddressesAsFindRoom(t *testing.T) {
	req, a := siblings(t, 20)
	whole := a.Msg(req, dns.MaxMsgSize)
	for size := range 1400 {
		m := a.Msg(req, size)
		n := len(m.Extra)
		if m.Truncated {
			continue
		}
		if m.Len() > size-11 {
			t.Fatalf("%d octets and an OPT record of 11, of at most %d", m.Len(), size)
		}
		if n == len(whole.Extra) {
			return
		}
		if m.Extra = whole.Extra[:n+1]; m.Len() <= size-11 {
			t.Fatalf("%d addresses in %d octets, though there is room for %d", n, size, n+1)
		}
	}
	t.Error("the addresses never found room")
}

// The options of a request, such as Padding (RFC 7830), are not in the response.
func TestOptionsOfTheRequestTakeNoRoom(t *testing.T) {
	req, a := siblings(t, 4)
	req.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_PADDING{Padding: make([]byte, 480)}}
	if m := a.Msg(req, 512); m.Truncated || len(m.Ns) != 4 || len(m.Extra) != 8 {
		t.Errorf("truncated for the sake of the request's padding:\n%v", m)
	}
}

// TestSignaturesTakeTheRoomThatTheyTake: an answer is truncated from the octet on at which it does not fit, and not before, although
// dns.Msg.Len counts up to two octets too many of each signature.
func TestSignaturesTakeTheRoomThatTheyTake(t *testing.T) {
	b := zone.NewBuilder()
	for _, text := range []string{"example. 300 IN SOA ns.test. hostmaster.test. 1 2 3 4 5", "example. 300 IN NS ns.test.",
		"a.example. 300 IN TXT x", "a.example. 300 IN RRSIG TXT 13 2 300 20330518033320 20231114221320 1 example. " + strings.Repeat("A", 86) + "==",
		"a.example. 300 IN RRSIG TXT 13 2 300 20330518033320 20231114221320 2 example. " + strings.Repeat("A", 86) + "=="} {
		rr, err := dns.NewRR(text)
		if err != nil {
			t.Fatal(err)
		}
		b.Add(rr, "zone", 1)
	}
	z, found := b.Build("")
	if z == nil {
		t.Fatal(found)
	}
	q := zone.Query{Name: pack(t, "a.example."), Type: dns.TypeTXT, Class: dns.ClassINET, DO: true}
	a := z.Lookup(q)
	req := new(dns.Msg).SetQuestion("a.example.", dns.TypeTXT)
	exact, _ := a.AppendTo(nil, &zone.Request{Query: q}, dns.MaxMsgSize)
	for size := len(exact) - 3; size < len(exact)+8; size++ {
		m := a.Msg(req, size)
		wire, err := m.Pack()
		if err != nil {
			t.Fatal(err)
		}
		if whole := size >= len(exact); m.Truncated == whole || whole && len(wire) != len(exact) || m.Len() > size {
			t.Errorf("%d octets of %d: truncated %v, %d octets, estimated %d", size, len(exact), m.Truncated, len(wire), m.Len())
		}
	}
}
