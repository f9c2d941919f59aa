package home

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/hint"
	"github.com/coredns-anycast/coredns-anycast/internal/depot"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
)

// step is called between the steps of a publication or a backup, with the name of the one that comes. The crash tests end the
// process in it; otherwise it does nothing.
var step = func(string) {}

// commit decides a publication and carries it through. When another host has decided one since this one has read the
// state, it is depot.ErrChanged, and nothing was published. When ctx ends before it is decided, nothing was published
// either, as far as this host can know: what it has sent may yet arrive.
func (w *Writer) commit(ctx context.Context, state State) error { return w.commitBy(ctx, ctx, state) }

// commitBy is commit, decided before limited ends. What is decided is carried through all the same.
func (w *Writer) commitBy(ctx, limited context.Context, state State) error {
	view, _, err := state.restored(w.repo)
	switch {
	case err == nil:
		state.Signed = signedIn(view.Manifest)
	case w.damaged == nil || !release.OfZones(err):
		return err
	}
	data, err := state.encode()
	if err != nil {
		return err
	}
	step("decide")
	tag, err := w.records.Swap(limited, stateName, data, w.tag)
	if err != nil {
		return err
	}
	w.home.keepRead(tag, state)
	there := w.files()
	w.state, w.tag, w.view = state, tag, view
	if err := w.carryThrough(ctx, there); err != nil {
		return decided(err)
	}
	return nil
}

// storeNodes puts those nodes of trees that a publication is to name, and that are new, into the repository.
func (w *Writer) storeNodes(files []release.File) error {
	nodes := slices.DeleteFunc(slices.Clone(files), func(f release.File) bool { return !release.IsNode(f.Name) })
	if len(nodes) == 0 {
		return nil
	}
	step("store the zones' names")
	return w.repo.CreateAll(nodes)
}

// decided is an error that came after the decision, which must not be taken for a turn that was lost.
func decided(err error) error {
	if errors.Is(err, depot.ErrChanged) {
		err = errors.New(err.Error())
	}
	return fmt.Errorf("it is decided, and will be published by the next command or by meshctl serve: %w", err)
}

// files are those that the repository is to hold, beside blobs and nodes of trees, which are there before it is decided.
func (w *Writer) files() []release.File { return w.state.Published.Files(w.view.Versions) }

// carryThrough puts into the repository what the state says is published, in its order, but for the files that are there for
// sure. It may be done by any number of hosts at once, and repeated at any time: all files but the timestamp are written
// once, and the timestamp only goes forward.
func (w *Writer) carryThrough(ctx context.Context, there []release.File) error {
	for _, f := range w.files() {
		if f.Replaces() || slices.ContainsFunc(there, func(t release.File) bool { return t.Name == f.Name }) {
			continue
		}
		step("publish " + f.Name)
		if err := w.repo.Create(f.Name, f.Data); err != nil {
			return depot.SecondWriter(err)
		}
	}
	for {
		step("look")
		done, there, err := w.timestamp()
		if done || err != nil {
			return err
		}
		step("publish " + release.TimestampName)
		if err := w.replaceTimestamp(ctx, there); !errors.Is(err, depot.ErrChanged) && !errors.Is(err, depot.ErrExists) {
			return err
		}
	}
}

// timestamp reports whether the repository has the timestamp that is published, or a later one. Otherwise there is the tag of
// the one it has, empty for none.
func (w *Writer) timestamp() (done bool, there depot.Tag, err error) {
	data, tag, err := w.repo.Read(release.TimestampName, release.MaxBytes(release.TimestampName))
	if errors.Is(err, fs.ErrNotExist) {
		return false, "", nil
	}
	if err != nil || bytes.Equal(data, w.state.Published.Timestamp) {
		return err == nil, tag, err
	}
	if version := w.state.Published.TimestampVersion(data); version >= w.view.Versions.Timestamp {
		return true, tag, w.overtaken(version)
	}
	return false, tag, nil
}

// overtaken is nil if another host has gone on from the state that this one knows: then it has put in place before what
// this one was to.
func (w *Writer) overtaken(version int64) error {
	tag, err := w.records.Tag(stateName)
	if err != nil || tag != w.tag {
		return err
	}
	return hint.Errorf("restore the latest state; a mesh that has lost it needs new keys for its nodes",
		"the repository has version %d of %s, and the state knows of %d only: it was restored from an older copy, or someone publishes without it",
		version, release.TimestampName, w.view.Versions.Timestamp)
}

func (w *Writer) replaceTimestamp(ctx context.Context, there depot.Tag) error {
	if there == "" {
		return w.repo.Create(release.TimestampName, w.state.Published.Timestamp)
	}
	_, err := w.repo.Swap(ctx, release.TimestampName, w.state.Published.Timestamp, there)
	return err
}

// collect removes what is not needed any more.
func (w *Writer) collect() error {
	step("collect")
	w.home.collecting.Lock()
	defer w.home.collecting.Unlock()
	if err := w.home.known.Collect(w.repo, w.view); err != nil {
		return fmt.Errorf("it is published, but what is not needed any more could not be removed: %v", err) // no turn was lost
	}
	return nil
}
