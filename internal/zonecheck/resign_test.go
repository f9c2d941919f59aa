package zonecheck

import (
	"crypto"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/zone"
)

// testKey is a key whose private half is at hand.
type testKey struct {
	*dns.DNSKEY
	private crypto.Signer
}

// newKey makes a key of an algorithm for "example.", as a key-signing key or not.
func newKey(t testing.TB, algorithm uint8, bits int, flags uint16) testKey {
	t.Helper()
	k := &dns.DNSKEY{Hdr: dns.RR_Header{Name: "example.", Rrtype: dns.TypeDNSKEY, Class: dns.ClassINET, Ttl: 3600},
		Flags: flags, Protocol: 3, Algorithm: algorithm}
	private, err := k.Generate(bits)
	if err != nil {
		t.Fatal(err)
	}
	return testKey{k, private.(crypto.Signer)}
}

// resigned is a signed zone with other keys: published ones in the DNSKEY RRset, and signatures by each of by instead of
// every one there was.
func resigned(t testing.TB, text string, published, by []testKey) string {
	t.Helper()
	return resignedAt(t, text, published, by, time.Now().Add(-time.Hour), time.Now().Add(30*24*time.Hour))
}

func resignedAt(t testing.TB, text string, published, by []testKey, inception, expiration time.Time) string {
	t.Helper()
	sets := map[[2]string][]dns.RR{}
	signed := map[[2]string]bool{}
	var order [][2]string
	for rr := range parse(t, text).Records() {
		h := rr.Header()
		id := [2]string{h.Name, dns.Type(h.Rrtype).String()}
		switch rr := rr.(type) {
		case *dns.RRSIG:
			signed[[2]string{h.Name, dns.Type(rr.TypeCovered).String()}] = true
		case *dns.DNSKEY, *dns.ZONEMD:
		default:
			if sets[id] == nil {
				order = append(order, id)
			}
			sets[id] = append(sets[id], rr)
		}
	}
	id := [2]string{"example.", "DNSKEY"}
	for _, k := range published {
		sets[id] = append(sets[id], k.DNSKEY)
	}
	order = append(order, id)
	var b strings.Builder
	for _, id := range order {
		for _, rr := range sets[id] {
			b.WriteString(rr.String() + "\n")
		}
		for _, k := range by {
			if !signed[id] {
				continue
			}
			sig := &dns.RRSIG{Hdr: dns.RR_Header{Ttl: sets[id][0].Header().Ttl}, Algorithm: k.Algorithm, KeyTag: k.KeyTag(), SignerName: "example.",
				Inception: uint32(inception.Unix()), Expiration: uint32(expiration.Unix())}
			if err := sig.Sign(k.private, sets[id]); err != nil {
				t.Fatal(err)
			}
			b.WriteString(sig.String() + "\n")
		}
	}
	return b.String()
}

// withoutTypes takes types out of the bitmaps of a zone that is to be signed anew, as ZONEMD goes with resigned.
func withoutTypes(text string, types ...string) string {
	all := strings.SplitAfter(text, "\n")
	for i, line := range all {
		f := strings.Fields(line)
		if len(f) > 4 && (f[3] == "NSEC" || f[3] == "NSEC3") {
			f = slices.DeleteFunc(f, func(word string) bool { return slices.Contains(types, word) })
			all[i] = strings.Join(f, " ") + "\n"
		}
	}
	return strings.Join(all, "")
}

// signedZone is the plain zone in a flavour of denial, for resigned.
func signedZone(t testing.TB, flavour string) string {
	t.Helper()
	return withoutTypes(lines(t, parse(t, signBIND(t, testdata(t, "plain.zone"), flavour, "ECDSAP256SHA256"))), "CDS", "CDNSKEY")
}

// errorRules checks a zone and returns the rules of the errors.
func errorRules(t testing.TB, text string, p Policy) []string {
	t.Helper()
	return rulesOf(new(Memo).Check(nil, parse(t, text), p, time.Now(), lease), zone.Error)
}

// TestAlgorithms: signatures of every algorithm that RFC 8624 wants are verified, and a damaged one is found.
func TestAlgorithms(t *testing.T) {
	text := signedZone(t, nsec)
	for _, c := range []struct {
		algorithm uint8
		bits      int
	}{{dns.RSASHA1, 1024}, {dns.RSASHA1NSEC3SHA1, 1024}, {dns.RSASHA256, 2048}, {dns.RSASHA512, 1024}, {dns.ECDSAP256SHA256, 256}, {dns.ECDSAP384SHA384, 384}, {dns.ED25519, 256}} {
		k := newKey(t, c.algorithm, c.bits, 257)
		good := resigned(t, text, []testKey{k}, []testKey{k})
		if got := errorRules(t, good, strict()); len(got) > 0 {
			t.Errorf("%s: %s", algorithmName(c.algorithm), got)
		}
		bad := strings.Replace(good, "192.0.2.53", "192.0.2.54", 1)
		if got := errorRules(t, bad, strict()); !slices.Equal(got, []string{"rrsig-bogus"}) {
			t.Errorf("%s, damaged: %s", algorithmName(c.algorithm), got)
		}
	}
}

// TestEd448CannotBeVerified, and that is said: as an error, unless there are signatures that can.
func TestEd448CannotBeVerified(t *testing.T) {
	text := lines(t, parse(t, signBIND(t, testdata(t, "plain.zone"), nsec, "ED448")))
	if got := errorRules(t, text, strict()); !slices.Equal(got, []string{"dnskey-unsupported"}) {
		t.Errorf("Ed448 alone: %s", got)
	}
	p := strict()
	p.DNSSEC = Ignore
	if got := errorRules(t, text, p); len(got) > 0 {
		t.Errorf("ignored: %s", got)
	}
	// Beside another algorithm each RRset needs both, and one is verified.
	k := newKey(t, dns.ED25519, 256, 257)
	other := &dns.DNSKEY{Hdr: k.Hdr, Flags: 257, Protocol: 3, Algorithm: dns.ED448, PublicKey: base64.StdEncoding.EncodeToString(make([]byte, 57))}
	both := resigned(t, signedZone(t, nsec), []testKey{k, {other, nil}}, []testKey{k})
	if got := errorRules(t, both, strict()); !slices.Equal(got, []string{"rrsig-missing"}) {
		t.Errorf("without the other's signatures: %s", got)
	}
	var sigs strings.Builder
	for line := range strings.Lines(both) {
		f := strings.Fields(line)
		if len(f) > 4 && f[3] == "RRSIG" {
			f[5], f[10] = "16", dnsTag(other)
			sigs.WriteString(strings.Join(f, " ") + "\n")
		}
	}
	found := new(Memo).Check(nil, parse(t, both+sigs.String()), strict(), time.Now(), lease)
	if len(errorsOf(found)) > 0 || !hasRule(found, "dnskey-unsupported") {
		t.Errorf("with them: %v", found)
	}
}

// TestWorkOfAHostileZone is bounded: keys by the hundred that have one tag (KeyTrap, CVE-2023-50387), and chains of NSEC3
// that are announced and not there, are errors, and neither is worked through.
func TestWorkOfAHostileZone(t *testing.T) {
	k := newKey(t, dns.ED25519, 256, 257)
	public, err := base64.StdEncoding.DecodeString(k.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	published := []testKey{k}
	for i := 0; i < 14; i++ { // a tag is a sum of pairs of octets
		for j := i + 1; j < 15; j++ {
			other := slices.Clone(public)
			other[2*i], other[2*i+1], other[2*j], other[2*j+1] = public[2*j], public[2*j+1], public[2*i], public[2*i+1]
			published = append(published, testKey{&dns.DNSKEY{Hdr: k.Hdr, Flags: 257, Protocol: 3, Algorithm: k.Algorithm,
				PublicKey: base64.StdEncoding.EncodeToString(other)}, k.private})
		}
	}
	text := signedZone(t, nsec3)
	d := newSigned(nil, parse(t, resigned(t, text, published, []testKey{k})), strict(), time.Now(), lease, newReport(parse(t, text)), nil)
	for id, same := range d.keys {
		if len(same) > maxSameTag {
			t.Errorf("%d keys of tag %d are tried", len(same), id.tag)
		}
	}
	if got := errorRules(t, resigned(t, text, published, []testKey{k}), strict()); !slices.Contains(got, "dnskey-same-tag") {
		t.Errorf("%d keys of one tag: %s", len(published), got)
	}
	var chains strings.Builder
	for i := range 1000 {
		fmt.Fprintf(&chains, "example. 0 IN NSEC3PARAM 1 0 500 %04x\n", i)
	}
	z := parse(t, resigned(t, text+chains.String(), []testKey{k}, []testKey{k}))
	if d := newSigned(nil, z, strict(), time.Now(), lease, newReport(z), nil); len(d.params) != maxChains {
		t.Errorf("%d chains are hashed", len(d.params))
	}
	if got := rulesOf(new(Memo).Check(nil, z, strict(), time.Now(), lease), zone.Error); !slices.Contains(got, "nsec3-chains") {
		t.Errorf("1000 chains: %s", got)
	}
}

func dnsTag(k *dns.DNSKEY) string {
	return strings.Fields(k.ToDS(dns.SHA256).String())[4]
}
