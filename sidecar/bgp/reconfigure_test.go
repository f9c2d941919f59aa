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
