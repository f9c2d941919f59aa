package zonecheck

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"
	"time"

	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/zone"
)

// sense looks for what is formally right and makes no sense.
type sense struct {
	z       *zone.Zone
	p       Policy
	r       *report
	doubled []byte   // the origin twice, lower-case; nil for the root
	names   int      // in owners and RDATA
	twice   int      // that end in doubled
	example []byte   // one of them
	watch   [][]byte // owners that have one, or are one
	servers []server
	room    [][]byte
}

// server is what an NS record of the apex names, and the addresses that the zone has for it.
type server struct {
	name      []byte
	addresses []netip.Addr
}

func newSense(z *zone.Zone, p Policy, r *report) *sense {
	s := &sense{z: z, p: p, r: r}
	if origin := apexOf(z).name; len(origin) > 1 {
		s.doubled = append(bytes.Clone(origin[:len(origin)-1]), origin...)
	}
	return s
}

// look takes the owners one after the other, the apex first.
func (s *sense) look(o *owner) {
	if o.kind == hashed {
		return
	}
	apex := len(s.servers) == 0 && zone.NameString(o.name) == s.z.Origin()
	s.r.at = spot{inSense, o.key}
	before := s.twice
	s.count(o.name)
	for i := range o.sets {
		set := &o.sets[i]
		s.checkTTL(o, set)
		s.checkDigests(o, set)
		s.checkSize(o, set)
		for rdata := range set.Data.All() {
			s.room = zone.RdataNames(s.room[:0], set.Type, rdata)
			for _, name := range s.room {
				if s.count(name) && s.absent(name) {
					s.r.warn(o.name, "trailing-dot", "%s points at %s, which does not exist: does a dot lack at the end of its name?", dns.Type(set.Type), zone.NameString(name))
				}
			}
		}
	}
	if s.twice > before && len(s.watch) <= maxKept {
		s.watch = append(s.watch, o.name)
	}
	if apex {
		s.lookAtApex(o)
	}
	s.findAddresses(o)
}

// tally counts the names of an owner, as look does, by a sign.
func (s *sense) tally(o *owner, sign int) {
	was := *s
	s.names, s.twice = 0, 0
	s.count(o.name)
	for i := range o.sets {
		for rdata := range o.sets[i].Data.All() {
			s.room = zone.RdataNames(s.room[:0], o.sets[i].Type, rdata)
			for _, name := range s.room {
				s.count(name)
			}
		}
	}
	s.names, s.twice, s.example = was.names+sign*s.names, was.twice+sign*s.twice, was.example
}

// count counts a name, and reports whether it ends in the origin twice.
func (s *sense) count(name []byte) bool {
	s.names++
	if s.doubled == nil || len(name) < len(s.doubled) {
		return false
	}
	tail := len(name) - len(s.doubled)
	if !bytes.Equal(zone.Canonical(dns.TypeNS, name)[tail:], s.doubled) || !atLabel(name, tail) {
		return false
	}
	s.twice++
	if s.example == nil {
		s.example = name
	}
	return true
}

// atLabel reports whether a label begins at an offset of a name.
func atLabel(name []byte, offset int) bool {
	i := 0
	for i < offset && name[i] != 0 {
		i += 1 + int(name[i])
	}
	return i == offset
}

// absent reports whether the zone says that a name does not exist.
func (s *sense) absent(name []byte) bool {
	return s.z.Lookup(zone.Query{Name: name, Type: dns.TypeA, Class: dns.ClassINET}).Rcode == dns.RcodeNameError
}

const week = 7 * 24 * time.Hour

func (s *sense) checkTTL(o *owner, set *zone.RRset) {
	switch {
	case len(set.Data) == 0:
		return
	case set.Type == dns.TypeNSEC3PARAM, set.Type == dns.TypeCDS, set.Type == dns.TypeCDNSKEY:
		return // not for resolvers: signers give them TTL 0
	}
	typ := dns.Type(set.Type)
	switch ttl := time.Duration(set.TTL) * time.Second; {
	case ttl > s.p.MaxTTL:
		s.r.fault(o.name, "ttl-high", "%s has TTL %d; the policy allows %v", typ, set.TTL, s.p.MaxTTL)
	case ttl < s.p.MinTTL:
		s.r.fault(o.name, "ttl-low", "%s has TTL %d; the policy demands %v", typ, set.TTL, s.p.MinTTL)
	case ttl > week:
		s.r.warn(o.name, "ttl-high", "%s has TTL %d, more than a week: a mistake in it stays for as long (RFC 1912 2.2)", typ, set.TTL)
	case ttl == 0:
		s.r.warn(o.name, "ttl-low", "%s has TTL 0: every query for it comes here (RFC 1912 2.2)", typ)
	}
}

// digestSizes are the octets of a DS record's digest, by the types that validators know (RFC 4034 appendix A.2, RFC 4509 2.2,
// RFC 6605 2).
var digestSizes = map[uint8]int{dns.SHA1: 20, dns.SHA256: 32, dns.SHA384: 48}

// checkDigests demands of DS records a digest as long as their type has it: no key fits any other, and BIND does not load a zone
// that has one. Nothing is said of other types.
func (s *sense) checkDigests(o *owner, set *zone.RRset) {
	if set.Type != dns.TypeDS || o.kind == occluded {
		return
	}
	for rdata := range set.Data.All() {
		if len(rdata) <= 4 {
			continue // internal/zone refuses it
		}
		if want, known := digestSizes[rdata[3]]; known && len(rdata)-4 != want {
			s.r.fault(o.name, "ds-digest", "the DS record of key %d has a digest of %d octets; one of type %d has %d (RFC 4034 5.1.4)",
				binary.BigEndian.Uint16(rdata), len(rdata)-4, rdata[3], want)
		}
	}
}

// Octets of a message (RFC 1035 4.2.2), and what is in it beside names and RDATA: the header, the question and an OPT record without
// options (RFC 6891 6.1.2), the fixed fields of a record, and the pointer that an owner is.
const (
	maxMessage   = 65535
	aroundRRset  = 12 + 4 + 11
	aroundRdata  = 10
	ownerPointer = 2
)

// checkSize finds records that no message can carry, so that the zone cannot be transferred, and RRsets that no answer can.
func (s *sense) checkSize(o *owner, set *zone.RRset) {
	if len(set.Data)+len(set.Sigs) < maxMessage/8 { // a record takes ten octets beside what is here, which is two at least
		return
	}
	total := aroundRRset + len(o.name)
	for _, data := range []zone.Rdata{set.Data, set.Sigs} {
		for rdata := range data.All() {
			if n := 12 + len(o.name) + aroundRdata + len(rdata); n > maxMessage {
				s.r.fault(o.name, "record-too-large", "a %s record with RDATA of %d octets: with its owner it fits in no message, so the zone cannot be transferred", dns.Type(set.Type), len(rdata))
			}
			total += ownerPointer + aroundRdata + len(rdata)
		}
	}
	if total > maxMessage {
		s.r.warn(o.name, "rrset-too-large", "the %s records and their signatures need a message of %d octets, of at most %d: no query for them is answered", dns.Type(set.Type), total, maxMessage)
	}
}

// lookAtApex checks the SOA's timers and notes the servers.
func (s *sense) lookAtApex(o *owner) {
	if set := o.get(dns.TypeSOA); set != nil {
		for rdata := range set.Data.All() {
			s.checkTimers(rdata[len(rdata)-20:])
		}
	}
	if set := o.get(dns.TypeNS); set != nil {
		for rdata := range set.Data.All() {
			s.servers = append(s.servers, server{name: zone.Canonical(dns.TypeNS, rdata)})
		}
	}
}

// checkTimers judges the SOA's numbers: serial, refresh, retry, expire, minimum.
func (s *sense) checkTimers(numbers []byte) {
	seconds := func(i int) time.Duration {
		return time.Duration(binary.BigEndian.Uint32(numbers[4*i:])) * time.Second
	}
	refresh, retry, expire, minimum := seconds(1), seconds(2), seconds(3), seconds(4)
	if expire <= refresh {
		s.r.warn(nil, "soa-expire", "expire %v is not above refresh %v: secondaries would drop the zone between two refreshes (RFC 1035 3.3.13)", expire, refresh)
	} else if expire < refresh+retry || expire < week {
		s.r.warn(nil, "soa-expire", "expire %v is short: secondaries drop the zone if they cannot refresh it for so long (RFC 1912 2.2: two to four weeks)", expire)
	}
	if retry > refresh {
		s.r.warn(nil, "soa-retry", "retry %v is above refresh %v (RFC 1912 2.2)", retry, refresh)
	}
	if refresh < time.Minute || refresh > 2*24*time.Hour {
		s.r.warn(nil, "soa-refresh", "refresh %v; 20 minutes to 12 hours is usual (RFC 1912 2.2)", refresh)
	}
	if minimum > 24*time.Hour {
		s.r.warn(nil, "soa-minimum", "minimum %v is how long it is remembered that a name does not exist; more than a day is too long (RFC 2308 5)", minimum)
	}
}

// findAddresses notes the addresses of a server.
func (s *sense) findAddresses(o *owner) {
	for i := range s.servers {
		if !bytes.Equal(s.servers[i].name, o.name) {
			continue
		}
		for _, typ := range []uint16{dns.TypeA, dns.TypeAAAA} {
			if set := o.get(typ); set != nil {
				for rdata := range set.Data.All() {
					if a, ok := netip.AddrFromSlice(rdata); ok {
						s.servers[i].addresses = append(s.servers[i].addresses, a)
					}
				}
			}
		}
	}
}

// So many names, and more than this part of all, do not end in the origin twice by intent: the .se of October 2009 had it everywhere.
const manyTwice, manyPart = 20, 10

// finish judges what the whole zone shows.
func (s *sense) finish() {
	s.r.at = spot{section: inAll}
	if s.twice > 1 && 100*s.twice > s.names {
		report := s.r.warn
		if s.twice >= manyTwice && manyPart*s.twice > s.names {
			report = s.r.fault
		}
		report(s.example, "trailing-dots", "%d of %d names end in the origin twice: the dot at their end lacks", s.twice, s.names)
	}
	if len(s.servers) == 1 {
		s.r.warn(nil, "ns-count", "one server only (RFC 1034 4.1 wants two or more)")
	}
	if len(s.servers) > 0 && len(s.p.Meshes) > 0 {
		s.checkServers()
	}
}

// checkServers checks where the servers are (RFC 3258 2.5).
func (s *sense) checkServers() {
	outside := slices.ContainsFunc(s.servers, func(n server) bool {
		return !slices.ContainsFunc(s.p.Meshes, n.in)
	})
	if outside {
		return // and so not all in one mesh
	}
	s.report(s.p.Outside, "servers-outside", "every server is in a mesh; at least one must be outside of all (ROUTE-4, RFC 3258 2.5)")
	for _, m := range s.p.Meshes {
		if !slices.ContainsFunc(s.servers, func(n server) bool { return !n.in(m) }) {
			s.report(s.p.OneMesh, "servers-one-mesh", "every server is in mesh %s: who does not reach it, or when it fails, has none (ROUTE-5, RFC 3258 2.5)", m.Name)
		}
	}
}

// in reports whether a server is in a mesh, by its name or one of its addresses.
func (n server) in(m Mesh) bool {
	return slices.Contains(m.Names, zone.NameString(n.name)) ||
		slices.ContainsFunc(n.addresses, func(a netip.Addr) bool { return slices.Contains(m.Addresses, a) })
}

func (s *sense) report(l Level, rule, format string, args ...any) {
	switch l {
	case Fault:
		s.r.fault(nil, rule, format, args...)
	case Warn:
		s.r.warn(nil, rule, format, args...)
	}
}
