package sharedunicast

import (
	"container/list"
	"net"
	"sync"
)

// TCP connections to the shared addresses may have half of the process's descriptors. The rest is for what the node
// needs to stay right: its state at a switchover, the repository, the clock. Without that bound whoever opens many
// connections silences the node.

// mostConnections is what a process holds without noticing, however many descriptors it may have.
const mostConnections = 10000

// connected are the connections of the process.
var connected = crowd{most: min(mostConnections, descriptors()/2)}

// crowd is a bounded number of connections: the oldest ends where there is no room for the newest, so that a client gets
// its turn among others who only hold theirs.
type crowd struct {
	most int

	mu    sync.Mutex
	conns list.List // the oldest first
}

// enter lets a connection in, and returns what leave wants.
func (c *crowd) enter(conn net.Conn) *list.Element {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conns.Len() >= c.most {
		oldest := c.conns.Remove(c.conns.Front()).(net.Conn)
		oldest.Close() // its server finds that out, and closes it again
	}
	return c.conns.PushBack(conn)
}

// leave gives the place of a connection free, if it still has it.
func (c *crowd) leave(place *list.Element) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.conns.Remove(place)
}
