package zonecheck

import (
	"bytes"
	"iter"
	"runtime"
	"sync"
	"time"

	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/zone"
)

// kind says whose an owner's records are.
type kind uint8

const (
	authoritative kind = iota
	delegation         // the zone's are DS, NSEC and their signatures
	occluded           // below a delegation: another zone's, or glue
	hashed             // NSEC3 records, whose owner is no name of the zone (RFC 5155 7.2.8)
)

// owner is a name and its RRsets.
type owner struct {
	name []byte // wire format, lower-case
	key  []byte // see zone.AppendKey
	kind kind
	sets []zone.RRset
}

// get is the RRset of a type that has records, nil if there is none.
func (o *owner) get(typ uint16) *zone.RRset {
	for i := range o.sets {
		if o.sets[i].Type == typ && len(o.sets[i].Data) > 0 {
			return &o.sets[i]
		}
	}
	return nil
}

// owns reports whether an RRset is the zone's own data, which is what is signed (RFC 4035 2.2).
func (o *owner) owns(typ uint16) bool {
	switch o.kind {
	case delegation:
		return typ == dns.TypeDS || typ == dns.TypeNSEC
	case occluded:
		return false
	}
	return true
}

// owners yields the owners of a zone in canonical order. NSEC3 records that share their owner with other records come as
// an owner of their own.
func owners(z *zone.Zone) iter.Seq[*owner] {
	return func(yield func(*owner) bool) {
		var cut []byte // key of the last delegation
		var o *owner
		var room room
		apex := true
		finish := func() bool {
			if o == nil {
				return true
			}
			o.key = room.key(o.name)
			plain, links := split(o)
			if plain != nil {
				switch {
				case cut != nil && bytes.HasPrefix(plain.key, cut):
					plain.kind = occluded
				case !apex && plain.get(dns.TypeNS) != nil:
					plain.kind, cut = delegation, plain.key
				}
				if !yield(plain) {
					return false
				}
			}
			apex = false
			return links == nil || yield(links)
		}
		for s := range z.RRsets() {
			if o == nil || !bytes.Equal(o.name, s.Owner) {
				if !finish() {
					return
				}
				o = room.owner(s.Owner)
			}
			room.add(o, s)
		}
		finish()
	}
}

// room is where owners are made, many in one piece of memory, of which the first ones are small: most zones are.
type room struct {
	owners []owner
	sets   []zone.RRset
	keys   []byte
}

func (r *room) owner(name []byte) *owner {
	if len(r.owners) == cap(r.owners) {
		r.owners = make([]owner, 0, min(64, 4+2*cap(r.owners)))
	}
	r.owners = append(r.owners, owner{name: name})
	return &r.owners[len(r.owners)-1]
}

// add gives an owner an RRset. It is the owner that was made last.
func (r *room) add(o *owner, s zone.RRset) {
	if len(r.sets) == cap(r.sets) {
		r.sets = append(make([]zone.RRset, 0, min(64, 4+2*cap(r.sets))+2*len(o.sets)), o.sets...)
	}
	r.sets = append(r.sets, s)
	n := len(o.sets) + 1
	o.sets = r.sets[len(r.sets)-n : len(r.sets) : len(r.sets)]
}

// key is good until the end, as are owners.
func (r *room) key(name []byte) []byte {
	if cap(r.keys)-len(r.keys) < 2*255 { // octets 0 and 1 take two
		r.keys = make([]byte, 0, min(4<<10, 2*255+2*cap(r.keys)))
	}
	at := len(r.keys)
	r.keys = zone.AppendKey(r.keys, name)
	return r.keys[at:len(r.keys):len(r.keys)]
}

// split takes NSEC3 records away from an owner's others. Either part may be nil.
func split(o *owner) (plain, links *owner) {
	for i := range o.sets {
		if o.sets[i].Type == dns.TypeNSEC3 {
			links = &owner{name: o.name, key: o.key, kind: hashed, sets: o.sets[i : i+1 : i+1]}
			o.sets = append(o.sets[:i:i], o.sets[i+1:]...)
			break
		}
	}
	if len(o.sets) == 0 {
		return nil, links
	}
	return o, links
}

// batchSize is how many owners a worker takes at once.
const batchSize = 128

// batch is a part of the zone on its way through a worker: what was found, and the names as NSEC3 has them.
type batch struct {
	owners []*owner
	names  []name // to be hashed
	report *report
	done   chan struct{}
}

// checkContent walks the zone once. What is cheap is checked on the way; signatures and hashes are computed by a worker
// for each processor, and their findings taken in the order of the zone.
func checkContent(memo *Memo, old, z *zone.Zone, p Policy, now time.Time, lease time.Duration, r, sense *report) {
	s := newSense(z, p, sense)
	d := newSigned(old, z, p, now, lease, r)
	d.memo = memo
	var nsec nsecChain
	work, order := make(chan *batch, runtime.GOMAXPROCS(0)), make(chan *batch, 4*runtime.GOMAXPROCS(0))
	var workers sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		workers.Go(func() {
			for b := range work {
				d.verify(b)
				memo.did(b)
				close(b.done)
			}
		})
	}
	var collected sync.WaitGroup
	chains := d.newChains(z.Names())
	collected.Go(func() {
		for b := range order {
			<-b.done
			r.take(b.report)
			chains.collect(b)
		}
	})
	walk(z, len(d.params) > 0, func(b *batch) {
		if memo.stops() {
			return
		}
		b.report, b.done = newReport(z), make(chan struct{})
		for _, o := range b.owners {
			s.look(o)
			nsec.look(d, o, b.report)
		}
		if !d.active {
			memo.did(b)
			return
		}
		order <- b
		work <- b
	})
	close(work)
	close(order)
	workers.Wait()
	collected.Wait()
	nsec.finish(d, r)
	chains.finish(r)
	s.finish()
}

// walk hands out the zone in batches, with the names that an NSEC3 chain has to have if it has one.
func walk(z *zone.Zone, hashes bool, take func(*batch)) {
	b := &batch{}
	t := tree{labels: labels(z)}
	for o := range owners(z) {
		b.owners = append(b.owners, o)
		if hashes {
			b.names = t.enter(b.names, o)
		}
		if len(b.owners) == batchSize {
			take(b)
			b = &batch{}
		}
	}
	b.names = t.leave(b.names, nil)
	take(b)
}
