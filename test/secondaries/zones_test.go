package secondaries_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/coredns-anycast/coredns-anycast/internal/lab"
)

// plain is an unsigned zone in which everything that can change does: one line a record, by owner and type.
type plain struct {
	*rand.Rand
	origin string
	serial uint32
	sets   map[string][]string
}

// newPlain is a zone large enough for its changes to be worth sending as such.
func newPlain(origin string, serial uint32, hosts int) *plain {
	z := &plain{Rand: rand.New(rand.NewPCG(1995, uint64(hosts))), origin: origin, serial: serial, sets: map[string][]string{}}
	z.set("", "NS", 3600, "NS ns1."+origin, "NS ns2.Example.NET.")
	z.set("ns1.", "A", 3600, "A 192.0.2.1")
	for i := range hosts {
		z.set(fmt.Sprintf("h%d.", i), "TXT", 300, fmt.Sprintf("TXT \"%d %s\"", i, strings.Repeat("x", 150)))
	}
	z.large(0)
	return z
}

func (z *plain) set(owner, typ string, ttl int, rdata ...string) {
	var lines []string
	for _, r := range rdata {
		lines = append(lines, fmt.Sprintf("%s%s %d IN %s", owner, z.origin, ttl, r))
	}
	z.sets[owner+" "+typ] = lines
}

// large is an RRset of 52,000 octets (BIND stores none above 65,535), of which a few records change from version to version.
func (z *plain) large(version int) {
	var rdata []string
	for i := range 400 {
		rdata = append(rdata, fmt.Sprintf("TXT \"%d %d %s\"", i, (version+i)/400*400, strings.Repeat("l", 120)))
	}
	z.set("large.", "TXT", 300, rdata...)
}

// after is the next serial, without 0, from which plugin transfer knows no IXFR.
func after(serial uint32) uint32 { return max(serial+1, 1) }

// step makes the next version.
func (z *plain) step(n int) {
	z.serial = after(z.serial)
	host := func() string { return fmt.Sprintf("h%d.", z.IntN(300)) }
	z.set(fmt.Sprintf("new%d.", n), "A", 300, "A 192.0.2.7", fmt.Sprintf("A 192.0.2.%d", n%7)) // added
	delete(z.sets, fmt.Sprintf("new%d. A", n-3))                                               // removed
	delete(z.sets, host()+" TXT")
	z.set(host(), "TXT", 300+n, "TXT \"another TTL\"")
	z.set("ttl.", "A", 60+n, "A 192.0.2.1", "A 192.0.2.2", "A 192.0.2.3") // another TTL alone
	z.set("set.", "MX", 300, fmt.Sprintf("MX %d mail", n%3)+"."+z.origin, "MX 7 always."+z.origin)
	z.set("case.", "CNAME", 300, "CNAME "+[]string{"target.", "Target."}[n%2]+z.origin) // the same name
	z.set("type.", []string{"A", "AAAA"}[n%2], 300, []string{"A 192.0.2.1", "AAAA 2001:db8::1"}[n%2])
	delete(z.sets, "type. "+[]string{"AAAA", "A"}[n%2])
	z.set("unknown.", "TYPE65280", 300, fmt.Sprintf("TYPE65280 \\# 4 0a00%04x", n), "TYPE65280 \\# 0")
	z.set("*.wild.", "TXT", 300, fmt.Sprintf("TXT \"%d\"", n/2))
	z.set("deep.under.ent.", "SRV", 300, fmt.Sprintf("SRV 1 2 %d ns1.%s", n, z.origin))
	z.set("svc.", "HTTPS", 300, fmt.Sprintf("HTTPS 1 . alpn=h2 port=%d", n))
	z.set("\\001\\.\\255.", "NAPTR", 300, fmt.Sprintf("NAPTR 1 %d \"s\" \"a;b\" \"\" ns1.%s", n, z.origin))
	if n%2 == 0 {
		z.set("cut.", "NS", 300, fmt.Sprintf("NS ns%d.cut.%s", n, z.origin)) // and its glue
		z.set("cut.", "DS", 300, "DS 1 13 2 "+strings.Repeat("0a", 32))
		delete(z.sets, fmt.Sprintf("ns%d.cut. A", n-2))
		z.set(fmt.Sprintf("ns%d.cut.", n), "A", 300, "A 192.0.2.99")
	}
	if n%5 == 0 { // the apex
		z.set("", "NS", 3600+n, fmt.Sprintf("NS ns%d.example.net.", n%2), "NS ns1."+z.origin)
		z.set("", "MX", 300, fmt.Sprintf("MX %d .", n))
	}
	if n%7 == 0 {
		delete(z.sets, "*.wild. TXT")
		delete(z.sets, "unknown. TYPE65280")
	}
	z.large(n * 3)
	if n == 20 {
		z.large(4000) // all of it: a difference of several messages
	}
}

func (z *plain) text(n int) string {
	lines := []string{fmt.Sprintf("%[1]s %[2]d IN SOA ns1.%[1]s host.%[1]s %[3]d %[4]d 600 86400 60", z.origin, 3600+n/10, z.serial, 3600+n%3)}
	for _, key := range slices.Sorted(maps.Keys(z.sets)) {
		lines = append(lines, z.sets[key]...)
	}
	return strings.Join(lines, "\n") + "\n"
}

// signed is a zone that dnssec-signzone signs, with NSEC3 and opt-out; signatures that are still good stay.
type signed struct {
	t      *testing.T
	dir    string
	serial uint32
	lines  []string
}

const signedOrigin = "signed.example."

func newSigned(t *testing.T, serial uint32) *signed {
	z := &signed{t: t, dir: t.TempDir(), serial: serial}
	for _, flags := range []string{"KSK", ""} {
		args := []string{"-q", "-a", "ECDSAP256SHA256", "-K", z.dir}
		if flags != "" {
			args = append(args, "-f", flags)
		}
		z.run("dnssec-keygen", append(args, signedOrigin)...)
	}
	z.lines = []string{"@ 300 IN NS ns", "ns 300 IN A 192.0.2.1", "*.w 300 IN TXT wildcard"}
	for i := range 600 {
		z.lines = append(z.lines, fmt.Sprintf("d%d 300 IN NS ns%d.an-operator-of-many.d%[1]d", i, i))
	}
	z.sign("ab")
	return z
}

func (z *signed) run(command string, args ...string) {
	z.t.Helper()
	lab.Run(z.t, z.dir, append([]string{command}, args...)...) // they leave files where they are
}

// sign signs what there is anew.
func (z *signed) sign(salt string) {
	z.t.Helper()
	z.lines = slices.DeleteFunc(z.lines, func(l string) bool { return strings.Contains(l, " SOA\t") || strings.HasPrefix(l, ";") })
	soa := fmt.Sprintf("$ORIGIN %s\n@ 300 IN SOA ns host %d 3600 600 86400 60\n", signedOrigin, z.serial)
	in, out := filepath.Join(z.dir, "in"), filepath.Join(z.dir, "out")
	lab.Write(z.t, in, soa+strings.Join(z.lines, "\n")+"\n")
	z.run("dnssec-signzone", "-q", "-S", "-K", z.dir, "-3", salt, "-H", "0", "-A", "-u", "-N", "keep", "-O", "full", "-o", signedOrigin, "-f", out, in)
	z.lines = strings.Split(strings.TrimSpace(lab.Read(z.t, out)), "\n")
}

func (z *signed) step(n int) {
	z.serial = after(z.serial)
	z.lines = append(z.lines, fmt.Sprintf("new%d 300 IN A 192.0.2.%d", n, n), fmt.Sprintf("d%d 300 IN DS 1 13 2 %s", n, strings.Repeat("0b", 32)))
	z.lines = slices.DeleteFunc(z.lines, func(l string) bool {
		return strings.HasPrefix(l, fmt.Sprintf("new%d.", n-5)) || strings.HasPrefix(l, fmt.Sprintf("d%d.", n+100))
	})
	salt := "ab"
	if n >= 30 {
		salt = "cd" // another chain
	}
	z.sign(salt)
}

func (z *signed) text() string { return strings.Join(z.lines, "\n") + "\n" }
