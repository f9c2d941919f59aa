package zonecheck

import (
	"bytes"
	"crypto/sha512"
	"encoding/binary"
	"hash"

	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/zone"
)

// zonemd is a ZONEMD record (RFC 8976 2.2).
type zonemd struct {
	serial          uint32
	scheme, hashing uint8
	digest          []byte
}

const minDigest = 12 // octets (RFC 8976 2.2.4)

// checkDigest verifies every ZONEMD record of the apex that can be verified (RFC 8976 4). A verifier is content with one
// that matches; who publishes a zone has no use for one that does not.
func checkDigest(old, z *zone.Zone, mode Mode, r *report) {
	if mode == Ignore {
		return
	}
	list := zonemdOf(z)
	if len(list) == 0 {
		if mode == Require {
			r.fault(nil, "zonemd-missing", "no ZONEMD record, which the policy requires")
		} else if old != nil && len(zonemdOf(old)) > 0 {
			r.warn(nil, "zonemd-gone", "no ZONEMD record any more; the zone answered now has one")
		}
		return
	}
	hashes := usable(z, list, r)
	if len(hashes) == 0 {
		if mode == Require && !zone.HasErrors(r.all()) {
			r.fault(nil, "zonemd-missing", "no ZONEMD record of a scheme and hash that is known here, and the policy requires one")
		}
		return
	}
	digest(z, hashes)
	for _, sum := range hashes {
		if got := sum.hash.Sum(nil); !bytes.Equal(got, sum.want) {
			r.fault(nil, "zonemd-digest", "the %s digest of the zone is %x, and its ZONEMD record says %x: the zone was changed after it was made, or lost a part (RFC 8976 4)",
				sum.name, got, sum.want)
		}
	}
}

// zonemdOf are the ZONEMD records of the apex.
func zonemdOf(z *zone.Zone) []zonemd {
	var list []zonemd
	for s := range z.RRsets() {
		if s.Type > dns.TypeZONEMD || zone.NameString(s.Owner) != z.Origin() {
			break // the apex is first, and its types are in order
		}
		if s.Type != dns.TypeZONEMD {
			continue
		}
		for rdata := range s.Data.All() {
			if len(rdata) >= 6 {
				list = append(list, zonemd{binary.BigEndian.Uint32(rdata), rdata[4], rdata[5], rdata[6:]})
			}
		}
	}
	return list
}

// expected is a digest that is to be computed and compared.
type expected struct {
	name string
	hash hash.Hash
	want []byte
}

// usable are the digests that can be compared, as RFC 8976 4 and 2.2 have it, and reports the others.
func usable(z *zone.Zone, list []zonemd, r *report) []expected {
	var hashes []expected
	for i, m := range list {
		e := expected{want: m.digest}
		switch m.hashing {
		case dns.ZoneMDHashAlgSHA384:
			e.name, e.hash = "SHA-384", sha512.New384()
		case dns.ZoneMDHashAlgSHA512:
			e.name, e.hash = "SHA-512", sha512.New()
		}
		switch {
		case len(m.digest) < minDigest:
			r.fault(nil, "zonemd-digest", "a ZONEMD record with a digest of %d octets, of at least %d (RFC 8976 2.2.4)", len(m.digest), minDigest)
		case m.serial != z.Serial():
			r.fault(nil, "zonemd-serial", "a ZONEMD record is for serial %d, the zone has %d (RFC 8976 4)", m.serial, z.Serial())
		case m.scheme != dns.ZoneMDSchemeSimple || e.hash == nil:
			r.warn(nil, "zonemd-unsupported", "a ZONEMD record of scheme %d and hash %d cannot be verified here", m.scheme, m.hashing)
		case twice(list, i):
			r.fault(nil, "zonemd-duplicate", "several ZONEMD records of scheme %d and hash %d: none of them is usable (RFC 8976 2.2)", m.scheme, m.hashing)
		case len(m.digest) != e.hash.Size():
			r.fault(nil, "zonemd-digest", "a ZONEMD record with a %s digest of %d octets", e.name, len(m.digest))
		default:
			hashes = append(hashes, e)
		}
	}
	return hashes
}

func twice(list []zonemd, i int) bool {
	for j, m := range list {
		if j != i && m.scheme == list[i].scheme && m.hashing == list[i].hashing {
			return true
		}
	}
	return false
}

// digest puts the zone into every hash by the SIMPLE scheme (RFC 8976 3.3.1): all records in canonical form and order,
// but for the apex's ZONEMD records and the RRSIG records that cover them.
func digest(z *zone.Zone, hashes []expected) {
	var buf []byte
	flush := func() {
		for _, e := range hashes {
			e.hash.Write(buf)
		}
		buf = buf[:0]
	}
	apex := []byte(nil)
	var sets []zone.RRset // of one owner
	owner := func() {
		signed := false
		for i := range sets {
			if !signed && sets[i].Type > dns.TypeRRSIG {
				buf, signed = appendSigs(buf, sets), true
			}
			buf = appendRecords(buf, sets[i].Owner, sets[i].Type, sets[i].TTL, sets[i].Data)
		}
		if !signed {
			buf = appendSigs(buf, sets)
		}
		sets = sets[:0]
		if len(buf) > 1<<16 {
			flush()
		}
	}
	for s := range z.RRsets() {
		if len(sets) > 0 && !bytes.Equal(sets[0].Owner, s.Owner) {
			owner()
		}
		if apex == nil {
			apex = s.Owner
		}
		if s.Type != dns.TypeZONEMD || !bytes.Equal(s.Owner, apex) {
			sets = append(sets, s)
		}
	}
	owner()
	flush()
}

func appendSigs(buf []byte, sets []zone.RRset) []byte {
	for i := range sets {
		buf = appendRecords(buf, sets[i].Owner, dns.TypeRRSIG, sets[i].SigTTL, sets[i].Sigs)
	}
	return buf
}

// appendRecords appends records in canonical form (RFC 4034 6.2).
func appendRecords(buf, owner []byte, typ uint16, ttl uint32, data zone.Rdata) []byte {
	for rdata := range data.All() {
		rdata = zone.Canonical(typ, rdata)
		buf = append(buf, owner...)
		buf = binary.BigEndian.AppendUint16(buf, typ)
		buf = binary.BigEndian.AppendUint16(buf, dns.ClassINET)
		buf = binary.BigEndian.AppendUint32(buf, ttl)
		buf = binary.BigEndian.AppendUint16(buf, uint16(len(rdata)))
		buf = append(buf, rdata...)
	}
	return buf
}
