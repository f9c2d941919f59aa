package mirror

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/coredns-anycast/coredns-anycast/internal/depot"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
)

// What this mirror has verified lies in the depot's top directory, where the repository has no files of its own, and twice: a
// replayed repository is known by it, so no one damaged file may take it away, or end the following. It protects the depot from
// rollback; meshsync has a memory of its own and trusts neither.
//
// The copy begins with the SHA-256 of what it holds, in hexadecimal and a line of its own. The first is written first.
const (
	memoryFile = "mirror-memory.json"
	copyFile   = "mirror-memory.copy"
)

// sumLength is the length of the copy's first line.
const sumLength = 2*len(release.Digest{}) + 1

// remembered is what this mirror has verified.
func (m *Mirror) remembered() (release.Memory, error) {
	if m.memory == nil {
		memory, err := m.recollect()
		if err != nil {
			return memory, err
		}
		m.memory = &memory
	}
	return *m.memory, nil
}

// recollect reads at the start what was verified before. A file that is damaged is no fresh start: forgetting would let a
// replayed repository in. The other is taken then, and what the depot itself holds, since nothing got into it that was not
// verified. Only if all of them are damaged, a person has to look.
func (m *Mirror) recollect() (release.Memory, error) {
	first, firstLease, firstErr := m.readFirst()
	second, secondLease, secondErr := m.readCopy()
	switch {
	case errors.Is(firstErr, fs.ErrNotExist) && errors.Is(secondErr, fs.ErrNotExist):
		return m.fromRoot()
	case firstErr == nil && firstLease > secondLease: // signed, so it is not damaged; the copy was not written any more, or never
		return first, nil
	case firstErr == nil && secondErr == nil && firstLease == secondLease: // the copy has a sum
		return second, nil
	}
	base, err := second, secondErr
	if err != nil {
		base, err = first, firstErr
	}
	m.log.Error("what was verified before is damaged, and made anew from its copy and from the depot", "file", m.cfg.Depot+"/"+memoryFile,
		"error", firstErr, "copy", secondErr)
	return m.mend(base, err)
}

// mend raises a memory to what the depot holds. With an error, there is no memory to raise.
func (m *Mirror) mend(base release.Memory, damaged error) (release.Memory, error) {
	if damaged != nil {
		var err error
		if base, err = m.fromRoot(); err != nil {
			return base, err
		}
	}
	raised, err := m.depotAfter(base)
	switch {
	case err == nil:
		return raised, nil
	case damaged == nil: // the next round mends the depot
		return base, nil
	}
	return base, fmt.Errorf("%s/%s, its copy and the depot are damaged: %w; %w; remove %s and %s only if the depot is restored from a repository that you trust",
		m.cfg.Depot, memoryFile, damaged, err, memoryFile, copyFile)
}

// fromRoot is the memory of a node that has verified nothing yet.
func (m *Mirror) fromRoot() (release.Memory, error) {
	root, err := os.ReadFile(m.cfg.Root)
	if err != nil {
		return release.Memory{}, fmt.Errorf("the mesh's trusted root: %w", err)
	}
	return release.NewMemory(root)
}

// depotAfter is the memory after what lies in the depot was verified.
func (m *Mirror) depotAfter(base release.Memory) (release.Memory, error) {
	dir, err := depot.Open(m.cfg.Depot)
	if err != nil {
		return base, err
	}
	defer dir.Close()
	_, raised, err := release.Verify(dir, base)
	return raised, err
}

// readFirst reads the first file, and the version of its lease. It has no sum, so what was signed has to be right.
func (m *Mirror) readFirst() (release.Memory, int64, error) {
	data, err := depot.ReadFile(m.cfg.Depot, memoryFile, release.MaxMemoryBytes)
	if err != nil {
		return release.Memory{}, 0, err
	}
	return judge(data)
}

// readCopy reads the copy.
func (m *Mirror) readCopy() (release.Memory, int64, error) {
	data, err := depot.ReadFile(m.cfg.Depot, copyFile, release.MaxMemoryBytes+int64(sumLength))
	if err != nil {
		return release.Memory{}, 0, err
	}
	if len(data) < sumLength || !bytes.Equal(data, withSum(data[sumLength:])) {
		return release.Memory{}, 0, errors.New("it is not what its sum says")
	}
	return judge(data[sumLength:])
}

// judge reads a memory. One whose signatures a newer root took the keys of is good, and tells no version.
func judge(data []byte) (release.Memory, int64, error) {
	memory, err := release.ParseMemory(data)
	if err != nil || !memory.Verified() {
		return memory, 0, err
	}
	view, restored, err := release.Restore(memory, nil)
	if rule, ok := release.RuleOf(err); ok && rule == release.Signature {
		return memory, 0, nil
	}
	if release.OfZones(err) { // they lie in the depot, or are fetched
		err = nil
	}
	return restored, view.Versions.Timestamp, err
}

func withSum(data []byte) []byte {
	return append([]byte(release.DigestOf(data).String()+"\n"), data...)
}

// remember makes a memory durable, twice, and mends a file that is no longer as it was written.
func (m *Mirror) remember(memory release.Memory) error {
	m.memory = &memory // also if the disk refuses it
	data, err := memory.Encode()
	if err != nil {
		return err
	}
	return errors.Join(m.have(memoryFile, data), m.have(copyFile, withSum(data)))
}

// have makes a file hold data, unless it does.
func (m *Mirror) have(name string, data []byte) error {
	if old, err := depot.ReadFile(m.cfg.Depot, name, int64(len(data))); err == nil && bytes.Equal(old, data) {
		return nil
	}
	return depot.WriteFile(m.cfg.Depot, name, data, 0o600)
}
