package receive

import (
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

// client asks primaries.
type client struct {
	limits Limits
	now    func() time.Time
	coming *coming // is told how far a transfer is; nil: nobody
}

// session is a stream to a primary. Close it.
type session struct {
	net.Conn
	client *client
	p      Primary
	end    time.Time // of all of it
	stop   func() bool
	heard  bool // a message
	buf    [65535]byte
}

// connect opens a stream, which ends with ctx.
func (c *client) connect(ctx context.Context, p Primary) (*session, error) {
	end := time.Now().Add(c.limits.Time)
	ctx, cancel := context.WithTimeout(ctx, c.limits.Stall)
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
		if conn, err = p.TLS.handshake(ctx, conn, p.Address.Addr(), c.now); err != nil {
			return nil, err
		}
	}
	return &session{Conn: conn, client: c, p: p, end: end}, nil
}

// bind closes the session when ctx ends.
func (s *session) bind(ctx context.Context) {
	s.stop = context.AfterFunc(ctx, func() { s.Conn.Close() })
}

func (s *session) Close() error {
	if s.stop != nil {
		s.stop()
	}
	return s.Conn.Close()
}

// deadline is that of the next message: a stall is not waited for, and neither is the end of a trickle.
func (s *session) deadline() time.Time {
	if next := time.Now().Add(s.client.limits.Stall); next.Before(s.end) {
		return next
	}
	return s.end
}

func (s *session) write(wire []byte) error {
	s.SetWriteDeadline(s.deadline())
	if _, err := s.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(wire))), wire...)); err != nil {
		return s.broken(err)
	}
	return nil
}

// read takes the next message, good until the one after.
func (s *session) read() ([]byte, error) {
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
func (s *session) broken(err error) error {
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
func (s *session) soa(name string) (*dns.SOA, error) {
	m, q := request(name, dns.TypeSOA)
	wire, mac, err := s.p.Key.sign(m, nil, s.client.now())
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
	return soaIn(raw, q, newVerifier(s.p.Key, mac, s.client.now))
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
func (c *client) soaUDP(ctx context.Context, p Primary, name string) (*dns.SOA, error) {
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
func (c *client) tryUDP(conn net.Conn, p Primary, name string) (*dns.SOA, error) {
	m, q := request(name, dns.TypeSOA)
	wire, mac, err := p.Key.sign(m, nil, c.now())
	if err != nil {
		return nil, err
	}
	if _, err := conn.Write(wire); err != nil {
		return nil, err
	}
	conn.SetReadDeadline(time.Now().Add(min(udpWait, c.limits.Stall)))
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
		soa, err := soaIn(buf[:n], q, newVerifier(p.Key, mac, c.now))
		if err == nil || p.Key == nil {
			return soa, err
		}
		wrong = err
	}
}

var errNoAnswer = errors.New("no answer by UDP")

// querySOA asks a primary for its SOA: by UDP and, where that fails or is refused, by TCP; by TLS where that is configured, in the session
// that it returns for the transfer. Close the session if it is not nil.
func (c *client) querySOA(ctx context.Context, p Primary, name string) (*dns.SOA, *session, error) {
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

// transferred is what a transfer gave.
type transferred struct {
	zone   *zone.Zone // nil: the primary has nothing newer after all
	how    How
	octets int64
	odd    []string // what was not taken as it came

	began, whole time.Time // when it was asked for, and when the last octet had come
}

// transfer gets the zone: the differences to what we have, or all of it if there is nothing, or they cannot be had or do
// not fit. before loads what we have. doubt is why it was not the differences. It closes the session.
func (c *client) transfer(ctx context.Context, p Primary, s *session, name string, have *version, before func() (*zone.Zone, error)) (got transferred, doubt, err error) {
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
func (c *client) once(ctx context.Context, p Primary, s *session, name string, have *version, before func() (*zone.Zone, error)) (transferred, error) {
	if s == nil {
		var err error
		if s, err = c.connect(ctx, p); err != nil {
			return transferred{}, err
		}
		s.bind(ctx)
	}
	defer s.Close()
	m, q := request(name, dns.TypeAXFR)
	if have != nil {
		id := m.Id
		m.SetIxfr(name, have.serial, ".", ".")
		m.Id, q.typ = id, dns.TypeIXFR
	}
	wire, mac, err := p.Key.sign(m, nil, c.now())
	if err != nil {
		return transferred{}, err
	}
	began := time.Now()
	if err := s.write(wire); err != nil {
		return transferred{}, err
	}
	if have == nil {
		have = &version{}
	}
	t := newTransfer(q, *have, p.String(), c.limits, newVerifier(p.Key, mac, c.now))
	for done := false; !done; {
		raw, err := s.read()
		if err == nil {
			done, err = t.message(raw)
			c.coming.tell(t.records, t.changes != nil)
		}
		if err != nil {
			return transferred{}, cmpErr(ctx.Err(), err)
		}
	}
	whole := time.Now()
	got, err := t.finish(before)
	got.began, got.whole = began, whole
	return got, err
}

func cmpErr(first, second error) error {
	if first != nil {
		return first
	}
	return second
}

// finish makes the zone of what came.
func (t *transfer) finish(before func() (*zone.Zone, error)) (transferred, error) {
	got := transferred{how: AXFR, octets: t.octets, odd: t.odd.warnings()}
	if t.state == current {
		got.how = ""
		return got, nil
	}
	b := t.builder
	if t.changes != nil {
		got.how = IXFR
		old, err := before()
		if err != nil {
			return got, err
		}
		if b, err = t.changes.apply(old, t.source); err != nil {
			return got, err
		}
	}
	z, found := b.Build(t.question.name)
	if z == nil {
		return got, &refusedError{found, ""}
	}
	got.zone = z
	return got, nil
}

// refusedError is a zone that came whole and cannot be served.
type refusedError struct {
	found []zone.Finding
	file  string // that whoever reads this knows of; "" if none
}

func (e *refusedError) Error() string {
	shown := ""
	errors := 0
	for _, f := range e.found {
		if f.Severity != zone.Error {
			continue
		}
		if errors++; errors <= 3 {
			shown += "; "
			switch {
			case f.Line == 0:
			case f.File == e.file:
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
