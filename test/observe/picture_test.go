package observe_test

import (
	"fmt"
	"html"
	"html/template"
	"math"
	"strconv"
	"strings"
	"time"
)

// picture is the dashboard as it is drawn, in pixels.
type picture struct {
	Title, From, To string
	Height          int
	Rows            []box
	Panels          []box
	rows            int
}

// box is a panel, or the title of a row of them.
type box struct {
	Title                    string
	Left, Top, Width, Height int
	Empty                    bool
	Stat, Mode               string
	Style, ValueStyle        template.CSS
	SVG                      template.HTML
	Legend                   []series
}

const (
	pictureWidth = 1440
	pictureTop   = 56
	unit, gap    = 30, 8 // of the grid: a panel's height is so many units, with a gap below it
	plotBottom   = 48    // below a drawing: the times, and the legend
)

// palette is Grafana's for series, and colors are those that the dashboard names.
var palette = []string{"#73bf69", "#f2cc0c", "#8ab8ff", "#ff9830", "#f2495c", "#5794f2", "#b877d9", "#96d98d", "#ffb357", "#c0d8ff"}

var colors = map[string]string{"red": "#d44a4e", "green": "#3f9142", "orange": "#e0752d", "blue": "#3274d9", "yellow": "#d6a013"}

func (b *picture) add(p panel, all []series, times []time.Time, switched []float64) {
	const cell = float64(pictureWidth-2*gap) / 24
	out := box{Title: p.Title, Left: gap + int(float64(p.GridPos.X)*cell), Top: pictureTop + p.GridPos.Y*unit,
		Width: int(float64(p.GridPos.W)*cell) - gap, Height: p.GridPos.H*unit - gap, Empty: len(all) == 0}
	b.Height = max(b.Height, out.Top+out.Height+2*gap)
	switch p.Type {
	case "row":
		out.Top += 4
		b.Rows, b.rows = append(b.Rows, out), b.rows+1
		return
	case "stat":
		out.stat(p, all)
	case "state-timeline":
		out.states(p, all, times)
	default:
		out.lines(p, all, times, switched)
	}
	b.Panels = append(b.Panels, out)
}

// stat shows the last value.
func (b *box) stat(p panel, all []series) {
	last := math.NaN()
	for _, s := range all {
		for _, v := range s.Values {
			if !math.IsNaN(v) {
				last = v
			}
		}
	}
	if b.Empty = math.IsNaN(last); b.Empty {
		return
	}
	b.Stat, b.Mode = amount(last, p.FieldConfig.Defaults.Unit), p.Options.ColorMode
	color := colors[colorAt(p.FieldConfig.Defaults.Thresholds.Steps, last)]
	if b.Mode == "background" {
		b.Style = template.CSS("background:linear-gradient(120deg," + color + "," + color + "cc)")
	} else {
		b.ValueStyle = template.CSS("color:" + map[string]string{colors["green"]: "#73bf69", colors["blue"]: "#5794f2"}[color])
	}
}

func colorAt(steps []threshold, v float64) string {
	color := "green"
	for _, s := range steps {
		if s.Value == nil || v >= *s.Value {
			color = s.Color
		}
	}
	return color
}

// plot is a drawing's inside.
type plot struct {
	strings.Builder
	left, right, top, bottom float64
	times                    []time.Time
}

func newPlot(b *box, left float64, times []time.Time) *plot {
	p := &plot{left: left, right: float64(b.Width - 14), top: 10, bottom: float64(b.Height - 30 - plotBottom), times: times}
	fmt.Fprintf(p, `<svg width="%d" height="%d" aria-hidden="true">`, b.Width, b.Height-30)
	const ticks = 4
	for i := range ticks + 1 {
		at := i * (len(times) - 1) / ticks
		anchor := map[int]string{0: "start", ticks: "end"}[i]
		if anchor == "" {
			anchor = "middle"
		}
		fmt.Fprintf(p, `<text x="%.1f" y="%.1f" text-anchor="%s">%s</text>`, p.x(float64(at)/float64(len(times)-1)), p.bottom+16, anchor, times[at].UTC().Format("15:04:05"))
	}
	return p
}

func (p *plot) x(share float64) float64 { return p.left + share*(p.right-p.left) }

func (p *plot) svg() template.HTML { return template.HTML(p.String() + "</svg>") }

// states draws a bar for each series, whose blocks are spans of one value.
func (b *box) states(p panel, all []series, times []time.Time) {
	if b.Empty {
		return
	}
	widest := 0
	lowest, highest := math.Inf(1), math.Inf(-1)
	for _, s := range all {
		widest = max(widest, len(s.Name))
		for _, v := range s.Values {
			if !math.IsNaN(v) {
				lowest, highest = min(lowest, v), max(highest, v)
			}
		}
	}
	draw := newPlot(b, 16+6.3*float64(widest), times)
	height := (draw.bottom - draw.top) / float64(len(all))
	seen := map[string]bool{}
	for n, s := range all {
		y := draw.top + height*float64(n)
		fmt.Fprintf(draw, `<text x="%.1f" y="%.1f" text-anchor="end">%s</text>`, draw.left-8, y+height/2+4, html.EscapeString(s.Name))
		for from := 0; from < len(s.Values); {
			to := from
			for to < len(s.Values) && (s.Values[to] == s.Values[from] || math.IsNaN(s.Values[to]) && math.IsNaN(s.Values[from])) {
				to++
			}
			if v := s.Values[from]; !math.IsNaN(v) {
				text, color := state(p, v, lowest, highest)
				x, right := draw.x(float64(from)/float64(len(times))), draw.x(float64(to)/float64(len(times)))
				fmt.Fprintf(draw, `<rect class="block" x="%.1f" y="%.1f" width="%.1f" height="%.1f" fill="%s"/>`, x, y+height*0.1, right-x, height*0.8, color)
				if right-x > 7*float64(len(text))+6 {
					fmt.Fprintf(draw, `<text class="in" x="%.1f" y="%.1f">%s</text>`, (x+right)/2, y+height/2+4, html.EscapeString(text))
				}
				if len(p.FieldConfig.Defaults.Mappings) > 0 && !seen[text] && p.FieldConfig.Defaults.Color.Mode == "" {
					seen[text] = true
					b.Legend = append(b.Legend, series{Name: text, Color: color})
				}
			}
			from = to
		}
	}
	b.SVG = draw.svg()
}

// state is the text and the colour of a value: as it is mapped, or else bluer the more it is.
func state(p panel, v, lowest, highest float64) (text, color string) {
	text = strconv.FormatFloat(v, 'f', -1, 64)
	for _, m := range p.FieldConfig.Defaults.Mappings {
		if o, ok := m.Options[text]; ok {
			return o.Text, colors[o.Color]
		}
	}
	share := 1.0
	if highest > lowest {
		share = (v - lowest) / (highest - lowest)
	}
	blend := func(a, b float64) int { return int(a + (b-a)*share) }
	return text, fmt.Sprintf("#%02x%02x%02x", blend(38, 50), blend(62, 116), blend(110, 217))
}

// lines draws series over time: each for itself, or on top of each other.
func (b *box) lines(p panel, all []series, times []time.Time, switched []float64) {
	d := p.FieldConfig.Defaults
	stacked := d.Custom.Stacking.Mode == "normal"
	base := make([]float64, len(times))
	type band struct {
		series
		low []float64
	}
	var bands []band
	top, points := 0.0, 0
	for _, s := range all {
		one := band{series: s, low: make([]float64, len(times))}
		one.Values = append([]float64(nil), s.Values...)
		for i, v := range one.Values {
			if math.IsNaN(v) {
				continue
			}
			points++
			if stacked {
				one.low[i], one.Values[i] = base[i], base[i]+v
				base[i] += v
			}
			top = max(top, one.Values[i])
		}
		bands = append(bands, one)
	}
	if b.Empty = points == 0; b.Empty {
		return
	}
	limit := 0.0
	if d.Custom.ThresholdsStyle.Mode == "dashed" {
		for _, t := range d.Thresholds.Steps {
			if t.Value != nil {
				limit = *t.Value
			}
		}
	}
	size := sizeOf(max(top, limit), d.Unit)
	step := size * nice(max(top, limit, 1e-6)*1.05/4/size)
	high := step * math.Ceil(max(top, limit)*1.02/step)
	if high == 0 {
		step, high = 0.25, 1
	}
	draw := newPlot(b, 62, times)
	y := func(v float64) float64 { return draw.bottom - v/high*(draw.bottom-draw.top) }
	for v := 0.0; v <= high+step/2; v += step {
		fmt.Fprintf(draw, `<line class="grid" x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f"/><text x="%.1f" y="%.1f" text-anchor="end">%s</text>`,
			draw.left, draw.right, y(v), y(v), draw.left-8, y(v)+4, amount(v, d.Unit))
	}
	for _, x := range switched {
		fmt.Fprintf(draw, `<line class="mark" x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f"/>`, draw.x(x), draw.x(x), draw.top, draw.bottom)
	}
	for _, one := range bands {
		draw.band(one.Values, one.low, y, one.Color, d.Custom.FillOpacity/100, d.Custom.LineInterpolation == "stepAfter")
		b.Legend = append(b.Legend, one.series)
	}
	if limit > 0 {
		fmt.Fprintf(draw, `<line class="limit" stroke="%s" x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f"/>`, palette[4], draw.left, draw.right, y(limit), y(limit))
	}
	b.SVG = draw.svg()
}

// band draws a line, and what is below it, piece by piece where values are missing.
func (p *plot) band(values, low []float64, y func(float64) float64, color string, fill float64, steps bool) {
	at := func(i int) float64 { return p.x(float64(i) / float64(len(values)-1)) }
	for from := 0; from < len(values); from++ {
		if math.IsNaN(values[from]) {
			continue
		}
		to := from
		var line, back strings.Builder
		for ; to < len(values) && !math.IsNaN(values[to]); to++ {
			if steps && to > from {
				fmt.Fprintf(&line, "L%.1f %.1f", at(to), y(values[to-1]))
			}
			fmt.Fprintf(&line, "%s%.1f %.1f", map[bool]string{true: "M", false: "L"}[to == from], at(to), y(values[to]))
		}
		for i := to - 1; i >= from; i-- {
			fmt.Fprintf(&back, "L%.1f %.1f", at(i), y(low[i]))
		}
		fmt.Fprintf(p, `<path fill="%s" fill-opacity="%.2f" d="%s%sZ"/><path fill="none" stroke="%s" stroke-width="2" stroke-linejoin="round" d="%s"/>`,
			color, fill, line.String(), back.String(), color, line.String())
		if to == from+1 {
			fmt.Fprintf(p, `<circle cx="%.1f" cy="%.1f" r="2.5" fill="%s"/>`, at(from), y(values[from]), color)
		}
		from = to
	}
}

// sizeOf is what a value of a unit is counted in.
func sizeOf(v float64, kind string) float64 {
	switch {
	case kind == "s" && v >= 3600:
		return 3600
	case kind == "s" && v >= 60:
		return 60
	case kind == "bytes" && v >= 1<<20:
		return 1 << 20
	}
	return 1
}

// nice is the next length of a step that people count by.
func nice(v float64) float64 {
	size := math.Pow(10, math.Floor(math.Log10(v)))
	for _, n := range []float64{1, 2, 2.5, 5} {
		if v <= n*size {
			return n * size
		}
	}
	return 10 * size
}

// amount is a value with its unit, as Grafana writes it.
func amount(v float64, kind string) string {
	short := func(x float64) string {
		text := strconv.FormatFloat(x, 'f', 2, 64)
		return strings.TrimSuffix(strings.TrimRight(text, "0"), ".")
	}
	scaled := func(base float64, names ...string) string {
		n := 0
		for v >= base && n < len(names)-1 {
			v, n = v/base, n+1
		}
		return strings.TrimSpace(short(v) + " " + names[n])
	}
	switch {
	case kind == "s" && v != 0 && v < 0.001:
		return short(v*1e6) + " µs"
	case kind == "s" && v != 0 && v < 1:
		return short(v*1e3) + " ms"
	case kind == "s" && v > 2*86400:
		return short(v/86400) + " d"
	case kind == "s" && v >= 3600:
		return short(v/3600) + " h"
	case kind == "s" && v >= 60:
		return short(v/60) + " min"
	case kind == "s":
		return short(v) + " s"
	case kind == "bytes":
		return scaled(1024, "B", "KiB", "MiB", "GiB")
	case kind == "Bps":
		return scaled(1000, "B/s", "kB/s", "MB/s", "GB/s")
	case kind == "reqps":
		return scaled(1000, "req/s", "K req/s", "M req/s")
	}
	return scaled(1000, "", "K", "Mil")
}
