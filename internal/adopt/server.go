package adopt

import (
	"cmp"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/fields"
)

// Format is the form of a configuration.
type Format struct {
	Name string
	Read func(path string, o Options) (*Plan, error)
}

// Formats are those that are read.
var Formats = []Format{
	{"corefile", func(path string, o Options) (*Plan, error) { return Corefile(path, o.Dir) }},
	{"knot", Knot},
	{"nsd", NSD},
	{"named", Named},
}

// FormatOf is the format that a file's name tells: Corefile, knot.conf, nsd.conf, named.conf, and what begins so.
func FormatOf(path string) (Format, bool) {
	base := strings.ToLower(filepath.Base(path))
	for _, f := range Formats {
		if strings.HasPrefix(base, f.Name) {
			return f, true
		}
	}
	return Format{}, false
}

// Options say how a server's configuration is taken over.
type Options struct {
	Dir     string     // where relative paths in it start; empty: where the file is
	Whole   bool       // the server goes; otherwise it stays as the hidden primary of its zones
	Primary netip.Addr // the address at which it is asked for zones; invalid: one that it listens on
}

// server is the configuration of an authoritative server, whichever language it is written in.
type server struct {
	*reader
	o      Options
	what   string // its name
	listen []netip.AddrPort
	keys   []Key
	zones  []*served
	steps  int
}

// served is a zone of a server.
type served struct {
	line
	zone    string
	view    string
	file    string   // absolute
	from    []Server // its primaries, if it is a secondary
	keys    []string // by which it may be transferred
	open    bool     // it may be transferred without a key
	limited []string // addresses that it may be transferred from, if they are said
	signs   bool     // the server signs it, or changes it by itself
	fault   string   // why it cannot be taken over
	add     string   // what allows the transfer
	steps   int
}

func newServer(path, what string, o Options) (*server, error) {
	r, err := newReader(path, o.Dir)
	return &server{reader: r, o: o, what: what}, err
}

func (s *server) say(block string, l line, what string, fate Fate, format string, args ...any) {
	s.plan.Parts = append(s.plan.Parts, Part{l.file, l.at, block, what, fate, fmt.Sprintf(format, args...)})
}

// maxSteps bounds what lists and patterns that name each other multiply: of one zone, and of all.
const (
	maxSteps    = 10_000
	maxAllSteps = 2_000_000
)

// step counts one of a zone, and is false from when there were too many.
func (s *server) step(z *served, file string, line int) bool {
	z.steps++
	s.steps++
	if z.steps == maxSteps || s.steps == maxAllSteps {
		s.fail(file, line, "zone %s: lists or patterns name each other, and are too long together", z.zone)
	}
	return z.steps < maxSteps && s.steps < maxAllSteps
}

// other says what becomes of what concerns no zone's origin.
func (s *server) other(block string, l line, what string) {
	if s.o.Whole {
		s.say(block, l, what, Absent, "it is %s's own; docs/reference/corefile.md has what nodes can be told", s.what)
		return
	}
	s.say(block, l, what, Changed, "it stays with the hidden primary")
}

// key notes a TSIG key, if a distribution host takes such a one.
func (s *server) key(l line, name, algorithm, secret string) {
	k, err := keyOf(name, algorithm, secret)
	switch {
	case err != nil:
		s.fail(l.file, l.at, "%v", err)
	case slices.ContainsFunc(s.keys, func(o Key) bool { return o.Name == k.Name }):
		s.fail(l.file, l.at, "key %s twice", k.Name)
	default:
		s.keys = append(s.keys, k)
		fate, says := Changed, "in a file of its own, if a zone comes by it"
		if why := weak(k); why != "" {
			fate, says = Refused, why
		}
		s.say("key", l, k.Name, fate, "%s", says)
	}
}

// weak is why a distribution host does not take a key; empty: it does.
func weak(k Key) string {
	if !slices.Contains([]string{"hmac-sha1", "hmac-sha256", "hmac-sha384", "hmac-sha512"}, k.Algorithm) {
		return k.Algorithm + " is not taken: make a key of hmac-sha256"
	}
	if len(k.Secret) < 22 { // base64 of 16 octets
		return "its secret has less than 16 octets: make a longer one"
	}
	return ""
}

// usable is the first of these keys that a host takes.
func (s *server) usable(names []string) (Key, bool) {
	for _, name := range names {
		for _, k := range s.keys {
			if k.Name == dns.CanonicalName(name) && weak(k) == "" {
				return k, true
			}
		}
	}
	return Key{}, false
}

// finish decides on every zone.
func (s *server) finish() (*Plan, error) {
	if len(s.zones) > maxZones {
		s.fail(s.plan.File, 1, "more than %d zones", maxZones)
		return s.done()
	}
	primary, ok := s.primary()
	if !s.o.Whole && !ok && len(s.zones) > 0 {
		s.fail(s.plan.File, 1, "it says no address on which %s is reached: give --primary ADDRESS", s.what)
		return s.done()
	}
	views := map[string]int{}
	for _, z := range s.zones {
		views[z.zone]++
		s.plan.wanted = append(s.plan.wanted, dns.CanonicalName(z.zone))
	}
	for _, z := range s.zones {
		switch {
		case z.fault == "" && views[z.zone] > 1 && slices.ContainsFunc(s.plan.Zones, func(o Zone) bool { return o.Name == z.zone }):
			z.fault = "it is taken from another view: a mesh has one content of a zone, and other views need a mesh of their own"
		case z.fault == "" && views[z.zone] > 1 && !s.o.Whole:
			z.fault = "it is in several views, and which of them is transferred depends on who asks: list it under sources by hand"
		}
		switch {
		case z.fault != "":
			s.say("zone", z.line, z.zone, Refused, "%s", z.fault)
		case s.o.Whole:
			s.whole(z)
		default:
			s.hidden(z, primary)
		}
	}
	slices.SortStableFunc(s.plan.Parts, func(a, b Part) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line))
	})
	return s.done()
}

// primary is where the server is asked for zones.
func (s *server) primary() (netip.AddrPort, bool) {
	port := uint16(53)
	if len(s.listen) > 0 {
		port = s.listen[0].Port()
	}
	if s.o.Primary.IsValid() {
		for _, a := range s.listen {
			if a.Addr() == s.o.Primary {
				return a, true
			}
		}
		return netip.AddrPortFrom(s.o.Primary, port), true
	}
	for _, a := range s.listen {
		if _, err := fields.Endpoint(a.String()); err == nil {
			return a, true
		}
	}
	return netip.AddrPort{}, false
}

// hidden takes a zone by transfer from the server.
func (s *server) hidden(z *served, at netip.AddrPort) {
	from := Server{Address: at}
	says := "without a key (no_key): nothing proves who answers"
	k, ok := s.usable(z.keys)
	switch {
	case ok:
		s.use(k)
		from.Key = k.Name
		says = "signed with " + k.Name
	case len(z.keys) > 0:
		s.say("zone", z.line, z.zone, Refused, "of the keys that may transfer it none is usable: %s", strings.Join(z.keys, " "))
		return
	case !z.open:
		s.say("zone", z.line, z.zone, Refused, "nobody may transfer it: %s", z.add)
		return
	}
	if len(z.limited) > 0 {
		says += "; allowed from " + some(z.limited) + ": the distribution host must have such an address"
	}
	s.say("zone", z.line, z.zone, Changed, "from %s at %s, %s", s.what, at, says)
	s.plan.Zones = append(s.plan.Zones, Zone{Name: z.zone, Primaries: s.primaries([]Server{from})})
}

// use has a key in the plan.
func (s *server) use(k Key) {
	if !slices.Contains(s.plan.Keys, k) {
		s.plan.Keys = append(s.plan.Keys, k)
	}
}

// whole takes a zone from where the server has it.
func (s *server) whole(z *served) {
	switch {
	case z.signs:
		s.say("zone", z.line, z.zone, Refused, "%s signs or changes it, and nothing here does: keep the server as hidden primary, without --whole", s.what)
	case len(z.from) > 0:
		var servers []Server
		for _, from := range z.from {
			k, ok := s.usable([]string{from.Key})
			if from.Key != "" && !ok {
				s.say("zone", z.line, z.zone, Refused, "key %s of its primary %s is not usable", from.Key, from.Address)
				return
			}
			if ok {
				s.use(k)
				from.Key = k.Name
			}
			servers = append(servers, from)
		}
		name := s.primaries(servers)
		s.say("zone", z.line, z.zone, Changed, "from primaries %s", name)
		s.plan.Zones = append(s.plan.Zones, Zone{Name: z.zone, Primaries: name})
	case z.file == "":
		s.say("zone", z.line, z.zone, Refused, "it says neither a file nor primaries")
	default:
		taken := Zone{Name: z.zone, File: z.file}
		if why := checkFile(taken); why != "" {
			s.say("zone", z.line, z.zone, Refused, "%s", why)
			return
		}
		s.say("zone", z.line, z.zone, Changed, "a copy of %s", z.file)
		s.plan.Zones = append(s.plan.Zones, taken)
	}
}

// files has the files that the pattern of an include names read, but for those of opened, which are being read.
func (s *server) files(l line, pattern string, opened []string, read func(file string, data []byte)) {
	all, err := filepath.Glob(pattern)
	if err != nil || len(all) == 0 {
		s.fail(l.file, l.at, "include: there is no %s", l.words[0])
	}
	for _, file := range all {
		if slices.Contains(opened, file) || len(opened) > maxDepth {
			s.fail(l.file, l.at, "include: %s includes itself, or files are nested more than %d deep", file, maxDepth)
			continue
		}
		if info, err := os.Stat(file); err != nil || !info.Mode().IsRegular() {
			s.fail(l.file, l.at, "include: %s is no file", file)
			continue
		}
		data, err := fields.ReadFile(file, maxBytes)
		if err != nil {
			s.fail(l.file, l.at, "include: %v", err)
			continue
		}
		read(file, data)
	}
}
