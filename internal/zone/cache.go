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
	compiledHead = 64
	compiledTail = sha256.Size
)

// MaxCompiled is more than the octets that a compiled zone takes beside its image.
const MaxCompiled = compiledHead + compiledTail

// ErrCompiled says that octets are no compiled zone of this format and source, or not as they were written: make it anew.
var ErrCompiled = errors.New("not a compiled zone of this format and source, or damaged")

// WriteImage writes the compiled zone, for FromImage. Source is a digest of what the zone was made of.
func (z *Zone) WriteImage(w io.Writer, source [sha256.Size]byte) error {
	head := make([]byte, 0, compiledHead)
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

// FromImage makes a zone of what WriteImage wrote for a source. It keeps b, which must not be changed any more. The error
// is ErrCompiled if it is anything else, be it by one bit.
func FromImage(b []byte, source [sha256.Size]byte) (*Zone, error) {
	if len(b) < compiledHead+compiledTail || !bytes.Equal(b[:8], compiledMagic[:]) ||
		binary.LittleEndian.Uint32(b[8:]) != FormatVersion || !bytes.Equal(b[16:48], source[:]) ||
		binary.LittleEndian.Uint64(b[48:]) != uint64(len(b)-compiledHead-compiledTail) {
		return nil, ErrCompiled
	}
	end := len(b) - compiledTail
	sum := sha256.New()
	if digest(sum, b[:end]); !bytes.Equal(sum.Sum(nil), b[end:]) {
		return nil, ErrCompiled
	}
	z, err := open(b[compiledHead:end:end])
	if err != nil || len(z.soa.records()) == 0 {
		return nil, ErrCompiled
	}
	return z, nil
}
