package depot

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strconv"

	"github.com/klauspost/compress/zstd"

	"github.com/coredns-anycast/coredns-anycast/internal/release"
)

// A delta makes the text of a zone out of an older one, line by line. It is text itself, packed like a zone's:
//
//	delta 1
//	=12       the next 12 lines of the old text stay
//	-1        the next one goes
//	+LINE     this one comes
//
// to the end of both. It is no statement of its own: what it makes counts only if it has the digest that was signed.
const deltaHead = "delta 1\n"

// maxLine bounds a line: 65,535 octets of RDATA written \DDD, and its owner.
const maxLine = 1 << 19

// WriteDelta writes what makes one text of another. removed and added are the lines by which they differ, each with its
// newline, in the order of the texts; what is neither must be equal in both, and is compared.
func WriteDelta(w io.Writer, old, new io.Reader, removed, added []string) error {
	out := &script{Writer: bufio.NewWriter(w)}
	out.WriteString(deltaHead)
	was, is := bufio.NewReaderSize(old, maxLine), bufio.NewReaderSize(new, maxLine)
	for {
		x, err := skip(was, &removed, func([]byte) { out.count('-') })
		if err != nil && err != io.EOF {
			return err
		}
		y, end := skip(is, &added, out.add)
		if end != nil && end != io.EOF {
			return end
		}
		if err != end || !bytes.Equal(x, y) || err == io.EOF && len(removed)+len(added) > 0 {
			return errors.New("the texts differ by other lines than was said")
		}
		if err == io.EOF {
			out.flush()
			return out.Flush()
		}
		out.count('=')
	}
}

// skip tells of the lines that begin a list, which it takes off it, and returns the first line that does not.
func skip(r *bufio.Reader, list *[]string, tell func([]byte)) ([]byte, error) {
	for {
		line, err := readLine(r)
		if err != nil {
			return nil, err
		}
		if len(*list) == 0 || string(line) != (*list)[0] {
			return line, nil
		}
		tell(line)
		*list = (*list)[1:]
	}
}

// readLine is the next line with its newline, valid until the next call; io.EOF after the last one.
func readLine(r *bufio.Reader) ([]byte, error) {
	line, err := r.ReadSlice('\n')
	if err == io.EOF && len(line) > 0 {
		err = io.ErrUnexpectedEOF
	}
	return line, err
}

// script writes a delta. Errors of the writer come out when it is flushed.
type script struct {
	*bufio.Writer
	op byte // that is being counted
	n  int64
}

func (s *script) count(op byte) {
	if op != s.op {
		s.flush()
	}
	s.op, s.n = op, s.n+1
}

func (s *script) flush() {
	if s.n > 0 {
		fmt.Fprintf(s, "%c%d\n", s.op, s.n)
	}
	s.n = 0
}

func (s *script) add(line []byte) {
	s.flush()
	s.WriteByte('+')
	s.Write(line)
}

// applyDelta writes the text that delta makes of old. Memory is bounded; so is the work, by both texts, since every line of
// a delta takes or makes one.
func applyDelta(w io.Writer, old, delta io.Reader) error {
	was, edits := bufio.NewReaderSize(old, maxLine), bufio.NewReaderSize(delta, maxLine)
	if head, err := readLine(edits); err != nil || string(head) != deltaHead {
		return fmt.Errorf("no delta that this version reads: it begins %.20q", head)
	}
	for {
		edit, err := readLine(edits)
		if err == io.EOF {
			return atEnd(was)
		}
		if err != nil {
			return err
		}
		if edit[0] == '+' {
			_, err = w.Write(edit[1:])
		} else {
			err = take(w, was, edit)
		}
		if err != nil {
			return err
		}
	}
}

// take carries out "=N" or "-N".
func take(w io.Writer, was *bufio.Reader, edit []byte) error {
	n, err := strconv.ParseUint(string(bytes.TrimSuffix(edit[1:], []byte("\n"))), 10, 40)
	if err != nil || n == 0 || edit[0] != '=' && edit[0] != '-' {
		return fmt.Errorf("not a line of a delta: %.20q", edit)
	}
	for ; n > 0; n-- {
		line, err := readLine(was)
		if err == io.EOF {
			return errors.New("the old text has fewer lines than the delta takes")
		}
		if err != nil {
			return err
		}
		if edit[0] == '=' {
			if _, err := w.Write(line); err != nil {
				return err
			}
		}
	}
	return nil
}

func atEnd(was *bufio.Reader) error {
	_, err := readLine(was)
	if err == nil {
		return errors.New("the old text has more lines than the delta takes")
	}
	if err != io.EOF {
		return err
	}
	return nil
}

// textName is where a node keeps a text that it made of a delta, packed its own way: the repository has no such file.
func textName(d release.Digest) string { return path.Join(blobDir, "text-"+d.String()) }

// patch makes the text of z out of that of from, and keeps it if it is the one that was signed.
func (d *Dir) patch(ctx context.Context, z, from release.Zone, delta release.Blob) error {
	old, err := d.OpenBlob(from)
	if err != nil {
		return err
	}
	defer old.Close()
	edits, err := openRegular(d.root, release.BlobName(delta.SHA256))
	if err != nil {
		return err
	}
	defer edits.Close()
	unpacker, err := unpack(io.LimitReader(edits, delta.Length))
	if err != nil {
		return err
	}
	defer unpacker.Close()
	f, err := createTemp(d.root, blobDir, 0o644)
	if err != nil {
		return err
	}
	step("write")
	content, err := pack(f, zstd.SpeedFastest, func(w io.Writer) error {
		out := bufio.NewWriterSize(&bounded{ctx, w, z.Length}, 1<<16)
		return errors.Join(applyDelta(out, old, unpacker), out.Flush())
	})
	if err == nil && (content.SHA256 != z.SHA256 || content.Length != z.Length) {
		err = &release.Error{File: release.BlobName(delta.SHA256), Rule: release.Mismatch, Detail: "the delta makes other content than announced for " + z.Origin}
	}
	name, err := closeTemp(d.root, f, err)
	if err != nil {
		return err
	}
	return rename(d.root, name, textName(z.SHA256))
}

// bounded writes at most left bytes, and none once ctx has ended.
type bounded struct {
	ctx  context.Context
	w    io.Writer
	left int64
}

func (b *bounded) Write(p []byte) (int, error) {
	if b.ctx.Err() != nil {
		return 0, context.Cause(b.ctx)
	}
	if b.left -= int64(len(p)); b.left < 0 {
		return 0, errors.New("the delta makes more than was announced")
	}
	return b.w.Write(p)
}
