package depot

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"path"
	"slices"

	"github.com/coredns-anycast/coredns-anycast/internal/release"
)

// Way is what a depot has in place of a zone's text: an older text of the zone, and the packs that lead from there to the zone's root.
// It is written by whoever fetched them and is no statement of its own: the zone that comes of it counts only if it has the root that
// was signed.
type Way struct {
	Base  release.Zone   `json:"base"`  // its text is here; without origin: there is none, but for the packs of the manifest
	Packs []release.Pack `json:"packs"` // each makes of its From that of the next
}

// Bounds of a way. A longer one ends with the text: what is read at a start without compiled zones, and kept, stays small.
const (
	maxWay      = 512 // packs
	maxWayBytes = 1 << 20
)

// wayName is where the way to a zone with a root lies: the repository has no such file.
func wayName(root release.Digest) string { return path.Join(blobDir, wayPrefix+root.String()) }

const wayPrefix = "way-"

// octets is what packs take as files.
func octets(packs []release.Pack) (n int64) {
	for _, p := range packs {
		n += p.Blob.Length
	}
	return n
}

// Way is the way to a zone: that which was fetched, or else the packs that the manifest names, of which any may not be here. Who
// has a zone that one of the packs is from can go on from there.
func (d *Dir) Way(z release.Zone) Way {
	if w, err := readWay(d, wayName(z.Root)); err == nil {
		return w
	}
	return Way{Packs: z.Packs}
}

func readWay(s Store, name string) (w Way, err error) {
	data, _, err := s.Read(name, maxWayBytes)
	if err != nil {
		return w, err
	}
	in := json.NewDecoder(bytes.NewReader(data))
	in.DisallowUnknownFields()
	return w, in.Decode(&w)
}

// ReadPack reads a pack that was checked against what was signed: its octets, unpacked. Errors are *release.Error. It takes no more
// memory than the pack's length.
func (d *Dir) ReadPack(p release.Pack) ([]byte, error) {
	name := release.BlobName(p.Blob.SHA256)
	packed, err := readAll(d.root, name, min(p.Blob.Length, release.MaxPackBytes))
	if err != nil {
		return nil, &release.Error{File: name, Rule: release.Missing, Detail: err.Error()}
	}
	if err := checkPacked(bytes.NewReader(packed), p.Blob); err != nil {
		return nil, err
	}
	unpacker, err := unpack(bytes.NewReader(packed))
	if err != nil {
		return nil, &release.Error{File: name, Rule: release.Torn, Detail: err.Error()}
	}
	defer unpacker.Close()
	data, err := io.ReadAll(io.LimitReader(unpacker, min(p.Length, release.MaxPackBytes)+1))
	switch {
	case int64(len(data)) > p.Length:
		return nil, &release.Error{File: name, Rule: release.Oversize, Detail: fmt.Sprintf("unpacks to more than %d bytes", p.Length)}
	case err != nil:
		return nil, &release.Error{File: name, Rule: release.Torn, Detail: err.Error()}
	case int64(len(data)) < p.Length:
		return nil, &release.Error{File: name, Rule: release.Length, Detail: fmt.Sprintf("unpacks to %d bytes, %d are announced", len(data), p.Length)}
	}
	return data, nil
}

// hasWay reports whether all is here by which a zone can be made without its text. What is in it is read through when deep is set, and
// what is damaged is removed.
func (d *Dir) hasWay(z release.Zone, deep bool) bool {
	w, err := readWay(d, wayName(z.Root))
	if err != nil || w.Base.Origin == "" {
		return false
	}
	if there, err := d.hasText(w.Base, deep); !there || err != nil {
		return false
	}
	for _, p := range w.Packs {
		if !d.HasBlob(p.Blob) {
			return false
		}
		if deep && d.CheckBlob(p.Blob) != nil {
			d.Remove(release.BlobName(p.Blob.SHA256))
			return false
		}
	}
	return true
}

// wayTo is the shortest way to a zone from what is here, and the packs of it that are to be fetched; false if there is none, or the
// text is less.
func (g *getter) wayTo(z release.Zone) (w Way, fetch []release.Pack, found bool) {
	if g.Texts {
		return w, nil, false
	}
	for i := range slices.Backward(z.Packs) {
		if fetch = z.Packs[i:]; octets(fetch) >= z.Blob.Length {
			break
		}
		older, known := g.olderZones().roots[z.Packs[i].From]
		if !known || older.Origin != z.Origin {
			continue
		}
		if there, err := g.dir.hasText(older, false); there && err == nil {
			w = Way{Base: older}
		} else if w, err = readWay(g.dir, wayName(older.Root)); err != nil || !g.dir.hasWay(older, false) {
			continue
		}
		w.Packs = append(w.Packs, fetch...)
		if w.Base.Packs, w.Base.Deltas = nil, nil; len(w.Packs) <= maxWay && octets(w.Packs) < z.Blob.Length {
			return w, fetch, true
		}
	}
	return w, nil, false
}

// take fetches the packs that are not here yet, and then writes down the way that they are part of.
func (g *getter) take(ctx context.Context, z release.Zone, w Way, fetch []release.Pack) error {
	for i, p := range fetch {
		after := octets(fetch[i+1:])
		g.left += after
		err := g.fetch(ctx, z.Origin, p.Blob)
		if g.left -= after; err != nil {
			return err
		}
	}
	data, err := json.Marshal(w)
	if err != nil {
		return err
	}
	return replace(g.dir.root, wayName(z.Root), data, 0o644)
}

// keepWay keeps what a way is made of.
func keepWay(keep map[string]bool, s Store, name string) {
	w, err := readWay(s, name)
	if err != nil {
		return
	}
	keepBlob(keep, w.Base.Blob)
	keep[textName(w.Base.SHA256)] = true
	for _, p := range w.Packs {
		keepBlob(keep, p.Blob)
	}
}
