package depot

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"

	"golang.org/x/sync/errgroup"

	"github.com/coredns-anycast/coredns-anycast/internal/release"
)

// step is called before each system call that changes a directory, with its name. The crash tests end the process in
// it; otherwise it does nothing.
var step = func(string) {}

// tempPrefix marks files that are not there yet. Sweep removes those that a crash left.
const tempPrefix = ".tmp-"

// WriteFile makes dir/name hold data, durably: when it returns nil the data survives a power cut, and whatever happens
// before, the file is the old one or the new one, never a mixture. dir exists; name has no slash.
func WriteFile(dir, name string, data []byte, perm fs.FileMode) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	return replace(root, name, data, perm)
}

// RemoveFile makes dir/name be gone, as durably. One that is gone already is no error.
func RemoveFile(dir, name string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	step("remove")
	if err := root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return syncDir(root, ".")
}

// replace is WriteFile within root; name may have directories, which exist.
func replace(root *os.Root, name string, data []byte, perm fs.FileMode) error {
	written, err := writeTemp(root, path.Dir(name), data, perm)
	if err != nil {
		return err
	}
	return rename(root, written, name)
}

// rename puts a temporary file that is already on disk in its place, durably.
func rename(root *os.Root, from, name string) error {
	step("rename")
	if err := root.Rename(from, name); err != nil {
		root.Remove(from)
		return WithoutTemp(err)
	}
	return syncDir(root, path.Dir(name))
}

// create makes name hold data if it does not exist (put if absent: link(2) has one winner). It is nil when the file
// holds just this data already, so that a writer which was interrupted can repeat itself.
func create(root *os.Root, name string, data []byte, perm fs.FileMode) error {
	there := func() error {
		if err := holds(root, name, data); err != nil {
			return err
		}
		return syncDir(root, path.Dir(name)) // who put it there may have been killed before that
	}
	if err := there(); !errors.Is(err, fs.ErrNotExist) { // often it is there: nothing is written to find that out
		return err
	}
	written, err := writeTemp(root, path.Dir(name), data, perm)
	if err != nil {
		return err
	}
	defer root.Remove(written)
	step("link")
	err = root.Link(written, name)
	if errors.Is(err, fs.ErrExist) {
		return there()
	}
	if err != nil {
		return WithoutTemp(err)
	}
	return syncDir(root, path.Dir(name))
}

// syncsAtOnce is how many files are written and synced at a time: a disk takes many syncs together.
const syncsAtOnce = 32

// putTogether writes files, in any order, and has place give each the name that it is to have, once it is on disk. When it returns nil all
// have their names, durably. There are as many syncs of directories as directories.
func putTogether(root *os.Root, files []release.File, place func(written, name string) error) error {
	all, ctx := errgroup.WithContext(context.Background())
	all.SetLimit(syncsAtOnce)
	dirs := map[string]bool{}
	for _, f := range files {
		dirs[path.Dir(f.Name)] = true
		all.Go(func() error {
			if ctx.Err() != nil {
				return nil
			}
			written, err := writeTemp(root, path.Dir(f.Name), f.Data, 0o644)
			if err != nil {
				return err
			}
			step("place")
			if err := place(written, f.Name); err != nil {
				root.Remove(written)
				return WithoutTemp(err)
			}
			return nil
		})
	}
	if err := all.Wait(); err != nil {
		return err
	}
	return syncDirs(root, dirs)
}

func syncDirs(root *os.Root, dirs map[string]bool) error {
	for dir := range dirs {
		if err := syncDir(root, dir); err != nil {
			return err
		}
	}
	return nil
}

// holds is nil if a file holds just this data, wraps fs.ErrNotExist if there is none, and ErrExists if it holds something else.
func holds(root *os.Root, name string, data []byte) error {
	there, err := readAll(root, name, int64(len(data)))
	if errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err != nil || !bytes.Equal(there, data) {
		return &fs.PathError{Op: "create", Path: name, Err: ErrExists}
	}
	return nil
}

// writeTemp writes data to a new temporary file in dir and syncs it.
func writeTemp(root *os.Root, dir string, data []byte, perm fs.FileMode) (string, error) {
	f, err := createTemp(root, dir, perm)
	if err != nil {
		return "", err
	}
	step("write")
	_, err = f.Write(data)
	return closeTemp(root, f, err)
}

// temp is a temporary file and its name within the root.
type temp struct {
	*os.File
	name string
}

func createTemp(root *os.Root, dir string, perm fs.FileMode) (temp, error) {
	return createNamed(root, dir, tempPrefix, perm)
}

// createNamed creates a file with a name that begins with a prefix, and that no other has.
func createNamed(root *os.Root, dir, prefix string, perm fs.FileMode) (temp, error) {
	var suffix [8]byte
	if _, err := rand.Read(suffix[:]); err != nil {
		return temp{}, err
	}
	name := path.Join(dir, prefix+hex.EncodeToString(suffix[:]))
	step("create")
	f, err := root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_RDWR, perm)
	return temp{f, name}, WithoutTemp(err)
}

// WithoutTemp is an error of a temporary file without its name, which is another at each attempt: an alarm that has it would be a new one
// each time. Other errors are returned as they are.
func WithoutTemp(err error) error {
	var of *fs.PathError
	var link *os.LinkError
	switch {
	case errors.As(err, &of) && strings.HasPrefix(path.Base(of.Path), tempPrefix):
		return &fs.PathError{Op: of.Op, Path: path.Dir(of.Path), Err: of.Err}
	case errors.As(err, &link) && strings.HasPrefix(path.Base(link.Old), tempPrefix):
		return &fs.PathError{Op: link.Op, Path: link.New, Err: link.Err}
	}
	return err
}

// closeTemp syncs and closes a temporary file that was written with the result err, and removes it when that failed.
func closeTemp(root *os.Root, f temp, err error) (string, error) {
	if err == nil {
		step("sync")
		err = f.Sync()
	}
	if closed := f.Close(); err == nil {
		err = closed
	}
	if err != nil {
		root.Remove(f.name)
	}
	return f.name, WithoutTemp(err)
}

func syncDir(root *os.Root, dir string) error {
	step("sync directory")
	f, err := root.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

// mkdirAll makes dir and its parents, durably.
func mkdirAll(root *os.Root, dir string) error {
	info, err := root.Stat(dir)
	if err == nil && info.IsDir() {
		return nil
	}
	if err := mkdirAll(root, path.Dir(dir)); err != nil {
		return err
	}
	step("mkdir")
	if err := root.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return syncDir(root, path.Dir(dir))
}

// openRegular opens a regular file for reading. A link, pipe, socket or device is an error at once.
func openRegular(root *os.Root, name string) (*os.File, error) {
	info, err := root.Lstat(name)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, &fs.PathError{Op: "open", Path: name, Err: errNotRegular}
	}
	f, err := root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0) // it may have been swapped for a pipe just now
	if err != nil {
		return nil, err
	}
	if info, err = f.Stat(); err != nil || !info.Mode().IsRegular() {
		f.Close()
		return nil, &fs.PathError{Op: "open", Path: name, Err: errNotRegular}
	}
	return f, nil
}

var errNotRegular = errors.New("not a regular file")

// readAll takes a file of at most max bytes.
func readAll(root *os.Root, name string, max int64) ([]byte, error) {
	f, err := openRegular(root, name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, max+1))
	if err == nil && int64(len(data)) > max {
		err = fmt.Errorf("%s: more than %d bytes", name, max)
	}
	return data, err
}

// ReadFile takes dir/name whole, at most max bytes, if it is a regular file.
func ReadFile(dir, name string, max int64) ([]byte, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	data, err := readAll(root, name, max)
	if failed := new(fs.PathError); errors.As(err, &failed) {
		failed.Op = strings.TrimSuffix(failed.Op, "at") // of the system's openat and statat, which tell a reader nothing
	}
	return data, err
}

func isTemp(name string) bool { return strings.HasPrefix(path.Base(name), tempPrefix) }
