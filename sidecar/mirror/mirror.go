// Package mirror follows the mesh's repository over HTTPS and keeps this node's depot up to it (SYNC-C, DELIV-1..3).
//
// It decides when to look and where; depot.Look and Take fetch, verify and install, so nothing unverified gets into the
// depot. repositories.go has the choice among several. Beside that it asks the distribution hosts, whose URLs it has, for a newer certificate, and who remains (Remaining).
// It may import depot and release. main calls it.
package mirror

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/depot"
	"github.com/coredns-anycast/coredns-anycast/internal/identity"
	"github.com/coredns-anycast/coredns-anycast/internal/instant"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
)

// Config is fixed for the life of a Mirror.
type Config struct {
	Node     string            // this node's name as a member
	URLs     []string          // all are looked at; of what is equally new, the first is taken
	CA       map[string]string // by URL: "system" or a PEM file, where the mesh's CA does not speak for the server
	Depot    string            // directory, made when missing
	Root     string            // file: the trusted root that a node starts from
	Interval time.Duration

	Bandwidth int64 // bytes a second that zones may take; 0: unbounded
	Disk      int64 // bytes that the zones' files may take; 0: unbounded

	Identity *identity.Identity // this node as a client, and whom it trusts

	Refused func() []status.Refused // releases that meshsync refuses; nil: nobody knows
	Damaged func() bool             // meshsync finds zones' names damaged that the depot holds; nil: nobody knows
}

// Mirror is the loop and what it says of itself.
type Mirror struct {
	cfg      Config
	log      *slog.Logger
	client   *http.Client            // of the mesh's servers
	listener *http.Client            // of the same, for requests that are held
	hosts    *http.Client            // of the same, for questions that must not wait for downloads
	public   map[string]*http.Client // of others, by CA

	repositories []*repository // in the order of the configuration
	ended        chan struct{} // closed, and made anew, when a look at one has ended
	looks        sync.WaitGroup
	news         chan struct{} // that there is something new in one

	memory  *release.Memory // what was verified; nil: not read yet
	swept   bool
	pace    *depot.Pace // nil: unbounded
	depot   depot.Known // what is known of the depot
	taken   stamp       // the newest that was taken
	read    time.Time   // when the zones are to be read through next
	found   wrongs      // what all zones were looked at for last
	search  time.Time   // not before then are they for the same
	renewed time.Time   // when a newer certificate was asked for last

	mu       sync.Mutex
	state    status.Mirroring
	failures int // looks in a row
	came     arrived
	interval time.Duration // from one look to the next
	known    known
	knownNew chan struct{} // closed, and made anew, when another timestamp is
	rounding bool          // a round is under way
	ends     int           // rounds that have ended

	members members

	coming    coming
	moving    moving
	listed    bool // operators are those of a manifest that was verified, or of a node that never verified one
	operators []release.Operator
}

// coming is the latest release, since when it is asked for, and how many bytes of zones had come before.
type coming struct {
	number uint64
	began  time.Time
	before int64
	here   bool
}

func New(cfg Config, log *slog.Logger) *Mirror {
	m := &Mirror{cfg: cfg, log: log, client: newClient(cfg.Identity.Transport(newTransport())),
		hosts: newClient(cfg.Identity.Transport(newTransport())), public: map[string]*http.Client{}}
	holding := newTransport()
	holding.ResponseHeaderTimeout = 0 // they are held, for as long as listen says
	m.listener = newClient(cfg.Identity.Transport(holding))
	m.ended, m.interval = make(chan struct{}), cfg.Interval
	m.news, m.knownNew = make(chan struct{}, 1), make(chan struct{})
	m.members.wake, m.members.attend = make(chan struct{}, 1), make(chan struct{}, 1)
	for _, url := range cfg.URLs {
		m.repositories = append(m.repositories, &repository{url: url})
	}
	if cfg.Bandwidth > 0 {
		m.pace = depot.NewPace(cfg.Bandwidth)
	}
	return m
}

const (
	// fetchBudget is how long zones are fetched before what came with them is looked at again: a lease or a switchover
	// waits no longer for a large zone.
	fetchBudget = 3 * time.Second
	// Zones that are there are read through, for damage by the disk, in a thousandth of the time, but no more often than
	// readLeast and no less often than readMost: large ones take seconds.
	readLeast, readMost, readShare = 10 * time.Second, time.Hour, 1000
	// While meshsync finds something wrong, they are looked at for that in a tenth of the time: of a hundred thousand each look takes seconds.
	searchShare = 10
)

// Run follows the repository until ctx ends. What goes wrong is in the status and in the log, and is tried again.
func (m *Mirror) Run(ctx context.Context) {
	m.recall()
	var listening sync.WaitGroup
	defer listening.Wait()
	defer m.looks.Wait() // a look that is cut short leaves what came
	for _, r := range m.repositories {
		if m.cfg.CA[r.url] == "" { // a bucket or a CDN holds nothing
			listening.Go(func() { m.listen(ctx, r) })
		}
	}
	backoff := time.Second
	for ctx.Err() == nil {
		interval := m.every()
		wait := interval
		if err := m.round(ctx); errors.Is(err, depot.ErrUnfinished) {
			wait = 0
		} else if err != nil {
			wait = min(backoff, interval)
			backoff = min(2*backoff, interval)
		} else {
			backoff = time.Second
		}
		// Jitter by a tenth keeps the nodes of a mesh from asking all at once.
		wait += time.Duration((rand.Float64() - 0.5) * 0.2 * float64(wait))
		m.rest(ctx, wait)
	}
}

// SetInterval changes how long it is from one look to the next.
func (m *Mirror) SetInterval(interval time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.interval = interval
}

func (m *Mirror) every() time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.interval
}

// rest waits, and no longer than until a repository that was still looked at turns out to be newer than what was taken.
func (m *Mirror) rest(ctx context.Context, wait time.Duration) {
	due := time.After(wait)
	for {
		m.mu.Lock()
		ended := m.ended
		news := slices.ContainsFunc(m.repositories, func(r *repository) bool { return r.fresh && r.err == nil && r.newest.compare(m.taken) > 0 })
		m.mu.Unlock()
		if news {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-due:
			return
		case <-m.members.wake:
			return
		case <-m.news:
			return
		case <-ended:
		}
	}
}

// round looks at all repositories and brings the depot up to the newest that is good.
func (m *Mirror) round(ctx context.Context) error {
	m.rounds(true)
	defer m.rounds(false)
	dir, err := depot.Create(m.cfg.Depot)
	if err != nil {
		return m.failed(ctx, err)
	}
	defer dir.Close()
	lock, err := depot.LockDir(m.cfg.Depot)
	if err != nil {
		return m.failed(ctx, err)
	}
	defer lock.Unlock()
	if !m.swept { // what a process before this one left half-written may be large
		if err := dir.Sweep(); err != nil {
			return m.failed(ctx, err)
		}
		m.swept = true
	}
	memory, err := m.remembered()
	if err != nil {
		return m.failed(ctx, err)
	}
	began, before := time.Now(), m.Status().ZoneBytes
	m.look(ctx, memory)
	now, from, err := m.followAny(ctx, dir)
	now.took, now.zones = time.Since(began), now.zones || m.Status().ZoneBytes != before
	m.rounded(now)
	if now.good {
		m.renew(ctx, m.renewer(from))
	}
	if fault := m.followMembers(ctx, dir); fault != nil {
		m.log.Warn("newer metadata of a member was of no use", "error", fault)
	}
	return err
}

// followAny brings the depot up to the newest repository that is good, and says which that was.
func (m *Mirror) followAny(ctx context.Context, dir *depot.Dir) (now round, from string, err error) {
	defer m.judge()
	var faults []error
	for _, r := range m.order() {
		changed, deep, err := m.follow(ctx, dir, r)
		now.zones = now.zones || deep
		if unfinished := errors.Is(err, depot.ErrUnfinished); err == nil || unfinished {
			m.good(r, changed)
			now.good, now.news = true, changed
			return now, r.url, err
		}
		faults = append(faults, fmt.Errorf("%s: %w", r.url, err))
	}
	return now, "", m.failed(ctx, errors.Join(faults...))
}

// follow brings the depot up to what was found in one repository. What was learnt is kept before anything else is asked
// (SYNC-G). deep: zones were read through, which takes time.
func (m *Mirror) follow(ctx context.Context, dir *depot.Dir, r *repository) (changed, deep bool, err error) {
	memory, err := m.remembered()
	if err != nil {
		return false, false, err
	}
	m.mu.Lock()
	found, err := r.last, r.err
	m.mu.Unlock()
	if found == nil {
		return false, false, cmp.Or(err, errNotLookedAt)
	}
	began, before := time.Now(), m.Status().ZoneBytes
	wrong := m.wrong(began)
	deep = !began.Before(m.read) || wrong.damaged
	if wrong.refused { // something that was here may have gone
		m.depot.Doubt()
	}
	from, came := m.source(r, found.Number()), transfer{first: -1}
	view, memory, changed, err := found.Take(ctx, depot.Source{Client: from.client, URL: from.url, Note: m.note,
		Moved: func(n depot.Moved) { came.at(m.moved(n)) }, Deep: deep, Urgent: wrong.damaged, Pace: m.pace, Budget: fetchBudget, Room: m.cfg.Disk, Known: &m.depot, Texts: wrong.packs}, dir, memory)
	if came.first >= 0 {
		m.measure(from, found.Number(), came.last-came.first, time.Since(began))
	}
	if err != nil && from != r {
		err = fmt.Errorf("zones from %s: %w", from.url, err)
	}
	switch {
	case deep && err == nil:
		m.read = time.Now().Add(min(max(readShare*time.Since(began), readLeast), readMost))
	case deep: // the names of the zones were read through; not with each look until all have come, which may be never
		m.read = time.Now().Add(readLeast)
	}
	if wrong != (wrongs{}) && (err == nil || wrong.damaged && m.depot.Read().After(began)) { // though others do not come
		m.found, m.search = wrong, time.Now().Add(min(searchShare*time.Since(began), readMost))
	}
	if !errors.Is(err, depot.ErrUnfinished) {
		m.still()
	}
	m.track(coming{view.Manifest.Newest(), began, before, err == nil})
	return changed, deep, errors.Join(err, m.keep(view, memory))
}

// wrongs are what meshsync finds wrong, as far as all zones are to be looked at again for it.
type wrongs struct {
	refused bool // a release
	packs   bool // it could not make a zone of the packs that are here, and so needs its text
	damaged bool // a file is not what was signed, so that all are read through
}

// ofDamage are the codes of a release that is refused for a file that is there, and is not what was signed.
var ofDamage = []string{string(release.Torn), string(release.Length), string(release.Mismatch), string(release.Unreadable)}

func (m *Mirror) wrong(now time.Time) (w wrongs) {
	if m.cfg.Refused != nil {
		for _, r := range m.cfg.Refused() {
			w.refused = true
			w.packs = w.packs || r.Reason.Code == string(release.Packs)
			w.damaged = w.damaged || slices.Contains(ofDamage, r.Reason.Code)
		}
	}
	w.damaged = w.damaged || m.cfg.Damaged != nil && m.cfg.Damaged()
	if w == (wrongs{}) {
		m.found = w // what is wrong after that is something else
	}
	if w == m.found && now.Before(m.search) {
		return wrongs{}
	}
	return w
}

// keep makes durable what was learnt, and takes it in.
func (m *Mirror) keep(view release.View, memory release.Memory) error {
	err := m.remember(memory)
	if now := (stamp{view.Versions.Root, view.Versions.Timestamp}); view.Manifest.Format != 0 && now.compare(m.taken) > 0 {
		m.taken = now
	}
	if view.Manifest.Format != 0 { // verified, whatever else went wrong; and durable, or the next process knows less
		m.learn(view.Manifest.Operators)
		m.learnt(view)
		m.knows(memory, view)
	}
	return err
}

// transfer is how many bytes of a release's zones were here when one began, and as it went on.
type transfer struct{ first, last int64 }

func (t *transfer) at(done int64) {
	if t.last = done; t.first < 0 {
		t.first = done
	}
}

var errNotLookedAt = errors.New("the look at it is not over")

// track keeps when a release came, however many rounds that took. What was there at the start came at a time that is not
// known.
func (m *Mirror) track(now coming) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if now.number == 0 {
		return
	}
	here := now.here
	if now.number == m.coming.number {
		now = m.coming
	} else {
		now.here = here && m.coming.number == 0 && m.state.ZoneBytes == 0
	}
	if here && !now.here {
		m.state.Mirrored = &status.Step{Number: now.number, Began: instant.WallOf(now.began), Done: instant.WallOf(time.Now()),
			Bytes: m.state.ZoneBytes - now.before}
	}
	now.here = now.here || here
	m.coming = now
}

// moving is a release of which zones are coming, since when, and how many bytes of zones had come before.
type moving struct {
	number uint64
	began  time.Time
	before int64
}

// moved keeps how far the transfer of a release's zones is, over all rounds that it takes.
func (m *Mirror) moved(now depot.Moved) (done int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.state.Transferring == nil || m.moving.number != now.Number {
		m.moving = moving{now.Number, time.Now(), m.state.ZoneBytes}
	}
	done = m.state.ZoneBytes - m.moving.before + now.Came
	m.state.Transferring = &status.Progress{What: "transferring", Subject: fmt.Sprintf("release %d", now.Number),
		Done: done, Of: done + now.Left, Unit: "bytes", Began: instant.WallOf(m.moving.began), Seconds: time.Since(m.moving.began).Seconds()}
	return done
}

// still says that nothing is coming.
func (m *Mirror) still() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.state.Transferring = nil
}

// recall takes the operators from what was verified before, since a repository may be out of reach for days.
func (m *Mirror) recall() {
	memory, err := m.remembered()
	if err == nil && !memory.Verified() {
		m.learn(nil)
		return
	}
	var view release.View
	if err == nil {
		view, _, err = release.Restore(memory, nil)
	}
	if err != nil && !release.OfZones(err) {
		m.log.Error("nobody knows who is an operator before the repository is verified", "error", err)
		return
	}
	m.learn(view.Manifest.Operators)
	m.learnt(view)
	m.knows(memory, view)
}

func (m *Mirror) learn(operators []release.Operator) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.listed, m.operators = true, operators
}

// Refuses says why the owner of a certificate for an operator, an observer or a distribution host is none, "" if it is one. A
// mesh whose manifest says nothing of operators leaves it to the certificate, and one that has no key of the host does so for the
// host: its key is in the list from its first replacement on. While nothing is known, the host may look what is wrong here.
func (m *Mirror) Refuses(role, name string, key release.Digest) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	i := slices.IndexFunc(m.operators, func(o release.Operator) bool { return o.Name == name })
	switch {
	case role == identity.Host && i < 0:
		return ""
	case !m.listed:
		return "who is an operator of this mesh is not known yet"
	case m.operators == nil:
		return ""
	case i < 0:
		return "no operator of this mesh"
	case !slices.Contains(m.operators[i].Keys, key):
		return "its certificate was revoked"
	}
	return ""
}

// arrived is what has come since the depot was last seen to change.
type arrived struct {
	zones, deltas int
	bytes         int64
}

// note counts how zones came, and says why one came whole although there was a delta.
func (m *Mirror) note(n depot.Note, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case err != nil:
		m.state.DeltasFailed++
		m.log.Warn("a delta was of no use, the whole zone is taken", "zone", n.Zone, "error", err)
		return
	case n.Delta:
		m.state.Deltas++
	default:
		m.state.Wholes++
	}
	m.state.ZoneBytes += n.Bytes
	m.came.zones++
	m.came.bytes += n.Bytes
	if n.Delta {
		m.came.deltas++
	}
}

func (m *Mirror) good(r *repository, changed bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	url := r.url
	if m.state.LastError != "" || m.state.URL != url {
		m.log.Info("the repository is good", "url", url)
	}
	if changed && m.came.zones > 0 { // a lease or a switchover alone is an event of the plugin's, or none
		m.log.Info("zones have come", "zones", m.came.zones, "deltas", m.came.deltas, "bytes", m.came.bytes, "url", url)
		m.came = arrived{}
	}
	m.state.URL, m.state.LastGood, m.state.LastError = url, time.Now().UTC(), ""
	m.failures = 0
}

func (m *Mirror) failed(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return err // the process ends: nothing has failed
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	text := status.Cut(err.Error()) // a server may say much
	if m.failures++; m.state.LastGood.IsZero() && m.failures < startup {
		if m.failures == 1 {
			m.log.Info("the repository cannot be followed yet", "error", text)
		}
	} else if m.state.LastError != text || m.failures == startup {
		m.log.Error("the repository cannot be followed", "error", text)
	}
	m.state.LastError = text
	return err
}

// startup is how many looks may fail when the process has started, before that is an error: a distribution host may start beside it.
const startup = 4

// Status is how the following goes.
func (m *Mirror) Status() status.Mirroring {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.state
	now.Repositories = slices.Clone(now.Repositories) // in the order of m.repositories
	for i := range now.Repositories {
		now.Repositories[i].Held = m.repositories[i].hearing.held
	}
	return now
}
