package main

import (
	"encoding/binary"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
	"github.com/coredns-anycast/coredns-anycast/test/zonegen"
)

// An oddMessage is a request that no client should send, or few do.
type oddMessage struct {
	name string
	wire []byte
	why  string // we do not do as the majority does, if there is one
}

// TestOddMessages compares what becomes of odd requests: the rcode and whether there is a response at all.
func TestOddMessages(t *testing.T) {
	need := []string{"sqlite3"}
	for _, p := range peers {
		need = append(need, p.command)
	}
	testenv.Need(t, need...)
	s := zonegen.Source{Origin: "z.test.", Recipe: zonegen.Recipe{Flavour: "unsigned"}, Lines: []string{"z.test. 300 IN SOA ns.z.test. mail.z.test. 1 3600 600 86400 300",
		"z.test. 300 IN NS ns.z.test.", "ns.z.test. 300 IN A 192.0.2.1"}}
	u, err := new(options).prepare(t.TempDir(), []zonegen.Source{s})
	if err != nil {
		t.Fatal(err)
	}
	defer u.stop()
	if err := u.start(append(slices.Clone(peers), coredns(testenv.Build(t, "cmd/coredns", "cmd/meshctl"))), 2*time.Minute); err != nil {
		t.Fatal(err)
	}
	var table strings.Builder
	for _, odd := range oddMessages(t) {
		forms := make([]string, len(u.servers))
		done := make(chan struct{})
		for i, s := range u.servers {
			go func() { forms[i] = exchange(s.addr, odd.wire); done <- struct{}{} }()
		}
		for range u.servers {
			<-done
		}
		mine, theirs := forms[len(peers)], forms[:len(peers)]
		same := slices.ContainsFunc(majority(theirs), func(i int) bool { return theirs[i] == mine })
		fmt.Fprintf(&table, "%-34s %-30s %s\n", odd.name, mine, strings.Join(theirs, " | "))
		if !same && odd.why == "" {
			t.Errorf("%s: %s; the others: %s", odd.name, mine, strings.Join(theirs, " | "))
		}
	}
	t.Logf("ours, then nsd, knot, bind, pdns:\n%s", &table)
}

// late is how long after later queries were answered an answer may still come: a server's workers overtake one another.
const late = time.Second

// exchange sends a message by UDP and says what came back. Silence is that the answers to two ordinary queries, sent one
// after the other, come and it does not, nor for a while after.
func exchange(addr string, wire []byte) string {
	conn, err := net.Dial("udp", addr)
	if err != nil {
		return err.Error()
	}
	defer conn.Close()
	conn.Write(wire)
	b := make([]byte, dns.MaxMsgSize)
	for id := uint16(1); id <= 2; id++ {
		q := new(dns.Msg).SetQuestion("z.test.", dns.TypeSOA)
		q.Id = id
		ordinary, _ := q.Pack()
		conn.Write(ordinary)
		for {
			conn.SetReadDeadline(time.Now().Add(10 * time.Second))
			n, err := conn.Read(b)
			if err != nil {
				return err.Error()
			}
			if got := binary.BigEndian.Uint16(b); got > 2 {
				return form(b[:n])
			} else if got == id {
				break
			}
		}
	}
	conn.SetReadDeadline(time.Now().Add(late))
	for {
		n, err := conn.Read(b)
		if err != nil {
			return "-"
		}
		if binary.BigEndian.Uint16(b) > 2 {
			return form(b[:n])
		}
	}
}

// form is what is compared of a response.
func form(wire []byte) string {
	m := new(dns.Msg)
	if err := m.Unpack(wire); err != nil {
		return "malformed"
	}
	form := dns.RcodeToString[m.Rcode]
	if m.Rcode == dns.RcodeBadVers { // which BADSIG shares the number with (RFC 6895 2.3)
		form = "BADVERS"
	}
	if m.Authoritative {
		form += " aa"
	}
	if len(m.Answer) > 0 {
		form += " answer"
	}
	return form
}

func oddMessages(t *testing.T) []oddMessage {
	query := func(change func(*dns.Msg)) []byte {
		m := new(dns.Msg).SetQuestion("ns.z.test.", dns.TypeA)
		m.Id = 4711
		change(m)
		wire, err := m.Pack()
		if err != nil {
			t.Fatal(err)
		}
		return wire
	}
	plain := query(func(*dns.Msg) {})
	bits := func(at int, value byte) []byte {
		wire := slices.Clone(plain)
		wire[at] = value
		return wire
	}
	count := func(at int, n uint16) []byte {
		wire := slices.Clone(plain)
		binary.BigEndian.PutUint16(wire[at:], n)
		return wire
	}
	opcode := func(n int) []byte { return query(func(m *dns.Msg) { m.Opcode = n }) }
	opts := func(n int, change func(*dns.OPT)) []byte {
		return query(func(m *dns.Msg) {
			for range n {
				opt := &dns.OPT{Hdr: dns.RR_Header{Name: ".", Rrtype: dns.TypeOPT}}
				opt.SetUDPSize(1232)
				change(opt)
				m.Extra = append(m.Extra, opt)
			}
		})
	}
	question := func(name string, qtype, class uint16) []byte {
		return query(func(m *dns.Msg) { m.Question[0] = dns.Question{Name: name, Qtype: qtype, Qclass: class} })
	}
	named := func(name string) []byte { return append(slices.Clone(plain[:12]), name+"\x00\x01\x00\x01"...) }
	a := &dns.A{Hdr: dns.RR_Header{Name: "ns.z.test.", Rrtype: dns.TypeA, Class: dns.ClassINET}, A: net.IPv4(192, 0, 2, 1)}
	return []oddMessage{
		{"plain", plain, ""},
		{"a response", bits(2, 0x81), ""},
		{"TC set", bits(2, 0x03), ""},
		{"AA set", bits(2, 0x05), ""},
		{"Z set", bits(3, 0x40), ""},
		{"an rcode", bits(3, 0x05), ""},
		{"opcode IQUERY", opcode(1), ""},
		{"opcode STATUS", opcode(2), ""},
		{"opcode 3", opcode(3), ""},
		{"opcode NOTIFY", opcode(4), "RFC 3258 2.2: nothing but answers on the shared address"},
		{"opcode UPDATE", opcode(5), "RFC 2136 2.2: NOTIMP is from who does not support the opcode"},
		{"opcode DSO", opcode(6), ""},
		{"opcode 15", opcode(15), ""},
		{"no question", count(4, 0), ""},
		{"no question, nor octets of one", append(plain[:4:4], 0, 0, 0, 0, 0, 0, 0, 0), ""},
		{"two questions promised", count(4, 2), ""},
		{"two questions", query(func(m *dns.Msg) { m.Question = append(m.Question, m.Question[0]) }), ""},
		{"an answer promised", count(6, 1), "RFC 1035 4.1.1: a format error is what cannot be interpreted; the question can be"},
		{"a record in the answer", query(func(m *dns.Msg) { m.Answer = []dns.RR{a} }), ""},
		{"a record in authority", query(func(m *dns.Msg) { m.Ns = []dns.RR{a} }), ""},
		{"a record in additional", query(func(m *dns.Msg) { m.Extra = []dns.RR{a} }), ""},
		{"additional promised", count(10, 1), "RFC 1035 4.1.1: as above"},
		{"octets after the end", append(slices.Clone(plain), "garbage"...), ""},
		{"half a header", plain[:6], ""},
		{"a header", plain[:12], ""},
		{"half a name", plain[:15], ""},
		{"half a question", plain[:len(plain)-3], ""},
		{"a pointer to itself", named("\xc0\x0c"), ""},
		{"a pointer beyond the end", named("\xc0\xff"), ""},
		{"label type 01", named("\x41x\x00"), ""},
		{"label type 10", named("\x81x\x00"), ""},
		{"name of 257 octets", named(strings.Repeat("\x3f"+strings.Repeat("y", 63), 4) + "\x00"), ""},
		{"OPT", opts(1, func(*dns.OPT) {}), ""},
		{"two OPT", opts(2, func(*dns.OPT) {}), ""},
		{"EDNS version 1", opts(1, func(o *dns.OPT) { o.SetVersion(1) }), ""},
		{"EDNS version 255", opts(1, func(o *dns.OPT) { o.SetVersion(255); o.SetDo() }), ""},
		{"EDNS flags", opts(1, func(o *dns.OPT) { o.SetZ(0x7fff) }), ""},
		{"EDNS extended rcode", opts(1, func(o *dns.OPT) { o.SetExtendedRcode(0xff0) }), ""},
		{"EDNS size 0", opts(1, func(o *dns.OPT) { o.SetUDPSize(0) }), ""},
		{"EDNS unknown option", opts(1, func(o *dns.OPT) { o.Option = []dns.EDNS0{&dns.EDNS0_LOCAL{Code: 65001, Data: []byte("x")}} }), ""},
		{"EDNS padding", opts(1, func(o *dns.OPT) { o.Option = []dns.EDNS0{&dns.EDNS0_PADDING{Padding: make([]byte, 1100)}} }), ""},
		{"EDNS option too long", append(opts(1, func(o *dns.OPT) {})[:len(plain)+9:len(plain)+9], 0, 4, 0xfd, 0xe9, 0, 9), ""},
		{"OPT of another owner", append(append(count(10, 1), "\x01x\x00\x00\x29\x04\xd0\x00\x00\x00\x00\x00\x00"...), ""...), ""},
		{"OPT in the answer", append(count(6, 1), "\x00\x00\x29\x04\xd0\x00\x00\x00\x00\x00\x00"...), "RFC 6891 6.1.1: an OPT record is one in the additional section"},
		{"AXFR by UDP", question("z.test.", dns.TypeAXFR, dns.ClassINET), "RFC 5936 4.2: not defined; RFC 3258 2.2: no transfer on the shared address"},
		{"IXFR by UDP", question("z.test.", dns.TypeIXFR, dns.ClassINET), ""},
		{"class CH", question("z.test.", dns.TypeTXT, dns.ClassCHAOS), ""},
		{"class CH, version.bind", question("version.bind.", dns.TypeTXT, dns.ClassCHAOS), "RFC 4892 2.1: version strings are not given to strangers"},
		{"class CH, id.server", question("id.server.", dns.TypeTXT, dns.ClassCHAOS), "RFC 4892: AA is not spoken of; we are who knows"},
		{"class HS", question("z.test.", dns.TypeA, dns.ClassHESIOD), ""},
		{"class NONE", question("z.test.", dns.TypeA, dns.ClassNONE), ""},
		{"class ANY", question("z.test.", dns.TypeA, dns.ClassANY), "RFC 1035 6.2: an answer to it cannot be authoritative, and no other leaves (RFC 3258 2.1)"},
		{"class 0", question("z.test.", dns.TypeA, 0), ""},
		{"type 0", question("z.test.", 0, dns.ClassINET), "RFC 6895 3.1: reserved"},
		{"type OPT", question("z.test.", dns.TypeOPT, dns.ClassINET), "RFC 6895 3.1: nobody can ask for data of a meta type"},
		{"another zone", question("z.example.", dns.TypeA, dns.ClassINET), ""},
		{"the root", question(".", dns.TypeNS, dns.ClassINET), ""},
	}
}
