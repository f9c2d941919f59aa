package xfr

import (
	"context"
	"encoding/binary"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/primarytest"
	"github.com/coredns-anycast/coredns-anycast/internal/zone"
	"github.com/coredns-anycast/coredns-anycast/internal/zonefile"
)

// fake is a primary that misbehaves, and the key agreed on.
type fake struct {
	*primarytest.Fake
	key *Key
}

func newFake(t *testing.T, key *Key, answer func(a *primarytest.Request)) *fake {
	if key == nil {
		return &fake{primarytest.NewFake(t, nil, answer), nil}
	}
	return &fake{primarytest.NewFake(t, primarytest.Keys[key.Algorithm], answer), key}
}

// fetch asks a fake for example.org.
func (f *fake) fetch(have *Version, before *zone.Zone, limits Limits) (Transferred, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c := Client{Limits: limits, Now: time.Now}
	return c.once(ctx, Primary{Address: f.At, Key: f.key}, nil, "example.org.", have, func() (*zone.Zone, error) { return before, nil })
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
		answer func(a *primarytest.Request)
	}{
		{"all in one message", nil, func(a *primarytest.Request) {
			a.Send(false, primarytest.First, primarytest.Second, primarytest.Third, primarytest.First)
		}},
		{"a record a message", key256, func(a *primarytest.Request) {
			for _, r := range []dns.RR{primarytest.First, primarytest.Second, primarytest.Third, primarytest.First} {
				a.Send(true, r)
			}
		}},
		{"99 messages without a signature between two that have one", key256, func(a *primarytest.Request) {
			a.Send(true, primarytest.First)
			for range 2 {
				for range maxUnsigned {
					a.Send(false, primarytest.Second)
				}
				a.Send(true, primarytest.Third)
			}
			a.Send(true, primarytest.First)
		}},
		{"no question from the second message on", nil, func(a *primarytest.Request) {
			a.Send(false, primarytest.First, primarytest.Second)
			m := a.Reply(primarytest.Third, primarytest.First)
			m.Question = nil
			a.Raw(a.Pack(false, m))
		}},
		{"an empty message in the middle", nil, func(a *primarytest.Request) {
			a.Send(false, primarytest.First, primarytest.Second)
			a.Send(false)
			a.Send(false, primarytest.Third, primarytest.First)
		}},
		{"a last SOA of lower TTL", nil, func(a *primarytest.Request) {
			last := dns.Copy(primarytest.First)
			last.Header().Ttl = 0
			a.Send(false, primarytest.First, primarytest.Second, primarytest.Third, last)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := newFake(t, c.key, c.answer).fetch(nil, nil, quick)
			if err != nil || got.Zone == nil || got.Zone.Serial() != 5 || got.Zone.Len() != 3 {
				t.Fatalf("%+v, %v", got, err)
			}
		})
	}
}

// TestOddRecordsHoldBackNoZone: what is not in the zone is dropped, a TTL above 2^31-1 is 0, and both are said.
func TestOddRecordsHoldBackNoZone(t *testing.T) {
	outside, below := primarytest.RR("www.example.net. 300 IN A 192.0.2.9"), primarytest.RR("example.org.example.net. 300 IN A 192.0.2.9")
	forever := primarytest.RR("w.example.org. 300 IN A 192.0.2.9")
	forever.Header().Ttl = 1<<31 + 1
	before := primarytest.Parsed(t, "example.org.", differencesBase)
	for name, c := range map[string]struct {
		have *Version
		rrs  []dns.RR
	}{
		"AXFR": {nil, []dns.RR{primarytest.First, primarytest.Second, outside, primarytest.Third, below, forever, primarytest.First}},
		"IXFR": {&Version{5, before.Len()}, []dns.RR{primarytest.SOA("6"), primarytest.SOA("5"), outside, primarytest.SOA("6"), below, forever, primarytest.SOA("6")}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := newFake(t, nil, func(a *primarytest.Request) { a.Send(false, c.rrs...) }).fetch(c.have, before, quick)
			if err != nil {
				t.Fatal(err)
			}
			var text strings.Builder
			zonefile.Write(&text, got.Zone)
			if strings.Contains(text.String(), "example.net.\t") || !strings.Contains(text.String(), "w.example.org.\t0\tIN\tA\t192.0.2.9\n") {
				t.Errorf("the zone is\n%s", &text)
			}
			odd := strings.Join(got.Odd, "; ")
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
	many := func(a *primarytest.Request, n int, signed bool) {
		for range n {
			a.Send(signed, primarytest.Second)
		}
	}
	for _, c := range []struct {
		name   string
		key    *Key
		answer func(a *primarytest.Request)
		want   string
	}{
		{"closes in the middle", nil, func(a *primarytest.Request) { a.Send(false, primarytest.First, primarytest.Second) }, "closed the connection in the middle"},
		{"closes within a message", nil, func(a *primarytest.Request) { a.Conn.Write([]byte{1, 0, 1, 2, 3}) }, "closed the connection in the middle"},
		{"stalls", nil, func(a *primarytest.Request) {
			a.Send(false, primarytest.First, primarytest.Second)
			a.Conn.Read(make([]byte, 1))
		}, "i/o timeout"},
		{"trickles octets within a message", nil, func(a *primarytest.Request) {
			wire := a.Pack(false, a.Reply(primarytest.First, primarytest.Second, primarytest.Third, primarytest.First))
			a.Conn.Write(binary.BigEndian.AppendUint16(nil, uint16(len(wire))))
			for _, c := range wire {
				if _, err := a.Conn.Write([]byte{c}); err != nil {
					return
				}
				time.Sleep(20 * time.Millisecond)
			}
		}, "i/o timeout"},
		{"trickles messages for ever", nil, func(a *primarytest.Request) {
			a.Send(false, primarytest.First)
			for a.Raw(a.Pack(false, a.Reply(primarytest.Second))) == nil {
				time.Sleep(50 * time.Millisecond)
			}
		}, "i/o timeout"},
		{"endless", nil, func(a *primarytest.Request) {
			a.Send(false, primarytest.First)
			wire := a.Pack(false, a.Reply(primarytest.Second, primarytest.Third))
			for a.Raw(wire) == nil {
			}
		}, "more than 10000 records"},
		{"endless, and large", nil, func(a *primarytest.Request) {
			a.Send(false, primarytest.First)
			text := primarytest.RR("example.org. 300 IN TXT " + strings.Repeat(`"`+strings.Repeat("x", 250)+`" `, 200))
			wire := a.Pack(false, a.Reply(text))
			for a.Raw(wire) == nil {
			}
		}, "more than 1048576 octets"},
		{"an empty first message", nil, func(a *primarytest.Request) {
			a.Send(false)
			a.Send(false, primarytest.First, primarytest.Second, primarytest.Third, primarytest.First)
		}, "a first message without a record"},
		{"empty messages for ever", nil, func(a *primarytest.Request) {
			a.Send(false, primarytest.First)
			wire := a.Pack(false, a.Reply())
			for a.Raw(wire) == nil {
			}
		}, "more than 1048576 octets"},
		{"a record short of its count", nil, func(a *primarytest.Request) {
			wire := a.Pack(false, a.Reply(primarytest.First, primarytest.Second, primarytest.First))
			binary.BigEndian.PutUint16(wire[6:], 9)
			a.Raw(wire)
		}, "ends too early"},
		{"octets after the message's end", nil, func(a *primarytest.Request) {
			a.Raw(append(a.Pack(false, a.Reply(primarytest.First, primarytest.Second, primarytest.Third, primarytest.First)), 0))
		}, "1 octets after"},
		{"another zone", nil, func(a *primarytest.Request) {
			a.Send(false, primarytest.RRs("example.net. 300 IN SOA ns1.example.net. host.example.net. 5 1 1 1 1", "example.net. 300 IN NS ns1.example.net.")...)
		}, "example.net. is not in the zone"},
		{"no SOA first", nil, func(a *primarytest.Request) { a.Send(false, primarytest.Second, primarytest.First) }, "want the zone's SOA"},
		{"another SOA last", nil, func(a *primarytest.Request) {
			a.Send(false, primarytest.First, primarytest.Second, primarytest.Third, primarytest.SOA("6"))
		}, "ends with another one"},
		{"a record after the last", nil, func(a *primarytest.Request) {
			a.Send(false, primarytest.First, primarytest.Second, primarytest.Third, primarytest.First, primarytest.Third)
		}, "after the last one"},
		{"a SOA below", nil, func(a *primarytest.Request) {
			a.Send(false, primarytest.First, primarytest.Second, primarytest.RR("sub.example.org. 300 IN SOA a. b. 5 1 1 1 1"), primarytest.First)
		}, "a SOA record below"},
		{"class CH", nil, func(a *primarytest.Request) {
			a.Send(false, primarytest.First, primarytest.RR(`example.org. 300 CH TXT "x"`), primarytest.First)
		}, "class CH"},
		{"another id", nil, func(a *primarytest.Request) {
			a.Query.Id++
			a.Send(false, primarytest.First, primarytest.Second, primarytest.Third, primarytest.First)
		}, "the answer has id"},
		{"another question", nil, func(a *primarytest.Request) {
			a.Query.Question[0].Qtype = dns.TypeA
			a.Send(false, primarytest.First, primarytest.Second, primarytest.Third, primarytest.First)
		}, "another question"},
		{"truncated", nil, func(a *primarytest.Request) {
			m := a.Reply(primarytest.First, primarytest.Second, primarytest.Third, primarytest.First)
			m.Truncated = true
			a.Raw(a.Pack(false, m))
		}, "truncated"},
		{"REFUSED", nil, func(a *primarytest.Request) {
			m := a.Reply()
			m.Rcode = dns.RcodeRefused
			a.Raw(a.Pack(false, m))
		}, "the answer is REFUSED"},
		{"a zone that cannot be served", nil, func(a *primarytest.Request) {
			a.Send(false, primarytest.First, primarytest.Second, primarytest.RR("www.example.org. 300 IN CNAME a."), primarytest.RR("www.example.org. 300 IN A 192.0.2.1"), primarytest.First)
		}, "cname-and-other-data"},
		{"RDATA that is none", nil, func(a *primarytest.Request) {
			a.Send(false, primarytest.First, primarytest.Second, primarytest.Third, &dns.RFC3597{Hdr: dns.RR_Header{Name: "x.example.org.", Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 1}, Rdata: "01"}, primarytest.First)
		}, "malformed RDATA"},

		{"the first message is not signed", key256, func(a *primarytest.Request) {
			a.Send(false, primarytest.First, primarytest.Second, primarytest.Third, primarytest.First)
		}, "not signed with key"},
		{"the last message is not signed", key256, func(a *primarytest.Request) {
			a.Send(true, primarytest.First, primarytest.Second)
			a.Send(false, primarytest.Third, primarytest.First)
		}, "the last message is not signed"},
		{"100 messages without a signature", key256, func(a *primarytest.Request) {
			a.Send(true, primarytest.First)
			many(a, maxUnsigned+1, false)
			a.Send(true, primarytest.First)
		}, "more than 99 messages without a signature"},
		{"the tenth signature is wrong", key256, func(a *primarytest.Request) {
			a.Send(true, primarytest.First)
			many(a, 9, true)
			wire := a.Pack(true, a.Reply(primarytest.Third, primarytest.First))
			wire[len(wire)-8] ^= 1
			a.Raw(wire)
		}, "BADSIG"},
		{"an unsigned message was changed", key256, func(a *primarytest.Request) {
			a.Send(true, primarytest.First)
			wire := a.Pack(false, a.Reply(primarytest.Third))
			wire[len(wire)-1] ^= 1
			a.Raw(wire)
			a.Send(true, primarytest.First)
		}, "BADSIG"},
		{"an unsigned message was left out", key256, func(a *primarytest.Request) {
			a.Send(true, primarytest.First)
			a.Pack(false, a.Reply(primarytest.Third))
			a.Send(true, primarytest.Second, primarytest.First)
		}, "BADSIG"},
		{"two signed messages were swapped", key256, func(a *primarytest.Request) {
			a.Send(true, primarytest.First)
			x := a.Pack(true, a.Reply(primarytest.Second))
			y := a.Pack(true, a.Reply(primarytest.Third))
			a.Raw(y)
			a.Raw(x)
			a.Send(true, primarytest.First)
		}, "BADSIG"},
		{"signed with another key", key256, func(a *primarytest.Request) {
			a.Key = primarytest.Keys[dns.HmacSHA512]
			a.Send(true, primarytest.First, primarytest.Second, primarytest.Third, primarytest.First)
		}, "signed with key sha512.key."},
		{"signed long ago", key256, func(a *primarytest.Request) {
			m := a.Reply(primarytest.First, primarytest.Second, primarytest.Third, primarytest.First)
			m.SetTsig(a.Key.Name, a.Key.Algorithm, 300, time.Now().Unix()-301)
			wire, _ := a.Sign(m)
			a.Raw(wire)
		}, "BADTIME"},
		{"a shortened MAC", key256, func(a *primarytest.Request) {
			m := a.Reply(primarytest.First, primarytest.Second, primarytest.Third, primarytest.First)
			m.SetTsig(a.Key.Name, a.Key.Algorithm, 300, time.Now().Unix())
			_, mac := a.Sign(m)
			m = a.Reply(primarytest.First, primarytest.Second, primarytest.Third, primarytest.First)
			m.SetTsig(a.Key.Name, a.Key.Algorithm, 300, time.Now().Unix())
			sig := m.Extra[0].(*dns.TSIG)
			sig.MAC, sig.MACSize = mac[:32], 16
			wire, _ := m.Pack()
			a.Raw(wire)
		}, "BADSIG"},
		{"a TSIG record of class IN", key256, func(a *primarytest.Request) {
			m := a.Reply(primarytest.First, primarytest.Second, primarytest.Third, primarytest.First)
			m.SetTsig(a.Key.Name, a.Key.Algorithm, 300, time.Now().Unix())
			m.Extra[0].Header().Class = dns.ClassINET
			wire, _ := a.Sign(m)
			a.Raw(wire)
		}, "malformed TSIG"},
		{"signed, and no key is agreed", nil, func(a *primarytest.Request) {
			a.Key = primarytest.Keys[dns.HmacSHA256]
			a.Send(true, primarytest.First, primarytest.Second, primarytest.Third, primarytest.First)
		}, "none is agreed"},
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
	before := primarytest.Parsed(t, "example.org.", differencesBase)
	gone, came := primarytest.RR("old.example.org. 300 IN A 192.0.2.2"), primarytest.RR("new.example.org. 60 IN AAAA 2001:db8::1")
	for _, c := range []struct {
		name string
		rrs  []dns.RR
		want string // in place of the base's lines from old on; empty: up to date
	}{
		{"up to date", []dns.RR{primarytest.SOA("5")}, ""},
		{"behind us", []dns.RR{primarytest.SOA("4")}, ""},
		{"one", []dns.RR{primarytest.SOA("6"), primarytest.SOA("5"), gone, primarytest.SOA("6"), came, primarytest.SOA("6")}, "mail MX 10 Mail.Example.NET.\nnew 60 AAAA 2001:db8::1\n"},
		{"several, the second undoing half of the first", []dns.RR{primarytest.SOA("9"), primarytest.SOA("5"), gone, primarytest.SOA("7"), came, primarytest.SOA("7"), came, primarytest.SOA("9"), gone, primarytest.SOA("9")},
			"mail MX 10 Mail.Example.NET.\nold A 192.0.2.2\n"},
		{"only additions", []dns.RR{primarytest.SOA("6"), primarytest.SOA("5"), primarytest.SOA("6"), came, primarytest.SOA("6")}, "mail MX 10 Mail.Example.NET.\nold A 192.0.2.2\nnew 60 AAAA 2001:db8::1\n"},
		{"another TTL", []dns.RR{primarytest.SOA("6"), primarytest.SOA("5"), gone, primarytest.SOA("6"), primarytest.RR("old.example.org. 7 IN A 192.0.2.2"), primarytest.SOA("6")}, "mail MX 10 Mail.Example.NET.\nold 7 A 192.0.2.2\n"},
		{"other case", []dns.RR{primarytest.SOA("6"), primarytest.SOA("5"), primarytest.RR("MAIL.example.org. 300 IN MX 10 mail.example.net."), primarytest.SOA("6"), primarytest.SOA("6")}, "old A 192.0.2.2\n"},
		{"an addition of what is there", []dns.RR{primarytest.SOA("6"), primarytest.SOA("5"), gone, primarytest.SOA("6"), primarytest.Third, primarytest.SOA("6")}, "mail MX 10 Mail.Example.NET.\n"},
		{"past 2^31", []dns.RR{primarytest.SOA("2147483652"), primarytest.SOA("5"), gone, primarytest.SOA("2147483652"), primarytest.SOA("2147483652")}, "mail MX 10 Mail.Example.NET.\n"},
		{"a whole zone", []dns.RR{primarytest.SOA("6"), primarytest.Second, primarytest.Third, primarytest.SOA("6")}, "whole"},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, each := range []bool{false, true} { // in one message, and one record a message
				f := newFake(t, nil, func(a *primarytest.Request) {
					if !each {
						a.Send(false, c.rrs...)
						return
					}
					for _, r := range c.rrs {
						a.Send(false, r)
					}
				})
				got, err := f.fetch(&Version{5, before.Len()}, before, quick)
				switch {
				case err != nil:
					t.Fatal(err)
				case c.want == "":
					if got.Zone != nil {
						t.Errorf("%+v", got)
					}
				case c.want == "whole":
					if got.Delta != nil || got.Zone.Len() != 3 {
						t.Errorf("%+v", got)
					}
				default:
					text := strings.Replace(differencesBase[:strings.Index(differencesBase, "old")], "host 5", "host "+strings.Fields(c.rrs[0].String())[6], 1) + c.want
					if got.Delta == nil {
						t.Errorf("not as differences")
					}
					primarytest.SameZone(t, got.Zone, primarytest.Parsed(t, "example.org.", text))
				}
			}
		})
	}
}

// Differences that do not fit, or make no sense, are not used.
func TestDifferencesThatAreRefused(t *testing.T) {
	before := primarytest.Parsed(t, "example.org.", differencesBase)
	gone, came := primarytest.RR("old.example.org. 300 IN A 192.0.2.2"), primarytest.RR("new.example.org. 60 IN AAAA 2001:db8::1")
	absent, there := primarytest.RR("no.example.org. 300 IN A 192.0.2.2"), primarytest.RR("ns1.example.org. 301 IN A 192.0.2.1")
	for _, c := range []struct {
		name string
		rrs  []dns.RR
		want string
	}{
		{"from another serial", []dns.RR{primarytest.SOA("6"), primarytest.SOA("4"), gone, primarytest.SOA("6"), came, primarytest.SOA("6")}, "differences from serial 4"},
		{"a deletion of what is not there", []dns.RR{primarytest.SOA("6"), primarytest.SOA("5"), absent, primarytest.SOA("6"), primarytest.SOA("6")}, "no.example.org. A is deleted, and not there"},
		{"an addition of what is there, with another TTL", []dns.RR{primarytest.SOA("6"), primarytest.SOA("5"), primarytest.SOA("6"), there, primarytest.SOA("6")}, "ns1.example.org. A is added, and there already"},
		{"an addition of what is there, undone", []dns.RR{primarytest.SOA("7"), primarytest.SOA("5"), primarytest.SOA("6"), primarytest.Third, primarytest.SOA("6"), primarytest.Third, primarytest.SOA("7"), primarytest.SOA("7")}, "ns1.example.org. A is added, and there already"},
		{"a deletion twice", []dns.RR{primarytest.SOA("6"), primarytest.SOA("5"), gone, gone, primarytest.SOA("6"), primarytest.SOA("6")}, "deleted twice"},
		{"an addition twice", []dns.RR{primarytest.SOA("6"), primarytest.SOA("5"), primarytest.SOA("6"), came, came, primarytest.SOA("6")}, "added twice"},
		{"another old SOA", []dns.RR{primarytest.SOA("6"), primarytest.RR("example.org. 300 IN SOA other. host.example.org. 5 3600 900 1209600 300"), primarytest.SOA("6"), primarytest.SOA("6")}, "SOA is"},
		{"a gap between two", []dns.RR{primarytest.SOA("9"), primarytest.SOA("5"), gone, primarytest.SOA("6"), came, primarytest.SOA("7"), primarytest.SOA("9"), primarytest.SOA("9")}, "a difference from serial 7 after one to 6"},
		{"backwards", []dns.RR{primarytest.SOA("6"), primarytest.SOA("5"), gone, primarytest.SOA("4"), came, primarytest.SOA("4"), primarytest.SOA("6"), primarytest.SOA("6")}, "from serial 5 to 4, which is not above it"},
		{"more than the zone", append([]dns.RR{primarytest.SOA("6"), primarytest.SOA("5")}, func() (list []dns.RR) {
			for i := range 10_001 {
				list = append(list, &dns.A{Hdr: dns.RR_Header{Name: "x.example.org.", Rrtype: dns.TypeA, Class: dns.ClassINET}, A: net.IPv4(10, 0, byte(i>>8), byte(i))})
			}
			return list
		}()...), "more than 10000 differences"},
		{"a result that cannot be served", []dns.RR{primarytest.SOA("6"), primarytest.SOA("5"), primarytest.Second, primarytest.SOA("6"), primarytest.SOA("6")}, "apex-ns"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFake(t, nil, func(a *primarytest.Request) {
				for len(c.rrs) > 0 {
					n := min(100, len(c.rrs))
					a.Send(false, c.rrs[:n]...)
					c.rrs = c.rrs[n:]
				}
			})
			limits := quick
			limits.Records = 100_000
			got, err := f.fetch(&Version{5, before.Len()}, before, limits)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%+v, error %v; want %q", got, err, c.want)
			}
		})
	}
}
