package depot

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"path"

	"github.com/coredns-anycast/coredns-anycast/internal/release"
)

// Way is what a depot has in place of a zone's text: a text of an older zone, and the packs that lead from there to the zone's root.
// It is written by whoever fetched them and is no statement of its own: the zone that comes of it counts only if it has the root that
// was signed.
type Way struct {
	Base  release.Zone   `json:"base"`  // its text is here; without origin: there is none, but for the packs of the manifest
	Packs []release.Pack `json:"packs"` // each makes of its From that of the next
}

// Bounds of a way.
const (
	// maxWay is how many packs a node gathers on an older text: what is read at a start without compiled zones stays small. What a manifest
	// names, from its own base, may be more.
	maxWay      = 1024
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

// Way is the way to a zone: that which was fetched, or else that which the manifest names, of whose packs any may not be here, and which
// begins with no text where that is not here. Who has a zone that one of the packs is from can go on from there.
func (d *Dir) Way(z release.Zone) Way {
	if w, err := readWay(d, wayName(z.Root)); err == nil {
		return w
	}
	w := Way{Packs: chainOf(d, z)}
	if base := z.Base(); !z.Whole() && d.showsText(base) {
		w.Base = base
	}
	return w
}

// Released is the way to a zone that is not whole in a repository which has all that a manifest names. Errors are *release.Error.
func Released(repo fs.FS, z release.Zone) (Way, error) {
	w := Way{Base: z.Base(), Packs: z.Since(z.Packs)}
	if len(w.Packs) > 0 { // all of them are named
		return w, nil
	}
	earlier, err := ReadEarlier(repo, z)
	if err != nil {
		return w, err
	}
	chain, err := z.Chain(earlier)
	if err != nil {
		return w, &release.Error{File: release.BlobName(z.Earlier.SHA256), Rule: release.Packs, Detail: fmt.Sprintf("zone %s: %v", z.Origin, err)}
	}
	w.Packs = z.Since(chain)
	return w, nil
}

// chainOf is as much of the packs that lead to a zone as is known here.
func chainOf(repo fs.FS, z release.Zone) []release.Pack {
	if earlier, err := ReadEarlier(repo, z); err == nil && len(earlier) > 0 {
		if chain, err := z.Chain(earlier); err == nil {
			return chain
		}
	}
	return z.Packs
}

// ReadEarlier reads the packs before those that a manifest names for a zone; none if it names no file of such. Errors are *release.Error.
func ReadEarlier(repo fs.FS, z release.Zone) ([]release.Pack, error) {
	if z.Earlier == (release.Blob{}) {
		return nil, nil
	}
	data, err := readPacked(repo, z.Origin, z.Earlier, release.MaxEarlierBytes)
	if err != nil {
		return nil, err
	}
	packs, err := release.ParseEarlier(data)
	if err != nil {
		return nil, &release.Error{File: release.BlobName(z.Earlier.SHA256), Rule: release.Packs, Detail: fmt.Sprintf("zone %s: %v", z.Origin, err)}
	}
	return packs, nil
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

// ReadPack reads a pack of a zone and checks it against what was signed: its octets, unpacked. Errors are *release.Error. It takes no more
// memory than the pack's length.
func ReadPack(repo fs.FS, origin string, p release.Pack) ([]byte, error) {
	data, err := readPacked(repo, origin, p.Blob, min(p.Length, release.MaxPackBytes))
	if err == nil && int64(len(data)) < p.Length {
		err = &release.Error{File: release.BlobName(p.Blob.SHA256), Rule: release.Length, Detail: fmt.Sprintf("unpacks to %d bytes, %d are announced", len(data), p.Length)}
	}
	return data, err
}

// readPacked reads a small blob of a zone that was signed, and unpacks it to so many bytes at the most.
func readPacked(repo fs.FS, origin string, b release.Blob, most int64) ([]byte, error) {
	name := release.BlobName(b.SHA256)
	f, err := openBlob(repo, b, origin)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	packed, err := io.ReadAll(io.LimitReader(f, min(b.Length, release.MaxPackBytes)))
	if err == nil {
		err = checkPacked(bytes.NewReader(packed), b)
	}
	if err != nil {
		return nil, err
	}
	unpacker, err := unpack(bytes.NewReader(packed))
	if err != nil {
		return nil, &release.Error{File: name, Rule: release.Torn, Detail: err.Error()}
	}
	defer unpacker.Close()
	data, err := io.ReadAll(io.LimitReader(unpacker, most+1))
	switch {
	case int64(len(data)) > most:
		return nil, &release.Error{File: name, Rule: release.Oversize, Detail: fmt.Sprintf("unpacks to more than %d bytes", most)}
	case err != nil:
		return nil, &release.Error{File: name, Rule: release.Torn, Detail: err.Error()}
	}
	return data, nil
}

// hasWay reports whether all is here by which a zone can be made without its text. What is in it is read through when deep is set, and
// what is damaged is removed.
func (d *Dir) hasWay(z release.Zone, deep bool) bool {
	if z.Root == (release.Digest{}) {
		return false
	}
	w, err := readWay(d, wayName(z.Root))
	if err != nil || w.Base.Origin == "" {
		return false
	}
	there, err := d.hasText(w.Base, deep)
	return there && err == nil && d.hasPacks(w.Packs, deep)
}

// hasPacks is hasWay of packs.
func (d *Dir) hasPacks(packs []release.Pack, deep bool) bool {
	for _, p := range packs {
		if !d.HasBlob(p.Blob) || deep && !d.intact(p.Blob) {
			return false
		}
	}
	return true
}

// intact reports whether a blob that is here is as it was signed; otherwise it is removed.
func (d *Dir) intact(b release.Blob) bool {
	if d.CheckBlob(b) == nil {
		return true
	}
	d.Remove(release.BlobName(b.SHA256))
	return false
}

// filesOfWay tells what a way is made of.
func filesOfWay(s Store, name string, each func(file)) {
	w, err := readWay(s, name)
	if err != nil {
		return
	}
	each(file{blobFile, w.Base.Blob.SHA256})
	each(file{textFile, w.Base.SHA256})
	for _, p := range w.Packs {
		each(file{blobFile, p.Blob.SHA256})
	}
}
