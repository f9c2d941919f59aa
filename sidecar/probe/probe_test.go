package probe

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/gate"
)

// serve answers on one port of 127.0.0.1 over both transports with what handle makes of each question.
func serve(t *testing.T, handle dns.HandlerFunc) uint16 {
	t.Helper()
	l, pc := listenBoth(t)
	for _, s := range []*dns.Server{{Listener: l, Handler: handle}, {PacketConn: pc, Handler: handle}} {
		ready := make(chan struct{})
		s.NotifyStartedFunc = func() { close(ready) }
		go s.ActivateAndServe()
		<-ready
		t.Cleanup(func() { s.Shutdown() })
	}
	return uint16(l.Addr().(*net.TCPAddr).Port)
}

// listenBoth finds a port that is free over both transports.
func listenBoth(t *testing.T) (net.Listener, net.PacketConn) {
	t.Helper()
	for {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		pc, err := net.ListenPacket("udp", l.Addr().String())
		if err == nil {
			return l, pc
		}
		defer l.Close() // kept until one fits, so that the same port is not offered again
	}
}

func soa(q *dns.Msg, serial uint32) *dns.Msg {
	m := new(dns.Msg).SetReply(q)
	m.Authoritative = true
	m.Answer = []dns.RR{&dns.SOA{Hdr: dns.RR_Header{Name: strings.ToUpper(q.Question[0].Name), Rrtype: dns.TypeSOA, Class: dns.ClassINET},
		Ns: "ns.example.", Mbox: "h.example.", Serial: serial}}
	return m
}

func round(t *testing.T, port uint16, recheck bool, zones ...Question) Round {
	t.Helper()
	p := New(Config{Addresses: []netip.Addr{netip.MustParseAddr("127.0.0.1")}, Port: port, Slow: 100 * time.Millisecond, Timeout: 400 * time.Millisecond})
	began := time.Now()
	r := p.Ask(t.Context(), zones, func(string, uint32) bool { return recheck })
	if took := time.Since(began); took > time.Second {
		t.Errorf("a round took %v with a timeout of 400ms", took)
	}
	return r
}

// Every way to answer, and what the round is then.
func TestRound(t *testing.T) {
	zone := Question{Zone: "example.org.", Serials: []uint32{7}}
	for _, c := range []struct {
		name    string
		handle  dns.HandlerFunc
		zone    Question
		recheck bool
		verdict gate.Verdict
		code    string // of each of the two reasons
	}{
		{"right", func(w dns.ResponseWriter, q *dns.Msg) { w.WriteMsg(soa(q, 7)) }, zone, false, gate.Good, ""},
		{"any serial", func(w dns.ResponseWriter, q *dns.Msg) { w.WriteMsg(soa(q, 8)) }, Question{Zone: "example.org."}, false, gate.Good, ""},
		{"wrong serial", func(w dns.ResponseWriter, q *dns.Msg) { w.WriteMsg(soa(q, 8)) }, zone, false, gate.Bad, Wrong},
		{"switched meanwhile", func(w dns.ResponseWriter, q *dns.Msg) { w.WriteMsg(soa(q, 8)) }, zone, true, gate.Good, ""},
		{"late", func(w dns.ResponseWriter, q *dns.Msg) { time.Sleep(200 * time.Millisecond); w.WriteMsg(soa(q, 7)) }, zone, false, gate.Slow, Late},
		{"hanging", func(dns.ResponseWriter, *dns.Msg) {}, zone, false, gate.Bad, Timeout},
		{"REFUSED", func(w dns.ResponseWriter, q *dns.Msg) { w.WriteMsg(new(dns.Msg).SetRcode(q, dns.RcodeRefused)) }, zone, true, gate.Bad, Wrong},
		{"not authoritative", func(w dns.ResponseWriter, q *dns.Msg) { m := soa(q, 7); m.Authoritative = false; w.WriteMsg(m) }, zone, true, gate.Bad, Wrong},
		{"empty", func(w dns.ResponseWriter, q *dns.Msg) { m := soa(q, 7); m.Answer = nil; w.WriteMsg(m) }, zone, true, gate.Bad, Wrong},
		{"another owner", func(w dns.ResponseWriter, q *dns.Msg) {
			m := soa(q, 7)
			m.Answer[0].Header().Name = "org."
			w.WriteMsg(m)
		}, zone, true, gate.Bad, Wrong},
		{"garbage", func(w dns.ResponseWriter, q *dns.Msg) { b, _ := q.Pack(); w.Write(append(b[:12:12], 0xc0, 0xff, 1)) }, zone, true, gate.Bad, Malformed},
		{"another question's answer", func(w dns.ResponseWriter, q *dns.Msg) { m := soa(q, 7); m.Id++; w.WriteMsg(m) }, zone, true, gate.Bad, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := round(t, serve(t, c.handle), c.recheck, c.zone)
			if r.Verdict != c.verdict || len(r.Probes) != 2 {
				t.Errorf("verdict %v with %v, want %v", r.Verdict, r.Why, c.verdict)
			}
			for _, w := range r.Why {
				if c.code != "" && w.Code != c.code {
					t.Errorf("reason %v, want %s", w, c.code)
				}
			}
		})
	}
}

func TestNothingListens(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	r := round(t, uint16(l.Addr().(*net.TCPAddr).Port), false, Question{Zone: "example.org."})
	if r.Verdict != gate.Bad || len(r.Why) != 2 || r.Why[0].Code != Refused || r.Why[1].Code != Refused {
		t.Errorf("%v %v, want two times %s", r.Verdict, r.Why, Refused)
	}
}

func TestNothingToAsk(t *testing.T) {
	if r := round(t, 1, false); r.Verdict != gate.Bad || r.Why[0].Code != NoZone {
		t.Errorf("%v %v", r.Verdict, r.Why)
	}
}

// Many zones are asked for in turn, each as often as any other.
func TestManyZonesTakeTurns(t *testing.T) {
	p := New(Config{})
	var zones []Question
	for i := range 20 {
		zones = append(zones, Question{Zone: fmt.Sprintf("z%d.", i)})
	}
	times := map[string]int{}
	for range 20 {
		chosen := p.choose(zones)
		if len(chosen) != zonesPerRound {
			t.Fatalf("%d zones in a round", len(chosen))
		}
		for _, q := range chosen {
			times[q.Zone]++
		}
	}
	for _, q := range zones {
		if times[q.Zone] != zonesPerRound {
			t.Errorf("%s asked for %d times in 20 rounds, want %d", q.Zone, times[q.Zone], zonesPerRound)
		}
	}
}
