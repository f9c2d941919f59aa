package zone

import (
	"bytes"
	"encoding/binary"
	"iter"

	"github.com/miekg/dns"
)

// Owner is what a zone has at a name, but for NSEC3 records.
type Owner struct {
	Name     []byte  // wire format, lower-case
	Sets     []RRset // by type; none of a name that does not exist, or exists for those below it only (RFC 4592 2.2.2)
	Cut      bool    // a delegation, above which is none
	Occluded bool    // below one
}

// Owner returns what the zone has at a name in wire format, which may be nothing.
func (z *Zone) Owner(name []byte) Owner {
	var s search
	if s.set(name) && z.holds(&s) {
		if n, exact := z.locate(&s); exact {
			return z.ownerAt(n)
		} else if !n.authoritative() {
			return Owner{Name: appendLower(nil, name), Occluded: true}
		}
	}
	return Owner{Name: appendLower(nil, name)}
}

// Exists reports whether the zone has a name, or names below it (RFC 4592 2.2.2).
func (z *Zone) Exists(name []byte) bool {
	var s search
	if !s.set(name) || !z.holds(&s) {
		return false
	}
	_, exact := z.locate(&s)
	return exact
}

func (z *Zone) ownerAt(n node) Owner {
	o := Owner{Name: z.appendOwner(nil, n), Cut: n.is(isCut), Occluded: n.is(isBelowCut)}
	o.Sets = z.setsOf(&n, o.Name)
	return o
}

// OwnersFrom yields the owners of records other than NSEC3 in canonical order, from a name of the zone on, whether that exists or not.
// Without occluded it goes past all that is below a delegation at once.
func (z *Zone) OwnersFrom(name []byte, occluded bool) iter.Seq[Owner] {
	return func(yield func(Owner) bool) {
		for at := z.order.next(z.spotBefore(name)); z.order.has(at); {
			n := z.nodeAt(at)
			if n.count() > 0 && (occluded || !n.is(isBelowCut)) && !yield(z.ownerAt(n)) {
				return
			}
			if !occluded && !n.authoritative() {
				cut := z.cutOf(n)
				at = z.afterAll(&cut)
			} else {
				at = z.order.next(at)
			}
		}
	}
}

// OwnersBefore yields the owners of records other than NSEC3 that are not below a delegation, backwards from the last one before a
// name of the zone on, whether that exists or not.
func (z *Zone) OwnersBefore(name []byte) iter.Seq[Owner] {
	return func(yield func(Owner) bool) {
		for at := z.spotBefore(name); z.order.has(at); at = z.order.prev(at) {
			n := z.nodeAt(at)
			if n.is(isBelowCut) {
				n = z.cutOf(n)
				at = z.spotOf(&n)
			}
			if n.count() > 0 && !yield(z.ownerAt(n)) {
				return
			}
		}
	}
}

// spotBefore is the spot in order of the last node before a name; on leaf -1 if it is the apex, or not of the zone.
func (z *Zone) spotBefore(name []byte) spot {
	var s search
	if !s.set(name) || !z.holds(&s) || s.labels == int(z.labels) {
		return spot{-1, 0}
	}
	n, exact := z.locate(&s)
	if exact {
		n = z.parent(&n)
	}
	return z.before(&n, s.label(int(n.labels)+1))
}

// spotOf is where a node is in order, or the one that follows where it would be.
func (z *Zone) spotOf(n *node) spot {
	if n.ref == z.apexRef {
		return spot{}
	}
	parent := z.parent(n)
	return z.order.next(z.before(&parent, n.label))
}

// afterAll is the spot of what follows a node, which is not the apex, and all below it.
func (z *Zone) afterAll(n *node) spot {
	parent := z.parent(n)
	return z.order.next(z.before(&parent, append(bytes.Clone(n.label), 0)))
}

// NSEC3From yields the NSEC3 RRsets in order of their hashes, from the first that is not before a hash on to the last, and from
// the first of all on to where it began.
func (z *Zone) NSEC3From(hash []byte) iter.Seq2[[]byte, RRset] {
	return func(yield func([]byte, RRset) bool) {
		at, exact := z.hashed.spotOfHash(hash)
		if !exact {
			at = z.hashed.next(at)
		}
		for range z.hashed.count {
			if !z.hashed.has(at) {
				at = z.hashed.first()
			}
			if !z.yieldHashed(yield, at) {
				return
			}
			at = z.hashed.next(at)
		}
	}
}

// NSEC3Before yields the NSEC3 RRsets backwards, from the last before a hash on to the first, and from the last of all on to where it
// began.
func (z *Zone) NSEC3Before(hash []byte) iter.Seq2[[]byte, RRset] {
	return func(yield func([]byte, RRset) bool) {
		at, exact := z.hashed.spotOfHash(hash)
		if exact {
			at = z.hashed.prev(at)
		}
		for range z.hashed.count {
			if !z.hashed.has(at) {
				at = z.hashed.last()
			}
			if !z.yieldHashed(yield, at) {
				return
			}
			at = z.hashed.prev(at)
		}
	}
}

func (z *Zone) yieldHashed(yield func([]byte, RRset) bool, at spot) bool {
	h := hashedOf(z.hashed.item(at))
	set := z.set(h.set)
	return yield(h.hash, set.of(z.appendHashed(nil, h.hash)))
}

// ExpiringBefore yields the owners that have a signature which expires before an instant (RFC 4034 3.1.5): all of them if no two
// signatures of the zone expire more than 2^31 seconds apart. It looks only into those parts of the zone where
// there are such.
func (z *Zone) ExpiringBefore(at uint32) iter.Seq[[]byte] {
	early := func(l *list) (leaves []leaf) {
		for _, f := range l.leaves {
			if f.signatures > 0 && int32(f.expires-at) < 0 {
				leaves = append(leaves, f)
			}
		}
		return leaves
	}
	return func(yield func([]byte) bool) {
		for n := range z.nodesOf(early(&z.order)) {
			if z.hasEarly(&n, at) && !yield(z.appendOwner(nil, n)) {
				return
			}
		}
		for _, f := range early(&z.hashed) {
			for items := f.items; len(items) > 0; items = items[hashedSize:] {
				h := hashedOf(items)
				if set := z.set(h.set); expiresBefore(set.sigs(), at) && !yield(z.appendHashed(nil, h.hash)) {
					return
				}
			}
		}
	}
}

func (z *Zone) hasEarly(n *node, at uint32) bool {
	for i := range n.count() {
		if set := z.at(n, i); expiresBefore(set.sigs(), at) {
			return true
		}
	}
	return false
}

func expiresBefore(sigs Rdata, at uint32) bool {
	for sig := range sigs.All() {
		if len(sig) >= 12 && int32(binary.BigEndian.Uint32(sig[8:])-at) < 0 {
			return true
		}
	}
	return false
}

// Warnings returns what a Builder says of a name in wire format and nothing else, but for several TTLs of an RRset, which a zone does
// not have any more: of servers and exchanges that are aliases or have no address, signatures that cover nothing, a DNAME at a wildcard.
func (z *Zone) Warnings(name []byte) []Finding {
	var s search
	n, exists := z.exactly(&s, name)
	if !exists {
		return nil
	}
	b := NewBuilder()
	owner := z.appendOwner(nil, n)
	for i := range n.count() {
		set := z.at(&n, i)
		for rdata := range set.records().All() {
			b.AddWire(owner, set.typ, set.ttl, rdata, "", 0)
		}
		for rdata := range set.sigs().All() {
			b.AddWire(owner, dns.TypeRRSIG, set.sigTTL, rdata, "", 0)
		}
	}
	b.sort()
	b.checkNode(z, &n)
	found := b.findings.all()
	for i := range found {
		found[i].Zone = z.origin
	}
	return found
}

// PointingAt yields the owners of NS and MX records, in no particular order, that name a host of the zone which is one of some. It
// goes over the whole zone.
func (z *Zone) PointingAt(hosts func(name []byte) bool) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		var s search
		for n := range z.nodes() {
			if z.pointsAt(&n, &s, hosts) && !yield(z.appendOwner(nil, n)) {
				return
			}
		}
	}
}

func (z *Zone) pointsAt(n *node, s *search, hosts func(name []byte) bool) bool {
	for i := range n.count() {
		if typ := n.typeAt(i); typ != dns.TypeNS && typ != dns.TypeMX {
			continue
		}
		set := z.at(n, i)
		k := -1
		for rdata := range set.records().All() {
			if k++; len(set.targets) > 0 && set.target(k) == 0 {
				continue // it is not in the zone
			}
			if s.set(nameIn(rdata, hostAt(set.typ))) && z.holds(s) && hosts(s.folded[:len(s.name)]) {
				return true
			}
		}
	}
	return false
}
