package meshsync

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/coredns-anycast/coredns-anycast/internal/depot"
	"github.com/coredns-anycast/coredns-anycast/internal/mesh"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
)

// What a node must not forget lies in two files of its state directory, each replaced durably as a whole.
const (
	promiseFile = "promise.json" // mesh.Durable: the floor, and what was promised of a switchover
	memoryFile  = "memory.json"  // release.Memory: the newest root, versions, and the last verified metadata
)

// state is that directory, locked against a second process.
type state struct {
	dir  string
	lock *depot.Lock
}

// remembered is what the directory held at the start.
type remembered struct {
	durable mesh.Durable
	mem     release.Memory
	view    *release.View // what mem says; nil if nothing was verified yet, or the keys have changed since
	lost    *lostError    // a file cannot be read, and the rest is empty; nil: all is there
}

// lostError says that a file which a node must not forget is damaged or gone.
type lostError struct {
	file string
	err  error
}

func (e *lostError) Error() string {
	return fmt.Sprintf("%s: %v: the node does not know which releases it answered from and must not guess; restore the file, "+
		"or remove the whole directory if no client can remember this node's answers, and restart CoreDNS", e.file, e.err)
}

// openState reads the directory, or makes it on a node that never ran. root is the mesh's root.json as the operator
// installed it. A file that cannot be read, or one that is there without the other, is lost, and no fresh start: who forgets
// the floor may go below it.
func openState(dir, root, repository string) (*state, remembered, error) {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return nil, remembered{}, err
	}
	lock, err := depot.LockDir(dir)
	if err != nil {
		return nil, remembered{}, fmt.Errorf("state of the node: %w", err)
	}
	s := &state{dir: dir, lock: lock}
	known, err := s.read(root, repository)
	var lost *lostError
	if errors.As(err, &lost) {
		return s, remembered{lost: lost}, nil
	}
	if err != nil {
		lock.Unlock()
		return nil, known, err
	}
	return s, known, nil
}

func (s *state) read(root, repository string) (remembered, error) {
	if err := s.sweep(); err != nil {
		return remembered{}, err
	}
	durable, err := s.readPromise()
	if errors.Is(err, fs.ErrNotExist) {
		return s.begin(root)
	}
	if err != nil {
		return remembered{}, s.broken(promiseFile, err)
	}
	data, err := depot.ReadFile(s.dir, memoryFile, release.MaxMemoryBytes)
	if errors.Is(err, fs.ErrNotExist) && durable == (mesh.Durable{}) {
		return s.begin(root)
	}
	if err != nil {
		return remembered{}, s.broken(memoryFile, err)
	}
	mem, view, err := readMemory(data, repository)
	if err != nil {
		return remembered{}, s.broken(memoryFile, err)
	}
	return remembered{durable: durable, mem: mem, view: view}, nil
}

// begin starts a node that never verified anything. That it promised nothing is written first, so that a promise which
// is missing later on was lost.
func (s *state) begin(root string) (remembered, error) {
	if _, err := os.Lstat(filepath.Join(s.dir, memoryFile)); !errors.Is(err, fs.ErrNotExist) {
		return remembered{}, s.broken(promiseFile, fs.ErrNotExist)
	}
	mem, err := readRoot(root)
	if err != nil {
		return remembered{}, err
	}
	if err := s.promise(mesh.Durable{}); err != nil {
		return remembered{}, fmt.Errorf("the node must be able to write down what it promises: %w", err)
	}
	return remembered{mem: mem}, nil
}

// readMemory reads what was verified before, and verifies it again. There is no view if the repository does not have its zones.
func readMemory(data []byte, repository string) (release.Memory, *release.View, error) {
	mem, err := release.ParseMemory(data)
	if err != nil || !mem.Verified() {
		return mem, nil, err
	}
	var from fs.FS
	if dir, err := openRepository(repository); err == nil {
		defer dir.Close()
		from = dir
	}
	view, mem, err := release.Restore(mem, from)
	if rule, ok := release.RuleOf(err); ok && rule == release.Signature || release.OfZones(err) {
		return mem, nil, nil // a newer root took the keys away, or what lies there will be refused by what is wrong with it
	}
	if err != nil {
		return mem, nil, err
	}
	return mem, &view, nil
}

// sweep removes what writes left that were cut short. On a disk that has become read-only it stays.
func (s *state) sweep() error {
	left, err := filepath.Glob(filepath.Join(s.dir, ".tmp-*"))
	if err != nil {
		return err
	}
	for _, name := range left {
		if err := os.Remove(name); err != nil && !errors.Is(err, syscall.EROFS) {
			return err
		}
	}
	return nil
}

// readRoot starts a memory from the root.json that the operator installed.
func readRoot(path string) (release.Memory, error) {
	data, err := depot.ReadFile(filepath.Dir(path), filepath.Base(path), release.MaxMemoryBytes)
	var relative *fs.PathError // it names the file as its directory does
	if errors.As(err, &relative) {
		err = relative.Err
	}
	if err != nil {
		return release.Memory{}, fmt.Errorf("%s: %w", path, err)
	}
	mem, err := release.NewMemory(data)
	if err != nil {
		return mem, fmt.Errorf("%s: %w", path, err)
	}
	return mem, nil
}

// readPromise reads the floor and the promise, just as promise writes them, or as the version before did.
func (s *state) readPromise() (mesh.Durable, error) {
	data, err := depot.ReadFile(s.dir, promiseFile, 4096)
	if err != nil {
		return mesh.Durable{}, err
	}
	var d mesh.Durable
	if err := json.Unmarshal(data, &d); err != nil {
		return d, err
	}
	again, err := encodePromise(d)
	if err == nil && !bytes.Equal(again, data) {
		d, again, err = readOldPromise(data)
	}
	if err != nil || !bytes.Equal(again, data) {
		return d, fmt.Errorf("%q is not what a node writes", data)
	}
	p := d.Promise
	whole := p.Number != 0 && p.At != 0 && slices.Contains(states, p.State) && (p.State == status.Committed || p.Number > d.Floor)
	if !whole && p != (status.Promise{}) {
		return d, fmt.Errorf("a switchover to release %d at %v that is %q, with floor %d, makes no sense", p.Number, p.At, p.State, d.Floor)
	}
	return d, nil
}

var states = []status.PromiseState{status.Proposed, status.Committed, status.Declined, status.Void, status.Presumed}

// readOldPromise reads what the version before wrote, {"floor":7,"scheduled":{"number":8,"at_ns":1795341600000000000}}, and gives
// that again. A switchover that it held is one that it would have made.
func readOldPromise(data []byte) (d mesh.Durable, again []byte, err error) {
	var old struct {
		Floor     uint64      `json:"floor"`
		Scheduled *status.Ref `json:"scheduled,omitempty"`
	}
	if err := json.Unmarshal(data, &old); err != nil {
		return d, nil, err
	}
	d.Floor = old.Floor
	if s := old.Scheduled; s != nil {
		if s.Number <= old.Floor {
			return d, nil, fmt.Errorf("a switchover to release %d, with floor %d, makes no sense", s.Number, old.Floor)
		}
		d.Promise = status.Promise{Number: s.Number, At: s.At, State: status.Committed}
	}
	line, err := json.Marshal(old)
	return d, append(line, '\n'), err
}

// encodePromise gives one line: {"floor":7,"promise":{"number":8,"at_ns":1795341600000000000,"state":"proposed"},"root":1,"under":9}
func encodePromise(d mesh.Durable) ([]byte, error) {
	line, err := json.Marshal(d)
	return append(line, '\n'), err
}

// promise makes d durable.
func (s *state) promise(d mesh.Durable) error {
	data, err := encodePromise(d)
	if err != nil {
		return err
	}
	return depot.WriteFile(s.dir, promiseFile, data, 0o640)
}

func (s *state) broken(name string, err error) error {
	return &lostError{filepath.Join(s.dir, name), err}
}

// remember writes what was verified.
func (s *state) remember(mem release.Memory) error {
	data, err := mem.Encode()
	if err != nil {
		return err
	}
	return depot.WriteFile(s.dir, memoryFile, data, 0o640)
}

// writeResult says that durable is on disk, or why not.
type writeResult struct {
	durable mesh.Durable
	err     error
}

// write makes promises durable, one after the other.
func (s *state) write(ctx context.Context, writes <-chan mesh.Durable, written chan<- writeResult) {
	for {
		select {
		case <-ctx.Done():
			return
		case d := <-writes:
			written <- writeResult{durable: d, err: s.promise(d)}
		}
	}
}

func (s *state) close() error { return s.lock.Unlock() }
