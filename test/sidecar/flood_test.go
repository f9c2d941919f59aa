//go:build linux

package sidecar

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/identity"
	"github.com/coredns-anycast/coredns-anycast/internal/testca"
	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
)

// Bounds of what a flood may cost the sidecar: descriptors as sidecar/admin bounds connections, and memory for them.
const (
	floodConnections = 1000
	floodDescriptors = 2*64 + 100
	floodMemory      = 64 << 20
)

// TestAdminFlood: 1,000 connections of each bad kind at the administrative port, from strangers and with certificates. All
// the while the route is in the router's table, a legitimate client gets its status, and the process does not grow.
func TestAdminFlood(t *testing.T) {
	testenv.Root(t)
	w := newWorld(t)
	l := &life{world: w, router: routers[1], family: families[0]}
	l.router.run(w, l.family, protection{})
	w.nsd()
	ca := testca.New(t)
	own := ca.WithRole("tyo1", identity.Node, time.Hour)
	w.admin = fmt.Sprintf("identity: {certificate: %s, key: %s, ca: %s}\nadmin: {listen: '%s:8443'}\n", own.Certificate, own.Key, own.CA, node4)
	w.interval = "1s" // a machine that is busy with the flood's other end is none of its victims
	s := l.node(w.node, "")
	l.there(l.family.node)

	client := func(ca *testca.CA, name, role string) *tls.Config {
		config := ca.WithRole(name, role, time.Hour).Load(t).Config()
		config.ServerName, config.InsecureSkipVerify = "127.0.0.1", true // the certificates are of a test's authority
		return config
	}
	status := client(ca, "prometheus", identity.Observer)
	memory, descriptors := s.memory(), s.descriptors()
	var kinds []string
	for _, kind := range []struct {
		name string
		do   func(net.Conn)
	}{
		{"silence", func(net.Conn) {}},
		{"half a ClientHello", func(c net.Conn) { c.Write([]byte{22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3, 1, 2, 3, 4}) }},
		{"garbage", func(c net.Conn) { c.Write([]byte(strings.Repeat("\x16\x03\x01\xff\xff", 4000))) }},
		{"a stranger's certificate", handshake(client(testca.New(t), "mallory", identity.Operator), "")},
		{"a node's certificate, idle", handshake(client(ca, "osa1", identity.Node), "")},
		{"a good certificate, idle", handshake(client(ca, "grafana", identity.Observer), "")},
		{"a good certificate, a header that never ends", handshake(client(ca, "grafana", identity.Observer), "GET /v1/status HTTP/1.1\r\nHost: x\r\nX: ")},
		{"a good certificate, huge headers", handshake(client(ca, "grafana", identity.Observer), "GET /v1/status HTTP/1.1\r\nX: "+strings.Repeat("x", 1<<20))},
	} {
		kinds = append(kinds, l.flood(s, kind.name, kind.do, status))
	}
	if now := l.status(w.node); len(now.Sessions) != 1 || now.Sessions[0].State != "established" || !now.Announced {
		t.Errorf("after the flood: announced %v, sessions %v", now.Announced, now.Sessions)
	}
	if grown := s.memory() - memory; grown > floodMemory {
		t.Errorf("the process has grown by %d bytes", grown)
	}
	w.until(time.Minute, "its descriptors are closed", func() bool { return s.descriptors() <= descriptors+8+8 }) // idle ones of the two names
	t.Logf("%d MiB before, %d after, peak %d\n%s", memory>>20, s.memory()>>20, s.peak()>>20, strings.Join(kinds, "\n"))
}

// flood makes connections of one kind and holds them, while a client asks for the status again and again.
func (l *life) flood(s *process, kind string, do func(net.Conn), status *tls.Config) string {
	l.t.Helper()
	var conns sync.Map
	defer conns.Range(func(_, c any) bool { c.(net.Conn).Close(); return true })
	var refused atomic.Int64
	var flood sync.WaitGroup
	next := make(chan int)
	go func() {
		for i := range floodConnections {
			next <- i
		}
		close(next)
	}()
	for range 50 {
		flood.Go(func() {
			for i := range next {
				conn, err := l.dial()
				if err != nil {
					refused.Add(1)
					continue
				}
				conns.Store(i, conn)
				conn.SetDeadline(time.Now().Add(10 * time.Second))
				do(conn)
			}
		})
	}
	done := make(chan struct{})
	go func() { flood.Wait(); close(done) }()
	most, worst, asked, tries := 0, time.Duration(0), 0, 0
	for over := false; !over; {
		select {
		case <-done:
			over = true // and once more
		default:
		}
		began := time.Now()
		for l.asks(status) != nil {
			tries++
			if time.Since(began) > 10*time.Second {
				l.t.Fatalf("%s: a legitimate client gets no status: %v", kind, l.asks(status))
			}
		}
		asked++
		worst, most = max(worst, time.Since(began)), max(most, s.descriptors())
		if hop := l.hop(); hop != l.family.node {
			l.t.Fatalf("%s: the route is to %q", kind, hop)
		}
	}
	if most > floodDescriptors {
		l.t.Errorf("%s: %d descriptors", kind, most)
	}
	if refused.Load() > 0 {
		l.t.Errorf("%s: %d connections were not even made", kind, refused.Load())
	}
	return fmt.Sprintf("%-50s %3d descriptors at most, %4d statuses, the slowest after %4d ms, tried again %d times", kind, most, asked, worst.Milliseconds(), tries)
}

func handshake(config *tls.Config, then string) func(net.Conn) {
	return func(c net.Conn) {
		conn := tls.Client(c, config)
		if conn.Handshake() == nil {
			io.WriteString(conn, then)
		}
	}
}

// dial connects to the administrative port from the router's namespace.
func (w *world) dial() (conn net.Conn, err error) {
	err = w.atRouter(func() (err error) {
		conn, err = net.DialTimeout("tcp", node4+":8443", 10*time.Second)
		return err
	})
	return conn, err
}

// asks gets the status as an observer.
func (w *world) asks(config *tls.Config) error {
	conn, err := w.dial()
	if err != nil {
		return err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(5 * time.Second))
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialTLS: func(string, string) (net.Conn, error) { return tls.Client(conn, config), nil }}}
	r, err := client.Get("https://sidecar/v1/status")
	if err != nil {
		return err
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	if r.StatusCode != 200 || !strings.Contains(string(body), `"announced":true`) {
		err = errors.Join(err, fmt.Errorf("%s: %s", r.Status, body))
	}
	return err
}

// memory is what the process has in memory now, in bytes, and peak what it ever had.
func (p *process) memory() int { return p.procStatus("VmRSS:") }
func (p *process) peak() int   { return p.procStatus("VmHWM:") }

func (p *process) procStatus(key string) int {
	p.t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.all[0].Pid()))
	if err != nil {
		p.t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(text), key)
	kb, err := strconv.Atoi(strings.Fields(after)[0])
	if err != nil {
		p.t.Fatal(err)
	}
	return kb << 10
}

// descriptors counts what the process has open.
func (p *process) descriptors() int {
	p.t.Helper()
	all, err := os.ReadDir(filepath.Join("/proc", strconv.Itoa(p.all[0].Pid()), "fd"))
	if err != nil {
		p.t.Fatal(err)
	}
	return len(all)
}
