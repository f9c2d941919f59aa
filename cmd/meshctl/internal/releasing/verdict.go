package releasing

import (
	"slices"
	"strings"

	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/history"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
	"github.com/coredns-anycast/coredns-anycast/internal/zone"
	"github.com/coredns-anycast/coredns-anycast/internal/zonecheck"
)

// verdict is what becomes of the candidates.
type verdict struct {
	base       *release.Release // of which all is in the release but for what follows; nil: nothing
	zones      []release.Zone
	gone       []string             // origins of zones that are not in it
	held       []history.Held       // zones whose last good data stays
	overridden []release.Overridden // zones that go out by a second person's word
	blocked    []release.Overridden // zones that could, with one, whether they hold back the release or themselves
	stop       bool                 // nothing is released
}

// decide says of each candidate whether it goes out, is held back, or holds back all.
func decide(candidates []candidate, before *release.Release, o *release.Override) verdict {
	var v verdict
	for _, c := range candidates {
		last := before.Zone(c.zone.Origin)
		bad := c.zone.Overridden(c.rules)
		read := c.zone.Length > 0
		covered := read && o.Covers(&c.zone, c.rules)
		if read && len(c.rules) > 0 && !covered {
			v.blocked = append(v.blocked, bad)
		}
		switch {
		case len(c.rules) == 0:
			v.zones = append(v.zones, c.zone)
		case covered:
			v.zones, v.overridden = append(v.zones, c.zone), append(v.overridden, bad)
		case c.policy.Hold == zonecheck.HoldZone && bad.Origin != "" && last != nil:
			v.zones, v.held = append(v.zones, *last), append(v.held, history.Held{Origin: bad.Origin, Serial: last.Serial})
		case c.policy.Hold == zonecheck.HoldZone && bad.Origin != "":
			v.held = append(v.held, history.Held{Origin: bad.Origin, Absent: true})
		default:
			v.stop = true
		}
	}
	v.sort()
	return v
}

func (v *verdict) sort() {
	byOrigin := func(a, b release.Overridden) int { return strings.Compare(a.Origin, b.Origin) }
	slices.SortFunc(v.blocked, byOrigin)
	slices.SortFunc(v.overridden, byOrigin)
	slices.SortFunc(v.zones, func(a, b release.Zone) int { return strings.Compare(a.Origin, b.Origin) })
}

// whole is the release that comes of it, with a number.
func (v *verdict) whole(number uint64) (release.Release, error) {
	return v.base.With(number, v.zones, v.gone)
}

// release is whole, bounded.
func (v *verdict) release(number uint64) (release.Release, error) {
	r, err := v.whole(number)
	if err != nil {
		return r, err
	}
	if less := boundRoots(&r, maxRoots); len(less) > 0 {
		if r, err = r.With(number, less, nil); err != nil {
			return r, err
		}
	}
	if less := bound(&r); len(less) > 0 {
		r, err = r.With(number, less, nil)
	}
	return r, err
}

// withdraw says of the zones that are answered now and would not be in the release whether they go: no more than the policy allows
// do, but by a second person's word. What does not go stays in the release, if hold is set; otherwise it holds back all. Zones that
// the latest release lacks already were judged with it, and count.
func (v *verdict) withdraw(m release.Manifest, policy *zonecheck.Config, o *release.Override, hold bool) ([]zone.Finding, error) {
	if m.Current == nil {
		return nil, nil
	}
	made, err := v.whole(0)
	if err != nil {
		return nil, err
	}
	others, latest := 0, m.Latest()
	var all, stay []string
	var signed, unsigned []release.Overridden
	for z := range m.Current.Beside(&made) {
		if made.Zone(z.Origin) != nil {
			continue
		}
		if latest.Zone(z.Origin) == nil {
			others++
			continue
		}
		all = append(all, z.Origin)
		bad := z.Overridden([]string{zonecheck.WithdrawnRule})
		if o.Covers(z, bad.Rules) {
			signed = append(signed, bad)
		} else {
			stay, unsigned = append(stay, z.Origin), append(unsigned, bad)
		}
	}
	found := policy.Withdraw(all, others, m.Current.Len())
	if !zone.HasErrors(found) {
		return found, nil
	}
	v.overridden = append(v.overridden, signed...)
	if found = policy.Withdraw(stay, others, m.Current.Len()); zone.HasErrors(found) {
		v.blocked = append(v.blocked, unsigned...)
		v.stop = v.stop || !hold
		kept := make([]*release.Zone, len(stay))
		for i, origin := range stay {
			kept[i] = latest.Zone(origin)
		}
		v.keep(kept)
	}
	v.sort()
	return found, nil
}

// keep keeps zones of the latest release that would not be in this one. It takes as long as there are zones: all may go at once, where a source
// has lost them, and nothing else is published meanwhile.
func (v *verdict) keep(last []*release.Zone) {
	kept := make(map[string]bool, len(last))
	for _, z := range last {
		kept[z.Origin] = true
	}
	v.gone = slices.DeleteFunc(slices.Clone(v.gone), func(origin string) bool { return kept[origin] })
	v.zones = slices.DeleteFunc(v.zones, func(z release.Zone) bool { return kept[z.Origin] })
	for _, z := range last {
		v.zones, v.held = append(v.zones, *z), append(v.held, history.Held{Origin: z.Origin, Serial: z.Serial, Withdrawn: true})
	}
}

// keepLast keeps the zones of the latest release, since none would be left (FAIL-4), whatever the policy allows: nobody would be
// answered. Only an operator makes such a release, by name.
func (v *verdict) keepLast(latest *release.Release, hold bool) (found []zone.Finding) {
	if latest == nil {
		return nil
	}
	v.keep(slices.Collect(latest.All()))
	for z := range latest.All() {
		found = append(found, zone.Finding{Zone: z.Origin, Owner: z.Origin, Rule: zonecheck.WithdrawnRule, Severity: zone.Error,
			Detail: "no zone would be left: meshctl serve makes no such release, and if it is meant: meshctl release --withdraw " + z.Origin})
	}
	v.sort()
	v.stop = v.stop || !hold && len(found) > 0
	return found
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
