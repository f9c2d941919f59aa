package zone

import (
	"bytes"
	"crypto/sha1"
	"encoding/base32"
	"encoding/binary"
	"fmt"
	"math/bits"
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

// findHash returns the index of the last link of the chain whose hash is at or before h, which is the last of all for a
// hash before the first, and whether it is h itself. Hashes are spread evenly: the search begins where h would be if they
// were so exactly, goes on from there as far as the hash found differs, and ends in a window that doubles until it holds h.
func (z *Zone) findHash(h *[sha1.Size]byte) (int, bool) {
	count := len(z.chain) / hashedSize
	after := func(i int) bool { return bytes.Compare(hashedAt(z.chain, i).hash, h[:]) > 0 }
	want := binary.BigEndian.Uint64(h[:])
	at, _ := bits.Mul64(want, uint64(count))
	guess := int(at)
	for range 2 {
		if have := binary.BigEndian.Uint64(hashedAt(z.chain, guess).hash); have <= want {
			step, _ := bits.Mul64(want-have, uint64(count))
			guess = min(guess+int(step), count-1)
		} else {
			step, _ := bits.Mul64(have-want, uint64(count))
			guess = max(guess-int(step), 0)
		}
	}
	low, high := guess, guess // all before low are not after h, all from high on are
	for width := 2; low > 0 && after(low-1); width *= 2 {
		high, low = low, max(0, low-width)
	}
	for width := 2; high < count && !after(high); width *= 2 {
		low, high = high+1, min(count, high+width)
	}
	for low < high {
		if mid := int(uint(low+high) / 2); after(mid) {
			high = mid
		} else {
			low = mid + 1
		}
	}
	if low == 0 {
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
		n := b.ownerLen(rest)
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
	if len(chain) == len(z.hashed) {
		z.chain = z.hashed
		return
	}
	at := len(z.image)
	image := make([]byte, 0, at+len(chain))
	image = append(append(image, z.image...), chain...)
	binary.LittleEndian.PutUint64(image[atChain:], uint64(at))
	binary.LittleEndian.PutUint64(image[atChain+8:], uint64(len(chain)/hashedSize))
	z.image, z.chain = image, image[at:] // the other parts are where they were until Build opens it
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
	for i := len(z.order)/4 - 1; i >= 0; i-- {
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
func (z *Zone) orderAt(i int) ref { return ref(binary.LittleEndian.Uint32(z.order[4*i:])) }

// indexOf is the place in order of the last node that is not after a reference.
func (z *Zone) indexOf(r ref) int {
	return sort.Search(len(z.order)/4, func(i int) bool { return z.orderAt(i) > r }) - 1
}

// before is the place in order of the last node before the name that a label would make below a node, which has no such
// child.
func (z *Zone) before(n *node, label []byte) int {
	return sort.Search(len(z.order)/4, func(i int) bool {
		r := z.orderAt(i)
		if r <= n.ref {
			return false
		}
		c := z.climb(z.node(r), n.labels+1)
		return c.labels != n.labels+1 || c.parent != n.ref || bytes.Compare(c.label, label) > 0
	}) - 1
}

// nsecAt is the closest node at or before a place in order that has an NSEC RRset. Between it and the place are only
// empty non-terminals, of which there are no more than labels in a name, and what lies below one cut.
func (z *Zone) nsecAt(i int) (node, bool) {
	for range 2 * maxLabels {
		if i < 0 {
			break
		}
		n := z.node(z.orderAt(i))
		if n.is(isBelowCut) {
			n = z.cutOf(n)
		}
		if n.is(hasNSEC) {
			return n, true
		}
		i = z.indexOf(n.ref) - 1
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
		if n.is(hasNSEC) {
			l.addNSEC(*n)
		} else if at, ok := l.z.nsecAt(l.z.indexOf(n.ref)); ok {
			l.addNSEC(at)
		}
	case byHashName:
		if owner := l.ownerOf(n); !l.addMatch(owner) {
			l.proveCloser(l.z.parent(n))
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
		proven := l.proveCloser(*encloser)
		var room [257]byte
		l.addCover(append(append(room[:0], 1, '*'), l.ownerOf(&proven)...))
	}
}

// proveSynthesis proves that the name, answered from a wildcard, does not exist (RFC 4035 3.1.3.3; RFC 5155 7.2.6).
func (l *lookup) proveSynthesis(encloser *node) {
	switch l.z.denial {
	case byNSEC:
		l.addNSECBefore(encloser, l.search.label(int(encloser.labels)+1))
	case byHashName:
		l.addCover(l.search.suffix(int(encloser.labels) + 1))
	}
}

// proveNoTypeAtWildcard proves that neither the name exists nor the wildcard that stands in has the type (RFC 4035
// 3.1.3.4; RFC 5155 7.2.5).
func (l *lookup) proveNoTypeAtWildcard(encloser, wildcard *node) {
	switch l.z.denial {
	case byNSEC:
		l.addNSECBefore(encloser, l.search.label(int(encloser.labels)+1))
		if at, ok := l.z.nsecAt(l.z.indexOf(wildcard.ref)); ok {
			l.addNSEC(at)
		}
	case byHashName:
		l.proveCloser(*encloser)
		var room [257]byte
		l.addMatch(append(append(room[:0], 1, '*'), l.ownerOf(encloser)...))
	}
}

// proveCloser adds the closest encloser proof of the name, whose closest encloser is at or above a node (RFC 5155 7.2.1).
// Names that only hold opted-out delegations may have no NSEC3 record: the closest one that is provable serves. It
// returns the encloser; the apex's record is always there.
func (l *lookup) proveCloser(encloser node) node {
	for encloser.labels > l.z.labels && !l.addMatch(l.ownerOf(&encloser)) {
		encloser = l.z.climb(encloser, encloser.labels-1)
	}
	if encloser.labels <= l.z.labels {
		encloser = l.z.apex()
		l.addMatch(l.z.owner)
	}
	l.addCover(l.search.suffix(int(encloser.labels) + 1))
	return encloser
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

// addMatch adds the NSEC3 RRset of a name's hash, and reports whether there is one.
func (l *lookup) addMatch(name []byte) bool {
	h := l.z.params.hash(name)
	i, exact := l.z.findHash(&h)
	if exact {
		l.addLink(i)
	}
	return exact
}

// addCover adds the NSEC3 RRset whose span covers a name's hash.
func (l *lookup) addCover(name []byte) {
	h := l.z.params.hash(name)
	i, _ := l.z.findHash(&h)
	l.addLink(i)
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
