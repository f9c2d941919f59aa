package meshsync

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	clog "github.com/coredns/coredns/plugin/pkg/log"

	"github.com/coredns-anycast/coredns-anycast/internal/instant"
	"github.com/coredns-anycast/coredns-anycast/internal/mesh"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
	"github.com/coredns-anycast/coredns-anycast/internal/sysclock"
)

var log = clog.NewWithPlugin("meshsync")

// tick is how often the decision is made anew, whatever happens: the wall clock may step. While nothing is under way that a step could
// change, calmTick will do, which most words of the sidecar forestall: a query that finds out about a step has it made anew at once, and is not
// answered. Each is a wake-up of the process, which is most of what an idle node does. It is well below mesh.Stall.
const tick, calmTick = 100 * time.Millisecond, 1500 * time.Millisecond

// answering is what queries are answered from. It ends by itself, so that neither a late timer nor a process that was stopped
// for a while answers from what is over; then holds what was already decided to follow, or nil.
type answering struct {
	*compiled
	*mesh.Answering
	then *answering
}

// clocks are where time is read: of the machine, or of a test.
type clocks struct {
	now   func() instant.Instant // for decisions
	query func() instant.Instant // for each query: cheap, and of both clocks as well; its monotonic one need not count suspend
}

var machine = clocks{now: sysclock.Now, query: func() instant.Instant { return ofTime(time.Now()) }}

// started is where the monotonic clock of queries begins.
var started = time.Now()

// ofTime is one reading of the clock as time.Now gives it: both clocks, without a system call.
func ofTime(t time.Time) instant.Instant {
	return instant.Instant{Wall: instant.WallOf(t), Mono: instant.Mono(t.Sub(started))}
}

// began reads the clocks of queries for a decision. When the process is put off the processor between the two clocks, they look as if one had
// stepped: two readings must agree.
func (c clocks) began() instant.Instant {
	last := c.query()
	for range 10 {
		next := c.query()
		apart := (next.Wall.Sub(last.Wall) - next.Mono.Sub(last.Mono)).Abs()
		if last = next; apart < time.Millisecond {
			break
		}
	}
	return last
}

// follower follows one repository and decides, by internal/mesh, what this process answers from. Its goroutine run owns
// all fields below the line; no I/O is done there, so that a hanging disk cannot keep it from falling silent.
type follower struct {
	config     config
	clocks     clocks
	active     atomic.Pointer[answering]
	shown      atomic.Pointer[shownNode]
	assumed    atomic.Bool                   // the clock is certified by the operator's word only
	digest     atomic.Pointer[string]        // of the Corefile
	unwritable atomic.Pointer[status.Reason] // why nothing can be written in the state directory; nil: it can be
	state      *state
	lost       *status.Reason // why this process is silent for good; nil: it is not. Only newFollower sets it
	cancel     context.CancelFunc
	running    sync.WaitGroup
	words      chan word          // of the sidecar
	doubts     chan struct{}      // a query was not answered since what was decided is no longer good
	questions  chan chan struct{} // of who wants a decision to be made anew, and waits until that is shown
	ended      <-chan struct{}    // following has
	pace       pace               // of asking for them
	audience   audience
	transfers  atomic.Bool // zones may be transferred, so differences are wanted

	// ──
	node       *mesh.Node
	view       *release.View
	coming     coming       // what the node is to learn of, but not yet
	durable    mesh.Durable // what is on disk
	compiled   map[uint64]*compiled
	serving    uint64
	switched   *status.Switched // the last activation
	readied    *status.Step     // the release that was made ready last
	silent     []status.Reason
	warned     bool            // of these
	began      time.Time       // of this process's following
	granted    time.Duration   // what the lease had left when it was verified
	warnedOf   []status.Reason // of the machine
	waning     bool            // less than half of that is left, which was logged
	writing    bool
	writeAfter time.Time // no promise is written before: the disk just refused one
	faults     faults
	stager     stager
	compactor  compactor
	collector  collector
}

// StateLost is the code of the silence of a node that cannot read what it must not have forgotten: to answer without it would be to
// forget the floor (SYNC-G). The process goes on, so that its other server blocks serve, and the status says why this one does not.
const StateLost = "state-lost"

// newFollower reads what the node must not have forgotten and begins to follow. If that cannot be read, it follows nothing, writes
// nothing, and is silent until the process starts again.
func newFollower(c config, clocks clocks) (*follower, error) {
	s, known, err := openState(filepath.Join(c.dir, "state"), c.root, c.repository)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	f := &follower{config: c, clocks: clocks, state: s, cancel: cancel, words: make(chan word, 1), doubts: make(chan struct{}, 1), questions: make(chan chan struct{}), ended: ctx.Done(), began: time.Now(),
		node: mesh.NewNode(known.durable), durable: known.durable, compiled: map[uint64]*compiled{}}
	f.node.Hold(c.hold)
	f.pace.quickened = make(chan struct{}, 1)
	f.stager.results = make(chan staged, 1)
	f.compactor = compactor{results: make(chan reordered, 1), gaveUp: map[string]bool{}}
	f.stager.cache = &imageCache{dir: filepath.Join(c.dir, "cache"), from: cmp.Or(c.cacheFrom, cacheFrom)}
	f.audience.init(ctx, &f.running)
	f.digest.Store(&c.digest)
	if known.lost != nil {
		f.lost = &status.Reason{Code: StateLost, Detail: known.lost.Error()}
		f.faults.add(placeMemory, status.Fault{File: filepath.Base(known.lost.file), Rule: StateLost, Detail: known.lost.err.Error()}, clocks.now().Wall)
	}
	f.publish(f.decide())
	if f.lost != nil {
		f.writing = true // nothing is written
		f.running.Go(func() { f.run(ctx, nil, nil, nil) })
		return f, nil
	}
	w := &watcher{repository: c.repository, state: s, durable: known.mem, mem: known.mem, view: known.view}
	looks := make(chan found, 1)
	writes := make(chan mesh.Durable, 1)
	written := make(chan writeResult, 1)
	f.running.Go(func() { f.run(ctx, looks, writes, written) })
	f.running.Go(func() { w.watch(ctx, looks) })
	f.running.Go(func() { s.write(ctx, writes, written) })
	f.running.Go(func() { f.tend(ctx) })
	return f, nil
}

// close stops following. What was decided stays good until its time ends, so that queries which arrive while the
// process shuts down are answered.
func (f *follower) close() error {
	f.cancel()
	f.running.Wait()
	return f.state.close()
}

// answering is what to answer from now; nil is silence. The first query after a switchover makes it, if the follower has
// not yet; the follower sees that and does not go back.
func (f *follower) answering() *answering {
	for tries := 0; ; {
		a := f.active.Load()
		if a == nil {
			return nil
		}
		switch a.On(f.clocks.query()) {
		case a.Answering:
			return a
		case nil:
			if tries++; tries == 3 { // one reading may look like a step (clocks.began)
				f.doubt()
				return nil
			}
		default:
			f.active.CompareAndSwap(a, a.then)
		}
	}
}

// doubt has the decision made anew at once. It waits for nothing.
func (f *follower) doubt() {
	select {
	case f.doubts <- struct{}{}:
	default:
	}
}

// answerWithin is how long who asks how the node is waits for a new decision.
const answerWithin = 500 * time.Millisecond

// said is how the node is for who asks, decided anew: what it confirms holds in this moment, and others compare its clock with theirs. A
// follower that hangs is shown as it was.
func (f *follower) said() *shownNode {
	late := time.NewTimer(answerWithin)
	defer late.Stop()
	shown := make(chan struct{})
	select {
	case f.questions <- shown:
		select {
		case <-shown:
		case <-f.ended:
		case <-late.C:
		}
	case <-f.ended:
	case <-late.C:
	}
	return f.shown.Load()
}

// run is the node: facts in, decision, effects out.
func (f *follower) run(ctx context.Context, looks <-chan found, writes chan<- mesh.Durable, written <-chan writeResult) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		var asked chan struct{}
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-f.doubts:
		case asked = <-f.questions:
		case l := <-looks:
			f.learn(l)
		case w := <-f.words:
			f.hear(w)
		case r := <-f.stager.results:
			f.stagedResult(r)
		case r := <-f.compactor.results:
			f.reordered(r)
		case w := <-written:
			f.wrote(w)
		}
		d := f.decideWithComing()
		f.act(ctx, d, writes)
		if asked != nil {
			close(asked)
		}
		timer.Reset(f.nap(d))
	}
}

// hear takes in what the sidecar has said. What it has not said leaves things as they are.
func (f *follower) hear(w word) {
	if w.sample.Source != "" {
		f.node.Certify(w.sample)
	}
	if w.told {
		f.node.Drain(w.drained)
	}
	for _, m := range w.members {
		f.node.Hear(m.Node, m.Promise)
	}
	if w.reached != 0 {
		f.node.Reached(w.reached)
	}
}

// nap is how long nothing needs to be decided anew, unless something happens.
func (f *follower) nap(d mesh.Decision) time.Duration {
	most := tick
	if f.calm(d) {
		most = calmTick
	}
	if d.Wake != 0 {
		if left := d.Wake.Sub(f.clocks.now().Wall); left < most {
			return max(left, 0)
		}
	}
	return most
}

// calm reports whether the node answers, has done all that it has to, and knows of no switchover: so a step of the wall clock, which no query is
// answered past, would at most have it fall silent.
func (f *follower) calm(d mesh.Decision) bool {
	return d.Serve != 0 && d.Persist == nil && d.Holds == (status.Promise{}) && !d.Ask && len(d.Stage) == 0 &&
		f.coming == (coming{}) && !f.writing && (f.view.Manifest.Next == nil || f.view.Manifest.Next.Switchover.IsZero())
}

// learn takes in what the watcher found.
func (f *follower) learn(l found) {
	if l.fault != nil {
		f.faults.waiting = f.view == nil && f.starting()
		f.faults.add(l.place, *l.fault, f.clocks.now().Wall)
		return
	}
	f.faults.clear(l.place)
	if l.view == nil {
		return
	}
	if !f.awaits(l.view, f.serving) {
		f.take(l.place, l.view)
		return
	}
	log.Debugf("verified, and waits until its release is ready: %s", l.view)
	f.forgetReleases(*l.view)
	f.coming.view = l.view
	f.stager.again()
}

// take has the node learn of a view, in place of any older one that was coming. where is the place of what is wrong with it.
func (f *follower) take(where string, v *release.View) {
	if why := f.node.Learn(meshView(*v, f.config.node)); why != nil {
		f.faults.add(where, status.Fault{File: release.TimestampName, Rule: why.Code, Detail: why.Detail}, f.clocks.now().Wall)
		return
	}
	f.forgetReleases(*v)
	f.coming.taken(v)
	if f.view == nil || !f.view.LeaseExpires.Equal(v.LeaseExpires) {
		f.granted = instant.WallOf(v.LeaseExpires).Sub(f.clocks.now().Wall)
	}
	if f.view == nil {
		log.Infof("verified: %s", v)
	} else {
		log.Debugf("verified: %s", v) // each lease is one, and a switchover is several
	}
	f.view = v
	f.stager.again()
}

// forgetReleases ends what was wrong with releases that the new view names no more.
func (f *follower) forgetReleases(v release.View) {
	for r := range f.releases() {
		if number := r.Number; number != ref(v.Manifest.Current).Number && number != ref(v.Manifest.Next).Number {
			f.faults.forget(placeOf(number))
		}
	}
}

// meshView is what a node of a name needs to know of a verified repository.
func meshView(v release.View, node string) mesh.View {
	m := v.Manifest
	view := mesh.View{Root: v.Versions.Root, Lease: v.Versions.Timestamp, Expires: instant.WallOf(v.LeaseExpires), Epsilon: m.Epsilon(),
		Current: ref(m.Current), Next: mesh.Next{Ref: ref(m.Next)}, Legacy: m.Format == release.OldFormat}
	if next := m.Next; next != nil {
		view.Next.Decide = instant.WallOf(next.Decide)
		view.Next.Committed = next.Committed || view.Legacy
		view.Next.Presumed = next.Presumed
		view.Next.Without = slices.Contains(next.Without, node)
	}
	view.Stranger = len(m.Members) > 0
	for _, member := range m.Members {
		switch {
		case member.Name == node:
			view.Stranger = false
		case m.Next == nil || !slices.Contains(m.Next.Without, member.Name):
			view.Others = append(view.Others, member.Name)
		}
	}
	return view
}

func ref(r *release.Release) status.Ref {
	if r == nil {
		return status.Ref{}
	}
	return status.Ref{Number: r.Number, At: instant.WallOf(r.Switchover)}
}

// stagedResult takes in a release that was compiled, or the reason why it could not be.
func (f *follower) stagedResult(r staged) {
	f.stager.done(r)
	if errors.Is(r.err, context.Canceled) {
		return // nobody wants it any more
	}
	if r.err != nil {
		fault := faultOf(r.err)
		f.faults.add(placeOf(r.number), fault, f.clocks.now().Wall)
		f.failed(r.number)
		f.node.Refuse(r.number, status.Reason{Code: fault.Rule, Detail: fault.File + ": " + fault.Detail})
		return
	}
	f.faults.clear(placeOf(r.number))
	f.compiled[r.number] = r.compiled
	f.node.Ready(r.number)
	done := f.clocks.now().Wall
	f.readied = &status.Step{Number: r.number, Began: done.Add(-r.took), Done: done}
	log.Infof("release %d is staged: %d zones, %d records, in %v", r.number, r.compiled.zones.Len(), r.compiled.records, r.took.Round(time.Millisecond))
}

// writeRetry is how long a disk that refused a promise is left alone.
const writeRetry = time.Second

func (f *follower) wrote(w writeResult) {
	f.writing = false
	if w.err != nil {
		f.failed(currentOf(f.coming.floor))
		f.coming.floor = nil
		f.writeAfter = time.Now().Add(writeRetry)
		f.faults.add(placePromise, status.Fault{File: promiseFile, Rule: notDurable, Detail: w.err.Error()}, f.clocks.now().Wall)
		return
	}
	f.faults.clear(placePromise)
	f.durable = w.durable
	if v := f.coming.floor; v != nil {
		f.take(placeRepository, v)
	}
	f.node.Persisted(w.durable)
}

// decide decides anew and swaps, or falls silent, by one pointer store. If a query has made a switchover meanwhile, the
// decision was about the past and is made again: no answer may be followed by one from an earlier release (SYNC-G).
func (f *follower) decide() mesh.Decision {
	for {
		held := f.active.Load()
		if held != nil {
			f.node.Answered(held.Number)
		}
		began := f.clocks.began()
		d := f.node.Decide(f.clocks.now())
		if f.active.CompareAndSwap(held, f.answeringFrom(d.Answering(began))) {
			if f.lost != nil { // and so there is no view, and nothing to answer from
				d.Silent = []status.Reason{*f.lost}
			}
			return d
		}
	}
}

// act carries out the rest of a decision, the swap having waited for nothing.
func (f *follower) act(ctx context.Context, d mesh.Decision, writes chan<- mesh.Durable) {
	f.pace.set(d.Ask)
	f.tell(d)
	if !f.writing && !time.Now().Before(f.writeAfter) {
		if want := f.toWrite(d); want != nil {
			f.writing = true
			writes <- *want
		}
	}
	f.dropAllBut(d.Keep)
	f.stager.start(ctx, d.Stage, f)
	f.compactor.start(ctx, f)
	f.publish(d)
}

// answeringFrom is what to answer from, with the zones of it.
func (f *follower) answeringFrom(a *mesh.Answering) *answering {
	if a == nil {
		return nil
	}
	return &answering{compiled: f.compiled[a.Number], Answering: a, then: f.answeringFrom(a.Then)}
}

// tell logs and counts what changed for clients.
func (f *follower) tell(d mesh.Decision) {
	switch {
	case d.Serve == 0:
		f.fallSilent(d.Silent)
	case d.Serve != f.serving && f.switched != nil && f.switched.Number == d.Serve:
		f.serving, f.silent = d.Serve, nil
		log.Infof("release %d is answered from again", d.Serve)
	case d.Serve != f.serving:
		f.serving, f.silent = d.Serve, nil
		f.activated(d)
	}
}

// activated tells of a release that was not answered from before: once, with number, instant and lateness (SYNC-E).
func (f *follower) activated(d mesh.Decision) {
	done := f.clocks.now().Wall
	f.switched = &status.Switched{Number: d.Serve, At: d.At, Done: done}
	lateness := "at once"
	if d.At != 0 && done.Sub(d.At) < time.Minute {
		f.switched.Lateness = done.Sub(d.At)
		lateness = fmt.Sprintf("%d µs after the switchover set for %v", f.switched.Lateness.Microseconds(), d.At)
		switchoverLateness.Observe(f.switched.Lateness.Seconds())
	}
	switchovers.Inc()
	f.audience.activated(f.compiled[d.Serve])
	log.Infof("release %d is active, %s", d.Serve, lateness)
}

// warnings are what will lead to silence if nobody sees to it: less than half of the lease is left, counted from when it
// was verified (FAIL-4). A distribution host that is well renews it long before.
func (f *follower) warnings() (all []status.Reason) {
	if f.view == nil {
		return nil
	}
	if left := instant.WallOf(f.view.LeaseExpires).Sub(f.clocks.now().Wall); left < f.granted/2 {
		all = append(all, status.Reason{Code: "lease-not-renewed", Detail: fmt.Sprintf("it ends at %v, and this node falls silent then", instant.WallOf(f.view.LeaseExpires))})
	}
	if waning := len(all) > 0; waning != f.waning {
		f.waning = waning
		if waning {
			log.Warning(all[0])
		} else {
			log.Info("the lease is renewed again")
		}
	}
	return all
}

// startup is how long a process may take until it answers first, before that is a warning.
const startup = 30 * time.Second

// ofStartup are the reasons for silence that every start goes through.
var ofStartup = []string{mesh.NoView, mesh.NotReady, mesh.NotDurable, mesh.ClockUnknown}

// starting reports whether this process has not answered yet, and need not have.
func (f *follower) starting() bool { return f.switched == nil && time.Since(f.began) < startup }

// fallSilent tells of silence, and again when its reasons change. It warns, but for what belongs to a start; of that too, if it lasts.
func (f *follower) fallSilent(why []status.Reason) {
	f.serving = 0
	warn := !f.starting() || slices.ContainsFunc(why, func(r status.Reason) bool { return !slices.Contains(ofStartup, r.Code) })
	if sameCodes(f.silent, why) && (f.warned || !warn) {
		return
	}
	f.silent, f.warned = why, warn
	for _, r := range why {
		if warn {
			log.Warningf("silent: %s", r)
		} else {
			log.Infof("not answering yet: %s", r)
		}
	}
}

func sameCodes(a, b []status.Reason) bool {
	return slices.EqualFunc(a, b, func(x, y status.Reason) bool { return x.Code == y.Code })
}

// dropAllBut lets go of compiled releases that can never be answered from again.
func (f *follower) dropAllBut(keep []uint64) {
	for number, c := range f.compiled {
		if number != f.serving && !slices.Contains(keep, number) {
			delete(f.compiled, number)
			f.node.Drop(number)
			f.collector.garbage += f.alone(c)
		}
	}
	f.collector.start(f)
}

// publish shows the state to the status socket and the metrics.
func (f *follower) publish(d mesh.Decision) {
	n := &status.Node{Version: status.Version, Node: f.config.node, Software: Version, ConfigDigest: *f.digest.Load(),
		At: f.clocks.now().Wall, Serving: d.Serve, Silent: d.Silent, Warnings: slices.Concat(f.warnings(), f.hostWarnings()), Switched: f.switched, Staged: d.Confirms.Staged,
		Promise: d.Holds, Asks: d.Ask, Format: release.ManifestFormat, Floor: d.Floor, Clock: d.Clock, Refused: d.Refused, Confirms: d.Confirms,
		Compiling: f.stager.busy.status(), Compiled: f.readied}
	n.Clock.Assumed = f.assumed.Load()
	n.Depot = f.faults.depot()
	if f.view != nil {
		n.Mesh, n.LeaseExpires, n.Depot.Lease = f.view.Manifest.Mesh, instant.WallOf(f.view.LeaseExpires), f.view.Versions.Timestamp
	}
	c := f.compiled[d.Serve]
	if c != nil {
		n.ZonesDigest, n.ZonesChange = c.digest, c.change
	}
	f.shown.Store(&shownNode{n, c})
	observe(n)
}

// shownNode is the status without its list of zones, and the release that it tells of; nil: none.
type shownNode struct {
	*status.Node
	of *compiled
}

// whole is the status with the list of zones, which is made for who asks for it.
func (s *shownNode) whole() *status.Node {
	n := *s.Node
	if s.of != nil {
		n.Zones = s.of.list()
	}
	return &n
}

// Version is what the status says of the software (DRIFT-1).
var Version = "unknown"

func hostname() string {
	name, err := os.Hostname()
	if err != nil {
		return "localhost"
	}
	return name
}
