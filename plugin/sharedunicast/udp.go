package sharedunicast

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/query"
)

const readUDP = 4096 // octets of a query by UDP that are read

// ServePacket implements caddy.UDPServer: it reads queries until the server stops.
func (s *server) ServePacket(net.PacketConn) error {
	var decorate dns.DecorateWriter
	for _, c := range s.group.configs {
		if c.UDPDecorateWriterFunc != nil {
			decorate = c.UDPDecorateWriterFunc(s.core())
		}
	}
	defer s.loops.Done()
	addThreads(len(s.packets))
	defer addThreads(-len(s.packets))
	errs := make(chan error, len(s.packets))
	for i, conn := range s.packets {
		l := &udpLoop{front: s.front, conn: conn, stop: s.stop, address: s.group.address(), socket: s.firstSocket + i}
		kind, name := kindOfSocket(s.group.addr, false), fmt.Sprint(l.address, " ", l.socket)
		l.traffic = s.front.guard.recorder.socket(kind, name)
		inChain := s.front.guard.recorder.socket(kind, name+" chain") // for which a loop does not wait, nor it for a loop
		l.crew = crew{front: s.front, conn: conn, traffic: inChain, decorate: decorate, jobs: make(chan *waiting, mostWaiting),
			shed: s.front.zones.anyFast()}
		go func() {
			err := l.run()
			l.crew.end()
			errs <- err
		}()
	}
	var err error
	for range s.packets {
		err = errors.Join(err, <-errs)
	}
	return err
}

// waiting is a message that came by UDP and waits for its turn in the chain.
type waiting struct {
	from netip.AddrPort
	size int
	data [readUDP]byte
}

var packets = sync.Pool{New: func() any { return new(waiting) }}

const (
	mostWaiting = 1024 // messages of a socket that wait for the chain
	mostWorkers = 64   // goroutines of a socket in the chain
)

// crew are the goroutines that put the messages of a socket through the chain. Their number is bounded, and so is what
// waits for them: overload is shed, not kept. Where a fast path has other queries to answer it does not wait for them.
type crew struct {
	front    *front
	conn     *udpSocket
	traffic  *traffic           // of the chain
	decorate dns.DecorateWriter // nil, or what a plugin wants to see of responses
	jobs     chan *waiting
	shed     bool         // what finds no room is lost; else the loop waits, and the kernel's buffer fills
	workers  int          // only the loop counts them up
	idle     atomic.Int32 // how many of them wait
	working  sync.WaitGroup
}

// take has a message answered by the chain.
func (c *crew) take(b []byte, from netip.AddrPort) {
	p := packets.Get().(*waiting)
	p.from, p.size = from, copy(p.data[:], b)
	if c.idle.Load() == 0 && c.workers < mostWorkers {
		c.workers++
		c.working.Go(c.work)
	}
	if !c.shed {
		c.jobs <- p
		return
	}
	select {
	case c.jobs <- p:
	default:
		shedTotal.WithLabelValues(c.front.core.Addr).Inc()
		packets.Put(p)
	}
}

func (c *crew) work() {
	for {
		c.idle.Add(1)
		p, ok := <-c.jobs
		c.idle.Add(-1)
		if !ok {
			return
		}
		c.serve(p)
		packets.Put(p)
	}
}

func (c *crew) serve(p *waiting) {
	defer recovered(c.front.core.Addr)
	x := &responder{out: &datagram{c.conn, p.from}, local: c.conn.local, remote: net.UDPAddrFromAddrPort(p.from),
		asked: asked{client: p.from.Addr().WithZone(""), now: time.Now()}, traffic: c.traffic}
	if c.decorate != nil {
		x.out = c.decorate(x.out)
	}
	var q query.Query
	c.front.pass(p.data[:p.size], &q, q.Parse(p.data[:p.size]), x)
}

// end waits for what is in the chain.
func (c *crew) end() {
	close(c.jobs)
	c.working.Wait()
}

// datagram writes to one client.
type datagram struct {
	conn *udpSocket
	to   netip.AddrPort
}

// Write implements dns.Writer.
func (d *datagram) Write(b []byte) (int, error) { return d.conn.writeTo(b, d.to) }
