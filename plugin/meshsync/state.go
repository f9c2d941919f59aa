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

	"github.com/coredns-anycast/coredns-anycast/internal/depot"
	"github.com/coredns-anycast/coredns-anycast/internal/mesh"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
)

// What a node must not forget lies in two files of its state directory, each replaced durably as a whole.
const (
	promiseFile = "promise.json" // mesh.Durable: the floor and the switchover confirmed
	memoryFile  = "memory.json"  // release.Memory: the newest root, versions, and the last verified metadata
)

// state is that directory, locked against a second process.
type state struct {
	dir  string
	lock *depot.Lock
}

// openState reads the directory, or makes it on a node that never ran. root is the mesh's root.json as the operator
// installed it. A file that cannot be read is an error and not a fresh start: who forgets the floor may go below it.
func openState(dir, root string) (*state, mesh.Durable, release.Memory, error) {
	var durable mesh.Durable
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return nil, durable, release.Memory{}, err
	}
	lock, err := depot.LockDir(dir)
	if err != nil {
		return nil, durable, release.Memory{}, err
	}
	s := &state{dir: dir, lock: lock}
	durable, mem, err := s.read(root)
	if err != nil {
		lock.Unlock()
		return nil, durable, mem, err
	}
	return s, durable, mem, nil
}

func (s *state) read(root string) (mesh.Durable, release.Memory, error) {
	durable, err := s.readPromise()
	if err != nil {
		return durable, release.Memory{}, s.broken(promiseFile, err)
	}
	data, err := depot.ReadFile(s.dir, memoryFile, release.MaxMemoryBytes)
	if err == nil {
		mem, err := release.ParseMemory(data)
		if err != nil {
			return durable, mem, s.broken(memoryFile, err)
		}
		return durable, mem, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return durable, release.Memory{}, s.broken(memoryFile, err)
	}
	mem, err := readRoot(root)
	return durable, mem, err
}

// readRoot starts a memory from the root.json that the operator installed.
func readRoot(path string) (release.Memory, error) {
	data, err := depot.ReadFile(filepath.Dir(path), filepath.Base(path), release.MaxMemoryBytes)
	if err != nil {
		return release.Memory{}, err
	}
	mem, err := release.NewMemory(data)
	if err != nil {
		return mem, fmt.Errorf("%s: %w", path, err)
	}
	return mem, nil
}

// readPromise reads the floor. {"floor":7,"scheduled":{"number":8,"at_ns":1795341600000000000}}
func (s *state) readPromise() (mesh.Durable, error) {
	var d mesh.Durable
	data, err := depot.ReadFile(s.dir, promiseFile, 4096)
	if errors.Is(err, fs.ErrNotExist) {
		return d, nil
	}
	if err != nil {
		return d, err
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&d); err != nil {
		return d, err
	}
	if s := d.Scheduled; s != nil && (s.At == 0 || s.Number <= d.Floor) {
		return d, fmt.Errorf("a switchover to release %d at %v above floor %d makes no sense", s.Number, s.At, d.Floor)
	}
	return d, nil
}

func (s *state) broken(name string, err error) error {
	return fmt.Errorf("%s: %w: the node does not know which releases it answered from and must not guess; "+
		"restore the file, or remove the whole directory if no client can remember this node's answers", filepath.Join(s.dir, name), err)
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
			data, err := json.Marshal(d)
			if err == nil {
				err = depot.WriteFile(s.dir, promiseFile, append(data, '\n'), 0o640)
			}
			written <- writeResult{durable: d, err: err}
		}
	}
}

func (s *state) close() error { return s.lock.Unlock() }
