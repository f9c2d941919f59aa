package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/zone"
	"github.com/coredns-anycast/coredns-anycast/test/zonegen"
)

// A question is a query and how it is asked.
type question struct {
	msg  *dns.Msg
	tcp  bool
	wire bool // asked of the real coredns, beside the others, and not of the zone engine
}

// newQuestion makes a random query about a zone.
func newQuestion(r *rand.Rand, z *zonegen.Zone) (q question) {
	q.msg, q.tcp = z.Question(r)
	return q
}

// A universe is the zones that all servers have at one time.
type universe struct {
	dir     string
	zones   []*zonegen.Zone
	ours    *zone.Zones
	owners  map[string]bool // of all records, lower case
	hashes  map[string]bool // owners of NSEC3 records alone
	origins map[string]bool
	servers []*server // the peers, and last our own if it is asked too
	wire    bool      // whether it is
	steps   steps     // in which ours came to be
}

// prepare signs zones, two at a time, loads them, and makes them of earlier versions.
func (o *options) prepare(dir string, sources []zonegen.Source) (*universe, error) {
	dir, err := os.MkdirTemp(dir, "universe-")
	if err != nil {
		return nil, err
	}
	u := &universe{dir: dir, zones: make([]*zonegen.Zone, len(sources)), owners: map[string]bool{}, hashes: map[string]bool{}, origins: map[string]bool{}}
	errs := make([]error, len(sources))
	var wg sync.WaitGroup
	for worker := range 2 {
		wg.Go(func() {
			for i := worker; i < len(sources); i += 2 {
				u.zones[i], errs[i] = sources[i].Load(dir, i)
			}
		})
	}
	wg.Wait()
	var ours []*zone.Zone
	for i, z := range u.zones {
		if errs[i] != nil {
			return nil, errs[i]
		}
		made, steps, err := stepByStep(z.Image, o.steps, o.seed)
		if err != nil {
			return nil, err
		}
		u.steps.add(steps)
		ours = append(ours, made)
		u.origins[strings.ToLower(z.Origin)] = true
		for rr := range z.Image.Records() {
			u.owners[strings.ToLower(rr.Header().Name)] = true
			if rr.Header().Rrtype == dns.TypeNSEC3 {
				u.hashes[strings.ToLower(rr.Header().Name)] = true
			}
		}
		for rr := range z.Image.Records() {
			if t := rr.Header().Rrtype; t != dns.TypeNSEC3 && t != dns.TypeRRSIG {
				delete(u.hashes, strings.ToLower(rr.Header().Name))
			}
		}
	}
	u.ours, err = zone.NewZones(ours...)
	return u, err
}

// start starts the servers, and waits until all of them have every zone, each for so long.
func (u *universe) start(launchers []launcher, patience time.Duration) error {
	for _, l := range launchers {
		s, err := l.start(u.dir, u.zones)
		if err != nil {
			return err
		}
		u.servers = append(u.servers, s)
	}
	for _, s := range u.servers {
		if err := s.await(u.zones, patience); err != nil {
			return err
		}
	}
	u.wire = len(launchers) > len(peers)
	return nil
}

// stop ends the servers and removes everything.
func (u *universe) stop() {
	var wg sync.WaitGroup
	for _, s := range u.servers {
		wg.Go(s.Stop)
	}
	wg.Wait()
	os.RemoveAll(u.dir)
}

// answer is the zone engine's response to a question, as a server would send it.
func (u *universe) answer(q question) (*dns.Msg, error) {
	size := dns.MaxMsgSize
	if !q.tcp {
		size = sizeUDP(q.msg)
	}
	zq, err := engineQuery(q.msg)
	if err != nil {
		return nil, err
	}
	a := u.ours.Lookup(zq)
	r := zone.Request{Query: zq, ID: q.msg.Id, RecursionDesired: q.msg.RecursionDesired}
	if q.msg.IsEdns0() != nil {
		r.OPT = make([]byte, 11)
		if _, err := dns.PackRR(ownOPT(q.msg), r.OPT, 0, nil, false); err != nil {
			return nil, err
		}
	}
	wire, _ := a.AppendTo(nil, &r, size)
	packet, err := unpack(wire, size)
	if err != nil {
		return nil, err
	}
	return packet, u.sameAsMsg(q.msg, &a, packet, size)
}

// sizeUDP is the largest response by UDP to a query (RFC 6891 6.2.5).
func sizeUDP(q *dns.Msg) int {
	if opt := q.IsEdns0(); opt != nil {
		return min(max(dns.MinMsgSize, int(opt.UDPSize())), maxUDP)
	}
	return dns.MinMsgSize
}

// ownOPT is the OPT record of the response to a query that has one.
func ownOPT(q *dns.Msg) *dns.OPT {
	opt := &dns.OPT{Hdr: dns.RR_Header{Name: ".", Rrtype: dns.TypeOPT}}
	opt.SetUDPSize(maxUDP)
	opt.SetDo(q.IsEdns0().Do())
	return opt
}

func engineQuery(q *dns.Msg) (zone.Query, error) {
	name := make([]byte, 256)
	n, err := dns.PackDomainName(q.Question[0].Name, name, 0, nil, false)
	if err != nil {
		return zone.Query{}, err
	}
	opt := q.IsEdns0()
	return zone.Query{Name: name[:n], Type: q.Question[0].Qtype, Class: q.Question[0].Qclass, DO: opt != nil && opt.Do()}, nil
}

func unpack(wire []byte, size int) (*dns.Msg, error) {
	m, err := unpackExact(wire)
	if err != nil || len(wire) > size {
		return nil, fmt.Errorf("response of %d octets, of at most %d: %w", len(wire), size, err)
	}
	return m, nil
}

// sameAsMsg checks that Answer.Msg says what the packet of AppendTo does, which may have room for more.
func (u *universe) sameAsMsg(q *dns.Msg, a *zone.Answer, packet *dns.Msg, size int) error {
	m := a.Msg(q, size)
	if q.IsEdns0() != nil {
		m.Extra = append(m.Extra, ownOPT(q))
	}
	wire, err := m.Pack()
	if err != nil {
		return err
	}
	if m, err = unpack(wire, size); err != nil {
		return err
	}
	if m.Truncated || len(m.Extra) < len(packet.Extra) {
		return nil
	}
	if got, want := u.normal(packet, false), u.normal(m, false); got != want {
		return fmt.Errorf("Answer.AppendTo makes\n%s\nAnswer.Msg\n%s", got, want)
	}
	return nil
}
