package sharedunicast

import (
	"context"
	"strings"
	"testing"

	"github.com/coredns/coredns/plugin"
	"github.com/coredns/coredns/plugin/test"

	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"
)

// capture keeps what a client would get, however it is written.
type capture struct {
	test.ResponseWriter
	got *dns.Msg
}

func (c *capture) WriteMsg(m *dns.Msg) error {
	b, err := m.Pack()
	if err != nil {
		return err
	}
	_, err = c.Write(b)
	return err
}

func (c *capture) Write(b []byte) (int, error) {
	c.got = new(dns.Msg)
	return len(b), c.got.Unpack(b)
}

// fakeBackend answers with edit's work on a reply, either as message or as wire.
func fakeBackend(edit func(*dns.Msg), wire bool) plugin.Handler {
	return plugin.HandlerFunc(func(_ context.Context, w dns.ResponseWriter, r *dns.Msg) (int, error) {
		m := new(dns.Msg).SetReply(r)
		edit(m)
		if !wire {
			return dns.RcodeSuccess, w.WriteMsg(m)
		}
		b, err := m.Pack()
		if err != nil {
			return dns.RcodeServerFailure, err
		}
		_, err = w.Write(b)
		return dns.RcodeSuccess, err
	})
}

// Which answers of a fakeBackend leave the shared address (HOST-3). Both ways of writing are judged alike.
func TestOnlyAuthoritativeAnswersLeave(t *testing.T) {
	a := test.A("www.sub.example.org. 60 IN A 192.0.2.1")
	soa := test.SOA("example.org. 60 IN SOA ns. admin. 1 2 3 4 5")
	ns := func(owner string) *dns.NS { return test.NS(owner + " 60 IN NS ns.sub.example.org.") }

	for _, tc := range []struct {
		name string
		edit func(*dns.Msg)
		pass bool
	}{
		{"answer with AA", func(m *dns.Msg) { m.Authoritative = true; m.Answer = []dns.RR{a} }, true},
		{"answer without AA", func(m *dns.Msg) { m.Answer = []dns.RR{a} }, false},
		{"NODATA with AA", func(m *dns.Msg) { m.Authoritative = true; m.Ns = []dns.RR{soa} }, true},
		{"NODATA without AA", func(m *dns.Msg) { m.Ns = []dns.RR{soa} }, false},
		{"NXDOMAIN with AA", func(m *dns.Msg) { m.Authoritative = true; m.Rcode = dns.RcodeNameError }, true},
		{"NXDOMAIN without AA", func(m *dns.Msg) { m.Rcode = dns.RcodeNameError }, false},
		{"empty", func(m *dns.Msg) {}, false},
		{"empty, truncated", func(m *dns.Msg) { m.Truncated = true }, true},
		{"referral", func(m *dns.Msg) { m.Ns = []dns.RR{ns("sub.example.org.")} }, true},
		{"signed referral", func(m *dns.Msg) {
			m.Ns = []dns.RR{ns("sub.example.org."), test.DS("sub.example.org. 60 IN DS 1 13 2 00")}
		}, true},
		{"referral in other letters", func(m *dns.Msg) { m.Ns = []dns.RR{ns("SUB.example.ORG.")} }, true},
		{"upward referral to the root", func(m *dns.Msg) { m.Ns = []dns.RR{ns(".")} }, false},
		{"upward referral to the zone", func(m *dns.Msg) { m.Ns = []dns.RR{ns("example.org.")} }, false},
		{"referral beside the question", func(m *dns.Msg) { m.Ns = []dns.RR{ns("other.example.org.")} }, false},
		{"referral out of another zone", func(m *dns.Msg) { m.Ns = []dns.RR{ns("example.net.")} }, false},
		{"referral with answer", func(m *dns.Msg) { m.Ns = []dns.RR{ns("sub.example.org.")}; m.Answer = []dns.RR{a} }, false},
		{"referral with SOA", func(m *dns.Msg) { m.Ns = []dns.RR{ns("sub.example.org."), soa} }, false},
		{"SERVFAIL", func(m *dns.Msg) { m.Rcode = dns.RcodeServerFailure }, true},
		{"SERVFAIL with answer", func(m *dns.Msg) { m.Rcode = dns.RcodeServerFailure; m.Answer = []dns.RR{a} }, false},
		{"FORMERR", func(m *dns.Msg) { m.Rcode = dns.RcodeFormatError }, true},
		{"NOTIMP", func(m *dns.Msg) { m.Rcode = dns.RcodeNotImplemented }, true},
		{"BADVERS", func(m *dns.Msg) { m.SetEdns0(1232, false); m.Rcode = dns.RcodeBadVers }, true},
		{"BADCOOKIE", func(m *dns.Msg) { m.SetEdns0(1232, false); m.Rcode = dns.RcodeBadCookie }, true},
		{"YXDOMAIN without AA", func(m *dns.Msg) { m.Rcode = dns.RcodeYXDomain }, false},
	} {
		for _, wire := range []bool{false, true} {
			name := tc.name + " as message"
			if wire {
				name = tc.name + " as wire"
			}
			t.Run(name, func(t *testing.T) {
				s := &SharedUnicast{Next: fakeBackend(tc.edit, wire), zones: plugin.Zones{"example.org."}}
				req := new(dns.Msg).SetQuestion("www.sub.example.org.", dns.TypeA)
				want := new(dns.Msg).SetReply(req)
				tc.edit(want)
				if !tc.pass {
					want = new(dns.Msg).SetRcode(req, dns.RcodeRefused)
				}
				w := new(capture)
				if _, err := s.ServeDNS(context.Background(), w, req); err != nil {
					t.Fatal(err)
				}
				if w.got == nil || w.got.String() != want.String() {
					t.Errorf("client got\n%v\nwant\n%v", w.got, want)
				}
			})
		}
	}
}

func TestRecursionIsNeverAvailable(t *testing.T) {
	for _, wire := range []bool{false, true} {
		var shared *dns.Msg
		s := &SharedUnicast{zones: plugin.Zones{"."}, Next: fakeBackend(func(m *dns.Msg) {
			m.Authoritative, m.RecursionAvailable = true, true
			shared = m
		}, wire)}
		w := new(capture)
		s.ServeDNS(context.Background(), w, new(dns.Msg).SetQuestion("example.org.", dns.TypeA))
		if w.got.RecursionAvailable || !w.got.RecursionDesired || !w.got.Authoritative {
			t.Errorf("flags of the answer: %+v, want AA, RD as asked, and no RA", w.got.MsgHdr)
		}
		if !shared.RecursionAvailable {
			t.Error("the backend's message was changed")
		}
	}
}

func TestChaosClassPasses(t *testing.T) {
	s := &SharedUnicast{Next: fakeBackend(func(*dns.Msg) {}, false), zones: plugin.Zones{"."}}
	req := new(dns.Msg).SetQuestion("id.server.", dns.TypeTXT)
	req.Question[0].Qclass = dns.ClassCHAOS
	w := new(capture)
	s.ServeDNS(context.Background(), w, req)
	if w.got.Rcode != dns.RcodeSuccess {
		t.Errorf("rcode %s", dns.RcodeToString[w.got.Rcode])
	}
}

// XFER-1: what is not a query is refused before the fakeBackend sees it.
func TestTransfersAndOtherOpcodesAreRefused(t *testing.T) {
	query := func(qtype uint16) *dns.Msg { return new(dns.Msg).SetQuestion("example.org.", qtype) }
	for _, tc := range []struct {
		name   string
		req    *dns.Msg
		reason string
	}{
		{"AXFR", query(dns.TypeAXFR), reasonTransfer},
		{"IXFR", new(dns.Msg).SetIxfr("example.org.", 1, ".", "."), reasonTransfer},
		{"NOTIFY", new(dns.Msg).SetNotify("example.org."), reasonOpcode},
		{"UPDATE", new(dns.Msg).SetUpdate("example.org."), reasonOpcode},
	} {
		t.Run(tc.name, func(t *testing.T) {
			before := count(tc.reason)
			s := &SharedUnicast{zones: plugin.Zones{"."}, Next: fakeBackend(func(*dns.Msg) { t.Error("the fakeBackend was asked") }, false)}
			w := new(capture)
			s.ServeDNS(context.Background(), w, tc.req)
			if w.got.Rcode != dns.RcodeRefused || w.got.Opcode != tc.req.Opcode {
				t.Errorf("answer %v", w.got.MsgHdr)
			}
			if count(tc.reason) != before+1 {
				t.Error("not counted")
			}
		})
	}
}

func TestSilenceStaysSilence(t *testing.T) {
	silent := plugin.HandlerFunc(func(context.Context, dns.ResponseWriter, *dns.Msg) (int, error) { return dns.RcodeSuccess, nil })
	s := &SharedUnicast{Next: silent, zones: plugin.Zones{"."}}
	w := new(capture)
	rcode, err := s.ServeDNS(context.Background(), w, new(dns.Msg).SetQuestion("example.org.", dns.TypeA))
	if w.got != nil || rcode != dns.RcodeSuccess || err != nil {
		t.Errorf("wrote %v, returned %d, %v", w.got, rcode, err)
	}
}

func TestMetricNamesAreWellFormed(t *testing.T) {
	refusedTotal.WithLabelValues("dns://192.0.2.53:53", reasonTransfer)
	families, err := prometheus.DefaultGatherer.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if !strings.HasPrefix(f.GetName(), "coredns_sharedunicast_") {
			continue
		}
		problems, err := promlint.NewWithMetricFamilies([]*dto.MetricFamily{f}).Lint()
		if err != nil || len(problems) > 0 {
			t.Errorf("%v, %v", problems, err)
		}
		return
	}
	t.Error("no metric is registered")
}

func count(reason string) float64 {
	var m dto.Metric
	refusedTotal.WithLabelValues("", reason).Write(&m)
	return m.Counter.GetValue()
}

func BenchmarkAuthoritativeAnswer(b *testing.B) {
	answer := new(dns.Msg)
	next := plugin.HandlerFunc(func(_ context.Context, w dns.ResponseWriter, _ *dns.Msg) (int, error) {
		return dns.RcodeSuccess, w.WriteMsg(answer)
	})
	answer.Authoritative = true
	s := &SharedUnicast{Next: next, zones: plugin.Zones{"example.org."}}
	req := new(dns.Msg).SetQuestion("www.example.org.", dns.TypeA)
	b.ReportAllocs()
	for b.Loop() {
		s.ServeDNS(context.Background(), &test.ResponseWriter{}, req)
	}
}
