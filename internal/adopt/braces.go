package adopt

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"github.com/coredns-anycast/coredns-anycast/internal/fields"
)

// statement is one of named.conf: words and blocks, up to a semicolon.
type statement struct {
	file  string
	line  int
	parts []part
}

// part is a word of a statement, or a block of statements.
type part struct {
	word  string
	block []*statement // if isBlock
	is    bool         // a block
}

// word is the i-th part, if it is a word.
func (s *statement) word(i int) string {
	if i < len(s.parts) && !s.parts[i].is {
		return s.parts[i].word
	}
	return ""
}

// block are the statements of the first block.
func (s *statement) block() []*statement {
	for _, p := range s.parts {
		if p.is {
			return p.block
		}
	}
	return nil
}

// find is the first statement of a block with this name.
func find(block []*statement, name string) *statement {
	for _, s := range block {
		if strings.EqualFold(s.word(0), name) {
			return s
		}
	}
	return nil
}

// key reads key NAME { algorithm A; secret B; }.
func (s *statement) key() (Key, error) {
	algorithm, secret := find(s.block(), "algorithm"), find(s.block(), "secret")
	if algorithm == nil {
		algorithm = &statement{}
	}
	if secret == nil {
		return Key{}, fmt.Errorf("key %s has no secret", s.word(1))
	}
	return keyOf(s.word(1), algorithm.word(1), secret.word(1))
}

const (
	maxDepth      = 16      // of blocks
	maxStatements = 500_000 // of a file and what it includes
)

// braces reads named.conf's syntax, as of BIND 9: words, quoted strings, blocks and three kinds of comment.
type braces struct {
	include func(dir, pattern string) (files []string, err error) // nil: nothing is included
	dir     string                                                // of options, as far as it is read
	opened  []string                                              // files that are being read
	count   int
	errs    fields.Errors
}

// parseBraces reads a file. include finds what an include statement names, where dir is the directory of options. The error is of type fields.Errors.
func parseBraces(file string, data []byte, include func(dir, pattern string) ([]string, error)) ([]*statement, error) {
	p := &braces{include: include}
	all := p.file(file, data)
	if len(p.errs) > 0 {
		return nil, p.errs
	}
	return all, nil
}

func (p *braces) fail(file string, line int, format string, args ...any) {
	p.errs = append(p.errs, fmt.Sprintf("%s:%d: ", file, line)+fmt.Sprintf(format, args...))
}

// file reads one file.
func (p *braces) file(name string, data []byte) []*statement {
	p.opened = append(p.opened, name)
	defer func() { p.opened = p.opened[:len(p.opened)-1] }()
	s := &bracesScanner{file: name, data: data, line: 1}
	all := p.statements(s, 0)
	if s.err != "" {
		p.fail(name, s.line, "%s", s.err)
	}
	return all
}

// statements reads up to the end of a block, or of the file.
func (p *braces) statements(s *bracesScanner, depth int) (all []*statement) {
	var now *statement
	for {
		word, kind := s.next()
		if now == nil && (kind == aWord || kind == anOpening) {
			now = &statement{file: s.file, line: s.line}
			if p.count++; p.count > maxStatements {
				s.err = fmt.Sprintf("more than %d statements", maxStatements)
				return all
			}
		}
		switch kind {
		case aWord:
			now.parts = append(now.parts, part{word: word})
		case anOpening:
			if depth == maxDepth {
				s.err = fmt.Sprintf("blocks in blocks, more than %d deep", maxDepth)
				return all
			}
			now.parts = append(now.parts, part{block: p.statements(s, depth+1), is: true})
			if s.err != "" {
				return all
			}
		case aSemicolon:
			if now != nil {
				all = append(all, p.included(now)...)
				if depth == 1 && strings.EqualFold(now.word(0), "directory") { // which options alone have
					p.dir = now.word(1)
				}
			}
			now = nil
		default: // the end of the block, or of the file
			switch {
			case s.err != "":
			case now != nil:
				s.err = "a statement without its semicolon"
			case kind == aClosing && depth == 0:
				s.err = "a } without its {"
			case kind == theEnd && depth > 0:
				s.err = "a { without its }"
			}
			return all
		}
	}
}

// included is a statement, or what it includes.
func (p *braces) included(s *statement) []*statement {
	if p.include == nil || !strings.EqualFold(s.word(0), "include") || len(s.parts) != 2 {
		return []*statement{s}
	}
	files, err := p.include(p.dir, s.word(1))
	if err != nil {
		p.fail(s.file, s.line, "include: %v", err)
	}
	var all []*statement
	for _, name := range files {
		if len(p.opened) > maxDepth || slices.Contains(p.opened, name) {
			p.fail(s.file, s.line, "include: %s includes itself, or files are nested more than %d deep", name, maxDepth)
			continue
		}
		data, err := fields.ReadFile(name, maxBytes)
		if err != nil {
			p.fail(s.file, s.line, "include: %v", err)
			continue
		}
		all = append(all, p.file(name, data)...)
	}
	return all
}

// tokenKind is what a scanner found.
type tokenKind int

const (
	theEnd tokenKind = iota
	aWord
	anOpening
	aClosing
	aSemicolon
)

// bracesScanner reads words.
type bracesScanner struct {
	file string
	data []byte
	at   int
	line int
	err  string
}

// next is the next word or sign.
func (s *bracesScanner) next() (string, tokenKind) {
	s.blank()
	if s.at >= len(s.data) || s.err != "" {
		return "", theEnd
	}
	c := s.data[s.at]
	switch c {
	case '{':
		s.at++
		return "", anOpening
	case '}':
		s.at++
		return "", aClosing
	case ';':
		s.at++
		return "", aSemicolon
	case '"':
		return s.quoted()
	}
	begin := s.at
	for s.at < len(s.data) && !bytes.ContainsRune([]byte(" \t\r\n{};\""), rune(s.data[s.at])) {
		if s.comment() != "" {
			break
		}
		s.at++
	}
	return string(s.data[begin:s.at]), aWord
}

// quoted reads a string, in which a backslash makes a quotation mark one of the text.
func (s *bracesScanner) quoted() (string, tokenKind) {
	var b []byte
	for s.at++; s.at < len(s.data); s.at++ {
		switch c := s.data[s.at]; {
		case c == '"':
			s.at++
			return string(b), aWord
		case c == '\\' && s.at+1 < len(s.data) && s.data[s.at+1] == '"':
			s.at++
			b = append(b, '"')
		case c == '\n':
			s.err = "a quotation without its end"
			return "", theEnd
		default:
			b = append(b, c)
		}
	}
	s.err = "a quotation without its end"
	return "", theEnd
}

// comment is the sign that begins a comment here, if one does.
func (s *bracesScanner) comment() string {
	for _, sign := range []string{"#", "//", "/*"} {
		if bytes.HasPrefix(s.data[s.at:], []byte(sign)) {
			return sign
		}
	}
	return ""
}

// blank goes over blanks and comments.
func (s *bracesScanner) blank() {
	for s.at < len(s.data) {
		switch sign := s.comment(); {
		case sign == "/*":
			end := bytes.Index(s.data[s.at+2:], []byte("*/"))
			if end < 0 {
				s.err, s.at = "a comment without its end", len(s.data)
				return
			}
			s.line += bytes.Count(s.data[s.at:s.at+2+end], []byte("\n"))
			s.at += end + 4
		case sign != "":
			for s.at < len(s.data) && s.data[s.at] != '\n' {
				s.at++
			}
		case s.data[s.at] == '\n':
			s.line++
			s.at++
		case s.data[s.at] == ' ' || s.data[s.at] == '\t' || s.data[s.at] == '\r':
			s.at++
		default:
			return
		}
	}
}
