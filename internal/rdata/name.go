package rdata

import (
	"errors"
	"fmt"
)

// maxName is the octets of a name in wire format (RFC 1035 2.3.4).
const maxName = 255

// ErrNoOrigin says that a name is relative, and that nobody has said to what.
var ErrNoOrigin = errors.New("the origin is not known")

// AppendName appends the wire format of a name as zone text has it (RFC 1035 5.1): absolute with a dot at its end, otherwise
// relative to origin; @ is the origin. The origin ends with a dot; without one, relative names are ErrNoOrigin.
func AppendName(dst []byte, text, origin string) ([]byte, error) {
	start := len(dst)
	if text == "@" {
		if origin == "" {
			return dst, fmt.Errorf("@: %w", ErrNoOrigin)
		}
		text = origin
	}
	dst, absolute, ok := appendLabels(dst, text)
	if ok && !absolute {
		if origin == "" {
			return dst[:start], fmt.Errorf("the relative name %s: %w", text, ErrNoOrigin)
		}
		dst, absolute, ok = appendLabels(dst, origin)
	}
	if !ok || !absolute || len(dst)-start > maxName {
		return dst[:start], fmt.Errorf("%s is no domain name (RFC 1035 2.3.4)", text)
	}
	return dst, nil
}

// appendLabels appends the labels of a name, and the root's if it is absolute.
func appendLabels(dst []byte, text string) (_ []byte, absolute, ok bool) {
	if text == "." {
		return append(dst, 0), true, true
	}
	for i := 0; i < len(text); i++ { // after a dot, or at the start
		at := len(dst)
		dst = append(dst, 0)
		for i < len(text) && text[i] != '.' {
			c := text[i]
			i++
			if c == '\\' {
				if c, i, ok = escape(text, i); !ok {
					return dst, false, false
				}
			}
			dst = append(dst, c)
		}
		n := len(dst) - at - 1
		if n == 0 || n > 63 {
			return dst, false, false
		}
		dst[at] = byte(n)
		if i == len(text) {
			return dst, false, true
		}
	}
	return append(dst, 0), true, len(text) > 0
}

// escape reads what follows a backslash (RFC 1035 5.1): three decimal digits of an octet, or an octet that is no digit.
func escape(text string, i int) (c byte, next int, ok bool) {
	if i >= len(text) {
		return 0, i, false
	}
	if text[i] < '0' || text[i] > '9' {
		return text[i], i + 1, true
	}
	n := 0
	for range 3 {
		if i >= len(text) || text[i] < '0' || text[i] > '9' {
			return 0, i, false
		}
		n = 10*n + int(text[i]-'0')
		i++
	}
	return byte(n), i, n <= 255
}

// NameLen is the length of the valid name at an offset, 0 if there is none. Compressed names are none.
func NameLen(b []byte, offset int) int {
	for i := offset; i < len(b) && i-offset < maxName; i += 1 + int(b[i]) {
		if b[i] == 0 {
			return i + 1 - offset
		}
		if b[i] > 63 {
			return 0
		}
	}
	return 0
}

// ExpandName appends the name at an offset of a message, without compression (RFC 1035 4.1.4), and returns the offset after it. A
// pointer must lead back.
func ExpandName(dst, message []byte, at int) (_ []byte, next int, err error) {
	start, limit := len(dst), len(message)
	for at < limit {
		c := int(message[at])
		switch {
		case c >= 0xc0:
			if at+1 >= len(message) {
				return dst, 0, errEnds
			}
			if next == 0 {
				next = at + 2
			}
			to := c&0x3f<<8 | int(message[at+1])
			if to >= at {
				return dst, 0, errors.New("a compressed name that does not point back")
			}
			limit, at = at, to // so that it comes to an end
			continue
		case c > 63:
			return dst, 0, errors.New("a label of an unknown kind")
		case at+1+c > len(message):
			return dst, 0, errEnds
		}
		dst = append(dst, message[at:at+1+c]...)
		if len(dst)-start > maxName {
			return dst, 0, errors.New("a name of more than 255 octets (RFC 1035 2.3.4)")
		}
		at += 1 + c
		if c == 0 {
			if next == 0 {
				next = at
			}
			return dst, next, nil
		}
	}
	return dst, 0, errEnds
}
