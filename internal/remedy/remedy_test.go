package remedy

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
)

// declaring are the packages that declare codes, as constants.
var declaring = []string{"internal/mesh", "internal/gate", "internal/release", "internal/status", "plugin/meshsync", "sidecar", "sidecar/bgp", "sidecar/mirror", "cmd/meshctl/internal/unattended"}

// others are constants of these packages that look like codes and are none: words of formats, events and states.
var others = []string{"EventProposed", "EventCommitted", "EventWithdrawn", "EventSettled", "EventRenewed", "EventMarked", "EventPresumed",
	"Established", "BFDUp", "Unseen", "Good", "Behind", "Slow", "Unusable", "LevelError", "LevelWarning",
	"Proposed", "Committed", "Declined", "Void", "Presumed", "placeRepository", "placeMemory", "placePromise", "withdrawal"}

var codelike = regexp.MustCompile(`^[a-z]+(-[a-z]+)*$`)

// declared are the codes that the project's source declares, with where: constants of the packages above, and whatever is written
// out in a status.Reason anywhere, or in a fault of meshsync. (Rules of zones are other codes: "meshctl check --rules" has them.)
func declared(t *testing.T) map[string]string {
	t.Helper()
	top, all := testenv.Top(t), map[string]string{}
	err := filepath.WalkDir(top, func(file string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || path.Ext(file) != ".go" || strings.HasSuffix(file, "_test.go") {
			return err
		}
		name, _ := filepath.Rel(top, file)
		dir := path.Dir(filepath.ToSlash(name))
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
		if err != nil {
			return err
		}
		ast.Inspect(parsed, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.KeyValueExpr:
				if key, ok := n.Key.(*ast.Ident); ok && (key.Name == "Code" || key.Name == "Rule" && dir == "plugin/meshsync") {
					note(all, n.Value, name)
				}
			case *ast.GenDecl:
				for _, spec := range n.Specs {
					if v, ok := spec.(*ast.ValueSpec); ok && n.Tok == token.CONST && slices.Contains(declaring, dir) {
						for i, value := range v.Values {
							if !slices.Contains(others, v.Names[i].Name) {
								note(all, value, name+": "+v.Names[i].Name)
							}
						}
					}
				}
			}
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, state := range []string{"behind", "slow", "unusable"} { // sidecar.repositoryWarnings puts them together
		all["repository-"+state] = "sidecar/sidecar.go"
	}
	return all
}

func note(all map[string]string, value ast.Expr, where string) {
	if lit, ok := value.(*ast.BasicLit); ok && lit.Kind == token.STRING {
		if code, err := strconv.Unquote(lit.Value); err == nil && codelike.MatchString(code) {
			all[code] = where
		}
	}
}

// entries are those of the table, and then of the rules of repositories that have none in it.
func entries(t *testing.T) []Entry {
	all := slices.Clone(table)
	for _, code := range slices.Sorted(maps.Keys(declared(t))) {
		if e := For(code); e.From == repository && !slices.Contains(table, e) {
			all = append(all, e)
		}
	}
	return all
}

// TestEveryCodeHasARemedy, wherever it is declared; and no entry is left of a code that is no more.
func TestEveryCodeHasARemedy(t *testing.T) {
	codes := declared(t)
	if len(codes) < 80 || codes["members-away"] == "" || codes["probe-dead"] == "" || codes["wrong-as"] == "" || codes["zone-held"] == "" {
		t.Fatalf("the test reads the source wrongly: %v", codes)
	}
	for code, where := range codes {
		if For(code).Do == "" {
			t.Errorf("%s: %q has no entry: say what to do about it", where, code)
		}
	}
	seen := map[string]bool{}
	for _, e := range entries(t) {
		if codes[e.Code] == "" {
			t.Errorf("%q is declared nowhere", e.Code)
		}
		if seen[e.Code] || e.From == "" || !strings.HasSuffix(e.Do, ".") && e.From != repository {
			t.Errorf("%+v: twice, or of nobody, or no sentence", e)
		}
		seen[e.Code] = true
	}
}

// TestThePageOfCodes: docs/reference/codes.md has the table as it is. UPDATE_DOCS=1 writes it.
func TestThePageOfCodes(t *testing.T) {
	file := filepath.Join(testenv.Top(t), "docs", "reference", "codes.md")
	var page strings.Builder
	page.WriteString(`# Codes, and what to do

Every alarm of ` + "`meshctl serve` and `meshctl status`" + `, and every reason that a node, its sidecar or a host gives, has a code that stays as
it is: scripts and metrics may count on it. The words beside it say what was seen. While an alarm of level *error* is on, nodes are silent or
will be, or nothing is published, and ` + "`meshctl status --check`" + ` ends with status 1.

| code | of | what to do |
|---|---|---|
`)
	for _, e := range entries(t) {
		from := e.From
		if strings.Contains(from, alarm) {
			from = strings.Replace(from, alarm, map[bool]string{true: "alarm (error)", false: "alarm (warning)"}[e.Error], 1)
		}
		fmt.Fprintf(&page, "| `%s` | %s | %s |\n", e.Code, from, e.Do)
	}
	if os.Getenv("UPDATE_DOCS") != "" {
		if err := os.WriteFile(file, []byte(page.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	data, err := os.ReadFile(file)
	if err != nil || string(data) != page.String() {
		t.Errorf("%s is not the table of this package (%v): run this test with UPDATE_DOCS=1", file, err)
	}
}
