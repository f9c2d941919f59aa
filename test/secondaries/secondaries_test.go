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
	plain, calm, sig := newPlain("plain.example.", 1<<32-6, 1500), newPlain("calm.example.", 1<<31-5, 300), newSigned(t, 1<<32-20)
	texts := map[string]string{plain.origin: plain.text(0), calm.origin: calm.text(0), signedOrigin: sig.text()}
	serials := func() map[string]uint32 {
		return map[string]uint32{plain.origin: plain.serial, calm.origin: calm.serial, signedOrigin: sig.serial}
	}
	var told []string
	for _, s := range secondaries {
		told = append(told, s.addr)
	}
	node := startPrimary(t, told)
	node.release(texts)
	for i, s := range secondaries {
		start(t, s.name, s.server(t.TempDir(), []string{plain.origin, calm.origin, signedOrigin}).Argv(t, paths[i])...)
	}
	follow := func() {
		t.Helper()
		lab.Eventually(t, func() error {
			var behind []error
			for _, s := range secondaries {
				for origin, want := range serials() {
					if got, err := serial(s.addr, origin); err != nil || got != want {
						behind = append(behind, fmt.Errorf("%s: %s is at %d, not %d: %v", s.name, origin, got, want, err))
					}
				}
			}
			return errors.Join(behind...)
		})
	}
	hold := func() {
		t.Helper()
		for origin, text := range texts {
			want := published(t, text)
			compare(t, "the node", transferred(t, admin, origin, "mesh."), want)
			for _, s := range secondaries {
				compare(t, s.name, transferred(t, s.addr, origin, ""), want)
			}
		}
		if t.Failed() {
			t.FailNow()
		}
	}
	follow()
	changes := 0
	for n := 1; n <= switchovers; n++ {
		plain.step(n)
		texts[plain.origin] = plain.text(n)
		changes++
		if n%3 == 0 {
			calm.step(n)
			texts[calm.origin] = calm.text(n)
			changes++
		}
		if n%2 == 0 {
			sig.step(n)
			texts[signedOrigin] = sig.text()
			changes++
		}
		node.release(texts)
		follow()
		if n%25 == 0 {
			hold()
		}
	}
	whole := len(secondaries) * len(texts)
	checks := switchovers / 25 * len(texts) // by hold
	got := node.counters("coredns_meshsync_transfers_total")
	if got["axfr"] != whole+checks || got["fallback"] != 0 || got["ixfr"] < changes*len(secondaries) {
		t.Errorf("transfers: %v, want %d whole ones and %d by difference", got, whole+checks, changes*len(secondaries))
	}
	notified := node.counters("coredns_meshsync_notifies_total")
	if notified["acknowledged"] < changes*len(secondaries) || notified["refused"] != 0 {
		t.Errorf("NOTIFY: %v, of %d changes", notified, changes)
	}
	t.Logf("transfers %v, NOTIFY %v", got, notified)

	// A node that was killed has its differences again from the next release on.
	node.process.Kill()
	node.run()
	node.reaches("serving", switchovers+1, func(s *status.Node) uint64 { return s.Serving })
	plain.step(switchovers + 1)
	texts[plain.origin] = plain.text(switchovers + 1)
	node.release(texts)
	follow()
	if got := node.counters("coredns_meshsync_transfers_total"); got["axfr"]+got["fallback"] > 0 || got["ixfr"] < len(secondaries) {
		t.Errorf("after a restart: %v", got)
	}
	hold()
}
