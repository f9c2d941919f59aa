package zonecheck

import (
	"bytes"
	"crypto/sha1"
	"encoding/binary"
	"fmt"
	"iter"
	"time"

	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/zone"
)

// signed is what all workers know of a signed zone. It does not change while they run.
type signed struct {
	active     bool // there is something to verify
	origin     []byte
	labels     int
	keys       map[keyID][]*key
	algorithms []uint8 // that every RRset must be signed by (RFC 4035 2.2)
	params     []nsec3Params
	hasNSEC    bool
	now        uint32        // RRSIG time (RFC 4034 3.1.5)
	least      time.Duration // that signatures must last from now on
	lease      time.Duration
	memo       *Memo // nil: nothing is known from before
}

// keyID is what an RRSIG record says of the key that made it. Several keys may have one tag (RFC 4034 appendix B).
type keyID struct {
	tag       uint16
	algorithm uint8
}

// newSigned reads the apex, and reports what is wrong with its keys. Of a zone without keys it looks into owners for what signers make.
func newSigned(old, z *zone.Zone, p Policy, now time.Time, lease time.Duration, r *report, owners iter.Seq[*owner]) *signed {
	d := &signed{now: uint32(now.Unix()), lease: lease, least: lease + p.Margin, keys: map[keyID][]*key{}}
	apex := apexOf(z)
	d.origin, d.labels = apex.name, labels(z)
	if p.DNSSEC == Ignore {
		return d
	}
	set := apex.get(dns.TypeDNSKEY)
	if set == nil {
		d.reportUnsigned(old, owners, p, r)
		return d
	}
	d.active = true
	d.readKeys(set, r)
	d.hasNSEC = apex.get(dns.TypeNSEC) != nil
	if d.params = paramsOf(apex); len(d.params) > maxChains {
		r.fault(nil, "nsec3-chains", "NSEC3PARAM records of %d chains, of at most %d; the others are not looked at", len(d.params), maxChains)
		d.params = d.params[:maxChains]
	}
	if !d.hasNSEC && len(d.params) == 0 {
		r.fault(nil, "denial-missing", "the zone is signed and has neither NSEC nor NSEC3PARAM records: it cannot deny what it does not have (RFC 4035 2.3)")
	}
	d.checkAnchors(apex, p.Anchors, r)
	return d
}

// apexOf is the apex of a zone, which comes first.
func apexOf(z *zone.Zone) *owner {
	for o := range owners(z) {
		return o
	}
	return &owner{}
}

// reportUnsigned says what is wrong with a zone that has no DNSKEY records.
func (d *signed) reportUnsigned(old *zone.Zone, owners iter.Seq[*owner], p Policy, r *report) {
	if p.DNSSEC == Require {
		r.fault(nil, "dnssec-missing", "no DNSKEY records: the policy requires that the zone be signed")
		return
	}
	if len(p.Anchors) > 0 {
		r.fault(nil, "dnssec-missing", "no DNSKEY records, and there are trust anchors for the zone: validators would refuse all of it")
		return
	}
	if old != nil && apexOf(old).get(dns.TypeDNSKEY) != nil {
		r.fault(nil, "dnssec-gone", "the zone answered now is signed and this one is not; with a DS record at the parent, validators would refuse all of it")
		return
	}
	for o := range owners {
		for i := range o.sets {
			if ofSigners(&o.sets[i]) {
				r.fault(o.name, "dnskey-missing", "signatures or denial of existence, and no DNSKEY records at the origin")
				return
			}
		}
	}
}

// maxSameTag and maxChains bound the work that a zone can make of each signature, and of each name: what takes a release's
// time would keep the lease from being renewed. A rollover needs two.
const maxSameTag, maxChains = 4, 4

func (d *signed) readKeys(set *zone.RRset, r *report) {
	var supported int
	for rdata := range set.Data.All() {
		k, err := parseKey(rdata)
		if err != nil {
			r.fault(nil, "dnskey-malformed", "the DNSKEY record of tag %d: %v", keyTag(rdata), err)
			continue
		}
		if k.flags&dns.ZONE == 0 || k.protocol != 3 {
			continue // not for signatures (RFC 4034 2.1.1, 2.1.2)
		}
		id := keyID{k.tag, k.algorithm}
		if len(d.keys[id]) >= maxSameTag {
			r.fault(nil, "dnskey-same-tag", "more than %d DNSKEY records of algorithm %s have the tag %d, so that validators give up on them (CVE-2023-50387)", maxSameTag, algorithmName(k.algorithm), k.tag)
			continue
		}
		d.keys[id] = append(d.keys[id], k)
		if k.flags&dns.REVOKE != 0 || bytes.IndexByte(d.algorithms, k.algorithm) >= 0 {
			continue
		}
		d.algorithms = append(d.algorithms, k.algorithm)
		if k.verify != nil {
			supported++
		}
		if k.algorithm == dns.RSASHA1 || k.algorithm == dns.RSASHA1NSEC3SHA1 {
			r.warn(nil, "dnskey-deprecated", "keys of algorithm %s, which must not be used for signing any more (RFC 8624 3.1, RFC 9905)", algorithmName(k.algorithm))
		}
	}
	for _, a := range d.algorithms {
		if supports(a) {
			continue
		}
		report := r.warn
		if supported == 0 {
			report = r.fault
		}
		report(nil, "dnskey-unsupported", "signatures of algorithm %s cannot be verified here", algorithmName(a))
	}
	if len(d.algorithms) == 0 {
		r.fault(nil, "dnskey-missing", "no DNSKEY record that may sign the zone (RFC 4034 2.1.1)")
	}
}

// verify checks the signatures of a batch, and computes its hashes.
func (d *signed) verify(b *batch) {
	v := verifier{d: d, r: b.report}
	for _, o := range b.owners {
		b.report.at = spot{inOwners, o.key}
		for i := range o.sets {
			v.check(o, &o.sets[i])
		}
	}
	hashes := make([][sha1.Size]byte, len(d.params)*len(b.names))
	for i := range b.names {
		b.names[i].hash(d.params, hashes[:len(d.params)])
		hashes = hashes[len(d.params):]
	}
}

// verifier checks RRsets one after the other.
type verifier struct {
	d    *signed
	r    *report
	data []byte // what is signed: RRSIG RDATA without the signature, and the records (RFC 4034 3.1.8.1)
}

// rrsig is an RRSIG record's RDATA (RFC 4034 3.1).
type rrsig struct {
	algorithm, labels     uint8
	ttl                   uint32
	expiration, inception uint32
	tag                   uint16
	signer, signature     []byte
	head                  []byte // RDATA before the signature
}

func parseSig(rdata []byte) (s rrsig, ok bool) {
	if len(rdata) < 19 {
		return s, false
	}
	end := 18
	for rdata[end] != 0 {
		if end += 1 + int(rdata[end]); end >= len(rdata) {
			return s, false
		}
	}
	end++
	be := binary.BigEndian
	return rrsig{rdata[2], rdata[3], be.Uint32(rdata[4:]), be.Uint32(rdata[8:]), be.Uint32(rdata[12:]), be.Uint16(rdata[16:]),
		rdata[18:end], rdata[end:], rdata[:end]}, true
}

// check demands of an RRset that is the zone's own a good signature by each algorithm, and that no other signature be
// wrong; of any other RRset that it have none (RFC 4035 2.2).
func (v *verifier) check(o *owner, set *zone.RRset) {
	if len(set.Data) == 0 {
		return // RRSIG records that cover nothing: internal/zone warns of them
	}
	if !o.owns(set.Type) {
		if len(set.Sigs) > 0 {
			v.r.fault(o.name, "rrsig-excess", "%s is not the zone's own data, and is signed (RFC 4035 2.2)", dns.Type(set.Type))
		}
		return
	}
	var judged [256]bool // algorithms of which a signature was good, or was reported
	for rdata := range set.Sigs.All() {
		sig, ok := parseSig(rdata)
		if ok && v.judge(o, set, &sig) {
			judged[sig.algorithm] = true
		}
	}
	for _, a := range v.d.algorithms {
		if !judged[a] {
			v.r.fault(o.name, "rrsig-missing", "%s has no signature by a key of algorithm %s, of which there are DNSKEY records (RFC 4035 2.2, RFC 6840 5.11)",
				dns.Type(set.Type), algorithmName(a))
		}
	}
}

// judge verifies a signature, and reports whether it counts as one of its algorithm: it does not if there is no key for it.
func (v *verifier) judge(o *owner, set *zone.RRset, sig *rrsig) bool {
	typ := dns.Type(set.Type)
	wrong := func(rule, format string, args ...any) {
		v.r.fault(o.name, rule, "the signature of %s by key %d: "+format, append([]any{typ, sig.tag}, args...)...)
	}
	if !bytes.Equal(zone.Canonical(dns.TypeNS, sig.signer), v.d.origin) {
		wrong("rrsig-signer", "the signer is %s, not the zone (RFC 4035 2.2)", zone.NameString(sig.signer))
		return true
	}
	keys := v.d.keys[keyID{sig.tag, sig.algorithm}]
	if len(keys) == 0 {
		v.r.warn(o.name, "rrsig-without-key", "a signature of %s by key %d of algorithm %s, which is not among the DNSKEY records", typ, sig.tag, algorithmName(sig.algorithm))
		return false
	}
	v.judgeFields(o, set, sig, wrong)
	if !v.verifies(o, set, sig, keys) {
		wrong("rrsig-bogus", "%s does not verify it", published(keys))
	}
	return true
}

func published(keys []*key) string {
	if len(keys) == 1 {
		return "the one published key of that tag"
	}
	return fmt.Sprintf("none of the %d published keys of that tag", len(keys))
}

// judgeFields checks what a signature says of itself.
func (v *verifier) judgeFields(o *owner, set *zone.RRset, sig *rrsig, wrong func(rule, format string, args ...any)) {
	want := countLabels(o.name)
	if o.name[0] == 1 && o.name[1] == '*' {
		want-- // RFC 4034 3.1.3
	}
	if int(sig.labels) != want {
		wrong("rrsig-labels", "it says %d labels and the owner has %d (RFC 4034 3.1.3)", sig.labels, want)
	}
	if sig.ttl != set.TTL {
		wrong("rrsig-original-ttl", "it says TTL %d and the records have %d (RFC 4035 2.2)", sig.ttl, set.TTL)
	}
	// Times are compared by serial number arithmetic (RFC 4034 3.1.5).
	if early := int32(sig.inception - v.d.now); early > 0 {
		wrong("rrsig-inception", "it is not valid before %s", instant(sig.inception))
	}
	switch left := time.Duration(int32(sig.expiration-v.d.now)) * time.Second; {
	case left < 0:
		wrong("rrsig-expired", "it ended at %s", instant(sig.expiration))
	case left < v.d.least:
		wrong("rrsig-ends", "it ends at %s, and a node may answer for %v, with a margin of %v", instant(sig.expiration), v.d.lease, v.d.least-v.d.lease)
	}
}

func instant(t uint32) string { return time.Unix(int64(t), 0).UTC().Format(time.RFC3339) }

// verifies tries every key of the tag. A key whose algorithm is not known here is taken on trust: newSigned said so.
func (v *verifier) verifies(o *owner, set *zone.RRset, sig *rrsig, keys []*key) bool {
	v.data = append(v.data[:0], sig.head[:18]...)
	v.data = append(v.data, v.d.origin...) // the signer in canonical form
	v.data = appendRecords(v.data, o.name, set.Type, sig.ttl, set.Data)
	for _, k := range keys {
		if k.flags&dns.REVOKE != 0 && set.Type != dns.TypeDNSKEY {
			continue // RFC 5011 2.1
		}
		if k.verify == nil || v.d.memo.verify(k, v.data, sig.signature) {
			return true
		}
	}
	return false
}

// checkAnchors demands that the DNSKEY RRset be signed by a key that an anchor stands for, for each algorithm of the
// anchors (RFC 4035 2.2).
func (d *signed) checkAnchors(apex *owner, anchors []dns.RR, r *report) {
	set := apex.get(dns.TypeDNSKEY)
	var order []uint8
	anchored := map[uint8]bool{}
	for _, a := range anchors {
		algorithm, matches := anchorOf(a, d.origin)
		if _, seen := anchored[algorithm]; !seen {
			order, anchored[algorithm] = append(order, algorithm), false
		}
		for rdata := range set.Sigs.All() {
			sig, ok := parseSig(rdata)
			if !ok || anchored[algorithm] {
				continue
			}
			for _, k := range d.keys[keyID{sig.tag, sig.algorithm}] {
				v := verifier{d: d}
				anchored[algorithm] = anchored[algorithm] || matches(k) && v.verifies(apex, set, &sig, []*key{k})
			}
		}
	}
	for _, a := range order {
		if !anchored[a] {
			r.fault(nil, "dnskey-anchor", "no key that a trust anchor of algorithm %s stands for signs the DNSKEY records: validators would refuse all of the zone (RFC 4035 2.2)", algorithmName(a))
		}
	}
}

// labels counts the labels of a zone's origin.
func labels(z *zone.Zone) int { return dns.CountLabel(z.Origin()) }

func countLabels(name []byte) int {
	count := 0
	for i := 0; name[i] != 0; i += 1 + int(name[i]) {
		count++
	}
	return count
}
