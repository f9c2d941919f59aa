package meshsync

import (
	"errors"
	"slices"

	"github.com/coredns/coredns/plugin/transfer"
	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/zone"
)

// history are the differences that lead to a zone from those of the releases before, the oldest first. Each ends where the next one begins, and the
// last one at the zone itself.
type history []*zone.Delta

// Bounds of a zone's history: its differences may take half the room of the zone itself. To send more than that takes
// no less than to send the zone.
const (
	maxDeltas    = 32
	historyShare = 2 // the zone's part
)

// since notes the histories of a release that follows another. Parts that a release has which was compiled before have theirs.
func (c *compiled) since(before *compiled) {
	for _, p := range c.fresh {
		p.history = map[string]history{}
		for i, z := range p.made {
			origin := p.signed[i].Origin
			was, at := before.find(origin)
			if was == nil {
				continue
			}
			old, chain := was.made[at], was.history[origin]
			if old != z && (old.Serial() != z.Serial() || old.Root() != z.Root()) {
				chain = extend(chain, old, z)
			}
			if len(chain) > 0 {
				p.history[origin] = chain
			}
		}
	}
}

// historyOf is that of the zone of an origin, none if it has none.
func (c *compiled) historyOf(origin string) history {
	if p, _ := c.find(origin); p != nil {
		return p.history[origin]
	}
	return nil
}

// extend returns a history with the difference from old to z at its end, and as much of what was before as the bounds
// allow; none of it if the serial does not say that z is newer (RFC 1982 3.2).
func extend(chain history, old, z *zone.Zone) history {
	if !zone.Newer(z.Serial(), old.Serial()) {
		return nil
	}
	room := z.ImageSize() / historyShare
	d := zone.Difference(old, z, room)
	if d == nil {
		return nil
	}
	first, room := len(chain), room-d.Size()
	for first > 0 && len(chain)-first+1 < maxDeltas && chain[first-1].Size() <= room && zone.Newer(z.Serial(), chain[first-1].From) {
		first--
		room -= chain[first].Size()
	}
	return append(slices.Clone(chain[first:]), d)
}

// from is the part of a zone's history that begins with a serial, none if it does not go back to that.
func from(chain history, serial uint32) history {
	i := slices.IndexFunc(chain, func(d *zone.Delta) bool { return d.From == serial })
	if i < 0 {
		return nil
	}
	return chain[i:]
}

// errSilent makes plugin transfer answer SERVFAIL, which sends a secondary to its other primaries.
var errSilent = errors.New("silent: no zone can be vouched for now")

// Transfer implements transfer.Transferer: it hands out a zone of the release that is answered from, whole and of one
// release whatever switches meanwhile, or what changed in it since a serial (RFC 1995, XFER-1). Who may have it is plugin
// transfer's business. Serial 0 stands for AXFR.
func (m *Meshsync) Transfer(name string, serial uint32) (<-chan []dns.RR, error) {
	a := m.answering()
	if a == nil {
		return nil, errSilent
	}
	z := a.zones.Get(name)
	if z == nil {
		return nil, transfer.ErrNotAuthoritative
	}
	records := make(chan []dns.RR)
	out := &sender{to: records}
	send := func() { out.whole(z) }
	kind := "axfr"
	if serial != 0 {
		switch chain := from(a.historyOf(z.Origin()), serial); {
		case !zone.Newer(z.Serial(), serial):
			kind, send = "current", func() { out.add(soaOf(z)) } // RFC 1995 2
		case chain == nil:
			kind = "fallback" // RFC 1995 4
		default:
			kind, send = "ixfr", func() { out.changes(z, chain) }
		}
	}
	transfers.WithLabelValues(kind).Inc()
	go func() {
		defer close(records)
		send()
		out.flush()
	}()
	return records, nil
}

// soaOf is a zone's SOA.
func soaOf(z *zone.Zone) dns.RR {
	for rr := range z.Records() {
		return rr
	}
	return nil
}

// sender hands records over in batches.
type sender struct {
	to    chan<- []dns.RR
	batch []dns.RR
}

func (s *sender) add(rr dns.RR) {
	s.batch = append(s.batch, rr)
	if len(s.batch) == cap(s.batch) {
		s.flush()
	}
}

func (s *sender) flush() {
	if len(s.batch) > 0 {
		s.to <- s.batch
	}
	s.batch = make([]dns.RR, 0, 100)
}

// whole sends all records, the SOA first and once more last (RFC 5936 2.2).
func (s *sender) whole(z *zone.Zone) {
	for rr := range z.Records() {
		s.add(rr)
	}
	s.add(soaOf(z))
}

// changes sends differences one after the other between the new SOA and the new SOA (RFC 1995 4): each is the old SOA
// with what is taken out, then the new SOA with what is put in.
func (s *sender) changes(z *zone.Zone, chain history) {
	s.add(soaOf(z))
	for _, d := range chain {
		for rr := range d.Removed.All() {
			s.add(rr)
		}
		for rr := range d.Added.All() {
			s.add(rr)
		}
	}
	s.add(soaOf(z))
}

// before is the compiled release that another one follows; nil if there is none, or nobody wants to know the difference.
func (f *follower) before(number uint64) *compiled {
	if !f.transfers.Load() {
		return nil
	}
	var newest uint64
	for n := range f.compiled {
		if n < number {
			newest = max(newest, n)
		}
	}
	return f.compiled[newest]
}

// arrangeTransfers has the follower do what the blocks together want of it: to keep differences, and to tell secondaries.
func (h *held) arrangeTransfers() {
	var told []secondary
	wanted := false
	for m := range h.holders {
		wanted = wanted || m.config.transfers
		told = append(told, m.config.secondaries...)
	}
	h.follower.transfers.Store(wanted)
	h.follower.audience.set(told)
}
