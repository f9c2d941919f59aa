package sharedunicast

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"time"

	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/plugin/pkg/transport"
	"github.com/miekg/dns"
)

// The core's own loops read no more than 512 octets of a query by UDP, tell the client its own payload size as if it were
// the server's, and answer SERVFAIL to a message whose header promises a question that is not there. So these loops are
// ours; the core gets each query as it would from its own.

const (
	readUDP      = 4096            // octets of a query by UDP that are read
	payloadSize  = 1232            // octets of a message by UDP that we say we take (RFC 6891 6.2.3)
	graceTimeout = 5 * time.Second // that a loop may take to end, as in the core
)

// Serve implements caddy.TCPServer.
func (s *server) Serve(net.Listener) error {
	core := s.core()
	loop := &dns.Server{Net: "tcp", Listener: s.listener, MaxTCPQueries: core.MaxTCPQueries, ReadTimeout: core.ReadTimeout,
		WriteTimeout: core.WriteTimeout, IdleTimeout: func() time.Duration { return core.IdleTimeout }}
	if s.group.transport == transport.TLS {
		loop.Net, loop.Listener = "tcp-tls", tls.NewListener(s.listener, s.group.configs[0].TLSConfig.Clone())
	}
	return s.run(loop)
}

// ServePacket implements caddy.UDPServer.
func (s *server) ServePacket(net.PacketConn) error {
	if s.packet == nil {
		return nil
	}
	loop := &dns.Server{Net: "udp", PacketConn: struct{ net.PacketConn }{s.packet}, UDPSize: readUDP}
	for _, c := range s.group.configs {
		if c.UDPDecorateWriterFunc != nil {
			loop.DecorateWriter = c.UDPDecorateWriterFunc(s.core())
		}
	}
	return s.run(loop)
}

// core is the core's server that answers.
func (s *server) core() *dnsserver.Server {
	if s, ok := s.coreServer.(*dnsserver.ServerTLS); ok {
		return s.Server
	}
	return s.coreServer.(*dnsserver.Server)
}

// run reads queries until the server stops.
func (s *server) run(loop *dns.Server) error {
	loop.TsigSecret, loop.Handler = s.core().TsigSecret, dns.HandlerFunc(s.handle)
	started := make(chan struct{})
	loop.NotifyStartedFunc = func() { close(started) }
	ended := make(chan error, 1)
	go func() { ended <- loop.ActivateAndServe() }()
	select {
	case <-started:
	case err := <-ended:
		return err
	}
	s.mu.Lock()
	s.loops = append(s.loops, loop)
	stopped := s.stopped
	s.mu.Unlock()
	if stopped {
		return shutdown(loop)
	}
	return <-ended
}

// stopLoops ends what run began.
func (s *server) stopLoops() error {
	s.mu.Lock()
	s.stopped = true
	loops := s.loops
	s.mu.Unlock()
	errs := make(chan error, len(loops))
	for _, loop := range loops {
		go func() { errs <- shutdown(loop) }()
	}
	var err error
	for range loops {
		err = errors.Join(err, <-errs)
	}
	return err
}

func shutdown(loop *dns.Server) error {
	ctx, cancel := context.WithTimeout(context.Background(), graceTimeout)
	defer cancel()
	return loop.ShutdownContext(ctx)
}

// handle hands a query to the core.
func (s *server) handle(w dns.ResponseWriter, r *dns.Msg) {
	if len(r.Question) == 0 {
		_ = w.WriteMsg(new(dns.Msg).SetRcodeFormatError(r)) // the client is told what it can be
		return
	}
	ctx := context.WithValue(context.Background(), dnsserver.Key{}, s.core())
	ctx = context.WithValue(ctx, dnsserver.LoopKey{}, 0)
	s.core().ServeDNS(ctx, optWriter{w}, r)
}

// optWriter gives responses the server's payload size, where the core has put the client's, and compresses all names. The
// core leaves that undone where the client would take more, and so sends more over UDP than the answer was made for.
type optWriter struct{ dns.ResponseWriter }

// WriteMsg implements dns.ResponseWriter.
func (w optWriter) WriteMsg(m *dns.Msg) error {
	if opt := m.IsEdns0(); opt != nil {
		opt.SetUDPSize(payloadSize)
	}
	m.Compress = true
	return w.ResponseWriter.WriteMsg(m)
}

// ConnectionState implements dns.ConnectionStater, which embedding the writer hides.
func (w optWriter) ConnectionState() *tls.ConnectionState {
	if conn, ok := w.ResponseWriter.(dns.ConnectionStater); ok {
		return conn.ConnectionState()
	}
	return nil
}
