package refresh

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/instant"
)

// Catalog is a catalog zone (RFC 9432).
type Catalog struct {
	Name      string
	Primaries *Group            // of the catalog itself
	Members   *Group            // of its members
	Groups    map[string]*Group // of those with this group property
	Limit     int               // percent of members that may go at once, see Directory
	Below     []string          // names that members must be at or below; none: they may be any
}

// holds reports whether a catalog may list a zone.
func (c *Catalog) holds(name string) bool {
	return len(c.Below) == 0 || slices.ContainsFunc(c.Below, func(of string) bool { return dns.IsSubDomain(of, name) })
}

// within is a listing without the members that the catalog may not list.
func (c *Catalog) within(listed map[string]Member) map[string]Member {
	if len(c.Below) == 0 {
		return listed
	}
	within := maps.Clone(listed)
	maps.DeleteFunc(within, func(name string, _ Member) bool { return !c.holds(name) })
	return within
}

// primaries are those of a member.
func (c *Catalog) primaries(m Member) *Group {
	for _, g := range m.groups {
		if named := c.Groups[g]; named != nil {
			return named
		}
	}
	return c.Members
}

// list takes the listing of a catalog.
func (s *Secondary) list(catalog string, members map[string]Member) {
	delete(s.faults, Fault{CatalogOwner(catalog), catalog})
	s.listings[catalog] = members
}

// reconcile brings the zones that are followed to what the catalogs list.
func (s *Secondary) reconcile(now instant.Instant) {
	var listings []listing
	owners := map[string]string{}
	for i := range s.config.Catalogs {
		c := &s.config.Catalogs[i]
		if listed, ok := s.listings[c.Name]; ok {
			listings = append(listings, listing{c.Name, c.within(listed)})
		}
		for _, z := range s.zones {
			if z.owner == CatalogOwner(c.Name) && z.catalog == nil {
				owners[z.origin] = c.Name
			}
		}
	}
	next := assign(listings, owners)
	for i := range s.config.Catalogs {
		c := &s.config.Catalogs[i]
		if listed, ok := s.listings[c.Name]; ok {
			s.adopt(now, c, listed, next)
			s.release(c, owners, next)
		}
	}
}

// adopt takes up the members that are a catalog's to have.
func (s *Secondary) adopt(now instant.Instant, c *Catalog, listed map[string]Member, next map[string]string) {
	owner := CatalogOwner(c.Name)
	maps.DeleteFunc(s.faults, func(f Fault, _ string) bool { return f.Source == owner && f.What != c.Name })
	for _, name := range slices.Sorted(maps.Keys(listed)) {
		m := listed[name]
		z := s.zones[name]
		if z != nil && z.owner == orphan {
			z.owner, z.unique, s.nesting.changed = owner, m.unique, true
			delete(s.orphans, name)
		}
		if why := s.unfit(c, z, name, m, next[name]); why != "" {
			s.faults[Fault{owner, name}] = why
		} else if next[name] == c.Name { // and not on its way to another (RFC 9432 4.4.1)
			s.member(now, c, z, name, m)
		}
	}
}

// unfit says why a catalog cannot have a zone that it lists, "" if it can. next is the catalog that is to have it.
func (s *Secondary) unfit(c *Catalog, z *followed, name string, m Member, next string) string {
	switch {
	case z != nil && (z.catalog != nil || s.catalogOf(z.owner) == nil):
		return "the catalog lists a zone that comes from " + z.owner
	case !c.holds(name):
		return "the catalog lists a zone that is not below " + strings.Join(c.Below, " or ")
	case next != c.Name && next != m.coo:
		return "the catalog lists a zone that is followed by catalog " + next
	}
	return ""
}

// member takes up one member, z if it is followed already.
func (s *Secondary) member(now instant.Instant, c *Catalog, z *followed, name string, m Member) {
	owner, group := CatalogOwner(c.Name), c.primaries(m)
	if z == nil {
		z = s.follow(name, owner, group)
		z.unique = m.unique
		s.plan(z, now.Mono)
		return
	}
	moved := z.group != group
	s.nesting.changed = s.nesting.changed || z.owner != owner
	z.owner, z.group = owner, group
	if z.unique != m.unique {
		s.say(Warn, "begins anew: its catalog has it under another label (RFC 9432 5.4)", "zone", name, "catalog", c.Name)
		z.unique, z.loaded, z.reset, moved = m.unique, false, true, true
		z.again = z.running
	}
	if moved {
		s.plan(z, now.Mono)
	}
}

// release withdraws the zones that a catalog had and that no catalog lists any more, unless these are too many at once.
func (s *Secondary) release(c *Catalog, owners, next map[string]string) {
	had := 0
	var gone []*followed
	for _, name := range slices.Sorted(maps.Keys(owners)) {
		z := s.zones[name]
		if owners[name] != c.Name || z == nil || z.owner != CatalogOwner(c.Name) {
			continue
		}
		had++
		if next[name] == "" && !z.gone {
			gone = append(gone, z)
		}
	}
	if why := tooMany(len(gone), had, c.Limit); why != "" && !s.config.Force {
		s.faults[Fault{CatalogOwner(c.Name), "members"}] = why
		s.say(Error, why, "catalog", c.Name)
		return
	}
	for _, z := range gone {
		s.say(Warn, "withdrawn: its catalog does not list it any more", "zone", z.origin, "catalog", c.Name)
		s.withdraw(z)
	}
}

// tooMany says why so many zones of a source are not withdrawn at once (FAIL-4); empty if they may be. One always may, but not the
// last, unless the limit is 100 %: a directory that is not mounted, and a catalog that was made anew, look as if all had been taken out.
func tooMany(gone, had, percent int) string {
	switch {
	case gone > 0 && gone == had && percent < 100:
		return fmt.Sprintf("%d of %d zones are gone at once, so nothing is left there: none is withdrawn, which meshctl receive --withdraw does", gone, had)
	case gone <= 1 || gone*100 <= had*percent:
		return ""
	}
	return fmt.Sprintf("%d of %d zones are gone at once, and the limit is %d %%: none is withdrawn, which meshctl receive --withdraw does", gone, had, percent)
}
