package sharedunicast

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"
	"unsafe"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"github.com/coredns-anycast/coredns-anycast/internal/query"
)

// A goroutine for each connection is woken, and wakes another thread, several times for a query. So a thread of its own serves the
// connections of an address as far as it can do that without waiting for one of them. Whatever else there is goes on as a
// conversation, with its connection: messages for the chain, long ones, and clients that do not read what they are told.

const (
	streamRead   = 1 << 14 // octets that are read of a connection before it is another's turn
	acceptBatch  = 64      // connections that are taken before those that are there have their turn
	streamEvents = unix.EPOLLIN | unix.EPOLLRDHUP
)

// What epoll says has happened, beside connections, which it names by their slot.
const (
	eventAccept = -1 - iota
	eventStop
	eventDrain
)

// streamLoop serves TCP connections in a thread of its own.
type streamLoop struct {
	server   *server
	front    *front
	listener *drainListener
	address  string // as metrics have it
	local    netip.AddrPort
	shared   bool // with other loops
	counter  counter
	traffic  *traffic // nil without statistics

	epoll  int
	query  query.Query
	fast   fast
	now    time.Time
	events [64]unix.EpollEvent
	in     [firstRead + streamRead]byte
	out    []byte // responses that were not yet sent

	name     unix.RawSockaddrInet6 // of the last one that was taken
	nameSize uint32

	slots    []*stream // nil: none
	free     []int32   // slots of slots
	spare    []*stream
	open     int
	fresh    streamList // have asked nothing yet
	idle     streamList
	draining bool
	settled  bool      // the listener was told that there are no more connections
	end      time.Time // of all, once draining
	resume   time.Time // of accepting; zero if it goes on
}

// stream is a connection of a loop.
type stream struct {
	fd       int
	slot     int32
	watched  bool // by epoll
	ended    bool // by who needed its place
	client   netip.AddrPort
	place    *guest
	queries  int
	room     *[firstRead]byte // with a part of a message; nil without
	have     int              // octets of it
	deadline time.Time
	list     *streamList
	prev     *stream
	next     *stream
}

// end implements ender. The loop finds the connection closed, and closes it.
func (c *stream) end() {
	c.ended = true
	ending.Add(1)
	unix.Shutdown(c.fd, unix.SHUT_RDWR)
}

// streamList are connections in the order of their deadlines, since each list has one time that is allowed.
type streamList struct{ first, last *stream }

func (l *streamList) push(c *stream) {
	c.list, c.prev, c.next = l, l.last, nil
	if l.last != nil {
		l.last.next = c
	} else {
		l.first = c
	}
	l.last = c
}

func (l *streamList) remove(c *stream) {
	if c.prev != nil {
		c.prev.next = c.next
	} else {
		l.first = c.next
	}
	if c.next != nil {
		c.next.prev = c.prev
	} else {
		l.last = c.prev
	}
	c.list, c.prev, c.next = nil, nil, nil
}

// serveLoops serves TCP connections in threads of our own until the server stops. It reports whether it could.
func (s *server) serveLoops() bool {
	if len(s.packets) == 0 || !s.front.zones.anyFast() {
		return false
	}
	var loops []*streamLoop
	for i := range s.packets {
		l, err := s.newStreamLoop(i)
		if err != nil {
			logger.Errorf("%s: connections are served without threads of their own: %v", s.Address(), err)
			closeLoops(loops)
			return false
		}
		loops = append(loops, l)
	}
	if !s.listener.begin(len(loops), len(loops), nil) {
		closeLoops(loops)
		return true
	}
	addThreads(len(loops))
	defer addThreads(-len(loops))
	var running sync.WaitGroup
	for _, l := range loops {
		running.Go(l.run)
	}
	running.Wait()
	s.open.Wait()
	closeLoops(loops)
	return true
}

func closeLoops(loops []*streamLoop) {
	for _, l := range loops {
		unix.Close(l.epoll)
	}
}

func (s *server) newStreamLoop(i int) (*streamLoop, error) {
	l := &streamLoop{server: s, front: s.front, listener: s.listener, address: s.group.address(), local: s.listener.socket.local.AddrPort(),
		shared: len(s.packets) > 1, out: make([]byte, 0, mostWritten+1<<16+2)}
	socket := s.firstSocket + i + 1 // 0 has what goroutines count
	l.counter = newCounter(ledgerOf(l.address, "tcp", s.listener.socket.local, socket))
	l.traffic = s.front.guard.recorder.socket(kindOfSocket(s.group.addr, true), fmt.Sprint(l.address, " ", socket))
	var err error
	if l.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, err
	}
	for _, err := range []error{l.watchListener(), l.watch(s.stop.fd, eventStop, unix.EPOLLIN), l.watch(s.listener.told.fd, eventDrain, unix.EPOLLIN)} {
		if err != nil {
			unix.Close(l.epoll)
			return nil, err
		}
	}
	return l, nil
}

func (l *streamLoop) watch(fd int, slot int32, events uint32) error {
	return unix.EpollCtl(l.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: events, Fd: slot})
}

func (l *streamLoop) watchListener() error {
	events := uint32(unix.EPOLLIN)
	if l.shared {
		events |= unix.EPOLLEXCLUSIVE // a connection wakes one of them
	}
	return l.watch(l.listener.socket.fd, eventAccept, events)
}

// ignoreListener is for who closes the descriptor, while another process or instance goes on with the socket: epoll would too.
func (l *streamLoop) ignoreListener() {
	unix.EpollCtl(l.epoll, unix.EPOLL_CTL_DEL, l.listener.socket.fd, &unix.EpollEvent{})
}

// run serves until the server stops.
func (l *streamLoop) run() {
	ownThread()
	l.now = time.Now()
	for {
		n, err := unix.EpollWait(l.epoll, l.events[:], l.timeout())
		if err != nil && !errors.Is(err, unix.EINTR) {
			logger.Errorf("%s: waiting for connections: %v", l.address, err)
			n = 0
			time.Sleep(acceptPause)
		}
		l.now = time.Now()
		accept, stop := false, false
		for i := range max(n, 0) {
			switch slot := l.events[i].Fd; slot {
			case eventAccept:
				accept = true
			case eventStop:
				stop = true
			case eventDrain:
				l.drain()
			default:
				l.serve(l.slots[slot])
			}
		}
		if stop {
			l.closeAll()
			l.drain()
			l.settle()
			return
		}
		if accept && !l.draining {
			l.accept()
		}
		l.expire()
	}
}

// drain takes no more connections, and lets those that are there read until the end.
func (l *streamLoop) drain() {
	if l.draining {
		return
	}
	l.draining = true
	unix.EpollCtl(l.epoll, unix.EPOLL_CTL_DEL, l.listener.told.fd, &unix.EpollEvent{})
	if l.resume.IsZero() {
		l.ignoreListener()
	}
	l.resume = time.Time{}
	l.end = l.listener.takesNoMore()
}

// settle tells the listener that there are no more connections.
func (l *streamLoop) settle() {
	if l.draining && l.open == 0 && !l.settled {
		l.settled = true
		l.listener.loopEnded()
	}
}

// timeout is how many milliseconds may pass until there is something to do though nothing comes; -1: any number.
func (l *streamLoop) timeout() int {
	var next time.Time
	sooner := func(t time.Time) {
		if !t.IsZero() && (next.IsZero() || t.Before(next)) {
			next = t
		}
	}
	for _, list := range []*streamList{&l.fresh, &l.idle} {
		if list.first != nil {
			sooner(list.first.deadline)
		}
	}
	sooner(l.resume)
	if l.open > 0 {
		sooner(l.end)
	}
	if next.IsZero() {
		return -1
	}
	return int(max(next.Sub(l.now), 0)/time.Millisecond) + 1
}

// expire closes connections that have had their time.
func (l *streamLoop) expire() {
	if l.draining && !l.now.Before(l.end) {
		l.closeAll()
	}
	for _, list := range []*streamList{&l.fresh, &l.idle} {
		for list.first != nil && !l.now.Before(list.first.deadline) {
			l.close(list.first)
		}
	}
	if !l.resume.IsZero() && !l.now.Before(l.resume) && l.watchListener() == nil {
		l.resume = time.Time{}
	}
	l.settle()
}

func (l *streamLoop) closeAll() {
	for _, list := range []*streamList{&l.fresh, &l.idle} {
		for list.first != nil {
			l.close(list.first)
		}
	}
}

// accept takes connections, and answers what they have asked already.
func (l *streamLoop) accept() {
	for range acceptBatch {
		if ending.Load() >= mostEnding {
			l.pause()
			return
		}
		l.nameSize = unix.SizeofSockaddrInet6
		fd, _, errno := unix.RawSyscall6(unix.SYS_ACCEPT4, uintptr(l.listener.socket.fd), uintptr(unsafe.Pointer(&l.name)), uintptr(unsafe.Pointer(&l.nameSize)),
			unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0, 0)
		switch errno {
		case 0:
			l.admit(int(fd))
		case unix.EAGAIN:
			return
		case unix.EINTR, unix.ECONNABORTED:
		default: // no descriptor is left, say
			l.pause()
			return
		}
	}
}

// pause takes no connections for a while.
func (l *streamLoop) pause() {
	l.ignoreListener()
	l.resume = l.now.Add(acceptPause)
}

// admit begins with the connection that was taken.
func (l *streamLoop) admit(fd int) {
	c := new(stream)
	if n := len(l.spare); n > 0 {
		c, l.spare = l.spare[n-1], l.spare[:n-1]
	}
	slot := int32(len(l.slots))
	if n := len(l.free); n > 0 {
		slot, l.free = l.free[n-1], l.free[:n-1]
	} else {
		l.slots = append(l.slots, nil)
	}
	*c = stream{fd: fd, slot: slot, client: addrPort(&l.name), deadline: l.now.Add(l.server.core().ReadTimeout)}
	l.slots[slot] = c
	l.open++
	l.fresh.push(c)
	c.place = connected.enter(c.client.Addr().WithZone(""), c)
	l.serve(c)
}

// forget gives free what the loop has of a connection, but for its descriptor and its place.
func (l *streamLoop) forget(c *stream) {
	if c.ended {
		ending.Add(-1)
	}
	if c.room != nil {
		spareRoom.Put(c.room)
	}
	c.list.remove(c)
	l.slots[c.slot] = nil
	l.free = append(l.free, c.slot)
	l.open--
	*c = stream{}
	l.spare = append(l.spare, c)
}

func (l *streamLoop) close(c *stream) {
	connected.leave(c.place) // from here on nobody else knows the descriptor
	unix.RawSyscall(unix.SYS_CLOSE, uintptr(c.fd), 0, 0)
	l.forget(c)
}

// turn is what becomes of a connection.
type turn uint8

const (
	closes turn = iota
	stays
	goesOn // as a conversation
)

// serve reads what has come by a connection, and answers it.
func (l *streamLoop) serve(c *stream) {
	have := 0
	if c.room != nil {
		have = copy(l.in[:], c.room[:c.have])
	}
	n, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(c.fd), uintptr(unsafe.Pointer(&l.in[have])), streamRead, unix.MSG_DONTWAIT, 0, 0)
	unread, what := l.in[:have], closes
	switch {
	case errno == unix.EAGAIN || errno == unix.EINTR:
		what = stays
	case errno == 0 && n > 0:
		before := c.queries
		unread, what = l.answer(c, l.in[:have+int(n)])
		if c.queries > before {
			c.list.remove(c)
			c.deadline = l.now.Add(l.server.core().IdleTimeout)
			l.idle.push(c)
		}
	}
	if what == stays && (len(unread) > firstRead || !c.watched && l.watch(c.fd, c.slot, streamEvents) != nil) {
		what = goesOn
	}
	switch what {
	case closes:
		l.close(c)
	case goesOn:
		l.handOn(c, unread)
	case stays:
		c.watched = true
		c.keep(unread)
	}
	l.out = l.out[:0]
}

// keep keeps a part of a message.
func (c *stream) keep(unread []byte) {
	if c.room == nil && len(unread) > 0 {
		c.room = spareRoom.Get().(*[firstRead]byte)
	}
	if c.room != nil && len(unread) == 0 {
		spareRoom.Put(c.room)
		c.room = nil
	}
	if c.room != nil {
		c.have = copy(c.room[:], unread)
	}
}

// answer answers messages, and returns what is to be read again.
func (l *streamLoop) answer(c *stream, b []byte) (unread []byte, what turn) {
	l.fast.asked = asked{client: c.client.Addr().WithZone(""), stream: true, now: l.now}
	l.counter.ledger.mu.Lock()
	defer l.counter.ledger.mu.Unlock()
	most := l.server.core().MaxTCPQueries
	for {
		if c.queries == most {
			what = closes
			break
		}
		if len(b) < 2 || len(b) < 2+int(binary.BigEndian.Uint16(b)) {
			what = stays
			break
		}
		end := 2 + int(binary.BigEndian.Uint16(b))
		if what = l.message(c, b[2:end]); what != stays {
			break
		}
		b = b[end:]
		c.queries++
		if len(l.out) > mostWritten {
			if what = l.flush(c); what != stays {
				break
			}
		}
	}
	l.counter.took(l.now)
	if what == goesOn {
		return b, what
	}
	if sent := l.flush(c); sent != stays {
		what = sent
	}
	return b, what
}

// message answers a message, in out.
func (l *streamLoop) message(c *stream, b []byte) (what turn) {
	defer recovered(l.address)
	v := l.query.Parse(b)
	at := len(l.out)
	to := append(l.out, 0, 0)
	if v == query.Plain {
		if s := l.front.zones.find(&l.query); s != nil && s.backend != nil {
			response, what := l.fast.respond(to, &l.query, s, l.front.guard, dns.MaxMsgSize)
			switch what {
			case answered:
				l.traffic.query(len(b), l.fast.asked.client)
				if s.counted {
					l.counter.count(s, &l.query, &l.fast, len(b), len(response)-at-2)
				}
				l.reply(c, b, response, at)
				return stays
			case silenced:
				l.traffic.query(len(b), l.fast.asked.client)
				l.front.silenced.Inc()
				return closes
			}
		}
	}
	if v == query.Ignore {
		return closes
	}
	silent := l.front.silent()
	if !silent && (v == query.Unusual || v == query.Plain) {
		return goesOn // where it is counted
	}
	l.traffic.query(len(b), l.fast.asked.client)
	if silent {
		l.front.silenced.Inc()
		return closes
	}
	if response := l.front.bare(to, &l.query, v, &l.fast.asked); len(response) > len(to) {
		l.reply(c, b, response, at)
	}
	return stays
}

// reply has a response sent that was written to out, from there on.
func (l *streamLoop) reply(c *stream, message, response []byte, at int) {
	binary.BigEndian.PutUint16(response[at:], uint16(len(response)-at-2))
	if t := l.front.guard.tapper; t != nil {
		t.tell(c.client, l.local, true, l.now, message, response[at+2:])
	}
	l.traffic.response(response[at+2:])
	l.out = response
}

// flush sends what is pending. A client that does not make room for it is waited for elsewhere.
func (l *streamLoop) flush(c *stream) turn {
	for sent := 0; sent < len(l.out); {
		n, _, errno := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(c.fd), uintptr(unsafe.Pointer(&l.out[sent])), uintptr(len(l.out)-sent),
			unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, 0, 0)
		switch errno {
		case 0:
			sent += int(n)
		case unix.EINTR:
		case unix.EAGAIN:
			l.out = l.out[:copy(l.out, l.out[sent:])]
			return goesOn
		default:
			return closes
		}
	}
	l.out = l.out[:0]
	return stays
}

// handOn makes a conversation of a connection.
func (l *streamLoop) handOn(c *stream, unread []byte) {
	if c.watched {
		unix.EpollCtl(l.epoll, unix.EPOLL_CTL_DEL, c.fd, &unix.EpollEvent{}) // the descriptor stays open
	}
	d := l.listener.adopt(&handedConn{os.NewFile(uintptr(c.fd), "tcp"), l.listener.Addr(), net.TCPAddrFromAddrPort(c.client)}, c.place)
	begun := conversationBegun{queries: c.queries, timeout: c.deadline.Sub(l.now)}
	l.forget(c)
	if max(len(unread), len(l.out)) > firstRead {
		if laden.lags() {
			d.Close()
			return
		}
		begun.load = laden.enter(hostOf(d.RemoteAddr()), d)
	}
	begun.unread, begun.pending = bytes.Clone(unread), bytes.Clone(l.out)
	s := l.server
	s.open.Go(func() {
		defer d.Close()
		s.converse(d, begun)
	})
}

// handedConn is a connection that a loop has handed on. Package net would want a descriptor of its own, which may not be there, and ask
// for the addresses once more.
type handedConn struct {
	*os.File      // not blocking, so it has deadlines
	local, remote net.Addr
}

// LocalAddr implements net.Conn.
func (c *handedConn) LocalAddr() net.Addr { return c.local }

// RemoteAddr implements net.Conn.
func (c *handedConn) RemoteAddr() net.Addr { return c.remote }
