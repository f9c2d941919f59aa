package switchover

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/hint"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/home"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/hometest"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/releasing"
	"github.com/coredns-anycast/coredns-anycast/internal/instant"
	"github.com/coredns-anycast/coredns-anycast/internal/mesh"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
)

// world is a mesh whose members say what a test makes them say.
type world struct {
	t    *testing.T
	dir  string
	s    Schedule
	says func(name string, view release.View) Answer
}

// newWorld has release 1 current, 2 staged, members fra and tyo, a lease of an hour, and a lead of two seconds.
func newWorld(t *testing.T) *world {
	w := &world{t: t, dir: hometest.New(t, time.Now, "fra", "tyo"), says: obedient}
	hometest.MustRelease(t, w.dir, time.Now, 1, releasing.Options{Now: true})
	hometest.MustRelease(t, w.dir, time.Now, 2, releasing.Options{})
	w.s = Schedule{Home: home.At(w.dir, time.Now), Mode: mesh.Confirmed, Lead: 2 * time.Second,
		Ask: func(_ context.Context, members []release.Member) map[string]Answer {
			view, err := home.At(w.dir, time.Now).View(w.t.Context())
			hometest.Check(t, err)
			answers := map[string]Answer{}
			for _, m := range members {
				answers[m.Name] = w.says(m.Name, view)
			}
			return answers
		}}
	return w
}

// obedient is a member that has everything and does what it is told.
func obedient(name string, view release.View) Answer {
	c := status.Confirmation{Node: name, Mesh: "jp", Serving: 1, Clock: status.ClockState{Known: true, Bound: time.Millisecond}}
	m := view.Manifest
	if m.Current != nil {
		c.Serving, c.Confirms.Staged = m.Current.Number, m.Current.Number
		c.Switched = &status.Switched{Number: m.Current.Number, Lateness: 42 * time.Microsecond}
	}
	if m.Next != nil {
		c.Confirms.Staged = m.Next.Number
		if !m.Next.Switchover.IsZero() {
			c.Confirms.Scheduled = &status.Ref{Number: m.Next.Number, At: instant.WallOf(m.Next.Switchover)}
			c.Holds = c.Confirms.Scheduled
		}
	}
	return Answer{Confirmation: c}
}

func (w *world) events() string {
	w.t.Helper()
	data, err := os.ReadFile(filepath.Join(w.dir, "state", "state.json"))
	hometest.Check(w.t, err)
	return string(data)
}

func (w *world) next() *release.Release {
	w.t.Helper()
	view, err := home.At(w.dir, time.Now).View(w.t.Context())
	hometest.Check(w.t, err)
	return view.Manifest.Next
}

func TestASwitchoverThatAllConfirmStandsAndIsSeenThrough(t *testing.T) {
	w := newWorld(t)
	before := time.Now()
	set, err := w.s.Set(t.Context())
	hometest.Check(t, err)
	if set.Number != 2 || set.At.Before(before.Add(2*time.Second)) || !w.next().Switchover.Equal(set.At) {
		t.Fatalf("set %+v", set)
	}
	r, err := w.s.Review(t.Context(), set)
	hometest.Check(t, err)
	if !r.Stands || len(r.Missing) > 0 {
		t.Fatalf("reviewed %+v", r)
	}
	results, err := w.s.Await(t.Context(), set)
	hometest.Check(t, err)
	if len(results) != 2 || !results[0].Switched || results[0].Lateness != 42*time.Microsecond {
		t.Fatalf("results %+v", results)
	}
	if w.next() != nil {
		t.Fatal("the switchover is not on record")
	}
}

func TestASwitchoverIsNotSetWhileAMemberLacksTheRelease(t *testing.T) {
	for name, test := range map[string]struct {
		says func(name string, view release.View) Answer
		want string
	}{
		"unreachable": {func(string, release.View) Answer { return Answer{Err: errors.New("connection refused")} }, "tyo: unreachable: connection refused"},
		"not ready": {func(name string, v release.View) Answer {
			a := obedient(name, v)
			a.Confirmation.Confirms.Staged = 1
			return a
		}, "tyo: not-ready"},
		"clock unknown": {func(name string, v release.View) Answer {
			a := obedient(name, v)
			a.Confirmation.Clock = status.ClockState{Reason: "chrony is gone"}
			return a
		}, "tyo: clock-unknown: chrony is gone"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.says = func(name string, v release.View) Answer {
				if name == "tyo" {
					return test.says(name, v)
				}
				return obedient(name, v)
			}
			_, err := w.s.Set(t.Context())
			if err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "fra") {
				t.Fatalf("want %q, got %v", test.want, err)
			}
			if !w.next().Switchover.IsZero() {
				t.Fatal("it was set all the same")
			}
		})
	}
}

func TestSetWaitsForMembersToHaveTheRelease(t *testing.T) {
	w := newWorld(t)
	w.s.Wait = 5 * time.Second
	ready := time.Now().Add(600 * time.Millisecond)
	w.says = func(name string, v release.View) Answer {
		if time.Now().Before(ready) {
			return Answer{Err: errors.New("starting")}
		}
		return obedient(name, v)
	}
	_, err := w.s.Set(t.Context())
	hometest.Check(t, err)
}

func TestASwitchoverThatOneDoesNotConfirmIsPostponedUntilNoOldLeaseIsLeft(t *testing.T) {
	w := newWorld(t)
	set, err := w.s.Set(t.Context())
	hometest.Check(t, err)
	w.says = func(name string, v release.View) Answer {
		a := obedient(name, v)
		if name == "tyo" {
			a.Confirmation.Confirms.Scheduled = nil
		}
		return a
	}
	ended := hometest.Promised(t, w.dir)
	r, err := w.s.Review(t.Context(), set)
	hometest.Check(t, err)
	if r.Stands || len(r.Missing) != 1 || r.Missing[0].Member != "tyo" {
		t.Fatalf("reviewed %+v", r)
	}
	if want := ended.Add(200 * time.Millisecond); r.Switchover.At.Before(want) || !w.next().Switchover.Equal(r.Switchover.At) {
		t.Fatalf("postponed to %v, the last lease and the clocks allow %v", r.Switchover.At, want)
	}
	if !time.Now().Before(set.At) {
		t.Fatal("postponed after the fact")
	}
	if !strings.Contains(w.events(), `"event":"postponed"`) {
		t.Fatal("not on record")
	}
}

func TestModeLeaseWaitsForEveryLeaseThatDoesNotNameIt(t *testing.T) {
	w := newWorld(t)
	w.s.Mode = mesh.Lease
	ended := hometest.Promised(t, w.dir)
	set, err := w.s.Set(t.Context())
	hometest.Check(t, err)
	if want := ended.Add(200 * time.Millisecond); set.At.Before(want) {
		t.Fatalf("set to %v, want %v", set.At, want)
	}
	w.says = func(string, release.View) Answer { return Answer{Err: errors.New("gone")} }
	if r, err := w.s.Review(t.Context(), set); err != nil || !r.Stands {
		t.Fatalf("reviewed %+v, %v", r, err)
	}
}

func TestForceSetsItAndPutsItOnRecord(t *testing.T) {
	w := newWorld(t)
	w.s.Force = true
	w.says = func(string, release.View) Answer { return Answer{Err: errors.New("gone")} }
	set, err := w.s.Set(t.Context())
	hometest.Check(t, err)
	if len(set.Against) != 2 || !strings.Contains(w.events(), `"event":"scheduled by force"`) || !strings.Contains(w.events(), "fra: unreachable") {
		t.Fatalf("set %+v, events %s", set, w.events())
	}
	if r, err := w.s.Review(t.Context(), set); err != nil || !r.Stands {
		t.Fatalf("reviewed %+v, %v", r, err)
	}
}

func TestAnInstantTooEarlyIsRefused(t *testing.T) {
	w := newWorld(t)
	w.s.At = time.Now().Add(100 * time.Millisecond)
	_, err := w.s.Set(t.Context())
	var against *AgainstError
	if !errors.As(err, &against) || against.Against[0].Why.Code != "too-early" {
		t.Fatalf("got %v", err)
	}
}

func TestAReleaseThatIsScheduledIsNotReplaced(t *testing.T) {
	w := newWorld(t)
	_, err := w.s.Set(t.Context())
	hometest.Check(t, err)
	h := hometest.Begin(t, w.dir, time.Now)
	defer h.Close()
	if _, _, err := releasing.Make(t.Context(), h, []releasing.Source{hometest.ZoneFile(t, 3)}, releasing.Options{}); err == nil || !strings.Contains(err.Error(), "release 2 is set to switch over") {
		t.Fatalf("got %v", err)
	}
}

func TestReviewNoticesAnotherCommand(t *testing.T) {
	w := newWorld(t)
	w.s.At = time.Now().Add(time.Hour)
	set, err := w.s.Set(t.Context())
	hometest.Check(t, err)
	w.s.At = time.Time{}
	again, err := w.s.Set(t.Context())
	hometest.Check(t, err)
	if _, err := w.s.Review(t.Context(), set); err == nil {
		t.Fatal("a switchover that is not in force any more was reviewed")
	}
	if r, err := w.s.Review(t.Context(), again); err != nil || !r.Stands {
		t.Fatalf("reviewed %+v, %v", r, err)
	}
}

// Members that have switched can only be silent until an instant that is published afterwards.
func TestAScheduleThatIsRepeatedKeepsTheSwitchoverInForce(t *testing.T) {
	w := newWorld(t)
	set, err := w.s.Set(t.Context())
	hometest.Check(t, err)
	for when, clock := range map[string]home.Clock{"at once": time.Now, "between T and its record": hometest.At(set.At.Add(time.Millisecond))} {
		repeated := w.s
		repeated.Home = home.At(w.dir, clock)
		again, err := repeated.Set(t.Context())
		hometest.Check(t, err)
		if again.At != set.At || !w.next().Switchover.Equal(set.At) {
			t.Fatalf("%s: moved from %v to %v", when, set.At, again.At)
		}
		repeated.At, repeated.Force = set.At.Add(time.Hour), true
		var against *AgainstError
		if _, err = repeated.Set(t.Context()); !errors.As(err, &against) || against.Against[0].Why.Code != "too-late" {
			t.Fatalf("%s: %v", when, err)
		}
	}
}

func TestAMemberThatHangsDoesNotHaveTheSwitchoverPostponedAfterTheFact(t *testing.T) {
	w := newWorld(t)
	w.s.Lead = time.Second
	set, err := w.s.Set(t.Context())
	hometest.Check(t, err)
	w.s.Ask = func(ctx context.Context, members []release.Member) map[string]Answer {
		select { // as Asker would wait for a member that takes connections and says nothing
		case <-ctx.Done():
		case <-time.After(AskTimeout):
		}
		return map[string]Answer{}
	}
	r, err := w.s.Review(t.Context(), set)
	hometest.Check(t, err)
	if r.Stands || !time.Now().Before(set.At) {
		t.Fatalf("reviewed %+v at %v", r, time.Now())
	}
}

func TestAReviewAfterTheFactLetsItStand(t *testing.T) {
	w := newWorld(t)
	set, err := w.s.Set(t.Context())
	hometest.Check(t, err)
	w.says = func(string, release.View) Answer { return Answer{Err: errors.New("gone")} }
	w.s.Home = home.At(w.dir, hometest.At(set.At.Add(50*time.Millisecond)))
	r, err := w.s.Review(t.Context(), set)
	hometest.Check(t, err)
	if !r.Stands || len(r.Missing) != 2 || !w.next().Switchover.Equal(set.At) {
		t.Fatalf("reviewed %+v", r)
	}
}

// The clock runs on while the postponement is signed.
func TestAPostponementThatIsSignedTooLateIsNotPublished(t *testing.T) {
	w := newWorld(t)
	set, err := w.s.Set(t.Context())
	hometest.Check(t, err)
	w.says = func(string, release.View) Answer { return Answer{Err: errors.New("gone")} }
	reads := 0
	w.s.Home = home.At(w.dir, func() time.Time {
		if reads++; reads < 5 { // the review's and the plan's; what follows is the publication's
			return set.At.Add(-time.Second)
		}
		return set.At.Add(-400 * time.Millisecond)
	})
	r, err := w.s.Review(t.Context(), set)
	hometest.Check(t, err)
	if !r.Stands || len(r.Missing) != 2 || !w.next().Switchover.Equal(set.At) {
		t.Fatalf("reviewed %+v after %d looks at the clock", r, reads)
	}
}

func TestAWordThatWasGivenHolds(t *testing.T) {
	w := newWorld(t)
	set, err := w.s.Set(t.Context())
	hometest.Check(t, err)
	rounds := 0
	w.says = func(name string, v release.View) Answer {
		if rounds++; (name == "tyo") == (rounds > 2) { // fra answers in the first round only, tyo from the second on
			return obedient(name, v)
		}
		return Answer{Err: errors.New("a lost packet")}
	}
	if r, err := w.s.Review(t.Context(), set); err != nil || !r.Stands || len(r.Missing) > 0 {
		t.Fatalf("reviewed %+v, %v", r, err)
	}
}

func TestNothingStagedIsNothingToSchedule(t *testing.T) {
	w := newWorld(t)
	set, err := w.s.Set(t.Context())
	hometest.Check(t, err)
	_, err = w.s.Await(t.Context(), set)
	hometest.Check(t, err)
	var hinted *hint.Error
	if _, err := w.s.Set(t.Context()); !errors.As(err, &hinted) || !strings.Contains(err.Error(), "no release is staged") {
		t.Fatalf("got %v", err)
	}
}

// A switchover that can still be heard of is taken back once every member says that it holds it no more.
func TestASwitchoverIsTakenBack(t *testing.T) {
	w := newWorld(t)
	w.s.At = time.Now().Add(time.Hour).UTC().Truncate(time.Microsecond)
	_, err := w.s.Set(t.Context())
	hometest.Check(t, err)
	r, err := w.s.Cancel(t.Context())
	hometest.Check(t, err)
	if r.Stands || len(r.Holding) > 0 || w.next().Number != 2 || !w.next().Switchover.IsZero() {
		t.Fatalf("%+v, next %+v", r, w.next())
	}
	if !strings.Contains(w.events(), `"cancelled"`) {
		t.Errorf("not put on record: %s", w.events())
	}
	hometest.MustRelease(t, w.dir, time.Now, 3, releasing.Options{})
	if _, err := w.s.Cancel(t.Context()); err == nil || !strings.Contains(err.Error(), "no switchover is set") {
		t.Errorf("taken back twice: %v", err)
	}
}

// If one member may still make it, it stands for all, unless that is forced.
func TestASwitchoverThatAMemberStillHoldsStands(t *testing.T) {
	for _, force := range []bool{false, true} {
		w := newWorld(t)
		w.s.At = time.Now().Add(time.Hour).UTC().Truncate(time.Microsecond)
		set, err := w.s.Set(t.Context())
		hometest.Check(t, err)
		w.says = func(name string, view release.View) Answer {
			a := obedient(name, view)
			if name == "tyo" {
				a.Confirmation.Holds = &status.Ref{Number: set.Number, At: instant.WallOf(set.At)}
			}
			return a
		}
		w.s.Wait, w.s.Force = 100*time.Millisecond, force
		r, err := w.s.Cancel(t.Context())
		hometest.Check(t, err)
		if r.Stands == force || len(r.Holding) != 1 || r.Holding[0].Member != "tyo" {
			t.Fatalf("forced %v: %+v", force, r)
		}
		if at := w.next().Switchover; at.Equal(set.At) == force || at.IsZero() != force {
			t.Errorf("forced %v: published %v, was %v", force, at, set.At)
		}
	}
}

// What members may not hear of in time is not taken back.
func TestASwitchoverThatIsTooCloseIsNotTakenBack(t *testing.T) {
	w := newWorld(t)
	w.s.Lead = 4 * time.Second // less than half of the usual lead is left
	set, err := w.s.Set(t.Context())
	hometest.Check(t, err)
	if _, err := w.s.Cancel(t.Context()); err == nil || !strings.Contains(err.Error(), "cannot be taken back any more") {
		t.Fatalf("got %v", err)
	}
	if !w.next().Switchover.Equal(set.At) {
		t.Errorf("published %v, was %v", w.next().Switchover, set.At)
	}
}

// A clock that differs from this host's is named, and nothing is set by it unless that is forced.
func TestClocksThatCannotBothBeRight(t *testing.T) {
	w := newWorld(t)
	w.says = func(name string, view release.View) Answer {
		a := obedient(name, view)
		if name == "fra" {
			a.Apart = time.Second
		}
		return a
	}
	w.s.Wait = 0
	_, err := w.s.Set(t.Context())
	var against *AgainstError
	if !errors.As(err, &against) || len(against.Against) != 1 || against.Against[0].Why.Code != mesh.ClockDiffers || against.Against[0].Member != "fra" {
		t.Fatalf("got %v", err)
	}
}
