package depot

import (
	"bytes"
	"errors"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/release"
)

// Collect removes from s what nobody needs any more once view was installed. It keeps the blobs of the current, the next
// and the previous release, all roots, and for readers that are in the middle of it one older version of the other
// metadata. The previous release is known from the last manifest that named it, which is kept for that.
//
// Where there are other writers, one may have gone on meanwhile, or be about to: what is numbered higher than view stays,
// and so does what is younger than the store's Grace. Without them, call it with the lock held.
func Collect(s Store, view release.View) error {
	lists := map[string][]Entry{}
	for _, dir := range []string{"metadata", "targets", blobDir} {
		entries, err := s.List(dir)
		if err != nil {
			return err
		}
		lists[dir] = entries
	}
	keep, all := map[string]bool{release.ManifestName(view.Digest): true}, true
	for r := range view.Manifest.Releases() {
		all = keepRelease(keep, s, r) && all
	}
	if current := view.Manifest.Current; current != nil {
		name, previous := previousRelease(manifests(s, lists["targets"], current.Number), current.Number)
		keep[name] = true
		all = keepRelease(keep, s, previous) && all
	}
	if !all { // which packs are needed is not known
		delete(lists, blobDir)
	}
	for v := range int64(2) {
		keep["metadata/"+strconv.FormatInt(view.Versions.Snapshot-v, 10)+".snapshot.json"] = true
		keep["metadata/"+strconv.FormatInt(view.Versions.Targets-v, 10)+".targets.json"] = true
	}
	for _, e := range lists[blobDir] {
		if name := path.Join(blobDir, e.Name); strings.HasPrefix(e.Name, wayPrefix) && keep[name] {
			keepWay(keep, s, name)
		}
	}
	c := collector{s, view.Versions, time.Now()}
	var faults []error
	for dir, entries := range lists {
		faults = append(faults, c.removeOthers(dir, entries, keep))
	}
	return errors.Join(faults...)
}

// maxManifests bounds how many manifests are looked at for the previous release, the youngest first.
const maxManifests = 8

// manifests are those that can be read, by name, and whose current release is below a number. They are not verified: they
// only say what to keep.
func manifests(s Store, entries []Entry, below uint64) map[string]release.Manifest {
	entries = slices.SortedFunc(slices.Values(entries), func(a, b Entry) int { return b.Modified.Compare(a.Modified) })
	found := map[string]release.Manifest{}
	for _, e := range entries[:min(len(entries), maxManifests)] {
		name := path.Join("targets", e.Name)
		data, _, err := s.Read(name, release.MaxManifestBytes)
		if err != nil || currentOf(data) >= below {
			continue
		}
		if m, err := release.ParseManifest(data); err == nil {
			found[name] = m
		}
	}
	return found
}

// currentOf is the number of the current release in the canonical encoding of a manifest; 0 if there is none. It stands at the
// beginning: what follows may be long, and names no lower number.
func currentOf(data []byte) uint64 {
	_, after, _ := bytes.Cut(data[:min(len(data), 256)], []byte(`"current":{"number":`))
	digits, _, _ := bytes.Cut(after, []byte(","))
	number, _ := strconv.ParseUint(string(digits), 10, 64)
	return number
}

// previousRelease is the highest release below the current one's number, and the name of a manifest that holds it.
func previousRelease(manifests map[string]release.Manifest, current uint64) (string, *release.Release) {
	var name string
	var previous *release.Release
	for from, m := range manifests {
		for r := range m.Releases() {
			if r.Number < current && (previous == nil || r.Number > previous.Number) {
				name, previous = from, r
			}
		}
	}
	return name, previous
}

// keepRelease keeps what a release, which may be nil, is made of. It reports whether that is all known.
func keepRelease(keep map[string]bool, s Store, r *release.Release) bool {
	if r == nil {
		return true
	}
	all := true
	for _, z := range r.Zones {
		keepBlob(keep, z.Blob)
		keep[textName(z.SHA256)], keep[wayName(z.Root)] = true, true
		for _, delta := range z.Deltas {
			keepBlob(keep, delta.Blob)
		}
		for _, pack := range z.Packs {
			keepBlob(keep, pack.Blob)
		}
		if z.Earlier == (release.Blob{}) || keep[release.BlobName(z.Earlier.SHA256)] {
			continue
		}
		keepBlob(keep, z.Earlier)
		earlier, err := ReadEarlier(s, z)
		for _, pack := range earlier {
			keepBlob(keep, pack.Blob)
		}
		rule, _ := release.RuleOf(err)
		all = all && (err == nil || rule == release.Missing) // a node has a way, or a text
	}
	return all
}

func keepBlob(keep map[string]bool, b release.Blob) {
	keep[release.BlobName(b.SHA256)] = true
	keep[path.Join(blobDir, partPrefix+b.SHA256.String())] = true
}

// collector removes from a store, as long as what it knows is fresh.
type collector struct {
	Store
	now    release.Versions
	listed time.Time
}

// collectWithin bounds how long after the listing something may be removed: a writer that was stopped for long must not
// go on with what it knew. It is short beside any Grace.
const collectWithin = 10 * time.Minute

// removeOthers removes the files of dir that are not kept and not to be spared.
func (c collector) removeOthers(dir string, entries []Entry, keep map[string]bool) error {
	for _, e := range entries {
		name := path.Join(dir, e.Name)
		if keep[name] || !c.removable(dir, e) {
			continue
		}
		if c.Grace() > 0 && time.Since(c.listed) > collectWithin {
			return nil
		}
		if err := c.Remove(name); err != nil {
			return err
		}
	}
	return nil
}

// removable reports whether a file that view does not need may go.
func (c collector) removable(dir string, e Entry) bool {
	age := c.listed.Sub(e.Modified)
	old := age >= c.Grace()
	switch dir {
	case "metadata":
		number, kind, _ := strings.Cut(e.Name, ".")
		version, err := strconv.ParseInt(number, 10, 64)
		switch kind {
		case "snapshot.json":
			return err == nil && (c.Grace() == 0 || version < c.now.Snapshot)
		case "targets.json":
			return err == nil && (c.Grace() == 0 || version < c.now.Targets)
		}
		return false
	case "targets":
		return old && strings.HasSuffix(e.Name, ".mesh.json")
	}
	if strings.HasPrefix(strings.TrimPrefix(e.Name, "."), besidePrefix) {
		return age >= besideGrace
	}
	return old && e.Name != lockName && !isTemp(e.Name)
}

// zonesOf lists the zones of a manifest, the current release's first, each content once.
func zonesOf(m release.Manifest) []release.Zone {
	seen := map[release.Digest]bool{}
	var zones []release.Zone
	for r := range m.Releases() {
		for _, z := range r.Zones {
			if !seen[z.Content()] {
				seen[z.Content()] = true
				zones = append(zones, z)
			}
		}
	}
	return zones
}
