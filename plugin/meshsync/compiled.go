package meshsync

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"iter"
	"maps"
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
	list    []status.Zone
	digest  string              // of list, in hexadecimal
	change  *status.ZonesChange // from the list of the release that was compiled before; nil: it is more than a little
	records int
	history history

	fragmented []string // origins of zones that are to be put in order, see compactor

	signed []*release.Zone // of the release; not to be changed
	made   []*zone.Zone    // of these; nil where none could be made
	parts  []part          // of both, in their order
}

// part are zones that are signed together.
type part struct {
	leaf    release.Digest // zero: it has none
	at, n   int            // of the first zone, and how many there are
	from    *compiled      // the release that they are shared with, while this one is compiled; nil: none
	records int            // in all of them
	large   bool           // one of them is kept compiled, or would be
}

// newCompiled is a release of which nothing was made yet.
func newCompiled(r *release.Release) *compiled {
	n := r.Len()
	c := &compiled{signed: make([]*release.Zone, 0, n), made: make([]*zone.Zone, n), list: make([]status.Zone, n)}
	for leaf, zones := range r.Leaves() {
		if len(zones) > 0 {
			c.parts = append(c.parts, part{leaf: leaf, at: len(c.signed), n: len(zones)})
		}
		for i := range zones {
			c.signed = append(c.signed, &zones[i])
		}
	}
	return c
}

// share takes over the parts that another release has too.
func (c *compiled) share(o *compiled) {
	i := 0
	for j := range c.parts {
		p := &c.parts[j]
		if p.leaf == (release.Digest{}) || p.from != nil {
			continue
		}
		for i < len(o.parts) && o.signed[o.parts[i].at].Origin < c.signed[p.at].Origin {
			i++
		}
		if i == len(o.parts) {
			break
		}
		if same := o.parts[i]; same.leaf == p.leaf {
			p.from, p.records, p.large = o, same.records, same.large
			copy(c.made[p.at:p.at+p.n], o.made[same.at:])
			copy(c.list[p.at:p.at+p.n], o.list[same.at:])
		}
	}
	for _, origin := range o.fragmented {
		if z := c.of(origin); z != nil && z.Fragmented() && !slices.Contains(c.fragmented, origin) {
			c.fragmented = append(c.fragmented, origin)
		}
	}
}

// of is the zone that was made of an origin; nil if none was, yet.
func (c *compiled) of(origin string) *zone.Zone {
	i, found := slices.BinarySearchFunc(c.signed, origin, func(z *release.Zone, origin string) int { return strings.Compare(z.Origin, origin) })
	if !found {
		return nil
	}
	return c.made[i]
}

// finish puts together what was made, of which those that are fresh are not shared, and which may have the most in common with base. large is
// how many octets an image has from which it is large.
func (c *compiled) finish(fresh []int, base *compiled, large int) error {
	for _, i := range fresh {
		c.list[i] = status.Zone{Origin: c.signed[i].Origin, Serial: c.signed[i].Serial}
	}
	at := 0
	for _, i := range fresh {
		for c.parts[at].at+c.parts[at].n <= i {
			at++
		}
		p := &c.parts[at]
		p.records += c.made[i].Len()
		if c.made[i].Fragmented() {
			c.fragmented = append(c.fragmented, c.signed[i].Origin)
		}
		p.large = p.large || c.made[i].ImageSize() >= large
	}
	for i := range c.parts {
		c.records += c.parts[i].records
	}
	if c.digest = c.listDigest(); base != nil {
		c.change = c.changeFrom(base)
	}
	if base != nil && len(base.made) == len(c.made) {
		var others []*zone.Zone
		for _, p := range c.parts {
			if p.from != base {
				others = append(others, c.made[p.at:p.at+p.n]...)
			}
		}
		c.zones = base.zones.With(others...)
	}
	for i := range c.parts {
		c.parts[i].from = nil // not to be kept for ever
	}
	if c.zones != nil {
		return nil
	}
	var err error
	c.zones, err = zone.NewZones(c.made...)
	return err
}

// listDigest is the digest of the list: of the parts that are signed together, for which theirs stand, and of the zones of others.
func (c *compiled) listDigest() string {
	h := sha256.New()
	for _, p := range c.parts {
		if h.Write(p.leaf[:]); p.leaf != (release.Digest{}) {
			continue
		}
		for _, z := range c.list[p.at : p.at+p.n] {
			fmt.Fprintln(h, z.Origin, z.Serial)
		}
	}
	return hex.EncodeToString(h.Sum(nil))
}

// maxChange is how many zones a change of the list names, since it is said in each status.
const maxChange = 100

// changeFrom is how the list became of that of base, of which it shares parts; nil if more than a little changed.
func (c *compiled) changeFrom(base *compiled) *status.ZonesChange {
	shared, was := map[release.Digest]bool{}, map[string]uint32{}
	var now []status.Zone
	for _, p := range c.parts {
		if p.from == base {
			shared[p.leaf] = true
		} else {
			now = append(now, c.list[p.at:p.at+p.n]...)
		}
	}
	for _, p := range base.parts {
		if shared[p.leaf] {
			continue
		}
		for _, z := range base.list[p.at : p.at+p.n] {
			was[z.Origin] = z.Serial
		}
	}
	change := &status.ZonesChange{From: base.digest}
	for _, z := range now {
		if serial, had := was[z.Origin]; !had || serial != z.Serial {
			change.Put = append(change.Put, z)
		}
		delete(was, z.Origin)
	}
	if len(change.Put)+len(was) > maxChange {
		return nil
	}
	change.Gone = slices.Sorted(maps.Keys(was))
	return change
}

// byContent are the zones that were made, by their content.
func (c *compiled) byContent() map[release.Digest]*zone.Zone {
	all := map[release.Digest]*zone.Zone{}
	for i, z := range c.made {
		if z != nil {
			all[c.signed[i].Content()] = z
		}
	}
	return all
}

// large are the zones that are kept compiled, or would be, with what was signed of them.
func (c *compiled) large(from int) iter.Seq2[*release.Zone, *zone.Zone] {
	return func(yield func(*release.Zone, *zone.Zone) bool) {
		for _, p := range c.parts {
			for i := p.at; i < p.at+p.n && p.large; i++ {
				if c.made[i].ImageSize() >= from && !yield(c.signed[i], c.made[i]) {
					return
				}
			}
		}
	}
}

// known are zones that are compiled already.
type known struct {
	others   map[release.Digest]*zone.Zone // of a release that failed, by content
	releases []*compiled                   // the newest first
}

// zone is the one that was signed; nil if it is not among them.
func (k known) zone(signed release.Zone) *zone.Zone {
	if z := k.others[signed.Content()]; z != nil && z.Origin() == signed.Origin {
		return z
	}
	for _, c := range k.releases {
		i, found := slices.BinarySearchFunc(c.signed, signed.Origin, func(z *release.Zone, origin string) int { return strings.Compare(z.Origin, origin) })
		if found && c.signed[i].Content() == signed.Content() {
			return c.made[i]
		}
	}
	return nil
}

// of are all zones of an origin.
func (k known) of(origin string) (all []*zone.Zone) {
	for _, z := range k.others {
		if z.Origin() == origin {
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

// large are those that are kept compiled, or would be, by their content.
func (k known) large(from int) iter.Seq2[release.Digest, *zone.Zone] {
	return func(yield func(release.Digest, *zone.Zone) bool) {
		for text, z := range k.others {
			if z.ImageSize() >= from && !yield(text, z) {
				return
			}
		}
		for _, c := range k.releases {
			for signed, z := range c.large(from) {
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
