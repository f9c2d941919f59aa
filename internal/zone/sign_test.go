package zone_test

import (
	"slices"
	"strings"

	"github.com/miekg/dns"
)

// A denial flavour of a test zone.
const (
	nsec   = "nsec"
	nsec3  = "nsec3"
	optOut = "optout"
)

// sign adds to a zone's records what a signer adds, with signatures that verify nothing: RRSIG records, and a chain of
// NSEC or NSEC3 records.
func sign(origin string, rrs []dns.RR, flavour string) []dns.RR {
	types := typesByOwner(rrs)
	secure := func(owner string) bool { // in the chain: authoritative, and with opt-out no insecure delegation
		cut := cutOf(origin, owner, types)
		if cut == "" {
			return true
		}
		return cut == owner && (flavour != optOut || slices.Contains(types[owner], dns.TypeDS))
	}
	var owners []string
	for owner := range types {
		if secure(owner) {
			owners = append(owners, owner)
		}
	}
	if flavour != nsec {
		rrs = append(rrs, &dns.NSEC3PARAM{Hdr: header(origin, dns.TypeNSEC3PARAM, 0), Hash: dns.SHA1, SaltLength: 1, Salt: "AB"})
		types[origin] = append(types[origin], dns.TypeNSEC3PARAM)
		owners = withNonTerminals(origin, owners)
	}
	rrs = append(rrs, chain(origin, owners, types, flavour)...)
	return append(rrs, signatures(origin, rrs)...)
}

func header(owner string, typ uint16, ttl uint32) dns.RR_Header {
	return dns.RR_Header{Name: owner, Rrtype: typ, Class: dns.ClassINET, Ttl: ttl}
}

func typesByOwner(rrs []dns.RR) map[string][]uint16 {
	types := map[string][]uint16{}
	for _, rr := range rrs {
		h := rr.Header()
		if owner := strings.ToLower(h.Name); !slices.Contains(types[owner], h.Rrtype) {
			types[owner] = append(types[owner], h.Rrtype)
		}
	}
	return types
}

// cutOf is the topmost delegation point at or above a name, "" if there is none.
func cutOf(origin, name string, types map[string][]uint16) string {
	cut := ""
	for n := name; n != origin; n = parent(n) {
		if slices.Contains(types[n], dns.TypeNS) {
			cut = n
		}
	}
	return cut
}

func parent(name string) string {
	if i, end := dns.NextLabel(name, 0); !end {
		return name[i:]
	}
	return "."
}

func withNonTerminals(origin string, owners []string) []string {
	for _, owner := range slices.Clone(owners) {
		for n := owner; n != origin; n = parent(n) {
			owners = append(owners, n)
		}
	}
	slices.Sort(owners)
	return slices.Compact(owners)
}

func chain(origin string, owners []string, types map[string][]uint16, flavour string) []dns.RR {
	type link struct{ sortedBy, owner string }
	var links []link
	for _, o := range owners {
		if flavour == nsec {
			labels := dns.SplitDomainName(o)
			slices.Reverse(labels)
			links = append(links, link{strings.Join(labels, "\x00"), o})
		} else {
			links = append(links, link{dns.HashName(o, dns.SHA1, 0, "AB"), o})
		}
	}
	slices.SortFunc(links, func(a, b link) int { return strings.Compare(a.sortedBy, b.sortedBy) })
	var rrs []dns.RR
	for i, l := range links {
		next := links[(i+1)%len(links)]
		bits := slices.Clone(types[l.owner])
		if cutOf(origin, l.owner, types) != "" {
			bits = slices.DeleteFunc(bits, func(t uint16) bool { return t != dns.TypeNS && t != dns.TypeDS })
		}
		if len(bits) > 0 && !(len(bits) == 1 && bits[0] == dns.TypeNS && flavour != nsec) {
			bits = append(bits, dns.TypeRRSIG)
		}
		if flavour == nsec {
			bits = append(bits, dns.TypeNSEC)
			slices.Sort(bits)
			rrs = append(rrs, &dns.NSEC{Hdr: header(l.owner, dns.TypeNSEC, 60), NextDomain: next.owner, TypeBitMap: bits})
			continue
		}
		slices.Sort(bits)
		rr := &dns.NSEC3{Hdr: header(l.sortedBy+"."+strings.TrimPrefix(origin, "."), dns.TypeNSEC3, 60), Hash: dns.SHA1, SaltLength: 1, Salt: "AB",
			HashLength: 20, NextDomain: next.sortedBy, TypeBitMap: bits}
		if flavour == optOut {
			rr.Flags = 1
		}
		rrs = append(rrs, rr)
	}
	return rrs
}

// signatures makes an RRSIG for each RRset that is the zone's own.
func signatures(origin string, rrs []dns.RR) []dns.RR {
	type rrset struct {
		owner string
		typ   uint16
	}
	types, signed := typesByOwner(rrs), map[rrset]bool{}
	var sigs []dns.RR
	for _, rr := range rrs {
		owner, typ, ttl := strings.ToLower(rr.Header().Name), rr.Header().Rrtype, rr.Header().Ttl
		cut := cutOf(origin, owner, types)
		if signed[rrset{owner, typ}] || cut != "" && (cut != owner || typ != dns.TypeDS && typ != dns.TypeNSEC) {
			continue
		}
		signed[rrset{owner, typ}] = true
		sigs = append(sigs, &dns.RRSIG{Hdr: header(owner, dns.TypeRRSIG, ttl), TypeCovered: typ, Algorithm: dns.ECDSAP256SHA256,
			Labels: uint8(dns.CountLabel(owner)), OrigTtl: ttl, Expiration: 2000000000, Inception: 1700000000, KeyTag: 1,
			SignerName: origin, Signature: "AAAA"})
	}
	return sigs
}
