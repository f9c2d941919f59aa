package sharedunicast

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coredns/caddy"
	"github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"github.com/coredns-anycast/coredns-anycast/internal/lab"
)

// oddity is a message with a length before it, and the RCODE that it is answered with.
type oddity struct {
	wire  []byte
	rcode int
}

// oddities are messages of all kinds that end no connection: for the loop, for the chain, and for neither.
func oddities(t *testing.T) []oddity {
	t.Helper()
	with := func(rcode int, m *dns.Msg) oddity {
		wire, err := m.Pack()
		lab.Must(t, err)
		return oddity{append(binary.BigEndian.AppendUint16(nil, uint16(len(wire))), wire...), rcode}
	}
	ask := func(name string, qtype uint16) *dns.Msg { return new(dns.Msg).SetQuestion(name, qtype) }
	chaos := ask("id.server.", dns.TypeTXT)
	chaos.Question[0].Qclass = dns.ClassCHAOS
	version := ask("www.example.org.", dns.TypeA).SetEdns0(1232, false)
	version.IsEdns0().SetVersion(1)
	padded := ask("www.example.org.", dns.TypeA).SetEdns0(1232, true)
	padded.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_PADDING{Padding: make([]byte, 5000)}}
	unsigned := ask("www.example.org.", dns.TypeA)
	unsigned.Extra = append(unsigned.Extra, &dns.TSIG{Hdr: dns.RR_Header{Name: "no.key.", Rrtype: dns.TypeTSIG, Class: dns.ClassANY},
		Algorithm: dns.HmacSHA256, TimeSigned: uint64(time.Now().Unix()), Fudge: 300, MACSize: 32, MAC: strings.Repeat("00", 32), OrigId: unsigned.Id})
	two := ask("www.example.org.", dns.TypeA)
	two.Question = append(two.Question, two.Question[0])
	notify := ask("example.org.", dns.TypeSOA)
	notify.Opcode = dns.OpcodeNotify
	status := ask("example.org.", dns.TypeSOA)
	status.Opcode = dns.OpcodeStatus
	return []oddity{
		with(dns.RcodeSuccess, ask("www.example.org.", dns.TypeA)),
		with(dns.RcodeSuccess, ask("large.example.org.", dns.TypeTXT)),
		with(dns.RcodeNameError, ask("none.example.org.", dns.TypeA)),
		with(dns.RcodeRefused, ask("www.example.org.", dns.TypeAXFR)),
		with(dns.RcodeRefused, ask("www.example.org.", dns.TypeIXFR)),
		with(dns.RcodeRefused, chaos),
		with(dns.RcodeBadVers&15, version),
		with(dns.RcodeSuccess, padded),
		with(dns.RcodeNotAuth, unsigned),
		with(dns.RcodeFormatError, two),
		with(dns.RcodeRefused, notify),
		with(dns.RcodeNotImplemented, status),
	}
}

// Whatever follows whatever on a connection, in whatever pieces it comes and however slowly the responses are read, every message is
// answered in its turn: by loops, by goroutines, and where one hands on to the other.
func TestStreamsOfAllKinds(t *testing.T) {
	for how, properties := range map[string]string{"loops": "", "goroutines": "fastpath off"} {
		for _, addr := range []string{"127.0.53.1", "127.0.53.2", "::1"} {
			t.Run(how+" "+addr, func(t *testing.T) {
				port := freePort(t)
				start(t, fmt.Sprintf(".:%s {\n sharedunicast 127.0.53.1 127.0.53.2 ::1 {\n %s\n }\n testwire\n}", port, properties))
				for seed := range uint64(8) {
					streamOfAllKinds(t, net.JoinHostPort(addr, port), rand.New(rand.NewPCG(seed, 1)))
				}
			})
		}
	}
}

func streamOfAllKinds(t *testing.T, server string, r *rand.Rand) {
	kinds := oddities(t)
	conn := dialStream(t, server)
	if r.IntN(4) == 0 {
		conn.(*net.TCPConn).SetReadBuffer(1 << 16)
	}
	var all []byte
	var rcodes []int
	only := r.IntN(2 * len(kinds)) // plain ones for a while, so that the loop has some of them
	for i := range 150 {
		k := kinds[0]
		if i > only {
			k = kinds[r.IntN(len(kinds))]
		}
		at := len(all)
		all = append(all, k.wire...)
		binary.BigEndian.PutUint16(all[at+2:], uint16(i))
		rcodes = append(rcodes, k.rcode)
	}
	sent := make(chan error, 1)
	pieces, pause := rand.New(rand.NewPCG(r.Uint64(), 2)), r.IntN(3) == 0
	go func() {
		for len(all) > 0 {
			n := min(len(all), 1+pieces.IntN(1<<(1+pieces.IntN(14))))
			if _, err := conn.Write(all[:n]); err != nil {
				sent <- err
				return
			}
			if all = all[n:]; pause {
				time.Sleep(time.Millisecond)
			}
		}
		sent <- conn.(*net.TCPConn).CloseWrite()
	}()
	for i, rcode := range rcodes {
		mustHear(t, conn, i, rcode)
	}
	lab.Must(t, <-sent)
	if n, err := conn.Read(make([]byte, 1)); n > 0 || err != io.EOF {
		t.Errorf("after the last response: %d octets, %v", n, err)
	}
}

// Connections that were told to make room count until they are closed: where there are too many of them no more are taken, and those that
// come wait.
func TestNoneAreTakenBeforeThoseThatEndAreClosed(t *testing.T) {
	server := startLoops(t, "")
	crowdOf(t, &connected, 10)
	for range 200 {
		conn := dialStream(t, server)
		conn.Write(framed(t, 1, "www.example.org.", dns.TypeA))
		mustHear(t, conn, 1, dns.RcodeSuccess)
	}
	lab.WaitFor(t, "those that were told to end are closed", func() bool { return ending.Load() == 0 })
	ending.Add(mostEnding)
	allow := sync.OnceFunc(func() { ending.Add(-mostEnding) })
	defer allow()
	conn := dialStream(t, server)
	conn.Write(framed(t, 2, "www.example.org.", dns.TypeA))
	conn.SetReadDeadline(time.Now().Add(20 * acceptPause))
	if n, err := conn.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%d octets, %v", n, err)
	}
	allow()
	conn.SetReadDeadline(time.Now().Add(30 * time.Second))
	mustHear(t, conn, 2, dns.RcodeSuccess)
}

// Clients that reset their connections, at any moment and wherever that is, leave nothing behind.
func TestResetsAtEveryMoment(t *testing.T) {
	server := startLoops(t, "")
	kinds := oddities(t)
	before := runtime.NumGoroutine()
	for seed := range uint64(400) {
		r := rand.New(rand.NewPCG(seed, 3))
		var all []byte
		for range 1 + r.IntN(60) {
			all = append(all, kinds[r.IntN(len(kinds))].wire...)
		}
		conn := dialStream(t, server)
		lab.Must(t, conn.(*net.TCPConn).SetLinger(0))
		conn.SetDeadline(time.Now().Add(30 * time.Millisecond)) // who is not read stops writing, and who is not answered stops waiting
		conn.Write(all[:r.IntN(len(all)+1)])
		switch r.IntN(3) {
		case 0:
			io.ReadFull(conn, make([]byte, r.IntN(200)+1))
		case 1:
			conn.(*net.TCPConn).CloseWrite()
		}
		conn.Close()
	}
	lab.WaitFor(t, "no connection has a place", func() bool { return connectedNow() == 0 })
	lab.WaitFor(t, "no goroutine is left", func() bool { return runtime.NumGoroutine() <= before+5 })
	mustAsk(t, "tcp", server, "www.example.org.", dns.TypeA, dns.RcodeSuccess)
}

// noDescriptors leaves the process so many that it can open, until the function that it returns is called.
func noDescriptors(t *testing.T, left int) (restore func()) {
	t.Helper()
	var before unix.Rlimit
	lab.Must(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &before))
	var held []*os.File
	f, err := os.Open("/dev/null")
	lab.Must(t, err)
	held = append(held, f)
	least := 0
	for least < 1<<12 { // until no number below that is free
		f, err := os.Open("/dev/null")
		lab.Must(t, err)
		held = append(held, f)
		if n := int(f.Fd()); n > least {
			if n == least+1 && len(held) > 200 {
				least = n
				break
			}
			least = n
		}
	}
	lab.Must(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: uint64(least + 1), Max: before.Max}))
	for _, f := range held[:left] {
		f.Close()
	}
	return sync.OnceFunc(func() {
		lab.Must(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &before))
		for _, f := range held[left:] {
			f.Close()
		}
	})
}

// Where no descriptor is left, connections wait until there is one, and all are answered, whoever answers them.
func TestNoDescriptorIsLeft(t *testing.T) {
	server := startLoops(t, "")
	var conns []net.Conn
	for range 40 {
		conns = append(conns, dialStream(t, server))
	}
	restore := noDescriptors(t, 2)
	defer restore()
	var waiting sync.WaitGroup
	for i, conn := range conns {
		waiting.Go(func() {
			conn.Write(framed(t, i, "www.example.org.", []uint16{dns.TypeA, dns.TypeAXFR}[i%2]))
			var b [5]byte
			if _, err := io.ReadFull(conn, b[:]); err != nil || int(b[3]) != i {
				t.Errorf("connection %d: %x, %v", i, b, err)
			}
			conn.Close() // makes room for another
		})
	}
	waiting.Wait()
}

// crowdOf has a crowd take no more than so many until the test ends.
func crowdOf(t *testing.T, c *crowd, most int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	before := c.most
	c.most = most
	t.Cleanup(func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.most = before
	})
}

func (c *crowd) size() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.conns.Len()
}

// Connections that are in the middle of long messages, or do not read what they are sent, take no more memory than a bounded number of
// them would; what they had while it was needed they give back. A newcomer gets its answer however many there are.
func TestMemoryOfConnections(t *testing.T) {
	for how, properties := range map[string]string{"loops": "", "goroutines": "fastpath off"} {
		t.Run(how, func(t *testing.T) {
			server := startLoops(t, properties)
			const connections, most = 300, 20
			crowdOf(t, &laden, most)
			long := new(dns.Msg).SetQuestion("www.example.org.", dns.TypeA).SetEdns0(1232, false)
			long.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_PADDING{Padding: make([]byte, dns.MaxMsgSize-long.Len()-4)}}
			wire, err := long.Pack()
			lab.Must(t, err)
			wire = append(binary.BigEndian.AppendUint16(nil, uint16(len(wire))), wire...)
			var much []byte
			for i := range 40 {
				much = append(much, framed(t, i, "large.example.org.", dns.TypeTXT)...)
			}
			before := heap()
			settled := func(what string, laden, each int) {
				t.Helper()
				lab.WaitFor(t, what+" little memory is in use beside that of those that are laden", func() bool {
					return int(heap()-before)-laden*200_000 <= connections*each
				})
				lab.Eventually(t, func() error { // others may come before it that were there first
					conn := dialStream(t, server)
					defer conn.Close()
					conn.Write(append(wire, framed(t, 2, "www.example.org.", dns.TypeA)...))
					for range 2 {
						if _, err := (&dns.Conn{Conn: conn}).ReadMsg(); err != nil {
							return err
						}
					}
					return nil
				})
			}
			all := caddy.Instances()
			listening := all[len(all)-1].Storage[instanceKey{}].(*instance).servers[0].listener.socket.fd
			mostGone := func() bool {
				info, err := unix.GetsockoptTCPInfo(listening, unix.IPPROTO_TCP, unix.TCP_INFO)
				return err == nil && info.Unacked == 0 && connected.size() <= most // so many wait to be accepted
			}
			open := func() (conns []net.Conn) {
				for range connections {
					conns = append(conns, dialStream(t, server))
				}
				return conns
			}
			end := func(conns []net.Conn) {
				for _, conn := range conns {
					conn.Close()
				}
				lab.WaitFor(t, "no connection has a place", func() bool { return connected.size() == 0 && laden.size() == 0 })
			}

			conns := open()
			for _, conn := range conns {
				conn.Write(wire)
				mustHear(t, conn, int(long.Id), dns.RcodeSuccess)
			}
			lab.WaitFor(t, "no connection is laden", func() bool { return laden.size() == 0 })
			settled("after long messages", 0, 20_000)
			end(conns)

			conns = open()
			for _, conn := range conns {
				conn.Write(wire[:60_000])
			}
			lab.WaitFor(t, "most are gone", mostGone)
			settled("in long messages", most, 5_000)
			end(conns)

			conns = open()
			for _, conn := range conns {
				conn.(*net.TCPConn).SetReadBuffer(4096)
				conn.Write(much)
			}
			lab.WaitFor(t, "most are gone", mostGone)
			settled("before responses that nobody reads", most, 5_000)
			end(conns)
		})
	}
}

// used is what a process has of what a reload could leak.
type used struct{ goroutines, threads, descriptors int }

func usedNow(t *testing.T) used {
	t.Helper()
	threads, err := os.ReadDir("/proc/self/task")
	lab.Must(t, err)
	open, err := os.ReadDir("/proc/self/fd")
	lab.Must(t, err)
	return used{runtime.NumGoroutine(), len(threads), len(open)}
}

// Reloads leave behind no goroutine, thread, descriptor or connection, with all that can be on, and connections of each kind open.
// RELOADS=1000 by hand.
func TestReloadsLeaveNothing(t *testing.T) {
	reloads := 60
	if n, err := strconv.Atoi(os.Getenv("RELOADS")); err == nil {
		reloads = n
	}
	port, dir := freePort(t), t.TempDir()
	tap, _ := collect(t)
	secrets := filepath.Join(dir, "cookies.key")
	lab.Must(t, os.WriteFile(secrets, []byte(strings.Repeat("00", 16)+"\n"), 0o600))
	corefile := fmt.Sprintf(".:%s {\n sharedunicast 127.0.53.1 127.0.53.2 ::1 {\n rrl 1000\n cookies %s\n dnstap unix://%s\n stats %s a.example\n }\n testwire\n}",
		port, secrets, tap, filepath.Join(dir, "stats"))
	server := "127.0.53.1:" + port
	reload := start(t, corefile)
	round := func(connections bool) {
		if connections {
			for i, qtype := range []uint16{dns.TypeA, dns.TypeAXFR} {
				conn := dialStream(t, server)
				defer conn.Close()
				conn.Write(framed(t, i, "www.example.org.", qtype))
				mustHear(t, conn, i, []int{dns.RcodeSuccess, dns.RcodeRefused}[i])
			}
			conn := dialStream(t, server) // has half a message
			defer conn.Close()
			conn.Write(framed(t, 3, "www.example.org.", dns.TypeA)[:9])
		}
		lab.Must(t, reload(corefile))
		mustAsk(t, "udp", server, "www.example.org.", dns.TypeA, dns.RcodeSuccess)
		mustAsk(t, "tcp", server, "www.example.org.", dns.TypeA, dns.RcodeSuccess)
	}
	for i := range 10 {
		round(i%5 == 0)
	}
	lab.WaitFor(t, "no connection has a place", func() bool { return connected.size() == 0 && laden.size() == 0 })
	before := usedNow(t)
	for i := range reloads {
		round(i%20 == 0)
	}
	var now used
	lab.WaitFor(t, "no more is in use than before the reloads", func() bool {
		now = usedNow(t)
		return now.goroutines <= before.goroutines+3 && now.threads <= before.threads+8 && now.descriptors <= before.descriptors+3 && connected.size() == 0
	})
	t.Logf("before %d reloads %+v, after %+v", reloads, before, now)
}

// A connection has its time, however little comes by it, and however often: from its last answer to the whole of the next query.
func TestTimeOfAConnection(t *testing.T) {
	for how, properties := range map[string]string{"loops": "", "goroutines": "fastpath off"} {
		t.Run(how, func(t *testing.T) {
			port := freePort(t)
			start(t, fmt.Sprintf("example.org:%s {\n sharedunicast 127.0.53.1 {\n %s\n }\n timeouts {\n read 1s\n idle 1s\n }\n testwire\n}", port, properties))
			query := framed(t, 1, "www.example.org.", dns.TypeA)
			for what, answers := range map[string]int{"no query": 0, "two queries": 2} {
				conn := dialStream(t, "127.0.53.1:"+port)
				for range answers {
					conn.Write(query)
					mustHear(t, conn, 1, dns.RcodeSuccess)
				}
				gone := make(chan error, 1)
				go func() {
					_, err := conn.Read(make([]byte, 1))
					gone <- err
				}()
				octets := 0
				for ended := false; !ended; {
					select {
					case err := <-gone:
						ended = true
						if errors.Is(err, os.ErrDeadlineExceeded) {
							t.Errorf("after %s, octets that come one by one keep a connection open", what)
						}
					case <-time.After(100 * time.Millisecond):
						if octets < len(query)-1 {
							conn.Write(query[octets : octets+1])
							octets++
						}
					}
				}
				if octets == len(query)-1 {
					t.Errorf("after %s, a connection had more than %d octets' time", what, octets)
				}
			}
		})
	}
}

// Where a loop cannot start it says so, and leaves nothing behind: connections have goroutines then.
func TestConnectionsWhereLoopsCannotStart(t *testing.T) {
	port := freePort(t)
	start(t, fmt.Sprintf(".:%s {\n sharedunicast 127.0.53.1\n testwire\n}", port))
	all := caddy.Instances()
	s := all[len(all)-1].Storage[instanceKey{}].(*instance).servers[0]
	for _, network := range []string{"udp", "tcp"} {
		mustAsk(t, network, "127.0.53.1:"+port, "www.example.org.", dns.TypeA, dns.RcodeSuccess) // its own loops have what they need
	}
	before := usedNow(t)
	other := &server{coreServer: s.coreServer, instance: s.instance, group: s.group, front: s.front, packets: s.packets, listener: s.listener,
		stop: &waker{fd: -1}} // which epoll does not take, as an older kernel does not take all that it is asked for
	if other.serveLoops() {
		t.Fatal("the loops could start")
	}
	if now := usedNow(t); now.descriptors > before.descriptors {
		t.Errorf("%d descriptors, %d before", now.descriptors, before.descriptors)
	}
	mustAsk(t, "tcp", "127.0.53.1:"+port, "www.example.org.", dns.TypeA, dns.RcodeSuccess)
}
