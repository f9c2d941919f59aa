package home

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/depot"
	"github.com/coredns-anycast/coredns-anycast/internal/instant"
	"github.com/coredns-anycast/coredns-anycast/internal/mesh"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
)

// Recovered is what a home that was restored from a backup has learnt.
type Recovered struct {
	From     string    `json:"from"`     // the copy that is the newest; "" if that is the repository or the state itself
	Lease    int64     `json:"lease"`    // version of its lease
	Highest  uint64    `json:"highest"`  // release number that is never used again
	Promised time.Time `json:"promised"` // until then leases may live that nothing here knows of
}

// Recover brings a home that was restored from a backup up to the newest of some copies of the repository: of the repository
// itself, and of members' depots. What a node has verified is in its depot, so that with the copies of all members nothing
// that any of them has verified is above what is published next. Each copy must follow from the state, by the same keys.
//
// Which leases left here since the backup cannot be known. None lasts longer than a lease from now on, or than longest if
// that is more (one of meshctl lease --for): that is promised, so that nothing that must wait for the old leases comes early.
func (h *Home) Recover(ctx context.Context, copies []string, longest time.Duration) (Recovered, error) {
	s, err := openForWriting(ctx, h.dir)
	if err != nil {
		return Recovered{}, err
	}
	w := &Writer{home: h, storage: s}
	defer w.Close()
	if w.state, w.view, w.tag, err = w.home.read(s); err != nil {
		return Recovered{}, err
	}
	return w.recover(ctx, copies, longest)
}

func (w *Writer) recover(ctx context.Context, copies []string, longest time.Duration) (Recovered, error) {
	best := found{memory: w.state.Published, view: w.view}
	for _, name := range append([]string{""}, copies...) {
		f, err := w.look(name)
		if err != nil {
			return Recovered{}, fmt.Errorf("%s: %w", cmp.Or(name, "the repository"), err) // it might be the newest
		}
		if f.memory.Verified() && f.view.Versions.Timestamp > best.view.Versions.Timestamp {
			best = f
		}
	}
	if best.from != "" {
		if err := w.takeOver(best); err != nil {
			return Recovered{}, fmt.Errorf("%s: %w", best.from, err)
		}
	}
	state := w.state
	state.Published = best.memory
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
}

// look verifies a copy. What is behind the state is found to hold nothing.
func (w *Writer) look(name string) (found, error) {
	var copied fs.FS = w.repo
	if name != "" {
		d, err := depot.Open(name)
		if err != nil {
			return found{}, err
		}
		defer d.Close()
		copied = d
	}
	view, memory, err := release.Verify(copied, w.state.Published)
	if rule, _ := release.RuleOf(err); rule == release.Rollback || name == "" && rule == release.Missing {
		return found{}, nil
	}
	return found{name, memory, view}, err
}

// takeOver puts into the repository what a copy has and it lacks: roots, and the zones' files.
func (w *Writer) takeOver(f found) error {
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
		for _, z := range r.Zones {
			if err := w.takeZone(from, z); err != nil {
				return err
			}
		}
	}
	return nil
}

// takeZone stores a zone's text, unless it is there. A node may hold it packed its own way, so it is packed anew, which
// gives the file that was signed.
func (w *Writer) takeZone(from *depot.Dir, z release.Zone) error {
	if there, err := depot.OpenBlob(w.repo, z); err == nil {
		return there.Close()
	}
	text, err := from.OpenBlob(z)
	if err != nil {
		return err
	}
	defer text.Close()
	c, err := w.repo.PutBlob(func(w io.Writer) error { _, err := io.Copy(w, text); return err })
	if err == nil && c.Blob != z.Blob {
		err = fmt.Errorf("zone %s cannot be packed as it was when it was signed: take a copy that has %s", z.Origin, release.BlobName(z.Blob.SHA256))
	}
	return err
}
