package config

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/coredns-anycast/coredns-anycast/internal/fields"
)

// asNumber takes the number of an autonomous system that may have sessions and originate routes.
func asNumber(s string) (uint32, error) {
	as, err := fields.IntegerIn[uint32](1, 1<<32-2)(s)
	switch {
	case err != nil:
		return 0, err
	case as == 23456:
		return 0, errors.New("23456 stands for the numbers that an old router does not know (AS_TRANS, RFC 6793): write the real one")
	case as == 65535:
		return 0, errors.New("65535 is nobody's number (RFC 7300)")
	}
	return as, nil
}

// maxPrepend is more than anyone needs: networks refuse paths that are much longer.
const maxPrepend = 16

// wellKnown are the communities that have a name and a use here (RFC 1997, RFC 3765). GRACEFUL_SHUTDOWN is drain's alone.
var wellKnown = map[string]string{
	"no-export":           "65535:65281",
	"no-advertise":        "65535:65282",
	"no-export-subconfed": "65535:65283",
	"no-peer":             "65535:65284",
}

func community(s string) (Community, error) {
	if number, ok := wellKnown[s]; ok {
		return Community{Standard, number}, nil
	}
	text, extended := s, false
	for _, kind := range []string{"rt:", "soo:"} {
		if after, found := strings.CutPrefix(s, kind); found {
			text, extended = after, true
		}
	}
	parts := strings.Split(text, ":")
	switch {
	case s == "65535:0":
		return Community{}, errors.New("65535:0 is GRACEFUL_SHUTDOWN: a node that is drained has it by itself")
	case extended && (numbers(parts, 16, 32) || numbers(parts, 32, 16)):
		return Community{Extended, s}, nil
	case !extended && numbers(parts, 16, 16):
		return Community{Standard, s}, nil
	case !extended && numbers(parts, 32, 32, 32):
		return Community{Large, s}, nil
	}
	return Community{}, fmt.Errorf("%q is not a community: write 64501:100, 64501:1:2, rt:64501:100 or no-export", s)
}

// numbers reports whether the parts are plain numbers of so many bits each.
func numbers(parts []string, bits ...int) bool {
	if len(parts) != len(bits) {
		return false
	}
	for i, p := range parts {
		if v, err := strconv.ParseUint(p, 10, bits[i]); err != nil || strconv.FormatUint(v, 10) != p {
			return false
		}
	}
	return true
}

// bytesIn reads a number of bytes with a decimal unit, and with what comes after it, such as 10MB/s.
func bytesIn(after string, least, most int64) func(string) (int64, error) {
	return func(s string) (int64, error) {
		number, found := strings.CutSuffix(s, after)
		factor := int64(0)
		for unit, f := range map[string]int64{"kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12} {
			if digits, is := strings.CutSuffix(number, unit); is {
				number, factor = digits, f
			}
		}
		n, err := strconv.ParseInt(number, 10, 32)
		if !found || factor == 0 || err != nil {
			return 0, fmt.Errorf("%q: want a whole number of kB, MB, GB or TB, such as 10MB%s", s, after)
		}
		if n < 0 || n > most/factor || n*factor < least {
			return 0, fmt.Errorf("%s is out of range: %d to %d bytes%s", s, least, most, after)
		}
		return n * factor, nil
	}
}

var interfaceForm = regexp.MustCompile(`^[A-Za-z0-9_.-]{1,15}$`)

func interfaceName(s string) (string, error) {
	if !interfaceForm.MatchString(s) || s == "." || s == ".." {
		return "", fmt.Errorf("%q is not an interface's name: 1 to 15 of letters, digits, dot, - and _", s)
	}
	return s, nil
}
