package zone

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"hash"
	"io"
	"slices"
)

// A compiled zone, as WriteImage writes it, is
//
//	magic [8]octet · FormatVersion u32 · 0 u32 · source [32]octet · octets of body u64 · 0 u64 · body · SHA-256 of all before
//
// with little-endian numbers. The source is the digest of what the zone was made of: a compiled zone stands for that, and for
// nothing else. The body is
//
//	seed · apex ref · marks ref · buckets ref · buckets · octets of a bucket · denial · NSEC3PARAM record in use ·
//	whether there are several chains · octets of the origin · loose u64 · pages · { octets of page }… · page… · order · hashed
//
// and order and hashed are, of numbers u32 as the others,
//
//	leaves · { items · level · records · names · signatures · expires · sum [32]octet · item… }…

var compiledMagic = [8]byte{'A', 'N', 'Y', 'Z', 'O', 'N', 'E', '\n'}

const (
	compiledHead = 64 // octets before the body
	compiledTail = sha256.Size
)

// ErrCompiled says that octets are no compiled zone of this format and source, or not as they were written: make it anew.
var ErrCompiled = errors.New("not a compiled zone of this format and source, or damaged")

// WriteImage writes the compiled zone, for FromImage. Source is a digest of what the zone was made of.
func (z *Zone) WriteImage(w io.Writer, source [sha256.Size]byte) error {
	var size counter
	z.writeBody(&size)
	head := make([]byte, 0, compiledHead)
	head = append(head, compiledMagic[:]...)
	head = binary.LittleEndian.AppendUint32(head, FormatVersion)
	head = binary.LittleEndian.AppendUint32(head, 0)
	head = append(head, source[:]...)
	head = binary.LittleEndian.AppendUint64(head, uint64(size))
	head = binary.LittleEndian.AppendUint64(head, 0)
	out, sum := bufio.NewWriterSize(w, piece), sha256.New()
	both := io.MultiWriter(out, sum)
	both.Write(head)
	z.writeBody(both)
	out.Write(sum.Sum(nil))
	return out.Flush() // which has the first error of all
}

// counter counts what is written.
type counter int64

func (c *counter) Write(b []byte) (int, error) {
	*c += counter(len(b))
	return len(b), nil
}

// writeBody writes the body to writers that do not fail.
func (z *Zone) writeBody(w io.Writer) {
	several := uint32(0)
	if z.severalChains {
		several = 1
	}
	b := appendNumbers(nil, z.seed, uint32(z.apexRef), uint32(z.marksAt), uint32(z.bucketsAt), z.buckets, z.bucketSize,
		uint32(z.denial), z.paramsAt, several, uint32(z.originLen))
	b = binary.LittleEndian.AppendUint64(b, z.loose)
	b = appendNumbers(b, uint32(len(z.pages)))
	for _, page := range z.pages {
		b = appendNumbers(b, uint32(len(page)))
	}
	w.Write(b)
	for _, page := range z.pages {
		inPieces(w, page)
	}
	for _, l := range []*list{&z.order, &z.hashed} {
		w.Write(appendNumbers(b[:0], uint32(len(l.leaves))))
		for i, f := range l.leaves {
			b = appendNumbers(b[:0], uint32(l.itemsOf(i)), f.level, f.records, f.names, f.signatures, f.expires)
			w.Write(append(b, f.sum[:]...))
			inPieces(w, f.items)
		}
	}
}

func appendNumbers(b []byte, numbers ...uint32) []byte {
	for _, n := range numbers {
		b = binary.LittleEndian.AppendUint32(b, n)
	}
	return b
}

// inPieces writes b in pieces. The runtime cannot stop a goroutine that hashes one, and while the collector waits for one to
// stop nothing in the process runs: a whole image would hold up answers for a tenth of a second.
func inPieces(w io.Writer, b []byte) {
	for part := range slices.Chunk(b, piece) {
		w.Write(part)
	}
}

// ImageSize is the number of octets that the zone takes in memory, but for some hundred.
func (z *Zone) ImageSize() int {
	size := z.imageOctets()
	for _, l := range []*list{&z.order, &z.hashed} {
		size += l.count*l.size + len(l.leaves)*leafOctets
	}
	return size + len(z.links)*4
}

// leafOctets is what a leaf takes beside its items: its place and key, and its tally.
const leafOctets = 40 + 8 + 48

// imageOctets is the number of octets in pages.
func (z *Zone) imageOctets() int {
	size := 0
	for _, page := range z.pages {
		size += len(page)
	}
	return size
}

// Apart is the number of octets of the pages that z does not share with another zone, such as one made of it by Apply. Lists are left out.
func (z *Zone) Apart(o *Zone) (octets int) {
	for i, page := range z.pages {
		if len(page) > 0 && (o == nil || i >= len(o.pages) || len(o.pages[i]) == 0 || &o.pages[i][0] != &page[0]) {
			octets += len(page)
		}
	}
	return octets
}

// FromImage makes a zone of what WriteImage wrote for a source, so many octets in all. It takes no more memory than they do,
// whatever they say. The error is the reader's, or ErrCompiled if it is anything else, be it by one bit.
func FromImage(r io.Reader, size int64, source [sha256.Size]byte) (*Zone, error) {
	in := &imageReader{in: bufio.NewReaderSize(r, piece), sum: sha256.New(), left: size}
	head := in.take(compiledHead)
	if in.err != nil || !bytes.Equal(head[:8], compiledMagic[:]) || binary.LittleEndian.Uint32(head[8:]) != FormatVersion ||
		!bytes.Equal(head[16:48], source[:]) || binary.LittleEndian.Uint64(head[48:]) != uint64(size-compiledHead-compiledTail) {
		return nil, in.failed()
	}
	in.left -= compiledTail
	z, err := readBody(in)
	if err != nil {
		return nil, in.failed()
	}
	sum := in.sum.Sum(nil)
	in.left += compiledTail
	if tail := in.take(compiledTail); in.err != nil || in.left != 0 || !bytes.Equal(sum, tail) || len(z.soa.records()) == 0 {
		return nil, in.failed()
	}
	return z, nil
}

// imageReader reads a compiled zone. After an error it gives nothing.
type imageReader struct {
	in   io.Reader
	sum  hash.Hash
	left int64 // octets
	err  error
}

// failed is the reader's error, or else ErrCompiled.
func (r *imageReader) failed() error {
	if r.err != nil {
		return r.err
	}
	return ErrCompiled
}

// take reads so many octets.
func (r *imageReader) take(n int64) []byte {
	if r.left -= n; r.err != nil || n < 0 || r.left < 0 {
		r.fail(ErrCompiled)
		return nil
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r.in, b); err == io.EOF || err == io.ErrUnexpectedEOF {
		r.fail(ErrCompiled)
	} else {
		r.fail(err)
	}
	inPieces(r.sum, b)
	return b
}

func (r *imageReader) fail(err error) {
	if r.err == nil {
		r.err = err
	}
}

// numbers reads so many numbers; zeros after an error.
func (r *imageReader) numbers(n int) []uint32 {
	b := r.take(int64(n) * 4)
	if r.err != nil {
		return make([]uint32, min(n, 16))
	}
	numbers := make([]uint32, n)
	for i := range numbers {
		numbers[i] = binary.LittleEndian.Uint32(b[4*i:])
	}
	return numbers
}

// readBody reads a zone that need not be as it was written.
func readBody(in *imageReader) (*Zone, error) {
	n := in.numbers(10)
	loose := in.numbers(2)
	z := &Zone{seed: n[0], apexRef: ref(n[1]), marksAt: ref(n[2]), bucketsAt: ref(n[3]), buckets: n[4], bucketSize: n[5],
		denial: denial(n[6]), originLen: uint8(n[9]), details: &details{paramsAt: n[7], severalChains: n[8] != 0,
			loose: uint64(loose[1])<<32 | uint64(loose[0])}}
	lengths := in.numbers(int(in.numbers(1)[0]))
	if in.err != nil {
		return nil, in.err
	}
	z.pages = make([][]byte, len(lengths))
	for i, length := range lengths {
		if length > 0 {
			z.pages[i] = in.take(int64(length))
		}
	}
	order, hashed := z.orderLister(), z.hashedLister()
	z.order, z.hashed = order.read(in), hashed.read(in)
	if in.err != nil || len(z.pages) == 0 || len(z.pages[0]) < max(originRoom, int(z.originLen)) || z.order.count == 0 {
		return nil, errImage
	}
	z.first = z.pages[0]
	z.owner = z.first[:z.originLen:z.originLen]
	return z, z.begin()
}

// read reads the leaves of a list.
func (l *lister) read(in *imageReader) list {
	count := in.numbers(1)[0]
	for range count {
		n := in.numbers(6)
		t := &tally{totals: totals{n[2], n[3], n[4], n[5]}}
		copy(t.sum[:], in.take(sha256.Size))
		items := in.take(int64(n[0]) * int64(l.size))
		if n[0] == 0 {
			in.fail(ErrCompiled)
		}
		if in.err != nil {
			return list{}
		}
		l.keep(leaf{items, t, n[1]}, l.key(items))
	}
	return l.finish(&list{})
}
