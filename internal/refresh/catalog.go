package refresh

import (
	"fmt"
	"slices"
	"strings"

	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/zone"
)

// maxMembers bounds what one catalog can make us follow.
const maxMembers = 100_000

// Member is a zone that a catalog lists (RFC 9432 4.1).
type Member struct {
	unique string   // the label that identifies it: another one means that the zone begins anew (RFC 9432 5.4)
	groups []string // group property (RFC 9432 4.4.2), in the catalog's order
	coo    string   // the catalog that it is on its way to (RFC 9432 4.4.1), or empty
}

// brokenError is a catalog that must not be processed, and the rule that it breaks (RFC 9432 5.1).
type brokenError struct{ owner, rule string }

func (e *brokenError) Error() string {
	return fmt.Sprintf("broken catalog, not processed: %s: %s (RFC 9432)", e.owner, e.rule)
}

// Members reads a catalog zone of version 2 (RFC 9432 4). What it does not know it passes over; what is broken breaks all
// of it.
func Members(z *zone.Zone) (map[string]Member, error) {
	c := catalogReader{origin: z.Origin(), unique: map[string]string{}, props: map[string]Member{}}
	for s := range z.RRsets() {
		if s.Data.Len() == 0 {
			continue
		}
		if err := c.set(s); err != nil {
			return nil, err
		}
	}
	return c.finish()
}

type catalogReader struct {
	origin  string
	version bool
	unique  map[string]string // label to zone
	props   map[string]Member // by the same label
}

func (c *catalogReader) set(s zone.RRset) error {
	owner := zone.NameString(s.Owner)
	prefix, inside := strings.CutSuffix(owner, c.below())
	if !inside {
		return nil // the apex
	}
	labels := dns.SplitDomainName(prefix)
	switch n := len(labels); {
	case n == 1 && labels[0] == "version" && s.Type == dns.TypeTXT:
		return c.readVersion(owner, s)
	case n < 2 || n > 3 || labels[n-1] != "zones":
		return nil
	case n == 2 && s.Type == dns.TypePTR:
		return c.member(owner, labels[0], s)
	case n == 3:
		return c.property(owner, labels[0], labels[1], s)
	}
	return nil
}

// below is how the names of the catalog end.
func (c *catalogReader) below() string {
	if c.origin == "." {
		return "."
	}
	return "." + c.origin
}

func (c *catalogReader) readVersion(owner string, s zone.RRset) error {
	texts := texts(s)
	if len(texts) != 1 || len(texts[0]) != 1 {
		return &brokenError{owner, "want one TXT record of one string (4.3)"}
	}
	if texts[0][0] != "2" {
		return &brokenError{owner, fmt.Sprintf("version %q, and 2 is what we know (4.3)", texts[0][0])}
	}
	c.version = true
	return nil
}

func (c *catalogReader) member(owner, unique string, s zone.RRset) error {
	if s.Data.Len() != 1 {
		return &brokenError{owner, "several PTR records at one member (4.1)"}
	}
	if len(c.unique) >= maxMembers {
		return &brokenError{owner, fmt.Sprintf("more than %d members", maxMembers)}
	}
	name := target(s)
	if name == c.origin {
		return &brokenError{owner, "the catalog lists itself"}
	}
	c.unique[unique] = name
	return nil
}

func (c *catalogReader) property(owner, property, unique string, s zone.RRset) error {
	m := c.props[unique]
	switch {
	case property == "group" && s.Type == dns.TypeTXT:
		for _, text := range texts(s) {
			m.groups = append(m.groups, strings.Join(text, ""))
		}
	case property == "coo" && s.Type == dns.TypePTR:
		if s.Data.Len() != 1 {
			return &brokenError{owner, "several PTR records (4.4.1)"}
		}
		m.coo = target(s)
	default:
		return nil
	}
	c.props[unique] = m
	return nil
}

func (c *catalogReader) finish() (map[string]Member, error) {
	if !c.version {
		return nil, &brokenError{"version." + strings.TrimPrefix(c.below(), "."), "no version (4.3)"}
	}
	list := make(map[string]Member, len(c.unique))
	for unique, name := range c.unique {
		if other, twice := list[name]; twice {
			both := []string{unique, other.unique}
			slices.Sort(both)
			return nil, &brokenError{both[1] + ".zones" + c.below(), fmt.Sprintf("member %s is there twice, as %s too (5.1)", name, both[0])}
		}
		m := c.props[unique]
		m.unique = unique
		list[name] = m
	}
	return list, nil
}

// texts are the strings of TXT records.
func texts(s zone.RRset) (list [][]string) {
	for rdata := range s.Data.All() {
		var text []string
		for len(rdata) > 0 {
			n := min(1+int(rdata[0]), len(rdata))
			text = append(text, string(rdata[1:n]))
			rdata = rdata[n:]
		}
		list = append(list, text)
	}
	return list
}

// target is the name that a PTR record holds.
func target(s zone.RRset) string {
	for rdata := range s.Data.All() {
		return dns.CanonicalName(zone.NameString(rdata))
	}
	return ""
}

// listing is a catalog's name and what it lists.
type listing struct {
	catalog string
	members map[string]Member
}

// assign says which catalog each member is followed by, of listings in the order of the configuration. One that has a
// member keeps it while it lists it, unless its coo property hands it to another that lists it as well (RFC 9432 4.4.1,
// 5.3); what nobody has goes to the first that lists it. owners is the catalog that has a zone now.
func assign(listings []listing, owners map[string]string) map[string]string {
	byName := map[string]map[string]Member{}
	for _, l := range listings {
		byName[l.catalog] = l.members
	}
	next := map[string]string{}
	for _, l := range listings {
		for name := range l.members {
			if next[name] != "" {
				continue
			}
			next[name] = l.catalog
			owner := owners[name]
			m, listed := byName[owner][name]
			if !listed {
				continue
			}
			next[name] = owner
			if _, there := byName[m.coo][name]; there {
				next[name] = m.coo
			}
		}
	}
	return next
}
