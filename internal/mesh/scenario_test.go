package mesh

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"

	"github.com/coredns-anycast/coredns-anycast/internal/instant"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
)

// TestScenarios runs the stories in testdata/*.txt. Times in them are seconds after a day's start; commands:
//
//	view lease=V until=T current=N[@T] [next=N[@T]]   a verified view arrives
//	ready N | refuse N why | drop N                   staging
//	answered N                                        an answer was given from what the last decision allowed to follow
//	certify bound=D [drift=PPM]                       the clock is certified now
//	lose-clock                                        there is no sample to trust any more
//	drain WHY | undrain                               an operator wants no answers from here, or wants them again
//	at T                                              time passes to T, on both clocks
//	step D                                            the wall clock steps by D
//	write | write-fails                               what was asked to persist is on disk | is not
//	crash                                             the process ends, starts again, remembers only its disk
//
// Every command prints the decision after it. Writing is not automatic, so that every crash point can be told.
func TestScenarios(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		w := &world{t: t, node: NewNode(Durable{}), epsilon: 100 * time.Millisecond}
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			w.t = t
			if d.Cmd == "plan" {
				return w.plan(d)
			}
			w.step(d)
			for _, line := range strings.Split(strings.TrimSpace(d.Input), "\n") {
				if line != "" {
					w.command(line)
				}
			}
			return w.decide()
		})
	})
}

// world is one node with the clocks and the disk around it.
type world struct {
	t       *testing.T
	node    *Node
	now     instant.Instant
	disk    Durable
	pending *Durable
	epsilon time.Duration
}

const epoch = instant.Wall(1_000_000 * int64(time.Second))

func (w *world) step(d *datadriven.TestData) {
	words := []string{d.Cmd}
	for _, a := range d.CmdArgs {
		words = append(words, a.String())
	}
	w.command(strings.Join(words, " "))
}

func (w *world) command(line string) {
	words := strings.Fields(line)
	arg := func(i int) string {
		if i >= len(words) {
			w.t.Fatalf("%q: too few words", line)
		}
		return words[i]
	}
	switch words[0] {
	case "view":
		w.node.Learn(w.view(words[1:]))
	case "ready":
		w.node.Ready(w.number(arg(1)))
	case "drop":
		w.node.Drop(w.number(arg(1)))
	case "refuse":
		w.node.Refuse(w.number(arg(1)), status.Reason{Code: "digest", Detail: strings.Join(words[2:], " ")})
	case "answered":
		w.node.Answered(w.number(arg(1)))
	case "certify":
		w.certify(words[1:])
	case "lose-clock":
		w.node.Certify(instant.Sample{})
	case "drain":
		w.node.Drain(strings.Join(words[1:], " "))
	case "undrain":
		w.node.Drain("")
	case "at":
		w.moveTo(w.wall(arg(1)))
	case "step":
		w.now.Wall = w.now.Wall.Add(w.duration(arg(1)))
	case "write":
		w.write()
	case "write-fails":
		w.pending = nil
	case "crash":
		w.pending = nil
		w.node = NewNode(w.disk)
	default:
		w.t.Fatalf("unknown command %q", line)
	}
}

func (w *world) moveTo(wall instant.Wall) {
	passed := wall.Sub(w.now.Wall)
	if w.now.Wall == 0 {
		passed = time.Hour // since boot
	}
	w.now = instant.Instant{Wall: wall, Mono: w.now.Mono.Add(passed)}
}

func (w *world) write() {
	if w.pending == nil {
		w.t.Fatal("write: nothing was asked to be written")
	}
	w.disk = *w.pending
	w.node.Persisted(*w.pending)
	w.pending = nil
}

func (w *world) certify(words []string) {
	s := instant.Sample{At: w.now, Source: "chrony"}
	for _, word := range words {
		switch key, value, _ := strings.Cut(word, "="); key {
		case "bound":
			s.Bound = w.duration(value)
		case "drift":
			s.DriftPPM = int64(w.number(value))
		}
	}
	w.node.Certify(s)
}

func (w *world) view(words []string) View {
	v := View{Epsilon: w.epsilon}
	for _, word := range words {
		switch key, value, _ := strings.Cut(word, "="); key {
		case "lease":
			v.Lease = int64(w.number(value))
		case "until":
			v.Expires = w.wall(value)
		case "current":
			v.Current = w.ref(value)
		case "next":
			v.Next = w.ref(value)
		}
	}
	return v
}

func (w *world) decide() string {
	d := w.node.Decide(w.now)
	w.pending = d.Persist
	var b strings.Builder
	if d.Serve != 0 {
		fmt.Fprintf(&b, "answers from %d until %s%s\n", d.Serve, seconds(d.Until), then(d.Then))
	}
	for _, why := range d.Silent {
		fmt.Fprintf(&b, "silent: %s: %s\n", why.Code, shorten(why.Detail))
	}
	if d.Persist != nil {
		fmt.Fprintf(&b, "write: floor %d%s\n", d.Persist.Floor, ref(", switchover", d.Persist.Scheduled))
	}
	if len(d.Stage) > 0 {
		fmt.Fprintf(&b, "stage: %v\n", d.Stage)
	}
	if d.Confirms.Staged != 0 {
		fmt.Fprintf(&b, "confirms: staged %d%s\n", d.Confirms.Staged, ref(", switchover", d.Confirms.Scheduled))
	}
	if d.Wake != 0 {
		fmt.Fprintf(&b, "wake: %s\n", seconds(d.Wake))
	}
	return b.String()
}

func (w *world) plan(d *datadriven.TestData) string {
	p := Plan{Mode: Confirmed, Mesh: "m", Epsilon: w.epsilon, Said: map[string]status.Confirmation{}}
	var now, review instant.Wall
	cancel := false
	for _, a := range d.CmdArgs {
		value := strings.Join(a.Vals, ",")
		switch a.Key {
		case "mode":
			p.Mode = Mode(value)
		case "number":
			p.Number = w.number(value)
		case "promise":
			p.Promise = w.wall(value)
		case "asked":
			p.Asked = w.wall(value)
		case "set":
			p.Set = w.wall(value)
		case "promise-set":
			p.PromiseSet = w.wall(value)
		case "epsilon":
			p.Epsilon = w.duration(value)
		case "now":
			now = w.wall(value)
		case "cancel":
			cancel = true
		case "review":
			review = w.wall(value)
		}
	}
	for _, line := range strings.Split(strings.TrimSpace(d.Input), "\n") {
		w.member(&p, strings.Fields(line))
	}
	var b strings.Builder
	var missing []Missing
	if cancel {
		fmt.Fprintf(&b, "may be taken back: %v\n", p.Cancel(now))
		missing = p.Holding()
	} else if review != 0 {
		var stands bool
		var at instant.Wall
		stands, at, missing = p.Review(review, now)
		fmt.Fprintf(&b, "stands: %v, switchover at %s\n", stands, seconds(at))
	} else {
		var at instant.Wall
		at, missing = p.Choose(now)
		fmt.Fprintf(&b, "switchover at %s, to be confirmed by %s\n", seconds(at), seconds(p.Deadline(at)))
	}
	for _, m := range missing {
		fmt.Fprintf(&b, "against: %s: %s: %s\n", m.Member, m.Why.Code, shorten(m.Why.Detail))
	}
	return b.String()
}

// member reads "tyo staged=2 bound=1ms [scheduled=2@30]" or "tyo unreachable".
func (w *world) member(p *Plan, words []string) {
	p.Members = append(p.Members, words[0])
	if len(words) > 1 && words[1] == "unreachable" {
		return
	}
	c := status.Confirmation{Node: words[0], Mesh: "m", Clock: status.ClockState{Reason: "no certified clock sample yet"}}
	for _, word := range words[1:] {
		switch key, value, _ := strings.Cut(word, "="); key {
		case "staged":
			c.Confirms.Staged = w.number(value)
		case "scheduled":
			r := w.ref(value)
			c.Confirms.Scheduled = &r
		case "bound":
			c.Clock = status.ClockState{Known: true, Bound: w.duration(value)}
		case "refused":
			c.Refused = []status.Refused{{Number: w.number(value), Reason: status.Reason{Code: "digest", Detail: "blob"}}}
		case "mesh":
			c.Mesh = value
		case "holds":
			r := w.ref(value)
			c.Holds = &r
		case "leap":
			c.Leap = true
		case "apart":
			if p.Apart == nil {
				p.Apart = map[string]time.Duration{}
			}
			p.Apart[words[0]] = w.duration(value)
		}
	}
	p.Said[words[0]] = c
}

func (w *world) ref(s string) status.Ref {
	number, at, scheduled := strings.Cut(s, "@")
	r := status.Ref{Number: w.number(number)}
	if scheduled {
		r.At = w.wall(at)
	}
	return r
}

func (w *world) number(s string) uint64 {
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		w.t.Fatal(err)
	}
	return n
}

func (w *world) wall(s string) instant.Wall {
	f, err := strconv.ParseFloat(s, 64)
	if err != nil {
		w.t.Fatal(err)
	}
	return epoch.Add(time.Duration(f * float64(time.Second)))
}

func (w *world) duration(s string) time.Duration {
	d, err := time.ParseDuration(s)
	if err != nil {
		w.t.Fatal(err)
	}
	return d
}

func ref(label string, r *status.Ref) string {
	if r == nil {
		return ""
	}
	return fmt.Sprintf("%s %d@%s", label, r.Number, seconds(r.At))
}

func then(r status.Ref) string {
	if r.Number == 0 {
		return ""
	}
	return fmt.Sprintf(", then from %d", r.Number)
}

func seconds(w instant.Wall) string {
	return strconv.FormatFloat(w.Sub(epoch).Seconds(), 'f', -1, 64)
}

// shorten replaces absolute times by seconds, so that the stories stay readable.
func shorten(s string) string {
	words := strings.Fields(s)
	for i, word := range words {
		bare := strings.TrimRight(word, ",;:")
		if t, err := time.Parse(time.RFC3339Nano, bare); err == nil {
			words[i] = seconds(instant.WallOf(t)) + word[len(bare):]
		}
	}
	return strings.Join(words, " ")
}
