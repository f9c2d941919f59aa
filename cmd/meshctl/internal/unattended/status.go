package unattended

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/home"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/switchover"
	codes "github.com/coredns-anycast/coredns-anycast/internal/gate"
	"github.com/coredns-anycast/coredns-anycast/internal/instant"
	"github.com/coredns-anycast/coredns-anycast/internal/mesh"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
	"github.com/coredns-anycast/coredns-anycast/internal/remedy"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
	"github.com/coredns-anycast/coredns-anycast/internal/sysclock"
)

// Status is the state of a mesh as the distribution host sees it; "meshctl status --json" prints it.
type Status struct {
	Mesh         string            `json:"mesh"`
	At           time.Time         `json:"at"`
	EpsilonMS    int               `json:"epsilon_ms"`
	Current      *ReleaseStatus    `json:"current,omitempty"`
	Next         *ReleaseStatus    `json:"next,omitempty"`
	LeaseExpires time.Time         `json:"lease_expires"`
	LeaseSeconds int64             `json:"lease_seconds_left"` // negative once it has ended
	RoleExpires  RoleExpires       `json:"role_expires"`
	Paused       string            `json:"paused,omitempty"` // why no switchover is proposed until an operator says so
	Work         []status.Progress `json:"work,omitempty"`   // of meshctl serve on this home: what takes long, and how far it is
	Members      []MemberStatus    `json:"members"`
	Drift        []Drift           `json:"drift,omitempty"`
	Alarms       []Alarm           `json:"alarms,omitempty"`
	Remedies     map[string]string `json:"remedies,omitempty"` // what to do about each code that members say, by code
	Unjudged     string            `json:"unjudged,omitempty"` // what checks do not judge for want of configuration
}

// Drift is something that ought to be the same on all members and is not (DRIFT-1).
type Drift struct {
	What   string              `json:"what"`    // "software" or "configuration"
	Values map[string][]string `json:"members"` // the members that have each value
}

// driftOf compares what the members said of themselves.
func driftOf(members []MemberStatus) (all []Drift) {
	for what, value := range map[string]func(*status.Confirmation) string{
		"software":      func(c *status.Confirmation) string { return c.Software },
		"configuration": func(c *status.Confirmation) string { return c.ConfigDigest },
	} {
		d := Drift{what, map[string][]string{}}
		for _, m := range members {
			if m.Confirmation != nil {
				v := value(m.Confirmation)
				d.Values[v] = append(d.Values[v], m.Name)
			}
		}
		if len(d.Values) > 1 {
			all = append(all, d)
		}
	}
	slices.SortFunc(all, func(a, b Drift) int { return strings.Compare(a.What, b.What) })
	return all
}

// ReleaseStatus is one release.
type ReleaseStatus struct {
	Number     uint64    `json:"number"`
	Switchover time.Time `json:"switchover,omitzero"`
	Committed  bool      `json:"committed,omitempty"` // of the next release: its switchover is made; otherwise it is proposed only
	Without    []string  `json:"without,omitempty"`   // members that it does not wait for
	Zones      Zones     `json:"zones"`
}

// Zones are those of a release. It may have a hundred thousand, so they are listed only where they are printed as JSON: the page, which shows how many
// there are, is made each second.
type Zones struct {
	of     *release.Release // nil: they are in listed
	listed []status.Zone
}

// ZonesOf are those of a release.
func ZonesOf(r *release.Release) Zones { return Zones{of: r} }

// Len is how many there are.
func (z Zones) Len() int { return z.of.Len() + len(z.listed) }

// MarshalJSON writes a list of status.Zone.
func (z Zones) MarshalJSON() ([]byte, error) {
	all := append(make([]status.Zone, 0, z.Len()), z.listed...)
	if z.of != nil {
		for one := range z.of.All() {
			all = append(all, status.Zone{Origin: one.Origin, Serial: one.Serial})
		}
	}
	return json.Marshal(all)
}

// UnmarshalJSON reads what MarshalJSON wrote.
func (z *Zones) UnmarshalJSON(data []byte) error {
	z.of = nil
	return json.Unmarshal(data, &z.listed)
}

// RoleExpires is when the word of each key ends.
type RoleExpires struct {
	Root     time.Time `json:"root"`
	Targets  time.Time `json:"targets"`
	Snapshot time.Time `json:"snapshot"`
}

// MemberStatus is a member and what it said.
type MemberStatus struct {
	Name         string               `json:"name"`
	Admin        string               `json:"admin"`
	Error        string               `json:"error,omitempty"` // why there is no confirmation
	Announced    bool                 `json:"announced"`       // a router has been told of its route, as it says
	Why          []status.Reason      `json:"why,omitempty"`   // why the route is as it is, of one that confirms nothing
	Confirmation *status.Confirmation `json:"confirmation,omitempty"`
}

// StatusOf asks all members and sums up. work is what "meshctl serve" says on this home, nil if it does not run: it knows what it
// receives, checks and switches; without it, only what the state and the members say is an alarm. removed are members of before, of whose
// routes it asks too.
func StatusOf(ctx context.Context, state home.State, view release.View, removed []release.Member, policy mesh.Policy, work *status.Work, ask switchover.Ask, clock home.Clock) Status {
	m, now := view.Manifest, clock()
	began := instantOf(now)
	answers := ask(ctx, slices.Concat(m.Members, removed))
	routes := removedAlarms(removed, answers)
	s := Status{
		Mesh: m.Mesh, At: now.UTC(), EpsilonMS: m.EpsilonMS,
		Current: releaseStatus(m.Current), Next: releaseStatus(m.Next),
		LeaseExpires: view.LeaseExpires, LeaseSeconds: int64(view.LeaseExpires.Sub(now) / time.Second),
		RoleExpires: RoleExpires{Root: view.Expires.Root, Targets: view.Expires.Targets, Snapshot: view.Expires.Snapshot},
		Members:     []MemberStatus{}, Paused: state.Paused, Remedies: map[string]string{},
	}
	for _, member := range m.Members {
		s.Members = append(s.Members, memberStatus(member, answers[member.Name]))
	}
	s.Drift = driftOf(s.Members)
	alarms := Alarms(view, state.Lease(), CycleState{}, now)
	if work != nil {
		s.Work, alarms = work.Progress, work.Alarms
	} else {
		policy.Lease = state.Lease()
		alarms = append(alarms, switchover.Alarms(home.MeshOf(state, view), policy, answers, began, instantOf(clock()))...)
	}
	alarms = append(alarms, memberAlarms(s.Members, m.Current != nil)...)
	for _, r := range append(alarms, routes...) {
		s.Alarms = append(s.Alarms, AlarmOf(r))
	}
	for _, m := range s.Members {
		for _, r := range m.Reasons() {
			if do := remedy.For(r.Code).Do; do != "" {
				s.Remedies[r.Code] = do
			}
		}
	}
	return s
}

func instantOf(t time.Time) instant.Instant {
	return instant.Instant{Wall: instant.WallOf(t), Mono: sysclock.Now().Mono}
}

func memberStatus(member release.Member, a switchover.Answer) MemberStatus {
	m := MemberStatus{Name: member.Name, Admin: member.Admin, Announced: a.Confirmation.Announced}
	unwell := new(switchover.UnwellError)
	switch {
	case errors.As(a.Err, &unwell):
		m.Error, m.Announced, m.Why = a.Err.Error(), unwell.Said.Announced, unwell.Said.Why
	case a.Err != nil:
		m.Error = a.Err.Error()
	default:
		m.Confirmation = &a.Confirmation
	}
	return m
}

// Reasons are all that a member gives for being as it is, but that its service is good.
func (m MemberStatus) Reasons() []status.Reason {
	all := slices.Clone(m.Why)
	if c := m.Confirmation; c != nil {
		all = slices.Concat(c.Silent, c.Warnings, c.Why)
		for _, r := range c.Refused {
			all = append(all, r.Reason)
		}
		if f := c.LastFault; f != nil && !hasCode(all, f.Rule) {
			all = append(all, status.Reason{Code: f.Rule, Detail: f.File + ": " + f.Detail})
		}
	}
	return slices.DeleteFunc(all, func(r status.Reason) bool { return r.Code == codes.Ready })
}

// memberAlarms are the members that give no word, are silent though nobody wants them to be, mean to answer and do not, whose clock
// nobody certifies, whose machine would not let them go on, or whose route no router knows; released is whether there is anything to answer from.
func memberAlarms(members []MemberStatus, released bool) (all []status.Reason) {
	for _, m := range members {
		switch c := m.Confirmation; {
		case c == nil && m.Why != nil:
			all = append(all, status.Reason{Code: AlarmNoServer, Detail: m.Name + ": " + m.Error})
		case c == nil:
			all = append(all, status.Reason{Code: AlarmUnreachable, Detail: m.Name + ": " + m.Error})
		case c.Serving == 0 && len(c.Silent) > 0 && released && !slices.ContainsFunc(c.Silent, func(r status.Reason) bool { return r.Code == mesh.Drained }):
			all = append(all, status.Reason{Code: AlarmSilent, Detail: m.Name + ": " + c.Silent[0].String()})
		case c.Serving > 0:
			if r, is := unwell(*c); is {
				all = append(all, status.Reason{Code: AlarmUnwell, Detail: m.Name + ": " + r.String()})
			}
		}
		if m.Confirmation == nil {
			continue
		}
		for _, r := range m.Confirmation.Warnings {
			if r.Code == status.ClockHoldover && m.Confirmation.Serving > 0 || slices.Contains(warned, r.Code) {
				all = append(all, status.Reason{Code: r.Code, Detail: m.Name + ": " + r.Detail})
			}
		}
	}
	return append(all, routeAlarms(members)...)
}

// warned are the codes of a member's warnings that are alarms, whatever it answers.
var warned = []string{status.CorefileRefused, status.StateUnwritable, status.Implausible}

// removedAlarms are the members of before that say that a router has their route, and takes their answers out. One that says nothing is as good as
// gone.
func removedAlarms(removed []release.Member, answers map[string]switchover.Answer) (all []status.Reason) {
	for _, m := range removed {
		said := memberStatus(m, answers[m.Name])
		delete(answers, m.Name) // the protocol is the members' matter
		if said.Announced {
			all = append(all, status.Reason{Code: AlarmRemoved, Detail: m.Name + " is no member any more, and " + m.Admin + " says that its route is announced"})
		}
	}
	return all
}

// routeAlarms are the members that mean to be announced, and for long could tell no router; one alarm for all of them if no member that
// answers is announced, since no client reaches the shared address then. A drain that is under way is none.
func routeAlarms(members []MemberStatus) (all []status.Reason) {
	var details []string
	for _, m := range members {
		c := m.Confirmation
		if c == nil || c.Announced || !c.Wanted || c.Untold < untoldPatience || hasCode(c.Why, codes.Draining) {
			continue
		}
		detail, why := m.Name, []string(nil)
		for _, s := range c.Sessions {
			why = append(why, s.Neighbor+" is "+cmp.Or(s.Down.Code, s.State))
		}
		if why != nil {
			detail += " (" + strings.Join(why, ", ") + ")"
		}
		details = append(details, detail)
		all = append(all, status.Reason{Code: AlarmUnrouted, Detail: "no router has been told of the route of " + detail})
	}
	if len(all) == 0 || slices.ContainsFunc(members, func(m MemberStatus) bool { return m.Announced }) {
		return all
	}
	return []status.Reason{{Code: AlarmNoRoute, Detail: "no member that answers is announced, and no router has been told of the route of " + strings.Join(details, "; ")}}
}

func hasCode(all []status.Reason, code string) bool {
	return slices.ContainsFunc(all, func(r status.Reason) bool { return r.Code == code })
}

// unwell is what a member's probe found in the rounds for which its gate takes the service for bad, or never took it for good.
func unwell(c status.Confirmation) (status.Reason, bool) {
	judged := []string{codes.NotReady, codes.RouteStays, codes.ProbeDown, codes.MinAnnouncing, codes.OthersUnknown}
	if !slices.ContainsFunc(c.Why, func(r status.Reason) bool { return slices.Contains(judged, r.Code) }) {
		return status.Reason{}, false
	}
	found := []string{codes.ProbeWrong, codes.ProbeHanging, codes.ProbeDead, codes.ProbeDown}
	i := slices.IndexFunc(c.Why, func(r status.Reason) bool { return slices.Contains(found, r.Code) })
	if i < 0 {
		return status.Reason{}, false
	}
	return c.Why[i], true
}

func releaseStatus(r *release.Release) *ReleaseStatus {
	if r == nil {
		return nil
	}
	return &ReleaseStatus{Number: r.Number, Switchover: r.Switchover, Committed: r.Committed, Without: r.Without, Zones: ZonesOf(r)}
}
