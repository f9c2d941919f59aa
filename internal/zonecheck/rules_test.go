package zonecheck

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/zone"
)

// edit changes the lines of a canonical zone text: nil removes one.
func edit(text string, how func(f []string) []string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if changed := how(slices.Clone(f)); changed != nil {
			b.WriteString(strings.Join(changed, " ") + "\n")
		}
	}
	return b.String()
}

// chained is a zone re-signed after its text was edited, so that only what was edited is wrong.
func chained(t *testing.T, flavour string, how func(f []string) []string) string {
	t.Helper()
	k := newKey(t, dns.ED25519, 256, 257)
	return resigned(t, edit(signedZone(t, flavour), how), []testKey{k}, []testKey{k})
}

// TestDenialRules: what is wrong with a chain is found although all signatures are right and internal/zone takes it.
func TestDenialRules(t *testing.T) {
	for _, c := range []struct {
		name, flavour string
		how           func(f []string) []string
		want          []string
	}{
		{"nothing", nsec, func(f []string) []string { return f }, nil},
		{"nothing", nsec3, func(f []string) []string { return f }, nil},
		{"nothing", nsec3OptOut, func(f []string) []string { return f }, nil},
		{"a type too few", nsec, func(f []string) []string {
			if f[0] == "mail.example." && f[3] == "NSEC" {
				return slices.DeleteFunc(f, func(w string) bool { return w == "AAAA" })
			}
			return f
		}, []string{"nsec-types"}},
		{"a type too many", nsec3, func(f []string) []string {
			if f[3] == "NSEC3" && slices.Contains(f, "AAAA") {
				return append(f, "TYPE65500")
			}
			return f
		}, []string{"nsec3-types"}},
		{"glue in the bitmap", nsec, func(f []string) []string {
			if f[0] == "insecure.example." && f[3] == "NSEC" {
				return slices.Insert(f, 5, "A")
			}
			return f
		}, []string{"nsec-types"}},
		{"opt-out flag lost", nsec3OptOut, func(f []string) []string {
			if f[3] == "NSEC3" {
				f[5] = "0"
			}
			return f
		}, []string{"nsec3-missing"}},
		{"unknown flag", nsec3, func(f []string) []string {
			if f[3] == "NSEC3" && slices.Contains(f, "SOA") {
				f[5] = "2"
			}
			return f
		}, []string{"nsec3-flags"}},
		{"a name without a record", nsec3, func(f []string) []string {
			if f[0] == "txt.example." {
				f[0] = "txt2.example."
			}
			return f
		}, []string{"nsec3-excess", "nsec3-missing"}},
		{"neither kind", nsec, func(f []string) []string {
			if f[3] == "NSEC" || f[3] == "RRSIG" && f[4] == "NSEC" {
				return nil
			}
			return f
		}, []string{"denial-missing"}},
	} {
		if got := errorRules(t, chained(t, c.flavour, c.how), strict()); !slices.Equal(got, c.want) {
			t.Errorf("%s, %s: %q, want %q", c.flavour, c.name, got, c.want)
		}
	}
}

// TestANameHasOneRecordOfAChain: two of them are found whatever they say, although the signatures are right, as dnssec-verify
// finds them. Several NSEC records internal/zone does not take.
func TestANameHasOneRecordOfAChain(t *testing.T) {
	k := newKey(t, dns.ECDSAP256SHA256, 256, 257)
	for _, c := range []struct {
		flavour, typ, want string
		more               func(f []string) []string
	}{
		{nsec3, "NSEC3", "nsec3-duplicate", func(f []string) []string { return append(f, "TYPE65500") }},
		{nsec3, "NSEC3", "nsec3-duplicate", func(f []string) []string { f[5] = "1"; return f }},
		{nsec3, "NSEC3", "nsec3-duplicate", func(f []string) []string { return f[:len(f)-1] }},
		{nsec3OptOut, "NSEC3", "nsec3-duplicate", func(f []string) []string { return append(f, "TYPE65500") }},
		{nsec, "NSEC", "several-nsec", func(f []string) []string { return append(f, "TYPE65500") }},
		{nsec, "NSEC", "several-nsec", func(f []string) []string { f[4] = "a." + f[4]; return f }},
	} {
		text := doubled(t, resigned(t, signedZone(t, c.flavour), []testKey{k}, []testKey{k}), c.typ, k, c.more)
		found := ours(text)
		if !slices.Contains(rulesOf(found, zone.Error), c.want) {
			t.Errorf("%s: %v, want %s", c.flavour, found, c.want)
		}
		if said := refusals(t, text); said["dnssec-verify"] == "" {
			t.Errorf("%s: dnssec-verify takes it:\n%s", c.flavour, text)
		}
	}
}

// doubled adds to the first record of a type one that is made of it, and signs them together.
func doubled(t *testing.T, text, typ string, k testKey, more func(f []string) []string) string {
	t.Helper()
	var line string
	for l := range strings.Lines(text) {
		if line == "" && strings.Fields(l)[3] == typ {
			line = l
		}
	}
	set := []dns.RR{rrOf(t, line), rrOf(t, strings.Join(more(strings.Fields(line)), " "))}
	sig := &dns.RRSIG{Hdr: dns.RR_Header{Ttl: set[0].Header().Ttl}, Algorithm: k.Algorithm, KeyTag: k.KeyTag(), SignerName: "example.",
		Inception: uint32(time.Now().Add(-time.Hour).Unix()), Expiration: uint32(time.Now().Add(30 * 24 * time.Hour).Unix())}
	if err := sig.Sign(k.private, set); err != nil {
		t.Fatal(err)
	}
	return edit(text, func(f []string) []string {
		if f[0] == set[0].Header().Name && f[3] == "RRSIG" && f[4] == typ {
			return nil
		}
		return f
	}) + set[1].String() + "\n" + sig.String() + "\n"
}

func rrOf(t *testing.T, line string) dns.RR {
	t.Helper()
	rr, err := dns.NewRR(line)
	if err != nil {
		t.Fatal(err)
	}
	return rr
}

// TestDigestsAreAsLongAsTheirTypeHasThem, signed or not. What is refused here, BIND does not load.
func TestDigestsAreAsLongAsTheirTypeHasThem(t *testing.T) {
	k := newKey(t, dns.ED25519, 256, 257)
	base := signedZone(t, nsec)
	for _, c := range []struct {
		typ, octets int
		bad         bool
	}{
		{1, 20, false}, {1, 19, true}, {1, 21, true}, {1, 32, true}, {1, 1, true}, {2, 32, false}, {2, 20, true}, {2, 33, true},
		{4, 48, false}, {4, 32, true}, {4, 49, true}, {9, 8, false},
	} {
		text := resigned(t, edit(base, func(f []string) []string {
			if f[0] == "secure.example." && f[3] == "DS" {
				return append(f[:4], "1", "13", fmt.Sprint(c.typ), strings.Repeat("ab", c.octets))
			}
			return f
		}), []testKey{k}, []testKey{k})
		var want []string
		if c.bad {
			want = []string{"ds-digest"}
		}
		if got := errorRules(t, text, strict()); !slices.Equal(got, want) {
			t.Errorf("type %d, %d octets: %q, want %q", c.typ, c.octets, got, want)
		}
		if said := refusals(t, text)["dnssec-verify"]; (said != "") != c.bad {
			t.Errorf("type %d, %d octets: dnssec-verify says %q", c.typ, c.octets, said)
		}
	}
	found := new(Memo).Check(nil, parse(t, hosts(3)+"sub.example. 300 IN NS ns.test.\nsub.example. 300 IN DS 1 13 2 abcd\n"), DefaultPolicy(), time.Now(), lease)
	i := slices.IndexFunc(found, func(f zone.Finding) bool { return f.Rule == "ds-digest" })
	if i < 0 || found[i].Severity != zone.Error || found[i].Zone != "example." || found[i].Owner != "sub.example." {
		t.Errorf("unsigned: %v", found)
	}
}

// TestNamesThatOptOutMayLeaveOut: an insecure delegation and what exists for such ones only need no NSEC3 record in an
// opt-out span; what exists for a secure delegation does (RFC 5155 7.1).
func TestNamesThatOptOutMayLeaveOut(t *testing.T) {
	k := newKey(t, dns.ED25519, 256, 257)
	base := signedZone(t, nsec3OptOut)
	for name, want := range map[string][]string{
		"example.":            nil,
		"insecure.example.":   nil, // not there, or not needed
		"ent.example.":        nil,
		"ent2.example.":       {"nsec3-missing"}, // an empty non-terminal above a secure delegation
		"c.empty.example.":    {"nsec3-missing"},
		"secure.example.":     {"nsec3-missing"},
		"mail.example.":       {"nsec3-missing"},
		"mixed.ent2.example.": nil,
	} {
		text := base
		if name != "example." {
			text = withoutLink(base, name)
		}
		if got := errorRules(t, resigned(t, text, []testKey{k}, []testKey{k}), strict()); !slices.Equal(got, want) {
			t.Errorf("without %s: %q, want %q", name, got, want)
		}
	}
}

// TestOptOutLeavesOutNothingAboveALink: an empty non-terminal needs an NSEC3 record, also in an opt-out span, once one of the insecure
// delegations below it has one (RFC 5155 7.1).
func TestOptOutLeavesOutNothingAboveALink(t *testing.T) {
	k := newKey(t, dns.ED25519, 256, 257)
	const delegation, ent, above = "only.insecure.ent.example.", "insecure.ent.example.", "ent.example."
	bare := signedZone(t, nsec3OptOut)
	for _, name := range []string{delegation, ent, above} {
		bare = withoutLink(bare, name)
	}
	for _, c := range []struct {
		linked, want []string
	}{
		{nil, nil},
		{[]string{above}, nil},
		{[]string{delegation}, []string{"nsec3-missing"}},
		{[]string{delegation, above}, []string{"nsec3-missing"}},
		{[]string{delegation, ent, above}, nil},
	} {
		text := bare
		for _, name := range c.linked {
			types := ""
			if name == delegation {
				types = " NS"
			}
			text = withLink(text, name, types)
		}
		if got := errorRules(t, resigned(t, text, []testKey{k}, []testKey{k}), strict()); !slices.Equal(got, c.want) {
			t.Errorf("with records of %q: %q, want %q", c.linked, got, c.want)
		}
	}
}

// withLink puts a name into the NSEC3 chain.
func withLink(text, name, types string) string {
	hash := dns.HashName(name, dns.SHA1, 1, "cafe")
	before, after := "", ""
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 9 || f[3] != "NSEC3" {
			continue
		}
		owner := strings.ToUpper(strings.TrimSuffix(f[0], ".example."))
		if owner < hash && owner > before {
			before, after = owner, f[8]
		}
	}
	text = edit(text, func(f []string) []string {
		if len(f) > 8 && f[3] == "NSEC3" && strings.EqualFold(f[0], before+".example.") {
			f[8] = hash
		}
		return f
	})
	link := hash + ".example. 3600 IN NSEC3 1 1 1 CAFE " + after + types + "\n"
	return text + link + hash + ".example. 3600 IN RRSIG NSEC3 13 2 3600 20330518033320 20231114221320 1 example. AA==\n"
}

// withoutLink takes a name out of the NSEC3 chain, which stays whole.
func withoutLink(text, name string) string {
	hash := strings.ToLower(dns.HashName(name, dns.SHA1, 1, "cafe"))
	link := lineOf(text, hash+".example.", "NSEC3", "1")
	if link == "" {
		return text
	}
	after := strings.Fields(link)[8]
	return edit(text, func(f []string) []string {
		switch {
		case f[0] == hash+".example.":
			return nil
		case f[3] == "NSEC3" && strings.EqualFold(f[8], hash):
			f[8] = after
		}
		return f
	})
}

// TestSignatureRules changes a zone that is signed by one key.
func TestSignatureRules(t *testing.T) {
	k, other := newKey(t, dns.ED25519, 256, 257), newKey(t, dns.ECDSAP256SHA256, 256, 256)
	revoked := newKey(t, dns.ED25519, 256, 257|dns.REVOKE)
	notZone := newKey(t, dns.ED25519, 256, 0)
	base := signedZone(t, nsec)
	good := resigned(t, base, []testKey{k}, []testKey{k})
	sigOf := func(name, typ string, change func(f []string)) string {
		return edit(good, func(f []string) []string {
			if f[0] == name && f[3] == "RRSIG" && f[4] == typ {
				change(f)
			}
			return f
		})
	}
	hour := time.Hour
	now := time.Now()
	for _, c := range []struct {
		name, text string
		want       []string
	}{
		{"fine", good, nil},
		{"none", edit(good, func(f []string) []string {
			if f[0] == "mail.example." && f[3] == "RRSIG" && f[4] == "A" {
				return nil
			}
			return f
		}), []string{"rrsig-missing"}},
		{"a second algorithm's are missing", resigned(t, base, []testKey{k, other}, []testKey{k}), []string{"rrsig-missing"}},
		{"a second algorithm's are there", resigned(t, base, []testKey{k, other}, []testKey{k, other}), nil},
		{"a third key's that is not published", resigned(t, base, []testKey{k}, []testKey{k, other}), nil},
		{"only by a key that is not published", resigned(t, base, []testKey{k}, []testKey{other}), []string{"rrsig-missing"}},
		{"by a revoked key", resigned(t, base, []testKey{k, revoked}, []testKey{k, revoked}), []string{"rrsig-bogus"}},
		{"by a key that is no zone key", resigned(t, base, []testKey{notZone}, []testKey{notZone}), []string{"dnskey-missing"}},
		{"glue is signed", good + strings.Replace(lineOf(good, "mail.example.", "RRSIG", "A"), "mail.example.", "ns.secure.example.", 1), []string{"rrsig-excess"}},
		{"a delegation's NS is signed", good + strings.Replace(lineOf(good, "mail.example.", "RRSIG", "A"), "mail.example.\t3600\tIN\tRRSIG\tA", "secure.example.\t3600\tIN\tRRSIG\tNS", 1), []string{"rrsig-excess"}},
		{"original TTL", edit(good, func(f []string) []string {
			if f[0] == "mail.example." && f[3] == "A" {
				f[1] = "7200"
			}
			return f
		}), []string{"rrsig-original-ttl"}},
		{"labels", sigOf("mail.example.", "A", func(f []string) { f[6] = "1" }), []string{"rrsig-bogus", "rrsig-labels"}},
		{"another signer", sigOf("mail.example.", "A", func(f []string) { f[11] = "test." }), []string{"rrsig-signer"}},
		{"not yet valid", resignedAt(t, base, []testKey{k}, []testKey{k}, now.Add(hour), now.Add(99*hour)), []string{"rrsig-inception"}},
		{"over", resignedAt(t, base, []testKey{k}, []testKey{k}, now.Add(-99*hour), now.Add(-hour)), []string{"rrsig-expired"}},
		{"over before the lease", resignedAt(t, base, []testKey{k}, []testKey{k}, now.Add(-hour), now.Add(23*hour)), []string{"rrsig-ends"}},
		{"over in the margin after it", resignedAt(t, base, []testKey{k}, []testKey{k}, now.Add(-hour), now.Add(24*hour+30*time.Minute)), []string{"rrsig-ends"}},
		{"over after it", resignedAt(t, base, []testKey{k}, []testKey{k}, now.Add(-hour), now.Add(26*hour)), nil},
		{"no keys", edit(good, func(f []string) []string {
			if f[3] == "DNSKEY" {
				return nil
			}
			return f
		}), []string{"dnssec-missing"}},
		{"an RSA key without modulus", edit(good, func(f []string) []string {
			if f[3] == "DNSKEY" {
				return strings.Fields("example. 3600 IN DNSKEY 257 3 8 AwEAAQ==")
			}
			return f
		}), []string{"dnskey-malformed", "dnskey-missing"}},
		{"a short RSA key", edit(good, func(f []string) []string {
			if f[3] == "DNSKEY" {
				f[6], f[7] = "8", base64.StdEncoding.EncodeToString(append([]byte{3, 1, 0, 1}, bytes.Repeat([]byte{0xff}, 64)...))
			}
			return f
		}), []string{"dnskey-malformed", "dnskey-missing"}},
	} {
		if got := errorRules(t, c.text, strict()); !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

func lineOf(text, owner, typ, covered string) string {
	for line := range strings.Lines(text) {
		if f := strings.Fields(line); f[0] == owner && f[3] == typ && f[4] == covered {
			return line
		}
	}
	return ""
}

func TestTrustAnchors(t *testing.T) {
	k, spare := newKey(t, dns.ED25519, 256, 257), newKey(t, dns.ED25519, 256, 257)
	other := newKey(t, dns.ECDSAP256SHA256, 256, 257)
	text := resigned(t, signedZone(t, nsec), []testKey{k, spare}, []testKey{k})
	wrong := k.ToDS(dns.SHA256)
	wrong.Digest = strings.Repeat("00", 32)
	for _, c := range []struct {
		name    string
		anchors []dns.RR
		fine    bool
	}{
		{"SHA-1", []dns.RR{k.ToDS(dns.SHA1)}, true},
		{"SHA-256", []dns.RR{k.ToDS(dns.SHA256)}, true},
		{"SHA-384", []dns.RR{k.ToDS(dns.SHA384)}, true},
		{"the key itself", []dns.RR{k.DNSKEY}, true},
		{"a key that does not sign", []dns.RR{spare.ToDS(dns.SHA256)}, false},
		{"one that does and one that does not", []dns.RR{spare.ToDS(dns.SHA256), k.ToDS(dns.SHA256)}, true},
		{"a key that is not there", []dns.RR{newKey(t, dns.ED25519, 256, 257).ToDS(dns.SHA256)}, false},
		{"another digest", []dns.RR{wrong}, false},
		{"an algorithm that is not there beside a right one", []dns.RR{k.ToDS(dns.SHA256), other.ToDS(dns.SHA256)}, false},
	} {
		p := strict()
		p.Anchors = c.anchors
		want := []string{"dnskey-anchor"}
		if c.fine {
			want = nil
		}
		if got := errorRules(t, text, p); !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", c.name, got, want)
		}
	}
	p := DefaultPolicy()
	p.Anchors = []dns.RR{k.ToDS(dns.SHA256)}
	if got := errorRules(t, testdata(t, "plain.zone"), p); !slices.Equal(got, []string{"dnssec-missing"}) {
		t.Errorf("an unsigned zone with an anchor: %q", got)
	}
}

// TestUnsigned: what a policy has against a zone without signatures.
func TestUnsigned(t *testing.T) {
	plain, signed := testdata(t, "plain.zone"), signedZone(t, nsec)
	noKeys := edit(signed, func(f []string) []string {
		if f[3] == "DNSKEY" || f[3] == "RRSIG" && f[4] == "DNSKEY" {
			return nil
		}
		return f
	})
	for _, c := range []struct {
		name, old, text string
		mode            Mode
		want            []string
	}{
		{"unsigned", plain, plain, Verify, nil},
		{"unsigned, required", plain, plain, Require, []string{"dnssec-missing"}},
		{"not signed any more", signed, plain, Verify, []string{"dnssec-gone", "serial"}},
		{"not signed any more, ignored", signed, plain, Ignore, []string{"serial"}},
		{"signatures without keys", noKeys, noKeys, Verify, []string{"dnskey-missing"}},
	} {
		p := DefaultPolicy()
		p.DNSSEC = c.mode
		if got := rulesOf(against(t, c.old, c.text, p), zone.Error); !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

const tiny = "$ORIGIN example.\n$TTL 3600\n@ SOA ns1 host %d 7200 3600 1209600 300\n@ NS ns1\n@ NS ns.test.\nns1 A 192.0.2.53\n"

// TestSerial: RFC 1982 3.2, and that content that did not change needs no new serial.
func TestSerial(t *testing.T) {
	for _, c := range []struct {
		before, after uint32
		changed, fine bool
	}{
		{1, 2, true, true}, {2, 2, false, true}, {2, 2, true, false}, {2, 1, true, false}, {4294967295, 0, true, true},
		{1, 1 << 31, true, true}, {1, 1<<31 + 1, true, false}, {0, 1 << 31, true, false},
	} {
		text := fmt.Sprintf(tiny, c.after)
		if c.changed {
			text += "www A 192.0.2.80\n"
		}
		var want []string
		if !c.fine {
			want = []string{"serial"}
		}
		if got := rulesOf(against(t, fmt.Sprintf(tiny, c.before), text, DefaultPolicy()), zone.Error); !slices.Equal(got, want) {
			t.Errorf("%d to %d: %q", c.before, c.after, got)
		}
	}
}

// TestASmallZoneMayGrow, and change as a whole: that is no mistake, as it would be in a large one.
func TestASmallZoneMayGrow(t *testing.T) {
	names := func(serial, n int, address string) string {
		var b strings.Builder
		fmt.Fprintf(&b, tiny, serial)
		for i := range n {
			fmt.Fprintf(&b, "n%d A %s\n", i, address)
		}
		return b.String()
	}
	for _, c := range []struct {
		name          string
		before, after string
		want          []string
	}{
		{"8 names become 58", names(1, 6, "192.0.2.1"), names(2, 56, "192.0.2.1"), nil},
		{"58 names move", names(1, 56, "192.0.2.1"), names(2, 56, "192.0.2.2"), nil},
		{"2,000 names become 4,000", names(1, 2000, "192.0.2.1"), names(2, 4000, "192.0.2.1"), []string{"change-added"}},
		{"58 names become 28", names(1, 56, "192.0.2.1"), names(2, 26, "192.0.2.1"), []string{"change-removed"}},
	} {
		if got := rulesOf(against(t, c.before, c.after, DefaultPolicy()), zone.Error); !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

// TestARefusalNamesTheKeyAndTheFile: of every rule that can be set, and of the zone that has a policy of its own.
func TestARefusalNamesTheKeyAndTheFile(t *testing.T) {
	c, err := parseConfig("/srv/mesh/meshctl.yaml", []byte("checks: {rules: {soa-expire: error}, zones: {other.: {ttl: {max: 1h}}}}"))
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range Rules {
		if r.Default == isWarning {
			c.Policy.SetRule(r.Name, Fault)
		}
		found := c.Policy.Apply([]zone.Finding{{Rule: r.Name, Severity: zone.Error}})
		if len(found) != 1 || !regexp.MustCompile(`^ \(set by "checks: [a-z_]+(: `+r.Name+`)?" in /srv/mesh/meshctl.yaml\)$`).MatchString(found[0].Detail) {
			t.Errorf("%s: %+v", r.Name, found)
		}
	}
	absent := DefaultPolicy()
	absent.File, absent.NoFile = "/srv/mesh/meshctl.yaml", true
	for _, c := range []struct {
		p    Policy
		rule string
		want string
	}{
		{c.For("example."), "change-removed", ` (set by "checks: removed" in /srv/mesh/meshctl.yaml)`},
		{c.For("example."), "command", ` (set by "checks: command" in /srv/mesh/meshctl.yaml)`},
		{c.For("other."), "ttl-high", ` (set by "checks: zones: other.: ttl" in /srv/mesh/meshctl.yaml)`},
		{c.For("example."), "cname-and-other-data", ""}, // nothing can be said against it
		{DefaultPolicy(), "change-removed", ""},         // there is no file, nor a place for it
		{absent, "change-removed", ` (a default; "checks: removed" in /srv/mesh/meshctl.yaml, which is not there, would change it)`},
	} {
		if found := c.p.Apply([]zone.Finding{{Rule: c.rule, Severity: zone.Error}}); found[0].Detail != c.want {
			t.Errorf("%s: %q, want %q", c.rule, found[0].Detail, c.want)
		}
	}
	if found := c.Policy.Apply([]zone.Finding{{Rule: "soa-retry", Severity: zone.Warning}}); found[0].Detail == "" {
		t.Error("it was set to be an error above")
	}
}

// TestWithdrawnZones: one may always go, and no more than a tenth.
func TestWithdrawnZones(t *testing.T) {
	for _, c := range []struct {
		gone, of int
		fine     bool
	}{{0, 0, true}, {1, 1, true}, {2, 2, false}, {2, 19, false}, {2, 20, true}, {4, 40, true}, {5, 40, false}} {
		found := DefaultConfig().Withdraw(make([]string, c.gone), 0, c.of)
		if fine := !zone.HasErrors(found); fine != c.fine || !fine && len(found) != c.gone {
			t.Errorf("%d of %d: %v", c.gone, c.of, found)
		}
	}
	if found := DefaultConfig().Withdraw([]string{"a."}, 4, 40); len(found) != 1 {
		t.Errorf("one beside four others: %v", found)
	}
	c := DefaultConfig()
	c.Policy.SetRule(WithdrawnRule, Off)
	if found := c.Withdraw(make([]string, 9), 0, 9); len(found) > 0 {
		t.Errorf("ignored: %v", found)
	}
}

// TestSigningAgainIsNoChange: a zone that was signed anew, with other keys and another chain, has no changed names but
// needs a new serial.
func TestSigningAgainIsNoChange(t *testing.T) {
	p := DefaultPolicy()
	p.Changed = Limit{Most: 1} // the origin, for its keys and digest
	got := rulesOf(against(t, signedZone(t, nsec3), signedZone(t, nsec3OptOut), p), zone.Error)
	if !slices.Equal(got, []string{"serial"}) {
		t.Errorf("%q", got)
	}
}

// TestROUTE4AndROUTE5: at least one server outside any mesh, and not all in one.
func TestROUTE4AndROUTE5(t *testing.T) {
	const head = "$ORIGIN example.\n$TTL 3600\n@ SOA a host 1 7200 3600 1209600 300\n"
	meshes := []Mesh{
		{Name: "jp", Names: []string{"a.dns.test."}, Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.53"), netip.MustParseAddr("2001:db8::53")}},
		{Name: "other", Names: []string{"b.dns.test."}},
	}
	for _, c := range []struct {
		name, text string
		outside    Level
		want       []string
	}{
		{"one outside", "@ NS a.dns.test.\n@ NS c.dns.test.\n", Fault, nil},
		{"in two meshes", "@ NS A.DNS.test.\n@ NS b.dns.test.\n", Fault, []string{"servers-outside"}},
		{"in two meshes, allowed", "@ NS a.dns.test.\n@ NS b.dns.test.\n", Off, nil},
		{"in one mesh", "@ NS a.dns.test.\n@ NS a\na A 192.0.2.53\n", Fault, []string{"servers-one-mesh", "servers-outside"}},
		{"in one mesh, by IPv6", "@ NS a.dns.test.\n@ NS a\na A 192.0.2.1\na AAAA 2001:db8::53\n", Warn, []string{"servers-one-mesh"}},
		{"by an address outside", "@ NS a.dns.test.\n@ NS a\na A 192.0.2.54\n", Fault, nil},
		{"by glue", "@ NS a.dns.test.\n@ NS ns.sub\nsub NS ns.sub\nns.sub A 192.0.2.53\n", Fault, []string{"servers-one-mesh", "servers-outside"}},
	} {
		p := DefaultPolicy()
		p.Meshes, p.Outside = meshes, c.outside
		if got := errorRules(t, head+c.text, p); !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

// TestNumbersThatMakeNoSense: SOA timers, TTLs and the number of servers.
func TestNumbersThatMakeNoSense(t *testing.T) {
	soa := func(timers string) string {
		return "$ORIGIN example.\n$TTL 3600\n@ SOA ns.test. host 1 " + timers + "\n@ NS ns.test.\n@ NS ns2.test.\n"
	}
	p := DefaultPolicy()
	p.MinTTL, p.MaxTTL = 30*time.Second, 90*24*time.Hour
	for _, c := range []struct {
		name, text    string
		errors, warns []string
	}{
		{"fine", soa("7200 3600 1209600 300"), nil, nil},
		{"expire before refresh", soa("7200 3600 7200 300"), nil, []string{"soa-expire"}},
		{"expire is short", soa("7200 3600 86400 300"), nil, []string{"soa-expire"}},
		{"retry above refresh", soa("7200 7201 1209600 300"), nil, []string{"soa-retry"}},
		{"refresh is short", soa("10 10 1209600 300"), nil, []string{"soa-refresh"}},
		{"minimum is long", soa("7200 3600 1209600 90000"), nil, []string{"soa-minimum"}},
		{"TTL too low", soa("7200 3600 1209600 300") + "www 29 A 192.0.2.1\n", []string{"ttl-low"}, nil},
		{"TTL too high", soa("7200 3600 1209600 300") + "www 7776001 A 192.0.2.1\n", []string{"ttl-high"}, nil},
		{"TTL high", soa("7200 3600 1209600 300") + "www 604801 A 192.0.2.1\n", nil, []string{"ttl-high"}},
		{"one server", strings.Replace(soa("7200 3600 1209600 300"), "@ NS ns2.test.\n", "", 1), nil, []string{"ns-count"}},
	} {
		found := new(Memo).Check(nil, parse(t, c.text), p, time.Now(), lease)
		if got := rulesOf(found, zone.Error); !slices.Equal(got, c.errors) {
			t.Errorf("%s: errors %q, want %q", c.name, got, c.errors)
		}
		if got := rulesOf(found, zone.Warning); !slices.Equal(got, c.warns) {
			t.Errorf("%s: warnings %q, want %q", c.name, got, c.warns)
		}
	}
}

// TestFindingsAreBoundedAndInOrder: a zone in which everything is wrong has few findings, the same every time.
func TestFindingsAreBoundedAndInOrder(t *testing.T) {
	k, other := newKey(t, dns.ED25519, 256, 257), newKey(t, dns.ED25519, 256, 257)
	signed := lines(t, parse(t, signLDNS(t, registry(1, 600), nsec, "ECDSAP256SHA256")))
	text := resigned(t, withoutTypes(signed, "ZONEMD"), []testKey{k, other}, []testKey{other})
	text = edit(text, func(f []string) []string {
		if f[3] == "RRSIG" {
			f[12] = strings.Repeat("A", 86) + "=="
		}
		return f
	})
	z := parse(t, text)
	first := new(Memo).Check(nil, z, strict(), time.Now(), lease)
	bogus := 0
	for _, f := range first {
		if f.Rule == "rrsig-bogus" {
			bogus++
			if bogus == maxPerRule+1 && (f.Owner != "" || !strings.HasPrefix(f.Detail, "and ")) {
				t.Errorf("the last finding is %v", f)
			}
		}
	}
	if bogus != maxPerRule+1 || len(first) > 3*(maxPerRule+1) {
		t.Errorf("%d findings, %d of them bogus signatures: %v", len(first), bogus, first)
	}
	for range 5 {
		if again := new(Memo).Check(nil, z, strict(), time.Now(), lease); !slices.Equal(again, first) {
			t.Fatalf("other findings:\n%v\n%v", first, again)
		}
	}
}

// TestOlderDataNeedsAHigherSerial, and that of a signed zone a new signature, as the refusal says.
func TestOlderDataNeedsAHigherSerial(t *testing.T) {
	key := "@ DNSKEY 257 3 13 mdsswUyr3DPW132mOi8V9xESWE8jTo0dxCjjnopKl+GqJxpVXckHAeF+KkxLbxILfDLUT0rAK9iUzy1L53eKGQ==\n"
	for _, c := range []struct {
		before, after uint32
		more, want    string
	}{
		{7, 6, "", "answered now with other content (RFC 1982): to go back to older data, give it a serial above 7"},
		{7, 6, key, "give it a serial above 7 before it is signed, and have the signer sign it again"},
		{7, 7, key, "answered now with other content (RFC 1982)"},
	} {
		found := against(t, fmt.Sprintf(tiny, c.before), fmt.Sprintf(tiny, c.after)+"www A 192.0.2.80\n"+c.more, DefaultPolicy())
		i := slices.IndexFunc(found, func(f zone.Finding) bool { return f.Rule == "serial" })
		if i < 0 || !strings.HasSuffix(found[i].Detail, c.want) {
			t.Errorf("%d to %d: %v, want %s", c.before, c.after, found, c.want)
		}
	}
}
