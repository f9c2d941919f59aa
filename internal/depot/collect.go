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

// collect is Collect of who knows nothing yet, and what it has kept.
func collect(s Store, view release.View) (kept, error) {
	// What is younger than Grace stays, counted from before the lists: they take a while, and others put something there meanwhile.
	c := collector{s, view.Versions, time.Now()}
	lists := map[string][]Entry{}
	for _, dir := range []string{"metadata", "targets", blobDir} {
		entries, err := s.List(dir)
		if err != nil {
			return kept{}, err
		}
		lists[dir] = entries
	}
	k := keptOf(view, func(below uint64) map[string]release.Manifest {
		return manifests(s, lists["targets"], below, view.Manifest)
	})
	keep := map[string]bool{}
	for name, m := range k.manifests {
		keep[name] = true
		for node := range m.Nodes() {
			keep[node] = true
		}
	}
	all := true
	for _, r := range k.releases {
		for z := range r.All() {
			add := func(f file) { f.names(func(name string) { keep[name] = true }) }
			if filesOf(z, add); z.Earlier != (release.Blob{}) {
				all = filesOfEarlier(s, z, add) && all
			}
		}
	}
	if !all { // which packs are needed is not known
		delete(lists, blobDir)
	}
	keepMetadata(keep, view.Versions)
	for _, e := range lists[blobDir] {
		if name := path.Join(blobDir, e.Name); strings.HasPrefix(e.Name, wayPrefix) && keep[name] {
			filesOfWay(s, name, func(f file) { f.names(func(name string) { keep[name] = true }) })
		}
	}
	var faults []error
	for dir, entries := range lists {
		faults = append(faults, c.removeOthers(dir, entries, keep))
	}
	return k, errors.Join(faults...)
}

// kept is what is kept beside metadata.
type kept struct {
	manifests map[string]release.Manifest // by file
	releases  []*release.Release          // whose zones are
}

// keptOf is what is kept of a view, and of manifests whose current release is below a number.
func keptOf(view release.View, named func(below uint64) map[string]release.Manifest) kept {
	k := kept{map[string]release.Manifest{release.ManifestName(view.Digest): view.Manifest}, slices.Collect(view.Manifest.Releases())}
	if current := view.Manifest.Current; current != nil {
		others := named(current.Number)
		if name, previous := previousRelease(others, current.Number); previous != nil {
			k.manifests[name], k.releases = others[name], append(k.releases, previous)
		}
	}
	return k
}

func keepMetadata(keep map[string]bool, now release.Versions) {
	for v := range int64(2) {
		keep["metadata/"+strconv.FormatInt(now.Snapshot-v, 10)+".snapshot.json"] = true
		keep["metadata/"+strconv.FormatInt(now.Targets-v, 10)+".targets.json"] = true
	}
}

// maxManifests bounds how many manifests are looked at for the previous release, the youngest first.
const maxManifests = 8

// manifests are those that can be read, by name, and whose current release is below a number. They are not verified: they
// only say what to keep. What they have in common with like is not read again.
func manifests(s Store, entries []Entry, below uint64, like release.Manifest) map[string]release.Manifest {
	entries = slices.DeleteFunc(slices.Clone(entries), func(e Entry) bool { return !strings.HasSuffix(e.Name, ".mesh.json") })
	slices.SortFunc(entries, func(a, b Entry) int { return b.Modified.Compare(a.Modified) })
	found := map[string]release.Manifest{}
	for _, e := range entries[:min(len(entries), maxManifests)] {
		name := path.Join("targets", e.Name)
		data, _, err := s.Read(name, release.MaxManifestBytes)
		if err != nil || currentOf(data) >= below {
			continue
		}
		if m, err := release.ParseManifest(data, s, like); err == nil {
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

// file is a file of a zone.
type file struct {
	kind   fileKind
	digest release.Digest
}

type fileKind uint8

const (
	blobFile fileKind = iota // what was published, or the part of it that has come
	textFile                 // made of a delta
	wayFile
)

// names tells the names that it may have.
func (f file) names(each func(name string)) {
	switch f.kind {
	case blobFile:
		each(release.BlobName(f.digest))
		each(path.Join(blobDir, partPrefix+f.digest.String()))
	case textFile:
		each(textName(f.digest))
	case wayFile:
		each(wayName(f.digest))
	}
}

// filesOf tells all files that a zone may have, but for packs that only its file of earlier ones names.
func filesOf(z *release.Zone, each func(file)) {
	each(file{blobFile, z.Blob.SHA256})
	each(file{textFile, z.SHA256})
	if z.Root != (release.Digest{}) {
		each(file{wayFile, z.Root})
	}
	for i := range z.Deltas {
		each(file{blobFile, z.Deltas[i].Blob.SHA256})
	}
	for i := range z.Packs {
		each(file{blobFile, z.Packs[i].Blob.SHA256})
	}
	if z.Earlier != (release.Blob{}) {
		each(file{blobFile, z.Earlier.SHA256})
	}
}

// filesOfEarlier tells the packs that a zone's file of earlier ones names. It reports whether they are all known.
func filesOfEarlier(s Store, z *release.Zone, each func(file)) bool {
	earlier, err := ReadEarlier(s, *z)
	for _, p := range earlier {
		each(file{blobFile, p.Blob.SHA256})
	}
	rule, _ := release.RuleOf(err)
	return err == nil || rule == release.Missing // a node has a way, or a text
}

// collector removes from a store, as long as what it knows is fresh.
type collector struct {
	Store
	now    release.Versions
	listed time.Time // when that was, at the latest: before the first list
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

// nodeGrace is how long a node of a tree is kept at the least: for who reads the tree over a slow line while newer releases come, and what has
// come to a depot of a tree that is not there yet.
const nodeGrace = time.Hour

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
		if release.IsNode(path.Join(dir, e.Name)) {
			return age >= max(c.Grace(), nodeGrace)
		}
		return old && strings.HasSuffix(e.Name, ".mesh.json")
	}
	if strings.HasPrefix(strings.TrimPrefix(e.Name, "."), besidePrefix) {
		return age >= besideGrace
	}
	return old && e.Name != lockName && !isTemp(e.Name)
}
