package meshsync

import (
	"fmt"
	"testing"
	"time"

	"github.com/coredns/coredns/plugin/transfer"
	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/status"
)

var _ transfer.Transferer = (*Meshsync)(nil)

// A block with plugin transfer hands the zone out, whole (XFER-1).
func TestTransfer(t *testing.T) {
	dir, h := nodeDir(t)
	text := zoneText("example.org.", 7)
	for i := range 1000 {
		text += fmt.Sprintf("h%d.example.org. 60 IN A 192.0.2.2\n", i)
	}
	h.current(7, append(h.zones(7)[:0], h.blob("example.org.", text)))
	corefile := "example.org:0 {\n transfer {\n to 127.0.0.1\n}\n meshsync " + dir + " {\n repository " + h.repo.Path() +
		"\n root " + h.root + "\n clock assume 1ms\n}\n}"
	serve(t, corefile, func(addr string) {
		eventually(t, func() error { return expect(addr, "7") })
		for _, c := range []struct {
			q     *dns.Msg
			want  int
			first uint16
		}{
			{new(dns.Msg).SetAxfr("example.org."), 1005, dns.TypeSOA},
			{new(dns.Msg).SetIxfr("example.org.", 6, "ns.example.org.", "host.example.org."), 1005, dns.TypeSOA},
			{new(dns.Msg).SetIxfr("example.org.", 7, "ns.example.org.", "host.example.org."), 1, dns.TypeSOA},
			{new(dns.Msg).SetIxfr("example.org.", 8, "ns.example.org.", "host.example.org."), 1, dns.TypeSOA},
		} {
			got := transferIn(t, c.q, addr)
			if len(got) != c.want || got[0].Header().Rrtype != c.first || got[len(got)-1].Header().Rrtype != dns.TypeSOA {
				t.Errorf("%v: %d records", c.q.Question, len(got))
			}
		}
	})
}

func transferIn(t *testing.T, q *dns.Msg, addr string) []dns.RR {
	t.Helper()
	in, err := (&dns.Transfer{ReadTimeout: 5 * time.Second}).In(q, addr)
	must(t, err)
	var got []dns.RR
	for e := range in {
		must(t, e.Error)
		got = append(got, e.RR...)
	}
	return got
}

func TestTransferOfWhatIsNotThere(t *testing.T) {
	dir, h := nodeDir(t)
	n := startNode(t, newConfig(dir, h))
	if _, err := n.Transfer("example.org.", 0); err != transfer.ErrNotAuthoritative {
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
