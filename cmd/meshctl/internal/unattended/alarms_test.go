package unattended

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/hometest"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/switchover"
	"github.com/coredns-anycast/coredns-anycast/internal/mesh"
	"github.com/coredns-anycast/coredns-anycast/internal/receive"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
)

// What an operator must see to is an alarm before nodes fall silent for it, and not before it has begun.
func TestAlarms(t *testing.T) {
	now := hometest.Start
	quiet := func() (release.View, CycleState) {
		years := now.AddDate(2, 0, 0)
		return release.View{LeaseExpires: now.Add(23 * time.Hour), Expires: release.Expiries{Root: years, Targets: years, Snapshot: years, Timestamp: now.Add(23 * time.Hour)},
			Manifest: release.Manifest{Current: &release.Release{Number: 1, Zones: []release.Zone{{Origin: "example.org.", SignedUntil: now.AddDate(0, 0, 14)}}}}}, CycleState{}
	}
	for want, change := range map[string]func(*release.View, *CycleState){
		"":            func(*release.View, *CycleState) {},
		AlarmLease:    func(v *release.View, _ *CycleState) { v.LeaseExpires = now.Add(12*time.Hour - time.Second) },
		AlarmEnded:    func(v *release.View, _ *CycleState) { v.LeaseExpires = now },
		AlarmRoleSoon: func(v *release.View, _ *CycleState) { v.Expires.Root = now.AddDate(0, 0, 6) },
		AlarmExpired: func(_ *release.View, c *CycleState) {
			c.Sources = []receive.Status{{Zone: "example.org.", Expired: true}}
		},
		"in less than 7 days":  func(v *release.View, _ *CycleState) { v.Expires.Root = now.AddDate(0, 0, 6) },
		"in less than 30 days": func(v *release.View, _ *CycleState) { v.Expires.Targets = now.AddDate(0, 0, 29) },
		"in less than 90 days": func(v *release.View, _ *CycleState) { v.Expires.Targets = now.AddDate(0, 0, 89) },
		AlarmSignatures: func(v *release.View, _ *CycleState) {
			v.Manifest.Current.Zones[0].SignedUntil = now.Add(20 * time.Hour)
		},
		AlarmBlocked: func(_ *release.View, c *CycleState) { c.Blocked = true },
		AlarmFailed:  func(_ *release.View, c *CycleState) { c.Failed, c.Since = "no such key", now.Add(-missingPatience) },
		AlarmDisk + ": this host's disk: /in/a.zone: no space left": func(_ *release.View, c *CycleState) {
			c.Faults = map[receive.Fault]string{{Source: "this host's disk", What: "/in/a.zone"}: "no space left"}
		},
		AlarmHeld: func(_ *release.View, c *CycleState) { c.Held = []string{"example.org."} },
		AlarmSource: func(_ *release.View, c *CycleState) {
			c.Sources = []receive.Status{{Zone: "example.org.", Error: "refused"}}
		},
	} {
		v, c := quiet()
		change(&v, &c)
		alarms := Alarms(v, 24*time.Hour, c, now)
		if want == "" && len(alarms) == 0 {
			continue
		}
		if len(alarms) != 1 || !strings.Contains(alarms[0].String(), want) || want == "" {
			t.Errorf("want %q, got %v", want, alarms)
		}
	}
}

// What the protocol calls for is said with the code that metrics count, and by whom a switchover is kept.
func TestMeshAlarms(t *testing.T) {
	s := switchover.DriverState{Since: hometest.Start, Decision: mesh.HostDecision{
		Alarms:  []status.Reason{{Code: mesh.MembersAway, Detail: "tyo"}},
		Against: []mesh.Missing{{Member: "tyo", Why: status.Reason{Code: mesh.Unreachable, Detail: "refused"}}}}}
	if got := MeshAlarms(s, hometest.Start.Add(missingPatience-1)); len(got) != 1 {
		t.Errorf("members that get ready are an alarm: %v", got)
	}
	got := MeshAlarms(s, hometest.Start.Add(missingPatience))
	if len(got) != 2 || got[0].Code != mesh.MembersAway || got[1].Code != AlarmMembers || !strings.Contains(got[1].Detail, "tyo keeps the staged release") {
		t.Errorf("got %v", got)
	}
	for _, a := range got {
		if !slices.Contains(AlarmCodes, a.Code) {
			t.Errorf("%s is counted by no metric", a.Code)
		}
	}
	var said [2]string
	for i, file := range []string{"blobs/1: no such file", "blobs/2: no such file"} {
		s.Decision.Against[0].Why = status.Reason{Code: "missing", Detail: file}
		said[i] = fmt.Sprint(MeshAlarms(s, hometest.Start.Add(missingPatience)))
	}
	if said[0] != said[1] {
		t.Errorf("while files come, one alarm ends and another begins: %v", said)
	}
}
