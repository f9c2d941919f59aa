package rdata

import (
	"errors"
	"fmt"
	"strings"
)

var (
	types    = field{read: readTypes, skip: skipTypes}
	oldTypes = field{read: readOldTypes, skip: skipAll}
)

// typeList takes all types that are left, in any order (RFC 4034 4.2).
func (r *reader) typeList() (types [1 << 13]byte, last int, err error) {
	last = -1
	for len(r.tokens) > 0 {
		w, err := r.word()
		if err != nil {
			return types, 0, err
		}
		typ, ok := TypeOf(strings.ToUpper(w))
		if !ok {
			return types, 0, fmt.Errorf("%s is no type", w)
		}
		types[typ>>3] |= 0x80 >> (typ & 7)
		last = max(last, int(typ))
	}
	return types, last, nil
}

// readTypes reads a type bit map (RFC 4034 4.1.2): for each window of 256 types its number, the octets that it takes
// without zeros at their end, and they.
func readTypes(r *reader) error {
	types, last, err := r.typeList()
	if err != nil {
		return err
	}
	for window := 0; window<<8 <= last; window++ {
		bits := types[window<<5 : (window+1)<<5]
		n := len(bits)
		for n > 0 && bits[n-1] == 0 {
			n--
		}
		if n > 0 {
			r.out = append(append(r.out, byte(window), byte(n)), bits[:n]...)
		}
	}
	return nil
}

// skipTypes skips a type bit map, which may have zeros at the end of a window: they do no harm.
func skipTypes(rdata []byte, at int) (int, error) {
	for last := -1; at < len(rdata); {
		if at+2 > len(rdata) || int(rdata[at]) <= last || rdata[at+1] == 0 || rdata[at+1] > 32 || at+2+int(rdata[at+1]) > len(rdata) {
			return 0, errors.New("a type bit map with windows out of order, empty or cut short (RFC 4034 4.1.2)")
		}
		last = int(rdata[at])
		at += 2 + int(rdata[at+1])
	}
	return at, nil
}

// readOldTypes reads the bit map of NXT (RFC 2535 5.2), of types up to 127.
func readOldTypes(r *reader) error {
	types, last, err := r.typeList()
	if err != nil {
		return err
	}
	if last > 127 || types[0]&0x80 != 0 {
		return errors.New("a type that is not from 1 to 127 (RFC 2535 5.2)")
	}
	r.out = append(r.out, types[:(last+8)>>3]...)
	return nil
}
