package zone

import (
	"bytes"
	"encoding/binary"
	"iter"
	"math/bits"
	"slices"

	"github.com/miekg/dns"
)

// encoder makes an image of records in canonical order. A first walk over them measures, and finds what is there several
// times; a second one writes.
type encoder struct {
	b *Builder
	z *Zone // that is being made
	space
	apex   []byte   // key
	labels int      // of the apex
	places []uint32 // by the number of an RRset's first record, see share
	apart  []ref    // RRsets in shared that have targets

	path        [maxLabels + 1]pathNode // nodes from the apex down to the last one, by labels
	seed        uint64
	nodes       []listed // in canonical order
	buckets     []filling
	size        int // octets of a bucket
	afterShared ref
}

// listed is a node that has been measured.
type listed struct {
	hash     uint32 // the upper half
	at       uint32 // its size in units, at first without sets, then its ref
	from, to uint32 // numbers of its records
}

// filling says how far a bucket is taken.
type filling struct {
	used     uint32 // units of the bucket
	overflow ref    // units beyond it, then where they begin, and then where the next node goes; 0 if there are none
}

// pathNode is a node on the path to the last one.
type pathNode struct {
	ref   ref
	hash  uint64
	below bool // what comes below it is not authoritative
}

const (
	// bucketFill is how many octets of nodes there are to a bucket on average: more than there is room for, since what finds none costs another
	// read, and room that nothing fits into costs memory.
	bucketFill = 300
	// smallNode is how many units a node has at most that is placed before others: two fit where a signed one would.
	smallNode = 128 / unit
	// oneBucket is how many octets of nodes there may be in the only bucket of a small zone.
	oneBucket = 512
	// fullBucket is how many units of nodes to a bucket make another seed be tried: a registrant chooses names, not seeds.
	fullBucket = 32 * bucketFill / unit
	seeds      = 8
	// largeSet is the size in octets from which an RRset is not kept with its node, where searches pass over it.
	largeSet = 512
)

// encode makes a zone of the records, but for what denies existence. It returns nothing if its image would be too large.
func (b *Builder) encode(origin []byte) *Zone {
	e := newEncoder(origin)
	e.b = b
	e.share()
	if !e.layOut(e.walkHashes) {
		return nil
	}
	e.writeNodes()
	e.writeHashed()
	if e.tooLarge() {
		return nil
	}
	e.whole()
	e.fillTargets(func() bool { return true })
	return e.z
}

// newEncoder begins with the origin.
func newEncoder(origin []byte) *encoder {
	e := &encoder{apex: appendKey(nil, origin), labels: labels(origin), seed: 1}
	appendLower(e.from(e.place(max(originRoom, len(origin))))[:0], origin)
	e.z = &Zone{originLen: uint8(len(origin)), labels: uint8(e.labels), details: &details{}}
	return e
}

// layOut finds a place for every node when what is shared has one, and reports whether there is room. With another seed hashAgain
// gives the nodes their hashes.
func (e *encoder) layOut(hashAgain func()) bool {
	e.afterShared = ref(e.next)
	for !e.fill() && e.seed < seeds {
		e.seed++
		hashAgain()
	}
	z := e.z
	z.apexRef, z.seed = e.place(unit*int(e.sizeOf(&e.nodes[0]))), uint32(e.seed)
	z.buckets, z.bucketSize = uint32(len(e.buckets)), uint32(e.size)
	z.marksAt = e.array(uint64(len(e.buckets)), 1)
	if len(e.buckets) > 1 {
		z.bucketsAt = e.array(uint64(len(e.buckets)*e.size/unit), bucketSize/unit)
	} else {
		z.bucketsAt = e.place(e.size)
	}
	e.placeNodes()
	return !e.tooLarge()
}

// whole gives the zone its pages, when all is written.
func (e *encoder) whole() {
	e.trim()
	z := e.z
	z.pages, z.first = e.pages, e.pages[0]
	z.owner = z.first[:z.originLen:z.originLen]
}

// apart in a place says that the RRset is not kept with one node. It is half of what refs can reach.
const apart = 1 << 31

// share lists the nodes, and finds for every RRset its place: the units that it takes with its node, or apart and its ref if it
// is in shared. There are those that are large, and those that are equal and not signed, which are kept once whatever their
// owners.
func (e *encoder) share() {
	b := e.b
	owners, sets := 0, 0
	for i := range b.records {
		if i == 0 || b.records[i].name != b.records[i-1].name {
			owners++
			sets++
		} else if b.records[i].set != b.records[i-1].set {
			sets++
		}
	}
	e.nodes = make([]listed, 0, owners+1)
	e.places = make([]uint32, len(b.records))
	same := make([]uint32, len(b.records)) // by the number of a set's first record: that of an equal set plus one
	known := make([]uint64, 1<<bits.Len(uint(sets*3/2)))
	e.walk(func(label []byte, depth, from int, records []record) {
		e.nodes = append(grow(e.nodes, 1), listed{hash: uint32(e.enter(label, depth) >> 32), from: uint32(from), to: uint32(from + len(records)),
			at: uint32(sizeOfNode(len(label), plainSets(records)) / unit)})
		for len(records) > 0 {
			n := setLen(records)
			if set := records[:n]; set[0].set != dns.TypeNSEC3 {
				b.checkTTLs(set)
				size := b.setSize(set)
				e.places[from] = uint32(size / unit)
				if set[n-1].typ != dns.TypeRRSIG {
					e.findEqual(known, same, from, set)
				}
				if same[from] == 0 && size > largeSet {
					same[from] = uint32(from) + 1
				}
			}
			from, records = from+n, records[n:]
		}
	})
	for i, first := range same {
		if first == uint32(i)+1 {
			set := b.setAt(i)
			at := e.place(b.setSize(set))
			if e.next > apart {
				e.next = maxImage // it is too large, see tooLarge
				return
			}
			e.places[i] = apart | uint32(at)
			b.appendSet(e.from(at)[:0], set)
			if hostAt(set[0].set) >= 0 {
				e.apart = append(e.apart, at)
			}
		} else if first > 0 {
			e.places[i] = e.places[first-1]
		}
	}
}

// sizeOfNode is the octets of a node without sets that are kept with it. There is room for a ref instead of them.
func sizeOfNode(label, sets int) int { return align(nodeHead + label + setEntry*max(1, sets)) }

// findEqual looks for a set among those known, which are in a hash table of halves of hashes and numbers plus one of first
// records. The set becomes known, or else both are the same as the one that is.
func (e *encoder) findEqual(known []uint64, same []uint32, from int, set []record) {
	const number = 1<<32 - 1
	hash := e.b.hashSet(set)
	slot := hash & uint64(len(known)-1)
	for ; known[slot] != 0; slot = (slot + 1) & uint64(len(known)-1) {
		if (known[slot]^hash)&^number == 0 {
			first := uint32(known[slot]) - 1
			if e.b.equalSet(int(first), set) {
				same[first], same[from] = first+1, first+1
				return
			}
		}
	}
	known[slot] = hash&^number | uint64(from+1)
}

// walkHashes gives the nodes their hashes.
func (e *encoder) walkHashes() {
	i := 0
	e.walk(func(label []byte, depth, _ int, _ []record) {
		e.nodes[i].hash = uint32(e.enter(label, depth) >> 32)
		i++
	})
}

// sizeOf is the units of a node with the sets that are kept with it.
func (e *encoder) sizeOf(n *listed) uint32 {
	size := n.at
	for _, place := range e.places[n.from:n.to] { // 0 but for the first record of a set
		if place&apart == 0 {
			size += place
		}
	}
	return size
}

// fill finds out how much there is to be in the buckets, and reports whether that is well spread.
func (e *encoder) fill() bool {
	units := 0
	for i := range e.nodes[1:] {
		units += int(e.sizeOf(&e.nodes[1+i]))
	}
	count := 1
	e.size = bucketHead + unit*units
	if e.size > oneBucket {
		count, e.size = (unit*units+bucketFill-1)/bucketFill, bucketSize
	}
	e.buckets = make([]filling, count)
	even := true
	e.bySize(func(n *listed, size uint32) {
		if bucket := &e.buckets[e.bucketOf(n.hash)]; bucket.fits(size, e.size) {
			bucket.used += size
		} else {
			bucket.overflow += ref(size)
			even = even && (bucket.overflow < fullBucket || size > fullBucket/2)
		}
	})
	return even
}

// bySize calls place for every node but the apex, with its units: those that are small first, so that more are in their buckets.
func (e *encoder) bySize(place func(n *listed, size uint32)) {
	var large []uint32
	for i := 1; i < len(e.nodes); i++ {
		if size := e.sizeOf(&e.nodes[i]); size <= smallNode {
			place(&e.nodes[i], size)
		} else {
			large = append(large, uint32(i))
		}
	}
	for _, i := range large {
		place(&e.nodes[i], e.sizeOf(&e.nodes[i]))
	}
}

// fits reports whether a bucket has room for so many units more.
func (f *filling) fits(units uint32, octets int) bool {
	return bucketHead+unit*int(f.used+units) <= octets
}

func (e *encoder) bucketOf(hash uint32) uint32 {
	return bucketOf(uint64(hash)<<32, uint32(len(e.buckets)))
}

// placeNodes gives every node its ref. Of a bucket, all that finds no room there is in one run.
func (e *encoder) placeNodes() {
	for i := range e.buckets {
		bucket := &e.buckets[i]
		bucket.used = 0
		if units := bucket.overflow; units > 0 {
			run := e.place(bucketHead + unit*int(units) + unit)
			if e.tooLarge() {
				return
			}
			binary.LittleEndian.PutUint32(e.from(e.bucket(uint32(i))), uint32(run))
			bucket.overflow = run + bucketHead/unit
		}
	}
	e.nodes[0].at = uint32(e.z.apexRef)
	e.bySize(func(n *listed, size uint32) {
		number := e.bucketOf(n.hash)
		if bucket := &e.buckets[number]; bucket.fits(size, e.size) {
			n.at = uint32(e.bucket(number)) + bucketHead/unit + bucket.used
			bucket.used += size
		} else {
			n.at = uint32(bucket.overflow)
			bucket.overflow += ref(size)
		}
	})
}

// bucket is where the bucket of a number begins.
func (e *encoder) bucket(number uint32) ref {
	return e.z.bucketsAt + ref(e.size/unit)*ref(number)
}

// enter makes a node the last one of the path, and returns its hash.
func (e *encoder) enter(label []byte, depth int) uint64 {
	here := pathNode{hash: e.seed}
	if depth > e.labels {
		above := &e.path[depth-1]
		here = pathNode{hash: hashLabel(above.hash, label), below: above.below}
	}
	e.path[depth] = here
	return here.hash
}

// walk calls f for every node in canonical order, with its label, the number of its labels, its records and the number of
// the first of them.
func (e *encoder) walk(f func(label []byte, depth, from int, records []record)) {
	b := e.b
	last := e.apex
	var room [64]byte
	rest := b.records
	n := 0
	if len(rest) > 0 && bytes.Equal(b.key(&rest[0]), e.apex) {
		n = ownerLen(rest)
	}
	f(nil, e.labels, 0, rest[:n])
	for from := n; from < len(rest) && !b.halted(); from += n {
		n = ownerLen(rest[from:])
		records := rest[from : from+n]
		if plainSets(records) == 0 {
			continue // NSEC3 records do not make their owner exist (RFC 5155 7.2.8)
		}
		key := b.key(&records[0])
		depth := commonLabels(last, key)
		at := len(keyPrefix(key, depth))
		for at < len(key) {
			label := room[:0]
			for ; key[at] != 0; at++ {
				if key[at] == 1 {
					at++
					label = append(label, key[at]-1)
				} else {
					label = append(label, key[at])
				}
			}
			at++
			depth++
			if at < len(key) {
				f(label, depth, from, nil)
			} else {
				f(label, depth, from, records)
			}
		}
		last = key
	}
}

// walkHashed calls f for every owner of NSEC3 records that is a hash below the apex, with the RRset's records.
func (e *encoder) walkHashed(f func(hash []byte, records []record)) {
	if !e.b.hasNSEC3 {
		return
	}
	for rest := e.b.records; len(rest) > 0; {
		n := ownerLen(rest)
		if set := nsec3Of(rest[:n]); len(set) > 0 {
			if hash, ok := hashOfKey(e.b.key(&set[0]), e.apex); ok {
				f(hash, set)
			}
		}
		rest = rest[n:]
	}
}

// hashOfKey is the hash that a key's first label stands for, if it is directly below the apex (RFC 5155 3.3).
func hashOfKey(key, apex []byte) ([]byte, bool) {
	if len(key) != len(apex)+33 || !bytes.HasPrefix(key, apex) {
		return nil, false
	}
	hash, err := hashing.AppendDecode(nil, key[len(apex):len(key)-1])
	return hash, err == nil && len(hash) == 20
}

// nsec3Of are the records of an owner's NSEC3 RRset.
func nsec3Of(records []record) []record {
	is := func(r record) bool { return r.set == dns.TypeNSEC3 }
	from := slices.IndexFunc(records, is)
	if from < 0 {
		return nil
	}
	return records[from : from+setLen(records[from:])]
}

// plainSets counts the RRsets of an owner but that of NSEC3 records.
func plainSets(records []record) int {
	count := 0
	for i := range records {
		if records[i].set != dns.TypeNSEC3 && (i == 0 || records[i].set != records[i-1].set) {
			count++
		}
	}
	return count
}

// setLen counts the records of the first RRset of an owner.
func setLen(records []record) int {
	n := 1
	for n < len(records) && records[n].set == records[0].set {
		n++
	}
	return n
}

// setAt are the records of the RRset that begins with the record of a number.
func (b *Builder) setAt(i int) []record {
	n := 1
	for i+n < len(b.records) && b.records[i+n].set == b.records[i].set && b.records[i+n].name == b.records[i].name {
		n++
	}
	return b.records[i : i+n]
}

// writeNodes writes apex, buckets, runs and order.
func (e *encoder) writeNodes() {
	z, i := e.z, 0
	z.pages, z.first = e.pages, e.pages[0]
	z.owner = z.first[:z.originLen:z.originLen]
	order := z.orderLister()
	var item [unit]byte
	var name [255]byte
	e.walk(func(label []byte, depth, from int, records []record) {
		at := ref(e.nodes[i].at)
		i++
		hash := e.enter(label, depth)
		e.path[depth].ref = at
		if depth > e.labels {
			e.mark(hash)
		}
		e.writeNode(label, depth, from, records)
		binary.LittleEndian.PutUint32(item[:], uint32(at))
		order.add(item[:], levelOf(z.appendOwner(name[:0], z.node(at))))
	})
	z.order = order.finish(&list{})
}

// orderLister makes the list of nodes.
func (z *Zone) orderLister() lister {
	var name [255]byte
	return lister{list: list{size: unit}, key: func(item []byte) uint64 { return uint64(refAt(item, 0)) },
		tell: func(item []byte, c *content) {
			n := z.node(refAt(item, 0))
			if n.count() == 0 {
				return
			}
			c.owner(z.appendOwner(name[:0], n), n.count())
			c.names++
			for i := range n.count() {
				set := z.at(&n, i)
				c.set(&set)
			}
		}}
}

// hashedLister makes the list of owners of NSEC3 records.
func (z *Zone) hashedLister() lister {
	return lister{list: list{size: hashedSize}, key: func(item []byte) uint64 { return binary.BigEndian.Uint64(item) },
		tell: func(item []byte, c *content) {
			h := hashedOf(item)
			c.owner(h.hash, 1)
			set := z.set(h.set)
			c.set(&set)
		}}
}

// mark makes a name known that its bucket has, by its hash.
func (e *encoder) mark(hash uint64) {
	marks := e.from(e.z.marksAt + ref(bucketOf(hash, e.z.buckets)))
	binary.LittleEndian.PutUint32(marks, binary.LittleEndian.Uint32(marks)|markOf(hash))
}

// writeNode writes the last node of the path and the sets that are kept with it, and the flag of its parent if it is a
// wildcard.
func (e *encoder) writeNode(label []byte, depth, from int, records []record) {
	put := binary.LittleEndian
	here := &e.path[depth]
	if depth > e.labels && bytes.Equal(label, asterisk) {
		e.from(e.path[depth-1].ref)[0] |= hasWildcard
	}
	var flags uint32
	if here.below {
		flags = isBelowCut
	}
	count := plainSets(records)
	next := here.ref + ref(sizeOfNode(len(label), count)/unit)
	b := append(e.from(here.ref)[:nodeHead], label...)
	for len(records) > 0 {
		n := setLen(records)
		if set := records[:n]; set[0].set != dns.TypeNSEC3 {
			if set[0].typ == set[0].set { // else there are RRSIGs alone
				flags |= flagsOf(set[0].typ, depth > e.labels, here.below)
			}
			at := next
			if place := e.places[from]; place&apart != 0 {
				at = ref(place &^ apart)
			} else {
				next += ref(len(e.b.appendSet(e.from(next)[:0], set)) / unit)
			}
			b = put.AppendUint16(b, set[0].set)
			b = put.AppendUint32(b, uint32(at))
		}
		from, records = from+n, records[n:]
	}
	here.below = here.below || flags&isCut != 0
	e.writeHead(b, flags, next, depth, len(label), count)
}

// writeHead writes what the last node of the path begins with, which reaches up to next.
func (e *encoder) writeHead(b []byte, flags uint32, next ref, depth, label, sets int) {
	put := binary.LittleEndian
	parent := e.path[max(depth-1, e.labels)].ref
	put.PutUint32(b, flags|uint32(next-e.path[depth].ref)<<8)
	put.PutUint32(b[4:], uint32(parent))
	put.PutUint16(b[8:], uint16(sets))
	b[10], b[11] = byte(depth), byte(label)
}

// flagsOf are the flags of a node that records of a type make.
func flagsOf(typ uint16, belowApex, belowCut bool) uint32 {
	switch {
	case typ == dns.TypeNS && belowApex && !belowCut:
		return isCut
	case typ == dns.TypeDNAME:
		return hasDNAME
	case typ == dns.TypeCNAME:
		return hasCNAME
	case typ == dns.TypeNSEC && !belowCut:
		return hasNSEC
	}
	return 0
}

// writeHashed writes hashed and proofs.
func (e *encoder) writeHashed() {
	hashed := e.z.hashedLister()
	var item [hashedSize]byte
	e.walkHashed(func(hash []byte, records []record) {
		e.b.checkTTLs(records)
		at := e.place(e.b.setSize(records))
		if e.tooLarge() {
			return
		}
		e.b.appendSet(e.from(at)[:0], records)
		e.z.pages = e.pages
		binary.LittleEndian.PutUint32(item[copy(item[:], hash):], uint32(at))
		hashed.add(item[:], levelOf(hash))
	})
	e.z.hashed = hashed.finish(&list{})
}

// setParts are what is to be known of a set before it is written: the lowest TTL of the records and of the RRSIGs, how many
// octets either take, and how many targets there are.
type setParts struct {
	ttl, sigTTL uint32
	split, sigs int
	targets     int
}

func (b *Builder) setParts(set []record) (p setParts) {
	for i := range set {
		r := &set[i]
		octets, ttl := &p.split, &p.ttl
		if r.typ == dns.TypeRRSIG {
			octets, ttl = &p.sigs, &p.sigTTL
		}
		if *octets == 0 || r.ttl < *ttl {
			*ttl = r.ttl
		}
		*octets += 2 + len(b.rdata(r))
		if r.typ != dns.TypeRRSIG {
			p.targets++
		}
	}
	if hostAt(set[0].set) < 0 || p.targets > 65535 {
		p.targets = 0
	}
	return p
}

func (p *setParts) size() int {
	head := setHead
	if p.sigs > 0 {
		head = signedHead
	}
	return align(head + unit*p.targets + p.split + p.sigs)
}

// setSize is the octets of a set.
func (b *Builder) setSize(set []record) int {
	p := b.setParts(set)
	return p.size()
}

// checkTTLs warns of a set with several TTLs.
func (b *Builder) checkTTLs(set []record) {
	for i := 1; i < len(set); i++ {
		if set[i].typ == set[i-1].typ {
			b.checkTTL(&set[i-1], &set[i])
		}
	}
}

// appendSet appends a set without its targets.
func (b *Builder) appendSet(dst []byte, set []record) []byte {
	put := binary.LittleEndian
	p := b.setParts(set)
	dst = put.AppendUint16(dst, set[0].set)
	dst = put.AppendUint16(dst, uint16(p.targets))
	dst = put.AppendUint32(dst, p.ttl)
	if p.sigs == 0 {
		dst = put.AppendUint32(dst, uint32(p.split))
	} else {
		dst = put.AppendUint32(dst, uint32(p.split)|signed)
		dst = put.AppendUint32(dst, p.sigTTL)
		dst = put.AppendUint32(dst, uint32(p.sigs))
	}
	for range p.targets {
		dst = put.AppendUint32(dst, 0)
	}
	for i := range set {
		rdata := b.rdata(&set[i])
		dst = append(binary.BigEndian.AppendUint16(dst, uint16(len(rdata))), rdata...)
	}
	for len(dst)%unit != 0 {
		dst = append(dst, 0)
	}
	return dst
}

// hashSet is a hash of what equalSet compares.
func (b *Builder) hashSet(set []record) uint64 {
	h := uint64(set[0].set)<<32 | uint64(set[0].ttl)
	for i := range set {
		h = hashLabel(h, b.rdata(&set[i]))
	}
	return h
}

// equalSet reports whether the RRset that begins with the record of a number is equal to one, neither having RRSIGs.
func (b *Builder) equalSet(first int, set []record) bool {
	rest := b.records[first:]
	for i := range set {
		x, y := &rest[i], &set[i]
		if x.typ != y.typ || x.ttl != y.ttl || x.name != rest[0].name || !bytes.Equal(b.rdata(x), b.rdata(y)) {
			return false
		}
	}
	next := len(set)
	return next == len(rest) || rest[next].set != set[0].set || rest[next].name != rest[0].name
}

// fillTargets finds the nodes that RRsets point at, as long as goOn says so.
func (e *encoder) fillTargets(goOn func() bool) {
	for n := range e.z.nodes() {
		if !goOn() {
			return
		}
		for i := range n.count() {
			if r := n.setRefAt(i); r >= e.afterShared {
				e.z.fillTarget(r)
			}
		}
	}
	for _, r := range e.apart {
		e.z.fillTarget(r)
	}
}

// nodes yields every node as they lie in memory, which takes a fraction of the time of the canonical order.
func (z *Zone) nodes() iter.Seq[node] {
	return func(yield func(node) bool) {
		part := func(at ref, octets []byte) bool {
			for len(octets) >= nodeHead {
				size := int(refAt(octets, 0) >> 8)
				if size == 0 || octets[0]&isGone == 0 && !yield(z.node(at)) {
					return size == 0
				}
				at += ref(size)
				octets = octets[min(len(octets), unit*size):]
			}
			return true
		}
		if !yield(z.apex()) {
			return
		}
		for i := range ref(z.buckets) {
			at := z.bucketsAt + ref(z.bucketSize/unit)*i
			bucket := z.from(at)[:z.bucketSize]
			if !part(at+bucketHead/unit, bucket[bucketHead:]) {
				return
			}
			for run := refAt(bucket, 0); run > 0; run = refAt(z.from(run), 0) {
				if !part(run+bucketHead/unit, z.from(run)[bucketHead:]) {
					return
				}
			}
		}
	}
}

// fillTarget finds the nodes that an RRset points at, which may be written to.
func (z *Zone) fillTarget(r ref) {
	set := z.set(r)
	if len(set.targets) == 0 {
		return
	}
	var s search
	targets := set.targets
	for rdata := range set.records().All() {
		if host := nameIn(rdata, hostAt(set.typ)); host != nil {
			binary.LittleEndian.PutUint32(targets, uint32(z.hostNode(&s, host)))
		}
		targets = targets[unit:]
	}
}
