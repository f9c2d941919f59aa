package bgp

import (
	"bytes"
	"context"
	"net/netip"
	"strings"
	"testing"
	"time"

	packet "github.com/osrg/gobgp/v4/pkg/packet/bgp"
)

// Capabilities of routers that know graceful restart (RFC 4724 3): one that only helps, and one that restarts gracefully itself, which
// sends End-of-RIB and is waited for.
var (
	helps    = []byte{64, 2, 0, 120}
	restarts = []byte{64, 10, 0, 120, 0, 1, 1, 0, 0, 2, 1, 0}
)

// startKept starts a speaker whose routes are kept for 30 s, and announces both.
func startKept(t *testing.T, n ...Neighbor) *Speaker {
	t.Helper()
	s, err := Start(Config{AS: 64500, RouterID: netip.MustParseAddr("198.51.100.7"), Neighbors: n, GracefulRestart: 30 * time.Second}, quiet)
	if err != nil {
		t.Fatal(err)
	}
	if one := s.Sessions()[0]; one.State != "idle" || !strings.Contains(one.Down.Detail, "when it is known") {
		t.Errorf("a session before it is known what is to be announced: %+v", one)
	}
	set(t, s, v4, v6)
	return s
}

func set(t *testing.T, s *Speaker, prefixes ...netip.Prefix) {
	t.Helper()
	if err := s.Set(State{Prefixes: prefixes}); err != nil {
		t.Fatal(err)
	}
}

// A new process says that it has restarted, that the service went on, and for how long routes are to be kept: and it does not ask to
// keep them after a NOTIFICATION (RFC 8538). The routes come before the End-of-RIB of both families.
func TestGracefulRestartIsOffered(t *testing.T) {
	r := newRouter(t, "127.0.0.1")
	r.caps = helps
	s := startKept(t, r.neighbor())
	s.Connect()
	s.Connect() // again and again, by every decision
	r.accept()
	const restarted, forwarding, seconds = 0x80, 0x80, 30
	want := []byte{64, 10, restarted, seconds, 0, 1, 1, forwarding, 0, 2, 1, forwarding}
	if !bytes.Contains(r.opened, want) {
		t.Errorf("OPEN %x, want the capability %x in it", r.opened, want)
	}
	ends := map[netip.Prefix][]byte{v4: make([]byte, 4), v6: {0, 0, 0, 6, 0x80, 15, 3, 0, 2, 1}} // RFC 4724 2
	for len(ends) > 0 {
		kind, body := r.read(10 * time.Second)
		if kind == 0 || kind == packet.BGP_MSG_NOTIFICATION {
			t.Fatalf("message %d, and no End-of-RIB yet of %v", kind, ends)
		}
		for p, end := range ends {
			if kind != packet.BGP_MSG_UPDATE || !bytes.Equal(body, end) {
				continue
			}
			if delete(ends, p); !r.routes[p].IsValid() {
				t.Errorf("End-of-RIB before the route %s", p)
			}
		}
	}
	if one := s.Sessions()[0]; one.KeptSeconds != seconds {
		t.Errorf("the session %+v does not say that its routes are kept", one)
	}
	stop(t, s)
}

// A router that is down keeps none waiting that is up, though GoBGP would wait for its End-of-RIB.
func TestRestartWaitsForNoRouterThatIsDown(t *testing.T) {
	up, down := newRouter(t, "127.0.0.1"), newRouter(t, "127.0.0.2")
	up.caps = restarts
	gone := down.neighbor()
	down.listener.Close()
	s := startKept(t, up.neighbor(), gone)
	s.Connect()
	up.accept()
	up.wantRoutes(both)
	stop(t, s)
}

// Keep ends a session without a word, and every other end of it has one: a router that keeps routes must drop them then.
func TestOnlyKeepEndsWithoutAWord(t *testing.T) {
	for name, c := range map[string]struct {
		end  func(s *Speaker, ctx context.Context) error
		word bool
	}{
		"keep":    {(*Speaker).Keep, false},
		"stop":    {(*Speaker).Stop, true},
		"abandon": {func(s *Speaker, _ context.Context) error { s.Abandon(); return nil }, true},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRouter(t, "127.0.0.1")
			r.caps = helps
			s := startKept(t, r.neighbor())
			s.Connect()
			r.accept()
			r.wantRoutes(both)
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			ended := make(chan error, 1)
			go func() { ended <- c.end(s, ctx) }()
			kind := byte(packet.BGP_MSG_KEEPALIVE)
			for kind != 0 && kind != packet.BGP_MSG_NOTIFICATION {
				kind, _ = r.read(20 * time.Second)
			}
			if word := kind == packet.BGP_MSG_NOTIFICATION; word != c.word {
				t.Errorf("the session ended with a NOTIFICATION: %v, want %v", word, c.word)
			}
			if !c.word && len(r.routes) != 2 {
				t.Errorf("withdrawn before the end: %v are left", r.routes)
			}
			if err := <-ended; err != nil {
				t.Error(err)
			}
		})
	}
}

// Keep leaves everything as it is unless all routers that have routes keep them.
func TestKeepIsForRoutersThatDo(t *testing.T) {
	does, doesNot := newRouter(t, "127.0.0.1"), newRouter(t, "127.0.0.2")
	does.caps = helps
	s := startKept(t, does.neighbor(), doesNot.neighbor())
	if err := s.Keep(t.Context()); err == nil || !strings.Contains(err.Error(), "no router has a route") {
		t.Errorf("before there is a session: %v", err)
	}
	s.Connect()
	does.accept()
	does.wantRoutes(both)
	doesNot.accept()
	doesNot.wantRoutes(map[netip.Prefix]netip.Addr{v4: netip.MustParseAddr("127.0.0.1"), v6: netip.MustParseAddr("2001:db8:100::7")})
	if err := s.Keep(t.Context()); err == nil || !strings.Contains(err.Error(), "127.0.0.2 does not know graceful restart") {
		t.Errorf("with a router that does not: %v", err)
	}
	set(t, s, v4)
	does.wantRoutes(map[netip.Prefix]netip.Addr{v4: both[v4]})
	stop(t, s)

	other := start(t, does.neighbor())
	if err := other.Keep(t.Context()); err == nil || !strings.Contains(err.Error(), "graceful_restart is off") {
		t.Errorf("without graceful restart: %v", err)
	}
	stop(t, other)
}

// What changes before the sessions begin is in what they begin with, and nothing asks sessions for it that are not there.
func TestReconfigureBeforeConnect(t *testing.T) {
	r, other := newRouter(t, "127.0.0.1"), newRouter(t, "127.0.0.2")
	n := r.neighbor()
	s := startKept(t, n)
	n.Communities = []string{"64501:7"}
	next := Config{AS: 64500, RouterID: netip.MustParseAddr("198.51.100.7"), Neighbors: []Neighbor{n, other.neighbor()}, GracefulRestart: 30 * time.Second}
	if err := s.Reconfigure(next); err != nil {
		t.Fatal(err)
	}
	if err := s.Set(State{Prefixes: []netip.Prefix{v4}, Degraded: true}); err != nil {
		t.Fatal(err)
	}
	s.Connect()
	r.accept()
	r.wantRoutes(map[netip.Prefix]netip.Addr{v4: both[v4]})
	if !strings.Contains(r.attrs, "64501:7") {
		t.Errorf("attributes %s", r.attrs)
	}
	other.accept()
	other.wantRoutes(map[netip.Prefix]netip.Addr{v4: netip.MustParseAddr("127.0.0.1")})
	if next.GracefulRestart = 0; s.Reconfigure(next) == nil {
		t.Error("graceful restart was switched off in sessions that go on with it")
	}
	stop(t, s)
}
