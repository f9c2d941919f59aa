package zone

import (
	"bytes"
	"cmp"
	"iter"
	"slices"
)

// RRsets yields every RRset with the RRSIG records that cover it, in wire format: owners in canonical order (RFC 4034
// 6.1), the RRsets of each by type, glue, what is below a delegation, and NSEC3 records at their places. RRSIG records
// that cover what the owner lacks come with no Data. Owners are lower-case, RDATA has the case in which it was loaded
// (see Canonical). Nothing that is yielded may be changed; all of it may be kept.
func (z *Zone) RRsets() iter.Seq[RRset] {
	return func(yield func(RRset) bool) {
		var sets []rrset
		hash, hashes := 0, len(z.hashed)/hashedSize
		hashedSets := func() ([]byte, []rrset) {
			h := hashedAt(z.hashed, hash)
			hash++
			return z.appendHashed(nil, h.hash), []rrset{z.set(h.set)}
		}
		for i := range len(z.order) / unit {
			n := z.node(z.orderAt(i))
			sets = sets[:0]
			for i := range n.count() {
				sets = append(sets, z.at(&n, i))
			}
			for n.labels == z.labels+1 && hash < hashes {
				c := bytes.Compare(z.appendHashed(nil, hashedAt(z.hashed, hash).hash)[1:33], n.label)
				if c > 0 {
					break
				}
				owner, own := hashedSets()
				if c == 0 {
					sets = append(sets, own...)
					slices.SortFunc(sets, func(x, y rrset) int { return cmp.Compare(x.typ, y.typ) })
				} else if !yieldSets(yield, owner, own) {
					return
				}
			}
			if len(sets) > 0 && !yieldSets(yield, z.appendOwner(make([]byte, 0, 64), n), sets) {
				return
			}
		}
		for hash < hashes {
			if owner, own := hashedSets(); !yieldSets(yield, owner, own) {
				return
			}
		}
	}
}

func yieldSets(yield func(RRset) bool, owner []byte, sets []rrset) bool {
	for i := range sets {
		s := &sets[i]
		if !yield(RRset{Owner: owner, Type: s.typ, TTL: s.ttl, Data: s.records(), SigTTL: s.sigTTL, Sigs: s.sigs()}) {
			return false
		}
	}
	return true
}

// Canonical is RDATA in canonical form (RFC 4034 6.2): the argument itself when that is what it has already.
func Canonical(typ uint16, rdata []byte) []byte { return canonical(typ, rdata) }

// AppendKey appends the key of a valid name in wire format: an octet string such that bytes.Compare of two keys is the
// canonical order of their names (RFC 4034 6.1), and such that a name is at or below another when its key has the
// other's as a prefix. A label ends with the octet 0, which is nowhere else.
func AppendKey(dst, name []byte) []byte { return appendKey(dst, name) }

// NameString is the presentation form of a valid name in wire format, lower-case, with its last dot.
func NameString(name []byte) string { return nameString(name) }

// RdataNames are the names in RDATA that point somewhere: those of the types of RFC 4034 6.2, and of SVCB and HTTPS.
func RdataNames(typ uint16, rdata []byte) [][]byte {
	from, to := namesAt(typ, rdata)
	if from == to {
		if name := nameIn(rdata, hostAt(typ)); name != nil {
			return [][]byte{name}
		}
	}
	var names [][]byte
	for at := from; at < to; at += nameLen(rdata, at) {
		names = append(names, rdata[at:at+nameLen(rdata, at)])
	}
	return names
}
