package zone

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
)

// Pack is a Delta, and the roots of the two zones that it lies between. Its octets are
//
//	magic [8]octet · root it is from [32]octet · root that it makes [32]octet · serial it is from · serial that it makes ·
//	octets of records out · octets of records in · records out · records in
//
// with numbers u32 in network byte order, and records as in RRs.
type Pack struct {
	From, To [sha256.Size]byte
	Delta    Delta
}

var packMagic = [8]byte{'A', 'N', 'Y', 'P', 'A', 'C', 'K', 1}

const packHead = 8 + 2*sha256.Size + 4*4 // octets before the records

// ErrPack says that octets are no pack, or one that does not make of a zone what it says.
var ErrPack = errors.New("no pack of records out and in for this zone")

// PackOf is what turns one zone into another by d, which must be their difference.
func PackOf(old, new *Zone, d *Delta) *Pack { return &Pack{old.Root(), new.Root(), *d} }

// Append appends the octets of a pack.
func (p *Pack) Append(b []byte) []byte {
	b = append(b, packMagic[:]...)
	b = append(append(b, p.From[:]...), p.To[:]...)
	for _, n := range [...]uint32{p.Delta.From, p.Delta.To, uint32(len(p.Delta.Removed)), uint32(len(p.Delta.Added))} {
		b = binary.BigEndian.AppendUint32(b, n)
	}
	return append(append(b, p.Delta.Removed...), p.Delta.Added...)
}

// ParsePack reads what Append wrote. The pack refers to b. Its records are looked at by Follow. The error wraps ErrPack.
func ParsePack(b []byte) (*Pack, error) {
	if len(b) < packHead || !bytes.Equal(b[:8], packMagic[:]) {
		return nil, fmt.Errorf("%w: it begins %.8q", ErrPack, b)
	}
	p := &Pack{}
	copy(p.From[:], b[8:])
	copy(p.To[:], b[8+sha256.Size:])
	numbers, records := b[8+2*sha256.Size:packHead], b[packHead:]
	p.Delta.From, p.Delta.To = binary.BigEndian.Uint32(numbers), binary.BigEndian.Uint32(numbers[4:])
	out, in := uint64(binary.BigEndian.Uint32(numbers[8:])), uint64(binary.BigEndian.Uint32(numbers[12:]))
	if out+in != uint64(len(records)) {
		return nil, fmt.Errorf("%w: %d and %d octets of records are announced, and there are %d", ErrPack, out, in, len(records))
	}
	p.Delta.Removed, p.Delta.Added = RRs(records[:out:out]), RRs(records[out:])
	return p, nil
}

// Follow is the zone that a pack makes of z: by Apply, and with the root that the pack says. So it costs what changed, and is the zone
// with that root, whoever made the pack. The error wraps ErrPack.
func (z *Zone) Follow(p *Pack) (*Zone, error) {
	if root := z.Root(); root != p.From {
		return nil, fmt.Errorf("%w: it is of a zone with root %x, and this one has %x", ErrPack, p.From, root)
	}
	made, found := z.Apply(&p.Delta)
	if made == nil {
		return nil, fmt.Errorf("%w: %v", ErrPack, found[0])
	}
	if root := made.Root(); root != p.To {
		return nil, fmt.Errorf("%w: it makes a zone with root %x, and is said to make %x", ErrPack, root, p.To)
	}
	return made, nil
}
