package home

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/hint"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/keys"
	"github.com/coredns-anycast/coredns-anycast/internal/depot"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
)

// Archived is what an archive of a home holds.
type Archived struct {
	File   string         `json:"file"`   // "-" for standard output
	Bytes  int64          `json:"bytes"`  // of the archive
	Keys   bool           `json:"keys"`   // the private keys in HOME/keys are in it
	Shared bool           `json:"shared"` // state and repository are in a bucket, and not in it
	Files  []ArchivedFile `json:"files"`
	Links  []string       `json:"links,omitempty"` // symbolic links: what they lead to is not in it
}

// ArchivedFile is a file in an archive.
type ArchivedFile struct {
	Name  string `json:"name"` // below the home
	Bytes int64  `json:"bytes"`
}

// BackupOptions say how a home is archived.
type BackupOptions struct {
	WithoutKeys bool // leave out the private keys in HOME/keys
	Force       bool // replace the file if there is one
}

// Backup writes an archive of the home to a file outside it, with mode 0600. The file has its name only when it is whole and on disk: it is
// written beside, under a name that begins with a dot.
func (h *Home) Backup(ctx context.Context, file string, o BackupOptions) (Archived, error) {
	if err := h.mayWrite(file, o.Force); err != nil {
		return Archived{}, err
	}
	f, err := os.CreateTemp(filepath.Dir(file), "."+filepath.Base(file)+".tmp-*")
	if err != nil {
		return Archived{}, err
	}
	made, err := h.Archive(ctx, f, o.WithoutKeys)
	if err == nil {
		step("sync the archive")
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = h.mayWrite(file, o.Force) // it took a while
	}
	if err == nil {
		step("name the archive")
		err = os.Rename(f.Name(), file)
	}
	if err != nil {
		return Archived{}, errors.Join(err, os.Remove(f.Name()))
	}
	made.File = file
	step("sync the directory")
	return made, syncDir(filepath.Dir(file))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// mayWrite refuses a file in the home, which would be in the next archive and be lost with the home, and one that is there.
func (h *Home) mayWrite(file string, force bool) error {
	own, err := os.Stat(h.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return noMesh(h.dir)
	}
	if err != nil {
		return err
	}
	dir, err := filepath.Abs(filepath.Dir(file))
	if err == nil {
		dir, err = filepath.EvalSymlinks(dir)
	}
	if err != nil {
		return err
	}
	for ; ; dir = filepath.Dir(dir) {
		if info, err := os.Stat(dir); err == nil && os.SameFile(info, own) {
			return hint.Errorf("name a file on another disk", "%s is in the home", file)
		}
		if dir == filepath.Dir(dir) {
			break
		}
	}
	info, err := os.Lstat(file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case !info.Mode().IsRegular():
		return hint.Errorf("name a file; - is standard output", "%s is there, and is no regular file", file)
	case !force:
		return hint.Errorf("name another file, or say --force", "%s is there already", file)
	}
	return nil
}

// Archive writes an archive of the home, tar in gzip, as one publication left it, while others may publish. What a publication changes is read
// under the lock. The rest, which may be gigabytes, is written after that: such a file is replaced as a whole, or never. A zone's text that
// is published and was removed meanwhile, since two releases came after it, is an error.
func (h *Home) Archive(ctx context.Context, to io.Writer, withoutKeys bool) (Archived, error) {
	root, err := os.OpenRoot(h.dir)
	if errors.Is(err, fs.ErrNotExist) {
		err = noMesh(h.dir)
	}
	if err != nil {
		return Archived{}, err
	}
	defer root.Close()
	step("read the home")
	a := archive{ctx: ctx, root: root, withoutKeys: withoutKeys, made: Archived{File: "-", Keys: !withoutKeys, Files: []ArchivedFile{}}}
	if err := a.look(h); err != nil {
		return Archived{}, err
	}
	count := &counter{Writer: to}
	packed, err := gzip.NewWriterLevel(count, gzip.BestSpeed) // zones' texts are packed already
	if err != nil {
		return Archived{}, err
	}
	a.tar = tar.NewWriter(packed)
	for _, e := range a.entries {
		step("archive " + e.name)
		if err := a.write(e); err != nil {
			return Archived{}, fmt.Errorf("%s: %w", h.Path(e.name), err)
		}
	}
	step("end the archive")
	err = errors.Join(a.tar.Close(), packed.Close())
	a.made.Bytes = count.bytes
	return a.made, err
}

// archive is one that is being made.
type archive struct {
	ctx         context.Context
	root        *os.Root
	withoutKeys bool
	tar         *tar.Writer
	entries     []entry
	made        Archived
}

// entry is a file, directory or symbolic link that is to be in the archive.
type entry struct {
	name string
	info fs.FileInfo
	link string // where a symbolic link leads
	data []byte // what was read under the lock; else nil
	text bool   // a zone's text, a pack, or a node of a tree of zones, that is published
}

// look lists the home, and reads what publications change, while none goes on.
func (a *archive) look(h *Home) error {
	s, err := h.openForWriting(a.ctx)
	if err != nil {
		return err
	}
	_, view, _, err := h.read(s) // a state that cannot be read makes no backup
	if err == nil {
		_, here := s.repo.(*depot.Dir)
		a.made.Shared = !here
		texts := map[string]bool{}
		for r := range view.Manifest.Releases() {
			for z := range r.All() {
				packs := z.Packs
				if here { // a list that cannot be read: nothing that it may name is removed meanwhile
					earlier, _ := depot.ReadEarlier(s.repo, *z)
					packs = slices.Concat(packs, earlier)
				}
				for _, b := range append([]release.Blob{z.Blob, z.Earlier}, blobsOf(packs)...) {
					texts[path.Join(repoDir, release.BlobName(b.SHA256))] = true
				}
			}
		}
		for name := range view.Manifest.Nodes() {
			texts[path.Join(repoDir, name)] = true
		}
		err = fs.WalkDir(a.root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
			if err != nil || name == "." {
				return err
			}
			return a.add(name, d, texts[name])
		})
	}
	return errors.Join(err, s.close())
}

func blobsOf(packs []release.Pack) (blobs []release.Blob) {
	for _, p := range packs {
		blobs = append(blobs, p.Blob)
	}
	return blobs
}

// add takes what the walk has found into the list.
func (a *archive) add(name string, d fs.DirEntry, text bool) error {
	if err := context.Cause(a.ctx); err != nil {
		return err
	}
	info, err := d.Info()
	if errors.Is(err, fs.ErrNotExist) || err == nil && a.leavesOut(name, info.Mode()) {
		return nil
	}
	if err != nil {
		return err
	}
	e := entry{name: name, info: info, text: text}
	switch {
	case info.Mode()&fs.ModeSymlink != 0 && slices.Contains(parts, name):
		return hint.Errorf("archive the home and what the link leads to by other means", "%s is a symbolic link: what it leads to would not be in the archive", name)
	case info.Mode()&fs.ModeSymlink != 0:
		if e.link, err = a.root.Readlink(name); err != nil {
			return err
		}
		a.made.Links = append(a.made.Links, name)
	case info.Mode().IsRegular() && changes(name):
		if e.data, err = a.root.ReadFile(name); err != nil {
			return err
		}
	}
	a.entries = append(a.entries, e)
	return nil
}

// leavesOut reports whether something is not to be in the archive: the private keys, if that was said, the socket of "meshctl serve", locks,
// and what is half written or half fetched.
func (a *archive) leavesOut(name string, mode fs.FileMode) bool {
	part, _, below := strings.Cut(name, "/")
	switch {
	case !mode.IsRegular() && !mode.IsDir() && mode&fs.ModeSymlink == 0:
		return true
	case part == keys.Dir && below && path.Ext(name) == ".pem":
		return a.withoutKeys
	}
	return (part == repoDir || part == stateDir) && strings.HasPrefix(path.Base(name), ".")
}

// parts are the parts of a home in which publications, and changes of members and keys, replace something.
var parts = []string{keys.Dir, "members", "operators", "pki", repoDir, stateDir}

// changes reports whether a file belongs to what was published: it is small, and must be as that publication left it. What is not so are
// zones, as texts and trees that are published or as they were received.
func changes(name string) bool {
	part, _, _ := strings.Cut(name, "/")
	return slices.Contains(parts, part) && !release.IsNode(name) &&
		!strings.HasPrefix(name, path.Join(repoDir, path.Dir(release.BlobName(release.Digest{})))+"/") && !strings.HasPrefix(name, path.Join(stateDir, "received")+"/")
}

func (a *archive) write(e entry) error {
	if err := context.Cause(a.ctx); err != nil {
		return err
	}
	if !e.info.Mode().IsRegular() {
		return a.header(e, e.info)
	}
	if e.data != nil {
		return a.content(e, sized{e.info, int64(len(e.data))}, strings.NewReader(string(e.data)))
	}
	f, err := a.root.Open(e.name)
	if errors.Is(err, fs.ErrNotExist) {
		if e.text {
			return hint.Errorf("run it again", "releases were made so quickly that it was removed while the archive was written")
		}
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	return a.content(e, info, f)
}

// content writes a file, in which nobody writes meanwhile.
func (a *archive) content(e entry, info fs.FileInfo, from io.Reader) error {
	if err := a.header(e, info); err != nil {
		return err
	}
	n, err := io.CopyN(a.tar, untilEnd{a.ctx, from}, info.Size())
	if errors.Is(err, io.EOF) {
		return hint.Errorf("run it again", "it was written to while it was read: %d of %d bytes were there", n, info.Size())
	}
	a.made.Files = append(a.made.Files, ArchivedFile{e.name, n})
	return err
}

func (a *archive) header(e entry, info fs.FileInfo) error {
	head, err := tar.FileInfoHeader(info, e.link)
	if err != nil {
		return err
	}
	head.Name = e.name
	if info.IsDir() {
		head.Name += "/"
	}
	return a.tar.WriteHeader(head)
}

// sized is what is known of a file, with the size of what was read of it.
type sized struct {
	fs.FileInfo
	size int64
}

func (s sized) Size() int64 { return s.size }

// untilEnd reads until ctx ends.
type untilEnd struct {
	ctx context.Context
	io.Reader
}

func (r untilEnd) Read(p []byte) (int, error) {
	if err := context.Cause(r.ctx); err != nil {
		return 0, err
	}
	return r.Reader.Read(p)
}

// counter counts what is written.
type counter struct {
	io.Writer
	bytes int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.Writer.Write(p)
	c.bytes += int64(n)
	return n, err
}
