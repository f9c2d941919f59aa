package zonefile

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"

	"github.com/coredns-anycast/coredns-anycast/internal/rdata"
)

// An entry is what RFC 1035 5.1 calls so: a record or a directive, on one line or, by parentheses, on several.
type entry struct {
	line      int  // where it begins
	inherited bool // it begins with a blank: the owner is the one of the entry before
	tokens    []token
}

// A token is a word of an entry, its escapes left as they are.
type token = rdata.Token

// scanner splits text into entries. After an error within an entry it goes on with the next line.
type scanner struct {
	r      *bufio.Reader
	line   int   // of the line read last
	octets int64 // read so far
	limit  int   // octets of a line, and of all lines of an entry
	depth  int   // open parentheses
	entry  entry
	long   []byte // a line that is longer than r's buffer
	done   error  // io.EOF or what ended reading; no more lines
}

// errFatal is wrapped by errors after which nothing of the file can be made sense of.
var errFatal = errors.New("reading stops here")

// buffers are used again, since a release may have very many small zones.
var buffers = sync.Pool{New: func() any { return bufio.NewReaderSize(nil, bufferSize) }}

const bufferSize = 1 << 16

// newScanner makes a scanner, for which close must be called.
func newScanner(r io.Reader, limit int) *scanner {
	s := &scanner{r: buffers.Get().(*bufio.Reader), limit: limit}
	s.r.Reset(r)
	return s
}

// skipMark skips the byte order mark that some editors put at the beginning of a file of UTF-8.
func (s *scanner) skipMark() {
	if first, _ := s.r.Peek(len(mark)); string(first) == mark {
		s.r.Discard(len(mark))
	}
}

const mark = "\uFEFF"

// wide reports whether a text begins with the byte order mark of UTF-16, in either order.
func (s *scanner) wide() bool {
	first, _ := s.r.Peek(2)
	return string(first) == "\xFF\xFE" || string(first) == "\xFE\xFF"
}

func (s *scanner) close() {
	s.r.Reset(nil)
	buffers.Put(s.r)
}

// next returns the next entry that is not empty, or nil if p took a plain line instead. The error is io.EOF at the end; any
// other one that is no errFatal is about the entry at e.line, and scanning can go on. The entry is good until the next call.
func (s *scanner) next(p *parser, f *file) (e *entry, err error) {
	e = &s.entry
	*e = entry{tokens: e.tokens[:0]}
	s.depth = 0
	size := 0
	for s.depth > 0 || len(e.tokens) == 0 {
		text, err := s.readLine()
		if err == io.EOF && s.depth > 0 {
			return e, fmt.Errorf("a parenthesis is not closed before the end of the file, which may be half-written: %w", errFatal)
		}
		if err != nil {
			e.line = max(e.line, s.line)
			return e, err
		}
		if len(e.tokens) == 0 && s.depth == 0 { // the entry begins here, if it does not with a comment
			size = 0
			if p.plainLine(f, text, s.line) {
				return nil, nil
			}
			e.line = s.line
			e.inherited = text[0] == ' ' || text[0] == '\t'
		}
		if bytes.IndexByte(text, 0) >= 0 {
			e.line = s.line
			return e, errors.New("a NUL octet: is this a text file?")
		}
		if size += len(text); size > s.limit {
			return e, fmt.Errorf("an entry of more than %d octets: %w", s.limit, errFatal)
		}
		if err := s.split(string(text)); err != nil {
			e.line = s.line
			return e, err
		}
	}
	return e, nil
}

// torn reports whether the entry read last is on a last line that does not end in a newline.
func (s *scanner) torn() bool { return s.done == io.EOF }

// readLine returns a line with its newline, which only the last one of a file may lack; s.done then says so.
func (s *scanner) readLine() ([]byte, error) {
	if s.done != nil {
		return nil, s.done
	}
	s.line++
	text, err := s.r.ReadSlice('\n')
	if err == bufio.ErrBufferFull {
		s.long = s.long[:0]
		for err == bufio.ErrBufferFull && len(s.long) <= s.limit {
			s.long = append(s.long, text...)
			text, err = s.r.ReadSlice('\n')
		}
		s.long = append(s.long, text...)
		text = s.long
	}
	switch {
	case len(text) > s.limit:
		s.done = fmt.Errorf("a line of more than %d octets: %w", s.limit, errFatal)
		return nil, s.done
	case err == io.EOF && len(text) > 0:
		s.done = io.EOF
	case err == io.EOF:
		s.line--
		s.done = io.EOF
		return nil, io.EOF
	case err != nil:
		s.done = fmt.Errorf("%w: %w", err, errFatal)
		return nil, s.done
	}
	s.octets += int64(len(text))
	return text, nil
}

// split appends the tokens of a line to the entry.
func (s *scanner) split(text string) error {
	for i := 0; i < len(text); {
		switch text[i] {
		case ' ', '\t', '\r', '\n':
			i++
		case ';':
			return nil
		case '(':
			s.depth++
			i++
		case ')':
			if s.depth--; s.depth < 0 {
				return errors.New("a closing parenthesis without an opening one")
			}
			i++
		case '"':
			end := tokenEnd(text, i+1, `"`)
			if end < 0 || end == len(text) || text[end] != '"' {
				return errors.New("a quotation is not closed before the end of the line")
			}
			glued := i > 0 && !strings.ContainsRune(" \t()\"", rune(text[i-1]))
			s.entry.tokens = append(s.entry.tokens, token{Text: text[i+1 : end], Quoted: true, Glued: glued})
			i = end + 1
		default:
			end := tokenEnd(text, i, " \t\r;()\"")
			if end < 0 {
				return errors.New("a backslash with nothing to escape at the end of the line")
			}
			s.entry.tokens = append(s.entry.tokens, token{Text: text[i:end]})
			i = end
		}
	}
	return nil
}

// tokenEnd is the offset of the first octet from i on that is one of stops, or a newline, and not escaped; -1 if the line
// ends in the middle of an escape.
func tokenEnd(text string, i int, stops string) int {
	for ; i < len(text); i++ {
		c := text[i]
		switch {
		case plainOctets[c]:
		case c == '\n' || strings.IndexByte(stops, c) >= 0:
			return i
		case c == '\\':
			if i++; i == len(text) || text[i] == '\n' {
				return -1
			}
		}
	}
	return i
}
