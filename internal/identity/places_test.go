package identity_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/identity"
	"github.com/coredns-anycast/coredns-anycast/internal/lab"
	"github.com/coredns-anycast/coredns-anycast/internal/testca"
)

// server serves HTTP within places, of an authority's identity, and returns its address and what it logs.
func server(t *testing.T, ca *testca.CA, p identity.Places) (address string, log *bytes.Buffer) {
	t.Helper()
	log = new(bytes.Buffer)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	lab.Must(t, err)
	logger := slog.New(slog.NewTextHandler(log, nil))
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, r.TLS.PeerCertificates[0].Subject.CommonName)
	}),
		ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)}
	go s.Serve(p.TLS(l, ca.Identity("server", time.Hour).Load(t), logger))
	t.Cleanup(func() { s.Close() })
	return l.Addr().String(), log
}

// client is a client's configuration, which takes any server.
func client(t *testing.T, ca *testca.CA, name string) *tls.Config {
	config := ca.Identity(name, time.Hour).Load(t).Config().Clone()
	config.InsecureSkipVerify = true
	return config
}

// from dials from one of the machine's loopback addresses.
func from(t testing.TB, source, address string) net.Conn {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(source)}, Timeout: 20 * time.Second}
	conn, err := d.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

// ask sends one request over a connection.
func ask(conn net.Conn) error {
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	b := make([]byte, 15)
	if _, err := io.ReadFull(conn, b); err != nil {
		return err
	} else if string(b) != "HTTP/1.1 200 OK" {
		return fmt.Errorf("answer %q", b)
	}
	for tail := []byte{}; !bytes.HasSuffix(tail, []byte("good")); {
		one := make([]byte, 1)
		if _, err := conn.Read(one); err != nil {
			return err
		}
		tail = append(tail, one...)
	}
	return nil
}

// halting sends a client's certificate and nothing after it: the signature that shows its key does not come.
type halting struct {
	net.Conn
	sent bool // a record of the client's own key, the certificate
}

// Write implements net.Conn. The client's second flight is a few records (RFC 8446 5.1): a type, a version, a length.
func (h *halting) Write(b []byte) (int, error) {
	for rest := b; len(rest) >= 5; {
		n := min(5+int(rest[3])<<8+int(rest[4]), len(rest))
		if !h.sent {
			if _, err := h.Conn.Write(rest[:n]); err != nil {
				return 0, err
			}
		}
		h.sent = h.sent || rest[0] == 23
		rest = rest[n:]
	}
	return len(b), nil
}

// Whoever has seen a certificate, and has not its key, is a stranger: its connections take no place of the one whose
// certificate it is. crypto/tls tells of a certificate before it has looked at what was signed with its key.
func TestASeenCertificateIsNoPass(t *testing.T) {
	ca := testca.New(t)
	address, log := server(t, ca, identity.Places{Strangers: 64, Known: 8, OfOne: 4, Handshake: 20 * time.Second})
	good := client(t, ca, "good")
	conn := tls.Client(from(t, "127.0.0.1", address), good)
	defer conn.Close()
	lab.Must(t, ask(conn))

	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	lab.Must(t, err)
	seen := good.Clone()
	seen.Certificates = []tls.Certificate{{Certificate: good.Certificates[0].Certificate, PrivateKey: key}}
	thief := tls.Client(from(t, "127.0.0.1", address), seen)
	if ask(thief) == nil {
		t.Fatal("a certificate without its key is let in")
	}
	thief.Close()
	var thieves []*tls.Conn
	for range 20 {
		thief := tls.Client(&halting{Conn: from(t, "127.0.0.2", address)}, seen)
		defer thief.Close()
		lab.Must(t, thief.Handshake()) // the server's side of it is not over
		thieves = append(thieves, thief)
	}
	for _, thief := range thieves[:4] { // the server has read what they sent, or closed them
		thief.SetReadDeadline(time.Now().Add(500 * time.Millisecond))
		thief.Read(make([]byte, 1))
	}
	if err := ask(conn); err != nil {
		t.Errorf("whose certificate was seen is shown out: %v\n%s", err, log)
	}
}

// The mesh speaks HTTP/1.1 only: ./build.sh leaves the HTTP/2 of net/http out of the programs that speak to each other.
func TestNoHTTP2IsOffered(t *testing.T) {
	ca := testca.New(t)
	address, _ := server(t, ca, identity.Places{Strangers: 64, Known: 8, OfOne: 4, Handshake: 20 * time.Second})
	config := client(t, ca, "good").Clone()
	config.NextProtos = []string{"h2", "http/1.1"}
	conn := tls.Client(from(t, "127.0.0.1", address), config)
	defer conn.Close()
	lab.Must(t, ask(conn))
	if p := conn.ConnectionState().NegotiatedProtocol; p != "" {
		t.Errorf("%s was agreed upon", p)
	}
}

// distant is a connection over a long line: each thing that is said takes a while until it is there.
type distant struct {
	net.Conn
	delay time.Duration
}

func (d distant) Write(b []byte) (int, error) {
	time.Sleep(d.delay)
	return d.Conn.Write(b)
}

// 500 connections a second that say nothing, from one network, keep nobody out who is far away: there a handshake takes
// longer than a stranger would last if the oldest had to go.
func TestAFloodKeepsNoDistantClientOut(t *testing.T) {
	ca := testca.New(t)
	address, _ := server(t, ca, identity.Places{Strangers: 64, Known: 64, OfOne: 8, Handshake: 20 * time.Second})
	good := client(t, ca, "good")
	end := make(chan struct{})
	var flood sync.WaitGroup
	defer flood.Wait()
	defer close(end)
	began := make(chan struct{})
	flood.Go(func() {
		tick := time.NewTicker(2 * time.Millisecond)
		defer tick.Stop()
		for i := 0; ; i++ {
			if i == 200 {
				close(began)
			}
			select {
			case <-end:
				return
			case <-tick.C:
			}
			conn := from(t, fmt.Sprintf("127.0.7.%d", 1+i%100), address)
			go func() { // as long as the server lets it
				defer conn.Close()
				conn.SetReadDeadline(time.Now().Add(5 * time.Second))
				conn.Read(make([]byte, 1))
			}()
		}
	})
	<-began
	for range 4 {
		conn := tls.Client(distant{from(t, "127.0.8.1", address), 250 * time.Millisecond}, good)
		if err := ask(conn); err != nil {
			t.Errorf("from far away: %v", err)
		}
		conn.Close()
	}
}

// What strangers say fills no log: a few lines, none of them long, and how many there were.
func TestStrangersFillNoLog(t *testing.T) {
	ca := testca.New(t)
	address, log := server(t, ca, identity.Places{Strangers: 64, Known: 64, OfOne: 8, Handshake: 10 * time.Second})
	stranger := client(t, testca.New(t), strings.Repeat("mallory ", 500))
	for range 50 {
		conn := tls.Client(from(t, "127.0.0.1", address), stranger)
		if ask(conn) == nil {
			t.Fatal("a stranger is let in")
		}
		conn.Close()
	}
	lines := strings.Split(strings.TrimSpace(log.String()), "\n")
	if len(lines) < 1 || len(lines) > 10 || !strings.Contains(lines[0], "mallory mallory") {
		t.Errorf("%d lines of 50 strangers:\n%s", len(lines), log)
	}
	for _, line := range lines {
		if len(line) > 1000 {
			t.Errorf("a line of %d octets", len(line))
		}
	}
}
