// Package gate decides whether this site is announced, and always says why.
//
//	probe ────► Probed   ─┐
//	meshsync ─► Meshsync ─┼─► Gate ─► Decide ─► announce | withdraw, reasons, when to ask again
//	clock ────► Clock    ─┤
//	operator ─► Drain    ─┤
//	others   ─► Others   ─┘
//
// It is pure: events come in with the boot time at which they happened, a decision goes out, and whoever calls it sets
// the routes. It may import instant and status, and no network, disk, clock, lock, log or goroutine. The sidecar calls
// it, from one goroutine.
//
// The rules, in the order in which they are asked:
//
//  1. A process that stops is withdrawn, and a node that is drained as well; one that was announced is announced as
//     draining for a while before (RFC 8326), so that routers have found another way when the route goes.
//  2. A node that has never answered since this process started, or since it was drained, is not announced.
//  3. Policy stop-dns (RFC 3258 2.3, FAIL-1): after that the route stays, whatever becomes of the DNS service, so that
//     resolvers go to the other addresses of the zone.
//  4. Policy withdraw (RFC 4786 4.4.1, FAIL-2): the route goes when the probe is down or meshsync is silent, and comes
//     back once the service has been good for the readvertise delay; for the window of the flap budget, when the route
//     went more often than that allows.
//  5. It goes only if enough other nodes are left (FAIL-4), see Others.
//
// A slow service is a working one (FAIL-3). The clock, and a status of meshsync that does not come, withdraw nothing by
// themselves (FAIL-4): they are shared by all nodes, or are not the service.
//
// # Who may leave
//
// A fault that many nodes share must not take the whole mesh away, and nobody sees alone whether it is shared. So a node
// whose service is bad asks how many others remain, which are those that are announced and good by their own word, and
// leaves if they are MinAnnouncing. Two that go bad at one moment cannot count each other: whoever asks has been bad, and has
// said so, before the others are asked, and an answer to a question from before that is void. So of all that ever leave, the
// last one to go bad has seen enough that stay, whoever passes the words on, and however many do.
//
// If nobody can be asked, it stays: the way to the distribution hosts may be what failed, for all nodes at once. The one
// exception is a node where nothing listens any more, which is nobody else's fault. Having stayed, a node leaves when the
// others have been enough for the readvertise delay: what just came back may be about to cure it too.
package gate

import (
	"fmt"
	"strings"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/instant"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
)

// Policy is what becomes of the route when the DNS service fails.
type Policy int

const (
	StopDNS  Policy = iota // the route stays (FAIL-1)
	Withdraw               // the route goes (FAIL-2)
)

func (p Policy) String() string {
	if p == Withdraw {
		return "withdraw"
	}
	return "stop-dns"
}

// Config is what an operator chose.
type Config struct {
	Policy           Policy
	Rise             int           // rounds of the probe that must be good in a row before it is up; at least 1
	Fall             int           // rounds that must be bad in a row before it is down; at least 1
	ReadvertiseDelay time.Duration // how long the service must have been good before a withdrawn route comes back
	Flaps            Flaps
	MinAnnouncing    int  // how many others must remain for this node to leave; 0: it does not ask
	Degrade          bool // a route that is there while the service is not well is the worse of ways
	DegradeSlow      bool // overload counts as not well
}

// Flaps is a budget of route changes, so that damping elsewhere (RFC 2439) has no cause to suppress the route for longer than
// the fault lasts. A route that was withdrawn more than Most times within Window stays down until its service has been good
// for Window without a break, or until Forgive. So no Window holds more than Most + 1 withdrawals, and as many ways back.
type Flaps struct {
	Most   int           // at least 0
	Window time.Duration // 0: no budget
}

// Verdict is what one round of the probe found.
type Verdict int

const (
	Good Verdict = iota // every question was answered rightly, in time
	Slow                // every question was answered rightly, some late: overload
	Bad                 // the service does not answer, or wrongly
)

// Meshsync is what is known of the plugin meshsync.
type Meshsync int

const (
	NoMeshsync  Meshsync = iota // none is configured: the probe alone tells
	Unreachable                 // its status does not come: the probe alone tells
	Silent                      // it says that it is silent, on purpose (SYNC-F)
	Serving                     // it says that it serves a release
)

// Codes of the reasons. They are the same words in status, log and metrics; their number is fixed.
const (
	Ready            = "ready"             // the service is good
	NotReady         = "not-ready"         // it has never been good since the process started
	ProbeDown        = "probe-down"        // the last Fall rounds were bad
	MeshsyncSilent   = "meshsync-silent"   // meshsync is silent on purpose
	RouteStays       = "route-stays"       // the service is bad and the policy is stop-dns
	ReadvertiseDelay = "readvertise-delay" // the service is good again, not yet for long enough
	FlapBudget       = "flap-budget"       // the route went too often: it stays down until the service was good for the window
	MinAnnouncing    = "min-announcing"    // the service is bad and the route stays, since too few others remain
	OthersUnknown    = "others-unknown"    // the service is bad and the route stays, since nobody says how many others remain
	Degraded         = "degraded"          // note: the service is not well, or was not until lately, and the route says so
	Draining         = "draining"          // the operator asked for it, and routers are still to find another way
	Drained          = "drained"           // the operator asked for it
	Stopping         = "stopping"          // the process ends
	ProbeFailing     = "probe-failing"     // note: the last round was bad, and Fall is not reached
	ProbeWrong       = "probe-wrong"       // note: the last round had answers that are not what the zone's data gives
	ProbeHanging     = "probe-hanging"     // note: in the last round questions were taken and none was answered in time
	ProbeDead        = "probe-dead"        // note: in the last round nothing listened, or it could not be reached
	ProbeNoZone      = "probe-no-zone"     // note: no zone is known to ask for
	ProbeSlow        = "probe-slow"        // note: the last round was slow: answers came late, or not all of them
	MeshsyncUnknown  = "meshsync-unknown"  // note: the status of meshsync does not come
	ClockUncertain   = "clock-uncertain"   // note: the clock is not known to be right enough
)

// Codes lists every code above, for whoever counts or documents them.
var Codes = []string{Ready, NotReady, ProbeDown, MeshsyncSilent, RouteStays, ReadvertiseDelay, FlapBudget, MinAnnouncing, OthersUnknown,
	Draining, Drained, Stopping, ProbeFailing, ProbeWrong, ProbeHanging, ProbeDead, ProbeNoZone, ProbeSlow, MeshsyncUnknown, ClockUncertain, Degraded}

// probeCodes are what a round of the probe can find, in the order in which they are noted.
var probeCodes = []string{ProbeWrong, ProbeHanging, ProbeDead, ProbeNoZone, ProbeSlow}

// askAgain is how long the answer to how many others remain is good for.
const askAgain = 5 * time.Second

// Decision is what must hold from now on. Why begins with what decided; notes that decide nothing follow.
type Decision struct {
	Announce bool
	Draining bool // announced, but as the worst of ways (RFC 8326)
	Degraded bool // announced, but as a worse way than those of nodes that are well
	Remains  bool // other nodes may count on this one: it is announced, not as draining, and its service is good
	Pending  bool // not announced, and nothing speaks against it: the probe is to be good for longer
	Ask      bool // ask how many others remain, once this decision can be read by those who ask, and tell Others
	Why      []status.Reason
	Wake     instant.Mono // when to ask again though nothing happens; zero is never
}

// Gate remembers what the last events said. The zero value is of no use; New makes one.
type Gate struct {
	cfg Config

	probeUp    bool
	probeLast  Verdict
	probeWhy   []status.Reason
	run        int // rounds in a row that speak against probeUp
	mesh       Meshsync
	meshWhy    []status.Reason
	clockWhy   string       // empty while the clock is known
	drainWhy   string       // empty while not drained
	drainEnd   instant.Mono // until then a drained node is announced as draining
	stopping   bool
	stopEnd    instant.Mono   // and until then one whose process ends
	everGood   bool           // the service has been good once: from then on the policy decides
	isGood     bool           // the service is good
	since      instant.Mono   // when that last changed
	ill        instant.Mono   // when a round was last bad, or meshsync silent, since the service was good first; 0: never
	worse      bool           // the route was the worse of ways in the last decision that had one
	degraded   []instant.Mono // when it became that; the last ones that the budget needs
	away       bool           // policy withdraw took the route away; the delay applies to the way back
	withdrawn  []instant.Mono // when it did so while the route was announced; the last ones that the budget needs
	overBudget bool           // it did so too often
	others     others
	announced  bool // by the last decision
}

// others is what is known of the other nodes since the service went bad.
type others struct {
	may     bool // this node may leave
	refused bool // there was an answer, and it was no
	enough  bool // since then the others have been enough, from since on
	since   instant.Mono
	next    instant.Mono // when to ask again
	why     status.Reason
}

// New makes a gate that has seen nothing and so announces nothing.
func New(cfg Config) *Gate { return &Gate{cfg: cfg, probeLast: Bad} }

// Configure tells of another configuration. What is known stays; it counts by the new numbers from now on.
func (g *Gate) Configure(cfg Config) { g.cfg = cfg }

// Probed tells that a round of questions ended, with what was wrong or slow in it.
func (g *Gate) Probed(now instant.Mono, v Verdict, why []status.Reason) {
	up := v != Bad
	if g.everGood && (v == Bad || v == Slow && g.cfg.DegradeSlow) {
		g.ill = now
	}
	g.probeLast, g.probeWhy = v, why
	need := g.cfg.Fall
	if up {
		need = g.cfg.Rise
	}
	if up == g.probeUp {
		g.run = 0
	} else if g.run++; g.run >= need {
		g.probeUp, g.run = up, 0
	}
	g.judge(now)
}

// Meshsync tells what the plugin said of itself, or that it could not be asked, and why.
func (g *Gate) Meshsync(now instant.Mono, m Meshsync, why []status.Reason) {
	g.mesh, g.meshWhy = m, why
	g.judge(now)
}

// Clock tells why the clock is not known to be right; an empty reason says that it is.
func (g *Gate) Clock(why string) { g.clockWhy = why }

// Drain tells that the operator wants no traffic here from now on, and why. A route that is there stays for wait.
// Repeating it may shorten the wait, and never prolongs it.
func (g *Gate) Drain(now instant.Mono, wait time.Duration, why string) {
	if end := now.Add(wait); g.drainWhy == "" || end < g.drainEnd {
		g.drainEnd = end
	}
	g.drainWhy = why
}

// Undrain ends that, and forgives. A node that had left is announced again once its service is good, as after a start.
func (g *Gate) Undrain() {
	if g.drainWhy != "" && !g.announced {
		g.everGood = g.isGood
	}
	g.drainWhy = ""
	g.Forgive()
}

// Forgive tells that the operator wants the flap budget to begin anew.
func (g *Gate) Forgive() { g.withdrawn, g.overBudget = nil, false }

// Others tells how many other nodes remain by an inquiry that began at asked, or why nobody said so.
func (g *Gate) Others(now, asked instant.Mono, remain int, unknown string) {
	o := &g.others
	if g.isGood || asked < g.since {
		return // of another time than this: the others may have counted on this node since
	}
	o.next = now.Add(askAgain)
	switch {
	case unknown != "" && g.dead():
		o.may = true
	case unknown != "":
		o.refused, o.enough = true, false
		o.why = status.Reason{Code: OthersUnknown, Detail: "the route stays, since nobody says how many others remain: " + unknown}
	case remain < g.cfg.MinAnnouncing:
		o.refused, o.enough = true, false
		o.why = status.Reason{Code: MinAnnouncing, Detail: fmt.Sprintf(
			"the route stays, since %d other nodes are announced and good, and %d must be", remain, g.cfg.MinAnnouncing)}
	default:
		if !o.enough {
			o.enough, o.since = true, now
		}
		o.may = !o.refused || now >= o.since.Add(g.cfg.ReadvertiseDelay)
		o.why = status.Reason{Code: MinAnnouncing, Detail: fmt.Sprintf(
			"the route goes once %d other nodes have been announced and good for %v", g.cfg.MinAnnouncing, g.cfg.ReadvertiseDelay)}
	}
}

// dead reports whether nothing listens here, and nothing else is wrong.
func (g *Gate) dead() bool {
	if g.mesh == Silent || g.probeLast != Bad || len(g.probeWhy) == 0 {
		return false
	}
	for _, r := range g.probeWhy {
		if r.Code != ProbeDead {
			return false
		}
	}
	return true
}

// Stop tells that the process ends. A route that is there stays for wait, or for what is left of a drain's if that is
// less. There is no way back.
func (g *Gate) Stop(now instant.Mono, wait time.Duration) {
	end := now.Add(wait)
	if g.drainWhy != "" {
		end = min(end, g.drainEnd)
	}
	if !g.stopping || end < g.stopEnd {
		g.stopEnd = end
	}
	g.stopping = true
}

// judge keeps track of whether the service is good, and since when.
func (g *Gate) judge(now instant.Mono) {
	good := g.probeUp && g.mesh != Silent
	if good != g.isGood {
		g.since, g.others = now, others{}
	}
	g.isGood = good
	if g.everGood && !good {
		g.ill = now
	}
	g.everGood = g.everGood || good
}

// Decide says what must hold at now.
func (g *Gate) Decide(now instant.Mono) Decision {
	d := g.decide(now)
	g.announced = d.Announce
	g.degrade(now, &d)
	d.Remains = d.Announce && !d.Draining && g.isGood
	d.Why = append(d.Why, g.notes()...)
	return d
}

// degrade makes a route that is there the worse of ways while the service is not well. It is well again once it has been for
// as long as a route takes to come back, so that one lost round after the other does not turn it to and fro; and for as long
// as the budget's window if it was not well too often, since routers elsewhere count changed attributes as well (RFC 2439 4.4.3).
func (g *Gate) degrade(now instant.Mono, d *Decision) {
	if !g.cfg.Degrade || !d.Announce || d.Draining {
		return
	}
	lasts := g.cfg.ReadvertiseDelay
	if f, last := g.cfg.Flaps, len(g.degraded)-1; f.Window > lasts && last >= f.Most && g.degraded[last] < g.degraded[last-f.Most].Add(f.Window) {
		lasts = f.Window
	}
	well := g.ill.Add(lasts)
	if g.isGood && (g.ill == 0 || now >= well) {
		g.worse = false
		return
	}
	if !g.worse {
		g.worse = true
		g.degraded = append(g.degraded[max(0, len(g.degraded)-g.cfg.Flaps.Most):], now)
	}
	d.Degraded = true
	why := "the service is not well"
	if g.isGood {
		why = fmt.Sprintf("the service was not well within the last %v", lasts)
		if d.Wake == 0 || well < d.Wake {
			d.Wake = well
		}
	}
	d.Why = append(d.Why, status.Reason{Code: Degraded, Detail: why + ", so routers are to prefer other nodes"})
}

func (g *Gate) decide(now instant.Mono) Decision {
	judged := g.judged(now)
	switch {
	case g.stopping:
		return g.leave(now, g.stopEnd, judged, status.Reason{Code: Stopping, Detail: "the sidecar is shutting down"}, Stopping)
	case g.drainWhy != "":
		return g.leave(now, g.drainEnd, judged, status.Reason{Code: Draining, Detail: g.drainWhy}, Drained)
	}
	return judged
}

// leave lets a route that is there stay until end, as the worst of ways, unless it would have to go anyway. Then the
// reason has another code.
func (g *Gate) leave(now, end instant.Mono, judged Decision, why status.Reason, left string) Decision {
	if !g.announced || now >= end || !judged.Announce {
		return no(left, why.Detail)
	}
	return Decision{Announce: true, Draining: true, Ask: judged.Ask, Wake: end, Why: []status.Reason{why}}
}

// judged is what the service and the policy ask for.
func (g *Gate) judged(now instant.Mono) Decision {
	switch {
	case !g.everGood:
		d := no(NotReady, "the service has not been good since the sidecar started, or came back from a drain")
		d.Why = append(d.Why, g.faults()...)
		d.Pending = g.mesh != Silent && g.probeLast != Bad
		return d
	case g.isGood:
		return g.announceGood(now)
	case g.cfg.Policy == StopDNS:
		return Decision{Announce: true, Why: append(g.faults(),
			status.Reason{Code: RouteStays, Detail: "policy stop-dns keeps the route, so that clients go to other addresses"})}
	case g.away || g.cfg.MinAnnouncing == 0 || g.others.may || !g.announced: // who is not announced leaves nobody
		g.withdraw(now)
		return Decision{Why: g.faults()}
	}
	return g.hold(now)
}

// withdraw takes the route away, if it is there: else, as when the node is drained, nothing comes and goes.
func (g *Gate) withdraw(now instant.Mono) {
	if !g.announced {
		return
	}
	g.away = true
	if g.cfg.Flaps.Window == 0 {
		return
	}
	g.withdrawn = append(g.withdrawn, now)
	if first := len(g.withdrawn) - 1 - g.cfg.Flaps.Most; first >= 0 {
		g.overBudget = g.overBudget || now < g.withdrawn[first].Add(g.cfg.Flaps.Window)
		g.withdrawn = g.withdrawn[first:]
	}
}

// hold keeps a route whose service is bad until it is known that enough others remain.
func (g *Gate) hold(now instant.Mono) Decision {
	why := g.others.why
	if why.Code == "" {
		why = status.Reason{Code: OthersUnknown, Detail: "it is being asked how many others remain"}
	}
	d := Decision{Announce: true, Ask: now >= g.others.next, Why: append(g.faults(), why)}
	if !d.Ask {
		d.Wake = g.others.next
	}
	return d
}

// announceGood is the way back: at once, unless this policy took the route away before.
func (g *Gate) announceGood(now instant.Mono) Decision {
	if !g.away {
		return Decision{Announce: true, Why: []status.Reason{{Code: Ready, Detail: "the service is good"}}}
	}
	d := no(ReadvertiseDelay, fmt.Sprintf("good again, announced once that has lasted %v", g.cfg.ReadvertiseDelay))
	d.Wake = g.since.Add(g.cfg.ReadvertiseDelay)
	if f := g.cfg.Flaps; g.overBudget && f.Window > g.cfg.ReadvertiseDelay {
		d = no(FlapBudget, fmt.Sprintf("withdrawn more than %d times within %v: announced once the service has been good for so long, or by undrain",
			f.Most, f.Window))
		d.Wake = g.since.Add(f.Window)
	}
	if now < d.Wake {
		return d
	}
	g.away, g.overBudget = false, false
	return g.announceGood(now)
}

// faults are the reasons for which the service is not good.
func (g *Gate) faults() []status.Reason {
	var why []status.Reason
	if g.mesh == Silent {
		why = append(why, status.Reason{Code: MeshsyncSilent, Detail: words(g.meshWhy, "it says no reason")})
	}
	if !g.probeUp && g.mesh != Silent { // a silent node answers no probe, and that is no news
		why = append(why, status.Reason{Code: ProbeDown, Detail: g.probeDetail()})
	}
	return why
}

func (g *Gate) probeDetail() string {
	if g.probeLast != Bad {
		return fmt.Sprintf("good for %d rounds of the %d it takes", g.run, g.cfg.Rise)
	}
	if g.probeWhy == nil {
		return "no round has ended yet"
	}
	return fmt.Sprintf("the last %d rounds were bad", g.cfg.Fall)
}

// notes are true, worth knowing, and decide nothing.
func (g *Gate) notes() []status.Reason {
	var notes []status.Reason
	if g.probeUp && g.probeLast == Bad && g.mesh != Silent {
		notes = append(notes, status.Reason{Code: ProbeFailing,
			Detail: fmt.Sprintf("bad for %d rounds of the %d it takes", g.run, g.cfg.Fall)})
	}
	if g.mesh != Silent {
		notes = append(notes, g.found()...)
	}
	if g.mesh == Unreachable {
		notes = append(notes, status.Reason{Code: MeshsyncUnknown, Detail: "the probe decides alone: " + words(g.meshWhy, "no status")})
	}
	if g.clockWhy != "" {
		notes = append(notes, status.Reason{Code: ClockUncertain, Detail: g.clockWhy})
	}
	return notes
}

// found is what was wrong or slow in the last round of the probe, one reason for each code.
func (g *Gate) found() []status.Reason {
	var all []status.Reason
	for _, code := range probeCodes {
		var details []string
		for _, r := range g.probeWhy {
			if r.Code == code {
				details = append(details, r.Detail)
			}
		}
		if len(details) > 0 {
			all = append(all, status.Reason{Code: code, Detail: sum(details)})
		}
	}
	return all
}

func no(code, detail string) Decision {
	return Decision{Why: []status.Reason{{Code: code, Detail: detail}}}
}

// words joins reasons into one line.
func words(why []status.Reason, none string) string {
	if len(why) == 0 {
		return none
	}
	lines := make([]string, len(why))
	for i, r := range why {
		lines[i] = r.String()
	}
	return sum(lines)
}

// sum joins the first of lines: a detail is for reading, the whole list is in the status.
func sum(lines []string) string {
	const most = 3
	if len(lines) > most {
		return fmt.Sprintf("%s; and %d more", strings.Join(lines[:most], "; "), len(lines)-most)
	}
	return strings.Join(lines, "; ")
}
