package release

import (
	"errors"
	"iter"
	"slices"
	"strings"
)

// Two trees are compared from their roots down, and only where they differ: what has the same digest is the same, with all that is below. A node
// that both have is below nodes that both have, or below nodes that the other one does not have, since no zone is in a tree twice. So who goes down
// in each below the nodes that the other one has not finds all that they have in common, and takes as long as what differs.

// frontier goes down some trees, a level at a time.
type frontier struct {
	trees []*tree
	nodes []*node // of the level
}

// down goes to a level, which is the one below or, at first, above all: to the nodes below those that are not known, and to roots.
func (f *frontier) down(level int, known map[Digest]bool) {
	var next []*node
	for _, n := range f.nodes {
		if !known[n.digest] {
			next = append(next, n.nodes...)
		}
	}
	for _, t := range f.trees {
		if t.root != nil && t.root.level == level {
			next = append(next, t.root)
		}
	}
	f.nodes = next
}

func (f *frontier) isRoot(n *node) bool {
	return slices.ContainsFunc(f.trees, func(t *tree) bool { return t.root == n })
}

// beside are the nodes of t that are in none of some other trees, those above before those below, and those of a level in order.
func (t *tree) beside(others []*tree) (all []*node) {
	mine, theirs := frontier{trees: []*tree{t}}, frontier{trees: others}
	var both map[Digest]bool
	for level := maxLevels; level >= 0; level-- {
		mine.down(level, both)
		theirs.down(level, both)
		has := make(map[Digest]bool, len(theirs.nodes))
		for _, n := range theirs.nodes {
			has[n.digest] = true
		}
		both = map[Digest]bool{}
		for _, n := range mine.nodes {
			if has[n.digest] {
				both[n.digest] = true
			} else {
				all = append(all, n)
			}
		}
		if t.root == nil || level <= t.root.level && len(both) == len(mine.nodes) {
			break
		}
	}
	return all
}

// Beside yields the zones, in their order, but for parts that one of some other releases has too. So it yields all that none of them has, or has
// otherwise, and of trees not much more. The others may be nil. The zones are not to be changed.
func (r *Release) Beside(others ...*Release) iter.Seq[*Zone] {
	return func(yield func(*Zone) bool) {
		for _, part := range r.partsBeside(others) {
			for i := range part {
				if !yield(&part[i]) {
					return
				}
			}
		}
	}
}

// partsBeside are the parts of Beside.
func (r *Release) partsBeside(others []*Release) (parts [][]Zone) {
	t := r.grown()
	if t == nil {
		same := func(o *Release) bool {
			return len(r.Zones) == 0 || o != nil && len(o.Zones) == len(r.Zones) && &o.Zones[0] == &r.Zones[0]
		}
		if !slices.ContainsFunc(others, same) {
			parts = append(parts, r.Zones)
		}
		return parts
	}
	var theirs []*tree
	for _, o := range others {
		if o != nil && o.grown() != nil {
			theirs = append(theirs, o.tree)
		}
	}
	for _, n := range t.beside(theirs) {
		if n.level == 0 {
			parts = append(parts, n.zones)
		}
	}
	return parts
}

// zone is the zone of an origin; nil if there is none.
func (t *tree) zone(origin string) *Zone {
	n := t.root
	for n != nil && n.level > 0 {
		i, found := slices.BinarySearchFunc(n.nodes, origin, func(n *node, origin string) int { return strings.Compare(n.first, origin) })
		if !found {
			i--
		}
		if i < 0 {
			return nil
		}
		n = n.nodes[i]
	}
	if n == nil {
		return nil
	}
	return zoneIn(n.zones, origin)
}

// With is a release with a number that has the zones of another, which may be nil, and has those of put, sorted by origin, beside them or in place
// of those of the same origins, and none of the origins gone. It has nothing else of the other one, and costs what differs. It is an error if a zone is not valid.
func (r *Release) With(number uint64, put []Zone, gone []string) (Release, error) {
	made := Release{Number: number, Zones: []Zone{}}
	edits, err := editsOf(put, gone)
	if err != nil {
		return made, err
	}
	if r == nil {
		r = &made
	}
	t := r.grown()
	switch {
	case t == nil:
		made.Zones = edits.apply(make([]Zone, 0, len(r.Zones)+len(edits)), r.Zones)
		return made, nil
	case t.root == nil:
		return made, errors.New("the zones of the release before are not known")
	}
	leaves, err := edits.leaves(t.leaves())
	if err != nil {
		return made, err
	}
	count := 0
	for _, n := range leaves {
		count += n.count
	}
	if count <= inlineZones {
		for _, n := range leaves {
			made.Zones = append(made.Zones, n.zones...)
		}
		return made, nil
	}
	made.Zones = nil
	made.tree, err = rise(leaves, t)
	return made, err
}

// edits are changes of zones, by origin, each once.
type edits []edit

type edit struct {
	origin string
	put    *Zone // nil: it goes
}

// editsOf are those of With.
func editsOf(put []Zone, gone []string) (edits, error) {
	all, goes := make(edits, 0, len(put)+len(gone)), make(map[string]bool, len(gone))
	for _, origin := range gone {
		goes[origin] = true
	}
	for i := range put {
		if i > 0 && put[i].Origin <= put[i-1].Origin {
			return nil, unsorted(put[i].Origin)
		}
		if !goes[put[i].Origin] {
			all = append(all, edit{put[i].Origin, &put[i]})
		}
	}
	for _, origin := range gone {
		all = append(all, edit{origin: origin})
	}
	slices.SortFunc(all, func(a, b edit) int { return strings.Compare(a.origin, b.origin) })
	return slices.CompactFunc(all, func(a, b edit) bool { return a.origin == b.origin }), nil
}

// before takes off the edits before an origin.
func (e *edits) before(origin string) edits {
	i := slices.IndexFunc(*e, func(e edit) bool { return e.origin >= origin })
	if i < 0 {
		i = len(*e)
	}
	taken := (*e)[:i]
	*e = (*e)[i:]
	return taken
}

// apply adds zones to a list, with the edits made.
func (e edits) apply(to, zones []Zone) []Zone {
	for i := range zones {
		for ; len(e) > 0 && e[0].origin < zones[i].Origin; e = e[1:] {
			if e[0].put != nil {
				to = append(to, *e[0].put)
			}
		}
		if len(e) == 0 || e[0].origin > zones[i].Origin {
			to = append(to, zones[i])
		} else if e[0].put != nil {
			to, e = append(to, *e[0].put), e[1:]
		} else {
			e = e[1:]
		}
	}
	for _, e := range e {
		if e.put != nil {
			to = append(to, *e.put)
		}
	}
	return to
}

// leaves are those of zones that were in other leaves, with the edits made.
func (e edits) leaves(before []*node) (leaves []*node, err error) {
	var loose []Zone // that are yet to be cut into leaves
	for i, leaf := range before {
		mine, apart := e, true
		if i+1 < len(before) {
			next := before[i+1].first
			mine = e.before(next)
			// what begins there now begins there whatever is before it, or not at all
			apart = rank(next) >= leafBits && (len(e) == 0 || e[0].origin != next || e[0].put != nil)
		}
		changed := len(loose) > 0 || len(mine) > 0 || !apart && len(e) > 0 && e[0].origin == before[i+1].first && e[0].put == nil
		if !changed {
			leaves = append(leaves, leaf)
			continue
		}
		if loose = mine.apply(loose, leaf.zones); !apart {
			continue
		}
		fresh, err := cut(loose, nil)
		if err != nil {
			return nil, err
		}
		leaves, loose = append(leaves, fresh...), nil
	}
	return leaves, nil
}
