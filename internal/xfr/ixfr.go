package xfr

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/rdata"
	"github.com/coredns-anycast/coredns-anycast/internal/zone"
)

// changes are the differences of an incremental transfer, all sequences of it (RFC 1995 4) condensed: by record, whether
// the zone before must have it and whether the zone after has it. TTLs are not part of a record's identity (RFC 2136
// 1.1.1), nor is letter case.
type changes struct {
	byOwner map[string]map[string]*change // wire format, lower case; then by recordKey
	count   int
	limit   int
}

type change struct {
	before, after bool
	seen          bool // in the zone before
	same          bool // as it is to be
	data          []byte
	typ           uint16
	ttl           uint32
}

// errDoubt says that differences do not fit the zone they are for. The whole zone must be transferred.
var errDoubt = errors.New("the differences do not fit the zone that we hold")

func newChanges(limit int) *changes {
	return &changes{byOwner: map[string]map[string]*change{}, limit: limit}
}

func (c *changes) delete(r *resource) error { return c.put(r, false) }
func (c *changes) add(r *resource) error    { return c.put(r, true) }

// put notes a deletion or an addition. The first of a record says what the zone before must be like; those that follow
// must take turns.
func (c *changes) put(r *resource, after bool) error {
	owner := string(lower(r.owner))
	if c.byOwner[owner] == nil {
		c.byOwner[owner] = map[string]*change{}
	}
	key := recordKey(r.typ, r.data)
	known := c.byOwner[owner][key]
	if known == nil {
		if c.count++; c.count > c.limit {
			return fmt.Errorf("%w: more than %d differences, the whole zone is less", errDoubt, c.limit)
		}
		known = &change{before: !after, after: !after, typ: r.typ}
		c.byOwner[owner][key] = known
	}
	if known.after == after {
		return fmt.Errorf("%w: %s %s is %s twice", errDoubt, r.name(), rdata.TypeString(r.typ), verb(after))
	}
	known.after, known.ttl, known.data = after, r.ttl, bytes.Clone(r.data)
	return nil
}

func verb(added bool) string {
	if added {
		return "added"
	}
	return "deleted"
}

// delta is what turns the zone before into the zone after. A deletion of what is not there is errDoubt, and so is an addition of what
// is there, unless it is the very same.
func (c *changes) delta(before *zone.Zone, to uint32) (*zone.Delta, error) {
	d := &zone.Delta{From: before.Serial(), To: to}
	for _, owner := range slices.SortedFunc(maps.Keys(c.byOwner), canonically) {
		list := c.byOwner[owner]
		for _, s := range before.OwnedBy([]byte(owner)) {
			for _, part := range [...]struct {
				typ  uint16
				ttl  uint32
				data zone.Rdata
			}{{s.Type, s.TTL, s.Data}, {dns.TypeRRSIG, s.SigTTL, s.Sigs}} {
				for data := range part.data.All() {
					known := list[recordKey(part.typ, data)]
					if known == nil {
						continue
					}
					if known.seen = true; !known.before && !known.repeats(part.ttl) {
						return nil, fmt.Errorf("%w: %s %s is added, and there already", errDoubt, zone.NameString([]byte(owner)), rdata.TypeString(part.typ))
					}
					if known.same = known.after && known.ttl == part.ttl && bytes.Equal(known.data, data); !known.same {
						d.Removed = appendRR(d.Removed, owner, part.typ, part.ttl, data)
					}
				}
			}
		}
		for _, key := range slices.Sorted(maps.Keys(list)) {
			switch known := list[key]; {
			case known.before && !known.seen:
				return nil, fmt.Errorf("%w: %s %s is deleted, and not there", errDoubt, zone.NameString([]byte(owner)), rdata.TypeString(known.typ))
			case known.after && !known.same:
				d.Added = appendRR(d.Added, owner, known.typ, known.ttl, known.data)
			}
		}
	}
	return d, nil
}

// canonically compares owners (RFC 4034 6.1).
func canonically(x, y string) int {
	return bytes.Compare(zone.AppendKey(nil, []byte(x)), zone.AppendKey(nil, []byte(y)))
}

// appendRR appends a record in wire format (RFC 1035 3.2.1).
func appendRR(b zone.RRs, owner string, typ uint16, ttl uint32, data []byte) zone.RRs {
	b = binary.BigEndian.AppendUint16(append(b, owner...), typ)
	b = binary.BigEndian.AppendUint16(b, dns.ClassINET)
	b = binary.BigEndian.AppendUint32(b, ttl)
	return append(binary.BigEndian.AppendUint16(b, uint16(len(data))), data...)
}

// repeats reports whether an addition says what is so already. NSD 4.6 adds in the differences that it makes some records
// that have not changed; the zone after is what it says all the same.
func (c *change) repeats(ttl uint32) bool { return c.after && c.ttl == ttl }

// recordKey is equal for equal records of one owner.
func recordKey(typ uint16, data []byte) string {
	return string(append(binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(data)), typ), zone.Canonical(typ, data)...))
}

// lower is a copy of a name in wire format with its letters folded; lengths are below them.
func lower(name []byte) []byte {
	folded := append([]byte(nil), name...)
	for i, c := range folded {
		if 'A' <= c && c <= 'Z' {
			folded[i] = c + 'a' - 'A'
		}
	}
	return folded
}
