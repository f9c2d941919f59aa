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
	// maxDeltaZones bounds how many zones of a release have deltas, so that a manifest of many zones stays readable.
	maxDeltaZones = 10_000
)

// deltas are the ways to a zone's text from the one that is answered now, which every node holds. Those to a text that did
// not change stay: from the text before that there are two steps, as long as the manifest names both.
func deltas(w *home.Writer, z release.Zone, difference *zone.Delta) ([]release.Delta, error) {
	was := w.View().Manifest.Current.Zone(z.Origin)
	switch {
	case was == nil || z.Blob.Length < minDeltaBlob:
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

// boundDeltas takes the deltas off all but the first zones.
func boundDeltas(zones []release.Zone) {
	n := 0
	for i := range zones {
		if len(zones[i].Deltas) == 0 {
			continue
		}
		if n++; n > maxDeltaZones {
			zones[i].Deltas = nil
		}
	}
}
