package sharedunicast

import (
	"encoding/binary"
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"github.com/coredns-anycast/coredns-anycast/internal/lab"
	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
)

// What comes from port 0 cannot be answered, and a response must not be, or two servers could be set upon each other.
func TestResponsesAndPortZeroAreIgnored(t *testing.T) {
	testenv.Root(t)
	port := freePort(t)
	server := "127.0.53.1:" + port
	start(t, fmt.Sprintf("example.org:%s {\n sharedunicast 127.0.53.1 {\n fastpath off\n }\n testwire\n}", port))
	raw, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_UDP)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(raw)
	to, _ := strconv.Atoi(port)
	send := func(source int, m *dns.Msg) {
		b, err := m.Pack()
		if err != nil {
			t.Fatal(err)
		}
		var datagram []byte
		for _, v := range []int{source, to, 8 + len(b), 0} { // RFC 768; without checksum
			datagram = binary.BigEndian.AppendUint16(datagram, uint16(v))
		}
		if err := unix.Sendto(raw, append(datagram, b...), 0, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 53, 1}}); err != nil {
			t.Fatal(err)
		}
	}
	query := new(dns.Msg).SetQuestion("www.example.org.", dns.TypeA)
	response := query.Copy()
	response.Response = true
	before := throughChain.Load()
	send(0, query)
	send(4053, response)
	mustAsk(t, "udp", server, "www.example.org.", dns.TypeA, dns.RcodeSuccess)
	if n := throughChain.Load() - before; n != 1 {
		t.Errorf("%d messages were taken for queries, want the last one", n)
	}
	send(4053, query) // it does come like this
	lab.WaitFor(t, "it is taken for a query", func() bool { return throughChain.Load() > before+1 })
	if n := throughChain.Load() - before; n != 2 {
		t.Errorf("%d messages were taken for queries, want 2", n)
	}
}

// A reload that turns the fast path off or on loses no query, nor do those before and after it.
func TestChangingPathsLosesNoQuery(t *testing.T) {
	port := freePort(t)
	corefile := func(path string) string {
		return fmt.Sprintf("example.org:%s {\n sharedunicast 127.0.53.1 {\n fastpath %s\n }\n testwire\n}", port, path)
	}
	reload := start(t, corefile("on"))
	before := throughChain.Load()
	stop := load(t, "127.0.53.1:"+port)
	for i := range 6 {
		time.Sleep(150 * time.Millisecond)
		if err := reload(corefile([]string{"off", "on"}[i%2])); err != nil {
			t.Fatal(err)
		}
	}
	time.Sleep(150 * time.Millisecond)
	stop()
	if throughChain.Load() == before {
		t.Error("nothing went through the chain")
	}
}
