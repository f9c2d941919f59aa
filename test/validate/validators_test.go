package validate_test

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
)

// A validator resolves questions from our server, with the zones' keys as trust anchors.
type validator interface {
	name() string
	validate(c *class, col column) verdict
	want(c *class, col column) verdict // what it is to make of an answer
}

// secureUnless is secure unless the zone is in opt-out form and the answer stands on one of the proofs given, or below an
// insecure delegation (RFC 5155 9.2). ldns-signzone sets the flag, and has insecure delegations in the chain all the same.
func secureUnless(c *class, col column, proofs ...proof) verdict {
	if c.proof == nothing || col.form == optOut && slices.Contains(proofs, c.proof) && (c.proof != optedOut || col.signer != "ldns") {
		return insecure
	}
	return secure
}

// delv is BIND's: it asks our server itself.
type delv struct {
	path, host, port string
	anchors          map[string]string // origin to file
}

func newDelv(t *testing.T, address string, columns []column) *delv {
	host, port, _ := net.SplitHostPort(address)
	d := &delv{path: testenv.Need(t, "delv")[0], host: host, port: port, anchors: map[string]string{}}
	dir := t.TempDir()
	for _, col := range columns {
		path := filepath.Join(dir, col.zone.origin+"anchor")
		ds := col.zone.ds
		text := fmt.Sprintf("trust-anchors { %q static-ds %d %d %d %q; };\n", col.zone.origin, ds.KeyTag, ds.Algorithm, ds.DigestType, ds.Digest)
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		d.anchors[col.zone.origin] = path
	}
	return d
}

func (d *delv) name() string { return "delv" }

// want implements validator. delv calls negative answers valid where the span has the flag too.
func (d *delv) want(c *class, col column) verdict { return secureUnless(c, col, expand) }

func (d *delv) validate(c *class, col column) verdict {
	out, err := exec.Command(d.path, "@"+d.host, "-p", d.port, "-a", d.anchors[col.zone.origin], "+root="+col.zone.origin,
		"-q", c.qname(col), "-t", dns.Type(c.qtype).String()).CombinedOutput()
	text := string(out)
	rcode := dns.RcodeSuccess // delv calls a negative answer a failed resolution, and then says whether it is valid
	if strings.Contains(text, "ncache nxdomain") {
		rcode = dns.RcodeNameError
	}
	switch {
	case strings.Contains(text, "resolution failed") && !strings.Contains(text, "resolution failed: ncache"):
		return bogus
	case err != nil, rcode != c.rcode:
		return wrong
	case strings.Contains(text, "unsigned answer"):
		return insecure
	case strings.Contains(text, "fully validated"):
		return secure
	}
	return wrong
}

// unbound is a resolver that has our server as the one for all the zones.
type unbound struct{ address string }

func newUnbound(t *testing.T, server string, columns []column) *unbound {
	path := testenv.Need(t, "unbound")[0]
	dir, port := t.TempDir(), testenv.Port(t)
	var c strings.Builder
	fmt.Fprintf(&c, `server:
  interface: 127.0.0.1@%d
  access-control: 127.0.0.0/8 allow
  chroot: ""
  username: ""
  directory: %q
  pidfile: ""
  use-syslog: no
  do-daemonize: no
  do-not-query-localhost: no
  module-config: "validator iterator"
  trust-anchor-signaling: no
  root-key-sentinel: no
  local-zone: "test." nodefault
`, port, dir)
	for _, col := range columns {
		fmt.Fprintf(&c, "  trust-anchor: %q\n", strings.ReplaceAll(col.zone.ds.String(), "\t", " "))
	}
	c.WriteString("remote-control:\n  control-enable: no\n")
	host, serverPort, _ := net.SplitHostPort(server)
	for _, col := range columns {
		fmt.Fprintf(&c, "stub-zone:\n  name: %q\n  stub-addr: %s@%s\n", col.zone.origin, host, serverPort)
	}
	conf := filepath.Join(dir, "conf")
	if err := os.WriteFile(conf, []byte(c.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	start(t, path, "-d", "-c", conf)
	u := &unbound{fmt.Sprintf("127.0.0.1:%d", port)}
	await(t, u.address, columns[0].zone.origin)
	return u
}

func (u *unbound) name() string { return "unbound" }

func (u *unbound) want(c *class, col column) verdict {
	return secureUnless(c, col, expand, span, optedOut)
}

func (u *unbound) validate(c *class, col column) verdict {
	q := new(dns.Msg).SetQuestion(c.qname(col), c.qtype)
	q.SetEdns0(4096, true)
	m, _, err := (&dns.Client{Net: "tcp", Timeout: 20 * time.Second}).Exchange(q, u.address)
	switch {
	case err != nil:
		return wrong
	case m.Rcode == dns.RcodeServerFailure:
		return bogus
	case m.Rcode != c.rcode:
		return wrong
	case m.AuthenticatedData:
		return secure
	}
	return insecure
}
