//go:build linux

package main

import (
	"bytes"
	"encoding/json"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/coredns-anycast/coredns-anycast/internal/lab"
	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
)

// TestMain lets the test binary stand in for anycast-demo when it is started as a router, or as a story that waits.
func TestMain(m *testing.M) {
	switch {
	case len(os.Args) > 1 && os.Args[1] == playRouter:
		exit(runRouter(os.Stdin, os.Stdout, os.Stderr))
	case len(os.Args) > 1 && os.Args[1] == playStory:
		io.Copy(io.Discard, os.Stdin)
		return
	}
	os.Exit(m.Run())
}

// worlds runs a test in both kinds of world.
func worlds(t *testing.T, test func(*testing.T, *world)) {
	t.Run("namespaces", func(t *testing.T) {
		testenv.Root(t)
		test(t, testWorld(t, true))
	})
	t.Run("loopback", func(t *testing.T) { test(t, testWorld(t, false)) })
}

func testWorld(t *testing.T, kernel bool) *world {
	t.Helper()
	w, err := newWorld(kernel, "", t.TempDir())
	t.Cleanup(func() {
		if err := w.close(); err != nil {
			t.Error(err)
		}
		for _, p := range w.processes {
			if t.Failed() {
				t.Logf("%s:\n%s", p.Name, lab.Tail(p.Log, 20))
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// announce stands in for a node's sidecar: a BGP speaker that announces the shared addresses to its router.
func announce(t *testing.T, w *world, n *node) *lab.Process {
	t.Helper()
	c := routerConfig{ASN: meshASN, Port: w.bgpPort()}
	for _, l := range w.links {
		if l.other.host == n.host {
			c.add(l.other.v4, l.router.v4, l.router.host.name, false)
			c.add(l.other.v6, l.router.v6, l.router.host.name, false)
		}
	}
	c.ID, c.Networks = c.Listen[0], w.announced
	config, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	p, err := w.start(n.host, n.name, bytes.NewReader(config), nil, os.Args[0], playRouter)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// leadsTo waits until the shared addresses lead from the client to the node named.
func leadsTo(t *testing.T, w *world, name string) {
	t.Helper()
	err := lab.Until(t.Context(), 15*time.Second, "routes to "+name, func() (bool, string) {
		for _, a := range w.announced {
			if n, path := w.route("tyo", a); n == nil || n.name != name {
				return false, a.String() + " leads along " + strings.Join(path, ", ")
			}
		}
		return true, ""
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestRoutersLeadToTheNearestNodeThatAnnounces(t *testing.T) {
	worlds(t, func(t *testing.T, w *world) {
		if err := w.startRouters(); err != nil {
			t.Fatal(err)
		}
		speakers := []*lab.Process{announce(t, w, w.nodes[0]), announce(t, w, w.nodes[1]), announce(t, w, w.nodes[2])}
		if err := lab.Until(t.Context(), 15*time.Second, "sessions of the routers", w.routersTalk); err != nil {
			t.Fatal(err)
		}
		for i, site := range siteNames {
			leadsTo(t, w, site)
			if w.kernel {
				reaches(t, w, w.nodes[i])
			}
			died := time.Now()
			speakers[i].Kill()
			if i+1 < len(siteNames) {
				leadsTo(t, w, siteNames[i+1])
				t.Logf("%s died; %v later the route led to %s", site, time.Since(died), siteNames[i+1])
			}
		}
	})
}

// reaches sends a packet from the client to each shared address and expects it at the node.
func reaches(t *testing.T, w *world, n *node) {
	t.Helper()
	for _, at := range n.dns {
		var server *net.UDPConn
		err := n.place.Do(func() (err error) { server, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(at)); return err })
		if err != nil {
			t.Fatal(err)
		}
		defer server.Close()
		client, err := w.hosts["client"].place.ListenUDP()
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		if _, err := client.WriteToUDPAddrPort([]byte("hello"), at); err != nil {
			t.Fatal(err)
		}
		buffer := make([]byte, 16)
		server.SetReadDeadline(time.Now().Add(2 * time.Second))
		_, from, err := server.ReadFromUDPAddrPort(buffer)
		if err != nil {
			t.Fatalf("%s at %s: %v", n.name, at, err)
		}
		if _, err := server.WriteToUDPAddrPort(buffer, from); err != nil {
			t.Fatal(err)
		}
		client.SetReadDeadline(time.Now().Add(2 * time.Second))
		if _, from, err := client.ReadFromUDPAddrPort(buffer); err != nil || unmapped(from) != at {
			t.Fatalf("answer from %v, %v; want one from %s", from, err, at)
		}
	}
}

func TestKernelTableReplacesAndRemovesOnlyItsOwn(t *testing.T) {
	testenv.Root(t)
	w := testWorld(t, true)
	at := w.hosts["r-osa"].place
	var table table
	if err := at.Do(func() (err error) { table, err = openKernelTable(); return err }); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ prefix, first, second, stranger string }{
		{"192.0.2.53/32", "203.0.113.1", "203.0.113.18", "192.0.2.1"},
		{"2001:db8:53::53/128", "2001:db8:ff01::1", "2001:db8:ff02::2", "2001:db8:99::1"},
	} {
		prefix := netip.MustParsePrefix(c.prefix)
		before := routesOf(t, at)
		for _, via := range []string{c.first, c.second} {
			if err := table.replace(prefix, netip.MustParseAddr(via)); err != nil {
				t.Fatal(err)
			}
			if got := gatewaysTo(t, at, prefix); !slices.Equal(got, []string{via}) {
				t.Errorf("%s goes via %v, want %s alone", prefix, got, via)
			}
		}
		if err := table.replace(prefix, netip.MustParseAddr(c.stranger)); err == nil {
			t.Errorf("a next hop that is on no link was taken: %s", c.stranger)
		}
		for range 2 { // the second has nothing to remove, which is no error
			if err := table.remove(prefix); err != nil {
				t.Error(err)
			}
		}
		if after := routesOf(t, at); after != before {
			t.Errorf("%d routes before, %d after", before, after)
		}
	}
}

func routesOf(t *testing.T, p *lab.Place) int {
	t.Helper()
	routes, err := p.Links.RouteList(nil, netlink.FAMILY_ALL)
	if err != nil {
		t.Fatal(err)
	}
	return len(routes)
}

func gatewaysTo(t *testing.T, p *lab.Place, prefix netip.Prefix) (via []string) {
	t.Helper()
	routes, err := p.Links.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Dst: lab.IPNet(prefix)}, netlink.RT_FILTER_DST)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range routes {
		via = append(via, r.Gw.String())
	}
	return via
}
