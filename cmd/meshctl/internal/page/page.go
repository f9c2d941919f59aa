// Package page renders the mesh for people with a browser: the documents that "meshctl status --json" and "meshctl history --json"
// print, as one page that needs no script and no asset from elsewhere, and that "meshctl serve" keeps live by server-sent events.
//
//	Document ──► view ──► sections, each with an id ──► the page, or what has changed of it
//
// What members say is data: each value is escaped, and stands in text or in a quoted attribute. It imports packages history, home, switchover and unattended of its
// neighbours; cmd/meshctl calls it.
package page

import (
	"bytes"
	"embed"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/history"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/unattended"
	"github.com/coredns-anycast/coredns-anycast/internal/identity"
	"github.com/coredns-anycast/coredns-anycast/internal/template"
)

//go:embed page.html page.css page.js icon.svg
var files embed.FS

// Document is what the page shows.
type Document struct {
	Status  unattended.Status
	History []history.Record // the latest first
	Reader  Reader
}

// Reader is who looks at it.
type Reader struct{ Name, Role string }

// operates reports whether the reader may change something.
func (r Reader) operates() bool { return r.Role == identity.Operator }

// section is a part of the page that changes as a whole. Rows are parts of it that may change alone while its Shape is the same.
type section struct {
	ID    string
	HTML  string
	Shape string
	Rows  []section
}

// functions are those of page.html.
var functions = map[string]any{
	"clock": clockTime, "full": fullTime, "machine": machineTime, "known": func(t time.Time) bool { return !t.IsZero() },
	"add":  func(a, b int) int { return a + b },
	"down": func(a float64, b int) float64 { return round(a + float64(b)) },
	"table": func(caption string, rows []memberView) any {
		return struct {
			Caption string
			Rows    []memberView
		}{caption, rows}
	},
	"charttable": func(id, caption string, c chart) any {
		return struct {
			ID, Caption string
			Chart       chart
		}{id, caption, c}
	},
}

// escape makes of a value what means that value in HTML, in text and in a quoted attribute.
var escape = strings.NewReplacer("\x00", "\uFFFD", `"`, "&#34;", "&", "&amp;", "'", "&#39;", "+", "&#43;", "<", "&lt;", ">", "&gt;").Replace

// templates are parsed once somebody looks.
var templates = sync.OnceValues(func() (*template.Template, error) {
	text, err := files.ReadFile("page.html")
	if err != nil {
		return nil, err
	}
	return template.Parse("page.html", string(text), functions, escape)
})

// sectionNames are the templates of the sections, in order.
var sectionNames = []string{"verdict", "alarms", "release", "members", "charts", "history", "drift"}

// sectionsOf renders all sections.
func sectionsOf(v view) ([]section, error) {
	var all []section
	for _, name := range sectionNames {
		html, err := render(name, v)
		if err != nil {
			return nil, err
		}
		s := section{ID: name, HTML: html}
		if name == "members" {
			if s.Rows, err = rowsOf(v.Members); err != nil {
				return nil, err
			}
			s.Shape = shapeOf(v.Members)
		}
		all = append(all, s)
	}
	return all, nil
}

func rowsOf(m membersView) (rows []section, err error) {
	for _, list := range [][]memberView{m.Shown, m.Rest} {
		for _, one := range list {
			html, err := render("member", one)
			if err != nil {
				return nil, err
			}
			rows = append(rows, section{ID: "m-" + one.Name, HTML: html})
		}
	}
	return rows, nil
}

// shapeOf is what must be the same for rows to change alone: who is where, and in what state.
func shapeOf(m membersView) string {
	var b bytes.Buffer
	for _, list := range [][]memberView{m.Shown, m.Rest} {
		for _, one := range list {
			fmt.Fprintf(&b, "%s %s,", one.Name, one.State)
		}
		b.WriteByte(';')
	}
	return b.String()
}

func render(name string, data any) (string, error) {
	t, err := templates()
	if err != nil {
		return "", err
	}
	return t.Execute(name, data)
}

// Render renders the whole page.
func Render(d Document) ([]byte, error) {
	v := viewOf(d)
	sections, err := sectionsOf(v)
	if err != nil {
		return nil, err
	}
	top, err := render("top", struct {
		Title  string
		View   view
		Reader Reader
	}{v.Verdict + " – " + v.Mesh, v, d.Reader})
	if err != nil {
		return nil, err
	}
	var b strings.Builder
	b.WriteString(top)
	for _, s := range sections {
		b.WriteString(s.HTML + "\n")
	}
	bottom, err := render("bottom", nil)
	b.WriteString(bottom)
	return []byte(b.String()), err
}
