package zone_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/zone"
)

// samePacket checks that AppendTo makes the message that Msg makes: the same octets but for letter case and compression,
// and no more of them than are allowed.
func samePacket(t testing.TB, q zone.Query, a *zone.Answer, limit int) {
	t.Helper()
	text, _, err := dns.UnpackDomainName(q.Name, 0)
	if err != nil {
		t.Fatal(err)
	}
	req := &dns.Msg{Question: []dns.Question{{Name: text, Qtype: q.Type, Qclass: q.Class}}}
	req.Id, req.RecursionDesired = 4711, true
	req.SetEdns0(uint16(min(limit, dns.MaxMsgSize)), q.DO)
	want := a.Msg(req, limit)
	want.Extra = append(want.Extra, req.IsEdns0())
	opt := make([]byte, 11)
	if _, err := dns.PackRR(req.IsEdns0(), opt, 0, nil, false); err != nil {
		t.Fatal(err)
	}
	before := "before"
	wire, truncated := a.AppendTo([]byte(before), &zone.Request{Query: q, ID: 4711, RecursionDesired: true, OPT: opt}, limit)
	if !strings.HasPrefix(string(wire), before) {
		t.Fatal("what was there is not there any more")
	}
	wire = wire[len(before):]
	if len(wire) > limit && len(wire) > 12+len(q.Name)+4+len(opt) {
		t.Errorf("%s: %d octets, of at most %d", text, len(wire), limit)
	}
	got := new(dns.Msg)
	if err := got.Unpack(wire); err != nil {
		t.Fatalf("%s: %v\n%x", text, err, wire)
	}
	if got.Truncated != truncated {
		t.Errorf("TC is %v", got.Truncated)
	}
	if want.Truncated || len(want.Extra) < len(got.Extra) {
		return // Msg goes by an estimate of the length, and compresses less
	}
	whole, err := want.Pack()
	if want = new(dns.Msg); err != nil || want.Unpack(whole) != nil { // records may be in the generic form
		t.Fatalf("%s: %x, %v", text, whole, err)
	}
	if plain(got) != plain(want) {
		t.Errorf("AppendTo makes\n%s\nnot\n%s", plain(got), plain(want))
	}
	if packed, err := a.Msg(req, limit).Pack(); err == nil && len(wire)-len(opt) > len(packed) {
		t.Errorf("%s: %d octets, where the dns package needs %d\n%s", text, len(wire)-len(opt), len(packed), plain(got))
	}
}

// plain is a message as text, RDATA in wire format, without regard to letter case in names.
func plain(m *dns.Msg) string {
	var b strings.Builder
	fmt.Fprintln(&b, m.MsgHdr.String(), m.Question)
	for _, section := range [][]dns.RR{m.Answer, m.Ns, m.Extra} {
		fmt.Fprintln(&b, "--")
		for _, rr := range section {
			fmt.Fprintln(&b, strings.ToLower(rr.String()))
		}
	}
	return b.String()
}

func TestPacketsFromRandomSizes(t *testing.T) {
	z := largeRootLike(t)
	r := rand.New(rand.NewPCG(5, 6))
	for range 3000 {
		q := zone.Query{Name: pack(t, fmt.Sprintf("Www.d%d.Example.", r.IntN(60))), Type: dns.TypeA, Class: dns.ClassINET}
		a := z.Lookup(q)
		samePacket(t, q, &a, 100+r.IntN(1200))
	}
	q := zone.Query{Name: pack(t, "big.example."), Type: dns.TypeA, Class: dns.ClassINET}
	a := z.Lookup(q)
	samePacket(t, q, &a, dns.MaxMsgSize) // beyond the reach of pointers
}

// largeRootLike has delegations to many servers, and an RRset that fills a message.
func largeRootLike(t testing.TB) *zone.Zone {
	var text strings.Builder
	text.WriteString("$TTL 300\nexample. SOA ns mail 1 1 1 1 60\nexample. NS ns\nns A 192.0.2.1\n")
	for i := range 50 {
		for j := range 1 + i%13 {
			fmt.Fprintf(&text, "d%d NS ns%d.D%d\nns%d.d%d A 192.0.2.%d\nns%d.d%d AAAA 2001:db8::%d\nd%d NS ns.d%d\n", i, j, i, j, i, j, j, i, j, i, j)
		}
	}
	for i := range 3000 {
		fmt.Fprintf(&text, "big A 192.0.%d.%d\n", i/256, i%256)
	}
	for i := range 1000 {
		fmt.Fprintf(&text, "mx MX %d m%d.mail\nm%d.mail A 192.0.2.%d\n", i, i, i, i%256)
	}
	return parse(t, text.String())
}

func TestAnAnswerIsUsedAgain(t *testing.T) {
	z := largeRootLike(t)
	var a zone.Answer
	var wire []byte
	for i := range 200 {
		q := zone.Query{Name: pack(t, []string{"x.d7.example.", "big.example.", "nx.example.", "mx.example.", "."}[i%5]), Type: []uint16{dns.TypeA, dns.TypeMX}[i%2], Class: dns.ClassINET}
		z.LookupInto(&q, &a)
		wire, _ = a.AppendTo(wire[:0], &zone.Request{Query: q}, 4096)
		fresh := z.Lookup(q)
		if want, _ := fresh.AppendTo(nil, &zone.Request{Query: q}, 4096); string(want) != string(wire) {
			t.Fatalf("%s: %x, used again %x", q.Name, want, wire)
		}
	}
	q := zone.Query{Name: pack(t, "x.d7.example."), Type: dns.TypeA, Class: dns.ClassINET}
	if n := testing.AllocsPerRun(100, func() {
		z.LookupInto(&q, &a)
		wire, _ = a.AppendTo(wire[:0], &zone.Request{Query: q}, 4096)
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

// TestAnAddressPointsToTheTargetBeforeIt: a long name that an HTTPS, SVCB, SRV or MX record has is not written again for its address,
// which would find no room in a message of 512 octets then.
func TestAnAddressPointsToTheTargetBeforeIt(t *testing.T) {
	target := strings.Repeat("a23456789012345678901234567890.", 7) + "example."
	for typ, rdata := range map[uint16]string{dns.TypeHTTPS: "HTTPS 0 ", dns.TypeSVCB: "SVCB 1 ", dns.TypeSRV: "SRV 1 2 3 ", dns.TypeMX: "MX 1 "} {
		z := parse(t, "$TTL 300\nexample. SOA ns mail 1 1 1 1 60\nexample. NS ns\nns A 192.0.2.1\nservice "+rdata+target+"\n"+target+" A 192.0.2.2\n")
		q := zone.Query{Name: pack(t, "service.example."), Type: typ, Class: dns.ClassINET}
		a := z.Lookup(q)
		wire, _ := a.AppendTo(nil, &zone.Request{Query: q}, dns.MinMsgSize)
		m := new(dns.Msg)
		if err := m.Unpack(wire); err != nil || len(m.Extra) != 1 || len(wire) > 300 {
			t.Errorf("%s: %v, %d octets: %v", rdata, err, len(wire), m)
		}
		samePacket(t, q, &a, dns.MinMsgSize)
	}
}
