// Package fields reads configuration files: one YAML document, walked strictly, every broken rule collected with its
// place, so that one run shows every error as file:line:column: rule. sidecar/config and internal/receive say with it
// which keys there are and what their values may be.
package fields

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/miekg/dns"
	"go.yaml.in/yaml/v3"
)

// Reader walks the YAML nodes and collects what breaks a rule, so that one run shows every error.
type Reader struct {
	File    string // the name that errors carry
	MaxList int    // elements that a list may have

	errs []finding
}

type finding struct {
	line, column int
	rule         string
}

func (r *Reader) Fail(n *yaml.Node, format string, args ...any) {
	r.errs = append(r.errs, finding{n.Line, n.Column, fmt.Sprintf(format, args...)})
}

// Count is the number of rules found broken so far.
func (r *Reader) Count() int { return len(r.errs) }

// Err is everything found, in the order of the file; nil when nothing was.
func (r *Reader) Err() error {
	if len(r.errs) == 0 {
		return nil
	}
	slices.SortStableFunc(r.errs, func(a, b finding) int {
		return cmp.Or(cmp.Compare(a.line, b.line), cmp.Compare(a.column, b.column))
	})
	var lines []string
	for _, e := range r.errs {
		lines = append(lines, fmt.Sprintf("%s:%d:%d: %s", r.File, e.line, e.column, e.rule))
	}
	return Errors(lines)
}

// Errors is every rule that a file breaks, one file:line:column: rule each.
type Errors []string

func (e Errors) Error() string { return strings.Join(e, "\n") }

// Keys says what a mapping may hold: each key with what reads its value.
type Keys map[string]func(*yaml.Node)

// Mapping reads n, refuses keys that k lacks or that come twice, and demands those of required. It returns the value
// of each key that is there, for cross checks to point at.
func (r *Reader) Mapping(n *yaml.Node, what string, k Keys, required ...string) map[string]*yaml.Node {
	seen := map[string]*yaml.Node{}
	if n.Kind != yaml.MappingNode {
		r.Fail(n, "%s: want a mapping of %s", what, strings.Join(sorted(k), ", "))
		return seen
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		read, known := k[key.Value]
		switch {
		case key.Kind != yaml.ScalarNode || !known:
			r.Fail(key, "unknown key %q in %s: it may hold %s", key.Value, what, strings.Join(sorted(k), ", "))
		case seen[key.Value] != nil:
			r.Fail(key, "key %q twice in %s", key.Value, what)
		default:
			seen[key.Value] = value
			read(value)
		}
	}
	for _, name := range required {
		if seen[name] == nil {
			r.Fail(n, "%s lacks %q", what, name)
		}
	}
	return seen
}

func sorted(k Keys) []string {
	var names []string
	for name := range k {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// List reads each element of a non-empty sequence.
func (r *Reader) List(n *yaml.Node, element func(*yaml.Node)) {
	switch {
	case n.Kind != yaml.SequenceNode:
		r.Fail(n, "want a list: [a, b]")
	case len(n.Content) == 0:
		r.Fail(n, "an empty list: leave the key out instead")
	case len(n.Content) > r.MaxList:
		r.Fail(n, "%d elements: at most %d", len(n.Content), r.MaxList)
	default:
		for _, e := range n.Content {
			element(e)
		}
	}
}

// Text reads a scalar; it has at least one byte and at most 1,024, none of which is a control character.
func (r *Reader) Text(n *yaml.Node) (string, bool) {
	if n.Kind != yaml.ScalarNode || n.ShortTag() == "!!null" {
		r.Fail(n, "want a value")
		return "", false
	}
	if n.Value == "" || len(n.Value) > 1024 || strings.ContainsFunc(n.Value, func(c rune) bool { return c < ' ' || c == 0x7f }) {
		r.Fail(n, "want 1 to 1024 printable characters")
		return "", false
	}
	return n.Value, true
}

// Parsed reads a scalar with parse, whose error is the rule.
func Parsed[T any](r *Reader, into *T, parse func(string) (T, error)) func(*yaml.Node) {
	return func(n *yaml.Node) {
		s, ok := r.Text(n)
		if !ok {
			return
		}
		v, err := parse(s)
		if err != nil {
			r.Fail(n, "%v", err)
			return
		}
		*into = v
	}
}

// Each reads a list of scalars with parse, and refuses the same value twice.
func Each[T comparable](r *Reader, into *[]T, parse func(string) (T, error)) func(*yaml.Node) {
	return func(n *yaml.Node) {
		seen := map[T]bool{}
		r.List(n, func(e *yaml.Node) {
			before := len(r.errs)
			var v T
			Parsed(r, &v, parse)(e)
			switch {
			case len(r.errs) > before:
			case seen[v]:
				r.Fail(e, "%v twice in the list", v)
			default:
				*into = append(*into, v)
				seen[v] = true
			}
		})
	}
}

func DurationIn(least, most time.Duration) func(string) (time.Duration, error) {
	return func(s string) (time.Duration, error) {
		d, err := time.ParseDuration(s)
		if err != nil {
			return 0, fmt.Errorf("%q is not a duration: write 500ms, 30s or 5m", s)
		}
		if d < least || d > most {
			return 0, fmt.Errorf("%v is out of range: %v to %v", d, least, most)
		}
		return d, nil
	}
}

func IntegerIn[T int | uint8 | uint16 | uint32](least, most uint64) func(string) (T, error) {
	return func(s string) (T, error) {
		v, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("%q is not a whole number", s)
		}
		if v < least || v > most {
			return 0, fmt.Errorf("%d is out of range: %d to %d", v, least, most)
		}
		return T(v), nil
	}
}

func Boolean(s string) (bool, error) {
	switch s {
	case "true":
		return true, nil
	case "false":
		return false, nil
	}
	return false, fmt.Errorf("%q: want true or false", s)
}

// Address takes a unicast address without a zone, in either family.
func Address(s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	switch {
	case err != nil:
		return a, fmt.Errorf("%q is not an IP address", s)
	case a.Zone() != "":
		return a, fmt.Errorf("%s: an address with a zone is not supported", a)
	case a.Is4In6():
		return a, fmt.Errorf("%s: write the IPv4 address %s", a, a.Unmap())
	case a.IsUnspecified():
		return a, fmt.Errorf("%s is the wildcard: name one address", a)
	case a.IsMulticast(), a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return a, fmt.Errorf("%s is not a unicast address", a)
	}
	return a, nil
}

func Endpoint(s string) (netip.AddrPort, error) {
	ap, err := netip.ParseAddrPort(s)
	if err != nil {
		return ap, fmt.Errorf("%q is not address:port; IPv6 is [2001:db8::1]:8443", s)
	}
	if _, err := Address(ap.Addr().String()); err != nil {
		return ap, err
	}
	if ap.Port() == 0 {
		return ap, fmt.Errorf("%q: port 0 is none", s)
	}
	return ap, nil
}

func Prefix(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	switch {
	case err != nil:
		return p, fmt.Errorf("%q is not a prefix: write 192.0.2.0/24", s)
	case p != p.Masked():
		return p, fmt.Errorf("%s has bits set past its length: write %s", p, p.Masked())
	case p.Addr().Is4In6():
		return p, fmt.Errorf("%s: write an IPv4 prefix", p)
	case p.Bits() == 0:
		return p, fmt.Errorf("%s is the default route", p)
	}
	return p, nil
}

// Path takes an absolute path: a daemon's working directory is nobody's business.
func Path(s string) (string, error) {
	if !strings.HasPrefix(s, "/") {
		return "", fmt.Errorf("%q is not an absolute path", s)
	}
	return s, nil
}

// ZoneName takes a domain name, and returns it fully qualified and in lower case.
func ZoneName(s string) (string, error) {
	if _, ok := dns.IsDomainName(s); !ok {
		return "", fmt.Errorf("%q is not a domain name", s)
	}
	return dns.CanonicalName(s), nil
}
