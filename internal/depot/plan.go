package depot

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/coredns-anycast/coredns-anycast/internal/release"
)

// plan is how a zone is had, and what is to be fetched for that.
type plan struct {
	way   Way            // to the zone, if it is not whole
	whole bool           // the zone's own text comes
	texts []release.Blob // to be fetched: one at the most
	packs []release.Pack // to be fetched
	err   error          // why it cannot be had so
}

// blobs are the files that are to be fetched.
func (p *plan) blobs() []release.Blob {
	all := slices.Clone(p.texts)
	for _, pack := range p.packs {
		all = append(all, pack.Blob)
	}
	return all
}

func (p *plan) octets() int64 { return octetsOf(p.blobs()) }

// octetsOf is what some files take.
func octetsOf(blobs []release.Blob) (n int64) {
	for _, b := range blobs {
		n += b.Length
	}
	return n
}

// plans are the ways to a zone, the one to be tried first at the beginning: by packs from what lies here, if that is less to be fetched,
// and by what the manifest names.
func (g *getter) plans(z release.Zone) []plan {
	signed := g.signed(z)
	if g.Texts {
		return []plan{signed}
	}
	if p, found := g.from(z); found && (signed.err != nil || p.octets() <= signed.octets()) {
		return []plan{p, signed}
	}
	return []plan{signed}
}

// signed is the way to a zone that the manifest names.
func (g *getter) signed(z release.Zone) plan {
	p := plan{whole: z.Whole()}
	if p.whole || !g.dir.showsText(z) {
		p.texts = []release.Blob{z.Blob}
	}
	if !p.whole {
		p.way, p.err = Released(g.dir, z)
		p.packs = g.lacking(p.way.Packs)
	}
	return p
}

// from is the way to a zone from what lies here of it, or else from the newest zone before it that lies here.
func (g *getter) from(z release.Zone) (plan, bool) {
	if z.Root == (release.Digest{}) {
		return plan{}, false
	}
	if w, err := readWay(g.dir, wayName(z.Root)); err == nil && w.Base.Origin != "" && g.dir.showsText(w.Base) { // packs of it are lacking
		return plan{way: w, packs: g.lacking(w.Packs)}, true
	}
	chain := chainOf(g.dir, z)
	for i := range slices.Backward(chain) {
		older, known := g.olderZone(z.Origin, chain[i].From)
		if !known {
			continue
		}
		w, there := g.wayOf(older)
		if !there {
			continue
		}
		w.Packs = append(slices.Clip(w.Packs), chain[i:]...)
		if len(w.Packs) <= maxWay && octets(w.Packs) < z.Blob.Length {
			return plan{way: w, packs: g.lacking(chain[i:])}, true
		}
	}
	return plan{}, false
}

// wayOf is the way to a zone that lies here.
func (g *getter) wayOf(z release.Zone) (Way, bool) {
	if z.Whole() && g.dir.showsText(z) {
		return Way{Base: z.Base()}, true
	}
	w, err := readWay(g.dir, wayName(z.Root))
	return w, err == nil && g.dir.hasWay(z, false)
}

// lacking are those of some packs that are not here.
func (g *getter) lacking(packs []release.Pack) (lacking []release.Pack) {
	for _, p := range packs {
		if !g.dir.HasBlob(p.Blob) {
			lacking = append(lacking, p)
		}
	}
	return lacking
}

// getEarlier fetches the list of the packs before those that the manifest names, unless it is here. It is always taken, so that a depot has
// what a distribution host that is recovered from it needs; without it the zone is had by what else is known. done: there is no time for more.
func (g *getter) getEarlier(ctx context.Context, z release.Zone) (done bool, err error) {
	if z.Earlier == (release.Blob{}) || g.dir.HasBlob(z.Earlier) && g.dir.intact(z.Earlier) {
		return false, nil
	}
	if err = g.fetch(ctx, z.Origin, z.Earlier); err == nil {
		return false, nil
	}
	return g.noted(ctx, Note{z.Origin, true, z.Earlier.Length}, err)
}

// take fetches what is not here yet, and then writes down the way that it is part of.
func (g *getter) take(ctx context.Context, z release.Zone, p plan) error {
	if p.err != nil {
		return fmt.Errorf("the packs that lead to zone %s are not known: %w", z.Origin, p.err)
	}
	if err := g.fetch(ctx, z.Origin, p.blobs()...); err != nil || p.whole {
		return err
	}
	if p.way.Base.Packs, p.way.Base.Deltas = nil, nil; len(p.way.Packs) > release.MaxEarlier+release.MaxPacks {
		return fmt.Errorf("%d packs lead to zone %s", len(p.way.Packs), z.Origin)
	}
	data, err := json.Marshal(p.way)
	if err != nil {
		return err
	}
	return replace(g.dir.root, wayName(z.Root), data, 0o644)
}
