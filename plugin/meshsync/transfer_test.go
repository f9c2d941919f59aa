package meshsync

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coredns/coredns/plugin/transfer"
	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/coredns-anycast/coredns-anycast/internal/lab"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
	"github.com/coredns-anycast/coredns-anycast/internal/zone"
	"github.com/coredns-anycast/coredns-anycast/internal/zonefile"
)

var _ transfer.Transferer = (*Meshsync)(nil)

const transferSecret = "NoTCJU+DMqFWywaPyxSijrDEA/eC3nK0xi3AMEZuPVk="

// transferCorefile offers the zones to who has key k, and tells secondaries.
func transferCorefile(dir string, h *host, more string) string {
	return ".:0 {\n bind 127.0.0.1\n tsig {\n secret k. " + transferSecret + "\n require AXFR IXFR\n}\n transfer {\n to 127.0.0.1\n}\n meshsync " + dir +
		" {\n repository " + h.repo.Path() + "\n root " + h.root + "\n clock assume 1ms\n " + more + "\n}\n}"
}

// ask transfers a zone as a secondary does, and demands a right TSIG on each message. It returns the answer once that is
// complete (RFC 5936 2.2, RFC 1995 4).
func ask(t *testing.T, addr string, q *dns.Msg) ([]dns.RR, error) {
	t.Helper()
	conn, err := net.DialTimeout("tcp", addr, 5*time.Second)
	must(t, err)
	defer conn.Close()
	must(t, conn.SetDeadline(time.Now().Add(15*time.Second)))
	c := &dns.Conn{Conn: conn}
	q.SetTsig("k.", dns.HmacSHA256, 300, time.Now().Unix())
	query, mac, err := dns.TsigGenerate(q, transferSecret, "", false)
	must(t, err)
	_, err = c.Write(query)
	must(t, err)
	var answer []dns.RR
	for first := true; ; first = false {
		octets, err := c.ReadMsgHeader(nil)
		if err != nil {
			return answer, err
		}
		m := new(dns.Msg)
		must(t, m.Unpack(octets))
		must(t, dns.TsigVerify(octets, transferSecret, mac, !first)) // it changes the octets
		mac = m.IsTsig().MAC
		if m.Rcode != dns.RcodeSuccess {
			return nil, errors.New(dns.RcodeToString[m.Rcode])
		}
		answer = append(answer, m.Answer...)
		if complete(answer, q) {
			return answer, nil
		}
	}
}

// complete says whether an answer to a transfer is: of one SOA if that is not newer, else as long as its parts demand.
func complete(rrs []dns.RR, q *dns.Msg) bool {
	newest := rrs[0].(*dns.SOA).Serial
	if q.Question[0].Qtype == dns.TypeIXFR && int32(newest-q.Ns[0].(*dns.SOA).Serial) <= 0 {
		return true
	}
	last, ok := rrs[len(rrs)-1].(*dns.SOA)
	if len(rrs) == 1 || !ok || last.Serial != newest {
		return false
	}
	if !incremental(rrs) {
		return true
	}
	soas := 0
	for _, rr := range rrs {
		if soa, ok := rr.(*dns.SOA); ok && soa.Serial == newest {
			soas++
		}
	}
	return soas == 3
}

func incremental(rrs []dns.RR) bool {
	return len(rrs) > 1 && rrs[1].Header().Rrtype == dns.TypeSOA && rrs[1].(*dns.SOA).Serial != rrs[0].(*dns.SOA).Serial
}

func axfr(zone string) *dns.Msg { return new(dns.Msg).SetAxfr(zone) }
func ixfr(zone string, serial uint32) *dns.Msg {
	return new(dns.Msg).SetIxfr(zone, serial, ".", ".")
}

// content is a zone as a secondary holds it: each record once, the SOA among them.
type content map[string]bool

func contentOf(rrs []dns.RR) content {
	c := content{}
	for _, rr := range rrs {
		c[rr.String()] = true
	}
	return c
}

// apply changes a zone by an incremental answer, in which nothing is taken out that is not there, nor put in twice, and
// every part begins where the one before ended.
func (c content) apply(t *testing.T, serial uint32, answer []dns.RR) {
	t.Helper()
	if !incremental(answer) {
		t.Fatalf("since %d: no incremental answer: %d records, %v…", serial, len(answer), answer[:min(3, len(answer))])
	}
	newest := answer[0].(*dns.SOA).Serial
	removing := false
	for _, rr := range answer[1 : len(answer)-1] {
		if soa, ok := rr.(*dns.SOA); ok {
			removing = !removing
			if removing && soa.Serial != serial || !removing && int32(soa.Serial-serial) <= 0 {
				t.Fatalf("SOA %d after %d", soa.Serial, serial)
			}
			serial = soa.Serial
		}
		if c[rr.String()] != removing {
			t.Fatalf("removing %v: %s", removing, rr)
		}
		if removing {
			delete(c, rr.String())
		} else {
			c[rr.String()] = true
		}
	}
	if serial != newest {
		t.Fatalf("ends at %d of %d", serial, newest)
	}
}

func (c content) same(t *testing.T, want content) {
	t.Helper()
	for rr := range want {
		if !c[rr] {
			t.Errorf("missing: %s", rr)
		}
	}
	for rr := range c {
		if !want[rr] {
			t.Errorf("too much: %s", rr)
		}
	}
	if t.Failed() {
		t.FailNow()
	}
}

// versionText is a zone of which every version has other records, at times more than a message holds; a TXT record tells
// the number.
func versionText(r *rand.Rand, serial uint32, number int) string {
	var text strings.Builder
	fmt.Fprintf(&text, "example.org. 60 IN SOA ns.example.org. host.example.org. %d 3600 600 86400 60\nexample.org. 60 IN NS ns.example.org.\n"+
		"ns.example.org. 60 IN A 192.0.2.1\nwhich.example.org. 60 IN TXT \"%d\"\n", serial, number)
	for i := range 2000 {
		if r.IntN(100) > 0 {
			fmt.Fprintf(&text, "stays%d.example.org. %d IN TXT \"%d %s\"\n", i, 60+60*min(1, r.IntN(100)), i, strings.Repeat("s", 200))
		}
	}
	if number%3 == 0 {
		for i := range r.IntN(1000) {
			fmt.Fprintf(&text, "large.example.org. 60 IN TXT \"%d %s\"\n", i, strings.Repeat("l", r.IntN(250)))
		}
	}
	return text.String()
}

// TestIncrementalTransfer lets secondaries follow by IXFR, from each of the versions before, over messages of any number,
// through a wrap of the serial; they come to hold what AXFR gives (XFER-1).
func TestIncrementalTransfer(t *testing.T) {
	type version struct {
		serial uint32
		content
	}
	dir, h := nodeDir(t)
	r := rand.New(rand.NewPCG(1995, 1982))
	serial := uint32(1<<32 - 4)
	release := func(number int) {
		zones := []release.Zone{h.blob("example.org.", versionText(r, serial, number))}
		if number > 1 {
			h.stage(uint64(number), zones)
			lab.Eventually(t, func() error { return stagedAt(dir, uint64(number)) })
		}
		h.current(uint64(number), zones)
	}
	release(1)
	serve(t, transferCorefile(dir, h, ""), func(addr string) {
		var versions []version
		several, large := 0, 0
		for number := 1; number <= 9; number++ {
			lab.Eventually(t, func() error {
				now, err := ask(t, addr, ixfr("example.org.", serial))
				if err == nil && now[0].(*dns.SOA).Serial != serial {
					err = fmt.Errorf("still %v", now[0])
				}
				return err
			})
			whole, err := ask(t, addr, axfr("example.org."))
			must(t, err)
			want := contentOf(whole)
			for age, v := range slices.Backward(versions) {
				answer, err := ask(t, addr, ixfr("example.org.", v.serial))
				must(t, err)
				if age < len(versions)-1 && !incremental(answer) {
					contentOf(answer).same(t, want) // too long ago
					continue
				}
				c := maps.Clone(v.content)
				c.apply(t, v.serial, answer)
				c.same(t, want)
				several += min(1, len(versions)-1-age)
				large += len(answer) / 1000
			}
			versions = append(versions, version{serial, want})
			for _, newer := range []uint32{serial, serial + 5} {
				if answer, err := ask(t, addr, ixfr("example.org.", newer)); err != nil || len(answer) != 1 || answer[0].String() != whole[0].String() {
					t.Errorf("IXFR from %d at %d: %d records, %v", newer, serial, len(answer), err)
				}
			}
			if serial++; serial == 0 {
				serial++ // which plugin transfer takes for AXFR
			}
			release(number + 1)
		}
		if several < 5 || large < 3 {
			t.Errorf("%d answers of several differences, and too few large ones (%d)", several, large)
		}
	})
}

// stagedAt says whether the node of a directory has staged a release: what has not been staged ahead has no history.
func stagedAt(dir string, number uint64) error {
	followers.Lock()
	defer followers.Unlock()
	if s := followers.byDir[dir].follower.shown.Load(); s.Staged != number {
		return fmt.Errorf("staged: %d, not %d", s.Staged, number)
	}
	return nil
}

// TestTransfersThatFillAMessage are of zones that come close to the size of a message, one below it, the next above.
func TestTransfersThatFillAMessage(t *testing.T) {
	dir, h := nodeDir(t)
	text := func(i int, serial uint32) string {
		s := fmt.Sprintf("z%[1]d. 60 IN SOA ns. host. %[2]d 3600 600 86400 60\nz%[1]d. 60 IN NS ns.\n", i, serial)
		for j := range 310 {
			s += fmt.Sprintf("t%03d.z%d. 60 IN TXT %q\n", j, i, strings.Repeat("x", 180-int(serial)))
		}
		return s + fmt.Sprintf("z%d. 60 IN TXT %q %q %q\n", i, strings.Repeat("y", 4*(i-100)), strings.Repeat("y", 4*(i-100)), strings.Repeat("y", 255))
	}
	release := func(number uint32) {
		var zones []release.Zone
		for i := 100; i < 145; i++ {
			zones = append(zones, h.blob(fmt.Sprintf("z%d.", i), text(i, number)))
		}
		h.current(uint64(number), zones)
	}
	release(1)
	serve(t, transferCorefile(dir, h, ""), func(addr string) {
		lab.Eventually(t, func() error { _, err := ask(t, addr, axfr("z100.")); return err })
		fits, alone := map[bool]bool{}, false
		for i := 100; i < 145; i++ {
			answer, err := ask(t, addr, axfr(fmt.Sprintf("z%d.", i)))
			must(t, err)
			z, _ := zonefile.Parse(strings.NewReader(text(i, 1)), zonefile.Options{})
			contentOf(answer).same(t, contentOf(slices.Collect(z.Records())))
			if len(answer) != z.Len()+1 {
				t.Errorf("z%d: %d records of %d", i, len(answer), z.Len())
			}
			octets := 0
			for _, rr := range answer[:z.Len()] {
				octets += dns.Len(rr)
			}
			fits[octets <= 63000] = true // all but the last SOA, as plugin transfer counts
			alone = alone || octets <= 63000 && octets+dns.Len(answer[0]) > 63000
		}
		if len(fits) < 2 || !alone {
			t.Errorf("no zone has its last SOA in a message of its own: %v", fits)
		}
	})
}

// What a block with plugin transfer says to who asks for what it has not.
func TestTransferOfWhatIsNotThere(t *testing.T) {
	dir, h := nodeDir(t)
	n := startNode(t, newConfig(dir, h))
	if _, err := n.Transfer("example.org.", 0); err != errSilent {
		t.Errorf("while silent: %v", err)
	}
	h.current(1, h.zones(1))
	n.waits("an answer", func(*status.Node) bool { return n.Ready() })
	for _, name := range []string{"example.net.", "www.example.org.", "."} {
		if _, err := n.Transfer(name, 0); err != transfer.ErrNotAuthoritative {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A node whose lease has ended vouches for nothing: SERVFAIL, signed, so that secondaries turn to other primaries.
func TestNoTransferWithoutALease(t *testing.T) {
	dir, h := nodeDir(t)
	h.lease = -time.Minute
	h.current(1, h.zones(1))
	serve(t, transferCorefile(dir, h, ""), func(addr string) {
		for _, q := range []*dns.Msg{axfr("example.org."), ixfr("example.org.", 1)} {
			if answer, err := ask(t, addr, q); err == nil || err.Error() != "SERVFAIL" {
				t.Errorf("%v: %v, %v", q.Question, answer, err)
			}
		}
		h.renew(time.Hour)
		lab.Eventually(t, func() error { _, err := ask(t, addr, axfr("example.org.")); return err })
	})
}

// A zone keeps its history when another one changes.
func TestAHistoryStaysWhenAnotherZoneChanges(t *testing.T) {
	made := func(a, b uint64) *compiled {
		p := &part{leaf: new(leaf)}
		for i, origin := range []string{"a.example.", "b.example."} {
			text := zoneText(origin, []uint64{a, b}[i])
			for i := range 100 { // of which a difference takes less than half the room
				text += fmt.Sprintf("n%d.%s 60 IN TXT %d\n", i, origin, i)
			}
			z, found := zonefile.Parse(strings.NewReader(text), zonefile.Options{Origin: origin})
			if z == nil {
				t.Fatal(found)
			}
			p.signed, p.made = append(p.signed, release.Zone{Origin: origin, Serial: z.Serial()}), append(p.made, z)
		}
		return &compiled{parts: []*part{p}, fresh: []*part{p}}
	}
	first, second, third := made(1, 1), made(2, 1), made(2, 2)
	second.since(first)
	third.since(second)
	if n := len(third.historyOf("a.example.")); n != 1 || len(third.historyOf("b.example.")) != 1 || third.historyOf("c.example.") != nil {
		t.Errorf("%d differences of the zone that stayed: %v", n, third.parts[0].history)
	}
}

// A history goes back as far as its bounds allow, and not beyond a serial that says nothing.
func TestHistoryIsBounded(t *testing.T) {
	make := func(serial uint32, extra int) *zone.Zone {
		text := fmt.Sprintf("example.org. 60 IN SOA ns. host. %d 1 1 1 1\nexample.org. 60 IN NS ns.\nt.example.org. 60 IN TXT \"%d\"\n", serial, serial)
		for i := range 400 + extra {
			text += fmt.Sprintf("t%d.example.org. 60 IN TXT text\n", i)
		}
		z, found := zonefile.Parse(strings.NewReader(text), zonefile.Options{})
		if z == nil {
			t.Fatal(found)
		}
		return z
	}
	var chain []*zone.Delta
	old := make(1, 0)
	grow := func(serial uint32, extra int) {
		t.Helper()
		z := make(serial, extra)
		chain, old = extend(chain, old, z), z
		size := 0
		for i, d := range chain {
			if size += d.Size(); i > 0 && chain[i-1].To != d.From {
				t.Errorf("a difference from %d after one to %d", d.From, chain[i-1].To)
			}
		}
		if size > z.ImageSize()/historyShare || len(chain) > maxDeltas || len(chain) > 0 && chain[len(chain)-1].To != serial {
			t.Errorf("serial %d: %d octets in %d differences", serial, size, len(chain))
		}
	}
	for serial := range uint32(50) {
		grow(serial+2, 0)
	}
	if len(chain) != maxDeltas || from(chain, 51-maxDeltas) == nil || from(chain, 50-maxDeltas) != nil {
		t.Errorf("%d differences", len(chain))
	}
	grow(52, 200)
	if len(chain) == 0 || len(chain) == maxDeltas {
		t.Errorf("after a large difference: %d", len(chain))
	}
	grow(53, 1000)
	if chain != nil {
		t.Errorf("a difference of more than half the zone: %v", len(chain))
	}
	grow(54, 1000)
	grow(1<<31+50, 1000)
	if len(chain) != 2 {
		t.Errorf("half of all serials on: %d", len(chain))
	}
	grow(1<<31+53, 1000)
	if len(chain) != 2 || from(chain, 53) != nil || from(chain, 54) == nil {
		t.Errorf("more than half of all serials on: %d", len(chain))
	}
	for _, serial := range []uint32{1<<31 + 53, 1 << 31, 60} {
		if grow(serial, 1000); chain != nil {
			t.Errorf("a serial that is not higher: %d", serial)
		}
	}
}

// What each sort of answer is counted as.
func TestTransfersAreCounted(t *testing.T) {
	dir, h := nodeDir(t)
	release := func(number uint64) []release.Zone {
		text := zoneText("example.org.", number)
		for i := range 50 {
			text += fmt.Sprintf("h%d.example.org. 60 IN A 192.0.2.1\n", i)
		}
		return []release.Zone{h.blob("example.org.", text)}
	}
	h.current(1, release(1))
	n := startNode(t, newConfig(dir, h))
	n.f.transfers.Store(true)
	n.becomes(1)
	h.stage(2, release(2))
	n.staged(2)
	h.current(2, h.manifest.Next.Zones)
	n.becomes(2)
	for kind, serial := range map[string]uint32{"axfr": 0, "ixfr": 1, "current": 2, "fallback": 4000000000} {
		before := counterOf(t, transfers, kind)
		records, err := n.Transfer("example.org.", serial)
		must(t, err)
		for range records {
		}
		if got := counterOf(t, transfers, kind) - before; got != 1 {
			t.Errorf("%s: counted %v", kind, got)
		}
	}
}

func counterOf(t *testing.T, c *prometheus.CounterVec, label string) float64 {
	t.Helper()
	var m dto.Metric
	must(t, c.WithLabelValues(label).Write(&m))
	return m.GetCounter().GetValue()
}
