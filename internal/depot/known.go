package depot

import (
	"cmp"
	"errors"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/release"
)

// Known is what a process knows of a directory that it brings up to a repository, or publishes in, again and again, so that it need not go over
// all zones when a few have changed. It can only be lacking, and the zero value knows nothing. One goroutine uses it at a time.
type Known struct {
	there  map[release.Digest]bool // leaves of trees of which all zones were there
	recent []release.Manifest      // that were in the directory lately, maxRecent at the most, the one that came last at the end; nil: not looked up yet
	kept   kept                    // by the last Collect
	swept  time.Time               // when all that lies there was looked at; zero: it was not
}

// Forget has all zones looked at again.
func (k *Known) Forget() { k.there = nil }

// toSee are the zones of a manifest of which it is not known that they are there, or all of them; the current release's come first, and
// each content once.
func (k *Known) toSee(m release.Manifest, all bool) []release.Zone {
	seen := map[release.Digest]bool{}
	var zones []release.Zone
	for r := range m.Releases() {
		for leaf, part := range r.Leaves() {
			if k.there[leaf] && !all {
				continue
			}
			for _, z := range part {
				if !seen[z.Content()] {
					seen[z.Content()] = true
					zones = append(zones, z)
				}
			}
		}
	}
	return zones
}

// saw notes that all zones of a manifest are there, or else only those of which that is known. What other manifests have, Collect may remove.
func (k *Known) saw(m release.Manifest, all bool) {
	there := make(map[release.Digest]bool, len(k.there))
	for r := range m.Releases() {
		for leaf := range r.Leaves() {
			if leaf != (release.Digest{}) && (all || k.there[leaf]) {
				there[leaf] = true
			}
		}
	}
	k.there = there
}

// lately are manifests that were in the directory, and at their end m.
func (k *Known) lately(d *Dir, m release.Manifest) []release.Manifest {
	if k.recent == nil {
		entries, _ := d.List("targets") // without it, zones are taken whole
		k.recent = slices.SortedFunc(maps.Values(manifests(d, entries, math.MaxUint64, m)), func(a, b release.Manifest) int {
			return cmp.Compare(a.Newest(), b.Newest())
		})
	}
	if n := len(k.recent); n == 0 || !sameNumbers(k.recent[n-1], m) {
		k.recent = append(k.recent, m)
	}
	if n := len(k.recent); n > maxRecent {
		k.recent = slices.Clone(k.recent[n-maxRecent:])
	}
	return k.recent
}

// maxRecent is how many manifests are remembered: they name the current, the next and the previous release, whose files Collect keeps, and with
// many zones each takes much memory.
const maxRecent = 3

// sameNumbers reports whether two manifests name releases of the same numbers, which have the same zones.
func sameNumbers(a, b release.Manifest) bool {
	numbers := func(m release.Manifest) (all []uint64) {
		for r := range m.Releases() {
			all = append(all, r.Number)
		}
		return all
	}
	return slices.Equal(numbers(a), numbers(b))
}

// sweepEvery is how often all that lies in a directory is looked at for what nobody needs: what a writer that was killed has left, for one.
const sweepEvery = time.Hour

// Collect removes from s what nobody needs any more once view was installed. It keeps the blobs of the current, the next
// and the previous release, all roots, and for readers that are in the middle of it one older version of the other
// metadata. The previous release is known from the last manifest that named it, which is kept for that, with all its zones.
//
// Where there are other writers, one may have gone on meanwhile, or be about to: what is numbered higher than view stays,
// and so does what is younger than the store's Grace. Without them, call it with the lock held.
//
// Of a directory in which it was done before, only what was kept then and is kept no more is looked for, and all once an hour.
func (k *Known) Collect(s Store, view release.View) (err error) {
	before := k.kept
	if s.Grace() > 0 || k.swept.IsZero() || time.Since(k.swept) >= sweepEvery {
		k.swept = time.Time{}
		if k.kept, err = collect(s, view); err == nil {
			k.swept = time.Now()
		}
		return err
	}
	k.kept = keptOf(view, func(below uint64) map[string]release.Manifest {
		named := maps.Clone(before.manifests)
		maps.DeleteFunc(named, func(_ string, m release.Manifest) bool { return m.Current != nil && m.Current.Number >= below })
		return named
	})
	return errors.Join(k.collectMetadata(s, view), k.collectSince(s, before))
}

// Published notes a view that was published without a Collect, so that the next one finds its manifest.
func (k *Known) Published(view release.View) {
	if k.kept.manifests != nil {
		k.kept.manifests[release.ManifestName(view.Digest)] = view.Manifest
	}
}

func (k *Known) collectMetadata(s Store, view release.View) error {
	entries, err := s.List("metadata")
	if err != nil {
		return err
	}
	keep := map[string]bool{}
	keepMetadata(keep, view.Versions)
	return collector{s, view.Versions, time.Now()}.removeOthers("metadata", entries, keep)
}

// collectSince removes what was kept before, and is not kept any more, but for nodes of trees: who reads a tree over a slow line is not to find
// them gone when the next releases come. They are small, and all go together once an hour.
func (k *Known) collectSince(s Store, before kept) error {
	var gone []string
	for name := range before.manifests {
		if _, still := k.kept.manifests[name]; !still {
			gone = append(gone, name)
		}
	}
	for f := range k.dropped(s, before) {
		f.names(func(name string) { gone = append(gone, name) })
	}
	for _, name := range gone {
		if err := s.Remove(name); err != nil {
			return err
		}
	}
	return nil
}

// dropped are the files of zones that only releases have which are not kept any more.
func (k *Known) dropped(s Store, before kept) map[file]bool {
	files, origins := map[file]bool{}, map[string]bool{}
	kept := map[release.Digest]bool{}
	for _, r := range before.releases {
		if slices.ContainsFunc(k.kept.releases, func(o *release.Release) bool { return o.Number == r.Number }) {
			continue
		}
		if len(kept) == 0 {
			for _, r := range k.kept.releases {
				for leaf := range r.Leaves() {
					kept[leaf] = leaf != release.Digest{}
				}
			}
		}
		for leaf, zones := range r.Leaves() {
			for i := 0; i < len(zones) && !kept[leaf]; i++ {
				origins[zones[i].Origin] = true
				filesOf(&zones[i], func(f file) { files[f] = true })
				filesOfEarlier(s, &zones[i], func(f file) { files[f] = true })
			}
		}
	}
	for f := range files {
		if f.kind == wayFile {
			filesOfWay(s, wayName(f.digest), func(f file) { files[f] = true })
		}
	}
	if !k.spare(s, files, origins) {
		k.swept = time.Time{}
		return nil
	}
	return files
}

// spare takes off a list of files those of zones that are kept, and those which ways to such zones and their files of earlier packs name, if
// they are of these origins: a pack is of one zone. It reports whether these could be read.
func (k *Known) spare(s Store, files map[file]bool, origins map[string]bool) (all bool) {
	if len(files) == 0 {
		return true
	}
	all = true
	var begin [1 << 16]bool // how digests on the list begin: a map is asked for these only
	at := func(d release.Digest) int { return int(d[0])<<8 | int(d[1]) }
	for f := range files {
		begin[at(f.digest)] = true
	}
	seen := map[release.Digest]bool{}
	for _, r := range k.kept.releases {
		for leaf, zones := range r.Leaves() {
			if seen[leaf] {
				continue
			}
			seen[leaf] = leaf != release.Digest{}
			for i := range zones {
				filesOf(&zones[i], func(f file) {
					if begin[at(f.digest)] {
						delete(files, f)
					}
				})
			}
		}
		for origin := range origins {
			z := r.Zone(origin)
			if z == nil || z.Root == (release.Digest{}) {
				continue
			}
			filesOfWay(s, wayName(z.Root), func(f file) { delete(files, f) })
			all = filesOfEarlier(s, z, func(f file) { delete(files, f) }) && all
		}
	}
	return all
}
