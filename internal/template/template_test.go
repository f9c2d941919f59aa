package template

import (
	"errors"
	"strings"
	"testing"
	"text/template"
)

type inner struct {
	Word  string
	Count uint32
}

type facts struct {
	inner
	Name  string
	N     int
	Share float64
	On    bool
	List  []string
	Rows  []inner
	First *inner
	None  *inner
	Any   any
	Empty []int
}

// Inner is embedded as NewMember is in the facts of a node.
type everything struct {
	Inner
	facts
}

// Inner has what a field of an embedded type is.
type Inner struct{ Deep string }

var told = everything{Inner{"deep"}, facts{Name: "tyo<1>", N: -3, Share: 0.25, On: true, List: []string{"a", "b", ""}, Rows: []inner{{"x", 1}, {"", 64500}},
	First: &inner{"p", 7}, Any: 5}}

var functions = map[string]any{
	"add":  func(a, b int) int { return a + b },
	"half": func(a float64) float64 { return a / 2 },
	"fail": func() (string, error) { return "", errors.New("failed") },
}

// both fills a text in by this package and by text/template.
func both(text string) (ours, theirs string, err, wrong error) {
	t, err := Parse("it", text, functions, nil)
	if err == nil {
		ours, err = t.Execute("it", told)
	}
	var b strings.Builder
	o, wrong := template.New("it").Funcs(functions).Parse(text)
	if wrong == nil {
		wrong = o.Execute(&b, told)
	}
	return ours, b.String(), err, wrong
}

var texts = []string{
	"plain", "{{.Name}} {{.N}} {{.Share}} {{.On}} {{.List}} {{.Deep}} {{.Any}}", "{{/* nothing */}}{{- .Name -}} x",
	"{{if .On}}on{{else}}off{{end}}{{if not .On}}a{{else if .N}}b{{else}}c{{end}}",
	"{{range .List}}<{{.}}>{{end}}{{range .Rows}}{{.Word}}={{.Count}},{{$.Name}};{{else}}none{{end}}{{range .Empty}}{{else}}no{{end}}",
	"{{range $i, $v := .List}}{{if $i}}, {{end}}{{$v}}{{end}}{{range $v := .Rows}}{{$v.Count}}{{end}}{{range $v := 3}}{{$v}}{{end}}{{range 2}}{{.}}{{end}}",
	"{{$x := .N}}{{with .First}}{{.Word}}{{$x}}{{end}}{{with $y := .Name}}{{$y}}{{.}}{{else}}no{{end}}{{with .None}}{{else}}nothing{{end}}{{with .Any}}{{.}}{{end}}",
	"{{$x := 1}}{{range .List}}{{$x = add $x 1}}{{end}}{{$x}}", "{{$x := 1}}{{if .On}}{{$x := 2}}{{$x}}{{end}}{{$x}}",
	"{{range .List}}{{if eq . \"b\"}}{{break}}{{end}}{{.}}{{end}}{{range .List}}{{if eq . \"a\"}}{{continue}}{{end}}({{.}}){{end}}",
	"{{define \"a\"}}[{{.}}]{{end}}{{template \"a\" .Name}}{{template \"a\"}}{{block \"b\" .N}}{{.}}{{end}}", "{{define \"a\"}}{{$}}{{end}}{{range .List}}{{template \"a\" .}}{{end}}",
	"{{eq .Name \"x\" \"tyo<1>\"}} {{ne .N -3}} {{lt .N 1}} {{le .Share 0.5}} {{gt 2 1}} {{ge \"b\" \"a\"}} {{eq .On true}} {{range .Rows}}{{eq .Count 64500}}{{lt -1 .Count}}{{gt .Count -1}}{{end}}",
	"{{and .On .N}} {{or .None .Name}} {{and .None (fail)}} {{or 1 (fail)}} {{.On | and .N}} {{not .Name}}",
	"{{len .List}} {{len .Name}} {{index .List 1}} {{slice .Name 1 3}} {{slice .List 1}} {{(index .Rows 1).Count}} {{index .Name 0}}",
	"{{printf \"%q %d %v\" .Name .N .List}} {{print .N 1 \"a\" \"b\"}} {{println}} {{.Name | printf \"%s-%s\" \"x\" | len}} {{html .Name}} {{js .Name}} {{urlquery .Name}} {{.Name | html}}",
	"{{half 3}} {{half .Share}} {{add 'a' 0x10}} {{add 1 -4}} {{1e3}} {{0x1p4}} {{1_000}} {{2.0}} {{'\\n'}} {{true}} {{\"a\\tb\"}} {{`raw`}}",
	// mistakes
	"{{.Nme}}", "{{range $i, $v := 3}}{{end}}", "{{range .None}}{{end}}", "{{.Name.More}}", "{{.None.Word}}", "{{fail}}", "{{add 1}}", "{{add 1 2 3}}", "{{add 1 \"a\"}}", "{{add 1 2.5}}", "{{nosuch}}", "{{$x}}", "{{if}}{{end}}", "{{range .N}}{{end}}{{range .Name}}{{end}}",
	"{{template \"nosuch\"}}", "{{index .List 3}}", "{{index .List -1}}", "{{slice .Name 2 1}}", "{{lt .List .List}}", "{{eq .Name 1}}", "{{nil}}", "{{1 2}}", "{{.Name 1}}", "{{.N | .Name}}", "{{and}}", "{{eq 1}}",
	"{{range .List}}", "{{end}}", "{{define \"r\"}}{{template \"r\"}}{{end}}{{template \"r\"}}", "{{99999999999999999999}}", "{{.inner}}", "{{add 18446744073709551615 1}}",
}

// TestAsTextTemplate: what text/template makes of a template is made of it here, and what it refuses is refused.
func TestAsTextTemplate(t *testing.T) {
	for _, text := range texts {
		if ours, theirs, err, wrong := both(text); ours != theirs && wrong == nil || (err == nil) != (wrong == nil) {
			t.Errorf("%s\n here          %q, %v\n text/template %q, %v", text, ours, err, theirs, wrong)
		}
	}
}

// TestErrorsNameThePlace: a mistake is named by file, line and column, also in a template that another one calls.
func TestErrorsNameThePlace(t *testing.T) {
	for text, want := range map[string]string{
		"a\n{{.Nme}}": "it:2:2: .Nme: there is no Nme in template.everything",
		"{{define \"a\"}}\n\n  {{add 1 .Name}}{{end}}{{template \"a\" .}}": "it:3:4: add 1 .Name: add: argument 2: string, want int",
		"{{if .On}}\n{{range .Name}}{{end}}{{end}}":                        "it:2:8: .Name: string has no items",
	} {
		if _, _, err, _ := both(text); err == nil || err.Error() != want {
			t.Errorf("%q: %v, want %s", text, err, want)
		}
	}
}

// TestEscapesEveryValue: and no text of the template.
func TestEscapesEveryValue(t *testing.T) {
	it, err := Parse("it", `<a>{{.Name}}{{with $x := .Name}}{{.}}{{end}}{{range .List}}{{printf "%s" $.Name}}{{end}}`, functions, strings.ToUpper)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := it.Execute("it", told); got != "<a>"+strings.Repeat("TYO<1>", 5) || err != nil {
		t.Errorf("%q, %v", got, err)
	}
}

// FuzzAsTextTemplate: as TestAsTextTemplate, with any text. What text/template can do more is passed over.
func FuzzAsTextTemplate(f *testing.F) {
	for _, text := range texts {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if len(text) > 1000 || strings.Contains(text, "call") || strings.Contains(text, "range") && strings.ContainsAny(text, "123456789x") {
			return
		}
		ours, theirs, err, wrong := both(text)
		if err == nil && wrong == nil && ours != theirs {
			t.Errorf("%q: %q, and by text/template %q", text, ours, theirs)
		}
		if err == nil && wrong != nil {
			t.Errorf("%q: %q, and by text/template %v", text, ours, wrong)
		}
	})
}
