package zone

import (
	"bytes"
	"crypto/sha1"
	"encoding/base32"
	"encoding/binary"
	"fmt"
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

// nsec3 is the NSEC3 RRset of an owner.
type nsec3 struct {
	hash  [sha1.Size]byte
	key   []byte
	owner []byte
	set   rrset
}

// hashing is the encoding of hashes in owner names (RFC 5155 3.3).
var hashing = base32.HexEncoding.WithPadding(base32.NoPadding)

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
// hash before the first, and whether it is h itself.
func (z *Zone) findHash(h [sha1.Size]byte) (int, bool) {
	i := sort.Search(len(z.chain), func(i int) bool { return bytes.Compare(z.chain[i].hash[:], h[:]) > 0 }) - 1
	if i < 0 {
		return len(z.chain) - 1, false
	}
	return i, z.chain[i].hash == h
}

// checkDenial chooses how the zone denies existence, and refuses chains that would make wrong answers.
func (b *Builder) checkDenial(z *Zone) {
	b.checkHashes(z)
	apex := &z.nodes[0]
	params := apex.get(dns.TypeNSEC3PARAM)
	if params == nil && len(z.nsec3) > 0 {
		b.findings.add(Finding{Owner: z.origin, Rule: "nsec3-without-param", Severity: Warning,
			Detail: "NSEC3 records are not used without an NSEC3PARAM record (RFC 5155 4)"})
	}
	var broken string
	if params != nil {
		if broken = b.chooseChain(z, params); broken == "" {
			return
		}
	}
	severity := Error
	if apex.get(dns.TypeNSEC) != nil {
		severity = Warning // NSEC goes on serving while a chain of NSEC3 is being made (RFC 5155 10.4)
		z.denial = byNSEC
		b.checkNSEC(z)
	}
	if broken != "" {
		b.report(b.where(apex.key, dns.TypeNSEC3PARAM), severity, "nsec3-chain", broken)
	}
}

// checkHashes reads the hash of every NSEC3 owner, and refuses owners that are none.
func (b *Builder) checkHashes(z *Zone) {
	for i := range z.nsec3 {
		n := &z.nsec3[i]
		label := n.owner[1 : 1+int(n.owner[0])]
		upper := bytes.ToUpper(label)
		hash, err := hashing.DecodeString(string(upper))
		if err != nil || len(hash) != len(n.hash) || !bytes.Equal(parentKey(n.key), z.nodes[0].key) {
			b.report(b.where(n.key, dns.TypeNSEC3), Error, "nsec3-owner",
				"the owner of an NSEC3 record is a hash directly below the zone's origin (RFC 5155 3.3)")
			continue
		}
		copy(n.hash[:], hash)
	}
}

// chooseChain takes the first parameter set that has a whole chain into use: there are several while they are being
// changed (RFC 5155 10.4). If none has, it says why.
func (b *Builder) chooseChain(z *Zone, set *rrset) (broken string) {
	for rdata := range set.records().All() {
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
			b.report(b.where(z.nodes[0].key, dns.TypeNSEC3PARAM), Warning, "nsec3-iterations",
				fmt.Sprintf("%d NSEC3 iterations; 0 is right (RFC 9276 3.1)", p.iterations))
		}
		chain := z.chainOf(p)
		if broken = chainGap(chain, p, z.nodes[0].owner); broken == "" {
			z.denial, z.params, z.chain = byHashName, p, chain
			return ""
		}
	}
	return broken
}

// chainOf collects the NSEC3 records of a parameter set by hash, which is the order of their owners.
func (z *Zone) chainOf(p nsec3Params) []nsec3 {
	var chain []nsec3
	for _, n := range z.nsec3 {
		for rdata := range n.set.records().All() {
			if q, _, _, ok := parseNSEC3(rdata); ok && q == p {
				chain = append(chain, n)
			}
		}
	}
	return chain
}

// chainGap says where a chain is broken, "" if it is whole: it begins with the apex's hash somewhere, and each link
// names the next one.
func chainGap(chain []nsec3, p nsec3Params, apex []byte) string {
	hash := p.hash(apex)
	if !slices.ContainsFunc(chain, func(n nsec3) bool { return n.hash == hash }) {
		return "the NSEC3 chain lacks the record of the zone's origin"
	}
	for i := range chain {
		following := chain[(i+1)%len(chain)].hash
		for rdata := range chain[i].set.records().All() {
			if _, _, next, _ := parseNSEC3(rdata); !bytes.Equal(next, following[:]) {
				return fmt.Sprintf("the NSEC3 chain is broken after %s (RFC 5155 3.1.7)", nameString(chain[i].owner))
			}
		}
	}
	return ""
}

// checkNSEC refuses an NSEC chain that lacks a link.
func (b *Builder) checkNSEC(z *Zone) {
	last, following := len(z.nodes)-1, z.nodes[0].owner
	for i := last; i >= 0; i-- {
		n := &z.nodes[i]
		if n.nsec != int32(i) {
			if len(n.sets) > 0 && (n.cut < 0 || n.cut == int32(i)) {
				b.reportNode(z, int32(i), Error, "nsec-chain", "no NSEC record, in a zone that has them (RFC 4035 2.3)")
			}
			continue
		}
		for rdata := range n.get(dns.TypeNSEC).records().All() {
			if next := nameIn(rdata, 0); next == nil || !equalNames(next, following) {
				b.report(b.where(n.key, dns.TypeNSEC), Error, "nsec-chain",
					fmt.Sprintf("the next name should be %s (RFC 4034 4.1.1)", nameString(following)))
			}
		}
		following = n.owner
	}
}

// The proofs of a negative or synthesised answer, added to the authority section. Each names the RFC sections for NSEC
// and NSEC3. p is the position of l.name in the zone.

// proveNoType proves that the name at p, which exists, lacks the type (RFC 4035 3.1.3.1; RFC 5155 7.2.3). It serves for
// the lack of DS at a delegation as well (RFC 4035 3.1.4; RFC 5155 7.2.4, 7.2.7), where an opt-out span may stand in.
func (l *lookup) proveNoType(p position) {
	switch l.z.denial {
	case byNSEC:
		l.addNSEC(p.node)
	case byHashName:
		if n := &l.z.nodes[p.node]; !l.addMatch(n.owner) {
			l.proveCloser(n.parent, n.owner)
		}
	}
}

// proveNoName proves that l.name does not exist and that no wildcard stands in (RFC 4035 3.1.3.2; RFC 5155 7.2.2).
func (l *lookup) proveNoName(p position) {
	switch l.z.denial {
	case byNSEC:
		l.addNSEC(p.prev)
		var room [512]byte
		l.addNSEC(l.z.find(wildcardKey(room[:0], l.z.nodes[p.node].key)).prev)
	case byHashName:
		encloser := l.proveCloser(p.node, l.name)
		l.addCover(append([]byte{1, '*'}, l.z.nodes[encloser].owner...))
	}
}

// proveSynthesis proves that l.name, answered from a wildcard, does not exist (RFC 4035 3.1.3.3; RFC 5155 7.2.6).
func (l *lookup) proveSynthesis(p position) {
	switch l.z.denial {
	case byNSEC:
		l.addNSEC(p.prev)
	case byHashName:
		l.addCover(suffix(l.name, int(l.z.nodes[p.node].labels)+1))
	}
}

// proveNoTypeAtWildcard proves that neither l.name exists nor the wildcard that stands in has the type (RFC 4035
// 3.1.3.4; RFC 5155 7.2.5).
func (l *lookup) proveNoTypeAtWildcard(p position) {
	wildcard := l.z.nodes[p.node].wildcard
	switch l.z.denial {
	case byNSEC:
		l.addNSEC(p.prev)
		l.addNSEC(wildcard)
	case byHashName:
		l.proveCloser(p.node, l.name)
		l.addMatch(l.z.nodes[wildcard].owner)
	}
}

// proveCloser adds the closest encloser proof of a name whose closest encloser is at or above a node (RFC 5155 7.2.1).
// Names that only hold opted-out delegations may have no NSEC3 record: the closest one that is provable serves. It
// returns the encloser's node; the apex's record is always there.
func (l *lookup) proveCloser(encloser int32, name []byte) int32 {
	for encloser > 0 && !l.addMatch(l.z.nodes[encloser].owner) {
		encloser = l.z.nodes[encloser].parent
	}
	if encloser <= 0 {
		encloser = 0
		l.addMatch(l.z.nodes[0].owner)
	}
	n := &l.z.nodes[encloser]
	l.addCover(suffix(name, int(n.labels)+1))
	return encloser
}

// addNSEC adds the NSEC RRset of the node, or of the closest one before it that has any: that covers it.
func (l *lookup) addNSEC(node int32) {
	if at := l.z.nodes[node].nsec; at >= 0 {
		n := &l.z.nodes[at]
		l.addProof(n.owner, n.get(dns.TypeNSEC))
	}
}

// addMatch adds the NSEC3 RRset of a name's hash, and reports whether there is one.
func (l *lookup) addMatch(name []byte) bool {
	i, exact := l.z.findHash(l.z.params.hash(name))
	if exact {
		l.addProof(l.z.chain[i].owner, &l.z.chain[i].set)
	}
	return exact
}

// addCover adds the NSEC3 RRset whose span covers a name's hash.
func (l *lookup) addCover(name []byte) {
	i, _ := l.z.findHash(l.z.params.hash(name))
	l.addProof(l.z.chain[i].owner, &l.z.chain[i].set)
}

// addProof adds an RRset to the authority section unless it is there already.
func (l *lookup) addProof(owner []byte, s *rrset) {
	for i := range l.a.Authority {
		if a := &l.a.Authority[i]; a.Type == s.typ && equalNames(a.Owner, owner) {
			return
		}
	}
	l.a.Authority = append(l.a.Authority, l.rrset(owner, s))
}
