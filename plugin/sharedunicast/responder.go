package sharedunicast

import (
	"crypto/tls"
	"errors"
	"net"

	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/query"
)

// responder is a message on its way through the chain: the dns.ResponseWriter behind all others. Whatever a plugin has made
// of the response, it leaves with the OPT record that is decided here, with all names compressed, and without flags that
// an authoritative server does not set.
type responder struct {
	out           dns.Writer // writes a message
	local, remote net.Addr
	tls           func() tls.ConnectionState // nil without TLS

	request  *dns.Msg
	edns     bool
	do       bool
	limit    int // octets of a response
	tsig     tsigState
	closed   bool
	hijacked bool
}

// tsigState is what has to be known of a request's signature (RFC 8945).
type tsigState struct {
	secret, mac string
	status      error
	timersOnly  bool
}

// begin takes note of what the response hangs on: plugins may change the request.
func (x *responder) begin(b []byte, r *dns.Msg, secrets map[string]string) {
	x.request, x.limit = r, dns.MaxMsgSize
	size := uint16(0)
	if opt := r.IsEdns0(); opt != nil {
		x.edns, x.do, size = true, opt.Do(), opt.UDPSize()
	}
	if isDatagram(x.remote) {
		x.limit = int(max(size, dns.MinMsgSize))
	}
	if t := r.IsTsig(); t != nil {
		secret, known := secrets[dns.CanonicalName(t.Hdr.Name)]
		x.tsig = tsigState{secret: secret, mac: t.MAC, status: dns.ErrSecret}
		if known {
			x.tsig.status = dns.TsigVerify(b, secret, "", false)
		}
	}
}

// room is how many octets the OPT record of the response may take, of which so many are for NSID (RFC 5001) if it is asked
// for.
func (x *responder) room(nsid int) int {
	if !x.edns {
		return 0
	}
	n := optHead
	for _, o := range x.request.IsEdns0().Option {
		if o.Option() == dns.EDNS0NSID {
			return n + nsid
		}
	}
	return n
}

// WriteMsg implements dns.ResponseWriter.
func (x *responder) WriteMsg(m *dns.Msg) error {
	m = x.finish(m)
	signed := m.IsTsig() != nil
	if !signed && m.Len() > x.limit {
		m.Truncate(x.limit)
		m.Compress = true
	}
	var wire []byte
	var err error
	if signed {
		wire, x.tsig.mac, err = dns.TsigGenerate(m, x.tsig.secret, x.tsig.mac, x.tsig.timersOnly)
	} else {
		wire, err = m.Pack()
	}
	if err != nil {
		return err
	}
	_, err = x.Write(wire)
	return err
}

// finish makes of what a plugin has written what is to be sent. The message may be shared: it is not changed.
func (x *responder) finish(m *dns.Msg) *dns.Msg {
	c := *m
	c.Compress = true
	c.RecursionAvailable, c.AuthenticatedData, c.CheckingDisabled, c.Zero = false, false, false, false
	c.Extra = make([]dns.RR, 0, len(m.Extra)+1)
	var options []byte
	var tsig dns.RR
	for _, rr := range m.Extra {
		switch rr := rr.(type) {
		case *dns.OPT:
			options = optionsOf(rr)
		case *dns.TSIG:
			tsig = rr
		default:
			c.Extra = append(c.Extra, rr)
		}
	}
	if x.edns {
		if opt, _, err := dns.UnpackRR(query.AppendOPT(nil, m.Rcode, x.do, options), 0); err == nil {
			c.Extra = append(c.Extra, opt)
		}
	}
	if tsig != nil {
		c.Extra = append(c.Extra, tsig) // it is the last one, and signs all before it (RFC 8945 5.1)
	}
	return &c
}

// optionsOf are the options of an OPT record in wire format: those that plugins have put there.
func optionsOf(opt *dns.OPT) []byte {
	if len(opt.Option) == 0 {
		return nil
	}
	only := &dns.OPT{Hdr: dns.RR_Header{Name: ".", Rrtype: dns.TypeOPT}, Option: opt.Option}
	wire := make([]byte, dns.Len(only)+64)
	end, err := dns.PackRR(only, wire, 0, nil, false)
	if err != nil {
		return nil
	}
	return wire[optHead:end]
}

const optHead = 11 // octets of an OPT record before its options

// Write implements dns.ResponseWriter.
func (x *responder) Write(b []byte) (int, error) {
	if x.closed {
		return 0, errors.New("the connection is closed")
	}
	return x.out.Write(b)
}

// Close implements dns.ResponseWriter: whoever reads the connection closes it.
func (x *responder) Close() error { x.closed = true; return nil }

// LocalAddr implements dns.ResponseWriter.
func (x *responder) LocalAddr() net.Addr { return x.local }

// RemoteAddr implements dns.ResponseWriter.
func (x *responder) RemoteAddr() net.Addr { return x.remote }

// TsigStatus implements dns.ResponseWriter.
func (x *responder) TsigStatus() error { return x.tsig.status }

// TsigTimersOnly implements dns.ResponseWriter.
func (x *responder) TsigTimersOnly(b bool) { x.tsig.timersOnly = b }

// Hijack implements dns.ResponseWriter.
func (x *responder) Hijack() { x.hijacked = true }

// ConnectionState implements dns.ConnectionStater.
func (x *responder) ConnectionState() *tls.ConnectionState {
	if x.tls == nil {
		return nil
	}
	state := x.tls()
	return &state
}
