package unattended

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/config"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/home"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/hometest"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/keys"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/releasing"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/switchover"
	"github.com/coredns-anycast/coredns-anycast/internal/instant"
	"github.com/coredns-anycast/coredns-anycast/internal/mesh"
	"github.com/coredns-anycast/coredns-anycast/internal/receive"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
	"github.com/coredns-anycast/coredns-anycast/internal/zonecheck"
)

// cycleAt is a cycle that is moved by hand.
func cycleAt(dir string, now *time.Time) *Cycle {
	c := &Cycle{Home: home.At(dir, func() time.Time { return *now }), Config: config.Default(""), Log: slog.New(slog.DiscardHandler)}
	c.begin()
	return c
}

// receives hands a zone file in as a receiver does.
func (c *Cycle) receives(t *testing.T, s releasing.Source) {
	t.Helper()
	origin := strings.TrimSuffix(filepath.Base(s.File), "zone")
	c.received(receive.Update{Origin: origin, How: receive.File, Path: s.File, SHA256: s.File})
}

func (c *Cycle) releases(t *testing.T) *releasing.Made {
	t.Helper()
	made, err := c.release(t.Context())
	hometest.Check(t, err)
	return made
}

// TestOneBadZoneHoldsBackTheRelease until it is right, where the policy says so: what else was received does not go out without it.
func TestOneBadZoneHoldsBackTheRelease(t *testing.T) {
	now := hometest.Start
	dir := hometest.New(t, hometest.At(now), "tyo")
	hometest.Configure(t, dir, "checks: {on_error: hold-release}\n")
	c := cycleAt(dir, &now)
	c.receives(t, hometest.NamesZone(t, "a.", 1, 100))
	c.receives(t, hometest.NamesZone(t, "b.", 1, 100))
	if made := c.releases(t); made == nil || !made.Current {
		t.Fatalf("the first release: %+v", made)
	}
	bad := hometest.NamesZone(t, "a.", 2, 60)
	c.receives(t, bad)
	c.receives(t, hometest.NamesZone(t, "b.", 2, 100))
	for range 3 {
		if made := c.releases(t); made != nil || !c.State().Blocked {
			t.Fatalf("a bad zone, by %q: %+v, state %+v", zonecheck.HoldRelease, made, c.State())
		}
	}
	// The good one comes while the bad one is being judged: what counts is what was judged.
	c.receives(t, hometest.NamesZone(t, "a.", 3, 100))
	if made := c.releases(t); made == nil || len(made.Changed) != 2 || c.State().Blocked {
		t.Fatalf("once it is right: %+v, state %+v", made, c.State())
	}
	// The alarm ends when what was bad is taken back.
	c.receives(t, hometest.NamesZone(t, "a.", 4, 60))
	c.releases(t)
	if !c.State().Blocked {
		t.Fatal("not blocked")
	}
	delete(c.pending, "a.")
	if made := c.releases(t); made != nil || c.State().Blocked {
		t.Errorf("taken back: %+v, state %+v", made, c.State())
	}
}

// TestAReleaseWaitsForWhatSettles, and not for long for what always changes.
func TestAReleaseWaitsForWhatSettles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		looks, began := 0, time.Now()
		hometest.Check(t, gathered(t.Context(), gatherMost, func() bool { looks++; return looks < 4 }))
		if looks != 4 || time.Since(began) != 3*gatherEvery {
			t.Errorf("it went on after %d looks, %v", looks, time.Since(began))
		}
		began = time.Now()
		hometest.Check(t, gathered(t.Context(), gatherMost, func() bool { return true }))
		if time.Since(began) != gatherMost {
			t.Errorf("it went on after %v, want %v", time.Since(began), gatherMost)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if gathered(ctx, gatherMost, func() bool { return true }) == nil {
			t.Error("it goes on when it is to end")
		}
	})
}

// TestAServerWithoutItsDotIsInTheAlarm, with the words of the check: of a zone that was never good, of one that keeps its last good
// data, and of one that blocks the release.
func TestAServerWithoutItsDotIsInTheAlarm(t *testing.T) {
	const fault = "ns-without-address: the server ns1.example.org.example.org. has no address here: does a dot lack at its end in the zone file?"
	file := filepath.Join(t.TempDir(), "example.org.zone")
	for _, k := range []struct {
		config string
		before bool // the zone was good before
		says   string
	}{
		{"", false, AlarmHeld + ": example.org. has errors: no data of it was ever good, and it is not answered; " + fault},
		{"", true, AlarmHeld + ": example.org. has errors: its last good data stays; " + fault},
		{"checks: {on_error: hold-release}\n", true, AlarmBlocked + ": what was received has errors: nothing is released; example.org. " + fault},
	} {
		now := hometest.Start
		dir := hometest.New(t, hometest.At(now), "tyo")
		if k.config != "" {
			hometest.Configure(t, dir, k.config)
		}
		c := cycleAt(dir, &now)
		serial := 0
		receives := func(ns string) {
			serial++
			hometest.Check(t, os.WriteFile(file, fmt.Appendf(nil, "$ORIGIN example.org.\n$TTL 300\n@ SOA ns1 host %d 7200 3600 1209600 300\n@ NS %s\n@ NS ns.example.net.\nns1 A 192.0.2.53\n", serial, ns), 0o600))
			c.received(receive.Update{Origin: "example.org.", How: receive.File, Path: file, SHA256: fmt.Sprint(serial)})
		}
		c.receives(t, hometest.NamesZone(t, "a.", 1, 1))
		if k.before {
			receives("ns1")
		}
		c.releases(t)
		receives("ns1.example.org")
		c.receives(t, hometest.NamesZone(t, "a.", 2, 2))
		c.releases(t)
		view, err := c.Home.View(t.Context())
		hometest.Check(t, err)
		if all := fmt.Sprint(Alarms(view, time.Hour, c.State(), now)); !strings.Contains(all, k.says) {
			t.Errorf("want %s\ngot %s", k.says, all)
		}
	}
}

// TestTheConfigurationNamedCounts: zones are judged by the file that "meshctl serve --config" names, not by the home's.
func TestTheConfigurationNamedCounts(t *testing.T) {
	now := hometest.Start
	dir := hometest.New(t, hometest.At(now), "tyo")
	c := cycleAt(dir, &now)
	file := filepath.Join(t.TempDir(), "named.yaml")
	hometest.Check(t, os.WriteFile(file, []byte("checks: {on_error: hold-release, dnssec: require}\n"), 0o600))
	var err error
	c.Config, err = config.Load(file)
	hometest.Check(t, err)
	c.receives(t, hometest.NamesZone(t, "a.", 1, 100))
	if made := c.releases(t); made != nil || !c.State().Blocked {
		t.Errorf("%+v, state %+v", made, c.State())
	}
	now = now.Add(c.Config.Releases.Retry)
	c.Config = config.Default(filepath.Join(dir, home.ConfigName))
	if made := c.releases(t); made == nil {
		t.Errorf("by the home's, which is not there: %+v", c.State())
	}
}

// TestAnErrorInTheConfigurationIsAnAlarm: a running "meshctl serve" that can make no release says so, and goes on by itself once the
// file is right. What fails for a moment only is none.
func TestAnErrorInTheConfigurationIsAnAlarm(t *testing.T) {
	now := hometest.Start
	dir := hometest.New(t, hometest.At(now), "tyo")
	c := cycleAt(dir, &now)
	turn := func() {
		if err := c.turn(t.Context()); err != nil {
			c.fail(err)
		}
	}
	alarm := func() string {
		view, err := c.Home.View(t.Context())
		hometest.Check(t, err)
		for _, a := range Alarms(view, time.Hour, c.State(), now) {
			if a.Code == AlarmFailed {
				return a.Detail
			}
		}
		return ""
	}
	hometest.Configure(t, dir, "checks: {on_error: hold-zone}\nreleases: {evry: 5s}\n")
	c.receives(t, hometest.NamesZone(t, "a.", 1, 100))
	turn()
	if why := alarm(); why != "" {
		t.Errorf("after the first attempt: %s", why)
	}
	now = now.Add(missingPatience)
	turn()
	if why := alarm(); !strings.Contains(why, "meshctl.yaml:2") || !strings.Contains(why, "evry") {
		t.Errorf("the alarm is %q", why)
	}
	hometest.Configure(t, dir, "checks: {on_error: hold-zone}\n")
	turn()
	if why := alarm(); why != "" || c.State().Released != 1 {
		t.Errorf("once it is right: %q, %+v", why, c.State())
	}
}

// TestAHeldZoneIsSaidUntilItIsRight, costs no release by itself, and is judged again in time.
func TestAHeldZoneIsSaidUntilItIsRight(t *testing.T) {
	now := hometest.Start
	dir := hometest.New(t, hometest.At(now), "tyo")
	c := cycleAt(dir, &now)
	c.receives(t, hometest.NamesZone(t, "a.", 1, 100))
	c.receives(t, hometest.NamesZone(t, "b.", 1, 100))
	c.releases(t)
	highest := func() uint64 {
		state, err := home.At(dir, time.Now).State(t.Context())
		hometest.Check(t, err)
		return state.Highest
	}
	before := highest()
	c.receives(t, hometest.NamesZone(t, "a.", 2, 60))
	for range 3 {
		if made := c.releases(t); made != nil || highest() != before || !slices.Equal(c.State().Held, []string{"a."}) {
			t.Fatalf("a release like the one before: %+v, state %+v", made, c.State())
		}
		view, err := c.Home.View(t.Context())
		hometest.Check(t, err)
		if said := fmt.Sprint(Alarms(view, time.Hour, c.State(), now)); !strings.Contains(said, "a. has errors: its last good data stays; change-removed: 40 of 10") {
			t.Errorf("the alarm does not say what is wrong: %s", said)
		}
		now = now.Add(c.Config.Releases.Retry)
	}
	c.receives(t, hometest.NamesZone(t, "b.", 2, 100))
	if made := c.releases(t); made == nil || !slices.Equal(made.Changed, []string{"b."}) || !slices.Equal(c.State().Held, []string{"a."}) {
		t.Fatalf("the other zone: %+v, state %+v", made, c.State())
	}
	c.receives(t, hometest.NamesZone(t, "a.", 3, 100))
	if made := c.releases(t); made == nil || !slices.Equal(made.Changed, []string{"a."}) {
		t.Fatalf("once it is right: %+v", made)
	}
	if c.releases(t); len(c.State().Held) != 0 || len(c.State().Why) != 0 {
		t.Errorf("still held: %+v", c.State())
	}
}

// TestChangesThatNeverEndAreSwitchedTo: a release that members are getting ready is not replaced by the next one for a while.
func TestChangesThatNeverEndAreSwitchedTo(t *testing.T) {
	now := hometest.Start
	dir := hometest.New(t, hometest.At(now), "tyo")
	c := cycleAt(dir, &now)
	c.Driver = switchover.NewDriver(c.Home, nil, mesh.Policy{}, c.Log)
	c.receives(t, hometest.NamesZone(t, "a.", 1, 100))
	c.releases(t)
	c.receives(t, hometest.NamesZone(t, "a.", 2, 100))
	made := c.releases(t)
	c.Driver.Made(made.Release.Number, now, now)
	c.receives(t, hometest.NamesZone(t, "a.", 3, 100))
	now = now.Add(missingPatience - time.Second)
	if again := c.releases(t); again != nil {
		t.Errorf("release %d was replaced by %d before members could have it ready", made.Release.Number, again.Release.Number)
	}
	now = now.Add(time.Second)
	again := c.releases(t)
	if again == nil || again.Replaced != made.Release.Number {
		t.Fatalf("newer data waits for ever: %+v", again)
	}
	const lead = 3 * time.Minute
	c.Driver = switchover.NewDriver(c.Home, nil, mesh.Policy{Lead: lead}, c.Log)
	c.receives(t, hometest.NamesZone(t, "a.", 4, 100))
	propose(t, dir, now, lead)
	if made := c.releases(t); made != nil {
		t.Errorf("release %d was replaced by %d since its lead is long", again.Release.Number, made.Release.Number)
	}
	propose(t, dir, now, lead+soon)
	if made := c.releases(t); made == nil || made.Replaced != again.Release.Number {
		t.Errorf("newer data waits for leases to end: %+v", made)
	}
}

// propose proposes a switchover to what is staged, as a host does.
func propose(t *testing.T, dir string, now time.Time, lead time.Duration) {
	t.Helper()
	w := hometest.Begin(t, dir, hometest.At(now))
	defer w.Close()
	next, at := w.Mesh(), now.Add(lead)
	next.Next.At, next.Next.Decide = instant.WallOf(at), instant.WallOf(at.Add(-time.Second))
	next = next.Granted(instant.WallOf(now), w.State().Lease())
	hometest.Check(t, w.Carry(t.Context(), next, time.Time{}, nil, home.Event{Event: mesh.EventProposed, Number: next.Next.Number, Switchover: at}))
}

// TestZonesThatGoAtOnceStay: what sources have no more leaves the releases, but not so many at once; that is an alarm, the others go
// out, and by a second person's word they go all the same.
func TestZonesThatGoAtOnceStay(t *testing.T) {
	now := hometest.Start
	dir := hometest.New(t, hometest.At(now), "tyo")
	c := cycleAt(dir, &now)
	for _, origin := range []string{"a.", "b.", "c."} {
		c.receives(t, hometest.NamesZone(t, origin, 1, 10))
	}
	c.releases(t)
	for _, origin := range []string{"a.", "b."} {
		c.received(receive.Update{Origin: origin, How: receive.Withdrawn})
	}
	var log strings.Builder
	c.Log = slog.New(slog.NewTextHandler(&log, nil))
	if made := c.releases(t); made != nil || !slices.Equal(c.State().Stay, []string{"a.", "b."}) {
		t.Fatalf("%+v, state %+v", made, c.State())
	}
	c.receives(t, hometest.NamesZone(t, "c.", 2, 10))
	made := c.releases(t)
	if made == nil || len(made.Release.Zones) != 3 || !slices.Equal(c.State().Stay, []string{"a.", "b."}) {
		t.Fatalf("%+v, state %+v", made, c.State())
	}
	view, err := c.Home.View(t.Context())
	hometest.Check(t, err)
	said := fmt.Sprint(Alarms(view, time.Hour, c.State(), now))
	if want := AlarmStays + ": gone from the source, and kept in the releases: a. b.; zone-withdrawn: 2 of 3 zones withdrawn; the policy allows 10 % "; !strings.Contains(said, want) ||
		strings.Contains(said, AlarmHeld) || strings.Count(log.String(), "to_sign=") != 1 {
		t.Errorf("alarms %s, log:\n%s", said, log.String())
	}
	signed, err := releasing.SignOverride(t.Context(), filepath.Join(dir, releasing.RequestName), filepath.Join(dir, keys.Dir, keys.Override+".pem"), "Jane Doe", "they left", now)
	hometest.Check(t, err)
	w := hometest.Begin(t, dir, hometest.At(now))
	made, _, err = releasing.Make(t.Context(), w, nil, releasing.Options{Keep: true, Withdraw: []string{"a.", "b."}, Override: &signed})
	hometest.Check(t, errors.Join(err, w.Close()))
	if len(made.Release.Zones) != 1 {
		t.Errorf("%+v", made.Release.Zones)
	}
	if c.releases(t); len(c.State().Stay) > 0 {
		t.Errorf("still: %+v", c.State())
	}
}

// TestWhatIsRefusedForLongIsAnError: a zone that is held and a source that fails are warnings for an hour, and errors from then on, each
// counted from when it began, whatever its words are; one that ends and comes again begins anew.
func TestWhatIsRefusedForLongIsAnError(t *testing.T) {
	now := hometest.Start
	dir := hometest.New(t, hometest.At(now), "tyo")
	c := cycleAt(dir, &now)
	c.receives(t, hometest.NamesZone(t, "a.", 5, 10))
	c.releases(t)
	file := receive.Fault{Source: "directory /in", What: "/in/b.zone"}
	look := func(faults map[receive.Fault]string, zones []receive.Status) (errors, warnings int) {
		t.Helper()
		c.keepSources(zones, faults)
		view, err := c.Home.View(t.Context())
		hometest.Check(t, err)
		view.LeaseExpires = now.Add(time.Hour) // no matter of this test
		for _, r := range Alarms(view, time.Hour, c.State(), now) {
			switch {
			case r.Code == AlarmUntaken && AlarmOf(r).Level == LevelError && strings.HasPrefix(r.Detail, "since 20"):
				errors++
			case (r.Code == AlarmHeld || r.Code == AlarmSource) && AlarmOf(r).Level == LevelWarning:
				warnings++
			default:
				t.Errorf("%v", r)
			}
		}
		return errors, warnings
	}
	c.receives(t, hometest.NamesZone(t, "a.", 4, 10)) // its serial goes back
	c.releases(t)
	failing := []receive.Status{{Zone: "c.", Error: "refused"}}
	for i, step := range []struct {
		after            time.Duration
		faults           map[receive.Fault]string
		errors, warnings int
	}{
		{0, nil, 0, 2},
		{time.Minute, map[receive.Fault]string{file: "syntax"}, 0, 3},
		{untakenPatience - time.Minute, map[receive.Fault]string{file: "another error"}, 2, 1},
		{time.Minute, map[receive.Fault]string{file: "syntax"}, 3, 0},
		{time.Second, nil, 2, 0},
		{time.Second, map[receive.Fault]string{file: "syntax"}, 2, 1},
	} {
		now = now.Add(step.after)
		if errors, warnings := look(step.faults, failing); errors != step.errors || warnings != step.warnings {
			t.Errorf("step %d: %d errors, %d warnings, want %+v", i, errors, warnings, step)
		}
	}
}

// TestServeNeverEmptiesAMesh (FAIL-4): what is received may lack every zone that is answered, as with another directory. No release
// without zones is made of that, whatever the policy allows, and it is an error; one is by an operator's word.
func TestServeNeverEmptiesAMesh(t *testing.T) {
	for name, policy := range map[string]string{"default": "{}", "none": "{rules: {zone-withdrawn: ignore}}", "all or nothing": "{on_error: hold-release}"} {
		t.Run(name, func(t *testing.T) {
			now := hometest.Start
			dir := hometest.New(t, hometest.At(now), "tyo")
			hometest.Check(t, os.WriteFile(filepath.Join(dir, home.ConfigName), []byte("checks: "+policy+"\n"), 0o644))
			c := cycleAt(dir, &now)
			c.receives(t, hometest.NamesZone(t, "a.", 1, 10))
			c.releases(t)
			c.received(receive.Update{Origin: "a.", How: receive.Withdrawn})
			for range 2 {
				if made := c.releases(t); made != nil {
					t.Fatalf("%+v", made.Release)
				}
			}
			view, err := c.Home.View(t.Context())
			hometest.Check(t, err)
			errors := slices.DeleteFunc(Alarms(view, time.Hour, c.State(), now), func(r status.Reason) bool { return AlarmOf(r).Level != LevelError })
			if len(errors) != 1 || !strings.Contains(errors[0].Detail, "no zone would be left") {
				t.Errorf("errors: %v", errors)
			}
			w := hometest.Begin(t, dir, hometest.At(now))
			made, _, err := releasing.Make(t.Context(), w, nil, releasing.Options{Keep: true, Withdraw: []string{"a."}})
			hometest.Check(t, err)
			hometest.Check(t, w.Close())
			if len(made.Release.Zones) != 0 {
				t.Errorf("by hand: %+v", made.Release)
			}
			if c.releases(t); len(c.State().Stay) > 0 || c.State().Blocked {
				t.Errorf("still: %+v", c.State())
			}
		})
	}
}

// TestAWithdrawalOutlivesItsHost: a zone that its source has no more leaves the releases, though the process that was told
// is killed before that, or was "meshctl receive --withdraw"; and then it is forgotten, so that it may come back by hand.
func TestAWithdrawalOutlivesItsHost(t *testing.T) {
	now := hometest.Start
	dir := hometest.New(t, hometest.At(now), "tyo")
	from := t.TempDir()
	for _, name := range []string{"a.", "b."} {
		text, err := os.ReadFile(hometest.NamesZone(t, name, 1, 10).File)
		hometest.Check(t, err)
		hometest.Check(t, os.WriteFile(filepath.Join(from, name+"zone"), text, 0o644))
	}
	sources, err := receive.FromDirectory(from)
	hometest.Check(t, err)
	sources.Directories[0].Withdraw = true
	var c *Cycle
	round := func(told func(receive.Update)) {
		t.Helper()
		r, err := receive.New(sources, receive.Options{Zones: filepath.Join(dir, "zones"), State: filepath.Join(dir, "state", "received"), Updated: told})
		hometest.Check(t, err)
		c = cycleAt(dir, &now)
		c.receiver = r
		hometest.Check(t, r.Refresh(t.Context(), receive.RefreshOptions{}))
	}
	round(func(u receive.Update) { c.received(u) })
	if made := c.releases(t); made == nil || len(made.Release.Zones) != 2 {
		t.Fatalf("%+v", made)
	}
	hometest.Check(t, os.Remove(filepath.Join(from, "a.zone")))
	round(func(receive.Update) {}) // and is killed
	round(func(u receive.Update) { c.received(u) })
	if made := c.releases(t); made == nil || !slices.Equal(made.Withdrawn, []string{"a."}) {
		t.Fatalf("after a restart: %+v", made)
	}
	c.releases(t)
	round(func(u receive.Update) {
		if u.Origin == "a." {
			t.Errorf("told again: %+v", u)
		}
	})
}
