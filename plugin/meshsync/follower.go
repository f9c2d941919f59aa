package meshsync

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	clog "github.com/coredns/coredns/plugin/pkg/log"

	"github.com/coredns-anycast/coredns-anycast/internal/instant"
	"github.com/coredns-anycast/coredns-anycast/internal/mesh"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
	"github.com/coredns-anycast/coredns-anycast/internal/sysclock"
	"github.com/coredns-anycast/coredns-anycast/internal/zone"
)

var log = clog.NewWithPlugin("meshsync")

const (
	tick = 100 * time.Millisecond // how often the decision is made anew, whatever happens: the wall clock may step
	// stall is how long answers go on when the decision is not made anew: a follower that hangs falls silent.
	stall = 5 * time.Second
)

// answering is what queries are answered from. It ends by itself at until, so that neither a late timer nor a process
// that was stopped for a while answers from what is over; then holds what was already decided to follow, or nil.
type answering struct {
	number uint64
	zones  *zone.Zones
	until  instant.Wall
	then   *answering
}

// follower follows one repository and decides, by internal/mesh, what this process answers from. Its goroutine run owns
// all fields below the line; no I/O is done there, so that a hanging disk cannot keep it from falling silent.
type follower struct {
	config  config
	active  atomic.Pointer[answering]
	shown   atomic.Pointer[status.Node]
	assumed atomic.Bool            // the clock is certified by the operator's word only
	digest  atomic.Pointer[string] // of the Corefile
	state   *state
	cancel  context.CancelFunc
	running sync.WaitGroup
	samples chan instant.Sample

	// ──
	node     *mesh.Node
	view     *release.View
	compiled map[uint64]*compiled
	serving  uint64
	switched *status.Switched
	silent   []status.Reason
	writing  bool
	faults   faults
	stager   stager
}

// newFollower reads what the node must not have forgotten and begins to follow. An unreadable state is an error: to
// start without it would be to forget the floor (SYNC-G).
func newFollower(c config) (*follower, error) {
	s, durable, mem, err := openState(filepath.Join(c.dir, "state"), c.root)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	f := &follower{config: c, state: s, cancel: cancel, samples: make(chan instant.Sample, 1),
		node: mesh.NewNode(durable), compiled: map[uint64]*compiled{}}
	f.stager.results = make(chan staged, 1)
	f.digest.Store(&c.digest)
	f.publish(mesh.Decision{Floor: durable.Floor})
	views := make(chan verified, 1)
	writes := make(chan mesh.Durable, 1)
	written := make(chan writeResult, 1)
	f.running.Go(func() { f.run(ctx, views, writes, written) })
	f.running.Go(func() { watch(ctx, c.repository, s, mem, views) })
	f.running.Go(func() { s.write(ctx, writes, written) })
	return f, nil
}

// close stops following. What was decided stays good until its time ends, so that queries which arrive while the
// process shuts down are answered.
func (f *follower) close() error {
	f.cancel()
	f.running.Wait()
	return f.state.close()
}

// zonesAt is what to answer from when the wall clock says now; nil is silence.
func (f *follower) zonesAt(now instant.Wall) *zone.Zones {
	a := f.active.Load()
	for a != nil && now >= a.until {
		a = a.then
	}
	if a == nil {
		return nil
	}
	return a.zones
}

// run is the node: facts in, decision, effects out.
func (f *follower) run(ctx context.Context, views <-chan verified, writes chan<- mesh.Durable, written <-chan writeResult) {
	defer f.stager.stop()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case v := <-views:
			f.learn(v)
		case s := <-f.samples:
			f.node.Certify(s)
		case r := <-f.stager.results:
			f.stagedResult(r)
		case w := <-written:
			f.wrote(w)
		}
		now := sysclock.Now()
		d := f.node.Decide(now)
		f.act(ctx, d, now, writes)
		timer.Reset(f.nap(d))
	}
}

// nap is how long nothing needs to be decided anew, unless something happens.
func (f *follower) nap(d mesh.Decision) time.Duration {
	if d.Wake != 0 {
		if left := d.Wake.Sub(sysclock.Now().Wall); left < tick {
			return max(left, 0)
		}
	}
	return tick
}

// learn takes in what the watcher verified, or the fault it found.
func (f *follower) learn(v verified) {
	if v.fault != nil {
		f.faults.add(*v.fault)
		return
	}
	f.faults.clear()
	f.view = &v.view
	f.node.Learn(meshView(v.view))
	f.stager.again()
	log.Infof("verified: %s", v.view)
}

// meshView is what the node needs to know of a verified repository.
func meshView(v release.View) mesh.View {
	return mesh.View{Lease: v.Versions.Timestamp, Expires: instant.WallOf(v.LeaseExpires), Epsilon: v.Manifest.Epsilon(),
		Current: ref(v.Manifest.Current), Next: ref(v.Manifest.Next)}
}

func ref(r *release.Release) status.Ref {
	if r == nil {
		return status.Ref{}
	}
	return status.Ref{Number: r.Number, At: instant.WallOf(r.Switchover)}
}

// stagedResult takes in a release that was compiled, or the reason why it could not be.
func (f *follower) stagedResult(r staged) {
	f.stager.busy = false
	if r.err != nil {
		fault := faultOf(r.err)
		f.faults.add(fault)
		f.node.Refuse(r.number, status.Reason{Code: fault.Rule, Detail: fault.File + ": " + fault.Detail})
		return
	}
	f.faults.clear()
	f.compiled[r.number] = r.compiled
	f.node.Ready(r.number)
	log.Infof("release %d is staged: %d zones, %d records, in %v", r.number, len(r.compiled.byDigest), r.compiled.records, r.took.Round(time.Millisecond))
}

func (f *follower) wrote(w writeResult) {
	f.writing = false
	if w.err != nil {
		f.faults.add(status.Fault{File: promiseFile, Rule: "not-durable", Detail: w.err.Error()})
		return
	}
	f.node.Persisted(w.durable)
}

// act carries a decision out. Serving comes first: a swap waits for nothing.
func (f *follower) act(ctx context.Context, d mesh.Decision, now instant.Instant, writes chan<- mesh.Durable) {
	f.serve(d, now)
	if d.Persist != nil && !f.writing {
		f.writing = true
		writes <- *d.Persist
	}
	f.dropAllBut(d.Keep)
	f.stager.start(ctx, d.Stage, f)
	f.publish(d)
}

// serve swaps, or falls silent, by one pointer store.
func (f *follower) serve(d mesh.Decision, now instant.Instant) {
	if d.Serve == 0 {
		f.active.Store(nil)
		f.fallSilent(d.Silent)
		return
	}
	f.active.Store(f.answeringFrom(d, now))
	if d.Serve != f.serving {
		f.activated(d)
	}
}

// answeringFrom is what to answer from until time changes it, and what follows at the switchover if that is sure.
func (f *follower) answeringFrom(d mesh.Decision, now instant.Instant) *answering {
	stalled := now.Wall.Add(stall)
	a := &answering{number: d.Serve, zones: f.compiled[d.Serve].zones, until: min(stalled, d.Until)}
	if d.Then.Number != 0 && d.Until < stalled {
		a.then = &answering{number: d.Then.Number, zones: f.compiled[d.Then.Number].zones, until: min(stalled, d.Lapse)}
	}
	return a
}

// activated tells of a swap: once, with number, instant and lateness (SYNC-E).
func (f *follower) activated(d mesh.Decision) {
	done := sysclock.Now().Wall
	f.serving, f.silent = d.Serve, nil
	f.switched = &status.Switched{Number: d.Serve, At: d.At, Done: done}
	lateness := "at once"
	if d.At != 0 && done.Sub(d.At) < time.Minute {
		f.switched.Lateness = done.Sub(d.At)
		lateness = fmt.Sprintf("%d µs after the switchover set for %v", f.switched.Lateness.Microseconds(), d.At)
		switchoverLateness.Observe(f.switched.Lateness.Seconds())
	}
	switchovers.Inc()
	log.Infof("release %d is active, %s", d.Serve, lateness)
}

// fallSilent tells of silence, and again when its reasons change.
func (f *follower) fallSilent(why []status.Reason) {
	f.serving = 0
	if sameCodes(f.silent, why) {
		return
	}
	f.silent = why
	for _, r := range why {
		log.Warningf("silent: %s", r)
	}
}

func sameCodes(a, b []status.Reason) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i].Code != b[i].Code {
			return false
		}
	}
	return true
}

// dropAllBut lets go of compiled releases that can never be answered from again.
func (f *follower) dropAllBut(keep []uint64) {
	for number := range f.compiled {
		held := number == f.serving
		for _, k := range keep {
			held = held || k == number
		}
		if !held {
			delete(f.compiled, number)
			f.node.Drop(number)
		}
	}
}

// publish shows the state to the status socket and the metrics.
func (f *follower) publish(d mesh.Decision) {
	n := &status.Node{Version: status.Version, Node: f.config.node, Software: Version, ConfigDigest: *f.digest.Load(),
		At: sysclock.Now().Wall, Serving: d.Serve, Silent: d.Silent, Switched: f.switched, Staged: d.Confirms.Staged,
		Scheduled: d.Confirms.Scheduled, Floor: d.Floor, Clock: d.Clock, Refused: d.Refused, Confirms: d.Confirms}
	n.Clock.Assumed = f.assumed.Load()
	n.Depot = f.faults.depot()
	if f.view != nil {
		n.Mesh, n.LeaseExpires, n.Depot.Lease = f.view.Manifest.Mesh, instant.WallOf(f.view.LeaseExpires), f.view.Versions.Timestamp
	}
	if c := f.compiled[d.Serve]; c != nil {
		n.Zones = c.list
	}
	f.shown.Store(n)
	observe(n)
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
