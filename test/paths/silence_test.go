package paths

import (
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/lab"
	"github.com/coredns-anycast/coredns-anycast/internal/socket"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
	"github.com/coredns-anycast/coredns-anycast/internal/testca"
)

// kinds are messages of every kind that there is, by what they are. All of them are answered by a node that answers.
func kinds(t *testing.T) map[string][]byte {
	t.Helper()
	all := map[string][]byte{}
	add := func(name string, m *dns.Msg, edit ...func([]byte) []byte) {
		wire, err := m.Pack()
		lab.Must(t, err)
		for _, e := range edit {
			wire = e(wire)
		}
		all[name] = wire
	}
	query := func(name string, qtype uint16) *dns.Msg { return new(dns.Msg).SetQuestion(name, qtype) }
	class := func(c uint16, name string) *dns.Msg {
		m := query(name, dns.TypeTXT)
		m.Question[0].Qclass = c
		return m
	}
	add("query", query("www.example.org.", dns.TypeA))
	add("query with EDNS", query("www.example.org.", dns.TypeA).SetEdns0(1232, true))
	add("query for no zone of ours", query("www.example.net.", dns.TypeA))
	add("referral", query("x.sub.example.org.", dns.TypeA))
	add("ANY", query("example.org.", dns.TypeANY))
	add("AXFR", new(dns.Msg).SetAxfr("example.org."))
	add("IXFR", new(dns.Msg).SetIxfr("example.org.", 1, "ns.", "admin."))
	add("NOTIFY", new(dns.Msg).SetNotify("example.org."))
	add("UPDATE", new(dns.Msg).SetUpdate("example.org."))
	for _, name := range []string{"id.server.", "hostname.bind.", "version.bind.", "version.server.", "authors.bind.", "other."} {
		add("CHAOS "+name, class(dns.ClassCHAOS, name))
	}
	add("class HS", class(dns.ClassHESIOD, "example.org."))
	add("class ANY", class(dns.ClassANY, "example.org."))
	badvers := query("www.example.org.", dns.TypeA).SetEdns0(1232, true)
	badvers.IsEdns0().SetVersion(1)
	add("BADVERS", badvers)
	add("two OPT records", query("www.example.org.", dns.TypeA).SetEdns0(1232, true).SetEdns0(1232, true))
	for code := range uint16(20) {
		m := query("www.example.org.", dns.TypeA).SetEdns0(1232, false)
		m.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_LOCAL{Code: code}}
		add(fmt.Sprintf("option %d, empty", code), m)
	}
	signed := query("www.example.org.", dns.TypeA)
	signed.SetTsig("key.", dns.HmacSHA256, 300, time.Now().Unix())
	wire, _, err := dns.TsigGenerate(signed, "NoTCJU+DMqFWywaPyxSijrDEA/eC3nK0xi3AMEZuPVk=", "", false)
	lab.Must(t, err)
	all["TSIG"] = wire
	plain := query("www.example.org.", dns.TypeA)
	for opcode := range 16 {
		add(fmt.Sprintf("opcode %d", opcode), plain, func(b []byte) []byte { b[2] = b[2]&^0x78 | byte(opcode<<3); return b })
	}
	for section, name := range []string{"questions", "answers", "authority", "additional"} {
		for _, n := range []uint16{0, 1, 2, 9} {
			add(fmt.Sprintf("%d %s promised", n, name), plain, func(b []byte) []byte {
				binary.BigEndian.PutUint16(b[4+2*section:], n)
				return b
			})
		}
	}
	add("header alone", new(dns.Msg))
	add("half a name", plain, func(b []byte) []byte { return b[:18] })
	add("octets behind", plain, func(b []byte) []byte { return append(b, "more"...) })
	add("all flags but QR", plain, func(b []byte) []byte { b[2], b[3] = b[2]|0x07, 0xf0; return b })
	return all
}

// SYNC-F: a silent node gives no answer to anything, by any path or plugin. What it is asked here, it answers as soon as it
// has a release.
func TestSilenceIsTotal(t *testing.T) {
	m := newMesh(t)
	own := testca.New(t).Identity("tyo1", time.Hour)
	plainPort, tlsPort := port(t), port(t)
	block := "sharedunicast 127.0.0.1\n errors\n nsid tyo1\n chaos version\n tsig {\n secret key. NoTCJU+DMqFWywaPyxSijrDEA/eC3nK0xi3AMEZuPVk=\n}\n" + m.block()
	start(t, fmt.Sprintf(".:%d {\n %s }\n tls://.:%d {\n tls %s %s\n %s }\n", plainPort, block, tlsPort, own.Certificate, own.Key, block))
	all := kinds(t)
	address := fmt.Sprintf("127.0.0.1:%d", plainPort)
	dial := map[string]func() (net.Conn, error){
		"udp": func() (net.Conn, error) { return net.Dial("udp", address) },
		"tcp": func() (net.Conn, error) { return net.Dial("tcp", address) },
		"tls": func() (net.Conn, error) {
			return tls.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", tlsPort), &tls.Config{InsecureSkipVerify: true})
		},
	}

	// By UDP all are sent, and then time is given to whoever would answer; a stream ends.
	udp, err := dial["udp"]()
	lab.Must(t, err)
	defer udp.Close()
	for _, b := range all {
		udp.Write(b)
	}
	for _, network := range []string{"tcp", "tls"} {
		for name, b := range all {
			if said, err := askOver(dial[network], b); len(said) > 0 || !errors.Is(err, io.EOF) {
				t.Errorf("silent, %s over %s: said %x, %v; want the end of the stream", name, network, said, err)
			}
		}
	}
	udp.SetReadDeadline(time.Now().Add(time.Second))
	said := make([]byte, 4096)
	if n, err := udp.Read(said); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("silent, by UDP: said %x, %v", said[:n], err)
	}

	m.current(1, m.zone("example.org.", zoneText("example.org.")))
	lab.Eventually(t, func() error { _, err := askOver(dial["udp"], all["query"]); return err })
	for name, b := range all {
		for network := range dial {
			var said []byte
			lab.Eventually(t, func() (err error) {
				if said, err = askOver(dial[network], b); err != nil {
					return fmt.Errorf("answering, %s over %s: %w", name, network, err)
				}
				return nil
			})
			if len(said) < 12 || said[2]&0x80 == 0 || [2]byte(said) != [2]byte(b) {
				t.Errorf("answering, %s over %s: said %x", name, network, said)
			}
		}
	}
}

// askOver sends a message on a connection of its own, and returns what comes.
func askOver(dial func() (net.Conn, error), b []byte) ([]byte, error) {
	conn, err := dial()
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(3 * time.Second))
	c := dns.Conn{Conn: conn, UDPSize: 65535}
	if _, err := c.Write(b); err != nil {
		return nil, err
	}
	return c.ReadMsgHeader(nil)
}

// A node that lost its state is silent (SYNC-F, SYNC-G), while CoreDNS's other server blocks serve, and its status says why.
func TestOtherBlocksServeWhereANodesStateIsLost(t *testing.T) {
	m := newMesh(t)
	m.current(1, m.zone("example.org.", zoneText("example.org.")))
	lab.Must(t, os.Mkdir(m.path("node/state"), 0o755))
	lab.Must(t, os.WriteFile(m.path("node/state/promise.json"), []byte("{"), 0o644))
	silent, serves := port(t), port(t)
	start(t, fmt.Sprintf(".:%d {\n sharedunicast 127.0.0.1\n %s }\n.:%d {\n bind 127.0.0.2\n chaos 9 jane\n}\n", silent, m.block(), serves))
	var said status.Node
	lab.Must(t, socket.Read(t.Context(), m.path("s.sock"), &said))
	if len(said.Silent) != 1 || said.Silent[0].Code != "state-lost" {
		t.Errorf("%+v", said)
	}
	question := new(dns.Msg).SetQuestion("version.bind.", dns.TypeTXT)
	question.Question[0].Qclass = dns.ClassCHAOS
	if r, err := dns.Exchange(question, fmt.Sprintf("127.0.0.2:%d", serves)); err != nil || len(r.Answer) != 1 {
		t.Errorf("the other block: %v, %v", r, err)
	}
	for name, wire := range kinds(t) {
		conn, err := net.Dial("udp", fmt.Sprintf("127.0.0.1:%d", silent))
		lab.Must(t, err)
		conn.Write(wire)
		conn.SetReadDeadline(time.Now().Add(5 * time.Millisecond))
		if n, err := conn.Read(make([]byte, 512)); err == nil {
			t.Errorf("%s: %d octets", name, n)
		}
		conn.Close()
	}
}
