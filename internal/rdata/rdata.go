// Package rdata knows the forms of RDATA of every type in IANA's registry: the text that zone files have (RFC 1035 5.1
// and each type's own RFC) and the octets that messages have. Octets come first: what a type's RFC does not rule out is
// taken as it is, of known and unknown types alike (RFC 3597), so that what came goes out octet by octet.
//
// It is here because the dns package refuses or alters some of what BIND, Knot and NSD write; of that package it uses the
// numbers and mnemonics only. It is pure: octets and text in, octets out. internal/zonefile reads with it, internal/zone
// checks with it, and internal/xfr takes records out of messages with it.
package rdata

import (
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Token is a word of zone text (RFC 1035 5.1). Its escapes are as they were written.
type Token struct {
	Text   string // without the quotes
	Quoted bool
	Glued  bool // quoted, and right after what is before it, as in alpn="h2" (RFC 9460 2.1)
}

// maxLength is the octets that RDATA can have (RFC 1035 3.2.1).
const maxLength = 65535

// A field is a part of the RDATA of a type.
type field struct {
	// read takes the field's words and appends its octets.
	read func(r *reader) error
	// skip returns the offset after the field, which begins at an offset of RDATA.
	skip func(rdata []byte, at int) (int, error)
	// domain marks a domain name, which may be compressed in a message.
	domain bool
}

// reader is the state of reading RDATA as text.
type reader struct {
	tokens []Token
	origin string // that names are relative to; empty if not known
	out    []byte
}

var errEnds = errors.New("the RDATA ends too soon")

// word takes the next word.
func (r *reader) word() (string, error) {
	if len(r.tokens) == 0 {
		return "", errEnds
	}
	t := r.tokens[0]
	if t.Quoted {
		return "", fmt.Errorf("%q stands in quotes, where no character-string can be", t.Text)
	}
	r.tokens = r.tokens[1:]
	return t.Text, nil
}

// rest takes all words that are left, as one.
func (r *reader) rest() (string, error) {
	if len(r.tokens) == 1 {
		return r.word()
	}
	var b strings.Builder
	for len(r.tokens) > 0 {
		w, err := r.word()
		if err != nil {
			return "", err
		}
		b.WriteString(w)
	}
	return b.String(), nil
}

// Parse reads the RDATA of a type from the words after the type, in that type's own form or in the generic one (RFC 3597
// 5). Names are relative to origin, which ends with a dot and is empty if it is not known. The octets are not judged
// beyond what reading takes: Check does that.
func Parse(typ uint16, tokens []Token, origin string) ([]byte, error) {
	if len(tokens) > 0 && !tokens[0].Quoted && tokens[0].Text == `\#` {
		return parseGeneric(tokens[1:])
	}
	form, ok := forms[typ]
	if !ok {
		return nil, fmt.Errorf(`%s has no text form but the generic one, \# LENGTH HEX (RFC 3597 5)`, TypeString(typ))
	}
	if len(tokens) == 0 && !mayBeEmpty(typ) {
		return nil, fmt.Errorf("%s without RDATA", TypeString(typ))
	}
	r := reader{tokens: tokens, origin: origin, out: make([]byte, 0, 64)}
	for _, f := range form {
		if err := f.read(&r); err != nil {
			return nil, fmt.Errorf("%s: %w", TypeString(typ), err)
		}
	}
	if len(r.tokens) > 0 {
		return nil, fmt.Errorf("%s: %q is one field too many", TypeString(typ), r.tokens[0].Text)
	}
	if len(r.out) > maxLength {
		return nil, fmt.Errorf("%s: RDATA of %d octets (RFC 1035 3.2.1)", TypeString(typ), len(r.out))
	}
	return r.out, nil
}

// parseGeneric reads the number of octets, and they in hexadecimal.
func parseGeneric(tokens []Token) ([]byte, error) {
	r := reader{tokens: tokens}
	count, err := r.word()
	if err != nil {
		return nil, errors.New(`\# without a length (RFC 3597 5)`)
	}
	digits, err := r.rest()
	if err != nil {
		return nil, err
	}
	n, err := strconv.ParseUint(count, 10, 16)
	if err != nil {
		return nil, fmt.Errorf("%q is no length of RDATA (RFC 3597 5)", count)
	}
	octets, err := hex.DecodeString(digits)
	if err != nil {
		return nil, fmt.Errorf("%q is not in hexadecimal (RFC 3597 5)", digits)
	}
	if int(n) != len(octets) {
		return nil, fmt.Errorf(`\# %d has %d octets (RFC 3597 5)`, n, len(octets))
	}
	return octets, nil
}

// Check refuses RDATA, as it is in a message but for compression, that its type's RFC rules out. Types that are not known
// have any RDATA.
func Check(typ uint16, rdata []byte) error {
	if plainlyGood(typ, rdata) {
		return nil
	}
	return checkFields(typ, rdata)
}

// checkFields is Check, field by field.
func checkFields(typ uint16, rdata []byte) error {
	form, ok := forms[typ]
	if !ok || len(rdata) == 0 && mayBeEmpty(typ) {
		return nil
	}
	if len(rdata) == 0 {
		return errors.New("no RDATA")
	}
	at := 0
	for _, f := range form {
		var err error
		if at, err = f.skip(rdata, at); err != nil {
			return fmt.Errorf("malformed RDATA: %w", err)
		}
	}
	if at != len(rdata) {
		return fmt.Errorf("malformed RDATA: %d octets too many", len(rdata)-at)
	}
	return nil
}

// mayBeEmpty reports whether a type allows RDATA of no octets: APL (RFC 3123 4) and NULL, whose may be anything (RFC 1035
// 3.3.10).
func mayBeEmpty(typ uint16) bool { return typ == typeAPL || typ == typeNULL }

// Unpack takes RDATA out of a message, where it lies from at to end, and expands the names that are compressed there (RFC
// 1035 4.1.4). All other octets come as they are. The result may be a part of the message.
func Unpack(typ uint16, message []byte, at, end int) ([]byte, error) {
	if at > end || end > len(message) {
		return nil, errEnds
	}
	form := forms[typ]
	last := -1
	for i, f := range form {
		if f.domain {
			last = i
		}
	}
	if last < 0 || at == end {
		return message[at:end], nil
	}
	out := make([]byte, 0, end-at+255)
	for _, f := range form[:last+1] {
		from := at
		var err error
		if f.domain {
			out, at, err = ExpandName(out, message, at)
		} else if at, err = f.skip(message[:end], at); err == nil {
			out = append(out, message[from:at]...)
		}
		if err != nil {
			return nil, err
		}
		if at > end {
			return nil, errEnds
		}
	}
	return append(out, message[at:end]...), nil
}
