package main

import (
	"strings"
	"testing"
	"time"

	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/config"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/unattended"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
	"github.com/coredns-anycast/coredns-anycast/internal/terminal"
)

// TestABarShowsHowFarLoadingIs, of a node that says so, and is never wider than it is.
func TestABarShowsHowFarLoadingIs(t *testing.T) {
	for want, c := range map[string]status.Compiling{
		"[....................] 0 % loading":   {OfAll: 100},
		"[##########..........] 50 % loading":  {Octets: 50, OfAll: 100},
		"[####################] 100 % loading": {Octets: 150, OfAll: 100},
		"\tloading":                            {Octets: 50},
	} {
		c.Number = 2
		line := memberLine(unattended.MemberStatus{Confirmation: &status.Confirmation{Serving: 1, Compiling: &c}})
		if !strings.Contains(line, want) {
			t.Errorf("%+v: %q, want %q", c, line, want)
		}
	}
}

// TestABarShowsHowFarTransferringIs, receiving and checking as well.
func TestABarShowsHowFarTransferringIs(t *testing.T) {
	p := status.Progress{What: "transferring", Subject: "release 2", Done: 30, Of: 120, Unit: "bytes", Seconds: 3}
	want := "[#####...............] 25 % transferring release 2: 30 of 120 bytes, 10 a second"
	if line := memberLine(unattended.MemberStatus{Confirmation: &status.Confirmation{Serving: 1, Transferring: &p}}); !strings.Contains(line, want) {
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
		"here     [##########..........] 50 % checking example.org.: 60 of 120 records, 20 a second, zone 2 of 4\n",
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
	if strings.ContainsAny(out.String(), "\x1b\r\x07\u009b") || !strings.Contains(out.String(), "日本?1A?all is well?\n") {
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
		if strings.Contains(out.String(), "warning  checks do not judge that a server of each zone is outside the mesh (ROUTE-4)") != said {
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
