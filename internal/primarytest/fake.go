package primarytest

import (
	"bytes"
	"cmp"
	"crypto/hmac"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"errors"
	"hash"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// Fake is a primary on TCP for what no real server does: it answers the SOA by itself, and a request for a transfer with whatever a
// test makes of it.
type Fake struct {
	At     netip.AddrPort
	Serial string // of its SOA; "5" if it is empty

	key *Key // nil: it signs nothing
}

// Request is one request being answered.
type Request struct {
	Conn  net.Conn
	Query *dns.Msg
	Key   *Key // what Send and Pack sign with; nil: nothing

	mac   string // of the signature before, in hexadecimal
	later bool
	held  [][]byte // messages since the last signature
}

// NewFake starts a Fake on a free port.
func NewFake(t testing.TB, key *Key, answer func(a *Request)) *Fake {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return FakeAt(t, l, key, answer)
}

// FakeAt is NewFake at a listener.
func FakeAt(t testing.TB, l net.Listener, key *Key, answer func(a *Request)) *Fake {
	t.Cleanup(func() { l.Close() })
	f := &Fake{At: l.Addr().(*net.TCPAddr).AddrPort(), key: key}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go f.serve(conn, answer)
		}
	}()
	return f
}

func (f *Fake) serve(conn net.Conn, answer func(a *Request)) {
	defer conn.Close()
	for {
		head := make([]byte, 2)
		if _, err := io.ReadFull(conn, head); err != nil {
			return
		}
		raw := make([]byte, binary.BigEndian.Uint16(head))
		if _, err := io.ReadFull(conn, raw); err != nil {
			return
		}
		q := new(dns.Msg)
		if q.Unpack(raw) != nil {
			return
		}
		a := &Request{Conn: conn, Query: q, Key: f.key}
		if sig := q.IsTsig(); sig != nil {
			a.mac = sig.MAC
		}
		if q.Question[0].Qtype == dns.TypeSOA {
			a.Send(true, SOA(cmp.Or(f.Serial, "5")))
			continue
		}
		answer(a)
		return
	}
}

// RR is a record of text, which must be right.
func RR(text string) dns.RR {
	r, err := dns.NewRR(text)
	if err != nil {
		panic(err)
	}
	return r
}

// RRs are several.
func RRs(texts ...string) (list []dns.RR) {
	for _, t := range texts {
		list = append(list, RR(t))
	}
	return list
}

// SOA is that of example.org., with a serial.
func SOA(serial string) dns.RR {
	return RR("example.org. 300 IN SOA ns1.example.org. host.example.org. " + serial + " 3600 900 1209600 300")
}

// Reply is an answer with records.
func (a *Request) Reply(records ...dns.RR) *dns.Msg {
	m := new(dns.Msg).SetReply(a.Query)
	m.Authoritative, m.Compress, m.Answer = true, true, records
	return m
}

// Send sends a message, signed or not. With a key, signatures cover what came unsigned before them.
func (a *Request) Send(signed bool, records ...dns.RR) { a.Raw(a.Pack(signed, a.Reply(records...))) }

// Raw sends a message as it is.
func (a *Request) Raw(wire []byte) error {
	_, err := a.Conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(wire))), wire...))
	return err
}

// Pack is the message that Send would send, which is taken as sent.
func (a *Request) Pack(signed bool, m *dns.Msg) []byte {
	m.Extra = nil
	if !signed || a.Key == nil {
		wire, err := m.Pack()
		if err != nil {
			panic(err)
		}
		a.held = append(a.held, bytes.Clone(wire))
		return wire
	}
	m.SetTsig(a.Key.Name, a.Key.Algorithm, 300, time.Now().Unix())
	wire, mac := a.Sign(m)
	a.mac, a.later, a.held = mac, true, nil
	return wire
}

// Sign packs a message that has a TSIG record, with the MAC that the next one after those sent must have, and returns that too. It is
// not taken as sent.
func (a *Request) Sign(m *dns.Msg) (wire []byte, mac string) {
	wire, mac, err := dns.TsigGenerateWithProvider(m, &rolling{a}, a.mac, a.later)
	if err != nil {
		panic(err)
	}
	return wire, mac
}

var hashes = map[string]func() hash.Hash{dns.HmacSHA1: sha1.New, dns.HmacSHA256: sha256.New, dns.HmacSHA384: sha512.New384, dns.HmacSHA512: sha512.New}

// rolling signs with what came unsigned put between the MAC before and the message, which the dns package does not know.
type rolling struct{ a *Request }

func (r *rolling) Generate(msg []byte, _ *dns.TSIG) ([]byte, error) {
	sum := hmac.New(hashes[r.a.Key.Algorithm], r.a.Key.Secret)
	prior := 0
	if r.a.mac != "" {
		prior = 2 + len(r.a.mac)/2
	}
	sum.Write(msg[:prior])
	for _, held := range r.a.held {
		sum.Write(held)
	}
	sum.Write(msg[prior:])
	return sum.Sum(nil), nil
}

func (*rolling) Verify([]byte, *dns.TSIG) error { return errors.New("not here") }

// First to Third are the records of the zone example.org. that fakes have.
var (
	First  = SOA("5")
	Second = RR("example.org. 300 IN NS ns1.example.org.")
	Third  = RR("ns1.example.org. 300 IN A 192.0.2.1")
)
