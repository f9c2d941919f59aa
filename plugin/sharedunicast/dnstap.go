package sharedunicast

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coredns/caddy"
	tap "github.com/dnstap/golang-dnstap"
	"github.com/farsightsec/golang-framestream"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/proto"
)

// tapper tells a dnstap collector of queries and their responses (AUTH_QUERY, AUTH_RESPONSE), whichever path they took. Whoever
// answers never waits for it: what finds no room in its queue is dropped and counted.
type tapper struct {
	network, address string
	sample           uint32
	identity         []byte
	dropped          prometheus.Counter

	seen    atomic.Uint32
	waiting atomic.Int64 // octets in the queue
	queue   chan *tapped
	spare   sync.Pool // of *tapped
	stop    chan struct{}
	stopped sync.Once
	done    chan struct{}
}

// tapped is a query and its response, or the query alone.
type tapped struct {
	client, server  netip.AddrPort
	stream          bool
	asked, answered time.Time
	query, response []byte
}

const (
	tapQueue   = 8192            // exchanges that wait to be sent,
	tapOctets  = 16 << 20        // and octets of them
	tapKept    = 4096            // octets of an exchange for which memory is kept
	tapFlush   = time.Second     // after which what was written is sent
	tapRetry   = time.Second     // after which a collector that was not there is tried again
	tapTimeout = 5 * time.Second // for the collector to take something
)

// newTapper begins to send to a collector, which may come later.
func newTapper(s settings, address string) *tapper {
	network, target, _ := strings.Cut(s.tap, "://")
	t := &tapper{network: network, address: target, sample: uint32(s.tapSample), identity: []byte(s.tapIdentity),
		dropped: tapDropped.WithLabelValues(address), queue: make(chan *tapped, tapQueue), stop: make(chan struct{}), done: make(chan struct{})}
	if s.tapIdentity == "" {
		name, _ := os.Hostname()
		t.identity = []byte(name)
	}
	t.spare.New = func() any { return new(tapped) }
	go t.run()
	return t
}

// tell takes note of an exchange. No response means that none was sent.
func (t *tapper) tell(client, server netip.AddrPort, stream bool, asked time.Time, query, response []byte) {
	if t.sample > 1 && t.seen.Add(1)%t.sample != 0 {
		return
	}
	size := int64(len(query) + len(response))
	if t.waiting.Add(size) > tapOctets {
		t.waiting.Add(-size)
		t.dropped.Inc()
		return
	}
	e := t.spare.Get().(*tapped)
	e.client, e.server, e.stream, e.asked, e.answered = client, server, stream, asked, time.Now()
	e.query, e.response = append(e.query[:0], query...), append(e.response[:0], response...)
	select {
	case t.queue <- e:
	default:
		t.dropped.Inc()
		t.release(e)
	}
}

// release is for what is not in the queue any more.
func (t *tapper) release(e *tapped) {
	t.waiting.Add(-int64(len(e.query) + len(e.response)))
	if cap(e.query)+cap(e.response) <= tapKept {
		t.spare.Put(e)
	}
}

// close sends what is left, as far as the collector takes it within a second.
func (t *tapper) close() {
	t.stopped.Do(func() { close(t.stop) })
	select {
	case <-t.done:
	case <-time.After(time.Second):
	}
}

// run keeps a connection to the collector.
func (t *tapper) run() {
	defer close(t.done)
	said := ""
	for {
		conn, err := net.DialTimeout(t.network, t.address, tapTimeout)
		if err == nil {
			err = t.send(&tapConn{conn})
			conn.Close()
			if err == nil {
				return
			}
		}
		if err.Error() != said {
			said = err.Error()
			logger.Warningf("dnstap: %s://%s: %v", t.network, t.address, err)
		}
		select {
		case <-t.stop:
			return
		case <-time.After(tapRetry):
		}
	}
}

// tapConn is a connection to a collector that must not take for ever.
type tapConn struct{ net.Conn }

// Write implements io.Writer.
func (c *tapConn) Write(b []byte) (int, error) {
	if err := c.SetWriteDeadline(time.Now().Add(tapTimeout)); err != nil {
		return 0, err
	}
	return c.Conn.Write(b)
}

// send sends until the connection breaks, or returns nil when the tapper is closed.
func (t *tapper) send(conn net.Conn) error {
	conn.SetReadDeadline(time.Now().Add(tapTimeout)) // for the handshake
	enc, err := framestream.NewEncoder(conn, &framestream.EncoderOptions{ContentType: []byte("protobuf:dnstap.Dnstap"), Bidirectional: true, Timeout: tapTimeout})
	if err != nil {
		return err
	}
	flush := time.NewTicker(tapFlush)
	defer flush.Stop()
	for {
		select {
		case e := <-t.queue:
			err = t.write(enc, e)
		case <-flush.C:
			err = enc.Flush()
		case <-t.stop:
			for len(t.queue) > 0 && err == nil {
				err = t.write(enc, <-t.queue)
			}
			if err == nil {
				enc.Flush()
				enc.Close()
			}
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// write writes the messages of an exchange.
func (t *tapper) write(enc *framestream.Encoder, e *tapped) error {
	defer t.release(e)
	query := t.message(e, tap.Message_AUTH_QUERY)
	query.QueryMessage = e.query
	if err := t.frame(enc, query); err != nil || len(e.response) == 0 {
		return err
	}
	response := t.message(e, tap.Message_AUTH_RESPONSE)
	response.ResponseMessage = e.response
	response.ResponseTimeSec, response.ResponseTimeNsec = timeOf(e.answered)
	return t.frame(enc, response)
}

func (t *tapper) frame(enc *framestream.Encoder, m *tap.Message) error {
	kind := tap.Dnstap_MESSAGE
	frame, err := proto.Marshal(&tap.Dnstap{Type: &kind, Message: m, Identity: t.identity, Version: []byte(caddy.AppName + "-" + caddy.AppVersion)})
	if err != nil {
		return err
	}
	_, err = enc.Write(frame)
	return err
}

// message has what both messages of an exchange say.
func (t *tapper) message(e *tapped, kind tap.Message_Type) *tap.Message {
	family, protocol := tap.SocketFamily_INET6, tap.SocketProtocol_UDP
	if e.client.Addr().Is4() {
		family = tap.SocketFamily_INET
	}
	if e.stream {
		protocol = tap.SocketProtocol_TCP
	}
	clientPort, serverPort := uint32(e.client.Port()), uint32(e.server.Port())
	m := &tap.Message{Type: &kind, SocketFamily: &family, SocketProtocol: &protocol, QueryAddress: e.client.Addr().AsSlice(), QueryPort: &clientPort,
		ResponseAddress: e.server.Addr().AsSlice(), ResponsePort: &serverPort}
	m.QueryTimeSec, m.QueryTimeNsec = timeOf(e.asked)
	return m
}

func timeOf(t time.Time) (*uint64, *uint32) {
	seconds, nanoseconds := uint64(t.Unix()), uint32(t.Nanosecond())
	return &seconds, &nanoseconds
}

// parseTap reads unix:///PATH or tcp://ADDRESS:PORT, then perhaps `sample N` and `identity NAME`.
func (s *settings) parseTap(args []string) error {
	if len(args) == 0 || len(args)%2 == 0 {
		return fmt.Errorf("wants: unix:///PATH or tcp://ADDRESS:PORT, then perhaps 'sample N' and 'identity NAME'")
	}
	network, target, _ := strings.Cut(args[0], "://")
	if _, err := netip.ParseAddrPort(target); network != "unix" && (network != "tcp" || err != nil) || target == "" {
		return fmt.Errorf("'%s' is neither unix:///PATH nor tcp://ADDRESS:PORT", args[0])
	}
	s.tap, s.tapSample = args[0], 1
	for i := 1; i < len(args); i += 2 {
		switch args[i] {
		case "sample":
			n, err := number(args[i+1], 1, 1_000_000)
			if err != nil {
				return fmt.Errorf("sample: %w", err)
			}
			s.tapSample = n
		case "identity":
			s.tapIdentity = args[i+1]
		default:
			return fmt.Errorf("'%s': there are sample and identity", args[i])
		}
	}
	return nil
}
