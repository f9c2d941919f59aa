package receive

import (
	"cmp"
	"container/heap"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/depot"
	"github.com/coredns-anycast/coredns-anycast/internal/zone"
)

// Receiver receives zones. One goroutine, in Run, decides; others ask primaries and read files, and hand it what to do.
type Receiver struct {
	config *Config
	opt    Options
	store  *store
	client client

	inbox chan func()   // for the goroutine in Run, which calls them with mu held
	wake  chan struct{} // something is due
	tell  []Update      // to be handed on when mu is not held

	mu       sync.Mutex
	zones    map[string]*follow
	listings map[string]map[string]member // of catalogs, as last received and not broken
	faults   map[Fault]string             // what is wrong with sources, as far as it is no zone's own
	coming   map[*coming]bool             // zones that are coming
	lines    map[*Group]*line
	running  int
	reading  int // directories that were not read once yet
	orphans  int // zones that were received before from what is not configured any more
	once     bool
	force    bool     // more may be withdrawn than the limits say
	anew     []string // zones that begin anew
	gone     []record // zones that were withdrawn before this start and not forgotten; nil once that is told
}

// Fault is something wrong with a source that is not a single zone's, such as a file or a broken catalog.
type Fault struct {
	Source string `json:"source"`
	What   string `json:"what"` // file, or zone
}

// follow is a zone that is followed.
type follow struct {
	origin  string
	owner   string   // section of the configuration
	group   *Group   // nil: it comes from a file
	catalog *Catalog // it is a catalog zone
	unique  string   // it is a member of a catalog, under this label
	rec     record
	zone    *zone.Zone // what rec tells of, if it is large and was received since the start; nil: it is on disk only
	held    bool       // rec is
	noted   time.Time  // rec.Contact as it is on disk
	reset   bool       // what comes next begins anew

	due      time.Time
	waits    *line // it is in that one's queue, nil if it is in none
	index    int   // there
	cancel   context.CancelFunc
	began    time.Time // of the look that runs, or ran last
	again    bool      // it is to be looked for once more
	gone     bool      // it is to be withdrawn when the look has ended
	failures int       // looks in a row that found no primary
	expired  bool
	err      string // of the last look
	warning  string // of primaries that failed, when another did not, and odd
	odd      string // what of rec's transfer was not taken as it came
}

// New makes a Receiver of a configuration.
func New(c *Config, o Options) (*Receiver, error) {
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
	return &Receiver{config: c, opt: o, store: s, client: client{c.Limits, o.Now, nil}, inbox: make(chan func()), wake: make(chan struct{}, 1),
		zones: map[string]*follow{}, listings: map[string]map[string]member{}, lines: map[*Group]*line{}, faults: map[Fault]string{}, coming: map[*coming]bool{}}, nil
}

// Run receives until ctx ends, which is no error. It is called once.
func (r *Receiver) Run(ctx context.Context) error { return r.run(ctx) }

// RoundOptions are an operator's word on what is otherwise refused.
type RoundOptions struct {
	Withdraw bool     // zones that are gone from their sources are withdrawn however many they are
	Reset    []string // zones that begin anew, whatever serial their sources have
}

// Round looks at every source once, and returns when what they have is received. What could not be is in Zones and Faults.
func (r *Receiver) Round(ctx context.Context, o RoundOptions) error {
	r.once, r.force = true, o.Withdraw
	r.anew = o.Reset
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
	if err := r.store.sweep(); err != nil {
		return err
	}
	if err := r.restore(); err != nil {
		return err
	}
	if !r.once && len(r.config.Notify.Listen) > 0 {
		stop, err := r.listen(ctx, &tasks)
		if err != nil {
			return err
		}
		defer stop()
	}
	r.reading = len(r.config.Directories)
	for _, d := range r.config.Directories {
		w := newFolder(r, d)
		tasks.Go(func() { w.watch(ctx, sync.OnceFunc(func() { r.hand(ctx, func() { r.reading-- }) })) })
	}
	r.decide(ctx, &tasks)
	return nil
}

// decide is the loop that owns what is followed.
func (r *Receiver) decide(ctx context.Context, tasks *sync.WaitGroup) {
	for ctx.Err() == nil {
		r.mu.Lock()
		r.dropOrphans()
		r.tellGone()
		next := r.start(ctx, tasks)
		idle := r.once && r.running == 0 && r.waiting() == 0 && r.reading == 0
		updates := r.tell
		r.tell = nil
		r.mu.Unlock()
		for _, u := range updates {
			r.opt.Updated(u)
		}
		if idle {
			return
		}
		timer := time.NewTimer(next)
		select {
		case <-ctx.Done():
		case <-timer.C:
		case <-r.wake:
		case do := <-r.inbox:
			r.mu.Lock()
			do()
			r.mu.Unlock()
		}
		timer.Stop()
	}
}

// hand gives the loop something to do.
func (r *Receiver) hand(ctx context.Context, do func()) {
	select {
	case r.inbox <- do:
	case <-ctx.Done():
	}
}

// start begins the looks that are due, and says how long it is to the next one.
func (r *Receiver) start(ctx context.Context, tasks *sync.WaitGroup) time.Duration {
	now := time.Now()
	for {
		f, wait := r.next(now)
		if f == nil {
			return wait
		}
		at := f.leave()
		at.running++
		r.running++
		look, cancel := context.WithCancel(ctx)
		f.cancel, f.began = cancel, now
		l := r.lookOf(f)
		tasks.Go(func() {
			found := l.run(look)
			cancel()
			r.hand(ctx, func() { at.running--; r.finish(f, found) })
		})
	}
}

// plan sets when a zone is looked for next.
func (r *Receiver) plan(f *follow, at time.Time) {
	f.due = at
	if f.group != nil && f.cancel == nil {
		f.leave()
		heap.Push(r.line(f.group), f)
	}
}

// follows begins to follow a zone.
func (r *Receiver) follows(origin, owner string, group *Group) *follow {
	f := &follow{origin: origin, owner: owner, group: group}
	r.zones[origin] = f
	return f
}

// restore takes up what was received before, and tells of it.
func (r *Receiver) restore() error {
	records, err := r.store.records()
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, z := range r.config.Zones {
		for _, name := range z.Names {
			r.follows(name, "zones", z.Primaries)
		}
	}
	for i := range r.config.Catalogs {
		c := &r.config.Catalogs[i]
		r.follows(c.Name, catalogOwner(c.Name), c.Primaries).catalog = c
	}
	for _, rec := range records {
		r.take(rec)
	}
	for _, c := range r.config.Catalogs {
		r.relist(c.Name)
	}
	for _, name := range r.anew {
		if f := r.zones[name]; f != nil {
			f.held, f.reset = false, true
		}
	}
	r.reconcile()
	for _, f := range r.sorted() {
		if f.held && f.catalog == nil {
			r.tell = append(r.tell, r.update(f, Kept))
		}
		r.plan(f, time.Now())
	}
	return nil
}

// take takes up a record.
func (r *Receiver) take(rec record) {
	if rec.Withdrawn {
		r.gone = append(r.gone, rec)
		return
	}
	f := r.zones[rec.Origin]
	if rec.Catalog != (f != nil && f.catalog != nil) { // a catalog is no zone to release, nor the other way round
		gone := &follow{origin: rec.Origin, rec: rec, held: true}
		if r.complain(rec.Origin, r.store.remove(rec)); !rec.Catalog {
			r.tell = append(r.tell, r.update(gone, Withdrawn))
		}
		return
	}
	if f == nil {
		f = r.follows(rec.Origin, rec.Owner, nil)
		f.unique = rec.Unique
		if !r.configured(rec.Owner) {
			f.owner = orphan
			r.orphans++
		}
	}
	f.rec, f.held, f.noted = rec, true, rec.Contact
}

// orphan owns a zone whose section is not configured any more, until another section takes it, or all are right and none
// has.
const orphan = "nothing that is configured"

// configured reports whether the section that a zone came by is still there.
func (r *Receiver) configured(owner string) bool {
	return slices.ContainsFunc(r.config.Directories, func(d Directory) bool { return directoryOwner(d.Path) == owner }) ||
		slices.ContainsFunc(r.config.Catalogs, func(c Catalog) bool { return catalogOwner(c.Name) == owner })
}

// dropOrphans withdraws what nobody has taken.
func (r *Receiver) dropOrphans() {
	if r.orphans == 0 || r.reading > 0 || len(r.faults) > 0 {
		return
	}
	for _, c := range r.config.Catalogs {
		if f := r.zones[c.Name]; f.began.IsZero() || f.cancel != nil || f.err != "" {
			return
		}
	}
	r.orphans = 0
	for _, f := range r.sorted() {
		if f.owner == orphan {
			r.opt.Log.Warn("withdrawn: no source is configured for it any more", "zone", f.origin, "source", f.rec.Owner)
			r.withdraw(f)
		}
	}
}

// tellGone tells once more of what was withdrawn and not forgotten, unless a source has it again.
func (r *Receiver) tellGone() {
	if r.reading > 0 {
		return
	}
	for _, rec := range r.gone {
		if r.zones[rec.Origin] == nil {
			r.tell = append(r.tell, r.update(&follow{origin: rec.Origin, rec: rec}, Withdrawn))
		}
	}
	r.gone = nil
}

// Forget ends that a zone is told of as withdrawn at each start: no release has it any more. It may be called from Updated.
func (r *Receiver) Forget(origin string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.zones[origin] != nil {
		return
	}
	r.complain(origin, r.store.forget(origin))
}

func catalogOwner(name string) string   { return "catalog " + name }
func directoryOwner(path string) string { return "directory " + path }

// sorted are the zones in order of their names.
func (r *Receiver) sorted() []*follow {
	return slices.SortedFunc(maps.Values(r.zones), func(a, b *follow) int { return cmp.Compare(a.origin, b.origin) })
}

// update is what is to be told of a zone.
func (r *Receiver) update(f *follow, how How) Update {
	return Update{Origin: f.origin, Serial: f.rec.Serial, How: how, Source: f.rec.From, Path: r.store.path(f.origin, false),
		SHA256: f.rec.SHA256, Length: f.rec.Length, Records: f.rec.Records}
}

// finish takes what a look found.
func (r *Receiver) finish(f *follow, found found) {
	r.running--
	f.cancel = nil
	switch {
	case f.gone:
		r.withdraw(f)
		r.reconcile() // it may be listed again
		return
	case f.reset && !found.reset: // it began anew meanwhile
		f.again = true
	default:
		r.judge(f, found)
	}
	if r.once && !f.again {
		return
	}
	wait := f.wait(r.config.Timers, r.opt.Now())
	if f.again {
		f.again = false
		wait = time.Until(f.began.Add(notifySpacing))
	}
	r.plan(f, time.Now().Add(wait))
}

// judge takes what a look found into the zone's state.
func (r *Receiver) judge(f *follow, found found) {
	log := r.opt.Log.With("zone", f.origin)
	f.warning, f.err = "", ""
	if !found.good {
		f.failures++
		f.err = found.problems()
		log.Warn("not received", "error", f.err, "failures", f.failures)
		if expires := f.expires(); f.held && !f.expired && !r.opt.Now().Before(expires) {
			f.expired = true
			log.Error("EXPIRED: no primary has confirmed this zone for as long as its SOA allows; what is released stays released",
				"since", f.rec.Contact, "expire_seconds", f.rec.Expire)
		}
		return
	}
	if f.warning = found.problems(); f.warning != "" {
		log.Warn("a primary failed", "error", f.warning)
	}
	if found.zone != nil {
		f.odd = strings.Join(found.odd, "; ")
	}
	if f.odd != "" {
		if found.zone != nil {
			log.Warn("received, and not as it came", "what", f.odd)
		}
		f.warning = strings.Join(slices.DeleteFunc([]string{f.warning, f.odd}, func(s string) bool { return s == "" }), "; ")
	}
	if f.expired {
		log.Info("confirmed again after it had expired")
	}
	f.failures, f.expired, f.reset = 0, false, false
	f.rec, f.held, f.noted = found.rec, true, found.noted
	if found.zone == nil {
		return
	}
	if f.zone = nil; f.group != nil && found.zone.ImageSize() >= LargeImage {
		f.zone = found.zone
	}
	log.Info("received", "serial", f.rec.Serial, "how", f.rec.How, "from", f.rec.From, "records", f.rec.Records, "octets", found.octets, "duration", found.duration)
	if f.catalog != nil {
		r.list(f.origin, found.zone)
		r.reconcile()
		return
	}
	r.content(f, found)
}

// content tells of a zone's new content.
func (r *Receiver) content(f *follow, found found) {
	u := r.update(f, f.rec.How)
	u.Octets, u.Duration, u.Zone, u.Reset = found.octets, found.duration, found.zone, found.reset
	u.Began, u.Whole = found.began, found.whole
	r.tell = append(r.tell, u)
}

// withdraw ends a zone.
func (r *Receiver) withdraw(f *follow) {
	if f.cancel != nil {
		f.gone = true
		f.cancel()
		return
	}
	delete(r.zones, f.origin)
	f.leave()
	if f.rec.Origin != "" { // it was received, though it may be about to begin anew
		r.complain(f.origin, r.store.withdraw(f.rec))
		r.tell = append(r.tell, r.update(f, Withdrawn))
	}
}

// complain says that something of a zone that was withdrawn is still there.
func (r *Receiver) complain(origin string, err error) {
	if err != nil {
		r.opt.Log.Error("what is left of a withdrawn zone cannot be removed", "zone", origin, "error", err)
	}
}

// relist takes up the listing of a catalog that was received before.
func (r *Receiver) relist(catalog string) {
	f := r.zones[catalog]
	if !f.held {
		return
	}
	z, err := r.store.load(f.rec)
	if err != nil { // it will be received anew
		f.held = false
		r.faults[Fault{f.owner, catalog}] = err.Error()
		return
	}
	r.list(catalog, z)
}

// list takes the listing of a catalog. One that is broken was not taken (RFC 9432 5.1).
func (r *Receiver) list(catalog string, z *zone.Zone) {
	place := Fault{catalogOwner(catalog), catalog}
	delete(r.faults, place)
	listed, err := members(z)
	if err != nil {
		r.faults[place] = err.Error()
		return
	}
	r.listings[catalog] = listed
}

// reconcile brings what is followed to what the catalogs list.
func (r *Receiver) reconcile() {
	var listings []listing
	owners := map[string]string{}
	for _, c := range r.config.Catalogs {
		if listed, ok := r.listings[c.Name]; ok {
			listings = append(listings, listing{c.Name, listed})
		}
		for _, f := range r.zones {
			if f.owner == catalogOwner(c.Name) && f.catalog == nil {
				owners[f.origin] = c.Name
			}
		}
	}
	next := assign(listings, owners)
	for i := range r.config.Catalogs {
		c := &r.config.Catalogs[i]
		if listed, ok := r.listings[c.Name]; ok {
			r.adopt(c, listed, next)
			r.release(c, owners, next)
		}
	}
}

// adopt follows the members that are a catalog's to follow.
func (r *Receiver) adopt(c *Catalog, listed map[string]member, next map[string]string) {
	owner := catalogOwner(c.Name)
	maps.DeleteFunc(r.faults, func(f Fault, _ string) bool { return f.Source == owner && f.What != c.Name })
	for name, m := range listed {
		place := Fault{owner, name}
		f := r.zones[name]
		if f != nil && f.owner == orphan {
			f.owner, f.unique = owner, m.unique
		}
		if f != nil && (f.catalog != nil || !slices.ContainsFunc(r.config.Catalogs, func(c Catalog) bool { return catalogOwner(c.Name) == f.owner })) {
			r.faults[place] = "the catalog lists a zone that comes from " + f.owner
			continue
		}
		if next[name] != c.Name {
			r.faults[place] = "the catalog lists a zone that is followed by catalog " + next[name]
			continue
		}
		group := c.Members
		for _, g := range m.groups {
			if named := c.Groups[g]; named != nil {
				group = named
				break
			}
		}
		if f == nil {
			f = r.follows(name, owner, group)
			f.unique = m.unique
			r.plan(f, time.Now())
			continue
		}
		moved := f.group != group
		f.owner, f.group = owner, group
		if f.unique != m.unique {
			r.opt.Log.Warn("begins anew: its catalog has it under another label (RFC 9432 5.4)", "zone", name, "catalog", c.Name)
			f.unique, f.held, f.reset, moved = m.unique, false, true, true
			f.again = f.cancel != nil
		}
		if moved {
			r.plan(f, time.Now())
		}
	}
}

// release withdraws the zones that a catalog had and that no catalog lists any more, unless these are too many at once.
func (r *Receiver) release(c *Catalog, owners, next map[string]string) {
	var had, gone []*follow
	for name, catalog := range owners {
		f := r.zones[name]
		if catalog != c.Name || f == nil || f.owner != catalogOwner(c.Name) {
			continue
		}
		had = append(had, f)
		if next[name] == "" && !f.gone {
			gone = append(gone, f)
		}
	}
	place := Fault{catalogOwner(c.Name), "members"}
	if why := tooMany(len(gone), len(had), c.Limit); why != "" && !r.force {
		r.faults[place] = why
		r.opt.Log.Error(why, "catalog", c.Name)
		return
	}
	for _, f := range gone {
		r.opt.Log.Warn("withdrawn: its catalog does not list it any more", "zone", f.origin, "catalog", c.Name)
		r.withdraw(f)
	}
}

// tooMany says why so many zones are not withdrawn at once; empty if they may be. One always may.
func tooMany(gone, had, percent int) string {
	if gone <= 1 || gone*100 <= had*percent {
		return ""
	}
	return fmt.Sprintf("%d of %d zones are gone at once, and the limit is %d %%: none is withdrawn, which meshctl receive --withdraw does", gone, had, percent)
}

// expires is when a zone is too old without contact, in wall time (RFC 1035 3.3.13).
func (f *follow) expires() time.Time {
	return f.rec.Contact.Add(time.Duration(f.rec.Expire) * time.Second)
}

// wait is how long it is to the next look: the SOA's refresh after a good one, and its retry, doubled each time, after a
// bad one; never later than when the zone expires, so that this is said in time.
func (f *follow) wait(t Timers, now time.Time) time.Duration {
	refresh := t.MinRefresh
	retry := t.MinRetry
	if f.held {
		refresh = min(max(time.Duration(f.rec.Refresh)*time.Second, t.MinRefresh), t.MaxRefresh)
		retry = min(max(time.Duration(f.rec.Retry)*time.Second, t.MinRetry), t.MaxRetry)
	}
	wait := refresh
	if f.failures > 0 {
		wait = min(retry<<min(f.failures-1, 10), max(retry, refresh))
	}
	wait -= rand.N(wait/8 + 1)
	if left := f.expires().Sub(now); f.held && f.failures > 0 && !f.expired && left > 0 {
		wait = min(wait, left)
	}
	return wait
}

// Zones is how each zone is, in order of their names.
func (r *Receiver) Zones() []Status {
	r.mu.Lock()
	defer r.mu.Unlock()
	list := []Status{}
	for _, f := range r.sorted() {
		s := Status{Zone: f.origin, Source: f.owner, Receiving: f.cancel != nil, Catalog: f.catalog != nil, Error: f.err, Warning: f.warning}
		if f.group != nil {
			s.Checked, s.Next = f.began, f.due
		}
		if f.held {
			s.Serial, s.From, s.Records, s.Contact = &f.rec.Serial, f.rec.From, f.rec.Records, f.rec.Contact
		}
		if f.held && f.group != nil {
			s.Expires = f.expires()
			s.Expired = !r.opt.Now().Before(s.Expires)
		}
		list = append(list, s)
	}
	return list
}

// Faults is what is wrong with sources, beside what Zones says of single zones.
func (r *Receiver) Faults() map[Fault]string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.faults)
}

// look is what one look at a zone's primaries needs, so that it shares nothing with the loop.
type look struct {
	r     *Receiver
	group *Group
	rec   record
	zone  *zone.Zone
	noted time.Time
	held  bool
	reset bool
}

// LargeImage is the size in octets from which a zone is kept in memory when it was received: to read it again takes longer
// than whoever waits for it would like, and there are few.
const LargeImage = 1 << 20

// found is what it found.
type found struct {
	good     bool       // a primary has what rec says
	rec      record     // if good
	noted    time.Time  // its Contact as it is on disk
	zone     *zone.Zone // new content
	octets   int64
	began    time.Time
	whole    time.Time
	duration time.Duration
	reset    bool
	errs     []error
	odd      []string // of the transfer, which was taken all the same
}

func (f found) problems() string {
	if err := errors.Join(f.errs...); err != nil {
		return err.Error()
	}
	return ""
}

func (r *Receiver) lookOf(f *follow) *look {
	l := &look{r: r, group: f.group, rec: f.rec, zone: f.zone, noted: f.noted, held: f.held, reset: f.reset}
	if !f.held {
		l.rec = record{}
	}
	l.rec.Origin, l.rec.Owner, l.rec.Unique, l.rec.Catalog = f.origin, f.owner, f.unique, f.catalog != nil
	return l
}

// run asks the primaries in order until one has something newer.
func (l *look) run(ctx context.Context) found {
	out := found{reset: l.reset}
	began := time.Now()
	coming := l.r.comes(l.rec.Origin, l.rec.Records)
	defer l.r.came(coming)
	for _, p := range l.group.Servers {
		got, err := l.ask(ctx, p, coming)
		if err != nil {
			out.errs = append(out.errs, fmt.Errorf("%s: %w", p, err))
			continue
		}
		out.good = true
		if got.zone == nil {
			continue // another may be ahead
		}
		rec := l.rec
		rec.From, rec.How, rec.Contact = p.String(), got.how, l.r.opt.Now().UTC().Truncate(time.Second)
		if _, err := l.r.store.put(&rec, got.zone, ""); err != nil {
			out.errs, out.good = append(out.errs, err), false
			return out
		}
		out.rec, out.noted, out.zone = rec, rec.Contact, got.zone
		out.octets, out.began, out.whole, out.duration, out.odd = got.octets, got.began, got.whole, time.Since(began), got.odd
		return out
	}
	if out.good {
		out.rec, out.noted = l.rec, l.noted
		out.rec.Contact = l.r.opt.Now().UTC().Truncate(time.Second)
		if err := l.note(&out); err != nil {
			out.errs = append(out.errs, err)
		}
	}
	return out
}

// note writes down that the zone was confirmed, if what is on disk is so old that it would expire too early for it after a
// restart: a write for each confirmation is too much for many zones.
func (l *look) note(out *found) error {
	if out.rec.Contact.Sub(l.noted) < time.Duration(l.rec.Expire)*time.Second/32 {
		return nil
	}
	out.noted = out.rec.Contact
	return l.r.store.note(out.rec)
}

// ask asks one primary. A zone comes back if it is newer than what we have.
func (l *look) ask(ctx context.Context, p Primary, coming *coming) (transferred, error) {
	c := &client{l.r.client.limits, l.r.client.now, coming}
	soa, s, err := c.poll(ctx, p, l.rec.Origin)
	if err != nil {
		return transferred{}, cmpErr(ctx.Err(), err)
	}
	if l.held {
		if err := l.forward(soa.Serial); err != nil || soa.Serial == l.rec.Serial {
			if s != nil {
				s.Close()
			}
			return transferred{}, err
		}
	}
	var have *held
	if l.held {
		have = &held{l.rec.Serial, l.rec.Records}
	}
	got, doubt, err := c.transfer(ctx, p, s, l.rec.Origin, have, l.before)
	if doubt != nil {
		l.r.opt.Log.Info("differences could not be had, so the whole zone was asked for", "zone", l.rec.Origin, "primary", p, "why", doubt)
	}
	if err == nil && got.zone != nil && l.held {
		if err = l.forward(got.zone.Serial()); got.zone.Serial() == l.rec.Serial {
			got.zone = nil
		}
	}
	if err == nil && got.zone != nil && l.rec.Catalog {
		_, err = members(got.zone)
	}
	return got, err
}

// before is the zone that we hold.
func (l *look) before() (*zone.Zone, error) {
	if l.zone != nil && l.zone.Serial() == l.rec.Serial {
		return l.zone, nil
	}
	return l.r.store.load(l.rec)
}

// forward refuses a serial that goes backwards.
func (l *look) forward(serial uint32) error {
	if serial == l.rec.Serial || newer(serial, l.rec.Serial) {
		return nil
	}
	return fmt.Errorf("serial %d is not above %d, which we hold (RFC 1982): not taken", serial, l.rec.Serial)
}
