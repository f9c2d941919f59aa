// Package primarytest has primaries for tests to transfer zones from: real name servers, and one that answers as no real one
// would. Only tests import it.
package primarytest

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/lab"
	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
)

// Server is a real name server that is a primary.
type Server struct {
	Dir       string // its configuration, zones and log
	Addr, TLS netip.AddrPort
	Notify    netip.AddrPort // where it sends NOTIFY, if anywhere
	Generate  string         // catalog that Knot makes of its zones
	Process   *lab.Process

	t            testing.TB
	kind, binary string
	zones        map[string]string
}

// Key is a TSIG key that the servers know.
type Key struct {
	Name, Algorithm string // as package dns has them
	Secret          []byte
}

// Keys are one key of each algorithm, by that.
var Keys = map[string]*Key{}

func init() {
	for _, algorithm := range []string{dns.HmacSHA256, dns.HmacSHA384, dns.HmacSHA512, dns.HmacSHA1} {
		name := strings.TrimPrefix(algorithm, "hmac-") + "key."
		Keys[algorithm] = &Key{name, algorithm, bytes.Repeat([]byte(name[3:]), 8)}
	}
}

// Kinds are the name servers that there are.
func Kinds() []string { return []string{"knotd", "named", "nsd"} }

// NewServer starts a server of a kind with zones, given as text by origin, and waits until it has them all.
func NewServer(t testing.TB, kind string, zones map[string]string, with ...func(*Server)) *Server {
	t.Helper()
	d := &Server{t: t, kind: kind, binary: testenv.Need(t, kind)[0], Dir: t.TempDir(), zones: zones, Addr: testenv.Local(t)}
	for _, w := range with {
		w(d)
	}
	for origin, text := range zones {
		d.Write(origin, text)
	}
	d.Start()
	return d
}

// Write replaces a zone file by renaming.
func (d *Server) Write(origin, text string) {
	d.t.Helper()
	d.zones[origin] = text
	temp := filepath.Join(d.Dir, ".new")
	if err := os.WriteFile(temp, []byte(text), 0o644); err != nil {
		d.t.Fatal(err)
	}
	if err := os.Rename(temp, d.file(origin)); err != nil {
		d.t.Fatal(err)
	}
}

func (d *Server) file(origin string) string { return filepath.Join(d.Dir, origin+"zone") }

// Reload replaces a zone and waits until the server answers with the serial.
func (d *Server) Reload(origin, text string, serial uint32) {
	d.t.Helper()
	if d.kind == "nsd" { // it sees whole seconds
		time.Sleep(time.Until(fileTime(d.file(origin)).Add(1100 * time.Millisecond)))
	}
	d.Write(origin, text)
	d.Process.Signal(syscall.SIGHUP)
	d.await(origin, serial)
}

func fileTime(path string) time.Time {
	info, err := os.Stat(path)
	if err != nil {
		return time.Time{}
	}
	return info.ModTime()
}

// Start starts it, again, and waits until it has all its zones.
func (d *Server) Start() {
	d.t.Helper()
	d.Process = lab.Start(d.t, lab.Command{Name: d.kind, Argv: d.server().Argv(d.t, d.binary), Dir: d.Dir, Log: filepath.Join(d.Dir, "log")})
	d.t.Cleanup(d.Process.Stop)
	for origin := range d.zones {
		d.await(origin, 0)
	}
}

// await waits until the server answers for a zone, with the serial if it is not 0.
func (d *Server) await(origin string, serial uint32) {
	d.t.Helper()
	lab.WaitFor(d.t, fmt.Sprintf("%s has %s serial %d", d.kind, origin, serial), func() bool {
		m, err := dns.Exchange(new(dns.Msg).SetQuestion(origin, dns.TypeSOA), d.Addr.String())
		if err != nil || !m.Authoritative || len(m.Answer) == 0 {
			return false
		}
		soa, ok := m.Answer[0].(*dns.SOA)
		return ok && (serial == 0 || soa.Serial == serial)
	})
}

func bare(s string) string { return strings.TrimSuffix(s, ".") }

// server is the configuration, with the keys and zones.
func (d *Server) server() *lab.NameServer {
	s := &lab.NameServer{Kind: d.kind, Dir: d.Dir, Listen: []netip.AddrPort{d.Addr}}
	for _, k := range Keys {
		s.Keys = append(s.Keys, lab.TSIG{Name: bare(k.Name), Algorithm: bare(k.Algorithm), Secret: base64.StdEncoding.EncodeToString(k.Secret)})
	}
	for origin := range d.zones {
		s.Zones = append(s.Zones, lab.ServedZone{Origin: origin, File: d.file(origin)})
	}
	map[string]func(*lab.NameServer){"knotd": d.knot, "named": d.bind, "nsd": d.nsd}[d.kind](s)
	return s
}

func (d *Server) knot(s *lab.NameServer) {
	var c strings.Builder
	var ids []string
	for _, k := range s.Keys {
		ids = append(ids, k.Name)
	}
	fmt.Fprintf(&c, "acl:\n  - id: xfr\n    key: [%s]\n    action: transfer\n", strings.Join(ids, ", "))
	notify := ""
	if d.Notify.IsValid() {
		fmt.Fprintf(&c, "remote:\n  - id: us\n    address: 127.0.0.1@%d\n    key: %s\n", d.Notify.Port(), Keys[dns.HmacSHA256].Name)
		notify = "    notify: us\n"
	}
	fmt.Fprintf(&c, "template:\n  - id: default\n    zonefile-sync: -1\n    zonefile-load: difference\n    journal-content: changes\n    acl: xfr\n%s", notify)
	if d.Generate != "" {
		fmt.Fprintf(&c, "  - id: member\n    zonefile-sync: -1\n    acl: xfr\n    catalog-role: member\n    catalog-zone: %s\n    catalog-group: some\n%s", d.Generate, notify)
		fmt.Fprintf(&c, "  - id: catalog\n    zonefile-sync: -1\n    acl: xfr\n    catalog-role: generate\n%s", notify)
		for i := range s.Zones {
			s.Zones[i].More = "    template: member\n"
		}
		s.Zones = append(s.Zones, lab.ServedZone{Origin: d.Generate, File: d.file(d.Generate), More: "    template: catalog\n"})
	}
	s.Rest = c.String()
}

func (d *Server) bind(s *lab.NameServer) {
	var ids []string
	for _, k := range s.Keys {
		ids = append(ids, fmt.Sprintf("key %q;", k.Name))
	}
	s.Options += fmt.Sprintf("  allow-transfer { %s };\n  ixfr-from-differences yes;\n  check-integrity no;\n  check-names primary ignore;\n", strings.Join(ids, " "))
	if d.TLS.IsValid() {
		s.Rest = fmt.Sprintf("tls xot { cert-file %q; key-file %q; ca-file %q; protocols { TLSv1.3; }; };\n",
			filepath.Join(d.Dir, "server.crt"), filepath.Join(d.Dir, "server.key"), filepath.Join(d.Dir, "ca.crt"))
		s.Options += fmt.Sprintf("  listen-on port %d tls xot { 127.0.0.1; };\n", d.TLS.Port())
	}
	if d.Notify.IsValid() {
		s.Options += fmt.Sprintf("  notify explicit;\n  notify-delay 0;\n  also-notify { 127.0.0.1 port %d key %q; };\n", d.Notify.Port(), bare(Keys[dns.HmacSHA256].Name))
	} else {
		s.Options += "  notify no;\n"
	}
}

func (d *Server) nsd(s *lab.NameServer) {
	if d.TLS.IsValid() {
		s.Options += fmt.Sprintf("  ip-address: 127.0.0.1@%d\n  tls-port: %d\n  tls-service-key: %q\n  tls-service-pem: %q\n", d.TLS.Port(), d.TLS.Port(),
			filepath.Join(d.Dir, "server.key"), filepath.Join(d.Dir, "server.crt"))
	}
	more := "  store-ixfr: yes\n  create-ixfr: yes\n"
	for _, k := range s.Keys {
		more += fmt.Sprintf("  provide-xfr: 127.0.0.1 %s\n", k.Name)
	}
	if d.Notify.IsValid() {
		more += fmt.Sprintf("  notify: 127.0.0.1@%d %s\n", d.Notify.Port(), bare(Keys[dns.HmacSHA256].Name))
	}
	for i := range s.Zones {
		s.Zones[i].More = more
	}
}
