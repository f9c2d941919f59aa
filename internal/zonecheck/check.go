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
//	checks-differ a fault of this package
//	zone-withdrawn more zones go than the policy allows
//	servers-…     outside (ROUTE-4), one-mesh (ROUTE-5)
//	ttl-…, soa-…, ns-count, trailing-dots, trailing-dot
//	record-too-large, rrset-too-large
//
// Rules has them all, and those of internal/zone and internal/zonefile that say nothing against serving a zone: each is an error, a
// warning or nothing, as the policy says.
package zonecheck

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/zone"
)

// whole checks all of a zone.
func whole(memo *Memo, old, z *zone.Zone, p Policy, now time.Time, lease time.Duration) *judged {
	j := &judged{zone: z, policy: p, now: now, whole: now, lease: lease, warns: memo.warns}
	j.check(memo, old, func(r, sense *report) { j.checkContent(memo, old, r, sense) })
	return j
}

// check makes all findings: those of the digest and of what changed, and what content finds.
func (j *judged) check(memo *Memo, old *zone.Zone, content func(r, sense *report)) {
	digest, change := newReport(j.zone), newReport(j.zone)
	var others sync.WaitGroup
	others.Go(func() { checkDigest(old, j.zone, j.policy.ZONEMD, digest) })
	others.Go(func() { checkChange(old, j.zone, j.policy, change) })
	found, sense := newReport(j.zone), newReport(j.zone)
	content(found, sense)
	others.Wait()
	digest.list, change.list = placed(digest.list, inDigest), placed(change.list, inChange)
	for _, r := range []*report{digest, change, sense} {
		found.take(r)
	}
	found.order()
	j.found = found
}

// Findings come in the order of these sections, and within one in order of their keys, which are those of owners, or hashes.
const (
	inDigest = iota
	inKeys
	inOwners
	inNext // of links of the chain of NSEC records: found with the next one
	inLinks
	inChains // four for each chain: duplicates, links, names, links of no name
	inChange = inChains + 4*maxChains + iota
	inSense
	inAll
	inHosts
)

// place is where a finding belongs.
type place struct {
	section int
	key     string
}

// spot is a place that costs nothing to make.
type spot struct {
	section int
	key     []byte
}

func (s spot) place() place { return place{s.section, string(s.key)} }

func (p place) compare(other place) int {
	return cmp.Or(cmp.Compare(p.section, other.section), strings.Compare(p.key, other.key))
}

// entry is a finding and its place. The name is the owner in wire format, nil if it is about the zone.
type entry struct {
	place
	name []byte
	zone.Finding
}

func placed(list []entry, section int) []entry {
	for i := range list {
		list[i].place = place{section: section}
	}
	return list
}

// maxPerRule bounds the findings of one rule that are reported for a zone, and maxKept those that are remembered.
const maxPerRule, maxKept = 10, 1000

// report collects findings about a zone. What is beyond maxKept of a rule is counted only, errors apart from warnings: behind many of
// these there may be one of those.
type report struct {
	origin string
	at     spot // of what is found next
	list   []entry
	counts map[sort]int
}

// sort is what findings are counted by.
type sort struct {
	rule     string
	severity zone.Severity
}

func (e *entry) sort() sort { return sort{e.Rule, e.Severity} }

func newReport(z *zone.Zone) *report {
	return &report{origin: z.Origin(), counts: map[sort]int{}}
}

// fault and warn report about an owner in wire format, or about the zone as a whole if that is nil.
func (r *report) fault(owner []byte, rule, format string, args ...any) {
	r.add(zone.Error, owner, rule, format, args...)
}

func (r *report) warn(owner []byte, rule, format string, args ...any) {
	r.add(zone.Warning, owner, rule, format, args...)
}

func (r *report) add(severity zone.Severity, owner []byte, rule, format string, args ...any) {
	if s := (sort{rule, severity}); r.counts[s] >= maxKept {
		r.counts[s]++
		return
	}
	f := zone.Finding{Zone: r.origin, Owner: r.origin, Rule: rule, Severity: severity, Detail: fmt.Sprintf(format, args...)}
	if owner != nil {
		f.Owner = zone.NameString(owner)
	}
	r.put(entry{r.at.place(), owner, f})
}

func (r *report) put(e entry) {
	if r.counts[e.sort()] < maxKept {
		r.list = append(r.list, e)
	}
	r.counts[e.sort()]++
}

// take adds the findings of a part of the work.
func (r *report) take(part *report) {
	for _, e := range part.list {
		r.put(e)
	}
	for s, count := range part.counts {
		r.counts[s] += max(0, count-maxKept)
	}
}

// order puts the findings in order. Those of one place stay in that in which they were found.
func (r *report) order() {
	slices.SortStableFunc(r.list, func(x, y entry) int { return x.compare(y.place) })
}

// dropped reports whether there were findings that are counted only.
func (r *report) dropped() bool {
	for _, count := range r.counts {
		if count > maxKept {
			return true
		}
	}
	return false
}

// all is what was reported: of a rule at most maxPerRule errors and as many warnings, and then how much more there is.
func (r *report) all() []zone.Finding {
	var list, rest []zone.Finding
	said := map[sort]int{}
	for _, e := range r.list {
		if said[e.sort()]++; said[e.sort()] <= maxPerRule {
			list = append(list, e.Finding)
		} else if said[e.sort()] == maxPerRule+1 {
			rest = append(rest, zone.Finding{Zone: e.Zone, Rule: e.Rule, Severity: e.Severity, Detail: fmt.Sprintf("and %d more", r.counts[e.sort()]-maxPerRule)})
		}
	}
	return append(list, rest...)
}
