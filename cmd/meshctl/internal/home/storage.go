package home

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/hint"
	"github.com/coredns-anycast/coredns-anycast/internal/bucket"
	"github.com/coredns-anycast/coredns-anycast/internal/depot"
)

// maxURLBytes bounds HOME/repository when it is a file.
const maxURLBytes = 4096

// storage is where a mesh is published, and where its distribution hosts keep what they share: two directories of the
// home, or two parts of a bucket.
type storage struct {
	repo    depot.Store // what members mirror
	records depot.Store // state.json
	lock    *depot.Lock // nil: by conditional writes alone

	waited time.Duration // for the lock
}

// openStorage opens, until ctx ends, what HOME/repository names, without the right to write: a directory, or a file that holds the URL of a
// bucket.
func openStorage(ctx context.Context, home string) (storage, error) {
	file := filepath.Join(home, repoDir)
	if info, err := os.Stat(file); err == nil && info.Mode().IsRegular() {
		from, err := depot.ReadFile(home, repoDir, maxURLBytes)
		if err != nil {
			return storage{}, err
		}
		b, err := bucket.Open(ctx, string(bytes.TrimSpace(from)))
		if err != nil {
			return storage{}, hint.Errorf("correct the URL in "+file, "%w", err)
		}
		return storage{repo: b, records: b.Below(stateDir)}, nil
	}
	repo, err := depot.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return storage{}, noMesh(home)
	}
	if err != nil {
		return storage{}, err
	}
	records, err := depot.Open(filepath.Join(home, stateDir))
	if err != nil {
		repo.Close()
		return storage{}, err
	}
	return storage{repo: repo, records: records}, nil
}

// lockPatience is how long a command waits for another that publishes. That takes milliseconds, but as long as the check of
// the largest zone when a release is made.
const lockPatience = 30 * time.Second

// lockPause is the longest pause between two looks at the lock. Whoever writes again and again leaves it free for an instant
// only, and nobody hands it over: who looks often finds that.
const lockPause = 10 * time.Millisecond

// openForWriting is openStorage, with the lock of a directory.
func openForWriting(ctx context.Context, home string) (storage, error) {
	s, err := openStorage(ctx, home)
	if err != nil {
		return s, err
	}
	if dir, ok := s.repo.(*depot.Dir); ok {
		began := time.Now()
		if s.lock, err = waitForLock(ctx, dir.Path(), lockPatience); err != nil {
			s.close()
			return storage{}, err
		}
		s.waited = time.Since(began)
	}
	return s, nil
}

// sweepEvery is how often a process looks for what writers that were killed have left: there are as many files as zones.
const sweepEvery = time.Hour

// openForWriting opens the home for writing, and removes what writers that were killed have left, unless that was done lately.
func (h *Home) openForWriting(ctx context.Context) (storage, error) {
	s, err := openForWriting(ctx, h.dir)
	if err != nil {
		return s, err
	}
	h.guard.Lock()
	due := h.swept.IsZero() || time.Since(h.swept) >= sweepEvery
	h.guard.Unlock()
	if !due {
		return s, nil
	}
	if err := errors.Join(s.repo.Sweep(), s.records.Sweep()); err != nil {
		s.close()
		return storage{}, err
	}
	h.guard.Lock()
	defer h.guard.Unlock()
	h.swept = time.Now()
	return s, nil
}

// makeRoom has who opens the home next for writing remove what killed writers have left, if an error is that there is no room: it may be what takes
// the room, and a lease is not to wait an hour for it.
func (h *Home) makeRoom(err error) {
	if !errors.Is(err, syscall.ENOSPC) && !errors.Is(err, syscall.EDQUOT) {
		return
	}
	h.guard.Lock()
	defer h.guard.Unlock()
	h.swept = time.Time{}
}

func waitForLock(ctx context.Context, dir string, patience time.Duration) (*depot.Lock, error) {
	var locked *depot.LockedError
	for end := time.Now().Add(patience); ; {
		l, err := depot.LockDir(dir)
		if err == nil || !errors.As(err, &locked) {
			return l, err
		}
		if time.Now().After(end) {
			return nil, hint.Errorf("one command publishes at a time: run it again when that one has ended", "waited for %v: %w", patience, err)
		}
		if err := Pause(ctx, rand.N(lockPause)); err != nil {
			return nil, err
		}
	}
}

func (s storage) close() error {
	err := errors.Join(s.repo.Close(), s.records.Close())
	if s.lock != nil {
		err = errors.Join(err, s.lock.Unlock())
	}
	return err
}

// noMesh is the error of a home without a state: one that never held a mesh, or one that has lost it.
func noMesh(home string) error {
	return hint.Errorf("say where it is, with --home or MESHCTL_HOME; to make one: meshctl init --home "+home, "there is no mesh in %s", home)
}
