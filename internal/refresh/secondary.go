package refresh

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/instant"
)

// Group is a list of primaries, by what they are called in messages, in the order in which they are asked.
type Group struct{ Servers []string }

// Zones are zones that the same primaries have.
type Zones struct {
	Names     []string // fully qualified, lower case
	Primaries *Group
}

// Directory is a directory of zone files.
type Directory struct {
	Path     string
	Withdraw bool // a zone whose file is deleted is withdrawn; otherwise it is kept
	Limit    int  // percent of the zones that may go at once, but always one: more than that is a mistake
}

// Timers bound what the SOA of a zone says of when to ask again.
type Timers struct {
	MinRefresh, MaxRefresh, MinRetry, MaxRetry time.Duration
}

// Config is what an operator chose.
type Config struct {
	Zones       []Zones
	Catalogs    []Catalog
	Directories []Directory
	Timers      Timers
	Transfers   int    // rounds that run at once
	Spread      uint64 // seed of how rounds are spread; 0: they are not

	Once  bool     // each zone is asked for once, and nothing is waited for (Decision.Idle)
	Force bool     // an operator's word: zones that are gone from their sources are withdrawn however many they are
	Anew  []string // and these zones begin anew, whatever serial their sources have
}

// Secondary is a secondary server for many zones.
type Secondary struct {
	config    Config
	zones     map[string]*followed
	inOrder   []*followed                  // what sorted returns; nil: it is to be made
	listings  map[string]map[string]Member // of catalogs, as last received and not broken
	faults    map[Fault]string             // what is wrong with sources, as far as it is no zone's own
	lines     []*line                      // in the order in which their groups were first waited for
	lineOf    map[*Group]*line
	nesting   nesting
	folders   map[string]*folder   // by owner
	running   int                  // rounds
	orphans   map[string]*followed // zones that were received before from what is not configured any more
	lost      map[Fault]string     // what keeps these
	gone      []Record             // zones that were withdrawn before this start and not forgotten; nil once that is told
	orders    []*order             // that are not answered
	withdrawn map[string]bool      // zones that are followed no more, since this start or at it
	actions   []Action
}

// Fault is something wrong with a source that is not a single zone's, such as a file or a broken catalog.
type Fault struct {
	Source string `json:"source"`
	What   string `json:"what"` // file, or zone
}

// HostDisk is the Source of a Fault that is this host's: What came, as a zone or a file, and cannot be written.
const HostDisk = "this host's disk"

// followed is a zone that is received: from its primaries, or from a file.
type followed struct {
	origin    string
	owner     string   // section of the configuration
	group     *Group   // nil: it comes from a file
	catalog   *Catalog // it is a catalog zone
	unique    string   // it is a member of a catalog, under this label
	rec       Record
	loaded    bool            // there is data of it, which rec tells of
	noted     time.Time       // rec.Contact as it is on disk
	confirmed instant.Instant // when that was, on both clocks; zero: before this start
	reset     bool            // what comes next begins anew

	due      instant.Mono
	waits    *line           // it is in that one's queue, nil if it is in none
	index    int             // there
	running  bool            // a round is under way
	began    instant.Instant // that round, or the last one; zero: none
	rounds   uint64
	again    bool // it is to be asked for once more
	gone     bool // it is to be withdrawn when the round has ended
	failures int  // rounds in a row that no primary answered
	expired  bool
	err      string // of the last round
	unkept   bool   // what came in it could not be written
	warning  string // of primaries that failed, when another did not, and odd
	odd      string // what of rec's transfer was not taken as it came

	nested      bool   // it lies below a zone of another source
	undelegated string // which does not delegate it
}

// CatalogOwner and DirectoryOwner name sections of the configuration, as Record.Owner and Status.Source have them.
func CatalogOwner(name string) string   { return "catalog " + name }
func DirectoryOwner(path string) string { return "directory " + path }

const zonesOwner = "zones"

// orphan owns a zone whose section is not configured any more, until another section takes it, or all are right and none
// has.
const orphan = "nothing that is configured"

// New is a Secondary that holds what records tell of. Of each catalog of which there is a record, Listed must follow, and then Begin.
func New(c Config, records []Record) *Secondary {
	s := &Secondary{config: c, zones: map[string]*followed{}, listings: map[string]map[string]Member{}, faults: map[Fault]string{},
		lineOf: map[*Group]*line{}, folders: map[string]*folder{}, orphans: map[string]*followed{}, lost: map[Fault]string{}, withdrawn: map[string]bool{}}
	for _, z := range c.Zones {
		for _, name := range z.Names {
			s.follow(name, zonesOwner, z.Primaries)
		}
	}
	for i := range s.config.Catalogs {
		c := &s.config.Catalogs[i]
		s.follow(c.Name, CatalogOwner(c.Name), c.Primaries).catalog = c
	}
	for _, d := range c.Directories {
		f := s.folders[DirectoryOwner(d.Path)]
		if f == nil {
			f = &folder{Directory: d}
			s.folders[DirectoryOwner(d.Path)] = f
		}
		f.unread++
	}
	for _, rec := range records {
		s.restore(rec)
	}
	return s
}

// follow begins to receive a zone.
func (s *Secondary) follow(origin, owner string, group *Group) *followed {
	z := &followed{origin: origin, owner: owner, group: group}
	s.zones[origin], s.inOrder, s.nesting.changed = z, nil, true
	delete(s.withdrawn, origin)
	return z
}

// restore takes up a record.
func (s *Secondary) restore(rec Record) {
	if rec.Withdrawn {
		s.gone, s.withdrawn[rec.Origin] = append(s.gone, rec), true
		return
	}
	z := s.zones[rec.Origin]
	if rec.Catalog != (z != nil && z.catalog != nil) { // a catalog is no zone to release, nor the other way round
		s.act(Action{Do: Remove, Origin: rec.Origin, Record: rec})
		if !rec.Catalog {
			s.act(Action{Do: Tell, Origin: rec.Origin, Record: rec, How: Withdrawn})
		}
		return
	}
	if z == nil {
		z = s.follow(rec.Origin, rec.Owner, nil)
		z.unique = rec.Unique
		if !s.configured(rec.Owner) {
			z.owner = orphan
			s.orphans[z.origin] = z
		}
	}
	z.rec, z.loaded, z.noted = rec, true, rec.Contact
}

// configured reports whether the section that a zone came by is still there.
func (s *Secondary) configured(owner string) bool {
	return s.folders[owner] != nil || s.catalogOf(owner) != nil
}

// catalogOf is the catalog that is a section, nil if none is.
func (s *Secondary) catalogOf(owner string) *Catalog {
	for i := range s.config.Catalogs {
		if c := &s.config.Catalogs[i]; CatalogOwner(c.Name) == owner {
			return c
		}
	}
	return nil
}

// Listed says what a catalog lists that is held since before the start, or why it cannot be read: then it is received anew.
func (s *Secondary) Listed(catalog string, members map[string]Member, err error) {
	z := s.zones[catalog]
	if err != nil {
		z.loaded = false
		s.faults[Fault{z.owner, catalog}] = err.Error()
		return
	}
	s.list(catalog, members)
}

// Begin tells of what is held, and asks for all.
func (s *Secondary) Begin(now instant.Instant) {
	for _, name := range s.config.Anew {
		if z := s.zones[name]; z != nil {
			z.loaded, z.reset = false, true
		}
	}
	s.reconcile(now)
	for _, z := range s.sorted() {
		if c := s.catalogOf(z.owner); c != nil && z.group == nil { // it is listed no more, and kept, or its catalog is not here
			z.group = c.Members
		}
		if z.loaded && z.catalog == nil {
			s.act(Action{Do: Tell, Origin: z.origin, Record: z.rec, How: Kept})
		}
		s.plan(z, now.Mono)
	}
}

// sorted are the zones in order of their names: another list once there are other zones, so who goes through it may add and withdraw some.
func (s *Secondary) sorted() []*followed {
	if s.inOrder == nil {
		s.inOrder = slices.SortedFunc(maps.Values(s.zones), func(a, b *followed) int { return cmp.Compare(a.origin, b.origin) })
	}
	return s.inOrder
}

// Catalogs are the names of the catalogs that are held.
func (s *Secondary) Catalogs() (held []Record) {
	for _, c := range s.config.Catalogs {
		if z := s.zones[c.Name]; z.loaded {
			held = append(held, z.rec)
		}
	}
	return held
}

// Do is what an Action is.
type Do int

const (
	Start    Do = iota // carry Round out, and call Finished with what came of it
	Stop               // end the round of Origin early: it will be withdrawn
	Tell               // say that Origin is as Record has it: Kept or Withdrawn
	Withdraw           // drop the text of Record, and note that it is withdrawn until it is forgotten
	Remove             // drop all that is kept of Record
	Judge              // look which of Children Origin does not delegate (Undelegated), and call Judged
	Answer             // say durably what became of the order ID; Withdraw of its zones comes before
	Say                // log
)

// Action is something that the caller is to do.
type Action struct {
	Do     Do
	Origin string
	Record Record // of Tell, Withdraw, Remove; and of Judge, what is held of Origin
	How    How    // of Tell
	Round  *Round // of Start

	Owner    string   // of Judge: that of Origin
	Children []string // of Judge

	ID    string // of Answer
	Fates []Fate

	Level Level // of Say
	Text  string
	Args  []any // keys and values
}

// Level is how much an Action that is to be logged matters.
type Level int

const (
	Info Level = iota
	Warn
	Error
)

func (s *Secondary) act(a Action) { s.actions = append(s.actions, a) }

func (s *Secondary) say(level Level, text string, args ...any) {
	s.act(Action{Do: Say, Level: level, Text: text, Args: args})
}

// Decision is what is to be done now.
type Decision struct {
	Actions []Action      // in this order
	Wait    time.Duration // until Decide is to be called again, if nothing happens before
	Idle    bool          // with Config.Once: all was asked for, and nothing is under way
}

// Decide says what is to be done. It is called after each fact, and when Wait is over.
func (s *Secondary) Decide(now instant.Instant) Decision {
	s.dropOrphans()
	s.tellGone()
	s.answer(now, false)
	nesting := s.judgeNesting(now.Mono)
	d := Decision{Wait: s.start(now)}
	if nesting > 0 {
		d.Wait = min(d.Wait, nesting)
	}
	d.Idle = s.config.Once && s.running == 0 && s.waiting() == 0 && s.reading() == 0 && !s.nesting.changed && !s.nesting.busy && len(s.nesting.due) == 0
	if d.Idle {
		s.answer(now, true)
	}
	for _, o := range s.orders {
		d.Wait = min(d.Wait, max(0, o.Until.Sub(now.Wall))+time.Millisecond)
	}
	d.Actions, s.actions = s.actions, nil
	return d
}

// dropOrphans sees to what nobody has taken. That a source is not configured any more, or is another, is as easily a mistake, and says
// nothing of its zones (FAIL-4): they stay until an operator says that they go.
func (s *Secondary) dropOrphans() {
	if len(s.orphans) == 0 && len(s.lost) == 0 || !s.looked(false) {
		return
	}
	drop := s.config.Force && len(s.faults) == 0 && s.looked(true)
	kept := map[Fault][]string{}
	for _, name := range slices.Sorted(maps.Keys(s.orphans)) {
		z := s.orphans[name]
		if drop {
			s.say(Warn, "withdrawn: no source is configured for it any more", "zone", name, "source", z.rec.Owner)
			s.withdraw(z)
			continue
		}
		place := Fault{z.rec.Owner, "not configured any more"}
		kept[place] = append(kept[place], name)
	}
	was := s.lost
	s.lost = map[Fault]string{}
	for _, place := range slices.SortedFunc(maps.Keys(kept), func(a, b Fault) int { return cmp.Compare(a.Source, b.Source) }) {
		zones := kept[place]
		s.lost[place] = "its zones are kept, and meshctl receive --withdraw withdraws them: " + Some(zones)
		if was[place] != s.lost[place] {
			s.say(Error, "a source is not configured any more: its zones are kept", "source", place.Source, "zones", Some(zones))
		}
	}
}

// looked reports whether all that is configured was looked for zones; good: and every catalog could be received.
func (s *Secondary) looked(good bool) bool {
	if s.reading() > 0 {
		return false
	}
	for _, c := range s.config.Catalogs {
		if z := s.zones[c.Name]; z.began == (instant.Instant{}) || z.running || good && z.err != "" {
			return false
		}
	}
	return true
}

// tellGone tells once more of what was withdrawn and not forgotten, unless a source has it again.
func (s *Secondary) tellGone() {
	if s.reading() > 0 {
		return
	}
	for _, rec := range s.gone {
		if s.zones[rec.Origin] == nil {
			s.act(Action{Do: Tell, Origin: rec.Origin, Record: rec, How: Withdrawn})
		}
	}
	s.gone = nil
}

// Follows reports whether a zone is received.
func (s *Secondary) Follows(origin string) bool { return s.zones[origin] != nil }

// withdraw ends a zone.
func (s *Secondary) withdraw(z *followed) {
	if z.running {
		z.gone = true
		s.act(Action{Do: Stop, Origin: z.origin})
		return
	}
	delete(s.zones, z.origin)
	s.inOrder = nil
	delete(s.orphans, z.origin)
	delete(s.faults, Fault{HostDisk, z.origin})
	s.nesting.changed = true
	z.leave()
	if z.rec.Origin != "" { // it was received, though it may be about to begin anew
		s.withdrawn[z.origin] = true
		s.act(Action{Do: Withdraw, Origin: z.origin, Record: z.rec})
		s.act(Action{Do: Tell, Origin: z.origin, Record: z.rec, How: Withdrawn})
	}
}
