package sharedunicast

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coredns/caddy"
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/plugin"
	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/backend"
	"github.com/coredns-anycast/coredns-anycast/internal/lab"
	"github.com/coredns-anycast/coredns-anycast/internal/query"
)

// testStall is a plugin that answers nothing until it is let.
type testStall struct{ next plugin.Handler }

// stalled holds the rest up while it is locked for writing.
var stalled sync.RWMutex

func setupTestStall(c *caddy.Controller) error {
	dnsserver.GetConfig(c).AddPlugin(func(next plugin.Handler) plugin.Handler { return &testStall{next} })
	return nil
}

func (s *testStall) Name() string { return "teststall" }

func (s *testStall) ServeDNS(ctx context.Context, w dns.ResponseWriter, r *dns.Msg) (int, error) {
	refused := new(dns.Msg).SetRcode(r, dns.RcodeRefused)
	switch what, _, _ := strings.Cut(r.Question[0].Name, "."); what {
	case "wait":
		waitingNow.Add(1)
		<-waitingFor
		waitingNow.Add(-1)
		return 0, w.WriteMsg(refused)
	case "answered":
		err := w.WriteMsg(refused)
		<-waitingFor
		return 0, err
	case "panic":
		panic("as asked")
	case "twice":
		w.WriteMsg(refused)
		return 0, w.WriteMsg(refused)
	case "late":
		go func() { // which goes on while this returns, and after that
			err := w.WriteMsg(refused)
			for i := 0; err == nil && i < 2000; i++ {
				time.Sleep(time.Millisecond)
				err = w.WriteMsg(refused)
			}
			if _, other := w.Write([]byte("response")); other == nil || backend.From(ctx) != nil {
				err = nil
			}
			lateSaid <- err
		}()
		return 0, nil
	}
	stalled.RLock()
	defer stalled.RUnlock()
	return plugin.NextOrFailure(s.Name(), s.next, ctx, w, r)
}

// waitingFor lets one message for a name that begins with wait go on, of which there are waitingNow in the chain.
var (
	waitingFor = make(chan struct{})
	waitingNow atomic.Int32
)

// lateSaid is what writers say to who writes when its plugin has returned.
var lateSaid = make(chan error)

// Messages that come together with one that the chain takes long for are answered meanwhile, though nothing comes after them.
func TestOneSlowMessageHoldsUpNone(t *testing.T) {
	port := freePort(t)
	start(t, fmt.Sprintf(".:%s {\n sharedunicast 127.0.53.1 {\n fastpath off\n }\n testwire\n teststall\n}", port))
	conn, err := net.Dial("udp", "127.0.53.1:"+port)
	lab.Must(t, err)
	defer conn.Close()
	slow, err := new(dns.Msg).SetQuestion("wait.example.net.", dns.TypeA).Pack()
	lab.Must(t, err)
	quick, err := new(dns.Msg).SetQuestion("www.example.org.", dns.TypeA).Pack()
	lab.Must(t, err)
	buffer := make([]byte, 512)
	read := func(rcode byte) {
		t.Helper()
		conn.SetReadDeadline(time.Now().Add(20 * time.Second))
		if n, err := conn.Read(buffer); err != nil || n < headerSize || buffer[3]&15 != rcode {
			t.Fatalf("%v, %x", err, buffer[:n])
		}
	}
	for range 20 {
		conn.Write(slow)
		for range 20 {
			conn.Write(quick)
		}
		for range 20 {
			read(dns.RcodeSuccess)
		}
		waitingFor <- struct{}{}
		read(dns.RcodeRefused)
	}
}

// A flood of what goes through the chain, while the chain does not get on, costs a bounded number of goroutines and of
// messages that wait, and no query of the fast path.
func TestFloodIsShed(t *testing.T) {
	port := freePort(t)
	start(t, fmt.Sprintf(".:%s {\n sharedunicast 127.0.53.1\n testwire\n teststall\n}", port))
	stalled.Lock()
	release := sync.OnceFunc(stalled.Unlock)
	t.Cleanup(release) // before the server is stopped
	server := "127.0.53.1:" + port
	before := runtime.NumGoroutine()
	conn, err := net.Dial("udp", server)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	b, err := new(dns.Msg).SetQuestion("www.example.net.", dns.TypeA).Pack() // which only the plugin behind could know
	if err != nil {
		t.Fatal(err)
	}
	for range 20 {
		for range 1000 {
			conn.Write(b)
		}
		lab.Eventually(t, func() error { // on a busy machine the kernel's buffer may be full, and the query lost there
			_, err := ask("udp", server, "www.example.org.", dns.TypeA)
			return err
		})
	}
	if n := runtime.NumGoroutine() - before; n > (mostWorkers+10)*udpSockets() {
		t.Errorf("%d goroutines more than before", n)
	}
	release()
	mustAsk(t, "udp", server, "www.example.org.", dns.TypeA, dns.RcodeSuccess)
}

// heap is what is in use.
func heap() uint64 {
	runtime.GC()
	runtime.GC() // what pools keep goes with the second
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// Connections that announce a long message, and send little of it, cost little.
func TestAnnouncedLengthCostsNothing(t *testing.T) {
	port := freePort(t)
	start(t, fmt.Sprintf("example.org:%s {\n sharedunicast 127.0.53.1\n testwire\n}", port))
	const connections = 300
	before := heap()
	for range connections {
		conn, err := net.Dial("tcp", "127.0.53.1:"+port)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := conn.Write([]byte{0xff, 0xff, 0}); err != nil {
			t.Fatal(err)
		}
	}
	mustAsk(t, "tcp", "127.0.53.1:"+port, "www.example.org.", dns.TypeA, dns.RcodeSuccess) // by now they were all accepted
	if each := int64(heap()-before) / connections; each > 16<<10 {
		t.Errorf("%d octets each", each)
	}
}

// RA, AD, CD and TC never come back with what is rejected early, nor do RCODE and Z: of the flags only RD and the opcode.
func TestFlagsOfEarlyRejections(t *testing.T) {
	port := freePort(t)
	start(t, fmt.Sprintf("example.org:%s {\n sharedunicast 127.0.53.1\n testwire\n}", port))
	valid, err := new(dns.Msg).SetQuestion("www.example.org.", dns.TypeA).Pack()
	if err != nil {
		t.Fatal(err)
	}
	for _, network := range []string{"udp", "tcp"} {
		for what, edit := range map[string]func([]byte) []byte{
			"as it is":        func(b []byte) []byte { return b },
			"no question":     func(b []byte) []byte { b[5] = 0; return b[:query.HeadSize] },
			"two questions":   func(b []byte) []byte { b[5] = 2; return b },
			"half a question": func(b []byte) []byte { return b[:20] },
			"other zone":      func(b []byte) []byte { b[13]++; b[20]++; return b },
			"class CH":        func(b []byte) []byte { b[len(b)-1] = dns.ClassCHAOS; return b },
		} {
			for _, flags := range []uint16{0x7ff0, 0x07f0, 0x7fff, 0x0730} {
				b := edit(append([]byte(nil), valid...))
				binary.BigEndian.PutUint16(b[2:], flags)
				conn, err := net.Dial(network, "127.0.53.1:"+port)
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				conn.SetDeadline(time.Now().Add(5 * time.Second))
				c := &dns.Conn{Conn: conn}
				if _, err := c.Write(b); err != nil {
					t.Fatal(err)
				}
				said, err := c.ReadMsgHeader(nil)
				if err != nil {
					t.Fatalf("%s, flags %04x over %s: %v", what, flags, network, err)
				}
				const may = 1<<15 | 15<<11 | 1<<10 | 1<<8 | 15 // QR, opcode, AA, RD, RCODE
				if got := binary.BigEndian.Uint16(said[2:]); got&^may != 0 || got&0x7900 != flags&0x7900 {
					t.Errorf("%s, flags %04x over %s: %04x come back", what, flags, network, got)
				}
			}
		}
	}
}

// lost is a client that cannot be reached.
type lost struct{}

func (lost) Write([]byte) (int, error) { return 0, errors.New("reset by peer") }

// A response that cannot be sent is no error of a plugin: plugin errors would log each.
func TestLostClientsAreNoErrors(t *testing.T) {
	r := new(dns.Msg).SetQuestion("www.example.org.", dns.TypeA)
	b, err := r.Pack()
	if err != nil {
		t.Fatal(err)
	}
	var q query.Query
	q.Parse(b)
	f := &front{core: new(dnsserver.Server), guard: &guard{settings: defaults}}
	x := &responder{front: f, message: b, out: lost{}, local: new(net.UDPAddr), remote: new(net.UDPAddr)}
	x.begin(f, b, &q, r)
	if err := x.WriteMsg(new(dns.Msg).SetReply(r)); err != nil {
		t.Error(err)
	}
}

// Who opens many connections ends its own, once there is no room, and nobody else's.
func TestCrowdOfOnePrefix(t *testing.T) {
	c := crowd{most: 80}
	enter := func(addr string) *guestConn {
		conn := new(guestConn)
		c.enter(netip.MustParseAddr(addr), conn)
		return conn
	}
	one, other := enter("192.0.2.1"), enter("2001:db8::1")
	for i := range 1000 {
		enter(fmt.Sprintf("198.51.100.%d", i%250))
	}
	if one.closed || other.closed {
		t.Error("a flood from one prefix has ended others' connections")
	}
	third := enter("203.0.113.1")
	for i := range 50 {
		enter(fmt.Sprintf("198.51.100.%d", i))
	}
	if third.closed {
		t.Error("a newcomer has no place")
	}
	if c.conns.Len() != 80 {
		t.Errorf("%d connections", c.conns.Len())
	}
}

// A crowd lags while as many as it may have were told to end and are still there.
func TestCrowdThatLags(t *testing.T) {
	c := crowd{most: 4}
	var guests []*guest
	for i := range 8 {
		if c.lags() {
			t.Errorf("it lags after %d", i)
		}
		guests = append(guests, c.enter(netip.MustParseAddr("192.0.2.1"), new(guestConn)))
	}
	if !c.lags() {
		t.Error("it does not lag, with four that were told to end")
	}
	c.leave(guests[0])
	c.leave(guests[0]) // as who closes twice
	if c.lags() || c.ending != 3 {
		t.Errorf("it lags where one has gone: %d", c.ending)
	}
}

type guestConn struct{ closed bool }

func (g *guestConn) end() { g.closed = true }
