package depot

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"

	"github.com/coredns-anycast/coredns-anycast/internal/release"
)

// Dir is a repository in a directory. It is an fs.FS for release.Verify. Any number of processes may read; one writes,
// and holds a Lock while it does.
type Dir struct {
	root *os.Root
}

// Open opens a repository that exists.
func Open(dir string) (*Dir, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	return &Dir{root}, nil
}

// Create opens a repository, and makes the directories that are missing.
func Create(dir string) (*Dir, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	d, err := Open(dir)
	if err != nil {
		return nil, err
	}
	for _, sub := range []string{"metadata", "targets", blobDir} {
		if err := mkdirAll(d.root, sub); err != nil {
			d.Close()
			return nil, err
		}
	}
	return d, nil
}

// Path is the directory.
func (d *Dir) Path() string { return d.root.Name() }

// Close releases the directory. Files that were opened stay usable.
func (d *Dir) Close() error { return d.root.Close() }

// Open opens a regular file of the repository; it implements fs.FS.
func (d *Dir) Open(name string) (fs.File, error) {
	if !fs.ValidPath(name) {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrInvalid}
	}
	return openRegular(d.root, name)
}

// Publish puts files into the repository in the order given, each durably before the next. It may be repeated after an
// interruption. A numbered file that is there with other content is a second writer's: ErrExists, and what follows is
// not written.
func (d *Dir) Publish(files []release.File) error {
	for _, f := range files {
		put := create
		if f.Replaces() {
			put = replace
		}
		if err := put(d.root, f.Name, f.Data, 0o644); err != nil {
			if errors.Is(err, ErrExists) {
				return fmt.Errorf("%w: another distribution host has published in %s", err, d.Path())
			}
			return err
		}
	}
	return nil
}

// Sweep removes what writers that were killed left behind. Call it with the lock held.
func (d *Dir) Sweep() error {
	for _, dir := range []string{".", "metadata", "targets", blobDir} {
		entries, err := fs.ReadDir(d.root.FS(), dir)
		if err != nil {
			return err
		}
		for _, e := range entries {
			if isTemp(e.Name()) {
				if err := d.root.Remove(path.Join(dir, e.Name())); err != nil {
					return err
				}
			}
		}
	}
	return nil
}
