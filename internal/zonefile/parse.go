// Package zonefile reads zone text (RFC 1035 5, with $TTL of RFC 2308 4, generic records of RFC 3597 5, and BIND's
// $GENERATE) into an immutable zone, and writes a zone as canonical text. What the records mean is internal/zone's
// business, and the forms of RDATA that of internal/rdata. cmd/meshctl and plugin/meshsync call it.
//
// Parse opens no file but those of $INCLUDE, and these only in the file system it is given. Whatever the text is, its use
// of memory is bounded by Options.
package zonefile

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/rdata"
	"github.com/coredns-anycast/coredns-anycast/internal/zone"
)

// Options say how to read a zone. The zero value is a good one.
type Options struct {
	Origin     string // the zone's origin, and the first $ORIGIN; if empty, the SOA's owner, which must be absolute
	File       string // name in findings
	Name       string // the file's name, from which the origin is taken if it is not known where it is needed, see OriginOfName; empty: it is not
	Include    fs.FS  // where $INCLUDE finds its files; if nil it is refused (os.Root.FS keeps links inside)
	IncludeDir string // absolute path of Include's root, below which absolute paths are found too; empty: none are
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
// of them is an Error. After an error it goes on with the next line. A file that breaks off in a parenthesis or a quotation is an
// error, and in a line a warning.
func Parse(r io.Reader, opts Options) (*zone.Zone, []zone.Finding) {
	opts.MaxRecords = cmp.Or(opts.MaxRecords, defaultMaxRecords)
	opts.MaxEntry = cmp.Or(opts.MaxEntry, defaultMaxEntry)
	opts.chunk = cmp.Or(opts.chunk, chunkSize)
	opts.Parallel = min(cmp.Or(opts.Parallel, runtime.GOMAXPROCS(0)), maxChunks)
	p := &parser{opts: opts, b: zone.NewBuilder()}
	p.guess, _ = OriginOfName(opts.Name)
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

// ReadFile is Parse of a file, whose name may give the origin. $INCLUDE reaches the files beside it and below. An error says that
// the file cannot be read.
func ReadFile(file string, opts Options) (*zone.Zone, []zone.Finding, error) {
	dir := filepath.Dir(file)
	beside, err := os.OpenRoot(dir)
	if err != nil {
		return nil, nil, err
	}
	defer beside.Close()
	f, err := os.Open(file)
	if err != nil {
		return nil, nil, errors.Unwrap(err)
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.IsDir() {
		return nil, nil, errors.New("it is a directory: name the zone files in it")
	}
	opts.File, opts.Name, opts.Include = cmp.Or(opts.File, file), filepath.Base(file), beside.FS()
	if opts.IncludeDir, err = filepath.Abs(dir); err != nil {
		return nil, nil, err
	}
	z, found := Parse(f, opts)
	return z, found, nil
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
	ended     bool   // by Progress
	saidTTL   bool   // that a record has no TTL
	guess     string // origin by Options.Name, until it is taken

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
	s.skipMark()
	if s.wide() {
		p.b.BadSOA()
		p.fail(f, 1, fmt.Errorf("the file is UTF-16, in which some editors save: save it as UTF-8 or ASCII: %w", errFatal))
		return
	}
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
			if s.torn() {
				p.warn(f, s.line, "no-final-newline", "the last line does not end in a newline: is the file whole?")
			}
			err = p.entry(f, e)
		}
		if errors.Is(err, rdata.ErrNoOrigin) { // once: every relative name has the same error
			err = fmt.Errorf("%w, here and in what follows: give it as NAME=FILE or in $ORIGIN, or name the file db.NAME or NAME.zone: %w", err, errFatal)
			p.stopped = true
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

func (p *parser) warn(f *file, line int, rule, detail string) {
	p.b.Report(zone.Finding{File: f.name, Line: line, Rule: rule, Detail: detail, Severity: zone.Warning})
}

// entry takes a directive or a record. Where the origin is needed and not known, it is taken from the file's name.
func (p *parser) entry(f *file, e *entry) error {
	owner := f.owner
	err := p.take(f, e)
	if !errors.Is(err, rdata.ErrNoOrigin) || p.guess == "" {
		return err
	}
	f.origin, f.owner = p.guess, owner
	p.warn(f, e.line, "origin-from-name", fmt.Sprintf("the origin %s is taken from the file's name, since nothing else gives it", p.guess))
	p.guess = ""
	return p.take(f, e)
}

func (p *parser) take(f *file, e *entry) error {
	if t := e.tokens[0]; !e.inherited && !t.Quoted && t.Text[0] == '$' {
		if p.alone {
			return errAlone
		}
		return p.directive(f, e)
	}
	return p.record(f, e)
}

func (p *parser) directive(f *file, e *entry) error {
	name, args := strings.ToUpper(e.tokens[0].Text), e.tokens[1:]
	want := map[string][2]int{"$ORIGIN": {1, 1}, "$TTL": {1, 1}, "$INCLUDE": {1, 2}, "$GENERATE": {3, 64}}
	n, known := want[name]
	if !known {
		return fmt.Errorf("%s is no directive", e.tokens[0].Text)
	}
	if len(args) < n[0] || len(args) > n[1] {
		return fmt.Errorf("%s with %d arguments", name, len(args))
	}
	switch name {
	case "$ORIGIN":
		origin, err := absolute(args[0].Text, f.origin)
		if err != nil {
			return err
		}
		f.origin = origin
	case "$TTL":
		ttl, ok := rdata.ParseTTL(args[0].Text)
		if !ok {
			return fmt.Errorf("%s is no TTL", args[0].Text)
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
	sub := file{name: path.Clean(args[0].Text), depth: f.depth + 1, origin: f.origin, owner: f.owner}
	if len(args) == 2 {
		origin, err := absolute(args[1].Text, f.origin)
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
	if path.IsAbs(sub.name) && p.opts.IncludeDir != "" {
		sub.name = strings.TrimPrefix(sub.name, strings.TrimSuffix(path.Clean(p.opts.IncludeDir), "/")+"/")
	}
	if !fs.ValidPath(sub.name) {
		return fmt.Errorf("$INCLUDE %s is not allowed: only files below %s may be included", args[0].Text, cmp.Or(p.opts.IncludeDir, "the zone file's own directory"))
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
	s.skipMark()
	p.read(s, nil, &sub)
	p.included += s.octets
	return nil
}

// record reads an entry: [owner] [TTL] [class] type RDATA, TTL and class in either order.
func (p *parser) record(f *file, e *entry) error {
	tokens := e.tokens
	if !e.inherited {
		owner, err := absolute(tokens[0].Text, f.origin)
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
	words, ttl, err := parseHead(&h, tokens)
	if err != nil {
		return err
	}
	switch {
	case h.Rrtype != dns.TypeSOA:
	case p.alone:
		p.soa = cmp.Or(p.soa, f.owner)
	default:
		f.origin = cmp.Or(f.origin, f.owner)
	}
	if h.Class != dns.ClassINET {
		p.b.Report(zone.Finding{File: f.name, Line: e.line, Owner: f.owner, Rule: "class", Severity: zone.Error,
			Detail: fmt.Sprintf("class %s; only IN is served", dns.Class(h.Class))})
		return nil
	}
	wire, err := rdata.Parse(h.Rrtype, words, f.origin)
	if err != nil {
		if h.Rrtype == dns.TypeSOA {
			p.b.BadSOA()
		}
		return err
	}
	owner, err := p.packOwner(f.owner)
	if err != nil {
		return err
	}
	seconds, err := p.ttlOf(h.Rrtype, wire, ttl)
	if err != nil {
		return err
	}
	if ttl == nil && p.ttl == nil && !p.saidTTL {
		p.saidTTL = true
		p.warn(f, e.line, "no-ttl", fmt.Sprintf("no TTL, and no $TTL before: %d is taken, from the SOA's MINIMUM or the record before (RFC 2308 4)", seconds))
	}
	p.follow(seconds)
	if err := p.room(); err != nil {
		return err
	}
	p.b.AddWire(owner, h.Rrtype, seconds, wire, f.name, e.line)
	return nil
}

// packOwner is an owner in wire format, good until the next call. Zone text repeats owners.
func (p *parser) packOwner(name string) ([]byte, error) {
	if p.packedLen == 0 || name != p.packed {
		p.packedLen = 0
		owner, err := rdata.AppendName(p.owner[:0], name, ".")
		if err != nil {
			return nil, err
		}
		p.packed, p.packedLen = name, len(owner)
	}
	return p.owner[:p.packedLen], nil
}

// errAlone says that a chunk has more than can be read without what is before it.
var errAlone = errors.New("not without the lines before")

var errNoTTL = errors.New("no TTL, no $TTL and no record before to take it from")

// parseHead reads what precedes the RDATA, and returns the RDATA and the TTL if there is one.
func parseHead(h *dns.RR_Header, tokens []token) (words []token, ttl *uint32, err error) {
	haveClass := false
	for i, t := range tokens {
		if !t.Quoted {
			word := strings.ToUpper(t.Text)
			if typ, ok := rdata.TypeOf(word); ok {
				h.Rrtype = typ
				return tokens[i+1:], ttl, nil
			}
			if class, ok := classOf(word); ok && !haveClass {
				h.Class, haveClass = class, true
				continue
			}
			if n, ok := rdata.ParseTTL(t.Text); ok && ttl == nil {
				ttl = &n
				continue
			}
		}
		return nil, nil, fmt.Errorf("%q is no type, and no TTL or class in its place", t.Text)
	}
	return nil, nil, errors.New("an entry without a type")
}

// ttlOf is what the entry, $TTL or the record before says, in this order (RFC 2308 4, RFC 1035 5.1); a SOA that has none of
// these has its MINIMUM, as BIND does it.
func (p *parser) ttlOf(typ uint16, wire []byte, explicit *uint32) (uint32, error) {
	if p.alone && explicit == nil {
		return 0, errAlone
	}
	ttl := cmp.Or(explicit, p.ttl, p.lastTTL)
	switch {
	case ttl != nil:
		return *ttl, nil
	case typ == dns.TypeSOA && len(wire) >= 20:
		return binary.BigEndian.Uint32(wire[len(wire)-4:]), nil
	}
	return 0, errNoTTL
}

// follow remembers the TTL of the entry that was read last.
func (p *parser) follow(ttl uint32) {
	p.seenTTL = ttl
	p.lastTTL = &p.seenTTL
}

// room refuses one record more than there may be.
func (p *parser) room() error {
	if p.b.Len() >= p.opts.MaxRecords {
		p.stopped = true
		return fmt.Errorf("more than %d records: %w", p.opts.MaxRecords, errFatal)
	}
	return nil
}

// OriginOfName is the origin that a file's name gives: db.NAME and NAME.zone give NAME, as does NAME itself. False says that
// this is no domain name of letters, digits, hyphens and underscores.
func OriginOfName(file string) (origin string, ok bool) {
	name := strings.ToLower(path.Base(file))
	if rest, found := strings.CutPrefix(name, "db."); found {
		name = rest
	} else {
		name = strings.TrimSuffix(name, ".zone")
	}
	name = strings.TrimSuffix(name, ".")
	if name == "" || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-_.") != "" {
		return "", false
	}
	if _, err := rdata.AppendName(nil, name+".", ""); err != nil {
		return "", false
	}
	return name + ".", true
}

// absolute completes a name as written (RFC 1035 5.1) with the origin.
func absolute(text, origin string) (string, error) {
	var room [256]byte
	if _, err := rdata.AppendName(room[:0], text, origin); err != nil {
		return "", err
	}
	switch {
	case text == "@":
		return origin, nil
	case dns.IsFqdn(text):
		return text, nil
	case origin == ".":
		return text + ".", nil
	}
	return text + "." + origin, nil
}

// classOf reads a class's mnemonic in upper case, or its generic form (RFC 3597 5).
func classOf(word string) (uint16, bool) {
	if class, ok := dns.StringToClass[word]; ok {
		return class, true
	}
	digits, ok := strings.CutPrefix(word, "CLASS")
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseUint(digits, 10, 16)
	return uint16(n), err == nil
}
