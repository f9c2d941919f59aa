package zonecheck

import (
	"bytes"
	"crypto/sha1"
	"iter"
	"maps"
	"math"
	"reflect"
	"slices"
	"time"

	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/zone"
)

// judged is a zone that was checked, with what the check of the next version needs to know of it: a finding hangs on what the zone has
// at an owner, or at a hash, and at some others that can be told from it. What a change can have no effect on is remembered.
type judged struct {
	zone   *zone.Zone
	policy Policy
	lease  time.Duration
	now    time.Time
	whole  time.Time // when all of it was judged last

	found        *report
	names, twice int      // see sense
	watch        [][]byte // owners whose findings hang on whether other names exist
	stray        bool     // it has, or had, what only signers make
	far          bool     // a signature ends so far away that not all times can be compared with each other
	spans        []span   // of each chain of NSEC3 records
	warns        bool     // it has the warnings of a Builder too
}

const (
	// farAway is how far from now all signatures must end so that the earliest of them can be told (RFC 4034 3.1.5), in seconds.
	farAway = 1 << 30
	// wholeAfter is how long it is remembered what was judged: a zone that is checked again and again is checked whole once a day. Who can do
	// so beside does before, see Daily.
	wholeAfter, dailyAfter = 24 * time.Hour, 20 * time.Hour
	// fewOwners may always be judged anew, and of a larger zone this part of the names. Beyond that all of it costs less.
	fewOwners, partOwners = 1000, 32
)

// again checks what may be found otherwise than in the version that was checked before. The findings are those of the whole check. It
// is nil if that is what is needed: much changed, or what everything hangs on.
func (j *judged) again(memo *Memo, old, z *zone.Zone, p Policy, now time.Time, lease time.Duration) *judged {
	if j == nil || j.found.dropped() || j.far || len(j.watch) > maxKept || j.zone.Origin() != z.Origin() || j.lease != lease ||
		j.warns != memo.warns || now.Before(j.now) || !reflect.DeepEqual(j.policy, p) || !sameSigning(apexOf(j.zone), apexOf(z)) {
		return nil
	}
	next := &judged{zone: z, policy: p, lease: lease, now: now, whole: j.whole, stray: j.stray, warns: j.warns}
	a := newAffected(j, next)
	if !a.gather() || j.stray && apexOf(z).get(dns.TypeDNSKEY) == nil {
		return nil
	}
	fits := true
	next.check(memo, old, func(r, sense *report) { fits = a.judge(memo, old, r, sense) })
	if !fits || next.far || next.found.dropped() || memo.stops() {
		return nil
	}
	return next
}

// compare warns if what was found in all of a zone is not what was found in what changed of it, nil if that was not looked for.
func (j *judged) compare(partly *judged, memo *Memo) {
	if partly == nil || memo.stops() {
		return
	}
	x, y := j.found.all(), partly.found.all()
	if !slices.Equal(x, y) {
		j.found.at = spot{section: inAll}
		j.found.warn(nil, "checks-differ", "in all of the zone %d findings, and %d in what changed day by day: these count, and those were wrong; please report it as a fault", len(x), len(y))
	}
}

// ofOwners are the sections of which the keys are those of owners.
var ofOwners = []int{inOwners, inNext, inSense, inHosts}

// sameSigning reports whether two versions of a zone have the same keys and ways to deny existence.
func sameSigning(was, is *owner) bool {
	for _, typ := range []uint16{dns.TypeDNSKEY, dns.TypeNSEC3PARAM} {
		x, y := was.get(typ), is.get(typ)
		if (x == nil) != (y == nil) || x != nil && !bytes.Equal(x.Data, y.Data) {
			return false
		}
	}
	return (was.get(dns.TypeNSEC) == nil) == (is.get(dns.TypeNSEC) == nil)
}

// affected are the owners and the hashes of which something else may be found than before.
type affected struct {
	was, is *judged
	d       *signed
	most    int               // how many owners there may be
	owners  map[string][]byte // by key
	links   map[string][]byte // owners of NSEC3 records that changed, by hash
	names   map[string][]byte // whose links are looked for, by key: they are links' owners, or above owners
}

func newAffected(was, is *judged) *affected {
	return &affected{was: was, is: is, most: max(fewOwners, is.zone.Names()/partOwners),
		owners: map[string][]byte{}, links: map[string][]byte{}, names: map[string][]byte{}}
}

func (a *affected) add(name []byte) { a.owners[string(zone.AppendKey(nil, name))] = name }

func (a *affected) tooMany() bool { return len(a.owners) > a.most }

// gather finds the owners, but for those that signing makes depend on each other. It reports whether there are not too many.
func (a *affected) gather() bool {
	a.add(apexOf(a.is.zone).name)
	lost := &lost{was: a.was.zone, is: a.is.zone, exactly: map[string]bool{}, below: map[string]bool{}}
	var changes []zone.Change
	for change := range zone.Changes(a.was.zone, a.is.zone) {
		if changes = append(changes, change); len(changes) > a.most {
			return false
		}
	}
	for _, change := range changes {
		if a.add(change.Owner); ofNSEC3(change.Was) || ofNSEC3(change.Is) {
			a.links[string(hashOf(change.Owner))] = change.Owner
			continue
		}
		x, y := a.was.zone.Owner(change.Owner), a.is.zone.Owner(change.Owner)
		if lost.look(change, &x, &y); x.Cut != y.Cut {
			for _, z := range []*zone.Zone{a.was.zone, a.is.zone} { // whose what is below it is changed
				for o := range z.OwnersFrom(change.Owner, true) {
					if !below(o.Name, change.Owner) || a.tooMany() {
						break
					}
					a.add(o.Name)
				}
			}
		}
		if a.tooMany() {
			return false
		}
	}
	if a.was.warns && lost.any() {
		for name := range a.is.zone.PointingAt(lost.has) {
			if a.add(name); a.tooMany() {
				return false
			}
		}
	}
	for _, name := range a.was.watch {
		a.add(name)
	}
	for _, e := range a.was.found.list {
		switch {
		case e.name == nil:
		case slices.Contains(ofOwners, e.section):
			a.add(e.name)
		case e.Rule == "nsec3-missing": // which says why, and that may hang on others
			a.names[string(zone.AppendKey(nil, e.name))] = e.name
		}
	}
	return true
}

// below reports whether a name is at or below another.
func below(name, above []byte) bool {
	n := countLabels(name) - countLabels(above)
	return n >= 0 && bytes.Equal(suffix(name, n), above)
}

func hashOf(owner []byte) []byte {
	hash, _ := base32hex.DecodeString(string(owner[1 : 1+int(owner[0])])) // internal/zone refuses other owners
	return hash
}

// gatherSigned finds those before which the chain of NSEC records changed, and those that have a signature that ends soon.
func (a *affected) gatherSigned() {
	if a.d.hasNSEC {
		for _, name := range slices.Collect(maps.Values(a.owners)) {
			for o := range a.is.zone.OwnersBefore(name) {
				if has(o.Sets, dns.TypeNSEC) {
					a.add(o.Name)
					break
				}
			}
		}
	}
	soon := uint32(math.Ceil(a.d.least.Seconds())) + 1
	for name := range a.is.zone.ExpiringBefore(a.d.now + soon) {
		if a.add(name); a.tooMany() {
			return
		}
	}
}

func has(sets []zone.RRset, typ uint16) bool {
	return slices.ContainsFunc(sets, func(s zone.RRset) bool { return s.Type == typ && len(s.Data) > 0 })
}

// judge finds anew what is affected, and adds what is remembered of the rest. It reports whether that could be told.
func (a *affected) judge(memo *Memo, old *zone.Zone, r, sense *report) bool {
	c := a.is.newContent(memo, old, r, sense, a.inOrder())
	a.d = c.d
	if a.d.active {
		if a.gatherSigned(); a.tooMany() {
			return false
		}
	}
	c.s.names, c.s.twice = a.was.names, a.was.twice
	for _, name := range a.owners {
		if plain, _ := ownerAt(a.was.zone, name); plain != nil {
			c.s.tally(plain, -1)
		}
	}
	c.run(func(take func(*batch)) { a.batches(take) }, a.look, func(*batch) {})
	for i := range c.s.servers {
		if plain, _ := ownerAt(a.is.zone, c.s.servers[i].name); plain != nil {
			c.s.findAddresses(plain)
		}
	}
	c.finish()
	forget := map[place]bool{}
	for key := range a.owners {
		for _, section := range ofOwners {
			forget[place{section, key}] = true
		}
	}
	fits := a.judgeChains(r, forget)
	for _, e := range a.was.found.list {
		if e.section >= inOwners && e.section < inChange && !forget[e.place] {
			r.put(e)
		} else if (e.section == inSense || e.section == inHosts) && !forget[e.place] {
			sense.put(e)
		}
	}
	return fits
}

// inOrder yields what the zone has at the owners.
func (a *affected) inOrder() iter.Seq[*owner] {
	return func(yield func(*owner) bool) {
		for _, key := range slices.Sorted(maps.Keys(a.owners)) {
			plain, links := ownerAt(a.is.zone, a.owners[key])
			if plain != nil && !yield(plain) || links != nil && !yield(links) {
				return
			}
		}
	}
}

func (a *affected) batches(take func(*batch)) {
	b := &batch{}
	for o := range a.inOrder() {
		if b.owners = append(b.owners, o); len(b.owners) == batchSize {
			take(b)
			b = &batch{}
		}
	}
	take(b)
}

// look checks an owner's part in the chain of NSEC records.
func (a *affected) look(o *owner, r *report) {
	if !a.d.lookNSEC(o, r) {
		return
	}
	next := a.d.origin
	for following := range a.is.zone.OwnersFrom(o.name, false) {
		if has(following.Sets, dns.TypeNSEC) && !bytes.Equal(following.Name, o.name) {
			next = following.Name
			break
		}
	}
	checkNext(o, next, r)
}

// ownerAt is what a zone has at a name, as owners yields it: its NSEC3 records apart. Either is nil if there are none.
func ownerAt(z *zone.Zone, name []byte) (plain, links *owner) {
	at := z.Owner(name)
	key := zone.AppendKey(nil, at.Name)
	if len(at.Sets) > 0 {
		plain = ownerOf(&at, key)
	}
	if countLabels(at.Name) == labels(z)+1 && at.Name[0] == 32 {
		if hash := hashOf(at.Name); len(hash) == sha1.Size {
			for h, set := range z.NSEC3From(hash) {
				if bytes.Equal(h, hash) {
					links = &owner{name: at.Name, key: key, kind: hashed, sets: []zone.RRset{set}}
				}
				break
			}
		}
	}
	return plain, links
}

func ownerOf(at *zone.Owner, key []byte) *owner {
	o := &owner{name: at.Name, key: key, sets: at.Sets}
	switch {
	case at.Occluded:
		o.kind = occluded
	case at.Cut:
		o.kind = delegation
	}
	return o
}

// judgeChains compares names and NSEC3 records where either changed, in each chain, and adds to what is to be forgotten. It reports
// whether what remains is as before.
func (a *affected) judgeChains(r *report, forget map[place]bool) bool {
	if a.is.spans = slices.Clone(a.was.spans); !a.d.active {
		return true
	}
	if len(a.was.spans) != len(a.d.params) {
		return false
	}
	for _, name := range a.owners {
		for n := countLabels(name) - a.d.labels; n >= 0; n-- { // that those above exist for it only, or not any more
			above := suffix(name, n)
			a.names[string(zone.AppendKey(nil, above))] = above
		}
	}
	for hash, name := range a.links {
		forget[place{inLinks, hash}] = true
		_, links := ownerAt(a.is.zone, name)
		if links != nil {
			for _, l := range linksOf(name, &links.sets[0]) {
				checkParams(a.d.params, &l, r)
			}
		}
	}
	for i := range a.d.params {
		c := &chainChange{affected: a, i: i, p: a.d.params[i], r: r, forget: forget, known: map[string]bool{}}
		if !c.judge() {
			return false
		}
	}
	return true
}

// chainChange is what changed in the i-th chain.
type chainChange struct {
	*affected
	i      int
	p      nsec3Params
	r      *report
	forget map[place]bool
	known  map[string]bool // hashes of which it is known whether a name has them
}

func (c *chainChange) judge() bool {
	for _, name := range c.names {
		c.judgeName(name)
	}
	span := &c.is.spans[c.i]
	for hash := range c.links {
		was, is := c.linkOf(c.was.zone, []byte(hash)), c.linkOf(c.is.zone, []byte(hash))
		if !c.known[hash] && (was == nil) != (is == nil) || !c.known[hash] && was != nil && !bytes.Equal(was.types, is.types) {
			return false // which name has that hash?
		}
		if was != nil {
			span.add(was, -1)
		}
		if is != nil {
			span.add(is, 1)
			c.judgeLink(is)
		} else {
			c.forgetLink([]byte(hash))
		}
		if before := c.before([]byte(hash)); before != nil {
			c.judgeLink(before)
		}
	}
	before := c.was.spans[c.i]
	// Of a name that lies in a span it would have to be asked which. They are all alike, in both versions.
	return span.optOut == 0 && before.optOut == 0 && span.other > 0 && before.other > 0 ||
		span.other == 0 && before.other == 0 && span.optOut > 0 && before.optOut > 0
}

// linkOf is the link at a hash, nil if there is none.
func (c *chainChange) linkOf(z *zone.Zone, hash []byte) *link {
	for h, set := range z.NSEC3From(hash) {
		if bytes.Equal(h, hash) {
			return c.first(&set)
		}
		break
	}
	return nil
}

// first is the link of the chain among the NSEC3 records of an owner.
func (c *chainChange) first(set *zone.RRset) *link {
	for _, l := range linksOf(set.Owner, set) {
		if l.params == c.p {
			return &l
		}
	}
	return nil
}

// before is the link before a hash, which may be the only one.
func (c *chainChange) before(hash []byte) *link {
	for _, set := range c.is.zone.NSEC3Before(hash) {
		if l := c.first(&set); l != nil {
			return l
		}
	}
	return nil
}

func (c *chainChange) forgetLink(hash []byte) {
	c.forget[inChain(c.i, ofDuplicates, hash).place()], c.forget[inChain(c.i, ofLinks, hash).place()] = true, true
}

// judgeLink checks a link by itself and against the next one.
func (c *chainChange) judgeLink(l *link) {
	if c.forget[inChain(c.i, ofLinks, l.hash).place()] {
		return
	}
	c.forgetLink(l.hash)
	next := l
	for hash, set := range c.is.zone.NSEC3From(l.hash) {
		all := linksOf(set.Owner, &set)
		if !bytes.Equal(hash, l.hash) {
			if following := c.first(&set); following != nil {
				next = following
				break
			}
			continue
		}
		for k := range all {
			if all[k].params == c.p && slices.ContainsFunc(all[:k], func(before link) bool { return before.params == c.p }) {
				reportDuplicate(c.i, &all[k], c.r)
			}
		}
	}
	checkLink(c.i, l, next, c.r)
}

// judgeName compares a name with its link.
func (c *chainChange) judgeName(wire []byte) {
	n := &name{wire: wire}
	n.hash(c.d.params, make([][sha1.Size]byte, len(c.d.params)))
	hash := n.hashes[c.i][:]
	if c.known[string(hash)] {
		return
	}
	c.known[string(hash)] = true
	c.forget[inChain(c.i, ofNames, hash).place()], c.forget[inChain(c.i, ofExcess, hash).place()] = true, true
	l := c.linkOf(c.is.zone, hash)
	switch exists := c.describe(n, l != nil); {
	case exists && l != nil:
		checkTypes(n, l, c.i, c.r)
	case exists:
		why := missing(n, c.before(hash))
		if why == "" && n.empty {
			why = c.linkedBelow(wire)
		}
		reportMissing(n, why, c.i, c.r)
	case l != nil:
		reportExcess(l, c.i, c.r)
	}
}

// describe says of a name what tree does, and whether it exists. Whether opt-out may leave it out is not asked if it is linked.
func (c *chainChange) describe(n *name, linked bool) bool {
	if plain, _ := ownerAt(c.is.zone, n.wire); plain != nil && plain.member() {
		n.types, n.optional = plain.types(), plain.optional()
		return true
	} else if plain != nil && plain.kind != authoritative {
		return false
	}
	for at := range c.is.zone.OwnersFrom(n.wire, false) {
		if !below(at.Name, n.wire) {
			break
		}
		if o := ownerOf(&at, nil); o.member() {
			n.empty, n.optional = true, o.optional()
			if linked || !n.optional {
				break
			}
		}
	}
	return n.empty
}

// linkedBelow is as for whole chains.
func (c *chainChange) linkedBelow(ent []byte) string {
	var last []byte
	for at := range c.is.zone.OwnersFrom(ent, false) {
		if !below(at.Name, ent) {
			break
		}
		if o := ownerOf(&at, nil); o.member() {
			n := &name{wire: at.Name}
			n.hash(c.d.params, make([][sha1.Size]byte, len(c.d.params)))
			if c.linkOf(c.is.zone, n.hashes[c.i][:]) != nil {
				last = at.Name
			}
		}
	}
	if last == nil {
		return ""
	}
	return whyLinkedBelow(last)
}
