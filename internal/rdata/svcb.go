package rdata

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// serviceParams are the parameters of SVCB and HTTPS records (RFC 9460 2.1 and 2.2).
var serviceParams = field{read: readParams, skip: skipParams}

// Keys of service parameters.
const (
	keyMandatory     = 0
	keyALPN          = 1
	keyNoDefaultALPN = 2
	keyPort          = 3
	keyIPv4Hint      = 4
	keyECH           = 5
	keyIPv6Hint      = 6
	keyDoHPath       = 7 // RFC 9461
	keyOHTTP         = 8 // RFC 9540
	keyGroups        = 9 // tls-supported-groups
)

// paramKeys are the keys of IANA's registry that have a form of their own.
var paramKeys = map[string]uint16{"mandatory": keyMandatory, "alpn": keyALPN, "no-default-alpn": keyNoDefaultALPN, "port": keyPort,
	"ipv4hint": keyIPv4Hint, "ech": keyECH, "ipv6hint": keyIPv6Hint, "dohpath": keyDoHPath, "ohttp": keyOHTTP, "tls-supported-groups": keyGroups}

// param is a service parameter.
type param struct {
	key   uint16
	value []byte
}

// readParams reads parameters in any order.
func readParams(r *reader) error {
	var params []param
	for len(r.tokens) > 0 {
		p, err := r.param()
		if err != nil {
			return err
		}
		params = append(params, p)
	}
	slices.SortFunc(params, func(a, b param) int { return int(a.key) - int(b.key) })
	from := len(r.out)
	for _, p := range params {
		if len(p.value) > maxLength {
			return fmt.Errorf("key%d has more than %d octets", p.key, maxLength)
		}
		r.number(uint64(p.key), 16)
		r.number(uint64(len(p.value)), 16)
		r.out = append(r.out, p.value...)
	}
	_, err := skipParams(r.out, from)
	return err
}

// param takes key or key=value, whose value may be in quotes.
func (r *reader) param() (param, error) {
	w, err := r.word()
	if err != nil {
		return param{}, err
	}
	word, value, given := strings.Cut(w, "=")
	if len(r.tokens) > 0 && r.tokens[0].Glued && given && value == "" {
		value, r.tokens = r.tokens[0].Text, r.tokens[1:]
	}
	key, generic, ok := keyOf(word)
	if !ok {
		return param{}, fmt.Errorf("%s is no key (RFC 9460 2.1)", word)
	}
	octets, err := unescape(value)
	if err != nil {
		return param{}, err
	}
	if !generic {
		if octets, err = paramValue(key, octets); err != nil {
			return param{}, fmt.Errorf("%s: %w", word, err)
		}
	}
	return param{key, octets}, nil
}

// keyOf reads a key: a word of the registry, or key and a number without leading zeros, which any key may be written as.
func keyOf(word string) (key uint16, generic, ok bool) {
	word = strings.ToLower(word)
	if key, ok := paramKeys[word]; ok {
		return key, false, true
	}
	digits, ok := strings.CutPrefix(word, "key")
	n, err := strconv.ParseUint(digits, 10, 16)
	return uint16(n), true, ok && err == nil && strconv.FormatUint(n, 10) == digits
}

// paramValue makes octets of a value in its key's own form (RFC 9460 7).
func paramValue(key uint16, text []byte) ([]byte, error) {
	switch key {
	case keyALPN:
		return eachItem(text, func(out, item []byte) ([]byte, bool) {
			return append(append(out, byte(len(item))), item...), len(item) > 0 && len(item) <= 255
		})
	case keyMandatory:
		return mandatory(text)
	case keyIPv4Hint, keyIPv6Hint:
		return eachItem(text, func(out, item []byte) ([]byte, bool) {
			a, err := netip.ParseAddr(string(item))
			return append(out, a.AsSlice()...), err == nil && a.Is4() == (key == keyIPv4Hint) && a.Zone() == ""
		})
	case keyPort:
		n, err := strconv.ParseUint(string(text), 10, 16)
		if err != nil {
			return nil, fmt.Errorf("%q is no port", text)
		}
		return binary.BigEndian.AppendUint16(nil, uint16(n)), nil
	case keyECH:
		octets, err := base64.StdEncoding.DecodeString(string(text))
		if err != nil || len(octets) == 0 {
			return nil, fmt.Errorf("%q is not in base 64", text)
		}
		return octets, nil
	case keyGroups:
		return eachItem(text, func(out, item []byte) ([]byte, bool) {
			n, err := strconv.ParseUint(string(item), 10, 16)
			return binary.BigEndian.AppendUint16(out, uint16(n)), err == nil
		})
	}
	return text, nil
}

// eachItem makes octets of each item of a list (RFC 9460 A.1), in which commas and backslashes that are meant have a backslash before.
func eachItem(list []byte, add func(out, item []byte) ([]byte, bool)) (out []byte, err error) {
	var item []byte
	ok := true
	for i := 0; ok && i <= len(list); i++ {
		switch {
		case i == len(list) || list[i] == ',':
			if out, ok = add(out, item); !ok {
				return nil, fmt.Errorf("%q has the item %q", list, item)
			}
			item = item[:0]
		case list[i] == '\\' && i+1 < len(list):
			i++
			item = append(item, list[i])
		default:
			item = append(item, list[i])
		}
	}
	return out, nil
}

// mandatory makes a list of keys in ascending order.
func mandatory(text []byte) ([]byte, error) {
	var keys []uint16
	_, err := eachItem(text, func(_, item []byte) ([]byte, bool) {
		key, _, ok := keyOf(string(item))
		keys = append(keys, key)
		return nil, ok
	})
	slices.Sort(keys)
	var out []byte
	for _, key := range keys {
		out = binary.BigEndian.AppendUint16(out, key)
	}
	return out, err
}

// skipParams demands keys in ascending order, values as their keys have them (RFC 9460 2.2 and 7), and that all keys that
// are mandatory are there (RFC 9460 8).
func skipParams(rdata []byte, at int) (int, error) {
	last := -1
	var needed []byte
	present := map[uint16]bool{}
	for at < len(rdata) {
		if at+4 > len(rdata) {
			return 0, errEnds
		}
		key, n := binary.BigEndian.Uint16(rdata[at:]), int(binary.BigEndian.Uint16(rdata[at+2:]))
		if at += 4; at+n > len(rdata) {
			return 0, errEnds
		}
		if int(key) <= last {
			return 0, fmt.Errorf("key%d is there twice, or out of order (RFC 9460 2.2)", key)
		}
		value := rdata[at : at+n]
		if err := checkParam(key, value); err != nil {
			return 0, fmt.Errorf("key%d: %w", key, err)
		}
		if key == keyMandatory {
			needed = value
		}
		last, present[key] = int(key), true
		at += n
	}
	for ; len(needed) > 0; needed = needed[2:] {
		if key := binary.BigEndian.Uint16(needed); !present[key] {
			return 0, fmt.Errorf("the mandatory key%d is not there (RFC 9460 8)", key)
		}
	}
	return at, nil
}

// checkParam checks a value by its key (RFC 9460 7).
func checkParam(key uint16, value []byte) error {
	ok := true
	switch key {
	case keyMandatory:
		ok = len(value) > 0 && len(value)%2 == 0
		for i := 0; ok && i < len(value); i += 2 { // ascending, and without itself (RFC 9460 8)
			ok = !bytes.Equal(value[i:i+2], []byte{0, 0}) && (i == 0 || bytes.Compare(value[i-2:i], value[i:i+2]) < 0)
		}
	case keyALPN:
		ok = len(value) > 0
		for ok && len(value) > 0 {
			n := 1 + int(value[0])
			if ok = n > 1 && n <= len(value); ok {
				value = value[n:]
			}
		}
	case keyNoDefaultALPN, keyOHTTP:
		ok = len(value) == 0
	case keyPort:
		ok = len(value) == 2
	case keyIPv4Hint:
		ok = len(value) > 0 && len(value)%4 == 0
	case keyIPv6Hint:
		ok = len(value) > 0 && len(value)%16 == 0
	case keyECH, keyDoHPath:
		ok = len(value) > 0
	case keyGroups:
		ok = len(value) > 0 && len(value)%2 == 0
	}
	if !ok {
		return fmt.Errorf("a value of %d octets that is empty, cut short, or out of order where it must not be", len(value))
	}
	return nil
}
