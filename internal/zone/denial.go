package zone

import (
	"bytes"
	"crypto/sha1"
	"encoding/base32"
	"encoding/binary"
	"fmt"
	"math"
	"math/bits"
	"slices"
	"sort"

	"github.com/miekg/dns"
)

// denial says how a zone proves that something does not exist.
type denial uint8

const (
	unsigned   denial = iota // it does not
	byNSEC                   // RFC 4034 4, RFC 4035 3.1.3
	byHashName               // NSEC3, RFC 5155
)

// Bounds of NSEC3 iterations. RFC 9276 3.1 asks for 0; validators take what is above some hundred for unsigned, and
// every negative answer costs three times the work.
const (
	warnIterations = 0
	maxIterations  = 500
)

// nsec3Params are the fields that the NSEC3 records of a chain share with its NSEC3PARAM record (RFC 5155 4.2).
type nsec3Params struct {
	algorithm  uint8
	iterations uint16
	salt       string
}

// hashing is the encoding of hashes in owner names (RFC 5155 3.3).
var hashing = base32.NewEncoding("0123456789abcdefghijklmnopqrstuv").WithPadding(base32.NoPadding)

// parseNSEC3 reads parameters and, if it is there, the next hash (RFC 5155 3.2, 4.2).
func parseNSEC3(rdata []byte) (p nsec3Params, flags uint8, next []byte, ok bool) {
	if len(rdata) < 5 || len(rdata) < 5+int(rdata[4]) {
		return p, 0, nil, false
	}
	saltEnd := 5 + int(rdata[4])
	p = nsec3Params{algorithm: rdata[0], iterations: binary.BigEndian.Uint16(rdata[2:]), salt: string(rdata[5:saltEnd])}
	if rest := rdata[saltEnd:]; len(rest) > 0 && len(rest) > int(rest[0]) {
		next = rest[1 : 1+int(rest[0])]
	}
	return p, rdata[1], next, true
}

// hash is the hash of a name (RFC 5155 5).
func (p *nsec3Params) hash(name []byte) [sha1.Size]byte {
	var room [2*255 + sha1.Size]byte
	h := sha1.Sum(append(appendLower(room[:0], name), p.salt...))
	for range p.iterations {
		h = sha1.Sum(append(append(room[:0], h[:]...), p.salt...))
	}
	return h
}

// intervalOf is the interval of a hash, of so many of equal width.
func intervalOf(hash uint64, intervals int) int { return int(bucketOf(hash, uint32(intervals))) }

// setChain takes a chain into use, which has a link. Of as many intervals of hashes as it has leaves, links has the number of
// the leaf in which each begins.
func (z *Zone) setChain(chain list) {
	z.chain = chain
	z.links = make([]uint32, len(chain.keys))
	leaf := 0
	for i := range z.links {
		for leaf+1 < len(chain.keys) && intervalOf(chain.keys[leaf+1], len(z.links)) < i {
			leaf++
		}
		z.links[i] = uint32(leaf)
	}
	apex, star := z.params.hash(z.owner), z.params.hash(append([]byte("\x01*"), z.owner...))
	z.apexLink, _ = z.findHash(&apex)
	z.starLink, _ = z.findHash(&star)
}

// findHash returns the last link of the chain whose hash is at or before h, which is the last of all for a hash before the
// first, and whether it is h itself.
func (z *Zone) findHash(h *[sha1.Size]byte) (hashed, bool) {
	s, exact := z.chain.spotFrom(int(z.links[intervalOf(binary.BigEndian.Uint64(h[:]), len(z.links))]), h[:])
	if s.leaf < 0 {
		s = z.chain.last()
	}
	return hashedOf(z.chain.item(s)), exact
}

// spotOfHash is where the last item of a list of hashes is that is at or before h, on leaf -1 if there is none, and whether it is
// h itself.
func (l *list) spotOfHash(h []byte) (spot, bool) {
	leaf, _ := slices.BinarySearch(l.keys, binary.BigEndian.Uint64(h))
	return l.spotFrom(leaf-1, h)
}

// spotFrom is spotOfHash that begins to look at a leaf which is not beyond.
func (l *list) spotFrom(leaf int, h []byte) (spot, bool) {
	key := binary.BigEndian.Uint64(h)
	for leaf+1 < len(l.keys) && l.keys[leaf+1] <= key {
		leaf++
	}
	for ; leaf >= 0; leaf-- { // again only if keys are equal
		if at, exact := l.searchLeaf(leaf, h); at >= 0 {
			return spot{leaf, at}, exact
		}
	}
	return spot{-1, 0}, false
}

// searchLeaf is the number of the last item of a leaf of hashes at or before h, -1 if there is none, and whether it is h itself.
func (l *list) searchLeaf(leaf int, h []byte) (int, bool) {
	items := l.leaves[leaf].items
	low, high := 0, len(items)/hashedSize // all before low are not after h, all from high on are
	for _, guess := range l.guesses(leaf, binary.BigEndian.Uint64(h), high) {
		if guess <= low || guess >= high {
			continue
		}
		if bytes.Compare(items[guess*hashedSize:guess*hashedSize+20], h) > 0 {
			high = guess
		} else {
			low = guess + 1
		}
	}
	for low < high {
		if mid := int(uint(low+high) / 2); bytes.Compare(items[mid*hashedSize:mid*hashedSize+20], h) > 0 {
			high = mid
		} else {
			low = mid + 1
		}
	}
	return low - 1, low > 0 && bytes.Equal(items[(low-1)*hashedSize:(low-1)*hashedSize+20], h)
}

// guesses are between which items of a leaf a hash is likely to be: hashes are spread evenly.
func (l *list) guesses(leaf int, key uint64, count int) [2]int {
	from, to := l.keys[leaf], uint64(math.MaxUint64)
	if leaf+1 < len(l.keys) {
		to = l.keys[leaf+1]
	}
	if key < from || key >= to {
		return [2]int{}
	}
	high, low := bits.Mul64(key-from, uint64(count))
	at, _ := bits.Div64(high, low, to-from)
	return [2]int{int(at) - guessed, int(at) + guessed}
}

// guessed is how far most guesses are at most from the truth, in items.
const guessed = 5

// checkDenial chooses how the zone denies existence, and refuses chains that would make wrong answers.
func (b *Builder) checkDenial(z *Zone) {
	b.checkHashes(z)
	apex := z.apex()
	params, ok := z.get(&apex, dns.TypeNSEC3PARAM)
	if !ok && z.hashed.count > 0 {
		b.findings.add(Finding{Owner: z.origin, Rule: "nsec3-without-param", Severity: Warning,
			Detail: "NSEC3 records are not used without an NSEC3PARAM record (RFC 5155 4)"})
	}
	var broken string
	if ok {
		if broken = b.chooseChain(z, &params); broken == "" {
			return
		}
	}
	severity := Error
	if z.has(&apex, dns.TypeNSEC) {
		severity = Warning // NSEC goes on serving while a chain of NSEC3 is being made (RFC 5155 10.4)
		z.setDenial(byNSEC, 0)
		b.checkNSEC(z)
	}
	if broken != "" {
		b.report(b.where(z.key, dns.TypeNSEC3PARAM), severity, "nsec3-chain", broken)
	}
}

// setDenial keeps how the zone denies existence: if by hashes, by those of which NSEC3PARAM record.
func (z *Zone) setDenial(d denial, params int) {
	z.denial, z.paramsAt = d, uint32(params)
}

// checkHashes refuses owners of NSEC3 records that are no hashes.
func (b *Builder) checkHashes(z *Zone) {
	for rest := b.records; b.hasNSEC3 && len(rest) > 0; {
		n := ownerLen(rest)
		if set := nsec3Of(rest[:n]); len(set) > 0 {
			if _, ok := hashOfKey(b.key(&set[0]), z.key); !ok {
				b.report(&set[0], Error, "nsec3-owner",
					"the owner of an NSEC3 record is a hash directly below the zone's origin (RFC 5155 3.3)")
			}
		}
		rest = rest[n:]
	}
}

// chooseChain takes the first parameter set that has a whole chain into use: there are several while they are being
// changed (RFC 5155 10.4). If none has, it says why.
func (b *Builder) chooseChain(z *Zone, set *rrset) (broken string) {
	i := -1
	for rdata := range set.records().All() {
		i++
		p, flags, _, ok := parseNSEC3(rdata)
		if !ok || flags != 0 || p.algorithm != dns.SHA1 {
			broken = "NSEC3PARAM with flags or an algorithm that is not known (RFC 5155 4.1)"
			continue
		}
		if p.iterations > maxIterations {
			broken = fmt.Sprintf("%d NSEC3 iterations, of at most %d here; 0 is right (RFC 9276 3.1)", p.iterations, maxIterations)
			continue
		}
		if p.iterations > warnIterations {
			b.report(b.where(z.key, dns.TypeNSEC3PARAM), Warning, "nsec3-iterations",
				fmt.Sprintf("%d NSEC3 iterations; 0 is right (RFC 9276 3.1)", p.iterations))
		}
		chain := z.chainOf(p)
		if broken = z.chainGap(&chain, p); broken == "" {
			z.params = p
			z.severalChains = chain.count < z.hashed.count
			z.setChain(chain)
			z.setDenial(byHashName, i)
			return ""
		}
	}
	return broken
}

// chainOf is the NSEC3 records of a parameter set by hash, which is the order of their owners: all there are, or those of them.
func (z *Zone) chainOf(p nsec3Params) list {
	var chain lister
	for s := z.hashed.first(); z.hashed.has(s); s = z.hashed.next(s) {
		_, ok := z.nextHash(z.hashed.item(s), p)
		switch {
		case ok && chain.tell != nil:
			chain.add(z.hashed.item(s), levelOf(z.hashed.item(s)[:20]))
		case !ok && chain.tell == nil:
			chain = z.chainLister()
			for before := z.hashed.first(); before != s; before = z.hashed.next(before) {
				chain.add(z.hashed.item(before), levelOf(z.hashed.item(before)[:20]))
			}
		}
	}
	if chain.tell == nil {
		return z.hashed
	}
	return chain.finish(&list{})
}

// chainLister makes a list of hashes that are in hashed too, so that no sums are needed.
func (z *Zone) chainLister() lister {
	l := z.hashedLister()
	l.tell = func([]byte, *content) {}
	return l
}

// nextHash is the next hash in the record of a parameter set, if a link has one.
func (z *Zone) nextHash(link []byte, p nsec3Params) ([]byte, bool) {
	set := z.set(hashedOf(link).set)
	for rdata := range set.records().All() {
		if q, _, next, ok := parseNSEC3(rdata); ok && q == p {
			return next, true
		}
	}
	return nil, false
}

// chainGap says where a chain is broken, "" if it is whole: it has the apex's hash somewhere, and each link names the
// next one.
func (z *Zone) chainGap(chain *list, p nsec3Params) string {
	apex, found := p.hash(z.owner), false
	for s := chain.first(); chain.has(s); s = chain.next(s) {
		found = found || bytes.Equal(hashedOf(chain.item(s)).hash, apex[:])
	}
	if !found {
		return "the NSEC3 chain lacks the record of the zone's origin"
	}
	for s := chain.first(); chain.has(s); s = chain.next(s) {
		if !z.linked(chain, s, p) {
			return fmt.Sprintf("the NSEC3 chain is broken after %s (RFC 5155 3.1.7)", nameString(z.appendHashed(nil, hashedOf(chain.item(s)).hash)))
		}
	}
	return ""
}

// linked reports whether a link of a chain names the next one.
func (z *Zone) linked(chain *list, s spot, p nsec3Params) bool {
	next := chain.next(s)
	if !chain.has(next) {
		next = chain.first()
	}
	hash, _ := z.nextHash(chain.item(s), p)
	return bytes.Equal(hash, hashedOf(chain.item(next)).hash)
}

// checkNSEC refuses an NSEC chain that lacks a link.
func (b *Builder) checkNSEC(z *Zone) {
	following := z.owner
	for s := z.order.last(); z.order.has(s); s = z.order.prev(s) {
		n := z.nodeAt(s)
		if !n.is(hasNSEC) {
			if n.count() > 0 && !n.is(isBelowCut) {
				b.reportNode(z, n, Error, "nsec-chain", "no NSEC record, in a zone that has them (RFC 4035 2.3)")
			}
			continue
		}
		set, _ := z.get(&n, dns.TypeNSEC)
		for rdata := range set.records().All() {
			if next := nameIn(rdata, 0); next == nil || !equalNames(next, following) {
				b.report(b.where(z.keyOf(&n), dns.TypeNSEC), Error, "nsec-chain",
					fmt.Sprintf("the next name should be %s (RFC 4034 4.1.1)", nameString(following)))
			}
		}
		following = z.appendOwner(nil, n)
	}
}

// nodeAt is the node at a spot of order.
func (z *Zone) nodeAt(s spot) node { return z.node(refAt(z.order.item(s), 0)) }

// lineage are the nodes from the apex down to one, by labels. It is used again: what it has below the node is of no meaning.
type lineage [maxLabels + 1]ref

func (l *lineage) set(z *Zone, n node) {
	for ; n.labels > z.labels; n = z.climb(n, n.labels-1) {
		l[n.labels] = n.ref
	}
}

// before is the spot in order of the last node before the name that a label makes below a node.
func (z *Zone) before(n *node, label []byte) spot {
	var of, other lineage
	of.set(z, *n)
	leaf := sort.Search(len(z.order.keys), func(i int) bool {
		return z.follows(ref(z.order.keys[i]), n, label, &of, &other)
	}) - 1
	if leaf < 0 {
		return spot{-1, 0}
	}
	items := z.order.leaves[leaf].items
	at := sort.Search(len(items)/unit, func(i int) bool { return z.follows(refAt(items, unit*i), n, label, &of, &other) }) - 1
	return spot{leaf, max(at, 0)}
}

// follows reports whether a node is the one that a label makes below n, or follows that in canonical order.
func (z *Zone) follows(r ref, n *node, label []byte, of, other *lineage) bool {
	c := z.node(r)
	if c.parent == n.ref && c.labels == n.labels+1 {
		return bytes.Compare(c.label, label) >= 0
	}
	other.set(z, c)
	for depth := int(z.labels) + 1; depth <= int(min(c.labels, n.labels)); depth++ {
		if of[depth] != other[depth] {
			c, n := z.node(other[depth]), z.node(of[depth])
			return bytes.Compare(c.label, n.label) > 0
		}
	}
	if c.labels <= n.labels {
		return false // n itself, or above it
	}
	c = z.node(other[n.labels+1])
	return bytes.Compare(c.label, label) >= 0
}

// nsecAt is the closest node at or before a spot in order that has an NSEC RRset. Between it and the spot are only
// empty non-terminals, of which there are no more than labels in a name, and what lies below one cut.
func (z *Zone) nsecAt(s spot) (node, bool) {
	for steps := 0; z.order.has(s) && steps < 2*maxLabels; steps++ {
		n := z.nodeAt(s)
		if n.is(isBelowCut) {
			n = z.cutOf(n)
		}
		if n.is(hasNSEC) {
			return n, true
		}
		s = z.order.prev(s)
	}
	return node{}, false
}

// The proofs of a negative or synthesised answer, added to the authority section. Each names the RFC sections for NSEC
// and NSEC3. The closest encloser is that of the name being searched.

// proveNoType proves that the name of n lacks the type (RFC 4035 3.1.3.1; RFC 5155 7.2.3). It serves for the lack of DS
// at a delegation as well (RFC 4035 3.1.4; RFC 5155 7.2.4, 7.2.7), where an opt-out span may stand in.
func (l *lookup) proveNoType(n *node) {
	switch l.z.denial {
	case byNSEC:
		l.addNSECOf(n)
	case byHashName:
		if link, exact := l.z.linkOf(l.ownerOf(n)); exact {
			l.addLink(link)
		} else {
			l.proveCloser(l.z.parent(n), link)
		}
	}
}

// proveNoName proves that the name does not exist and that no wildcard stands in (RFC 4035 3.1.3.2; RFC 5155 7.2.2).
func (l *lookup) proveNoName(encloser *node) {
	switch l.z.denial {
	case byNSEC:
		l.addNSECBefore(encloser, l.search.label(int(encloser.labels)+1))
		l.addNSECBefore(encloser, asterisk)
	case byHashName:
		proven := l.proveCloser(*encloser, l.nextCloser(encloser))
		if proven.labels == l.z.labels {
			l.addLink(l.z.starLink)
		} else {
			l.addLink(l.starOf(&proven))
		}
	}
}

// proveSynthesis proves that the name, answered from a wildcard, does not exist (RFC 4035 3.1.3.3; RFC 5155 7.2.6).
func (l *lookup) proveSynthesis(encloser *node) {
	switch l.z.denial {
	case byNSEC:
		l.addNSECBefore(encloser, l.search.label(int(encloser.labels)+1))
	case byHashName:
		l.addLink(l.nextCloser(encloser))
	}
}

// proveNoTypeAtWildcard proves that neither the name exists nor the wildcard that stands in has the type (RFC 4035
// 3.1.3.4; RFC 5155 7.2.5).
func (l *lookup) proveNoTypeAtWildcard(encloser, wildcard *node) {
	switch l.z.denial {
	case byNSEC:
		l.addNSECBefore(encloser, l.search.label(int(encloser.labels)+1))
		l.addNSECOf(wildcard)
	case byHashName:
		l.proveCloser(*encloser, l.nextCloser(encloser))
		l.addLink(l.starOf(encloser))
	}
}

// nextCloser is the link of the name one label longer than the closest encloser (RFC 5155 1.3).
func (l *lookup) nextCloser(encloser *node) hashed {
	link, _ := l.z.linkOf(l.search.suffix(int(encloser.labels) + 1))
	return link
}

// starOf is the link of the wildcard below a node.
func (l *lookup) starOf(n *node) hashed {
	var room [257]byte
	link, _ := l.z.linkOf(append(append(room[:0], 1, '*'), l.ownerOf(n)...))
	return link
}

// proveCloser adds the closest encloser proof of the name, whose closest encloser is at or above a node (RFC 5155 7.2.1);
// the link is of the name one label longer. Names that only hold opted-out delegations may have no NSEC3 record: the
// closest one that is provable serves. It returns the encloser; the apex's record is always there.
func (l *lookup) proveCloser(encloser node, closer hashed) node {
	match, exact := l.z.apexLink, false
	for encloser.labels > l.z.labels && !exact {
		if match, exact = l.z.linkOf(l.ownerOf(&encloser)); !exact {
			closer, match = match, l.z.apexLink
			encloser = l.z.climb(encloser, encloser.labels-1)
		}
	}
	l.addLink(match)
	l.addLink(closer)
	return encloser
}

// addNSECOf adds the NSEC RRset of a node, or that which covers it if it has none.
func (l *lookup) addNSECOf(n *node) {
	if n.is(hasNSEC) {
		l.addNSEC(*n)
		return
	}
	parent := l.z.parent(n)
	l.addNSECBefore(&parent, n.label)
}

// addNSECBefore adds the NSEC RRset that covers the name that a label would make below a node.
func (l *lookup) addNSECBefore(n *node, label []byte) {
	if at, ok := l.z.nsecAt(l.z.before(n, label)); ok {
		l.addNSEC(at)
	}
}

// addNSEC adds the NSEC RRset of a node.
func (l *lookup) addNSEC(n node) {
	s, ok := l.z.get(&n, dns.TypeNSEC)
	if !ok || l.proved(&s) {
		return
	}
	names := &l.a.room.names
	start := len(*names)
	*names = l.z.appendOwner(*names, n)
	l.a.Authority = l.add(l.a.Authority, (*names)[start:len(*names):len(*names)], &s)
}

// linkOf is the link of the chain that matches or covers a name, and whether it matches.
func (z *Zone) linkOf(name []byte) (hashed, bool) {
	h := z.params.hash(name)
	return z.findHash(&h)
}

// addLink adds the NSEC3 RRset of a link of the chain.
func (l *lookup) addLink(link hashed) {
	s := l.z.set(link.set)
	if s.split == 0 || l.proved(&s) {
		return
	}
	names := &l.a.room.names
	start := len(*names)
	*names = l.z.appendHashed(*names, link.hash)
	l.a.Authority = l.add(l.a.Authority, (*names)[start:len(*names):len(*names)], &s)
}

// proved reports whether an RRset is in the authority section already.
func (l *lookup) proved(s *rrset) bool {
	for i := range l.a.Authority {
		if a := &l.a.Authority[i]; a.Type == s.typ && len(a.Data) > 0 && &a.Data[0] == &s.data[0] {
			return true
		}
	}
	return false
}
