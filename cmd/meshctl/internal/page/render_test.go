package page

import (
	"encoding/json"
	"math"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/history"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/unattended"
	"github.com/coredns-anycast/coredns-anycast/internal/gate"
	"github.com/coredns-anycast/coredns-anycast/internal/instant"
	"github.com/coredns-anycast/coredns-anycast/internal/lab"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
)

// html is the page of a story, which says each want.
func (s *story) html(t *testing.T, wants ...string) string {
	t.Helper()
	page, err := Render(s.Document)
	if err != nil {
		t.Fatal(err)
	}
	text := string(page)
	for _, want := range wants {
		if !strings.Contains(plain(text), want) {
			t.Errorf("the page does not say %q", want)
		}
	}
	return text
}

var tags = regexp.MustCompile(`<[^>]*>`)

// plain is what a page says, without its marks and with single blanks.
func plain(html string) string {
	return strings.Join(strings.Fields(strings.NewReplacer("&#43;", "+", "&#34;", `"`).Replace(tags.ReplaceAllString(html, " "))), " ")
}

// The verdict is one sentence, and the worst things come first.
func TestVerdict(t *testing.T) {
	for want, s := range map[string]*story{
		"All 3 members answer from release 42":                         newStory(3),
		"The one member answers from release 42":                       newStory(1),
		"osa is silent":                                                newStory(3).silent(1),
		"osa is silent, tyo is not heard from":                         newStory(3).gone(2).silent(1),
		"fra and tyo are not heard from":                               newStory(3).gone(0).gone(2),
		"4 of 12 members are not heard from":                           newStory(12).gone(0).gone(2).gone(4).gone(5),
		"Release 43 takes over from release 42 in 5.0 s":               newStory(3).staged(5*time.Second, true),
		"2 of 3 members answer from release 42, 1 is drained":          newStory(3).drained(0),
		"The lease has ended: all members are silent":                  newStory(3).leaseEnded(),
		"osa is behind":                                                newStory(3).behind(1),
		"No member is announced: no client reaches the shared address": newStory(3).alarm(unattended.AlarmNoRoute, "osa"),
	} {
		if v := viewOf(s.Document); v.Verdict != want {
			t.Errorf("the verdict is %q, want %q", v.Verdict, want)
		}
	}
	empty := Document{Status: unattended.Status{Mesh: "jp", At: noon, LeaseExpires: noon.Add(time.Hour)}}
	if v := viewOf(empty); v.Verdict != "This mesh has no members yet" {
		t.Errorf("of an empty mesh: %q", v.Verdict)
	}
	if _, err := Render(empty); err != nil {
		t.Error(err)
	}
}

// Each member has what it answers from, what it has ready, its clock, its lease, and what is announced to whom or why not.
func TestMembersAreShownWithTheirRoutes(t *testing.T) {
	s := newStory(3).silent(1)
	s.member(0).Confirmation.Sessions = append(s.member(0).Confirmation.Sessions,
		status.Session{Neighbor: "198.51.100.1", State: "established", Announced: []string{"192.0.2.0/24", "2001:db8:53::/48"}},
		status.Session{Neighbor: "198.51.100.2", State: "active", Down: status.Reason{Code: "connection-refused", Detail: "port 179"}})
	s.member(2).Confirmation.Sessions, s.member(2).Confirmation.IGP = nil, &status.IGP{Interface: "lo", Announced: []string{"192.0.2.53/32"}}
	s.html(t, "192.0.2.0/24 2001:db8:53::/48 to 2001:db8:0:1::1, 198.51.100.1", "198.51.100.2: active, connection-refused: port 179",
		"192.0.2.53/32 to lo", "meshsync-silent: meshsync is silent: clock-unknown", "clock-unknown: chronyd has had no source for 25 minutes", "± 180 µs", "23 h 12 min")
	v := viewOf(s.Document)
	if got := []string{v.Members.Shown[0].Name, v.Members.Shown[0].State, v.Members.Shown[1].Name, v.Members.Shown[1].State, v.Members.Shown[2].State}; !slices.Equal(got, []string{"osa", stateSilent, "fra", stateNoted, stateGood}) {
		t.Errorf("in the order %v", got)
	}
}

// A member that does not say to whom, since it is of the version before, is announced all the same.
func TestAMemberOfTheVersionBeforeIsAnnounced(t *testing.T) {
	s := newStory(1)
	s.member(0).Confirmation.Sessions = nil
	if v := viewOf(s.Document).Members.Shown[0]; v.State != stateGood || len(v.Routes) != 1 || v.Routes[0].Why != "announced" {
		t.Errorf("%+v", v)
	}
}

// Nothing that a member, a zone or a person says becomes markup, whatever field it is in.
func TestNobodysWordsBecomeMarkup(t *testing.T) {
	const evil = `"><script>alert(1)</script><img src=x onerror=alert(1)>`
	s := newStory(3).staged(time.Second, false).loading(2)
	s.alarm(evil, evil)
	s.Status.Paused, s.Status.Unjudged, s.Status.Mesh = evil, evil, evil
	s.Status.Work = []status.Progress{{What: evil, Subject: evil, Unit: evil}}
	s.Status.Drift = []unattended.Drift{{What: evil, Values: map[string][]string{evil: {evil}, "b": {evil}}}}
	s.Status.Next.Without = []string{evil}
	for i := range s.Status.Members {
		m := s.member(i)
		c := m.Confirmation
		m.Name, m.Admin = m.Name+evil, evil
		reason := []status.Reason{{Code: evil, Detail: evil}}
		c.Silent, c.Warnings, c.Why, c.Refused = reason, reason, append(reason, status.Reason{Code: gate.Degraded, Detail: evil}), []status.Refused{{Number: 3, Reason: reason[0]}}
		c.MirrorError, c.LastFault = evil, &status.Fault{File: evil, Rule: evil, Detail: evil}
		c.Clock.Reason, c.Clock.Known = evil, false
		c.Sessions = append(c.Sessions, status.Session{Neighbor: evil, State: evil, Down: reason[0]}, status.Session{Neighbor: evil, Announced: []string{evil}})
		c.IGP = &status.IGP{Interface: evil, Announced: []string{evil}}
	}
	s.member(1).Confirmation, s.member(1).Error = nil, evil
	s.Reader = Reader{evil, evil}
	for i := range s.History {
		r := &s.History[i]
		r.By, r.Withdrawn, r.Held = evil, []string{evil}, []history.Held{{Origin: evil}}
		r.Override = &release.Override{Who: evil, Why: evil}
		for j := range r.Zones {
			r.Zones[j].Origin = evil
		}
		for j := range r.Received {
			r.Received[j].Zone, r.Received[j].From, r.Received[j].How = evil, evil, evil
		}
		for j := range r.Results {
			r.Results[j].Member, r.Results[j].Why = evil, evil
		}
	}
	html := s.html(t)
	if n := strings.Count(html, "&gt;&lt;script&gt;"); n < 100 {
		t.Errorf("it is said %d times only", n)
	}
	if strings.Contains(html, "<img") || strings.Count(html, "<script") != 1 {
		t.Error("somebody's words became markup")
	}
	if regexp.MustCompile(`\s(style|on[a-z]+)=[^&]`).MatchString(tagsOf(html)) {
		t.Error("an element has a style or a handler in the page, which the policy forbids")
	}
}

// tagsOf is the tags alone, without the values of attributes that are quoted.
func tagsOf(html string) string {
	return regexp.MustCompile(`"[^"]*"`).ReplaceAllString(strings.Join(tags.FindAllString(html, -1), ""), `"&"`)
}

// Of 200 members those that need attention come first, and all are there.
func TestTwoHundredMembers(t *testing.T) {
	s := newStory(200).silent(17).gone(80).gone(81)
	html := s.html(t, "197 in service", "2 no answer", "1 silent", "187 more members in service", "188 more members were ready earlier than these")
	if n := strings.Count(html, `<tr id="m-`); n != 200 {
		t.Errorf("%d members are shown", n)
	}
	if len(html) > 600_000 {
		t.Errorf("the page has %d octets", len(html))
	}
	for _, v := range viewOf(s.Document).Members.Shown[:3] {
		if v.State == stateGood {
			t.Errorf("%s comes before those that need attention", v.Name)
		}
	}
}

// The way of a release is told as far as it has come.
func TestTheWayOfARelease(t *testing.T) {
	states := func(s *story) (all string) {
		for _, step := range viewOf(s.Document).Release.Steps {
			all += step.State + " "
		}
		return strings.TrimSpace(all)
	}
	missed := newStory(3)
	missed.member(1).Confirmation.Switched = nil
	missed.History[0].Results[1] = history.Result{Member: "osa", Why: "it was away"}
	for want, s := range map[string]*story{
		"done done done done done":   newStory(3),
		"done done done done failed": missed,
		"done done done now now":     newStory(3).staged(5*time.Second, false).loading(2),
		"done done done done now":    newStory(3).staged(5*time.Second, true),
	} {
		if got := states(s); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
	newStory(3).staged(5*time.Second, true).html(t, "Release 43: switchover committed", "in 5.0 s, committed", "12:00:05.000", "osa compiles it")
	newStory(3).staged(5*time.Second, false).loading(2).html(t, "2 of 3 members", "loading release 43: 2 of 3 zones", "not ready")
	newStory(3).html(t, "example.org. by ixfr", "3 of 3, at most 93 µs late", "2026112206 → 2026112207")
	paused := newStory(3).staged(0, false)
	paused.Status.Next.Switchover, paused.Status.Paused = time.Time{}, "a holiday"
	paused.html(t, "Release 43 is staged", "not proposed yet", "Paused. No release is made and no switchover proposed: a holiday")
}

// An alarm comes with what to do about it.
func TestAnAlarmSaysWhatToDo(t *testing.T) {
	s := newStory(3).alarm(unattended.AlarmLease, "it ends soon")
	if s.Status.Alarms[0].Do == "" {
		t.Fatal("nobody knows what to do")
	}
	s.html(t, "lease-not-renewed", "it ends soon", "What to do:")
}

// The charts show the last releases, as a table too, and one that waited for long hides no other.
func TestCharts(t *testing.T) {
	s := newStory(3)
	s.History[3].Switchover = s.History[3].Switchover.Add(48 * time.Hour)
	c := latencyChart(s.History)
	if len(c.Columns) != 20 || len(c.Rows) != 20 || c.Columns[16].Clipped != "2 d" || c.Columns[15].Clipped != "" {
		t.Errorf("%d columns, the tall one says %q", len(c.Columns), c.Columns[16].Clipped)
	}
	late := latenessChart(s.History)
	if late.Columns[13].Missed != 1 || len(late.Columns[13].Dots) != 2 || late.Rows[19][3] != "93 µs" || !strings.Contains(late.Summary, "Missed by a member: 1.") {
		t.Errorf("%+v %v %s", late.Columns[13], late.Rows[19], late.Summary)
	}
	// A member that took the release later has no lateness, and not one of 0.
	joined := newStory(3)
	for i := range joined.History {
		joined.History[i].Results[0].Joined, joined.History[i].Results[0].Lateness = true, 0
	}
	if c := latenessChart(joined.History); len(c.Columns[19].Dots) != 2 || c.Rows[19][1] == "0 µs" || c.Rows[19][1] == "0 s" {
		t.Errorf("%v %v", c.Columns[19].Dots, c.Rows[19])
	}
	if _, words := outcomeOf(&joined.History[0]); !strings.Contains(words, "late, 1 after it") {
		t.Error(words)
	}
	fates := fatesOf(joined.Status, &joined.History[0])
	if l := memberLane(axis{}, &joined.History[0], fates[0]); l.Result != "later" {
		t.Errorf("its lane says %q", l.Result)
	}
	joined.History[0].Results = joined.History[0].Results[:1]
	if _, words := outcomeOf(&joined.History[0]); words != "1 of 1 switched, 1 after it" {
		t.Error(words)
	}
	if many := latenessChart(newStory(200).History); many.Columns[0].Band == nil || len(many.Columns[0].Dots) != 0 {
		t.Error("of 200 members each has a dot")
	}
	for _, c := range []chart{latencyChart(nil), latenessChart(nil)} {
		if !c.Empty {
			t.Error("there is a chart of nothing")
		}
	}
}

// TestAPageOfWhatCannotBe: numbers that no member is well with, of one that is not or of a record, end no program and hold up no page.
func TestAPageOfWhatCannotBe(t *testing.T) {
	for _, wrong := range []int64{math.MinInt64, math.MinInt64 + 1, -1, 1, math.MaxInt64 / 2, math.MaxInt64 - 1, math.MaxInt64} {
		s := newStory(3)
		c := s.member(1).Confirmation
		c.Clock.Bound, c.LeaseExpires, c.Untold = time.Duration(wrong), instant.Wall(wrong), time.Duration(wrong)
		c.Switched.Lateness = time.Duration(wrong)
		c.Mirrored = &status.Step{Number: 42, Began: instant.Wall(wrong), Done: instant.WallOf(noon)}
		c.Compiled = &status.Step{Number: 42, Began: instant.WallOf(noon), Done: instant.Wall(wrong), Bytes: wrong}
		c.Compiling = &status.Compiling{Zones: int(wrong), Of: 1, Octets: wrong, OfAll: 1, Seconds: math.MaxFloat64}
		c.Transferring = &status.Progress{Done: 1, Of: wrong, Seconds: -math.MaxFloat64}
		for i := range s.History {
			one := &s.History[i].Results[1]
			one.Lateness, one.Mirrored, one.Compiled = time.Duration(wrong), history.SpanOf(c.Mirrored, 42), history.SpanOf(c.Compiled, 42)
		}
		drawn := make(chan error, 1)
		go func() {
			_, err := Render(s.Document)
			drawn <- err
		}()
		select {
		case err := <-drawn:
			if err != nil {
				t.Errorf("%d: %v", wrong, err)
			}
		case <-time.After(lab.Patience):
			t.Fatalf("%d: the page is not drawn", wrong)
		}
	}
}

// What has changed goes to the browser, and nothing else: a row alone, as long as rows stay where they are.
func TestChanges(t *testing.T) {
	ids := func(before, now *story) (all []string) {
		for _, s := range changes(mustSections(t, before), mustSections(t, now)) {
			all = append(all, s.ID)
		}
		return all
	}
	if got := ids(newStory(200), newStory(200)); len(got) != 0 {
		t.Errorf("nothing has changed but %v", got)
	}
	clock := newStory(200)
	clock.member(7).Confirmation.Clock.Bound = 3 * time.Millisecond
	if got := ids(newStory(200), clock); !slices.Equal(got, []string{"m-gru1"}) {
		t.Errorf("of one clock %v", got)
	}
	if got := ids(newStory(200), newStory(200).silent(7)); !slices.Equal(got, []string{"verdict", "members"}) {
		t.Errorf("of one that fell silent %v", got)
	}
	if got := changes(nil, mustSections(t, newStory(3))); len(got) != len(sectionNames) {
		t.Errorf("at first %d sections", len(got))
	}
}

func mustSections(t *testing.T, s *story) []section {
	t.Helper()
	all, err := sectionsOf(viewOf(s.Document))
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestWords(t *testing.T) {
	for d, want := range map[time.Duration]string{0: "0", 412 * time.Microsecond: "412 µs", 3249 * time.Microsecond: "3.2 ms", 41 * time.Millisecond: "41 ms",
		4123 * time.Millisecond: "4.1 s", 75 * time.Second: "1 min 15 s", 4*time.Hour + 10*time.Minute: "4 h 10 min", 48 * time.Hour: "2 d", -12 * time.Second: "−12 s"} {
		if got := short(d); got != want {
			t.Errorf("%v is %q, want %q", d, got, want)
		}
	}
	if got := offset(0) + " " + offset(-time.Millisecond) + " " + offset(time.Second); got != "0 −1.0 ms +1.0 s" {
		t.Error(got)
	}
}

// The page is made of the documents that the commands print: what comes out of their JSON gives the same page.
func TestThePageIsOfWhatTheCommandsPrint(t *testing.T) {
	s := newStory(3).silent(1).staged(5*time.Second, false)
	text, err := json.Marshal(struct {
		Status  unattended.Status
		History []history.Record
	}{s.Status, s.History})
	if err != nil {
		t.Fatal(err)
	}
	again := &story{Document: Document{Reader: s.Reader}}
	if err := json.Unmarshal(text, &again.Document); err != nil {
		t.Fatal(err)
	}
	if again.html(t) != s.html(t) {
		t.Error("the page has what no document says")
	}
}
