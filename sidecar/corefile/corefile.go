// Package corefile compares a node's Corefile with its sidecar's configuration: two processes that share addresses, sockets
// and directories, and that check each its own file. `anycast-sidecar check --corefile` calls it.
//
// It reads the Corefile with the parser that CoreDNS has for it, and the root files that both name. It may import the
// sidecar's configuration, and no plugin: of a Corefile it knows the few directives that concern the sidecar, and the names of those
// that CoreDNS refuses.
package corefile

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/coredns/caddy/caddyfile"

	"github.com/coredns-anycast/coredns-anycast/internal/directives"
	"github.com/coredns-anycast/coredns-anycast/internal/fields"
	"github.com/coredns-anycast/coredns-anycast/sidecar/config"
)

// maxBytes bounds a Corefile, as CoreDNS does not; a node's has one kilobyte.
const maxBytes = 1 << 20

// said is one value of a Corefile, and where it is.
type said struct{ value, pos string }

// block is what of one server block concerns the sidecar.
type block struct {
	ports    []string // of plain DNS
	shared   []said   // addresses of sharedunicast
	bound    []said   // addresses of bind
	anywhere bool     // it listens on every address, or on those of an interface
	keys     []string // its zones
	acl      []rule
	viewed   bool // who is answered by it is decided by a view
}

// node is what of a Corefile concerns the sidecar.
type node struct {
	blocks    []block
	meshsync  []meshsync
	listeners []listener
	errs      fields.Errors
}

// Program is the DNS server that is to read the Corefile: its name in errors, and the directives that it knows.
type Program struct {
	Name       string
	Directives []string
}

// meshsync is one directive of this name. What is not said and has no default has no value.
type meshsync struct{ pos, node, root, repository, status, clock said }

// listener is an address of HTTP that a plugin listens on.
type listener struct {
	said
	plugin string
}

// listening are the plugins that listen for HTTP, and where they do if nothing is said.
var listening = map[string]string{"prometheus": "localhost:9153", "health": ":8080", "ready": ":8181", "pprof": "localhost:6053"}

// Compare reads the Corefile at path. The error is of type config.Errors when it could be read, and has every difference from
// c as file:line: rule, and every directive that p does not know or that is refused where it is. places has where c says what, as
// config.Places returns it.
func Compare(path string, c *config.Config, places map[string]string, p Program) error {
	data, err := fields.ReadFile(path, maxBytes)
	if err != nil {
		return err
	}
	parsed, err := caddyfile.Parse(path, bytes.NewReader(data), nil)
	if err != nil {
		return err
	}
	n := new(node)
	for _, sb := range parsed {
		n.read(path, sb)
		n.refused(path, sb, p)
	}
	d := &differences{node: n, path: path, config: c, places: places, Errors: n.errs}
	d.addresses()
	d.access()
	d.plugin()
	d.listeners()
	if len(d.Errors) > 0 {
		return d.Errors
	}
	return nil
}

// read takes what concerns the sidecar from one server block. Directives that it does not know are none of its business.
func (n *node) read(path string, sb caddyfile.ServerBlock) {
	b := block{ports: dnsPorts(sb.Keys), keys: zonesOf(sb.Keys), acl: n.rules(path, sb), viewed: len(sb.Tokens["view"]) > 0}
	root := ""
	n.each(path, sb, "root", func(_ said, args []said) {
		if len(args) == 1 {
			root = args[0].value
		}
	}, nil)
	n.each(path, sb, "sharedunicast", func(_ said, args []said) { b.shared = append(b.shared, args...) }, nil)
	n.each(path, sb, "bind", func(_ said, args []said) { b.bound = append(b.bound, args...) }, nil)
	for _, a := range b.shared {
		if _, err := netip.ParseAddr(a.value); err != nil {
			n.errs = append(n.errs, fmt.Sprintf("%s: sharedunicast: %q is no IP address", a.pos, a.value))
		}
	}
	b.anywhere = len(b.shared)+len(b.bound) == 0 || slices.ContainsFunc(b.bound, func(a said) bool {
		addr, err := netip.ParseAddr(a.value)
		return err != nil || addr.IsUnspecified()
	})
	n.blocks = append(n.blocks, b)
	n.readMeshsync(path, root, sb)
	for plugin, usual := range listening {
		n.each(path, sb, plugin, func(at said, args []said) {
			if len(args) == 0 {
				args = []said{{usual, at.pos}}
			}
			n.listeners = append(n.listeners, listener{args[0], plugin})
		}, nil)
	}
}

// refused notes the directives of a server block by which p does not start.
func (n *node) refused(path string, sb caddyfile.ServerBlock, p Program) {
	shared := len(sb.Tokens["sharedunicast"]) > 0
	names := slices.SortedFunc(maps.Keys(sb.Tokens), func(a, b string) int {
		return cmp.Or(cmp.Compare(sb.Tokens[a][0].Line, sb.Tokens[b][0].Line), strings.Compare(a, b))
	})
	for _, name := range names {
		if why := directives.Refuses(p.Name, p.Directives, name, shared); why != "" {
			n.refuse(path, sb, name, why)
		}
	}
}

// refuse notes what is wrong with each line of a block that begins with the directive name.
func (n *node) refuse(path string, sb caddyfile.ServerBlock, name, text string) {
	n.each(path, sb, name, func(at said, _ []said) { n.errs = append(n.errs, at.pos+": "+text) }, nil)
}

// readMeshsync reads the directives of this name; relative paths are below the directory of plugin root.
func (n *node) readMeshsync(path, root string, sb caddyfile.ServerBlock) {
	absolute := func(s said) said {
		if !filepath.IsAbs(s.value) {
			s.value = filepath.Join(root, s.value)
		}
		if abs, err := filepath.Abs(s.value); err == nil {
			s.value = abs
		}
		return s
	}
	var m meshsync
	begin := func(at said, args []said) {
		m = meshsync{pos: at}
		if len(args) == 1 {
			dir := absolute(args[0]).value
			m.repository, m.status = said{filepath.Join(dir, "repository"), at.pos}, said{"unix://" + filepath.Join(dir, "meshsync.sock"), at.pos}
		}
	}
	property := func(at said, args []said) {
		switch {
		case at.value == "clock" && len(args) == 2 && args[0].value == "sidecar":
			m.clock = args[1]
		case len(args) != 1:
		case at.value == "node":
			m.node = args[0]
		case at.value == "status":
			m.status = args[0]
		case at.value == "root":
			m.root = absolute(args[0])
		case at.value == "repository":
			m.repository = absolute(args[0])
		}
	}
	n.each(path, sb, "meshsync", begin, property)
	if m.pos.pos != "" {
		n.meshsync = append(n.meshsync, m)
	}
}

// each calls begin for the directives of a name, with their arguments, and then property, if there is one, for the lines in
// their blocks.
func (n *node) each(path string, sb caddyfile.ServerBlock, name string, begin, property func(at said, args []said)) {
	d := caddyfile.NewDispenserTokens(path, sb.Tokens[name])
	line := func() (said, []said) {
		at := said{d.Val(), fmt.Sprintf("%s:%d", d.File(), d.Line())}
		var args []said
		for _, arg := range d.RemainingArgs() {
			args = append(args, said{arg, at.pos})
		}
		return at, args
	}
	for d.Next() {
		begin(line())
		for d.NextBlock() {
			at, args := line()
			if property != nil {
				property(at, args)
			}
		}
	}
}

// portAtEnd is how the core finds a key's port: an IPv6 prefix ends in its mask.
var portAtEnd = regexp.MustCompile(`:([0-9]+)$`)

// dnsPorts are the ports of those keys of a server block that are of plain DNS.
func dnsPorts(keys []string) (ports []string) {
	for _, key := range keys {
		scheme, rest, ok := strings.Cut(key, "://")
		if !ok {
			scheme, rest = "dns", key
		}
		if scheme != "dns" {
			continue
		}
		port := "53"
		if m := portAtEnd.FindStringSubmatch(rest); m != nil {
			port = m[1]
		}
		ports = append(ports, port)
	}
	return ports
}
