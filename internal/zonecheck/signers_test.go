package zonecheck

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/rdatatest"
	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
	"github.com/coredns-anycast/coredns-anycast/internal/zone"
	"github.com/coredns-anycast/coredns-anycast/internal/zonefile"
)

const (
	nsec        = "nsec"
	nsec3       = "nsec3"
	nsec3OptOut = "optout"
)

var flavours = []string{nsec, nsec3, nsec3OptOut}

// run executes a command in a directory, and ends the test if it fails.
func run(t testing.TB, dir, command string, args ...string) string {
	t.Helper()
	out, err := try(t, dir, command, args...)
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", command, strings.Join(args, " "), err, out)
	}
	return out
}

func try(t testing.TB, dir, command string, args ...string) (string, error) {
	t.Helper()
	cmd := exec.Command(testenv.Need(t, command)[0], args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func write(t testing.TB, dir, name, text string) string {
	t.Helper()
	file := filepath.Join(dir, name)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func read(t testing.TB, file string) string {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func testdata(t testing.TB, name string) string { return read(t, filepath.Join("testdata", name)) }

// parse reads a zone that internal/zone has nothing against.
func parse(t testing.TB, text string) *zone.Zone {
	t.Helper()
	z, found := zonefile.Parse(strings.NewReader(text), zonefile.Options{})
	if z == nil {
		t.Fatal(found)
	}
	return z
}

// lines is a zone as canonical text, a record a line.
func lines(t testing.TB, z *zone.Zone) string {
	t.Helper()
	var b bytes.Buffer
	if err := zonefile.Write(&b, z); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// keys makes, once, a key-signing and a zone-signing key of an algorithm for "example." as BIND's tools do, and returns
// where they are and what they are called.
func keys(t testing.TB, algorithm string) (dir string, names []string) {
	t.Helper()
	made, _ := keyCache.LoadOrStore(algorithm, sync.OnceValues(func() (string, []string) {
		dir, err := os.MkdirTemp(keyRoot, algorithm)
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, flags := range [][]string{{"-f", "KSK"}, nil} {
			args := append([]string{"-q", "-a", algorithm}, flags...)
			if strings.HasPrefix(algorithm, "RSA") {
				args = append(args, "-b", "2048")
			}
			names = append(names, strings.TrimSpace(run(t, dir, "dnssec-keygen", append(args, "example")...)))
		}
		return dir, names
	}))
	return made.(func() (string, []string))()
}

var (
	keyRoot  string
	keyCache sync.Map
)

func TestMain(m *testing.M) {
	var err error
	if keyRoot, err = os.MkdirTemp("", "zonecheck-keys-"); err != nil {
		panic(err)
	}
	code := m.Run()
	os.RemoveAll(keyRoot)
	os.Exit(code)
}

// A signer signs a zone named "example." with real software.
type signer struct {
	name string
	sign func(t testing.TB, text, flavour, algorithm string) string
}

var signers = []signer{{"ldns-signzone", signLDNS}, {"dnssec-signzone", signBIND}, {"kzonesign", signKnot}}

func signLDNS(t testing.TB, text, flavour, algorithm string) string {
	t.Helper()
	from, names := keys(t, algorithm)
	dir := t.TempDir()
	write(t, dir, "zone", text)
	args := []string{"-f", "signed", "-z", "1:1", "-z", "1:2"}
	switch flavour {
	case nsec3:
		args = append(args, "-n", "-t", "0")
	case nsec3OptOut:
		args = append(args, "-n", "-p", "-t", "1", "-s", "cafe")
	}
	args = append(args, "zone")
	for _, name := range names {
		args = append(args, filepath.Join(from, name))
	}
	run(t, dir, "ldns-signzone", args...)
	return read(t, filepath.Join(dir, "signed"))
}

func signBIND(t testing.TB, text, flavour, algorithm string) string {
	t.Helper()
	from, _ := keys(t, algorithm)
	dir := t.TempDir()
	write(t, dir, "zone", text)
	args := []string{"-q", "-S", "-K", from, "-o", "example.", "-f", "signed", "-d", dir}
	switch flavour {
	case nsec3:
		args = append(args, "-3", "-")
	case nsec3OptOut:
		args = append(args, "-3", "cafe", "-H", "1", "-A")
	}
	run(t, dir, "dnssec-signzone", append(args, "zone")...)
	return read(t, filepath.Join(dir, "signed"))
}

const knotConfig = `
server:
    rundir: "%[1]s"
database:
    storage: "%[1]s/db"
policy:
  - id: p
    algorithm: %[2]s
    nsec3: %[3]s
    nsec3-opt-out: %[4]s
    nsec3-iterations: 0
    nsec3-salt-length: %[5]d
zone:
  - domain: example.
    storage: "%[1]s"
    file: "zone"
    semantic-checks: off
    dnssec-signing: on
    dnssec-policy: p
    zonemd-generate: zonemd-sha512
    serial-policy: increment
`

func signKnot(t testing.TB, text, flavour, algorithm string) string {
	t.Helper()
	dir := t.TempDir()
	onOff := map[bool]string{true: "on", false: "off"}
	write(t, dir, "zone", text)
	salt := 0
	if flavour == nsec3OptOut {
		salt = 8
	}
	write(t, dir, "knot.conf", fmt.Sprintf(knotConfig, dir, strings.ToLower(algorithm), onOff[flavour != nsec], onOff[flavour == nsec3OptOut], salt))
	for _, sub := range []string{"db", "out"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	run(t, dir, "kzonesign", "-r", "-c", "knot.conf", "-o", "out", "example")
	return read(t, filepath.Join(dir, "out", "zone"))
}

// strict demands everything, for a zone that has everything.
func strict() Policy {
	p := DefaultPolicy()
	p.ZONEMD, p.DNSSEC = Verify, Require
	return p
}

const lease = 24 * time.Hour

func errorsOf(found []zone.Finding) []string {
	var list []string
	for _, f := range found {
		if f.Severity == zone.Error {
			list = append(list, f.String())
		}
	}
	return list
}

// TestSignaturesOfEveryType: what BIND signs of random RDATA of every type, and writes in its own forms, verifies: text, octets and
// canonical form (RFC 4034 6.2) are read alike.
func TestSignaturesOfEveryType(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	var b strings.Builder
	b.WriteString("example. 300 SOA ns.test. mail.test. 1 7200 3600 1209600 300\nexample. 300 NS ns.test.\nexample. 300 NS ns2.test.\n")
	for _, typ := range rdatatest.Types() {
		switch typ { // which BIND refuses, or that say something about the zone
		case dns.TypeNS, dns.TypeMD, dns.TypeMF, dns.TypeSOA, dns.TypeDNAME, dns.TypeSIG, dns.TypeNXT, dns.TypeDS, dns.TypeRRSIG, dns.TypeNSEC, dns.TypeNSEC3, dns.TypeNSEC3PARAM,
			dns.TypeDNSKEY, dns.TypeCDNSKEY, dns.TypeCDS,
			dns.TypeNSAPPTR: // whose names BIND folds before it signs them, and RFC 4034 6.2 does not
			continue
		}
		for i := range 5 {
			octets := rdatatest.Random(r, typ)
			fmt.Fprintf(&b, "x%d-%d.example. 300 TYPE%d \\# %d %X\n", typ, i, typ, len(octets), octets)
		}
	}
	z := parse(t, signBIND(t, b.String(), nsec, "ECDSAP256SHA256"))
	if z.Len() < 5*2*60 {
		t.Errorf("only %d records", z.Len())
	}
	for _, f := range new(Memo).Check(nil, z, strict(), time.Now(), lease) {
		if f.Severity == zone.Error {
			t.Error(f)
		}
	}
}
