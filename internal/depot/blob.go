package depot

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"

	"github.com/klauspost/compress/zstd"

	"github.com/coredns-anycast/coredns-anycast/internal/release"
)

const blobDir = "blobs/sha256"

// windowBytes bounds what packing and unpacking keep in memory.
const windowBytes = 8 << 20

// Content is what a release says of a zone's text.
type Content struct {
	SHA256 release.Digest
	Length int64
	Blob   release.Blob
}

// PutBlob implements Store.
func (d *Dir) PutBlob(write func(io.Writer) error) (Content, error) {
	return d.putPacked(tempPrefix, write, func(b release.Blob) string { return release.BlobName(b.SHA256) })
}

// putPacked packs what write produces, in a temporary file whose name begins so, and gives it the name of its blob.
func (d *Dir) putPacked(prefix string, write func(io.Writer) error, name func(release.Blob) string) (Content, error) {
	f, err := createNamed(d.root, blobDir, prefix, 0o644)
	if err != nil {
		return Content{}, err
	}
	step("write")
	content, err := Pack(f, write)
	written, err := closeTemp(d.root, f, err)
	if err != nil {
		return Content{}, err
	}
	return content, rename(d.root, written, name(content.Blob))
}

// Pack writes the text that write produces to to, packed as a blob.
func Pack(to io.Writer, write func(io.Writer) error) (Content, error) {
	return pack(to, zstd.SpeedDefault, write)
}

func pack(to io.Writer, level zstd.EncoderLevel, write func(io.Writer) error) (Content, error) {
	text, packed := newMeter(), newMeter()
	z, err := newPacker(io.MultiWriter(to, packed), level)
	if err != nil {
		return Content{}, err
	}
	err = write(io.MultiWriter(z, text))
	if closed := z.Close(); err == nil {
		err = closed
	}
	if err == nil {
		usedPacker(z, level, text.n)
	}
	return Content{text.digest(), text.n, release.Blob{SHA256: packed.digest(), Length: packed.n}}, err
}

// meter counts and hashes.
type meter struct {
	hash.Hash
	n int64
}

func newMeter() *meter { return &meter{Hash: sha256.New()} }

func (m *meter) Write(p []byte) (int, error) {
	m.n += int64(len(p))
	return m.Hash.Write(p)
}

func (m *meter) digest() release.Digest { return release.Digest(m.Sum(nil)) }

// CheckBlob reads a blob through and compares it with what was signed: nil, fs.ErrNotExist, or a *release.Error.
func (d *Dir) CheckBlob(b release.Blob) error {
	f, err := openRegular(d.root, release.BlobName(b.SHA256))
	if err != nil {
		return err
	}
	defer f.Close()
	return checkPacked(f, b)
}

// hasZone reports whether a zone is there: its text, or a way to it. What is in it is read through when deep is set; what is damaged
// is removed.
func (d *Dir) hasZone(z release.Zone, deep bool) (bool, error) {
	if z.Whole() {
		if there, err := d.hasText(z, deep); there || err != nil {
			return there, err
		}
	}
	return d.hasWay(z, deep), nil
}

// hasText is hasZone of the text that a zone names: as the blob that was published, or made of a delta.
func (d *Dir) hasText(z release.Zone, deep bool) (bool, error) {
	name := release.BlobName(z.Blob.SHA256)
	info, err := d.lstat(name)
	if isBlob(info, err, z.Blob) && (!deep || d.CheckBlob(z.Blob) == nil) {
		return true, nil
	}
	if !errors.Is(err, fs.ErrNotExist) { // as for nearly all of very many zones that are new
		if err := d.Remove(name); err != nil { // or OpenBlob would take it
			return false, err
		}
	}
	if !deep {
		return d.hasMade(z), nil
	}
	r, err := d.OpenBlob(z.Base())
	if err == nil {
		defer r.Close()
		_, err = io.Copy(io.Discard, r)
	}
	if err == nil {
		return true, nil
	}
	return false, d.Remove(textName(z.SHA256))
}

// showsText reports whether there are files with the text that a zone names; what is in them is checked when they are read.
func (d *Dir) showsText(z release.Zone) bool {
	return d.HasBlob(z.Blob) || d.hasMade(z)
}

// hasMade reports whether there is a file with the text of a zone that was made of a delta.
func (d *Dir) hasMade(z release.Zone) bool {
	info, err := d.lstat(textName(z.SHA256))
	return err == nil && info.Mode().IsRegular()
}

// HasBlob reports whether a blob is there with its length; what is in it is checked when it is read.
func (d *Dir) HasBlob(b release.Blob) bool {
	info, err := d.lstat(release.BlobName(b.SHA256))
	return isBlob(info, err, b)
}

func isBlob(info fs.FileInfo, err error, b release.Blob) bool {
	return err == nil && info.Mode().IsRegular() && info.Size() == b.Length
}

func checkPacked(r io.Reader, b release.Blob) error {
	m := newMeter()
	if _, err := io.Copy(m, io.LimitReader(r, b.Length+1)); err != nil {
		return &release.Error{File: release.BlobName(b.SHA256), Rule: release.Unreadable, Detail: err.Error()}
	}
	return m.is(b)
}

// is compares what was read of a blob with what was signed.
func (m *meter) is(b release.Blob) error {
	name := release.BlobName(b.SHA256)
	if m.n != b.Length {
		return &release.Error{File: name, Rule: release.Length, Detail: fmt.Sprintf("%s, %d are announced", atMost(m.n, b.Length), b.Length)}
	}
	if m.digest() != b.SHA256 {
		return &release.Error{File: name, Rule: release.Mismatch, Detail: "the content is " + m.digest().String()}
	}
	return nil
}

func atMost(n, limit int64) string {
	if n > limit {
		return fmt.Sprintf("more than %d bytes", limit)
	}
	return fmt.Sprintf("%d bytes", n)
}

// OpenBlob opens the text of a zone, as it was published or else as it was made of a delta. A published file was checked
// against its digest when this returns. The text is checked as it is read: Read ends in io.EOF only when length and digest
// are those signed, and in a *release.Error otherwise, so use nothing of it before io.EOF. Memory is bounded by the window,
// whatever the file says. Of a zone that is not whole there is no text: its Base has one.
func (d *Dir) OpenBlob(z release.Zone) (io.ReadCloser, error) {
	r, err := OpenBlob(d, z)
	if rule, _ := release.RuleOf(err); rule != release.Missing || !z.Whole() {
		return r, err
	}
	f, made := openRegular(d.root, textName(z.SHA256))
	if made != nil {
		return nil, err
	}
	return newTextReader(f, textName(z.SHA256), release.MaxZoneBytes, z)
}

// OpenBlob is Dir.OpenBlob of any repository that opens files as a Store does; it has published files only.
func OpenBlob(repo fs.FS, z release.Zone) (io.ReadCloser, error) {
	name := release.BlobName(z.Blob.SHA256)
	if !z.Whole() {
		return nil, &release.Error{File: name, Rule: release.Missing, Detail: "it is the text of an older zone, and packs make zone " + z.Origin + " of it"}
	}
	f, err := openBlob(repo, z.Blob, z.Origin)
	if err != nil {
		return nil, err
	}
	err = checkPacked(f, z.Blob)
	if err == nil {
		_, err = f.(io.Seeker).Seek(0, io.SeekStart)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return newTextReader(f, name, z.Blob.Length, z)
}

// openBlob opens a blob of a zone.
func openBlob(repo fs.FS, b release.Blob, origin string) (fs.File, error) {
	name := release.BlobName(b.SHA256)
	f, err := repo.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &release.Error{File: name, Rule: release.Missing, Detail: "no such file, for zone " + origin}
	}
	if err != nil {
		return nil, &release.Error{File: name, Rule: release.Unreadable, Detail: err.Error()}
	}
	return f, nil
}

func newTextReader(f io.ReadCloser, name string, packed int64, z release.Zone) (*textReader, error) {
	unpacker, err := unpack(io.LimitReader(f, packed))
	if err != nil {
		f.Close()
		return nil, err
	}
	return &textReader{file: f, name: name, unpacker: unpacker, zone: z, seen: newMeter()}, nil
}

// textReader unpacks and checks.
type textReader struct {
	file     io.Closer
	name     string
	unpacker *unpacker
	zone     release.Zone
	seen     *meter
	err      error // what Read said last, once it said one
}

func (r *textReader) Read(p []byte) (int, error) {
	if r.err != nil {
		return 0, r.err
	}
	n, err := r.unpacker.Read(p)
	r.seen.Write(p[:n])
	if r.seen.n > r.zone.Length {
		r.err = r.refuse(release.Oversize, "unpacks to more than %d bytes", r.zone.Length)
		return 0, r.err
	}
	if err == io.EOF {
		err = r.verdict()
	} else if err != nil {
		err = r.refuse(release.Torn, "%v", err)
	}
	r.err = err
	return n, err
}

// verdict is io.EOF if the whole text is what was signed.
func (r *textReader) verdict() error {
	if r.seen.n != r.zone.Length {
		return r.refuse(release.Length, "unpacks to %d bytes, %d are announced", r.seen.n, r.zone.Length)
	}
	if r.seen.digest() != r.zone.SHA256 {
		return r.refuse(release.Mismatch, "unpacks to other content than announced for %s", r.zone.Origin)
	}
	return io.EOF
}

func (r *textReader) refuse(rule release.Rule, format string, args ...any) error {
	return &release.Error{File: r.name, Rule: rule, Detail: fmt.Sprintf(format, args...)}
}

func (r *textReader) Close() error {
	r.unpacker.Close()
	return r.file.Close()
}
