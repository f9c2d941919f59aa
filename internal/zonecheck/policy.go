package zonecheck

import (
	"math"
	"net/netip"
	"time"

	"github.com/miekg/dns"
)

// Mode says what is demanded of something that a zone may have.
type Mode uint8

const (
	Verify  Mode = iota // if it is there it must be right, and it must not vanish
	Require             // it must be there and right
	Ignore
)

// Level says how a rule that an operator may set aside is reported.
type Level uint8

const (
	Fault Level = iota // an error
	Warn
	Off
)

// Hold says what is held back when a zone has an error.
type Hold uint8

const (
	HoldRelease Hold = iota // nothing is published
	HoldZone                // the release goes out with the zone's last good data
)

// Policy is what is demanded of one zone.
type Policy struct {
	ZONEMD  Mode
	DNSSEC  Mode
	Anchors []dns.RR      // DS and DNSKEY records that the zone's keys must descend from; none: not checked
	Margin  time.Duration // how long signatures must outlast a lease

	Removed, Added, Changed Limit // of names
	Withdrawn               Limit // of zones; only of the policy for all

	MinTTL, MaxTTL time.Duration // of every RRset

	Rules map[string]Level // of rules of Rules that are reported otherwise than by default

	Meshes  []Mesh // meshes that servers may be in; none: ROUTE-4 and ROUTE-5 are not checked
	Outside Level  // ROUTE-4: at least one server is in no mesh
	OneMesh Level  // ROUTE-5: not all servers are in the same mesh

	Command []string      // a program that checks the zone too; none if empty
	Timeout time.Duration // of Command
	Hold    Hold

	File   string // where it is said, or would be, to be named where something is refused; empty: unknown
	NoFile bool   // File is not there: all are defaults
	within string // the key of File that it is in: "checks", or that of a zone
}

// Limit bounds how many names, or zones, may change from one release to the next. A zero Most or Percent is no bound.
type Limit struct {
	Most    int
	Percent int // of those before
	Few     int // so many are within every percentage: a small zone that grows is no mistake
}

// Mesh is a set of nodes that share addresses, this project's or another's, as its servers are known to a zone.
type Mesh struct {
	Name      string
	Names     []string     // names of servers, lower-case and fully qualified
	Addresses []netip.Addr // shared-unicast addresses
}

// DefaultPolicy holds where nothing else is said.
func DefaultPolicy() Policy {
	return Policy{
		Margin:  time.Hour,
		Removed: Limit{Percent: 10, Few: 20}, Added: Limit{Percent: 30, Few: 1000}, Changed: Limit{Percent: 30, Few: 100},
		Withdrawn: Limit{Percent: 10, Few: 1},
		MaxTTL:    math.MaxInt32 * time.Second,
		Timeout:   time.Minute,
		Hold:      HoldZone,
		within:    "checks",
	}
}
