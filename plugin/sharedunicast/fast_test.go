package sharedunicast

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coredns/caddy"
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/plugin"
	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/backend"
	"github.com/coredns-anycast/coredns-anycast/internal/query"
	"github.com/coredns-anycast/coredns-anycast/internal/zone"
	"github.com/coredns-anycast/coredns-anycast/internal/zonefile"
)

// testWire is a backend that can be asked in wire format, and says how often it was asked through the chain.
type testWire struct{ next plugin.Handler }

var (
	throughChain atomic.Int32
	inWireFormat atomic.Int32 // of these
	wirePanics   atomic.Bool
	wireZones    = func() *zone.Zones {
		z, found := zonefile.Parse(strings.NewReader(`$ORIGIN example.org.
@ 60 IN SOA ns host 7 60 60 60 60
@ 60 IN NS ns
ns 60 IN A 192.0.2.1
www 60 IN A 192.0.2.80
two 60 IN A 192.0.2.81
two 60 IN A 192.0.2.82
sub 60 IN NS ns.sub
ns.sub 60 IN A 192.0.2.83
`+largeSet()), zonefile.Options{Origin: "example.org."})
		if z == nil {
			panic(found)
		}
		zones, err := zone.NewZones(z)
		if err != nil {
			panic(err)
		}
		return zones
	}()
)

// largeSet are 200 TXT records of 52 kB in all.
func largeSet() string {
	var text strings.Builder
	for i := range 200 {
		fmt.Fprintf(&text, "large 60 IN TXT \"%3d%s\"\n", i, strings.Repeat("x", 245))
	}
	return text.String()
}

func setupTestWire(c *caddy.Controller) error {
	dnsserver.GetConfig(c).AddPlugin(func(next plugin.Handler) plugin.Handler { return &testWire{next} })
	return nil
}

func (w *testWire) Name() string { return "testwire" }

func (w *testWire) Release() (uint64, *zone.Zones) {
	if wirePanics.Load() {
		panic("as asked")
	}
	return 1, wireZones
}

func (w *testWire) ServeDNS(ctx context.Context, rw dns.ResponseWriter, r *dns.Msg) (int, error) {
	throughChain.Add(1)
	known := backend.From(ctx)
	name, answer := known.Memory.Name[:], &known.Memory.Answer
	n, err := dns.PackDomainName(r.Question[0].Name, name, 0, nil, false)
	if err != nil {
		return dns.RcodeServerFailure, err
	}
	q := zone.Query{Name: name[:n], Type: r.Question[0].Qtype, Class: r.Question[0].Qclass}
	wireZones.LookupInto(&q, answer)
	known.Answer = answer
	if answer.Zone == nil && w.next == nil {
		return 0, rw.WriteMsg(new(dns.Msg).SetRcode(r, answer.Rcode))
	}
	if answer.Zone == nil {
		return plugin.NextOrFailure(w.Name(), w.next, ctx, rw, r)
	}
	if known.Writer.WriteAnswer(rw, r, &q, dns.MaxMsgSize) {
		inWireFormat.Add(1)
		return 0, nil
	}
	return 0, rw.WriteMsg(answer.Msg(r, dns.MaxMsgSize))
}

// Which queries take the fast path: those of blocks whose plugins would do nothing to them that it does not do itself.
func TestWhatTakesTheFastPath(t *testing.T) {
	for _, c := range []struct {
		plugins string
		query   string // name, type and class
		chain   bool
	}{
		{"", "www.example.org. A IN", false},
		{"", "nothing.example.org. A IN", false},
		{"", "www.example.net. A IN", false},    // nobody behind the backend could know
		{"", "www.example.org. AXFR IN", false}, // refused in front of the backend
		{"errors\n nsid\n bufsize 1232\n cancel\n chaos\n metadata\n shed\n prometheus 127.0.0.1:PORT", "www.example.org. A IN", false},
		{"loadbalance", "www.example.org. A IN", false},
		{"loadbalance", "two.example.org. A IN", true}, // two addresses: they are shuffled
		{"log", "www.example.org. A IN", true},
		{"acl", "www.example.org. A IN", true},
		{"testanswer", "www.example.org. A IN", false},
		{"testanswer", "www.example.net. A IN", true},
	} {
		for _, network := range []string{"udp", "tcp"} {
			t.Run(strings.ReplaceAll(c.plugins, "\n", " ")+" "+c.query+" "+network, func(t *testing.T) {
				port := freePort(t)
				plugins := strings.ReplaceAll(c.plugins, "PORT", freePort(t))
				start(t, fmt.Sprintf(".:%s {\n sharedunicast 127.0.53.1\n %s\n testwire\n}", port, plugins))
				f := strings.Fields(c.query)
				m := new(dns.Msg).SetQuestion(f[0], dns.StringToType[f[1]])
				m.Question[0].Qclass = dns.StringToClass[f[2]]
				before := throughChain.Load()
				if _, err := exchange(network, "127.0.53.1:"+port, m); err != nil {
					t.Fatal(err)
				}
				if chain := throughChain.Load() > before; chain != c.chain {
					t.Errorf("through the chain: %v, want %v", chain, c.chain)
				}
			})
		}
	}
}

// A panic ends with the message that it was over: on either path, by UDP and TCP, the next one is answered.
func TestPanicsEndNothing(t *testing.T) {
	for _, path := range []string{"on", "off"} {
		port := freePort(t)
		start(t, fmt.Sprintf("example.org:%s {\n sharedunicast 127.0.53.1 {\n fastpath %s\n }\n testwire\n}", port, path))
		for _, network := range []string{"udp", "tcp"} {
			wirePanics.Store(true)
			c := &dns.Client{Net: network, Timeout: time.Second}
			if m, _, err := c.Exchange(new(dns.Msg).SetQuestion("www.example.org.", dns.TypeA), "127.0.53.1:"+port); err == nil && m.Rcode == dns.RcodeSuccess {
				t.Errorf("%v", m)
			}
			wirePanics.Store(false)
			mustAsk(t, network, "127.0.53.1:"+port, "www.example.org.", dns.TypeA, dns.RcodeSuccess)
		}
	}
}

// A zone of another block on the same address has plugins of its own.
func TestEachBlockHasItsPath(t *testing.T) {
	port := freePort(t)
	start(t, fmt.Sprintf(`example.org:%[1]s {
		sharedunicast 127.0.53.1
		testwire
	}
	sub.example.org:%[1]s {
		sharedunicast 127.0.53.1 {
			fastpath off
		}
		testwire
	}`, port))
	for name, chain := range map[string]bool{"www.example.org.": false, "www.SUB.example.org.": true, "sub.example.org.": true, "ub.example.org.": false} {
		before := throughChain.Load()
		if _, err := ask("udp", "127.0.53.1:"+port, name, dns.TypeA); err != nil {
			t.Fatal(err)
		}
		if through := throughChain.Load() > before; through != chain {
			t.Errorf("%s: through the chain: %v, want %v", name, through, chain)
		}
	}
	// Asked for DS the core goes by the parent's block; the fast path leaves that to it.
	before := throughChain.Load()
	if _, err := ask("udp", "127.0.53.1:"+port, "sub.example.org.", dns.TypeDS); err != nil {
		t.Fatal(err)
	}
	if throughChain.Load() == before {
		t.Error("a DS query at two blocks did not go through the chain")
	}
}

func TestFastPathAllocatesNothing(t *testing.T) {
	s := &served{backend: &testWire{}, last: true, payload: query.PayloadSize, nsid: query.AppendOption(nil, dns.EDNS0NSID, "tyo1")}
	f, space := new(fast), make([]byte, 0, 1<<16)
	secrets := query.Secrets{{1}}
	g := &guard{settings: defaults, limiter: newLimiter(settings{rate: mostRate, slip: 1}, "test"), jar: new(jar), agent: []byte("\x05agent\x00")}
	g.jar.secrets.Store(&secrets)
	f.asked = asked{client: netip.MustParseAddr("2001:db8::1"), now: time.Now()}
	withOptions := new(dns.Msg).SetQuestion("WWW.example.org.", dns.TypeA).SetEdns0(1232, true)
	withOptions.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "0102030405060708"}, &dns.EDNS0_NSID{Code: dns.EDNS0NSID}}
	for name, m := range map[string]*dns.Msg{
		"answer":   new(dns.Msg).SetQuestion("www.example.org.", dns.TypeA),
		"options":  withOptions,
		"EDNS":     new(dns.Msg).SetQuestion("WWW.example.org.", dns.TypeA).SetEdns0(1232, true),
		"NXDOMAIN": new(dns.Msg).SetQuestion("a.b.example.org.", dns.TypeA),
		"REFUSED":  new(dns.Msg).SetQuestion("www.example.net.", dns.TypeA),
	} {
		b, err := m.Pack()
		if err != nil {
			t.Fatal(err)
		}
		var q query.Query
		if allocs := testing.AllocsPerRun(1000, func() {
			if q.Parse(b) != query.Plain {
				t.Fatal("not plain")
			}
			if _, what := f.respond(space, &q, s, g, s.udpLimit(&q)); what != answered && what != limited {
				t.Fatal(what)
			}
		}); allocs > 0 {
			t.Errorf("%s: %v allocations", name, allocs)
		}
	}
}

// BenchmarkFastPath is what the fast path takes beside the system calls: as it is, and with all that can be on.
func BenchmarkFastPath(b *testing.B) {
	secrets := query.Secrets{{1}}
	more := &guard{settings: defaults, limiter: newLimiter(settings{rate: mostRate, slip: 1}, "bench"), jar: new(jar)}
	more.jar.secrets.Store(&secrets)
	plain := new(dns.Msg).SetQuestion("www.example.org.", dns.TypeA).SetEdns0(1232, false)
	cookie := plain.Copy()
	cookie.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "0102030405060708"}}
	for _, c := range []struct {
		name  string
		m     *dns.Msg
		g     *guard
		tally *tally
	}{{"plain", plain, &guard{settings: defaults}, nil}, {"counted", plain, &guard{settings: defaults}, new(tally)}, {"limited", plain, more, new(tally)}, {"cookie", cookie, more, new(tally)}} {
		b.Run(c.name, func(b *testing.B) {
			wire, err := c.m.Pack()
			if err != nil {
				b.Fatal(err)
			}
			s := &served{backend: &testWire{}, last: true, payload: query.PayloadSize}
			f, space := new(fast), make([]byte, 0, 1<<16)
			var q query.Query
			addr := [4]byte{192, 0, 2, 1}
			f.asked.now = time.Now()
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				addr[1], addr[2] = byte(i), byte(i>>8)
				f.asked.client = netip.AddrFrom4(addr)
				q.Parse(wire)
				response, _ := f.respond(space, &q, s, c.g, s.udpLimit(&q))
				if c.tally != nil {
					c.tally.count(&q, f.rcode, len(wire), len(response))
				}
			}
		})
	}
}
