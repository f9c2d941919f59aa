//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/coredns-anycast/coredns-anycast/internal/instant"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
)

// story is what is told: a world, a zone, and how far it has come.
type story struct {
	t     *terminal
	w     *world
	zone  *storyZone
	dist  *distribution
	loads []*load // the client's, one for each family, then one at each of the other sites
	cache *cache  // between the distribution host and osa
	began time.Time
	// loaded ends with the last step, and the loads with it.
	loaded context.Context
}

// tell tells the whole story, and takes everything away at its end. Its error is nil if every step showed what it
// should; a story without an end the reader may break off.
func tell(ctx context.Context, o options) (err error) {
	s := &story{t: newTerminal(os.Stdout), began: time.Now()}
	if s.zone, err = readZone(o.zone); err != nil {
		return err
	}
	if o.bin, err = filepath.Abs(o.bin); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", fmt.Sprintf("%s%d-", prefix, os.Getpid()))
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := os.Chdir(dir); err != nil { // so that commands and what they say are short
		return err
	}
	s.w, err = s.makeWorld(o, dir)
	defer func() { err = errors.Join(err, s.w.close()) }()
	if err != nil {
		return err
	}
	if failure := s.steps(ctx); failure != nil && ctx.Err() == nil {
		s.t.fail(failure)
		s.showLogs()
		return errors.New("a step did not show what it should")
	}
	if !o.once && ctx.Err() == nil {
		s.stay(ctx)
	}
	if ctx.Err() == nil {
		return nil
	}
	s.t.end("Ended; everything that was made is being removed.")
	if o.once {
		return errors.New("interrupted before the end of the story")
	}
	return nil
}

// makeWorld makes namespaces, or takes loopback where the machine has none to give, as in many containers.
func (s *story) makeWorld(o options, dir string) (*world, error) {
	if o.loopback {
		return newWorld(false, o.bin, dir)
	}
	w, err := newWorld(true, o.bin, dir)
	if !errors.Is(err, os.ErrPermission) && !errors.Is(err, unix.EROFS) {
		return w, err
	}
	s.t.say("No network namespaces for this root (%v), so on loopback:", err)
	return newWorld(false, o.bin, dir)
}

// steps are the chapters in order.
func (s *story) steps(ctx context.Context) error {
	s.opening()
	loaded, end := context.WithCancel(ctx)
	defer end()
	s.loaded = loaded
	for _, step := range []struct {
		title string
		show  func(context.Context) error
	}{
		{"Keys are made; the distribution host and the routers start", s.makeMesh},
		{"The zone is checked, signed, and published as release 1", s.firstRelease},
		{"Three nodes start, confirm release 1, and answer from it", s.startNodes},
		{"A client asks the shared address", s.clientAsks},
		{"Release 2, and a switchover under load", s.switchover},
		{"tyo dies", s.nodeDies},
		{"tyo comes back", s.nodeReturns},
		{"Release 3 is damaged on its way to osa", s.damagedRelease},
		{"The way to osa is right again", s.recovery},
	} {
		s.t.begin(step.title)
		if err := step.show(ctx); err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	s.t.end(fmt.Sprintf("That was the story: %d steps in %.0f seconds, each as it should be.", s.t.step, time.Since(s.began).Seconds()))
	return nil
}

func (s *story) opening() {
	if s.w.kernel {
		s.t.title("Three nodes, one address: an anycast DNS mesh on this machine",
			"real processes in network namespaces "+s.w.hosts["tyo"].place.netns+" and so on; nothing leaves this machine")
	} else {
		s.t.title("Three nodes, one address: an anycast DNS mesh on this machine, on loopback", strings.Join([]string{
			"Without network namespaces (root has them) this leaves out: IPv6; one address at three nodes, so each has",
			"a stand-in of its own; routes in a kernel, so the client looks up in the routers' tables which stand-in to ask.",
			"The rest is real: BGP from the sidecars through three routers, TLS, signatures, switchover, silence."}, "\n  "))
	}
	if s.zone.unsigned {
		s.t.say("The zone is signed; signatures do not survive a new serial, so the story is told with an unsigned copy.")
	}
	s.t.picture(`
client             dist               the client's nearest node is tyo,
  │                 │                 then osa, then fra
r-tyo ─── BGP ─── r-osa ─── BGP ─── r-fra
  │                 │                 │
 tyo               osa               fra     all announce ` + s.announcedWords())
}

func (s *story) announcedWords() string { return joined(s.w.announced, " and ") }

// site is the node of a name.
func (s *story) site(name string) *node {
	return s.w.nodes[slices.Index(siteNames, name)]
}

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
	return until(ctx, timeout, "routes from "+site+" to "+name, func() (bool, string) {
		for _, network := range s.w.announced {
			if n, path := s.w.route(site, network); n == nil || n.name != name {
				return false, network.String() + " leads " + strings.Join(path, " → ")
			}
		}
		return true, ""
	})
}

func (s *story) clientAsks(ctx context.Context) error {
	if err := s.leads(ctx, 10*time.Second, "tyo", "tyo"); err != nil {
		return err
	}
	for i, network := range s.w.announced {
		to, _ := s.w.server("tyo", i)
		s.t.command("dig", "@"+to.Addr().String(), s.portWord(to), s.zone.origin, "SOA", "+norecurse", "+nsid")
		r, err := s.w.hosts["client"].place.ask(to, s.zone.origin, 2*time.Second)
		if err != nil {
			return fmt.Errorf("the client asked %s: %w", to, err)
		}
		if r.node != "tyo" || r.serial != s.zone.serial(1) {
			return fmt.Errorf("the client asked %s: %q answered with serial %d; want tyo and %d", to, r.node, r.serial, s.zone.serial(1))
		}
		s.t.check(clientChecks(network), "serial %d, NSID %q: the nearest node answered", r.serial, r.node)
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
	r, err := s.w.hosts["client"].place.ask(to, s.zone.origin, 200*time.Millisecond)
	if err == nil {
		return fmt.Errorf("%s answered on its administrative address %s: %+v", n.name, to, r)
	}
	s.t.check("HOST-2", "no answer on tyo's administrative address %s", n.admin)
	return nil
}

// portWord is dig's option for a port that is not the usual one.
func (s *story) portWord(a netip.AddrPort) string {
	if a.Port() == 53 {
		return ""
	}
	return fmt.Sprintf("-p %d", a.Port())
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

// clean checks what loads saw in [from, to) while the mesh switched over at instant at: nothing lost, nothing wrong.
func (s *story) clean(loads []*load, from, to time.Time, before, after uint64, at time.Time) error {
	queries := 0
	for _, l := range loads {
		window := l.between(from, to)
		queries += len(window)
		if n := lost(window); n > 0 {
			return fmt.Errorf("%s: %d of %d queries lost", l.name, n, len(window))
		}
		if words := wrong(window, s.zone.serial(before), s.zone.serial(after), at, clockBound); len(words) > 0 {
			return fmt.Errorf("%s: %d wrong answers, first: %s", l.name, len(words), words[0])
		}
	}
	s.t.check("", "%d queries in %.1f s, 0 lost", queries, to.Sub(from).Seconds())
	s.t.check("SYNC-H", "0 answers from release %d after, or %d before, the switchover ± %v", before, after, clockBound)
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

// maxLateness is how late a node may swap on a busy machine before the story fails. Its answers are right all the same,
// and are judged by clockBound.
const maxLateness = 500 * time.Millisecond

// showSwitches waits until nodes answer from a release, shows how late each switched by its own clock, and returns the
// instant that was set.
func (s *story) showSwitches(ctx context.Context, release uint64, nodes ...*node) (at time.Time, err error) {
	if err := s.eachServes(ctx, lead+5*time.Second, release, nodes...); err != nil {
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

// failoverLimit is how long the client may be without an answer after a node died.
const failoverLimit = 3 * time.Second

func (s *story) nodeDies(ctx context.Context) error {
	n := s.site("tyo")
	s.t.command("kill -9", fmt.Sprint(n.coredns.cmd.Process.Pid), fmt.Sprint(n.sidecar.cmd.Process.Pid), " # tyo's coredns and sidecar")
	died := time.Now()
	n.coredns.kill()
	n.sidecar.kill()
	for i := range s.w.announced {
		l := s.loads[i]
		var first sample
		err := until(ctx, failoverLimit, l.name+": an answer after tyo died", func() (bool, string) {
			window, _ := l.window(died, time.Now())
			j := slices.IndexFunc(window, func(s sample) bool { return !s.received.IsZero() && s.node != "tyo" })
			if j >= 0 {
				first = window[j]
			}
			return j >= 0, fmt.Sprintf("%d queries, no answer", len(window))
		})
		if err != nil {
			return err
		}
		window, _ := l.window(died, first.sent)
		if first.node != "osa" || first.serial != s.zone.serial(2) {
			return fmt.Errorf("%s: %q answered with serial %d; want osa, the next nearest, and %d", l.name, first.node, first.serial, s.zone.serial(2))
		}
		s.t.check("JP-1 ROUTE-1", "%s: %s answered %d ms later; %d queries were lost in between", l.name, first.node,
			first.received.Sub(died).Milliseconds(), lost(window))
	}
	return nil
}

func (s *story) nodeReturns(ctx context.Context) error {
	n := s.site("tyo")
	<-n.coredns.done
	<-n.sidecar.done
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

// showSilence checks that osa, asked since instant from, stopped answering at instant at and not before, and says why.
func (s *story) showSilence(ctx context.Context, osa *node, from, at time.Time) error {
	st, err := osa.says(ctx, 5*time.Second, "to be silent", func(st status.Node) bool { return st.Serving == 0 })
	if err != nil {
		return err
	}
	l := s.loadAt("osa")
	before := l.between(from, at.Add(-100*time.Millisecond)) // what is sent later may arrive after the switchover
	if n := lost(before); n > 0 || len(before) == 0 {
		return fmt.Errorf("osa left %d of %d queries before the switchover without an answer", n, len(before))
	}
	after := at.Add(clockBound)
	if err := until(ctx, 5*time.Second, "100 queries at osa after the switchover", func() (bool, string) {
		window, _ := l.window(after, time.Now())
		return len(window) >= 100, fmt.Sprintf("%d", len(window))
	}); err != nil {
		return err
	}
	window := l.between(after, time.Now())
	if n := len(window) - lost(window); n > 0 {
		return fmt.Errorf("osa answered %d of %d queries after the switchover", n, len(window))
	}
	for _, r := range st.Silent {
		s.t.say("osa: %s", r)
	}
	s.t.check("SYNC-F", "osa is silent from the switchover on: %d queries, no answer", len(window))
	return nil
}

func (s *story) recovery(ctx context.Context) error {
	s.cache.damages.Store(false)
	from := time.Now()
	osa := s.site("osa")
	if err := s.eachServes(ctx, 15*time.Second, 3, osa); err != nil {
		return err
	}
	var first sample
	l := s.loadAt("osa")
	if err := until(ctx, 3*time.Second, "an answer of osa", func() (bool, string) {
		window, _ := l.window(from, time.Now())
		i := slices.IndexFunc(window, func(s sample) bool { return !s.received.IsZero() })
		if i >= 0 {
			first = window[i]
		}
		return i >= 0, fmt.Sprintf("%d queries, no answer", len(window))
	}); err != nil {
		return err
	}
	if first.node != "osa" || first.serial != s.zone.serial(3) {
		return fmt.Errorf("%q answered with serial %d; want osa and %d", first.node, first.serial, s.zone.serial(3))
	}
	s.t.check("SYNC-F", "osa fetched and verified it, and answers from release 3 after %d ms, by itself", first.received.Sub(from).Milliseconds())
	return nil
}

func (s *story) loadAt(site string) *load {
	return s.loads[slices.IndexFunc(s.loads, func(l *load) bool { return l.name == "at "+site })]
}

func (s *story) loadsBut(site string) []*load {
	return slices.DeleteFunc(slices.Clone(s.loads), func(l *load) bool { return l.name == "at "+site })
}

// showLogs shows what the processes wrote last.
func (s *story) showLogs() {
	shown := map[string]bool{}
	for _, p := range s.w.processes {
		if !shown[p.log] { // one that was started again has the same
			s.t.log(p, 8)
		}
		shown[p.log] = true
	}
}

// stay leaves the mesh to the reader until Ctrl-C.
func (s *story) stay(ctx context.Context) {
	s.t.begin("It is yours until Ctrl-C; from another terminal:")
	for i := range s.w.announced {
		for _, site := range siteNames {
			if to, ok := s.w.server(site, i); ok {
				s.t.command(s.from(site), "dig @"+to.Addr().String(), s.portWord(to), s.zone.origin, "SOA +nsid")
			}
		}
	}
	s.t.command(s.inside("dist"), s.w.binary("meshctl"), "--home", s.dist.home, "status")
	osa := s.site("osa")
	s.t.command("kill -9", fmt.Sprint(osa.coredns.cmd.Process.Pid), fmt.Sprint(osa.sidecar.cmd.Process.Pid), "  # osa")
	<-ctx.Done()
}

// from is how a command is given where the queries of a site begin: at the client, or at the site's router.
func (s *story) from(site string) string {
	if site == "tyo" {
		return s.inside("client")
	}
	return s.inside(routerName(site))
}

// inside is how a command is given at a host.
func (s *story) inside(host string) string {
	if !s.w.kernel {
		return ""
	}
	return "sudo ip netns exec " + s.w.hosts[host].place.netns
}
