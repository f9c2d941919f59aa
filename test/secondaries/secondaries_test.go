package secondaries_test

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/lab"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
	"github.com/coredns-anycast/coredns-anycast/internal/zonefile"
)

// A secondary transfers every zone from the node with key mesh., and lets anybody transfer it.
type secondary struct {
	name, addr string
	how        func(s *lab.NameServer, addr string) (zone func(origin string) lab.ServedZone)
}

var secondaries = []secondary{{"nsd", "127.0.2.1", nsd}, {"knotd", "127.0.2.2", knot}, {"named", "127.0.2.3", bind}}

// server is the secondary's configuration.
func (s *secondary) server(dir string, origins []string) *lab.NameServer {
	server := &lab.NameServer{Kind: s.name, Dir: dir, Listen: []netip.AddrPort{netip.AddrPortFrom(netip.MustParseAddr(s.addr), 53)},
		Keys: []lab.TSIG{{Name: "mesh.", Algorithm: "hmac-sha256", Secret: secret}}}
	zone := s.how(server, s.addr)
	for _, origin := range origins {
		server.Zones = append(server.Zones, zone(origin))
	}
	return server
}

func nsd(s *lab.NameServer, addr string) func(origin string) lab.ServedZone {
	s.Options = "  xfrd-reload-timeout: 0\n"
	more := fmt.Sprintf("  request-xfr: %s mesh.\n  allow-notify: %[1]s mesh.\n  provide-xfr: 127.0.0.0/8 NOKEY\n  outgoing-interface: %[2]s\n", admin, addr)
	return func(origin string) lab.ServedZone {
		return lab.ServedZone{Origin: origin, File: origin + ".zone", More: more}
	}
}

func knot(s *lab.NameServer, addr string) func(origin string) lab.ServedZone {
	s.Rest = fmt.Sprintf(`remote:
  - id: node
    address: %[2]s@53
    via: %[1]s
    key: mesh.
acl:
  - id: notify
    address: %[2]s
    key: mesh.
    action: notify
  - id: transfer
    address: 127.0.0.0/8
    action: transfer
template:
  - id: default
    storage: %[3]q
    zonefile-sync: -1
    semantic-checks: off
    master: node
    acl: [notify, transfer]
`, addr, admin, s.Dir)
	return func(origin string) lab.ServedZone { return lab.ServedZone{Origin: origin} }
}

func bind(s *lab.NameServer, addr string) func(origin string) lab.ServedZone {
	s.Options = fmt.Sprintf(`  transfer-source %[1]s;
  query-source address %[1]s;
  notify no;
  allow-transfer { any; };
  check-names secondary ignore;
  max-records-per-type 0;
  serial-query-rate 1000;
`, addr)
	s.Rest = fmt.Sprintf("server %s { keys { mesh.; }; };\n", admin)
	more := fmt.Sprintf("primaries { %s key mesh.; }; allow-notify { key mesh.; }; ", admin)
	return func(origin string) lab.ServedZone {
		return lab.ServedZone{Origin: origin, File: origin + "db", Secondary: true, More: more}
	}
}

// serial is what a server says that a zone's is.
func serial(addr, origin string) (uint32, error) {
	m, _, err := (&dns.Client{Timeout: time.Second}).Exchange(new(dns.Msg).SetQuestion(origin, dns.TypeSOA), addr+":53")
	if err != nil {
		return 0, err
	}
	if len(m.Answer) != 1 || m.Rcode != dns.RcodeSuccess {
		return 0, fmt.Errorf("%s has no SOA of %s: %s", addr, origin, dns.RcodeToString[m.Rcode])
	}
	return m.Answer[0].(*dns.SOA).Serial, nil
}

// transferred is a zone as a server gives it by AXFR: each record and how many times it is there, the SOA twice.
func transferred(t *testing.T, addr, origin, key string) map[string]int {
	t.Helper()
	q, tr := new(dns.Msg).SetAxfr(origin), &dns.Transfer{ReadTimeout: 10 * time.Second}
	if key != "" {
		q.SetTsig(key, dns.HmacSHA256, 300, time.Now().Unix())
		tr.TsigSecret = map[string]string{key: secret}
	}
	in, err := tr.In(q, addr+":53")
	lab.Must(t, err)
	records := map[string]int{}
	for e := range in {
		lab.Must(t, e.Error)
		for _, rr := range e.RR {
			records[plainForm(rr)]++
		}
	}
	return records
}

// plainForm is a record without what servers may change: the case of names (RFC 4343).
func plainForm(rr dns.RR) string {
	rr.Header().Name = strings.ToLower(rr.Header().Name)
	switch rr := rr.(type) {
	case *dns.NS:
		rr.Ns = strings.ToLower(rr.Ns)
	case *dns.CNAME:
		rr.Target = strings.ToLower(rr.Target)
	}
	return rr.String()
}

// published is a zone as it was published.
func published(t *testing.T, text string) map[string]int {
	z, found := zonefile.Parse(strings.NewReader(text), zonefile.Options{})
	if z == nil {
		t.Fatal(found)
	}
	records := map[string]int{}
	for rr := range z.Records() {
		records[plainForm(rr)]++
		if rr.Header().Rrtype == dns.TypeSOA {
			records[plainForm(rr)]++
		}
	}
	return records
}

func compare(t *testing.T, who string, got, want map[string]int) {
	t.Helper()
	shown := 0
	for _, side := range []struct {
		what string
		a, b map[string]int
	}{{"lacks", want, got}, {"has", got, want}} {
		for rr, n := range side.a {
			if side.b[rr] != n {
				if shown++; shown <= 10 {
					t.Errorf("%s %s (%d, not %d times): %s", who, side.what, n, side.b[rr], rr)
				}
			}
		}
	}
}

const switchovers = 50

// TestSecondariesFollowByIXFR: NSD, Knot and BIND hold the zones of a node, with TSIG, through 50 switchovers in which all
// that can change in a zone changes. They are told by NOTIFY, transfer each zone whole once, then by difference, and hold
// it to the record (XFER-1).
func TestSecondariesFollowByIXFR(t *testing.T) {
	testenv.Root(t)
	paths := testenv.Need(t, "nsd", "knotd", "named", "dnssec-signzone", "dnssec-keygen")
	c := newChase(t, paths)
	c.follow()
	for n := 1; n <= switchovers; n++ {
		c.step(n)
		c.follow()
		if n%25 == 0 {
			c.hold()
		}
	}
	c.counted()

	// A node that was killed has its differences again from the next release on.
	c.node.process.Kill()
	c.node.run()
	c.node.reaches("serving", switchovers+1, func(s *status.Node) uint64 { return s.Serving })
	c.plain.step(switchovers + 1)
	c.texts[c.plain.origin] = c.plain.text(switchovers + 1)
	c.node.release(c.texts)
	c.follow()
	if got := c.node.counters("coredns_meshsync_transfers_total"); got["axfr"]+got["fallback"] > 0 || got["ixfr"] < len(secondaries) {
		t.Errorf("after a restart: %v", got)
	}
	c.hold()
}

// chase is a node whose zones change, and the secondaries that follow it.
type chase struct {
	t           *testing.T
	node        *primary
	plain, calm *plain
	sig         *signed
	texts       map[string]string // of the newest release, by origin
	changes     int               // of zones, by all releases but the first
}

func newChase(t *testing.T, paths []string) *chase {
	c := &chase{t: t, plain: newPlain("plain.example.", 1<<32-6, 1500), calm: newPlain("calm.example.", 1<<31-5, 300), sig: newSigned(t, 1<<32-20)}
	c.texts = map[string]string{c.plain.origin: c.plain.text(0), c.calm.origin: c.calm.text(0), signedOrigin: c.sig.text()}
	var told []string
	for _, s := range secondaries {
		told = append(told, s.addr)
	}
	c.node = startPrimary(t, told)
	c.node.release(c.texts)
	for i, s := range secondaries {
		start(t, s.name, s.server(t.TempDir(), []string{c.plain.origin, c.calm.origin, signedOrigin}).Argv(t, paths[i])...)
	}
	return c
}

// step makes a release in which plain changes, and the others now and then.
func (c *chase) step(n int) {
	c.plain.step(n)
	c.texts[c.plain.origin] = c.plain.text(n)
	c.changes++
	if n%3 == 0 {
		c.calm.step(n)
		c.texts[c.calm.origin] = c.calm.text(n)
		c.changes++
	}
	if n%2 == 0 {
		c.sig.step(n)
		c.texts[signedOrigin] = c.sig.text()
		c.changes++
	}
	c.node.release(c.texts)
}

// follow waits until every secondary has the serials of the newest release.
func (c *chase) follow() {
	c.t.Helper()
	lab.Eventually(c.t, func() error {
		var behind []error
		for _, s := range secondaries {
			for origin, want := range map[string]uint32{c.plain.origin: c.plain.serial, c.calm.origin: c.calm.serial, signedOrigin: c.sig.serial} {
				if got, err := serial(s.addr, origin); err != nil || got != want {
					behind = append(behind, fmt.Errorf("%s: %s is at %d, not %d: %v", s.name, origin, got, want, err))
				}
			}
		}
		return errors.Join(behind...)
	})
}

// hold compares every record of the node and of each secondary with what was released.
func (c *chase) hold() {
	c.t.Helper()
	for origin, text := range c.texts {
		want := published(c.t, text)
		compare(c.t, "the node", transferred(c.t, admin, origin, "mesh."), want)
		for _, s := range secondaries {
			compare(c.t, s.name, transferred(c.t, s.addr, origin, ""), want)
		}
	}
	if c.t.Failed() {
		c.t.FailNow()
	}
}

// counted looks how often zones were transferred whole: to each secondary once, and by hold.
func (c *chase) counted() {
	c.t.Helper()
	whole := len(secondaries) * len(c.texts)
	checks := switchovers / 25 * len(c.texts) // by hold
	got := c.node.counters("coredns_meshsync_transfers_total")
	if got["axfr"] != whole+checks || got["fallback"] != 0 || got["ixfr"] < c.changes*len(secondaries) {
		c.t.Errorf("transfers: %v, want %d whole ones and %d by difference", got, whole+checks, c.changes*len(secondaries))
	}
	notified := c.node.counters("coredns_meshsync_notifies_total")
	if notified["acknowledged"] < c.changes*len(secondaries) || notified["refused"] != 0 {
		c.t.Errorf("NOTIFY: %v, of %d changes", notified, c.changes)
	}
	c.t.Logf("transfers %v, NOTIFY %v", got, notified)
}
