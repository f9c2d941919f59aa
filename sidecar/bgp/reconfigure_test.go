package bgp

import (
	"net/netip"
	"strings"
	"testing"
	"time"
)

// reconfigure takes other neighbours.
func reconfigure(t *testing.T, s *Speaker, n ...Neighbor) {
	t.Helper()
	if err := s.Reconfigure(Config{AS: 64500, RouterID: netip.MustParseAddr("198.51.100.7"), Neighbors: n}); err != nil {
		t.Fatal(err)
	}
}

// What is sent to a router changes within its session, which has not been interrupted when the last word is said over it; a
// neighbour that comes is announced to, and one that goes is told so. Only what makes a session makes it anew.
func TestReconfigure(t *testing.T) {
	r, other := newRouter(t, "127.0.0.1"), newRouter(t, "127.0.0.2")
	n := r.neighbor()
	n.HoldTime = time.Minute
	s, log := startWith(t, n)
	if err := s.Set(State{Prefixes: []netip.Prefix{v4, v6}}); err != nil {
		t.Fatal(err)
	}
	r.accept()
	r.wantRoutes(both)

	med := uint32(20)
	n.MED, n.Communities, n.Prepend = &med, []string{"64501:7"}, 2
	reconfigure(t, s, n)
	for end := time.Now().Add(10 * time.Second); !strings.Contains(r.attrs, "64501:7") || !strings.Contains(r.attrs, "20"); {
		if kind, _ := r.read(time.Until(end)); kind == 0 || kind == 3 || len(r.routes) != 2 {
			t.Fatalf("message %d instead of new attributes; routes %v, %s", kind, r.routes, r.attrs)
		}
	}
	n.MED, n.Communities, n.Prepend = nil, nil, 0
	m := other.neighbor()
	reconfigure(t, s, n, m)
	other.accept()
	other.wantRoutes(map[netip.Prefix]netip.Addr{v4: netip.MustParseAddr("127.0.0.1"), v6: netip.MustParseAddr("2001:db8:100::7")})
	for end := time.Now().Add(10 * time.Second); strings.Contains(r.attrs, "64501:7"); {
		if kind, _ := r.read(time.Until(end)); kind == 0 || kind == 3 || len(r.routes) != 2 {
			t.Fatalf("message %d instead of the attributes of before; routes %v, %s", kind, r.routes, r.attrs)
		}
	}
	if one := s.Sessions()[0]; one.State != Established {
		t.Errorf("the session that stays: %+v\n%s", one, log)
	}

	m.HoldTime = 30 * time.Second // which a session begins with
	reconfigure(t, s, n, m)
	other.ends()
	other.accept()
	other.wantRoutes(map[netip.Prefix]netip.Addr{v4: netip.MustParseAddr("127.0.0.1"), v6: netip.MustParseAddr("2001:db8:100::7")})
	reconfigure(t, s, n)
	other.ends()
	if all := s.Sessions(); len(all) != 1 || all[0].State != Established {
		t.Errorf("sessions %+v", all)
	}
	if n := strings.Count(log.String(), `msg="the BGP session is up" neighbor=127.0.0.1`); n != 1 {
		t.Errorf("the session that stays came up %d times\n%s", n, log)
	}
}

// ends reads until this side of the session has said that it is over.
func (r *router) ends() {
	r.t.Helper()
	for end := time.Now().Add(10 * time.Second); ; {
		switch kind, _ := r.read(time.Until(end)); kind {
		case 3:
			r.conn.Close()
			return
		case 0:
			r.t.Fatal("the session was not ended with a word")
		}
	}
}

// What GoBGP cannot change while it runs is refused, and changes nothing.
func TestReconfigureRefuses(t *testing.T) {
	r := newRouter(t, "127.0.0.1")
	n := r.neighbor()
	s, _ := startWith(t, n)
	long, fast := n, n
	long.Password = strings.Repeat("x", 81)
	fast.BFD = 300 * time.Millisecond
	cfg := Config{AS: 64500, RouterID: netip.MustParseAddr("198.51.100.7")}
	for want, change := range map[string]func(*Config){
		"at most 80 bytes": func(c *Config) { c.Neighbors = []Neighbor{long} },
		"has bfd":          func(c *Config) { c.Neighbors = []Neighbor{fast} },
		"take a restart":   func(c *Config) { c.AS = 64999 },
	} {
		next := cfg
		next.Neighbors = []Neighbor{n}
		change(&next)
		if err := s.Reconfigure(next); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
	r.accept()
}

// wantAttr reads until the last route has this among its attributes, or has it no more. The routes are there all the while.
func (r *router) wantAttr(want string, there bool) {
	r.t.Helper()
	for end := time.Now().Add(10 * time.Second); strings.Contains(r.attrs, want) != there; {
		if kind, _ := r.read(time.Until(end)); kind == 0 || kind == 3 || len(r.routes) != 1 {
			r.t.Fatalf("message %d; want %q there: %v; routes %v, %s", kind, want, there, r.routes, r.attrs)
		}
	}
}

// A route has the attributes of its prefix and of the neighbour, and while the service is not well it is the worse of ways:
// without an interruption, and to a router that comes later too.
func TestPrefixAttributesAndDegraded(t *testing.T) {
	r := newRouter(t, "127.0.0.1")
	n := r.neighbor()
	n.NextHop6, n.Communities = netip.Addr{}, []string{"64501:1"}
	low, high := uint32(5), uint32(1000)
	cfg := Config{AS: 64500, RouterID: netip.MustParseAddr("198.51.100.7"), Neighbors: []Neighbor{n},
		Prefixes: map[netip.Prefix]Attributes{v4: {Communities: []string{"64501:2"}, LargeCommunities: []string{"64501:3:4"}, MED: &low}},
		Degraded: Attributes{Communities: []string{"64501:666"}, MED: &high, Prepend: 3}}
	s, err := Start(cfg, quiet)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stop(t, s) })
	set := func(state State) {
		t.Helper()
		state.Prefixes = []netip.Prefix{v4}
		if err := s.Set(state); err != nil {
			t.Fatal(err)
		}
	}
	set(State{})
	set(State{Degraded: true}) // with no session yet
	set(State{})
	r.accept()
	for _, want := range []string{"64501:1", "64501:2", "64501:3:4", "{Med: 5}"} {
		r.wantAttr(want, true)
	}
	set(State{Degraded: true})
	for _, want := range []string{"64501:1", "64501:2", "64501:666", "{Med: 1000}", "64500 64500 64500 64500"} {
		r.wantAttr(want, true)
	}
	set(State{Draining: true})
	r.wantAttr("64501:666", false)
	r.wantAttr("planned-shut", true) // GRACEFUL_SHUTDOWN, by its old name
	set(State{Degraded: true})
	r.wantAttr("planned-shut", false)
	r.wantAttr("64501:666", true)
	r.conn.Close()
	r.accept()
	r.wantAttr("64501:666", true)
	set(State{})
	r.wantAttr("64501:666", false)
	r.wantAttr("{Med: 5}", true)

	cfg.Prefixes = map[netip.Prefix]Attributes{v4: {MED: &high}}
	if err := s.Reconfigure(cfg); err != nil {
		t.Fatal(err)
	}
	r.wantAttr("{Med: 1000}", true)
	r.wantAttr("64501:2", false)
}

// In a session inside the AS the preference says it.
func TestDegradedInside(t *testing.T) {
	r := newRouter(t, "127.0.0.1")
	r.as = 64500
	n := r.neighbor()
	n.AS, n.NextHop6 = 64500, netip.Addr{}
	s, err := Start(Config{AS: 64500, RouterID: netip.MustParseAddr("198.51.100.7"), Neighbors: []Neighbor{n}, Degraded: Attributes{Prepend: 3}}, quiet)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stop(t, s) })
	if err := s.Set(State{Prefixes: []netip.Prefix{v4}}); err != nil {
		t.Fatal(err)
	}
	r.accept()
	r.wantAttr("{LocalPref: 100}", true)
	if err := s.Set(State{Prefixes: []netip.Prefix{v4}, Degraded: true}); err != nil {
		t.Fatal(err)
	}
	r.wantAttr("{LocalPref: 50}", true)
}
