//go:build linux

package main

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/template"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/lab"
	"github.com/coredns-anycast/coredns-anycast/internal/socket"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
)

// clockBound is how wrong the clocks are taken to be. All nodes read this machine's one clock, so they are not wrong
// against each other at all; the story judges answers by this.
const clockBound = time.Millisecond

const (
	repositoryPort = 8443 // of the distribution host
	adminPort      = 8444 // of a node's sidecar
)

// Configurations of a node, as a reader would write them.
var (
	corefile = template.Must(template.New("Corefile").Funcs(template.FuncMap{"join": joined[netip.Addr]}).Parse(`.:{{.Port}} {
    sharedunicast {{join .Shared " "}} {
        admin {{.Admin}}
    }
    meshsync {{.Dir}} {
        root {{.Dir}}/root.json
        node {{.Name}}
        clock sidecar unix://{{.Dir}}/sidecar.sock
        status unix://{{.Dir}}/meshsync.sock
    }
    nsid {{.Name}}
    chaos anycast-demo
    errors
}
`))
	sidecarYAML = template.Must(template.New("sidecar.yaml").Funcs(template.FuncMap{"join": joined[netip.Addr]}).Parse(`node: {{.Name}}
shared: [{{range $i, $a := .Shared}}{{if $i}}, {{end}}"{{$a}}"{{end}}]
socket: unix://{{.Dir}}/sidecar.sock
meshsync: unix://{{.Dir}}/meshsync.sock
identity: {certificate: {{.ID.Certificate}}, key: {{.ID.Key}}, ca: {{.ID.CA}}}
admin: {listen: "{{.Admin}}:{{.AdminPort}}"}
failure: {policy: stop-dns}
clock: {source: assumed, bound: {{.Bound}}}
probe: {interval: 300ms, slow: 100ms, timeout: 250ms, rise: 1, fall: 3, port: {{.Port}}}
bgp:
  as: {{.AS}}
  router_id: {{.Admin}}
  prefixes: [{{range $i, $a := .Prefixes}}{{if $i}}, {{end}}"{{$a}}"{{end}}]
  neighbors:{{range .Neighbors}}
    - {address: "{{.Address}}", source: "{{.Local}}", as: {{.ASN}}, port: {{$.BGPPort}}, hold_time: 9s}{{end}}
mirror: {urls: ["{{.Repository}}"], depot: {{.Dir}}/repository, root: {{.Dir}}/root.json, interval: 1s}
`))
)

func joined[T fmt.Stringer](all []T, between string) string {
	words := make([]string, len(all))
	for i, a := range all {
		words[i] = a.String()
	}
	return strings.Join(words, between)
}

// nodeConfig is what the templates are filled with.
type nodeConfig struct {
	Name       string
	Dir        string
	Shared     []netip.Addr
	Port       uint16
	Admin      netip.Addr
	AdminPort  uint16
	AS         uint32
	BGPPort    uint16
	Prefixes   []netip.Prefix
	Neighbors  []neighbor
	ID         identity
	Repository string
	Bound      time.Duration
}

// configure writes a node's configuration: who it is, and where it gets its releases.
func (w *world) configure(n *node, id identity, repository string) error {
	c := nodeConfig{Name: n.name, Dir: n.dir, Port: n.dns[0].Port(), Admin: n.admin, AdminPort: adminPort, AS: meshASN,
		BGPPort: w.bgpPort(), Prefixes: w.announced, Neighbors: w.neighborsOf(n), ID: id, Repository: repository, Bound: clockBound}
	for _, a := range n.dns {
		c.Shared = append(c.Shared, a.Addr())
	}
	for name, t := range map[string]*template.Template{"Corefile": corefile, "sidecar.yaml": sidecarYAML} {
		var text strings.Builder
		if err := t.Execute(&text, c); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(n.dir, name), []byte(text.String()), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// neighborsOf is the other end of a node's BGP sessions: its site's router, once for each family.
func (w *world) neighborsOf(n *node) []neighbor {
	i := slices.IndexFunc(w.links, func(l link) bool { return l.other.host == n.host })
	l := w.links[i]
	var c routerConfig
	c.add(l.other.v4, l.router.v4, l.router.host.name, false)
	c.add(l.other.v6, l.router.v6, l.router.host.name, false)
	return c.Neighbors
}

// startNode starts the two processes of a node.
func (w *world) startNode(n *node) (err error) {
	if n.sidecar, err = w.start(n.host, n.name+"-sidecar", nil, nil, w.binary("anycast-sidecar"), "run", filepath.Join(n.dir, "sidecar.yaml")); err != nil {
		return err
	}
	n.coredns, err = w.start(n.host, n.name+"-coredns", nil, nil, w.binary("coredns"), "-conf", filepath.Join(n.dir, "Corefile"))
	return err
}

func (w *world) binary(name string) string { return filepath.Join(w.bin, name) }

// status is what the node says of itself.
func (n *node) status(ctx context.Context) (s status.Node, err error) {
	err = socket.Read(ctx, filepath.Join(n.dir, "meshsync.sock"), &s)
	return s, err
}

// says waits until what the node says of itself is what is expected; ok says whether, or what it lacks.
func (n *node) says(ctx context.Context, timeout time.Duration, what string, ok func(status.Node) bool) (s status.Node, err error) {
	err = lab.Until(ctx, timeout, n.name+" "+what, func() (bool, string) {
		for _, p := range []*lab.Process{n.coredns, n.sidecar} {
			if !p.Alive() {
				return false, p.Name + " has ended"
			}
		}
		if s, err = n.status(ctx); err != nil {
			return false, err.Error()
		}
		return ok(s), fmt.Sprintf("it serves %d, has staged %d, floor %d, silent %v, refused %v", s.Serving, s.Staged, s.Floor, s.Silent, s.Refused)
	})
	return s, err
}
