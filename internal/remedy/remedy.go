// Package remedy says what to do about every code: of alarms, of why a node is silent, of why its route is as it is, of why a
// session is down, and of what was wrong with a repository. It is pure and imports internal/release, which has the advice for
// its rules. Whatever shows a code to an operator shows this with it: meshctl, its log, and docs/reference/codes.md, which its
// test compares with it.
package remedy

import (
	"github.com/coredns-anycast/coredns-anycast/internal/release"
)

// Entry is what is to be known of a code.
type Entry struct {
	Code  string
	From  string // whose code it is: what an operator sees it beside
	Error bool   // of an alarm: "meshctl status --check" fails while it holds
	Do    string // one sentence or two
}

// For is what to do about a code. One that is not known gets no words; a test finds those.
func For(code string) Entry {
	for _, e := range table {
		if e.Code == code {
			return e
		}
	}
	return Entry{Code: code, From: repository, Do: release.Rule(code).Advice()}
}

// Whose a code is.
const (
	alarm      = "alarm"
	switching  = "switchover"
	silence    = "silence"
	route      = "route"
	session    = "BGP session"
	repository = "repository"
)

var table = []Entry{
	{"lease-ended", "alarm, silence", true, "All nodes that hold no newer lease are silent. Renew it with: meshctl lease, then see why meshctl serve did not, and what is in the way from the nodes to it."},
	{"lease-not-renewed", alarm, true, "See in the log of meshctl serve why not, and renew it by hand: meshctl lease."},
	{"key-ends", alarm, false, "For the release key make any release, or: meshctl keys rotate release. For the root see docs/operate/keys.md: meshctl keys draft, sign, publish."},
	{"key-ends-soon", alarm, true, "Nodes fall silent when the word of a key ends. For the release key make any release, or: meshctl keys rotate release. For the root see docs/operate/keys.md: meshctl keys draft, sign, publish."},
	{"signatures-end", alarm, false, "Have the zone's signer sign it anew, and see why a newer version does not come: the lease of all zones ends with these signatures."},
	{"release-blocked", alarm, true, "The findings are in the log; meshctl check HOME/zones/ZONE.zone says them again. Correct the zone at its source, take checks: on_error: hold-zone, or have a second person sign: meshctl override."},
	{"release-failed", alarm, true, "The error says what is in the way: a line of meshctl.yaml (meshctl check says all of its errors), a key, a disk. It is tried again by itself."},
	{"zone-held", alarm, false, "Its last good data stays. All findings are in the log; correct the zone at its source, or have a second person sign: meshctl override. After a restore from a backup sign nothing: bring the zone file up (docs/operate/backup.md)."},
	{"zones-stay", alarm, true, "Too many zones are gone at once, or all, as if a source were another or empty. Put them back there, or see which directory or configuration meshctl serve runs with. If it is meant, have a second person sign: meshctl override (docs/operate/checks.md); the last zones of a mesh go by meshctl release --withdraw NAME."},
	{"members-missing", alarm, true, "Mend the member, which says in meshctl status what is wrong; if it is away, go on without it now: meshctl schedule --absent 10s; if it is lost, strike it: meshctl member remove NAME."},
	{"source-failed", alarm, false, "Mend the zone file, primary or catalog that is named, or the way to it: meshctl serve tries again by itself. What was released stays released. To take a zone out: docs/operate/sources.md."},
	{"not-taken", alarm, true, "For an hour, what a source has was not taken, or a source failed: the words say why. Correct the zone at its source, or the way to it; a zone is taken out, and another one's word is given, as docs/operate/sources.md and docs/operate/checks.md say. What was released stays released."},
	{"host-disk", alarm, true, "What came is right, and this host cannot write it: make room on the disk of the home, or see its permissions (df, ls -ld). meshctl serve tries again by itself within seconds, or within the least time between two tries (timers: min_retry) for what comes from a primary. What was released stays released."},
	{"home-damaged", alarm, true, "See the disk (dmesg, smartctl). Fetch the depot of a member, stop meshctl serve, and run: meshctl recover COPY, which takes the file that is named from there (docs/operate/backup.md). Until then leases are renewed, and no release is made or switched to."},
	{"zone-expired", alarm, true, "No primary has confirmed the zone for as long as its SOA allows. Mend the primaries, or take the zone out of sources in meshctl.yaml, and restart meshctl serve."},
	{"members-away", alarm, true, "Start the member again, or give a new one its bundle (docs/operate/add-node.md), or mend the way to its administrative address. If it is lost: meshctl member remove NAME."},
	{"member-unreachable", alarm, true, "Start the member's sidecar again, or mend the way to its administrative address. If its certificate was revoked, give it its new bundle (meshctl member bundle NAME); if it has that one, as after a restore, make another: meshctl member renew --new-key NAME. If it calls itself otherwise, correct node in its Corefile. If it is lost: meshctl member remove NAME."},
	{"serve-ended", alarm, true, "Start it again, systemctl start meshctl-serve, and see in its log why it ended: until then nothing is received or released, and no lease is renewed. If it is to stay away, remove HOME/serve.sock, and renew leases by hand: meshctl lease."},
	{"serve-not-running", alarm, false, "Start it: meshctl serve, or systemctl start meshctl-serve. Until then nothing is received, and no lease is renewed but by hand: meshctl lease. Said only where meshctl.yaml has sources."},
	{"no-dns-server", alarm, true, "Start the member's CoreDNS: its sidecar answers. If it runs, compare the socket of meshsync in its Corefile and in sidecar.yaml; if it does not start, its log says why."},
	{"removed-announced", alarm, true, "Stop the sidecar of the node, which takes its route away, or make it a member again: meshctl member add. Clients that the route draws get no answer there. A removed member is asked for a week, on the host where it was removed."},
	{"member-unrouted", alarm, false, "The member is ready, and no router has been told of its route for half a minute: bring up one of its BGP sessions, each of which says in meshctl status --json and in anycast-sidecar status why it is down, or the interface of its IGP. If that is meant: meshctl member drain NAME."},
	{"mesh-unrouted", alarm, true, "No client reaches the shared address. Bring up a BGP session, or the interface of the IGP, of one of these members: anycast-sidecar status there says of each session why it is down. If a member that could be announced is drained: meshctl member undrain NAME."},
	{"member-unwell", alarm, true, "The member means to answer, and its own probe of the shared address finds otherwise: see what to do about the probe's reason. With policy stop-dns its route stays: drain it meanwhile if clients have no other address, meshctl member drain NAME."},
	{"corefile-refused", alarm, false, "CoreDNS goes on with the Corefile before, and does not start again with the one on disk: correct what the words name, before anything restarts it. It is taken by itself (plugin reload), or with: kill -USR1."},
	{"state-unwritable", alarm, false, "The node answers on, and cannot write what it must at the next switchover, or a drain: see the disk that is named, its permissions, that it is not full, and that it was not remounted read-only (df, mount)."},
	{"implausible", alarm, false, "The member says what no sidecar of this project says: see that its sidecar and its CoreDNS are the programs that you installed there, and its clock. If somebody else may answer for it, give it another key: meshctl member renew --new-key NAME."},
	{"clock-holdover", alarm, false, "The member answers on, and its clock is compared with nobody: start chronyd there if it does not run, then see chronyc tracking. It ends by itself once the source has been good three times."},
	{"member-silent", alarm, true, "The member's reasons are beside its name in meshctl status; each has what to do."},
	{"host-clock", "alarm, switchover", true, "Nothing is published meanwhile. Set this host's clock right, or start its NTP client: chronyc tracking. If this clock is right, the members' are not."},
	{"state-restored", "alarm, switchover", true, "Members have verified something newer than this home knows, so nothing is published. Fetch their depots, stop meshctl serve, and run: meshctl recover COPY... (docs/operate/backup.md). If one member alone says so, and its depot has nothing newer, its word is false: filter its administrative address, and run: meshctl member remove NAME."},
	{"undecided", "alarm, silence", true, "Bring a distribution host back, or the member that cannot be asked. When that member is lost for good: meshctl schedule --force."},

	{"unreachable", "switchover, BGP session", false, "Start the member's sidecar, or the router; then look at routing and filters between the two: there was no answer."},
	{"wrong-mesh", "switchover, repository", false, "The node is pointed at the repository of another mesh: correct its configuration."},
	{"old-format", switching, false, "Upgrade the member's CoreDNS and sidecar to this version."},
	{"leap-second", switching, false, "Wait until the leap second is over, or set another instant."},
	{"clock-differs", switching, false, "One of the two clocks is wrong: compare chronyc tracking on the member and on this host."},
	{"unconfirmed", switching, false, "It is proposed again by itself. If that repeats, the member's mirror takes longer than it says: see its log, or give more time with releases: lead."},
	{"not-hearing", switching, false, "The member cannot fetch the repository: its mirror's error says why."},
	{"removed", switching, false, "Let the member hear that it was removed, or stop it; else its lease is waited for."},
	{"too-early", switching, false, "Set a later instant, or let the lead be chosen."},
	{"host-slow", switching, false, "It is proposed again by itself, with more time. If that repeats, see to the load of the distribution host, its disk or bucket, and the signing commands."},
	{"sooner", switching, false, "Nothing: it is proposed again at once, since members that were not waited for are back."},
	{"paused", switching, false, "Go on with: meshctl resume."},
	{"too-few", switching, false, "Bring members back until half of them can switch. What all of them lack may be the release's fault."},

	{"no-release", silence, false, "Nothing was verified yet: see the mirror in anycast-sidecar status."},
	{"not-a-member", silence, false, "It was removed, or node in its Corefile is another name than meshctl member list has. Add it: meshctl member add. If it is to stay away, stop its sidecar, which takes the route away."},
	{"clock-unknown", silence, false, "chronyd does not run or is not synchronised, or the clock stepped: chronyc tracking; sidecar/clock/README.md says what comes of what."},
	{"isolated", silence, false, "No repository and no other member was reached for as long as the Corefile allows (isolated silent): mend the administrative network."},
	{"clock-too-wide", silence, false, "The clock's error is above the mesh's limit. Around a switchover that ends by itself; else see chronyc tracking, or raise epsilon."},
	{"before-switchover", silence, false, "The only release that is named begins later: it ends by itself."},
	{"below-floor", silence, false, "The repository names an older release than this node answered from. Publish a higher one; if the home was restored: meshctl recover."},
	{"not-ready", "silence, route", false, "The release is being compiled, or was refused, or the server has not answered yet: the other reasons say which."},
	{"not-durable", silence, false, "The state directory cannot be written: see the disk, its permissions, and that it is not full."},
	{"state-lost", silence, false, "A file in the node's state directory is damaged or gone. Restore it, or remove the directory if no client can remember this node's answers; then restart CoreDNS."},
	{"old-view", silence, false, "The home was restored from an older copy, or a repository is replayed: meshctl recover on the distribution host."},
	{"commit-taken-back", silence, false, "The home was restored from an older copy: meshctl recover on the distribution host."},
	{"error", silence, false, "The node's log has the whole error, which is of its disk or its files."},

	{"ready", route, false, "Nothing: the service is good."},
	{"probe-down", route, false, "The last rounds of questions were bad: the probe's lines in anycast-sidecar status say what came."},
	{"probe-failing", route, false, "The last round was bad; if that goes on, the route follows the policy. The probe's lines in anycast-sidecar status say what came."},
	{"probe-wrong", route, false, "The server answers other than the zone's data: look for another server on the shared address, for a plugin that changes answers, or for an acl that does not let in the shared address, from which the probe asks."},
	{"probe-hanging", route, false, "The server takes questions and answers none: see its load and its log, and that no acl drops what comes from the shared address; restart it."},
	{"probe-dead", route, false, "Nothing listens on the shared address, or no interface here has it: add it to lo, start CoreDNS, or see in its log why it ended."},
	{"probe-no-zone", route, false, "No zone is known to ask for: make a release, or name zones under probe: zones."},
	{"probe-slow", route, false, "Answers came late, or not all came: see the machine's load. It withdraws nothing."},
	{"meshsync-silent", route, false, "The node is silent on purpose: its reasons for silence say why."},
	{"meshsync-unknown", route, false, "The status of meshsync does not come: start CoreDNS, and compare the socket in Corefile and sidecar.yaml."},
	{"route-stays", route, false, "Policy stop-dns keeps the route, so that clients go to other addresses (RFC 3258 2.3). Mend what keeps the service from being good; to take the route away meanwhile: anycast-sidecar drain."},
	{"readvertise-delay", route, false, "Nothing: it is announced once the service has been good for readvertise_delay."},
	{"flap-budget", route, false, "The route went too often. It comes back after the window; anycast-sidecar undrain ends that at once."},
	{"min-announcing", route, false, "Too few others remain, so the route stays: bring other nodes back."},
	{"others-unknown", route, false, "No distribution host says how many others remain, so the route stays: mend the way to meshctl serve."},
	{"degraded", route, false, "Nothing: routers prefer other nodes until the service has been good for a while."},
	{"draining", route, false, "An operator asked for it. Take it back with: anycast-sidecar undrain."},
	{"drained", "silence, route", false, "An operator asked for it. End it with: anycast-sidecar undrain."},
	{"stopping", route, false, "Nothing: the sidecar is shutting down."},
	{"clock-uncertain", route, false, "The clock is not known to be right enough: start chronyd if it does not run, then see chronyc tracking."},
	{"not-told", route, false, "No router has been told of the route: bring up a BGP session, each of which says why it is down, or the interface of the IGP."},
	{"still-told", route, false, "The route is to go and a router still has it: it goes in a moment, or the fault in anycast-sidecar status says why not."},

	{"connecting", session, false, "Nothing has come of the connection yet: wait, then look at the router."},
	{"waiting", session, false, "The router is to connect and has not: compare its configuration of this neighbor."},
	{"connection-refused", session, false, "Nothing listens at the router, or it does not know this node: configure this neighbor there."},
	{"no-answer", session, false, "No SYN-ACK came: a filter, another MD5 password at the router, GTSM, or the router is down."},
	{"no-source", session, false, "This end's address is not there: see ip addr, and source in sidecar.yaml."},
	{"connection-failed", session, false, "The words beside it are the kernel's: see routing and filters to the router."},
	{"connection-closed", session, false, "The router closed it without a word: see its log. Often it is another address of this node than it has configured."},
	{"notification-sent", session, false, "This side refused what the router sent; the RFC's name of the reason is beside it. Correct the router or sidecar.yaml."},
	{"notification-received", session, false, "The router refused; the RFC's name of the reason is beside it. Correct its configuration of this neighbor."},
	{"wrong-as", session, false, "The router is of another AS than sidecar.yaml has for it: correct one of the two."},
	{"hold-timer-expired", session, false, "Nothing was heard of the router for the hold time: see the link and the router's load."},
	{"hold-time-zero", session, false, "The router proposes a hold time of 0: set one there, or allow it with hold_time_zero."},
	{"prefix-limit", session, false, "The router sends more prefixes than it may: have it send none, or raise max_prefixes."},
	{"bfd-down", session, false, "BFD says that the router is gone: see the link, and whether BFD runs there with this address."},

	{"repository-behind", repository, false, "This repository has been older than others for a minute: see what keeps its copy, or its CDN's cache, from being renewed."},
	{"repository-slow", repository, false, "This repository takes long to answer: see the line to it."},
	{"repository-unusable", repository, false, "This repository cannot be reached or is not what was signed: the words beside it say which."},
}
