//go:build linux

package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"slices"
)

// bgpPort is the port of BGP; an ordinary user has no right to the real one.
func (w *world) bgpPort() uint16 {
	if w.kernel {
		return 179
	}
	return 1790
}

// startRouters starts the router processes, without waiting for their sessions.
func (w *world) startRouters() error {
	for i, site := range siteNames {
		name := routerName(site)
		config, err := json.Marshal(w.routerConfig(i))
		if err != nil {
			return err
		}
		events, told := io.Pipe()
		if _, err := w.start(w.hosts[name], name, bytes.NewReader(config), told, self(), playRouter); err != nil {
			return err
		}
		go w.follow(name, events)
	}
	return nil
}

func (w *world) routerConfig(site int) routerConfig {
	name := routerName(siteNames[site])
	c := routerConfig{ASN: routerASN(site), Port: w.bgpPort(), Kernel: w.kernel}
	for _, l := range w.links {
		here, there := l.router, l.other
		if there.host.name == name {
			here, there = there, here
		}
		if here.host.name != name {
			continue
		}
		c.add(here.v4, there.v4, there.host.name, there == l.other)
		c.add(here.v6, there.v6, there.host.name, there == l.other)
	}
	c.ID = c.Listen[0]
	if !w.kernel {
		c.Networks = nil // loopback needs no routes between links
	}
	c.Listen = slices.Compact(c.Listen) // on loopback all links end at one address
	return c
}

// add takes one end of one link into a router's configuration. The far end of a link calls, the near one waits.
func (c *routerConfig) add(here, there netip.Prefix, other string, passive bool) {
	if !here.IsValid() {
		return
	}
	c.Listen = append(c.Listen, here.Addr())
	c.Networks = append(c.Networks, here.Masked())
	asn := uint32(meshASN)
	switch i := slices.IndexFunc(siteNames, func(site string) bool { return routerName(site) == other }); {
	case i >= 0:
		asn = routerASN(i)
	case !slices.Contains(siteNames, other):
		return // no BGP with the client and the distribution host
	}
	c.Neighbors = append(c.Neighbors, neighbor{Address: there.Addr(), Local: here.Addr(), ASN: asn, Passive: passive})
}

// follow keeps what a router tells.
func (w *world) follow(router string, events io.Reader) {
	lines := bufio.NewScanner(events)
	for lines.Scan() {
		var e routerEvent
		if json.Unmarshal(lines.Bytes(), &e) != nil {
			continue
		}
		w.mu.Lock()
		switch {
		case e.Neighbor.IsValid():
			w.sessions[router][e.Neighbor] = e.State
		case e.Via.IsValid():
			w.routes[router][e.Prefix] = e.Via
		default:
			delete(w.routes[router], e.Prefix)
		}
		w.mu.Unlock()
	}
}

// route follows the routers' tables from the router of a site to the node that a network of the mesh leads to from
// there, naming who is on the way. The node is nil when there is no way.
func (w *world) route(site string, network netip.Prefix) (n *node, path []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	at := routerName(site)
	for range siteNames {
		path = append(path, at)
		via, ok := w.routes[at][network]
		if !ok {
			return nil, path
		}
		next := w.hostAt(via)
		if next == nil {
			return nil, path
		}
		if i := slices.Index(siteNames, next.name); i >= 0 {
			return w.nodes[i], append(path, next.name)
		}
		at = next.name
	}
	return nil, path
}

// hostAt is the host that has an address on a link.
func (w *world) hostAt(a netip.Addr) *host {
	for _, l := range w.links {
		for _, e := range []end{l.router, l.other} {
			if e.v4.Addr() == a || e.v6.Addr() == a {
				return e.host
			}
		}
	}
	return nil
}

// server is where a query for shared address number i of a node goes when it is sent at a site. On loopback the
// routers' tables say to which node; else the kernel's do, on the way.
func (w *world) server(site string, i int) (netip.AddrPort, bool) {
	if w.kernel {
		return w.nodes[0].dns[i], true // the same at every node
	}
	n, _ := w.route(site, w.announced[i])
	if n == nil {
		return netip.AddrPort{}, false
	}
	return n.dns[i], true
}

// routersTalk reports whether all routers have sessions with each other.
func (w *world) routersTalk() (bool, string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, l := range w.links {
		if !isRouter(l.other.host.name) {
			continue
		}
		for _, side := range [][2]end{{l.router, l.other}, {l.other, l.router}} {
			here, there := side[0], side[1]
			for _, a := range []netip.Prefix{there.v4, there.v6} {
				if state := w.sessions[here.host.name][a.Addr()]; a.IsValid() && state != established {
					return false, fmt.Sprintf("%s says %q of its session with %s at %s", here.host.name, state, there.host.name, a.Addr())
				}
			}
		}
	}
	return true, ""
}

// established is what BGP calls a session that is up.
const established = "BGP_FSM_ESTABLISHED"
