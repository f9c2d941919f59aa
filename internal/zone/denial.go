package zone

import (
	"bytes"
	"crypto/sha1"
	"encoding/base32"
	"encoding/binary"
	"fmt"
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

// linkNames is how many links of a chain there are on average in an interval of links.
const linkNames = 8

// intervals is the number of intervals of equal width into which links divides the hashes of a chain of so many.
func intervals(hashes int) int { return (hashes + linkNames - 1) / linkNames }

// intervalOf is the interval of a hash.
func intervalOf(hash []byte, intervals int) int {
	return int(bucketOf(binary.BigEndian.Uint64(hash), uint32(intervals)))
}

// findHash returns the index of the last link of the chain whose hash is at or before h, which is the last of all for a
// hash before the first, and whether it is h itself.
func (z *Zone) findHash(h *[sha1.Size]byte) (int, bool) {
	count := len(z.chain) / hashedSize
	in := z.links[unit*intervalOf(h[:], len(z.links)/unit-1):]
	low, high := int(binary.LittleEndian.Uint32(in)), int(binary.LittleEndian.Uint32(in[unit:]))
	for high = min(high, count); low < high; { // all before low are not after h, all from high on are
		if mid := int(uint(low+high) / 2); bytes.Compare(hashedAt(z.chain, mid).hash, h[:]) > 0 {
			high = mid
		} else {
			low = mid + 1
		}
	}
	if low == 0 || low > count {
		return count - 1, false
	}
	return low - 1, bytes.Equal(hashedAt(z.chain, low-1).hash, h[:])
}

// checkDenial chooses how the zone denies existence, and refuses chains that would make wrong answers.
func (b *Builder) checkDenial(z *Zone) {
	b.checkHashes(z)
	apex := z.apex()
	params, ok := z.get(&apex, dns.TypeNSEC3PARAM)
	if !ok && len(z.hashed) > 0 {
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

// setDenial writes into the image how the zone denies existence.
func (z *Zone) setDenial(d denial, params int) {
	z.denial = d
	binary.LittleEndian.PutUint32(z.image[atDenial:], uint32(d))
	binary.LittleEndian.PutUint32(z.image[atParams:], uint32(params))
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
		if broken = z.chainGap(chain, p); broken == "" {
			z.params = p
			z.setChain(chain)
			z.setDenial(byHashName, i)
			return ""
		}
	}
	return broken
}

// chainOf collects the NSEC3 records of a parameter set by hash, which is the order of their owners.
func (z *Zone) chainOf(p nsec3Params) []byte {
	var chain []byte
	for i := range len(z.hashed) / hashedSize {
		if _, ok := z.nextHash(z.hashed, i, p); ok {
			if chain == nil {
				chain = make([]byte, 0, len(z.hashed))
			}
			chain = append(chain, z.hashed[i*hashedSize:(i+1)*hashedSize]...)
		}
	}
	return chain
}

// nextHash is the next hash in the record of a parameter set, if the i-th link has one.
func (z *Zone) nextHash(list []byte, i int, p nsec3Params) ([]byte, bool) {
	set := z.set(hashedAt(list, i).set)
	for rdata := range set.records().All() {
		if q, _, next, ok := parseNSEC3(rdata); ok && q == p {
			return next, true
		}
	}
	return nil, false
}

// setChain makes a chain that in use. If it is not all of hashed, the image gets it at its end.
func (z *Zone) setChain(chain []byte) {
	count := len(chain) / hashedSize
	at := binary.LittleEndian.Uint32(z.image[atHashed:])
	z.chain = z.hashed
	if len(chain) < len(z.hashed) {
		at = uint32(len(z.image) / unit)
		links := unit * (intervals(count) + 1)
		image := appendLarge(make([]byte, 0, len(z.image)+len(chain)+links), z.image)
		z.image = append(append(image, chain...), make([]byte, links)...)
		z.links = z.image[len(z.image)-links:]
		z.chain = z.image[unit*int(at) : len(z.image)-links]
		putSection(z.image, atLinks, ref((len(z.image)-links)/unit), intervals(count))
	}
	putSection(z.image, atChain, ref(at), count)
	z.fillLinks()
	apex, star := z.params.hash(z.owner), z.params.hash(append([]byte("\x01*"), z.owner...))
	z.apexLink, _ = z.findHash(&apex)
	z.starLink, _ = z.findHash(&star)
	binary.LittleEndian.PutUint32(z.image[atApexLink:], uint32(z.apexLink))
	binary.LittleEndian.PutUint32(z.image[atStarLink:], uint32(z.starLink))
}

// fillLinks counts the links of the chain before each interval.
func (z *Zone) fillLinks() {
	count, n := len(z.chain)/hashedSize, len(z.links)/unit-1
	links := z.links[:0]
	for i := range count {
		for interval := intervalOf(hashedAt(z.chain, i).hash, n); len(links) <= unit*interval; {
			links = binary.LittleEndian.AppendUint32(links, uint32(i))
		}
	}
	for len(links) <= unit*n {
		links = binary.LittleEndian.AppendUint32(links, uint32(count))
	}
}

// chainGap says where a chain is broken, "" if it is whole: it has the apex's hash somewhere, and each link names the
// next one.
func (z *Zone) chainGap(chain []byte, p nsec3Params) string {
	apex := p.hash(z.owner)
	count, found := len(chain)/hashedSize, false
	for i := range count {
		found = found || bytes.Equal(hashedAt(chain, i).hash, apex[:])
	}
	if !found {
		return "the NSEC3 chain lacks the record of the zone's origin"
	}
	for i := range count {
		if next, _ := z.nextHash(chain, i, p); !bytes.Equal(next, hashedAt(chain, (i+1)%count).hash) {
			return fmt.Sprintf("the NSEC3 chain is broken after %s (RFC 5155 3.1.7)", nameString(z.appendHashed(nil, hashedAt(chain, i).hash)))
		}
	}
	return ""
}

// checkNSEC refuses an NSEC chain that lacks a link.
func (b *Builder) checkNSEC(z *Zone) {
	following := z.owner
	for i := len(z.order)/unit - 1; i >= 0; i-- {
		n := z.node(z.orderAt(i))
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

// orderAt is the i-th node in canonical order.
func (z *Zone) orderAt(i int) ref { return ref(binary.LittleEndian.Uint32(z.order[unit*i:])) }

// lineage are the nodes from the apex down to one, by labels. It is used again: what it has below the node is of no meaning.
type lineage [maxLabels + 1]ref

func (l *lineage) set(z *Zone, n node) {
	for ; n.labels > z.labels; n = z.climb(n, n.labels-1) {
		l[n.labels] = n.ref
	}
}

// before is the place in order of the last node before the name that a label makes below a node.
func (z *Zone) before(n *node, label []byte) int {
	var of, other lineage
	of.set(z, *n)
	return sort.Search(len(z.order)/unit, func(i int) bool {
		c := z.node(z.orderAt(i))
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
	}) - 1
}

// nsecAt is the closest node at or before a place in order that has an NSEC RRset. Between it and the place are only
// empty non-terminals, of which there are no more than labels in a name, and what lies below one cut.
func (z *Zone) nsecAt(i int) (node, bool) {
	for last := i; i >= 0 && last-i < 2*maxLabels; i-- {
		n := z.node(z.orderAt(i))
		if n.is(isBelowCut) {
			n = z.cutOf(n)
		}
		if n.is(hasNSEC) {
			return n, true
		}
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
		if i, exact := l.z.linkOf(l.ownerOf(n)); exact {
			l.addLink(i)
		} else {
			l.proveCloser(l.z.parent(n), i)
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
func (l *lookup) nextCloser(encloser *node) int {
	i, _ := l.z.linkOf(l.search.suffix(int(encloser.labels) + 1))
	return i
}

// starOf is the link of the wildcard below a node.
func (l *lookup) starOf(n *node) int {
	var room [257]byte
	i, _ := l.z.linkOf(append(append(room[:0], 1, '*'), l.ownerOf(n)...))
	return i
}

// proveCloser adds the closest encloser proof of the name, whose closest encloser is at or above a node (RFC 5155 7.2.1);
// the link is of the name one label longer. Names that only hold opted-out delegations may have no NSEC3 record: the
// closest one that is provable serves. It returns the encloser; the apex's record is always there.
func (l *lookup) proveCloser(encloser node, closer int) node {
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

// linkOf is the index of the link of the chain that matches or covers a name, and whether it matches.
func (z *Zone) linkOf(name []byte) (int, bool) {
	h := z.params.hash(name)
	return z.findHash(&h)
}

// addLink adds the NSEC3 RRset of the i-th link of the chain.
func (l *lookup) addLink(i int) {
	link := hashedAt(l.z.chain, i)
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
