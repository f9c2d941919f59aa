package lab

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
)

// NameServer is a Knot DNS, BIND or NSD that keeps all it has in one directory, stays in the foreground, gives up no
// privilege and takes no orders.
type NameServer struct {
	Kind    string // its command: "knotd", "named" or "nsd"
	Dir     string
	Listen  []netip.AddrPort
	Keys    []TSIG
	Options string // lines of its own in the section "server", BIND's in "options"
	Rest    string // what stands before the zones: remotes, access lists, templates
	Zones   []ServedZone
}

// TSIG is a key that a server knows. Its name and algorithm have no final dot.
type TSIG struct{ Name, Algorithm, Secret string }

// ServedZone is one zone of a server.
type ServedZone struct {
	Origin    string
	File      string // empty: none is named
	Secondary bool   // BIND wants to know
	More      string // lines of its own, of Knot's with four blanks before them, of NSD's with two
}

// configurations are how each kind says it.
var configurations = map[string]func(*NameServer, *strings.Builder){"knotd": (*NameServer).knot, "named": (*NameServer).bind, "nsd": (*NameServer).nsd}

// Config is the server's configuration.
func (s *NameServer) Config() string {
	var c strings.Builder
	configurations[s.Kind](s, &c)
	return c.String()
}

// Prepare writes the configuration into the directory, which it makes if need be, and returns the arguments to run with.
func (s *NameServer) Prepare() (args []string, err error) {
	file := filepath.Join(s.Dir, s.Kind+".conf")
	if err := os.MkdirAll(s.Dir, 0o755); err != nil {
		return nil, err
	}
	if err := os.WriteFile(file, []byte(s.Config()), 0o644); err != nil {
		return nil, err
	}
	return map[string][]string{"knotd": {"-c", file}, "named": {"-f", "-g", "-n", "1", "-c", file}, "nsd": {"-d", "-c", file}}[s.Kind], nil
}

// Argv is what runs the server, by the path of its program, once its configuration is written.
func (s *NameServer) Argv(t T, program string) []string {
	t.Helper()
	args, err := s.Prepare()
	Must(t, err)
	return append([]string{program}, args...)
}

// atPorts are the addresses as Knot and NSD write them.
func (s *NameServer) atPorts() (list []string) {
	for _, a := range s.Listen {
		list = append(list, fmt.Sprintf("%s@%d", a.Addr(), a.Port()))
	}
	return list
}

func (s *NameServer) knot(c *strings.Builder) {
	// Without tcp-io-timeout it is half a second, in which a busy machine may not get to read.
	fmt.Fprintf(c, `server:
  listen: [%s]
  rundir: %q
  udp-workers: 1
  tcp-workers: 2
  background-workers: 2
  tcp-io-timeout: 20000
%s
database:
  storage: %[2]q
  journal-db-max-size: 4G
log:
  - target: stderr
    any: info
`, strings.Join(s.atPorts(), ", "), s.Dir, s.Options)
	for i, k := range s.Keys {
		if i == 0 {
			c.WriteString("key:\n")
		}
		fmt.Fprintf(c, "  - id: %s\n    algorithm: %s\n    secret: %s\n", k.Name, k.Algorithm, k.Secret)
	}
	c.WriteString(s.Rest + "zone:\n")
	for _, z := range s.Zones {
		fmt.Fprintf(c, "  - domain: %q\n", z.Origin)
		if z.File != "" {
			fmt.Fprintf(c, "    file: %q\n", z.File)
		}
		c.WriteString(z.More)
	}
}

func (s *NameServer) bind(c *strings.Builder) {
	for _, k := range s.Keys {
		fmt.Fprintf(c, "key %q { algorithm %s; secret %q; };\n", k.Name, k.Algorithm, k.Secret)
	}
	fmt.Fprintf(c, `options {
  directory %q;
  pid-file none;
  session-keyfile none;
  lock-file none;
  recursion no;
  dnssec-validation no;
  empty-zones-enable no;
`, s.Dir)
	versions := map[bool]string{false: "  listen-on port %d { %s; };\n", true: "  listen-on-v6 port %d { %s; };\n"}
	six := false
	for _, a := range s.Listen {
		six = six || a.Addr().Is6()
		fmt.Fprintf(c, versions[a.Addr().Is6()], a.Port(), a.Addr())
	}
	if !six {
		c.WriteString("  listen-on-v6 { none; };\n")
	}
	c.WriteString(s.Options + "};\ncontrols {};\n" + s.Rest)
	for _, z := range s.Zones {
		kind := map[bool]string{false: "primary", true: "secondary"}[z.Secondary]
		fmt.Fprintf(c, "zone %q { type %s; ", z.Origin, kind)
		if z.File != "" {
			fmt.Fprintf(c, "file %q; ", z.File)
		}
		c.WriteString(z.More + "};\n")
	}
}

func (s *NameServer) nsd(c *strings.Builder) {
	fmt.Fprintf(c, `server:
  ip-address: %s
  server-count: 1
  username: ""
  chroot: ""
  database: ""
  zonesdir: %[2]q
  pidfile: "%[2]s/nsd.pid"
  xfrdfile: "%[2]s/nsd.xfrd"
  xfrdir: %[2]q
  zonelistfile: "%[2]s/nsd.zonelist"
  cookie-secret-file: "%[2]s/nsd.cookie"
  verbosity: 2
%[3]s
remote-control:
  control-enable: no
`, strings.Join(s.atPorts(), "\n  ip-address: "), s.Dir, s.Options)
	for _, k := range s.Keys {
		fmt.Fprintf(c, "key:\n  name: %q\n  algorithm: %s\n  secret: %q\n", k.Name, k.Algorithm, k.Secret)
	}
	c.WriteString(s.Rest)
	for _, z := range s.Zones {
		fmt.Fprintf(c, "zone:\n  name: %q\n", z.Origin)
		if z.File != "" {
			fmt.Fprintf(c, "  zonefile: %q\n", z.File)
		}
		c.WriteString(z.More)
	}
}
