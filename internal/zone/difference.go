package zone

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"iter"
	"slices"

	"github.com/miekg/dns"
)

// Delta is what turns a zone into another one of the same origin: the records to take out of it and those to put in. The
// same two zones always have the same Delta. A record of which the TTL changed, or the case of the RDATA, is in both parts.
type Delta struct {
	From, To       uint32 // serials
	Removed, Added RRs
}

// Size is the number of octets that the records take.
func (d *Delta) Size() int { return len(d.Removed) + len(d.Added) }

// RRs are records of class IN in wire format (RFC 1035 3.2.1) without name compression, one after the other: the SOA if
// it is among them, then the others in canonical order (RFC 4034 6). Owners are lower-case.
type RRs []byte

// first is the octets of the first record, 0 if there is none.
func (r RRs) first() int {
	n := nameLen(r, 0)
	if n == 0 || n > 255 || len(r) < n+10 {
		return 0
	}
	end := n + 10 + int(binary.BigEndian.Uint16(r[n+8:]))
	if end > len(r) {
		return 0
	}
	return end
}

// Len counts the records.
func (r RRs) Len() int {
	count := 0
	for n := r.first(); n > 0; n = r.first() {
		r = r[n:]
		count++
	}
	return count
}

// All yields each record.
func (r RRs) All() iter.Seq[dns.RR] {
	return func(yield func(dns.RR) bool) {
		for n := r.first(); n > 0; n = r.first() {
			at := nameLen(r, 0)
			owner, head := r[:at], r[at:at+10]
			if !yield(unpackRR(nameString(owner), binary.BigEndian.Uint16(head), binary.BigEndian.Uint32(head[4:]), r[at+10:n])) {
				return
			}
			r = r[n:]
		}
	}
}

func (r *RRs) add(owner []byte, d *datum) {
	*r = appendRest(append(*r, owner...), d.typ, d.ttl, d.rdata)
}

// appendRest appends what follows a record's owner.
func appendRest(b []byte, typ uint16, ttl uint32, rdata []byte) []byte {
	b = binary.BigEndian.AppendUint16(b, typ)
	b = binary.BigEndian.AppendUint16(b, dns.ClassINET)
	b = binary.BigEndian.AppendUint32(b, ttl)
	b = binary.BigEndian.AppendUint16(b, uint16(len(rdata)))
	return append(b, rdata...)
}

// Difference returns what turns one zone into another of the same origin, nil if that takes more than limit octets. It
// holds no more than the result, and of each owner of which something changed where its records are.
func Difference(old, new *Zone, limit int) *Delta {
	d := &Delta{From: old.serial, To: new.serial}
	d.compare(old.owner, appendData(nil, old.soaAlone()), appendData(nil, new.soaAlone()))
	var list []keyed
	least := d.Size()
	for c := range Changes(old, new) {
		if least += len(c.Owner) + 10; least-maxRecord > limit { // of the apex perhaps the SOA alone changed, which is there already
			return nil
		}
		list = append(list, keyed{appendKey(nil, c.Owner), c})
	}
	slices.SortFunc(list, func(x, y keyed) int { return bytes.Compare(x.key, y.key) })
	for len(list) > 0 {
		c := list[0].Change
		for list = list[1:]; len(list) > 0 && bytes.Equal(list[0].Owner, c.Owner); list = list[1:] {
			c.Was, c.Is = append(c.Was, list[0].Was...), append(c.Is, list[0].Is...)
		}
		if d.compare(c.Owner, appendData(nil, old.withoutSOA(c.Owner, c.Was)), appendData(nil, old.withoutSOA(c.Owner, c.Is))); d.Size() > limit {
			return nil
		}
	}
	d.Removed, d.Added = slices.Clone(d.Removed), slices.Clone(d.Added) // they are kept: without spare room
	return d
}

// keyed is a change and the key of its owner.
type keyed struct {
	key []byte
	Change
}

// withoutSOA is the sets of an owner in order of type, without the SOA records of the apex, which have their place at the
// beginning.
func (z *Zone) withoutSOA(owner []byte, sets []RRset) []RRset {
	slices.SortFunc(sets, func(x, y RRset) int { return cmp.Compare(x.Type, y.Type) })
	for i := range sets {
		if sets[i].Type == dns.TypeSOA && bytes.Equal(owner, z.owner) {
			sets[i].Data = nil
		}
	}
	return sets
}

// Change is an owner, and the RRsets in order of type that it had and has. They differ. The NSEC3 records of an owner are
// apart from its other records, which may have changed too, or may not be there.
type Change struct {
	Owner   []byte // wire format, lower-case
	Was, Is []RRset
}

// Changes yields every owner that does not have the same records in two zones of the same origin, in no particular order.
// It looks only into those leaves of the lists that are not in both. What is yielded may be kept.
func Changes(old, new *Zone) iter.Seq[Change] {
	return func(yield func(Change) bool) {
		var s search
		var name []byte
		was, is := unlike(&old.order, &new.order)
		for n := range new.nodesOf(is) {
			if n.count() == 0 {
				continue // leaves of such names only are all alike, so that one may not be among these
			}
			name = new.appendOwner(name[:0], n)
			before, _ := old.exactly(&s, name)
			if !equalNodes(old, new, &before, &n) {
				owner := bytes.Clone(name)
				if !yield(Change{owner, old.setsOf(&before, owner), new.setsOf(&n, owner)}) {
					return
				}
			}
		}
		for n := range old.nodesOf(was) {
			name = old.appendOwner(name[:0], n)
			if after, _ := new.exactly(&s, name); after.count() > 0 || n.count() == 0 {
				continue
			}
			owner := bytes.Clone(name)
			if !yield(Change{owner, old.setsOf(&n, owner), nil}) {
				return
			}
		}
		changedHashes(old, new, yield)
	}
}

// unlike is the leaves of each of two lists of which the other has no equal. What those have in common is in both the same
// owners with the same records.
func unlike(x, y *list) (ofX, ofY []leaf) {
	ofX, ofY = x.without(sumsOf(y.branches)), y.without(sumsOf(x.branches))
	sums := map[[sha256.Size]byte]bool{}
	for _, f := range ofX {
		sums[f.sum] = true
	}
	both := map[[sha256.Size]byte]bool{}
	ofY = slices.DeleteFunc(ofY, func(f leaf) bool {
		both[f.sum] = sums[f.sum]
		return sums[f.sum]
	})
	ofX = slices.DeleteFunc(ofX, func(f leaf) bool { return both[f.sum] })
	return ofX, ofY
}

func sumsOf(branches []branch) map[[sha256.Size]byte]bool {
	sums := make(map[[sha256.Size]byte]bool, len(branches))
	for _, b := range branches {
		sums[b.sum] = true
	}
	return sums
}

// without is the leaves of the branches that do not have one of some sums.
func (l *list) without(sums map[[sha256.Size]byte]bool) []leaf {
	var leaves []leaf
	at := 0
	for _, b := range l.branches {
		if !sums[b.sum] {
			leaves = append(leaves, l.leaves[at:at+b.leaves]...)
		}
		at += b.leaves
	}
	return leaves
}

// nodesOf yields the nodes in some leaves of order.
func (z *Zone) nodesOf(leaves []leaf) iter.Seq[node] {
	return func(yield func(node) bool) {
		for _, f := range leaves {
			for items := f.items; len(items) > 0; {
				part := items[:min(len(items), unit*ahead)]
				z.fetch(part)
				items = items[len(part):]
				for ; len(part) > 0; part = part[unit:] {
					if !yield(z.node(refAt(part, 0))) {
						return
					}
				}
			}
		}
	}
}

// changedHashes yields the owners of NSEC3 records of Changes, which are in order of their hashes.
func changedHashes(old, new *Zone, yield func(Change) bool) {
	ofOld, ofNew := unlike(&old.hashed, &new.hashed)
	was, is := old.hashedOwners(ofOld), new.hashedOwners(ofNew)
	for was.more || is.more {
		c := 1
		switch {
		case !is.more:
			c = -1
		case was.more:
			c = bytes.Compare(was.owner, is.owner)
		}
		change := Change{Owner: is.owner}
		if c <= 0 {
			change.Owner, change.Was = was.owner, []RRset{was.set.of(was.owner)}
		}
		if c >= 0 {
			change.Is = []RRset{is.set.of(is.owner)}
		}
		if (c != 0 || !equalSets(change.Was[0], change.Is[0])) && !yield(change) {
			return
		}
		if c <= 0 {
			was.next()
		}
		if c >= 0 {
			is.next()
		}
	}
}

// exactly is the node of a name, if there is one.
func (z *Zone) exactly(s *search, name []byte) (n node, exists bool) {
	if s.set(name) {
		if n, exists = z.locate(s); exists {
			return n, true
		}
	}
	return node{}, false
}

// setsOf are the RRsets of a node.
func (z *Zone) setsOf(n *node, owner []byte) []RRset {
	sets := make([]RRset, 0, n.count())
	for i := range n.count() {
		set := z.at(n, i)
		sets = append(sets, set.of(owner))
	}
	return sets
}

// equalNodes reports whether two nodes have the same RRsets.
func equalNodes(old, new *Zone, x, y *node) bool {
	if x.count() != y.count() {
		return false
	}
	for i := range x.count() {
		was, is := old.at(x, i), new.at(y, i)
		if !equalSets(was.of(nil), is.of(nil)) {
			return false
		}
	}
	return true
}

// soaAlone is the SOA without its RRSIG records, which have their place among the others.
func (z *Zone) soaAlone() []RRset {
	return []RRset{{Type: dns.TypeSOA, TTL: z.soa.ttl, Data: z.soa.records()}}
}

func equalSets(x, y RRset) bool {
	return x.Type == y.Type && x.TTL == y.TTL && x.SigTTL == y.SigTTL && bytes.Equal(x.Data, y.Data) && bytes.Equal(x.Sigs, y.Sigs)
}

// datum is a record but for its owner.
type datum struct {
	typ   uint16
	ttl   uint32
	rdata []byte
}

// appendData appends the records of an owner, whose sets are in order of type, in canonical order.
func appendData(data []datum, sets []RRset) []datum {
	for i := range sets {
		for rdata := range sets[i].Data.All() {
			data = append(data, datum{sets[i].Type, sets[i].TTL, rdata})
		}
	}
	for i := range sets {
		for rdata := range sets[i].Sigs.All() {
			data = append(data, datum{dns.TypeRRSIG, sets[i].SigTTL, rdata})
		}
	}
	slices.SortStableFunc(data, func(x, y datum) int { return cmp.Compare(x.typ, y.typ) })
	return data
}

// compare adds what distinguishes the records that an owner has from those that it had.
func (d *Delta) compare(owner []byte, was, is []datum) {
	for len(was) > 0 || len(is) > 0 {
		c := -1
		switch {
		case len(was) == 0:
			c = 1
		case len(is) > 0:
			if c = cmp.Compare(was[0].typ, is[0].typ); c == 0 {
				c = compareRdata(was[0].typ, was[0].rdata, is[0].rdata)
			}
		}
		same := c == 0 && was[0].ttl == is[0].ttl && bytes.Equal(was[0].rdata, is[0].rdata)
		if c <= 0 {
			if !same {
				d.Removed.add(owner, &was[0])
			}
			was = was[1:]
		}
		if c >= 0 {
			if !same {
				d.Added.add(owner, &is[0])
			}
			is = is[1:]
		}
	}
}
