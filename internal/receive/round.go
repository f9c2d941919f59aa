package receive

import (
	"cmp"
	"context"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/instant"
	"github.com/coredns-anycast/coredns-anycast/internal/refresh"
	"github.com/coredns-anycast/coredns-anycast/internal/xfr"
	"github.com/coredns-anycast/coredns-anycast/internal/zone"
)

// LargeImage is the size in octets from which a zone is kept in memory when it was received: to read it again takes longer
// than whoever waits for it would like, and there are few.
const LargeImage = 1 << 20

// arrival is new content that came by a round, or from a file.
type arrival struct {
	zone         *zone.Zone
	octets       int64
	began, whole time.Time
	duration     time.Duration
	reset        bool // the zone began anew with it
}

// round carries out one refresh of a zone, and says what came of it. image is the zone that is held, if it is in memory.
func (r *Receiver) round(ctx context.Context, round *refresh.Round, image *zone.Zone) {
	origin := round.Record.Origin
	coming := r.comes(origin, round.Record.Records)
	p := &peer{r: r, round: round, image: image, client: xfr.Client{Limits: r.config.Limits, Now: r.opt.Now, Coming: coming.tell}}
	defer p.hangUp()
	found, got := p.refresh(ctx)
	r.came(coming)
	r.do(func(now instant.Instant) {
		delete(r.stops, origin)
		if r.set.Finished(now, round, found) {
			r.took(found, got)
		}
		if found.Good && found.Record.Journal.Steps == 0 {
			delete(r.whole, origin)
		}
		r.tidy(origin)
	})
}

// took keeps in memory what is new, if it is large, and tells of it. It is called with mu held.
func (r *Receiver) took(found refresh.Found, got arrival) {
	if !found.New {
		return
	}
	rec := found.Record
	delete(r.images, rec.Origin)
	if rec.How != File && got.zone.ImageSize() >= LargeImage {
		r.images[rec.Origin] = got.zone
	}
	r.opt.Log.Info("received", "zone", rec.Origin, "serial", rec.Serial, "how", rec.How, "from", rec.From, "records", rec.Records, "octets", got.octets, "duration", got.duration)
	if rec.Catalog {
		return
	}
	u := r.update(rec, rec.How)
	u.Octets, u.Duration, u.Zone, u.Reset = got.octets, got.duration, got.zone, got.reset
	u.Began, u.Whole = got.began, got.whole
	r.tell = append(r.tell, u)
}

// peer is who a round asks.
type peer struct {
	r       *Receiver
	round   *refresh.Round
	image   *zone.Zone
	client  xfr.Client
	session *xfr.Session // that a SOA came by, and a transfer may
}

func (p *peer) hangUp() {
	if p.session != nil {
		p.session.Close()
		p.session = nil
	}
}

// refresh asks as the round says, and keeps what is new.
func (p *peer) refresh(ctx context.Context) (refresh.Found, arrival) {
	began := time.Now()
	var members map[string]refresh.Member
	for {
		server, ask := p.round.Next()
		if ask != refresh.ForZone {
			p.hangUp()
		}
		switch ask {
		case refresh.Nothing:
			return p.unchanged(), arrival{}
		case refresh.ForSOA:
			p.soa(ctx, p.primary(server))
		case refresh.ForZone:
			got, err := p.transfer(ctx, p.primary(server))
			if err == nil && got.Zone != nil && p.round.Record.Catalog {
				members, err = refresh.Members(got.Zone)
			}
			switch {
			case err != nil:
				p.round.Failed(err)
			case got.Zone == nil:
				p.round.Same()
			case p.round.Came(got.Zone.Serial()):
				return p.keep(p.primary(server), got, members, began)
			}
		}
	}
}

func (p *peer) primary(server int) xfr.Primary { return p.r.groups[p.round.Group].Servers[server] }

// soa asks a primary for the SOA.
func (p *peer) soa(ctx context.Context, from xfr.Primary) {
	soa, session, err := p.client.SOA(ctx, from, p.round.Record.Origin)
	if err != nil {
		p.round.Failed(cmp.Or(ctx.Err(), err))
		return
	}
	p.session = session
	p.round.SOA(soa.Serial)
}

// transfer transfers the zone from a primary.
func (p *peer) transfer(ctx context.Context, from xfr.Primary) (xfr.Transferred, error) {
	rec := p.round.Record
	var have *xfr.Version
	if p.round.Held {
		have = &xfr.Version{Serial: rec.Serial, Records: rec.Records}
	}
	session := p.session
	p.session = nil // Transfer closes it
	got, doubt, err := p.client.Transfer(ctx, from, session, rec.Origin, have, p.before)
	if doubt != nil {
		p.r.opt.Log.Info("differences could not be had, so the whole zone was asked for", "zone", rec.Origin, "primary", from, "why", doubt)
	}
	return got, err
}

// before is the zone that is held.
func (p *peer) before() (*zone.Zone, error) {
	if p.image != nil && p.image.Serial() == p.round.Record.Serial {
		return p.image, nil
	}
	return p.r.store.load(p.round.Record)
}

// keep keeps what came.
func (p *peer) keep(from xfr.Primary, got xfr.Transferred, members map[string]refresh.Member, began time.Time) (refresh.Found, arrival) {
	got.Zone = p.r.tidied(got.Zone)
	p.rebase(&p.round.Record) // which stays so, whatever becomes of what came
	rec := p.round.Record
	rec.From, rec.How, rec.Contact = from.String(), howOf(got), p.r.opt.Now().UTC().Truncate(time.Second)
	if err := p.write(&rec, got); err != nil {
		p.round.NotKept(err)
		return refresh.Found{Record: p.round.Record, Problems: p.round.Problems()}, arrival{}
	}
	p.round.Took()
	return refresh.Found{Good: true, New: true, Record: rec, Noted: rec.Contact, Problems: p.round.Problems(), Odd: got.Odd, Members: members},
		arrival{zone: got.Zone, octets: got.Octets, began: got.Began, whole: got.Whole, duration: time.Since(began), reset: p.round.Reset}
}

// write makes durable what came: as a step of the journal if it is a small change of a large zone, or else as a whole. An operator who
// receives once is to find the text.
func (p *peer) write(rec *record, got xfr.Transferred) error {
	if got.Delta != nil && !p.r.decide.Once && !rec.Catalog && !p.r.wantsText(rec.Origin) && got.Zone.ImageSize() >= LargeImage && roomFor(rec, got.Delta) {
		err := p.r.store.add(rec, got.Zone, got.Delta)
		if err == nil && isLong(rec) {
			p.r.writeBeside(*rec, got.Zone)
		}
		return err
	}
	_, err := p.r.store.put(rec, got.Zone, "")
	return err
}

// unchanged is what a round found that brought nothing new. That a primary confirmed the zone is written down from time to time.
func (p *peer) unchanged() refresh.Found {
	found := refresh.Found{Good: p.round.Good(), Record: p.round.Record, Noted: p.round.Noted}
	if found.Good {
		found.Record.Contact = p.r.opt.Now().UTC().Truncate(time.Second)
	}
	var err error
	switch {
	case !found.Good:
	case found.Record.Journal.Steps > 0 && p.r.wantsText(found.Record.Origin):
		err = p.rewrite(&found)
	case p.rebase(&found.Record):
		found.Noted = found.Record.Contact
	case p.round.Stale(found.Record.Contact):
		err = p.r.store.note(found.Record)
		found.Noted = found.Record.Contact
	}
	if err != nil {
		p.round.NotNoted(err)
	}
	found.Problems = p.round.Problems()
	return found
}

// rewrite writes the text of what is held, and ends its journal.
func (p *peer) rewrite(found *refresh.Found) error {
	z, err := p.before()
	if err != nil {
		return err
	}
	rec := found.Record // what fails leaves it as it is
	if _, err := p.r.store.put(&rec, z, ""); err != nil {
		return err
	}
	found.Record, found.Noted = rec, rec.Contact
	return nil
}

// howOf says how a zone was transferred.
func howOf(got xfr.Transferred) How {
	if got.Delta != nil {
		return IXFR
	}
	return AXFR
}
