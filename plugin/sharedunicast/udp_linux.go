package sharedunicast

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/coredns-anycast/coredns-anycast/internal/query"
)

const (
	batch  = 64            // messages that are read, and responses that are sent, by one system call
	stride = readUDP + 192 // so that the messages of a batch do not all want the same place in the processor's cache
)

// mmsghdr is struct mmsghdr of recvmmsg(2).
type mmsghdr struct {
	unix.Msghdr
	size uint32
}

// udpLoop reads a UDP socket in a thread of its own. It answers at once what it can, and hands the rest to its crew. Without a fast path
// there is a leader, and no thread of its own.
type udpLoop struct {
	front  *front
	conn   *udpSocket
	stop   *waker
	crew   *crew
	handed [batch]int  // messages of the batch that it is to get
	hands  int         // how many these are
	lead   *leader     // without a fast path
	over   func(error) // is called at the end

	traffic *traffic // nil without statistics
	address string   // as metrics have it
	socket  int

	fd      int
	server  netip.AddrPort
	query   query.Query
	fast    fast
	counter counter
	in      [batch]mmsghdr
	inIO    [batch]unix.Iovec
	names   [batch]unix.RawSockaddrInet6
	data    [batch][stride]byte

	out     [batch]mmsghdr
	outIO   [batch]unix.Iovec
	pending int                                   // responses in out
	space   [batch*query.PayloadSize + 1<<16]byte // with room for what is written beyond a limit, and taken back
	used    int                                   // octets of space
}

// crewWait is after how many milliseconds a loop sees whether what it has handed on is stuck.
const crewWait = 2

const hasFastPath = true

// udpSockets is how many UDP sockets an address has, each with a thread: as many as can run.
func udpSockets() int { return baseProcs() }

// run reads until the server stops.
func (l *udpLoop) run() {
	for i := range l.in {
		l.inIO[i].Base = &l.data[i][0]
		l.inIO[i].SetLen(readUDP)
		l.in[i].Iov, l.in[i].Name = &l.inIO[i], (*byte)(unsafe.Pointer(&l.names[i]))
		l.in[i].SetIovlen(1)
		l.out[i].Iov = &l.outIO[i]
		l.out[i].SetIovlen(1)
	}
	l.counter = newCounter(ledgerOf(l.address, "udp", l.conn.local, l.socket))
	l.fd, l.server = l.conn.fd, l.conn.local.AddrPort()
	if !l.crew.shed {
		l.lead = newLeader(l.crew, l.leading)
		l.leading()
		return
	}
	ownThread()
	l.over(l.read(nil))
}

// leading reads until the server stops, or another goroutine does that in its place.
func (l *udpLoop) leading() {
	box := &outbox{conn: l.conn}
	if err := l.read(box); err != errReplaced {
		l.over(err)
		return
	}
	l.lead.join(box)
}

var errReplaced = errors.New("another goroutine reads")

// read is run and leading: with an outbox the latter.
func (l *udpLoop) read(box *outbox) error {
	wait := []unix.PollFd{{Fd: int32(l.fd), Events: unix.POLLIN}, {Fd: int32(l.stop.fd), Events: unix.POLLIN}}
	for {
		n, errno := l.receive()
		switch {
		case n > 0:
			l.answer(n)
			if l.handOn() {
				if box != nil && !l.lead.answer(box) {
					return errReplaced
				}
				l.crew.call(time.Now())
			}
			if n == batch && !l.stop.called.Load() {
				continue // there may be more
			}
		case errno == unix.EAGAIN || errno == unix.EINTR:
		default:
			// What a client's host said of a response, say: it is not this socket's end.
			if errno == unix.EBADF || errno == unix.ENOTSOCK {
				return errno
			}
		}
		if l.stop.called.Load() {
			return nil
		}
		timeout := -1
		if l.crew.call(time.Now()) {
			timeout = crewWait
		}
		if _, err := unix.Poll(wait, timeout); err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
		if wait[1].Revents != 0 {
			return nil
		}
	}
}

// receive reads what is there, up to a batch.
func (l *udpLoop) receive() (int, unix.Errno) {
	for i := range l.in {
		l.in[i].Namelen = unix.SizeofSockaddrInet6
	}
	n, _, errno := unix.RawSyscall6(unix.SYS_RECVMMSG, uintptr(l.fd), uintptr(unsafe.Pointer(&l.in[0])), batch, unix.MSG_DONTWAIT, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), 0
}

// answer answers a batch, or hands it on.
func (l *udpLoop) answer(n int) {
	began := time.Now()
	l.fast.asked.now = began
	l.counter.ledger.mu.Lock()
	if l.traffic != nil {
		l.traffic.mu.Lock()
	}
	for i := range n {
		if l.names[i].Port != 0 { // nobody can be answered there
			l.message(i, l.data[i][:l.in[i].size])
		}
	}
	l.counter.took(began)
	l.counter.ledger.mu.Unlock()
	if l.traffic != nil {
		l.traffic.mu.Unlock()
	}
	l.send()
}

// message answers message i of the batch, or hands it on.
func (l *udpLoop) message(i int, b []byte) {
	defer recovered(l.address)
	v := l.query.Parse(b)
	if v == query.Ignore {
		return
	}
	if l.traffic != nil {
		l.traffic.counts.Query(len(b), address(&l.names[i]))
	}
	to := l.space[l.used:l.used]
	if v == query.Plain {
		if s := l.front.zones.find(&l.query); s != nil && s.backend != nil {
			l.fast.asked.client = address(&l.names[i])
			response, what := l.fast.respond(to, &l.query, s, l.front.guard, s.udpLimit(&l.query))
			switch what {
			case answered:
				if s.counted {
					l.counter.count(s, &l.query, &l.fast, len(b), len(response))
				}
				l.tell(i, b, response)
				l.reply(i, response, l.fast.rcode)
				return
			case limited:
				l.tell(i, b, nil)
				return
			case silenced:
				l.front.silenced.Inc()
				return
			}
		}
	}
	if l.front.silent() {
		l.front.silenced.Inc()
		return
	}
	if v == query.Unusual || v == query.Plain {
		l.handed[l.hands] = i
		l.hands++
		return
	}
	a := asked{client: address(&l.names[i]), now: l.fast.asked.now}
	response := l.front.bare(to, &l.query, v, &a)
	l.tell(i, b, response)
	if len(response) > 0 {
		l.reply(i, response, rcodeOf(response))
	}
}

// handOn hands to the crew what is for it, and reports whether there was something. Where that has to wait for room nobody else does: no
// lock is held.
func (l *udpLoop) handOn() bool {
	for _, i := range l.handed[:l.hands] {
		l.crew.take(l.data[i][:l.in[i].size], addrPort(&l.names[i]))
	}
	some := l.hands > 0
	l.hands = 0
	return some
}

// tell tells a dnstap collector of message i of the batch, if there is one.
func (l *udpLoop) tell(i int, b, response []byte) {
	if t := l.front.guard.tapper; t != nil {
		t.tell(addrPort(&l.names[i]), l.server, false, l.fast.asked.now, b, response)
	}
}

// reply has a response sent to whoever sent message i of the batch. It has been written where space is free, or did not
// find room there on its way.
func (l *udpLoop) reply(i int, response []byte, rcode int) {
	if l.traffic != nil {
		l.traffic.counts.Response(len(response), rcode)
	}
	if &response[0] != &l.space[l.used] {
		copy(l.space[l.used:], response)
	}
	l.outIO[l.pending].Base = &l.space[l.used]
	l.outIO[l.pending].SetLen(len(response))
	l.out[l.pending].Name, l.out[l.pending].Namelen = l.in[i].Name, l.in[i].Namelen
	l.pending++
	l.used += len(response)
}

// send sends what is pending.
func (l *udpLoop) send() {
	sendAll(l.fd, l.out[:l.pending])
	l.pending, l.used = 0, 0
}

// sendAll sends messages. Those for which there is no room for a while, and those to whom nobody can send, are lost.
func sendAll(fd int, out []mmsghdr) {
	waited := false
	for len(out) > 0 {
		n, _, errno := unix.RawSyscall6(unix.SYS_SENDMMSG, uintptr(fd), uintptr(unsafe.Pointer(&out[0])), uintptr(len(out)), unix.MSG_DONTWAIT, 0, 0)
		switch {
		case errno == 0:
			out = out[n:]
		case errno == unix.EINTR:
		case errno == unix.EAGAIN && !waited:
			waited = true
			unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}, sendWait)
		case errno == unix.EAGAIN:
			return
		default:
			out = out[1:] // this client cannot be reached
		}
	}
}

// outbox collects responses of the chain, to send them by one system call. A timer sends what nobody else has sent after a while, since whoever
// collects may be held up in the chain, by the message that was answered or by the next one.
type outbox struct {
	mu      sync.Mutex
	conn    *udpSocket
	pending int
	used    int // octets of space
	timer   *time.Timer
	due     bool // the timer will send what is pending
	out     [outboxSize]mmsghdr
	io      [outboxSize]unix.Iovec
	names   [outboxSize]unix.RawSockaddrInet6
	space   [outboxSize * query.PayloadSize]byte
}

const outboxSize = 16

// add takes a response, if it can. The caller holds mu.
func (o *outbox) add(b []byte, to netip.AddrPort) bool {
	if len(b) == 0 || len(b) > len(o.space) || to.Addr().Zone() != "" {
		return false
	}
	if o.pending == outboxSize || len(b) > len(o.space)-o.used {
		o.send()
	}
	i := o.pending
	o.io[i].Base = &o.space[o.used]
	o.io[i].SetLen(len(b))
	o.used += copy(o.space[o.used:], b)
	o.out[i] = mmsghdr{Msghdr: unix.Msghdr{Name: (*byte)(unsafe.Pointer(&o.names[i])), Namelen: setAddress(&o.names[i], to), Iov: &o.io[i]}}
	o.out[i].SetIovlen(1)
	o.pending++
	o.soon()
	return true
}

// soon has what is pending sent by the timer. The caller holds mu.
func (o *outbox) soon() {
	switch {
	case o.due:
		return
	case o.timer == nil:
		o.timer = time.AfterFunc(quick, o.timeout)
	default:
		o.timer.Reset(quick)
	}
	o.due = true
}

func (o *outbox) timeout() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.due = false
	o.send()
}

func (o *outbox) flush() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.send()
}

// send is flush with mu held.
func (o *outbox) send() {
	if o.pending == 0 {
		return
	}
	sendAll(o.conn.fd, o.out[:o.pending])
	o.pending, o.used = 0, 0
}

// setAddress writes a socket address as the kernel has it, and returns its length.
func setAddress(raw *unix.RawSockaddrInet6, to netip.AddrPort) uint32 {
	port := binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, to.Port()))
	if to.Addr().Is4() {
		*(*unix.RawSockaddrInet4)(unsafe.Pointer(raw)) = unix.RawSockaddrInet4{Family: unix.AF_INET, Port: port, Addr: to.Addr().As4()}
		return unix.SizeofSockaddrInet4
	}
	*raw = unix.RawSockaddrInet6{Family: unix.AF_INET6, Port: port, Addr: to.Addr().As16()}
	return unix.SizeofSockaddrInet6
}

// address is the address of a socket address as the kernel has it, without a zone.
func address(raw *unix.RawSockaddrInet6) netip.Addr {
	if raw.Family == unix.AF_INET {
		return netip.AddrFrom4((*unix.RawSockaddrInet4)(unsafe.Pointer(raw)).Addr)
	}
	return netip.AddrFrom16(raw.Addr)
}

// addrPort is a socket address as the kernel has it.
func addrPort(raw *unix.RawSockaddrInet6) netip.AddrPort {
	addr := address(raw)
	if raw.Family == unix.AF_INET6 && raw.Scope_id != 0 {
		addr = addr.WithZone(zoneName(raw.Scope_id))
	}
	return netip.AddrPortFrom(addr, binary.BigEndian.Uint16((*[2]byte)(unsafe.Pointer(&raw.Port))[:]))
}

// zoneName is the interface that a link-local client is at.
func zoneName(index uint32) string {
	if i, err := net.InterfaceByIndex(int(index)); err == nil {
		return i.Name
	}
	return ""
}
