package home

import (
	"context"
	"io/fs"
	"time"
)

// What the tests of package home_test see of the inside: they make whole meshes, with packages that import this one.
const (
	StateDir      = stateDir
	StateName     = stateName
	RepoDir       = repoDir
	MaxStateBytes = maxStateBytes
)

// SetStep has f called between the steps of a publication.
func SetStep(f func(string)) { step = f }

// WaitForLock waits for the lock of a directory.
func WaitForLock(ctx context.Context, dir string, patience time.Duration) error {
	_, err := waitForLock(ctx, dir, patience)
	return err
}

// Waited is how long a writer waited for the lock.
func Waited(w *Writer) time.Duration { return w.waited }

// PublishedBy is Published, with the nodes of trees from what wrap makes of the repository.
func (h *Home) PublishedBy(ctx context.Context, wrap func(fs.FS) fs.FS) error {
	s, err := openStorage(ctx, h.dir)
	if err != nil {
		return err
	}
	defer s.close()
	_, _, _, err = h.readWith(s, wrap(s.repo))
	return err
}
