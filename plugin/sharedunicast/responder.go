package sharedunicast

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"net"
	"sync"

	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/backend"
	"github.com/coredns-anycast/coredns-anycast/internal/query"
)

// responder is a message on its way through the chain: the dns.ResponseWriter behind all others. Whatever a plugin has made
// of the response, it leaves with the OPT record that is decided here, with all names compressed, and without flags that
// an authoritative server does not set.
type responder struct {
	out           dns.Writer // writes a message
	local, remote net.Addr
	tls           func() tls.ConnectionState // nil without TLS

	front    *front
	traffic  *traffic // of the socket
	message  []byte   // as it came
	query    *query.Query
	asked    asked
	known    backend.Request
	room     *room
	nsid     bool // the request asks for the server's name
	edns     bool
	do       bool
	limit    int // octets of a response
	tsig     tsigState
	closed   bool
	hijacked bool

	mu   sync.Mutex // held while a response is written
	over bool       // the handlers have returned: what the response is made with is used for the next message

	// What the chain is given is here as well, so that there is one piece of memory for a message. Plugins may keep any of it, so it is
	// not used again.
	request query.Message
	context messageContext
}

// tsigState is what has to be known of a request's signature (RFC 8945).
type tsigState struct {
	secret, mac string
	status      error
	timersOnly  bool
}

// begin takes note of what the response hangs on: plugins may change the request.
func (x *responder) begin(f *front, b []byte, q *query.Query, r *dns.Msg) {
	x.query, x.limit = q, dns.MaxMsgSize
	size := uint16(0)
	if opt := r.IsEdns0(); opt != nil {
		x.edns, x.do, size = true, opt.Do(), opt.UDPSize()
		for _, o := range opt.Option {
			x.nsid = x.nsid || o.Option() == dns.EDNS0NSID
		}
		f.guard.look(q, &x.asked)
		x.known.Room = optHead + f.guard.room(q, &x.asked)
		if x.nsid {
			x.known.Room += f.nsidOption(q)
		}
	}
	if !x.asked.stream {
		x.limit = int(max(size, dns.MinMsgSize))
	}
	if t := r.IsTsig(); t != nil {
		secret, known := f.core.TsigSecret[dns.CanonicalName(t.Hdr.Name)]
		x.tsig = tsigState{secret: secret, mac: t.MAC, status: dns.ErrSecret}
		if known {
			x.tsig.status = dns.TsigVerify(bytes.Clone(b), secret, "", false) // which changes what it is given
		}
	}
}

// errOver is for who writes after the handlers have returned.
var errOver = errors.New("the plugins have returned, and with them the memory that a response needs: it has to be written before")

// end says that the handlers have returned, and waits for a plugin's goroutine that writes just now.
func (x *responder) end() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.context.known.Store(nil)
	x.over = true
}

// WriteMsg implements dns.ResponseWriter.
func (x *responder) WriteMsg(m *dns.Msg) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.over {
		return errOver
	}
	return x.writeMsg(m, x.judge(m))
}

func (x *responder) writeMsg(m *dns.Msg, f fate) error {
	c := *m
	switch f {
	case withheld:
		x.tell(nil)
		return nil
	case shortened:
		c.Truncated, c.Authoritative, c.Answer, c.Ns, c.Extra = true, false, nil, nil, onlyOPT(m.Extra)
	case badCookie:
		c.Rcode, c.Authoritative, c.Answer, c.Ns, c.Extra = dns.RcodeBadCookie, false, nil, nil, onlyOPT(m.Extra)
	}
	parts := x.finish(&c)
	room := packRoom.Get().(*[packSize]byte)
	defer packRoom.Put(room)
	wire, err := x.pack(parts, room[:])
	if err != nil {
		return err
	}
	x.count(c.Rcode)
	// That the client cannot be reached any more is no plugin's business: it would be a line of the log for each message.
	x.write(wire)
	return nil
}

// count counts a response by the zone that it was made from.
func (x *responder) count(rcode int) {
	if a := x.known.Answer; a != nil && a.Zone != nil {
		chained.Lock()
		chained.count(a.Zone, rcode)
		chained.Unlock()
	}
}

const packSize = 4096 // octets of a response for which no memory has to be found

var packRoom = sync.Pool{New: func() any { return new([packSize]byte) }}

// pack makes the message that is sent. It may lie in the room that is given.
func (x *responder) pack(p finished, room []byte) (wire []byte, err error) {
	if p.tsig != nil {
		if err := p.addOPT(); err != nil {
			return nil, err
		}
		p.msg.Extra = append(p.msg.Extra, p.tsig) // it is the last one, and signs all before it (RFC 8945 5.1)
		wire, x.tsig.mac, err = dns.TsigGenerate(&p.msg, x.tsig.secret, x.tsig.mac, x.tsig.timersOnly)
		return wire, err
	}
	// To pack it and see is quicker than to find out first how long it will be. The OPT record is in wire format already.
	rcode := p.msg.Rcode
	if p.opt != nil {
		p.msg.Rcode &= 15
	}
	if wire, err = p.msg.PackBuffer(room); err != nil {
		return nil, err
	}
	if len(wire)+len(p.opt) > x.limit {
		p.msg.Rcode = rcode
		if err := p.addOPT(); err != nil {
			return nil, err
		}
		p.msg.Truncate(x.limit)
		p.msg.Compress = true
		if wire, err = p.msg.PackBuffer(room); err != nil {
			return nil, err
		}
	} else if p.opt != nil {
		wire = append(wire, p.opt...)
		binary.BigEndian.PutUint16(wire[10:], binary.BigEndian.Uint16(wire[10:])+1)
	}
	return x.front.guard.padded(wire, 0, len(p.opt), x.query, &x.asked), nil
}

// judge says what becomes of a response: of a message, or if that is nil, of the backend's answer.
func (x *responder) judge(m *dns.Msg) fate {
	g := x.front.guard
	if x.asked.stream || g.limiter == nil && !g.require {
		return sent
	}
	var k kind
	var n int
	if a := x.known.Answer; a != nil && (m == nil || a.Rcode == m.Rcode) {
		k, n = kindOf(a, x.query.Type, x.query.Name)
	} else {
		k, n = kindOfMsg(m, x.query)
	}
	return g.judge(&x.asked, k, x.query.Name[len(x.query.Name)-n:])
}

// kindOfMsg is kindOf of a message that a plugin has made. Whether a wildcard had a part in it does not show.
func kindOfMsg(m *dns.Msg, q *query.Query) (kind, int) {
	below := func(rrs []dns.RR) int {
		if len(rrs) == 0 {
			return 0
		}
		name := make([]byte, 255)
		n, err := dns.PackDomainName(rrs[0].Header().Name, name, 0, nil, false)
		if err != nil || n > len(q.Name) {
			return 0
		}
		return n
	}
	switch {
	case m.Rcode == dns.RcodeNameError:
		return kindNXDOMAIN, below(m.Ns)
	case m.Rcode != dns.RcodeSuccess || len(q.Name) == 0:
		return kindError, 0
	case !m.Authoritative && len(m.Ns) > 0:
		return kindReferral, below(m.Ns)
	case len(m.Answer) == 0:
		return kindNoData, len(q.Name)
	case q.Type == dns.TypeANY:
		return kindANY, len(q.Name)
	}
	return kindAnswer, len(q.Name)
}

func onlyOPT(rrs []dns.RR) []dns.RR {
	for _, rr := range rrs {
		if rr.Header().Rrtype == dns.TypeOPT {
			return []dns.RR{rr}
		}
	}
	return nil
}

// finished is a response as it is to be sent: the message without OPT and TSIG records, and these.
type finished struct {
	msg  dns.Msg
	opt  []byte // in wire format; nil without EDNS
	tsig dns.RR // nil if it is not signed
}

// addOPT puts the OPT record into the message.
func (p *finished) addOPT() error {
	if p.opt == nil {
		return nil
	}
	opt, _, err := dns.UnpackRR(p.opt, 0)
	if err == nil {
		p.msg.Extra = append(p.msg.Extra, opt)
	}
	return err
}

// finish makes of what a plugin has written what is to be sent. The message may be shared: it is not changed.
func (x *responder) finish(m *dns.Msg) finished {
	p := finished{msg: *m}
	p.msg.Compress = true
	p.msg.RecursionAvailable, p.msg.AuthenticatedData, p.msg.CheckingDisabled, p.msg.Zero = false, false, false, false
	p.msg.Extra = make([]dns.RR, 0, len(m.Extra)+2)
	var options []byte
	for _, rr := range m.Extra {
		switch rr := rr.(type) {
		case *dns.OPT:
			options = optionsOf(rr)
		case *dns.TSIG:
			p.tsig = rr
		default:
			p.msg.Extra = append(p.msg.Extra, rr)
		}
	}
	if x.edns {
		t := told{rcode: m.Rcode}
		if x.known.Answer != nil {
			t.zone = x.known.Answer.Zone
		}
		p.opt = query.AppendOPT(nil, m.Rcode, x.do, x.front.guard.appendOptions(options, x.query, &x.asked, t))
	}
	return p
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
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.over {
		return 0, errOver
	}
	return x.write(b)
}

// write is Write with mu held.
func (x *responder) write(b []byte) (int, error) {
	if x.closed {
		return 0, errors.New("the connection is closed")
	}
	x.tell(b)
	x.traffic.response(b)
	return x.out.Write(b)
}

// tell tells a dnstap collector of the exchange, if there is one.
func (x *responder) tell(response []byte) {
	if t := x.front.guard.tapper; t != nil {
		t.tell(addrPortOf(x.remote), addrPortOf(x.local), x.asked.stream, x.asked.now, x.message, response)
	}
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
