package observe_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"html/template"
	"image/png"
	"math"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/lab"
	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
	"github.com/coredns-anycast/coredns-anycast/internal/testenv/browser"
)

var rewrite = flag.Bool("rewrite", false, "write the picture of the dashboard in docs/operate anew, of a mesh that has lived for some minutes")

// A dashboard is what deploy/grafana has, as far as it is drawn here. Grafana itself is not among what tests can install, so the picture
// in docs/operate is drawn by this file: the panels of the dashboard's JSON, where they are, with what a real Prometheus answers.
type dashboard struct {
	UID, Title  string
	Annotations struct{ List []struct{ Expr string } }
	Panels      []panel
}

type panel struct {
	ID                       int
	Type, Title, Description string
	GridPos                  struct{ H, W, X, Y int }
	Targets                  []struct{ Expr, LegendFormat string }
	Options                  struct{ ColorMode string }
	FieldConfig              struct {
		Defaults struct {
			Unit       string
			Color      struct{ Mode string }
			Min        *float64
			Thresholds struct{ Steps []threshold }
			Mappings   []struct {
				Options map[string]struct{ Text, Color string }
			}
			Custom struct {
				FillOpacity       float64
				Stacking          struct{ Mode string }
				LineInterpolation string
				ThresholdsStyle   struct{ Mode string }
			}
		}
	}
}

type threshold struct {
	Color string
	Value *float64 // nil: from the least on
}

// series is an answer to a query of a panel over time. A value that was not there is NaN.
type series struct {
	Name, Color string
	Values      []float64
}

func (w *world) dashboard() (d dashboard) {
	lab.Must(w, json.Unmarshal([]byte(lab.Read(w, filepath.Join(testenv.Top(w), "deploy", "grafana", "anycast.json"))), &d))
	return d
}

// drawn is how many moments of a panel are drawn, and fill what Grafana puts in the place of its variables.
const drawn = 180

var fill = strings.NewReplacer("$instance", ".*", "$__rate_interval", "15s", "[1h]", "[10m]")

// picture is each panel with what it has of the time since a moment.
func (w *world) picture(d dashboard, since time.Time) picture {
	now := time.Now()
	step := max(now.Sub(since)/drawn, time.Second)
	times := make([]time.Time, 0, drawn)
	for at := since; !at.After(now); at = at.Add(step) {
		times = append(times, at)
	}
	page := picture{Title: d.Title, From: since.UTC().Format("2006-01-02 15:04:05"), To: now.UTC().Format("15:04:05")}
	var switched []float64
	for _, s := range w.over(d.Annotations.List[0].Expr, "", times, step) {
		for i, v := range s.Values {
			if !math.IsNaN(v) && i > 0 && math.IsNaN(s.Values[i-1]) {
				switched = append(switched, float64(i)/float64(len(times)-1))
			}
		}
	}
	for _, p := range d.Panels {
		var all []series
		for _, target := range p.Targets {
			all = append(all, w.over(target.Expr, target.LegendFormat, times, step)...)
		}
		slices.SortFunc(all, func(a, b series) int { return strings.Compare(a.Name, b.Name) })
		for i := range all {
			all[i].Color = palette[i%len(palette)]
		}
		page.add(p, all, times, switched)
	}
	return page
}

// dashboardIsDrawn waits until each panel has something to show, draws them, and looks at the picture.
func (w *world) dashboardIsDrawn(d dashboard, since time.Time) {
	var page picture
	lab.Eventually(w, func() error {
		page = w.picture(d, since)
		for _, b := range page.Panels {
			if b.Empty {
				return fmt.Errorf("%s has nothing to show", b.Title)
			}
		}
		return nil
	})
	server := httptest.NewServer(http.HandlerFunc(func(out http.ResponseWriter, _ *http.Request) {
		if err := pictureTemplate.Execute(out, page); err != nil {
			w.Error(err)
		}
	}))
	defer server.Close()
	tab := browser.Start(w.T).Open(w.T, server.URL, browser.Look{Width: pictureWidth, Height: 900, Dark: true})
	var panels int
	tab.Eval(`document.querySelectorAll(".panel").length`, &panels)
	if want := len(d.Panels) - page.rows; panels != want {
		w.Errorf("%d panels are drawn, want %d", panels, want)
	}
	if errs := tab.Errors(); len(errs) > 0 {
		w.Errorf("%s", errs)
	}
	shot := tab.Screenshot(0)
	if img, err := png.Decode(bytes.NewReader(shot)); err != nil || img.Bounds().Dx() != pictureWidth || img.Bounds().Dy() < 1500 {
		w.Errorf("the picture: %v", err)
	}
	browser.Keep(w.T, filepath.Join(testenv.Top(w), "docs/operate/dashboard.png"), shot, *rewrite)
}

// over is what a query answers from moment to moment.
func (w *world) over(expr, legend string, times []time.Time, step time.Duration) (all []series) {
	var data struct {
		Result []struct {
			Metric map[string]string
			Values [][2]any
		}
	}
	stamp := func(t time.Time) string { return strconv.FormatFloat(float64(t.UnixMilli())/1000, 'f', 3, 64) }
	lab.Must(w, w.api("query_range", url.Values{"query": {fill.Replace(expr)}, "start": {stamp(times[0])}, "end": {stamp(times[len(times)-1])},
		"step": {strconv.FormatFloat(step.Seconds(), 'f', 3, 64)}}, &data))
	for _, r := range data.Result {
		s := series{Name: legend, Values: make([]float64, len(times))}
		for label, value := range r.Metric {
			s.Name = strings.ReplaceAll(s.Name, "{{"+label+"}}", value)
		}
		for i := range s.Values {
			s.Values[i] = math.NaN()
		}
		for _, v := range r.Values {
			at := time.UnixMilli(int64(v[0].(float64) * 1000))
			value, err := strconv.ParseFloat(v[1].(string), 64)
			lab.Must(w, err)
			if i := int(at.Sub(times[0]).Seconds()/step.Seconds() + 0.5); i >= 0 && i < len(times) {
				s.Values[i] = value
			}
		}
		all = append(all, s)
	}
	return all
}

// live has the mesh live for some minutes, for a picture worth looking at: queries whose number rises and falls, a release every 20
// seconds, a node whose server is away for a while, a repository that is refused.
func (w *world) live(serial int) {
	stop := time.Now().Add(4 * time.Minute)
	names := []string{"www.example.org.", "www.example.net.", "example.org.", "nothing.example.net.", "www.example.org.", "no.example.org."}
	types := []uint16{dns.TypeA, dns.TypeA, dns.TypeAAAA, dns.TypeMX, dns.TypeTXT, dns.TypeHTTPS, dns.TypeA, dns.TypeNS}
	next, away := time.Now(), time.Now().Add(110*time.Second)
	for i := 0; time.Now().Before(stop); i++ {
		for node, last := range nodes {
			wave := 1 + math.Sin(float64(i)/40+map[string]float64{"tyo1": 0, "osa1": 1.3}[node])
			for range 2 + int(6*wave) {
				m, err := new(dns.Msg).SetQuestion(names[rand.IntN(len(names))], types[rand.IntN(len(types))]).Pack()
				lab.Must(w, err)
				lab.Must(w, send(fmt.Sprintf("127.77.1.%s:%d", last, w.dns), m))
			}
		}
		if time.Now().After(next) {
			next = next.Add(20 * time.Second)
			serial++
			w.zones(serial, []string{"example.org", "example.net"}[serial%2])
		}
		if !away.IsZero() && time.Now().After(away) {
			away = time.Time{}
			w.servers["osa1"].Stop()
			time.AfterFunc(25*time.Second, func() { w.serve("osa1") })
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// startPeer runs the router that both nodes speak to.
func (w *world) startPeer() {
	conf := fmt.Sprintf("[global.config]\n  as = 64501\n  router-id = \"127.77.0.1\"\n  port = %d\n  local-address-list = [\"127.77.0.1\"]\n", w.bgp)
	for _, last := range nodes {
		conf += fmt.Sprintf("[[neighbors]]\n  [neighbors.config]\n    neighbor-address = \"127.77.0.%s\"\n    peer-as = 64500\n  [neighbors.transport.config]\n    passive-mode = true\n", last)
	}
	lab.Start(w, lab.Command{Argv: []string{testenv.Need(w, "gobgpd")[0], "-f", lab.Write(w, w.path("gobgpd.toml"), conf), "--api-hosts", fmt.Sprintf("127.0.0.1:%d", testenv.Port(w))}, Log: w.path("gobgpd.log")})
}

// pictureTemplate is the picture in HTML. Its look is that of Grafana's dark theme.
var pictureTemplate = template.Must(template.New("").Parse(`<!DOCTYPE html><html lang="en"><meta charset="utf-8"><title>{{.Title}}</title><style>
body{margin:0;background:#111217;color:#ccccdc;font:13px Inter,sans-serif;width:1440px;height:{{.Height}}px;position:relative;overflow-x:hidden}
header{display:flex;align-items:center;justify-content:space-between;height:48px;padding:0 16px;background:#181b1f;border-bottom:1px solid #2a2d33}
header b{font-size:16px;font-weight:500;color:#e6e6f0}
.chips{display:flex;gap:8px}.chips span{border:1px solid #34373e;border-radius:3px;padding:5px 10px;background:#111217;font-size:12px}
.chips i{font-style:normal;color:#8e8ea0;margin-right:8px}
.row{position:absolute;left:16px;font-size:15px;font-weight:500;color:#e6e6f0}
.row::before{content:"";display:inline-block;border:solid #ccccdc;border-width:0 1.5px 1.5px 0;padding:2.5px;transform:rotate(45deg);margin:0 10px 3px 2px}
.panel{position:absolute;background:#181b1f;border:1px solid #2a2d33;border-radius:3px;overflow:hidden;box-sizing:border-box}
.panel h2{margin:0;font-size:13.5px;font-weight:500;padding:8px 10px 0;color:#d8d9e6;white-space:nowrap}
.stat{display:flex;flex-direction:column}.stat p{flex:1;margin:0 0 8px;display:flex;align-items:center;justify-content:center;font-size:36px;font-weight:500}
.stat.background,.stat.background h2{color:#fff}
svg{display:block;position:absolute;left:0;top:30px}
svg text{font:11px Inter,sans-serif;fill:#a0a0b4}
.grid{stroke:#26292f}.mark{stroke:#5794f2;stroke-dasharray:4 3;stroke-opacity:.55}
.limit{stroke-dasharray:7 5;stroke-width:1.2}
.block{stroke:#181b1f;stroke-width:1.5}svg .in{fill:#fff;font-weight:500;text-anchor:middle}
.legend{position:absolute;left:10px;right:8px;bottom:6px;height:18px;line-height:18px;overflow:hidden;display:flex;flex-wrap:wrap;gap:0 14px;font-size:11.5px;color:#b4b4c8}
.legend i{display:inline-block;width:14px;height:4px;border-radius:2px;margin-right:6px;vertical-align:2.5px}
</style><header><b>{{.Title}}</b><div class="chips"><span><i>Data source</i>prometheus</span><span><i>Node</i>All</span><span>{{.From}} to {{.To}} UTC</span></div></header>
{{range .Rows}}<div class="row" style="top:{{.Top}}px">{{.Title}}</div>
{{end}}{{range .Panels}}<section class="panel {{if .Stat}}stat {{.Mode}}{{end}}" style="left:{{.Left}}px;top:{{.Top}}px;width:{{.Width}}px;height:{{.Height}}px;{{.Style}}"><h2>{{.Title}}</h2>
{{if .Stat}}<p style="{{.ValueStyle}}">{{.Stat}}</p>{{else}}{{.SVG}}<div class="legend">{{range .Legend}}<span><i style="background:{{.Color}}"></i>{{.Name}}</span>{{end}}</div>{{end}}</section>
{{end}}`))
