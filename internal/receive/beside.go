package receive

import (
	"context"
	"os"
	"path/filepath"

	"github.com/coredns-anycast/coredns-anycast/internal/beside"
	"github.com/coredns-anycast/coredns-anycast/internal/zone"
)

// What takes as long as a zone is large is done beside the rounds, one at a time in the process, in a thread that steps back: to put a zone in
// order in memory that has changed often, and to write the text of one that has a long journal. Rounds go on meanwhile. What was made is
// taken by the next one that ends, as only one goes on for a zone.

// tidying is a zone that is put in order in memory.
type tidying struct {
	done   bool
	gaveUp bool       // it cannot be, and is not tried again until it is made anew
	base   *zone.Zone // an earlier version, in order; nil until it is made
}

// tidy begins to put a zone in order that needs it. It is called with mu held.
func (r *Receiver) tidy(origin string) {
	z, t := r.images[origin], r.tidying[origin]
	switch {
	case z == nil || !z.Fragmented():
		if t != nil && (t.done || t.gaveUp) {
			delete(r.tidying, origin)
		}
	case t == nil || t.done:
		t := &tidying{}
		r.tidying[origin] = t
		r.spawn(func(ctx context.Context) {
			beside.Run(ctx, func() { r.putInOrder(ctx, origin, z, t) })
		})
	}
}

// putInOrder puts a zone in order, and what became of it meanwhile. A round that goes on has the zone as it was, and finds it in t.
func (r *Receiver) putInOrder(ctx context.Context, origin string, z *zone.Zone, t *tidying) {
	base := z.Compact(func() bool { return ctx.Err() == nil })
	if base == nil {
		r.mu.Lock()
		t.gaveUp = true
		r.mu.Unlock()
		return
	}
	for {
		made := base.CatchUp(z)
		r.mu.Lock()
		now := r.images[origin]
		if r.tidying[origin] != t { // it was withdrawn
			r.mu.Unlock()
			return
		}
		if now == z {
			r.images[origin] = made
		}
		if t.base = base; now == z || now == nil {
			t.done = true
			r.mu.Unlock()
			return
		}
		r.mu.Unlock()
		z = now
	}
}

// tidied is a zone that a round has made, on what was put in order if that was done meanwhile.
func (r *Receiver) tidied(z *zone.Zone) *zone.Zone {
	if !z.Fragmented() {
		return z
	}
	r.mu.Lock()
	t := r.tidying[z.Origin()]
	var base *zone.Zone
	if t != nil {
		base = t.base
	}
	r.mu.Unlock()
	if base == nil {
		return z
	}
	return base.CatchUp(z)
}

// writtenText is the text of a zone that is written beside.
type writtenText struct {
	of      record // what is held then
	written *writtenZone
}

// writeBeside begins to write the text of what is held of a zone, unless that is being done or was done.
func (r *Receiver) writeBeside(rec record, z *zone.Zone) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if t := r.texts[rec.Origin]; t != nil && t.of.Journal.Name == rec.Journal.Name {
		return
	}
	r.dropText(rec.Origin)
	t := &writtenText{of: rec}
	r.texts[rec.Origin] = t
	r.spawn(func(ctx context.Context) {
		var w writtenZone
		err := context.Canceled
		if beside.Run(ctx, func() { w, err = writeZone(ctx, filepath.Dir(r.store.path(rec.Origin, false)), z) }) && err != nil && ctx.Err() == nil {
			r.opt.Log.Warn("the text of a zone with a long journal cannot be written beside", "zone", rec.Origin, "error", err)
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		switch {
		case err == nil && r.texts[rec.Origin] == t:
			t.written = &w
		case err == nil:
			os.Remove(w.temp)
		case r.texts[rec.Origin] == t:
			delete(r.texts, rec.Origin)
		}
	})
}

// dropText forgets a text that is written beside. It is called with mu held.
func (r *Receiver) dropText(origin string) {
	if t := r.texts[origin]; t != nil && t.written != nil {
		os.Remove(t.written.temp)
	}
	delete(r.texts, origin)
}

// takeText is the text that was written for a journal, if it was.
func (r *Receiver) takeText(rec *record) *writtenText {
	r.mu.Lock()
	defer r.mu.Unlock()
	t := r.texts[rec.Origin]
	if t == nil || t.written == nil {
		return nil
	}
	if t.of.Journal.Name != rec.Journal.Name {
		r.dropText(rec.Origin)
		return nil
	}
	delete(r.texts, rec.Origin)
	return t
}

// rebase lets the journal of a zone begin with the text that was written beside, and reports whether it does. What goes wrong leaves all as
// it was: the next long journal is another try.
func (p *peer) rebase(rec *record) bool {
	t := p.r.takeText(rec)
	if t == nil {
		return false
	}
	err := p.r.store.rebase(rec, t.of, *t.written)
	if err != nil {
		p.r.opt.Log.Warn("the journal of a zone cannot be cut", "zone", rec.Origin, "error", err)
	}
	return err == nil
}
