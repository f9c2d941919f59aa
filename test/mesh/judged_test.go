package mesh_test

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/lab"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
	"github.com/coredns-anycast/coredns-anycast/internal/socket"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
)

// heals is how long after all is healed a mesh may take to be as it should be (I6), unless two leads are longer.
const heals = time.Minute

// patience is how long a mesh that is healed since then may take: where publications or questions take long, leads are long as well
// (docs/design/protocol.md), and a switchover that is under way comes before the one that is waited for.
func (s *judged) patience(since time.Time) time.Duration { return max(heals, 2*s.planned.lead(since)) }

// judged is a mesh whose nodes clients ask all the time, from ask on. Each answer is judged by the schedule in the end.
type judged struct {
	*mesh
	serve   *lab.Process
	begun   time.Time
	planned schedule
	loads   map[string]*lab.Load
	faults  []*touch
	log     []string // what happened, and when; shown if the test fails, or with -v
}

func newJudged(m *mesh) *judged {
	s := &judged{mesh: m, loads: map[string]*lab.Load{}, planned: schedule{at: map[uint64]time.Time{}, leads: map[time.Time]time.Duration{}}}
	m.top.Cleanup(func() {
		for _, line := range s.log {
			m.top.Log(line)
		}
	})
	return s
}

// ask begins to ask every node.
func (s *judged) ask() {
	s.begun = time.Now()
	for _, node := range s.nodes {
		s.loads[node] = s.load(node, shared4, 20*time.Millisecond)
	}
}

// touch is what a fault has touched. A node counts as touched by
//
//   - what is done to its processes, its clock, its files or its disk
//   - what is done to its link to the distribution host, or to another node: both ends are touched
//
// and by nothing else: what is done to the distribution host touches no node. It is touched from lostAfter before the fault
// strikes, for the questions that are under way then, until it has answered a question that was put after the fault was
// lifted, which must be within heals, and for as long after that as the test says, so that it has had the time to make a
// switchover that the others made without it. The next fault strikes after that.
type touch struct {
	nodes    []string
	from, to time.Time // to is zero until it is over
}

// touches says that something is being done to nodes, until ends is called.
func (s *judged) touches(nodes ...string) *touch {
	t := &touch{nodes: nodes, from: time.Now().Add(-lostAfter)}
	s.faults = append(s.faults, t)
	return t
}

func (t *touch) ends() { t.to = time.Now() }

// watch learns from each node, until stop is called, when it has switched to what.
func (s *judged) watch() (stop func()) {
	ctx, stop := context.WithCancel(context.Background())
	for _, node := range s.nodes {
		go func() {
			for ctx.Err() == nil {
				var n status.Node
				soon, cancel := context.WithTimeout(ctx, time.Second)
				err := socket.Read(soon, s.path(node, "meshsync.sock"), &n)
				cancel()
				if err == nil && n.Promise.At != 0 {
					s.planned.promised(n.Promise.At.Time(), time.Now())
				}
				if err == nil && n.Serving != 0 && n.Switched != nil && n.Switched.Number == n.Serving && n.Switched.At != 0 && len(n.Zones) == 1 {
					s.planned.learn(uint64(n.Zones[0].Serial), n.Switched.At.Time(), node)
				}
				time.Sleep(100 * time.Millisecond)
			}
		}()
	}
	return stop
}

// say notes what happens.
func (s *judged) say(format string, args ...any) {
	now := time.Now()
	s.log = append(s.log, fmt.Sprintf("%s (%6.1f s) ", now.UTC().Format("15:04:05.000"), now.Sub(s.begun).Seconds())+fmt.Sprintf(format, args...))
}

// awaitAnswers waits until the node has answered, from a version that is not lower, a question that was put after since, and
// fails when that takes longer than the mesh may.
func (s *judged) awaitAnswers(node string, version uint64, since time.Time) {
	s.t.Helper()
	began := time.Now()
	for s.newest(node, since) < max(version, 1) {
		if took := time.Since(began); took > s.patience(since) {
			n, _ := s.status(node)
			said, _ := json.Marshal(n)
			s.fatalf("%s answers from version %d, and not from %d or a later one, after %v, with leads of at most %v; it says %s; serve: %s", node, s.newest(node, since), version,
				took, s.planned.lead(since), said, lab.Tail(s.serve.Log, 5))
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// newest is the latest version of which a node has answered a question that was put after since, and lately; 0 if it has answered none.
func (s *judged) newest(node string, since time.Time) (version uint64) {
	if almost := time.Now().Add(-lostAfter); almost.After(since) {
		since = almost
	}
	for _, a := range s.loads[node].Since(since) {
		if a.Answered() {
			version = max(version, a.Release)
		}
	}
	return version
}

// judge looks at every question, with what is known of the schedule by now.
func (s *judged) judge() {
	for _, l := range s.loads {
		l.Stop()
	}
	steps := s.allSteps()
	for _, words := range s.planned.conflicts {
		s.errorf("%s", words)
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
			s.errorf("%s: %d answers are wrong, the first: %s", node, len(wrong), wrong[0])
		}
		if silent > 0 {
			s.errorf("%s: %d questions have no answer though no fault touched it, from %.3f s to %.3f s", node, silent,
				first.Sub(s.begun).Seconds(), last.Sub(s.begun).Seconds())
		}
	}
	s.t.Logf("%d faults, %d switchovers", len(s.faults), len(steps))
	for _, step := range steps {
		s.say("version %d from %s (%.1f s) on", step.version, step.at.UTC().Format("15:04:05.000"), step.at.Sub(s.begun).Seconds())
	}
}

// allSteps are the switchovers by what is known when the newest one that was answered from is: answers come before a node, or the record, says so.
func (s *judged) allSteps() (steps []step) {
	var newest uint64
	for _, node := range s.nodes {
		newest = max(newest, s.newest(node, s.begun))
	}
	s.by(heals, fmt.Sprintf("it is known when version %d was switched to", newest), func() (bool, string) {
		s.learnHistory()
		steps = s.planned.steps()
		return newest == 0 || len(steps) > 0 && steps[len(steps)-1].version >= newest, fmt.Sprint(steps)
	})
	return steps
}

func (s *judged) touched(node string, at time.Time) bool {
	return slices.ContainsFunc(s.faults, func(t *touch) bool {
		return slices.Contains(t.nodes, node) && at.After(t.from) && (t.to.IsZero() || at.Before(t.to))
	})
}

// learnHistory takes from the distribution host's record what no node was seen to do.
func (s *judged) learnHistory() {
	var records []struct {
		Switchover time.Time
		Results    []struct{ Member string }
		Zones      []struct{ To uint64 }
	}
	s.must(json.Unmarshal([]byte(s.meshctl("history", "--last", "1000", "--json")), &records))
	for _, r := range records {
		if len(r.Results) > 0 && len(r.Zones) == 1 && !r.Switchover.IsZero() {
			s.planned.learn(r.Zones[0].To, r.Switchover, "the record")
		}
	}
}

// schedule is when the mesh switches to which version of the zone.
type schedule struct {
	mu        sync.Mutex
	at        map[uint64]time.Time
	conflicts []string                    // who says otherwise
	leads     map[time.Time]time.Duration // by the instant that is proposed: how long before it a node was first seen to know of it
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

// promised learns of an instant that a node has heard of.
func (s *schedule) promised(at, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, known := s.leads[at]; !known {
		s.leads[at] = at.Sub(now)
	}
}

// lead is the longest of the proposals for an instant after since.
func (s *schedule) lead(since time.Time) (longest time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for at, lead := range s.leads {
		if at.After(since) {
			longest = max(longest, lead)
		}
	}
	return longest
}

// last is the latest instant that was proposed; zero if there was none.
func (s *schedule) last() (at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for other := range s.leads {
		if other.After(at) {
			at = other
		}
	}
	return at
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

// TestUntimely: what all is judged by sees an answer that comes too early, too late, or from nowhere.
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
