package zonefile

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"io"

	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/rdata"
	"github.com/coredns-anycast/coredns-anycast/internal/zone"
)

// Since reads a text as Write writes it, and returns what turns a zone into the one that the text is of, if there is one: by the
// lines that the text has and Write would not write of the zone, and those that it lacks. For zone.Apply; both take a fraction of
// the time and memory of Parse. It returns nil, and has not read to the end, if the text has anything but a record in a line,
// if more than limit octets differ, or if progress, which is told how many records were read so far, says so.
func Since(old *zone.Zone, text io.Reader, limit int, progress func(records int) bool) *zone.Delta {
	s := &since{old: old, lines: newScanner(text, defaultMaxEntry), limit: limit, progress: progress,
		delta: zone.Delta{From: old.Serial(), To: old.Serial()}}
	defer s.lines.close()
	var writer plainWriter
	for r := range old.WireRecords() {
		line, ok := writer.line(&r)
		if !ok {
			line = append(append(writer.buf[:0], Line(r.RR())...), '\n')
			writer.buf = line
		}
		if !s.place(&r, line) {
			return nil
		}
	}
	for s.next() {
		s.add()
	}
	if s.failed {
		return nil
	}
	return &s.delta
}

// since compares what a zone has with the lines of a text.
type since struct {
	old      *zone.Zone
	lines    *scanner
	split    scanner // takes lines apart
	limit    int
	progress func(records int) bool
	delta    zone.Delta

	line    []byte // of the text, that is to be compared next; nil if the next one is to be read
	record  zone.WireRecord
	read    int
	ended   bool
	failed  bool
	oldKey  []byte
	lineKey []byte
}

// place finds the place of a record of the zone in the text. It returns false if there is no going on.
func (s *since) place(r *zone.WireRecord, line []byte) bool {
	for {
		if !s.next() {
			s.remove(r)
			return !s.failed
		}
		if bytes.Equal(s.line, line) {
			s.line = nil
			return true
		}
		if s.record.Owner == nil && !s.parse() {
			return false
		}
		switch c := s.compare(r); {
		case c > 0:
			s.remove(r)
			return !s.failed
		case c == 0:
			s.remove(r)
			s.add()
			return !s.failed
		}
		s.add()
	}
}

// next reads a line if the last one is done with. It returns false at the end, and if there is no going on.
func (s *since) next() bool {
	if s.line != nil || s.ended || s.failed {
		return s.line != nil && !s.failed
	}
	line, err := s.lines.readLine()
	if s.ended = err == io.EOF; err != nil {
		s.failed = !s.ended
		return false
	}
	if s.read++; s.read%(1<<12) == 0 && !s.progress(s.read) || line[len(line)-1] != '\n' {
		s.failed = true
		return false
	}
	s.line, s.record = line, zone.WireRecord{}
	return true
}

// parse reads the record of the line. It must have nothing that depends on lines before.
func (s *since) parse() bool {
	s.failed = true // until it is read
	e := &s.split.entry
	*e = entry{tokens: e.tokens[:0]}
	if s.split.depth = 0; bytes.IndexByte([]byte(" \t$\n"), s.line[0]) >= 0 || bytes.IndexByte(s.line, 0) >= 0 ||
		s.split.split(string(s.line)) != nil || s.split.depth > 0 || len(e.tokens) < 2 {
		return false
	}
	name, err := absolute(e.tokens[0].Text, s.old.Origin())
	if err != nil {
		return false
	}
	h := dns.RR_Header{Class: dns.ClassINET}
	words, ttl, err := parseHead(&h, e.tokens[1:])
	if err != nil || ttl == nil || h.Class != dns.ClassINET {
		return false
	}
	data, err := rdata.Parse(h.Rrtype, words, s.old.Origin())
	if err != nil {
		return false
	}
	owner, err := rdata.AppendName(nil, name, ".")
	if err != nil {
		return false
	}
	s.record = zone.WireRecord{Owner: owner, Type: h.Rrtype, TTL: *ttl, Data: data}
	s.failed = false
	return true
}

// compare is where the line's record has its place in the zone: before, at or after that of a record.
func (s *since) compare(r *zone.WireRecord) int {
	apex := func(r *zone.WireRecord) int {
		if r.Type == dns.TypeSOA && zone.NameString(r.Owner) == s.old.Origin() {
			return 0 // it comes first
		}
		return 1
	}
	if c := cmp.Compare(apex(&s.record), apex(r)); c != 0 {
		return c
	}
	s.lineKey, s.oldKey = zone.AppendKey(s.lineKey[:0], s.record.Owner), zone.AppendKey(s.oldKey[:0], r.Owner)
	return cmp.Or(bytes.Compare(s.lineKey, s.oldKey), cmp.Compare(s.record.Type, r.Type),
		bytes.Compare(zone.Canonical(r.Type, s.record.Data), zone.Canonical(r.Type, r.Data)))
}

// add lets the line's record be one that comes.
func (s *since) add() {
	if s.record.Owner == nil && !s.parse() {
		return
	}
	if s.record.Type == dns.TypeSOA && len(s.record.Data) >= 20 {
		s.delta.To = binary.BigEndian.Uint32(s.record.Data[len(s.record.Data)-20:])
	}
	s.delta.Added = s.record.AppendTo(s.delta.Added)
	s.line = nil
	s.failed = s.delta.Size() > s.limit
}

// remove lets a record of the zone be one that goes.
func (s *since) remove(r *zone.WireRecord) {
	s.delta.Removed = r.AppendTo(s.delta.Removed)
	s.failed = s.failed || s.delta.Size() > s.limit
}
