package releasing

import (
	"slices"
	"strings"

	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/history"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
	"github.com/coredns-anycast/coredns-anycast/internal/zonecheck"
)

// verdict is what becomes of the candidates.
type verdict struct {
	zones      []release.Zone
	held       []history.Held       // zones whose last good data stays
	overridden []release.Overridden // zones that go out by a second person's word
	blocked    []release.Overridden // zones that could, with one
	stop       bool                 // nothing is released
}

// decide says of each candidate whether it goes out, is held back, or holds back all.
func decide(candidates []candidate, before *release.Release, o *release.Override) verdict {
	var v verdict
	for _, c := range candidates {
		last := before.Zone(c.zone.Origin)
		bad := release.Overridden{Origin: c.zone.Origin, SHA256: c.zone.SHA256, Rules: c.rules}
		whole := c.zone.Length > 0
		switch {
		case len(c.rules) == 0:
			v.zones = append(v.zones, c.zone)
		case whole && o.Covers(bad.Origin, bad.SHA256, bad.Rules):
			v.zones, v.overridden = append(v.zones, c.zone), append(v.overridden, bad)
		case c.policy.Hold == zonecheck.HoldZone && bad.Origin != "" && last != nil:
			v.zones, v.held = append(v.zones, *last), append(v.held, history.Held{Origin: bad.Origin, Serial: last.Serial})
		case c.policy.Hold == zonecheck.HoldZone && bad.Origin != "":
			v.held = append(v.held, history.Held{Origin: bad.Origin, Absent: true})
		default:
			v.stop = true
			if whole {
				v.blocked = append(v.blocked, bad)
			}
		}
	}
	slices.SortFunc(v.zones, func(a, b release.Zone) int { return strings.Compare(a.Origin, b.Origin) })
	byOrigin := func(a, b release.Overridden) int { return strings.Compare(a.Origin, b.Origin) }
	slices.SortFunc(v.blocked, byOrigin)
	slices.SortFunc(v.overridden, byOrigin)
	return v
}

// String says for the record what is unusual.
func (v verdict) String() string {
	var parts []string
	for _, o := range v.overridden {
		parts = append(parts, "overridden "+o.Origin+" "+strings.Join(o.Rules, " "))
	}
	for _, held := range v.held {
		parts = append(parts, "held "+held.Origin)
	}
	return strings.Join(parts, "; ")
}
