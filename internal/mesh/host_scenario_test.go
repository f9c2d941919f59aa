package mesh

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"

	"github.com/coredns-anycast/coredns-anycast/internal/instant"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
)

// TestHostScenarios runs the stories of a distribution host in testdata/host/*.txt. Times are as in TestScenarios; commands:
//
//	policy [lease=D] [renew=D] [lead=D] [absent=D] [lapse] [lease-only] [manual]   a host starts, and knows nothing
//	state version=V until=T current=N[@T][/S] [next=N[@T[!]][/S]] [decide=T] [without=A,B] members=A,B [limit=T]
//	      [away=A@T] [leaving=A@T]    what is in force; /S is the first end of its signatures
//	follow A B                        these answer, and do all that is published
//	says A KEY=VALUE ...              but for this (see hostWorld.says); "says A" alone ends that
//	deaf A                            it answers, and hears no more of what is published
//	away A [why] | back A             it gives no answer | it does
//	at T | host-step D                time passes | the host's clock steps
//	order [at=T] [force]              an operator's wish for the switchover
//	stage N [signed=T] [at-once] | cancel WHY | pause WHY | resume | add A | strike A | renew [D]
//	                                  an operator's orders; what they publish is published
//	round [D [D]] | round-unwritten   members are asked and the host decides, D later; what it publishes is in force | is lost;
//	                                  its clock steps by the second D while it asks
//	takes D                           how long a round of questions takes from now on
//	publishing D [D]                  how long publications take, and how much later than members reckon with it they are seen
//	too-late                          what was decided last could not be published in time; it is not in force
//	run T                             a round each half second until T; a line where something is new
//
// Orders, round and run say what came of them.
func TestHostScenarios(t *testing.T) {
	datadriven.Walk(t, "testdata/host", func(t *testing.T, path string) {
		w := &hostWorld{members: map[string]*said{}}
		w.start([]string{"lease=1h", "renew=10m"})
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			w.t, w.b = t, strings.Builder{}
			words := []string{d.Cmd}
			for _, a := range d.CmdArgs {
				words = append(words, a.String())
			}
			w.command(words)
			for _, line := range strings.Split(strings.TrimSpace(d.Input), "\n") {
				if line != "" {
					w.command(strings.Fields(line))
				}
			}
			return w.b.String()
		})
	})
}

// hostWorld is one host, the state that it shares with others, and members whose words the story makes up.
type hostWorld struct {
	world    // for its clock, which is the members', and its way to read words
	host     *Host
	policy   Policy
	state    State
	off      time.Duration // of the host's clock from the members'
	members  map[string]*said
	b        strings.Builder
	last     string       // what was said of the last round of a run
	decision HostDecision // the last one
	takes    time.Duration
}

// said is one member as the story has it.
type said struct {
	away  string // why it gives no answer; empty: it does
	heard *State // the last state that it heard of; nil: it hears of each
	keys  []string
}

func (w *hostWorld) command(words []string) {
	arg := func(i int) string {
		if i >= len(words) {
			w.t.Fatalf("%q: too few words", words)
		}
		return words[i]
	}
	now := w.clock()
	switch words[0] {
	case "policy":
		w.start(words[1:])
	case "state":
		w.setState(words[1:])
	case "follow":
		for _, name := range words[1:] {
			w.members[name] = &said{}
		}
	case "says":
		w.members[arg(1)].keys = words[2:]
	case "deaf":
		s := w.state
		w.members[arg(1)].heard = &s
	case "away":
		w.members[arg(1)].away = strings.Join(append(words[2:], "no route"), " ")
	case "back":
		w.members[arg(1)].away, w.members[arg(1)].heard = "", nil
	case "at":
		w.moveTo(w.wall(arg(1)))
	case "host-step":
		w.off += w.duration(arg(1))
	case "order":
		w.order(words[1:])
	case "pause":
		w.put(w.host.Pause(now, strings.Join(words[1:], " ")), nil)
	case "resume":
		w.put(w.host.Resume(now), nil)
	case "cancel":
		w.put(w.host.Cancel(now, strings.Join(words[1:], " ")))
	case "add":
		w.put(w.host.Add(now, arg(1)))
	case "strike":
		w.put(w.host.Strike(now, arg(1)))
	case "stage":
		w.stage(w.number(arg(1)), words[2:])
	case "renew":
		d := time.Duration(0)
		if len(words) > 1 {
			d = w.duration(arg(1))
		}
		w.put(w.host.Renew(now, d))
	case "round", "round-unwritten":
		var late, step time.Duration
		if len(words) > 1 {
			late = w.duration(arg(1))
		}
		if len(words) > 2 {
			step = w.duration(arg(2))
		}
		published, report := w.round(words[0] == "round", late, step)
		w.b.WriteString(published + report)
		if wake := w.decision.Wake; wake != 0 {
			fmt.Fprintf(&w.b, "wake: %s\n", seconds(wake))
		}
	case "takes":
		w.takes = w.duration(arg(1))
	case "publishing":
		seen := time.Duration(0)
		if len(words) > 2 {
			seen = w.duration(words[2])
		}
		w.host.Publishing(w.duration(arg(1)), seen)
	case "too-late":
		w.host.TooLate()
	case "run":
		w.run(w.wall(arg(1)))
	default:
		w.t.Fatalf("unknown command %q", words[0])
	}
}

// clock is the host's.
func (w *hostWorld) clock() instant.Instant {
	return instant.Instant{Wall: w.now.Wall.Add(w.off), Mono: w.now.Mono}
}

func (w *hostWorld) start(words []string) {
	p := Policy{Lease: time.Hour, Renew: 10 * time.Minute, Absent: Absent{After: DefaultAbsent}}
	leaseOnly := false
	for _, word := range words {
		switch key, value, _ := strings.Cut(word, "="); key {
		case "lease":
			p.Lease = w.duration(value)
		case "renew":
			p.Renew = w.duration(value)
		case "lead":
			p.Lead = w.duration(value)
		case "absent":
			p.Absent.After = w.duration(value)
		case "lapse":
			p.Absent.Lapse = true
		case "lease-only":
			leaseOnly = true
		case "manual":
			p.Manual = true
		default:
			w.t.Fatalf("policy: what is %q?", word)
		}
	}
	w.policy, w.host, w.last = p, NewHost(p), ""
	w.host.LeaseOnly(leaseOnly)
	w.host.Read(w.state)
}

func (w *hostWorld) setState(words []string) {
	s := State{Mesh: "m", Epsilon: 100 * time.Millisecond}
	for _, word := range words {
		key, value, _ := strings.Cut(word, "=")
		plain, signed, _ := strings.Cut(value, "/")
		var ends instant.Wall
		if signed != "" {
			ends = w.wall(signed)
		}
		switch key {
		case "version":
			s.Version = int64(w.number(value))
		case "until":
			s.Expires = w.wall(value)
		case "limit":
			s.Limit = w.wall(value)
		case "current":
			s.Current = Release{w.ref(plain), ends}
		case "next":
			s.Next.Ref, s.Next.Signed = w.ref(strings.TrimSuffix(plain, "!")), ends
			s.Next.Committed = strings.HasSuffix(plain, "!")
		case "decide":
			s.Next.Decide = w.wall(value)
		case "without":
			s.Next.Without = strings.Split(value, ",")
		case "members":
			s.Members = strings.Split(value, ",")
		case "away":
			name, since, _ := strings.Cut(value, "@")
			s.Away = []Away{{Member: name, Since: w.wall(since)}}
		case "leaving":
			name, since, _ := strings.Cut(value, "@")
			s.Leaving = []Leaving{{Member: name, Lease: s.Version, Since: w.wall(since), Lapses: s.Expires}}
		default:
			w.t.Fatalf("state: what is %q?", word)
		}
	}
	s.Leases = []Lease{{Number: s.Next.Number, At: s.Next.At, Expires: s.Expires}}
	w.state = s.stamped(w.clock().Wall)
	w.host.Read(w.state)
}

func (w *hostWorld) order(words []string) {
	var o Order
	for _, word := range words {
		if at, ok := strings.CutPrefix(word, "at="); ok {
			o.At = w.wall(at)
		}
		o.Force = o.Force || word == "force"
	}
	w.host.Ordered(o)
}

func (w *hostWorld) stage(number uint64, words []string) {
	var signed instant.Wall
	for _, word := range words {
		if s, ok := strings.CutPrefix(word, "signed="); ok {
			signed = w.wall(s)
		}
	}
	w.put(w.host.Stage(w.clock(), number, signed, slices.Contains(words, "at-once")))
}

// put carries an order out.
func (w *hostWorld) put(s State, err error) {
	var refused *RefusedError
	switch {
	case errors.As(err, &refused):
		fmt.Fprintf(&w.b, "refused: %s\n", shorten(err.Error()))
		if refused.Hint != "" {
			fmt.Fprintf(&w.b, "  hint: %s\n", refused.Hint)
		}
		return
	case err != nil:
		w.t.Fatal(err)
	}
	w.replace(&s)
	fmt.Fprintf(&w.b, "published: %s\n", told(s))
}

// replace puts a state in force, which keeps what a state always keeps.
func (w *hostWorld) replace(s *State) {
	if s.Version != w.state.Version && s.Version != w.state.Version+1 || s.Highest < w.state.Highest || s.At < w.state.At {
		w.t.Fatalf("%+v does not follow %+v", s, w.state)
	}
	w.state = *s
	w.host.Read(w.state)
}

func (w *hostWorld) run(until instant.Wall) {
	for {
		published, report := w.round(true, 0, 0)
		if report == w.last {
			report = ""
		} else {
			w.last = report
			report = cmp.Or(report, "nothing to say any more\n")
		}
		if published+report != "" {
			fmt.Fprintf(&w.b, "at %s\n%s", seconds(w.now.Wall), indent(published+report))
		}
		if w.now.Wall >= until {
			return
		}
		w.moveTo(min(until, w.now.Wall.Add(500*time.Millisecond)))
	}
}

func indent(s string) string {
	return "  " + strings.ReplaceAll(strings.TrimSuffix(s, "\n"), "\n", "\n  ") + "\n"
}

// round asks all and decides some time later: what is published, and what is said beside.
func (w *hostWorld) round(written bool, late, step time.Duration) (published, report string) {
	w.host.Read(w.state)
	answers := map[string]Answer{}
	for _, name := range w.host.Ask() {
		m := w.members[name]
		switch {
		case m == nil:
			w.t.Fatalf("nothing is told of member %s", name)
		case m.away != "":
			answers[name] = Answer{Why: m.away}
		default:
			said := w.word(name, m)
			answers[name] = Answer{Word: &said}
		}
	}
	began := w.clock()
	w.moveTo(w.now.Wall.Add(w.takes))
	w.off += step
	w.host.Asked(answers, began, w.clock())
	w.moveTo(w.now.Wall.Add(late))
	d := w.host.Decide(w.clock())
	w.decision = d
	var b strings.Builder
	for _, m := range d.Against {
		fmt.Fprintf(&b, "against: %s\n", shorten(m.String()))
	}
	for _, a := range d.Alarms {
		brief, _, _ := strings.Cut(a.Detail, ": ")
		fmt.Fprintf(&b, "alarm: %s: %s\n", a.Code, shorten(brief))
	}
	if d.Publish == nil {
		return "", b.String()
	}
	published = fmt.Sprintf("published: %s: %s", d.Event, told(*d.Publish))
	if d.By != 0 {
		published += ", by " + seconds(d.By)
	}
	for _, m := range d.Detail {
		published += "\n  though " + shorten(m.String())
	}
	if written {
		w.replace(d.Publish)
	}
	return published + "\n", b.String()
}

// told is a state in words.
func told(s State) string {
	var b strings.Builder
	fmt.Fprintf(&b, "lease %d until %s, current %d", s.Version, seconds(s.Expires), s.Current.Number)
	switch n := s.Next; {
	case n.Committed:
		fmt.Fprintf(&b, ", committed %d@%s", n.Number, seconds(n.At))
		if n.Presumed {
			b.WriteString(", presumed taken")
		}
	case n.At != 0:
		fmt.Fprintf(&b, ", proposed %d@%s, decide %s", n.Number, seconds(n.At), seconds(n.Decide))
	case n.Number != 0:
		fmt.Fprintf(&b, ", staged %d", n.Number)
	}
	if len(s.Next.Without) > 0 {
		fmt.Fprintf(&b, ", without %s", strings.Join(s.Next.Without, " "))
	}
	for _, a := range s.Away {
		fmt.Fprintf(&b, ", %s away since %s", a.Member, seconds(a.Since))
		if a.Drained {
			b.WriteString(" (drained)")
		}
	}
	for _, l := range s.Leaving {
		fmt.Fprintf(&b, ", %s leaving since %s, lapses %s", l.Member, seconds(l.Since), seconds(l.Lapses))
	}
	if s.Paused != "" {
		fmt.Fprintf(&b, ", paused: %s", s.Paused)
	}
	return b.String()
}

// word is what a member says: that of one which does all that it has heard of, but for what the story has it say.
func (w *hostWorld) word(name string, m *said) Word {
	s := w.state
	if m.heard != nil {
		s = *m.heard
	}
	said := Word{Mesh: s.Mesh, At: w.now.Wall, Lease: s.Version, Serving: s.Current.Number, Floor: s.Current.Number, Format: Format, Hears: time.Second,
		Clock: status.ClockState{Known: true, Bound: time.Millisecond}, Confirms: status.Confirms{Staged: max(s.Current.Number, s.Next.Number)}}
	if !slices.Contains(s.Members, name) {
		said.Struck = true
	} else if n := s.Next; n.At != 0 {
		said.Promise = status.Promise{Number: n.Number, At: n.At, State: status.Proposed}
		if n.Committed && !slices.Contains(n.Without, name) {
			said.Promise.State = status.Committed
			if w.now.Wall >= n.At {
				said.Serving, said.Floor = n.Number, n.Number
			}
		}
		if w.now.Wall < n.At {
			said.Confirms.Scheduled = &n.Ref
		}
	}
	for _, key := range m.keys {
		w.says(&said, key)
	}
	return said
}

// says changes one thing that a member says.
func (w *hostWorld) says(said *Word, word string) {
	switch key, value, _ := strings.Cut(word, "="); key {
	case "staged":
		said.Confirms.Staged = w.number(value)
	case "unconfirmed":
		said.Confirms.Scheduled = nil
	case "declined", "void", "proposed", "presumed":
		said.Promise.State = status.PromiseState(key)
		said.Serving, said.Floor = w.state.Current.Number, w.state.Current.Number
	case "unknowing":
		said.Promise, said.Confirms.Scheduled = status.Promise{}, nil
		said.Serving, said.Floor = w.state.Current.Number, w.state.Current.Number
	case "serving":
		said.Serving = w.number(value)
	case "floor":
		said.Floor = w.number(value)
	case "lease":
		said.Lease = int64(w.number(value))
	case "hears":
		said.Hears = w.duration(value)
	case "bound":
		said.Clock.Bound = w.duration(value)
	case "clock-unknown":
		said.Clock = status.ClockState{Reason: "no source"}
	case "clock":
		said.At = said.At.Add(w.duration(value))
	case "leap":
		said.Leap = true
	case "drained":
		said.Drained = true
	case "struck":
		said.Struck = value != "no"
	case "refuses":
		said.Refused = []status.Refused{{Number: w.number(value), Reason: status.Reason{Code: "digest", Detail: "it is torn"}}}
	case "mesh":
		said.Mesh = value
	case "format":
		said.Format = int(w.number(value))
	case "fault":
		said.Fault = "certificate has expired"
	default:
		w.t.Fatalf("says: what is %q?", word)
	}
}
