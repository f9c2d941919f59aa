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

// TestScenarios runs the stories of one node in testdata/node/*.txt. Times in them are seconds after a day's start; commands:
//
//	view lease=V [root=V] until=T current=N[@T] [next=N[@T[!]]] [decide=T] [others=A,B] [presumed=yes] [without=yes] [stranger=yes] [legacy=yes]
//	                                                  a verified view arrives; "!" is a commit
//	hear MEMBER STATE N@T                             another member says what it holds
//	hold D | reached                                  how long it may be cut off | somebody was reached
//	ready N | refuse N why | drop N                   staging
//	answered N                                        an answer was given from what the last decision allowed to follow
//	certify bound=D [drift=PPM]                       the clock is certified now
//	lose-clock                                        there is no sample to trust any more
//	drain WHY | undrain                               an operator wants no answers from here, or wants them again
//	at T                                              time passes to T, on both clocks
//	step D                                            the wall clock steps by D
//	write | write-fails                               what was asked to persist is on disk | is not
//	begin-write ... end-write                         it is so only after other things have come
//	crash                                             the process ends, starts again, remembers only its disk
//
// Every command prints the decision after it. Writing is not automatic, so that every crash point can be told.
func TestScenarios(t *testing.T) {
	datadriven.Walk(t, "testdata/node", func(t *testing.T, path string) {
		w := &world{t: t, node: NewNode(Durable{}), epsilon: 100 * time.Millisecond}
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			w.t = t
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
	writing *Durable // begun, and not yet on disk
	epsilon time.Duration
	refused *status.Reason // why the last view was
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
		w.refused = w.node.Learn(w.view(words[1:]))
	case "ready":
		w.node.Ready(w.number(arg(1)))
	case "drop":
		w.node.Drop(w.number(arg(1)))
	case "refuse":
		w.node.Refuse(w.number(arg(1)), status.Reason{Code: "digest", Detail: strings.Join(words[2:], " ")})
	case "hear":
		w.node.Hear(arg(1), status.Promise{Number: w.ref(arg(3)).Number, At: w.ref(arg(3)).At, State: status.PromiseState(arg(2))})
	case "hold":
		w.node.Hold(w.duration(arg(1)))
	case "reached":
		w.node.Reached(w.now.Mono)
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
	case "begin-write":
		w.writing, w.pending = w.pending, nil
	case "end-write":
		w.pending = w.writing
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
		case "root":
			v.Root = int64(w.number(value))
		case "lease":
			v.Lease = int64(w.number(value))
		case "until":
			v.Expires = w.wall(value)
		case "current":
			v.Current = w.ref(value)
		case "next":
			v.Next.Ref = w.ref(strings.TrimSuffix(value, "!"))
			v.Next.Committed = strings.HasSuffix(value, "!")
		case "decide":
			v.Next.Decide = w.wall(value)
		case "presumed":
			v.Next.Presumed = true
		case "without":
			v.Next.Without = true
		case "others":
			v.Others = strings.Split(value, ",")
		case "stranger":
			v.Stranger = true
		case "legacy":
			v.Legacy = true
		default:
			w.t.Fatalf("view: what is %q?", word)
		}
	}
	return v
}

func (w *world) decide() string {
	d := w.node.Decide(w.now)
	w.pending = d.Persist
	var b strings.Builder
	if w.refused != nil {
		fmt.Fprintf(&b, "refused: %s: %s\n", w.refused.Code, shorten(w.refused.Detail))
		w.refused = nil
	}
	if d.Serve != 0 {
		fmt.Fprintf(&b, "answers from %d until %s%s\n", d.Serve, seconds(d.Until), then(d.Then))
	}
	for _, why := range d.Silent {
		fmt.Fprintf(&b, "silent: %s: %s\n", why.Code, shorten(why.Detail))
	}
	if d.Persist != nil {
		fmt.Fprintf(&b, "write: floor %d%s\n", d.Persist.Floor, promise(d.Persist.Promise))
	}
	if d.Holds.Number != 0 {
		fmt.Fprintf(&b, "holds: %s\n", strings.TrimPrefix(promise(d.Holds), ", "))
	}
	if len(d.Keep) > 0 {
		fmt.Fprintf(&b, "keeps: %v\n", d.Keep)
	}
	if len(d.Stage) > 0 {
		fmt.Fprintf(&b, "stage: %v\n", d.Stage)
	}
	if d.Confirms.Staged != 0 {
		fmt.Fprintf(&b, "confirms: staged %d%s\n", d.Confirms.Staged, ref(", switchover", d.Confirms.Scheduled))
	}
	if d.Ask {
		b.WriteString("asks the other members\n")
	}
	if d.Wake != 0 {
		fmt.Fprintf(&b, "wake: %s\n", seconds(d.Wake))
	}
	return b.String()
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

func promise(p status.Promise) string {
	if p.Number == 0 {
		return ""
	}
	return fmt.Sprintf(", %s %d@%s", p.State, p.Number, seconds(p.At))
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
