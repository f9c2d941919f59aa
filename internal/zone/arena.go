package zone

import (
	"bytes"
	"encoding/binary"
	"slices"
)

// An arena keeps pieces of at most 65535 octets in ever larger blocks, so that a million small pieces are no million
// objects, and a small zone takes little.
type arena struct {
	blocks [][]byte
}

// pieceRef is where a piece begins: the block, and the offset in it in units.
type pieceRef uint32

// An arena's first and largest block.
const (
	minBlock  = 1 << 10
	maxBlock  = 1 << 20
	unitsBits = 18 // of the offset in a pieceRef: maxBlock / unit
)

// add keeps a copy.
func (a *arena) add(piece []byte) pieceRef {
	last := len(a.blocks) - 1
	if size := align(2 + len(piece)); last < 0 || cap(a.blocks[last])-len(a.blocks[last]) < size {
		room := minBlock
		if last >= 0 {
			room = min(max(minBlock, 2*cap(a.blocks[last])), maxBlock)
		}
		a.blocks = append(a.blocks, make([]byte, 0, max(room, size)))
		last++
	}
	block := a.blocks[last]
	at := len(block)
	block = append(binary.LittleEndian.AppendUint16(block, uint16(len(piece))), piece...)
	a.blocks[last] = block[:align(len(block))]
	return pieceRef(last<<unitsBits | at/unit)
}

func (a *arena) at(r pieceRef) []byte {
	block := a.blocks[r>>unitsBits]
	at := int(r&(1<<unitsBits-1)) * unit
	end := at + 2 + int(binary.LittleEndian.Uint16(block[at:]))
	return block[at+2 : end : end]
}

// full reports whether an arena has no place for so many blocks more.
func (a *arena) full(more int) bool { return len(a.blocks)+more >= 1<<(32-unitsBits) }

// extend adds a copy of another arena's blocks; what is added to references into that makes them such into this one.
func (a *arena) extend(other *arena) pieceRef {
	shift := pieceRef(len(a.blocks) << unitsBits)
	for _, block := range other.blocks {
		a.blocks = append(a.blocks, bytes.Clone(block))
	}
	return shift
}

// reset forgets all pieces. It keeps the largest block, so that an arena used again for as much has one.
func (a *arena) reset() {
	if last := len(a.blocks) - 1; last >= 0 {
		a.blocks = append(a.blocks[:0], a.blocks[last][:0])
	}
}

// grow is slices.Grow for what gets large. That one takes and copies memory in one piece, in which the runtime cannot stop a
// goroutine: while the collector waits for that, nothing in the process runs.
func grow[T any](s []T, n int) []T {
	if n <= cap(s)-len(s) {
		return s
	}
	return appendLarge(make([]T, 0, max(len(s)+n, len(s)+len(s)/4)), s)
}

// appendLarge appends in pieces to a slice that has the room.
func appendLarge[T any](s, more []T) []T {
	for piece := range slices.Chunk(more, 1<<10) {
		s = appendPiece(s, piece)
	}
	return s
}

// appendPiece is called, so that the runtime can stop the goroutine where it begins.
//
//go:noinline
func appendPiece[T any](s, piece []T) []T { return append(s, piece...) }
