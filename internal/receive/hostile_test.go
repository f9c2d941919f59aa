package receive

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/zone"
	"github.com/coredns-anycast/coredns-anycast/internal/zonefile"
)

// No real server misbehaves as these do, so a small one does that for them: it answers a request over TCP with whatever a
// test makes of it.
type fake struct {
	t   *testing.T
	at  netip.AddrPort
	key *Key

	serial string // of its SOA; "5" if it is empty
}

// answerer is one request being answered.
type answerer struct {
	t     *testing.T
	conn  net.Conn
	q     *dns.Msg
	key   *Key
	mac   string
	later bool
	held  [][]byte // messages since the last signature
}

func newFake(t *testing.T, key *Key, answer func(a *answerer)) *fake {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return fakeAt(t, l, key, answer)
}

func fakeAt(t *testing.T, l net.Listener, key *Key, answer func(a *answerer)) *fake {
	t.Cleanup(func() { l.Close() })
	f := &fake{t: t, at: l.Addr().(*net.TCPAddr).AddrPort(), key: key}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go f.serve(conn, answer)
		}
	}()
	return f
}

func (f *fake) serve(conn net.Conn, answer func(a *answerer)) {
	defer conn.Close()
	for {
		head := make([]byte, 2)
		if _, err := io.ReadFull(conn, head); err != nil {
			return
		}
		raw := make([]byte, binary.BigEndian.Uint16(head))
		if _, err := io.ReadFull(conn, raw); err != nil {
			return
		}
		q := new(dns.Msg)
		if q.Unpack(raw) != nil {
			return
		}
		a := &answerer{t: f.t, conn: conn, q: q, key: f.key}
		if sig := q.IsTsig(); sig != nil {
			a.mac = sig.MAC
		}
		if q.Question[0].Qtype == dns.TypeSOA {
			a.send(true, soa(cmp.Or(f.serial, "5")))
			continue
		}
		answer(a)
		return
	}
}

func rr(text string) dns.RR {
	r, err := dns.NewRR(text)
	if err != nil {
		panic(err)
	}
	return r
}

func rrs(texts ...string) (list []dns.RR) {
	for _, t := range texts {
		list = append(list, rr(t))
	}
	return list
}

func soa(serial string) dns.RR {
	return rr("example.org. 300 IN SOA ns1.example.org. host.example.org. " + serial + " 3600 900 1209600 300")
}

func (a *answerer) reply(records ...dns.RR) *dns.Msg {
	m := new(dns.Msg).SetReply(a.q)
	m.Authoritative, m.Compress, m.Answer = true, true, records
	return m
}

// send sends a message, signed or not. With a key, signatures cover what came unsigned before them.
func (a *answerer) send(signed bool, records ...dns.RR) { a.raw(a.pack(signed, a.reply(records...))) }

func (a *answerer) raw(wire []byte) error {
	_, err := a.conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(wire))), wire...))
	return err
}

func (a *answerer) pack(signed bool, m *dns.Msg) []byte {
	m.Extra = nil
	if !signed || a.key == nil {
		wire, err := m.Pack()
		if err != nil {
			panic(err)
		}
		a.held = append(a.held, bytes.Clone(wire))
		return wire
	}
	m.SetTsig(a.key.Name, a.key.Algorithm, 300, time.Now().Unix())
	wire, mac, err := dns.TsigGenerateWithProvider(m, &rolling{a}, a.mac, a.later)
	if err != nil {
		panic(err)
	}
	a.mac, a.later, a.held = mac, true, nil
	return wire
}

// rolling signs with what came unsigned put between the MAC before and the message, which the dns package does not know.
type rolling struct{ a *answerer }

func (r *rolling) Generate(msg []byte, _ *dns.TSIG) ([]byte, error) {
	sum := r.a.key.hash()
	prior := 0
	if r.a.mac != "" {
		prior = 2 + len(r.a.mac)/2
	}
	sum.Write(msg[:prior])
	for _, held := range r.a.held {
		sum.Write(held)
	}
	sum.Write(msg[prior:])
	return sum.Sum(nil), nil
}

func (*rolling) Verify([]byte, *dns.TSIG) error { return errors.New("not here") }

var (
	first  = soa("5")
	second = rr("example.org. 300 IN NS ns1.example.org.")
	third  = rr("ns1.example.org. 300 IN A 192.0.2.1")
)

// fetch asks a fake for example.org.
func (f *fake) fetch(have *version, before *zone.Zone, limits Limits) (transferred, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c := client{limits, time.Now, nil}
	return c.once(ctx, Primary{Address: f.at, Key: f.key}, nil, "example.org.", have, func() (*zone.Zone, error) { return before, nil })
}

// quick has room for a busy machine in time, and little else; impatient is for those that must run out of time.
var (
	quick     = Limits{Octets: 1 << 20, Records: 10_000, Time: 20 * time.Second, Stall: 10 * time.Second}
	impatient = Limits{Octets: 1 << 20, Records: 10_000, Time: 2 * time.Second, Stall: 300 * time.Millisecond}
)

// What is right although it looks odd: signatures with as many gaps as are allowed, one record a message, a question in
// the first message only, a difference answered by a whole zone.
func TestOddTransfersThatAreRight(t *testing.T) {
	for _, c := range []struct {
		name   string
		key    *Key
		answer func(a *answerer)
	}{
		{"all in one message", nil, func(a *answerer) { a.send(false, first, second, third, first) }},
		{"a record a message", key256, func(a *answerer) {
			for _, r := range []dns.RR{first, second, third, first} {
				a.send(true, r)
			}
		}},
		{"99 messages without a signature between two that have one", key256, func(a *answerer) {
			a.send(true, first)
			for range 2 {
				for range maxUnsigned {
					a.send(false, second)
				}
				a.send(true, third)
			}
			a.send(true, first)
		}},
		{"no question from the second message on", nil, func(a *answerer) {
			a.send(false, first, second)
			m := a.reply(third, first)
			m.Question = nil
			a.raw(a.pack(false, m))
		}},
		{"an empty message in the middle", nil, func(a *answerer) { a.send(false, first, second); a.send(false); a.send(false, third, first) }},
		{"a last SOA of lower TTL", nil, func(a *answerer) {
			last := dns.Copy(first)
			last.Header().Ttl = 0
			a.send(false, first, second, third, last)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := newFake(t, c.key, c.answer).fetch(nil, nil, quick)
			if err != nil || got.zone == nil || got.zone.Serial() != 5 || got.zone.Len() != 3 {
				t.Fatalf("%+v, %v", got, err)
			}
		})
	}
}

// TestOddRecordsHoldBackNoZone: what is not in the zone is dropped, a TTL above 2^31-1 is 0, and both are said.
func TestOddRecordsHoldBackNoZone(t *testing.T) {
	outside, below := rr("www.example.net. 300 IN A 192.0.2.9"), rr("example.org.example.net. 300 IN A 192.0.2.9")
	forever := rr("w.example.org. 300 IN A 192.0.2.9")
	forever.Header().Ttl = 1<<31 + 1
	before := parsed(t, "example.org.", differencesBase)
	for name, c := range map[string]struct {
		have *version
		rrs  []dns.RR
	}{
		"AXFR": {nil, []dns.RR{first, second, outside, third, below, forever, first}},
		"IXFR": {&version{5, before.Len()}, []dns.RR{soa("6"), soa("5"), outside, soa("6"), below, forever, soa("6")}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := newFake(t, nil, func(a *answerer) { a.send(false, c.rrs...) }).fetch(c.have, before, quick)
			if err != nil {
				t.Fatal(err)
			}
			var text strings.Builder
			zonefile.Write(&text, got.zone)
			if strings.Contains(text.String(), "example.net.\t") || !strings.Contains(text.String(), "w.example.org.\t0\tIN\tA\t192.0.2.9\n") {
				t.Errorf("the zone is\n%s", &text)
			}
			odd := strings.Join(got.odd, "; ")
			for _, want := range []string{"2 records that are not in the zone were dropped, the first one www.example.net. A",
				"1 records with a TTL above 2147483647 were taken with TTL 0 (RFC 2181 8), the first one w.example.org. A"} {
				if !strings.Contains(odd, want) {
					t.Errorf("%q lacks %q", odd, want)
				}
			}
		})
	}
}

// Each of these is refused, for the reason given.
func TestHostilePrimaries(t *testing.T) {
	many := func(a *answerer, n int, signed bool) {
		for range n {
			a.send(signed, second)
		}
	}
	for _, c := range []struct {
		name   string
		key    *Key
		answer func(a *answerer)
		want   string
	}{
		{"closes in the middle", nil, func(a *answerer) { a.send(false, first, second) }, "closed the connection in the middle"},
		{"closes within a message", nil, func(a *answerer) { a.conn.Write([]byte{1, 0, 1, 2, 3}) }, "closed the connection in the middle"},
		{"stalls", nil, func(a *answerer) { a.send(false, first, second); a.conn.Read(make([]byte, 1)) }, "i/o timeout"},
		{"trickles octets within a message", nil, func(a *answerer) {
			wire := a.pack(false, a.reply(first, second, third, first))
			a.conn.Write(binary.BigEndian.AppendUint16(nil, uint16(len(wire))))
			for _, c := range wire {
				if _, err := a.conn.Write([]byte{c}); err != nil {
					return
				}
				time.Sleep(20 * time.Millisecond)
			}
		}, "i/o timeout"},
		{"trickles messages for ever", nil, func(a *answerer) {
			a.send(false, first)
			for a.raw(a.pack(false, a.reply(second))) == nil {
				time.Sleep(50 * time.Millisecond)
			}
		}, "i/o timeout"},
		{"endless", nil, func(a *answerer) {
			a.send(false, first)
			wire := a.pack(false, a.reply(second, third))
			for a.raw(wire) == nil {
			}
		}, "more than 10000 records"},
		{"endless, and large", nil, func(a *answerer) {
			a.send(false, first)
			text := rr("example.org. 300 IN TXT " + strings.Repeat(`"`+strings.Repeat("x", 250)+`" `, 200))
			wire := a.pack(false, a.reply(text))
			for a.raw(wire) == nil {
			}
		}, "more than 1048576 octets"},
		{"an empty first message", nil, func(a *answerer) { a.send(false); a.send(false, first, second, third, first) }, "a first message without a record"},
		{"empty messages for ever", nil, func(a *answerer) {
			a.send(false, first)
			wire := a.pack(false, a.reply())
			for a.raw(wire) == nil {
			}
		}, "more than 1048576 octets"},
		{"a record short of its count", nil, func(a *answerer) {
			wire := a.pack(false, a.reply(first, second, first))
			binary.BigEndian.PutUint16(wire[6:], 9)
			a.raw(wire)
		}, "ends too early"},
		{"octets after the message's end", nil, func(a *answerer) { a.raw(append(a.pack(false, a.reply(first, second, third, first)), 0)) }, "1 octets after"},
		{"another zone", nil, func(a *answerer) {
			a.send(false, rrs("example.net. 300 IN SOA ns1.example.net. host.example.net. 5 1 1 1 1", "example.net. 300 IN NS ns1.example.net.")...)
		}, "example.net. is not in the zone"},
		{"no SOA first", nil, func(a *answerer) { a.send(false, second, first) }, "want the zone's SOA"},
		{"another SOA last", nil, func(a *answerer) { a.send(false, first, second, third, soa("6")) }, "ends with another one"},
		{"a record after the last", nil, func(a *answerer) { a.send(false, first, second, third, first, third) }, "after the last one"},
		{"a SOA below", nil, func(a *answerer) {
			a.send(false, first, second, rr("sub.example.org. 300 IN SOA a. b. 5 1 1 1 1"), first)
		}, "a SOA record below"},
		{"class CH", nil, func(a *answerer) { a.send(false, first, rr(`example.org. 300 CH TXT "x"`), first) }, "class CH"},
		{"another id", nil, func(a *answerer) { a.q.Id++; a.send(false, first, second, third, first) }, "the answer has id"},
		{"another question", nil, func(a *answerer) { a.q.Question[0].Qtype = dns.TypeA; a.send(false, first, second, third, first) }, "another question"},
		{"truncated", nil, func(a *answerer) {
			m := a.reply(first, second, third, first)
			m.Truncated = true
			a.raw(a.pack(false, m))
		}, "truncated"},
		{"REFUSED", nil, func(a *answerer) {
			m := a.reply()
			m.Rcode = dns.RcodeRefused
			a.raw(a.pack(false, m))
		}, "the answer is REFUSED"},
		{"a zone that cannot be served", nil, func(a *answerer) {
			a.send(false, first, second, rr("www.example.org. 300 IN CNAME a."), rr("www.example.org. 300 IN A 192.0.2.1"), first)
		}, "cname-and-other-data"},
		{"RDATA that is none", nil, func(a *answerer) {
			a.send(false, first, second, third, &dns.RFC3597{Hdr: dns.RR_Header{Name: "x.example.org.", Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 1}, Rdata: "01"}, first)
		}, "malformed RDATA"},

		{"the first message is not signed", key256, func(a *answerer) { a.send(false, first, second, third, first) }, "not signed with key"},
		{"the last message is not signed", key256, func(a *answerer) { a.send(true, first, second); a.send(false, third, first) }, "the last message is not signed"},
		{"100 messages without a signature", key256, func(a *answerer) {
			a.send(true, first)
			many(a, maxUnsigned+1, false)
			a.send(true, first)
		}, "more than 99 messages without a signature"},
		{"the tenth signature is wrong", key256, func(a *answerer) {
			a.send(true, first)
			many(a, 9, true)
			wire := a.pack(true, a.reply(third, first))
			wire[len(wire)-8] ^= 1
			a.raw(wire)
		}, "BADSIG"},
		{"an unsigned message was changed", key256, func(a *answerer) {
			a.send(true, first)
			wire := a.pack(false, a.reply(third))
			wire[len(wire)-1] ^= 1
			a.raw(wire)
			a.send(true, first)
		}, "BADSIG"},
		{"an unsigned message was left out", key256, func(a *answerer) {
			a.send(true, first)
			a.pack(false, a.reply(third))
			a.send(true, second, first)
		}, "BADSIG"},
		{"two signed messages were swapped", key256, func(a *answerer) {
			a.send(true, first)
			x := a.pack(true, a.reply(second))
			y := a.pack(true, a.reply(third))
			a.raw(y)
			a.raw(x)
			a.send(true, first)
		}, "BADSIG"},
		{"signed with another key", key256, func(a *answerer) { a.key = testKeys[dns.HmacSHA512]; a.send(true, first, second, third, first) }, "signed with key sha512.key."},
		{"signed long ago", key256, func(a *answerer) {
			m := a.reply(first, second, third, first)
			m.SetTsig(a.key.Name, a.key.Algorithm, 300, time.Now().Unix()-301)
			wire, _, _ := dns.TsigGenerateWithProvider(m, &rolling{a}, a.mac, false)
			a.raw(wire)
		}, "BADTIME"},
		{"a shortened MAC", key256, func(a *answerer) {
			m := a.reply(first, second, third, first)
			m.SetTsig(a.key.Name, a.key.Algorithm, 300, time.Now().Unix())
			_, mac, _ := dns.TsigGenerateWithProvider(m, &rolling{a}, a.mac, false)
			m = a.reply(first, second, third, first)
			m.SetTsig(a.key.Name, a.key.Algorithm, 300, time.Now().Unix())
			sig := m.Extra[0].(*dns.TSIG)
			sig.MAC, sig.MACSize = mac[:32], 16
			wire, _ := m.Pack()
			a.raw(wire)
		}, "BADSIG"},
		{"a TSIG record of class IN", key256, func(a *answerer) {
			m := a.reply(first, second, third, first)
			m.SetTsig(a.key.Name, a.key.Algorithm, 300, time.Now().Unix())
			m.Extra[0].Header().Class = dns.ClassINET
			wire, _, _ := dns.TsigGenerateWithProvider(m, &rolling{a}, a.mac, false)
			a.raw(wire)
		}, "malformed TSIG"},
		{"signed, and no key is agreed", nil, func(a *answerer) { a.key = key256; a.send(true, first, second, third, first) }, "none is agreed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			limits := quick
			if c.want == "i/o timeout" {
				limits = impatient
			}
			got, err := newFake(t, c.key, c.answer).fetch(nil, nil, limits)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%+v, error %v; want %q", got, err, c.want)
			}
		})
	}
}

const differencesBase = "$ORIGIN example.org.\n$TTL 300\n@ SOA ns1 host 5 3600 900 1209600 300\n@ NS ns1\nns1 A 192.0.2.1\nold A 192.0.2.2\nmail MX 10 Mail.Example.NET.\n"

// Differences in every form that RFC 1995 4 has, and that mean what they say.
func TestDifferences(t *testing.T) {
	before := parsed(t, "example.org.", differencesBase)
	gone, came := rr("old.example.org. 300 IN A 192.0.2.2"), rr("new.example.org. 60 IN AAAA 2001:db8::1")
	for _, c := range []struct {
		name string
		rrs  []dns.RR
		want string // in place of the base's lines from old on; empty: up to date
	}{
		{"up to date", []dns.RR{soa("5")}, ""},
		{"behind us", []dns.RR{soa("4")}, ""},
		{"one", []dns.RR{soa("6"), soa("5"), gone, soa("6"), came, soa("6")}, "mail MX 10 Mail.Example.NET.\nnew 60 AAAA 2001:db8::1\n"},
		{"several, the second undoing half of the first", []dns.RR{soa("9"), soa("5"), gone, soa("7"), came, soa("7"), came, soa("9"), gone, soa("9")},
			"mail MX 10 Mail.Example.NET.\nold A 192.0.2.2\n"},
		{"only additions", []dns.RR{soa("6"), soa("5"), soa("6"), came, soa("6")}, "mail MX 10 Mail.Example.NET.\nold A 192.0.2.2\nnew 60 AAAA 2001:db8::1\n"},
		{"another TTL", []dns.RR{soa("6"), soa("5"), gone, soa("6"), rr("old.example.org. 7 IN A 192.0.2.2"), soa("6")}, "mail MX 10 Mail.Example.NET.\nold 7 A 192.0.2.2\n"},
		{"other case", []dns.RR{soa("6"), soa("5"), rr("MAIL.example.org. 300 IN MX 10 mail.example.net."), soa("6"), soa("6")}, "old A 192.0.2.2\n"},
		{"an addition of what is there", []dns.RR{soa("6"), soa("5"), gone, soa("6"), third, soa("6")}, "mail MX 10 Mail.Example.NET.\n"},
		{"past 2^31", []dns.RR{soa("2147483652"), soa("5"), gone, soa("2147483652"), soa("2147483652")}, "mail MX 10 Mail.Example.NET.\n"},
		{"a whole zone", []dns.RR{soa("6"), second, third, soa("6")}, "whole"},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, each := range []bool{false, true} { // in one message, and one record a message
				f := newFake(t, nil, func(a *answerer) {
					if !each {
						a.send(false, c.rrs...)
						return
					}
					for _, r := range c.rrs {
						a.send(false, r)
					}
				})
				got, err := f.fetch(&version{5, before.Len()}, before, quick)
				switch {
				case err != nil:
					t.Fatal(err)
				case c.want == "":
					if got.zone != nil {
						t.Errorf("%+v", got)
					}
				case c.want == "whole":
					if got.how != AXFR || got.zone.Len() != 3 {
						t.Errorf("%+v", got)
					}
				default:
					text := strings.Replace(differencesBase[:strings.Index(differencesBase, "old")], "host 5", "host "+strings.Fields(c.rrs[0].String())[6], 1) + c.want
					if got.how != IXFR {
						t.Errorf("how %s", got.how)
					}
					sameZone(t, got.zone, parsed(t, "example.org.", text))
				}
			}
		})
	}
}

// Differences that do not fit, or make no sense, are not used.
func TestDifferencesThatAreRefused(t *testing.T) {
	before := parsed(t, "example.org.", differencesBase)
	gone, came := rr("old.example.org. 300 IN A 192.0.2.2"), rr("new.example.org. 60 IN AAAA 2001:db8::1")
	absent, there := rr("no.example.org. 300 IN A 192.0.2.2"), rr("ns1.example.org. 301 IN A 192.0.2.1")
	for _, c := range []struct {
		name string
		rrs  []dns.RR
		want string
	}{
		{"from another serial", []dns.RR{soa("6"), soa("4"), gone, soa("6"), came, soa("6")}, "differences from serial 4"},
		{"a deletion of what is not there", []dns.RR{soa("6"), soa("5"), absent, soa("6"), soa("6")}, "no.example.org. A is deleted, and not there"},
		{"an addition of what is there, with another TTL", []dns.RR{soa("6"), soa("5"), soa("6"), there, soa("6")}, "ns1.example.org. A is added, and there already"},
		{"an addition of what is there, undone", []dns.RR{soa("7"), soa("5"), soa("6"), third, soa("6"), third, soa("7"), soa("7")}, "ns1.example.org. A is added, and there already"},
		{"a deletion twice", []dns.RR{soa("6"), soa("5"), gone, gone, soa("6"), soa("6")}, "deleted twice"},
		{"an addition twice", []dns.RR{soa("6"), soa("5"), soa("6"), came, came, soa("6")}, "added twice"},
		{"another old SOA", []dns.RR{soa("6"), rr("example.org. 300 IN SOA other. host.example.org. 5 3600 900 1209600 300"), soa("6"), soa("6")}, "SOA is"},
		{"a gap between two", []dns.RR{soa("9"), soa("5"), gone, soa("6"), came, soa("7"), soa("9"), soa("9")}, "a difference from serial 7 after one to 6"},
		{"backwards", []dns.RR{soa("6"), soa("5"), gone, soa("4"), came, soa("4"), soa("6"), soa("6")}, "from serial 5 to 4, which is not above it"},
		{"more than the zone", append([]dns.RR{soa("6"), soa("5")}, func() (list []dns.RR) {
			for i := range 10_001 {
				list = append(list, &dns.A{Hdr: dns.RR_Header{Name: "x.example.org.", Rrtype: dns.TypeA, Class: dns.ClassINET}, A: net.IPv4(10, 0, byte(i>>8), byte(i))})
			}
			return list
		}()...), "more than 10000 differences"},
		{"a result that cannot be served", []dns.RR{soa("6"), soa("5"), second, soa("6"), soa("6")}, "apex-ns"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFake(t, nil, func(a *answerer) {
				for len(c.rrs) > 0 {
					n := min(100, len(c.rrs))
					a.send(false, c.rrs[:n]...)
					c.rrs = c.rrs[n:]
				}
			})
			limits := quick
			limits.Records = 100_000
			got, err := f.fetch(&version{5, before.Len()}, before, limits)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%+v, error %v; want %q", got, err, c.want)
			}
		})
	}
}

func TestSerialArithmetic(t *testing.T) {
	for _, c := range []struct {
		a, b uint32
		want bool
	}{{1, 0, true}, {0, 1, false}, {0, 0, false}, {0, 1<<32 - 1, true}, {1<<32 - 1, 0, false}, {5 + 1<<31 - 1, 5, true}, {5 + 1<<31, 5, false}, {5, 5 + 1<<31, false}} {
		if newer(c.a, c.b) != c.want {
			t.Errorf("%d newer than %d: want %v", c.a, c.b, c.want)
		}
	}
}
