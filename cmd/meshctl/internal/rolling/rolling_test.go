package rolling

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/release"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
)

// node is a member as a roll sees it.
type node struct {
	version   string
	drained   bool
	withdraws time.Time // when the routes of a drain are gone
	serving   uint64
	down      bool // its processes are away
	stuck     bool // no router is told of it any more
	refuses   bool // it takes no order
}

// lab is a mesh of such members, and what became of it.
type lab struct {
	nodes map[string]*node
	names []string
	said  []string
	worst int // the fewest that remained at any look
	hook  func(what, name string)
}

func newLab(names ...string) *lab {
	l := &lab{nodes: map[string]*node{}, names: names, worst: len(names), hook: func(string, string) {}}
	for _, name := range names {
		l.nodes[name] = &node{version: "v1", serving: 3}
	}
	return l
}

func (l *lab) members() (all []release.Member) {
	for _, name := range l.names {
		all = append(all, release.Member{Name: name})
	}
	return all
}

func (n *node) announced() bool {
	return !n.down && !n.stuck && n.serving > 0 && (!n.drained || time.Now().Before(n.withdraws))
}

func (l *lab) mesh() Mesh {
	of := func(m release.Member) *node { return l.nodes[m.Name] }
	return Mesh{
		Remaining: func(context.Context) (names []string, current uint64, err error) {
			for _, name := range l.names {
				if n := l.nodes[name]; n.announced() && !n.drained {
					names = append(names, name)
				}
			}
			l.worst = min(l.worst, len(names))
			return names, 3, nil
		},
		Look: func(_ context.Context, m release.Member) (status.Sidecar, error) {
			l.hook("look", m.Name)
			n := of(m)
			if n.down {
				return status.Sidecar{}, errors.New("connection refused")
			}
			s := status.Sidecar{Software: "anycast-sidecar " + n.version, Announced: n.announced(), Wanted: n.announced(),
				Why: []status.Reason{{Code: "not-told", Detail: "no router has been told"}}, Meshsync: &status.Node{Software: n.version, Serving: n.serving}}
			if n.serving == 0 {
				s.Meshsync.Silent = []status.Reason{{Code: "no-lease", Detail: "none is held"}}
			}
			if n.drained {
				s.Drain = &status.Drain{Who: "kim", Why: "upgrade"}
			}
			return s, nil
		},
		Drain: func(_ context.Context, m release.Member) (time.Duration, error) {
			if of(m).refuses {
				return 0, errors.New("refused")
			}
			of(m).drained, of(m).withdraws = true, time.Now().Add(30*time.Second)
			l.hook("drain", m.Name)
			return 30 * time.Second, nil
		},
		Undrain: func(ctx context.Context, m release.Member) error {
			of(m).drained = false
			l.hook("undrain", m.Name)
			return ctx.Err()
		},
		Change: func(_ context.Context, m release.Member) error {
			if of(m).announced() {
				return errors.New("its routes are still there")
			}
			of(m).version = "v2"
			l.hook("change", m.Name)
			return nil
		},
		Say: func(format string, args ...any) { l.said = append(l.said, fmt.Sprintf(format, args...)) },
	}
}

var upgrade = Order{Another: true, Remain: 2, Withdraw: time.Minute, Return: 10 * time.Minute, Every: time.Second}

// stops rolls and wants it to stop at a member, for a reason, with these members left.
func (l *lab) stops(t *testing.T, ctx context.Context, m Mesh, o Order, at, why string, drained bool, left ...string) {
	t.Helper()
	err := Roll(ctx, m, o, l.members())
	var s *StoppedError
	if !errors.As(err, &s) {
		t.Fatalf("it did not stop: %v", err)
	}
	if s.Member != at || !strings.Contains(err.Error(), why) || s.Drained != drained || l.nodes[at].drained != drained || !slices.Equal(s.Left, left) {
		t.Errorf("%v; at %s, drained %v and %v, left %v", err, s.Member, s.Drained, l.nodes[at].drained, s.Left)
	}
}

func TestOneAfterTheOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab("tyo", "osa", "fra")
		if err := Roll(t.Context(), l.mesh(), upgrade, l.members()); err != nil {
			t.Fatal(err)
		}
		for name, n := range l.nodes {
			if n.version != "v2" || n.drained || l.worst < 2 {
				t.Errorf("%s: %+v; at worst %d remained", name, n, l.worst)
			}
		}
	})
}

// TestTheLastOneIsDrainedByAWordOnly: by --remain 0, and then with a warning; where another remains there is none.
func TestTheLastOneIsDrainedByAWordOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const warning = "tyo: warning: no other member remains in service: nobody answers"
		drain := Order{Leave: true, Remain: 1, Withdraw: time.Minute, Every: time.Second}
		l := newLab("tyo")
		l.stops(t, t.Context(), l.mesh(), drain, "tyo", "no other member remains in service, and there must be 1 (--remain)", false, "tyo")
		drain.Remain = 0
		if err := Roll(t.Context(), l.mesh(), drain, l.members()); err != nil || strings.Count(strings.Join(l.said, "\n"), warning) != 1 {
			t.Errorf("%v, said %q", err, l.said)
		}
		l = newLab("tyo", "osa")
		if err := Roll(t.Context(), l.mesh(), drain, l.members()[:1]); err != nil || strings.Contains(strings.Join(l.said, "\n"), "warning") {
			t.Errorf("%v, said %q", err, l.said)
		}
	})
}

// TestByHand: nobody is told when the upgrade is done; both programs being another version, and answering, is the sign.
func TestByHand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab("tyo", "osa", "fra")
		l.hook = func(what, name string) {
			if n := l.nodes[name]; what == "look" && n.drained && !n.announced() && n.version == "v1" {
				n.version, n.down, n.serving = "v2", true, 0
				time.AfterFunc(40*time.Second, func() { n.down = false })
				time.AfterFunc(50*time.Second, func() { n.serving = 2 }) // not the release of the others yet
				time.AfterFunc(60*time.Second, func() {
					if !n.drained {
						t.Errorf("%s is in service before it is good", name)
					}
					n.serving = 3
				})
			}
		}
		m := l.mesh()
		m.Change = nil
		if err := Roll(t.Context(), m, upgrade, l.members()); err != nil || l.worst < 2 {
			t.Fatal(err, l.worst)
		}
	})
}

func TestStopsAtTheFirstThatDoesNotComeBack(t *testing.T) {
	for _, c := range []struct {
		name, why string
		drained   bool
		change    func(n *node)
	}{
		{"its processes do not start", "sidecar does not answer: connection refused", true, func(n *node) { n.down = true }},
		{"it is the version of before", `still "anycast-sidecar v1"`, true, func(n *node) { n.version = "v1" }},
		{"it is silent", "silent: no-lease", true, func(n *node) { n.serving = 0 }},
		{"it answers from an older release", "answers from release 2, others from 3", true, func(n *node) { n.serving = 2 }},
		{"no router is told", "not announced: not-told", false, func(n *node) { n.stuck = true }},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLab("tyo", "osa", "fra")
				l.hook = func(what, name string) {
					if what == "change" && name == "osa" {
						c.change(l.nodes[name])
					}
				}
				l.stops(t, t.Context(), l.mesh(), upgrade, "osa", c.why, c.drained, "osa", "fra")
				if l.nodes["fra"].version != "v1" || l.worst < 2 {
					t.Errorf("fra is %s; at worst %d remained", l.nodes["fra"].version, l.worst)
				}
			})
		})
	}
}

func TestAFailedCommandLeavesItDrained(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab("tyo", "osa", "fra")
		m := l.mesh()
		m.Change = func(context.Context, release.Member) error { return errors.New("exit status 1") }
		l.stops(t, t.Context(), m, upgrade, "tyo", "exit status 1", true, "tyo", "osa", "fra")
	})
}

func TestTooFewWouldRemain(t *testing.T) {
	t.Run("before", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			l := newLab("tyo", "osa", "fra")
			l.nodes["fra"].serving = 0
			l.hook = func(what, name string) {
				if what == "drain" {
					t.Errorf("%s was drained", name)
				}
			}
			l.stops(t, t.Context(), l.mesh(), upgrade, "tyo", "only osa would remain", false, "tyo", "osa", "fra")
		})
	})
	t.Run("while routes go", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			l := newLab("tyo", "osa", "fra")
			l.hook = func(what, name string) {
				switch what {
				case "drain":
					l.nodes["fra"].down = true
				case "change":
					t.Errorf("%s was changed", name)
				}
			}
			l.stops(t, t.Context(), l.mesh(), upgrade, "tyo", "brought back", false, "tyo", "osa", "fra")
		})
	})
	t.Run("none at all", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			l := newLab("tyo")
			one := upgrade
			one.Remain = 1
			l.stops(t, t.Context(), l.mesh(), one, "tyo", "no other member remains", false, "tyo")
			one.Remain = 0
			if err := Roll(t.Context(), l.mesh(), one, l.members()); err != nil {
				t.Error(err)
			}
		})
	})
}

func TestNothingIsDoneToAMemberThatIsNotAsItShouldBe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab("tyo", "osa", "fra")
		l.nodes["tyo"].down = true
		l.stops(t, t.Context(), l.mesh(), upgrade, "tyo", "cannot be asked", false, "tyo", "osa", "fra")
		l = newLab("tyo", "osa", "fra")
		l.nodes["tyo"].refuses = true
		l.stops(t, t.Context(), l.mesh(), upgrade, "tyo", "refused; it is brought back", false, "tyo", "osa", "fra")
		l = newLab("tyo", "osa", "fra")
		l.nodes["tyo"].drained = true // by somebody else, and it stays so
		if err := Roll(t.Context(), l.mesh(), upgrade, l.members()); err == nil || !strings.Contains(err.Error(), "drained already, by kim") || !l.nodes["tyo"].drained {
			t.Errorf("%v, drained %v", err, l.nodes["tyo"].drained)
		}
	})
}

// TestDrainedAlready: who only drains has nothing to do for a member that is drained, and goes on with the others.
func TestDrainedAlready(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab("tyo", "osa", "fra")
		l.nodes["tyo"].drained = true
		o := upgrade
		o.Leave, o.Remain = true, 1
		err := Roll(t.Context(), l.mesh(), o, l.members()[:2])
		if err != nil || !l.nodes["tyo"].drained || !l.nodes["osa"].drained || !strings.Contains(strings.Join(l.said, "\n"), "tyo: drained already, by kim") {
			t.Errorf("%v, %v", err, l.said)
		}
	})
}

// TestInterrupted: as long as the routes are there nothing has been done to the member, and it is brought back; after that nobody
// knows how far its upgrade is.
func TestInterrupted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab("tyo", "osa", "fra")
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		l.stops(t, ctx, l.mesh(), upgrade, "tyo", "interrupted; it is brought back", false, "tyo", "osa", "fra")
	})
	synctest.Test(t, func(t *testing.T) {
		l := newLab("tyo", "osa", "fra")
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
		defer cancel()
		m := l.mesh()
		m.Change = nil
		l.stops(t, ctx, m, upgrade, "tyo", "interrupted; it stays drained", true, "tyo", "osa", "fra")
	})
}

func TestADrainIsNoMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab("tyo", "osa", "fra")
		o := upgrade
		o.Leave, o.Remain = true, 1
		if err := Roll(t.Context(), l.mesh(), o, l.members()[:2]); err != nil || !l.nodes["tyo"].drained || !l.nodes["osa"].drained || l.nodes["tyo"].version != "v1" {
			t.Errorf("%v %+v %+v", err, l.nodes["tyo"], l.nodes["osa"])
		}
	})
}
