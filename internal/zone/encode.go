package zone

import (
	"bytes"
	"encoding/binary"
	"math/bits"
	"slices"

	"github.com/miekg/dns"
)

// encoder makes an image of records in canonical order. A first walk over them measures, a second one writes.
type encoder struct {
	b      *Builder
	apex   []byte // key
	labels int    // of the apex
	image  []byte

	nodes, nodeBytes, hashed int // as measured

	path    [maxLabels + 1]pathNode // nodes from the apex down to the last one, by labels
	nextRef ref
	sets    []byte
	buf     []byte
	known   []uint32 // set refs plus one by hash, to find equal sets; newer ones displace older ones
}

// pathNode is a node on the path to the one being written.
type pathNode struct {
	ref   ref
	below bool // what comes below it is not authoritative
}

// encode makes the image of the records, but for what denies existence.
func (b *Builder) encode(origin []byte) []byte {
	e := &encoder{b: b, apex: appendKey(nil, origin), labels: labels(origin)}
	e.walk(e.measure)
	e.walkHashed(func([]byte, []record) { e.hashed++ })
	order := 0
	if b.hasNSEC {
		order = e.nodes
	}
	slots := 0
	if e.nodes > 1 {
		slots = (e.nodes-1)*3/2 + 1
	}
	nodesAt := align(headerSize + len(origin))
	indexAt := nodesAt + e.nodeBytes
	orderAt := align(indexAt + slots*slotSize)
	hashedAt := orderAt + 4*order
	setsAt := hashedAt + e.hashed*hashedSize
	e.image = make([]byte, setsAt)
	e.known = make([]uint32, 1<<min(20, bits.Len(uint(e.nodes))))

	put := binary.LittleEndian
	put.PutUint32(e.image[atVersion:], FormatVersion)
	put.PutUint64(e.image[atRecords:], uint64(len(b.records)))
	for _, f := range [][3]int{{atNodes, nodesAt, e.nodeBytes}, {atIndex, indexAt, slots}, {atOrder, orderAt, order},
		{atHashed, hashedAt, e.hashed}, {atChain, hashedAt, e.hashed}} {
		put.PutUint64(e.image[f[0]:], uint64(f[1]))
		put.PutUint64(e.image[f[0]+8:], uint64(f[2]))
	}
	e.image[atOriginLen] = byte(len(origin))
	appendLower(e.image[:headerSize], origin)

	nodes, orders, hashes := e.image[nodesAt:nodesAt], e.image[orderAt:orderAt], e.image[hashedAt:hashedAt]
	e.walk(func(label []byte, depth int, records []record) {
		if order > 0 {
			orders = put.AppendUint32(orders, uint32(e.nextRef))
		}
		nodes = e.appendNode(nodes, nodesAt, label, depth, records)
	})
	e.walkHashed(func(hash []byte, records []record) {
		hashes = append(hashes, hash...)
		hashes = put.AppendUint32(hashes, uint32(e.putSet(records)))
	})
	put.PutUint64(e.image[atSets:], uint64(setsAt))
	put.PutUint64(e.image[atSets+8:], uint64(len(e.sets)))
	image := make([]byte, setsAt+len(e.sets))
	copy(image[copy(image, e.image):], e.sets)
	e.image, e.sets, e.known = nil, nil, nil
	return image
}

// walk calls f for every node in canonical order, with its label, the number of its labels and its records.
func (e *encoder) walk(f func(label []byte, depth int, records []record)) {
	b := e.b
	last := e.apex
	var room [64]byte
	rest := b.records
	n := 0
	if len(rest) > 0 && bytes.Equal(b.key(&rest[0]), e.apex) {
		n = b.ownerLen(rest)
	}
	f(nil, e.labels, rest[:n])
	for rest = rest[n:]; len(rest) > 0 && !b.halted(); rest = rest[n:] {
		n = b.ownerLen(rest)
		if plainSets(rest[:n]) == 0 {
			continue // NSEC3 records do not make their owner exist (RFC 5155 7.2.8)
		}
		key := b.key(&rest[0])
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
				f(label, depth, nil)
			} else {
				f(label, depth, rest[:n])
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
		n := e.b.ownerLen(rest)
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

func (e *encoder) measure(label []byte, _ int, records []record) {
	e.nodes++
	e.nodeBytes += align(nodeHead + len(label) + setEntry*plainSets(records))
}

// appendNode writes a node, and the flag of its parent if it is a wildcard.
func (e *encoder) appendNode(nodes []byte, nodesAt int, label []byte, depth int, records []record) []byte {
	start := len(nodes)
	here := pathNode{ref: e.nextRef}
	var parent ref
	var flags uint16
	if depth > e.labels {
		parent, here.below = e.path[depth-1].ref, e.path[depth-1].below
		if len(label) == 1 && label[0] == '*' {
			nodes[uint64(parent)*unit] |= hasWildcard
		}
	}
	if here.below {
		flags = isBelowCut
	}
	put := binary.LittleEndian
	nodes = put.AppendUint16(nodes, 0)
	nodes = put.AppendUint16(nodes, uint16(plainSets(records)))
	nodes = put.AppendUint32(nodes, uint32(parent))
	nodes = append(append(nodes, byte(depth), byte(len(label))), label...)
	for rest := records; len(rest) > 0; {
		n := setLen(rest)
		set := &rest[0]
		if set.set != dns.TypeNSEC3 {
			nodes = put.AppendUint16(nodes, set.set)
			nodes = put.AppendUint32(nodes, uint32(e.putSet(rest[:n])))
			if set.typ == set.set { // not RRSIGs alone
				switch {
				case set.typ == dns.TypeNS && depth > e.labels && !here.below:
					flags |= isCut
				case set.typ == dns.TypeDNAME:
					flags |= hasDNAME
				case set.typ == dns.TypeCNAME:
					flags |= hasCNAME
				case set.typ == dns.TypeNSEC && !here.below:
					flags |= hasNSEC
				}
			}
		}
		rest = rest[n:]
	}
	here.below = here.below || flags&isCut != 0
	put.PutUint16(nodes[start:], flags)
	for len(nodes)%unit != 0 {
		nodes = append(nodes, 0)
	}
	e.path[depth] = here
	e.nextRef = ref(len(nodes) / unit)
	return nodes
}

// putSet writes the set of records and their RRSIGs, in this order, unless an equal one is at hand. The lowest TTL goes
// for each of the two.
func (e *encoder) putSet(records []record) ref {
	b := e.b
	put := binary.LittleEndian
	var ttl, sigTTL uint32
	split, hosts := 0, 0
	buf := append(e.buf[:0], make([]byte, setHead)...)
	for i := range records {
		r := &records[i]
		rdata := b.rdata(r)
		buf = append(binary.BigEndian.AppendUint16(buf, uint16(len(rdata))), rdata...)
		to := &ttl
		if r.typ == dns.TypeRRSIG {
			to = &sigTTL
		} else {
			split = len(buf) - setHead
			hosts++
		}
		if i == 0 || r.typ != records[i-1].typ {
			*to = r.ttl
		} else {
			b.checkTTL(&records[i-1], r)
			*to = min(*to, r.ttl)
		}
	}
	size := len(buf) - setHead
	if hostAt(records[0].set) < 0 {
		hosts = 0
	}
	buf = append(buf, make([]byte, 4*hosts)...)
	buf = append(buf, make([]byte, align(len(buf))-len(buf))...)
	put.PutUint16(buf, records[0].set)
	put.PutUint32(buf[4:], ttl)
	put.PutUint32(buf[8:], sigTTL)
	put.PutUint32(buf[12:], uint32(split))
	put.PutUint32(buf[16:], uint32(size))
	put.PutUint32(buf[20:], uint32(hosts))
	e.buf = buf
	if split == size {
		if r, ok := e.find(buf); ok {
			return r
		}
	}
	r := ref(len(e.sets) / unit)
	e.sets = append(e.sets, buf...)
	return r
}

// find looks for an equal set among those written, and remembers that this one is about to be.
func (e *encoder) find(set []byte) (ref, bool) {
	h := uint64(len(set))
	for rest := set; len(rest) >= 4; rest = rest[4:] {
		h = mix(h^uint64(binary.LittleEndian.Uint32(rest)), 0xe7037ed1a0b428db)
	}
	slot := &e.known[h%uint64(len(e.known))]
	if *slot > 0 {
		if at := uint64(*slot-1) * unit; at+uint64(len(set)) <= uint64(len(e.sets)) && bytes.Equal(e.sets[at:at+uint64(len(set))], set) {
			return ref(*slot - 1), true
		}
	}
	*slot = uint32(len(e.sets)/unit) + 1
	return 0, false
}

// Bounds of how far a name may lie from its first slot before another seed is tried: a registrant chooses names, not
// seeds.
const (
	fineProbe = 512
	seeds     = 8
)

// fillIndex makes the hash table of the nodes but the apex.
func (z *Zone) fillIndex() {
	if z.slots == 0 {
		return
	}
	for z.seed = 1; ; z.seed++ {
		if z.maxProbe = z.tryIndex(); z.maxProbe <= fineProbe || z.seed == seeds {
			break
		}
	}
	binary.LittleEndian.PutUint64(z.image[atSeed:], z.seed)
	binary.LittleEndian.PutUint32(z.image[atMaxProbe:], z.maxProbe)
}

// tryIndex fills the table with the seed, and returns the longest way from a first slot.
func (z *Zone) tryIndex() (longest uint32) {
	clear(z.index)
	apex := z.apex()
	for r := apex.next(); !z.ended(r); {
		n := z.node(r)
		h := hashLabel(z.seed, n.parent, n.label)
		slot, probe := z.home(h), uint32(0)
		for binary.LittleEndian.Uint32(z.index[slot*slotSize:]) != 0 {
			probe++
			if slot++; slot == z.slots {
				slot = 0
			}
		}
		binary.LittleEndian.PutUint32(z.index[slot*slotSize:], uint32(r)+1)
		z.index[slot*slotSize+4] = byte(h)
		longest = max(longest, probe)
		r = n.next()
	}
	return longest
}

// fillTargets finds the nodes that RRsets point at.
func (z *Zone) fillTargets() {
	var s search
	for at := 0; at+setHead <= len(z.sets); {
		set := z.set(ref(at / unit))
		if len(set.targets) > 0 {
			i := 0
			for rdata := range set.records().All() {
				if host := nameIn(rdata, hostAt(set.typ)); host != nil && s.set(host) && z.holds(&s) {
					if n, exact := z.locate(&s); exact && (z.has(&n, dns.TypeA) || z.has(&n, dns.TypeAAAA)) {
						binary.LittleEndian.PutUint32(set.targets[4*i:], uint32(n.ref)+1)
					}
				}
				i++
			}
		}
		at += align(setHead + len(set.data) + len(set.targets))
	}
}
