package xfr

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/rdata"
	"github.com/coredns-anycast/coredns-anycast/internal/zone"
)

// changes are the differences of an incremental transfer, all sequences of it (RFC 1995 4) condensed: by record, whether
// the zone before must have it and whether the zone after has it. TTLs are not part of a record's identity (RFC 2136
// 1.1.1), nor is letter case.
type changes struct {
	byRecord map[string]*change
	owners   map[string]bool // wire format, lower case: to pass over what is not touched
	limit    int
}

type change struct {
	before, after bool
	seen          bool // in the zone before
	owner, data   []byte
	typ           uint16
	ttl           uint32
}

// errDoubt says that differences do not fit the zone they are for. The whole zone must be transferred.
var errDoubt = errors.New("the differences do not fit the zone that we hold")

func newChanges(limit int) *changes {
	return &changes{byRecord: map[string]*change{}, owners: map[string]bool{}, limit: limit}
}

func (c *changes) delete(r *resource) error { return c.put(r, false) }
func (c *changes) add(r *resource) error    { return c.put(r, true) }

// put notes a deletion or an addition. The first of a record says what the zone before must be like; those that follow
// must take turns.
func (c *changes) put(r *resource, after bool) error {
	owner := lower(r.owner)
	key := recordKey(owner, r.typ, r.data)
	known := c.byRecord[key]
	if known == nil {
		if len(c.byRecord) >= c.limit {
			return fmt.Errorf("%w: more than %d differences, the whole zone is less", errDoubt, c.limit)
		}
		known = &change{before: !after, after: !after, owner: owner, typ: r.typ}
		c.byRecord[key] = known
		c.owners[string(owner)] = true
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

// apply makes the zone after of the zone before. A deletion of what is not there is errDoubt, and so is an addition of what
// is there, unless it is the very same.
func (c *changes) apply(before *zone.Zone, source string) (*zone.Builder, error) {
	b := zone.NewBuilder()
	m := merge{b: b, source: source, rest: c.additions()}
	var owner, key []byte
	for s := range before.RRsets() {
		if !bytes.Equal(owner, s.Owner) {
			owner, key = s.Owner, zone.AppendKey(key[:0], s.Owner)
			m.upTo(key)
		}
		for _, part := range [...]struct {
			typ  uint16
			ttl  uint32
			data zone.Rdata
		}{{s.Type, s.TTL, s.Data}, {dns.TypeRRSIG, s.SigTTL, s.Sigs}} {
			for data := range part.data.All() {
				known := c.find(owner, part.typ, data)
				if known == nil {
					b.AddWire(owner, part.typ, part.ttl, data, source, 0)
				} else if known.seen = true; !known.before && !known.repeats(part.ttl) {
					return nil, fmt.Errorf("%w: %s %s is added, and there already", errDoubt, zone.NameString(owner), rdata.TypeString(part.typ))
				}
			}
		}
	}
	m.upTo(nil)
	for _, known := range c.byRecord {
		if known.before && !known.seen {
			return nil, fmt.Errorf("%w: %s %s is deleted, and not there", errDoubt, zone.NameString(known.owner), rdata.TypeString(known.typ))
		}
	}
	return b, nil
}

// repeats reports whether an addition says what is so already. NSD 4.6 adds in the differences that it makes some records
// that have not changed; the zone after is what it says all the same.
func (c *change) repeats(ttl uint32) bool { return c.after && c.ttl == ttl }

// find returns what is known of a record, nil if nothing is.
func (c *changes) find(owner []byte, typ uint16, data []byte) *change {
	if !c.owners[string(owner)] {
		return nil
	}
	return c.byRecord[recordKey(owner, typ, data)]
}

// additions are the records that the zone after has, and by which it differs, in canonical order of their owners.
func (c *changes) additions() []addition {
	var list []addition
	for _, known := range c.byRecord {
		if known.after {
			list = append(list, addition{zone.AppendKey(nil, known.owner), known})
		}
	}
	slices.SortFunc(list, func(x, y addition) int { return bytes.Compare(x.key, y.key) })
	return list
}

type addition struct {
	key []byte
	*change
}

// merge puts additions among the records of the zone before, so that a builder need not sort a million of them.
type merge struct {
	b      *zone.Builder
	source string
	rest   []addition
}

// upTo adds what comes before the owner of a key or at it; without a key, all.
func (m *merge) upTo(key []byte) {
	for len(m.rest) > 0 && (key == nil || bytes.Compare(m.rest[0].key, key) <= 0) {
		a := m.rest[0]
		m.b.AddWire(a.owner, a.typ, a.ttl, a.data, m.source, 0)
		m.rest = m.rest[1:]
	}
}

// recordKey is equal for equal records. An owner ends with its only octet 0 that begins a label.
func recordKey(owner []byte, typ uint16, data []byte) string {
	key := make([]byte, 0, len(owner)+2+len(data))
	key = binary.BigEndian.AppendUint16(append(key, owner...), typ)
	return string(append(key, zone.Canonical(typ, data)...))
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
