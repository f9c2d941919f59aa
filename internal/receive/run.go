package receive

import (
	"context"
	"log/slog"
	"math"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/depot"
	"github.com/coredns-anycast/coredns-anycast/internal/instant"
	"github.com/coredns-anycast/coredns-anycast/internal/refresh"
	"github.com/coredns-anycast/coredns-anycast/internal/sysclock"
	"github.com/coredns-anycast/coredns-anycast/internal/zone"
)

// Receiver receives zones. What is to be done is decided by a refresh.Secondary, which is told of everything with mu held. One goroutine,
// in Run, waits for what it decides next; tasks ask primaries, read files, and take NOTIFY.
type Receiver struct {
	config *Config
	opt    Options
	store  *store
	groups map[*refresh.Group]*Group
	decide refresh.Config

	wake  chan struct{}                                              // something has happened
	spawn func(task func(context.Context)) (stop context.CancelFunc) // begins a task; set by run
	ended func() bool                                                // Run is to end; set by run

	settling atomic.Int64 // files that are to be read when they have not changed for a while
	unread   atomic.Int64 // directories that were not gone through yet

	mu        sync.Mutex
	set       *refresh.Secondary            // nil before run
	images    map[string]*zone.Zone         // of what is held, those that are large and were received since the start
	tidying   map[string]*tidying           // what is made of these beside
	texts     map[string]*writtenText       // that are written beside
	stops     map[string]context.CancelFunc // of rounds
	whole     map[string]bool               // zones whose text is wanted: see WriteText
	tell      []Update                      // to be handed on when mu is not held
	coming    map[*coming]bool              // zones that are coming
	unfit     map[string]Unfit              // by directory
	orders    map[string]bool               // that were taken and are not answered, by ID
	badOrders map[string]bool               // that were complained of
	left      map[string]error              // zones that were withdrawn, and could not be removed
}

// New makes a Receiver of a configuration.
func New(c *Config, o Options) (*Receiver, error) {
	if err := c.readSecrets(); err != nil {
		return nil, err
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Updated == nil {
		o.Updated = func(Update) {}
	}
	s, err := openStore(o.Zones, o.State)
	if err != nil {
		return nil, err
	}
	for _, k := range c.weakKeys() {
		o.Log.Warn("hmac-sha1 must not be used for new keys (RFC 8945 6): have the primary take hmac-sha256", "key", k)
	}
	r := &Receiver{config: c, opt: o, store: s, wake: make(chan struct{}, 1), images: map[string]*zone.Zone{}, tidying: map[string]*tidying{}, texts: map[string]*writtenText{}, stops: map[string]context.CancelFunc{},
		whole: map[string]bool{}, unfit: map[string]Unfit{}, coming: map[*coming]bool{},
		orders: map[string]bool{}, badOrders: map[string]bool{}, left: map[string]error{}}
	r.unread.Store(int64(len(c.Directories)))
	r.decide, r.groups = c.deciding()
	r.decide.Spread = 1 + rand.Uint64N(math.MaxUint64)
	return r, nil
}

// Run receives until ctx ends, which is no error. It is called once.
func (r *Receiver) Run(ctx context.Context) error { return r.run(ctx) }

// RefreshOptions are an operator's word on what is otherwise refused.
type RefreshOptions struct {
	Withdraw bool     // zones that are gone from their sources are withdrawn however many they are
	Reset    []string // zones that begin anew, whatever serial their sources have
}

// Refresh asks every source once, and returns when what they have is received. What could not be is in Zones and Faults.
func (r *Receiver) Refresh(ctx context.Context, o RefreshOptions) error {
	r.decide.Once, r.decide.Force, r.decide.Anew = true, o.Withdraw, o.Reset
	return r.run(ctx)
}

func (r *Receiver) run(ctx context.Context) error {
	lock, err := depot.LockDir(r.opt.State)
	if err != nil {
		return err
	}
	defer lock.Unlock()
	ctx, cancel := context.WithCancel(ctx)
	var tasks sync.WaitGroup
	defer tasks.Wait()
	defer cancel()
	r.ended = func() bool { return ctx.Err() != nil }
	r.spawn = func(task func(context.Context)) context.CancelFunc {
		limited, stop := context.WithCancel(ctx)
		tasks.Go(func() {
			defer stop()
			task(limited)
		})
		return stop
	}
	if err := r.store.sweep(tempPrefix); err != nil {
		return err
	}
	if err := r.restore(); err != nil {
		return err
	}
	if !r.decide.Once && len(r.config.Notify.Listen) > 0 {
		stop, err := r.listen(ctx, &tasks)
		if err != nil {
			return err
		}
		defer stop()
	}
	r.takeOrders()
	var folders []*folder
	for _, d := range r.config.Directories {
		w := newFolder(r, d)
		folders = append(folders, w)
		tasks.Go(func() {
			w.watch(ctx, sync.OnceFunc(func() { r.do(func(instant.Instant) { r.set.DirectoryRead(w.owner) }) }))
		})
	}
	tasks.Go(func() { r.followOrders(ctx, folders) })
	r.loop(ctx)
	return nil
}

// restore takes up what was received before.
func (r *Receiver) restore() error {
	records, err := r.store.records()
	if err != nil {
		return err
	}
	held, err := r.recover(records)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.set = refresh.New(r.decide, held)
	for _, rec := range r.set.Catalogs() {
		z, err := r.store.load(rec)
		var members map[string]refresh.Member
		if err == nil {
			members, err = refresh.Members(z)
		}
		r.set.Listed(rec.Origin, members, err)
	}
	r.set.Begin(r.now())
	return nil
}

// recover is those of some records of which all is there, as their journals say. Nobody else looks at images yet.
func (r *Receiver) recover(records []record) (held []record, err error) {
	for _, rec := range records {
		z, whole, err := r.store.recover(&rec)
		if err != nil {
			return nil, err
		}
		if z != nil {
			r.images[rec.Origin] = z
		}
		if whole {
			held = append(held, rec)
		}
	}
	return held, nil
}

// now is the time on both clocks.
func (r *Receiver) now() instant.Instant {
	return instant.Instant{Wall: instant.WallOf(r.opt.Now()), Mono: sysclock.Now().Mono}
}

// loop waits for what is due, and hands on what is told, until ctx ends or a Refresh is over.
func (r *Receiver) loop(ctx context.Context) {
	for ctx.Err() == nil {
		r.mu.Lock()
		d := r.carryOut(r.now())
		updates := r.tell
		r.tell = nil
		r.mu.Unlock()
		for _, u := range updates {
			r.opt.Updated(u)
		}
		if d.Idle {
			return
		}
		timer := time.NewTimer(d.Wait)
		select {
		case <-ctx.Done():
		case <-timer.C:
		case <-r.wake:
		}
		timer.Stop()
	}
}

// do tells set of something, and carries out what it decides, with mu held: nobody else sees a zone between the decision to withdraw
// it and that its text is gone. When Run is to end nothing is done any more.
func (r *Receiver) do(tell func(now instant.Instant)) {
	if r.ended() {
		return
	}
	r.mu.Lock()
	now := r.now()
	tell(now)
	r.carryOut(now)
	r.mu.Unlock()
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// carryOut does what is decided. It is called with mu held.
func (r *Receiver) carryOut(now instant.Instant) refresh.Decision {
	d := r.set.Decide(now)
	for _, a := range d.Actions {
		switch a.Do {
		case refresh.Start:
			image := r.images[a.Origin]
			r.stops[a.Origin] = r.spawn(func(ctx context.Context) { r.round(ctx, a.Round, image) })
		case refresh.Stop:
			r.stops[a.Origin]()
		case refresh.Tell:
			r.tell = append(r.tell, r.update(a.Record, a.How))
		case refresh.Withdraw:
			delete(r.images, a.Origin)
			delete(r.tidying, a.Origin)
			r.dropText(a.Origin)
			delete(r.whole, a.Origin)
			delete(r.left, a.Origin)
			if err := r.store.withdraw(a.Record); err != nil {
				r.left[a.Origin] = err
				r.complain(a.Origin, err)
			}
		case refresh.Remove:
			r.complain(a.Origin, r.store.remove(a.Record))
		case refresh.Answer:
			r.answer(a.ID, a.Fates)
		case refresh.Judge:
			image := r.images[a.Origin]
			r.spawn(func(ctx context.Context) { r.judgeNesting(ctx, a, image) })
		case refresh.Say:
			r.opt.Log.Log(context.Background(), levels[a.Level], a.Text, a.Args...)
		}
	}
	return d
}

var levels = map[refresh.Level]slog.Level{refresh.Info: slog.LevelInfo, refresh.Warn: slog.LevelWarn, refresh.Error: slog.LevelError}

// judgeNesting looks which zones the one above them does not delegate.
func (r *Receiver) judgeNesting(ctx context.Context, a refresh.Action, z *zone.Zone) {
	verdicts := map[string]string{}
	if z == nil || z.Serial() != a.Record.Serial {
		z, _ = r.store.read(a.Record) // where it cannot be read, that is said elsewhere, or a round is writing what will be judged next
	}
	for _, child := range a.Children {
		if z != nil && ctx.Err() == nil {
			verdicts[child] = refresh.Undelegated(z, child, a.Owner)
		}
	}
	r.do(func(instant.Instant) { r.set.Judged(verdicts) })
}

// WriteText has the text of a zone written, if it is not (Update.SHA256), so that somebody may look at it: at once, or when a primary
// answers for the zone.
func (r *Receiver) WriteText(origin string) {
	r.mu.Lock()
	runs := r.set != nil
	r.mu.Unlock()
	if !runs {
		return
	}
	r.do(func(now instant.Instant) {
		if rec, held := r.set.Held(origin); held && rec.Journal.Steps > 0 && !r.whole[origin] {
			r.whole[origin] = true
			r.set.Notified(now, origin)
		}
	})
}

// wantsText reports whether the text of a zone is wanted.
func (r *Receiver) wantsText(origin string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.whole[origin]
}

// Forget ends that a zone is told of as withdrawn at each start: no release has it any more. It may be called from Updated.
func (r *Receiver) Forget(origin string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.set != nil && r.set.Follows(origin) {
		return
	}
	r.complain(origin, r.store.forget(origin))
}

// complain says that something of a zone that was withdrawn is still there.
func (r *Receiver) complain(origin string, err error) {
	if err != nil {
		r.opt.Log.Error("what is left of a withdrawn zone cannot be removed", "zone", origin, "error", err)
	}
}

// update is what is to be told of a zone.
func (r *Receiver) update(rec record, how How) Update {
	u := Update{Origin: rec.Origin, Serial: rec.Serial, How: how, Source: rec.From, Path: r.store.path(rec.Origin, false),
		SHA256: rec.SHA256, Length: rec.Length, Root: rec.Root, Records: rec.Records}
	if rec.Journal.Steps > 0 {
		u.SHA256, u.Length = "", 0
	}
	return u
}

// Zones is how each zone is, in order of their names.
func (r *Receiver) Zones() []Status {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.set == nil {
		return []Status{}
	}
	return r.set.Status(r.now())
}

// Failing are those of Zones whose last refresh failed, or that are expired.
func (r *Receiver) Failing() []Status {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.set == nil {
		return []Status{}
	}
	return r.set.Failing(r.now())
}

// Faults is what is wrong with sources, beside what Zones says of single zones.
func (r *Receiver) Faults() map[Fault]string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.set == nil {
		return map[Fault]string{}
	}
	return r.set.Faults()
}
