package sharedunicast

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/coredns/caddy"
	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"

	"github.com/coredns-anycast/coredns-anycast/internal/lab"
)

// chainServer serves without a fast path by one socket, with plugins that do what the name asked for says (testStall).
func chainServer(t *testing.T, more string) (server string, reload func() error) {
	t.Helper()
	port := freePort(t)
	corefile := fmt.Sprintf(".:%s {\n %s\n sharedunicast 127.0.53.1 {\n fastpath off\n }\n multisocket 1\n testwire\n teststall\n}", port, more)
	again := start(t, corefile)
	return "127.0.53.1:" + port, func() error { return again(corefile) }
}

// lastServer is the first server of the instance that was started last.
func lastServer() *server {
	all := caddy.Instances()
	return all[len(all)-1].Storage[instanceKey{}].(*instance).servers[0]
}

// chainClient asks by one socket.
type chainClient struct {
	t *testing.T
	*net.UDPConn
}

func newChainClient(t *testing.T, server string) chainClient {
	t.Helper()
	conn, err := net.Dial("udp", server)
	lab.Must(t, err)
	t.Cleanup(func() { conn.Close() })
	return chainClient{t, conn.(*net.UDPConn)}
}

func (c chainClient) ask(id uint16, name string) {
	c.t.Helper()
	m := new(dns.Msg).SetQuestion(name, dns.TypeA)
	m.Id = id
	b, err := m.Pack()
	lab.Must(c.t, err)
	_, err = c.Write(b)
	lab.Must(c.t, err)
}

// answer is the next response, which has to come.
func (c chainClient) answer() *dns.Msg {
	c.t.Helper()
	c.SetReadDeadline(time.Now().Add(20 * time.Second))
	b := make([]byte, dns.MaxMsgSize)
	n, err := c.Read(b)
	lab.Must(c.t, err)
	m := new(dns.Msg)
	lab.Must(c.t, m.Unpack(b[:n]))
	return m
}

// waitInChain waits until so many messages wait in the chain.
func waitInChain(t *testing.T, n int32) {
	t.Helper()
	lab.Eventually(t, func() error {
		if w := waitingNow.Load(); w != n {
			return fmt.Errorf("%d messages wait in the chain, want %d", w, n)
		}
		return nil
	})
}

// A response that is made leaves, though the goroutine that has made it takes a message next that waits in the chain.
func TestResponsesDoNotWaitForTheNextMessage(t *testing.T) {
	server, _ := chainServer(t, "")
	c := newChainClient(t, server)
	for range 50 {
		for id := range uint16(7) {
			c.ask(id, "www.example.org.")
		}
		c.ask(7, "wait.example.net.")
		for range 7 {
			if m := c.answer(); m.Id == 7 || m.Rcode != dns.RcodeSuccess {
				t.Fatal(m)
			}
		}
		waitingFor <- struct{}{}
		if m := c.answer(); m.Id != 7 {
			t.Fatal(m)
		}
	}
}

// A response that is made leaves, though a plugin does something else before it returns.
func TestResponsesDoNotWaitForTheirPlugins(t *testing.T) {
	server, _ := chainServer(t, "")
	c := newChainClient(t, server)
	for id := range uint16(20) {
		c.ask(id, "answered.example.net.")
		if m := c.answer(); m.Id != id {
			t.Fatal(m)
		}
		waitingFor <- struct{}{}
	}
}

// Messages that wait in the chain do so at the same time, whether they come together or one after the other, and others are answered meanwhile.
func TestMessagesWaitTogether(t *testing.T) {
	const most = mostWorkers - 1
	server, _ := chainServer(t, "")
	c := newChainClient(t, server)
	for n := range int32(most) {
		c.ask(1, "wait.example.net.")
		if n%8 == 0 || n == most-1 {
			waitInChain(t, n+1)
			mustAsk(t, "udp", server, "www.example.org.", dns.TypeA, dns.RcodeSuccess)
		}
	}
	for range most {
		waitingFor <- struct{}{}
	}
}

// When the server stops, what waits in the chain keeps no message that has come from its answer.
func TestEndAnswersWhatWaitsBehindASlowMessage(t *testing.T) {
	server, _ := chainServer(t, "")
	c := newChainClient(t, server)
	from := netip.MustParseAddrPort(c.LocalAddr().String())
	s := lastServer()
	crew := newCrew(s.front, s.packets[0])
	message := func(id uint16, name string) []byte {
		m := new(dns.Msg).SetQuestion(name, dns.TypeA)
		m.Id = id
		b, err := m.Pack()
		lab.Must(t, err)
		return b
	}
	crew.take(message(0, "wait.example.net."), from)
	crew.call(time.Now())
	waitInChain(t, 1)
	for id := range uint16(3) {
		crew.take(message(id+1, "www.example.org."), from)
	}
	ended := make(chan struct{})
	go func() { crew.end(); close(ended) }()
	for range 3 {
		if m := c.answer(); m.Id == 0 {
			t.Fatal(m)
		}
	}
	select {
	case <-ended:
		t.Error("the end did not wait for the chain")
	default:
	}
	waitingFor <- struct{}{}
	if m := c.answer(); m.Id != 0 {
		t.Error(m)
	}
	<-ended
}

// A reload while all goroutines wait in the chain, and messages behind them, loses none.
func TestReloadWhileAllWait(t *testing.T) {
	const messages = mostWorkers + 36
	server, reload := chainServer(t, "")
	c := newChainClient(t, server)
	for id := range uint16(messages) {
		c.ask(id, "wait.example.net.")
	}
	lab.WaitFor(t, "most messages wait in the chain", func() bool { return waitingNow.Load() >= mostWorkers })
	reloaded := make(chan error, 1)
	go func() { reloaded <- reload() }()
	seen := map[uint16]bool{}
	for range messages {
		waitingFor <- struct{}{}
		seen[c.answer().Id] = true
	}
	lab.Must(t, <-reloaded)
	if len(seen) != messages {
		t.Errorf("%d of %d messages were answered", len(seen), messages)
	}
	mustAsk(t, "udp", server, "www.example.org.", dns.TypeA, dns.RcodeSuccess)
}

// A plugin that panics costs its own message alone.
func TestPanicInTheChain(t *testing.T) {
	server, _ := chainServer(t, "")
	c := newChainClient(t, server)
	for range 10 {
		for id := range uint16(10) {
			c.ask(id, map[bool]string{true: "panic.example.net.", false: "www.example.org."}[id == 3])
		}
		for range 10 {
			m := c.answer()
			if want := map[bool]int{true: dns.RcodeServerFailure, false: dns.RcodeSuccess}[m.Id == 3]; m.Rcode != want {
				t.Fatal(m)
			}
		}
	}
}

// A plugin may write twice, but not after it has returned: what the response would be made with is another message's by then.
func TestWhoWritesLate(t *testing.T) {
	for _, network := range []string{"udp", "tcp"} {
		server, _ := chainServer(t, "")
		conn, err := dns.Dial(network, server)
		lab.Must(t, err)
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(20 * time.Second))
		lab.Must(t, conn.WriteMsg(new(dns.Msg).SetQuestion("twice.example.net.", dns.TypeA)))
		for range 2 {
			_, err := conn.ReadMsg()
			lab.Must(t, err)
		}
		for range 20 {
			lab.Must(t, conn.WriteMsg(new(dns.Msg).SetQuestion("late.example.net.", dns.TypeA)))
			lab.Must(t, conn.WriteMsg(new(dns.Msg).SetQuestion("www.example.org.", dns.TypeA)))
			for {
				m, err := conn.ReadMsg()
				lab.Must(t, err)
				if m.Question[0].Name == "www.example.org." {
					break
				}
			}
			if err := <-lateSaid; !errors.Is(err, errOver) {
				t.Errorf("over %s: %v", network, err)
			}
		}
	}
}

// Plugin shed sends responses from a goroutine of its own, later, and each client gets its own.
func TestShedSendsWhatWasMade(t *testing.T) {
	server, _ := chainServer(t, "shed")
	c := newChainClient(t, server)
	name := func(id uint16) string { return fmt.Sprintf("n%d.example.org.", id) }
	const flight = 100
	for round := range uint16(30) {
		for i := range uint16(flight) {
			c.ask(round*flight+i, name(round*flight+i))
		}
		for range flight {
			m := c.answer()
			if m.Id/flight != round || m.Question[0].Name != name(m.Id) {
				t.Fatalf("in round %d: %v", round, m)
			}
		}
	}
}

// lateWriter sends what it is given when it is let.
type lateWriter struct {
	dns.Writer
	let *sync.WaitGroup
}

func (w lateWriter) Write(b []byte) (int, error) {
	go func() { w.let.Wait(); w.Writer.Write(b) }()
	return len(b), nil
}

// When the server stops, it waits a while for responses that a plugin has still to send, and never sends any by a descriptor that it has
// given back.
func TestEndWaitsForWhoSendsLater(t *testing.T) {
	server, _ := chainServer(t, "")
	c := newChainClient(t, server)
	s := lastServer()
	conn, err := s.packets[0].duplicate()
	lab.Must(t, err)
	for _, late := range []bool{false, true} {
		var let sync.WaitGroup
		let.Add(1)
		crew := newCrew(s.front, conn.(*udpSocket))
		crew.decorate = func(w dns.Writer) dns.Writer { return lateWriter{w, &let} }
		if !late {
			crew.grace = lab.Patience // the machine may be slower than a plugin may
		}
		b, err := new(dns.Msg).SetQuestion("www.example.org.", dns.TypeA).Pack()
		lab.Must(t, err)
		crew.take(b, netip.MustParseAddrPort(c.LocalAddr().String()))
		crew.call(time.Now())
		lab.WaitFor(t, "the response was given to the plugin", func() bool { return crew.owed.Load() == 1 })
		if !late {
			time.AfterFunc(10*time.Millisecond, let.Done)
		}
		crew.end()
		if late {
			conn.Close()
			let.Done()
			lab.WaitFor(t, "the plugin has written", func() bool { return crew.owed.Load() == 0 })
			return
		}
		if n := crew.owed.Load(); n != 0 {
			t.Errorf("%d responses are still to be sent", n)
		}
		c.answer()
	}
}

// Metrics can be read while the chain does not get on, and no message finds room any more.
func TestMetricsOfAStuckChain(t *testing.T) {
	chainServer(t, "prometheus 127.0.0.1:0")
	stalled.Lock()
	release := sync.OnceFunc(stalled.Unlock)
	listening, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	lab.Must(t, err)
	conn, err := newUDPSocket(listening)
	lab.Must(t, err)
	stop, err := newWaker()
	lab.Must(t, err)
	s := lastServer()
	loop := &udpLoop{front: s.front, conn: conn, stop: stop, address: s.group.address(), crew: newCrew(s.front, conn), traffic: new(traffic)}
	ended := make(chan error)
	loop.over = func(err error) {
		loop.crew.end()
		ended <- err
	}
	go loop.run()
	t.Cleanup(func() { // before the server is stopped
		release()
		stop.wake()
		lab.Must(t, <-ended)
		conn.Close()
		stop.close()
	})
	c := newChainClient(t, conn.local.String())
	for waiting, queued := 0, 0; waiting < mostWaiting || queued == 0; {
		for id := range uint16(100) {
			c.ask(id, "www.example.net.")
		}
		loop.crew.mu.Lock()
		waiting = loop.crew.count
		loop.crew.mu.Unlock()
		queued, err = unix.IoctlGetInt(conn.fd, unix.SIOCINQ)
		lab.Must(t, err)
	}
	read := make(chan error, 1)
	go func() {
		for range 3 {
			time.Sleep(20 * time.Millisecond) // in which the loop goes as far as it can
			_, err := prometheus.DefaultGatherer.Gather()
			read <- err
		}
	}()
	for range 3 {
		select {
		case err := <-read:
			lab.Must(t, err)
		case <-time.After(20 * time.Second):
			t.Fatal("metrics wait for the chain")
		}
	}
	loop.traffic.query(0, netip.Addr{}) // nor does who counts
}
