package release

import (
	"bytes"
	"crypto/ed25519"
	"strings"
	"testing"
	"time"
)

// request asks for the first zone of a release.
func request(r *Release) Override {
	return Override{Mesh: "jp", Zones: []Overridden{{r.Zones[0].Origin, r.Zones[0].SHA256, []string{"change-removed", "serial"}}}}
}

func testOverride(t *testing.T, r *Release) (Override, ed25519.PublicKey) {
	t.Helper()
	keys, err := GenerateKeys(seeded(1))
	if err != nil {
		t.Fatal(err)
	}
	o, err := request(r).Sign(keys.Override, "Jane Doe", "the registrar left: <ticket 7> & more", testNow)
	if err != nil {
		t.Fatal(err)
	}
	return o, keys.Override.Public().(ed25519.PublicKey)
}

// TestAnOverrideIsCanonicalAndInTheManifest: it comes back as it went, alone and in a manifest, and verifies there.
func TestAnOverrideIsCanonicalAndInTheManifest(t *testing.T) {
	r := testRelease(7, testNow)
	o, key := testOverride(t, r)
	data, err := o.Encode()
	if err != nil {
		t.Fatal(err)
	}
	back, err := ParseOverride(data)
	if err != nil {
		t.Fatal(err)
	}
	if err := back.Verify(key, "jp"); err != nil {
		t.Error(err)
	}
	r.Override = &o
	manifest, err := testManifest(r, nil).Encode()
	if err != nil {
		t.Fatal(err)
	}
	m, err := ParseManifest(manifest, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Current.Override.Verify(key, m.Mesh); err != nil {
		t.Error(err)
	}
	if !bytes.Contains(manifest, data[:len(data)-1]) {
		t.Errorf("the manifest has it in another form: %s", manifest)
	}
	plain := testRelease(7, testNow)
	if a, _ := contentDigest(r.encoded()); true {
		if b, _ := contentDigest(plain.encoded()); a == b {
			t.Error("a release with an override and one without have the same content")
		}
	}
}

// TestAnOverrideStandsForWhatWasSigned: any change to it, another key, another mesh or a missing field, and it counts for
// nothing.
func TestAnOverrideStandsForWhatWasSigned(t *testing.T) {
	r := testRelease(7, testNow)
	o, key := testOverride(t, r)
	other, err := GenerateKeys(seeded(2))
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(o *Override){
		"another zone":       func(o *Override) { o.Zones[0].Origin = "other." },
		"other content":      func(o *Override) { o.Zones[0].SHA256[0]++ },
		"one rule more":      func(o *Override) { o.Zones[0].Rules = []string{"change-removed", "serial", "zonemd-digest"} },
		"no rules":           func(o *Override) { o.Zones[0].Rules = nil },
		"rules out of order": func(o *Override) { o.Zones[0].Rules = []string{"serial", "change-removed"} },
		"no zones":           func(o *Override) { o.Zones = nil },
		"a zone twice":       func(o *Override) { o.Zones = append(o.Zones, o.Zones[0]) },
		"another person":     func(o *Override) { o.Who = "Joe" },
		"nobody":             func(o *Override) { o.Who = "" },
		"another reason":     func(o *Override) { o.Why = "because" },
		"no reason":          func(o *Override) { o.Why = "" },
		"a line break":       func(o *Override) { o.Why = "a\nb" },
		"a long reason":      func(o *Override) { o.Why = strings.Repeat("a", maxWhy+1) },
		"another time":       func(o *Override) { o.At = o.At.Add(time.Second) },
		"no time":            func(o *Override) { o.At = time.Time{} },
		"another mesh":       func(o *Override) { o.Mesh = "us" },
		"no signature":       func(o *Override) { o.Signature = nil },
		"another key": func(o *Override) {
			signed, err := o.Sign(other.Override, o.Who, o.Why, o.At)
			if err != nil {
				t.Fatal(err)
			}
			*o = signed
		},
	} {
		changed := o
		changed.Zones = append([]Overridden{}, o.Zones...)
		change(&changed)
		if err := changed.Verify(key, "jp"); err == nil {
			t.Errorf("%s: it counts", name)
		}
	}
	z := r.Zones[0]
	packed := Zone{Origin: z.Origin, SHA256: Digest{7}, Root: z.SHA256, BaseRoot: Digest{8}} // which is known by its root alone
	for _, z := range []Zone{z, packed} {
		if !o.Covers(&z, []string{"serial"}) || !o.Covers(&z, []string{"change-removed", "serial"}) {
			t.Error("it does not cover what it is for")
		}
		if again := z.Overridden([]string{"serial"}); again.SHA256 != o.Zones[0].SHA256 || again.Origin != z.Origin {
			t.Errorf("what is to be signed is %+v", again)
		}
	}
	elsewhere, changed, based := r.Zones[1], z, packed
	elsewhere.SHA256, changed.SHA256 = z.SHA256, r.Zones[1].SHA256
	based.SHA256, based.Root = based.Root, based.SHA256 // the text of its base is not what it has
	if o.Covers(&z, []string{"serial", "zonemd-digest"}) || o.Covers(&elsewhere, []string{"serial"}) || o.Covers(&changed, []string{"serial"}) ||
		o.Covers(&based, []string{"serial"}) || (*Override)(nil).Covers(&z, nil) {
		t.Error("it covers what it is not for")
	}
	if _, err := request(r).Sign(other.Override, "", "why", testNow); err == nil {
		t.Error("signed by nobody")
	}
}

// TestManifestsWithWrongOverrides are refused.
func TestManifestsWithWrongOverrides(t *testing.T) {
	for name, change := range map[string]func(o *Override){
		"not signed":            func(o *Override) { o.Signature = nil },
		"of another zone":       func(o *Override) { o.Zones[0].Origin = "zzz." },
		"of other content":      func(o *Override) { o.Zones[0].SHA256[0]++ },
		"a time with an offset": func(o *Override) { o.At = o.At.In(time.FixedZone("", 3600)) },
	} {
		r := testRelease(7, testNow)
		o, _ := testOverride(t, r)
		change(&o)
		r.Override = &o
		if _, err := testManifest(r, nil).Encode(); err == nil || !strings.Contains(err.Error(), "current: override: ") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzParseOverride(f *testing.F) {
	o := request(testRelease(7, testNow))
	data, _ := o.Encode()
	f.Add(data)
	f.Fuzz(func(t *testing.T, data []byte) {
		o, err := ParseOverride(data)
		if err != nil {
			return
		}
		if again, err := o.Encode(); err != nil || !bytes.Equal(again, data) {
			t.Fatalf("%q is written as %q, %v", data, again, err)
		}
	})
}
