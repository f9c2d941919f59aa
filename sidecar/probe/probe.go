// Package probe asks the shared addresses real questions, over UDP and TCP, and says what was wrong with the answers.
//
// It counts nothing and decides nothing: one call is one round, and gate makes of rounds what they mean. The codes of what
// it finds are gate's, so that status, log and metrics have the same words. It sends DNS from and to the addresses it is given,
// on this machine, and touches nothing else. main calls it.
package probe

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/gate"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
)

// zonesPerRound bounds a round. Where there are more zones, the rounds take turns: 100,000 are through in three and a half hours
// of rounds a second. One question would tell whether the server lives; it takes them all to tell that each zone is right.
const zonesPerRound = 8

// Config is fixed for the life of a Prober.
type Config struct {
	Addresses []netip.Addr
	Port      uint16
	Slow      time.Duration
	Timeout   time.Duration
}

// Question is a zone to ask for. With Serial, its SOA must carry that.
type Question struct {
	Zone   string // fully qualified
	Serial *uint32
}

// Round is what one round found.
type Round struct {
	Verdict gate.Verdict
	Why     []status.Reason // what made it Slow or Bad
	Probes  []status.Probe
}

// Prober asks. It is used by one goroutine at a time.
type Prober struct {
	cfg  Config
	turn int // the zone with which the next round begins
}

func New(cfg Config) *Prober { return &Prober{cfg: cfg} }

// Ask asks each address over both transports for some of zones, all at once, and returns within the timeout. A wrong
// answer is shown to recheck, with its serial or nil, which says whether it has become right: the release may have been
// switched meanwhile.
func (p *Prober) Ask(ctx context.Context, zones []Question, recheck func(zone string, serial *uint32) bool) Round {
	if len(zones) == 0 {
		return Round{Verdict: gate.Bad, Why: []status.Reason{{Code: gate.ProbeNoZone, Detail: "no zone is known to ask for"}}}
	}
	ctx, cancel := context.WithTimeout(ctx, p.cfg.Timeout)
	defer cancel()
	chosen := p.choose(zones)
	var answers []*answer
	var wait sync.WaitGroup
	for _, address := range p.cfg.Addresses {
		for _, network := range []string{"udp", "tcp"} {
			first := dns.Id()
			var some []*answer
			for i, q := range chosen {
				some = append(some, &answer{probe: status.Probe{Address: address.String(), Network: network, Zone: q.Zone}, question: q, id: first + uint16(i)})
			}
			answers = append(answers, some...)
			wait.Go(func() { p.all(ctx, some, network, netip.AddrPortFrom(address, p.cfg.Port)) })
		}
	}
	wait.Wait()
	return p.sum(answers, recheck)
}

// choose takes the zones of this round, in turn.
func (p *Prober) choose(zones []Question) []Question {
	if len(zones) <= zonesPerRound {
		return zones
	}
	var chosen []Question
	for range zonesPerRound {
		p.turn %= len(zones)
		chosen = append(chosen, zones[p.turn])
		p.turn++
	}
	return chosen
}

// answer is one question's fate.
type answer struct {
	question Question
	id       uint16 // of its message
	came     bool   // or there is a fault, and nothing more to wait for
	probe    status.Probe
	fault    *status.Reason
	serial   *uint32 // the only fault is this serial
}

func (a *answer) server() [2]string { return [2]string{a.probe.Address, a.probe.Network} }

func (p *Prober) sum(answers []*answer, recheck func(string, *uint32) bool) Round {
	r := Round{Verdict: gate.Good}
	answering := map[[2]string]bool{} // by address and transport: something was answered
	for _, a := range answers {
		if a.fault != nil && a.fault.Code == gate.ProbeWrong && recheck(a.probe.Zone, a.serial) {
			a.fault = nil
		}
		answering[a.server()] = answering[a.server()] || a.fault == nil || a.fault.Code == gate.ProbeWrong
	}
	for _, a := range answers {
		verdict, why := p.judge(a, answering[a.server()])
		if a.probe.Up = a.fault == nil; why != nil {
			a.probe.Reason = why.String()
			r.Why = append(r.Why, *why)
		}
		r.Verdict = max(r.Verdict, verdict)
		r.Probes = append(r.Probes, a.probe)
	}
	return r
}

// judge says what an answer is worth. A server that answers some questions in time and others not is overloaded, which is slow
// and not bad (FAIL-3).
func (p *Prober) judge(a *answer, answering bool) (gate.Verdict, *status.Reason) {
	switch {
	case a.fault != nil && a.fault.Code == gate.ProbeHanging && answering:
		return gate.Slow, &status.Reason{Code: gate.ProbeSlow, Detail: a.fault.Detail + ", and others are answered"}
	case a.fault != nil:
		return gate.Bad, a.fault
	case a.probe.Latency > p.cfg.Slow:
		return gate.Slow, &status.Reason{Code: gate.ProbeSlow, Detail: fmt.Sprintf("%s over %s answers for %s after %v",
			a.probe.Address, a.probe.Network, a.probe.Zone, a.probe.Latency.Round(time.Millisecond))}
	}
	return gate.Good, nil
}

// all asks a server all questions at once, by one socket, and over TCP by one connection, as a client does (RFC 7766 6.2.1). A socket for
// each costs an idle node more than all else that it does. A server that ends a connection after some answers is asked the rest
// by another.
func (p *Prober) all(ctx context.Context, answers []*answer, network string, server netip.AddrPort) {
	for open := answers; len(open) > 0; {
		err := p.ask(ctx, open, network, server)
		rest := slices.DeleteFunc(slices.Clone(open), func(a *answer) bool { return a.came })
		if err != nil && (network == "udp" || len(rest) == len(open) || ctx.Err() != nil) {
			for _, a := range rest {
				a.fail(err, server)
			}
			return
		}
		open = rest
	}
}

// ask sends the questions, and takes what comes until each has its answer.
func (p *Prober) ask(ctx context.Context, open []*answer, network string, server netip.AddrPort) error {
	start := time.Now()
	client := dns.Client{Net: network, Timeout: p.cfg.Timeout, Dialer: from(network, server.Addr())}
	conn, err := client.DialContext(ctx, server.String())
	if err != nil {
		return err
	}
	defer conn.Close()
	if end, ok := ctx.Deadline(); ok {
		conn.SetDeadline(end)
	}
	defer context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })()
	if err := send(conn, open); err != nil {
		return err
	}
	for waiting := len(open); waiting > 0; {
		var head dns.Header
		data, err := conn.ReadMsgHeader(&head)
		if err != nil {
			return err
		}
		i := slices.IndexFunc(open, func(a *answer) bool { return a.id == head.Id && !a.came })
		if i < 0 {
			continue // it answers nothing that was asked
		}
		open[i].take(data, time.Since(start), server)
		waiting--
	}
	return nil
}

// send sends the questions at once, over TCP as one stream.
func send(conn *dns.Conn, open []*answer) error {
	var messages [][]byte
	for _, a := range open {
		m := new(dns.Msg).SetQuestion(a.question.Zone, dns.TypeSOA)
		m.RecursionDesired, m.Id = false, a.id
		data, err := m.Pack()
		if err != nil {
			return err
		}
		messages = append(messages, data)
	}
	if udp, is := conn.Conn.(*net.UDPConn); is {
		return burst(udp, messages)
	}
	var stream []byte
	for _, data := range messages {
		stream = append(binary.BigEndian.AppendUint16(stream, uint16(len(data))), data...)
	}
	_, err := conn.Conn.Write(stream)
	return err
}

// where is what was asked of whom, in words.
func (a *answer) where(server netip.AddrPort) string {
	return fmt.Sprintf("%s over %s, %s SOA", server.Addr(), a.probe.Network, a.question.Zone)
}

// take judges a message that answers the question.
func (a *answer) take(data []byte, latency time.Duration, server netip.AddrPort) {
	a.came, a.probe.Latency = true, latency
	reply := new(dns.Msg)
	if err := reply.Unpack(data); err != nil {
		a.fault = &status.Reason{Code: gate.ProbeWrong, Detail: a.where(server) + ": " + err.Error()}
		return
	}
	if what := wrong(reply, a.question, a); what != "" {
		a.fault = &status.Reason{Code: gate.ProbeWrong, Detail: a.where(server) + ": " + what}
	}
}

// fail is what becomes of a question without an answer.
func (a *answer) fail(err error, server netip.AddrPort) {
	a.came = true
	if errors.Is(err, syscall.EADDRNOTAVAIL) {
		host := netip.PrefixFrom(server.Addr(), server.Addr().BitLen())
		a.fault = &status.Reason{Code: gate.ProbeDead, Detail: fmt.Sprintf("%s: on no interface of this machine: ip addr add %s dev lo", a.where(server), host)}
		return
	}
	a.fault = &status.Reason{Code: codeOf(err), Detail: a.where(server) + ": " + err.Error()}
}

// from asks from the shared address itself. A question from there to there stays on the machine, and where no interface has the
// address none is asked. From another one it would take the route to another node of the mesh, whose right answer proves
// nothing of this one.
func from(network string, shared netip.Addr) *net.Dialer {
	if network == "udp" {
		return &net.Dialer{LocalAddr: net.UDPAddrFromAddrPort(netip.AddrPortFrom(shared, 0))}
	}
	return &net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(shared, 0))}
}

// wrong says what in the reply is not as it must be; empty is right.
func wrong(reply *dns.Msg, q Question, a *answer) string {
	if reply.Rcode != dns.RcodeSuccess {
		return dns.RcodeToString[reply.Rcode]
	}
	if !reply.Authoritative {
		return "the answer is not authoritative"
	}
	for _, rr := range reply.Answer {
		soa, ok := rr.(*dns.SOA)
		if !ok || dns.CanonicalName(soa.Hdr.Name) != dns.CanonicalName(q.Zone) {
			continue
		}
		if q.Serial != nil && soa.Serial != *q.Serial {
			a.serial = &soa.Serial
			return fmt.Sprintf("serial %d, want %d", soa.Serial, *q.Serial)
		}
		return ""
	}
	return "the answer holds no SOA"
}

// codeOf tells a server that hangs, or is not let through to, from one that is not there. What comes and cannot be read as DNS
// is wrong, and so is a stream that is closed without an answer: somebody is there who does that.
func codeOf(err error) string {
	var n net.Error
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded), errors.As(err, &n) && n.Timeout():
		return gate.ProbeHanging
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return gate.ProbeWrong
	case errors.As(err, &n):
		return gate.ProbeDead
	}
	return gate.ProbeWrong
}
