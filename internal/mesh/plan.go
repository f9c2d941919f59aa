package mesh

import (
	"fmt"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/instant"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
)

// Mode is how the switchover's instant is made safe.
type Mode string

const (
	// Confirmed needs every member's word that it has the release, and then that it holds the instant. Safe against
	// any single fault in between.
	Confirmed Mode = "confirmed"
	// Lease waits until every lease that does not name the switchover has ended: safe whatever fails, and late.
	Lease Mode = "lease"
)

// DefaultLead is the time between setting a switchover and the switchover, in mode Confirmed.
const DefaultLead = 10 * time.Second

// Plan is what the distribution host knows when it sets, or reviews, the switchover to release Number (SYNC-E).
type Plan struct {
	Mode    Mode
	Number  uint64
	Mesh    string
	Members []string                       // all that must switch
	Said    map[string]status.Confirmation // by member; one that is missing did not answer
	Promise instant.Wall                   // E*: the latest end of any lease ever signed that does not name this switchover
	Epsilon time.Duration                  // ε: the clock error that members must keep
	Lead    time.Duration                  // from now to the switchover in mode Confirmed; 0: DefaultLead
	Asked   instant.Wall                   // the instant that the operator asks for; 0: as soon as it is safe
	Apart   map[string]time.Duration       // by member: how far its clock and this host's are apart at the least

	Set        instant.Wall // the switchover to Number that is published already; 0: none
	PromiseSet instant.Wall // E* for it: the latest end of any lease that does not name Set
}

// Missing is a member that does not have what the step needs, and why.
type Missing struct {
	Member string        `json:"member"`
	Why    status.Reason `json:"why"`
}

func (m Missing) String() string { return m.Member + ": " + m.Why.String() }

// Safe is the earliest switchover that is safe whatever else happens: every node that has not heard of it has lapsed,
// by its own clock, before any other switches by its own.
func (p Plan) Safe() instant.Wall { return p.Promise.Add(2 * p.Epsilon) }

// Choose gives the switchover's instant, and what speaks against it: members that lack the release, or an instant
// asked for that is too early. Whoever sets it against that takes the risk on himself (meshctl schedule --force). If it
// gives Set, that stays in force; it is then for Review to say whether it stands, and what speaks against another
// instant cannot be forced.
func (p Plan) Choose(now instant.Wall) (at instant.Wall, against []Missing) {
	earliest := now.Add(p.lead())
	if p.Mode == Lease {
		earliest = max(earliest, p.Safe())
	}
	switch asked := p.Asked != 0 && p.Asked != p.Set; {
	case p.fixed(now) && asked:
		return p.Set, []Missing{againstInstant("too-late", "%v was asked for, but members switch at %v and may not hear of another instant before", p.Asked, p.Set)}
	case p.fixed(now) || p.keeps(earliest) && !asked:
		return p.Set, nil
	}
	against = p.missing(p.lacksRelease)
	at = earliest
	if p.Asked != 0 {
		at = p.Asked
		if at < earliest {
			against = append(against, againstInstant("too-early", "%v was asked for, %v is the earliest that is safe in mode %s", p.Asked, earliest, p.Mode))
		}
	}
	return at, append(against, p.leaping(at)...)
}

// Leap seconds come at the end of a UTC month. While one is smeared or waits to be told apart, two clocks that are both
// right may differ by a second.
const leapMargin = time.Hour

// leaping are the members that expect a leap second near an instant.
func (p Plan) leaping(at instant.Wall) []Missing {
	t := at.Time().UTC()
	before := time.Date(t.Year(), t.Month(), 1, 0, 0, 0, 0, time.UTC)
	after := before.AddDate(0, 1, 0)
	if t.Sub(before) > leapMargin && after.Sub(t) > leapMargin {
		return nil
	}
	var all []Missing
	for _, m := range p.Members {
		if p.Said[m].Leap {
			all = append(all, Missing{m, status.Reason{Code: LeapSecond, Detail: fmt.Sprintf("its clock expects a leap second within %v of %v", leapMargin, at)}})
		}
	}
	return all
}

// Cancel reports whether the switchover that is set can be taken back at now: as long as another could be set.
func (p Plan) Cancel(now instant.Wall) bool { return p.Set != 0 && !p.fixed(now) }

// Holding names the members that may still switch at the instant set: those that hold it, or did not answer.
func (p Plan) Holding() []Missing {
	held := status.Ref{Number: p.Number, At: p.Set}
	return p.missing(func(c status.Confirmation) *status.Reason {
		if c.Holds == nil || *c.Holds != held {
			return nil
		}
		return &status.Reason{Code: "holds", Detail: fmt.Sprintf("it has not heard that the switchover at %v is taken back", p.Set)}
	})
}

// Codes of what speaks against a switchover, beside those of a node that is silent.
const (
	LeapSecond   = "leap-second"   // a member's clock expects one near the instant
	ClockDiffers = "clock-differs" // a member's clock and this host's cannot both be right
)

// fixed reports whether the switchover that is set cannot be moved any more: it has passed for some, or will have before
// all can have heard of another. Whoever has switched could only be silent until then.
func (p Plan) fixed(now instant.Wall) bool {
	return p.Set != 0 && now >= p.Set.Add(-max(p.lead(), DefaultLead)/2)
}

// keeps reports whether nothing is won by moving the switchover that is set: it is as early as any, and as safe.
func (p Plan) keeps(earliest instant.Wall) bool {
	safe := p.Mode != Lease || p.Set >= p.PromiseSet.Add(2*p.Epsilon)
	return p.Set != 0 && p.Set <= earliest && safe
}

// againstInstant is what speaks against an instant itself.
func againstInstant(code, format string, args ...any) Missing {
	return Missing{Member: "switchover", Why: status.Reason{Code: code, Detail: fmt.Sprintf(format, args...)}}
}

// Review says, from what members said after the switchover at was published, whether it may stand. If not, postponed
// is the instant to publish instead, and missing names the members that did not confirm it. Mode Lease needs nobody's
// word. A review that comes too late lets it stand: members that confirmed would switch before they hear of another
// instant, and then be silent until it; the missing may go on with the old release until their lease ends.
func (p Plan) Review(at, now instant.Wall) (stands bool, postponed instant.Wall, missing []Missing) {
	missing = p.missing(func(c status.Confirmation) *status.Reason { return p.lacksSchedule(c, at) })
	if len(missing) == 0 || p.Mode == Lease || now >= p.TooLate(at) {
		return true, at, missing
	}
	return false, max(p.Safe(), now.Add(p.lead())), missing
}

// Deadline is when every member must have confirmed the switchover at: half the lead before it.
func (p Plan) Deadline(at instant.Wall) instant.Wall { return at.Add(-p.lead() / 2) }

// TooLate is when the switchover at cannot be put off any more: another instant may not be heard of before it.
func (p Plan) TooLate(at instant.Wall) instant.Wall { return at.Add(-p.lead() / 4) }

// Grace is how long members may take to answer a question asked at the deadline, or after it.
func (p Plan) Grace() time.Duration { return p.lead() / 8 }

// minLead is the shortest lead, in ε: this host and a member may be apart by two, and half of the lead must be left for
// both the switchover and its postponement to be heard of.
const minLead = 8

func (p Plan) lead() time.Duration {
	lead := p.Lead
	if lead <= 0 {
		lead = DefaultLead
	}
	return max(lead, minLead*p.Epsilon)
}

func (p Plan) missing(lacks func(status.Confirmation) *status.Reason) []Missing {
	var missing []Missing
	for _, m := range p.Members {
		said, ok := p.Said[m]
		why := &status.Reason{Code: "unreachable", Detail: "it gave no answer"}
		if ok {
			why = lacks(said)
		}
		if why != nil {
			missing = append(missing, Missing{Member: m, Why: *why})
		}
	}
	return missing
}

// lacksRelease is why the member cannot be relied on to switch: nil if it can.
func (p Plan) lacksRelease(c status.Confirmation) *status.Reason {
	if c.Mesh != p.Mesh {
		return &status.Reason{Code: "wrong-mesh", Detail: fmt.Sprintf("it follows mesh %q", c.Mesh)}
	}
	if c.Confirms.Staged != p.Number {
		return p.unstaged(c)
	}
	if !c.Clock.Known {
		return &status.Reason{Code: ClockUnknown, Detail: c.Clock.Reason}
	}
	if apart := p.Apart[c.Node]; apart > 2*p.Epsilon {
		return &status.Reason{Code: ClockDiffers, Detail: fmt.Sprintf("its clock and this host's are %v apart, more than 2 × %v: see to the one that is wrong", apart, p.Epsilon)}
	}
	if c.Clock.Bound > p.Epsilon {
		return &status.Reason{Code: NearSwitchover, Detail: fmt.Sprintf("its clock may be wrong by %v, more than %v", c.Clock.Bound, p.Epsilon)}
	}
	return nil
}

// unstaged is why a member has not staged the release, as far as it knows: what meshsync refused, and what kept the
// sidecar from fetching it.
func (p Plan) unstaged(c status.Confirmation) *status.Reason {
	why := status.Reason{Code: NotReady, Detail: fmt.Sprintf("it has release %d staged, not %d", c.Confirms.Staged, p.Number)}
	for _, r := range c.Refused {
		if r.Number == p.Number {
			why = r.Reason
		}
	}
	if c.MirrorError != "" {
		why.Detail += "; its mirror: " + c.MirrorError
	}
	return &why
}

// lacksSchedule is why the member may not switch at the instant set: nil if it gave its word.
func (p Plan) lacksSchedule(c status.Confirmation, at instant.Wall) *status.Reason {
	want := status.Ref{Number: p.Number, At: at}
	if c.Confirms.Scheduled != nil && *c.Confirms.Scheduled == want {
		return nil
	}
	if why := p.lacksRelease(c); why != nil {
		return why
	}
	return &status.Reason{Code: "unconfirmed", Detail: fmt.Sprintf("it has not confirmed the switchover to release %d at %v", p.Number, at)}
}
