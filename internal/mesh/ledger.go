package mesh

import (
	"reflect"
	"slices"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/instant"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
)

// State is what the distribution hosts of a mesh share, as far as the protocol needs it: what is published, and what must
// not be forgotten. It is replaced as a whole, on condition that it is the one that was read.
type State struct {
	Mesh    string
	Version int64        // of the lease in force; grows by one with each that is signed
	Expires instant.Wall // the end of that lease
	Limit   instant.Wall // no lease may go beyond: the end of the roles' keys' word; 0: none
	Epsilon time.Duration
	Members []string
	Current Release
	Next    Switchover
	Ledger
}

// Release is a release that is answered from. Number 0: none.
type Release struct {
	status.Ref
	Signed instant.Wall // the first end of a signature in its zones; 0: none
}

// Switchover is the release that is staged, Number 0 for none, and the switchover to it, At 0 for none.
type Switchover struct {
	status.Ref
	Signed    instant.Wall // as in Release
	Decide    instant.Wall // when members that know of no commit begin to ask each other
	Committed bool
	Presumed  bool     // the commit is to count as taken: members find it void no more (Host.presumed)
	Without   []string // members that are not waited for, sorted
}

// Ledger is what the hosts must not forget beside what is published.
type Ledger struct {
	Highest uint64       `json:"highest"`           // highest release number ever published: never used again
	At      instant.Wall `json:"at_ns,omitempty"`   // when the state was last replaced, by the clock of who did
	Leases  []Lease      `json:"leases,omitempty"`  // that may be alive somewhere
	Away    []Away       `json:"away,omitempty"`    // members that gave no answer, by name
	Leaving []Leaving    `json:"leaving,omitempty"` // members that were removed and may not know it, by name
	Paused  string       `json:"paused,omitempty"`  // why no switchover is proposed until an operator says so; empty: they are
}

// Lease is the latest end of all leases that were signed under one schedule. It is on record before such a lease leaves.
type Lease struct {
	Number  uint64       `json:"number"`          // the next release that they name; 0 for none
	At      instant.Wall `json:"at_ns,omitempty"` // its switchover; 0 for none
	Expires instant.Wall `json:"expires_ns"`
}

// Leaving is a member that was removed. It is waited for like one that is away, until it says that it knows.
type Leaving struct {
	Member string       `json:"member"`
	Lease  int64        `json:"lease"` // the first that leaves it out: an older one may be from before it was a member
	Since  instant.Wall `json:"since_ns"`
	Lapses instant.Wall `json:"lapses_ns"` // by then it answers no more, whatever it has heard
}

// Away is a member that no host has heard from, and since when.
type Away struct {
	Member  string       `json:"member"`
	Since   instant.Wall `json:"since_ns"`
	Drained bool         `json:"drained,omitempty"` // out of service when it was last heard from: nobody waits for it
}

// keepLeases is how long after its end a lease is still on record, in case a host's clock was ahead.
const keepLeases = 24 * time.Hour

// LapsedBy is E*: from then on no member answers from a release before the switchover, whatever it has heard or not, but for
// members that know of the switchover. A lease under an earlier one lasts to its end: a member that has it, and found that
// switchover void, answers from the release before until then.
func (s State) LapsedBy(ref status.Ref) instant.Wall {
	var end instant.Wall
	for _, l := range s.Leases {
		if l.Number == ref.Number && l.At == ref.At && ref.At != 0 {
			continue
		}
		end = max(end, l.Expires)
	}
	return end
}

// Granted is s with a new lease of length d, which is on record.
func (s State) Granted(now instant.Wall, d time.Duration) State {
	s.Version++
	s.Expires = s.capped(now, now.Add(d))
	return s.Recorded(now)
}

// Recorded is s with the lease in force on record.
func (s State) Recorded(now instant.Wall) State {
	s.Ledger = s.Owed(Lease{Number: s.Next.Number, At: s.Next.At, Expires: s.Expires}, now)
	return s.stamped(now)
}

// Owed is l with a lease that may be alive.
func (l Ledger) Owed(made Lease, now instant.Wall) Ledger {
	var kept []Lease
	for _, old := range l.Leases {
		switch {
		case old.Number == made.Number && old.At == made.At:
			made.Expires = max(made.Expires, old.Expires)
		case old.Expires.Add(keepLeases) >= now:
			kept = append(kept, old)
		}
	}
	l.Leases = append(kept, made)
	return l
}

func (s State) stamped(now instant.Wall) State {
	s.At = max(s.At, now)
	s.Highest = max(s.Highest, s.Current.Number, s.Next.Number)
	return s
}

// capped ends a lease with whatever it leans on. Signatures that have ended already do not keep a release from members
// that brings new ones.
func (s State) capped(now, end instant.Wall) instant.Wall {
	if s.Limit != 0 {
		end = min(end, s.Limit)
	}
	if s.Current.Signed != 0 && !(s.Next.Number != 0 && s.Current.Signed <= now) {
		end = min(end, s.Current.Signed)
	}
	if s.Next.Signed != 0 {
		end = min(end, s.Next.Signed)
	}
	return end
}

// away reports whether it is on record that a member is away.
func (s State) away(member string) bool {
	return slices.ContainsFunc(s.Away, func(a Away) bool { return a.Member == member })
}

// withdrawn is s without a switchover. The release stays staged.
func (s State) withdrawn() State {
	s.Next.At, s.Next.Decide, s.Next.Committed, s.Next.Presumed, s.Next.Without = 0, 0, false, false, nil
	return s
}

// OnlyRenewed reports whether nothing has changed since another state was in force but the lease, and who is known to be away: what was decided on
// that one can be decided anew by what members said.
func (s State) OnlyRenewed(since State) bool {
	since.Version, since.Expires, since.At, since.Leases, since.Away = s.Version, s.Expires, s.At, s.Leases, s.Away
	return reflect.DeepEqual(since, s)
}

// unused is the first instant from at on, in whole microseconds, that no switchover to a release was ever proposed for: what
// members say of an earlier proposal must not be taken for a word about this one.
func (s State) unused(number uint64, at instant.Wall) instant.Wall {
	const step = instant.Wall(time.Microsecond)
	at = wholeMicros(at + step - 1)
	for slices.ContainsFunc(s.Leases, func(l Lease) bool { return l.Number == number && l.At == at }) {
		at += step
	}
	return at
}

// wholeMicros is w in whole microseconds, as a manifest tells instants, and never later.
func wholeMicros(w instant.Wall) instant.Wall {
	return w / instant.Wall(time.Microsecond) * instant.Wall(time.Microsecond)
}
