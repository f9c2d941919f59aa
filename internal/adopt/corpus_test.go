package adopt

import (
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/coredns/caddy/caddyfile"

	"github.com/coredns-anycast/coredns-anycast/internal/corefiles"
)

// known reports whether a directive is one of CoreDNS.
func known(name string) bool {
	_, kept := carried[name]
	switch name {
	case "file", "auto", "secondary", "transfer", "tsig", "view", "tls":
		return true
	}
	return kept || elsewhere[name] != "" || absent[name] != ""
}

// TestEveryCorefileOfCoreDNS: each Corefile in CoreDNS's documentation and tests is read, and every directive in it, and every property
// of those that serve zones, is spoken of; or every error has its place.
func TestEveryCorefileOfCoreDNS(t *testing.T) {
	adopted, refused, total, in := 0, 0, 0, t.TempDir()
	for _, e := range corefiles.All(t, known) {
		total++
		path := corefiles.Prepare(t, in, e.Text)
		plan, err := Corefile(path, "")
		if err != nil {
			refused++
			for _, line := range strings.Split(err.Error(), "\n") {
				if !regexp.MustCompile(`^\S+:\d+: \S`).MatchString(line) {
					t.Errorf("%s: error %q\n%s", e.From, line, e.Text)
				}
			}
			continue
		}
		if !plan.Nothing() {
			adopted++
		}
		spoken(t, e, path, plan)
	}
	t.Logf("%d Corefiles: of %d zones are taken over, %d have errors", total, adopted, refused)
	if total < 1500 || adopted < 80 || refused > 60 {
		t.Errorf("of %d Corefiles zones of %d are taken over, and %d have errors: the test reads CoreDNS wrongly", total, adopted, refused)
	}
}

// spoken compares a plan with what CoreDNS's own reader finds in a Corefile.
func spoken(t *testing.T, e corefiles.Example, path string, plan *Plan) {
	t.Helper()
	said := map[string]bool{}
	for _, p := range plan.Parts {
		if p.Fate != Kept && p.Says == "" || p.Line == 0 {
			t.Errorf("%s: %+v says nothing", e.From, p)
		}
		said[fmt.Sprintf("%d %s", p.Line, p.What)] = true
		said[fmt.Sprint(p.Line)] = true
	}
	blocks, _ := caddyfile.Parse(path, strings.NewReader(e.Text), nil)
	for _, b := range blocks {
		for name, tokens := range b.Tokens {
			d := caddyfile.NewDispenserTokens(path, tokens)
			for d.Next() {
				if d.Val() != name { // the end of what Dispenser takes for a block in a block
					continue
				}
				here := name
				if here == "auto" { // its zones are found in its directory
					d.RemainingArgs()
				} else if !said[fmt.Sprintf("%d %s", d.Line(), here)] {
					t.Errorf("%s: nothing is said of %s in line %d\n%s", e.From, here, d.Line(), e.Text)
				}
				d.RemainingArgs()
				for d.NextBlock() {
					switch name {
					case "file", "auto", "secondary":
						if !said[fmt.Sprint(d.Line())] {
							t.Errorf("%s: nothing is said of %s in line %d\n%s", e.From, d.Val(), d.Line(), e.Text)
						}
					}
					d.RemainingArgs()
				}
			}
		}
	}
}
