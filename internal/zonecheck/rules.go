package zonecheck

import (
	"fmt"
	"slices"

	"github.com/coredns-anycast/coredns-anycast/internal/zone"
)

// Rule is a rule of judgement: an operator may have it reported as an error, as a warning, or not at all. Those that are not
// among Rules say that a zone cannot be served.
type Rule struct {
	Name    string `json:"name"`    // as in findings
	Default string `json:"default"` // "error", "warning", or "error or warning" by how bad it is
	Says    string `json:"says"`    // in a few words, with the source
}

const (
	isError   = "error"
	isWarning = "warning"
	isEither  = "error or warning"
)

// Rules are all rules of judgement, by name. What is an error by default is surely wrong, or what the policy's other keys forbid.
var Rules = []Rule{
	{"change-added", isError, "more names came than the policy allows"},
	{"change-changed", isError, "more names changed than the policy allows"},
	{"change-removed", isError, "more names went than the policy allows"},
	{"checks-differ", isWarning, "the daily check of all of a large zone found something else than those of what changed"},
	{"denial-missing", isError, "a signed zone without NSEC or NSEC3PARAM (RFC 4035 2.3)"},
	{"dnskey-anchor", isError, "no key that a trust anchor stands for signs the keys (RFC 4035 2.2)"},
	{"dnskey-deprecated", isWarning, "an algorithm that must not sign any more (RFC 8624 3.1)"},
	{"dnskey-malformed", isError, "a key that cannot be read"},
	{"dnskey-missing", isError, "signatures and no key"},
	{"dnskey-same-tag", isError, "so many keys of one tag that validators give up (CVE-2023-50387)"},
	{"dnskey-unsupported", isEither, "an algorithm that cannot be verified here"},
	{"dnssec-gone", isError, "the zone was signed before, and is not any more"},
	{"dnssec-missing", isError, "the policy wants a signed zone"},
	{"ds-digest", isError, "a digest that is not as long as its type has it (RFC 4034 5.1.4)"},
	{"missing-glue", isWarning, "no address of a server without which the delegation cannot be followed (RFC 9471)"},
	{"mx-at-cname", isWarning, "an exchange that is an alias (RFC 2181 10.3)"},
	{"no-final-newline", isWarning, "a file whose last line does not end in a newline"},
	{"no-ttl", isWarning, "a record without TTL where no $TTL was (RFC 2308 4)"},
	{"ns-at-cname", isError, "a server that is an alias (RFC 2181 10.3)"},
	{"ns-count", isWarning, "one server only (RFC 1034 4.1)"},
	{"ns-without-address", isEither, "a server in the zone that has no address; an error if the NS record is the apex's"},
	{"nsec-excess", isError, "an NSEC record at a name that is not in the chain (RFC 4035 2.3)"},
	{"nsec-missing", isError, "a name without NSEC record (RFC 4035 2.3)"},
	{"nsec-next", isError, "an NSEC record that skips names (RFC 4034 4.1.1)"},
	{"nsec-types", isError, "an NSEC record with other types than there are (RFC 4034 4.1.2)"},
	{"nsec3-chains", isError, "more chains than are looked at"},
	{"nsec3-duplicate", isError, "two NSEC3 records of a name in one chain (RFC 5155 7.1)"},
	{"nsec3-excess", isError, "an NSEC3 record for no name of the zone (RFC 5155 7.1)"},
	{"nsec3-flags", isError, "NSEC3 flags that are not known (RFC 5155 3.1.2)"},
	{"nsec3-iterations", isWarning, "iterations above 0 (RFC 9276 3.1)"},
	{"nsec3-missing", isError, "a name without NSEC3 record (RFC 5155 7.1)"},
	{"nsec3-next", isError, "an NSEC3 record that skips others (RFC 5155 3.1.7)"},
	{"nsec3-types", isError, "an NSEC3 record with other types than there are (RFC 5155 3.2.1)"},
	{"nsec3-without-param", isWarning, "NSEC3 records of parameters that no NSEC3PARAM has (RFC 5155 4)"},
	{"origin-from-name", isWarning, "the origin was taken from the name of the file"},
	{"record-too-large", isError, "a record that no message can carry (RFC 1035 4.2.2)"},
	{"rrset-too-large", isWarning, "an RRset that no message can carry, so that no query for it is answered (RFC 1035 4.2.2)"},
	{"rrsig-bogus", isError, "a signature that its key does not verify"},
	{"rrsig-covers-nothing", isWarning, "a signature of a type that the owner does not have"},
	{"rrsig-ends", isError, "a signature that ends before a lease and the margin have passed"},
	{"rrsig-excess", isError, "a signature of what is not the zone's own (RFC 4035 2.2)"},
	{"rrsig-expired", isError, "a signature that has ended"},
	{"rrsig-inception", isError, "a signature that is not valid yet"},
	{"rrsig-labels", isError, "a signature for another number of labels (RFC 4034 3.1.3)"},
	{"rrsig-missing", isError, "an RRset that lacks a signature of one of the algorithms (RFC 4035 2.2)"},
	{"rrsig-original-ttl", isError, "a signature for another TTL (RFC 4035 2.2)"},
	{"rrsig-signer", isError, "a signature by another zone (RFC 4035 2.2)"},
	{"rrsig-without-key", isWarning, "a signature by a key that is not published"},
	{"serial", isError, "another content without a higher serial (RFC 1982)"},
	{"servers-one-mesh", isError, "all servers are in one mesh (ROUTE-5, RFC 3258 2.5)"},
	{"servers-outside", isError, "no server is outside of all meshes (ROUTE-4, RFC 3258 2.5)"},
	{"soa-expire", isWarning, "an expire that is short, or not above refresh (RFC 1912 2.2)"},
	{"soa-minimum", isWarning, "negative answers are remembered for more than a day (RFC 2308 5)"},
	{"soa-refresh", isWarning, "an unusual refresh (RFC 1912 2.2)"},
	{"soa-retry", isWarning, "a retry above refresh (RFC 1912 2.2)"},
	{"trailing-dot", isWarning, "a name in RDATA that ends in the origin twice, and does not exist"},
	{"trailing-dots", isEither, "names that end in the origin twice; an error if they are many, and a tenth of all"},
	{"ttl-high", isEither, "a TTL above that of the policy, or of a week (RFC 1912 2.2)"},
	{"ttl-low", isEither, "a TTL below that of the policy, or 0"},
	{"ttls-differ", isWarning, "several TTLs in one RRset (RFC 2181 5.2)"},
	{"wildcard-dname", isWarning, "a DNAME at a wildcard (RFC 6672 3.3)"},
	{"zone-withdrawn", isError, "more zones go than the policy allows"},
	{"zonemd-digest", isError, "the zone is not as its ZONEMD record has it (RFC 8976 4)"},
	{"zonemd-duplicate", isError, "several ZONEMD records of one kind (RFC 8976 2.2)"},
	{"zonemd-gone", isWarning, "the zone had a ZONEMD record before"},
	{"zonemd-missing", isError, "the policy wants a ZONEMD record"},
	{"zonemd-serial", isError, "a ZONEMD record for another serial (RFC 8976 4)"},
	{"zonemd-unsupported", isWarning, "a ZONEMD record that cannot be verified here"},
}

// IsRule reports whether a name is that of a rule of judgement.
func IsRule(name string) bool {
	return slices.ContainsFunc(Rules, func(r Rule) bool { return r.Name == name })
}

// SetRule has a rule reported so.
func (p *Policy) SetRule(name string, level Level) {
	if p.Rules == nil {
		p.Rules = map[string]Level{}
	}
	p.Rules[name] = level
}

// raised are the rules that internal/zone finds as warnings, since the zone can be served, and that are errors by default, or are so
// at the apex: BIND refuses such zones as a primary.
var raised = map[string]string{"ns-at-cname": isError, "ns-without-address": isEither}

// isRaised reports whether a finding is an error by default though internal/zone warns.
func isRaised(f zone.Finding) bool {
	return raised[f.Rule] == isError || raised[f.Rule] == isEither && f.Owner == f.Zone
}

// Apply reports findings as the policy has their rules: with another severity, or not at all.
func (p *Policy) Apply(found []zone.Finding) []zone.Finding {
	kept := make([]zone.Finding, 0, len(found))
	for _, f := range found {
		switch level, said := p.Rules[f.Rule]; {
		case !said && isRaised(f):
			f.Severity = zone.Error
		case !said:
		case level == Off:
			continue
		case level == Warn:
			f.Severity = zone.Warning
		default:
			f.Severity = zone.Error
		}
		if said := p.setBy(f.Rule); f.Severity == zone.Error && said != "" {
			f.Detail += said
		}
		kept = append(kept, f)
	}
	return kept
}

// keyOf are the keys of a policy that say when a rule is broken, where that is another than "rules".
var keyOf = map[string]string{
	"change-added": "added", "change-changed": "changed", "change-removed": "removed", WithdrawnRule: "withdrawn",
	"ttl-high": "ttl", "ttl-low": "ttl", "zonemd-missing": "zonemd", "dnssec-missing": "dnssec", "dnskey-anchor": "trust_anchors",
	"rrsig-ends": "signature_margin", "servers-outside": "server_outside", "servers-one-mesh": "several_meshes", "command": "command",
}

// setBy says what to change, and where, so that a rule is not broken any more; "" for a rule that cannot be set.
func (p *Policy) setBy(rule string) string {
	key := keyOf[rule]
	switch {
	case p.File == "" || key == "" && !IsRule(rule):
		return ""
	case key == "":
		key = "rules: " + rule
	}
	if p.NoFile {
		return fmt.Sprintf(" (a default; %q in %s, which is not there, would change it)", p.within+": "+key, p.File)
	}
	return fmt.Sprintf(" (set by %q in %s)", p.within+": "+key, p.File)
}

// SignaturesCount reports whether a signature that has ended keeps the zone back. Otherwise no lease needs to end before it.
func (p *Policy) SignaturesCount() bool {
	level, said := p.Rules["rrsig-expired"]
	return p.DNSSEC != Ignore && (!said || level == Fault)
}
