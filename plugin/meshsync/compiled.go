package meshsync

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"iter"
	"slices"
	"strings"

	"github.com/coredns-anycast/coredns-anycast/internal/release"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
	"github.com/coredns-anycast/coredns-anycast/internal/zone"
)

// compiled is a release, verified and ready to be answered from. Zones that did not change are shared with the release
// before it, and so is what is known of the parts of the release that are the same.
type compiled struct {
	zones   *zone.Zones
	parts   []*part             // in the order of their zones' origins
	digest  string              // of the list of zones, in hexadecimal
	change  *status.ZonesChange // from the list of the release that was compiled before; nil: it is more than a little
	records int

	fragmented []string // origins of zones that are to be put in order, see compactor
	large      []*part  // that have large zones
	fresh      []*part  // that no release has which was compiled before
}

// part are zones that are signed together, and what was made of them. It does not change once its release is ready, and releases that have the same
// zones there have the same part.
type part struct {
	*leaf
	made    []*zone.Zone       // nil where none could be made
	history map[string]history // of zones that have one, by origin
	records int                // in all of them
	large   bool               // one of them is kept compiled, or would be
}

// leaf is what was signed of them.
type leaf struct {
	digest release.Digest // zero: they are in no tree, and no other release has the same part
	signed []release.Zone // not to be changed
}

// newCompiled is a release of which nothing was made yet but the parts that others have too, of which the first is the one that it may have the
// most in common with, and what was right of one that failed (nil: none has): of a first release, whose zones come one after the other, that is
// nearly all of it again and again.
func newCompiled(r *release.Release, others []*compiled, failed *compiled) *compiled {
	c := &compiled{}
	if len(others) > 0 {
		c.parts = make([]*part, 0, len(others[0].parts)+8)
	}
	theirs := make([][]*part, len(others))
	for i, o := range others {
		theirs[i] = o.parts
	}
	var right [][]*part
	if failed != nil {
		right = [][]*part{failed.parts}
	}
	for digest, zones := range r.Leaves() {
		if len(zones) == 0 {
			continue
		}
		p := shared(theirs, digest, zones[0].Origin)
		if p == nil {
			p = &part{leaf: &leaf{digest, zones}, made: make([]*zone.Zone, len(zones))}
			if was := shared(right, digest, zones[0].Origin); was != nil {
				copy(p.made, was.made)
			}
			c.fresh = append(c.fresh, p)
		}
		c.parts = append(c.parts, p)
	}
	for _, o := range others {
		for _, origin := range o.fragmented {
			if z := c.of(origin); z != nil && z.Fragmented() && !slices.Contains(c.fragmented, origin) {
				c.fragmented = append(c.fragmented, origin)
			}
		}
	}
	return c
}

// shared is the part with a leaf in the first of several lists that has it; nil if none has. The lists are cut to what is not before origin.
func shared(theirs [][]*part, leaf release.Digest, origin string) *part {
	if leaf == (release.Digest{}) {
		return nil
	}
	for i, parts := range theirs {
		for len(parts) > 0 && parts[0].digest != leaf && parts[0].first() < origin {
			parts = parts[1:]
		}
		if theirs[i] = parts; len(parts) > 0 && parts[0].digest == leaf {
			return parts[0]
		}
	}
	return nil
}

// first is the first origin.
func (l *leaf) first() string { return l.signed[0].Origin }

// index is where an origin is; -1 if it is not.
func (l *leaf) index(origin string) int {
	i, found := slices.BinarySearchFunc(l.signed, origin, func(z release.Zone, origin string) int { return strings.Compare(z.Origin, origin) })
	if !found {
		return -1
	}
	return i
}

// find is the part that has an origin, and where; nil if none has.
func (c *compiled) find(origin string) (*part, int) {
	after, _ := slices.BinarySearchFunc(c.parts, origin, func(p *part, origin string) int {
		if p.first() <= origin {
			return -1
		}
		return 1
	})
	if after == 0 {
		return nil, 0
	}
	p := c.parts[after-1]
	if i := p.index(origin); i >= 0 {
		return p, i
	}
	return nil, 0
}

// of is the zone that was made of an origin; nil if none was, yet.
func (c *compiled) of(origin string) *zone.Zone {
	if p, i := c.find(origin); p != nil {
		return p.made[i]
	}
	return nil
}

// list are the zones as a status tells of them.
func (c *compiled) list() []status.Zone {
	list := make([]status.Zone, 0, c.zones.Len())
	for _, p := range c.parts {
		list = append(list, p.list()...)
	}
	return list
}

func (l *leaf) list() []status.Zone {
	list := make([]status.Zone, len(l.signed))
	for i := range l.signed {
		list[i] = status.Zone{Origin: l.signed[i].Origin, Serial: l.signed[i].Serial}
	}
	return list
}

// beside are the parts that another release does not have.
func (c *compiled) beside(o *compiled) []*part { return onlyIn(c.parts, o.parts) }

// onlyIn are those of mine that are not among theirs; both are in the order of their first origins.
func onlyIn[P interface {
	comparable
	first() string
}](mine, theirs []P) (only []P) {
	for _, p := range mine {
		for len(theirs) > 0 && theirs[0] != p && theirs[0].first() < p.first() {
			theirs = theirs[1:]
		}
		if len(theirs) > 0 && theirs[0] == p {
			theirs = theirs[1:]
		} else {
			only = append(only, p)
		}
	}
	return only
}

// finish puts together what was made. base is what it may have the most in common with; nil: nothing. large is how many octets an image has from
// which it is large.
func (c *compiled) finish(base *compiled, large int) (err error) {
	if base == nil {
		base = new(compiled)
		if base.zones, err = zone.NewZones(); err != nil {
			return err
		}
	}
	for _, p := range c.fresh {
		p.settle(large)
	}
	c.change = &status.ZonesChange{From: base.digest}
	var put []*zone.Zone
	seen := map[string]bool{}
	for _, p := range c.beside(base) {
		for i, z := range p.made {
			signed := &p.signed[i]
			if seen[signed.Origin] = true; z.Fragmented() && !slices.Contains(c.fragmented, signed.Origin) {
				c.fragmented = append(c.fragmented, signed.Origin)
			}
			was, at := base.find(signed.Origin)
			if was == nil || was.made[at] != z {
				put = append(put, z)
			}
			if was == nil || was.signed[at].Serial != signed.Serial {
				c.change.Put = append(c.change.Put, status.Zone{Origin: signed.Origin, Serial: signed.Serial})
			}
		}
	}
	for _, p := range base.beside(c) {
		for i := range p.signed {
			if origin := p.signed[i].Origin; !seen[origin] {
				c.change.Gone = append(c.change.Gone, origin)
			}
		}
	}
	c.zones = base.zones.With(put, c.change.Gone)
	if base.digest == "" || len(c.change.Put)+len(c.change.Gone) > maxChange {
		c.change = nil
	}
	if n := c.sum(); n != c.zones.Len() {
		return fmt.Errorf("%d zones are of %d origins", n, c.zones.Len())
	}
	return nil
}

// maxChange is how many zones a change of the list names, since it is said in each status.
const maxChange = 100

// settle counts what was made, once.
func (p *part) settle(large int) {
	p.records, p.large = 0, false
	for _, z := range p.made {
		p.records += z.Len()
		p.large = p.large || z.ImageSize() >= large
	}
}

// sum puts together what is known of the parts, and counts their zones. The digest is that of the leaves, and of zones that are in none.
func (c *compiled) sum() (zones int) {
	h := sha256.New()
	for _, p := range c.parts {
		zones += len(p.signed)
		if c.records += p.records; p.large {
			c.large = append(c.large, p)
		}
		if h.Write(p.digest[:]); p.digest == (release.Digest{}) {
			for _, z := range p.list() {
				fmt.Fprintln(h, z.Origin, z.Serial)
			}
		}
	}
	c.digest = hex.EncodeToString(h.Sum(nil))
	return zones
}

// kept are the zones that are kept compiled, or would be, with what was signed of them.
func (c *compiled) kept(from int) iter.Seq2[*release.Zone, *zone.Zone] {
	return func(yield func(*release.Zone, *zone.Zone) bool) {
		for _, p := range c.large {
			for i, z := range p.made {
				if z.ImageSize() >= from && !yield(&p.signed[i], z) {
					return
				}
			}
		}
	}
}

// with is the release with a zone in place of that of its origin, which has the same records.
func (c *compiled) with(z *zone.Zone) *compiled {
	of, at := c.find(z.Origin())
	changed := *of
	changed.made = slices.Clone(of.made)
	changed.made[at] = z
	replaced := func(parts []*part) []*part {
		parts = slices.Clone(parts)
		if i := slices.Index(parts, of); i >= 0 {
			parts[i] = &changed
		}
		return parts
	}
	made := *c
	made.parts, made.large, made.fresh = replaced(c.parts), replaced(c.large), nil
	made.zones = c.zones.With([]*zone.Zone{z}, nil)
	made.fragmented = slices.DeleteFunc(slices.Clone(c.fragmented), func(origin string) bool { return origin == z.Origin() })
	return &made
}

// known are zones that are compiled already.
type known struct {
	failed   *compiled   // a release that could not be made: what is right of it; nil: none
	releases []*compiled // the newest first
}

// zone is the one that was signed; nil if it is not among them.
func (k known) zone(signed release.Zone) *zone.Zone {
	if k.failed != nil {
		if z := k.failed.signed(signed); z != nil {
			return z
		}
	}
	for _, c := range k.releases {
		if z := c.signed(signed); z != nil {
			return z
		}
	}
	return nil
}

// signed is the zone that was made of what was signed; nil if none was.
func (c *compiled) signed(as release.Zone) *zone.Zone {
	if p, i := c.find(as.Origin); p != nil && p.signed[i].Content() == as.Content() {
		return p.made[i]
	}
	return nil
}

// of are all zones of an origin.
func (k known) of(origin string) (all []*zone.Zone) {
	if k.failed != nil {
		if z := k.failed.of(origin); z != nil {
			all = append(all, z)
		}
	}
	for _, c := range k.releases {
		if z := c.zones.Get(origin); z != nil {
			all = append(all, z)
		}
	}
	return all
}

// kept are those that are kept compiled, or would be, by their content.
func (k known) kept(from int) iter.Seq2[release.Digest, *zone.Zone] {
	return func(yield func(release.Digest, *zone.Zone) bool) {
		if k.failed != nil {
			for _, p := range k.failed.parts {
				for i, z := range p.made {
					if z != nil && z.ImageSize() >= from && !yield(p.signed[i].Content(), z) {
						return
					}
				}
			}
		}
		for _, c := range k.releases {
			for signed, z := range c.kept(from) {
				if !yield(signed.Content(), z) {
					return
				}
			}
		}
	}
}

// newest is the large zone of an origin with the highest serial; nil if there is none.
func (k known) newest(origin string) (last *zone.Zone) {
	for _, z := range k.of(origin) {
		if z.ImageSize() >= cacheFrom && (last == nil || int32(z.Serial()-last.Serial()) > 0) { // RFC 1982
			last = z
		}
	}
	return last
}
