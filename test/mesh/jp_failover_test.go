package mesh_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/lab"
)

// slow is what a resolution takes at least that a failure has delayed.
const slow = 100 * time.Millisecond

// figure is what the failure of a resolver's nearest node did to resolutions.
type figure struct {
	delayed int           // how many of them took long
	slowest time.Duration // 0: none was delayed
	until   time.Duration // from the failure to when the last delayed one was over: the failover time
}

// figures are by the columns of a table and resolvers.
type figures map[[2]string][]figure

// failures are what happens to the DNS server of the nearest node: the table has two columns for each, one for each policy.
var failures = []struct {
	how        string
	fail, back func(j *jp, node string)
}{
	{"killed",
		func(j *jp, node string) { j.a.coredn[node].Kill() },
		func(j *jp, node string) { j.a.startCoreDNS(node) }},
	{"hangs",
		func(j *jp, node string) { j.a.coredn[node].Signal(syscall.SIGSTOP) },
		func(j *jp, node string) { j.a.coredn[node].Signal(syscall.SIGCONT) }},
}

// effort is how often each failure is tried, and how many resolutions after it are looked at.
func effort() (rounds, resolutions int) {
	if os.Getenv("FULL") == "1" {
		return 3, 120
	}
	return 1, 40
}

// measure waits for enough resolutions since a failure, and files what became of those of some resolvers.
func (j *jp) measure(column string, failed time.Time, hosts ...string) {
	j.t.Helper()
	_, n := effort()
	for host, answers := range j.resolves(failed, n) {
		if !slices.Contains(hosts, host) {
			continue
		}
		var f figure
		for _, a := range answers {
			took, over := a.Got.Sub(a.Sent), a.Got.Sub(failed)
			if !a.Answered() {
				took, over = patience, a.Sent.Add(patience).Sub(failed)
			}
			if took >= slow {
				f.delayed++
				f.slowest, f.until = max(f.slowest, took), max(f.until, over)
			}
		}
		j.figures[[2]string{column, host}] = append(j.figures[[2]string{column, host}], f)
	}
}

// table prints medians.
func (f figures) table() string {
	var b strings.Builder
	rounds, n := effort()
	fmt.Fprintf(&b, "the DNS server of the nearest node fails, which is one of three servers of the zone; median of %d:\n"+
		"of %d resolutions in %v those that took %v or more, the slowest of them, and from the failure to the end of the last\n%-14s",
		rounds, n, time.Duration(n)*every, slow, "")
	for _, failure := range failures {
		fmt.Fprintf(&b, "%27s%27s", failure.how+", stop-dns", failure.how+", withdraw")
	}
	for _, r := range resolvers {
		fmt.Fprintf(&b, "\n%-14s", r.name)
		for _, failure := range failures {
			for _, policy := range []string{"stop-dns", "withdraw"} {
				all := f[[2]string{failure.how + ", " + policy, r.host}]
				fmt.Fprintf(&b, "%7d%8d ms%8d ms ", median(all, func(f figure) int { return f.delayed }),
					median(all, func(f figure) time.Duration { return f.slowest }).Milliseconds(),
					median(all, func(f figure) time.Duration { return f.until }).Milliseconds())
			}
		}
	}
	return b.String()
}

func median[T int | time.Duration](all []figure, of func(figure) T) T {
	values := make([]T, len(all))
	for i, f := range all {
		values[i] = of(f)
	}
	slices.Sort(values)
	return values[len(values)/2]
}

// fresh has the resolvers forget what they know of the servers, and learn it again.
func (j *jp) fresh() {
	j.t.Helper()
	for _, r := range resolvers {
		r.forget(j, r.commands(j.t))
	}
	j.resolves(time.Now(), 10)
}

// stopDNS: with this policy the route stays when DNS fails, so that nobody's catchment moves though nobody answers, and
// resolvers go on to the zone's other servers (FAIL-1). To a resolver it is the same whether its own node fails or all do.
func (j *jp) stopDNS() {
	rounds, _ := effort()
	for i := range rounds * len(failures) {
		failure := failures[i%len(failures)]
		j.fresh()
		since := j.begin("stop-dns: CoreDNS of every node of mesh a: " + failure.how)
		for _, node := range j.a.nodes {
			failure.fail(j, node)
		}
		j.measure(failure.how+", stop-dns", since, "unbound", "bind", "kresd")
		j.leads(j.a, homeA)
		for host := range homeA {
			for _, address := range sharedA {
				if r := j.a.ask(host, "udp", address, "jp.", dns.TypeSOA); r != nil {
					j.errorf("from %s somebody answers at %s: %v", host, address, r)
				}
			}
		}
		for _, node := range j.a.nodes {
			failure.back(j, node)
		}
		j.catchments(nil, nil)
	}
}

// withdraw: with this policy the route goes when DNS fails, and the next node is reached (FAIL-2).
func (j *jp) withdraw() {
	rounds, _ := effort()
	for i := range rounds * len(failures) {
		j.moves(i%len(failures), catchment{"unbound": "a-osa", "kresd": "a-osa"})
		j.moves(i%len(failures), catchment{"bind": "a-fra"})
	}
}

// moves has the nodes fail that these hosts reach, and sees them reach others.
func (j *jp) moves(i int, other catchment) {
	failure, hosts := failures[i], slices.Sorted(maps.Keys(other))
	j.fresh()
	since := j.begin(fmt.Sprintf("withdraw: CoreDNS nearest to %s: %s", strings.Join(hosts, " and "), failure.how))
	for _, host := range hosts {
		failure.fail(j, homeA[host])
	}
	j.measure(failure.how+", withdraw", since, hosts...)
	j.catchments(other, nil)
	for _, host := range hosts {
		failure.back(j, homeA[host])
	}
	j.catchments(nil, nil)
}

// onlyMeshA: when one address is all that is left, a node of it can be lost and no resolution with it.
func (j *jp) onlyMeshA() {
	j.begin("mesh d and b are gone")
	j.kill(j.d, j.d.nodes...)
	j.sever("fra", "b")
	j.leads(j.d, everywhere(nowhere))
	j.resolves(time.Now(), 20)
	j.begin("and CoreDNS of a-tyo and of a-fra is killed")
	j.a.coredn["a-tyo"].Kill()
	j.a.coredn["a-fra"].Kill()
	j.catchments(everywhere("a-osa"), everywhere(nowhere))
	j.resolves(time.Now(), 20)
	j.begin("all comes back")
	j.a.startCoreDNS("a-tyo")
	j.a.startCoreDNS("a-fra")
	j.revive(j.d, j.d.nodes...)
	j.restore("fra", "b")
	j.catchments(nil, nil)
}

// away is the node that cannot be reached while a release is made.
const away = "a-fra"

// releaseWhileAway switches to release 2 while a-fra cannot be reached, and goes on answering from release 1 until its
// lease ends. In each mesh there is one instant: nobody gets release 1 from it after that, or release 2 before, also from
// the node that was away (SYNC-G, SYNC-H). Between the meshes there is none, so resolvers may see either in between.
func (j *jp) releaseWhileAway() {
	asked := j.askNodes()
	start := j.begin("a-fra is cut off from the distribution host, and its CoreDNS starts again")
	j.sever("switch", away)
	j.a.coredn[away].Kill()
	j.a.startCoreDNS(away)
	j.a.awaitServing(away, 1)

	j.begin("release 2 in both meshes")
	for _, g := range []*group{j.a, j.d} {
		g.number = 2
		g.meshctl("release", g.write("jp.zone", jpText(2, j.addressB())))
	}
	switched := map[*group]time.Time{
		j.d: j.schedule(j.d),
		j.a: j.schedule(j.a, "--absent", "lease", "--wait", "30s"), // a-fra says nothing, and its lease is waited for
	}
	j.a.awaitSilent(away, "lease-ended")
	j.catchments(catchment{"kresd": "a-osa"}, nil) // which awaits release 2 at the others
	j.write("b/zone", jpText(2, j.addressB()))
	j.b.Signal(syscall.SIGHUP)
	j.eventually(10*time.Second, "b serves release 2", func() (bool, string) {
		r := j.a.ask("kresd", "udp", j.addressB()[1], "release.jp.", dns.TypeTXT)
		return r != nil && strings.Contains(fmt.Sprint(r.Answer), `"2"`), fmt.Sprint(r)
	})
	everybody := time.Now()
	j.begin("a-fra can reach the distribution host again")
	j.restore("switch", away)
	j.catchments(nil, nil)
	j.resolves(time.Now(), 20)
	j.never(asked, switched)
	first := slices.MinFunc(slices.Collect(maps.Values(switched)), time.Time.Compare)
	for _, r := range resolvers {
		answers := j.stubs[r.host].Since(start)
		for _, a := range answers {
			if a.Answered() && (a.Got.Before(first) && a.Release != 1 || a.Sent.After(everybody) && a.Release != 2) {
				j.errorf("%s got release %d for a question of %v, answered at %v", r.name, a.Release, a.Sent, a.Got)
			}
		}
	}
}

// askNodes begins to ask the meshes themselves, from where each resolver is, at their IPv4 and then at their IPv6 address.
func (j *jp) askNodes() map[*group][]*lab.Load {
	asked := map[*group][]*lab.Load{}
	for _, g := range []*group{j.a, j.d} {
		for _, r := range resolvers {
			for _, address := range g.shared {
				asked[g] = append(asked[g], j.asks(r.host, address, 40*time.Millisecond, time.Second, 0, func(int) string { return "release.jp." }))
			}
		}
	}
	return asked
}

// never sees that no node of a mesh gave release 1 after the switchover, or release 2 before it.
func (j *jp) never(asked map[*group][]*lab.Load, switched map[*group]time.Time) {
	for _, loads := range asked {
		for _, l := range loads {
			l.Stop()
		}
	}
	for g, loads := range asked {
		for i, l := range loads {
			answers := l.End()
			if n := len(lab.Wrong(answers, 1, 2, switched[g], clockError)); n > 0 || len(answers) < 200 {
				j.errorf("%s asks %s: of %d answers %d are of the wrong release", resolvers[i/2].host, g.shared[i%2], len(answers), n)
			}
		}
	}
}

// clockError is how far the clocks of nodes may be off: they are all this machine's.
const clockError = time.Millisecond

// schedule sets the switchover and returns its instant.
func (j *jp) schedule(g *group, how ...string) time.Time {
	j.t.Helper()
	for _, node := range g.nodes {
		if node != away {
			g.awaitStaged(node, g.number)
		}
	}
	out := g.meshctl(append([]string{"schedule", "--json", "--no-wait", "--wait", "1s"}, how...)...)
	var set struct{ Switchover time.Time }
	j.must(json.Unmarshal([]byte(out[strings.Index(out, "{"):]), &set))
	j.t.Logf("mesh %v switches in %v", g.shared, time.Until(set.Switchover))
	return set.Switchover
}

// everywhere is the same node from every host.
func everywhere(node string) catchment {
	return catchment{"unbound": node, "bind": node, "kresd": node}
}
