package adopt

import (
	"bytes"
	"cmp"
	"fmt"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/coredns/caddy/caddyfile"

	"github.com/coredns-anycast/coredns-anycast/internal/fields"
)

// corefile is the reading of a Corefile. What imports multiply is bounded by the parser: 10,000 snippets.
type corefile struct {
	*reader
	blocks  []*serverBlock
	found   []*candidate // zones, as they were found
	folders []*folder
}

// serverBlock is one of a Corefile.
type serverBlock struct {
	keys       []string
	zones      []string // of the keys
	directives []directive
	root       string
	view       string
	adopted    []string // zones that are taken from it
}

// candidate is a zone that a block serves, which another block may serve as well.
type candidate struct {
	Zone
	block *serverBlock
	part  Part    // what is said of it if it is taken
	from  *folder // that it is in
	won   bool
}

// Corefile reads that of a CoreDNS. Relative paths in it start from dir; empty: from where the file is. The error is of type
// fields.Errors if the file could be read.
func Corefile(path, dir string) (*Plan, error) {
	data, err := fields.ReadFile(path, maxBytes)
	if err != nil {
		return nil, err
	}
	return parseCorefile(path, dir, data)
}

// said is how the parser says where an error is.
var said = regexp.MustCompile(`^(.*:\d+) - (?:Error during parsing: |Syntax error: )?(.*)`)

func parseCorefile(path, dir string, data []byte) (*Plan, error) {
	base, err := newReader(path, dir)
	if err != nil {
		return nil, err
	}
	r := &corefile{reader: base}
	if r.environment(data); len(r.errs) > 0 {
		return nil, r.errs
	}
	parsed, err := caddyfile.Parse(path, bytes.NewReader(data), nil)
	if err != nil {
		return nil, fields.Errors{said.ReplaceAllString(err.Error(), "$1: $2")}
	}
	for _, sb := range parsed {
		r.block(sb)
	}
	r.decide()
	for _, b := range r.blocks {
		r.rest(b)
	}
	r.nodes()
	for _, c := range r.found {
		if c != nil {
			r.plan.wanted = append(r.plan.wanted, c.Name)
		}
	}
	slices.SortStableFunc(r.plan.Parts, func(a, b Part) int {
		return cmp.Or(cmp.Compare(r.order(a), r.order(b)), cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line))
	})
	return r.done()
}

// variable is how a Corefile names a variable of the environment.
var variable = regexp.MustCompile(`\{\$([^{}]+)\}|\{%([^{}]+)%\}`)

// environment says which variables of the environment a file names that are not set here. The parser takes such a one for nothing, and leaves
// out a block whose key it is.
func (r *corefile) environment(data []byte) {
	for i, text := range strings.Split(string(data), "\n") {
		if at := comment.FindStringIndex(text); at != nil {
			text = text[:at[0]]
		}
		for _, m := range variable.FindAllStringSubmatch(text, -1) {
			name := cmp.Or(m[1], m[2])
			if _, set := os.LookupEnv(name); !set {
				r.fail(r.plan.File, i+1, "the environment variable %q is not set here: set it as the server has it, be it to nothing", name)
			}
		}
	}
}

// comment is where one begins.
var comment = regexp.MustCompile(`(^|\s)#`)

// order is the number of the block that a part is in.
func (r *corefile) order(p Part) int {
	return slices.IndexFunc(r.blocks, func(b *serverBlock) bool { return b.name() == p.Block })
}

// hasZones reports whether a block answers from zones, be they taken over or not.
func (b *serverBlock) hasZones() bool {
	return slices.ContainsFunc(b.directives, func(d directive) bool { return slices.Contains(zoned, d.name) })
}

// zoned are the plugins whose zones are taken over.
var zoned = []string{"file", "auto", "secondary"}

func (b *serverBlock) name() string { return strings.Join(b.keys, " ") }

func (r *corefile) say(b *serverBlock, l line, what string, fate Fate, format string, args ...any) {
	r.plan.Parts = append(r.plan.Parts, Part{l.file, l.at, b.name(), what, fate, fmt.Sprintf(format, args...)})
}

// block reads a server block as far as the zones that it serves.
func (r *corefile) block(sb caddyfile.ServerBlock) {
	b := &serverBlock{keys: sb.Keys, directives: directives(r.plan.File, sb)}
	r.blocks = append(r.blocks, b)
	first := line{file: r.plan.File, at: 1}
	if len(b.directives) > 0 {
		first = b.directives[0].line
	}
	for _, key := range sb.Keys {
		transport, zone, ok := strings.Cut(key, "://")
		if !ok {
			transport, zone = "dns", key
		}
		if m := portAtEnd.FindStringSubmatch(zone); m != nil {
			zone = strings.TrimSuffix(zone, m[0])
			if transport == "dns" && m[1] != "53" {
				r.say(b, first, key, Changed, "nodes answer on port 53")
			}
		}
		if why, known := transports[transport]; known {
			fate := Absent
			if transport == "tls" && b.hasZones() {
				fate, why = Refused, "nodes can answer over TLS: a block of its own in HOME/templates/Corefile, with tls, sharedunicast and meshsync, and a certificate on each"
			}
			r.say(b, first, key, fate, "%s", why)
		}
		names, err := zonesOf(zone)
		if err != nil {
			r.fail(first.file, first.at, "key %s: %v", key, err)
		}
		b.zones = append(b.zones, names...)
	}
	for _, d := range b.directives {
		if d.name == "root" && len(d.args) == 1 {
			b.root = d.args[0]
		}
		if d.name == "view" && len(d.args) == 1 {
			b.view = d.args[0]
		}
	}
	for _, d := range b.directives {
		switch d.name {
		case "file":
			r.file(b, d)
		case "auto":
			r.auto(b, d)
		case "secondary":
			r.secondary(b, d)
		}
	}
}

// portAtEnd is how the core finds a key's port.
var portAtEnd = regexp.MustCompile(`:([0-9]+)$`)

// zonesOf are the zones that a word of a Corefile stands for: a prefix is its reverse zones.
func zonesOf(word string) ([]string, error) {
	if p, err := netip.ParsePrefix(word); err == nil {
		return reverseZones(p.Masked()), nil
	}
	name, err := fields.ZoneName(word)
	return []string{name}, err
}

// reverseZones are those of a prefix, which ends inside a label if they are several.
func reverseZones(p netip.Prefix) (names []string) {
	step, suffix := 4, "ip6.arpa."
	if p.Addr().Is4() {
		step, suffix = 8, "in-addr.arpa."
	}
	octets := p.Addr().AsSlice()
	labels := (p.Bits() + step - 1) / step
	for i := range 1 << (labels*step - p.Bits()) {
		name := suffix
		for label := range labels {
			digit := int(octets[label*step/8])
			if step == 4 {
				digit = digit >> (4 - label%2*4) & 0xf
			}
			if label == labels-1 {
				digit += i
			}
			format := "%d.%s"
			if step == 4 {
				format = "%x.%s"
			}
			name = fmt.Sprintf(format, digit, name)
		}
		names = append(names, name)
	}
	return names
}

// origins are the zones that a directive names, or else those of its block.
func (r *corefile) origins(b *serverBlock, d directive, words []string) []string {
	if len(words) == 0 {
		return b.zones
	}
	var all []string
	for _, word := range words {
		_, rest, ok := strings.Cut(word, "://")
		if !ok {
			rest = word
		}
		names, err := zonesOf(portAtEnd.ReplaceAllString(rest, ""))
		if err != nil {
			r.fail(d.file, d.at, "%s: %v", d.name, err)
			continue
		}
		all = append(all, names...)
	}
	return all
}

// property says what becomes of a line in the braces of file, auto and secondary that does not say where zones come from.
func (r *corefile) property(b *serverBlock, d directive, p line) {
	switch p.name {
	case "reload":
		r.say(b, p, p.name, Changed, "a zone file is taken when it changes and its serial has moved forward")
	case "reload_by_mtime":
		r.say(b, p, p.name, Changed, "a zone file is taken when it changes, and then its serial must have moved forward")
	case "upstream":
		r.say(b, p, p.name, Changed, "it has no effect in CoreDNS either")
	case "fallthrough":
		r.say(b, p, p.name, Absent, "a zone is answered from its own data alone")
	default:
		r.fail(p.file, p.at, "%s: unknown property %q", d.name, p.name)
	}
}

// file reads file DBFILE [ZONES...].
func (r *corefile) file(b *serverBlock, d directive) {
	if len(d.args) == 0 {
		r.fail(d.file, d.at, "file: wants a zone file")
		return
	}
	path := r.path(b.root, d.args[0])
	for _, name := range r.origins(b, d, d.args[1:]) {
		r.offer(b, d.line, Zone{Name: name, File: path}, nil)
	}
	for _, p := range d.props {
		r.property(b, d, p)
	}
}

// offer notes a zone that a block serves.
func (r *corefile) offer(b *serverBlock, at line, z Zone, from *folder) {
	if len(r.found) >= maxZones {
		if len(r.found) == maxZones {
			r.fail(at.file, at.at, "more than %d zones", maxZones)
			r.found = append(r.found, nil)
		}
		return
	}
	part := Part{at.file, at.at, b.name(), at.name, Changed, ""}
	r.found = append(r.found, &candidate{Zone: z, block: b, part: part, from: from})
}

// secondary reads secondary [ZONES...].
func (r *corefile) secondary(b *serverBlock, d directive) {
	var servers []Server
	var below []string
	catalog, transfer := false, false
	for _, p := range d.props {
		switch p.name {
		case "transfer":
			transfer = true
			if len(p.words) < 2 || p.words[0] != "from" {
				r.fail(p.file, p.at, "secondary: want transfer from ADDRESS...")
				continue
			}
			for _, word := range p.words[1:] {
				a, err := endpoint(word)
				if err != nil {
					r.fail(p.file, p.at, "secondary: %v", err)
					continue
				}
				servers = append(servers, Server{Address: a})
			}
		case "catalog":
			catalog = true
			if len(p.words) > 0 {
				below = append(below, r.origins(b, directive{line: p}, p.words)...)
			}
		default:
			r.property(b, d, p)
		}
	}
	if !transfer {
		r.fail(d.file, d.at, "secondary: wants transfer from ADDRESS...")
	}
	if len(servers) == 0 {
		return
	}
	name := r.primaries(servers)
	for _, p := range d.props {
		if p.name == "transfer" {
			r.say(b, p, "transfer from", Changed, "primaries %s; nothing proves who answers (no_key): give them a key", name)
		}
	}
	for _, origin := range r.origins(b, d, d.args) {
		if catalog {
			r.say(b, d.line, d.name, Changed, "catalog zone %s, whose members come from primaries %s", origin, name)
			r.plan.Catalogs = append(r.plan.Catalogs, Catalog{origin, name, below})
			b.adopted = append(b.adopted, origin)
			continue
		}
		r.offer(b, d.line, Zone{Name: origin, Primaries: name}, nil)
	}
	if catalog {
		for _, p := range d.props {
			if p.name == "catalog" {
				r.say(b, p, p.name, Changed, "%s", cmp.Or(strings.Join(below, " "), "members of any name"))
			}
		}
	}
}

// decide takes each zone from one block: a mesh has one content of a zone. That is the block without a view, or else the first.
func (r *corefile) decide() {
	best := map[string]*candidate{}
	for _, c := range r.found {
		if c == nil {
			continue
		}
		if other := best[c.Name]; other == nil || other.block.view != "" && c.block.view == "" {
			best[c.Name] = c
		}
	}
	for _, c := range r.found {
		if c == nil {
			continue
		}
		winner := best[c.Name]
		switch {
		case c == winner:
			r.judge(c)
		case c.Zone == winner.Zone:
			c.won = c.block.view != winner.block.view
			c.part.Says = fmt.Sprintf("zone %s, as at %s:%d", c.Name, winner.part.File, winner.part.Line)
		default:
			if c.from != nil {
				c.from.stays = false
			}
			c.part.Fate = Refused
			c.part.Says = fmt.Sprintf("zone %s is taken from %s:%d: a mesh has one content of a zone, and other views need a mesh of their own", c.Name, winner.part.File, winner.part.Line)
		}
	}
	r.settle()
	for _, c := range r.found {
		if c != nil {
			r.plan.Parts = append(r.plan.Parts, c.part)
			if c.won && !slices.Contains(c.block.adopted, c.Name) {
				c.block.adopted = append(c.block.adopted, c.Name)
			}
		}
	}
}

// judge takes a zone, unless its file cannot be.
func (r *corefile) judge(c *candidate) {
	if c.File == "" {
		c.won, c.part.Says = true, fmt.Sprintf("zone %s, from primaries %s", c.Name, c.Primaries)
		return
	}
	if c.part.Says = checkFile(c.Zone); c.part.Says != "" {
		c.part.Fate = Refused
		return
	}
	c.won, c.part.Says = true, fmt.Sprintf("zone %s, a copy of %s", c.Name, c.File)
}

// settle puts what is taken into the plan: a directory whole, if it gives the same zones, and zone files otherwise.
func (r *corefile) settle() {
	for _, f := range r.folders {
		r.folder(f)
	}
	taken := map[string]bool{}
	for _, c := range r.found {
		switch {
		case c == nil || c.part.Fate == Refused:
		case c.from != nil && c.from.stays:
			c.part.Says = fmt.Sprintf("zone %s, from %s, where it is", c.Name, c.File)
			r.plan.followed = append(r.plan.followed, c.Name)
		case c.won && !taken[c.Name]:
			taken[c.Name] = true
			r.plan.Zones = append(r.plan.Zones, c.Zone)
		}
	}
}

// rest says what becomes of the directives of a block that serve no zones.
func (r *corefile) rest(b *serverBlock) {
	for _, d := range b.directives {
		_, kept := carried[d.name]
		switch {
		case slices.Contains(zoned, d.name):
		case absent[d.name] != "":
			r.say(b, d.line, d.name, Absent, "%s", absent[d.name])
		case len(b.adopted) == 0 && (kept || elsewhere[d.name] != "" || slices.Contains([]string{"transfer", "tsig", "view", "tls"}, d.name)):
			if !b.hasZones() {
				r.say(b, d.line, d.name, Absent, "its block answers from no zone")
				continue
			}
			r.say(b, d.line, d.name, Refused, "its block has no zone that is taken over: see first to its zones")
		case elsewhere[d.name] != "":
			r.say(b, d.line, d.name, Changed, "%s", elsewhere[d.name])
		case kept || d.name == "view":
			r.say(b, d.line, d.name, Kept, "%s", carried[d.name])
		case d.name == "transfer":
			r.transfer(b, d)
		case d.name == "tsig":
			r.tsig(b, d)
		case d.name == "tls":
			r.say(b, d.line, d.name, Refused, "certificate and key have to be on each node: put it into HOME/templates/Corefile, in a block with a key of tls://")
		default:
			r.say(b, d.line, d.name, Refused, "no plugin of this name is known here; a CoreDNS of your own may have it: docs/deploy/own-coredns.md")
		}
	}
}

// nodes makes the blocks of the nodes' Corefile: one for all zones if their blocks have the same directives, or one for each of those
// that differ, and one for zones to come.
func (r *corefile) nodes() {
	for _, b := range r.blocks {
		if len(b.adopted) == 0 {
			continue
		}
		var lines []string
		for _, d := range b.directives {
			if _, kept := carried[d.name]; kept || d.name == "view" {
				lines = append(lines, d.text())
			}
		}
		i := slices.IndexFunc(r.plan.Blocks, func(o Block) bool { return slices.Equal(o.Directives, lines) })
		if i < 0 {
			i = len(r.plan.Blocks)
			r.plan.Blocks = append(r.plan.Blocks, Block{Directives: lines})
		}
		for _, name := range b.adopted {
			if !slices.Contains(r.plan.Blocks[i].Zones, name) {
				r.plan.Blocks[i].Zones = append(r.plan.Blocks[i].Zones, name)
			}
		}
	}
	switch {
	case len(r.plan.Blocks) == 1:
		r.plan.Blocks[0].Zones = []string{"."}
	case len(r.plan.Blocks) > 1 && !slices.ContainsFunc(r.plan.Blocks, func(b Block) bool { return slices.Contains(b.Zones, ".") }):
		r.plan.Blocks = append(r.plan.Blocks, Block{Zones: []string{"."}})
	}
}
