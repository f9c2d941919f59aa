package host

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/coredns-anycast/coredns-anycast/internal/depot"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
)

// step is called between the steps of a publication, with the name of the one that comes. The crash tests end the
// process in it; otherwise it does nothing.
var step = func(string) {}

// journal is a publication that was decided: what will be promised, and the files in the order in which they go in.
type journal struct {
	State State          `json:"state"`
	Files []release.File `json:"files"`
}

const maxJournalBytes = release.MaxMemoryBytes

// commit decides a publication and carries it through.
func (h *Host) commit(state State, files []release.File) error {
	data, err := json.Marshal(journal{state, files})
	if err != nil {
		return err
	}
	step("decide")
	if err := depot.WriteFile(h.path(stateDir), journalName, data, 0o600); err != nil {
		return err
	}
	if err := h.carryThrough(journal{state, files}); err != nil {
		return err
	}
	return h.repo.Collect(h.view)
}

// recover carries through what a killed command had decided.
func (h *Host) recover() error {
	data, err := depot.ReadFile(h.path(stateDir), journalName, maxJournalBytes)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var j journal
	if err := decodeStrict(data, &j); err != nil {
		return fmt.Errorf("%s: %w", journalName, err)
	}
	return h.carryThrough(j)
}

// carryThrough may be repeated at any time with the same journal: promises first, the files in their order, then the
// proof that a node would accept them.
func (h *Host) carryThrough(j journal) error {
	step("promise")
	if err := h.writeState(j.State); err != nil {
		return err
	}
	for _, f := range j.Files {
		step("publish " + f.Name)
		if err := h.repo.Publish([]release.File{f}); err != nil {
			return err
		}
	}
	step("verify")
	view, mem, err := release.Verify(h.repo, h.mem)
	if err != nil {
		return fmt.Errorf("what was just published: %w", err)
	}
	step("remember")
	if err := h.writeMemory(mem); err != nil {
		return err
	}
	step("forget the journal")
	if err := os.Remove(h.path(stateDir, journalName)); err != nil {
		return err
	}
	h.state, h.mem, h.view = j.State, mem, view
	return nil
}
