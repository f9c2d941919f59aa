package adopt

import (
	"net/netip"
	"regexp"
	"strconv"
	"strings"

	"github.com/coredns-anycast/coredns-anycast/internal/fields"
)

// nsd is the reading of an nsd.conf: sections of attributes, one on a line or more.
type nsd struct {
	*server
	opened   []string
	lines    int
	sections []*section
	port     uint16
	zonesdir string
	patterns map[string]*section
}

// section is one of nsd.conf, or an item of a section of knot.conf.
type section struct {
	line
	attrs []line
}

// NSD reads an nsd.conf, as of NSD 4. The error is of type fields.Errors if the file could be read.
func NSD(path string, o Options) (*Plan, error) {
	data, err := fields.ReadFile(path, maxBytes)
	if err != nil {
		return nil, err
	}
	return parseNSD(path, data, o)
}

func parseNSD(path string, data []byte, o Options) (*Plan, error) {
	s, err := newServer(path, "NSD", o)
	if err != nil {
		return nil, err
	}
	r := &nsd{server: s, port: 53, patterns: map[string]*section{}}
	r.read(path, data)
	for _, sec := range r.sections {
		switch sec.name {
		case "server":
			r.global(sec)
		case "key":
			r.key(sec.line, sec.value("name"), sec.value("algorithm"), sec.value("secret"))
		case "pattern":
			r.patterns[sec.value("name")] = sec
		}
	}
	for i := range r.listen {
		if r.listen[i].Port() == 0 {
			r.listen[i] = netip.AddrPortFrom(r.listen[i].Addr(), r.port)
		}
	}
	for _, sec := range r.sections {
		switch sec.name {
		case "server", "key":
		case "zone":
			r.zone(sec)
		case "pattern":
			r.say("pattern", sec.line, sec.value("name"), Changed, "what it says is said of each zone that includes it")
		default:
			r.other(sec.name, sec.line, sec.name)
		}
	}
	return r.finish()
}

// value is the first value of an attribute.
func (s *section) value(name string) string {
	for _, a := range s.attrs {
		if a.name == name && len(a.words) > 0 {
			return a.words[0]
		}
	}
	return ""
}

var attribute = regexp.MustCompile(`^[a-z][a-z0-9-]*:$`)

// maxLines bounds a file and what it includes.
const maxLines = 2_000_000

// read reads a file, and those that it includes.
func (r *nsd) read(path string, data []byte) {
	r.opened = append(r.opened, path)
	defer func() { r.opened = r.opened[:len(r.opened)-1] }()
	for i, text := range strings.Split(string(data), "\n") {
		if r.lines++; r.lines > maxLines {
			r.fail(path, i+1, "more than %d lines", maxLines)
			return
		}
		words, wrong := split(text)
		if wrong != "" {
			r.fail(path, i+1, "%s", wrong)
			continue
		}
		for len(words) > 0 {
			l := line{name: strings.TrimSuffix(words[0].text, ":"), file: path, at: i + 1}
			if words[0].quoted || !attribute.MatchString(words[0].text) {
				r.fail(path, i+1, "want ATTRIBUTE: VALUE, or SECTION:")
				break
			}
			n := 1
			for ; n < len(words) && (words[n].quoted || !attribute.MatchString(words[n].text)); n++ {
				l.words = append(l.words, words[n].text)
			}
			words = words[n:]
			r.line(l)
		}
	}
}

// line is a section, an attribute of the last one, or a file to include.
func (r *nsd) line(l line) {
	switch {
	case l.name == "include" && len(l.words) == 1:
		r.files(l, r.path("", l.words[0]), r.opened, r.read)
	case len(l.words) == 0:
		r.sections = append(r.sections, &section{line: l})
	case len(r.sections) == 0:
		r.fail(l.file, l.at, "%s: before the first section", l.name)
	default:
		sec := r.sections[len(r.sections)-1]
		sec.attrs = append(sec.attrs, l)
	}
}

// global reads the section server.
func (r *nsd) global(sec *section) {
	for _, a := range sec.attrs {
		value := sec.first(a)
		switch a.name {
		case "ip-address", "interface":
			host, port, _ := strings.Cut(value, "@")
			n, err := strconv.ParseUint(port, 10, 16)
			if addr, fault := netip.ParseAddr(host); fault == nil && (port == "" || err == nil) {
				r.listen = append(r.listen, netip.AddrPortFrom(addr, uint16(n)))
			}
			r.other("server", a, a.name)
		case "port":
			if n, err := strconv.ParseUint(value, 10, 16); err == nil && n > 0 {
				r.port = uint16(n)
			}
			r.other("server", a, a.name)
		case "zonesdir":
			r.zonesdir = value
			r.say("server", a, a.name, Changed, "zone files have absolute paths here")
		default:
			r.other("server", a, a.name)
		}
	}
}

// first is the first word of an attribute.
func (s *section) first(a line) string {
	if len(a.words) == 0 {
		return ""
	}
	return a.words[0]
}

// zone reads a section zone, with the patterns that it includes.
func (r *nsd) zone(sec *section) {
	name, err := fields.ZoneName(sec.value("name"))
	if err != nil {
		r.fail(sec.file, sec.at, "zone: name: %v", err)
		return
	}
	z := &served{line: sec.line, zone: name, add: "add provide-xfr: ADDRESS KEY to the zone, with the address of the distribution host"}
	r.zones = append(r.zones, z)
	r.attributes(z, sec, 0)
}

func (r *nsd) attributes(z *served, sec *section, depth int) {
	for _, a := range sec.attrs {
		if !r.step(z, a.file, a.at) {
			return
		}
		switch a.name {
		case "name":
		case "include-pattern":
			p := r.patterns[sec.first(a)]
			if p == nil || depth > maxDepth {
				r.fail(a.file, a.at, "zone %s: there is no pattern %s, or patterns include each other", z.zone, sec.first(a))
				continue
			}
			r.attributes(z, p, depth+1)
		case "zonefile":
			file := strings.ReplaceAll(sec.first(a), "%s", strings.TrimSuffix(z.zone, "."))
			if strings.Contains(file, "%") && r.o.Whole {
				z.fault = "its zone file is " + sec.first(a) + ": of such signs only %s is known here"
			}
			z.file = r.path(r.zonesdir, file)
		case "provide-xfr":
			r.provide(z, a)
		case "request-xfr":
			r.request(z, a)
		case "notify", "allow-notify":
			r.say("zone", a, a.name, Changed, "%s", map[bool]string{true: "nodes are not told: meshctl serve is, and releases are", false: "have it tell the distribution host as well"}[r.o.Whole])
		case "catalog", "catalog-member-pattern", "catalog-producer-zone":
			z.fault = "it is of a catalog: list it under sources: catalogs by hand"
		default:
			r.other("zone", a, a.name)
		}
	}
}

// provide reads provide-xfr: ADDRESS KEY.
func (r *nsd) provide(z *served, a line) {
	if len(a.words) < 2 {
		r.fail(a.file, a.at, "provide-xfr: want ADDRESS KEY")
		return
	}
	switch key := a.words[1]; key {
	case "BLOCKED":
	case "NOKEY":
		z.open = true
		z.limited = append(z.limited, a.words[0])
	default:
		z.keys = append(z.keys, key)
		z.limited = append(z.limited, a.words[0])
	}
	r.other("zone", a, a.name)
}

// request reads request-xfr: [AXFR|UDP] ADDRESS KEY [TLS].
func (r *nsd) request(z *served, a line) {
	words := a.words
	if len(words) > 0 && (words[0] == "AXFR" || words[0] == "UDP") {
		words = words[1:]
	}
	if len(words) < 2 {
		r.fail(a.file, a.at, "request-xfr: want ADDRESS KEY")
		return
	}
	address, err := endpoint(atPort(words[0]))
	if err != nil {
		r.fail(a.file, a.at, "request-xfr: %v", err)
		return
	}
	from := Server{Address: address}
	if words[1] != "NOKEY" {
		from.Key = words[1]
	}
	if len(words) > 2 && r.o.Whole {
		z.fault = "it comes over TLS: list it under sources by hand"
	}
	z.from = append(z.from, from)
	r.other("zone", a, a.name)
}

// atPort is an address with a port, which NSD and Knot write behind @.
func atPort(text string) string {
	host, port, ok := strings.Cut(text, "@")
	if !ok {
		return host
	}
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	return host + ":" + port
}

// word is one of a line, which may have been in quotation marks.
type word struct {
	text   string
	quoted bool
}

// split splits a line into words, without its comment. What is wrong with it is returned, or nothing.
func split(text string) (words []word, wrong string) {
	for i := 0; i < len(text); {
		switch c := text[i]; {
		case c == ' ' || c == '\t' || c == '\r':
			i++
		case c == '#':
			return words, ""
		case c == '"' || c == '\'':
			end := strings.IndexByte(text[i+1:], c)
			if end < 0 {
				return nil, "a quotation without its end"
			}
			words = append(words, word{text[i+1 : i+1+end], true})
			i += end + 2
		default:
			begin := i
			for i < len(text) && !strings.ContainsRune(" \t\r#\"", rune(text[i])) {
				i++
			}
			words = append(words, word{text[begin:i], false})
		}
	}
	return words, ""
}
