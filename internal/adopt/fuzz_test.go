package adopt

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/coredns-anycast/coredns-anycast/internal/corefiles"
	"github.com/coredns-anycast/coredns-anycast/internal/fields"
)

var placed = regexp.MustCompile(`^\S+:\d+: \S`)

// judged wants a plan whose parts all have a place, or errors that do.
func judged(t *testing.T, plan *Plan, err error) {
	t.Helper()
	var all fields.Errors
	switch {
	case err == nil:
		for _, p := range plan.Parts {
			if p.Line == 0 || p.File == "" || p.What == "" && p.Block == "" || p.Fate != Kept && p.Says == "" {
				t.Errorf("%+v", p)
			}
		}
	case !errors.As(err, &all) || len(all) == 0:
		t.Errorf("%T: %v", err, err)
	default:
		for _, line := range all {
			if !placed.MatchString(line) {
				t.Errorf("error %q", line)
			}
		}
	}
}

// FuzzCorefile: whatever a Corefile has, it is read or refused with places. What is quoted comes out as it was.
func FuzzCorefile(f *testing.F) {
	f.Add("example.org:53 {\n root zones\n file db.x a b {\n reload 0\n}\n auto {\n directory . (.*)\\.zone {1}\n}\n}\n")
	f.Add("10.0.0.0/22 tls://x {\n secondary {\n transfer from ::1 1.2.3.4:5\n catalog a\n}\n tsig {\n secret k. AAAA\n require all\n}\n transfer {\n to * 1.2.3.4\n}\n}\n")
	f.Add("(s) {\n errors\n}\n. {\n import s\n log . \"{remote} # \\\"x\\\"\"\n view a {\n expr true\n}\n}\n")
	dir := f.TempDir()
	path := filepath.Join(dir, "Corefile")
	if err := os.WriteFile(filepath.Join(dir, "db.x"), []byte(corefiles.ZoneText), 0o644); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if strings.Contains(text, "import") || strings.Contains(text, "..") || strings.Contains(text, "/") && strings.Contains(text, "directory") {
			t.Skip("it might read any file of this machine")
		}
		plan, err := parseCorefile(path, "", []byte(text))
		judged(t, plan, err)
	})
}

// FuzzServers: whatever is in the configuration of Knot, NSD or BIND, it is read, or refused with places.
func FuzzServers(f *testing.F) {
	for _, text := range configurations {
		f.Add(text, false)
		f.Add(text, true)
	}
	f.Fuzz(func(t *testing.T, text string, whole bool) {
		if strings.Contains(text, "include") || strings.Contains(text, "/") || strings.Contains(text, "..") {
			t.Skip("it might read any file of this machine")
		}
		o := Options{Whole: whole, Dir: "nowhere"}
		for name, read := range map[string]func(string, []byte, Options) (*Plan, error){"knot.conf": parseKnot, "nsd.conf": parseNSD, "named.conf": parseNamed} {
			plan, err := read(name, []byte(text), o)
			judged(t, plan, err)
		}
	})
}
