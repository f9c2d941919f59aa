package sharedunicast

import (
	"fmt"
	"testing"

	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/plugin/pkg/edns"
	"github.com/miekg/dns"
)

// The chain's answers leave in wire format where no plugin sees them, and say the same where one does.
func TestWhatLeavesTheChainInWireFormat(t *testing.T) {
	const registered = 65001
	edns.SetSupportedOption(registered)
	for _, c := range []struct {
		plugins, zone, name string
		option              uint16
		rcode               int
		wire                bool
	}{
		{"", ".", "www.example.org.", 0, dns.RcodeSuccess, true},
		{"", ".", "www.example.org.", dns.EDNS0COOKIE, dns.RcodeSuccess, true},
		{"", ".", "www.example.org.", registered, dns.RcodeSuccess, false}, // which the core copies
		{"", ".", "nothing.example.org.", 0, dns.RcodeNameError, true},
		{"", ".", "www.sub.example.org.", 0, dns.RcodeSuccess, true}, // a referral
		{"", "sub.example.org", "www.sub.example.org.", 0, dns.RcodeRefused, false},
		{"", ".", "www.example.net.", 0, dns.RcodeRefused, false},
		{"errors\n bufsize 1232\n cancel\n metadata\n acl {\n allow\n }", ".", "www.example.org.", 0, dns.RcodeSuccess, true},
		{"nsid tyo1", ".", "www.example.org.", 0, dns.RcodeSuccess, true},
		{"nsid tyo1", ".", "www.example.org.", dns.EDNS0NSID, dns.RcodeSuccess, false},
		{"log", ".", "www.example.org.", 0, dns.RcodeSuccess, false},
		{"loadbalance", ".", "www.example.org.", 0, dns.RcodeSuccess, false},
		{"prometheus 127.0.0.1:" + freePort(t), ".", "www.example.org.", 0, dns.RcodeSuccess, false},
	} {
		t.Run(c.plugins+" "+c.name, func(t *testing.T) {
			port := freePort(t)
			start(t, fmt.Sprintf("%s:%s {\n sharedunicast 127.0.53.1 {\n fastpath off\n }\n %s\n testwire\n}", c.zone, port, c.plugins))
			m := new(dns.Msg).SetQuestion(c.name, dns.TypeA).SetEdns0(1232, false)
			if c.option != 0 {
				m.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_LOCAL{Code: c.option, Data: []byte("client's")}}
			}
			before := inWireFormat.Load()
			answer, err := exchange("udp", "127.0.53.1:"+port, m)
			if err != nil {
				t.Fatal(err)
			}
			if answer.Rcode != c.rcode || answer.Question[0] != m.Question[0] || answer.IsEdns0() == nil {
				t.Errorf("%v", answer)
			}
			if c.rcode == dns.RcodeSuccess && len(answer.Answer)+len(answer.Ns) != 1 {
				t.Errorf("%v", answer)
			}
			if wire := inWireFormat.Load() > before; wire != c.wire {
				t.Errorf("in wire format: %v", wire)
			}
		})
	}
}

// What plugins find in a message's context is what the core puts there.
func TestContextOfAMessage(t *testing.T) {
	core := new(dnsserver.Server)
	c := &messageContext{Context: t.Context(), core: core}
	if c.Value(dnsserver.Key{}) != core || c.Value(dnsserver.LoopKey{}) != 0 || c.Value(dnsserver.ViewKey{}) != nil {
		t.Error(c.Value(dnsserver.Key{}), c.Value(dnsserver.LoopKey{}), c.Value(dnsserver.ViewKey{}))
	}
}
