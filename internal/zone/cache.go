package zone

import (
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
//	magic [8]octet · FormatVersion u32 · 0 u32 · source [32]octet · octets of image u64 · 0 u64 · image · SHA-256 of all before
//
// with little-endian numbers; the image begins where a line of the processor's cache does. The source is the digest of what
// the zone was made of: a compiled zone stands for that, and for nothing else.

var compiledMagic = [8]byte{'A', 'N', 'Y', 'Z', 'O', 'N', 'E', '\n'}

const (
	CompiledHead = 64 // octets of a compiled zone that CompiledSize needs
	compiledTail = sha256.Size
)

// ErrCompiled says that octets are no compiled zone of this format and source, or not as they were written: make it anew.
var ErrCompiled = errors.New("not a compiled zone of this format and source, or damaged")

// WriteImage writes the compiled zone, for FromImage. Source is a digest of what the zone was made of.
func (z *Zone) WriteImage(w io.Writer, source [sha256.Size]byte) error {
	head := make([]byte, 0, CompiledHead)
	head = append(head, compiledMagic[:]...)
	head = binary.LittleEndian.AppendUint32(head, FormatVersion)
	head = binary.LittleEndian.AppendUint32(head, 0)
	head = append(head, source[:]...)
	head = binary.LittleEndian.AppendUint64(head, uint64(len(z.image)))
	head = binary.LittleEndian.AppendUint64(head, 0)
	sum := sha256.New()
	for _, part := range [][]byte{head, z.image} {
		digest(sum, part)
		if _, err := w.Write(part); err != nil {
			return err
		}
	}
	_, err := w.Write(sum.Sum(nil))
	return err
}

// digest hashes b in pieces. The runtime cannot stop a goroutine within one, and while the collector waits for one to stop
// nothing in the process runs: a whole image would hold up answers for a tenth of a second.
func digest(sum hash.Hash, b []byte) {
	for piece := range slices.Chunk(b, 64<<10) {
		sum.Write(piece)
	}
}

// ImageSize is the number of octets that the zone takes in memory, but for some hundred.
func (z *Zone) ImageSize() int { return len(z.image) }

// CompiledSize is how long the compiled zone of a source is that begins with some octets, so that nobody makes room for what
// cannot be one.
func CompiledSize(head []byte, source [sha256.Size]byte) (int64, error) {
	if len(head) < CompiledHead || !bytes.Equal(head[:8], compiledMagic[:]) ||
		binary.LittleEndian.Uint32(head[8:]) != FormatVersion || !bytes.Equal(head[16:48], source[:]) ||
		binary.LittleEndian.Uint64(head[48:]) > maxImage {
		return 0, ErrCompiled
	}
	return int64(binary.LittleEndian.Uint64(head[48:])) + CompiledHead + compiledTail, nil
}

// FromImage makes a zone of what WriteImage wrote for a source. It keeps b, which must not be changed any more. The error
// is ErrCompiled if it is anything else, be it by one bit.
func FromImage(b []byte, source [sha256.Size]byte) (*Zone, error) {
	if size, err := CompiledSize(b, source); err != nil || size != int64(len(b)) {
		return nil, ErrCompiled
	}
	end := len(b) - compiledTail
	sum := sha256.New()
	if digest(sum, b[:end]); !bytes.Equal(sum.Sum(nil), b[end:]) {
		return nil, ErrCompiled
	}
	z, err := open(b[CompiledHead:end:end])
	if err != nil || len(z.soa.records()) == 0 {
		return nil, ErrCompiled
	}
	return z, nil
}
