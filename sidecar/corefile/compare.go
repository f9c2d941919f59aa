package corefile

import (
	"bytes"
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/coredns-anycast/coredns-anycast/internal/fields"
	"github.com/coredns-anycast/coredns-anycast/sidecar/config"
)

// differences collects how two files of one node differ.
type differences struct {
	*node
	path   string
	config *config.Config
	places map[string]string
	fields.Errors
}

// add notes a difference, once: a Corefile may say the same in several blocks, each at a place of its own.
func (d *differences) add(pos, format string, args ...any) {
	text := pos + ": " + fmt.Sprintf(format, args...)
	if !slices.Contains(d.Errors, text) {
		d.Errors = append(d.Errors, text)
	}
}

// at is where the sidecar's configuration says something: in words, a key and its place.
func (d *differences) at(key string) string {
	if pos := d.places[key]; pos != "" {
		return key + " at " + pos
	}
	return key
}

// addresses compares what is answered on with what is announced and probed. Where sharedunicast is, no other block may answer
// on a shared address; without it, bind and blocks that listen everywhere do.
func (d *differences) addresses() {
	guarded := d.guarded()
	for _, b := range d.blocks {
		for _, s := range b.shared {
			if a, err := netip.ParseAddr(s.value); err == nil && !slices.Contains(d.config.Shared, a) {
				d.add(s.pos, "sharedunicast answers on %s, which the sidecar neither announces nor probes: it is not in %s", a, d.at("shared"))
			}
		}
	}
	port := strconv.Itoa(int(d.config.Probe.Port))
	for _, a := range d.config.Shared {
		answered, asked := false, false
		for _, b := range d.blocks {
			if b.answers(a, guarded) {
				answered, asked = true, asked || slices.Contains(b.ports, port)
			}
		}
		switch {
		case !answered && guarded:
			d.add(cmp.Or(d.places["shared"], "shared"), "the sidecar announces and probes %s, which no sharedunicast of %s has", a, d.path)
		case !answered:
			d.add(cmp.Or(d.places["shared"], "shared"), "the sidecar announces and probes %s, which no server block of %s listens on", a, d.path)
		case !asked:
			d.add(cmp.Or(d.places["probe.port"], d.places["shared"]), "the sidecar probes %s at port %s, where no server block of %s answers by dns://: the ports and probe.port have to be the same", a, port, d.path)
		}
	}
}

// guarded reports whether a block of the file has sharedunicast.
func (n *node) guarded() bool {
	return slices.ContainsFunc(n.blocks, func(b block) bool { return len(b.shared) > 0 })
}

// answers reports whether a block answers on the address; guarded: some block of the file has sharedunicast.
func (b block) answers(a netip.Addr, guarded bool) bool {
	on := func(s said) bool { own, err := netip.ParseAddr(s.value); return err == nil && own == a }
	return slices.ContainsFunc(b.shared, on) || !guarded && (b.anywhere || slices.ContainsFunc(b.bound, on))
}

// plugin compares what meshsync and the sidecar have in common.
func (d *differences) plugin() {
	c := d.config
	if len(d.meshsync) == 0 {
		if c.Meshsync != "" {
			d.add(cmp.Or(d.places["meshsync"], "meshsync"), "the sidecar reads meshsync's status, and no server block of %s has meshsync", d.path)
		}
		return
	}
	for _, m := range d.meshsync {
		d.same(m.node, "node", "the node's name", c.Node)
		d.same(m.status, "meshsync", "the socket of meshsync's status", "unix://"+c.Meshsync)
		d.same(m.clock, "socket", "the socket on which meshsync reads the clock", "unix://"+c.Socket)
		if c.Mirror != nil {
			d.same(m.repository, "mirror.depot", "the depot", c.Mirror.Depot)
			if !sameFile(m.root.value, c.Mirror.Root) {
				d.same(m.root, "mirror.root", "the mesh's trusted root", c.Mirror.Root)
			}
		}
	}
}

// same compares one value of the Corefile, if it says one, with what the sidecar has at key.
func (d *differences) same(s said, key, what, want string) {
	switch {
	case s.value == "" || s.value == want:
	case d.places[key] == "":
		d.add(s.pos, "%s is %s, and the sidecar's configuration does not have %s", what, s.value, key)
	default:
		d.add(s.pos, "%s is %s, and %s in %s", what, s.value, want, d.at(key))
	}
}

// maxRoot bounds a root file that is read to compare it.
const maxRoot = 1 << 20

// sameFile says whether two files can be read here and hold the same.
func sameFile(a, b string) bool {
	one, err := fields.ReadFile(a, maxRoot)
	other, err2 := fields.ReadFile(b, maxRoot)
	return err == nil && err2 == nil && bytes.Equal(one, other)
}

// listeners compares the addresses of HTTP: what the sidecar reads has to be there, and no two may be one.
func (d *differences) listeners() {
	c := d.config
	own := map[string]netip.AddrPort{"metrics": c.Metrics}
	if c.Admin != nil {
		own["admin.listen"] = c.Admin.Listen
	}
	slices.SortFunc(d.node.listeners, func(a, b listener) int { return cmp.Or(cmp.Compare(a.pos, b.pos), cmp.Compare(a.plugin, b.plugin)) })
	told := !c.DNSMetrics.IsValid()
	for _, l := range d.node.listeners {
		told = told || l.plugin == "prometheus" && covers(l.value, c.DNSMetrics)
		for _, key := range []string{"admin.listen", "metrics"} {
			if own[key].IsValid() && covers(l.value, own[key]) {
				d.add(l.pos, "%s listens on %s, and so does the sidecar: %s", l.plugin, own[key], d.at(key))
			}
		}
	}
	if !told {
		d.add(cmp.Or(d.places["dns_metrics"], "dns_metrics"), "the sidecar reads metrics of the DNS server at %s, where no prometheus of %s tells them", c.DNSMetrics, d.path)
	}
}

// covers says whether who listens on host:port as a Corefile has it also listens on an address.
func covers(text string, a netip.AddrPort) bool {
	host, port, err := net.SplitHostPort(strings.TrimPrefix(text, "http://"))
	if err != nil || port != strconv.Itoa(int(a.Port())) {
		return false
	}
	if host == "localhost" {
		return a.Addr().IsLoopback()
	}
	own, err := netip.ParseAddr(host)
	return host == "" || err == nil && (own.IsUnspecified() && (own.Is6() || a.Addr().Is4()) || own == a.Addr())
}
