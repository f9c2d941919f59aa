package paths

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/lab"
	"github.com/coredns-anycast/coredns-anycast/internal/query"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
)

// messages is how many are made up for each comparison; FUZZ_MESSAGES=1000000 by hand.
func messages(t *testing.T) int {
	if n, err := strconv.Atoi(os.Getenv("FUZZ_MESSAGES")); err == nil {
		return n
	}
	if testing.Short() {
		return 2000
	}
	return 10000
}

// The fast path and the chain give the same answers to whatever comes, by UDP and by TCP, whatever is on beside answering.
func TestBothPathsAgree(t *testing.T) {
	t.Run("as it is", func(t *testing.T) { bothPathsAgree(t, "", "") })
	secrets := filepath.Join(t.TempDir(), "secrets")
	lab.Must(t, os.WriteFile(secrets, []byte("00112233445566778899aabbccddeeff\n"), 0o600))
	t.Run("with all options", func(t *testing.T) {
		bothPathsAgree(t, "rrl 100000 slip 1\n cookies "+secrets+"\n report_channel agent.example\n", "")
	})
	t.Run("without any", func(t *testing.T) { bothPathsAgree(t, "ede off\n zoneversion off\n", "") })
	t.Run("with a plugin that sees responses", func(t *testing.T) { bothPathsAgree(t, "", fmt.Sprintf("prometheus 127.0.0.1:%d\n", port(t))) })
}

func bothPathsAgree(t *testing.T, properties, more string) {
	m := newMesh(t)
	w := bigWorld(t, m)
	p := port(t)
	plugins := more + "nsid tyo1\n bufsize 1232\n errors\n chaos v tyo1\n"
	start(t, fmt.Sprintf(".:%d {\n sharedunicast 127.0.0.1 {\n %s }\n %s %s }\n.:%d {\n sharedunicast 127.0.0.2 {\n fastpath off\n %s }\n %s %s }\n",
		p, properties, plugins, m.block(), p, properties, plugins, m.block()))
	fast, chain := fmt.Sprintf("127.0.0.1:%d", p), fmt.Sprintf("127.0.0.2:%d", p)
	lab.Eventually(t, func() error { return hasSOA(fast) })
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	explained := 0
	whole := newAsker(t, "tcp", chain)
	length := func(b []byte) int {
		full := new(dns.Msg)
		lab.Must(t, full.Unpack(whole.ask([][]byte{b})[0]))
		full.Compress = true
		return full.Len()
	}
	for _, network := range []string{"udp", "tcp"} {
		one, other := newAsker(t, network, fast), newAsker(t, network, chain)
		for n := 0; n < messages(t); n += batch {
			var sent [][]byte
			for i := range batch {
				b := w.message(r)
				if len(b) >= 2 {
					binary.BigEndian.PutUint16(b, uint16(i))
				}
				if network == "tcp" && !isAnswered(b) {
					continue // it ends the connection, on both paths: TestGarbageDoesNoHarm
				}
				sent = append(sent, b)
			}
			a, b := one.ask(sent), other.ask(sent)
			for i := range sent {
				why, ok := compare(network, sent[i], a[i], b[i], length)
				if !ok {
					t.Fatalf("over %s, to %x\n%s\nby the fast path: %s\nby the chain: %s", network, sent[i], why, show(a[i]), show(b[i]))
				}
				if why != "" {
					explained++
				}
			}
		}
	}
	t.Logf("%d differences are explained", explained)
}

// isAnswered says which messages have to be answered: all but responses and what is shorter than a header.
func isAnswered(b []byte) bool { return len(b) >= 12 && b[2]&0x80 == 0 }

func show(b []byte) string {
	m := new(dns.Msg)
	if err := m.Unpack(b); err != nil {
		return fmt.Sprintf("%x: %v", b, err)
	}
	return fmt.Sprintf("%d octets\n%v", len(b), m)
}

// compare says whether two responses to a message are the same, but for how names are compressed and for the case of
// names, which compression may change; and why, if a difference is explained. Length is how long the chain takes the whole
// response to a message to be.
func compare(network string, message, fast, chain []byte, length func([]byte) int) (why string, ok bool) {
	if bytes.Equal(fast, chain) {
		return "", true
	}
	if fast == nil || chain == nil {
		return "one of them says nothing", false
	}
	a, b := new(dns.Msg), new(dns.Msg)
	if err := a.Unpack(fast); err != nil {
		return err.Error(), false
	}
	if err := b.Unpack(chain); err != nil {
		return err.Error(), false
	}
	headA, headB := a.MsgHdr, b.MsgHdr
	headA.Truncated, headB.Truncated = false, false
	switch {
	case headA != headB:
		return "headers", false
	case !slices.Equal(a.Question, b.Question):
		return "questions", false
	}
	sections := [][2][]dns.RR{{a.Answer, b.Answer}, {a.Ns, b.Ns}, {a.Extra, b.Extra}}
	same, prefix := a.Truncated == b.Truncated, true
	for _, s := range sections {
		one, other := split(s[0]), split(s[1])
		if one.opt != other.opt {
			return "EDNS", false
		}
		same = same && slices.EqualFunc(one.rrs, other.rrs, equal)
		prefix = prefix && len(other.rrs) <= len(one.rrs) && slices.EqualFunc(one.rrs[:len(other.rrs)], other.rrs, equal)
	}
	if same {
		return "", true
	}
	// The chain goes by dns.Msg.Len, which is some octets too many at times, and takes names that differ in case for
	// different ones. So it has fewer RRsets in a response that does not fit by that.
	var q query.Query
	q.Parse(message)
	if limit := min(int(q.Payload), query.PayloadSize); network == "udp" && prefix && length(message) > limit {
		return "the chain takes it for longer than it is", true
	}
	return "sections", false
}

// section is the records of a section, and the OPT record for itself.
type section struct {
	rrs []dns.RR
	opt string
}

// serverCookie is what changes from second to second.
var serverCookie = regexp.MustCompile("(COOKIE: [0-9a-f]{16})[0-9a-f]{32}")

func split(rrs []dns.RR) (s section) {
	for _, rr := range rrs {
		if rr.Header().Rrtype == dns.TypeOPT {
			s.opt += serverCookie.ReplaceAllString(rr.String(), "$1, and a server's")
		} else {
			s.rrs = append(s.rrs, rr)
		}
	}
	return s
}

func equal(a, b dns.RR) bool {
	if a.String() == b.String() {
		return true
	}
	switch a.Header().Rrtype {
	case dns.TypeNS, dns.TypeCNAME, dns.TypeSOA, dns.TypeMX, dns.TypePTR:
		return strings.EqualFold(a.String(), b.String())
	}
	c, d := dns.Copy(a), dns.Copy(b)
	c.Header().Name, d.Header().Name = strings.ToLower(c.Header().Name), strings.ToLower(d.Header().Name)
	return c.String() == d.String()
}

// batch is how many messages are asked at a time.
const batch = 200

// asker asks a server.
type asker struct {
	t       *testing.T
	network string
	address string
	conn    net.Conn
}

func newAsker(t *testing.T, network, address string) *asker {
	conn, err := net.Dial(network, address)
	lab.Must(t, err)
	t.Cleanup(func() { conn.Close() })
	return &asker{t, network, address, conn}
}

// ask sends messages, the number of each as its ID, and returns the responses.
func (a *asker) ask(sent [][]byte) [][]byte {
	a.t.Helper()
	said := make([][]byte, len(sent))
	at := map[uint16]int{}
	for i, b := range sent {
		if isAnswered(b) {
			at[binary.BigEndian.Uint16(b)] = i
		}
	}
	missing := len(at)
	send := func() {
		for i, b := range sent {
			if said[i] == nil {
				lab.Must(a.t, writeMessage(a.network, a.conn, b))
			}
		}
	}
	send()
	again := time.Now().Add(2 * time.Second)
	buffer := make([]byte, 65537)
	c := dns.Conn{Conn: a.conn, UDPSize: 65535}
	for deadline := time.Now().Add(20 * time.Second); missing > 0; {
		a.conn.SetReadDeadline(time.Now().Add(500 * time.Millisecond))
		n, err := c.Read(buffer)
		switch {
		case err == nil && n < 12:
			a.t.Fatalf("%s said %x", a.address, buffer[:n])
		case err == nil:
			i, asked := at[binary.BigEndian.Uint16(buffer)]
			if !asked {
				a.t.Fatalf("%s answers what was not asked: %x", a.address, buffer[:n])
			}
			if said[i] == nil {
				said[i] = bytes.Clone(buffer[:n])
				missing--
			}
		case time.Now().After(deadline):
			for id, i := range at {
				if said[i] == nil {
					a.t.Fatalf("%s does not answer %d: %x: %v", a.address, id, sent[i], err)
				}
			}
		case a.network == "udp" && time.Now().After(again):
			again = time.Now().Add(2 * time.Second) // the kernel may have had no room for them
			send()
		}
	}
	return said
}

func writeMessage(network string, conn net.Conn, b []byte) error {
	if network == "tcp" {
		b = append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...)
	}
	_, err := conn.Write(b)
	return err
}

// world is what questions are made of.
type world struct {
	names []string
	types []uint16
	zones map[string]string // their text by origin
}

// bigWorld publishes zones that have all that an answer can be made of.
func bigWorld(t *testing.T, m *mesh) *world {
	t.Helper()
	large := ""
	for i := range 12 {
		large += fmt.Sprintf("large 60 IN TXT \"%d%s\"\n", i, strings.Repeat("x", 20*i))
		large += fmt.Sprintf("many 60 IN A 192.0.2.%d\nmany 60 IN MX %d mx%d\nmx%d 60 IN A 192.0.2.%d\nmx%d 60 IN AAAA 2001:db8::%d\n", i, i, i, i, i, i, i)
		large += fmt.Sprintf("glue 60 IN NS ns%d.glue\nns%d.glue 60 IN A 192.0.2.%d\nns%d.glue 60 IN AAAA 2001:db8::%d\n", i, i, i, i, i)
	}
	text := `$ORIGIN example.org.
@      3600 IN SOA ns host 7 3600 600 864000 60
@      3600 IN NS  ns
@      3600 IN NS  NS2.Example.org.
@      3600 IN MX  10 mail.Example.ORG.
@      3600 IN TXT "apex"
ns     3600 IN A   192.0.2.53
NS2    3600 IN AAAA 2001:db8::53
mail   3600 IN A   192.0.2.25
www    3600 IN A   192.0.2.80
www    3600 IN AAAA 2001:db8::80
*.wild 300  IN A   192.0.2.99
*.wild 300  IN MX  10 Mail
a.b.c  60   IN TXT "below empty non-terminals"
alias  60   IN CNAME www
alias2 60   IN CNAME alias
outside 60  IN CNAME www.example.net.
gone   60   IN CNAME nothing
loop   60   IN CNAME loop2
loop2  60   IN CNAME loop
dname  60   IN DNAME target
x.target 60 IN A 192.0.2.7
srv    60   IN SRV 1 2 53 ns
svcb   60   IN HTTPS 1 . alpn=h2
sub    3600 IN NS  ns.sub
sub    3600 IN NS  ns.example.net.
ns.sub 3600 IN A   192.0.2.81
sub    3600 IN DS  1 13 2 e2d3c916f6deeac73294e8268fb5885044a833fc5459588f4a9184cfc41a5766
` + large
	net := `$ORIGIN example.net.
@      3600 IN SOA ns host 9 3600 600 864000 60
@      3600 IN NS  ns
ns     3600 IN A   192.0.2.54
www    3600 IN A   192.0.2.90
`
	child := "$ORIGIN child.example.net.\n@ 60 IN SOA ns.example.net. host 1 3600 600 864000 60\n@ 60 IN NS ns.example.net.\n"
	texts := map[string]string{"example.org.": text, "example.net.": net, "child.example.net.": child}
	for origin, options := range map[string][]string{"nsec.test.": nil, "nsec3.test.": {"-n", "-p", "-t", "0"}} {
		texts[origin] = signed(t, origin, strings.ReplaceAll(text, "example.org.", origin), options...)
	}
	var zones []release.Zone
	for origin, text := range texts {
		zones = append(zones, m.zone(origin, text))
	}
	m.current(1, zones...)
	w := &world{zones: texts, types: []uint16{dns.TypeA, dns.TypeAAAA, dns.TypeNS, dns.TypeMX, dns.TypeTXT, dns.TypeSOA, dns.TypeCNAME, dns.TypeDS,
		dns.TypeANY, dns.TypeSRV, dns.TypeHTTPS, dns.TypeRRSIG, dns.TypeNSEC, dns.TypeDNSKEY, dns.TypeAXFR, dns.TypeIXFR, dns.TypeOPT, dns.TypeMAILB, 65280, 0}}
	for _, n := range strings.Fields(`. org. example.org. ns ns2 mail www wild x.wild x.y.wild c b.c a.b.c x.c alias alias2 outside gone loop
		dname x.dname y.dname srv svcb sub x.sub ns.sub large many glue x.glue mx1 nothing x.nothing id.server. version.bind. hostname.bind.
		example.net. www.example.net. child.example.net. x.child.example.net. nothing.example.net. example.com. www.example.com.`) {
		if !strings.HasSuffix(n, ".") {
			w.names = append(w.names, n+".nsec.test.", n+".nsec3.test.")
			n += ".example.org."
		}
		w.names = append(w.names, n)
	}
	w.names = append(w.names, "nsec.test.", "nsec3.test.")
	return w
}

// signed has a zone signed.
func signed(t *testing.T, origin, text string, options ...string) string {
	t.Helper()
	testenv.Need(t, "ldns-keygen", "ldns-signzone")
	dir := t.TempDir()
	lab.Must(t, os.WriteFile(filepath.Join(dir, "zone"), []byte(text), 0o644))
	run := func(name string, args ...string) string {
		cmd := exec.Command(name, args...)
		cmd.Dir = dir
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%s: %v\n%s", name, err, stderr.String())
		}
		return strings.TrimSpace(string(out))
	}
	key := run("ldns-keygen", "-a", "ECDSAP256SHA256", "-k", origin)
	run("ldns-signzone", append(options, "-o", origin, "-f", "signed", "zone", key)...)
	out, err := os.ReadFile(filepath.Join(dir, "signed"))
	lab.Must(t, err)
	return string(out)
}

// message makes up a message. Most are queries that somebody could ask; some are damaged.
func (w *world) message(r *rand.Rand) []byte {
	name := w.names[r.IntN(len(w.names))]
	if r.IntN(4) == 0 {
		name = mixCase(r, name)
	}
	m := new(dns.Msg).SetQuestion(name, w.types[r.IntN(len(w.types))])
	m.RecursionDesired = r.IntN(2) == 0
	if r.IntN(20) == 0 {
		m.Question[0].Qclass = []uint16{dns.ClassCHAOS, dns.ClassANY, dns.ClassNONE, 7}[r.IntN(4)]
	}
	if r.IntN(3) > 0 {
		m.SetEdns0([]uint16{0, 100, 512, 600, 700, 900, 1232, 1400, 4096, 65535}[r.IntN(10)], r.IntN(2) == 0)
		opt := m.IsEdns0()
		for range r.IntN(3) {
			opt.Option = append(opt.Option, option(r))
		}
		if r.IntN(20) == 0 {
			opt.SetVersion(uint8(r.IntN(3)))
		}
		if r.IntN(20) == 0 {
			m.Extra = append(m.Extra, opt)
		}
	}
	b, err := m.Pack()
	if err != nil {
		return nil
	}
	if r.IntN(4) == 0 {
		b = damage(r, b)
	}
	return b
}

func mixCase(r *rand.Rand, name string) string {
	b := []byte(name)
	for i := range b {
		if r.IntN(2) == 0 {
			b[i] = strings.ToUpper(string(b[i]))[0]
		}
	}
	return string(b)
}

func option(r *rand.Rand) dns.EDNS0 {
	switch r.IntN(8) {
	case 0, 1:
		return &dns.EDNS0_NSID{Code: dns.EDNS0NSID}
	case 2:
		return &dns.EDNS0_LOCAL{Code: dns.EDNS0ZONEVERSION}
	case 3:
		return &dns.EDNS0_LOCAL{Code: dns.EDNS0COOKIE, Data: []byte("client's")}
	case 4:
		return &dns.EDNS0_LOCAL{Code: dns.EDNS0COOKIE, Data: []byte("client's\x01\x00\x00\x00and a server's")[:24]}
	}
	data := make([]byte, r.IntN(12))
	for i := range data {
		data[i] = byte(r.Uint32())
	}
	return &dns.EDNS0_LOCAL{Code: uint16(r.IntN(21)), Data: data}
}

// damage changes a message as a line or an attacker could.
func damage(r *rand.Rand, b []byte) []byte {
	switch r.IntN(5) {
	case 0:
		return b[:r.IntN(len(b)+1)]
	case 1:
		return append(b, make([]byte, 1+r.IntN(20))...)
	case 2:
		binary.BigEndian.PutUint16(b[4+2*r.IntN(4):], uint16(r.IntN(4)))
	case 3:
		b[2+r.IntN(2)] ^= 1 << r.IntN(8)
	default:
		for range 1 + r.IntN(3) {
			b[r.IntN(len(b))] = byte(r.Uint32())
		}
	}
	return b
}
