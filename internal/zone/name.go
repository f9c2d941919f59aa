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

// lower maps an octet as DNS compares it: only ASCII letters fold (RFC 4343).
func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		c += 'a' - 'A'
	}
	return c
}

// fold is lower as a table.
var fold = func() (t [256]byte) {
	for i := range t {
		t[i] = lower(byte(i))
	}
	return t
}()

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

// ownerOfKey is the name of a key, in wire format.
func ownerOfKey(k []byte) []byte {
	n := []byte{0}
	var label []byte
	for i := 0; i < len(k); i++ {
		switch k[i] {
		case 0:
			n = append(append([]byte{byte(len(label))}, label...), n...)
			label = label[:0]
		case 1:
			i++
			label = append(label, k[i]-1)
		default:
			label = append(label, k[i])
		}
	}
	return n
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
