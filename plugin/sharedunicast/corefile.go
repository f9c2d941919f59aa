package sharedunicast

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/coredns/caddy"
	"github.com/coredns/caddy/caddyfile"
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/plugin"
	pkgparse "github.com/coredns/coredns/plugin/pkg/parse"
	"github.com/coredns/coredns/plugin/pkg/transport"

	"github.com/coredns-anycast/coredns-anycast/internal/directives"
)

// block is one server block of the Corefile, as far as the rules on addresses need it.
type block struct {
	caddyfile.ServerBlock
	file   string
	config *dnsserver.Config   // of the first key
	keys   []*dnsserver.Config // of every zone that the keys stand for
	shared *directive          // nil without sharedunicast
}

// corefile is all of the Corefile that is being loaded.
type corefile struct {
	blocks []*block
	shared []netip.Addr // of all blocks
	admin  []netip.Addr // of all blocks
}

// readCorefile reads the Corefile that c belongs to. Unlike a directive's own view of it, this has all server blocks,
// with the addresses that `bind` (which is set up before) has resolved.
func readCorefile(c *caddy.Controller, input caddy.Input) (*corefile, error) {
	parsed, err := caddyfile.Parse(input.Path(), bytes.NewReader(input.Body()), nil)
	if err != nil {
		return nil, err
	}
	f := new(corefile)
	for i, sb := range parsed {
		b := &block{ServerBlock: sb, file: input.Path(), keys: configs(c, i, zones(sb.Keys))}
		b.config = b.keys[0]
		f.blocks = append(f.blocks, b)
		tokens, ok := sb.Tokens[pluginName]
		if !ok {
			continue
		}
		d := caddyfile.NewDispenserTokens(input.Path(), tokens)
		if b.shared, err = parse(&d); err != nil {
			return nil, err
		}
		f.shared = append(f.shared, b.shared.shared...)
		f.admin = append(f.admin, b.shared.admin...)
	}
	return f, nil
}

// zones counts what the core makes of a block's keys: a prefix that ends inside an octet is several zones.
func zones(keys []string) int {
	n := 0
	for _, key := range keys {
		_, rest := pkgparse.Transport(key)
		hosts, _, _ := plugin.SplitHostPort(rest) // the core has refused a key with an error
		n += len(hosts)
	}
	return n
}

// configs returns the Configs of server block i, which has n zones. The plugin API gives only that of the block that a
// controller stands at, so stand it there.
func configs(c *caddy.Controller, i, n int) []*dnsserver.Config {
	at := *c
	at.ServerBlockIndex = i
	var all []*dnsserver.Config
	for at.ServerBlockKeyIndex = range n {
		all = append(all, dnsserver.GetConfig(&at))
	}
	return all
}

// check applies the rules that concern more than one directive. Its errors name file and line.
func (f *corefile) check() error {
	for _, b := range f.blocks {
		rules := f.checkOther
		if b.shared != nil {
			rules = f.checkShared
		}
		if err := rules(b); err != nil {
			return err
		}
	}
	return nil
}

// checkShared judges a block with sharedunicast: what else it holds, its transports, its addresses.
func (f *corefile) checkShared(b *block) error {
	for _, table := range []map[string]string{directives.Unfit, directives.UnfitShared} {
		if err := b.without(table, "a server block with "+pluginName); err != nil {
			return err
		}
	}
	for _, key := range b.keys {
		if key.Transport != transport.DNS && key.Transport != transport.TLS {
			return fmt.Errorf("%s: %s does not serve %s://, only dns:// and tls://", b.shared.pos, pluginName, key.Transport)
		}
		if port, err := strconv.ParseUint(key.Port, 10, 16); err != nil || port == 0 {
			return fmt.Errorf("%s: port %q of the server block is none from 1 to 65535", b.shared.pos, key.Port)
		}
	}
	for _, addr := range b.shared.shared {
		if slices.Contains(f.admin, addr) {
			return fmt.Errorf("%s: %s is a shared and an administrative address; DNS must not be answered on the latter", b.shared.pos, addr)
		}
	}
	return nil
}

// checkOther judges a block without sharedunicast: it must listen neither on a shared address nor, unless it is a
// transfer-only block, on an administrative one (HOST-2).
func (f *corefile) checkOther(b *block) error {
	for _, host := range b.config.ListenHosts {
		if addr, ok := covered(host, f.admin); ok && (isWildcard(host) || !b.isTransferOnly()) {
			return fmt.Errorf("%s: server block %s would answer DNS on the administrative address %s: %s", b.place(), b.name(), addr, remedy(host))
		} else if ok {
			if err := b.without(directives.Unfit, "a transfer-only block"); err != nil {
				return err
			}
		}
		if addr, ok := covered(host, f.shared); ok {
			return fmt.Errorf("%s: server block %s would listen on the shared-unicast address %s without %s: use bind to give it addresses of its own",
				b.place(), b.name(), addr, pluginName)
		}
	}
	return nil
}

// without is an error if the block has a directive of the table. what is the kind of block.
func (b *block) without(table map[string]string, what string) error {
	for _, name := range sortedKeys(table) {
		if _, ok := b.Tokens[name]; ok {
			return fmt.Errorf("%s: %s cannot be in %s: %s", b.pos(name), name, what, table[name])
		}
	}
	return nil
}

func remedy(host string) string {
	if isWildcard(host) {
		return "it listens on every address; use bind to give it others"
	}
	return "bind it to another, or make it a transfer-only block, with transfer and with tsig or tls"
}

// sharedBlocks returns the blocks with sharedunicast.
func (f *corefile) sharedBlocks() []*block {
	var found []*block
	for _, b := range f.blocks {
		if b.shared != nil {
			found = append(found, b)
		}
	}
	return found
}

// transferBlocks returns the blocks that listen on an administrative address. check has passed: they are transfer-only.
func (f *corefile) transferBlocks() []*block {
	var found []*block
	for _, b := range f.blocks {
		onAdmin := func(host string) bool { _, ok := covered(host, f.admin); return ok }
		if b.shared == nil && slices.ContainsFunc(b.config.ListenHosts, onAdmin) {
			found = append(found, b)
		}
	}
	return found
}

// isTransferOnly says whether a block may listen on an administrative address: it offers transfers, and a way to
// authenticate who asks for them (XFER-1). That it answers nothing else is seen to by its transferOnly handler.
func (b *block) isTransferOnly() bool {
	_, transfer := b.Tokens["transfer"]
	_, tsig := b.Tokens["tsig"]
	_, tls := b.Tokens["tls"]
	return transfer && (tsig || tls)
}

func (b *block) name() string { return strings.Join(b.Keys, " ") }

// pos is where a directive of the block begins.
func (b *block) pos(directive string) string {
	tok := b.Tokens[directive][0]
	file := tok.File
	if file == "" {
		file = b.file
	}
	return fmt.Sprintf("%s:%d", file, tok.Line)
}

// place is where the block's addresses are said or, as the parser forgets where the block begins, its first directive.
func (b *block) place() string {
	if _, ok := b.Tokens["bind"]; ok {
		return b.pos("bind")
	}
	first := ""
	for _, name := range sortedKeys(b.Tokens) {
		if first == "" || b.Tokens[name][0].Line < b.Tokens[first][0].Line {
			first = name
		}
	}
	if first == "" {
		return b.file
	}
	return b.pos(first)
}

// covered returns the first of addrs on which a socket that is bound to host receives.
func covered(host string, addrs []netip.Addr) (netip.Addr, bool) {
	own, err := netip.ParseAddr(host)
	if err != nil && host != "" {
		return netip.Addr{}, false // MakeServers has refused it
	}
	own = own.WithZone("").Unmap()
	for _, addr := range addrs {
		// Without a host, and on ::, the core's sockets are of both families.
		if host == "" || own == netip.IPv6Unspecified() || own == addr || own == netip.IPv4Unspecified() && addr.Is4() {
			return addr, true
		}
	}
	return netip.Addr{}, false
}

func isWildcard(host string) bool {
	addr, err := netip.ParseAddr(host)
	return err != nil || addr.IsUnspecified()
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
