package xfr

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"syscall"
	"time"

	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/zone"
)

// Primary is a server that zones are transferred from, by TCP or TLS.
type Primary struct {
	Address netip.AddrPort
	Source  netip.Addr // local end; zero: as routed
	Key     *Key       // TSIG on every request; nil: none
	TLS     *TLS       // nil: TCP
}

// String is its address, with the transport if that is TLS.
func (p Primary) String() string {
	if p.TLS != nil {
		return p.Address.String() + " (TLS)"
	}
	return p.Address.String()
}

// Client asks primaries.
type Client struct {
	Limits Limits
	Now    func() time.Time                    // wall time, for signatures and certificates
	Coming func(records int, differences bool) // is told after each message how many have come, and of what; nil: nobody
}

// Session is a stream to a primary. Close it.
type Session struct {
	net.Conn
	client *Client
	p      Primary
	end    time.Time // of all of it
	stop   func() bool
	heard  bool // a message
	buf    [65535]byte
}

// connect opens a stream, which ends with ctx.
func (c *Client) connect(ctx context.Context, p Primary) (*Session, error) {
	end := time.Now().Add(c.Limits.Time)
	ctx, cancel := context.WithTimeout(ctx, c.Limits.Stall)
	defer cancel()
	d := net.Dialer{}
	if p.Source.IsValid() {
		d.LocalAddr = &net.TCPAddr{IP: p.Source.AsSlice()}
	}
	conn, err := d.DialContext(ctx, "tcp", p.Address.String())
	if err != nil {
		return nil, err
	}
	if p.TLS != nil {
		if conn, err = p.TLS.handshake(ctx, conn, p.Address.Addr(), c.Now); err != nil {
			return nil, err
		}
	}
	return &Session{Conn: conn, client: c, p: p, end: end}, nil
}

// bind closes the session when ctx ends.
func (s *Session) bind(ctx context.Context) {
	s.stop = context.AfterFunc(ctx, func() { s.Conn.Close() })
}

func (s *Session) Close() error {
	if s.stop != nil {
		s.stop()
	}
	return s.Conn.Close()
}

// deadline is that of the next message: a stall is not waited for, and neither is the end of a trickle.
func (s *Session) deadline() time.Time {
	if next := time.Now().Add(s.client.Limits.Stall); next.Before(s.end) {
		return next
	}
	return s.end
}

func (s *Session) write(wire []byte) error {
	s.SetWriteDeadline(s.deadline())
	if _, err := s.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(wire))), wire...)); err != nil {
		return s.broken(err)
	}
	return nil
}

// read takes the next message, good until the one after.
func (s *Session) read() ([]byte, error) {
	s.SetReadDeadline(s.deadline())
	if _, err := io.ReadFull(s, s.buf[:2]); err != nil {
		return nil, s.broken(err)
	}
	n := int(binary.BigEndian.Uint16(s.buf[:2]))
	if _, err := io.ReadFull(s, s.buf[:n]); err != nil {
		return nil, s.broken(err)
	}
	s.heard = true
	return s.buf[:n], nil
}

// broken says what the end of a stream means.
func (s *Session) broken(err error) error {
	switch {
	case !slices.ContainsFunc([]error{io.EOF, io.ErrUnexpectedEOF, syscall.ECONNRESET, syscall.EPIPE}, func(end error) bool { return errors.Is(err, end) }):
		return err
	case s.p.TLS != nil && !s.heard:
		return errors.New("the primary closed the connection without a word: does it take our certificate?")
	}
	return errors.New("the primary closed the connection in the middle")
}

// request makes a query with a random id.
func request(name string, typ uint16) (*dns.Msg, question) {
	m := new(dns.Msg).SetQuestion(name, typ)
	m.Id = uint16(rand.Uint32())
	m.RecursionDesired = false
	return m, question{m.Id, name, typ}
}

// soa asks for the zone's SOA over the stream (RFC 1034 4.3.5; RFC 9103 6.3.2 for TLS).
func (s *Session) soa(name string) (*dns.SOA, error) {
	m, q := request(name, dns.TypeSOA)
	wire, mac, err := s.p.Key.sign(m, nil, s.client.Now())
	if err != nil {
		return nil, err
	}
	if err := s.write(wire); err != nil {
		return nil, err
	}
	raw, err := s.read()
	if err != nil {
		return nil, err
	}
	return soaIn(raw, q, newVerifier(s.p.Key, mac, s.client.Now))
}

// soaIn is the SOA in an answer.
func soaIn(raw []byte, q question, v *verifier) (*dns.SOA, error) {
	bare, err := v.message(raw)
	if err != nil {
		return nil, err
	}
	at, err := q.checkAnswer(bare, true)
	if err != nil {
		return nil, err
	}
	if bare[2]&4 == 0 {
		return nil, errors.New("the answer is not authoritative: the primary does not have the zone")
	}
	var soa *dns.SOA
	err = answers(bare, at, func(r *resource) (err error) {
		if r.typ == dns.TypeSOA && r.name() == q.name {
			soa, err = r.soa()
		}
		return err
	})
	if err == nil && soa == nil {
		err = errors.New("no SOA in the answer")
	}
	return soa, err
}

const (
	udpTries = 2
	udpWait  = 2 * time.Second
)

// soaUDP asks for the zone's SOA by UDP.
func (c *Client) soaUDP(ctx context.Context, p Primary, name string) (*dns.SOA, error) {
	d := net.Dialer{}
	if p.Source.IsValid() {
		d.LocalAddr = &net.UDPAddr{IP: p.Source.AsSlice()}
	}
	conn, err := d.DialContext(ctx, "udp", p.Address.String())
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	for range udpTries {
		soa, err := c.tryUDP(conn, p, name)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if !errors.Is(err, errNoAnswer) {
			return soa, err
		}
	}
	return nil, errNoAnswer
}

// tryUDP asks once. What does not answer the question, or is wrongly signed, is passed over: anybody can send it. It is the
// reason that is given if nothing better comes.
func (c *Client) tryUDP(conn net.Conn, p Primary, name string) (*dns.SOA, error) {
	m, q := request(name, dns.TypeSOA)
	wire, mac, err := p.Key.sign(m, nil, c.Now())
	if err != nil {
		return nil, err
	}
	if _, err := conn.Write(wire); err != nil {
		return nil, err
	}
	conn.SetReadDeadline(time.Now().Add(min(udpWait, c.Limits.Stall)))
	buf := make([]byte, 4096)
	wrong := errNoAnswer
	for {
		n, err := conn.Read(buf)
		if err != nil {
			return nil, wrong
		}
		if n < headerSize || binary.BigEndian.Uint16(buf) != q.id {
			continue
		}
		soa, err := soaIn(buf[:n], q, newVerifier(p.Key, mac, c.Now))
		if err == nil || p.Key == nil {
			return soa, err
		}
		wrong = err
	}
}

var errNoAnswer = errors.New("no answer by UDP")

// SOA asks a primary for the SOA of a zone: by UDP and, where that fails or is refused, by TCP; by TLS where that is configured. The
// session that it returns is for Transfer; close it if it is not nil.
func (c *Client) SOA(ctx context.Context, p Primary, name string) (*dns.SOA, *Session, error) {
	if p.TLS == nil {
		soa, err := c.soaUDP(ctx, p, name)
		if err == nil || ctx.Err() != nil {
			return soa, nil, err
		}
	}
	s, err := c.connect(ctx, p)
	if err != nil {
		return nil, nil, err
	}
	s.bind(ctx)
	soa, err := s.soa(name)
	if err != nil {
		s.Close()
		return nil, nil, err
	}
	return soa, s, nil
}

// Transferred is what a transfer gave.
type Transferred struct {
	Zone   *zone.Zone  // nil: the primary has nothing newer after all
	Delta  *zone.Delta // what it was made with of the zone that we had; nil: it came whole
	Octets int64       // of its messages
	Odd    []string    // what was not taken as it came

	Began, Whole time.Time // when it was asked for, and when the last octet had come
}

// Transfer gets a zone: the differences to what we have, or all of it if there is nothing, or they cannot be had or do
// not fit. before loads what we have. doubt is why it was not the differences. It goes on with the session of SOA, or with one of its
// own if that is nil, and closes it.
func (c *Client) Transfer(ctx context.Context, p Primary, s *Session, name string, have *Version, before func() (*zone.Zone, error)) (got Transferred, doubt, err error) {
	if have != nil {
		got, doubt = c.once(ctx, p, s, name, have, before)
		if doubt == nil || ctx.Err() != nil {
			return got, nil, doubt
		}
		s = nil // it is in an unknown state, and closed
	}
	got, err = c.once(ctx, p, s, name, nil, nil)
	return got, doubt, err
}

// once asks for differences, or without have for the whole zone.
func (c *Client) once(ctx context.Context, p Primary, s *Session, name string, have *Version, before func() (*zone.Zone, error)) (Transferred, error) {
	if s == nil {
		var err error
		if s, err = c.connect(ctx, p); err != nil {
			return Transferred{}, err
		}
		s.bind(ctx)
	}
	defer s.Close()
	m, q := request(name, dns.TypeAXFR)
	if have != nil {
		id := m.Id
		m.SetIxfr(name, have.Serial, ".", ".")
		m.Id, q.typ = id, dns.TypeIXFR
	}
	wire, mac, err := p.Key.sign(m, nil, c.Now())
	if err != nil {
		return Transferred{}, err
	}
	began := time.Now()
	if err := s.write(wire); err != nil {
		return Transferred{}, err
	}
	if have == nil {
		have = &Version{}
	}
	t := newTransfer(q, *have, p.String(), c.Limits, newVerifier(p.Key, mac, c.Now))
	for done := false; !done; {
		raw, err := s.read()
		if err == nil {
			done, err = t.message(raw)
			if c.Coming != nil {
				c.Coming(t.records, t.changes != nil)
			}
		}
		if err != nil {
			return Transferred{}, cmp.Or(ctx.Err(), err)
		}
	}
	whole := time.Now()
	got, err := t.finish(before)
	got.Began, got.Whole = began, whole
	return got, err
}

// finish makes the zone of what came.
func (t *transfer) finish(before func() (*zone.Zone, error)) (Transferred, error) {
	got := Transferred{Octets: t.octets, Odd: t.odd.warnings()}
	if t.state == current {
		return got, nil
	}
	z, found := (*zone.Zone)(nil), []zone.Finding(nil)
	if t.changes == nil {
		z, found = t.builder.Build(t.question.name)
	} else {
		old, err := before()
		if err != nil {
			return got, err
		}
		if got.Delta, err = t.changes.delta(old, t.soa.Serial); err != nil {
			return got, err
		}
		z, found = old.Apply(got.Delta)
	}
	if z == nil {
		return got, &RefusedError{Found: found}
	}
	got.Zone = z
	return got, nil
}

// RefusedError is a zone that came whole and cannot be served.
type RefusedError struct {
	Found []zone.Finding
	File  string // that whoever reads this knows of; "" if none
}

func (e *RefusedError) Error() string {
	shown := ""
	errors := 0
	for _, f := range e.Found {
		if f.Severity != zone.Error {
			continue
		}
		if errors++; errors <= 3 {
			shown += "; "
			switch {
			case f.Line == 0:
			case f.File == e.File:
				shown += fmt.Sprintf("line %d: ", f.Line)
			default:
				shown += fmt.Sprintf("%s:%d: ", f.File, f.Line)
			}
			if f.Owner != "" {
				shown += f.Owner + ": "
			}
			shown += f.Rule + ": " + f.Detail
		}
	}
	if errors > 3 {
		shown += fmt.Sprintf("; and %d more", errors-3)
	}
	return "the zone is refused" + shown
}
