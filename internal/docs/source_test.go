package docs

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
)

// source are the parsed files of a folder, but for tests.
func source(t *testing.T, folder string) (all []*ast.File) {
	t.Helper()
	files, _ := filepath.Glob(filepath.Join(testenv.Top(t), folder, "*.go"))
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, parsed)
	}
	if len(all) == 0 {
		t.Fatalf("no source in %s", folder)
	}
	return all
}

// written is the text of a literal.
func written(e ast.Expr) (string, bool) {
	lit, ok := e.(*ast.BasicLit)
	if !ok || lit.Kind != token.STRING {
		return "", false
	}
	s, err := strconv.Unquote(lit.Value)
	return s, err == nil
}

func texts(all []ast.Expr) (found []string) {
	for _, e := range all {
		if list, ok := e.(*ast.CompositeLit); ok {
			found = append(found, texts(list.Elts)...)
		} else if s, ok := written(e); ok {
			found = append(found, s)
		}
	}
	return found
}

func nameOf(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.Ident:
		return e.Name
	case *ast.SelectorExpr:
		return e.Sel.Name
	}
	return ""
}

// programs are whose metrics are told, with the folders where those are made, and what each folder puts before a name.
var programs = []struct {
	name, where string
	folders     map[string]string
}{
	{"coredns", "They are at 127.0.0.1:9153, and at /metrics/dns of the administrative plane over mutual TLS. Those of CoreDNS itself are in its documentation.",
		map[string]string{"plugin/sharedunicast": "coredns_sharedunicast_", "plugin/meshsync": "coredns_meshsync_"}},
	{"anycast-sidecar", "They are at /metrics of the administrative plane over mutual TLS, and on loopback with `metrics`.", map[string]string{"sidecar": "", "sidecar/clock": ""}},
	{"meshctl serve", "They are on loopback, with `serve: metrics`.", map[string]string{"cmd/meshctl/internal/unattended": "meshctl_"}},
}

// metric is what the source says of one.
type metric struct{ name, kind, labels, help string }

// metrics finds where a folder makes metrics: by a function of its own, by the options of Prometheus, or in a table of rows.
func metrics(t *testing.T, folder, prefix string) (all []metric) {
	t.Helper()
	add := func(name, kind, help string, labels []string) {
		if strings.HasSuffix(name, "_total") {
			kind = "counter"
		}
		all = append(all, metric{name, kind, strings.Join(labels, ", "), help})
	}
	for _, file := range source(t, folder) {
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.CallExpr:
				switch made := nameOf(n.Fun); made {
				case "gauge", "counter", "desc":
					if said := texts(n.Args); len(said) >= 2 {
						add(prefix+said[0], "gauge", said[1], said[2:])
					}
				case "NewDesc":
					if name, ok := n.Args[0].(*ast.CallExpr); ok && len(texts(n.Args)) > 0 {
						words, said := texts(name.Args), texts(n.Args)
						add(prefix+words[len(words)-1], "gauge", said[0], said[1:])
					}
				case "NewCounter", "NewCounterVec", "NewGauge", "NewGaugeVec", "NewHistogram", "NewHistogramVec":
					name, help := options(n.Args[0])
					if name != "" {
						add(prefix+name, strings.ToLower(strings.TrimSuffix(strings.TrimPrefix(made, "New"), "Vec")), help, texts(n.Args[1:]))
					}
				}
			case *ast.CompositeLit:
				if said := texts(n.Elts); nameOf(n.Type) == "Metric" && len(said) == 2 {
					add(prefix+said[0], "gauge", said[1], nil)
				}
			}
			return true
		})
	}
	return all
}

// options are the name and the help of prometheus.…Opts.
func options(e ast.Expr) (name, help string) {
	literal, ok := e.(*ast.CompositeLit)
	if !ok {
		return "", ""
	}
	for _, element := range literal.Elts {
		if pair, ok := element.(*ast.KeyValueExpr); ok {
			switch said, _ := written(pair.Value); nameOf(pair.Key) {
			case "Name":
				name = said
			case "Help":
				help = said
			}
		}
	}
	return name, help
}

// TestReferenceMetrics: docs/reference/metrics.md has every metric that the source makes. test/docs compares it with those that
// running programs tell.
func TestReferenceMetrics(t *testing.T) {
	var text strings.Builder
	count := 0
	for _, p := range programs {
		var all []metric
		for folder, prefix := range p.folders {
			all = append(all, metrics(t, folder, prefix)...)
		}
		slices.SortFunc(all, func(a, b metric) int { return strings.Compare(a.name, b.name) })
		fmt.Fprintf(&text, "## %s\n\n%s\n\n| metric | type | labels | meaning |\n|---|---|---|---|\n", p.name, p.where)
		for _, m := range slices.Compact(all) {
			fmt.Fprintf(&text, "| `%s` | %s | %s | %s |\n", m.name, m.kind, m.labels, Cell(m.help))
			count++
		}
		text.WriteString("\n")
	}
	if count < 70 {
		t.Errorf("%d metrics: the test reads the source wrongly", count)
	}
	Page(t, testenv.Top(t), "metrics.md", "Metrics", text.String())
}

// TestReferenceJSON: docs/reference/json.md has every document of internal/status, with every member.
func TestReferenceJSON(t *testing.T) {
	var text strings.Builder
	text.WriteString("The documents that programs exchange, and that `--json` prints. `Node` is that of meshsync's status socket, `Sidecar` that of `anycast-sidecar status --json` " +
		"and `/v1/status`, `Confirmation` that of `/v1/confirmations`. A member that is not there is zero. Instants that end in `_ns` are nanoseconds since 1970, UTC.\n\n")
	for _, file := range source(t, "internal/status") {
		for _, decl := range file.Decls {
			for _, spec := range specs(decl) {
				structure, ok := spec.Type.(*ast.StructType)
				if rows := members(structure); ok && rows != "" {
					said := ""
					if doc := decl.(*ast.GenDecl).Doc; doc != nil {
						said = strings.TrimSpace(doc.Text())
					}
					fmt.Fprintf(&text, "## %s\n\n%s\n\n| member | type | meaning |\n|---|---|---|\n%s\n", spec.Name.Name, said, rows)
				}
			}
		}
	}
	Page(t, testenv.Top(t), "json.md", "JSON documents", text.String())
}

func specs(decl ast.Decl) (all []*ast.TypeSpec) {
	if types, ok := decl.(*ast.GenDecl); ok {
		for _, s := range types.Specs {
			if spec, ok := s.(*ast.TypeSpec); ok && spec.Name.IsExported() {
				all = append(all, spec)
			}
		}
	}
	return all
}

var jsonName = regexp.MustCompile("json:\"([a-z0-9_]+)")

func members(s *ast.StructType) (rows string) {
	if s == nil {
		return ""
	}
	for _, f := range s.Fields.List {
		if f.Tag == nil {
			continue
		}
		if m := jsonName.FindStringSubmatch(f.Tag.Value); m != nil {
			said := strings.TrimSpace(f.Comment.Text())
			if said == "" {
				said = strings.TrimSpace(f.Doc.Text())
			}
			rows += fmt.Sprintf("| `%s` | %s | %s |\n", m[1], typeOf(f.Type), Cell(said))
		}
	}
	return rows
}

func typeOf(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.StarExpr:
		return typeOf(e.X)
	case *ast.ArrayType:
		return "list of " + typeOf(e.Elt)
	case *ast.MapType:
		return "object of " + typeOf(e.Value)
	}
	switch name := nameOf(e); name {
	case "Wall", "Mono", "int", "int64", "uint64", "uint32", "uint16", "uint8", "float64", "Duration":
		return "number"
	case "string", "bool":
		return name
	case "Time":
		return "instant (RFC 3339)"
	default:
		return name
	}
}

var (
	syntax = regexp.MustCompile(`(?s)## Syntax\n\n~~~ txt\n(.*?)~~~`)
	bullet = regexp.MustCompile(`(?m)^\* (.*(?:\n  .*)*)`)
	cased  = map[string][]string{"sharedunicast": {"admin"}, "meshsync": nil}
)

// TestReferenceCorefile: docs/reference/corefile.md has every property of both plugins, as their man pages have it.
func TestReferenceCorefile(t *testing.T) {
	var text strings.Builder
	for _, plugin := range []string{"sharedunicast", "meshsync"} {
		page, err := os.ReadFile(filepath.Join(testenv.Top(t), "plugin", plugin, "README.md"))
		if err != nil {
			t.Fatal(err)
		}
		_, section, _ := strings.Cut(string(page), "## Syntax\n")
		section, _, _ = strings.Cut("## Syntax\n"+section, "\n## Metrics")
		section, _, _ = strings.Cut(section, "\n## Transfers")
		fmt.Fprintf(&text, "## %s\n\nThe man page is [plugin/%[1]s/README.md](../../plugin/%[1]s/README.md).\n\n```text\n%s```\n\n", plugin, syntax.FindStringSubmatch(section)[1])
		for _, m := range bullet.FindAllString(section, -1) {
			text.WriteString(m + "\n")
		}
		text.WriteString("\n")
		for _, property := range append(properties(t, "plugin/"+plugin), cased[plugin]...) {
			if !strings.Contains(section, "`"+property+"`") {
				t.Errorf("plugin/%s/README.md does not say what %s is", plugin, property)
			}
		}
	}
	Page(t, testenv.Top(t), "corefile.md", "Corefile: properties of both plugins", text.String())
}

// properties are the words that a plugin takes in its block: the cases of the switches in the functions that read one.
func properties(t *testing.T, folder string) (all []string) {
	t.Helper()
	for _, file := range source(t, folder) {
		ast.Inspect(file, func(n ast.Node) bool {
			f, ok := n.(*ast.FuncDecl)
			if !ok || f.Body == nil || !strings.Contains(strings.ToLower(f.Name.Name), "propert") && f.Name.Name != "set" {
				return true
			}
			ast.Inspect(f, func(n ast.Node) bool {
				if c, ok := n.(*ast.CaseClause); ok {
					all = append(all, texts(c.List)...)
				}
				return true
			})
			return false
		})
	}
	if len(all) < 5 {
		t.Fatalf("%s takes %q: the test reads it wrongly", folder, all)
	}
	return all
}
