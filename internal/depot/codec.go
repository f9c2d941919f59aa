package depot

import (
	"io"
	"sync"

	"github.com/klauspost/compress/zstd"
)

// Who packs or unpacks takes some 100 kB to more than a megabyte, which for a small zone costs many times what is done with it: so it is used again
// for another one. The collector lets go of those that nobody uses.
var (
	packers   = map[zstd.EncoderLevel]*sync.Pool{zstd.SpeedDefault: {}, zstd.SpeedFastest: {}}
	unpackers sync.Pool
)

// maxReused is how many octets of text may have gone through what is used again: after more, a packer has a window of 16 MiB.
const maxReused = 64<<10 - 1

// newPacker packs what is written to it, and writes that to to. It has one goroutine: the same text gives the same bytes, and so the same blob.
func newPacker(to io.Writer, level zstd.EncoderLevel) (*zstd.Encoder, error) {
	if z, ok := packers[level].Get().(*zstd.Encoder); ok {
		z.Reset(to)
		return z, nil
	}
	return zstd.NewWriter(to, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(level), zstd.WithWindowSize(windowBytes))
}

// usedPacker keeps a packer that was closed without an error, after so many octets of text, to be used again.
func usedPacker(z *zstd.Encoder, level zstd.EncoderLevel, octets int64) {
	if octets <= maxReused {
		z.Reset(nil)
		packers[level].Put(z)
	}
}

// unpacker unpacks a stream.
type unpacker struct {
	z *zstd.Decoder // nil: it is closed
	n int64         // octets of text
}

// unpack unpacks what is read from r. Memory is bounded by the window, whatever r says.
func unpack(r io.Reader) (*unpacker, error) {
	if z, ok := unpackers.Get().(*zstd.Decoder); ok {
		return &unpacker{z: z}, z.Reset(r)
	}
	z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(windowBytes))
	return &unpacker{z: z}, err
}

// Read implements io.Reader.
func (u *unpacker) Read(p []byte) (int, error) {
	if u.z == nil {
		return 0, zstd.ErrDecoderClosed
	}
	n, err := u.z.Read(p)
	u.n += int64(n)
	return n, err
}

// Close ends it. It may be called again.
func (u *unpacker) Close() {
	z := u.z
	if u.z = nil; z == nil {
		return
	}
	if u.n <= maxReused && z.Reset(nil) == nil {
		unpackers.Put(z)
		return
	}
	z.Close()
}
