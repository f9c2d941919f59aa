package adopt

import (
	"cmp"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/coredns-anycast/coredns-anycast/internal/fields"
)

// knot is the reading of a knot.conf: sections, which hold keys or items; an item begins with a dash.
type knot struct {
	*server
	opened []string
	lines  int
	now    string // section
	items  []*section
	ids    map[string]*section // by section and id, as "acl x"
}

// Knot reads a knot.conf, as of Knot DNS 3. The error is of type fields.Errors if the file could be read.
func Knot(path string, o Options) (*Plan, error) {
	data, err := fields.ReadFile(path, maxBytes)
	if err != nil {
		return nil, err
	}
	return parseKnot(path, data, o)
}

func parseKnot(path string, data []byte, o Options) (*Plan, error) {
	s, err := newServer(path, "Knot", o)
	if err != nil {
		return nil, err
	}
	r := &knot{server: s, ids: map[string]*section{}}
	r.read(path, data)
	for _, item := range r.items {
		r.ids[item.name+" "+strings.ToLower(item.value("id"))] = item
	}
	for _, item := range r.items {
		switch item.name {
		case "key":
			r.key(item.line, item.value("id"), item.value("algorithm"), item.value("secret"))
		case "server":
			r.global(item)
		case "zone":
			r.zone(item)
		case "acl", "remote", "remotes", "template":
			r.say(item.name, item.line, item.value("id"), Changed, "what it says is said of each zone that names it")
		default:
			r.other(item.name, item.line, cmp.Or(item.value("id"), item.name))
		}
	}
	return r.finish()
}

// read reads a file, and those that it includes.
func (r *knot) read(path string, data []byte) {
	r.opened = append(r.opened, path)
	defer func() { r.opened = r.opened[:len(r.opened)-1] }()
	for i, text := range strings.Split(string(data), "\n") {
		if r.lines++; r.lines > maxLines {
			r.fail(path, i+1, "more than %d lines", maxLines)
			return
		}
		words, wrong := splitKnot(text)
		if wrong != "" {
			r.fail(path, i+1, "%s", wrong)
			continue
		}
		if len(words) > 0 {
			r.line(line{file: path, at: i + 1}, words, text[0] == ' ' || text[0] == '\t')
		}
	}
}

// line is a section, the beginning of an item, a key of one, or a file to include.
func (r *knot) line(l line, words []word, indented bool) {
	dash := words[0].text == "-" && !words[0].quoted
	if dash {
		words = words[1:]
	}
	if len(words) == 0 || words[0].quoted || !strings.HasSuffix(words[0].text, ":") {
		r.fail(l.file, l.at, "want KEY: VALUE, or SECTION:")
		return
	}
	l.name = strings.TrimSuffix(words[0].text, ":")
	for _, w := range words[1:] {
		l.words = append(l.words, w.text)
	}
	switch {
	case !indented && !dash && l.name == "include" && len(l.words) == 1:
		r.include(l)
	case !indented && !dash && len(l.words) == 0:
		r.now = l.name
	case r.now == "":
		r.fail(l.file, l.at, "%s: before the first section", l.name)
	case dash || len(r.items) == 0 || r.items[len(r.items)-1].name != r.now:
		item := &section{line: line{name: r.now, file: l.file, at: l.at}}
		item.attrs = append(item.attrs, l)
		r.items = append(r.items, item)
	default:
		item := r.items[len(r.items)-1]
		item.attrs = append(item.attrs, l)
	}
}

// include reads a file, or the files of a directory or a pattern. A relative name starts where the file is that has it; Dir is for the others.
func (r *knot) include(l line) {
	in := ""
	if len(r.opened) > 1 {
		in = filepath.Dir(l.file)
	}
	name := r.path(in, l.words[0])
	if info, err := os.Stat(name); err == nil && info.IsDir() {
		name = filepath.Join(name, "*")
	}
	r.files(l, name, r.opened, r.read)
}

// on is whether a value says so (Knot takes both words).
func on(value string) bool { return strings.EqualFold(value, "on") || strings.EqualFold(value, "true") }

// values are all values of a key.
func (s *section) values(name string) (all []string) {
	for _, a := range s.attrs {
		if a.name == name {
			all = append(all, a.words...)
		}
	}
	return all
}

// global reads the section server.
func (r *knot) global(item *section) {
	for _, a := range item.attrs {
		if a.name == "listen" {
			for _, word := range a.words {
				if e, err := endpoint(atPort(word)); err == nil {
					r.listen = append(r.listen, e)
				} else if p, err := netip.ParseAddrPort(atPort(word)); err == nil {
					r.listen = append(r.listen, p) // of every address: for the port
				}
			}
		}
		r.other("server", a, a.name)
	}
}

// zone reads an item of the section zone, with its template.
func (r *knot) zone(item *section) {
	name, err := fields.ZoneName(item.value("domain"))
	if err != nil {
		r.fail(item.file, item.at, "zone: domain: %v", err)
		return
	}
	template := r.ids["template "+strings.ToLower(cmp.Or(item.value("template"), "default"))]
	if template == nil {
		if item.value("template") != "" {
			r.fail(item.file, item.at, "zone %s: there is no template %s", name, item.value("template"))
			return
		}
		template = &section{}
	}
	get := func(key string) []string {
		if own := item.values(key); len(own) > 0 {
			return own
		}
		return template.values(key)
	}
	one := func(key, otherwise string) string { return append(get(key), otherwise)[0] }
	z := &served{line: item.line, zone: name, add: "add an acl with action: transfer and a key to the zone"}
	r.zones = append(r.zones, z)
	file := strings.ReplaceAll(one("file", "%s.zone"), "%s", strings.TrimSuffix(name, "."))
	if strings.Contains(file, "%") && r.o.Whole {
		z.fault = "its zone file is " + file + ": of such signs only %s is known here"
	}
	z.file = r.path(one("storage", "/var/lib/knot"), file)
	z.signs = on(one("dnssec-signing", "off")) || len(get("module")) > 0 || len(get("reverse-generate")) > 0
	if role := one("catalog-role", "none"); role != "none" && role != "member" {
		z.fault = "it is a catalog: list it under sources: catalogs by hand"
	}
	for _, id := range get("master") {
		r.master(z, item, id, 0)
	}
	for _, id := range get("acl") {
		r.acl(z, item, id)
	}
	for _, a := range item.attrs {
		if !slices.Contains([]string{"domain", "file", "storage", "template"}, a.name) {
			r.other("zone", a, a.name)
		}
	}
}

// master notes a remote, or a group of them, as primaries of a zone.
func (r *knot) master(z *served, item *section, id string, depth int) {
	if group := r.ids["remotes "+strings.ToLower(id)]; group != nil && depth == 0 {
		for _, id := range group.values("remote") {
			r.master(z, item, id, 1)
		}
		return
	}
	remote := r.ids["remote "+strings.ToLower(id)]
	if remote == nil {
		r.fail(item.file, item.at, "zone %s: there is no remote %s", z.zone, id)
		return
	}
	if on(remote.value("quic")) || on(remote.value("tls")) {
		z.fault = "it comes over TLS or QUIC: list it under sources by hand"
	}
	for _, address := range remote.values("address") {
		a, err := endpoint(atPort(address))
		if err != nil {
			r.fail(remote.file, remote.at, "remote %s: %v", id, err)
			continue
		}
		z.from = append(z.from, Server{Address: a, Key: remote.value("key")})
	}
}

// acl notes who may transfer a zone.
func (r *knot) acl(z *served, item *section, id string) {
	acl := r.ids["acl "+strings.ToLower(id)]
	if acl == nil {
		r.fail(item.file, item.at, "zone %s: there is no acl %s", z.zone, id)
		return
	}
	if on(acl.value("deny")) {
		return
	}
	if slices.Contains(acl.values("action"), "update") {
		z.signs = true
	}
	if !slices.Contains(acl.values("action"), "transfer") {
		return
	}
	keys, addresses := acl.values("key"), acl.values("address")
	for _, id := range acl.values("remote") {
		if remote := r.ids["remote "+strings.ToLower(id)]; remote != nil {
			keys, addresses = append(keys, remote.values("key")...), append(addresses, remote.values("address")...)
		}
	}
	z.keys, z.limited = append(z.keys, keys...), append(z.limited, addresses...)
	z.open = z.open || len(keys) == 0
}

// splitKnot splits a line into words: a dash, a key with its colon, and values, which may be a list.
func splitKnot(text string) (words []word, wrong string) {
	words, wrong = split(text)
	if wrong != "" {
		return nil, wrong
	}
	var all []word
	for i, w := range words {
		if w.quoted {
			all = append(all, w)
			continue
		}
		if key, rest, ok := strings.Cut(w.text, ":"); ok && rest != "" && (i == 0 || i == 1 && words[0].text == "-") && strings.Trim(key, "abcdefghijklmnopqrstuvwxyz0123456789-") == "" {
			all = append(all, word{text: key + ":"}) // KEY:VALUE
			w.text = rest
		}
		for _, piece := range strings.FieldsFunc(w.text, func(c rune) bool { return c == '[' || c == ']' || c == ',' }) {
			all = append(all, word{text: piece})
		}
	}
	return all, ""
}
