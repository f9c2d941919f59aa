package gate

import (
	"fmt"
	"math/rand"
	"testing"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/instant"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
)

// backend says whether the service is good at now, knowing whether it is announced: the worst of them flaps when it counts.
type backend func(now instant.Mono, announced bool) bool

// backends flap in every way there is: at random, with every period, and against the gate's own rules.
func backends(seed int64) map[string]backend {
	all := map[string]backend{
		"whenever it is announced": func(_ instant.Mono, announced bool) bool { return !announced },
	}
	for _, share := range []float64{0.02, 0.2, 0.5, 0.98} {
		random := rand.New(rand.NewSource(seed))
		all[fmt.Sprintf("at random, bad for %v of the time", share)] = func(instant.Mono, bool) bool { return random.Float64() >= share }
		spells := rand.New(rand.NewSource(seed))
		var until instant.Mono
		good := false
		all[fmt.Sprintf("in spells of up to %v h", 2*share)] = func(now instant.Mono, _ bool) bool {
			if now >= until {
				good, until = !good, now.Add(time.Duration(spells.Float64()*2*share*float64(time.Hour)))
			}
			return good
		}
	}
	for _, up := range []time.Duration{1, 3, 31, 34, 600, 1199, 3599, 3603, 3640} { // seconds
		for _, down := range []time.Duration{1, 4, 600} {
			period := (up + down) * time.Second
			all[fmt.Sprintf("%ds good, %ds bad", up, down)] = func(now instant.Mono, _ bool) bool { return time.Duration(now)%period < up*time.Second }
		}
	}
	return all
}

// TestFlapBudget: however the service flaps, no window of an hour has more route changes than the budget.
func TestFlapBudget(t *testing.T) {
	const hours = 3
	for _, most := range []int{0, 3} {
		for _, delay := range []time.Duration{0, 30 * time.Second} {
			for _, rounds := range []int{1, 3} {
				cfg := Config{Policy: Withdraw, Rise: rounds, Fall: rounds, ReadvertiseDelay: delay, Flaps: Flaps{Most: most, Window: time.Hour}}
				for name, b := range backends(3258) {
					lost, changes := routeChanges(cfg, b, hours*time.Hour)
					worst, all := inAnyWindow(lost, time.Hour), inAnyWindow(changes, time.Hour)
					if worst > most+1 || all > 2*(most+1) {
						t.Errorf("%+v, %s: %d withdrawals and %d changes within an hour, want at most %d and %d", cfg, name, worst, all, most+1, 2*(most+1))
					}
					if name == "whenever it is announced" && worst != most+1 {
						t.Errorf("%+v, %s: %d withdrawals: this is no worst case", cfg, name, worst)
					}
				}
			}
		}
	}
}

// routeChanges lets a gate decide once a second, and says when the route went and when it changed at all.
func routeChanges(cfg Config, good backend, for_ time.Duration) (lost, changes []instant.Mono) {
	g := New(cfg)
	announced := false
	for now := instant.Mono(0); now < instant.Mono(for_); now = now.Add(time.Second) {
		verdict := Bad
		if good(now, announced) {
			verdict = Good
		}
		g.Probed(now, verdict, nil)
		d := g.Decide(now)
		if d.Announce != announced {
			changes = append(changes, now)
			if announced {
				lost = append(lost, now)
			}
		}
		announced = d.Announce
	}
	return lost, changes
}

// inAnyWindow is how many of the times lie within one window at the most.
func inAnyWindow(times []instant.Mono, window time.Duration) (most int) {
	first := 0
	for i, at := range times {
		for at >= times[first].Add(window) {
			first++
		}
		most = max(most, i-first+1)
	}
	return most
}

// TestTheLastOnesStay: nodes go bad and good at any moment, ask each other with any delay and through any number of hosts,
// some of which they do not reach; never are fewer announced than must be (FAIL-4).
func TestTheLastOnesStay(t *testing.T) {
	left := 0
	for seed := range int64(100) {
		random := rand.New(rand.NewSource(seed))
		s := newSite(random, 2+random.Intn(5), random.Intn(3))
		for range 3000 {
			s.step()
			if n := s.announced(); n < s.min {
				t.Fatalf("seed %d, at %v: %d of %d nodes are announced, %d must be", seed, time.Duration(s.now), n, len(s.nodes), s.min)
			}
		}
		left += s.left
	}
	if left < 500 {
		t.Errorf("nodes left %d times: the simulation shows nothing", left)
	}
}

// site is a mesh of gates. Time goes by in steps of a tenth of a second, and things happen in any order within one.
type site struct {
	random *rand.Rand
	now    instant.Mono
	min    int
	nodes  []*simNode
	left   int
}

type simNode struct {
	gate   *Gate
	last   Decision
	good   bool
	asking *inquiry
}

// inquiry is a question to the others, each of which is read at a moment of its own.
type inquiry struct {
	asked   instant.Mono
	unread  []*simNode
	remain  int
	arrives bool
}

func newSite(random *rand.Rand, nodes, min int) *site {
	s := &site{random: random, min: min}
	for range nodes {
		n := &simNode{good: true, gate: New(Config{Policy: Withdraw, Rise: 1, Fall: 1 + random.Intn(2), MinAnnouncing: min,
			ReadvertiseDelay: time.Duration(random.Intn(3)) * time.Second})}
		n.gate.Probed(0, Good, nil)
		n.last = n.gate.Decide(0)
		s.nodes = append(s.nodes, n)
	}
	return s
}

func (s *site) announced() (n int) {
	for _, node := range s.nodes {
		if node.last.Announce {
			n++
		}
	}
	return n
}

func (s *site) step() {
	s.now = s.now.Add(100 * time.Millisecond)
	for range len(s.nodes) * 3 {
		n := s.nodes[s.random.Intn(len(s.nodes))]
		switch s.random.Intn(3) {
		case 0:
			s.probe(n)
		case 1:
			s.decide(n)
		case 2:
			s.ask(n)
		}
	}
}

func (s *site) probe(n *simNode) {
	if s.random.Intn(10) == 0 {
		n.good = !n.good
	}
	verdict, why := Good, []status.Reason(nil)
	if !n.good {
		verdict, why = Bad, []status.Reason{{Code: ProbeWrong, Detail: "SERVFAIL"}}
	}
	n.gate.Probed(s.now, verdict, why)
}

func (s *site) decide(n *simNode) {
	before := n.last.Announce
	n.last = n.gate.Decide(s.now)
	if before && !n.last.Announce {
		s.left++
	}
	if n.last.Ask && n.asking == nil {
		n.asking = &inquiry{asked: s.now, arrives: s.random.Intn(8) > 0}
		for _, other := range s.nodes {
			if other != n && s.random.Intn(20) > 0 {
				n.asking.unread = append(n.asking.unread, other)
			}
		}
	}
}

// ask goes on with an inquiry: it reads one of the others, or brings the answer.
func (s *site) ask(n *simNode) {
	q := n.asking
	switch {
	case q == nil:
	case len(q.unread) > 0:
		if q.unread[0].last.Remains {
			q.remain++
		}
		q.unread = q.unread[1:]
	case q.arrives:
		n.gate.Others(s.now, q.asked, q.remain, "")
		n.asking = nil
	default:
		n.gate.Others(s.now, q.asked, q.remain, "nobody answers")
		n.asking = nil
	}
}
