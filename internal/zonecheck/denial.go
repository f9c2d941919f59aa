package zonecheck

import (
	"bytes"
	"cmp"
	"crypto/sha1"
	"encoding/base32"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/zone"
)

// hasData reports whether an owner has records beside RRSIG records that cover nothing.
func (o *owner) hasData() bool {
	return slices.ContainsFunc(o.sets, func(s zone.RRset) bool { return len(s.Data) > 0 })
}

// types is the type bitmap that an owner's NSEC or NSEC3 record must have (RFC 4034 4.1.2, RFC 5155 7.1): of a delegation
// only what the parent may answer for.
func (o *owner) types() []byte {
	var room [32]uint16
	types, signed := room[:0], false
	for i := range o.sets {
		s := &o.sets[i]
		if len(s.Data) > 0 && (o.owns(s.Type) || o.kind == delegation && s.Type == dns.TypeNS) {
			types = append(types, s.Type)
			signed = signed || o.owns(s.Type) && len(s.Sigs) > 0
		}
	}
	if signed {
		types = append(types, dns.TypeRRSIG)
		slices.Sort(types)
	}
	var bitmap [2 + 32]byte
	return bytes.Clone(appendBitmap(bitmap[:0], types))
}

// appendBitmap appends the bitmap of types in ascending order (RFC 4034 4.1.2).
func appendBitmap(b []byte, types []uint16) []byte {
	length, window := -1, -1 // where the length of the last window is
	for _, t := range types {
		if int(t>>8) != window {
			window, length = int(t>>8), len(b)+1
			b = append(b, byte(window), 0)
		}
		for at := int(t&0xff) / 8; int(b[length]) <= at; b[length]++ {
			b = append(b, 0)
		}
		b[length+1+int(t&0xff)/8] |= 0x80 >> (t & 7)
	}
	return b
}

// bitmapString lists the types of a bitmap, as far as it is well-formed.
func bitmapString(b []byte) string {
	var names []string
	for len(b) > 2 && len(b) >= 2+int(b[1]) {
		for i, c := range b[2 : 2+int(b[1])] {
			for bit := range 8 {
				if c&(0x80>>bit) != 0 {
					names = append(names, dns.Type(uint16(b[0])<<8|uint16(8*i+bit)).String())
				}
			}
		}
		b = b[2+int(b[1]):]
	}
	if len(names) == 0 {
		return "nothing"
	}
	return strings.Join(names, " ")
}

// nsecChain follows the NSEC records through the zone: each name that the zone answers for has one, and it names the
// next (RFC 4035 2.3).
type nsecChain struct {
	last *owner // of the last NSEC record
}

func (c *nsecChain) look(d *signed, o *owner, r *report) {
	if !d.lookNSEC(o, r) {
		return
	}
	if c.last != nil {
		checkNext(c.last, o.name, r)
	}
	c.last = o
}

func (c *nsecChain) finish(d *signed, r *report) {
	if c.last != nil && d.hasNSEC {
		checkNext(c.last, d.origin, r)
	}
}

// lookNSEC checks that an owner has an NSEC record with its types if it has to have one, and otherwise none. It reports whether the
// owner is a link of the chain.
func (d *signed) lookNSEC(o *owner, r *report) bool {
	if !d.active {
		return false
	}
	set := o.get(dns.TypeNSEC)
	member := d.hasNSEC && o.member()
	switch {
	case set == nil && !member:
		return false
	case set == nil:
		r.fault(o.name, "nsec-missing", "no NSEC record, in a zone that has them (RFC 4035 2.3)")
		return false
	case !member:
		r.fault(o.name, "nsec-excess", "an NSEC record at a name that is not in the chain (RFC 4035 2.3)")
		return false
	}
	for rdata := range set.Data.All() {
		end := nameEnd(rdata)
		if want := o.types(); !bytes.Equal(rdata[end:], want) {
			r.fault(o.name, "nsec-types", "the NSEC record says that there is %s; there is %s", bitmapString(rdata[end:]), bitmapString(want))
		}
	}
	return true
}

// checkNext demands that a link of the chain name the next one.
func checkNext(o *owner, name []byte, r *report) {
	r.at = spot{inNext, o.key}
	for rdata := range o.get(dns.TypeNSEC).Data.All() {
		if next := zone.Canonical(dns.TypeNS, rdata[:nameEnd(rdata)]); !bytes.Equal(next, name) {
			r.fault(o.name, "nsec-next", "the NSEC record says that the next name is %s; it is %s (RFC 4034 4.1.1)", zone.NameString(next), zone.NameString(name))
		}
	}
}

// nameEnd is where the name ends that RDATA begins with.
func nameEnd(rdata []byte) int {
	i := 0
	for rdata[i] != 0 {
		i += 1 + int(rdata[i])
	}
	return i + 1
}

// name is a name that an NSEC3 chain must have a record for.
type name struct {
	wire     []byte
	types    []byte
	optional bool // if it lies in an opt-out span: an insecure delegation, or what exists for such ones only (RFC 5155 7.1)
	empty    bool // an empty non-terminal, which comes after what is below it
	hashes   [][sha1.Size]byte
}

// hash computes the name's hash for each set of parameters (RFC 5155 5), into as many hashes.
func (n *name) hash(params []nsec3Params, hashes [][sha1.Size]byte) {
	n.hashes = hashes
	for i, p := range params {
		var room [255 + 255]byte
		h := sha1.Sum(append(append(room[:0], n.wire...), p.salt...))
		for range p.iterations {
			h = sha1.Sum(append(append(room[:0], h[:]...), p.salt...))
		}
		n.hashes[i] = h
	}
}

// tree finds the empty non-terminals (RFC 4592 2.2.2) between owners that come in canonical order.
type tree struct {
	labels int        // of the origin
	path   []ancestor // from the origin down to the last owner
}

// ancestor is an owner, or an empty non-terminal, that the next owner may lie below.
type ancestor struct {
	wire     []byte
	empty    bool // an empty non-terminal
	required bool // something below it must be in the chain
}

// enter adds an owner's name, and the empty non-terminals that it proves to be complete.
func (t *tree) enter(names []name, o *owner) []name {
	if !o.member() {
		return names
	}
	names = t.leave(names, o.name)
	depth := countLabels(o.name)
	for l := t.labels + len(t.path); l < depth; l++ {
		t.path = append(t.path, ancestor{wire: suffix(o.name, depth-l), empty: true})
	}
	n := name{wire: o.name, types: o.types(), optional: o.optional()}
	if !n.optional {
		for i := range t.path {
			t.path[i].required = true
		}
	}
	t.path = append(t.path, ancestor{wire: o.name})
	return append(names, n)
}

// leave ends what is not above a name; all of it for nil.
func (t *tree) leave(names []name, next []byte) []name {
	for len(t.path) > 0 {
		last := t.path[len(t.path)-1]
		if len(next) > len(last.wire) && bytes.Equal(suffix(next, countLabels(next)-countLabels(last.wire)), last.wire) {
			break
		}
		if last.empty {
			names = append(names, name{wire: last.wire, optional: !last.required, empty: true})
		}
		t.path = t.path[:len(t.path)-1]
	}
	return names
}

// suffix is a name without its first labels.
func suffix(name []byte, labels int) []byte {
	for ; labels > 0; labels-- {
		name = name[1+int(name[0]):]
	}
	return name
}

// nsec3Params are what tells a chain from another (RFC 5155 4).
type nsec3Params struct {
	algorithm  uint8
	iterations uint16
	salt       string
}

// maxIterations bounds the work. internal/zone does not take a chain with more into use.
const maxIterations = 500

// paramsOf are the parameters of the chains that the apex says are whole.
func paramsOf(apex *owner) []nsec3Params {
	var list []nsec3Params
	if set := apex.get(dns.TypeNSEC3PARAM); set != nil {
		for rdata := range set.Data.All() {
			l, ok := parseLink(rdata)
			if ok && l.flags == 0 && l.params.algorithm == dns.SHA1 && l.params.iterations <= maxIterations {
				list = append(list, l.params)
			}
		}
	}
	return list
}

// link is an NSEC3 record (RFC 5155 3).
type link struct {
	owner  []byte
	hash   []byte
	params nsec3Params
	flags  uint8
	next   []byte
	types  []byte
	used   bool // a name of the zone has this hash
}

const optOut = 1 // flag (RFC 5155 3.1.2.1)

// parseLink reads the RDATA of an NSEC3 or NSEC3PARAM record.
func parseLink(rdata []byte) (l link, ok bool) {
	if len(rdata) < 5 || len(rdata) < 5+int(rdata[4]) {
		return l, false
	}
	rest := rdata[5+int(rdata[4]):]
	l.flags = rdata[1]
	l.params = nsec3Params{rdata[0], binary.BigEndian.Uint16(rdata[2:]), string(rdata[5 : 5+int(rdata[4])])}
	if len(rest) > 0 && len(rest) > int(rest[0]) {
		l.next, l.types = rest[1:1+int(rest[0])], rest[1+int(rest[0]):]
	}
	return l, true
}

var base32hex = base32.NewEncoding("0123456789abcdefghijklmnopqrstuv").WithPadding(base32.NoPadding)

// chains compares the NSEC3 records with the names (RFC 5155 7.1).
type chains struct {
	params []nsec3Params
	names  []name
	links  []link // in canonical order, which is that of the hashes
	spans  []span
}

// span counts the links of a chain with opt-out, and those without.
type span struct{ optOut, other int }

func (s *span) add(l *link, count int) {
	if l.flags&optOut != 0 {
		s.optOut += count
	} else {
		s.other += count
	}
}

// newChains has room for so many names, and more.
func (d *signed) newChains(names int) *chains {
	if len(d.params) == 0 {
		names = 0
	}
	return &chains{params: d.params, names: make([]name, 0, names)}
}

// collect takes what a batch has. Batches come in the order of the zone.
func (c *chains) collect(b *batch) {
	c.names = append(c.names, b.names...)
	for _, o := range b.owners {
		if o.kind == hashed {
			c.links = append(c.links, linksOf(o.name, &o.sets[0])...)
		}
	}
}

// linksOf are the NSEC3 records of an owner.
func linksOf(name []byte, set *zone.RRset) (links []link) {
	hash, _ := base32hex.DecodeString(string(name[1 : 1+int(name[0])])) // internal/zone refuses other owners
	for rdata := range set.Data.All() {
		if l, ok := parseLink(rdata); ok {
			l.owner, l.hash = name, hash
			links = append(links, l)
		}
	}
	return links
}

func (c *chains) finish(r *report) {
	for i := range c.links {
		checkParams(c.params, &c.links[i], r)
	}
	c.spans = make([]span, len(c.params))
	for i, p := range c.params {
		var links []link
		for _, l := range c.links {
			switch {
			case l.params != p:
			case len(links) > 0 && bytes.Equal(links[len(links)-1].hash, l.hash):
				reportDuplicate(i, &l, r)
			default:
				links = append(links, l)
				c.spans[i].add(&l, 1)
			}
		}
		for k := range links {
			checkLink(i, &links[k], &links[(k+1)%len(links)], r)
		}
		compareNames(c.names, byHash(c.names, i), links, i, r)
	}
}

// inChain is a section of a chain, see inChains.
func inChain(i, section int, hash []byte) spot {
	return spot{inChains + 4*i + section, hash}
}

const (
	ofDuplicates = iota
	ofLinks
	ofNames
	ofExcess
)

func checkParams(params []nsec3Params, l *link, r *report) {
	if r.at = (spot{inLinks, l.hash}); !slices.Contains(params, l.params) {
		r.warn(l.owner, "nsec3-without-param", "an NSEC3 record of parameters that no NSEC3PARAM record has (RFC 5155 4)")
	}
}

func reportDuplicate(i int, l *link, r *report) {
	r.at = inChain(i, ofDuplicates, l.hash)
	r.fault(l.owner, "nsec3-duplicate", "two NSEC3 records of the same parameters: a chain has one for each hash (RFC 5155 7.1)")
}

// numbered is the number of a name and the first octets of one of its hashes. To sort these and leave names where they are
// takes a tenth of the time.
type numbered struct {
	head uint64
	name uint32
}

// byHash are the names in order of their i-th hash.
func byHash(names []name, i int) []numbered {
	order := make([]numbered, len(names))
	for k := range names {
		order[k] = numbered{binary.BigEndian.Uint64(names[k].hashes[i][:]), uint32(k)}
	}
	slices.SortFunc(order, func(a, b numbered) int {
		if a.head != b.head {
			return cmp.Compare(a.head, b.head)
		}
		return bytes.Compare(names[a.name].hashes[i][:], names[b.name].hashes[i][:])
	})
	return order
}

// checkLink checks a record of the i-th chain against the next.
func checkLink(i int, l, next *link, r *report) {
	r.at = inChain(i, ofLinks, l.hash)
	if !bytes.Equal(l.next, next.hash) {
		r.fault(l.owner, "nsec3-next", "the NSEC3 record says that the next hash is %s; it is %s (RFC 5155 3.1.7)",
			base32hex.EncodeToString(l.next), base32hex.EncodeToString(next.hash))
	}
	if l.flags&^optOut != 0 {
		r.fault(l.owner, "nsec3-flags", "NSEC3 flags %d; only 1 is known, which is opt-out (RFC 5155 3.1.2)", l.flags)
	}
}

// compareNames checks that a chain has a record for each name that needs one, with its types, and no other. Both the order
// of the names and the links are that of the i-th hash.
func compareNames(names []name, order []numbered, links []link, i int, r *report) {
	at := 0 // the first link whose hash is not before the name's
	for _, number := range order {
		n := &names[number.name]
		hash := n.hashes[i][:]
		for at < len(links) && bytes.Compare(links[at].hash, hash) < 0 {
			at++
		}
		if at < len(links) && bytes.Equal(links[at].hash, hash) {
			links[at].used = true
			checkTypes(n, &links[at], i, r)
			continue
		}
		var cover *link
		if len(links) > 0 {
			cover = &links[(at+len(links)-1)%len(links)]
		}
		why := missing(n, cover)
		if why == "" && n.empty {
			why = linkedBelow(names[:number.name], n.wire, links, i)
		}
		reportMissing(n, why, i, r)
	}
	for k := range links {
		if l := &links[k]; !l.used {
			reportExcess(l, i, r)
		}
	}
}

// checkTypes compares a name with its link.
func checkTypes(n *name, l *link, i int, r *report) {
	if r.at = inChain(i, ofNames, l.hash); !bytes.Equal(l.types, n.types) {
		r.fault(n.wire, "nsec3-types", "the NSEC3 record %s says that there is %s; there is %s",
			zone.NameString(l.owner), bitmapString(l.types), bitmapString(n.types))
	}
}

// reportMissing says that a name has no link, and why it must have one, if it must.
func reportMissing(n *name, why string, i int, r *report) {
	if r.at = inChain(i, ofNames, n.hashes[i][:]); why != "" {
		r.fault(n.wire, "nsec3-missing", "no NSEC3 record for its hash %s%s", base32hex.EncodeToString(n.hashes[i][:]), why)
	}
}

func reportExcess(l *link, i int, r *report) {
	r.at = inChain(i, ofExcess, l.hash)
	r.fault(l.owner, "nsec3-excess", "an NSEC3 record for no name of the zone (RFC 5155 7.1)")
}

// linkedBelow says why an empty non-terminal of insecure delegations must have a record although it lies in an opt-out span: one
// of them has its own, and so is not covered by opt-out (RFC 5155 7.1). The names end with what is below it.
func linkedBelow(names []name, ent []byte, links []link, i int) string {
	for k := len(names) - 1; k >= 0; k-- {
		n := &names[k]
		above := countLabels(n.wire) - countLabels(ent)
		if above <= 0 || !bytes.Equal(suffix(n.wire, above), ent) {
			break
		}
		hash := n.hashes[i][:]
		_, linked := slices.BinarySearchFunc(links, hash, func(l link, h []byte) int { return bytes.Compare(l.hash, h) })
		if linked && !n.empty {
			return whyLinkedBelow(n.wire)
		}
	}
	return ""
}

func whyLinkedBelow(name []byte) string {
	return fmt.Sprintf(", and %s below it has one, so opt-out does not cover both (RFC 5155 7.1)", zone.NameString(name))
}

// missing says why a name must have a record, "" if it need not. Its hash lies behind that of a link, nil if the chain has none.
func missing(n *name, cover *link) string {
	switch {
	case !n.optional:
		return " (RFC 5155 7.1)"
	case cover != nil && cover.flags&optOut == 0:
		return fmt.Sprintf(", and the span of %s that it lies in is no opt-out (RFC 5155 6)", zone.NameString(cover.owner))
	}
	return ""
}
