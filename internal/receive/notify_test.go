package receive

import (
	"encoding/base64"
	"io"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/lab"
	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
)

// listening runs a Receiver of example.org, whose primary is not there, that listens for NOTIFY.
func listening(t *testing.T, server Primary, more ...netip.Prefix) (*Receiver, netip.AddrPort) {
	t.Helper()
	at := testenv.Local(t)
	c := following(at, []Primary{server}, "example.org.")
	c.Zones[0].Primaries.NotifyFrom = more
	c.Zones = append(c.Zones, Zones{[]string{"other.test."}, &Group{Servers: []Primary{{Address: netip.MustParseAddrPort("127.0.0.9:9"), Key: testKeys[dns.HmacSHA384]}}}})
	r, _, _ := receiver(t, c, t.TempDir())
	lab.WaitFor(t, "the first refresh is over", func() bool { s := r.status(t, "example.org."); return s.Error != "" && !s.Receiving })
	return r, at
}

func notifyOf(origin string) *dns.Msg {
	m := new(dns.Msg).SetNotify(origin)
	m.Answer = rrs(origin + " 300 IN SOA ns1.example.org. host.example.org. 7 3600 900 1209600 300")
	return m
}

// A NOTIFY is taken with a key of the zone's primaries, or from one of their addresses, over UDP and TCP; what is refused
// is answered as RFC 1996 and RFC 8945 say, and has no effect.
func TestNotify(t *testing.T) {
	elsewhere := netip.MustParseAddrPort("127.0.0.9:9") // nobody there, and not where the test sends from
	beside := Primary{Address: netip.MustParseAddrPort("127.0.0.1:9")}
	for _, c := range []struct {
		name    string
		primary Primary
		more    []netip.Prefix
		m       *dns.Msg
		key     *Key
		rcode   int
		sig     uint16
	}{
		{name: "from a primary's address", primary: beside, m: notifyOf("example.org.")},
		{name: "from another address", primary: Primary{Address: elsewhere}, m: notifyOf("example.org."), rcode: dns.RcodeRefused},
		{name: "from one that is allowed", primary: Primary{Address: elsewhere}, more: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/24")}, m: notifyOf("example.org.")},
		{name: "signed", primary: Primary{Address: elsewhere, Key: key256}, m: notifyOf("Example.ORG."), key: key256},
		{name: "with a key that is not known", primary: Primary{Address: elsewhere, Key: key256}, m: notifyOf("example.org."), key: testKeys[dns.HmacSHA512],
			rcode: dns.RcodeNotAuth, sig: dns.RcodeBadKey},
		{name: "with a key of another zone's primaries", primary: Primary{Address: beside.Address, Key: key256}, m: notifyOf("example.org."), key: testKeys[dns.HmacSHA384],
			rcode: dns.RcodeRefused},
		{name: "with another secret, from the right address", primary: Primary{Address: beside.Address, Key: key256}, m: notifyOf("example.org."),
			key: newKey(key256.Name, key256.Algorithm, []byte("another secret!!")), rcode: dns.RcodeNotAuth, sig: dns.RcodeBadSig},
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
					cl.TsigSecret = map[string]string{c.key.Name: base64.StdEncoding.EncodeToString(c.key.secret)}
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
	f := newFake(t, nil, func(a *answerer) {
		refreshes <- time.Now()
		a.send(false, soa("5"), rr("example.org. 300 IN NS ns.example.net."), soa("5"))
	})
	at := testenv.Local(t)
	r, told, _ := receiver(t, following(at, []Primary{{Address: f.at}}, "example.org."), t.TempDir())
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
	if second := r.status(t, "example.org.").Checked; second.Sub(first) < notifySpacing {
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
	f := newFake(t, nil, func(a *answerer) {
		asked <- true
		<-proceed
		a.send(false, soa("5"), rr("example.org. 300 IN NS ns.example.net."), soa("5"))
	})
	at := testenv.Local(t)
	r, told, _ := receiver(t, following(at, []Primary{{Address: f.at}}, "example.org."), t.TempDir())
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
	_, at := listening(t, Primary{Address: netip.MustParseAddrPort("127.0.0.1:9")})
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

// A signature of another time is answered by one that says so and can be verified, with the time that it is here (RFC 8945
// 5.2.3); one that is wrong otherwise, without.
func TestNotifyOfAnotherTime(t *testing.T) {
	t.Parallel()
	r, err := New(defaults(), Options{Zones: t.TempDir(), State: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	n := &notified{r: r, keys: map[string]*Key{key256.Name: key256}}
	then := time.Now().Add(-time.Hour)
	wire, mac, err := key256.sign(notifyOf("example.org."), nil, then)
	if err != nil {
		t.Fatal(err)
	}
	reply := n.message(wire, netip.MustParseAddr("127.0.0.1"))
	v := newVerifier(key256, mac, func() time.Time { return then })
	if _, err := v.message(reply); err == nil || !v.later || !strings.Contains(err.Error(), "says BADTIME") {
		t.Errorf("verified %v, %v", v.later, err)
	}
	m := new(dns.Msg)
	if err := m.Unpack(reply); err != nil || m.Rcode != dns.RcodeNotAuth {
		t.Fatal(m, err)
	}
	if now, err := strconv.ParseInt(m.IsTsig().OtherData, 16, 64); err != nil || m.IsTsig().OtherLen != 6 || now < then.Add(time.Hour).Unix() {
		t.Errorf("%v, %v", m.IsTsig(), err)
	}
	wire[len(wire)-10] ^= 1 // in the MAC's end
	if err := m.Unpack(n.message(wire, netip.MustParseAddr("127.0.0.1"))); err != nil || m.IsTsig().Error != dns.RcodeBadSig || m.IsTsig().MACSize != 0 {
		t.Errorf("%v, %v", m, err)
	}
}
