//go:build linux

package main

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/lab"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
)

// makeMesh makes keys and members, and starts what serves the repository, with the routers beside it.
func (s *story) makeMesh(ctx context.Context) error {
	if err := s.w.startRouters(); err != nil {
		return err
	}
	s.dist = &distribution{w: s.w, t: s.t, home: filepath.Join(s.w.dir, "dist")}
	d := s.dist
	if _, err := d.run(ctx, "init", "--mesh", "demo", "--san", d.host().admin.String()); err != nil {
		return err
	}
	for _, n := range s.w.nodes {
		if _, err := d.run(ctx, "member", "add", n.name, "--admin", fmt.Sprintf("%s:%d", n.admin, adminPort)); err != nil {
			return err
		}
		// An operator would carry this directory to the node by hand or by ssh.
		if err := os.CopyFS(n.dir, os.DirFS(filepath.Join(d.home, "members", n.name))); err != nil {
			return err
		}
	}
	s.t.check("DELIV-2 DELIV-3", "root, release and lease keys; a certificate for each node")
	d.t.command("meshctl serve", fmt.Sprintf("--listen %s:%d", d.host().admin, repositoryPort), "&")
	if _, err := s.w.start(d.host(), "dist-serve", nil, nil, s.w.binary("meshctl"), "--home", d.home, "serve",
		"--listen", fmt.Sprintf("%s:%d", d.host().admin, repositoryPort)); err != nil {
		return err
	}
	if err := lab.Until(ctx, 15*time.Second, "sessions between the routers", s.w.routersTalk); err != nil {
		return err
	}
	s.t.check("", "r-tyo, r-osa and r-fra have BGP sessions with each other")
	return nil
}

// firstRelease publishes release 1. Nothing is answered yet, so it needs no switchover.
func (s *story) firstRelease(ctx context.Context) error {
	file, err := s.zone.write(".", 1)
	if err != nil {
		return err
	}
	said, err := s.dist.run(ctx, "check", file)
	if err != nil {
		return err
	}
	if said != "" {
		s.t.say("%s", said)
	}
	s.t.check("SYNC-B", "%s with serial %d is fit to be served", s.zone.origin, s.zone.serial(1))
	if err := s.dist.release(ctx, s, 1, "--now"); err != nil {
		return err
	}
	s.t.check("DELIV-3", "release 1 is signed and published")
	return nil
}

// startNodes starts the nodes, osa behind a cache, and waits until they answer from release 1.
func (s *story) startNodes(ctx context.Context) (err error) {
	osa := s.site("osa")
	s.cache, err = startCache(s.dist.host().place, fmt.Sprintf("%s:%d", s.dist.host().admin, cachePort), s.dist.url(repositoryPort),
		s.dist.own(), identityIn(osa.dir))
	if err != nil {
		return err
	}
	for _, n := range s.w.nodes {
		port := repositoryPort
		if n == osa {
			port = cachePort
		}
		if err := s.w.configure(n, identityIn(n.dir), s.dist.url(port)); err != nil {
			return err
		}
		s.t.command("anycast-sidecar run sidecar.yaml & coredns -conf Corefile &   # at " + n.name)
		if err := s.w.startNode(n); err != nil {
			return err
		}
	}
	if err := s.eachServes(ctx, 20*time.Second, 1, s.w.nodes...); err != nil {
		return err
	}
	s.t.check("SYNC-C SYNC-D DELIV-1", "tyo, osa and fra fetched release 1 over mutual TLS, verified it, and answer from it")
	for _, site := range siteNames {
		if err := s.leads(ctx, 20*time.Second, site, site); err != nil {
			return err
		}
	}
	s.t.check("ROUTE-1", "each sidecar saw its node answer, and announces the shared addresses by BGP")
	return nil
}

func (s *story) clientAsks(ctx context.Context) error {
	if err := s.leads(ctx, 10*time.Second, "tyo", "tyo"); err != nil {
		return err
	}
	for i, network := range s.w.announced {
		to, _ := s.w.server("tyo", i)
		s.t.command("dig", "@"+to.Addr().String(), s.portWord(to), s.zone.origin, "SOA", "+norecurse", "+nsid")
		r, err := ask(s.w.hosts["client"].place, to, s.zone.origin, 2*time.Second)
		if err != nil {
			return fmt.Errorf("the client asked %s: %w", to, err)
		}
		if r.Node != "tyo" || r.Release != uint64(s.zone.serial(1)) {
			return fmt.Errorf("the client asked %s: %q answered with serial %d; want tyo and %d", to, r.Node, r.Release, s.zone.serial(1))
		}
		s.t.check(clientChecks(network), "serial %d, NSID %q: the nearest node answered", r.Release, r.Node)
	}
	return s.adminIsQuiet(ctx)
}

// clientChecks are the requirements that an answer from a network meets.
func clientChecks(network netip.Prefix) string {
	if network.Addr().Is6() {
		return "HOST-4 ADMIN-1 JP-1"
	}
	return "HOST-1 ADMIN-1 JP-1"
}

// adminIsQuiet asks the administrative address, which must not answer DNS.
func (s *story) adminIsQuiet(context.Context) error {
	n := s.site("tyo")
	to := netip.AddrPortFrom(n.admin, n.dns[0].Port())
	r, err := ask(s.w.hosts["client"].place, to, s.zone.origin, 200*time.Millisecond)
	if err == nil {
		return fmt.Errorf("%s answered on its administrative address %s: %+v", n.name, to, r)
	}
	s.t.check("HOST-2", "no answer on tyo's administrative address %s", n.admin)
	return nil
}

func (s *story) switchover(ctx context.Context) error {
	if err := s.startLoads(ctx); err != nil {
		return err
	}
	from := time.Now()
	s.t.say("%d queries a second begin: %d from the client, the rest at the other sites", len(s.loads)*int(time.Second/loadInterval),
		len(s.w.announced)*int(time.Second/loadInterval))
	if err := s.dist.release(ctx, s, 2); err != nil {
		return err
	}
	if err := s.eachStages(ctx, 15*time.Second, 2, s.w.nodes...); err != nil {
		return err
	}
	s.t.check("SYNC-C SYNC-D", "tyo, osa and fra have verified and compiled it, and say so")
	if err := s.dist.schedule(ctx); err != nil {
		return err
	}
	at, err := s.showSwitches(ctx, 2, s.w.nodes...)
	if err != nil {
		return err
	}
	return s.clean(s.loads, from, time.Now(), 1, 2, at)
}

// failoverLimit is how long the client may be without an answer after a node died.
const failoverLimit = 3 * time.Second

func (s *story) nodeDies(ctx context.Context) error {
	n := s.site("tyo")
	s.t.command("kill -9", fmt.Sprint(n.coredns.Pid()), fmt.Sprint(n.sidecar.Pid()), " # tyo's coredns and sidecar")
	died := time.Now()
	n.coredns.Kill()
	n.sidecar.Kill()
	for i := range s.w.announced {
		l := s.loads[i]
		var first lab.Sample
		err := lab.Until(ctx, failoverLimit, l.name+": an answer after tyo died", func() (bool, string) {
			window := l.Window(died, time.Now())
			j := slices.IndexFunc(window, func(s lab.Sample) bool { return !s.Got.IsZero() && s.Node != "tyo" })
			if j >= 0 {
				first = window[j]
			}
			return j >= 0, fmt.Sprintf("%d queries, no answer", len(window))
		})
		if err != nil {
			return err
		}
		window := l.Window(died, first.Sent)
		if first.Node != "osa" || first.Release != uint64(s.zone.serial(2)) {
			return fmt.Errorf("%s: %q answered with serial %d; want osa, the next nearest, and %d", l.name, first.Node, first.Release, s.zone.serial(2))
		}
		s.t.check("JP-1 ROUTE-1", "%s: %s answered %d ms later; %d queries were lost in between", l.name, first.Node,
			first.Got.Sub(died).Milliseconds(), lab.Lost(window))
	}
	return nil
}

func (s *story) nodeReturns(ctx context.Context) error {
	n := s.site("tyo")
	<-n.coredns.Ended()
	<-n.sidecar.Ended()
	began := time.Now()
	if err := s.w.startNode(n); err != nil {
		return err
	}
	st, err := n.says(ctx, 15*time.Second, "to answer again from release 2", func(st status.Node) bool { return st.Serving == 2 })
	if err != nil {
		return err
	}
	if st.Floor != 2 {
		return fmt.Errorf("tyo says that its floor is %d, want 2", st.Floor)
	}
	s.t.check("SYNC-G", "it remembers its floor, release 2, and answers from that after %d ms", time.Since(began).Milliseconds())
	if err := s.leads(ctx, 30*time.Second, "tyo", "tyo"); err != nil {
		return err
	}
	s.t.check("ROUTE-1", "its probe found it answering, it is announced, and the client's nearest again")
	return nil
}

func (s *story) damagedRelease(ctx context.Context) error {
	s.cache.damages.Store(true)
	s.t.say("Between dist and osa stands a cache that holds the certificates of both. From now on it flips a bit in each zone.")
	others := []*node{s.site("tyo"), s.site("fra")}
	osa := s.site("osa")
	if err := s.dist.release(ctx, s, 3); err != nil {
		return err
	}
	if err := s.eachStages(ctx, 15*time.Second, 3, others...); err != nil {
		return err
	}
	if err := s.showRefusal(ctx, osa); err != nil {
		return err
	}
	if err := s.dist.refusesSchedule(ctx, s, 3); err != nil {
		return err
	}
	from := time.Now()
	if err := s.dist.schedule(ctx, "--force", "--no-wait"); err != nil {
		return err
	}
	at, err := s.showSwitches(ctx, 3, others...)
	if err != nil {
		return err
	}
	if err := s.showSilence(ctx, osa, from, at); err != nil {
		return err
	}
	if err := s.clean(s.loadsBut("osa"), from, time.Now(), 2, 3, at); err != nil {
		return err
	}
	s.t.say("osa's route stays, as RFC 3258 2.3 has it: resolvers go to the zone's other servers.")
	return nil
}

// showRefusal waits for osa to refuse release 3, and shows the rule.
func (s *story) showRefusal(ctx context.Context, osa *node) error {
	st, err := osa.says(ctx, 15*time.Second, "to refuse release 3", func(st status.Node) bool {
		return slices.ContainsFunc(st.Refused, func(r status.Refused) bool { return r.Number == 3 })
	})
	if err != nil {
		return err
	}
	if st.Serving != 2 || s.cache.damaged.Load() == 0 {
		return fmt.Errorf("osa serves %d, %d zones were damaged", st.Serving, s.cache.damaged.Load())
	}
	fault, err := s.mirrorFault(ctx, osa)
	if err != nil {
		return err
	}
	s.t.say("osa's mirror:   %s", fault)
	for _, r := range st.Refused {
		s.t.say("osa's meshsync: release %d: %s", r.Number, r.Reason)
	}
	s.t.check("DELIV-3 SYNC-D", "osa refuses release 3, and answers from release 2 until the switchover")
	return nil
}

// mirrorFault is why a node's mirror cannot follow the repository, by `anycast-sidecar status`, which may be a second behind.
func (s *story) mirrorFault(ctx context.Context, n *node) (fault string, err error) {
	err = lab.Until(ctx, 15*time.Second, n.name+"'s mirror says what is wrong", func() (bool, string) {
		said, err := n.run(ctx, s.w.binary("anycast-sidecar"), "status", "--json", filepath.Join(n.dir, "sidecar.yaml"))
		if err != nil {
			return false, err.Error()
		}
		var st status.Sidecar
		if err := status.Decode([]byte(said), &st); err != nil {
			return false, err.Error()
		}
		if st.Mirror == nil || st.Mirror.LastError == "" {
			return false, "it finds nothing wrong"
		}
		fault = st.Mirror.LastError
		return true, ""
	})
	return fault, err
}

// showSilence checks that osa, asked since instant from, stopped answering at instant at and not before, and says why.
func (s *story) showSilence(ctx context.Context, osa *node, from, at time.Time) error {
	st, err := osa.says(ctx, 5*time.Second, "to be silent", func(st status.Node) bool { return st.Serving == 0 })
	if err != nil {
		return err
	}
	l := s.loadAt("osa")
	before := l.Between(from, at.Add(-100*time.Millisecond)) // what is sent later may arrive after the switchover
	if n := lab.Lost(before); n > 0 || len(before) == 0 {
		return fmt.Errorf("osa left %d of %d queries before the switchover without an answer", n, len(before))
	}
	after := at.Add(clockBound)
	if err := lab.Until(ctx, 5*time.Second, "100 queries at osa after the switchover", func() (bool, string) {
		window := l.Window(after, time.Now())
		return len(window) >= 100, fmt.Sprintf("%d", len(window))
	}); err != nil {
		return err
	}
	window := l.Between(after, time.Now())
	if n := replies(window); n > 0 {
		return fmt.Errorf("osa answered %d of %d queries after the switchover", n, len(window))
	}
	for _, r := range st.Silent {
		s.t.say("osa: %s", r)
	}
	s.t.check("SYNC-F", "osa is silent from the switchover on: %d queries, no answer", len(window))
	return nil
}

// replies counts those that came, of whatever kind.
func replies(window []lab.Sample) (n int) {
	for _, s := range window {
		if !s.Got.IsZero() {
			n++
		}
	}
	return n
}

func (s *story) recovery(ctx context.Context) error {
	s.cache.damages.Store(false)
	from := time.Now()
	osa := s.site("osa")
	if err := s.eachServes(ctx, 15*time.Second, 3, osa); err != nil {
		return err
	}
	var first lab.Sample
	l := s.loadAt("osa")
	if err := lab.Until(ctx, 3*time.Second, "an answer of osa", func() (bool, string) {
		window := l.Window(from, time.Now())
		i := slices.IndexFunc(window, func(s lab.Sample) bool { return !s.Got.IsZero() })
		if i >= 0 {
			first = window[i]
		}
		return i >= 0, fmt.Sprintf("%d queries, no answer", len(window))
	}); err != nil {
		return err
	}
	if first.Node != "osa" || first.Release != uint64(s.zone.serial(3)) {
		return fmt.Errorf("%q answered with serial %d; want osa and %d", first.Node, first.Release, s.zone.serial(3))
	}
	s.t.check("SYNC-F", "osa fetched and verified it, and answers from release 3 after %d ms, by itself", first.Got.Sub(from).Milliseconds())
	return nil
}
