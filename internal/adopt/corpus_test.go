package adopt

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/coredns/caddy/caddyfile"
)

// example is a Corefile of CoreDNS's own documentation or tests.
type example struct{ from, text string }

// coreDNS is the source of CoreDNS, as this module has it.
func coreDNS(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/coredns/coredns").Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

// corpus are all Corefiles in CoreDNS's documentation and tests.
func corpus(t *testing.T) (all []example) {
	t.Helper()
	top := coreDNS(t)
	for pattern, read := range map[string]func(*testing.T, string) []string{
		"*.md": fenced, "plugin/*/README.md": fenced, "man/*": manual, "test/*.go": literals, "plugin/*/*_test.go": literals, "core/dnsserver/*_test.go": literals,
	} {
		files, err := filepath.Glob(filepath.Join(top, pattern))
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %v", pattern, err)
		}
		found := 0
		for _, file := range files {
			for i, text := range read(t, file) {
				name, _ := filepath.Rel(top, file)
				if text := asCorefile(text); text != "" {
					all = append(all, example{fmt.Sprintf("%s#%d", name, i), text})
					found++
				}
			}
		}
		t.Logf("%s: %d Corefiles", pattern, found)
	}
	return all
}

// asCorefile is text if it is a Corefile, or that of a block if it is what stands in one; empty: it is neither.
func asCorefile(text string) string {
	for _, text := range []string{text, "example.org {\n" + text + "\n}\n"} {
		blocks, err := caddyfile.Parse("Corefile", strings.NewReader(text), nil)
		if err != nil {
			continue
		}
		for _, b := range blocks {
			for name := range b.Tokens {
				if known(name) {
					return text
				}
			}
		}
	}
	return ""
}

// known reports whether a directive is one of CoreDNS.
func known(name string) bool {
	_, kept := carried[name]
	switch name {
	case "file", "auto", "secondary", "transfer", "tsig", "view", "tls":
		return true
	}
	return kept || elsewhere[name] != "" || absent[name] != ""
}

var fence = regexp.MustCompile("(?ms)^(?:~~~|```)[^\n]*\n(.*?)^(?:~~~|```)")

// fenced are the blocks of a page.
func fenced(t *testing.T, file string) (all []string) {
	for _, m := range fence.FindAllStringSubmatch(read(t, file), -1) {
		all = append(all, m[1])
	}
	return all
}

var verbatim = regexp.MustCompile(`(?ms)^\.nf\n(.*?)^\.fi`)

// manual are the displays of a man page.
func manual(t *testing.T, file string) (all []string) {
	for _, m := range verbatim.FindAllStringSubmatch(read(t, file), -1) {
		text := strings.NewReplacer(`\-`, "-", `\&`, "", `\fB`, "", `\fP`, "", `\(dq`, `"`, `\\`, `\`, `\ `, " ").Replace(m[1])
		all = append(all, text)
	}
	return all
}

// literals are the strings of a Go file, with numbers and words in place of what Printf puts in.
func literals(t *testing.T, file string) (all []string) {
	parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	ast.Inspect(parsed, func(n ast.Node) bool {
		e, ok := n.(ast.Expr)
		if !ok {
			return true
		}
		text, is := constant(e)
		if is && strings.ContainsAny(text, "{ ") && len(text) < 10_000 {
			all = append(all, strings.NewReplacer("%d", "53", "%s", "word", "%q", `"word"`).Replace(text))
		}
		return !is
	})
	return all
}

// constant is a string that is written in one piece or in several, with a word in place of what is no string there.
func constant(e ast.Expr) (text string, ok bool) {
	switch e := e.(type) {
	case *ast.BasicLit:
		if e.Kind == token.STRING {
			text, err := strconv.Unquote(e.Value)
			return text, err == nil
		}
	case *ast.BinaryExpr:
		left, isLeft := constant(e.X)
		right, isRight := constant(e.Y)
		if e.Op == token.ADD && (isLeft || isRight) {
			if !isLeft {
				left = "word"
			}
			if !isRight {
				right = "word"
			}
			return left + right, true
		}
	}
	return "", false
}

func read(t *testing.T, file string) string {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

const zoneText = "@ 300 SOA ns1 host 1 7200 3600 1209600 300\n@ 300 NS ns1\n@ 300 NS ns.elsewhere.net.\nns1 300 A 192.0.2.53\n"

// prepare makes the zone files that a Corefile names, where they are relative, and returns where it lies.
func prepare(t *testing.T, in, text string) string {
	t.Helper()
	dir, err := os.MkdirTemp(in, "")
	if err != nil {
		t.Fatal(err)
	}
	blocks, _ := caddyfile.Parse("Corefile", strings.NewReader(text), nil)
	for _, b := range blocks {
		d := caddyfile.NewDispenserTokens("Corefile", b.Tokens["file"])
		for d.Next() {
			if d.NextArg() && filepath.IsLocal(d.Val()) {
				path := filepath.Join(dir, d.Val())
				if os.MkdirAll(filepath.Dir(path), 0o755) == nil {
					os.WriteFile(path, []byte(zoneText), 0o644)
				}
			}
		}
	}
	path := filepath.Join(dir, "Corefile")
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestEveryCorefileOfCoreDNS: each Corefile in CoreDNS's documentation and tests is read, and every directive in it, and every property
// of those that serve zones, is spoken of; or every error has its place.
func TestEveryCorefileOfCoreDNS(t *testing.T) {
	adopted, refused, total, in := 0, 0, 0, t.TempDir()
	for _, e := range corpus(t) {
		total++
		path := prepare(t, in, e.text)
		plan, err := Corefile(path, "")
		if err != nil {
			refused++
			for _, line := range strings.Split(err.Error(), "\n") {
				if !regexp.MustCompile(`^\S+:\d+: \S`).MatchString(line) {
					t.Errorf("%s: error %q\n%s", e.from, line, e.text)
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
func spoken(t *testing.T, e example, path string, plan *Plan) {
	t.Helper()
	said := map[string]bool{}
	for _, p := range plan.Parts {
		if p.Fate != Kept && p.Says == "" || p.Line == 0 {
			t.Errorf("%s: %+v says nothing", e.from, p)
		}
		said[fmt.Sprintf("%d %s", p.Line, p.What)] = true
		said[fmt.Sprint(p.Line)] = true
	}
	blocks, _ := caddyfile.Parse(path, strings.NewReader(e.text), nil)
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
					t.Errorf("%s: nothing is said of %s in line %d\n%s", e.from, here, d.Line(), e.text)
				}
				d.RemainingArgs()
				for d.NextBlock() {
					switch name {
					case "file", "auto", "secondary":
						if !said[fmt.Sprint(d.Line())] {
							t.Errorf("%s: nothing is said of %s in line %d\n%s", e.from, d.Val(), d.Line(), e.text)
						}
					}
					d.RemainingArgs()
				}
			}
		}
	}
}
