package refresh

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"

	"github.com/coredns-anycast/coredns-anycast/internal/instant"
)

// TestScenarios runs the stories in testdata/*.txt. Two commands:
//
//	secondary [transfers=N] [once] [force] [anew=ZONE,…]     starts one, on the disk that there is; one line for each source:
//	    zones PRIMARIES ZONE…                                PRIMARIES is SERVER,SERVER,…
//	    catalog ZONE PRIMARIES [members=PRIMARIES] [group=NAME:PRIMARIES] [limit=N] [below=ZONE,…]
//	    directory PATH [withdraw] [limit=N]
//	run                                                      one event a line, each with its time since the first start
//
// Events:
//
//	ends ZONE: ANSWER, …       the round of a zone that is under way ends. An answer is the serial in the SOA; or of the zone that was
//	                           transferred, where that is asked for; "same", "fails WHY", "not kept WHY"
//	timers ZONE REFRESH RETRY EXPIRE     what its SOA says from the next content on; 3600 900 1209600 before
//	lists CATALOG: MEMBER …    what it lists from the next content on. A member is ZONE=LABEL[,GROUP][>COO]
//	notify ZONE                a NOTIFY that counts
//	file PATH ZONE SERIAL      a file of a directory has a zone
//	scan PATH: ZONE …          the files of a directory have these zones, and no others
//	read PATH                  all that was in a directory at the start was read
//	fault PATH WHY | fault PATH   it cannot be read | it can again
//	step D                     the wall clock steps
//	order ID D: ZONE …         an operator orders that zones go which are gone, within D; or, without a zone, asks which are
//	forget ZONE                no release has it any more
//	wait                       time passes
//	status                     prints how each zone is
//
// Every event prints what is to be done after it; what becomes due before it is printed at its own time. A round under way goes on until it
// ends. Rounds are not spread.
func TestScenarios(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		w := &world{disk: map[string]Record{}, listed: map[string]map[string]Member{}, timers: map[string][3]uint32{}}
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			w.t = t
			w.out.Reset()
			switch d.Cmd {
			case "secondary":
				w.start(d)
			case "run":
				for _, l := range strings.Split(strings.TrimSpace(d.Input), "\n") {
					w.line(l)
				}
			default:
				t.Fatalf("unknown command %q", d.Cmd)
			}
			return w.out.String()
		})
	})
}

// world is a Secondary, with the clocks, the disk and the primaries around it.
type world struct {
	t      *testing.T
	out    strings.Builder
	said   strings.Builder // of the event that is under way
	s      *Secondary
	now    instant.Instant
	due    instant.Mono
	disk   map[string]Record
	listed map[string]map[string]Member
	timers map[string][3]uint32
	groups map[string]*Group
	rounds map[string]*Round
}

const epoch = instant.Wall(1_000_000 * int64(time.Second))

func (w *world) at() time.Duration { return time.Duration(w.now.Mono) }

func (w *world) start(d *datadriven.TestData) {
	if w.now.Wall == 0 {
		w.now = instant.Instant{Wall: epoch, Mono: 1}
	}
	w.groups, w.rounds = map[string]*Group{}, map[string]*Round{}
	c := Config{Transfers: 10, Once: d.HasArg("once"), Force: d.HasArg("force"),
		Timers: Timers{MinRefresh: 30 * time.Second, MaxRefresh: 24 * time.Hour, MinRetry: 10 * time.Second, MaxRetry: 6 * time.Hour}}
	d.MaybeScanArgs(w.t, "transfers", &c.Transfers)
	for _, a := range d.CmdArgs {
		if a.Key == "anew" {
			c.Anew = a.Vals
		}
	}
	for _, l := range strings.Split(strings.TrimSpace(d.Input), "\n") {
		w.source(&c, strings.Fields(l))
	}
	w.s = New(c, slices.SortedFunc(maps.Values(w.disk), func(a, b Record) int { return cmp.Compare(a.Origin, b.Origin) }))
	for _, rec := range w.s.Catalogs() {
		w.s.Listed(rec.Origin, w.listed[rec.Origin], nil)
	}
	w.s.Begin(w.now)
	w.decide("start")
}

func (w *world) group(names string) *Group {
	if w.groups[names] == nil {
		w.groups[names] = &Group{Servers: strings.Split(names, ",")}
	}
	return w.groups[names]
}

func (w *world) source(c *Config, words []string) {
	switch words[0] {
	case "zones":
		c.Zones = append(c.Zones, Zones{words[2:], w.group(words[1])})
	case "catalog":
		g := w.group(words[2])
		cat := Catalog{Name: words[1], Primaries: g, Members: g, Groups: map[string]*Group{}, Limit: 10}
		for _, word := range words[3:] {
			switch key, value, _ := strings.Cut(word, "="); key {
			case "members":
				cat.Members = w.group(value)
			case "group":
				name, of, _ := strings.Cut(value, ":")
				cat.Groups[name] = w.group(of)
			case "limit":
				cat.Limit = int(w.number(value))
			case "below":
				cat.Below = strings.Split(value, ",")
			default:
				w.t.Fatalf("unknown word %q", word)
			}
		}
		c.Catalogs = append(c.Catalogs, cat)
	case "directory":
		dir := Directory{Path: words[1], Limit: 10}
		for _, word := range words[2:] {
			switch key, value, _ := strings.Cut(word, "="); key {
			case "withdraw":
				dir.Withdraw = true
			case "limit":
				dir.Limit = int(w.number(value))
			default:
				w.t.Fatalf("unknown word %q", word)
			}
		}
		c.Directories = append(c.Directories, dir)
	default:
		w.t.Fatalf("unknown source %q", words[0])
	}
}

func (w *world) number(s string) uint32 {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil {
		w.t.Fatal(err)
	}
	return uint32(n)
}

func (w *world) duration(s string) time.Duration {
	d, err := time.ParseDuration(s)
	if err != nil {
		w.t.Fatal(err)
	}
	return d
}

// line is an event: what is due before it happens first.
func (w *world) line(l string) {
	when, event, _ := strings.Cut(l, " ")
	at := instant.Mono(w.duration(when)) + 1
	if at < w.now.Mono {
		w.t.Fatalf("%q is in the past", l)
	}
	for w.due <= at {
		w.pass(w.due)
		w.decide("")
	}
	w.pass(at)
	w.event(event)
	w.decide(event)
}

func (w *world) pass(to instant.Mono) {
	if d := to.Sub(w.now.Mono); d > 0 {
		w.now = instant.Instant{Wall: w.now.Wall.Add(d), Mono: to}
	}
}

func (w *world) event(event string) {
	head, rest, _ := strings.Cut(event, ":")
	words, list := strings.Fields(head), strings.Fields(rest)
	arg := func(i int) string {
		if i >= len(words) {
			w.t.Fatalf("%q: too few words", event)
		}
		return words[i]
	}
	switch words[0] {
	case "ends":
		w.ends(arg(1), strings.Split(rest, ","))
	case "timers":
		w.timers[arg(1)] = [3]uint32{w.number(arg(2)), w.number(arg(3)), w.number(arg(4))}
	case "lists":
		w.listed[arg(1)] = membersOf(list)
	case "notify":
		w.s.Notified(w.now, arg(1))
	case "file":
		w.file(arg(1), arg(2), w.number(arg(3)))
	case "scan":
		there := map[string]bool{}
		for _, zone := range list {
			there[zone] = true
		}
		if !w.s.Scanned(w.now, DirectoryOwner(arg(1)), there) {
			w.said.WriteString("  look again\n")
		}
	case "read":
		w.s.DirectoryRead(DirectoryOwner(arg(1)))
	case "fault":
		w.s.Fault(Fault{DirectoryOwner(arg(1)), arg(1)}, strings.Join(words[2:], " "))
	case "step":
		w.now.Wall = w.now.Wall.Add(w.duration(arg(1)))
	case "order":
		w.s.Ordered(Order{arg(1), list, w.now.Wall.Add(w.duration(arg(2)))})
	case "forget":
		delete(w.disk, arg(1))
	case "wait":
	case "status":
		w.status()
	default:
		w.t.Fatalf("unknown event %q", event)
	}
}

func membersOf(list []string) map[string]Member {
	members := map[string]Member{}
	for _, word := range list {
		name, rest, _ := strings.Cut(word, "=")
		rest, coo, _ := strings.Cut(rest, ">")
		labels := strings.Split(rest, ",")
		members[name] = Member{unique: labels[0], groups: labels[1:], coo: coo}
	}
	return members
}

// record is what is written of new content.
func (w *world) record(rec Record, from string, how How, serial uint32) Record {
	t, ok := w.timers[rec.Origin]
	if !ok {
		t = [3]uint32{3600, 900, 1209600}
	}
	rec.From, rec.How, rec.Serial, rec.Contact = from, how, serial, w.now.Wall.Time()
	rec.Refresh, rec.Retry, rec.Expire = t[0], t[1], t[2]
	w.disk[rec.Origin] = rec
	return rec
}

// ends carries out a round with what the servers answer.
func (w *world) ends(zone string, answers []string) {
	r := w.rounds[zone]
	if r == nil {
		w.t.Fatalf("no round of %s is under way", zone)
	}
	delete(w.rounds, zone)
	f := Found{Record: r.Record}
	server, ask := r.Next()
	for ; ask != Nothing; server, ask = r.Next() {
		if len(answers) == 0 {
			w.t.Fatalf("%s: %s is asked for %v, and the line has no answer", zone, r.Group.Servers[server], ask)
		}
		if kept, serial := w.answer(r, r.Group.Servers[server], ask, strings.TrimSpace(answers[0])); kept {
			f = Found{Good: true, New: true, Reset: r.Reset, Record: w.record(r.Record, r.Group.Servers[server], AXFR, serial), Noted: w.now.Wall.Time(), Members: w.listed[zone]}
		}
		answers = answers[1:]
	}
	if len(answers) > 0 {
		w.t.Fatalf("%s: nobody is asked for %q", zone, answers)
	}
	if !f.New && r.Good() {
		f = Found{Good: true, Record: r.Record, Noted: r.Noted}
		if f.Record.Contact = w.now.Wall.Time(); r.Stale(f.Record.Contact) {
			w.disk[zone], f.Noted = f.Record, f.Record.Contact
			w.said.WriteString("  that it was confirmed is written\n")
		}
	}
	f.Problems = strings.ReplaceAll(r.Problems(), "\n", "; ")
	if !w.s.Finished(w.now, r, f) {
		w.said.WriteString("  what was found counts for nothing\n")
	} else if f.New {
		fmt.Fprintf(&w.said, "  %s is kept: serial %d\n", zone, f.Record.Serial)
	}
}

// answer is what a server answers to one question.
func (w *world) answer(r *Round, server string, ask Ask, answer string) (kept bool, serial uint32) {
	why, fails := strings.CutPrefix(answer, "fails")
	notKept, unwritten := strings.CutPrefix(answer, "not kept")
	switch {
	case fails:
		r.Failed(errors.New(strings.TrimSpace(why)))
	case answer == "same":
		r.Same()
	case unwritten:
		r.NotKept(errors.New(strings.TrimSpace(notKept)))
	case ask == ForSOA:
		r.SOA(w.number(answer))
	case r.Came(w.number(answer)):
		r.Took()
		kept, serial = true, w.number(answer)
	}
	what := map[Ask]string{ForSOA: "the SOA", ForZone: "the zone"}[ask]
	fmt.Fprintf(&w.said, "  %s, asked for %s: %s\n", server, what, answer)
	return kept, serial
}

func (w *world) file(path, zone string, serial uint32) {
	owner := DirectoryOwner(path)
	if err := w.s.Claim(zone, owner); err != nil {
		fmt.Fprintf(&w.said, "  not taken: %v\n", err)
		return
	}
	var held *Record
	if rec, ok := w.s.Held(zone); ok {
		held = &rec
	}
	if err := Forward(held, serial); err != nil {
		fmt.Fprintf(&w.said, "  not taken: %v\n", err)
		return
	}
	f := Found{Good: true, New: true, Record: w.record(Record{Origin: zone, Owner: owner}, path+"/"+zone, File, serial)}
	received, reset := w.s.Filed(w.now, f)
	fmt.Fprintf(&w.said, "  %s is kept: serial %d, received %v, reset %v\n", zone, serial, received, reset)
}

// decide carries out what is decided, and prints the event, what it said, and what was done.
func (w *world) decide(event string) {
	d := w.s.Decide(w.now)
	w.due = w.now.Mono.Add(max(d.Wait, 1))
	for _, a := range d.Actions {
		w.action(a)
	}
	if d.Idle {
		w.said.WriteString("  all is done\n")
	}
	if event != "" || w.said.Len() > 0 {
		fmt.Fprintf(&w.out, "%s %s\n%s", w.at().Truncate(time.Millisecond), cmp.Or(event, "(due)"), w.said.String())
	}
	w.said.Reset()
}

func (w *world) action(a Action) {
	switch a.Do {
	case Start:
		w.rounds[a.Origin] = a.Round
		held := "nothing is held"
		if a.Round.Held {
			held = fmt.Sprintf("serial %d is held", a.Round.Record.Serial)
		}
		fmt.Fprintf(&w.said, "  ask %s for %s: %s\n", strings.Join(a.Round.Group.Servers, ","), a.Origin, held)
	case Stop:
		fmt.Fprintf(&w.said, "  stop asking for %s\n", a.Origin)
	case Tell:
		fmt.Fprintf(&w.said, "  tell: %s serial %d %s\n", a.Origin, a.Record.Serial, a.How)
	case Withdraw:
		rec := a.Record
		rec.Withdrawn = true
		w.disk[a.Origin] = rec
		fmt.Fprintf(&w.said, "  withdraw %s\n", a.Origin)
	case Remove:
		delete(w.disk, a.Origin)
		fmt.Fprintf(&w.said, "  remove %s\n", a.Origin)
	case Judge:
		fmt.Fprintf(&w.said, "  does %s delegate %s?\n", a.Origin, strings.Join(a.Children, " "))
		w.s.Judged(map[string]string{})
	case Answer:
		fmt.Fprintf(&w.said, "  answer %s\n", a.ID)
		for _, f := range a.Fates {
			fmt.Fprintf(&w.said, "    %s withdrawn %v %s\n", f.Zone, f.Withdrawn, f.Why)
		}
	case Say:
		level := map[Level]string{Info: "info", Warn: "warn", Error: "error"}[a.Level]
		fmt.Fprintf(&w.said, "  %s: %s%s\n", level, a.Text, pairs(a.Args))
	}
}

func pairs(args []any) string {
	var b strings.Builder
	for i := 0; i+1 < len(args); i += 2 {
		if at, ok := args[i+1].(time.Time); ok {
			args[i+1] = at.Sub(epoch.Time())
		}
		fmt.Fprintf(&b, " %v=%v", args[i], args[i+1])
	}
	return b.String()
}

func (w *world) status() {
	since := func(at time.Time) time.Duration { return at.Sub(epoch.Time()).Truncate(time.Millisecond) }
	for _, z := range w.s.Status(w.now) {
		fmt.Fprintf(&w.said, "  %s of %s", z.Zone, z.Source)
		if z.Serial != nil {
			fmt.Fprintf(&w.said, ", serial %d from %s, contact %v", *z.Serial, z.From, since(z.Contact))
		}
		if !z.Expires.IsZero() {
			fmt.Fprintf(&w.said, ", expires %v", since(z.Expires))
		}
		for _, word := range []struct {
			say  bool
			what string
		}{{z.Expired, ", EXPIRED"}, {z.Receiving, ", receiving"}, {z.Catalog, ", catalog"}, {z.Error != "", ", error: " + z.Error}, {z.Warning != "", ", warning: " + z.Warning}} {
			if word.say {
				w.said.WriteString(word.what)
			}
		}
		if !z.Receiving && !z.Next.IsZero() {
			fmt.Fprintf(&w.said, ", next %v", since(z.Next))
		}
		w.said.WriteString("\n")
	}
	for _, f := range slices.SortedFunc(maps.Keys(w.s.Faults()), func(a, b Fault) int { return cmp.Or(cmp.Compare(a.Source, b.Source), cmp.Compare(a.What, b.What)) }) {
		fmt.Fprintf(&w.said, "  fault: %s, %s: %s\n", f.Source, f.What, w.s.Faults()[f])
	}
}
