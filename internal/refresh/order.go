package refresh

import (
	"fmt"
	"slices"

	"github.com/coredns-anycast/coredns-anycast/internal/instant"
)

// Order is an operator's word that zones are withdrawn which are gone from their sources, whatever "deleted: keep" or a limit says.
type Order struct {
	ID    string
	Zones []string     // fully qualified, lower case; none: it asks which zones are gone
	Until instant.Wall // it is carried out until then: what is gone later was not meant
}

// Fate is what became of a zone of an order; or, of an order that names none, a zone that is gone.
type Fate struct {
	Zone      string `json:"zone"`
	Withdrawn bool   `json:"withdrawn"`
	Why       string `json:"why,omitempty"` // it is not
}

// order is one that is not answered.
type order struct {
	Order
	scans map[string]int // of directories, when it was given, by owner
	fates map[string]Fate
}

// freshScans is how many scans of a directory must have ended for one of them to have begun since an order was given.
const freshScans = 2

// Ordered takes an order. Answer follows with its ID, once each of its zones is withdrawn or it is known why it is not: one of a directory
// when that was read since. An order that is given again, after a restart, ends as if it had been given once.
func (s *Secondary) Ordered(o Order) {
	given := &order{o, map[string]int{}, map[string]Fate{}}
	for owner, f := range s.folders {
		given.scans[owner] = f.scans
	}
	s.orders = append(s.orders, given)
}

// fresh reports whether a directory was read since the order was given.
func (o *order) fresh(f *folder, owner string) bool { return f.scans-o.scans[owner] >= freshScans }

// decided reports what became of a zone, the first time.
func (o *order) decided(zone string, withdrawn bool, why string) {
	if _, known := o.fates[zone]; !known {
		o.fates[zone] = Fate{zone, withdrawn, why}
	}
}

// obey withdraws those zones of a directory that are gone and ordered to go, refuses those that are there, and returns what is gone
// and stays. It reports whether an order waits for another scan.
func (s *Secondary) obey(now instant.Instant, owner string, gone []string) (stay []string, waits bool) {
	f := s.folders[owner]
	goes := map[string]bool{}
	for _, o := range s.orders {
		fresh := o.fresh(f, owner)
		waits = waits || !fresh && len(o.Zones) == 0
		for _, name := range o.Zones {
			z := s.zones[name]
			_, known := o.fates[name]
			switch {
			case known || z == nil || z.owner != owner || !z.loaded:
			case !fresh:
				waits = true
			case now.Wall > o.Until: // Decide says so
			case slices.Contains(gone, name):
				goes[name] = true
			default:
				o.decided(name, false, fmt.Sprintf("it is there, in %s, last from %s: delete its file first", owner, z.rec.From))
			}
		}
	}
	for _, name := range gone {
		if !goes[name] {
			stay = append(stay, name)
			continue
		}
		z := s.zones[name]
		s.say(Warn, "withdrawn by an operator's order: its file is gone", "zone", name, "file", z.rec.From)
		s.withdraw(z)
	}
	return stay, waits
}

// answer says what became of orders, as far as that is known; idle: nothing more will be.
func (s *Secondary) answer(now instant.Instant, idle bool) {
	s.orders = slices.DeleteFunc(s.orders, func(o *order) bool {
		if len(o.Zones) == 0 {
			if !s.read(o) && !idle && now.Wall <= o.Until {
				return false
			}
			s.act(Action{Do: Answer, ID: o.ID, Fates: s.missing()})
			return true
		}
		fates := make([]Fate, 0, len(o.Zones))
		for _, name := range o.Zones {
			s.fate(now, o, name)
			switch {
			case now.Wall > o.Until:
				o.decided(name, false, "the order was not carried out in its time, and is too old now: give it again")
			case idle:
				o.decided(name, false, "its source could not be read, so nobody knows whether it is gone")
			}
			if f, known := o.fates[name]; known {
				fates = append(fates, f)
			}
		}
		if len(fates) < len(o.Zones) {
			return false
		}
		s.act(Action{Do: Answer, ID: o.ID, Fates: fates})
		return true
	})
}

// fate decides on a zone of an order that is no directory's, or that is withdrawn by now.
func (s *Secondary) fate(now instant.Instant, o *order, name string) {
	z := s.zones[name]
	switch {
	case z == nil && s.reading() > 0 || z != nil && z.gone: // a directory may have it again; it goes when its round has ended
	case z == nil && s.withdrawn[name]:
		o.decided(name, true, "")
	case z == nil:
		o.decided(name, false, "no source has this zone")
	case now.Wall > o.Until:
	case z.catalog != nil:
		o.decided(name, false, "it is a catalog zone: take it out of \"sources: catalogs\", and restart meshctl serve")
	case z.owner == zonesOwner:
		o.decided(name, false, "it comes from a primary: take its name out of \"sources: zones\" first, and restart meshctl serve")
	case z.owner == orphan && s.looked(true):
		s.say(Warn, "withdrawn by an operator's order: its source is configured no more", "zone", name, "source", z.rec.Owner)
		s.withdraw(z)
		o.decided(name, true, "")
	case s.folders[z.owner] != nil && !z.loaded:
		o.decided(name, false, "nothing was received of it yet")
	case s.catalogOf(z.owner) != nil:
		s.unlist(now, o, z)
	}
}

// unlist withdraws a member of a catalog that none lists. Its next fate is that.
func (s *Secondary) unlist(now instant.Instant, o *order, z *followed) {
	switch by, known := s.listedBy(z); {
	case !known:
	case by != "":
		o.decided(z.origin, false, "catalog "+by+" lists it: take it out there first")
	default:
		s.say(Warn, "withdrawn by an operator's order: its catalog does not list it any more", "zone", z.origin, "source", z.owner)
		s.withdraw(z)
		s.reconcile(now) // what is still gone is counted anew
		if s.zones[z.origin] == nil {
			o.decided(z.origin, true, "")
		}
	}
}

// listedBy is the catalog that lists a zone and may have it, "" if none does. It is not known while that of the zone was not received.
func (s *Secondary) listedBy(z *followed) (catalog string, known bool) {
	for i := range s.config.Catalogs {
		c := &s.config.Catalogs[i]
		listed, ok := s.listings[c.Name]
		if !ok && CatalogOwner(c.Name) == z.owner {
			return "", false
		}
		if _, lists := listed[z.origin]; lists && c.holds(z.origin) {
			return c.Name, true
		}
	}
	return "", true
}

// read reports whether all directories were read since an order was given.
func (s *Secondary) read(o *order) bool {
	for owner, f := range s.folders {
		if !o.fresh(f, owner) {
			return false
		}
	}
	return true
}

// missing is what is gone from its source, in order of names.
func (s *Secondary) missing() (gone []Fate) {
	for _, z := range s.sorted() {
		if z.owner == orphan && s.looked(true) {
			gone = append(gone, Fate{Zone: z.origin, Why: z.rec.Owner + " is not configured any more"})
		}
		if f := s.folders[z.owner]; f != nil && slices.Contains(f.gone, z.origin) {
			gone = append(gone, Fate{Zone: z.origin, Why: "its file is gone from " + z.owner})
		}
		if s.catalogOf(z.owner) == nil || z.catalog != nil || z.gone {
			continue
		}
		if by, known := s.listedBy(z); known && by == "" {
			gone = append(gone, Fate{Zone: z.origin, Why: z.owner + " does not list it"})
		}
	}
	return gone
}
