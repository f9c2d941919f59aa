package meshsync

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/lab"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
)

// told is a secondary that keeps what it is told.
type told struct {
	addr string
	sync.Mutex
	zones map[string]int // NOTIFY messages by zone
	from  map[string]bool
	deaf  int // so many messages are not answered
	rcode int
}

// listen starts a secondary that demands key k.
func listen(t *testing.T) *told {
	t.Helper()
	s := &told{zones: map[string]int{}, from: map[string]bool{}}
	ready := make(chan struct{})
	server := &dns.Server{Addr: "127.0.0.1:0", Net: "udp", TsigSecret: map[string]string{"k.": transferSecret}, Handler: s,
		MsgAcceptFunc: func(dns.Header) dns.MsgAcceptAction { return dns.MsgAccept }, NotifyStartedFunc: func() { close(ready) }}
	go server.ListenAndServe()
	<-ready
	s.addr = server.PacketConn.LocalAddr().String()
	t.Cleanup(func() { server.Shutdown() })
	return s
}

func (s *told) ServeDNS(w dns.ResponseWriter, r *dns.Msg) {
	s.Lock()
	defer s.Unlock()
	m := new(dns.Msg).SetRcode(r, s.rcode)
	if r.IsTsig() == nil || w.TsigStatus() != nil || r.Opcode != dns.OpcodeNotify || !r.Authoritative || r.Question[0].Qtype != dns.TypeSOA {
		s.zones["wrong: "+r.String()]++
		return
	}
	s.from[netip.MustParseAddrPort(w.RemoteAddr().String()).Addr().String()] = true
	if s.deaf > 0 {
		s.deaf--
		return
	}
	s.zones[r.Question[0].Name]++
	m.SetTsig("k.", dns.HmacSHA256, 300, time.Now().Unix())
	w.WriteMsg(m)
}

// heard waits until the secondary was told of these zones, each once, and forgets them.
func (s *told) heard(t *testing.T, want map[string]int) {
	t.Helper()
	lab.Eventually(t, func() error {
		s.Lock()
		defer s.Unlock()
		if fmt.Sprint(s.zones) != fmt.Sprint(want) {
			return fmt.Errorf("told of %v, want %v", s.zones, want)
		}
		s.zones = map[string]int{}
		return nil
	})
}

// At each activation the secondaries are told of the zones that are theirs and have a new serial, with TSIG, from the
// block's address; also if a message is lost, and of nothing at a reload (XFER-1).
func TestSecondariesAreTold(t *testing.T) {
	dir, h := nodeDir(t)
	s, other := listen(t), listen(t)
	s.deaf = 2
	unchanged := h.blob("net.", zoneText("net.", 1))
	release := func(number uint64, more ...release.Zone) {
		zones := append(h.zones(number, "com.", "example.org."), more...)
		slices.SortFunc(zones, func(a, b release.Zone) int { return compareOrigins(a.Origin, b.Origin) })
		h.current(number, zones)
	}
	release(1, unchanged)
	corefile := transferCorefile(dir, h, fmt.Sprintf("notify %s %s key k", s.addr, other.addr))
	port := testenv.Port(t)
	corefile = corefile[:1] + fmt.Sprintf(":%d ", port) + corefile[4:]
	instance := startCorefile(t, corefile)
	defer func() { stopInstance(t, instance) }()
	for _, s := range []*told{s, other} {
		s.heard(t, map[string]int{"com.": 1, "example.org.": 1, "net.": 1}) // what it has is not known
	}
	release(2, unchanged)
	s.heard(t, map[string]int{"com.": 1, "example.org.": 1})
	var err error
	if instance, err = instance.Restart(input(corefile)); err != nil {
		t.Fatal(err)
	}
	release(3, unchanged, h.blob("new.", zoneText("new.", 3)))
	s.heard(t, map[string]int{"com.": 1, "example.org.": 1, "new.": 1})
	if len(s.from) != 1 || !s.from["127.0.0.1"] {
		t.Errorf("told from %v", s.from)
	}
}

func compareOrigins(a, b string) int {
	if a < b {
		return -1
	}
	return 1
}

// A secondary that refuses or does not answer is left alone after a while, and told again of the next release.
func TestSecondariesThatDoNotHear(t *testing.T) {
	var zones []*leaf
	for i := range 100_000 {
		if i%10 == 0 {
			zones = append(zones, new(leaf))
		}
		last := zones[len(zones)-1]
		last.signed = append(last.signed, release.Zone{Origin: fmt.Sprintf("z%06d.", i), Serial: 1})
	}
	next := slices.Clone(zones)
	next[0] = &leaf{signed: slices.Clone(zones[0].signed)}
	next[0].signed[7].Serial, next[0].signed[8].Serial = 2, 2
	s := listen(t)
	s.deaf = 1 << 30
	ctx, cancel := context.WithCancel(context.Background())
	releases := make(chan []*leaf, 1)
	to := secondary{addr: netip.MustParseAddrPort(s.addr), key: "k.", secret: transferSecret, zones: "."}
	var done sync.WaitGroup
	defer done.Wait()
	defer cancel()
	done.Go(func() { to.follow(ctx, releases, time.Millisecond) })

	before := counterOf(t, notifies, "unanswered")
	releases <- zones
	lab.Eventually(t, func() error {
		if given := counterOf(t, notifies, "unanswered") - before; given != 100_000 {
			return fmt.Errorf("%v zones given up", given)
		}
		return nil
	})
	s.Lock()
	if asked := 1<<30 - s.deaf; asked > notifyTries*notifyBatch {
		t.Errorf("%d messages to a secondary that does not answer", asked)
	}
	s.deaf, s.rcode = 0, dns.RcodeRefused
	s.Unlock()
	before = counterOf(t, notifies, "refused")
	releases <- next
	s.heard(t, map[string]int{"z000007.": 1, "z000008.": 1})
	lab.Eventually(t, func() error {
		if got := counterOf(t, notifies, "refused") - before; got != 2 {
			return fmt.Errorf("%v refused", got)
		}
		return nil
	})
}

// A block's secondaries are told of the block's zones alone, and of no release twice.
func TestWhatASecondaryIsToldOf(t *testing.T) {
	s := secondary{zones: "org. example.net."}
	list := func(serial uint32, origins ...string) []*leaf {
		l := new(leaf)
		for _, o := range origins {
			l.signed = append(l.signed, release.Zone{Origin: o, Serial: serial})
		}
		return []*leaf{l}
	}
	one, other := list(1, "a.org.")[0], list(1, "org.")[0]
	for _, c := range []struct {
		queue       []string
		known, now  []*leaf
		want, about string
	}{
		{nil, nil, list(1, "com.", "org.", "example.org.", "example.net.", "net."), "[org. example.org. example.net.]", "all of its own at first"},
		{nil, list(1, "org."), list(1, "org."), "[]", "nothing new"},
		{nil, list(1, "org."), list(0, "org."), "[org.]", "any other serial"},
		{[]string{"org."}, list(1, "org."), list(2, "org.", "a.org."), "[org. a.org.]", "what waits already, once"},
		{[]string{"org."}, list(1, "org."), nil, "[org.]", "a zone that is gone"},
		{nil, []*leaf{one, other}, []*leaf{one, list(2, "org.")[0]}, "[org.]", "what differs"},
		{nil, []*leaf{one}, []*leaf{one, other}, "[org.]", "what is new"},
	} {
		if got := fmt.Sprint(s.changed(c.queue, c.known, c.now)); got != c.want {
			t.Errorf("%s: %s, want %s", c.about, got, c.want)
		}
	}
}
