package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/gate"
	"github.com/coredns-anycast/coredns-anycast/internal/identity"
	"github.com/coredns-anycast/coredns-anycast/internal/instant"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
	"github.com/coredns-anycast/coredns-anycast/internal/sysclock"
	"github.com/coredns-anycast/coredns-anycast/sidecar/admin"
	"github.com/coredns-anycast/coredns-anycast/sidecar/bgp"
	"github.com/coredns-anycast/coredns-anycast/sidecar/clock"
	"github.com/coredns-anycast/coredns-anycast/sidecar/config"
	"github.com/coredns-anycast/coredns-anycast/sidecar/igp"
	"github.com/coredns-anycast/coredns-anycast/sidecar/mirror"
	"github.com/coredns-anycast/coredns-anycast/sidecar/probe"
)

// sidecar is the running process. The control loop alone uses gate, prober and zones; the rest is for its readers.
type sidecar struct {
	path     string                        // of the configuration
	conf     atomic.Pointer[config.Config] // see cfg
	log      *slog.Logger
	identity *identity.Identity
	clock    *clock.Keeper
	mirror   *mirror.Mirror // nil without a mirror section
	prober   *probe.Prober
	gate     *gate.Gate
	meshsync meshsync
	zones    asked        // what meshsync last said it serves
	orders   chan order   // for the control loop
	watchdog watchdog     // of the control loop
	began    instant.Mono // the process
	draining sync.Mutex   // one order to drain or undrain at a time
	asking   atomic.Bool  // it is being asked how many other nodes remain

	mu         sync.Mutex
	speaker    *bgp.Speaker   // nil without a bgp section, and once it is stopped
	announcer  *igp.Announcer // nil without an igp section
	decision   gate.Decision
	applied    bool           // the routes are as decided
	fault      string         // why they are not, as last seen; empty if they were
	drainOf    *status.Drain  // nil: not drained
	drainFault error          // why nobody knows what drain is in force
	since      time.Time      // of the route's last change
	unwritable *status.Reason // why nothing can be written in the state directory, as last seen; nil: it can be
	untold     instant.Mono   // since when the route is to be announced and no router has been told; 0: it is not so
	late       bool           // it was said that the service is not good so long after the start
	changes    map[bool]uint64
	failures   map[string]uint64 // of the probe, by code
	probes     []status.Probe
	node       *status.Node // as last read; nil when it does not come
	noted      uint64       // changes of the decision or of the fault, and orders: what makes a status untrue that was made before
	shown      shown        // on the socket
}

// cfg is the configuration in force, which reload replaces as a whole.
func (s *sidecar) cfg() *config.Config { return s.conf.Load() }

// control is the loop that keeps the routes right until ctx ends: look, decide, set.
func (s *sidecar) control(ctx context.Context) {
	every := s.cfg().Probe.Interval
	tick := time.NewTicker(sysclock.UntilNext(every))
	defer tick.Stop()
	for rounds := 0; ; rounds++ {
		if now := s.cfg().Probe.Interval; now != every || rounds == 1 {
			every = now
			tick.Reset(every)
		}
		s.look(ctx)
		s.timeUntold(sysclock.Now().Mono)
		s.watchdog.round()
		if ctx.Err() != nil {
			return
		}
		s.keep(ctx, tick.C)
	}
}

// keep decides, and again whenever the gate wants to be asked, until the next look is due.
func (s *sidecar) keep(ctx context.Context, due <-chan time.Time) {
	wake := s.decide()
	s.watchdog.ready()
	for {
		s.watchdog.round()
		select {
		case <-ctx.Done():
			return
		case <-due:
			return
		case <-wake:
			wake = s.decide()
		case o := <-s.orders:
			o.do()
			wake = s.decide()
			s.mu.Lock()
			s.noted++
			s.mu.Unlock()
			close(o.done)
		}
	}
}

// timeUntold notes since when the route is to be announced and no router has been told: a session that is down for a moment is no alarm.
func (s *sidecar) timeUntold(now instant.Mono) {
	var doc status.Sidecar
	s.announced(&doc)
	s.mu.Lock()
	defer s.mu.Unlock()
	if told := !doc.Wanted || doc.Announced; told {
		s.untold = 0
	} else if s.untold == 0 {
		s.untold = now
	}
}

// look brings the gate up to date: meshsync first, since it says what to ask for.
func (s *sidecar) look(ctx context.Context) {
	node, state, why := s.readMeshsync(ctx)
	s.watchdog.round()
	r := s.probe(ctx, node, state)
	if ctx.Err() != nil { // what was cut short is no news
		return
	}
	s.gate.Meshsync(sysclock.Now().Mono, state, why)
	s.gate.Probed(sysclock.Now().Mono, r.Verdict, r.Why)
	s.gate.Clock(s.clock.Fault())
	s.mu.Lock()
	defer s.mu.Unlock()
	s.node, s.probes = node, r.Probes
	if s.failures == nil {
		s.failures = map[string]uint64{}
	}
	for _, w := range r.Why {
		if w.Code != gate.MeshsyncSilent { // nothing was asked, so nothing was wrong with an answer
			s.failures[w.Code]++
		}
	}
}

// readMeshsync asks the plugin how it is. One that hangs must not hold up the probe, which is to find that out.
func (s *sidecar) readMeshsync(ctx context.Context) (*status.Node, gate.Meshsync, []status.Reason) {
	if s.cfg().Meshsync == "" {
		return nil, gate.NoMeshsync, nil
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg().Probe.Timeout)
	defer cancel()
	node, err := s.meshsync.read(ctx, s.cfg().Meshsync)
	if err != nil {
		return nil, gate.Unreachable, []status.Reason{{Code: "unreachable", Detail: err.Error()}}
	}
	if node.Serving == 0 {
		return node, gate.Silent, node.Silent
	}
	return node, gate.Serving, nil
}

// refused are the releases that meshsync refuses, as far as is known.
func (s *sidecar) refused() []status.Refused {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.node == nil {
		return nil
	}
	return s.node.Refused
}

// damaged reports whether meshsync finds something wrong with a file of the names of zones.
func (s *sidecar) damaged() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.node != nil && s.node.Depot.LastFault != nil && release.IsNode(s.node.Depot.LastFault.File)
}

// probe asks for the zones that are known. A node that is silent on purpose is not asked: it would not answer, and that
// would say nothing new.
func (s *sidecar) probe(ctx context.Context, node *status.Node, state gate.Meshsync) probe.Round {
	if state == gate.Silent {
		return probe.Round{Verdict: gate.Bad, Why: []status.Reason{{Code: gate.MeshsyncSilent, Detail: "not asked"}}}
	}
	if node != nil {
		s.zones.keep(s.cfg().Probe.Zones, node)
	}
	ask := s.zones.ask
	if node == nil { // zones are known from before or from the configuration, their serials are not
		ask = questions(s.cfg().Probe.Zones, &status.Node{})
		if len(s.cfg().Probe.Zones) == 0 {
			ask = withoutSerials(s.zones.ask)
		}
	}
	return s.prober.Ask(ctx, ask, s.recheck(ctx))
}

// asked is what to ask of a node, as it last was, and what that was made of.
type asked struct {
	ask    []probe.Question
	zones  []string // as configured
	digest string   // of what the node serves; "": not known
}

// keep makes the questions, unless they would be the same: there may be 100,000, each round.
func (a *asked) keep(zones []string, node *status.Node) {
	if node.ZonesDigest == "" || node.ZonesDigest != a.digest || !slices.Equal(zones, a.zones) {
		*a = asked{questions(zones, node), zones, node.ZonesDigest}
	}
}

// questions is what to ask of a node: the configured zones, or all that it serves; its serials where it serves them.
func questions(zones []string, node *status.Node) []probe.Question {
	all := make([]probe.Question, 0, max(len(node.Zones), len(zones)))
	for i := range node.Zones {
		if z := &node.Zones[i]; len(zones) == 0 || slices.Contains(zones, z.Origin) {
			all = append(all, probe.Question{Zone: z.Origin, Serial: &z.Serial})
		}
	}
	for _, z := range zones {
		if !slices.ContainsFunc(all, func(q probe.Question) bool { return q.Zone == z }) {
			all = append(all, probe.Question{Zone: z})
		}
	}
	return all
}

func withoutSerials(zones []probe.Question) []probe.Question {
	all := slices.Clone(zones)
	for i := range all {
		all[i].Serial = nil
	}
	return all
}

// recheck asks meshsync once more when an answer looks wrong: the release may have been switched between its word and the
// answer, and then the zone has another serial, or is not served any more. It asks for all zones, so that no route hangs on what was put together
// of earlier words.
func (s *sidecar) recheck(ctx context.Context) func(string, *uint32) bool {
	read := sync.OnceValues(func() (*status.Node, gate.Meshsync) {
		s.meshsync.forget()
		s.zones.digest = ""
		node, state, _ := s.readMeshsync(ctx)
		return node, state
	})
	return func(zone string, serial *uint32) bool {
		node, state := read()
		if state != gate.Serving {
			return false
		}
		if serial != nil {
			return slices.Contains(node.Zones, status.Zone{Origin: zone, Serial: *serial})
		}
		served := slices.ContainsFunc(node.Zones, func(z status.Zone) bool { return z.Origin == zone })
		return !served && !slices.Contains(s.cfg().Probe.Zones, zone)
	}
}

// decide asks the gate and sets the routes. The channel fires when to ask again, or never.
func (s *sidecar) decide() <-chan time.Time {
	now := sysclock.Now()
	d := s.gate.Decide(now.Mono)
	s.note(d)
	var faults []error
	if s.speaker != nil {
		if faults = append(faults, s.speaker.Set(s.routes(d))); !d.Pending || now.Mono.Sub(s.began) >= s.cfg().BGP.GracefulRestart {
			s.speaker.Connect()
		}
	}
	if s.announcer != nil { // an IGP knows no draining; what is on its way is answered, since lo has the address
		faults = append(faults, s.announcer.Set(d.Announce && !d.Draining))
	}
	s.set(errors.Join(faults...))
	if d.Ask && s.asking.CompareAndSwap(false, true) { // after note: nobody may still count on this node when the others are asked
		go s.askOthers(now.Mono)
	}
	if d.Wake == 0 {
		return nil
	}
	return time.After(d.Wake.Sub(now.Mono))
}

// set keeps whether the routes are as decided, and logs it when that, or what is in the way, has changed.
func (s *sidecar) set(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fault := ""
	if err != nil {
		fault = err.Error()
	}
	switch {
	case fault == s.fault:
	case fault == "":
		s.log.Info("the routes are as decided again")
	default:
		s.log.Error("the routes are not as decided; trying again", "error", fault)
	}
	if fault != s.fault {
		s.noted++
	}
	s.applied, s.fault = err == nil, fault
}

// othersTimeout bounds an inquiry: a distribution host gives each member two seconds, and may have begun to ask for somebody else.
const othersTimeout = 6 * time.Second

// askOthers asks how many other nodes remain, and tells the gate. The control loop does not wait for that.
func (s *sidecar) askOthers(asked instant.Mono) {
	defer s.asking.Store(false)
	ctx, cancel := context.WithTimeout(context.Background(), othersTimeout)
	defer cancel()
	members, err := s.mirror.Remaining(ctx)
	remain, unknown := 0, ""
	if err != nil {
		unknown = err.Error()
	}
	for _, name := range members {
		if name != s.cfg().Node {
			remain++
		}
	}
	_ = s.tell(func() { s.gate.Others(sysclock.Now().Mono, asked, remain, unknown) }) // the next answer may be in time
}

// note keeps the decision and logs it when it, or what it rests on, has changed.
func (s *sidecar) note(d gate.Decision) {
	s.mu.Lock()
	defer s.mu.Unlock()
	last := s.decision
	s.decision, s.applied = d, s.applied && d.Announce == last.Announce
	if d.Announce != last.Announce {
		s.noted++
		s.since = time.Now().UTC()
		if s.changes == nil {
			s.changes = map[bool]uint64{}
		}
		s.changes[d.Announce]++
		s.log.Log(context.Background(), weight(d, last), map[bool]string{true: "announcing", false: "withdrawing"}[d.Announce], "why", d.Why)
	} else if !slices.EqualFunc(d.Why, last.Why, func(a, b status.Reason) bool { return a.Code == b.Code }) {
		s.noted++
		level := weight(d, last)
		if starting := d.Why[0].Code == gate.NotReady && time.Since(s.since) < startGrace; starting {
			level = min(level, slog.LevelInfo)
		}
		s.log.Log(context.Background(), level, "reasons have changed", "announced", d.Announce, "why", d.Why)
	}
	if d.Why[0].Code != gate.NotReady {
		s.late = false
	} else if !s.late && time.Since(s.since) >= startGrace {
		s.late = true
		s.log.Warn("not announced yet", "why", d.Why)
	}
}

// startGrace is how long after its start a node may be without an answer before that is worth a warning: the DNS server
// starts beside this process, and reads its zones.
const startGrace = 15 * time.Second

// weight is how much a decision wants to be looked at: nothing that an operator asked for is a warning, and a route that
// goes by itself is an error.
func weight(d, last gate.Decision) slog.Level {
	switch d.Why[0].Code {
	case gate.Draining, gate.Drained, gate.Stopping:
		return slog.LevelInfo
	}
	if last.Announce && !d.Announce {
		return slog.LevelError
	}
	for _, r := range d.Why {
		switch r.Code {
		case gate.Ready, gate.NotReady, gate.ReadvertiseDelay:
		default:
			return slog.LevelWarn
		}
	}
	return slog.LevelInfo
}

// status is the whole of what the sidecar knows.
func (s *sidecar) status() status.Sidecar {
	s.mu.Lock()
	doc := status.Sidecar{Version: status.Version, Node: s.cfg().Node, Software: "anycast-sidecar " + version, Probes: s.probes, Meshsync: s.node}
	s.mu.Unlock()
	s.announced(&doc)
	doc.Clock = s.word()
	if s.mirror != nil {
		m := s.mirror.Status()
		doc.Mirror = &m
	}
	return doc
}

// word is what meshsync hears of this process.
func (s *sidecar) word() status.Clock {
	s.mu.Lock()
	silence := s.silence()
	s.mu.Unlock()
	c := s.clock.Status()
	c.Silence = silence
	if s.mirror != nil {
		c.Members, c.Reached = s.mirror.Held()
	}
	return c
}

// Codes of why the route is not where the gate has decided that it is to be.
const (
	NotTold   = "not-told"   // it is to be announced, and no router has been told
	StillTold = "still-told" // it is to be withdrawn, and a router still has it
)

// announced fills in how the route is: what was decided, and what routers have been told in sessions that are up. One that is decided
// on and known to no router keeps nobody's clients, so it counts as announced for nobody (FAIL-4).
func (s *sidecar) announced(doc *status.Sidecar) {
	s.mu.Lock()
	doc.Wanted, doc.Why, doc.Since, doc.Fault, doc.Drain = s.decision.Announce, s.decision.Why, s.since, s.fault, s.drainOf
	if s.unwritable != nil {
		doc.Warnings = []status.Reason{*s.unwritable}
	}
	speaker, announcer := s.speaker, s.announcer
	s.mu.Unlock() // GoBGP answers in its own time, and nobody else is to wait for that
	if speaker != nil {
		doc.Sessions = speaker.Sessions()
	}
	if announcer != nil {
		doc.IGP = &status.IGP{Interface: s.cfg().IGP.Interface}
		for _, a := range announcer.Announced() {
			doc.IGP.Announced = append(doc.IGP.Announced, a.String())
		}
	}
	doc.Announced = doc.IGP != nil && len(doc.IGP.Announced) > 0 ||
		slices.ContainsFunc(doc.Sessions, func(one status.Session) bool { return len(one.Announced) > 0 })
	switch elsewhere := s.cfg().BGP == nil && s.cfg().IGP == nil; {
	case elsewhere: // something else announces it, as this is asked
		doc.Announced = doc.Wanted
	case doc.Wanted && !doc.Announced:
		doc.Why = append(slices.Clip(doc.Why), status.Reason{Code: NotTold, Detail: "it is to be announced, and no router has been told"})
	case doc.Announced && !doc.Wanted:
		doc.Why = append(slices.Clip(doc.Why), status.Reason{Code: StillTold, Detail: "it is to be withdrawn, and a router still has it"})
	}
}

// confirmation is the node's word of this moment, asked of meshsync anew: an old one could confirm what is no more.
func (s *sidecar) confirmation(ctx context.Context) (status.Confirmation, error) {
	node, state, why := s.readMeshsync(ctx)
	switch state {
	case gate.NoMeshsync:
		return status.Confirmation{}, errNoMeshsync
	case gate.Unreachable:
		c := status.Confirmation{Version: status.Version, Node: s.cfg().Node, At: sysclock.Now().Wall}
		s.confirms(&c)
		c.Remains = false
		return c, &admin.UnwellError{Err: fmt.Errorf("meshsync does not answer, so the node confirms nothing: %s", why[0].Detail), Document: c}
	}
	c := status.ConfirmationOf(*node)
	c.Leap = s.clock.Leap()
	s.confirms(&c)
	c.Remains = c.Remains && state == gate.Serving
	return c, nil
}

// confirms says in a confirmation what needs no word of meshsync: how the route is, and the mirror.
func (s *sidecar) confirms(c *status.Confirmation) {
	var doc status.Sidecar
	s.announced(&doc)
	c.Announced, c.Wanted, c.Why = doc.Announced, doc.Wanted, doc.Why
	c.MirrorFormat = release.ManifestFormat
	c.Sessions, c.IGP = doc.Sessions, doc.IGP
	c.Drained = doc.Drain != nil && !doc.Wanted
	c.Warnings = slices.Concat(c.Warnings, doc.Warnings)
	c.Warnings = append(slices.Clip(c.Warnings), clockWarnings(s.clock.Status(), s.cfg().Clock.Limit)...)
	if s.mirror != nil {
		m := s.mirror.Status()
		c.MirrorError, c.Mirrored, c.Transferring, c.Hears = m.LastError, m.Mirrored, m.Transferring, s.mirror.Hears()
		c.Warnings = append(slices.Clip(c.Warnings), repositoryWarnings(m)...)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	c.Remains = s.decision.Remains && doc.Announced
	if doc.Wanted && !doc.Announced && s.untold != 0 {
		c.Untold = sysclock.Now().Mono.Sub(s.untold)
	}
}

// clockWarnings say that the clock is in holdover, and how long its error stays within the limit if nobody mends it. One that is not
// known at all, or worse than the limit, is told by the gate.
func clockWarnings(c status.Clock, limit time.Duration) []status.Reason {
	if c.State != clock.Holdover {
		return nil
	}
	detail := c.Reason + "; it may be wrong by " + c.Bound.Round(time.Microsecond).String()
	if left := limit - c.Bound; left > 0 && c.Sample.DriftPPM > 0 {
		detail += fmt.Sprintf(", and in %s by more than %v, when it confirms no switchover", ago(left/time.Duration(c.Sample.DriftPPM)*1_000_000), limit)
	}
	return []status.Reason{{Code: status.ClockHoldover, Detail: detail}}
}

// repositoryWarnings name the repositories that are not as they should be while others are followed. That none can be is
// the mirror's error.
func repositoryWarnings(m status.Mirroring) (all []status.Reason) {
	if len(m.Repositories) < 2 || m.LastError != "" {
		return nil
	}
	for _, r := range m.Repositories {
		if r.State != mirror.Good && r.State != mirror.Unseen {
			all = append(all, status.Reason{Code: "repository-" + r.State, Detail: r.URL + ": " + r.Detail})
		}
	}
	return all
}

// promise is what the node holds of a switchover, asked of meshsync anew.
func (s *sidecar) promise(ctx context.Context) (status.Held, error) {
	node, state, why := s.readMeshsync(ctx)
	if state == gate.Unreachable {
		return status.Held{}, fmt.Errorf("meshsync does not answer: %s", why[0].Detail)
	}
	return status.Held{Version: status.Version, Node: node.Node, Lease: node.Depot.Lease, Promise: node.Promise}, nil
}

// asks reports whether meshsync wants to know what other members hold, as it last said.
func (s *sidecar) asks() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.node != nil && s.node.Asks
}

// socketDocument is what the unix socket gives: the clock, as meshsync reads it, and beside it the sidecar's status,
// which the status command reads.
type socketDocument[T status.Sidecar | json.RawMessage] struct {
	status.Clock
	Sidecar T `json:"sidecar"`
}

// statusAge is how old the status on the socket may be while nothing is decided. meshsync reads the socket four times a second for what is
// beside it, and GoBGP takes its time to say how its sessions are.
const statusAge = time.Second

// shown is a status that was given, and how many decisions had been noted before it was made.
type shown struct {
	at    time.Time
	noted uint64
	text  json.RawMessage
}

// socketDocument leaves out what meshsync itself said: it is read often.
func (s *sidecar) socketDocument() socketDocument[json.RawMessage] {
	s.mu.Lock()
	last, noted := s.shown, s.noted
	s.mu.Unlock()
	if last.noted != noted || time.Since(last.at) >= statusAge {
		last = shown{at: time.Now(), noted: noted}
		doc := s.status()
		doc.Meshsync = nil
		last.text, _ = json.Marshal(doc) // of strings, numbers and times, none of which fails
		s.mu.Lock()
		s.shown = last
		s.mu.Unlock()
	}
	return socketDocument[json.RawMessage]{Clock: s.word(), Sidecar: last.text}
}
