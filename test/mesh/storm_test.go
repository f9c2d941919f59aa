package mesh_test

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/lab"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
	"github.com/coredns-anycast/coredns-anycast/internal/socket"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
)

const (
	stormFor    = 90 * time.Second // without STORM_FOR
	stormEvery  = 15 * time.Second // between two versions of the zone
	stormSettle = 10 * time.Second // about one switchover, from its proposal to its instant
	stormHeals  = time.Minute      // after which all is as it should be (I6)
)

// storm is a mesh that runs unattended, and to which one thing happens after the other.
type storm struct {
	*mesh
	serve    *lab.Process
	random   *rand.Rand
	kinds    []int // of faults that are still to come before one comes again
	begun    time.Time
	schedule schedule
	loads    map[string]*lab.Load
	faults   []touch
	log      []string // what happened, and when
}

// touch is what a fault has touched. A node counts as touched by
//
//   - what is done to its processes, its clock, its files or its disk
//   - what is done to its link to the distribution host, or to another node: both ends are touched
//
// and by nothing else: what is done to the distribution host touches no node. It is touched from lostAfter before the fault
// strikes, for the questions that are under way then, until it has answered a question that was put after the fault was
// lifted, which must be within stormHeals, and a further stormSettle have passed, so that it has had the time to make a
// switchover that the others made without it. The next fault strikes after that.
type touch struct {
	nodes    []string
	from, to time.Time
}

// TestStorm runs five nodes and the distribution host, unattended, on a directory of zones that changes all the time, with
// clients that ask every node. One fault after the other strikes: processes are killed or stand still, links are cut both
// ways or one way, disks are full or read-only, files are damaged, clocks are wrong. No answer is of a release that it is not
// the time of, whatever happens (I1, I2); no node is silent that no fault touched (I4, I5); once all is well every node
// answers from the newest release within a minute, by itself, and so it does from the next (I6).
//
// STORM_FOR is how long things go wrong, STORM_SEED what the faults are drawn by. By hand:
//
//	STORM_FOR=30m go test -count=1 -v -timeout 1h -run 'TestStorm$' ./test/mesh
func TestStorm(t *testing.T) {
	t.Parallel()
	length, seed := stormSettings(t)
	s := newStorm(t, seed)
	version, stop := s.publish()
	defer stop()
	watched, ended := context.WithCancel(context.Background())
	defer ended()
	s.watch(watched)
	for _, node := range s.nodes {
		s.awaitAnswers(node, 1, s.begun)
	}
	for end := time.Now().Add(length); time.Now().Before(end); {
		s.strike()
	}
	healed := time.Now()
	stop()
	for _, last := range []uint64{*version, *version + 1} { // the next one is put after all nodes have the one before
		s.put(last)
		for _, node := range s.nodes {
			s.awaitAnswers(node, last, healed)
		}
		healed = time.Now()
	}
	s.judge()
}

func stormSettings(t *testing.T) (length time.Duration, seed uint64) {
	length, seed = stormFor, uint64(time.Now().UnixNano())
	var err error
	if v := os.Getenv("STORM_FOR"); v != "" {
		length, err = time.ParseDuration(v)
		lab.Must(t, err)
	}
	if v := os.Getenv("STORM_SEED"); v != "" {
		seed, err = strconv.ParseUint(v, 10, 64)
		lab.Must(t, err)
	}
	return length, seed
}

// newStorm starts the mesh, and clients that ask its nodes from when these answer for the first time.
func newStorm(t *testing.T, seed uint64) *storm {
	testenv.Need(t, "chronyd", "nft")
	nodes := []string{"tyo", "osa", "fra", "nyc", "lim"}
	m := &mesh{world: newWorld(t), nodes: nodes, coredn: map[string]*lab.Process{}, side: map[string]*lab.Process{}, chrony: map[string]*lab.Process{}}
	s := &storm{mesh: m, random: rand.New(rand.NewPCG(seed, 0)), loads: map[string]*lab.Load{}, schedule: schedule{at: map[uint64]time.Time{}}}
	t.Cleanup(func() { // which is shown if the test fails, or with -v
		t.Logf("STORM_SEED=%d", seed)
		for _, line := range s.log {
			t.Log(line)
		}
	})
	m.lan(append([]string{"dist", "time"}, nodes...), shared4+"/32", shared6+"/128")
	m.startTime()
	m.meshctl("init", "--mesh", "test", "--san", "198.51.100.1", "--lease", "1h")
	for _, node := range nodes {
		m.meshctl("member", "add", node, "--admin", m.admin(node)+":8443")
	}
	m.world.write("home/meshctl.yaml", "releases: {every: 1s}\nserve: {listen: '198.51.100.1:8443', access: [198.51.100.0/24], renew: 1m}\n")
	s.put(1)
	s.startServe()
	for _, node := range nodes {
		m.configure(node)
		s.mountDisks(node)
		m.startClock(node)
		m.startSidecar(node)
		m.startCoreDNS(node)
	}
	for _, node := range nodes {
		m.awaitServing(node, 1)
	}
	s.begun = time.Now()
	for _, node := range nodes {
		s.loads[node] = m.load(node, shared4, 20*time.Millisecond)
	}
	return s
}

func (s *storm) startServe() {
	s.serve = s.start("dist", "serve", s.bin+"/meshctl", "--home", s.path("home"), "serve", "--zones", s.path("zones"))
}

// put makes that version of the zone the one to release.
func (s *storm) put(version uint64) {
	s.must(s.putFile(version))
}

func (s *storm) putFile(version uint64) error {
	if err := os.MkdirAll(s.path("zones"), 0o755); err != nil {
		return err
	}
	whole := s.path("zone.new")
	if err := os.WriteFile(whole, []byte(zoneText(version)), 0o644); err != nil {
		return err
	}
	return os.Rename(whole, s.path("zones", "example.org.zone"))
}

// publish puts a new version of the zone again and again, until stop is called. version is the newest one by then.
func (s *storm) publish() (version *uint64, stop func()) {
	version = new(uint64)
	*version = 1
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-ctx.Done():
				return
			case <-time.After(stormEvery):
			}
			*version++
			if err := s.putFile(*version); err != nil {
				s.t.Error(err)
			}
		}
	}()
	return version, func() { cancel(); <-done }
}

// watch learns from each node, until ctx ends, when it has switched to what.
func (s *storm) watch(ctx context.Context) {
	for _, node := range s.nodes {
		go func() {
			for ctx.Err() == nil {
				var n status.Node
				soon, cancel := context.WithTimeout(ctx, time.Second)
				err := socket.Read(soon, s.path(node, "meshsync.sock"), &n)
				cancel()
				if err == nil && n.Serving != 0 && n.Switched != nil && n.Switched.Number == n.Serving && len(n.Zones) == 1 {
					s.schedule.learn(uint64(n.Zones[0].Serial), n.Switched.At.Time(), node)
				}
				time.Sleep(100 * time.Millisecond)
			}
		}()
	}
}

// say notes what happens.
func (s *storm) say(format string, args ...any) {
	now := time.Now()
	s.log = append(s.log, fmt.Sprintf("%s (%6.1f s) ", now.UTC().Format("15:04:05.000"), now.Sub(s.begun).Seconds())+fmt.Sprintf(format, args...))
}

// strike makes one fault, lifts it, and waits until it is over.
func (s *storm) strike() {
	f := s.draw()
	length := time.Duration(500+s.random.IntN(7500)) * time.Millisecond
	pause := time.Duration(s.random.IntN(3000)) * time.Millisecond
	t := touch{nodes: f.nodes, from: time.Now().Add(-lostAfter)}
	s.say("%s, for %v", f.what, length)
	f.strike()
	time.Sleep(length)
	f.lift()
	lifted := time.Now()
	s.say("lifted: %s", f.what)
	for _, node := range f.nodes {
		s.awaitAnswers(node, 1, lifted)
	}
	if took := time.Since(lifted); took > time.Second {
		s.say("%v answer after %v", f.nodes, took)
	}
	time.Sleep(stormSettle)
	t.to = time.Now()
	s.faults = append(s.faults, t)
	time.Sleep(pause)
}

// awaitAnswers waits until the node has answered, from a version that is not lower, a question that was put after since, and
// fails when stormHeals have passed since then.
func (s *storm) awaitAnswers(node string, version uint64, since time.Time) {
	s.t.Helper()
	s.eventually(stormHeals, fmt.Sprintf("%s answers from version %d or a later one", node, version), func() (bool, string) {
		time.Sleep(50 * time.Millisecond)
		recent := since
		if almost := time.Now().Add(-lostAfter); almost.After(since) {
			recent = almost
		}
		var newest uint64
		for _, a := range s.loads[node].Since(recent) {
			if a.Answered() {
				newest = max(newest, a.Release)
			}
		}
		if newest >= max(version, 1) {
			return true, ""
		}
		n, _ := s.status(node)
		said, _ := json.Marshal(n)
		return false, fmt.Sprintf("the newest answer is from %d; it says %s; serve: %s", newest, said, lab.Tail(s.serve.Log, 5))
	})
}

// judge looks at every question, with what is known of the schedule by now.
func (s *storm) judge() {
	for _, l := range s.loads {
		l.Stop()
	}
	s.learnHistory()
	steps := s.schedule.steps()
	for _, words := range s.schedule.conflicts {
		s.t.Error(words)
	}
	for _, node := range s.nodes {
		answers := s.loads[node].End()
		silent, excused := 0, 0
		var wrong []string
		var first, last time.Time
		for _, a := range answers {
			switch {
			case a.Answered():
				if words := untimely(steps, a, release.DefaultEpsilonMS*time.Millisecond); words != "" {
					wrong = append(wrong, words)
				}
			case s.touched(node, a.Sent):
				excused++
			default:
				if last = a.Sent; silent == 0 {
					first = a.Sent
				}
				silent++
			}
		}
		s.t.Logf("%s: %d questions, %d without an answer while a fault touched it", node, len(answers), excused)
		if len(wrong) > 0 {
			s.t.Errorf("%s: %d answers are wrong, the first: %s", node, len(wrong), wrong[0])
		}
		if silent > 0 {
			s.t.Errorf("%s: %d questions have no answer though no fault touched it, from %.3f s to %.3f s", node, silent,
				first.Sub(s.begun).Seconds(), last.Sub(s.begun).Seconds())
		}
	}
	s.t.Logf("%d faults, %d switchovers", len(s.faults), len(steps))
	for _, step := range steps {
		s.say("version %d from %s (%.1f s) on", step.version, step.at.UTC().Format("15:04:05.000"), step.at.Sub(s.begun).Seconds())
	}
}

func (s *storm) touched(node string, at time.Time) bool {
	return slices.ContainsFunc(s.faults, func(t touch) bool {
		return slices.Contains(t.nodes, node) && at.After(t.from) && at.Before(t.to)
	})
}

// learnHistory takes from the distribution host's record what no node was seen to do.
func (s *storm) learnHistory() {
	var records []struct {
		Switchover time.Time
		Results    []struct{ Member string }
		Zones      []struct{ To uint64 }
	}
	s.must(json.Unmarshal([]byte(s.meshctl("history", "--last", "1000", "--json")), &records))
	for _, r := range records {
		if len(r.Results) > 0 && len(r.Zones) == 1 && !r.Switchover.IsZero() {
			s.schedule.learn(r.Zones[0].To, r.Switchover, "the record")
		}
	}
}

// schedule is when the mesh switches to which version of the zone.
type schedule struct {
	mu        sync.Mutex
	at        map[uint64]time.Time
	conflicts []string // who says otherwise
}

// step is one switchover.
type step struct {
	version uint64
	at      time.Time
}

func (s *schedule) learn(version uint64, at time.Time, who string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if before, known := s.at[version]; known && !before.Equal(at) {
		s.conflicts = append(s.conflicts, fmt.Sprintf("%s has version %d from %v on, another from %v", who, version, at, before))
		return
	}
	s.at[version] = at
}

// steps are all switchovers, in order.
func (s *schedule) steps() (all []step) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for version, at := range s.at {
		all = append(all, step{version, at})
	}
	slices.SortFunc(all, func(a, b step) int { return cmp.Compare(a.version, b.version) })
	return all
}

// untimely says what is wrong with an answer: it is of a version that, by all clocks, which are wrong by at most e, was not
// the one to answer from at any time between the question and the answer; "" if nothing is (SYNC-H).
func untimely(steps []step, a lab.Sample, e time.Duration) string {
	i, known := slices.BinarySearchFunc(steps, a.Release, func(s step, version uint64) int { return cmp.Compare(s.version, version) })
	switch {
	case !known:
		return fmt.Sprintf("an answer of %v from version %d, to which nobody has switched", a.Got, a.Release)
	case a.Got.Before(steps[i].at.Add(-e)):
		return fmt.Sprintf("an answer of %v from version %d, %v before its switchover", a.Got, a.Release, steps[i].at.Sub(a.Got))
	case i+1 < len(steps) && a.Sent.After(steps[i+1].at.Add(e)):
		return fmt.Sprintf("an answer from version %d to a question of %v, %v after the switchover to version %d", a.Release, a.Sent,
			a.Sent.Sub(steps[i+1].at), steps[i+1].version)
	}
	return ""
}

// TestUntimely: what TestStorm goes by sees an answer that comes too early, too late, or from nowhere.
func TestUntimely(t *testing.T) {
	begin := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	steps := []step{{1, begin}, {2, begin.Add(10 * time.Second)}, {5, begin.Add(20 * time.Second)}}
	for _, c := range []struct {
		version   uint64
		sent, got time.Duration // after begin
		wrong     bool
	}{
		{1, 5 * time.Second, 5 * time.Second, false},
		{1, 10*time.Second + 90*time.Millisecond, 11 * time.Second, false},
		{1, 10*time.Second + 110*time.Millisecond, 11 * time.Second, true},
		{2, 9 * time.Second, 9*time.Second + 890*time.Millisecond, true},
		{2, 9 * time.Second, 9*time.Second + 910*time.Millisecond, false},
		{2, 20 * time.Second, 30 * time.Second, false},
		{2, 21 * time.Second, 21 * time.Second, true},
		{3, 15 * time.Second, 15 * time.Second, true},
		{5, 100 * time.Second, 100 * time.Second, false},
		{6, 100 * time.Second, 100 * time.Second, true},
	} {
		a := lab.Sample{Sent: begin.Add(c.sent), Got: begin.Add(c.got), Reply: lab.Reply{Answer: true, Release: c.version}}
		if words := untimely(steps, a, 100*time.Millisecond); (words != "") != c.wrong {
			t.Errorf("version %d, asked for after %v, answered after %v: %q", c.version, c.sent, c.got, words)
		}
	}
}
