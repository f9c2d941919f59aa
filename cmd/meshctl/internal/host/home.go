package host

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/depot"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
)

// Clock tells the wall-clock time. Tests step it.
type Clock func() time.Time

// Host is a home directory that is open for writing. Close it.
type Host struct {
	storage
	home  string
	clock Clock
	state State
	tag   depot.Tag // of the state that was read or written last
	view  release.View
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
	// operatorsDir has a bundle for each operator and observer.
	operatorsDir = "operators"

	stateName = "state.json"
)

func (h *Host) path(elem ...string) string {
	return filepath.Join(append([]string{h.home}, elem...)...)
}

// View is what is published now.
func (h *Host) View() release.View { return h.view }

// Root is the newest root, which a node is given as root.json.
func (h *Host) Root() []byte { return h.state.Published.Root }

// Open opens a home for writing, and carries through what a killed command has decided, here or on another host.
func Open(home string, clock Clock) (*Host, error) {
	s, err := openForWriting(home)
	if err != nil {
		return nil, err
	}
	h := &Host{storage: s, home: home, clock: clock}
	if err := h.load(); err != nil {
		h.Close()
		return nil, err
	}
	return h, nil
}

// Close gives up the right to write.
func (h *Host) Close() error { return h.close() }

// turns is how often a change is tried before it is given up.
const turns = 8

// Write opens a home, makes a change, and closes it. When another host has published meanwhile, do is called again on what
// is in force then.
func Write(home string, clock Clock, do func(h *Host) error) error {
	for turn := range turns {
		err := writeOnce(home, clock, do)
		if !errors.Is(err, depot.ErrChanged) {
			return err
		}
		time.Sleep(rand.N(time.Duration(turn+1) * maxPause)) // so that two hosts do not stay in step
	}
	return hint("run it again", "other distribution hosts were first, %d times in a row", turns)
}

// maxPause bounds the pause after the first turn that was lost; later ones are longer.
const maxPause = 100 * time.Millisecond

func writeOnce(home string, clock Clock, do func(h *Host) error) error {
	h, err := Open(home, clock)
	if err != nil {
		return err
	}
	return errors.Join(do(h), h.Close())
}

func (h *Host) load() (err error) {
	if h.state, h.view, h.tag, err = readPublished(h.home, h.storage); err != nil {
		return err
	}
	// The timestamp goes in last: where it is in place, so is the rest.
	if done, _, err := h.timestamp(); done || err != nil {
		return err
	}
	return h.carryThrough(nil)
}

// Read is what a home has published, without the right to write.
func Read(home string) (release.View, error) {
	s, err := openStorage(home)
	if err != nil {
		return release.View{}, err
	}
	defer s.close()
	_, view, _, err := readPublished(home, s)
	return view, err
}

// ReadRoot is the root in force.
func ReadRoot(home string) ([]byte, error) {
	state, err := ReadState(home)
	return state.Published.Root, err
}

// ReadState is what the distribution hosts of a mesh do not forget.
func ReadState(home string) (State, error) {
	s, err := openStorage(home)
	if err != nil {
		return State{}, err
	}
	defer s.close()
	state, _, err := readState(home, s)
	return state, err
}
