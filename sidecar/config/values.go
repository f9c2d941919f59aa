package config

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

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

var interfaceForm = regexp.MustCompile(`^[A-Za-z0-9_.-]{1,15}$`)

func interfaceName(s string) (string, error) {
	if !interfaceForm.MatchString(s) || s == "." || s == ".." {
		return "", fmt.Errorf("%q is not an interface's name: 1 to 15 of letters, digits, dot, - and _", s)
	}
	return s, nil
}
