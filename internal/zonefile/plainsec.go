package zonefile

import (
	"encoding/base32"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"

	"github.com/coredns-anycast/coredns-anycast/internal/rdata"
)

// These are of most records in a signed zone, in the forms of RFC 4034 2 to 5 and RFC 5155 3.3, with numbers for
// algorithms and one word for what is in base 16, 32 or 64. What is left of the line comes back too.

// plainDS appends key tag, algorithm, digest type and digest.
func plainDS(dst, text []byte) (out, rest []byte, ok bool) {
	fields, rest := plainFields(text, 4)
	dst, ok = plainNumbers(dst, fields[:3], 16, 8, 8)
	if !ok || len(fields[3]) == 0 {
		return dst, rest, false
	}
	dst, err := hex.AppendDecode(dst, fields[3])
	return dst, rest, err == nil
}

// plainRRSIG appends all of a signature.
func plainRRSIG(dst, text []byte) (out, rest []byte, ok bool) {
	fields, rest := plainFields(text, 9)
	covered, known := rdata.TypeOf(string(fields[0]))
	dst, ok = plainNumbers(binary.BigEndian.AppendUint16(dst, covered), fields[1:4], 8, 8, 32)
	if !ok || !known {
		return dst, rest, false
	}
	for _, at := range fields[4:6] {
		seconds, ok := rdata.ParseTime(string(at))
		if !ok {
			return dst, rest, false
		}
		dst = binary.BigEndian.AppendUint32(dst, seconds)
	}
	if dst, ok = plainNumbers(dst, fields[6:7], 16); !ok {
		return dst, rest, false
	}
	if dst, ok = plainName(dst, fields[7]); !ok || len(fields[8]) == 0 {
		return dst, rest, false
	}
	dst, err := base64.StdEncoding.AppendDecode(dst, fields[8])
	return dst, rest, err == nil
}

// plainNSEC appends the next owner and the types of this one.
func plainNSEC(dst, text []byte) (out, rest []byte, ok bool) {
	next, rest := plainWord(text)
	if dst, ok = plainName(dst, next); !ok {
		return dst, rest, false
	}
	return plainTypes(dst, rest)
}

// hashed is the encoding of RFC 5155 3.3; letters may be small.
var hashed = [2]*base32.Encoding{base32.HexEncoding.WithPadding(base32.NoPadding),
	base32.NewEncoding("0123456789abcdefghijklmnopqrstuv").WithPadding(base32.NoPadding)}

// plainNSEC3 appends algorithm, flags, iterations, salt, next hash and types. Both lengths are of an octet.
func plainNSEC3(dst, text []byte) (out, rest []byte, ok bool) {
	fields, rest := plainFields(text, 5)
	dst, ok = plainNumbers(dst, fields[:3], 8, 8, 16)
	salt, next := fields[3], fields[4]
	if !ok || len(salt) == 0 || len(salt) > 2*255 || len(next) != 32 {
		return dst, rest, false
	}
	if string(salt) == "-" {
		salt = nil
	}
	dst, err := hex.AppendDecode(append(dst, byte(len(salt)/2)), salt)
	if err != nil {
		return dst, rest, false
	}
	dst = append(dst, 20) // octets of a SHA-1 hash
	for _, encoding := range hashed {
		if out, err := encoding.AppendDecode(dst, next); err == nil {
			return plainTypes(out, rest)
		}
	}
	return dst, rest, false
}

// plainTypes appends a type bit map (RFC 4034 4.1.2) of types in ascending order, to the end of the line.
func plainTypes(dst, text []byte) (out, rest []byte, ok bool) {
	last, window, at := -1, -1, 0 // at is where the window's length is
	for len(text) > 0 && text[0] != '\n' {
		var word []byte
		word, text = plainWord(text)
		typ, known := rdata.TypeOf(string(word))
		if !known || int(typ) <= last {
			return dst, text, false
		}
		if last = int(typ); last>>8 != window {
			window, at = last>>8, len(dst)+1
			dst = append(dst, byte(window), 0)
		}
		for octet := int(typ&0xff) >> 3; int(dst[at]) <= octet; dst[at]++ {
			dst = append(dst, 0)
		}
		dst[len(dst)-1] |= 0x80 >> (typ & 7)
	}
	return dst, text, true
}

// plainFields cuts off so many words. Those that are missing are empty.
func plainFields(text []byte, n int) (fields [9][]byte, rest []byte) {
	for i := range n {
		fields[i], text = plainWord(text)
	}
	return fields, text
}

// plainNumbers appends numbers of so many bits each.
func plainNumbers(dst []byte, fields [][]byte, bits ...int) ([]byte, bool) {
	for i, field := range fields {
		n, ok := plainNumber(field, 1<<bits[i]-1)
		if !ok {
			return dst, false
		}
		for shift := bits[i] - 8; shift >= 0; shift -= 8 {
			dst = append(dst, byte(n>>shift))
		}
	}
	return dst, true
}
