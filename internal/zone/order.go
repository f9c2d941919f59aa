package zone

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"sort"

	"github.com/miekg/dns"
)

// What a Builder does with its records: it brings them into canonical order, drops those that are there twice, and finds them again.

// sort brings the records into canonical order. Where the owners come in order, as in what zonefile.Write writes, it is
// enough to sort the records of each.
func (b *Builder) sort() {
	if !b.uniteOwners() {
		slices.SortFunc(b.records, b.compare)
		b.uniteOwners()
		return
	}
	for rest := b.records; len(rest) > 0; {
		n := ownerLen(rest)
		slices.SortFunc(rest[:n], b.compare)
		rest = rest[n:]
	}
}

// uniteOwners lets all records of an owner, which follow one another, have the same key, so that it is enough to compare
// where the keys are. It reports whether the owners are in canonical order; if not, it has not come to the end.
func (b *Builder) uniteOwners() bool {
	for i := 1; i < len(b.records); i++ {
		x, y := &b.records[i-1], &b.records[i]
		if x.name != y.name {
			switch c := bytes.Compare(b.key(x), b.key(y)); {
			case c > 0:
				return false
			case c == 0:
				y.name = x.name
			}
		}
	}
	return true
}

// compare orders records by owner, RRset, records before RRSIGs, and RDATA, all canonically. RDATA that differ in case
// only come in a fixed order too, the lowest TTL first, so that which one is kept does not hang on that of the input.
func (b *Builder) compare(x, y record) int {
	if b.halted() {
		return 0
	}
	if x.name != y.name {
		if c := bytes.Compare(b.key(&x), b.key(&y)); c != 0 {
			return c
		}
	}
	if c := cmp.Compare(x.set, y.set); c != 0 {
		return c
	}
	if x.typ != y.typ {
		if x.typ == dns.TypeRRSIG {
			return 1
		}
		return -1
	}
	if c := compareRdata(x.typ, b.rdata(&x), b.rdata(&y)); c != 0 {
		return c
	}
	if c := cmp.Compare(x.ttl, y.ttl); c != 0 {
		return c
	}
	return bytes.Compare(b.rdata(&x), b.rdata(&y))
}

// ownerLen counts the records of the first owner. Owners are united.
func ownerLen(records []record) int {
	n := 1
	for n < len(records) && records[n].name == records[0].name {
		n++
	}
	return n
}

// keyPrefix is the key of the ancestor that has count labels.
func keyPrefix(key []byte, count int) []byte {
	for i, c := range key {
		if count == 0 {
			return key[:i:i]
		}
		if c == 0 {
			count--
		}
	}
	return key
}

// dropEqual drops records that are there twice.
func (b *Builder) dropEqual() {
	b.records = slices.CompactFunc(b.records, func(x, y record) bool {
		if x.typ != y.typ || x.name != y.name || compareRdata(x.typ, b.rdata(&x), b.rdata(&y)) != 0 {
			return false
		}
		b.checkTTL(&x, &y)
		return true
	})
}

// checkTTL warns of an RRset with several TTLs.
func (b *Builder) checkTTL(x, y *record) {
	if x.ttl != y.ttl {
		b.report(y, Warning, "ttls-differ", fmt.Sprintf("%s records of TTL %d and %d: the lowest is used (RFC 2181 5.2)",
			dns.Type(y.typ), x.ttl, y.ttl))
	}
}

// from is the index of the first record whose owner is a key's or comes after it. Records are in canonical order.
func (b *Builder) from(key []byte) int {
	return sort.Search(len(b.records), func(i int) bool { return bytes.Compare(b.key(&b.records[i]), key) >= 0 })
}

// where returns the first record of an owner's RRset, be it a RRSIG, nil if there is none.
func (b *Builder) where(key []byte, typ uint16) *record {
	for i := b.from(key); i < len(b.records) && bytes.Equal(b.key(&b.records[i]), key); i++ {
		if b.records[i].set == typ {
			return &b.records[i]
		}
	}
	return nil
}

// below returns the records at and below an owner.
func (b *Builder) below(key []byte) []record {
	at := b.from(key)
	n := 0
	for at+n < len(b.records) && bytes.HasPrefix(b.key(&b.records[at+n]), key) {
		n++
	}
	return b.records[at : at+n]
}

// ofType returns an owner's records of a type.
func (b *Builder) ofType(key []byte, typ uint16) []record {
	all := b.records[b.from(key):]
	is := func(r record) bool { return r.typ == typ }
	if len(all) == 0 {
		return nil
	}
	all = all[:ownerLen(all)]
	at := max(0, slices.IndexFunc(all, is))
	n := 0
	for at+n < len(all) && is(all[at+n]) && bytes.Equal(b.key(&all[at+n]), key) {
		n++
	}
	return all[at : at+n]
}

// reportAll adds a finding about each of several records.
func (b *Builder) reportAll(records []record, severity Severity, rule, detail string) {
	for i := range records {
		b.report(&records[i], severity, rule, detail)
	}
}
