package sharedunicast

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	tap "github.com/dnstap/golang-dnstap"
	"github.com/farsightsec/golang-framestream"
	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"google.golang.org/protobuf/proto"

	"github.com/coredns-anycast/coredns-anycast/internal/lab"
)

// collect is a dnstap collector on a unix socket; its messages come by the channel.
func collect(t *testing.T) (path string, messages chan *tap.Dnstap) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "tap.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	messages = make(chan *tap.Dnstap, 10_000)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				dec, err := framestream.NewDecoder(conn, &framestream.DecoderOptions{ContentType: []byte("protobuf:dnstap.Dnstap"), Bidirectional: true})
				for err == nil {
					var frame []byte
					if frame, err = dec.Decode(); err == nil {
						m := new(tap.Dnstap)
						if err = proto.Unmarshal(frame, m); err == nil {
							messages <- m
						}
					}
				}
			}()
		}
	}()
	return path, messages
}

// A collector is told of every query and its response, octet by octet, whichever path they took.
func TestCollectorIsTold(t *testing.T) {
	path, messages := collect(t)
	port := freePort(t)
	start(t, fmt.Sprintf("example.org:%s {\n sharedunicast 127.0.53.1 ::1 {\n dnstap unix://%s identity tyo1\n }\n testwire\n}", port, path))
	next := func() *tap.Dnstap {
		t.Helper()
		select {
		case m := <-messages:
			return m
		case <-time.After(15 * time.Second):
			t.Fatal("the collector is told nothing")
			return nil
		}
	}
	update := new(dns.Msg).SetUpdate("example.org.")
	for name, q := range map[string]*dns.Msg{
		"fast path":    new(dns.Msg).SetQuestion("www.example.org.", dns.TypeA).SetEdns0(1232, true),
		"chain":        new(dns.Msg).SetQuestion("example.org.", dns.TypeAXFR),
		"other zone":   new(dns.Msg).SetQuestion("example.net.", dns.TypeA),
		"no such code": update,
	} {
		for _, server := range []string{"127.0.53.1", "::1"} {
			for network, protocol := range map[string]tap.SocketProtocol{"udp": tap.SocketProtocol_UDP, "tcp": tap.SocketProtocol_TCP} {
				conn, err := dns.Dial(network, net.JoinHostPort(server, port))
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				conn.UDPSize = 4096
				conn.SetDeadline(time.Now().Add(5 * time.Second))
				asked, err := q.Pack()
				if err != nil {
					t.Fatal(err)
				}
				if _, err := conn.Write(asked); err != nil {
					t.Fatal(err)
				}
				said, err := conn.ReadMsgHeader(nil)
				if err != nil {
					t.Fatal(err)
				}
				query, response := next(), next()
				m, r := query.GetMessage(), response.GetMessage()
				if m.GetType() != tap.Message_AUTH_QUERY || r.GetType() != tap.Message_AUTH_RESPONSE || !bytes.Equal(m.QueryMessage, asked) || !bytes.Equal(r.ResponseMessage, said) {
					t.Errorf("%s over %s at %s: %v\n%v", name, network, server, m, r)
				}
				from, _ := net.ResolveUDPAddr("udp", conn.LocalAddr().String())
				for _, x := range []*tap.Message{m, r} {
					if !net.IP(x.QueryAddress).Equal(from.IP) || int(x.GetQueryPort()) != from.Port || !net.IP(x.ResponseAddress).Equal(net.ParseIP(server)) ||
						fmt.Sprint(x.GetResponsePort()) != port || x.GetSocketProtocol() != protocol || x.GetQueryTimeSec() == 0 {
						t.Errorf("%s over %s at %s: %v", name, network, server, x)
					}
				}
				if string(query.Identity) != "tyo1" {
					t.Errorf("identity %s", query.Identity)
				}
			}
		}
	}
}

// A collector that hangs, or is away, keeps nobody from an answer; what it is not told of is counted.
func TestCollectorThatHangs(t *testing.T) {
	hangs := filepath.Join(t.TempDir(), "hangs.sock")
	l, err := net.Listen("unix", hangs) // nobody accepts
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, path := range []string{hangs, filepath.Join(t.TempDir(), "away.sock")} {
		s := defaults
		if err := s.parseTap([]string{"unix://" + path}); err != nil {
			t.Fatal(err)
		}
		tapper := newTapper(s, path)
		before := counted(t, tapper.dropped)
		began := time.Now()
		for range 2 * tapQueue {
			tapper.tell(addrPortOf(l.Addr()), addrPortOf(l.Addr()), false, began, []byte("query"), []byte("response"))
		}
		if dropped := counted(t, tapper.dropped) - before; dropped < tapQueue/2 {
			t.Errorf("%s: %v of %d were counted as dropped", path, dropped, 2*tapQueue)
		}
		tapper.close()
	}
}

// What waits for a collector that is away is bounded in octets, however long the messages are.
func TestCollectorThatIsAwayCostsNoMemory(t *testing.T) {
	s := defaults
	lab.Must(t, s.parseTap([]string{"unix://" + filepath.Join(t.TempDir(), "away.sock")}))
	tapper := newTapper(s, "away")
	defer tapper.close()
	addr := netip.MustParseAddrPort("127.0.0.1:53")
	long, dropped, before := make([]byte, dns.MaxMsgSize), counted(t, tapper.dropped), heap()
	for range tapQueue / 2 {
		tapper.tell(addr, addr, true, time.Now(), long, []byte("response"))
	}
	if got := heap() - before; got > 2*tapOctets {
		t.Errorf("%d octets are in use", got)
	}
	if queued, dropped := len(tapper.queue), int(counted(t, tapper.dropped)-dropped); queued+dropped != tapQueue/2 || queued < tapOctets/dns.MaxMsgSize-1 {
		t.Errorf("%d wait, %d were dropped", queued, dropped)
	}
	for len(tapper.queue) > 0 {
		tapper.release(<-tapper.queue)
	}
	if n := tapper.waiting.Load(); n != 0 {
		t.Errorf("%d octets are said to wait where nothing does", n)
	}
}

func counted(t *testing.T, c prometheus.Counter) float64 {
	t.Helper()
	m := new(dto.Metric)
	if err := c.Write(m); err != nil {
		t.Fatal(err)
	}
	return m.Counter.GetValue()
}

func TestSampling(t *testing.T) {
	path, messages := collect(t)
	s := defaults
	if err := s.parseTap([]string{"unix://" + path, "sample", "10"}); err != nil {
		t.Fatal(err)
	}
	tapper := newTapper(s, "sampling")
	for range 1000 {
		tapper.tell(addrPortOf(&net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)}), addrPortOf(&net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)}), false, time.Now(), []byte("query"), nil)
	}
	for i := range 100 {
		select {
		case <-messages:
		case <-time.After(15 * time.Second):
			t.Fatalf("only %d of 100 came", i)
		}
	}
	tapper.close()
	if len(messages) > 0 {
		t.Errorf("%d more than 100 came", len(messages))
	}
}
