package main

import (
	"bytes"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/zone"
)

// steps counts how zones came to be by zone.Apply.
type steps struct {
	inPlace int // the zone before was edited: the image is not as a Builder would have made it
	anew    int // it is: all was built anew, as for a step that changes much of so small a zone, or what changed fits where it was
	refused int // versions that were drawn and are no zones, as a Builder says; others were drawn instead
}

func (s *steps) add(other steps) {
	s.inPlace += other.inPlace
	s.anew += other.anew
	s.refused += other.refused
}

// stepByStep makes a zone once more, in so many steps: of an earlier version, which the seed and the zone's origin tell, it
// applies one difference after the other, and checks after each that the root is that of the version built at once.
func stepByStep(z *zone.Zone, count int, seed uint64) (*zone.Zone, steps, error) {
	var s steps
	h := fnv.New64a()
	h.Write([]byte(z.Origin()))
	v := versionOf(z, rand.New(rand.NewPCG(seed, h.Sum64())))
	versions := []*zone.Zone{z}
	for range count {
		earlier, refused := v.earlier()
		s.refused += refused
		versions = append(versions, earlier)
	}
	slices.Reverse(versions)
	made := versions[0]
	for i, want := range versions[1:] {
		d := zone.Difference(made, want, math.MaxInt)
		next, found := made.Apply(d)
		if next == nil {
			return nil, s, fmt.Errorf("%s: step %d of %d is refused: %v\n%s", z.Origin(), i+1, count, found, history(versions[:i+2]))
		}
		if next.Root() != want.Root() {
			return nil, s, fmt.Errorf("%s: after step %d of %d the root is not that of the zone built at once\n%s", z.Origin(), i+1, count, history(versions[:i+2]))
		}
		if bytes.Equal(image(next), image(want)) {
			s.anew++
		} else {
			s.inPlace++
		}
		made = next
	}
	return made, s, nil
}

// history shows versions of a zone: the first, and what each of the others takes out and puts in.
func history(versions []*zone.Zone) string {
	var b strings.Builder
	for rr := range versions[0].Records() {
		fmt.Fprintln(&b, rr)
	}
	for i, to := range versions[1:] {
		was, is := lines(versions[i]), lines(to)
		for _, line := range slices.Sorted(maps.Keys(was)) {
			if !is[line] {
				fmt.Fprintln(&b, "-", line)
			}
		}
		for _, line := range slices.Sorted(maps.Keys(is)) {
			if !was[line] {
				fmt.Fprintln(&b, "+", line)
			}
		}
		fmt.Fprintln(&b)
	}
	return b.String()
}

func lines(z *zone.Zone) map[string]bool {
	all := map[string]bool{}
	for rr := range z.Records() {
		all[rr.String()] = true
	}
	return all
}

// image is a zone as it lies in memory: zones of the same records differ in it if one was edited.
func image(z *zone.Zone) []byte {
	var b bytes.Buffer
	if err := z.WriteImage(&b, [sha256.Size]byte{}); err != nil {
		panic(err) // a Buffer takes everything
	}
	return b.Bytes()
}

// A version is what a zone held before it held what it does: its RRsets, by owner in wire format and by type. Signatures are
// those that the last version has, or are made up, since a zone engine does not verify them.
type version struct {
	*rand.Rand
	last   *zone.Zone
	origin string
	serial uint32
	sets   map[string]map[uint16]zone.RRset // but for the chain of NSEC or NSEC3
	soa    zone.RRset                       // of the last version, as is what follows
	params []byte                           // NSEC3PARAM, nil if there is none
	optOut bool
	chain  map[string]zone.RRset // NSEC or NSEC3, by owner; empty in an unsigned zone
	ttl    uint32                // of these
}

func versionOf(z *zone.Zone, r *rand.Rand) *version {
	v := &version{Rand: r, last: z, serial: z.Serial(), sets: map[string]map[uint16]zone.RRset{}, chain: map[string]zone.RRset{}}
	for set := range z.RRsets() {
		if v.origin == "" {
			v.origin = string(set.Owner)
		}
		if set.Type == dns.TypeNSEC3PARAM {
			v.params = first(set)
		}
		v.put(string(set.Owner), set)
	}
	v.soa = v.sets[v.origin][dns.TypeSOA]
	for owner, sets := range v.sets {
		for _, typ := range []uint16{dns.TypeNSEC, dns.TypeNSEC3} {
			set, exists := sets[typ]
			if rdata := first(set); exists && (typ == dns.TypeNSEC || bytes.HasPrefix(rdata[2:], v.params[2:])) { // not of half a chain
				v.chain[owner], v.ttl = set, set.TTL
				v.optOut = v.optOut || typ == dns.TypeNSEC3 && rdata[1]&1 > 0
				v.remove(owner, typ)
			}
		}
	}
	return v
}

// first is the RDATA of the first record.
func first(set zone.RRset) []byte {
	for rdata := range set.Data.All() {
		return rdata
	}
	return nil
}

func (v *version) put(owner string, set zone.RRset) {
	if v.sets[owner] == nil {
		v.sets[owner] = map[uint16]zone.RRset{}
	}
	v.sets[owner][set.Type] = set
}

func (v *version) remove(owner string, typ uint16) {
	if delete(v.sets[owner], typ); len(v.sets[owner]) == 0 {
		delete(v.sets, owner)
	}
}

// earlier goes one version back. It returns the zone, and how many it drew that the Builder refuses.
func (v *version) earlier() (z *zone.Zone, refused int) {
	v.serial--
	for ; ; refused++ {
		was := map[string]map[uint16]zone.RRset{}
		for owner, sets := range v.sets {
			was[owner] = maps.Clone(sets)
		}
		changes := 1 + v.IntN(5)
		if v.IntN(8) == 0 {
			changes = len(v.sets) / 2
		}
		for range changes {
			v.change()
		}
		if z := v.build(); z != nil {
			return z, refused
		}
		v.sets = was
	}
}

// change changes what is at one owner, which may be new, and with that what is below it now and then.
func (v *version) change() {
	owners := slices.Sorted(maps.Keys(v.sets))
	owner := owners[v.IntN(len(owners))]
	set := v.setOf(owner)
	fixed := set.Type == dns.TypeSOA || set.Type == dns.TypeNSEC3PARAM || set.Type == dns.TypeNSEC3 || owner == v.origin && set.Type == dns.TypeNS
	switch n := v.IntN(8); {
	case n == 0 && owner != v.origin:
		v.removeBelow(owner)
		fallthrough
	case n == 1 && owner != v.origin:
		delete(v.sets, owner)
	case n == 2 && !fixed:
		v.remove(owner, set.Type)
	case n == 3:
		set.TTL += 60
		v.put(owner, set)
	case n == 4 && !fixed: // as at another owner
		for _, other := range owners[v.IntN(len(owners)):] {
			if there, exists := v.sets[other][set.Type]; exists {
				set.Data = there.Data
			}
		}
		v.put(owner, set)
	case n > 4 && !fixed:
		v.copyTo(v.near(owners[v.IntN(len(owners))]), set)
	}
}

// setOf is one of an owner's RRsets.
func (v *version) setOf(owner string) zone.RRset {
	types := slices.Sorted(maps.Keys(v.sets[owner]))
	return v.sets[owner][types[v.IntN(len(types))]]
}

// near is an owner, or a name right below it.
func (v *version) near(owner string) string {
	label := []string{"", "", "*", "a", "b", "new", "\x00", "\xff"}[v.IntN(8)]
	if label == "" || len(owner)+len(label) > 250 {
		return owner
	}
	return string(byte(len(label))) + label + owner
}

// copyTo gives an owner an RRset that another one has. What may not be beside it, or below it, goes.
func (v *version) copyTo(owner string, set zone.RRset) {
	set.Sigs = nil
	for n := owner; n != v.origin; {
		if n = n[1+n[0]:]; v.sets[n][dns.TypeDNAME].Data != nil {
			return
		}
	}
	switch {
	case owner == v.origin && set.Type != dns.TypeTXT, strings.HasPrefix(owner, "\x01*") && set.Type == dns.TypeNS:
		return
	case v.sets[owner][dns.TypeCNAME].Data != nil && v.IntN(10) > 0: // others are refused beside it
		return
	case set.Type == dns.TypeCNAME:
		delete(v.sets, owner)
	case set.Type == dns.TypeDNAME:
		v.removeBelow(owner)
	}
	v.put(owner, set)
}

func (v *version) removeBelow(owner string) {
	maps.DeleteFunc(v.sets, func(other string, _ map[uint16]zone.RRset) bool { return other != owner && v.isBelow(other, owner) })
}

// isBelow reports whether a name is another one or below it.
func (v *version) isBelow(name, other string) bool {
	return strings.HasPrefix(string(zone.AppendKey(nil, []byte(name))), string(zone.AppendKey(nil, []byte(other))))
}

// build makes the zone, nil if the Builder refuses it.
func (v *version) build() *zone.Zone {
	b := zone.NewBuilder()
	add := func(owner string, set zone.RRset) {
		for rdata := range set.Data.All() {
			b.AddWire([]byte(owner), set.Type, set.TTL, rdata, "", 0)
		}
		for sig := range set.Sigs.All() {
			b.AddWire([]byte(owner), dns.TypeRRSIG, set.TTL, sig, "", 0)
		}
	}
	soa := bytes.Clone(v.soa.Data)
	binary.BigEndian.PutUint32(soa[len(soa)-20:], v.serial)
	changed := v.soa
	changed.Data = soa
	v.put(v.origin, changed)
	for owner, sets := range v.sets {
		for typ, set := range sets {
			if authoritative := v.isAuthoritative(owner, typ); !authoritative {
				set.Sigs = nil
			} else if len(set.Sigs) == 0 && typ != dns.TypeNSEC3 { // of half a chain
				set.Sigs = v.signatures(owner, typ)
			}
			add(owner, set)
		}
	}
	switch _, nsec := v.last.Expires(); {
	case len(v.chain) == 0:
	case v.params != nil:
		v.nsec3(add)
	case nsec:
		v.nsec(add)
	}
	z, _ := b.Build(v.last.Origin())
	return z
}

// cutOf is the topmost delegation point at or above a name, "" if there is none.
func (v *version) cutOf(name string) (cut string) {
	for n := name; n != v.origin; n = n[1+n[0]:] {
		if _, delegates := v.sets[n][dns.TypeNS]; delegates {
			cut = n
		}
	}
	return cut
}

// isAuthoritative reports whether an RRset is to be signed (RFC 4035 2.2).
func (v *version) isAuthoritative(owner string, typ uint16) bool {
	cut := v.cutOf(owner)
	return cut == "" || cut == owner && (typ == dns.TypeDS || typ == dns.TypeNSEC)
}

// signatures are those of the SOA, made to look as if they were of another RRset.
func (v *version) signatures(owner string, typ uint16) zone.Rdata {
	sigs := bytes.Clone(v.soa.Sigs)
	count := byte(0)
	for n := owner; n != "\x00"; n = n[1+n[0]:] {
		count++
	}
	if strings.HasPrefix(owner, "\x01*") {
		count--
	}
	for sig := range zone.Rdata(sigs).All() {
		binary.BigEndian.PutUint16(sig, typ)
		sig[3] = count
	}
	return sigs
}

// chained are the owners that the chain has, and what is there.
func (v *version) chained() map[string][]uint16 {
	types := map[string][]uint16{}
	for owner, sets := range v.sets {
		has := slices.Sorted(maps.Keys(sets))
		cut := v.cutOf(owner)
		if slices.Equal(has, []uint16{dns.TypeNSEC3}) || cut != "" && (cut != owner || v.optOut && sets[dns.TypeDS].Data == nil) {
			continue
		}
		has = slices.DeleteFunc(has, func(typ uint16) bool {
			return cut != "" && typ != dns.TypeNS && typ != dns.TypeDS || typ == dns.TypeNSEC3
		})
		if v.params == nil {
			has = append(has, dns.TypeNSEC)
		}
		if v.params == nil || cut == "" || sets[dns.TypeDS].Data != nil {
			has = append(has, dns.TypeRRSIG)
		}
		types[owner] = slices.Sorted(slices.Values(has))
	}
	return types
}

// bitmap is how types are listed (RFC 4034 4.1.2).
func bitmap(types []uint16) []byte {
	var room [1024]byte
	end, err := dns.PackRR(&dns.NSEC{Hdr: dns.RR_Header{Name: ".", Rrtype: dns.TypeNSEC, Class: dns.ClassINET}, NextDomain: ".", TypeBitMap: types}, room[:], 0, nil, false)
	if err != nil {
		panic(err)
	}
	return room[12:end]
}

// link adds a link of the chain: that of the last version if it says the same, and so with its signature.
func (v *version) link(add func(string, zone.RRset), owner string, typ uint16, rdata []byte) {
	set := v.chain[owner]
	if is := first(set); is == nil || typ == dns.TypeNSEC && !sameNSEC(is, rdata) || typ == dns.TypeNSEC3 && !bytes.Equal(is, rdata) {
		set = zone.RRset{Type: typ, TTL: v.ttl, Sigs: v.signatures(owner, typ)}
		set.Data = append(binary.BigEndian.AppendUint16(nil, uint16(len(rdata))), rdata...)
	}
	add(owner, set)
}

// sameNSEC reports whether two NSEC records say the same but for the case of names.
func sameNSEC(x, y []byte) bool {
	nameLen := func(b []byte) (n int) {
		for n < len(b) && b[n] > 0 {
			n += 1 + int(b[n])
		}
		return n + 1
	}
	n := nameLen(x)
	return n == nameLen(y) && bytes.Equal(zone.AppendKey(nil, x[:n]), zone.AppendKey(nil, y[:n])) && bytes.Equal(x[n:], y[n:])
}

// nsec adds the chain of NSEC records (RFC 4035 2.3).
func (v *version) nsec(add func(string, zone.RRset)) {
	types := v.chained()
	owners := slices.SortedFunc(maps.Keys(types), func(x, y string) int {
		return bytes.Compare(zone.AppendKey(nil, []byte(x)), zone.AppendKey(nil, []byte(y)))
	})
	for i, owner := range owners {
		next := owners[(i+1)%len(owners)]
		v.link(add, owner, dns.TypeNSEC, append([]byte(next), bitmap(types[owner])...))
	}
}

// nsec3 adds the chain of NSEC3 records, which has empty non-terminals too (RFC 5155 7.1).
func (v *version) nsec3(add func(string, zone.RRset)) {
	types := v.chained()
	byHash := map[string][]uint16{}
	for owner := range types {
		for n := owner; n != v.origin; n = n[1+n[0]:] {
			byHash[v.hash(n)] = types[n]
		}
	}
	byHash[v.hash(v.origin)] = types[v.origin]
	hashes := slices.Sorted(maps.Keys(byHash))
	for i, hash := range hashes {
		rdata := bytes.Clone(v.params)
		if v.optOut {
			rdata[1] = 1
		}
		rdata = append(append(rdata, sha1.Size), hashes[(i+1)%len(hashes)]...)
		if types := byHash[hash]; len(types) > 0 {
			rdata = append(rdata, bitmap(types)...)
		}
		label := strings.ToLower(base32.HexEncoding.EncodeToString([]byte(hash)))
		v.link(add, string(byte(len(label)))+label+v.origin, dns.TypeNSEC3, rdata)
	}
}

// hash is the hash of a name (RFC 5155 5).
func (v *version) hash(name string) string {
	salt := v.params[5:]
	sum := sha1.Sum(append([]byte(name), salt...))
	for range binary.BigEndian.Uint16(v.params[2:]) {
		sum = sha1.Sum(append(sum[:], salt...))
	}
	return string(sum[:])
}
