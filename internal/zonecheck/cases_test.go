package zonecheck

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/zone"
	"github.com/coredns-anycast/coredns-anycast/internal/zonefile"
)

// registry is a zone of a registry with so many delegations, every fifth of them secure.
func registry(serial, delegations int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "$ORIGIN example.\n$TTL 86400\n@ SOA ns1 hostmaster %d 7200 3600 1209600 3600\n@ NS ns1\n@ NS ns.outside.test.\nns1 A 192.0.2.53\n", serial)
	for i := range delegations {
		fmt.Fprintf(&b, "name%05d NS ns1.name%05d\nname%05d NS ns.outside.test.\nns1.name%05d A 192.0.2.%d\n", i, i, i, i, i%256)
		if i%5 == 0 {
			fmt.Fprintf(&b, "name%05d DS %d 13 2 0123456789ABCDEF0123456789ABCDEF0123456789ABCDEF0123456789ABCDEF\n", i, i)
		}
	}
	return b.String()
}

// stops fails unless a zone is refused, by this rule among others.
func stops(t *testing.T, what, rule string, found []zone.Finding) {
	t.Helper()
	if !slices.Contains(rulesOf(found, zone.Error), rule) {
		t.Errorf("%s is not stopped by %s: %v", what, rule, found)
	}
}

func against(t *testing.T, old, text string, p Policy) []zone.Finding {
	t.Helper()
	z, found := zonefile.Parse(strings.NewReader(text), zonefile.Options{})
	if z == nil {
		return found
	}
	return append(found, new(Memo).Check(parse(t, old), z, p, time.Now(), lease)...)
}

// TestDE2010 is the truncated zone of .de on 12 May 2010: a part of the names, under a header that looks right.
func TestDE2010(t *testing.T) {
	whole := registry(2010051201, 500)
	next := registry(2010051202, 500)
	truncated := next[:strings.Index(next, "name00140 NS")]
	if found := errorsOf(against(t, whole, next, DefaultPolicy())); len(found) > 0 {
		t.Error("the whole zone is stopped:", found)
	}
	stops(t, "the zone without its end", "change-removed", against(t, whole, truncated, DefaultPolicy()))
	stops(t, "the zone cut off within a line", "syntax", against(t, whole, truncated[:len(truncated)-4], DefaultPolicy()))

	signed := lines(t, parse(t, signLDNS(t, whole, nsec, "ECDSAP256SHA256")))
	cut := signed[:strings.Index(signed, "\nname00140.example.")+1]
	stops(t, "the zone with a digest", "zonemd-digest", new(Memo).Check(nil, zoneWithoutChain(t, cut), DefaultPolicy(), time.Now(), lease))
	stops(t, "the signed zone", "nsec-chain", against(t, whole, cut, DefaultPolicy()))
}

// zoneWithoutChain is a zone without its NSEC records, which internal/zone would find broken.
func zoneWithoutChain(t *testing.T, text string) *zone.Zone {
	t.Helper()
	var kept []string
	for line := range strings.Lines(text) {
		if f := strings.Fields(line); f[3] != "NSEC" && !(f[3] == "RRSIG" && f[4] == "NSEC") {
			kept = append(kept, line)
		}
	}
	return parse(t, strings.Join(kept, ""))
}

// TestDE2026 is the outage of .de on 5 May 2026: several keys with one tag, of which one was published, and signatures by
// the others.
func TestDE2026(t *testing.T) {
	text := signedZone(t, nsec3)
	a, b := sameTag(t)
	if got := errorRules(t, resigned(t, text, []testKey{a}, []testKey{a}), strict()); len(got) > 0 {
		t.Error("the published key's signatures:", got)
	}
	for _, by := range []testKey{a, b} {
		if got := errorRules(t, resigned(t, text, []testKey{a, b}, []testKey{by}), strict()); len(got) > 0 {
			t.Error("signatures by one of two published keys with one tag:", got)
		}
	}
	found := new(Memo).Check(nil, parse(t, resigned(t, text, []testKey{a}, []testKey{b})), strict(), time.Now(), lease)
	stops(t, "a zone signed by an unpublished key with the tag of the published one", "rrsig-bogus", found)

	// In part: a few RRsets were signed by a server that had the wrong key. One is enough.
	right, wrong := strings.Split(resigned(t, text, []testKey{a}, []testKey{a}), "\n"), strings.Split(resigned(t, text, []testKey{a}, []testKey{b}), "\n")
	for i, line := range wrong {
		if f := strings.Fields(line); len(f) > 4 && f[0] == "mail.example." && f[4] == "AAAA" {
			right[i] = line
		}
	}
	found = new(Memo).Check(nil, parse(t, strings.Join(right, "\n")), strict(), time.Now(), lease)
	if e := errorsOf(found); len(e) != 1 || !strings.Contains(e[0], "mail.example.: the signature of AAAA") {
		t.Errorf("one wrong signature: %v", e)
	}
}

// sameTag makes two keys with one tag, which one in 65,536 pairs has.
func sameTag(t *testing.T) (a, b testKey) {
	t.Helper()
	known := map[uint16]testKey{}
	for range 20_000 {
		k := newKey(t, dns.ED25519, 256, 257)
		if other, ok := known[k.KeyTag()]; ok {
			return other, k
		}
		known[k.KeyTag()] = k
	}
	t.Fatal("no two of 20,000 keys have one tag")
	return a, b
}

// TestSE2009 is the outage of .se on 12 October 2009: dots were missing at the end of names, all over the zone.
func TestSE2009(t *testing.T) {
	right := registry(2009101201, 300)
	wrong := strings.Replace(right, "2009101201", "2009101202", 1)
	wrong = strings.ReplaceAll(wrong, " NS ns1.name", " NS x.example NS ns1.name")
	var b strings.Builder
	for line := range strings.Lines(wrong) {
		f := strings.Fields(line)
		if len(f) == 5 && f[1] == "NS" && f[3] == "NS" {
			line = fmt.Sprintf("%s NS %s.example\n", f[0], f[4]) // the dot is missing
		}
		b.WriteString(line)
	}
	found := against(t, right, b.String(), DefaultPolicy())
	stops(t, "a zone whose names end in the origin twice", "trailing-dots", found)
	if !hasRule(found, "trailing-dot") {
		t.Error("and the names are not shown:", found)
	}
	if found := errorsOf(new(Memo).Check(nil, parse(t, right), DefaultPolicy(), time.Now(), lease)); len(found) > 0 {
		t.Error("the right zone is stopped:", found)
	}
	// A few such names are worth a warning, and no more.
	few := right + "www CNAME mail.example\nftp CNAME mail.example\n"
	found = new(Memo).Check(nil, parse(t, few), DefaultPolicy(), time.Now(), lease)
	if len(errorsOf(found)) > 0 || !hasRule(found, "trailing-dot") {
		t.Error("two names:", found)
	}
	// A label that only looks like the origin is none.
	odd := fmt.Sprintf(tiny, 1) + "a\\007example A 192.0.2.1\nb\\007example A 192.0.2.1\n"
	if found := errorsOf(new(Memo).Check(nil, parse(t, odd), DefaultPolicy(), time.Now(), lease)); len(found) > 0 {
		t.Error("labels with the octets of the origin:", found)
	}
}

// TestAZoneThatLost30Percent of its names is stopped, and one that lost 5 % is not.
func TestAZoneThatLost30Percent(t *testing.T) {
	whole := registry(1, 1000)
	lost := func(every int) string {
		var b strings.Builder
		for line := range strings.Lines(strings.Replace(whole, "hostmaster 1 ", "hostmaster 2 ", 1)) {
			var n int
			at := strings.Index(line, "name")
			if at >= 0 {
				if _, err := fmt.Sscanf(line[at:], "name%05d", &n); err == nil && n%100 < every {
					continue
				}
			}
			b.WriteString(line)
		}
		return b.String()
	}
	stops(t, "a zone that lost 30 % of its names", "change-removed", against(t, whole, lost(30), DefaultPolicy()))
	if found := errorsOf(against(t, whole, lost(5), DefaultPolicy())); len(found) > 0 {
		t.Error("5 %:", found)
	}
	p := DefaultPolicy()
	p.Removed.Most = 10
	stops(t, "5 % of a policy of 10 names", "change-removed", against(t, whole, lost(5), p))
}

// TestComNet1997 is the corrupt zone of .com and .net of 17 July 1997, which was released although the checks had raised
// alarms: delegations lost part of their data. That it takes a second key to release it all the same is tested with the
// command (cmd/meshctl).
func TestComNet1997(t *testing.T) {
	whole := registry(1997071600, 400)
	var b strings.Builder
	for line := range strings.Lines(strings.Replace(whole, "1997071600", "1997071700", 1)) {
		if f := strings.Fields(line); len(f) == 3 && f[1] == "NS" && f[2] == "ns.outside.test." && f[0] != "@" {
			continue
		}
		b.WriteString(line)
	}
	stops(t, "a zone whose delegations all lost a server", "change-changed", against(t, whole, b.String(), DefaultPolicy()))
}
