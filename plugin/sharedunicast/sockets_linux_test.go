package sharedunicast

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/lab"
	"github.com/coredns-anycast/coredns-anycast/internal/testenv"

	"github.com/coredns/caddy"
	"golang.org/x/sys/unix"
)

// kernelSocket is a socket of this process, as the kernel has it.
type kernelSocket struct {
	fd       int
	kind     int // unix.SOCK_STREAM or unix.SOCK_DGRAM
	local    netip.AddrPort
	accepted bool // a connection, and no listening socket
}

func (s kernelSocket) String() string {
	return map[int]string{unix.SOCK_STREAM: "tcp ", unix.SOCK_DGRAM: "udp "}[s.kind] + s.local.String()
}

// kernelSockets returns the sockets of this process that are bound to a port, one descriptor of each: found among the
// process's descriptors, not by asking the code under test.
func kernelSockets(t *testing.T, port string) []kernelSocket {
	t.Helper()
	return slices.DeleteFunc(socketsAt(t, port), func(s kernelSocket) bool { return s.accepted })
}

// connections is how many this process has taken at a port, and not yet closed.
func connections(t *testing.T, port string) int {
	t.Helper()
	return len(slices.DeleteFunc(socketsAt(t, port), func(s kernelSocket) bool { return !s.accepted }))
}

func socketsAt(t *testing.T, port string) []kernelSocket {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	seen := make(map[string]bool) // "socket:[inode]"
	var found []kernelSocket
	for _, e := range entries {
		link, err := os.Readlink("/proc/self/fd/" + e.Name())
		if err != nil || !strings.HasPrefix(link, "socket:") || seen[link] {
			continue
		}
		fd, _ := strconv.Atoi(e.Name())
		s := kernelSocket{fd: fd, local: localAddress(fd)}
		s.kind, _ = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
		listening, _ := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
		if fmt.Sprint(s.local.Port()) == port {
			s.accepted = s.kind == unix.SOCK_STREAM && listening == 0
			seen[link] = true
			found = append(found, s)
		}
	}
	return found
}

// socketsToKeep are kernelSockets by descriptors of the caller's own: those of an instance that was reloaded go when it has drained.
func socketsToKeep(t *testing.T, port string) []kernelSocket {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; {
		var held []kernelSocket
		gone := false
		for _, s := range kernelSockets(t, port) {
			fd, err := unix.FcntlInt(uintptr(s.fd), unix.F_DUPFD_CLOEXEC, 0)
			if err != nil || localAddress(fd) != s.local {
				gone = true
			}
			if err == nil {
				held = append(held, kernelSocket{fd: fd, local: s.local, kind: s.kind})
			}
		}
		if !gone {
			return held
		}
		for _, s := range held {
			unix.Close(s.fd)
		}
		if time.Now().After(deadline) {
			t.Fatal("sockets come and go")
		}
	}
}

func localAddress(fd int) netip.AddrPort {
	sa, err := unix.Getsockname(fd)
	if err != nil {
		return netip.AddrPort{}
	}
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr), uint16(sa.Port))
	}
	return netip.AddrPort{}
}

// ROUTE-3, read back from the kernel, for every socket and for a connection that was accepted; and again after a reload.
func TestEverySocketHasItsOptions(t *testing.T) {
	port := freePort(t)
	corefile := fmt.Sprintf("example.org:%s {\n sharedunicast 127.0.53.1 ::1 192.0.2.53 2001:db8:53::53\n multisocket 2\n testanswer\n}", port)
	reload := start(t, corefile)
	for _, when := range []string{"at start", "after a reload"} {
		found := socketsToKeep(t, port)
		if len(found) != 4*2*2 {
			t.Errorf("%s: %d sockets, want 2 for UDP and 2 for TCP on each of 4 addresses: %v", when, len(found), found)
		}
		for _, s := range found {
			checkOptions(t, s)
			unix.Close(s.fd)
		}
		if err := reload(corefile); err != nil {
			t.Fatal(err)
		}
	}
}

func checkOptions(t *testing.T, s kernelSocket) {
	t.Helper()
	want := func(name string, level, number, value int) {
		t.Helper()
		if got, err := unix.GetsockoptInt(s.fd, level, number); err != nil || got != value {
			t.Errorf("%v: %s is %d, %v; want %d", s, name, got, err, value)
		}
	}
	if s.local.Addr().Is4() {
		want("IP_MTU_DISCOVER", unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_OMIT)
		want("IP_FREEBIND", unix.IPPROTO_IP, unix.IP_FREEBIND, 1)
	} else {
		want("IPV6_MTU_DISCOVER", unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_OMIT)
		want("IPV6_FREEBIND", unix.IPPROTO_IPV6, unix.IPV6_FREEBIND, 1)
		want("IPV6_V6ONLY", unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1)
	}
	if size, err := unix.GetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_RCVBUF); s.kind == unix.SOCK_DGRAM && (err != nil || size < min(2*receiveBuffer, 2*rmemMax(t))) {
		t.Errorf("%v: SO_RCVBUF is %d, %v", s, size, err)
	}
	if s.kind == unix.SOCK_STREAM {
		want("TCP_MAXSEG", unix.IPPROTO_TCP, unix.TCP_MAXSEG, maxSegment)
		want("SO_PROTOCOL (not MPTCP)", unix.SOL_SOCKET, unix.SO_PROTOCOL, unix.IPPROTO_TCP)
	}
}

// rmemMax is the largest receive buffer that the kernel gives.
func rmemMax(t *testing.T) int {
	text, err := os.ReadFile("/proc/sys/net/core/rmem_max")
	if err != nil {
		t.Fatal(err)
	}
	size, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	return size
}

// With one socket nobody can join the address, not even another process of this user.
func TestSingleSocketCannotBeJoined(t *testing.T) {
	port := freePort(t)
	start(t, "example.org:"+port+" {\n sharedunicast 127.0.53.1\n multisocket 1\n testanswer\n}")
	for _, s := range kernelSockets(t, port) {
		if got, _ := unix.GetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_REUSEPORT); got != 0 {
			t.Errorf("%v has SO_REUSEPORT", s)
		}
	}
}

// A shared address that another holds is an error at start, and no socket stays open. SO_REUSEPORT on the other's socket
// does not help, with multisocket neither.
func TestHeldAddressIsAnErrorAtStart(t *testing.T) {
	for _, network := range []string{"udp", "tcp"} {
		for _, reuse := range []bool{false, true} {
			for _, multisocket := range []string{"", "multisocket 3"} {
				t.Run(fmt.Sprintf("%s reuseport=%v %s", network, reuse, multisocket), func(t *testing.T) {
					port := freePort(t)
					holder, err := listen(network, netip.MustParseAddrPort("127.0.53.2:"+port), reuse)
					if err != nil {
						t.Fatal(err)
					}
					defer holder.Close()
					inst, err := caddy.Start(input(fmt.Sprintf("example.org:%s {\n sharedunicast 127.0.53.1 127.0.53.2\n %s\n}", port, multisocket)))
					if err == nil {
						inst.Stop()
						t.Fatal("started")
					}
					mustMatch(t, err, "Corefile:2: listen "+network+"4 127.0.53.2:"+port+": .*in use.*stop what holds it")
					if found := kernelSockets(t, port); len(found) != 1 {
						t.Errorf("left open beside the holder's: %v", found)
					}
				})
			}
		}
	}
}

// network is a pair of namespaces: the test's process stays where it is, the server runs in one, the client in the other.
type network struct{ server, client *lab.Place }

// newNetwork makes the namespaces, joined by a veth pair, 198.51.100.1/2 and 2001:db8:1::1/2, MTU 1500.
func newNetwork(t *testing.T) network {
	t.Helper()
	testenv.Root(t)
	testenv.Need(t, "ip")
	name := fmt.Sprintf("su%d", os.Getpid())
	n := network{lab.PlaceFor(t, "server", name+"s"), lab.PlaceFor(t, "client", name+"c")}
	lab.Must(t, lab.Connect(lab.End{At: n.server, Link: "veth0"}, lab.End{At: n.client, Link: "veth0"}))
	for i, p := range []*lab.Place{n.server, n.client} {
		lab.Must(t, p.Address("veth0", netip.MustParsePrefix(fmt.Sprintf("198.51.100.%d/24", i+1))))
		lab.Must(t, p.Address("veth0", netip.MustParsePrefix(fmt.Sprintf("2001:db8:1::%d/64", i+1))))
	}
	lab.Run(t, "", "ip", "-n", n.client.Netns, "route", "add", "192.0.2.53", "via", "198.51.100.1")
	lab.Run(t, "", "ip", "-n", n.client.Netns, "-6", "route", "add", "2001:db8:53::53", "via", "2001:db8:1::1")
	return n
}

func (n network) addShared(t *testing.T) {
	t.Helper()
	lab.Must(t, n.server.Address("lo", netip.MustParsePrefix("192.0.2.53/32")))
	lab.Must(t, n.server.Address("lo", netip.MustParsePrefix("2001:db8:53::53/128")))
}

// dig asks from the client.
func (n network) dig(args ...string) string {
	said, _ := lab.Command{Argv: append([]string{"dig", "+tries=1"}, args...), At: n.client.Do}.Run(context.Background())
	return said
}

// The server is started before the shared addresses are there, and answers once they are.
func TestAddressMayComeAfterStart(t *testing.T) {
	testenv.Need(t, "dig")
	n := newNetwork(t)
	processAt(t, n.server.Do, writeCorefile(t, "example.org {\n sharedunicast 192.0.2.53 2001:db8:53::53\n file "+zoneFile(t)+"\n}"))
	dig := func(server string, options ...string) string {
		return n.dig(append([]string{"+short", "+time=1", "@" + server, "www.example.org"}, options...)...)
	}
	if got := dig("192.0.2.53"); strings.Contains(got, "192.0.2.80") {
		t.Errorf("answered before the address was there: %s", got)
	}
	n.addShared(t)
	for _, server := range []string{"192.0.2.53", "2001:db8:53::53"} {
		for _, option := range []string{"+notcp", "+tcp"} {
			if got := dig(server, option); strings.TrimSpace(got) != "192.0.2.80" {
				t.Errorf("%s %s: %s", server, option, got)
			}
		}
	}
}

// minMTU4 is the size of packet that every IPv4 link carries (RFC 791 section 3.2). Linux sets DF on a SYN-ACK that is no
// larger, whatever the socket says, and nothing follows from it: no router has to fragment it.
const minMTU4 = 68

// ROUTE-3, on the wire: no packet from the shared address has DF, no TCP segment is over 1220, and a large IPv6 datagram
// leaves in fragments that pass everywhere.
func TestPacketsDoNotUsePathMTUDiscovery(t *testing.T) {
	testenv.Need(t, "dig")
	n := newNetwork(t)
	n.addShared(t)
	processAt(t, n.server.Do, writeCorefile(t, "example.org {\n sharedunicast 192.0.2.53 2001:db8:53::53\n file "+zoneFile(t)+"\n}"))
	packets := capturePackets(t, n, func() {
		for _, server := range []string{"192.0.2.53", "2001:db8:53::53"} {
			for _, option := range []string{"+notcp", "+tcp"} {
				got := n.dig("+bufsize=4096", option, "@"+server, "large.example.org", "TXT")
				if !strings.Contains(got, `"end"`) {
					t.Errorf("%s %s: no whole answer:\n%s", server, option, got)
				}
			}
		}
	})

	kinds := make(map[string]int)
	for _, p := range packets {
		kinds[p.kind]++
		if p.df && p.length > minMTU4 {
			t.Errorf("DF set: %v", p)
		}
		if p.tcpPayload > maxSegment {
			t.Errorf("TCP segment of %d octets: %v", p.tcpPayload, p)
		}
		if p.kind == "udp6" && p.length > minMTU {
			t.Errorf("IPv6 packet of %d octets: %v", p.length, p)
		}
	}
	for kind, least := range map[string]int{"udp4": 2, "udp6": 3, "tcp4": 4, "tcp6": 4} {
		if kinds[kind] < least {
			t.Errorf("captured %d packets of %s, want %d at least: %v", kinds[kind], kind, least, kinds)
		}
	}
}

// What the fast path sends has the address that was asked, of several that one node has, and no DF.
func TestFastPathAnswersFromTheAddressAsked(t *testing.T) {
	testenv.Need(t, "dig")
	n := newNetwork(t)
	n.addShared(t)
	processAt(t, n.server.Do, writeCorefile(t, "example.org {\n sharedunicast 192.0.2.53 2001:db8:53::53 198.51.100.1\n testwire\n}"))
	packets := capturePackets(t, n, func() {
		for _, server := range []string{"192.0.2.53", "2001:db8:53::53", "198.51.100.1"} {
			if got := n.dig("+norecurse", "@"+server, "www.example.org", "A"); !strings.Contains(got, "192.0.2.80") {
				t.Errorf("%s: %s", server, got) // dig takes no answer from another address
			}
		}
	})
	kinds := make(map[string]int)
	for _, p := range packets {
		kinds[p.kind]++
		if p.df {
			t.Errorf("DF set: %v", p)
		}
	}
	if kinds["udp4"] != 1 || kinds["udp6"] != 1 {
		t.Errorf("captured %v from the shared addresses of the other test, want one of each family", kinds)
	}
}

// packet is an IP packet from the shared address. Fragments count as UDP: nothing else is fragmented here.
type packet struct {
	kind       string
	df         bool
	length     int
	tcpPayload int
	raw        []byte
}

func (p packet) String() string {
	return fmt.Sprintf("%s, %d octets, %x", p.kind, p.length, p.raw[:min(60, len(p.raw))])
}

// capturePackets returns the packets from the shared addresses that the client's interface gets while f runs.
func capturePackets(t *testing.T, n network, f func()) []packet {
	t.Helper()
	// Segments are cut where they are sent, so that what is captured is what a wire would carry.
	lab.Run(t, "", "ip", "-n", n.server.Netns, "link", "set", "veth0", "gso_max_segs", "1")
	fd := packetSocket(t, n.client)
	defer unix.Close(fd)
	f()
	var packets []packet
	b := make([]byte, 1<<16)
	for {
		// By now all has come; what is there is read without waiting.
		length, _, err := unix.Recvfrom(fd, b, unix.MSG_DONTWAIT)
		if err != nil {
			return packets
		}
		if p, ok := parsePacket(append([]byte(nil), b[:length]...)); ok {
			packets = append(packets, p)
		}
	}
}

// packetSocket opens a socket that gets every IP packet at a place.
func packetSocket(t *testing.T, at *lab.Place) (fd int) {
	t.Helper()
	protocol := binary.BigEndian.AppendUint16(nil, unix.ETH_P_ALL)
	lab.Must(t, at.Do(func() (err error) {
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM, int(binary.NativeEndian.Uint16(protocol)))
		return err
	}))
	unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 1<<21)
	return fd
}

// parsePacket reads the headers (RFC 791, 8200, 9293) of a packet, and says whether it is from a shared address.
func parsePacket(b []byte) (packet, bool) {
	p := packet{raw: b, length: len(b)}
	protocol, payload := byte(0), []byte(nil)
	switch {
	case len(b) > 20 && b[0]>>4 == 4 && net.IP(b[12:16]).String() == "192.0.2.53":
		p.df = b[6]&0x40 != 0
		p.kind, protocol, payload = "4", b[9], b[int(b[0]&0xf)*4:]
	case len(b) > 40 && b[0]>>4 == 6 && net.IP(b[8:24]).String() == "2001:db8:53::53":
		p.kind, protocol, payload = "6", b[6], b[40:]
	default:
		return p, false
	}
	switch protocol {
	case unix.IPPROTO_TCP:
		p.kind = "tcp" + p.kind
		p.tcpPayload = len(payload) - int(payload[12]>>4)*4
	case unix.IPPROTO_UDP, unix.IPPROTO_FRAGMENT:
		p.kind = "udp" + p.kind
	default:
		return p, false // ICMPv6, of neighbour discovery
	}
	return p, true
}
