package admin

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"slices"
	"sync"

	"github.com/coredns-anycast/coredns-anycast/internal/identity"
)

// Bounds of what is open at once on one listener. A scrape and a distribution host need a handful.
const (
	maxStrangers = 64 // who did not show a certificate that may do anything here
	maxKnown     = 64 // who did
	maxOfOne     = 8  // with one certificate's key
)

// limits is a listener that lets everybody in, and shows out who has been there longest when there are too many of a kind.
// So a flood takes its share and no more, and keeps nobody waiting: who has something to say needs a few milliseconds to
// become known, and is then safe from strangers.
type limits struct {
	net.Listener

	mu        sync.Mutex
	strangers []*guest // the oldest first
	known     []*guest // the same
}

// guest is a connection.
type guest struct {
	net.Conn
	limits *limits
	key    string // of whom; empty for a stranger
}

func (l *limits) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	g := &guest{Conn: conn, limits: l}
	l.mu.Lock()
	l.strangers = append(l.strangers, g)
	out := oldest(l.strangers, maxStrangers)
	l.mu.Unlock()
	out.leave()
	return g, nil
}

// meet makes a stranger known.
func (l *limits) meet(conn net.Conn, c *x509.Certificate) {
	g, ok := conn.(*guest)
	if !ok || !slices.Contains(readers, identity.RoleOf(c)) {
		return
	}
	pin := identity.PinOf(c)
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
	out := oldest(same, maxOfOne)
	if out == nil {
		out = oldest(l.known, maxKnown)
	}
	l.mu.Unlock()
	out.leave()
}

// oldest is who must go for there to be no more than most.
func oldest(all []*guest, most int) *guest {
	if len(all) <= most {
		return nil
	}
	return all[0]
}

func (g *guest) leave() {
	if g != nil {
		g.Close()
	}
}

// Close is called by whoever is done with the connection, and as often as they like.
func (g *guest) Close() error {
	l := g.limits
	l.mu.Lock()
	is := func(other *guest) bool { return other == g }
	l.strangers, l.known = slices.DeleteFunc(l.strangers, is), slices.DeleteFunc(l.known, is)
	l.mu.Unlock()
	return g.Conn.Close()
}

// overTLS is the listener with a server's configuration, which tells of each client whose certificate is right.
func (l *limits) overTLS(config *tls.Config) net.Listener {
	next := config.GetConfigForClient
	config.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		c, err := next(hello)
		if err != nil {
			return nil, err
		}
		verify := c.VerifyConnection
		c.VerifyConnection = func(s tls.ConnectionState) error {
			err := verify(s)
			if err == nil {
				l.meet(hello.Conn, s.PeerCertificates[0])
			}
			return err
		}
		return c, nil
	}
	return tls.NewListener(l, config)
}
