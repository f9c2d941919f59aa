package sharedunicast

import (
	"container/list"
	"net/netip"
	"sync"
	"sync/atomic"
)

// TCP connections to the shared addresses may have half of the process's descriptors. The rest is for what the node
// needs to stay right: its state at a switchover, the repository, the clock. Without that bound whoever opens many
// connections silences the node.

// mostConnections is what a process holds without noticing, however many descriptors it may have.
const mostConnections = 10000

// shareOfPrefix is the part of all connections that one prefix may have where there is no room.
const shareOfPrefix = 8

// connected are the connections of the process.
var connected = crowd{most: min(mostConnections, descriptors()/2)}

// ending are the connections that were told to end, since their place was given to another one, and whose descriptors are still open.
var ending atomic.Int32

// mostEnding is how many of them there may be before no more are taken. Each has a descriptor, and whoever takes connections is quicker than
// those that close them: a loop that is kept busy by others, or goroutines that wait for a processor.
var mostEnding = int32(max(1, min(64, connected.most/8)))

// laden are those that take more memory than a few kilobytes: what has come of a long message, or responses that the client has not yet
// made room for. Each takes up to 200 kB, so all connections at once would take 2 GB.
var laden = crowd{most: mostLaden}

const mostLaden = 500

// crowd is a bounded number of connections: the oldest ends where there is no room for the newest, so that a client gets
// its turn among others who only hold theirs. Who opens many, from one /24 or /56, then ends its own.
type crowd struct {
	most int

	mu     sync.Mutex
	conns  list.List // of *guest, the oldest first
	ending int       // those that were told to end and have not left
	having map[netip.Prefix]*list.List
}

// ender is a connection that can be ended by who does not read it. It stays in its place as long as it can.
type ender interface{ end() }

// guest is a connection that has a place.
type guest struct {
	conn       ender
	prefix     netip.Prefix
	place, own *list.Element // among all, and among those of its prefix
	ended      bool          // told to
}

// enter lets a connection in, and returns what leave wants.
func (c *crowd) enter(client netip.Addr, conn ender) *guest {
	g := &guest{conn: conn, prefix: prefixOf(client)}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.having == nil {
		c.having = map[netip.Prefix]*list.List{}
	}
	if c.conns.Len() >= c.most {
		goes := c.conns.Front()
		if same := c.having[g.prefix]; same != nil && same.Len() > c.most/shareOfPrefix {
			goes = same.Front().Value.(*guest).place
		}
		oldest := goes.Value.(*guest)
		c.remove(oldest)
		oldest.ended = true
		c.ending++
		oldest.conn.end()
	}
	same := c.having[g.prefix]
	if same == nil {
		same = list.New()
		c.having[g.prefix] = same
	}
	g.place, g.own = c.conns.PushBack(g), same.PushBack(g)
	return g
}

// move gives the place of a connection to another one, which is the same for the client. If the place was lost, it ends.
func (c *crowd) move(g *guest, conn ender) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if g.conn = conn; g.place == nil {
		conn.end()
	}
}

// leave gives the place of a connection free, if it still has it.
func (c *crowd) leave(g *guest) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.remove(g)
	if g.ended {
		g.ended = false
		c.ending--
	}
}

// lags says whether as many as may be here were told to end, and have not yet done so.
func (c *crowd) lags() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ending >= c.most
}

// remove is leave for who holds mu.
func (c *crowd) remove(g *guest) {
	same := c.having[g.prefix]
	if g.place == nil || same == nil {
		return
	}
	c.conns.Remove(g.place)
	if same.Remove(g.own); same.Len() == 0 {
		delete(c.having, g.prefix)
	}
	g.place = nil
}

// prefixOf is the prefix that a client is taken to have.
func prefixOf(a netip.Addr) netip.Prefix {
	bits := prefixIPv6
	if a.Is4() {
		bits = prefixIPv4
	}
	p, _ := a.Prefix(bits)
	return p
}
