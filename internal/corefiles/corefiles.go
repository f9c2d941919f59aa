// Package corefiles has the Corefiles of CoreDNS's own documentation and tests, for tests of what reads Corefiles.
package corefiles

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

// Example is a Corefile of CoreDNS's own documentation or tests.
type Example struct {
	From string // file, and the number of its block or string there
	Text string
	Good bool // CoreDNS's own test starts by it
}

// coreDNS is the source of CoreDNS, as this module has it.
func coreDNS(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/coredns/coredns").Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

// All are the Corefiles in CoreDNS's documentation and tests, and what is in them and may stand in a block of one. known tells
// directives from other words.
func All(t *testing.T, known func(directive string) bool) (all []Example) {
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
			tested := map[string]bool{}
			for _, m := range good.FindAllStringSubmatch(load(t, file), -1) {
				tested[m[1]] = true
			}
			for i, text := range read(t, file) {
				name, _ := filepath.Rel(top, file)
				text = strings.ReplaceAll(text, "/tmp", "tmp") // nobody walks this machine
				if text := asCorefile(text, known); text != "" {
					all = append(all, Example{fmt.Sprintf("%s#%d", name, i), text, strings.HasSuffix(pattern, "README.md") && tested[text]})
					found++
				}
			}
		}
		t.Logf("%s: %d Corefiles", pattern, found)
	}
	return all
}

// asCorefile is text if it is a Corefile, or that of a block if it is what stands in one; empty: it is neither.
func asCorefile(text string, known func(string) bool) string {
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

var good = regexp.MustCompile("(?ms)^~~~ corefile\n(.*?)^~~~")

var fence = regexp.MustCompile("(?ms)^(?:~~~|```)[^\n]*\n(.*?)^(?:~~~|```)")

// fenced are the blocks of a page.
func fenced(t *testing.T, file string) (all []string) {
	for _, m := range fence.FindAllStringSubmatch(load(t, file), -1) {
		all = append(all, m[1])
	}
	return all
}

var verbatim = regexp.MustCompile(`(?ms)^\.nf\n(.*?)^\.fi`)

// manual are the displays of a man page.
func manual(t *testing.T, file string) (all []string) {
	for _, m := range verbatim.FindAllStringSubmatch(load(t, file), -1) {
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

func load(t *testing.T, file string) string {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// ZoneText is a zone of any name.
const ZoneText = "@ 300 SOA ns1 host 1 7200 3600 1209600 300\n@ 300 NS ns1\n@ 300 NS ns.elsewhere.net.\nns1 300 A 192.0.2.53\n"

// Prepare makes the zone files that a Corefile names, where they are relative, and returns where it lies, below in.
func Prepare(t *testing.T, in, text string) string {
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
					os.WriteFile(path, []byte(ZoneText), 0o644)
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
