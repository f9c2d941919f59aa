package host

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/coredns-anycast/coredns-anycast/internal/depot"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
)

// step is called between the steps of a publication, with the name of the one that comes. The crash tests end the
// process in it; otherwise it does nothing.
var step = func(string) {}

// commit decides a publication and carries it through. When another host has decided one since this one has read the
// state, it is depot.ErrChanged, and nothing was published. When ctx ends before it is decided, nothing was published
// either, as far as this host can know: what it has sent may yet arrive.
func (h *Host) commit(ctx context.Context, state State) error {
	view, _, err := release.Restore(state.Published)
	if err != nil {
		return err
	}
	data, err := state.encode()
	if err != nil {
		return err
	}
	step("decide")
	tag, err := h.records.Swap(ctx, stateName, data, h.tag)
	if err != nil {
		return err
	}
	keepRead(h.home, tag, state)
	there := h.files()
	h.state, h.tag, h.view = state, tag, view
	if err := h.carryThrough(there); err != nil {
		return decided(err)
	}
	return nil
}

// decided is an error that came after the decision, which must not be taken for a turn that was lost.
func decided(err error) error {
	if errors.Is(err, depot.ErrChanged) {
		err = errors.New(err.Error())
	}
	return fmt.Errorf("it is decided, and will be published by the next command or by meshctl serve: %w", err)
}

// files are those that the repository is to hold, beside the blobs.
func (h *Host) files() []release.File { return h.state.Published.Files(h.view.Versions) }

// carryThrough puts into the repository what the state says is published, in its order, but for the files that are there for
// sure. It may be done by any number of hosts at once, and repeated at any time: all files but the timestamp are written
// once, and the timestamp only goes forward.
func (h *Host) carryThrough(there []release.File) error {
	for _, f := range h.files() {
		if f.Replaces() || slices.ContainsFunc(there, func(t release.File) bool { return t.Name == f.Name }) {
			continue
		}
		step("publish " + f.Name)
		if err := h.repo.Create(f.Name, f.Data); err != nil {
			return depot.SecondWriter(err)
		}
	}
	for {
		step("look")
		done, there, err := h.timestamp()
		if done || err != nil {
			return err
		}
		step("publish " + release.TimestampName)
		if err := h.replaceTimestamp(there); !errors.Is(err, depot.ErrChanged) && !errors.Is(err, depot.ErrExists) {
			return err
		}
	}
}

// timestamp reports whether the repository has the timestamp that is published, or a later one. Otherwise there is the tag of
// the one it has, empty for none.
func (h *Host) timestamp() (done bool, there depot.Tag, err error) {
	data, tag, err := h.repo.Read(release.TimestampName, release.MaxBytes(release.TimestampName))
	if errors.Is(err, fs.ErrNotExist) {
		return false, "", nil
	}
	if err != nil || bytes.Equal(data, h.state.Published.Timestamp) {
		return err == nil, tag, err
	}
	if version := h.state.Published.TimestampVersion(data); version >= h.view.Versions.Timestamp {
		return true, tag, h.overtaken(version)
	}
	return false, tag, nil
}

// overtaken is nil if another host has gone on from the state that this one knows: then it has put in place before what
// this one was to.
func (h *Host) overtaken(version int64) error {
	tag, err := h.records.Tag(stateName)
	if err != nil || tag != h.tag {
		return err
	}
	return hint("restore the latest state; a mesh that has lost it needs new keys for its nodes",
		"the repository has version %d of %s, and the state knows of %d only: it was restored from an older copy, or someone publishes without it",
		version, release.TimestampName, h.view.Versions.Timestamp)
}

func (h *Host) replaceTimestamp(there depot.Tag) error {
	if there == "" {
		return h.repo.Create(release.TimestampName, h.state.Published.Timestamp)
	}
	_, err := h.repo.Swap(context.Background(), release.TimestampName, h.state.Published.Timestamp, there)
	return err
}

// collect removes what is not needed any more.
func (h *Host) collect() error {
	step("collect")
	if err := depot.Collect(h.repo, h.view); err != nil {
		return fmt.Errorf("it is published, but what is not needed any more could not be removed: %v", err) // no turn was lost
	}
	return nil
}
