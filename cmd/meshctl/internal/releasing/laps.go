package releasing

import (
	"slices"
	"sync"
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
	l.add(name, now.Sub(l.last).Seconds())
	l.last = now
}

func (l *laps) add(name string, seconds float64) {
	i := slices.IndexFunc(l.steps, func(s history.Step) bool { return s.Name == name })
	if i < 0 {
		i = len(l.steps)
		l.steps = append(l.steps, history.Step{Name: name})
	}
	l.steps[i].Seconds += seconds
}

// together does n pieces of work at the same time. Each counts its own steps, and the time that passes is divided among these.
func (l *laps) together(n int, work func(i int, took *laps)) {
	if n == 1 {
		work(0, l)
		return
	}
	each := make([]laps, n)
	var all sync.WaitGroup
	for i := range each {
		each[i] = laps{clock: l.clock, last: l.last}
		all.Go(func() { work(i, &each[i]) })
	}
	all.Wait()
	began, sum := l.last, 0.0
	l.last = l.clock()
	for _, one := range each {
		for _, s := range one.steps {
			sum += s.Seconds
		}
	}
	for _, one := range each {
		for _, s := range one.steps {
			l.add(s.Name, s.Seconds*l.last.Sub(began).Seconds()/max(sum, 1e-9))
		}
	}
}
