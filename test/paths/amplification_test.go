package paths

import (
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/lab"
	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
)

// reply asks by UDP as often as it takes, and returns the response.
func reply(t *testing.T, conn net.Conn, query []byte) []byte {
	t.Helper()
	buffer := make([]byte, 1<<16)
	for range 5 {
		if _, err := conn.Write(query); err != nil {
			t.Fatal(err)
		}
		for conn.SetReadDeadline(time.Now().Add(5*time.Second)) == nil {
			n, err := conn.Read(buffer)
			if err != nil {
				break
			}
			if n >= 12 && buffer[0] == query[0] && buffer[1] == query[1] {
				return buffer[:n]
			}
		}
	}
	t.Fatalf("%s does not answer %x", conn.RemoteAddr(), query)
	return nil
}

// Nobody gets more octets out of a query here than out of the same query to NSD.
func TestNoMoreAmplificationThanNSD(t *testing.T) {
	nsd := testenv.Need(t, "nsd")[0]
	m := newMesh(t)
	w := bigWorld(t, m)
	server := lab.NameServer{Kind: "nsd", Dir: t.TempDir(), Options: "  rrl-ratelimit: 0\n", Listen: []netip.AddrPort{netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(port(t)))}}
	for origin, text := range w.zones {
		server.Zones = append(server.Zones, lab.ServedZone{Origin: origin, File: write(t, server.Dir, origin+"zone", text)})
	}
	lab.Start(t, lab.Command{Argv: server.Argv(t, nsd), Log: server.Dir + "/log"})
	address := fmt.Sprintf("127.0.0.1:%d", port(t))
	start(t, fmt.Sprintf(".:%s {\n sharedunicast 127.0.0.1\n nsid tyo1\n errors\n %s }\n", address[len("127.0.0.1:"):], m.block()))
	var conns []net.Conn
	for _, address := range []string{address, server.Listen[0].String()} {
		lab.Eventually(t, func() error { return hasSOA(address) })
		conn, err := net.Dial("udp", address)
		lab.Must(t, err)
		defer conn.Close()
		conns = append(conns, conn)
	}
	ours, theirs := volume{}, volume{}
	for i, name := range w.names {
		for j, qtype := range w.types {
			for k, payload := range []uint16{0, 512, 1232} {
				q := new(dns.Msg).SetQuestion(name, qtype)
				if payload > 0 {
					q.SetEdns0(payload, (i+j+k)%2 == 0)
				}
				query, err := q.Pack()
				lab.Must(t, err)
				a, b := reply(t, conns[0], query), reply(t, conns[1], query)
				ours.add(a, query)
				theirs.add(b, query)
				if len(a) > len(b)+mayBeMore(name, qtype, max(int(payload), dns.MinMsgSize), a, b) {
					t.Errorf("%s %s, payload %d, DO %v: %d octets, NSD %d", name, dns.TypeToString[qtype], payload, (i+j+k)%2 == 0, len(a), len(b))
				}
			}
		}
	}
	t.Logf("%+v, NSD %+v", ours, theirs)
	if ours.octets > theirs.octets || ours.most > theirs.most*1.05 {
		t.Errorf("%+v, NSD %+v", ours, theirs)
	}
}

// volume is what was sent.
type volume struct {
	octets int
	most   float64 // times the octets of its query that a response had
}

func (v *volume) add(response, query []byte) {
	v.octets += len(response)
	v.most = max(v.most, float64(len(response))/float64(len(query)))
}

// mayBeMore is by how many octets a response may be longer than NSD's, where that says less.
func mayBeMore(name string, qtype uint16, limit int, a, b []byte) int {
	var ours, theirs dns.Msg
	if ours.Unpack(a) != nil || theirs.Unpack(b) != nil {
		return 0
	}
	labels := dns.SplitDomainName(name)
	switch {
	case ours.Rcode == dns.RcodeRefused:
		return 6 // why it is refused (RFC 8914)
	case qtype == dns.TypeANY && len(theirs.Answer) > 0 && theirs.Answer[0].Header().Rrtype == dns.TypeSOA:
		return 160 // another RRset than the SOA is told of all (RFC 8482)
	case len(a) <= limit && len(b) > limit*2/3:
		return limit // what both fill holds more here
	case qtype == dns.TypeRRSIG && len(theirs.Answer) == 0:
		return 160 // the signatures of one RRset (RFC 8482 7)
	case len(theirs.Answer) > 0 && theirs.Answer[0].Header().Rrtype == dns.TypeCNAME && (qtype == dns.TypeNSEC || qtype == dns.TypeRRSIG):
		return 160 // an alias is not followed, so that there is a proof
	case len(labels) > 1 && labels[1] == "dname" && ours.Rcode == dns.RcodeNameError:
		return 160 // the proof that there is no wildcard, which NSD leaves out behind a DNAME
	case !ours.Authoritative && len(ours.Ns) > len(theirs.Ns) && ours.Ns[len(ours.Ns)-1].Header().Rrtype == dns.TypeDS:
		return 48 // the DS RRset in a zone that is not signed
	}
	return 0
}
