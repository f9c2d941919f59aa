// Package gate decides whether this site is announced, and always says why.
//
//	probe ────► Probed   ─┐
//	meshsync ─► Meshsync ─┼─► Gate ─► Decide ─► announce | withdraw, reasons, when to ask again
//	clock ────► Clock    ─┤
//	operator ─► Drain    ─┘
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
//     back once the service has been good for the readvertise delay.
//
// A slow service is a working one (FAIL-3). The clock, and a status of meshsync that does not come, withdraw nothing by
// themselves (FAIL-4): they are shared by all nodes, or are not the service.
package gate

import (
	"fmt"
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

// Config is fixed for the life of a Gate.
type Config struct {
	Policy           Policy
	Rise             int           // rounds of the probe that must be good in a row before it is up; at least 1
	Fall             int           // rounds that must be bad in a row before it is down; at least 1
	ReadvertiseDelay time.Duration // how long the service must have been good before a withdrawn route comes back
}

// Verdict is what one round of the probe found.
type Verdict int

const (
	Good Verdict = iota // every question was answered rightly, in time
	Slow                // every question was answered rightly, some late: overload
	Bad                 // a question was not answered, or wrongly
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
	Draining         = "draining"          // the operator asked for it, and routers are still to find another way
	Drained          = "drained"           // the operator asked for it
	Stopping         = "stopping"          // the process ends
	ProbeFailing     = "probe-failing"     // note: the last round was bad, and Fall is not reached
	ProbeSlow        = "probe-slow"        // note: the last round was slow
	MeshsyncUnknown  = "meshsync-unknown"  // note: the status of meshsync does not come
	ClockUncertain   = "clock-uncertain"   // note: the clock is not known to be right enough
)

// Codes lists every code above, for whoever counts or documents them.
var Codes = []string{Ready, NotReady, ProbeDown, MeshsyncSilent, RouteStays, ReadvertiseDelay, Draining, Drained, Stopping,
	ProbeFailing, ProbeSlow, MeshsyncUnknown, ClockUncertain}

// Decision is what must hold from now on. Why begins with what decided; notes that decide nothing follow.
type Decision struct {
	Announce bool
	Draining bool // announced, but as the worst of ways (RFC 8326)
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
	stopEnd    instant.Mono // and until then one whose process ends
	everGood   bool         // the service has been good once: from then on the policy decides
	goodSince  instant.Mono // start of the good time that lasts
	isGood     bool
	badAfterUp bool // policy withdraw took the route away; the delay applies to the way back
	announced  bool // by the last decision
}

// New makes a gate that has seen nothing and so announces nothing.
func New(cfg Config) *Gate { return &Gate{cfg: cfg, probeLast: Bad} }

// Probed tells that a round of questions ended, with what was wrong or slow in it.
func (g *Gate) Probed(now instant.Mono, v Verdict, why []status.Reason) {
	up := v != Bad
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

// Undrain ends that. A node that had left is announced again once its service is good, as after a start.
func (g *Gate) Undrain() {
	if g.drainWhy != "" && !g.announced {
		g.everGood = g.isGood
	}
	g.drainWhy = ""
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
	switch {
	case good && !g.isGood:
		g.goodSince = now
	case !good && g.isGood && g.cfg.Policy == Withdraw:
		g.badAfterUp = true
	}
	g.isGood = good
	g.everGood = g.everGood || good
}

// Decide says what must hold at now.
func (g *Gate) Decide(now instant.Mono) Decision {
	d := g.decide(now)
	g.announced = d.Announce
	d.Why = append(d.Why, g.notes()...)
	return d
}

func (g *Gate) decide(now instant.Mono) Decision {
	switch {
	case g.stopping:
		return g.leave(now, g.stopEnd, status.Reason{Code: Stopping, Detail: "the sidecar is shutting down"}, Stopping)
	case g.drainWhy != "":
		return g.leave(now, g.drainEnd, status.Reason{Code: Draining, Detail: g.drainWhy}, Drained)
	}
	return g.judged(now)
}

// leave lets a route that is there stay until end, as the worst of ways, unless it would have to go anyway. Then the
// reason has another code.
func (g *Gate) leave(now, end instant.Mono, why status.Reason, left string) Decision {
	if !g.announced || now >= end || !g.judged(now).Announce {
		return no(left, why.Detail)
	}
	return Decision{Announce: true, Draining: true, Wake: end, Why: []status.Reason{why}}
}

// judged is what the service and the policy ask for.
func (g *Gate) judged(now instant.Mono) Decision {
	switch {
	case !g.everGood:
		d := no(NotReady, "the service has not been good since the sidecar started, or came back from a drain")
		d.Why = append(d.Why, g.faults()...)
		return d
	case g.isGood:
		return g.announceGood(now)
	case g.cfg.Policy == StopDNS:
		return Decision{Announce: true, Why: append(g.faults(),
			status.Reason{Code: RouteStays, Detail: "policy stop-dns keeps the route, so that clients go to other addresses"})}
	default:
		return Decision{Why: g.faults()}
	}
}

// announceGood is the way back: at once, unless this policy took the route away before.
func (g *Gate) announceGood(now instant.Mono) Decision {
	if g.badAfterUp {
		if back := g.goodSince.Add(g.cfg.ReadvertiseDelay); now < back {
			d := no(ReadvertiseDelay, fmt.Sprintf("good again, announced once that has lasted %v", g.cfg.ReadvertiseDelay))
			d.Wake = back
			return d
		}
		g.badAfterUp = false
	}
	return Decision{Announce: true, Why: []status.Reason{{Code: Ready, Detail: "the service is good"}}}
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
	return words(g.probeWhy, "no round has ended yet")
}

// notes are true, worth knowing, and decide nothing.
func (g *Gate) notes() []status.Reason {
	var notes []status.Reason
	if g.probeUp && g.probeLast == Bad && g.mesh != Silent {
		notes = append(notes, status.Reason{Code: ProbeFailing,
			Detail: fmt.Sprintf("bad for %d rounds of the %d it takes: %s", g.run, g.cfg.Fall, words(g.probeWhy, "unknown"))})
	}
	if g.probeLast == Slow {
		notes = append(notes, status.Reason{Code: ProbeSlow, Detail: words(g.probeWhy, "late answers")})
	}
	if g.mesh == Unreachable {
		notes = append(notes, status.Reason{Code: MeshsyncUnknown, Detail: "the probe decides alone: " + words(g.meshWhy, "no status")})
	}
	if g.clockWhy != "" {
		notes = append(notes, status.Reason{Code: ClockUncertain, Detail: g.clockWhy})
	}
	return notes
}

func no(code, detail string) Decision {
	return Decision{Why: []status.Reason{{Code: code, Detail: detail}}}
}

// words joins the first reasons into one line: a detail is for reading, the whole list is in the status.
func words(why []status.Reason, none string) string {
	const most = 3
	if len(why) == 0 {
		return none
	}
	line := why[0].String()
	for _, r := range why[1:min(len(why), most)] {
		line += "; " + r.String()
	}
	if len(why) > most {
		line += fmt.Sprintf("; and %d more", len(why)-most)
	}
	return line
}
