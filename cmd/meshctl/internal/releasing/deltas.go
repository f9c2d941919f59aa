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

// boundRoots takes the roots off the zones of the smallest texts, and what leads to them, where more than most have one. Those that are
// known by their roots alone had one in a release before, and so are not too many.
func boundRoots(zones []release.Zone, most int) {
	with := func(least int64) (n int) {
		for i := range zones {
			if zones[i].Root != (release.Digest{}) && (zones[i].Blob.Length >= least || !zones[i].Whole()) {
				n++
			}
		}
		return n
	}
	least := int64(minDeltaBlob)
	for with(least) > most && least < release.MaxZoneBytes {
		least *= 2
	}
	for i := range zones {
		if zones[i].Blob.Length < least && zones[i].Whole() {
			zones[i].Root, zones[i].Packs, zones[i].Earlier = release.Digest{}, nil, release.Blob{}
		}
	}
}

// bound takes the deltas off all but the first zones, and the oldest packs off all zones alike, where there are many; but none off those
// that are made by them.
func bound(zones []release.Zone) {
	n, withPacks, left := 0, 0, maxDeltaZones
	for i := range zones {
		withPacks += min(1, len(zones[i].Packs))
	}
	for i := range zones {
		z := &zones[i]
		if !z.Whole() {
			left = max(0, left-len(z.Packs))
			continue
		}
		if packs := min(len(z.Packs), max(1, maxDeltaZones/max(1, withPacks)), left); packs < len(z.Packs) {
			z.Packs, z.Earlier = z.Packs[len(z.Packs)-packs:], release.Blob{}
		}
		left -= len(z.Packs)
		if len(z.Deltas) == 0 {
			continue
		}
		if n++; n > maxDeltaZones {
			z.Deltas = nil
		}
	}
}
