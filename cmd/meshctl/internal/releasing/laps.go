package releasing

import (
	"slices"
	"time"

	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/history"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/home"
)

// laps are the steps of a release so far: each is the time spent on it for all zones together.
type laps struct {
	clock home.Clock
	last  time.Time      // the end of the last step
	steps []history.Step // in the order in which they came first
}

// lap ends a step.
func (l *laps) lap(name string) {
	now := l.clock()
	i := slices.IndexFunc(l.steps, func(s history.Step) bool { return s.Name == name })
	if i < 0 {
		i = len(l.steps)
		l.steps = append(l.steps, history.Step{Name: name})
	}
	l.steps[i].Seconds += now.Sub(l.last).Seconds()
	l.last = now
}
