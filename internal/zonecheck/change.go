package zonecheck

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/zone"
)

// goingBack says how older data is answered again. A signature covers the serial, so that of a signed zone cannot be raised by hand.
func goingBack(old, z *zone.Zone) string {
	switch {
	case z.Serial() == old.Serial():
		return ""
	case apexOf(z).get(dns.TypeDNSKEY) != nil:
		return fmt.Sprintf(": to go back to older data, give it a serial above %d before it is signed, and have the signer sign it again", old.Serial())
	}
	return fmt.Sprintf(": to go back to older data, give it a serial above %d", old.Serial())
}

// checkChange compares a zone with the one answered now: what changed needs a higher serial, and not too many names may
// have changed at once.
func checkChange(old, z *zone.Zone, p Policy, r *report) {
	if old == nil || old == z {
		return
	}
	c := compare(old, z)
	if c.same {
		return
	}
	if !zone.Newer(z.Serial(), old.Serial()) {
		r.fault(nil, "serial", "serial %d must be above %d, which is answered now with other content (RFC 1982)%s", z.Serial(), old.Serial(), goingBack(old, z))
	}
	for _, k := range []struct {
		rule  string
		count int
		some  []string
		limit Limit
	}{
		{"change-removed", c.removed, c.someRemoved, p.Removed},
		{"change-added", c.added, nil, p.Added},
		{"change-changed", c.changed, nil, p.Changed},
	} {
		if why := k.limit.exceeded(k.count, c.before); why != "" {
			r.fault(nil, k.rule, "%d of %d names %s%s; %s", k.count, c.before, strings.TrimPrefix(k.rule, "change-"), among(k.some), why)
		}
	}
}

func among(names []string) string {
	if len(names) == 0 {
		return ""
	}
	return ", among them " + strings.Join(names, " ")
}

// exceeded says which bound a count exceeds, "" if none.
func (l Limit) exceeded(count, before int) string {
	if l.Most > 0 && count > l.Most {
		return fmt.Sprintf("the policy allows %d", l.Most)
	}
	if l.Percent > 0 && count > l.Few && 100*count > l.Percent*before {
		return fmt.Sprintf("the policy allows %d %%", l.Percent)
	}
	return ""
}

// WithdrawnRule is the rule of Withdraw.
const WithdrawnRule = "zone-withdrawn"

// Withdraw judges that zones are in the next release no more, beside others that are in it no more already, of so many that are
// answered now: findings by zone, at most
// maxPerRule, and none if all these are no more than the policy allows.
func (c *Config) Withdraw(origins []string, others, of int) []zone.Finding {
	why := c.Policy.Withdrawn.exceeded(others+len(origins), of)
	if why == "" {
		return nil
	}
	r := &report{counts: map[sort]int{}}
	for _, origin := range origins {
		r.origin = origin
		r.fault(nil, "zone-withdrawn", "%d of %d zones withdrawn; %s", others+len(origins), of, why)
	}
	return c.Policy.Apply(r.all())
}

// comparison counts names: owners of records other than NSEC3. A name is changed if it has other records than before, but
// for what a signer makes anew all the time.
type comparison struct {
	same                    bool // to the last record
	before                  int
	removed, added, changed int
	someRemoved             []string
}

func compare(old, z *zone.Zone) comparison {
	c := comparison{same: true, before: old.Names()}
	var gone [][]byte // the first few removed
	for change := range zone.Changes(old, z) {
		c.same = false
		switch {
		case ofNSEC3(change.Was) || ofNSEC3(change.Is):
		case len(change.Is) == 0:
			c.removed++
			gone = append(gone, change.Owner)
			slices.SortFunc(gone, func(x, y []byte) int { return bytes.Compare(zone.AppendKey(nil, x), zone.AppendKey(nil, y)) })
			gone = gone[:min(len(gone), 3)]
		case len(change.Was) == 0:
			c.added++
		case !equalData(change.Was, change.Is):
			c.changed++
		}
	}
	for _, name := range gone {
		c.someRemoved = append(c.someRemoved, zone.NameString(name))
	}
	return c
}

// ofNSEC3 reports whether records are NSEC3 records, whose owner is no name of the zone (RFC 5155 7.2.8).
func ofNSEC3(sets []zone.RRset) bool { return len(sets) > 0 && sets[0].Type == dns.TypeNSEC3 }

// equalData compares of the RRsets of an owner what a person would call its data.
func equalData(a, b []zone.RRset) bool {
	return slices.EqualFunc(dataOf(a), dataOf(b), func(x, y zone.RRset) bool {
		return x.Type == y.Type && x.TTL == y.TTL && bytes.Equal(x.Data, y.Data)
	})
}

func dataOf(sets []zone.RRset) []zone.RRset {
	var data []zone.RRset
	for _, s := range sets {
		if s.Type != dns.TypeNSEC && len(s.Data) > 0 {
			data = append(data, s)
		}
	}
	return data
}
