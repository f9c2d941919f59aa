//go:build linux

package main

import (
	"context"
	"encoding/hex"
	"net/netip"
	"time"

	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/lab"
)

// question asks for the SOA of a zone, whose serial says which release the answer is from, and for the name of whoever
// answers (ADMIN-1).
func question(zone string) *dns.Msg {
	m := new(dns.Msg).SetQuestion(zone, dns.TypeSOA)
	m.RecursionDesired = false
	m.SetEdns0(1232, false)
	m.IsEdns0().Option = append(m.IsEdns0().Option, &dns.EDNS0_NSID{Code: dns.EDNS0NSID})
	return m
}

// reading reads an answer to question.
func reading(m *dns.Msg) lab.Reply {
	r := lab.Reply{Rcode: m.Rcode}
	for _, rr := range m.Answer {
		if soa, ok := rr.(*dns.SOA); ok && m.Rcode == dns.RcodeSuccess {
			r.Answer, r.Release = true, uint64(soa.Serial)
		}
	}
	if opt := m.IsEdns0(); opt != nil {
		for _, o := range opt.Option {
			if nsid, ok := o.(*dns.EDNS0_NSID); ok {
				name, _ := hex.DecodeString(nsid.Nsid)
				r.Node = string(name)
			}
		}
	}
	return r
}

// ask asks one question over UDP from a place, and waits for the answer from where it was sent to.
func ask(p *lab.Place, server netip.AddrPort, zone string, timeout time.Duration) (lab.Reply, error) {
	conn, err := p.ListenUDP()
	if err != nil {
		return lab.Reply{}, err
	}
	defer conn.Close()
	q := question(zone)
	query, err := q.Pack()
	if err != nil {
		return lab.Reply{}, err
	}
	if _, err := conn.WriteToUDPAddrPort(query, server); err != nil {
		return lab.Reply{}, err
	}
	conn.SetReadDeadline(time.Now().Add(timeout))
	buffer := make([]byte, 4096)
	for {
		n, from, err := conn.ReadFromUDPAddrPort(buffer)
		if err != nil {
			return lab.Reply{}, err
		}
		if m := new(dns.Msg); unmapped(from) == server && m.Unpack(buffer[:n]) == nil && m.Id == q.Id {
			return reading(m), nil
		}
	}
}

func unmapped(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()) }

// load is a steady stream of queries from one place to one address.
type load struct {
	name string
	*lab.Load
}

// loadInterval is the time between two queries of a load: 500 a second.
const loadInterval = 2 * time.Millisecond

// patience is how long a query may go unanswered before it counts as lost.
const patience = time.Second

// startLoad begins a load that ends with ctx. to is where the routing sends a query now; false: nowhere.
func startLoad(ctx context.Context, name string, p *lab.Place, zone string, to func() (netip.AddrPort, bool)) (*load, error) {
	conn, err := p.ListenUDP()
	if err != nil {
		return nil, err
	}
	l := &lab.Load{Conn: conn, Every: loadInterval, Patience: patience, Question: func(int) *dns.Msg { return question(zone) }, Read: reading,
		Send: func(query []byte) {
			if at, routed := to(); routed {
				conn.WriteToUDPAddrPort(query, at)
			}
		}}
	context.AfterFunc(ctx, func() { l.Stop(); conn.Close() })
	return &load{name, l.Start()}, nil
}
