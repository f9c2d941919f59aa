package depot

import (
	"errors"
	"io/fs"
	"path"
	"strconv"
	"strings"

	"github.com/coredns-anycast/coredns-anycast/internal/release"
)

// Collect removes what nobody needs any more once view was installed. It keeps the blobs of the current, the next and
// the previous release, all roots, and for readers that are in the middle of it one older version of the other
// metadata. The previous release is known from the last manifest that named it, which is kept for that. Call it with
// the lock held.
func (d *Dir) Collect(view release.View) error {
	keep := map[string]bool{}
	manifests, err := d.manifests()
	if err != nil {
		return err
	}
	keepManifest(keep, view.Manifest)
	name, previous := previousRelease(manifests, view.Manifest)
	keep[name] = true
	keepRelease(keep, previous)
	for v := range int64(2) {
		keep["metadata/"+strconv.FormatInt(view.Versions.Snapshot-v, 10)+".snapshot.json"] = true
		keep["metadata/"+strconv.FormatInt(view.Versions.Targets-v, 10)+".targets.json"] = true
	}
	return errors.Join(
		d.removeOthers("metadata", keep, func(name string) bool {
			return strings.HasSuffix(name, ".snapshot.json") || strings.HasSuffix(name, ".targets.json")
		}),
		d.removeOthers("targets", keep, func(name string) bool { return strings.HasSuffix(name, ".mesh.json") }),
		d.removeOthers(blobDir, keep, func(name string) bool { return name != lockName && !isTemp(name) }),
	)
}

// maxManifests bounds how many manifests are looked at for the previous release.
const maxManifests = 64

// manifests are those in the repository that can be read, by name. They are not verified: they only say what to keep.
func (d *Dir) manifests() (map[string]release.Manifest, error) {
	entries, err := fs.ReadDir(d.root.FS(), "targets")
	if err != nil {
		return nil, err
	}
	found := map[string]release.Manifest{}
	for _, e := range entries[:min(len(entries), maxManifests)] {
		name := path.Join("targets", e.Name())
		data, err := readAll(d.root, name, release.MaxManifestBytes)
		if err != nil {
			continue
		}
		if m, err := release.ParseManifest(data); err == nil {
			found[name] = m
		}
	}
	return found, nil
}

// previousRelease is the highest release below the current one, and the name of a manifest that holds it.
func previousRelease(manifests map[string]release.Manifest, now release.Manifest) (string, *release.Release) {
	var name string
	var previous *release.Release
	if now.Current == nil {
		return "", nil
	}
	for from, m := range manifests {
		for _, r := range []*release.Release{m.Current, m.Next} {
			if r != nil && r.Number < now.Current.Number && (previous == nil || r.Number > previous.Number) {
				name, previous = from, r
			}
		}
	}
	return name, previous
}

func keepManifest(keep map[string]bool, m release.Manifest) {
	if data, err := m.Encode(); err == nil {
		keep[release.ManifestName(release.DigestOf(data))] = true
	}
	keepRelease(keep, m.Current)
	keepRelease(keep, m.Next)
}

func keepRelease(keep map[string]bool, r *release.Release) {
	if r == nil {
		return
	}
	for _, z := range r.Zones {
		keep[release.BlobName(z.Blob.SHA256)] = true
		keep[path.Join(blobDir, partPrefix+z.Blob.SHA256.String())] = true
	}
}

// removeOthers removes from dir the files of a kind that are not kept.
func (d *Dir) removeOthers(dir string, keep map[string]bool, kind func(name string) bool) error {
	entries, err := fs.ReadDir(d.root.FS(), dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		name := path.Join(dir, e.Name())
		if keep[name] || !kind(e.Name()) || !e.Type().IsRegular() {
			continue
		}
		step("remove")
		if err := d.root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// blobsOf lists the blobs of a manifest, the current release's first, each once.
func blobsOf(m release.Manifest) []release.Blob {
	seen := map[release.Digest]bool{}
	var blobs []release.Blob
	for _, r := range []*release.Release{m.Current, m.Next} {
		if r == nil {
			continue
		}
		for _, z := range r.Zones {
			if !seen[z.Blob.SHA256] {
				seen[z.Blob.SHA256] = true
				blobs = append(blobs, z.Blob)
			}
		}
	}
	return blobs
}
