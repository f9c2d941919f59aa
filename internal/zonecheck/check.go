// Package zonecheck judges a zone that is about to be distributed, by itself and against the one that it replaces
// (SYNC-B, ROUTE-4, ROUTE-5): its digest (ZONEMD), its signatures and denial of existence (DNSSEC), its serial, how much
// of it changed, where its servers are, and whether its numbers and names make sense.
//
// What makes a zone unfit to be served at all is internal/zone's business, and found before. This package has no I/O and
// no clock; it works on wire data, on all processors. cmd/meshctl calls it, for "meshctl check" and before every release.
//
// A Finding's rule is stable: to search for, to count, to be named in an override. The rules:
//
//	zonemd-…      RFC 8976: missing, serial, digest, duplicate, unsupported, gone
//	dnssec-…      missing, gone: a zone that must be signed is not
//	dnskey…       RFC 4034 2: missing, malformed, unsupported, deprecated, not anchored, too many of the same tag
//	rrsig-…       RFC 4035 2.2: missing, bogus, expired, ends, inception, labels, signer, original-ttl, excess, without-key
//	nsec-…        RFC 4035 2.3: missing, excess, next, types
//	nsec3-…       RFC 5155 7.1: missing, excess, duplicate, next, types, flags, without-param, too many chains
//	denial-missing
//	ds-digest     RFC 4034 5.1.4: not as long as its type has it
//	serial        RFC 1982: what changed needs a higher one
//	change-…      removed, added, changed: more names than the policy allows
//	zone-withdrawn more zones go than the policy allows
//	servers-…     outside (ROUTE-4), one-mesh (ROUTE-5)
//	ttl-…, soa-…, ns-count, trailing-dots, trailing-dot
//	record-too-large, rrset-too-large
//
// Rules has them all, and those of internal/zone and internal/zonefile that say nothing against serving a zone: each is an error, a
// warning or nothing, as the policy says.
package zonecheck

import (
	"fmt"
	"sync"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/zone"
)

func check(memo *Memo, old, z *zone.Zone, p Policy, now time.Time, lease time.Duration) []zone.Finding {
	digest, change := newReport(z), newReport(z)
	var others sync.WaitGroup
	others.Go(func() { checkDigest(old, z, p.ZONEMD, digest) })
	others.Go(func() { checkChange(old, z, p, change) })

	content, sense := newReport(z), newReport(z)
	checkContent(memo, old, z, p, now, lease, content, sense)
	others.Wait()

	var found []zone.Finding
	for _, r := range []*report{digest, content, change, sense} {
		found = append(found, r.all()...)
	}
	return p.Apply(found)
}

// maxPerRule bounds the findings of one rule that are reported for a zone.
const maxPerRule = 10

// report collects findings about a zone. What is beyond maxPerRule of a rule is counted only.
type report struct {
	origin string
	list   []zone.Finding
	counts map[string]int
}

func newReport(z *zone.Zone) *report {
	return &report{origin: z.Origin(), counts: map[string]int{}}
}

// fault and warn report about an owner in wire format, or about the zone as a whole if that is nil.
func (r *report) fault(owner []byte, rule, format string, args ...any) {
	r.add(zone.Error, owner, rule, format, args...)
}

func (r *report) warn(owner []byte, rule, format string, args ...any) {
	r.add(zone.Warning, owner, rule, format, args...)
}

func (r *report) add(severity zone.Severity, owner []byte, rule, format string, args ...any) {
	f := zone.Finding{Zone: r.origin, Owner: r.origin, Rule: rule, Severity: severity}
	if r.full(rule) {
		r.put(f)
		return
	}
	f.Detail = fmt.Sprintf(format, args...)
	if owner != nil {
		f.Owner = zone.NameString(owner)
	}
	r.put(f)
}

// full reports whether findings of a rule are only counted from here on.
func (r *report) full(rule string) bool { return r.counts[rule] >= maxPerRule }

func (r *report) put(f zone.Finding) {
	if !r.full(f.Rule) {
		r.list = append(r.list, f)
	}
	r.counts[f.Rule]++
}

// take adds the findings of a part of the work.
func (r *report) take(part *report) {
	for _, f := range part.list {
		r.put(f)
	}
	for rule, count := range part.counts {
		r.counts[rule] += max(0, count-maxPerRule)
	}
}

// all is what was reported, and for each rule beyond maxPerRule how much more there is.
func (r *report) all() []zone.Finding {
	list := r.list
	said := map[string]bool{}
	for _, f := range r.list {
		if more := r.counts[f.Rule] - maxPerRule; more > 0 && !said[f.Rule] {
			said[f.Rule] = true
			list = append(list, zone.Finding{Zone: f.Zone, Rule: f.Rule, Severity: f.Severity, Detail: fmt.Sprintf("and %d more", more)})
		}
	}
	return list
}
