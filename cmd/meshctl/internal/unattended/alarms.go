package unattended

import (
	"fmt"
	"slices"
	"time"

	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/home"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/switchover"
	"github.com/coredns-anycast/coredns-anycast/internal/mesh"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
)

// Codes of alarms: what an operator must see to before nodes fall silent, or zones grow old.
const (
	AlarmLease      = "lease-not-renewed" // less than half of it is left
	AlarmEnded      = "lease-ended"
	AlarmRole       = "key-ends"        // 90, 30 and 7 days before the end of a role's word
	AlarmSignatures = "signatures-end"  // the lease ends with signatures of a zone
	AlarmBlocked    = "release-blocked" // zones have errors
	AlarmHeld       = "zone-held"       // an older version of a zone stays
	AlarmMembers    = "members-missing" // they keep a release from being switched to
	AlarmSource     = "source-failed"   // a zone cannot be received
)

// AlarmCodes are all of them.
var AlarmCodes = []string{AlarmLease, AlarmEnded, AlarmRole, AlarmSignatures, AlarmBlocked, AlarmHeld, AlarmMembers, AlarmSource,
	mesh.MembersAway, mesh.NotDecided, mesh.HostClock, mesh.StateRestored}

// missingPatience is how long members may take to have a release ready, and to promise, before that is an alarm.
const missingPatience = time.Minute

// MeshAlarms are what the protocol calls for: its own alarms, and who has kept the staged release from being switched to for long.
func MeshAlarms(s switchover.DriverState, now time.Time) []status.Reason {
	all := slices.Clone(s.Decision.Alarms)
	if s.Since.IsZero() || now.Sub(s.Since) < missingPatience {
		return all
	}
	for _, m := range s.Decision.Against {
		all = append(all, status.Reason{Code: AlarmMembers, Detail: fmt.Sprintf("%s keeps the staged release from being switched to: %s", m.Member, m.Why)})
	}
	return all
}

// Alarms are what the state of a mesh calls for at now; lease is its usual length.
func Alarms(view release.View, lease time.Duration, cycle CycleState, now time.Time) (all []status.Reason) {
	say := func(code, format string, args ...any) {
		all = append(all, status.Reason{Code: code, Detail: fmt.Sprintf(format, args...)})
	}
	switch left := view.LeaseExpires.Sub(now); {
	case left <= 0:
		say(AlarmEnded, "at %s: all nodes are silent", view.LeaseExpires.Format(time.RFC3339))
	case left < lease/2:
		say(AlarmLease, "it ends at %s, and nodes fall silent then", view.LeaseExpires.Format(time.RFC3339))
	}
	for name, ends := range map[string]time.Time{"root": view.Expires.Root, "release": view.Expires.Targets} {
		for _, days := range []int{7, 30, 90} {
			if ends.Before(now.AddDate(0, 0, days)) {
				say(AlarmRole, "the word of the %s key ends at %s, in less than %d days", name, ends.Format(time.RFC3339), days)
				break
			}
		}
	}
	if z, ends := home.SignedUntil(view.Manifest); !ends.IsZero() && ends.Before(now.Add(lease)) {
		say(AlarmSignatures, "signatures of %s end at %s, and the lease of all zones with them", z, ends.Format(time.RFC3339))
	}
	if cycle.Blocked {
		say(AlarmBlocked, "what was received has errors: nothing is released")
	}
	for _, z := range cycle.Held {
		say(AlarmHeld, "%s has errors: its last good data stays", z)
	}
	for _, z := range cycle.Stay {
		say(AlarmHeld, "%s is gone from its source, and stays, since more zones would go at once than \"checks: withdrawn\" allows", z)
	}
	for _, s := range cycle.Sources {
		if s.Expired {
			say(AlarmSource, "%s: no primary has confirmed it since %s", s.Zone, s.Contact.Format(time.RFC3339))
		} else if s.Error != "" {
			say(AlarmSource, "%s: %s", s.Zone, s.Error)
		}
	}
	for fault, why := range cycle.Faults {
		say(AlarmSource, "%s: %s: %s", fault.Source, fault.What, why)
	}
	return all
}
