package identity

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// Places bounds what is open at once on one listener. It lets everybody in, and shows somebody out when there are too many
// of a kind. So a flood takes its share and no more, and keeps nobody waiting: who has something to say needs a few round
// trips to become known, and is then safe from strangers.
//
// Known is who finished a handshake with a certificate that may do something: whoever has merely seen such a certificate
// cannot. The places of strangers are shared by address, so that a flood from one network shows out its own, and who is far
// away and needs long for a handshake stays. When there are too many of the known, one goes of whose there are most.
type Places struct {
	Strangers int                          // who is not known
	Known     int                          // who is
	OfOne     int                          // with one certificate's key
	More      func() int                   // more places now, for strangers and for the known each; nil: none
	Handshake time.Duration                // that one may take
	Tell      bool                         // handshakes that fail are named in the log, whatever they fail of
	May       func(*x509.Certificate) bool // whose certificate makes a client known; nil: every one that is right
}

// Plain is l within p, where all are strangers.
func (p Places) Plain(l net.Listener) net.Listener { return &places{Listener: l, Places: p} }

// TLS is l within p, of connections whose handshake as this identity is over. Certificates that are refused are named in the
// log, a few of them in a while.
func (p Places) TLS(l net.Listener, own *Identity, log *slog.Logger) net.Listener {
	quiet := &Quiet{Log: log}
	d := &door{places: &places{Listener: l, Places: p}, log: quiet, config: own.server(quiet), ready: make(chan net.Conn), closed: make(chan struct{})}
	go d.receive()
	return d
}

// places are those of one listener.
type places struct {
	net.Listener
	Places

	mu        sync.Mutex
	strangers []*guest // the oldest first
	known     []*guest // the same
}

// guest is a connection.
type guest struct {
	net.Conn
	places  *places
	network netip.Prefix // that it comes from
	address netip.Prefix
	key     string // of whom; empty for a stranger
}

// Accept implements net.Listener.
func (l *places) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	g := &guest{Conn: conn, places: l}
	g.network, g.address = origin(conn.RemoteAddr())
	l.mu.Lock()
	l.strangers = append(l.strangers, g)
	out := tooMany(l.strangers, l.Strangers+l.more())
	l.mu.Unlock()
	out.leave()
	return g, nil
}

// more is how many places there are beside those that are fixed.
func (l *places) more() int {
	if l.More == nil {
		return 0
	}
	return l.More()
}

// origin is the network and the address that share places: what one customer of a provider usually has, and one host.
func origin(a net.Addr) (network, address netip.Prefix) {
	from, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return network, address // a unix socket
	}
	ip, many, one := from.Addr().Unmap().WithZone(""), 24, 32
	if ip.Is6() {
		many, one = 48, 64
	}
	network, _ = ip.Prefix(many)
	address, _ = ip.Prefix(one)
	return network, address
}

// tooMany is who must go for there to be no more than most: of the network that has most places, of the address there that has
// most, the oldest.
func tooMany(all []*guest, most int) *guest {
	if len(all) <= most {
		return nil
	}
	network := commonest(all, func(g *guest) netip.Prefix { return g.network })
	all = slices.DeleteFunc(slices.Clone(all), func(g *guest) bool { return g.network != network })
	return oldestOf(all, func(g *guest) netip.Prefix { return g.address })
}

// oldestOf is the oldest of those who have what most have.
func oldestOf[T comparable](all []*guest, of func(*guest) T) *guest {
	most := commonest(all, of)
	return all[slices.IndexFunc(all, func(g *guest) bool { return of(g) == most })]
}

// commonest is what most have; of several, what the oldest has.
func commonest[T comparable](all []*guest, of func(*guest) T) T {
	count := map[T]int{}
	for _, g := range all {
		count[of(g)]++
	}
	best := of(all[0])
	for _, g := range all {
		if count[of(g)] > count[best] {
			best = of(g)
		}
	}
	return best
}

// meet makes a stranger known.
func (l *places) meet(g *guest, c *x509.Certificate) {
	if l.May != nil && !l.May(c) {
		return
	}
	pin := PinOf(c)
	l.mu.Lock()
	i := slices.Index(l.strangers, g)
	if i < 0 { // has left meanwhile
		l.mu.Unlock()
		return
	}
	l.strangers = slices.Delete(l.strangers, i, i+1)
	g.key = string(pin[:])
	l.known = append(l.known, g)
	var same []*guest
	for _, k := range l.known {
		if k.key == g.key {
			same = append(same, k)
		}
	}
	var out *guest
	if len(same) > l.OfOne {
		out = same[0]
	} else if len(l.known) > l.Known+l.more() {
		out = oldestOf(l.known, func(g *guest) string { return g.key })
	}
	l.mu.Unlock()
	out.leave()
}

func (g *guest) leave() {
	if g != nil {
		g.Close()
	}
}

// Close is called by whoever is done with the connection, and as often as they like.
func (g *guest) Close() error {
	l := g.places
	l.mu.Lock()
	is := func(other *guest) bool { return other == g }
	l.strangers, l.known = slices.DeleteFunc(l.strangers, is), slices.DeleteFunc(l.known, is)
	l.mu.Unlock()
	return g.Conn.Close()
}

// door makes handshakes before it hands connections on, each in a goroutine of its own.
type door struct {
	*places
	log    *Quiet
	config *tls.Config
	ready  chan net.Conn
	once   sync.Once
	closed chan struct{}
}

// Accept implements net.Listener.
func (d *door) Accept() (net.Conn, error) {
	select {
	case conn := <-d.ready:
		return conn, nil
	case <-d.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (d *door) Close() error {
	d.once.Do(func() { close(d.closed) })
	return d.places.Close()
}

// receive lets connections in until the listener is closed. What else goes wrong, such as too many open files, passes.
func (d *door) receive() {
	for {
		conn, err := d.places.Accept()
		switch {
		case err == nil:
			go d.greet(conn.(*guest))
		case errors.Is(err, net.ErrClosed):
			d.once.Do(func() { close(d.closed) })
			return
		default:
			time.Sleep(50 * time.Millisecond)
		}
	}
}

func (d *door) greet(g *guest) {
	ctx, cancel := context.WithTimeout(context.Background(), d.Handshake)
	defer cancel()
	conn := tls.Server(g, d.config)
	if err := conn.HandshakeContext(ctx); err != nil {
		if d.Tell {
			d.log.Warn("", "TLS handshake error", "remote", g.RemoteAddr().String(), "error", err.Error())
		}
		g.Close()
		return
	}
	d.meet(g, conn.ConnectionState().PeerCertificates[0])
	select {
	case d.ready <- conn:
	case <-d.closed:
		g.Close()
	}
}

// Quiet is a log of what others make this side say. They can be many and say much, so it takes a few lines in a while of
// each, whose words it cuts short, and counts the rest.
type Quiet struct {
	Log *slog.Logger

	mu sync.Mutex
	of map[string]*window
}

// window is how much was said of one.
type window struct {
	since  time.Time
	lines  int
	untold int
}

const (
	quietWindow = 10 * time.Second
	quietLines  = 10
	quietWord   = 128  // octets of a word
	quietMost   = 1024 // of whom is counted each; of more, all together
)

// Warn writes a line about who, if it is not one too many. Strangers are all one, the empty who.
func (q *Quiet) Warn(who, message string, words ...string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	w := q.window(who)
	if now := time.Now(); now.Sub(w.since) >= quietWindow {
		w.since, w.lines = now, 0
	}
	if w.lines++; w.lines > quietLines {
		w.untold++
		return
	}
	var attrs []any
	for _, word := range words {
		attrs = append(attrs, short(word, quietWord))
	}
	if w.untold > 0 {
		attrs = append(attrs, "others before", w.untold)
	}
	w.untold = 0
	q.Log.Warn(short(message, 2*quietWord), attrs...)
}

func (q *Quiet) window(who string) *window {
	if q.of == nil {
		q.of = map[string]*window{}
	}
	if q.of[who] == nil && len(q.of) >= quietMost {
		who = ""
	}
	if q.of[who] == nil {
		q.of[who] = &window{}
	}
	return q.of[who]
}

func short(s string, most int) string {
	if len(s) > most {
		return s[:most] + "…"
	}
	return s
}
