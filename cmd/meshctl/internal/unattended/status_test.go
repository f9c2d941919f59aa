package unattended

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/enrol"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/home"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/hometest"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/releasing"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/switchover"
	codes "github.com/coredns-anycast/coredns-anycast/internal/gate"
	"github.com/coredns-anycast/coredns-anycast/internal/mesh"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
)

// What ought to be the same on all members and is not, is named with who has what (DRIFT-1).
func TestDriftIsNamed(t *testing.T) {
	state, view, err := home.At(hometest.New(t, time.Now, "fra", "tyo"), time.Now).Published(t.Context())
	hometest.Check(t, err)
	digest := map[string]string{"fra": "aa", "tyo": "aa"}
	ask := func(_ context.Context, members []release.Member) map[string]switchover.Answer {
		answers := map[string]switchover.Answer{}
		for _, m := range members {
			answers[m.Name] = switchover.Answer{Confirmation: status.Confirmation{Node: m.Name, Software: "v1", ConfigDigest: digest[m.Name]}}
		}
		return answers
	}
	if d := StatusOf(t.Context(), state, view, nil, mesh.Policy{}, nil, ask, time.Now).Drift; len(d) != 0 {
		t.Errorf("drift of equal members: %+v", d)
	}
	digest["tyo"] = "bb"
	d := StatusOf(t.Context(), state, view, nil, mesh.Policy{}, nil, ask, time.Now).Drift
	if len(d) != 1 || d[0].What != "configuration" || len(d[0].Values["aa"]) != 1 || d[0].Values["bb"][0] != "tyo" {
		t.Errorf("got %+v", d)
	}
}

// TestZonesAreListedWhereTheyArePrinted: a status of many takes no more memory than one of few, since the page is made each second. As JSON it has all.
func TestZonesAreListedWhereTheyArePrinted(t *testing.T) {
	state, view, err := home.At(hometest.New(t, time.Now, "fra"), time.Now).Published(t.Context())
	hometest.Check(t, err)
	ask := func(context.Context, []release.Member) map[string]switchover.Answer { return nil }
	made := func(zones int) (s Status, octets uint64) {
		view.Manifest.Current = &release.Release{Number: 7, Zones: make([]release.Zone, zones)}
		for i := range view.Manifest.Current.Zones {
			view.Manifest.Current.Zones[i] = release.Zone{Origin: fmt.Sprintf("z%d.example.", i), Serial: uint32(i)}
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		s = StatusOf(t.Context(), state, view, nil, mesh.Policy{}, nil, ask, time.Now)
		runtime.ReadMemStats(&after)
		return s, after.TotalAlloc - before.TotalAlloc
	}
	few, fewOctets := made(1)
	many, octets := made(20_000)
	if octets > fewOctets+64<<10 || few.Current.Zones.Len() != 1 || many.Current.Zones.Len() != 20_000 {
		t.Errorf("%d octets for one zone, and %d for 20,000", fewOctets, octets)
	}
	text, err := json.Marshal(many)
	hometest.Check(t, err)
	var read struct {
		Current struct{ Zones []status.Zone }
	}
	hometest.Check(t, json.Unmarshal(text, &read))
	if len(read.Current.Zones) != 20_000 || read.Current.Zones[7] != (status.Zone{Origin: "z7.example.", Serial: 7}) {
		t.Errorf("%d zones are printed", len(read.Current.Zones))
	}
	if text, err = json.Marshal(Zones{}); err != nil || string(text) != "[]" {
		t.Errorf("no zones are %s, %v", text, err)
	}
}

// TestStatusAlarmsWithoutServe: what the members say is judged as a host would that has just begun. One that is ahead of the state,
// one whose DNS server is dead, one that is silent and one that is not there are each an alarm that says so.
func TestStatusAlarmsWithoutServe(t *testing.T) {
	dir := hometest.New(t, time.Now, "dead", "fra", "gone", "tyo")
	hometest.MustRelease(t, dir, time.Now, 1, releasing.Options{Now: true})
	state, view, err := home.At(dir, time.Now).Published(t.Context())
	hometest.Check(t, err)
	good := status.Confirmation{Mesh: view.Manifest.Mesh, Lease: view.Versions.Timestamp, Serving: 1, Announced: true, Wanted: true, Format: mesh.Format}
	answers := map[string]switchover.Answer{
		"dead": {Err: &switchover.UnwellError{Said: status.Confirmation{Node: "dead", Announced: true, Why: []status.Reason{
			{Code: codes.RouteStays, Detail: "the policy"}, {Code: codes.ProbeDead, Detail: "connection refused"}}}}},
		"fra":  {Confirmation: good},
		"gone": {Err: errors.New("no route to host")},
		"tyo":  {Confirmation: good},
	}
	ask := func(context.Context, []release.Member) map[string]switchover.Answer { return answers }
	look := func() (seen []string, s Status) {
		s = StatusOf(t.Context(), state, view, nil, mesh.Policy{}, nil, ask, time.Now)
		for _, a := range s.Alarms {
			seen = append(seen, a.Code)
			if a.Do == "" || a.Level != LevelError {
				t.Errorf("%+v: want an error and what to do", a)
			}
		}
		return seen, s
	}
	seen, s := look()
	if !slices.Equal(seen, []string{AlarmNoServer, AlarmUnreachable}) || !strings.HasPrefix(s.Alarms[0].Do, "Start the member's CoreDNS") || !strings.Contains(s.Alarms[0].Detail, "dead: it has no word of its DNS server; probe-dead: connection refused") {
		t.Errorf("alarms %v", s.Alarms)
	}
	if !s.Members[0].Announced || s.Remedies[codes.ProbeDead] == "" {
		t.Errorf("a dead DNS server: %+v, %v", s.Members[0], s.Remedies)
	}
	delete(answers, "dead")
	delete(answers, "gone")
	ahead, silent := good, good
	ahead.Lease++
	silent.Serving, silent.Silent = 0, []status.Reason{{Code: mesh.ClockUnknown, Detail: "no source"}}
	answers["fra"], answers["tyo"] = switchover.Answer{Confirmation: ahead}, switchover.Answer{Confirmation: silent}
	answers["dead"], answers["gone"] = answers["fra"], answers["fra"]
	if seen, s := look(); !slices.Equal(seen, []string{mesh.StateRestored, AlarmSilent}) || !strings.Contains(s.Alarms[0].Do, "meshctl recover") {
		t.Errorf("alarms %v", s.Alarms)
	}
	silent.Silent[0].Code = mesh.Drained
	answers["fra"], answers["dead"], answers["gone"] = answers["tyo"], answers["tyo"], answers["tyo"]
	if seen, s := look(); len(seen) != 0 {
		t.Errorf("members that are silent as an operator wants are an alarm: %v", s.Alarms)
	}
}

// TestARemovedMemberWithARouteIsAnAlarm, with policy stop-dns for instance: clients get no answer from it. It is asked for a week, and not when it
// is a member again.
func TestARemovedMemberWithARouteIsAnAlarm(t *testing.T) {
	dir := hometest.New(t, time.Now, "fra", "tyo")
	hometest.MustRelease(t, dir, time.Now, 1, releasing.Options{Now: true})
	hometest.Check(t, home.At(dir, time.Now).Write(t.Context(), func(w *home.Writer) error { return enrol.RemoveMember(t.Context(), w, "fra") }))
	state, view, err := home.At(dir, time.Now).Published(t.Context())
	hometest.Check(t, err)
	good := status.Confirmation{Mesh: view.Manifest.Mesh, Lease: view.Versions.Timestamp, Serving: 1, Announced: true, Wanted: true, Format: mesh.Format}
	left := good
	left.Serving, left.Lease, left.Silent = 0, good.Lease+7, []status.Reason{{Code: mesh.Struck, Detail: "it was removed"}}
	look := func(at time.Time, view release.View, fra switchover.Answer) (codes []string, asked []string) {
		ask := func(_ context.Context, members []release.Member) map[string]switchover.Answer {
			for _, m := range members {
				asked = append(asked, m.Name)
			}
			return map[string]switchover.Answer{"tyo": {Confirmation: good}, "fra": fra}
		}
		removed := enrol.Removed(home.At(dir, time.Now), view.Manifest, at)
		for _, a := range StatusOf(t.Context(), state, view, removed, mesh.Policy{}, nil, ask, time.Now).Alarms {
			codes = append(codes, a.Code)
		}
		return codes, asked
	}
	if codes, asked := look(time.Now(), view, switchover.Answer{Confirmation: left}); !slices.Equal(codes, []string{AlarmRemoved}) || !slices.Equal(asked, []string{"tyo", "fra"}) {
		t.Errorf("asked of %v: %v", asked, codes)
	}
	dead := switchover.Answer{Err: &switchover.UnwellError{Said: status.Confirmation{Node: "fra", Announced: true}}}
	if codes, _ := look(time.Now(), view, dead); !slices.Equal(codes, []string{AlarmRemoved}) {
		t.Errorf("without a DNS server: %v", codes)
	}
	withdrawn := left
	withdrawn.Announced = false
	for _, said := range []switchover.Answer{{Confirmation: withdrawn}, {Err: errors.New("no route to host")}} {
		if codes, _ := look(time.Now(), view, said); len(codes) != 0 {
			t.Errorf("%+v: %v", said, codes)
		}
	}
	if codes, asked := look(time.Now().Add(8*24*time.Hour), view, dead); len(codes) != 0 || len(asked) != 1 {
		t.Errorf("after a week, asked of %v: %v", asked, codes)
	}
	again := view
	again.Manifest.Members = append(slices.Clone(view.Manifest.Members), release.Member{Name: "fra"})
	if removed := enrol.Removed(home.At(dir, time.Now), again.Manifest, time.Now()); len(removed) != 0 {
		t.Errorf("it is a member again: %v", removed)
	}
}

// TestAMemberThatIsUnwellIsAnAlarm: one that says that it serves a release, and whose probe of the shared address fails for as long as
// the gate takes to believe that, with the route there or not. One bad round is none, nor is a start.
func TestAMemberThatIsUnwellIsAnAlarm(t *testing.T) {
	reason := func(code string) status.Reason { return status.Reason{Code: code, Detail: "words"} }
	for _, c := range []struct {
		why  []string
		want string
	}{
		{[]string{codes.RouteStays, codes.ProbeDead}, "tyo: probe-dead: words"},
		{[]string{codes.RouteStays, codes.ProbeHanging}, "tyo: probe-hanging: words"},
		{[]string{codes.ProbeDown, codes.ProbeWrong}, "tyo: probe-down: words"},
		{[]string{codes.NotReady, codes.ProbeDead}, "tyo: probe-dead: words"},
		{[]string{codes.MinAnnouncing, codes.ProbeWrong}, "tyo: probe-wrong: words"},
		{[]string{codes.Ready, codes.ProbeFailing, codes.ProbeDead}, ""},
		{[]string{codes.NotReady}, ""},
		{[]string{codes.Ready, codes.ProbeSlow}, ""},
	} {
		said := status.Confirmation{Serving: 1}
		for _, code := range c.why {
			said.Why = append(said.Why, reason(code))
		}
		got := ""
		for _, r := range memberAlarms([]MemberStatus{{Name: "tyo", Confirmation: &said}}, true) {
			got += r.Detail
			if r.Code != AlarmUnwell {
				t.Errorf("%v: %s", c.why, r)
			}
		}
		if got != c.want {
			t.Errorf("%v: %q, want %q", c.why, got, c.want)
		}
	}
}

// TestARouteThatNoRouterKnowsIsAnAlarm: a warning of the member that means to be announced, and one error of all of them where no member
// that answers is announced; after a while, since a session starts, and may flap.
func TestARouteThatNoRouterKnowsIsAnAlarm(t *testing.T) {
	member := func(name string, change func(*status.Confirmation)) MemberStatus {
		c := status.Confirmation{Serving: 1, Wanted: true, Why: []status.Reason{{Code: codes.Ready}}}
		change(&c)
		return MemberStatus{Name: name, Announced: c.Announced, Confirmation: &c}
	}
	told := func(c *status.Confirmation) { c.Announced = true }
	untold := func(after time.Duration) func(*status.Confirmation) {
		return func(c *status.Confirmation) {
			c.Untold = after
			c.Sessions = []status.Session{{Neighbor: "192.0.2.1", State: "active", Down: status.Reason{Code: "connection-refused", Detail: "words"}}}
		}
	}
	drained := func(c *status.Confirmation) { c.Wanted, c.Drained = false, true }
	going := func(c *status.Confirmation) {
		untold(time.Hour)(c)
		c.Why = append(c.Why, status.Reason{Code: codes.Draining})
	}
	down := " is connection-refused)"
	for name, c := range map[string]struct {
		fra, tyo     func(*status.Confirmation)
		level, wants string
	}{
		"one of two":           {told, untold(untoldPatience), LevelWarning, "member-unrouted: no router has been told of the route of tyo (192.0.2.1" + down},
		"both":                 {untold(time.Hour), untold(time.Minute), LevelError, "mesh-unrouted: no member that answers is announced, and no router has been told of the route of fra (192.0.2.1" + down + "; tyo (192.0.2.1" + down},
		"the other is drained": {drained, untold(time.Hour), LevelError, "mesh-unrouted: no member that answers is announced, and no router has been told of the route of tyo (192.0.2.1" + down},
		"a start, or a flap":   {untold(untoldPatience - 1), untold(time.Second), "", ""},
		"all is well":          {told, told, "", ""},
		"both are drained":     {drained, drained, "", ""},
		"a drain has begun":    {going, going, "", ""},
	} {
		all := memberAlarms([]MemberStatus{member("fra", c.fra), member("tyo", c.tyo)}, true)
		if c.wants == "" && len(all) == 0 {
			continue
		}
		if len(all) != 1 || all[0].String() != c.wants || AlarmOf(all[0]).Level != c.level || AlarmOf(all[0]).Do == "" {
			t.Errorf("%s: %v, want %s %q", name, all, c.level, c.wants)
		}
	}
	away := MemberStatus{Name: "fra", Error: "no route to host"}
	all := memberAlarms([]MemberStatus{away, member("tyo", untold(time.Hour))}, true)
	if len(all) != 2 || all[0].Code != AlarmUnreachable || all[1].Code != AlarmNoRoute {
		t.Errorf("one away, and one not told: %v", all)
	}
}

// TestAMachineThatWouldEndItsMemberIsAWarning, of one that is silent as well, once for each thing.
func TestAMachineThatWouldEndItsMemberIsAWarning(t *testing.T) {
	said := status.Confirmation{Serving: 1, Warnings: []status.Reason{{Code: status.CorefileRefused, Detail: "Corefile:7"},
		{Code: "lease-not-renewed", Detail: "which this host judges itself"}, {Code: status.StateUnwritable, Detail: "/state: no space left on device"}}}
	silent := status.Confirmation{Warnings: append(said.Warnings[:1:1], status.Reason{Code: status.Implausible, Detail: "hears_ns"})}
	all := memberAlarms([]MemberStatus{{Name: "tyo", Confirmation: &said}, {Name: "fra", Confirmation: &silent}, {Name: "osa", Error: "no word"}}, false)
	var got []string
	for _, r := range all {
		got = append(got, r.String())
		if a := AlarmOf(r); r.Code != AlarmUnreachable && (a.Level != LevelWarning || a.Do == "") {
			t.Errorf("got %+v", a)
		}
	}
	want := []string{"corefile-refused: tyo: Corefile:7", "state-unwritable: tyo: /state: no space left on device", "corefile-refused: fra: Corefile:7", "implausible: fra: hears_ns", "member-unreachable: osa: no word"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestAClockThatNobodyCertifiesIsAWarning: long before the member is silent for it, once, and with what ends it.
func TestAClockThatNobodyCertifiesIsAWarning(t *testing.T) {
	said := status.Confirmation{Serving: 1, Warnings: []status.Reason{{Code: status.ClockHoldover, Detail: "chronyd does not answer"}}}
	all := memberAlarms([]MemberStatus{{Name: "tyo", Confirmation: &said}, {Name: "fra", Confirmation: &status.Confirmation{Serving: 1}}}, true)
	if len(all) != 1 || all[0] != (status.Reason{Code: status.ClockHoldover, Detail: "tyo: chronyd does not answer"}) {
		t.Fatalf("got %v", all)
	}
	if a := AlarmOf(all[0]); a.Level != LevelWarning || !strings.Contains(a.Do, "chronyc tracking") {
		t.Errorf("got %+v", a)
	}
}
