package query

import (
	"bytes"
	"reflect"
	"testing"

	"github.com/miekg/dns"
)

func packed(t testing.TB, m *dns.Msg) []byte {
	t.Helper()
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func ask(name string, qtype uint16) *dns.Msg { return new(dns.Msg).SetQuestion(name, qtype) }

func TestVerdicts(t *testing.T) {
	edit := func(m *dns.Msg, f func(m *dns.Msg)) *dns.Msg { f(m); return m }
	for _, c := range []struct {
		name string
		msg  []byte
		want Verdict
	}{
		{"nothing", nil, Ignore},
		{"less than a header", make([]byte, 11), Ignore},
		{"a response", packed(t, edit(ask("a.", 1), func(m *dns.Msg) { m.Response = true })), Ignore},
		{"a query", packed(t, ask("a.", dns.TypeA)), Plain},
		{"a query for ANY", packed(t, ask("a.", dns.TypeANY)), Plain},
		{"a query of an unknown type", packed(t, ask("a.", 65280)), Plain},
		{"with EDNS", packed(t, ask("a.", dns.TypeA).SetEdns0(1232, true)), Plain},
		{"an update", packed(t, new(dns.Msg).SetUpdate("a.")), NotImplemented},
		{"a NOTIFY", packed(t, new(dns.Msg).SetNotify("a.")), Unusual},
		{"AXFR", packed(t, new(dns.Msg).SetAxfr("a.")), Unusual},
		{"IXFR", packed(t, new(dns.Msg).SetIxfr("a.", 1, "a.", "a.")), Unusual},
		{"a meta type", packed(t, ask("a.", dns.TypeOPT)), Unusual},
		{"class CH", packed(t, edit(ask("a.", 16), func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassCHAOS })), Unusual},
		{"no question", packed(t, new(dns.Msg)), Malformed},
		{"two questions", packed(t, edit(ask("a.", 1), func(m *dns.Msg) { m.Question = append(m.Question, m.Question[0]) })), Malformed},
		{"EDNS version 1", packed(t, edit(ask("a.", 1).SetEdns0(1232, true), func(m *dns.Msg) { m.IsEdns0().SetVersion(1) })), Unusual},
		{"two OPT records", packed(t, ask("a.", 1).SetEdns0(1232, true).SetEdns0(1232, true)), Unusual},
		{"half a question", packed(t, ask("a.", 1))[:16], Unusual},
		{"octets behind", append(packed(t, ask("a.", 1)), 0), Unusual},
		{"octets behind the OPT record", append(packed(t, ask("a.", 1).SetEdns0(1232, true)), 0), Unusual},
	} {
		var q Query
		if got := q.Parse(c.msg); got != c.want {
			t.Errorf("%s: verdict %d, want %d", c.name, got, c.want)
		}
	}
}

func TestWithoutOptions(t *testing.T) {
	m := ask("www.example.org.", dns.TypeA).SetEdns0(1400, true)
	m.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_LOCAL{Code: dns.EDNS0ZONEVERSION}, &dns.EDNS0_NSID{Code: dns.EDNS0NSID}}
	b := packed(t, m)
	if new(dns.Msg).Unpack(b) == nil {
		t.Fatal("the dns package unpacks it: nothing is shown")
	}
	var q Query
	if v := q.Parse(b); v != Plain {
		t.Fatal(v)
	}
	without := new(dns.Msg)
	if err := without.Unpack(q.WithoutOptions(b)); err != nil {
		t.Fatal(err)
	}
	if opt := without.IsEdns0(); opt == nil || len(opt.Option) != 1 || opt.Option[0].Option() != dns.EDNS0NSID || opt.UDPSize() != 1400 || !opt.Do() {
		t.Errorf("%v", without)
	}
}

// FuzzParse compares what is read of a plain query with what the dns package reads, and looks for reads out of bounds.
func FuzzParse(f *testing.F) {
	f.Add(packed(f, ask("www.example.org.", dns.TypeA).SetEdns0(1232, true)))
	f.Add(packed(f, ask(".", dns.TypeANY)))
	f.Add([]byte{0, 1, 5, 0xff, 0, 1, 0, 0, 0, 0, 0, 1, 2, '.', 200, 0, 0, 1, 0, 1, 0, 0, 41, 1, 0, 255, 0, 255, 255, 0, 0}) // each flag, an RCODE
	f.Add([]byte{0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0xc0, 12, 0, 1, 0, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		var q Query
		switch q.Parse(b[:len(b):len(b)]) {
		case Ignore:
			return
		case Plain:
		default:
			if head := q.AppendError(nil, dns.RcodeFormatError); len(head) != HeadSize || !bytes.Equal(head[:2], b[:2]) {
				t.Fatalf("%x", head)
			}
			return
		}
		var m dns.Msg
		err := m.Unpack(b)
		var fast Message
		if fastErr := fast.Unpack(b, &q, Plain); (fastErr != nil) != (err != nil) || err == nil && !reflect.DeepEqual(fast.Msg, m) {
			t.Fatalf("%x: %#v, %v, and by the dns package %#v, %v", b, fast.Msg, fastErr, m, err)
		}
		if err != nil {
			if without := q.WithoutOptions(b); without == nil || m.Unpack(without) != nil {
				t.Fatalf("taken for a plain query: %x: %v", b, err)
			}
		}
		name := make([]byte, 255)
		n, err := dns.PackDomainName(m.Question[0].Name, name, 0, nil, false)
		if err != nil || !bytes.Equal(q.Name, name[:n]) || q.Type != m.Question[0].Qtype || q.Class != m.Question[0].Qclass || q.ID != m.Id ||
			q.RecursionDesired() != m.RecursionDesired || q.EDNS != (m.IsEdns0() != nil) {
			t.Fatalf("%+v of %v", q, &m)
		}
		if opt := m.IsEdns0(); opt != nil && (opt.Do() != q.DO || max(512, opt.UDPSize()) != q.Payload) {
			t.Fatalf("%+v of %v", q, &m)
		}
	})
}
