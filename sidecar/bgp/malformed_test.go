package bgp

import (
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
	packet "github.com/osrg/gobgp/v4/pkg/packet/bgp"
)

// TestMalformedMessages has routers gone mad send 10,000 messages after their OPENs that are handled: after each the same
// session either answers a ROUTE-REFRESH or is closed. All the while a sane router keeps its session and its
// routes, and at the end nothing has been kept of it all.
func TestMalformedMessages(t *testing.T) {
	const mad, each = 200, 55
	sane := newRouter(t, "127.0.3.250")
	port := uint16(testenv.Port(t))
	cfg := Config{AS: 64500, RouterID: netip.MustParseAddr("198.51.100.7"), Port: port,
		Listen: []netip.Addr{netip.MustParseAddr("127.0.0.1")}, Neighbors: []Neighbor{sane.neighbor()}}
	for i := range mad {
		n := sane.neighbor()
		n.Address, n.Passive = netip.AddrFrom4([4]byte{127, 0, 3, byte(i + 1)}), true
		cfg.Neighbors = append(cfg.Neighbors, n)
	}
	s, err := Start(cfg, quiet)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Set(State{Prefixes: []netip.Prefix{v4, v6}}); err != nil {
		t.Fatal(err)
	}
	sane.accept()
	sane.wantRoutes(both)
	done := make(chan struct{})
	var watch sync.WaitGroup
	watch.Go(func() { sane.stays(done) })
	before := heap()

	var sent, resets atomic.Int64
	var all sync.WaitGroup
	for i := range mad {
		all.Go(func() {
			m := &madRouter{random: rand.New(rand.NewPCG(7, uint64(i))), port: port, from: cfg.Neighbors[i+1].Address}
			if err := m.rave(each); err != nil {
				t.Errorf("%s: %v", m.from, err)
			}
			sent.Add(int64(m.sent))
			resets.Add(int64(m.resets))
		})
	}
	all.Wait()
	close(done)
	watch.Wait()
	t.Logf("%d messages, %d sessions reset by them", sent.Load(), resets.Load())
	if handled := sent.Load() - resets.Load(); handled < 10_000 { // a message may have come after the one that ended the session
		t.Errorf("only %d messages were handled", handled)
	}
	if after := heap(); after > before+32<<20 {
		t.Errorf("the heap has grown from %d to %d bytes", before, after)
	}
	if t.Failed() {
		return
	}
	if err := s.Set(State{Prefixes: []netip.Prefix{v6}}); err != nil {
		t.Fatal(err)
	}
	sane.wantRoutes(map[netip.Prefix]netip.Addr{v6: both[v6]})
	stop(t, s)
}

// stays reads until done, and wants the session and both routes to stay.
func (r *router) stays(done chan struct{}) {
	for {
		select {
		case <-done:
			return
		default:
		}
		r.send(message(4, nil))
		kind, _ := r.read(time.Second)
		if kind == packet.BGP_MSG_NOTIFICATION || len(r.routes) != len(both) {
			r.t.Errorf("the sane router got a message %d and knows %v", kind, r.routes)
			return
		}
	}
}

func heap() uint64 {
	runtime.GC()
	runtime.GC() // what the first one made free of finalizers
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// madRouter connects from an address of its own and sends nonsense.
type madRouter struct {
	random       *rand.Rand
	from         netip.Addr
	port         uint16
	conn         net.Conn
	sent, resets int
}

// rave sends n messages, over as many sessions as they take.
func (m *madRouter) rave(n int) error {
	defer func() {
		if m.conn != nil {
			m.conn.Close()
		}
	}()
	for m.sent < n {
		if m.conn == nil {
			if err := m.open(); err != nil {
				return err
			}
		}
		m.conn.Write(m.nonsense()) // one that is not taken any more is missed next
		m.sent++
		if !m.handled() {
			m.resets++
			m.conn.Close()
			m.conn = nil
		}
	}
	return nil
}

// open gets a session, for which it may have to wait: one that was reset is not taken again for five seconds.
func (m *madRouter) open() error {
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: m.from.AsSlice()}}
	for deadline := time.Now().Add(60 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		conn, err := dialer.Dial("tcp", netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), m.port).String())
		if err != nil {
			continue
		}
		m.conn = conn
		caps := []byte{1, 4, 0, 1, 0, 1, 1, 4, 0, 2, 0, 1, 2, 0, 65, 4, 0, 0, 0xfb, 0xf5} // both families, route refresh
		open := append([]byte{4, 0xfb, 0xf5, 0, 90, 10, 0, 0, 1, byte(len(caps) + 2), 2, byte(len(caps))}, caps...)
		conn.Write(slices.Concat(message(1, open), message(4, nil)))
		if m.handled() {
			return nil
		}
		conn.Close()
	}
	return errors.New("no session")
}

// handled asks for all routes again, and reports whether they came.
func (m *madRouter) handled() bool {
	m.conn.SetDeadline(time.Now().Add(30 * time.Second))
	m.conn.Write(message(5, []byte{0, 1, 0, 1}))
	head := make([]byte, 19)
	for {
		if _, err := io.ReadFull(m.conn, head); err != nil {
			return false
		}
		if _, err := io.CopyN(io.Discard, m.conn, int64(binary.BigEndian.Uint16(head[16:])-19)); err != nil {
			return false
		}
		switch head[18] {
		case packet.BGP_MSG_UPDATE:
			return true
		case packet.BGP_MSG_NOTIFICATION:
			return false
		}
	}
}

// nonsense is a message that is wrong in one of many ways. Most are UPDATEs whose attributes are: others end the session,
// which then takes its time to come back.
func (m *madRouter) nonsense() []byte {
	attrs := [][]byte{origin, asPath, nextHop, as4Path, {0xc0, 8, 4, 0xff, 0xff, 0, 0}, {0xc0, 16, 8, 0, 2, 0, 1, 0, 0, 0, 1},
		{0xc0, 32, 12, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3}, {0xc0, 40, 7, 1, 0, 4, 0, 0, 0, 0}, {0x80, 4, 4, 0, 0, 0, 7},
		{0xc0, 7, 8, 0, 0, 0xfb, 0xf5, 10, 0, 0, 1}, {0x80, 26, 11, 1, 0, 11, 0, 0, 0, 0, 0, 0, 0, 1}, {0xc0, 23, 4, 0, 7, 0, 0}}
	m.random.Shuffle(len(attrs), func(i, j int) { attrs[i], attrs[j] = attrs[j], attrs[i] })
	attrs = attrs[:1+m.random.IntN(len(attrs))]
	for i, a := range attrs {
		a = slices.Clone(a)
		switch m.random.IntN(4) {
		case 0: // other flags
			a[0] = byte(m.random.Uint32()) &^ 0x10
		case 1: // another attribute of this length, an unknown one among them
			a[1] = byte(m.random.IntN(64))
		case 2: // other contents
			for j := 3; j < len(a); j++ {
				a[j] = byte(m.random.Uint32())
			}
		case 3: // shorter, truly
			a = a[:3+m.random.IntN(len(a)-2)]
			a[2] = byte(len(a) - 3)
		}
		attrs[i] = a
	}
	msg := update(attrs...)
	switch {
	case m.random.IntN(20) > 0:
	case m.random.IntN(2) == 0: // any octet after the header
		msg[19+m.random.IntN(len(msg)-19)] ^= byte(1 << m.random.IntN(8))
	default: // any type
		msg[18] = byte(m.random.IntN(8))
	}
	return msg
}
