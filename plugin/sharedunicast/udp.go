package sharedunicast

import (
	"bytes"
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
		l.crew = newCrew(s.front, conn)
		l.crew.traffic, l.crew.decorate = inChain, decorate
		l.over = func(err error) {
			l.crew.end()
			errs <- err
		}
		go l.run()
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
	perWorker   = 8    // messages for which one goroutine is woken, as long as the chain is quick
)

// quick is how long a message may take in the chain before those that wait are no longer left to the goroutines that are awake.
const quick = time.Millisecond

// crew are the goroutines that put the messages of a socket through the chain. Their number is bounded, and so is what
// waits for them: overload is shed, not kept. Where a fast path has other queries to answer it does not wait for them. To wake a
// goroutine, and to send, takes as long as many a chain, so a goroutine takes several messages and sends their responses together.
type crew struct {
	front    *front
	conn     *udpSocket
	traffic  *traffic           // of the chain
	decorate dns.DecorateWriter // nil, or what a plugin wants to see of responses
	shed     bool               // there is a fast path: what finds no room is lost; else the loop waits, and the kernel's buffer fills
	working  sync.WaitGroup
	owed     atomic.Int64  // responses that the plugin of decorate has not yet sent
	grace    time.Duration // how long the end waits for these: the plugin may have dropped some

	mu       sync.Mutex
	some     sync.Cond // messages, or the end
	room     sync.Cond // for another message
	messages [mostWaiting]*waiting
	first    int
	count    int
	workers  int
	idle     int // of them
	ended    bool
	taken    time.Time // when one of them last took a message
}

func newCrew(f *front, conn *udpSocket) *crew {
	c := &crew{front: f, conn: conn, shed: f.zones.anyFast(), grace: 100 * time.Millisecond}
	c.some.L, c.room.L = &c.mu, &c.mu
	return c
}

// take has a message answered by the chain, after the next call.
func (c *crew) take(b []byte, from netip.AddrPort) {
	p := packets.Get().(*waiting)
	p.from, p.size = from, copy(p.data[:], b)
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.count == mostWaiting {
		if c.shed {
			shedTotal.WithLabelValues(c.front.core.Addr).Inc()
			packets.Put(p)
			return
		}
		c.summon(time.Time{})
		c.room.Wait()
	}
	c.messages[(c.first+c.count)%mostWaiting] = p
	c.count++
}

// call wakes as many goroutines as what waits needs, and says whether it has to be called again soon if something still waits then.
func (c *crew) call(now time.Time) (again bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.summon(now)
	return c.count > 0
}

// summon is call with mu held.
func (c *crew) summon(now time.Time) {
	if c.count == 0 {
		return
	}
	awake := c.workers - c.idle
	need := (c.count + perWorker - 1) / perWorker
	if awake > 0 && now.Sub(c.taken) > quick {
		need = awake + c.count // those that are awake wait for something
	}
	for ; awake < min(need, mostWorkers); awake++ {
		if c.idle > 0 {
			c.idle-- // it is awake from here on
			c.some.Signal()
			continue
		}
		c.workers++
		c.working.Go(func() { c.work(&outbox{conn: c.conn}, true) })
	}
}

// next is the next message, nil if there is none now, or at the end if that is waited for.
func (c *crew) next(wait bool) *waiting {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.count == 0 {
		if !wait || c.ended {
			return nil
		}
		c.idle++
		c.some.Wait()
	}
	p := c.messages[c.first]
	c.messages[c.first] = nil
	c.first = (c.first + 1) % mostWaiting
	c.count--
	c.taken = time.Now()
	c.room.Signal()
	return p
}

// work answers messages until the end, or until none waits. What is answered waits for the next message only if that is there, and the
// chain is quick.
func (c *crew) work(box *outbox, stay bool) {
	for {
		p := c.next(false)
		if p == nil {
			box.flush()
			if p = c.next(stay); p == nil {
				return
			}
		}
		began := time.Now()
		c.serve(p, box, began)
		if time.Since(began) > quick {
			box.flush()
		}
		packets.Put(p)
	}
}

func (c *crew) serve(p *waiting, box *outbox, now time.Time) {
	defer recovered(c.front.core.Addr)
	d := &datagram{box: box, to: p.from}
	defer d.over()
	x := &responder{out: d, local: c.conn.local, remote: net.UDPAddrFromAddrPort(p.from),
		asked: asked{client: p.from.Addr().WithZone(""), now: now}, traffic: c.traffic}
	if c.decorate != nil {
		d.owed = &c.owed
		x.out = decorated{c.decorate(d), &c.owed}
	}
	var q query.Query
	c.front.pass(p.data[:p.size], &q, q.Parse(p.data[:p.size]), x)
}

// end waits for what is in the chain. Nobody calls any more, so what waits gets a goroutine at once: those that are awake may wait for
// something.
func (c *crew) end() {
	c.mu.Lock()
	c.ended, c.taken = true, time.Time{}
	c.summon(time.Now())
	c.some.Broadcast()
	c.mu.Unlock()
	c.working.Wait()
	for end := time.Now().Add(c.grace); c.owed.Load() > 0 && time.Now().Before(end); {
		time.Sleep(quick)
	}
}

// decorated gives responses to a plugin's writer, which may send them later, from a goroutine of its own.
type decorated struct {
	dns.Writer
	owed *atomic.Int64
}

// Write implements dns.Writer.
func (d decorated) Write(b []byte) (int, error) {
	d.owed.Add(1)
	return d.Writer.Write(bytes.Clone(b)) // whose memory is used again
}

// datagram writes to one client. What a plugin's writer writes when the handlers have returned is sent at once.
type datagram struct {
	box  *outbox
	to   netip.AddrPort
	owed *atomic.Int64 // what a plugin's writer has not yet written, if there is one
	late bool          // with box.mu
}

// Write implements dns.Writer.
func (d *datagram) Write(b []byte) (int, error) {
	if d.owed != nil {
		defer d.owed.Add(-1)
	}
	d.box.mu.Lock()
	defer d.box.mu.Unlock()
	if d.late || !d.box.add(b, d.to) {
		return d.box.conn.writeTo(b, d.to)
	}
	return len(b), nil
}

// over ends the collecting of responses.
func (d *datagram) over() {
	d.box.mu.Lock()
	d.late = true
	d.box.mu.Unlock()
}
