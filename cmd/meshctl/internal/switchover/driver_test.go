package switchover

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/enrol"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/history"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/home"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/hometest"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/releasing"
	"github.com/coredns-anycast/coredns-anycast/internal/instant"
	"github.com/coredns-anycast/coredns-anycast/internal/mesh"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
	"github.com/coredns-anycast/coredns-anycast/internal/sysclock"
)

// TestMain signs what comes in, slowly, where this program is a signing command of the tests.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == "sign-slowly" {
		time.Sleep(100 * time.Millisecond)
		data, err1 := os.ReadFile(os.Args[2])
		private, err2 := release.ParseKey(data)
		message, err3 := io.ReadAll(os.Stdin)
		if err := errors.Join(err1, err2, err3); err != nil {
			log.Fatal(err)
		}
		signature, err := private.Sign(nil, message, crypto.Hash(0))
		if err != nil {
			log.Fatal(err)
		}
		os.Stdout.Write(signature)
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// hears is how long the members of these tests say that they take to hear of something.
const hears = 100 * time.Millisecond

// world is a home whose members are deciders of nodes in this process, which hear of what is published when they are asked.
type world struct {
	t       *testing.T
	dir     string
	members map[string]*member
	driver  *Driver
	asking  sync.Mutex // two hosts may ask at once
}

// member is one node.
type member struct {
	name string
	node *mesh.Node
	lost error                        // why it gives no answer and hears nothing
	lies func(c *status.Confirmation) // changes what it says
}

// newWorld has release 1 current, 2 staged, and members fra and tyo.
func newWorld(t *testing.T) *world { return newWorldIn(t, release.ManifestFormat, hometest.ZoneFile) }

// newWorldIn is newWorld in a format of manifests, and with a zone.
func newWorldIn(t *testing.T, format int, zone func(t testing.TB, serial uint32) releasing.Source) *world {
	w := &world{t: t, dir: hometest.New(t, time.Now, "fra", "tyo"), members: map[string]*member{}}
	hometest.InFormat(t, w.dir, time.Now, format)
	w.release(zone(t, 1), releasing.Options{Now: true})
	w.release(zone(t, 2), releasing.Options{})
	for _, name := range []string{"fra", "tyo"} {
		w.members[name] = &member{name: name, node: mesh.NewNode(mesh.Durable{})}
	}
	w.driver = w.newDriver(mesh.Policy{Renew: time.Hour, Absent: mesh.Absent{After: mesh.DefaultAbsent}})
	return w
}

func (w *world) release(zone releasing.Source, o releasing.Options) {
	w.t.Helper()
	h := hometest.Begin(w.t, w.dir, time.Now)
	defer h.Close()
	if _, found, err := releasing.Make(w.t.Context(), h, []releasing.Source{zone}, o); err != nil {
		w.t.Fatal(err, found)
	}
}

func (w *world) newDriver(p mesh.Policy) *Driver {
	return NewDriver(home.At(w.dir, time.Now), w.ask, p, slog.New(slog.DiscardHandler))
}

func (w *world) ask(_ context.Context, members []release.Member) map[string]Answer {
	view := w.view()
	w.asking.Lock()
	defer w.asking.Unlock()
	answers := map[string]Answer{}
	for _, m := range members {
		answers[m.Name] = w.members[m.Name].answer(view)
	}
	return answers
}

func (w *world) view() release.View {
	w.t.Helper()
	view, err := home.At(w.dir, time.Now).View(w.t.Context())
	hometest.Check(w.t, err)
	return view
}

// answer has a member hear of what is published, and confirm what it then holds.
func (m *member) answer(v release.View) Answer {
	if m.lost != nil {
		return Answer{Err: m.lost}
	}
	manifest := v.Manifest
	view := mesh.View{Lease: v.Versions.Timestamp, Expires: instant.WallOf(v.LeaseExpires), Epsilon: manifest.Epsilon(), Stranger: true}
	for _, other := range manifest.Members {
		view.Stranger = view.Stranger && other.Name != m.name
	}
	if c := manifest.Current; c != nil {
		view.Current = status.Ref{Number: c.Number, At: instant.WallOf(c.Switchover)}
		m.node.Ready(c.Number)
	}
	if n := manifest.Next; n != nil {
		view.Next = mesh.Next{Ref: status.Ref{Number: n.Number, At: instant.WallOf(n.Switchover)}, Decide: instant.WallOf(n.Decide),
			Committed: n.Committed, Without: slices.Contains(n.Without, m.name)}
		m.node.Ready(n.Number)
	}
	m.node.Learn(view)
	now := sysclock.Now()
	m.node.Certify(instant.Sample{At: now, Bound: time.Millisecond, Source: "assumed"})
	d := m.node.Decide(now)
	for d.Persist != nil {
		m.node.Persisted(*d.Persist)
		d = m.node.Decide(now)
	}
	c := status.Confirmation{Node: m.name, Mesh: manifest.Mesh, At: now.Wall, Confirms: d.Confirms, Serving: d.Serve, Silent: d.Silent, Floor: d.Floor,
		Clock: d.Clock, Promise: d.Holds, Lease: v.Versions.Timestamp, Hears: hears, Format: release.ManifestFormat, MirrorFormat: release.ManifestFormat,
		Switched: &status.Switched{Number: d.Serve, At: 1, Lateness: 42 * time.Microsecond}}
	if m.lies != nil {
		m.lies(&c)
	}
	return Answer{Confirmation: c}
}

func (w *world) events() (all []string) {
	w.t.Helper()
	state, err := home.At(w.dir, time.Now).State(w.t.Context())
	hometest.Check(w.t, err)
	for _, e := range state.Events {
		all = append(all, e.Event)
	}
	return all
}

func ignore(Round) {}

func TestASwitchoverThatAllPromiseIsCommittedAndSeenThrough(t *testing.T) {
	w := newWorld(t)
	before, leases := time.Now(), w.view().Versions.Timestamp
	w.driver = w.newDriver(mesh.Policy{}) // as a command has it
	seen, err := w.driver.See(t.Context(), 10*time.Second, false, ignore)
	hometest.Check(t, err)
	if seen.Number != 2 || !seen.Settled || seen.At.Before(before.Add(4*hears)) || len(seen.Results) != 2 || !seen.Results[0].Switched || seen.Results[0].Lateness != 42*time.Microsecond {
		t.Fatalf("seen %+v", seen)
	}
	if n := w.view().Versions.Timestamp - leases; n != 3 {
		t.Errorf("%d leases were signed for a proposal, a commit and the record", n)
	}
	if view := w.view(); view.Manifest.Next != nil || view.Manifest.Current.Number != 2 || view.Manifest.Current.Committed {
		t.Errorf("published %v", view)
	}
	all := strings.Join(w.events(), ", ")
	if !strings.HasSuffix(all, "proposed, committed, settled") {
		t.Errorf("events: %s", all)
	}
}

// TestTheFormatIsOneThatAllMembersRead: it goes on when all say that they read the newer one, with what is published next, and zones
// have roots from the release after that on.
func TestTheFormatIsOneThatAllMembersRead(t *testing.T) {
	zone := func(t testing.TB, serial uint32) releasing.Source { return hometest.ManyNames(t, serial, 2000) }
	w := newWorldIn(t, release.ProposalFormat, zone)
	w.members["fra"].lies = func(c *status.Confirmation) { c.Format = release.ProposalFormat }
	switchesIn := func(serial uint32, format int, root bool) {
		t.Helper()
		_, err := w.driver.See(t.Context(), 10*time.Second, false, ignore)
		hometest.Check(t, err)
		if m := w.view().Manifest; m.Format != format || m.Current.Number != uint64(serial) || (m.Current.Zones[0].Root != release.Digest{}) != root {
			t.Fatalf("release %d in format %d, want %d in %d; root %s", m.Current.Number, m.Format, serial, format, m.Current.Zones[0].Root)
		}
		w.release(zone(t, serial+1), releasing.Options{})
	}
	switchesIn(2, release.ProposalFormat, false)
	w.members["fra"].lies = func(c *status.Confirmation) { c.MirrorFormat = 0 } // CoreDNS was upgraded before its sidecar
	switchesIn(3, release.ProposalFormat, false)
	w.members["fra"].lies = nil
	switchesIn(4, release.ManifestFormat, false)
	w.members["fra"].lies = func(c *status.Confirmation) { c.Format = release.ProposalFormat } // there is no going back
	switchesIn(5, release.ManifestFormat, true)
}

// TestTheFormatGoesOnBeforeAProposal: to write all zones in another format takes longer than a proposal may.
func TestTheFormatGoesOnBeforeAProposal(t *testing.T) {
	w := newWorldIn(t, release.ProposalFormat, hometest.ZoneFile)
	before := w.view().Manifest
	hometest.WaitFor(t, "the format goes on", func() bool {
		_, err := w.driver.Round(t.Context())
		hometest.Check(t, err)
		return w.view().Manifest.Format != before.Format
	})
	if m := w.view().Manifest; m.Format != release.ManifestFormat || m.Next == nil || !m.Next.Switchover.IsZero() || m.Newest() != before.Newest() {
		t.Fatalf("format %d, next %+v, before %+v", m.Format, m.Next, before.Next)
	}
	_, err := w.driver.See(t.Context(), 30*time.Second, false, ignore)
	hometest.Check(t, err)
	if m := w.view().Manifest; m.Current.Number != before.Newest() {
		t.Fatalf("release %d, want %d", m.Current.Number, before.Newest())
	}
}

// TestARoundIsOver: where members hang, a round of questions ends while something may still be decided by it, also when no switchover is under way.
func TestARoundIsOver(t *testing.T) {
	w := newWorld(t)
	rounds := 0
	w.driver.Ask = func(ctx context.Context, members []release.Member) map[string]Answer {
		if _, limited := ctx.Deadline(); !limited {
			t.Error("it may last for as long as members hang")
		}
		rounds++
		return w.ask(ctx, members)
	}
	_, err := w.driver.See(t.Context(), 10*time.Second, false, ignore)
	hometest.Check(t, err)
	if _, err := w.driver.Round(t.Context()); err != nil || rounds < 4 {
		t.Errorf("%d rounds, %v", rounds, err)
	}
}

// Members are asked again and again while their words may bring the next step, and seldom while that waits for an instant alone: of all that a release
// costs a node, most would be to say again and again that nothing has changed.
func TestMembersAreAskedSeldomOnceAllIsDecided(t *testing.T) {
	w := newWorld(t)
	took, long := 10*time.Millisecond, 10*time.Second
	round := func() Round {
		t.Helper()
		r, err := w.driver.Round(t.Context())
		hometest.Check(t, err)
		return r
	}
	w.members["fra"].lies = func(c *status.Confirmation) { c.Confirms.Staged = 0 }
	if r := round(); r.pause(took, 0) != roundLeast {
		t.Errorf("while a member is not ready: %v", r.pause(took, 0))
	}
	w.members["fra"].lies = func(c *status.Confirmation) { c.Confirms.Scheduled = nil }
	if r := round(); r.Decision.Event != mesh.EventProposed || r.pause(took, 0) != roundLeast {
		t.Errorf("when a switchover was proposed: %v, %v", r.Decision.Event, r.pause(took, 0))
	}
	if r := round(); len(r.Decision.Against) == 0 || r.pause(took, 0) != roundLeast || r.pause(time.Minute, 0) != roundEvery {
		t.Errorf("while a member has not confirmed: %v, %v, %v", r.Decision.Against, r.pause(took, 0), r.pause(time.Minute, 0))
	}
	w.members["fra"].lies = nil
	var r Round
	hometest.WaitFor(t, "the commit", func() bool { r = round(); return r.Decision.Event == mesh.EventCommitted })
	if r.pause(took, 0) != roundLeast {
		t.Errorf("when it was committed: %v", r.pause(took, 0))
	}
	r = round()
	wake := r.Decision.Wake
	if at := r.View.Manifest.Next.Switchover; !wake.Time().After(at) || r.Decision.Publish != nil {
		t.Fatalf("it wakes at %v, %+v", wake, r.Decision)
	}
	for left, want := range map[time.Duration]time.Duration{long: sureEvery, sureEvery / 2: sureEvery / 2, 0: roundLeast, -long: roundLeast} {
		if got := r.pause(took, wake.Add(-left)); got != want {
			t.Errorf("%v before it is over: %v, want %v", left, got, want)
		}
	}
	_, err := w.driver.See(t.Context(), 10*time.Second, false, ignore)
	hometest.Check(t, err)
	if r = round(); r.pause(took, 0) != idleEvery {
		t.Errorf("when all is over: %v", r.pause(took, 0))
	}
}

// How long each member took to have a release ready, and to switch, is known of the last release, whoever published it.
func TestHowMembersFareIsKnown(t *testing.T) {
	w := newWorld(t)
	ready := time.Now().Add(3 * time.Second)
	w.members["fra"].lies = func(c *status.Confirmation) {
		c.Compiled = &status.Step{Number: 2, Done: instant.WallOf(ready)}
		c.Switched = &status.Switched{Number: 1, At: 1, Lateness: 42 * time.Microsecond}
	}
	w.members["tyo"].lies = func(c *status.Confirmation) {
		c.Compiled = &status.Step{Number: 1, Done: instant.WallOf(ready)}                    // of the release before: not this one's
		c.Switched = &status.Switched{Number: 1, At: 1, Done: instant.Wall(2 * time.Minute)} // it took it later, and did not switch
	}
	_, err := w.driver.Round(t.Context())
	hometest.Check(t, err)
	all := w.driver.State().Members
	if len(all) != 2 || all[0].Name != "fra" || all[1].Name != "tyo" {
		t.Fatalf("%+v", all)
	}
	if fra := all[0]; !fra.Answers || fra.Serving != 1 || fra.Staged != 2 || fra.Published != 2 || fra.Latency < 3*time.Second || fra.Latency > time.Minute ||
		fra.Switched != 1 || fra.Lateness != 42*time.Microsecond {
		t.Errorf("%+v", fra)
	}
	if tyo := all[1]; !tyo.Answers || tyo.Serving != 1 || tyo.Published != 0 || tyo.Switched != 0 {
		t.Errorf("%+v", tyo)
	}

	w.members["fra"].lost = errors.New("no route")
	_, err = w.driver.Round(t.Context())
	hometest.Check(t, err)
	if fra := w.driver.State().Members[0]; fra.Answers || fra.Published != 2 || fra.Serving != 1 {
		t.Errorf("of one that does not answer: %+v", fra)
	}
}

func TestNothingIsProposedWhileAMemberIsNotFit(t *testing.T) {
	for name, test := range map[string]struct {
		member member
		want   string
	}{
		"unreachable":   {member{lost: errors.New("connection refused")}, "tyo: unreachable: connection refused"},
		"not ready":     {member{lies: func(c *status.Confirmation) { c.Confirms.Staged = 1 }}, "tyo: not-ready"},
		"clock unknown": {member{lies: func(c *status.Confirmation) { c.Clock = status.ClockState{Reason: "chrony is gone"} }}, "tyo: clock-unknown: chrony is gone"},
		"refused": {member{lies: func(c *status.Confirmation) {
			c.Confirms.Staged, c.Refused = 1, []status.Refused{{Number: 2, Reason: status.Reason{Code: "digest", Detail: "torn"}}}
		}}, "tyo: digest: torn"},
		"of the version before": {member{lies: func(c *status.Confirmation) { c.Format = 0 }}, "tyo: old-format"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.members["tyo"].lost, w.members["tyo"].lies = test.member.lost, test.member.lies
			_, err := w.driver.See(t.Context(), 0, false, ignore)
			var against *AgainstError
			if !errors.As(err, &against) || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "fra:") {
				t.Fatalf("got %v, want %q", err, test.want)
			}
			if at := w.view().Manifest.Next.Switchover; !at.IsZero() {
				t.Errorf("a switchover at %v is published", at)
			}
		})
	}
}

// A proposal that one member does not promise is withdrawn, so that the others go on from the release before.
func TestAProposalThatIsNotPromisedIsWithdrawn(t *testing.T) {
	w := newWorld(t)
	w.members["tyo"].lies = func(c *status.Confirmation) { c.Confirms.Scheduled = nil }
	withdrawn := false
	_, err := w.driver.See(t.Context(), 0, false, func(r Round) {
		withdrawn = withdrawn || r.Done && r.Decision.Event == mesh.EventWithdrawn
	})
	var against *AgainstError
	if !errors.As(err, &against) || !withdrawn {
		t.Fatalf("withdrawn %v, %v", withdrawn, err)
	}
	if next := w.view().Manifest.Next; !next.Switchover.IsZero() || next.Committed {
		t.Errorf("published %+v", next)
	}
}

// TestSlowSigners: the keys are signed with by commands that take a tenth of a second for each of three signatures, which a driver does not know
// that has just begun. Its first proposal comes too late, which it says, and it takes more time for the next. From then on each is made in time.
func TestSlowSigners(t *testing.T) {
	w := newWorld(t)
	program, err := os.Executable()
	hometest.Check(t, err)
	for _, name := range []string{"release", "lease"} {
		key, moved := filepath.Join(w.dir, "keys", name+".pem"), filepath.Join(t.TempDir(), name)
		data, err := os.ReadFile(key)
		hometest.Check(t, err)
		private, err := release.ParseKey(data)
		hometest.Check(t, err)
		hometest.Check(t, os.WriteFile(moved, data, 0o600))
		hometest.Check(t, os.WriteFile(filepath.Join(w.dir, "keys", name+".command"), fmt.Appendf(nil, "ed25519 %x\n%s sign-slowly %s\n", private.Public(), program, moved), 0o600))
		hometest.Check(t, os.Remove(key))
	}
	var log strings.Builder
	w.driver.Log = slog.New(slog.NewTextHandler(&log, nil))
	r, err := w.driver.Round(t.Context())
	hometest.Check(t, err)
	if next := w.view().Manifest.Next; r.Done || !r.Late || !next.Switchover.IsZero() || !strings.Contains(log.String(), "it took too long to publish what was decided") {
		t.Errorf("the first proposal: done %v, late %v, published %+v, log %s", r.Done, r.Late, next, &log)
	}
	for number := uint64(2); number <= 3; number++ {
		if number > 2 {
			h, err := w.driver.Home.Begin(t.Context())
			hometest.Check(t, err)
			_, found, err := releasing.Make(t.Context(), h, []releasing.Source{hometest.ZoneFile(t, 3)}, releasing.Options{})
			if err := errors.Join(err, h.Close()); err != nil {
				t.Fatal(err, found)
			}
		}
		late, proposals := 0, 0
		seen, err := w.driver.See(t.Context(), 30*time.Second, false, func(r Round) {
			if r.Late {
				late++
			}
			if r.Done && r.Decision.Event == mesh.EventProposed {
				proposals++
			}
		})
		hometest.Check(t, err)
		if !seen.Settled || seen.Number != number || late != 0 || proposals != 1 {
			t.Errorf("seen %+v, with %d proposals that were made and %d that came too late\n%s", seen, proposals, late, &log)
		}
	}
}

// "meshctl serve" renews the lease in every round of a command's questions. The command's proposal
// goes out all the same, and another change that was made meanwhile is not overwritten.
func TestALeaseThatIsRenewedMeanwhileTakesNoTurn(t *testing.T) {
	w := newWorld(t)
	other := w.newDriver(mesh.Policy{Renew: time.Nanosecond, Manual: true, Absent: mesh.Absent{After: mesh.DefaultAbsent}})
	between := func() {
		r, err := other.Round(t.Context())
		hometest.Check(t, err)
		if !r.Done || r.Decision.Event != mesh.EventRenewed {
			t.Errorf("meanwhile %q was published", r.Decision.Event)
		}
	}
	w.driver.Ask = func(ctx context.Context, members []release.Member) map[string]Answer {
		answers := w.ask(ctx, members)
		between()
		return answers
	}
	r, err := w.driver.Round(t.Context())
	hometest.Check(t, err)
	if !r.Done || r.Decision.Event != mesh.EventProposed {
		t.Fatalf("beside renewals the round gave %q, %v", r.Decision.Event, r.Decision.Against)
	}
	at, lease := w.view().Manifest.Next.Switchover, w.view().Versions.Timestamp
	between = func() { hometest.MustRelease(t, w.dir, time.Now, 3, releasing.Options{}) }
	r, err = w.driver.Round(t.Context())
	hometest.Check(t, err)
	if next := w.view().Manifest.Next; r.Done || next.Number != 3 || !next.Switchover.IsZero() || at.IsZero() || w.view().Versions.Timestamp != lease+1 {
		t.Errorf("a release was made meanwhile: done %v, published %v", r.Done, w.view())
	}
}

// What is forced goes on without the member's word, and that is on record.
func TestForce(t *testing.T) {
	w := newWorld(t)
	w.members["tyo"].lost = errors.New("connection refused")
	w.driver.Order.Force = true
	seen, err := w.driver.See(t.Context(), 0, false, ignore)
	hometest.Check(t, err)
	if !seen.Settled || len(seen.Forced) != 1 || seen.Forced[0].Member != "tyo" || !slices.Equal(seen.Without, []string{"tyo"}) {
		t.Errorf("seen %+v", seen)
	}
	state, err := home.At(w.dir, time.Now).State(w.t.Context())
	hometest.Check(t, err)
	if !slices.ContainsFunc(state.Events, func(e home.Event) bool {
		return e.Event == mesh.EventProposed && strings.Contains(e.Detail, "tyo: unreachable")
	}) {
		t.Errorf("events %+v", state.Events)
	}
}

// TestAMemberThatIsGoneWithoutKeepsNobodyWaiting: once the switchover is on record it is asked once more how it fared, and that is all, since the
// next release waits meanwhile. A member that was to make the switchover has its time to say so.
func TestAMemberThatIsGoneWithoutKeepsNobodyWaiting(t *testing.T) {
	w := newWorld(t)
	w.members["tyo"].lost = errors.New("connection refused")
	w.driver.Order.Force = true
	asked := 0
	w.driver.Ask = func(ctx context.Context, members []release.Member) map[string]Answer {
		if w.view().Manifest.Next == nil {
			asked++
		}
		return w.ask(ctx, members)
	}
	seen, err := w.driver.See(t.Context(), 0, false, ignore)
	hometest.Check(t, err)
	if len(seen.Results) != 2 || seen.Results[1].Switched || asked != 1 {
		t.Errorf("asked %d times: %+v", asked, seen)
	}
	w.release(hometest.ZoneFile(t, 3), releasing.Options{})
	w.members["tyo"].lost = nil
	asked = 0
	w.members["fra"].lies = func(c *status.Confirmation) {
		if c.Serving == 3 && asked < 3 {
			c.Serving = 2 // it is late to say so
		}
	}
	w.driver.Order.Force = false
	seen, err = w.driver.See(t.Context(), 0, false, ignore)
	hometest.Check(t, err)
	if len(seen.Results) != 2 || !seen.Results[0].Switched || asked < 3 {
		t.Errorf("asked %d times: %+v", asked, seen)
	}
}

// TestALiveMemberThatWasLeftOutHasAMoment: one that a switchover was made without, and that has the release by now and answers, is asked again for a
// second, since it is as quick as others. One that is not about to make it is asked once.
func TestALiveMemberThatWasLeftOutHasAMoment(t *testing.T) {
	members := []release.Member{{Name: "fra"}, {Name: "tyo"}}
	old := status.Confirmation{Serving: 1, Confirms: status.Confirms{Staged: 2}}
	for name, test := range map[string]struct {
		says  func(asked int) Answer
		tick  time.Duration // that passes between two looks at the clock
		asked int
		want  history.Result
	}{
		"it comes": {func(asked int) Answer {
			c := old
			if asked == 3 {
				c.Serving = 2
			}
			return Answer{Confirmation: c}
		}, 0, 3, history.Result{Member: "tyo", Switched: true, Joined: true}},
		"it does not come": {func(int) Answer { return Answer{Confirmation: old} }, leftPatience / 2, 2,
			history.Result{Member: "tyo", Why: "the switchover was made without it: it answers from release 1"}},
		"it lacks the release": {func(int) Answer {
			return Answer{Confirmation: status.Confirmation{Serving: 1, Confirms: status.Confirms{Staged: 1}}}
		}, 0,
			1, history.Result{Member: "tyo", Why: "the switchover was made without it: it answers from release 1"}},
		"it is silent": {func(int) Answer { return Answer{Confirmation: status.Confirmation{Confirms: old.Confirms}} }, 0,
			1, history.Result{Member: "tyo", Why: "the switchover was made without it: it is silent"}},
		"it is away": {func(int) Answer { return Answer{Err: errors.New("connection refused")} }, 0,
			1, history.Result{Member: "tyo", Why: "the switchover was made without it: it gave no answer: connection refused"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			asked, now := 0, time.Now()
			clock := func() time.Time {
				now = now.Add(test.tick)
				return now
			}
			d := NewDriver(home.At(t.TempDir(), clock), func(context.Context, []release.Member) map[string]Answer {
				asked++
				return map[string]Answer{"fra": {Confirmation: status.Confirmation{Serving: 2}}, "tyo": test.says(asked)}
			}, mesh.Policy{}, nil)
			if got := d.results(t.Context(), members, []string{"tyo"}, 2); len(got) != 2 || !got[0].Switched || got[1] != test.want || asked != test.asked {
				t.Errorf("asked %d times: %+v", asked, got)
			}
		})
	}
}

// One host proposes and dies. Another finishes, though it has never heard of the members before.
func TestAnotherHostFinishes(t *testing.T) {
	w := newWorld(t)
	for {
		r, err := w.driver.Round(t.Context())
		hometest.Check(t, err)
		if r.Done && r.Decision.Event == mesh.EventProposed {
			break
		}
	}
	w.driver = w.newDriver(w.driver.Policy)
	seen, err := w.driver.See(t.Context(), 10*time.Second, false, ignore)
	hometest.Check(t, err)
	if !seen.Settled || strings.Count(strings.Join(w.events(), " "), mesh.EventProposed) != 1 {
		t.Errorf("seen %+v, events %v", seen, w.events())
	}
}

// Of two hosts that decide at once one wins, and the other goes on from what that has published.
func TestTwoHostsAtOnce(t *testing.T) {
	w := newWorld(t)
	other := w.newDriver(w.driver.Policy)
	ended := make(chan error)
	go func() {
		_, err := other.See(t.Context(), 20*time.Second, false, ignore)
		ended <- err
	}()
	seen, err := w.driver.See(t.Context(), 20*time.Second, false, ignore)
	hometest.Check(t, err)
	hometest.Check(t, <-ended)
	if all := strings.Join(w.events(), " "); !seen.Settled || strings.Count(all, mesh.EventProposed) != 1 || strings.Count(all, mesh.EventCommitted) != 1 || strings.Count(all, mesh.EventSettled) != 1 {
		t.Errorf("seen %+v, events %v", seen, all)
	}
}

// A cancelled switchover is not proposed again before an operator says so.
func TestCancelHolds(t *testing.T) {
	w := newWorld(t)
	w.driver.Order.At = instant.WallOf(time.Now().Add(time.Hour))
	for w.view().Manifest.Next.Switchover.IsZero() {
		_, err := w.driver.Round(t.Context())
		hometest.Check(t, err)
	}
	writer := hometest.Begin(t, w.dir, time.Now)
	next, err := writer.Host().Cancel(writer.Instant(), "cancelled")
	hometest.Check(t, err)
	hometest.Check(t, writer.Carry(t.Context(), next, time.Time{}, nil, home.Event{Event: "cancelled"}))
	writer.Close()
	w.driver = w.newDriver(w.driver.Policy)
	_, err = w.driver.See(t.Context(), 0, false, ignore)
	if err == nil || !strings.Contains(err.Error(), mesh.Paused) {
		t.Fatalf("got %v", err)
	}
	writer = hometest.Begin(t, w.dir, time.Now)
	hometest.Check(t, writer.Carry(t.Context(), writer.Host().Resume(writer.Instant()), time.Time{}, nil, home.Event{Event: "resumed"}))
	writer.Close()
	seen, err := w.driver.See(t.Context(), 10*time.Second, true, ignore)
	hometest.Check(t, err)
	if !seen.Committed {
		t.Errorf("seen %+v", seen)
	}
	writer = hometest.Begin(t, w.dir, time.Now)
	defer writer.Close()
	if _, err := writer.Host().Cancel(writer.Instant(), "too late"); err == nil || !strings.Contains(err.Error(), "is committed") {
		t.Errorf("a commit was taken back: %v", err)
	}
}

// TestCancelEndsWhatSeesItThrough: whoever sees a switchover through hears at once that it was cancelled, however long members were
// given to be ready, and does not propose it again, not at an instant that was ordered either.
func TestCancelEndsWhatSeesItThrough(t *testing.T) {
	for name, order := range map[string]func(*Driver){
		"lead":    func(d *Driver) { d.Policy.Lead = time.Hour },
		"instant": func(d *Driver) { d.Order.At = instant.WallOf(time.Now().Add(time.Hour)) },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			order(w.driver)
			proposed, ended := make(chan struct{}), make(chan error, 1)
			var once sync.Once
			go func() {
				_, err := w.driver.See(t.Context(), time.Hour, false, func(r Round) {
					if next := r.View.Manifest.Next; next != nil && !next.Switchover.IsZero() {
						once.Do(func() { close(proposed) })
					}
				})
				ended <- err
			}()
			<-proposed
			writer := hometest.Begin(t, w.dir, time.Now)
			next, err := writer.Host().Cancel(writer.Instant(), "cancelled")
			hometest.Check(t, err)
			hometest.Check(t, writer.Carry(t.Context(), next, time.Time{}, nil, home.Event{Event: "cancelled"}))
			writer.Close()
			select {
			case err := <-ended:
				if err == nil || !strings.Contains(err.Error(), mesh.Paused) {
					t.Errorf("got %v", err)
				}
			case <-time.After(time.Minute):
				t.Error("it goes on")
			}
			if !w.view().Manifest.Next.Switchover.IsZero() {
				t.Error("it is proposed again")
			}
		})
	}
}

// A member that is struck is told, and the next switchover waits until it knows.
func TestAStruckMemberIsToldFirst(t *testing.T) {
	w := newWorld(t)
	w.members["tyo"].lost = errors.New("connection refused")
	writer := hometest.Begin(t, w.dir, time.Now)
	hometest.Check(t, enrol.RemoveMember(t.Context(), writer, "tyo"))
	writer.Close()
	_, err := w.driver.See(t.Context(), 0, false, ignore)
	if err == nil || !strings.Contains(err.Error(), "tyo: "+mesh.Removed) {
		t.Fatalf("got %v", err)
	}
	w.members["tyo"].lost = nil
	seen, err := w.driver.See(t.Context(), 10*time.Second, false, ignore)
	hometest.Check(t, err)
	if !seen.Settled || len(seen.Results) != 1 {
		t.Errorf("seen %+v", seen)
	}
	if state, err := home.At(w.dir, time.Now).State(w.t.Context()); err != nil || len(state.Departed)+len(state.Leaving) > 0 {
		t.Errorf("%v: still waits for %+v", err, state.Departed)
	}
}

// Members that hold a newer lease than the state knows of show that it was restored from an older copy: nothing is published.
func TestARestoredStatePublishesNothing(t *testing.T) {
	w := newWorld(t)
	w.members["fra"].lies = func(c *status.Confirmation) { c.Lease += 7 }
	before := w.view().Versions
	for range 3 {
		r, err := w.driver.Round(t.Context())
		hometest.Check(t, err)
		if len(r.Decision.Alarms) == 0 || r.Decision.Alarms[0].Code != mesh.StateRestored {
			t.Fatalf("alarms %v", r.Decision.Alarms)
		}
	}
	if after := w.view().Versions; after != before {
		t.Errorf("published %+v after %+v", after, before)
	}
}

// TestWhatNothingSpeaksAgainstIsSaid: a command that ends since its host was too slow says so.
func TestWhatNothingSpeaksAgainstIsSaid(t *testing.T) {
	if err := (&AgainstError{Number: 2}).Error(); !strings.Contains(err, "release 2") || !strings.Contains(err, "signing commands") {
		t.Error(err)
	}
}
