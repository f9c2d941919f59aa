package adopt

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/coredns-anycast/coredns-anycast/internal/fields"
)

// named is the reading of a named.conf.
type named struct {
	*server
	acls  map[string][]*statement
	lists map[string]*statement // of primaries
	dir   string
	given inherited // by options
}

// inherited are the statements that a zone has from its view or from options, by their names.
type inherited map[string]*statement

// passedOn are the names of those that are looked at.
var passedOn = []string{"allow-transfer", "allow-update", "dnssec-policy", "auto-dnssec"}

// and is what i and a block pass on.
func (i inherited) and(block []*statement) inherited {
	all := maps.Clone(i)
	for _, st := range block {
		if name := strings.ToLower(st.word(0)); slices.Contains(passedOn, name) {
			all[name] = st
		}
	}
	return all
}

// Named reads a named.conf, as of BIND 9.18. The error is of type fields.Errors if the file could be read.
func Named(path string, o Options) (*Plan, error) {
	data, err := fields.ReadFile(path, maxBytes)
	if err != nil {
		return nil, err
	}
	return parseNamed(path, data, o)
}

func parseNamed(path string, data []byte, o Options) (*Plan, error) {
	s, err := newServer(path, "BIND", o)
	if err != nil {
		return nil, err
	}
	r := &named{server: s, acls: map[string][]*statement{}, lists: map[string]*statement{}, given: inherited{}}
	all, err := parseBraces(path, data, r.includes)
	if err != nil {
		return nil, err
	}
	r.first(all)
	for _, st := range all {
		r.statement(st, "", r.given)
	}
	return r.finish()
}

// includes are the files that an include statement names, which may be a pattern. A relative name is one in the directory of options, if
// that was said before, as BIND changes there at once.
func (r *named) includes(in, pattern string) (files []string, err error) {
	pattern = r.path(in, pattern)
	files, err = filepath.Glob(pattern)
	if err == nil && len(files) == 0 {
		err = fmt.Errorf("there is no %s", pattern)
	}
	return files, err
}

// at is where a statement is.
func (s *statement) at() line { return line{name: s.word(0), file: s.file, at: s.line} }

// first reads what others refer to: keys, access lists, lists of primaries, options.
func (r *named) first(all []*statement) {
	for _, st := range all {
		switch strings.ToLower(st.word(0)) {
		case "key":
			r.keyStatement(st)
		case "acl":
			r.acls[st.word(1)] = st.block()
		case "primaries", "masters", "remote-servers":
			r.lists[st.word(1)] = st
		case "options":
			r.options(st)
		case "view":
			r.first(slices.DeleteFunc(slices.Clone(st.block()), func(s *statement) bool { return strings.EqualFold(s.word(0), "options") }))
		}
	}
}

func (r *named) keyStatement(st *statement) {
	k, err := st.key()
	if err != nil {
		r.fail(st.file, st.line, "%v", err)
		return
	}
	r.key(st.at(), k.Name, k.Algorithm, k.Secret)
}

// options reads the statement options.
func (r *named) options(st *statement) {
	r.given = r.given.and(st.block())
	for _, o := range st.block() {
		switch strings.ToLower(o.word(0)) {
		case "directory":
			r.dir = o.word(1)
			r.say("options", o.at(), o.word(0), Changed, "zone files have absolute paths here")
			continue
		case "listen-on", "listen-on-v6":
			port := 53
			if o.word(1) == "port" {
				port, _ = strconv.Atoi(o.word(2))
			}
			tls := slices.ContainsFunc(o.parts, func(p part) bool { return p.word == "tls" || p.word == "http" })
			for _, e := range o.block() {
				if tls {
					break
				}
				if a, err := netip.ParseAddr(e.word(0)); err == nil && port > 0 && port < 1<<16 {
					r.listen = append(r.listen, netip.AddrPortFrom(a, uint16(port)))
				}
			}
		}
		r.other("options", o.at(), o.word(0))
	}
}

// statement reads one of the file, or of a view.
func (r *named) statement(st *statement, view string, given inherited) {
	switch name := strings.ToLower(st.word(0)); name {
	case "key", "options": // were read
	case "acl", "primaries", "masters", "remote-servers":
		r.say(name, st.at(), st.word(1), Changed, "what it says is said of each zone that names it")
	case "zone":
		r.zone(st, view, given)
	case "view":
		r.say("view", st.at(), st.word(1), Changed, "a mesh gives everybody the same answers; its zones follow")
		given = given.and(st.block())
		for _, inner := range st.block() {
			r.statement(inner, st.word(1), given)
		}
	default:
		r.other(cmp.Or(view, "named.conf"), st.at(), st.word(0))
	}
}

// types are those of zones that are none of the server's own.
var types = map[string]string{
	"hint":            "nodes resolve nothing",
	"forward":         "nodes resolve nothing",
	"stub":            "nodes resolve nothing",
	"static-stub":     "nodes resolve nothing",
	"mirror":          "nodes resolve nothing",
	"redirect":        "nodes resolve nothing",
	"delegation-only": "nodes resolve nothing",
}

// zone reads zone NAME [CLASS] { … }.
func (r *named) zone(st *statement, view string, given inherited) {
	name, err := fields.ZoneName(st.word(1))
	if err != nil {
		r.fail(st.file, st.line, "zone: %v", err)
		return
	}
	kind := ""
	if t := find(st.block(), "type"); t != nil {
		kind = strings.ToLower(t.word(1))
	}
	if class := strings.ToUpper(st.word(2)); class != "" && class != "IN" {
		r.say("zone", st.at(), name, Absent, "nodes answer class IN from zones")
		return
	}
	if why := types[kind]; why != "" || find(st.block(), "in-view") != nil {
		r.say("zone", st.at(), name, Absent, "%s", cmp.Or(why, "a mesh has no views"))
		return
	}
	z := &served{line: st.at(), zone: name, view: view,
		add: "add allow-transfer { key NAME; }; to the zone"}
	if !slices.Contains([]string{"primary", "master", "secondary", "slave"}, kind) {
		z.fault = fmt.Sprintf("type %q of a zone is not known here", kind)
	}
	given = given.and(st.block())
	for _, o := range st.block() {
		r.zoneOption(z, o, kind)
	}
	z.signs = changes(st.block(), given, kind)
	allow := given["allow-transfer"]
	if allow == nil {
		z.open = true // the default of BIND 9.18
	} else {
		r.matches(z, allow.block(), 0)
		if i := slices.IndexFunc(allow.parts, func(p part) bool { return p.word == "transport" }); i >= 0 && allow.word(i+1) != "tcp" && !r.o.Whole {
			z.fault = "it may be transferred over TLS only: list it under sources by hand"
		}
	}
	r.zones = append(r.zones, z)
}

// zoneOption reads one statement of a zone.
func (r *named) zoneOption(z *served, o *statement, kind string) {
	switch strings.ToLower(o.word(0)) {
	case "type":
		return
	case "file":
		z.file = r.path(r.dir, o.word(1))
		return
	case "primaries", "masters":
		if kind == "secondary" || kind == "slave" {
			r.servers(z, o, 0)
		}
	}
	r.other("zone", o.at(), o.word(0))
}

// changes reports whether BIND signs a zone, or lets clients change it: then its file is not what it answers. Of a secondary zone that is so only
// where it says itself that it is signed in line.
func changes(own []*statement, given inherited, kind string) bool {
	on := func(st *statement) bool {
		if st == nil {
			return false
		}
		if block := st.block(); len(block) > 0 {
			return len(block) > 1 || block[0].word(0) != "none"
		}
		return !slices.Contains([]string{"", "no", "false", "0", "none", "off"}, strings.ToLower(st.word(1)))
	}
	if on(find(own, "inline-signing")) {
		return true
	}
	if kind != "primary" && kind != "master" {
		return false
	}
	return on(find(own, "update-policy")) || on(given["allow-update"]) || on(given["dnssec-policy"]) || on(given["auto-dnssec"])
}

// servers reads a list of primaries.
func (r *named) servers(z *served, list *statement, depth int) {
	port := "53"
	for i, p := range list.parts {
		if p.word == "port" {
			port = list.word(i + 1)
		}
	}
	for _, e := range list.block() {
		if !r.step(z, e.file, e.line) {
			return
		}
		a, err := netip.ParseAddr(e.word(0))
		if err != nil {
			named := r.lists[e.word(0)]
			if named == nil || depth > maxDepth {
				r.fail(e.file, e.line, "zone %s: %q is no address and no list of primaries", z.zone, e.word(0))
				continue
			}
			r.servers(z, named, depth+1)
			continue
		}
		from, own := Server{}, port
		for i := 1; i+1 < len(e.parts); i += 2 {
			switch e.word(i) {
			case "port":
				own = e.word(i + 1)
			case "key":
				from.Key = e.word(i + 1)
			case "tls":
				if r.o.Whole {
					z.fault = "it comes over TLS: list it under sources by hand"
				}
			}
		}
		n, err := strconv.ParseUint(own, 10, 16)
		if err == nil {
			from.Address, err = fields.Endpoint(netip.AddrPortFrom(a, uint16(n)).String())
		}
		if err != nil {
			r.fail(e.file, e.line, "zone %s: %v", z.zone, err)
			continue
		}
		if len(z.from) < maxZones {
			z.from = append(z.from, from)
		}
	}
}

// matches reads who may transfer a zone. What is denied is not looked at.
func (r *named) matches(z *served, list []*statement, depth int) {
	for _, e := range list {
		if !r.step(z, e.file, e.line) {
			return
		}
		what := e.word(0)
		switch {
		case depth > maxDepth || strings.HasPrefix(what, "!") || what == "none":
		case len(e.block()) > 0:
			r.matches(z, e.block(), depth+1)
		case what == "key":
			z.keys = append(z.keys, e.word(1))
		case what == "any":
			z.open = true
		case r.acls[what] != nil:
			r.matches(z, r.acls[what], depth+1)
		case what != "":
			z.open = true
			z.limited = append(z.limited, what)
		}
		if len(z.keys)+len(z.limited) > 1000 {
			return
		}
	}
}
