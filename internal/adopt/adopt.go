// Package adopt reads the configuration of a DNS server that is to become a mesh, and says of each part of it what a mesh makes of
// that: what stays as it is, what is said elsewhere or otherwise, what has no counterpart, and what cannot be taken over until
// somebody has seen to it. Nothing of a configuration goes unmentioned.
//
// It reads configuration files and the zone files that they name. It writes nothing and asks nobody; cmd/meshctl calls it.
package adopt

import (
	"cmp"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"

	"github.com/coredns-anycast/coredns-anycast/internal/fields"
)

// Fate is what becomes of a part of a configuration.
type Fate string

// The fates, in the words of reports.
const (
	Kept    Fate = "kept"           // the same, in the nodes' Corefile
	Changed Fate = "changed"        // said elsewhere, or otherwise, or not needed any more
	Absent  Fate = "no counterpart" // nothing does what it does
	Refused Fate = "not adopted"    // it could be, once what Says names is done
)

// Part is one part of a configuration: a directive, a statement, or a zone that one makes.
type Part struct {
	File  string `json:"file"`
	Line  int    `json:"line"`
	Block string `json:"block"` // what it is in: the keys of a server block, a section
	What  string `json:"what"`
	Fate  Fate   `json:"fate"`
	Says  string `json:"says"` // what becomes of it, or why nothing does
}

// Plan is what becomes of a configuration.
type Plan struct {
	File        string
	Parts       []Part // in the order of the file
	Keys        []Key
	Primaries   []Primaries
	Zones       []Zone
	Catalogs    []Catalog
	Directories []Directory
	Blocks      []Block // of the nodes' Corefile; none: it stays as it is
	Transfer    *Transfer

	followed []string // zones in directories that are taken whole
	wanted   []string // zones of the configuration, taken over or not
}

// Key is a TSIG key (RFC 8945).
type Key struct {
	Name      string // fully qualified
	Algorithm string // without the final dot
	Secret    string // base64; nobody prints it
}

// Primaries is a list of servers that zones come from, under a name.
type Primaries struct {
	Name    string
	Servers []Server
}

// Server is one of them.
type Server struct {
	Address netip.AddrPort
	Key     string // name of a Key; empty: none
}

// Zone is a zone and where it comes from: a file, or primaries.
type Zone struct {
	Name      string // fully qualified, in lower case
	File      string // absolute path of its zone file, which is to be copied
	Primaries string // name of a list of primaries
}

// Catalog is a catalog zone (RFC 9432).
type Catalog struct {
	Name, Primaries string
	Below           []string // names that members must be at or below
}

// Directory is a directory whose zone files are taken where they are.
type Directory struct {
	Path, Pattern string
	Withdraw      bool // a zone whose file is deleted is withdrawn
}

// Block is a server block of the nodes' Corefile.
type Block struct {
	Zones      []string // its keys
	Directives []string // those that it has beside what nodes have anyway, each on one or more lines
}

// Transfer is who may transfer zones from the nodes.
type Transfer struct {
	Rules  []TransferRule
	Notify []string // addresses that are told of changes
	Keys   []Key
}

// TransferRule is who may have which zones.
type TransferRule struct{ Zones, To []string }

// Nothing reports whether there is nothing that a mesh could answer.
func (p *Plan) Nothing() bool { return len(p.Zones)+len(p.Catalogs)+len(p.Directories) == 0 }

// Count is the number of parts of a fate.
func (p *Plan) Count(f Fate) (n int) {
	for _, part := range p.Parts {
		if part.Fate == f {
			n++
		}
	}
	return n
}

// maxBytes bounds a configuration file, maxZones the zones that it may make, and maxErrors those that are told of it.
const (
	maxBytes  = 16 << 20
	maxZones  = 100_000
	maxErrors = 10_000
)

// reader is what the readers of all formats share.
type reader struct {
	plan *Plan
	dir  string // that relative paths start from, absolute
	errs fields.Errors
}

func newReader(file, dir string) (*reader, error) {
	dir, err := filepath.Abs(cmp.Or(dir, filepath.Dir(file)))
	return &reader{plan: &Plan{File: file}, dir: dir}, err
}

// done is the plan, or everything that is wrong with the file.
func (r *reader) done() (*Plan, error) {
	if len(r.errs) > 0 {
		return nil, r.errs
	}
	return r.plan, nil
}

func (r *reader) fail(file string, line int, format string, args ...any) {
	if len(r.errs) >= maxErrors {
		return
	}
	r.errs = append(r.errs, fmt.Sprintf("%s:%d: ", file, line)+fmt.Sprintf(format, args...))
}

// path makes a path absolute: as in, a directory, has it, or as relative paths are.
func (r *reader) path(in, file string) string {
	switch {
	case filepath.IsAbs(file):
		return filepath.Clean(file)
	case in != "" && filepath.IsAbs(in):
		return filepath.Join(in, file)
	}
	return filepath.Join(r.dir, in, file)
}

// primaries is the name of the list of these servers, which is made unless it is there.
func (r *reader) primaries(servers []Server) string {
	for _, p := range r.plan.Primaries {
		if slices.Equal(p.Servers, servers) {
			return p.Name
		}
	}
	name := servers[0].Address.Addr().String()
	for i := 2; slices.ContainsFunc(r.plan.Primaries, func(p Primaries) bool { return p.Name == name }); i++ {
		name = fmt.Sprintf("%s-%d", servers[0].Address.Addr(), i)
	}
	r.plan.Primaries = append(r.plan.Primaries, Primaries{name, servers})
	return name
}

// endpoint reads an address with a port or without, which is 53 then.
func endpoint(text string) (netip.AddrPort, error) {
	if a, err := netip.ParseAddr(text); err == nil {
		text = netip.AddrPortFrom(a, 53).String()
	}
	return fields.Endpoint(text)
}

func plural(n int, one, more string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, more)
}

// some are the first of many names.
func some(names []string) string {
	if len(names) > 5 {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:5], " "), len(names)-5)
	}
	return strings.Join(names, " ")
}

// Missing are the zones of the configuration that are not taken over, in words; empty: none.
func (p *Plan) Missing() string {
	taken := map[string]bool{}
	for _, name := range p.Names() {
		taken[name] = true
	}
	missing := slices.DeleteFunc(slices.Clone(p.wanted), func(name string) bool { return taken[name] })
	slices.Sort(missing)
	return some(slices.Compact(missing))
}

// Keeps reports whether the nodes' Corefile has a directive of the old one.
func (p *Plan) Keeps(directive string) bool {
	return slices.ContainsFunc(p.Parts, func(part Part) bool { return part.What == directive && part.Fate == Kept })
}

// Names are the zones that are taken over, catalogs among them, as far as they can be told from what is there now.
func (p *Plan) Names() []string {
	names := []string{}
	for _, z := range p.Zones {
		names = append(names, z.Name)
	}
	for _, c := range p.Catalogs {
		names = append(names, c.Name)
	}
	names = append(names, p.followed...)
	slices.Sort(names)
	return slices.Compact(names)
}
