package validate_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/lab"
	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
)

// A form is how a zone denies existence.
type form string

const (
	nsec   form = "nsec"
	nsec3  form = "nsec3"
	optOut form = "optout"
	chains form = "chains" // two whole NSEC3 chains, as while parameters are changed (RFC 5155 10.4)
)

// A signer signs a zone file in a directory of its own, and returns the signed text.
type signer struct {
	name     string
	commands []string
	sign     func(t *testing.T, dir, origin string, f form) []byte
}

var signers = []signer{
	{"bind", []string{"dnssec-keygen", "dnssec-signzone"}, signBIND},
	{"ldns", []string{"ldns-keygen", "ldns-signzone"}, signLDNS},
	{"knot", []string{"kzonesign"}, signKnot},
}

func signBIND(t *testing.T, dir, origin string, f form) []byte {
	key := run(t, dir, "dnssec-keygen", "-q", "-a", "ECDSAP256SHA256", "-f", "KSK", origin)
	with := func(args ...string) []byte {
		args = append([]string{"-q", "-z", "-S", "-e", "now+7776000", "-O", "full", "-o", origin, "-f", "signed"}, args...)
		run(t, dir, "dnssec-signzone", append(args, "zone", strings.TrimSpace(key))...)
		return read(t, dir, "signed")
	}
	switch f {
	case nsec3:
		return with("-3", "-", "-H", "0")
	case optOut:
		return with("-3", "-", "-H", "0", "-A")
	case chains:
		return twoChains(t, dir, origin, with)
	}
	return with()
}

// twoChains has dnssec-signzone make a chain, and another one with other parameters beside it: the NSEC3PARAM records of
// both are there, and signed as one RRset.
func twoChains(t *testing.T, dir, origin string, with func(...string) []byte) []byte {
	var first []string
	for line := range strings.Lines(string(with("-3", "AB", "-H", "0"))) {
		if f := strings.Fields(line); len(f) > 4 && (f[3] == "NSEC3" || f[3] == "RRSIG" && f[4] == "NSEC3") {
			first = append(first, line)
		}
	}
	zone := read(t, dir, "zone")
	more := fmt.Appendf(bytes.Clone(zone), "%s 0 IN NSEC3PARAM 1 0 0 AB\n", origin)
	lab.Write(t, filepath.Join(dir, "zone"), string(more))
	return append(with("-3", "CD", "-H", "0"), strings.Join(first, "")...)
}

func signLDNS(t *testing.T, dir, origin string, f form) []byte {
	key := strings.TrimSpace(run(t, dir, "ldns-keygen", "-a", "ECDSAP256SHA256", "-k", origin))
	args := []string{"-o", origin, "-f", "signed", "-e", time.Now().AddDate(0, 3, 0).UTC().Format("20060102150405")}
	switch f {
	case nsec3:
		args = append(args, "-n", "-t", "0")
	case optOut:
		args = append(args, "-n", "-t", "0", "-p")
	}
	run(t, dir, "ldns-signzone", append(args, "zone", key)...)
	return read(t, dir, "signed")
}

func signKnot(t *testing.T, dir, origin string, f form) []byte {
	conf := fmt.Sprintf(`database:
  storage: %q
policy:
  - id: test
    algorithm: ECDSAP256SHA256
    single-type-signing: on
    rrsig-lifetime: 90d
    nsec3: %v
    nsec3-iterations: 0
    nsec3-salt-length: 0
    nsec3-opt-out: %v
zone:
  - domain: %q
    storage: %q
    file: zone
    dnssec-signing: on
    dnssec-policy: test
`, dir, f != nsec, f == optOut, origin, dir)
	lab.Write(t, filepath.Join(dir, "knot.conf"), conf)
	out := filepath.Join(dir, "out")
	if err := os.Mkdir(out, 0o755); err != nil {
		t.Fatal(err)
	}
	run(t, dir, "kzonesign", "-c", "knot.conf", "-o", out, origin)
	files, err := filepath.Glob(filepath.Join(out, "*"))
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	return read(t, out, filepath.Base(files[0]))
}

// A signed is a zone with its signatures.
type signed struct {
	origin string
	text   []byte
	ds     *dns.DS // of its key
}

// sign signs the text of a zone.
func (s *signer) sign1(t *testing.T, origin, text string, f form) signed {
	dir := t.TempDir()
	lab.Write(t, filepath.Join(dir, "zone"), text)
	z := signed{origin: origin, text: s.sign(t, dir, origin, f)}
	p := dns.NewZoneParser(bytes.NewReader(z.text), origin, "")
	for rr, ok := p.Next(); ok; rr, ok = p.Next() {
		if key, is := rr.(*dns.DNSKEY); is && key.Flags&dns.SEP != 0 {
			z.ds = key.ToDS(dns.SHA256)
		}
	}
	if z.ds == nil {
		t.Fatalf("%s: no key in the signed zone: %v", origin, p.Err())
	}
	return z
}

func read(t *testing.T, dir, name string) []byte {
	return []byte(lab.Read(t, filepath.Join(dir, name)))
}

func run(t *testing.T, dir, name string, args ...string) string {
	path, err := testenv.Look(name)
	if err != nil {
		t.Fatal(name, err)
	}
	cmd := exec.Command(path, args...)
	cmd.Dir = dir
	var detail bytes.Buffer
	cmd.Stderr = &detail
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s%s", name, strings.Join(args, " "), err, out, &detail)
	}
	return string(out)
}
