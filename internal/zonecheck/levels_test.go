package zonecheck

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/zone"
	"github.com/coredns-anycast/coredns-anycast/internal/zonefile"
)

// TestEveryRuleIsListed compares Rules with what the source of the packages that judge has, and how it reports it.
func TestEveryRuleIsListed(t *testing.T) {
	listed := map[string]Rule{}
	for i, r := range Rules {
		listed[r.Name] = r
		if i > 0 && Rules[i-1].Name >= r.Name {
			t.Errorf("%s is out of order", r.Name)
		}
	}
	found := map[string]map[string]bool{}
	note := func(rule, how string) {
		if found[rule] == nil {
			found[rule] = map[string]bool{}
		}
		found[rule][how] = true
	}
	for _, of := range []struct {
		dir  string
		rule *regexp.Regexp
	}{
		{".", regexp.MustCompile(`\b(fault|warn|report|wrong)\((?:[^"()]*, )?"([a-z0-9-]+)",`)},
		{".", regexp.MustCompile(`\{"(change)(-[a-z]+)", c\.`)},
		{filepath.Join("..", "zone"), regexp.MustCompile(`\b(Warning), "([a-z0-9-]+)",`)},
		{filepath.Join("..", "zonefile"), regexp.MustCompile(`p\.(warn)\([^"]*"([a-z0-9-]+)",`)},
	} {
		files, err := filepath.Glob(filepath.Join(of.dir, "*.go"))
		if err != nil || len(files) == 0 {
			t.Fatal(files, err)
		}
		for _, file := range files {
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			source, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range of.rule.FindAllSubmatch(source, -1) {
				how, rule := string(m[1]), string(m[2])
				switch how {
				case "change":
					how, rule = "fault", how+rule
				case "wrong":
					how = "fault"
				case "Warning":
					how = "warn"
				}
				note(rule, how)
			}
		}
	}
	for rule, how := range found {
		r, ok := listed[rule]
		want := isEither
		if raised[rule] != "" {
			want = raised[rule]
		} else if len(how) == 1 && how["fault"] || strings.HasPrefix(rule, "servers-") {
			want = isError
		} else if len(how) == 1 && how["warn"] {
			want = isWarning
		}
		if !ok || r.Default != want && !how["report"] {
			t.Errorf("%s is reported by %v, and listed as %q", rule, how, r.Default)
		}
	}
	for rule := range listed {
		if found[rule] == nil {
			t.Errorf("%s is listed, and nobody finds it", rule)
		}
	}
}

// TestRulesAreSetByPolicy: each may be an error, a warning or nothing, for all zones and for one.
func TestRulesAreSetByPolicy(t *testing.T) {
	c, err := parseConfig("x", []byte("checks:\n  rules: {soa-expire: error, ns-count: ignore, missing-glue: error}\n  zones:\n    other.: {rules: {soa-expire: ignore}}\n"))
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range []struct {
		origin       string
		errors, warn []string
	}{
		{"example.", []string{"missing-glue", "soa-expire"}, []string{"soa-refresh", "soa-retry"}},
		{"other.", []string{"missing-glue"}, []string{"soa-refresh", "soa-retry"}},
	} {
		text := fmt.Sprintf("$ORIGIN %s\n$TTL 300\n@ SOA ns.test. host 1 10 20 5 300\n@ NS ns.test.\nsub NS ns.sub\n", k.origin)
		z, p := parse(t, text), c.For(k.origin)
		found := p.Apply([]zone.Finding{{Rule: "missing-glue", Severity: zone.Warning}}) // as internal/zone has it
		found = append(found, new(Memo).Check(nil, z, p, time.Now(), lease)...)
		if got := rulesOf(found, zone.Error); !slices.Equal(got, k.errors) {
			t.Errorf("%s: errors %q", k.origin, got)
		}
		if got := rulesOf(found, zone.Warning); !slices.Equal(got, k.warn) {
			t.Errorf("%s: warnings %q", k.origin, got)
		}
	}
	for _, bad := range []string{"rules: {nonsense: error}", "rules: {cname-and-other-data: ignore}", "rules: {serial: off}", "rules: [serial]"} {
		if _, err := parseConfig("x", []byte("checks: {"+bad+"}")); err == nil {
			t.Errorf("%s is taken", bad)
		}
	}
}

// TestAServerThatIsAnAlias is an error as BIND has it, though the zone can be served, and may be set to less.
func TestAServerThatIsAnAlias(t *testing.T) {
	_, found := zonefile.Parse(strings.NewReader("$ORIGIN example.\n$TTL 300\n@ SOA ns.test. host 1 7200 3600 1209600 300\n@ NS a\na CNAME b.test.\n"), zonefile.Options{})
	for rules, want := range map[string][]string{"": {"ns-at-cname"}, "checks: {rules: {ns-at-cname: warning}}": nil, "checks: {rules: {ns-at-cname: ignore}}": nil} {
		c := DefaultConfig()
		if rules != "" {
			var err error
			if c, err = parseConfig("x", []byte(rules)); err != nil {
				t.Fatal(err)
			}
		}
		if got := rulesOf(c.Policy.Apply(found), zone.Error); !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", rules, got, want)
		}
	}
}

// TestIgnoredRulesAreWarnings, in every zone, and only those of judgement can be ignored.
func TestIgnoredRulesAreWarnings(t *testing.T) {
	c, err := parseConfig("x", []byte("checks: {rules: {serial: ignore}, zones: {other.: {rules: {rrsig-expired: error}}}}"))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Ignore("rrsig-expired", "serial"); err != nil {
		t.Fatal(err)
	}
	for _, origin := range []string{"example.", "other."} {
		if p := c.For(origin); p.Rules["rrsig-expired"] != Warn || p.Rules["serial"] != Off || p.SignaturesCount() {
			t.Errorf("%s: %v", origin, p.Rules)
		}
	}
	if p := DefaultPolicy(); !p.SignaturesCount() {
		t.Error("an expired signature is nothing by default")
	}
	if err := c.Ignore("cname-and-other-data", "x"); err == nil || strings.Count(err.Error(), "no rule") != 2 {
		t.Errorf("%v", err)
	}
}

// TestWhatFitsInNoMessage: a record that cannot be transferred, and an RRset that cannot be answered.
func TestWhatFitsInNoMessage(t *testing.T) {
	strings255 := func(n int) string { return strings.Repeat(" "+strings.Repeat("x", 255), n) }
	for _, c := range []struct {
		text         string
		errors, warn []string
	}{
		{"a TXT" + strings255(255) + "\n", nil, nil},
		{"a TXT" + strings255(255) + " " + strings.Repeat("x", 209) + "\n", nil, []string{"rrset-too-large"}}, // no question or OPT record beside it
		{"a TXT" + strings255(255) + " " + strings.Repeat("x", 254) + "\n", []string{"record-too-large"}, []string{"rrset-too-large"}},
		{"a TXT a" + strings255(127) + "\na TXT b" + strings255(127) + "\n", nil, nil},
		{"a TXT a" + strings255(127) + "\na TXT b" + strings255(129) + "\n", nil, []string{"rrset-too-large"}},
		{"$GENERATE 0-5000 a TYPE65280 \\# 2 ${0,4,x}\n", nil, []string{"rrset-too-large"}},
	} {
		z := parse(t, "$ORIGIN example.\n$TTL 300\n@ SOA ns.test. host 1 7200 3600 1209600 300\n@ NS ns.test.\n@ NS ns2.test.\n"+c.text)
		found := new(Memo).Check(nil, z, DefaultPolicy(), time.Now(), lease)
		if got := rulesOf(found, zone.Error); !slices.Equal(got, c.errors) {
			t.Errorf("%.20s… of %d: errors %q", c.text, len(c.text), got)
		}
		if got := rulesOf(found, zone.Warning); !slices.Equal(got, c.warn) {
			t.Errorf("%.20s… of %d: warnings %q", c.text, len(c.text), got)
		}
	}
}
