package sharedunicast

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/lab"
	"github.com/coredns-anycast/coredns-anycast/internal/query"
)

// These tests run servers on loopback addresses (127.0.0.0/8), all of which Linux has.

func TestServesFileOnSharedAddressesOnly(t *testing.T) {
	port := freePort(t)
	start(t, fmt.Sprintf(`example.org:%s {
		sharedunicast 127.0.53.1 ::1 {
			admin 127.0.53.2
		}
		file %s
	}`, port, zoneFile(t)))

	for _, server := range []string{"127.0.53.1:" + port, "[::1]:" + port} {
		for _, network := range []string{"udp", "tcp"} {
			if m := mustAsk(t, network, server, "www.example.org.", dns.TypeA, dns.RcodeSuccess); !m.Authoritative || len(m.Answer) != 1 {
				t.Errorf("%s over %s: %v", server, network, m)
			}
			if m := mustAsk(t, network, server, "x.sub.example.org.", dns.TypeA, dns.RcodeSuccess); m.Authoritative || len(m.Ns) != 1 {
				t.Errorf("%s over %s: no referral: %v", server, network, m)
			}
			mustAsk(t, network, server, "none.example.org.", dns.TypeA, dns.RcodeNameError)
			mustAsk(t, network, server, "www.example.net.", dns.TypeA, dns.RcodeRefused)
			mustAsk(t, network, server, "example.org.", dns.TypeAXFR, dns.RcodeRefused)
			mustAsk(t, network, server, "example.org.", dns.TypeIXFR, dns.RcodeRefused)
		}
	}
	if m, err := ask("udp", "127.0.53.2:"+port, "www.example.org.", dns.TypeA); err == nil {
		t.Errorf("HOST-2: the administrative address answered %v", m)
	}
	if _, err := ask("tcp", "127.0.53.2:"+port, "www.example.org.", dns.TypeA); err == nil {
		t.Error("HOST-2: the administrative address answered over TCP")
	}
}

// The core sends names uncompressed to a client that would take them so.
func TestNamesAreCompressed(t *testing.T) {
	port := freePort(t)
	start(t, fmt.Sprintf("example.org:%s {\n sharedunicast 127.0.53.1\n file %s\n}", port, zoneFile(t)))
	for _, network := range []string{"udp", "tcp"} {
		conn, err := dns.Dial(network, "127.0.53.1:"+port)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(5 * time.Second))
		if err := conn.WriteMsg(new(dns.Msg).SetQuestion("www.example.org.", dns.TypeA).SetEdns0(4096, false)); err != nil {
			t.Fatal(err)
		}
		conn.UDPSize = 4096
		wire, err := conn.ReadMsgHeader(nil)
		if err != nil {
			t.Fatal(err)
		}
		m := new(dns.Msg)
		if err := m.Unpack(wire); err != nil || len(m.Answer) == 0 {
			t.Fatal(m, err)
		}
		if m.Compress = true; len(wire) != m.Len() {
			t.Errorf("%s: %d octets, with compression %d", network, len(wire), m.Len())
		}
	}
}

func TestClientThatNeverReadsIsLeft(t *testing.T) {
	port := freePort(t)
	zone := filepath.Join(t.TempDir(), "zone")
	text := "example.org. 60 SOA a a 1 1 1 1 1\nexample.org. 60 NS a.\n"
	for i := range 200 {
		text += fmt.Sprintf("example.org. 60 TXT \"%d%s\"\n", i, strings.Repeat("x", 240))
	}
	if err := os.WriteFile(zone, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	start(t, fmt.Sprintf("example.org:%s {\n sharedunicast 127.0.53.1\n file %s\n}", port, zone))
	conn, err := net.Dial("tcp", "127.0.53.1:"+port)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	query, err := new(dns.Msg).SetQuestion("example.org.", dns.TypeTXT).Pack()
	if err != nil {
		t.Fatal(err)
	}
	const queries = 1000 // the answers are 50 MB, more than the kernel takes
	for range queries {
		conn.SetWriteDeadline(time.Now().Add(time.Second))
		if _, err := conn.Write(append([]byte{0, byte(len(query))}, query...)); err != nil {
			break
		}
	}
	lab.WaitFor(t, "the connection is taken", func() bool { return connections(t, port) == 1 })
	lab.WaitFor(t, "the client is left", func() bool { return connections(t, port) == 0 })
	conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	if n, err := io.Copy(io.Discard, conn); n > queries*45000 || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("after %v without reading there were still %d octets of answers: %v", writeTimeout, n, err)
	}
}

func TestRefusalCarriesNSID(t *testing.T) {
	port := freePort(t)
	start(t, fmt.Sprintf("example.org:%s {\n sharedunicast 127.0.53.1\n nsid tyo1\n chaos node\n}", port))
	m := new(dns.Msg).SetQuestion("example.org.", dns.TypeIXFR)
	m.SetEdns0(1232, false)
	m.IsEdns0().Option = append(m.IsEdns0().Option, &dns.EDNS0_NSID{Code: dns.EDNS0NSID})
	answer, err := exchange("udp", "127.0.53.1:"+port, m)
	if err != nil || answer.Rcode != dns.RcodeRefused || !strings.Contains(answer.String(), "NSID: 74796f31") {
		t.Errorf("%v, %v", answer, err)
	}
}

func TestChaosIDServerIsAnswered(t *testing.T) {
	port := freePort(t)
	start(t, fmt.Sprintf(".:%s {\n sharedunicast 127.0.53.1\n chaos tyo1\n}", port))
	m := new(dns.Msg).SetQuestion("version.server.", dns.TypeTXT)
	m.Question[0].Qclass = dns.ClassCHAOS
	answer, err := exchange("udp", "127.0.53.1:"+port, m)
	if err != nil || len(answer.Answer) != 1 || !strings.Contains(answer.String(), "tyo1") {
		t.Errorf("%v, %v", answer, err)
	}
}

// Plugins such as metadata, ready and transfer look for one another when they are started.
func TestHandlersAreThereWhenPluginsStart(t *testing.T) {
	start(t, "example.org:"+freePort(t)+" {\n testlook\n sharedunicast 127.0.53.1\n testanswer\n}")
	if got := strings.Join(handlersAtStart, " "); got != "sharedunicast testanswer" {
		t.Errorf("found %q", got)
	}
}

// All keys of a block are served, and blocks share a listener.
func TestBlocksShareAnAddress(t *testing.T) {
	port := freePort(t)
	start(t, fmt.Sprintf(`example.org:%[1]s example.net:%[1]s {
		sharedunicast 127.0.53.1
		testanswer
	}
	example.com:%[1]s {
		sharedunicast 127.0.53.1 127.0.53.3
		testanswer
	}`, port))
	for _, zone := range []string{"example.org.", "example.net.", "example.com."} {
		mustAsk(t, "udp", "127.0.53.1:"+port, zone, dns.TypeA, dns.RcodeSuccess)
	}
	mustAsk(t, "udp", "127.0.53.3:"+port, "example.com.", dns.TypeA, dns.RcodeSuccess)
	mustAsk(t, "udp", "127.0.53.3:"+port, "example.org.", dns.TypeA, dns.RcodeRefused)
}

// The core makes several zones of a key whose prefix ends inside an octet.
func TestReversePrefixIsServedWhole(t *testing.T) {
	port := freePort(t)
	start(t, fmt.Sprintf("10.0.0.0/23:%s example.org:%[1]s {\n sharedunicast 127.0.53.1\n testanswer\n}", port))
	for _, name := range []string{"1.0.0.10.in-addr.arpa.", "1.1.0.10.in-addr.arpa.", "example.org."} {
		mustAsk(t, "udp", "127.0.53.1:"+port, name, dns.TypeA, dns.RcodeSuccess)
	}
	mustAsk(t, "udp", "127.0.53.1:"+port, "1.2.0.10.in-addr.arpa.", dns.TypeA, dns.RcodeRefused)
}

// The core installs the filters of views in a place that it does not reach for blocks of ours.
func TestViewsSelectTheBlock(t *testing.T) {
	port, client := freePort(t), freePort(t)
	start(t, fmt.Sprintf(`example.org:%[1]s {
		view special %[2]s
		sharedunicast 127.0.53.1
		testanswer
	}
	example.org:%[1]s {
		sharedunicast 127.0.53.1
		file %[3]s
	}`, port, client, zoneFile(t)))

	answer := mustAsk(t, "udp", "127.0.53.1:"+port, "www.example.org.", dns.TypeA, dns.RcodeSuccess)
	if len(answer.Answer) != 1 {
		t.Errorf("without the view's port: %v", answer)
	}
	local, _ := net.ResolveUDPAddr("udp", "127.0.0.1:"+client)
	c := &dns.Client{Dialer: &net.Dialer{LocalAddr: local}}
	answer, _, err := c.Exchange(new(dns.Msg).SetQuestion("www.example.org.", dns.TypeA), "127.0.53.1:"+port)
	if err != nil || len(answer.Answer) != 0 || len(answer.Extra) == 0 {
		t.Errorf("from the view's port: %v, %v", answer, err)
	}
}

func TestServesOverTLS(t *testing.T) {
	port, tlsPort := freePort(t), freePort(t)
	cert, key := certificate(t)
	start(t, fmt.Sprintf(`example.net:%s tls://example.org:%s {
		tls %s %s
		sharedunicast 127.0.0.1
		testanswer
	}`, port, tlsPort, cert, key))
	for _, curves := range [][]tls.CurveID{nil, {tls.X25519}} { // the server's first message is long or short
		config := clientTLS(t, cert, "")
		config.CurvePreferences = curves
		c := &dns.Client{Net: "tcp-tls", TLSConfig: config}
		answer, _, err := c.Exchange(new(dns.Msg).SetQuestion("www.example.org.", dns.TypeA), "127.0.0.1:"+tlsPort)
		if err != nil || len(answer.Extra) == 0 {
			t.Errorf("%v: %v, %v", curves, answer, err)
		}
	}
	mustAsk(t, "udp", "127.0.0.1:"+port, "www.example.net.", dns.TypeA, dns.RcodeSuccess)
}

const transferSecret = "NoTCJU+DMqFWywaPyxSijrDEA/eC3nK0xi3AMEZuPVk="

// startTransfers serves a zone on a shared address, and on the administrative one gives it to who has the key.
func startTransfers(t *testing.T) (shared, admin string) {
	t.Helper()
	port := freePort(t)
	start(t, fmt.Sprintf(`example.org:%[1]s {
		sharedunicast 127.0.53.1 {
			admin 127.0.53.2
		}
		file %[2]s
	}
	example.org:%[1]s {
		bind 127.0.53.2
		file %[2]s
		tsig {
			secret transfer. %[3]s
		}
		transfer {
			to *
		}
	}`, port, zoneFile(t), transferSecret))
	return "127.0.53.1:" + port, "127.0.53.2:" + port
}

// XFER-1: on the administrative address there are transfers, for who is authenticated, and nothing else.
func TestTransferOnlyBlockServesAuthenticatedTransfers(t *testing.T) {
	shared, server := startTransfers(t)
	for _, qtype := range []uint16{dns.TypeA, dns.TypeSOA, dns.TypeAXFR, dns.TypeIXFR} {
		for _, network := range []string{"udp", "tcp"} {
			mustAsk(t, network, server, "example.org.", qtype, dns.RcodeRefused)
		}
	}
	signed := func(qtype uint16, key, secret string) (*dns.Msg, error) {
		m := new(dns.Msg).SetQuestion("example.org.", qtype)
		m.SetTsig(key, dns.HmacSHA256, 300, time.Now().Unix())
		c := &dns.Client{Net: "tcp", TsigSecret: map[string]string{key: secret}}
		answer, _, err := c.Exchange(m, server)
		if answer == nil {
			return nil, err
		}
		return answer, nil // a refusal is not signed, which the client takes for an error
	}
	for _, tc := range []struct {
		name, key, secret string
		qtype             uint16
		rcode             int
	}{
		{"transfer", "transfer.", transferSecret, dns.TypeAXFR, dns.RcodeSuccess},
		{"serial", "transfer.", transferSecret, dns.TypeSOA, dns.RcodeSuccess},
		{"query", "transfer.", transferSecret, dns.TypeA, dns.RcodeRefused},
		{"wrong secret", "transfer.", "AAAA", dns.TypeAXFR, dns.RcodeNotAuth},
		{"unknown key", "other.", transferSecret, dns.TypeAXFR, dns.RcodeNotAuth},
	} {
		answer, err := signed(tc.qtype, tc.key, tc.secret)
		if err != nil || answer.Rcode != tc.rcode {
			t.Errorf("%s: %v, %v, want %s", tc.name, answer, err, dns.RcodeToString[tc.rcode])
		} else if tc.rcode == dns.RcodeSuccess && len(answer.Answer) == 0 {
			t.Errorf("%s: nothing transferred", tc.name)
		}
	}
	mustAsk(t, "udp", shared, "www.example.org.", dns.TypeA, dns.RcodeSuccess)
	m := new(dns.Msg).SetIxfr("example.org.", 1, "ns.", "admin.")
	m.SetEdns0(1232, true)
	m.SetTsig("transfer.", dns.HmacSHA256, 300, time.Now().Unix())
	answer, _, err := (&dns.Client{TsigSecret: map[string]string{"transfer.": transferSecret}}).Exchange(m, server)
	if err != nil || len(answer.Answer) != 1 || answer.Answer[0].Header().Rrtype != dns.TypeSOA || len(answer.Ns) > 0 ||
		answer.Question[0].Qtype != dns.TypeIXFR || answer.IsTsig() == nil {
		t.Errorf("IXFR by UDP: %v, %v, want the SOA alone (RFC 1995 2)", answer, err)
	}
}

func TestTransferOnlyBlockTakesClientCertificate(t *testing.T) {
	port := freePort(t)
	cert, key := certificate(t)
	start(t, fmt.Sprintf(`example.org:%[1]s {
		sharedunicast 127.0.53.1 {
			admin 127.0.0.1
		}
		file %[2]s
	}
	tls://example.org:%[1]s {
		tls %[3]s %[4]s %[3]s
		bind 127.0.0.1
		file %[2]s
		transfer {
			to *
		}
	}`, port, zoneFile(t), cert, key))
	for _, tc := range []struct {
		keyFile string
		rcode   int
	}{{key, dns.RcodeSuccess}, {"", dns.RcodeRefused}} {
		c := &dns.Client{Net: "tcp-tls", TLSConfig: clientTLS(t, cert, tc.keyFile)}
		answer, _, err := c.Exchange(new(dns.Msg).SetQuestion("example.org.", dns.TypeAXFR), "127.0.0.1:"+port)
		if err != nil || answer.Rcode != tc.rcode {
			t.Errorf("client key %q: %v, %v", tc.keyFile, answer, err)
		}
	}
}

// Whatever bytes come, over UDP or TCP, the server goes on answering.
func TestGarbageDoesNoHarm(t *testing.T) {
	port := freePort(t)
	server := "127.0.53.1:" + port
	start(t, fmt.Sprintf("example.org:%s {\n sharedunicast 127.0.53.1\n file %s\n}", port, zoneFile(t)))

	valid, err := new(dns.Msg).SetQuestion("www.example.org.", dns.TypeA).Pack()
	if err != nil {
		t.Fatal(err)
	}
	random := rand.New(rand.NewPCG(3258, 4786))
	udp, err := net.Dial("udp", server)
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	for i := range 2000 {
		b := append([]byte(nil), valid...)
		if i%2 == 0 {
			b = make([]byte, random.IntN(600))
		}
		for range 1 + random.IntN(8) {
			if len(b) > 0 {
				b[random.IntN(len(b))] = byte(random.Uint32())
			}
		}
		udp.Write(b[:len(b)-random.IntN(1+len(b)/4)])
		if i%50 == 0 {
			if tcp, err := net.Dial("tcp", server); err == nil {
				tcp.Write(b)
				tcp.Close()
			}
		}
	}
	for _, network := range []string{"udp", "tcp"} {
		m, err := ask(network, server, "www.example.org.", dns.TypeA)
		for range 3 {
			if err != nil { // the garbage may still fill the socket's buffer
				m, err = ask(network, server, "www.example.org.", dns.TypeA)
			}
		}
		if err != nil || len(m.Answer) != 1 {
			t.Errorf("after the garbage, over %s: %v, %v", network, m, err)
		}
	}
	// A question that ends in the middle of a label.
	short, _ := net.Dial("udp", server)
	defer short.Close()
	short.Write([]byte{0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 63, 'w'})
	short.SetReadDeadline(time.Now().Add(3 * time.Second))
	b := make([]byte, 512)
	if n, err := short.Read(b); err != nil || n < headerSize || b[3]&0xf != dns.RcodeFormatError {
		t.Errorf("to a truncated query: %x, %v, want FORMERR", b[:n], err)
	}
}

// RFC 8945 5.2: a signature that is not good gets NOTAUTH, with the reason, and signed only if just the time was wrong; on the
// shared address as on the administrative one.
func TestBadSignatures(t *testing.T) {
	port := freePort(t)
	start(t, fmt.Sprintf(`example.org:%[1]s {
		sharedunicast 127.0.53.1 {
			admin 127.0.53.2
		}
		file %[2]s
		tsig {
			secret transfer. %[3]s
		}
	}
	example.org:%[1]s {
		bind 127.0.53.2
		file %[2]s
		tsig {
			secret transfer. %[3]s
		}
		transfer {
			to *
		}
	}`, port, zoneFile(t), transferSecret))
	for _, c := range []struct {
		name, key, secret string
		age               int64
		reason            uint16
		signed            bool
	}{
		{"unknown key", "other.", transferSecret, 0, dns.RcodeBadKey, false},
		{"wrong secret", "transfer.", "AAAA", 0, dns.RcodeBadSig, false},
		{"old", "transfer.", transferSecret, 3600, dns.RcodeBadTime, true},
	} {
		for _, server := range []string{"127.0.53.1:" + port, "127.0.53.2:" + port} {
			for _, network := range []string{"udp", "tcp"} {
				m := new(dns.Msg).SetQuestion("example.org.", dns.TypeSOA).SetEdns0(1232, false)
				m.SetTsig(c.key, dns.HmacSHA256, 300, time.Now().Unix()-c.age)
				wire, _, err := dns.TsigGenerate(m, c.secret, "", false)
				if err != nil {
					t.Fatal(err)
				}
				conn, err := dns.Dial(network, server)
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				conn.SetDeadline(time.Now().Add(5 * time.Second))
				conn.UDPSize = 4096
				if _, err := conn.Write(wire); err != nil {
					t.Fatal(err)
				}
				said, err := conn.ReadMsgHeader(nil)
				answer := new(dns.Msg)
				if err != nil || answer.Unpack(said) != nil {
					t.Fatalf("%s, %s over %s: %x, %v", c.name, server, network, said, err)
				}
				signature := answer.IsTsig()
				if answer.Rcode != dns.RcodeNotAuth || signature == nil || signature.Error != c.reason || (signature.MACSize > 0) != c.signed || len(answer.Answer) > 0 {
					t.Errorf("%s, %s over %s: %v", c.name, server, network, answer)
				}
			}
		}
	}
}

// An answer to IXFR that is the SOA alone has AA, as those of peers have.
func TestCurrentSecondaryIsToldWithAuthority(t *testing.T) {
	_, server := startTransfers(t)
	m := new(dns.Msg).SetIxfr("example.org.", 7, "ns.", "admin.")
	m.SetTsig("transfer.", dns.HmacSHA256, 300, time.Now().Unix())
	for _, network := range []string{"udp", "tcp"} {
		answer, _, err := (&dns.Client{Net: network, TsigSecret: map[string]string{"transfer.": transferSecret}}).Exchange(m.Copy(), server)
		if err != nil || len(answer.Answer) != 1 || !answer.Authoritative {
			t.Errorf("%s: %v, %v", network, answer, err)
		}
	}
}

// Options that the dns package cannot unpack are no reason not to answer.
func TestEmptyOptionsAreAnswered(t *testing.T) {
	port := freePort(t)
	start(t, fmt.Sprintf("example.org:%s {\n sharedunicast 127.0.53.1\n file %s\n chaos v\n}", port, zoneFile(t)))
	for code := range uint16(30) {
		if code == dns.EDNS0COOKIE {
			continue // RFC 7873 5.2.2 has FORMERR for that
		}
		for _, data := range [][]byte{nil, {1}, {1, 2, 3}} {
			m := new(dns.Msg).SetQuestion("www.example.org.", dns.TypeA).SetEdns0(1232, false)
			m.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_LOCAL{Code: code, Data: data}}
			if answer, err := exchange("udp", "127.0.53.1:"+port, m); err != nil || answer.Rcode != dns.RcodeSuccess || len(answer.Answer) != 1 {
				t.Errorf("option %d of %d octets: %v, %v", code, len(data), answer, err)
			}
		}
	}
}

// A header that promises a question it does not have is a format error over both transports (RFC 1035 4.1.1).
func TestQuestionThatIsMissing(t *testing.T) {
	port := freePort(t)
	server := "127.0.53.1:" + port
	start(t, fmt.Sprintf("example.org:%s {\n sharedunicast 127.0.53.1\n file %s\n}", port, zoneFile(t)))
	header := []byte{0x12, 0x34, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0}
	for _, network := range []string{"udp", "tcp"} {
		conn, err := net.Dial(network, server)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(5 * time.Second))
		d := &dns.Conn{Conn: conn}
		if _, err := d.Write(header); err != nil {
			t.Fatal(err)
		}
		m, err := d.ReadMsg()
		if err != nil || m.Rcode != dns.RcodeFormatError || m.Id != 0x1234 {
			t.Errorf("over %s: %v, %v", network, m, err)
		}
	}
}

// A response advertises the server's payload size, not the client's (RFC 6891 6.2.3); unknown options and padding do no
// harm (6.1.2) and do not come back; other versions are refused by BADVERS (6.1.3).
func TestEDNS(t *testing.T) {
	port := freePort(t)
	server := "127.0.53.1:" + port
	start(t, fmt.Sprintf("example.org:%s {\n sharedunicast 127.0.53.1\n file %s\n}", port, zoneFile(t)))
	for _, network := range []string{"udp", "tcp"} {
		for _, c := range []struct {
			name    string
			size    uint16
			version uint8
			padding int
			rcode   int
		}{
			{"large", 4096, 0, 0, dns.RcodeSuccess},
			{"tiny", 0, 0, 0, dns.RcodeSuccess},
			{"padded beyond 512 octets", 1232, 0, 900, dns.RcodeSuccess},
			{"version 1", 1232, 1, 0, dns.RcodeBadVers},
		} {
			q := new(dns.Msg).SetQuestion("www.example.org.", dns.TypeA)
			q.SetEdns0(c.size, true)
			opt := q.IsEdns0()
			opt.SetVersion(c.version)
			opt.Option = []dns.EDNS0{&dns.EDNS0_LOCAL{Code: 65001, Data: []byte("x")}, &dns.EDNS0_PADDING{Padding: make([]byte, c.padding)}}
			m, _, err := (&dns.Client{Net: network, Timeout: 5 * time.Second}).Exchange(q, server)
			if err != nil {
				t.Errorf("%s, %s: %v", network, c.name, err)
				continue
			}
			got := m.IsEdns0()
			if m.Rcode != c.rcode || got == nil || got.UDPSize() != query.PayloadSize || got.Version() != 0 || len(got.Option) > 0 {
				t.Errorf("%s, %s: %v", network, c.name, m)
			}
			if c.rcode == dns.RcodeSuccess && (len(m.Answer) != 1 || !got.Do()) {
				t.Errorf("%s, %s: %v", network, c.name, m)
			}
		}
	}
}
