package zone

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"

	"github.com/miekg/dns"
)

// Apply returns the zone that a Builder makes of z's records without those that a Delta takes out, and with those that it
// puts in. What does not change it shares with z, which stays as it is; so it takes memory and time for the change only, but for
// a change of how the zone denies existence, and where nobody puts a zone in order that is Fragmented. The findings are
// errors, and there is no zone then: the Delta is not of this zone, takes out what is not there, puts in what is there
// already or is no record, or what it makes is not fit to be served. Warnings are for a Builder to give.
func (z *Zone) Apply(d *Delta) (*Zone, []Finding) { return z.apply(d, false) }

func (z *Zone) apply(d *Delta, inPlace bool) (*Zone, []Finding) {
	c := &changes{z: z, b: NewBuilder(), inPlace: inPlace}
	c.read(d)
	var made *Zone
	var found []Finding
	if !c.b.findings.errors {
		if made = c.edit(); made == nil && c.loose > 0 && c.loose <= 2*z.loose && c.compact() {
			made = c.edit()
		}
		if made == nil {
			made, found = c.anew()
		}
	}
	if made != nil && made.serial != d.To {
		c.refuse(z.owner, fmt.Sprintf("it makes serial %d, and is said to make %d", made.serial, d.To))
	}
	found = append(c.b.findings.all(), found...)
	for i := range found {
		found[i].Zone = z.origin
	}
	found = slices.DeleteFunc(found, func(f Finding) bool { return f.Severity != Error })
	if len(found) > 0 {
		return nil, found
	}
	return made, nil
}

// changes are what becomes of some owners of a zone.
type changes struct {
	z       *Zone
	b       *Builder // has all records of these owners, as they are to be
	owners  []*owned // by key
	inPlace bool     // whatever of the image is loose then
	loose   uint64   // what edit found too much; 0 if it did not
}

// owned is an owner, and the records that it has afterwards, in the Builder.
type owned struct {
	key, owner []byte
	removed    map[string]bool // as in RRs, without the owner
	added      [][]byte
	records    []record
}

func (c *changes) refuse(owner []byte, detail string) {
	c.b.findings.add(Finding{Owner: nameString(owner), Rule: "delta", Severity: Error, Detail: detail})
}

// read reads a Delta, and gives the Builder the records.
func (c *changes) read(d *Delta) {
	if d.From != c.z.serial {
		c.refuse(c.z.owner, fmt.Sprintf("a change of serial %d, and the zone has %d", d.From, c.z.serial))
		return
	}
	byOwner := map[string]*owned{}
	c.split(byOwner, d.Removed, func(o *owned, rest []byte) {
		if o.removed[string(rest)] {
			c.refuse(o.owner, "a record is taken out twice")
		}
		o.removed[string(rest)] = true
	})
	c.split(byOwner, d.Added, func(o *owned, rest []byte) { o.added = append(o.added, rest) })
	c.owners = slices.SortedFunc(maps.Values(byOwner), func(x, y *owned) int { return bytes.Compare(x.key, y.key) })
	for _, o := range c.owners {
		c.collect(o)
	}
	c.b.keepInZone(c.z.key)
	count := c.b.Len()
	c.b.sort()
	if c.b.dropEqual(); c.b.Len() < count {
		c.refuse(c.z.owner, fmt.Sprintf("%d records that are put in are there already", count-c.b.Len()))
	}
	rest := c.b.records
	for _, o := range c.owners {
		n := 0
		for n < len(rest) && bytes.Equal(c.b.key(&rest[n]), o.key) {
			n++
		}
		o.records, rest = rest[:n], rest[n:]
	}
}

// split calls f for each record, with its owner and with what follows that.
func (c *changes) split(byOwner map[string]*owned, rrs RRs, f func(o *owned, rest []byte)) {
	for len(rrs) > 0 {
		n := rrs.first()
		if n == 0 {
			c.refuse(c.z.owner, "octets that are no record")
			return
		}
		at := nameLen(rrs, 0)
		name := appendLower(nil, rrs[:at])
		o := byOwner[string(name)]
		if o == nil {
			o = &owned{owner: name, key: appendKey(nil, name), removed: map[string]bool{}}
			byOwner[string(name)] = o
		}
		f(o, rrs[at:n])
		rrs = rrs[n:]
	}
}

// collect gives the Builder what an owner has, but for what is taken out, and what is put in.
func (c *changes) collect(o *owned) {
	var buf []byte
	carry := func(typ uint16, ttl uint32, data Rdata) {
		for rdata := range data.All() {
			if buf = appendRest(buf[:0], typ, ttl, rdata); o.removed[string(buf)] {
				delete(o.removed, string(buf))
			} else {
				c.b.AddWire(o.owner, typ, ttl, rdata, "", 0)
			}
		}
	}
	for _, s := range c.z.ownedBy(o) {
		carry(s.Type, s.TTL, s.Data)
		carry(dns.TypeRRSIG, s.SigTTL, s.Sigs)
	}
	if len(o.removed) > 0 {
		c.refuse(o.owner, fmt.Sprintf("%d records that are taken out are not there", len(o.removed)))
	}
	for _, rest := range o.added {
		if class := binary.BigEndian.Uint16(rest[2:]); class != dns.ClassINET {
			c.refuse(o.owner, fmt.Sprintf("class %s; only IN is served", dns.Class(class)))
			continue
		}
		c.b.AddWire(o.owner, binary.BigEndian.Uint16(rest), binary.BigEndian.Uint32(rest[4:]), rest[10:], "", 0)
	}
}

// ownedBy are the RRsets of an owner, that of NSEC3 records too.
func (z *Zone) ownedBy(o *owned) (sets []RRset) {
	var s search
	if !s.set(o.owner) || !z.holds(&s) {
		return nil
	}
	if n, exact := z.locate(&s); exact {
		sets = z.setsOf(&n, o.owner)
	}
	if hash, ok := hashOfKey(o.key, z.key); ok {
		if at, exact := z.hashed.spotOfHash(hash); exact {
			set := z.set(hashedOf(z.hashed.item(at)).set)
			sets = append(sets, set.of(o.owner))
		}
	}
	return sets
}

// anew builds the zone of all its records.
func (c *changes) anew() (*Zone, []Finding) {
	b := NewBuilder()
	b.Grow(c.z.Len() + c.b.Len())
	owners := c.owners
	give := func(o *owned) {
		for i := range o.records {
			b.AddWire(o.owner, o.records[i].typ, o.records[i].ttl, c.b.rdata(&o.records[i]), "", 0)
		}
	}
	var owner, key []byte
	changed := false
	for r := range c.z.WireRecords() {
		if !bytes.Equal(owner, r.Owner) {
			owner, key, changed = r.Owner, appendKey(key[:0], r.Owner), false
			for len(owners) > 0 && bytes.Compare(owners[0].key, key) <= 0 {
				changed = bytes.Equal(owners[0].key, key)
				give(owners[0])
				owners = owners[1:]
			}
		}
		if !changed {
			b.AddWire(owner, r.Type, r.TTL, r.Data, "", 0)
		}
	}
	for _, o := range owners {
		give(o)
	}
	return b.Build(c.z.origin)
}

// compact puts the zone in order that is to be changed.
func (c *changes) compact() bool {
	z := c.z.Compact(func() bool { return true })
	if z != nil {
		c.z, c.loose = z, 0
	}
	return z != nil
}

// edit makes the zone of the one there is. It returns nothing if that is to be done anew: because so much is loose, or because
// something is to be said of it, or may be.
func (c *changes) edit() *Zone {
	e := newEditor(c.z, c.b)
	for _, o := range c.owners {
		e.put(o)
	}
	for _, o := range slices.Backward(c.owners) {
		if plainSets(o.records) == 0 {
			e.take(o)
		}
	}
	for _, o := range c.owners {
		e.putHashed(o)
	}
	if e.tooLarge() || !c.inPlace && e.z.isLoose() {
		c.loose = e.z.loose
		return nil
	}
	if e.unfit {
		return nil
	}
	e.editLists()
	e.setFlags()
	for _, r := range e.pointing {
		e.at(r)
		e.z.fillTarget(r)
	}
	if e.own[len(e.own)-1] {
		e.trim()
		e.sync()
	}
	if e.z.begin() != nil || !e.fit() {
		return nil
	}
	return e.z
}

// editor makes a zone of another one, of which it copies the pages that it writes to.
type editor struct {
	old *Zone
	z   *Zone
	b   *Builder
	space
	own      []bool          // by page: it is a copy
	nodes    map[ref]*edited // that something happened to
	kept     map[ref]bool    // nodes that got a child
	pointing []ref           // RRsets that are new and have targets
	hashes   []listEdit
	hashesOf [][]byte // that something happened to
	unfit    bool     // there are NSEC3 records at no hash
}

// edited is a node that something happened to.
type edited struct {
	ref ref
	key []byte
	op  byte // see listEdit
}

func newEditor(old *Zone, b *Builder) *editor {
	z, d := *old, *old.details
	z.tag, z.details = 0, &d
	e := &editor{old: old, z: &z, b: b, nodes: map[ref]*edited{}, kept: map[ref]bool{},
		space: space{pages: slices.Clone(old.pages)}, own: make([]bool, len(old.pages))}
	last := len(e.pages) - 1
	units := uint64(align(len(e.pages[last])) / unit)
	if e.next = uint64(last)*pageUnits + units; units > pageUnits {
		e.next += (pageUnits - e.next%pageUnits) % pageUnits
	}
	e.sync()
	return e
}

// sync lets the zone have the pages as they are now.
func (e *editor) sync() {
	for len(e.own) < len(e.pages) {
		e.own = append(e.own, true)
	}
	e.z.pages, e.z.first = e.pages, e.pages[0]
	e.z.owner = e.z.first[:e.z.originLen:e.z.originLen]
}

// at is where a ref points, to be written to.
func (e *editor) at(r ref) []byte {
	if i := r / pageUnits; !e.own[i] {
		e.pages[i], e.own[i] = bytes.Clone(e.pages[i]), true
		e.sync()
	}
	return e.from(r)
}

// add finds room for something that is not where a Builder would have put it.
func (e *editor) add(octets int) ref {
	at := e.place(octets)
	e.z.loose += uint64(align(octets))
	if i := int(at / pageUnits); i < len(e.own) {
		e.own[i] = true // it was lengthened, which copied it
	}
	e.sync()
	return at
}

// roomOf is the octets that a node has where it is.
func (e *editor) roomOf(r ref) int { return unit * int(refAt(e.z.from(r), 0)>>8) }

// reuse says that octets are of use again which were not.
func (e *editor) reuse(octets int) { e.z.loose -= min(e.z.loose, uint64(octets)) }

// note remembers what happened to a node.
func (e *editor) note(r ref, op byte) {
	if known := e.nodes[r]; known == nil {
		n := e.z.node(r)
		e.nodes[r] = &edited{r, e.z.keyOf(&n), op}
	} else if known.op == touch {
		known.op = op
	}
}

// put gives an owner's node its records, but for NSEC3, if there are any.
func (e *editor) put(o *owned) {
	if plainSets(o.records) == 0 {
		return
	}
	var s search
	s.set(o.owner)
	z := e.z
	at, hash := z.apexRef, uint64(z.seed)
	for depth := int(z.labels) + 1; depth <= s.labels; depth++ {
		label := s.label(depth)
		hash = hashLabel(hash, label)
		child, gone := z.everChild(at, hash, label)
		missing := child == 0
		if missing {
			room := sizeOfNode(len(label), 0)
			if depth == s.labels {
				room = e.sizeOf(len(label), o.records)
			}
			child = e.create(at, hash, label, depth, room)
		}
		if gone {
			e.reuse(e.roomOf(child))
		}
		if missing || gone {
			e.at(child)[0] = 0
			e.note(child, enter)
			e.kept[at] = true
			if bytes.Equal(label, asterisk) {
				e.at(at)[0] |= hasWildcard
			}
		}
		at = child
	}
	e.write(at, o.records)
	e.note(at, touch)
}

// sizeOf is the octets of a node with its records.
func (e *editor) sizeOf(label int, records []record) int {
	size := sizeOfNode(label, plainSets(records))
	for len(records) > 0 {
		n := setLen(records)
		if set := e.b.setSize(records[:n]); records[0].set != dns.TypeNSEC3 && set <= largeSet {
			size += set
		}
		records = records[n:]
	}
	return size
}

// create makes a node that does not exist yet.
func (e *editor) create(parent ref, hash uint64, label []byte, depth, octets int) ref {
	z, put := e.z, binary.LittleEndian
	number := ref(bucketOf(hash, z.buckets))
	bucketAt := z.bucketsAt + ref(z.bucketSize/unit)*number
	bucket := e.at(bucketAt)[:z.bucketSize]
	in := bucketHead
	for in+nodeHead <= len(bucket) && put.Uint32(bucket[in:])>>8 > 0 {
		in += unit * int(put.Uint32(bucket[in:])>>8)
	}
	r := bucketAt + ref(in/unit)
	if in+octets > len(bucket) {
		run := e.add(bucketHead + octets + unit)
		bucket = e.at(bucketAt)
		copy(e.at(run), bucket[:bucketHead])
		put.PutUint32(bucket, uint32(run))
		r = run + bucketHead/unit
	}
	marks := e.at(z.marksAt + number)
	put.PutUint32(marks, put.Uint32(marks)|markOf(hash))
	b := e.at(r)
	put.PutUint32(b, uint32(octets/unit)<<8)
	put.PutUint32(b[4:], uint32(parent))
	b[10], b[11] = byte(depth), byte(len(label))
	copy(b[nodeHead:], label)
	return r
}

// write gives a node contents.
func (e *editor) write(r ref, records []record) {
	put := binary.LittleEndian
	n := e.z.node(r)
	var entries, sets []byte
	var places []int64 // by entry: units of sets before it, or below 0 where else it is
	for len(records) > 0 {
		length := setLen(records)
		set := records[:length]
		if records = records[length:]; set[0].set == dns.TypeNSEC3 {
			continue
		}
		start := len(sets)
		sets = e.b.appendSet(sets, set)
		at, elsewhere := e.elsewhere(&n, sets[start:])
		if elsewhere {
			sets = sets[:start]
			places = append(places, -int64(at))
		} else {
			places = append(places, int64(start/unit))
		}
		entries = put.AppendUint32(put.AppendUint16(entries, set[0].set), 0)
	}
	content, first := e.roomFor(&n, len(entries), len(sets))
	for i, place := range places {
		at := ref(-place)
		if place >= 0 {
			at = first + ref(place)
			if hostAt(put.Uint16(entries[i*setEntry:])) >= 0 {
				e.pointing = append(e.pointing, at)
			}
		}
		put.PutUint32(entries[i*setEntry+2:], uint32(at))
	}
	put.PutUint16(e.at(r)[8:], uint16(len(places)))
	copy(content(), entries)
	if len(sets) > 0 {
		copy(e.at(first), sets)
	}
}

// elsewhere is where an RRset is that is not kept with its node n: it is there already, or large.
func (e *editor) elsewhere(n *node, octets []byte) (ref, bool) {
	s := readSet(octets)
	for i := range n.count() {
		if n.typeAt(i) != s.typ {
			continue
		}
		if at := n.setRefAt(i); !e.inside(n, at) {
			if old := e.z.set(at); equalSets(old.of(nil), s.of(nil)) {
				return at, true
			}
		}
	}
	if len(octets) <= largeSet {
		return 0, false
	}
	at := e.add(len(octets))
	copy(e.at(at), octets)
	if hostAt(s.typ) >= 0 {
		e.pointing = append(e.pointing, at)
	}
	return at, true
}

// inside reports whether a set is kept with a node.
func (e *editor) inside(n *node, at ref) bool {
	own := n.ref + refAt(e.z.from(n.ref), 0)>>8
	if at >= n.ref && at < own {
		return true
	}
	if !n.is(isAway) {
		return false
	}
	away := refAt(e.z.from(n.ref)[nodeHead+len(n.label):], 0)
	return at >= away && at < away+refAt(e.z.from(away), 0)
}

// roomFor finds room for the contents of a node: with it, or where they were that found none there, or elsewhere. It returns
// where the entries go, and where the sets begin.
func (e *editor) roomFor(n *node, entries, sets int) (content func() []byte, first ref) {
	put := binary.LittleEndian
	head, size := nodeHead+len(n.label), align(nodeHead+len(n.label)+max(entries, setEntry))
	b := e.at(n.ref)
	room := e.roomOf(n.ref)
	if size+sets <= room {
		if n.is(isAway) {
			e.reuse(room - sizeOfNode(len(n.label), 0))
		}
		b[0] &^= isAway
		return func() []byte { return e.at(n.ref)[head:] }, n.ref + ref(size/unit)
	}
	away, need := ref(0), unit+align(entries)+sets
	if n.is(isAway) {
		away = refAt(b[head:], 0)
	} else {
		e.z.loose += uint64(room - sizeOfNode(len(n.label), 0))
	}
	if away == 0 || unit*int(refAt(e.z.from(away), 0)) < need {
		away = e.add(need)
		put.PutUint32(e.at(away), uint32(need/unit))
	}
	b = e.at(n.ref)
	b[0] |= isAway
	put.PutUint32(b[head:], uint32(away))
	return func() []byte { return e.at(away)[unit:] }, away + ref((unit+align(entries))/unit)
}

// take takes an owner's records away, but for NSEC3, and what exists for it only (RFC 4592 2.2.2).
func (e *editor) take(o *owned) {
	var s search
	n, exists := e.z.exactly(&s, o.owner)
	if !exists || n.count() == 0 {
		return
	}
	e.write(n.ref, nil)
	e.note(n.ref, touch)
	for r := n.ref; r != e.z.apexRef; r = n.parent {
		if n = e.z.node(r); n.count() > 0 || e.hasChild(&n) {
			return
		}
		e.at(r)[0] = isGone
		e.z.loose += uint64(e.roomOf(r))
		e.note(r, leave)
		if bytes.Equal(n.label, asterisk) {
			e.at(n.parent)[0] &^= hasWildcard
		}
	}
}

// hasChild reports whether there is a node below one: it would follow that in order.
func (e *editor) hasChild(n *node) bool {
	if e.kept[n.ref] {
		return true
	}
	order := &e.old.order
	for s := order.next(e.z.spotOf(n)); order.has(s); s = order.next(s) {
		if below := e.z.node(refAt(order.item(s), 0)); below.labels <= n.labels {
			return false
		} else if !below.is(isGone) {
			return true
		}
	}
	return false
}

// before is the spot in order of the last node before one that may be there or not, which is not the apex.
func (e *editor) before(n *node) spot {
	parent := e.z.parent(n)
	return e.z.before(&parent, n.label)
}

// putHashed gives an owner of NSEC3 records those that it has now.
func (e *editor) putHashed(o *owned) {
	hash, ok := hashOfKey(o.key, e.z.key)
	set := nsec3Of(o.records)
	if !ok {
		e.unfit = e.unfit || len(set) > 0
		return
	}
	before, exists := e.z.hashed.spotOfHash(hash)
	if !exists && len(set) == 0 {
		return
	}
	e.hashesOf = append(e.hashesOf, hash)
	if len(set) == 0 {
		e.hashes = append(e.hashes, listEdit{spot: before, op: leave})
		return
	}
	octets := e.b.appendSet(nil, set)
	if exists {
		at := hashedOf(e.z.hashed.item(before)).set
		if s := e.z.set(at); s.extent() >= len(octets) {
			copy(e.at(at), octets)
			e.hashes = append(e.hashes, listEdit{spot: before, op: touch})
			return
		}
	}
	at := e.add(len(octets))
	copy(e.at(at), octets)
	item := binary.LittleEndian.AppendUint32(bytes.Clone(hash), uint32(at))
	switch {
	case exists:
		e.hashes = append(e.hashes, listEdit{before, enter, levelOf(hash), item}, listEdit{spot: before, op: leave})
	case before.leaf < 0:
		e.hashes = append(e.hashes, listEdit{spot{}, enter, levelOf(hash), item})
	default:
		e.hashes = append(e.hashes, listEdit{spot{before.leaf, before.at + 1}, enter, levelOf(hash), item})
	}
}

// extent is the octets that a set takes.
func (s *rrset) extent() int {
	head := setHead
	if len(s.data) > int(s.split) {
		head = signedHead
	}
	return align(head + len(s.targets) + len(s.data))
}

// inOrder are the nodes that something happened to, in canonical order.
func (e *editor) inOrder() []*edited {
	return slices.SortedFunc(maps.Values(e.nodes), func(x, y *edited) int { return bytes.Compare(x.key, y.key) })
}

// editLists lets the lists have what happened.
func (e *editor) editLists() {
	var edits []listEdit
	for _, t := range e.inOrder() {
		n := e.z.node(t.ref)
		edit := listEdit{spot: e.z.spotOf(&n), op: t.op}
		if t.op == enter { // behind the one before it, and so in the same leaf
			edit.spot = e.before(&n)
			edit.at++
			edit.level = levelOf(e.z.appendOwner(nil, n))
			edit.item = binary.LittleEndian.AppendUint32(nil, uint32(t.ref))
		}
		edits = append(edits, edit)
	}
	order, hashed := e.z.orderLister(), e.z.hashedLister()
	newOrder := order.edit(&e.old.order, edits)
	e.z.hashed = hashed.edit(&e.old.hashed, e.hashes)
	e.z.order = newOrder
}

// setFlags gives the nodes that something happened to their flags, and all nodes below those that became a cut or are none
// any more.
func (e *editor) setFlags() {
	for _, t := range e.inOrder() {
		if t.op == leave {
			continue
		}
		n := e.z.node(t.ref)
		if !e.setFlagsOf(&n) || t.op == enter {
			continue
		}
		order := &e.z.order
		for s := order.next(e.z.spotOf(&n)); order.has(s); s = order.next(s) {
			below := e.z.nodeAt(s)
			if below.labels <= n.labels {
				break
			}
			e.setFlagsOf(&below)
			e.note(below.ref, touch)
		}
	}
}

// setFlagsOf gives a node its flags, and reports whether what is below it became authoritative, or is so no longer.
func (e *editor) setFlagsOf(n *node) bool {
	parent := e.z.parent(n)
	belowApex := n.ref != e.z.apexRef
	belowCut := belowApex && !parent.authoritative()
	flags := uint32(n.flags & (hasWildcard | isAway))
	if belowCut {
		flags |= isBelowCut
	}
	for i := range n.count() {
		if s := e.z.at(n, i); s.split > 0 {
			flags |= flagsOf(s.typ, belowApex, belowCut)
		}
	}
	if uint8(flags) != n.flags {
		e.at(n.ref)[0] = uint8(flags)
	}
	return (flags&(isCut|isBelowCut) != 0) == n.authoritative()
}

// fit reports whether the zone is fit to be served as it is, as far as it changed. If not, a Builder says why, or finds it fit.
func (e *editor) fit() bool {
	z := e.z
	apex := z.apex()
	soa, _ := z.get(&apex, dns.TypeSOA)
	if soa.records().Len() != 1 || !z.has(&apex, dns.TypeNS) || !e.sameDenial(&apex) {
		return false
	}
	for _, h := range e.hashesOf {
		if z.denial == byHashName && !e.fitHash(h) {
			return false
		}
	}
	if z.denial == byHashName && !e.fitApexHash() {
		return false
	}
	for _, t := range e.nodes {
		n := z.node(t.ref)
		if z.denial == byNSEC && !e.fitNSEC(&n) || t.op != leave && !e.fitNode(&n) {
			return false
		}
	}
	return true
}

// sameDenial reports whether the zone denies existence as it did, which is not asked anew.
func (e *editor) sameDenial(apex *node) bool {
	before := e.old.apex()
	was, _ := e.old.get(&before, dns.TypeNSEC3PARAM)
	is, _ := e.z.get(apex, dns.TypeNSEC3PARAM)
	if e.z.denial == byHashName {
		return is.records().Len() == 1 && bytes.Equal(was.records(), is.records()) && !e.z.severalChains
	}
	return was.split == 0 && is.split == 0 && e.old.has(&before, dns.TypeNSEC) == e.z.has(apex, dns.TypeNSEC)
}

// fitHash reports whether the chain is whole where a hash is or was.
func (e *editor) fitHash(h []byte) bool {
	chain := &e.z.chain
	s, exact := chain.spotOfHash(h)
	if exact && !e.z.linked(chain, s, e.z.params) {
		return false
	}
	if exact {
		s = chain.prev(s)
	}
	if !chain.has(s) {
		s = chain.last()
	}
	return e.z.linked(chain, s, e.z.params)
}

// fitApexHash reports whether the chain has the apex.
func (e *editor) fitApexHash() bool {
	h := e.z.params.hash(e.z.owner)
	_, exact := e.z.findHash(&h)
	return exact
}

// fitNSEC reports whether the chain is whole where a node is or was. What is below a cut is not in it; the cut is.
func (e *editor) fitNSEC(n *node) bool {
	z := e.z
	if parent := z.parent(n); n.ref != z.apexRef && !parent.authoritative() {
		return true
	}
	if !n.is(isGone) && !n.is(hasNSEC) && n.count() > 0 {
		return false
	}
	at := e.z.spotOf(n)
	before := e.nsecBefore(at)
	return (!z.order.has(before) || e.fitLink(before)) && (!n.is(hasNSEC) || e.fitLink(at))
}

// nsecBefore is the last spot before one where there is a node with an NSEC record. It goes past all that is below a cut at once.
func (e *editor) nsecBefore(s spot) spot {
	z := e.z
	for s = z.order.prev(s); z.order.has(s); s = z.order.prev(s) {
		n := z.nodeAt(s)
		if n.is(isBelowCut) {
			n = z.cutOf(n)
			s = e.z.spotOf(&n)
		}
		if n.is(hasNSEC) {
			break
		}
	}
	return s
}

// nsecAfter is nsecBefore in the other direction.
func (e *editor) nsecAfter(s spot) spot {
	z := e.z
	for z.order.has(s) {
		if n := z.nodeAt(s); n.is(isCut) {
			s = z.afterAll(&n)
		} else {
			s = z.order.next(s)
		}
		if !z.order.has(s) {
			break
		}
		if n := z.nodeAt(s); n.is(hasNSEC) {
			break
		}
	}
	return s
}

// fitLink reports whether the NSEC record of the node at a spot names the next one that has one.
func (e *editor) fitLink(s spot) bool {
	z := e.z
	n, following := z.nodeAt(s), z.owner
	if next := e.nsecAfter(s); z.order.has(next) {
		following = z.appendOwner(nil, z.nodeAt(next))
	}
	set, _ := z.get(&n, dns.TypeNSEC)
	for rdata := range set.records().All() {
		if next := nameIn(rdata, 0); next == nil || !equalNames(next, following) {
			return false
		}
	}
	return true
}

// fitNode reports whether nothing is to be said of a node that would keep the zone from being served, see Builder.checkNode.
func (e *editor) fitNode(n *node) bool {
	z := e.z
	belowApex := n.ref != z.apexRef
	for i := range n.count() {
		s := z.at(n, i)
		count := s.records().Len()
		switch s.typ {
		case dns.TypeSOA:
			if belowApex && count > 0 {
				return false
			}
		case dns.TypeCNAME, dns.TypeDNAME, dns.TypeNSEC:
			if count > 1 {
				return false
			}
		case dns.TypeNS:
			if count > 0 && bytes.Equal(n.label, asterisk) {
				return false
			}
		}
		if !n.is(isBelowCut) && n.is(hasCNAME) && count > 0 && !besideCNAME(s.typ) {
			return false
		}
	}
	if n.is(isBelowCut) {
		return true
	}
	if n.is(hasDNAME) {
		if below := z.order.next(e.z.spotOf(n)); belowApex && z.has(n, dns.TypeNS) || n.authoritative() && z.order.has(below) && z.nodeAt(below).labels > n.labels {
			return false
		}
	}
	parent := z.parent(n)
	return !belowApex || !parent.is(hasDNAME) || !parent.authoritative()
}
