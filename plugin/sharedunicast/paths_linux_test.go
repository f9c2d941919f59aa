package sharedunicast

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	mathrand "math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/coredns/caddy"
	"github.com/coredns/coredns/plugin/metrics/vars"
	"github.com/miekg/dns"
	dto "github.com/prometheus/client_model/go"
	"golang.org/x/sys/unix"

	"github.com/coredns-anycast/coredns-anycast/internal/depot"
	"github.com/coredns-anycast/coredns-anycast/internal/lab"
	"github.com/coredns-anycast/coredns-anycast/internal/lab/publish"
	"github.com/coredns-anycast/coredns-anycast/internal/query"
	"github.com/coredns-anycast/coredns-anycast/internal/rdata"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
	"github.com/coredns-anycast/coredns-anycast/internal/zone"
	"github.com/coredns-anycast/coredns-anycast/internal/zonefile"
	"github.com/coredns-anycast/coredns-anycast/test/zonegen"
)

// differentialSeed is that of `go run ./test/differential`.
const differentialSeed = 2026

// Both paths say the same, over zones as test/differential has them, signed in all ways, to queries about these and to damaged
// messages, by UDP and TCP, with rate limiting and cookies on and off. The messages are given to the loops that read the
// sockets, without the sockets, so that both see each at the same instant: then both limit the same responses, or differ in what
// they count them for. FULL=1 takes all zones that test/differential has without arguments, and a million messages.
func TestPathsAgreeOverAllZones(t *testing.T) {
	testenv.Need(t, "dnssec-keygen", "dnssec-signzone")
	batches, count, messages := 1, 12, 4000
	if testing.Short() {
		messages = 1000
	}
	if os.Getenv("FULL") == "1" {
		batches, count, messages = 10, 50, 25000
	}
	total := map[string]int{}
	for _, flavour := range zonegen.Flavours {
		for i := range batches {
			seed := uint64(differentialSeed*1000003 + i)
			t.Run(fmt.Sprintf("%s-%d", flavour, i), func(t *testing.T) {
				zones := loadZones(t, zonegen.Generate(seed, flavour, count))
				for what, n := range comparePaths(t, zones, seed, messages) {
					total[what] += n
				}
			})
		}
	}
	t.Logf("%v", total)
	for _, what := range []string{"messages", "answered", "dropped", "slipped", "BADCOOKIE", "by the loop of connections"} {
		if total[what] == 0 && !t.Failed() {
			t.Errorf("of all messages none was %s", what)
		}
	}
}

// loadZones signs zones.
func loadZones(t *testing.T, sources []zonegen.Source) (zones []*zonegen.Zone) {
	t.Helper()
	dir := t.TempDir()
	for i := range sources {
		z, err := sources[i].Load(dir, i)
		lab.Must(t, err)
		zones = append(zones, z)
	}
	return zones
}

// publishZones makes a mesh whose first release has the zones, and returns the properties of meshsync that follow it.
func publishZones(t *testing.T, zones []*zonegen.Zone) string {
	t.Helper()
	dir := t.TempDir()
	keys, err := release.GenerateKeys(rand.Reader)
	lab.Must(t, err)
	repo, err := depot.Create(filepath.Join(dir, "repository"))
	lab.Must(t, err)
	m := release.Manifest{Format: release.ManifestFormat, Mesh: "paths", EpsilonMS: release.DefaultEpsilonMS,
		Current: &release.Release{Number: 1, Switchover: time.Now().Add(-time.Hour).UTC().Truncate(time.Microsecond)}}
	for _, z := range zones {
		var text bytes.Buffer
		lab.Must(t, zonefile.Write(&text, z.Image))
		c, err := repo.PutBlob(func(w io.Writer) error { _, err := w.Write(text.Bytes()); return err })
		lab.Must(t, err)
		m.Current.Zones = append(m.Current.Zones, release.Zone{Origin: z.Image.Origin(), Serial: z.Image.Serial(), SHA256: c.SHA256, Length: c.Length, Blob: c.Blob})
	}
	slices.SortFunc(m.Current.Zones, func(a, b release.Zone) int { return strings.Compare(a.Origin, b.Origin) })
	day := time.Now().Add(24 * time.Hour)
	files, mem, err := release.Init(m, keys.Signers(), release.Expiries{Root: day, Targets: day, Snapshot: day, Timestamp: day})
	lab.Must(t, err)
	lab.Must(t, publish.Files(repo, files))
	lab.Must(t, os.WriteFile(filepath.Join(dir, "root.json"), mem.Root, 0o644))
	lab.Must(t, os.Mkdir(filepath.Join(dir, "node"), 0o755))
	return fmt.Sprintf("meshsync %s/node {\n repository %s/repository\n root %s/root.json\n clock assume 1ms\n status unix://%s/s.sock\n node tyo1\n}\n", dir, dir, dir, dir)
}

// pathSecrets are those of the cookies, the one in use and the one before.
var pathSecrets = query.Secrets{{1, 2, 3}, {4, 5, 6}}

// comparePaths compares both paths in pairs of servers: without and with rate limiting and cookies, and with cookies that
// are required; with a plugin that looks at responses, and without, so that the chain's answers are in wire format. It returns how many
// messages fared how.
func comparePaths(t *testing.T, zones []*zonegen.Zone, seed uint64, messages int) map[string]int {
	secrets := filepath.Join(t.TempDir(), "secrets")
	lab.Must(t, os.WriteFile(secrets, fmt.Appendf(nil, "%x\n%x\n", pathSecrets[0], pathSecrets[1]), 0o600))
	const limits = "rrl 1 slip 2\n rrl_allow 198.51.100.0/24 2001:db8:1::/48\n report_channel agent.example\n"
	port, block, corefile := freePort(t), publishZones(t, zones), ""
	properties := []string{"", limits + "cookies " + secrets + "\n", limits + "cookies " + secrets + " require\n"}
	const pairs = 6
	for i := range pairs {
		for j, path := range []string{"on", "off"} {
			look := ""
			if i < pairs/2 && path == "off" {
				look = "testsee\n"
			}
			corefile += fmt.Sprintf(".:%s {\n sharedunicast 127.0.53.%d {\n fastpath %s\n %s }\n %s nsid tyo1\n bufsize 1232\n errors\n chaos v tyo1\n %s }\n", port, 10*i+j+1, path, properties[i%3], look, block)
		}
	}
	start(t, corefile)
	all := caddy.Instances()
	in := all[len(all)-1].Storage[instanceKey{}].(*instance)
	lab.Eventually(t, func() error {
		for _, s := range in.servers {
			if s.front.silent() {
				return fmt.Errorf("%s is silent", s.Address())
			}
		}
		return nil
	})
	counts, panics := map[string]int{}, panicsSoFar(t)
	for i := range pairs {
		c := newPathComparison(t, in.servers[2*i], in.servers[2*i+1], zones, mathrand.New(mathrand.NewPCG(seed, uint64(i))))
		c.limited = i%3 > 0
		for range messages * []int{3, 5, 2}[i%3] / 20 {
			c.one(counts)
		}
		counts["by the loop of connections"] += c.fast.looped
	}
	if n := panicsSoFar(t); n > panics {
		t.Errorf("%v panics", n-panics)
	}
	return counts
}

func panicsSoFar(t *testing.T) float64 {
	var m dto.Metric
	lab.Must(t, vars.Panic.Write(&m))
	return m.Counter.GetValue()
}

// pathComparison gives messages to two servers, of which one takes the fast path.
type pathComparison struct {
	*mathrand.Rand
	t           *testing.T
	fast, chain *pathServer
	zones       []*zonegen.Zone
	recent      [][]byte // messages that may be repeated
	now         time.Time
	limited     bool
}

func newPathComparison(t *testing.T, fast, chain *server, zones []*zonegen.Zone, r *mathrand.Rand) *pathComparison {
	if f, c := fast.front.guard, chain.front.guard; f.limiter != nil {
		// The same table: the same seed and the same beginning.
		c.limiter.seed, c.limiter.mix, c.limiter.began = f.limiter.seed, f.limiter.mix, f.limiter.began
		f.limiter.said.Store(math.MaxInt64) // the log need not hear of it
		c.limiter.said.Store(math.MaxInt64)
	}
	if !fast.front.zones.anyFast() || chain.front.zones.anyFast() {
		t.Fatal("there are not two paths")
	}
	return &pathComparison{Rand: r, t: t, fast: newPathServer(fast), chain: newPathServer(chain), zones: zones, now: time.Now()}
}

// clients ask: several of one prefix, and two that are not limited.
var pathClients = []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("203.0.113.1"),
	netip.MustParseAddr("198.51.100.9"), netip.MustParseAddr("2001:db8:2:300::1"), netip.MustParseAddr("2001:db8:2:3ff::2"), netip.MustParseAddr("2001:db8:1::1")}

// one makes up a message, gives it to both, and compares what they say.
func (c *pathComparison) one(counts map[string]int) {
	c.now = c.now.Add(time.Duration(c.IntN(4000)) * time.Microsecond)
	client := pathClients[c.IntN(len(pathClients))]
	message, stream := c.message(client)
	var a, b []byte
	if stream {
		a, b = c.fast.stream(message, client, c.IntN(2) == 0), c.chain.stream(message, client, false)
	} else {
		a, b = c.fast.datagram(message, client, c.now), c.chain.datagram(message, client, c.now)
	}
	counts["messages"]++
	wanted := len(message) >= query.HeadSize && message[2]&0x80 == 0
	switch {
	case a == nil && b == nil && !wanted:
		counts["ignored"]++
	case a == nil && b == nil && c.limited && !stream:
		counts["dropped"]++
	default:
		why, ok := c.same(message, client, stream, a, b)
		if !ok {
			c.t.Fatalf("to %x of %v (stream: %v): %s\nby the fast path: %s\nby the chain: %s", message, client, stream, why, showMessage(a), showMessage(b))
		}
		if why != "" {
			counts[why]++
		}
		counts["answered"]++
		if a[3]&15 == dns.RcodeBadCookie&15 {
			counts["BADCOOKIE"]++
		}
		if a[2]&2 != 0 && binary.BigEndian.Uint64(a[4:]) == 1<<48|uint64(binary.BigEndian.Uint16(a[10:])) {
			counts["slipped"]++
		}
	}
}

// message makes up a message, and says whether it comes by a connection.
func (c *pathComparison) message(client netip.Addr) (b []byte, stream bool) {
	stream = c.IntN(5) == 0
	if len(c.recent) > 0 && c.IntN(2) == 0 {
		return c.recent[c.IntN(len(c.recent))], stream
	}
	m, _ := c.zones[c.IntN(len(c.zones))].Question(c.Rand)
	if opt := m.IsEdns0(); opt != nil {
		for range c.IntN(3) {
			opt.Option = append(opt.Option, c.option(client))
		}
		if c.IntN(40) == 0 {
			opt.SetVersion(uint8(c.IntN(3)))
		}
		if c.IntN(60) == 0 {
			m.Extra = append(m.Extra, opt)
		}
	}
	b, err := m.Pack()
	lab.Must(c.t, err)
	if c.IntN(6) == 0 {
		b = c.damage(b)
	}
	if c.recent = append(c.recent, b); len(c.recent) > 20 {
		c.recent = c.recent[1:]
	}
	return b, stream
}

// option makes up an EDNS option, of the cookies good ones, old ones, and those of another client or time.
func (c *pathComparison) option(client netip.Addr) dns.EDNS0 {
	switch c.IntN(8) {
	case 0:
		return &dns.EDNS0_NSID{Code: dns.EDNS0NSID}
	case 1:
		return &dns.EDNS0_LOCAL{Code: dns.EDNS0ZONEVERSION}
	case 2:
		return &dns.EDNS0_LOCAL{Code: dns.EDNS0COOKIE, Data: []byte("client's")}
	case 3, 4, 5:
		if c.IntN(4) == 0 {
			client = pathClients[0]
		}
		age := []int{0, 100, 2000, 5000, -100, -1000}[c.IntN(6)]
		q := query.Query{Cookie: []byte("client's")}
		cookie := q.AppendCookie(nil, query.CookieBad, pathSecrets[c.IntN(2):], client, uint32(c.now.Unix()-int64(age)))[4:]
		return &dns.EDNS0_LOCAL{Code: dns.EDNS0COOKIE, Data: cookie}
	}
	data := make([]byte, c.IntN(12))
	for i := range data {
		data[i] = byte(c.Uint32())
	}
	return &dns.EDNS0_LOCAL{Code: uint16(c.IntN(21)), Data: data}
}

// damage changes a message as a line or an attacker could.
func (c *pathComparison) damage(b []byte) []byte {
	switch c.IntN(5) {
	case 0:
		return b[:c.IntN(len(b)+1)]
	case 1:
		return append(b, make([]byte, 1+c.IntN(20))...)
	case 2:
		binary.BigEndian.PutUint16(b[4+2*c.IntN(4):], uint16(c.IntN(4)))
	case 3:
		b[2+c.IntN(2)] ^= 1 << c.IntN(8)
	default:
		for range 1 + c.IntN(3) {
			b[c.IntN(len(b))] = byte(c.Uint32())
		}
	}
	return b
}

// pathServer is a server whose loops get messages from a test.
type pathServer struct {
	*server
	loop    *udpLoop
	streams *streamLoop
	looped  int    // responses of that
	sent    []byte // the last response of the chain
}

func newPathServer(s *server) *pathServer {
	p := &pathServer{server: s, loop: &udpLoop{front: s.front, conn: s.packets[0], address: s.group.address()}}
	// What the loop hands on for the chain waits until the test takes it.
	p.loop.crew = newCrew(s.front, nil)
	p.streams = &streamLoop{server: s, front: s.front, address: s.group.address(), now: time.Now()}
	return p
}

// Write implements dns.Writer.
func (p *pathServer) Write(b []byte) (int, error) {
	p.sent = bytes.Clone(b)
	return len(b), nil
}

// datagram is the response to a message that comes by UDP at an instant, nil if there is none.
func (p *pathServer) datagram(message []byte, client netip.Addr, now time.Time) []byte {
	l := p.loop
	l.fast.asked.now, p.sent = now, nil
	if client.Is4() {
		*(*unix.RawSockaddrInet4)(unsafe.Pointer(&l.names[0])) = unix.RawSockaddrInet4{Family: unix.AF_INET, Port: 1, Addr: client.As4()}
	} else {
		l.names[0] = unix.RawSockaddrInet6{Family: unix.AF_INET6, Port: 1, Addr: client.As16()}
	}
	l.in[0].size = uint32(copy(l.data[0][:], message))
	l.message(0, l.data[0][:l.in[0].size])
	l.handOn()
	if l.pending > 0 {
		p.sent = bytes.Clone(l.space[:l.used])
		l.pending, l.used = 0, 0
	}
	if w := l.crew.next(false); w != nil {
		x := &responder{out: p, local: p.packets[0].local, remote: net.UDPAddrFromAddrPort(w.from), asked: asked{client: w.from.Addr().WithZone(""), now: now}}
		var q query.Query
		p.front.pass(w.data[:w.size], &q, q.Parse(w.data[:w.size]), x)
	}
	return p.sent
}

// stream is the response to a message that comes by TCP, nil if there is none: of the loop, or of a conversation.
func (p *pathServer) stream(message []byte, client netip.Addr, byLoop bool) []byte {
	l := p.streams
	l.fast.asked, l.out = asked{client: client, stream: true, now: l.now}, nil
	if byLoop && l.message(&stream{client: netip.AddrPortFrom(client, 1)}, message) != goesOn {
		if len(l.out) == 0 {
			return nil
		}
		p.looped++
		return l.out[2:]
	}
	c := &conversation{Conn: pathConn{p.packets[0].local, client}, server: p.server}
	c.answer(message)
	if len(c.pending) == 0 {
		return nil
	}
	return c.pending[2:]
}

// pathConn is a connection by which nothing comes.
type pathConn struct {
	local  *net.UDPAddr
	client netip.Addr
}

func (c pathConn) Read([]byte) (int, error)         { return 0, io.EOF }
func (c pathConn) Write(b []byte) (int, error)      { return len(b), nil }
func (c pathConn) Close() error                     { return nil }
func (c pathConn) SetDeadline(time.Time) error      { return nil }
func (c pathConn) SetReadDeadline(time.Time) error  { return nil }
func (c pathConn) SetWriteDeadline(time.Time) error { return nil }
func (c pathConn) LocalAddr() net.Addr {
	return net.TCPAddrFromAddrPort(c.local.AddrPort())
}
func (c pathConn) RemoteAddr() net.Addr {
	return net.TCPAddrFromAddrPort(netip.AddrPortFrom(c.client, 1))
}

// same says whether two responses are the same, but for how names are compressed and for the case that names have thereby; and
// why, if a difference is explained.
func (c *pathComparison) same(message []byte, client netip.Addr, stream bool, fast, chain []byte) (why string, ok bool) {
	if fast == nil || chain == nil {
		return "one of them says nothing", false
	}
	a, err := readMessage(fast, stream)
	if err != nil {
		return "the fast path: " + err.Error(), false
	}
	b, err := readMessage(chain, stream)
	if err != nil {
		return "the chain: " + err.Error(), false
	}
	if a.head != b.head || a.question != b.question || a.opt != b.opt {
		return "header, question or OPT record", false
	}
	if a.truncated == b.truncated && slices.EqualFunc(a.records[:], b.records[:], slices.Equal[[]string]) {
		return "", true
	}
	// The chain goes by dns.Msg.Len, which is some octets too many at times, and takes names that differ in case for
	// different ones. So it has fewer RRsets in a response that does not fit by that.
	for i := range a.records {
		if n := len(b.records[i]); n > len(a.records[i]) || !slices.Equal(a.records[i][:n], b.records[i]) {
			return "records", false
		}
	}
	var q query.Query
	q.Parse(message)
	whole := new(dns.Msg)
	if stream || whole.Unpack(c.chain.stream(message, client, false)) != nil {
		return "records", false
	}
	if whole.Compress = true; whole.Len() <= min(int(q.Payload), query.PayloadSize) {
		return "records", false
	}
	return "the chain takes the response for longer than it is", true
}

// readResponse is a response, taken apart.
type readResponse struct {
	head          [6]byte // without TC and the numbers of records
	truncated     bool
	question, opt string
	records       [3][]string
}

// readMessage takes a response apart, with its names written out and folded where they may be compressed. Cookies by a
// connection are of the second in which they were made.
func readMessage(b []byte, stream bool) (*readResponse, error) {
	if len(b) < query.HeadSize {
		return nil, fmt.Errorf("%d octets", len(b))
	}
	m := &readResponse{head: [6]byte(b), truncated: b[2]&2 != 0}
	m.head[2] &^= 2
	at := query.HeadSize
	for range binary.BigEndian.Uint16(b[4:]) {
		name, next, err := rdata.ExpandName(nil, b, at)
		if err != nil || next+4 > len(b) {
			return nil, fmt.Errorf("the question: %w", err)
		}
		m.question += fmt.Sprintf("%q %x\n", name, b[next:next+4])
		at = next + 4
	}
	for i := range m.records {
		for range binary.BigEndian.Uint16(b[6+2*i:]) {
			owner, next, err := rdata.ExpandName(nil, b, at)
			if err != nil || next+10 > len(b) {
				return nil, fmt.Errorf("a record's owner: %v", err)
			}
			typ, end := binary.BigEndian.Uint16(b[next:]), next+10+int(binary.BigEndian.Uint16(b[next+8:]))
			data, err := rdata.Unpack(typ, b, next+10, end)
			if err != nil {
				return nil, fmt.Errorf("RDATA of type %d: %w", typ, err)
			}
			if at = end; typ == dns.TypeOPT {
				m.opt += fmt.Sprintf("%x %q", b[next:next+8], withoutServerCookie(data, stream))
				continue
			}
			data = zone.Canonical(typ, bytes.Clone(data))
			m.records[i] = append(m.records[i], fmt.Sprintf("%s %x %x", bytes.ToLower(owner), b[next:next+8], data))
		}
	}
	if at != len(b) {
		return nil, fmt.Errorf("%d octets behind the last record", len(b)-at)
	}
	return m, nil
}

// withoutServerCookie is the options of an OPT record, those by a connection without the octets of a server cookie that change from
// second to second.
func withoutServerCookie(options []byte, stream bool) []byte {
	for at := 0; stream && at+4 <= len(options); {
		end := at + 4 + int(binary.BigEndian.Uint16(options[at+2:]))
		if binary.BigEndian.Uint16(options[at:]) == dns.EDNS0COOKIE && end-at == query.CookieOption {
			clear(options[at+12 : end])
		}
		at = end
	}
	return options
}

func showMessage(b []byte) string {
	m := new(dns.Msg)
	if err := m.Unpack(b); err != nil {
		return fmt.Sprintf("%x: %v", b, err)
	}
	return fmt.Sprintf("%d octets, %x\n%v", len(b), b, m)
}
