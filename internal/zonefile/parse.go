// Package zonefile reads zone text (RFC 1035 5, with $TTL of RFC 2308 4, generic records of RFC 3597 5, and BIND's
// $GENERATE) into an immutable zone, and writes a zone as canonical text. What the records mean is internal/zone's
// business, and the RDATA of all but the commonest types that of miekg/dns. cmd/meshctl and plugin/meshsync call it.
//
// It opens no file but those of $INCLUDE, and these only in the file system it is given. Whatever the text is, its use
// of memory is bounded by Options.
package zonefile

import (
	"cmp"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"path"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/zone"
)

// Options say how to read a zone. The zero value is a good one.
type Options struct {
	Origin     string // the zone's origin, and the first $ORIGIN; if empty, the SOA's owner, which must be absolute
	File       string // name in findings
	Include    fs.FS  // where $INCLUDE finds its files; if nil it is refused (os.Root.FS keeps links inside)
	MaxRecords int    // of the zone; default 50,000,000
	MaxEntry   int    // octets of a line and of an entry; default 1 MiB
	Size       int64  // octets of the text if they are known: memory for the records is then taken once
	Parallel   int    // processors to take; default all, and never more than are of use

	// Progress is called now and then with the number of records read so far, also while the zone is made of them. If it
	// returns false, Parse ends soon, without a zone and with an Error.
	Progress func(records int) bool

	chunk int // for tests: octets of a chunk
}

const (
	defaultMaxRecords = 50_000_000
	defaultMaxEntry   = 1 << 20
	maxIncludeDepth   = 7
	maxIncludes       = 1000    // files read for one zone
	maxIncluded       = 4 << 30 // octets after which no other file is read for it
)

// Parse reads a zone. It returns every finding, syntactical or about the zone, up to zone.MaxFindings, and no zone if one
// of them is an Error. After an error it goes on with the next line. A file that breaks off, in a parenthesis, a
// quotation or a line, is an error.
func Parse(r io.Reader, opts Options) (*zone.Zone, []zone.Finding) {
	opts.MaxRecords = cmp.Or(opts.MaxRecords, defaultMaxRecords)
	opts.MaxEntry = cmp.Or(opts.MaxEntry, defaultMaxEntry)
	opts.chunk = cmp.Or(opts.chunk, chunkSize)
	opts.Parallel = min(cmp.Or(opts.Parallel, runtime.GOMAXPROCS(0)), maxChunks)
	p := &parser{opts: opts, b: zone.NewBuilder()}
	f := file{name: opts.File}
	if opts.Origin != "" {
		f.origin = dns.Fqdn(opts.Origin)
	}
	p.b.StopIf(p.halted)
	p.readTop(r, &f)
	z, found := p.b.Build(opts.Origin)
	slices.SortStableFunc(found, func(a, b zone.Finding) int {
		if a.File != b.File || a.Line == 0 || b.Line == 0 {
			return 0
		}
		return cmp.Compare(a.Line, b.Line)
	})
	return z, found
}

// parser is the state of reading a zone from one or more files.
type parser struct {
	opts      Options
	b         *zone.Builder
	ttl       *uint32 // what $TTL said last
	lastTTL   *uint32 // the last record's TTL, for those that have none (RFC 1035 5.1)
	includes  int
	included  int64 // octets
	generated int
	errors    int
	stopped   bool
	reserved  bool
	ended     bool // by Progress

	alone bool   // this reads a chunk, see chunk.go
	soa   string // owner of its first SOA

	seenTTL   uint32 // what lastTTL points at
	rdata     [256]byte
	owner     [256]byte // packed in wire format
	packed    string    // the owner packed last
	packedLen int
}

// file is the state of reading one file.
type file struct {
	name   string
	depth  int
	origin string // fully qualified, or empty if not known yet
	owner  string // of the entry before
}

// readTop reads the zone's first file, in chunks if it is large.
func (p *parser) readTop(r io.Reader, f *file) {
	s := newScanner(r, p.opts.MaxEntry)
	defer s.close()
	if _, err := s.r.Peek(min(p.opts.chunk, bufferSize)); err != nil || p.opts.Parallel == 1 {
		p.read(s, nil, f) // it is short
		return
	}
	ahead := newChunks(s.r, p.opts.chunk, p.opts.Parallel, p.opts)
	defer ahead.close()
	text := newScanner(ahead, p.opts.MaxEntry)
	defer text.close()
	p.read(text, ahead, f)
}

// read reads a file to its end or to an error after which it makes no sense to go on. Ahead may have read it already.
func (p *parser) read(s *scanner, ahead *chunks, f *file) {
	for n := 1; !p.stopped; n++ {
		p.reserve(s.octets)
		if n%progressAfter == 0 && p.halted() {
			return
		}
		if ahead != nil && s.r.Buffered() == 0 {
			if k := ahead.take(); k != nil && p.takeOver(k, f, s) {
				ahead.done()
				n = progressAfter - 1
				continue
			}
		}
		e, err := s.next(p, f)
		if err == io.EOF {
			return
		}
		if err == nil && e != nil {
			err = p.entry(f, e)
		}
		if err != nil {
			p.fail(f, e.line, err)
		}
		if errors.Is(err, errFatal) {
			return
		}
	}
}

// halted calls Progress, and reports whether it ended reading.
func (p *parser) halted() bool {
	if !p.ended && p.opts.Progress != nil && !p.opts.Progress(p.b.Len()) {
		p.ended, p.stopped = true, true
	}
	return p.ended
}

// reserve makes room for all records once it is known how many there are to so many octets.
func (p *parser) reserve(octets int64) {
	if n := p.b.Len(); !p.reserved && n >= reserveAfter && octets < p.opts.Size {
		p.reserved = true
		p.b.Grow(min(p.opts.MaxRecords, int(1.02*float64(n)*float64(p.opts.Size)/float64(octets))))
	}
}

const (
	reserveAfter  = 1 << 14 // records
	progressAfter = 1 << 12 // entries
)

// fail reports an error, and stops reading when there are as many as are reported.
func (p *parser) fail(f *file, line int, err error) {
	p.b.Report(zone.Finding{File: f.name, Line: line, Rule: "syntax", Detail: err.Error(), Severity: zone.Error})
	if p.errors++; p.errors >= zone.MaxFindings {
		p.stopped = true
	}
}

func (p *parser) entry(f *file, e *entry) error {
	if t := e.tokens[0]; !e.inherited && !t.quoted && t.text[0] == '$' {
		if p.alone {
			return errAlone
		}
		return p.directive(f, e)
	}
	return p.record(f, e)
}

func (p *parser) directive(f *file, e *entry) error {
	name, args := strings.ToUpper(e.tokens[0].text), e.tokens[1:]
	want := map[string][2]int{"$ORIGIN": {1, 1}, "$TTL": {1, 1}, "$INCLUDE": {1, 2}, "$GENERATE": {3, 64}}
	n, known := want[name]
	if !known {
		return fmt.Errorf("%s is no directive", e.tokens[0].text)
	}
	if len(args) < n[0] || len(args) > n[1] {
		return fmt.Errorf("%s with %d arguments", name, len(args))
	}
	switch name {
	case "$ORIGIN":
		origin, err := absolute(args[0].text, f.origin)
		if err != nil {
			return err
		}
		f.origin = origin
	case "$TTL":
		ttl, ok := parseTTL(args[0].text)
		if !ok {
			return fmt.Errorf("%s is no TTL", args[0].text)
		}
		p.ttl = &ttl
	case "$INCLUDE":
		return p.include(f, args)
	case "$GENERATE":
		return p.generate(f, e)
	}
	return nil
}

// include reads another file, whose $ORIGIN and owners end with it (RFC 1035 5.1).
func (p *parser) include(f *file, args []token) error {
	sub := file{name: path.Clean(args[0].text), depth: f.depth + 1, origin: f.origin, owner: f.owner}
	if len(args) == 2 {
		origin, err := absolute(args[1].text, f.origin)
		if err != nil {
			return err
		}
		sub.origin = origin
	}
	if p.includes++; p.includes > maxIncludes || p.included > maxIncluded {
		p.stopped = true
		return fmt.Errorf("more than %d files, or files of more than %d octets, are included: %w", maxIncludes, maxIncluded, errFatal)
	}
	switch {
	case p.opts.Include == nil:
		return errors.New("$INCLUDE is not allowed here")
	case sub.depth > maxIncludeDepth:
		return fmt.Errorf("$INCLUDE goes deeper than %d files; does a file include itself?", maxIncludeDepth)
	}
	if !fs.ValidPath(sub.name) {
		return fmt.Errorf("%s is not below the directory that files are included from", args[0].text)
	}
	info, err := fs.Stat(p.opts.Include, sub.name)
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() { // to open a pipe would hang
		return fmt.Errorf("%s is no regular file", sub.name)
	}
	r, err := p.opts.Include.Open(sub.name)
	if err != nil {
		return err
	}
	defer r.Close()
	s := newScanner(r, p.opts.MaxEntry)
	defer s.close()
	p.read(s, nil, &sub)
	p.included += s.octets
	return nil
}

// record reads an entry: [owner] [TTL] [class] type RDATA, TTL and class in either order.
func (p *parser) record(f *file, e *entry) error {
	tokens := e.tokens
	if !e.inherited {
		owner, err := absolute(tokens[0].text, f.origin)
		if err != nil {
			f.owner = "" // rather no owner than the wrong one for the entries that inherit it
			return err
		}
		f.owner, tokens = owner, tokens[1:]
	}
	if f.owner == "" {
		return errors.New("no owner, and no good one before to inherit")
	}
	h := dns.RR_Header{Name: f.owner, Class: dns.ClassINET}
	rdata, ttl, err := parseHead(&h, tokens)
	if err != nil {
		return err
	}
	if len(rdata) == 0 && h.Rrtype != dns.TypeAPL { // which may have no items (RFC 3123 4)
		return fmt.Errorf("%s without RDATA", dns.Type(h.Rrtype))
	}
	switch {
	case h.Rrtype != dns.TypeSOA:
	case p.alone:
		p.soa = cmp.Or(p.soa, f.owner)
	default:
		f.origin = cmp.Or(f.origin, f.owner)
	}
	if wire, ok := p.plainRdata(&h, rdata, f.origin); ok {
		if owner, ok := p.packOwner(f.owner); ok {
			return p.addWire(f, e, &h, owner, ttl, wire)
		}
	}
	if wire, ok := genericRdata(rdata); ok && h.Class == dns.ClassINET && h.Rrtype != dns.TypeSOA {
		if owner, ok := p.packOwner(f.owner); ok {
			return p.addWire(f, e, &h, owner, ttl, wire)
		}
	}
	rr, err := parseRdata(h, rdata, f.origin)
	if err != nil {
		return err
	}
	if err := p.setTTL(rr, ttl); err != nil {
		return err
	}
	return p.add(f, e, rr)
}

// plainRdata reads the RDATA of the commonest types straight into wire format, good until the next call; a large zone is
// made of them. What it does not take is for parseRdata, which tells what is wrong with it if anything is.
func (p *parser) plainRdata(h *dns.RR_Header, tokens []token, origin string) (wire []byte, ok bool) {
	if len(tokens) != 1 || tokens[0].quoted || h.Class != dns.ClassINET {
		return nil, false
	}
	text := tokens[0].text
	switch h.Rrtype {
	case dns.TypeA, dns.TypeAAAA:
		a, err := netip.ParseAddr(text)
		if err != nil || a.Is4() != (h.Rrtype == dns.TypeA) || a.Zone() != "" {
			return nil, false
		}
		full := a.As16()
		if a.Is4() {
			return append(p.rdata[:0], full[12:]...), true
		}
		return append(p.rdata[:0], full[:]...), true
	case dns.TypeNS, dns.TypeCNAME:
		name, err := absolute(text, origin)
		if err != nil {
			return nil, false
		}
		n, err := dns.PackDomainName(name, p.rdata[:], 0, nil, false)
		return p.rdata[:n], err == nil
	}
	return nil, false
}

// genericRdata reads RDATA of any type in the form of RFC 3597 5: \#, the number of octets, and they in hexadecimal.
func genericRdata(tokens []token) (wire []byte, ok bool) {
	if len(tokens) < 2 || tokens[0].text != `\#` || tokens[0].quoted {
		return nil, false
	}
	var digits strings.Builder
	for _, t := range tokens[2:] {
		digits.WriteString(t.text)
	}
	n, err := strconv.ParseUint(tokens[1].text, 10, 16)
	wire, bad := hex.DecodeString(digits.String())
	return wire, err == nil && bad == nil && int(n) == len(wire)
}

// packOwner is an owner in wire format, good until the next call. Zone text repeats owners.
func (p *parser) packOwner(name string) ([]byte, bool) {
	if p.packedLen == 0 || name != p.packed {
		n, err := dns.PackDomainName(name, p.owner[:], 0, nil, false)
		if err != nil {
			p.packedLen = 0
			return nil, false
		}
		p.packed, p.packedLen = name, n
	}
	return p.owner[:p.packedLen], true
}

// addWire is setTTL and add of a record in wire format.
func (p *parser) addWire(f *file, e *entry, h *dns.RR_Header, owner []byte, explicit *uint32, rdata []byte) error {
	ttl := p.ttlOf(explicit)
	if ttl == nil {
		return errNoTTL
	}
	p.follow(*ttl)
	if err := p.room(); err != nil {
		return err
	}
	p.b.AddWire(owner, h.Rrtype, *ttl, rdata, f.name, e.line)
	return nil
}

// errAlone says that a chunk has more than can be read without what is before it.
var errAlone = errors.New("not without the lines before")

var errNoTTL = errors.New("no TTL, no $TTL and no record before to take it from")

// parseHead reads what precedes the RDATA, and returns the RDATA and the TTL if there is one.
func parseHead(h *dns.RR_Header, tokens []token) (rdata []token, ttl *uint32, err error) {
	haveClass := false
	for i, t := range tokens {
		if !t.quoted {
			word := strings.ToUpper(t.text)
			if typ, ok := typeOf(word); ok {
				h.Rrtype = typ
				return tokens[i+1:], ttl, nil
			}
			if class, ok := classOf(word); ok && !haveClass {
				h.Class, haveClass = class, true
				continue
			}
			if n, ok := parseTTL(t.text); ok && ttl == nil {
				ttl = &n
				continue
			}
		}
		return nil, nil, fmt.Errorf("%q is no type, and no TTL or class in its place", t.text)
	}
	return nil, nil, errors.New("an entry without a type")
}

// setTTL sets what the entry, $TTL or the record before says, in this order (RFC 2308 4, RFC 1035 5.1); a SOA that has
// none of these has its MINIMUM, as BIND does it.
func (p *parser) setTTL(rr dns.RR, explicit *uint32) error {
	ttl := p.ttlOf(explicit)
	if soa, ok := rr.(*dns.SOA); ok && ttl == nil && !p.alone {
		ttl = &soa.Minttl
	}
	if ttl == nil {
		return errNoTTL
	}
	rr.Header().Ttl = *ttl
	p.follow(*ttl)
	return nil
}

// ttlOf is the TTL of an entry that has that one or none, nil if there is none to take.
func (p *parser) ttlOf(explicit *uint32) *uint32 {
	if p.alone {
		return explicit
	}
	return cmp.Or(explicit, p.ttl, p.lastTTL)
}

// follow remembers the TTL of the entry that was read last.
func (p *parser) follow(ttl uint32) {
	p.seenTTL = ttl
	p.lastTTL = &p.seenTTL
}

func (p *parser) add(f *file, e *entry, rr dns.RR) error {
	if err := p.room(); err != nil {
		return err
	}
	p.b.Add(rr, f.name, e.line)
	return nil
}

// room refuses one record more than there may be.
func (p *parser) room() error {
	if p.b.Len() >= p.opts.MaxRecords {
		p.stopped = true
		return fmt.Errorf("more than %d records: %w", p.opts.MaxRecords, errFatal)
	}
	return nil
}

// parseRdata reads the RDATA of the commonest types, which is half the work for a large zone, and leaves the rest to the
// dns package.
func parseRdata(h dns.RR_Header, tokens []token, origin string) (dns.RR, error) {
	if len(tokens) == 1 && !tokens[0].quoted {
		text := tokens[0].text
		switch h.Rrtype {
		case dns.TypeA:
			if a, err := netip.ParseAddr(text); err == nil && a.Is4() {
				return &dns.A{Hdr: h, A: a.AsSlice()}, nil
			}
		case dns.TypeAAAA:
			if a, err := netip.ParseAddr(text); err == nil && a.Is6() && a.Zone() == "" {
				return &dns.AAAA{Hdr: h, AAAA: a.AsSlice()}, nil
			}
		case dns.TypeNS:
			if name, err := absolute(text, origin); err == nil {
				return &dns.NS{Hdr: h, Ns: name}, nil
			}
		case dns.TypeCNAME:
			if name, err := absolute(text, origin); err == nil {
				return &dns.CNAME{Hdr: h, Target: name}, nil
			}
		}
	}
	if len(tokens) > 0 && tokens[0].text != `\#` {
		if err := checkFields(h.Rrtype, tokens); err != nil {
			return nil, err
		}
	}
	zp := dns.NewZoneParser(strings.NewReader(join(". 0 IN "+dns.Type(h.Rrtype).String(), tokens)), origin, "")
	rr, ok := zp.Next()
	if err := zp.Err(); err != nil {
		return nil, plain(err)
	}
	if !ok {
		return nil, errors.New("the RDATA is not complete")
	}
	*rr.Header() = h
	return rr, nil
}

// fields are how many there are in the RDATA of types of which the dns package takes fewer or more, for something else.
var fields = map[uint16][2]int{dns.TypeSOA: {7, 7}, dns.TypeHINFO: {2, 2}, dns.TypeISDN: {1, 2}, dns.TypeNAPTR: {6, 6}}

// checkFields refuses RDATA that the dns package would misread, and puts quotes where it wants them and nobody else does.
func checkFields(typ uint16, tokens []token) error {
	if n, ok := fields[typ]; ok && (len(tokens) < n[0] || len(tokens) > n[1]) {
		return fmt.Errorf("a %s record has %d fields, not %d", dns.Type(typ), n[1], len(tokens))
	}
	switch {
	case typ == dns.TypeSOA:
		for _, t := range tokens[3:] {
			if _, ok := parseTTL(t.text); !ok {
				return fmt.Errorf("%s is no time in a SOA record (RFC 1035 3.3.13)", t.text)
			}
		}
	case typ == dns.TypeNAPTR:
		for i := range tokens[2:5] {
			tokens[2+i].quoted, tokens[2+i].glued = true, false
		}
	case isStrings(typ) && slices.ContainsFunc(tokens, func(t token) bool { return octets(t.text) > 255 }):
		return errors.New("a string of more than 255 octets (RFC 1035 3.3)")
	}
	return nil
}

// join writes tokens as a line for the dns package.
func join(head string, tokens []token) string {
	var b strings.Builder
	b.WriteString(head)
	for _, t := range tokens {
		if !t.glued {
			b.WriteByte(' ')
		}
		if t.quoted {
			b.WriteString(`"` + t.text + `"`)
		} else {
			b.WriteString(t.text)
		}
	}
	b.WriteByte('\n')
	return b.String()
}

// plain takes the dns package's prefix and its position, which is that of the line made by join, off an error.
func plain(err error) error {
	if err == nil {
		return nil
	}
	text := strings.TrimPrefix(err.Error(), "dns: ")
	if i := strings.LastIndex(text, " at line: "); i >= 0 {
		text = text[:i]
	}
	return errors.New(text)
}

// absolute completes a name as written (RFC 1035 5.1) with the origin.
func absolute(text, origin string) (string, error) {
	if text == "@" {
		if origin == "" {
			return "", errors.New("@ before the origin is known: give $ORIGIN")
		}
		return origin, nil
	}
	if !dns.IsFqdn(text) {
		switch origin {
		case "":
			return "", fmt.Errorf("the relative name %s before the origin is known: give $ORIGIN, or the SOA an absolute owner", text)
		case ".":
			text += "."
		default:
			text += "." + origin
		}
	}
	if _, ok := dns.IsDomainName(text); !ok || !validEscapes(text) || text != "." && octets(text)+1 > 255 {
		return "", fmt.Errorf("%s is no domain name (RFC 1035 2.3.4)", text)
	}
	return text, nil
}

// validEscapes reports whether every backslash and digit begins an octet's three decimal digits (RFC 1035 5.1).
func validEscapes(text string) bool {
	for i := strings.IndexByte(text, '\\'); i >= 0 && i < len(text); i++ {
		if text[i] != '\\' {
			continue
		}
		if i++; i < len(text) && '0' <= text[i] && text[i] <= '9' {
			if _, err := strconv.ParseUint(text[i:min(i+3, len(text))], 10, 8); err != nil || i+3 > len(text) {
				return false
			}
		}
	}
	return true
}

// octets counts those of a text whose escapes are valid. The dots of a name stand for the length of a label each.
func octets(text string) int {
	n := 0
	for i := 0; i < len(text); i++ {
		if text[i] == '\\' {
			if i++; i < len(text) && '0' <= text[i] && text[i] <= '9' {
				i += 2
			}
		}
		n++
	}
	return n
}

// isStrings tells the types whose RDATA are character-strings, which the dns package cuts up if they are too long.
func isStrings(typ uint16) bool {
	switch typ {
	case dns.TypeTXT, dns.TypeSPF, dns.TypeAVC, dns.TypeNINFO, dns.TypeRESINFO, dns.TypeHINFO, dns.TypeISDN, dns.TypeUINFO:
		return true
	}
	return false
}

// parseTTL reads seconds, or BIND's 1w2d3h4m5s.
func parseTTL(text string) (uint32, bool) {
	if text == "" || text[0] < '0' || text[0] > '9' {
		return 0, false
	}
	var total, n uint64
	units := false
	for i := 0; i < len(text); i++ {
		unit := uint64(0)
		switch c := text[i] | 0x20; {
		case '0' <= text[i] && text[i] <= '9':
			n = n*10 + uint64(text[i]-'0')
		case c == 's':
			unit = 1
		case c == 'm':
			unit = 60
		case c == 'h':
			unit = 3600
		case c == 'd':
			unit = 86400
		case c == 'w':
			unit = 604800
		default:
			return 0, false
		}
		if unit > 0 {
			total, n, units = total+n*unit, 0, true
		}
		if total+n > 1<<32-1 {
			return 0, false
		}
	}
	if units && text[len(text)-1] <= '9' {
		return 0, false // of what, after units?
	}
	return uint32(total + n), true
}

// typeOf reads a type's mnemonic in upper case, or its generic form (RFC 3597 5).
func typeOf(word string) (uint16, bool) {
	if typ, ok := dns.StringToType[word]; ok {
		return typ, true
	}
	return generic(word, "TYPE")
}

// classOf does the same for classes.
func classOf(word string) (uint16, bool) {
	if class, ok := dns.StringToClass[word]; ok {
		return class, true
	}
	return generic(word, "CLASS")
}

func generic(word, prefix string) (uint16, bool) {
	digits, ok := strings.CutPrefix(word, prefix)
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseUint(digits, 10, 16)
	return uint16(n), err == nil
}
