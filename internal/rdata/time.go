package rdata

import (
	"fmt"
	"strconv"
	"time"
)

// readInstant reads a time of a signature.
func readInstant(r *reader) error {
	w, err := r.word()
	if err != nil {
		return err
	}
	at, ok := ParseTime(w)
	if !ok {
		return fmt.Errorf("%s is neither YYYYMMDDHHmmSS nor seconds since 1970 (RFC 4034 3.2)", w)
	}
	r.number(uint64(at), 32)
	return nil
}

// ParseTime reads an inception or expiration (RFC 4034 3.2): YYYYMMDDHHmmSS in UTC, or seconds since 1970 in at most ten
// digits. What comes back is the number of seconds modulo 2^32 (RFC 4034 3.1.5).
func ParseTime(text string) (at uint32, ok bool) {
	if len(text) != len("YYYYMMDDHHmmSS") {
		n, err := strconv.ParseUint(text, 10, 32)
		return uint32(n), err == nil && len(text) <= 10
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return 0, false
	}
	part := func(of uint64) int { return int(n / of % 100) }
	year, month, day := int(n/1e10), part(1e8), part(1e6)
	hour, minute, second := part(1e4), part(100), part(1)
	t := time.Date(year, time.Month(month), day, hour, minute, second, 0, time.UTC)
	if second == 60 { // a leap second
		t = t.Add(-time.Second)
	}
	same := t.Year() == year && int(t.Month()) == month && t.Day() == day && t.Hour() == hour && t.Minute() == minute
	seconds := t.Unix()
	if second == 60 {
		seconds++
	}
	return uint32(seconds), same && year >= 1970 && second <= 60
}
