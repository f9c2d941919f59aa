package home

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/keys"
	"github.com/coredns-anycast/coredns-anycast/internal/assemble"
	"github.com/coredns-anycast/coredns-anycast/internal/depot"
	"github.com/coredns-anycast/coredns-anycast/internal/instant"
	"github.com/coredns-anycast/coredns-anycast/internal/mesh"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
	"github.com/coredns-anycast/coredns-anycast/internal/zonefile"
)

// Recovered is what a home that was restored from a backup has learnt.
type Recovered struct {
	From     string    `json:"from"`     // the copy that is the newest; "" if that is the repository or the state itself
	Lease    int64     `json:"lease"`    // version of its lease
	Highest  uint64    `json:"highest"`  // release number that is never used again
	Promised time.Time `json:"promised"` // until then leases may live that nothing here knows of

	Newer []NewerZone `json:"newer,omitempty"` // zones that nodes have at another serial than the state that was restored; none if it is not known which that had
	Lost  []string    `json:"lost,omitempty"`  // zones of which a file is lost or damaged in the repository, and no copy has it
}

// NewerZone is a zone of which a restored home had an older version. The zone file that it is made of, if one is in the home, is as old.
type NewerZone struct {
	Origin string `json:"origin"`
	Had    uint32 `json:"had,omitempty"` // serial; 0 if it had none
	Serial uint32 `json:"serial"`
	Text   string `json:"text"` // file with its text, compressed with zstd: of the repository, or of the home in recovered/; "" if that is lost
}

// newerZones are the zones of the latest release of now that before had at another serial, or not at all. Of those whose text is not in the
// repository it is written, but for those of which files are lost.
func (w *Writer) newerZones(ctx context.Context, before, now *release.Release, lost []string) (all []NewerZone, err error) {
	if now == nil {
		return nil, nil
	}
	for z := range now.All() {
		n := NewerZone{Origin: z.Origin, Serial: z.Serial, Text: release.BlobName(z.Blob.SHA256)}
		if before != nil {
			if had := before.Zone(z.Origin); had != nil {
				n.Had = had.Serial
			}
		}
		if n.Had == n.Serial {
			continue
		}
		switch {
		case slices.Contains(lost, z.Origin):
			n.Text = ""
		case !z.Whole():
			if n.Text, err = w.writeText(ctx, *z); err != nil {
				return nil, err
			}
		}
		all = append(all, n)
	}
	return all, nil
}

// recoveredDir has the texts of zones that are newer than their files in a home that was restored.
const recoveredDir = "recovered"

// writeText writes the text of a zone of the repository to a file of the home, whose name it returns.
func (w *Writer) writeText(ctx context.Context, z release.Zone) (string, error) {
	made, err := assemble.Released(w.repo, z, func(int) bool { return ctx.Err() == nil })
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(w.Path(recoveredDir), 0o755); err != nil {
		return "", err
	}
	name := path.Join(recoveredDir, z.Root.String()+".zone.zst")
	f, err := os.Create(w.Path(name))
	if err != nil {
		return "", err
	}
	_, err = depot.Pack(f, func(to io.Writer) error { return zonefile.Write(to, made) })
	return name, errors.Join(err, f.Sync(), f.Close())
}

// Recover brings a home that was restored from a backup up to the newest of some copies of the repository: of the repository
// itself, and of members' depots. What a node has verified is in its depot, so that with the copies of all members nothing
// that any of them has verified is above what is published next. Each copy must follow from the state, by the same keys.
//
// Which leases left here since the backup cannot be known. None lasts longer than a lease from now on, or than longest if
// that is more (one of meshctl lease --for): that is promised, so that nothing that must wait for the old leases comes early.
func (h *Home) Recover(ctx context.Context, copies []string, longest time.Duration) (Recovered, error) {
	s, err := h.openForWriting(ctx)
	if err != nil {
		return Recovered{}, err
	}
	w := &Writer{home: h, storage: s}
	defer w.Close()
	nodes, dirs := anyOf{s.repo}, []*depot.Dir(nil)
	for _, name := range copies {
		if d, err := depot.Open(name); err == nil { // else look says what is wrong with it
			defer d.Close()
			nodes, dirs = append(nodes, d), append(dirs, d)
		}
	}
	// Zones of a state that was restored alone may be gone everywhere since: then it is enough that they are known of what is newer.
	var unknown error
	if w.state, w.view, w.tag, unknown = w.home.readWith(s, nodes); unknown != nil && !release.OfZones(unknown) {
		return Recovered{}, unknown
	}
	if err := errors.Join(w.mendNodes(nodes, w.view.Manifest), w.mendMetadata()); err != nil {
		return Recovered{}, err
	}
	best, seen, highest, err := w.best(copies, nodes)
	switch {
	case release.OfZones(err):
		return Recovered{}, lacking(err)
	case err != nil:
		return Recovered{}, err
	case bytes.Equal(best.memory.Timestamp, w.state.Published.Timestamp) && unknown != nil:
		return Recovered{}, unknown
	}
	if best.from != "" {
		if err := w.takeOver(ctx, best, dirs); err != nil {
			return Recovered{}, fmt.Errorf("%s: %w", best.from, err)
		}
	}
	if err := w.mendNodes(nodes, best.view.Manifest); err != nil {
		return Recovered{}, err
	}
	lost, err := w.mendZones(ctx, dirs, best.view.Manifest)
	if err != nil {
		return Recovered{}, err
	}
	var newer []NewerZone
	if unknown == nil {
		if newer, err = w.newerZones(ctx, w.view.Manifest.Latest(), best.view.Manifest.Latest(), lost); err != nil {
			return Recovered{}, err
		}
	}
	r, err := w.recover(ctx, best, seen, highest, longest)
	r.Newer, r.Lost = newer, lost
	return r, err
}

// best is the newest of the state, the repository and some copies, above which versions nobody has seen anything, and the highest release number in them. Nodes
// of trees are taken from whichever has them.
func (w *Writer) best(copies []string, nodes anyOf) (best found, seen release.Versions, highest uint64, err error) {
	best, seen, highest = found{memory: w.state.Published, view: w.view}, w.view.Versions, w.state.Highest
	for _, name := range append([]string{""}, copies...) {
		f, err := w.look(name, nodes)
		if err != nil {
			return best, seen, highest, fmt.Errorf("%s: %w", cmp.Or(name, "the repository"), err) // it might be the newest
		}
		if newer(f, best) {
			best = f
		}
		for _, known := range f.memory.Known {
			highest = max(highest, known.Number)
		}
		seen = above(seen, f.view.Versions)
	}
	return best, seen, highest, nil
}

// recover publishes what is the newest.
func (w *Writer) recover(ctx context.Context, best found, seen release.Versions, highest uint64, longest time.Duration) (Recovered, error) {
	state := w.state
	if best.apart {
		var err error
		if best.memory, best.view, err = w.overtake(ctx, best, seen); err != nil {
			return Recovered{}, fmt.Errorf("%s: %w", best.from, err)
		}
	}
	state.Published, state.Highest = best.memory, highest
	for _, known := range state.Published.Known {
		state.Highest = max(state.Highest, known.Number)
	}
	r := Recovered{From: best.from, Lease: best.view.Versions.Timestamp, Highest: state.Highest,
		Promised: w.Now().Add(max(longest, state.Lease())).UTC().Truncate(time.Second)}
	now := instant.WallOf(w.Now())
	state.Ledger = MeshOf(state, best.view).Recorded(now).Owed(mesh.Lease{Expires: instant.WallOf(r.Promised)}, now)
	return r, w.commit(ctx, state.note(Event{Event: "recovered", Detail: r.From}, w.Now()))
}

// found is what a copy of the repository holds; from is its directory, empty for the repository itself.
type found struct {
	from   string
	memory release.Memory
	view   release.View
	apart  bool // it and the state have gone ways of their own: this host has published since it was restored
}

// newer reports whether f is to be taken over rather than best: what nodes have verified before what this host has published since
// it was restored, and else the later lease.
func newer(f, best found) bool {
	if !f.memory.Verified() || f.apart != best.apart {
		return f.memory.Verified() && f.apart
	}
	return f.view.Versions.Timestamp > best.view.Versions.Timestamp
}

// above are versions that are below neither of two.
func above(a, b release.Versions) release.Versions {
	return release.Versions{Root: max(a.Root, b.Root), Targets: max(a.Targets, b.Targets), Snapshot: max(a.Snapshot, b.Snapshot), Timestamp: max(a.Timestamp, b.Timestamp)}
}

// overtake signs what a copy holds anew, so that whoever has verified it, or what this host has published since, accepts it.
func (w *Writer) overtake(ctx context.Context, f found, seen release.Versions) (release.Memory, release.View, error) {
	trust, err := release.TrustOf(f.memory.Root)
	if err != nil {
		return f.memory, f.view, err
	}
	by, err := w.Keys().Signers(ctx, trust, keys.Release, keys.Lease)
	if err != nil {
		return f.memory, f.view, err
	}
	year := w.Now().AddDate(releaseYears, 0, 0)
	files, memory, err := release.Overtake(f.memory, seen, by,
		release.Expiries{Root: f.view.Expires.Root, Targets: year, Snapshot: year, Timestamp: w.Now().Add(w.state.Lease())})
	if err != nil {
		return f.memory, f.view, err
	}
	if err := w.storeNodes(files); err != nil {
		return f.memory, f.view, err
	}
	view, memory, err := release.Restore(memory, w.repo)
	return memory, view, err
}

// look verifies a copy, with nodes of trees from whichever has them. What is behind the state is found to hold nothing.
func (w *Writer) look(name string, nodes anyOf) (found, error) {
	copied := withNodes{w.repo, nodes}
	if name == "" && w.isPublished() {
		return found{}, nil
	}
	if name != "" {
		d, err := depot.Open(name)
		if err != nil {
			return found{}, err
		}
		defer d.Close()
		copied.FS = d
	}
	view, memory, err := release.Verify(copied, w.state.Published)
	switch rule, _ := release.RuleOf(err); {
	case name == "" && !release.OfZones(err) && (rule == release.Rollback || rule == release.Missing):
		return found{}, nil
	case rule == release.Rollback || rule == release.Replay || rule == release.NumberReused:
		return w.apart(name, copied)
	}
	return found{from: name, memory: memory, view: view}, err
}

// apart verifies a copy by the root alone, since it does not follow from the state: it is older and holds nothing, or has gone a way
// of its own.
func (w *Writer) apart(name string, copied fs.FS) (found, error) {
	memory, err := release.NewMemory(w.state.Published.Root)
	if err != nil {
		return found{}, err
	}
	view, memory, err := release.Verify(copied, memory)
	if err != nil {
		return found{}, err
	}
	ahead := above(view.Versions, w.view.Versions) != w.view.Versions
	for r := range view.Manifest.Releases() { // all that this memory knows
		ahead = ahead || r.Number > w.state.Highest || w.state.Published.Contradicts(r)
	}
	if !ahead {
		return found{}, nil
	}
	return found{name, memory, view, true}, nil
}

// takeOver puts into the repository what a copy has and it lacks: roots, and the zones' files, of which others may have those that it lacks.
func (w *Writer) takeOver(ctx context.Context, f found, others []*depot.Dir) error {
	from, err := depot.Open(f.from)
	if err != nil {
		return err
	}
	defer from.Close()
	entries, err := from.List("metadata")
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !strings.HasSuffix(e.Name, ".root.json") {
			continue
		}
		name := path.Join("metadata", e.Name)
		data, _, err := from.Read(name, release.MaxBytes(name))
		if err == nil {
			err = w.repo.Create(name, data)
		}
		if err != nil {
			return err
		}
	}
	for r := range f.view.Manifest.Releases() {
		for z := range r.All() {
			err := w.takeZone(ctx, from, *z)
			if err != nil && !slices.ContainsFunc(others, func(other *depot.Dir) bool { return w.takeZone(ctx, other, *z) == nil }) {
				return err
			}
		}
	}
	return nil
}

// withNodes is a copy of the repository with nodes of trees from elsewhere, which are what their names say wherever they lie.
type withNodes struct {
	fs.FS
	nodes anyOf
}

// Open implements fs.FS.
func (c withNodes) Open(name string) (fs.File, error) {
	if release.IsNode(name) {
		return c.nodes.Open(name)
	}
	return c.FS.Open(name)
}

// anyOf is nodes of trees, each from the first of some repositories that has it as its name says.
type anyOf []fs.FS

// Open implements fs.FS.
func (a anyOf) Open(name string) (fs.File, error) {
	for _, repo := range a {
		if nodeOf(repo, name) != nil {
			return repo.Open(name)
		}
	}
	return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
}

// nodeOf is a node of a tree that a repository has as its name says; nil if it has not.
func nodeOf(repo fs.FS, name string) []byte {
	f, err := repo.Open(name)
	if err != nil {
		return nil
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, release.MaxNodeBytes))
	if err != nil || release.NodeName(release.DigestOf(data)) != name {
		return nil
	}
	return data
}

// mendNodes puts into the repository what it lacks of a manifest's trees, or has damaged.
func (w *Writer) mendNodes(from anyOf, m release.Manifest) error {
	var lacking []release.File
	seen := map[string]bool{}
	for name := range m.Nodes() {
		if seen[name] || nodeOf(w.repo, name) != nil {
			continue
		}
		data := nodeOf(from, name)
		if data == nil {
			return fmt.Errorf("%s: %w", name, fs.ErrNotExist)
		}
		if err := w.repo.Remove(name); err != nil { // it is damaged, if it is there
			return err
		}
		seen[name], lacking = true, append(lacking, release.File{Name: name, Data: data})
	}
	return w.repo.CreateAll(lacking)
}

// isPublished reports whether the repository has the timestamp that the state has.
func (w *Writer) isPublished() bool {
	timestamp, _, err := w.repo.Read(release.TimestampName, release.MaxBytes(release.TimestampName))
	return err == nil && bytes.Equal(timestamp, w.state.Published.Timestamp)
}

// mendMetadata puts into the repository what the state has of its metadata, if they have the same timestamp: other content is damaged then.
func (w *Writer) mendMetadata() error {
	if !w.isPublished() {
		return nil // it is looked at later
	}
	for _, f := range w.files() {
		data, _, err := w.repo.Read(f.Name, release.MaxBytes(f.Name))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err == nil && bytes.Equal(data, f.Data) {
			continue
		}
		if err := errors.Join(w.repo.Remove(f.Name), w.repo.Create(f.Name, f.Data)); err != nil {
			return err
		}
	}
	return nil
}

// mendZones puts into the repository, if that is a directory, the files of a manifest's zones that it lacks, or has damaged, and says of which zones no copy
// has them.
func (w *Writer) mendZones(ctx context.Context, copies []*depot.Dir, m release.Manifest) (lost []string, err error) {
	if _, here := w.repo.(*depot.Dir); !here || len(copies) == 0 {
		return nil, nil
	}
	for r := range m.Releases() {
		for z := range r.All() {
			if ctx.Err() != nil {
				return lost, context.Cause(ctx)
			}
			if !w.intact(*z) && !slices.ContainsFunc(copies, func(from *depot.Dir) bool { return w.takeZone(ctx, from, *z) == nil }) {
				lost = append(lost, z.Origin)
			}
		}
	}
	slices.Sort(lost)
	return slices.Compact(lost), nil
}

// intact reports whether the repository has all that a zone is made of, as it was signed.
func (w *Writer) intact(z release.Zone) bool {
	text, err := depot.OpenBlob(w.repo, z.Base())
	if err != nil {
		return false
	}
	text.Close()
	if z.Whole() {
		return true
	}
	earlier, err := depot.ReadEarlier(w.repo, z)
	if err != nil {
		return false
	}
	chain, err := z.Chain(earlier)
	return err == nil && !slices.ContainsFunc(chain, func(p release.Pack) bool { return !w.holds(p.Blob) })
}

// holds reports whether the repository has a small file as it was signed.
func (w *Writer) holds(b release.Blob) bool {
	data, _, err := w.repo.Read(release.BlobName(b.SHA256), b.Length)
	return err == nil && release.DigestOf(data) == b.SHA256
}

// takeText stores the text that the manifest names for a zone. A node may hold it packed its own way, or as an older text and packs, so it is
// packed anew, which gives the file that was signed.
func (w *Writer) takeText(ctx context.Context, from *depot.Dir, z release.Zone) error {
	base := z.Base()
	if there, err := depot.OpenBlob(w.repo, base); err == nil {
		return there.Close()
	}
	var write func(io.Writer) error
	text, err := from.OpenBlob(base)
	switch rule, _ := release.RuleOf(err); {
	case err == nil:
		defer text.Close()
		write = func(w io.Writer) error { _, err := io.Copy(w, text); return err }
	case rule == release.Missing && base.Root != (release.Digest{}):
		way := from.Way(z)
		if i := slices.IndexFunc(way.Packs, func(p release.Pack) bool { return p.From == base.Root }); i >= 0 {
			way.Packs = way.Packs[:i]
		}
		made, why := assemble.Led(from, way, base, func(int) bool { return ctx.Err() == nil })
		if missing, _ := release.RuleOf(why); missing != release.Missing {
			err = why
		}
		write = func(w io.Writer) error { return zonefile.Write(w, made) }
	}
	if write == nil || err != nil {
		return err
	}
	c, err := w.repo.PutBlob(write)
	if err == nil && c.Blob != z.Blob {
		err = fmt.Errorf("zone %s cannot be packed as it was when it was signed: take a copy that has %s", z.Origin, release.BlobName(z.Blob.SHA256))
	}
	return err
}

// takeZone stores what a zone is made of, as it was signed, unless it is there: its text, or that of its base, and packs. Those before the
// base are of use to who is far behind; a copy need not have them.
func (w *Writer) takeZone(ctx context.Context, from *depot.Dir, z release.Zone) error {
	if err := w.takeText(ctx, from, z); err != nil || z.Whole() {
		return err
	}
	earlier, err := depot.ReadEarlier(from, z)
	if err != nil {
		return fmt.Errorf("zone %s: take a copy that has the list of its packs: %w", z.Origin, err)
	}
	chain, err := z.Chain(earlier)
	if err != nil {
		return fmt.Errorf("zone %s: %w", z.Origin, err)
	}
	need := len(chain) - len(z.Since(chain))
	for i, p := range chain {
		if err := w.takeFile(from, p.Blob); err != nil && i >= need {
			return fmt.Errorf("zone %s: take a copy that has all of its packs: %w", z.Origin, err)
		}
	}
	if z.Earlier == (release.Blob{}) {
		return nil
	}
	return w.takeFile(from, z.Earlier)
}

// takeFile stores a small file of a copy, unless it is there.
func (w *Writer) takeFile(from *depot.Dir, b release.Blob) error {
	name := release.BlobName(b.SHA256)
	if w.holds(b) {
		return nil
	}
	if err := from.CheckBlob(b); err != nil {
		return err
	}
	data, _, err := from.Read(name, b.Length)
	if err != nil {
		return err
	}
	if err := w.repo.Remove(name); err != nil { // it is damaged, if it is there
		return err
	}
	return w.repo.Create(name, data)
}
