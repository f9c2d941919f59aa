package unattended

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/config"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/history"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/home"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/releasing"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/switchover"
	"github.com/coredns-anycast/coredns-anycast/internal/beside"
	"github.com/coredns-anycast/coredns-anycast/internal/depot"
	"github.com/coredns-anycast/coredns-anycast/internal/receive"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
	"github.com/coredns-anycast/coredns-anycast/internal/zone"
)

// Cycle is RFC 3258 2.3 unattended, up to the release: what is received is checked and released, by the same steps that are
// commands. Its driver sees releases through. Any command may be given beside it, and any number of hosts may run one.
type Cycle struct {
	Home   *home.Home
	Driver *switchover.Driver
	Config *config.Config
	Log    *slog.Logger

	lately *releasing.Lately // for the goroutine that makes releases; what it checks, for all
	tried  time.Time         // when it last made one, or tried to, or began: all that is there then goes out together

	mu       sync.Mutex
	pending  map[string]arrival // by origin, since it was last released
	wake     chan struct{}
	judged   map[string]judged // zones that are held back
	stopped  judged            // what held back everything
	said     map[string]string // by what goes on, the last that was logged
	state    CycleState
	receiver *receive.Receiver // nil: nothing is received
}

// arrival is a zone that was received, and when that was known.
type arrival struct {
	receive.Update
	at time.Time
}

// source is where to read it.
func (a arrival) source() releasing.Source {
	s := releasing.Source{Origin: a.Origin, File: a.Path}
	if err := s.Text.UnmarshalText([]byte(a.SHA256)); err == nil || a.SHA256 == "" {
		s.Zone = a.Zone
	}
	return s
}

// content tells what arrived from other content: by the digest of the text, or by the zone's root where the text is not written yet.
func (a arrival) content() string {
	if a.SHA256 == "" && a.Zone != nil {
		return "root " + release.Digest(a.Zone.Root()).String()
	}
	return a.SHA256
}

// is reports whether a release is known to have what arrived.
func (a arrival) is(has *release.Zone, lately *releasing.Lately) bool {
	root := a.Root
	if a.Zone != nil {
		root = release.Digest(a.Zone.Root()).String()
	}
	switch {
	case root != "" && has.Root != (release.Digest{}):
		return has.Root.String() == root
	case a.SHA256 != "":
		return has.Whole() && has.SHA256.String() == a.SHA256
	}
	released := lately.Zone(has.Content()) // of a format before: the zone is known from its release
	return a.Zone != nil && released != nil && released.Root() == a.Zone.Root()
}

// judged is content that had errors, which is not judged again for a while.
type judged struct {
	content string // digest of a zone, or of all that was to be released
	at      time.Time
	why     string // the first error, by its rule
}

// withdrawal is the content of a zone that is to go.
const withdrawal = "withdrawn"

func (j judged) holds(content string, now time.Time, retry time.Duration) bool {
	return j.content == content && now.Before(j.at.Add(retry))
}

// todo is what of the pending is not in the latest release.
type todo struct {
	sources   []releasing.Source
	digests   map[string]string // of the sources, by origin
	withdrawn []string
	received  []history.Receipt // of the sources, if they were not here at the start
}

func (t todo) empty() bool { return len(t.sources) == 0 && len(t.withdrawn) == 0 }

// content tells one lot of things to do from another.
func (t todo) content() string {
	return fmt.Sprint(t.digests, t.withdrawn) // maps are printed in the order of their keys
}

// CycleState is how the cycle goes, for the metrics.
type CycleState struct {
	Received map[string]uint64 // zones received, by how
	Released uint64            // releases made here
	Blocked  bool              // the last attempt at a release was blocked by findings
	By       string            // the first of them that is an error, with its zone
	Failed   string            // why attempts end in an error; empty: the last did not
	Since    time.Time         // the first of them in a row
	Held     []string          // zones whose last good data stays
	Why      map[string]string // the first error of each, by its rule
	Stay     []string          // zones that their source has no more, and that stay: too many would go
	Sources  []receive.Status  // that fail, or are expired
	Faults   map[receive.Fault]string
	Untaken  map[receive.Fault]time.Time // since when what a source has is not taken, by a fault or a zone (without Source)
}

// State is how the cycle goes.
func (c *Cycle) State() CycleState {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.state
	s.Received, s.Why = maps.Clone(s.Received), maps.Clone(s.Why)
	return s
}

// Run receives and goes round until ctx ends, or nothing can be received at all.
func (c *Cycle) Run(ctx context.Context) error {
	c.begin()
	running, ctx := errgroup.WithContext(ctx)
	if c.Config.Sources != nil {
		r, err := receive.New(c.Config.Sources, receive.Options{
			Zones: c.Home.Path("zones"), State: c.Home.ReceivedDir(),
			Now: c.Home.Now, Log: c.Log, Updated: c.received})
		if err != nil {
			return err
		}
		c.mu.Lock()
		c.receiver = r
		c.mu.Unlock()
		running.Go(func() error { return r.Run(ctx) })
		running.Go(func() error { c.watch(ctx, r); return nil })
	}
	running.Go(func() error { c.turns(ctx); return nil })
	return running.Wait()
}

func (c *Cycle) begin() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pending, c.judged, c.said = map[string]arrival{}, map[string]judged{}, map[string]string{}
	c.wake, c.lately = make(chan struct{}, 1), releasing.NewLately()
	c.state.Received = map[string]uint64{}
}

// turns goes round until ctx ends.
func (c *Cycle) turns(ctx context.Context) {
	c.tried = time.Now()
	var open sync.WaitGroup
	defer open.Wait()
	run := func(work func()) { open.Go(func() { beside.Run(ctx, work) }) } // behind all else, and one at a time, as what the receiver does beside
	for c.sleep(ctx) == nil {
		if err := c.turn(ctx); err != nil && ctx.Err() == nil {
			c.fail(err)
		}
		c.lately.Daily(ctx, c.Home.Now(), run, func(found []zone.Finding) { c.report(ctx, found) })
		c.lately.Base(ctx, run, c.putBeside(ctx), func(err error) { c.Log.Warn("the text of a zone could not be written beside", "error", err) })
	}
}

// putBeside stores what a release to come is to name.
func (c *Cycle) putBeside(ctx context.Context) func(write func(io.Writer) error) (depot.Content, error) {
	return func(write func(io.Writer) error) (depot.Content, error) {
		r, err := c.Home.Read(ctx)
		if err != nil {
			return depot.Content{}, err
		}
		defer r.Close()
		return r.Repository().PutBeside(write)
	}
}

// fail keeps why an attempt at a release ended in an error, whatever the zones are.
func (c *Cycle) fail(err error) {
	c.say("cycle", err.Error(), "the cycle could not go on; it is tried again")
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state.Failed == "" {
		c.state.Since = c.Home.Now()
	}
	c.state.Failed = err.Error()
}

// sleep waits until there may be something to release: something was received, a switchover is over, or it is time to look; then for what
// comes along with it, and until Every has passed since a release was made, or tried, last.
func (c *Cycle) sleep(ctx context.Context) error {
	var over <-chan struct{}
	if c.Driver != nil {
		over = c.Driver.Over()
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-c.wake:
	case <-over:
	case <-time.After(lookEvery):
	}
	if err := home.Pause(ctx, max(gather, c.Config.Releases.Every-time.Since(c.tried))); err != nil {
		return err
	}
	if err := gathered(ctx, beginMost, c.is((*receive.Receiver).Beginning)); err != nil {
		return err
	}
	return gathered(ctx, gatherMost, c.is((*receive.Receiver).Settling))
}

// is asks the receiver, if there is one.
func (c *Cycle) is(so func(*receive.Receiver) bool) func() bool {
	return func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.receiver != nil && so(c.receiver)
	}
}

// gathered waits for what comes, which goes out together with what was received already: in a release of its own it would wait for the switchover
// of this one. What always changes is not waited for.
func gathered(ctx context.Context, most time.Duration, comes func() bool) error {
	for waited := time.Duration(0); waited < most && comes(); waited += gatherEvery {
		if err := home.Pause(ctx, gatherEvery); err != nil {
			return err
		}
	}
	return nil
}

const (
	// lookEvery is how often the schedule is looked at though nothing was received.
	lookEvery = 5 * time.Second
	// gather is how long a release waits for what is received together with its first zone.
	gather = 100 * time.Millisecond
	// gatherMost is how long it waits at the most, after that, for files that settle, and gatherEvery how often it looks.
	gatherMost, gatherEvery = time.Second, 20 * time.Millisecond
	// beginMost is how long it waits at the most for directories of which nothing was read yet, or not all: a mesh's first release has all of their zones.
	beginMost = 5 * time.Minute
)

// watch keeps how the sources are.
func (c *Cycle) watch(ctx context.Context, r *receive.Receiver) {
	for home.Pause(ctx, lookEvery) == nil {
		c.keepSources(r.Failing(), r.Faults())
	}
}

// keepSources keeps which zones fail, what is wrong with sources, and since when something of them is not taken.
func (c *Cycle) keepSources(zones []receive.Status, faults map[receive.Fault]string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.state.Sources, c.state.Faults = zones, faults
	before := c.state.Untaken
	c.state.Untaken = map[receive.Fault]time.Time{}
	note := func(place receive.Fault) {
		since, known := before[place]
		if !known {
			since = c.Home.Now()
		}
		c.state.Untaken[place] = since
	}
	for place := range faults {
		note(place)
	}
	for _, z := range zones {
		if z.Error != "" {
			note(receive.Fault{What: z.Zone})
		}
	}
	for _, zone := range c.state.Held {
		note(receive.Fault{What: zone})
	}
}

// received takes in a zone.
func (c *Cycle) received(u receive.Update) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if u.Zone != nil && u.Zone.ImageSize() < receive.LargeImage {
		u.Zone = nil // what is released is read from the file: a hundred thousand zones are not held twice
	}
	c.pending[u.Origin] = arrival{u, c.Home.Now()}
	c.state.Received[string(u.How)]++
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// say logs something that goes on once, until something else is said of the same matter; "" says that it is over.
func (c *Cycle) say(matter, detail, message string) {
	if c.said[matter] == detail {
		return
	}
	c.said[matter] = detail
	if detail != "" {
		c.Log.Error(message, "detail", detail)
	}
}

// turn is one round: a release of what was received, if that is possible. The driver sees it through.
func (c *Cycle) turn(ctx context.Context) error {
	began := c.Home.Now()
	made, err := c.release(ctx)
	if err != nil {
		return err
	}
	c.say("cycle", "", "")
	c.mu.Lock()
	c.state.Failed = ""
	c.mu.Unlock()
	if made != nil && !made.Current {
		c.Driver.Made(made.Release.Number, began, c.Home.Now())
	}
	return nil
}

// soon is how close a switchover must be for a release to wait until it is over, beside the lead. One that is farther away, because it waits
// for leases to end, gives way to newer data.
const soon = time.Minute

// waits reports whether the next release must wait for the one before: until its switchover is over, or, for as long as members
// may take to have it ready, until there is one. Else zones that change all the time would never be switched to. Where members hear late, the lead
// may be longer than a minute, and they hear of the release as late.
func (c *Cycle) waits(m release.Manifest, now time.Time) bool {
	next, lead := m.Next, time.Duration(0)
	if c.Driver != nil {
		lead = c.Driver.Lead()
	}
	switch {
	case next == nil:
		return false
	case next.Switchover.IsZero():
		return c.Driver != nil && now.Before(c.Driver.Published(next.Number).Add(missingPatience+lead))
	}
	return next.Committed || next.Switchover.Before(now.Add(soon+lead))
}

// todo sorts what is pending. What is in the latest release already is not pending any more. Where errors held everything
// back, nothing goes out until something of it changes: to go on without the zone that has them is "hold-zone".
func (c *Cycle) todo(latest *release.Release) (t todo) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now, retry := c.Home.Now(), c.Config.Releases.Retry
	t.digests, c.state.Held, c.state.Stay, c.state.Why = map[string]string{}, nil, nil, map[string]string{}
	for _, origin := range slices.Sorted(maps.Keys(c.pending)) {
		u := c.pending[origin]
		has := latest.Zone(origin)
		switch {
		case u.How == receive.Withdrawn && has == nil:
			delete(c.pending, origin)
			if c.receiver != nil {
				c.receiver.Forget(origin)
			}
		case u.How != receive.Withdrawn && has != nil && u.is(has, c.lately):
			delete(c.pending, origin)
		case u.How == receive.Withdrawn:
			if c.judged[origin].content == withdrawal {
				c.state.Stay, c.state.Why[origin] = append(c.state.Stay, origin), c.judged[origin].why
			}
			if !c.judged[origin].holds(withdrawal, now, retry) {
				t.withdrawn = append(t.withdrawn, origin)
			}
		default:
			if c.judged[origin].content == u.content() {
				c.state.Held, c.state.Why[origin] = append(c.state.Held, origin), c.judged[origin].why
			}
			if !c.judged[origin].holds(u.content(), now, retry) {
				t.sources = append(t.sources, u.source())
				t.digests[origin] = u.content()
				if !u.Whole.IsZero() {
					t.received = append(t.received, history.Receipt{Zone: origin, How: u.How, From: u.Source, Octets: u.Octets,
						Began: u.Began.UTC(), Whole: u.Whole.UTC(), Kept: u.at.UTC()})
				}
			}
		}
	}
	if c.state.Blocked, c.state.By = !t.empty() && c.stopped.content == t.content(), ""; c.state.Blocked {
		c.state.By = c.stopped.why
	}
	if c.stopped.holds(t.content(), now, retry) {
		return todo{}
	}
	return t
}

// release makes a release of what is pending; nil if there is nothing, or nothing that may be released.
func (c *Cycle) release(ctx context.Context) (made *releasing.Made, err error) {
	var found []zone.Finding
	var t todo
	err = c.Home.Write(ctx, func(w *home.Writer) error {
		made = nil
		m := w.View().Manifest
		if c.waits(m, w.Now()) || w.State().Paused != "" || c.Driver != nil && c.Driver.Forbidden() != nil {
			return nil
		}
		if t = c.todo(m.Latest()); t.empty() {
			return nil
		}
		made, found, err = releasing.Make(ctx, w, t.sources, releasing.Options{Keep: true, Unattended: true, Now: m.Current == nil, Withdraw: t.withdrawn,
			By: "meshctl serve", Config: c.Config.File, Received: t.received, Lately: c.lately})
		c.tried = time.Now()
		if made != nil {
			c.lately.Keep(t.sources, w.View().Manifest)
		}
		return err
	})
	c.report(ctx, found)
	var blocked *releasing.BlockedError
	if errors.As(err, &blocked) {
		detail := "see the findings above"
		if blocked.Request != "" {
			detail += "; a second person may sign " + blocked.Request
		}
		c.say("blocked", detail, "nothing is released: zones have errors")
		c.stop(t, found)
		return nil, nil
	}
	if err != nil || made == nil {
		return nil, err
	}
	c.say("blocked", "", "")
	if made.Request != "" { // it was judged anew
		c.Log.Error("zones are held back, see the findings above", "held", len(made.Held), "to_sign", made.Request)
	}
	c.released(t, made, found)
	if made.Release.Number == 0 {
		return nil, nil
	}
	c.Log.Info("release made", "number", made.Release.Number, "current", made.Current, "added", len(made.Added),
		"changed", len(made.Changed), "withdrawn", len(made.Withdrawn), "held", len(made.Held))
	return made, nil
}

// stop remembers what had errors that held back everything.
func (c *Cycle) stop(t todo, found []zone.Finding) {
	c.mu.Lock()
	defer c.mu.Unlock()
	why := ""
	if i := slices.IndexFunc(found, func(f zone.Finding) bool { return f.Severity == zone.Error }); i >= 0 {
		why = found[i].Zone + " " + firstError(found[i:], found[i].Zone)
	}
	c.state.Blocked, c.state.By, c.stopped = true, why, judged{t.content(), c.Home.Now(), why}
}

// released remembers which zones were held back, as they were judged: they may have been received anew meanwhile.
func (c *Cycle) released(t todo, made *releasing.Made, found []zone.Finding) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stopped = judged{}
	for origin := range t.digests {
		delete(c.judged, origin)
	}
	for _, origin := range t.withdrawn {
		delete(c.judged, origin)
	}
	for _, source := range t.sources { // of some it could not be told before they were read
		z, u := made.Release.Zone(source.Origin), c.pending[source.Origin]
		if z != nil && z.Content() == source.Content && u.content() == t.digests[source.Origin] {
			delete(c.pending, source.Origin)
		}
	}
	for _, held := range made.Held {
		content, list := t.digests[held.Origin], &c.state.Held
		if held.Withdrawn {
			content, list = withdrawal, &c.state.Stay
		}
		c.judged[held.Origin] = judged{content, c.Home.Now(), firstError(found, held.Origin)}
		c.state.Why[held.Origin] = c.judged[held.Origin].why
		if !slices.Contains(*list, held.Origin) {
			*list = append(*list, held.Origin)
		}
	}
	if made.Release.Number != 0 {
		c.state.Released++
	}
}

// firstError is what is wrong with a zone, by its rule; there may be more, which the log has.
func firstError(found []zone.Finding, origin string) string {
	for _, f := range found {
		if f.Zone == origin && f.Severity == zone.Error {
			return f.Rule + ": " + f.Detail
		}
	}
	return ""
}

// report logs findings: errors and warnings of zones that are about to go out. Of those with errors an operator may want to look at the
// text.
func (c *Cycle) report(ctx context.Context, found []zone.Finding) {
	for _, f := range found {
		level := slog.LevelWarn
		if f.Severity == zone.Error {
			level = slog.LevelError
			if c.receiver != nil {
				c.receiver.WriteText(f.Zone)
			}
		}
		c.Log.Log(ctx, level, "finding", "zone", f.Zone, "owner", f.Owner, "rule", f.Rule, "detail", f.Detail)
	}
}
