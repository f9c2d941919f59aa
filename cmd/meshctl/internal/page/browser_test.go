package page

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"image/color"
	"image/png"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/unattended"
	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
	"github.com/coredns-anycast/coredns-anycast/internal/testenv/browser"
)

var rewrite = flag.Bool("rewrite", false, "write the screenshots in docs/operate/mesh-page anew")

const (
	largeWidth, largeHeight = 1280, 900
	smallWidth, smallHeight = 390, 844
)

// shots are the screenshots, each with what it must show.
var shots = []struct {
	name  string
	story func() *story
	dark  bool
	shows []string
}{
	{"calm", func() *story { return newStory(3) }, false, []string{"All 3 members answer from release 42", "No alarm holds", "No drift"}},
	{"silent", func() *story {
		return newStory(3).silent(1).alarm(unattended.AlarmMembers, "osa keeps the staged release from being switched to: clock-unknown: it is silent")
	}, true, []string{"osa is silent", "members-missing", "chronyd has had no source"}},
	{"switchover", func() *story { return newStory(3).staged(5*time.Second, true) }, false, []string{"Release 43 takes over from release 42 in 5.0 s", "switchover committed"}},
	{"members-200", func() *story { return newStory(200).silent(17).gone(80).gone(81) }, false, []string{"sjc2 is silent", "197 in service", "187 more members in service"}},
}

// Each state of a mesh is shown well in a real browser: large and small, light and dark, without an error of script or policy,
// nothing wider than the window, and by the rules of axe.
func TestInABrowser(t *testing.T) {
	b := browser.Start(t)
	axe := installAxe(t)
	for _, shot := range shots {
		t.Run(shot.name, func(t *testing.T) {
			g := newStage(t, shot.story())
			for _, look := range []browser.Look{{Width: largeWidth, Height: largeHeight}, {Width: largeWidth, Height: largeHeight, Dark: true},
				{Width: smallWidth, Height: smallHeight}, {Width: smallWidth, Height: smallHeight, Dark: true}, {Width: largeWidth, Height: largeHeight, NoScript: true}} {
				name := fmt.Sprintf("%d wide, dark %v, script %v", look.Width, look.Dark, !look.NoScript)
				p := b.Open(t, g.URL+"/", look)
				if !look.NoScript {
					p.WaitFor("the page to be live", `document.body.classList.contains("is-live")`)
				}
				text := p.Text("main")
				for _, want := range shot.shows {
					if !strings.Contains(text, want) {
						t.Errorf("%s: %q is not shown", name, want)
					}
				}
				if errs := p.Errors(); len(errs) > 0 {
					t.Errorf("%s: %s", name, errs)
				}
				var wider int
				p.Eval("document.documentElement.scrollWidth - innerWidth", &wider)
				if wider > 0 {
					t.Errorf("%s: the page is %d wider than the window", name, wider)
				}
				if !look.NoScript {
					axe.judge(t, p, name)
				}
				picture := p.Screenshot(0)
				looksLike(t, name, picture, look)
				kind := map[bool]string{true: "large", false: "small"}[look.Width == largeWidth]
				if look.Dark == shot.dark && !look.NoScript {
					keep(t, fmt.Sprintf("%s-%s.png", shot.name, kind), p.Screenshot(map[string]int{"large": 1500, "small": 1700}[kind]))
				}
			}
		})
	}
}

// looksLike reports a picture that is empty, or not light or dark as it ought to be.
func looksLike(t *testing.T, name string, data []byte, look browser.Look) {
	t.Helper()
	img, err := png.Decode(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	size := img.Bounds()
	dark, all, colours := 0, 0, map[color.Color]bool{}
	for y := size.Min.Y; y < size.Max.Y; y += 5 {
		for x := size.Min.X; x < size.Max.X; x += 5 {
			all++
			if color.GrayModel.Convert(img.At(x, y)).(color.Gray).Y < 96 {
				dark++
			}
			colours[img.At(x, y)] = true
		}
	}
	if share := float64(dark) / float64(all); (share > 0.5) != look.Dark || len(colours) < 50 || size.Dx() != look.Width {
		t.Errorf("%s: %d wide, %d colours, %.0f %% of it dark", name, size.Dx(), len(colours), share*100)
	}
}

// keep writes a picture for the documents, if that is asked for; one must be there in any case.
func keep(t *testing.T, name string, data []byte) {
	t.Helper()
	browser.Keep(t, filepath.Join(testenv.Top(t), "docs/operate/mesh-page", name), data, *rewrite)
}

// axe is axe-core, whose rules say what keeps people from reading a page; empty where npm is not.
type axe string

// installAxe gets the pinned axe-core, which package-lock.json names by digest.
func installAxe(t *testing.T) axe {
	npm, err := testenv.Look("npm")
	if err != nil {
		t.Log("npm is not installed: axe judges nothing")
		return ""
	}
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS("testdata/axe")); err != nil {
		t.Fatal(err)
	}
	ci := exec.Command(npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund")
	ci.Dir = dir
	if out, err := ci.CombinedOutput(); err != nil {
		testenv.Missing(t, "axe-core could not be installed: %v\n%s", err, out)
	}
	script, err := os.ReadFile(filepath.Join(dir, "node_modules/axe-core/axe.min.js"))
	if err != nil {
		t.Fatal(err)
	}
	return axe(script)
}

// judge reports each rule that the page breaks, and where.
func (a axe) judge(t *testing.T, p *browser.Page, name string) {
	t.Helper()
	if a == "" {
		return
	}
	p.Eval(string(a)+"; true", nil)
	var broken []struct {
		ID, Help string
		Nodes    []string
	}
	var passes int
	p.Eval(`axe.run(document, {resultTypes: ["violations"]}).then((r) => { window.judged = r; return r.passes.length; })`, &passes)
	p.Eval(`judged.violations.map((v) => ({ID: v.id, Help: v.help, Nodes: v.nodes.slice(0, 3).map((n) => n.html + " " + n.failureSummary)}))`, &broken)
	if passes < 20 {
		t.Errorf("%s: axe judged by %d rules only", name, passes)
	}
	for _, v := range broken {
		text, _ := json.Marshal(v.Nodes)
		t.Errorf("%s: %s: %s: %.1500s", name, v.ID, v.Help, text)
	}
}
