package mesh

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/instant"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
)

// A lease that names a switchover which was found void lasts to its end, also where an operator has made a later one shorter:
// who holds it answers from the release before all that time.
func TestLapsedByVoid(t *testing.T) {
	const minute = instant.Wall(time.Minute)
	now, first, second := 100*minute, status.Ref{Number: 2, At: 110 * minute}, status.Ref{Number: 2, At: 120 * minute}
	s := State{Current: Release{Ref: status.Ref{Number: 1}}, Next: Switchover{Ref: first}}
	s = s.Granted(now, time.Hour).withdrawn().Granted(now+minute, 5*time.Minute)
	s.Next.Ref = second
	s = s.Granted(now+2*minute, time.Hour)
	if got, want := s.LapsedBy(second), now+60*minute; got != want {
		t.Errorf("all that does not know of the second switchover has ended by %v, not %v", want, got)
	}
}

// What a member says is taken as it says it.
func TestWordOf(t *testing.T) {
	c := status.Confirmation{Mesh: "m", At: 1, Lease: 2, Serving: 3, Floor: 4, Confirms: status.Confirms{Staged: 3, Scheduled: &status.Ref{Number: 3, At: 5}},
		Promise: status.Promise{Number: 3, At: 5, State: status.Proposed}, Clock: status.ClockState{Known: true, Bound: 6}, Leap: true,
		Refused: []status.Refused{{Number: 7}}, Drained: true, Hears: 8, Format: 9, MirrorError: "no route",
		Silent: []status.Reason{{Code: Drained}, {Code: Struck}}}
	want := Word{Mesh: "m", At: 1, Lease: 2, Serving: 3, Floor: 4, Confirms: c.Confirms, Promise: c.Promise, Clock: c.Clock, Leap: true,
		Refused: c.Refused, Struck: true, Drained: true, Hears: 8, Format: 9, Fault: "no route"}
	if got := WordOf(c); !reflect.DeepEqual(got, want) {
		t.Errorf("%+v", got)
	}
	all := reflect.ValueOf(want)
	for i := range all.NumField() {
		if all.Field(i).IsZero() {
			t.Errorf("%s is not tested", all.Type().Field(i).Name)
		}
	}
	c.Silent = c.Silent[:1]
	if WordOf(c).Struck {
		t.Error("a drained member is taken for one that was struck")
	}
}

// Whoever is no member any more when its answer comes counts for nothing; who is leaving is asked by a host that starts.
func TestAnswersOfWhoIsNoMember(t *testing.T) {
	now := instant.Instant{Wall: epoch, Mono: 1}
	s := State{Mesh: "m", Members: []string{"a"}, Epsilon: smallEpsilon}.Granted(epoch, time.Hour)
	h := NewHost(Policy{Lease: time.Hour})
	h.Read(s)
	h.Asked(map[string]Answer{"b": {Word: &Word{Mesh: "m", At: epoch, Lease: 99}}}, now, now)
	if d := h.Decide(now); len(d.Alarms) != 0 {
		t.Errorf("%v", d.Alarms)
	}
	s.Leaving = []Leaving{{Member: "c", Lease: 1, Since: epoch, Lapses: epoch.Add(time.Hour)}}
	h = NewHost(Policy{Lease: time.Hour, Absent: Absent{After: time.Minute}})
	h.Read(s)
	if got := h.Ask(); !slices.Equal(got, []string{"a", "c"}) {
		t.Errorf("it asks %v", got)
	}
	h.Asked(map[string]Answer{"c": {Word: &Word{Mesh: "m", At: epoch, Lease: 1, Struck: true}}}, now, now)
	if d := h.Decide(now); d.Publish == nil || len(d.Publish.Leaving) != 0 {
		t.Errorf("%+v", d)
	}
}

// TestAnAlarmSaysWhetherPublicationGoesOn without the members that are away: not where fewer than half would be left.
func TestAnAlarmSaysWhetherPublicationGoesOn(t *testing.T) {
	now := instant.Instant{Wall: epoch, Mono: 1}
	for _, c := range []struct {
		members, away []string
		want          string
	}{
		{[]string{"a"}, []string{"a"}, "publication does not go on without it, since fewer than half of the members (0 of 1 at most) can switch: bring one back"},
		{[]string{"a", "b", "c"}, []string{"a", "b"}, "does not go on without it, since fewer than half of the members (1 of 3 at most)"},
		{[]string{"a", "b"}, []string{"a"}, "publication goes on without it after 10m0s"},
	} {
		s := State{Mesh: "m", Members: c.members, Epsilon: smallEpsilon}.Granted(epoch, time.Hour)
		answers := map[string]Answer{}
		for _, name := range c.members {
			answers[name] = Answer{Word: &Word{Mesh: "m", At: epoch, Lease: s.Version}}
		}
		for _, name := range c.away {
			s.Away, answers[name] = append(s.Away, Away{Member: name, Since: epoch}), Answer{}
		}
		h := NewHost(Policy{Lease: time.Hour, Absent: Absent{After: DefaultAbsent}})
		h.Read(s)
		h.Asked(answers, now, now)
		d := h.Decide(now)
		if len(d.Alarms) != len(c.away) {
			t.Fatalf("%v: %v", c.away, d.Alarms)
		}
		for _, a := range d.Alarms {
			if a.Code != MembersAway || !strings.Contains(a.Detail, c.want) {
				t.Errorf("%v of %v: %s", c.away, c.members, a)
			}
		}
	}
}

// A member that hangs makes leads longer by what docs/operate/releases.md says: it makes rounds of questions as long as a host is patient.
func TestWhatAMemberThatHangsAddsToALead(t *testing.T) {
	for _, c := range []struct {
		members int
		want    time.Duration
	}{{3, 6 * time.Second}, {1000, 18 * time.Second}} {
		s := State{Mesh: "m", Epsilon: smallEpsilon, Next: Switchover{Ref: status.Ref{Number: 1}}}
		answers := map[string]Answer{}
		for i := range c.members {
			name := fmt.Sprint("n", i)
			s.Members = append(s.Members, name)
			answers[name] = Answer{Word: &Word{Mesh: "m", At: epoch, Hears: 150 * time.Millisecond, Clock: status.ClockState{Known: true}}}
		}
		h, began := NewHost(Policy{Lease: time.Hour}), instant.Instant{Wall: epoch, Mono: 1}
		after := func(d time.Duration) instant.Instant {
			return instant.Instant{Wall: epoch.Add(d), Mono: began.Mono.Add(d)}
		}
		h.Read(s)
		h.Asked(answers, began, began)
		quick := h.Lead()
		answers["n0"] = Answer{Why: "it gave no answer"}
		h.Asked(answers, began, after(time.Minute))
		if more := h.Lead() - quick; (more - c.want).Abs() > 500*time.Millisecond {
			t.Errorf("of %d members one that hangs makes the lead of %v longer by %v", c.members, quick, more)
		}
	}
}

// TestOnlyRenewed: a lease and who is away may differ, and nothing else.
func TestOnlyRenewed(t *testing.T) {
	before := State{Version: 4, Members: []string{"tyo"}, Next: Switchover{Ref: status.Ref{Number: 2}}}
	before.Expires, before.Away = 10, []Away{{Member: "tyo"}}
	after := before
	after.Version, after.Expires, after.At, after.Away = 5, 20, 3, nil
	if !after.OnlyRenewed(before) {
		t.Error("a lease that was renewed is taken for more than that")
	}
	for what, change := range map[string]func(s *State){
		"a release": func(s *State) { s.Next.Number++ },
		"a commit":  func(s *State) { s.Next.Committed = true },
		"a member":  func(s *State) { s.Members = nil },
		"a pause":   func(s *State) { s.Paused = "lunch" },
	} {
		other := after
		if change(&other); other.OnlyRenewed(before) {
			t.Errorf("%s is taken for a lease that was renewed", what)
		}
	}
}
