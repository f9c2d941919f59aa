//go:build linux

package main

import (
	"context"
	"encoding/hex"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/lab"
)

func TestWrongTellsAnswersThatNoCorrectMeshGives(t *testing.T) {
	at := time.Unix(1_800_000_000, 0)
	ms := func(n int) time.Time { return at.Add(time.Duration(n) * time.Millisecond) }
	bound := 2 * time.Millisecond
	for _, c := range []struct {
		name   string
		sample sample
		wrong  bool
	}{
		{"the old one before", sample{sent: ms(-20), received: ms(-19), reply: reply{serial: 1}}, false},
		{"the old one, under way at the instant", sample{sent: ms(-1), received: ms(9), reply: reply{serial: 1}}, false},
		{"the old one, within the bound", sample{sent: ms(1), received: ms(9), reply: reply{serial: 1}}, false},
		{"the old one after", sample{sent: ms(3), received: ms(4), reply: reply{serial: 1}}, true},
		{"the new one after", sample{sent: ms(3), received: ms(4), reply: reply{serial: 2}}, false},
		{"the new one, within the bound", sample{sent: ms(-9), received: ms(-1), reply: reply{serial: 2}}, false},
		{"the new one before", sample{sent: ms(-9), received: ms(-3), reply: reply{serial: 2}}, true},
		{"another one", sample{sent: ms(-9), received: ms(-8), reply: reply{serial: 3}}, true},
		{"an error", sample{sent: ms(-9), received: ms(-8), reply: reply{serial: 1, rcode: dns.RcodeServerFailure}}, true},
		{"none", sample{sent: ms(3)}, false},
	} {
		if got := wrong([]sample{c.sample}, 1, 2, at, bound); (len(got) == 1) != c.wrong {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}

// answerer answers question with a serial and a node's name, but for every third query.
func answerer(t *testing.T) netip.AddrPort {
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	go func() {
		buffer := make([]byte, 512)
		for n := 1; ; n++ {
			size, from, err := conn.ReadFromUDPAddrPort(buffer)
			if err != nil {
				return
			}
			q := new(dns.Msg)
			if q.Unpack(buffer[:size]) != nil || n%3 == 0 {
				continue
			}
			m := new(dns.Msg).SetReply(q)
			m.Answer = []dns.RR{&dns.SOA{Hdr: dns.RR_Header{Name: "example.org.", Rrtype: dns.TypeSOA, Class: dns.ClassINET}, Ns: ".", Mbox: ".", Serial: 7}}
			m.SetEdns0(1232, false)
			m.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_NSID{Code: dns.EDNS0NSID, Nsid: hex.EncodeToString([]byte("tyo"))}}
			data, _ := m.Pack()
			conn.WriteToUDPAddrPort(data, from)
		}
	}()
	return conn.LocalAddr().(*net.UDPAddr).AddrPort()
}

func TestLoadCountsWhatIsNotAnswered(t *testing.T) {
	p, err := lab.NewPlace("here", "")
	if err != nil {
		t.Fatal(err)
	}
	server := answerer(t)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	from := time.Now()
	l, err := startLoad(ctx, "load", p, "example.org.", func() (netip.AddrPort, bool) { return server, true })
	if err != nil {
		t.Fatal(err)
	}
	err = lab.Until(ctx, 10*time.Second, "100 queries", func() (bool, string) {
		window, _ := l.window(from, time.Now())
		return len(window) >= 100, ""
	})
	if err != nil {
		t.Fatal(err)
	}
	window := l.between(from, time.Now())
	if n, want := lost(window), len(window)/3; n < want-1 || n > want+1 {
		t.Errorf("%d of %d lost, want a third", n, len(window))
	}
	if s := window[0]; s.node != "tyo" || s.serial != 7 {
		t.Errorf("the first answer reads as %+v", s)
	}
}
