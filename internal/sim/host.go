package sim

import (
	"fmt"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/instant"
	"github.com/coredns-anycast/coredns-anycast/internal/mesh"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
)

// store is where the distribution hosts keep their state: one object that is replaced on condition that it has not changed.
type store struct {
	w     *World
	state mesh.State
	tag   int
	slow  time.Duration // how late a write may land; its writer may have given up by then, or be dead
	down  int
	kept  []*mesh.State // what was in force before
}

func (s *store) init(w *World, members []string) {
	s.w = w
	first := mesh.Release{Ref: status.Ref{Number: 1, At: epoch.Add(-time.Hour)}}
	s.state = mesh.State{Mesh: "m", Version: 1, Expires: epoch.Add(w.Policy.Lease), Epsilon: w.Epsilon, Members: members, Current: first}
	s.state.Highest, s.state.At = 1, epoch
	s.state.Leases = []mesh.Lease{{Expires: s.state.Expires}}
}

func (s *store) read(then func(state mesh.State, tag int, ok bool)) {
	s.w.after(s.w.quick(20*time.Millisecond), func() {
		if s.down > 0 {
			then(mesh.State{}, 0, false)
			return
		}
		then(s.state, s.tag, true)
	})
}

// replace puts the state in force if that with the tag still is. What became of it is told to then, if that can be.
func (s *store) replace(who string, tag int, next mesh.State, what string, then func(ok bool)) {
	late := s.w.quick(50 * time.Millisecond)
	if s.slow > 0 {
		late = s.w.upTo(s.slow)
	}
	s.w.after(late, func() {
		ok := s.down == 0 && s.tag == tag
		if ok {
			s.tag++
			s.w.say("%s: %s: version %d, current %d, next %s, lease to %s", who, what, next.Version, next.Current.Number, switchover(next.Next), next.Expires.Sub(epoch))
			s.w.watch.published(s.state, next)
			before := s.state.Next
			s.state = next
			s.w.follow(before, next.Next)
			if s.w.Class >= Many && len(s.w.nodes) <= crowd {
				s.kept = append(s.kept, &next)
			}
		}
		s.w.after(s.w.quick(50*time.Millisecond), func() { then(ok) })
	})
}

func switchover(s mesh.Switchover) string {
	switch {
	case s.Number == 0:
		return "none"
	case s.At == 0:
		return fmt.Sprint(s.Number)
	}
	state := "proposed"
	if s.Committed {
		state = "committed"
	}
	return fmt.Sprintf("%d@%v %s, decide %v, without %v", s.Number, s.At.Sub(epoch), state, s.Decide.Sub(epoch), s.Without)
}

// host is the machine of a distribution host: its process, which loops as doc.go of package mesh shows, the repository that it
// serves, and its clock, which nobody certifies.
type host struct {
	w      *World
	name   string
	end    int // in the network
	clock  clock
	mesh   *mesh.Host // nil: the process does not run
	life   int        // which process it is
	stops  int        // it does not get on
	late   []func()   // what it would have done meanwhile
	repo   *mesh.State
	stuck  int // the repository does not change
	server int // it does not serve the repository
	orders []*order
	trap   bool       // the process dies as it publishes next
	order  mesh.Order // a standing one, and for which release
	number uint64
	round  int
	takes  mesh.Lately // publications of lately
}

// order is what an operator wants from a host; it is tried again while the state changes under it.
type order struct {
	what  string
	give  func(h *mesh.Host, s mesh.State, now instant.Instant) (mesh.State, error)
	tries int
	again bool // it is tried again when it is refused
}

func newHost(w *World, i int) *host {
	h := &host{w: w, name: fmt.Sprint("host", i), end: w.Nodes + w.Spare + i}
	h.clock = clock{wall: epoch.Add(w.upTo(w.Epsilon) - w.Epsilon/2), mono: instant.Mono(time.Hour), ppm: int64(w.rng.IntN(41) - 20)}
	first := w.store.state
	h.repo = &first
	return h
}

func (h *host) start() {
	h.life++
	h.mesh, h.order, h.late, h.takes = mesh.NewHost(h.w.Policy), mesh.Order{}, nil, 0
	h.loop(h.w.upTo(time.Second))
}

func (h *host) kill() { h.life, h.mesh, h.late = h.life+1, nil, nil }

// then is a next step of the process that runs now: never, if it dies before; later, if it is stopped.
func (h *host) then(do func()) func() {
	life := h.life
	return func() {
		switch {
		case life != h.life:
		case h.stops > 0:
			h.late = append(h.late, do)
		default:
			do()
		}
	}
}

func (h *host) resume() {
	late := h.late
	h.late = nil
	for _, do := range late {
		h.w.after(0, h.then(do))
	}
}

func (h *host) now() instant.Instant { return h.clock.at(h.w.now) }

func (h *host) loop(pause time.Duration) { h.w.after(pause, h.then(h.look)) }

func (h *host) look() {
	h.read(func(s mesh.State, tag int) {
		h.mesh.Read(s)
		h.place(s)
		h.ask(s, tag)
	})
}

// read reads what is in force. If that cannot be read, all begins anew in a second.
func (h *host) read(then func(s mesh.State, tag int)) {
	var s mesh.State
	var tag int
	var ok bool
	step := h.then(func() {
		if !ok {
			h.loop(time.Second)
			return
		}
		then(s, tag)
	})
	h.w.store.read(func(state mesh.State, t int, read bool) {
		s, tag, ok = state, t, read
		step()
	})
}

// place puts what is in force in the place that this host serves, if it is not there.
func (h *host) place(s mesh.State) {
	if h.repo.Version == s.Version || h.stuck > 0 {
		return
	}
	h.w.after(h.w.quick(100*time.Millisecond)+h.w.upTo(h.w.Notice), h.then(func() {
		if h.stuck == 0 && (h.repo.Version < s.Version || h.w.Class == Lies) {
			h.repo = &s
		}
	}))
}

// crowd is how many members are asked one by one. In a larger mesh all their words come at once, which takes a hundredth of the events.
const crowd = 64

// askLimit is how long a host waits for members' words while no switchover is under way.
const askLimit = 2 * time.Second

func (h *host) ask(s mesh.State, tag int) {
	h.round++
	h.w.Count.Rounds++
	names, round, began := h.mesh.Ask(), h.round, h.now()
	answers := make(map[string]mesh.Answer, len(names))
	finish := func() {
		if round != h.round {
			return
		}
		h.round++
		for _, name := range names {
			if _, ok := answers[name]; !ok {
				answers[name] = mesh.Answer{Why: "it gave no answer"}
			}
		}
		h.mesh.Asked(answers, began, h.now())
		h.decide(s, tag)
	}
	if len(names) == 0 {
		finish()
		return
	}
	if len(names) > crowd {
		h.w.after(ordinary, h.then(func() {
			for _, name := range names {
				if n := h.w.byName(name); h.w.net.open(h.end, n.end) && h.w.net.open(n.end, h.end) {
					answers[name] = mesh.Answer{Word: n.word(), Why: "its plugin does not run"}
				}
			}
			finish()
		}))
		return
	}
	for _, name := range names {
		n := h.w.byName(name)
		var word *mesh.Word
		heard := h.then(func() {
			if round != h.round {
				return
			}
			answers[name] = mesh.Answer{Word: word, Why: "its plugin does not run"}
			if len(answers) == len(names) {
				finish()
			}
		})
		h.w.net.send(h.end, n.end, func() {
			said := n.word()
			h.w.net.send(n.end, h.end, func() {
				word = said
				heard()
			})
		})
	}
	limit := askLimit
	if s.Next.At != 0 {
		limit = min(limit, h.mesh.Patience())
	}
	h.w.after(limit, h.then(finish))
}

func (h *host) decide(s mesh.State, tag int) {
	if len(h.orders) > 0 {
		h.obey(s, tag)
		return
	}
	if h.order != (mesh.Order{}) && h.number != s.Next.Number {
		h.order = mesh.Order{}
	}
	h.mesh.Ordered(h.order)
	h.mesh.Publishing(time.Duration(h.takes), h.w.Notice)
	d := h.mesh.Decide(h.now())
	if d.Publish == nil {
		h.loop(h.sure(d, h.pause(s)))
		return
	}
	h.again(s, tag, func(tag int, renewed bool) {
		if renewed {
			d = h.mesh.Decide(h.now())
		}
		if d.Publish == nil {
			h.loop(h.pause(s))
			return
		}
		content := d.Event != mesh.EventRenewed && d.Event != mesh.EventMarked
		h.publish(tag, *d.Publish, d.By, content, fmt.Sprint(d.Event, " ", d.Detail), func(bool) {})
	})
}

// again reads what is in force again, as "meshctl serve" does before it signs: words may have been waited for. If another has only renewed the lease
// since, that is taken in, and else all begins anew.
func (h *host) again(s mesh.State, tag int, then func(tag int, renewed bool)) {
	h.read(func(state mesh.State, t int) {
		renewed := t != tag
		if renewed && !state.OnlyRenewed(s) {
			h.loop(h.pause(state))
			return
		}
		if renewed {
			h.mesh.Read(state)
		}
		then(t, renewed)
	})
}

// signs is how long it takes to sign a lease, or something new.
func (h *host) signs(content bool) time.Duration {
	if h.w.Signing > 0 && content {
		return h.w.between(h.w.Signing*3/4, h.w.Signing)
	}
	return h.w.quick(100 * time.Millisecond)
}

func (h *host) pause(s mesh.State) time.Duration {
	if s.Next.Number != 0 && len(s.Members) <= crowd {
		return h.w.between(50*time.Millisecond, 250*time.Millisecond)
	}
	return h.w.between(500*time.Millisecond, 1500*time.Millisecond)
}

// sure is how long a host pauses that may pause so long: as "meshctl serve" does, up to a second where the next step waits for an instant alone.
func (h *host) sure(d mesh.HostDecision, pause time.Duration) time.Duration {
	if d.Wake == 0 || len(d.Against) > 0 {
		return pause
	}
	return min(max(d.Wake.Sub(h.now().Wall), 50*time.Millisecond), time.Second)
}

// giveUp is how long a host waits for the store.
const giveUp = 10 * time.Second

// publish signs and replaces what is in force, if that can be done by then; 0 never comes.
func (h *host) publish(tag int, next mesh.State, by instant.Wall, content bool, what string, then func(ok bool)) {
	h.round++
	round, done, began := h.round, false, h.now().Mono
	over := func(late bool) {
		h.round++
		if content {
			h.takes.Add(h.now().Mono.Sub(began))
		}
		if late {
			h.w.Count.Late++
			h.w.say("%s: it is too late for what it has %s", h.name, what)
			h.mesh.TooLate()
		}
		h.loop(h.pause(next))
	}
	step := h.then(func() {
		if round != h.round {
			return // it was given up
		}
		if done {
			h.place(next)
		}
		then(done)
		over(false)
	})
	h.w.after(h.signs(content), h.then(func() {
		left := by.Sub(h.now().Wall)
		if by != 0 && left <= 0 {
			over(true)
			return
		}
		h.w.store.replace(h.name, tag, next, what, func(ok bool) {
			done = ok
			step()
		})
		h.dies()
		if by == 0 {
			left = giveUp
		}
		h.w.after(min(left, giveUp), h.then(func() {
			switch {
			case round != h.round:
			case by != 0:
				over(true)
			default:
				h.round++
				h.loop(0)
			}
		}))
	}))
}

// dies has the process die as it publishes, if that is to go wrong.
func (h *host) dies() {
	if !h.trap {
		return
	}
	h.trap = false
	h.w.after(h.w.upTo(150*time.Millisecond), h.then(func() {
		h.w.say("%s dies as it publishes", h.name)
		h.kill()
		h.w.after(h.w.upTo(5*time.Second), func() {
			if h.mesh == nil && h.server == 0 {
				h.start()
			}
		})
	}))
}

// obey carries out what an operator wants, or lets it be if it is refused.
func (h *host) obey(s mesh.State, tag int) {
	o := h.orders[0]
	next, err := o.give(h.mesh, s, h.now())
	o.tries++
	if err != nil || o.tries > 20 {
		if err != nil && o.tries < 10 {
			if _, refused := err.(*mesh.RefusedError); refused && o.again {
				h.loop(h.pause(s))
				return
			}
		}
		h.w.say("%s: operator: %s is refused: %v", h.name, o.what, err)
		h.orders = h.orders[1:]
		h.loop(h.pause(s))
		return
	}
	h.publish(tag, next, 0, true, "operator: "+o.what, func(ok bool) {
		if ok && len(h.orders) > 0 && h.orders[0] == o {
			h.orders = h.orders[1:]
		}
	})
}
