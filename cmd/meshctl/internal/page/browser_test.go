package page

import (
	"bytes"
	"cmp"
	"encoding/json"
	"flag"
	"fmt"
	"image"
	"image/color"
	"image/draw"
	"image/png"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
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

// keep writes a picture for the documents, in few colours, if that is asked for; one must be there in any case.
func keep(t *testing.T, name string, data []byte) {
	t.Helper()
	file := filepath.Join(testenv.Top(t), "docs/operate/mesh-page", name)
	if !*rewrite {
		if _, err := os.Stat(file); err != nil {
			t.Errorf("%v: go test -run TestInABrowser -rewrite makes it", err)
		}
		return
	}
	img, err := png.Decode(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	few := reduced(img)
	if err := (&png.Encoder{CompressionLevel: png.BestCompression}).Encode(&out, few); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, out.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
}

// reduced is a picture in 256 colours: of those that are much alike, the most frequent one.
func reduced(img image.Image) image.Image {
	counts := map[color.RGBA]int{}
	size := img.Bounds()
	for y := size.Min.Y; y < size.Max.Y; y++ {
		for x := size.Min.X; x < size.Max.X; x++ {
			counts[color.RGBAModel.Convert(img.At(x, y)).(color.RGBA)]++
		}
	}
	alike := map[color.RGBA]color.RGBA{}
	for c, n := range counts {
		key := color.RGBA{c.R >> 5, c.G >> 5, c.B >> 5, 0}
		if have, ok := alike[key]; !ok || n > counts[have] {
			alike[key] = c
		}
	}
	few := color.Palette{}
	kept := map[color.RGBA]bool{}
	for _, c := range alike {
		few, kept[c] = append(few, c), true
	}
	frequent := slices.SortedFunc(maps.Keys(counts), func(a, b color.RGBA) int { return counts[b] - counts[a] })
	for _, c := range frequent {
		if len(few) < 256 && !kept[c] {
			few = append(few, c)
		}
	}
	slices.SortFunc(few, func(a, b color.Color) int {
		x, y := a.(color.RGBA), b.(color.RGBA)
		return cmp.Or(cmp.Compare(x.R, y.R), cmp.Compare(x.G, y.G), cmp.Compare(x.B, y.B))
	})
	out := image.NewPaletted(size, few[:min(len(few), 256)])
	draw.Draw(out, size, img, size.Min, draw.Src)
	return out
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
