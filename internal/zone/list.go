package zone

import (
	"crypto/sha256"
	"encoding/binary"
	"hash"
	"math/bits"
)

// A list is a sequence of items of the same size, in leaves and branches that are never changed, so that lists that differ
// in a little share the others. Where leaves and branches begin depends on the items alone, whatever was there before: at those
// whose name has a hash with so many zero bits. So equal lists have equal sums of leaves, branches and all, and what two
// lists differ by is in the leaves whose sums differ. A zone has two, each item of which is an owner:
//
//	order   every node in canonical order (RFC 4034 6.1): ref
//	hashed  every owner of NSEC3 records in that order: hash [20]octet · ref of the RRset
//
// The sums are SHA-256, of numbers in network byte order (n, records, names, signatures, expires: u32):
//
//	of a leaf     0 u8 · for every owner with records { 1 u8 · length u8 · owner in wire format, lower-case, or hash · n of sets ·
//	              { type u16 · TTL u32 · octets u32 of records · TTL u32 · octets u32 of RRSIGs · both, as in Rdata }… }…
//	of a branch   1 u8 · for every leaf { sum · records · names · signatures · expires }…
//	of the zone   2 u8 · the origin in wire format, lower-case · for each list { n of branches · { as of a leaf }… }
type list struct {
	size     int // octets of an item
	count    int // items
	leaves   []leaf
	keys     []uint64 // of the first item of each leaf: its ref, or the first eight octets of its hash
	branches []branch
	totals
}

// leaf is a part of a list that was not cut.
type leaf struct {
	items []byte
	*tally
	level uint32 // of the first item, see levelOf
}

// branch is a number of leaves.
type branch struct {
	leaves int
	*tally
}

// tally is what is known of the records of a leaf or branch.
type tally struct {
	sum [sha256.Size]byte
	totals
}

// totals are sums over owners, and the earliest expiration of a signature if there are any.
type totals struct {
	records, names, signatures, expires uint32
}

func (t *totals) add(other *totals) {
	if other.signatures > 0 && (t.signatures == 0 || int32(other.expires-t.expires) < 0) { // RFC 4034 3.1.5
		t.expires = other.expires
	}
	t.records += other.records
	t.names += other.names
	t.signatures += other.signatures
}

func (t *tally) appendTo(b []byte) []byte {
	b = append(b, t.sum[:]...)
	for _, n := range [...]uint32{t.records, t.names, t.signatures, t.expires} {
		b = binary.BigEndian.AppendUint32(b, n)
	}
	return b
}

// Levels at which a leaf and a branch begin: there are 64 items to a leaf on average, and 64 leaves to a branch.
const (
	leafLevel   = 6
	branchLevel = 12
)

// levelOf is the number of zero bits that the hash of an owner begins with: FNV-1a of 64 bits.
func levelOf(owner []byte) uint32 {
	h := uint64(0xcbf29ce484222325)
	for _, c := range owner {
		h = (h ^ uint64(c)) * 0x100000001b3
	}
	return uint32(bits.LeadingZeros64(h))
}

// spot is the place of an item in a list: the number of the leaf, and that of the item in it.
type spot struct{ leaf, at int }

// itemsOf counts the items of a leaf.
func (l *list) itemsOf(leaf int) int { return len(l.leaves[leaf].items) / l.size }

func (l *list) item(s spot) []byte {
	return l.leaves[s.leaf].items[s.at*l.size : (s.at+1)*l.size]
}

// first is the spot of the first item. It is no item's if the list is empty, see has.
func (l *list) first() spot { return spot{} }

// last is the spot of the last item. It is no item's if the list is empty.
func (l *list) last() spot {
	leaf := len(l.leaves) - 1
	if leaf < 0 {
		return spot{-1, 0}
	}
	return spot{leaf, l.itemsOf(leaf) - 1}
}

// has reports whether there is an item at a spot. No leaf is empty.
func (l *list) has(s spot) bool {
	return s.leaf >= 0 && s.leaf < len(l.leaves) && s.at < l.itemsOf(s.leaf)
}

func (l *list) next(s spot) spot {
	if s.leaf < 0 {
		return l.first()
	}
	if s.at++; s.leaf < len(l.leaves) && s.at >= l.itemsOf(s.leaf) {
		return spot{s.leaf + 1, 0}
	}
	return s
}

func (l *list) prev(s spot) spot {
	if s.at > 0 {
		return spot{s.leaf, s.at - 1}
	}
	if s.leaf--; s.leaf < 0 {
		return spot{-1, 0}
	}
	return spot{s.leaf, l.itemsOf(s.leaf) - 1}
}

// content is what a leaf's sum is of. It is used again.
type content struct {
	hash hash.Hash
	buf  []byte
	totals
}

// piece is how many octets are hashed at once: the runtime cannot stop a goroutine within.
const piece = 64 << 10

func (c *content) begin(kind byte) {
	if c.hash == nil {
		c.hash = sha256.New()
	}
	c.hash.Reset()
	c.buf, c.totals = append(c.buf[:0], kind), totals{}
}

// owner adds an owner with so many RRsets.
func (c *content) owner(owner []byte, sets int) {
	c.buf = append(append(c.buf, 1, byte(len(owner))), owner...)
	c.buf = binary.BigEndian.AppendUint32(c.buf, uint32(sets))
}

// set adds an RRset.
func (c *content) set(s *rrset) {
	b := binary.BigEndian.AppendUint16(c.buf, s.typ)
	b = binary.BigEndian.AppendUint32(b, s.ttl)
	b = binary.BigEndian.AppendUint32(b, s.split)
	b = binary.BigEndian.AppendUint32(b, s.sigTTL)
	b = binary.BigEndian.AppendUint32(b, uint32(len(s.data))-s.split)
	c.buf = b
	for data := s.data; len(data) > 0; {
		n := min(len(data), piece)
		c.buf = append(c.buf, data[:n]...)
		if data = data[n:]; len(c.buf) >= piece {
			c.hash.Write(c.buf)
			c.buf = c.buf[:0]
		}
	}
	c.records += uint32(s.records().Len())
	for sig := range s.sigs().All() {
		c.records++
		if len(sig) >= 12 {
			c.add(&totals{signatures: 1, expires: binary.BigEndian.Uint32(sig[8:])})
		}
	}
}

func (c *content) end() (sum [sha256.Size]byte) {
	c.hash.Write(c.buf)
	c.hash.Sum(sum[:0])
	return sum
}

// lister makes a list of items that come in order.
type lister struct {
	list
	key  func(item []byte) uint64
	tell func(item []byte, c *content) // adds the owner of an item, if that has records
	c    content

	open  []byte // items of the leaf that is being made
	level uint32 // of the first of them
}

// add adds an item of which the owner has a level, which counts as 0 if it is below leafLevel.
func (l *lister) add(item []byte, level uint32) {
	if level < leafLevel {
		level = 0
	}
	if level > 0 {
		l.close()
	} else if last := len(l.leaves) - 1; len(l.open) == 0 && last >= 0 { // what it followed began a leaf and is gone
		l.level, l.open = l.leaves[last].level, append(l.open, l.leaves[last].items...)
		l.leaves, l.keys = l.leaves[:last], l.keys[:last]
	}
	if len(l.open) == 0 {
		l.level = level
	}
	l.open = append(l.open, item...)
}

// keep adds a leaf of another list, with its key. Its first item begins a leaf, or the list.
func (l *lister) keep(f leaf, key uint64) {
	l.close()
	l.leaves, l.keys = append(l.leaves, f), append(l.keys, key)
}

// close ends the leaf that is being made.
func (l *lister) close() {
	if len(l.open) == 0 {
		return
	}
	l.c.begin(0)
	for at := 0; at < len(l.open); at += l.size {
		l.tell(l.open[at:at+l.size], &l.c)
	}
	l.leaves = append(l.leaves, leaf{append([]byte(nil), l.open...), &tally{l.c.end(), l.c.totals}, l.level})
	l.keys = append(l.keys, l.key(l.open))
	l.open = l.open[:0]
}

// finish returns the list. Branches that another list has too are taken from there.
func (l *lister) finish(old *list) list {
	l.close()
	known := make(map[*tally]branch, len(old.branches)) // by the first leaf
	starts := make(map[*tally]int, len(old.branches))
	at := 0
	for _, b := range old.branches {
		first := old.leaves[at].tally
		known[first], starts[first] = b, at
		at += b.leaves
	}
	for i, from := 0, 0; i < len(l.leaves); i++ {
		l.count += l.itemsOf(i)
		if i+1 < len(l.leaves) && l.leaves[i+1].level < branchLevel {
			continue
		}
		leaves := l.leaves[from : i+1]
		from = i + 1
		first := leaves[0].tally
		b, ok := known[first]
		if !ok || !sameLeaves(leaves, old.leaves[starts[first]:starts[first]+b.leaves]) {
			b = l.branch(leaves)
		}
		l.branches = append(l.branches, b)
		l.totals.add(&b.totals)
	}
	return l.list
}

func sameLeaves(x, y []leaf) bool {
	if len(x) != len(y) {
		return false
	}
	for i := range x {
		if x[i].tally != y[i].tally {
			return false
		}
	}
	return true
}

func (l *lister) branch(leaves []leaf) branch {
	l.c.begin(1)
	for i := range leaves {
		l.c.buf = leaves[i].appendTo(l.c.buf)
		l.c.totals.add(&leaves[i].totals)
	}
	return branch{len(leaves), &tally{l.c.end(), l.c.totals}}
}

// listEdit is a change of a list: of what an owner has, or that an item goes or comes before a spot.
type listEdit struct {
	spot
	op    byte // one of:
	level uint32
	item  []byte // that comes
}

const (
	touch = iota
	leave
	enter
)

// edit makes a list of another one. Edits are in order of spots, an item that comes before others that concern the same spot.
func (l *lister) edit(old *list, edits []listEdit) list {
	l.leaves, l.keys = make([]leaf, 0, len(old.leaves)+len(edits)), make([]uint64, 0, len(old.leaves)+len(edits))
	for i := range old.leaves {
		n := 0
		for n < len(edits) && (edits[n].leaf == i || i == len(old.leaves)-1) {
			n++
		}
		if n == 0 {
			l.keep(old.leaves[i], old.keys[i])
			continue
		}
		l.editLeaf(old, i, edits[:n])
		edits = edits[n:]
	}
	for _, e := range edits { // of a list that was empty
		l.add(e.item, e.level)
	}
	return l.finish(old)
}

func (l *lister) editLeaf(old *list, i int, edits []listEdit) {
	for at := range old.itemsOf(i) + 1 {
		end := at == old.itemsOf(i)
		gone := end
		for len(edits) > 0 && (edits[0].spot == spot{i, at} || end) {
			switch edits[0].op {
			case enter:
				l.add(edits[0].item, edits[0].level)
			case leave:
				gone = true
			}
			edits = edits[1:]
		}
		if !gone {
			level := uint32(0)
			if at == 0 {
				level = old.leaves[i].level
			}
			l.add(old.item(spot{i, at}), level)
		}
	}
}
