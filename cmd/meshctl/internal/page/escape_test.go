package page

import (
	"html/template"
	"reflect"
	"strings"
	"testing"
	"time"
)

// vile is text that would be more than text in an attribute, an element, a URL, a script or a style.
const vile = "\"'`><script>alert(1)</script><!-- &lt; +%41 \x00 \\u0022 javascript:alert(1);}"

// poison puts it wherever a value has text.
func poison(v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			poison(v.Elem())
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Field(i).CanSet() {
				poison(v.Field(i))
			}
		}
	case reflect.Slice:
		for i := range v.Len() {
			poison(v.Index(i))
		}
	case reflect.String:
		v.SetString(vile)
	}
}

// Whatever is told, each template escapes it as html/template does, which knows where in a page a value stands.
func TestEscapesAsHTMLTemplate(t *testing.T) {
	theirs := template.Must(template.New("page.html").Funcs(functions).ParseFS(files, "page.html"))
	told := 0
	same := func(name string, data any) {
		t.Helper()
		ours, err := render(name, data)
		if err != nil {
			t.Fatal(err)
		}
		var b strings.Builder
		if err := theirs.ExecuteTemplate(&b, name, data); err != nil {
			t.Fatal(err)
		}
		if want := b.String(); ours != want {
			at := 0
			for at < min(len(ours), len(want)) && ours[at] == want[at] {
				at++
			}
			t.Errorf("%s: %.90q, and by html/template %.90q", name, ours[max(0, at-30):], want[max(0, at-30):])
		}
		told += strings.Count(ours, "alert(1);}")
	}
	for _, s := range []*story{newStory(3), newStory(3).silent(1).staged(5*time.Second, false).loading(2), newStory(30).gone(2).drained(1).alarm("members-missing", "x")} {
		s.Reader.Role = "operator"
		s.Status.Paused, s.Status.Unjudged = "why", "zones"
		for _, evil := range []bool{false, true} {
			v := viewOf(s.Document)
			v.Drift = []driftView{{"software", []driftValue{{"1", "fra"}, {"2", "osa"}}}}
			c, _ := confirmationOf(s.Document, Drain, s.member(0).Name)
			o := outcome{"Done", "said", "hint", "jp", s.Reader}
			head := struct {
				Title  string
				View   view
				Reader Reader
			}{v.Verdict, v, s.Reader}
			if evil {
				poison(reflect.ValueOf(&v))
				poison(reflect.ValueOf(&c))
				poison(reflect.ValueOf(&o))
				poison(reflect.ValueOf(&head))
			}
			for _, name := range sectionNames {
				same(name, v)
			}
			same("member", v.Members.Shown[0])
			same("top", head)
			same("bottom", nil)
			same("confirm", c)
			same("outcome", o)
		}
	}
	if told < 500 {
		t.Errorf("%d values were text that is evil", told)
	}
}
