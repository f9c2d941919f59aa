package sharedunicast

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/coredns/caddy"
	"github.com/miekg/dns"
)

// A file of secrets that has become wrong, or is gone, changes nothing.
func TestSecretsStayWhenTheirFileIsWrong(t *testing.T) {
	file := filepath.Join(t.TempDir(), "secrets")
	put := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	put(strings.Repeat("a", 32) + "\n")
	j, err := openJar(file)
	if err != nil {
		t.Fatal(err)
	}
	j.close() // the test looks at it
	before := *j.secrets.Load()
	put("nonsense")
	if err := j.read(); err == nil || !strings.Contains(err.Error(), file+": line 1: ") {
		t.Errorf("%v", err)
	}
	os.Remove(file)
	if err := j.read(); err == nil {
		t.Error("a file that is gone is no error")
	}
	j.turn(time.Now())
	if now := *j.secrets.Load(); len(now) != 1 || now[0] != before[0] {
		t.Errorf("%x after %x", now, before)
	}
	put(strings.Repeat("b", 32))
	err = j.read()
	j.turn(time.Now())
	if err != nil || (*j.secrets.Load())[0] == before[0] {
		t.Errorf("%v: the new secret was not taken", err)
	}
	put(strings.Repeat("c", 64))
	err = j.read()
	noon := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	j.turn(noon)
	today := (*j.secrets.Load())[0]
	if j.turn(noon.Add(24 * time.Hour)); err != nil || (*j.secrets.Load())[0] == today {
		t.Errorf("%v: the next day has the same secret", err)
	}
	if _, err := openJar(filepath.Join(t.TempDir(), "none")); err == nil {
		t.Error("a file that is not there is no error at start")
	}
}

// The limiter lets through a second's worth at once, and a quarter of one to a prefix that was quiet, then one after the other at the
// rate, and forgets after a second of quiet.
func TestLimiterHoldsTheRate(t *testing.T) {
	l := newLimiter(settings{rate: 10, slip: 2}, "test")
	at := l.began.Add(time.Hour)
	passed := func(client string, n int, d time.Duration, k kind, name string) (passed int) {
		for range n {
			if l.judge(at, netip.MustParseAddr(client), k, []byte(name)) == pass {
				passed++
			}
			at = at.Add(d / time.Duration(n))
		}
		return passed
	}
	if n := passed("192.0.2.1", 1000, 0, kindAnswer, "\x01a\x00"); n != 3+11 {
		t.Errorf("at once %d, want a quarter and a second's worth, and the first", n)
	}
	if n := passed("192.0.2.200", 1000, 2*time.Second, kindAnswer, "\x01A\x00"); n < 19 || n > 21 {
		t.Errorf("in two seconds %d for the prefix, want 20", n)
	}
	for _, c := range []struct {
		what, client, name string
		k                  kind
	}{
		{"another prefix", "192.0.3.1", "\x01a\x00", kindAnswer},
		{"another name", "192.0.2.1", "\x01b\x00", kindAnswer},
		{"another kind", "192.0.2.1", "\x01a\x00", kindNoData},
		{"another family", "2001:db8::1", "\x01a\x00", kindAnswer},
		{"another /56", "2001:db8:0:100::1", "\x01a\x00", kindAnswer},
	} {
		if n := passed(c.client, 5, 0, c.k, c.name); n != 5 {
			t.Errorf("%s: %d of 5 passed", c.what, n)
		}
	}
	if n := passed("2001:db8:0:ff::2", 1000, 0, kindAnswer, "\x01a\x00"); n != 3+11-5 {
		t.Errorf("of the same /56 %d passed, want the 9 that are left", n)
	}
	at = at.Add(2 * time.Second)
	if n := passed("192.0.2.1", 1000, 0, kindAnswer, "\x01a\x00"); n != 3+11 {
		t.Errorf("after quiet %d, want a quarter and a second's worth, and the first", n)
	}
}

// A flood of other prefixes does not free one that is limited at once, and takes no memory.
func TestLimiterUnderManyPrefixes(t *testing.T) {
	l := newLimiter(settings{rate: 1, slip: 0}, "test")
	at := l.began.Add(time.Hour)
	victim := netip.MustParseAddr("192.0.2.1")
	judge := func(a netip.Addr) action { return l.judge(at, a, kindAnswer, []byte("\x01a\x00")) }
	for range 3 {
		judge(victim)
	}
	for i := range uint32(100_000) {
		var b [4]byte
		binary.BigEndian.PutUint32(b[:], 10<<24|i<<8)
		judge(netip.AddrFrom4(b))
	}
	if judge(victim) == pass {
		t.Error("100,000 other prefixes have freed a limited one")
	}
}

// RFC 8467: over TLS a padded query gets a response of a multiple of 468 octets; by UDP and TCP it does not.
func TestPadding(t *testing.T) {
	port, tlsPort := freePort(t), freePort(t)
	cert, key := certificate(t)
	for _, path := range []string{"on", "off"} {
		start(t, fmt.Sprintf("example.org:%s {\n sharedunicast 127.0.0.1 {\n fastpath %s\n}\n testwire\n}\ntls://example.org:%s {\n tls %s %s\n sharedunicast 127.0.0.1 {\n fastpath %s\n}\n testwire\n}",
			port, path, tlsPort, cert, key, path))
		for _, padded := range []bool{true, false} {
			q := new(dns.Msg).SetQuestion("www.example.org.", dns.TypeA).SetEdns0(1232, false)
			if padded {
				q.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_PADDING{Padding: make([]byte, 3)}}
			}
			c := &dns.Client{Net: "tcp-tls", TLSConfig: clientTLS(t, cert, "")}
			m, _, err := c.Exchange(q, "127.0.0.1:"+tlsPort)
			if err != nil {
				t.Fatal(err)
			}
			if wire, err := m.Pack(); err != nil || (len(m.IsEdns0().Option) == 1) != padded || padded && len(m.Answer) != 1 {
				t.Errorf("fastpath %s, over TLS, padded %v: %d octets, %v", path, padded, len(wire), m)
			}
			if m.Compress = true; padded && m.Len() != padTo {
				t.Errorf("fastpath %s: %d octets", path, m.Len())
			}
			if m, err := exchange("tcp", "127.0.0.1:"+port, q); err != nil || len(m.IsEdns0().Option) > 0 {
				t.Errorf("fastpath %s, over TCP: %v, %v", path, m, err)
			}
		}
		port, tlsPort = freePort(t), freePort(t)
	}
}

// What the OPT record tells beside the answer, on both paths: RFC 8914, RFC 9660, RFC 9567.
func TestToldInTheOPTRecord(t *testing.T) {
	for _, path := range []string{"on", "off"} {
		port, quiet := freePort(t), freePort(t)
		start(t, fmt.Sprintf(`.:%[1]s {
			sharedunicast 127.0.53.1 {
				fastpath %[3]s
				report_channel agent.example.net
			}
			testwire
		}
		.:%[2]s {
			sharedunicast 127.0.53.1 {
				fastpath %[3]s
				ede off
				zoneversion off
			}
			testwire
		}`, port, quiet, path))
		for _, c := range []struct {
			name  string
			qtype uint16
			want  string // options, as the dns package has them
		}{
			{"www.example.org.", dns.TypeA, "ZONEVERSION REPORTING"},
			{"none.example.org.", dns.TypeA, "ZONEVERSION REPORTING"},
			{"example.net.", dns.TypeA, "EDE20 REPORTING"},
			{"example.org.", dns.TypeAXFR, "EDE18 REPORTING"},
			{"1.agent.example.net.", dns.TypeA, "EDE20"}, // RFC 9567 6.1
		} {
			q := new(dns.Msg).SetQuestion(c.name, c.qtype).SetEdns0(1232, false)
			q.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_LOCAL{Code: dns.EDNS0ZONEVERSION}}
			for at, want := range map[string]string{port: c.want, quiet: ""} {
				m, err := exchange("udp", "127.0.53.1:"+at, q)
				if err != nil {
					t.Fatal(err)
				}
				var got []string
				for _, o := range m.IsEdns0().Option {
					switch o := o.(type) {
					case *dns.EDNS0_ZONEVERSION:
						got = append(got, "ZONEVERSION")
						if o.LabelCount != 2 || o.Type != 0 || o.Version != "\x00\x00\x00\x07" {
							t.Errorf("%+v", o)
						}
					case *dns.EDNS0_REPORTING:
						got = append(got, "REPORTING")
						if o.AgentDomain != "agent.example.net." {
							t.Errorf("%+v", o)
						}
					case *dns.EDNS0_EDE:
						got = append(got, fmt.Sprintf("EDE%d", o.InfoCode))
					default:
						got = append(got, o.String())
					}
				}
				if strings.Join(got, " ") != want {
					t.Errorf("fastpath %s, %s %s: %v, want %s", path, c.name, dns.TypeToString[c.qtype], got, want)
				}
			}
		}
	}
}

// Blocks at one address have the same properties of responses, or it would hang on the name which ones count.
func TestSettingsAreTheAddresss(t *testing.T) {
	port := freePort(t)
	inst, err := caddy.Start(input(fmt.Sprintf("example.org:%[1]s {\n sharedunicast 127.0.53.1 {\n rrl 5\n }\n testwire\n}\nexample.net:%[1]s {\n sharedunicast 127.0.53.1\n testwire\n}", port)))
	if err == nil {
		inst.Stop()
		t.Fatal("started")
	}
	mustMatch(t, err, "Corefile:8: .*rrl.* differ from those at Corefile:2")
}
