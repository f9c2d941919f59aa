package depot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"syscall"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/release"
)

// Dir is a repository in a directory: a Store. Any number of processes may read; one writes, and holds a Lock while it
// does.
type Dir struct {
	root  *os.Root
	blobs *os.Root // the directory blobDir of root, while many of its files are looked at; nil: they are reached from root
}

// Open opens a repository that exists.
func Open(dir string) (*Dir, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	return &Dir{root: root}, nil
}

// near is d for who looks at many blobs one after the other: from its root the system goes through the directories above for each. It is to be closed with
// away, and soon: it does not see a directory that is put in the place of that of the blobs.
func (d *Dir) near() (near *Dir, away func(), err error) {
	blobs, err := d.root.OpenRoot(blobDir)
	if err != nil {
		return nil, nil, err
	}
	return &Dir{d.root, blobs}, func() { blobs.Close() }, nil
}

// at is from where a file is reached, and its name there.
func (d *Dir) at(name string) (*os.Root, string) {
	if d.blobs != nil && path.Dir(name) == blobDir {
		return d.blobs, path.Base(name)
	}
	return d.root, name
}

func (d *Dir) lstat(name string) (fs.FileInfo, error) {
	root, name := d.at(name)
	return root.Lstat(name)
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
	root, name := d.at(name)
	return openRegular(root, name)
}

// Read implements Store.
func (d *Dir) Read(name string, max int64) ([]byte, Tag, error) {
	tag, err := d.Tag(name) // before the content: a tag that is too old costs another look, one that is too new hides a change
	if err != nil {
		return nil, "", err
	}
	data, err := readAll(d.root, name, max)
	return data, tag, err
}

// Tag implements Store. Each content has a file of its own, which was renamed to its place.
func (d *Dir) Tag(name string) (Tag, error) {
	info, err := d.lstat(name)
	if err != nil {
		return "", err
	}
	var inode uint64
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		inode = stat.Ino
	}
	return Tag(fmt.Sprintf("%d-%d-%d", inode, info.Size(), info.ModTime().UnixNano())), nil
}

// Create implements Store.
func (d *Dir) Create(name string, data []byte) error {
	if err := mkdirAll(d.root, path.Dir(name)); err != nil {
		return err
	}
	err := create(d.root, name, data, 0o644)
	if f := (release.File{Name: name, Data: data}); errors.Is(err, ErrExists) && f.IsNamedByContent() {
		return replace(d.root, name, data, 0o644)
	}
	return err
}

// CreateAll implements Store.
func (d *Dir) CreateAll(files []release.File) error {
	var absent, damaged []release.File
	dirs := map[string]bool{} // that have some of them already
	for _, f := range files {
		if err := mkdirAll(d.root, path.Dir(f.Name)); err != nil {
			return err
		}
		switch err := holds(d.root, f.Name, f.Data); {
		case errors.Is(err, fs.ErrNotExist):
			absent = append(absent, f)
		case errors.Is(err, ErrExists) && f.IsNamedByContent():
			damaged = append(damaged, f)
		case err != nil:
			return err
		default:
			dirs[path.Dir(f.Name)] = true
		}
	}
	err := putTogether(d.root, absent, func(written, name string) error {
		return errors.Join(d.root.Link(written, name), d.root.Remove(written))
	})
	if err == nil {
		err = putTogether(d.root, damaged, d.root.Rename)
	}
	if err != nil {
		return err
	}
	return syncDirs(d.root, dirs)
}

// Swap implements Store.
func (d *Dir) Swap(ctx context.Context, name string, data []byte, was Tag) (Tag, error) {
	if ctx.Err() != nil {
		return "", context.Cause(ctx)
	}
	if is, err := d.Tag(name); err != nil || is != was {
		return "", &fs.PathError{Op: "swap", Path: name, Err: ErrChanged}
	}
	if err := replace(d.root, name, data, 0o644); err != nil {
		return "", err
	}
	return d.Tag(name)
}

// List implements Store.
func (d *Dir) List(dir string) ([]Entry, error) {
	entries, err := fs.ReadDir(d.root.FS(), dir)
	if err != nil {
		return nil, err
	}
	var files []Entry
	for _, e := range entries {
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) || err == nil && !info.Mode().IsRegular() {
			continue
		}
		if err != nil {
			return nil, err
		}
		files = append(files, Entry{e.Name(), info.Size(), info.ModTime()})
	}
	return files, nil
}

// Remove implements Store.
func (d *Dir) Remove(name string) error {
	step("remove")
	if err := d.root.Remove(name); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// PutBeside implements Store. The blob has a name of its own until it is adopted.
func (d *Dir) PutBeside(write func(io.Writer) error) (Content, error) {
	return d.putPacked("."+besidePrefix, write, besideName)
}

// Adopt implements Store.
func (d *Dir) Adopt(b release.Blob) error {
	info, err := d.root.Lstat(besideName(b))
	if err == nil && (!info.Mode().IsRegular() || info.Size() != b.Length) {
		err = &fs.PathError{Op: "adopt", Path: besideName(b), Err: fs.ErrNotExist}
	}
	if errors.Is(err, fs.ErrNotExist) && d.HasBlob(b) { // it was adopted before
		return nil
	}
	if err != nil {
		return err
	}
	return rename(d.root, besideName(b), release.BlobName(b.SHA256))
}

// besidePrefix marks, after a dot while they are written, blobs that no release names yet.
const besidePrefix = "beside-"

func besideName(b release.Blob) string { return path.Join(blobDir, besidePrefix+b.SHA256.String()) }

// besideGrace is how long such a blob is kept.
const besideGrace = 24 * time.Hour

// Grace implements Store.
func (d *Dir) Grace() time.Duration { return 0 }

// Sweep removes what writers that were killed left behind. Call it with the lock held.
func (d *Dir) Sweep() error {
	for _, dir := range []string{".", "metadata", "targets", blobDir} {
		entries, err := fs.ReadDir(d.root.FS(), dir)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
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
