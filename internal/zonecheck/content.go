package zonecheck

import (
	"bytes"
	"encoding/binary"
	"iter"
	"runtime"
	"sync"

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

// member reports whether a chain of NSEC or NSEC3 records has to have an owner, but for what opt-out leaves out.
func (o *owner) member() bool {
	return (o.kind == authoritative || o.kind == delegation) && o.hasData()
}

// optional reports whether opt-out may leave out a member: an insecure delegation (RFC 5155 6).
func (o *owner) optional() bool { return o.kind == delegation && o.get(dns.TypeDS) == nil }

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

// content is what is on its way through the owners of a zone.
type content struct {
	j    *judged
	memo *Memo
	d    *signed
	s    *sense
	r    *report
}

func (j *judged) newContent(memo *Memo, old *zone.Zone, r, sense *report, owners iter.Seq[*owner]) *content {
	r.at.section = inKeys
	c := &content{j: j, memo: memo, r: r, s: newSense(j.zone, j.policy, sense)}
	c.d = newSigned(old, j.zone, j.policy, j.now, j.lease, r, owners)
	c.d.memo = memo
	return c
}

// checkContent walks the zone once.
func (j *judged) checkContent(memo *Memo, old *zone.Zone, r, sense *report) {
	c := j.newContent(memo, old, r, sense, owners(j.zone))
	var nsec nsecChain
	chains := c.d.newChains(j.zone.Names())
	c.run(func(take func(*batch)) { walk(j.zone, len(c.d.params) > 0, take) }, func(o *owner, r *report) { nsec.look(c.d, o, r) }, chains.collect)
	nsec.finish(c.d, r)
	chains.finish(r)
	c.finish()
	j.spans = chains.spans
}

// run takes batches of owners. What is cheap is checked at once, and each owner given to look; signatures and hashes are computed by a
// worker for each processor, and what they find is taken, as the batches are by collect, in the order of the zone.
func (c *content) run(batches func(take func(*batch)), look func(*owner, *report), collect func(*batch)) {
	work, order := make(chan *batch, runtime.GOMAXPROCS(0)), make(chan *batch, 4*runtime.GOMAXPROCS(0))
	var workers, collected sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		workers.Go(func() {
			for b := range work {
				c.d.verify(b)
				c.memo.did(b)
				close(b.done)
			}
		})
	}
	collected.Go(func() {
		for b := range order {
			<-b.done
			c.r.take(b.report)
			collect(b)
		}
	})
	batches(func(b *batch) {
		if c.memo.stops() {
			return
		}
		b.report, b.done = newReport(c.j.zone), make(chan struct{})
		for _, o := range b.owners {
			c.note(o)
			c.s.look(o)
			c.warn(o)
			b.report.at = spot{inOwners, o.key}
			look(o, b.report)
		}
		if !c.d.active {
			c.memo.did(b)
			return
		}
		order <- b
		work <- b
	})
	close(work)
	close(order)
	workers.Wait()
	collected.Wait()
}

// note keeps what the next check has to know of an owner, be it judged or not.
func (c *content) note(o *owner) {
	for i := range o.sets {
		set := &o.sets[i]
		c.j.stray = c.j.stray || ofSigners(set)
		for sig := range set.Sigs.All() {
			if left := int32(binary.BigEndian.Uint32(sig[8:]) - c.d.now); left > farAway || left < -farAway {
				c.j.far = true
			}
		}
	}
}

// ofSigners reports whether an RRset is what only a signer makes.
func ofSigners(s *zone.RRset) bool {
	return len(s.Sigs) > 0 || s.Type == dns.TypeNSEC || s.Type == dns.TypeNSEC3
}

func (c *content) finish() {
	c.s.finish()
	c.j.names, c.j.twice, c.j.watch = c.s.names, c.s.twice, c.s.watch
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
