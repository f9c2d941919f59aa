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
	"github.com/coredns-anycast/coredns-anycast/internal/xfr"
	"github.com/coredns-anycast/coredns-anycast/internal/zone"
)

// Receiver receives zones. One goroutine, in Run, decides; others ask primaries and read files, and hand it what to do.
type Receiver struct {
	config *Config
	opt    Options
	store  *store

	inbox chan func()   // for the goroutine in Run, which calls them with mu held
	wake  chan struct{} // something is due
	tell  []Update      // to be handed on when mu is not held

	mu       sync.Mutex
	zones    map[string]*secondary
	listings map[string]map[string]member // of catalogs, as last received and not broken
	faults   map[Fault]string             // what is wrong with sources, as far as it is no zone's own
	coming   map[*coming]bool             // zones that are coming
	lines    map[*Group]*line
	nesting  nesting
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

// secondary is a zone that is received: from its primaries, as a secondary server does (RFC 1034 4.3.5), or from a file.
type secondary struct {
	origin  string
	owner   string   // section of the configuration
	group   *Group   // nil: it comes from a file
	catalog *Catalog // it is a catalog zone
	unique  string   // it is a member of a catalog, under this label
	rec     record
	zone    *zone.Zone // what rec tells of, if it is large and was received since the start; nil: it is on disk only
	loaded  bool       // there is data of it, which rec tells of
	noted   time.Time  // rec.Contact as it is on disk
	reset   bool       // what comes next begins anew

	due      time.Time
	waits    *line // it is in that one's queue, nil if it is in none
	index    int   // there
	cancel   context.CancelFunc
	began    time.Time // of the refresh that runs, or ran last
	again    bool      // it is to be refreshed once more
	gone     bool      // it is to be withdrawn when the refresh has ended
	failures int       // refreshes in a row that no primary answered
	expired  bool
	err      string // of the last refresh
	warning  string // of primaries that failed, when another did not, and odd
	odd      string // what of rec's transfer was not taken as it came

	nested      bool   // it lies below a zone of another source
	undelegated string // which does not delegate it
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
	return &Receiver{config: c, opt: o, store: s, inbox: make(chan func()), wake: make(chan struct{}, 1),
		zones: map[string]*secondary{}, listings: map[string]map[string]member{}, lines: map[*Group]*line{}, faults: map[Fault]string{}, coming: map[*coming]bool{}}, nil
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

// decide is the loop that owns the secondaries.
func (r *Receiver) decide(ctx context.Context, tasks *sync.WaitGroup) {
	for ctx.Err() == nil {
		r.mu.Lock()
		r.dropOrphans()
		r.tellGone()
		r.judgeNesting(ctx, tasks)
		next := r.start(ctx, tasks)
		idle := r.once && r.running == 0 && r.waiting() == 0 && r.reading == 0 && !r.nesting.busy && len(r.nesting.due) == 0
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

// start begins the refreshes that are due, and says how long it is to the next one.
func (r *Receiver) start(ctx context.Context, tasks *sync.WaitGroup) time.Duration {
	now := time.Now()
	for {
		sec, wait := r.next(now)
		if sec == nil {
			return wait
		}
		at := sec.leave()
		at.running++
		r.running++
		limited, cancel := context.WithCancel(ctx)
		sec.cancel, sec.began = cancel, now
		ref := r.refreshOf(sec)
		tasks.Go(func() {
			found := ref.run(limited)
			cancel()
			r.hand(ctx, func() { at.running--; r.finish(sec, found) })
		})
	}
}

// plan sets when a zone is refreshed next.
func (r *Receiver) plan(sec *secondary, at time.Time) {
	sec.due = at
	if sec.group != nil && sec.cancel == nil {
		sec.leave()
		heap.Push(r.line(sec.group), sec)
	}
}

// addSecondary begins to receive a zone.
func (r *Receiver) addSecondary(origin, owner string, group *Group) *secondary {
	sec := &secondary{origin: origin, owner: owner, group: group}
	r.zones[origin], r.nesting.changed = sec, true
	return sec
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
			r.addSecondary(name, "zones", z.Primaries)
		}
	}
	for i := range r.config.Catalogs {
		c := &r.config.Catalogs[i]
		r.addSecondary(c.Name, catalogOwner(c.Name), c.Primaries).catalog = c
	}
	for _, rec := range records {
		r.take(rec)
	}
	for _, c := range r.config.Catalogs {
		r.relist(c.Name)
	}
	for _, name := range r.anew {
		if sec := r.zones[name]; sec != nil {
			sec.loaded, sec.reset = false, true
		}
	}
	r.reconcile()
	for _, sec := range r.sorted() {
		if sec.loaded && sec.catalog == nil {
			r.tell = append(r.tell, r.update(sec, Kept))
		}
		r.plan(sec, time.Now())
	}
	return nil
}

// take takes up a record.
func (r *Receiver) take(rec record) {
	if rec.Withdrawn {
		r.gone = append(r.gone, rec)
		return
	}
	sec := r.zones[rec.Origin]
	if rec.Catalog != (sec != nil && sec.catalog != nil) { // a catalog is no zone to release, nor the other way round
		gone := &secondary{origin: rec.Origin, rec: rec, loaded: true}
		if r.complain(rec.Origin, r.store.remove(rec)); !rec.Catalog {
			r.tell = append(r.tell, r.update(gone, Withdrawn))
		}
		return
	}
	if sec == nil {
		sec = r.addSecondary(rec.Origin, rec.Owner, nil)
		sec.unique = rec.Unique
		if !r.configured(rec.Owner) {
			sec.owner = orphan
			r.orphans++
		}
	}
	sec.rec, sec.loaded, sec.noted = rec, true, rec.Contact
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
		if sec := r.zones[c.Name]; sec.began.IsZero() || sec.cancel != nil || sec.err != "" {
			return
		}
	}
	r.orphans = 0
	for _, sec := range r.sorted() {
		if sec.owner == orphan {
			r.opt.Log.Warn("withdrawn: no source is configured for it any more", "zone", sec.origin, "source", sec.rec.Owner)
			r.withdraw(sec)
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
			r.tell = append(r.tell, r.update(&secondary{origin: rec.Origin, rec: rec}, Withdrawn))
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
func (r *Receiver) sorted() []*secondary {
	return slices.SortedFunc(maps.Values(r.zones), func(a, b *secondary) int { return cmp.Compare(a.origin, b.origin) })
}

// update is what is to be told of a zone.
func (r *Receiver) update(sec *secondary, how How) Update {
	return Update{Origin: sec.origin, Serial: sec.rec.Serial, How: how, Source: sec.rec.From, Path: r.store.path(sec.origin, false),
		SHA256: sec.rec.SHA256, Length: sec.rec.Length, Records: sec.rec.Records}
}

// finish takes what a refresh found.
func (r *Receiver) finish(sec *secondary, found found) {
	r.running--
	sec.cancel = nil
	switch {
	case sec.gone:
		r.withdraw(sec)
		r.reconcile() // it may be listed again
		return
	case sec.reset && !found.reset: // it began anew meanwhile
		sec.again = true
	default:
		r.judge(sec, found)
	}
	if r.once && !sec.again {
		return
	}
	wait := sec.wait(r.config.Timers, r.opt.Now())
	if sec.again {
		sec.again = false
		wait = time.Until(sec.began.Add(notifySpacing))
	}
	r.plan(sec, time.Now().Add(wait))
}

// judge takes what a refresh found into the zone's state.
func (r *Receiver) judge(sec *secondary, found found) {
	log := r.opt.Log.With("zone", sec.origin)
	sec.warning, sec.err = "", ""
	if !found.good {
		sec.failures++
		sec.err = found.problems()
		log.Warn("not received", "error", sec.err, "failures", sec.failures)
		if expires := sec.expires(); sec.loaded && !sec.expired && !r.opt.Now().Before(expires) {
			sec.expired = true
			log.Error("EXPIRED: no primary has confirmed this zone for as long as its SOA allows; what is released stays released",
				"since", sec.rec.Contact, "expire_seconds", sec.rec.Expire)
		}
		return
	}
	if sec.warning = found.problems(); sec.warning != "" {
		log.Warn("a primary failed", "error", sec.warning)
	}
	if found.zone != nil {
		sec.odd = strings.Join(found.odd, "; ")
	}
	if sec.odd != "" {
		if found.zone != nil {
			log.Warn("received, and not as it came", "what", sec.odd)
		}
		sec.warning = strings.Join(slices.DeleteFunc([]string{sec.warning, sec.odd}, func(s string) bool { return s == "" }), "; ")
	}
	if sec.expired {
		log.Info("confirmed again after it had expired")
	}
	sec.failures, sec.expired, sec.reset = 0, false, false
	sec.rec, sec.loaded, sec.noted = found.rec, true, found.noted
	if found.zone == nil {
		return
	}
	if sec.zone = nil; sec.group != nil && found.zone.ImageSize() >= LargeImage {
		sec.zone = found.zone
	}
	log.Info("received", "serial", sec.rec.Serial, "how", sec.rec.How, "from", sec.rec.From, "records", sec.rec.Records, "octets", found.octets, "duration", found.duration)
	if sec.catalog != nil {
		r.list(sec.origin, found.zone)
		r.reconcile()
		return
	}
	r.content(sec, found)
}

// content tells of a zone's new content.
func (r *Receiver) content(sec *secondary, found found) {
	if r.nesting.children[sec.origin] != nil {
		r.nesting.due[sec.origin] = true
	}
	u := r.update(sec, sec.rec.How)
	u.Octets, u.Duration, u.Zone, u.Reset = found.octets, found.duration, found.zone, found.reset
	u.Began, u.Whole = found.began, found.whole
	r.tell = append(r.tell, u)
}

// withdraw ends a zone.
func (r *Receiver) withdraw(sec *secondary) {
	if sec.cancel != nil {
		sec.gone = true
		sec.cancel()
		return
	}
	delete(r.zones, sec.origin)
	r.nesting.changed = true
	sec.leave()
	if sec.rec.Origin != "" { // it was received, though it may be about to begin anew
		r.complain(sec.origin, r.store.withdraw(sec.rec))
		r.tell = append(r.tell, r.update(sec, Withdrawn))
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
	sec := r.zones[catalog]
	if !sec.loaded {
		return
	}
	z, err := r.store.load(sec.rec)
	if err != nil { // it will be received anew
		sec.loaded = false
		r.faults[Fault{sec.owner, catalog}] = err.Error()
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

// reconcile brings the secondaries to what the catalogs list.
func (r *Receiver) reconcile() {
	var listings []listing
	owners := map[string]string{}
	for _, c := range r.config.Catalogs {
		if listed, ok := r.listings[c.Name]; ok {
			listings = append(listings, listing{c.Name, c.within(listed)})
		}
		for _, sec := range r.zones {
			if sec.owner == catalogOwner(c.Name) && sec.catalog == nil {
				owners[sec.origin] = c.Name
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

// adopt takes up the members that are a catalog's to have.
func (r *Receiver) adopt(c *Catalog, listed map[string]member, next map[string]string) {
	owner := catalogOwner(c.Name)
	maps.DeleteFunc(r.faults, func(f Fault, _ string) bool { return f.Source == owner && f.What != c.Name })
	for name, m := range listed {
		place := Fault{owner, name}
		sec := r.zones[name]
		if sec != nil && sec.owner == orphan {
			sec.owner, sec.unique, r.nesting.changed = owner, m.unique, true
		}
		if sec != nil && (sec.catalog != nil || !slices.ContainsFunc(r.config.Catalogs, func(c Catalog) bool { return catalogOwner(c.Name) == sec.owner })) {
			r.faults[place] = "the catalog lists a zone that comes from " + sec.owner
			continue
		}
		if !c.holds(name) {
			r.faults[place] = "the catalog lists a zone that is not below " + strings.Join(c.Below, " or ")
			continue
		}
		if next[name] != c.Name && next[name] == m.coo {
			continue // on its way there (RFC 9432 4.4.1)
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
		if sec == nil {
			sec = r.addSecondary(name, owner, group)
			sec.unique = m.unique
			r.plan(sec, time.Now())
			continue
		}
		moved := sec.group != group
		r.nesting.changed = r.nesting.changed || sec.owner != owner
		sec.owner, sec.group = owner, group
		if sec.unique != m.unique {
			r.opt.Log.Warn("begins anew: its catalog has it under another label (RFC 9432 5.4)", "zone", name, "catalog", c.Name)
			sec.unique, sec.loaded, sec.reset, moved = m.unique, false, true, true
			sec.again = sec.cancel != nil
		}
		if moved {
			r.plan(sec, time.Now())
		}
	}
}

// release withdraws the zones that a catalog had and that no catalog lists any more, unless these are too many at once.
func (r *Receiver) release(c *Catalog, owners, next map[string]string) {
	var had, gone []*secondary
	for name, catalog := range owners {
		sec := r.zones[name]
		if catalog != c.Name || sec == nil || sec.owner != catalogOwner(c.Name) {
			continue
		}
		had = append(had, sec)
		if next[name] == "" && !sec.gone {
			gone = append(gone, sec)
		}
	}
	place := Fault{catalogOwner(c.Name), "members"}
	if why := tooMany(len(gone), len(had), c.Limit); why != "" && !r.force {
		r.faults[place] = why
		r.opt.Log.Error(why, "catalog", c.Name)
		return
	}
	for _, sec := range gone {
		r.opt.Log.Warn("withdrawn: its catalog does not list it any more", "zone", sec.origin, "catalog", c.Name)
		r.withdraw(sec)
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
func (sec *secondary) expires() time.Time {
	return sec.rec.Contact.Add(time.Duration(sec.rec.Expire) * time.Second)
}

// wait is how long it is to the next refresh: the SOA's refresh after a good one, and its retry, doubled each time, after a
// bad one; never later than when the zone expires, so that this is said in time.
func (sec *secondary) wait(t Timers, now time.Time) time.Duration {
	refresh := t.MinRefresh
	retry := t.MinRetry
	if sec.loaded {
		refresh = min(max(time.Duration(sec.rec.Refresh)*time.Second, t.MinRefresh), t.MaxRefresh)
		retry = min(max(time.Duration(sec.rec.Retry)*time.Second, t.MinRetry), t.MaxRetry)
	}
	wait := refresh
	if sec.failures > 0 {
		wait = min(retry<<min(sec.failures-1, 10), max(retry, refresh))
	}
	wait -= rand.N(wait/8 + 1)
	if left := sec.expires().Sub(now); sec.loaded && sec.failures > 0 && !sec.expired && left > 0 {
		wait = min(wait, left)
	}
	return wait
}

// Zones is how each zone is, in order of their names.
func (r *Receiver) Zones() []Status {
	r.mu.Lock()
	defer r.mu.Unlock()
	list := []Status{}
	for _, sec := range r.sorted() {
		s := Status{Zone: sec.origin, Source: sec.owner, Receiving: sec.cancel != nil, Catalog: sec.catalog != nil, Error: sec.err,
			Warning: strings.Join(slices.DeleteFunc([]string{sec.warning, sec.undelegated}, func(s string) bool { return s == "" }), "; ")}
		if sec.group != nil {
			s.Checked, s.Next = sec.began, sec.due
		}
		if sec.loaded {
			s.Serial, s.From, s.Records, s.Contact = &sec.rec.Serial, sec.rec.From, sec.rec.Records, sec.rec.Contact
		}
		if sec.loaded && sec.group != nil {
			s.Expires = sec.expires()
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

// refresh is what one refresh of a zone (RFC 1034 4.3.5) needs, so that it shares nothing with the loop.
type refresh struct {
	r      *Receiver
	group  *Group
	rec    record
	zone   *zone.Zone
	noted  time.Time
	loaded bool
	reset  bool
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

func (r *Receiver) refreshOf(sec *secondary) *refresh {
	ref := &refresh{r: r, group: sec.group, rec: sec.rec, zone: sec.zone, noted: sec.noted, loaded: sec.loaded, reset: sec.reset}
	if !sec.loaded {
		ref.rec = record{}
	}
	ref.rec.Origin, ref.rec.Owner, ref.rec.Unique, ref.rec.Catalog = sec.origin, sec.owner, sec.unique, sec.catalog != nil
	return ref
}

// run asks the primaries in order until one has something newer.
func (ref *refresh) run(ctx context.Context) found {
	out := found{reset: ref.reset}
	began := time.Now()
	coming := ref.r.comes(ref.rec.Origin, ref.rec.Records)
	defer ref.r.came(coming)
	for _, p := range ref.group.Servers {
		got, err := ref.ask(ctx, p, coming)
		if err != nil {
			out.errs = append(out.errs, fmt.Errorf("%s: %w", p, err))
			continue
		}
		out.good = true
		if got.Zone == nil {
			continue // another may be ahead
		}
		rec := ref.rec
		rec.From, rec.How, rec.Contact = p.String(), howOf(got), ref.r.opt.Now().UTC().Truncate(time.Second)
		if _, err := ref.r.store.put(&rec, got.Zone, ""); err != nil {
			out.errs, out.good = append(out.errs, err), false
			return out
		}
		out.rec, out.noted, out.zone = rec, rec.Contact, got.Zone
		out.octets, out.began, out.whole, out.duration, out.odd = got.Octets, got.Began, got.Whole, time.Since(began), got.Odd
		return out
	}
	if out.good {
		out.rec, out.noted = ref.rec, ref.noted
		out.rec.Contact = ref.r.opt.Now().UTC().Truncate(time.Second)
		if err := ref.note(&out); err != nil {
			out.errs = append(out.errs, err)
		}
	}
	return out
}

// howOf says how a zone was transferred.
func howOf(got xfr.Transferred) How {
	if got.Incremental {
		return IXFR
	}
	return AXFR
}

// note writes down that the zone was confirmed, if what is on disk is so old that it would expire too early for it after a
// restart: a write for each confirmation is too much for many zones.
func (ref *refresh) note(out *found) error {
	if out.rec.Contact.Sub(ref.noted) < time.Duration(ref.rec.Expire)*time.Second/32 {
		return nil
	}
	out.noted = out.rec.Contact
	return ref.r.store.note(out.rec)
}

// ask asks one primary. A zone comes back if it is newer than what we have.
func (ref *refresh) ask(ctx context.Context, p xfr.Primary, coming *coming) (xfr.Transferred, error) {
	c := &xfr.Client{Limits: ref.r.config.Limits, Now: ref.r.opt.Now, Coming: coming.tell}
	soa, s, err := c.SOA(ctx, p, ref.rec.Origin)
	if err != nil {
		return xfr.Transferred{}, cmp.Or(ctx.Err(), err)
	}
	if ref.loaded {
		if err := ref.forward(soa.Serial); err != nil || soa.Serial == ref.rec.Serial {
			if s != nil {
				s.Close()
			}
			return xfr.Transferred{}, err
		}
	}
	var have *xfr.Version
	if ref.loaded {
		have = &xfr.Version{Serial: ref.rec.Serial, Records: ref.rec.Records}
	}
	got, doubt, err := c.Transfer(ctx, p, s, ref.rec.Origin, have, ref.before)
	if doubt != nil {
		ref.r.opt.Log.Info("differences could not be had, so the whole zone was asked for", "zone", ref.rec.Origin, "primary", p, "why", doubt)
	}
	if err == nil && got.Zone != nil && ref.loaded {
		if err = ref.forward(got.Zone.Serial()); got.Zone.Serial() == ref.rec.Serial {
			got.Zone = nil
		}
	}
	if err == nil && got.Zone != nil && ref.rec.Catalog {
		_, err = members(got.Zone)
	}
	return got, err
}

// before is the zone that we hold.
func (ref *refresh) before() (*zone.Zone, error) {
	if ref.zone != nil && ref.zone.Serial() == ref.rec.Serial {
		return ref.zone, nil
	}
	return ref.r.store.load(ref.rec)
}

// forward refuses a serial that goes backwards.
func (ref *refresh) forward(serial uint32) error {
	if serial == ref.rec.Serial || xfr.Newer(serial, ref.rec.Serial) {
		return nil
	}
	return fmt.Errorf("serial %d is not above %d, which we hold (RFC 1982): not taken", serial, ref.rec.Serial)
}
