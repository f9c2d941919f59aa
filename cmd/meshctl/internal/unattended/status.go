package unattended

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/home"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/switchover"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
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
	Alarms       []status.Reason   `json:"alarms,omitempty"`
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
	Number     uint64        `json:"number"`
	Switchover time.Time     `json:"switchover,omitzero"`
	Committed  bool          `json:"committed,omitempty"` // of the next release: its switchover is made; otherwise it is proposed only
	Without    []string      `json:"without,omitempty"`   // members that it does not wait for
	Zones      []status.Zone `json:"zones"`
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
	Confirmation *status.Confirmation `json:"confirmation,omitempty"`
}

// StatusOf asks all members and sums up; view is what state publishes.
func StatusOf(ctx context.Context, state home.State, view release.View, ask switchover.Ask, now time.Time) Status {
	m := view.Manifest
	s := Status{
		Mesh: m.Mesh, At: now.UTC(), EpsilonMS: m.EpsilonMS,
		Current: releaseStatus(m.Current), Next: releaseStatus(m.Next),
		LeaseExpires: view.LeaseExpires, LeaseSeconds: int64(view.LeaseExpires.Sub(now) / time.Second),
		RoleExpires: RoleExpires{Root: view.Expires.Root, Targets: view.Expires.Targets, Snapshot: view.Expires.Snapshot},
		Members:     []MemberStatus{}, Paused: state.Paused,
	}
	answers := ask(ctx, m.Members)
	for _, member := range m.Members {
		ms := MemberStatus{Name: member.Name, Admin: member.Admin}
		if a := answers[member.Name]; a.Err != nil {
			ms.Error = a.Err.Error()
		} else {
			ms.Confirmation = &a.Confirmation
		}
		s.Members = append(s.Members, ms)
	}
	s.Drift = driftOf(s.Members)
	s.Alarms = Alarms(view, state.Lease(), CycleState{}, now)
	return s
}

func releaseStatus(r *release.Release) *ReleaseStatus {
	if r == nil {
		return nil
	}
	s := &ReleaseStatus{Number: r.Number, Switchover: r.Switchover, Committed: r.Committed, Without: r.Without, Zones: []status.Zone{}}
	for _, z := range r.Zones {
		s.Zones = append(s.Zones, status.Zone{Origin: z.Origin, Serial: z.Serial})
	}
	return s
}
