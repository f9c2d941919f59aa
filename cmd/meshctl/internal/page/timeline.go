package page

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/history"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/unattended"
)

// releaseView is the way of the release that is staged or, if none is, of the current one.
type releaseView struct {
	Number  uint64
	Title   string
	Staged  bool
	Steps   []stepView
	Lanes   []lane
	More    int // members that have no lane
	Instant *mark
	Broken  bool // the switchover is further away than the axis shows
	Ticks   []mark
	Height  int
	Without []string
}

// stepView is one step of the way.
type stepView struct {
	Name   string
	State  string // "done", "now", "todo" or "failed"
	At     time.Time
	Value  string // in a few words
	Detail string
}

// Sizes of the drawing, in its own units.
const (
	laneWidth  = 1000
	laneLabel  = 150 // of which the names take
	laneResult = 110 // and how late each switched, at the right
	laneHeight = 26
	laneTop    = 24
	maxLanes   = 12
	tickRoom   = 90 // that two words above the lanes need
)

// lane is one row of the drawing: what this host did, or a member.
type lane struct {
	Name   string
	Tone   string
	Y      int
	Text   int // the base line of its name
	Bars   []bar
	Result string // how it switched
}

// bar is something that took a while.
type bar struct {
	Kind  string // "receive", "make", "fetch", "load" or "wait"
	X, W  float64
	Title string
}

// mark is a moment on the axis.
type mark struct {
	X    float64
	Text string
}

// fate is what is known of a member's part in a release.
type fate struct {
	name             string
	fetched, loaded  *history.Span
	switched, missed bool
	joined           bool // it switched, and not at the instant
	lateness         time.Duration
	why              string
	ready            bool
	heard            bool
}

// timelineOf draws the way of a release; nil if there is none.
func timelineOf(s unattended.Status, records []history.Record) *releaseView {
	focus := cmp.Or(s.Next, s.Current)
	if focus == nil {
		return nil
	}
	r := history.Record{Number: focus.Number, Switchover: focus.Switchover}
	if i := slices.IndexFunc(records, func(r history.Record) bool { return r.Number == focus.Number }); i >= 0 {
		r = records[i]
	}
	if !focus.Switchover.IsZero() {
		r.Switchover = focus.Switchover
	}
	v := &releaseView{Number: focus.Number, Staged: focus == s.Next, Without: focus.Without}
	fates := fatesOf(s, &r)
	v.Steps = stepsOf(s, focus, &r, fates)
	v.Title = fmt.Sprintf("Release %d is current", focus.Number)
	switch {
	case !v.Staged:
	case focus.Switchover.IsZero():
		v.Title = fmt.Sprintf("Release %d is staged", focus.Number)
	case focus.Committed:
		v.Title = fmt.Sprintf("Release %d: switchover committed", focus.Number)
	default:
		v.Title = fmt.Sprintf("Release %d: switchover proposed", focus.Number)
	}
	v.draw(s.At, &r, fates)
	return v
}

// fatesOf joins what is on record with what members say now.
func fatesOf(s unattended.Status, r *history.Record) []fate {
	results := map[string]history.Result{}
	for _, one := range r.Results {
		results[one.Member] = one
	}
	var all []fate
	for _, m := range s.Members {
		f := fate{name: m.Name}
		if c := m.Confirmation; c != nil {
			f.heard = true
			f.fetched, f.loaded = history.SpanOf(c.Mirrored, r.Number), history.SpanOf(c.Compiled, r.Number)
			f.ready = c.Confirms.Staged >= r.Number
			if late, made := c.Switched.Late(r.Number); made {
				f.switched, f.lateness = true, late
			}
		}
		if one, ok := results[m.Name]; ok {
			f.fetched, f.loaded = cmp.Or(one.Mirrored, f.fetched), cmp.Or(one.Compiled, f.loaded)
			f.ready = f.ready || one.Switched
			if one.Switched {
				f.switched, f.joined, f.lateness = true, one.Joined, one.Lateness
			} else if !f.switched {
				f.missed, f.why = true, one.Why
			}
		}
		all = append(all, f)
	}
	return all
}

func stepsOf(s unattended.Status, focus *unattended.ReleaseStatus, r *history.Record, fates []fate) []stepView {
	from, _ := r.Moments()
	received := stepView{Name: "Received", State: "done", Value: "made of files", At: r.Began}
	if n := len(r.Received); n > 0 {
		z := r.Received[n-1]
		received.At, received.Value = from, fmt.Sprintf("%s by %s", z.Zone, z.How)
		if n > 1 {
			received.Value = zonesWord(n) + " came"
		}
	}
	checked := stepView{Name: "Checked", State: "done", At: r.Made}
	for _, t := range r.Timing {
		if t.Name == "checked" {
			checked.Value = "in " + short(time.Duration(t.Seconds*1e9))
		}
	}
	published := stepView{Name: "Published", State: "done", At: r.Published}
	if !r.Published.IsZero() && !from.IsZero() {
		published.Value = offset(r.Published.Sub(from))
	}
	return []stepView{received, checked, published, readyStep(s, fates, from), switchStep(s, focus, fates)}
}

func readyStep(s unattended.Status, fates []fate, from time.Time) stepView {
	step := stepView{Name: "Ready", State: "done"}
	ready := 0
	var last time.Time
	for _, f := range fates {
		if f.ready {
			ready++
		}
		if f.loaded != nil && f.loaded.Done.After(last) {
			last = f.loaded.Done
		}
	}
	step.Value = fmt.Sprintf("%d of %d members", ready, len(fates))
	if ready < len(fates) && s.Next != nil {
		step.State = "now"
	}
	if step.State == "done" {
		step.At = last
		if !last.IsZero() && !from.IsZero() {
			step.Value = fmt.Sprintf("%d of %d, %s", ready, len(fates), offset(last.Sub(from)))
		}
	}
	return step
}

func switchStep(s unattended.Status, focus *unattended.ReleaseStatus, fates []fate) stepView {
	step := stepView{Name: "Switched", At: focus.Switchover}
	if focus == s.Next {
		step.State = "todo"
		left := focus.Switchover.Sub(s.At)
		switch {
		case focus.Switchover.IsZero():
			step.Value = "not proposed yet"
		case left <= 0:
			step.State, step.Value = "now", "being put on record"
		case focus.Committed:
			step.State, step.Value = "now", "in "+short(left)+", committed"
		default:
			step.State, step.Value = "now", "in "+short(left)+", proposed"
		}
		return step
	}
	step.State = "done"
	switched, joined, missed := 0, 0, 0
	var latest time.Duration
	for _, f := range fates {
		if f.switched {
			switched++
			latest = max(latest, f.lateness)
		}
		if f.joined {
			joined++
		}
		if f.missed {
			missed++
		}
	}
	step.Value = fmt.Sprintf("%d of %d", switched, len(fates))
	if switched > joined {
		step.Value += ", at most " + short(latest) + " late"
	}
	if joined > 0 {
		step.Value += fmt.Sprintf(", %d after it", joined)
	}
	if switched == 0 && missed == 0 {
		step.Value = "how it went is not known here"
	}
	if missed > 0 {
		step.State = "failed"
	}
	return step
}

// axis maps moments to places in the drawing.
type axis struct{ from, to time.Time }

func (a axis) x(t time.Time) float64 {
	const width = laneWidth - laneLabel - laneResult
	share := float64(t.Sub(a.from)) / float64(a.to.Sub(a.from))
	return round(laneLabel + width*min(max(share, 0), 1))
}

func (a axis) bar(kind, title string, from, to time.Time) bar {
	x := a.x(from)
	return bar{Kind: kind, Title: title, X: x, W: max(round(a.x(to)-x), 2)}
}

func round(x float64) float64 { return float64(int(x*10)) / 10 }

// draw places what is known of a release's way.
func (v *releaseView) draw(now time.Time, r *history.Record, fates []fate) {
	a, broken, ok := axisOf(now, r, fates)
	if !ok {
		return
	}
	v.Broken = broken
	if !r.Switchover.IsZero() {
		v.Instant = &mark{X: a.x(r.Switchover), Text: r.Switchover.UTC().Format("15:04:05.000")}
	}
	whole := a.to.Sub(a.from)
	if broken {
		whole = whole * 4 / 5 // the axis goes on to the switchover, and tells no time there
	}
	step := scale(whole) / 4
	for i := range time.Duration(5) {
		d := i * step
		if d > whole {
			break
		}
		if x := a.x(a.from.Add(d)); v.Instant == nil || v.Instant.X-x > tickRoom || x-v.Instant.X > tickRoom {
			v.Ticks = append(v.Ticks, mark{x, offset(d)})
		}
	}
	v.add(hostLane(a, r))
	slices.SortStableFunc(fates, byLoaded)
	for i, f := range fates {
		if i == maxLanes {
			v.More = len(fates) - maxLanes
			break
		}
		v.add(memberLane(a, r, f))
	}
	v.Height = laneTop + len(v.Lanes)*laneHeight + 8
}

// axisOf is from the first thing that is known to the switchover or, where that is much later than all else, not so far.
func axisOf(now time.Time, r *history.Record, fates []fate) (a axis, broken, ok bool) {
	last := r.Published
	take := func(t time.Time) {
		if !t.IsZero() && (a.from.IsZero() || t.Before(a.from)) {
			a.from = t
		}
		if t.After(last) {
			last = t
		}
	}
	for _, z := range r.Received {
		take(z.Whole)
		take(z.Kept)
	}
	take(r.Began)
	take(r.Published)
	for _, f := range fates {
		for _, s := range []*history.Span{f.fetched, f.loaded} {
			if s != nil {
				take(s.Began)
				take(s.Done)
			}
		}
	}
	if a.from.IsZero() {
		return a, false, false
	}
	busy := max(last.Sub(a.from), 200*time.Millisecond)
	a.to = a.from.Add(busy + busy/5)
	switch wait := r.Switchover.Sub(a.from); {
	case r.Switchover.IsZero():
		if now.After(a.to) && now.Sub(a.from) < 4*busy {
			a.to = now
		}
	case wait <= 4*busy:
		a.to = a.from.Add(max(wait, busy) + busy/20)
	default:
		a.to = a.from.Add(busy * 2)
		broken = true
	}
	return a, broken, true
}

func (v *releaseView) add(l lane) {
	l.Y = laneTop + len(v.Lanes)*laneHeight
	l.Text = l.Y + laneHeight/2 + 4
	v.Lanes = append(v.Lanes, l)
}

func hostLane(a axis, r *history.Record) lane {
	l := lane{Name: "distribution host", Tone: idle}
	for _, z := range r.Received {
		if !z.Began.IsZero() && !z.Kept.IsZero() {
			l.Bars = append(l.Bars, a.bar("receive", z.Zone+" received, in "+short(z.Kept.Sub(z.Began)), z.Began, z.Kept))
		}
		if len(l.Bars) == namedZones {
			break
		}
	}
	if !r.Began.IsZero() && !r.Published.IsZero() {
		l.Bars = append(l.Bars, a.bar("make", "checked, signed and published, in "+short(r.Published.Sub(r.Began)), r.Began, r.Published))
	}
	return l
}

func memberLane(a axis, r *history.Record, f fate) lane {
	l := lane{Name: f.name, Tone: good}
	if f.fetched != nil {
		l.Bars = append(l.Bars, a.bar("fetch", "fetched, in "+short(f.fetched.Done.Sub(f.fetched.Began)), f.fetched.Began, f.fetched.Done))
	}
	if f.loaded != nil {
		l.Bars = append(l.Bars, a.bar("load", "compiled, in "+short(f.loaded.Done.Sub(f.loaded.Began)), f.loaded.Began, f.loaded.Done))
		if r.Switchover.After(f.loaded.Done) {
			l.Bars = append(l.Bars, a.bar("wait", "ready", f.loaded.Done, r.Switchover))
		}
	}
	switch {
	case f.missed:
		l.Tone, l.Result = bad, "missed"
	case f.joined:
		l.Result = "later"
	case f.switched:
		l.Result = offset(f.lateness)
	case f.ready:
		l.Result = "ready"
	case !f.heard:
		l.Tone, l.Result = away, "no answer"
	default:
		l.Tone, l.Result = note, "not ready"
	}
	return l
}

// byLoaded puts first those who missed it, those who are not ready, and those who took longest.
func byLoaded(a, b fate) int {
	rank := func(f fate) int {
		switch {
		case f.missed:
			return 0
		case !f.ready:
			return 1
		}
		return 2
	}
	done := func(f fate) time.Time {
		if f.loaded == nil {
			return time.Time{}
		}
		return f.loaded.Done
	}
	return cmp.Or(cmp.Compare(rank(a), rank(b)), done(b).Compare(done(a)))
}
