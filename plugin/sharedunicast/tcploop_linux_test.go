package sharedunicast

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/coredns/caddy"
	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/lab"
)

// startLoops serves example.org at an address by loops, and returns it. When the test ends no connection may be left.
func startLoops(t *testing.T, properties string) string {
	t.Helper()
	port := freePort(t)
	t.Cleanup(func() {
		if n := connectedNow(); n > 0 {
			t.Errorf("%d connections still have a place", n)
		}
	})
	start(t, fmt.Sprintf(".:%s {\n sharedunicast 127.0.53.1 {\n %s\n }\n testwire\n}", port, properties))
	return "127.0.53.1:" + port
}

func connectedNow() int {
	connected.mu.Lock()
	defer connected.mu.Unlock()
	return connected.conns.Len()
}

func dialStream(t *testing.T, server string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", server)
	lab.Must(t, err)
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(30 * time.Second))
	return conn
}

// framed is a query as it is sent by a connection.
func framed(t *testing.T, id int, name string, qtype uint16) []byte {
	t.Helper()
	m := new(dns.Msg).SetQuestion(name, qtype)
	m.Id = uint16(id)
	wire, err := m.Pack()
	lab.Must(t, err)
	return append(binary.BigEndian.AppendUint16(nil, uint16(len(wire))), wire...)
}

// mustHear reads the next response, and fails the test if it isn't the one to the query of that ID.
func mustHear(t *testing.T, conn net.Conn, id, rcode int) []byte {
	t.Helper()
	var head [2]byte
	if _, err := io.ReadFull(conn, head[:]); err != nil {
		t.Fatalf("instead of response %d: %v", id, err)
	}
	b := make([]byte, binary.BigEndian.Uint16(head[:]))
	if _, err := io.ReadFull(conn, b); err != nil {
		t.Fatalf("in response %d: %v", id, err)
	}
	if len(b) < headerSize || int(binary.BigEndian.Uint16(b)) != id&0xffff || int(b[3]&15) != rcode {
		t.Fatalf("instead of response %d with %s: %x", id, dns.RcodeToString[rcode], b[:min(len(b), headerSize)])
	}
	return b
}

// mustEnd waits for the end of a connection, which comes before it has been idle for long.
func mustEnd(t *testing.T, conn net.Conn, after string) {
	t.Helper()
	conn.SetReadDeadline(time.Now().Add(8 * time.Second))
	if n, err := conn.Read(make([]byte, 1)); n > 0 || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("after %s: %d octets, %v", after, n, err)
	}
}

// A connection costs no goroutine, however long it stays, and is answered again and again.
func TestConnectionsHaveNoGoroutines(t *testing.T) {
	server := startLoops(t, "")
	before, through := runtime.NumGoroutine(), throughChain.Load()
	var conns []net.Conn
	for range 300 {
		conns = append(conns, dialStream(t, server))
	}
	for round := range 3 {
		for i, conn := range conns {
			conn.Write(framed(t, round*1000+i, "www.example.org.", dns.TypeA))
			mustHear(t, conn, round*1000+i, dns.RcodeSuccess)
		}
	}
	if n := runtime.NumGoroutine() - before; n > 50 {
		t.Errorf("%d goroutines more than before, for %d connections", n, len(conns))
	}
	if n := throughChain.Load() - through; n > 0 {
		t.Errorf("%d queries went through the chain", n)
	}
}

// Whatever pieces a query comes in, it is answered, and so is what comes behind it.
func TestQueriesInPieces(t *testing.T) {
	server := startLoops(t, "")
	for name, ends := range map[string][]int{
		"the length in two":    {1},
		"the length alone":     {2},
		"octet by octet":       {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20},
		"with half of another": {len(framed(t, 0, "www.example.org.", dns.TypeA)) + 1, len(framed(t, 0, "www.example.org.", dns.TypeA)) + 20},
	} {
		t.Run(name, func(t *testing.T) {
			conn := dialStream(t, server)
			all := append(framed(t, 1, "www.example.org.", dns.TypeA), framed(t, 2, "none.example.org.", dns.TypeA)...)
			at := 0
			for _, end := range append(ends, len(all)) {
				conn.Write(all[at:end])
				at = end
				time.Sleep(2 * time.Millisecond) // so that it may come by itself
			}
			mustHear(t, conn, 1, dns.RcodeSuccess)
			mustHear(t, conn, 2, dns.RcodeNameError)
		})
	}
}

// Queries that come together are answered in their order, also those for which the loop is not enough.
func TestPipelinedQueriesAreAnsweredInOrder(t *testing.T) {
	server := startLoops(t, "")
	for _, chainEvery := range []int{0, 700} {
		conn := dialStream(t, server)
		const queries = 3000
		rcode := func(i int) int {
			if chainEvery > 0 && i%chainEvery == chainEvery-1 {
				return dns.RcodeRefused
			}
			return dns.RcodeSuccess
		}
		go func() {
			var all []byte
			for i := range queries {
				qtype := dns.TypeA
				if rcode(i) == dns.RcodeRefused {
					qtype = dns.TypeAXFR
				}
				all = append(all, framed(t, i, "www.example.org.", qtype)...)
			}
			conn.Write(all)
		}()
		for i := range queries {
			mustHear(t, conn, i, rcode(i))
		}
	}
}

// A message of 65,535 octets is answered, and what follows it as well.
func TestLongestQuery(t *testing.T) {
	server := startLoops(t, "")
	m := new(dns.Msg).SetQuestion("www.example.org.", dns.TypeA).SetEdns0(1232, false)
	m.Id = 1
	m.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_PADDING{Padding: make([]byte, dns.MaxMsgSize-m.Len()-4)}}
	wire, err := m.Pack()
	lab.Must(t, err)
	if len(wire) != dns.MaxMsgSize {
		t.Fatal(len(wire))
	}
	conn := dialStream(t, server)
	conn.Write(append([]byte{0xff, 0xff}, wire...))
	conn.Write(framed(t, 2, "www.example.org.", dns.TypeA))
	mustHear(t, conn, 1, dns.RcodeSuccess)
	mustHear(t, conn, 2, dns.RcodeSuccess)
}

// Who asks for much and does not read it keeps nobody from an answer, and gets all of it when it does read.
func TestSlowReaderHoldsUpNobody(t *testing.T) {
	server := startLoops(t, "")
	const queries = 400 // 20 MB of responses
	var slow []net.Conn
	for range 4 * udpSockets() {
		conn := dialStream(t, server)
		conn.(*net.TCPConn).SetReadBuffer(4096)
		slow = append(slow, conn)
		for i := range queries {
			conn.Write(framed(t, i, "large.example.org.", dns.TypeTXT))
		}
	}
	for i := range 20 {
		conn := dialStream(t, server)
		conn.Write(framed(t, i, "www.example.org.", dns.TypeA))
		mustHear(t, conn, i, dns.RcodeSuccess)
	}
	for i := range queries {
		if b := mustHear(t, slow[0], i, dns.RcodeSuccess); len(b) < 50_000 {
			t.Fatalf("response %d has %d octets", i, len(b))
		}
	}
	for _, conn := range slow {
		conn.Close()
	}
}

// Connections that begin a message and go no further, or say nothing, keep nobody from an answer, cost no goroutine, and are closed.
func TestHalfOpenFlood(t *testing.T) {
	server := startLoops(t, "")
	before := runtime.NumGoroutine()
	var conns []net.Conn
	for i := range 400 {
		conn := dialStream(t, server)
		conn.Write([]byte{0, 40, 1}[:i%4])
		conns = append(conns, conn)
	}
	conn := dialStream(t, server)
	conn.Write(framed(t, 7, "www.example.org.", dns.TypeA))
	mustHear(t, conn, 7, dns.RcodeSuccess)
	if n := runtime.NumGoroutine() - before; n > 50 {
		t.Errorf("%d goroutines more than before", n)
	}
	for i, conn := range conns {
		if n, err := conn.Read(make([]byte, 1)); n > 0 || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("connection %d: %d octets, %v", i, n, err)
		}
	}
}

// A connection that ends, wherever that is, leaves nothing behind; what was asked before is answered if that can be heard.
func TestConnectionsThatEnd(t *testing.T) {
	server := startLoops(t, "")
	query := framed(t, 9, "www.example.org.", dns.TypeA)
	for _, reset := range []bool{false, true} {
		for _, end := range []int{0, 1, 2, 10, len(query), len(query) + 1} {
			for range 20 {
				conn := dialStream(t, server)
				if reset {
					conn.(*net.TCPConn).SetLinger(0)
				}
				conn.Write(append(query, query...)[:end])
				conn.Close()
			}
		}
	}
	conn := dialStream(t, server)
	conn.Write(query)
	lab.Must(t, conn.(*net.TCPConn).CloseWrite())
	mustHear(t, conn, 9, dns.RcodeSuccess)
	if n, err := conn.Read(make([]byte, 1)); n > 0 || err != io.EOF {
		t.Errorf("after half of the connection was closed: %d, %v", n, err)
	}
	lab.WaitFor(t, "no connection has a place", func() bool { return connectedNow() == 0 })
}

// What is malformed gets its error, a response ends the connection, and a panic too, each by itself.
func TestWhatIsNoQueryByConnection(t *testing.T) {
	server := startLoops(t, "")
	for _, c := range []struct {
		flags     byte // and opcode
		questions byte
		rcode     int
	}{{2 << 3, 1, dns.RcodeNotImplemented}, {0, 2, dns.RcodeFormatError}, {0, 1, dns.RcodeFormatError}} {
		conn := dialStream(t, server)
		conn.Write([]byte{0, 12, 0x12, 0x34, c.flags, 0, 0, c.questions, 0, 0, 0, 0, 0, 0})
		mustHear(t, conn, 0x1234, c.rcode)
		conn.Write(framed(t, 1, "www.example.org.", dns.TypeA))
		mustHear(t, conn, 1, dns.RcodeSuccess)
	}
	conn := dialStream(t, server)
	response := framed(t, 2, "www.example.org.", dns.TypeA)
	response[4] |= 0x80
	after := framed(t, 5, "www.example.org.", dns.TypeA)
	conn.Write(append(append(framed(t, 3, "www.example.org.", dns.TypeA), response...), after...))
	mustHear(t, conn, 3, dns.RcodeSuccess)
	mustEnd(t, conn, "a response")
	wirePanics.Store(true)
	conn = dialStream(t, server)
	conn.Write(framed(t, 4, "www.example.org.", dns.TypeA))
	n, err := conn.Read(make([]byte, 1))
	wirePanics.Store(false)
	if n > 0 || err != io.EOF {
		t.Errorf("after a panic: %d, %v", n, err)
	}
	mustAsk(t, "tcp", server, "www.example.org.", dns.TypeA, dns.RcodeSuccess)
}

// A connection has no more queries than is allowed, whoever answers them.
func TestMostQueriesOfAConnection(t *testing.T) {
	port := freePort(t)
	start(t, fmt.Sprintf("example.org:%s {\n sharedunicast 127.0.53.1\n timeouts {\n maxtcpqueries 3\n }\n testwire\n}", port))
	server := "127.0.53.1:" + port
	for _, last := range []uint16{dns.TypeA, dns.TypeAXFR} {
		conn := dialStream(t, server)
		for i := range 2 {
			conn.Write(framed(t, i, "www.example.org.", dns.TypeA))
			mustHear(t, conn, i, dns.RcodeSuccess)
		}
		conn.Write(append(framed(t, 2, "www.example.org.", last), framed(t, 3, "www.example.org.", dns.TypeA)...))
		mustHear(t, conn, 2, map[uint16]int{dns.TypeA: dns.RcodeSuccess, dns.TypeAXFR: dns.RcodeRefused}[last])
		mustEnd(t, conn, "the last query")
	}
}

// The connections of several prefixes go as crowd says, also those of loops.
func TestLoopsGiveUpTheOldestConnection(t *testing.T) {
	server := startLoops(t, "")
	connected.mu.Lock()
	most := connected.most
	connected.most = 20
	connected.mu.Unlock()
	defer func() {
		connected.mu.Lock()
		connected.most = most
		connected.mu.Unlock()
	}()
	var conns []net.Conn
	for i := range 60 {
		conn := dialStream(t, server)
		conn.Write(framed(t, i, "www.example.org.", dns.TypeA))
		mustHear(t, conn, i, dns.RcodeSuccess)
		conns = append(conns, conn)
	}
	for i, conn := range conns[:40] {
		if n, err := conn.Read(make([]byte, 1)); n > 0 || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("connection %d: %d, %v", i, n, err)
		}
	}
	for i, conn := range conns[40:] {
		conn.Write(framed(t, i, "www.example.org.", dns.TypeA))
		mustHear(t, conn, i, dns.RcodeSuccess)
	}
}

// A server that stops takes no more connections, while those that are open are still answered, by a loop or not; and knows when the last
// of them has gone.
func TestLoopsDrain(t *testing.T) {
	server := startLoops(t, "")
	all := caddy.Instances()
	s := all[len(all)-1].Storage[instanceKey{}].(*instance).servers[0]
	var conns []net.Conn
	for _, qtype := range []uint16{dns.TypeA, dns.TypeAXFR} { // the second goes through the chain
		conn := dialStream(t, server)
		conn.Write(framed(t, 1, "www.example.org.", qtype))
		mustHear(t, conn, 1, map[uint16]int{dns.TypeA: dns.RcodeSuccess, dns.TypeAXFR: dns.RcodeRefused}[qtype])
		conns = append(conns, conn)
	}
	s.listener.drain(time.Now().Add(time.Hour))
	lab.WaitFor(t, "connections are refused", func() bool {
		conn, err := net.Dial("tcp", server)
		if err == nil {
			conn.Close()
		}
		return err != nil
	})
	for _, conn := range conns {
		select {
		case <-s.listener.idle:
			t.Error("all connections are said to be closed")
		default:
		}
		conn.Write(framed(t, 2, "www.example.org.", dns.TypeA))
		mustHear(t, conn, 2, dns.RcodeSuccess)
		conn.Close()
	}
	select {
	case <-s.listener.idle:
	case <-time.After(30 * time.Second):
		t.Error("nobody is told that all connections are closed")
	}
}
