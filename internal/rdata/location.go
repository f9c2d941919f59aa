package rdata

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
)

// location is the RDATA of LOC. Other versions than 0 have no text form, and any octets (RFC 1876 2).
var location = field{read: readLocation, skip: skipLocation}

func skipLocation(rdata []byte, at int) (int, error) {
	if len(rdata) > at && rdata[at] != 0 {
		return len(rdata), nil
	}
	return octets(16)(rdata, at)
}

// readLocation reads latitude, longitude and altitude, and if they are there size and precisions (RFC 1876 3).
func readLocation(r *reader) error {
	latitude, err := r.angle(90, "N", "S")
	if err != nil {
		return fmt.Errorf("latitude: %w", err)
	}
	longitude, err := r.angle(180, "E", "W")
	if err != nil {
		return fmt.Errorf("longitude: %w", err)
	}
	altitude, err := r.metres()
	if err != nil || altitude < -100_000_00 || altitude > math.MaxUint32-100_000_00 {
		return errors.New("the altitude is not from -100000.00 to 42849672.95 metres, with at most two decimals (RFC 1876 3)")
	}
	sizes := [3]byte{0x12, 0x16, 0x13} // 1 m, 10,000 m, 10 m
	for i := range sizes {
		if len(r.tokens) == 0 {
			break
		}
		size, err := r.metres()
		if err != nil || size < 0 || size > 90_000_000_00 {
			return errors.New("a size or precision is not from 0 to 90000000.00 metres, with at most two decimals (RFC 1876 3)")
		}
		sizes[i] = exponential(size)
	}
	r.out = append(append(r.out, 0), sizes[:]...)
	r.number(uint64(latitude), 32)
	r.number(uint64(longitude), 32)
	r.number(uint64(altitude+100_000_00), 32)
	return nil
}

// angle reads degrees, and if they are there minutes and seconds, and a letter; it comes in thousandths of a second from 2^31.
func (r *reader) angle(degrees int64, plus, minus string) (int64, error) {
	var total int64
	for i, limit := range []int64{degrees, 59, 59_999, 0} {
		w, err := r.word()
		if err != nil {
			return 0, err
		}
		if i > 0 && (strings.EqualFold(w, plus) || strings.EqualFold(w, minus)) {
			if total > degrees*3_600_000 {
				return 0, fmt.Errorf("more than %d degrees (RFC 1876 3)", degrees)
			}
			if strings.EqualFold(w, minus) {
				total = -total
			}
			return 1<<31 + total, nil
		}
		decimals := 0
		if i == 2 {
			decimals = 3
		}
		n, ok := decimal(w, decimals)
		if !ok || n > limit || i == 3 {
			return 0, fmt.Errorf("%s is out of range, or no %s or %s (RFC 1876 3)", w, plus, minus)
		}
		total += n * [...]int64{3_600_000, 60_000, 1, 0}[i]
	}
	return 0, errEnds
}

// metres reads a number of metres, with an m after it or not, in centimetres.
func (r *reader) metres() (int64, error) {
	w, err := r.word()
	if err != nil {
		return 0, err
	}
	digits, negative := strings.CutPrefix(strings.TrimSuffix(strings.TrimSuffix(w, "m"), "M"), "-")
	n, ok := decimal(digits, 2)
	if !ok {
		return 0, fmt.Errorf("%s is no number of metres", w)
	}
	if negative {
		n = -n
	}
	return n, nil
}

// decimal reads a number with at most so many decimals, in units of the last one.
func decimal(text string, decimals int) (int64, bool) {
	whole, part, point := strings.Cut(text, ".")
	if len(part) > decimals || whole+part == "" || point && decimals == 0 {
		return 0, false
	}
	digits := whole + part + strings.Repeat("0", decimals-len(part))
	n, err := strconv.ParseUint(digits, 10, 62)
	return int64(n), err == nil
}

// exponential is a size as RFC 1876 2 has it: one digit and a power of ten, of centimetres.
func exponential(size int64) byte {
	power := byte(0)
	for size >= 10 {
		size /= 10
		power++
	}
	return byte(size)<<4 | power
}
