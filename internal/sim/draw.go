package sim

import (
	"math/rand/v2"
	"slices"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/mesh"
)

// Draw draws the settings of a history from its seed, and what goes wrong in it. nodes 0 draws that too.
func Draw(seed uint64, class Class, nodes int) (Settings, []*Act) {
	r := rand.New(rand.NewPCG(seed, 1))
	s := Settings{Seed: seed, Class: class, Nodes: nodes, Hosts: 1 + r.IntN(3), Spare: r.IntN(2)}
	if nodes == 0 {
		s.Nodes = 1 + r.IntN(7)
	}
	s.Epsilon = choose(r, 10*time.Millisecond, 100*time.Millisecond, 250*time.Millisecond)
	s.Poll = choose(r, 250*time.Millisecond, time.Second, 2*time.Second, 5*time.Second)
	if r.IntN(6) == 0 {
		s.Signing = choose(r, time.Second, 4*time.Second)
	}
	if r.IntN(4) == 0 {
		s.Notice = 500 * time.Millisecond
	}
	s.Policy = mesh.Policy{Lease: choose(r, 2*time.Minute, 10*time.Minute, time.Hour)}
	s.Policy.Renew = s.Policy.Lease / 3
	s.Policy.Absent.After = choose(r, 30*time.Second, time.Minute, 10*time.Minute)
	s.Policy.Absent.Lapse = r.IntN(4) == 0
	s.Storm = time.Duration(60+r.IntN(180)) * time.Second
	if class >= Many && r.IntN(3) == 0 { // leases end while members are cut off, and members are soon gone on without
		s.Policy.Lease = choose(r, 45*time.Second, time.Minute)
		s.Policy.Renew = s.Policy.Lease / 4
		s.Policy.Absent.After = choose(r, 10*time.Second, 20*time.Second)
	}
	if r.IntN(4) == 0 {
		s.Policy.Lead = choose(r, 45*time.Second, time.Minute)
	}
	if class >= Many && r.IntN(4) == 0 {
		s.Isolated = choose(r, 20*time.Second, time.Minute)
	}
	s.Slow = r.IntN(4) == 0
	s.Dead = class == Many && s.Nodes > 2 && r.IntN(8) == 0
	if s.Dead {
		s.Policy.Absent.After = 30 * time.Second
		s.Policy.Lease = 2 * time.Minute
		s.Policy.Renew = s.Policy.Lease / 3
	}
	return s, drawPlan(r, s)
}

// Scale is a large mesh that makes many switchovers one after the other, with faults of many kinds all the time.
func Scale(seed uint64, nodes, switchovers int) (Settings, []*Act) {
	r := rand.New(rand.NewPCG(seed, 1))
	s := Settings{Seed: seed, Class: Many, Nodes: nodes, Hosts: 2, Epsilon: 100 * time.Millisecond, Poll: time.Second}
	s.Policy = mesh.Policy{Lease: 10 * time.Minute, Renew: 3 * time.Minute, Absent: mesh.Absent{After: 30 * time.Second}}
	const each = 26 * time.Second
	s.Storm = time.Duration(switchovers+switchovers/20) * each
	var plan []*Act
	for i := range switchovers + switchovers/20 { // a release may take the place of one that was not switched to yet
		at := time.Duration(i)*each + time.Second
		plan = append(plan, &Act{Kind: operators[0], At: at, Host: i})
		k := choose(r, faults...)
		for k.class > Single {
			k = choose(r, faults...)
		}
		plan = append(plan, &Act{Kind: k, At: at + time.Duration(r.Int64N(int64(each))), Lasts: time.Duration(r.Int64N(int64(5 * time.Second))),
			Node: r.IntN(nodes), Host: r.IntN(2), Sides: r.Uint64(), Much: time.Duration(r.Int64N(int64(time.Second)))})
	}
	return s, plan
}

func choose[T any](r *rand.Rand, all ...T) T { return all[r.IntN(len(all))] }

func drawPlan(r *rand.Rand, s Settings) (plan []*Act) {
	act := func(k kind) *Act {
		a := &Act{Kind: k, Node: r.IntN(s.Nodes + s.Spare), Host: r.IntN(s.Hosts), Sides: r.Uint64()}
		a.At = time.Duration(r.Int64N(int64(s.Storm)))
		a.Lasts = time.Duration(r.Int64N(int64(choose(r, 3*time.Second, 15*time.Second, 40*time.Second, 40*time.Second))))
		if s.Class >= Many && r.IntN(8) == 0 {
			a.Lasts *= 4
		}
		a.Much = time.Duration(r.Int64N(int64(choose(r, s.Epsilon, 4*s.Epsilon, 10*time.Second, time.Hour))))
		if r.IntN(2) == 0 {
			a.Much = -a.Much
		}
		return a
	}
	var releases []time.Duration
	for i := range 1 + r.IntN(6) { // there is something to switch to
		a := act(operators[0])
		if i == 0 {
			a.At = time.Duration(r.Int64N(int64(10 * time.Second)))
		}
		releases = append(releases, a.At)
		plan = append(plan, a)
	}
	// What goes wrong mostly does so where it hurts, in the time after a release.
	near := func(a *Act) *Act {
		switch r.IntN(6) {
		case 0:
		case 1, 2, 3:
			a.At = choose(r, releases...)
			a.On = moment(1 + r.IntN(4))
			a.Delay = time.Duration(r.Int64N(int64(choose(r, 20*time.Millisecond, 300*time.Millisecond, 3*time.Second))))
		default:
			a.At = min(choose(r, releases...)+time.Duration(r.Int64N(int64(choose(r, 10*time.Second, 30*time.Second)))), s.Storm-time.Second)
		}
		return a
	}
	for range r.IntN(4) {
		if class := s.Class; class > Single || r.IntN(2) == 0 {
			plan = append(plan, near(act(choose(r, operators...))))
		}
	}
	if s.Class >= Many && r.IntN(8) == 0 {
		plan = append(plan, near(act(force)))
	}
	n := 0
	switch s.Class {
	case Single:
		n = 1
	case Many:
		n = 2 + r.IntN(20)
	case Lies:
		n = 2 + r.IntN(8)
	}
	for ; n > 0; n-- {
		k := choose(r, faults...)
		for k.class > s.Class {
			k = choose(r, faults...)
		}
		plan = append(plan, near(act(k)))
	}
	slices.SortStableFunc(plan, func(a, b *Act) int { return int(a.At - b.At) })
	return plan
}

// fresh are the same acts, none of which has begun.
func fresh(plan []*Act) []*Act {
	all := make([]*Act, len(plan))
	for i, a := range plan {
		c := *a
		c.began, c.ended, c.waits, c.after = false, false, false, nil
		all[i] = &c
	}
	return all
}

// Shrink finds a history that is wrong by the same rule, with as few acts as it can.
func Shrink(s Settings, plan []*Act, v *Violation) ([]*Act, *Violation) {
	again := func(p []*Act) *Violation {
		got := New(s, fresh(p)).Run()
		if got != nil && got.Rule == v.Rule {
			return got
		}
		return nil
	}
	for size := len(plan) / 2; size > 0; {
		shorter := false
		for i := 0; i+size <= len(plan); {
			rest := slices.Concat(plan[:i], plan[i+size:])
			if got := again(rest); got != nil {
				plan, v, shorter = rest, got, true
			} else {
				i += size
			}
		}
		if !shorter {
			size /= 2
		}
	}
	return plan, v
}

// Play runs a history and gives its story.
func Play(s Settings, plan []*Act, tell func(at time.Duration, line string)) (*World, *Violation) {
	w := New(s, fresh(plan))
	w.tell = tell
	v := w.Run()
	return w, v
}
