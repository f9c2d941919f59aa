//go:build linux

package main

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/instant"
	"github.com/coredns-anycast/coredns-anycast/internal/lab"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
)

// eachServes waits until every node answers from a release.
func (s *story) eachServes(ctx context.Context, timeout time.Duration, release uint64, nodes ...*node) error {
	for _, n := range nodes {
		if _, err := n.says(ctx, timeout, fmt.Sprintf("to answer from release %d", release), func(st status.Node) bool { return st.Serving == release }); err != nil {
			return err
		}
	}
	return nil
}

// eachStages waits until every node has a release verified, compiled and ready.
func (s *story) eachStages(ctx context.Context, timeout time.Duration, release uint64, nodes ...*node) error {
	for _, n := range nodes {
		if _, err := n.says(ctx, timeout, fmt.Sprintf("to confirm release %d", release), func(st status.Node) bool { return st.Confirms.Staged == release }); err != nil {
			return err
		}
	}
	return nil
}

// leads waits until a site's queries lead to the node named, in every family.
func (s *story) leads(ctx context.Context, timeout time.Duration, site, name string) error {
	return lab.Until(ctx, timeout, "routes from "+site+" to "+name, func() (bool, string) {
		for _, network := range s.w.announced {
			if n, path := s.w.route(site, network); n == nil || n.name != name {
				return false, network.String() + " leads " + strings.Join(path, " → ")
			}
		}
		return true, ""
	})
}

// startLoads begins the steady load of queries: from the client in each family, and at each other site, so that every
// node is asked.
func (s *story) startLoads(ctx context.Context) error {
	client := s.w.hosts["client"].place
	for i, network := range s.w.announced {
		name := map[bool]string{true: "client, IPv4", false: "client, IPv6"}[network.Addr().Is4()]
		l, err := startLoad(s.loaded, name, client, s.zone.origin, func() (netip.AddrPort, bool) { return s.w.server("tyo", i) })
		if err != nil {
			return err
		}
		s.loads = append(s.loads, l)
	}
	for _, site := range siteNames[1:] {
		if err := s.leads(ctx, 10*time.Second, site, site); err != nil {
			return err
		}
		at := s.w.hosts[routerName(site)].place
		l, err := startLoad(s.loaded, "at "+site, at, s.zone.origin, func() (netip.AddrPort, bool) { return s.w.server(site, 0) })
		if err != nil {
			return err
		}
		s.loads = append(s.loads, l)
	}
	return nil
}

func (s *story) loadAt(site string) *load {
	return s.loads[slices.IndexFunc(s.loads, func(l *load) bool { return l.name == "at "+site })]
}

func (s *story) loadsBut(site string) []*load {
	return slices.DeleteFunc(slices.Clone(s.loads), func(l *load) bool { return l.name == "at "+site })
}

// clean checks what loads saw in [from, to) while the mesh switched over at instant at: nothing lost, nothing wrong.
func (s *story) clean(loads []*load, from, to time.Time, before, after uint64, at time.Time) error {
	queries := 0
	for _, l := range loads {
		window := l.Between(from, to)
		queries += len(window)
		words := append(lab.Errors(window), lab.Wrong(window, uint64(s.zone.serial(before)), uint64(s.zone.serial(after)), at, clockBound)...)
		if len(words) > 0 {
			return fmt.Errorf("%s: %d wrong answers, first: %s", l.name, len(words), words[0])
		}
		if n := lab.Lost(window); n > 0 {
			return fmt.Errorf("%s: %d of %d queries lost", l.name, n, len(window))
		}
	}
	s.t.check("", "%d queries in %.1f s, 0 lost", queries, to.Sub(from).Seconds())
	s.t.check("SYNC-H", "0 answers from release %d after, or %d before, the switchover ± %v", before, after, clockBound)
	return nil
}

// maxLateness is how late a node may swap on a busy machine before the story fails. Its answers are right all the same,
// and are judged by clockBound.
const maxLateness = 500 * time.Millisecond

// showSwitches waits until nodes answer from a release, shows how late each switched by its own clock, and returns the
// instant that was set.
func (s *story) showSwitches(ctx context.Context, release uint64, nodes ...*node) (at time.Time, err error) {
	if err := s.eachServes(ctx, switchWithin, release, nodes...); err != nil {
		return at, err
	}
	var late []string
	for i, n := range nodes {
		st, err := n.status(ctx)
		if err != nil {
			return at, err
		}
		sw := st.Switched
		if i == 0 && sw != nil {
			at = sw.At.Time()
		}
		switch {
		case sw == nil || sw.Number != release || at.IsZero() || sw.At != instant.WallOf(at):
			return at, fmt.Errorf("%s says of its last switchover %+v, want one to release %d at %v", n.name, sw, release, at)
		case sw.Lateness < 0 || sw.Lateness > maxLateness:
			return at, fmt.Errorf("%s switched %v late", n.name, sw.Lateness)
		}
		late = append(late, fmt.Sprintf("%s %d µs", n.name, sw.Lateness.Microseconds()))
	}
	s.t.check("SYNC-E", "all at %s, late by: %s", at.Format("15:04:05.000000"), strings.Join(late, ", "))
	return at, nil
}
