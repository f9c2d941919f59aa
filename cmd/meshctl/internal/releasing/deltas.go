package releasing

import (
	"io"

	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/home"
	"github.com/coredns-anycast/coredns-anycast/internal/depot"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
	"github.com/coredns-anycast/coredns-anycast/internal/zone"
	"github.com/coredns-anycast/coredns-anycast/internal/zonefile"
)

const (
	// minDeltaBlob is below what a blob is asked for rather than a delta, in bytes: the request costs more.
	minDeltaBlob = 4 << 10
	// maxDeltaZones bounds how many zones of a release have deltas, and how many packs they have in all, so that a manifest of many
	// zones stays readable.
	maxDeltaZones = 10_000
	// maxRoots bounds how many zones of a release have a root, with as much in mind. Those of the smallest texts have none.
	maxRoots = 50_000
)

// deltas are the ways to a zone's text from the one that is answered now, which every node holds. Those to a text that did
// not change stay: from the text before that there are two steps, as long as the manifest names both.
func deltas(w *home.Writer, z release.Zone, difference *zone.Delta) ([]release.Delta, error) {
	was := w.View().Manifest.Current.Zone(z.Origin)
	switch {
	case was == nil || z.Blob.Length < minDeltaBlob || z.Root != (release.Digest{}):
		return nil, nil
	case was.Blob == z.Blob:
		return was.Deltas, nil
	case difference == nil:
		return nil, nil
	}
	blob, err := storeDelta(w, *was, z, difference)
	if err != nil || blob.Length > z.Blob.Length/2 {
		return nil, err
	}
	return []release.Delta{{From: was.SHA256, Blob: blob}}, nil
}

// storeDelta stores what makes the text of z of that of was. Both are read as they were published, side by side.
func storeDelta(w *home.Writer, was, z release.Zone, d *zone.Delta) (release.Blob, error) {
	text, err := depot.OpenBlob(w.Repository(), z)
	if err != nil {
		return release.Blob{}, err
	}
	defer text.Close()
	old, in := io.Pipe()
	defer old.Close() // ends who reads, should the rest not be wanted
	go func() { in.CloseWithError(copyBlob(w, in, was)) }()
	removed, added := linesOf(d.Removed), linesOf(d.Added)
	c, err := w.Repository().PutBlob(func(w io.Writer) error { return depot.WriteDelta(w, old, text, removed, added) })
	return c.Blob, err
}

// copyBlob copies a published text, which counts if there is no error.
func copyBlob(w *home.Writer, to io.Writer, z release.Zone) error {
	text, err := depot.OpenBlob(w.Repository(), z)
	if err != nil {
		return err
	}
	defer text.Close()
	_, err = io.CopyBuffer(to, struct{ io.Reader }{text}, make([]byte, 1<<18))
	return err
}

// linesOf are records as they stand in a text, in its order.
func linesOf(records zone.RRs) []string {
	lines := make([]string, 0, records.Len())
	for rr := range records.All() {
		lines = append(lines, zonefile.Line(rr)+"\n")
	}
	return lines
}

// boundRoots are the zones of the smallest texts, without roots and what leads to them, where more than most have one. Those that are
// known by their roots alone had one in a release before, and so are not too many.
func boundRoots(r *release.Release, most int) (less []release.Zone) {
	with := func(least int64) (n int) {
		for z := range r.All() {
			if z.Root != (release.Digest{}) && (z.Blob.Length >= least || !z.Whole()) {
				n++
			}
		}
		return n
	}
	least := int64(minDeltaBlob)
	for with(least) > most && least < release.MaxZoneBytes {
		least *= 2
	}
	for z := range r.All() {
		if z.Root != (release.Digest{}) && z.Blob.Length < least && z.Whole() {
			z := *z
			z.Root, z.Packs, z.Earlier = release.Digest{}, nil, release.Blob{}
			less = append(less, z)
		}
	}
	return less
}

// bound are the zones that have too much: all but the first with deltas, without them, and where there are many packs all alike without the oldest;
// but none of those that are made by packs.
func bound(r *release.Release) (less []release.Zone) {
	n, withPacks, left := 0, 0, maxDeltaZones
	for z := range r.All() {
		withPacks += min(1, len(z.Packs))
	}
	for was := range r.All() {
		if len(was.Packs) == 0 && len(was.Deltas) == 0 {
			continue
		}
		if !was.Whole() {
			left = max(0, left-len(was.Packs))
			continue
		}
		z := *was
		if packs := min(len(z.Packs), max(1, maxDeltaZones/max(1, withPacks)), left); packs < len(z.Packs) {
			z.Packs, z.Earlier = z.Packs[len(z.Packs)-packs:], release.Blob{}
		}
		left -= len(z.Packs)
		if len(z.Deltas) > 0 {
			if n++; n > maxDeltaZones {
				z.Deltas = nil
			}
		}
		if len(z.Packs) < len(was.Packs) || len(z.Deltas) < len(was.Deltas) {
			less = append(less, z)
		}
	}
	return less
}
