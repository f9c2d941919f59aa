package host

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/depot"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
)

// Clock tells the wall-clock time. Tests step it.
type Clock func() time.Time

// Host is a home directory that is open for writing. Close it.
type Host struct {
	home  string
	clock Clock
	repo  *depot.Dir
	lock  *depot.Lock
	mem   release.Memory
	view  release.View
	state State
}

// HintError is an error with what the operator can do about it.
type HintError struct {
	Err  error
	Hint string
}

func (e *HintError) Error() string { return e.Err.Error() }
func (e *HintError) Unwrap() error { return e.Err }

func hint(hint, format string, args ...any) error {
	return &HintError{fmt.Errorf(format, args...), hint}
}

const (
	keysDir  = "keys"
	pkiDir   = "pki"
	stateDir = "state"
	repoDir  = "repository"
	nodesDir = "members"

	memoryName  = "memory.json"
	stateName   = "state.json"
	journalName = "journal.json"
	eventsName  = "events.jsonl"
)

func (h *Host) path(elem ...string) string {
	return filepath.Join(append([]string{h.home}, elem...)...)
}

// View is what is published now.
func (h *Host) View() release.View { return h.view }

// Root is the newest root, which a node is given as root.json.
func (h *Host) Root() []byte { return h.mem.Root }

// Open opens a home for writing, and carries through what a killed command left unfinished.
func Open(home string, clock Clock) (*Host, error) {
	if _, err := os.Stat(filepath.Join(home, stateDir, memoryName)); errors.Is(err, fs.ErrNotExist) {
		return nil, noMesh(home)
	}
	h, err := lock(home, clock)
	if err != nil {
		return nil, err
	}
	if err := h.load(); err != nil {
		h.Close()
		return nil, err
	}
	return h, nil
}

// noMesh is the error of a home without a memory: one that never held a mesh, or one that was damaged.
func noMesh(home string) error {
	if _, err := os.Lstat(filepath.Join(home, stateDir, stateName)); err == nil {
		return hint("restore the whole home, from a copy that is no older than the last publication", "%s is lost", filepath.Join(home, stateDir, memoryName))
	}
	return hint("make one with: meshctl init --home "+home, "there is no mesh in %s", home)
}

// lockPatience is how long a command waits for another that publishes, which takes milliseconds.
const lockPatience = 2 * time.Second

// lock opens the repository of a home for writing.
func lock(home string, clock Clock) (*Host, error) {
	repo, err := depot.Create(filepath.Join(home, repoDir))
	if err != nil {
		return nil, err
	}
	var locked *depot.LockedError
	for end := time.Now().Add(lockPatience); ; time.Sleep(50 * time.Millisecond) {
		l, err := depot.LockDir(repo.Path())
		if err == nil {
			return &Host{home: home, clock: clock, repo: repo, lock: l}, nil
		}
		if !errors.As(err, &locked) || time.Now().After(end) {
			repo.Close()
			return nil, lockHint(err)
		}
	}
}

func lockHint(err error) error {
	var locked *depot.LockedError
	if errors.As(err, &locked) {
		return &HintError{err, "one command publishes at a time: wait until it has ended"}
	}
	return err
}

// Close gives up the right to write.
func (h *Host) Close() error { return errors.Join(h.lock.Unlock(), h.repo.Close()) }

func (h *Host) load() (err error) {
	if err := h.repo.Sweep(); err != nil {
		return err
	}
	if h.mem, err = readMemory(h.home); err != nil {
		return err
	}
	if err := h.recover(); err != nil {
		return err
	}
	if h.state, err = readState(h.home); err != nil {
		return err
	}
	if !h.mem.Verified() {
		return hint("remove it, and run meshctl init again", "%s: init was interrupted", h.home)
	}
	h.view, err = release.Restore(h.mem)
	return err
}

// Read is what a home has published, without the right to write.
func Read(home string) (release.View, error) {
	mem, err := readMemory(home)
	if errors.Is(err, fs.ErrNotExist) {
		return release.View{}, noMesh(home)
	}
	if err != nil {
		return release.View{}, err
	}
	return release.Restore(mem)
}

func readMemory(home string) (release.Memory, error) {
	data, err := depot.ReadFile(filepath.Join(home, stateDir), memoryName, release.MaxMemoryBytes)
	if err != nil {
		return release.Memory{}, err
	}
	return release.ParseMemory(data)
}

func (h *Host) writeMemory(mem release.Memory) error {
	data, err := mem.Encode()
	if err != nil {
		return err
	}
	return depot.WriteFile(h.path(stateDir), memoryName, data, 0o600)
}
