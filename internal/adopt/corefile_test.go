package adopt

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/coredns/coredns/plugin"

	"github.com/coredns-anycast/coredns-anycast/internal/corefiles"
)

// TestCorefileFates: what is said of the parts of a Corefile, which zones are taken, and which blocks nodes have.
func TestCorefileFates(t *testing.T) {
	for _, c := range []struct{ name, text, zones, blocks, says string }{
		{"the same directives make one block", "a.example {\n file a\n log\n}\nb.example {\n file b\n log\n}\n",
			"a.example. b.example.", ".: log", ":3: a.example: log: kept"},
		{"others make several, and one for zones to come", "a.example {\n file a\n acl {\n  block net 10.0.0.0/8\n }\n}\nb.example {\n file b\n}\n",
			"a.example. b.example.", "a.example.: acl {\n    block net 10.0.0.0/8\n} | b.example.: | .:", ":3: a.example: acl: kept"},
		{"the block without a view has the zone", "a.example {\n view v {\n  expr true\n }\n file a\n}\na.example {\n file b\n log\n}\n",
			"a.example.", ".: log", ":5: a.example: file: not adopted: zone a.example. is taken from FILE:8: a mesh has one content of a zone"},
		{"a view of the same zone stays a view", "a.example {\n view v {\n  expr true\n }\n file a\n log\n}\na.example {\n file a\n}\n",
			"a.example.", "a.example.: view v {\n    expr true\n}\nlog | a.example.: | .:", ":5: a.example: file: changed: zone a.example., as at FILE:9"},
		{"a zone of two plain blocks is in one", "a.example:53 {\n file a\n log\n}\na.example:1053 {\n file a\n}\n",
			"a.example.", ".: log", ":6: a.example:1053: a.example:1053: changed: nodes answer on port 53"},
		{"a key decides who transfers", "a.example {\n file a\n transfer {\n  to *\n }\n}\n",
			"a.example.", ".:", ":3: a.example: transfer: not adopted: nodes give zones only to who has a TSIG key (XFER-1)"},
		{"TLS is named", "tls://a.example {\n file a\n tls cert key\n}\nhttps://b.example {\n file b\n}\n",
			"a.example. b.example.", ".:", ":2: tls://a.example: tls://a.example: not adopted: nodes can answer over TLS"},
		{"a reload and a fallthrough are named", "a.example {\n file a {\n  reload 0\n  fallthrough\n }\n}\n",
			"a.example.", ".:", ":4: a.example: fallthrough: no counterpart: a zone is answered from its own data alone"},
		{"a catalog is one", "cat.example {\n secondary {\n  transfer from 192.0.2.1 192.0.2.2:5353\n  catalog x.example\n }\n}\n",
			"cat.example.", ".:", ":2: cat.example: secondary: changed: catalog zone cat.example., whose members come from primaries 192.0.2.1"},
		{"an acl must let the probe in", "a.example {\n file a\n acl {\n  allow net 10.0.0.0/8\n  block\n }\n}\n",
			"a.example.", ".: acl {\n    allow net 10.0.0.0/8\n    block\n}", ":3: a.example: acl: kept: it must let in the shared address, from which anycast-sidecar's probe asks"},
		{"a block without zones has no counterpart", "a.example {\n file a\n}\n. {\n forward . 192.0.2.9\n errors\n health\n}\n",
			"a.example.", ".:", ":6: .: errors: no counterpart: its block answers from no zone\n:7: .: health: no counterpart: its block answers from no zone\n"},
		{"nor over TLS", "a.example {\n file a\n}\ntls://. {\n tls cert key\n forward . 192.0.2.9\n}\n",
			"a.example.", ".:", ":5: tls://.: tls: no counterpart: its block answers from no zone\n"},
		{"a block whose zones are not taken over waits for them", "a.example {\n file a\n}\na.example:1053 {\n file b\n errors\n}\n",
			"a.example.", ".:", ":6: a.example:1053: errors: not adopted: its block has no zone that is taken over: see first to its zones\n"},
		{"snippets are read where they are", "(common) {\n log\n errors\n}\na.example {\n file a\n import common\n}\n",
			"a.example.", ".: log\nerrors", ":2: a.example: log: kept"},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := corefiles.Prepare(t, t.TempDir(), c.text)
			plan, err := Corefile(path, "")
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(plan.Names(), " "); got != c.zones {
				t.Errorf("zones %s", got)
			}
			var blocks []string
			for _, b := range plan.Blocks {
				blocks = append(blocks, strings.TrimSpace(strings.Join(b.Zones, " ")+": "+strings.Join(b.Directives, "\n")))
			}
			if got := strings.Join(blocks, " | "); got != c.blocks {
				t.Errorf("blocks %q, want %q", got, c.blocks)
			}
			if want, got := strings.ReplaceAll(c.says, "FILE", path), lines(plan); !strings.Contains(got, want) {
				t.Errorf("%q is not in\n%s", want, got)
			}
		})
	}
}

// lines are the parts of a plan as they are printed, without the names of files.
func lines(p *Plan) (text string) {
	for _, part := range p.Parts {
		text += fmt.Sprintf(":%d: %s: %s: %s: %s\n", part.Line, part.Block, part.What, part.Fate, part.Says)
	}
	return text
}

// TestCorefileEnvironment: a variable that is not set here is an error, since its block would be left out without a word.
func TestCorefileEnvironment(t *testing.T) {
	const text = "{$ADOPT_ZONE} {\n  file example.org.db # {$ADOPT_NO}\n  root {%ADOPT_ROOT%}\n}\n"
	path := put(t, "Corefile", text)
	_, err := Corefile(path, "")
	if err == nil || !strings.Contains(err.Error(), `:1: the environment variable "ADOPT_ZONE" is not set here`) || !strings.Contains(err.Error(), `:3: the environment variable "ADOPT_ROOT"`) || strings.Contains(err.Error(), "ADOPT_NO") {
		t.Errorf("got %v", err)
	}
	t.Setenv("ADOPT_ZONE", "example.org")
	t.Setenv("ADOPT_ROOT", filepath.Dir(path))
	if plan, err := Corefile(path, ""); err != nil || len(plan.Zones) != 1 {
		t.Errorf("got %+v, %v", plan, err)
	}
}

// TestCorefileDirectories: a directory of auto is followed where a pattern gives the same zones; otherwise its files are copied.
func TestCorefileDirectories(t *testing.T) {
	for _, c := range []struct {
		name, zones, line string
		files             []string
		followed          string // pattern
		copied, says      string
	}{
		{"the default", ".", "directory DIR", []string{"db.a.example", "db.b.example"}, "db.*", "", "followed as it is"},
		{"a suffix", ".", `directory DIR ^(.*)\.zone$ {1}`, []string{"a.example.zone", "readme"}, "*.zone", "", "followed as it is"},
		{"files below", ".", "directory DIR", []string{"db.a.example", "x/db.b.example"}, "", "a.example. b.example.", "it is followed no more"},
		{"an expression of its own", ".", `directory DIR (.*)-v[0-9]+ {1}`, []string{"a.example-v1"}, "", "a.example.", "it is followed no more"},
		{"a zone of others", "a.example", "directory DIR", []string{"db.a.example", "db.b.example"}, "", "a.example.", "so CoreDNS does not answer for it either: b.example."},
		{"no files", ".", "directory DIR", nil, "", "", "no file in "},
		{"no directory", ".", "directory DIR/gone", nil, "", "", "no such file"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			for _, file := range c.files {
				file = filepath.Join(dir, "in", file)
				if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(file, []byte(corefiles.ZoneText), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			os.MkdirAll(filepath.Join(dir, "in"), 0o755)
			text := c.zones + " {\n auto {\n  " + strings.ReplaceAll(c.line, "DIR", "in") + "\n }\n}\n"
			plan, err := parseCorefile(filepath.Join(dir, "Corefile"), "", []byte(text))
			if err != nil {
				t.Fatal(err)
			}
			followed := ""
			for _, d := range plan.Directories {
				followed += d.Pattern
			}
			var copied []string
			for _, z := range plan.Zones {
				copied = append(copied, z.Name)
			}
			if got := strings.Join(copied, " "); followed != c.followed || got != c.copied {
				t.Errorf("followed %q, copied %q", followed, got)
			}
			if got := lines(plan); !strings.Contains(got, c.says) {
				t.Errorf("%q is not in\n%s", c.says, got)
			}
		})
	}
}

// TestZonesOfAsCoreDNS: a word stands for the zones that CoreDNS takes it for.
func TestZonesOfAsCoreDNS(t *testing.T) {
	for _, word := range []string{"example.org", "Example.ORG.", ".", "10.0.0.0/24", "10.0.0.0/22", "10.0.0.0/29", "10.128.0.0/9", "192.0.2.7/32", "2001:db8::/32",
		"2001:db8:8000::/33", "2001:db8::/31", "fd00::/8"} {
		got, err := zonesOf(word)
		want := plugin.OriginsFromArgsOrServerBlock([]string{word}, nil)
		slices.Sort(got)
		slices.Sort(want)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %v %v, want %v", word, got, err, want)
		}
	}
}

// TestCopies: a zone file is copied as it is where that reads the same, and written out where it does not.
func TestCopies(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return file
	}
	write("more", "www 300 A 192.0.2.1\n")
	for _, c := range []struct{ name, text, file, why string }{
		{"a.example.", "; mine\n" + corefiles.ZoneText, "a.example.zone", ""},
		{"b.example.", "$INCLUDE more\n" + corefiles.ZoneText, "b.example.zone", "written out"},
		{"0/26.2.0.192.in-addr.arpa.", corefiles.ZoneText, "302f32362e322e302e3139322e696e2d616464722e617270612e.zone", "written out"},
	} {
		name, text, why, err := Zone{Name: c.name, File: write("x", c.text)}.Copy()
		if err != nil || name != c.file || !strings.HasPrefix(why, c.why) || (c.why == "") != (string(text) == c.text) || c.why == "" && why != "" {
			t.Errorf("%s: %q %q %v\n%s", c.name, name, why, err, text)
		}
	}
}
