package zonecheck

import (
	"bytes"
	"fmt"
	"iter"
	"strings"

	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/zone"
)

// checkChange compares a zone with the one answered now: what changed needs a higher serial, and not too many names may
// have changed at once.
func checkChange(old, z *zone.Zone, p Policy, r *report) {
	if old == nil {
		return
	}
	c := compare(old, z)
	if c.same {
		return
	}
	if int32(z.Serial()-old.Serial()) <= 0 {
		r.fault(nil, "serial", "serial %d must be above %d, which is answered now with other content (RFC 1982)", z.Serial(), old.Serial())
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
		if why := k.limit.exceeded(k.count, c.before, p.Few); why != "" {
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
func (l Limit) exceeded(count, before, few int) string {
	if l.Names > 0 && count > l.Names {
		return fmt.Sprintf("the policy allows %d", l.Names)
	}
	if l.Percent > 0 && count > few && 100*count > l.Percent*before {
		return fmt.Sprintf("the policy allows %d %%", l.Percent)
	}
	return ""
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
	c := comparison{same: true}
	nextOld, stopOld := iter.Pull(owners(old))
	defer stopOld()
	nextNew, stopNew := iter.Pull(owners(z))
	defer stopNew()
	a, b := pulled(nextOld), pulled(nextNew)
	for a != nil || b != nil {
		switch order := orderOf(a, b); {
		case order < 0:
			c.lost(a)
			a = pulled(nextOld)
		case order > 0:
			c.same = false
			if b.kind != hashed {
				c.added++
			}
			b = pulled(nextNew)
		default:
			c.kept(a, b)
			a, b = pulled(nextOld), pulled(nextNew)
		}
	}
	return c
}

func pulled(next func() (*owner, bool)) *owner {
	o, _ := next()
	return o
}

// orderOf is the canonical order of two owners, of which one may be nil, which is behind all. NSEC3 records come after
// the others of an owner.
func orderOf(a, b *owner) int {
	switch {
	case b == nil:
		return -1
	case a == nil:
		return 1
	}
	if c := bytes.Compare(a.key, b.key); c != 0 {
		return c
	}
	switch {
	case a.kind == hashed && b.kind != hashed:
		return 1
	case a.kind != hashed && b.kind == hashed:
		return -1
	}
	return 0
}

func (c *comparison) lost(o *owner) {
	c.same = false
	if o.kind == hashed {
		return
	}
	c.before++
	c.removed++
	if len(c.someRemoved) < 3 {
		c.someRemoved = append(c.someRemoved, zone.NameString(o.name))
	}
}

func (c *comparison) kept(a, b *owner) {
	if a.kind != hashed {
		c.before++
	}
	if equalSets(a.sets, b.sets, false) {
		return
	}
	c.same = false
	if a.kind != hashed && !equalSets(a.sets, b.sets, true) {
		c.changed++
	}
}

// equalSets compares the RRsets of an owner, all or only what a person would call its data.
func equalSets(a, b []zone.RRset, dataOnly bool) bool {
	if dataOnly {
		a, b = dataOf(a), dataOf(b)
	}
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		x, y := &a[i], &b[i]
		if x.Type != y.Type || x.TTL != y.TTL || !bytes.Equal(x.Data, y.Data) {
			return false
		}
		if !dataOnly && (x.SigTTL != y.SigTTL || !bytes.Equal(x.Sigs, y.Sigs)) {
			return false
		}
	}
	return true
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
