package unattended

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/home"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/switchover"
	"github.com/coredns-anycast/coredns-anycast/internal/mesh"
	"github.com/coredns-anycast/coredns-anycast/internal/receive"
	"github.com/coredns-anycast/coredns-anycast/internal/refresh"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
	"github.com/coredns-anycast/coredns-anycast/internal/remedy"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
)

// Codes of alarms: what an operator must see to before nodes fall silent, or zones grow old.
const (
	AlarmLease      = "lease-not-renewed" // less than half of it is left
	AlarmEnded      = "lease-ended"
	AlarmRole       = "key-ends"        // 90 and 30 days before the end of a role's word
	AlarmRoleSoon   = "key-ends-soon"   // 7 days before it
	AlarmSignatures = "signatures-end"  // the lease ends with signatures of a zone
	AlarmBlocked    = "release-blocked" // zones have errors
	AlarmFailed     = "release-failed"  // something else keeps releases from being made
	AlarmHeld       = "zone-held"       // an older version of a zone stays
	AlarmStays      = "zones-stay"      // zones that are gone from their sources stay
	AlarmMembers    = "members-missing" // they keep a release from being switched to
	AlarmDisk       = "host-disk"       // what is received cannot be written
	AlarmSource     = "source-failed"   // a zone cannot be received
	AlarmUntaken    = "not-taken"       // one of the two above, for long
	AlarmExpired    = "zone-expired"    // and no primary has confirmed it for as long as its SOA allows
	AlarmDamaged    = "home-damaged"    // a file of the repository that names zones

	// Of who asks members, which "meshctl status" alone does for every one of them:
	AlarmUnreachable = "member-unreachable" // it gave no word
	AlarmNoServer    = "no-dns-server"      // its sidecar answers, and has no word of its DNS server
	AlarmRemoved     = "removed-announced"  // it was removed, and its route is still there
	AlarmUnrouted    = "member-unrouted"    // it means to be announced, and no router has been told
	AlarmServeEnded  = "serve-ended"        // "meshctl serve" was killed
	AlarmNoServe     = "serve-not-running"  // it was stopped, or never started, and sources are configured
	AlarmNoRoute     = "mesh-unrouted"      // and no router has been told of any member's route
	AlarmSilent      = "member-silent"      // it answers no queries, and not since an operator wants that
	AlarmUnwell      = "member-unwell"      // it means to answer, and its probe gets no right answers
)

// AlarmCodes are those of "meshctl serve".
var AlarmCodes = []string{AlarmLease, AlarmEnded, AlarmRole, AlarmRoleSoon, AlarmSignatures, AlarmBlocked, AlarmFailed, AlarmHeld, AlarmStays, AlarmDisk, AlarmMembers, AlarmSource, AlarmUntaken, AlarmExpired, AlarmDamaged,
	mesh.MembersAway, mesh.NotDecided, mesh.HostClock, mesh.StateRestored}

// missingPatience is how long members may take to have a release ready, and to promise, before that is an alarm; so is how long
// attempts at a release may fail, since another host may be first, or a bucket away for a moment.
const missingPatience = time.Minute

// untoldPatience is how long no router may have been told of a route that is to be announced before that is an alarm: a session comes
// up in seconds after a start, and again after a short flap.
const untoldPatience = 30 * time.Second

// untakenPatience is how long an edit may be refused, or a source fail, before that is an error: somebody counts on it by then.
const untakenPatience = time.Hour

// MeshAlarms are what the protocol calls for: its own alarms, and who has kept the staged release from being switched to for long.
func MeshAlarms(s switchover.DriverState, now time.Time) []status.Reason {
	all := slices.Clone(s.Decision.Alarms)
	if s.Since.IsZero() || now.Sub(s.Since) < missingPatience {
		return all
	}
	for _, m := range s.Decision.Against {
		if m.Why.Code == string(release.Missing) {
			m.Why.Detail = "not all of its files have come" // which one is next changes all the time, and an alarm would end and begin with each
		}
		all = append(all, status.Reason{Code: AlarmMembers, Detail: fmt.Sprintf("%s keeps the staged release from being switched to: %s", m.Member, m.Why)})
	}
	return all
}

// Damaged is the alarm of an error of home.Published that is one of release.OfZones.
func Damaged(err error) status.Reason {
	return status.Reason{Code: AlarmDamaged, Detail: "leases are renewed, and nothing else can be published: " + err.Error()}
}

// Alarm is an alarm with what to do about it.
type Alarm struct {
	status.Reason
	Level string `json:"level"` // "error" or "warning"
	Do    string `json:"do"`
}

// Levels of alarms.
const (
	LevelError   = "error" // nodes are silent, or will be, or nothing is published
	LevelWarning = "warning"
)

// AlarmOf is a reason as an alarm.
func AlarmOf(r status.Reason) Alarm {
	e := remedy.For(r.Code)
	a := Alarm{r, LevelWarning, e.Do}
	if e.Error {
		a.Level = LevelError
	}
	return a
}

// Alarms are what the state of a mesh calls for at now; lease is its usual length.
func Alarms(view release.View, lease time.Duration, cycle CycleState, now time.Time) (all []status.Reason) {
	say := func(code, format string, args ...any) {
		all = append(all, status.Reason{Code: code, Detail: fmt.Sprintf(format, args...)})
	}
	untaken := func(code string, place receive.Fault, format string, args ...any) {
		if since, known := cycle.Untaken[place]; known && now.Sub(since) >= untakenPatience {
			code, format = AlarmUntaken, "since "+since.UTC().Format(time.RFC3339)+": "+format
		}
		say(code, format, args...)
	}
	switch left := view.LeaseExpires.Sub(now); {
	case left <= 0:
		say(AlarmEnded, "at %s: all nodes are silent", view.LeaseExpires.Format(time.RFC3339))
	case left < lease/2:
		say(AlarmLease, "it ends at %s, and nodes fall silent then", view.LeaseExpires.Format(time.RFC3339))
	}
	for _, role := range []struct {
		name string
		ends time.Time
	}{{"root", view.Expires.Root}, {"release", view.Expires.Targets}} {
		name, ends := role.name, role.ends
		for _, days := range []int{7, 30, 90} {
			if ends.Before(now.AddDate(0, 0, days)) {
				code := AlarmRole
				if days == 7 {
					code = AlarmRoleSoon
				}
				say(code, "the word of the %s key ends at %s, in less than %d days", name, ends.Format(time.RFC3339), days)
				break
			}
		}
	}
	if z, ends := home.SignedUntil(view.Manifest); !ends.IsZero() && ends.Before(now.Add(lease)) {
		say(AlarmSignatures, "signatures of %s end at %s, and the lease of all zones with them", z, ends.Format(time.RFC3339))
	}
	if cycle.Blocked {
		by := cycle.By
		if by != "" {
			by = "; " + by
		}
		say(AlarmBlocked, "what was received has errors: nothing is released%s", by)
	}
	if cycle.Failed != "" && now.Sub(cycle.Since) >= missingPatience {
		say(AlarmFailed, "no release could be made since %s: %s", cycle.Since.UTC().Format(time.RFC3339), cycle.Failed)
	}
	for _, z := range cycle.Held {
		why := cycle.Why[z]
		if why != "" {
			why = "; " + why
		}
		stays := "its last good data stays"
		if view.Manifest.Latest().Zone(z) == nil {
			stays = "no data of it was ever good, and it is not answered"
		}
		untaken(AlarmHeld, receive.Fault{What: z}, "%s has errors: %s%s", z, stays, why)
	}
	if len(cycle.Stay) > 0 {
		say(AlarmStays, "gone from the source, and kept in the releases: %s; %s", refresh.Some(cycle.Stay), cycle.Why[cycle.Stay[0]])
	}
	for _, s := range cycle.Sources {
		if s.Expired {
			say(AlarmExpired, "%s: no primary has confirmed it since %s", s.Zone, s.Contact.Format(time.RFC3339))
		} else if s.Error != "" {
			untaken(AlarmSource, receive.Fault{What: s.Zone}, "%s: %s", s.Zone, s.Error)
		}
	}
	for _, fault := range slices.SortedFunc(maps.Keys(cycle.Faults), func(a, b receive.Fault) int {
		return cmp.Or(strings.Compare(a.Source, b.Source), strings.Compare(a.What, b.What))
	}) {
		if fault.Source == refresh.HostDisk {
			say(AlarmDisk, "%s: %s: %s", fault.Source, fault.What, cycle.Faults[fault])
			continue
		}
		untaken(AlarmSource, fault, "%s: %s: %s", fault.Source, fault.What, cycle.Faults[fault])
	}
	return all
}
