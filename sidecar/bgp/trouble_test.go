package bgp

import (
	"bytes"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unsafe"

	"github.com/osrg/gobgp/v4/api"
	"golang.org/x/sys/unix"

	"github.com/coredns-anycast/coredns-anycast/internal/status"
)

// lines is a log that a test reads while it is written.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// startWith starts a speaker whose log can be read, and that tries again soon what it has paused.
func startWith(t *testing.T, n Neighbor) (*Speaker, *lines) {
	t.Helper()
	log := new(lines)
	s, err := Start(Config{AS: 64500, RouterID: netip.MustParseAddr("198.51.100.7"), Neighbors: []Neighbor{n}}, slog.New(slog.NewTextHandler(log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stop(t, s) })
	return s, log
}

// wantDown waits until the session is down for this reason, in the status and in the log, at a level that is looked at.
func wantDown(t *testing.T, s *Speaker, log *lines, code, words string) {
	t.Helper()
	var one status.Session
	for end := time.Now().Add(40 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		one = s.Sessions()[0]
		if one.Down.Code == code && strings.Contains(one.Down.Detail, words) {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("the session is %+v, want it down as %s: %s\n%s", one, code, words, log)
		}
	}
	if !slices.Contains(Troubles, code) || one.State == Established {
		t.Errorf("%s, of a session that is %s", code, one.State)
	}
	for line := range strings.Lines(log.String()) {
		if strings.Contains(line, "level=WARN") && strings.Contains(line, "code="+code) && strings.Contains(line, strings.Trim(fmt.Sprintf("%q", words), `"`)) {
			return
		}
	}
	t.Errorf("no line of %s in\n%s", code, log)
}

// notification is one that a router sends.
func notification(code, subcode byte, data ...byte) []byte {
	return message(3, append([]byte{code, subcode}, data...))
}

// accepted is the next connection to the router, before any word.
func (r *router) accepted() {
	r.t.Helper()
	r.listener.(*net.TCPListener).SetDeadline(time.Now().Add(20 * time.Second))
	conn, err := r.listener.Accept()
	if err != nil {
		r.t.Fatal(err)
	}
	r.conn = conn
}

// A router that does not let the session up is answered by a reason that says what to look at.
func TestWhyASessionDoesNotComeUp(t *testing.T) {
	t.Run("refused", func(t *testing.T) {
		r := newRouter(t, "127.0.0.1")
		r.listener.Close()
		s, log := startWith(t, r.neighbor())
		wantDown(t, s, log, Refused, "no BGP listens there")
	})
	t.Run("closed", func(t *testing.T) {
		r := newRouter(t, "127.0.0.1")
		s, log := startWith(t, r.neighbor())
		r.accepted()
		r.conn.Close()
		wantDown(t, s, log, Closed, "closed the connection")
	})
	t.Run("a source that is not there", func(t *testing.T) {
		n := newRouter(t, "127.0.0.1").neighbor()
		n.Source = netip.MustParseAddr("192.0.2.254")
		s, log := startWith(t, n)
		wantDown(t, s, log, NoSource, "source address")
	})
	t.Run("passive", func(t *testing.T) {
		n := newRouter(t, "127.0.0.1").neighbor()
		n.Passive = true
		s, _ := startWith(t, n)
		if got := s.Sessions()[0].Down; got.Code != Waiting {
			t.Errorf("down as %v", got)
		}
	})
}

// Each refusal of an OPEN is named, as the RFC does, whatever comes before it.
func TestWhyAnOpenIsTurnedDown(t *testing.T) {
	for name, c := range map[string]struct {
		as          uint32
		before      bool // the router says OPEN itself before it refuses
		refusal     []byte
		code, words string
	}{
		"the router is of another AS": {64999, true, nil, WrongAS, "the router is of AS 64999, and configured is 64501: OPEN Message Error / Bad Peer AS (2/2)"},
		"this node is of another AS": {64501, true, notification(2, 2), NotificationReceived,
			"OPEN Message Error / Bad Peer AS (2/2): it has this node as another AS than 64500"},
		"and the router did not say OPEN": {64501, false, notification(6, 5), NotificationReceived, "Cease / Connection Rejected (6/5)"},
		"an error that no RFC has":        {64501, true, notification(9, 3), NotificationReceived, "unknown error (9/3)"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRouter(t, "127.0.0.1")
			r.as = c.as
			s, log := startWith(t, r.neighbor())
			go func() {
				for {
					conn, err := r.listener.Accept()
					if err != nil {
						return
					}
					if c.before {
						conn.Write(r.open())
					}
					conn.SetReadDeadline(time.Now().Add(5 * time.Second))
					readMessage(conn)
					conn.Write(c.refusal)
					conn.(*net.TCPConn).CloseWrite()
					readMessage(conn)
					conn.Close()
				}
			}()
			wantDown(t, s, log, c.code, c.words)
		})
	}
}

// A SYN-ACK that the kernel drops, on one side or the other, looks like silence. The reason says what to compare.
func TestWhyNoAnswerComes(t *testing.T) {
	t.Run("another password", func(t *testing.T) {
		r := newRouter(t, "127.0.0.1")
		r.listener.Close()
		var plain net.ListenConfig
		plain.SetMultipathTCP(false) // which knows no TCP MD5
		var err error
		if r.listener, err = plain.Listen(t.Context(), "tcp", r.listener.Addr().String()); err != nil {
			t.Fatal(err)
		}
		defer r.listener.Close()
		n := r.neighbor()
		raw, err := r.listener.(*net.TCPListener).SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		theirs := n
		theirs.Password = "another"
		raw.Control(func(fd uintptr) { err = password(int(fd), unix.AF_INET, theirs) })
		if err != nil {
			t.Fatal(err)
		}
		n.Password = "secret"
		s, log := startWith(t, n)
		wantDown(t, s, log, NoAnswer, "password (TCP MD5)")
	})
	t.Run("a router without GTSM", func(t *testing.T) {
		n := newRouter(t, "127.0.0.1").neighbor()
		n.TTLSecurity = 1 // and the kernel's TTL is 64
		s, log := startWith(t, n)
		wantDown(t, s, log, NoAnswer, "GTSM")
	})
}

// What ends a session that was up is said, and that it is up again.
func TestWhyASessionEnds(t *testing.T) {
	r := newRouter(t, "127.0.0.1")
	n := r.neighbor()
	n.HoldTime = 3 * time.Second
	s, log := startWith(t, n)
	r.accept()
	wantUp(t, s, log)
	r.send(notification(6, 2, append([]byte{11}, "new routers"...)...))
	wantDown(t, s, log, NotificationReceived, `Cease / Administrative Shutdown (6/2), with the words "new routers"`)
	r.conn.Close()
	r.accept()
	wantUp(t, s, log)
	wantDown(t, s, log, HoldTimerExpired, "Hold Timer Expired (4/0)") // the router says nothing any more
	one := s.Sessions()[0]
	if one.NotificationsReceived != 1 || one.NotificationsSent != 1 {
		t.Errorf("%+v, want one NOTIFICATION each way", one)
	}
}

func wantUp(t *testing.T, s *Speaker, log *lines) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); s.Sessions()[0].State != Established; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%+v\n%s", s.Sessions()[0], log)
		}
	}
	if down := s.Sessions()[0].Down; down != (status.Reason{}) {
		t.Errorf("it is up, and down as %v", down)
	}
}

// A session that never comes up fills no disk.
func TestTroublesAreToldAFewTimes(t *testing.T) {
	log := new(lines)
	n := Neighbor{Address: netip.MustParseAddr("192.0.2.1")}
	told := newTroubles([]Neighbor{n}, slog.New(slog.NewTextHandler(log, nil)))
	for i := range 10_000 {
		told.down(n.Address, Troubles[i%len(Troubles)], "%d", i)
	}
	if got := strings.Count(log.String(), "\n"); got != maxLines {
		t.Errorf("%d lines", got)
	}
}

// With a hold time of 0 a session outlives a dead node (RFC 4271 4.2), so it is refused: the router has no route, now or
// when it tries again, until it proposes another one. The configuration may allow it.
func TestHoldTimeZero(t *testing.T) {
	r := newRouter(t, "127.0.0.1")
	r.hold = 0
	s, log := startWith(t, r.neighbor())
	s.mu.Lock()
	s.pause = time.Second
	s.mu.Unlock()
	if err := s.Set(State{Prefixes: []netip.Prefix{v4, v6}}); err != nil {
		t.Fatal(err)
	}
	r.accept()
	wantDown(t, s, log, HoldTimeZero, "hold time of 0")
	ended := false
	for deadline := time.Now().Add(20 * time.Second); !ended && time.Now().Before(deadline); {
		kind, body := r.read(time.Until(deadline))
		ended = kind == 3 && body[0] == 6 && body[1] == 2 && strings.Contains(string(body), "hold time of 0")
	}
	if !ended {
		t.Error("the session was not ended with a word")
	}
	r.conn.Close()
	r.accept() // the next try
	for {
		kind, _ := r.read(20 * time.Second)
		if len(r.routes) > 0 {
			t.Fatalf("the router knows %v\n%s", r.routes, log)
		}
		if kind == 3 {
			break
		}
	}
	r.conn.Close()
	r.hold = 9
	r.accept()
	r.wantRoutes(both)
	wantUp(t, s, log)

	allowed := newRouter(t, "127.0.0.2")
	allowed.hold = 0
	n := allowed.neighbor()
	n.HoldZero = true
	free, _ := startWith(t, n)
	if err := free.Set(State{Prefixes: []netip.Prefix{v4}}); err != nil {
		t.Fatal(err)
	}
	allowed.accept()
	allowed.wantRoutes(map[netip.Prefix]netip.Addr{v4: netip.MustParseAddr("127.0.0.1")})
}

// A router that sends a table is told to stop, before it takes memory, and may try again.
func TestPrefixLimit(t *testing.T) {
	r := newRouter(t, "127.0.0.1")
	n := r.neighbor()
	n.MaxPrefixes = 10
	s, log := startWith(t, n)
	s.mu.Lock()
	s.pause = time.Second
	s.mu.Unlock()
	r.accept()
	flood := func(routes int) {
		for i := range routes {
			attrs := bytes.Join([][]byte{origin, asPath, nextHop}, nil)
			r.conn.Write(message(2, slices.Concat([]byte{0, 0, 0, byte(len(attrs))}, attrs, []byte{24, 10, byte(i >> 8), byte(i)})))
		}
	}
	flood(10)
	wantUp(t, s, log)
	flood(1000)
	wantDown(t, s, log, PrefixLimit, "max_prefixes")
	r.conn.Close()
	r.accept()
	wantUp(t, s, log)
}

// The filter looks at the right octet in both families, on a socket of both.
func TestBFDFilter(t *testing.T) {
	conn, err := net.ListenPacket("udp", "[::]:0")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	raw, _ := conn.(*net.UDPConn).SyscallConn()
	raw.Control(func(fd uintptr) {
		err = unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(fromNextDoor)), Filter: &fromNextDoor[0]})
	})
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(conn.LocalAddr().String())
	for _, address := range []string{"127.0.0.1", "::1"} {
		for _, ttl := range []int{1, 64, 254, 255} {
			sendWithTTL(t, net.JoinHostPort(address, port), ttl, fmt.Append(nil, address, ttl))
		}
		sendWithTTL(t, net.JoinHostPort(address, port), 255, []byte("end"))
		conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		var got []string
		for b := make([]byte, 64); !slices.Contains(got, "end"); {
			n, _, err := conn.ReadFrom(b)
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, string(b[:n]))
		}
		if want := []string{fmt.Sprint(address, 255), "end"}; !slices.Equal(got, want) {
			t.Errorf("got through %q, want %q", got, want)
		}
	}
}

func sendWithTTL(t *testing.T, to string, ttl int, data []byte) {
	t.Helper()
	conn, err := net.Dial("udp", to)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	raw, _ := conn.(*net.UDPConn).SyscallConn()
	raw.Control(func(fd uintptr) {
		family := unix.AF_INET
		if strings.HasPrefix(to, "[") {
			family = unix.AF_INET6
		}
		err = setTTL(int(fd), family, ttl)
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write(data); err != nil {
		t.Fatal(err)
	}
}

// BFD packets that came through a router are nobody's next door (RFC 5881 5): they change nothing in GoBGP, whose socket
// has the filter soon after the start.
func TestBFDLooksAtTheTTL(t *testing.T) {
	r := newRouter(t, "127.0.0.1")
	n := r.neighbor()
	n.BFD = 300 * time.Millisecond
	n.Address = netip.MustParseAddr("127.0.0.9") // GoBGP's own packets to it come from another one
	s, _ := startWith(t, n)
	for end := time.Now().Add(20 * time.Second); !bfdIsGuarded(t); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("no BFD socket has a filter")
		}
	}
	// Version 1, down, multiplier 3, 24 octets, my discriminator, and intervals of 300 ms (RFC 5880 4.1).
	hello := []byte{0x20, 0x40, 3, 24, 0, 0, 0, 7, 0, 0, 0, 0, 0, 4, 0x93, 0xe0, 0, 4, 0x93, 0xe0, 0, 0, 0, 0}
	send := func(ttl int) {
		d := net.Dialer{LocalAddr: &net.UDPAddr{IP: net.ParseIP("127.0.0.9")}}
		conn, err := d.Dial("udp", "127.0.0.1:3784")
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		raw, _ := conn.(*net.UDPConn).SyscallConn()
		raw.Control(func(fd uintptr) { err = setTTL(int(fd), unix.AF_INET, ttl) })
		if err != nil {
			t.Fatal(err)
		}
		conn.Write(hello)
	}
	received := func() (packets uint64) {
		s.server.ListPeer(t.Context(), &api.ListPeerRequest{}, func(p *api.Peer) {
			packets = p.GetState().GetBfdState().GetBfdAsync().GetReceivedPackets()
		})
		return packets
	}
	for range 10 {
		send(254)
	}
	send(255)
	for end := time.Now().Add(20 * time.Second); received() == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("nothing of what comes from next door was received")
		}
	}
	if got := received(); got != 1 {
		t.Errorf("%d packets were received, want the one that came through no router", got)
	}
}

// bfdIsGuarded reports whether the process's BFD socket has a filter.
func bfdIsGuarded(t *testing.T) bool {
	for fd := range 256 {
		if isBFD(fd) {
			var filter [64]unix.SockFilter
			length := uint32(len(filter))
			_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_GET_FILTER, uintptr(unsafe.Pointer(&filter)), uintptr(unsafe.Pointer(&length)), 0)
			return errno == 0 && int(length) == len(fromNextDoor)
		}
	}
	return false
}
