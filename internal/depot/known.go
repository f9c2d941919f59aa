package depot

import (
	"bytes"
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
	there  []*release.Release // all of whose zones were there
	since  []release.Manifest // that went in after these without all their zones: what one of them does not have may have been removed
	recent []release.Manifest // that were in the directory lately, maxRecent at the most, the one that came last at the end; nil: not looked up yet
	kept   kept               // by the last Collect
	swept  time.Time          // when all that lies there was looked at; zero: it was not
	due    time.Time          // when that is to be done though looks fail; zero: none has failed yet

	offers map[string]offer // by URL of the server, of blobs many at a time (Holder)
	named  bool             // the names of all blobs that are there are on disk: a process that was killed may have left some that are not

	rest  *rest         // what was to be got when the last look at the zones ended; nil: that is not known
	began time.Time     // when all zones that are not in there were looked at last
	took  time.Duration // and how long that took

	read time.Time // when all that is there was read through last, and was as it should be at the end
}

// Read is when all that is there was read through last (Source.Deep), and what was damaged had come again; the zero time if it was not.
func (k *Known) Read() time.Time { return k.read }

// rest is what is yet to be got of a manifest's zones. A look goes on with what the one before has left: where a hundred thousand zones are missing, each
// would find out about all of them anew, and get some.
type rest struct {
	of    release.Manifest
	zones []lack // in the order in which they are to be got
	left  int64  // octets that are to be fetched for all of them
}

// lack is a zone that is missing, and how many octets are to be fetched for it.
type lack struct {
	*release.Zone
	octets int64
}

// forget has all zones looked at again.
func (k *Known) forget() { k.there, k.since, k.rest = nil, nil, nil }

// Doubt is forget of who has heard that something is missing, as it does as long as zones come: to look at all of them takes no more than a
// twentieth of the time.
func (k *Known) Doubt() {
	if time.Since(k.began) >= doubtShare*k.took {
		k.forget()
	}
}

const doubtShare = 20

// toSee are the zones of a manifest of which it is not known that they are there, or all of them; the current release's come first, and
// each content once.
func (k *Known) toSee(m release.Manifest, all bool) (zones []*release.Zone) {
	var known [][]*release.Release // what each of these has
	if !all && len(k.there) > 0 {
		known = append(known, k.there)
		for _, m := range k.since {
			known = append(known, slices.Collect(m.Releases()))
		}
	} else {
		known = append(known, nil)
	}
	seen := map[release.Digest]bool{}
	for r := range m.Releases() {
		for i, has := range known {
			for z := range r.Beside(has...) {
				if !seen[z.Content()] {
					seen[z.Content()] = true
					zones = append(zones, z)
				}
			}
			known[i] = append(has[:len(has):len(has)], r)
		}
	}
	return zones
}

// saw notes that all zones of a manifest are there, or else only those of which that is known. What other manifests have, Collect may remove.
func (k *Known) saw(m release.Manifest, all bool) {
	if all || k.rest != nil && !sameNumbers(k.rest.of, m) {
		k.rest = nil
	}
	switch {
	case all:
		k.there, k.since = slices.Collect(m.Releases()), nil
	case len(k.there) == 0, len(k.since) > 0 && sameNumbers(k.since[len(k.since)-1], m):
	case len(k.since) == maxManifests:
		k.forget()
	default:
		k.since = append(k.since, m)
	}
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

// lookFailed removes, once in a while, what looks that fail have left, which may go on for days: nodes of trees that have changed since.
// mem is what was verified before.
func (k *Known) lookFailed(d *Dir, mem release.Memory) {
	now := time.Now()
	if k.due.IsZero() || now.Before(k.due) {
		if k.due.IsZero() {
			k.due = now.Add(sweepEvery)
		}
		return
	}
	k.due = now.Add(sweepEvery)
	there, err := readAll(d.root, release.TimestampName, release.MaxBytes(release.TimestampName))
	if err != nil || !bytes.Equal(there, mem.Timestamp) {
		return // it is not known what is needed, and maxNodes bounds the rest
	}
	if view, _, err := release.Restore(mem, d); err == nil {
		k.swept = time.Time{}
		_ = k.Collect(d, view)
		k.forget() // what came for a release that could not be installed may have gone
	}
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
	files, origins, deltas := map[file]bool{}, map[string]bool{}, false
	for _, r := range before.releases {
		if slices.ContainsFunc(k.kept.releases, func(o *release.Release) bool { return o.Number == r.Number }) {
			continue
		}
		for z := range r.Beside(k.kept.releases...) {
			if k.spared(z) {
				continue
			}
			origins[z.Origin], deltas = true, deltas || len(z.Deltas) > 0
			filesOf(z, func(f file) { files[f] = true })
			filesOfEarlier(s, z, func(f file) { files[f] = true })
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
	for i := 0; deltas && i < len(k.kept.releases); i++ { // one that takes lines out may be of several zones
		for z := range k.kept.releases[i].All() {
			for _, d := range z.Deltas {
				delete(files, file{blobFile, d.Blob.SHA256})
			}
		}
	}
	return files
}

// spared reports whether a zone that is kept has all the files that a zone of its origin may have.
func (k *Known) spared(z *release.Zone) bool {
	return slices.ContainsFunc(k.kept.releases, func(r *release.Release) bool {
		o := r.Zone(z.Origin)
		return o != nil && o.SHA256 == z.SHA256 && o.Root == z.Root && o.Blob == z.Blob && o.BaseRoot == z.BaseRoot && o.Earlier == z.Earlier && slices.Equal(o.Packs, z.Packs) && slices.Equal(o.Deltas, z.Deltas)
	})
}

// spare takes off a list of files of zones of some origins those of zones that are kept, and those which ways to such zones and their files of
// earlier packs name. A text, and what leads to it, is of one origin. It reports whether these could be read.
func (k *Known) spare(s Store, files map[file]bool, origins map[string]bool) (all bool) {
	all = true
	for _, r := range k.kept.releases {
		for origin := range origins {
			z := r.Zone(origin)
			if z == nil {
				continue
			}
			filesOf(z, func(f file) { delete(files, f) })
			if z.Root == (release.Digest{}) {
				continue
			}
			filesOfWay(s, wayName(z.Root), func(f file) { delete(files, f) })
			all = filesOfEarlier(s, z, func(f file) { delete(files, f) }) && all
		}
	}
	return all
}
