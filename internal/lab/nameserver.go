package lab

import (
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
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

// SignedZone is a zone that a Knot signs: with one key, NSEC3 and ZONEMD.
type SignedZone struct {
	Origin, File string
	OptOut       bool
	ByFile       bool                      // it changes when the file does, and Knot counts its serial; else only by orders to Knot
	ZONEMD       string                    // "zonemd-sha384", "none"
	Tells        map[string]netip.AddrPort // whom it tells of changes, by names for them
}

// Signs has a Knot sign a zone, and hand it out to whoever has the first of its keys, with room in its journal for a large one.
func (s *NameServer) Signs(z SignedZone) {
	names, key := slices.Sorted(maps.Keys(z.Tells)), s.Keys[0].Name
	var rest strings.Builder
	rest.WriteString("remote:\n")
	for _, name := range names {
		at := z.Tells[name]
		fmt.Fprintf(&rest, "  - id: %s\n    address: %s@%d\n    key: %s\n", name, at.Addr(), at.Port(), key)
	}
	fmt.Fprintf(&rest, `acl:
  - id: transfer
    key: %s
    action: transfer
policy:
  - id: signed
    algorithm: ecdsap256sha256
    single-type-signing: on
    nsec3: on
    nsec3-iterations: 0
    nsec3-salt-length: 0
    nsec3-opt-out: %t
    rrsig-lifetime: 90d
    signing-threads: 2
`, key, z.OptOut)
	load, journal := "whole", "changes"
	if z.ByFile {
		load, journal = "difference-no-serial", "all"
	}
	s.Rest, s.Zones = rest.String(), []ServedZone{{Origin: z.Origin, File: z.File, More: fmt.Sprintf(`    zonefile-sync: -1
    zonefile-load: %s
    journal-content: %s
    journal-max-usage: 2G
    acl: transfer
    notify: [%s]
    dnssec-signing: on
    dnssec-policy: signed
    zonemd-generate: %s
`, load, journal, strings.Join(names, ", "), z.ZONEMD)}}
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
