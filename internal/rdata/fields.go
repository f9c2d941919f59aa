package rdata

import (
	"encoding/base32"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"strconv"
	"strings"
)

// Numbers.
var (
	u8  = number(8, nil)
	u16 = number(16, nil)
	u32 = number(32, nil)
	u64 = number(64, nil)

	algorithm   = number(8, algorithms)
	digest      = number(8, digests)
	hash        = number(8, hashes)
	protocol    = number(8, keyProtocols)
	scheme      = number(8, schemes)
	certificate = number(16, certificates)

	ttl     = field{read: readTTL, skip: octets(4)}
	flags   = field{read: readFlags, skip: octets(2)}
	covered = field{read: readCovered, skip: octets(2)}
	instant = field{read: readInstant, skip: octets(4)}
)

// Names, addresses, and what else is of a fixed length.
var (
	name = field{read: readName, skip: skipName, domain: true}

	ipv4   = field{read: (*reader).address4, skip: octets(4)}
	ipv6   = field{read: (*reader).address6, skip: octets(16)}
	eui48  = field{read: pairs("-", 2, 6), skip: octets(6)}
	eui64  = field{read: pairs("-", 2, 8), skip: octets(8)}
	groups = field{read: readGroups, skip: octets(8)}
)

// Strings.
var (
	text     = field{read: readText, skip: skipText}
	mayText  = field{read: optional(readText), skip: optionalOctets(skipText)}
	texts    = field{read: readTexts, skip: skipTexts}
	longText = field{read: readLongText, skip: skipAll}
	tag      = field{read: readTag, skip: skipTag}
)

// Data in base 16, 32 and 64.
var (
	hexData    = field{read: readHex, skip: skipSome}
	base64Data = field{read: readBase64, skip: skipSome}
	mayBase64  = field{read: optional(readBase64), skip: skipAll}
	dashBase64 = field{read: readDashBase64, skip: skipAll}
	salt       = field{read: readSalt, skip: skipText}
	hashed     = field{read: readHashed, skip: skipFull}
)

// octets skips so many.
func octets(n int) func(rdata []byte, at int) (int, error) {
	return func(rdata []byte, at int) (int, error) {
		if at+n > len(rdata) {
			return 0, errEnds
		}
		return at + n, nil
	}
}

// skipAll skips what is left, be it nothing.
func skipAll(rdata []byte, _ int) (int, error) { return len(rdata), nil }

// skipSome skips what is left, at least an octet.
func skipSome(rdata []byte, at int) (int, error) {
	if at >= len(rdata) {
		return 0, errEnds
	}
	return len(rdata), nil
}

// optional reads a field if there is one.
func optional(read func(r *reader) error) func(r *reader) error {
	return func(r *reader) error {
		if len(r.tokens) == 0 {
			return nil
		}
		return read(r)
	}
}

func optionalOctets(skip func(rdata []byte, at int) (int, error)) func(rdata []byte, at int) (int, error) {
	return func(rdata []byte, at int) (int, error) {
		if at == len(rdata) {
			return at, nil
		}
		return skip(rdata, at)
	}
}

// number is an unsigned number of so many bits, or one of the words for it, in any case.
func number(bits int, words map[string]uint64) field {
	return field{skip: octets(bits / 8), read: func(r *reader) error {
		w, err := r.word()
		if err != nil {
			return err
		}
		n, known := words[strings.ToUpper(w)]
		if !known {
			if n, err = strconv.ParseUint(w, 10, bits); err != nil {
				return notNumber(w, bits, len(words) > 0)
			}
		}
		r.number(n, bits)
		return nil
	}}
}

func notNumber(w string, bits int, words bool) error {
	if words {
		return fmt.Errorf("%s is no number of %d bits, nor a word for one", w, bits)
	}
	return fmt.Errorf("%s is no number of %d bits", w, bits)
}

// number appends a number of so many bits.
func (r *reader) number(n uint64, bits int) {
	for shift := bits - 8; shift >= 0; shift -= 8 {
		r.out = append(r.out, byte(n>>shift))
	}
}

// readTTL reads seconds, or a time in BIND's units.
func readTTL(r *reader) error {
	w, err := r.word()
	if err != nil {
		return err
	}
	n, ok := ParseTTL(w)
	if !ok {
		return fmt.Errorf("%s is no time (RFC 1035 3.3.13)", w)
	}
	r.number(uint64(n), 32)
	return nil
}

// ParseTTL reads seconds, or BIND's 1w2d3h4m5s, of at most 2^32-1 in all.
func ParseTTL(text string) (seconds uint32, ok bool) {
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
		if total+n > math.MaxUint32 {
			return 0, false
		}
	}
	if units && text[len(text)-1] <= '9' {
		return 0, false // of what, after units?
	}
	return uint32(total + n), true
}

// readFlags reads a number, or words of RFC 2535 7.1 with | between them.
func readFlags(r *reader) error {
	w, err := r.word()
	if err != nil {
		return err
	}
	n, err := strconv.ParseUint(w, 10, 16)
	if err != nil {
		n = 0
		for word := range strings.SplitSeq(strings.ToUpper(w), "|") {
			bit, known := keyFlags[word]
			if !known {
				return notNumber(w, 16, true)
			}
			n |= bit
		}
	}
	r.number(n, 16)
	return nil
}

// readCovered reads a type.
func readCovered(r *reader) error {
	w, err := r.word()
	if err != nil {
		return err
	}
	typ, ok := TypeOf(strings.ToUpper(w))
	if !ok {
		return fmt.Errorf("%s is no type", w)
	}
	r.number(uint64(typ), 16)
	return nil
}

func readName(r *reader) error {
	w, err := r.word()
	if err != nil {
		return err
	}
	r.out, err = AppendName(r.out, w, r.origin)
	return err
}

func skipName(rdata []byte, at int) (int, error) {
	n := NameLen(rdata, at)
	if n == 0 {
		return 0, errors.New("a name is missing or malformed, or compressed")
	}
	return at + n, nil
}

func (r *reader) address(is func(netip.Addr) bool, what string) error {
	w, err := r.word()
	if err != nil {
		return err
	}
	a, err := netip.ParseAddr(w)
	if err != nil || !is(a) || a.Zone() != "" {
		return fmt.Errorf("%s is no IPv%s address", w, what)
	}
	r.out = append(r.out, a.AsSlice()...)
	return nil
}

func (r *reader) address4() error { return r.address(netip.Addr.Is4, "4") }
func (r *reader) address6() error { return r.address(netip.Addr.Is6, "6") }

// pairs reads count groups of so many hexadecimal digits, with something between them.
func pairs(between string, digits, count int) func(r *reader) error {
	return func(r *reader) error {
		w, err := r.word()
		if err != nil {
			return err
		}
		groups := strings.Split(w, between)
		wrong := len(groups) != count
		for _, g := range groups {
			wrong = wrong || len(g) != digits
		}
		octets, err := hex.DecodeString(strings.Join(groups, ""))
		if wrong || err != nil {
			return fmt.Errorf("%s is not %d groups of %d hexadecimal digits", w, count, digits)
		}
		r.out = append(r.out, octets...)
		return nil
	}
}

// readGroups reads 64 bits as RFC 6742 2.1.2 and 2.3.2 write them: four groups of up to four hexadecimal digits.
func readGroups(r *reader) error {
	w, err := r.word()
	if err != nil {
		return err
	}
	groups := strings.Split(w, ":")
	for _, g := range groups {
		n, err := strconv.ParseUint(g, 16, 16)
		if err != nil || len(groups) != 4 || len(g) > 4 {
			return fmt.Errorf("%s is not four groups of up to four hexadecimal digits (RFC 6742 2.1.2)", w)
		}
		r.number(n, 16)
	}
	return nil
}

// unescape is the octets of a word (RFC 1035 5.1).
func unescape(text string) ([]byte, error) {
	out := make([]byte, 0, len(text))
	for i := 0; i < len(text); {
		c := text[i]
		i++
		if c == '\\' {
			ok := false
			if c, i, ok = escape(text, i); !ok {
				return nil, fmt.Errorf("%q has a backslash without an octet of three decimal digits after it (RFC 1035 5.1)", text)
			}
		}
		out = append(out, c)
	}
	return out, nil
}

// string takes a word, in quotes or not, and returns its octets.
func (r *reader) string() ([]byte, error) {
	if len(r.tokens) == 0 {
		return nil, errEnds
	}
	t := r.tokens[0]
	r.tokens = r.tokens[1:]
	return unescape(t.Text)
}

// readText reads a character-string.
func readText(r *reader) error {
	s, err := r.string()
	if err != nil {
		return err
	}
	return r.short(s)
}

// short appends octets with their number before them.
func (r *reader) short(s []byte) error {
	if len(s) > 255 {
		return errors.New("a string of more than 255 octets (RFC 1035 3.3)")
	}
	r.out = append(append(r.out, byte(len(s))), s...)
	return nil
}

func skipText(rdata []byte, at int) (int, error) {
	if at >= len(rdata) {
		return 0, errEnds
	}
	return octets(1+int(rdata[at]))(rdata, at)
}

// skipFull is skipText of at least an octet.
func skipFull(rdata []byte, at int) (int, error) {
	if at < len(rdata) && rdata[at] == 0 {
		return 0, errors.New("a length of 0")
	}
	return skipText(rdata, at)
}

// readTexts reads one or more character-strings.
func readTexts(r *reader) error {
	err := readText(r)
	for err == nil && len(r.tokens) > 0 {
		err = readText(r)
	}
	return err
}

func skipTexts(rdata []byte, at int) (int, error) {
	at, err := skipText(rdata, at)
	for err == nil && at < len(rdata) {
		at, err = skipText(rdata, at)
	}
	return at, err
}

// readLongText reads a string that is the rest of the RDATA (RFC 8659 4.1.1, RFC 7553 4.5).
func readLongText(r *reader) error {
	s, err := r.string()
	r.out = append(r.out, s...)
	return err
}

// readTag reads the tag of a property (RFC 8659 4.1).
func readTag(r *reader) error {
	w, err := r.word()
	if err != nil {
		return err
	}
	if !isTag([]byte(w)) {
		return fmt.Errorf("%s is no tag of letters and digits (RFC 8659 4.1)", w)
	}
	return r.short([]byte(w))
}

func isTag(b []byte) bool {
	for _, c := range b {
		if (c < '0' || c > '9') && (c|0x20 < 'a' || c|0x20 > 'z') {
			return false
		}
	}
	return len(b) > 0
}

func skipTag(rdata []byte, at int) (int, error) {
	end, err := skipFull(rdata, at)
	if err == nil && !isTag(rdata[at+1:end]) {
		return 0, errors.New("a tag that is not of letters and digits (RFC 8659 4.1)")
	}
	return end, err
}

func readHex(r *reader) error {
	w, err := r.rest()
	if err != nil {
		return err
	}
	octets, err := hex.DecodeString(w)
	if err != nil || len(octets) == 0 {
		return fmt.Errorf("%q is not in hexadecimal", w)
	}
	r.out = append(r.out, octets...)
	return nil
}

func readBase64(r *reader) error {
	w, err := r.rest()
	if err != nil {
		return err
	}
	return r.base64(w)
}

// base64 appends what is written in base 64, at least an octet.
func (r *reader) base64(w string) error {
	octets, err := base64.StdEncoding.DecodeString(w)
	if err != nil || len(octets) == 0 || strings.ContainsAny(w, "\r\n") {
		return fmt.Errorf("%q is not in base 64", w)
	}
	r.out = append(r.out, octets...)
	return nil
}

// readDashBase64 reads data, a dash if there is none.
func readDashBase64(r *reader) error {
	if len(r.tokens) == 1 && r.tokens[0].Text == "-" {
		r.tokens = nil
		return nil
	}
	return readBase64(r)
}

// readSalt reads the salt of RFC 5155 3.3, a dash if there is none.
func readSalt(r *reader) error {
	w, err := r.word()
	if err != nil {
		return err
	}
	if w == "-" {
		w = ""
	}
	octets, err := hex.DecodeString(w)
	if err != nil || len(octets) > 255 {
		return fmt.Errorf("%s is no salt in hexadecimal (RFC 5155 3.3)", w)
	}
	return r.short(octets)
}

var base32Hex = base32.HexEncoding.WithPadding(base32.NoPadding)

// readHashed reads the next hashed owner (RFC 5155 3.3).
func readHashed(r *reader) error {
	w, err := r.word()
	if err != nil {
		return err
	}
	octets, err := base32Hex.DecodeString(strings.ToUpper(w))
	if err != nil || len(octets) == 0 || len(octets) > 255 || strings.ContainsAny(w, "\r\n") {
		return fmt.Errorf("%s is no hash in base 32 (RFC 5155 3.3)", w)
	}
	return r.short(octets)
}
