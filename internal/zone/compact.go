package zone

import (
	"bytes"
	"encoding/binary"
	"math"
	"math/bits"
)

// Shares of an image that may be loose, which is where a Builder would not have put it. From looseShare on it is time for Compact. Apply
// does not wait for that with worstShare, and not in a small image, of which Compact takes some milliseconds.
const (
	looseShare = 4
	worstShare = 2
	smallImage = 1 << 20 // octets
)

// Fragmented reports whether so much of a large zone is where Apply found room for it that it is time for Compact: a quarter.
func (z *Zone) Fragmented() bool {
	size := z.imageOctets()
	return size >= smallImage && z.loose*looseShare > uint64(size)
}

// isLoose reports whether so much is loose that Apply is to put it in order at once.
func (z *Zone) isLoose() bool {
	size, share := z.imageOctets(), uint64(worstShare)
	if size < smallImage {
		share = looseShare
	}
	return z.loose*share > uint64(size)
}

// Compact returns the zone laid out as a Builder lays out the same records: with the same answers, and the same Root. It takes about a
// sixth of the time that a Builder takes, since what is in order and was hashed stays so, and while it goes on two fifths of the room of
// the zone beside what it makes. It asks goOn very often whether to go on, which may wait before it answers, and returns nothing if
// that says no. So it is for whoever answers from the zone meanwhile, and CatchUp is for what becomes of the zone until it is done.
func (z *Zone) Compact(goOn func() bool) *Zone {
	r := &relocation{encoder: newEncoder(z.owner), old: z, ask: goOn}
	r.list()
	r.share()
	if r.ended || !r.layOut(r.hash) {
		return nil
	}
	r.write()
	r.writeHashed()
	if r.ended || r.tooLarge() {
		return nil
	}
	r.whole()
	r.fillTargets(r.goOn)
	made := r.z
	made.denial, made.paramsAt, made.severalChains = z.denial, z.paramsAt, z.severalChains
	if r.ended || made.begin() != nil {
		return nil
	}
	return made
}

// CatchUp returns a zone that has become of z's records since Compact made z of them, on what Compact made: in time for what changed. If
// that cannot be it is the zone itself.
func (z *Zone) CatchUp(with *Zone) *Zone {
	root := with.Root()
	if z.Root() == root {
		return z
	}
	if made, _ := z.Apply(Difference(z, with, math.MaxInt)); made != nil && made.Root() == root {
		return made
	}
	return with
}

// relocation lays a zone out anew. Its encoder knows nodes, and RRsets by number, but no Builder: what is to be written is in the old
// image as it will be in the new one, but for refs.
type relocation struct {
	*encoder
	old  *Zone
	sets []ref // in the old image: of the nodes in canonical order

	ask   func() bool
	steps uint
	ended bool
}

// goOn asks whether to go on, now and then.
func (r *relocation) goOn() bool {
	if r.steps++; r.steps%(1<<12) == 0 && !r.ended {
		r.ended = !r.ask()
	}
	return !r.ended
}

// list lists the nodes, each without the sets that will be kept with it, and their sets.
func (r *relocation) list() {
	r.nodes = make([]listed, 0, r.old.order.count)
	for n := range r.old.nodesOf(r.old.order.leaves) {
		if !r.goOn() {
			return
		}
		from := len(r.sets)
		r.sets = grow(r.sets, n.count())
		for i := range n.count() {
			r.sets = append(r.sets, n.setRefAt(i))
		}
		r.nodes = append(r.nodes, listed{hash: uint32(r.enter(n.label, int(n.labels)) >> 32), from: uint32(from), to: uint32(len(r.sets)),
			at: uint32(sizeOfNode(len(n.label), n.count()) / unit)})
	}
}

// hash gives the nodes their hashes.
func (r *relocation) hash() {
	i := 0
	for n := range r.old.nodesOf(r.old.order.leaves) {
		r.nodes[i].hash = uint32(r.enter(n.label, int(n.labels)) >> 32)
		i++
	}
}

// share finds the place of every RRset, as encoder.share does.
func (r *relocation) share() {
	r.places = make([]uint32, len(r.sets))
	same := make([]uint32, len(r.sets)) // by the number of a set: that of an equal one plus one
	known := make([]uint64, 1<<bits.Len(uint(len(r.sets)*3/2)))
	for i, at := range r.sets {
		if !r.goOn() {
			return
		}
		set := r.old.set(at)
		size := set.extent()
		r.places[i] = uint32(size / unit)
		if set.isUnsigned() {
			r.findEqual(known, same, i, &set)
		}
		if same[i] == 0 && size > largeSet {
			same[i] = uint32(i) + 1
		}
	}
	for i, first := range same {
		if !r.goOn() {
			return
		}
		if first == uint32(i)+1 {
			set := r.old.set(r.sets[i])
			at := r.place(set.extent())
			if r.next > apart {
				r.next = maxImage // it is too large, see tooLarge
				return
			}
			r.places[i] = apart | uint32(at)
			r.copySet(at, r.sets[i])
			if hostAt(set.typ) >= 0 {
				r.apart = append(r.apart, at)
			}
		} else if first > 0 {
			r.places[i] = r.places[first-1]
		}
	}
}

func (s *rrset) isUnsigned() bool { return int(s.split) == len(s.data) }

// findEqual is encoder.findEqual, for a set of the old image.
func (r *relocation) findEqual(known []uint64, same []uint32, i int, set *rrset) {
	const number = 1<<32 - 1
	hash := hashLabel(uint64(set.typ)<<32|uint64(set.ttl), set.data)
	slot := hash & uint64(len(known)-1)
	for ; known[slot] != 0; slot = (slot + 1) & uint64(len(known)-1) {
		if (known[slot]^hash)&^number != 0 {
			continue
		}
		first := uint32(known[slot]) - 1
		other := r.old.set(r.sets[first])
		if other.typ == set.typ && other.ttl == set.ttl && bytes.Equal(other.data, set.data) {
			same[first], same[i] = first+1, first+1
			return
		}
	}
	known[slot] = hash&^number | uint64(i+1)
}

// copySet writes a set of the old image without its targets, and returns its octets.
func (r *relocation) copySet(to, from ref) int {
	set := r.old.set(from)
	octets := set.extent()
	head := setHead
	if !set.isUnsigned() {
		head = signedHead
	}
	b := r.from(to)[:octets]
	copy(b[:head], r.old.from(from))
	copy(b[head+len(set.targets):], set.data)
	return octets
}

// write writes the nodes, and the list of them.
func (r *relocation) write() {
	old := &r.old.order
	order := *old // it has the same owners in the same order, and so the same sums
	order.leaves, order.keys = make([]leaf, 0, len(old.leaves)), make([]uint64, 0, len(old.keys))
	i := 0
	for l := range old.leaves {
		items := make([]byte, 0, len(old.leaves[l].items))
		for n := range r.old.nodesOf(old.leaves[l : l+1]) {
			if !r.goOn() {
				return
			}
			at := r.nodes[i].at
			r.writeNode(&n, ref(at), int(r.nodes[i].from))
			items = binary.LittleEndian.AppendUint32(items, at)
			i++
		}
		order.keepOwners(&old.leaves[l], items, uint64(refAt(items, 0)))
	}
	r.z.order = order
}

// keepOwners adds a leaf of another list, with other items of the same owners.
func (l *list) keepOwners(f *leaf, items []byte, key uint64) {
	level := f.level
	if level < leafLevel { // as lister.add has it, and images of versions before have not
		level = 0
	}
	l.leaves, l.keys = append(l.leaves, leaf{items, f.tally, level}), append(l.keys, key)
}

// writeNode writes a node and the sets that are kept with it, of which the first has a number.
func (r *relocation) writeNode(n *node, at ref, from int) {
	put := binary.LittleEndian
	depth := int(n.labels)
	hash := r.enter(n.label, depth)
	r.path[depth].ref = at
	if depth > r.labels {
		r.mark(hash)
	}
	next := at + ref(sizeOfNode(len(n.label), n.count())/unit)
	b := append(r.from(at)[:nodeHead], n.label...)
	for i := range n.count() {
		setAt := next
		if place := r.places[from+i]; place&apart != 0 {
			setAt = ref(place &^ apart)
		} else {
			next += ref(r.copySet(next, n.setRefAt(i)) / unit)
		}
		b = put.AppendUint32(put.AppendUint16(b, n.typeAt(i)), uint32(setAt))
	}
	r.writeHead(b, uint32(n.flags&^(isAway|isGone)), next, depth, len(n.label), n.count())
}

// writeHashed writes proofs, and the list of hashes.
func (r *relocation) writeHashed() {
	old := &r.old.hashed
	hashed := *old
	hashed.leaves, hashed.keys = make([]leaf, 0, len(old.leaves)), make([]uint64, 0, len(old.keys))
	for l := range old.leaves {
		items := bytes.Clone(old.leaves[l].items)
		for item := items; len(item) > 0; item = item[hashedSize:] {
			if !r.goOn() {
				return
			}
			from := refAt(item, 20)
			set := r.old.set(from)
			to := r.place(set.extent())
			if r.tooLarge() {
				return
			}
			r.copySet(to, from)
			binary.LittleEndian.PutUint32(item[20:], uint32(to))
		}
		hashed.keepOwners(&old.leaves[l], items, old.keys[l])
	}
	r.z.hashed = hashed
}
