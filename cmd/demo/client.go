//go:build linux

package main

import (
	"context"
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/lab"
)

// reply is what a client learnt from one answer.
type reply struct {
	node   string // NSID: which node answered (ADMIN-1)
	serial uint32 // of the zone, and so the release that the answer is from
	rcode  int
}

// question asks for the SOA of a zone and for the name of whoever answers.
func question(zone string, id uint16) ([]byte, error) {
	m := new(dns.Msg)
	m.SetQuestion(zone, dns.TypeSOA)
	m.Id, m.RecursionDesired = id, false
	m.SetEdns0(1232, false)
	m.IsEdns0().Option = append(m.IsEdns0().Option, &dns.EDNS0_NSID{Code: dns.EDNS0NSID})
	return m.Pack()
}

// parse reads an answer to question.
func parse(data []byte) (id uint16, r reply, err error) {
	m := new(dns.Msg)
	if err := m.Unpack(data); err != nil {
		return 0, r, err
	}
	r.rcode = m.Rcode
	for _, rr := range m.Answer {
		if soa, ok := rr.(*dns.SOA); ok {
			r.serial = soa.Serial
		}
	}
	if opt := m.IsEdns0(); opt != nil {
		for _, o := range opt.Option {
			if nsid, ok := o.(*dns.EDNS0_NSID); ok {
				name, _ := hex.DecodeString(nsid.Nsid)
				r.node = string(name)
			}
		}
	}
	return m.Id, r, nil
}

// ask asks one question over UDP from a place, and waits for the answer from where it was sent to.
func ask(p *lab.Place, server netip.AddrPort, zone string, timeout time.Duration) (reply, error) {
	conn, err := p.ListenUDP()
	if err != nil {
		return reply{}, err
	}
	defer conn.Close()
	id := dns.Id()
	q, err := question(zone, id)
	if err != nil {
		return reply{}, err
	}
	if _, err := conn.WriteToUDPAddrPort(q, server); err != nil {
		return reply{}, err
	}
	conn.SetReadDeadline(time.Now().Add(timeout))
	buffer := make([]byte, 4096)
	for {
		n, from, err := conn.ReadFromUDPAddrPort(buffer)
		if err != nil {
			return reply{}, err
		}
		if unmapped(from) != server {
			continue
		}
		if got, r, err := parse(buffer[:n]); err == nil && got == id {
			return r, nil
		}
	}
}

func unmapped(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()) }

// sample is one query of a load: when it was sent and what became of it.
type sample struct {
	sent     time.Time
	received time.Time // zero: no answer yet
	reply
}

// load is a steady stream of queries from one place to one address, each remembered.
type load struct {
	name    string
	place   *lab.Place
	zone    string
	to      func() (netip.AddrPort, bool) // where the routing sends a query now; false: nowhere
	conn    *net.UDPConn
	mu      sync.Mutex
	samples []sample
	byID    [1 << 16]int // place in samples of the newest query of this id
	ended   sync.WaitGroup
}

// loadInterval is the time between two queries of a load: 500 a second.
const loadInterval = 2 * time.Millisecond

// patience is how long a query may go unanswered before it counts as lost.
const patience = time.Second

// startLoad begins a load that ends with ctx.
func startLoad(ctx context.Context, name string, p *lab.Place, zone string, to func() (netip.AddrPort, bool)) (*load, error) {
	conn, err := p.ListenUDP()
	if err != nil {
		return nil, err
	}
	l := &load{name: name, place: p, zone: zone, to: to, conn: conn}
	context.AfterFunc(ctx, func() { conn.Close() })
	l.ended.Go(l.receive)
	l.ended.Go(func() { l.send(ctx) })
	return l, nil
}

func (l *load) send(ctx context.Context) {
	tick := time.NewTicker(loadInterval)
	defer tick.Stop()
	for id := uint16(0); ; id++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		q, err := question(l.zone, id)
		if err != nil {
			return
		}
		to, routed := l.to()
		l.mu.Lock()
		l.byID[id] = len(l.samples)
		l.samples = append(l.samples, sample{sent: time.Now()})
		l.mu.Unlock()
		if routed {
			l.conn.WriteToUDPAddrPort(q, to) // what is not sent is not answered, and that is counted
		}
	}
}

func (l *load) receive() {
	buffer := make([]byte, 4096)
	for {
		n, _, err := l.conn.ReadFromUDPAddrPort(buffer)
		now := time.Now()
		if err != nil {
			return
		}
		id, r, err := parse(buffer[:n])
		if err != nil {
			continue
		}
		l.mu.Lock()
		if i := l.byID[id]; i < len(l.samples) && l.samples[i].received.IsZero() {
			l.samples[i].received, l.samples[i].reply = now, r
		}
		l.mu.Unlock()
	}
}

// between returns the queries sent in [from, to), once each had its answer or its time. It waits no longer than that.
func (l *load) between(from, to time.Time) []sample {
	for {
		window, waiting := l.window(from, to)
		if !waiting || time.Since(to) > patience {
			return window
		}
		time.Sleep(loadInterval)
	}
}

func (l *load) window(from, to time.Time) (window []sample, waiting bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range l.samples {
		if !s.sent.Before(from) && s.sent.Before(to) {
			window = append(window, s)
			waiting = waiting || s.received.IsZero()
		}
	}
	return window, waiting
}

// lost counts the queries without an answer.
func lost(window []sample) (n int) {
	for _, s := range window {
		if s.received.IsZero() {
			n++
		}
	}
	return n
}

// wrong returns a word on every answer that no correct mesh gives while it switches over from serial before to serial
// after at instant at, with clocks wrong by at most bound. The server made its choice between sent and received.
func wrong(window []sample, before, after uint32, at time.Time, bound time.Duration) (words []string) {
	for _, s := range window {
		if s.received.IsZero() {
			continue
		}
		switch {
		case s.rcode != dns.RcodeSuccess:
			words = append(words, fmt.Sprintf("%s answered %s", s.node, dns.RcodeToString[s.rcode]))
		case s.serial == before && s.sent.After(at.Add(bound)):
			words = append(words, fmt.Sprintf("%s answered from serial %d to a query sent %v after the switchover", s.node, before, s.sent.Sub(at)))
		case s.serial == after && s.received.Before(at.Add(-bound)):
			words = append(words, fmt.Sprintf("%s answered from serial %d %v before the switchover", s.node, after, at.Sub(s.received)))
		case s.serial != before && s.serial != after:
			words = append(words, fmt.Sprintf("%s answered from serial %d", s.node, s.serial))
		}
	}
	return words
}
