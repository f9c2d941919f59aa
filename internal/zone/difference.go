package zone

import (
	"bytes"
	"cmp"
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

// Len counts the records.
func (r RRs) Len() int {
	count := 0
	for rest := []byte(r); len(rest) > 0; count++ {
		n := nameLen(rest, 0)
		if n == 0 || len(rest) < n+10 {
			break
		}
		end := n + 10 + int(binary.BigEndian.Uint16(rest[n+8:]))
		if end > len(rest) {
			break
		}
		rest = rest[end:]
	}
	return count
}

// All yields each record.
func (r RRs) All() iter.Seq[dns.RR] {
	return func(yield func(dns.RR) bool) {
		for rest := []byte(r); len(rest) > 0; {
			n := nameLen(rest, 0)
			if n == 0 || len(rest) < n+10 {
				return
			}
			owner, head := rest[:n], rest[n:n+10]
			end := n + 10 + int(binary.BigEndian.Uint16(head[8:]))
			if end > len(rest) ||
				!yield(unpackRR(nameString(owner), binary.BigEndian.Uint16(head), binary.BigEndian.Uint32(head[4:]), rest[n+10:end])) {
				return
			}
			rest = rest[end:]
		}
	}
}

func (r *RRs) add(owner []byte, d *datum) {
	b := append(*r, owner...)
	b = binary.BigEndian.AppendUint16(b, d.typ)
	b = binary.BigEndian.AppendUint16(b, dns.ClassINET)
	b = binary.BigEndian.AppendUint32(b, d.ttl)
	b = binary.BigEndian.AppendUint16(b, uint16(len(d.rdata)))
	*r = append(b, d.rdata...)
}

// Difference returns what turns one zone into another of the same origin, nil if that takes more than limit octets. It
// goes through both once, in canonical order, and holds no more than the result.
func Difference(old, new *Zone, limit int) *Delta {
	d := &Delta{From: old.serial, To: new.serial}
	d.compare(old.owner, appendData(nil, old.soaAlone()), appendData(nil, new.soaAlone()))
	x, y := owners(old), owners(new)
	defer x.stop()
	defer y.stop()
	var was, is []datum
	for len(x.sets) > 0 || len(y.sets) > 0 {
		c := x.compare(y)
		from, to := c <= 0, c >= 0
		if c != 0 || !slices.EqualFunc(x.sets, y.sets, equalSets) {
			var owner []byte
			was, is = was[:0], is[:0]
			if from {
				owner, was = x.owner(), appendData(was, x.sets)
			}
			if to {
				owner, is = y.owner(), appendData(is, y.sets)
			}
			if d.compare(owner, was, is); d.Size() > limit {
				return nil
			}
		}
		if from {
			x.next()
		}
		if to {
			y.next()
		}
	}
	d.Removed, d.Added = slices.Clone(d.Removed), slices.Clone(d.Added) // they are kept: without spare room
	return d
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

// ownerWalk goes through the owners of a zone in canonical order.
type ownerWalk struct {
	apex []byte
	sets []RRset // of the owner, in order of type, without the SOA's own records; none after the last owner
	pull func() (RRset, bool)
	stop func()
	head RRset // of the next owner
	more bool
	keys [2][]byte // room
}

func owners(z *Zone) *ownerWalk {
	w := &ownerWalk{apex: z.owner}
	w.pull, w.stop = iter.Pull(z.RRsets())
	w.head, w.more = w.pull()
	w.next()
	return w
}

func (w *ownerWalk) owner() []byte { return w.sets[0].Owner }

func (w *ownerWalk) next() {
	w.sets = w.sets[:0]
	for owner := w.head.Owner; w.more && bytes.Equal(w.head.Owner, owner); w.head, w.more = w.pull() {
		if w.head.Type == dns.TypeSOA && bytes.Equal(owner, w.apex) {
			w.head.Data = nil
		}
		w.sets = append(w.sets, w.head)
	}
}

// compare orders the owners of two walks, the end of one after all owners.
func (w *ownerWalk) compare(other *ownerWalk) int {
	switch {
	case len(w.sets) == 0:
		return 1
	case len(other.sets) == 0:
		return -1
	case bytes.Equal(w.owner(), other.owner()):
		return 0
	}
	w.keys[0], w.keys[1] = appendKey(w.keys[0][:0], w.owner()), appendKey(w.keys[1][:0], other.owner())
	return bytes.Compare(w.keys[0], w.keys[1])
}
