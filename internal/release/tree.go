package release

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"math/bits"
	"slices"
	"time"
)

// In ManifestFormat the zones of a release of more than inlineZones are not in the manifest, but in files of their own beside it, which
// never change, are named by their SHA-256, and make a tree. So a release costs what it changes: who has the files of one reads
// those of the next that differ.
//
// Zones are by origin in byte order, and cut into leaves: one begins with each zone whose origin has a rank of leafBits or more, which is the
// case for one in eight. Above, a node of level L begins with each node below whose first origin has a rank of leafBits + L·nodeBits or
// more: one in sixteen. The root has all that is left, as soon as that is rootNodes or less. Where a node begins hangs on the
// origin there alone, so equal zones make equal trees, whatever came before, and a change concerns one node of each level.
//
//	[{"origin":"example.org.","serial":2026112201,…},…]      a leaf
//	{"nodes":"…"}                                            another node: SHA-256 of the nodes below, one after the other, in base64
//
// (with a final newline). The manifest has the root in place of "zones":
//
//	"tree":{"sha256":"5d41…","levels":3,"zones":100000}
const (
	inlineZones = 64
	leafBits    = 3
	nodeBits    = 4
	rootNodes   = 64
	maxLevels   = 8
	maxBelow    = 256 // zones of a leaf, and nodes below another; beyond, the next one begins whatever its rank
	// MaxNodeBytes bounds a file of the tree. A leaf is the longer one: of zones that have all the packs that they may have.
	MaxNodeBytes = 8 << 20
)

// nodeFile is what the name of a file of the tree ends with.
const nodeFile = "zones.json"

// NodeName is where the node of a tree of zones with digest d lies.
func NodeName(d Digest) string { return "targets/" + d.String() + "." + nodeFile }

// IsNode reports whether a file of a repository is a node of a tree of zones.
func IsNode(name string) bool { return kindOf(name) == nodeFile }

// treeRef is how a manifest names a tree.
type treeRef struct {
	SHA256 Digest `json:"sha256"` // of the root's file
	Levels int    `json:"levels"` // of the root: 1 if there are leaves below it
	Zones  int    `json:"zones"`  // how many there are
}

func (r treeRef) validate() error {
	if r.Levels < 1 || r.Levels > maxLevels {
		return fmt.Errorf("a tree of %d levels: 1 to %d", r.Levels, maxLevels)
	}
	if r.Zones <= inlineZones || r.Zones > MaxZones {
		return fmt.Errorf("a tree of %d zones: %d to %d", r.Zones, inlineZones+1, MaxZones)
	}
	return nil
}

// tree is the tree of a release's zones. It is never changed, and neither are its zones.
type tree struct {
	ref  treeRef
	root *node // nil: only its name is known
	part sum   // then: of zones whose files could be read all the same
}

// node is a part of a tree. It is never changed, and shared by trees.
type node struct {
	digest      Digest
	level       int    // 0 for a leaf
	first, last string // origins
	count       int    // zones below it
	bytes       int    // of its file, and those below
	sum         sum
	zones       []Zone // of a leaf
	nodes       []*node
}

// sum is what is known of zones together.
type sum struct {
	length int64     // of their texts
	origin string    // of the zone whose signatures end first; "" if none is signed
	signed time.Time // when they end
}

func (s *sum) add(o sum) {
	s.length += o.length
	if !o.signed.IsZero() && (s.signed.IsZero() || o.signed.Before(s.signed)) {
		s.origin, s.signed = o.origin, o.signed
	}
}

func sumOf(zones []Zone) (s sum) {
	for i := range zones {
		z := &zones[i]
		s.add(sum{z.Length, z.Origin, z.SignedUntil})
	}
	return s
}

// sum is that of a release's zones.
func (r *Release) sum() sum {
	switch t := r.grown(); {
	case t == nil:
		return sumOf(r.Zones)
	case t.root == nil:
		return t.part
	default:
		return t.root.sum
	}
}

// SignedUntil is the zone of the release whose signatures end first, and when; zero if none is signed.
func (r *Release) SignedUntil() (origin string, ends time.Time) {
	s := r.sum()
	return s.origin, s.signed
}

// Octets is how long the texts of the release's zones are together.
func (r *Release) Octets() int64 { return r.sum().length }

// size is how many there are right below it.
func (n *node) size() int { return len(n.zones) + len(n.nodes) }

// rank is how many bits of a hash of an origin are zero: 64-bit FNV-1a, and MurmurHash3's finalizer.
func rank(origin string) int {
	h := uint64(14695981039346656037)
	for i := range len(origin) {
		h = (h ^ uint64(origin[i])) * 1099511628211
	}
	h = (h ^ h>>33) * 0xff51afd7ed558ccd
	h = (h ^ h>>33) * 0xc4ceb9fe1a85ec53
	return bits.TrailingZeros64(h ^ h>>33)
}

// begins reports whether a node of a level begins with an origin, after a node that has so many below.
func begins(level int, origin string, before int) bool {
	return before == maxBelow || rank(origin) >= leafBits+level*nodeBits
}

// grown is the tree of r's zones; nil if they are in a list.
func (r *Release) grown() *tree {
	if r.Zones != nil {
		return nil
	}
	return r.tree
}

// isWhole reports whether the zones of all releases are known, and not only the names of their trees.
func (m Manifest) isWhole() bool {
	for r := range m.Releases() {
		if t := r.grown(); t != nil && t.root == nil {
			return false
		}
	}
	return true
}

// trees are those of the manifest's releases.
func (m Manifest) trees() (all []*tree) {
	for r := range m.Releases() {
		if t := r.grown(); t != nil && t.root != nil {
			all = append(all, t)
		}
	}
	return all
}

// Leaves yields the zones of a release in their order, in the parts in which they are signed: of many zones the leaves of a tree, each with its
// digest, which no other zones have; else all at once, with the zero digest.
func (r *Release) Leaves() iter.Seq2[Digest, []Zone] {
	return func(yield func(Digest, []Zone) bool) {
		t := r.grown()
		if t == nil {
			yield(Digest{}, r.Zones)
			return
		}
		t.walk(func(n *node) bool { return n.level > 0 || yield(n.digest, n.zones) })
	}
}

// Nodes yields the names of the files that hold the zones of the manifest's releases, where they are not in the manifest. One that both
// releases have may come twice.
func (m Manifest) Nodes() iter.Seq[string] {
	return func(yield func(string) bool) {
		for _, t := range m.trees() {
			if !t.walk(func(n *node) bool { return yield(NodeName(n.digest)) }) {
				return
			}
		}
	}
}

// walk visits all nodes, the root first and leaves in order, until visit returns false; then it does too.
func (t *tree) walk(visit func(*node) bool) bool {
	if t == nil || t.root == nil {
		return true
	}
	var down func(n *node) bool
	down = func(n *node) bool {
		if !visit(n) {
			return false
		}
		for _, below := range n.nodes {
			if !down(below) {
				return false
			}
		}
		return true
	}
	return down(t.root)
}

// leaves are those of a tree, in order; none of nil.
func (t *tree) leaves() (all []*node) {
	t.walk(func(n *node) bool {
		if n.level == 0 {
			all = append(all, n)
		}
		return true
	})
	return all
}

// plant gives the large releases of a manifest in ManifestFormat their trees, and those of formats before lists. What is in some older
// trees is taken from there. Zones that are in those are known to be valid.
func (m Manifest) plant(older []*tree) (Manifest, error) {
	for i, r := range []**Release{&m.Current, &m.Next} {
		if *r == nil {
			continue
		}
		planted, t := **r, (*r).grown()
		switch {
		case m.Format < ManifestFormat && t != nil:
			planted.Zones, planted.tree = planted.List(), nil
		case m.Format >= ManifestFormat && t == nil && len(planted.Zones) > inlineZones:
			var err error
			if t, err = grow(planted.Zones, older); err != nil {
				return m, fmt.Errorf("%s: %w", []string{"current", "next"}[i], err)
			}
			planted.Zones, planted.tree = nil, t
		}
		if *r = &planted; t != nil && t.root != nil {
			older = append(older, t)
		}
	}
	return m, nil
}

// fresh are the files of the nodes of a manifest's trees that are in none of some older ones.
func (m Manifest) fresh(older []*tree) (files []File, err error) {
	for _, t := range m.trees() {
		for _, n := range t.beside(older) {
			data, err := n.encode()
			if err != nil {
				return nil, err
			}
			files = append(files, File{NodeName(n.digest), data})
		}
		older = append(older, t)
	}
	return files, nil
}

// grow makes the tree of zones. The last of the older trees is the one that is compared with.
func grow(zones []Zone, older []*tree) (*tree, error) {
	var last *tree
	if len(older) > 0 {
		last = older[len(older)-1]
	}
	level, err := cut(zones, last.leaves())
	if err != nil {
		return nil, err
	}
	return rise(level, last)
}

// rise makes a tree of leaves. Nodes of an older tree, which may be nil, are taken over.
func rise(level []*node, older *tree) (*tree, error) {
	above := map[*node]*node{} // by the first node below: those of the older tree, but for its root, which may have what other nodes may not
	older.walk(func(n *node) bool {
		if n.level > 0 && n != older.root {
			above[n.nodes[0]] = n
		}
		return true
	})
	at := 1
	for ; len(level) > rootNodes && at < maxLevels; at++ {
		var next []*node
		for from := 0; from < len(level); {
			to := from + 1
			for to < len(level) && !begins(at, level[to].first, to-from) {
				to++
			}
			below := level[from:to]
			if n := above[below[0]]; n != nil && slices.Equal(n.nodes, below) {
				next = append(next, n)
			} else {
				next = append(next, newNode(below))
			}
			from = to
		}
		level = next
	}
	root := newNode(level)
	if root.count > MaxZones {
		return nil, fmt.Errorf("%d zones, more than %d", root.count, MaxZones)
	}
	if root.bytes > MaxManifestBytes {
		return nil, fmt.Errorf("the zones take %d bytes, more than %d", root.bytes, MaxManifestBytes)
	}
	return &tree{ref: treeRef{SHA256: root.digest, Levels: at, Zones: root.count}, root: root}, nil
}

// newNode is the node above others.
func newNode(below []*node) *node {
	n := &node{level: below[0].level + 1, nodes: slices.Clone(below)}
	data, err := n.encode()
	if err != nil {
		panic(err) // of octets
	}
	n.digest, n.bytes = DigestOf(data), len(data)
	n.settle()
	return n
}

// encode is the node's file.
func (n *node) encode() ([]byte, error) {
	if n.level == 0 {
		return encodeLine(n.zones)
	}
	digests := make([]byte, 0, len(n.nodes)*len(Digest{}))
	for _, b := range n.nodes {
		digests = append(digests, b.digest[:]...)
	}
	return encodeLine(innerNode{digests})
}

// cut cuts zones into leaves, of which those that were there before are the same.
func cut(zones []Zone, before []*node) (leaves []*node, err error) {
	last := ""
	for i := 0; i < len(zones); {
		if len(leaves) > 0 && zones[i].Origin <= last {
			return nil, unsorted(zones[i].Origin)
		}
		for len(before) > 0 && before[0].first < zones[i].Origin {
			before = before[1:]
		}
		var leaf *node
		if len(before) > 0 && before[0].isLeafOf(zones[i:]) {
			leaf = before[0]
		} else if leaf, err = firstLeaf(zones[i:]); err != nil {
			return nil, err
		}
		leaves, last = append(leaves, leaf), leaf.last
		i += len(leaf.zones)
	}
	return leaves, nil
}

func unsorted(origin string) error {
	return fmt.Errorf("zone %q: must be sorted by origin, each once", origin)
}

// isLeafOf reports whether a leaf is the first of these zones.
func (n *node) isLeafOf(zones []Zone) bool {
	if len(zones) < len(n.zones) {
		return false
	}
	for i := range n.zones {
		if !n.zones[i].equal(&zones[i]) {
			return false
		}
	}
	return len(zones) == len(n.zones) || begins(0, zones[len(n.zones)].Origin, len(n.zones))
}

// firstLeaf is the first leaf of zones.
func firstLeaf(zones []Zone) (*node, error) {
	to := 1
	for to < len(zones) && !begins(0, zones[to].Origin, to) {
		to++
	}
	n := &node{zones: slices.Clone(zones[:to])}
	if err := validZones(n.zones); err != nil {
		return nil, err
	}
	data, err := n.encode()
	if err == nil && len(data) > MaxNodeBytes {
		err = fmt.Errorf("zone %q: a leaf of %d bytes, more than %d", zones[0].Origin, len(data), MaxNodeBytes)
	}
	if err != nil {
		return nil, err
	}
	n.digest, n.bytes = DigestOf(data), len(data)
	n.settle()
	return n, nil
}

// innerNode is the encoding of what is no leaf.
type innerNode struct {
	Nodes []byte `json:"nodes"`
}

// settle counts what is below, once.
func (n *node) settle() {
	if n.level == 0 {
		n.first, n.last, n.count, n.sum = n.zones[0].Origin, n.zones[len(n.zones)-1].Origin, len(n.zones), sumOf(n.zones)
		return
	}
	n.first, n.last = n.nodes[0].first, n.nodes[len(n.nodes)-1].last
	for _, b := range n.nodes {
		n.count += b.count
		n.bytes += b.bytes
		n.sum.add(b.sum)
	}
}

// check judges what was read of a node that is no leaf, whose nodes below were judged.
func (n *node) check(root bool) error {
	below := 0
	for i, b := range n.nodes {
		if below += b.size(); i == 0 {
			continue
		}
		before := n.nodes[i-1]
		switch {
		case b.first <= before.last:
			return unsorted(b.first)
		case !begins(b.level, b.first, before.size()):
			return fmt.Errorf("zone %q: no node of level %d begins with it", b.first, b.level)
		case !root && begins(n.level, b.first, i):
			return fmt.Errorf("zone %q: a node of level %d begins with it", b.first, n.level)
		}
	}
	if root && n.level < maxLevels && len(n.nodes) > rootNodes {
		return fmt.Errorf("a root of %d nodes, more than %d", len(n.nodes), rootNodes)
	}
	if root && n.level > 1 && below <= rootNodes {
		return errors.New("a root that is one level too high")
	}
	n.settle()
	return nil
}

// parseLeaf reads a leaf.
func parseLeaf(digest Digest, data []byte) (*node, error) {
	var zones []Zone
	if err := decodeStrict(data, &zones); err != nil {
		return nil, err
	}
	if len(zones) < 1 || len(zones) > maxBelow {
		return nil, fmt.Errorf("a leaf of %d zones: 1 to %d", len(zones), maxBelow)
	}
	if err := validZones(zones); err != nil {
		return nil, err
	}
	for i := 1; i < len(zones); i++ {
		if begins(0, zones[i].Origin, i) {
			return nil, fmt.Errorf("zone %q: a leaf begins with it", zones[i].Origin)
		}
	}
	if again, err := encodeLine(zones); err != nil || !bytes.Equal(again, data) {
		return nil, errNotCanonical
	}
	n := &node{digest: digest, bytes: len(data), zones: zones}
	n.settle()
	return n, nil
}

// parseInner reads the digests of the nodes below one that is no leaf.
func parseInner(data []byte) ([]Digest, error) {
	var inner innerNode
	if err := decodeStrict(data, &inner); err != nil {
		return nil, err
	}
	if again, err := encodeLine(inner); err != nil || !bytes.Equal(again, data) {
		return nil, errNotCanonical
	}
	if len(inner.Nodes) == 0 || len(inner.Nodes)%len(Digest{}) != 0 {
		return nil, fmt.Errorf("%d octets of digests", len(inner.Nodes))
	}
	var below []Digest
	for d := range slices.Chunk(inner.Nodes, len(Digest{})) {
		below = append(below, Digest(d))
	}
	return below, nil
}

var errNotCanonical = errors.New("not in canonical encoding")

// validZones checks a list of zones.
func validZones(zones []Zone) error {
	for i := range zones {
		z := &zones[i]
		if err := z.validate(); err != nil {
			return fmt.Errorf("zone %q: %w", z.Origin, err)
		}
		if i > 0 && z.Origin <= zones[i-1].Origin {
			return unsorted(z.Origin)
		}
	}
	return nil
}

// source is where nodes are read from. nil: from nowhere.
type source struct {
	read   readFile
	expect func(names []string) // is told of what will be read; nil: nobody
}

// sourceOf is a repository as a source. It may have a method Expect, to fetch at once what it will be asked for one by one.
func sourceOf(repo fs.FS) *source {
	if repo == nil {
		return &source{read: func(name string, _ int64) ([]byte, error) {
			return nil, refuse(name, Missing, "no repository is at hand")
		}}
	}
	s := &source{read: func(name string, max int64) ([]byte, error) { return read(repo, name, max) }}
	if e, ok := repo.(interface{ Expect(names []string) }); ok {
		s.expect = e.Expect
	}
	return s
}

// load gives the releases of a manifest the zones of their trees. Nodes that are in older trees are not read again. Errors are *Error.
func (m Manifest) load(from *source, older []*tree) (Manifest, error) {
	for _, r := range []**Release{&m.Current, &m.Next} {
		if *r == nil {
			continue
		}
		t := (*r).grown()
		if t == nil || t.root != nil {
			continue
		}
		t, err := t.load(from, older)
		if err != nil {
			return m, err
		}
		loaded := **r
		loaded.tree = t
		if err := loaded.validateOverride(); err != nil {
			return m, refuse(NodeName(t.ref.SHA256), Format, "override: %v", err)
		}
		*r, older = &loaded, append(older, t)
	}
	return m, nil
}

// load reads a tree of which the name is known.
func (t *tree) load(from *source, older []*tree) (*tree, error) {
	for _, o := range older {
		if o.ref == t.ref {
			return o, nil
		}
	}
	l := loader{source: from, older: older, known: map[Digest]*node{}}
	root, err := l.all(t.ref)
	if err != nil {
		return nil, err
	}
	if root.bytes > MaxManifestBytes {
		return nil, refuse(NodeName(root.digest), Oversize, "the zones take %d bytes, more than %d", root.bytes, MaxManifestBytes)
	}
	if root.count != t.ref.Zones {
		return nil, refuse(NodeName(root.digest), Format, "%d zones, the manifest says %d", root.count, t.ref.Zones)
	}
	return &tree{ref: t.ref, root: root}, nil
}

// partly sums up those zones of the manifest's trees whose files can be read, where others cannot.
func (m Manifest) partly(from *source) Manifest {
	for _, r := range []**Release{&m.Current, &m.Next} {
		if *r == nil {
			continue
		}
		if t := (*r).grown(); t != nil && t.root == nil {
			known := **r
			known.tree = &tree{ref: t.ref, part: t.readable(from)}
			*r = &known
		}
	}
	return m
}

// SignedAt is m with what else is known of when the first signatures end in the release of a number, and of which zone, where its zones are not known.
func (m Manifest) SignedAt(number uint64, origin string, ends time.Time) Manifest {
	for _, r := range []**Release{&m.Current, &m.Next} {
		if *r == nil || (*r).Number != number {
			continue
		}
		if t := (*r).grown(); t != nil && t.root == nil {
			known, part := **r, t.part
			part.add(sum{origin: origin, signed: ends})
			known.tree = &tree{ref: t.ref, part: part}
			*r = &known
		}
	}
	return m
}

// readable sums up the zones of a tree whose files can be read. They are not judged.
func (t *tree) readable(from *source) (s sum) {
	wanted := []Digest{t.ref.SHA256}
	for level := t.ref.Levels; level >= 0 && len(wanted) <= MaxZones; level-- {
		var next []Digest
		for _, d := range wanted {
			data, err := from.read(NodeName(d), MaxNodeBytes)
			if err != nil || DigestOf(data) != d {
				continue
			}
			if level == 0 {
				if leaf, err := parseLeaf(d, data); err == nil {
					s.add(leaf.sum)
				}
			} else if below, err := parseInner(data); err == nil {
				next = append(next, below...)
			}
		}
		wanted = next
	}
	return s
}

// loader reads nodes.
type loader struct {
	*source
	older []*tree
	known map[Digest]*node // that were read, or are in the older trees, as far as the tree may have them
	bytes int              // that were read
}

// unlinked is a node that was read, with the names of those below.
type unlinked struct {
	*node
	below []Digest
}

// all reads what is not known of a tree, level by level from the root, and then judges it from the leaves up.
func (l *loader) all(ref treeRef) (*node, error) {
	wanted, levels := []Digest{ref.SHA256}, make([][]unlinked, ref.Levels+1)
	theirs := frontier{trees: l.older}
	for level := maxLevels; level >= ref.Levels; level-- {
		theirs.down(level, nil)
	}
	taken := map[Digest]bool{} // from an older tree
	for level := ref.Levels; level >= 0 && len(wanted) > 0; level-- {
		if len(wanted) > MaxZones {
			return nil, refuse(NodeName(ref.SHA256), Format, "more than %d nodes of level %d", MaxZones, level)
		}
		read, err := l.level(level, wanted)
		if err != nil {
			return nil, err
		}
		levels[level], wanted = read, nil
		theirs.down(level-1, taken)
		for _, n := range theirs.nodes {
			if !theirs.isRoot(n) { // which may have what other nodes may not
				l.known[n.digest] = n
			}
		}
		clear(taken)
		seen := map[Digest]bool{}
		for _, u := range read {
			for _, d := range u.below {
				if taken[d] = l.known[d] != nil; !taken[d] && !seen[d] {
					seen[d], wanted = true, append(wanted, d)
				}
			}
		}
	}
	for level, read := range levels {
		for _, u := range read {
			if err := l.link(u, level == ref.Levels); err != nil {
				return nil, refuse(NodeName(u.digest), Format, "%v", err)
			}
		}
	}
	return levels[ref.Levels][0].node, nil
}

// level reads nodes of a level.
func (l *loader) level(level int, wanted []Digest) ([]unlinked, error) {
	if l.expect != nil {
		names := make([]string, len(wanted))
		for i, d := range wanted {
			names[i] = NodeName(d)
		}
		l.expect(names)
	}
	nodes := make([]unlinked, 0, len(wanted))
	for _, d := range wanted {
		name := NodeName(d)
		data, err := l.read(name, MaxNodeBytes)
		if err != nil {
			return nil, err
		}
		if l.bytes += len(data); l.bytes > MaxManifestBytes {
			return nil, refuse(name, Oversize, "the zones of a release take more than %d bytes", MaxManifestBytes)
		}
		if DigestOf(data) != d {
			return nil, refuse(name, Mismatch, "the content is %s", DigestOf(data))
		}
		u := unlinked{node: &node{digest: d, bytes: len(data), level: level}}
		if level == 0 {
			u.node, err = parseLeaf(d, data)
		} else {
			u.below, err = parseInner(data)
		}
		if err != nil {
			return nil, refuse(name, Format, "%v", err)
		}
		nodes = append(nodes, u)
	}
	return nodes, nil
}

// link gives a node those below it, and judges it.
func (l *loader) link(u unlinked, root bool) error {
	if u.level > 0 {
		for _, d := range u.below {
			below := l.known[d]
			if below == nil || below.level != u.level-1 {
				return fmt.Errorf("%s is no node of level %d", d, u.level-1)
			}
			u.nodes = append(u.nodes, below)
		}
		if err := u.check(root); err != nil {
			return err
		}
	}
	if !root {
		l.known[u.digest] = u.node
	}
	return nil
}

// OfZones reports whether what an error says is wrong is a file of a release's zones, and not what names it.
func OfZones(err error) bool {
	var e *Error
	return errors.As(err, &e) && IsNode(e.File)
}
