package page

import (
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/history"
)

// chart is a drawing of the last releases, the oldest at the left, and the same as a table.
type chart struct {
	Empty   bool
	Summary string // in a sentence, for who does not see it
	Lines   []gridLine
	Columns []column
	Head    []string
	Rows    [][]string
}

type gridLine struct {
	Y    float64
	Text string
}

// column is one release.
type column struct {
	X       float64
	Label   string
	Labeled bool
	Title   string
	Dots    []float64
	Band    *band
	Missed  int
	Parts   []part
	Clipped string // its value, if it is taller than the chart
}

// band is where all members of a large mesh are.
type band struct{ Top, Height, Middle float64 }

// part is a share of a bar.
type part struct {
	Kind      string
	Y, Height float64
}

// Sizes of a chart, in its own units.
const (
	chartWidth  = 560
	chartHeight = 200
	chartLeft   = 66
	chartTop    = 16
	chartBottom = 174
	chartShown  = 20 // releases
	dotsShown   = 12 // members of which each has a dot
)

// lately are the last releases that were switched to, the oldest first.
func lately(records []history.Record) (all []history.Record) {
	for _, r := range records {
		if len(r.Results) > 0 && len(all) < chartShown {
			all = append(all, r)
		}
	}
	slices.Reverse(all)
	return all
}

// scale is a round number of units that is no less than the largest value, of centuries at the most.
func scale(largest time.Duration) time.Duration {
	for unit := time.Microsecond; unit < math.MaxInt64/16; unit *= 10 {
		for _, n := range []time.Duration{1, 2, 3, 4, 5, 6, 8} {
			if unit*n*2 >= largest {
				return unit * n * 2
			}
		}
	}
	return math.MaxInt64
}

func grid(top time.Duration) (lines []gridLine) {
	for i := range 3 {
		lines = append(lines, gridLine{height(top*time.Duration(i)/2, top), short(top * time.Duration(i) / 2)})
	}
	return lines
}

// height is where a value is drawn.
func height(value, top time.Duration) float64 {
	share := min(max(float64(value)/float64(top), 0), 1)
	return round(chartBottom - share*(chartBottom-chartTop))
}

func columnsOf(records []history.Record) (columns []column) {
	step := float64(chartWidth-chartLeft) / float64(max(len(records), 6))
	every := (len(records) + 9) / 10
	for i, r := range records {
		columns = append(columns, column{X: round(chartLeft + step*(float64(i)+0.5)), Label: fmt.Sprint(r.Number), Labeled: (len(records)-1-i)%every == 0})
	}
	return columns
}

// latenessChart shows how long after its instant each member made a switchover (SYNC-E).
func latenessChart(records []history.Record) chart {
	records = lately(records)
	c := chart{Empty: len(records) == 0, Head: []string{"Release", "Earliest", "Median", "Latest", "Missed"}, Columns: columnsOf(records)}
	var all, largest []time.Duration
	for i := range records {
		late := latenesses(&records[i])
		all = append(all, late...)
		if len(late) > 0 {
			largest = append(largest, late[len(late)-1])
		}
	}
	if len(largest) == 0 {
		return chart{Empty: true}
	}
	top := scale(slices.Max(largest))
	c.Lines = grid(top)
	missed := 0
	for i := range records {
		r, col := &records[i], &c.Columns[i]
		late := latenesses(r)
		col.Missed = len(r.Missed())
		missed += col.Missed
		row := []string{fmt.Sprint(r.Number), "–", "–", "–", fmt.Sprint(col.Missed)}
		if n := len(late); n > 0 {
			row[1], row[2], row[3] = short(late[0]), short(late[n/2]), short(late[n-1])
			if n <= dotsShown {
				for _, d := range late {
					col.Dots = append(col.Dots, height(d, top))
				}
			} else {
				y := height(late[n-1], top)
				col.Band = &band{y, max(round(height(late[0], top)-y), 2), height(late[n/2], top)}
			}
		}
		col.Title = fmt.Sprintf("release %s: %s to %s, median %s, %s missed", row[0], row[1], row[3], row[2], row[4])
		c.Rows = append(c.Rows, row)
	}
	slices.Sort(all)
	c.Summary = fmt.Sprintf("In the last %d switchovers members were at most %s late, half of them at most %s. Missed by a member: %d.",
		len(records), short(all[len(all)-1]), short(all[len(all)/2]), missed)
	return c
}

// latenesses are those of the members that switched at the instant, in order.
func latenesses(r *history.Record) (all []time.Duration) {
	for _, m := range r.Results {
		if m.Switched && !m.Joined {
			all = append(all, m.Lateness)
		}
	}
	slices.Sort(all)
	return all
}

// way is how long a release took, from when its zones had come.
type way struct{ making, spreading, waiting time.Duration }

func (w way) all() time.Duration { return w.making + w.spreading + w.waiting }

// wayOf is the way of a release; ok is false if it is not known.
func wayOf(r *history.Record) (w way, ok bool) {
	from, _ := r.Moments()
	if from.IsZero() || r.Published.IsZero() || r.Switchover.IsZero() {
		return w, false
	}
	ready := r.Published
	for _, m := range r.Results {
		if m.Compiled != nil && m.Compiled.Done.After(ready) {
			ready = m.Compiled.Done
		}
	}
	return way{max(0, r.Published.Sub(from)), ready.Sub(r.Published), max(0, r.Switchover.Sub(ready))}, true
}

// latencyChart shows how long it took from when a release's zones had come until all members had it, and until the switchover.
func latencyChart(records []history.Record) chart {
	records = slices.DeleteFunc(lately(records), func(r history.Record) bool { _, ok := wayOf(&r); return !ok })
	if len(records) == 0 {
		return chart{Empty: true}
	}
	c := chart{Head: []string{"Release", "Checked and published", "Ready on all members", "Until the switchover", "In all"}, Columns: columnsOf(records)}
	var totals, ready []time.Duration
	for i := range records {
		w, _ := wayOf(&records[i])
		totals, ready = append(totals, w.all()), append(ready, w.making+w.spreading)
	}
	sorted, sortedReady := slices.Sorted(slices.Values(totals)), slices.Sorted(slices.Values(ready))
	top := scale(min(sorted[len(sorted)-1], 3*sorted[len(sorted)/2])) // one that was set for next week hides no other
	c.Lines = grid(top)
	for i := range records {
		w, _ := wayOf(&records[i])
		col := &c.Columns[i]
		var done time.Duration
		for _, p := range []struct {
			kind string
			d    time.Duration
		}{{"make", w.making}, {"load", w.spreading}, {"wait", w.waiting}} {
			y := height(done+p.d, top)
			if h := round(height(done, top) - y); h > 0 {
				col.Parts = append(col.Parts, part{p.kind, y, h})
			}
			done += p.d
		}
		if done > top {
			col.Clipped = short(done)
		}
		row := []string{fmt.Sprint(records[i].Number), short(w.making), short(w.spreading), short(w.waiting), short(done)}
		col.Title = fmt.Sprintf("release %s: published in %s, ready on all members %s later, switchover %s later", row[0], row[1], row[2], row[3])
		c.Rows = append(c.Rows, row)
	}
	c.Summary = fmt.Sprintf("From when its zones had come until all members were ready, half of the last %d releases took at most %s; until the switchover, at most %s.",
		len(records), short(sortedReady[len(ready)/2]), short(sorted[len(sorted)/2]))
	return c
}
