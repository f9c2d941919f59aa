package zonecheck

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/zone"
)

// rulesOf are the rules of the errors found, each once.
func rulesOf(found []zone.Finding, severity zone.Severity) []string {
	var rules []string
	for _, f := range found {
		if f.Severity == severity {
			rules = append(rules, f.Rule)
		}
	}
	slices.Sort(rules)
	return slices.Compact(rules)
}

// digestRules are what is found about ZONEMD, of one severity.
func digestRules(t *testing.T, old, text string, mode Mode, severity zone.Severity) []string {
	t.Helper()
	r := newReport(parse(t, text))
	var before *zone.Zone
	if old != "" {
		before = parse(t, old)
	}
	checkDigest(before, parse(t, text), mode, r)
	return rulesOf(r.all(), severity)
}

// TestRFC8976Examples: the digests of RFC 8976 appendix A are right, and wrong after any change to the zone.
func TestRFC8976Examples(t *testing.T) {
	for _, name := range []string{"8976-a1.zone", "8976-a2.zone", "8976-a3.zone", "8976-a4.zone", "8976-a5.zone"} {
		text := testdata(t, name)
		if found := digestRules(t, "", text, Require, zone.Error); len(found) > 0 {
			t.Errorf("%s: %s", name, found)
		}
		whole := lines(t, parse(t, text))
		for i, line := range strings.SplitAfter(whole, "\n") {
			f := strings.Fields(line)
			if len(f) < 5 || f[3] == "SOA" || f[3] == "ZONEMD" && f[0] != "non-apex.example." || f[3] == "NSEC" || f[3] == "RRSIG" && f[4] == "ZONEMD" {
				continue
			}
			less := strings.Replace(whole, line, "", 1)
			if found := digestRules(t, "", less, Verify, zone.Error); !slices.Equal(found, []string{"zonemd-digest"}) {
				t.Errorf("%s without line %d, %s: %s", name, i+1, line, found)
			}
		}
	}
}

// TestSignedExample: RFC 8976 A.4 is a signed zone of 2021, right then, and over now.
func TestSignedExample(t *testing.T) {
	z := parse(t, testdata(t, "8976-a4.zone"))
	then := time.Date(2021, 2, 1, 0, 0, 0, 0, time.UTC)
	if found := errorsOf(new(Memo).Check(nil, z, strict(), then, lease)); len(found) > 0 {
		t.Error(found)
	}
	for at, rule := range map[time.Time]string{
		time.Date(2021, 1, 20, 23, 24, 0, 0, time.UTC): "rrsig-inception",
		time.Date(2021, 2, 16, 23, 0, 0, 0, time.UTC):  "rrsig-ends", // within lease and margin
		time.Date(2021, 2, 17, 23, 25, 0, 0, time.UTC): "rrsig-expired",
	} {
		if got := rulesOf(new(Memo).Check(nil, z, strict(), at, lease), zone.Error); !slices.Equal(got, []string{rule}) {
			t.Errorf("at %s: %s, want %s", at, got, rule)
		}
	}
}

func TestZONEMDRules(t *testing.T) {
	simple := testdata(t, "8976-a1.zone")
	const digest = "c68090d90a7aed716bc459f9340e3d7c1370d4d24b7e2fc3a1ddc0b9a87153b9a9713b3c9ae5cc27777f98b8e730044c"
	without := simple[:strings.Index(simple, "              86400  IN  ZONEMD")] + "ns1 3600 IN A 203.0.113.63\nns2 3600 IN AAAA 2001:db8::63\n"
	with := func(records ...string) string {
		return without + "example. 86400 IN ZONEMD " + strings.Join(records, "\nexample. 86400 IN ZONEMD ") + "\n"
	}
	for _, c := range []struct {
		name, old, text string
		mode            Mode
		errors, warns   []string
	}{
		{"right", "", with("2018031900 1 1 " + digest), Require, nil, nil},
		{"none", "", without, Verify, nil, nil},
		{"none, required", "", without, Require, []string{"zonemd-missing"}, nil},
		{"none but at the name after the apex, required", "", without + "0.example. 86400 IN ZONEMD 2018031900 1 1 " + digest + "\n", Require, []string{"zonemd-missing"}, nil},
		{"none any more", simple, without, Verify, nil, []string{"zonemd-gone"}},
		{"wrong digest", "", with("2018031900 1 1 " + strings.Replace(digest, "c6", "c7", 1)), Verify, []string{"zonemd-digest"}, nil},
		{"wrong digest, ignored", "", with("2018031900 1 1 " + strings.Replace(digest, "c6", "c7", 1)), Ignore, nil, nil},
		{"another serial's", "", with("2018031899 1 1 " + digest), Verify, []string{"zonemd-serial"}, nil},
		{"twice", "", with("2018031900 1 1 "+digest, "2018031900 1 1 "+strings.Repeat("00", 48)), Verify, []string{"zonemd-duplicate"}, nil},
		{"unknown scheme", "", with("2018031900 240 1 " + digest), Verify, nil, []string{"zonemd-unsupported"}},
		{"unknown scheme, required", "", with("2018031900 240 1 " + digest), Require, []string{"zonemd-missing"}, []string{"zonemd-unsupported"}},
		{"unknown hash beside a right one", "", with("2018031900 1 240 "+digest, "2018031900 1 1 "+digest), Require, nil, []string{"zonemd-unsupported"}},
		{"one of two wrong", "", with("2018031900 1 1 "+digest, "2018031900 1 2 "+strings.Repeat("00", 64)), Verify, []string{"zonemd-digest"}, nil},
		{"cut off", "", with("2018031900 1 1 " + digest[:24]), Verify, []string{"zonemd-digest"}, nil},
		{"shorter than any may be", "", with("2018031900 1 240 " + digest[:22]), Verify, []string{"zonemd-digest"}, nil},
	} {
		if got := digestRules(t, c.old, c.text, c.mode, zone.Error); !slices.Equal(got, c.errors) {
			t.Errorf("%s: errors %q, want %q", c.name, got, c.errors)
		}
		if got := digestRules(t, c.old, c.text, c.mode, zone.Warning); !slices.Equal(got, c.warns) {
			t.Errorf("%s: warnings %q, want %q", c.name, got, c.warns)
		}
	}
}
