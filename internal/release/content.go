package release

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
)

// Content tells what a zone has from anything else that it may have: its root, or where it has none the digest of its text.
func (z *Zone) Content() Digest {
	if z.Root != (Digest{}) {
		return z.Root
	}
	return z.SHA256
}

// Same reports whether two zones of an origin have the same records, as far as they tell: one of a format before has no root.
func (z *Zone) Same(other *Zone) bool {
	if z.Root != (Digest{}) && other.Root != (Digest{}) {
		return z.Root == other.Root
	}
	return z.Whole() && other.Whole() && z.SHA256 == other.SHA256
}

// Whole reports whether the zone's text is its own. Otherwise it is that of Base, and packs make the zone of it.
func (z *Zone) Whole() bool { return z.BaseRoot == (Digest{}) }

// Base is the zone whose text z names: itself, or an older one, of which no more is known than that text and the root.
func (z *Zone) Base() Zone {
	b := Zone{Origin: z.Origin, SHA256: z.SHA256, Length: z.Length, Blob: z.Blob, Root: z.BaseRoot}
	if z.Whole() {
		b.Serial, b.Root = z.Serial, z.Root
	}
	return b
}

// Chain is all packs that lead to a zone, the oldest first: those of its file Earlier, which the caller has read, and its own. It is an
// error if they lead in a circle, or do not come from the zone's base.
func (z *Zone) Chain(earlier []Pack) ([]Pack, error) {
	if len(earlier) == 0 {
		return z.Packs, z.validChain(z.Packs)
	}
	chain := append(slices.Clip(earlier), z.Packs...)
	return chain, z.validChain(chain)
}

// Since is those packs of a chain that make the zone of its base.
func (z *Zone) Since(chain []Pack) []Pack {
	i := slices.IndexFunc(chain, func(p Pack) bool { return p.From == z.BaseRoot })
	if i < 0 || z.Whole() {
		return nil
	}
	return chain[i:]
}

func (z *Zone) validChain(chain []Pack) error {
	if len(chain) == 0 && z.Whole() {
		return nil
	}
	seen := make(map[Digest]bool, len(chain))
	for i := range chain {
		p := &chain[i]
		switch {
		case p.From == z.Root || p.From == Digest{}:
			return errors.New("a pack from the zone itself, or from none")
		case seen[p.From]:
			return fmt.Errorf("two packs from %s", p.From)
		case p.Length < 1 || p.Length > MaxPackBytes:
			return fmt.Errorf("a pack's length %d must be 1 to %d", p.Length, MaxPackBytes)
		case p.Blob.Length < 1 || p.Blob.Length >= z.Blob.Length:
			return fmt.Errorf("the length %d of a pack's blob must be 1 or more, and less than the zone's %d", p.Blob.Length, z.Blob.Length)
		}
		seen[p.From] = true
	}
	if !z.Whole() && !seen[z.BaseRoot] {
		return fmt.Errorf("no pack from the base %s", z.BaseRoot)
	}
	return nil
}

// validatePacks checks what can be known without the file of earlier packs.
func (z *Zone) validatePacks() error {
	if len(z.Packs) > MaxPacks {
		return fmt.Errorf("%d packs, more than %d", len(z.Packs), MaxPacks)
	}
	named := z.Earlier != (Blob{})
	switch {
	case z.Root == (Digest{}) && (len(z.Packs) > 0 || named || !z.Whole()):
		return errors.New("packs that lead to no root")
	case named && len(z.Packs) == 0:
		return errors.New("packs before those that there are none of")
	case named && (z.Earlier.Length < 1 || z.Earlier.Length > maxEarlierFile):
		return fmt.Errorf("the length %d of the file of earlier packs must be 1 to %d", z.Earlier.Length, maxEarlierFile)
	case z.BaseRoot == z.Root && !z.Whole():
		return errors.New("a base that is the zone itself")
	}
	of := *z
	if named {
		of.BaseRoot = Digest{} // a pack from it may be in the file
	}
	return of.validChain(z.Packs)
}

// Bounds of a file of earlier packs.
const (
	MaxEarlier      = 4096 // packs
	MaxEarlierBytes = earlierHead + MaxEarlier*earlierEntry
	maxEarlierFile  = MaxEarlierBytes + 4<<10 // as it is packed
	earlierHead     = 8
	earlierEntry    = 2*sha256.Size + 2*8
)

var earlierMagic = [earlierHead]byte{'A', 'N', 'Y', 'L', 'I', 'S', 'T', 1}

// EncodeEarlier is the file that lists packs, at most MaxEarlier, the oldest first:
//
//	magic [8]octet · { root it is from [32]octet · SHA-256 of its blob [32]octet · its length u64 · length of its blob u64 }…
//
// with numbers in network byte order.
func EncodeEarlier(packs []Pack) []byte {
	b := append(make([]byte, 0, earlierHead+len(packs)*earlierEntry), earlierMagic[:]...)
	for i := range packs {
		p := &packs[i]
		b = append(append(b, p.From[:]...), p.Blob.SHA256[:]...)
		b = binary.BigEndian.AppendUint64(b, uint64(p.Length))
		b = binary.BigEndian.AppendUint64(b, uint64(p.Blob.Length))
	}
	return b
}

// ParseEarlier reads what EncodeEarlier wrote. Whether the packs lead to a zone is for Chain to say.
func ParseEarlier(data []byte) ([]Pack, error) {
	if len(data) < earlierHead || !bytes.Equal(data[:earlierHead], earlierMagic[:]) {
		return nil, fmt.Errorf("no list of packs: it begins %.8q", data)
	}
	entries := data[earlierHead:]
	if n := len(entries) / earlierEntry; n < 1 || n > MaxEarlier || len(entries)%earlierEntry != 0 {
		return nil, fmt.Errorf("%d octets of packs, of %d each: there must be 1 to %d", len(entries), earlierEntry, MaxEarlier)
	}
	packs := make([]Pack, 0, len(entries)/earlierEntry)
	for e := range slices.Chunk(entries, earlierEntry) {
		var p Pack
		copy(p.From[:], e)
		copy(p.Blob.SHA256[:], e[len(p.From):])
		lengths := e[2*len(p.From):]
		p.Length, p.Blob.Length = int64(binary.BigEndian.Uint64(lengths)), int64(binary.BigEndian.Uint64(lengths[8:]))
		if p.Length < 1 || p.Length > MaxPackBytes || p.Blob.Length < 1 || p.Blob.Length > MaxZoneBytes {
			return nil, fmt.Errorf("a pack of %d octets in a file of %d", p.Length, p.Blob.Length)
		}
		packs = append(packs, p)
	}
	return packs, nil
}
