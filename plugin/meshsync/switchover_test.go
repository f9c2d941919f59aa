package meshsync

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/instant"
	"github.com/coredns-anycast/coredns-anycast/internal/lab"
	"github.com/coredns-anycast/coredns-anycast/internal/mesh"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
	"github.com/coredns-anycast/coredns-anycast/internal/socket"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
	"github.com/coredns-anycast/coredns-anycast/internal/sysclock"
)

func TestFirstStartStatesWhyItIsSilentUntilThereIsARelease(t *testing.T) {
	dir, h := nodeDir(t)
	n := startNode(t, newConfig(dir, h))
	n.silentFor(mesh.NoView)
	w := &writer{}
	if n.ServeDNS(t.Context(), w, new(dns.Msg).SetNotify("example.org.")); w.said != nil {
		t.Errorf("to what is no query it says %v", w.said)
	}
	h.current(1, h.zones(1))
	n.becomes(1)
	if s := n.status(); s.Serving != 1 || s.Floor != 1 || s.Mesh != "jp" || s.Node != "tyo" || len(n.f.shown.Load().whole().Zones) != 1 {
		t.Errorf("status %+v", s)
	}
}

// A crash right after the first answer must leave the floor (SYNC-G): whenever an answer is seen, it is on disk.
func TestFloorIsDurableBeforeTheFirstAnswer(t *testing.T) {
	for range 5 {
		dir, h := nodeDir(t)
		h.current(3, h.zones(3))
		n := startNode(t, newConfig(dir, h))
		lab.Eventually(t, func() error {
			if n.which() == 0 {
				return os.ErrNotExist
			}
			data, err := os.ReadFile(filepath.Join(dir, "state", promiseFile))
			if err != nil || string(data) != "{\"floor\":3}\n" {
				t.Fatalf("answered with %q on disk (%v)", data, err)
			}
			return nil
		})
	}
}

// The heart of it (SYNC-E): under load no query goes unanswered, and each is answered from the release that the clock
// names between the query and its answer.
func TestSwitchoverUnderLoad(t *testing.T) {
	h, n := answeringNode(t)
	to := n.confirmed(h)
	loadOver(t, n, to, 300*time.Millisecond)
	s := n.status()
	if s.Switched == nil || s.Switched.Number != to.Number || s.Switched.At != to.At {
		t.Fatalf("switched: %+v", s.Switched)
	}
	t.Logf("lateness %v", s.Switched.Lateness)
}

// The answer path switches by itself, however late the follower is.
func TestSwitchoverWhileTheFollowerHangs(t *testing.T) {
	h, n := answeringNode(t)
	to := n.confirmed(h)
	n.hangsFrom(to.At.Time())
	loadOver(t, n, to, 500*time.Millisecond)
	if s := n.status(); s.Serving != to.Number-1 {
		t.Errorf("the follower was not held: it says that it serves %d", s.Serving)
	}
	n.clock.held.Unlock()
	n.waits("the follower's word", func(s *status.Node) bool { return s.Serving == to.Number && s.Floor == to.Number })
	n.keeps(to.Number, 50*time.Millisecond)
}

// A wall clock that steps past the instant switches nobody early, though nothing is decided anew: until it is, nobody answers.
func TestAClockThatStepsSwitchesNothing(t *testing.T) {
	h, n := answeringNode(t)
	to := n.confirmed(h)
	n.clock.held.Lock()
	n.clock.step(time.Hour)
	for end := time.Now().Add(100 * time.Millisecond); time.Now().Before(end); {
		if got := n.which(); got != 0 {
			t.Errorf("it answers from %d", got)
			break
		}
	}
	n.clock.step(-time.Hour)
	n.clock.held.Unlock()
	n.becomes(to.Number)
}

// A follower that hangs for long leaves nobody answering from what may be over.
func TestHangingFollowerFallsSilent(t *testing.T) {
	if testing.Short() {
		t.Skip("takes more than", mesh.Stall)
	}
	t.Parallel()
	_, n := answeringNode(t)
	n.clock.held.Lock()
	decided := n.status().At.Time()
	n.keeps(1, time.Until(decided.Add(mesh.Stall-time.Second)))
	time.Sleep(time.Until(decided.Add(mesh.Stall + time.Second)))
	if got := n.which(); got != 0 {
		t.Errorf("still answers from %d", got)
	}
	n.clock.held.Unlock()
	n.becomes(1)
}

// confirmed publishes a switchover to the next release and waits until the node gives its word for it, and its answer path knows
// what follows. On a machine so slow that the instant passes before, it tries again with more time.
func (n *node) confirmed(h *host) status.Ref {
	n.t.Helper()
	for lead := 600 * time.Millisecond; ; lead *= 2 {
		number := h.manifest.Current.Number + 1
		h.stage(number, h.zones(number))
		n.staged(number)
		to := status.Ref{Number: number, At: instant.WallOf(h.schedule(lead))}
		if n.by(to.At.Time(), func(s *status.Node) bool {
			a := n.f.active.Load() // nil where it is silent anyway
			return s.Confirms.Scheduled != nil && *s.Confirms.Scheduled == to && s.Promise.State == status.Committed &&
				(a == nil || a.then != nil && a.then.Number == number)
		}) {
			return to
		}
		n.t.Logf("not confirmed within %v", lead)
		n.becomes(number)
		made := h.manifest.Next.Withdrawn()
		made.Switchover = to.At.Time().Add(-24 * time.Hour) // as if it were long ago, as that of the first is
		h.manifest.Current = &made
	}
}

// proposed proposes a switchover to the release that is staged until the node has promised it before its instant.
func (n *node) proposed(h *host) status.Ref {
	n.t.Helper()
	for lead := time.Second; ; lead *= 2 {
		to := status.Ref{Number: h.manifest.Next.Number, At: instant.WallOf(h.propose(lead))}
		if n.by(to.At.Time(), func(s *status.Node) bool { return s.Confirms.Scheduled != nil && *s.Confirms.Scheduled == to }) {
			return to
		}
		n.t.Logf("not promised within %v", lead)
	}
}

// by reports whether the status is as wished before an instant, for as long as it is well ahead.
func (n *node) by(at time.Time, holds func(*status.Node) bool) bool {
	for time.Until(at) > 300*time.Millisecond {
		if holds(n.status()) {
			return true
		}
		time.Sleep(time.Millisecond)
	}
	return false
}

// hangsFrom has the follower hang from shortly before an instant, so that what it decided last is good until after that.
func (n *node) hangsFrom(at time.Time) {
	time.Sleep(time.Until(at) - 2*time.Second)
	n.clock.held.Lock()
}

// loadOver queries from several goroutines until a while after the switchover, and demands the right answer to each.
func loadOver(t *testing.T, n *node, to status.Ref, after time.Duration) {
	t.Helper()
	at := to.At.Time()
	var wait sync.WaitGroup
	var answers atomic.Int64
	for range 4 {
		wait.Go(func() {
			for mine := 0; mine < 25 || time.Now().Before(at.Add(after)); mine++ {
				before := time.Now()
				got := n.which()
				switch done := time.Now(); {
				case got == 0:
					t.Errorf("a query was lost %v from the switchover", done.Sub(at))
					return
				case got == to.Number-1 && !before.Before(at), got == to.Number && done.Before(at), got > to.Number, got < to.Number-1:
					t.Errorf("release %d between %v and %v from the switchover", got, before.Sub(at), done.Sub(at))
					return
				}
				answers.Add(1)
			}
		})
	}
	wait.Wait()
	t.Logf("%d answers", answers.Load())
}

// A step back, too small to count as one, right after the answer path has switched and before the follower sees it,
// takes no answer back (SYNC-G).
func TestNoAnswerFromTheReleaseBeforeAfterASmallStepBack(t *testing.T) {
	h, n := answeringNode(t)
	to := n.confirmed(h)
	at := to.At.Time()
	n.hangsFrom(at)
	time.Sleep(time.Until(at))
	lab.Eventually(t, func() error {
		if n.which() != to.Number {
			return os.ErrDeadlineExceeded
		}
		return nil
	})
	step := time.Since(at) + 5*time.Millisecond // 5 ms before the switchover again
	n.clock.step(-step)
	if got := n.which(); got != to.Number && (got != 0 || step < instant.StepTolerance) { // on a slow machine it is a step, and silence right
		t.Errorf("answers from %d after the step", got)
	}
	n.clock.held.Unlock()
	for end := time.Now().Add(100 * time.Millisecond); time.Now().Before(end); {
		if got := n.which(); got == to.Number-1 {
			t.Fatal("went back to the release before")
		}
	}
	n.becomes(to.Number)
}

// SYNC-F: without the data a node is silent from the switchover on, and recovers by itself when the data is right.
func TestNodeWithoutTheDataIsSilentAndRecovers(t *testing.T) {
	h, n := answeringNode(t)
	zones := h.zones(2)
	blob := h.blobPath(zones[0])
	must(t, os.Rename(blob, blob+".hidden"))
	h.stage(2, zones)
	n.faulty("missing")
	n.waits("the release refused", func(s *status.Node) bool {
		return len(s.Refused) == 1 && s.Refused[0].Number == 2 && s.Refused[0].Reason.Code == "missing"
	})
	at := h.schedule(time.Second)
	n.waits("the schedule", func(s *status.Node) bool { return s.Depot.Lease == h.version() })
	n.keeps(1, time.Until(at)-5*time.Millisecond)
	time.Sleep(time.Until(at))
	n.keeps(0, 300*time.Millisecond)
	n.silentFor(mesh.NotReady)
	if n.Ready() {
		t.Error("says that it is ready")
	}
	must(t, os.Rename(blob+".hidden", blob)) // no newer timestamp tells of it
	n.becomes(2)
	n.sound()
	n.restart().becomes(2)
}

// A node that was down at the switchover, or loses its repository, goes on from what it remembers.
func TestRestartAfterTheSwitchover(t *testing.T) {
	h, n := answeringNode(t)
	to := n.confirmed(h)
	n.close()
	time.Sleep(time.Until(to.At.Time()) + 10*time.Millisecond)
	n = startNode(t, n.config)
	n.becomes(to.Number)
	if s := n.status(); s.Floor != to.Number {
		t.Errorf("floor %d", s.Floor)
	}
}

// A node that was away looks at its repository before it answers from what it had verified before (SYNC-H).
func TestAStartLooksAtTheRepositoryFirst(t *testing.T) {
	h, n := answeringNode(t)
	n.close()
	h.current(2, h.zones(2))
	n = startNode(t, n.config)
	n.waits("release 2 is answered from", func(*status.Node) bool {
		got := n.which()
		if got == 1 {
			t.Fatal("answers from release 1, which is over")
		}
		return got == 2
	})

	n.close()
	if err := os.WriteFile(filepath.Join(n.config.repository, "metadata", "timestamp.json"), []byte("{"), 0o644); err != nil {
		t.Fatal(err)
	}
	n = startNode(t, n.config)
	n.becomes(2) // by what it has verified before
}

func TestProposedAnewAndCancelled(t *testing.T) {
	h, n := answeringNode(t)
	h.stage(2, h.zones(2))
	first := n.proposed(h)
	second := h.propose(time.Hour)
	n.waits("confirmation of the later instant", func(s *status.Node) bool {
		return s.Confirms.Scheduled != nil && s.Confirms.Scheduled.At == instant.WallOf(second)
	})
	n.keeps(first.Number-1, time.Until(first.At.Time())+100*time.Millisecond)
	h.cancel()
	n.waits("nothing scheduled", func(s *status.Node) bool {
		return s.Confirms == status.Confirms{Staged: first.Number - 1} && s.Promise.Number == 0
	})
	n.keeps(first.Number-1, 50*time.Millisecond)
	h.stage(first.Number+1, h.zones(first.Number+1)) // a number that was published is never used again
	third := h.schedule(500 * time.Millisecond)
	time.Sleep(time.Until(third))
	n.becomes(first.Number + 1)
}

// A node that does not know at T whether the switchover is made is silent until it does, and does not go back (SYNC-F, SYNC-H).
func TestProposedAndUndecided(t *testing.T) {
	for name, c := range map[string]struct {
		then func(h *host)
		want uint64
	}{
		"committed": {func(h *host) { next := *h.manifest.Next; next.Committed = true; h.manifest.Next = &next; h.publish() }, 2},
		"withdrawn": {func(h *host) { next := h.manifest.Next.Withdrawn(); h.manifest.Next = &next; h.publish() }, 1},
	} {
		t.Run(name, func(t *testing.T) {
			dir, h := nodeDir(t)
			h.current(1, h.zones(1))
			h.manifest.Members = []release.Member{{Name: "osa", Admin: "https://192.0.2.1:8443"}, {Name: "tyo", Admin: "https://192.0.2.2:8443"}}
			h.publish()
			n := startNode(t, newConfig(dir, h))
			n.becomes(1)
			h.stage(2, h.zones(2))
			n.proposed(h)
			n.silentFor(mesh.Undecided)
			if s := n.status(); !s.Asks || s.Promise.State != status.Proposed {
				t.Errorf("asks %v, promise %+v", s.Asks, s.Promise)
			}
			n = n.restart()
			n.silentFor(mesh.Undecided)
			c.then(h)
			n.becomes(c.want)
		})
	}
}

// A commit that a distribution host has count as taken is found void no more, also after a restart; a node that does not take it waits for the
// record of it.
func TestACommitThatCountsAsTaken(t *testing.T) {
	dir, h := nodeDir(t)
	h.current(1, h.zones(1))
	h.manifest.Members = []release.Member{{Name: "osa", Admin: "https://192.0.2.1:8443"}, {Name: "tyo", Admin: "https://192.0.2.2:8443"}}
	h.publish()
	c := newConfig(dir, h)
	n := startNode(t, c)
	n.becomes(1)
	h.stage(2, h.zones(2))
	n.proposed(h)
	n.silentFor(mesh.Undecided)
	next := *h.manifest.Next
	next.Committed, next.Presumed, next.Without = true, true, []string{c.node}
	h.manifest.Next = &next
	h.publish()
	holds := func(s *status.Node) bool { return s.Promise.State == status.Presumed && s.Promise.Number == 2 }
	n.waits("its word that it holds to it", holds)
	n = n.restart()
	n.silentFor(mesh.Undecided)
	if s := n.status(); !holds(s) {
		t.Errorf("after a restart it holds %+v", s.Promise)
	}
	h.current(2, next.Zones)
	n.becomes(2)
}

// A commit that is taken back is what a state that was restored from a copy would say: it is refused, and the switchover made.
func TestACommitIsNotTakenBack(t *testing.T) {
	h, n := answeringNode(t)
	h.stage(2, h.zones(2))
	at := h.schedule(2 * time.Second)
	n.waits("the commit on disk", func(s *status.Node) bool { return s.Promise.State == status.Committed })
	h.cancel()
	n.faulty(mesh.TakenBack)
	time.Sleep(time.Until(at))
	n.becomes(2)
}

// A mesh that names members is answered from by its members only: one that was removed falls silent when it hears of it.
func TestRemovedMemberFallsSilent(t *testing.T) {
	dir, h := nodeDir(t)
	h.manifest.Members = []release.Member{{Name: "tyo", Admin: "https://192.0.2.2:8443"}}
	h.current(1, h.zones(1))
	n := startNode(t, newConfig(dir, h))
	n.becomes(1)
	h.manifest.Members = []release.Member{{Name: "osa", Admin: "https://192.0.2.1:8443"}}
	h.publish()
	n.silentFor(mesh.Struck)
}

// The end of a lease is judged at c + e, and the query path keeps to it.
func TestLeaseEnd(t *testing.T) {
	dir, h := nodeDir(t)
	h.current(1, h.zones(1))
	n := startUncertified(t, newConfig(dir, h))
	n.certify(500 * time.Millisecond)
	n.becomes(1)
	var ends time.Time
	for lease := 3 * time.Second; ; lease *= 2 { // once more on a machine so slow that it ends before it is heard of
		h.renew(lease)
		ends = h.leaseEnd()
		if n.by(ends.Add(-time.Second), func(s *status.Node) bool { return s.LeaseExpires == instant.WallOf(ends) && s.Serving == 1 }) {
			break
		}
	}
	n.hangsFrom(ends.Add(-500 * time.Millisecond))
	n.keeps(1, time.Until(ends.Add(-510*time.Millisecond)))
	time.Sleep(time.Until(ends.Add(-500 * time.Millisecond)))
	n.keeps(0, 20*time.Millisecond)
	n.clock.held.Unlock()
	n.silentFor(mesh.LeaseEnded)
	h.renew(time.Hour)
	n.becomes(1)
}

// version is that of the lease that was published last.
func (h *host) version() int64 {
	h.t.Helper()
	v, _, err := release.Restore(h.mem, nil)
	must(h.t, err)
	return v.Versions.Timestamp
}

// leaseEnd is when the lease ends that was published last.
func (h *host) leaseEnd() time.Time {
	h.t.Helper()
	v, _, err := release.Restore(h.mem, nil)
	must(h.t, err)
	return v.LeaseExpires
}

func TestClockUnknownIsSilent(t *testing.T) {
	dir, h := nodeDir(t)
	h.current(1, h.zones(1))
	n := startUncertified(t, newConfig(dir, h))
	n.staged(1)
	n.silentFor(mesh.ClockUnknown)
	n.certify(time.Millisecond)
	n.becomes(1)
	if !n.status().Clock.Assumed {
		t.Error("the status does not say that the clock is assumed")
	}
	n.stop()
	n.stop = func() {}
	n.clock.step(time.Second)
	n.silentFor(mesh.ClockUnknown)
	n.certify(time.Millisecond)
	n.becomes(1)
}

// The clock goes back by an hour after an activation: nothing older is answered, and the node recovers with the clock.
func TestClockStepsBackAfterActivation(t *testing.T) {
	h, n := answeringNode(t)
	to := n.confirmed(h)
	time.Sleep(time.Until(to.At.Time()))
	n.becomes(to.Number)
	n.clock.step(-time.Hour)
	n.silentFor(mesh.BelowFloor)
	n.keeps(0, 100*time.Millisecond)
	n.clock.step(time.Hour)
	n.becomes(to.Number)
}

// The sidecar dies: the node goes on answering on its own, and switches (FAIL-4).
func TestHoldover(t *testing.T) {
	dir, h := nodeDir(t)
	h.current(1, h.zones(1))
	n := startUncertified(t, newConfig(dir, h))
	path := filepath.Join(t.TempDir(), "sidecar.sock")
	sample := instant.Sample{At: n.clock.now(), Bound: time.Millisecond, DriftPPM: 50, Source: "chrony"}
	sidecar, err := socket.Serve(path, func() any { return status.Clock{Version: status.Version, State: "synchronised", Sample: sample} })
	must(t, err)
	n.stop = n.f.followClock(clockConfig{socket: path})
	n.becomes(1)
	must(t, sidecar.Close())
	loadOver(t, n, n.confirmed(h), 100*time.Millisecond)
	if c := n.status().Clock; c.Source != "chrony" || c.Bound <= sample.Bound || c.Assumed {
		t.Errorf("clock %+v", c)
	}
}

// While there is nothing to hear the sidecar is asked once a second, which is most of what an idle node does; at once, and more often, as soon
// as the node wants to know what other members hold.
func TestTheSidecarIsAskedSeldomWhileAllIsCalm(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sidecar.sock")
	var asked atomic.Int64
	sidecar, err := socket.Serve(path, func() any {
		asked.Add(1)
		return status.Clock{Version: status.Version, State: "synchronised", Silence: &status.Silence{}, Sample: instant.Sample{At: machine.now(), Bound: time.Millisecond, DriftPPM: 50, Source: "chrony"}}
	})
	must(t, err)
	defer sidecar.Close()
	ctx, stop := context.WithCancel(t.Context())
	words, p := make(chan word, 1000), &pace{quickened: make(chan struct{}, 1)}
	var done sync.WaitGroup
	done.Go(func() { clockConfig{socket: path}.certify(ctx, machine.now, words, p) })
	defer done.Wait()
	defer stop()
	<-words
	began := time.Now()
	time.Sleep(3*certifyCalm + certifyCalm/2)
	if n, took := asked.Load(), time.Since(began); n > 2+int64(took/certifyCalm) {
		t.Errorf("asked %d times in %v", n, took)
	}
	p.set(true)
	lab.WaitFor(t, "it is asked twice as often while there is something to hear", func() bool {
		before, began := asked.Load(), time.Now()
		for time.Since(began) < 2*certifyCalm && asked.Load() < before+4 {
			time.Sleep(time.Millisecond)
		}
		return asked.Load() >= before+4
	})
}

// An operator drains the node with silence: it ceases to answer and stays ready, a sidecar that goes away or does not know
// changes nothing, in neither direction, and its undrain ends it (SYNC-F).
func TestDrainedWithSilence(t *testing.T) {
	dir, h := nodeDir(t)
	h.current(1, h.zones(1))
	n := startUncertified(t, newConfig(dir, h))
	path := filepath.Join(t.TempDir(), "sidecar.sock")
	var said atomic.Pointer[status.Clock]
	say := func(s *status.Silence) {
		said.Store(&status.Clock{Version: status.Version, State: "synchronised", Silence: s,
			Sample: instant.Sample{At: n.clock.now(), Bound: time.Millisecond, DriftPPM: 50, Source: "chrony"}})
	}
	serve := func() *socket.Server {
		s, err := socket.Serve(path, func() any { return said.Load() })
		must(t, err)
		return s
	}
	on, off := &status.Silence{On: true, Why: "by jane"}, &status.Silence{}

	say(on)
	sidecar := serve()
	n.stop = n.f.followClock(clockConfig{socket: path})
	n.silentFor(mesh.Drained) // with the first sample, and no answer before
	to := n.confirmed(h)
	n.keeps(0, time.Until(to.At.Time())+100*time.Millisecond)
	say(off)
	n.becomes(to.Number)
	n.keeps(to.Number, 2*certifyCalm)

	must(t, sidecar.Close())
	n.keeps(to.Number, 2*certifyCalm)
	say(on)
	sidecar = serve()
	n.silentFor(mesh.Drained)
	if why := n.status().Silent[0]; why.Detail != "by jane" {
		t.Errorf("silent: %s", why)
	}
	must(t, sidecar.Close())
	n.keeps(0, 2*certifyCalm)
	say(nil) // a sidecar that does not know
	sidecar = serve()
	n.keeps(0, 2*certifyCalm)
	n.stop() // as a reload does
	n.stop = n.f.followClock(clockConfig{socket: path})
	n.keeps(0, 2*certifyCalm)
	say(off)
	n.becomes(to.Number)
	must(t, sidecar.Close())
}

// A clock that is too wide: the switchover is held, so that the floor is right whatever happens, and not confirmed; around
// it the node is silent (CLOCK-1).
func TestClockTooWide(t *testing.T) {
	dir, h := nodeDir(t)
	h.current(1, h.zones(1))
	n := startUncertified(t, newConfig(dir, h))
	n.certify(300 * time.Millisecond) // the mesh wants 100 ms
	n.becomes(1)
	h.stage(2, h.zones(2))
	n.staged(2)
	at := h.schedule(1500 * time.Millisecond)
	n.waits("the switchover held", func(s *status.Node) bool { return s.Promise.Number == 2 })
	if c := n.status().Confirms; c.Scheduled != nil {
		t.Errorf("confirms %+v", c.Scheduled)
	}
	n.keeps(1, time.Until(at.Add(-320*time.Millisecond)))
	time.Sleep(time.Until(at.Add(-299 * time.Millisecond)))
	n.keeps(0, time.Until(at.Add(300*time.Millisecond)))
	n.becomes(2)
}

// A sidecar that says nonsense is not believed.
func TestInsaneSamples(t *testing.T) {
	for name, s := range map[string]instant.Sample{
		"no source":      {Bound: 1},
		"negative bound": {Bound: -1, Source: "x"},
		"negative drift": {DriftPPM: -1, Source: "x"},
		"endless bound":  {Bound: 1 << 62, Source: "x"},
		"endless drift":  {DriftPPM: 1 << 62, Source: "x"},
	} {
		if sane(s) {
			t.Errorf("%s is believed", name)
		}
	}
	if !sane(instant.Sample{Bound: time.Second, DriftPPM: 50, Source: "chrony"}) {
		t.Error("a good sample is not believed")
	}
}

// A node that answers, and knows of no switchover, decides seldom: each time wakes the process, which is most of what an idle node does. Who asks
// how it is hears a decision of that moment, and a query that finds that the clock has stepped has one made at once; as soon as a switchover is
// promised it decides ten times a second.
func TestANodeAtRestDecidesSeldom(t *testing.T) {
	t.Parallel()
	h, n := answeringNode(t)
	n.stop() // nobody certifies the clock any more: what was said ages
	n.stop = func() {}
	decisions := func() (count int) {
		last := n.status()
		for end := time.Now().Add(4 * calmTick); time.Now().Before(end); time.Sleep(time.Millisecond) {
			if s := n.status(); s != last {
				count, last = count+1, s
			}
		}
		return count
	}
	if got := decisions(); got > 8 {
		t.Errorf("%d decisions in %v", got, 4*calmTick)
	}
	for range 5 {
		before := sysclock.Now().Wall
		if at := n.f.said().At; at < before {
			t.Errorf("asked at %v it says what it decided at %v", before, at)
		}
	}
	n.f.doubts <- struct{}{}
	n.waits("the doubt to be taken", func(*status.Node) bool { return len(n.f.doubts) == 0 })
	n.clock.held.Lock() // nothing is decided
	n.clock.step(time.Hour)
	n.waits("the doubt of a query", func(*status.Node) bool { return n.which() == 0 && len(n.f.doubts) == 1 })
	n.clock.held.Unlock()
	n.silentFor(mesh.ClockUnknown)
	n.clock.step(-time.Hour)
	n.becomes(1)
	h.stage(2, h.zones(2))
	n.staged(2)
	h.propose(time.Hour)
	n.waits("the promise", func(s *status.Node) bool { return s.Promise.State == status.Proposed })
	n.waits("ten decisions", func() func(*status.Node) bool {
		last, count, began := n.status(), 0, time.Now()
		return func(s *status.Node) bool {
			if s != last {
				count, last = count+1, s
			}
			return count >= 10 && time.Since(began) < 10*calmTick
		}
	}())
}
