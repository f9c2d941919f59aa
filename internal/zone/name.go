package zone

import (
	"strings"

	"github.com/miekg/dns"
)

// maxLabels is the number of labels that 255 octets can hold, the root's not counted (RFC 1035 2.3.4).
const maxLabels = 127

// validName reports whether n is exactly one uncompressed domain name (RFC 1035 3.1, 2.3.4).
func validName(n []byte) bool {
	if len(n) > 255 {
		return false
	}
	for i := 0; i < len(n); {
		l := int(n[i])
		if l == 0 {
			return i == len(n)-1
		}
		if l > 63 {
			return false
		}
		i += 1 + l
	}
	return false
}

// labels counts the labels of a valid name, the root's not counted.
func labels(n []byte) int {
	count := 0
	for i := 0; n[i] != 0; i += 1 + int(n[i]) {
		count++
	}
	return count
}

// suffix returns the last count labels of a valid name, which has at least as many.
func suffix(n []byte, count int) []byte {
	for skip := labels(n) - count; skip > 0; skip-- {
		n = n[1+int(n[0]):]
	}
	return n
}

// lower maps an octet as DNS compares it: only ASCII letters fold (RFC 4343).
func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		c += 'a' - 'A'
	}
	return c
}

// appendLower appends a name with its letters folded. Length octets are below 64 and so never taken for letters.
func appendLower(dst, n []byte) []byte {
	for _, c := range n {
		dst = append(dst, lower(c))
	}
	return dst
}

// appendKey appends the key of a valid name: an octet string such that bytes.Compare of two keys is the canonical order
// of their names (RFC 4034 6.1), and such that a name is at or below another when its key has the other's as a prefix.
// Labels are written from the root down, folded, each ended by 0; the octets 0 and 1 within a label become 1 1 and 1 2.
func appendKey(dst, n []byte) []byte {
	var starts [maxLabels]uint8
	count := 0
	for i := 0; n[i] != 0; i += 1 + int(n[i]) {
		starts[count] = uint8(i)
		count++
	}
	for count--; count >= 0; count-- {
		at := int(starts[count])
		for _, c := range n[at+1 : at+1+int(n[at])] {
			if c <= 1 {
				dst = append(dst, 1, c+1)
			} else {
				dst = append(dst, lower(c))
			}
		}
		dst = append(dst, 0)
	}
	return dst
}

// commonLabels counts the labels that two keys share from the root down.
func commonLabels(a, b []byte) int {
	count := 0
	for i := 0; i < len(a) && i < len(b) && a[i] == b[i]; i++ {
		if a[i] == 0 {
			count++
		}
	}
	return count
}

// parentKey returns the key of the parent of a key that is not the root's.
func parentKey(k []byte) []byte {
	for i := len(k) - 2; i >= 0; i-- {
		if k[i] == 0 {
			return k[:i+1]
		}
	}
	return k[:0]
}

// wildcardKey appends the key of the wildcard below the name of key k.
func wildcardKey(dst, k []byte) []byte { return append(append(dst, k...), '*', 0) }

// isWildcard reports whether the leftmost label of n is an asterisk (RFC 4592 2.1.1).
func isWildcard(n []byte) bool { return n[0] == 1 && n[1] == '*' }

// equalNames compares two names as DNS does.
func equalNames(a, b []byte) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if lower(a[i]) != lower(b[i]) {
			return false
		}
	}
	return true
}

// packName turns a name's presentation form, which may lack its last dot, into wire format.
func packName(s string) ([]byte, bool) {
	buf := make([]byte, 256)
	n, err := dns.PackDomainName(dns.Fqdn(s), buf, 0, nil, false)
	if err != nil || s == "" {
		return nil, false
	}
	return buf[:n], true
}

// nameString is the presentation form of a valid name, lower-case, with its last dot.
func nameString(n []byte) string {
	s, _, err := dns.UnpackDomainName(n, 0)
	if err != nil {
		return "?"
	}
	return strings.ToLower(s)
}
