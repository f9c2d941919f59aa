package sim

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/mesh"
)

// TestHistories runs a slice of the histories: some of each class, by other seeds than the campaigns on record in docs/proof.md
// began with. ./build.sh sim runs more.
func TestHistories(t *testing.T) {
	histories := uint64(120)
	if testing.Short() {
		histories = 25
	}
	for _, class := range []Class{None, Single, Many, Lies} {
		t.Run(class.String(), func(t *testing.T) {
			t.Parallel()
			var sum Counts
			for seed := range histories {
				s, plan := Draw(seed, class, 0)
				w, v := Play(s, plan, nil)
				if v != nil {
					t.Fatalf("seed %d: %v\n%s", seed, v, story(s, plan, v))
				}
				sum.Add(w.Count)
			}
			if sum.Switchovers < int(histories) {
				t.Errorf("only %d switchovers in %d histories", sum.Switchovers, histories)
			}
			if class >= Many && (sum.Withdrawn == 0 || sum.Voids == 0 && !testing.Short()) {
				t.Errorf("nothing went wrong: %+v", sum)
			}
		})
	}
}

// story is what to read when a history goes wrong.
func story(s Settings, plan []*Act, v *Violation) string {
	short, _ := Shrink(s, plan, v)
	var b strings.Builder
	Play(s, short, func(at time.Duration, line string) { b.WriteString(at.String() + "  " + line + "\n") })
	return b.String() + "replay it: ./build.sh sim -seeds 1 -class " + s.Class.String() + " -from N"
}

// A seed tells a history: it is the same each time, to the last line.
func TestReplays(t *testing.T) {
	for seed := range uint64(8) {
		s, plan := Draw(seed, Many, 0)
		var stories [2]strings.Builder
		for i := range stories {
			Play(s, plan, func(at time.Duration, line string) { stories[i].WriteString(at.String() + " " + line + "\n") })
		}
		if stories[0].String() != stories[1].String() || stories[0].Len() == 0 {
			t.Errorf("seed %d has two stories", seed)
		}
	}
}

// Where nothing goes wrong, nearly every switchover is made at the first proposal: leads are made of what members say and of what was
// measured, however often nodes look for news, however long publications take, and with a member that is dead or gives no answer. A host that
// has published nothing yet does not know how slow its signers are: its first proposal comes too late.
func TestProposalsAreCommitted(t *testing.T) {
	histories := uint64(6)
	if testing.Short() {
		histories = 2
	}
	const each = 45 * time.Second
	for _, c := range []struct {
		name string
		set  func(s *Settings)
		gone string // what is wrong with one member from the beginning to the end
		more int    // proposals withdrawn or given up in a hundred switchovers, at the most
	}{
		{"news at once", func(s *Settings) { s.Poll = 250 * time.Millisecond }, "", 3},
		{"looks each second", func(s *Settings) { s.Poll = time.Second }, "", 3},
		{"looks each five seconds", func(s *Settings) { s.Poll = 5 * time.Second }, "", 3},
		{"a bucket", func(s *Settings) {
			s.Poll, s.Notice, s.Signing = 250*time.Millisecond, 500*time.Millisecond, 600*time.Millisecond
		}, "", 5},
		{"slow signers", func(s *Settings) { s.Poll, s.Signing = 250*time.Millisecond, 4*time.Second }, "", 5},
		{"a dead member", func(s *Settings) { s.Poll = 250 * time.Millisecond }, "machine dies", 3},
		{"a member that hangs", func(s *Settings) { s.Poll = 250 * time.Millisecond }, "node is cut off", 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var sum Counts
			for seed := range histories {
				s := Settings{Seed: seed, Class: None, Nodes: 3 + int(seed%4), Hosts: 1 + int(seed%2), Epsilon: 100 * time.Millisecond, Storm: 16 * each}
				s.Policy = mesh.Policy{Lease: time.Hour, Renew: 20 * time.Minute, Absent: mesh.Absent{After: 10 * time.Second}}
				c.set(&s)
				var plan []*Act
				if i := slices.IndexFunc(faults, func(k kind) bool { return k.name == c.gone }); i >= 0 {
					s.Class = Single
					plan = append(plan, &Act{Kind: faults[i], At: time.Millisecond, Lasts: 2 * s.Storm, Node: 1})
				}
				for i := range 15 {
					plan = append(plan, &Act{Kind: operators[0], At: time.Duration(i+1) * each, Host: i})
				}
				w, v := Play(s, plan, nil)
				if v != nil {
					t.Fatalf("seed %d: %v\n%s", seed, v, story(s, plan, v))
				}
				sum.Add(w.Count)
			}
			if sum.Switchovers != 15*int(histories) || 100*(sum.Withdrawn+sum.Late) > c.more*sum.Switchovers {
				t.Errorf("%+v", sum)
			}
			t.Logf("%+v", sum)
		})
	}
}

// A large mesh makes switchovers one after the other, with some fault or other all the time.
func TestScale(t *testing.T) {
	nodes := 200
	if testing.Short() {
		nodes = 50
	}
	s, plan := Scale(1, nodes, 5)
	w, v := Play(s, plan, nil)
	if v != nil {
		t.Fatal(v)
	}
	if w.Count.Switchovers < 4 {
		t.Errorf("only %d switchovers", w.Count.Switchovers)
	}
}

// The observer sees what it is there to see: each rule, by a world that breaks it. A node is made to break it behind its
// decider's back, so that no defect of a decider is needed.
func TestObserver(t *testing.T) {
	for _, c := range []struct {
		rule string
		do   func(w *World, n *node)
	}{
		{"I1", func(_ *World, n *node) {
			n.plugin.compiled[n.answers-1] = true
			n.answersFrom(n.answers - 1)
		}},
		{"I3", func(_ *World, n *node) { clear(n.plugin.compiled) }},
		{"I5", func(_ *World, n *node) { n.plugin.active = nil }},
		{"floor", func(w *World, n *node) {
			n.plugin.compiled[9] = true
			n.answersFrom(9)
		}},
		{"I2", func(w *World, n *node) {
			n.disk.durable.Floor, n.plugin.compiled[9] = 9, true
			n.answersFrom(9)
		}},
		{"lease", func(w *World, n *node) {
			old := *n.disk.view
			old.Expires = epoch
			n.disk.view = &old
		}},
		{"I6", func(w *World, n *node) {
			w.watch.released++
		}},
	} {
		t.Run(c.rule, func(t *testing.T) {
			s := Settings{Seed: 1, Class: None, Nodes: 3, Hosts: 1, Epsilon: 100 * time.Millisecond, Poll: time.Second, Storm: 90 * time.Second}
			s.Policy.Lease, s.Policy.Renew, s.Policy.Absent.After = 10*time.Minute, 3*time.Minute, time.Minute
			plan := []*Act{{Kind: operators[0], At: time.Second}}
			if _, v := Play(s, plan, nil); v != nil {
				t.Fatalf("before it is broken: %v", v)
			}
			w := New(s, fresh(plan))
			w.at(70*time.Second, func() { c.do(w, w.nodes[1]) })
			if v := w.Run(); v == nil || v.Rule != c.rule {
				t.Errorf("the observer says %v", v)
			}
		})
	}
}

// answersFrom has a node answer from a release, whatever was decided.
func (n *node) answersFrom(number uint64) {
	n.plugin.active = &mesh.Answering{Number: number, Began: n.now(), Until: 1 << 62}
}

// A shrunk history is wrong in the same way, and is shorter.
func TestShrink(t *testing.T) {
	s, plan := Draw(3, Many, 5)
	broken := kind{"a node goes back", None, func(w *World, a *Act) {
		n := w.nodes[0]
		n.killPlugin()
		n.startPlugin()
		n.answers = 1 << 40
	}, nil}
	plan = append(plan, &Act{Kind: broken, At: 30 * time.Second})
	_, v := Play(s, plan, nil)
	if v == nil {
		t.Fatal("nothing is wrong")
	}
	short, got := Shrink(s, plan, v)
	if got.Rule != v.Rule || len(short) >= len(plan) || len(short) > 3 {
		t.Errorf("%d acts became %d, %v became %v", len(plan), len(short), v, got)
	}
}
