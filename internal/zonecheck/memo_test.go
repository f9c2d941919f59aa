package zonecheck

import (
	"encoding/base64"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"
)

// TestAMemoChangesNoFinding: what is found with what the last check has shown is what is found without, whatever changed:
// content, a signature, a key, the time.
func TestAMemoChangesNoFinding(t *testing.T) {
	good := signLDNS(t, hosts(60), nsec, "ECDSAP256SHA256")
	var memo Memo
	now := time.Now().Add(time.Minute) // the other key signs later
	for _, c := range []struct {
		name, text string
		now        time.Time
		rule       string
	}{
		{"good", good, now, ""},
		{"good again", good, now, ""},
		{"an address changed, and not its signature", strings.Replace(good, "10.0.0.7", "10.0.0.8", 1), now, "rrsig-bogus"},
		{"good after bad", good, now, ""},
		{"a signature damaged", damageSignature(t, good, "A"), now, "rrsig-bogus"},
		{"damaged still", damageSignature(t, good, "A"), now, "rrsig-bogus"},
		{"a signature copied to another owner", copySignature(t, good), now, "rrsig-bogus"},
		{"a year later", good, now.Add(365 * 24 * time.Hour), "rrsig-expired"},
		{"a year before", good, now.Add(-365 * 24 * time.Hour), "rrsig-inception"},
		{"signed by another key", signLDNS(t, hosts(60), nsec, "ECDSAP256SHA256"), now, ""},
		{"good at last", good, now, ""},
	} {
		z := parse(t, c.text)
		got, want := memo.Check(nil, z, strict(), c.now, lease), new(Memo).Check(nil, z, strict(), c.now, lease)
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %v with a memo, %v without", c.name, got, want)
		}
		rules := fmt.Sprint(want)
		if c.rule == "" && len(want) > 0 || !strings.Contains(rules, c.rule) {
			t.Errorf("%s: %s", c.name, rules)
		}
	}
}

// TestAMemoCountsWhatIsChecked: all records, once each, of a signed zone and of one that is not.
func TestAMemoCountsWhatIsChecked(t *testing.T) {
	var memo Memo
	for _, text := range []string{signLDNS(t, hosts(600), nsec3, "ECDSAP256SHA256"), hosts(600), signLDNS(t, hosts(60), nsec, "ECDSAP256SHA256")} {
		z := parse(t, text)
		memo.Check(nil, z, DefaultPolicy(), time.Now(), lease)
		if memo.Records() != z.Len() {
			t.Errorf("%d of %d records", memo.Records(), z.Len())
		}
	}
}

// TestAMemoSparesVerification: of a zone like the last one, nothing is verified again.
func TestAMemoSparesVerification(t *testing.T) {
	var memo Memo
	z := parse(t, signLDNS(t, hosts(60), nsec, "ECDSAP256SHA256"))
	memo.Check(nil, z, strict(), time.Now(), lease)
	count := len(memo.last)
	if count < 60 {
		t.Fatalf("%d signatures are remembered", count)
	}
	k := &key{rdata: []byte("key"), verify: func(_, signature []byte) bool { return string(signature) == "right" }}
	memo.now = map[proof]struct{}{}
	for range 2 {
		if !memo.verify(k, []byte("data"), []byte("right")) || memo.verify(k, []byte("data"), []byte("wrong")) {
			t.Fatal("judged wrongly")
		}
		memo.last, memo.now = memo.now, map[proof]struct{}{}
	}
	k.verify = func(_, _ []byte) bool { t.Error("verified again"); return false }
	if !memo.verify(k, []byte("data"), []byte("right")) {
		t.Error("what was right is wrong")
	}
	k.verify = func(_, _ []byte) bool { return false }
	for _, other := range []struct{ key, data, signature string }{{"kez", "data", "right"}, {"key", "dat", "aright"}, {"keyd", "ata", "right"}, {"key", "data", "righ"}} {
		if k.rdata = []byte(other.key); memo.verify(k, []byte(other.data), []byte(other.signature)) {
			t.Errorf("%v is taken for what was right", other)
		}
	}
}

// signatureOf is the last field of the first RRSIG line of a type, from line on.
func signatureOf(t *testing.T, lines []string, typ string, nth int) (at int, signature string) {
	t.Helper()
	for i, line := range lines {
		f := strings.Fields(line)
		if len(f) > 12 && f[3] == "RRSIG" && f[4] == typ {
			if nth--; nth < 0 {
				return i, f[12]
			}
		}
	}
	t.Fatalf("no signature of %s in %q", typ, lines[:min(5, len(lines))])
	return 0, ""
}

func damageSignature(t *testing.T, text, typ string) string {
	t.Helper()
	lines := strings.Split(text, "\n")
	at, signature := signatureOf(t, lines, typ, 3)
	raw, err := base64.StdEncoding.DecodeString(signature)
	if err != nil {
		t.Fatal(err)
	}
	raw[20] ^= 1
	lines[at] = strings.Replace(lines[at], signature, base64.StdEncoding.EncodeToString(raw), 1)
	return strings.Join(lines, "\n")
}

func copySignature(t *testing.T, text string) string {
	t.Helper()
	lines := strings.Split(text, "\n")
	_, from := signatureOf(t, lines, "A", 2)
	at, to := signatureOf(t, lines, "A", 5)
	lines[at] = strings.Replace(lines[at], to, from, 1)
	return strings.Join(lines, "\n")
}

// TestACheckIsStopped between two batches, of a signed zone with either chain and of one that is not, and the next check is whole.
func TestACheckIsStopped(t *testing.T) {
	for _, text := range []string{signLDNS(t, hosts(600), nsec, "ECDSAP256SHA256"), signLDNS(t, hosts(600), nsec3, "ECDSAP256SHA256"), hosts(600)} {
		z := parse(t, text)
		var memo Memo
		asked := 0
		memo.StopIf(func() bool { asked++; return asked > 1 })
		memo.Check(nil, z, strict(), time.Now().Add(time.Minute), lease)
		if n := memo.Records(); n == 0 || n >= z.Len() {
			t.Errorf("stopped after %d of %d records", n, z.Len())
		}
		memo.StopIf(func() bool { return false })
		memo.Check(nil, z, DefaultPolicy(), time.Now().Add(time.Minute), lease)
		if n := memo.Records(); n != z.Len() {
			t.Errorf("the next one did %d of %d records", n, z.Len())
		}
	}
}
