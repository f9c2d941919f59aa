package probe

import (
	"fmt"
	"maps"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/gate"
	"github.com/coredns-anycast/coredns-anycast/internal/lab"
	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
)

// serve answers on one port of 127.0.0.1 over both transports with what handle makes of each question.
func serve(t *testing.T, handle dns.HandlerFunc) uint16 {
	t.Helper()
	l, pc := testenv.ListenBoth(t)
	for _, s := range []*dns.Server{{Listener: l, Handler: handle}, {PacketConn: pc, Handler: handle}} {
		ready := make(chan struct{})
		s.NotifyStartedFunc = func() { close(ready) }
		go s.ActivateAndServe()
		<-ready
		t.Cleanup(func() { s.Shutdown() })
	}
	return uint16(l.Addr().(*net.TCPAddr).Port)
}

func soa(q *dns.Msg, serial uint32) *dns.Msg {
	m := new(dns.Msg).SetReply(q)
	m.Authoritative = true
	m.Answer = []dns.RR{&dns.SOA{Hdr: dns.RR_Header{Name: strings.ToUpper(q.Question[0].Name), Rrtype: dns.TypeSOA, Class: dns.ClassINET},
		Ns: "ns.example.", Mbox: "h.example.", Serial: serial}}
	return m
}

// limits are how long an answer may take: until it is slow, and until it is given up.
type limits struct{ slow, timeout time.Duration }

// What does not come is given up soon; what comes does so in time, however busy the machine is.
var impatient, patient = limits{100 * time.Millisecond, 400 * time.Millisecond}, limits{lab.Patience, 2 * lab.Patience}

func (l limits) round(t *testing.T, port uint16, recheck bool, zones ...Question) Round {
	t.Helper()
	p := New(Config{Addresses: []netip.Addr{netip.MustParseAddr("127.0.0.1")}, Port: port, Slow: l.slow, Timeout: l.timeout})
	return p.Ask(t.Context(), zones, func(_ string, serial *uint32) bool { return recheck && serial != nil })
}

// A round takes no longer than its timeout, however many do not answer.
func TestARoundEndsInTime(t *testing.T) {
	port := serve(t, func(dns.ResponseWriter, *dns.Msg) {})
	lab.Quick(t, "a round with a timeout of 400 ms", time.Second, func() time.Duration {
		began := time.Now()
		impatient.round(t, port, false, Question{Zone: "example.org."}, Question{Zone: "example.net."})
		return time.Since(began)
	})
}

// Every way to answer, and what the round is then.
func TestRound(t *testing.T) {
	zone := Question{Zone: "example.org.", Serial: new(uint32(7))}
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
		{"wrong serial", func(w dns.ResponseWriter, q *dns.Msg) { w.WriteMsg(soa(q, 8)) }, zone, false, gate.Bad, gate.ProbeWrong},
		{"switched meanwhile", func(w dns.ResponseWriter, q *dns.Msg) { w.WriteMsg(soa(q, 8)) }, zone, true, gate.Good, ""},
		{"late", func(w dns.ResponseWriter, q *dns.Msg) { time.Sleep(200 * time.Millisecond); w.WriteMsg(soa(q, 7)) }, zone, false, gate.Slow, gate.ProbeSlow},
		{"hanging", func(dns.ResponseWriter, *dns.Msg) {}, zone, false, gate.Bad, gate.ProbeHanging},
		{"closing without an answer", func(w dns.ResponseWriter, q *dns.Msg) { w.Close() }, zone, false, gate.Bad, ""},
		{"REFUSED", func(w dns.ResponseWriter, q *dns.Msg) { w.WriteMsg(new(dns.Msg).SetRcode(q, dns.RcodeRefused)) }, zone, true, gate.Bad, gate.ProbeWrong},
		{"not authoritative", func(w dns.ResponseWriter, q *dns.Msg) { m := soa(q, 7); m.Authoritative = false; w.WriteMsg(m) }, zone, true, gate.Bad, gate.ProbeWrong},
		{"empty", func(w dns.ResponseWriter, q *dns.Msg) { m := soa(q, 7); m.Answer = nil; w.WriteMsg(m) }, zone, true, gate.Bad, gate.ProbeWrong},
		{"another owner", func(w dns.ResponseWriter, q *dns.Msg) {
			m := soa(q, 7)
			m.Answer[0].Header().Name = "org."
			w.WriteMsg(m)
		}, zone, true, gate.Bad, gate.ProbeWrong},
		{"garbage", func(w dns.ResponseWriter, q *dns.Msg) { b, _ := q.Pack(); w.Write(append(b[:12:12], 0xc0, 0xff, 1)) }, zone, true, gate.Bad, gate.ProbeWrong},
		{"another question's answer", func(w dns.ResponseWriter, q *dns.Msg) { m := soa(q, 7); m.Id++; w.WriteMsg(m) }, zone, true, gate.Bad, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			l, ends := map[string]limits{"late": {impatient.slow, patient.timeout}, "hanging": impatient, "closing without an answer": impatient,
				"another question's answer": impatient}[c.name]
			if !ends {
				l = patient
			}
			r := l.round(t, serve(t, c.handle), c.recheck, c.zone)
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
	r := patient.round(t, uint16(l.Addr().(*net.TCPAddr).Port), false, Question{Zone: "example.org."})
	if r.Verdict != gate.Bad || len(r.Why) != 2 || r.Why[0].Code != gate.ProbeDead || r.Why[1].Code != gate.ProbeDead {
		t.Errorf("%v %v, want two times %s", r.Verdict, r.Why, gate.ProbeDead)
	}
}

// A shared address that no interface has is asked of nobody: another node of the mesh would answer (TestAnotherNodesAnswerIsNoProof).
func TestTheAddressIsNotHere(t *testing.T) {
	for _, address := range []string{"192.0.2.53", "2001:db8:53::53"} {
		p := New(Config{Addresses: []netip.Addr{netip.MustParseAddr(address)}, Port: 53, Slow: time.Second, Timeout: 5 * time.Second})
		r := p.Ask(t.Context(), []Question{{Zone: "example.org."}}, func(string, *uint32) bool { return false })
		if r.Verdict != gate.Bad || len(r.Why) != 2 {
			t.Fatalf("%v %v, want two faults", r.Verdict, r.Why)
		}
		for _, w := range r.Why {
			if w.Code != gate.ProbeDead || !strings.Contains(w.Detail, "on no interface of this machine: ip addr add "+address+"/") {
				t.Errorf("%v", w)
			}
		}
	}
}

func TestNothingToAsk(t *testing.T) {
	if r := patient.round(t, 1, false); r.Verdict != gate.Bad || r.Why[0].Code != gate.ProbeNoZone {
		t.Errorf("%v %v", r.Verdict, r.Why)
	}
}

// A server that answers some questions in time and others not is overloaded, which withdraws nothing (FAIL-3). One that
// answers over one transport only hangs over the other.
func TestOverloadIsNoHang(t *testing.T) {
	var zones []Question
	for i := range 4 {
		zones = append(zones, Question{Zone: fmt.Sprintf("z%d.", i)})
	}
	port := serve(t, func(w dns.ResponseWriter, q *dns.Msg) {
		if q.Question[0].Name != "z2." {
			w.WriteMsg(soa(q, 7))
		}
	})
	some := limits{patient.slow, 2 * time.Second} // what is answered is so in time
	r := some.round(t, port, false, zones...)
	if r.Verdict != gate.Slow || len(r.Why) != 2 || r.Why[0].Code != gate.ProbeSlow || r.Why[1].Code != gate.ProbeSlow {
		t.Errorf("%v %v, want two times %s", r.Verdict, r.Why, gate.ProbeSlow)
	}
	for _, p := range r.Probes {
		if p.Up != (p.Zone != "z2.") {
			t.Errorf("%+v", p)
		}
	}
	port = serve(t, func(w dns.ResponseWriter, q *dns.Msg) {
		if w.RemoteAddr().Network() == "tcp" {
			w.WriteMsg(soa(q, 7))
		}
	})
	r = some.round(t, port, false, zones...)
	if r.Verdict != gate.Bad || len(r.Why) != 4 || r.Why[0].Code != gate.ProbeHanging || !strings.Contains(r.Why[0].Detail, "udp") {
		t.Errorf("%v %v, want four times %s over UDP", r.Verdict, r.Why, gate.ProbeHanging)
	}
}

// Each address is asked over both transports, in both families, and a round says which of them is at fault.
func TestBothFamiliesAndTransports(t *testing.T) {
	port := serve(t, func(w dns.ResponseWriter, q *dns.Msg) { w.WriteMsg(soa(q, 7)) }) // on 127.0.0.1 only
	p := New(Config{Addresses: []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("::1")}, Port: port,
		Slow: patient.slow, Timeout: patient.timeout})
	r := p.Ask(t.Context(), []Question{{Zone: "example.org."}}, func(string, *uint32) bool { return false })
	up := map[string]bool{}
	for _, p := range r.Probes {
		up[p.Address+" "+p.Network] = p.Up
	}
	want := map[string]bool{"127.0.0.1 udp": true, "127.0.0.1 tcp": true, "::1 udp": false, "::1 tcp": false}
	if !maps.Equal(up, want) || r.Verdict != gate.Bad {
		t.Errorf("%v, up %v, want %v", r.Verdict, up, want)
	}
	for _, w := range r.Why {
		if w.Code != gate.ProbeDead || !strings.Contains(w.Detail, "::1") {
			t.Errorf("%v", w)
		}
	}
}

// A server that takes two questions a connection, and ends it, is asked the rest by others. One that ends them without an answer is wrong.
func TestAServerMayEndConnections(t *testing.T) {
	var zones []Question
	for i := range 7 {
		zones = append(zones, Question{Zone: fmt.Sprintf("z%d.", i)})
	}
	for each, verdict := range map[int]gate.Verdict{2: gate.Good, 0: gate.Bad} {
		l, pc := testenv.ListenBoth(t)
		var connections atomic.Int64
		udp := &dns.Server{PacketConn: pc, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) { w.WriteMsg(soa(q, 7)) })}
		go udp.ActivateAndServe()
		t.Cleanup(func() { pc.Close(); l.Close() })
		go func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				connections.Add(1)
				for range each {
					q, err := (&dns.Conn{Conn: conn}).ReadMsg()
					if err != nil {
						break
					}
					(&dns.Conn{Conn: conn}).WriteMsg(soa(q, 7))
				}
				conn.Close()
			}
		}()
		r := patient.round(t, uint16(l.Addr().(*net.TCPAddr).Port), false, zones...)
		if want := map[int]int64{2: 4, 0: 1}[each]; r.Verdict != verdict || connections.Load() != want {
			t.Errorf("%d a connection: %v %v, by %d connections, want %v by %d", each, r.Verdict, r.Why, connections.Load(), verdict, want)
		}
	}
}

// 100,000 zones take no more questions a round than nine.
func TestARoundIsBounded(t *testing.T) {
	zones := make([]Question, 100_000)
	for i := range zones {
		zones[i].Zone = fmt.Sprintf("z%d.", i)
	}
	var asked atomic.Int64
	port := serve(t, func(w dns.ResponseWriter, q *dns.Msg) { asked.Add(1); w.WriteMsg(soa(q, 7)) })
	if r := patient.round(t, port, false, zones...); len(r.Probes) != 2*zonesPerRound || asked.Load() != 2*zonesPerRound {
		t.Errorf("%d questions, %d arrived, want %d", len(r.Probes), asked.Load(), 2*zonesPerRound)
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
