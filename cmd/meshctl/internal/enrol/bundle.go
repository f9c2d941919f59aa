package enrol

import (
	"archive/tar"
	"bytes"
	"cmp"
	"crypto/rand"
	_ "embed"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/hint"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/home"
	"github.com/coredns-anycast/coredns-anycast/internal/depot"
	"github.com/coredns-anycast/coredns-anycast/internal/identity"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
	"github.com/coredns-anycast/coredns-anycast/internal/template"
)

// A bundle is what a node needs to join: its certificate and key, the authority's certificate, the mesh's root, the seed of its
// cookies, and a Corefile and a sidecar configuration made from the mesh's templates, which an operator may change.

const (
	templatesDir = "templates"
	corefileName = "Corefile"
	sidecarName  = "sidecar.yaml"
)

// corefileTemplate and sidecarTemplate are what init leaves, with MESH facts filled in at once and NODE facts as
// actions of text/template, see nodeFacts.
//
//go:embed Corefile.template
var corefileTemplate string

const sidecarTemplate = `# {{.Name}}, a node of the mesh %[1]s. sidecar.example.yaml has every key; "anycast-sidecar check" reads this one.
node: {{.Name}}
shared: [%[2]s]
socket: unix://{{.Run}}/sidecar.sock
control: unix://{{.Run}}/control.sock
state: {{.State}}/sidecar
meshsync: unix://{{.Run}}/meshsync.sock
identity: {certificate: {{.Etc}}/node.crt, key: {{.Etc}}/node.key, ca: {{.Etc}}/ca.crt}
admin:
  listen: "{{.Admin}}"
{{if .AdminIPv6}}%[6]s{{else}}%[5]s{{end}}metrics: 127.0.0.1:9154
dns_metrics: "{{.Prometheus}}"
failure: {policy: stop-dns}
clock: {source: chrony}                      # chrony: chronyd must run here
mirror: {urls: [%[3]s], depot: {{.State}}/repository, root: {{.Etc}}/root.json}
{{- if .Routers}}
bgp:
  as: {{.AS}}
  router_id: {{.RouterID}}
  prefixes: [%[4]s]
  neighbors:
{{- range .Routers}}
    - {address: "{{.}}", as: {{$.RouterAS}}, hold_time: 9s}
{{- end}}
{{- else}}
# bgp:                                       # no router was named: nothing is announced
#   as: 64500
#   router_id: 198.51.100.7
#   prefixes: [%[4]s]
#   neighbors: [{address: 198.51.100.1, as: 64501, hold_time: 9s}]
{{- end}}
`

// nodeFacts are what the templates may use.
type nodeFacts struct {
	NewMember
	AdminAddress string
	AdminIPv6    bool   // it is an address of IPv6
	Prometheus   string // of CoreDNS: on loopback, port 9153; the sidecar shows it over mutual TLS
	Etc          string // where the node keeps what is in the bundle,
	State        string // what it writes,
	Run          string // and its sockets
}

// cookieSeed is the file with what the server cookies of all nodes are made of (RFC 9018 5). It is secret, so it is in the bundles and
// not in a release: anyone may hold a copy of the repository.
const cookieSeed = "cookies.key"

// makeCookieSeed makes the seed of a new mesh.
func makeCookieSeed(h place, o InitOptions) error {
	var seed [32]byte
	rand.Read(seed[:])
	text := fmt.Sprintf("# DNS Cookies of the mesh %s: all nodes have the same file. cookies in plugin/sharedunicast/README.md says how to replace the seed.\n%x\n", o.Mesh, seed)
	return depot.WriteFile(h.Path(pkiDir), cookieSeed, []byte(text), 0o600)
}

// addCookieSeed puts the mesh's seed into a bundle. A mesh that was made before there were seeds has none until its operator makes one.
func addCookieSeed(h place, dir string) error {
	seed, err := depot.ReadFile(h.Path(pkiDir), cookieSeed, maxPEMBytes)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return depot.WriteFile(dir, cookieSeed, seed, 0o600)
}

// writeTemplates leaves the templates of a new mesh, if it is known where it answers and where it is served.
func writeTemplates(h place, o InitOptions) error {
	if len(o.Shared) == 0 || len(o.URLs) == 0 {
		return nil
	}
	if err := os.MkdirAll(h.Path(templatesDir), 0o755); err != nil {
		return err
	}
	var faults []error
	for name, text := range templates(o) {
		faults = append(faults, depot.WriteFile(h.Path(templatesDir), name, []byte(text), 0o644))
	}
	return errors.Join(append(faults, writeFacts(h.Path(templatesDir), factsName, meshFacts{o.Shared, o.URLs}))...)
}

// templates are those of a mesh, by name.
func templates(o InitOptions) map[string]string {
	var prefixes []string
	for _, text := range o.Shared {
		if a, err := netip.ParseAddr(text); err == nil { // as was checked
			prefixes = append(prefixes, prefixOf(a).String())
		}
	}
	return map[string]string{
		corefileName: fmt.Sprintf(corefileTemplate, o.Mesh, strings.Join(o.Shared, " ")),
		sidecarName:  fmt.Sprintf(sidecarTemplate, o.Mesh, quoted(o.Shared), quoted(o.URLs), quoted(prefixes), access(o, netip.Addr.Is4), access(o, netip.Addr.Is6)),
	}
}

// access is the line of the administrative plane's access list (DELIV-2): the addresses of distribution hosts, as far as
// they are known as such. Without one of the plane's own family the list would keep the host out, so it is left to the operator.
func access(o InitOptions, reaches func(netip.Addr) bool) string {
	var hosts []string
	local := false
	for _, text := range o.URLs {
		if u, err := url.Parse(text); err == nil {
			hosts = append(hosts, u.Hostname())
			a, err := netip.ParseAddr(u.Hostname())
			local = local || u.Hostname() == "localhost" || err == nil && a.IsLoopback()
		}
	}
	var all []string
	reached := false
	for _, host := range append(hosts, o.SANs...) {
		a, err := netip.ParseAddr(host)
		if err != nil || a.IsLoopback() && !local {
			continue
		}
		reached = reached || reaches(a)
		if p := netip.PrefixFrom(a, a.BitLen()).String(); !slices.Contains(all, p) {
			all = append(all, p)
		}
	}
	if !reached {
		return "  # access: [198.51.100.1/32]                # who may connect at all: give the addresses of distribution hosts and operators\n"
	}
	return fmt.Sprintf("  access: [%s]    # who may connect at all: distribution hosts; members may anyway; add operators and observers\n", quoted(all))
}

// prefixOf is the longest prefix that networks commonly take.
func prefixOf(a netip.Addr) netip.Prefix {
	bits := 48
	if a.Is4() {
		bits = 24
	}
	return netip.PrefixFrom(a, bits).Masked()
}

func quoted(all []string) string {
	var words []string
	for _, a := range all {
		words = append(words, fmt.Sprintf("%q", a))
	}
	return strings.Join(words, ", ")
}

func (n NewMember) facts(address string) nodeFacts {
	n.RouterID = cmp.Or(n.RouterID, address)
	f := nodeFacts{NewMember: n, AdminAddress: address, AdminIPv6: strings.Contains(address, ":"), Prometheus: "127.0.0.1:9153",
		Etc: "/etc/mesh", State: "/var/lib/mesh", Run: "/run/mesh"}
	if a, err := netip.ParseAddr(address); err == nil && a.IsLoopback() { // several nodes on one machine, to try things out
		f.Prometheus = netip.AddrPortFrom(a, 9153).String()
	}
	if n.At != "" {
		f.Etc, f.State, f.Run = n.At, filepath.Join(n.At, "state"), n.At
	}
	return f
}

// makeBundle writes the bundle of a node and returns the pin of its key.
func makeBundle(h *home.Writer, n NewMember, address string) (release.Digest, error) {
	dir := h.Path(nodesDir, n.Name)
	if err := n.fits(h); err != nil {
		return release.Digest{}, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return release.Digest{}, err
	}
	err := errors.Join(issue(h, nodesDir+"/"+n.Name, "node", subject{n.Name, identity.Node, []string{address}}), fillBundle(h, n))
	if err != nil {
		return release.Digest{}, err
	}
	c, err := readCertificate(dir, "node.crt")
	if err != nil {
		return release.Digest{}, err
	}
	return identity.PinOf(c), nil
}

// fillBundle writes what is in a bundle beside the certificate and its key, and packs it.
func fillBundle(h *home.Writer, n NewMember) error {
	address, _, err := net.SplitHostPort(n.Admin)
	if err == nil {
		err = n.fits(h)
	}
	if err != nil {
		return err
	}
	ca, err := depot.ReadFile(h.Path(pkiDir), "ca.crt", maxPEMBytes)
	if err != nil {
		return err
	}
	dir := h.Path(nodesDir, n.Name)
	return cmp.Or(errors.Join(
		depot.WriteFile(dir, "ca.crt", ca, 0o644),
		depot.WriteFile(dir, "root.json", h.Root(), 0o644),
		addCookieSeed(h, dir),
		copyKeys(h.Path(templatesDir), dir),
		fill(h, corefileName, dir, n.facts(address)),
		fill(h, sidecarName, dir, n.facts(address)),
	), packBundle(h, nodesDir, n.Name), writeFacts(h.Path(nodesDir), n.Name+".json", n))
}

// copyKeys puts the files of secrets beside the templates into a bundle: what the Corefile refers to, and is in no release.
func copyKeys(from, dir string) error {
	files, err := filepath.Glob(filepath.Join(from, "*.key"))
	if err != nil {
		return err
	}
	for _, file := range files {
		data, err := depot.ReadFile(from, filepath.Base(file), maxFactsBytes)
		if err != nil {
			return err
		}
		if err := depot.WriteFile(dir, filepath.Base(file), data, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// fits refuses what would make a configuration that no process takes. A mesh without templates makes none.
func (n NewMember) fits(h place) error {
	address, _, err := net.SplitHostPort(n.Admin)
	if err != nil {
		return err
	}
	for _, name := range []string{corefileName, sidecarName} {
		if _, err := os.Stat(h.Path(templatesDir, name)); err == nil {
			return n.facts(address).check()
		}
	}
	return nil
}

func (f nodeFacts) check() error {
	if _, err := netip.ParseAddr(f.AdminAddress); err != nil {
		return hint.Errorf("give the administrative address itself", "a node listens on an address, and %q is none", f.AdminAddress)
	}
	if len(f.Routers) == 0 {
		return nil
	}
	for _, router := range f.Routers {
		if _, err := netip.ParseAddr(router); err != nil {
			return fmt.Errorf("--router: %q is not an IP address", router)
		}
	}
	if id, err := netip.ParseAddr(f.RouterID); err != nil || !id.Is4() {
		return hint.Errorf("for example --router-id 198.51.100.7", "a BGP identifier is written like an IPv4 address, and %q is not (RFC 4271 4.2)", f.RouterID)
	}
	if f.AS == 0 || f.RouterAS == 0 {
		return hint.Errorf("for example --as 64500 --router-as 64501", "a BGP session needs the autonomous systems of both ends")
	}
	return nil
}

// fill makes a file of a template. A mesh without it has nodes that are configured elsewhere.
func fill(h place, name, dir string, facts nodeFacts) error {
	text, err := os.ReadFile(h.Path(templatesDir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	t, err := template.Parse(name, string(text), nil, nil)
	if err != nil {
		return fmt.Errorf("%s: %w", h.Path(templatesDir), err)
	}
	filled, err := t.Execute(name, facts)
	if err != nil {
		return fmt.Errorf("%s: %w", h.Path(templatesDir), err)
	}
	return depot.WriteFile(dir, name, []byte(filled), 0o644)
}

// sidecarFiles are the files of a bundle that are the sidecar's. The other secrets are for CoreDNS.
var sidecarFiles = []string{"node.key", "node.crt", "bgp-secret"}

// owner is the user whose a file of a bundle is, by the names of deploy/systemd/sysusers.conf, when root unpacks it. Where there is no such
// user it is root's.
func owner(file string) string {
	switch {
	case slices.Contains(sidecarFiles, file):
		return "anycast-sidecar"
	case filepath.Ext(file) == ".key":
		return "coredns"
	}
	return "root"
}

// packBundle writes a bundle as NAME.tar beside it, whose files are to be unpacked where its owner keeps them.
func packBundle(h place, in, name string) error {
	dir := h.Path(in, name)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		if !slices.Contains([]string{".crt", ".key", ".json", ".yaml", ""}, filepath.Ext(e.Name())) || !e.Type().IsRegular() {
			continue
		}
		data, err := depot.ReadFile(dir, e.Name(), release.MaxMemoryBytes)
		if err != nil {
			return err
		}
		mode := int64(0o644)
		if filepath.Ext(e.Name()) == ".key" {
			mode = 0o600
		}
		head := &tar.Header{Name: e.Name(), Mode: mode, Size: int64(len(data)), ModTime: h.Now(), Format: tar.FormatPAX, Uname: owner(e.Name()), Gname: "mesh"}
		if err := w.WriteHeader(head); err != nil {
			return err
		}
		if _, err := w.Write(data); err != nil {
			return err
		}
	}
	return cmp.Or(w.Close(), depot.WriteFile(h.Path(in), name+".tar", b.Bytes(), 0o600))
}

// Bundle is a member's bundle as a tar file.
func Bundle(h *home.Home, name string) ([]byte, error) {
	bundle, err := depot.ReadFile(h.Path(nodesDir), name+".tar", release.MaxMemoryBytes)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, hint.Errorf("meshctl member list shows all; a bundle is where \"member add\" ran", "there is no bundle of %s in %s", name, h.Path(nodesDir))
	}
	return bundle, err
}

func removeFile(path string) error {
	if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
