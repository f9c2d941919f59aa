// Package status is what the plugin, the sidecar and meshctl tell each other: versioned JSON documents, one way each.
//
//	meshsync ── Node ──► sidecar ── Confirmation, Sidecar ──► meshctl
//	sidecar  ── Clock ─► meshsync
//	meshctl serve ── Work ──► meshctl status
//
// It is pure: types and strict, bounded decoding. internal/socket and the sidecar's admin plane move the bytes. A
// document of an unknown version is refused; an unknown field is not, so that a newer node can say more.
package status

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/coredns-anycast/coredns-anycast/internal/instant"
)

// Version is the version of every document in this package.
const Version = 1

// MaxBytes bounds a document: 100,000 zones fit.
const MaxBytes = 32 << 20

// MaxText is how many octets a text has at the most that comes of what another program says, as an error of a server.
const MaxText = 2048

// Cut is a text, or of one that is longer than MaxText as much as that.
func Cut(text string) string {
	if len(text) <= MaxText {
		return text
	}
	end := MaxText - len("…")
	for last := end - utf8.UTFMax; end > last && !utf8.RuneStart(text[end]); { // it need not be UTF-8
		end--
	}
	return text[:end] + "…"
}

// Reason is why something is not as one would wish: a fixed code to count and compare, and words for an operator.
type Reason struct {
	Code   string `json:"code"`
	Detail string `json:"detail"`
}

func (r Reason) String() string { return r.Code + ": " + r.Detail }

// Ref names a release and the instant from which it is the one to answer from; At is zero while none is set.
type Ref struct {
	Number uint64       `json:"number"`
	At     instant.Wall `json:"at_ns,omitempty"`
}

// Promise is what a node holds durably of a switchover that was proposed to it, and how far it is decided, as the node
// knows.
type Promise struct {
	Number uint64       `json:"number"`
	At     instant.Wall `json:"at_ns"`
	State  PromiseState `json:"state"`
}

// Ref is the switchover of the promise.
func (p Promise) Ref() Ref { return Ref{p.Number, p.At} }

// PromiseState is how far a switchover is decided, as one node knows.
type PromiseState string

// The states of a promise. From the instant on, a node answers from the release before in none of them but Void.
const (
	Proposed  PromiseState = "proposed"  // neither committed nor withdrawn
	Committed PromiseState = "committed" // the switchover is made at its instant
	Declined  PromiseState = "declined"  // this node takes no commit any more, unless another member has taken it
	Void      PromiseState = "void"      // all members have declined: the switchover is never made
	Presumed  PromiseState = "presumed"  // a host presumes that it is made: this node does not find it void, and waits for that host's word
)

// Node is what meshsync says of itself on its unix socket.
type Node struct {
	Version      int          `json:"version"`
	Node         string       `json:"node"`
	Mesh         string       `json:"mesh"`
	Software     string       `json:"software"`      // DRIFT-1
	ConfigDigest string       `json:"config_digest"` // SHA-256 of the Corefile, DRIFT-1
	At           instant.Wall `json:"at_ns"`

	Serving      uint64       `json:"serving"`                // the release answered from; 0 is silent
	Silent       []Reason     `json:"silent,omitempty"`       // why, when Serving is 0 (SYNC-F)
	Warnings     []Reason     `json:"warnings,omitempty"`     // what will lead to silence if nobody sees to it
	Zones        []Zone       `json:"zones,omitempty"`        // of the release served
	ZonesDigest  string       `json:"zones_digest,omitempty"` // of that list: another one has another; none while nothing is served, and of a version before
	ZonesChange  *ZonesChange `json:"zones_change,omitempty"` // how the list became of one before, if little changed
	Switched     *Switched    `json:"switched,omitempty"`
	Staged       uint64       `json:"staged,omitempty"`    // highest release verified, compiled and ready
	Compiling    *Compiling   `json:"compiling,omitempty"` // the release that is being made ready
	Compiled     *Step        `json:"compiled,omitempty"`  // the release that was made ready last
	Promise      Promise      `json:"promise,omitzero"`    // of the switchover held durably
	Asks         bool         `json:"asks,omitempty"`      // it wants to know what other members hold of that switchover
	Floor        uint64       `json:"floor"`               // SYNC-G
	LeaseExpires instant.Wall `json:"lease_expires_ns,omitempty"`
	Clock        ClockState   `json:"clock"`
	Depot        Depot        `json:"depot"`
	Format       int          `json:"format,omitempty"` // the newest format of manifests that it reads; 0 is 1
	Refused      []Refused    `json:"refused,omitempty"`
	Confirms     Confirms     `json:"confirms"`
}

// Brief is n without its list of zones, which may be 100,000, for who has the list of that digest already. Without a digest the list stays.
func (n Node) Brief() Node {
	if n.ZonesDigest != "" {
		n.Zones = nil
	}
	return n
}

// Zone is one zone of a release.
type Zone struct {
	Origin string `json:"origin"`
	Serial uint32 `json:"serial"`
}

// ZonesChange is how a list of zones became of another. Both are in order of their origins, as strings.
type ZonesChange struct {
	From string   `json:"from"`           // digest of the other list
	Put  []Zone   `json:"put,omitempty"`  // zones that are new, or have another serial
	Gone []string `json:"gone,omitempty"` // origins of those that are there no more
}

// Of is what becomes of a list, which stays as it is.
func (c *ZonesChange) Of(list []Zone) []Zone {
	all := make([]Zone, 0, len(list)+len(c.Put))
	upTo := func(origin string) { // what comes before it, and nothing of it
		n, there := slices.BinarySearchFunc(list, origin, func(z Zone, origin string) int { return strings.Compare(z.Origin, origin) })
		if all = append(all, list[:n]...); there {
			n++
		}
		list = list[n:]
	}
	for put, gone := c.Put, c.Gone; len(put)+len(gone) > 0; {
		if len(put) == 0 || len(gone) > 0 && gone[0] < put[0].Origin {
			upTo(gone[0])
			gone = gone[1:]
			continue
		}
		upTo(put[0].Origin)
		all, put = append(all, put[0]), put[1:]
	}
	return append(all, list...)
}

// Compiling is how far a node is with making a release ready.
type Compiling struct {
	Number  uint64       `json:"number"`
	Zones   int          `json:"zones"`               // that are ready
	Of      int          `json:"of"`                  // zones of the release
	Records int64        `json:"records"`             // read from zone text so far
	Octets  int64        `json:"octets,omitempty"`    // of zone text done with so far
	OfAll   int64        `json:"of_octets,omitempty"` // octets of all its zones' text
	Began   instant.Wall `json:"began_ns"`
	Seconds float64      `json:"seconds"` // since then
}

// Share is how much is done, 0 to 1, by the octets of text; ok is false for a node that does not say.
func (c *Compiling) Share() (share float64, ok bool) { return shareOf(c.Octets, c.OfAll) }

func shareOf(done, all int64) (share float64, ok bool) {
	if all <= 0 || done < 0 {
		return 0, false
	}
	return min(float64(done)/float64(all), 1), true
}

func (c *Compiling) String() string {
	return fmt.Sprintf("loading release %d: %d of %d zones, %d records, %.0f a second", c.Number, c.Zones, c.Of, c.Records,
		float64(c.Records)/max(c.Seconds, 1e-9))
}

// Progress is how far something is that may take long.
type Progress struct {
	What    string       `json:"what"`         // "receiving", "checking" or "transferring"
	Subject string       `json:"subject"`      // the zone, its file, or the release
	Done    int64        `json:"done"`         // of Unit
	Of      int64        `json:"of,omitempty"` // in all, as far as can be told before the end; 0: it cannot
	Unit    string       `json:"unit"`         // "records" or "bytes"
	Zone    int          `json:"zone,omitempty"`
	OfZones int          `json:"of_zones,omitempty"` // it is the Zone-th of so many that come one after the other
	Began   instant.Wall `json:"began_ns"`
	Seconds float64      `json:"seconds"` // since then
}

// Share is how much is done, 0 to 1; ok is false if that cannot be told.
func (p *Progress) Share() (share float64, ok bool) { return shareOf(p.Done, p.Of) }

func (p *Progress) String() string {
	s := fmt.Sprintf("%s %s: %d", p.What, p.Subject, p.Done)
	if p.Of > 0 {
		s += fmt.Sprintf(" of %d", p.Of)
	}
	s += fmt.Sprintf(" %s, %.0f a second", p.Unit, float64(p.Done)/max(p.Seconds, 1e-9))
	if p.OfZones > 1 {
		s += fmt.Sprintf(", zone %d of %d", p.Zone, p.OfZones)
	}
	return s
}

// Work is what meshctl serve says of itself on its unix socket.
type Work struct {
	Version  int        `json:"version"`
	Progress []Progress `json:"progress,omitempty"` // of all that it does and that may take long
	Alarms   []Reason   `json:"alarms,omitempty"`   // those that hold
}

// Step is when a node carried out a step of a release, by its own clock.
type Step struct {
	Number uint64       `json:"number"`
	Began  instant.Wall `json:"began_ns"`
	Done   instant.Wall `json:"done_ns"`
	Bytes  int64        `json:"bytes,omitempty"` // that came for it
}

// Switched is the last activation: which release, the instant that was set for it, and how much later than that the
// swap was made, in nanoseconds by the node's own clock (SYNC-E). At is zero for a release that was already due.
type Switched struct {
	Number   uint64        `json:"number"`
	At       instant.Wall  `json:"at_ns,omitempty"`
	Done     instant.Wall  `json:"done_ns"`
	Lateness time.Duration `json:"lateness_ns"`
}

// joinedAfter is how long after the instant a swap is none of the switchover any more: the node took the release later.
const joinedAfter = time.Minute

// Late returns how much later than its instant the switchover to a release was made; ok is false for a node that made none to it: it
// took the release when that was due already, or has just started.
func (s *Switched) Late(number uint64) (late time.Duration, ok bool) {
	if s == nil || s.Number != number || s.At == 0 || s.Done.Sub(s.At) >= joinedAfter {
		return 0, false
	}
	return s.Lateness, true
}

// Refused is a release that the node could not take, and why (SYNC-D).
type Refused struct {
	Number uint64 `json:"number"`
	Reason Reason `json:"reason"`
}

// ClockState is the clock as the one who reports it sees it.
type ClockState struct {
	Known   bool          `json:"known"`
	Bound   time.Duration `json:"bound_ns"`
	Source  string        `json:"source,omitempty"`
	Assumed bool          `json:"assumed,omitempty"` // on the operator's word: never for production
	Reason  string        `json:"reason,omitempty"`  // why it is not known
}

// Depot is how the following of the repository goes.
type Depot struct {
	Lease     int64             `json:"lease"` // version of the newest lease verified
	LastFault *Fault            `json:"last_fault,omitempty"`
	Faults    map[string]uint64 `json:"faults,omitempty"` // by rule
}

// Fault is a file of the depot that was refused.
type Fault struct {
	File   string       `json:"file"`
	Rule   string       `json:"rule"`
	Detail string       `json:"detail"`
	At     instant.Wall `json:"at_ns"`
}

// Confirms is what a node gives its word for (SYNC-D): that Staged is verified, compiled and ready, and that it can make
// the switchover Scheduled, which it holds durably. Zero values confirm nothing.
type Confirms struct {
	Staged    uint64 `json:"staged,omitempty"`
	Scheduled *Ref   `json:"scheduled,omitempty"`
}

// Confirmation is what the sidecar hands to the distribution host at /v1/confirmations: the node's word, with what the
// distribution host needs to judge it.
type Confirmation struct {
	Version      int           `json:"version"`
	Node         string        `json:"node"`
	Mesh         string        `json:"mesh"`
	At           instant.Wall  `json:"at_ns"`
	Confirms     Confirms      `json:"confirms"`
	Serving      uint64        `json:"serving"`
	Silent       []Reason      `json:"silent,omitempty"`
	Warnings     []Reason      `json:"warnings,omitempty"`
	Switched     *Switched     `json:"switched,omitempty"`
	Compiling    *Compiling    `json:"compiling,omitempty"`
	Transferring *Progress     `json:"transferring,omitempty"` // the zones of a release that are coming
	Mirrored     *Step         `json:"mirrored,omitempty"`     // the release whose zones came last
	Compiled     *Step         `json:"compiled,omitempty"`     // the release that was made ready last
	Floor        uint64        `json:"floor"`
	Clock        ClockState    `json:"clock"`
	Leap         bool          `json:"leap,omitempty"`          // the clock's source expects a leap second at the end of this month
	Promise      Promise       `json:"promise,omitzero"`        // of the switchover that is durable here, confirmed or not
	Holds        *Ref          `json:"holds,omitempty"`         // the same, for distribution hosts of the version before
	Lease        int64         `json:"lease,omitempty"`         // version of the newest lease verified
	Hears        time.Duration `json:"hears_ns,omitempty"`      // the longest that the node took lately to hear of what is published
	Format       int           `json:"format,omitempty"`        // the newest format of manifests that the node reads; 0 is 1
	MirrorFormat int           `json:"mirror_format,omitempty"` // the newest that its sidecar reads; 0 is 2 at most
	Drained      bool          `json:"drained,omitempty"`       // an operator took it out of service, and its route is withdrawn
	LeaseExpires instant.Wall  `json:"lease_expires_ns,omitempty"`
	Refused      []Refused     `json:"refused,omitempty"`
	LastFault    *Fault        `json:"last_fault,omitempty"`
	MirrorError  string        `json:"mirror_error,omitempty"` // why the repository cannot be fetched
	Software     string        `json:"software"`
	ConfigDigest string        `json:"config_digest"`
	Announced    bool          `json:"announced"`           // a router has been told of the route, in a session that is up
	Wanted       bool          `json:"wanted"`              // it is to be announced
	Untold       time.Duration `json:"untold_ns,omitempty"` // for how long it is to be announced and no router has been told
	Remains      bool          `json:"remains"`             // others may count on it: announced, known to a router, good, and not about to go (FAIL-4)
	Why          []Reason      `json:"why,omitempty"`       // why the route is as it is
	Sessions     []Session     `json:"sessions,omitempty"`  // to whom it is really announced, by BGP
	IGP          *IGP          `json:"igp,omitempty"`       // and by an IGP
}

// Remaining is what a distribution host says at /v1/remaining: the members that remain by their own word, each of which was
// asked for it after the request had come.
type Remaining struct {
	Version int      `json:"version"`
	Members []string `json:"members"`
}

// ConfirmationOf copies what the distribution host needs from what the node said of itself.
func ConfirmationOf(n Node) Confirmation {
	var holds *Ref
	if n.Promise.Number != 0 {
		ref := n.Promise.Ref()
		holds = &ref
	}
	return Confirmation{Version: Version, Node: n.Node, Mesh: n.Mesh, At: n.At, Confirms: n.Confirms, Serving: n.Serving,
		Silent: n.Silent, Warnings: n.Warnings, Switched: n.Switched, Compiling: n.Compiling,
		Compiled: n.Compiled, Floor: n.Floor, Clock: n.Clock,
		Promise: n.Promise, Holds: holds, Lease: n.Depot.Lease, LeaseExpires: n.LeaseExpires, Format: n.Format,
		Refused: n.Refused, LastFault: n.Depot.LastFault, Software: n.Software, ConfigDigest: n.ConfigDigest}
}

// Clock is what the sidecar says of the clock on its unix socket. The sample ages by itself at the reader; State and
// Reason are for people.
type Clock struct {
	Version int            `json:"version"`
	State   string         `json:"state"` // "synchronised", "holdover" or "unknown"
	Reason  string         `json:"reason,omitempty"`
	Bound   time.Duration  `json:"bound_ns,omitempty"`   // how wrong the clock may be now
	Sample  instant.Sample `json:"sample"`               // the last certified one; its Source is empty when there is none to trust
	Silence *Silence       `json:"silence,omitempty"`    // nil: the sidecar does not know, and what it said before holds
	Members []Held         `json:"members,omitempty"`    // what other members hold of a switchover, as they last said
	Reached instant.Mono   `json:"reached_ns,omitempty"` // when a distribution host or another member was last reached, by this machine's clock
}

// ClockHoldover is the code of a warning in a Confirmation: the node's clock is certified no more, or not steadily yet. It answers on,
// while its error bound grows.
const ClockHoldover = "clock-holdover"

// Codes of warnings in a Confirmation, of what ends a node that answers at its next start, or when it next has to write.
const (
	CorefileRefused = "corefile-refused" // the Corefile on disk was refused, and the one before it runs
	StateUnwritable = "state-unwritable" // nothing can be written in a state directory
)

// Implausible is the code of a warning that a distribution host adds to a Confirmation: the member says of itself what cannot be.
const Implausible = "implausible"

// Held is what a member holds of a switchover that was proposed, at /v1/promise of its administrative plane.
type Held struct {
	Version int     `json:"version"`
	Node    string  `json:"node"`
	Lease   int64   `json:"lease"` // version of the newest lease verified
	Promise Promise `json:"promise,omitzero"`
}

// Silence is whether an operator wants meshsync to cease to answer (Drain). It holds until the sidecar says otherwise.
type Silence struct {
	On  bool   `json:"on"`
	Why string `json:"why,omitempty"`
}

// Drain is why a node is out of service though nothing is wrong with it.
type Drain struct {
	Who     string    `json:"who"`
	Why     string    `json:"why,omitempty"`
	Since   time.Time `json:"since"`
	Silence bool      `json:"silence,omitempty"` // meshsync ceases to answer once the route is withdrawn
}

func (d Drain) String() string {
	s := "by " + d.Who + " since " + d.Since.UTC().Format(time.RFC3339)
	if d.Why != "" {
		s += ": " + d.Why
	}
	return s
}

// DrainOrder asks for a drain at /v1/drain.
type DrainOrder struct {
	Wait    string `json:"wait,omitempty"` // a duration as in "60s": how long the route stays; "": as configured
	Silence bool   `json:"silence,omitempty"`
	Who     string `json:"who,omitempty"` // over mutual TLS it is the name in the certificate instead, but for a distribution host's
	Why     string `json:"why,omitempty"`
}

// Drained is how a drain goes, at /v1/drain.
type Drained struct {
	Version   int      `json:"version"`
	Node      string   `json:"node"`
	Drain     *Drain   `json:"drain,omitempty"` // nil: the node is not drained
	Announced bool     `json:"announced"`       // a withdrawal that the routing did not take yet counts as announced
	Why       []Reason `json:"why"`             // why the route is as it is
	Silent    bool     `json:"silent"`          // meshsync says that it is silent
	Warning   string   `json:"warning,omitempty"`
	Alone     string   `json:"alone,omitempty"` // in the answer to an order: that no other member is in service, or that nobody knows

	LeftSeconds float64 `json:"left_seconds,omitempty"` // until the route is withdrawn
}

// Sidecar is what the sidecar says of itself at /v1/status.
type Sidecar struct {
	Version   int        `json:"version"`
	Node      string     `json:"node"`
	Software  string     `json:"software"`
	Announced bool       `json:"announced"` // a router has been told of the route, in a session that is up
	Wanted    bool       `json:"wanted"`    // it is to be announced
	Why       []Reason   `json:"why"`
	Warnings  []Reason   `json:"warnings,omitempty"` // of the machine it runs on
	Since     time.Time  `json:"since"`
	Fault     string     `json:"fault,omitempty"` // why the routes are not as decided
	Drain     *Drain     `json:"drain,omitempty"`
	Clock     Clock      `json:"clock"`
	Probes    []Probe    `json:"probes,omitempty"`
	Sessions  []Session  `json:"sessions,omitempty"`
	IGP       *IGP       `json:"igp,omitempty"`
	Mirror    *Mirroring `json:"mirror,omitempty"`
	Meshsync  *Node      `json:"meshsync,omitempty"`
}

// Probe is one question asked of one shared address over one transport.
type Probe struct {
	Address string        `json:"address"`
	Network string        `json:"network"` // "udp" or "tcp"
	Zone    string        `json:"zone"`
	Up      bool          `json:"up"`
	Reason  string        `json:"reason,omitempty"`
	Latency time.Duration `json:"latency_ns"`
}

// Session is one BGP neighbour and what is announced to it.
type Session struct {
	Neighbor  string   `json:"neighbor"`
	State     string   `json:"state"`
	BFD       string   `json:"bfd,omitempty"` // empty without BFD
	Announced []string `json:"announced,omitempty"`
	Down      Reason   `json:"down,omitzero"` // why it is not established

	// KeptSeconds is how long the router keeps what it was told when the session ends without a word (RFC 4724); 0: not at all.
	KeptSeconds int `json:"kept_seconds,omitempty"`

	// Of NOTIFICATION messages (RFC 4271 4.5), since the start of the sidecar:
	NotificationsSent     uint64 `json:"notifications_sent,omitempty"`
	NotificationsReceived uint64 `json:"notifications_received,omitempty"`
}

// IGP is which addresses are up for the local OSPF or IS-IS daemon to advertise.
type IGP struct {
	Interface string   `json:"interface"`
	Announced []string `json:"announced,omitempty"`
}

// Mirroring is how the mirror of the repository goes.
type Mirroring struct {
	URL       string    `json:"url"`
	LastGood  time.Time `json:"last_good"`
	LastError string    `json:"last_error,omitempty"`
	Mirrored  *Step     `json:"mirrored,omitempty"` // the release whose zones came last

	Repositories []Repository `json:"repositories,omitempty"` // all that are followed, as configured

	Transferring *Progress `json:"transferring,omitempty"` // the zones of a release that are coming

	// Since the start of the sidecar:
	Deltas       int64 `json:"deltas,omitempty"`        // zones that were made of a delta, or of packs
	DeltasFailed int64 `json:"deltas_failed,omitempty"` // deltas that were of no use
	Wholes       int64 `json:"wholes,omitempty"`        // zones that were fetched whole
	ZoneBytes    int64 `json:"zone_bytes,omitempty"`    // of both
}

// Repository is one that a mirror follows.
type Repository struct {
	URL       string    `json:"url"`
	State     string    `json:"state"` // "unseen", "good", "behind", "slow" or "unusable"
	Detail    string    `json:"detail,omitempty"`
	Timestamp int64     `json:"timestamp"` // version of the timestamp that was last verified
	LastGood  time.Time `json:"last_good,omitzero"`
	Held      bool      `json:"held,omitempty"` // it holds a request of this node until there is something new: else it is polled
}

// Decode reads one document into v, which is a pointer to one of this package's types.
func Decode(data []byte, v any) error {
	if len(data) > MaxBytes {
		return fmt.Errorf("status of %d bytes: at most %d", len(data), MaxBytes)
	}
	var head struct {
		Version *int `json:"version"`
	}
	if err := json.Unmarshal(data, &head); err != nil {
		return fmt.Errorf("status is not JSON: %w", err)
	}
	if head.Version == nil {
		return errors.New("status carries no version")
	}
	if *head.Version != Version {
		return fmt.Errorf("status of version %d: this program speaks %d; upgrade the older one", *head.Version, Version)
	}
	return json.Unmarshal(data, v)
}
