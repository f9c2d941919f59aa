package main

import (
	"strings"
	"testing"
	"time"

	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/config"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/unattended"
	"github.com/coredns-anycast/coredns-anycast/internal/mesh"
	"github.com/coredns-anycast/coredns-anycast/internal/remedy"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
	"github.com/coredns-anycast/coredns-anycast/internal/terminal"
)

// TestABarShowsHowFarLoadingIs, of a node that says so, and is never wider than it is.
func TestABarShowsHowFarLoadingIs(t *testing.T) {
	for want, c := range map[string]status.Compiling{
		"         [....................] 0 % loading":   {OfAll: 100},
		"         [##########..........] 50 % loading":  {Octets: 50, OfAll: 100},
		"         [####################] 100 % loading": {Octets: 150, OfAll: 100},
		"         loading": {Octets: 50},
	} {
		c.Number = 2
		line := saidOf(unattended.MemberStatus{Confirmation: &status.Confirmation{Serving: 1, Compiling: &c}})
		if !strings.Contains(line, want) {
			t.Errorf("%+v: %q, want %q", c, line, want)
		}
	}
}

// saidOf are the lines about a member.
func saidOf(m unattended.MemberStatus) string {
	var out strings.Builder
	(&cli{out: &out}).sayMember(m)
	return out.String()
}

// TestEveryAlarmSaysHowToEndIt, in words and as JSON, no line is wider than a terminal, and reasons of members are told apart once
// with what to do about them.
func TestEveryAlarmSaysHowToEndIt(t *testing.T) {
	s := unattended.Status{Mesh: "jp", Remedies: map[string]string{mesh.ClockUnknown: remedy.For(mesh.ClockUnknown).Do}}
	for _, code := range append([]string{unattended.AlarmSilent, unattended.AlarmUnreachable, unattended.AlarmUnwell, unattended.AlarmNoServer, unattended.AlarmRemoved, unattended.AlarmUnrouted, unattended.AlarmNoRoute, unattended.AlarmServeEnded, unattended.AlarmNoServe}, unattended.AlarmCodes...) {
		s.Alarms = append(s.Alarms, unattended.AlarmOf(status.Reason{Code: code, Detail: strings.Repeat("words about it ", 10)}))
	}
	for _, name := range []string{"tyo", "osa"} {
		s.Members = append(s.Members, unattended.MemberStatus{Name: name, Confirmation: &status.Confirmation{
			Silent: []status.Reason{{Code: mesh.ClockUnknown, Detail: strings.Repeat("chronyd says nothing ", 8)}}}})
	}
	var out strings.Builder
	c := &cli{out: &out}
	c.sayStatus(s)
	for _, line := range strings.Split(out.String(), "\n") {
		if n := len([]rune(line)); n > terminal.Width {
			t.Errorf("%d columns: %s", n, line)
		}
	}
	text := strings.Join(strings.Fields(out.String()), " ")
	for _, a := range s.Alarms {
		label := map[bool]string{true: "ALARM ", false: "warning "}[a.Level == unattended.LevelError]
		if a.Do == "" || !strings.Contains(text, label+a.Code+": words") || !strings.Contains(text, "to do: "+a.Do) {
			t.Errorf("%+v is not in\n%s", a, out.String())
		}
	}
	if do := remedy.For(mesh.ClockUnknown).Do; strings.Count(text, do) != 1 || strings.Count(text, mesh.ClockUnknown+": chronyd says") != 2 {
		t.Errorf("what to do about the members' reasons is there %d times:\n%s", strings.Count(text, do), out.String())
	}
	out.Reset()
	var two unattended.Status
	for _, name := range []string{"osa", "tyo"} {
		two.Alarms = append(two.Alarms, unattended.AlarmOf(status.Reason{Code: unattended.AlarmUnreachable, Detail: name}))
	}
	if c.sayStatus(two); strings.Count(out.String(), unattended.AlarmUnreachable) != 2 || strings.Count(out.String(), "to do: ") != 1 {
		t.Errorf("two members that are dead:\n%s", out.String())
	}
	out.Reset()
	c.json, c.lines = true, true
	if err := c.print(s, nil); err != nil || strings.Count(out.String(), "\n") != 1 {
		t.Errorf("%v: more than a line: %s", err, out.String())
	}
	out.Reset()
	c.lines = false
	if err := c.print(s, nil); err != nil || strings.Count(out.String(), `"do": "`) != len(s.Alarms) || !strings.Contains(out.String(), `"level": "error"`) {
		t.Errorf("%v: %s", err, out.String())
	}
}

// TestABarShowsHowFarTransferringIs, receiving and checking as well.
func TestABarShowsHowFarTransferringIs(t *testing.T) {
	p := status.Progress{What: "transferring", Subject: "release 2", Done: 30, Of: 120, Unit: "bytes", Seconds: 3}
	want := "[#####...............] 25 % transferring release 2: 30 of 120 bytes, 10\n           a second"
	if line := saidOf(unattended.MemberStatus{Confirmation: &status.Confirmation{Serving: 1, Transferring: &p}}); !strings.Contains(line, want) {
		t.Errorf("%q, want %q", line, want)
	}
	var out strings.Builder
	c := &cli{out: &out}
	c.sayStatus(unattended.Status{Work: []status.Progress{
		{What: "receiving", Subject: "new.example.", Done: 7, Unit: "records", Seconds: 1},
		{What: "checking", Subject: "example.org.", Done: 60, Of: 120, Unit: "records", Seconds: 3, Zone: 2, OfZones: 4},
	}})
	for _, want := range []string{
		"here     receiving new.example.: 7 records, 7 a second\n",
		"here     [##########..........] 50 % checking example.org.: 60 of 120 records,\n           20 a second, zone 2 of 4\n",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in\n%s", want, out.String())
		}
	}
}

// TestNobodysWordsSteerATerminal: what a member says is printed without control characters, whatever script it is in.
func TestNobodysWordsSteerATerminal(t *testing.T) {
	var out strings.Builder
	c := &cli{out: terminal.Writer{Writer: &out}}
	c.sayStatus(unattended.Status{Members: []unattended.MemberStatus{{Name: "tyo", Confirmation: &status.Confirmation{
		Silent: []status.Reason{{Code: "x\x1b[2J", Detail: "日本\u009b1A\rall is well\x07"}}}}}})
	if strings.ContainsAny(out.String(), "\x1b\r\x07\u009b") || !strings.Contains(out.String(), "日本?1A all is well?\n") {
		t.Errorf("%q", out.String())
	}
}

// TestStatusSaysWhatIsNotJudged, as long as nobody names meshes or says that it is to be so.
func TestStatusSaysWhatIsNotJudged(t *testing.T) {
	for text, said := range map[string]bool{
		"checks: {zonemd: verify}":                                        true,
		"checks: {server_outside: ignore}":                                true,
		"checks: {server_outside: ignore, several_meshes: ignore}":        false,
		"checks: {meshes: [{name: here, servers: [ns1.test, ns2.test]}]}": false,
	} {
		config, err := config.Parse("meshctl.yaml", []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		var out strings.Builder
		(&cli{out: &out}).sayStatus(unattended.Status{Unjudged: config.Checks.Unjudged()})
		if strings.Contains(out.String(), "warning  checks do not judge that a server of each zone is outside the mesh\n           (ROUTE-4)") != said {
			t.Errorf("%q:\n%s", text, out.String())
		}
	}
}

// What is staged says how far its switchover is.
func TestNextLine(t *testing.T) {
	at := time.Date(2026, 11, 30, 1, 20, 14, 0, time.UTC)
	for _, c := range []struct {
		next *unattended.ReleaseStatus
		want string
	}{
		{nil, "none"},
		{&unattended.ReleaseStatus{Number: 8}, "release 8, 0 zones, staged, no switchover proposed"},
		{&unattended.ReleaseStatus{Number: 8, Switchover: at}, "release 8, 0 zones, switchover 2026-11-30T01:20:14.000000Z, proposed"},
		{&unattended.ReleaseStatus{Number: 8, Switchover: at, Committed: true, Without: []string{"fra", "tyo"}},
			"release 8, 0 zones, switchover 2026-11-30T01:20:14.000000Z, committed, without fra, tyo"},
	} {
		if got := nextLine(c.next); got != c.want {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
}
