package receive

import (
	"encoding/base64"
	"io"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/instant"
	"github.com/coredns-anycast/coredns-anycast/internal/lab"
	"github.com/coredns-anycast/coredns-anycast/internal/primarytest"
	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
	"github.com/coredns-anycast/coredns-anycast/internal/xfr"
)

// listening runs a Receiver of example.org, whose primary is not there, that listens for NOTIFY.
func listening(t *testing.T, server xfr.Primary, more ...netip.Prefix) (*Receiver, netip.AddrPort) {
	t.Helper()
	at := testenv.Local(t)
	c := following(at, []xfr.Primary{server}, "example.org.")
	c.Zones[0].Primaries.NotifyFrom = more
	c.Zones = append(c.Zones, Zones{[]string{"other.test."}, &Group{Servers: []xfr.Primary{{Address: netip.MustParseAddrPort("127.0.0.9:9"), Key: testKeys[dns.HmacSHA384]}}}})
	r, _, _ := receiver(t, c, t.TempDir())
	lab.WaitFor(t, "the first refresh is over", func() bool { s := r.status(t, "example.org."); return s.Error != "" && !s.Receiving })
	return r, at
}

func notifyOf(origin string) *dns.Msg {
	m := new(dns.Msg).SetNotify(origin)
	m.Answer = primarytest.RRs(origin + " 300 IN SOA ns1.example.org. host.example.org. 7 3600 900 1209600 300")
	return m
}

// A NOTIFY is taken with a key of the zone's primaries, or from one of their addresses, over UDP and TCP; what is refused
// is answered as RFC 1996 and RFC 8945 say, and has no effect.
func TestNotify(t *testing.T) {
	elsewhere := netip.MustParseAddrPort("127.0.0.9:9") // nobody there, and not where the test sends from
	beside := xfr.Primary{Address: netip.MustParseAddrPort("127.0.0.1:9")}
	for _, c := range []struct {
		name    string
		primary xfr.Primary
		more    []netip.Prefix
		m       *dns.Msg
		key     *xfr.Key
		rcode   int
		sig     uint16
	}{
		{name: "from a primary's address", primary: beside, m: notifyOf("example.org.")},
		{name: "from another address", primary: xfr.Primary{Address: elsewhere}, m: notifyOf("example.org."), rcode: dns.RcodeRefused},
		{name: "from one that is allowed", primary: xfr.Primary{Address: elsewhere}, more: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/24")}, m: notifyOf("example.org.")},
		{name: "signed", primary: xfr.Primary{Address: elsewhere, Key: key256}, m: notifyOf("Example.ORG."), key: key256},
		{name: "with a key that is not known", primary: xfr.Primary{Address: elsewhere, Key: key256}, m: notifyOf("example.org."), key: testKeys[dns.HmacSHA512],
			rcode: dns.RcodeNotAuth, sig: dns.RcodeBadKey},
		{name: "with a key of another zone's primaries", primary: xfr.Primary{Address: beside.Address, Key: key256}, m: notifyOf("example.org."), key: testKeys[dns.HmacSHA384],
			rcode: dns.RcodeRefused},
		{name: "with another secret, from the right address", primary: xfr.Primary{Address: beside.Address, Key: key256}, m: notifyOf("example.org."),
			key: &xfr.Key{Name: key256.Name, Algorithm: key256.Algorithm, Secret: []byte("another secret!!")}, rcode: dns.RcodeNotAuth, sig: dns.RcodeBadSig},
		{name: "of another zone", primary: beside, m: notifyOf("example.net."), rcode: dns.RcodeRefused},
		{name: "a query", primary: beside, m: new(dns.Msg).SetQuestion("example.org.", dns.TypeSOA), rcode: dns.RcodeRefused},
		{name: "of another type", primary: beside, m: func() *dns.Msg { m := notifyOf("example.org."); m.Question[0].Qtype = dns.TypeNS; return m }(), rcode: dns.RcodeFormatError},
	} {
		for _, network := range []string{"udp", "tcp"} {
			t.Run(c.name+" over "+network, func(t *testing.T) {
				t.Parallel()
				r, at := listening(t, c.primary, c.more...)
				began := r.status(t, "example.org.").Checked
				cl := &dns.Client{Net: network, Timeout: 5 * time.Second}
				m := c.m.Copy()
				if c.key != nil {
					m.SetTsig(c.key.Name, c.key.Algorithm, 300, time.Now().Unix())
					cl.TsigSecret = map[string]string{c.key.Name: base64.StdEncoding.EncodeToString(c.key.Secret)}
				}
				got, _, err := cl.Exchange(m, at.String())
				if c.sig == 0 && err != nil {
					t.Fatal(err)
				}
				if got == nil || got.Rcode != c.rcode || got.Opcode != m.Opcode || !got.Response || got.Id != m.Id || len(got.Question) != 1 {
					t.Fatalf("answer %v", got)
				}
				if sig := got.IsTsig(); c.key != nil && (sig == nil || sig.Error != c.sig) {
					t.Errorf("signature %v, want error %d", sig, c.sig)
				}
				refreshed := func() bool { return r.status(t, "example.org.").Checked.After(began) }
				if c.rcode == dns.RcodeSuccess {
					lab.WaitFor(t, "the zone is refreshed", refreshed)
				} else if next := r.status(t, "example.org.").Next; refreshed() || time.Until(next) < 5*time.Second {
					t.Errorf("the zone is refreshed, or soon will be: %v", next)
				}
			})
		}
	}
}

// However many NOTIFY messages come, the zone is refreshed once in a while, and what is beyond the rate is dropped.
func TestNotifyStorm(t *testing.T) {
	t.Parallel()
	refreshes := make(chan time.Time, 1000)
	f := primarytest.NewFake(t, nil, func(a *primarytest.Request) {
		refreshes <- time.Now()
		a.Send(false, primarytest.SOA("5"), primarytest.RR("example.org. 300 IN NS ns.example.net."), primarytest.SOA("5"))
	})
	at := testenv.Local(t)
	r, told, _ := receiver(t, following(at, []xfr.Primary{{Address: f.At}}, "example.org."), t.TempDir())
	told.next(t)
	lab.WaitFor(t, "the refresh is over", func() bool { return !r.status(t, "example.org.").Receiving })
	first := r.status(t, "example.org.").Checked
	cl := &dns.Client{Timeout: time.Second}
	for range 300 {
		if _, _, err := cl.Exchange(notifyOf("example.org."), at.String()); err != nil {
			t.Fatal(err)
		}
	}
	lab.WaitFor(t, "there is a refresh", func() bool { return r.status(t, "example.org.").Checked.After(first) })
	if second := r.status(t, "example.org.").Checked; second.Sub(first) < time.Second-instant.StepTolerance { // it is told by another clock than it is decided by
		t.Errorf("refreshes %v apart", second.Sub(first))
	}

	b := budget{rate: 10}
	now, taken := time.Now(), 0
	for range 1000 {
		if b.take(now) {
			taken++
		}
	}
	if taken != 10 {
		t.Errorf("%d taken at one instant, want 10", taken)
	}
}

// A NOTIFY that comes while the zone is being refreshed is not lost: what is being fetched may be older.
func TestNotifyInTheMiddle(t *testing.T) {
	t.Parallel()
	asked, proceed := make(chan bool, 10), make(chan bool)
	f := primarytest.NewFake(t, nil, func(a *primarytest.Request) {
		asked <- true
		<-proceed
		a.Send(false, primarytest.SOA("5"), primarytest.RR("example.org. 300 IN NS ns.example.net."), primarytest.SOA("5"))
	})
	at := testenv.Local(t)
	r, told, _ := receiver(t, following(at, []xfr.Primary{{Address: f.At}}, "example.org."), t.TempDir())
	<-asked
	first := r.status(t, "example.org.").Checked
	if m, err := dns.Exchange(notifyOf("example.org."), at.String()); err != nil || m.Rcode != dns.RcodeSuccess {
		t.Fatal(m, err)
	}
	close(proceed)
	told.next(t)
	lab.WaitFor(t, "it is refreshed again", func() bool { return r.status(t, "example.org.").Checked.After(first) })
}

// What is no message gets no answer, or a format error, and harms nothing.
func TestNotifyThatIsNone(t *testing.T) {
	t.Parallel()
	_, at := listening(t, xfr.Primary{Address: netip.MustParseAddrPort("127.0.0.1:9")})
	response := notifyOf("example.org.")
	response.Response = true
	wire, _ := response.Pack()
	for _, raw := range [][]byte{{}, {1}, wire, []byte(strings.Repeat("x", 11))} {
		conn, err := dns.DialTimeout("tcp", at.String(), time.Second)
		if err != nil {
			t.Fatal(err)
		}
		conn.Write(raw)
		conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		if n, err := conn.Conn.Read(make([]byte, 100)); err != io.EOF && n > 0 {
			t.Errorf("%d octets in answer to %q", n, raw)
		}
		conn.Close()
	}
	short := append(wire[:2:2], 0x20, 0, 0, 1, 0, 0, 0, 0, 0, 0)
	conn, err := dns.DialTimeout("udp", at.String(), time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.Write(short)
	conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	if m, err := conn.ReadMsg(); err != nil || m.Rcode != dns.RcodeFormatError {
		t.Errorf("%v, %v", m, err)
	}
}
