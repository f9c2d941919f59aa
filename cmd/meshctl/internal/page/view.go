package page

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/history"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/unattended"
	"github.com/coredns-anycast/coredns-anycast/internal/gate"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
)

// Tones say how good something is. Each is a class in the style sheet and a sign in the page, and is never shown by colour alone.
const (
	good = "good"
	note = "note" // worth a look
	bad  = "bad"
	away = "away" // nothing is heard
	idle = "idle" // out of service on purpose
)

// view is what the templates show: every word and number of it is ready to be printed.
type view struct {
	Mesh     string
	At       time.Time
	Tone     string
	Verdict  string // the state of the mesh in one sentence
	Facts    []fact // below it
	Unjudged string
	Paused   string
	Work     []workView
	Alarms   []alarmView
	Release  *releaseView
	Members  membersView
	Lateness chart
	Latency  chart
	History  []recordView
	Drift    []driftView
	Reader   Reader

	Operates, CanSchedule, CanCancel bool
}

// fact is a figure and what it is of.
type fact struct{ Name, Value string }

type workView struct {
	Words string
	Share int // per cent; -1: not known
}

type alarmView struct{ Code, Detail, Do, Tone string }

// membersView is all members, those first that need attention.
type membersView struct {
	All      int
	Counts   []count      // of each tone that there is
	Tiles    []memberView // by name
	Shown    []memberView
	Rest     []memberView // that are well, beyond the first few
	Troubled int
}

type count struct {
	Tone, Word string
	N          int
}

// memberView is one row.
type memberView struct {
	Name, Admin string
	Tone        string
	State       string // in a word or two
	Serving     string
	Staged      string
	StagedNext  bool // it has the next release ready
	Clock       string
	ClockTone   string
	Lease       string
	LeaseTone   string
	Routes      []routeView
	Why         []string
	Doing       []workView
	Drained     bool
	Order       string // that an operator may give
}

// routeView is what is announced and to whom, or why not.
type routeView struct {
	Tone string
	What string // prefixes
	To   string // neighbours, or an interface
	Why  string
}

type driftView struct {
	What   string
	Values []driftValue
}

type driftValue struct {
	Value   string
	Members string
}

// shownWell is how many members that are well are shown at once.
const shownWell = 10

func viewOf(d Document) view {
	s := d.Status
	v := view{Mesh: s.Mesh, At: s.At, Paused: s.Paused, Reader: d.Reader}
	for i := range s.Work {
		v.Work = append(v.Work, progressView(&s.Work[i]))
	}
	for _, a := range s.Alarms {
		v.Alarms = append(v.Alarms, alarmView{a.Code, a.Detail, a.Do, map[bool]string{true: bad, false: note}[a.Level == unattended.LevelError]})
	}
	v.Members = membersOf(s)
	if d.Reader.operates() {
		v.Members.orders()
	}
	v.Tone, v.Verdict = verdictOf(s, v.Members)
	v.Facts, v.Unjudged = factsOf(s, v.Members), s.Unjudged
	v.Release = timelineOf(s, d.History)
	v.Lateness, v.Latency = latenessChart(d.History), latencyChart(d.History)
	for i := range d.History {
		v.History = append(v.History, recordOf(&d.History[i], s.Next))
	}
	v.Drift = driftsOf(s.Drift)
	v.Operates = d.Reader.operates()
	v.CanSchedule = v.Operates && s.Next != nil && s.Next.Switchover.IsZero()
	v.CanCancel = v.Operates && s.Next != nil && !s.Next.Switchover.IsZero() && !s.Next.Committed
	return v
}

func progressView(p *status.Progress) workView {
	return workView{p.String(), percent(p.Share())}
}

func percent(share float64, ok bool) int {
	if !ok {
		return -1
	}
	return int(share * 100)
}

// verdictWords are the states that come first in a verdict.
var verdictWords = map[string]string{stateSilent: "silent", stateBehind: "behind", stateAway: "not heard from", stateUnrouted: "not announced"}

// verdictOf is the state of the mesh in one sentence, the worst thing first.
func verdictOf(s unattended.Status, m membersView) (tone, text string) {
	by := map[string][]string{}
	for _, t := range m.Tiles {
		by[t.State] = append(by[t.State], t.Name)
	}
	switch {
	case !s.At.Before(s.LeaseExpires):
		return bad, "The lease has ended: all members are silent"
	case m.All == 0:
		return note, "This mesh has no members yet"
	case s.Current == nil && s.Next == nil:
		return note, "Nothing is released yet"
	case slices.ContainsFunc(s.Alarms, func(a unattended.Alarm) bool { return a.Code == unattended.AlarmNoRoute }):
		return bad, "No member is announced: no client reaches the shared address"
	}
	var troubles []string
	for _, state := range []string{stateSilent, stateBehind, stateAway, stateUnrouted} {
		if names := by[state]; len(names) > 0 {
			if tone == "" {
				tone = map[string]string{stateSilent: bad, stateBehind: bad, stateAway: away, stateUnrouted: note}[state]
			}
			troubles = append(troubles, countWords(len(names), m.All, names)+" "+verdictWords[state])
		}
	}
	if len(troubles) > 0 {
		return tone, strings.Join(troubles, ", ")
	}
	if len(s.Alarms) > 0 {
		tone = note
	} else {
		tone = good
	}
	if s.Current == nil {
		return tone, fmt.Sprintf("Release %d is staged, and no release is current yet", s.Next.Number)
	}
	if next := s.Next; next != nil && next.Switchover.After(s.At) {
		return tone, fmt.Sprintf("Release %d takes over from release %d in %s", next.Number, s.Current.Number, short(next.Switchover.Sub(s.At)))
	}
	if n := len(by[stateDrained]); n > 0 {
		return tone, fmt.Sprintf("%d of %d members answer from release %d, %s drained", m.All-n, m.All, s.Current.Number, isAre(n))
	}
	if m.All == 1 {
		return tone, fmt.Sprintf("The one member answers from release %d", s.Current.Number)
	}
	return tone, fmt.Sprintf("All %d members answer from release %d", m.All, s.Current.Number)
}

func isAre(n int) string {
	if n == 1 {
		return "1 is"
	}
	return fmt.Sprintf("%d are", n)
}

// countWords names a few members, or counts them.
func countWords(n, all int, names []string) string {
	switch {
	case n == 1:
		return names[0] + " is"
	case n == all:
		return fmt.Sprintf("All %d members are", n)
	case n <= 3:
		return strings.Join(names[:n-1], ", ") + " and " + names[n-1] + " are"
	}
	return fmt.Sprintf("%d of %d members are", n, all)
}

func factsOf(s unattended.Status, m membersView) []fact {
	number, zones := "none", 0
	if s.Current != nil {
		number, zones = fmt.Sprint(s.Current.Number), s.Current.Zones.Len()
	}
	if s.Next != nil {
		number += fmt.Sprintf(" → %d", s.Next.Number)
	}
	lease := span(max(0, s.LeaseExpires.Sub(s.At)))
	if !s.At.Before(s.LeaseExpires) {
		lease = "ended"
	}
	return []fact{{"Release", number}, {"In service", fmt.Sprintf("%d of %d", m.inService(), m.All)}, {"Zones", fmt.Sprint(zones)},
		{"Lease left", lease}, {"Clocks wrong by at most", fmt.Sprintf("%d ms", s.EpsilonMS)}}
}

// inService is how many members answer from the current release and are announced.
func (m membersView) inService() (n int) {
	for _, c := range m.Counts {
		if c.Word == stateGood || c.Word == stateNoted {
			n += c.N
		}
	}
	return n
}

func zonesWord(n int) string {
	if n == 1 {
		return "1 zone"
	}
	return fmt.Sprintf("%d zones", n)
}

// States of a member, the worst first.
const (
	stateSilent   = "silent"
	stateAway     = "no answer"
	stateBehind   = "behind"
	stateUnrouted = "not announced"
	stateNoted    = "needs a look"
	stateDrained  = "drained"
	stateGood     = "in service"
)

var stateOrder = []string{stateSilent, stateAway, stateBehind, stateUnrouted, stateNoted, stateDrained, stateGood}

var stateTones = map[string]string{stateSilent: bad, stateAway: away, stateBehind: bad, stateUnrouted: note, stateNoted: note,
	stateDrained: idle, stateGood: good}

func membersOf(s unattended.Status) membersView {
	m := membersView{All: len(s.Members)}
	counts := map[string]int{}
	for _, one := range s.Members {
		v := memberOf(one, s)
		m.Tiles = append(m.Tiles, v)
		counts[v.State]++
	}
	for _, state := range slices.Backward(stateOrder) {
		if n := counts[state]; n > 0 {
			m.Counts = append(m.Counts, count{stateTones[state], state, n})
		}
	}
	rows := slices.Clone(m.Tiles)
	slices.SortStableFunc(rows, func(a, b memberView) int {
		return cmp.Compare(slices.Index(stateOrder, a.State), slices.Index(stateOrder, b.State))
	})
	m.Troubled = len(rows) - counts[stateGood]
	if shown := m.Troubled + shownWell; len(rows) > shown+shownWell/2 {
		m.Shown, m.Rest = rows[:shown], rows[shown:]
	} else {
		m.Shown = rows
	}
	return m
}

// orders offers an operator what may be done with each member that answers.
func (m membersView) orders() {
	for _, list := range [][]memberView{m.Shown, m.Rest} {
		for i := range list {
			switch v := &list[i]; {
			case v.State == stateAway:
			case v.Drained:
				v.Order = Undrain
			default:
				v.Order = Drain
			}
		}
	}
}

func memberOf(m unattended.MemberStatus, s unattended.Status) memberView {
	v := memberView{Name: m.Name, Admin: strings.TrimPrefix(m.Admin, "https://"), State: stateAway}
	c := m.Confirmation
	if c == nil {
		v.Tone, v.Why = away, []string{m.Error}
		return v
	}
	v.Drained = c.Drained || hasReason(c.Why, gate.Draining, gate.Drained)
	v.Serving, v.Staged = numberOf(c.Serving), numberOf(c.Confirms.Staged)
	v.StagedNext = s.Next != nil && c.Confirms.Staged == s.Next.Number
	v.clock(c, s)
	v.lease(c, s)
	v.Routes = routesOf(c)
	v.why(c)
	switch {
	case v.Drained:
		v.State = stateDrained
	case c.Serving == 0:
		v.State, v.Serving = stateSilent, "nothing"
	case s.Current != nil && c.Serving < s.Current.Number:
		v.State = stateBehind
	case !c.Announced:
		v.State = stateUnrouted
	case len(v.Why) > 0 || v.ClockTone != good || v.LeaseTone != good || slices.ContainsFunc(v.Routes, func(r routeView) bool { return r.Tone != good }):
		v.State = stateNoted
	default:
		v.State = stateGood
	}
	v.Tone = stateTones[v.State]
	return v
}

func hasReason(all []status.Reason, codes ...string) bool {
	return slices.ContainsFunc(all, func(r status.Reason) bool { return slices.Contains(codes, r.Code) })
}

func numberOf(number uint64) string {
	if number == 0 {
		return "–"
	}
	return fmt.Sprint(number)
}

func (v *memberView) clock(c *status.Confirmation, s unattended.Status) {
	switch {
	case !c.Clock.Known:
		v.Clock, v.ClockTone = "not known", bad
		if c.Clock.Reason != "" {
			v.Why = append(v.Why, "clock: "+c.Clock.Reason)
		}
	default:
		v.Clock, v.ClockTone = "± "+short(c.Clock.Bound), good
		if c.Clock.Bound > time.Duration(s.EpsilonMS)*time.Millisecond {
			v.ClockTone = note
		}
		if c.Clock.Assumed {
			v.Clock, v.ClockTone = v.Clock+", assumed", note
		}
	}
}

func (v *memberView) lease(c *status.Confirmation, s unattended.Status) {
	left := c.LeaseExpires.Time().Sub(s.At)
	switch {
	case c.LeaseExpires == 0:
		v.Lease, v.LeaseTone = "none", bad
	case left <= 0:
		v.Lease, v.LeaseTone = "ended", bad
	default:
		v.Lease, v.LeaseTone = span(left), good
	}
}

func (v *memberView) why(c *status.Confirmation) {
	if c.Compiling != nil {
		v.Doing = append(v.Doing, workView{c.Compiling.String(), percent(c.Compiling.Share())})
	}
	if c.Transferring != nil {
		v.Doing = append(v.Doing, progressView(c.Transferring))
	}
	for _, r := range slices.Concat(c.Silent, c.Warnings) {
		v.Why = append(v.Why, r.String())
	}
	for _, r := range c.Why {
		if r.Code != gate.Ready && (c.Announced || c.Wanted) {
			v.Why = append(v.Why, r.String())
		}
	}
	for _, r := range c.Refused {
		v.Why = append(v.Why, fmt.Sprintf("refuses release %d: %s", r.Number, r.Reason))
	}
	if c.MirrorError != "" {
		v.Why = append(v.Why, "mirror: "+strings.ReplaceAll(c.MirrorError, "\n", "; "))
	}
	if f := c.LastFault; f != nil && !slices.ContainsFunc(c.Silent, func(r status.Reason) bool { return r.Code == f.Rule }) {
		v.Why = append(v.Why, fmt.Sprintf("%s: %s: %s", f.File, f.Rule, f.Detail))
	}
}

// routesOf says what is announced and to whom: neighbours that are told the same are one line.
func routesOf(c *status.Confirmation) (all []routeView) {
	told := map[string][]string{}
	for _, n := range c.Sessions {
		switch {
		case len(n.Announced) > 0:
			what := strings.Join(n.Announced, " ")
			told[what] = append(told[what], n.Neighbor)
		case n.Down.Code != "":
			all = append(all, routeView{Tone: bad, To: n.Neighbor, Why: n.State + ", " + n.Down.String()})
		case c.Announced || c.Wanted:
			all = append(all, routeView{Tone: bad, To: n.Neighbor, Why: n.State + ", told nothing"})
		}
	}
	for _, what := range slices.Sorted(maps.Keys(told)) {
		all = append(all, routeView{Tone: good, What: what, To: strings.Join(told[what], ", ")})
	}
	if c.IGP != nil && len(c.IGP.Announced) > 0 {
		all = append(all, routeView{Tone: good, What: strings.Join(c.IGP.Announced, " "), To: c.IGP.Interface})
	}
	if c.Announced {
		if len(all) == 0 {
			all = append(all, routeView{Tone: good, Why: "announced"})
		}
		return all
	}
	for _, r := range c.Why {
		all = append(all, routeView{Tone: note, Why: r.String()})
	}
	if len(all) == 0 {
		all = append(all, routeView{Tone: note, Why: "not announced"})
	}
	return all
}

func driftsOf(all []unattended.Drift) (views []driftView) {
	for _, d := range all {
		v := driftView{What: d.What}
		values := slices.SortedFunc(maps.Keys(d.Values), func(a, b string) int {
			return cmp.Or(cmp.Compare(len(d.Values[b]), len(d.Values[a])), strings.Compare(a, b))
		})
		for _, value := range values {
			names := d.Values[value]
			text := strings.Join(names[:min(len(names), 12)], ", ")
			if more := len(names) - 12; more > 0 {
				text += fmt.Sprintf(" and %d more", more)
			}
			v.Values = append(v.Values, driftValue{value, text})
		}
		views = append(views, v)
	}
	return views
}

// recordView is a release of the past.
type recordView struct {
	Number   uint64
	Made     time.Time
	By       string
	Zones    []history.ZoneChange
	More     int // zones that are not named
	Summary  string
	Others   []string // withdrawn, held, overridden
	Outcome  string
	Tone     string
	Moments  []momentView
	MoreThen int
}

type momentView struct{ After, What string }

// namedZones and namedMoments bound what is named of a release; the command prints all.
const (
	namedZones   = 50
	namedMoments = 60
)

func recordOf(r *history.Record, staged *unattended.ReleaseStatus) recordView {
	v := recordView{Number: r.Number, Made: r.Made, By: r.By, Zones: r.Zones}
	added, removed := 0, 0
	for _, z := range r.Zones {
		added, removed = added+z.Added, removed+z.Removed
	}
	v.Summary = fmt.Sprintf("%s changed, +%d −%d records", zonesWord(len(r.Zones)), added, removed)
	if len(r.Zones) == 1 {
		v.Summary = fmt.Sprintf("%s +%d −%d records", r.Zones[0].Origin, added, removed)
	}
	if more := len(r.Zones) - namedZones; more > 0 {
		v.Zones, v.More = r.Zones[:namedZones], more
	}
	for _, origin := range r.Withdrawn {
		v.Others = append(v.Others, origin+" withdrawn")
	}
	for _, h := range r.Held {
		v.Others = append(v.Others, fmt.Sprintf("%s held back at serial %d", h.Origin, h.Serial))
	}
	if r.Override != nil {
		v.Others = append(v.Others, fmt.Sprintf("overridden by %s: %s", r.Override.Who, r.Override.Why))
	}
	v.Tone, v.Outcome = outcomeOf(r)
	if staged != nil && staged.Number == r.Number {
		v.Outcome = "staged"
	}
	from, moments := r.Moments()
	for i, m := range moments {
		if i == namedMoments {
			v.MoreThen = len(moments) - namedMoments
			break
		}
		v.Moments = append(v.Moments, momentView{offset(m.At.Sub(from)), m.What})
	}
	return v
}

func outcomeOf(r *history.Record) (tone, words string) {
	if len(r.Results) == 0 {
		if r.Switchover.IsZero() {
			return idle, "not switched to"
		}
		return idle, "how it went is not known"
	}
	var latest time.Duration
	missed, joined := r.Missed(), 0
	for _, m := range r.Results {
		latest = max(latest, m.Lateness)
		if m.Joined {
			joined++
		}
	}
	switched := len(r.Results) - len(missed)
	words = fmt.Sprintf("%d of %d switched", switched, len(r.Results))
	if switched > joined {
		words += ", the last " + short(latest) + " late"
	}
	if joined > 0 {
		words += fmt.Sprintf(", %d after it", joined)
	}
	if len(missed) > 0 {
		return bad, words
	}
	return good, words
}
